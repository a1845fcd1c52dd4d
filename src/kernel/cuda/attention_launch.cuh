/* Launches that may begin while the kernel before them ends (overlap.cuh), where the GPU can do that. */
#ifndef FP_KERNEL_CUDA_ATTENTION_LAUNCH_CUH
#define FP_KERNEL_CUDA_ATTENTION_LAUNCH_CUH
#include "kernel/cuda/attention_tuning.h"

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
    cudaLaunchAttribute attributes[2] = {};
    attributes[0].id =
        cudaLaunchAttributePreferredSharedMemoryCarveout; /* kernels side by side need the same */
    attributes[0].val.sharedMemCarveout = 100;
    attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[1].val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = ctas;
    config.blockDim = threads;
    config.dynamicSmemBytes = shared;
    config.stream = stream;
    config.attrs = attributes;
    config.numAttrs = major >= 9 && !fp__cuda_attention_tuning[FP__TUNE_NO_OVERLAP] ? 2 : 1;
    return cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...);
}

} // namespace attn
} // namespace fp
#endif
