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
static __device__ __forceinline__ int quantise_one(float x, float inverse)
{
    return max(-127, min(127, __float2int_rn(__fmul_rn(x, inverse))));
}
/* False (and zeros) where a number is out of range. */
static __device__ __forceinline__ bool quantise_quad(float4 v, quad_quants &o)
{
    uint32_t amax = max(max(__float_as_uint(v.x) & 0x7fffffffu, __float_as_uint(v.y) & 0x7fffffffu),
                        max(__float_as_uint(v.z) & 0x7fffffffu, __float_as_uint(v.w) & 0x7fffffffu));
#pragma unroll
    for (int s = 1; s < 8; s *= 2)
        amax = max(amax, __shfl_xor_sync(ALL, amax, s));
    bool use = amax >= AMAX_FLOOR && amax < AMAX_LIMIT;
    o.d = use ? over_127(__uint_as_float(amax)) : 0.0f;
    float inverse = use ? __frcp_rn(o.d) : 0.0f;
    int q0 = 0, q1 = 0, q2 = 0, q3 = 0;
    if (use) {
        q0 = quantise_one(v.x, inverse), q1 = quantise_one(v.y, inverse);
        q2 = quantise_one(v.z, inverse), q3 = quantise_one(v.w, inverse);
    }
    int sum = q0 + q1 + q2 + q3;
#pragma unroll
    for (int s = 1; s < 8; s *= 2)
        sum += __shfl_xor_sync(ALL, sum, s);
    o.q = (q0 & 255) | (q1 & 255) << 8 | (q2 & 255) << 16 | (uint32_t)q3 << 24;
    o.ds = __fmul_rn(__int2float_rn(sum), o.d);
    return amax < AMAX_LIMIT;
}

} // namespace fp
#endif
