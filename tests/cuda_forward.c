/* The forward pass on the GPU against the CPU's, bit for bit, and its speed. One program that can be carried
 * to a machine with a GPU.
 *
 *  - cuda_forward check [8b|few]: tiny random models of all kinds and an 8B shape of two layers; 8b: that
 *    alone; few: a few tiny ones, for compute-sanitizer;
 *  - cuda_forward model FILE: 512 tokens of prompt and 256 greedy ones of a model;
 *  - cuda_forward bench [Q4_0|Q8_0]: decode of an 8B shape of 32 layers; JSON lines;
 *  - cuda_forward parts [Q4_0|Q8_0]: where the time of a step of one token goes.
 *
 * Compared with memcmp: logits of the prompt's last token and of each decoded one, K/V bytes of all pages,
 * greedy tokens, the anchor's mass. The GPU takes other chunks than the CPU, and batches of other sizes. */
#include "cache/leaf.h"
#include "cuda_lab.h"
#include "gguf_writer.h"
#include "kernel/cuda/attention_tuning.h"
#include "merkle/sha256.h"
#include "model/cuda/forward_cuda.h"
#include "model/forward.h"
#include <time.h>
#include <unistd.h>

static int failures;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- one scenario on either side ----------------------------------------------------------------------- */

enum { MAX_SEQUENCES = 8 };

typedef struct scenario {
    const char *name;
    size_t sequences, decode;
    size_t prompt[MAX_SEQUENCES];
    size_t anchor; /* tokens of the shared anchor, 0: none */
    int anchored[MAX_SEQUENCES];
    fp__injection_mode mode[MAX_SEQUENCES];
    bool g, mass;
    size_t cpu_chunk, gpu_chunk;
    bool gpu_alone; /* sequences one after the other on the GPU */
} scenario;

typedef struct results {
    float *logits;    // [S][decode + 1][V]
    uint32_t *tokens; // [S][decode + 1]
    uint64_t *mass;   // [S][L][H]
    uint8_t *pool;    // [pages][group_bytes]
} results;

typedef struct lab {
    fp_model *model;
    fp__team *team;
    fp__forward *cpu;
    fp__cuda_model *gpu_model;
    fp__cuda_forward *gpu;
    fp__cuda_pool pool;
    size_t pages_per_sequence;
    uint32_t *page; // [pages] permutation
    uint32_t *g;    // [L][H]
} lab;

enum { ANCHOR_PAGES = 4, CPU_TOKENS = 1024 };

static void lab_open(lab *b, fp_model *model, size_t pages_per_sequence)
{
    const fp__hparams *hp = &model->hp;
    *b = (lab){.model = model, .pages_per_sequence = pages_per_sequence};
    OK(fp__team_create(0, &b->team));
    size_t pages = ANCHOR_PAGES + MAX_SEQUENCES * pages_per_sequence,
           group = hp->layers * hp->kv_heads * fp__slab_bytes(hp->head_dim);
    OK(fp__forward_create(
        model, b->team,
        (fp__forward_limits){CPU_TOKENS, MAX_SEQUENCES, ANCHOR_PAGES + pages_per_sequence, MAX_SEQUENCES},
        &b->cpu));
    OK(fp__cuda_model_create(model, b->team, (ANCHOR_PAGES + pages_per_sequence) * 64, &b->gpu_model));
    b->pool = (fp__cuda_pool){NULL, group, (uint32_t)pages};
    CUDA(cudaMalloc((void **)&b->pool.kv, pages * group));
    OK(fp__cuda_forward_create(b->gpu_model, &b->pool,
                               (fp__cuda_forward_limits){CPU_TOKENS, MAX_SEQUENCES, MAX_SEQUENCES,
                                                         pages + MAX_SEQUENCES * ANCHOR_PAGES},
                               &b->gpu));
    gw_random r = {99};
    b->page = allocate(pages * 4);
    for (size_t i = 0; i < pages; i++)
        b->page[i] = (uint32_t)i;
    for (size_t i = pages - 1; i > 0; i--) {
        size_t k = gw_next(&r) % (i + 1);
        uint32_t t = b->page[i];
        b->page[i] = b->page[k];
        b->page[k] = t;
    }
    b->g = allocate(hp->layers * hp->heads * 4);
    for (size_t i = 0; i < hp->layers * hp->heads; i++)
        b->g[i] = gw_next(&r) % 4 ? (uint32_t)(gw_next(&r) % 65537) : 0;
}

static void lab_close(lab *b)
{
    fp__cuda_forward_destroy(b->gpu);
    fp__cuda_model_destroy(b->gpu_model);
    CUDA(cudaFree(b->pool.kv));
    fp__forward_destroy(b->cpu);
    fp__team_destroy(b->team);
    free(b->page);
    free(b->g);
}

static void results_make(const lab *b, const scenario *c, results *r)
{
    size_t rows = c->sequences * (c->decode + 1), V = b->model->hp.vocabulary;
    r->logits = allocate(rows * V * 4);
    r->tokens = allocate(rows * 4);
    r->mass = allocate(c->sequences * b->model->hp.layers * b->model->hp.heads * 8);
    r->pool = allocate(b->pool.pages * b->pool.group_bytes);
}
static void results_free(results *r)
{
    free(r->logits);
    free(r->tokens);
    free(r->mass);
    free(r->pool);
}

static const uint32_t *pages_of(const lab *b, size_t sequence) /* sequence MAX_SEQUENCES: the anchor */
{
    return b->page + (sequence == MAX_SEQUENCES ? 0 : ANCHOR_PAGES + sequence * b->pages_per_sequence);
}

static uint32_t greedy(const float *x, size_t V)
{
    size_t best = 0;
    for (size_t i = 1; i < V; i++)
        if (x[i] + 0.0f > x[best] + 0.0f)
            best = i;
    return (uint32_t)best;
}

/* One part of a step: tokens [done, done + n) of a sequence whose ids are given. */
typedef struct part {
    size_t sequence, done, n;
    const uint32_t *ids;
} part;

/* Runs a step on the side that `r` belongs to; the last row's logits of part i go to logits[i] (or nowhere).
 */
static void run_step(lab *b, const scenario *c, bool gpu, results *r, const part *parts, size_t n,
                     float **logits, uint32_t **tokens)
{
    size_t V = b->model->hp.vocabulary, words = b->model->hp.layers * b->model->hp.heads, rows[MAX_SEQUENCES],
           row = 0, n_rows = 0;
    fp__forward_span cpu[MAX_SEQUENCES];
    fp__cuda_span dev[MAX_SEQUENCES];
    uint8_t *groups[MAX_SEQUENCES][256], *anchor[ANCHOR_PAGES], filled[ANCHOR_PAGES];
    size_t anchor_pages = (c->anchor + 63) / 64;
    for (size_t p = 0; p < anchor_pages; p++) {
        anchor[p] = r->pool + b->page[p] * b->pool.group_bytes;
        filled[p] = (uint8_t)(c->anchor - p * 64 < 64 ? c->anchor - p * 64 : 64);
    }
    for (size_t i = 0; i < n; i++) {
        const part *p = &parts[i];
        bool bound = p->sequence < MAX_SEQUENCES && c->anchored[p->sequence] && anchor_pages > 0;
        size_t pages = (p->done + p->n + 63) / 64;
        const uint32_t *page = pages_of(b, p->sequence);
        for (size_t k = 0; k < pages; k++)
            groups[i][k] = r->pool + page[k] * b->pool.group_bytes;
        uint64_t position = p->done + (bound ? c->anchor : 0);
        uint64_t *mass = bound && c->mass ? r->mass + p->sequence * words : NULL;
        fp__injection_mode mode = p->sequence < MAX_SEQUENCES ? c->mode[p->sequence] : (fp__injection_mode)0;
        const uint32_t *g = bound && c->g ? b->g : NULL;
        cpu[i] = (fp__forward_span){
            p->ids,
            p->n,
            position,
            {(const uint8_t *const *)anchor, filled, bound ? anchor_pages : 0, bound ? anchor_pages : 0, 0},
            {(const uint8_t *const *)groups[i], NULL, pages, 0, p->done},
            groups[i],
            p->done,
            mode,
            g,
            mass};
        dev[i] = (fp__cuda_span){
            p->ids,
            p->n,
            position,
            {b->page, filled, bound ? (uint32_t)anchor_pages : 0, bound ? (uint32_t)anchor_pages : 0, 0},
            {page, NULL, (uint32_t)pages, 0, (uint32_t)p->done},
            page,
            p->done,
            mode,
            g,
            mass};
        row += p->n;
        if (logits[i])
            rows[n_rows++] = row - 1;
    }
    float *out = NULL;
    uint32_t chosen[MAX_SEQUENCES];
    const float *from = NULL;
    size_t bad;
    if (gpu) {
        OK(fp__cuda_forward_step(b->gpu, dev, n, rows, n_rows));
        OK(fp__cuda_forward_wait(b->gpu, &bad));
        from = out = malloc((n_rows + 1) * V * 4);
        OK(fp__cuda_forward_read(b->gpu, out, chosen));
    } else {
        OK(fp__forward_step_logits(b->cpu, cpu, n, rows, n_rows, &from, &bad));
    }
    for (size_t i = 0, k = 0; i < n; i++)
        if (logits[i]) {
            memcpy(logits[i], from + k * V, V * 4);
            *tokens[i] = gpu ? chosen[k] : greedy(from + k * V, V);
            k++;
        }
    free(out);
}

static void prefill(lab *b, const scenario *c, bool gpu, results *r, size_t sequence, size_t n, float *logits,
                    uint32_t *token)
{
    gw_random random = {1000 + sequence};
    uint32_t *ids = allocate(n * 4);
    for (size_t i = 0; i < n; i++)
        ids[i] = (uint32_t)(gw_next(&random) % b->model->hp.vocabulary);
    size_t chunk = gpu ? c->gpu_chunk : c->cpu_chunk;
    for (size_t done = 0, m; done < n; done += m) {
        m = n - done < chunk ? n - done : chunk;
        part p = {sequence, done, m, ids + done};
        float *to = done + m == n ? logits : NULL;
        run_step(b, c, gpu, r, &p, 1, &to, &token);
    }
    free(ids);
}

static double run(lab *b, const scenario *c, bool gpu, results *r, double *decode_s)
{
    size_t V = b->model->hp.vocabulary, steps = c->decode + 1;
    if (gpu)
        CUDA(cudaMemset(b->pool.kv, 0, b->pool.pages * b->pool.group_bytes));
    double start = now();
    if (c->anchor)
        prefill(b, c, gpu, r, MAX_SEQUENCES, c->anchor, NULL, NULL);
    for (size_t s = 0; s < c->sequences; s++)
        prefill(b, c, gpu, r, s, c->prompt[s], r->logits + s * steps * V, r->tokens + s * steps);
    double middle = now();
    size_t alone = gpu && c->gpu_alone ? c->sequences : 1, width = c->sequences / alone;
    for (size_t first = 0; first < c->sequences; first += width)
        for (size_t step = 0; step < c->decode; step++) {
            part parts[MAX_SEQUENCES];
            float *logits[MAX_SEQUENCES];
            uint32_t *tokens[MAX_SEQUENCES];
            for (size_t i = 0; i < width; i++) {
                size_t s = first + i, at = s * steps + step;
                parts[i] = (part){s, c->prompt[s] + step, 1, &r->tokens[at]};
                logits[i] = r->logits + (at + 1) * V;
                tokens[i] = &r->tokens[at + 1];
            }
            /* a step of one sequence takes turns between its own kernel of attention and the general ones */
            fp__cuda_attention_tuning[FP__TUNE_SOLO] = step % 3 == 1;
            run_step(b, c, gpu, r, parts, width, logits, tokens);
        }
    fp__cuda_attention_tuning[FP__TUNE_SOLO] = 0;
    *decode_s = now() - middle;
    if (gpu)
        CUDA(cudaMemcpy(r->pool, b->pool.kv, b->pool.pages * b->pool.group_bytes, cudaMemcpyDeviceToHost));
    return middle - start;
}

static void kv_root(const lab *b, const results *r, uint8_t out[32])
{
    const fp__hparams *hp = &b->model->hp;
    fp__page_geometry g = {hp->layers, hp->kv_heads, hp->head_dim, {0}};
    memcpy(g.model, b->model->digest, 32);
    uint8_t *leaves = allocate(hp->layers * hp->kv_heads * 32), *roots = allocate(b->pool.pages * 32);
    for (size_t p = 0; p < b->pool.pages; p++)
        fp__leaf_group(&g, r->pool + b->page[p] * b->pool.group_bytes, leaves, roots + 32 * p);
    fp__sha256(roots, b->pool.pages * 32, out);
    free(leaves);
    free(roots);
}

static void report(lab *b, const scenario *c, const char *model)
{
    results cpu, gpu;
    results_make(b, c, &cpu);
    results_make(b, c, &gpu);
    double times[2][2];
    times[0][0] = run(b, c, false, &cpu, &times[0][1]);
    times[1][0] = run(b, c, true, &gpu, &times[1][1]);
    size_t rows = c->sequences * (c->decode + 1), V = b->model->hp.vocabulary, L = b->model->hp.layers,
           H = b->model->hp.heads;
    size_t first_row = 0;
    while (first_row < rows && memcmp(cpu.logits + first_row * V, gpu.logits + first_row * V, V * 4) == 0)
        first_row++;
    bool logits = first_row == rows, tokens = memcmp(cpu.tokens, gpu.tokens, rows * 4) == 0,
         mass = memcmp(cpu.mass, gpu.mass, c->sequences * L * H * 8) == 0, counted = false,
         pool = memcmp(cpu.pool, gpu.pool, b->pool.pages * b->pool.group_bytes) == 0;
    for (size_t i = 0; i < c->sequences * L * H; i++)
        counted = counted || cpu.mass[i];
    uint8_t roots[2][32];
    kv_root(b, &cpu, roots[0]);
    kv_root(b, &gpu, roots[1]);
    printf("{\"check\": \"%s\", \"model\": \"%s\", \"logits\": %s, \"kv\": %s, \"kv_root_equal\": %s, "
           "\"tokens\": %s, \"mass\": %s, "
           "\"mass_counted\": %s, \"rows\": %zu, \"kernels\": \"%s\", \"cpu_prefill_s\": %.3f, "
           "\"cpu_decode_s\": %.3f, \"gpu_prefill_s\": "
           "%.3f, \"gpu_decode_s\": %.3f}\n",
           c->name, model, logits ? "true" : "false", pool ? "true" : "false",
           memcmp(roots[0], roots[1], 32) ? "false" : "true", tokens ? "true" : "false",
           mass ? "true" : "false", counted ? "true" : "false", rows, b->model->ops->name, times[0][0],
           times[0][1], times[1][0], times[1][1]);
    if (!logits)
        printf("  first row of logits that differs: %zu of %zu per sequence\n", first_row, c->decode + 1);
    if (!pool)
        for (size_t i = 0; i < b->pool.pages * b->pool.group_bytes; i++)
            if (cpu.pool[i] != gpu.pool[i]) {
                size_t slab = fp__slab_bytes(b->model->hp.head_dim), at = i % b->pool.group_bytes;
                printf("  first byte that differs: page group %zu, layer %zu, head %zu, byte %zu of %zu\n",
                       i / b->pool.group_bytes, at / slab / b->model->hp.kv_heads,
                       at / slab % b->model->hp.kv_heads, at % slab, slab);
                break;
            }
    failures += !(logits && pool && tokens && mass);
    fflush(stdout);
    results_free(&cpu);
    results_free(&gpu);
}

/* ---- check --------------------------------------------------------------------------------------------- */

static fp_model *open_random(const gw_model *m)
{
    char path[] = "/tmp/cuda_forward.XXXXXX";
    fp_model *model;
    int fd = mkstemp(path);
    if (fd < 0)
        exit(1);
    close(fd);
    gw_write_model(m, path);
    OK(fp_model_open(path, NULL, &model));
    unlink(path);
    return model;
}

typedef enum { BRIEF, SMALL, BIG } how_much;

static void check_model(const gw_model *m, const char *name, how_much extent)
{
    static const scenario brief = {.name = "two sequences, one with an anchor",
                                   .sequences = 2,
                                   .decode = 2,
                                   .prompt = {66, 3},
                                   .anchor = 20,
                                   .anchored = {1, 0},
                                   .mode = {(fp__injection_mode)1},
                                   .g = true,
                                   .mass = true,
                                   .cpu_chunk = 512,
                                   .gpu_chunk = 40};
    static const scenario plain = {.name = "one sequence",
                                   .sequences = 1,
                                   .decode = 12,
                                   .prompt = {200},
                                   .cpu_chunk = 512,
                                   .gpu_chunk = 96};
    static const scenario batch = {.name = "batch of 5",
                                   .sequences = 5,
                                   .decode = 20,
                                   .prompt = {64, 1, 130, 257, 33},
                                   .cpu_chunk = 64,
                                   .gpu_chunk = 512};
    static const scenario alone = {.name = "batch on the CPU, alone on the GPU",
                                   .sequences = 3,
                                   .decode = 8,
                                   .prompt = {63, 65, 300},
                                   .cpu_chunk = 300,
                                   .gpu_chunk = 17,
                                   .gpu_alone = true};
    static const scenario anchored = {
        .name = "shared anchor, three modes, one without",
        .sequences = 4,
        .decode = 10,
        .prompt = {70, 5, 129, 12},
        .anchor = 100,
        .anchored = {1, 1, 1, 0},
        .mode = {(fp__injection_mode)0, (fp__injection_mode)1, (fp__injection_mode)2, (fp__injection_mode)0},
        .g = true,
        .mass = true,
        .cpu_chunk = 512,
        .gpu_chunk = 50};
    scenario anchored_alone = anchored;
    anchored_alone.name = "the same, alone on the GPU";
    anchored_alone.gpu_alone = true;
    static const scenario large = {.name = "512 tokens of prompt",
                                   .sequences = 2,
                                   .decode = 6,
                                   .prompt = {512, 100},
                                   .anchor = 100,
                                   .anchored = {1, 0},
                                   .mode = {(fp__injection_mode)1},
                                   .g = true,
                                   .mass = true,
                                   .cpu_chunk = 512,
                                   .gpu_chunk = 300};
    scenario large_alone = large;
    large_alone.name = "the same, alone on the GPU";
    large_alone.gpu_alone = true;
    fp_model *model = open_random(m);
    lab b;
    lab_open(&b, model, 10);
    if (extent == BRIEF) {
        report(&b, &brief, name);
    } else if (extent == BIG) {
        report(&b, &large, name);
        report(&b, &large_alone, name);
    } else {
        report(&b, &plain, name);
        report(&b, &batch, name);
        report(&b, &alone, name);
        report(&b, &anchored, name);
        report(&b, &anchored_alone, name);
    }
    lab_close(&b);
    fp_model_close(model);
}

static gw_model shape_8b(uint32_t type, uint32_t layers, uint32_t V)
{
    gw_model m = gw_model_default();
    m.L = layers, m.C = 4096, m.H = 32, m.HK = 8, m.F = 14336, m.V = V, m.type = type, m.embd_type = type,
    m.rope_base = 500000, m.context = 131072;
    return m;
}

/* which: NULL, all; "8b": the 8B shape alone; "few": four kinds of tiny models, briefly, for
 * compute-sanitizer */
static void check(const char *which)
{
    static const struct {
        const char *name, *arch;
        uint32_t d, H, HK, C, F, type, embd;
        bool tied;
    } kinds[] = {
        {"llama Q8_0 d 64", "llama", 64, 4, 2, 256, 512, FP__GGML_Q8_0, FP__GGML_Q8_0, true},
        {"llama Q4_0 d 128", "llama", 128, 8, 2, 512, 768, FP__GGML_Q4_0, FP__GGML_Q8_0, false},
        {"qwen2 Q4_1 d 64, biases", "qwen2", 64, 6, 1, 384, 1184, FP__GGML_Q4_1, FP__GGML_Q8_0, true},
        {"qwen3 Q4_K d 128, norms", "qwen3", 128, 4, 4, 512, 1024, FP__GGML_Q4_K, FP__GGML_Q6_K, false},
        {"qwen3 F16 d 96", "qwen3", 96, 4, 2, 192, 320, FP__GGML_F16, FP__GGML_F16, true},
        {"llama Q5_0 d 256", "llama", 256, 2, 1, 256, 352, FP__GGML_Q5_0, FP__GGML_Q5_1, false},
    };
    bool shapes_only = which && strcmp(which, "8b") == 0, few = which && strcmp(which, "few") == 0;
    for (size_t i = shapes_only ? sizeof kinds / sizeof *kinds : 0;
         i < (few ? 4 : sizeof kinds / sizeof *kinds); i++) {
        gw_model m = gw_model_default();
        m.arch = kinds[i].arch, m.d = kinds[i].d, m.H = kinds[i].H, m.HK = kinds[i].HK, m.C = kinds[i].C,
        m.F = kinds[i].F;
        m.type = kinds[i].type, m.embd_type = kinds[i].embd, m.tied = kinds[i].tied, m.seed = 7 + i;
        check_model(&m, kinds[i].name, few ? BRIEF : SMALL);
    }
    if (few)
        return;
    gw_model q4 = shape_8b(FP__GGML_Q4_0, 2, 4096), q8 = shape_8b(FP__GGML_Q8_0, 2, 4096);
    check_model(&q4, "8B shape, 2 layers, Q4_0", BIG);
    check_model(&q8, "8B shape, 2 layers, Q8_0", BIG);
}

static void check_file(const char *path)
{
    static const scenario s = {.name = "512 tokens of prompt, 256 decoded",
                               .sequences = 1,
                               .decode = 256,
                               .prompt = {512},
                               .cpu_chunk = 512,
                               .gpu_chunk = 512};
    static const scenario t = {.name = "the same, other chunks, and a neighbour",
                               .sequences = 2,
                               .decode = 64,
                               .prompt = {512, 77},
                               .anchor = 128,
                               .anchored = {1, 1},
                               .mode = {(fp__injection_mode)1, (fp__injection_mode)2},
                               .g = true,
                               .mass = true,
                               .cpu_chunk = 100,
                               .gpu_chunk = 200};
    fp_model *model;
    OK(fp_model_open(path, NULL, &model));
    lab b;
    lab_open(&b, model, 13);
    report(&b, &s, path);
    report(&b, &t, path);
    lab_close(&b);
    fp_model_close(model);
}

/* ---- bench --------------------------------------------------------------------------------------------- */

static double copy_rate(void)
{
    void *a, *b;
    size_t n = (size_t)1 << 30;
    cudaEvent_t e[2];
    float best = 1e9f, ms;
    CUDA(cudaMalloc(&a, n));
    CUDA(cudaMalloc(&b, n));
    CUDA(cudaEventCreate(&e[0]));
    CUDA(cudaEventCreate(&e[1]));
    for (int i = 0; i < 8; i++) {
        CUDA(cudaEventRecord(e[0], 0));
        CUDA(cudaMemcpyAsync(b, a, n, cudaMemcpyDeviceToDevice, 0));
        CUDA(cudaEventRecord(e[1], 0));
        CUDA(cudaEventSynchronize(e[1]));
        CUDA(cudaEventElapsedTime(&ms, e[0], e[1]));
        best = ms < best ? ms : best;
    }
    CUDA(cudaFree(a));
    CUDA(cudaFree(b));
    return 2.0 * (double)n / (best * 1e-3);
}

static void duplicate(fp__cuda_weight *w)
{
    static const size_t unit[16] = {4608, 0, 2304, 2560, 0,    0,    2816, 3072,
                                    4352, 0, 0,    0,    2368, 2880, 3360, 0};
    size_t bytes = (size_t)w->tiles * w->segments * unit[w->type];
    void *p;
    CUDA(cudaMalloc(&p, bytes));
    CUDA(cudaMemcpy(p, w->data, bytes, cudaMemcpyDeviceToDevice));
    w->data = p;
}

/* 32 layers in memory of their own, from two. */
static void grow(fp__cuda_model *m, size_t layers)
{
    size_t have = m->hp.layers, output = m->step_bytes;
    fp__cuda_layer *all = calloc(layers, sizeof *all);
    memcpy(all, m->layers, have * sizeof *all);
    for (size_t i = have; i < layers; i++) {
        all[i] = all[i % have];
        duplicate(&all[i].qkv[0]);
        duplicate(&all[i].wo);
        duplicate(&all[i].gate_up);
        duplicate(&all[i].down);
    }
    /* per layer: (all - output matrix) / have */
    size_t out_bytes =
        (size_t)m->output.tiles * m->output.segments * (m->output.type == FP__GGML_Q4_0 ? 2304 : 4352);
    m->step_bytes = out_bytes + (output - out_bytes) / have * layers;
    free(m->layers);
    m->layers = all;
    m->hp.layers = layers;
}

static void fill_pool(const fp__cuda_pool *pool, size_t d)
{
    enum { GROUPS = 8 };
    uint8_t *host = allocate(GROUPS * pool->group_bytes);
    gw_random r = {5};
    for (size_t i = 0; i < GROUPS * pool->group_bytes / 8; i++)
        ((uint64_t *)(void *)host)[i] = gw_next(&r);
    size_t slab = fp__slab_bytes(d);
    for (size_t s = 0; s < GROUPS * pool->group_bytes / slab; s++)
        for (size_t t = 0; t < 128; t++) { /* scales of 2^-8 to 2^-7 */
            uint16_t v = (uint16_t)(0x3b80 + gw_next(&r) % 128);
            memcpy(host + s * slab + 128 * d + 2 * t, &v, 2);
        }
    size_t pages = pool->pages;
    CUDA(cudaMemcpy(pool->kv, host, (pages < GROUPS ? pages : GROUPS) * pool->group_bytes,
                    cudaMemcpyHostToDevice));
    for (size_t done = GROUPS; done < pages;) {
        size_t n = pages - done < done ? pages - done : done;
        CUDA(cudaMemcpy(pool->kv + done * pool->group_bytes, pool->kv, n * pool->group_bytes,
                        cudaMemcpyDeviceToDevice));
        done += n;
    }
    free(host);
}

static int compare_double(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* What a decode bench runs: a forward pass with room for `steps` more tokens of `batch` sequences. */
typedef struct decoding {
    fp__cuda_forward *f;
    fp__cuda_span *spans;
    uint32_t *pages, *ids;
    size_t *rows, batch, own, position;
    bool begun;
} decoding;

static bool decoding_open(decoding *d, fp__cuda_model *m, const fp__cuda_pool *pool, size_t batch,
                          size_t context, size_t steps)
{
    size_t own = (context + steps + 63) / 64 + 1;
    *d = (decoding){.batch = batch, .own = own, .position = context};
    if (own * batch > pool->pages)
        return false;
    OK(fp__cuda_forward_create(m, pool, (fp__cuda_forward_limits){batch, batch, batch, own * batch}, &d->f));
    d->spans = calloc(batch, sizeof *d->spans);
    d->pages = malloc(own * batch * 4);
    d->ids = malloc(batch * 4);
    d->rows = malloc(batch * sizeof *d->rows);
    for (size_t i = 0; i < batch; i++)
        d->ids[i] = (uint32_t)(17 + 31 * i), d->rows[i] = i;
    for (size_t i = 0; i < own * batch; i++) /* neighbours in a sequence are not neighbours in memory */
        d->pages[i] = (uint32_t)((i % own) * batch + i / own);
    return true;
}
static void decoding_close(decoding *d)
{
    fp__cuda_forward_destroy(d->f);
    free(d->spans);
    free(d->pages);
    free(d->ids);
    free(d->rows);
}
static void decoding_step(decoding *d)
{
    size_t p = d->position++;
    for (size_t i = 0; i < d->batch; i++) {
        uint32_t *own = d->pages + i * d->own;
        d->spans[i] = (fp__cuda_span){
            .ids = d->begun ? NULL : &d->ids[i], .tokens = 1, .position = p, .pages = own, .slot = p};
        d->spans[i].context = (fp_cuda_attention_segment){own, NULL, (uint32_t)(p / 64 + 1), 0, (uint32_t)p};
    }
    d->begun = true;
    OK(fp__cuda_forward_step(d->f, d->spans, d->batch, d->rows, d->batch));
}
/* The last step's graph again: microseconds, median and least of 9 times 8. */
static double decoding_replay(decoding *d, double *least)
{
    enum { TIMES = 9, EACH = 8 };
    cudaStream_t stream = fp__cuda_forward_stream(d->f);
    cudaEvent_t e[2];
    double us[TIMES];
    CUDA(cudaEventCreate(&e[0]));
    CUDA(cudaEventCreate(&e[1]));
    for (int i = -1; i < TIMES; i++) {
        float ms;
        CUDA(cudaEventRecord(e[0], stream));
        for (int k = 0; k < EACH; k++)
            OK(fp__cuda_forward_replay(d->f));
        CUDA(cudaEventRecord(e[1], stream));
        CUDA(cudaEventSynchronize(e[1]));
        CUDA(cudaEventElapsedTime(&ms, e[0], e[1]));
        if (i >= 0)
            us[i] = (double)ms * 1e3 / EACH;
    }
    CUDA(cudaEventDestroy(e[0]));
    CUDA(cudaEventDestroy(e[1]));
    qsort(us, TIMES, sizeof *us, compare_double);
    *least = us[0];
    return us[TIMES / 2];
}

static void bench_decode(fp__cuda_model *m, const char *type, const fp__cuda_pool *pool, size_t batch,
                         size_t context, double rate, const char *variant)
{
    enum { STEPS = 24, REPEATS = 5 };
    decoding d;
    if (!decoding_open(&d, m, pool, batch, context, STEPS * (REPEATS + 1))) {
        printf("{\"name\": \"decode %s %zu x %zu\", \"skipped\": \"%zu pages do not fit in %u\"}\n", type,
               batch, context, d.own * batch, pool->pages);
        return;
    }
    double us[REPEATS], least, replay;
    for (int repeat = -1; repeat < REPEATS; repeat++) {
        double start = now();
        for (size_t step = 0; step < STEPS; step++)
            decoding_step(&d);
        OK(fp__cuda_forward_wait(d.f, NULL));
        if (repeat >= 0)
            us[repeat] = (now() - start) / STEPS * 1e6;
    }
    qsort(us, REPEATS, sizeof *us, compare_double);
    replay = decoding_replay(&d, &least);
    double kv = (double)batch * (double)d.position / 64 * (double)pool->group_bytes,
           bytes = (double)m->step_bytes + kv, floor_us = bytes / rate * 1e6, median = us[REPEATS / 2];
    printf(
        "{\"name\": \"decode %s %zu x %zu\", \"type\": \"%s\", \"batch\": %zu, \"context\": %zu, "
        "\"median_us\": %.1f, \"min_us\": %.1f, \"graph_us\": %.1f, \"tokens_per_s\": %.1f, \"bytes\": %.0f, "
        "\"weight_bytes\": %zu, \"kv_bytes\": %.0f, \"copy_GBps\": %.0f, \"of_copy\": %.3f",
        type, batch, context, type, batch, context, median, us[0], replay, (double)batch / median * 1e6,
        bytes, m->step_bytes, kv, rate * 1e-9, floor_us / median);
    if (*variant)
        printf(", \"variant\": \"%s\"", variant);
    else if (batch == 1)
        printf(", \"bar\": 0.7, \"pass\": %s", floor_us / median >= 0.7 ? "true" : "false");
    printf("}\n");
    fflush(stdout);
    decoding_close(&d);
}

/* Microseconds of a step whose tokens are read before the next begins with them, as in an engine. */
static double decoding_loop(decoding *d)
{
    enum { STEPS = 40, WARM = 4 };
    double start = 0;
    for (int i = 0; i < WARM + STEPS; i++) {
        if (i == WARM)
            start = now();
        d->begun = false;
        decoding_step(d);
        OK(fp__cuda_forward_read(d->f, NULL, d->ids));
    }
    return (now() - start) / STEPS * 1e6;
}

/* Where the time of a step of one token goes: the graph as it is, without attention, and with single choices
 * undone. */
static void bench_parts(fp__cuda_model *m, const char *type, const fp__cuda_pool *pool)
{
    static const struct {
        const char *name;
        fp__cuda_tuning tune;
    } parts[] = {
        {"as it is", {0}},
        {"separate kernels", {.separate = 1}},
        {"rows dealt out before", {.no_taking = 1}},
        {"ring of 75 KiB", {.decode_stage_bytes = 75 << 10}},
        {"ring of 190 KiB", {.decode_stage_bytes = 190 << 10}},
        {"40 KiB under way", {.under_way_bytes = 40 << 10}},
        {"72 KiB under way", {.under_way_bytes = 72 << 10}},
        {"110 KiB under way", {.under_way_bytes = 110 << 10}},
        {"carve-out 100", {.carveout = 100}},
        {"without attention", {.no_attention = 1}},
        {"no launch overlap", {.no_overlap = 1}},
    };
    static const size_t contexts[] = {4096, 32768, 102400};
    size_t vocabulary = m->hp.vocabulary;
    float *logits = allocate(vocabulary * 4), *again = allocate(vocabulary * 4);
    for (size_t c = 0; c < sizeof contexts / sizeof *contexts; c++)
        for (size_t i = 0; i < (c == 0 ? sizeof parts / sizeof *parts : 2); i++) {
            decoding d;
            double least, median;
            fp__cuda_tune = parts[i].tune;
            if (decoding_open(&d, m, pool, 1, contexts[c], 64)) {
                for (int k = 0; k < 3; k++)
                    decoding_step(&d);
                OK(fp__cuda_forward_wait(d.f, NULL));
                OK(fp__cuda_forward_read(d.f, i ? again : logits, NULL));
                bool same =
                    parts[i].tune.no_attention || memcmp(logits, i ? again : logits, vocabulary * 4) == 0;
                failures += !same;
                median = decoding_replay(&d, &least);
                printf(
                    "{\"name\": \"parts %s 1 x %zu\", \"part\": \"%s\", \"same_logits\": %s, \"median_us\": "
                    "%.1f, \"min_us\": %.1f, \"loop_us\": %.1f}\n",
                    type, contexts[c], parts[i].name, same ? "true" : "false", median, least,
                    decoding_loop(&d));
                fflush(stdout);
                decoding_close(&d);
            }
            fp__cuda_tune = (fp__cuda_tuning){0};
        }
    free(logits);
    free(again);
}

static void bench_prefill(fp__cuda_model *m, const char *type, const fp__cuda_pool *pool)
{
    enum { T = 1024 };
    fp__cuda_forward *f;
    OK(fp__cuda_forward_create(m, pool, (fp__cuda_forward_limits){T, 1, 1, T / 64}, &f));
    uint32_t ids[T], pages[T / 64];
    for (uint32_t i = 0; i < T; i++)
        ids[i] = i * 37 % 100000;
    for (uint32_t i = 0; i < T / 64; i++)
        pages[i] = i;
    fp__cuda_span span = {.ids = ids, .tokens = T, .pages = pages, .context = {pages, NULL, T / 64, 0, 0}};
    size_t row = T - 1;
    double best = 1e9;
    for (int i = 0; i < 4; i++) {
        double start = now();
        OK(fp__cuda_forward_step(f, &span, 1, &row, 1));
        OK(fp__cuda_forward_wait(f, NULL));
        best = now() - start < best ? now() - start : best;
    }
    printf("{\"name\": \"prefill %s %d\", \"type\": \"%s\", \"tokens\": %d, \"min_us\": %.1f, "
           "\"tokens_per_s\": %.0f}\n",
           type, T, type, T, best * 1e6, T / best);
    fp__cuda_forward_destroy(f);
}

static void bench(uint32_t type, const char *name, bool parts)
{
    static const size_t batches[] = {1, 1, 1, 8, 32, 32},
                        contexts[] = {4096, 32768, 102400, 32768, 4096, 32000};
    static const struct {
        const char *name;
        fp__cuda_tuning tune;
    } variants[] = {{"carve-out as the driver likes", {.carveout = 101}},
                    {"carve-out 100", {.carveout = 100}}};
    gw_model gm = shape_8b(type, 2, 128256);
    fp_model *model = open_random(&gm);
    fp__team *team;
    fp__cuda_model *m;
    OK(fp__team_create(0, &team));
    OK(fp__cuda_model_create(model, team, 131072, &m));
    grow(m, 32);
    double rate = copy_rate();
    size_t free_bytes, total, group = 32 * 8 * fp__slab_bytes(128);
    CUDA(cudaMemGetInfo(&free_bytes, &total));
    fp__cuda_pool pool = {NULL, group, (uint32_t)((free_bytes - ((size_t)1500 << 20)) / group)};
    CUDA(cudaMalloc((void **)&pool.kv, pool.pages * group));
    struct cudaDeviceProp properties;
    CUDA(cudaGetDeviceProperties(&properties, 0));
    printf("{\"device\": \"%s\", \"copy_GBps\": %.0f, \"type\": \"%s\", \"pool_pages\": %u, "
           "\"page_group_bytes\": %zu}\n",
           properties.name, rate * 1e-9, name, pool.pages, group);
    fflush(stdout);
    fill_pool(&pool, 128);
    for (size_t i = 0; i < sizeof batches / sizeof *batches && !parts; i++) {
        bench_decode(m, name, &pool, batches[i], contexts[i], rate, "");
        for (size_t v = 0; v < sizeof variants / sizeof *variants && batches[i] == 1; v++) {
            fp__cuda_tune = variants[v].tune;
            bench_decode(m, name, &pool, batches[i], contexts[i], rate, variants[v].name);
            fp__cuda_tune = (fp__cuda_tuning){0};
        }
    }
    if (parts)
        bench_parts(m, name, &pool);
    else
        bench_prefill(m, name, &pool);
    CUDA(cudaFree(pool.kv)); /* the rest goes with the process */
    fp__team_destroy(team);
    fp_model_close(model);
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
        printf("no GPU: skipped\n");
        return 77;
    }
    if (strcmp(what, "check") == 0)
        check(argc > 2 ? argv[2] : NULL);
    else if (strcmp(what, "model") == 0 && argc > 2)
        check_file(argv[2]);
    else if (strcmp(what, "bench") == 0 || strcmp(what, "parts") == 0)
        bench(argc > 2 && strcmp(argv[2], "Q8_0") == 0 ? FP__GGML_Q8_0 : FP__GGML_Q4_0,
              argc > 2 ? argv[2] : "Q4_0", strcmp(what, "parts") == 0);
    else
        return printf("usage: cuda_forward check | model FILE | bench [Q4_0|Q8_0] | parts [Q4_0|Q8_0]\n"), 2;
    printf("{\"program\": \"%s\", \"failures\": %d}\n", what, failures);
    return failures != 0;
}
