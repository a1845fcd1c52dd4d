/* The decode kernels for heads of 256; a file each, so that they compile side by side. */
#include "kernel/cuda/attention_decode.cuh"

fp::attn::Kernel fp::attn::decode_kernel_256(uint32_t tiles, uint32_t quads)
{
    return decode_kernel<256>(tiles, quads);
}
