/* What the host plan and the attention kernel agree on. All of it is one buffer in device memory; the parts
 * are word offsets in the header. Work is planned for KV head 0 and repeated for each KV head: unit u of a
 * list is entry u / HK for KV head u % HK. */
#ifndef FP_KERNEL_CUDA_ATTENTION_PLAN_CUH
#define FP_KERNEL_CUDA_ATTENTION_PLAN_CUH
#include <stdint.h>

namespace fp
{
namespace attn
{

constexpr int WARPS = 8, PAGE = 64, SPAN_PAGES = 4, CHUNK_PAGES = 16;
constexpr uint32_t NONE = 0xffffffffu;

/* Rows (query token i of a list, head g of the group) of a list are numbered i·G + g. A stream is a run of
 * rows over one segment and one KV head; `small` streams have up to 8 rows and are worked on by single warps,
 * `team` streams have up to 64·tiles rows and are worked on by all warps of a CTA. */
constexpr int SMALL_ROWS = 8;

/* Row tiles of 8 that one warp of a team holds. */
constexpr __host__ __device__ int team_tiles(int d)
{
    return d > 128 ? 1 : 2;
}

struct Header {
    uint32_t team_items, team_ctas, small_items,
        small_static;                    /* items of one KV head; CTAs that start with team items;
                                            static: the first item of a warp is fixed */
    uint32_t merge_tokens, merge_narrow; /* narrow: a merge task is 32 channels, else 128 */
    uint32_t team_at, merge_at, tokens_at, pages_at, fills_at, done_at; /* word offsets */
    uint32_t prefill_items, prefill_at; /* whole items of the prefill kernel */
};

/* Zero when a plan arrives; maintained by the kernel from run to run. */
struct Control {
    uint32_t team_taken, small_taken, epoch, pad;
};
/* The buffer begins: header, control, single-warp items. done[streams·HK] (header.done_at) counts what
 * arrived. */
constexpr uint32_t HEADER_WORDS = 16, CONTROL_WORDS = 16, SMALL_AT = HEADER_WORDS + CONTROL_WORDS;

/* 32 words of a work item; one is loaded by a warp, word by lane. */
enum ItemWord {
    FIRST_PAGE, /* within its segment */
    PAGES,
    TOKEN, /* first token of the list (rows are consecutive tokens), or offset of the list in tokens */
    FLAGS,
    FIRST_ROW,
    ROWS,
    STATE,        /* row number of the first state it writes, for KV head 0 */
    STATE_STRIDE, /* rows of states per KV head */
    DONE,         /* stream: word of done[], for KV head 0 */
    LIMIT,        /* causal pages: row i·G + g sees LIMIT + i tokens of the segment */
    TABLE,        /* offset of the segment's first page in pages and fills */
    MODE,
    FILLS = 12,  /* 4 words: fill of each inline page; 0: causal */
    INLINE = 16, /* 16 words: page numbers of an inline item */
    /* whole items: */
    ANCHOR_TABLE = 16,
    ANCHOR_PAGES,
    ANCHOR_LIMIT,
    GAMMA_ROW,
    ITEM_WORDS = 32
};
enum ItemFlags {
    LISTED = 1,  /* tokens come from a list */
    INLINED = 2, /* at most 16 pages, given in the item */
    WHOLE = 4    /* both segments from first to last page; writes outputs, no states */
};

/* How the outputs of one token are merged from states. */
struct MergeSegment {
    uint32_t done;            /* first stream's word of done[], KV head 0; NONE: empty segment */
    uint32_t row;             /* i·G of this token in the list */
    uint32_t rows_per_stream; /* streams of the list follow each other */
    uint32_t blocks;    /* streams of the list; done[] word of (kv, block) is done + kv·blocks + block */
    uint32_t stream_at; /* offset of the list's MergeStream records */
    uint32_t pad[3];
};
struct MergeStream {
    uint32_t state, stride, pieces, rows, arrivals, pad[3];
};
struct MergeToken {
    uint32_t token, mode, gamma_row, pad[5];
    MergeSegment segment[2]; /* anchor, context */
};

/* m, l and whether a piece starts a chunk; the o rows are in an array beside. */
struct StateHead {
    float m, l;
    uint32_t starts_chunk, pad;
};

struct Params {
    const uint32_t *plan;
    Control *control;
    StateHead *heads; // [state rows]
    float *states;    // [state rows][d]
    const int8_t *q_planes;
    const float *q_scales;
    const uint8_t *kv;
    size_t group_bytes, layer_offset;
    const uint32_t *gamma;
    float *out, *alpha;
    float *anchor_scratch; // [CTAs][team rows][d]: anchor states of whole items
    uint32_t heads_q, kv_heads, group;
    uint32_t team_stages, small_stages; /* ring stages of a team and of a single warp */
    uint32_t level_bytes;               /* shared memory of one level of team states */
    uint32_t prefill_stages;            /* ring stages of the prefill kernel */
    int high; /* 256, where the compiler cannot know it */
    float4 *prefill_scratch;            // [CTAs][rows][d][2]: states of its segments
};

/* Shared memory: barriers, then (team) two levels of states, then the ring; (single warps) rings. */
constexpr uint32_t BARRIER_BYTES = 2048;
constexpr uint32_t MAX_STAGES = 16;
static inline constexpr __host__ __device__ uint32_t stage_bytes(uint32_t d)
{
    return 64 * d + 256;
}

/* Shared memory that a merge takes for one piece of 128 channels: factors, l and flags, o. */
constexpr uint32_t MERGE_PIECE_BYTES = 16 + 8 + 512;

typedef void (*Kernel)(Params);
/* The kernel of a head size; nullptr if there is none. */
Kernel kernel_64(), kernel_96(), kernel_128(), kernel_256();

} // namespace attn
} // namespace fp
#endif
