#include "kernel/cuda/byte_sum.h"

namespace fp
{

constexpr uint32_t THREADS = 256, BLOCKS = 264;

static __device__ uint64_t block_sum(uint64_t x, uint64_t *shared)
{
    for (int s = 16; s > 0; s /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, s);
    if (threadIdx.x % 32 == 0)
        shared[threadIdx.x / 32] = x;
    __syncthreads();
    x = 0;
    for (uint32_t i = 0; i < THREADS / 32; i++)
        x += shared[i];
    __syncthreads();
    return x;
}

__global__ void __launch_bounds__(THREADS) byte_sum_kernel(const uint8_t *data, size_t bytes, uint64_t *sum)
{
    __shared__ uint64_t shared[THREADS / 32];
    uint64_t a = 0, b = 0;
    const size_t quads = bytes / 16, thread = (size_t)blockIdx.x * THREADS + threadIdx.x;
    for (size_t q = thread; q < quads; q += (size_t)gridDim.x * THREADS) {
        const uint4 w = ((const uint4 *)data)[q];
        a += (uint64_t)w.x + w.y + w.z + w.w;
        b += (4 * q + 1) * w.x + (4 * q + 2) * w.y + (4 * q + 3) * w.z + (4 * q + 4) * w.w;
    }
    if (thread < bytes % 16) { /* byte by byte: a byte is its value times a power of two */
        const size_t at = 16 * quads + thread;
        const uint64_t w = (uint64_t)data[at] << 8 * (at % 4);
        a += w;
        b += (at / 4 + 1) * w;
    }
    a = block_sum(a, shared);
    b = block_sum(b, shared);
    if (threadIdx.x == 0) {
        atomicAdd((unsigned long long *)&sum[0], (unsigned long long)a);
        atomicAdd((unsigned long long *)&sum[1], (unsigned long long)b);
    }
}

} // namespace fp

extern "C" cudaError_t fp__cuda_byte_sum(const uint8_t *data, size_t bytes, uint64_t *sum,
                                         cudaStream_t stream)
{
    cudaError_t e = cudaMemsetAsync(sum, 0, 16, stream);
    if (e != cudaSuccess)
        return e;
    fp::byte_sum_kernel<<<fp::BLOCKS, fp::THREADS, 0, stream>>>(data, bytes, sum);
    return cudaGetLastError();
}
