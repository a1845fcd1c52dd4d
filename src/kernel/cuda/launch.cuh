/* Launching with or without overlap, and the device's sizes. */
#ifndef FP_KERNEL_CUDA_LAUNCH_CUH
#define FP_KERNEL_CUDA_LAUNCH_CUH
#include "kernel/cuda/cuda_ops.h"
#include "kernel/cuda/pipe.cuh"
#include <cuda_runtime.h>

namespace fp
{

struct device_sizes {
    int multiprocessors, shared_bytes, major; /* shared_bytes: the most one block may have */
};
const device_sizes &sizes();
cudaError_t linear_decode_init();
cudaError_t linear_token_init();
cudaError_t linear_prefill_init();
cudaError_t linear_decode(const fp__cuda_weight *w, const uint8_t *act, uint32_t tokens, const float *bias,
                          const float *residual, float *y, size_t y_stride, cudaStream_t stream);
/* One token, from floats; *done false: its width has no room on a multiprocessor, or that has no bulk copies,
 * and nothing was launched. */
cudaError_t linear_token(const fp__cuda_input *in, const fp__cuda_weight *w, const float *bias,
                         const float *residual, float *y, bool *done, cudaStream_t stream);
cudaError_t linear_prefill(const fp__cuda_weight *w, const uint8_t *act, uint32_t tokens, const float *bias,
                           const float *residual, float *y, size_t y_stride, cudaStream_t stream);

/* Percent of a multiprocessor's memory that is shared memory rather than L1 cache, the same for all kernels
 * of a decode step, so that one need not wait for the memory to be split anew: on an H100 3 to 5 % of a step
 * less than what the driver chooses. A kernel that needs more has more. */
static constexpr unsigned CARVEOUT = 60;

template <typename... Params, typename... Args>
static cudaError_t launch_split(unsigned carveout, void (*kernel)(Params...), dim3 grid, dim3 block,
                                size_t shared, cudaStream_t stream, Args... args)
{
    return launch_kernel(sizes().major >= 9 && !fp__cuda_tune.no_overlap, carveout, kernel, grid, block,
                         shared, stream, args...);
}
template <typename... Params, typename... Args>
static cudaError_t launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared,
                          cudaStream_t stream, Args... args)
{
    return launch_split(fp__cuda_tune.carveout ? fp__cuda_tune.carveout : CARVEOUT, kernel, grid, block,
                        shared, stream, args...);
}

} // namespace fp

#define FP_CUDA_TRY(expr)                                                                                    \
    do {                                                                                                     \
        cudaError_t fp_cuda_error = (expr);                                                                  \
        if (fp_cuda_error != cudaSuccess)                                                                    \
            return fp_cuda_error;                                                                            \
    } while (0)
/* Calls macro(type number) for every packed type. */
#define FP_EACH_TYPE(X) X(0) X(2) X(3) X(6) X(7) X(8) X(12) X(13) X(14)
#endif
