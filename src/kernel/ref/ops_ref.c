#include "kernel/ref/ref.h"

void fp__rmsnorm_ref(const float *x, const float *w, float eps, size_t n, float *y, uint8_t *bad)
{
    if (!fp__exact_rmsnorm(x, w, eps, n, y))
        *bad = 1;
}

void fp__rope_ref(float *x, size_t heads, size_t d, size_t n_rot, fp__rope_layout layout, const float *c,
                  const float *s)
{
    for (size_t h = 0; h < heads; h++)
        fp__exact_rope(x + h * d, n_rot, layout, c, s);
}

void fp__silu_mul_ref(const float *g, const float *u, size_t n, float *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = fp__exact_silu_mul(g[i], u[i]);
}

const fp__kernel_ops fp__kernel_ops_ref = {
    .name = "ref",
    .rmsnorm = fp__rmsnorm_ref,
    .act_quantise = fp__act_quantise_ref,
    .linear = fp__linear_ref,
    .rope = fp__rope_ref,
    .query = fp__query_ref,
    .kv_write = fp__kv_write_ref,
    .attn_span = fp__attn_span_ref,
    .attn_merge = fp__attn_merge_ref,
    .attn_mix = fp__attn_mix_ref,
    .silu_mul = fp__silu_mul_ref,
    .exp_weights = fp__exact_exp_weights,
};
