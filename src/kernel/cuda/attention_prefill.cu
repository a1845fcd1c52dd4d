/* The prefill kernels, and whether this GPU and this build have them. */
#include "kernel/cuda/attention_prefill.cuh"

namespace
{
/* 1 in the code for sm_90a, which has wgmma; each architecture's code has its own. */
__device__ int has_wgmma = FP_CUDA_WGMMA;
} // namespace

fp::attn::Kernel fp::attn::prefill_kernel(uint32_t d)
{
    int there = 0;
    if (cudaMemcpyFromSymbol(&there, has_wgmma, sizeof there) != cudaSuccess) {
        (void)cudaGetLastError();
        return nullptr;
    }
    return !there     ? nullptr
           : d == 64  ? (Kernel)prefill::attend_prefill<64>
           : d == 96  ? (Kernel)prefill::attend_prefill<96>
           : d == 128 ? (Kernel)prefill::attend_prefill<128>
                      : nullptr;
}
