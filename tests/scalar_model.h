/* The whole model once more, one token at a time, one number at a time, from src/exact alone and straight
 * from the blocks of the GGUF file: what the engine must equal bit for bit. */
#ifndef FP_TESTS_SCALAR_MODEL_H
#define FP_TESTS_SCALAR_MODEL_H
#include "engine_lab.h"
#include "exact/rope.h"

enum { SM_PAGES = 32, SM_BLOCKS = 512 / FP__BLOCK, SM_WIDTH = 1024 };

/* Pages of one segment: slabs [page][layer][kv head] and how many tokens each page shows. */
typedef struct sm_segment {
    uint8_t *slabs;
    uint8_t visible[SM_PAGES];
    size_t pages;
} sm_segment;

typedef struct scalar_model {
    fp__gguf *g;
    size_t L, C, H, HK, d, F, V;
    fp__rope_plan rope;
    float epsilon;
    sm_segment anchor, context;
    uint64_t position;
    fp__injection_mode mode;
    const uint32_t *gamma; /* [L][H] */
    uint64_t *mass;        /* [L][H] */
} scalar_model;

static inline void sm_open(scalar_model *m, const char *path, const gw_model *shape)
{
    *m = (scalar_model){.L = shape->L, .C = shape->C, .H = shape->H, .HK = shape->HK, .F = shape->F};
    m->d = shape->d ? shape->d : shape->C / shape->H;
    m->epsilon = 1e-5f;
    ok(fp__gguf_open(path, &m->g));
    const fp__gguf_tensor *t;
    ok(fp__gguf_tensor_get(m->g, "token_embd.weight", &t));
    m->V = (size_t)t->dims[1];
    float factors[FP__ROPE_DIM_MAX / 2];
    bool scaled = fp__gguf_tensor_find(m->g, "rope_freqs.weight") != NULL;
    if (scaled) {
        ok(fp__gguf_tensor_get(m->g, "rope_freqs.weight", &t));
        for (size_t i = 0; i < m->d / 2; i++)
            factors[i] = fp__bits_float(fp__load_le32(t->data + 4 * i));
    }
    ok(fp__rope_plan_init((double)shape->rope_base, m->d,
                          strcmp(shape->arch, "llama") == 0 ? FP__ROPE_PAIRS : FP__ROPE_HALVES,
                          scaled ? factors : NULL, &m->rope));
    size_t bytes = SM_PAGES * m->L * m->HK * fp__slab_bytes(m->d);
    m->anchor.slabs = calloc(1, bytes);
    m->context.slabs = calloc(1, bytes);
    assert_true(m->anchor.slabs && m->context.slabs);
}

static inline void sm_close(scalar_model *m)
{
    fp__gguf_close(m->g);
    free(m->anchor.slabs);
    free(m->context.slabs);
}

static inline uint8_t *sm_slab(const scalar_model *m, const sm_segment *s, size_t page, size_t layer,
                               size_t head)
{
    return s->slabs + ((page * m->L + layer) * m->HK + head) * fp__slab_bytes(m->d);
}

/* name, or blk.LAYER.name when it begins with a dot. */
static inline void sm_name(char full[96], const char *name, size_t layer)
{
    if (name[0] == '.')
        snprintf(full, 96, "blk.%zu%s", layer, name);
    else
        snprintf(full, 96, "%s", name);
}

/* A vector of the file, or false when there is none. */
static inline bool sm_vector(const scalar_model *m, const char *name, size_t layer, float *out)
{
    char full[96];
    const fp__gguf_tensor *t;
    sm_name(full, name, layer);
    if (!fp__gguf_tensor_find(m->g, full))
        return false;
    ok(fp__gguf_tensor_get(m->g, full, &t));
    for (size_t i = 0; i < t->dims[0]; i++)
        out[i] = fp__bits_float(fp__load_le32(t->data + 4 * i));
    return true;
}

/* y = W·x (+ bias). */
static inline void sm_linear(const scalar_model *m, const char *name, size_t layer, const float *x,
                             const char *bias_name, float *y)
{
    char full[96];
    float bias[SM_WIDTH];
    const fp__gguf_tensor *t;
    fp__qblock q[SM_BLOCKS];
    size_t elements, bytes;
    sm_name(full, name, layer);
    ok(fp__gguf_tensor_get(m->g, full, &t));
    size_t cols = (size_t)t->dims[0], rows = (size_t)t->dims[1];
    assert_true(cols <= SM_BLOCKS * FP__BLOCK && fp__wtype_block((int)t->type, &elements, &bytes));
    for (size_t b = 0; b < cols / FP__BLOCK; b++)
        assert_true(fp__exact_quantise_block(x + b * FP__BLOCK, &q[b]));
    bool has_bias = bias_name && sm_vector(m, bias_name, layer, bias);
    for (size_t r = 0; r < rows; r++) {
        y[r] = fp__exact_dot((int)t->type, t->data + r * (cols / elements * bytes), cols, q);
        if (has_bias)
            y[r] = y[r] + bias[r];
    }
}

static inline void sm_norm(const scalar_model *m, const char *name, size_t layer, const float *x, size_t n,
                           float *y)
{
    float w[SM_WIDTH];
    assert_true(sm_vector(m, name, layer, w));
    assert_true(fp__exact_rmsnorm(x, w, m->epsilon, n, y));
}

static inline void sm_attend(const scalar_model *m, const sm_segment *s, size_t layer, size_t kv_head,
                             const int16_t *q16, float s_q, fp__attn_state *out)
{
    const uint8_t *slabs[SM_PAGES];
    fp__exact_state_init(out, m->d);
    for (size_t p = 0; p < s->pages; p++)
        slabs[p] = sm_slab(m, s, p, layer, kv_head);
    if (s->pages > 0)
        fp__exact_attend(q16, s_q, m->d, slabs, s->visible, s->pages, out);
}

static inline void sm_attention(scalar_model *m, sm_segment *own, size_t layer, float *x)
{
    float n[SM_WIDTH], q[SM_WIDTH], k[SM_WIDTH], v[SM_WIDTH], out[SM_WIDTH], w[SM_WIDTH],
        c[FP__ROPE_DIM_MAX / 2], s[FP__ROPE_DIM_MAX / 2];
    size_t d = m->d, page = own->pages - 1, slot = own->visible[page] - 1u;
    sm_norm(m, ".attn_norm.weight", layer, x, m->C, n);
    sm_linear(m, ".attn_q.weight", layer, n, ".attn_q.bias", q);
    sm_linear(m, ".attn_k.weight", layer, n, ".attn_k.bias", k);
    sm_linear(m, ".attn_v.weight", layer, n, ".attn_v.bias", v);
    ok(fp__rope_rows(&m->rope, m->position, 1, c, s));
    for (size_t h = 0; h < m->HK; h++) {
        float *row = k + h * d;
        if (sm_vector(m, ".attn_k_norm.weight", layer, w)) {
            assert_true(fp__exact_rmsnorm(row, w, m->epsilon, d, n));
            memcpy(row, n, d * sizeof *row);
        }
        fp__exact_rope(row, d, m->rope.layout, c, s);
        assert_true(fp__exact_kv_write(row, v + h * d, d, sm_slab(m, own, page, layer, h), slot));
    }
    for (size_t h = 0; h < m->H; h++) {
        float *row = q + h * d, s_q;
        int16_t q16[FP__HEAD_DIM_MAX];
        static fp__attn_state anchor, context;
        if (sm_vector(m, ".attn_q_norm.weight", layer, w)) {
            assert_true(fp__exact_rmsnorm(row, w, m->epsilon, d, n));
            memcpy(row, n, d * sizeof *row);
        }
        fp__exact_rope(row, d, m->rope.layout, c, s);
        assert_true(fp__exact_query(row, d, q16, &s_q));
        sm_attend(m, &m->anchor, layer, h / (m->H / m->HK), q16, s_q, &anchor);
        sm_attend(m, &m->context, layer, h / (m->H / m->HK), q16, s_q, &context);
        float alpha = fp__exact_mix(&anchor, &context, m->mode, m->gamma ? m->gamma[layer * m->H + h] : 0, d,
                                    out + h * d);
        if (m->mass && own == &m->context && m->anchor.pages > 0)
            m->mass[layer * m->H + h] += (uint64_t)(int64_t)rintf(alpha * 0x1p24f);
    }
    sm_linear(m, ".attn_output.weight", layer, out, NULL, n);
    for (size_t i = 0; i < m->C; i++)
        x[i] = x[i] + n[i];
}

static inline void sm_ffn(const scalar_model *m, size_t layer, float *x)
{
    float n[SM_WIDTH], gate[SM_WIDTH], up[SM_WIDTH];
    sm_norm(m, ".ffn_norm.weight", layer, x, m->C, n);
    sm_linear(m, ".ffn_gate.weight", layer, n, NULL, gate);
    sm_linear(m, ".ffn_up.weight", layer, n, NULL, up);
    for (size_t i = 0; i < m->F; i++)
        gate[i] = fp__exact_silu_mul(gate[i], up[i]);
    sm_linear(m, ".ffn_down.weight", layer, gate, NULL, n);
    for (size_t i = 0; i < m->C; i++)
        x[i] = x[i] + n[i];
}

/* One token through all layers. new_page: it starts a page although the last one has room (an anchor begins).
 * logits [V] or NULL. */
static inline void sm_token(scalar_model *m, bool in_anchor, bool new_page, uint32_t id, float *logits)
{
    sm_segment *own = in_anchor ? &m->anchor : &m->context;
    const fp__gguf_tensor *t;
    size_t elements, bytes;
    float x[SM_WIDTH], n[SM_WIDTH];
    if (new_page || own->pages == 0 || own->visible[own->pages - 1] == FP__PAGE_TOKENS)
        own->visible[own->pages++] = 0;
    assert_true(own->pages <= SM_PAGES);
    own->visible[own->pages - 1]++;
    ok(fp__gguf_tensor_get(m->g, "token_embd.weight", &t));
    assert_true(fp__wtype_block((int)t->type, &elements, &bytes));
    assert_true(fp__exact_embed((int)t->type, t->data + id * (m->C / elements * bytes), m->C, x));
    for (size_t layer = 0; layer < m->L; layer++) {
        sm_attention(m, own, layer, x);
        sm_ffn(m, layer, x);
    }
    m->position++;
    if (!logits)
        return;
    sm_norm(m, "output_norm.weight", 0, x, m->C, n);
    bool tied = !fp__gguf_tensor_find(m->g, "output.weight");
    sm_linear(m, tied ? "token_embd.weight" : "output.weight", 0, n, NULL, logits);
}
#endif
