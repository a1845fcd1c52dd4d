/* A unit of packed weights (kernel/device_weight.h) to the operands of m16n8k32, and one block's arithmetic
 * (§4).
 *
 * Quants of 4, 5 and 6 bits are brought to bytes in their upper bits, as q·16, q·8, q·4: the cheapest
 * unpacking that keeps the sign. The power of two is taken back exactly and at no cost by the int → float
 * conversion: the accumulator starts at the bits of a binary32 whose unit in the last place is 2^-k, so that
 * t·2^k added to those bits is the number 1.5·2^(23-k) + t; subtracting the constant leaves (float)t. |t·2^k|
 * ≤ 520,192 < 2^22 for all types. Or the accumulator starts at 0, the sum is converted by an instruction of
 * its own and the scale takes the power of two back (scales_down). */
#ifndef FP_KERNEL_CUDA_WTILE_CUH
#define FP_KERNEL_CUDA_WTILE_CUH
#include "kernel/device_weight.h"
#include <cuda_fp16.h>
#include <cuda_runtime.h>

namespace fp
{

template <int TYPE> struct unit_shape;
#define FP_UNIT_SHAPE(name, number, low, high, scale)                                                        \
    template <> struct unit_shape<number> {                                                                  \
        static constexpr int LOW = low, HIGH = high, SCALE = scale;                                          \
    };
FP__DEVICE_TYPES(FP_UNIT_SHAPE)
#undef FP_UNIT_SHAPE
enum {
    T_F32 = 0,
    T_Q4_0 = 2,
    T_Q4_1 = 3,
    T_Q5_0 = 6,
    T_Q5_1 = 7,
    T_Q8_0 = 8,
    T_Q4_K = 12,
    T_Q5_K = 13,
    T_Q6_K = 14
};

template <int TYPE> struct wtile {
    static constexpr int LOW = unit_shape<TYPE>::LOW, HIGH = unit_shape<TYPE>::HIGH;
    static constexpr int BYTES = LOW + HIGH + unit_shape<TYPE>::SCALE;
    static constexpr bool MINIMUM = TYPE == T_Q4_1 || TYPE == T_Q5_1 || TYPE == T_Q4_K || TYPE == T_Q5_K;
    static constexpr bool HALVES = TYPE == T_Q6_K;
    static constexpr int SHIFT = TYPE == T_Q4_0 ? 4 : TYPE == T_Q5_0 ? 3 : TYPE == T_Q6_K ? 2 : 0;
    static constexpr int MAGIC_BITS = 0x4B400000 - (SHIFT << 23);
    static constexpr float MAGIC = 12582912.0f / (float)(1 << SHIFT);

    /* two blocks of rows g, g + 8 */
    struct pair {
        uint32_t a[2][4];
        float dw[2][2][HALVES ? 2 : 1]; // [block][row][half]
        float mw[2][2];                 // [block][row]
    };
};

static __host__ __device__ __forceinline__ float half_bits_float(uint32_t h)
{
    return __half2float(__half(__half_raw{(unsigned short)h}));
}
/* Byte k of w as a float. */
static __host__ __device__ __forceinline__ float byte_float(uint32_t w, int k)
{
#ifdef __CUDA_ARCH__
    return __fsub_rn(__uint_as_float(__byte_perm(w, 0x4B000000u, 0x7650u | (uint32_t)k)), 8388608.0f);
#else
    return (float)(w >> 8 * k & 255u);
#endif
}
static __host__ __device__ __forceinline__ float mul_exact(float a, float b)
{
#ifdef __CUDA_ARCH__
    return __fmul_rn(a, b);
#else
    return a * b;
#endif
}

template <int TYPE>
static __host__ __device__ __forceinline__ void load_quants(const uint8_t *unit, int p, int lane,
                                                            uint32_t (&a)[2][4])
{
    using W = wtile<TYPE>;
    if constexpr (W::LOW == 4096) {
#pragma unroll
        for (int b = 0; b < 2; b++) {
            uint4 v = *(const uint4 *)(unit + (2 * p + b) * 512 + lane * 16);
            a[b][0] = v.x, a[b][1] = v.y, a[b][2] = v.z, a[b][3] = v.w;
        }
    } else {
        uint4 v = *(const uint4 *)(unit + p * 512 + lane * 16);
        uint32_t w[2][2] = {{v.x, v.y}, {v.z, v.w}};
#pragma unroll
        for (int b = 0; b < 2; b++)
#pragma unroll
            for (int r = 0; r < 2; r++) {
                constexpr uint32_t MASK = 0x0f0f0f0fu << W::SHIFT;
                a[b][r] = w[b][r] << W::SHIFT & MASK;
                a[b][r + 2] = (W::SHIFT == 4 ? w[b][r] : w[b][r] >> (4 - W::SHIFT)) & MASK;
            }
        if constexpr (W::HIGH == 512) {
            uint32_t h = *(const uint32_t *)(unit + W::LOW + p * 128 + lane * 4);
            constexpr int TO = 4 + W::SHIFT; /* the bit's place in a byte */
#pragma unroll
            for (int b = 0; b < 2; b++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    int from = 4 * b + i;
                    uint32_t bits = from < TO ? h << (TO - from) : h >> (from - TO);
                    a[b][i] |= bits & (0x01010101u << TO);
                }
        } else if constexpr (W::HIGH == 1024) {
            uint2 h = *(const uint2 *)(unit + W::LOW + p * 256 + lane * 8);
#pragma unroll
            for (int b = 0; b < 2; b++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    a[b][i] |= (b ? h.y : h.x) << (6 - 2 * i) & 0xc0c0c0c0u;
        }
    }
}

template <int TYPE>
static __host__ __device__ __forceinline__ void load_scales(const uint8_t *unit, int p, int lane,
                                                            typename wtile<TYPE>::pair &o)
{
    using W = wtile<TYPE>;
    const uint8_t *scale = unit + W::LOW + W::HIGH;
    int g = lane / 4, at = p * 8 + g;
    if constexpr (TYPE == T_F32) {
        float4 v = *(const float4 *)(scale + at * 16);
        o.dw[0][0][0] = v.x, o.dw[0][1][0] = v.y, o.dw[1][0][0] = v.z, o.dw[1][1][0] = v.w;
    } else if constexpr (TYPE == T_Q4_1 || TYPE == T_Q5_1) {
        uint4 v = *(const uint4 *)(scale + at * 16);
        uint32_t w[2][2] = {{v.x, v.y}, {v.z, v.w}};
#pragma unroll
        for (int b = 0; b < 2; b++)
#pragma unroll
            for (int r = 0; r < 2; r++) {
                o.dw[b][r][0] = half_bits_float(w[b][r] & 0xffffu);
                o.mw[b][r] = half_bits_float(w[b][r] >> 16);
            }
    } else if constexpr (TYPE == T_Q4_K || TYPE == T_Q5_K) {
        uint2 v = *(const uint2 *)(scale + at * 8), d = *(const uint2 *)(scale + 256 + g * 8);
#pragma unroll
        for (int b = 0; b < 2; b++)
#pragma unroll
            for (int r = 0; r < 2; r++) {
                uint32_t w = b ? v.y : v.x, f = r ? d.y : d.x;
                o.dw[b][r][0] = mul_exact(half_bits_float(f & 0xffffu), byte_float(w, 2 * r));
                o.mw[b][r] = -mul_exact(half_bits_float(f >> 16), byte_float(w, 2 * r + 1));
            }
    } else if constexpr (TYPE == T_Q6_K) {
        uint2 v = *(const uint2 *)(scale + at * 8);
        uint32_t d = *(const uint32_t *)(scale + 256 + g * 4);
#pragma unroll
        for (int b = 0; b < 2; b++)
#pragma unroll
            for (int h = 0; h < 2; h++)
#pragma unroll
                for (int r = 0; r < 2; r++)
                    o.dw[b][r][h] = mul_exact(half_bits_float(r ? d >> 16 : d & 0xffffu),
                                              byte_float(b ? v.y : v.x, 2 * h + r) - 128.0f);
    } else {
        uint2 v = *(const uint2 *)(scale + at * 8);
#pragma unroll
        for (int b = 0; b < 2; b++)
#pragma unroll
            for (int r = 0; r < 2; r++) {
                uint32_t w = b ? v.y : v.x;
                o.dw[b][r][0] = half_bits_float(r ? w >> 16 : w & 0xffffu);
            }
    }
}

/* Scales of one row of a pair: row g (r 0) or g + 8 (r 1). */
template <int TYPE> struct row_scales {
    float dw[2][wtile<TYPE>::HALVES ? 2 : 1]; // [block][half]
    float mw[2];                              // [block]
};
template <int TYPE>
static __device__ __forceinline__ void load_row_scales(const uint8_t *unit, int p, int g, int r,
                                                       row_scales<TYPE> &o)
{
    using W = wtile<TYPE>;
    const uint8_t *scale = unit + W::LOW + W::HIGH;
    int at = p * 8 + g;
    uint32_t pick = r ? 0x4432u : 0x4410u; /* the upper or the lower half of a word */
#pragma unroll
    for (int b = 0; b < 2; b++) {
        if constexpr (TYPE == T_F32) {
            o.dw[b][0] = *(const float *)(scale + at * 16 + b * 8 + r * 4);
        } else if constexpr (TYPE == T_Q4_1 || TYPE == T_Q5_1) {
            uint32_t w = *(const uint32_t *)(scale + at * 16 + b * 8 + r * 4);
            o.dw[b][0] = half_bits_float(w & 0xffffu);
            o.mw[b] = half_bits_float(w >> 16);
        } else {
            uint2 v = *(const uint2 *)(scale + at * 8);
            uint32_t w = b ? v.y : v.x;
            if constexpr (TYPE == T_Q4_K || TYPE == T_Q5_K) {
                uint32_t f = *(const uint32_t *)(scale + 256 + g * 8 + r * 4), s = __byte_perm(w, 0, pick);
                o.dw[b][0] = mul_exact(half_bits_float(f & 0xffffu), byte_float(s, 0));
                o.mw[b] = -mul_exact(half_bits_float(f >> 16), byte_float(s, 1));
            } else if constexpr (TYPE == T_Q6_K) {
                float d = half_bits_float(*(const uint16_t *)(scale + 256 + g * 4 + r * 2));
                uint32_t s = w >> 8 * r;
                o.dw[b][0] = mul_exact(d, byte_float(s, 0) - 128.0f);
                o.dw[b][1] = mul_exact(d, byte_float(s, 2) - 128.0f);
            } else {
                o.dw[b][0] = half_bits_float(__byte_perm(w, 0, pick));
            }
        }
    }
}

template <int TYPE>
static __host__ __device__ __forceinline__ void load_pair(const uint8_t *unit, int p, int lane,
                                                          typename wtile<TYPE>::pair &o)
{
    load_quants<TYPE>(unit, p, lane, o.a);
    load_scales<TYPE>(unit, p, lane, o);
}

/* For sums that start at 0: 2^-k goes into the scales. That is exact: a row's scale is an f16 times an
 * integer, an input's is 0 or at least 2^-71 (§3), so no product of them is near the smallest numbers. */
template <int TYPE> static __device__ __forceinline__ void scales_down(typename wtile<TYPE>::pair &w)
{
    using W = wtile<TYPE>;
    if constexpr (W::SHIFT > 0) {
#pragma unroll
        for (int i = 0; i < 4; i++)
#pragma unroll
            for (int h = 0; h < (W::HALVES ? 2 : 1); h++)
                w.dw[i / 2][i % 2][h] = __fmul_rn(w.dw[i / 2][i % 2][h], 1.0f / (float)(1 << W::SHIFT));
    }
}

/* c = START + A·B: a0 = (row g, inputs 4c..), b0 = (token g, inputs 4c..), c0, c1 = (row g, tokens 2c, 2c +
 * 1). */
template <int START>
static __device__ __forceinline__ void mma_k32(int (&t)[4], const uint32_t (&a)[4], uint2 b)
{
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%10,%10,%10,%10};"
        : "=r"(t[0]), "=r"(t[1]), "=r"(t[2]), "=r"(t[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b.x), "r"(b.y), "r"(START));
}
template <int START>
static __device__ __forceinline__ void mma_k16(int (&t)[4], uint32_t a0, uint32_t a1, uint32_t b)
{
    asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%7,%7,%7,%7};"
        : "=r"(t[0]), "=r"(t[1]), "=r"(t[2]), "=r"(t[3])
        : "r"(a0), "r"(a1), "r"(b), "r"(START));
}

/* The integer sums of one block of 16 rows × 8 tokens, and what they add to a segment: seg[0], seg[1] row g,
 * seg[2], seg[3] row g + 8; tokens 2c, 2c + 1. In two steps, so that a caller can have the next sums under
 * way. START: MAGIC_BITS, or 0 with scales that went through scales_down. */
template <int TYPE> struct block_sums {
    int t[wtile<TYPE>::HALVES ? 2 : 1][4];
};
template <int TYPE, int START = wtile<TYPE>::MAGIC_BITS>
static __device__ __forceinline__ void block_mma(block_sums<TYPE> &s, const uint32_t (&a)[4], uint2 x)
{
    using W = wtile<TYPE>;
    if constexpr (W::HALVES) {
        mma_k16<START>(s.t[0], a[0], a[1], x.x);
        mma_k16<START>(s.t[1], a[2], a[3], x.y);
    } else {
        mma_k32<START>(s.t[0], a, x);
    }
}
template <int TYPE, int START = wtile<TYPE>::MAGIC_BITS>
static __device__ __forceinline__ void block_add(float (&seg)[4], const block_sums<TYPE> &s,
                                                 const typename wtile<TYPE>::pair &w, int b, float2 dx,
                                                 float2 ds)
{
    using W = wtile<TYPE>;
#pragma unroll
    for (int h = 0; h < (W::HALVES ? 2 : 1); h++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float t = START ? __fsub_rn(__int_as_float(s.t[h][i]), W::MAGIC) : __int2float_rn(s.t[h][i]);
            seg[i] = __fmaf_rn(t, __fmul_rn(w.dw[b][i / 2][h], i % 2 ? dx.y : dx.x), seg[i]);
        }
    if constexpr (W::MINIMUM) {
#pragma unroll
        for (int i = 0; i < 4; i++)
            seg[i] = __fmaf_rn(w.mw[b][i / 2], i % 2 ? ds.y : ds.x, seg[i]);
    }
}
template <int TYPE, int START = wtile<TYPE>::MAGIC_BITS>
static __device__ __forceinline__ void block_fma(float (&seg)[4], const typename wtile<TYPE>::pair &w, int b,
                                                 uint2 x, float2 dx, float2 ds)
{
    block_sums<TYPE> s;
    block_mma<TYPE, START>(s, w.a[b], x);
    block_add<TYPE, START>(seg, s, w, b, dx, ds);
}

} // namespace fp
#endif
