/* One warp per slab. A decode step adds one slot of every slab of a page: a row of K and, because V is stored
 * transposed, one byte of each of its d rows, so a warp has all its loads in flight at once and a step of one
 * token is one wave of warps. Sums are modulo 2^64: the order does not matter. */
#include "kernel/cuda/launch.cuh"
#include "kernel/cuda/pages.h"

namespace fp
{

constexpr uint32_t WARPS = 4, SLOTS = 64;

struct slot_ranges {
    fp__cuda_slots at[FP__CUDA_SLOTS_MAX];
};

struct weight_tables {
    const uint64_t *k_word, *k_token, *v_row, *v_word, *scale_k, *scale_v;
};

static __device__ weight_tables tables(const fp__cuda_pages &p)
{
    weight_tables w;
    w.k_word = p.weights;
    w.k_token = w.k_word + p.d / 8;
    w.v_row = w.k_token + SLOTS;
    w.v_word = w.v_row + p.d;
    w.scale_k = w.v_word + 8;
    w.scale_v = w.scale_k + SLOTS;
    return w;
}

/* Bytes [lo, hi) of a word, 0 ≤ lo, hi ≤ 8. */
static __device__ uint64_t byte_mask(uint32_t lo, uint32_t hi)
{
    uint64_t below = hi >= 8 ? ~0ull : (1ull << 8 * hi) - 1;
    return lo >= hi ? 0 : below & ~0ull << 8 * lo;
}

static __device__ uint64_t warp_sum(uint64_t x)
{
#pragma unroll
    for (int i = 16; i > 0; i /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, i);
    return x;
}

/* fp__page_checksum of slots [first, end), in every lane. */
static __device__ uint64_t slab_checksum(const fp__cuda_pages &p, const uint8_t *slab, uint32_t first,
                                         uint32_t end)
{
    const weight_tables w = tables(p);
    const uint32_t lane = threadIdx.x % 32, d = p.d, row = d / 8;
    const uint64_t *k = (const uint64_t *)slab, *v = k + SLOTS * row;
    const uint16_t *scales = (const uint16_t *)(slab + 128 * d);
    const uint32_t column = first / 8, columns = (end + 7) / 8 - column;
    uint64_t sum = 0;
#pragma unroll 4
    for (uint32_t i = first * row + lane; i < end * row; i += 32)
        sum += k[i] * w.k_word[i % row] * w.k_token[i / row];
#pragma unroll 4
    for (uint32_t i = lane; i < d * columns; i += 32) {
        uint32_t j = i / columns, word = column + i % columns;
        uint32_t lo = first > 8 * word ? first - 8 * word : 0, hi = end - 8 * word;
        sum += (v[8 * j + word] & byte_mask(lo, hi)) * w.v_row[j] * w.v_word[word];
    }
    for (uint32_t t = first + lane; t < end; t += 32)
        sum += scales[t] * w.scale_k[t] + scales[SLOTS + t] * w.scale_v[t];
    return warp_sum(sum);
}

static __device__ size_t slab_bytes(const fp__cuda_pages &p)
{
    return 128 * (size_t)p.d + 256;
}

/* CHECK: compare instead of adding. */
template <bool CHECK>
__global__ void __launch_bounds__(WARPS * 32)
    checksum_kernel(const __grid_constant__ fp__cuda_pages p, const __grid_constant__ slot_ranges ranges,
                    uint32_t *bad)
{
    const fp__cuda_slots at = ranges.at[blockIdx.y];
    const uint32_t slab = blockIdx.x * WARPS + threadIdx.x / 32;
    launch_next();
    wait_previous();
    if (slab >= p.slabs)
        return;
    const size_t index = (size_t)at.page * p.slabs + slab;
    const uint64_t sum = slab_checksum(p, p.kv + index * slab_bytes(p), at.first, at.end);
    if (threadIdx.x % 32 != 0)
        return;
    if (!CHECK)
        p.sums[index] += sum;
    else if (p.sums[index] != sum)
        atomicMin(&bad[blockIdx.y], slab);
}

__global__ void __launch_bounds__(WARPS * 32)
    keep_kernel(const __grid_constant__ fp__cuda_pages p, uint32_t to_page, uint32_t from_page,
                uint32_t slots)
{
    const uint32_t slab = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32, d = p.d,
                   row = d / 8;
    launch_next();
    wait_previous();
    if (slab >= p.slabs)
        return;
    const size_t index = (size_t)to_page * p.slabs + slab;
    uint8_t *to = p.kv + index * slab_bytes(p);
    const uint8_t *from = p.kv + ((size_t)from_page * p.slabs + slab) * slab_bytes(p);
    const uint64_t *in = (const uint64_t *)from;
    uint64_t *out = (uint64_t *)to;
    for (uint32_t i = lane; i < SLOTS * row; i += 32)
        out[i] = i < slots * row ? in[i] : 0;
    in += SLOTS * row;
    out += SLOTS * row;
    for (uint32_t i = lane; i < 8 * d; i += 32) {
        uint32_t word = i % 8;
        out[i] = slots > 8 * word ? in[i] & byte_mask(0, slots - 8 * word) : 0;
    }
    const uint16_t *scales_in = (const uint16_t *)(from + 128 * d);
    uint16_t *scales_out = (uint16_t *)(to + 128 * d);
    for (uint32_t i = lane; i < 2 * SLOTS; i += 32)
        scales_out[i] = i % SLOTS < slots ? scales_in[i] : 0;
    __syncwarp();
    const uint64_t sum = slab_checksum(p, to, 0, slots);
    if (lane == 0)
        p.sums[index] = sum;
}

static bool valid(const fp__cuda_pages *p)
{
    return p->d > 0 && p->d % 8 == 0 && p->slabs > 0;
}

template <bool CHECK>
static cudaError_t run(const fp__cuda_pages *p, const fp__cuda_slots *ranges, uint32_t n, uint32_t *bad,
                       cudaStream_t stream)
{
    if (!valid(p) || n > FP__CUDA_SLOTS_MAX)
        return cudaErrorInvalidValue;
    if (n == 0)
        return cudaSuccess;
    slot_ranges r;
    for (uint32_t i = 0; i < n; i++) {
        if (ranges[i].first > ranges[i].end || ranges[i].end > SLOTS)
            return cudaErrorInvalidValue;
        r.at[i] = ranges[i];
    }
    return launch(checksum_kernel<CHECK>, dim3((p->slabs + WARPS - 1) / WARPS, n), dim3(WARPS * 32), 0,
                  stream, *p, r, bad);
}

} // namespace fp

using namespace fp;

extern "C" cudaError_t fp__cuda_pages_sum(const fp__cuda_pages *pages, const fp__cuda_slots *ranges,
                                          uint32_t n, cudaStream_t stream)
{
    return run<false>(pages, ranges, n, NULL, stream);
}

extern "C" cudaError_t fp__cuda_pages_check(const fp__cuda_pages *pages, const fp__cuda_slots *ranges,
                                            uint32_t n, uint32_t *bad, cudaStream_t stream)
{
    return run<true>(pages, ranges, n, bad, stream);
}

extern "C" cudaError_t fp__cuda_pages_keep(const fp__cuda_pages *pages, uint32_t to, uint32_t from,
                                           uint32_t slots, cudaStream_t stream)
{
    if (!valid(pages) || slots > SLOTS)
        return cudaErrorInvalidValue;
    return launch(keep_kernel, dim3((pages->slabs + WARPS - 1) / WARPS), dim3(WARPS * 32), 0, stream, *pages,
                  to, from, slots);
}
