/* §5. The rotary table (Su et al., "RoFormer", arXiv 2104.09864) with one right answer per entry: every step
 * is correctly rounded from own double-double code with fixed operations, so that no libm decides a bit.
 *
 *   f_i   = RN64(base^(-2i/n_rot)), then f_i / factor_i in binary64 where the model has factors
 *   θ     = RN64(pos · f_i)
 *   entry = RN32(cos θ), RN32(sin θ)
 *
 * A plan is a plain value: made once per model, read by any number of threads. */
#ifndef FP_EXACT_ROPE_H
#define FP_EXACT_ROPE_H
#include "core/error.h"
#include "exact/exact.h"

enum { FP__ROPE_DIM_MAX = FP__HEAD_DIM_MAX };

typedef struct fp__rope_plan {
    size_t n_rot; /* even, 2..512: how many leading dimensions of a head are rotated */
    fp__rope_layout layout;
    double base;
    bool has_factors;
    float factors[FP__ROPE_DIM_MAX / 2]; /* [n_rot/2], as stored in the model (rope_freqs.weight) */
    double freqs[FP__ROPE_DIM_MAX / 2];  /* [n_rot/2] */
} fp__rope_plan;

/* base (untrusted, from the GGUF): 1 < base ≤ 2^64. factors: [n_rot/2], each finite and in [2^-20, 2^20], or
 * NULL. FP_UNSUPPORTED names what is out of range. */
fp_status fp__rope_plan_init(double base, size_t n_rot, fp__rope_layout layout, const float *factors,
                             fp__rope_plan *plan) FP_WARN_UNUSED;
/* Rows for positions pos_begin .. pos_begin + n - 1: c_out, s_out [n][n_rot/2]. Under a microsecond per row
 * of 32 entries. FP_LIMIT where θ would reach 2^25 (with frequencies ≤ 1: position 33,554,432). */
fp_status fp__rope_rows(const fp__rope_plan *plan, uint64_t pos_begin, size_t n, float *c_out,
                        float *s_out) FP_WARN_UNUSED;

/* The bytes whose SHA-256 stands for the table in the model digest. Rows are a fixed function of these, so
 * they need not be hashed: 06 "fieldprint/rope" 01, n_rot:u32, layout:u32 (0 pairs, 1 halves), base:f64,
 * factors:u32 (0 or n_rot/2), factor_i:f32…, f_i:f64…; little-endian. */
size_t fp__rope_identity_bytes(const fp__rope_plan *plan);
void fp__rope_identity(const fp__rope_plan *plan, uint8_t *out); /* [fp__rope_identity_bytes(plan)] */
#endif
