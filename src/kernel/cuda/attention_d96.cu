/* The attention kernel for heads of 96; a file each, so that they compile side by side. */
#include "kernel/cuda/attention_kernel.cuh"

fp::attn::Kernel fp::attn::kernel_96()
{
    return attend<96>;
}
