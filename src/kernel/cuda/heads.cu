/* One warp per vector of d; element lane + 32·e is in register e, so the Walsh–Hadamard stages below 32 go
 * across lanes and the rest across registers. Norm and rotation pass through shared memory. */
#include "kernel/cuda/head_vector.cuh"
#include "kernel/cuda/heads.h"
#include "kernel/cuda/launch.cuh"
#include "kernel/cuda/quantise.cuh"

#include <math.h>

namespace fp
{

static constexpr uint32_t HEAD_WARPS = 4;

/* A lane's share of a position's row of the rotary table: entries lane, lane + 32, … */
template <int E> struct rotary {
    static constexpr int N = (E + 1) / 2;
    float c[N], s[N];
    __device__ __forceinline__ rotary(const fp__cuda_heads &a, uint32_t position, uint32_t lane)
    {
        uint32_t half = a.n_rot / 2;
#pragma unroll
        for (int k = 0; k < N; k++) {
            uint32_t i = lane + 32 * k;
            bool has = i < half;
            c[k] = has ? __ldg(a.cos + (size_t)position * half + i) : 0.0f;
            s[k] = has ? __ldg(a.sin + (size_t)position * half + i) : 0.0f;
        }
    }
};

/* §2 and §5 on one vector; false where the norm left the range (zeros then). */
template <int E>
static __device__ __forceinline__ bool norm_and_turn(const fp__cuda_heads &a, const float *w,
                                                     const rotary<E> &turn, float *row, uint32_t lane,
                                                     float (&x)[E])
{
    bool ok = true;
    if (w) {
        float sum = 0.0f, r;
#pragma unroll
        for (int e = 0; e < E; e++)
            sum = __fmaf_rn(x[e], x[e], sum);
        ok = norm_scale(fold(sum), 32 * E, a.eps, &r);
#pragma unroll
        for (int e = 0; e < E; e++)
            x[e] = ok ? __fmul_rn(__fmul_rn(x[e], r), w[lane + 32 * e]) : 0.0f;
    }
#pragma unroll
    for (int e = 0; e < E; e++)
        row[lane + 32 * e] = x[e];
    __syncwarp();
    uint32_t half = a.n_rot / 2;
#pragma unroll
    for (int k = 0; k < rotary<E>::N; k++) {
        uint32_t i = lane + 32 * k;
        if (i >= half)
            continue;
        uint32_t p = a.halves ? i : 2 * i, q = a.halves ? i + half : 2 * i + 1;
        float x0 = row[p], x1 = row[q], c = turn.c[k], s = turn.s[k];
        row[p] = __fmaf_rn(-x1, s, __fmul_rn(x0, c));
        row[q] = __fmaf_rn(x0, s, __fmul_rn(x1, c));
    }
    __syncwarp();
#pragma unroll
    for (int e = 0; e < E; e++)
        x[e] = row[lane + 32 * e];
    return ok;
}

template <int E>
__global__ void __launch_bounds__(HEAD_WARPS * 32) heads_kernel(fp__cuda_heads a, float factor)
{
    constexpr uint32_t D = 32 * E;
    __shared__ float rows[HEAD_WARPS][D];
    uint32_t lane = threadIdx.x % 32, head = blockIdx.x * HEAD_WARPS + threadIdx.x / 32, t = blockIdx.y;
    launch_next();
    if (head >= a.heads + 2 * a.kv_heads)
        return;
    /* the step's places and the rotary table are there before its first kernel */
    fp__cuda_token token = a.token[t];
    rotary<E> turn(a, token.position, lane);
    const float *from = a.qkv + ((size_t)t * (a.heads + 2 * a.kv_heads) + head) * D;
    wait_previous();
    float x[E];
#pragma unroll
    for (int e = 0; e < E; e++)
        x[e] = __ldcg(from + lane + 32 * e);
    bool query = head < a.heads, value = head >= a.heads + a.kv_heads, norm_ok = true, ok;
    if (!value)
        norm_ok = norm_and_turn(a, query ? a.q_norm : a.k_norm, turn, rows[threadIdx.x / 32], lane, x);
    if (query) {
        size_t row = (size_t)t * a.heads + head;
        ok = write_query(x, factor, lane, a.q_planes + row * 2 * D, a.q_scales + row);
    } else {
        uint32_t kv_head = (head - a.heads) % a.kv_heads;
        int8_t *slab =
            (int8_t *)(a.kv + token.page * a.group_bytes + a.layer_offset + kv_head * (128 * D + 256));
        uint16_t *scales = (uint16_t *)(slab + 128 * D) + (value ? 64 : 0) + token.slot;
        if (!value)
            rotate(x, lane);
        ok = value ? write_kv(x, lane, slab + 64 * D + token.slot, 64, scales)
                   : write_kv(x, lane, slab + token.slot * D, 1, scales);
    }
    if (lane == 0 && !norm_ok)
        atomicMin(a.error + t, a.code);
    if (lane == 0 && !ok)
        atomicMin(a.error + t, a.code + (query ? 1 : 2));
}

__global__ void mass_kernel(const float *alpha, const fp__cuda_token *token, uint32_t heads,
                            unsigned long long *mass, size_t row_stride)
{
    launch_next();
    wait_previous();
    uint32_t row = token[blockIdx.x].mass_row;
    if (row == FP__CUDA_NO_MASS)
        return;
    for (uint32_t h = threadIdx.x; h < heads; h += blockDim.x) {
        float x = __fmul_rn(alpha[(size_t)blockIdx.x * heads + h], 0x1p24f);
        atomicAdd(mass + row * row_stride + h, (unsigned long long)__float2ll_rn(x));
    }
}

template <int E> static cudaError_t start(const fp__cuda_heads *a, uint32_t tokens, cudaStream_t stream)
{
    constexpr int D = 32 * E, H = D & -D;
    float factor = (float)(0x1.71547652b82fep+0 / sqrt((double)D) / (double)H);
    dim3 grid((a->heads + 2 * a->kv_heads + HEAD_WARPS - 1) / HEAD_WARPS, tokens);
    return launch(heads_kernel<E>, grid, dim3(HEAD_WARPS * 32), 0, stream, *a, factor);
}

} // namespace fp

using namespace fp;

extern "C" cudaError_t fp__cuda_prepare_heads(const fp__cuda_heads *a, uint32_t tokens, cudaStream_t stream)
{
    if (a->n_rot > a->d || a->n_rot % 2 != 0 || tokens > 65535)
        return cudaErrorInvalidValue;
    if (tokens == 0)
        return cudaSuccess;
    switch (a->d) {
    case 64:
        return start<2>(a, tokens, stream);
    case 96:
        return start<3>(a, tokens, stream);
    case 128:
        return start<4>(a, tokens, stream);
    case 256:
        return start<8>(a, tokens, stream);
    default:
        return cudaErrorInvalidValue;
    }
}

extern "C" cudaError_t fp__cuda_add_mass(const float *alpha, const fp__cuda_token *token, uint32_t tokens,
                                         uint32_t heads, uint64_t *mass, size_t row_stride,
                                         cudaStream_t stream)
{
    if (tokens == 0)
        return cudaSuccess;
    return launch(mass_kernel, dim3(tokens), dim3(64), 0, stream, alpha, token, heads,
                  (unsigned long long *)mass, row_stride);
}
