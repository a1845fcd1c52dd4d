/* Attention of one sequence of up to 8 rows a KV head and a short context: one kernel. What such a context
 * costs is a long chain of waits, not its bytes; so:
 *
 *  - Two layers fit a multiprocessor side by side: while the CTA of one computes and merges, that of the next
 * reads pages that were complete before the step, and takes keys as far as registers, which makes room in
 * its rings.
 *  - A quad of 4 warps works on a unit: a span of one KV head, each warp a page, as in attention_decode.cuh.
 * Its parts are chained in canonical order to a piece, the state of the span.
 *  - Each quad makes a share of the outputs too. A piece is written to the inboxes (in L2) of all quads that
 * make outputs of its KV head: m and l of all rows, and the channels that the reader makes. A word of an
 * inbox is EMPTY, a NaN that no arithmetic gives, until it is written: readers look at it until it is not,
 * and make it EMPTY again for the run after. No fence, no counter, no second kernel: one way to L2 and one
 * back.
 *  - The reader merges its pieces in canonical order: factors of all pieces side by side by prefix maxima
 * (the largest m so far is the running M of the canonical chain), the chunks of a batch side by side, and
 * only the chunks in order.
 *
 * Why no word is lost or seen twice: between runs all words are EMPTY. A run posts after wait_previous, that
 * is when the run before, of the same plan and hence the same stream, is over, its words taken and EMPTY
 * again. It posts each word once and takes each word that it posts, whatever their places, which another plan
 * may choose anew. An aligned 16 (8) byte store need not be seen as a whole: readers look at each word.
 *
 * Why all quads come to post: they wait for each other, so all CTAs must be on the GPU at once. There are as
 * many as multiprocessors; the next run's CTAs start when all of this one have (launch_next), and all that
 * was there before ends without this one; of all plans of a process one at a time has this form
 * (attention_solo.cu).
 *
 * The page in a warp is that of attention_columns.cuh. */
#ifndef FP_KERNEL_CUDA_ATTENTION_SOLO_CUH
#define FP_KERNEL_CUDA_ATTENTION_SOLO_CUH
#include "kernel/cuda/attention_columns.cuh"
#include "kernel/cuda/attention_mix.cuh"

namespace fp
{
namespace attn
{
namespace solo
{

/* What is worked out before the wait for the kernel before is not to be put off. */
static __device__ __forceinline__ void pin(uint32_t &x)
{
    asm volatile("" : "+r"(x));
}

/* Half slabs of a unit: K of the 4 warps, then V. They lie in a ring, unit after unit. Each has a barrier,
 * whose phases are units: the ring has no more than HALVES stages, so a fill begins when who waited for the
 * one before it is done. */
constexpr uint32_t HALVES = 2 * QUAD;
static_assert(SOLO_BARRIER_BYTES == SOLO_QUADS * HALVES * 8, "the barriers have their place");

/* Pieces of a batch that begins with the piece of lane 0: as many as are whole chunks. */
static __device__ __forceinline__ uint32_t batch_pieces(uint32_t flags)
{
    return 32 - __clz((int)__ballot_sync(~0u, flags & PIECE_ENDS));
}

template <int D, int NT> struct Quad {
    static constexpr uint32_t OUTPUTS = NT * D; /* float4 of a piece */
    const Params &p;
    uint8_t *shared;
    uint32_t base, quad, part, lane, pieces;

    __device__ __forceinline__ explicit Quad(const Params &params) : p(params)
    {
    }
    __device__ __forceinline__ uint32_t worker() const
    {
        return quad * gridDim.x + blockIdx.x;
    }
    /* Units (item, KV head) are dealt to quads round by round; odd rounds go backwards, so that who had
     * little has more. */
    __device__ __forceinline__ uint32_t unit(uint32_t round) const
    {
        uint32_t workers = SOLO_QUADS * gridDim.x;
        return round * workers + (round % 2 ? workers - 1 - worker() : worker());
    }
    /* The item of a unit, word by lane; of one that there is not, anything: the buffer is long enough. */
    __device__ __forceinline__ uint32_t load_item(uint32_t round) const
    {
        return __ldg(p.plan + DECODE_AT + unit(round) / p.kv_heads * ITEM_WORDS + lane);
    }
    __device__ __forceinline__ uint32_t full(uint32_t half) const
    {
        return base + (quad * HALVES + half) * 8;
    }
    __device__ __forceinline__ void wait_fill(uint32_t half, uint32_t round) const
    {
        barrier_wait(full(half), round % 2);
    }
    __device__ __forceinline__ uint32_t stage_offset(uint32_t slot) const
    {
        return SOLO_RING + (quad * p.solo.stages + slot) * stage_bytes(D);
    }
    __device__ __forceinline__ uint32_t stage(uint32_t slot) const
    {
        return base + stage_offset(slot);
    }
    /* Of the half slab n (up to HALVES) behind that at `slot`. */
    __device__ __forceinline__ uint32_t further(uint32_t slot, uint32_t n) const
    {
        uint32_t stages = p.solo.stages, to = slot + n;
        to -= to >= stages ? stages : 0;
        return to - (to >= stages ? stages : 0);
    }
    /* Of the pieces from `from` on, by lane. */
    __device__ __forceinline__ uint32_t piece_flags(const Header &h, uint32_t from) const
    {
        return from + lane < pieces ? __ldg(p.plan + h.pieces_at + from + lane) : 0;
    }
    /* Of the batch that begins at `from`, and << 8 of the one after it. */
    __device__ __forceinline__ uint32_t load_flags(const Header &h, uint32_t from) const
    {
        uint32_t flags = piece_flags(h, from);
        return flags | piece_flags(h, from + batch_pieces(flags)) << 8;
    }
    /* 16-byte words of a piece in an inbox: m and l of each row, then o. */
    __device__ __forceinline__ uint32_t piece_words() const
    {
        return 2 * NT + p.solo.share;
    }
    /* Where a piece lies in the inboxes. */
    __device__ __forceinline__ uint32_t place(uint32_t kv_head, uint32_t reader, uint32_t piece) const
    {
        return ((kv_head * p.solo.readers + reader) * pieces + piece) * piece_words();
    }
    __device__ __forceinline__ void meet() const
    {
        __syncwarp();
        asm volatile("bar.sync %0, %1;" ::"r"(quad + 1), "n"(QUAD * 32) : "memory");
    }
};

/* ---- units to pieces -------------------------------------------------------------------------------------
 */

/* A unit under way, as a warp has it. */
struct Unit {
    uint32_t words, round; /* its item, by lane */
    uint32_t slot;         /* of its first half slab */
    uint32_t filled;       /* of the two of this warp's page: K, V */
};

/* Starts those fills of the warp's page for which there is room, when the first `taken` warps have their
 * keys; early: before the kernels ahead have ended, and only what was complete before the step. What is read
 * then must not fill the queues to memory, in which the queries and pieces of the layer before wait too: so
 * many half slabs of a quad are under way at once. */
template <int D, int NT>
static __device__ __forceinline__ void fill(const Quad<D, NT> &q, Unit &u, uint32_t taken, bool early)
{
    const Params &p = q.p;
    for (; u.filled < 2; u.filled++) {
        uint32_t half = u.filled * QUAD + q.part, pages = word(u.words, PAGES), done = word(u.words, EARLY);
        if (half >= taken + p.solo.stages)
            return;
        if (q.part >= pages) {
            if (q.lane == 0)
                barrier_arrive(q.full(half));
            continue;
        }
        const uint8_t *slab = p.kv + word(u.words, INLINE + (int)q.part) * p.group_bytes + p.layer_offset +
                              (size_t)(q.unit(u.round) % p.kv_heads) * (128 * D + 256);
        if (early && q.part >= done) { /* an open page: now as far as L2 */
            if (q.lane == 0 && taken == 0)
                asm volatile(
                    "cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(__cvta_generic_to_global(slab)),
                    "n"(128 * D + 256)
                    : "memory");
            return;
        }
        if (early && half >= p.solo.window) {
            uint32_t before = half - p.solo.window, page = before % QUAD;
            if (page < done || page >= pages)
                q.wait_fill(before, u.round);
        }
        fill_stage(q.full(half), q.stage(q.further(u.slot, half)), slab + u.filled * (64 * D), 64 * D,
                   slab + 128 * D, u.filled ? 0 : 256, q.lane);
    }
}

/* Where the queries of a lane's rows 4·n + c are, for KV head 0: query token · H + head; and 2^28 · the
 * token, counted from the first; or NONE. */
template <int D, int NT> struct QueryPlaces {
    uint32_t row[NT];

    __device__ __forceinline__ QueryPlaces(const Params &p, uint32_t first_token, uint32_t rows,
                                           uint32_t lane)
    {
#pragma unroll
        for (int n = 0; n < NT; n++) {
            uint32_t own = 4 * n + lane % 4, token = own / p.group;
            row[n] = own < rows ? ((first_token + token) * p.heads_q + own % p.group) | token << 28 : NONE;
            pin(row[n]);
        }
    }
    __device__ __forceinline__ uint32_t token(int n) const
    {
        return row[n] >> 28;
    }
    __device__ __forceinline__ void load(const Params &p, uint32_t kv_head, uint32_t lane,
                                         Columns<D, NT> &x) const
    {
        uint32_t g = lane / 4, c = lane % 4, head = kv_head * p.group;
#pragma unroll
        for (int n = 0; n < NT; n++) {
            uint32_t column = __shfl_sync(~0u, row[n], (int)(g / 2));
            const uint8_t *at = reinterpret_cast<const uint8_t *>(p.q_planes) + g % 2 * D +
                                (size_t)((column & 0xfffffff) + head) * (2 * D);
            bool on = column != NONE;
#pragma unroll
            for (int i = 0; i < D / 64; i++) {
                uint4 v = on ? __ldcg(reinterpret_cast<const uint4 *>(at + 64 * i + 16 * c))
                             : make_uint4(0, 0, 0, 0);
                x.q[n][4 * i] = v.x, x.q[n][4 * i + 1] = v.y, x.q[n][4 * i + 2] = v.z,
                           x.q[n][4 * i + 3] = v.w;
            }
            if (D % 64) {
                uint2 v =
                    on ? __ldcg(reinterpret_cast<const uint2 *>(at + D / 64 * 64 + 8 * c)) : make_uint2(0, 0);
                x.q[n][D / 16 - 2] = v.x, x.q[n][D / 16 - 1] = v.y;
            }
            x.scale[n] = row[n] != NONE ? __ldcg(p.q_scales + (row[n] & 0xfffffff) + head) : 0.0f;
        }
    }
};

/* K of a page in registers: of each tile of 16 tokens the lane's two, of its rows g and g + 8. */
template <int D> struct Keys {
    uint32_t k[4][2][D / 16];

    __device__ __forceinline__ void load(uint32_t stage, uint32_t lane)
    {
        uint32_t g = lane / 4, c = lane % 4, token = 16 * (g / 2) + g % 2;
#pragma unroll
        for (int t = 0; t < 4; t++)
#pragma unroll
            for (int h = 0; h < 2; h++) {
                uint32_t row = stage + (token + 2 * t + 8 * h) * D;
#pragma unroll
                for (int i = 0; i < D / 64; i++) {
                    uint4 v = load_shared16(row + 64 * i + 16 * c);
                    k[t][h][4 * i] = v.x, k[t][h][4 * i + 1] = v.y, k[t][h][4 * i + 2] = v.z,
                                k[t][h][4 * i + 3] = v.w;
                }
                if (D % 64) {
                    uint2 v = load_shared8(row + D / 64 * 64 + 8 * c);
                    k[t][h][D / 16 - 2] = v.x, k[t][h][D / 16 - 1] = v.y;
                }
            }
    }
    template <int NT>
    __device__ __forceinline__ void multiply(const Columns<D, NT> &x, int (&acc)[NT][4][4]) const
    {
#pragma unroll
        for (int t = 0; t < 4; t++)
#pragma unroll
            for (int n = 0; n < NT; n++) {
                acc[n][t][0] = acc[n][t][1] = acc[n][t][2] = acc[n][t][3] = 0;
#pragma unroll
                for (int i = 0; i < D / 32; i++)
                    mma_s8s8(acc[n][t], k[t][0][2 * i], k[t][1][2 * i], k[t][0][2 * i + 1],
                             k[t][1][2 * i + 1], x.q[n][2 * i], x.q[n][2 * i + 1]);
            }
    }
};

/* What one warp's part of a unit was, for one row. */
struct Part {
    float m, l, unit, pad;
};
static_assert(SOLO_PART_BYTES == sizeof(Part) * SOLO_WARPS * 8, "the parts have their place");
/* How the parts of a row are chained: O' = fma(O, a, o·b), in order. */
struct Chain {
    float a[QUAD], b[QUAD];
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

/* Where in the inboxes of a KV head a thread posts float4 `part` of its lane for row tile n; in 16-byte
 * words. */
template <int D, int NT> struct Posts {
    uint32_t o[NT];

    __device__ __forceinline__ explicit Posts(const Quad<D, NT> &q)
    {
        uint32_t share = q.p.solo.share;
#pragma unroll
        for (int n = 0; n < NT; n++) {
            uint32_t unit = (n * (D / 32) + q.part) * 32 + q.lane;
            o[n] = unit / share * q.pieces * q.piece_words() + 2 * NT + unit % share;
            pin(o[n]);
        }
    }
};

/* m and l of the parts in order → those of the piece, to all readers. */
template <int D, int NT>
static __device__ __forceinline__ void chain_heads(const Quad<D, NT> &q, const Part *parts, uint4 *inbox,
                                                   Chain (&chain)[NT])
{
    uint32_t c = q.lane % 4, reader = 8 * q.part + q.lane / 4, apart = q.pieces * q.piece_words();
#pragma unroll
    for (int n = 0; n < NT; n++) {
        float m = FP_NEG_INF, l = 0.0f;
#pragma unroll
        for (uint32_t k = 0; k < QUAD; k++) {
            Part x = parts[k * 8 + 4 * n + c];
            float b;
            merge_factors(m, x.m, chain[n].a[k], b);
            l = __fmaf_rn(l, chain[n].a[k], __fmul_rn(x.l, b));
            chain[n].b[k] = __fmul_rn(b, x.unit);
            m = fmaxf(m, x.m);
        }
        /* row c to readers 8·part + g, … */
        for (uint32_t to = reader; to < q.p.solo.readers; to += 8 * QUAD)
            post(reinterpret_cast<float2 *>(inbox + to * apart) + 4 * n + c, make_float2(m, l));
    }
}

/* o of the parts, in the stages from `slot` on, → o of the piece, to its readers. Warp w of the quad
 * takes float4 w of each lane. */
template <int D, int NT>
static __device__ __forceinline__ void chain_values(const Quad<D, NT> &q, uint32_t slot, bool begins_chunk,
                                                    const Chain (&chain)[NT], uint4 *inbox,
                                                    const Posts<D, NT> &posts)
{
    /* a span that begins a chunk is merged into an empty one: -0 becomes +0 */
    float zero = begins_chunk ? 0.0f : -0.0f;
    if (q.part >= D / 32)
        return;
#pragma unroll
    for (int n = 0; n < NT; n++) {
        float4 o = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
        for (int k = 0; k < QUAD; k++) {
            float4 x = reinterpret_cast<const float4 *>(
                q.shared +
                q.stage_offset(q.further(slot, (uint32_t)k)))[(n * (D / 32) + q.part) * 32 + q.lane];
            float a = chain[n].a[k], b = chain[n].b[k];
            o.x = __fmaf_rn(o.x, a, __fmul_rn(x.x, b));
            o.y = __fmaf_rn(o.y, a, __fmul_rn(x.y, b));
            o.z = __fmaf_rn(o.z, a, __fmul_rn(x.z, b));
            o.w = __fmaf_rn(o.w, a, __fmul_rn(x.w, b));
        }
        post(inbox + posts.o[n], make_float4(__fadd_rn(o.x, zero), __fadd_rn(o.y, zero), __fadd_rn(o.z, zero),
                                             __fadd_rn(o.w, zero)));
    }
}

/* Keys and queries of a page → weights, m, l; o is to be left as it is, with 2^E beside it. stage: where the
 * keys were; their scales still are. visible: tokens that the rows see. */
template <int D, int NT>
static __device__ __forceinline__ void weigh(const Columns<D, NT> &x, const Keys<D> &keys, uint32_t stage,
                                             const int (&visible)[NT], uint32_t lane, Piece<D, NT> &s,
                                             PageWeights<NT> &w)
{
    int acc[NT][4][4];
    float s_k[8], s_v[8];
    keys.multiply(x, acc);
    load_scales<D>(stage, lane, s_k, s_v);
#pragma unroll
    for (int n = 0; n < NT; n++) {
        int l, e;
        weigh_row(acc[n], x.scale[n], s_k, s_v, visible[n], lane, s.m[n], l, e, w.p[n]);
        s.l[n] = __int2float_rn(l);
        w.unit[n] = pow2(e), w.keep[n] = 0.0f, w.scale[n] = 1.0f;
    }
}

/* All units of a quad → pieces. */
template <int D, int NT>
static __device__ __forceinline__ void consume(const Quad<D, NT> &q, Unit u, uint32_t rounds,
                                               const QueryPlaces<D, NT> &places, const Posts<D, NT> &posts)
{
    Part *parts = reinterpret_cast<Part *>(q.shared + SOLO_BARRIER_BYTES) + q.quad * QUAD * 8;
    Columns<D, NT> x;
    Keys<D> keys;
#pragma unroll 1
    for (;;) {
        uint32_t head = q.unit(u.round) % q.p.kv_heads, pages = word(u.words, PAGES),
                 early = u.round || word(u.words, EARLY) >= pages ? QUAD : word(u.words, EARLY),
                 key_stage = q.stage(q.further(u.slot, q.part)), values_slot = q.further(u.slot, QUAD),
                 first = word(u.words, FIRST_PAGE), place = q.place(head, 0, word(u.words, STATE)),
                 limit = word(u.words, LIMIT), page = (first + q.part) * PAGE,
                 page_fill = word(u.words, FILLS) >> (8 * q.part) & 255;
        bool there = q.part < pages, late = there && q.part >= early;
        int visible[NT];
#pragma unroll
        for (int n = 0; n < NT; n++)
            visible[n] = visible_tokens(limit + places.token(n), page, page_fill,
                                        page_fill ? page_fill == PAGE : limit >= page + PAGE);
        if (!late) {
            q.wait_fill(q.part, u.round);
            keys.load(key_stage, q.lane);
        }
        q.meet(); /* the first `early` warps have their keys */
        fill(q, u, early, u.round == 0);
        pin(place);
        if (u.round == 0)
            wait_previous();
        places.load(q.p, head, q.lane, x);
        if (early < QUAD) {
            fill(q, u, early, false);
            if (late) {
                q.wait_fill(q.part, u.round);
                keys.load(key_stage, q.lane);
            }
            q.meet();
            fill(q, u, QUAD, false);
        }
        Piece<D, NT> s;
        PageWeights<NT> w;
        s.clear();
#pragma unroll
        for (int n = 0; n < NT; n++)
            w.unit[n] = 1.0f;
        if (there)
            weigh<D, NT>(x, keys, key_stage, visible, q.lane, s, w);
        if (q.lane < 4)
#pragma unroll
            for (int n = 0; n < NT; n++)
                parts[q.part * 8 + 4 * n + q.lane] = {s.m[n], s.l[n], w.unit[n], 0.0f};
        q.meet();
        Chain chain[NT];
        if (NT == 1) /* beside the values of two row tiles there are no registers left for the factors */
            chain_heads(q, parts, q.p.solo.inbox + place, chain);
        q.wait_fill(QUAD + q.part, u.round);
        uint32_t own_slot = q.further(values_slot, q.part);
        if (there)
            values<D, NT>(w, q.stage(own_slot), q.lane, s);
        __syncwarp(); /* o lies where the values were */
        float4 *o = reinterpret_cast<float4 *>(q.shared + q.stage_offset(own_slot)) + q.lane;
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int i = 0; i < D / 32; i++)
                o[(n * (D / 32) + i) * 32] =
                    make_float4(s.o[n][4 * i], s.o[n][4 * i + 1], s.o[n][4 * i + 2], s.o[n][4 * i + 3]);
        if (NT > 1)
            chain_heads(q, parts, q.p.solo.inbox + place, chain);
        q.meet();
        chain_values(q, values_slot, first % CHUNK_PAGES == 0, chain, q.p.solo.inbox + place, posts);
        if (u.round + 1 == rounds)
            break;
        uint32_t after = q.load_item(u.round + 1);
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); /* copies fill the stages next */
        q.meet();
        u = {after, u.round + 1, q.further(values_slot, QUAD), 0};
        fill(q, u, 0, false);
    }
    q.meet();
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
    float sums[BATCH][4 * SOLO_SHARE];
    uint4 words[]; /* of pieces: of two batches, if there is room */
};

/* Factors of a batch for one row, by one warp, a piece a lane; back: how many pieces of its chunk come before
 * it; ends: of its chunk; the first `cut` pieces are the anchor's. top: largest m of the segments before
 * them, then with them. */
template <int NT>
static __device__ __forceinline__ void make_factors(Batch<NT> &batch, const uint4 *words, uint32_t n,
                                                    uint32_t cut, uint32_t back, bool ends, uint32_t row,
                                                    uint32_t stride, uint32_t lane, float (&top)[2])
{
    float m = FP_NEG_INF, l = 0.0f;
    if (lane < n) {
        float2 head = reinterpret_cast<const float2 *>(words + lane * stride)[row];
        m = head.x, l = head.y;
    }
    float before = FP_NEG_INF, most = m, high, old = lane < cut ? top[0] : top[1];
#pragma unroll
    for (uint32_t k = 1; k < SPAN_PAGES; k++) { /* a chunk has at most 4 pieces */
        float x = __shfl_up_sync(~0u, m, k);
        before = back >= k ? fmaxf(before, x) : before;
    }
    uint32_t begin = lane < cut ? 0 : cut; /* of the segment */
#pragma unroll
    for (uint32_t k = 1; k < 32; k *= 2) {
        float x = __shfl_up_sync(~0u, most, k);
        most = lane >= begin + k ? fmaxf(most, x) : most;
    }
    most = fmaxf(most, old);
    float older = __shfl_sync(~0u, most, (int)(lane - back - 1) & 31), up, down;
    older = lane == begin + back ? old : older;
    high = fmaxf(before, m);
    float2 f;
    merge_factors(before, m, f.x, f.y);
    merge_factors(older, high, up, down);
#pragma unroll
    for (uint32_t k = 1; k < SPAN_PAGES; k++) {
        float x = __shfl_up_sync(~0u, l, 1);
        l = back == k ? __fmaf_rn(x, f.x, __fmul_rn(l, f.y)) : l;
    }
    uint32_t all = __ballot_sync(~0u, ends);
    batch.factor[row][lane] = f;
    if (ends)
        batch.chunk[row][__popc(all & ((1u << lane) - 1))] = make_float4(up, down, l, 0.0f);
    float anchor = __shfl_sync(~0u, most, (int)(cut - 1) & 31), context = __shfl_sync(~0u, most, 31);
    top[0] = cut ? anchor : top[0];
    top[1] = cut < n ? context : top[1];
}

/* Chunks of a batch side by side, each thread an output of some: batch.sums. */
template <int NT, typename Reader>
static __device__ __forceinline__ void merge_chunks(Batch<NT> &batch, const uint4 *words, uint32_t chunks,
                                                    const Reader &r, uint32_t stride)
{
    uint32_t row = r.row(), at = r.at(), step = r.step();
    const float *o = reinterpret_cast<const float *>(words + 2 * NT) + at;
#pragma unroll 1
    for (uint32_t k = r.from(); k < chunks; k += step) {
        uint32_t i = batch.first[k], n = batch.first[k + 1] - i;
        float sum = o[4 * i * stride];
#pragma unroll
        for (uint32_t j = 1; j < SPAN_PAGES; j++) {
            if (j >= n)
                break;
            float2 f = batch.factor[row][i + j];
            sum = __fmaf_rn(sum, f.x, __fmul_rn(o[4 * (i + j) * stride], f.y));
        }
        batch.sums[k][at] = sum;
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

/* The outputs that a quad makes of one KV head, and the one of this thread; packed while other numbers need
 * the registers. */
template <int D, int NT> struct Reader {
    uint32_t inbox, work, output, tokens;

    __device__ __forceinline__ Reader(const Quad<D, NT> &q, uint32_t first_token, uint32_t rows)
    {
        uint32_t share = q.p.solo.share, number = q.worker() / q.p.kv_heads, tid = q.part * 32 + q.lane,
                 own = number < q.p.solo.readers ? min(share, Quad<D, NT>::OUTPUTS - number * share) : 0,
                 n = own ? 4 * own : 1, at = tid % n, unit = number * share + at / 4,
                 row = unit / D * 4 + unit % 4,
                 channel = unit / 32 % (D / 32) * 32 + 8 * (at % 4) + unit % 32 / 4;
        inbox = number << 16 | q.worker() % q.p.kv_heads;
        work = own << 24 | QUAD * 32 / n << 16 | tid / n << 8 | at;
        output = row / q.p.group << 24 | row % q.p.group << 16 | row << 8 | channel;
        tokens = rows << 28 | first_token;
        pin(inbox), pin(work), pin(output), pin(tokens);
    }
    __device__ __forceinline__ uint32_t kv_head() const
    {
        return inbox & 0xffff;
    }
    __device__ __forceinline__ uint32_t number() const
    {
        return inbox >> 16;
    }
    __device__ __forceinline__ uint32_t own() const /* float4 of a state */
    {
        return work >> 24;
    }
    /* Of the chunks of a batch the thread takes number from(), from() + step(), … */
    __device__ __forceinline__ uint32_t step() const
    {
        return work >> 16 & 255;
    }
    __device__ __forceinline__ uint32_t from() const
    {
        return work >> 8 & 255;
    }
    __device__ __forceinline__ uint32_t at() const /* of the outputs of the quad */
    {
        return work & 255;
    }
    __device__ __forceinline__ uint32_t row() const
    {
        return output >> 8 & 255;
    }
    __device__ __forceinline__ uint32_t channel() const
    {
        return output & 255;
    }
    __device__ __forceinline__ uint32_t head(const Params &p) const
    {
        return kv_head() * p.group + (output >> 16 & 255);
    }
    __device__ __forceinline__ uint32_t token() const
    {
        return (tokens & 0xfffffff) + (output >> 24);
    }
    __device__ __forceinline__ bool writes() const
    {
        return from() == 0 && row() < tokens >> 28;
    }
};

/* A batch of n pieces from, …, whose words are there, merged into the totals of the segments. flags: of the
 * lane's piece. */
template <int D, int NT>
static __device__ __forceinline__ void
merge_batch(const Quad<D, NT> &q, const Reader<D, NT> &r, Batch<NT> &batch, const uint4 *words, uint32_t n,
            uint32_t from, uint32_t anchor_pieces, uint32_t flags, float (&top)[NT][2], Sum (&total)[2])
{
    uint32_t stride = q.piece_words(), ends = __ballot_sync(~0u, flags & PIECE_ENDS), chunks = __popc(ends),
             cut = min(n, anchor_pieces - min(anchor_pieces, from)),
             anchors = __popc(ends & (uint32_t)((1ull << cut) - 1));
    bool end = flags & PIECE_ENDS;
    if (q.part == 0 && end)
        batch.first[__popc(ends & ((1u << q.lane) - 1)) + 1] = q.lane + 1;
    if (q.part == 0 && q.lane == 0)
        batch.first[0] = 0;
#pragma unroll
    for (int k = 0; k < NT; k++)
        make_factors<NT>(batch, words, n, cut, flags >> PIECE_BACK, end, 4 * k + q.part, stride, q.lane,
                         top[k]);
    if (q.lane < 2)
#pragma unroll
        for (int k = 0; k < NT; k++)
            batch.top[q.lane][4 * k + q.part] = q.lane ? top[k][1] : top[k][0];
    q.meet();
    merge_chunks<NT>(batch, words, chunks, r, stride);
    q.meet();
    if (r.from() != 0)
        return;
    uint32_t row = r.row(), at = r.at();
    Sum sum = anchors ? total[0] : total[1];
#pragma unroll 4
    for (uint32_t k = 0; k < chunks; k++) {
        float4 f = batch.chunk[row][k];
        if (k == anchors && k)
            total[0] = sum, sum = total[1];
        sum.l = __fmaf_rn(sum.l, f.x, __fmul_rn(f.z, f.y));
        sum.o = __fmaf_rn(sum.o, f.x, __fmul_rn(batch.sums[k][at], f.y));
    }
    total[0] = anchors == chunks ? sum : total[0];
    total[1] = anchors == chunks ? total[1] : sum;
}

/* All pieces of both segments → outputs. flags: of the first batch, by lane, and << 8 of the second. */
template <int D, int NT>
static __device__ __forceinline__ void make_outputs(const Quad<D, NT> &q, const Reader<D, NT> &r,
                                                    uint32_t flags)
{
    const Params &p = q.p;
    const Header &h = *reinterpret_cast<const Header *>(p.plan);
    Batch<NT> &batch = *reinterpret_cast<Batch<NT> *>(q.shared + q.stage_offset(0));
    constexpr uint32_t ROOM = (SOLO_LEAST_STAGES * stage_bytes(D) - sizeof(Batch<NT>)) / 16;
    static_assert(ROOM >= BATCH * (2 * NT + SOLO_SHARE), "a batch fits the ring");
    if (r.own() == 0)
        return;
    uint32_t anchor_pieces = h.anchor_pieces, mode = h.mode, stride = q.piece_words(),
             gamma = p.gamma && anchor_pieces ? p.gamma[(size_t)h.gamma_row * p.heads_q + r.head(p)] : 0;
    Sum total[2] = {};
    float top[NT][2];
#pragma unroll
    for (int k = 0; k < NT; k++)
        top[k][0] = top[k][1] = FP_NEG_INF;
#pragma unroll 1
    for (uint32_t from = 0;;) {
        uint32_t next = flags >> 8, n = batch_pieces(flags), more = batch_pieces(next);
        flags &= 255;
        more = (n + more) * stride <= ROOM ? more : 0;
        receive(p.solo.inbox + q.place(r.kv_head(), r.number(), from), batch.words, (n + more) * stride,
                stride, 2 * NT + r.own(), q.part * 32 + q.lane);
        const uint4 *words = batch.words;
        q.meet();
#pragma unroll 1
        for (;;) {
            merge_batch(q, r, batch, words, n, from, anchor_pieces, flags, top, total);
            from += n, words += n * stride;
            if (more == 0)
                break;
            flags = next, n = more, more = 0;
            q.meet(); /* the batch before is done with */
        }
        if (from >= q.pieces)
            break;
        flags = q.load_flags(h, from);
        q.meet();
    }
    if (!r.writes())
        return;
    Mix mix = mix_shares(batch.top[0][r.row()], total[0].l, batch.top[1][r.row()], total[1].l, mode, gamma);
    size_t at = (size_t)r.token() * p.heads_q + r.head(p);
    p.out[at * D + r.channel()] = mix_channel(mix, total[0].o, total[0].l, total[1].o, total[1].l);
    if (p.alpha && r.channel() == 0)
        p.alpha[at] = mix.alpha;
}

template <int D, int NT>
__global__ void __launch_bounds__(SOLO_WARPS * 32, 2) attend(const __grid_constant__ Params p)
{
#if FP_CUDA_BULK
    extern __shared__ __align__(128) uint8_t shared[];
    launch_next();
    const Header &h = *reinterpret_cast<const Header *>(p.plan);
    uint32_t warp = threadIdx.x / 32, rounds = 0;
    Quad<D, NT> q(p);
    q.shared = shared;
    q.base = shared_address(shared);
    q.quad = warp / QUAD, q.part = warp % QUAD, q.lane = threadIdx.x % 32;
    q.pieces = h.pieces;
    Unit u = {q.load_item(0), 0, 0, 0};
    uint32_t first = __ldg(p.plan + DECODE_AT + q.lane), units = h.decode_items * p.kv_heads;
    if (threadIdx.x < SOLO_QUADS * HALVES)
        barrier_init(q.base + 8 * threadIdx.x, 1);
    barrier_init_fence();
    __syncthreads();
    while (q.unit(rounds) < units)
        rounds++;
    if (rounds)
        fill(q, u, 0, true);
    uint32_t first_token = word(first, TOKEN), rows = word(first, ROWS), flags = q.load_flags(h, 0);
    pin(flags);
    QueryPlaces<D, NT> places(p, first_token, rows, q.lane);
    Posts<D, NT> posts(q);
    Reader<D, NT> reader(q, first_token, rows);
    if (rounds)
        consume(q, u, rounds, places, posts);
    else
        wait_previous();
    make_outputs(q, reader, flags);
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
