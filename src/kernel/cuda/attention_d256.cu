/* The attention kernel for heads of 256; a file each, so that they compile side by side. */
#include "kernel/cuda/attention_kernel.cuh"

fp::attn::Kernel fp::attn::kernel_256()
{
    return attend<256>;
}
