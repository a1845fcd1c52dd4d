/* The prefill kernels for heads of 128; a file each, so that they compile side by side. */
#include "kernel/cuda/attention_prefill.cuh"

fp::attn::Kernel fp::attn::prefill_kernel_128(uint32_t groups)
{
    return prefill::prefill_kernel<128>(groups);
}
