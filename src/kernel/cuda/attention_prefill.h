/* What the plan knows of the prefill kernel (attention_prefill.cuh). */
#ifndef FP_KERNEL_CUDA_ATTENTION_PREFILL_H
#define FP_KERNEL_CUDA_ATTENTION_PREFILL_H
#include "kernel/cuda/attention_plan.cuh"

namespace fp
{
namespace attn
{

constexpr uint32_t PREFILL_ROWS = 192, PREFILL_THREADS = 512, PREFILL_BARRIER_BYTES = 1024;
static inline constexpr __host__ __device__ uint32_t prefill_stage_bytes(uint32_t d)
{
    return 128 * d + 1152;
}
/* Shared memory of the rows: both planes of Q, the chunks' states, and the heads (32 bytes a
 * row) of chunks and segments. */
static inline constexpr __host__ __device__ uint32_t prefill_row_bytes(uint32_t d)
{
    return PREFILL_ROWS * (d * (2 + 4) + 2 * 32);
}
/* Device memory of a CTA: the states of the context and of the anchor. */
static inline constexpr __host__ __device__ uint32_t prefill_scratch_bytes(uint32_t d)
{
    return PREFILL_ROWS * (d * 4 + 32) * 2;
}

/* The kernel of a head size; nullptr if there is none for this GPU in this build. */
Kernel prefill_kernel(uint32_t d);

} // namespace attn
} // namespace fp
#endif
