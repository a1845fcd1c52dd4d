#include "kernel/avx512/attention_avx512.h"
#include "kernel/avx512/elementwise_avx512.h"
#include "kernel/linear.h"
#include "kernel/ref/ref.h"

const fp__kernel_ops fp__kernel_ops_avx512 = {
    .name = "avx512",
    .rmsnorm = fp__rmsnorm_avx512,
    .act_quantise = fp__act_quantise_avx512,
    .linear = fp__linear_avx512,
    .rope = fp__rope_avx512,
    .query = fp__query_avx512,
    .kv_write = fp__kv_write_avx512,
    .attn_span = fp__attn_span_avx512,
    .attn_merge = fp__attn_merge_avx512,
    .attn_mix = fp__attn_mix_avx512,
    .silu_mul = fp__silu_mul_avx512,
    .exp_weights = fp__exp_weights_avx512,
};
