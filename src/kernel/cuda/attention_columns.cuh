/* One page for up to 4·NT query rows, by one warp (arithmetic §6). K and V are the A operands, queries and
 * weights B: the 8 columns of an MMA are the hi and lo planes of 4 rows (column 2r + plane), so that 4 rows,
 * not 8, cost an MMA. How numbers lie in a warp, lane = 4·g + c, t = 0..3, h = 0, 1:
 *
 *  - row g + 8h of tile t is token 16·(g/2) + 8h + 2t + g%2: thread (g, c) ends up with these 8 tokens of row
 * c, both planes: 256·hi + lo, and weighs them. The order of inputs inside a dot is free: lane (g, c) loads
 * bytes 16·(c + 4i)..+15 of its tokens and Q is loaded the same way (the last 32 of d = 96: bytes 64 +
 * 8c..+7).
 *  - The 16-bit weights, token pairs (h = 0, 1) packed, cross the warp as four 8 × 8 matrices (movmatrix);
 * then thread (2r + h, c) has tokens 16c + 8h .. + 7 of row r, and exchanges a plane with its partner: the B
 * operand of V [d][64], of which a lane reads tokens 16c..16c+15 of channels 16j + g and 16j + g + 8 at once.
 *  - Thread (g, c) gets channels 16j + g and + 8 of row c. */
#ifndef FP_KERNEL_CUDA_ATTENTION_COLUMNS_CUH
#define FP_KERNEL_CUDA_ATTENTION_COLUMNS_CUH
#include "kernel/cuda/attention_rows.cuh"

namespace fp
{
namespace attn
{

static __device__ __forceinline__ uint32_t transpose_b16(uint32_t x)
{
    uint32_t y;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
    return y;
}

/* Up to 4·NT query rows as B operand, and of the thread's rows 4·n + c the scale and the tokens of the
 * segment that they see in causal pages. */
template <int D, int NT> struct Columns {
    uint32_t q[NT][D / 16];
    float scale[NT];
    uint32_t limit[NT];
};

/* States of rows 4·n + c; o: channels 16j + g + 8h at [2j + h]. The 8 threads of a row hold the same m and l.
 */
template <int D, int NT> struct Piece {
    float m[NT], l[NT], o[NT][D / 8];
    __device__ __forceinline__ void clear()
    {
#pragma unroll
        for (int n = 0; n < NT; n++) {
            m[n] = FP_NEG_INF;
            l[n] = 0.0f;
#pragma unroll
            for (int i = 0; i < D / 8; i++)
                o[n][i] = 0.0f;
        }
    }
};

/* What values() needs from scores(): P as B operand, and the factors of the merge. */
template <int NT> struct PageWeights {
    uint32_t p[NT][4];
    float keep[NT], scale[NT]; /* O' = fma(O, keep, o·scale) */
    float unit[NT];            /* 2^E */
};

/* Rows first, … of an item. */
template <int D, int NT>
static __device__ __forceinline__ void load_columns(const Params &p, const Header &h, uint32_t words,
                                                    uint32_t kv_head, uint32_t first, uint32_t lane,
                                                    Columns<D, NT> &x, Places<NT> &at)
{
    uint32_t g = lane / 4, c = lane % 4, rows = word(words, ROWS), flags = word(words, FLAGS),
             from = word(words, TOKEN), first_row = word(words, FIRST_ROW), limit = word(words, LIMIT);
    uint32_t least = 0x7fffffffu, most = 0;
    at.active = first < rows;
#pragma unroll
    for (int n = 0; n < NT; n++) {
        uint32_t r = first + 4 * n + g / 2, own = first + 4 * n + c;
        uint32_t i = (first_row + r) / p.group, head = kv_head * p.group + (first_row + r) % p.group;
        const uint4 none = make_uint4(0, 0, 0, 0);
        const uint8_t *q = reinterpret_cast<const uint8_t *>(p.q_planes) + g % 2 * D + 16 * c;
        bool on = r < rows;
        if (on)
            q += ((size_t)(flags & LISTED ? p.plan[h.tokens_at + from + i] : from + i) * p.heads_q + head) *
                 (2 * D);
#pragma unroll
        for (int k = 0; k < D / 64; k++) {
            uint4 v = on ? *reinterpret_cast<const uint4 *>(q + 64 * k) : none;
            x.q[n][4 * k] = v.x, x.q[n][4 * k + 1] = v.y, x.q[n][4 * k + 2] = v.z, x.q[n][4 * k + 3] = v.w;
        }
        if (D % 64) {
            uint2 last = on ? *reinterpret_cast<const uint2 *>(q + D / 64 * 64 - 8 * c) : make_uint2(0, 0);
            x.q[n][D / 16 - 2] = last.x, x.q[n][D / 16 - 1] = last.y;
        }
        i = (first_row + own) / p.group, head = kv_head * p.group + (first_row + own) % p.group;
        on = own < rows;
        at.row[n] = on ? own : NONE;
        x.limit[n] = on ? limit + i : 0x7fffffffu;
        x.scale[n] = 0.0f;
        if (on) {
            x.scale[n] =
                p.q_scales[(size_t)(flags & LISTED ? p.plan[h.tokens_at + from + i] : from + i) * p.heads_q +
                           head];
            least = min(least, limit + i);
            most = max(most, limit + i);
        }
    }
    at.least = __reduce_min_sync(~0u, least);
    at.most = __reduce_max_sync(~0u, most);
}

/* Largest over the 8 lanes that share a row. */
static __device__ __forceinline__ float row_max(float x)
{
#pragma unroll
    for (int k = 4; k < 32; k *= 2)
        x = fmaxf(x, __shfl_xor_sync(~0u, x, k));
    return x;
}

/* Eight weights of a lane → its B operand. w[t][h]: low 16 bits. */
static __device__ __forceinline__ void spread_weights(const uint32_t (&w)[4][2], uint32_t lane,
                                                      uint32_t (&p)[4])
{
    uint32_t pair[4], odd = lane / 4 % 2;
#pragma unroll
    for (int t = 0; t < 4; t++)
        pair[t] = transpose_b16(__byte_perm(w[t][0], w[t][1], 0x5410));
    uint32_t lo0 = __byte_perm(pair[0], pair[1], 0x6420), hi0 = __byte_perm(pair[0], pair[1], 0x7531),
             lo1 = __byte_perm(pair[2], pair[3], 0x6420), hi1 = __byte_perm(pair[2], pair[3], 0x7531);
    uint32_t got0 = __shfl_xor_sync(~0u, odd ? hi0 : lo0, 4), got1 = __shfl_xor_sync(~0u, odd ? hi1 : lo1, 4);
    p[0] = odd ? got0 : hi0, p[1] = odd ? got1 : hi1;
    p[2] = odd ? lo0 : got0, p[3] = odd ? lo1 : got1;
}

/* s_k and s_v of the lane's tokens, 16·(g/2) + g%2 + 2t + 8h, at [t + 4h]. */
template <int D>
static __device__ __forceinline__ void load_scales(uint32_t stage, uint32_t lane, float (&s_k)[8],
                                                   float (&s_v)[8])
{
    uint32_t g = lane / 4, at = stage + 64 * D + 32 * (g / 2), take = g % 2 ? 0x3244 : 0x1044;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        uint4 k = load_shared16(at + 16 * h), v = load_shared16(at + 128 + 16 * h);
        const uint32_t kw[4] = {k.x, k.y, k.z, k.w}, vw[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int t = 0; t < 4; t++) {
            s_k[t + 4 * h] = __uint_as_float(__byte_perm(kw[t], 0, take));
            s_v[t + 4 * h] = __uint_as_float(__byte_perm(vw[t], 0, take));
        }
    }
}

/* Products of keys and queries, and the scales. */
template <int D, int NT>
static __device__ __forceinline__ void multiply_keys(const Columns<D, NT> &x, uint32_t stage, uint32_t lane,
                                                     int (&acc)[NT][4][4], float (&s_k)[8], float (&s_v)[8])
{
    uint32_t g = lane / 4, c = lane % 4, token = 16 * (g / 2) + g % 2;
#pragma unroll
    for (int t = 0; t < 4; t++) {
        uint32_t row = stage + (token + 2 * t) * D;
#pragma unroll
        for (int n = 0; n < NT; n++)
            acc[n][t][0] = acc[n][t][1] = acc[n][t][2] = acc[n][t][3] = 0;
#pragma unroll
        for (int i = 0; i < D / 64; i++) {
            uint4 a = load_shared16(row + 64 * i + 16 * c), b = load_shared16(row + 8 * D + 64 * i + 16 * c);
#pragma unroll
            for (int n = 0; n < NT; n++) {
                mma_s8s8(acc[n][t], a.x, b.x, a.y, b.y, x.q[n][4 * i], x.q[n][4 * i + 1]);
                mma_s8s8(acc[n][t], a.z, b.z, a.w, b.w, x.q[n][4 * i + 2], x.q[n][4 * i + 3]);
            }
        }
        if (D % 64) {
            uint2 a = load_shared8(row + D / 64 * 64 + 8 * c),
                  b = load_shared8(row + 8 * D + D / 64 * 64 + 8 * c);
#pragma unroll
            for (int n = 0; n < NT; n++)
                mma_s8s8(acc[n][t], a.x, b.x, a.y, b.y, x.q[n][D / 16 - 2], x.q[n][D / 16 - 1]);
        }
    }
    load_scales<D>(stage, lane, s_k, s_v);
}

/* Softmax of a page for one row, of which `visible` tokens are seen: products → weights p, and m, l, 2^e. */
static __device__ __forceinline__ void weigh_row(const int (&acc)[4][4], float s_q, const float (&s_k)[8],
                                                 const float (&s_v)[8], int visible, uint32_t lane, float &m,
                                                 int &l, int &e, uint32_t (&p)[4])
{
    uint32_t g = lane / 4, token = 16 * (g / 2) + g % 2;
    float score[8];
    uint32_t largest = 0;
#pragma unroll
    for (int u = 0; u < 8; u++) {
        bool sees = (int)(token + 2 * (u % 4) + 8 * (u / 4)) < visible;
        float dot = join(acc[u % 4][u / 4 * 2], acc[u % 4][u / 4 * 2 + 1]);
        score[u] = sees ? __fmul_rn(dot, __fmul_rn(s_q, s_k[u])) : FP_NEG_INF;
        largest = max(largest, sees ? __float_as_uint(s_v[u]) : 0u);
    }
    m = score[0];
#pragma unroll
    for (int u = 1; u < 8; u++)
        m = fmaxf(m, score[u]);
    m = __fadd_rn(row_max(m), 0.0f);
#pragma unroll
    for (int k = 4; k < 32; k *= 2)
        largest = max(largest, __shfl_xor_sync(~0u, largest, k));
    float unit = __fmul_rn(65535.0f, exponent_scale(largest >> 16, e)), base = visible == 0 ? 0.0f : m;
    uint32_t w[4][2], sum = 0;
#pragma unroll
    for (int u = 0; u < 8; u++) {
        float x = weight_exp2(__fsub_rn(score[u], base));
        sum += __float_as_uint(__fadd_rn(__fmul_rn(x, 65535.0f), 12582912.0f));
        w[u % 4][u / 4] = __float_as_uint(__fadd_rn(__fmul_rn(__fmul_rn(x, s_v[u]), unit), 12582912.0f));
    }
    spread_weights(w, lane, p);
    l = (int)(sum - 8u * MAGIC);
#pragma unroll
    for (int k = 4; k < 32; k *= 2)
        l += __shfl_xor_sync(~0u, l, k);
}

/* Tokens of a page that a row sees. first: tokens of the segment before this page; fill: visible tokens if
 * not 0, else causal; full: every row sees all 64. */
static __device__ __forceinline__ int visible_tokens(uint32_t limit, uint32_t first, uint32_t fill, bool full)
{
    int seen = (int)(limit - first);
    return full ? PAGE : fill ? (int)fill : max(0, min(seen, PAGE));
}

/* K half of a page (K, then s_k, s_v) → weights; m and l of the state merged. */
template <int D, int NT>
static __device__ __forceinline__ void scores(const Columns<D, NT> &x, uint32_t stage, uint32_t first,
                                              uint32_t fill, bool full, uint32_t lane, Piece<D, NT> &s,
                                              PageWeights<NT> &out)
{
    int acc[NT][4][4];
    float s_k[8], s_v[8];
    multiply_keys<D, NT>(x, stage, lane, acc, s_k, s_v);
#pragma unroll
    for (int n = 0; n < NT; n++) {
        float m;
        int l, e, visible = visible_tokens(x.limit[n], first, fill, full);
        weigh_row(acc[n], x.scale[n], s_k, s_v, visible, lane, m, l, e, out.p[n]);
        merge_page(m, l, e, visible == 0, s.m[n], s.l[n], out.keep[n], out.unit[n], out.scale[n]);
    }
}

/* V half of a page: o of the state merged. */
template <int D, int NT>
static __device__ __forceinline__ void values(const PageWeights<NT> &w, uint32_t stage, uint32_t lane,
                                              Piece<D, NT> &s)
{
    uint32_t at = stage + lane / 4 * PAGE + lane % 4 * 16;
#pragma unroll
    for (int j = 0; j < D / 16; j++) {
        uint4 a = load_shared16(at + 16 * j * PAGE), b = load_shared16(at + (16 * j + 8) * PAGE);
#pragma unroll
        for (int n = 0; n < NT; n++) {
            int o[4] = {0, 0, 0, 0};
            mma_s8u8(o, a.x, b.x, a.y, b.y, w.p[n][0], w.p[n][1]);
            mma_s8u8(o, a.z, b.z, a.w, b.w, w.p[n][2], w.p[n][3]);
            s.o[n][2 * j] = __fmaf_rn(s.o[n][2 * j], w.keep[n], __fmul_rn(join(o[0], o[1]), w.scale[n]));
            s.o[n][2 * j + 1] =
                __fmaf_rn(s.o[n][2 * j + 1], w.keep[n], __fmul_rn(join(o[2], o[3]), w.scale[n]));
        }
    }
}

} // namespace attn
} // namespace fp
#endif
