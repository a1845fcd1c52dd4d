/* What the plan knows of the prefill kernel (attention_prefill.cuh). */
#ifndef FP_KERNEL_CUDA_ATTENTION_PREFILL_H
#define FP_KERNEL_CUDA_ATTENTION_PREFILL_H
#include "kernel/cuda/attention_plan.cuh"

namespace fp
{
namespace attn
{

constexpr uint32_t PREFILL_ROWS = 128, PREFILL_THREADS = 384, PREFILL_BARRIER_BYTES = 1024;
static inline constexpr __host__ __device__ uint32_t PREFILL_STAGE_BYTES(uint32_t d)
{
    return 128 * d + 1152;
}
/* Shared memory of the chunks' and the segments' states. */
static inline constexpr __host__ __device__ uint32_t PREFILL_LEVEL_BYTES(uint32_t d)
{
    return 2 * PREFILL_ROWS * d * 4;
}

/* The kernel of a head size; nullptr if there is none for this GPU in this build. */
Kernel prefill_kernel(uint32_t d);

} // namespace attn
} // namespace fp
#endif
