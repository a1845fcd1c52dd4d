/* c2sp.org/tlog-proof@v1: a text that carries an inclusion proof together with the checkpoint that it leads
 * to; what receipts carry. */
#ifndef FP_LEDGER_TLOG_PROOF_H
#define FP_LEDGER_TLOG_PROOF_H
#include "ledger/checkpoint.h"
#include "merkle/tree.h"

#define FP__TLOG_PROOF_MAX_BYTES (FP__NOTE_MAX_BYTES + 96 * 1024)
#define FP__TLOG_PROOF_MAX_EXTRA (64 * 1024)

typedef struct fp__tlog_proof {
    uint64_t index;
    fp__merkle_proof path;
    bool has_extra;
    fp__buf extra;       /* opaque and not authenticated */
    const uint8_t *note; /* the checkpoint verbatim, into the parsed bytes */
    size_t note_size;
} fp__tlog_proof;

/* Appends the text. extra may be NULL. note is a signed checkpoint, verbatim. */
fp_status fp__tlog_proof_format(uint64_t index, const fp__merkle_proof *path, const void *extra,
                                size_t extra_size, const void *note, size_t note_size,
                                fp__buf *out) FP_WARN_UNUSED;
/* Untrusted. *out refers to data; release with fp__tlog_proof_free (also after a failure: it is left zeroed).
 * FP_FORMAT or FP_LIMIT, naming the line. */
fp_status fp__tlog_proof_parse(const void *data, size_t size, fp__tlog_proof *out) FP_WARN_UNUSED;
void fp__tlog_proof_free(fp__tlog_proof *proof);
/* That the entry (its RFC 6962 leaf hash) is at proof->index of the tree that keys[0] signed under this
 * origin. keys, verdicts and errors as for fp__checkpoint_open and fp__merkle_verify_inclusion. out may be
 * NULL; else the checkpoint. */
fp_status fp__tlog_proof_verify(const fp__tlog_proof *proof, const uint8_t leaf_hash[32], const char *origin,
                                const fp__note_key *keys, size_t count, fp__note_verdict *verdicts,
                                fp__checkpoint *out) FP_WARN_UNUSED;
#endif
