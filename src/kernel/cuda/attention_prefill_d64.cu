/* The prefill kernels for heads of 64; a file each, so that they compile side by side. */
#include "kernel/cuda/attention_prefill.cuh"

fp::attn::Kernel fp::attn::prefill_kernel_64(uint32_t groups)
{
    return prefill::prefill_kernel<64>(groups);
}
