/* Times of decode, shared anchors and prefill beside the device's copy rate: see attention_bench.h. */
#include "attention_bench.h"
#include "attention_paint.h"
#include "cuda_lab.h"
#include "fieldprint/cuda_attention.h"
#include "kernel/cuda/attention_tuning.h"

enum { REPEATS = 21 };

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return x < y ? -1 : x > y;
}

/* Median time of one replay, in µs. */
static double time_graph(cudaGraphExec_t exec, cudaStream_t stream, int repeats)
{
    cudaEvent_t begin, end;
    float ms[REPEATS];
    CUDA(cudaEventCreate(&begin));
    CUDA(cudaEventCreate(&end));
    for (int i = -2; i < repeats; i++) {
        CUDA(cudaEventRecord(begin, stream));
        CUDA(cudaGraphLaunch(exec, stream));
        CUDA(cudaEventRecord(end, stream));
        CUDA(cudaEventSynchronize(end));
        if (i >= 0)
            CUDA(cudaEventElapsedTime(&ms[i], begin, end));
    }
    CUDA(cudaEventDestroy(begin));
    CUDA(cudaEventDestroy(end));
    qsort(ms, (size_t)repeats, sizeof *ms, by_value);
    return 1000.0 * (double)ms[repeats / 2];
}

static double copy_rate(cudaStream_t stream) /* GB/s, read + write */
{
    const size_t bytes = (size_t)2 << 30;
    void *a, *b;
    CUDA(cudaMalloc(&a, bytes));
    CUDA(cudaMalloc(&b, bytes));
    CUDA(cudaMemset(a, 0x5a, bytes));
    cudaEvent_t begin, end;
    CUDA(cudaEventCreate(&begin));
    CUDA(cudaEventCreate(&end));
    float ms[11];
    for (int i = -2; i < 11; i++) {
        CUDA(cudaEventRecord(begin, stream));
        CUDA(cudaMemcpyAsync(b, a, bytes, cudaMemcpyDeviceToDevice, stream));
        CUDA(cudaEventRecord(end, stream));
        CUDA(cudaEventSynchronize(end));
        if (i >= 0)
            CUDA(cudaEventElapsedTime(&ms[i], begin, end));
    }
    qsort(ms, 11, sizeof *ms, by_value);
    double us = 1000.0 * (double)ms[5];
    CUDA(cudaEventDestroy(begin));
    CUDA(cudaEventDestroy(end));
    CUDA(cudaFree(a));
    CUDA(cudaFree(b));
    return 2.0 * (double)bytes / us / 1000.0;
}

struct shape {
    const char *name;
    uint32_t d, kv_heads, group, sequences, tokens; /* tokens: query tokens per sequence */
    uint32_t anchor, context;                       /* tokens; context counts the query tokens */
    bool shared;
    uint32_t mode;
};

static uint8_t *pool;
static size_t pool_bytes;

/* Fills the pool with painted slabs of this head size, if it has others. */
static void fill_pool(uint32_t d)
{
    static uint32_t filled;
    if (filled == d)
        return;
    filled = d;
    size_t slab = fp__slab_bytes(d), n = 512, at = 0;
    uint8_t *some = allocate(n * slab);
    for (size_t i = 0; i < n; i++)
        paint_slab(RANDOM, d, some + i * slab);
    CUDA(cudaMemcpy(pool, some, n * slab, cudaMemcpyHostToDevice));
    for (at = n * slab; at + slab <= pool_bytes; at *= 2)
        CUDA(cudaMemcpy(pool + at, pool, (2 * at <= pool_bytes ? at : pool_bytes - at) / slab * slab,
                        cudaMemcpyDeviceToDevice));
    free(some);
}

static void bench_segment(fp_cuda_attention_segment *s, uint32_t *next, uint32_t tokens,
                          uint32_t query_tokens)
{
    memset(s, 0, sizeof *s);
    uint32_t pages = (tokens + 63) / 64, *table = allocate(pages * 4);
    for (uint32_t p = 0; p < pages; p++)
        table[p] = (*next)++;
    s->pages = table;
    s->n_pages = pages;
    s->causal_page = query_tokens ? 0 : pages;
    s->causal_tokens = query_tokens ? tokens - query_tokens : 0;
}

/* A shape made ready on the device: decodes more sequences of one query token stand beside its own. A graph
 * of it has several layers, each with its own pages, so that no cache helps. */
struct prepared {
    const struct shape *shape;
    uint32_t n, T, heads; /* sequences, query tokens */
    fp_cuda_attention_sequence *s;
    size_t layer_bytes, layers;
    float *q, *s_q, *out, *alpha;
    uint32_t *gamma;
    int8_t *planes;
    fp_cuda_attention *plan;
};

static void free_prepared(struct prepared *p)
{
    fp_cuda_attention_destroy(p->plan);
    for (uint32_t i = 0; i < p->n; i++) {
        if (i == 0 || !p->shape->shared)
            free((void *)p->s[i].anchor.pages);
        free((void *)p->s[i].context.pages);
    }
    free(p->s);
    cudaFree(p->q), cudaFree(p->s_q), cudaFree(p->gamma), cudaFree(p->out), cudaFree(p->alpha);
    cudaFree(p->planes);
}

static void fill_inputs(struct prepared *p)
{
    size_t rows = (size_t)p->T * p->heads, n = rows * p->shape->d;
    float *host = allocate(n * 4);
    uint32_t *gamma = allocate(p->heads * 4);
    for (size_t i = 0; i < n; i++)
        host[i] = i < 1 << 22 ? random_float(2.0f) : host[i - (1 << 22)];
    for (uint32_t i = 0; i < p->heads; i++)
        gamma[i] = 6554;
    p->q = device_copy(host, n * 4), p->s_q = device_copy(host, rows * 4);
    p->gamma = device_copy(gamma, p->heads * 4);
    CUDA(cudaMalloc((void **)&p->out, n * 4));
    CUDA(cudaMalloc((void **)&p->alpha, rows * 4));
    CUDA(cudaMalloc((void **)&p->planes, n * 2));
    free(host), free(gamma);
}

/* False, with nothing to free, if the shape does not fit the pool. */
static bool prepare(struct prepared *p, const struct shape *c, uint32_t decodes, cudaStream_t stream)
{
    uint32_t next = 0;
    *p = (struct prepared){.shape = c, .n = c->sequences + decodes, .heads = c->kv_heads * c->group};
    p->s = allocate(p->n * sizeof *p->s);
    for (uint32_t i = 0; i < p->n; i++) {
        fp_cuda_attention_sequence *s = &p->s[i];
        s->first_token = p->T;
        s->tokens = i < c->sequences ? c->tokens : 1;
        p->T += s->tokens;
        s->mode = c->mode;
        if (c->shared && i)
            s->anchor = p->s[0].anchor;
        else
            bench_segment(&s->anchor, &next, c->anchor, 0);
        bench_segment(&s->context, &next, c->context, s->tokens);
    }
    p->layer_bytes = next * c->kv_heads * fp__slab_bytes(c->d);
    size_t fit = pool_bytes / p->layer_bytes, wanted = ((size_t)1200 << 20) / p->layer_bytes + 2;
    size_t most = c->tokens > 8 ? 2 : 40;
    p->layers = fit > wanted ? wanted : fit;
    p->layers = p->layers > most ? most : p->layers;
    if (p->layers == 0) {
        fprintf(stderr, "%s does not fit the pool\n", c->name);
        free_prepared(p);
        return false;
    }
    fill_inputs(p);
    fp_cuda_attention_config config = {p->heads, c->kv_heads, c->d, p->T, p->n, 0, 0};
    for (uint32_t i = 0; i < p->n; i++)
        config.max_pages += p->s[i].anchor.n_pages + p->s[i].context.n_pages;
    OK(fp_cuda_attention_create(&config, &p->plan));
    OK(fp_cuda_attention_plan(p->plan, p->s, p->n, stream));
    return true;
}

/* The layers of a step, with or without the preparation of each layer's queries. */
static cudaGraphExec_t capture(const struct prepared *p, bool with_queries, cudaStream_t stream)
{
    size_t layer = p->shape->kv_heads * fp__slab_bytes(p->shape->d);
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    if (!with_queries)
        OK(fp_cuda_query_prepare(p->q, p->T, p->heads, p->shape->d, p->planes, p->s_q, NULL, stream));
    CUDA(cudaStreamSynchronize(stream));
    CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    for (size_t l = 0; l < p->layers; l++) {
        if (with_queries)
            OK(fp_cuda_query_prepare(p->q, p->T, p->heads, p->shape->d, p->planes, p->s_q, NULL, stream));
        fp_cuda_attention_run_args args = {p->planes, p->s_q,   pool,   p->layers * layer,
                                           l * layer, p->gamma, p->out, p->alpha};
        OK(fp_cuda_attention_run(p->plan, &args, stream));
    }
    CUDA(cudaStreamEndCapture(stream, &graph));
    CUDA(cudaGraphInstantiate(&exec, graph, 0));
    CUDA(cudaGraphDestroy(graph));
    return exec;
}

static void print_times(const struct prepared *p, uint32_t decodes, const double us[3], double copy)
{
    const struct shape *c = p->shape;
    double bytes = (double)p->layer_bytes, rate = bytes / us[0] / 1000.0;
    printf("{\"case\": \"%s\", \"d\": %u, \"kv_heads\": %u, \"group\": %u, \"sequences\": %u, \"tokens\": "
           "%u, \"anchor\": %u, "
           "\"context\": %u, \"shared\": %s, \"mode\": %u, \"layers\": %zu, \"us\": %.2f, "
           "\"us_with_queries\": %.2f, \"us_no_overlap\": %.2f, "
           "\"kv_bytes\": %.0f, \"gb_s\": %.0f, \"of_copy\": %.3f",
           c->name, c->d, c->kv_heads, c->group, c->sequences, c->tokens, c->anchor, c->context,
           c->shared ? "true" : "false", c->mode, p->layers, us[0], us[1], us[2], bytes, rate, rate / copy);
    if (c->tokens > 8) { /* causal prefill: 4·d operations per visible (row, token) */
        double pairs = (double)c->sequences * p->heads *
                           ((double)c->tokens * (c->context - c->tokens + c->anchor) +
                            0.5 * c->tokens * (c->tokens + 1.0)) +
                       (double)decodes * p->heads * (c->context + c->anchor);
        printf(", \"tflops_equivalent\": %.1f", pairs * 4 * c->d / us[0] / 1e6);
    }
    printf("}\n");
    fflush(stdout);
}

/* Times of one layer: as in a step, with the queries' preparation, and without overlap of kernels. */
static void bench_shape(const struct shape *c, uint32_t decodes, double copy, cudaStream_t stream)
{
    struct prepared p;
    if (!prepare(&p, c, decodes, stream))
        return;
    double us[3];
    uint32_t no_overlap = fp__cuda_attention_tuning[FP__TUNE_NO_OVERLAP];
    for (int kind = 0; kind < 3; kind++) {
        if (kind == 2)
            fp__cuda_attention_tuning[FP__TUNE_NO_OVERLAP] = 1;
        cudaGraphExec_t exec = capture(&p, kind == 1, stream);
        us[kind] = time_graph(exec, stream, c->tokens > 8 ? 5 : 15) / (double)p.layers;
        CUDA(cudaGraphExecDestroy(exec));
    }
    fp__cuda_attention_tuning[FP__TUNE_NO_OVERLAP] = no_overlap;
    print_times(&p, decodes, us, copy);
    free_prepared(&p);
}

enum { ROUNDS = 15 };

/* Two shapes in turn, a graph of one, then one of the other, queued without a pause: what one costs over the
 * other, the median of the ratios of all neighbours, does not see how the clock drifts from case to case.
 * Both use the same pool. Not for steps of one short sequence, whose kernel only one of the two plans would
 * have. */
static void bench_pair(const struct shape *c, const struct shape *over, cudaStream_t stream)
{
    struct prepared p[2];
    cudaGraphExec_t exec[2];
    cudaEvent_t at[2 * ROUNDS + 1];
    float us[2][ROUNDS], ratios[2 * ROUNDS - 1];
    fill_pool(c->d);
    if (!prepare(&p[0], c, 0, stream))
        return;
    if (!prepare(&p[1], over, 0, stream)) {
        free_prepared(&p[0]);
        return;
    }
    for (int k = 0; k < 2; k++)
        exec[k] = capture(&p[k], false, stream);
    for (int i = 0; i <= 2 * ROUNDS; i++)
        CUDA(cudaEventCreate(&at[i]));
    for (int i = -4; i < 2 * ROUNDS; i++) { /* two rounds to warm up; at[i]: when replay i begins */
        if (i >= 0)
            CUDA(cudaEventRecord(at[i], stream));
        CUDA(cudaGraphLaunch(exec[i & 1], stream));
    }
    CUDA(cudaEventRecord(at[2 * ROUNDS], stream));
    CUDA(cudaStreamSynchronize(stream));
    for (int i = 0; i < 2 * ROUNDS; i++) {
        float ms;
        CUDA(cudaEventElapsedTime(&ms, at[i], at[i + 1]));
        us[i % 2][i / 2] = 1000.0f * ms / (float)p[i % 2].layers;
        if (i > 0)
            ratios[i - 1] = us[0][i / 2] / us[1][(i - 1) / 2];
    }
    qsort(us[0], ROUNDS, sizeof *us[0], by_value);
    qsort(us[1], ROUNDS, sizeof *us[1], by_value);
    qsort(ratios, 2 * ROUNDS - 1, sizeof *ratios, by_value);
    printf("{\"pair\": \"%s\", \"over\": \"%s\", \"rounds\": %d, \"us\": %.2f, \"over_us\": %.2f, "
           "\"ratio\": %.4f, \"quartiles\": [%.4f, %.4f]}\n",
           c->name, over->name, ROUNDS, (double)us[0][ROUNDS / 2], (double)us[1][ROUNDS / 2],
           (double)ratios[ROUNDS - 1], (double)ratios[ROUNDS / 2], (double)ratios[3 * ROUNDS / 2 - 1]);
    fflush(stdout);
    for (int i = 0; i <= 2 * ROUNDS; i++)
        CUDA(cudaEventDestroy(at[i]));
    for (int k = 0; k < 2; k++) {
        CUDA(cudaGraphExecDestroy(exec[k]));
        free_prepared(&p[k]);
    }
}

/* Whether a name contains one of the parts of a list, a|b|c; no list wants all. */
static bool wanted(const char *list, const char *name)
{
    char part[128];
    if (!list)
        return true;
    for (const char *at = list, *end; *at; at = *end ? end + 1 : end) {
        end = at + strcspn(at, "|");
        snprintf(part, sizeof part, "%.*s", (int)(end - at), at);
        if (strstr(name, part))
            return true;
    }
    return false;
}

static void bench_wanted(const char *only, const struct shape *shape, uint32_t decodes, double copy,
                         cudaStream_t stream)
{
    if (!wanted(only, shape->name))
        return;
    fill_pool(shape->d);
    bench_shape(shape, decodes, copy, stream);
}

static const struct shape shapes[] = {
    {"decode 1x8k", 128, 8, 4, 1, 1, 0, 8192, false, 0},
    {"decode 1x32k", 128, 8, 4, 1, 1, 0, 32768, false, 0},
    {"decode 1x131k", 128, 8, 4, 1, 1, 0, 131072, false, 0},
    {"decode 8x32k", 128, 8, 4, 8, 1, 0, 32768, false, 0},
    {"decode 32x8k", 128, 8, 4, 32, 1, 0, 8192, false, 0},
    {"decode 64x2k", 128, 8, 4, 64, 1, 0, 2048, false, 0},
    {"anchor 64, 1x32k, compete", 128, 8, 4, 1, 1, 64, 32768, false, 0},
    {"anchor 64, 1x32k, floor", 128, 8, 4, 1, 1, 64, 32768, false, 1},
    {"anchor 64, 1x32k, reserve", 128, 8, 4, 1, 1, 64, 32768, false, 2},
    {"anchor 64, 8x32k, compete", 128, 8, 4, 8, 1, 64, 32768, true, 0},
    {"anchor 64, 8x32k, floor", 128, 8, 4, 8, 1, 64, 32768, true, 1},
    {"anchor 64, 8x32k, reserve", 128, 8, 4, 8, 1, 64, 32768, true, 2},
    {"anchor 128, 1x32k, compete", 128, 8, 4, 1, 1, 128, 32768, false, 0},
    {"anchor 128, 1x32k, floor", 128, 8, 4, 1, 1, 128, 32768, false, 1},
    {"anchor 128, 1x32k, reserve", 128, 8, 4, 1, 1, 128, 32768, false, 2},
    {"anchor 128, 8x32k, compete", 128, 8, 4, 8, 1, 128, 32768, true, 0},
    {"anchor 128, 8x32k, floor", 128, 8, 4, 8, 1, 128, 32768, true, 1},
    {"anchor 128, 8x32k, reserve", 128, 8, 4, 8, 1, 128, 32768, true, 2},
    {"decode 4 tokens 8x32k", 128, 8, 4, 8, 4, 0, 32768, false, 0},
    {"decode 8 tokens 8x32k", 128, 8, 4, 8, 8, 0, 32768, false, 0},
    {"decode d64 8x32k", 64, 8, 4, 8, 1, 0, 32768, false, 0},
    {"decode d256 8x32k", 256, 4, 4, 8, 1, 0, 32768, false, 0},
    {"decode G16 8x32k", 128, 4, 16, 8, 1, 0, 32768, false, 0},
    {"prefill 8k", 128, 8, 4, 1, 8192, 0, 8192, false, 0},
    {"prefill 32k", 128, 8, 4, 1, 32768, 0, 32768, false, 0},
    {"prefill 512 at 32k", 128, 8, 4, 1, 512, 0, 32768, false, 0},
    {"prefill 2k", 128, 8, 4, 1, 2048, 0, 2048, false, 0},
};

/* timed when they are asked for: chunks, several prompts, and decoding sequences beside a chunk */
static const struct {
    struct shape shape;
    uint32_t decodes;
} more[] = {
    {{"decode 64x512", 128, 8, 4, 64, 1, 0, 512, false, 0}, 0},
    {{"decode 2 tokens 8x32k", 128, 8, 4, 8, 2, 0, 32768, false, 0}, 0},
    {{"prefill 32 at 8k", 128, 8, 4, 1, 32, 0, 8192, false, 0}, 0},
    {{"prefill 64 at 8k", 128, 8, 4, 1, 64, 0, 8192, false, 0}, 0},
    {{"prefill 128 at 8k", 128, 8, 4, 1, 128, 0, 8192, false, 0}, 0},
    {{"prefill 256 at 8k", 128, 8, 4, 1, 256, 0, 8192, false, 0}, 0},
    {{"prefill 512 at 8k", 128, 8, 4, 1, 512, 0, 8192, false, 0}, 0},
    {{"prefill 1024 at 8k", 128, 8, 4, 1, 1024, 0, 8192, false, 0}, 0},
    {{"prefill 32 at 32k", 128, 8, 4, 1, 32, 0, 32768, false, 0}, 0},
    {{"prefill 64 at 32k", 128, 8, 4, 1, 64, 0, 32768, false, 0}, 0},
    {{"prefill 128 at 32k", 128, 8, 4, 1, 128, 0, 32768, false, 0}, 0},
    {{"prefill 256 at 32k", 128, 8, 4, 1, 256, 0, 32768, false, 0}, 0},
    {{"prefill 1024 at 32k", 128, 8, 4, 1, 1024, 0, 32768, false, 0}, 0},
    {{"prefill 8x512", 128, 8, 4, 8, 512, 0, 512, false, 0}, 0},
    {{"prefill 4x2k", 128, 8, 4, 4, 2048, 0, 2048, false, 0}, 0},
    {{"decode 1x1k", 128, 8, 4, 1, 1, 0, 1024, false, 0}, 0},
    {{"decode 1x4k", 128, 8, 4, 1, 1, 0, 4096, false, 0}, 0},
    {{"decode 1x12k", 128, 8, 4, 1, 1, 0, 12288, false, 0}, 0},
    {{"decode 1x16k", 128, 8, 4, 1, 1, 0, 16384, false, 0}, 0},
    {{"decode small 1x8k", 64, 3, 3, 1, 1, 0, 8192, false, 0}, 0},
    {{"decode small 1x32k", 64, 3, 3, 1, 1, 0, 32768, false, 0}, 0},
    {{"decode G 8, 1x8k", 128, 8, 8, 1, 1, 0, 8192, false, 0}, 0},
    {{"decode 1x8k, anchor 128", 128, 8, 4, 1, 1, 128, 8064, false, 0}, 0},
    {{"prefill 512", 128, 8, 4, 1, 512, 0, 512, false, 0}, 0},
    {{"prefill 512 and 16 decodes at 8k", 128, 8, 4, 1, 512, 0, 8192, false, 0}, 16},
    {{"prefill 64 and 16 decodes at 8k", 128, 8, 4, 1, 64, 0, 8192, false, 0}, 16},
};

/* The 32 shapes of an anchor that is shared (even i), or that each sequence has for itself. */
enum { ANCHOR_SHAPES = 32 };

static struct shape anchor_shape(uint32_t i, char name[64])
{
    static const uint32_t anchors[] = {64, 256, 512, 2048}, batches[] = {2, 4, 16, 64};
    struct shape shape = {name, 128, 8, 4, batches[i / 2 % 4], 1, anchors[i / 8], 512, i % 2 == 0, 0};
    snprintf(name, 64, "anchor %u %s, %ux512", shape.anchor, shape.shared ? "shared" : "own",
             shape.sequences);
    return shape;
}

static const struct shape *shape_named(const char *name)
{
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        if (strcmp(shapes[i].name, name) == 0)
            return &shapes[i];
    fprintf(stderr, "no shape is called %s\n", name);
    exit(3);
}

/* What bars of one or two percent compare. Those whose first name is asked for. */
static void bench_pairs(const char *only, cudaStream_t stream)
{
    static const char *const pairs[][2] = {
        {"anchor 64, 1x32k, compete", "decode 1x32k"},
        {"anchor 64, 1x32k, floor", "anchor 64, 1x32k, compete"},
        {"anchor 64, 1x32k, reserve", "anchor 64, 1x32k, compete"},
        {"anchor 64, 8x32k, compete", "decode 8x32k"},
        {"anchor 64, 8x32k, floor", "anchor 64, 8x32k, compete"},
        {"anchor 64, 8x32k, reserve", "anchor 64, 8x32k, compete"},
        {"anchor 128, 1x32k, compete", "decode 1x32k"},
        {"anchor 128, 1x32k, floor", "anchor 128, 1x32k, compete"},
        {"anchor 128, 1x32k, reserve", "anchor 128, 1x32k, compete"},
        {"anchor 128, 8x32k, compete", "decode 8x32k"},
        {"anchor 128, 8x32k, floor", "anchor 128, 8x32k, compete"},
        {"anchor 128, 8x32k, reserve", "anchor 128, 8x32k, compete"},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        if (wanted(only, pairs[i][0]))
            bench_pair(shape_named(pairs[i][0]), shape_named(pairs[i][1]), stream);
    for (uint32_t i = 0; i < ANCHOR_SHAPES; i += 2) {
        char name[64], own_name[64];
        struct shape shared = anchor_shape(i, name), own = anchor_shape(i + 1, own_name);
        if (wanted(only, name))
            bench_pair(&shared, &own, stream);
    }
}

int attention_bench(const char *only)
{
    cudaStream_t stream;
    struct cudaDeviceProp prop;
    CUDA(cudaGetDeviceProperties(&prop, 0));
    CUDA(cudaStreamCreate(&stream));
    double copy = copy_rate(stream);
    printf("{\"device\": \"%s\", \"multiprocessors\": %d, \"l2_bytes\": %d, \"copy_gb_s\": %.0f}\n",
           prop.name, prop.multiProcessorCount, prop.l2CacheSize, copy);
    pool_bytes = (size_t)6 << 30;
    CUDA(cudaMalloc((void **)&pool, pool_bytes));
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        bench_wanted(only, &shapes[i], 0, copy, stream);
    for (uint32_t i = 0; i < ANCHOR_SHAPES; i++) {
        char name[64];
        struct shape shape = anchor_shape(i, name);
        bench_wanted(only, &shape, 0, copy, stream);
    }
    for (size_t i = 0; only && i < sizeof more / sizeof *more; i++)
        bench_wanted(only, &more[i].shape, more[i].decodes, copy, stream);
    bench_pairs(only, stream);
    return 0;
}
