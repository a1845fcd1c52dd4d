/* Speed of the linear layer: one line of JSON per run.
 *
 *   bench_linear [--table NAME] [--type NAME] [--rows N] [--cols N] [--tokens N] [--threads N] [--runs N]
 * [--quantise]
 *
 * Enough copies of the matrix are made for --megabytes (default 96) of packed weights, so that a decode step
 * reads them from memory as a model does. Each run goes over all of them once; the median and the best run
 * are given. */
#include "core/team.h"
#include "kernel/kernel.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

typedef struct options {
    const char *table, *type;
    size_t rows, cols, tokens, threads, runs, megabytes;
    bool quantise;
} options;

typedef struct work {
    const fp__kernel_ops *ops;
    size_t matrices, tokens, cols;
    fp__weight *w;  // [matrices]
    const float *x; // [tokens][cols]
    fp__act act;
    float *y; // [tokens][rows]
    bool quantise;
} work;

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void *big(size_t bytes)
{
    bytes = (bytes + (2u << 20) - 1) & ~(size_t)((2u << 20) - 1);
    void *p = aligned_alloc(2u << 20, bytes);
    if (!p)
        exit(3);
#ifdef MADV_HUGEPAGE
    (void)madvise(p, bytes, MADV_HUGEPAGE);
#endif
    return p;
}

static void step(void *arg, size_t thread, size_t threads)
{
    work *k = arg;
    uint8_t bad = 0;
    size_t begin, end;
    if (k->quantise) {
        fp__team_split(k->tokens, 8, thread, threads, &begin, &end);
        for (size_t t = begin; t < end; t++)
            k->ops->act_quantise(k->x + t * k->cols, &k->act, t, &bad);
        return;
    }
    for (size_t i = 0; i < k->matrices; i++) {
        fp__team_split(k->w[i].groups, 1, thread, threads, &begin, &end);
        k->ops->linear(&k->w[i], &k->act, begin, end, NULL, k->y, k->w[i].rows, false);
    }
}

static int type_of(const char *name)
{
    for (int t = 0; t < 64; t++)
        if (strcmp(fp__wtype_name(t), name) == 0)
            return t;
    fprintf(stderr, "bench_linear: unknown type %s\n", name);
    exit(2);
}

static const fp__kernel_ops *table_of(const char *name)
{
    const fp__kernel_ops *ops, *last = NULL;
    for (size_t i = 0; (ops = fp__kernel_ops_at(i)) != NULL; i++) {
        last = ops;
        if (name && strcmp(ops->name, name) == 0)
            return ops;
    }
    if (!name)
        return last;
    fprintf(stderr, "bench_linear: this machine has no table %s\n", name);
    exit(2);
}

/* Fills stored rows with numbers that any type accepts: bytes 0..31, so that binary16 scales are small. */
static uint8_t *stored_rows(const fp__weight *w)
{
    size_t n = fp__weight_stored_bytes(w);
    uint8_t *p = big(n);
    uint32_t state = 1;
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        p[i] = (uint8_t)(state >> 27);
    }
    return p;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void prepare(work *k, const options *o, int type, double *pack_seconds)
{
    fp__weight plan;
    size_t bytes;
    if (fp__weight_plan(type, o->rows, o->cols, &plan, &bytes) != FP_OK) {
        fprintf(stderr, "bench_linear: %s\n", fp_error_detail());
        exit(2);
    }
    k->matrices = o->quantise ? 0 : ((o->megabytes << 20) + bytes - 1) / bytes;
    k->w = calloc(k->matrices + 1, sizeof *k->w);
    uint8_t *stored = stored_rows(&plan), *data = big(k->matrices * bytes + 64);
    memset(data, 0, k->matrices * bytes + 64);
    double start = seconds();
    for (size_t i = 0; i < k->matrices; i++) {
        k->w[i] = plan;
        k->w[i].data = data + i * bytes;
        if (fp__weight_pack(&k->w[i], stored, 0, plan.groups) != FP_OK)
            exit(3);
    }
    *pack_seconds = seconds() - start;
    float *x = big(o->tokens * o->cols * 4);
    for (size_t i = 0; i < o->tokens * o->cols; i++)
        x[i] = (float)(int)(i * 2654435761u % 2001 % 997) - 500.0f;
    k->x = x;
    k->tokens = o->tokens;
    k->cols = o->cols;
    k->y = big(o->tokens * o->rows * 4);
    k->quantise = o->quantise;
    fp__act_bind(&k->act, big(fp__act_bytes(o->tokens, o->cols)), o->tokens, o->cols);
    uint8_t bad = 0;
    for (size_t t = 0; t < o->tokens; t++)
        k->ops->act_quantise(x + t * o->cols, &k->act, t, &bad);
}

static size_t number(const char *text)
{
    long v = text ? strtol(text, NULL, 10) : 0;
    if (v <= 0) {
        fprintf(stderr, "bench_linear: a positive number is needed\n");
        exit(2);
    }
    return (size_t)v;
}

static options parse(int argc, char **argv)
{
    options o = {NULL, "Q4_1", 1536, 576, 1, 2, 15, 96, false};
    const struct {
        const char *flag;
        size_t *to;
    } numbers[] = {{"--rows", &o.rows},       {"--cols", &o.cols}, {"--tokens", &o.tokens},
                   {"--threads", &o.threads}, {"--runs", &o.runs}, {"--megabytes", &o.megabytes}};
    for (int i = 1; i < argc; i++) {
        bool known = strcmp(argv[i], "--quantise") == 0;
        o.quantise |= known;
        for (size_t n = 0; !known && n < sizeof numbers / sizeof *numbers; n++)
            if (strcmp(argv[i], numbers[n].flag) == 0 && i + 1 < argc) {
                *numbers[n].to = number(argv[++i]);
                known = true;
            }
        if (!known && i + 1 < argc && (strcmp(argv[i], "--table") == 0 || strcmp(argv[i], "--type") == 0)) {
            *(argv[i][3] == 'a' ? &o.table : &o.type) = argv[i + 1];
            i++;
            known = true;
        }
        if (!known) {
            fprintf(stderr, "bench_linear: what is %s?\n", argv[i]);
            exit(2);
        }
    }
    return o;
}

int main(int argc, char **argv)
{
    options o = parse(argc, argv);
    int type = type_of(o.type);
    double pack_seconds = 0;
    work k = {.ops = table_of(o.table)};
    prepare(&k, &o, type, &pack_seconds);
    fp__team *team;
    if (fp__team_create(o.threads, &team) != FP_OK) {
        fprintf(stderr, "bench_linear: %s\n", fp_error_detail());
        return 3;
    }
    double *times = calloc(o.runs, sizeof *times);
    fp__team_run(team, step, &k);
    for (size_t r = 0; r < o.runs; r++) {
        double start = seconds();
        fp__team_run(team, step, &k);
        times[r] = seconds() - start;
    }
    fp__team_destroy(team);
    qsort(times, o.runs, sizeof *times, ascending);
    double macs = (double)k.matrices * (double)o.rows * (double)o.cols * (double)o.tokens,
           bytes = (double)k.matrices * (double)k.w[0].groups * (double)k.w[0].group_bytes,
           median = times[o.runs / 2];
    printf("{\"table\":\"%s\",\"type\":\"%s\",\"rows\":%zu,\"cols\":%zu,\"tokens\":%zu,\"threads\":%zu,",
           k.ops->name, fp__wtype_name(type), o.rows, o.cols, o.tokens, o.threads);
    if (o.quantise)
        printf("\"quantise_ns_per_block\":%.2f,\"best\":%.2f}\n",
               median * 1e9 / (double)(o.tokens * o.cols / FP__BLOCK),
               times[0] * 1e9 / (double)(o.tokens * o.cols / FP__BLOCK));
    else
        printf(
            "\"gmacs\":%.1f,\"gbytes\":%.2f,\"gmacs_best\":%.1f,\"gbytes_best\":%.2f,\"pack_gbytes\":%.2f}\n",
            macs / median * 1e-9, bytes / median * 1e-9, macs / times[0] * 1e-9, bytes / times[0] * 1e-9,
            bytes / pack_seconds * 1e-9);
    return 0;
}
