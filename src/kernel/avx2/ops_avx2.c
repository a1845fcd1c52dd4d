#include "kernel/avx2/attention_avx2.h"
#include "kernel/avx2/elementwise_avx2.h"
#include "kernel/linear.h"
#include "kernel/ref/ref.h"

const fp__kernel_ops fp__kernel_ops_avx2 = {
    .name = "avx2",
    .rmsnorm = fp__rmsnorm_avx2,
    .act_quantise = fp__act_quantise_avx2,
    .linear = fp__linear_avx2,
    .rope = fp__rope_avx2,
    .query = fp__query_avx2,
    .kv_write = fp__kv_write_avx2,
    .attn_span = fp__attn_span_avx2,
    .attn_merge = fp__attn_merge_avx2,
    .attn_mix = fp__attn_mix_avx2,
    .silu_mul = fp__silu_mul_avx2,
    .exp_weights = fp__exp_weights_avx2,
};
