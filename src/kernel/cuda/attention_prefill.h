/* What the plan knows of the prefill kernel (attention_prefill.cuh). */
#ifndef FP_KERNEL_CUDA_ATTENTION_PREFILL_H
#define FP_KERNEL_CUDA_ATTENTION_PREFILL_H
#include "kernel/cuda/attention_plan.cuh"

namespace fp
{
namespace attn
{

/* A CTA: 1 to PREFILL_GROUPS warpgroups of 64 rows each, and one that copies. */
constexpr uint32_t PREFILL_GROUPS = 3, PREFILL_BARRIER_BYTES = 1024;
static inline constexpr __host__ __device__ uint32_t prefill_threads(uint32_t groups)
{
    return 128 * (groups + 1);
}
static inline constexpr __host__ __device__ uint32_t prefill_stage_bytes(uint32_t d)
{
    return 128 * d + 1152;
}
/* Shared memory of a group: both planes of Q, the chunks' states, and what is kept of the rows. */
static inline constexpr __host__ __device__ uint32_t prefill_group_bytes(uint32_t d)
{
    return 64 * d * (2 + 4) + 3 * 32 * 16;
}
/* Device memory of a CTA: the states of the context and of the anchor, and their heads. */
static inline constexpr __host__ __device__ uint32_t prefill_scratch_bytes(uint32_t d)
{
    return PREFILL_GROUPS * 64 * (d * 4 + 32) * 2;
}

/* Whether this GPU has the kernels in this build, and the kernel of a head size; nullptr if there is none. */
bool prefill_built();
Kernel prefill_kernel_64(uint32_t groups), prefill_kernel_96(uint32_t groups),
    prefill_kernel_128(uint32_t groups);

} // namespace attn
} // namespace fp
#endif
