/* Receipts: predicate urn:fieldprint:receipt:v1 of an in-toto Statement, signed by an engine key of the
 * policy. */
#ifndef FP_ENGINE_RECEIPT_H
#define FP_ENGINE_RECEIPT_H
#include "anchor/dsse.h"
#include "anchor/policy.h"
#include "engine/transcript.h"

#define FP__RECEIPT_PREDICATE "urn:fieldprint:receipt:v1"
#define FP__RECEIPT_PROOF_MAX_BYTES 16384u
#define FP__RECEIPT_OVERRIDES_MAX 16

typedef struct fp__receipt {
    bool has_nonce;
    uint8_t nonce[32];
    uint8_t tenant[32]; /* SHA-256("fieldprint/tent" 01 ‖ name) */
    uint8_t model[32];
    uint64_t arithmetic;
    uint8_t policy[32];
    char origin[FP__ORIGIN_MAX + 1];
    /* Tree heads and clock: when the anchors were let in, and when they were looked at last (without anchors,
     * or when they are not watched: when the receipt was made). */
    uint64_t first_size, last_size, first_time, last_time;
    uint8_t first_root[32], last_root[32];
    /* the set; anchors = 0: none, and the rest of it is zero */
    size_t anchors;
    uint8_t anchor_ids[FP__SET_ANCHORS_MAX][32], set_id[32], anchor_kv_head[32];
    uint64_t compile_index;
    fp_inject_mode mode;
    uint64_t raised;       /* the γ·65536 that the request asked for above what is signed, or 0 */
    uint8_t injection[32]; /* SHA-256("fieldprint/injn" 01 mode:u8 g:u32[L][H]) */
    fp__buf proof;         /* tlog-proof of the compile event in the last tree */
    /* the answer */
    fp_sampling sampling;
    uint64_t max_tokens;
    bool ignore_eog;
    uint8_t stops[32];
    uint64_t anchor_tokens, prompt_tokens, output_tokens, context_tokens; /* context: committed K/V */
    uint64_t context_limit; /* of the engine, anchors included */
    fp_finish finish;       /* FP_FINISH_ERROR: retracted */
    fp_label label;
    /* how it was checked */
    fp_validation validation;
    uint64_t replay_65536;                     /* share of the pages that was computed again */
    uint64_t page_window_ms, weight_window_ms; /* detection windows of the scrub; 0: none */
    uint64_t unverified_pages, failures;       /* failures: checks that failed during the answer */
    fp_release release;
    fp_standing standing;
    size_t retractions;
    uint8_t retraction_ids[FP__RETRACTIONS_MAX][32]; /* what the log's retraction events name */
    uint64_t leaves;
    uint8_t root[32];
    char engine[64];
    uint64_t time;
    size_t overrides; /* in force at some time of the answer, in the order in which they were noticed */
    uint8_t override_ids[FP__RECEIPT_OVERRIDES_MAX][32];
} fp__receipt;

void fp__receipt_free(fp__receipt *r);
void fp__receipt_tenant(const char *tenant, uint8_t out[32]);
void fp__receipt_injection(fp_inject_mode mode, const uint32_t *g, size_t n, uint8_t out[32]);
/* Unsigned envelope. */
fp_status fp__receipt_create(const fp__receipt *r, fp__dsse *out) FP_WARN_UNUSED;
/* From a payload; untrusted, strict. */
fp_status fp__receipt_parse(const void *payload, size_t size, fp__receipt *out) FP_WARN_UNUSED;

/* A receipt that is signed and not yet stored or logged. Zero-initialise. */
typedef struct fp__receipt_files {
    uint8_t id[32];
    fp__buf receipt, transcript; /* the files' bytes */
    char receipt_path[1024], transcript_path[1024];
} fp__receipt_files;
void fp__receipt_files_free(fp__receipt_files *files);
/* Of the last answer of a session; writes nothing but retractions that the log lacks. */
fp_status fp__receipt_make(fp_session *s, fp_workspace *w, fp__receipt_files *out) FP_WARN_UNUSED;
/* Durable when it returns; any thread. */
fp_status fp__receipt_store(const fp__receipt_files *files) FP_WARN_UNUSED;
/* Notes in the session that the answer has this receipt; fills what is not NULL (paths: 1,024 bytes). */
void fp__receipt_made(fp_session *s, const fp__receipt_files *files, uint8_t id[32], char *receipt_path,
                      char *transcript_path);
#endif
