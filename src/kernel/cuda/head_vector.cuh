/* A head's vector in a warp (arithmetic §6): its rotation, and its way into integers as a query, a key or a
 * value. Element lane + 32·e is x[e], so the Walsh–Hadamard stages below 32 go across lanes and the rest
 * across registers. */
#ifndef FP_KERNEL_CUDA_HEAD_VECTOR_CUH
#define FP_KERNEL_CUDA_HEAD_VECTOR_CUH
#include "kernel/cuda/canon.cuh"

namespace fp
{

/* x ← WHT(σ·x) */
template <int E> static __device__ __forceinline__ void rotate(float (&x)[E], uint32_t lane)
{
    constexpr int H = (32 * E) & -(32 * E);
#pragma unroll
    for (int e = 0; e < E; e++) {
        uint32_t j = lane + 32 * e;
        x[e] = __popc(j & (j >> 1)) & 1 ? -x[e] : x[e];
    }
#pragma unroll
    for (int s = 1; s < 32; s *= 2)
#pragma unroll
        for (int e = 0; e < E; e++) {
            float other = __shfl_xor_sync(~0u, x[e], s);
            x[e] = lane & s ? __fsub_rn(other, x[e]) : __fadd_rn(x[e], other);
        }
#pragma unroll
    for (int s = 1; s < H / 32; s *= 2)
#pragma unroll
        for (int e = 0; e < E; e++)
            if (!(e & s)) {
                float a = x[e], b = x[e + s];
                x[e] = __fadd_rn(a, b);
                x[e + s] = __fsub_rn(a, b);
            }
}

template <int E> static __device__ __forceinline__ uint32_t amax_bits(const float (&x)[E])
{
    uint32_t most = 0;
#pragma unroll
    for (int e = 0; e < E; e++)
        most = max(most, __float_as_uint(x[e]) & 0x7fffffffu);
    return __reduce_max_sync(~0u, most);
}

/* Rotated, times factor, to 16-bit integers in two planes: hi at hi[j], lo at hi[D + j]. False: out of range.
 */
template <int E>
static __device__ __forceinline__ bool write_query(float (&x)[E], float factor, uint32_t lane, int8_t *hi,
                                                   float *scale_at)
{
    rotate(x, lane);
#pragma unroll
    for (int e = 0; e < E; e++)
        x[e] = __fmul_rn(x[e], factor);
    uint32_t amax = amax_bits(x);
    bool zero = amax >= AMAX_LIMIT || amax < AMAX_FLOOR;
    float scale = zero ? 0.0f : __fdiv_rn(__uint_as_float(amax), 32512.0f);
    float inverse = zero ? 0.0f : __fdiv_rn(1.0f, scale);
    if (lane == 0)
        *scale_at = scale;
#pragma unroll
    for (int e = 0; e < E; e++) {
        int n = zero ? 0 : __float2int_rn(__fmul_rn(x[e], inverse));
        int h = (n + 128) >> 8;
        hi[lane + 32 * e] = (int8_t)h;
        hi[32 * E + lane + 32 * e] = (int8_t)(n - 256 * h);
    }
    return amax < AMAX_LIMIT;
}

/* x → int8 at out[j·stride], scale rounded up to bfloat16. False: out of range. */
template <int E>
static __device__ __forceinline__ bool write_kv(const float (&x)[E], uint32_t lane, int8_t *out,
                                                uint32_t stride, uint16_t *scale)
{
    uint32_t amax = amax_bits(x), bits = 0;
    bool ok = amax < AMAX_LIMIT;
    if (ok && amax >= AMAX_FLOOR)
        bits = (__float_as_uint(__fdiv_rn(__uint_as_float(amax), 127.0f)) + 0xffffu) & 0xffff0000u;
    float inverse = bits ? __fdiv_rn(1.0f, __uint_as_float(bits)) : 0.0f;
#pragma unroll
    for (int e = 0; e < E; e++) {
        int n = bits ? __float2int_rn(__fmul_rn(x[e], inverse)) : 0;
        out[(lane + 32 * e) * stride] = (int8_t)max(-127, min(127, n));
    }
    if (lane == 0)
        *scale = (uint16_t)(bits >> 16);
    return ok;
}

} // namespace fp
#endif
