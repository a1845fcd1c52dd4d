/* Audit: is an answer what its receipt says? */
#ifndef FIELDPRINT_AUDIT_H
#define FIELDPRINT_AUDIT_H
#include "fieldprint/engine.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum fp_verdict {
    FP_VERDICT_UNDECIDED,   /* something is missing: says what */
    FP_VERDICT_INVALID,     /* says what, and the first position where that makes sense */
    FP_VERDICT_VALID_LIGHT, /* this signer claimed this under this policy */
    FP_VERDICT_VALID_FULL   /* the output is this function of the disclosed inputs */
} fp_verdict;
FP_API const char *fp_verdict_name(fp_verdict verdict); /* "VALID-FULL" */

typedef struct fp_audit_options {
    const char *receipt_path;
    const char *transcript_path;     /* NULL: no opened leaves: light only */
    const fp_engine_options *engine; /* for the full audit; NULL: defaults */
    const fp_model *model;           /* NULL: light only */
    const uint8_t *nonce;            /* [32] the client's own, to be compared; NULL: not compared */
} fp_audit_options;

typedef struct fp_audit_result {
    fp_verdict light, full; /* full: UNDECIDED when it was not asked for */
    char detail[512];       /* why, for the verdict that matters; a sentence */
    int64_t position;       /* first position (absolute, anchors included) that differs, or -1 */
    uint64_t tree_size;     /* of the ledger at which the light verdict was made */
    bool witnessed;
    bool seed_from_nonce;
    uint8_t receipt_id[32];
    uint64_t light_ns, full_ns;
    uint32_t prompt_tokens, output_tokens, anchor_tokens;
} fp_audit_result;
/* The workspace gives the trust file, the log and (for a full audit with anchors) the statements and
 * documents. Verdicts are results, not errors: FP_OK with the verdict, or an operating error. */
FP_API fp_status fp_audit(fp_workspace *workspace, const fp_audit_options *options,
                          fp_audit_result *out) FP_WARN_UNUSED;

/* The receipt's payload as JSON text for people and programs; not verified. Free with fp_bytes_free. */
FP_API fp_status fp_receipt_read(const char *path, char **json, uint8_t id[32]) FP_WARN_UNUSED;

#ifdef __cplusplus
}
#endif
#endif
