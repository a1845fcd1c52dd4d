/* Speed of attention: one line of JSON per run.
 *
 *   bench_attention [--table NAME] [--heads N] [--kv-heads N] [--d N] [--layers N] [--depth N] [--anchor N]
 *                   [--tokens N] [--threads N] [--runs N] [--part span|write]
 *
 * A run is one step of --tokens query tokens behind --depth tokens of context and --anchor tokens of anchor,
 * over all layers, each with its own pages (as a model has them; --layers is lowered where the pages would
 * take more than 2 GiB, and the JSON says so). --part write times the queries' and the K/V's quantisation
 * instead. The best and the median run are given. */
#include "core/arena.h"
#include "core/team.h"
#include "kernel/attention.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

typedef struct options {
    const char *table;
    size_t heads, kv_heads, d, layers, depth, anchor, tokens, threads, runs;
    bool write;
} options;

typedef struct work {
    options o;
    const fp__kernel_ops *ops;
    fp__team *team;
    fp__attn_plan *plan;
    size_t stride, pages, anchor_pages, group_bytes;
    uint8_t *pool;          // [pages][layers][kv_heads] slabs
    const uint8_t **groups; // [pages]: anchor first
    uint8_t *filled;        // [anchor_pages]
    int16_t *q16;           // [tokens][heads][stride]
    float *s_q, *x, *out, *alpha;
} work;

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *big(size_t bytes)
{
    void *p = fp__mem_alloc(bytes);
    if (!p) {
        fprintf(stderr, "%s\n", fp_error_detail());
        exit(3);
    }
    return p;
}

static void attend(void *arg, size_t thread, size_t threads)
{
    work *w = arg;
    (void)threads;
    for (size_t layer = 0; layer < w->o.layers; layer++) {
        fp__attn_run(w->plan, w->team, thread, layer, w->q16, w->s_q, w->stride, w->out, w->alpha);
        fp__team_barrier(w->team);
    }
}

static void quantise(void *arg, size_t thread, size_t threads)
{
    work *w = arg;
    const options *o = &w->o;
    size_t slab = fp__slab_bytes(o->d), begin, end;
    uint8_t bad = 0;
    fp__team_split(o->tokens, 1, thread, threads, &begin, &end);
    for (size_t layer = 0; layer < o->layers; layer++)
        for (size_t t = begin; t < end; t++) {
            w->ops->query(w->x, o->heads, o->d, w->q16 + t * o->heads * w->stride, w->stride,
                          w->s_q + t * o->heads, &bad);
            size_t at = o->depth + t;
            uint8_t *group = w->pool + (w->anchor_pages + at / 64) * w->group_bytes;
            for (size_t h = 0; h < o->kv_heads; h++)
                w->ops->kv_write(w->x, w->x + o->d, o->d, group + (layer * o->kv_heads + h) * slab, at % 64,
                                 &bad);
        }
}

static void prepare(work *w)
{
    options *o = &w->o;
    size_t slab = fp__slab_bytes(o->d), rows = o->tokens * o->heads;
    w->anchor_pages = (o->anchor + 63) / 64;
    w->pages = w->anchor_pages + (o->depth + o->tokens + 63) / 64;
    while (o->layers > 1 && w->pages * o->layers * o->kv_heads * slab > (size_t)2 << 30)
        o->layers--;
    w->group_bytes = o->layers * o->kv_heads * slab;
    w->stride = (o->d + 31) / 32 * 32;
    w->pool = big(w->pages * w->group_bytes);
    w->groups = big(w->pages * sizeof *w->groups);
    w->filled = big(w->anchor_pages + 1);
    w->q16 = big(rows * w->stride * sizeof *w->q16);
    w->s_q = big(rows * sizeof *w->s_q);
    w->x = big(o->heads * o->d * sizeof *w->x);
    w->out = big(rows * o->d * sizeof *w->out);
    w->alpha = big(rows * sizeof *w->alpha);
    uint32_t r = 1;
    for (size_t i = 0; i < w->pages * w->group_bytes; i++)
        w->pool[i] = (uint8_t)((r = r * 1664525u + 1013904223u) >> 24);
    for (size_t p = 0; p < w->pages; p++) {
        w->groups[p] = w->pool + p * w->group_bytes;
        for (size_t s = 0; s < o->layers * o->kv_heads; s++)
            for (size_t t = 0; t < 128; t++) { /* scales of 2^-7 and a bit */
                uint8_t *scale = w->pool + p * w->group_bytes + s * slab + 128 * o->d + 2 * t;
                scale[1] = 0x3c;
            }
    }
    memset(w->filled, 64, w->anchor_pages);
    for (size_t i = 0; i < rows; i++) {
        w->s_q[i] = 0x1p-18f;
        for (size_t j = 0; j < o->d; j++)
            w->q16[i * w->stride + j] = (int16_t)((int)((r = r * 1664525u + 1013904223u) >> 16) % 32512);
    }
    for (size_t j = 0; j < o->heads * o->d; j++)
        w->x[j] = (float)((r = r * 1664525u + 1013904223u) >> 16);
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void run(work *w)
{
    const options *o = &w->o;
    fp__attn_geometry geometry = {o->layers, o->heads, o->kv_heads, o->d};
    fp__attn_sequence s = {
        .tokens = o->tokens,
        .anchor = {w->groups, w->filled, w->anchor_pages, w->anchor_pages, 0},
        .context = {w->groups + w->anchor_pages, NULL, w->pages - w->anchor_pages, 0, o->depth}};
    double *times = big(o->runs * sizeof *times);
    if (fp__team_create(o->threads, &w->team) != FP_OK ||
        fp__attn_plan_create(w->ops, &geometry, o->threads, o->tokens, 1, w->pages, &w->plan) != FP_OK) {
        fprintf(stderr, "%s\n", fp_error_detail());
        exit(3);
    }
    for (size_t i = 0; i < o->runs; i++) {
        double start = seconds();
        if (fp__attn_plan_step(w->plan, &s, 1) != FP_OK)
            exit(3);
        fp__team_run(w->team, o->write ? quantise : attend, w);
        times[i] = seconds() - start;
    }
    qsort(times, o->runs, sizeof *times, compare);
    double best = times[0], median = times[o->runs / 2];
    double bytes = (double)(w->pages * w->group_bytes);
    printf("{\"bench\":\"attention\",\"part\":\"%s\",\"table\":\"%s\",\"threads\":%zu,\"layers\":%zu,"
           "\"heads\":%zu,"
           "\"kv_heads\":%zu,\"d\":%zu,\"depth\":%zu,\"anchor\":%zu,\"tokens\":%zu,\"best_us\":%.1f,"
           "\"median_us\":%.1f,\"best_us_per_token\":%.2f,\"kv_mb\":%.1f,\"kv_gb_per_s\":%.1f}\n",
           o->write ? "write" : "span", w->ops->name, o->threads, o->layers, o->heads, o->kv_heads, o->d,
           o->depth, o->anchor, o->tokens, best * 1e6, median * 1e6, best * 1e6 / (double)o->tokens,
           bytes / 1e6, bytes / best / 1e9);
    fp__attn_plan_destroy(w->plan);
    fp__team_destroy(w->team);
}

static int usage(void)
{
    fprintf(stderr, "usage: bench_attention [--table NAME] [--heads N] [--kv-heads N] [--d N] [--layers N] "
                    "[--depth N] [--anchor N] [--tokens N] [--threads N] [--runs N] [--part span|write]\n");
    return 2;
}

int main(int argc, char **argv)
{
    work w = {.o = {.heads = 9,
                    .kv_heads = 3,
                    .d = 64,
                    .layers = 30,
                    .depth = 4096,
                    .tokens = 1,
                    .threads = 2,
                    .runs = 20}};
    for (int i = 1; i < argc; i += 2) {
        const struct {
            const char *name;
            size_t *value;
        } sizes[] = {{"--heads", &w.o.heads},   {"--kv-heads", &w.o.kv_heads}, {"--d", &w.o.d},
                     {"--layers", &w.o.layers}, {"--depth", &w.o.depth},       {"--anchor", &w.o.anchor},
                     {"--tokens", &w.o.tokens}, {"--threads", &w.o.threads},   {"--runs", &w.o.runs}};
        if (i + 1 == argc)
            return usage();
        bool known = strcmp(argv[i], "--table") == 0 || strcmp(argv[i], "--part") == 0;
        for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++)
            if (strcmp(argv[i], sizes[k].name) == 0) {
                *sizes[k].value = strtoull(argv[i + 1], NULL, 10);
                known = true;
            }
        if (!known)
            return usage();
        if (strcmp(argv[i], "--table") == 0)
            w.o.table = argv[i + 1];
        if (strcmp(argv[i], "--part") == 0)
            w.o.write = strcmp(argv[i + 1], "write") == 0;
    }
    for (size_t i = 0; fp__kernel_ops_at(i); i++)
        if (!w.o.table || strcmp(w.o.table, fp__kernel_ops_at(i)->name) == 0)
            w.ops = fp__kernel_ops_at(i);
    if (!w.ops || w.o.runs == 0 || w.o.tokens == 0 || w.o.heads == 0 || w.o.d == 0)
        return usage();
    prepare(&w);
    run(&w);
    return 0;
}
