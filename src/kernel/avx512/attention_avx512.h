/* Entries of the AVX-512 table for attention; contracts in kernel/kernel.h. */
#ifndef FP_KERNEL_ATTENTION_AVX512_H
#define FP_KERNEL_ATTENTION_AVX512_H
#include "kernel/kernel.h"

void fp__query_avx512(const float *q, size_t heads, size_t d, int16_t *q16, size_t stride, float *s_q,
                      uint8_t *bad);
void fp__kv_write_avx512(const float *k, const float *v, size_t d, uint8_t *slab, size_t slot, uint8_t *bad);
void fp__attn_span_avx512(const fp__attn_rows *q, const uint8_t *const *slabs, const uint8_t *visible,
                          size_t pages, fp__attn_states out);
void fp__attn_merge_avx512(size_t rows, size_t d, fp__attn_states into, fp__attn_states from);
float fp__attn_mix_avx512(fp__attn_states anchor, fp__attn_states context, fp__injection_mode mode,
                          uint32_t g, size_t d, float *out);
#endif
