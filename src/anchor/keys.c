#include "anchor/keys.h"
#include "core/bytes.h"
#include "merkle/sha256.h"
#include <stdio.h>
#include <stdlib.h>

struct fp_key {
    fp__ed25519_key *ed25519;
};

static const char *const purpose_names[FP_PURPOSE_COUNT] = {
#define PURPOSE_NAME(name, text, what) text,
    FP_PURPOSE_TABLE(PURPOSE_NAME)
#undef PURPOSE_NAME
};

const char *fp_purpose_name(fp_purpose purpose)
{
    return (unsigned)purpose < FP_PURPOSE_COUNT ? purpose_names[purpose] : "unknown";
}

fp_status fp_purpose_parse(const char *name, fp_purpose *out)
{
    for (unsigned i = 0; i < FP_PURPOSE_COUNT; i++)
        if (strcmp(name, purpose_names[i]) == 0) {
            *out = (fp_purpose)i;
            return FP_OK;
        }
    return fp__fail(FP_USAGE,
                    "\"%.40s\" is no purpose of a key: use policy, author, register, promote, compiler, "
                    "revoke, distrust, endorse, override, engine or log",
                    name);
}

/* Takes the key in every case. */
static fp_status wrap(fp_status status, fp__ed25519_key *ed25519, fp_key **out)
{
    if (status != FP_OK)
        return status;
    fp_key *key = malloc(sizeof *key);
    if (key == NULL) {
        fp__ed25519_free(ed25519);
        return fp__fail(FP_NO_MEMORY, "no memory for a key");
    }
    key->ed25519 = ed25519;
    *out = key;
    return FP_OK;
}

fp_status fp_key_generate(fp_key **out)
{
    fp__ed25519_key *ed25519 = NULL;
    fp_status status = fp__ed25519_generate(&ed25519);
    return wrap(status, ed25519, out);
}

fp_status fp_key_from_seed(const uint8_t seed[32], fp_key **out)
{
    fp__ed25519_key *ed25519 = NULL;
    fp_status status = fp__ed25519_from_seed(seed, &ed25519);
    return wrap(status, ed25519, out);
}

fp_status fp_key_load(const char *path, fp_key **out)
{
    fp__ed25519_key *ed25519 = NULL;
    fp_status status = fp__ed25519_load(path, &ed25519);
    return wrap(status, ed25519, out);
}

fp_status fp_key_save(const fp_key *key, const char *path)
{
    return fp__ed25519_store(key->ed25519, path);
}

void fp_key_free(fp_key *key)
{
    if (key == NULL)
        return;
    fp__ed25519_free(key->ed25519);
    free(key);
}

void fp_key_public(const fp_key *key, uint8_t out[32])
{
    memcpy(out, fp__ed25519_public(key->ed25519), 32);
}

void fp_key_id(const uint8_t public_key[32], char out[65])
{
    /* securesystemslib, signer/_utils.py compute_default_keyid: names in sorted order, no white space. */
    char hex[65], json[160];
    uint8_t digest[32];
    fp__hex_encode(public_key, 32, hex);
    int n = snprintf(json, sizeof json,
                     "{\"keytype\":\"ed25519\",\"keyval\":{\"public\":\"%s\"},\"scheme\":\"ed25519\"}", hex);
    fp__sha256(json, (size_t)n, digest);
    fp__hex_encode(digest, 32, out);
}

fp_status fp_key_save_public(const uint8_t public_key[32], const char *path)
{
    return fp__ed25519_store_public(public_key, path);
}

fp_status fp_key_load_public(const char *path, uint8_t out[32])
{
    uint8_t key[32];
    FP_TRY(fp__ed25519_load_public(path, key));
    FP_TRY(fp__ed25519_check_public(key));
    memcpy(out, key, 32);
    return FP_OK;
}

fp_status fp__key_sign(const fp_key *key, const void *data, size_t size, uint8_t out[64])
{
    return fp__ed25519_sign(key->ed25519, data, size, out);
}

const fp__ed25519_key *fp__key_ed25519(const fp_key *key)
{
    return key->ed25519;
}
