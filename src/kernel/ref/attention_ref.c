/* §6 on the arrays of the kernel table. */
#include "kernel/ref/ref.h"

void fp__query_ref(const float *q, size_t heads, size_t d, int16_t *q16, size_t stride, float *s_q,
                   uint8_t *bad)
{
    for (size_t h = 0; h < heads; h++) {
        memset(q16 + h * stride, 0, stride * sizeof *q16);
        if (!fp__exact_query(q + h * d, d, q16 + h * stride, &s_q[h]))
            *bad = 1;
    }
}

void fp__kv_write_ref(const float *k, const float *v, size_t d, uint8_t *slab, size_t slot, uint8_t *bad)
{
    if (!fp__exact_kv_write(k, v, d, slab, slot))
        *bad = 1;
}

static void load_state(fp__attn_states from, size_t row, size_t d, fp__attn_state *out)
{
    out->m = from.m[row];
    out->l = from.l[row];
    memcpy(out->o, from.o + row * d, d * sizeof(float));
}

static void store_state(const fp__attn_state *state, size_t row, size_t d, fp__attn_states out)
{
    out.m[row] = state->m;
    out.l[row] = state->l;
    memcpy(out.o + row * d, state->o, d * sizeof(float));
}

void fp__attn_span_ref(const fp__attn_rows *q, const uint8_t *const *slabs, const uint8_t *visible,
                       size_t pages, fp__attn_states out)
{
    for (size_t r = 0; r < q->rows; r++) {
        fp__attn_state span;
        fp__exact_state_init(&span, q->d);
        for (size_t p = 0; p < pages; p++) {
            size_t n = visible[p * q->rows + r];
            if (n == 0)
                continue;
            fp__page_partial partial;
            fp__exact_page_partial(q->q16 + r * q->stride, q->s_q[r], q->d, slabs[p], n, &partial);
            fp__exact_merge_page(&span, &partial, q->d);
        }
        store_state(&span, r, q->d, out);
    }
}

void fp__attn_merge_ref(size_t rows, size_t d, fp__attn_states into, fp__attn_states from)
{
    for (size_t r = 0; r < rows; r++) {
        fp__attn_state a, b;
        load_state(into, r, d, &a);
        load_state(from, r, d, &b);
        fp__exact_merge_state(&a, &b, d);
        store_state(&a, r, d, into);
    }
}

float fp__attn_mix_ref(fp__attn_states anchor, fp__attn_states context, fp__injection_mode mode, uint32_t g,
                       size_t d, float *out)
{
    fp__attn_state a, c;
    load_state(anchor, 0, d, &a);
    load_state(context, 0, d, &c);
    return fp__exact_mix(&a, &c, mode, g, d, out);
}
