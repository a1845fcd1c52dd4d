#include "kernel/linear.h"
#include "kernel/neon/attention_neon.h"
#include "kernel/neon/elementwise_neon.h"
#include "kernel/ref/ref.h"

const fp__kernel_ops fp__kernel_ops_neon = {
    .name = "neon",
    .rmsnorm = fp__rmsnorm_neon,
    .act_quantise = fp__act_quantise_neon,
    .linear = fp__linear_neon,
    .rope = fp__rope_neon,
    .query = fp__query_neon,
    .kv_write = fp__kv_write_neon,
    .attn_span = fp__attn_span_neon,
    .attn_merge = fp__attn_merge_neon,
    .attn_mix = fp__attn_mix_neon,
    .silu_mul = fp__silu_mul_neon,
    .exp_weights = fp__exp_weights_neon,
};
