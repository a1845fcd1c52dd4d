/* What stands between the Q, K, V product and attention, in one kernel: q/k norm, rotation, queries to
 * integer planes, keys and values into their page (arithmetic §2, §5, §6). The same bits as the CPU's
 * rmsnorm, rope, query, kv_write.
 *
 * Asynchronous, no allocation, safe to capture. All pointers are device memory. Errors are noted as in
 * cuda_ops.h. */
#ifndef FP_KERNEL_CUDA_HEADS_H
#define FP_KERNEL_CUDA_HEADS_H
#include <cuda_runtime_api.h>
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

#define FP__CUDA_NO_MASS 0xffffffffu

/* One token of a step. */
typedef struct fp__cuda_token {
    uint32_t position; /* row of the rotary table */
    uint32_t page;     /* page group that its K/V goes to */
    uint32_t slot;     /* 0..63 */
    uint32_t mass_row; /* row of mass, or FP__CUDA_NO_MASS */
} fp__cuda_token;

typedef struct fp__cuda_heads {
    const float *qkv;                   // [T][(heads + 2·kv_heads)·d]
    uint32_t heads, kv_heads, d, n_rot; /* d: 64, 96, 128, 256; n_rot ≤ d, even */
    int halves;                         /* 0: pairs (2i, 2i+1), 1: (i, i + n_rot/2) */
    float eps;
    const float *q_norm, *k_norm; // [d] or NULL
    const float *cos, *sin;       // [positions][n_rot/2]
    const fp__cuda_token *token;  // [T]
    int8_t *q_planes;             // [T][heads][2][d]
    float *q_scales;              // [T][heads]
    uint8_t *kv;                  /* base of the page pool */
    size_t group_bytes, layer_offset;
    uint32_t *error; // [T]
    uint32_t code;   /* of the norm; a query has code + 1, a key or value code + 2 */
} fp__cuda_heads;
/* cudaErrorInvalidValue: a head size without a kernel. */
cudaError_t fp__cuda_prepare_heads(const fp__cuda_heads *a, uint32_t tokens, cudaStream_t stream);

/* mass[token.mass_row·row_stride + h] += rint(α·2^24) for α [T][heads]. */
cudaError_t fp__cuda_add_mass(const float *alpha, const fp__cuda_token *token, uint32_t tokens,
                              uint32_t heads, uint64_t *mass, size_t row_stride, cudaStream_t stream);
#ifdef __cplusplus
}
#endif
#endif
