/* SHA-256 (FIPS 180-4) and HMAC-SHA-256 (RFC 2104), on OpenSSL's provider with the algorithm fetched once.
 *
 * Nothing here returns a status: hashing fails only when memory for a context is out or libcrypto is broken,
 * and then there is nothing left to verify with, so the process stops (FP_CHECK). All functions are
 * thread-safe; an fp__sha256_ctx belongs to one thread at a time. One-shot calls reuse one context per thread
 * and allocate nothing after the first call. */
#ifndef FP_MERKLE_SHA256_H
#define FP_MERKLE_SHA256_H
#include <stddef.h>
#include <stdint.h>

#define FP__SHA256_SIZE 32

/* One piece of an input that is hashed as if its pieces stood one after the other. data may be NULL if size
 * is 0. */
typedef struct fp__part {
    const void *data;
    size_t size;
} fp__part;

void fp__sha256(const void *data, size_t size, uint8_t out[FP__SHA256_SIZE]);
void fp__sha256_parts(const fp__part *parts, size_t count, uint8_t out[FP__SHA256_SIZE]);

/* Incremental hashing: fp__sha256_ctx ctx = {0}; init; update …; final; (init again …); free. */
typedef struct fp__sha256_ctx {
    void *md; /* EVP_MD_CTX, made by the first init */
} fp__sha256_ctx;
void fp__sha256_init(fp__sha256_ctx *ctx); /* starts a new hash, whatever state the context was in */
void fp__sha256_update(fp__sha256_ctx *ctx, const void *data, size_t size);
void fp__sha256_final(fp__sha256_ctx *ctx, uint8_t out[FP__SHA256_SIZE]); /* then only init or free */
void fp__sha256_free(fp__sha256_ctx *ctx);                                /* zeroed context: nothing to do */

void fp__hmac_sha256(const void *key, size_t key_size, const void *data, size_t size,
                     uint8_t out[FP__SHA256_SIZE]);
#endif
