/* §2, §3, §5, §7 and the embedding: everything between the linear layers and attention. */
#include "kernel/cuda/canon.cuh"
#include "kernel/cuda/launch.cuh"
#include "kernel/cuda/quantise.cuh"
#include "kernel/cuda/wtile.cuh"

namespace fp
{

static __device__ __forceinline__ void note(uint32_t *error, uint32_t row, uint32_t code)
{
    atomicMin(error + row, code);
}

/* Four inputs of a token into its activation tile; lanes are eight to a block of 32. */
static __device__ __forceinline__ bool store_quad(float4 v, uint8_t *act, uint32_t token, uint32_t segments,
                                                  uint32_t i)
{
    quad_quants q;
    bool ok = quantise_quad<true>(v, q);
    uint32_t block = i / 32;
    uint8_t *tile = act + ((size_t)(token / 8) * segments + block / 8) * FP__DEVICE_ACT_BYTES;
    *(uint32_t *)(tile + fp__device_act_at(token, i)) = q.q;
    if (i % 32 == 0) {
        uint32_t at = (block % 8 * 8 + token % 8) * 4;
        *(float *)(tile + FP__DEVICE_ACT_D + at) = q.d;
        *(float *)(tile + FP__DEVICE_ACT_DS + at) = q.ds;
    }
    return ok;
}

/* One block per token; the row goes through shared memory so that the one warp which sums does not wait for
 * L2. */
__global__ void __launch_bounds__(512)
    norm_quantise_kernel(const float *x, const uint32_t *rows, const float *w, float eps, uint32_t width,
                         uint32_t segments, uint8_t *act, uint32_t *error, uint32_t code)
{
    extern __shared__ float
        row[]; // [width], a multiple of 32; then the norm's weights, which need not be waited for
    __shared__ float scale;
    __shared__ int good;
    uint32_t token = blockIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    launch_next();
    float *weights = row + width;
    for (uint32_t i = 4 * threadIdx.x; i < width; i += 4 * blockDim.x)
        *(float4 *)(weights + i) = *(const float4 *)(w + i);
    wait_previous();
    uint32_t from = rows ? rows[token] : token;
    const float *in = x + (size_t)from * width;
    for (uint32_t i = 4 * threadIdx.x; i < width; i += 4 * blockDim.x)
        *(float4 *)(row + i) = *(const float4 *)(in + i);
    __syncthreads();
    if (warp == 0) {
        float sum = 0.0f, r;
#pragma unroll 16
        for (uint32_t i = lane; i < width; i += 32)
            sum = __fmaf_rn(row[i], row[i], sum);
        bool ok = norm_scale(fold(sum), width, eps, &r);
        if (lane == 0) {
            scale = r;
            good = ok;
            if (!ok)
                note(error, from, code);
        }
    }
    __syncthreads();
#pragma unroll 4
    for (uint32_t i = 4 * threadIdx.x; i < segments * 256; i += 4 * blockDim.x) {
        float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        if (i < width && good) {
            float4 f = *(const float4 *)(weights + i);
            v = *(const float4 *)(row + i);
            v.x = __fmul_rn(__fmul_rn(v.x, scale), f.x), v.y = __fmul_rn(__fmul_rn(v.y, scale), f.y);
            v.z = __fmul_rn(__fmul_rn(v.z, scale), f.z), v.w = __fmul_rn(__fmul_rn(v.w, scale), f.w);
        }
        if (!store_quad(v, act, token, segments, i) && i % 32 == 0)
            note(error, from, code + 1);
    }
}

/* Four inputs a thread. */
__global__ void __launch_bounds__(128)
    quantise_kernel(const float *x, const float *up, size_t stride, uint32_t width, uint32_t segments,
                    uint8_t *act, uint32_t *error, uint32_t code)
{
    uint32_t token = blockIdx.y, i = (blockIdx.x * blockDim.x + threadIdx.x) * 4;
    launch_next();
    wait_previous();
    if (i >= segments * 256) /* whole warps */
        return;
    float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (i < width) {
        v = *(const float4 *)(x + token * stride + i);
        if (up) {
            float4 u = *(const float4 *)(up + token * stride + i);
            v = make_float4(silu_mul(v.x, u.x), silu_mul(v.y, u.y), silu_mul(v.z, u.z), silu_mul(v.w, u.w));
        }
    }
    if (!store_quad(v, act, token, segments, i) && i % 32 == 0)
        note(error, token, code);
}

/* Weight i of a row: the same unit that the linear kernels read. */
template <int TYPE> static __device__ float weight_at(const uint8_t *unit, uint32_t row, uint32_t i)
{
    using W = wtile<TYPE>;
    uint32_t block = i / 32, j = i % 32;
    int g = row % 8, p = block / 2, b = block % 2, lane = 4 * g + j % 16 / 4;
    typename W::pair w;
    load_pair<TYPE>(unit, p, lane, w);
    /* constant indices only, so that the pair stays in registers */
    uint32_t word = 0;
    float dw = 0.0f, mw = 0.0f;
#pragma unroll
    for (int bb = 0; bb < 2; bb++)
#pragma unroll
        for (int r = 0; r < 2; r++)
#pragma unroll
            for (int h = 0; h < 2; h++)
                if (bb == b && r == (int)(row / 8) && h == (int)(j / 16)) {
                    word = w.a[bb][r + 2 * h];
                    dw = w.dw[bb][r][W::HALVES ? h : 0];
                    mw = W::MINIMUM ? w.mw[bb][r] : 0.0f;
                }
    int q = (int)(int8_t)(word >> 8 * (j % 4)) >> W::SHIFT;
    return __fadd_rn(__fmul_rn(dw, __int2float_rn(q)), mw);
}

template <int TYPE>
__global__ void embed_kernel(const uint8_t *data, uint32_t rows, uint32_t segments, const uint32_t *ids,
                             uint32_t cols, float *x, uint32_t *error)
{
    uint32_t token = blockIdx.y, i = blockIdx.x * blockDim.x + threadIdx.x;
    launch_next();
    wait_previous();
    if (error && i == 0)
        error[token] = FP__CUDA_NO_ERROR;
    if (i >= cols)
        return;
    uint32_t id = ids[token];
    const uint8_t *unit = data + ((size_t)(id / 16) * segments + i / 256) * wtile<TYPE>::BYTES;
    x[(size_t)token * cols + i] = id < rows ? weight_at<TYPE>(unit, id % 16, i % 256) : 0.0f;
}

/* One warp per token and head; the head's row in shared memory. */
__global__ void __launch_bounds__(128) norm_rope_kernel(float *qkv, size_t stride, const uint32_t *positions,
                                                        fp__cuda_rope r, uint32_t *error, uint32_t code)
{
    __shared__ float rows[4][512];
    uint32_t token = blockIdx.y, lane = threadIdx.x % 32, head = blockIdx.x * 4 + threadIdx.x / 32,
             half = r.n_rot / 2;
    launch_next();
    wait_previous();
    if (head >= r.heads)
        return;
    float *x = qkv + token * stride + (size_t)head * r.d, *row = rows[threadIdx.x / 32], sum = 0.0f, s = 1.0f;
    const float *w = head < r.norm_split ? r.q_norm : r.k_norm;
    for (uint32_t i = lane; i < r.d; i += 32)
        row[i] = x[i];
    if (w) {
        for (uint32_t i = lane; i < r.d; i += 32)
            sum = __fmaf_rn(row[i], row[i], sum);
        bool ok = norm_scale(fold(sum), r.d, r.eps, &s);
        if (!ok && lane == 0)
            note(error, token, code);
        for (uint32_t i = lane; i < r.d; i += 32)
            row[i] = ok ? __fmul_rn(__fmul_rn(row[i], s), w[i]) : 0.0f;
    }
    __syncwarp();
    const float *cos = r.cos + (size_t)positions[token] * half,
                *sin = r.sin + (size_t)positions[token] * half;
    for (uint32_t i = lane; i < half; i += 32) {
        uint32_t a = r.halves ? i : 2 * i, b = r.halves ? i + half : 2 * i + 1;
        float x0 = row[a], x1 = row[b];
        x[a] = __fmaf_rn(-x1, sin[i], __fmul_rn(x0, cos[i]));
        x[b] = __fmaf_rn(x0, sin[i], __fmul_rn(x1, cos[i]));
    }
    if (w)
        for (uint32_t i = r.n_rot + lane; i < r.d; i += 32)
            x[i] = row[i];
}

/* Order of floats as order of integers, and the lowest id first among equals; 0 is below every candidate. */
static __device__ __forceinline__ unsigned long long argmax_key(float logit, uint32_t id)
{
    uint32_t bits = __float_as_uint(__fadd_rn(logit, 0.0f));
    bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (unsigned long long)bits << 32 | (0xffffffffu - id);
}

struct argmax_state {
    unsigned long long best;
    uint32_t arrived, zero;
};

__global__ void __launch_bounds__(256)
    argmax_kernel(const float *logits, uint32_t vocabulary, const uint32_t *rows, uint32_t *ids,
                  argmax_state *state, uint32_t *error, uint32_t code)
{
    __shared__ unsigned long long best[8];
    uint32_t token = blockIdx.y;
    launch_next();
    wait_previous();
    const float *x = logits + (size_t)token * vocabulary;
    unsigned long long key = 0;
    bool bad = false;
    for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < vocabulary; i += gridDim.x * blockDim.x) {
        float v = x[i];
        bad |= (__float_as_uint(v) & 0x7fffffffu) >= 0x7f800000u;
        key = max(key, argmax_key(v, i));
    }
    if (bad)
        note(error, rows ? rows[token] : token, code);
    for (int s = 16; s > 0; s /= 2)
        key = max(key, __shfl_down_sync(ALL, key, s));
    if (threadIdx.x % 32 == 0)
        best[threadIdx.x / 32] = key;
    __syncthreads();
    if (threadIdx.x > 0)
        return;
    for (int i = 1; i < 8; i++)
        key = max(key, best[i]);
    atomicMax(&state[token].best, key);
    __threadfence();
    if (atomicAdd(&state[token].arrived, 1) + 1 < gridDim.x)
        return;
    __threadfence();
    key = atomicExch(&state[token].best, 0ull);
    state[token].arrived = 0;
    ids[token] = 0xffffffffu - (uint32_t)key;
}

static device_sizes known;
const device_sizes &sizes()
{
    return known;
}

} // namespace fp

using namespace fp;

fp__cuda_tuning fp__cuda_tune;

extern "C" cudaError_t fp__cuda_ops_init(int device)
{
    device_sizes s;
    FP_CUDA_TRY(cudaDeviceGetAttribute(&s.multiprocessors, cudaDevAttrMultiProcessorCount, device));
    FP_CUDA_TRY(cudaDeviceGetAttribute(&s.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
    FP_CUDA_TRY(cudaDeviceGetAttribute(&s.major, cudaDevAttrComputeCapabilityMajor, device));
    known = s;
    FP_CUDA_TRY(linear_decode_init());
    FP_CUDA_TRY(linear_token_init());
    FP_CUDA_TRY(linear_prefill_init());
    return cudaFuncSetAttribute(norm_quantise_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                128 * 1024);
}

extern "C" cudaError_t fp__cuda_linear(const fp__cuda_weight *w, const uint8_t *act, uint32_t tokens,
                                       const float *bias, const float *residual, float *y, size_t y_stride,
                                       cudaStream_t stream)
{
    if (tokens == 0)
        return cudaSuccess;
    if (w->gated && (bias || residual))
        return cudaErrorInvalidValue;
    /* where the prefill kernel's blocks would not fill the device, passes of the decode kernel are faster */
    uint32_t blocks = (tokens + 63) / 64 * ((w->tiles + 7) / 8);
    bool few = tokens <= 64 || (tokens <= 128 && blocks < (uint32_t)sizes().multiprocessors);
    if (few && !fp__cuda_tune.always_prefill)
        return linear_decode(w, act, tokens, bias, residual, y, y_stride, stream);
    return linear_prefill(w, act, tokens, bias, residual, y, y_stride, stream);
}

extern "C" cudaError_t fp__cuda_linear_from(const fp__cuda_input *in, const fp__cuda_weight *w,
                                            uint32_t tokens, const float *bias, const float *residual,
                                            float *y, size_t y_stride, cudaStream_t stream)
{
    if (in->width == 0 || (in->width + 255) / 256 != w->segments)
        return cudaErrorInvalidValue;
    if (in->norm && in->stride != in->width)
        return cudaErrorInvalidValue;
    if (in->norm && (in->width % 32 != 0 || in->width > 16384))
        return cudaErrorInvalidValue;
    if (w->gated && (bias || residual))
        return cudaErrorInvalidValue;
    if (tokens == 1 && !fp__cuda_tune.separate) {
        bool done;
        cudaError_t e = linear_token(in, w, bias, residual, y, &done, stream);
        if (done || e != cudaSuccess)
            return e;
    }
    if (in->norm)
        FP_CUDA_TRY(fp__cuda_norm_quantise(in->x, NULL, in->norm, in->eps, tokens, in->width, in->act,
                                           in->error, in->code, stream));
    else
        FP_CUDA_TRY(fp__cuda_quantise(in->x, NULL, in->stride, tokens, in->width, in->act, in->error,
                                      in->code, stream));
    return fp__cuda_linear(w, in->act, tokens, bias, residual, y, y_stride, stream);
}

extern "C" cudaError_t fp__cuda_norm_quantise(const float *x, const uint32_t *rows, const float *w, float eps,
                                              uint32_t tokens, uint32_t width, uint8_t *act, uint32_t *error,
                                              uint32_t code, cudaStream_t stream)
{
    if (width == 0 || width % 32 != 0 || width > 16384)
        return cudaErrorInvalidValue;
    if (tokens == 0)
        return cudaSuccess;
    return launch(norm_quantise_kernel, dim3(tokens), dim3(512), (size_t)width * 8, stream, x, rows, w, eps,
                  width, (width + 255) / 256, act, error, code);
}

extern "C" cudaError_t fp__cuda_quantise(const float *x, const float *up, size_t stride, uint32_t tokens,
                                         uint32_t width, uint8_t *act, uint32_t *error, uint32_t code,
                                         cudaStream_t stream)
{
    if (width == 0 || width % 32 != 0 || stride % 4 != 0 || tokens > 65535)
        return cudaErrorInvalidValue;
    if (tokens == 0)
        return cudaSuccess;
    uint32_t segments = (width + 255) / 256;
    return launch(quantise_kernel, dim3((segments + 1) / 2, tokens), dim3(128), 0, stream, x, up, stride,
                  width, segments, act, error, code);
}

extern "C" cudaError_t fp__cuda_embed(const fp__cuda_weight *w, const uint32_t *ids, uint32_t tokens,
                                      uint32_t cols, float *x, uint32_t *error, cudaStream_t stream)
{
    if (w->gated || tokens > 65535 || (cols + 255) / 256 != w->segments)
        return cudaErrorInvalidValue;
    if (tokens == 0)
        return cudaSuccess;
    dim3 grid((cols + 127) / 128, tokens);
    switch (w->type) {
#define CASE(type)                                                                                           \
    case type:                                                                                               \
        return launch(embed_kernel<type>, grid, dim3(128), 0, stream, w->data, w->rows, w->segments, ids,    \
                      cols, x, error);
        FP_EACH_TYPE(CASE)
#undef CASE
    default:
        return cudaErrorInvalidValue;
    }
}

extern "C" cudaError_t fp__cuda_norm_rope(float *qkv, size_t stride, const uint32_t *positions,
                                          uint32_t tokens, const fp__cuda_rope *r, uint32_t *error,
                                          uint32_t code, cudaStream_t stream)
{
    if (r->d == 0 || r->d > 512 || r->n_rot > r->d || r->n_rot % 2 != 0 || tokens > 65535)
        return cudaErrorInvalidValue;
    if (tokens == 0 || r->heads == 0)
        return cudaSuccess;
    return launch(norm_rope_kernel, dim3((r->heads + 3) / 4, tokens), dim3(128), 0, stream, qkv, stride,
                  positions, *r, error, code);
}

extern "C" cudaError_t fp__cuda_argmax(const float *logits, uint32_t tokens, uint32_t vocabulary,
                                       const uint32_t *rows, uint32_t *ids, void *state, uint32_t *error,
                                       uint32_t code, cudaStream_t stream)
{
    if (vocabulary == 0 || tokens > 65535)
        return cudaErrorInvalidValue;
    if (tokens == 0)
        return cudaSuccess;
    uint32_t blocks = (vocabulary + 2047) / 2048;
    return launch(argmax_kernel, dim3(blocks, tokens), dim3(256), 0, stream, logits, vocabulary, rows, ids,
                  (argmax_state *)state, error, code);
}
