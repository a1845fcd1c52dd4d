/* §4 for many tokens on Hopper: the matrix products of linear_prefill.cu by wgmma.
 *
 * A block computes 128 tokens × 128 rows: four warpgroups of 64 × 64, and two warps that feed them. A block
 * of 32 inputs is one instruction of 64 tokens × 64 rows, whose sums are then scaled and added: three
 * operations for each of them (to float, the product of the scales, fma), and these bound the speed. While
 * one group waits for its product the others scale theirs.
 *
 * Activations are the A operand, in registers: their tiles are copied as they lie in memory. The feeding
 * warps unpack the weights, once for all tokens of the block, to bytes in shared memory in the blocks that
 * wgmma reads, with their scales as floats. A stage is half a segment. Sums of whole segments wait in shared
 * memory, those of the current one are in registers.
 *
 * Quants that were brought to the upper bits of their bytes (wtile.cuh) make the sums larger by a power of
 * two, which the scale takes back: exact, since no product of scales is near the smallest numbers (f16 times
 * at least 2^-71; 32-bit scales belong to quants of 8 bits, which are not moved). */
#include "kernel/cuda/canon.cuh"
#include "kernel/cuda/launch.cuh"
#include "kernel/cuda/linear_wgmma.h"
#include "kernel/cuda/wgmma.cuh"
#include "kernel/cuda/wtile.cuh"

namespace fp
{

namespace
{

constexpr int TOKENS = 128, ROWS = 128, GROUPS = 4, CONSUMERS = 4 * GROUPS, FEEDERS = 4,
              THREADS = 32 * (CONSUMERS + FEEDERS), BLOCKS = 4; /* blocks of a stage */
/* Registers of a lane: no more in all than the kernel starts with. */
constexpr int START = 65536 / THREADS / 8 * 8, CONSUMER = 104, FEEDER = 64;
static_assert(CONSUMERS * CONSUMER + FEEDERS * FEEDER <= (CONSUMERS + FEEDERS) * START,
              "there are not so many");
constexpr uint32_t BARRIER_BYTES = 256, SUM_BYTES = TOKENS * ROWS * 4;

/* A stage: B [block][depth 16][row][16], acts [token tile][pair][512], d and ds [token tile][block][token 8],
 * scales [part][block][row in the order of wgmma's results]. */
template <int TYPE> struct Stage {
    using W = wtile<TYPE>;
    static constexpr int SCALES = W::MINIMUM || W::HALVES ? 2 : 1; /* of a block and row */
    static constexpr uint32_t ACT = BLOCKS * 32 * ROWS, D = ACT + TOKENS * 32 * BLOCKS,
                              DS = D + TOKENS * 4 * BLOCKS, DW = DS + (W::MINIMUM ? TOKENS * 4 * BLOCKS : 0),
                              BYTES = DW + SCALES * ROWS * 4 * BLOCKS,
                              COPIED = DW - ACT; /* by the copy engine */
    static constexpr int STAGES = 4;
    static constexpr uint32_t SHARED = BARRIER_BYTES + SUM_BYTES + STAGES * BYTES;
};

struct Args {
    const uint8_t *weights, *act;
    const float *bias, *residual;
    float *y;
    size_t y_stride;
    uint32_t rows, tiles, segments, tokens, gated;
};

struct Ring {
    uint64_t *full, *empty;
    uint8_t *stages;
    uint32_t slot, parity;
    __device__ __forceinline__ void next(int stages)
    {
        if (++slot == (uint32_t)stages)
            slot = 0, parity ^= 1;
    }
};

/* ---- feeding ------------------------------------------------------------------------------------------- */

/* The activations of a stage, by the lanes of one warp. */
template <int TYPE>
static __device__ __forceinline__ void copy_activations(const Args &a, uint8_t *stage, uint64_t *full,
                                                        uint32_t token_tile0, uint32_t half, int lane)
{
    using S = Stage<TYPE>;
    if (lane == 0)
        asm volatile("mbarrier.expect_tx.relaxed.cta.shared.b64 [%0], %1;" ::"r"(smem_at(full)),
                     "r"(S::COPIED)
                     : "memory");
    __syncwarp();
    int i = lane % 16;
    uint32_t tile = min(token_tile0 + i, (a.tokens + 7) / 8 - 1);
    const uint8_t *from =
        a.act + ((size_t)tile * a.segments + half / 2) * FP__DEVICE_ACT_BYTES; /* past the end: dropped */
    uint32_t part = half % 2;
    if (lane < 16) {
        fill_copy(stage + S::ACT + i * 1024, from + part * 1024, 1024, full, lane, lane);
        if (S::W::MINIMUM)
            fill_copy(stage + S::DS + i * 128, from + FP__DEVICE_ACT_DS + part * 128, 128, full, lane, lane);
    } else {
        fill_copy(stage + S::D + i * 128, from + FP__DEVICE_ACT_D + part * 128, 128, full, lane, lane);
    }
}

/* Quants of 16 rows × 2 blocks → B, their scales → floats. unit: of the block's 8. */
template <int TYPE>
static __device__ __forceinline__ void unpack_pair(const packed_pair<TYPE> &packed, uint8_t *stage, int unit,
                                                   int pair, int lane)
{
    using S = Stage<TYPE>;
    using W = wtile<TYPE>;
    typename W::pair w;
    unpack_quants<TYPE>(packed, w.a);
    unpack_scales<TYPE>(packed, w);
    int g = lane / 4, c = lane % 4;
    uint8_t *to = stage + 2 * pair * 32 * ROWS + (unit * 16 + g) * 16 + 4 * c;
#pragma unroll
    for (int b = 0; b < 2; b++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            *(uint32_t *)(to + b * 32 * ROWS + i / 2 * 16 * ROWS + i % 2 * 128) = w.a[b][i];
    /* lane c: block c / 2, row g + 8·(c % 2) */
    constexpr float DOWN = 1.0f / (float)(1 << W::SHIFT);
    float *scale =
        (float *)(stage + S::DW) + (2 * pair + c / 2) * ROWS + unit * 16 + g / 2 * 4 + c % 2 * 2 + g % 2;
    const float dw[2] = {c & 1 ? w.dw[0][1][0] : w.dw[0][0][0], c & 1 ? w.dw[1][1][0] : w.dw[1][0][0]};
    scale[0] = __fmul_rn(c & 2 ? dw[1] : dw[0], DOWN);
    if constexpr (W::HALVES) {
        const float other[2] = {c & 1 ? w.dw[0][1][1] : w.dw[0][0][1], c & 1 ? w.dw[1][1][1] : w.dw[1][0][1]};
        scale[BLOCKS * ROWS] = __fmul_rn(c & 2 ? other[1] : other[0], DOWN);
    }
    if constexpr (W::MINIMUM) {
        const float mw[2] = {c & 1 ? w.mw[0][1] : w.mw[0][0], c & 1 ? w.mw[1][1] : w.mw[1][0]};
        scale[BLOCKS * ROWS] = c & 2 ? mw[1] : mw[0];
    }
}

/* One of the two warps: units of its own, the weights of the next stage on their way while it waits. */
template <int TYPE>
static __device__ __forceinline__ void feed(const Args &a, Ring ring, uint32_t tile0, uint32_t token_tile0,
                                            int feeder, int lane)
{
    using S = Stage<TYPE>;
    constexpr uint32_t UNIT = wtile<TYPE>::BYTES;
    constexpr int MINE = 8 / FEEDERS;
    packed_pair<TYPE> packed[MINE][2];
    const uint8_t *units[MINE];
#pragma unroll
    for (int i = 0; i < MINE; i++)
        units[i] = a.weights + (size_t)min(tile0 + feeder * MINE + i, a.tiles - 1) * a.segments * UNIT;
    for (uint32_t half = 0; half < 2 * a.segments; half++) {
#pragma unroll
        for (int i = 0; i < MINE; i++)
#pragma unroll
            for (int p = 0; p < 2; p++) {
                const uint8_t *unit = units[i] + (size_t)(half / 2) * UNIT;
                read_quants<TYPE>(unit, (int)(half % 2) * 2 + p, lane, packed[i][p]);
                read_scales<TYPE>(unit, (int)(half % 2) * 2 + p, lane, packed[i][p]);
            }
        if (half == 0)
            wait_previous(); /* the weights do not depend on it */
        barrier_wait(ring.empty + ring.slot, ring.parity ^ 1);
        uint8_t *stage = ring.stages + ring.slot * S::BYTES;
        if (feeder == 0)
            copy_activations<TYPE>(a, stage, ring.full + ring.slot, token_tile0, half, lane);
#pragma unroll
        for (int i = 0; i < MINE; i++)
#pragma unroll
            for (int p = 0; p < 2; p++)
                unpack_pair<TYPE>(packed[i][p], stage, feeder * MINE + i, p, lane);
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        __syncwarp();
        if (lane == 0)
            barrier_arrive(ring.full + ring.slot);
        ring.next(S::STAGES);
    }
}

/* ---- multiplying --------------------------------------------------------------------------------------- */

/* A operands of two blocks: rows g and g + 8 of a warp's 16 tokens. */
struct Acts {
    uint4 low, high;
    template <bool HALVES> __device__ __forceinline__ void operand(int step, uint32_t (&a)[4]) const
    {
        int b = HALVES ? step / 2 % 2 : step % 2;
        const uint32_t both[4] = {b ? low.z : low.x, b ? high.z : high.x, b ? low.w : low.y,
                                  b ? high.w : high.y};
#pragma unroll
        for (int i = 0; i < 4; i++)
            a[i] = !HALVES || i / 2 == step % 2 ? both[i] : 0;
    }
};

template <int TYPE> struct Group {
    using S = Stage<TYPE>;
    using W = wtile<TYPE>;
    static constexpr int SUBS = W::HALVES ? 2 : 1, STEPS = BLOCKS * SUBS;
    uint32_t tokens, rows; /* its first, within the block */
    int warp, lane;
    int t[32];
    float seg[32];

    __device__ __forceinline__ Acts acts(const uint8_t *stage, int pair) const
    {
        const uint8_t *at = stage + S::ACT + (tokens / 8 + 2 * warp) * 1024 + pair * 512 + lane * 16;
        return {*(const uint4 *)at, *(const uint4 *)(at + 1024)};
    }
    __device__ __forceinline__ void multiply(const Acts &acts, uint32_t stage, int step)
    {
        uint32_t a[4], b = wgmma_operand(stage + step / SUBS * 32 * ROWS + rows * 16, 16 * ROWS);
        acts.template operand<W::HALVES>(step, a);
        wgmma_begin();
        wgmma<false, 0>(t, a, b);
        wgmma_commit();
    }
    /* Waits for the sums of a step, scales and adds them. */
    __device__ __forceinline__ void add(const uint8_t *stage, int step)
    {
        int block = step / SUBS, g = lane / 4, c = lane % 4;
        const float *scale =
                        (const float *)(stage + S::DW) + (step % SUBS * BLOCKS + block) * ROWS + rows + 4 * c,
                    *d = (const float *)(stage + S::D) + (tokens / 8 + 2 * warp) * 32 + block * 8 + g;
        const float dx[2] = {d[0], d[32]};
        wgmma_wait<0>();
        wgmma_results(t);
#pragma unroll
        for (int k = 0; k < 4; k++) {
            float4 four = *(const float4 *)(scale + 16 * k);
            const float dw[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
            for (int i = 0; i < 8; i++)
                seg[8 * k + i] = __fmaf_rn(__int2float_rn(t[8 * k + i]),
                                           __fmul_rn(dw[i / 4 * 2 + i % 2], dx[i / 2 % 2]), seg[8 * k + i]);
        }
        if constexpr (W::MINIMUM) {
            scale += BLOCKS * ROWS;
            d += (S::DS - S::D) / 4;
            const float ds[2] = {d[0], d[32]};
#pragma unroll
            for (int k = 0; k < 4; k++) {
                float4 four = *(const float4 *)(scale + 16 * k);
                const float mw[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
                for (int i = 0; i < 8; i++)
                    seg[8 * k + i] = __fmaf_rn(mw[i / 4 * 2 + i % 2], ds[i / 2 % 2], seg[8 * k + i]);
            }
        }
    }
    /* A segment is complete: y += seg. */
    __device__ __forceinline__ void end_segment(float4 *sums)
    {
#pragma unroll
        for (int i = 0; i < 8; i++) {
            float *s = &seg[4 * i];
            float4 y = sums[i * 128];
            sums[i * 128] = make_float4(__fadd_rn(y.x, s[0]), __fadd_rn(y.y, s[1]), __fadd_rn(y.z, s[2]),
                                        __fadd_rn(y.w, s[3]));
            s[0] = s[1] = s[2] = s[3] = 0.0f;
        }
    }
    /* The outputs of one token, from sum `first` on. */
    __device__ __forceinline__ void store_row(const Args &a, uint32_t tile0, uint32_t token, int first) const
    {
        float *y = a.y + token * a.y_stride;
        const float *residual = a.residual ? a.residual + token * a.y_stride : nullptr;
        bool pairs = a.y_stride % 2 == 0;
#pragma unroll
        for (int j = 0; j < 8; j++) {
            uint32_t row = tile0 * 16 + rows + 8 * j + 2 * ((uint32_t)lane % 4);
            float v[2] = {seg[4 * j + first], seg[4 * j + first + 1]};
            if (a.gated) {
                if (j % 2 || row >= a.rows)
                    continue;
                row = row / 16 * 8 + row % 8;
#pragma unroll
                for (int e = 0; e < 2; e++)
                    y[row + e] = silu_mul(v[e], seg[4 * (j + 1) % 32 + first + e]);
                continue;
            }
#pragma unroll
            for (int e = 0; e < 2; e++) {
                if (row + e >= a.rows)
                    continue;
                if (a.bias)
                    v[e] = __fadd_rn(v[e], a.bias[row + e]);
                if (residual)
                    v[e] = __fadd_rn(residual[row + e], v[e]);
                if (!pairs || row + 1 >= a.rows)
                    y[row + e] = v[e];
            }
            if (pairs && row + 1 < a.rows)
                *(float2 *)(y + row) = make_float2(v[0], v[1]);
        }
    }
    __device__ __forceinline__ void store(const Args &a, uint32_t tile0, uint32_t token0) const
    {
        uint32_t token = token0 + tokens + 16 * warp + lane / 4;
        if (token < a.tokens)
            store_row(a, tile0, token, 0);
        if (token + 8 < a.tokens)
            store_row(a, tile0, token + 8, 2);
    }
    __device__ __forceinline__ void run(const Args &a, Ring ring, float4 *sums)
    {
        uint32_t halves = 2 * a.segments;
#pragma unroll
        for (int i = 0; i < 8; i++)
            sums[i * 128] = make_float4(0, 0, 0, 0);
#pragma unroll
        for (int i = 0; i < 32; i++)
            seg[i] = 0.0f;
        barrier_wait(ring.full, 0);
        Acts now = acts(ring.stages, 0);
        multiply(now, smem_at(ring.stages), 0);
#pragma unroll 1
        for (uint32_t number = 0; number < halves; number++) {
            const uint8_t *stage = ring.stages + ring.slot * S::BYTES, *following = stage;
            uint32_t slot = ring.slot;
            ring.next(S::STAGES);
#pragma unroll
            for (int step = 0; step < STEPS; step++) {
                /* what is multiplied next; after the last stage its beginning once more, for nothing */
                int next = (step + 1) % STEPS;
                if (step + 1 == STEPS && number + 1 < halves) {
                    barrier_wait(ring.full + ring.slot, ring.parity);
                    following = ring.stages + ring.slot * S::BYTES;
                }
                if (next % (2 * SUBS) == 0)
                    now = acts(next ? stage : following, next / (2 * SUBS));
                add(stage, step);
                multiply(now, smem_at(next ? stage : following), next);
            }
            __syncwarp();
            if (lane == 0)
                barrier_arrive(ring.empty + slot);
            if (number % 2)
                end_segment(sums);
        }
        wgmma_wait<0>();
#pragma unroll
        for (int i = 0; i < 8; i++) {
            float4 y = sums[i * 128];
            seg[4 * i] = y.x, seg[4 * i + 1] = y.y, seg[4 * i + 2] = y.z, seg[4 * i + 3] = y.w;
        }
    }
};

template <int TYPE> __global__ void __launch_bounds__(THREADS, 1) wgmma_kernel(const __grid_constant__ Args a)
{
#if FP_CUDA_WGMMA
    using S = Stage<TYPE>;
    extern __shared__ __align__(1024) uint8_t shared[];
    int lane = threadIdx.x % 32, warp = __shfl_sync(~0u, threadIdx.x / 32, 0);
    uint32_t tile0 = blockIdx.y * (ROWS / 16), token0 = blockIdx.x * TOKENS;
    Ring ring = {(uint64_t *)shared, (uint64_t *)shared + S::STAGES, shared + BARRIER_BYTES + SUM_BYTES, 0,
                 0};
    launch_next();
    if (threadIdx.x < S::STAGES) {
        barrier_init(ring.full + threadIdx.x, FEEDERS);
        barrier_init(ring.empty + threadIdx.x, CONSUMERS);
    }
    barrier_init_done();
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    __syncthreads();
    if (warp >= CONSUMERS) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(FEEDER));
        feed<TYPE>(a, ring, tile0, token0 / 8, warp - CONSUMERS, lane);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(CONSUMER));
        int group = warp / 4;
        Group<TYPE> g;
        g.tokens = group / 2 * 64, g.rows = group % 2 * 64;
        g.warp = warp % 4, g.lane = lane;
        float4 *sums = (float4 *)(shared + BARRIER_BYTES) + group * 8 * 128 + threadIdx.x % 128;
        wait_previous();
        g.run(a, ring, sums);
        g.store(a, tile0, token0);
    }
#endif
}

template <int TYPE> static cudaError_t run_wgmma(const Args &a, cudaStream_t stream)
{
    dim3 grid((a.tokens + TOKENS - 1) / TOKENS, (a.tiles * 16 + ROWS - 1) / ROWS);
    return launch_split(100, wgmma_kernel<TYPE>, grid, dim3(THREADS), Stage<TYPE>::SHARED, stream, a);
}

/* 1 in the code for sm_90a, which has wgmma; each architecture's code has its own. */
__device__ int has_wgmma = FP_CUDA_WGMMA;
bool built;

} // namespace

bool linear_wgmma_built()
{
    return built;
}

cudaError_t linear_wgmma(const fp__cuda_weight *w, const uint8_t *act, uint32_t tokens, const float *bias,
                         const float *residual, float *y, size_t y_stride, cudaStream_t stream)
{
    Args a = {w->data,  act,         bias,   residual,          y, y_stride, w->rows,
              w->tiles, w->segments, tokens, (uint32_t)w->gated};
    switch (w->type) {
#define CASE(type)                                                                                           \
    case type:                                                                                               \
        return run_wgmma<type>(a, stream);
        FP_EACH_TYPE(CASE)
#undef CASE
    default:
        return cudaErrorInvalidValue;
    }
}

cudaError_t linear_wgmma_init()
{
    int there = 0;
    FP_CUDA_TRY(cudaMemcpyFromSymbol(&there, has_wgmma, sizeof there));
    if (!there)
        return cudaSuccess;
#define RAISE(type)                                                                                          \
    FP_CUDA_TRY(cudaFuncSetAttribute(wgmma_kernel<type>, cudaFuncAttributeMaxDynamicSharedMemorySize,        \
                                     Stage<type>::SHARED));
    FP_EACH_TYPE(RAISE)
#undef RAISE
    built = true;
    return cudaSuccess;
}

} // namespace fp
