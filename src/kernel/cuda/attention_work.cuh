/* What the host side of attention holds between calls: lists of work that grow, and the plan itself. */
#ifndef FP_KERNEL_CUDA_ATTENTION_WORK_CUH
#define FP_KERNEL_CUDA_ATTENTION_WORK_CUH
#include "fieldprint/cuda_attention.h"
#include "kernel/cuda/attention_plan.cuh"
#include "kernel/cuda/attention_prefill.h"

#include <cuda_runtime.h>
#include <stdlib.h>
#include <string.h>

namespace fp
{
namespace attn
{

/* A growing array of plain values. */
template <typename T> struct Array {
    T *at;
    size_t n, room;
    T *add(size_t count)
    {
        if (n + count > room) {
            size_t more = 2 * (n + count) + 64;
            T *p = (T *)realloc((void *)at, more * sizeof(T));
            if (!p)
                return nullptr;
            at = p;
            room = more;
        }
        T *first = at + n;
        n += count;
        memset((void *)first, 0, count * sizeof(T));
        return first;
    }
};

struct Item {
    uint32_t word[ITEM_WORDS];
};

/* Query tokens that see one segment together. */
struct List {
    const fp_cuda_attention_segment *segment;
    uint32_t tokens, token;     /* consecutive from `token`, or listed at `token` */
    bool listed, team, stacked; /* stacked: more rows than a warp has */
    uint32_t table, block_rows, blocks, stream_at;
};

/* The prefill kernel of tiles of so many groups. */
struct Prefill {
    Kernel kernel;
    uint32_t stages;
    size_t shared_bytes;
};

static inline uint32_t ceil_div(uint32_t a, uint32_t b)
{
    return (a + b - 1) / b;
}
static inline uint32_t min_of(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

} // namespace attn
} // namespace fp

struct fp_cuda_attention {
    fp_cuda_attention_config config;
    uint32_t group, grid, team_stages, decode_stages, level_bytes;
    size_t decode_bytes, team_bytes, state_rows, plan_words; /* bytes of shared memory */
    fp::attn::Kernel decode, team;
    fp::attn::Prefill
        prefill[fp::attn::PREFILL_GROUPS]; /* no kernels where this GPU has none for the head size */
    uint32_t prefill_groups;               /* of the step's tiles */
    uint32_t tiles, quads;                 /* of decode: of 4 rows a warp, of 4 warps a multiprocessor */
    uint32_t cut;                          /* every so many chunks one is done in spans; 0: none */
    fp::attn::Array<uint32_t> lengths;
    float4 *prefill_scratch;
    uint32_t *device_plan, *staging;
    uint8_t *states; /* heads, then o */
    float *anchor_scratch;
    cudaEvent_t copied;
    bool planned;
    uint32_t merge_ctas, merge_bytes, decode_singles;
    fp::attn::Array<fp::attn::Item> decode_items, team_items,
        prefills; /* prefills: whole items of the prefill kernel */
    fp::attn::Array<uint32_t> token_lists, pages;
    fp::attn::Array<uint8_t> fills;
    fp::attn::Array<fp::attn::List> lists;
    fp::attn::Array<fp::attn::MergeToken> merges;
    fp::attn::Array<fp::attn::MergeStream> streams;
    fp::attn::Array<uint32_t> leader; /* per sequence: the first with the same anchor */
    size_t used_rows;
};
#endif
