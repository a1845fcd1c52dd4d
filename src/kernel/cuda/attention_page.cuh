/* One page for 8·NT query rows, by one warp (arithmetic §6). How numbers lie in a warp, lane = 4·g + c:
 *
 *  - A = queries: rows 0..7 the hi planes of 8 rows, rows 8..15 their lo planes; both halves of a score land
 * in one thread: 256·c[row] + c[row + 8].
 *  - K as B operand, 16 bytes a load: the order of inputs inside a dot is free, so lane (g, c) loads bytes
 *    16·(c + 4i)..+15 of its token and Q is loaded the same way (the last 32 of d = 96: bytes 64 + 8c..+7).
 *  - token of column n of tile j: 16·(n/2) + 2j + n%2, so that thread (g, c) ends up with tokens 16c..16c+15
 * of row g: the A operand of P·V with V [d][64] read 16 bytes at a time. No shuffle between the two products.
 *  - P in two u8 planes (rows 0..7 hi, 8..15 lo) times V s8; thread (g, c) gets channels 8j + 2c and + 1 of
 * row g. */
#ifndef FP_KERNEL_CUDA_ATTENTION_PAGE_CUH
#define FP_KERNEL_CUDA_ATTENTION_PAGE_CUH
#include "kernel/cuda/async.cuh"
#include "kernel/cuda/attention_plan.cuh"
#include "kernel/cuda/canon.cuh"
#include "kernel/cuda/overlap.cuh"

namespace fp
{
namespace attn
{

constexpr uint32_t MAGIC = 0x4B400000u; /* bits of 12582912: adding it to 0..65535 rounds to even, the sum's
                                           low bits are the integer */
#define FP_NEG_INF __int_as_float((int)0xff800000)

/* c += A·B of one m16n8k32, by the types of A and B. */
#define FP_ATTENTION_MMA(name, types)                                                                        \
    static __device__ __forceinline__ void name(int(&c)[4], uint32_t a0, uint32_t a1, uint32_t a2,           \
                                                uint32_t a3, uint32_t b0, uint32_t b1)                       \
    {                                                                                                        \
        asm("mma.sync.aligned.m16n8k32.row.col.s32." types ".s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "    \
            "{%0,%1,%2,%3};"                                                                                 \
            : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])                                                 \
            : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));                                         \
    }
FP_ATTENTION_MMA(mma_s8s8, "s8.s8")
FP_ATTENTION_MMA(mma_u8s8, "u8.s8")
FP_ATTENTION_MMA(mma_s8u8, "s8.u8")
#undef FP_ATTENTION_MMA

template <int D, int NT> struct Rows {
    uint32_t q[NT][D / 8]; /* [k step][hi first half, lo first half, hi second half, lo second half] */
    float scale[NT];       /* of row g */
    uint32_t limit[NT];    /* tokens of the segment that row g sees in causal pages */
};

/* Running state of row g; o: channels 8j + 2c + e at [2j + e]. */
template <int D, int NT> struct State {
    float m[NT], l[NT], o[NT][D / 4];
    __device__ __forceinline__ void clear()
    {
#pragma unroll
        for (int t = 0; t < NT; t++) {
            m[t] = FP_NEG_INF;
            l[t] = 0.0f;
#pragma unroll
            for (int i = 0; i < D / 4; i++)
                o[t][i] = 0.0f;
        }
    }
};

/* What page_values needs from page_scores: P as A operand, and the factors of the merge. */
template <int NT> struct Weights {
    uint32_t p[NT][8];
    float keep[NT], scale[NT]; /* O' = fma(O, keep, o·scale) */
    float unit[NT];            /* 2^E */
};

static __device__ __forceinline__ float low_float(uint32_t pair)
{
    return __uint_as_float(pair << 16);
}
static __device__ __forceinline__ float high_float(uint32_t pair)
{
    return __uint_as_float(pair & 0xffff0000u);
}

/* (float)(256·hi + lo) */
static __device__ __forceinline__ float join(int hi, int lo)
{
    return __int2float_rn(hi * 256 + lo);
}

static __device__ __forceinline__ float quad_max(float x)
{
    x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
    return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}

/* Bits of a token's share of the 4 columns, 0xffff per visible token of pair j (tokens first, first + 1). */
static __device__ __forceinline__ uint32_t pair_mask(int first, int visible)
{
    return (first < visible ? 0xffffu : 0u) | (first + 1 < visible ? 0xffff0000u : 0u);
}

static __device__ __forceinline__ float exponent_scale(uint32_t s_v_max, int &e)
{
    uint32_t bits = s_v_max << 16;
    e = bits ? (int)(bits >> 23) - 126 : 0;
    return __uint_as_float((uint32_t)(127 - e) << 23);
}

/* Scores of one tile → x; rows see `visible` tokens. */
template <int D>
static __device__ __forceinline__ void dequantise_scores(const int (&acc)[8][4], float s_q,
                                                         const uint32_t (&s_k)[8], float (&x)[16])
{
#pragma unroll
    for (int j = 0; j < 8; j++) {
        x[2 * j] = __fmul_rn(join(acc[j][0], acc[j][2]), __fmul_rn(s_q, low_float(s_k[j])));
        x[2 * j + 1] = __fmul_rn(join(acc[j][1], acc[j][3]), __fmul_rn(s_q, high_float(s_k[j])));
    }
}

/* Four weights → their hi and lo bytes. */
static __device__ __forceinline__ void pack_planes(const uint32_t *w, uint32_t &hi, uint32_t &lo)
{
    uint32_t a = __byte_perm(w[0], w[1], 0x5140), b = __byte_perm(w[2], w[3], 0x5140);
    lo = __byte_perm(a, b, 0x5410);
    hi = __byte_perm(a, b, 0x7632);
}

/* exp2c for weights: below 2^-60 every weight rounds to 0, so what is less may be that. */
static __device__ __forceinline__ float weight_exp2(float x)
{
    return exp2c_normal(fmaxf(x, -60.0f));
}

/* Softmax of one tile: x → P planes, l. unit: 65535·2^-E; p·s_v is scaled after its rounding, which only
 * moves the exponent (it could underflow only where the weight is 0). */
template <int NT>
static __device__ __forceinline__ void weigh(const float (&x)[16], float m, const uint32_t (&s_v)[8],
                                             float unit, uint32_t (&p)[8], int &l)
{
    uint32_t sum = 0;
#pragma unroll
    for (int q = 0; q < 4; q++) {
        uint32_t w[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            uint32_t pair = s_v[2 * q + i / 2];
            float e = weight_exp2(__fsub_rn(x[4 * q + i], m)), v = i % 2 ? high_float(pair) : low_float(pair);
            sum += __float_as_uint(__fadd_rn(__fmul_rn(e, 65535.0f), 12582912.0f));
            w[i] = __float_as_uint(__fadd_rn(__fmul_rn(__fmul_rn(e, v), unit), 12582912.0f));
        }
        pack_planes(w, p[2 * q], p[2 * q + 1]);
    }
    l = (int)(sum - 16u * MAGIC);
    l += __shfl_xor_sync(~0u, l, 1);
    l += __shfl_xor_sync(~0u, l, 2);
}

/* m and l of a page into those of a state; what is left to do to its o: O' = fma(O, keep, o·scale). unit is
 * 2^e; dead: a page of which the row sees nothing. */
static __device__ __forceinline__ void merge_page(float m, int l, int e, bool dead, float &state_m,
                                                  float &state_l, float &keep, float &unit, float &scale)
{
    float before = state_m, after = before > m ? before : m, b = exp2c(__fsub_rn(m, after));
    keep = exp2c(__fsub_rn(before, after));
    unit = pow2(e);
    scale = __fmul_rn(b, unit);
    state_m = after;
    if (dead) { /* fma(O, 1, (+0)·(-0)) leaves O as it is, -0 included */
        keep = 1.0f;
        scale = -0.0f;
    } else {
        state_l = __fmaf_rn(state_l, keep, __fmul_rn(__int2float_rn(l), b));
    }
}

template <int D, int NT>
static __device__ __forceinline__ void multiply_keys(const Rows<D, NT> &rows, uint32_t stage, uint32_t lane,
                                                     int (&acc)[NT][8][4])
{
    uint32_t g = lane / 4, c = lane % 4;
    uint32_t row = stage + (16 * (g / 2) + g % 2) * D;
#pragma unroll
    for (int j = 0; j < 8; j++) {
#pragma unroll
        for (int t = 0; t < NT; t++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                acc[t][j][i] = 0;
#pragma unroll
        for (int i = 0; i < D / 64; i++) {
            uint4 k = load_shared16(row + 2 * j * D + 64 * i + 16 * c);
#pragma unroll
            for (int t = 0; t < NT; t++) {
                const uint32_t *q = rows.q[t] + 8 * i;
                mma_s8s8(acc[t][j], q[0], q[1], q[2], q[3], k.x, k.y);
                mma_s8s8(acc[t][j], q[4], q[5], q[6], q[7], k.z, k.w);
            }
        }
        if (D % 64) {
            uint2 k = load_shared8(row + 2 * j * D + D / 64 * 64 + 8 * c);
#pragma unroll
            for (int t = 0; t < NT; t++) {
                const uint32_t *q = rows.q[t] + D / 64 * 8;
                mma_s8s8(acc[t][j], q[0], q[1], q[2], q[3], k.x, k.y);
            }
        }
    }
}

/* K half of a page (K, then s_k, s_v) → weights, and m and l of the state merged. first: tokens of the
 * segment before this page; fill: visible tokens if not 0, else causal; full: every row sees all 64. */
template <int D, int NT>
static __device__ __forceinline__ void page_scores(const Rows<D, NT> &rows, uint32_t stage, uint32_t first,
                                                   uint32_t fill, bool full, uint32_t lane,
                                                   State<D, NT> &state, Weights<NT> &out)
{
    int acc[NT][8][4];
    uint32_t s_k[8], s_v[8], c = lane % 4;
    uint4 *k4 = reinterpret_cast<uint4 *>(s_k), *v4 = reinterpret_cast<uint4 *>(s_v);
    multiply_keys<D, NT>(rows, stage, lane, acc);
    k4[0] = load_shared16(stage + 64 * D + 32 * c);
    k4[1] = load_shared16(stage + 64 * D + 32 * c + 16);
    v4[0] = load_shared16(stage + 64 * D + 128 + 32 * c);
    v4[1] = load_shared16(stage + 64 * D + 128 + 32 * c + 16);
#pragma unroll
    for (int t = 0; t < NT; t++) {
        float x[16];
        dequantise_scores<D>(acc[t], rows.scale[t], s_k, x);
        int visible = PAGE;
        if (!full) {
            int seen = (int)(rows.limit[t] - first);
            visible = fill ? (int)fill : seen < 0 ? 0 : seen > PAGE ? PAGE : seen;
#pragma unroll
            for (int u = 0; u < 16; u++)
                x[u] = (int)(16 * c) + u < visible ? x[u] : FP_NEG_INF;
        }
        float m = x[0];
        uint32_t largest = 0;
#pragma unroll
        for (int u = 1; u < 16; u++)
            m = fmaxf(m, x[u]);
        m = __fadd_rn(quad_max(m), 0.0f);
#pragma unroll
        for (int j = 0; j < 8; j++)
            largest = __vmaxu2(largest, full ? s_v[j] : s_v[j] & pair_mask((int)(16 * c) + 2 * j, visible));
        largest = max(largest & 0xffffu, largest >> 16);
        largest = max(largest, __shfl_xor_sync(~0u, largest, 1));
        largest = max(largest, __shfl_xor_sync(~0u, largest, 2));
        int e, l;
        float down = exponent_scale(largest, e);
        bool dead = !full && visible == 0;
        weigh<NT>(x, dead ? 0.0f : m, s_v, __fmul_rn(65535.0f, down), out.p[t], l);
        merge_page(m, l, e, dead, state.m[t], state.l[t], out.keep[t], out.unit[t], out.scale[t]);
    }
}

/* V half of a page: o of the state merged. */
template <int D, int NT>
static __device__ __forceinline__ void page_values(const Weights<NT> &w, uint32_t stage, uint32_t lane,
                                                   State<D, NT> &state)
{
    uint32_t at = stage + lane / 4 * PAGE + lane % 4 * 16;
#pragma unroll
    for (int j = 0; j < D / 8; j++) {
        uint4 v = load_shared16(at + 8 * j * PAGE);
#pragma unroll
        for (int t = 0; t < NT; t++) {
            int o[4] = {0, 0, 0, 0};
            const uint32_t *p = w.p[t];
            mma_u8s8(o, p[0], p[1], p[2], p[3], v.x, v.y);
            mma_u8s8(o, p[4], p[5], p[6], p[7], v.z, v.w);
            state.o[t][2 * j] =
                __fmaf_rn(state.o[t][2 * j], w.keep[t], __fmul_rn(join(o[0], o[2]), w.scale[t]));
            state.o[t][2 * j + 1] =
                __fmaf_rn(state.o[t][2 * j + 1], w.keep[t], __fmul_rn(join(o[1], o[3]), w.scale[t]));
        }
    }
}

} // namespace attn
} // namespace fp
#endif
