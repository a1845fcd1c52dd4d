/* §6: attention of one query row, page by page. */
#include "exact/exact.h"

size_t fp__exact_hadamard_size(size_t d)
{
    return d & (~d + 1);
}

void fp__exact_rotate(float *x, size_t d)
{
    for (size_t j = 0; j < d; j++)
        if (__builtin_popcountll(j & (j >> 1)) & 1)
            x[j] = -x[j];
    size_t h = fp__exact_hadamard_size(d);
    for (size_t block = 0; block < d; block += h)
        for (size_t s = 1; s < h; s *= 2)
            for (size_t i = 0; i < h; i++)
                if (!(i & s)) {
                    float a = x[block + i], b = x[block + i + s];
                    x[block + i] = a + b;
                    x[block + i + s] = a - b;
                }
}

float fp__exact_query_factor(size_t d)
{
    return (float)(0x1.71547652b82fep+0 / sqrt((double)d) / (double)fp__exact_hadamard_size(d));
}

bool fp__exact_query(const float *q, size_t d, int16_t *q16, float *s_q)
{
    float x[FP__HEAD_DIM_MAX], c = fp__exact_query_factor(d);
    memcpy(x, q, d * sizeof *x);
    fp__exact_rotate(x, d);
    for (size_t j = 0; j < d; j++)
        x[j] = x[j] * c;
    uint32_t amax = fp__exact_amax_bits(x, d);
    memset(q16, 0, d * sizeof *q16);
    *s_q = 0.0f;
    if (amax >= FP__AMAX_LIMIT)
        return false;
    if (amax < FP__AMAX_FLOOR)
        return true;
    *s_q = fp__bits_float(amax) / 32512.0f;
    float inverse = 1.0f / *s_q;
    for (size_t j = 0; j < d; j++)
        q16[j] = (int16_t)rintf(x[j] * inverse);
    return true;
}

/* x[d] → int8 at out[j·stride], scale rounded up to bfloat16. */
static bool quantise_kv(const float *x, size_t d, int8_t *out, size_t stride, uint8_t scale[2])
{
    uint32_t amax = fp__exact_amax_bits(x, d), scale_bits = 0;
    bool ok = amax < FP__AMAX_LIMIT;
    if (ok && amax >= FP__AMAX_FLOOR)
        scale_bits = (fp__float_bits(fp__bits_float(amax) / 127.0f) + 0xffffu) & 0xffff0000u;
    float inverse = scale_bits ? 1.0f / fp__bits_float(scale_bits) : 0.0f;
    for (size_t j = 0; j < d; j++) {
        int32_t i = scale_bits ? (int32_t)rintf(x[j] * inverse) : 0;
        out[j * stride] = (int8_t)(i > 127 ? 127 : i < -127 ? -127 : i);
    }
    scale[0] = (uint8_t)(scale_bits >> 16);
    scale[1] = (uint8_t)(scale_bits >> 24);
    return ok;
}

bool fp__exact_kv_write(const float *k, const float *v, size_t d, uint8_t *slab, size_t slot)
{
    float rotated[FP__HEAD_DIM_MAX];
    memcpy(rotated, k, d * sizeof *rotated);
    fp__exact_rotate(rotated, d);
    bool k_ok = quantise_kv(rotated, d, (int8_t *)slab + slot * d, 1, slab + 128 * d + 2 * slot);
    bool v_ok =
        quantise_kv(v, d, (int8_t *)slab + 64 * d + slot, FP__PAGE_TOKENS, slab + 128 * d + 128 + 2 * slot);
    return k_ok && v_ok;
}

static float slab_scale(const uint8_t *scales, size_t t)
{
    return fp__bf16_float((uint16_t)(scales[2 * t] | scales[2 * t + 1] << 8));
}

void fp__exact_page_partial(const int16_t *q16, float s_q, size_t d, const uint8_t *slab, size_t visible,
                            fp__page_partial *out)
{
    const int8_t *k = (const int8_t *)slab, *v = k + 64 * d; /* [64][d], [d][64] */
    const uint8_t *s_k = slab + 128 * d, *s_v = s_k + 128;   /* [64], [64] */
    float x[FP__PAGE_TOKENS], m = -INFINITY;
    int32_t w[FP__PAGE_TOKENS];
    uint32_t s_v_max = 0;
    for (size_t t = 0; t < visible; t++) {
        int32_t dot = 0;
        for (size_t j = 0; j < d; j++)
            dot += (int32_t)q16[j] * k[t * d + j];
        x[t] = (float)dot * (s_q * slab_scale(s_k, t));
        m = x[t] > m ? x[t] : m;
        uint32_t bits = fp__float_bits(slab_scale(s_v, t));
        s_v_max = bits > s_v_max ? bits : s_v_max;
    }
    out->m = m + 0.0f;
    out->e = s_v_max ? (int32_t)(s_v_max >> 23) - 126 : 0;
    out->l = 0;
    for (size_t t = 0; t < visible; t++) {
        float p = fp__exp2c(x[t] - out->m);
        out->l += (int32_t)rintf(p * 65535.0f);
        w[t] = (int32_t)rintf((p * (slab_scale(s_v, t) * fp__pow2(-out->e))) * 65535.0f);
    }
    for (size_t j = 0; j < d; j++) {
        out->o[j] = 0;
        for (size_t t = 0; t < visible; t++)
            out->o[j] += w[t] * v[j * FP__PAGE_TOKENS + t];
    }
}

void fp__exact_state_init(fp__attn_state *s, size_t d)
{
    s->m = -INFINITY;
    s->l = 0.0f;
    memset(s->o, 0, d * sizeof *s->o);
}

void fp__exact_merge_page(fp__attn_state *s, const fp__page_partial *p, size_t d)
{
    float m = s->m > p->m ? s->m : p->m;
    float a = fp__exp2c(s->m - m), b = fp__exp2c(p->m - m);
    s->m = m;
    s->l = fmaf(s->l, a, (float)p->l * b);
    float scale = b * fp__pow2(p->e);
    for (size_t j = 0; j < d; j++)
        s->o[j] = fmaf(s->o[j], a, (float)p->o[j] * scale);
}

void fp__exact_merge_state(fp__attn_state *s, const fp__attn_state *from, size_t d)
{
    if (from->m == -INFINITY)
        return;
    float m = s->m > from->m ? s->m : from->m;
    float a = fp__exp2c(s->m - m), b = fp__exp2c(from->m - m);
    s->m = m;
    s->l = fmaf(s->l, a, from->l * b);
    for (size_t j = 0; j < d; j++)
        s->o[j] = fmaf(s->o[j], a, from->o[j] * b);
}

void fp__exact_attend(const int16_t *q16, float s_q, size_t d, const uint8_t *const *slabs,
                      const uint8_t *visible, size_t pages, fp__attn_state *out)
{
    fp__attn_state chunk, span;
    fp__page_partial partial;
    fp__exact_state_init(out, d);
    for (size_t c = 0; c < pages; c += FP__SPAN_PAGES * FP__CHUNK_SPANS) {
        fp__exact_state_init(&chunk, d);
        for (size_t s = c; s < pages && s < c + FP__SPAN_PAGES * FP__CHUNK_SPANS; s += FP__SPAN_PAGES) {
            fp__exact_state_init(&span, d);
            for (size_t p = s; p < pages && p < s + FP__SPAN_PAGES; p++)
                if (visible[p] > 0) {
                    fp__exact_page_partial(q16, s_q, d, slabs[p], visible[p], &partial);
                    fp__exact_merge_page(&span, &partial, d);
                }
            fp__exact_merge_state(&chunk, &span, d);
        }
        fp__exact_merge_state(out, &chunk, d);
    }
}

float fp__exact_mix(const fp__attn_state *anchor, const fp__attn_state *context, fp__injection_mode mode,
                    uint32_t g, size_t d, float *out)
{
    if (anchor->m == -INFINITY || context->m == -INFINITY) {
        const fp__attn_state *only = anchor->m == -INFINITY ? context : anchor;
        for (size_t j = 0; j < d; j++)
            out[j] = only->o[j] / only->l;
        return only == anchor ? 1.0f : 0.0f;
    }
    float m = anchor->m > context->m ? anchor->m : context->m;
    float na = anchor->l * fp__exp2c(anchor->m - m), nc = context->l * fp__exp2c(context->m - m);
    float alpha = na / (na + nc), gamma = (float)g / 65536.0f, w = alpha;
    if (g > 0 && mode == FP__RESERVE)
        w = gamma;
    if (g > 0 && mode == FP__FLOOR)
        w = alpha > gamma ? alpha : gamma;
    for (size_t j = 0; j < d; j++)
        out[j] = fmaf(w, anchor->o[j] / anchor->l, (1.0f - w) * (context->o[j] / context->l));
    return alpha;
}
