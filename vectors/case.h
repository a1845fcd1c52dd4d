/* One line of a vector file: "function key=value …", its result by src/exact or by a table of kernels. Shared
 * by generate.c and tests/plain_vectors.c. README.md says what each function takes and gives. */
#ifndef FP_VECTORS_CASE_H
#define FP_VECTORS_CASE_H
#include "exact/rope.h"
#include "kernel/kernel.h"
#include "paint.h"
#include "sha256.h"

typedef struct vector_case {
    char text[400]; /* as in the file, up to " = " */
    char function[24];
    char digest[65], head[65]; /* SHA-256 of the result, and its first 32 bytes */
} vector_case;

typedef struct result {
    uint8_t *data;
    size_t size, capacity;
} result;

static inline void put(result *r, const void *data, size_t size)
{
    if (r->size + size > r->capacity) {
        r->capacity = 2 * (r->size + size) + 4096;
        r->data = realloc(r->data, r->capacity);
        FP_CHECK(r->data);
    }
    if (size > 0)
        memcpy(r->data + r->size, data, size);
    r->size += size;
}

static inline const char *find(const vector_case *c, const char *key)
{
    size_t n = strlen(key);
    for (const char *p = strchr(c->text, ' '); p; p = strchr(p + 1, ' '))
        if (strncmp(p + 1, key, n) == 0 && p[1 + n] == '=')
            return p + n + 2;
    printf("no %s in: %s\n", key, c->text);
    abort();
}
static inline size_t number(const vector_case *c, const char *key)
{
    return (size_t)strtoull(find(c, key), NULL, 0);
}
static inline double real(const vector_case *c, const char *key)
{
    return strtod(find(c, key), NULL);
}
static inline int type_of(const char *name)
{
    for (int t = 0; t < 64; t++)
        if (is(name, fp__wtype_name(t)))
            return t;
    printf("unknown type %s\n", name);
    abort();
}

/* ---- elementwise ---- */

static inline void run_exp_weights(const vector_case *c, const fp__kernel_ops *ops, result *out)
{
    size_t n = number(c, "n");
    float *x = paint_floats(find(c, "x"), n), *p = room(n * sizeof *p);
    fp__exp_weights_fn *weights = ops ? ops->exp_weights : fp__exact_exp_weights;
    uint64_t sum = weights(x, n, (float)real(c, "max"), (float)real(c, "scale"), p);
    put(out, p, n * sizeof *p);
    put(out, &sum, sizeof sum);
    free(x);
    free(p);
}

static inline void run_rmsnorm(const vector_case *c, const fp__kernel_ops *ops, result *out)
{
    size_t n = number(c, "n");
    float *x = paint_floats(find(c, "x"), n), *w = paint_floats(find(c, "w"), n), *y = room(n * sizeof *y);
    float eps = (float)real(c, "eps");
    uint8_t bad = 0;
    if (ops)
        ops->rmsnorm(x, w, eps, n, y, &bad);
    else
        bad = !fp__exact_rmsnorm(x, w, eps, n, y);
    put(out, y, n * sizeof *y);
    put(out, &bad, 1);
    free(x);
    free(w);
    free(y);
}

static inline void run_silu_mul(const vector_case *c, const fp__kernel_ops *ops, result *out)
{
    size_t n = number(c, "n");
    float *g = paint_floats(find(c, "gate"), n), *u = paint_floats(find(c, "up"), n);
    if (ops)
        ops->silu_mul(g, u, n, g);
    for (size_t i = 0; !ops && i < n; i++)
        g[i] = fp__exact_silu_mul(g[i], u[i]);
    put(out, g, n * sizeof *g);
    free(g);
    free(u);
}

/* ---- quantiser and linear layers ---- */

static inline void run_quantise(const vector_case *c, const fp__kernel_ops *ops, result *out)
{
    size_t n = number(c, "n"), token = number(c, "token");
    float *x = paint_floats(find(c, "x"), n);
    fp__act act;
    void *memory = room(fp__act_bytes(token + 1, n));
    fp__act_bind(&act, memory, token + 1, n);
    uint8_t bad = 0;
    if (ops)
        ops->act_quantise(x, &act, token, &bad);
    for (size_t b = 0; b < n / FP__BLOCK; b++) {
        fp__qblock q;
        if (ops)
            fp__act_load(&act, token, b, &q);
        else if (!fp__exact_quantise_block(x + b * FP__BLOCK, &q))
            bad = 1;
        put(out, q.q, sizeof q.q);
        put(out, &q.d, sizeof q.d);
    }
    put(out, &bad, 1);
    free(x);
    free(memory);
}

typedef struct linear_case {
    int type;
    size_t rows, cols, tokens;
    uint8_t *stored;
    float *x, *bias, *y; /* [T][cols], [rows] or NULL, [T][rows] */
    bool accumulate;
} linear_case;

static inline void linear_exact(const linear_case *l)
{
    size_t elements = 1, bytes = 0, blocks = l->cols / FP__BLOCK;
    FP_CHECK(fp__wtype_block(l->type, &elements, &bytes));
    fp__qblock *q = room(blocks * sizeof *q);
    for (size_t t = 0; t < l->tokens; t++) {
        for (size_t b = 0; b < blocks; b++)
            FP_CHECK(fp__exact_quantise_block(l->x + t * l->cols + b * FP__BLOCK, &q[b]));
        for (size_t r = 0; r < l->rows; r++) {
            float v = fp__exact_dot(l->type, l->stored + r * (l->cols / elements * bytes), l->cols, q);
            v = l->bias ? v + l->bias[r] : v;
            float *y = l->y + t * l->rows + r;
            *y = l->accumulate ? *y + v : v;
        }
    }
    free(q);
}

/* In two calls and with a stride beyond the rows, neither of which may show. */
static inline void linear_ops(const linear_case *l, const fp__kernel_ops *ops)
{
    fp__weight w;
    fp__act act;
    size_t bytes, stride = l->rows + 3;
    uint8_t bad = 0;
    FP_CHECK(fp__weight_plan(l->type, l->rows, l->cols, &w, &bytes) == FP_OK);
    w.data = room(bytes);
    FP_CHECK(fp__weight_pack(&w, l->stored, 0, w.groups) == FP_OK);
    void *memory = room(fp__act_bytes(l->tokens, l->cols));
    fp__act_bind(&act, memory, l->tokens, l->cols);
    float *wide = room(l->tokens * stride * sizeof *wide);
    for (size_t t = 0; t < l->tokens; t++) {
        ops->act_quantise(l->x + t * l->cols, &act, t, &bad);
        memcpy(wide + t * stride, l->y + t * l->rows, l->rows * sizeof *wide);
        for (size_t i = l->rows; i < stride; i++)
            wide[t * stride + i] = 12345.0f;
    }
    FP_CHECK(!bad);
    ops->linear(&w, &act, 0, w.groups / 2, l->bias, wide, stride, l->accumulate);
    ops->linear(&w, &act, w.groups / 2, w.groups, l->bias, wide, stride, l->accumulate);
    for (size_t t = 0; t < l->tokens; t++) {
        memcpy(l->y + t * l->rows, wide + t * stride, l->rows * sizeof *wide);
        for (size_t i = l->rows; i < stride; i++)
            FP_CHECK(wide[t * stride + i] == 12345.0f);
    }
    free(w.data);
    free(memory);
    free(wide);
}

static inline void run_linear(const vector_case *c, const fp__kernel_ops *ops, result *out)
{
    linear_case l = {.type = type_of(find(c, "type")),
                     .rows = number(c, "rows"),
                     .cols = number(c, "cols"),
                     .tokens = number(c, "tokens"),
                     .accumulate = number(c, "accumulate")};
    l.stored = paint_weights(find(c, "w"), l.type, l.rows, l.cols);
    l.x = paint_floats(find(c, "x"), l.tokens * l.cols);
    l.y = paint_floats("normal:99", l.tokens * l.rows);
    l.bias = number(c, "bias") ? paint_floats("normal:98", l.rows) : NULL;
    if (ops)
        linear_ops(&l, ops);
    else
        linear_exact(&l);
    put(out, l.y, l.tokens * l.rows * sizeof *l.y);
    free(l.stored);
    free(l.x);
    free(l.y);
    free(l.bias);
}

/* ---- rotary ---- */

static inline void plan_of(const vector_case *c, fp__rope_plan *plan)
{
    size_t n_rot = number(c, "n_rot");
    float factors[FP__ROPE_DIM_MAX / 2];
    bool scaled = number(c, "factors");
    for (size_t i = 0; i < n_rot / 2; i++)
        factors[i] = i < n_rot / 6 ? 1.0f : i < n_rot / 4 ? 1.0f + (float)i * 0.25f : 8.0f;
    fp__rope_layout layout = number(c, "layout") ? FP__ROPE_HALVES : FP__ROPE_PAIRS;
    FP_CHECK(fp__rope_plan_init(real(c, "base"), n_rot, layout, scaled ? factors : NULL, plan) == FP_OK);
}

static inline void run_rope_rows(const vector_case *c, const fp__kernel_ops *ops, result *out)
{
    (void)ops;
    fp__rope_plan plan;
    plan_of(c, &plan);
    uint8_t identity[37 + 12 * FP__ROPE_DIM_MAX / 2];
    fp__rope_identity(&plan, identity);
    put(out, identity, fp__rope_identity_bytes(&plan));
    size_t n = number(c, "n"), bytes = n * plan.n_rot / 2 * sizeof(float);
    float *cosine = room(bytes), *sine = room(bytes);
    FP_CHECK(fp__rope_rows(&plan, number(c, "pos"), n, cosine, sine) == FP_OK);
    put(out, cosine, bytes);
    put(out, sine, bytes);
    free(cosine);
    free(sine);
}

static inline void run_rope(const vector_case *c, const fp__kernel_ops *ops, result *out)
{
    fp__rope_plan plan;
    plan_of(c, &plan);
    float cosine[FP__ROPE_DIM_MAX / 2], sine[FP__ROPE_DIM_MAX / 2];
    FP_CHECK(fp__rope_rows(&plan, number(c, "pos"), 1, cosine, sine) == FP_OK);
    size_t heads = number(c, "heads"), d = number(c, "d");
    float *x = paint_floats(find(c, "x"), heads * d);
    if (ops)
        ops->rope(x, heads, d, plan.n_rot, plan.layout, cosine, sine);
    for (size_t h = 0; !ops && h < heads; h++)
        fp__exact_rope(x + h * d, plan.n_rot, plan.layout, cosine, sine);
    put(out, x, heads * d * sizeof *x);
    free(x);
}

/* ---- attention ---- */

static inline void run_query(const vector_case *c, const fp__kernel_ops *ops, result *out)
{
    size_t heads = number(c, "heads"), d = number(c, "d"), stride = (d + 31) / 32 * 32;
    float *x = paint_floats(find(c, "x"), heads * d), *s_q = room(heads * sizeof *s_q);
    int16_t *q16 = room(heads * stride * sizeof *q16);
    uint8_t bad = 0;
    if (ops)
        ops->query(x, heads, d, q16, stride, s_q, &bad);
    for (size_t h = 0; h < heads; h++) {
        if (!ops && !fp__exact_query(x + h * d, d, q16 + h * stride, &s_q[h]))
            bad = 1;
        put(out, q16 + h * stride, d * sizeof *q16);
        for (size_t j = d; j < stride; j++)
            FP_CHECK(q16[h * stride + j] == 0);
    }
    put(out, s_q, heads * sizeof *s_q);
    put(out, &bad, 1);
    free(x);
    free(q16);
    free(s_q);
}

static inline void run_kv_write(const vector_case *c, const fp__kernel_ops *ops, result *out)
{
    size_t d = number(c, "d"), tokens = number(c, "tokens");
    float *k = paint_floats(find(c, "k"), tokens * d), *v = paint_floats(find(c, "v"), tokens * d);
    uint8_t *slab = room(fp__slab_bytes(d)), bad = 0;
    for (size_t t = 0; t < tokens; t++) {
        size_t slot = (t * 29 + 3) % FP__PAGE_TOKENS;
        if (ops)
            ops->kv_write(k + t * d, v + t * d, d, slab, slot, &bad);
        else if (!fp__exact_kv_write(k + t * d, v + t * d, d, slab, slot))
            bad = 1;
    }
    put(out, slab, fp__slab_bytes(d));
    put(out, &bad, 1);
    free(k);
    free(v);
    free(slab);
}

typedef struct attend_case {
    size_t d, rows, stride, pages;
    int16_t *q16; /* [rows][stride] */
    float *s_q;   /* [rows] */
    uint8_t *memory;
    const uint8_t **slabs; /* [pages] */
    uint8_t *visible;      /* [pages][rows] */
} attend_case;

static inline int16_t painted_query(const char *spec, size_t row, size_t j)
{
    uint32_t w = word(seed_of(spec), 4 + (uint32_t)row, j);
    if (is(spec, "zero"))
        return 0;
    if (is(spec, "same"))
        return 32512;
    if (is(spec, "extreme"))
        return w & 1 ? 32512 : -32512;
    return (int16_t)((int32_t)(w % 65025) - 32512);
}

/* Row r sees the first tokens - r tokens. */
static inline void attend_paint(const vector_case *c, attend_case *a)
{
    size_t tokens = number(c, "tokens");
    const char *q = find(c, "q");
    a->d = number(c, "d");
    a->rows = number(c, "rows");
    a->stride = (a->d + 31) / 32 * 32;
    a->pages = (tokens + FP__PAGE_TOKENS - 1) / FP__PAGE_TOKENS;
    a->q16 = room(a->rows * a->stride * sizeof *a->q16);
    a->s_q = room(a->rows * sizeof *a->s_q);
    a->memory = room(a->pages * fp__slab_bytes(a->d));
    a->slabs = room(a->pages * sizeof *a->slabs);
    a->visible = room(a->pages * a->rows);
    for (size_t r = 0; r < a->rows; r++) {
        float fraction = (float)(word(seed_of(q), 3, r) >> 9) * 0x1p-23f;
        a->s_q[r] = is(q, "zero") ? 0.0f : 0x1p-15f * (1.0f + fraction);
        for (size_t j = 0; j < a->d; j++)
            a->q16[r * a->stride + j] = painted_query(q, r, j);
    }
    for (size_t p = 0; p < a->pages; p++) {
        paint_slab(find(c, "kv"), p, a->d, a->memory + p * fp__slab_bytes(a->d));
        a->slabs[p] = a->memory + p * fp__slab_bytes(a->d);
        for (size_t r = 0; r < a->rows; r++) {
            size_t sees = tokens > r ? tokens - r : 0, before = p * FP__PAGE_TOKENS;
            size_t here = sees > before ? sees - before : 0;
            a->visible[p * a->rows + r] = (uint8_t)(here < FP__PAGE_TOKENS ? here : FP__PAGE_TOKENS);
        }
    }
}

static inline fp__attn_states states_room(size_t rows, size_t d)
{
    fp__attn_states s = {room(rows * sizeof(float)), room(rows * sizeof(float)),
                         room(rows * d * sizeof(float))};
    for (size_t r = 0; r < rows; r++)
        s.m[r] = -INFINITY;
    return s;
}
static inline void states_free(fp__attn_states s)
{
    free(s.m);
    free(s.l);
    free(s.o);
}

static inline void attend_ops(const attend_case *a, const fp__kernel_ops *ops, fp__attn_states total)
{
    const size_t chunk_pages = FP__SPAN_PAGES * FP__CHUNK_SPANS;
    fp__attn_rows q = {.rows = a->rows, .d = a->d, .stride = a->stride, .q16 = a->q16, .s_q = a->s_q};
    for (size_t begin = 0; begin < a->pages; begin += chunk_pages) {
        fp__attn_states chunk = states_room(a->rows, a->d), span = states_room(a->rows, a->d);
        for (size_t p = begin; p < a->pages && p < begin + chunk_pages; p += FP__SPAN_PAGES) {
            size_t pages = a->pages - p < FP__SPAN_PAGES ? a->pages - p : FP__SPAN_PAGES;
            ops->attn_span(&q, a->slabs + p, a->visible + p * a->rows, pages, span);
            ops->attn_merge(a->rows, a->d, chunk, span);
        }
        ops->attn_merge(a->rows, a->d, total, chunk);
        states_free(chunk);
        states_free(span);
    }
}

static inline void attend_exact(const attend_case *a, fp__attn_states total)
{
    uint8_t *visible = room(a->pages);
    for (size_t r = 0; r < a->rows; r++) {
        fp__attn_state state;
        for (size_t p = 0; p < a->pages; p++)
            visible[p] = a->visible[p * a->rows + r];
        fp__exact_attend(a->q16 + r * a->stride, a->s_q[r], a->d, a->slabs, visible, a->pages, &state);
        total.m[r] = state.m;
        total.l[r] = state.l;
        memcpy(total.o + r * a->d, state.o, a->d * sizeof(float));
    }
    free(visible);
}

static inline void run_attend(const vector_case *c, const fp__kernel_ops *ops, result *out)
{
    attend_case a;
    attend_paint(c, &a);
    fp__attn_states total = states_room(a.rows, a.d);
    if (ops)
        attend_ops(&a, ops, total);
    else
        attend_exact(&a, total);
    put(out, total.m, a.rows * sizeof(float));
    put(out, total.l, a.rows * sizeof(float));
    put(out, total.o, a.rows * a.d * sizeof(float));
    states_free(total);
    free(a.q16);
    free(a.s_q);
    free(a.memory);
    free(a.slabs);
    free(a.visible);
}

static inline void paint_state(const char *spec, size_t d, fp__attn_state *state)
{
    fp__exact_state_init(state, d);
    if (is(spec, "none"))
        return;
    uint32_t seed = seed_of(spec);
    state->m = normal_value(seed, 0) * (is(spec, "far") ? 100.0f : 4.0f);
    state->l = 65535.0f * (3.0f + normal_value(seed, 1) * 0.5f);
    for (size_t j = 0; j < d; j++)
        state->o[j] = normal_value(seed, 2 + j) * state->l;
}

static inline void run_mix(const vector_case *c, const fp__kernel_ops *ops, result *out)
{
    size_t d = number(c, "d");
    fp__attn_state anchor, context;
    paint_state(find(c, "anchor"), d, &anchor);
    paint_state(find(c, "context"), d, &context);
    fp__injection_mode mode = (fp__injection_mode)number(c, "mode");
    uint32_t g = (uint32_t)number(c, "g");
    float *o = room(d * sizeof *o), *a = room(d * sizeof *a), *b = room(d * sizeof *b), alpha;
    memcpy(a, anchor.o, d * sizeof *a);
    memcpy(b, context.o, d * sizeof *b);
    if (ops)
        alpha = ops->attn_mix((fp__attn_states){&anchor.m, &anchor.l, a},
                              (fp__attn_states){&context.m, &context.l, b}, mode, g, d, o);
    else
        alpha = fp__exact_mix(&anchor, &context, mode, g, d, o);
    put(out, o, d * sizeof *o);
    put(out, &alpha, sizeof alpha);
    free(o);
    free(a);
    free(b);
}

/* ---- sampling ---- */

static inline void run_philox(const vector_case *c, const fp__kernel_ops *ops, result *out)
{
    (void)ops;
    for (size_t i = 0; i < number(c, "n"); i++) {
        uint64_t r = fp__rng_draw(number(c, "seed"), number(c, "pos") + i, (uint32_t)number(c, "choice"));
        put(out, &r, sizeof r);
    }
}

/* n tokens in a row, each followed by its log-probability; the tokens so far are the history. */
static inline void run_sample(const vector_case *c, const fp__kernel_ops *ops, result *out)
{
    size_t v = number(c, "V"), n = number(c, "n");
    float *logits = paint_floats(find(c, "x"), v);
    uint32_t *history = room(n * sizeof *history);
    const fp__sampling params = {
        .temperature = real(c, "T"),
        .top_k = (uint32_t)number(c, "k"),
        .top_p = real(c, "p"),
        .min_p = real(c, "min"),
        .repetition = (float)real(c, "r"),
        .frequency = (float)real(c, "f"),
        .presence = (float)real(c, "s"),
        .seed = number(c, "seed"),
    };
    fp__sampler *sampler;
    FP_CHECK(fp__sampling_check(&params, v) == FP_OK);
    FP_CHECK(fp__sampler_create(v, ops ? ops->exp_weights : NULL, &sampler) == FP_OK);
    for (size_t i = 0; i < n; i++) {
        double logprob;
        FP_CHECK(fp__sample(sampler, &params, logits, history, i, i, 0, &history[i]) == FP_OK);
        FP_CHECK(fp__sampler_logprob(sampler, logits, history[i], &logprob) == FP_OK);
        put(out, &history[i], sizeof *history);
        put(out, &logprob, sizeof logprob);
    }
    fp__sampler_destroy(sampler);
    free(history);
    free(logits);
}

/* ---- any of them ---- */

static const struct {
    const char *name;
    void (*run)(const vector_case *c, const fp__kernel_ops *ops, result *out);
    bool kernels; /* backends have their own */
} vector_functions[] = {
    {"exp_weights", run_exp_weights, true},
    {"rmsnorm", run_rmsnorm, true},
    {"silu_mul", run_silu_mul, true},
    {"quantise", run_quantise, true},
    {"linear", run_linear, true},
    {"rope_rows", run_rope_rows, false},
    {"rope", run_rope, true},
    {"query", run_query, true},
    {"kv_write", run_kv_write, true},
    {"attend", run_attend, true},
    {"mix", run_mix, true},
    {"philox", run_philox, false},
    {"sample", run_sample, true},
};

static inline void case_from_text(vector_case *c, const char *text, size_t size)
{
    memset(c, 0, sizeof *c);
    FP_CHECK(size < sizeof c->text);
    memcpy(c->text, text, size);
    size_t n = strcspn(c->text, " ");
    FP_CHECK(n < sizeof c->function);
    memcpy(c->function, text, n);
}

/* Fills in digest and head. False if ops is given and backends have no such function of their own. */
static inline bool run_case(vector_case *c, const fp__kernel_ops *ops)
{
    for (size_t f = 0; f < sizeof vector_functions / sizeof *vector_functions; f++) {
        if (strcmp(vector_functions[f].name, c->function) != 0)
            continue;
        if (ops && !vector_functions[f].kernels)
            return false;
        result out = {0};
        vector_functions[f].run(c, ops, &out);
        sha256_hex(out.data, out.size, c->digest);
        for (size_t i = 0; i < 32 && i < out.size; i++)
            (void)snprintf(c->head + 2 * i, 3, "%02x", out.data[i]);
        free(out.data);
        return true;
    }
    printf("unknown function %s\n", c->function);
    abort();
}
#endif
