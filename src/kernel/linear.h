/* The linear layer and the quantiser of its activations, per instruction set: entries `linear` and
 * `act_quantise` of the kernel tables, whose contracts are in kernel.h. All give the bits of fp__exact_dot
 * and fp__exact_quantise_block. */
#ifndef FP_KERNEL_LINEAR_H
#define FP_KERNEL_LINEAR_H
#include "kernel/weight.h"

#define FP__LINEAR_DECLARE(isa)                                                                              \
    void fp__act_quantise_##isa(const float *x, fp__act *act, size_t token, uint8_t *bad);                   \
    void fp__linear_##isa(const fp__weight *w, const fp__act *act, size_t group_begin, size_t group_end,     \
                          const float *bias, float *y, size_t y_stride, bool accumulate)
#if defined(__x86_64__)
FP__LINEAR_DECLARE(avx2);
FP__LINEAR_DECLARE(avx512);
#elif defined(__aarch64__)
FP__LINEAR_DECLARE(neon);
#endif
#undef FP__LINEAR_DECLARE
#endif
