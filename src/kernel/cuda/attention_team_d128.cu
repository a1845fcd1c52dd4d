/* The team kernel for heads of 128; a file each, so that they compile side by side. */
#include "kernel/cuda/attention_team.cuh"

fp::attn::Kernel fp::attn::team_kernel_128()
{
    return attend_team<128>;
}
