/* Trust policies (c2sp.org/tlog-policy): which logs, which witnesses, and which of them must have cosigned a
 * checkpoint. Pure functions over untrusted text. */
#ifndef FP_LEDGER_TLOG_POLICY_H
#define FP_LEDGER_TLOG_POLICY_H
#include "ledger/note.h"

#define FP__TLOG_POLICY_MAX_BYTES 65536u
#define FP__TLOG_LOGS_MAX 32
#define FP__TLOG_WITNESSES_MAX 32
#define FP__TLOG_GROUPS_MAX 32
#define FP__TLOG_NAME_MAX 255
#define FP__TLOG_URL_MAX 1000

typedef struct fp__tlog_party {       /* a log or a witness */
    char name[FP__TLOG_NAME_MAX + 1]; /* of a witness, in the policy; empty for a log */
    fp__note_key key;
    char url[FP__TLOG_URL_MAX + 1]; /* empty if none */
} fp__tlog_party;

/* k of its members; bit i of witnesses and groups is member i. */
typedef struct fp__tlog_group {
    char name[FP__TLOG_NAME_MAX + 1];
    unsigned threshold;
    uint32_t witnesses, groups;
} fp__tlog_group;

typedef struct fp__tlog_policy {
    size_t logs_count, witnesses_count, groups_count;
    fp__tlog_party logs[FP__TLOG_LOGS_MAX], witnesses[FP__TLOG_WITNESSES_MAX];
    fp__tlog_group groups[FP__TLOG_GROUPS_MAX];
    fp__tlog_group quorum; /* one member, or threshold 0 for "none" */
} fp__tlog_policy;

/* The struct is large (200 KiB): allocate it. FP_FORMAT or FP_LIMIT naming the line. */
fp_status fp__tlog_policy_parse(const void *data, size_t size, fp__tlog_policy *out) FP_WARN_UNUSED;
/* Whether these witnesses (bit i: witness i) are a quorum. */
bool fp__tlog_policy_met(const fp__tlog_policy *policy, uint32_t witnesses);
/* verdicts [witnesses_count]. False when the valid ones are no quorum. *seconds (may be NULL): the newest
 * time since which a quorum has cosigned; 0 if the quorum is "none". */
bool fp__tlog_policy_time(const fp__tlog_policy *policy, const fp__note_verdict *verdicts, uint64_t *seconds);
#endif
