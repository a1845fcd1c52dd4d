/* The decode kernel for heads of 96; a file each, so that they compile side by side. */
#include "kernel/cuda/attention_decode.cuh"

fp::attn::Kernel fp::attn::decode_kernel_96()
{
    return decode<96>;
}
