/* Host side of the attention kernel for one sequence (attention_solo.cuh): whether a plan has it, its launch,
 * and how it cuts a context. Functions are called by one thread at a time for one Solo. */
#ifndef FP_KERNEL_CUDA_ATTENTION_SOLO_H
#define FP_KERNEL_CUDA_ATTENTION_SOLO_H
#include "fieldprint/cuda_attention.h"
#include "kernel/cuda/attention_plan.cuh"

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
    int device;                                          /* whose solo kernel this is, or -1 */
    uint32_t grid, kv_heads;                             /* CTAs */
    uint32_t whole_asked, spans_asked, chunks_for_asked; /* the last choice of solo_chunks */
};

/* No kernels, and FP_OK, where the GPU, the model or a plan that has the device's solo kernel leaves none.
 * FP_NO_MEMORY, FP_UNSUPPORTED: the GPU failed. */
fp_status solo_create(const fp_cuda_attention_config *config, uint32_t grid, Solo *solo);
void solo_destroy(Solo *solo);
/* The kernel for so many query rows a KV head, or null. */
const SoloKernel *solo_find(const Solo *solo, uint32_t rows);
/* Of a context of so many whole chunks and so many spans in all: how many chunks are one unit each, so that
 * the busiest quad is done soonest; the rest goes span by span. */
uint32_t solo_chunks(Solo *solo, uint32_t whole, uint32_t spans);

} // namespace attn
} // namespace fp
#endif
