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

/* Fills the pool with painted slabs of this head size. */
static void fill_pool(uint32_t d)
{
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

/* Time of one layer (decodes: sequences of one query token beside the others): a graph of several layers,
 * each with its own pages, so that no cache helps. */
static void bench_shape(const struct shape *c, uint32_t decodes, double copy, cudaStream_t stream)
{
    uint32_t heads = c->kv_heads * c->group, n = c->sequences + decodes, T = 0, next = 0;
    fp_cuda_attention_sequence *s = allocate(n * sizeof *s);
    for (uint32_t i = 0; i < n; i++) {
        s[i].first_token = T;
        s[i].tokens = i < c->sequences ? c->tokens : 1;
        T += s[i].tokens;
        s[i].mode = c->mode;
        if (c->shared && i)
            s[i].anchor = s[0].anchor;
        else
            bench_segment(&s[i].anchor, &next, c->anchor, 0);
        bench_segment(&s[i].context, &next, c->context, s[i].tokens);
    }
    size_t slab = fp__slab_bytes(c->d), layer_bytes = next * c->kv_heads * slab,
           layers = pool_bytes / layer_bytes;
    size_t wanted = ((size_t)1200 << 20) / layer_bytes + 2;
    layers = layers > wanted ? wanted : layers;
    size_t most = c->tokens > 8 ? 2 : 40;
    layers = layers > most ? most : layers;
    if (layers == 0) {
        fprintf(stderr, "%s does not fit the pool\n", c->name);
        return;
    }
    size_t rows = (size_t)T * heads;
    float *q, *s_q, *out, *alpha, *host = allocate(rows * c->d * 4);
    uint32_t *gamma, *g = allocate(heads * 4);
    int8_t *planes;
    for (size_t i = 0; i < rows * c->d; i++)
        host[i] = i < 1 << 22 ? random_float(2.0f) : host[i - (1 << 22)];
    for (uint32_t i = 0; i < heads; i++)
        g[i] = 6554;
    q = device_copy(host, rows * c->d * 4), s_q = device_copy(host, rows * 4),
    gamma = device_copy(g, heads * 4);
    CUDA(cudaMalloc((void **)&out, rows * c->d * 4));
    CUDA(cudaMalloc((void **)&alpha, rows * 4));
    CUDA(cudaMalloc((void **)&planes, rows * c->d * 2));
    fp_cuda_attention_config config = {heads, c->kv_heads, c->d, T, n, 0, 0};
    for (uint32_t i = 0; i < n; i++)
        config.max_pages += s[i].anchor.n_pages + s[i].context.n_pages;
    fp_cuda_attention *plan;
    OK(fp_cuda_attention_create(&config, &plan));
    OK(fp_cuda_attention_plan(plan, s, n, stream));
    double us[3]; /* as in a step, with the queries' preparation, and without overlap of kernels */
    uint32_t no_overlap = fp__cuda_attention_tuning[FP__TUNE_NO_OVERLAP];
    for (int kind = 0; kind < 3; kind++) {
        bool with_queries = kind == 1;
        if (kind == 2)
            fp__cuda_attention_tuning[FP__TUNE_NO_OVERLAP] = 1;
        cudaGraph_t graph;
        cudaGraphExec_t exec;
        if (!with_queries)
            OK(fp_cuda_query_prepare(q, T, heads, c->d, planes, s_q, NULL, stream));
        CUDA(cudaStreamSynchronize(stream));
        CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
        for (size_t l = 0; l < layers; l++) {
            if (with_queries)
                OK(fp_cuda_query_prepare(q, T, heads, c->d, planes, s_q, NULL, stream));
            fp_cuda_attention_run_args args = {
                planes, s_q, pool, layers * c->kv_heads * slab, l * c->kv_heads * slab, gamma, out, alpha};
            OK(fp_cuda_attention_run(plan, &args, stream));
        }
        CUDA(cudaStreamEndCapture(stream, &graph));
        CUDA(cudaGraphInstantiate(&exec, graph, 0));
        us[kind] = time_graph(exec, stream, c->tokens > 8 ? 5 : 15) / (double)layers;
        CUDA(cudaGraphExecDestroy(exec));
        CUDA(cudaGraphDestroy(graph));
    }
    fp__cuda_attention_tuning[FP__TUNE_NO_OVERLAP] = no_overlap;
    double bytes = (double)layer_bytes, rate = bytes / us[0] / 1000.0;
    printf("{\"case\": \"%s\", \"d\": %u, \"kv_heads\": %u, \"group\": %u, \"sequences\": %u, \"tokens\": "
           "%u, \"anchor\": %u, "
           "\"context\": %u, \"shared\": %s, \"mode\": %u, \"layers\": %zu, \"us\": %.2f, "
           "\"us_with_queries\": %.2f, \"us_no_overlap\": %.2f, "
           "\"kv_bytes\": %.0f, \"gb_s\": %.0f, \"of_copy\": %.3f",
           c->name, c->d, c->kv_heads, c->group, c->sequences, c->tokens, c->anchor, c->context,
           c->shared ? "true" : "false", c->mode, layers, us[0], us[1], us[2], bytes, rate, rate / copy);
    if (c->tokens > 8) { /* causal prefill: 4·d operations per visible (row, token) */
        double pairs = (double)c->sequences * heads *
                           ((double)c->tokens * (c->context - c->tokens + c->anchor) +
                            0.5 * c->tokens * (c->tokens + 1.0)) +
                       (double)decodes * heads * (c->context + c->anchor);
        printf(", \"tflops_equivalent\": %.1f", pairs * 4 * c->d / us[0] / 1e6);
    }
    printf("}\n");
    fflush(stdout);
    fp_cuda_attention_destroy(plan);
    for (uint32_t i = 0; i < n; i++) {
        if (i == 0 || !c->shared)
            free((void *)s[i].anchor.pages);
        free((void *)s[i].context.pages);
    }
    cudaFree(q), cudaFree(s_q), cudaFree(gamma), cudaFree(out), cudaFree(alpha), cudaFree(planes);
    free(s), free(host), free(g);
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
    static uint32_t filled; /* head size of the slabs in the pool */
    if (!wanted(only, shape->name))
        return;
    if (filled != shape->d)
        fill_pool(filled = shape->d);
    bench_shape(shape, decodes, copy, stream);
}

int attention_bench(const char *only)
{
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
    static const uint32_t anchors[] = {64, 256, 512, 2048}, batches[] = {2, 4, 16, 64};
    for (size_t i = 0; i < 32; i++) { /* shared, and each sequence its own */
        char name[64];
        struct shape shape = {name, 128, 8, 4, batches[i / 2 % 4], 1, anchors[i / 8], 512, i % 2 == 0, 0};
        snprintf(name, sizeof name, "anchor %u %s, %ux512", shape.anchor, shape.shared ? "shared" : "own",
                 shape.sequences);
        bench_wanted(only, &shape, 0, copy, stream);
    }
    for (size_t i = 0; only && i < sizeof more / sizeof *more; i++)
        bench_wanted(only, &more[i].shape, more[i].decodes, copy, stream);
    return 0;
}
