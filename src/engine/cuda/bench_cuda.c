/* The measurements of fieldprint/bench.h on an NVIDIA GPU. */
#include "engine/bench.h"
#include "fieldprint/cuda_attention.h"
#include "kernel/cuda/cuda_ops.h"
#include "kernel/cuda/try.h"
#include "model/device.h"
#include <stdio.h>
#include <stdlib.h>

enum { MAX_LAYERS = 40, PREFILL_LAYERS = 2, COPY_RUNS = 11 };

/* Device memory of one measurement; freed together. */
typedef struct room {
    void *memory[16];
    size_t n;
    cudaStream_t stream;
    cudaEvent_t begin, end;
} room;

static fp_status room_open(room *r, int gpu)
{
    *r = (room){0};
    FP_TRY(fp__gpu_check(gpu));
    FP_CUDA(cudaSetDevice(gpu), "the choice of the GPU");
    FP_CUDA(fp__cuda_ops_init(gpu), "the start of the GPU's kernels");
    FP_CUDA(cudaStreamCreateWithFlags(&r->stream, cudaStreamNonBlocking), "a stream");
    FP_CUDA(cudaEventCreate(&r->begin), "an event");
    FP_CUDA(cudaEventCreate(&r->end), "an event");
    return FP_OK;
}

static void room_close(room *r)
{
    if (r->stream)
        (void)cudaStreamSynchronize(r->stream);
    for (size_t i = 0; i < r->n; i++)
        (void)cudaFree(r->memory[i]);
    if (r->begin)
        (void)cudaEventDestroy(r->begin);
    if (r->end)
        (void)cudaEventDestroy(r->end);
    if (r->stream)
        (void)cudaStreamDestroy(r->stream);
}

static fp_status take(room *r, size_t bytes, void *out)
{
    void **to = out;
    FP_CHECK(r->n < sizeof r->memory / sizeof *r->memory);
    FP_CUDA(cudaMalloc(to, bytes ? bytes : 16), "memory for the measurement");
    r->memory[r->n++] = *to;
    return FP_OK;
}

static fp_status take_copy(room *r, const void *from, size_t bytes, void *out)
{
    void **to = out;
    FP_TRY(take(r, bytes, out));
    FP_CUDA(cudaMemcpy(*to, from, bytes, cudaMemcpyHostToDevice), "a copy to the GPU");
    return FP_OK;
}

/* `n` units of `unit` bytes in a row: the first `have` come from the host, the rest repeats them. */
static fp_status take_repeated(room *r, const uint8_t *from, size_t unit, size_t have, size_t n,
                               uint8_t **out)
{
    FP_TRY(take(r, n * unit, out));
    FP_CUDA(cudaMemcpy(*out, from, have * unit, cudaMemcpyHostToDevice), "a copy to the GPU");
    for (size_t done = have; done < n;) { /* done stays a multiple of have until the end */
        size_t more = n - done < done ? n - done : done;
        FP_CUDA(cudaMemcpy(*out + done * unit, *out, more * unit, cudaMemcpyDeviceToDevice),
                "a copy on the GPU");
        done += more;
    }
    return FP_OK;
}

/* Runs a graph `runs` times after two for warming up; µs of each, divided by `parts`. */
static fp_status time_graph(room *r, cudaGraphExec_t exec, uint32_t runs, size_t parts, fp_bench_times *out)
{
    double us[FP__BENCH_MAX_RUNS];
    for (int i = -2; i < (int)runs; i++) {
        float ms;
        FP_CUDA(cudaEventRecord(r->begin, r->stream), "an event");
        FP_CUDA(cudaGraphLaunch(exec, r->stream), "the start of a graph");
        FP_CUDA(cudaEventRecord(r->end, r->stream), "an event");
        FP_CUDA(cudaEventSynchronize(r->end), "the timed work");
        FP_CUDA(cudaEventElapsedTime(&ms, r->begin, r->end), "a time");
        if (i >= 0)
            us[i] = 1000.0 * (double)ms / (double)parts;
    }
    fp__bench_summary(us, runs, out);
    return FP_OK;
}

static fp_status end_capture(room *r, fp_status status, cudaGraphExec_t *exec)
{
    cudaGraph_t graph = NULL;
    cudaError_t e = cudaStreamEndCapture(r->stream, &graph);
    if (status == FP_OK)
        status = fp__cuda_status(e, "the recording of a graph");
    if (status == FP_OK)
        status = fp__cuda_status(cudaGraphInstantiate(exec, graph, 0), "the making of a graph");
    if (graph)
        (void)cudaGraphDestroy(graph);
    return status;
}

/* ---- the machine -----------------------------------------------------------------------------------------
 */

static fp_status copy_rate(room *r, double *gb_s)
{
    const size_t bytes = (size_t)2 << 30;
    void *a, *b;
    double us[COPY_RUNS];
    fp_bench_times times;
    FP_TRY(take(r, bytes, &a));
    FP_TRY(take(r, bytes, &b));
    FP_CUDA(cudaMemsetAsync(a, 0x5a, bytes, r->stream), "memory for a copy");
    for (int i = -2; i < COPY_RUNS; i++) {
        float ms;
        FP_CUDA(cudaEventRecord(r->begin, r->stream), "an event");
        FP_CUDA(cudaMemcpyAsync(b, a, bytes, cudaMemcpyDeviceToDevice, r->stream), "a copy on the GPU");
        FP_CUDA(cudaEventRecord(r->end, r->stream), "an event");
        FP_CUDA(cudaEventSynchronize(r->end), "a copy on the GPU");
        FP_CUDA(cudaEventElapsedTime(&ms, r->begin, r->end), "a time");
        if (i >= 0)
            us[i] = 1000.0 * (double)ms;
    }
    fp__bench_summary(us, COPY_RUNS, &times);
    *gb_s = 2 * (double)bytes / times.median_us / 1e3;
    return FP_OK;
}

fp_status fp__bench_cuda_machine(int gpu, fp_bench_machine *out)
{
    struct cudaDeviceProp p;
    room r;
    FP_TRY(fp__gpu_check(gpu));
    FP_CUDA(cudaGetDeviceProperties(&p, gpu), "the search for a GPU");
    snprintf(out->device, sizeof out->device, "cuda:%d", gpu);
    snprintf(out->name, sizeof out->name, "%.*s", (int)sizeof out->name - 1, p.name);
    snprintf(out->kernels, sizeof out->kernels, "sm_%d%d", p.major, p.minor);
    out->units = (uint32_t)p.multiProcessorCount;
    fp_status status = room_open(&r, gpu);
    if (status == FP_OK)
        status = copy_rate(&r, &out->copy_gb_s);
    room_close(&r);
    return status;
}

/* ---- attention -------------------------------------------------------------------------------------------
 */

typedef struct attention {
    const fp__bench_attention *b;
    room r;
    fp_cuda_attention *plan;
    fp_cuda_attention_sequence *sequences; // [batch]
    uint32_t *tables;                      // [batch][anchor pages, context pages]
    uint8_t *filled;                       // [anchor pages]
    size_t layers, slab_row;               /* slabs of a layer in bytes */
    uint8_t *pool;                         // device [pages][layers][kv_heads][slab]
    float *q, *q_scales, *out, *alpha;     // device
    int8_t *q_planes;                      // device
    uint32_t *gamma;                       // device [heads]
} attention;

static fp_status choose_layers(attention *a)
{
    const fp__bench_attention *b = a->b;
    size_t layer = b->pages * a->slab_row, free_bytes, total;
    FP_CUDA(cudaMemGetInfo(&free_bytes, &total), "the size of the memory");
    size_t most = b->o.tokens > 8 ? PREFILL_LAYERS : MAX_LAYERS, wanted = ((size_t)1200 << 20) / layer + 2;
    size_t fit = (size_t)(0.8 * (double)free_bytes) / layer;
    a->layers = wanted < most ? wanted : most;
    if (fit == 0)
        return fp__fail(FP_LIMIT, "bench attention: a layer's K/V of %zu MiB does not fit the %zu MiB free",
                        layer >> 20, free_bytes >> 20);
    a->layers = a->layers < fit ? a->layers : fit;
    return FP_OK;
}

/* Page p of layer i holds content (p + i) % contents, so that the first layer is what the CPU computed. The
 * host's contents have one layer: rows of a 2-D copy. */
static fp_status fill_pool(attention *a)
{
    const fp__bench_attention *b = a->b;
    size_t pitch = a->layers * a->slab_row, n = b->contents < b->pages ? b->contents : b->pages;
    FP_TRY(take(&a->r, b->pages * pitch, &a->pool));
    for (size_t i = 0; i < a->layers; i++) {
        size_t shift = i % b->contents, first = n - (shift < n ? shift : n);
        uint8_t *to = a->pool + i * a->slab_row;
        if (first)
            FP_CUDA(cudaMemcpy2D(to, pitch, b->content + shift * a->slab_row, a->slab_row, a->slab_row, first,
                                 cudaMemcpyHostToDevice),
                    "a copy to the GPU");
        if (n > first)
            FP_CUDA(cudaMemcpy2D(to + first * pitch, pitch, b->content, a->slab_row, a->slab_row, n - first,
                                 cudaMemcpyHostToDevice),
                    "a copy to the GPU");
    }
    for (size_t done = n; done < b->pages;) {
        size_t more = b->pages - done < done ? b->pages - done : done;
        FP_CUDA(cudaMemcpy(a->pool + done * pitch, a->pool, more * pitch, cudaMemcpyDeviceToDevice),
                "a copy on the GPU");
        done += more;
    }
    return FP_OK;
}

static fp_status make_plan(attention *a)
{
    const fp__bench_attention *b = a->b;
    const fp_bench_attention_options *o = &b->o;
    size_t each = b->anchor_pages + b->context_pages;
    a->sequences = calloc(o->batch, sizeof *a->sequences);
    a->tables = malloc(o->batch * each * sizeof *a->tables);
    a->filled = malloc(b->anchor_pages + 1);
    if (!a->sequences || !a->tables || !a->filled)
        return fp__fail(FP_NO_MEMORY, "bench attention: no memory");
    for (size_t j = 0; j < b->anchor_pages; j++)
        a->filled[j] = (uint8_t)fp__bench_filled(o->anchor, j);
    for (size_t s = 0; s < o->batch; s++) {
        uint32_t *table = a->tables + s * each;
        for (size_t j = 0; j < b->anchor_pages; j++)
            table[j] = fp__bench_anchor_page(b, s, j);
        for (size_t j = 0; j < b->context_pages; j++)
            table[b->anchor_pages + j] = fp__bench_context_page(b, s, j);
        fp_cuda_attention_sequence *to = &a->sequences[s];
        to->first_token = (uint32_t)s * o->tokens;
        to->tokens = o->tokens;
        to->anchor = (fp_cuda_attention_segment){table, a->filled, (uint32_t)b->anchor_pages,
                                                 (uint32_t)b->anchor_pages, 0};
        to->context = (fp_cuda_attention_segment){table + b->anchor_pages, NULL, (uint32_t)b->context_pages,
                                                  0, o->context - o->tokens};
        to->mode = o->mode;
    }
    fp_cuda_attention_config config = {.heads = o->heads,
                                       .kv_heads = o->kv_heads,
                                       .d = o->d,
                                       .max_tokens = o->batch * o->tokens,
                                       .max_sequences = o->batch,
                                       .max_pages = (uint32_t)(o->batch * each)};
    FP_TRY(fp_cuda_attention_create(&config, &a->plan));
    return fp_cuda_attention_plan(a->plan, a->sequences, o->batch, a->r.stream);
}

static fp_status prepare_queries(attention *a)
{
    const fp_bench_attention_options *o = &a->b->o;
    return fp_cuda_query_prepare(a->q, (size_t)o->batch * o->tokens, o->heads, o->d, a->q_planes, a->q_scales,
                                 NULL, a->r.stream);
}

static fp_status run_layer(attention *a, size_t layer)
{
    fp_cuda_attention_run_args args = {.q_planes = a->q_planes,
                                       .q_scales = a->q_scales,
                                       .kv = a->pool,
                                       .group_bytes = a->layers * a->slab_row,
                                       .layer_offset = layer * a->slab_row,
                                       .gamma = a->gamma,
                                       .out = a->out,
                                       .alpha = a->alpha};
    return fp_cuda_attention_run(a->plan, &args, a->r.stream);
}

static fp_status compare(attention *a, fp_bench_attention_result *out)
{
    const fp__bench_attention *b = a->b;
    size_t n = b->rows * b->o.d, bytes = n * sizeof(float);
    float *host = malloc(bytes + b->rows * sizeof *host);
    if (!host)
        return fp__fail(FP_NO_MEMORY, "bench attention: no memory");
    fp_status status = fp__cuda_status(cudaMemcpy(host, a->out, bytes, cudaMemcpyDeviceToHost), "the output");
    if (status == FP_OK)
        status = fp__cuda_status(
            cudaMemcpy(host + n, a->alpha, b->rows * sizeof *host, cudaMemcpyDeviceToHost), "the output");
    if (status == FP_OK &&
        (memcmp(host, b->out, bytes) != 0 || memcmp(host + n, b->alpha, b->rows * sizeof *host) != 0)) {
        size_t i = 0;
        const uint8_t *got = (const uint8_t *)host, *wanted = (const uint8_t *)b->out;
        while (i < n && memcmp(got + 4 * i, wanted + 4 * i, 4) == 0)
            i++;
        status = fp__fail(FP_MISMATCH,
                          "bench attention: the GPU's output differs from the CPU's, first at row %zu",
                          i / b->o.d);
    }
    free(host);
    out->words_checked += n + b->rows;
    return status;
}

static fp_status time_layers(attention *a, bool queries, fp_bench_times *out)
{
    cudaGraphExec_t exec = NULL;
    fp_status status = FP_OK;
    FP_CUDA(cudaStreamBeginCapture(a->r.stream, cudaStreamCaptureModeThreadLocal),
            "the recording of a graph");
    for (size_t i = 0; i < a->layers && status == FP_OK; i++) {
        if (queries)
            status = prepare_queries(a);
        if (status == FP_OK)
            status = run_layer(a, i);
    }
    status = end_capture(&a->r, status, &exec);
    if (status == FP_OK)
        status = time_graph(&a->r, exec, a->b->o.runs, a->layers, out);
    if (exec)
        (void)cudaGraphExecDestroy(exec);
    return status;
}

static fp_status measure_attention(attention *a, int gpu, fp_bench_attention_result *out)
{
    const fp__bench_attention *b = a->b;
    size_t tokens = (size_t)b->o.batch * b->o.tokens, n = b->rows * b->o.d;
    uint32_t *gamma = malloc(b->o.heads * sizeof *gamma);
    if (!gamma)
        return fp__fail(FP_NO_MEMORY, "bench attention: no memory");
    for (size_t i = 0; i < b->o.heads; i++)
        gamma[i] = b->o.gamma_65536;
    fp_status status = room_open(&a->r, gpu);
    if (status == FP_OK)
        status = take_copy(&a->r, gamma, b->o.heads * sizeof *gamma, &a->gamma);
    free(gamma);
    FP_TRY(status);
    FP_TRY(take_copy(&a->r, b->q, n * sizeof *b->q, &a->q));
    FP_TRY(take(&a->r, 2 * n, &a->q_planes));
    FP_TRY(take(&a->r, tokens * b->o.heads * sizeof(float), &a->q_scales));
    FP_TRY(take(&a->r, n * sizeof(float), &a->out));
    FP_TRY(take(&a->r, b->rows * sizeof(float), &a->alpha));
    FP_TRY(make_plan(a));
    FP_TRY(choose_layers(a));
    FP_TRY(fill_pool(a));
    FP_CUDA(cudaMemset(a->out, 0xff, n * sizeof(float)),
            "the output"); /* NaNs, should a word stay unwritten */
    FP_TRY(prepare_queries(a));
    FP_TRY(run_layer(a, 0));
    FP_CUDA(cudaStreamSynchronize(a->r.stream), "attention");
    FP_TRY(compare(a, out));
    out->layers = (uint32_t)a->layers;
    FP_TRY(time_layers(a, false, &out->layer));
    FP_TRY(time_layers(a, true, &out->with_queries));
    FP_TRY(run_layer(a, 0)); /* after all of that still the same */
    FP_CUDA(cudaStreamSynchronize(a->r.stream), "attention");
    return compare(a, out);
}

fp_status fp__bench_cuda_attention(int gpu, const fp__bench_attention *b, fp_bench_attention_result *out)
{
    attention a = {.b = b, .slab_row = b->o.kv_heads * b->slab_bytes};
    fp_status status = measure_attention(&a, gpu, out);
    fp_cuda_attention_destroy(a.plan);
    room_close(&a.r);
    free(a.sequences);
    free(a.tables);
    free(a.filled);
    return status;
}

/* ---- hashing ---------------------------------------------------------------------------------------------
 */

static fp_status compare_hashes(const fp__bench_hash *b, size_t slabs, const uint8_t *leaves,
                                const uint8_t *roots, fp_bench_hash_result *out)
{
    for (size_t p = 0; p < b->o.pages; p++) {
        size_t c = p % b->contents;
        if (memcmp(leaves + p * slabs * 32, b->leaves + c * slabs * 32, slabs * 32) != 0 ||
            memcmp(roots + 32 * p, b->roots + 32 * c, 32) != 0)
            return fp__fail(FP_MISMATCH, "bench hash: the GPU's hashes of page %zu differ from the CPU's", p);
        out->hashes_checked += slabs + 1;
    }
    return FP_OK;
}

static fp_status measure_hash(room *r, int gpu, const fp__bench_hash *b, fp_bench_hash_result *out)
{
    size_t n = b->o.pages, group = fp__page_group_bytes(&b->geometry), slabs = fp__page_slabs(&b->geometry);
    uint8_t *pool, *leaves, *roots, *host = malloc(n * (slabs + 1) * 32);
    const uint8_t **list = malloc(n * sizeof *list), **device_list;
    cudaGraphExec_t exec = NULL;
    fp__cuda_hash_geometry g = {FP__ARITHMETIC_VERSION,
                                (uint16_t)b->geometry.layers,
                                (uint16_t)b->geometry.kv_heads,
                                (uint16_t)b->geometry.d,
                                {0}};
    memcpy(g.model, b->geometry.model, sizeof g.model);
    fp_status status = host && list ? room_open(r, gpu) : fp__fail(FP_NO_MEMORY, "bench hash: no memory");
    if (status == FP_OK)
        status = take_repeated(r, b->groups, group, b->contents, n, &pool);
    for (size_t p = 0; p < n && status == FP_OK; p++)
        list[p] = pool + p * group;
    if (status == FP_OK)
        status = take_copy(r, list, n * sizeof *list, &device_list);
    if (status == FP_OK)
        status = take(r, n * slabs * 32, &leaves);
    if (status == FP_OK)
        status = take(r, n * 32, &roots);
    if (status == FP_OK)
        status = fp__cuda_status(cudaStreamBeginCapture(r->stream, cudaStreamCaptureModeThreadLocal),
                                 "the recording of a graph");
    if (status == FP_OK)
        status = end_capture(
            r,
            fp__cuda_status(fp__cuda_hash_groups(&g, device_list, (uint32_t)n, leaves, roots, r->stream),
                            "hashing"),
            &exec);
    if (status == FP_OK)
        status = time_graph(r, exec, b->o.runs, 1, &out->all);
    if (exec)
        (void)cudaGraphExecDestroy(exec);
    if (status == FP_OK)
        status =
            fp__cuda_status(cudaMemcpy(host, leaves, n * slabs * 32, cudaMemcpyDeviceToHost), "the hashes");
    if (status == FP_OK)
        status = fp__cuda_status(cudaMemcpy(host + n * slabs * 32, roots, n * 32, cudaMemcpyDeviceToHost),
                                 "the hashes");
    if (status == FP_OK)
        status = compare_hashes(b, slabs, host, host + n * slabs * 32, out);
    free(list);
    free(host);
    return status;
}

fp_status fp__bench_cuda_hash(int gpu, const fp__bench_hash *b, fp_bench_hash_result *out)
{
    room r = {0};
    fp_status status = measure_hash(&r, gpu, b, out);
    room_close(&r);
    return status;
}
