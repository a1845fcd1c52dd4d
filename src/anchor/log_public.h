/* Inside of fp_log, for src/anchor. The public side is fieldprint/ledger.h. */
#ifndef FP_ANCHOR_LOG_PUBLIC_H
#define FP_ANCHOR_LOG_PUBLIC_H
#include "fieldprint/ledger.h"
#include "ledger/witness.h"

/* Reads a trust policy; free(*out). FP_NOT_FOUND, FP_FORMAT, FP_LIMIT. */
fp_status fp__log_policy_load(const char *path, fp__tlog_policy **out) FP_WARN_UNUSED;
/* policy may be NULL; taken over also on failure. */
fp_status fp__log_open(const char *place, const fp__note_key *key, const char *state_path,
                       fp__tlog_policy *policy, fp_log **out) FP_WARN_UNUSED;
/* As fp__witness_round, with the results as rows. */
fp_status fp__log_witness_round(const char *dir, const fp_key *key, fp__ledger_reader *reader,
                                const fp__tlog_policy *policy, fp_log_witness *rows, size_t *n,
                                bool *met) FP_WARN_UNUSED;
#endif
