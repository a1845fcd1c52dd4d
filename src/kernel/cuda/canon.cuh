/* Canonical arithmetic on the device: the same operations as src/exact/exact.h, written so that nvcc cannot
 * contract or approximate them (intrinsics with explicit rounding; compiled with -fmad=false, no fast-math).
 * Kernels use nothing else to decide a bit. The § numbers are those of docs/arithmetic.md. */
#ifndef FP_KERNEL_CUDA_CANON_CUH
#define FP_KERNEL_CUDA_CANON_CUH
#include <cuda_runtime.h>
#include <stdint.h>

namespace fp
{

/* §1. 2^x for -126 ≤ x ≤ 126. */
static __device__ __forceinline__ float exp2c_normal(float x)
{
    float t = __fadd_rn(x, 12582912.0f), n = __fsub_rn(t, 12582912.0f), f = __fsub_rn(x, n);
    float p = __fmaf_rn(0x1.3fa206p-13f, f, 0x1.5f0b82p-10f);
    p = __fmaf_rn(p, f, 0x1.3b30ap-7f);
    p = __fmaf_rn(p, f, 0x1.c6af76p-5f);
    p = __fmaf_rn(p, f, 0x1.ebfbd8p-3f);
    p = __fmaf_rn(p, f, 0x1.62e43p-1f);
    p = __fmaf_rn(p, f, 1.0f);
    /* t holds n in its low bits: t = 1.5·2^23 + n, so t << 23 is n << 23 modulo 2^32 */
    return __int_as_float(__float_as_int(p) + (__float_as_int(t) << 23));
}

/* §1. 2^x for x ≤ 126. */
static __device__ __forceinline__ float exp2c(float x)
{
    float r = exp2c_normal(x);
    return x < -126.0f ? 0.0f : r;
}

/* 2^e, -126 ≤ e ≤ 127. */
static __device__ __forceinline__ float pow2(int e)
{
    return __int_as_float((e + 127) << 23);
}

static __device__ __forceinline__ float bf16_float(uint16_t h)
{
    return __uint_as_float((uint32_t)h << 16);
}

/* §0 */
static constexpr uint32_t AMAX_LIMIT = 0x57800000u, AMAX_FLOOR = 0x1f800000u;

/* §7 */
static __device__ __forceinline__ float silu_mul(float g, float u)
{
    float z = __fmul_rn(-g, 0x1.715476p+0f);
    return __fmul_rn(__fdiv_rn(g, __fadd_rn(1.0f, exp2c(z < 126.0f ? z : 126.0f))), u);
}

} // namespace fp
#endif
