/* Attention of one sequence of up to 8 rows a KV head: one kernel. What a short context costs is a long chain
 * of waits, not its bytes; so:
 *
 *  - Two layers fit a multiprocessor side by side: while the CTA of one computes and merges, that of the next
 * fills its rings with pages that were complete before the step. A warp of its own (the producer) issues the
 * copies, a few at a time, so that what others wait for does not queue behind them.
 *  - A quad of 4 warps works on a unit: a chunk (each warp a span) or a span (each warp a page) of one KV
 * head, as in attention_decode.cuh. Its parts are chained in canonical order to a piece, the state of the
 * chunk or span.
 *  - Each quad makes a share of the outputs too. A piece is written to the inboxes (in L2) of all quads that
 * make outputs of its KV head: m and l of all rows, and the channels that the reader makes. A word of an
 * inbox is EMPTY, a NaN that no arithmetic gives, until it is written: readers look at it until it is not,
 * and make it EMPTY again for the run after. No fence, no counter, no second kernel: one way to L2 and one
 * back.
 *  - The reader merges its pieces in canonical order: factors of all pieces side by side by prefix maxima
 * (the largest m so far is the running M of the canonical chain), the chunks of a batch side by side, and
 * only the chunks in order.
 *
 * Quads wait for each other, so all CTAs must be on the GPU at once: there are as many as multiprocessors,
 * and of all plans of a process one at a time has this form (attention_plan.cu).
 *
 * The page here is transposed against attention_page.cuh: K and V are the A operands, queries and weights B.
 * The 8 columns of an MMA are the hi and lo planes of 4 rows (column 2r + plane), so that 4 rows, not 8, cost
 * an MMA. How numbers lie in a warp, lane = 4·g + c, t = 0..3, h = 0, 1:
 *
 *  - row g + 8h of tile t is token 16·(g/2) + 8h + 2t + g%2: thread (g, c) ends up with these 8 tokens of row
 * c, both planes, and weighs them.
 *  - The 16-bit weights, token pairs (h = 0, 1) packed, cross the warp as four 8 × 8 matrices (movmatrix);
 * then thread (2r + h, c) has tokens 16c + 8h .. + 7 of row r, and exchanges a plane with its partner: the B
 * operand of V [d][64], of which a lane reads tokens 16c..16c+15 of channels 16j + g and 16j + g + 8 at once.
 *  - Thread (g, c) gets channels 16j + g and + 8 of row c. */
#ifndef FP_KERNEL_CUDA_ATTENTION_SOLO_CUH
#define FP_KERNEL_CUDA_ATTENTION_SOLO_CUH
#include "kernel/cuda/attention_mix.cuh"
#include "kernel/cuda/attention_rows.cuh"

namespace fp
{
namespace attn
{
namespace solo
{

static __device__ __forceinline__ void mma_s8s8(int (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                                uint32_t a3, uint32_t b0, uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
static __device__ __forceinline__ void mma_s8u8(int (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2,
                                                uint32_t a3, uint32_t b0, uint32_t b1)
{
    asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.u8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}
static __device__ __forceinline__ uint32_t transpose_b16(uint32_t x)
{
    uint32_t y;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
    return y;
}

/* What is worked out before the wait for the kernel before is not to be put off. */
template <typename T> static __device__ __forceinline__ void pin(T *&x)
{
    asm volatile("" : "+l"(x));
}
static __device__ __forceinline__ void pin(uint32_t &x)
{
    asm volatile("" : "+r"(x));
}

/* Where the queries of a lane's column and of its row 4·nt + c are, for one KV head. */
template <int D, int NT> struct QueryPlaces {
    uint32_t kv_head;
    const uint8_t *q[NT];
    const float *scale[NT];
    uint32_t token[NT]; /* query token of the row, from the first */
    bool column[NT], row[NT];

    __device__ __forceinline__ void find(const Params &p, uint32_t first_token, uint32_t rows, uint32_t lane)
    {
        uint32_t g = lane / 4, c = lane % 4;
#pragma unroll
        for (int n = 0; n < NT; n++) {
            uint32_t r = 4 * n + g / 2, own = 4 * n + c;
            column[n] = r < rows, row[n] = own < rows;
            q[n] =
                reinterpret_cast<const uint8_t *>(p.q_planes) + g % 2 * D +
                ((size_t)(first_token + r / p.group) * p.heads_q + kv_head * p.group + r % p.group) * (2 * D);
            token[n] = own / p.group;
            scale[n] =
                p.q_scales + (size_t)(first_token + token[n]) * p.heads_q + kv_head * p.group + own % p.group;
            pin(q[n]), pin(scale[n]), pin(token[n]);
        }
    }
};

/* Up to 4·NT query rows as B operand, and of the thread's rows 4·nt + c the scale and what they see. */
template <int D, int NT> struct Columns {
    uint32_t q[NT][D / 16];
    float scale[NT];
    uint32_t token[NT];
};

/* States of rows 4·nt + c; o: channels 16j + g + 8h at [2j + h]. */
template <int D, int NT> struct Piece {
    float m[NT], l[NT], o[NT][D / 8];
};
template <int NT> struct PageWeights {
    uint32_t p[NT][4];
    float keep[NT], scale[NT], unit[NT];
};

template <int D, int NT>
static __device__ __forceinline__ void load_columns(const Params &p, const QueryPlaces<D, NT> &at,
                                                    uint32_t kv_head, uint32_t lane, Columns<D, NT> &x)
{
    uint32_t c = lane % 4;
    int further = (int)((kv_head - at.kv_head) * p.group);
#pragma unroll
    for (int n = 0; n < NT; n++) {
        const uint8_t *q = at.q[n] + further * (2 * D);
#pragma unroll
        for (int i = 0; i < D / 64; i++) {
            uint4 v = at.column[n] ? __ldcg(reinterpret_cast<const uint4 *>(q + 64 * i + 16 * c))
                                   : make_uint4(0, 0, 0, 0);
            x.q[n][4 * i] = v.x, x.q[n][4 * i + 1] = v.y, x.q[n][4 * i + 2] = v.z, x.q[n][4 * i + 3] = v.w;
        }
        if (D % 64) {
            uint2 v = at.column[n] ? __ldcg(reinterpret_cast<const uint2 *>(q + D / 64 * 64 + 8 * c))
                                   : make_uint2(0, 0);
            x.q[n][D / 16 - 2] = v.x, x.q[n][D / 16 - 1] = v.y;
        }
        x.token[n] = at.token[n];
        x.scale[n] = at.row[n] ? __ldcg(at.scale[n] + further) : 0.0f;
    }
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

/* Where a page lies in its segment. */
struct PageSight {
    uint32_t first, fill,
        limit; /* tokens before it; visible ones if not 0; tokens that the first query token sees */
    bool full; /* all see all of it */
};

/* Factors of a merge of maximum x into one of maximum m: one of the two is exp2c(0) = 1. */
static __device__ __forceinline__ void merge_factors(float m, float x, float &a, float &b)
{
    float e = exp2c(__fsub_rn(fminf(m, x), fmaxf(m, x)));
    a = m < x ? e : 1.0f;
    b = x < m ? e : 1.0f;
    if (x == FP_NEG_INF) /* nothing to merge: (+0)·(-0) adds nothing, -0 included */
        a = 1.0f, b = -0.0f;
}

/* Products of queries and keys, and the scales of the lane's tokens token + 2t + 8h, at [t + 4h]. */
template <int D, int NT>
static __device__ __forceinline__ void multiply(const Columns<D, NT> &x, uint32_t stage, uint32_t lane,
                                                int (&acc)[NT][4][4], float (&s_k)[8], float (&s_v)[8])
{
    uint32_t g = lane / 4, c = lane % 4, at = stage + 64 * D + 32 * (g / 2), take = g % 2 ? 0x3244 : 0x1044;
#pragma unroll
    for (int t = 0; t < 4; t++) {
        uint32_t row = stage + (16 * (g / 2) + g % 2 + 2 * t) * D;
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

/* K half of a page → weights; m and l of the state merged, as page_scores does, transposed. A page of its own
 * (paged) is not merged: o is left as it is, with 2^E beside it. `empty`: arrived at as soon as the half is
 * read. */
template <int D, int NT>
static __device__ __forceinline__ void scores(const Columns<D, NT> &x, uint32_t stage, uint32_t empty,
                                              const PageSight &sight, bool paged, uint32_t lane,
                                              Piece<D, NT> &s, PageWeights<NT> &out)
{
    uint32_t token = 16 * (lane / 8) + lane / 4 % 2;
    int acc[NT][4][4];
    float s_k[8], s_v[8];
    multiply<D, NT>(x, stage, lane, acc, s_k, s_v);
    __syncwarp();
    if (lane == 0)
        barrier_arrive(empty);
#pragma unroll
    for (int n = 0; n < NT; n++) {
        float score[8];
        uint32_t largest = 0;
        int visible = PAGE;
#pragma unroll
        for (int u = 0; u < 8; u++)
            score[u] = __fmul_rn(join(acc[n][u % 4][u / 4 * 2], acc[n][u % 4][u / 4 * 2 + 1]),
                                 __fmul_rn(x.scale[n], s_k[u]));
        if (!sight.full) {
            int seen = (int)(sight.limit + x.token[n] - sight.first);
            visible = sight.fill ? (int)sight.fill : seen < 0 ? 0 : seen > PAGE ? PAGE : seen;
#pragma unroll
            for (int u = 0; u < 8; u++) {
                bool sees = (int)(token + 2 * (u % 4) + 8 * (u / 4)) < visible;
                score[u] = sees ? score[u] : FP_NEG_INF;
                largest = max(largest, sees ? __float_as_uint(s_v[u]) : 0u);
            }
        } else {
#pragma unroll
            for (int u = 0; u < 8; u++)
                largest = max(largest, __float_as_uint(s_v[u]));
        }
        float m = score[0];
#pragma unroll
        for (int u = 1; u < 8; u++)
            m = fmaxf(m, score[u]);
#pragma unroll
        for (int k = 4; k < 32; k *= 2) {
            m = fmaxf(m, __shfl_xor_sync(~0u, m, k));
            largest = max(largest, __shfl_xor_sync(~0u, largest, k));
        }
        m = __fadd_rn(m, 0.0f);
        int e;
        float unit = __fmul_rn(65535.0f, exponent_scale(largest >> 16, e));
        bool dead = visible == 0;
        float base = dead ? 0.0f : m;
        uint32_t w[4][2], sum = 0;
#pragma unroll
        for (int u = 0; u < 8; u++) {
            float p = weight_exp2(__fsub_rn(score[u], base));
            sum += __float_as_uint(__fadd_rn(__fmul_rn(p, 65535.0f), 12582912.0f));
            w[u % 4][u / 4] = __float_as_uint(__fadd_rn(__fmul_rn(__fmul_rn(p, s_v[u]), unit), 12582912.0f));
        }
        spread_weights(w, lane, out.p[n]);
        int l = (int)(sum - 8u * MAGIC);
#pragma unroll
        for (int k = 4; k < 32; k *= 2)
            l += __shfl_xor_sync(~0u, l, k);
        out.unit[n] = pow2(e);
        if (paged) {
            out.keep[n] = 0.0f, out.scale[n] = 1.0f;
            s.m[n] = m, s.l[n] = __int2float_rn(l);
            continue;
        }
        float b;
        merge_factors(s.m[n], m, out.keep[n], b);
        out.scale[n] = __fmul_rn(b, out.unit[n]); /* dead: 1 and -0 */
        s.l[n] = __fmaf_rn(s.l[n], out.keep[n], __fmul_rn(__int2float_rn(l), b));
        s.m[n] = fmaxf(s.m[n], m);
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

/* ---- a quad ----------------------------------------------------------------------------------------------
 */

/* What one warp's part of a unit was, for one row; o lies at an offset in shared memory. */
struct Part {
    float m, l, unit;
    uint32_t at;
};
static_assert(SOLO_BARRIER_BYTES >= 4 * 8 * MAX_STAGES + 4 * SOLO_QUADS, "the barriers have their place");
static_assert(SOLO_PART_BYTES == sizeof(Part) * SOLO_WARPS * 8, "and so have the parts");

/* A place in a quad's ring. */
struct Place {
    uint32_t slot, parity, fill; /* fill: number of the fill there */
    __device__ __forceinline__ void advance(uint32_t n, uint32_t stages)
    {
        slot += n, fill += n;
        while (slot >= stages)
            slot -= stages, parity ^= 1;
    }
};

/* Units (item, KV head) are dealt to quads round by round; odd rounds go backwards, so that who had little
 * has more. */
struct Deal {
    uint32_t worker, workers, units, kv_heads;

    __device__ __forceinline__ uint32_t unit(uint32_t round) const
    {
        return round * workers + (round % 2 ? workers - 1 - worker : worker);
    }
    __device__ __forceinline__ uint32_t load_words(const Params &p, uint32_t round, uint32_t lane) const
    {
        uint32_t u = unit(round);
        return u < units ? __ldg(p.plan + DECODE_AT + u / kv_heads * ITEM_WORDS + lane) : 0;
    }
};

template <int D, int NT> struct Quad {
    static constexpr uint32_t UNITS = NT * D; /* float4 of a piece */
    const Params &p;
    uint8_t *shared;
    uint32_t base, quad, part, lane, pieces;
    Deal deal;

    __device__ __forceinline__ explicit Quad(const Params &params) : p(params)
    {
    }
    __device__ __forceinline__ uint32_t full(uint32_t slot) const
    {
        return base + (quad * MAX_STAGES + slot) * 8;
    }
    __device__ __forceinline__ uint32_t empty(uint32_t slot) const
    {
        return full(SOLO_QUADS * MAX_STAGES + slot);
    }
    /* Fills of the ring that have begun. A warp looks at this before it waits for its fill by parity: the
     * fill before it in that slot is another warp's and need not be over. */
    __device__ __forceinline__ uint32_t begun() const
    {
        return base + 4 * 8 * MAX_STAGES + 4 * quad;
    }
    __device__ __forceinline__ void wait_fill(const Place &at) const
    {
        uint32_t n;
        do
            asm volatile("ld.acquire.cta.shared.u32 %0, [%1];" : "=r"(n) : "r"(begun()) : "memory");
        while (n <= at.fill);
        barrier_wait(full(at.slot), at.parity);
    }
    __device__ __forceinline__ uint32_t stage_offset(uint32_t slot) const
    {
        return SOLO_RING + (quad * p.solo.stages + slot) * stage_bytes(D);
    }
    __device__ __forceinline__ uint32_t stage(uint32_t slot) const
    {
        return base + stage_offset(slot);
    }
    /* 16-byte words of a piece in an inbox: m and l of each row, then o. */
    __device__ __forceinline__ uint32_t piece_words() const
    {
        return 2 * NT + p.solo.share;
    }
    __device__ __forceinline__ uint4 *inbox(uint32_t kv_head, uint32_t reader, uint32_t piece) const
    {
        return p.solo.inbox + ((size_t)(kv_head * p.solo.readers + reader) * pieces + piece) * piece_words();
    }
    /* What a thread posts of a piece of KV head 0: float4 `part` of its lane for row tile n, and m and l of
     * row 4n + c to reader 8·part + g; in 16-byte words. */
    __device__ __forceinline__ uint32_t post_o(int n) const
    {
        uint32_t unit = (n * (D / 32) + part) * 32 + lane;
        return unit / p.solo.share * pieces * piece_words() + 2 * NT + unit % p.solo.share;
    }
    __device__ __forceinline__ uint32_t post_head() const
    {
        return (8 * part + lane / 4) * pieces * piece_words();
    }
    __device__ __forceinline__ void meet() const
    {
        __syncwarp();
        asm volatile("bar.sync %0, %1;" ::"r"(quad + 1), "n"(QUAD * 32) : "memory");
    }
};

/* The copies of a quad: half slabs, K of its 4 warps, then V, for each page that they work on. Halves of
 * warps without a page are empty. */
template <int D, int NT> struct Producer {
    Quad<D, NT> q;
    uint32_t words, round, time;
    Place to, paced;

    __device__ __forceinline__ bool done() const
    {
        return q.deal.unit(round) >= q.deal.units;
    }
    __device__ __forceinline__ void fill(uint32_t half, bool &waited)
    {
        const Params &p = q.p;
        uint32_t part = half % QUAD, bar = q.full(to.slot);
        uint32_t page = word(words, FLAGS) & PAGED ? part : SPAN_PAGES * part + time;
        uint32_t pages = word(words, PAGES), early = word(words, EARLY),
                 number = word(words, INLINE + (int)(page & 15));
        if (to.fill >= p.solo.stages)
            barrier_wait(q.empty(to.slot), to.parity ^ 1);
        if (to.fill >= p.solo.window) {
            barrier_wait(q.full(paced.slot), paced.parity);
            paced.advance(1, p.solo.stages);
        }
        if (page < pages && page >= early && !waited) {
            wait_previous();
            waited = true;
        }
        const uint8_t *slab = p.kv + number * p.group_bytes + p.layer_offset +
                              (size_t)(q.deal.unit(round) % q.deal.kv_heads) * (128 * D + 256);
        bool v = half >= QUAD;
        __syncwarp();
        if (page < pages)
            fill_stage(bar, q.stage(to.slot), v ? slab + 64 * D : slab, 64 * D, slab + 128 * D, v ? 0 : 256,
                       q.lane);
        else if (q.lane == 0)
            barrier_arrive(bar);
        to.advance(1, p.solo.stages);
        if (q.lane == 0)
            asm volatile("st.release.cta.shared.u32 [%0], %1;" ::"r"(q.begun()), "r"(to.fill) : "memory");
    }
    /* All warps of the quad have a page more. */
    __device__ __forceinline__ void advance()
    {
        if (++time < (word(words, FLAGS) & PAGED ? 1u : (uint32_t)SPAN_PAGES))
            return;
        time = 0;
        words = q.deal.load_words(q.p, ++round, q.lane);
    }
};

template <int D, int NT>
static __device__ __forceinline__ void produce(Producer<D, NT> &a, Producer<D, NT> &b)
{
    bool waited = false;
    while (!a.done() || !b.done()) {
#pragma unroll 1
        for (uint32_t half = 0; half < 2 * QUAD; half++) {
            if (!a.done())
                a.fill(half, waited);
            if (!b.done())
                b.fill(half, waited);
        }
        if (!a.done())
            a.advance();
        if (!b.done())
            b.advance();
    }
}

static __device__ __forceinline__ void post(void *at, float4 v)
{
    asm volatile("st.relaxed.gpu.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(at)),
                 "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w)
                 : "memory");
}
static __device__ __forceinline__ void post(void *at, float2 v)
{
    asm volatile("st.relaxed.gpu.global.v2.f32 [%0], {%1, %2};" ::"l"(__cvta_generic_to_global(at)), "f"(v.x),
                 "f"(v.y)
                 : "memory");
}
static __device__ __forceinline__ uint4 look(const void *at)
{
    uint4 v;
    asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(__cvta_generic_to_global(at))
                 : "memory");
    return v;
}

/* The parts of a quad in order → one piece, to its readers. Warp w of the quad takes float4 w of each lane.
 */
template <int D, int NT>
static __device__ __forceinline__ void chain_parts(const Quad<D, NT> &q, const Part *parts, uint32_t words,
                                                   uint32_t kv_head, const uint32_t (&post_o)[NT],
                                                   uint32_t post_head)
{
    uint32_t c = q.lane % 4;
    uint4 *inbox = q.inbox(kv_head, 0, word(words, STATE));
    bool chunk_begins = word(words, FIRST_PAGE) % CHUNK_PAGES == 0;
    /* a span that begins a chunk is merged into an empty one: -0 becomes +0 */
    float zero = chunk_begins && (word(words, FLAGS) & PAGED) ? 0.0f : -0.0f;
#pragma unroll
    for (int n = 0; n < NT; n++) {
        float m = FP_NEG_INF, l = 0.0f, a[QUAD], b[QUAD];
        const float4 *from[QUAD];
#pragma unroll
        for (uint32_t k = 0; k < QUAD; k++) {
            Part x = parts[k * 8 + 4 * n + c];
            from[k] = reinterpret_cast<const float4 *>(q.shared + x.at) + n * (D / 32) * 32 + q.lane;
            merge_factors(m, x.m, a[k], b[k]);
            l = __fmaf_rn(l, a[k], __fmul_rn(x.l, b[k]));
            b[k] = __fmul_rn(b[k], x.unit);
            m = fmaxf(m, x.m);
        }
        if (q.part < D / 32) {
            float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
            for (int k = 0; k < QUAD; k++) {
                float4 x = from[k][q.part * 32];
                v.x = __fmaf_rn(v.x, a[k], __fmul_rn(x.x, b[k]));
                v.y = __fmaf_rn(v.y, a[k], __fmul_rn(x.y, b[k]));
                v.z = __fmaf_rn(v.z, a[k], __fmul_rn(x.z, b[k]));
                v.w = __fmaf_rn(v.w, a[k], __fmul_rn(x.w, b[k]));
            }
            post(inbox + post_o[n], make_float4(__fadd_rn(v.x, zero), __fadd_rn(v.y, zero),
                                                __fadd_rn(v.z, zero), __fadd_rn(v.w, zero)));
        }
        /* lane: row c, to readers 8·part + g and further ones */
        uint4 *at = inbox + post_head;
        for (uint32_t to = 8 * q.part + q.lane / 4; to < q.p.solo.readers; to += 8 * QUAD) {
            post(reinterpret_cast<float2 *>(at) + 4 * n + c, make_float2(m, l));
            at += 8 * QUAD * q.pieces * q.piece_words();
        }
    }
}

/* A page of this warp; `last`: the V half is kept. */
template <int D, int NT>
static __device__ __forceinline__ void attend_page(const Quad<D, NT> &q, const Columns<D, NT> &x,
                                                   uint32_t words, uint32_t page, bool paged, Place &at,
                                                   Piece<D, NT> &s, PageWeights<NT> &w)
{
    bool there = page < word(words, PAGES);
    PageSight sight;
    sight.first = (word(words, FIRST_PAGE) + page) * PAGE;
    sight.fill = word(words, FILLS + (int)(page / 4 % 4)) >> (8 * (page % 4)) & 255;
    sight.limit = word(words, LIMIT);
    sight.full = sight.fill ? sight.fill == PAGE : sight.limit >= sight.first + PAGE;
    q.wait_fill(at);
    if (there) {
        scores<D, NT>(x, q.stage(at.slot), q.empty(at.slot), sight, paged, q.lane, s, w);
    } else {
        __syncwarp();
        if (q.lane == 0)
            barrier_arrive(q.empty(at.slot));
    }
    at.advance(QUAD, q.p.solo.stages);
    q.wait_fill(at);
    if (there)
        values<D, NT>(w, q.stage(at.slot), q.lane, s);
}

/* All units of a quad → pieces. */
template <int D, int NT>
static __device__ __forceinline__ void consume(const Quad<D, NT> &q, const QueryPlaces<D, NT> &places,
                                               const uint32_t (&post_o)[NT], uint32_t post_head,
                                               uint32_t words)
{
    uint32_t stages = q.p.solo.stages, kv_head = NONE;
    Part *parts = reinterpret_cast<Part *>(q.shared + SOLO_BARRIER_BYTES) + q.quad * QUAD * 8;
    Columns<D, NT> x;
    Place at = {};
    at.advance(q.part, stages);
#pragma unroll 1
    for (uint32_t round = 0; q.deal.unit(round) < q.deal.units; round++) {
        uint32_t head = q.deal.unit(round) % q.deal.kv_heads;
        if (head != kv_head)
            load_columns<D, NT>(q.p, places, kv_head = head, q.lane, x);
        uint32_t after = q.deal.load_words(q.p, round + 1, q.lane);
        bool paged = word(words, FLAGS) & PAGED;
        uint32_t times = paged ? 1 : SPAN_PAGES, first = paged ? q.part : SPAN_PAGES * q.part;
        Piece<D, NT> s;
        PageWeights<NT> w;
#pragma unroll
        for (int n = 0; n < NT; n++) {
            s.m[n] = FP_NEG_INF, s.l[n] = 0.0f, w.unit[n] = 1.0f;
#pragma unroll
            for (int i = 0; i < D / 8; i++)
                s.o[n][i] = 0.0f;
        }
#pragma unroll 1
        for (uint32_t t = 0; t < times; t++) {
            if (t) {
                __syncwarp();
                if (q.lane == 0)
                    barrier_arrive(q.empty(at.slot));
                at.advance(QUAD, stages);
            }
            attend_page(q, x, words, first + t, paged, at, s, w);
        }
        /* the part lies where its last half slab was */
        __syncwarp();
        uint32_t to = q.stage_offset(at.slot);
        float4 *o = reinterpret_cast<float4 *>(q.shared + to) + q.lane;
#pragma unroll
        for (int n = 0; n < NT; n++) {
            if (q.lane < 4)
                parts[q.part * 8 + 4 * n + q.lane] = {s.m[n], s.l[n], paged ? w.unit[n] : 1.0f, to};
#pragma unroll
            for (int i = 0; i < D / 32; i++)
                o[(n * (D / 32) + i) * 32] =
                    make_float4(s.o[n][4 * i], s.o[n][4 * i + 1], s.o[n][4 * i + 2], s.o[n][4 * i + 3]);
        }
        q.meet();
        chain_parts(q, parts, words, kv_head, post_o, post_head);
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); /* a copy fills the stage next */
        q.meet();
        if (q.lane == 0)
            barrier_arrive(q.empty(at.slot));
        at.advance(QUAD, stages);
        words = after;
    }
}

/* ---- outputs ---------------------------------------------------------------------------------------------
 */

constexpr uint32_t BATCH = 32;
/* Of a batch of pieces, where the ring of the quad was. */
template <int NT> struct Batch {
    float2 factor[4 * NT][BATCH]; /* chunk' = fma(chunk, x, o·y) */
    float4 chunk[4 * NT][BATCH];  /* total' = fma(total, x, chunk·y); l of the chunk; of chunks, in order */
    uint32_t first[BATCH + 1];    /* pieces of chunk k: first[k] .. first[k + 1] - 1 */
    float top[2][4 * NT];         /* largest m of a segment */
    uint4 words[BATCH * (2 * NT + SOLO_SHARE)];
    float sums[BATCH][4 * SOLO_SHARE];
};

/* Factors of a batch for one row, by one warp, a piece a lane; flags: START, END and how many pieces of its
 * chunk come before. top: largest m of the segment before them, then with them. */
template <int NT>
static __device__ __forceinline__ void make_factors(Batch<NT> &batch, uint32_t n, uint32_t flags,
                                                    uint32_t row, uint32_t stride, uint32_t lane, float &top)
{
    float m = FP_NEG_INF, l = 0.0f;
    if (lane < n) {
        float2 head = reinterpret_cast<const float2 *>(batch.words + lane * stride)[row];
        m = head.x, l = head.y;
    }
    uint32_t back = flags >> PIECE_BACK;
    float before = FP_NEG_INF, most = m;
#pragma unroll
    for (uint32_t k = 1; k < SPAN_PAGES; k++) { /* a chunk has at most 4 pieces */
        float x = __shfl_up_sync(~0u, m, k);
        before = back >= k ? fmaxf(before, x) : before;
    }
#pragma unroll
    for (int k = 1; k < 32; k *= 2) {
        float x = __shfl_up_sync(~0u, most, k);
        most = (int)lane >= k ? fmaxf(most, x) : most;
    }
    most = fmaxf(most, top);
    float older = __shfl_sync(~0u, most, (int)(lane - back - 1) & 31), high = fmaxf(before, m), up, down;
    older = lane == back ? top : older;
    float2 f;
    merge_factors(before, m, f.x, f.y);
    merge_factors(older, high, up, down);
#pragma unroll
    for (uint32_t k = 1; k < SPAN_PAGES; k++) {
        float x = __shfl_up_sync(~0u, l, 1);
        l = back == k ? __fmaf_rn(x, f.x, __fmul_rn(l, f.y)) : l;
    }
    uint32_t ends = __ballot_sync(~0u, lane < n && (flags & PIECE_ENDS));
    batch.factor[row][lane] = f;
    if (lane < n && (flags & PIECE_ENDS))
        batch.chunk[row][__popc(ends & ((1u << lane) - 1))] = make_float4(up, down, l, 0.0f);
    top = __shfl_sync(~0u, most, 31);
}

/* Chunks of a batch side by side, each thread an output of some: batch.sums. */
template <int NT>
static __device__ __forceinline__ void merge_chunks(Batch<NT> &batch, uint32_t chunks, uint32_t outputs,
                                                    uint32_t row, uint32_t output, uint32_t from,
                                                    uint32_t step, uint32_t stride)
{
    const float *o = reinterpret_cast<const float *>(batch.words + 2 * NT) + output;
    for (uint32_t k = from; k < chunks; k += step) {
        uint32_t i = batch.first[k], end = batch.first[k + 1];
        float sum = o[4 * i * stride];
        for (i++; i < end; i++) {
            float2 f = batch.factor[row][i];
            sum = __fmaf_rn(sum, f.x, __fmul_rn(o[4 * i * stride], f.y));
        }
        batch.sums[k][output] = sum;
    }
}

static __device__ __forceinline__ bool is_empty(const uint4 &v)
{
    return v.x == EMPTY || v.y == EMPTY || v.z == EMPTY || v.w == EMPTY;
}

/* Words of an inbox, as soon as they are there; those from `used` on of each piece never are. */
static __device__ __forceinline__ void receive(uint4 *inbox, uint4 *to, uint32_t n, uint32_t stride,
                                               uint32_t used, uint32_t tid)
{
    constexpr uint32_t SIDE = 3; /* looks that a thread has under way */
#pragma unroll 1
    for (uint32_t from = tid; from < n; from += SIDE * QUAD * 32) {
        uint4 v[SIDE];
        bool want[SIDE];
#pragma unroll
        for (uint32_t k = 0; k < SIDE; k++) {
            uint32_t i = from + k * QUAD * 32;
            want[k] = i < n && (used == stride || i % stride < used);
        }
        bool more;
        do {
#pragma unroll
            for (uint32_t k = 0; k < SIDE; k++)
                if (want[k])
                    v[k] = look(inbox + from + k * QUAD * 32);
            more = false;
#pragma unroll
            for (uint32_t k = 0; k < SIDE; k++) {
                uint32_t i = from + k * QUAD * 32;
                if (!want[k])
                    continue;
                if (is_empty(v[k])) {
                    more = true;
                    continue;
                }
                to[i] = v[k];
                __stcg(inbox + i, make_uint4(EMPTY, EMPTY, EMPTY, EMPTY));
                want[k] = false;
            }
        } while (more);
    }
}

struct Sum {
    float l, o;
};

/* The outputs that a quad makes of one KV head, and the one of this thread. */
template <int D, int NT> struct Reader {
    uint32_t kv_head, number, tid;
    uint32_t own, outputs; /* float4 of a state; outputs */
    uint32_t output, row, channel;

    __device__ __forceinline__ explicit Reader(const Quad<D, NT> &q)
    {
        uint32_t share = q.p.solo.share, unit;
        kv_head = q.deal.worker % q.deal.kv_heads, number = q.deal.worker / q.deal.kv_heads;
        tid = q.part * 32 + q.lane;
        own = number < q.p.solo.readers ? min(share, Quad<D, NT>::UNITS - number * share) : 0;
        outputs = 4 * own;
        output = own ? tid % outputs : 0;
        unit = number * share + output / 4;
        row = unit / D * 4 + unit % 4;
        channel = unit / 32 % (D / 32) * 32 + 8 * (output % 4) + unit % 32 / 4;
    }
};

/* Pieces from, … of a segment that ends before `end`, a batch: merged into `total`. Returns how many; a batch
 * has all pieces of its chunks. flags: of the lane's piece. */
template <int D, int NT>
static __device__ __forceinline__ uint32_t merge_batch(const Quad<D, NT> &q, const Reader<D, NT> &r,
                                                       Batch<NT> &batch, uint32_t from, uint32_t end,
                                                       uint32_t flags, float (&top)[NT], Sum &total)
{
    uint32_t stride = q.piece_words();
    uint32_t ends = __ballot_sync(~0u, from + q.lane < end && (flags & PIECE_ENDS)), chunks = __popc(ends),
             n = 32 - __clz((int)ends);
    if (q.part == 0 && q.lane < n && (flags & PIECE_ENDS))
        batch.first[__popc(ends & ((1u << q.lane) - 1)) + 1] = q.lane + 1;
    if (r.tid == 0)
        batch.first[0] = 0;
    receive(q.inbox(r.kv_head, r.number, from), batch.words, n * stride, stride, 2 * NT + r.own, r.tid);
    q.meet();
#pragma unroll
    for (int k = 0; k < NT; k++)
        make_factors<NT>(batch, n, flags, 4 * k + q.part, stride, q.lane, top[k]);
    q.meet();
    merge_chunks<NT>(batch, chunks, r.outputs, r.row, r.output, r.tid / r.outputs, QUAD * 32 / r.outputs,
                     stride);
    q.meet();
    if (r.tid < r.outputs)
#pragma unroll 4
        for (uint32_t k = 0; k < chunks; k++) {
            float4 f = batch.chunk[r.row][k];
            total.l = __fmaf_rn(total.l, f.x, __fmul_rn(f.z, f.y));
            total.o = __fmaf_rn(total.o, f.x, __fmul_rn(batch.sums[k][r.output], f.y));
        }
    return n;
}

/* All pieces of both segments → outputs. flags: of the first batch, by lane. */
template <int D, int NT>
static __device__ __forceinline__ void make_outputs(const Quad<D, NT> &q, const Header &h, uint32_t flags,
                                                    uint32_t first_token, uint32_t rows)
{
    const Params &p = q.p;
    Batch<NT> &batch = *reinterpret_cast<Batch<NT> *>(q.shared + q.stage_offset(0));
    static_assert(sizeof(Batch<NT>) <= SOLO_LEAST_STAGES * stage_bytes(D), "it fits the ring");
    Reader<D, NT> r(q);
    if (r.own == 0)
        return;
    Sum sum[2] = {};
#pragma unroll 1
    for (int segment = 0; segment < 2; segment++) {
        uint32_t from = segment ? h.anchor_pieces : 0, end = segment ? h.pieces : h.anchor_pieces;
        float top[NT];
        Sum total = {};
#pragma unroll
        for (int k = 0; k < NT; k++)
            top[k] = FP_NEG_INF;
#pragma unroll 1
        while (from < end) {
            if (from) { /* the batch before is done with */
                flags = from + q.lane < end ? __ldg(p.plan + h.pieces_at + from + q.lane) : 0;
                q.meet();
            }
            from += merge_batch(q, r, batch, from, end, flags, top, total);
        }
        if (q.lane == 0)
#pragma unroll
            for (int k = 0; k < NT; k++)
                batch.top[segment][4 * k + q.part] = top[k];
        sum[segment] = total;
    }
    q.meet();
    if (r.tid >= r.outputs || r.row >= rows)
        return;
    uint32_t head = r.kv_head * p.group + r.row % p.group;
    uint32_t gamma = p.gamma ? p.gamma[(size_t)h.gamma_row * p.heads_q + head] : 0;
    Mix mix = mix_shares(batch.top[0][r.row], sum[0].l, batch.top[1][r.row], sum[1].l, h.mode, gamma);
    size_t at = (size_t)(first_token + r.row / p.group) * p.heads_q + head;
    p.out[at * D + r.channel] = mix_channel(mix, sum[0].o, sum[0].l, sum[1].o, sum[1].l);
    if (p.alpha && r.channel == 0)
        p.alpha[at] = mix.alpha;
}

template <int D, int NT>
__global__ void __launch_bounds__(SOLO_THREADS, 2) attend(const __grid_constant__ Params p)
{
#if FP_CUDA_BULK
    extern __shared__ __align__(128) uint8_t shared[];
    launch_next();
    const Header h = *reinterpret_cast<const Header *>(p.plan);
    uint32_t warp = threadIdx.x / 32;
    Quad<D, NT> q(p);
    q.shared = shared;
    q.base = shared_address(shared);
    q.quad = warp / QUAD % SOLO_QUADS, q.part = warp % QUAD, q.lane = threadIdx.x % 32;
    q.pieces = h.pieces;
    q.deal = {q.quad * gridDim.x + blockIdx.x, SOLO_QUADS * gridDim.x, h.decode_items * p.kv_heads,
              p.kv_heads};
    if (threadIdx.x < 4 * MAX_STAGES)
        barrier_init(q.base + 8 * threadIdx.x, 1);
    if (threadIdx.x < SOLO_QUADS)
        asm volatile("st.shared.u32 [%0], %1;" ::"r"(q.base + 4 * 8 * MAX_STAGES + 4 * threadIdx.x), "r"(0)
                     : "memory");
    barrier_init_fence();
    uint32_t words = q.deal.load_words(p, 0, q.lane);
    __syncthreads();
    if (warp == SOLO_WARPS) {
        Producer<D, NT> a = {q, words, 0, 0, {}, {}}, b = a;
        b.q.quad = 1;
        b.q.deal.worker += gridDim.x;
        b.words = b.q.deal.load_words(p, 0, q.lane);
        produce(a, b);
        wait_previous();
        return;
    }
    uint32_t first = __ldg(p.plan + DECODE_AT + q.lane), first_token = word(first, TOKEN),
             rows = word(first, ROWS);
    uint32_t flags = q.lane < h.pieces ? __ldg(p.plan + h.pieces_at + q.lane) : 0;
    QueryPlaces<D, NT> places;
    places.kv_head = q.deal.unit(0) % p.kv_heads;
    places.find(p, first_token, rows, q.lane);
    uint32_t post_o[NT], post_head = q.post_head();
    pin(post_head);
#pragma unroll
    for (int n = 0; n < NT; n++) {
        post_o[n] = q.post_o(n);
        pin(post_o[n]);
    }
    wait_previous();
    consume(q, places, post_o, post_head, words);
    make_outputs(q, h, flags, first_token, rows);
#endif
}

template <int D> static Kernel solo_kernel(uint32_t rows)
{
    return rows <= 4 ? attend<D, 1> : attend<D, 2>;
}

} // namespace solo
} // namespace attn
} // namespace fp
#endif
