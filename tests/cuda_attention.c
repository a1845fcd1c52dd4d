/* Attention on the GPU against its definition, bit for bit, and its speed. Needs a GPU and core, exact and
 * kernel/cuda only, so that one binary can be carried to a machine that has one.
 *
 *   cuda_attention --check [cases]   painted and random inputs; every output word compared (exit 1 if one
 * differs) cuda_attention --brief           few small cases, for compute-sanitizer cuda_attention --bench
 * [case]    JSON: times of decode, shared anchors and prefill beside the device's copy rate */
#include "fieldprint/cuda_attention.h"
#include "exact/exact.h"
#include "kernel/cuda/attention_tuning.h"

#include <cuda_runtime_api.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define CUDA(call)                                                                                           \
    do {                                                                                                     \
        cudaError_t cuda_error = (call);                                                                     \
        if (cuda_error != cudaSuccess) {                                                                     \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, cudaGetErrorString(cuda_error));              \
            exit(3);                                                                                         \
        }                                                                                                    \
    } while (0)
#define OK(call)                                                                                             \
    do {                                                                                                     \
        if ((call) != FP_OK) {                                                                               \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, fp_error_detail());                           \
            exit(3);                                                                                         \
        }                                                                                                    \
    } while (0)

static int failures;
static uint64_t random_state = 1;
static uint64_t random_bits(void) /* splitmix64 (Steele, Lea, Flood 2014) */
{
    uint64_t z = random_state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}
static uint32_t random_below(uint32_t n)
{
    return (uint32_t)(random_bits() % n);
}
static float random_float(float range)
{
    return ((float)random_below(2000001) / 1000000.0f - 1.0f) * range;
}

static void *allocate(size_t bytes)
{
    void *p = calloc(1, bytes ? bytes : 1);
    if (!p) {
        fprintf(stderr, "no memory for %zu bytes\n", bytes);
        exit(3);
    }
    return p;
}
static void *device_copy(const void *from, size_t bytes)
{
    void *p;
    CUDA(cudaMalloc(&p, bytes ? bytes : 1));
    CUDA(cudaMemcpy(p, from, bytes, cudaMemcpyHostToDevice));
    return p;
}

/* ---- painted pages and queries ------------------------------------------------------------------------- */

enum { RANDOM, EXTREME, ZERO_SCALES, SOME_ZERO_SCALES, TINY, HUGE_SCALES, TIES, SIGNED_ZEROS, GAPS, PAINTS };

static void put_scale(uint8_t *at, float x)
{
    uint32_t bits = fp__float_bits(x);
    at[0] = (uint8_t)(bits >> 16);
    at[1] = (uint8_t)(bits >> 24);
}

static float paint_scale(int paint, size_t t, bool value)
{
    switch (paint) {
    case ZERO_SCALES:
        return 0.0f;
    case SOME_ZERO_SCALES:
        return t % 3 == 0 ? 0.0f : 0x1p-7f;
    case TINY:
        return t % 5 == 0 ? 0x1p-71f : 0x1.8p-70f;
    case HUGE_SCALES:
        return t % 7 == 0 ? 0x1.fep41f : 0x1p-60f;
    case TIES:
        return 0x1p-9f;
    case SIGNED_ZEROS:
        return value ? 0x1p-5f : 0.0f;
    case GAPS:
        return value ? 0x1p-5f : 0x1p0f * (float)(1 + t % 4);
    default:
        return 0x1p-9f + (float)random_below(255) * 0x1p-15f;
    }
}

static void paint_slab(int paint, size_t d, uint8_t *slab)
{
    int8_t *k = (int8_t *)slab, *v = k + 64 * d;
    for (size_t i = 0; i < 64 * d; i++) {
        uint64_t bits = random_bits();
        k[i] = (int8_t)bits;
        v[i] = (int8_t)(bits >> 8);
        if (paint == EXTREME) {
            k[i] = bits >> 20 & 1 ? 127 : -128;
            v[i] = i / 64 % 3 == 0 ? 127 : i / 64 % 3 == 1 ? -128 : k[i];
        }
        if (paint == TIES)
            k[i] = (int8_t)(i % d % 5);
    }
    for (size_t t = 0; t < 64; t++) {
        put_scale(slab + 128 * d + 2 * t, paint_scale(paint, t, false));
        put_scale(slab + 128 * d + 128 + 2 * t, paint_scale(paint, t, true));
    }
}

static void paint_query(int paint, size_t r, size_t d, int16_t *q16, float *s_q)
{
    for (size_t j = 0; j < d; j++)
        q16[j] = (int16_t)((int)random_below(65025) - 32512);
    if (paint == EXTREME || paint == GAPS)
        for (size_t j = 0; j < d; j++)
            q16[j] = random_below(2) ? 32512 : -32512;
    if (paint == SIGNED_ZEROS && r % 2)
        memset(q16, 0, d * sizeof *q16);
    *s_q = paint == HUGE_SCALES ? 0x1p-40f : paint == TINY ? 0x1p33f : 0x1p-14f * (float)(1 + r % 3);
}

/* ---- one case ------------------------------------------------------------------------------------------ */

struct lab {
    uint32_t d, heads, kv_heads, group, tokens, layers, layer;
    uint32_t pool_pages;
    size_t slab_bytes, group_bytes, layer_offset;
    uint8_t *pool;   // [pool_pages][layers][HK][slab]
    int16_t *q16;    // [T][H][d]
    int8_t *planes;  // [T][H][2][d]
    float *s_q;      // [T][H]
    uint32_t *gamma; // [GAMMA_ROWS][H]
    fp_cuda_attention_sequence *sequences;
    size_t n;
    float *out, *alpha; // expected
    size_t next_row;    // work counter of the reference threads
    pthread_mutex_t lock;
};
enum { GAMMA_ROWS = 3 };

static uint32_t seen_tokens(const fp_cuda_attention_segment *s, uint32_t p, uint32_t i)
{
    if (p < s->causal_page)
        return s->filled ? s->filled[p] : 64;
    uint32_t seen = s->causal_tokens + i + 1, before = (p - s->causal_page) * 64;
    return seen <= before ? 0 : seen - before < 64 ? seen - before : 64;
}

static void expect_segment(const struct lab *c, const fp_cuda_attention_segment *s, uint32_t i,
                           uint32_t kv_head, const int16_t *q16, float s_q, fp__attn_state *out)
{
    const uint8_t **slabs = allocate(s->n_pages * sizeof *slabs);
    uint8_t *visible = allocate(s->n_pages);
    for (uint32_t p = 0; p < s->n_pages; p++) {
        slabs[p] = c->pool + s->pages[p] * c->group_bytes + c->layer_offset + kv_head * c->slab_bytes;
        visible[p] = (uint8_t)seen_tokens(s, p, i);
    }
    fp__exact_attend(q16, s_q, c->d, slabs, visible, s->n_pages, out);
    free(slabs);
    free(visible);
}

static void expect_row(const struct lab *c, uint32_t token, uint32_t head)
{
    const fp_cuda_attention_sequence *s = NULL;
    for (size_t i = 0; i < c->n; i++)
        if (token >= c->sequences[i].first_token &&
            token < c->sequences[i].first_token + c->sequences[i].tokens)
            s = &c->sequences[i];
    size_t row = (size_t)token * c->heads + head;
    fp__attn_state anchor, context;
    uint32_t i = token - s->first_token, kv_head = head / c->group;
    expect_segment(c, &s->anchor, i, kv_head, c->q16 + row * c->d, c->s_q[row], &anchor);
    expect_segment(c, &s->context, i, kv_head, c->q16 + row * c->d, c->s_q[row], &context);
    c->alpha[row] = fp__exact_mix(&anchor, &context, (fp__injection_mode)s->mode,
                                  c->gamma[s->gamma_row * c->heads + head], c->d, c->out + row * c->d);
}

static void *reference_thread(void *arg)
{
    struct lab *c = arg;
    for (;;) {
        pthread_mutex_lock(&c->lock);
        size_t first = c->next_row;
        c->next_row += 8;
        pthread_mutex_unlock(&c->lock);
        size_t rows = (size_t)c->tokens * c->heads;
        for (size_t r = first; r < first + 8 && r < rows; r++)
            expect_row(c, (uint32_t)(r / c->heads), (uint32_t)(r % c->heads));
        if (first + 8 >= rows)
            return NULL;
    }
}

static void expect_all(struct lab *c)
{
    pthread_t threads[64];
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    n = n > 64 ? 64 : n;
    c->next_row = 0;
    pthread_mutex_init(&c->lock, NULL);
    for (long i = 0; i < n; i++)
        pthread_create(&threads[i], NULL, reference_thread, c);
    for (long i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
}

static void make_segment(const struct lab *c, uint32_t prefix, uint32_t causal_tokens, uint32_t tokens,
                         bool causal, fp_cuda_attention_segment *s)
{
    uint32_t tail = causal ? (causal_tokens + tokens + 63) / 64 : 0;
    uint32_t *pages = allocate((prefix + tail + 1) * sizeof *pages);
    uint8_t *filled = random_below(3) ? allocate(prefix) : NULL;
    for (uint32_t p = 0; p < prefix + tail; p++)
        pages[p] = random_below(c->pool_pages);
    for (uint32_t p = 0; filled && p < prefix; p++)
        filled[p] = (uint8_t)(random_below(3) ? 64 : 1 + random_below(64));
    s->pages = pages;
    s->filled = filled;
    s->n_pages = prefix + tail;
    s->causal_page = prefix;
    s->causal_tokens = causal_tokens;
}

static void make_lab(struct lab *c, uint32_t d, uint32_t kv_heads, uint32_t group, uint32_t tokens,
                     uint32_t pool_pages, int paint)
{
    memset(c, 0, sizeof *c);
    c->d = d, c->kv_heads = kv_heads, c->group = group, c->heads = kv_heads * group, c->tokens = tokens;
    c->layers = 2, c->layer = random_below(2), c->pool_pages = pool_pages;
    c->slab_bytes = fp__slab_bytes(d);
    c->group_bytes = c->layers * kv_heads * c->slab_bytes;
    c->layer_offset = c->layer * kv_heads * c->slab_bytes;
    c->pool = allocate(pool_pages * c->group_bytes);
    for (size_t i = 0; i < (size_t)pool_pages * c->layers * kv_heads; i++)
        paint_slab(paint == PAINTS ? (int)random_below(PAINTS) : paint, d, c->pool + i * c->slab_bytes);
    size_t rows = (size_t)tokens * c->heads;
    c->q16 = allocate(rows * d * sizeof *c->q16);
    c->planes = allocate(rows * d * 2);
    c->s_q = allocate(rows * sizeof *c->s_q);
    for (size_t r = 0; r < rows; r++) {
        paint_query(paint == PAINTS ? (int)random_below(PAINTS) : paint, r, d, c->q16 + r * d, &c->s_q[r]);
        for (size_t j = 0; j < d; j++) {
            int q = c->q16[r * d + j], hi = (q + 128) >> 8;
            c->planes[r * 2 * d + j] = (int8_t)hi;
            c->planes[r * 2 * d + d + j] = (int8_t)(q - 256 * hi);
        }
    }
    c->gamma = allocate(GAMMA_ROWS * c->heads * sizeof *c->gamma);
    for (size_t i = 0; i < GAMMA_ROWS * (size_t)c->heads; i++)
        c->gamma[i] = random_below(4) == 0 ? 0 : random_below(4) == 0 ? 65536 : random_below(65537);
    c->out = allocate(rows * d * sizeof *c->out);
    c->alpha = allocate(rows * sizeof *c->alpha);
}

static void free_lab(struct lab *c)
{
    for (size_t i = 0; i < c->n; i++) {
        bool shared = false;
        for (size_t k = 0; k < i; k++)
            shared = shared || c->sequences[k].anchor.pages == c->sequences[i].anchor.pages;
        if (!shared) {
            free((void *)c->sequences[i].anchor.pages);
            free((void *)c->sequences[i].anchor.filled);
        }
        free((void *)c->sequences[i].context.pages);
        free((void *)c->sequences[i].context.filled);
    }
    free(c->sequences), free(c->pool), free(c->q16), free(c->planes), free(c->s_q), free(c->gamma),
        free(c->out);
    free(c->alpha);
}

/* Sequences of a case. tokens_max: query tokens per sequence; anchors: 0 none, 1 own, 2 some shared, 3 one
 * for all. */
static void make_sequences(struct lab *c, size_t n, uint32_t tokens_max, int anchors, uint32_t anchor_pages,
                           uint32_t context_pages)
{
    c->n = n;
    c->sequences = allocate(n * sizeof *c->sequences);
    uint32_t token = 0;
    for (size_t i = 0; i < n; i++) {
        fp_cuda_attention_sequence *s = &c->sequences[i];
        s->first_token = token;
        s->tokens = i + 1 == n ? c->tokens - token : 1 + random_below(tokens_max);
        if (i + 1 < n && token + s->tokens + (n - i - 1) > c->tokens)
            s->tokens = 1;
        token += s->tokens;
        s->mode = random_below(3);
        s->gamma_row = random_below(GAMMA_ROWS);
        if (anchors == 3 && i > 0)
            s->anchor = c->sequences[0].anchor;
        else if (anchors == 2 && i > 0 && random_below(2))
            s->anchor = c->sequences[random_below((uint32_t)i)].anchor;
        else
            make_segment(c, anchors ? random_below(anchor_pages + 1) : 0, 0, 0, false, &s->anchor);
        bool empty = s->anchor.n_pages && random_below(6) == 0;
        uint32_t prefix = random_below(2) ? random_below(context_pages + 1) : 0;
        make_segment(c, empty ? 0 : prefix, random_below(context_pages * 64 + 1), s->tokens, !empty,
                     &s->context);
    }
}

struct device_lab {
    int8_t *planes;
    float *s_q, *out, *alpha;
    uint8_t *pool;
    uint32_t *gamma;
};

static size_t count_wrong(const struct lab *c, const struct device_lab *g, const char *name, int variant)
{
    size_t rows = (size_t)c->tokens * c->heads, n = rows * c->d, wrong = 0, first = 0;
    float *out = allocate(n * 4), *alpha = allocate(rows * 4);
    CUDA(cudaMemcpy(out, g->out, n * 4, cudaMemcpyDeviceToHost));
    CUDA(cudaMemcpy(alpha, g->alpha, rows * 4, cudaMemcpyDeviceToHost));
    for (size_t i = 0; i < n; i++)
        if (fp__float_bits(out[i]) != fp__float_bits(c->out[i]) && !wrong++)
            first = i;
    for (size_t i = 0; i < rows; i++)
        if (fp__float_bits(alpha[i]) != fp__float_bits(c->alpha[i]) && !wrong++)
            first = n + i;
    if (wrong && name && ++failures <= 30) {
        size_t at = first < n ? first : 0;
        printf("WRONG %s variant %d: %zu of %zu words, first %zu (token %zu head %zu channel %zu): %a, "
               "expected %a\n",
               name, variant, wrong, n + rows, first, at / c->d / c->heads, at / c->d % c->heads, at % c->d,
               (double)out[at], (double)c->out[at]);
    }
    free(out);
    free(alpha);
    return wrong;
}

static size_t words_checked, words_wrong;
static uint32_t choices[FP__TUNE_COUNT]; /* those asked for, where a plan is created */
static bool brief;                       /* under a tool that makes everything slow: each case once */

static void poison(const struct lab *c, const struct device_lab *g)
{
    size_t rows = (size_t)c->tokens * c->heads;
    CUDA(cudaMemset(g->out, 0xa5, rows * c->d * 4));
    CUDA(cudaMemset(g->alpha, 0xa5, rows * 4));
}

/* The second and third run begin before the one before them ends. */
static void run_thrice(fp_cuda_attention *plan, const fp_cuda_attention_run_args *args, bool in_a_graph)
{
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    CUDA(cudaStreamCreate(&stream));
    if (in_a_graph)
        CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
    for (int i = 0; i < 3; i++)
        OK(fp_cuda_attention_run(plan, args, stream));
    if (in_a_graph) {
        CUDA(cudaStreamEndCapture(stream, &graph));
        CUDA(cudaGraphInstantiate(&exec, graph, 0));
        CUDA(cudaGraphLaunch(exec, stream));
        CUDA(cudaGraphLaunch(exec, stream));
        CUDA(cudaStreamSynchronize(stream));
        CUDA(cudaGraphExecDestroy(exec));
        CUDA(cudaGraphDestroy(graph));
    }
    CUDA(cudaStreamDestroy(stream));
}

/* Steps of one sequence of other lengths and by other kernels, one after the other, then the case's own. */
static void take_turns(const struct lab *c, fp_cuda_attention *plan, const fp_cuda_attention_run_args *args)
{
    fp_cuda_attention_sequence other = c->sequences[0];
    other.context.causal_tokens /= 2;
    if (other.context.n_pages)
        memset(&other.anchor, 0, sizeof other.anchor);
    for (uint32_t i = 0; i < 9; i++) {
        fp__cuda_attention_tuning[FP__TUNE_SOLO] = i % 3 == 2 ? 1 : 5;
        OK(fp_cuda_attention_plan(plan, i % 2 ? &other : c->sequences, 1, NULL));
        for (uint32_t k = 0; k < 1 + i % 2; k++)
            OK(fp_cuda_attention_run(plan, args, NULL));
    }
    fp__cuda_attention_tuning[FP__TUNE_SOLO] = 5;
    OK(fp_cuda_attention_plan(plan, c->sequences, 1, NULL));
}

/* Runs the case planned in several ways, each twice; all must have the same bits. */
static void check_lab(struct lab *c, const char *name)
{
    static const uint32_t variants[][FP__TUNE_COUNT] = {
        {0},
        {[FP__TUNE_SOLO] = 1},
        {[FP__TUNE_SOLO] = 5, [FP__TUNE_SOLO_WINDOW] = 1},
        {[FP__TUNE_SOLO] = 5, [FP__TUNE_SOLO_WINDOW] = 4},
        {4, 4, 4, 1, 2, [FP__TUNE_SOLO] = 1},
        {16, 16, 16, 1, 2, [FP__TUNE_SOLO] = 1},
        {0, 4, 32, 2, [FP__TUNE_SOLO] = 1},
        {4, 16, 8, 0, 1, [FP__TUNE_SOLO] = 1},
        {0, 0, 0, 2, 1, [FP__TUNE_SOLO] = 1},
        {16, 4, 0, 1, 2, 1, [FP__TUNE_SOLO] = 1},
        {4, 4, 0, 1, 2, [FP__TUNE_LARGE] = 2},
        {0, 8, 0, 0, 2, [FP__TUNE_LARGE] = 2},
        {16, 16, 0, 1, 2, [FP__TUNE_LARGE] = 2},
        {0, 0, 0, 2, 0, 0, 1, [FP__TUNE_SOLO] = 1},
        {0, 0, 0, 2, 0, 0, 2, [FP__TUNE_SOLO] = 1},
        {0, 0, 0, 2, 0, 0, 3, [FP__TUNE_SOLO] = 1},
        {0, 0, 0, 2, 0, 0, 4, [FP__TUNE_SOLO] = 1},
        {16, 16, 0, 1, 2, 0, 0, 9, 5, 0, 1, [FP__TUNE_SOLO] = 1, [FP__TUNE_PACE] = 16},
        {4, 16, 0, 1, 2, 0, 0, 0, 0, 2, 2, [FP__TUNE_SOLO] = 1},
        {16, 4, 0, 1, 2, 0, 0, 1, 5, 0, 3, [FP__TUNE_SOLO] = 1, [FP__TUNE_PACE] = 2},
        {4, 4, 0, 1, 1, 0, 0, 3, 0, 2, 4, [FP__TUNE_SOLO] = 1}};
    size_t rows = (size_t)c->tokens * c->heads, pages = 0;
    expect_all(c);
    struct device_lab g;
    g.planes = device_copy(c->planes, rows * 2 * c->d);
    g.s_q = device_copy(c->s_q, rows * 4);
    g.pool = device_copy(c->pool, c->pool_pages * c->group_bytes);
    g.gamma = device_copy(c->gamma, GAMMA_ROWS * c->heads * 4);
    g.out = device_copy(c->out, rows * c->d * 4);
    g.alpha = device_copy(c->alpha, rows * 4);
    for (size_t i = 0; i < c->n; i++)
        pages += c->sequences[i].anchor.n_pages + c->sequences[i].context.n_pages;
    fp_cuda_attention_config config = {c->heads,       c->kv_heads,     c->d,           c->tokens,
                                       (uint32_t)c->n, (uint32_t)pages, (size_t)1 << 30};
    fp_cuda_attention *plan;
    memcpy(fp__cuda_attention_tuning, choices, sizeof choices);
    OK(fp_cuda_attention_create(&config, &plan));
    fp_cuda_attention_run_args args = {g.planes,        g.s_q,   g.pool, c->group_bytes,
                                       c->layer_offset, g.gamma, g.out,  g.alpha};
    for (size_t v = 0; v < (brief ? 2 : sizeof variants / sizeof *variants); v++) {
        memcpy(fp__cuda_attention_tuning, variants[v], sizeof variants[v]);
        OK(fp_cuda_attention_plan(plan, c->sequences, c->n, NULL));
        for (int again = 0; again < (brief ? 1 : 2); again++) {
            poison(c, &g);
            run_thrice(plan, &args, again);
            CUDA(cudaDeviceSynchronize());
            words_wrong += count_wrong(c, &g, name, (int)v * 10 + again);
            words_checked += rows * (c->d + 1);
        }
    }
    if (c->n == 1 && c->tokens <= 8) {
        take_turns(c, plan, &args);
        poison(c, &g);
        OK(fp_cuda_attention_run(plan, &args, NULL));
        CUDA(cudaDeviceSynchronize());
        words_wrong += count_wrong(c, &g, name, -1);
        words_checked += rows * (c->d + 1);
    }
    memset(fp__cuda_attention_tuning, 0, sizeof fp__cuda_attention_tuning);
    /* the comparison sees other pages */
    CUDA(cudaMemset(g.pool, 1, c->pool_pages * c->group_bytes));
    OK(fp_cuda_attention_run(plan, &args, NULL));
    if (count_wrong(c, &g, NULL, 0) == 0) {
        failures++;
        printf("WRONG %s: other pages gave the same words\n", name);
    }
    fp_cuda_attention_destroy(plan);
    void *all[] = {g.planes, g.s_q, g.pool, g.gamma, g.out, g.alpha};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        CUDA(cudaFree(all[i]));
}

static void check_case(struct lab *c, const char *kind, uint32_t seed)
{
    char name[128];
    snprintf(name, sizeof name, "%s seed %u d %u G %u HK %u sequences %zu tokens %u", kind, seed, c->d,
             c->group, c->kv_heads, c->n, c->tokens);
    check_lab(c, name);
    free_lab(c);
}

static void check_random(uint32_t seed)
{
    static const uint32_t sizes[] = {128, 64, 128, 96, 256}, groups[] = {1, 2, 3, 4, 4, 5, 7, 8, 12, 16};
    random_state = seed;
    uint32_t d = sizes[random_below(5)], group = groups[random_below(10)], kv_heads = 1 + random_below(3);
    int kind = (int)random_below(4); /* decode, decode of a large batch, several tokens, prefill */
    size_t n = kind == 1 ? 10 + random_below(40) : 1 + random_below(6);
    uint32_t most = kind == 2 ? 8 : kind == 3 ? 150 : 1, tokens = 0;
    for (size_t i = 0; i < n; i++)
        tokens += 1 + random_below(most);
    struct lab c;
    make_lab(&c, d, kv_heads, group, tokens, 24, (int)random_below(PAINTS + 1));
    make_sequences(&c, n, most, (int)random_below(4), kind == 1 ? 20 : 40, kind == 0 ? 80 : 12);
    check_case(&c, "random", seed);
}

/* Batches over one anchor, or over a few, whose users are not neighbours; up to 8 query tokens each. */
static void check_shared(uint32_t seed)
{
    static const uint32_t sizes[] = {128, 128, 64, 128, 96, 256}, batches[] = {2, 3, 5, 8, 16, 33, 64};
    random_state = seed;
    uint32_t d = sizes[seed % 6], group = 1 + random_below(8), kv_heads = 1 + random_below(2), tokens = 0;
    size_t n = batches[seed % 7];
    uint32_t most = random_below(2) ? 1 : 8;
    for (size_t i = 0; i < n; i++)
        tokens += 1 + random_below(most);
    struct lab c;
    make_lab(&c, d, kv_heads, group, tokens, 24, (int)random_below(PAINTS + 1));
    make_sequences(&c, n, most, seed % 3 ? 3 : 2, 40, 6);
    check_case(&c, "shared", seed);
}

/* Prefills: long causal tiles over anchors, prefixes of partial pages and earlier chunks. */
static void check_prefill(uint32_t seed)
{
    static const uint32_t sizes[] = {128, 64, 128, 96};
    random_state = seed;
    uint32_t d = sizes[seed % 4], group = 1 + seed / 4 % 16, kv_heads = 1 + random_below(2);
    size_t n = 1 + random_below(3);
    uint32_t most = 40 + 1200 / group / (uint32_t)n, tokens = 0;
    for (size_t i = 0; i < n; i++)
        tokens += 1 + most / 2 + random_below(most / 2);
    struct lab c;
    make_lab(&c, d, kv_heads, group, tokens, 24, (int)random_below(PAINTS + 1));
    make_sequences(&c, n, most, (int)random_below(4), 24, 2 + random_below(40));
    check_case(&c, "prefill", seed);
}

/* One sequence of up to 8 rows a KV head: what has a kernel of its own. */
static void check_alone(uint32_t seed)
{
    static const uint32_t sizes[] = {128, 64, 96};
    random_state = seed;
    uint32_t d = sizes[seed % 3], group = 1 + random_below(8), tokens = 1 + random_below(8 / group),
             kv_heads = 1 + random_below(3), pages = seed % 5 == 0 ? 400 : 4 + random_below(90);
    struct lab c;
    make_lab(&c, d, kv_heads, group, tokens, 40, (int)random_below(PAINTS + 1));
    make_sequences(&c, 1, tokens, (int)random_below(2), 30, pages);
    char name[128];
    snprintf(name, sizeof name, "alone seed %u d %u G %u HK %u tokens %u pages %u + %u", seed, d, group,
             kv_heads, tokens, c.sequences[0].anchor.n_pages, c.sequences[0].context.n_pages);
    check_lab(&c, name);
    free_lab(&c);
}

static void check_long(uint32_t d, uint32_t group, uint32_t anchor_pages, uint32_t context_pages)
{
    struct lab c;
    make_lab(&c, d, 2, group, 1, 40, RANDOM);
    make_sequences(&c, 1, 1, 0, 0, 0);
    free((void *)c.sequences[0].anchor.pages), free((void *)c.sequences[0].anchor.filled);
    free((void *)c.sequences[0].context.pages), free((void *)c.sequences[0].context.filled);
    make_segment(&c, anchor_pages, 0, 0, false, &c.sequences[0].anchor);
    make_segment(&c, context_pages, 63, 1, true, &c.sequences[0].context);
    char name[128];
    snprintf(name, sizeof name, "long d %u G %u pages %u + %u", d, group, anchor_pages, context_pages);
    check_lab(&c, name);
    free_lab(&c);
}

/* q, k, v through the device against fp__exact_query and fp__exact_kv_write, and numbers out of range. */
static void check_inputs(uint32_t d)
{
    enum { T = 70, HK = 2, H = 4 };
    size_t slab = fp__slab_bytes(d), n = T * H * d, pool_bytes = 2 * HK * slab;
    float *q = allocate(n * 4), *k = allocate(n * 4), *v = allocate(n * 4);
    for (size_t i = 0; i < n; i++) {
        float range = i / d % 7 == 3 ? 0x1p-70f : i / d % 7 == 4 ? 0x1p40f : 3.0f;
        q[i] = random_float(range), k[i] = random_float(range),
        v[i] = random_float(range) * (i % 13 ? 1.0f : 20.0f);
    }
    memset(q + 5 * d, 0, d * 4);
    q[9 * H * d + 3] = INFINITY, k[11 * HK * d + 1] = NAN, v[8 * HK * d] = 0x1p48f;
    uint32_t page[T], numeric[2] = {~0u, ~0u};
    uint8_t slot[T], *pool = allocate(pool_bytes), *got_pool = allocate(pool_bytes);
    for (uint32_t t = 0; t < T; t++)
        page[t] = t / 64, slot[t] = (uint8_t)(t % 64);
    int8_t *planes = allocate(2 * n), *got_planes = allocate(2 * n);
    float *scales = allocate(T * H * 4), *got_scales = allocate(T * H * 4);
    int16_t q16[512];
    for (size_t r = 0; r < T * H; r++) {
        fp__exact_query(q + r * d, d, q16, &scales[r]);
        for (size_t j = 0; j < d; j++) {
            int hi = (q16[j] + 128) >> 8;
            planes[r * 2 * d + j] = (int8_t)hi, planes[r * 2 * d + d + j] = (int8_t)(q16[j] - 256 * hi);
        }
    }
    for (size_t r = 0; r < T * HK; r++)
        fp__exact_kv_write(k + r * d, v + r * d, d, pool + (page[r / HK] * HK + r % HK) * slab, slot[r / HK]);
    float *dq = device_copy(q, n * 4), *dk = device_copy(k, n * 4), *dv = device_copy(v, n * 4);
    float *ds = device_copy(got_scales, T * H * 4);
    uint32_t *dp = device_copy(page, sizeof page), *dn = device_copy(numeric, 8);
    uint8_t *dslot = device_copy(slot, T), *dpool = device_copy(got_pool, pool_bytes);
    int8_t *dplanes = device_copy(got_planes, 2 * n);
    CUDA(cudaMemset(dplanes, 0xa5, 2 * n));
    CUDA(cudaMemset(ds, 0xa5, T * H * 4));
    OK(fp_cuda_query_prepare(dq, T, H, d, dplanes, ds, dn, NULL));
    fp_cuda_kv_write_args args = {dk, dv, dp, dslot, dpool, HK * slab, 0, dn + 1};
    OK(fp_cuda_kv_write(&args, T, HK, d, NULL));
    CUDA(cudaMemcpy(got_planes, dplanes, 2 * n, cudaMemcpyDeviceToHost));
    CUDA(cudaMemcpy(got_scales, ds, T * H * 4, cudaMemcpyDeviceToHost));
    CUDA(cudaMemcpy(got_pool, dpool, pool_bytes, cudaMemcpyDeviceToHost));
    CUDA(cudaMemcpy(numeric, dn, 8, cudaMemcpyDeviceToHost));
    bool planes_ok = memcmp(planes, got_planes, 2 * n) == 0,
         scales_ok = memcmp(scales, got_scales, T * H * 4) == 0,
         pool_ok = memcmp(pool, got_pool, pool_bytes) == 0, numeric_ok = numeric[0] == 9 && numeric[1] == 8;
    if (!planes_ok || !scales_ok || !pool_ok || !numeric_ok) {
        failures++;
        printf("WRONG inputs d %u: planes %d scales %d pool %d numeric %u %u\n", d, planes_ok, scales_ok,
               pool_ok, numeric[0], numeric[1]);
    }
    cudaFree(dq), cudaFree(dk), cudaFree(dv), cudaFree(ds), cudaFree(dp), cudaFree(dn), cudaFree(dslot),
        cudaFree(dpool);
    cudaFree(dplanes);
    free(q), free(k), free(v), free(pool), free(got_pool), free(planes), free(got_planes), free(scales),
        free(got_scales);
}

static int report(void)
{
    printf("{\"check\": \"attention\", \"words\": %zu, \"wrong\": %zu, \"failures\": %d}\n", words_checked,
           words_wrong, failures);
    return failures ? 1 : 0;
}

static int check_prefills(uint32_t cases)
{
    for (uint32_t i = 0; i < cases; i++)
        check_prefill(i * 5);
    return report();
}

static int check(uint32_t cases)
{
    static const uint32_t sizes[] = {64, 96, 128, 256};
    for (size_t i = 0; i < 4; i++)
        check_inputs(sizes[i]);
    for (size_t i = 0; i < 4; i++)
        check_long(sizes[i], 4, 70, 1200);
    check_long(128, 8, 0, 33), check_long(128, 4, 16, 2100), check_long(128, 1, 513, 40);
    for (uint32_t i = 0; i < cases; i++) {
        check_random(1000 + i);
        check_shared(i);
        check_alone(500 + i);
    }
    return check_prefills(2 * cases);
}

/* A few small cases of every kind, for memcheck and racecheck. */
static int check_briefly(void)
{
    struct lab c;
    static const uint32_t sizes[] = {128, 64};
    brief = true;
    for (uint32_t i = 0; i < 7; i++) {
        uint32_t d = sizes[i % 2], group = i < 3 ? 4 : 7, n = i == 6 ? 9 : 1 + i % 3;
        make_lab(&c, d, 2, group, i == 5 ? 30 : n, 12, RANDOM);
        make_sequences(&c, n, i == 5 ? 12 : 1, i < 2 ? 0 : 3, 6, i == 0 ? 40 : 4);
        check_lab(&c, "brief");
        free_lab(&c);
    }
    printf("{\"check\": \"attention, brief\", \"words\": %zu, \"wrong\": %zu, \"failures\": %d}\n",
           words_checked, words_wrong, failures);
    return failures ? 1 : 0;
}

/* ---- speed --------------------------------------------------------------------------------------------- */

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

static int bench(const char *only)
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

int main(int argc, char **argv)
{
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
        printf("no GPU: skipped\n");
        return 77;
    }
    for (int i = 3; i + 1 < argc; i += 2) { /* --bench CASES or --check N, then [choice value]… */
        int choice = atoi(argv[i]);
        if (choice >= 0 && choice < FP__TUNE_COUNT)
            choices[choice] = (uint32_t)atoi(argv[i + 1]);
    }
    if (argc > 1 && strcmp(argv[1], "--bench") == 0) {
        memcpy(fp__cuda_attention_tuning, choices, sizeof choices);
        return bench(argc > 2 && argv[2][0] ? argv[2] : NULL);
    }
    if (argc > 1 && strcmp(argv[1], "--brief") == 0)
        return check_briefly();
    if (argc > 1 && strcmp(argv[1], "--check-prefill") == 0)
        return check_prefills(argc > 2 ? (uint32_t)atoi(argv[2]) : 80);
    return check(argc > 2 ? (uint32_t)atoi(argv[2]) : 40);
}
