/* Decode beside large stacks for heads of 64; a file each, so that they compile side by side. */
#include "kernel/cuda/attention_stack.cuh"

fp::attn::Kernel fp::attn::stack_kernel_64()
{
    return stack::stack_kernel<64>();
}
