/* §2 to §4 for one token in one kernel: norm, quantiser and product.
 *
 * Each block makes the whole activation for itself, in shared memory: that takes as long as in a kernel of
 * its own, but neither a launch nor a way through memory. Meanwhile its first weights arrive. The product is
 * that of linear_decode.cu; with one token all 8 columns of an m16n8k32 are the same, so that the four lanes
 * of a row have the same sums: two of them work on row g, two on row g + 8.
 *
 * Between two products there is always a time in which the memory would rest: the last sums, the norm,
 * attention. So every copy of a unit goes with a request to bring what will be wanted `ahead` into the L2
 * cache: the requests of a product's last units are still being served when it has ended. */
#include "kernel/cuda/canon.cuh"
#include "kernel/cuda/launch.cuh"
#include "kernel/cuda/quantise.cuh"
#include "kernel/cuda/wtile.cuh"

namespace fp
{

static constexpr uint32_t THREADS = 512;

/* Activations in shared memory, of a segment: q [pair 4][c 4][block 2]{ inputs 4c..4c+3, 16+4c..16+4c+3 },
 * then d [block 8], then ds [block 8]. */
static constexpr uint32_t ACT_D = 256, ACT_DS = 288, ACT_BYTES = 320;

struct token_args {
    const uint8_t *weights;
    const float *x, *norm, *bias, *residual;
    float *y;
    uint32_t *error;
    float eps;
    uint32_t code, width, rows, tiles, segments, stages, gated, late;
    uint32_t ahead_units[FP__CUDA_AHEAD];
    const uint8_t *ahead[FP__CUDA_AHEAD];
};

static __device__ __forceinline__ void note(const token_args &a, uint32_t code)
{
    if (blockIdx.x == 0)
        atomicMin(a.error, code);
}

/* Inputs i..i + 3; eight lanes have a block. */
static __device__ __forceinline__ void put_quad(const token_args &a, uint8_t *act, uint32_t i, float4 v,
                                                uint32_t code)
{
    quad_quants q;
    bool ok = quantise_quad(v, q);
    uint32_t block = i / 32 % 8, word = i % 32 / 4;
    uint8_t *segment = act + i / 256 * ACT_BYTES;
    *(uint32_t *)(segment + block / 2 * 64 + word % 4 * 16 + block % 2 * 8 + word / 4 * 4) = q.q;
    if (word == 0) {
        *(float *)(segment + ACT_D + block * 4) = q.d;
        *(float *)(segment + ACT_DS + block * 4) = q.ds;
        if (!ok)
            note(a, code);
    }
}

static __device__ __forceinline__ float4 load_quad(const float *x)
{
    return __ldcg((const float4 *)x); /* another kernel's: not by the way for constants */
}

static __device__ __forceinline__ void quantise_input(const token_args &a, uint8_t *act)
{
    constexpr uint32_t BATCH = 4;
    uint32_t n = a.segments * 256, step = 4 * blockDim.x;
    wait_previous();
#pragma unroll 1
    for (uint32_t first = 4 * threadIdx.x; first < n; first += BATCH * step) {
        float4 v[BATCH];
#pragma unroll
        for (uint32_t k = 0; k < BATCH; k++) {
            uint32_t i = first + k * step;
            v[k] = i < a.width ? load_quad(a.x + i) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        }
#pragma unroll
        for (uint32_t k = 0; k < BATCH; k++)
            if (first + k * step < n) /* whole warps */
                put_quad(a, act, first + k * step, v[k], a.code);
    }
}

/* row: [width] in shared memory, as one warp adds the squares up; given: two words that it tells the others. */
static __device__ __forceinline__ void norm_input(const token_args &a, uint8_t *act, float *row, float *given)
{
    constexpr uint32_t READY = 2; /* quads of the norm's weights that a thread has before it waits */
    uint32_t n = a.segments * 256, step = 4 * blockDim.x, lane = threadIdx.x % 32;
    float4 ready[READY];
#pragma unroll
    for (uint32_t k = 0; k < READY; k++) {
        uint32_t i = 4 * threadIdx.x + k * step;
        if (i < a.width)
            ready[k] = *(const float4 *)(a.norm + i);
    }
    wait_previous();
#pragma unroll 2
    for (uint32_t i = 4 * threadIdx.x; i < a.width; i += step)
        *(float4 *)(row + i) = load_quad(a.x + i);
    __syncthreads();
    if (threadIdx.x < 32) {
        float sum = 0.0f, r;
#pragma unroll 16
        for (uint32_t i = lane; i < a.width; i += 32)
            sum = __fmaf_rn(row[i], row[i], sum);
        bool ok = norm_scale(fold(sum), a.width, a.eps, &r);
        if (lane == 0) {
            given[0] = r;
            given[1] = ok ? 1.0f : 0.0f;
            if (!ok)
                note(a, a.code);
        }
    }
    __syncthreads();
    float s = given[0];
    bool good = given[1] != 0.0f;
#pragma unroll 1
    for (uint32_t i = 4 * threadIdx.x, k = 0; i < n; i += step, k++) {
        float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (i < a.width && good) {
            float4 f = k == 0 ? ready[0] : k == 1 ? ready[1] : *(const float4 *)(a.norm + i);
            v = *(const float4 *)(row + i);
            v.x = __fmul_rn(__fmul_rn(v.x, s), f.x), v.y = __fmul_rn(__fmul_rn(v.y, s), f.y);
            v.z = __fmul_rn(__fmul_rn(v.z, s), f.z), v.w = __fmul_rn(__fmul_rn(v.w, s), f.w);
        }
        put_quad(a, act, i, v, a.code + 1);
    }
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

/* What stands at unit `at` of the pieces, one behind the other. */
static __device__ __forceinline__ void ask_ahead(const token_args &a, uint32_t at, uint32_t bytes)
{
    const uint8_t *from = a.ahead[0];
    uint32_t units = a.ahead_units[0];
#pragma unroll
    for (int k = 1; k < FP__CUDA_AHEAD; k++)
        if (at >= units) {
            at -= units;
            from = a.ahead[k];
            units = a.ahead_units[k];
        }
    if (at < units)
        prefetch_l2(from + (size_t)at * bytes, bytes);
}

/* The copies of a warp's units. Unit u of a block: segment u % segments of tile blockIdx.x + u / segments ·
 * gridDim.x; a warp takes every warps-th. */
template <int TYPE> struct unit_stream {
    static constexpr uint32_t BYTES = wtile<TYPE>::BYTES;
    uint8_t *ring;
    uint64_t *bars;
    uint32_t unit, units, tile, segment, stage, warps;

    __device__ __forceinline__ void fetch(const token_args &a, int lane)
    {
        if (unit < units) {
            while (segment >= a.segments) {
                segment -= a.segments;
                tile += gridDim.x;
            }
            uint32_t at = tile * a.segments + segment;
            fill_begin(bars + stage, BYTES, lane);
            fill_copy(ring + stage * BYTES, a.weights + (size_t)at * BYTES, BYTES, bars + stage, lane, 0);
            fill_end(bars + stage);
            if (lane == 0)
                ask_ahead(a, at, BYTES);
        } else if (a.late) {
            launch_next();
        }
        unit += warps;
        segment += warps;
        stage = stage + 1 == a.stages ? 0 : stage + 1;
    }
};

template <int TYPE>
__global__ void __launch_bounds__(THREADS, 2) token_kernel(const __grid_constant__ token_args a)
{
    constexpr uint32_t BYTES = wtile<TYPE>::BYTES;
    extern __shared__ __align__(128) uint8_t shared[];
    int lane = threadIdx.x % 32;
    uint32_t warp = threadIdx.x / 32, warps = blockDim.x / 32;
    uint32_t tiles = blockIdx.x < a.tiles ? (a.tiles - blockIdx.x - 1) / gridDim.x + 1 : 0;
    uint8_t *act = shared + (size_t)warps * a.stages * BYTES;
    float *sums = (float *)(act + a.segments * ACT_BYTES), *row = sums + 2 * 16 * a.segments;
    unit_stream<TYPE> stream = {shared + (size_t)warp * a.stages * BYTES,
                                (uint64_t *)(row + (a.norm ? a.width : 0)) + warp * a.stages,
                                warp,
                                tiles * a.segments,
                                blockIdx.x,
                                warp,
                                0,
                                warps};
    if (!a.late)
        launch_next();
    if ((uint32_t)lane < a.stages)
        barrier_init(stream.bars + lane, FILL_ARRIVALS);
    barrier_init_done();
    __syncwarp();
#pragma unroll 1
    for (uint32_t s = 0; s < a.stages; s++)
        stream.fetch(a, lane);
    if (a.norm)
        norm_input(a, act, row, sums);
    else
        quantise_input(a, act);
    __syncthreads();

    uint32_t stage = 0, parity = 0, segment = warp; /* of the next unit, counted from the present tile */
    for (uint32_t i = 0; i < tiles; i++) {
        float *tile_sums = sums + (i & 1) * 16 * a.segments, bias = 0.0f, residual = 0.0f;
        uint32_t tile = blockIdx.x + i * gridDim.x, out = tile * 16 + threadIdx.x;
        bool mine = threadIdx.x < 16 && out < a.rows;
        if (mine && a.bias)
            bias = a.bias[out];
        if (mine && a.residual)
            residual = __ldcg(a.residual + out);
        for (; segment < a.segments; segment += warps) {
            barrier_wait(stream.bars + stage, parity);
            float sum = unit_sum<TYPE>(stream.ring + stage * BYTES, act + segment * ACT_BYTES, lane);
            __syncwarp();
            stream.fetch(a, lane);
            if (++stage == a.stages) {
                stage = 0;
                parity ^= 1;
            }
            if (lane % 4 < 2)
                tile_sums[segment * 16 + lane % 4 * 8 + lane / 4] = sum;
        }
        segment -= a.segments;
        __syncthreads();
        if (warp > 0)
            continue;
        float y = 0.0f;
#pragma unroll 8
        for (uint32_t s = 0; s < a.segments; s++)
            y = __fadd_rn(y, tile_sums[s * 16 + lane % 16]);
        if (a.gated) {
            float up = __shfl_down_sync(ALL, y, 8);
            if (lane < 8)
                a.y[tile * 8 + lane] = silu_mul(y, up);
        } else if (mine) {
            if (a.bias)
                y = __fadd_rn(y, bias);
            if (a.residual)
                y = __fadd_rn(residual, y);
            a.y[out] = y;
        }
    }
}

/* Copies in flight of a warp; 0: they do not fit. Where possible a multiprocessor holds the blocks of two
 * kernels. */
static uint32_t plan_stages(uint32_t warps, uint32_t unit_bytes, size_t fixed, size_t *shared)
{
    size_t most = (size_t)sizes().shared_bytes, half = (most + 1024) / 2 - 1024, stage = warps * (unit_bytes + 8);
    size_t want = fp__cuda_tune.decode_stage_bytes ? fp__cuda_tune.decode_stage_bytes : 72 * 1024;
    uint32_t stages = (uint32_t)(want / stage);
    stages = stages < 2 ? 2 : stages > 8 ? 8 : stages;
    while (stages > 2 && !fp__cuda_tune.decode_stage_bytes && fixed + stages * stage > half)
        stages--;
    *shared = fixed + stages * stage;
    return *shared <= most ? stages : 0;
}

template <int TYPE>
static cudaError_t run_token(token_args a, bool *done, cudaStream_t stream)
{
    uint32_t warps = fp__cuda_tune.decode_warps ? fp__cuda_tune.decode_warps : THREADS / 32;
    size_t shared, fixed = a.segments * (ACT_BYTES + 2 * 64) + (a.norm ? a.width * 4 : 0);
    a.stages = plan_stages(warps, wtile<TYPE>::BYTES, fixed, &shared);
    *done = a.stages > 0;
    if (a.stages == 0)
        return cudaSuccess;
    for (int k = 0; k < FP__CUDA_AHEAD; k++)
        a.ahead_units[k] /= wtile<TYPE>::BYTES;
    uint32_t ctas = (uint32_t)sizes().multiprocessors;
    return launch(token_kernel<TYPE>, dim3(a.tiles < ctas ? a.tiles : ctas), dim3(32 * warps), shared, stream, a);
}

cudaError_t linear_token(const fp__cuda_input *in, const fp__cuda_weight *w, const float *bias,
                         const float *residual, float *y, bool *done, cudaStream_t stream)
{
    token_args a = {};
    a.weights = w->data, a.x = in->x, a.norm = in->norm, a.bias = bias, a.residual = residual, a.y = y;
    a.error = in->error, a.eps = in->eps, a.code = in->code, a.width = in->width;
    a.rows = w->rows, a.tiles = w->tiles, a.segments = w->segments, a.gated = (uint32_t)w->gated;
    a.late = fp__cuda_tune.late_launch;
    for (int k = 0; k < FP__CUDA_AHEAD; k++) {
        a.ahead[k] = in->ahead.data[k];
        a.ahead_units[k] = in->ahead.bytes[k]; /* yet in bytes */
    }
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
