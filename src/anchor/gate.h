/* The gate: may this set of anchors be attended to, now, under this model? Every check runs; the first reason
 * in the order of FP_GATE_TABLE is given. */
#ifndef FP_ANCHOR_GATE_H
#define FP_ANCHOR_GATE_H
#include "anchor/registry.h"

/* Fetches the stored envelope of an anchor (untrusted). FP_NOT_FOUND, FP_FORMAT, FP_MISMATCH (another id) are
 * missing statements; anything else is an operating error. */
typedef fp_status fp__gate_statement_fn(void *arg, const uint8_t id[32], fp__dsse *out);

typedef struct fp__held_override {
    fp__event *event;
    uint8_t id[32];
} fp__held_override;

typedef struct fp__gate {
    fp__registry *registry; /* inside fp__registry_begin */
    const fp__trust *trust;
    const fp__buf *note;    /* the signed checkpoint that covers the registry's head, or NULL */
    bool history;           /* an audit of an older tree: who cosigned counts, but not when */
    const char *log_fault;  /* why the log is inconsistent, or NULL */
    const char *deployment; /* name of this deployment, or NULL */
    /* Overrides that were verified and are not in the tables: the log was down. */
    const fp__held_override *held;
    size_t held_count;
    fp__gate_statement_fn *statement;
    void *statement_arg;
} fp__gate;
/* FP_OK with allow, FP_DENIED with the reason and its detail, or an operating error. */
fp_status fp__gate_decide(const fp__gate *gate, const fp_gate_query *query,
                          fp_gate_result *result) FP_WARN_UNUSED;
/* The newest time by which `threshold` of the witnesses cosigned this checkpoint; false when fewer did. */
bool fp__quorum_time(const fp__buf *note, const fp__trust *trust, const fp__quorum *quorum,
                     uint64_t *seconds);
#endif
