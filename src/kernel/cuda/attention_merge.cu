/* States of split work → outputs: one warp per (token, head, slice of channels), in canonical order
 * (arithmetic §6: spans into their chunk, chunks in order, then the mix of the two segments). */
#include "kernel/cuda/attention_mix.cuh"

namespace fp
{
namespace attn
{

template <int V> struct Slice {
    float m, l, o[V];
};

/* What one piece does to a row, worked out for 32 pieces at once, one a lane:
 * chunk' = START ? o : fma(chunk, a, o·b), then, at the END of a chunk, total' = fma(total, up, chunk·down).
 */
enum { START = 1, END = 2 };
struct Factor {
    float a, b, up, down;
};
struct Piece {
    float l;
    uint32_t flags;
};
/* A warp's shared memory for as many pieces as fit (a multiple of 32): their factors, and their o, all in
 * flight at once. Loops over them are short: this code runs once, from a cold instruction cache. */
struct Table {
    Factor *factor;
    Piece *piece;
    float *o; // [pieces][32·V]
    uint32_t batch;
};
static_assert(sizeof(Factor) + sizeof(Piece) + 512 == MERGE_PIECE_BYTES, "the plan knows what a piece takes");
template <int V> static __device__ __forceinline__ Table make_room(uint8_t *shared, uint32_t bytes)
{
    Table t;
    t.batch = bytes / (sizeof(Factor) + sizeof(Piece) + 128 * V) / 32 * 32;
    t.factor = reinterpret_cast<Factor *>(shared);
    t.piece = reinterpret_cast<Piece *>(t.factor + t.batch);
    t.o = reinterpret_cast<float *>(t.piece + t.batch);
    return t;
}

/* Maxima carried from piece to piece. */
struct Carry {
    float chunk, total;
};

static __device__ __forceinline__ StateHead load_head(const StateHead *heads, uint32_t stride, uint32_t i,
                                                      uint32_t pieces, uint32_t &next_starts)
{
    StateHead s = {FP_NEG_INF, 0.0f, 0, 0};
    next_starts = 1;
    if (i < pieces) {
        uint4 bits = __ldcg(reinterpret_cast<const uint4 *>(heads + (size_t)i * stride));
        s = {__uint_as_float(bits.x), __uint_as_float(bits.y), bits.z, 0};
        if (i + 1 < pieces)
            next_starts = __ldcg(&heads[(size_t)(i + 1) * stride].starts_chunk);
    }
    return s;
}

/* Factors of the 32 pieces from `lane 0's` on; a piece past the end does nothing. Returns whether all are
 * chunks. */
static __device__ __forceinline__ bool make_factors(const StateHead &s, uint32_t next_starts, bool valid,
                                                    uint32_t lane, Carry &carry, Factor &f, Piece &piece)
{
    uint32_t starts = __ballot_sync(~0u, s.starts_chunk != 0);
    uint32_t below = starts & (lane == 31 ? ~0u : (2u << lane) - 1);
    int head = 31 - __clz((int)below); /* -1: the chunk began before */
    float high = s.m;
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
    bool live = s.m != FP_NEG_INF, end = valid && next_starts && high != FP_NEG_INF;
    f.a = live ? exp2c(__fsub_rn(before, high)) : 1.0f;
    f.b = live ? exp2c(__fsub_rn(s.m, high)) : -0.0f; /* (+0)·(-0): nothing is added, -0 included */
    float top = end ? high : FP_NEG_INF;
#pragma unroll
    for (int k = 1; k < 32; k *= 2) {
        float other = __shfl_up_sync(~0u, top, k);
        if ((int)lane >= k)
            top = fmaxf(top, other);
    }
    top = fmaxf(top, carry.total);
    float top_before = __shfl_up_sync(~0u, top, 1);
    top_before = lane == 0 ? carry.total : top_before;
    f.up = exp2c(__fsub_rn(top_before, top));
    f.down = exp2c(__fsub_rn(high, top));
    piece.l = s.l;
    piece.flags = (s.starts_chunk ? START : 0) | (end ? END : 0);
    carry.chunk = __shfl_sync(~0u, high, 31);
    carry.total = __shfl_sync(~0u, top, 31);
    return __all_sync(~0u, !valid || piece.flags == (START | END));
}

/* Factors of pieces from..from + count of one row → table. Returns whether each piece is a whole chunk. */
static __device__ __forceinline__ bool make_table(const StateHead *heads, uint32_t stride, uint32_t from,
                                                  uint32_t count, uint32_t pieces, uint32_t lane,
                                                  Carry &carry, const Table &table)
{
    bool simple = true;
    uint32_t next_starts;
    StateHead s = load_head(heads, stride, from + lane, pieces, next_starts);
    __syncwarp();
#pragma unroll 1
    for (uint32_t w = 0; w < count; w += 32) {
        uint32_t later_starts = 1;
        StateHead later = s;
        if (w + 32 < count)
            later = load_head(heads, stride, from + w + 32 + lane, pieces, later_starts);
        Factor f;
        Piece piece;
        simple = make_factors(s, next_starts, w + lane < count, lane, carry, f, piece) && simple;
        table.factor[w + lane] = f;
        table.piece[w + lane] = piece;
        s = later, next_starts = later_starts;
    }
    __syncwarp();
    return simple;
}

/* o of `count` pieces → table.o. */
template <int V>
static __device__ __forceinline__ void fetch_states(const float *from, size_t step, uint32_t count, bool on,
                                                    uint32_t lane, const Table &table)
{
    uint32_t to = shared_address(table.o) + lane * 4 * V;
#pragma unroll 4
    for (uint32_t i = 0; i < count; i++, from += step, to += 128 * V)
        if (on) {
            if (V == 4)
                asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to),
                             "l"(__cvta_generic_to_global(from))
                             : "memory");
            else
                asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(to),
                             "l"(__cvta_generic_to_global(from))
                             : "memory");
        }
}

template <int V>
static __device__ __forceinline__ void take_piece(const Factor &f, const Piece &piece, const float (&o)[V],
                                                  Slice<V> &chunk, Slice<V> &total)
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

/* Chain of all pieces of one row. states: the row's channels of this lane in the first piece. */
template <int V>
static __device__ __forceinline__ void merge_pieces(const StateHead *heads, const float *states,
                                                    uint32_t stride, uint32_t d, uint32_t pieces, bool on,
                                                    uint32_t lane, const Table &table, Slice<V> &total)
{
    Slice<V> chunk = {};
    Carry carry = {FP_NEG_INF, FP_NEG_INF};
    size_t step = (size_t)stride * d;
#pragma unroll 1
    for (uint32_t done = 0; done < pieces; done += table.batch) {
        uint32_t count = min(table.batch, pieces - done);
        __syncwarp();
        fetch_states<V>(states + done * step, step, count, on, lane, table);
        bool simple = make_table(heads, stride, done, count, pieces, lane, carry, table);
        asm volatile("cp.async.wait_all;" ::: "memory");
        __syncwarp();
        const float *o = table.o + lane * V;
        if (simple) {
#pragma unroll 4
            for (uint32_t i = 0; i < count; i++) {
                float up = table.factor[i].up, down = table.factor[i].down;
                total.l = __fmaf_rn(total.l, up, __fmul_rn(table.piece[i].l, down));
#pragma unroll
                for (int v = 0; v < V; v++)
                    total.o[v] = __fmaf_rn(total.o[v], up, __fmul_rn(o[i * 32 * V + v], down));
            }
        } else {
#pragma unroll 4
            for (uint32_t i = 0; i < count; i++) {
                float x[V];
#pragma unroll
                for (int v = 0; v < V; v++)
                    x[v] = o[i * 32 * V + v];
                take_piece<V>(table.factor[i], table.piece[i], x, chunk, total);
            }
        }
    }
    total.m = carry.total;
}

/* Where the states of one row of one segment are. */
struct RowStates {
    uint32_t pieces, stride;
    size_t first;
};

static __device__ __forceinline__ RowStates find_states(const Params &p, const MergeSegment &s, uint32_t kv_head,
                                                        uint32_t g)
{
    RowStates r = {};
    if (s.blocks == 0)
        return r;
    uint32_t row = s.row + g, block = row / s.rows_per_stream;
    MergeStream stream = *reinterpret_cast<const MergeStream *>(p.plan + s.stream_at + block * 4);
    r.pieces = stream.pieces, r.stride = stream.rows;
    r.first = stream.state + (size_t)kv_head * stream.stride + row % s.rows_per_stream;
    return r;
}

template <int V>
static __device__ __forceinline__ void merge_rows(const Params &p, const Header &h, uint32_t lane,
                                                  const Table &table)
{
    uint32_t d = p.d, slices = (d + 32 * V - 1) / (32 * V), tasks = h.merge_tokens * p.heads_q * slices;
    for (uint32_t task = blockIdx.x; task < tasks; task += gridDim.x) {
        uint32_t slice = task % slices, head = task / slices % p.heads_q, at = task / slices / p.heads_q;
        const MergeToken *token = reinterpret_cast<const MergeToken *>(p.plan + h.merge_at) + at;
        uint32_t channel = slice * 32 * V + lane * V, kv_head = head / p.group, g = head % p.group;
        bool on = channel < d;
        RowStates rows[2] = {find_states(p, token->segment[0], kv_head, g),
                             find_states(p, token->segment[1], kv_head, g)};
        wait_previous(); /* the plan is older than the step, the states are not */
        uint32_t gamma = p.gamma ? p.gamma[(size_t)token->gamma_row * p.heads_q + head] : 0;
        Slice<V> state[2] = {};
#pragma unroll
        for (int s = 0; s < 2; s++) {
            state[s].m = FP_NEG_INF;
            if (rows[s].pieces)
                merge_pieces<V>(p.heads + rows[s].first, p.states + rows[s].first * d + (on ? channel : 0),
                                rows[s].stride, d, rows[s].pieces, on, lane, table, state[s]);
        }
        Mix mix = mix_shares(state[0].m, state[0].l, state[1].m, state[1].l, token->mode, gamma);
        size_t row = (size_t)token->token * p.heads_q + head;
        float y[V];
#pragma unroll
        for (int v = 0; v < V; v++)
            y[v] = mix_channel(mix, state[0].o[v], state[0].l, state[1].o[v], state[1].l);
        if (on && V == 4)
            *reinterpret_cast<float4 *>(p.out + row * d + channel) =
                make_float4(y[0], y[V > 1 ? 1 : 0], y[V > 2 ? 2 : 0], y[V > 3 ? 3 : 0]);
        else if (on)
            p.out[row * d + channel] = y[0];
        if (p.alpha && lane == 0 && slice == 0)
            p.alpha[row] = mix.alpha;
    }
}

/* One warp a CTA; its registers fit beside a CTA of decode. */
static __global__ void __launch_bounds__(32) merge(const __grid_constant__ Params p)
{
    extern __shared__ __align__(128) uint8_t shared[];
    launch_next();
    const Header h = *reinterpret_cast<const Header *>(p.plan);
    if (h.merge_narrow)
        merge_rows<1>(p, h, threadIdx.x, make_room<1>(shared, MERGE_BYTES));
    else
        merge_rows<4>(p, h, threadIdx.x, make_room<4>(shared, MERGE_BYTES));
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
