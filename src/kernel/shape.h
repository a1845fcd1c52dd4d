/* What a packed type is made of (weight.h has the layout), as constants for the kernels to specialise on. */
#ifndef FP_KERNEL_SHAPE_H
#define FP_KERNEL_SHAPE_H
#include "exact/exact.h"

/* X(name): the types that differ once packed; F16 and BF16 look like F32 (8-bit quants, binary32 scales). */
#define FP__SHAPES(X) X(Q4_0) X(Q4_1) X(Q5_0) X(Q5_1) X(Q8_0) X(Q4_K) X(Q5_K) X(Q6_K) X(F32)

static inline int fp__shape_type(int type)
{
    return type == FP__F16 || type == FP__BF16 ? FP__F32 : type;
}

typedef struct fp__shape {
    size_t low_bytes, high_bytes, scale_bytes; /* of one block of 32 inputs of 16 rows in each region */
    int bias;                                  /* stored quant = q + bias */
    bool minimum;                              /* has a minimum per block */
    bool halves;                               /* has a scale for each 16 inputs */
} fp__shape;

/* type: one of FP__SHAPES. */
static inline __attribute__((always_inline)) fp__shape fp__shape_of(int type)
{
    switch (type) {
    case FP__Q4_0:
        return (fp__shape){256, 0, 32, 8, false, false};
    case FP__Q4_1:
        return (fp__shape){256, 0, 64, 0, true, false};
    case FP__Q5_0:
        return (fp__shape){256, 64, 32, 16, false, false};
    case FP__Q5_1:
        return (fp__shape){256, 64, 64, 0, true, false};
    case FP__Q8_0:
        return (fp__shape){512, 0, 32, 128, false, false};
    case FP__Q4_K:
        return (fp__shape){256, 0, 32, 0, true, false};
    case FP__Q5_K:
        return (fp__shape){256, 64, 32, 0, true, false};
    case FP__Q6_K:
        return (fp__shape){256, 128, 36, 32, false, true};
    default: /* F32 */
        return (fp__shape){512, 0, 64, 128, false, false};
    }
}
#endif
