/* PagedFieldprintAttention on the CPU: plan and run over a step's query tokens of several sequences, one
 * layer at a time. Semantics: arithmetic §6. A row (query token, head) sees an anchor segment and a context
 * segment; each is a list of pages in its own grid of spans and chunks. plan() sizes the scratch and makes
 * the work list; run() allocates nothing and is called by every thread of the team (it meets fp__team_barrier
 * inside). */
#ifndef FP_KERNEL_ATTENTION_H
#define FP_KERNEL_ATTENTION_H
#include "core/team.h"
#include "kernel/kernel.h"

/* Pages of a segment. Page group p is at groups[p]; the slab of (layer, kv head) is at
 * groups[p] + (layer·HK + kv_head)·slab_bytes. Pages before `causal_page` show filled[p] leading tokens to
 * every row; pages from causal_page on are dense and causal: query token i of the sequence sees the first
 * causal_tokens + i + 1 tokens counted from page causal_page on. causal_page = pages: nothing is causal. */
typedef struct fp__attn_segment {
    const uint8_t *const *groups; /* [pages] */
    const uint8_t *filled;        /* [causal_page] 1..64 */
    size_t pages, causal_page, causal_tokens;
} fp__attn_segment;

typedef struct fp__attn_sequence {
    size_t first_token, tokens; /* this sequence's query tokens are rows first_token.. of the step's arrays */
    fp__attn_segment anchor, context;
    fp__injection_mode mode;
    const uint32_t *g; /* [L][H] γ·65536, or NULL: 0 everywhere */
} fp__attn_sequence;

typedef struct fp__attn_geometry {
    size_t layers, heads, kv_heads, d;
} fp__attn_geometry;

typedef struct fp__attn_plan fp__attn_plan;
/* Makes room for steps of up to max_tokens query tokens, max_sequences sequences and max_pages pages per
 * sequence (anchor and context together). FP_USAGE: a geometry outside of arithmetic §6; FP_NO_MEMORY. */
fp_status fp__attn_plan_create(const fp__kernel_ops *ops, const fp__attn_geometry *geometry, size_t threads,
                               size_t max_tokens, size_t max_sequences, size_t max_pages,
                               fp__attn_plan **out) FP_WARN_UNUSED;
void fp__attn_plan_destroy(fp__attn_plan *plan);
/* Lays the work of one step out (no allocation); needed again only when the sequences change. The sequences
 * array and what it points to must stay until the step ends. FP_LIMIT: more than the plan has room for;
 * FP_INTERNAL: a segment with too few pages for its tokens, or a sequence with nothing to see. */
fp_status fp__attn_plan_step(fp__attn_plan *plan, const fp__attn_sequence *sequences,
                             size_t n) FP_WARN_UNUSED;
/* One layer, by all threads of the team, once per layer after plan_step. q16 [T][H][stride], s_q [T][H] (made
 * by ops->query); out [T][H·d]; alpha [T][H] anchor share, or NULL. All K/V of this step must already be
 * written (barrier before). Returns without a closing barrier: the caller's next barrier orders the output.
 */
void fp__attn_run(fp__attn_plan *plan, fp__team *team, size_t thread, size_t layer, const int16_t *q16,
                  const float *s_q, size_t stride, float *out, float *alpha);
#endif
