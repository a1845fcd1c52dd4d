/* §4 for many tokens: int8 matrix instructions, one per block of 32 inputs of 16 rows × 8 tokens, and then
 * three binary32 operations per output (integer to float, the product of the scales, fma); those bound the
 * speed, not the matrix unit.
 *
 * A block of WM × WN warps computes 32·WM rows × 32·WN tokens (128 × 64; two blocks a multiprocessor). Per
 * segment a stage of shared memory receives the row tiles' units (still packed: a warp unpacks its fragments
 * in registers) and the tokens' activation tiles, all of them contiguous copies. A stage is refilled one
 * segment later than it was used, when all warps are likely past it. */
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

template <int TYPE, int WM, int WN> struct prefill_shape {
    static constexpr int ROW_TILES = 2 * WM, TOKEN_TILES = 4 * WN, THREADS = 32 * WM * WN;
    static constexpr int A_BYTES = ROW_TILES * wtile<TYPE>::BYTES,
                         B_BYTES = TOKEN_TILES * FP__DEVICE_ACT_BYTES;
    static constexpr int STAGE_BYTES = A_BYTES + B_BYTES;
    static constexpr int STAGES =
        112 * 1024 / STAGE_BYTES > 4 ? 4 : 112 * 1024 / STAGE_BYTES; /* two blocks fit */
    static_assert(STAGES >= 2, "no room for two stages");
};

template <int TYPE, int WM, int WN>
static __device__ __forceinline__ void fill_stage(const prefill_args &a, uint8_t *stage, uint64_t *full,
                                                  uint32_t tile0, uint32_t token_tile0, uint32_t segment,
                                                  int lane)
{
    using S = prefill_shape<TYPE, WM, WN>;
    constexpr uint32_t UNIT = wtile<TYPE>::BYTES;
    uint32_t token_tiles = (a.tokens + 7) / 8;
    fill_begin(full, S::STAGE_BYTES, lane);
#if FP_CUDA_BULK
    /* one lane per copy; tiles past the end repeat the last one, and their results are dropped */
    if (lane < S::ROW_TILES) {
        uint32_t tile = min(tile0 + lane, a.tiles - 1);
        fill_copy(stage + lane * UNIT, a.weights + ((size_t)tile * a.segments + segment) * UNIT, UNIT, full,
                  lane, lane);
    } else if (lane < S::ROW_TILES + S::TOKEN_TILES) {
        int i = lane - S::ROW_TILES;
        uint32_t tile = min(token_tile0 + i, token_tiles - 1);
        fill_copy(stage + S::A_BYTES + i * FP__DEVICE_ACT_BYTES,
                  a.act + ((size_t)tile * a.segments + segment) * FP__DEVICE_ACT_BYTES, FP__DEVICE_ACT_BYTES,
                  full, lane, lane);
    }
    static_assert(S::ROW_TILES + S::TOKEN_TILES <= 32, "a lane per copy");
#else
    for (int i = 0; i < S::ROW_TILES; i++) {
        uint32_t tile = min(tile0 + i, a.tiles - 1);
        fill_copy(stage + i * UNIT, a.weights + ((size_t)tile * a.segments + segment) * UNIT, UNIT, full,
                  lane, 0);
    }
    for (int i = 0; i < S::TOKEN_TILES; i++) {
        uint32_t tile = min(token_tile0 + i, token_tiles - 1);
        fill_copy(stage + S::A_BYTES + i * FP__DEVICE_ACT_BYTES,
                  a.act + ((size_t)tile * a.segments + segment) * FP__DEVICE_ACT_BYTES, FP__DEVICE_ACT_BYTES,
                  full, lane, 0);
    }
#endif
    fill_end(full);
}

/* One segment of a warp's 2 row tiles × 4 token tiles. */
template <int TYPE>
static __device__ __forceinline__ void segment_sums(const uint8_t *units, const uint8_t *acts, int lane,
                                                    float (&seg)[2][4][4])
{
    using W = wtile<TYPE>;
#pragma unroll
    for (int i = 0; i < 32; i++)
        seg[i / 16][i / 4 % 4][i % 4] = 0.0f;
#pragma unroll 1
    for (int p = 0; p < 4; p++) {
        typename W::pair w[2];
        load_pair<TYPE>(units, p, lane, w[0]);
        load_pair<TYPE>(units + W::BYTES, p, lane, w[1]);
        const uint8_t *quants = acts + p * 512 + lane * 16,
                      *scales = acts + FP__DEVICE_ACT_D + p * 64 + lane % 4 * 8;
        /* steps of two matrix instructions: token tile k / 2, block k % 2, both row tiles; those of step k +
         * 1 are under way while the results of step k are added */
        block_sums<TYPE> t[2][2];
        uint4 x = *(const uint4 *)quants;
        block_mma<TYPE>(t[0][0], w[0].a[0], make_uint2(x.x, x.y));
        block_mma<TYPE>(t[0][1], w[1].a[0], make_uint2(x.x, x.y));
#pragma unroll
        for (int k = 0; k < 8; k++) {
            const float *d = (const float *)(scales + k / 2 * FP__DEVICE_ACT_BYTES + k % 2 * 32);
            float2 dx = *(const float2 *)d, ds = make_float2(0.0f, 0.0f);
            if constexpr (W::MINIMUM)
                ds = *(const float2 *)(d + 64);
            if (k < 7) {
                uint2 next = k % 2 ? make_uint2(0, 0) : make_uint2(x.z, x.w);
                if (k % 2) {
                    x = *(const uint4 *)(quants + (k + 1) / 2 * FP__DEVICE_ACT_BYTES);
                    next = make_uint2(x.x, x.y);
                }
                block_mma<TYPE>(t[(k + 1) % 2][0], w[0].a[(k + 1) % 2], next);
                block_mma<TYPE>(t[(k + 1) % 2][1], w[1].a[(k + 1) % 2], next);
            }
            block_add<TYPE>(seg[0][k / 2], t[k % 2][0], w[0], k % 2, dx, ds);
            block_add<TYPE>(seg[1][k / 2], t[k % 2][1], w[1], k % 2, dx, ds);
        }
    }
}

static __device__ __forceinline__ void store_outputs(const prefill_args &a, const float (&y)[2][4][4],
                                                     uint32_t tile0, uint32_t token0, int lane)
{
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
        for (int n = 0; n < 4; n++)
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

template <int TYPE, int WM, int WN>
__global__ void __launch_bounds__(32 * WM * WN, 16 / (WM * WN))
    prefill_kernel(const __grid_constant__ prefill_args a)
{
    using S = prefill_shape<TYPE, WM, WN>;
    extern __shared__ __align__(128) uint8_t shared[];
    __shared__ uint64_t full[S::STAGES], empty[S::STAGES];
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, wm = warp % WM, wn = warp / WM;
    uint32_t tile0 = blockIdx.y * S::ROW_TILES, token_tile0 = blockIdx.x * S::TOKEN_TILES;

    launch_next();
    if (threadIdx.x == 0)
        for (int s = 0; s < S::STAGES; s++) {
            barrier_init(full + s, FILL_ARRIVALS);
            barrier_init(empty + s, WM * WN * WARP_ARRIVALS);
        }
    barrier_init_fence();
    __syncthreads();
    wait_previous();
    if (warp == 0)
        for (uint32_t s = 0; s < S::STAGES && s < a.segments; s++)
            fill_stage<TYPE, WM, WN>(a, shared + s * S::STAGE_BYTES, full + s, tile0, token_tile0, s, lane);

    float y[2][4][4];
#pragma unroll
    for (int i = 0; i < 32; i++)
        y[i / 16][i / 4 % 4][i % 4] = 0.0f;
    uint32_t stage = 0, parity = 0, last_stage = 0, last_parity = 0;
    for (uint32_t s = 0; s < a.segments; s++) {
        if (warp == 0 && s > 0 && s - 1 + S::STAGES < a.segments) {
            barrier_wait(empty + last_stage, last_parity);
            fill_stage<TYPE, WM, WN>(a, shared + last_stage * S::STAGE_BYTES, full + last_stage, tile0,
                                     token_tile0, s - 1 + S::STAGES, lane);
        }
        barrier_wait(full + stage, parity);
        const uint8_t *base = shared + stage * S::STAGE_BYTES;
        float seg[2][4][4];
        segment_sums<TYPE>(base + 2 * wm * wtile<TYPE>::BYTES,
                           base + S::A_BYTES + 4 * wn * FP__DEVICE_ACT_BYTES, lane, seg);
        arrive_warp(empty + stage);
#pragma unroll
        for (int i = 0; i < 32; i++)
            y[i / 16][i / 4 % 4][i % 4] =
                __fadd_rn(y[i / 16][i / 4 % 4][i % 4], seg[i / 16][i / 4 % 4][i % 4]);
        last_stage = stage;
        last_parity = parity;
        if (++stage == S::STAGES) {
            stage = 0;
            parity ^= 1;
        }
    }
    store_outputs(a, y, tile0 + 2 * wm, (token_tile0 + 4 * wn) * 8, lane);
}

template <int TYPE, int WM, int WN> static cudaError_t run_prefill(const prefill_args &a, cudaStream_t stream)
{
    using S = prefill_shape<TYPE, WM, WN>;
    dim3 grid((a.tokens + 8 * S::TOKEN_TILES - 1) / (8 * S::TOKEN_TILES),
              (a.tiles + S::ROW_TILES - 1) / S::ROW_TILES);
    /* all shared memory: two blocks a multiprocessor */
    return launch_split(100, prefill_kernel<TYPE, WM, WN>, grid, dim3(S::THREADS),
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
        return run_prefill<type, 4, 2>(a, stream);
        FP_EACH_TYPE(CASE)
#undef CASE
    default:
        return cudaErrorInvalidValue;
    }
}

cudaError_t linear_prefill_init()
{
#define RAISE(type)                                                                                          \
    FP_CUDA_TRY(                                                                                             \
        cudaFuncSetAttribute(prefill_kernel<type, 4, 2>, cudaFuncAttributeMaxDynamicSharedMemorySize,        \
                             prefill_shape<type, 4, 2>::STAGES *prefill_shape<type, 4, 2>::STAGE_BYTES));
    FP_EACH_TYPE(RAISE)
#undef RAISE
    return cudaSuccess;
}

} // namespace fp
