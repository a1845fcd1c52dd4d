/* Linear layers of many tokens on Hopper; contract as in launch.cuh. */
#ifndef FP_KERNEL_CUDA_LINEAR_WGMMA_H
#define FP_KERNEL_CUDA_LINEAR_WGMMA_H
#include "kernel/cuda/cuda_ops.h"

namespace fp
{
/* Once, before the others; where this GPU or build has no wgmma it is not built. */
cudaError_t linear_wgmma_init();
bool linear_wgmma_built();
cudaError_t linear_wgmma(const fp__cuda_weight *w, const uint8_t *act, uint32_t tokens, const float *bias,
                         const float *residual, float *y, size_t y_stride, cudaStream_t stream);
} // namespace fp
#endif
