/* Registry: what the log says, as tables. A pure replay of the log in SQLite: delete the file and it comes
 * back equal.
 *
 * Rules of the replay, which never looks at a clock: entries that are not fieldprint events are passed over;
 * only the first occurrence of an event id counts; an event counts if its signatures meet the policy in force
 * at its index, which it must name; an event that does not count is skipped (with its reason, for people); an
 * event of an unknown type that a key of the policy signed poisons the registry: the gate denies everything
 * from then on, as it may have been a revocation. A distrust event voids the key's signatures from an earlier
 * index on: the log is replayed again with it in force.
 *
 * One thread at a time per handle; several processes may share the file. */
#ifndef FP_ANCHOR_REGISTRY_H
#define FP_ANCHOR_REGISTRY_H
#include "anchor/event.h"
#include "fieldprint/workspace.h"
#include "ledger/ledger.h"

typedef struct fp__registry fp__registry;
/* path ":memory:" for a private one. A file of another log, trust file or version, or a damaged one, is made
 * anew. trust must outlive the registry. */
fp_status fp__registry_open(const char *path, const fp__trust *trust, fp__registry **out) FP_WARN_UNUSED;
void fp__registry_close(fp__registry *registry);
/* Replays entries up to `size` (UINT64_MAX: the reader's head). FP_USAGE when the registry is further already
 * and is right; one that is not a replay of this log starts anew. Atomic: on failure the registry is where it
 * was. */
fp_status fp__registry_replay(fp__registry *registry, fp__ledger_reader *reader,
                              uint64_t size) FP_WARN_UNUSED;
/* A consistent view for several reads; also loads the policy in force in it. Ends with fp__registry_end. */
fp_status fp__registry_begin(fp__registry *registry) FP_WARN_UNUSED;
void fp__registry_end(fp__registry *registry);

/* ---- What is in it; valid after replay or begin ---- */
void fp__registry_head(const fp__registry *registry, fp__ledger_head *out);
/* The policy in force, NULL when there is none yet; lives until the next replay or begin. */
const fp__policy *fp__registry_policy(const fp__registry *registry, uint64_t *index, const fp__buf **bytes);
const fp__distrusts *fp__registry_distrusts(const fp__registry *registry);
/* Index of the unknown event, or FP_INDEX_NONE. */
uint64_t fp__registry_poisoned(const fp__registry *registry);

typedef struct fp__anchor_entry {
    uint8_t id[32];
    fp_anchor_state state; /* candidate, promoted, superseded, revoked; unlogged for one revoked before it was
                              registered */
    fp_label type;
    uint64_t register_index, promote_index, supersede_index, revoke_index; /* or FP_INDEX_NONE */
    uint64_t valid_from, valid_until; /* register and promote intersected */
    uint8_t successor[32];
} fp__anchor_entry;
fp_status fp__registry_anchor(fp__registry *registry, const uint8_t id[32],
                              fp__anchor_entry *out) FP_WARN_UNUSED; /* FP_NOT_FOUND */
/* All of them in the order in which the log first named them; free(*out). */
fp_status fp__registry_anchors(fp__registry *registry, fp__anchor_entry **out, size_t *n) FP_WARN_UNUSED;

typedef struct fp__compile_entry {
    uint64_t index;
    uint8_t model[32], salt[32], token_ids[32], kv_head[32];
    uint16_t arithmetic;
    uint32_t tokens, pages;
} fp__compile_entry;
/* Compile events of a set in log order; free(*out). */
fp_status fp__registry_compiles(fp__registry *registry, const uint8_t set_id[32], fp__compile_entry **out,
                                size_t *n) FP_WARN_UNUSED;
fp_status fp__registry_receipt(fp__registry *registry, const uint8_t id[32],
                               uint64_t *index) FP_WARN_UNUSED; /* FP_NOT_FOUND */
fp_status fp__registry_count(fp__registry *registry, size_t *anchors, size_t *receipts) FP_WARN_UNUSED;

/* The override in force for an anchor (id NULL: any) at a time; halts before bypasses. FP_NOT_FOUND when
 * there is none. deployment NULL: halts of every deployment, bypasses for "*" only. */
typedef struct fp__override_entry {
    uint8_t event_id[32];
    uint64_t index, valid_until;
    bool halt;
} fp__override_entry;
fp_status fp__registry_override(fp__registry *registry, bool halt, const uint8_t id[32],
                                const char *deployment, uint64_t now, fp__override_entry *out) FP_WARN_UNUSED;
/* A logged override: what it does, for what, and until when (the fields halt, deployment, ids and validity of
 * *out, which the caller frees). FP_NOT_FOUND. */
fp_status fp__registry_override_event(fp__registry *registry, const uint8_t event_id[32], uint64_t *index,
                                      fp__event *out) FP_WARN_UNUSED;
/* Highest label that an endorsement in force at a time gives to a content (its SHA-256). FP_NOT_FOUND. */
fp_status fp__registry_endorsed(fp__registry *registry, const uint8_t content[32], uint64_t now,
                                fp_label *label) FP_WARN_UNUSED;
/* An event with this id was authentic: its id is spent. */
fp_status fp__registry_seen(fp__registry *registry, const uint8_t event_id[32], bool *seen) FP_WARN_UNUSED;
/* Index of the event that retracted a receipt. FP_NOT_FOUND. */
fp_status fp__registry_retraction(fp__registry *registry, const uint8_t receipt_id[32],
                                  uint64_t *index) FP_WARN_UNUSED;
fp_status fp__registry_rows(fp__registry *registry, uint64_t begin, fp_ledger_row *rows,
                            size_t *n) FP_WARN_UNUSED;
/* SHA-256 over all tables in order: equal for equal replays. */
fp_status fp__registry_digest(fp__registry *registry, uint8_t out[32]) FP_WARN_UNUSED;

/* ---- Judging an event as the next entry, without appending it ---- */
typedef struct fp__verdict {
    bool counts;
    bool authentic;   /* signed as the policy asks: from here on its id is spent */
    bool poison;      /* an unknown event type, signed by a key of the policy */
    uint32_t missing; /* > 0: that many more holders must sign; nothing else is wrong */
    char why[160];    /* when it does not count */
} fp__verdict;
fp_status fp__registry_judge(fp__registry *registry, const fp__dsse *dsse, const fp__event *event,
                             uint64_t index, fp__verdict *out) FP_WARN_UNUSED;
/* Judges an event and, if it counts, applies it, without a log: for a chain of policy events and an override
 * that are verified from the trust file alone. A registry in memory that replays no log. */
fp_status fp__registry_feed(fp__registry *registry, const fp__dsse *dsse, const fp__event *event,
                            uint64_t index, fp__verdict *out) FP_WARN_UNUSED;
#endif
