/* What the host plan and the attention kernel agree on. All of it is one buffer in device memory; the parts
 * are word offsets in the header. Work is planned for KV head 0 and repeated for each KV head: unit u of a
 * list is entry u / HK for KV head u % HK. */
#ifndef FP_KERNEL_CUDA_ATTENTION_PLAN_CUH
#define FP_KERNEL_CUDA_ATTENTION_PLAN_CUH
#include <stdint.h>
#include <vector_types.h>

namespace fp
{
namespace attn
{

constexpr int WARPS = 8, PAGE = 64, SPAN_PAGES = 4, CHUNK_PAGES = 16;
constexpr uint32_t NONE = 0xffffffffu;

/* Rows (query token i of a list, head g of the group) of a list are numbered i·G + g. A stream is a run of
 * rows over one segment and one KV head. Split streams of decode have up to 8 rows, each held by every warp
 * of a quad; stacked ones up to 32, 8 a warp; team streams up to 64·team_tiles, held by the 8 warps of a CTA
 * together. */
constexpr int QUAD = 4;               /* warps that work on a unit of decode */
constexpr int DECODE_REGISTERS = 432; /* of a thread of each quad together: leaves room for a warp of merge in
                                         each quarter of a multiprocessor */

/* Row tiles of 8 that one warp of a team holds. */
constexpr __host__ __device__ int team_tiles(int d)
{
    return d > 128 ? 1 : 2;
}

struct Header {
    uint32_t team_items, decode_items, decode_singles;         /* paired items follow decode_singles others */
    uint32_t merge_tokens, merge_form;                         /* MergeForm */
    uint32_t team_at, merge_at, tokens_at, pages_at, fills_at; /* word offsets */
    uint32_t prefill_items, prefill_at;                        /* whole items of the prefill kernel */
    uint32_t stack_items, stack_at;                            /* of large stacks, done before decode's */
    uint32_t anchor_pieces, pieces, pieces_at, mode, gamma_row; /* of a step of one sequence */
};

/* Work drawn by the run under way: units of decode beyond the fixed ones, team items. Zero between runs. */
struct Control {
    unsigned long long decode_taken; /* low half: from the front of the list, high half: from its end */
    uint32_t team_taken;
};
/* The buffer begins: header, control, decode items. */
constexpr uint32_t HEADER_WORDS = 32, CONTROL_WORDS = 16, DECODE_AT = HEADER_WORDS + CONTROL_WORDS;

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
    STREAM,
    LIMIT, /* causal pages: row i·G + g sees LIMIT + i tokens of the segment */
    TABLE, /* offset of the segment's first page in pages and fills */
    MODE,
    FILLS = 12,  /* 4 words: fill of each inline page; 0: causal */
    INLINE = 16, /* 16 words: page numbers of an inline item */
    /* decode items: */
    EARLY = TABLE, /* pages that were complete before the step: read before earlier kernels end */
    /* whole items: */
    ANCHOR_TABLE = 16,
    ANCHOR_PAGES,
    ANCHOR_LIMIT,
    GAMMA_ROW,
    ITEM_WORDS = 32
};
enum ItemFlags {
    LISTED = 1,  /* tokens come from a list */
    INLINED = 2, /* at most 16 pages, given in the item; all decode items are */
    WHOLE = 4,   /* both segments from first to last page; writes outputs, no states */
    PAGED = 8,   /* split: a span, each warp of the quad takes a page; else a chunk, each takes a span */
    PAIRED = 16, /* split: two spans, two warps of the quad take one each; the other two, those of another KV
                    head */
    STACKED = 32
};

/* How the outputs of one token are merged from states. */
struct MergeSegment {
    uint32_t blocks; /* streams of the list, one after the other; 0: empty segment */
    uint32_t row;    /* i·G of this token in the list */
    uint32_t rows_per_stream;
    uint32_t stream_at; /* offset of the list's MergeStream records */
};
struct MergeStream {
    uint32_t state, stride, pieces, rows;
};
struct MergeToken {
    uint32_t token, mode, gamma_row, pad;
    MergeSegment segment[2]; /* anchor, context */
};

/* m, l and whether a piece starts a chunk; the o rows are in an array beside. */
struct StateHead {
    float m, l;
    uint32_t starts_chunk, pad;
};

/* Of the kernel for one sequence. An inbox: pieces of one KV head for one quad that makes outputs of it; see
 * there. */
struct SoloShape {
    uint4 *inbox;     // [HK][readers][pieces][m, l of all rows; share]
    uint32_t stages;  /* half slabs in the ring of a quad */
    uint32_t window;  /* half slabs of a quad under way at once before the kernels ahead have ended */
    uint32_t readers; /* of a KV head */
    uint32_t share;   /* float4 of a state that a reader makes outputs of */
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
    uint32_t heads_q, kv_heads, group, d;
    uint32_t team_stages, decode_stages; /* ring stages of a team; of a warp of decode */
    uint32_t level_bytes;                /* shared memory of one level of team states */
    uint32_t prefill_stages;             /* ring stages of the prefill kernel */
    uint32_t merge_bytes;                /* shared memory of a merging CTA */
    uint32_t early_stages;               /* of a ring, filled before the kernels ahead have ended */
    uint32_t early_pace;                 /* so many of these at once */
    uint32_t ahead_halves;               /* half slabs of a warp that it asks into L2 behind its ring */
    int high;                            /* 256, where the compiler cannot know it */
    float4 *prefill_scratch;             // [CTAs][rows][d][2]: states of its segments
    SoloShape solo;
};

/* A ring stage: K with both scale arrays, or V. */
constexpr uint32_t MAX_STAGES = 16;
static inline constexpr __host__ __device__ uint32_t stage_bytes(uint32_t d)
{
    return 64 * d + 256;
}
/* Shared memory of a team: barriers, two levels of states, the ring. */
constexpr uint32_t TEAM_BARRIER_BYTES = 2 * 8 * MAX_STAGES;
/* Of a quad of decode: barriers, what it tells each other; behind those of all, the rings of the warps. */
constexpr uint32_t DECODE_BARRIER_BYTES = QUAD * 8 * MAX_STAGES, DECODE_MAIL_BYTES = 128, PART_BYTES = 16;
constexpr uint32_t DECODE_QUAD_BYTES = DECODE_BARRIER_BYTES + DECODE_MAIL_BYTES + QUAD * 8 * PART_BYTES;
/* Merging: who takes a row of how many channels. A CTA fits beside one of decode. */
enum MergeForm { MERGE_CTA, MERGE_WARP_32, MERGE_WARP_64, MERGE_WARP_128 };
constexpr int MERGE_THREADS = 128, MERGE_REGISTERS = 80;
/* Shared memory: what a CTA needs for 32 pieces, or its warps for two places of their rings; for 128 pieces.
 */
constexpr uint32_t MERGE_FACTOR_BYTES = 16 + 8, MERGE_HEAD_BYTES = 12 * (4 + MERGE_THREADS),
                   MERGE_LEAST_BYTES = 4 * 2 * 4 * (16 + 512), MERGE_MOST_BYTES = 4 * 3 * 4 * (16 + 512);
static_assert(MERGE_MOST_BYTES >= MERGE_HEAD_BYTES + MERGE_THREADS * (MERGE_FACTOR_BYTES + 128),
              "128 pieces fit");
/* Of a CTA for one sequence: barriers, parts, the rings of its quads. */
constexpr int SOLO_QUADS = 2, SOLO_WARPS = SOLO_QUADS * QUAD;
constexpr uint32_t SOLO_BARRIER_BYTES = SOLO_QUADS * 2 * QUAD * 8, SOLO_PART_BYTES = SOLO_WARPS * 8 * 16,
                   SOLO_RING = SOLO_BARRIER_BYTES + SOLO_PART_BYTES, SOLO_LEAST_STAGES = 6,
                   SOLO_MOST_STAGES = 2 * QUAD, SOLO_SHARE = 16;
constexpr uint32_t EMPTY = 0xffffffffu; /* a word that was not written yet */
/* Words of the plan, one a piece. */
enum PieceFlags { PIECE_ENDS = 1 /* its chunk */, PIECE_BACK = 1 /* shift: pieces of the chunk before it */ };

typedef void (*Kernel)(Params);
/* Decode in tiles of 4 rows a warp, with so many quads a CTA. */
Kernel decode_kernel_64(uint32_t tiles, uint32_t quads), decode_kernel_96(uint32_t tiles, uint32_t quads),
    decode_kernel_128(uint32_t tiles, uint32_t quads), decode_kernel_256(uint32_t tiles, uint32_t quads);
Kernel team_kernel_64(), team_kernel_96(), team_kernel_128(), team_kernel_256();
Kernel merge_kernel();
/* By query rows a KV head: up to 4, or 8. */
Kernel solo_kernel_64(uint32_t rows), solo_kernel_96(uint32_t rows), solo_kernel_128(uint32_t rows);

} // namespace attn
} // namespace fp
#endif
