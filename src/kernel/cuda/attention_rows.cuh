/* The query rows of a work item in a warp's registers. */
#ifndef FP_KERNEL_CUDA_ATTENTION_ROWS_CUH
#define FP_KERNEL_CUDA_ATTENTION_ROWS_CUH
#include "kernel/cuda/attention_page.cuh"

namespace fp
{
namespace attn
{

/* Word i of an item that lies in a warp, word by lane. */
static __device__ __forceinline__ uint32_t word(uint32_t words, int i)
{
    return __shfl_sync(~0u, words, i);
}

/* Where the rows of one warp are. */
template <int NT> struct Places {
    uint32_t row[NT]; /* within the stream; NONE: no row */
    uint32_t token[NT], head[NT];
    uint32_t least, most; /* smallest and largest limit of the warp's rows */
    bool active;
};

template <int D, int NT>
static __device__ __forceinline__ void load_rows(const Params &p, const Header &h, uint32_t words,
                                                 uint32_t kv_head, uint32_t first, uint32_t limit,
                                                 uint32_t lane, Rows<D, NT> &rows, Places<NT> &at)
{
    uint32_t g = lane / 4, c = lane % 4, n = word(words, ROWS), flags = word(words, FLAGS),
             from = word(words, TOKEN), first_row = word(words, FIRST_ROW);
    uint32_t least = 0x7fffffffu, most = 0;
    at.active = first < n;
#pragma unroll
    for (int t = 0; t < NT; t++) {
        uint32_t r = first + 8 * t + g, i = (first_row + r) / p.group;
        at.row[t] = NONE;
        rows.scale[t] = 0.0f;
        rows.limit[t] = 0x7fffffffu;
#pragma unroll
        for (int k = 0; k < D / 8; k++)
            rows.q[t][k] = 0;
        if (r >= n)
            continue;
        at.row[t] = r;
        at.token[t] = flags & LISTED ? p.plan[h.tokens_at + from + i] : from + i;
        at.head[t] = kv_head * p.group + (first_row + r) % p.group;
        rows.limit[t] = limit + i;
        least = min(least, limit + i);
        most = max(most, limit + i);
        size_t q = (size_t)at.token[t] * p.heads_q + at.head[t];
        rows.scale[t] = p.q_scales[q];
        const uint8_t *hi = reinterpret_cast<const uint8_t *>(p.q_planes) + q * 2 * D, *lo = hi + D;
#pragma unroll
        for (int i16 = 0; i16 < D / 64; i16++) {
            uint4 a = *reinterpret_cast<const uint4 *>(hi + 64 * i16 + 16 * c);
            uint4 b = *reinterpret_cast<const uint4 *>(lo + 64 * i16 + 16 * c);
            uint32_t *q8 = rows.q[t] + 8 * i16;
            q8[0] = a.x, q8[1] = b.x, q8[2] = a.y, q8[3] = b.y;
            q8[4] = a.z, q8[5] = b.z, q8[6] = a.w, q8[7] = b.w;
        }
        if (D % 64) {
            uint2 a = *reinterpret_cast<const uint2 *>(hi + D / 64 * 64 + 8 * c);
            uint2 b = *reinterpret_cast<const uint2 *>(lo + D / 64 * 64 + 8 * c);
            uint32_t *q4 = rows.q[t] + D / 64 * 8;
            q4[0] = a.x, q4[1] = b.x, q4[2] = a.y, q4[3] = b.y;
        }
    }
    at.least = __reduce_min_sync(~0u, least);
    at.most = __reduce_max_sync(~0u, most);
}

} // namespace attn
} // namespace fp
#endif
