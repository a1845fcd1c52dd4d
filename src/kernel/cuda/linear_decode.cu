/* §4 for few tokens: weights stream through shared memory once, at memory speed.
 *
 * One block per multiprocessor walks over row tiles; its warps deal out the (row tile, segment) units among themselves in
 * turn, each with its own ring of copies in flight that never waits for the others. A warp multiplies a unit with
 * all tokens (one m16n8k32 is one block of 16 rows × 8 tokens) and leaves 16 × T segment sums in shared memory; when a row
 * tile's segments are there, they are added in order. Two buffers of sums, so that nobody waits for the adding. The
 * ring starts before the previous kernel has ended: weights depend on nothing.
 *
 * Up to 4 tokens, norm and quantiser (§2, §3) are part of the kernel: every block does them for itself into shared
 * memory while its ring fills, which costs less than a kernel in between. */
#include "kernel/cuda/canon.cuh"
#include "kernel/cuda/launch.cuh"
#include "kernel/cuda/quantise.cuh"
#include "kernel/cuda/wtile.cuh"

namespace fp {

/* Where activations come from. */
enum input { FROM_ACT, FROM_X, FROM_NORM };

struct decode_args {
    const uint8_t *weights, *act;
    const float *x, *norm; // [T][x_stride], [cols]
    size_t x_stride;
    const float *bias, *residual;
    float *y;
    size_t y_stride;
    uint32_t *error;
    uint32_t code, cols;
    float eps;
    uint32_t rows, tiles, segments, tokens, stages, buffers, gated;
};

/* Activations of up to 4 tokens in shared memory: q [segment][pair][T][64 bytes] as in an activation tile, then d and ds
 * [segment][block 8][T rounded up to even]. */
struct shared_act {
    uint8_t *q;
    float *d, *ds;
    uint32_t tokens, even;
    __device__ shared_act(uint8_t *base, uint32_t segments, uint32_t t) : q(base), tokens(t), even((t + 1) & ~1u)
    {
        d = (float *)(base + segments * t * 256);
        ds = d + segments * 8 * even;
    }
};
static size_t shared_act_bytes(size_t segments, size_t tokens)
{
    return segments * (tokens * 256 + 64 * ((tokens + 1) & ~(size_t)1));
}

/* §2 and §3 by the whole block. rows: shared memory for T rows of x, where there is a norm. */
template <int INPUT> static __device__ __forceinline__ void make_act(const decode_args &a, const shared_act &to, float *rows)
{
    __shared__ float scale[4];
    uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, quads = a.segments * 64, total = a.tokens * quads;
    if constexpr (INPUT == FROM_NORM) {
        for (uint32_t t = 0; t < a.tokens; t++)
#pragma unroll 4
            for (uint32_t i = 4 * threadIdx.x; i < a.cols; i += 4 * blockDim.x)
                *(float4 *)(rows + t * a.cols + i) = *(const float4 *)(a.x + t * a.x_stride + i);
        __syncthreads();
        if (warp < a.tokens) {
            float sum = 0.0f, r;
#pragma unroll 16
            for (uint32_t i = lane; i < a.cols; i += 32)
                sum = __fmaf_rn(rows[warp * a.cols + i], rows[warp * a.cols + i], sum);
            bool ok = norm_scale(fold(sum), a.cols, a.eps, &r);
            if (lane == 0) {
                scale[warp] = ok ? r : -1.0f;
                if (!ok && blockIdx.x == 0)
                    atomicMin(a.error + warp, a.code);
            }
        }
        __syncthreads();
    }
    /* four inputs a thread, eight threads a block of 32; total is a multiple of 64, so warps stay whole */
#pragma unroll 4
    for (uint32_t n = threadIdx.x; n < total; n += blockDim.x) {
        uint32_t t = n / quads, i = (n - t * quads) * 4;
        float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (i < a.cols) {
            if constexpr (INPUT == FROM_NORM) {
                float r = scale[t];
                float4 w = *(const float4 *)(a.norm + i);
                v = *(const float4 *)(rows + t * a.cols + i);
                v.x = __fmul_rn(__fmul_rn(v.x, r), w.x), v.y = __fmul_rn(__fmul_rn(v.y, r), w.y);
                v.z = __fmul_rn(__fmul_rn(v.z, r), w.z), v.w = __fmul_rn(__fmul_rn(v.w, r), w.w);
                if (r < 0.0f)
                    v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            } else {
                v = *(const float4 *)(a.x + t * a.x_stride + i);
            }
        }
        quad_quants q;
        if (!quantise_quad(v, q) && lane % 8 == 0 && blockIdx.x == 0)
            atomicMin(a.error + t, a.code + (INPUT == FROM_NORM));
        uint32_t word = i % 32 / 4, block = i / 32;
        *(uint32_t *)(to.q + (block / 2 * a.tokens + t) * 64 + word % 4 * 16 + block % 2 * 8 + word / 4 * 4) = q.q;
        if (lane % 8 == 0) {
            to.d[block * to.even + t] = q.d;
            to.ds[block * to.even + t] = q.ds;
        }
    }
    __syncthreads();
}

/* Sums of one unit for up to 8·NT tokens. act: the segment's activation tile of the first 8 tokens. */
template <int TYPE, int NT, bool SHARED>
static __device__ __forceinline__ void unit_sums(const uint8_t *unit, const uint8_t *act, size_t act_tile_stride,
                                                 const shared_act &sact, uint32_t segment, uint32_t tokens, int lane,
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
            int token = last < 0 ? 0 : g < last ? g : last;
            uint4 x;
            const float *d, *ds;
            uint32_t step;
            if constexpr (SHARED) {
                uint32_t column = 2 * c < (int)sact.even ? 2 * c : 0;
                x = *(const uint4 *)(sact.q + ((segment * 4 + p) * tokens + token) * 64 + c * 16);
                d = sact.d + (segment * 8 + 2 * p) * sact.even + column;
                ds = sact.ds + (segment * 8 + 2 * p) * sact.even + column;
                step = sact.even;
            } else {
                const uint8_t *tile = act + at * act_tile_stride;
                x = *(const uint4 *)(tile + p * 512 + token * 64 + c * 16);
                d = (const float *)(tile + FP__DEVICE_ACT_D) + p * 16 + c * 2;
                ds = (const float *)(tile + FP__DEVICE_ACT_DS) + p * 16 + c * 2;
                step = 8;
            }
#pragma unroll
            for (int b = 0; b < 2; b++)
                block_fma<TYPE>(seg[n], w, b, b ? make_uint2(x.z, x.w) : make_uint2(x.x, x.y),
                                *(const float2 *)(d + b * step),
                                W::MINIMUM ? *(const float2 *)(ds + b * step) : make_float2(0.0f, 0.0f));
        }
    }
}

/* sums[segment][T][16] of a row tile → y, by `threads` threads of which this is number `me`; output o is row o % 16 of token
 * o / 16. */
static __device__ __forceinline__ void add_segments(const decode_args &a, const float *sums, uint32_t tile, uint32_t me,
                                                    uint32_t threads)
{
    uint32_t outputs = 16 * a.tokens;
    for (uint32_t first = 0; first < outputs; first += threads) {
        uint32_t i = first + me, t = i / 16, row = tile * 16 + i % 16;
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

/* Buffers of sums for up to 8 tokens: filled by all warps, emptied by one, another for each row tile. */
struct sums_barriers {
    uint64_t full[2], empty[2];
};

template <int TYPE, int NT, int INPUT>
__global__ void __launch_bounds__(512, INPUT == FROM_ACT ? 1 : 2) decode_kernel(const __grid_constant__ decode_args a)
{
    using W = wtile<TYPE>;
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ sums_barriers handover;
    int lane = threadIdx.x % 32;
    uint32_t warp = threadIdx.x / 32, warps = blockDim.x / 32;
    uint8_t *ring = shared + (size_t)warp * a.stages * W::BYTES, *after = shared + (size_t)warps * a.stages * W::BYTES;
    shared_act sact(after, a.segments, a.tokens);
    float *sums = (float *)(INPUT == FROM_ACT ? after : (uint8_t *)(sact.ds + a.segments * 8 * sact.even));
    uint32_t sums_floats = a.segments * a.tokens * 16;
    /* the rows that the norm reads lie where the sums will */
    uint32_t region = max(a.buffers * sums_floats, INPUT == FROM_NORM ? a.tokens * a.cols : 0);
    uint64_t *bars = (uint64_t *)(sums + region) + warp * a.stages;
    uint32_t tiles = blockIdx.x < a.tiles ? (a.tiles - blockIdx.x - 1) / gridDim.x + 1 : 0;
    uint32_t units = tiles * a.segments; /* unit u: segment u % segments of tile blockIdx.x + u / segments · gridDim.x */

    launch_next();
    if (lane == 0)
        for (uint32_t s = 0; s < a.stages; s++)
            barrier_init(bars + s, FILL_ARRIVALS);
    if (threadIdx.x == 0)
        for (int i = 0; i < 2; i++) {
            barrier_init(handover.full + i, warps);
            barrier_init(handover.empty + i, 1);
        }
    barrier_init_done();
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
                      a.weights + (tile * a.segments + fetch_segment) * W::BYTES, W::BYTES, bars + fetch_stage, lane, 0);
            fill_end(bars + fetch_stage);
        }
        fetch += warps;
        fetch_segment += warps;
        fetch_stage = fetch_stage + 1 == a.stages ? 0 : fetch_stage + 1;
    };
    for (uint32_t s = 0; s < a.stages; s++)
        fetch_next();
    wait_previous();
    __syncthreads();
    if constexpr (INPUT != FROM_ACT)
        make_act<INPUT>(a, sact, sums);

    uint32_t stage = 0, parity = 0, segment = warp; /* segment of the next unit, counted from the present tile */
    size_t act_stride = (size_t)a.segments * FP__DEVICE_ACT_BYTES;
    for (uint32_t i = 0; i < tiles; i++) {
        uint32_t buffer = a.buffers == 2 ? i & 1 : 0, round = (i >> 1) & 1;
        float *tile_sums = sums + buffer * sums_floats;
        if (NT == 1 && i >= 2)
            barrier_wait(handover.empty + buffer, round ^ 1);
        for (; segment < a.segments; segment += warps) {
            float seg[NT][4];
            barrier_wait(bars + stage, parity);
            unit_sums<TYPE, NT, INPUT != FROM_ACT>(ring + stage * W::BYTES,
                                                   a.act + (size_t)segment * FP__DEVICE_ACT_BYTES, act_stride, sact, segment,
                                                   a.tokens, lane, seg);
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
        uint32_t tile = blockIdx.x + i * gridDim.x;
        if constexpr (NT == 1) {
            __syncwarp();
            if (lane == 0)
                barrier_arrive(handover.full + buffer);
            if (i % warps == warp) {
                barrier_wait(handover.full + buffer, round);
                add_segments(a, tile_sums, tile, (uint32_t)lane, 32);
                __syncwarp();
                if (lane == 0)
                    barrier_arrive(handover.empty + buffer);
            }
        } else {
            __syncthreads();
            add_segments(a, tile_sums, tile, threadIdx.x, blockDim.x);
            if (a.buffers == 1)
                __syncthreads();
        }
    }
}

struct decode_plan {
    uint32_t warps, stages, buffers;
    size_t shared;
};

/* Copies in flight and buffers of sums within the device's shared memory; false if not even two stages fit. */
static bool plan_decode(const fp__cuda_weight *w, uint32_t unit_bytes, uint32_t tokens, int input, uint32_t cols,
                        decode_plan *p)
{
    uint32_t warps = fp__cuda_tune.decode_warps ? fp__cuda_tune.decode_warps : unit_bytes < 3000 ? 16 : 8;
    size_t least = 2 * warps * (unit_bytes + 8), limit = (size_t)sizes().shared_bytes - 1024;
    /* little enough that the next kernel's block fits beside this one's and fetches its weights */
    size_t want = fp__cuda_tune.decode_stage_bytes ? fp__cuda_tune.decode_stage_bytes : 84 * 1024;
    size_t act = input == FROM_ACT ? 0 : shared_act_bytes(w->segments, tokens);
    size_t rows = input == FROM_NORM ? (size_t)tokens * cols * 4 : 0;
    want = want < least ? least : want;
    p->warps = warps;
    for (p->buffers = 2; p->buffers > (tokens <= 8 ? 1 : 0); p->buffers--) {
        size_t sums = p->buffers * (size_t)w->segments * tokens * 64, used = act + (sums > rows ? sums : rows);
        size_t room = limit > used ? limit - used : 0, bytes = want < room ? want : room;
        p->stages = (uint32_t)(bytes / (warps * (unit_bytes + 8)));
        p->stages = p->stages > 8 ? 8 : p->stages;
        if (p->stages >= 2) {
            p->shared = (size_t)p->stages * warps * (unit_bytes + 8) + used;
            return true;
        }
    }
    return false;
}

template <int TYPE, int NT, int INPUT>
static cudaError_t run_decode(const decode_args &a, const decode_plan &p, cudaStream_t stream)
{
    uint32_t ctas = fp__cuda_tune.decode_ctas ? fp__cuda_tune.decode_ctas : (uint32_t)sizes().multiprocessors;
    dim3 grid(a.tiles < ctas ? a.tiles : ctas);
    return launch(decode_kernel<TYPE, NT, INPUT>, grid, dim3(32 * p.warps), p.shared, stream, a);
}

template <int TYPE> static cudaError_t run_decode_type(decode_args a, const fp__cuda_weight *w, cudaStream_t stream)
{
    /* as many tokens at once as leave room for two copies in flight per warp */
    uint32_t left = a.tokens, at_once = left < 32 ? left : 32;
    decode_plan p;
    while (!plan_decode(w, wtile<TYPE>::BYTES, at_once, FROM_ACT, a.cols, &p)) {
        if (at_once <= 8)
            return cudaErrorInvalidValue;
        at_once = (at_once - 1) / 8 * 8;
    }
    while (left > 0) {
        a.tokens = left < at_once ? left : at_once;
        /* the last part may be of 8 tokens or fewer, which want both buffers: they fit, being fewer */
        if (!plan_decode(w, wtile<TYPE>::BYTES, a.tokens, FROM_ACT, a.cols, &p))
            return cudaErrorInvalidValue;
        a.stages = p.stages;
        a.buffers = p.buffers;
        if (a.tokens <= 8)
            FP_CUDA_TRY((run_decode<TYPE, 1, FROM_ACT>(a, p, stream)));
        else if (a.tokens <= 16)
            FP_CUDA_TRY((run_decode<TYPE, 2, FROM_ACT>(a, p, stream)));
        else
            FP_CUDA_TRY((run_decode<TYPE, 4, FROM_ACT>(a, p, stream)));
        left -= a.tokens;
        a.act += (size_t)a.tokens / 8 * a.segments * FP__DEVICE_ACT_BYTES;
        a.y += a.tokens * a.y_stride;
        a.residual = a.residual ? a.residual + a.tokens * a.y_stride : NULL;
    }
    return cudaSuccess;
}

static decode_args make_args(const fp__cuda_weight *w, const uint8_t *act, uint32_t tokens, const float *bias,
                             const float *residual, float *y, size_t y_stride)
{
    decode_args a = {};
    a.weights = w->data;
    a.act = act;
    a.bias = bias;
    a.residual = residual;
    a.y = y;
    a.y_stride = y_stride;
    a.rows = w->rows;
    a.tiles = w->tiles;
    a.segments = w->segments;
    a.tokens = tokens;
    a.gated = (uint32_t)w->gated;
    return a;
}

cudaError_t linear_decode(const fp__cuda_weight *w, const uint8_t *act, uint32_t tokens, const float *bias,
                          const float *residual, float *y, size_t y_stride, cudaStream_t stream)
{
    decode_args a = make_args(w, act, tokens, bias, residual, y, y_stride);
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

template <int TYPE> static cudaError_t run_fused_type(decode_args a, const fp__cuda_weight *w, bool *done, cudaStream_t stream)
{
    decode_plan p;
    *done = a.tokens <= 4 && plan_decode(w, wtile<TYPE>::BYTES, a.tokens, a.norm ? FROM_NORM : FROM_X, a.cols, &p);
    if (!*done)
        return cudaSuccess;
    a.stages = p.stages;
    a.buffers = p.buffers;
    if (a.norm)
        return run_decode<TYPE, 1, FROM_NORM>(a, p, stream);
    return run_decode<TYPE, 1, FROM_X>(a, p, stream);
}

/* done: false if the sizes are not for the fused kernel, and nothing was launched. */
cudaError_t linear_decode_fused(const fp__cuda_input *in, const fp__cuda_weight *w, uint32_t tokens, const float *bias,
                                const float *residual, float *y, size_t y_stride, bool *done, cudaStream_t stream)
{
    decode_args a = make_args(w, NULL, tokens, bias, residual, y, y_stride);
    a.x = in->x;
    a.x_stride = in->stride;
    a.norm = in->norm;
    a.eps = in->eps;
    a.cols = in->width;
    a.error = in->error;
    a.code = in->code;
    switch (w->type) {
#define CASE(type)                                                                                           \
    case type:                                                                                               \
        return run_fused_type<type>(a, w, done, stream);
        FP_EACH_TYPE(CASE)
#undef CASE
    default:
        return cudaErrorInvalidValue;
    }
}

template <int TYPE> static cudaError_t raise_limits()
{
    const void *kernels[] = {(const void *)decode_kernel<TYPE, 1, FROM_ACT>, (const void *)decode_kernel<TYPE, 2, FROM_ACT>,
                             (const void *)decode_kernel<TYPE, 4, FROM_ACT>, (const void *)decode_kernel<TYPE, 1, FROM_X>,
                             (const void *)decode_kernel<TYPE, 1, FROM_NORM>};
    for (const void *kernel : kernels)
        FP_CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sizes().shared_bytes - 1024));
    return cudaSuccess;
}

cudaError_t linear_decode_init()
{
#define RAISE(type) FP_CUDA_TRY(raise_limits<type>());
    FP_EACH_TYPE(RAISE)
#undef RAISE
    return cudaSuccess;
}

} // namespace fp
