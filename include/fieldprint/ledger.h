/* Logs by themselves: any c2sp.org/tlog-tiles log, in a folder or at a URL, ours or somebody else's. What a
 * workspace makes of its own log is in workspace.h.
 *
 * A log is known by its verifier key ("vkey", c2sp.org/signed-note), whose name is the log's origin; a trust
 * policy (c2sp.org/tlog-policy) may name it together with its witnesses. Everything that is returned has been
 * verified against a checkpoint that this key signed. One thread at a time per object. */
#ifndef FIELDPRINT_LEDGER_H
#define FIELDPRINT_LEDGER_H
#include "fieldprint/key.h"
#include "fieldprint/workspace.h"
#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Reading ---- */
typedef struct fp_log fp_log;
typedef struct fp_log_options {
    const char *place; /* a folder, or a URL (https, http, file); NULL: the policy's, if it names one log */
    const char *vkey;  /* the log's verifier key; NULL: the policy's, if it names one log */
    const char *policy_path; /* trust policy; NULL: none, no witness is asked for */
    const char
        *state_path; /* where to remember the newest checkpoint seen, outside of the log; NULL: nowhere */
} fp_log_options;
/* At its newest checkpoint, which must continue the remembered one (FP_MISMATCH). */
FP_API fp_status fp_log_open(const fp_log_options *options, fp_log **out) FP_WARN_UNUSED;
/* The log of a workspace, with its trust file's key, or that of trust_path. policy_path may be NULL. */
FP_API fp_status fp_log_open_workspace(const char *path, const char *trust_path, const char *policy_path,
                                       fp_log **out) FP_WARN_UNUSED;
FP_API void fp_log_close(fp_log *log); /* NULL is fine */

typedef struct fp_log_info {
    const char *origin; /* lives as long as the log */
    uint64_t size;
    uint8_t root[32];
    uint32_t witnesses;      /* in the policy */
    uint32_t cosignatures;   /* of them, valid, on this checkpoint */
    bool has_policy, quorum; /* quorum: the policy is met */
    uint64_t quorum_time; /* seconds since 1970 since which a quorum has cosigned; 0 if none is asked for */
} fp_log_info;
FP_API void fp_log_get_info(const fp_log *log, fp_log_info *out);
/* To the newest checkpoint; *advanced may be NULL. */
FP_API fp_status fp_log_refresh(fp_log *log, bool *advanced) FP_WARN_UNUSED;
/* Free with fp_bytes_free. FP_USAGE: the log is shorter. */
FP_API fp_status fp_log_entry(fp_log *log, uint64_t index, uint8_t **data, size_t *size) FP_WARN_UNUSED;
/* Entry `index` is in the newest tree: c2sp.org/tlog-proof@v1. Free with fp_bytes_free. */
FP_API fp_status fp_log_proof(fp_log *log, uint64_t index, char **text, size_t *size) FP_WARN_UNUSED;
/* Reads and verifies every entry. */
FP_API fp_status fp_log_check_entries(fp_log *log) FP_WARN_UNUSED;
/* Copies the log, verified, into a folder that is not there or empty: static files for any web server.
 * FP_EXISTS.
 */
FP_API fp_status fp_log_export(fp_log *log, const char *dir) FP_WARN_UNUSED;
/* Recomputes every hash from the entries up; state and policy are not used but for place and key. */
FP_API fp_status fp_log_fsck(const fp_log_options *options, fp_ledger_report *report) FP_WARN_UNUSED;
/* Checks a proof without a log: the entry is in a tree that the key (and, if given, a quorum of the policy)
 * signed. place and state_path are not used. info may be NULL; its origin is NULL. *index may be NULL. */
FP_API fp_status fp_log_proof_check(const fp_log_options *options, const void *proof, size_t proof_size,
                                    const void *entry, size_t entry_size, uint64_t *index,
                                    fp_log_info *info) FP_WARN_UNUSED;

/* ---- Writing ---- */
/* A new, empty log in a folder; its verifier key, to be freed with fp_bytes_free. FP_EXISTS. */
FP_API fp_status fp_log_create(const char *dir, const char *origin, const fp_key *key,
                               char **vkey) FP_WARN_UNUSED;
typedef struct fp_log_entry_bytes {
    const void *data;
    size_t size; /* at most 65,535 */
} fp_log_entry_bytes;
/* Appends all or none; durable and in a signed checkpoint on return. first_index, info may be NULL. */
FP_API fp_status fp_log_append(const char *dir, const char *origin, const fp_key *key,
                               const fp_log_entry_bytes *entries, size_t n, uint64_t *first_index,
                               fp_log_info *info) FP_WARN_UNUSED;

/* ---- Witnesses ---- */
#define FP_LOG_WITNESSES_MAX 32
typedef struct fp_log_witness {
    char name[256];     /* as in its key */
    fp_status status;   /* FP_OK: it has cosigned now */
    char detail[256];   /* why not; FP_MISMATCH is evidence of a fork */
    uint64_t timestamp; /* of its cosignature on the published checkpoint, 0 if there is none */
} fp_log_witness;
/* Shows the newest checkpoint to every witness of the policy that has a URL (c2sp.org/tlog-witness) and
 * publishes it with their cosignatures. rows [FP_LOG_WITNESSES_MAX]; *met: the policy's quorum is reached.
 * FP_OK also when it is not. */
FP_API fp_status fp_log_witness_round(const char *dir, const char *origin, const fp_key *key,
                                      const char *policy_path, fp_log_witness *rows, size_t *n,
                                      bool *met) FP_WARN_UNUSED;
/* The same for a workspace's log. policy_path NULL: the workspace's witness.policy, with which every append
 * is witnessed by itself. */
FP_API fp_status fp_workspace_witness_round(fp_workspace *workspace, const char *policy_path,
                                            fp_log_witness *rows, size_t *n, bool *met) FP_WARN_UNUSED;

#ifdef __cplusplus
}
#endif
#endif
