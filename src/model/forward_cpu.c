/* The forward pass on the CPU. One function per stage of a layer, in the order they run; all threads of the
 * team run all of them, and the barriers between stages are in layer(). Stages that work on whole tokens
 * (norm, quantise) split the tokens over the threads; with one token every thread does that little work for
 * itself into its own buffer, which costs less than a barrier. */
#include "core/arena.h"
#include "model/forward.h"
#include <stdatomic.h>
#include <stdlib.h>

/* Places where a number can leave canonical range, in forward order. */
typedef enum place {
    AT_ATTN_NORM,
    AT_ATTN_INPUT,
    AT_QK_NORM,
    AT_QUERY,
    AT_KV,
    AT_ATTN_OUTPUT,
    AT_FFN_NORM,
    AT_FFN_INPUT,
    AT_FFN_HIDDEN,
    AT_OUTPUT_NORM,
    AT_OUTPUT_INPUT,
    AT_LOGITS,
    PLACES
} place;
static const char *const place_names[PLACES] = {"attention norm", "attention input", "query/key norm",
                                                "query",          "key or value",    "attention output",
                                                "FFN norm",       "FFN input",       "FFN hidden state",
                                                "output norm",    "output input",    "logits"};
#define NO_ERROR UINT32_MAX

typedef struct cpu_forward {
    fp__forward base; /* first */
    const fp_model *model;
    const fp__kernel_ops *ops;
    fp__team *team;
    fp__attn_plan *plan;
    fp__forward_limits limits;
    size_t threads, stride; /* int16 elements from query head to query head */
    void *memory;
    size_t memory_bytes;

    float *x;               /* [T][C] residual stream */
    float *qkv;             /* [T][(H + 2·HK)·d] */
    float *attn;            /* [T][H·d] */
    float *gate, *up;       /* [T][F] */
    int16_t *q16;           /* [T][H][stride] */
    float *s_q;             /* [T][H] */
    float *alpha;           /* [T][H] */
    float *rope_c, *rope_s; /* [T][n_rot/2] */
    float *logits;          /* [logits][V] */
    float **norm;           /* [threads][max width] */
    uint32_t **error; /* [threads][T] (layer·PLACES + place) of the first failure a thread saw, or NO_ERROR */
    fp__act act_c, act_q, act_f, act_out; /* shared, of T (act_out: logits) tokens: widths C, H·d, F, C */
    fp__act *own_c, *own_q, *own_f;       /* [threads] of one token */
    fp__attn_sequence *sequences;         /* [sequences] */

    /* the step in progress */
    const fp__forward_span *spans;
    size_t n_spans, tokens;
    size_t *row_span;   /* [T] span of a row */
    size_t *span_first; /* [sequences] first row of a span */
    const size_t *logit_rows;
    size_t n_logits;
    bool run_layers, want_mass;
} cpu_forward;

static size_t max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* ---- memory: two passes over the same list, the first only counts
 * -------------------------------------------------- */

static void *carve(cpu_forward *f, size_t *offset, size_t bytes)
{
    void *p = f->memory ? (uint8_t *)f->memory + *offset : NULL;
    *offset += (bytes + 127) & ~(size_t)127;
    return p;
}

static void carve_act(cpu_forward *f, size_t *offset, fp__act *act, size_t tokens, size_t cols)
{
    void *p = carve(f, offset, fp__act_bytes(tokens, cols));
    if (p)
        fp__act_bind(act, p, tokens, cols);
}

static size_t layout(cpu_forward *f)
{
    const fp__hparams *hp = &f->model->hp;
    size_t T = f->limits.tokens, Q = hp->heads * hp->head_dim, K = hp->kv_heads * hp->head_dim,
           n = f->threads, o = 0;
    f->x = carve(f, &o, T * hp->width * 4);
    f->qkv = carve(f, &o, T * (Q + 2 * K) * 4);
    f->attn = carve(f, &o, T * Q * 4);
    f->gate = carve(f, &o, T * hp->ffn_width * 4);
    f->up = carve(f, &o, T * hp->ffn_width * 4);
    f->q16 = carve(f, &o, T * hp->heads * f->stride * 2);
    f->s_q = carve(f, &o, T * hp->heads * 4);
    f->alpha = carve(f, &o, T * hp->heads * 4);
    f->rope_c = carve(f, &o, T * hp->n_rot / 2 * 4);
    f->rope_s = carve(f, &o, T * hp->n_rot / 2 * 4);
    f->logits = carve(f, &o, f->limits.logits * hp->vocabulary * 4);
    f->norm = carve(f, &o, n * sizeof *f->norm);
    f->error = carve(f, &o, n * sizeof *f->error);
    f->own_c = carve(f, &o, n * sizeof *f->own_c);
    f->own_q = carve(f, &o, n * sizeof *f->own_q);
    f->own_f = carve(f, &o, n * sizeof *f->own_f);
    f->sequences = carve(f, &o, f->limits.sequences * sizeof *f->sequences);
    f->row_span = carve(f, &o, T * sizeof *f->row_span);
    f->span_first = carve(f, &o, f->limits.sequences * sizeof *f->span_first);
    carve_act(f, &o, &f->act_c, T, hp->width);
    carve_act(f, &o, &f->act_q, T, Q);
    carve_act(f, &o, &f->act_f, T, hp->ffn_width);
    carve_act(f, &o, &f->act_out, f->limits.logits, hp->width);
    for (size_t i = 0; i < n; i++) {
        float *norm = carve(f, &o, max_size(hp->width, hp->head_dim) * 4);
        uint32_t *error = carve(f, &o, T * 4);
        fp__act c, q, w;
        carve_act(f, &o, &c, 1, hp->width);
        carve_act(f, &o, &q, 1, Q);
        carve_act(f, &o, &w, 1, hp->ffn_width);
        if (f->memory) {
            f->norm[i] = norm;
            f->error[i] = error;
            f->own_c[i] = c;
            f->own_q[i] = q;
            f->own_f[i] = w;
        }
    }
    return o;
}

static void destroy(fp__forward *base)
{
    cpu_forward *f = (cpu_forward *)(void *)base;
    fp__attn_plan_destroy(f->plan);
    fp__mem_free(f->memory, f->memory_bytes);
    free(f);
}

static const fp__forward_ops cpu_ops;

fp_status fp__forward_create(const fp_model *model, fp__team *team, fp__forward_limits limits,
                             fp__forward **out)
{
    const fp__hparams *hp = &model->hp;
    cpu_forward *f = calloc(1, sizeof *f);
    if (!f)
        return fp__fail(FP_NO_MEMORY, "forward pass: no memory");
    f->base.ops = &cpu_ops;
    f->model = model;
    f->ops = model->ops;
    f->team = team;
    f->limits = limits;
    f->threads = fp__team_threads(team);
    f->stride = (hp->head_dim + 31) / 32 * 32;
    f->memory_bytes = layout(f);
    f->memory = fp__mem_alloc(f->memory_bytes);
    fp_status status = FP_OK;
    if (!f->memory)
        status = fp__fail_context(FP_NO_MEMORY, "forward pass: %zu MiB of scratch", f->memory_bytes >> 20);
    else
        (void)layout(f);
    fp__attn_geometry geometry = {hp->layers, hp->heads, hp->kv_heads, hp->head_dim};
    if (status == FP_OK)
        status = fp__attn_plan_create(f->ops, &geometry, f->threads, limits.tokens, limits.sequences,
                                      limits.pages, &f->plan);
    if (status != FP_OK) {
        destroy(&f->base);
        return status;
    }
    *out = &f->base;
    return FP_OK;
}

/* ---- stages
 * ----------------------------------------------------------------------------------------------------------
 */

static void note(cpu_forward *f, size_t thread, size_t row, size_t layer, place where, uint8_t bad)
{
    uint32_t code = (uint32_t)(layer * PLACES + where);
    if (bad && code < f->error[thread][row])
        f->error[thread][row] = code;
}

/* Rows this thread works on in a per-token stage; with one token: that one, on every thread. */
static void own_rows(const cpu_forward *f, size_t thread, size_t *begin, size_t *end)
{
    if (f->tokens == 1) {
        *begin = 0;
        *end = 1;
    } else {
        fp__team_split(f->tokens, 1, thread, f->threads, begin, end);
    }
}

static void stage_barrier(const cpu_forward *f) /* after a per-token stage */
{
    if (f->tokens > 1)
        fp__team_barrier(f->team);
}

static const fp__act *norm_quantise(cpu_forward *f, size_t thread, size_t layer, const float *w,
                                    place norm_place)
{
    fp__act *act = f->tokens == 1 ? &f->own_c[thread] : &f->act_c;
    size_t C = f->model->hp.width, begin, end;
    own_rows(f, thread, &begin, &end);
    for (size_t t = begin; t < end; t++) {
        uint8_t bad = 0;
        f->ops->rmsnorm(f->x + t * C, w, f->model->hp.norm_epsilon, C, f->norm[thread], &bad);
        note(f, thread, t, layer, norm_place, bad);
        bad = 0;
        f->ops->act_quantise(f->norm[thread], act, t, &bad);
        note(f, thread, t, layer, norm_place + 1, bad);
    }
    stage_barrier(f);
    return act;
}

static const fp__act *quantise(cpu_forward *f, size_t thread, size_t layer, const float *rows, size_t width,
                               fp__act *shared, fp__act *own, place where)
{
    fp__act *act = f->tokens == 1 ? &own[thread] : shared;
    size_t begin, end;
    own_rows(f, thread, &begin, &end);
    for (size_t t = begin; t < end; t++) {
        uint8_t bad = 0;
        f->ops->act_quantise(rows + t * width, act, t, &bad);
        note(f, thread, t, layer, where, bad);
    }
    stage_barrier(f);
    return act;
}

/* Q, K and V as one matrix: their groups of 16 rows are dealt out together. */
static void project_qkv(cpu_forward *f, size_t thread, const fp__layer *l, const fp__act *act)
{
    const fp__hparams *hp = &f->model->hp;
    size_t Q = hp->heads * hp->head_dim, K = hp->kv_heads * hp->head_dim, stride = Q + 2 * K;
    const struct {
        const fp__weight *w;
        const float *bias;
        float *y;
    } part[3] = {
        {&l->wq, l->q_bias, f->qkv}, {&l->wk, l->k_bias, f->qkv + Q}, {&l->wv, l->v_bias, f->qkv + Q + K}};
    size_t total = l->wq.groups + l->wk.groups + l->wv.groups, begin, end, base = 0;
    fp__team_split(total, 1, thread, f->threads, &begin, &end);
    for (size_t i = 0; i < 3; base += part[i].w->groups, i++) {
        size_t b = begin > base ? begin - base : 0, e = end > base ? end - base : 0;
        if (e > part[i].w->groups)
            e = part[i].w->groups;
        if (b < e)
            f->ops->linear(part[i].w, act, b, e, part[i].bias, part[i].y, stride, false);
    }
}

/* Per token and KV head: q/k norm, rotation, queries to integers, K and V into their page. */
static void prepare_heads(cpu_forward *f, size_t thread, size_t layer, const fp__layer *l)
{
    const fp__hparams *hp = &f->model->hp;
    size_t d = hp->head_dim, G = hp->heads / hp->kv_heads, Q = hp->heads * d, K = hp->kv_heads * d, begin,
           end;
    size_t slab_bytes = fp__slab_bytes(d);
    fp__team_split(f->tokens * hp->kv_heads, 1, thread, f->threads, &begin, &end);
    for (size_t unit = begin; unit < end; unit++) {
        size_t t = unit / hp->kv_heads, head = unit % hp->kv_heads;
        const fp__forward_span *span = &f->spans[f->row_span[t]];
        float *q = f->qkv + t * (Q + 2 * K) + head * G * d, *k = f->qkv + t * (Q + 2 * K) + Q + head * d,
              *v = k + K;
        const float *c = f->rope_c + t * (hp->n_rot / 2), *s = f->rope_s + t * (hp->n_rot / 2);
        uint8_t bad = 0;
        if (l->q_norm) {
            for (size_t h = 0; h <= G; h++) {
                float *row = h < G ? q + h * d : k;
                f->ops->rmsnorm(row, h < G ? l->q_norm : l->k_norm, hp->norm_epsilon, d, f->norm[thread],
                                &bad);
                memcpy(row, f->norm[thread], d * sizeof *row);
            }
            note(f, thread, t, layer, AT_QK_NORM, bad);
        }
        f->ops->rope(q, G, d, hp->n_rot, hp->rope_layout, c, s);
        f->ops->rope(k, 1, d, hp->n_rot, hp->rope_layout, c, s);
        bad = 0;
        f->ops->query(q, G, d, f->q16 + (t * hp->heads + head * G) * f->stride, f->stride,
                      f->s_q + t * hp->heads + head * G, &bad);
        note(f, thread, t, layer, AT_QUERY, bad);
        bad = 0;
        size_t slot = span->slot + (t - f->span_first[f->row_span[t]]);
        uint8_t *slab = span->groups[slot / FP__PAGE_TOKENS] + (layer * hp->kv_heads + head) * slab_bytes;
        f->ops->kv_write(k, v, d, slab, slot % FP__PAGE_TOKENS, &bad);
        note(f, thread, t, layer, AT_KV, bad);
    }
}

/* Σ rint(α·2^24) of the layer, per span and head. */
static void add_mass(cpu_forward *f, size_t thread, size_t layer)
{
    size_t H = f->model->hp.heads, begin, end;
    fp__team_split(H, 1, thread, f->threads, &begin, &end);
    for (size_t t = 0; t < f->tokens; t++) {
        const fp__forward_span *span = &f->spans[f->row_span[t]];
        if (!span->mass || span->anchor.pages == 0)
            continue;
        for (size_t h = begin; h < end; h++)
            span->mass[layer * H + h] += (uint64_t)(int64_t)rintf(f->alpha[t * H + h] * 0x1p24f);
    }
}

/* x += W·act: the residual's plain add, each thread its rows. */
static void project_residual(cpu_forward *f, size_t thread, const fp__weight *w, const fp__act *act)
{
    size_t begin, end;
    fp__team_split(w->groups, 1, thread, f->threads, &begin, &end);
    f->ops->linear(w, act, begin, end, NULL, f->x, f->model->hp.width, true);
}

/* gate, up and silu(gate)·up of this thread's rows, in place in gate. */
static void ffn_hidden(cpu_forward *f, size_t thread, const fp__layer *l, const fp__act *act)
{
    size_t F = f->model->hp.ffn_width, begin, end;
    fp__team_split(l->gate.groups, 1, thread, f->threads, &begin, &end);
    if (begin == end)
        return;
    f->ops->linear(&l->gate, act, begin, end, NULL, f->gate, F, false);
    f->ops->linear(&l->up, act, begin, end, NULL, f->up, F, false);
    size_t first = begin * FP__GROUP_ROWS, last = end * FP__GROUP_ROWS < F ? end * FP__GROUP_ROWS : F;
    for (size_t t = 0; t < f->tokens; t++)
        f->ops->silu_mul(f->gate + t * F + first, f->up + t * F + first, last - first,
                         f->gate + t * F + first);
}

static void layer_run(cpu_forward *f, size_t thread, size_t i)
{
    const fp__hparams *hp = &f->model->hp;
    const fp__layer *l = &f->model->layers[i];
    project_qkv(f, thread, l, norm_quantise(f, thread, i, l->attn_norm, AT_ATTN_NORM));
    fp__team_barrier(f->team);
    prepare_heads(f, thread, i, l);
    fp__team_barrier(f->team);
    fp__attn_run(f->plan, f->team, thread, i, f->q16, f->s_q, f->stride, f->attn,
                 f->want_mass ? f->alpha : NULL);
    fp__team_barrier(f->team);
    if (f->want_mass)
        add_mass(f, thread, i);
    project_residual(
        f, thread, &l->wo,
        quantise(f, thread, i, f->attn, hp->heads * hp->head_dim, &f->act_q, f->own_q, AT_ATTN_OUTPUT));
    fp__team_barrier(f->team);
    ffn_hidden(f, thread, l, norm_quantise(f, thread, i, l->ffn_norm, AT_FFN_NORM));
    fp__team_barrier(f->team);
    project_residual(f, thread, &l->down,
                     quantise(f, thread, i, f->gate, hp->ffn_width, &f->act_f, f->own_f, AT_FFN_HIDDEN));
    fp__team_barrier(f->team);
}

/* Embedding rows and rotary rows of the step's tokens. */
static void embed(cpu_forward *f, size_t thread)
{
    const fp_model *m = f->model;
    size_t C = m->hp.width, half = m->hp.n_rot / 2, begin, end;
    fp__team_split(f->tokens, 1, thread, f->threads, &begin, &end);
    for (size_t t = 0; t < f->tokens; t++)
        f->error[thread][t] = NO_ERROR;
    for (size_t t = begin; t < end; t++) {
        const fp__forward_span *span = &f->spans[f->row_span[t]];
        size_t i = t - f->span_first[f->row_span[t]];
        fp__weight_embed(&m->embedding, span->ids[i], f->x + t * C);
        /* The engine has tried all positions of its context: this is a plan that was changed in memory. */
        if (fp__rope_rows(&m->rope, span->position + i, 1, f->rope_c + t * half, f->rope_s + t * half) !=
            FP_OK) {
            memset(f->rope_c + t * half, 0, half * sizeof *f->rope_c);
            memset(f->rope_s + t * half, 0, half * sizeof *f->rope_s);
            note(f, thread, t, 0, AT_QUERY, 1);
        }
    }
}

static void output_run(cpu_forward *f, size_t thread)
{
    const fp_model *m = f->model;
    size_t C = m->hp.width, V = m->hp.vocabulary, begin, end;
    fp__act *act = f->n_logits == 1 ? &f->own_c[thread] : &f->act_out;
    fp__team_split(f->n_logits, 1, thread, f->threads, &begin, &end);
    if (f->n_logits == 1) {
        begin = 0;
        end = 1;
    }
    for (size_t i = begin; i < end; i++) {
        uint8_t bad = 0;
        f->ops->rmsnorm(f->x + f->logit_rows[i] * C, m->output_norm, m->hp.norm_epsilon, C, f->norm[thread],
                        &bad);
        note(f, thread, f->logit_rows[i], m->hp.layers, AT_OUTPUT_NORM, bad);
        bad = 0;
        f->ops->act_quantise(f->norm[thread], act, i, &bad);
        note(f, thread, f->logit_rows[i], m->hp.layers, AT_OUTPUT_INPUT, bad);
    }
    if (f->n_logits > 1)
        fp__team_barrier(f->team);
    fp__team_split(m->output.groups, 1, thread, f->threads, &begin, &end);
    f->ops->linear(&m->output, act, begin, end, NULL, f->logits, V, false);
    for (size_t i = 0; i < f->n_logits; i++) {
        size_t last = end * FP__GROUP_ROWS < V ? end * FP__GROUP_ROWS : V;
        uint32_t worst = begin < end ? fp__exact_amax_bits(f->logits + i * V + begin * FP__GROUP_ROWS,
                                                           last - begin * FP__GROUP_ROWS)
                                     : 0;
        note(f, thread, f->logit_rows[i], m->hp.layers, AT_LOGITS, worst >= 0x7f800000u);
    }
}

static void step_run(void *arg, size_t thread, size_t threads)
{
    (void)threads;
    cpu_forward *f = arg;
    if (f->run_layers) {
        embed(f, thread);
        fp__team_barrier(f->team);
        for (size_t i = 0; i < f->model->hp.layers; i++)
            layer_run(f, thread, i);
    }
    if (f->n_logits > 0)
        output_run(f, thread);
}

/* ---- steps
 * -------------------------------------------------------------------------------------------------------------
 */

/* The lowest position with an error, over all threads (arithmetic §0). */
static fp_status check_errors(const cpu_forward *f, size_t *bad_span)
{
    uint64_t lowest = UINT64_MAX;
    uint32_t code = NO_ERROR;
    for (size_t t = 0; t < f->tokens; t++) {
        uint32_t first = NO_ERROR;
        for (size_t i = 0; i < f->threads; i++)
            first = f->error[i][t] < first ? f->error[i][t] : first;
        const fp__forward_span *span = &f->spans[f->row_span[t]];
        uint64_t position = span->position + (t - f->span_first[f->row_span[t]]);
        if (first != NO_ERROR && position < lowest) {
            lowest = position;
            code = first;
            if (bad_span)
                *bad_span = f->row_span[t];
        }
    }
    if (code == NO_ERROR)
        return FP_OK;
    return fp__fail(FP_NUMERIC,
                    "position %llu, layer %u, %s: a number left the range of canonical arithmetic (is the "
                    "model damaged?)",
                    (unsigned long long)lowest, code / PLACES, place_names[code % PLACES]);
}

static fp_status prepare_step(cpu_forward *f, const fp__forward_span *spans, size_t n)
{
    if (n > f->limits.sequences)
        return fp__fail(FP_LIMIT, "%zu sequences in a step, but there is room for %zu", n,
                        f->limits.sequences);
    f->spans = spans;
    f->n_spans = n;
    f->tokens = 0;
    f->want_mass = false;
    for (size_t i = 0; i < n; i++) {
        if (spans[i].tokens > f->limits.tokens - f->tokens)
            return fp__fail(FP_LIMIT, "more than %zu tokens in a step", f->limits.tokens);
        for (size_t t = 0; t < spans[i].tokens; t++) {
            if (spans[i].ids[t] >= f->model->hp.vocabulary)
                return fp__fail(FP_USAGE, "token id %u is outside of the vocabulary (%zu)", spans[i].ids[t],
                                f->model->hp.vocabulary);
            f->row_span[f->tokens + t] = i;
        }
        f->span_first[i] = f->tokens;
        f->sequences[i] = (fp__attn_sequence){f->tokens,        spans[i].tokens, spans[i].anchor,
                                              spans[i].context, spans[i].mode,   spans[i].g};
        f->tokens += spans[i].tokens;
        f->want_mass = f->want_mass || (spans[i].mass && spans[i].anchor.pages > 0);
    }
    f->act_c.tokens = f->act_q.tokens = f->act_f.tokens = f->tokens;
    return fp__attn_plan_step(f->plan, f->sequences, n);
}

static fp_status set_logits(cpu_forward *f, const size_t *rows, size_t n)
{
    if (n > f->limits.logits)
        return fp__fail(FP_LIMIT, "logits of %zu rows, but there is room for %zu", n, f->limits.logits);
    for (size_t i = 0; i < n; i++)
        FP_CHECK(rows[i] < f->tokens);
    f->logit_rows = rows;
    f->n_logits = f->act_out.tokens = n;
    return FP_OK;
}

static fp_status step(fp__forward *base, const fp__forward_span *spans, size_t n, const size_t *rows,
                      size_t n_rows, size_t *bad_span)
{
    cpu_forward *f = (cpu_forward *)(void *)base;
    FP_TRY(prepare_step(f, spans, n));
    FP_TRY(set_logits(f, rows, n_rows));
    f->run_layers = true;
    fp__team_run(f->team, step_run, f);
    return check_errors(f, bad_span);
}

static fp_status project_rows(fp__forward *base, const size_t *rows, size_t n)
{
    cpu_forward *f = (cpu_forward *)(void *)base;
    FP_TRY(set_logits(f, rows, n));
    f->run_layers = false;
    fp__team_run(f->team, step_run, f);
    return check_errors(f, NULL);
}

static fp_status read_rows(fp__forward *base, size_t first, size_t n, const float **out)
{
    const cpu_forward *f = (const cpu_forward *)(void *)base;
    FP_CHECK(first + n <= f->n_logits);
    *out = f->logits + first * f->model->hp.vocabulary;
    return FP_OK;
}

static const fp__forward_ops cpu_ops = {destroy, step, project_rows, read_rows, NULL};
