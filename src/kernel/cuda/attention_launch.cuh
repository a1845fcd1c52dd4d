/* Launches that may begin while the kernel before them ends (overlap.cuh), where the GPU can do that. */
#ifndef FP_KERNEL_CUDA_ATTENTION_LAUNCH_CUH
#define FP_KERNEL_CUDA_ATTENTION_LAUNCH_CUH
#include "kernel/cuda/attention_tuning.h"
#include "kernel/cuda/overlap.cuh"

#include <cuda_runtime.h>

namespace fp
{
namespace attn
{

template <typename... Params, typename... Args>
static cudaError_t launch(void (*kernel)(Params...), uint32_t ctas, uint32_t threads, size_t shared,
                          cudaStream_t stream, Args... args)
{
    int device, major;
    cudaError_t e = cudaGetDevice(&device);
    if (e == cudaSuccess)
        e = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    if (e != cudaSuccess)
        return e;
    bool overlap = major >= 9 && !fp__cuda_attention_tuning[FP__TUNE_NO_OVERLAP];
    constexpr unsigned ALL_SHARED = 100; /* kernels side by side need the same */
    return launch_kernel(overlap, ALL_SHARED, kernel, ctas, threads, shared, stream, args...);
}

} // namespace attn
} // namespace fp
#endif
