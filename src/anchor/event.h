/* Events: what the ledger's entries say (predicate urn:fieldprint:event:v1 in a DSSE envelope).
 *
 * Predicate: event, origin, nonce, policy (digest of the policy in force), target (32 bytes), target_type,
 * valid_from, valid_until, body. Documents, statements and K/V bytes stay outside; a policy is the one
 * document the log carries. */
#ifndef FP_ANCHOR_EVENT_H
#define FP_ANCHOR_EVENT_H
#include "anchor/policy.h"

#define FP__EVENT_PREDICATE "urn:fieldprint:event:v1"
#define FP__EVENT_PREDICATE_ANY "urn:fieldprint:event:" /* every version begins so */
#define FP__EVENT_REASON_MAX 256
#define FP__EVENT_IDS_MAX 256
#define FP__DEPLOYMENT_MAX 64
#define FP__OVERRIDE_MAX_SECONDS 86400u

/* X(NAME, text, purpose of the keys that sign it) */
#define FP__EVENT_TABLE(X)                                                                                   \
    X(POLICY, "policy", POLICY)                                                                              \
    X(REGISTER, "register", REGISTER)                                                                        \
    X(COMPILE, "compile", COMPILER)                                                                          \
    X(PROMOTE, "promote", PROMOTE)                                                                           \
    X(SUPERSEDE, "supersede", PROMOTE)                                                                       \
    X(REVOKE, "revoke", REVOKE)                                                                              \
    X(DISTRUST, "distrust", DISTRUST)                                                                        \
    X(ENDORSE, "endorse", ENDORSE)                                                                           \
    X(OVERRIDE, "override", OVERRIDE)                                                                        \
    X(RECEIPTS, "receipts", ENGINE)                                                                          \
    X(RETRACTION, "retraction", ENGINE)
typedef enum fp__event_type {
#define FP__EVENT_ENUM(name, text, purpose) FP__EVENT_##name,
    FP__EVENT_TABLE(FP__EVENT_ENUM)
#undef FP__EVENT_ENUM
        FP__EVENT_UNKNOWN /* a fieldprint event that this version does not know */
} fp__event_type;
const char *fp__event_type_name(fp__event_type type);
fp_purpose fp__event_purpose(fp__event_type type); /* not for UNKNOWN */

/* Zero-initialise (fp__event_new); release with fp__event_free. Which body fields count is said per type. */
typedef struct fp__event {
    fp__event_type type;
    char origin[FP__ORIGIN_MAX + 1];
    uint8_t nonce[32];
    uint8_t policy[32];
    uint8_t
        target[32]; /* policy: its digest; register, promote, supersede, revoke: anchor id; compile: set id;
                       distrust: key id; endorse: SHA-256 of the content; override: fp__event_ids_digest of
                       ids (zero: all); receipts: fp__event_ids_digest; retraction: receipt id */
    fp_label label; /* anchor events: the anchor's type; endorse: the label that is given */
    uint64_t valid_from,
        valid_until; /* register, promote: of the anchor; override, endorse: of the act; else 0, for ever */
    /* bodies */
    fp__buf policy_bytes;                  /* policy */
    uint8_t successor[32];                 /* supersede */
    uint64_t from_index;                   /* distrust */
    char reason[FP__EVENT_REASON_MAX + 1]; /* supersede, revoke, distrust, endorse, override, retraction */
    uint8_t salt[32], model[32], token_ids[32],
        kv_head[32];                         /* compile; the head is the subject, as fieldprintKv1 */
    uint16_t arithmetic;                     /* compile */
    uint32_t tokens, pages;                  /* compile */
    bool halt;                               /* override: halt, else bypass */
    char deployment[FP__DEPLOYMENT_MAX + 1]; /* override: "*" or the name of one */
    size_t ids_count;   /* compile: anchors in order; override: anchors (0: all); receipts */
    uint8_t (*ids)[32]; /* owned */
} fp__event;

/* An event with nonce, origin and policy set and validity 0 .. for ever. */
fp_status fp__event_new(fp__event_type type, const char *origin, const uint8_t policy[32],
                        const uint8_t target[32], fp__event *out) FP_WARN_UNUSED;
fp_status fp__event_set_ids(fp__event *event, const uint8_t (*ids)[32], size_t n) FP_WARN_UNUSED; /* copies */
/* SHA-256 of the ids in a row; zero for none. */
void fp__event_ids_digest(const uint8_t (*ids)[32], size_t n, uint8_t out[32]);
/* Unsigned envelope. FP_LIMIT, FP_FORMAT when a field is out of its bounds. */
fp_status fp__event_build(const fp__event *event, fp__dsse *out) FP_WARN_UNUSED;
/* Untrusted payload of an envelope. *is_event = false (and FP_OK) when it is a well-formed Statement of
 * something else. An unknown event type, or another version of the predicate, gives FP__EVENT_UNKNOWN and
 * only that. */
fp_status fp__event_parse(const void *payload, size_t size, bool *is_event, fp__event *out) FP_WARN_UNUSED;
void fp__event_free(fp__event *event);
#endif
