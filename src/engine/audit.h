/* Inside of the audit: audit.c (light, verdicts, many receipts), audit_full.c (the answers computed again).
 *
 * A check that fails is a verdict, not an error: helpers return FP_INVALID with a sentence, FP_NOT_FOUND
 * where something that is needed is missing (undecided), and any other status for operating errors. */
#ifndef FP_ENGINE_AUDIT_H
#define FP_ENGINE_AUDIT_H
#include "anchor/workspace_inside.h"
#include "engine/receipt.h"
#include "fieldprint/audit.h"

/* Replays of the log, as it was when anchors were let in and when they were looked at last; they only move
 * forward, and start anew where a receipt is of an earlier moment than the one before it. */
typedef struct fp__histories {
    fp__registry *first, *last;
} fp__histories;

/* One receipt. */
typedef struct fp__audit {
    fp_workspace *w;
    const fp_audit_options *o;
    fp_audit_result *result;
    fp__histories *histories;
    fp__dsse dsse;
    fp__receipt r;
    fp__transcript t;
    bool has_transcript;
    bool other_transcript; /* its root is not the receipt's: a full audit still finds the first position */
    fp__registry *history; /* one of the histories: the log as it was */
    fp_gate_result gate;   /* of the anchors when they were let in */
    char deployment[FP__DEPLOYMENT_MAX + 1]; /* that the receipt's overrides name; empty: none */
    fp__event overrides[FP__RECEIPT_OVERRIDES_MAX];
    uint64_t override_index[FP__RECEIPT_OVERRIDES_MAX]; /* where they are logged */
} fp__audit;

/* FP_INVALID: "`what` is not what the receipt says". */
fp_status fp__audit_differs(const char *what);
/* The answer of a receipt that passed the light audit was computed again: takes the audit and ends it. */
void fp__audit_decide_full(fp__audit *a, fp_status status, uint64_t start_ns);
void fp__audit_free(fp__audit *a);

/* Answers computed again, several in one pass; anchors are compiled once for all of them. */
typedef struct fp__replays fp__replays;
typedef struct fp__replays_options {
    fp_workspace *workspace;
    const fp_model *model;
    const fp_engine_options *engine; /* NULL: defaults */
    uint32_t sample_65536;           /* share of the tokens; 0: all of them */
    const uint8_t *seed;             /* [32] of the choice */
    size_t together;                 /* at most so many in one pass */
} fp__replays_options;
fp_status fp__replays_create(const fp__replays_options *options, fp__replays **out) FP_WARN_UNUSED;
/* Takes the audit. It may be computed now or with others later; fp__audit_decide_full has been called for it
 * when fp__replays_finish returns. FP_CANCELLED, or an error of the engine, which is no matter of the
 * receipts: those that wait are then ended as interrupted. */
fp_status fp__replays_add(fp__replays *replays, fp__audit *audit) FP_WARN_UNUSED;
fp_status fp__replays_finish(fp__replays *replays) FP_WARN_UNUSED;
void fp__replays_destroy(fp__replays *replays); /* NULL is fine */
#endif
