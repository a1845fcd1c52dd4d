/* The decode kernel for heads of 64; a file each, so that they compile side by side. */
#include "kernel/cuda/attention_decode.cuh"

fp::attn::Kernel fp::attn::decode_kernel_64()
{
    return decode<64>;
}
