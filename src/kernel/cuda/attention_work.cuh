/* What the host side of attention holds between calls: lists of work that grow, and the plan itself. */
#ifndef FP_KERNEL_CUDA_ATTENTION_WORK_CUH
#define FP_KERNEL_CUDA_ATTENTION_WORK_CUH
#include "fieldprint/cuda_attention.h"
#include "kernel/cuda/attention_plan.cuh"
#include "kernel/cuda/attention_prefill.h"
#include "kernel/cuda/attention_solo.h"
#include "kernel/cuda/attention_tuning.h"

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

static inline uint32_t tuned_or(int choice, uint32_t otherwise)
{
    uint32_t tuned = fp__cuda_attention_tuning[choice];
    return tuned ? tuned : otherwise;
}

/* Rows of a team. */
static inline uint32_t team_rows(uint32_t d)
{
    return (uint32_t)(8 * WARPS * team_tiles((int)d));
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
    fp::attn::Solo solo;
    const fp::attn::SoloKernel *alone;     /* of the step; null: it takes the general kernels */
    fp::attn::Array<uint32_t> piece_flags; /* of such a step */
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

namespace fp
{
namespace attn
{

static inline bool causal(const fp_cuda_attention_segment *s)
{
    return s->causal_page < s->n_pages;
}

/* Pages that the first `tokens` query tokens see. */
static inline uint32_t seen_pages(const fp_cuda_attention_segment *s, uint32_t tokens)
{
    return causal(s) ? s->causal_page + ceil_div(s->causal_tokens + tokens, PAGE) : s->n_pages;
}

/* Pages that a block of a list's rows sees. */
static inline uint32_t block_pages(const fp_cuda_attention *plan, const List *list, uint32_t block)
{
    uint32_t rows = list->tokens * plan->group, end = min_of((block + 1) * list->block_rows, rows);
    return seen_pages(list->segment, (end - 1) / plan->group + 1);
}

/* In what units the work of a list is done. */
enum ListKind { TEAM_LIST, SPLIT_LIST, STACKED_LIST };

/* ---- attention_lists.cu; false: no memory ---- */

constexpr uint32_t DECODE_TOKENS = 8; /* sequences of more query tokens in a step are for teams */

/* Of untrusted sizes: FP_USAGE where a sequence makes no sense, FP_LIMIT where the plan has no room. */
fp_status check_step(const fp_cuda_attention *plan, const fp_cuda_attention_sequence *sequences, size_t n);
/* Fills plan->leader; returns whether anchors are shared. */
bool find_leaders(fp_cuda_attention *plan, const fp_cuda_attention_sequence *sequences, size_t n, bool share);
bool prefer_whole(fp_cuda_attention *plan, const fp_cuda_attention_sequence *sequences, size_t n,
                  bool *whole);
bool make_lists(fp_cuda_attention *plan, const fp_cuda_attention_sequence *sequences, size_t n, bool whole);
/* An item of a block of rows, without its pages. nullptr: no memory. */
Item *add_item(fp_cuda_attention *plan, const List *list, uint32_t block, Array<Item> *items);

/* ---- attention_steps.cu ---- */

void choose_steps(const fp_cuda_attention *plan, uint32_t (&step)[3]); /* pages, by ListKind */
void choose_cut(fp_cuda_attention *plan, uint32_t step);
uint64_t decode_time(const fp_cuda_attention *plan, const uint32_t (&step)[3]);
/* Pages of an item that were complete before the step. */
uint32_t early_pages(const fp_cuda_attention_segment *s, uint32_t first, uint32_t n);
/* Up to 16 pages of a list → an item's words. */
void inline_pages(const fp_cuda_attention *plan, const List *list, uint32_t first, uint32_t n, uint32_t *w);
/* Items, streams and states of all lists. False: no memory. */
bool split_lists(fp_cuda_attention *plan, const uint32_t (&step)[3]);
/* Puts decode's items into the order in which they are taken. False: no memory. */
bool order_decode(fp_cuda_attention *plan);

} // namespace attn
} // namespace fp
#endif
