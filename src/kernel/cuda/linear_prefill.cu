/* §4 for many tokens: int8 matrix instructions, one per block of 32 inputs of 16 rows × 8 tokens, and then
 * three binary32 operations per output (integer to float, the product of the scales, fma). On Hopper what
 * bounds the speed is not the matrix unit but how many registers can be read: two a cycle and scheduler
 * (measured), so the instructions with three sources cost 1.5 cycles, and a matrix instruction that adds to
 * registers two more than one that starts at 0. Hence sums that start at 0 and are converted, and few loads
 * and little unpacking.
 *
 * A block of 8 warps computes 128 rows × 64 tokens (two blocks a multiprocessor). Per segment a stage of
 * shared memory receives the row tiles' units (still packed: a warp unpacks its fragments in registers) and
 * the tokens' activation tiles, all of them contiguous copies. A stage is refilled by one of the warps, in
 * turn, in the middle of the next segment, when all are likely past it. (One block a place, which takes one
 * tile after the other and copies ahead of the next, was slower: blocks that are launched as others end
 * spread better.) */
#include "kernel/cuda/canon.cuh"
#include "kernel/cuda/launch.cuh"
#include "kernel/cuda/wtile.cuh"

namespace fp
{

struct prefill_args {
    const uint8_t *weights, *act;
    const float *bias, *residual;
    float *y;
    size_t y_stride;
    uint32_t rows, tiles, segments, tokens, gated;
};

template <int TYPE> struct prefill_shape {
    using W = wtile<TYPE>;
    /* A warp's part: 2 row tiles × 4 token tiles, or 1 × 8 where scales are dear to unpack. */
    static constexpr bool WIDE = W::MINIMUM || W::HALVES;
    static constexpr int MT = WIDE ? 1 : 2, NT = WIDE ? 8 : 4, ROW_TILES = 8, TOKEN_TILES = 8, WARPS = 8,
                         ROW_WARPS = ROW_TILES / MT;
    static constexpr int ACT_BYTES = W::MINIMUM ? FP__DEVICE_ACT_BYTES : FP__DEVICE_ACT_DS;
    static constexpr int A_BYTES = ROW_TILES * W::BYTES, STAGE_BYTES = A_BYTES + TOKEN_TILES * ACT_BYTES;
    static constexpr int BLOCKS = 2, FIT = (228 / BLOCKS - 1) * 1024 / STAGE_BYTES,
                         STAGES = FIT > 4 ? 4 : FIT; /* two blocks fit */
    static_assert(STAGES >= 2, "no room for two stages");
};

/* Tiles past the end repeat the last one, and their results are dropped. */
template <int TYPE>
static __device__ __forceinline__ void fill_stage(const prefill_args &a, uint8_t *stage, uint64_t *full,
                                                  uint32_t segment, int lane)
{
    using S = prefill_shape<TYPE>;
    constexpr uint32_t UNIT = wtile<TYPE>::BYTES;
    constexpr int UNROLL = FP_CUDA_BULK ? 8 : 1;
    uint32_t tile = blockIdx.y * S::ROW_TILES, token_tile = blockIdx.x * S::TOKEN_TILES,
             token_tiles = (a.tokens + 7) / 8;
    const uint8_t *units = a.weights + ((size_t)tile * a.segments + segment) * UNIT,
                  *acts = a.act + ((size_t)token_tile * a.segments + segment) * FP__DEVICE_ACT_BYTES;
    fill_begin(full, S::STAGE_BYTES, lane);
    if (fill_lane()) {
#pragma unroll UNROLL
        for (int i = 0; i < S::ROW_TILES; i++) {
            fill_copy(stage + i * UNIT, units, UNIT, full, lane, lane);
            units += tile + i + 1 < a.tiles ? a.segments * UNIT : 0;
        }
#pragma unroll UNROLL
        for (int i = 0; i < S::TOKEN_TILES; i++) {
            fill_copy(stage + S::A_BYTES + i * S::ACT_BYTES, acts, S::ACT_BYTES, full, lane, lane);
            acts += token_tile + i + 1 < token_tiles ? a.segments * FP__DEVICE_ACT_BYTES : 0;
        }
    }
    fill_end(full);
}

/* Two blocks of inputs of a warp's part. The compiler puts the instructions in another order, with matrix
 * instructions ahead, whatever the order here. */
template <int TYPE, int MT, int NT>
static __device__ __forceinline__ void pair_sums(const uint8_t *units, const uint8_t *acts, int p, int lane,
                                                 float (&seg)[MT][NT][4])
{
    using W = wtile<TYPE>;
    typename W::pair w[MT];
#pragma unroll
    for (int m = 0; m < MT; m++) {
        load_pair<TYPE>(units + m * W::BYTES, p, lane, w[m]);
        scales_down<TYPE>(w[m]);
    }
#pragma unroll
    for (int n = 0; n < NT; n++) {
        const uint8_t *act = acts + n * prefill_shape<TYPE>::ACT_BYTES;
        uint4 x = *(const uint4 *)(act + p * 512 + lane * 16);
        const float *d = (const float *)(act + FP__DEVICE_ACT_D + p * 64 + lane % 4 * 8);
#pragma unroll
        for (int b = 0; b < 2; b++) {
            float2 dx = *(const float2 *)(d + 8 * b), ds = make_float2(0.0f, 0.0f);
            if constexpr (W::MINIMUM)
                ds = *(const float2 *)(d + 8 * b + 64);
#pragma unroll
            for (int m = 0; m < MT; m++)
                block_fma<TYPE, 0>(seg[m][n], w[m], b, b ? make_uint2(x.z, x.w) : make_uint2(x.x, x.y), dx,
                                   ds);
        }
    }
}

template <int MT, int NT>
static __device__ __forceinline__ void store_outputs(const prefill_args &a, const float (&y)[MT][NT][4],
                                                     uint32_t tile0, uint32_t token0, int lane)
{
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int j = 0; j < 2; j++) {
                size_t t = token0 + 8 * n + 2 * (lane % 4) + j;
                uint32_t tile = tile0 + m, row = tile * 16 + lane / 4;
                if (t >= a.tokens)
                    continue;
                if (a.gated) {
                    if (row < a.rows)
                        a.y[t * a.y_stride + tile * 8 + lane / 4] = silu_mul(y[m][n][j], y[m][n][2 + j]);
                    continue;
                }
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    uint32_t r = row + 8 * h;
                    if (r >= a.rows)
                        continue;
                    float v = y[m][n][2 * h + j];
                    if (a.bias)
                        v = __fadd_rn(v, a.bias[r]);
                    if (a.residual)
                        v = __fadd_rn(a.residual[t * a.y_stride + r], v);
                    a.y[t * a.y_stride + r] = v;
                }
            }
}

template <int TYPE>
__global__ void __launch_bounds__(32 * prefill_shape<TYPE>::WARPS, prefill_shape<TYPE>::BLOCKS)
    prefill_kernel(const __grid_constant__ prefill_args a)
{
    using S = prefill_shape<TYPE>;
    constexpr int MT = S::MT, NT = S::NT;
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ uint64_t full[S::STAGES], empty[S::STAGES];
    int lane = threadIdx.x % 32,
        warp = __shfl_sync(0xffffffffu, threadIdx.x / 32, 0), /* so the compiler sees that it is uniform */
        wm = warp % S::ROW_WARPS, wn = warp / S::ROW_WARPS;
    auto fill = [&](uint32_t segment) {
        uint32_t stage = segment % S::STAGES;
        fill_stage<TYPE>(a, shared + stage * S::STAGE_BYTES, full + stage, segment, lane);
    };

    launch_next();
    if (threadIdx.x == 0)
        for (int s = 0; s < S::STAGES; s++) {
            barrier_init(full + s, FILL_ARRIVALS);
            barrier_init(empty + s, S::WARPS * WARP_ARRIVALS);
        }
    barrier_init_fence();
    __syncthreads();
    wait_previous();
    if (warp == 0)
        for (uint32_t s = 0; s < S::STAGES && s < a.segments; s++)
            fill(s);

    float y[MT][NT][4];
#pragma unroll
    for (int i = 0; i < MT * NT * 4; i++)
        y[i / 4 / NT][i / 4 % NT][i % 4] = 0.0f;
    for (uint32_t s = 0; s < a.segments; s++) {
        uint32_t last = s - 1, at = s % S::STAGES;
        bool refill = s > 0 && last + S::STAGES < a.segments && (uint32_t)warp == s % S::WARPS;
        const uint8_t *stage = shared + at * S::STAGE_BYTES, *units = stage + MT * wm * wtile<TYPE>::BYTES,
                      *acts = stage + S::A_BYTES + NT * wn * S::ACT_BYTES;
        float seg[MT][NT][4];
#pragma unroll
        for (int i = 0; i < MT * NT * 4; i++)
            seg[i / 4 / NT][i / 4 % NT][i % 4] = 0.0f;
        barrier_wait(full + at, s / S::STAGES % 2);
#pragma unroll 1
        for (int p = 0; p < 4; p++) {
            if (p == 2 && refill) {
                barrier_wait(empty + last % S::STAGES, last / S::STAGES % 2);
                fill(last + S::STAGES);
            }
            pair_sums<TYPE>(units, acts, p, lane, seg);
        }
        arrive_warp(empty + at);
#pragma unroll
        for (int i = 0; i < MT * NT * 4; i++)
            y[i / 4 / NT][i / 4 % NT][i % 4] =
                __fadd_rn(y[i / 4 / NT][i / 4 % NT][i % 4], seg[i / 4 / NT][i / 4 % NT][i % 4]);
    }
    store_outputs(a, y, blockIdx.y * S::ROW_TILES + MT * wm, (blockIdx.x * S::TOKEN_TILES + NT * wn) * 8,
                  lane);
}

template <int TYPE> static cudaError_t run_prefill(const prefill_args &a, cudaStream_t stream)
{
    using S = prefill_shape<TYPE>;
    dim3 grid((a.tokens + 8 * S::TOKEN_TILES - 1) / (8 * S::TOKEN_TILES),
              (a.tiles + S::ROW_TILES - 1) / S::ROW_TILES);
    /* all shared memory: two blocks a multiprocessor */
    return launch_split(100, prefill_kernel<TYPE>, grid, dim3(32 * S::WARPS),
                        (size_t)S::STAGES * S::STAGE_BYTES, stream, a);
}

cudaError_t linear_prefill(const fp__cuda_weight *w, const uint8_t *act, uint32_t tokens, const float *bias,
                           const float *residual, float *y, size_t y_stride, cudaStream_t stream)
{
    prefill_args a = {w->data,  act,         bias,   residual,          y, y_stride, w->rows,
                      w->tiles, w->segments, tokens, (uint32_t)w->gated};
    switch (w->type) {
#define CASE(type)                                                                                           \
    case type:                                                                                               \
        return run_prefill<type>(a, stream);
        FP_EACH_TYPE(CASE)
#undef CASE
    default:
        return cudaErrorInvalidValue;
    }
}

cudaError_t linear_prefill_init()
{
#define RAISE(type)                                                                                          \
    FP_CUDA_TRY(cudaFuncSetAttribute(prefill_kernel<type>, cudaFuncAttributeMaxDynamicSharedMemorySize,      \
                                     prefill_shape<type>::STAGES *prefill_shape<type>::STAGE_BYTES));
    FP_EACH_TYPE(RAISE)
#undef RAISE
    return cudaSuccess;
}

} // namespace fp
