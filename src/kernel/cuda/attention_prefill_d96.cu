/* The prefill kernels for heads of 96; a file each, so that they compile side by side. */
#include "kernel/cuda/attention_prefill.cuh"

fp::attn::Kernel fp::attn::prefill_kernel_96(uint32_t groups)
{
    return prefill::prefill_kernel<96>(groups);
}
