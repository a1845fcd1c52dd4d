/* CUDA's errors as ours. */
#ifndef FP_KERNEL_CUDA_TRY_H
#define FP_KERNEL_CUDA_TRY_H
#include "core/error.h"
#include <cuda_runtime_api.h>

static inline fp_status fp__cuda_status(cudaError_t e, const char *what)
{
    if (e == cudaSuccess)
        return FP_OK;
    fp_status status =
        e == cudaErrorMemoryAllocation ? FP_NO_MEMORY
        : e == cudaErrorNoDevice || e == cudaErrorInsufficientDriver || e == cudaErrorNoKernelImageForDevice
            ? FP_UNSUPPORTED
            : FP_INTERNAL;
    return fp__fail(status, "GPU: %s: %s", what, cudaGetErrorString(e));
}
/* Returns from the enclosing function unless the call succeeded. */
#define FP_CUDA(call, what) FP_TRY(fp__cuda_status((call), (what)))
#endif
