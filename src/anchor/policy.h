/* Policy and trust file.
 *
 * The trust file is the root of trust: it reaches its user outside the log, and pins origin, log key, the
 * digest of the first policy and the witnesses. A policy says who holds which key for which purpose, how many
 * distinct holders an act needs, and what anchors may be. Its digest is SHA-256 of its bytes; the log carries
 * those bytes. */
#ifndef FP_ANCHOR_POLICY_H
#define FP_ANCHOR_POLICY_H
#include "anchor/dsse.h"
#include "fieldprint/anchor.h"
#include "fieldprint/workspace.h"
#include "ledger/note.h"

#define FP__POLICY_FORMAT "urn:fieldprint:policy:v1"
#define FP__TRUST_FORMAT "urn:fieldprint:trust:v1"
#define FP__POLICY_MAX_BYTES 24000u /* an event carries it in base64 */
#define FP__TRUST_MAX_BYTES 65536u
#define FP__ORIGIN_MAX 200
#define FP__HOLDERS_MAX 64
#define FP__HOLDER_NAME_MAX FP_HOLDER_MAX
#define FP__POLICY_KEYS_MAX 160
#define FP__WITNESSES_MAX 32
#define FP__REQUIRED_MAX 16
#define FP__SET_ANCHORS_MAX 64

typedef struct fp__policy_key {
    uint8_t public_key[32];
    char keyid[65];
    fp_purpose purpose;
    unsigned holder; /* index */
} fp__policy_key;

/* threshold distinct holders out of a set (bit i: holder i). threshold 0: nobody may. */
typedef struct fp__policy_role {
    uint32_t threshold;
    uint64_t holders;
} fp__policy_role;

typedef struct fp__quorum { /* of witnesses */
    uint32_t threshold;     /* 0: unwitnessed */
    size_t count;
    fp__note_key keys[FP__WITNESSES_MAX];
} fp__quorum;

typedef struct fp__policy {
    uint8_t digest[32];
    char origin[FP__ORIGIN_MAX + 1];
    uint64_t number;
    uint8_t previous[32]; /* digest of the policy before; zero for the first */
    size_t holders_count;
    char holders[FP__HOLDERS_MAX][FP__HOLDER_NAME_MAX + 1];
    size_t keys_count;
    fp__policy_key keys[FP__POLICY_KEYS_MAX];
    fp__policy_role roles[FP_PURPOSE_COUNT]; /* not author and promote */
    fp__policy_role author[FP_LABEL_COUNT], promote[FP_LABEL_COUNT];
    bool types[FP_LABEL_COUNT]; /* which types may exist at all */
    size_t required_count;      /* every set begins with these, in this order */
    uint8_t required[FP__REQUIRED_MAX][32];
    uint16_t readers_count; /* who may read at all */
    char readers[FP_ANCHOR_READERS_MAX][FP_READER_MAX + 1];
    uint32_t max_anchors, max_tokens, max_gamma; /* of a set; γ in 1/65536 */
    uint64_t freshness_seconds;                  /* Δ; 0: none asked for (a local log) */
    fp__quorum witnesses;
} fp__policy;

/* Untrusted bytes. FP_LIMIT, FP_FORMAT naming the field. The struct is large (tens of KiB): allocate it. */
fp_status fp__policy_parse(const void *data, size_t size, fp__policy *out) FP_WARN_UNUSED;
/* Text of a first policy for these keys (sorted by holder): each role is met by `threshold` of the holders
 * who have a key for it, override by two. A role that too few could meet is nobody's. witnesses may be NULL.
 */
fp_status fp__policy_new(const char *origin, const fp_key_row *rows, size_t n, uint32_t threshold,
                         const fp__quorum *witnesses, uint64_t freshness_seconds,
                         fp__buf *out) FP_WARN_UNUSED;
/* The role for an act; `type` matters to author and promote only. */
const fp__policy_role *fp__policy_role_of(const fp__policy *policy, fp_purpose purpose, fp_label type);
/* The key with these bytes, or NULL. */
const fp__policy_key *fp__policy_find_key(const fp__policy *policy, const uint8_t public_key[32]);

/* A key that was declared stolen: its signatures on entries from this index on are void. */
typedef struct fp__distrust {
    uint8_t keyid[32];
    uint64_t from_index;
} fp__distrust;
typedef struct fp__distrusts {
    size_t count;
    fp__distrust *items;
} fp__distrusts;
bool fp__distrusted(const fp__distrusts *list, const char *keyid, uint64_t index);

/* Who signed an envelope, as the policy sees it. */
typedef struct fp__signers {
    uint64_t holders; /* distinct holders of the role whose signature by a key of this purpose verifies */
    uint32_t count;   /* how many */
    bool bad;         /* a signature that names a key of the policy does not verify */
    bool unknown;     /* a signature by no key of this purpose and role */
    bool distrusted;  /* a signature by a distrusted key was not counted */
} fp__signers;
/* Counts the distinct holders of a role that signed, with keys of this purpose; keyid is a hint, every key of
 * the role is tried when it does not help. `index`: where the entry is in the log, for distrust (may be
 * NULL). */
void fp__policy_count(const fp__policy *policy, const fp__dsse *dsse, fp_purpose purpose, fp_label type,
                      const fp__distrusts *distrusts, uint64_t index, fp__signers *out);
static inline bool fp__signers_suffice(const fp__signers *signers, const fp__policy_role *role)
{
    return role->threshold > 0 && signers->count >= role->threshold;
}

/* ---- Trust file ---- */
typedef struct fp__trust {
    char origin[FP__ORIGIN_MAX + 1];
    fp__note_key log_key;
    uint8_t first_policy[32];
    fp__quorum witnesses;
} fp__trust;
fp_status fp__trust_parse(const void *data, size_t size, fp__trust *out) FP_WARN_UNUSED;
fp_status fp__trust_write(const fp__trust *trust, fp__buf *out) FP_WARN_UNUSED;
#endif
