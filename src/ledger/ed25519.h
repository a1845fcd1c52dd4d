/* Ed25519 keys and signatures (RFC 8032, pure), on OpenSSL.
 *
 * Verification is stricter than OpenSSL's: cofactorless, S below the group order, and A and R canonical
 * encodings of points that are not of small order. A signature therefore binds one message to one key. Thread
 * rule: a key is immutable after it was made; any number of threads may sign with it. */
#ifndef FP_LEDGER_ED25519_H
#define FP_LEDGER_ED25519_H
#include "core/error.h"

#define FP__ED25519_PUBLIC_SIZE 32
#define FP__ED25519_SIGNATURE_SIZE 64

typedef struct fp__ed25519_key fp__ed25519_key; /* a private key */
fp_status fp__ed25519_generate(fp__ed25519_key **out) FP_WARN_UNUSED;
fp_status fp__ed25519_from_seed(const uint8_t seed[32],
                                fp__ed25519_key **out) FP_WARN_UNUSED; /* RFC 8032 secret */
void fp__ed25519_free(fp__ed25519_key *key);                           /* wipes; NULL is fine */
const uint8_t *fp__ed25519_public(const fp__ed25519_key *key);         /* [32], lives as long as the key */

/* PEM files: PKCS#8 (unencrypted) for private keys, mode 0600; SPKI for public keys, mode 0644. What `openssl
 * genpkey -algorithm ed25519` and `openssl pkey -pubout` write. Storing refuses to replace a file
 * (FP_EXISTS). Loading: FP_FORMAT for another kind of key, FP_NOT_FOUND, FP_LIMIT; a private key that others
 * may read gives a warning in the log. */
fp_status fp__ed25519_load(const char *path, fp__ed25519_key **out) FP_WARN_UNUSED;
fp_status fp__ed25519_store(const fp__ed25519_key *key, const char *path) FP_WARN_UNUSED;
fp_status fp__ed25519_load_public(const char *path, uint8_t out[32]) FP_WARN_UNUSED;
fp_status fp__ed25519_store_public(const uint8_t public_key[32], const char *path) FP_WARN_UNUSED;

fp_status fp__ed25519_sign(const fp__ed25519_key *key, const void *data, size_t size,
                           uint8_t out[64]) FP_WARN_UNUSED;
/* FP_SIGNATURE with the reason. Everything is untrusted. */
fp_status fp__ed25519_verify(const uint8_t public_key[32], const void *data, size_t size,
                             const uint8_t signature[64]) FP_WARN_UNUSED;
/* A public key made ready, for many signatures by one key. Thread rule: any number of threads may verify with
 * it. create: FP_SIGNATURE as fp__ed25519_check_public. */
typedef struct fp__ed25519_peer fp__ed25519_peer;
fp_status fp__ed25519_peer_create(const uint8_t public_key[32], fp__ed25519_peer **out) FP_WARN_UNUSED;
void fp__ed25519_peer_destroy(fp__ed25519_peer *peer); /* NULL is fine */
fp_status fp__ed25519_peer_verify(const fp__ed25519_peer *peer, const void *data, size_t size,
                                  const uint8_t signature[64]) FP_WARN_UNUSED;
/* FP_SIGNATURE unless the key could verify anything: canonical and not of small order. For keys read from
 * policies. */
fp_status fp__ed25519_check_public(const uint8_t public_key[32]) FP_WARN_UNUSED;
#endif
