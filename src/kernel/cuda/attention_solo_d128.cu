/* Attention of one sequence for heads of 128; a file each, so that they compile side by side. */
#include "kernel/cuda/attention_solo.cuh"

fp::attn::Kernel fp::attn::solo_kernel_128(uint32_t rows)
{
    return solo::solo_kernel<128>(rows);
}
