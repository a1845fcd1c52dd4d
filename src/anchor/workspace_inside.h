/* Inside of fp_workspace, for src/anchor and src/engine. The public side is fieldprint/workspace.h. */
#ifndef FP_ANCHOR_WORKSPACE_INSIDE_H
#define FP_ANCHOR_WORKSPACE_INSIDE_H
#include "anchor/gate.h"
#include "anchor/statement.h"
#include "fieldprint/workspace.h"

#define FP__HELD_OVERRIDES_MAX 64

struct fp_workspace {
    char *path, *trust_path;
    fp__trust trust;
    fp__note_key note_keys[FP__WITNESSES_MAX + 1]; /* the log's, then the witnesses' */
    bool audit; /* opened with a trust file of its own: leaves no trace in the folder */
    fp__ledger_reader *reader;
    fp__registry *registry;
    char log_fault[256]; /* why the log is inconsistent, found by the last sync; else empty */
    bool has_deployment;
    char deployment[FP__DEPLOYMENT_MAX + 1];
    uint64_t inputs_epoch; /* counts changes of what the gate goes by besides log and time */
    /* Overrides in force for this handle although they are not in the log; the events are owned. */
    fp__held_override held[FP__HELD_OVERRIDES_MAX];
    size_t held_count;
    fp_confirm_fn *confirm;
    void *confirm_context;
};

/* Where the workspace's log is: the URL in its file ledger.url (remote, for reading only), or its folder. */
fp_status fp__workspace_log_place(const char *path, fp__buf *place, bool *remote) FP_WARN_UNUSED;
/* Shows a log that has grown to the witnesses of the workspace's witness.policy, if there is one. Not under
 * the log's lock: witnesses may be slow. What fails is a warning. */
void fp__workspace_cosign(fp_workspace *w, const fp_key *log_key);

/* dir/folder or, when name is not NULL, dir/folder/name; buf is emptied first. */
fp_status fp__workspace_join(fp__buf *buf, const char *dir, const char *folder,
                             const char *name) FP_WARN_UNUSED;
/* path/folder/name, freshly allocated in buf (emptied first). */
fp_status fp__workspace_path(const fp_workspace *w, const char *folder, const char *name,
                             fp__buf *buf) FP_WARN_UNUSED;
/* folder/HEX.suffix */
fp_status fp__workspace_id_path(const fp_workspace *w, const char *folder, const uint8_t id[32],
                                const char *suffix, fp__buf *buf) FP_WARN_UNUSED;
/* Writes an envelope to folder/ID.dsse.json (the folder is there). */
fp_status fp__workspace_store_envelope(const fp_workspace *w, const char *folder,
                                       const fp__dsse *dsse) FP_WARN_UNUSED;
/* The private key of a policy key, if it is held here. FP_NOT_FOUND. */
fp_status fp__workspace_held_key(const fp_workspace *w, const fp__policy *policy, const fp__policy_key *key,
                                 fp_key **out) FP_WARN_UNUSED;
/* Reads and parses a stored statement: FP_NOT_FOUND, FP_FORMAT, FP_MISMATCH when the content is of another
 * id. */
fp_status fp__workspace_load_statement(const fp_workspace *w, const uint8_t id[32], fp__dsse *dsse,
                                       fp_statement *statement) FP_WARN_UNUSED;
/* Signs an event with the keys held here and appends it or leaves it pending, see fp_anchor_register. The
 * event's policy digest is set to the policy in force at that moment. */
fp_status fp__workspace_submit(fp_workspace *w, fp__event *event, fp_event_receipt *out) FP_WARN_UNUSED;
/* Appends an event as it is, with the signatures it has, under the writer's lock. FP_EXISTS when the log has
 * it. */
fp_status fp__workspace_append(fp_workspace *w, const fp__dsse *dsse, fp_event_receipt *out) FP_WARN_UNUSED;
/* Asks the caller's fp_confirm_fn. */
fp_status fp__workspace_confirm(const fp_workspace *w, const char *what, const fp__dsse *dsse) FP_WARN_UNUSED;
/* Copies a reason for people; NULL is empty. FP_LIMIT. */
fp_status fp__event_set_reason(fp__event *event, const char *why) FP_WARN_UNUSED;
/* An event for this log. */
fp_status fp__workspace_event(fp_workspace *w, fp__event_type type, const uint8_t target[32],
                              fp__event *out) FP_WARN_UNUSED;
/* Number of distinct author holders whose signature verifies, and how many are needed. */
fp_status fp__workspace_author_count(fp_workspace *w, const fp__dsse *dsse, fp_label type,
                                     uint64_t promote_index, fp__signers *signers,
                                     uint32_t *needed) FP_WARN_UNUSED;
#endif
