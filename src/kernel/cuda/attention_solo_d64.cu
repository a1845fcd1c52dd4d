/* Attention of one sequence for heads of 64; a file each, so that they compile side by side. */
#include "kernel/cuda/attention_solo.cuh"

fp::attn::Kernel fp::attn::solo_kernel_64(uint32_t rows)
{
    return solo::solo_kernel<64>(rows);
}
