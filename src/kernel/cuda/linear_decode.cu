/* §4 for few tokens: weights stream through shared memory once, at memory speed.
 *
 * One block per multiprocessor walks over row tiles; its warps deal out the (row tile, segment) units among
 * themselves in turn, each with its own ring of copies in flight that never waits for the others. Few bytes
 * are enough in flight; a deeper ring takes bandwidth from the kernel before, which this one waits for, and
 * shared memory from the L1 cache, where the activations are. A warp multiplies a unit with all tokens (one
 * m16n8k32 is one block of 16 rows × 8 tokens) and leaves 16 × T segment sums in shared memory; when a row
 * tile's segments are there, one thread per output adds them in order. Two buffers of sums, so that nobody
 * waits for the adding. The ring starts before the previous kernel has ended: weights depend on nothing. */
#include "kernel/cuda/canon.cuh"
#include "kernel/cuda/launch.cuh"
#include "kernel/cuda/wtile.cuh"

namespace fp
{

struct decode_args {
    const uint8_t *weights, *act;
    const float *bias, *residual;
    float *y;
    size_t y_stride;
    uint32_t rows, tiles, segments, tokens, stages, buffers, gated;
};

/* Sums of one unit for up to 8·NT tokens. */
template <int TYPE, int NT>
static __device__ __forceinline__ void unit_sums(const uint8_t *unit, const uint8_t *act,
                                                 size_t act_tile_stride, uint32_t tokens, int lane,
                                                 float (&seg)[NT][4])
{
    using W = wtile<TYPE>;
    int g = lane / 4, c = lane % 4;
#pragma unroll
    for (int n = 0; n < NT; n++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            seg[n][i] = 0.0f;
#pragma unroll
    for (int p = 0; p < 4; p++) {
        typename W::pair w;
        load_pair<TYPE>(unit, p, lane, w);
#pragma unroll
        for (int n = 0; n < NT; n++) {
            /* tokens that are not there repeat one that is: fewer bytes, and their sums are dropped */
            int last = (int)tokens - 1 - 8 * n, at = last < 0 ? 0 : n;
            const uint8_t *tile = act + at * act_tile_stride;
            int token = last < 0 ? 0 : g < last ? g : last;
            uint4 x = *(const uint4 *)(tile + p * 512 + token * 64 + c * 16);
            const uint8_t *scales = tile + FP__DEVICE_ACT_D + p * 64 + c * 8;
#pragma unroll
            for (int b = 0; b < 2; b++) {
                float2 dx = *(const float2 *)(scales + b * 32), ds = make_float2(0.0f, 0.0f);
                if constexpr (W::MINIMUM)
                    ds = *(const float2 *)(scales + b * 32 + FP__DEVICE_ACT_DS - FP__DEVICE_ACT_D);
                block_fma<TYPE>(seg[n], w, b, b ? make_uint2(x.z, x.w) : make_uint2(x.x, x.y), dx, ds);
            }
        }
    }
}

/* sums[segment][T][16] of a row tile → y. Thread i: row i % 16 of token i / 16. */
static __device__ __forceinline__ void add_segments(const decode_args &a, const float *sums, uint32_t tile)
{
    uint32_t outputs = 16 * a.tokens;
    for (uint32_t first = 0; first < outputs; first += blockDim.x) {
        uint32_t i = first + threadIdx.x, t = i / 16, row = tile * 16 + i % 16;
        bool mine = i < outputs && row < a.rows;
        float y = 0.0f, bias = 0.0f, residual = 0.0f;
        if (mine && a.bias)
            bias = a.bias[row];
        if (mine && a.residual)
            residual = a.residual[t * a.y_stride + row];
        if (i < outputs) {
#pragma unroll 8
            for (uint32_t s = 0; s < a.segments; s++)
                y = __fadd_rn(y, sums[s * outputs + i]);
        }
        if (a.gated) {
            float up = __shfl_down_sync(0xffffffffu, y, 8);
            if (mine && i % 16 < 8)
                a.y[t * a.y_stride + tile * 8 + i % 16] = silu_mul(y, up);
        } else if (mine) {
            if (a.bias)
                y = __fadd_rn(y, bias);
            if (a.residual)
                y = __fadd_rn(residual, y);
            a.y[t * a.y_stride + row] = y;
        }
    }
}

template <int TYPE, int NT>
__global__ void __launch_bounds__(512, 1) decode_kernel(const __grid_constant__ decode_args a)
{
    using W = wtile<TYPE>;
    extern __shared__ __align__(128) uint8_t shared[];
    int lane = threadIdx.x % 32;
    uint32_t warp = threadIdx.x / 32, warps = blockDim.x / 32;
    uint8_t *ring = shared + (size_t)warp * a.stages * W::BYTES;
    float *sums = (float *)(shared + (size_t)warps * a.stages * W::BYTES);
    uint32_t sums_floats = a.segments * a.tokens * 16;
    uint64_t *bars = (uint64_t *)(sums + a.buffers * sums_floats) + warp * a.stages;
    uint32_t tiles = blockIdx.x < a.tiles ? (a.tiles - blockIdx.x - 1) / gridDim.x + 1 : 0;
    uint32_t units =
        tiles * a.segments; /* unit u: segment u % segments of tile blockIdx.x + u / segments · gridDim.x */

    launch_next();
    if (lane == 0)
        for (uint32_t s = 0; s < a.stages; s++)
            barrier_init(bars + s, FILL_ARRIVALS);
    barrier_init_fence();
    __syncwarp();
    uint32_t fetch = warp, fetch_tile = 0, fetch_segment = warp, fetch_stage = 0;
    auto fetch_next = [&] {
        if (fetch < units) {
            while (fetch_segment >= a.segments) {
                fetch_segment -= a.segments;
                fetch_tile++;
            }
            size_t tile = blockIdx.x + (size_t)fetch_tile * gridDim.x;
            fill_begin(bars + fetch_stage, W::BYTES, lane);
            fill_copy(ring + fetch_stage * W::BYTES,
                      a.weights + (tile * a.segments + fetch_segment) * W::BYTES, W::BYTES,
                      bars + fetch_stage, lane, 0, true);
            fill_end(bars + fetch_stage);
        }
        fetch += warps;
        fetch_segment += warps;
        fetch_stage = fetch_stage + 1 == a.stages ? 0 : fetch_stage + 1;
    };
    for (uint32_t s = 0; s < a.stages; s++)
        fetch_next();
    wait_previous();

    uint32_t stage = 0, parity = 0,
             segment = warp; /* segment of the next unit, counted from the present tile */
    size_t act_stride = (size_t)a.segments * FP__DEVICE_ACT_BYTES;
    for (uint32_t i = 0; i < tiles; i++) {
        float *tile_sums = sums + (a.buffers == 2 ? i & 1 : 0) * sums_floats;
        for (; segment < a.segments; segment += warps) {
            float seg[NT][4];
            barrier_wait(bars + stage, parity);
            unit_sums<TYPE, NT>(ring + stage * W::BYTES, a.act + (size_t)segment * FP__DEVICE_ACT_BYTES,
                                act_stride, a.tokens, lane, seg);
            __syncwarp();
            fetch_next();
            if (++stage == a.stages) {
                stage = 0;
                parity ^= 1;
            }
            float *out = tile_sums + segment * a.tokens * 16 + lane / 4;
#pragma unroll
            for (int n = 0; n < NT; n++)
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    uint32_t t = 8 * n + 2 * (lane % 4) + j;
                    if (t < a.tokens) {
                        out[t * 16] = seg[n][j];
                        out[t * 16 + 8] = seg[n][2 + j];
                    }
                }
        }
        segment -= a.segments;
        __syncthreads();
        add_segments(a, tile_sums, blockIdx.x + i * gridDim.x);
        if (a.buffers == 1)
            __syncthreads();
    }
}

struct decode_plan {
    uint32_t warps, stages, buffers;
    size_t shared;
};

/* Copies in flight and buffers of sums within `limit` bytes: as many warps as leave room for two copies each;
 * false if not even 8 do. */
static bool plan_decode(const fp__cuda_weight *w, uint32_t unit_bytes, uint32_t tokens, decode_plan *p)
{
    size_t want = fp__cuda_tune.decode_stage_bytes ? fp__cuda_tune.decode_stage_bytes : 96 * 1024;
    size_t limit = (size_t)sizes().shared_bytes, sums = (size_t)w->segments * tokens * 64;
    uint32_t most = fp__cuda_tune.decode_warps ? fp__cuda_tune.decode_warps : 16;
    for (p->warps = most; p->warps >= (most < 8 ? most : 8); p->warps -= 4)
        for (p->buffers = 2; p->buffers > 0; p->buffers--) {
            size_t stage = p->warps * (unit_bytes + 8), used = p->buffers * sums;
            size_t fits = limit > used ? (limit - used) / stage : 0, wanted = want / stage;
            p->stages = (uint32_t)(wanted < 2 ? 2 : wanted > 8 ? 8 : wanted);
            p->stages = p->stages < fits ? p->stages : (uint32_t)fits;
            p->shared = p->stages * stage + used;
            if (p->stages >= 2)
                return true;
        }
    return false;
}

template <int TYPE, int NT>
static cudaError_t run_decode(const decode_args &a, const decode_plan &p, cudaStream_t stream)
{
    uint32_t ctas = fp__cuda_tune.decode_ctas ? fp__cuda_tune.decode_ctas : (uint32_t)sizes().multiprocessors;
    dim3 grid(a.tiles < ctas ? a.tiles : ctas);
    return launch(decode_kernel<TYPE, NT>, grid, dim3(32 * p.warps), p.shared, stream, a);
}

template <int TYPE>
static cudaError_t run_decode_type(decode_args a, const fp__cuda_weight *w, cudaStream_t stream)
{
    /* as many tokens at once as leave room for two copies in flight per warp */
    uint32_t left = a.tokens, at_once = left < 32 ? left : 32;
    decode_plan p;
    while (!plan_decode(w, wtile<TYPE>::BYTES, at_once, &p)) {
        if (at_once <= 8)
            return cudaErrorInvalidValue;
        at_once = (at_once - 1) / 8 * 8;
    }
    while (left > 0) {
        a.tokens = left < at_once ? left : at_once;
        if (!plan_decode(w, wtile<TYPE>::BYTES, a.tokens, &p)) /* never: fewer tokens need less */
            return cudaErrorInvalidValue;
        a.stages = p.stages;
        a.buffers = p.buffers;
        if (a.tokens <= 8)
            FP_CUDA_TRY((run_decode<TYPE, 1>(a, p, stream)));
        else if (a.tokens <= 16)
            FP_CUDA_TRY((run_decode<TYPE, 2>(a, p, stream)));
        else
            FP_CUDA_TRY((run_decode<TYPE, 4>(a, p, stream)));
        left -= a.tokens;
        a.act += (size_t)a.tokens / 8 * a.segments * FP__DEVICE_ACT_BYTES;
        a.y += a.tokens * a.y_stride;
        a.residual = a.residual ? a.residual + a.tokens * a.y_stride : NULL;
    }
    return cudaSuccess;
}

cudaError_t linear_decode(const fp__cuda_weight *w, const uint8_t *act, uint32_t tokens, const float *bias,
                          const float *residual, float *y, size_t y_stride, cudaStream_t stream)
{
    decode_args a = {w->data,  act,         bias,   residual, y, y_stride,          w->rows,
                     w->tiles, w->segments, tokens, 0,        0, (uint32_t)w->gated};
    switch (w->type) {
#define CASE(type)                                                                                           \
    case type:                                                                                               \
        return run_decode_type<type>(a, w, stream);
        FP_EACH_TYPE(CASE)
#undef CASE
    default:
        return cudaErrorInvalidValue;
    }
}

cudaError_t linear_decode_init()
{
    int bytes = sizes().shared_bytes;
#define RAISE(type)                                                                                          \
    FP_CUDA_TRY(                                                                                             \
        cudaFuncSetAttribute(decode_kernel<type, 1>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));   \
    FP_CUDA_TRY(                                                                                             \
        cudaFuncSetAttribute(decode_kernel<type, 2>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));   \
    FP_CUDA_TRY(                                                                                             \
        cudaFuncSetAttribute(decode_kernel<type, 4>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
    FP_EACH_TYPE(RAISE)
#undef RAISE
    return cudaSuccess;
}

} // namespace fp
