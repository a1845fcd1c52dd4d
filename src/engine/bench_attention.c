/* fp_bench_attention: made-up pages and queries, their attention on the CPU (some rows compared with the
 * definition), then the times. */
#include "engine/bench.h"
#include "engine/engine.h"
#include "model/device.h"
#include <stdlib.h>

enum { MAX_LAYERS = 40, CHECKED_TOKEN_READS = 1 << 22 /* of the scalar definition: well under a second */ };

typedef struct lab {
    fp__bench_attention b;
    int gpu;
    const fp__kernel_ops *ops;
    fp__team *team;
    fp__attn_plan *plan;
    fp__attn_sequence *sequences; // [batch]
    const uint8_t **groups;       // [batch][anchor pages, then context pages]
    uint8_t *filled;              // [anchor pages]
    uint32_t *g;                  // [layers][heads]
    size_t stride;
    int16_t *q16; // [batch·tokens][heads][stride]
    float *s_q;   // [batch·tokens][heads]
    float *out, *alpha;
    uint8_t *pool; // [pages][layers][kv_heads][slab]: timed on the CPU
    size_t pool_bytes, layers, run_layers;
    uint8_t bad;
} lab;

static fp_status check_options(const fp_bench_attention_options *o)
{
    if (o->heads == 0 || o->kv_heads == 0 || o->heads % o->kv_heads || o->d == 0 || o->d % 2 ||
        o->d > FP__HEAD_DIM_MAX || o->heads > 4096)
        return fp__fail(FP_USAGE,
                        "bench attention: %u heads of %u over %u KV heads: heads must be a multiple of the "
                        "KV heads, and d even and at most %d",
                        o->heads, o->d, o->kv_heads, FP__HEAD_DIM_MAX);
    if (o->batch == 0 || o->tokens == 0 || o->context < o->tokens || o->runs == 0 ||
        o->runs > FP__BENCH_MAX_RUNS || o->mode > 2 || o->gamma_65536 > 65536)
        return fp__fail(FP_USAGE,
                        "bench attention: batch, tokens and runs must be at least 1, and the context at "
                        "least the %u query tokens in it",
                        o->tokens);
    if ((uint64_t)o->batch * o->tokens > 1 << 22 || o->context > 1 << 24 || o->anchor > 1 << 22 ||
        (uint64_t)o->batch * ((uint64_t)o->context + o->anchor) > (uint64_t)1 << 30)
        return fp__fail(FP_LIMIT, "bench attention: %u sequences of %u tokens are more than it can hold",
                        o->batch, o->context);
    return FP_OK;
}

static void *take(fp_status *status, size_t bytes)
{
    void *p = *status == FP_OK ? fp__mem_alloc(bytes ? bytes : 1) : NULL;
    if (!p && *status == FP_OK)
        *status = FP_NO_MEMORY;
    return p;
}

static size_t tokens_of(const lab *l)
{
    return (size_t)l->b.o.batch * l->b.o.tokens;
}

/* Shape, contents, queries. */
static fp_status make_inputs(lab *l)
{
    fp__bench_attention *b = &l->b;
    const fp_bench_attention_options *o = &b->o;
    uint64_t random = 1;
    fp_status status = FP_OK;
    b->rows = tokens_of(l) * o->heads;
    b->anchor_pages = (o->anchor + 63u) / 64;
    b->context_pages = (o->context + 63u) / 64;
    b->pages = o->batch * b->context_pages + (o->shared ? 1 : o->batch) * b->anchor_pages;
    b->slab_bytes = fp__slab_bytes(o->d);
    size_t group = o->kv_heads * b->slab_bytes;
    b->contents = FP__BENCH_CONTENT_BYTES / group;
    b->contents = b->contents < 3 ? 3 : b->contents > b->pages ? b->pages : b->contents;
    l->stride = (o->d + 31u) / 32 * 32;
    b->content = take(&status, b->contents * group);
    b->q = take(&status, b->rows * o->d * sizeof *b->q);
    b->out = take(&status, b->rows * o->d * sizeof *b->out);
    b->alpha = take(&status, b->rows * sizeof *b->alpha);
    l->q16 = take(&status, b->rows * l->stride * sizeof *l->q16);
    l->s_q = take(&status, b->rows * sizeof *l->s_q);
    FP_TRY(status);
    fp__bench_fill_slabs(b->content, b->contents * o->kv_heads, o->d, &random);
    for (size_t i = 0; i < b->rows * o->d; i++)
        b->q[i] = (float)(int32_t)(fp__bench_random(&random) >> 32) * 0x1p-30f;
    for (size_t t = 0; t < tokens_of(l); t++)
        l->ops->query(b->q + t * o->heads * o->d, o->heads, o->d, l->q16 + t * o->heads * l->stride,
                      l->stride, l->s_q + t * o->heads, &l->bad);
    return l->bad ? fp__fail(FP_INTERNAL, "bench attention: a made-up query is out of range") : FP_OK;
}

/* Sequences over page groups that begin at base + page·group_bytes; contents are repeated if `repeat`. */
static void point_at(lab *l, const uint8_t *base, size_t group_bytes, bool repeat)
{
    const fp__bench_attention *b = &l->b;
    size_t each = b->anchor_pages + b->context_pages;
    for (size_t s = 0; s < b->o.batch; s++) {
        const uint8_t **anchor = l->groups + s * each, **context = anchor + b->anchor_pages;
        for (size_t j = 0; j < each; j++) {
            size_t page = j < b->anchor_pages ? fp__bench_anchor_page(b, s, j)
                                              : fp__bench_context_page(b, s, j - b->anchor_pages);
            anchor[j] = base + (repeat ? page % b->contents : page) * group_bytes;
        }
        l->sequences[s] =
            (fp__attn_sequence){.first_token = s * b->o.tokens,
                                .tokens = b->o.tokens,
                                .anchor = {anchor, l->filled, b->anchor_pages, b->anchor_pages, 0},
                                .context = {context, NULL, b->context_pages, 0, b->o.context - b->o.tokens},
                                .mode = (fp__injection_mode)b->o.mode,
                                .g = l->g};
    }
}

static void attend(void *arg, size_t thread, size_t threads)
{
    lab *l = arg;
    (void)threads;
    for (size_t layer = 0; layer < l->run_layers; layer++) {
        fp__attn_run(l->plan, l->team, thread, layer, l->q16, l->s_q, l->stride, l->out, l->alpha);
        fp__team_barrier(l->team);
    }
}

static fp_status plan_for(lab *l, size_t layers)
{
    const fp_bench_attention_options *o = &l->b.o;
    fp__attn_geometry geometry = {layers, o->heads, o->kv_heads, o->d};
    fp__attn_plan_destroy(l->plan);
    l->plan = NULL;
    FP_TRY(fp__attn_plan_create(l->ops, &geometry, fp__team_threads(l->team), tokens_of(l), o->batch,
                                l->b.anchor_pages + l->b.context_pages, &l->plan));
    return fp__attn_plan_step(l->plan, l->sequences, o->batch);
}

/* ---- against the definition ------------------------------------------------------------------------------
 */

static fp_status row_differs(const lab *l, size_t row, uint64_t *words)
{
    const fp_bench_attention_options *o = &l->b.o;
    size_t token = row / o->heads, head = row % o->heads, each = l->b.anchor_pages + l->b.context_pages,
           sequence = token / o->tokens, kv_head = head / (o->heads / o->kv_heads);
    const uint8_t **slabs = malloc(each * sizeof *slabs);
    uint8_t *visible = malloc(each);
    fp__attn_state *states = malloc(2 * sizeof *states);
    float out[FP__HEAD_DIM_MAX];
    fp_status status = FP_OK;
    if (!slabs || !visible || !states) {
        status = fp__fail(FP_NO_MEMORY, "bench attention: no memory");
    } else {
        size_t seen = o->context - o->tokens + token % o->tokens + 1;
        for (size_t j = 0; j < each; j++) {
            size_t first = 64 * (j - l->b.anchor_pages);
            slabs[j] = l->groups[sequence * each + j] + kv_head * l->b.slab_bytes;
            visible[j] = (uint8_t)(j < l->b.anchor_pages ? l->filled[j]
                                   : seen <= first       ? 0
                                   : seen - first < 64   ? seen - first
                                                         : 64);
        }
        const int16_t *q16 = l->q16 + row * l->stride;
        fp__exact_attend(q16, l->s_q[row], o->d, slabs, visible, l->b.anchor_pages, &states[0]);
        fp__exact_attend(q16, l->s_q[row], o->d, slabs + l->b.anchor_pages, visible + l->b.anchor_pages,
                         l->b.context_pages, &states[1]);
        float alpha =
            fp__exact_mix(&states[0], &states[1], (fp__injection_mode)o->mode, l->g[head], o->d, out);
        *words += o->d + 1;
        if (memcmp(out, l->b.out + row * o->d, o->d * sizeof *out) != 0 ||
            fp__float_bits(alpha) != fp__float_bits(l->b.alpha[row]))
            status = fp__fail(FP_MISMATCH,
                              "bench attention: token %zu, head %zu differs from the definition; the kernels "
                              "\"%s\" are wrong on this machine",
                              token, head, l->ops->name);
    }
    free(slabs);
    free(visible);
    free(states);
    return status;
}

/* The layer as the CPU computes it; rows spread over the step are compared with the definition. */
static fp_status compute(lab *l, uint64_t *words)
{
    const fp_bench_attention_options *o = &l->b.o;
    point_at(l, l->b.content, o->kv_heads * l->b.slab_bytes, true);
    FP_TRY(plan_for(l, 1));
    l->out = l->b.out, l->alpha = l->b.alpha, l->run_layers = 1;
    fp__team_run(l->team, attend, l);
    size_t reads = o->context + o->anchor, most = CHECKED_TOKEN_READS;
    size_t rows = reads ? most / reads : most;
    rows = rows < o->kv_heads ? o->kv_heads : rows > l->b.rows ? l->b.rows : rows;
    for (size_t i = 0; i < rows; i++) /* the last row is always one of them */
        FP_TRY(row_differs(l, ((i + 1) * l->b.rows - 1) / rows, words));
    return FP_OK;
}

/* ---- the CPU's times
 * --------------------------------------------------------------------------------------*/

static fp_status fill_pool(lab *l)
{
    const fp__bench_attention *b = &l->b;
    size_t group = b->o.kv_heads * b->slab_bytes, layer = b->pages * group;
    l->layers = ((size_t)1 << 30) / layer + 1;
    l->layers = l->layers > MAX_LAYERS ? MAX_LAYERS : l->layers;
    l->pool_bytes = l->layers * layer;
    l->pool = fp__mem_alloc(l->pool_bytes);
    if (!l->pool)
        return fp__fail_context(FP_NO_MEMORY, "bench attention: %zu MiB of K/V", l->pool_bytes >> 20);
    for (size_t p = 0; p < b->pages; p++) /* the first layer holds what was checked */
        for (size_t i = 0; i < l->layers; i++)
            memcpy(l->pool + (p * l->layers + i) * group, b->content + (p + i) % b->contents * group, group);
    return FP_OK;
}

static fp_status time_cpu(lab *l, fp_bench_attention_result *out)
{
    const fp_bench_attention_options *o = &l->b.o;
    fp_status status = FP_OK;
    double us[FP__BENCH_MAX_RUNS];
    FP_TRY(fill_pool(l));
    point_at(l, l->pool, l->layers * o->kv_heads * l->b.slab_bytes, false);
    FP_TRY(plan_for(l, l->layers));
    l->out = take(&status, l->b.rows * o->d * sizeof *l->out);
    l->alpha = take(&status, l->b.rows * sizeof *l->alpha);
    if (status ==
        FP_OK) { /* the first layer of the timed pool once more, with the pages where they are now */
        l->run_layers = 1;
        fp__team_run(l->team, attend, l);
        if (memcmp(l->out, l->b.out, l->b.rows * o->d * sizeof *l->out) != 0)
            status = fp__fail(FP_MISMATCH, "bench attention: the same pages in other places give other bits");
        out->words_checked += l->b.rows * o->d;
        l->run_layers = l->layers;
    }
    for (uint32_t i = 0; i < o->runs && status == FP_OK; i++) {
        status = fp__attn_plan_step(l->plan, l->sequences, o->batch); /* its counters begin anew */
        uint64_t start = fp__now_ns();
        fp__team_run(l->team, attend, l);
        us[i] = (double)(fp__now_ns() - start) / 1e3 / (double)l->layers;
    }
    if (status == FP_OK)
        fp__bench_summary(us, o->runs, &out->layer);
    out->layers = (uint32_t)l->layers;
    fp__mem_free(l->out, l->b.rows * o->d * sizeof *l->out);
    fp__mem_free(l->alpha, l->b.rows * sizeof *l->alpha);
    return status;
}

static fp_status measure(lab *l, fp_bench_attention_result *out)
{
    const fp_bench_attention_options *o = &l->b.o;
    FP_TRY(fp__device_parse(o->device, &l->gpu));
    FP_TRY(fp__team_create(o->threads, &l->team));
    FP_TRY(make_inputs(l));
    size_t each = l->b.anchor_pages + l->b.context_pages;
    l->sequences = calloc(o->batch, sizeof *l->sequences);
    l->groups = malloc(o->batch * each * sizeof *l->groups);
    l->filled = malloc(l->b.anchor_pages + 1);
    l->g = malloc((size_t)MAX_LAYERS * o->heads * sizeof *l->g);
    if (!l->sequences || !l->groups || !l->filled || !l->g)
        return fp__fail(FP_NO_MEMORY, "bench attention: no memory");
    for (size_t j = 0; j < l->b.anchor_pages; j++)
        l->filled[j] = (uint8_t)fp__bench_filled(o->anchor, j);
    for (size_t i = 0; i < (size_t)MAX_LAYERS * o->heads; i++)
        l->g[i] = o->gamma_65536;
    FP_TRY(compute(l, &out->words_checked));
    if (l->gpu >= 0)
        FP_TRY(fp__bench_cuda_attention(l->gpu, &l->b, out));
    else
        FP_TRY(time_cpu(l, out));
    out->kv_bytes = l->b.pages * o->kv_heads * l->b.slab_bytes;
    out->kv_gb_s = (double)out->kv_bytes / out->layer.median_us / 1e3;
    out->pairs = (uint64_t)o->batch * o->heads *
                 ((uint64_t)o->tokens * (o->context - o->tokens + o->anchor) +
                  (uint64_t)o->tokens * (o->tokens + 1u) / 2);
    return FP_OK;
}

fp_status fp_bench_attention(const fp_bench_attention_options *options, fp_bench_attention_result *out)
{
    const fp__kernel_ops *ops;
    FP_TRY(fp__kernel_ops_get(&ops));
    return fp__bench_attention_with(options, ops, out);
}

fp_status fp__bench_attention_with(const fp_bench_attention_options *options, const fp__kernel_ops *ops,
                                   fp_bench_attention_result *out)
{
    *out = (fp_bench_attention_result){0};
    FP_TRY(check_options(options));
    lab *l = calloc(1, sizeof *l);
    if (!l)
        return fp__fail(FP_NO_MEMORY, "bench attention: no memory");
    l->b.o = *options;
    l->ops = ops;
    fp_status status = measure(l, out);
    fp__bench_attention *b = &l->b;
    fp__attn_plan_destroy(l->plan);
    fp__team_destroy(l->team);
    fp__mem_free(b->content, b->contents * options->kv_heads * b->slab_bytes);
    fp__mem_free(b->q, b->rows * options->d * sizeof *b->q);
    fp__mem_free(b->out, b->rows * options->d * sizeof *b->out);
    fp__mem_free(b->alpha, b->rows * sizeof *b->alpha);
    fp__mem_free(l->q16, b->rows * l->stride * sizeof *l->q16);
    fp__mem_free(l->s_q, b->rows * sizeof *l->s_q);
    fp__mem_free(l->pool, l->pool_bytes);
    free(l->sequences);
    free(l->groups);
    free(l->filled);
    free(l->g);
    free(l);
    return status;
}
