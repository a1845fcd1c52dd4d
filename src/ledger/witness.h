/* Client of witnesses (c2sp.org/tlog-witness): shows a log's checkpoint to them, with the proof that it
 * continues the one they cosigned last, and publishes their cosignatures with it. */
#ifndef FP_LEDGER_WITNESS_H
#define FP_LEDGER_WITNESS_H
#include "ledger/ledger.h"
#include "ledger/remote.h"
#include "ledger/tlog_policy.h"

/* Asks one witness to cosign the reader's checkpoint. *known: the size that it cosigned last, as far as known
 * (0 if not); updated. lines: appended, its verified cosignature lines and nothing else.
 *
 * FP_MISMATCH: it has another tree in its memory than this one continues (a fork, or a log that went back):
 * evidence. FP_NOT_FOUND: it does not serve this log. FP_SIGNATURE: it does not accept the log's key, or its
 * answer is not signed by `key`. FP_FORMAT, FP_LIMIT: its answer. FP_BUSY: it has seen a newer tree than this
 * reader: refresh and ask again. FP_IO. */
fp_status fp__witness_ask(fp__remote *witness, const fp__note_key *key, fp__ledger_reader *reader,
                          uint64_t *known, fp__buf *lines) FP_WARN_UNUSED;

typedef struct fp__witness_result {
    fp_status status; /* of this witness */
    char detail[256]; /* why not */
    uint64_t timestamp;
} fp__witness_result;
/* Asks every witness of the policy that has a URL, without a lock on the log. lines: appended, what they sign
 * and valid cosignatures that the published checkpoint carries already. results [policy->witnesses_count],
 * *any: somebody signed. The reader is refreshed first. FP_OK also when witnesses failed. */
fp_status fp__witness_collect(fp__ledger_reader *reader, const fp__tlog_policy *policy,
                              fp__witness_result *results, bool *any, fp__buf *lines) FP_WARN_UNUSED;
/* Collects, opens the log in the folder for writing and publishes; begins again when the log has grown
 * meanwhile (FP_BUSY when it does so every time, or has another writer for long). *met: the published
 * checkpoint has a quorum now; the results tell the times of its cosignatures. */
fp_status fp__witness_round(const char *dir, const fp__ed25519_key *log_key, fp__ledger_reader *reader,
                            const fp__tlog_policy *policy, fp__witness_result *results,
                            bool *met) FP_WARN_UNUSED;
/* Which witnesses of the policy have cosigned this checkpoint; a signature that is not valid does not count.
 * verdicts [policy->witnesses_count]. log_key: its signature must be valid. */
fp_status fp__witness_verdicts(const void *note, size_t size, const fp__note_key *log_key,
                               const fp__tlog_policy *policy, fp__note_verdict *verdicts) FP_WARN_UNUSED;
#endif
