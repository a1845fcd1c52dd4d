/* §2 to §4 for one token in one kernel: norm, quantiser and product.
 *
 * Each block makes the whole activation for itself, in shared memory: that takes no longer than in a kernel
 * of its own, and needs neither a launch nor a way through memory; its first weights arrive meanwhile.
 *
 * One block per multiprocessor, of three kinds of warps that never wait for all others:
 *  - the fetcher keeps a ring of pieces filled. A piece is up to 4 units that lie one behind the other. It
 *    asks for what keeps memory busy, not for a whole ring at once: the activation would have to queue behind
 *    that. It takes groups of row tiles from a counter, as multiprocessors differ in how fast memory serves
 *    them, by up to a half; the first ones are fixed, and the next is asked for while one is on its way.
 *  - 16 workers in 4 teams: a team has every fourth piece, each of its warps one unit of it. With one token
 *    all 8 columns of an m16n8k32 are the same, and the four lanes of a row have the same sums: two of them
 *    work on row g, two on row g + 8.
 *  - the adder adds the segments of a row in order and writes outputs.
 *
 * The ring is filled while the kernel before still runs, since weights depend on nothing. */
#include "kernel/cuda/canon.cuh"
#include "kernel/cuda/launch.cuh"
#include "kernel/cuda/quantise.cuh"
#include "kernel/cuda/wtile.cuh"

namespace fp
{

static constexpr uint32_t WORKERS = 16, TEAM = 4, TEAMS = WORKERS / TEAM, FETCHER = WORKERS,
                          ADDER = WORKERS + 1, WARPS = WORKERS + 2;
static constexpr uint32_t PIECES = 24; /* most of a ring */
static constexpr uint32_t RING_BYTES = 150 * 1024, UNDER_WAY_BYTES = 48 * 1024;
static constexpr uint32_t NONE = ~0u;
/* Bytes of the largest unit whose kernel does with 56 registers a thread without spilling: half a percent
 * faster than with the 75 that the compiler would take. */
static constexpr uint32_t FEW_REGISTERS = 2816;

/* Activations in shared memory, of a segment: q [pair 4][c 4][block 2]{ inputs 4c..4c+3, 16+4c..16+4c+3 },
 * then d [block 8], then ds [block 8]. */
static constexpr uint32_t ACT_D = 256, ACT_DS = 288, ACT_BYTES = 320;

struct token_args {
    const uint8_t *weights;
    const float *x, *norm, *bias, *residual;
    float *y;
    uint32_t *error, *taken;
    float eps;
    uint32_t code, width, rows, tiles, segments, gated;
    uint32_t pieces, under_way;   /* of the ring; the most that are asked for and not there */
    uint32_t group_tiles, groups; /* a group: tiles that are taken together */
    uint32_t fixed;               /* groups of a block that are not taken from the counter */
};

/* What lies in a place of the ring. */
struct piece_name {
    uint32_t group, first; /* unit of the group */
};

struct alignas(128) shared_state {
    uint64_t full[PIECES], empty[PIECES], begun[2], summed[2], added[2];
    piece_name name[PIECES];
    uint32_t group[2]; /* whose sums a buffer has */
    float given[2];    /* the norm's factor, and whether it is good */
};

static __device__ __forceinline__ void note(const token_args &a, uint32_t code)
{
    if (blockIdx.x == 0)
        atomicMin(a.error, code);
}

/* Inputs i..i + 3; eight lanes have a block. */
template <bool SUMS> static __device__ __forceinline__ bool put_quad(uint8_t *act, uint32_t i, float4 v)
{
    quad_quants q;
    bool ok = quantise_quad<SUMS>(v, q);
    uint32_t block = i / 32 % 8, word = i % 32 / 4;
    uint8_t *segment = act + i / 256 * ACT_BYTES;
    *(uint32_t *)(segment + block / 2 * 64 + word % 4 * 16 + block % 2 * 8 + word / 4 * 4) = q.q;
    if (word == 0) {
        *(float *)(segment + ACT_D + block * 4) = q.d;
        if (SUMS)
            *(float *)(segment + ACT_DS + block * 4) = q.ds;
    }
    return ok;
}

static __device__ __forceinline__ float4 load_quad(const token_args &a, uint32_t i)
{
    if (i >= a.width)
        return make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    return __ldcg((const float4 *)(a.x + i)); /* another kernel's: not by the way for constants */
}

static constexpr uint32_t STEP = WORKERS * 32 * 4; /* inputs that the workers take at once */

template <bool SUMS> static __device__ __forceinline__ void quantise_input(const token_args &a, uint8_t *act)
{
    constexpr uint32_t BATCH = 8;
    uint32_t n = a.segments * 256;
    bool ok = true;
    wait_previous();
#pragma unroll 1
    for (uint32_t first = 4 * threadIdx.x; first < n; first += BATCH * STEP) {
        float4 v[BATCH];
#pragma unroll
        for (uint32_t k = 0; k < BATCH; k++)
            v[k] = load_quad(a, first + k * STEP);
#pragma unroll
        for (uint32_t k = 0; k < BATCH; k++)
            if (first + k * STEP < n) /* whole warps */
                ok &= put_quad<SUMS>(act, first + k * STEP, v[k]);
    }
    if (!ok)
        note(a, a.code);
}

/* §2: the sum of squares by one warp, from shared memory. */
static __device__ __forceinline__ float sum_squares(const float *row, uint32_t width)
{
    constexpr uint32_t BATCH = 16;
    uint32_t n = width / 32, k = 0;
    const float *at = row + threadIdx.x % 32;
    float sum = 0.0f;
#pragma unroll 2
    for (; k + BATCH <= n; k += BATCH) {
        float v[BATCH];
#pragma unroll
        for (uint32_t j = 0; j < BATCH; j++)
            v[j] = at[(k + j) * 32];
#pragma unroll
        for (uint32_t j = 0; j < BATCH; j++)
            sum = __fmaf_rn(v[j], v[j], sum);
    }
#pragma unroll 1
    for (; k < n; k++)
        sum = __fmaf_rn(at[k * 32], at[k * 32], sum);
    return sum;
}

/* row: [width] in shared memory. Workers only. */
template <bool SUMS>
static __device__ __forceinline__ void norm_input(const token_args &a, uint8_t *act, float *row, float *given)
{
    constexpr uint32_t READY = 2; /* quads of the norm's weights that a thread has before it waits */
    uint32_t n = a.segments * 256;
    float4 ready[READY];
#pragma unroll
    for (uint32_t k = 0; k < READY; k++)
        if (4 * threadIdx.x + k * STEP < a.width)
            ready[k] = *(const float4 *)(a.norm + 4 * threadIdx.x + k * STEP);
    wait_previous();
#pragma unroll 2
    for (uint32_t i = 4 * threadIdx.x; i < a.width; i += STEP)
        *(float4 *)(row + i) = load_quad(a, i);
    asm volatile("bar.sync 1, %0;" ::"n"(WORKERS * 32) : "memory");
    if (threadIdx.x < 32) {
        float r, sum = fold(sum_squares(row, a.width));
        bool ok = norm_scale(sum, a.width, a.eps, &r);
        if (threadIdx.x == 0) {
            given[0] = r;
            given[1] = ok ? 1.0f : 0.0f;
            if (!ok)
                note(a, a.code);
        }
    }
    asm volatile("bar.sync 1, %0;" ::"n"(WORKERS * 32) : "memory");
    float s = given[0];
    bool good = given[1] != 0.0f, ok = true;
#pragma unroll 1
    for (uint32_t i = 4 * threadIdx.x, k = 0; i < n; i += STEP, k++) {
        float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (i < a.width && good) {
            float4 f = k == 0 ? ready[0] : k == 1 ? ready[1] : *(const float4 *)(a.norm + i);
            v = *(const float4 *)(row + i);
            v.x = __fmul_rn(__fmul_rn(v.x, s), f.x), v.y = __fmul_rn(__fmul_rn(v.y, s), f.y);
            v.z = __fmul_rn(__fmul_rn(v.z, s), f.z), v.w = __fmul_rn(__fmul_rn(v.w, s), f.w);
        }
        ok &= put_quad<SUMS>(act, i, v);
    }
    if (!ok)
        note(a, a.code + 1);
}

/* The segment's sum of row g, or of row g + 8 where lane is odd. */
template <int TYPE>
static __device__ __forceinline__ float unit_sum(const uint8_t *unit, const uint8_t *act, int lane)
{
    using W = wtile<TYPE>;
    int g = lane / 4, c = lane % 4, r = lane % 2;
    float sum = 0.0f;
#pragma unroll
    for (int p = 0; p < 4; p++) {
        uint32_t quants[2][4];
        row_scales<TYPE> w;
        load_quants<TYPE>(unit, p, lane, quants);
        load_row_scales<TYPE>(unit, p, g, r, w);
        uint4 x = *(const uint4 *)(act + p * 64 + c * 16);
        float2 dx = *(const float2 *)(act + ACT_D + p * 8), ds = make_float2(0.0f, 0.0f);
        if constexpr (W::MINIMUM)
            ds = *(const float2 *)(act + ACT_DS + p * 8);
#pragma unroll
        for (int b = 0; b < 2; b++) {
            block_sums<TYPE> s;
            block_mma<TYPE>(s, quants[b], b ? make_uint2(x.z, x.w) : make_uint2(x.x, x.y));
#pragma unroll
            for (int h = 0; h < (W::HALVES ? 2 : 1); h++)
                sum = __fmaf_rn(__fsub_rn(__int_as_float(r ? s.t[h][2] : s.t[h][0]), W::MAGIC),
                                __fmul_rn(w.dw[b][h], b ? dx.y : dx.x), sum);
            if constexpr (W::MINIMUM)
                sum = __fmaf_rn(w.mw[b], b ? ds.y : ds.x, sum);
        }
    }
    return sum;
}

/* A place in a ring of n and the parity of its round. */
struct ring_place {
    uint32_t at, parity;
    __device__ __forceinline__ void step(uint32_t by, uint32_t n)
    {
        at += by;
        if (at >= n) {
            at -= n;
            parity ^= 1;
        }
    }
};

static __device__ __forceinline__ uint32_t group_units(const token_args &a, uint32_t group)
{
    return min(a.group_tiles, a.tiles - group * a.group_tiles) * a.segments;
}
/* Of a group: one for every team at least, so that all see all groups. */
static __device__ __forceinline__ uint32_t group_pieces(uint32_t units)
{
    return max((units + TEAM - 1) / TEAM, TEAMS);
}

/* The i-th group of this block is the sum of both: the second may still be on its way from memory. One thread
 * asks. */
struct group_answer {
    uint32_t base, more;
};
static __device__ __forceinline__ group_answer take_group(const token_args &a, uint32_t i)
{
    if (i < a.fixed)
        return {blockIdx.x + i * gridDim.x, 0};
    /* back to zero after the last block's last question, for the next time */
    uint32_t asked = a.groups - a.fixed * gridDim.x + gridDim.x, more;
    asm volatile("atom.global.inc.u32 %0, [%1], %2;" : "=r"(more) : "l"(a.taken), "r"(asked - 1) : "memory");
    return {a.fixed * gridDim.x, more};
}

/* One thread. */
static __device__ __forceinline__ void init_barriers(const token_args &a, shared_state &s)
{
#pragma unroll 4
    for (uint32_t k = 0; k < a.pieces; k++) {
        barrier_init(&s.full[k], 1);
        barrier_init(&s.empty[k], TEAM * WARP_ARRIVALS);
    }
#pragma unroll
    for (uint32_t k = 0; k < 2; k++) {
        barrier_init(&s.begun[k], WARP_ARRIVALS);
        barrier_init(&s.summed[k], WORKERS * WARP_ARRIVALS);
        barrier_init(&s.added[k], WARP_ARRIVALS);
    }
    barrier_init_fence();
}

/* How far the fetcher is. */
struct fetch_state {
    ring_place place, awaited; /* the next piece, and the one that must have arrived before it is asked for */
    uint32_t group, i;         /* the next one, this block's i-th */
    uint32_t asked;            /* pieces so far, up to a.under_way */
};

/* One thread: the pieces of the next group. */
template <int TYPE>
static __device__ __forceinline__ void fetch_group(const token_args &a, shared_state &s, uint8_t *ring,
                                                   fetch_state &f)
{
    constexpr uint32_t BYTES = wtile<TYPE>::BYTES;
    group_answer next = take_group(a, f.i + 1); /* looked at when this group is on its way */
    uint32_t units = group_units(a, f.group), pieces = group_pieces(units);
    const uint8_t *from = a.weights + (size_t)f.group * a.group_tiles * a.segments * BYTES;
    for (uint32_t first = 0; first < pieces * TEAM; first += TEAM) {
        uint32_t at = f.place.at, here = first < units ? min(units - first, TEAM) * BYTES : 0;
        uint64_t *bar = &s.full[at];
        if (f.asked < a.under_way) {
            f.asked++;
        } else {
            barrier_wait(&s.full[f.awaited.at], f.awaited.parity);
            f.awaited.step(1, a.pieces);
        }
        barrier_wait(&s.empty[at], f.place.parity);
        s.name[at] = {f.group, first};
        if (here == 0) {
            barrier_arrive(bar);
        } else {
            barrier_expect(bar, here);
            bulk_copy_once(ring + at * TEAM * BYTES, from, here, bar);
        }
        from += TEAM * BYTES;
        f.place.step(1, a.pieces);
    }
    f.group = next.base + next.more;
    f.i++;
}

/* The whole fetcher: all pieces of all groups of this block, then the end. */
template <int TYPE>
static __device__ __forceinline__ void fetch_all(const token_args &a, shared_state &s, uint8_t *ring,
                                                 int lane)
{
    fetch_state f = {{0, 1}, {0, 0}, blockIdx.x, 0, 0};
    if (lane == 0)
        init_barriers(a, s);
    __syncwarp();
    asm volatile("bar.arrive 0, %0;" ::"n"(WARPS * 32) : "memory"); /* the others need the barriers now */
    if (lane > 0)
        return;
    while (f.group < a.groups)
        fetch_group<TYPE>(a, s, ring, f);
    for (uint32_t k = 0; k < TEAMS; k++) {
        barrier_wait(&s.empty[f.place.at], f.place.parity);
        s.name[f.place.at] = {NONE, 0};
        barrier_arrive(&s.full[f.place.at]);
        f.place.step(1, a.pieces);
    }
}

/* A worker: its unit of every piece of its team. */
template <int TYPE>
static __device__ __forceinline__ void work(const token_args &a, shared_state &s, const uint8_t *ring,
                                            const uint8_t *act, float *sums, uint32_t warp, int lane)
{
    constexpr uint32_t BYTES = wtile<TYPE>::BYTES;
    ring_place place = {warp / TEAM, 0}, buffer = {0, 1};
    uint32_t buffer_floats = 16 * a.segments * a.group_tiles, units = 0, ahead = 0;
    bool first = true;
    for (;;) {
        barrier_wait(&s.full[place.at], place.parity);
        piece_name name = s.name[place.at];
        if (first) {
            barrier_wait(&s.added[buffer.at], buffer.parity); /* at the end too: one phase at a time */
            if (warp == 0) {
                if (lane == 0)
                    s.group[buffer.at] = name.group;
                arrive_warp(&s.begun[buffer.at]);
            }
            if (name.group == NONE) {
                return;
            }
            units = group_units(a, name.group);
            ahead = TEAM * group_pieces(units);
        }
        uint32_t unit = name.first + warp % TEAM, segment = unit;
        while (segment >= a.segments)
            segment -= a.segments;
        if (unit < units) {
            float sum = unit_sum<TYPE>(ring + (place.at * TEAM + warp % TEAM) * BYTES,
                                       act + segment * ACT_BYTES, lane);
            if (lane % 4 < 2)
                sums[buffer.at * buffer_floats + unit * 16 + lane % 4 * 8 + lane / 4] = sum;
        }
        arrive_warp(&s.empty[place.at]);
        place.step(TEAMS, a.pieces);
        first = name.first + WORKERS >= ahead; /* the team's next piece is of another group */
        if (first) {
            arrive_warp(&s.summed[buffer.at]);
            buffer.step(1, 2);
        }
    }
}

/* The adder: outputs of group after group. */
static __device__ __forceinline__ void add_all(const token_args &a, shared_state &s, const float *sums,
                                               int lane)
{
    ring_place buffer = {0, 0};
    uint32_t buffer_floats = 16 * a.segments * a.group_tiles;
    for (;;) {
        barrier_wait(&s.begun[buffer.at], buffer.parity);
        uint32_t group = s.group[buffer.at];
        if (group == NONE) {
            return;
        }
        uint32_t first = group * a.group_tiles, tiles = min(a.group_tiles, a.tiles - first);
        float early = 0.0f; /* the residual of the first row, asked for before the sums are there */
        if (a.residual && first * 16 + lane < a.rows)
            early = __ldcg(a.residual + first * 16 + lane);
        barrier_wait(&s.summed[buffer.at], buffer.parity);
        for (uint32_t k = lane / 16; k < tiles + lane / 16; k += 2) { /* all lanes as often */
            uint32_t tile = first + k, row = tile * 16 + lane % 16;
            bool mine = k < tiles && row < a.rows;
            float y = 0.0f, bias = 0.0f, residual = 0.0f;
            if (mine && a.bias)
                bias = a.bias[row];
            if (mine && a.residual)
                residual = k < 2 ? early : __ldcg(a.residual + row);
            const float *from =
                sums + buffer.at * buffer_floats + (k < tiles ? k : 0) * a.segments * 16 + lane % 16;
#pragma unroll 8
            for (uint32_t j = 0; j < a.segments; j++)
                y = __fadd_rn(y, from[j * 16]);
            if (a.gated) {
                float up = __shfl_down_sync(ALL, y, 8);
                if (mine && lane % 16 < 8)
                    a.y[tile * 8 + lane % 8] = silu_mul(y, up);
            } else if (mine) {
                if (a.bias)
                    y = __fadd_rn(y, bias);
                if (a.residual)
                    y = __fadd_rn(residual, y);
                a.y[row] = y;
            }
        }
        arrive_warp(&s.added[buffer.at]);
        buffer.step(1, 2);
    }
}

template <int TYPE>
__global__ void __launch_bounds__(WARPS * 32, wtile<TYPE>::BYTES <= FEW_REGISTERS ? 2 : 1)
    token_kernel(const __grid_constant__ token_args a)
{
    extern __shared__ __align__(128) uint8_t shared[];
    constexpr bool SUMS = wtile<TYPE>::MINIMUM;
    int lane = threadIdx.x % 32;
    uint32_t warp = threadIdx.x / 32;
    shared_state &s = *(shared_state *)shared;
    uint8_t *ring = (uint8_t *)(&s + 1), *act = ring + a.pieces * TEAM * wtile<TYPE>::BYTES;
    float *sums = (float *)(act + a.segments * ACT_BYTES), *row = sums + 2 * 16 * a.segments * a.group_tiles;
    launch_next();
    if (warp == FETCHER) {
        fetch_all<TYPE>(a, s, ring, lane);
        return;
    }
    asm volatile("bar.sync 0, %0;" ::"n"(WARPS * 32) : "memory");
    if (warp == ADDER) {
        wait_previous();
        add_all(a, s, sums, lane);
    } else {
        if (a.norm)
            norm_input<SUMS>(a, act, row, s.given);
        else
            quantise_input<SUMS>(a, act);
        asm volatile("bar.sync 1, %0;" ::"n"(WORKERS * 32) : "memory");
        work<TYPE>(a, s, ring, act, sums, warp, lane);
    }
}

/* Bytes beside the ring. */
static size_t fixed_bytes(const token_args *a)
{
    return a->segments * ACT_BYTES + sizeof(shared_state) + (size_t)a->group_tiles * a->segments * 128 +
           (a->norm ? (size_t)a->width * 4 : 0);
}

/* What of a multiprocessor's shared memory the kernel takes: more than half, as two blocks of it on one would
 * leave others without work. 0 pieces: it has no room. The pieces are a multiple of the teams, so that a
 * place is one team's: a team that is a round ahead of another would see that one's barrier in the wrong
 * phase. */
static size_t plan_pieces(token_args *a, uint32_t unit_bytes)
{
    constexpr size_t ENOUGH = 2 * TEAMS;
    size_t most = (size_t)sizes().shared_bytes, piece = (size_t)TEAM * unit_bytes, fixed = fixed_bytes(a);
    size_t want = fp__cuda_tune.decode_stage_bytes ? fp__cuda_tune.decode_stage_bytes : RING_BYTES;
    size_t under_way = fp__cuda_tune.under_way_bytes ? fp__cuda_tune.under_way_bytes : UNDER_WAY_BYTES;
    size_t pieces = want / piece / TEAMS * TEAMS;
    pieces = pieces < ENOUGH ? ENOUGH : pieces > PIECES ? PIECES : pieces;
    while (pieces >= ENOUGH && fixed + pieces * piece > most)
        pieces -= TEAMS;
    a->pieces = pieces < ENOUGH ? 0 : (uint32_t)pieces;
    under_way = under_way / piece < TEAMS ? TEAMS : under_way / piece;
    a->under_way = (uint32_t)(under_way > pieces ? pieces : under_way);
    size_t bytes = fixed + pieces * piece;
    return bytes > most / 2 + 1024 ? bytes : most / 2 + 1024;
}

template <int TYPE> static cudaError_t run_token(token_args a, bool *done, cudaStream_t stream)
{
    size_t shared = plan_pieces(&a, wtile<TYPE>::BYTES);
    *done = a.pieces > 0 && sizes().major >= 9;
    if (!*done)
        return cudaSuccess;
    uint32_t ctas = (uint32_t)sizes().multiprocessors, each = (a.group_tiles * a.segments + TEAM - 1) / TEAM;
    ctas = a.groups < ctas ? a.groups : ctas;
    a.fixed = (a.pieces + each - 1) / each;
    if (!a.taken || a.groups <= a.fixed * ctas)
        a.fixed = NONE;
    /* no use for an L1 cache, and attention's kernels have all memory shared too */
    return launch_split(fp__cuda_tune.carveout ? fp__cuda_tune.carveout : 100, token_kernel<TYPE>, dim3(ctas),
                        dim3(32 * WARPS), shared, stream, a);
}

cudaError_t linear_token(const fp__cuda_input *in, const fp__cuda_weight *w, const float *bias,
                         const float *residual, float *y, bool *done, cudaStream_t stream)
{
    token_args a = {};
    a.weights = w->data, a.x = in->x, a.norm = in->norm, a.bias = bias, a.residual = residual, a.y = y;
    a.error = in->error, a.eps = in->eps, a.code = in->code, a.width = in->width;
    a.taken = fp__cuda_tune.no_taking ? NULL : in->taken;
    a.rows = w->rows, a.tiles = w->tiles, a.segments = w->segments, a.gated = (uint32_t)w->gated;
    a.group_tiles = w->segments < WORKERS ? WORKERS / w->segments : 1;
    a.groups = (w->tiles + a.group_tiles - 1) / a.group_tiles;
    switch (w->type) {
#define CASE(type)                                                                                           \
    case type:                                                                                               \
        return run_token<type>(a, done, stream);
        FP_EACH_TYPE(CASE)
#undef CASE
    default:
        return cudaErrorInvalidValue;
    }
}

cudaError_t linear_token_init()
{
    int bytes = sizes().shared_bytes;
#define RAISE(type)                                                                                          \
    FP_CUDA_TRY(cudaFuncSetAttribute(token_kernel<type>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    FP_EACH_TYPE(RAISE)
#undef RAISE
    return cudaSuccess;
}

} // namespace fp
