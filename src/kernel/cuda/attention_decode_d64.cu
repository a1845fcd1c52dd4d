/* The decode kernels for heads of 64; a file each, so that they compile side by side. */
#include "kernel/cuda/attention_decode.cuh"

fp::attn::Kernel fp::attn::decode_kernel_64(uint32_t tiles, uint32_t quads)
{
    return decode_kernel<64>(tiles, quads);
}
