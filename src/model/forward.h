/* The forward pass: one step takes spans of tokens of several sequences through all layers: by a team of
 * threads, or on a GPU (model/device.h makes that one).
 *
 * The result for a token does not depend on what else is in the step (arithmetic §4, §6): batch, chunking,
 * threads and device change no bit. A step allocates nothing. One step at a time per fp__forward. */
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
    uint8_t *const *groups;           /* page groups that K/V goes to, in the memory that the pass works on:
                                         token i to slot (slot + i) % 64 of */
    size_t slot;                      /* groups[(slot + i) / 64]; slot counts from groups[0] */
    fp__injection_mode mode;
    const uint32_t *g; /* [L][H] γ·65536, or NULL */
    uint64_t *mass;    /* [L][H] += Σ rint(α·2^24) over the span's tokens, or NULL */
} fp__forward_span;

/* On the CPU. */
fp_status fp__forward_create(const fp_model *model, fp__team *team, fp__forward_limits limits,
                             fp__forward **out) FP_WARN_UNUSED;
void fp__forward_destroy(fp__forward *f); /* NULL is fine */

/* Runs a step. The K/V of its tokens is in the pages afterwards. A number outside of canonical range is
 * FP_NUMERIC; the message names the lowest position with its first layer and place, and bad_span (if not
 * NULL) is the index of its span. */
fp_status fp__forward_step(fp__forward *f, const fp__forward_span *spans, size_t n,
                           size_t *bad_span) FP_WARN_UNUSED;

/* Logits of rows of the last step (row r is the r-th token of the step): *out [n][V], valid until the next
 * call. With out NULL they stay where they are computed: fp__forward_row and fp__forward_greedy ask for what
 * is needed of them. */
fp_status fp__forward_logits(fp__forward *f, const size_t *rows, size_t n, const float **out) FP_WARN_UNUSED;

/* A step and the logits of some of its rows in one go (the decode loop); out as above. */
fp_status fp__forward_step_logits(fp__forward *f, const fp__forward_span *spans, size_t n, const size_t *rows,
                                  size_t n_rows, const float **out, size_t *bad_span) FP_WARN_UNUSED;
/* Logits of the i-th of the rows that were asked for: *out [V], valid until the next call. */
fp_status fp__forward_row(fp__forward *f, size_t i, const float **out) FP_WARN_UNUSED;
/* The greedy choice of each of these rows as fp__sample makes it without penalties and biases (largest
 * logit, ties to the lowest id): *out [n_rows]; NULL where that is not there already. */
fp_status fp__forward_greedy(fp__forward *f, const uint32_t **out) FP_WARN_UNUSED;

/* What computes it. */
typedef struct fp__forward_ops {
    void (*destroy)(fp__forward *f);
    fp_status (*step)(fp__forward *f, const fp__forward_span *spans, size_t n, const size_t *rows,
                      size_t n_rows, size_t *bad_span);
    fp_status (*project_rows)(fp__forward *f, const size_t *rows, size_t n); /* of the last step */
    fp_status (*read_rows)(fp__forward *f, size_t first, size_t n, const float **out);
    fp_status (*greedy)(fp__forward *f, const uint32_t **out); /* NULL: not there */
} fp__forward_ops;
struct fp__forward { /* first in what computes it */
    const fp__forward_ops *ops;
};
#endif
