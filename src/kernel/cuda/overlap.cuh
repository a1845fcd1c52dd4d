/* Programmatic dependent launch: a kernel may start while the one before it still runs. Every kernel here
 * calls launch_next first and wait_previous before it reads or writes anything that another kernel of the
 * step writes or reads; so the order is that of a plain stream, and only what no kernel of the step writes
 * (weights, plans, complete K/V pages) is read ahead. Without the launch attribute both do nothing. */
#ifndef FP_KERNEL_CUDA_OVERLAP_CUH
#define FP_KERNEL_CUDA_OVERLAP_CUH
#include <cuda_runtime.h>

namespace fp
{

static __device__ __forceinline__ void launch_next()
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
static __device__ __forceinline__ void wait_previous()
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* overlap: this kernel may start while the one before it still runs (sm_90 and newer). carveout: percent of a
 * multiprocessor's memory that is shared memory rather than L1 cache; above 100: the driver's choice. */
template <typename... Params, typename... Args>
static cudaError_t launch_kernel(bool overlap, unsigned carveout, void (*kernel)(Params...), dim3 grid,
                                 dim3 block, size_t shared, cudaStream_t stream, Args... args)
{
    cudaLaunchAttribute attributes[2] = {};
    unsigned n = 0;
    if (overlap) {
        attributes[n].id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attributes[n++].val.programmaticStreamSerializationAllowed = 1;
    }
    if (carveout <= 100) {
        attributes[n].id = cudaLaunchAttributePreferredSharedMemoryCarveout;
        attributes[n++].val.sharedMemCarveout = carveout;
    }
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = shared;
    config.stream = stream;
    config.attrs = attributes;
    config.numAttrs = n;
    return cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...);
}

} // namespace fp
#endif
