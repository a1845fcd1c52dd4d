/* Whether this GPU and this build have the prefill kernels. */
#include "kernel/cuda/attention_prefill.h"
#include "kernel/cuda/wgmma.cuh"

namespace
{
/* 1 in the code for sm_90a, which has wgmma; each architecture's code has its own. */
__device__ int has_wgmma = FP_CUDA_WGMMA;
} // namespace

bool fp::attn::prefill_built()
{
    int there = 0;
    if (cudaMemcpyFromSymbol(&there, has_wgmma, sizeof there) == cudaSuccess)
        return there != 0;
    (void)cudaGetLastError();
    return false;
}
