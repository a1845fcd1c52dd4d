/* Entries of the avx2 table for norms, RoPE, SiLU and the sampler's weights; contracts in kernel/kernel.h. */
#ifndef FP_KERNEL_ELEMENTWISE_AVX2_H
#define FP_KERNEL_ELEMENTWISE_AVX2_H
#include "kernel/kernel.h"

void fp__rmsnorm_avx2(const float *x, const float *w, float eps, size_t n, float *y, uint8_t *bad);
void fp__rope_avx2(float *x, size_t heads, size_t d, size_t n_rot, fp__rope_layout layout, const float *c,
                   const float *s);
void fp__silu_mul_avx2(const float *g, const float *u, size_t n, float *out);
uint64_t fp__exp_weights_avx2(const float *x, size_t n, float max, float scale, float *p);
#endif
