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
/* Asks every witness of the policy that has a URL and publishes what they sign, together with cosignatures
 * that the published checkpoint has already. results [policy->witnesses_count]; known likewise, or NULL.
 * *met (may be NULL): the published checkpoint has a quorum now. FP_OK also when witnesses failed; an
 * operating error of the log otherwise. The reader must have the log's key first, and is refreshed. */
fp_status fp__witness_round(fp__ledger_writer *writer, fp__ledger_reader *reader,
                            const fp__tlog_policy *policy, uint64_t *known, fp__witness_result *results,
                            bool *met) FP_WARN_UNUSED;
/* Which witnesses of the policy have cosigned this checkpoint; a signature that is not valid does not count.
 * verdicts [policy->witnesses_count]. log_key: its signature must be valid. */
fp_status fp__witness_verdicts(const void *note, size_t size, const fp__note_key *log_key,
                               const fp__tlog_policy *policy, fp__note_verdict *verdicts) FP_WARN_UNUSED;
#endif
