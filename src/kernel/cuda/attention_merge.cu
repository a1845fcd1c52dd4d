/* States of split work → outputs, in canonical order (arithmetic §6: spans into their chunk, chunks in order,
 * then the mix of the two segments). The pieces of both segments of a row are one list. Two ways:
 *
 *  - few rows: a CTA takes 32 channels of a row. The heads of all pieces, one a thread, and all channels are
 * in flight at once; the factors of all are worked out side by side; what is left to do in order is two
 * operations a piece and channel.
 *  - many: a warp takes one row after the other, 32 to 128 channels of it, and goes through its pieces. They
 * come through a ring in shared memory that runs ahead over rows. */
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
/* Shared memory of a CTA: factors and o of a batch of pieces. */
struct Table {
    Factor *factor;
    Piece *piece;
    float *o; // [batch][NARROW]
    uint32_t batch;
};
static_assert(sizeof(Factor) + sizeof(Piece) == MERGE_FACTOR_BYTES, "the plan knows what a piece takes");
constexpr int NARROW = 32; /* channels of a CTA's slice */
static __device__ __forceinline__ Table make_room(uint8_t *shared, uint32_t bytes)
{
    Table t;
    t.batch = min(bytes / (MERGE_FACTOR_BYTES + 4 * NARROW) / 32 * 32, (uint32_t)MERGE_THREADS);
    t.factor = reinterpret_cast<Factor *>(shared);
    t.piece = reinterpret_cast<Piece *>(t.factor + t.batch);
    t.o = reinterpret_cast<float *>(t.piece + t.batch);
    return t;
}

/* What the plan says of a row. Its pieces: the anchor's, then the context's. */
struct Row {
    uint32_t anchors, all;
    uint32_t first[2], stride[2]; /* state rows */
    uint32_t out, mode, gamma_at; /* out: token·H + head */

    __device__ __forceinline__ uint32_t piece(uint32_t i) const
    {
        return i < anchors ? first[0] + i * stride[0] : first[1] + (i - anchors) * stride[1];
    }
};

static __device__ __forceinline__ uint32_t find_pieces(const Params &p, const uint4 &segment,
                                                       uint32_t kv_head, uint32_t g, uint32_t &first,
                                                       uint32_t &stride)
{
    first = stride = 0;
    if (segment.x == 0) /* a MergeSegment: blocks, row, rows_per_stream, stream_at */
        return 0;
    uint32_t row = segment.y + g, block = row / segment.z;
    uint4 stream = __ldg(reinterpret_cast<const uint4 *>(p.plan + segment.w + block * 4));
    stride = stream.w; /* a MergeStream: state, stride, pieces, rows */
    first = stream.x + kv_head * stream.y + row % segment.z;
    return stream.z;
}
static_assert(sizeof(MergeToken) == 48 && sizeof(MergeStream) == 16, "they are read 16 bytes at a time");

static __device__ __forceinline__ Row find_row(const Params &p, const Header &h, uint32_t number)
{
    Row r;
    uint32_t head = number % p.heads_q, kv_head = head / p.group, g = head % p.group;
    const uint4 *at = reinterpret_cast<const uint4 *>(p.plan + h.merge_at) + number / p.heads_q * 3;
    uint4 token = __ldg(at), anchor = __ldg(at + 1), context = __ldg(at + 2);
    r.out = token.x * p.heads_q + head;
    r.mode = token.y;
    r.gamma_at = token.z * p.heads_q + head;
    r.anchors = find_pieces(p, anchor, kv_head, g, r.first[0], r.stride[0]);
    r.all = r.anchors + find_pieces(p, context, kv_head, g, r.first[1], r.stride[1]);
    return r;
}

/* m and l of a segment, and of some channels o. */
template <int N> struct Sum {
    float m, l, o[N];
    __device__ __forceinline__ void clear()
    {
        m = FP_NEG_INF, l = 0.0f;
#pragma unroll
        for (int c = 0; c < N; c++)
            o[c] = 0.0f;
    }
};

/* A row's outputs, channel and those behind it. `write` is false in a rehearsal. */
template <int N>
static __device__ __forceinline__ void write_outputs(const Params &p, const Row &row, uint32_t gamma,
                                                     uint32_t channel, const Sum<N> &anchor,
                                                     const Sum<N> &context, bool write)
{
    Mix mix = mix_shares(anchor.m, anchor.l, context.m, context.l, row.mode, gamma);
#pragma unroll
    for (int c = 0; c < N; c++) {
        float x = mix_channel(mix, anchor.o[c], anchor.l, context.o[c], context.l);
        if (write && channel + c < p.d)
            p.out[(size_t)row.out * p.d + channel + c] = x;
    }
    if (write && p.alpha && channel == 0)
        p.alpha[row.out] = mix.alpha;
}

/* Starts a copy of 16 bytes to shared memory. */
static __device__ __forceinline__ void copy_piece(void *to, const void *from)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to)),
                 "l"(__cvta_generic_to_global(from))
                 : "memory");
}

/* ---- a CTA a row ----------------------------------------------------------------------------------------
 */

/* Of the pieces of a batch, behind the last BEFORE ones of the batch before it (a chunk has at most 4
 * pieces). */
constexpr uint32_t BEFORE = 4;
struct Heads {
    float m[BEFORE + MERGE_THREADS];
    uint32_t starts[BEFORE + MERGE_THREADS];
    float top[BEFORE + MERGE_THREADS]; /* largest m of the segment so far */
};

/* Factors of piece from + threadIdx.x, below end. carry: top of the piece before `from`. */
static __device__ __forceinline__ void make_factors(const Params &p, const Row &row, uint32_t from,
                                                    uint32_t end, float carry, Heads &heads,
                                                    const Table &table)
{
    uint32_t tid = threadIdx.x, lane = tid % 32, i = from + tid, at = BEFORE + tid;
    bool valid = i < end, next_starts = true, starts = true;
    float m = FP_NEG_INF, l = 0.0f;
    if (valid) {
        uint4 bits = __ldcg(reinterpret_cast<const uint4 *>(p.heads + row.piece(i)));
        if (i + 1 < row.all && i + 1 != row.anchors)
            next_starts = __ldcg(&p.heads[row.piece(i + 1)].starts_chunk);
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
    uint32_t warp_from = i - lane, segment = row.anchors <= warp_from ? max(row.anchors, from) : from;
    for (uint32_t j = segment + lane; j < warp_from; j += 32)
        older = fmaxf(older, heads.m[BEFORE + j - from]);
#pragma unroll
    for (int k = 1; k < 32; k *= 2)
        older = fmaxf(older, __shfl_xor_sync(~0u, older, k));
    if (segment == from && row.anchors != from)
        older = fmaxf(older, carry);
    int first = i >= row.anchors && row.anchors >= warp_from ? (int)(row.anchors - warp_from) : -1;
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
    float top_before = chunk == 0 || chunk == row.anchors ? FP_NEG_INF : heads.top[at - back - 1];
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
    __syncthreads();
}

/* Channels slice·NARROW.. of all pieces of a batch → table.o. */
static __device__ __forceinline__ void fetch_states(const Params &p, const Row &row, uint32_t from,
                                                    uint32_t end, uint32_t slice, const Table &table)
{
    constexpr uint32_t LANES = NARROW / 4; /* of a piece */
    uint32_t part = threadIdx.x % LANES * 4, channel = slice * NARROW + part;
    for (uint32_t i = from + threadIdx.x / LANES; i < end && channel < p.d; i += MERGE_THREADS / LANES)
        copy_piece(table.o + (i - from) * NARROW + part, p.states + (size_t)row.piece(i) * p.d + channel);
}

static __device__ __forceinline__ void take_piece(const Factor &f, const Piece &piece, float o, Sum<1> &chunk,
                                                  Sum<1> &total)
{
    bool start = piece.flags & START, end = piece.flags & END;
    float l = __fmaf_rn(chunk.l, f.a, __fmul_rn(piece.l, f.b)),
          x = __fmaf_rn(chunk.o[0], f.a, __fmul_rn(o, f.b));
    chunk.l = start ? piece.l : l;
    chunk.o[0] = start ? o : x;
    l = __fmaf_rn(total.l, f.up, __fmul_rn(chunk.l, f.down)),
    x = __fmaf_rn(total.o[0], f.up, __fmul_rn(chunk.o[0], f.down));
    total.l = end ? l : total.l;
    total.o[0] = end ? x : total.o[0];
}

/* Pieces from, …, end - 1 of a batch, all of one segment, one channel. */
static __device__ __forceinline__ void chain_pieces(const Table &table, uint32_t from, uint32_t end,
                                                    Sum<1> &chunk, Sum<1> &total)
{
    uint32_t lane = threadIdx.x % NARROW;
    const float *o = table.o + lane;
    for (uint32_t next; from < end; from = next) {
        next = min(from + 32, end);
        bool whole = from + lane >= next || table.piece[from + lane].flags == (START | END);
        if (__all_sync(~0u, whole)) { /* chunks */
#pragma unroll 8
            for (uint32_t i = from; i < next; i++) {
                float up = table.factor[i].up, down = table.factor[i].down;
                total.l = __fmaf_rn(total.l, up, __fmul_rn(table.piece[i].l, down));
                total.o[0] = __fmaf_rn(total.o[0], up, __fmul_rn(o[i * NARROW], down));
            }
        } else {
#pragma unroll 4
            for (uint32_t i = from; i < next; i++)
                take_piece(table.factor[i], table.piece[i], o[i * NARROW], chunk, total);
        }
    }
}

/* Chain of all pieces of one row; of each thread below NARROW, one channel. */
static __device__ __forceinline__ void chain_row(const Params &p, const Row &row, uint32_t slice,
                                                 const Table &table, Heads &heads, Sum<1> (&sum)[2])
{
    Sum<1> chunk;
    chunk.clear(), sum[0].clear(), sum[1].clear();
    float carry = FP_NEG_INF;
    for (uint32_t from = 0; from < row.all; from += table.batch) {
        uint32_t end = min(from + table.batch, row.all), n = end - from;
        __syncthreads();
        if (from && threadIdx.x < BEFORE) { /* BEFORE ≤ batch: the places do not overlap */
            heads.m[threadIdx.x] = heads.m[table.batch + threadIdx.x];
            heads.starts[threadIdx.x] = heads.starts[table.batch + threadIdx.x];
            heads.top[threadIdx.x] = heads.top[table.batch + threadIdx.x];
        }
        __syncthreads();
        fetch_states(p, row, from, end, slice, table);
        make_factors(p, row, from, end, carry, heads, table);
        asm volatile("cp.async.wait_all;" ::: "memory");
        __syncthreads();
        carry = heads.top[BEFORE + n - 1];
        if (row.anchors > from)
            sum[0].m = heads.top[BEFORE + min(row.anchors, end) - 1 - from];
        if (row.all > row.anchors && end > row.anchors)
            sum[1].m = carry;
        uint32_t anchors = row.anchors <= from ? 0 : min(row.anchors - from, n);
        if (threadIdx.x < NARROW) {
            chain_pieces(table, 0, anchors, chunk, sum[0]);
            chain_pieces(table, anchors, n, chunk, sum[1]);
        }
    }
}

/* The first row is rehearsed while decode runs, on whatever is there: the code is then in the instruction
 * caches when it counts. */
static __device__ __forceinline__ void merge_by_ctas(const Params &p, const Header &h, uint8_t *shared)
{
    Heads &heads = *reinterpret_cast<Heads *>(shared);
    Table table = make_room(shared + sizeof(Heads), p.merge_bytes - (uint32_t)sizeof(Heads));
    uint32_t slices = (p.d + NARROW - 1) / NARROW, tasks = h.merge_tokens * p.heads_q * slices;
    bool waited = false, known = false;
    Row row;
#pragma unroll 1
    for (uint32_t task = blockIdx.x; task < tasks;) {
        if (!known)
            row = find_row(p, h, task / slices);
        uint32_t slice = task % slices, gamma = p.gamma ? p.gamma[row.gamma_at] : 0;
        Sum<1> sum[2];
        chain_row(p, row, slice, table, heads, sum);
        write_outputs<1>(p, row, gamma, slice * NARROW + threadIdx.x, sum[0], sum[1],
                         waited && threadIdx.x < NARROW);
        known = !waited;
        if (waited) {
            task += gridDim.x;
        } else {
            wait_previous(); /* the plan is older than the step, the states are not */
            waited = true;
        }
    }
}

/* ---- a warp a row ---------------------------------------------------------------------------------------
 */

constexpr uint32_t WARPS_OF_MERGE = MERGE_THREADS / 32;
constexpr uint32_t BATCH = 4; /* pieces that are fetched and taken together */

/* A place of the ring. */
template <int C> struct Place {
    uint4 head[BATCH]; /* StateHead */
    float o[BATCH][C];
};

/* Waits until at most `pending` of this thread's groups of copies are under way. */
static __device__ __forceinline__ void wait_copies(uint32_t pending)
{
    if (pending >= 3)
        asm volatile("cp.async.wait_group 3;" ::: "memory");
    else if (pending == 2)
        asm volatile("cp.async.wait_group 2;" ::: "memory");
    else
        asm volatile("cp.async.wait_group 1;" ::: "memory");
}

/* What a warp fetches: pieces from piece on of the row that lane `row` knows. */
struct Fetch {
    uint32_t row, piece, slot;
};

/* The next pieces of a row into the next place; an empty group behind the last. */
template <int C>
static __device__ __forceinline__ void fetch_pieces(const Params &p, const Row &mine, uint32_t rows,
                                                    uint32_t slices, uint32_t first, uint32_t stride,
                                                    Place<C> *ring, uint32_t places, uint32_t lane, Fetch &at)
{
    constexpr uint32_t LANES = C / 4; /* of a piece */
    if (at.row < rows) {
        Row row;
        row.anchors = __shfl_sync(~0u, mine.anchors, at.row), row.all = __shfl_sync(~0u, mine.all, at.row);
#pragma unroll
        for (int s = 0; s < 2; s++) {
            row.first[s] = __shfl_sync(~0u, mine.first[s], at.row);
            row.stride[s] = __shfl_sync(~0u, mine.stride[s], at.row);
        }
        uint32_t channel = (first + at.row * stride) % slices * C + lane % LANES * 4;
        Place<C> &to = ring[at.slot];
        if (lane < BATCH && at.piece + lane < row.all)
            copy_piece(&to.head[lane], p.heads + row.piece(at.piece + lane));
#pragma unroll
        for (uint32_t k = lane / LANES; k < BATCH; k += 32 / LANES)
            if (at.piece + k < row.all && channel < p.d)
                copy_piece(&to.o[k][lane % LANES * 4],
                           p.states + (size_t)row.piece(at.piece + k) * p.d + channel);
        at.piece += BATCH;
        if (at.piece >= row.all)
            at.piece = 0, at.row++;
        if (++at.slot == places)
            at.slot = 0;
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
}

template <int N> static __device__ __forceinline__ void load_channels(const float *from, float (&o)[N])
{
    static_assert(N == 1 || N == 2 || N == 4, "a load's width");
    if constexpr (N == 4) {
        float4 v = *reinterpret_cast<const float4 *>(from);
        o[0] = v.x, o[1] = v.y, o[2] = v.z, o[3] = v.w;
    } else if constexpr (N == 2) {
        float2 v = *reinterpret_cast<const float2 *>(from);
        o[0] = v.x, o[1] = v.y;
    } else {
        o[0] = *from;
    }
}

/* A state with m, l, o merged into one. */
template <int N>
static __device__ __forceinline__ void take(Sum<N> &into, float m, float l, const float (&o)[N])
{
    float high = fmaxf(into.m, m), a = exp2c(__fsub_rn(into.m, high)), b = exp2c(__fsub_rn(m, high));
    bool live = m != FP_NEG_INF;
    into.m = high;
    float merged = __fmaf_rn(into.l, a, __fmul_rn(l, b));
    into.l = live ? merged : into.l;
#pragma unroll
    for (int c = 0; c < N; c++) {
        merged = __fmaf_rn(into.o[c], a, __fmul_rn(o[c], b));
        into.o[c] = live ? merged : into.o[c];
    }
}

/* What a row's pieces give so far: chunk is not yet in total; total is of the anchor until the context
 * begins. */
template <int N> struct Chain {
    Sum<N> chunk, total, anchor;
};

/* Pieces i, … of a row, at most BATCH. */
template <int C>
static __device__ __forceinline__ void take_pieces(const Place<C> &at, uint32_t i, uint32_t anchors,
                                                   uint32_t all, uint32_t lane, Chain<C / 32> &chain)
{
    constexpr int N = C / 32;
#pragma unroll
    for (uint32_t k = 0; k < BATCH; k++) {
        if (i + k >= all)
            break;
        uint4 head = at.head[k];
        float m = __uint_as_float(head.x), l = __uint_as_float(head.y), o[N];
        load_channels<N>(&at.o[k][lane * N], o);
        if (i + k != 0 && i + k != anchors && !head.z) { /* a span of a chunk that has begun */
            take<N>(chain.chunk, m, l, o);
            continue;
        }
        take<N>(chain.total, chain.chunk.m, chain.chunk.l, chain.chunk.o);
        if (i + k == anchors) {
            chain.anchor = chain.total;
            chain.total.clear();
        }
        chain.chunk.m = m, chain.chunk.l = l;
#pragma unroll
        for (int c = 0; c < N; c++)
            chain.chunk.o[c] = o[c];
    }
}

/* The first row is rehearsed, as above. */
template <int C>
static __device__ __forceinline__ void merge_by_warps(const Params &p, const Header &h, uint8_t *shared)
{
    constexpr int N = C / 32; /* channels of a lane */
    uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32,
             bytes = p.merge_bytes / WARPS_OF_MERGE / 16 * 16,
             places = min(bytes / (uint32_t)sizeof(Place<C>), 4u), slices = (p.d + C - 1) / C,
             tasks = h.merge_tokens * p.heads_q * slices, stride = WARPS_OF_MERGE * gridDim.x;
    Place<C> *ring = reinterpret_cast<Place<C> *>(shared + warp * bytes);
    bool waited = false, known = false;
    Row mine; /* of up to 32 rows; a lane knows of one */
#pragma unroll 1
    for (uint32_t first = warp * gridDim.x + blockIdx.x; first < tasks;) {
        uint32_t rows = min((tasks - first + stride - 1) / stride, 32u);
        if (!known)
            mine = find_row(p, h, min(first + lane * stride, tasks - 1) / slices);
        if (!waited)
            rows = 1;
        uint32_t mine_gamma = p.gamma ? p.gamma[mine.gamma_at] : 0, slot = 0;
        Fetch fetch = {0, 0, 0};
        for (uint32_t n = 1; n < places; n++)
            fetch_pieces<C>(p, mine, rows, slices, first, stride, ring, places, lane, fetch);
#pragma unroll 1
        for (uint32_t r = 0; r < rows; r++) {
            uint32_t anchors = __shfl_sync(~0u, mine.anchors, r), all = __shfl_sync(~0u, mine.all, r);
            Chain<N> chain;
            chain.chunk.clear(), chain.total.clear(), chain.anchor.clear();
#pragma unroll 1
            for (uint32_t i = 0; i < all; i += BATCH) {
                fetch_pieces<C>(p, mine, rows, slices, first, stride, ring, places, lane, fetch);
                wait_copies(places - 1);
                __syncwarp();
                take_pieces<C>(ring[slot], i, anchors, all, lane, chain);
                __syncwarp(); /* the place is filled again */
                if (++slot == places)
                    slot = 0;
            }
            take<N>(chain.total, chain.chunk.m, chain.chunk.l, chain.chunk.o);
            if (anchors == all) {
                chain.anchor = chain.total;
                chain.total.clear();
            }
            Row row;
            row.out = __shfl_sync(~0u, mine.out, r), row.mode = __shfl_sync(~0u, mine.mode, r);
            uint32_t gamma = __shfl_sync(~0u, mine_gamma, r);
            write_outputs<N>(p, row, gamma, (first + r * stride) % slices * C + lane * N, chain.anchor,
                             chain.total, waited);
        }
        known = !waited;
        if (waited) {
            first += 32 * stride;
        } else {
            wait_previous();
            waited = true;
        }
    }
}

/* One CTA a multiprocessor: registers and shared memory fit beside a CTA of decode. So all begin while decode
 * runs, and the kernel after this one need not wait for a place. */
static __global__ void __maxnreg__(MERGE_REGISTERS) merge(const __grid_constant__ Params p)
{
    extern __shared__ __align__(128) uint8_t shared[];
    launch_next();
    const Header h = *reinterpret_cast<const Header *>(p.plan);
    switch (h.merge_form) {
    case MERGE_CTA:
        merge_by_ctas(p, h, shared);
        break;
    case MERGE_WARP_32:
        merge_by_warps<32>(p, h, shared);
        break;
    case MERGE_WARP_64:
        merge_by_warps<64>(p, h, shared);
        break;
    default:
        merge_by_warps<128>(p, h, shared);
    }
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
