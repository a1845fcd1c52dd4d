/* Entries of the neon table for norms, RoPE, SiLU and the sampler's weights; contracts in kernel/kernel.h. */
#ifndef FP_KERNEL_ELEMENTWISE_NEON_H
#define FP_KERNEL_ELEMENTWISE_NEON_H
#include "kernel/kernel.h"

void fp__rmsnorm_neon(const float *x, const float *w, float eps, size_t n, float *y, uint8_t *bad);
void fp__rope_neon(float *x, size_t heads, size_t d, size_t n_rot, fp__rope_layout layout, const float *c,
                   const float *s);
void fp__silu_mul_neon(const float *g, const float *u, size_t n, float *out);
uint64_t fp__exp_weights_neon(const float *x, size_t n, float max, float scale, float *p);
#endif
