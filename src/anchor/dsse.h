/* DSSE v1 envelopes (secure-systems-lab/dsse, envelope.md and protocol.md) with Ed25519 signatures.
 *
 * The signed bytes are the PAE of payload type and payload; the id of whatever the payload says is
 * SHA-256(PAE), so signatures can be added without changing it. The payload that was verified is the payload
 * that is used: it is kept as bytes and never written anew. */
#ifndef FP_ANCHOR_DSSE_H
#define FP_ANCHOR_DSSE_H
#include "anchor/json_strict.h"
#include "fieldprint/key.h"
#include "ledger/ed25519.h"

#define FP__DSSE_PAYLOAD_TYPE "application/vnd.in-toto+json"
#define FP__DSSE_PAYLOAD_MAX_BYTES 46000u
#define FP__DSSE_ENVELOPE_MAX_BYTES 65535u /* what an entry bundle of the ledger can hold */
#define FP__DSSE_SIGNATURES_MAX 64
#define FP__DSSE_KEYID_MAX 128

typedef struct fp__dsse_signature {
    char keyid[FP__DSSE_KEYID_MAX + 1]; /* a hint; may be empty */
    uint8_t sig[64];
    enum { FP__SIG_UNCHECKED, FP__SIG_GOOD, FP__SIG_BAD } checked; /* under checked_key, by fp__dsse_check */
    uint8_t checked_key[32];
} fp__dsse_signature;

/* Zero-initialise; release with fp__dsse_free. */
typedef struct fp__dsse {
    fp__buf payload, pae;
    uint8_t id[32]; /* SHA-256(pae) */
    size_t signatures_count;
    fp__dsse_signature signatures[FP__DSSE_SIGNATURES_MAX];
} fp__dsse;

/* An envelope of this payload without signatures. FP_LIMIT over FP__DSSE_PAYLOAD_MAX_BYTES. */
fp_status fp__dsse_create(const void *payload, size_t size, fp__dsse *out) FP_WARN_UNUSED;
/* As fp__dsse_create, of compact JSON; takes (frees) the payload in every case (NULL is FP_NO_MEMORY). */
fp_status fp__dsse_create_json(json_t *payload, fp__dsse *out) FP_WARN_UNUSED;
/* Adds the key's signature; does nothing if one with the same keyid is there and verifies, and replaces it if
 * not. */
fp_status fp__dsse_sign(fp__dsse *dsse, const fp_key *key) FP_WARN_UNUSED;
/* Untrusted bytes. FP_LIMIT, FP_FORMAT. Signatures are decoded, not verified. */
fp_status fp__dsse_parse(const void *data, size_t size, fp__dsse *out) FP_WARN_UNUSED;
/* Appends the envelope as one line of JSON. FP_LIMIT when it is over FP__DSSE_ENVELOPE_MAX_BYTES. */
fp_status fp__dsse_write(const fp__dsse *dsse, fp__buf *out) FP_WARN_UNUSED;
/* True if signature i verifies under this key (strict Ed25519, see ledger/ed25519.h). */
bool fp__dsse_verify_one(const fp__dsse *dsse, size_t i, const uint8_t public_key[32]);
/* Verifies signature i under this key (peer: the same, made ready) and notes the result in the envelope, so
 * that fp__dsse_verify_one does not compute it again. For threads that verify ahead. */
void fp__dsse_check(fp__dsse *dsse, size_t i, const uint8_t public_key[32], const fp__ed25519_peer *peer);
/* True if any signature verifies under this key. */
bool fp__dsse_verify(const fp__dsse *dsse, const uint8_t public_key[32]);
void fp__dsse_free(fp__dsse *dsse);

/* ---- in-toto Statement v1 ---- */
#define FP__INTOTO_TYPE "https://in-toto.io/Statement/v1"
/* {"_type", "subject": [{"name", "digest": {algorithm: hex}}], "predicateType", "predicate"}; takes
 * predicate; NULL when memory is out or predicate is NULL. */
json_t *fp__intoto_build(const char *subject_name, const char *algorithm, const uint8_t digest[32],
                         const char *predicate_type, json_t *predicate);
typedef struct fp__intoto {
    json_t *json;             /* owned; fp__intoto_free */
    const char *subject_name; /* borrowed from json */
    const char *algorithm;
    uint8_t digest[32];
    const char *predicate_type;
    json_t *predicate; /* borrowed */
} fp__intoto;
/* Parses a payload strictly: one subject with one digest of 32 bytes; the predicate's own fields are the
 * caller's. */
fp_status fp__intoto_parse(const void *payload, size_t size, const char *name,
                           fp__intoto *out) FP_WARN_UNUSED;
/* As fp__intoto_parse, of JSON that fp__json_parse gave; takes it in every case. */
fp_status fp__intoto_read(json_t *json, const char *name, fp__intoto *out) FP_WARN_UNUSED;
void fp__intoto_free(fp__intoto *statement);
#endif
