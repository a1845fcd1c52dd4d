/* Keys: Ed25519, kept in PEM (PKCS #8, as `openssl genpkey -algorithm ed25519` writes them).
 *
 * A key has one purpose (see policy.h) and one holder; a threshold counts holders, never keys. */
#ifndef FIELDPRINT_KEY_H
#define FIELDPRINT_KEY_H
#include "fieldprint/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a key may sign. X(NAME, text in policies and file names, what it is for). */
#define FP_PURPOSE_TABLE(X)                                                                                  \
    X(POLICY, "policy", "changes the policy")                                                                \
    X(AUTHOR, "author", "signs anchor statements")                                                           \
    X(REGISTER, "register", "logs a statement as a candidate")                                               \
    X(PROMOTE, "promote", "promotes and supersedes anchors")                                                 \
    X(COMPILER, "compiler", "says which K/V bytes an anchor set compiles to")                                \
    X(REVOKE, "revoke", "revokes anchors")                                                                   \
    X(DISTRUST, "distrust", "voids the later signatures of a stolen key")                                    \
    X(ENDORSE, "endorse", "raises a label")                                                                  \
    X(OVERRIDE, "override", "break-glass: bypass or halt")                                                   \
    X(ENGINE, "engine", "signs receipts and session manifests")                                              \
    X(LOG, "log", "signs the checkpoints of the ledger")

typedef enum fp_purpose {
#define FP_PURPOSE_ENUM(name, text, what) FP_PURPOSE_##name,
    FP_PURPOSE_TABLE(FP_PURPOSE_ENUM)
#undef FP_PURPOSE_ENUM
        FP_PURPOSE_COUNT
} fp_purpose;
FP_API const char *fp_purpose_name(fp_purpose purpose); /* "policy" */
FP_API fp_status fp_purpose_parse(const char *name,
                                  fp_purpose *out) FP_WARN_UNUSED; /* FP_USAGE when unknown */

/* A private key. Immutable after creation, so that threads may share it. */
typedef struct fp_key fp_key;
FP_API fp_status fp_key_generate(fp_key **out) FP_WARN_UNUSED;
FP_API fp_status fp_key_from_seed(const uint8_t seed[32],
                                  fp_key **out) FP_WARN_UNUSED; /* RFC 8032 secret key */
/* PEM private key. FP_NOT_FOUND, FP_FORMAT (not PEM, encrypted, or not Ed25519). */
FP_API fp_status fp_key_load(const char *path, fp_key **out) FP_WARN_UNUSED;
/* Writes PEM with mode 0600; FP_EXISTS if the path is there. */
FP_API fp_status fp_key_save(const fp_key *key, const char *path) FP_WARN_UNUSED;
FP_API void fp_key_free(fp_key *key); /* wipes it; NULL is fine */

FP_API void fp_key_public(const fp_key *key, uint8_t out[32]);
/* Key id as securesystemslib computes it: hex SHA-256 of the canonical JSON of the public key. A hint, never
 * a proof. */
FP_API void fp_key_id(const uint8_t public_key[32], char out[65]);
/* Writes the public key as PEM (SubjectPublicKeyInfo), for other people's tools; FP_EXISTS if the path is
 * there. */
FP_API fp_status fp_key_save_public(const uint8_t public_key[32], const char *path) FP_WARN_UNUSED;
/* Reads a public key in PEM. The 32 bytes are checked to be a usable point (not small-order). */
FP_API fp_status fp_key_load_public(const char *path, uint8_t out[32]) FP_WARN_UNUSED;

#ifdef __cplusplus
}
#endif
#endif
