/* PagedFieldprintAttention on an NVIDIA GPU: plan and run on raw device pointers and a stream, without the
 * engine. Semantics: docs/arithmetic.md §6; the bits are those of the CPU for any batch, split, chunking and
 * placement of pages. Letters: T query tokens of a step, H query heads, HK KV heads, G = H/HK, d head size.
 *
 * K/V pages: 64 tokens; a page group holds all slabs of one page; the slab of (layer, KV head) of page i is
 * at base + i·group_bytes + layer_offset + kv_head·(128·d + 256), 128-byte aligned: K int8 [64][d], V int8
 * [d][64], s_k bfloat16 [64], s_v bfloat16 [64].
 *
 * Usage: create once; plan when the sequences or their lengths change (host work and one copy to the device);
 * run once per layer. run allocates nothing, launches kernels of fixed shape, and reads all sizes from
 * device memory, so a captured CUDA graph of it stays valid when a step of as many tokens is planned anew, as
 * long as fp_cuda_attention_form is the same and no sequence of either plan has more than 8 query tokens
 * (prefills may take other kernels).
 * On Hopper and newer, run's kernels begin while the kernel before them ends, and read ahead what of a plan
 * was complete before its step: full pages up to the one of a sequence's first query token must be written,
 * in stream order, before plan(). Partial pages and what follows may be written by the kernels just before
 * run, as may the queries. A plan belongs to the device that was current at create and is used by one thread
 * and one stream at a time. `stream` is a cudaStream_t. Only builds with CUDA have these functions. */
#ifndef FIELDPRINT_CUDA_ATTENTION_H
#define FIELDPRINT_CUDA_ATTENTION_H
#include "fieldprint/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fp_cuda_attention fp_cuda_attention;

typedef struct fp_cuda_attention_config {
    uint32_t heads, kv_heads, d; /* d: 64, 96, 128 or 256; G = 1..16 */
    uint32_t max_tokens;         /* query tokens of a step */
    uint32_t max_sequences;
    uint32_t max_pages; /* pages of all sequences of a step together (a shared anchor counts once each) */
    size_t state_bytes; /* device memory for states of split work; 0: chosen from the limits above */
} fp_cuda_attention_config;

/* Pages before causal_page show filled[p] (1..64) leading tokens to every row. Pages from causal_page on are
 * dense and causal: query token i of the sequence sees the first causal_tokens + i + 1 tokens counted from
 * page causal_page on. causal_page = n_pages: nothing is causal. filled NULL: all 64. */
typedef struct fp_cuda_attention_segment {
    const uint32_t *pages; // [n_pages] page group numbers (host memory)
    const uint8_t *filled; // [causal_page] or NULL (host memory)
    uint32_t n_pages, causal_page, causal_tokens;
} fp_cuda_attention_segment;

enum { FP_CUDA_COMPETE, FP_CUDA_FLOOR, FP_CUDA_RESERVE };

/* Sequences whose anchor segments name the same pages are grouped by plan(): their K/V is read once. */
typedef struct fp_cuda_attention_sequence {
    uint32_t first_token, tokens; /* rows of the step's arrays */
    fp_cuda_attention_segment anchor, context;
    uint32_t mode;      /* FP_CUDA_COMPETE, _FLOOR, _RESERVE */
    uint32_t gamma_row; /* row of run's gamma [rows][H] that holds this sequence's γ·65536 */
} fp_cuda_attention_sequence;

/* FP_USAGE: a geometry outside of the above; FP_UNSUPPORTED: no suitable GPU; FP_NO_MEMORY. */
FP_API fp_status fp_cuda_attention_create(const fp_cuda_attention_config *config,
                                          fp_cuda_attention **out) FP_WARN_UNUSED;
FP_API void fp_cuda_attention_destroy(fp_cuda_attention *plan);
/* Makes the work list and enqueues its copy to the device on `stream`. Nothing of `sequences` is kept.
 * FP_USAGE: a sequence without a page, too few pages for its tokens, a fill outside 1..64; FP_LIMIT. */
FP_API fp_status fp_cuda_attention_plan(fp_cuda_attention *plan, const fp_cuda_attention_sequence *sequences,
                                        size_t n, void *stream) FP_WARN_UNUSED;

/* Which kernels run launches for the step that was planned last: 0: those of all steps; 1: the one of a
 * single sequence with a short context. */
enum { FP_CUDA_ATTENTION_FORMS = 2 };
FP_API uint32_t fp_cuda_attention_form(const fp_cuda_attention *plan);

/* One layer. All pointers are device memory. */
typedef struct fp_cuda_attention_run_args {
    const int8_t *q_planes; // [T][H][2][d] from fp_cuda_query_prepare
    const float *q_scales;  // [T][H]
    const uint8_t *kv;      /* base of the page pool */
    size_t group_bytes, layer_offset;
    const uint32_t *gamma; // [gamma rows][H], γ·65536 in 0..65536; NULL: 0 everywhere
    float *out;            // [T][H·d]
    float *alpha;          // [T][H] the anchor's share, or NULL
} fp_cuda_attention_run_args;
FP_API fp_status fp_cuda_attention_run(fp_cuda_attention *plan, const fp_cuda_attention_run_args *args,
                                       void *stream) FP_WARN_UNUSED;

/* q [T][H][d] after RoPE → integer planes and scales (rotation, scale, 16-bit quantisation). *numeric
 * (device, set to UINT32_MAX by the caller) becomes the lowest token index that left the range of §0. */
FP_API fp_status fp_cuda_query_prepare(const float *q, size_t tokens, uint32_t heads, uint32_t d,
                                       int8_t *q_planes, float *q_scales, uint32_t *numeric,
                                       void *stream) FP_WARN_UNUSED;
/* k, v [T][HK][d] (k after RoPE) → token slot[t] (0..63) of page group page[t]; page, slot: device memory. */
typedef struct fp_cuda_kv_write_args {
    const float *k, *v;   // [T][HK][d]
    const uint32_t *page; // [T]
    const uint8_t *slot;  // [T]
    uint8_t *kv;
    size_t group_bytes, layer_offset;
    uint32_t *numeric;
} fp_cuda_kv_write_args;
FP_API fp_status fp_cuda_kv_write(const fp_cuda_kv_write_args *args, size_t tokens, uint32_t kv_heads,
                                  uint32_t d, void *stream) FP_WARN_UNUSED;

#ifdef __cplusplus
}
#endif
#endif
