/* The forward pass: one step takes spans of tokens of several sequences through all layers, by one thread
 * team.
 *
 * The result for a token does not depend on what else is in the step (arithmetic §4, §6): batch, chunking and
 * threads change no bit. A step allocates nothing. One step at a time per fp__forward. */
#ifndef FP_MODEL_FORWARD_H
#define FP_MODEL_FORWARD_H
#include "kernel/attention.h"
#include "model/model.h"

typedef struct fp__forward fp__forward;

typedef struct fp__forward_limits {
    size_t tokens;    /* per step, all sequences together */
    size_t sequences; /* per step */
    size_t pages;     /* per sequence, anchor and context together */
    size_t logits;    /* rows of logits per call */
} fp__forward_limits;

/* One sequence's part of a step. */
typedef struct fp__forward_span {
    const uint32_t *ids; /* [tokens] */
    size_t tokens;
    uint64_t position;                /* of the first token */
    fp__attn_segment anchor, context; /* as the step leaves them: its own pages are in the causal segment */
    uint8_t *const *groups;           /* page groups that K/V goes to: token i to slot (slot + i) % 64 of */
    size_t slot;                      /* groups[(slot + i) / 64]; slot counts from groups[0] */
    fp__injection_mode mode;
    const uint32_t *g; /* [L][H] γ·65536, or NULL */
    uint64_t *mass;    /* [L][H] += Σ rint(α·2^24) over the span's tokens, or NULL */
} fp__forward_span;

fp_status fp__forward_create(const fp_model *model, fp__team *team, fp__forward_limits limits,
                             fp__forward **out) FP_WARN_UNUSED;
void fp__forward_destroy(fp__forward *f); /* NULL is fine */

/* Runs a step. The K/V of its tokens is in the pages afterwards. A number outside of canonical range is
 * FP_NUMERIC; the message names the lowest position with its first layer and place, and bad_span (if not
 * NULL) is the index of its span. */
fp_status fp__forward_step(fp__forward *f, const fp__forward_span *spans, size_t n,
                           size_t *bad_span) FP_WARN_UNUSED;

/* Logits of rows of the last step (row r is the r-th token of the step): *out [n][V], valid until the next
 * call. */
fp_status fp__forward_logits(fp__forward *f, const size_t *rows, size_t n, const float **out) FP_WARN_UNUSED;

/* A step and the logits of some of its rows in one go (the decode loop). */
fp_status fp__forward_step_logits(fp__forward *f, const fp__forward_span *spans, size_t n, const size_t *rows,
                                  size_t n_rows, const float **out, size_t *bad_span) FP_WARN_UNUSED;
#endif
