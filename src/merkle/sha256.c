#include "merkle/sha256.h"
#include "core/error.h"
#include <limits.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <pthread.h>

/* EVP_sha256() looks the provider's algorithm up at every init; a fetched one does not (a quarter of the time
 * of a Merkle node). Both live as long as the process. */
static EVP_MD *sha256_md;
static pthread_key_t local_key; /* frees a thread's context when the thread ends */
static pthread_once_t once = PTHREAD_ONCE_INIT;
static _Thread_local EVP_MD_CTX *local_md;

static void free_local(void *md)
{
    EVP_MD_CTX_free(md);
}

static void set_up(void)
{
    sha256_md = EVP_MD_fetch(NULL, "SHA256", NULL);
    FP_CHECK(sha256_md != NULL);
    FP_CHECK(pthread_key_create(&local_key, free_local) == 0);
}

static EVP_MD_CTX *new_md(void)
{
    FP_CHECK(pthread_once(&once, set_up) == 0);
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    FP_CHECK(md != NULL);
    return md;
}

/* The thread's own context, with a new hash begun. */
static EVP_MD_CTX *begin_local(void)
{
    if (local_md == NULL) {
        local_md = new_md();
        FP_CHECK(pthread_setspecific(local_key, local_md) == 0);
    }
    FP_CHECK(EVP_DigestInit_ex2(local_md, sha256_md, NULL) == 1);
    return local_md;
}

void fp__sha256(const void *data, size_t size, uint8_t out[FP__SHA256_SIZE])
{
    fp__part part = {data, size};
    fp__sha256_parts(&part, 1, out);
}

void fp__sha256_parts(const fp__part *parts, size_t count, uint8_t out[FP__SHA256_SIZE])
{
    EVP_MD_CTX *md = begin_local();
    for (size_t i = 0; i < count; i++)
        if (parts[i].size != 0)
            FP_CHECK(EVP_DigestUpdate(md, parts[i].data, parts[i].size) == 1);
    FP_CHECK(EVP_DigestFinal_ex(md, out, NULL) == 1);
}

void fp__sha256_init(fp__sha256_ctx *ctx)
{
    if (ctx->md == NULL)
        ctx->md = new_md();
    FP_CHECK(EVP_DigestInit_ex2(ctx->md, sha256_md, NULL) == 1);
}

void fp__sha256_update(fp__sha256_ctx *ctx, const void *data, size_t size)
{
    if (size != 0)
        FP_CHECK(EVP_DigestUpdate(ctx->md, data, size) == 1);
}

void fp__sha256_final(fp__sha256_ctx *ctx, uint8_t out[FP__SHA256_SIZE])
{
    FP_CHECK(EVP_DigestFinal_ex(ctx->md, out, NULL) == 1);
}

void fp__sha256_free(fp__sha256_ctx *ctx)
{
    EVP_MD_CTX_free(ctx->md);
    ctx->md = NULL;
}

void fp__hmac_sha256(const void *key, size_t key_size, const void *data, size_t size,
                     uint8_t out[FP__SHA256_SIZE])
{
    FP_CHECK(key_size <= INT_MAX);
    FP_CHECK(HMAC(EVP_sha256(), key_size ? key : "", (int)key_size, size ? data : (const uint8_t *)"", size,
                  out, NULL) != NULL);
}
