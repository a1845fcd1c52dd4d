/* The prefill kernel (Hopper): a tile of 64, 128 or 192 rows of a prefill against both of their segments,
 * from first to last page, to the outputs. A row is a query token and a head of the group. Arithmetic §6,
 * nothing else decides a bit.
 *
 * A CTA is a warpgroup for each 64 rows, and a producer warp. The producer copies pages into a ring of shared
 * memory (16 bytes a lane, into the blocks that wgmma reads), and prepares each page's scales once for all
 * rows. A group multiplies Q (two planes, in shared memory) with K, makes P (two planes, in registers) and
 * multiplies it with V. One or two groups multiply the next page with Q while they work out the weights of a
 * page; three have no registers for that: while one waits for its products, the others work out weights.
 *
 *  - K's tokens lie in shared memory in the order in which thread c of a quad ends up with tokens 16a +
 * 4c..+3 (a = 0..3) of its rows: P as the next product's A operand without a move between threads.
 *  - o of a span is in registers, states of the chunk are in shared memory, of the segment in device memory
 * (L2), the complete one in shared memory again.
 *  - units (tile, KV head) are taken in a fixed order, longest first, back and forth over the CTAs.
 *
 * Rewrites of §6, all exact: (m - x)/32 is one saturating fma, which cuts it off at 1: exp2c(-32)·65535
 * rounds to 0 like all below; the polynomial takes what is left as it is, its coefficients have the powers of
 * 32; p is never put together: with p = y·2^n (y the polynomial), the products p·65535 and p·s_v·65535 are
 * those of y, scaled by 2^n in the addition that rounds them; of exp2c(M - M') and exp2c(m - M') one is
 * exp2c(0) = 1. (m/32 and the fma may round where numbers are near the smallest: then x - m is so near 0 that
 * y is 1 either way.) */
#ifndef FP_KERNEL_CUDA_ATTENTION_PREFILL_CUH
#define FP_KERNEL_CUDA_ATTENTION_PREFILL_CUH
#include "kernel/cuda/async.cuh"
#include "kernel/cuda/attention_mix.cuh"
#include "kernel/cuda/attention_prefill.h"
#include "kernel/cuda/attention_rows.cuh"
#include "kernel/cuda/wgmma.cuh"

namespace fp
{
namespace attn
{
namespace prefill
{

constexpr int LAG = 1; /* pages that are under way when one is handed over */

/* Registers of a lane; no more in all than the kernel starts with, else the groups wait for each other. */
template <int GROUPS> struct Registers {
    static constexpr int START = 65536 / (128 * (GROUPS + 1)) / 8 * 8, LIMIT = START > 232 ? 232 : START,
                         CONSUMER = GROUPS == 3 ? 160 : 232, PRODUCER = GROUPS == 3 ? 32 : 40;
    static_assert(GROUPS * CONSUMER + PRODUCER <= (GROUPS + 1) * START, "more registers than there are");
};

/* What a stage holds behind K and V. */
struct Scales {
    float k[PAGE];         /* s_k */
    float v[PAGE];         /* s_v·2^-E of the whole page */
    int e[PAGE];           /* E of the first i + 1 tokens */
    uint16_t raw[2][PAGE]; /* s_k, s_v as stored */
    uint32_t fill;         /* tokens shown to all rows; 0: causal */
};

template <int D> struct Stage {
    static constexpr uint32_t V = 64 * D, SCALES = 128 * D, BYTES = prefill_stage_bytes(D);
    static_assert(SCALES + sizeof(Scales) <= BYTES, "a stage holds a page");
};

/* Walks through the ring; producer and consumers do it alike. */
struct Place {
    uint32_t slot, parity;
    __device__ __forceinline__ void next(uint32_t stages)
    {
        if (++slot == stages)
            slot = 0, parity ^= 1;
    }
};

/* Something at a shared address: so the compiler has 32 bits to carry. */
template <typename T> static __device__ __forceinline__ T *at_shared(uint32_t address)
{
    return reinterpret_cast<T *>(__cvta_shared_to_generic(address));
}

struct Shared {
    uint32_t barriers, ring, stages; /* full[stages], empty[stages] */
    __device__ __forceinline__ uint32_t stage(uint32_t slot, uint32_t bytes) const
    {
        return ring + slot * bytes;
    }
    __device__ __forceinline__ uint32_t full(uint32_t slot) const
    {
        return barriers + 8 * slot;
    }
    __device__ __forceinline__ uint32_t empty(uint32_t slot) const
    {
        return barriers + 8 * (MAX_STAGES + slot);
    }
};

/* The k-th unit of this CTA. */
static __device__ __forceinline__ uint32_t unit_at(uint32_t k)
{
    return k * gridDim.x + (k & 1 ? gridDim.x - 1 - blockIdx.x : blockIdx.x);
}

static __device__ __forceinline__ uint32_t item_word(const uint32_t *item, int i)
{
    return __ldg(item + i);
}

/* ---- producer ------------------------------------------------------------------------------------------ */

static __device__ __forceinline__ void copy16(uint32_t to, const void *from)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(__cvta_generic_to_global(from))
                 : "memory");
}

/* Starts the copy of a slab. Column n of K holds token 16·(n/16) + 4·(n%8/2) + 2·(n/8%2) + n%2. */
template <int D>
static __device__ __forceinline__ void copy_slab(uint32_t stage, const uint8_t *slab, uint32_t lane)
{
    uint32_t n = lane % 8, deep = lane / 8;
    const uint8_t *k = slab + (4 * (n / 2) + n % 2) * D + 16 * deep;
    uint32_t to = stage + deep * 1024 + n * 16;
#pragma unroll
    for (int i = 0; i < 8; i++)
#pragma unroll
        for (int j = 0; j < (D + 63) / 64; j++)
            if (D % 64 == 0 || j < D / 64 || deep < D % 64 / 16)
                copy16(to + j * 4096 + i * 128, k + (16 * (i / 2) + 2 * (i % 2)) * D + 64 * j);
    const uint8_t *v = slab + 64 * D + n * PAGE + 16 * deep;
    to = stage + Stage<D>::V + deep * 16 * D + n * 16;
#pragma unroll
    for (int i = 0; i < D / 8; i++)
        copy16(to + i * 128, v + 8 * i * PAGE);
    if (lane < 16)
        copy16(stage + Stage<D>::SCALES + (uint32_t)offsetof(Scales, raw) + 16 * lane,
               slab + 128 * D + 16 * lane);
}

static __device__ __forceinline__ int exponent(uint32_t largest)
{
    uint32_t bits = largest << 16;
    return bits ? (int)(bits >> 23) - 126 : 0;
}

/* Scales as stored → as the rows use them; lane: tokens 2·lane and + 1. */
static __device__ __forceinline__ void prepare_scales(Scales *s, uint32_t fill, uint32_t lane)
{
    uint32_t k = *reinterpret_cast<const uint32_t *>(&s->raw[0][2 * lane]),
             v = *reinterpret_cast<const uint32_t *>(&s->raw[1][2 * lane]);
    uint32_t first = v & 0xffffu, both = max(first, v >> 16), before = both;
#pragma unroll
    for (int i = 1; i < 32; i *= 2) {
        uint32_t other = __shfl_up_sync(~0u, before, i);
        before = (int)lane >= i ? max(before, other) : before;
    }
    uint32_t largest = __shfl_sync(~0u, before, 31), below = __shfl_up_sync(~0u, before, 1);
    below = lane ? below : 0;
    float down = __uint_as_float((uint32_t)(127 - exponent(largest)) << 23);
    *reinterpret_cast<float2 *>(&s->k[2 * lane]) = make_float2(low_float(k), high_float(k));
    *reinterpret_cast<float2 *>(&s->v[2 * lane]) =
        make_float2(__fmul_rn(low_float(v), down), __fmul_rn(high_float(v), down));
    *reinterpret_cast<int2 *>(&s->e[2 * lane]) = make_int2(exponent(max(below, first)), exponent(before));
    if (lane == 0)
        s->fill = fill;
}

template <int D> struct Producer {
    const Params &p;
    const Header &h;
    const Shared &sh;
    Place in, out;
    uint32_t started, published, fills; /* fills: of the pages under way, a byte each, the newest lowest */

    __device__ __forceinline__ void publish(uint32_t lane)
    {
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        __syncwarp();
        Scales *s = at_shared<Scales>(sh.stage(out.slot, Stage<D>::BYTES) + Stage<D>::SCALES);
        prepare_scales(s, fills >> 8 * (started - published - 1) & 255, lane);
        __syncwarp();
        if (lane == 0)
            barrier_arrive(sh.full(out.slot));
        out.next(sh.stages);
        published++;
    }
    __device__ __forceinline__ void run(const uint32_t *item, int table_word, int pages_word,
                                        uint32_t kv_head, uint32_t lane)
    {
        uint32_t table = item_word(item, table_word), pages = item_word(item, pages_word), page_window = 0,
                 fill_window = 0;
        const uint8_t *fill_table = reinterpret_cast<const uint8_t *>(p.plan + h.fills_at) + table;
        const uint8_t *base = p.kv + p.layer_offset + kv_head * (size_t)(128 * D + 256);
        for (uint32_t i = 0; i < pages; i++) {
            if (i % 32 == 0) {
                bool on = i + lane < pages;
                page_window = on ? __ldg(p.plan + h.pages_at + table + i + lane) : 0;
                fill_window = on ? __ldg(fill_table + i + lane) : 0;
            }
            const uint8_t *slab = base + __shfl_sync(~0u, page_window, (int)(i % 32)) * p.group_bytes;
            uint32_t fill = __shfl_sync(~0u, fill_window, (int)(i % 32));
            barrier_wait(sh.empty(in.slot), in.parity ^ 1);
            copy_slab<D>(sh.stage(in.slot, Stage<D>::BYTES), slab, lane);
            asm volatile("cp.async.commit_group;" ::: "memory");
            in.next(sh.stages);
            fills = fills << 8 | fill;
            started++;
            if (started - published > LAG) {
                asm volatile("cp.async.wait_group %0;" ::"n"(LAG) : "memory");
                publish(lane);
            }
        }
    }
    __device__ __forceinline__ void all(uint32_t lane)
    {
        uint32_t units = h.prefill_items * p.kv_heads;
        for (uint32_t k = 0;; k++) {
            uint32_t unit = unit_at(k);
            if (k * gridDim.x >= units)
                break;
            if (unit >= units)
                continue;
            const uint32_t *item = p.plan + h.prefill_at + unit / p.kv_heads * ITEM_WORDS;
            if (item_word(item, ANCHOR_PAGES))
                run(item, ANCHOR_TABLE, ANCHOR_PAGES, unit % p.kv_heads, lane);
            if (item_word(item, PAGES))
                run(item, TABLE, PAGES, unit % p.kv_heads, lane);
        }
        asm volatile("cp.async.wait_group 0;" ::: "memory");
        while (published < started)
            publish(lane);
    }
};

/* ---- consumer ------------------------------------------------------------------------------------------ */

static __device__ __forceinline__ void group_barrier(uint32_t group)
{
    asm volatile("bar.sync %0, 128;" ::"r"(group + 1) : "memory");
}

/* A row of a tile. */
struct Row {
    size_t at;        /* token·H + head */
    uint32_t i, head; /* i: of its token in the sequence */
    bool on;
};
static __device__ __forceinline__ Row find_row(const Params &p, const uint32_t *item, uint32_t kv_head,
                                               uint32_t row)
{
    Row r;
    uint32_t number = item_word(item, FIRST_ROW) + row;
    r.on = row < item_word(item, ROWS);
    r.i = number / p.group;
    r.head = kv_head * p.group + number % p.group;
    r.at = (size_t)(item_word(item, TOKEN) + r.i) * p.heads_q + r.head;
    return r;
}

/* What is needed of a group's rows while pages go by. */
struct Tile {
    uint32_t q;      /* shared address of both planes: 16-byte columns of 64 rows */
    int least, most; /* tokens of the segment that the group's rows see in causal pages; most < 0: no row */
};

/* Q of a group to shared memory; all its warps call this together, and nobody reads the tile before any more.
 */
template <int D>
static __device__ __forceinline__ void load_tile(const Params &p, const uint32_t *item, uint32_t kv_head,
                                                 uint32_t group, uint32_t warp, uint32_t lane, float2 &scale,
                                                 Tile &t)
{
    Row first = find_row(p, item, kv_head, group * 64 + warp * 16 + lane / 4),
        second = find_row(p, item, kv_head, group * 64 + warp * 16 + lane / 4 + 8);
    const float2 both =
        make_float2(first.on ? p.q_scales[first.at] : 0.0f, second.on ? p.q_scales[second.at] : 0.0f);
    /* 8 rows by 4 columns of 16 bytes at a time; all of them are under way before the tile is free */
    uint4 x[2][2 * D / 64];
#pragma unroll
    for (uint32_t half = 0; half < 2; half++) {
        Row row = find_row(p, item, kv_head, group * 64 + warp * 16 + half * 8 + lane % 8);
        const uint8_t *q = reinterpret_cast<const uint8_t *>(p.q_planes) + row.at * 2 * D + 16 * (lane / 8);
#pragma unroll
        for (int j = 0; j < 2 * D / 64; j++)
            x[half][j] = row.on ? *reinterpret_cast<const uint4 *>(q + 64 * j) : make_uint4(0, 0, 0, 0);
    }
    group_barrier(group);
    scale = both;
#pragma unroll
    for (uint32_t half = 0; half < 2; half++) {
        uint32_t to = t.q + lane / 8 * 1024 + (warp * 16 + half * 8 + lane % 8) * 16;
#pragma unroll
        for (int j = 0; j < 2 * D / 64; j++)
            asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(to + j * 4096), "r"(x[half][j].x),
                         "r"(x[half][j].y), "r"(x[half][j].z), "r"(x[half][j].w)
                         : "memory");
    }
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    group_barrier(group);
}

/* Tokens that the rows see in the causal pages of a segment whose first token sees `limit`. */
static __device__ __forceinline__ void set_limits(const Params &p, const uint32_t *item, int limit_word,
                                                  uint32_t group, Tile &t)
{
    uint32_t n = item_word(item, ROWS), first_row = item_word(item, FIRST_ROW), first = group * 64;
    int limit = (int)item_word(item, limit_word);
    t.least = limit + (int)((first_row + first) / p.group);
    t.most = first < n ? limit + (int)((first_row + min(first + 64, n) - 1) / p.group) : -1;
}

template <int D> struct Span {
    float o[D / 2]; /* channels 8j + 2c + e of row r at [4j + 2r + e] */
    __device__ __forceinline__ void clear()
    {
#pragma unroll
        for (int i = 0; i < D / 2; i++)
            o[i] = 0.0f;
    }
};

/* Q·K of a page, both planes, begun. */
template <int D>
static __device__ __forceinline__ void multiply_keys(const Tile &t, uint32_t stage, int (&hi)[32],
                                                     int (&lo)[32])
{
    uint32_t k = wgmma_operand(stage, 1024), q = wgmma_operand(t.q, 1024);
    wgmma_begin();
    wgmma<0>(hi, q, k);
    wgmma<0>(lo, q + (64 * D >> 4), k);
#pragma unroll
    for (int s = 1; s < D / 32; s++) {
        wgmma<1>(hi, q + s * (2048 >> 4), k + s * (2048 >> 4));
        wgmma<1>(lo, q + (64 * D >> 4) + s * (2048 >> 4), k + s * (2048 >> 4));
    }
    wgmma_commit();
}

/* (float)(256·hi + lo), by a multiplication where `high` is a constant in memory: on another pipe than
 * shifts. */
static __device__ __forceinline__ float join_by(int hi, int lo, int high)
{
    int s;
    asm("mad.lo.s32 %0, %1, %2, %3;" : "=r"(s) : "r"(hi), "r"(high), "r"(lo));
    return __int2float_rn(s);
}

/* a·b + c between 0 and 1. */
static __device__ __forceinline__ float fma_saturated(float a, float b, float c)
{
    float r;
    asm("fma.rn.sat.f32 %0, %1, %2, %3;" : "=f"(r) : "f"(a), "f"(b), "f"(c));
    return r;
}

/* Four tokens of one row: x and m/32 → P bytes of both planes; returns the sum of their rint(65535·p) +
 * MAGIC.
 */
static __device__ __forceinline__ uint32_t weigh_four(const float *x, float m, const float (&s_v)[4],
                                                      uint32_t &hi, uint32_t &lo)
{
    uint32_t w[4], u[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float d = fma_saturated(x[i], -0x1p-5f, m);
        float t = __fsub_rn(393216.0f, d), f = __fsub_rn(__fsub_rn(393216.0f, t), d);
        float y = __fmaf_rn(0x1.3fa206p17f, f, 0x1.5f0b82p15f);
        y = __fmaf_rn(y, f, 0x1.3b30ap13f);
        y = __fmaf_rn(y, f, 0x1.c6af76p10f);
        y = __fmaf_rn(y, f, 0x1.ebfbd8p7f);
        y = __fmaf_rn(y, f, 0x1.62e43p4f);
        y = __fmaf_rn(y, f, 1.0f);
        float power = __uint_as_float((__float_as_uint(t) << 23) + 0x3f800000u);
        u[i] = __float_as_uint(__fmaf_rn(__fmul_rn(y, 65535.0f), power, 12582912.0f));
        w[i] = __float_as_uint(__fmaf_rn(__fmul_rn(__fmul_rn(y, s_v[i]), 65535.0f), power, 12582912.0f));
    }
    pack_planes(w, hi, lo);
    return (u[0] + u[1]) + (u[2] + u[3]);
}

/* Factors of a page or state (m, l) merged into (before, …): keep, and b. */
struct Step {
    float keep, b, m;
};
static __device__ __forceinline__ Step merge_step(float before, float m)
{
    Step s;
    float e = exp2c(-fabsf(__fsub_rn(before, m)));
    bool up = m > before;
    s.keep = up ? e : 1.0f;
    s.b = up ? 1.0f : e;
    s.m = up ? m : before;
    return s;
}

/* What a page gives for a thread's two rows: P as A operands [plane][step], and what its merge needs. */
struct Weights {
    uint32_t p[2][2][4], sum[2];
    float m[2]; /* -inf: no visible token */
    int e[2];
};

/* Scores of a thread's two rows, tokens 16a + c..+3 at [4a]. */
struct Scores {
    float x[2][16];
};
static __device__ __forceinline__ void find_scores(const float2 &s_q, const Scales *s, uint32_t c,
                                                   const int (&hi)[32], const int (&lo)[32], Scores &scores)
{
    const float q[2] = {s_q.x, s_q.y};
#pragma unroll
    for (int a = 0; a < 4; a++) {
        float4 four = *reinterpret_cast<const float4 *>(&s->k[16 * a + c]);
        const float s_k[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
        for (int r = 0; r < 2; r++)
#pragma unroll
            for (int b = 0; b < 4; b++) {
                int i = 4 * (2 * a + b / 2) + 2 * r + b % 2;
                scores.x[r][4 * a + b] = __fmul_rn(join(hi[i], lo[i]), __fmul_rn(q[r], s_k[b]));
            }
    }
}

/* Scores → weights. MASKED: rows see a part of the page. */
template <bool MASKED>
static __device__ __forceinline__ void make_weights(const Scales *s, uint32_t before, const int (&limits)[2],
                                                    uint32_t c, Scores &scores, Weights &w)
{
    float(&x)[2][16] = scores.x;
    w.e[0] = w.e[1] = s->e[PAGE - 1];
    if (MASKED) {
        int fill = (int)s->fill;
#pragma unroll
        for (int r = 0; r < 2; r++) {
            int visible = fill ? fill : max(0, min(PAGE, limits[r] - (int)before));
            w.e[r] = visible ? s->e[visible - 1] : 0;
#pragma unroll
            for (int u = 0; u < 16; u++)
                x[r][u] = 16 * (u / 4) + (int)c + u % 4 < visible ? x[r][u] : FP_NEG_INF;
        }
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float m = fmaxf(fmaxf(x[r][0], x[r][1]), fmaxf(x[r][2], x[r][3]));
#pragma unroll
        for (int u = 4; u < 16; u += 4)
            m = fmaxf(m, fmaxf(fmaxf(x[r][u], x[r][u + 1]), fmaxf(x[r][u + 2], x[r][u + 3])));
        w.m[r] = __fadd_rn(quad_max(m), 0.0f);
    }
    /* no visible token: all weights are 0 */
    const float m[2] = {MASKED && w.m[0] == FP_NEG_INF ? 0.0f : __fmul_rn(w.m[0], 0x1p-5f),
                        MASKED && w.m[1] == FP_NEG_INF ? 0.0f : __fmul_rn(w.m[1], 0x1p-5f)};
    w.sum[0] = w.sum[1] = 0;
#pragma unroll
    for (int a = 0; a < 4; a++) {
        float4 v = *reinterpret_cast<const float4 *>(&s->v[16 * a + c]);
        float s_v[4] = {v.x, v.y, v.z, v.w};
        uint2 raw = MASKED ? *reinterpret_cast<const uint2 *>(&s->raw[1][16 * a + c]) : make_uint2(0, 0);
#pragma unroll
        for (int r = 0; r < 2; r++) {
            if (MASKED) {
                float down = __uint_as_float((uint32_t)(127 - w.e[r]) << 23);
                s_v[0] = __fmul_rn(low_float(raw.x), down), s_v[1] = __fmul_rn(high_float(raw.x), down);
                s_v[2] = __fmul_rn(low_float(raw.y), down), s_v[3] = __fmul_rn(high_float(raw.y), down);
            }
            w.sum[r] += weigh_four(&x[r][4 * a], m[r], s_v, w.p[0][a / 2][2 * (a % 2) + r],
                                   w.p[1][a / 2][2 * (a % 2) + r]);
        }
    }
}

/* m and l of a page merged; the factors of O' = fma(O, keep, o·scale). */
static __device__ __forceinline__ void merge_page(const Weights &w, float4 &heads, float (&keep)[2],
                                                  float (&scale)[2])
{
    float4 before = heads;
    float m[2] = {before.x, before.y}, sum[2] = {before.z, before.w};
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int l = (int)(w.sum[r] - 16u * MAGIC);
        l += __shfl_xor_sync(~0u, l, 1);
        l += __shfl_xor_sync(~0u, l, 2);
        bool dead = w.m[r] == FP_NEG_INF;
        Step step = merge_step(m[r], w.m[r]);
        float merged = __fmaf_rn(sum[r], step.keep, __fmul_rn(__int2float_rn(l), step.b));
        keep[r] = dead ? 1.0f : step.keep; /* fma(O, 1, (+0)·(-0)) leaves O as it is, -0 included */
        scale[r] = dead ? -0.0f : __fmul_rn(step.b, pow2(w.e[r]));
        m[r] = dead ? m[r] : step.m;
        sum[r] = dead ? sum[r] : merged;
    }
    __syncwarp(); /* all four have read them */
    heads = make_float4(m[0], m[1], sum[0], sum[1]);
}

/* P·V of 32 channels from `first` on, both planes, begun. */
struct Values {
    int hi[16], lo[16];
};
template <int D>
static __device__ __forceinline__ void multiply_values(const Weights &w, uint32_t v, int first, Values &o)
{
    wgmma_begin();
    wgmma<true, 0>(o.hi, w.p[0][0], v + first);
    wgmma<true, 0>(o.lo, w.p[1][0], v + first);
    wgmma<true, 1>(o.hi, w.p[0][1], v + first + (32 * D >> 4));
    wgmma<true, 1>(o.lo, w.p[1][1], v + first + (32 * D >> 4));
    wgmma_commit();
}
/* Merged, when they are there. */
template <int D>
static __device__ __forceinline__ void
merge_values(Values &v, const float (&keep)[2], const float (&scale)[2], int high, int first, Span<D> &span)
{
    wgmma_results(v.hi);
    wgmma_results(v.lo);
#pragma unroll
    for (int i = 0; i < 16; i++) {
        int r = i / 2 % 2;
        float &o = span.o[first / 2 + i];
        o = __fmaf_rn(o, keep[r], __fmul_rn(join_by(v.hi[i], v.lo[i], high), scale[r]));
    }
}

/* m (x, y) and l (z, w) of a thread's two rows in a span, chunk or segment. */
static __device__ __forceinline__ float4 no_heads()
{
    return make_float4(FP_NEG_INF, FP_NEG_INF, 0.0f, 0.0f);
}

/* Factors of a state merged into a level; a state without a visible token leaves it as it is. */
static __device__ __forceinline__ void merge_row(float &to_m, float &to_l, float m, float l, float &a,
                                                 float &b)
{
    Step step = merge_step(to_m, m);
    bool live = m != FP_NEG_INF;
    a = live ? step.keep : 1.0f;
    b = live ? step.b : -0.0f;
    to_l = live ? __fmaf_rn(to_l, a, __fmul_rn(l, b)) : to_l;
    to_m = live ? step.m : to_m;
}

static __device__ __forceinline__ float4 merge_four(float4 to, const float4 &from, const float (&a)[2],
                                                    const float (&b)[2])
{
    to.x = __fmaf_rn(to.x, a[0], __fmul_rn(from.x, b[0]));
    to.y = __fmaf_rn(to.y, a[0], __fmul_rn(from.y, b[0]));
    to.z = __fmaf_rn(to.z, a[1], __fmul_rn(from.z, b[1]));
    to.w = __fmaf_rn(to.w, a[1], __fmul_rn(from.w, b[1]));
    return to;
}

/* What a thread keeps in shared memory: 16 bytes of each column; and what the four threads of its rows keep
 * together, all of them writing the same. */
template <int D> struct Mine {
    uint32_t at, rows; /* the chunk's o in Span's order; the span's heads */
    __device__ __forceinline__ float4 &o(int j) const
    {
        return *at_shared<float4>(at + j * 128 * 16);
    }
    __device__ __forceinline__ float4 &span() const /* m (x, y) and l (z, w) */
    {
        return *at_shared<float4>(rows);
    }
    __device__ __forceinline__ float4 &chunk() const
    {
        return *at_shared<float4>(rows + 32 * 16);
    }
    __device__ __forceinline__ float2 &scale() const /* s_q of both rows */
    {
        return *at_shared<float2>(rows + 2 * 32 * 16);
    }
};

/* The span that ends with `page` into the chunk; at the chunk's end, the chunk into the segment. `complete`:
 * the segment is, and no other follows; its state stays where the chunk's was. */
template <int D>
static __device__ __forceinline__ void merge_span(Span<D> &span, const Mine<D> &mine, float4 *total_o,
                                                  uint32_t page, bool end, bool complete)
{
    const float4 zero = make_float4(0, 0, 0, 0);
    bool empty = page % CHUNK_PAGES < SPAN_PAGES, first = page < CHUNK_PAGES;
    float a[2], b[2];
    float4 chunk = empty ? no_heads() : mine.chunk();
    const float4 heads = mine.span();
    merge_row(chunk.x, chunk.z, heads.x, heads.z, a[0], b[0]);
    merge_row(chunk.y, chunk.w, heads.y, heads.w, a[1], b[1]);
    __syncwarp(); /* all four threads of a row have read what is theirs together */
    if (!end) {
        mine.chunk() = chunk;
#pragma unroll
        for (int j = 0; j < D / 8; j++) {
            float4 o = make_float4(span.o[4 * j], span.o[4 * j + 1], span.o[4 * j + 2], span.o[4 * j + 3]);
            mine.o(j) = merge_four(empty ? zero : mine.o(j), o, a, b);
        }
    } else {
        float up[2], down[2];
        float4 total = first ? no_heads() : total_o[D / 8 * 128];
        merge_row(total.x, total.z, chunk.x, chunk.z, up[0], down[0]);
        merge_row(total.y, total.w, chunk.y, chunk.w, up[1], down[1]);
        if (complete)
            mine.chunk() = total;
        else
            total_o[D / 8 * 128] = total;
#pragma unroll
        for (int j = 0; j < D / 8; j++) {
            float4 o = make_float4(span.o[4 * j], span.o[4 * j + 1], span.o[4 * j + 2], span.o[4 * j + 3]);
            o = merge_four(empty ? zero : mine.o(j), o, a, b);
            o = merge_four(first ? zero : total_o[j * 128], o, up, down);
            if (complete)
                mine.o(j) = o;
            else
                total_o[j * 128] = o;
        }
    }
    span.clear();
    mine.span() = no_heads();
}

/* Divides many numbers by one, 2^10 ≤ it ≤ 2^60, correctly rounded: the steps of __fdiv_rn, of which those
 * that depend on the divisor alone are done once. */
struct Divisor {
    float l, inverse;
    __device__ __forceinline__ explicit Divisor(float by) : l(by)
    {
        float r;
        asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(by));
        inverse = __fmaf_rn(r, __fmaf_rn(-by, r, 1.0f), r);
    }
    __device__ __forceinline__ float divide(float o) const
    {
        float q = __fmul_rn(o, inverse);
        return __fmaf_rn(inverse, __fmaf_rn(-l, q, o), q);
    }
};

/* A segment that is alone: its state, 4 columns at a time, divided by l. */
template <int D>
static __device__ __forceinline__ void write_quotients(const Mine<D> &mine, const float (&l)[2],
                                                       float *const (&out)[2])
{
    constexpr int N = 4;
    /* a row that is not there has l = 0 */
    const Divisor by[2] = {Divisor(l[0] > 0.0f ? l[0] : 65535.0f), Divisor(l[1] > 0.0f ? l[1] : 65535.0f)};
#pragma unroll 1
    for (int j = 0; j < D / 8; j += N) {
        float4 o[N];
        float least = 1.0f, most = 1.0f;
#pragma unroll
        for (int i = 0; i < N; i++) {
            o[i] = mine.o(j + i);
            least =
                fminf(least, fminf(fminf(fabsf(o[i].x), fabsf(o[i].y)), fminf(fabsf(o[i].z), fabsf(o[i].w))));
            most =
                fmaxf(most, fmaxf(fmaxf(fabsf(o[i].x), fabsf(o[i].y)), fmaxf(fabsf(o[i].z), fabsf(o[i].w))));
        }
        bool plain = least > 0x1p-60f && most < 0x1p90f; /* else steps of the division leave the range */
#pragma unroll
        for (int i = 0; i < N; i++) {
            float4 q = make_float4(by[0].divide(o[i].x), by[0].divide(o[i].y), by[1].divide(o[i].z),
                                   by[1].divide(o[i].w));
            if (!plain)
                q = make_float4(__fdiv_rn(o[i].x, l[0]), __fdiv_rn(o[i].y, l[0]), __fdiv_rn(o[i].z, l[1]),
                                __fdiv_rn(o[i].w, l[1]));
            if (out[0])
                *reinterpret_cast<float2 *>(out[0] + 8 * (j + i)) = make_float2(q.x, q.y);
            if (out[1])
                *reinterpret_cast<float2 *>(out[1] + 8 * (j + i)) = make_float2(q.z, q.w);
        }
    }
}

/* Both segments' states → outputs. The last one's is in shared memory: the context's, or, where there is
 * none, the anchor's. other_o: the anchor before a context, or nullptr. */
template <int D>
static __device__ __forceinline__ void
write_outputs(const Params &p, const uint32_t *item, uint32_t kv_head, uint32_t group, uint32_t warp,
              uint32_t lane, const Mine<D> &mine, bool is_context, const float4 *other_o)
{
    uint32_t mode = item_word(item, MODE), gamma_row = item_word(item, GAMMA_ROW), c = lane % 4;
    float4 other = other_o ? other_o[D / 8 * 128] : no_heads(), anchor = is_context ? other : mine.chunk(),
           context = is_context ? mine.chunk() : no_heads();
    float ma[2] = {anchor.x, anchor.y}, la[2] = {anchor.z, anchor.w}, mc[2] = {context.x, context.y},
          lc[2] = {context.z, context.w};
    Mix mix[2];
    float *out[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        Row row = find_row(p, item, kv_head, group * 64 + warp * 16 + lane / 4 + 8 * r);
        uint32_t gamma = p.gamma && row.on ? p.gamma[(size_t)gamma_row * p.heads_q + row.head] : 0;
        mix[r] = mix_shares(ma[r], la[r], mc[r], lc[r], mode, gamma);
        out[r] = row.on ? p.out + row.at * D + 2 * c : nullptr;
        if (p.alpha && row.on && c == 0)
            p.alpha[row.at] = mix[r].alpha;
    }
    if (!other_o) {
        const float l[2] = {is_context ? lc[0] : la[0], is_context ? lc[1] : la[1]};
        write_quotients<D>(mine, l, out);
        return;
    }
#pragma unroll 4
    for (int j = 0; j < D / 8; j++) {
        float4 a = other_o[j * 128], x = mine.o(j);
        if (out[0])
            *reinterpret_cast<float2 *>(out[0] + 8 * j) = make_float2(
                mix_channel(mix[0], a.x, la[0], x.x, lc[0]), mix_channel(mix[0], a.y, la[0], x.y, lc[0]));
        if (out[1])
            *reinterpret_cast<float2 *>(out[1] + 8 * j) = make_float2(
                mix_channel(mix[1], a.z, la[1], x.z, lc[1]), mix_channel(mix[1], a.w, la[1], x.w, lc[1]));
    }
}

template <int D, int GROUPS> struct Consumer {
    const Params &p;
    const Header &h;
    const Shared &sh;
    Place at;
    uint32_t group, warp, lane;
    uint32_t q; /* shared address */
    Mine<D> mine;
    float4 *context_o; /* device memory: states of the context, and behind them of the anchor */
    static constexpr bool AHEAD = GROUPS < 3;

    /* Tokens of a segment that the thread's rows see in causal pages. */
    __device__ __forceinline__ int limit_of(const uint32_t *item, int limit_word, uint32_t r) const
    {
        uint32_t row = item_word(item, FIRST_ROW) + group * 64 + warp * 16 + lane / 4 + 8 * r;
        return (int)(item_word(item, limit_word) + row / p.group);
    }
    __device__ __forceinline__ const Scales *scales(uint32_t slot) const
    {
        return at_shared<const Scales>(sh.stage(slot, Stage<D>::BYTES) + Stage<D>::SCALES);
    }
    /* Waits for the page at a place; returns its fill. */
    __device__ __forceinline__ uint32_t await(const Place &place) const
    {
        barrier_wait(sh.full(place.slot), place.parity);
        return scales(place.slot)->fill;
    }
    /* O of a page: two parts of 32 channels are under way at a time. */
    __device__ __forceinline__ void values(const Weights &w, uint32_t stage, Span<D> &span) const
    {
        uint32_t v = wgmma_operand(stage + Stage<D>::V, 16 * D);
        float keep[2], scale[2];
        Values part[2];
        multiply_values<D>(w, v, 0, part[0]);
        multiply_values<D>(w, v, 32, part[1]);
        merge_page(w, mine.span(), keep, scale);
#pragma unroll
        for (int i = 0; i < D / 32; i++) {
            if (i + 1 < D / 32)
                wgmma_wait<1>();
            else
                wgmma_wait<0>();
            merge_values<D>(part[i % 2], keep, scale, p.high, 32 * i, span);
            if (i + 2 < D / 32)
                multiply_values<D>(w, v, 32 * (i + 2), part[i % 2]);
        }
    }
    __device__ __forceinline__ void release() const
    {
        __syncwarp();
        if (lane == 0)
            barrier_arrive(sh.empty(at.slot));
    }
    /* While the weights of a page are worked out, the next page is multiplied with Q, if there are registers
     * for it: three groups hide each other's products. */
    __device__ __forceinline__ void segment(const uint32_t *item, const Tile &t, uint32_t pages,
                                            int limit_word, float4 *total_o, bool complete)
    {
        uint32_t c = lane % 4 * 4, fill = await(at),
                 seen = t.most < 0 ? 0 : min(pages, ((uint32_t)t.most + PAGE - 1) / PAGE);
        asm volatile("" : "+r"(c)); /* is not to be worked out again and again */
        Span<D> span;
        span.clear();
        mine.span() = no_heads();
        int hi[32], lo[32];
        if (AHEAD && seen)
            multiply_keys<D>(t, sh.stage(at.slot, Stage<D>::BYTES), hi, lo);
#pragma unroll 1
        for (uint32_t number = 0; number < seen; number++) {
            uint32_t before = number * PAGE, stage = sh.stage(at.slot, Stage<D>::BYTES);
            bool whole = fill ? fill == PAGE : t.least >= (int)(before + PAGE), last = number + 1 == pages;
            const Scales *s = scales(at.slot);
            Place next = at;
            next.next(sh.stages);
            Scores scores;
            Weights w;
            if (!AHEAD)
                multiply_keys<D>(t, stage, hi, lo);
            wgmma_wait<0>();
            wgmma_results(hi);
            wgmma_results(lo);
            find_scores(mine.scale(), s, c, hi, lo, scores);
            if (!last)
                fill = await(next);
            if (AHEAD) /* after the last page it is multiplied again, for nothing */
                multiply_keys<D>(t, sh.stage(last ? at.slot : next.slot, Stage<D>::BYTES), hi, lo);
            if (whole) {
                const int none[2] = {0, 0};
                make_weights<false>(s, before, none, c, scores, w);
            } else {
                const int limits[2] = {limit_of(item, limit_word, 0), limit_of(item, limit_word, 1)};
                make_weights<true>(s, before, limits, c, scores, w);
            }
            values(w, stage, span);
            release();
            at = next;
            if (number % SPAN_PAGES == SPAN_PAGES - 1 || number + 1 == seen)
                merge_span<D>(span, mine, total_o, number,
                              number % CHUNK_PAGES == CHUNK_PAGES - 1 || number + 1 == seen,
                              complete && number + 1 == seen);
        }
        wgmma_wait<0>();
        for (uint32_t number = seen; number < pages; number++) {
            await(at);
            release();
            at.next(sh.stages);
        }
    }
    __device__ __forceinline__ void unit(const uint32_t *item, uint32_t kv_head)
    {
        Tile t;
        t.q = q;
        load_tile<D>(p, item, kv_head, group, warp, lane, mine.scale(), t);
        uint32_t anchor_pages = item_word(item, ANCHOR_PAGES), pages = item_word(item, PAGES);
        float4 *anchor_o = context_o + (D / 8 + 1) * 128;
#pragma unroll 1
        for (int run = anchor_pages ? 0 : 1; run < (pages ? 2 : 1); run++) {
            set_limits(p, item, run ? LIMIT : ANCHOR_LIMIT, group, t);
            segment(item, t, run ? pages : anchor_pages, run ? LIMIT : ANCHOR_LIMIT,
                    run ? context_o : anchor_o, run || pages == 0);
        }
        if (t.most >= 0) /* some of its rows are there */
            write_outputs<D>(p, item, kv_head, group, warp, lane, mine, pages != 0,
                             anchor_pages && pages ? anchor_o : nullptr);
    }
    __device__ __forceinline__ void all()
    {
        uint32_t units = h.prefill_items * p.kv_heads;
        for (uint32_t k = 0; k * gridDim.x < units; k++) {
            uint32_t u = unit_at(k);
            if (u < units)
                unit(p.plan + h.prefill_at + u / p.kv_heads * ITEM_WORDS, u % p.kv_heads);
        }
    }
};

template <int D, int GROUPS>
__global__ void __launch_bounds__(prefill_threads(GROUPS), 1) attend_prefill(const __grid_constant__ Params p)
{
#if FP_CUDA_WGMMA
    extern __shared__ __align__(128) uint8_t shared[];
    uint32_t lane = threadIdx.x % 32, warp = __shfl_sync(~0u, threadIdx.x / 32, 0); /* known to be uniform */
    const Header h = *reinterpret_cast<const Header *>(p.plan);
    Shared sh;
    sh.barriers = shared_address(shared);
    asm volatile("" : "+r"(sh.barriers)); /* is not to be worked out again and again */
    sh.stages = p.prefill_stages;
    sh.ring = sh.barriers + PREFILL_BARRIER_BYTES + GROUPS * prefill_group_bytes(D);
    if (threadIdx.x < sh.stages) {
        barrier_init(sh.full(threadIdx.x), 1);
        barrier_init(sh.empty(threadIdx.x), 4 * GROUPS);
    }
    barrier_init_fence();
    __syncthreads();
    if (warp >= 4 * GROUPS) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(Registers<GROUPS>::PRODUCER));
        if (warp == 4 * GROUPS) {
            Producer<D> producer = {p, h, sh, {0, 0}, {0, 0}, 0, 0, 0};
            producer.all(lane);
        }
    } else {
        if (GROUPS > 1)
            asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(Registers<GROUPS>::CONSUMER));
        uint32_t group = warp / 4, q = sh.barriers + PREFILL_BARRIER_BYTES + group * prefill_group_bytes(D),
                 mine = q + 128 * D + threadIdx.x % 128 * 16, rows = q + 384 * D + threadIdx.x % 128 / 4 * 16;
        asm volatile("" : "+r"(mine), "+r"(rows), "+r"(lane));
        float4 *context_o =
            p.prefill_scratch + (blockIdx.x * GROUPS + group) * (2 * (D / 8 + 1) * 128) + threadIdx.x % 128;
        Consumer<D, GROUPS> consumer = {p, h, sh, {0, 0}, group, warp % 4, lane, q, {mine, rows}, context_o};
        consumer.all();
    }
#endif
}

template <int D> static Kernel prefill_kernel(uint32_t groups)
{
    return groups == 1   ? (Kernel)attend_prefill<D, 1>
           : groups == 2 ? (Kernel)attend_prefill<D, 2>
                         : (Kernel)attend_prefill<D, 3>;
}

} // namespace prefill
} // namespace attn
} // namespace fp
#endif
