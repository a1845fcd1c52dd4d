/* The attention kernel for heads of 64; a file each, so that they compile side by side. */
#include "kernel/cuda/attention_kernel.cuh"

fp::attn::Kernel fp::attn::kernel_64()
{
    return attend<64>;
}
