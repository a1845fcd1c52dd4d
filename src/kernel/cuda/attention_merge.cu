/* States of split work → outputs: one CTA of 4 warps per (token, head, slice of channels), in canonical order
 * (arithmetic §6: spans into their chunk, chunks in order, then the mix of the two segments). The pieces of
 * both segments are one list: their heads, one a thread, and all their channels are in flight at once; the
 * factors of all are worked out side by side; what is left to do in order is two operations a piece and
 * channel. */
#include "kernel/cuda/async.cuh"
#include "kernel/cuda/attention_mix.cuh"

namespace fp
{
namespace attn
{

/* What one piece does to a row:
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
/* Shared memory: factors of up to max(32, batch) pieces, o of `batch`. */
struct Table {
    Factor *factor;
    Piece *piece;
    float *o; // [batch][channels of the slice]
    uint32_t batch;
};
static_assert(sizeof(Factor) + sizeof(Piece) == MERGE_FACTOR_BYTES, "the plan knows what a piece takes");
static __device__ __forceinline__ Table make_room(uint8_t *shared, uint32_t bytes, uint32_t channels)
{
    Table t;
    uint32_t many = min(bytes / (MERGE_FACTOR_BYTES + 4 * channels) / 32 * 32, (uint32_t)MERGE_THREADS);
    t.batch = many ? many : (bytes - 32 * MERGE_FACTOR_BYTES) / (4 * channels);
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

/* Of the pieces of a batch, behind the last BEFORE ones of the batch before it (a chunk has at most 4
 * pieces). */
constexpr uint32_t BEFORE = 4;
struct Heads {
    float m[BEFORE + MERGE_THREADS];
    uint32_t starts[BEFORE + MERGE_THREADS];
    float top[BEFORE + MERGE_THREADS]; /* largest m of the segment so far */
};

/* Factors of piece from + threadIdx.x, below end. carry: top of the piece before `from`. Returns whether all
 * pieces are chunks. */
static __device__ __forceinline__ bool make_factors(const Params &p, const RowPieces &rows, uint32_t from,
                                                    uint32_t end, float carry, Heads &heads,
                                                    const Table &table)
{
    uint32_t tid = threadIdx.x, lane = tid % 32, i = from + tid, at = BEFORE + tid;
    bool valid = i < end, next_starts = true, starts = true;
    float m = FP_NEG_INF, l = 0.0f;
    if (valid) {
        uint4 bits = __ldcg(reinterpret_cast<const uint4 *>(p.heads + rows.row(i)));
        if (i + 1 < rows.all && i + 1 != rows.anchors)
            next_starts = __ldcg(&p.heads[rows.row(i + 1)].starts_chunk);
        m = __uint_as_float(bits.x), l = __uint_as_float(bits.y), starts = bits.z;
    }
    heads.m[at] = m;
    heads.starts[at] = starts;
    __syncthreads();
    float before = FP_NEG_INF; /* largest m of the chunk before this piece */
    uint32_t back = 0;         /* pieces to the first of the chunk */
    for (bool begun = starts; !begun && back < BEFORE - 1;) {
        back++;
        before = fmaxf(before, heads.m[at - back]);
        begun = heads.starts[at - back];
    }
    float high = fmaxf(before, m), top = m, older = FP_NEG_INF;
    uint32_t warp_from = i - lane, segment = rows.anchors <= warp_from ? max(rows.anchors, from) : from;
    for (uint32_t j = segment + lane; j < warp_from; j += 32)
        older = fmaxf(older, heads.m[BEFORE + j - from]);
#pragma unroll
    for (int k = 1; k < 32; k *= 2)
        older = fmaxf(older, __shfl_xor_sync(~0u, older, k));
    if (segment == from && rows.anchors != from)
        older = fmaxf(older, carry);
    int first = i >= rows.anchors && rows.anchors >= warp_from ? (int)(rows.anchors - warp_from) : -1;
#pragma unroll
    for (int k = 1; k < 32; k *= 2) {
        float other = __shfl_up_sync(~0u, top, k);
        if ((int)lane >= k && (int)lane - k >= first)
            top = fmaxf(top, other);
    }
    if (first < 0)
        top = fmaxf(top, older);
    heads.top[at] = top;
    __syncthreads();
    uint32_t chunk = i - back; /* its first piece */
    float top_before = chunk == 0 || chunk == rows.anchors ? FP_NEG_INF : heads.top[at - back - 1];
    bool live = m != FP_NEG_INF, ends = valid && next_starts && high != FP_NEG_INF;
    if (tid < max(32u, end - from)) {
        Factor f;
        f.a = live ? exp2c(__fsub_rn(before, high)) : 1.0f;
        f.b = live ? exp2c(__fsub_rn(m, high)) : -0.0f; /* (+0)·(-0): nothing is added, -0 included */
        f.up = exp2c(__fsub_rn(top_before, top));
        f.down = exp2c(__fsub_rn(high, top));
        if (tid < end - from) {
            table.factor[tid] = f;
            table.piece[tid] = {l, (starts ? START : 0u) | (ends ? END : 0u)};
        }
    }
    return __syncthreads_and(!valid || (starts && ends));
}

/* Channels slice·C.. of all pieces of a batch → table.o. */
template <int C>
static __device__ __forceinline__ void fetch_states(const Params &p, const RowPieces &rows, uint32_t from,
                                                    uint32_t end, uint32_t slice, const Table &table)
{
    uint32_t part = threadIdx.x % (C / 4) * 4, channel = slice * C + part;
    for (uint32_t i = from + threadIdx.x / (C / 4); i < end && channel < p.d; i += MERGE_THREADS / (C / 4))
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                         shared_address(table.o + (i - from) * C + part)),
                     "l"(__cvta_generic_to_global(p.states + rows.row(i) * p.d + channel))
                     : "memory");
}

struct Sum {
    float l, o;
};
static __device__ __forceinline__ void take_piece(const Factor &f, const Piece &piece, float o, Sum &chunk,
                                                  Sum &total)
{
    bool start = piece.flags & START, end = piece.flags & END;
    float l = __fmaf_rn(chunk.l, f.a, __fmul_rn(piece.l, f.b)),
          x = __fmaf_rn(chunk.o, f.a, __fmul_rn(o, f.b));
    chunk.l = start ? piece.l : l;
    chunk.o = start ? o : x;
    l = __fmaf_rn(total.l, f.up, __fmul_rn(chunk.l, f.down)),
    x = __fmaf_rn(total.o, f.up, __fmul_rn(chunk.o, f.down));
    total.l = end ? l : total.l;
    total.o = end ? x : total.o;
}

/* Pieces from, …, end - 1 of a batch, all of one segment, one channel. */
template <int C>
static __device__ __forceinline__ void chain_pieces(const Table &table, uint32_t from, uint32_t end,
                                                    bool simple, Sum &chunk, Sum &total)
{
    const float *o = table.o + threadIdx.x % C;
    if (simple) {
#pragma unroll 8
        for (uint32_t i = from; i < end; i++) {
            float up = table.factor[i].up, down = table.factor[i].down;
            total.l = __fmaf_rn(total.l, up, __fmul_rn(table.piece[i].l, down));
            total.o = __fmaf_rn(total.o, up, __fmul_rn(o[i * C], down));
        }
    } else {
#pragma unroll 4
        for (uint32_t i = from; i < end; i++)
            take_piece(table.factor[i], table.piece[i], o[i * C], chunk, total);
    }
}

/* Chain of all pieces of one row; of each thread below C, one channel. */
template <int C>
static __device__ __forceinline__ void merge_pieces(const Params &p, const RowPieces &rows, uint32_t slice,
                                                    const Table &table, Heads &heads, Sum (&sum)[2],
                                                    float (&m)[2])
{
    Sum chunk = {};
    sum[0] = sum[1] = {};
    m[0] = m[1] = FP_NEG_INF;
    float carry = FP_NEG_INF;
    for (uint32_t from = 0; from < rows.all; from += table.batch) {
        uint32_t end = min(from + table.batch, rows.all), n = end - from;
        __syncthreads();
        if (from && threadIdx.x < BEFORE) { /* BEFORE ≤ batch: the places do not overlap */
            heads.m[threadIdx.x] = heads.m[table.batch + threadIdx.x];
            heads.starts[threadIdx.x] = heads.starts[table.batch + threadIdx.x];
            heads.top[threadIdx.x] = heads.top[table.batch + threadIdx.x];
        }
        __syncthreads();
        fetch_states<C>(p, rows, from, end, slice, table);
        bool simple = make_factors(p, rows, from, end, carry, heads, table);
        asm volatile("cp.async.wait_all;" ::: "memory");
        __syncthreads();
        carry = heads.top[BEFORE + n - 1];
        if (rows.anchors > from)
            m[0] = heads.top[BEFORE + min(rows.anchors, end) - 1 - from];
        if (rows.all > rows.anchors && end > rows.anchors)
            m[1] = carry;
        uint32_t anchors = rows.anchors <= from ? 0 : min(rows.anchors - from, n);
        if (threadIdx.x < C) {
            chain_pieces<C>(table, 0, anchors, simple, chunk, sum[0]);
            chain_pieces<C>(table, anchors, n, simple, chunk, sum[1]);
        }
    }
}

static __device__ __forceinline__ uint32_t find_pieces(const Params &p, const MergeSegment &s,
                                                       uint32_t kv_head, uint32_t g, size_t &first,
                                                       uint32_t &stride)
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

template <int C>
static __device__ __forceinline__ void merge_rows(const Params &p, const Header &h, uint8_t *shared,
                                                  Heads &heads)
{
    Table table = make_room(shared, p.merge_bytes, C);
    uint32_t d = p.d, slices = (d + C - 1) / C, tasks = h.merge_tokens * p.heads_q * slices;
    for (uint32_t task = blockIdx.x; task < tasks; task += gridDim.x) {
        uint32_t slice = task % slices, head = task / slices % p.heads_q, at = task / slices / p.heads_q;
        const MergeToken token = reinterpret_cast<const MergeToken *>(p.plan + h.merge_at)[at];
        uint32_t channel = slice * C + threadIdx.x, kv_head = head / p.group, g = head % p.group;
        RowPieces rows;
        rows.anchors = find_pieces(p, token.segment[0], kv_head, g, rows.first[0], rows.stride[0]);
        rows.all = rows.anchors + find_pieces(p, token.segment[1], kv_head, g, rows.first[1], rows.stride[1]);
        wait_previous(); /* the plan is older than the step, the states are not */
        uint32_t gamma = p.gamma ? p.gamma[(size_t)token.gamma_row * p.heads_q + head] : 0;
        Sum sum[2];
        float m[2];
        merge_pieces<C>(p, rows, slice, table, heads, sum, m);
        if (threadIdx.x >= C || channel >= d)
            continue;
        Mix mix = mix_shares(m[0], sum[0].l, m[1], sum[1].l, token.mode, gamma);
        size_t row = (size_t)token.token * p.heads_q + head;
        p.out[row * d + channel] = mix_channel(mix, sum[0].o, sum[0].l, sum[1].o, sum[1].l);
        if (p.alpha && channel == 0)
            p.alpha[row] = mix.alpha;
    }
}

/* Registers and shared memory of a CTA fit beside a CTA of decode. */
static __global__ void __launch_bounds__(MERGE_THREADS) merge(const __grid_constant__ Params p)
{
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ Heads heads;
    launch_next();
    const Header h = *reinterpret_cast<const Header *>(p.plan);
    if (h.merge_narrow)
        merge_rows<32>(p, h, shared, heads);
    else
        merge_rows<128>(p, h, shared, heads);
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
