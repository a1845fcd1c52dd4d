/* Queries to integer planes, keys and values into their slab (arithmetic §6). One warp per vector of d;
 * element lane + 32·e is at [e], so the Walsh–Hadamard stages below 32 go across lanes, the rest across
 * registers. */
#include "core/error.h"
#include "fieldprint/cuda_attention.h"
#include "kernel/cuda/attention_launch.cuh"
#include "kernel/cuda/head_vector.cuh"
#include "kernel/cuda/overlap.cuh"

#include <math.h>

namespace
{

constexpr int WARPS_PER_CTA = 4;

template <int E> __device__ __forceinline__ void load_vector(const float *from, uint32_t lane, float (&x)[E])
{
#pragma unroll
    for (int e = 0; e < E; e++)
        x[e] = from[lane + 32 * e];
}

template <int E>
__global__ void prepare(const float *q, size_t vectors, uint32_t heads, float factor, int8_t *planes,
                        float *scales, uint32_t *numeric)
{
    size_t i = (size_t)blockIdx.x * WARPS_PER_CTA + threadIdx.x / 32;
    uint32_t lane = threadIdx.x % 32;
    fp::launch_next();
    if (i >= vectors)
        return;
    float x[E];
    fp::wait_previous();
    load_vector(q + i * 32 * E, lane, x);
    bool ok = fp::write_query(x, factor, lane, planes + i * 64 * E, scales + i);
    if (!ok && lane == 0 && numeric)
        atomicMin(numeric, (uint32_t)(i / heads));
}

template <int E> __global__ void kv_write(const fp_cuda_kv_write_args a, size_t vectors, uint32_t kv_heads)
{
    constexpr uint32_t D = 32 * E;
    size_t i = (size_t)blockIdx.x * WARPS_PER_CTA + threadIdx.x / 32;
    uint32_t lane = threadIdx.x % 32;
    if (i >= vectors)
        return;
    size_t token = i / kv_heads, head = i % kv_heads;
    uint32_t slot = a.slot[token];
    uint8_t *slab = a.kv + a.page[token] * a.group_bytes + a.layer_offset + head * (128 * D + 256);
    float x[E];
    load_vector(a.k + i * D, lane, x);
    fp::rotate(x, lane);
    uint16_t *scales = reinterpret_cast<uint16_t *>(slab + 128 * D);
    bool ok = fp::write_kv(x, lane, reinterpret_cast<int8_t *>(slab) + slot * D, 1, scales + slot);
    load_vector(a.v + i * D, lane, x);
    ok =
        fp::write_kv(x, lane, reinterpret_cast<int8_t *>(slab) + 64 * D + slot, 64, scales + 64 + slot) && ok;
    if (!ok && lane == 0 && a.numeric)
        atomicMin(a.numeric, (uint32_t)token);
}

fp_status launched(cudaError_t e, const char *what)
{
    return e == cudaSuccess ? FP_OK
                            : fp__fail(FP_UNSUPPORTED, "starting %s: %s", what, cudaGetErrorString(e));
}

fp_status bad_size(uint32_t d)
{
    return fp__fail(FP_USAGE, "attention on the GPU knows heads of 64, 96, 128 and 256, not %u", d);
}

unsigned ctas(size_t vectors)
{
    return (unsigned)((vectors + WARPS_PER_CTA - 1) / WARPS_PER_CTA);
}

template <int E>
cudaError_t start_prepare(const float *q, size_t n, uint32_t heads, int8_t *planes, float *scales,
                          uint32_t *numeric, cudaStream_t s)
{
    constexpr int D = 32 * E, H = D & -D;
    float factor = (float)(0x1.71547652b82fep+0 / sqrt((double)D) / (double)H);
    return fp::attn::launch(prepare<E>, ctas(n), WARPS_PER_CTA * 32, 0, s, q, n, heads, factor, planes,
                            scales, numeric);
}

} // namespace

fp_status fp_cuda_query_prepare(const float *q, size_t tokens, uint32_t heads, uint32_t d, int8_t *q_planes,
                                float *q_scales, uint32_t *numeric, void *stream)
{
    size_t n = tokens * heads;
    cudaStream_t s = (cudaStream_t)stream;
    cudaError_t e;
    if (n == 0)
        return FP_OK;
    switch (d) {
    case 64:
        e = start_prepare<2>(q, n, heads, q_planes, q_scales, numeric, s);
        break;
    case 96:
        e = start_prepare<3>(q, n, heads, q_planes, q_scales, numeric, s);
        break;
    case 128:
        e = start_prepare<4>(q, n, heads, q_planes, q_scales, numeric, s);
        break;
    case 256:
        e = start_prepare<8>(q, n, heads, q_planes, q_scales, numeric, s);
        break;
    default:
        return bad_size(d);
    }
    return launched(e, "the preparation of queries");
}

fp_status fp_cuda_kv_write(const fp_cuda_kv_write_args *args, size_t tokens, uint32_t kv_heads, uint32_t d,
                           void *stream)
{
    size_t n = tokens * kv_heads;
    cudaStream_t s = (cudaStream_t)stream;
    if (n == 0)
        return FP_OK;
    switch (d) {
    case 64:
        kv_write<2><<<ctas(n), WARPS_PER_CTA * 32, 0, s>>>(*args, n, kv_heads);
        break;
    case 96:
        kv_write<3><<<ctas(n), WARPS_PER_CTA * 32, 0, s>>>(*args, n, kv_heads);
        break;
    case 128:
        kv_write<4><<<ctas(n), WARPS_PER_CTA * 32, 0, s>>>(*args, n, kv_heads);
        break;
    case 256:
        kv_write<8><<<ctas(n), WARPS_PER_CTA * 32, 0, s>>>(*args, n, kv_heads);
        break;
    default:
        return bad_size(d);
    }
    return launched(cudaGetLastError(), "the write of keys and values");
}
