/* Host side of the attention kernel for one sequence (attention_solo.cuh): whether a plan has it, what it
 * makes of a step, its launch. Functions are called by one thread at a time for one Solo. */
#ifndef FP_KERNEL_CUDA_ATTENTION_SOLO_H
#define FP_KERNEL_CUDA_ATTENTION_SOLO_H
#include "fieldprint/cuda_attention.h"
#include "kernel/cuda/attention_plan.cuh"

#include <cuda_runtime.h>

namespace fp
{
namespace attn
{

/* For up to 4 query rows a KV head, or up to 8. */
struct SoloKernel {
    Kernel kernel; /* null: not for this GPU or model */
    SoloShape shape;
    size_t shared_bytes; /* of a CTA */
};

struct Solo {
    SoloKernel kernels[2];
    int device;        /* whose solo kernel this is, or -1 */
    uint32_t quads;    /* of a grid */
    uint32_t kv_heads; /* of the model */
    uint32_t anchor_pieces;
};

/* No kernels, and FP_OK, where the GPU, the model or a plan that has the device's solo kernel leaves none.
 * Other statuses: the GPU failed. */
fp_status solo_create(const fp_cuda_attention_config *config, uint32_t grid, Solo *solo);
void solo_destroy(Solo *solo);
/* The kernel for a step of one sequence, or null where the general kernels do it better. */
const SoloKernel *solo_choose(const fp_cuda_attention *plan, const fp_cuda_attention_sequence *sequence);
/* Items and pieces of the lists of such a step. False: no memory. */
bool solo_items(fp_cuda_attention *plan, const fp_cuda_attention_sequence *sequence);
cudaError_t solo_run(const SoloKernel *kernel, uint32_t grid, Params p, cudaStream_t stream);

} // namespace attn
} // namespace fp
#endif
