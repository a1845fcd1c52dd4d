/* Attention on the GPU against its definition, bit for bit, and its speed (attention_bench.c). Needs a GPU
 * and core, exact and kernel/cuda only, so that one binary can be carried to a machine that has one.
 *
 *   --check [cases]          painted and random inputs; every output word compared (exit 1 if one differs)
 *   --check-prefill [cases]  prefills only
 *   --brief                  few small cases, for compute-sanitizer
 *   --bench [cases]          JSON: times of decode, shared anchors, prefill; the device's copy rate */
#include "attention_bench.h"
#include "attention_lab.h"
#include "kernel/cuda/attention_tuning.h"

static int failures;

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
        return attention_bench(argc > 2 && argv[2][0] ? argv[2] : NULL);
    }
    if (argc > 1 && strcmp(argv[1], "--brief") == 0)
        return check_briefly();
    if (argc > 1 && strcmp(argv[1], "--check-prefill") == 0)
        return check_prefills(argc > 2 ? (uint32_t)atoi(argv[2]) : 80);
    return check(argc > 2 ? (uint32_t)atoi(argv[2]) : 40);
}
