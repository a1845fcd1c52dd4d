/* Audit: is an answer what its receipt says? */
#ifndef FIELDPRINT_AUDIT_H
#define FIELDPRINT_AUDIT_H
#include "fieldprint/engine.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum fp_verdict {
    FP_VERDICT_UNDECIDED,    /* something is missing: says what */
    FP_VERDICT_INVALID,      /* says what, and the first position where that makes sense */
    FP_VERDICT_VALID_LIGHT,  /* this signer claimed this under this policy */
    FP_VERDICT_VALID_FULL,   /* the output is this function of the disclosed inputs */
    FP_VERDICT_VALID_SAMPLED /* and so are its K/V pages and masses; of its tokens a random share was computed
                                again, which finds k wrong ones with probability 1 - (1 - p)^k */
} fp_verdict;
FP_API const char *fp_verdict_name(fp_verdict verdict); /* "VALID-FULL" */

typedef struct fp_audit_options {
    const char *receipt_path;
    const char *transcript_path;     /* NULL: no opened leaves: light only */
    const fp_engine_options *engine; /* for the full audit; NULL: defaults */
    const fp_model *model;           /* NULL: light only */
    const uint8_t *nonce;            /* [32] the client's own, to be compared; NULL: not compared */
    uint32_t sample_65536;      /* share of the answer's tokens to be computed again, in 1/65536; 0: all */
    const uint8_t *sample_seed; /* [32] that chooses them, secret from the signer until the receipt is logged
                                   (a beacon's value, say); NULL: the system's random numbers */
} fp_audit_options;

typedef struct fp_audit_result {
    fp_status status;       /* FP_OK, or an operating error (then detail says it and there is no verdict) */
    fp_verdict light, full; /* full: UNDECIDED when it was not asked for; FULL or SAMPLED as it was */
    char detail[512];       /* why, for the verdict that matters; a sentence */
    int64_t position;       /* first position (absolute, anchors included) that differs, or -1 */
    uint64_t tree_size;     /* of the ledger at which the light verdict was made */
    bool witnessed;
    bool seed_from_nonce;
    uint8_t receipt_id[32];
    uint64_t light_ns, full_ns;
    uint32_t prompt_tokens, output_tokens, anchor_tokens;
    uint32_t sample_65536, sampled_tokens; /* share that was asked for; tokens whose logits were computed */
    uint8_t sample_seed[32];               /* chooses the same again, of the same receipt */
} fp_audit_result;
/* The workspace gives the trust file, the log and (for a full audit with anchors) the statements and
 * documents. Verdicts are results, not errors: FP_OK with the verdict, or an operating error. */
FP_API fp_status fp_audit(fp_workspace *workspace, const fp_audit_options *options,
                          fp_audit_result *out) FP_WARN_UNUSED;

/* ---- Many receipts ---- */
typedef struct fp_audit_item {
    const char *receipt_path;
    const char *transcript_path; /* NULL: light only */
    const uint8_t *nonce;        /* [32] or NULL */
} fp_audit_item;

typedef struct fp_audit_many_options {
    const fp_engine_options *engine; /* progress counts over all receipts of a pass; cancel ends the call */
    const fp_model *model;           /* NULL: light only */
    uint32_t sample_65536;
    const uint8_t *sample_seed;
    size_t together; /* answers in one pass; 0: 8 */
    /* A receipt is decided; in no particular order. NULL: none. */
    void (*on_result)(void *context, size_t i, const fp_audit_result *result);
    void *on_result_context;
} fp_audit_many_options;
/* Audits items[n] into results[n]: one after the other what is light, several answers in one pass of the
 * model, anchors compiled once for all that share them. Errors of one receipt are in its result.
 * FP_CANCELLED: those told to on_result are decided, the others say so in their status. options NULL: light.
 */
FP_API fp_status fp_audit_many(fp_workspace *workspace, const fp_audit_many_options *options,
                               const fp_audit_item *items, size_t n, fp_audit_result *results) FP_WARN_UNUSED;

/* The receipt's payload as JSON text for people and programs; not verified. Free with fp_bytes_free. */
FP_API fp_status fp_receipt_read(const char *path, char **json, uint8_t id[32]) FP_WARN_UNUSED;

#ifdef __cplusplus
}
#endif
#endif
