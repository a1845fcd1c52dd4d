/* SHA-256 (FIPS 180-4) of slabs, and the RFC 6962 tree over a page group's slabs (cache/leaf.h has the
 * layouts). One thread hashes one slab: a page group of an 8B model has 256 of them, so a few pages fill the
 * device, and the threads are spread over the multiprocessors, one warp each, to take little from whatever
 * decodes beside them. */
#include "kernel/cuda/launch.cuh"
#include <string.h>

namespace fp
{

static __constant__ uint32_t K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static __device__ __forceinline__ uint32_t rotate(uint32_t x, int n)
{
    return __funnelshift_r(x, x, n);
}
static __device__ __forceinline__ uint32_t big_endian(uint32_t x)
{
    return __byte_perm(x, 0, 0x0123);
}

static __device__ __forceinline__ void start(uint32_t (&h)[8])
{
    h[0] = 0x6a09e667, h[1] = 0xbb67ae85, h[2] = 0x3c6ef372, h[3] = 0xa54ff53a;
    h[4] = 0x510e527f, h[5] = 0x9b05688c, h[6] = 0x1f83d9ab, h[7] = 0x5be0cd19;
}

/* One block; w is used up. */
static __device__ __forceinline__ void compress(uint32_t (&h)[8], uint32_t (&w)[16])
{
    uint32_t a = h[0], b = h[1], c = h[2], d = h[3], e = h[4], f = h[5], g = h[6], s = h[7];
#pragma unroll
    for (int i = 0; i < 64; i++) {
        if (i >= 16) {
            uint32_t x = w[(i + 1) % 16], y = w[(i + 14) % 16];
            w[i % 16] += (rotate(x, 7) ^ rotate(x, 18) ^ x >> 3) + w[(i + 9) % 16] +
                         (rotate(y, 17) ^ rotate(y, 19) ^ y >> 10);
        }
        uint32_t t =
            s + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + ((e & f) ^ (~e & g)) + K[i] + w[i % 16];
        uint32_t u = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
        s = g, g = f, f = e, e = d + t, d = c, c = b, b = a, a = t + u;
    }
    h[0] += a, h[1] += b, h[2] += c, h[3] += d, h[4] += e, h[5] += f, h[6] += g, h[7] += s;
}

static __device__ __forceinline__ void store_digest(uint8_t *to, const uint32_t (&h)[8])
{
    uint4 v[2] = {{big_endian(h[0]), big_endian(h[1]), big_endian(h[2]), big_endian(h[3])},
                  {big_endian(h[4]), big_endian(h[5]), big_endian(h[6]), big_endian(h[7])}};
    ((uint4 *)to)[0] = v[0];
    ((uint4 *)to)[1] = v[1];
}

struct slab_prefix {
    uint32_t words[16]; /* big-endian words of the 64 bytes, layer and head zero */
};

__global__ void __launch_bounds__(32)
    slab_leaves_kernel(const uint8_t *const *groups, uint32_t slabs, uint32_t total, uint32_t kv_heads,
                       uint32_t slab_bytes, const __grid_constant__ slab_prefix prefix, uint8_t *leaves)
{
    uint32_t i = blockIdx.x * 32 + threadIdx.x;
    launch_next();
    wait_previous();
    if (i >= total)
        return;
    uint32_t slab = i % slabs, layer = slab / kv_heads, head = slab % kv_heads;
    const uint4 *data = (const uint4 *)(groups[i / slabs] + (size_t)slab * slab_bytes);
    uint32_t h[8], w[16];
    uint4 next[4];
#pragma unroll
    for (int j = 0; j < 4; j++)
        next[j] = data[j];
#pragma unroll
    for (int j = 0; j < 16; j++)
        w[j] = prefix.words[j];
    /* bytes 25, 26 layer, 27, 28 head, little-endian */
    w[6] |= (layer & 255u) << 16 | layer >> 8 << 8 | (head & 255u);
    w[7] |= head >> 8 << 24;
    start(h);
    compress(h, w);
    uint32_t blocks = slab_bytes / 64;
#pragma unroll 1
    for (uint32_t b = 1; b <= blocks; b++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            w[4 * j] = big_endian(next[j].x), w[4 * j + 1] = big_endian(next[j].y);
            w[4 * j + 2] = big_endian(next[j].z), w[4 * j + 3] = big_endian(next[j].w);
        }
        if (b < blocks)
#pragma unroll
            for (int j = 0; j < 4; j++)
                next[j] = data[4 * b + j];
        compress(h, w);
    }
#pragma unroll
    for (int j = 0; j < 16; j++)
        w[j] = j == 0 ? 0x80000000u : j == 15 ? (64 + slab_bytes) * 8 : 0;
    compress(h, w);
    store_digest(leaves + (size_t)i * 32, h);
}

/* H(01 ‖ left ‖ right): 65 bytes. Words are big-endian. */
static __device__ void node(const uint32_t *left, const uint32_t *right, uint32_t *out)
{
    uint32_t h[8], w[16];
    start(h);
    uint32_t before = 0x01;
#pragma unroll
    for (int j = 0; j < 16; j++) {
        uint32_t v = j < 8 ? left[j] : right[j - 8];
        w[j] = before << 24 | v >> 8;
        before = v & 255u;
    }
    compress(h, w);
#pragma unroll
    for (int j = 0; j < 16; j++)
        w[j] = j == 0 ? before << 24 | 0x800000u : j == 15 ? 65 * 8 : 0;
    compress(h, w);
#pragma unroll
    for (int j = 0; j < 8; j++)
        out[j] = h[j];
}

/* One block per page group. Level by level, an odd last hash moves up as it is: the tree of RFC 6962 §2.1. */
__global__ void __launch_bounds__(128) roots_kernel(const uint8_t *leaves, uint32_t slabs, uint8_t *roots)
{
    extern __shared__ uint32_t level[]; // [slabs][8]
    launch_next();
    wait_previous();
    const uint32_t *in = (const uint32_t *)(leaves + (size_t)blockIdx.x * slabs * 32);
    for (uint32_t i = threadIdx.x; i < slabs * 8; i += blockDim.x)
        level[i] = big_endian(in[i]);
    __syncthreads();
    for (uint32_t n = slabs; n > 1; n = (n + 1) / 2) {
        /* in rounds, so that nobody overwrites what another still reads: outputs of a round lie below its
         * inputs */
        for (uint32_t first = 0; first < (n + 1) / 2; first += blockDim.x) {
            uint32_t i = first + threadIdx.x, out[8];
            bool have = i < (n + 1) / 2;
            if (have && 2 * i + 1 < n)
                node(level + 16 * i, level + 16 * i + 8, out);
            else if (have)
                for (int j = 0; j < 8; j++)
                    out[j] = level[16 * i + j];
            __syncthreads();
            if (have)
                for (int j = 0; j < 8; j++)
                    level[8 * i + j] = out[j];
            __syncthreads();
        }
    }
    if (threadIdx.x < 8)
        ((uint32_t *)(roots + (size_t)blockIdx.x * 32))[threadIdx.x] = big_endian(level[threadIdx.x]);
}

} // namespace fp

using namespace fp;

extern "C" cudaError_t fp__cuda_hash_groups(const fp__cuda_hash_geometry *g, const uint8_t *const *groups,
                                            uint32_t n, uint8_t *leaves, uint8_t *roots, cudaStream_t stream)
{
    uint32_t slabs = (uint32_t)g->layers * g->kv_heads, slab_bytes = 128u * g->d + 256;
    if (slabs == 0 || slabs > 4096 || g->d == 0 || n > 0xffffffffu / slabs)
        return cudaErrorInvalidValue;
    if (n == 0)
        return cudaSuccess;
    uint8_t bytes[64] = {0};
    memcpy(bytes + 1, "fieldprint/slab", 15);
    bytes[16] = 1;
    const uint16_t fields[4] = {g->arithmetic_version, g->layers, g->kv_heads, g->d};
    for (int i = 0; i < 4; i++) {
        bytes[17 + 2 * i] = (uint8_t)fields[i];
        bytes[18 + 2 * i] = (uint8_t)(fields[i] >> 8);
    }
    memcpy(bytes + 32, g->model, 32);
    slab_prefix prefix;
    for (int i = 0; i < 16; i++)
        prefix.words[i] = (uint32_t)bytes[4 * i] << 24 | (uint32_t)bytes[4 * i + 1] << 16 |
                          (uint32_t)bytes[4 * i + 2] << 8 | bytes[4 * i + 3];
    uint32_t total = n * slabs;
    /* all shared, as attention's kernels want a multiprocessor's memory: it is not split anew while a hash
     * runs, and whoever wants another split waits for its end */
    FP_CUDA_TRY(launch_split(100, slab_leaves_kernel, dim3((total + 31) / 32), dim3(32), 0, stream, groups,
                             slabs, total, (uint32_t)g->kv_heads, slab_bytes, prefix, leaves));
    if (!roots)
        return cudaSuccess;
    size_t shared = (size_t)slabs * 32;
    if (shared > 48 * 1024)
        FP_CUDA_TRY(
            cudaFuncSetAttribute(roots_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared));
    return launch(roots_kernel, dim3(n), dim3(128), shared, stream, leaves, slabs, roots);
}
