/* The host's side of a step: what changes from step to step (ids, places in the pages, attention's plan) goes
 * to fixed device buffers, so that the kernels of a step are a function of its number of tokens alone and can
 * be replayed. Two staging slots let the host prepare a step while the one before it runs. */
#include "model/cuda/forward_cuda.h"
#include "kernel/cuda/heads.h"
#include "kernel/cuda/try.h"
#include <stdlib.h>

/* Places of model/forward.c: an error code is layer·PLACES + place. */
enum place {
    AT_ATTN_NORM,
    AT_QK_NORM = 2,
    AT_ATTN_OUTPUT = 5,
    AT_FFN_NORM,
    AT_FFN_HIDDEN = 8,
    AT_OUTPUT_NORM,
    AT_LOGITS = 11,
    PLACES
};
static const char *const place_names[PLACES] = {"attention norm", "attention input", "query/key norm",
                                                "query",          "key or value",    "attention output",
                                                "FFN norm",       "FFN input",       "FFN hidden state",
                                                "output norm",    "output input",    "logits"};

/* A step that may still be running. */
typedef struct slot {
    fp__cuda_token *token;        // pinned [T], then rows [R], then ids [T]
    uint32_t *rows, *ids, *error; // pinned; error [T] comes back
    uint32_t *chosen;             // pinned [R] greedy tokens, come back too
    uint64_t *position;           // [S] first position of a span
    size_t *tokens;               // [S]
    size_t spans, n;              /* of the step; n 0: its errors were looked at */
    cudaEvent_t end;
} slot;

enum { GRAPHS = 2 * FP_CUDA_ATTENTION_FORMS }; /* of steps of so many sequences */
enum { LAYER_PRODUCTS = 6 };                   /* at most: q, k, v, o, gate and up, down */

struct fp__cuda_forward {
    const fp__cuda_model *m;
    fp__cuda_pool pool;
    fp__cuda_forward_limits limits;
    fp_cuda_attention *attention;
    fp_cuda_attention_sequence *sequences; // [S]
    cudaStream_t stream, capture; /* capture: graphs are made there, as others may use `stream` meanwhile */
    cudaGraphExec_t (*graphs)[GRAPHS]; // [S + 1][2·form of attention + wants mass]
    cudaGraphExec_t last_graph;
    void *memory, *pinned;
    size_t memory_bytes, pinned_bytes;
    slot slots[2];
    size_t step, n_logits; /* n_logits of the last step */
    bool want_mass;        /* the step in progress */
    size_t product;        /* of the step, that is enqueued next */
    uint64_t **mass_out;   // [S]
    size_t mass_spans;     /* of the step in progress, 0: none */

    /* device */
    fp__cuda_token *token;                // [T]
    uint32_t *rows, *ids, *error, *taken; /* taken: of each product */
    float *x, *qkv, *attn, *hidden, *up, *q_scales, *alpha, *logits;
    int8_t *q_planes;
    uint8_t *act;
    void *argmax;
    uint32_t *gamma, *gamma_host; // [L][S][H]; the host's is pinned
    uint64_t *mass, *mass_host;   // [S][L][H]
};

/* ---- memory: two passes over one list, the first only counts ------------------------------------------- */

static void *carve(void *memory, size_t *offset, size_t bytes)
{
    void *p = memory ? (uint8_t *)memory + *offset : NULL;
    *offset += (bytes + 255) & ~(size_t)255;
    return p;
}

static size_t max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

static void layout(fp__cuda_forward *f)
{
    const fp__hparams *hp = &f->m->hp;
    size_t T = f->limits.tokens, S = f->limits.sequences, R = f->limits.logits, Q = hp->heads * hp->head_dim,
           K = hp->kv_heads * hp->head_dim, o = 0;
    void *d = f->memory, *h = f->pinned;
    f->token = carve(d, &o, T * sizeof *f->token);
    f->rows = carve(d, &o, R * 4);
    f->ids = carve(d, &o, max_size(T, R) * 4);
    f->error = carve(d, &o, T * 4);
    f->taken = carve(d, &o, (hp->layers * LAYER_PRODUCTS + 1) * 4);
    f->x = carve(d, &o, T * hp->width * 4);
    f->qkv = carve(d, &o, T * (Q + 2 * K) * 4);
    f->attn = carve(d, &o, T * Q * 4);
    f->hidden = carve(d, &o, T * hp->ffn_width * 4);
    f->up = carve(d, &o, T * hp->ffn_width * 4);
    f->q_planes = carve(d, &o, T * Q * 2);
    f->q_scales = carve(d, &o, T * hp->heads * 4);
    f->alpha = carve(d, &o, T * hp->heads * 4);
    f->logits = carve(d, &o, R * hp->vocabulary * 4);
    f->argmax = carve(d, &o, R * 16);
    f->gamma = carve(d, &o, hp->layers * S * hp->heads * 4);
    f->mass = carve(d, &o, S * hp->layers * hp->heads * 8);
    f->act =
        carve(d, &o, fp__device_act_bytes(max_size(T, R), max_size(max_size(hp->width, Q), hp->ffn_width)));
    f->memory_bytes = o;
    o = 0;
    for (size_t i = 0; i < 2; i++) {
        f->slots[i].token = carve(h, &o, T * sizeof *f->token);
        f->slots[i].rows = carve(h, &o, R * 4);
        f->slots[i].ids = carve(h, &o, T * 4);
        f->slots[i].error = carve(h, &o, T * 4);
        f->slots[i].chosen = carve(h, &o, R * 4);
        f->slots[i].position = carve(h, &o, S * 8);
        f->slots[i].tokens = carve(h, &o, S * sizeof(size_t));
    }
    f->gamma_host = carve(h, &o, hp->layers * S * hp->heads * 4);
    f->mass_host = carve(h, &o, S * hp->layers * hp->heads * 8);
    f->pinned_bytes = o;
}

static fp_status allocate(fp__cuda_forward *f)
{
    layout(f);
    FP_CUDA(cudaMalloc(&f->memory, f->memory_bytes), "scratch memory of the forward pass");
    FP_CUDA(cudaMallocHost(&f->pinned, f->pinned_bytes), "staging memory of the forward pass");
    layout(f);
    memset(f->pinned, 0, f->pinned_bytes);
    FP_CUDA(cudaMemset(f->memory, 0, f->memory_bytes), "scratch memory of the forward pass");
    FP_CUDA(cudaStreamCreateWithFlags(&f->stream, cudaStreamNonBlocking), "a stream");
    FP_CUDA(cudaStreamCreateWithFlags(&f->capture, cudaStreamNonBlocking), "a stream");
    for (size_t i = 0; i < 2; i++)
        FP_CUDA(cudaEventCreateWithFlags(&f->slots[i].end, cudaEventDisableTiming), "an event");
    FP_CUDA(cudaDeviceSynchronize(), "scratch memory of the forward pass");
    f->sequences = calloc(f->limits.sequences, sizeof *f->sequences);
    f->mass_out = calloc(f->limits.sequences, sizeof *f->mass_out);
    f->graphs = calloc(f->limits.sequences + 1, sizeof *f->graphs);
    if (!f->sequences || !f->mass_out || !f->graphs)
        return fp__fail(FP_NO_MEMORY, "forward pass on the GPU: no memory");
    const fp__hparams *hp = &f->m->hp;
    fp_cuda_attention_config config = {.heads = (uint32_t)hp->heads,
                                       .kv_heads = (uint32_t)hp->kv_heads,
                                       .d = (uint32_t)hp->head_dim,
                                       .max_tokens = (uint32_t)f->limits.tokens,
                                       .max_sequences = (uint32_t)f->limits.sequences,
                                       .max_pages = (uint32_t)f->limits.pages};
    return fp_cuda_attention_create(&config, &f->attention);
}

fp_status fp__cuda_forward_create(const fp__cuda_model *m, const fp__cuda_pool *pool,
                                  fp__cuda_forward_limits limits, fp__cuda_forward **out)
{
    const fp__hparams *hp = &m->hp;
    if (limits.tokens == 0 || limits.tokens > 65535 || limits.sequences == 0 || limits.logits == 0)
        return fp__fail(FP_USAGE,
                        "forward pass on the GPU: steps have 1 to 65535 tokens, and room for logits");
    if (pool->group_bytes != hp->layers * hp->kv_heads * fp__slab_bytes(hp->head_dim))
        return fp__fail(FP_USAGE, "forward pass on the GPU: the pool's pages are of another model");
    fp__cuda_forward *f = calloc(1, sizeof *f);
    if (!f)
        return fp__fail(FP_NO_MEMORY, "forward pass on the GPU: no memory");
    f->m = m;
    f->pool = *pool;
    f->limits = limits;
    fp_status status = allocate(f);
    if (status != FP_OK) {
        fp__cuda_forward_destroy(f);
        return status;
    }
    *out = f;
    return FP_OK;
}

void fp__cuda_forward_destroy(fp__cuda_forward *f)
{
    if (!f)
        return;
    if (f->stream)
        (void)cudaStreamSynchronize(f->stream);
    for (size_t i = 0; f->graphs && i <= f->limits.sequences; i++)
        for (size_t k = 0; k < GRAPHS; k++)
            if (f->graphs[i][k])
                (void)cudaGraphExecDestroy(f->graphs[i][k]);
    for (size_t i = 0; i < 2; i++)
        if (f->slots[i].end)
            (void)cudaEventDestroy(f->slots[i].end);
    fp_cuda_attention_destroy(f->attention);
    if (f->capture)
        (void)cudaStreamDestroy(f->capture);
    if (f->stream)
        (void)cudaStreamDestroy(f->stream);
    (void)cudaFree(f->memory);
    (void)cudaFreeHost(f->pinned);
    free(f->sequences);
    free(f->mass_out);
    free(f->graphs);
    free(f);
}

/* ---- the kernels of a step ----------------------------------------------------------------------------- */

/* The input of the next product. */
static fp__cuda_input input_of(fp__cuda_forward *f, const float *rows, size_t width, const float *norm,
                               uint32_t code)
{
    fp__cuda_input in = {.x = rows,
                         .stride = width,
                         .norm = norm,
                         .eps = f->m->hp.norm_epsilon,
                         .width = (uint32_t)width,
                         .act = f->act,
                         .error = f->error,
                         .code = code,
                         .taken = f->taken + f->product++};
    return in;
}

static cudaError_t norm_linear(fp__cuda_forward *f, const float *norm, uint32_t code,
                               const fp__cuda_weight *w, uint32_t T, const float *bias, float *y,
                               size_t stride)
{
    fp__cuda_input in = input_of(f, f->x, f->m->hp.width, norm, code);
    return fp__cuda_linear_from(&in, w, T, bias, NULL, y, stride, f->stream);
}

/* x += W·rows */
static cudaError_t residual_linear(fp__cuda_forward *f, const float *rows, size_t width, uint32_t code,
                                   const fp__cuda_weight *w, uint32_t T)
{
    fp__cuda_input in = input_of(f, rows, width, NULL, code);
    return fp__cuda_linear_from(&in, w, T, NULL, f->x, f->x, f->m->hp.width, f->stream);
}

/* From prepared heads to f->attn. */
static fp_status attention(fp__cuda_forward *f, size_t i, uint32_t T)
{
    const fp__hparams *hp = &f->m->hp;
    size_t H = hp->heads;
    if (fp__cuda_tune.no_attention)
        return FP_OK;
    fp_cuda_attention_run_args args = {.q_planes = f->q_planes,
                                       .q_scales = f->q_scales,
                                       .kv = f->pool.kv,
                                       .group_bytes = f->pool.group_bytes,
                                       .layer_offset = i * hp->kv_heads * fp__slab_bytes(hp->head_dim),
                                       .gamma = f->gamma + i * f->limits.sequences * H,
                                       .out = f->attn,
                                       .alpha = f->want_mass ? f->alpha : NULL};
    FP_TRY(fp_cuda_attention_run(f->attention, &args, f->stream));
    if (f->want_mass)
        FP_CUDA(
            fp__cuda_add_mass(f->alpha, f->token, T, (uint32_t)H, f->mass + i * H, hp->layers * H, f->stream),
            "the anchor's mass");
    return FP_OK;
}

static fp_status attention_half(fp__cuda_forward *f, size_t i, uint32_t T)
{
    const fp__hparams *hp = &f->m->hp;
    const fp__cuda_layer *l = &f->m->layers[i];
    size_t H = hp->heads, HK = hp->kv_heads, d = hp->head_dim, stride = (H + 2 * HK) * d, at = 0;
    uint32_t code = (uint32_t)(i * PLACES);
    for (size_t k = 0; k < l->n_qkv; at += l->qkv[k++].rows)
        FP_CUDA(norm_linear(f, l->attn_norm, code + AT_ATTN_NORM, &l->qkv[k], T,
                            l->qkv_bias ? l->qkv_bias + at : NULL, f->qkv + at, stride),
                "the product with Q, K and V");
    size_t layer_offset = i * HK * fp__slab_bytes(d);
    fp__cuda_heads heads = {.qkv = f->qkv,
                            .heads = (uint32_t)H,
                            .kv_heads = (uint32_t)HK,
                            .d = (uint32_t)d,
                            .n_rot = (uint32_t)hp->n_rot,
                            .halves = hp->rope_layout == FP__ROPE_HALVES,
                            .eps = hp->norm_epsilon,
                            .q_norm = l->q_norm,
                            .k_norm = l->k_norm,
                            .cos = f->m->rope_cos,
                            .sin = f->m->rope_sin,
                            .token = f->token,
                            .q_planes = f->q_planes,
                            .q_scales = f->q_scales,
                            .kv = f->pool.kv,
                            .group_bytes = f->pool.group_bytes,
                            .layer_offset = layer_offset,
                            .error = f->error,
                            .code = code + AT_QK_NORM};
    FP_CUDA(fp__cuda_prepare_heads(&heads, T, f->stream), "queries, keys and values");
    FP_TRY(attention(f, i, T));
    FP_CUDA(residual_linear(f, f->attn, H * d, code + AT_ATTN_OUTPUT, &l->wo, T), "the attention's output");
    return FP_OK;
}

static fp_status ffn_half(fp__cuda_forward *f, size_t i, uint32_t T)
{
    const fp__cuda_layer *l = &f->m->layers[i];
    size_t F = f->m->hp.ffn_width;
    uint32_t code = (uint32_t)(i * PLACES);
    FP_CUDA(norm_linear(f, l->ffn_norm, code + AT_FFN_NORM, &l->gate_up, T, NULL, f->hidden, F), "the FFN");
    if (l->gate_up.gated) {
        FP_CUDA(residual_linear(f, f->hidden, F, code + AT_FFN_HIDDEN, &l->down, T), "the FFN");
        return FP_OK;
    }
    FP_CUDA(norm_linear(f, l->ffn_norm, code + AT_FFN_NORM, &l->up, T, NULL, f->up, F), "the FFN");
    FP_CUDA(fp__cuda_quantise(f->hidden, f->up, F, T, (uint32_t)F, f->act, f->error, code + AT_FFN_HIDDEN,
                              f->stream),
            "the FFN");
    FP_CUDA(fp__cuda_linear(&l->down, f->act, T, NULL, f->x, f->x, f->m->hp.width, f->stream), "the FFN");
    return FP_OK;
}

/* each: logits of every token, in order */
static fp_status output(fp__cuda_forward *f, uint32_t n_rows, bool each)
{
    const fp__hparams *hp = &f->m->hp;
    const uint32_t *rows = each ? NULL : f->rows;
    uint32_t code = (uint32_t)(hp->layers * PLACES), C = (uint32_t)hp->width, V = (uint32_t)hp->vocabulary;
    if (n_rows == 0)
        return FP_OK;
    f->product = f->m->hp.layers * LAYER_PRODUCTS;
    if (each) {
        FP_CUDA(norm_linear(f, f->m->output_norm, code + AT_OUTPUT_NORM, &f->m->output, n_rows, NULL,
                            f->logits, V),
                "the logits");
    } else {
        FP_CUDA(fp__cuda_norm_quantise(f->x, rows, f->m->output_norm, hp->norm_epsilon, n_rows, C, f->act,
                                       f->error, code + AT_OUTPUT_NORM, f->stream),
                "the logits");
        FP_CUDA(fp__cuda_linear(&f->m->output, f->act, n_rows, NULL, NULL, f->logits, V, f->stream),
                "the logits");
    }
    FP_CUDA(
        fp__cuda_argmax(f->logits, n_rows, V, rows, f->ids, f->argmax, f->error, code + AT_LOGITS, f->stream),
        "the greedy choice");
    return FP_OK;
}

static fp_status enqueue(fp__cuda_forward *f, uint32_t T, uint32_t n_rows, bool each)
{
    f->product = 0;
    FP_CUDA(fp__cuda_embed(&f->m->embedding, f->ids, T, (uint32_t)f->m->hp.width, f->x, f->error, f->stream),
            "the embedding");
    for (size_t i = 0; i < f->m->hp.layers; i++) {
        FP_TRY(attention_half(f, i, T));
        FP_TRY(ffn_half(f, i, T));
    }
    return output(f, n_rows, each);
}

static fp_status make_graph(fp__cuda_forward *f, uint32_t T, cudaGraphExec_t *out)
{
    cudaGraph_t graph = NULL;
    cudaStream_t stream = f->stream;
    FP_CUDA(cudaStreamBeginCapture(f->capture, cudaStreamCaptureModeRelaxed), "the capture of a step");
    f->stream = f->capture;
    fp_status status = enqueue(f, T, T, true);
    f->stream = stream;
    cudaError_t e = cudaStreamEndCapture(f->capture, &graph);
    if (status == FP_OK)
        status = fp__cuda_status(e, "the capture of a step");
    if (status == FP_OK)
        status = fp__cuda_status(cudaGraphInstantiate(out, graph, 0), "the graph of a step");
    if (graph)
        (void)cudaGraphDestroy(graph);
    return status;
}

/* ---- steps --------------------------------------------------------------------------------------------- */

/* The lowest position with an error (arithmetic §0). */
static fp_status check_errors(slot *s, size_t *bad_span)
{
    uint64_t lowest = UINT64_MAX;
    uint32_t code = FP__CUDA_NO_ERROR;
    size_t row = 0;
    for (size_t i = 0; i < s->n; i++)
        for (size_t t = 0; t < s->tokens[i]; t++, row++)
            if (s->error[row] != FP__CUDA_NO_ERROR && s->position[i] + t < lowest) {
                lowest = s->position[i] + t;
                code = s->error[row];
                if (bad_span)
                    *bad_span = i;
            }
    s->n = 0;
    if (code == FP__CUDA_NO_ERROR)
        return FP_OK;
    return fp__fail(FP_NUMERIC,
                    "position %llu, layer %u, %s: a number left the range of canonical arithmetic (is the "
                    "model damaged?)",
                    (unsigned long long)lowest, code / PLACES, place_names[code % PLACES]);
}

static fp_status check_span(const fp__cuda_forward *f, const fp__cuda_span *s, size_t tokens_before)
{
    if (s->tokens == 0 || s->tokens > f->limits.tokens - tokens_before)
        return fp__fail(FP_LIMIT, "a step on the GPU takes 1 to %zu tokens", f->limits.tokens);
    if (s->position > f->m->rope_positions || s->tokens > f->m->rope_positions - s->position)
        return fp__fail(FP_LIMIT, "the rotary table on the GPU ends at position %zu", f->m->rope_positions);
    for (size_t t = 0; s->ids && t < s->tokens; t++)
        if (s->ids[t] >= f->m->hp.vocabulary)
            return fp__fail(FP_USAGE, "token id %u is outside of the vocabulary (%zu)", s->ids[t],
                            f->m->hp.vocabulary);
    for (size_t p = s->slot / FP__PAGE_TOKENS; p <= (s->slot + s->tokens - 1) / FP__PAGE_TOKENS; p++)
        if (s->pages[p] >= f->pool.pages)
            return fp__fail(FP_USAGE, "page %u is outside of the GPU's pool (%u)", s->pages[p],
                            f->pool.pages);
    const fp_cuda_attention_segment *segments[2] = {&s->anchor, &s->context};
    for (size_t k = 0; k < 2; k++)
        for (size_t p = 0; p < segments[k]->n_pages; p++)
            if (segments[k]->pages[p] >= f->pool.pages)
                return fp__fail(FP_USAGE, "page %u is outside of the GPU's pool (%u)", segments[k]->pages[p],
                                f->pool.pages);
    return FP_OK;
}

/* γ seldom changes: it is copied when it does. */
static fp_status set_gamma(fp__cuda_forward *f, const fp__cuda_span *spans, size_t n)
{
    size_t L = f->m->hp.layers, H = f->m->hp.heads, S = f->limits.sequences;
    bool changed = false;
    for (size_t i = 0; i < n; i++)
        for (size_t l = 0; l < L; l++)
            for (size_t h = 0; h < H; h++) {
                uint32_t g = spans[i].g ? spans[i].g[l * H + h] : 0,
                         *to = &f->gamma_host[(l * S + i) * H + h];
                if (*to == g)
                    continue;
                if (!changed)
                    FP_CUDA(cudaStreamSynchronize(f->stream), "the steps before");
                changed = true;
                *to = g;
            }
    if (changed)
        FP_CUDA(cudaMemcpyAsync(f->gamma, f->gamma_host, L * S * H * 4, cudaMemcpyHostToDevice, f->stream),
                "the copy of γ");
    return FP_OK;
}

/* Fills the slot and attention's sequences; *tokens of the step, *own_ids: no span continues on the device.
 */
static fp_status lay_out(fp__cuda_forward *f, slot *s, const fp__cuda_span *spans, size_t n, size_t *tokens,
                         bool *own_ids)
{
    size_t T = 0;
    f->want_mass = false;
    *own_ids = n == 0 || spans[0].ids;
    for (size_t i = 0; i < n; i++) {
        const fp__cuda_span *span = &spans[i];
        FP_TRY(check_span(f, span, T));
        if ((span->ids != NULL) != *own_ids || (!span->ids && (span->tokens != 1 || n != f->n_logits)))
            return fp__fail(FP_USAGE, "a step continues all spans of the step before, or none");
        bool mass = span->mass && span->anchor.n_pages > 0;
        for (size_t t = 0; t < span->tokens; t++) {
            size_t at = span->slot + t;
            s->token[T + t] =
                (fp__cuda_token){(uint32_t)(span->position + t), span->pages[at / FP__PAGE_TOKENS],
                                 (uint32_t)(at % FP__PAGE_TOKENS), mass ? (uint32_t)i : FP__CUDA_NO_MASS};
            if (span->ids)
                s->ids[T + t] = span->ids[t];
        }
        f->sequences[i] = (fp_cuda_attention_sequence){(uint32_t)T,   (uint32_t)span->tokens, span->anchor,
                                                       span->context, (uint32_t)span->mode,   (uint32_t)i};
        f->mass_out[i] = mass ? span->mass : NULL;
        f->want_mass = f->want_mass || mass;
        s->position[i] = span->position;
        s->tokens[i] = span->tokens;
        T += span->tokens;
    }
    *tokens = T;
    return FP_OK;
}

static fp_status copy_in(fp__cuda_forward *f, const slot *s, size_t T, size_t n_rows, bool each, bool own_ids)
{
    FP_CUDA(cudaMemcpyAsync(f->token, s->token, T * sizeof *s->token, cudaMemcpyHostToDevice, f->stream),
            "the copy of a step");
    if (own_ids)
        FP_CUDA(cudaMemcpyAsync(f->ids, s->ids, T * 4, cudaMemcpyHostToDevice, f->stream),
                "the copy of a step");
    if (!each && n_rows > 0)
        FP_CUDA(cudaMemcpyAsync(f->rows, s->rows, n_rows * 4, cudaMemcpyHostToDevice, f->stream),
                "the copy of a step");
    if (f->want_mass)
        FP_CUDA(cudaMemsetAsync(f->mass, 0, f->limits.sequences * f->m->hp.layers * f->m->hp.heads * 8,
                                f->stream),
                "the anchor's mass");
    return FP_OK;
}

static fp_status copy_out(fp__cuda_forward *f, slot *s, size_t T, size_t n_rows)
{
    FP_CUDA(cudaMemcpyAsync(s->error, f->error, T * 4, cudaMemcpyDeviceToHost, f->stream),
            "the errors of a step");
    if (n_rows > 0)
        FP_CUDA(cudaMemcpyAsync(s->chosen, f->ids, n_rows * 4, cudaMemcpyDeviceToHost, f->stream),
                "the tokens of a step");
    return FP_OK;
}

static fp_status start(fp__cuda_forward *f, size_t n, uint32_t T, uint32_t n_rows, bool each)
{
    f->last_graph = NULL;
    if (!each || T != n)
        return enqueue(f, T, n_rows, each);
    cudaGraphExec_t *graph = &f->graphs[T][2 * fp_cuda_attention_form(f->attention) + f->want_mass];
    if (!*graph)
        FP_TRY(make_graph(f, T, graph));
    f->last_graph = *graph;
    FP_CUDA(cudaGraphLaunch(*graph, f->stream), "the start of a step");
    return FP_OK;
}

fp_status fp__cuda_forward_step(fp__cuda_forward *f, const fp__cuda_span *spans, size_t n, const size_t *rows,
                                size_t n_rows)
{
    slot *s = &f->slots[f->step % 2];
    size_t T;
    bool own_ids, each = true;
    if (n == 0 || n > f->limits.sequences || n_rows > f->limits.logits)
        return fp__fail(FP_LIMIT, "a step on the GPU takes 1 to %zu sequences and up to %zu rows of logits",
                        f->limits.sequences, f->limits.logits);
    if (f->mass_spans > 0)
        return fp__fail(FP_USAGE, "the step before counts mass; call fp__cuda_forward_wait first");
    FP_CUDA(cudaEventSynchronize(s->end), "an earlier step");
    FP_TRY(check_errors(s, NULL));
    FP_TRY(lay_out(f, s, spans, n, &T, &own_ids));
    for (size_t i = 0; i < n_rows; i++) {
        if (rows[i] >= T)
            return fp__fail(FP_USAGE, "row %zu is outside of a step of %zu tokens", rows[i], T);
        s->rows[i] = (uint32_t)rows[i];
        each = each && rows[i] == i;
    }
    each = each && n_rows == T;
    FP_TRY(fp_cuda_attention_plan(f->attention, f->sequences, n, f->stream));
    FP_TRY(set_gamma(f, spans, n));
    FP_TRY(copy_in(f, s, T, n_rows, each, own_ids));
    FP_TRY(start(f, n, (uint32_t)T, (uint32_t)n_rows, each));
    FP_TRY(copy_out(f, s, T, n_rows));
    if (f->want_mass)
        FP_CUDA(cudaMemcpyAsync(f->mass_host, f->mass, n * f->m->hp.layers * f->m->hp.heads * 8,
                                cudaMemcpyDeviceToHost, f->stream),
                "the anchor's mass");
    FP_CUDA(cudaEventRecord(s->end, f->stream), "an event");
    s->n = s->spans = n;
    f->n_logits = n_rows;
    f->mass_spans = f->want_mass ? n : 0;
    f->step++;
    return FP_OK;
}

fp_status fp__cuda_forward_project(fp__cuda_forward *f, const size_t *rows, size_t n_rows)
{
    slot *s = &f->slots[(f->step + 1) % 2]; /* of the last step */
    size_t T = 0;
    if (f->step == 0 || n_rows > f->limits.logits)
        return fp__fail(FP_LIMIT, "up to %zu rows of logits, after a step on the GPU", f->limits.logits);
    for (size_t i = 0; i < s->spans; i++)
        T += s->tokens[i];
    for (size_t i = 0; i < n_rows; i++) {
        if (rows[i] >= T)
            return fp__fail(FP_USAGE, "row %zu is outside of a step of %zu tokens", rows[i], T);
        s->rows[i] = (uint32_t)rows[i];
    }
    FP_CUDA(cudaMemcpyAsync(f->rows, s->rows, n_rows * 4, cudaMemcpyHostToDevice, f->stream),
            "the copy of the rows");
    FP_TRY(output(f, (uint32_t)n_rows, false));
    FP_TRY(copy_out(f, s, T, n_rows));
    FP_CUDA(cudaEventRecord(s->end, f->stream), "an event");
    s->n = s->spans;
    f->n_logits = n_rows;
    return FP_OK;
}

fp_status fp__cuda_forward_wait(fp__cuda_forward *f, size_t *bad_span)
{
    size_t words = f->m->hp.layers * f->m->hp.heads, mass_spans = f->mass_spans;
    f->mass_spans = 0;
    FP_CUDA(cudaStreamSynchronize(f->stream), "a step");
    for (size_t i = 0; i < 2; i++) /* the older one first */
        FP_TRY(check_errors(&f->slots[(f->step + i) % 2], bad_span));
    for (size_t i = 0; i < mass_spans; i++)
        for (size_t k = 0; f->mass_out[i] && k < words; k++)
            f->mass_out[i][k] += f->mass_host[i * words + k];
    return FP_OK;
}

fp_status fp__cuda_forward_read_rows(fp__cuda_forward *f, size_t first, size_t n, float *logits)
{
    size_t V = f->m->hp.vocabulary;
    if (n > f->n_logits || first > f->n_logits - n)
        return fp__fail(FP_USAGE, "the last step has logits of %zu rows", f->n_logits);
    FP_CUDA(cudaStreamSynchronize(f->stream), "a step");
    FP_CUDA(cudaMemcpy(logits, f->logits + first * V, n * V * 4, cudaMemcpyDeviceToHost),
            "the copy of the logits");
    return FP_OK;
}

fp_status fp__cuda_forward_read(fp__cuda_forward *f, float *logits, uint32_t *tokens)
{
    size_t n = f->n_logits;
    FP_CUDA(cudaStreamSynchronize(f->stream), "a step");
    if (logits)
        FP_TRY(fp__cuda_forward_read_rows(f, 0, n, logits));
    if (tokens)
        memcpy(tokens, f->slots[(f->step + 1) % 2].chosen, n * 4);
    return FP_OK;
}

void *fp__cuda_forward_stream(fp__cuda_forward *f)
{
    return f->stream;
}

fp_status fp__cuda_forward_replay(fp__cuda_forward *f)
{
    if (!f->last_graph)
        return fp__fail(FP_USAGE, "the last step was not a graph");
    FP_CUDA(cudaGraphLaunch(f->last_graph, f->stream), "the start of a step");
    return FP_OK;
}
