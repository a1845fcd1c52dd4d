#include "ledger/ed25519.h"
#include "core/file.h"
#include "core/trace.h"
#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <stdlib.h>
#include <sys/stat.h>

#define PEM_MAX_BYTES 16384

struct fp__ed25519_key {
    EVP_PKEY *pkey;
    uint8_t public_key[32];
};

/* Fails with what libcrypto says, and leaves its error queue empty for the next caller. */
static fp_status crypto_fail(fp_status status, const char *what)
{
    char reason[160] = "no reason given";
    unsigned long code = ERR_peek_last_error();
    if (code != 0)
        ERR_error_string_n(code, reason, sizeof reason);
    ERR_clear_error();
    return fp__fail(status, "%s (OpenSSL: %s)", what, reason);
}

/* Takes pkey over. */
static fp_status wrap(EVP_PKEY *pkey, fp__ed25519_key **out)
{
    fp__ed25519_key *key = calloc(1, sizeof *key);
    if (key == NULL) {
        EVP_PKEY_free(pkey);
        return fp__fail(FP_NO_MEMORY, "no memory for a key");
    }
    size_t size = sizeof key->public_key;
    key->pkey = pkey;
    if (EVP_PKEY_get_raw_public_key(pkey, key->public_key, &size) != 1 || size != 32) {
        fp__ed25519_free(key);
        return crypto_fail(FP_INTERNAL, "an Ed25519 key without a public half");
    }
    *out = key;
    return FP_OK;
}

fp_status fp__ed25519_generate(fp__ed25519_key **out)
{
    EVP_PKEY *pkey = EVP_PKEY_Q_keygen(NULL, NULL, "ED25519");
    if (pkey == NULL)
        return crypto_fail(FP_INTERNAL, "cannot make an Ed25519 key");
    return wrap(pkey, out);
}

fp_status fp__ed25519_from_seed(const uint8_t seed[32], fp__ed25519_key **out)
{
    EVP_PKEY *pkey = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, seed, 32);
    if (pkey == NULL)
        return crypto_fail(FP_INTERNAL, "cannot make an Ed25519 key");
    return wrap(pkey, out);
}

void fp__ed25519_free(fp__ed25519_key *key)
{
    if (key == NULL)
        return;
    EVP_PKEY_free(key->pkey); /* wipes the secret */
    free(key);
}

const uint8_t *fp__ed25519_public(const fp__ed25519_key *key)
{
    return key->public_key;
}

/* Without a callback OpenSSL would ask for a pass phrase on the terminal. */
static int no_pass_phrase(char *buf, int size, int rwflag, void *arg)
{
    (void)buf, (void)size, (void)rwflag, (void)arg;
    return -1;
}

static fp_status read_pem(const char *path, bool private_key, EVP_PKEY **out)
{
    fp__buf pem = {0};
    fp_status status = fp__file_read(path, PEM_MAX_BYTES, &pem);
    if (status == FP_OK) {
        BIO *bio = BIO_new_mem_buf(pem.data, (int)pem.size);
        EVP_PKEY *pkey = NULL;
        if (bio != NULL)
            pkey = private_key ? PEM_read_bio_PrivateKey(bio, NULL, no_pass_phrase, NULL)
                               : PEM_read_bio_PUBKEY(bio, NULL, no_pass_phrase, NULL);
        BIO_free(bio);
        if (pkey == NULL) {
            status = crypto_fail(FP_FORMAT, private_key ? "not an unencrypted PKCS#8 private key in PEM"
                                                        : "not a public key in PEM (SPKI)");
        } else if (EVP_PKEY_get_base_id(pkey) != EVP_PKEY_ED25519) {
            EVP_PKEY_free(pkey);
            status =
                fp__fail(FP_FORMAT, "this is a key of another algorithm; make one with `fieldprint key` or "
                                    "`openssl genpkey -algorithm ed25519`");
        } else {
            *out = pkey;
        }
        if (status != FP_OK)
            status = fp__fail_context(status, "%s", path);
    }
    if (pem.data != NULL)
        OPENSSL_cleanse(pem.data, pem.size);
    fp__buf_free(&pem);
    return status;
}

fp_status fp__ed25519_load(const char *path, fp__ed25519_key **out)
{
    EVP_PKEY *pkey = NULL;
    FP_TRY(read_pem(path, true, &pkey));
    struct stat st;
    if (stat(path, &st) == 0 && (st.st_mode & 077) != 0)
        fp__trace(FP__TRACE_WARN, "others may read the private key %s: chmod 600 it", path);
    return wrap(pkey, out);
}

fp_status fp__ed25519_load_public(const char *path, uint8_t out[32])
{
    EVP_PKEY *pkey = NULL;
    FP_TRY(read_pem(path, false, &pkey));
    size_t size = 32;
    int ok = EVP_PKEY_get_raw_public_key(pkey, out, &size);
    EVP_PKEY_free(pkey);
    if (ok != 1)
        return crypto_fail(FP_FORMAT, "cannot read the public key");
    fp_status status = fp__ed25519_check_public(out);
    return status == FP_OK ? FP_OK : fp__fail_context(status, "%s", path);
}

static fp_status write_pem(const EVP_PKEY *pkey, bool private_key, const char *path)
{
    BIO *bio = BIO_new(BIO_s_mem());
    if (bio == NULL)
        return fp__fail(FP_NO_MEMORY, "no memory for a key");
    int ok = private_key ? PEM_write_bio_PKCS8PrivateKey(bio, pkey, NULL, NULL, 0, NULL, NULL)
                         : PEM_write_bio_PUBKEY(bio, pkey);
    fp_status status;
    if (ok == 1) {
        char *text = NULL;
        long size = BIO_get_mem_data(bio, &text);
        status = fp__file_create(path, text, (size_t)size, private_key ? 0600 : 0644);
        OPENSSL_cleanse(text, (size_t)size);
    } else {
        status = crypto_fail(FP_INTERNAL, "cannot write a key as PEM");
    }
    BIO_free(bio);
    return status;
}

fp_status fp__ed25519_store(const fp__ed25519_key *key, const char *path)
{
    return write_pem(key->pkey, true, path);
}

fp_status fp__ed25519_store_public(const uint8_t public_key[32], const char *path)
{
    EVP_PKEY *pkey = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, public_key, 32);
    if (pkey == NULL)
        return crypto_fail(FP_INTERNAL, "cannot take the public key");
    fp_status status = write_pem(pkey, false, path);
    EVP_PKEY_free(pkey);
    return status;
}

fp_status fp__ed25519_sign(const fp__ed25519_key *key, const void *data, size_t size, uint8_t out[64])
{
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    size_t out_size = 64;
    bool ok = md != NULL && EVP_DigestSignInit(md, NULL, NULL, NULL, key->pkey) == 1 &&
              EVP_DigestSign(md, out, &out_size, size ? data : "", size) == 1 && out_size == 64;
    EVP_MD_CTX_free(md);
    return ok ? FP_OK : crypto_fail(FP_INTERNAL, "cannot sign");
}

/* value < limit, both 32 bytes little-endian. Public values: no need for constant time. */
static bool below(const uint8_t value[32], const uint8_t limit[32])
{
    for (int i = 31; i >= 0; i--)
        if (value[i] != limit[i])
            return value[i] < limit[i];
    return false;
}

/* RFC 8032 §5.1: an encoding is y, 255 bits, and the sign of x. Canonical means y < p = 2^255 - 19. The
 * points of small order have y in {0, 1, -1, ±y8} (y8 of the points of order 8) with either sign bit; those
 * with x = 0 (y = ±1) have no canonical encoding with the sign bit set, and are refused with it too.
 * Non-canonical twins (y + p) fall to y < p. */
static const char *bad_point(const uint8_t encoded[32])
{
    static const uint8_t prime[32] = {0xed, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                                      0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                                      0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f};
    static const uint8_t small[5][32] = {
        {0x00},
        {0x01},
        {0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
         0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
        {0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0,
         0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05},
        {0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f,
         0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a},
    };
    uint8_t y[32];
    memcpy(y, encoded, 32);
    y[31] &= 0x7f;
    if (!below(y, prime))
        return "is not in canonical form";
    for (size_t i = 0; i < sizeof small / sizeof *small; i++)
        if (memcmp(y, small[i], 32) == 0)
            return "is a point of small order";
    return NULL;
}

fp_status fp__ed25519_check_public(const uint8_t public_key[32])
{
    const char *reason = bad_point(public_key);
    if (reason != NULL)
        return fp__fail(FP_SIGNATURE, "the public key %s; signatures by it bind to nothing", reason);
    return FP_OK;
}

static fp_status take_public(const uint8_t public_key[32], EVP_PKEY **out)
{
    FP_TRY(fp__ed25519_check_public(public_key));
    *out = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, public_key, 32);
    return *out != NULL ? FP_OK : crypto_fail(FP_INTERNAL, "cannot take the public key");
}

static fp_status verify(EVP_PKEY *pkey, const void *data, size_t size, const uint8_t signature[64])
{
    static const uint8_t order[32] = {0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7,
                                      0xa2, 0xde, 0xf9, 0xde, 0x14, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
                                      0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x10};
    const char *reason = bad_point(signature);
    if (reason != NULL)
        return fp__fail(FP_SIGNATURE, "the signature's R %s", reason);
    if (!below(signature + 32, order))
        return fp__fail(FP_SIGNATURE, "the signature's S is not below the group order");
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    if (md == NULL || EVP_DigestVerifyInit(md, NULL, NULL, NULL, pkey) != 1) {
        EVP_MD_CTX_free(md);
        return crypto_fail(FP_INTERNAL, "cannot set up the verification of a signature");
    }
    int verdict = EVP_DigestVerify(md, signature, 64, size ? data : "", size);
    EVP_MD_CTX_free(md);
    ERR_clear_error(); /* a key off the curve leaves one */
    if (verdict != 1)
        return fp__fail(FP_SIGNATURE, "the Ed25519 signature is not valid for this key and these bytes");
    return FP_OK;
}

fp_status fp__ed25519_verify(const uint8_t public_key[32], const void *data, size_t size,
                             const uint8_t signature[64])
{
    EVP_PKEY *pkey = NULL;
    FP_TRY(take_public(public_key, &pkey));
    fp_status status = verify(pkey, data, size, signature);
    EVP_PKEY_free(pkey);
    return status;
}

struct fp__ed25519_peer {
    EVP_PKEY *pkey;
};

fp_status fp__ed25519_peer_create(const uint8_t public_key[32], fp__ed25519_peer **out)
{
    EVP_PKEY *pkey = NULL;
    FP_TRY(take_public(public_key, &pkey));
    fp__ed25519_peer *peer = malloc(sizeof *peer);
    if (peer == NULL) {
        EVP_PKEY_free(pkey);
        return fp__fail(FP_NO_MEMORY, "no memory for a key");
    }
    peer->pkey = pkey;
    *out = peer;
    return FP_OK;
}

void fp__ed25519_peer_destroy(fp__ed25519_peer *peer)
{
    if (peer != NULL)
        EVP_PKEY_free(peer->pkey);
    free(peer);
}

fp_status fp__ed25519_peer_verify(const fp__ed25519_peer *peer, const void *data, size_t size,
                                  const uint8_t signature[64])
{
    return verify(peer->pkey, data, size, signature);
}
