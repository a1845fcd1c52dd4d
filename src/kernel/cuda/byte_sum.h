/* Checksum of bytes in device memory, for accidents: of 32-bit little-endian words w_i (the last one padded
 * with zeros), sum[0] = Σ w_i and sum[1] = Σ (i + 1)·w_i modulo 2^64. One flipped bit changes the first; two
 * that cancel there lie at different places and change the second.
 *
 * Asynchronous, no allocation. */
#ifndef FP_KERNEL_CUDA_BYTE_SUM_H
#define FP_KERNEL_CUDA_BYTE_SUM_H
#include <cuda_runtime_api.h>
#include <stdint.h>
#include <string.h>
#ifdef __cplusplus
extern "C" {
#endif

/* sum[2] (device memory) ← of data (16-byte aligned). */
cudaError_t fp__cuda_byte_sum(const uint8_t *data, size_t bytes, uint64_t *sum, cudaStream_t stream);

/* The same on the host. */
static inline void fp__byte_sum(const uint8_t *data, size_t bytes, uint64_t sum[2])
{
    uint64_t a = 0, b = 0;
    size_t words = bytes / 4;
    for (size_t i = 0; i < words; i++) {
        uint32_t w;
        memcpy(&w, data + 4 * i, 4);
        a += w;
        b += (uint64_t)(i + 1) * w;
    }
    if (bytes % 4) {
        uint32_t w = 0;
        memcpy(&w, data + 4 * words, bytes % 4);
        a += w;
        b += (uint64_t)(words + 1) * w;
    }
    sum[0] = a;
    sum[1] = b;
}
#ifdef __cplusplus
}
#endif
#endif
