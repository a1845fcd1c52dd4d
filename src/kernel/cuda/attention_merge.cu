/* States of split work → outputs: one warp per (token, head, slice of channels), in canonical order
 * (arithmetic §6: spans into their chunk, chunks in order, then the mix of the two segments). The pieces of both
 * segments are one list, so that all they need is in flight at once. */
#include "kernel/cuda/async.cuh"
#include "kernel/cuda/attention_mix.cuh"

namespace fp
{
namespace attn
{

template <int V> struct Slice {
    float l, o[V];
};

/* What one piece does to a row, worked out for 32 pieces at once, one a lane:
 * chunk' = START ? o : fma(chunk, a, o·b), then, at the END of a chunk, total' = fma(total, up, chunk·down). */
enum { START = 1, END = 2 };
struct Factor {
    float a, b, up, down;
};
struct Piece {
    float l;
    uint32_t flags;
};
/* A warp's shared memory: factors of up to max(32, batch) pieces, o of `batch`. */
struct Table {
    Factor *factor;
    Piece *piece;
    float *o; // [batch][32·V]
    uint32_t batch;
};
static_assert(sizeof(Factor) + sizeof(Piece) == MERGE_FACTOR_BYTES, "the plan knows what a piece takes");
template <int V> static __device__ __forceinline__ Table make_room(uint8_t *shared, uint32_t bytes)
{
    Table t;
    uint32_t many = bytes / (MERGE_FACTOR_BYTES + 128 * V) / 32 * 32;
    t.batch = many ? many : (bytes - 32 * MERGE_FACTOR_BYTES) / (128 * V);
    uint32_t factors = many ? many : 32;
    t.factor = reinterpret_cast<Factor *>(shared);
    t.piece = reinterpret_cast<Piece *>(t.factor + factors);
    t.o = reinterpret_cast<float *>(t.piece + factors);
    return t;
}

/* The pieces of one row: the anchor's, then the context's. */
struct RowPieces {
    uint32_t anchors, all;
    uint32_t stride[2]; /* state rows between pieces */
    size_t first[2];

    __device__ __forceinline__ size_t row(uint32_t i) const
    {
        return i < anchors ? first[0] + (size_t)i * stride[0] : first[1] + (size_t)(i - anchors) * stride[1];
    }
};

/* Maxima carried from piece to piece, and the anchor's. */
struct Carry {
    float chunk, total, anchor;
};

/* Factors of pieces from, from + 1, … end - 1 (up to 32, one a lane). Returns whether all are chunks. */
static __device__ __forceinline__ bool make_factors(const Params &p, const RowPieces &rows, uint32_t from, uint32_t end,
                                                    uint32_t lane, Carry &carry, Factor &f, Piece &piece)
{
    uint32_t i = from + lane;
    bool valid = i < end, next_starts = true, starts = false;
    float m = FP_NEG_INF;
    piece.l = 0.0f;
    if (valid) {
        uint4 bits = __ldcg(reinterpret_cast<const uint4 *>(p.heads + rows.row(i)));
        if (i + 1 < rows.all && i + 1 != rows.anchors)
            next_starts = __ldcg(&p.heads[rows.row(i + 1)].starts_chunk);
        m = __uint_as_float(bits.x), piece.l = __uint_as_float(bits.y), starts = bits.z;
    }
    uint32_t below = __ballot_sync(~0u, starts) & (lane == 31 ? ~0u : (2u << lane) - 1);
    int head = 31 - __clz((int)below); /* of the chunk; -1: it began before */
    int first = i >= rows.anchors && rows.anchors >= from ? (int)(rows.anchors - from) : -1; /* of the segment */
    float high = m;
#pragma unroll
    for (int k = 1; k < 4; k *= 2) { /* a chunk has at most 4 pieces */
        float other = __shfl_up_sync(~0u, high, k);
        if ((int)lane >= k && (int)lane - k >= head)
            high = fmaxf(high, other);
    }
    if (head < 0)
        high = fmaxf(high, carry.chunk);
    float before = __shfl_up_sync(~0u, high, 1);
    before = lane == 0 ? carry.chunk : before;
    bool live = m != FP_NEG_INF, ends = valid && next_starts && high != FP_NEG_INF;
    f.a = live ? exp2c(__fsub_rn(before, high)) : 1.0f;
    f.b = live ? exp2c(__fsub_rn(m, high)) : -0.0f; /* (+0)·(-0): nothing is added, -0 included */
    float top = ends ? high : FP_NEG_INF;
#pragma unroll
    for (int k = 1; k < 32; k *= 2) {
        float other = __shfl_up_sync(~0u, top, k);
        if ((int)lane >= k && (int)lane - k >= first)
            top = fmaxf(top, other);
    }
    if (first < 0)
        top = fmaxf(top, carry.total);
    float top_before = __shfl_up_sync(~0u, top, 1);
    top_before = lane == 0 ? carry.total : top_before;
    if ((int)lane == first)
        top_before = FP_NEG_INF;
    f.up = exp2c(__fsub_rn(top_before, top));
    f.down = exp2c(__fsub_rn(high, top));
    piece.flags = (starts ? START : 0) | (ends ? END : 0);
    if (rows.anchors > from && rows.anchors <= from + 32)
        carry.anchor = __shfl_sync(~0u, top, rows.anchors - from - 1);
    carry.chunk = __shfl_sync(~0u, high, end - from < 32 ? end - from - 1 : 31);
    carry.total = __shfl_sync(~0u, top, end - from < 32 ? end - from - 1 : 31);
    return __all_sync(~0u, !valid || piece.flags == (START | END));
}

/* o of pieces from..end - 1 → table.o. */
template <int V>
static __device__ __forceinline__ void fetch_states(const Params &p, const RowPieces &rows, uint32_t from, uint32_t end,
                                                    uint32_t channel, uint32_t lane, const Table &table)
{
    uint32_t to = shared_address(table.o) + lane * 4 * V;
#pragma unroll 4
    for (uint32_t i = from; i < end; i++, to += 128 * V)
        if (channel < p.d) {
            const float *o = p.states + rows.row(i) * p.d + channel;
            if (V == 4)
                asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(__cvta_generic_to_global(o))
                             : "memory");
            else
                asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to), "l"(__cvta_generic_to_global(o))
                             : "memory");
        }
}

template <int V>
static __device__ __forceinline__ void take_piece(const Factor &f, const Piece &piece, const float *o, Slice<V> &chunk,
                                                  Slice<V> &total)
{
    bool start = piece.flags & START, end = piece.flags & END;
    float l = __fmaf_rn(chunk.l, f.a, __fmul_rn(piece.l, f.b));
    chunk.l = start ? piece.l : l;
    l = __fmaf_rn(total.l, f.up, __fmul_rn(chunk.l, f.down));
    total.l = end ? l : total.l;
#pragma unroll
    for (int v = 0; v < V; v++) {
        float x = __fmaf_rn(chunk.o[v], f.a, __fmul_rn(o[v], f.b));
        chunk.o[v] = start ? o[v] : x;
        x = __fmaf_rn(total.o[v], f.up, __fmul_rn(chunk.o[v], f.down));
        total.o[v] = end ? x : total.o[v];
    }
}

/* Chain of all pieces of one row. */
template <int V>
static __device__ __forceinline__ void merge_pieces(const Params &p, const RowPieces &rows, uint32_t channel,
                                                    uint32_t lane, const Table &table, Carry &carry, Slice<V> &anchor,
                                                    Slice<V> &total)
{
    Slice<V> chunk = {};
    anchor = total = {};
    carry = {FP_NEG_INF, FP_NEG_INF, FP_NEG_INF};
#pragma unroll 1
    for (uint32_t from = 0; from < rows.all; from += table.batch) {
        uint32_t end = min(from + table.batch, rows.all);
        bool simple = true;
        __syncwarp();
        fetch_states<V>(p, rows, from, end, channel, lane, table);
#pragma unroll 1
        for (uint32_t w = from; w < end; w += 32) {
            Factor f;
            Piece piece;
            simple = make_factors(p, rows, w, min(w + 32, end), lane, carry, f, piece) && simple;
            table.factor[w - from + lane] = f;
            table.piece[w - from + lane] = piece;
        }
        asm volatile("cp.async.wait_all;" ::: "memory");
        __syncwarp();
        const float *o = table.o + lane * V - from * 32 * V;
        const Factor *factor = table.factor - from;
        const Piece *piece = table.piece - from;
#pragma unroll 4
        for (uint32_t i = from; i < end; i++) {
            if (i == rows.anchors)
                anchor = total, total = {};
            if (simple) {
                float up = factor[i].up, down = factor[i].down;
                total.l = __fmaf_rn(total.l, up, __fmul_rn(piece[i].l, down));
#pragma unroll
                for (int v = 0; v < V; v++)
                    total.o[v] = __fmaf_rn(total.o[v], up, __fmul_rn(o[i * 32 * V + v], down));
            } else {
                take_piece<V>(factor[i], piece[i], o + i * 32 * V, chunk, total);
            }
        }
    }
    if (rows.anchors == rows.all) { /* no context */
        anchor = total, total = {};
        carry.anchor = carry.total, carry.total = FP_NEG_INF;
    }
}

static __device__ __forceinline__ uint32_t find_pieces(const Params &p, const MergeSegment &s, uint32_t kv_head,
                                                       uint32_t g, size_t &first, uint32_t &stride)
{
    first = stride = 0;
    if (s.blocks == 0)
        return 0;
    uint32_t row = s.row + g, block = row / s.rows_per_stream;
    MergeStream stream = *reinterpret_cast<const MergeStream *>(p.plan + s.stream_at + block * 4);
    stride = stream.rows;
    first = stream.state + (size_t)kv_head * stream.stride + row % s.rows_per_stream;
    return stream.pieces;
}

template <int V>
static __device__ __forceinline__ void merge_rows(const Params &p, const Header &h, uint32_t lane, const Table &table)
{
    uint32_t d = p.d, slices = (d + 32 * V - 1) / (32 * V), tasks = h.merge_tokens * p.heads_q * slices;
    for (uint32_t task = blockIdx.x; task < tasks; task += gridDim.x) {
        uint32_t slice = task % slices, head = task / slices % p.heads_q, at = task / slices / p.heads_q;
        const MergeToken token = reinterpret_cast<const MergeToken *>(p.plan + h.merge_at)[at];
        uint32_t channel = slice * 32 * V + lane * V, kv_head = head / p.group, g = head % p.group;
        RowPieces rows;
        rows.anchors = find_pieces(p, token.segment[0], kv_head, g, rows.first[0], rows.stride[0]);
        rows.all = rows.anchors + find_pieces(p, token.segment[1], kv_head, g, rows.first[1], rows.stride[1]);
        wait_previous(); /* the plan is older than the step, the states are not */
        uint32_t gamma = p.gamma ? p.gamma[(size_t)token.gamma_row * p.heads_q + head] : 0;
        Carry m;
        Slice<V> anchor, context;
        merge_pieces<V>(p, rows, channel, lane, table, m, anchor, context);
        Mix mix = mix_shares(m.anchor, anchor.l, m.total, context.l, token.mode, gamma);
        size_t row = (size_t)token.token * p.heads_q + head;
        float y[V];
#pragma unroll
        for (int v = 0; v < V; v++)
            y[v] = mix_channel(mix, anchor.o[v], anchor.l, context.o[v], context.l);
        if (channel < d && V == 4)
            *reinterpret_cast<float4 *>(p.out + row * d + channel) =
                make_float4(y[0], y[V > 1 ? 1 : 0], y[V > 2 ? 2 : 0], y[V > 3 ? 3 : 0]);
        else if (channel < d)
            p.out[row * d + channel] = y[0];
        if (p.alpha && lane == 0 && slice == 0)
            p.alpha[row] = mix.alpha;
    }
}

/* One warp a CTA; its registers and shared memory fit beside a CTA of decode. */
static __global__ void __launch_bounds__(32) merge(const __grid_constant__ Params p)
{
    extern __shared__ __align__(128) uint8_t shared[];
    launch_next();
    const Header h = *reinterpret_cast<const Header *>(p.plan);
    if (h.merge_narrow)
        merge_rows<1>(p, h, threadIdx.x, make_room<1>(shared, p.merge_bytes));
    else
        merge_rows<4>(p, h, threadIdx.x, make_room<4>(shared, p.merge_bytes));
    if (blockIdx.x == 0 && threadIdx.x == 0) { /* the run is over: nothing is drawn any more */
        wait_previous();
        *p.control = {};
    }
}

} // namespace attn
} // namespace fp

fp::attn::Kernel fp::attn::merge_kernel()
{
    return merge;
}
