/* §2 and §3 for warps: the norm's fold and the quantiser. */
#ifndef FP_KERNEL_CUDA_QUANTISE_CUH
#define FP_KERNEL_CUDA_QUANTISE_CUH
#include "kernel/cuda/canon.cuh"

namespace fp
{

static constexpr uint32_t ALL = 0xffffffffu;

/* Fold of the 32 lanes: lane i += lane i + s, s = 16, 8, 4, 2, 1; the sum is lane 0's, given to all. */
static __device__ __forceinline__ float fold(float v)
{
#pragma unroll
    for (int s = 16; s > 0; s /= 2)
        v = __fadd_rn(v, __shfl_down_sync(ALL, v, s));
    return __shfl_sync(ALL, v, 0);
}
/* 1/rms; false unless sumsq < 2^100 (NaN too). */
static __device__ __forceinline__ bool norm_scale(float sumsq, uint32_t n, float eps, float *r)
{
    bool ok = sumsq < 0x1p100f;
    *r = ok ? __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(__fdiv_rn(sumsq, __uint2float_rn(n)), eps))) : 0.0f;
    return ok;
}

/* A block of 32 by 8 lanes with 4 inputs each, all 32 lanes of the warp together. */
struct quad_quants {
    uint32_t q; /* this lane's four */
    float d, ds;
};
/* a / 127, correctly rounded: the quotient by the rounded reciprocal is off by a unit in the last place at
 * most, its remainder is exact, and the sum rounds correctly (Markstein); the host compares all mantissas
 * with the division. amax is far from where any of this underflows. */
static __device__ __forceinline__ float over_127(float a)
{
    float q = __fmul_rn(a, 1.0f / 127.0f);
    return __fmaf_rn(__fmaf_rn(-127.0f, q, a), 1.0f / 127.0f, q);
}
/* 1 / d, correctly rounded, for d from 2^-100 to 2^100: what __frcp_rn does there, without asking where d is.
 */
static __device__ __forceinline__ float reciprocal(float d)
{
    float r;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(d));
    return __fmaf_rn(r, -__fmaf_rn(d, r, -1.0f), r);
}
/* x·inverse, |x·inverse| < 128, rounded to an integer that is the low byte. It is 127 at most: |x| ≤ 127·d up
 * to two roundings. */
static __device__ __forceinline__ uint32_t quantise_one(float x, float inverse)
{
    return __float_as_uint(__fadd_rn(__fmul_rn(x, inverse), 12582912.0f));
}
/* False (and zeros) where a number is out of range. SUMS: ds too. */
template <bool SUMS> static __device__ __forceinline__ bool quantise_quad(float4 v, quad_quants &o)
{
    uint32_t amax = max(max(__float_as_uint(v.x) & 0x7fffffffu, __float_as_uint(v.y) & 0x7fffffffu),
                        max(__float_as_uint(v.z) & 0x7fffffffu, __float_as_uint(v.w) & 0x7fffffffu));
#pragma unroll
    for (int s = 1; s < 8; s *= 2)
        amax = max(amax, __shfl_xor_sync(ALL, amax, s));
    bool use = amax >= AMAX_FLOOR && amax < AMAX_LIMIT;
    float d = over_127(__uint_as_float(amax)), inverse = reciprocal(d);
    uint32_t low = __byte_perm(quantise_one(v.x, inverse), quantise_one(v.y, inverse), 0x0040),
             high = __byte_perm(quantise_one(v.z, inverse), quantise_one(v.w, inverse), 0x0040);
    o.q = use ? __byte_perm(low, high, 0x5410) : 0;
    o.d = use ? d : 0.0f;
    if constexpr (SUMS) {
        int sum = __dp4a((int)o.q, 0x01010101, 0);
#pragma unroll
        for (int s = 1; s < 8; s *= 2)
            sum += __shfl_xor_sync(ALL, sum, s);
        o.ds = __fmul_rn(__int2float_rn(sum), o.d);
    }
    return amax < AMAX_LIMIT;
}

} // namespace fp
#endif
