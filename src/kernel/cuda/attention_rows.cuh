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
        /* word by word: an MMA takes four words in neighbouring registers, hi and lo in turn */
        const uint32_t *hi4 = reinterpret_cast<const uint32_t *>(hi),
                       *lo4 = reinterpret_cast<const uint32_t *>(lo);
#pragma unroll
        for (int k = 0; k < D / 16; k++) {
            int from = k < D / 64 * 4 ? k / 4 * 16 + 4 * (int)c + k % 4 : D / 64 * 16 + 2 * (int)c + k % 4;
            rows.q[t][2 * k] = hi4[from];
            rows.q[t][2 * k + 1] = lo4[from];
        }
    }
    at.least = __reduce_min_sync(~0u, least);
    at.most = __reduce_max_sync(~0u, most);
}

} // namespace attn
} // namespace fp
#endif
