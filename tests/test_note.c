/* ledger: Ed25519 strictness, signed notes, checkpoints, log proofs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/file.h"
#include "ledger/tlog_proof.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define ORIGIN "example.com/log"

static fp__ed25519_key *log_key, *witness_key;
static fp__note_key log_vkey, witness_vkey;

static void expect_failure(const char *name, fp_status status, fp_status expected, const char *word)
{
    if (status != expected || strstr(fp_error_detail(), word) == NULL)
        fail_msg("%s: got %s \"%s\", expected %s with \"%s\"", name, fp_status_name(status),
                 fp_error_detail(), fp_status_name(expected), word);
}

static void unhex(const char *hex, uint8_t *out, size_t n)
{
    assert_int_equal(fp__hex_decode(hex, strlen(hex), out, n), FP_OK);
}

/* ---- Ed25519 ---- */

static void test_ed25519_rfc8032(void **state)
{
    (void)state;
    static const struct {
        const char *seed, *key, *message, *signature;
    } cases[] = {
        {"9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
         "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", "",
         "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25"
         "bf5f0595bbe"
         "24655141438e7a100b"},
        {"c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
         "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025", "af82",
         "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7"
         "c15e9716ed28"
         "dc027beceea1ec40a"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        uint8_t seed[32], public_key[32], message[8], expected[64], signature[64];
        size_t n = strlen(cases[i].message) / 2;
        fp__ed25519_key *key = NULL;
        unhex(cases[i].seed, seed, 32);
        unhex(cases[i].key, public_key, 32);
        unhex(cases[i].message, message, n);
        unhex(cases[i].signature, expected, 64);
        assert_int_equal(fp__ed25519_from_seed(seed, &key), FP_OK);
        assert_memory_equal(fp__ed25519_public(key), public_key, 32);
        assert_int_equal(fp__ed25519_sign(key, message, n, signature), FP_OK);
        assert_memory_equal(signature, expected, 64);
        assert_int_equal(fp__ed25519_verify(public_key, message, n, signature), FP_OK);
        for (unsigned bit = 0; bit < 512; bit += 7) {
            signature[bit / 8] ^= (uint8_t)(1u << bit % 8);
            assert_int_equal(fp__ed25519_verify(public_key, message, n, signature), FP_SIGNATURE);
            signature[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
        expect_failure("message", fp__ed25519_verify(public_key, "other", 5, signature), FP_SIGNATURE,
                       "not valid");
        fp__ed25519_free(key);
    }
}

/* All encodings of points of small order, canonical or not: y and the sign bit. */
static const char *const small_order[] = {
    "0100000000000000000000000000000000000000000000000000000000000000", /* 1: the identity */
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", /* -1: order 2 */
    "0000000000000000000000000000000000000000000000000000000000000000", /* 0: order 4 */
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05", /* order 8 */
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a", /* order 8 */
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", /* p + 1 */
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", /* p */
};

/* What OpenSSL itself says, to show that the check before it is needed. */
static int openssl_accepts(const uint8_t key[32], const uint8_t signature[64], const char *text)
{
    EVP_PKEY *pkey = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, key, 32);
    EVP_MD_CTX *md = EVP_MD_CTX_new();
    assert_int_equal(EVP_DigestVerifyInit(md, NULL, NULL, NULL, pkey), 1);
    int verdict = EVP_DigestVerify(md, signature, 64, (const uint8_t *)text, strlen(text));
    EVP_MD_CTX_free(md);
    EVP_PKEY_free(pkey);
    return verdict == 1;
}

static void test_ed25519_edges(void **state)
{
    (void)state;
    uint8_t key[32], signature[64], good[64];
    assert_int_equal(fp__ed25519_sign(log_key, "x", 1, good), FP_OK);
    for (size_t i = 0; i < COUNT(small_order); i++) {
        for (int sign = 0; sign < 2; sign++) {
            const char *reason = i >= 5 ? "canonical" : "small order";
            unhex(small_order[i], key, 32);
            key[31] |= (uint8_t)(sign << 7);
            expect_failure(small_order[i], fp__ed25519_check_public(key), FP_SIGNATURE, reason);
            expect_failure(small_order[i], fp__ed25519_verify(key, "x", 1, good), FP_SIGNATURE, "public key");
            memcpy(signature, good, 64);
            memcpy(signature, key, 32);
            expect_failure(small_order[i], fp__ed25519_verify(fp__ed25519_public(log_key), "x", 1, signature),
                           FP_SIGNATURE, reason);
        }
    }
    /* A = R = identity, S = 0 verifies any message in OpenSSL. */
    memset(signature, 0, 64);
    signature[0] = 1;
    memset(key, 0, 32);
    key[0] = 1;
    assert_true(openssl_accepts(key, signature, "any message") &&
                openssl_accepts(key, signature, "any other"));
    expect_failure("identity", fp__ed25519_verify(key, "any message", 11, signature), FP_SIGNATURE,
                   "small order");
    /* Non-canonical but not of small order: y = p + 3 … p + 18 are encodings of y = 3 … 18. */
    for (int y = 3; y <= 18; y++) {
        memset(key, 0xff, 32);
        key[0] = (uint8_t)(0xed + y);
        key[31] = 0x7f;
        expect_failure("y + p", fp__ed25519_check_public(key), FP_SIGNATURE, "canonical");
    }
    memset(key, 0, 32);
    key[0] = 3;
    assert_int_equal(fp__ed25519_check_public(key), FP_OK);

    /* S + L is the same number in the group: malleable, refused. */
    uint8_t order[32];
    unhex("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010", order, 32);
    memcpy(signature, good, 64);
    unsigned carry = 0;
    for (int i = 0; i < 32; i++) {
        carry += (unsigned)signature[32 + i] + order[i];
        signature[32 + i] = (uint8_t)carry;
        carry >>= 8;
    }
    expect_failure("S + L", fp__ed25519_verify(fp__ed25519_public(log_key), "x", 1, signature), FP_SIGNATURE,
                   "group order");
    memcpy(signature + 32, order, 32);
    expect_failure("S = L", fp__ed25519_verify(fp__ed25519_public(log_key), "x", 1, signature), FP_SIGNATURE,
                   "group order");
    memset(key, 0, 32); /* y = 2 is not on the curve */
    key[0] = 2;
    expect_failure("off the curve", fp__ed25519_verify(key, "x", 1, good), FP_SIGNATURE, "not valid");
}

static void write_text(const char *path, const char *text)
{
    unlink(path);
    assert_int_equal(fp__file_create(path, text, strlen(text), 0600), FP_OK);
}

static void test_key_files(void **state)
{
    (void)state;
    char folder[] = "/tmp/fieldprint-note-XXXXXX", path[64], public_path[64];
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/key.pem", folder);
    snprintf(public_path, sizeof public_path, "%s/key.pub", folder);
    fp__ed25519_key *made = NULL, *loaded = NULL;
    uint8_t public_key[32];
    struct stat st;
    assert_int_equal(fp__ed25519_generate(&made), FP_OK);
    assert_int_equal(fp__ed25519_store(made, path), FP_OK);
    expect_failure("twice", fp__ed25519_store(made, path), FP_EXISTS, "key.pem");
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(fp__ed25519_store_public(fp__ed25519_public(made), public_path), FP_OK);
    assert_int_equal(fp__ed25519_load(path, &loaded), FP_OK);
    assert_memory_equal(fp__ed25519_public(loaded), fp__ed25519_public(made), 32);
    assert_int_equal(fp__ed25519_load_public(public_path, public_key), FP_OK);
    assert_memory_equal(public_key, fp__ed25519_public(made), 32);
    fp__ed25519_free(loaded);
    fp__ed25519_free(made);

    expect_failure("public as private", fp__ed25519_load(public_path, &loaded), FP_FORMAT, "private key");
    expect_failure("private as public", fp__ed25519_load_public(path, public_key), FP_FORMAT, "public key");
    write_text(path, "-----BEGIN PRIVATE KEY-----\nMC4CAQ\n-----END PRIVATE KEY-----\n");
    expect_failure("truncated", fp__ed25519_load(path, &loaded), FP_FORMAT, "key.pem");
    write_text(path, "-----BEGIN PRIVATE KEY-----\n"
                     "MC4CAQAwBQYDK2VuBCIEIAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI\n"
                     "-----END PRIVATE KEY-----\n");
    expect_failure("X25519", fp__ed25519_load(path, &loaded), FP_FORMAT, "another algorithm");
    write_text(path, "-----BEGIN ENCRYPTED PRIVATE KEY-----\n"
                     "MIGbMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAhTrjHfZtpK8AICCAAw\n"
                     "-----END ENCRYPTED PRIVATE KEY-----\n");
    expect_failure("encrypted", fp__ed25519_load(path, &loaded), FP_FORMAT, "unencrypted");
    unlink(path);
    expect_failure("absent", fp__ed25519_load(path, &loaded), FP_NOT_FOUND, "key.pem");
    unlink(public_path);
    rmdir(folder);
}

/* ---- notes ---- */

static const char quasimodo[] =
    "Ognuno sta solo sul cuor della terra\ntrafitto da un raggio di sole:\n\ned è subito sera.\n\n— "
    "quasimodo.example/salvatore "
    "NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=\n";
/* The example of tlog-cosignature: the log's and a witness's signature. */
static const char sofa[] =
    "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
    "— example.com/behind-the-sofa "
    "Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n";

static void test_note_parse(void **state)
{
    (void)state;
    fp__note note;
    assert_int_equal(fp__note_parse(quasimodo, strlen(quasimodo), &note), FP_OK);
    assert_int_equal(note.signature_count, 1);
    assert_int_equal(note.signatures[0].size, 64);
    assert_int_equal(note.signatures[0].key_id, 0x367ba04b);
    assert_memory_equal(note.signatures[0].name, "quasimodo.example/salvatore", note.signatures[0].name_size);
    assert_memory_equal(note.text + note.text_size - 6, "sera.\n", 6);
    fp__note_free(&note);
    assert_int_equal(fp__note_parse(sofa, strlen(sofa), &note), FP_OK);
    fp__checkpoint checkpoint;
    assert_int_equal(fp__checkpoint_parse(note.text, note.text_size, &checkpoint), FP_OK);
    assert_int_equal(checkpoint.size, 20852163);
    fp__note_free(&note);
}

/* A corruption: `find` in the good text is replaced by `put` (once; NULL find: everything). */
typedef struct corruption {
    const char *name, *find, *put;
    fp_status expected;
    const char *word;
} corruption;

static void corrupt(const fp__buf *good, const corruption *c, fp__buf *out)
{
    out->size = 0;
    if (c->find == NULL) {
        assert_int_equal(fp__buf_append_text(out, c->put), FP_OK);
        return;
    }
    const char *text = (const char *)good->data, *at = strstr(text, c->find);
    if (at == NULL)
        fail_msg("%s: '%s' is not in the text", c->name, c->find);
    assert_int_equal(fp__buf_append(out, text, (size_t)(at - text)), FP_OK);
    assert_int_equal(fp__buf_append_text(out, c->put), FP_OK);
    assert_int_equal(fp__buf_append_text(out, at + strlen(c->find)), FP_OK);
}

static void signed_checkpoint(uint64_t size, fp__buf *out)
{
    fp__checkpoint checkpoint = {.size = size, .origin = ORIGIN};
    memset(checkpoint.root, 0x5a, 32);
    if (size == 0)
        fp__sha256(NULL, 0, checkpoint.root);
    assert_int_equal(fp__checkpoint_sign(&checkpoint, log_key, out), FP_OK);
}

static void test_note_corruptions(void **state)
{
    (void)state;
    static const corruption table[] = {
        {"empty", NULL, "", FP_FORMAT, "newline"},
        {"no newline at the end", NULL, "text\n\n— a AAAAAAAA", FP_FORMAT, "newline"},
        {"not UTF-8", "example.com", "exam\xff.com", FP_FORMAT, "UTF-8"},
        {"overlong UTF-8", "example.com", "exam\xc0\xaf.com", FP_FORMAT, "UTF-8"},
        {"surrogate", "example.com", "exam\xed\xa0\x80.com", FP_FORMAT, "UTF-8"},
        {"tab", "example.com", "exam\t.com", FP_FORMAT, "control"},
        {"carriage return", "\n42\n", "\r\n42\n", FP_FORMAT, "control"},
        {"no empty line", "\n\n", "\n", FP_FORMAT, "empty line"},
        {"no signature", NULL, "text\n\n", FP_FORMAT, "no signature"},
        {"hyphen for the dash", "—", "-", FP_FORMAT, "em dash"},
        {"no space after the dash", "— ", "—", FP_FORMAT, "em dash"},
        {"no name", "— " ORIGIN, "— ", FP_FORMAT, "name is empty"},
        {"plus in the name", "— " ORIGIN, "— a+b", FP_FORMAT, "plus"},
        {"no-break space in the name", "— " ORIGIN,
         "— a\xc2\xa0"
         "b",
         FP_FORMAT, "space"},
        {"ideographic space in the name", "— " ORIGIN,
         "— a\xe3\x80\x80"
         "b",
         FP_FORMAT, "space"},
        {"base64 without padding", "=\n\n—", "\n\n—", FP_OK, ""},
        {"signature not base64", "— " ORIGIN " ", "— " ORIGIN " !!!", FP_FORMAT, "signature line 1"},
        {"signature too short", NULL, "text\n\n— a AAAAAA==\n", FP_FORMAT, "too short"},
        {"no signature field", NULL, "text\n\n— a\n", FP_FORMAT, "no space"},
        {"empty line among signatures", NULL, "text\n\n— a AAAAAAAA\n\n", FP_FORMAT, "no signature"},
    };
    fp__buf good = {0}, bad = {0};
    signed_checkpoint(42, &good);
    for (size_t i = 0; i < COUNT(table); i++) {
        fp__note note;
        corrupt(&good, &table[i], &bad);
        fp_status status = fp__note_parse(bad.data, bad.size, &note);
        if (table[i].expected == FP_OK)
            assert_int_equal(status, FP_OK);
        else
            expect_failure(table[i].name, status, table[i].expected, table[i].word);
        fp__note_free(&note);
    }
    fp__note note;
    bad.size = 0;
    assert_int_equal(fp__buf_append_text(&bad, "text\n\n"), FP_OK);
    for (int i = 0; i < FP__NOTE_MAX_SIGNATURES; i++)
        assert_int_equal(fp__buf_append_text(&bad, "— a AAAAAAAA\n"), FP_OK);
    assert_int_equal(fp__note_parse(bad.data, bad.size, &note), FP_OK);
    fp__note_free(&note);
    assert_int_equal(fp__buf_append_text(&bad, "— a AAAAAAAA\n"), FP_OK);
    expect_failure("65 signatures", fp__note_parse(bad.data, bad.size, &note), FP_LIMIT, "signatures");
    fp__buf_free(&bad);
    assert_int_equal(fp__buf_reserve(&bad, FP__NOTE_MAX_BYTES + 1), FP_OK);
    memset(bad.data, '\n', FP__NOTE_MAX_BYTES + 1);
    expect_failure("too long", fp__note_parse(bad.data, FP__NOTE_MAX_BYTES + 1, &note), FP_LIMIT, "bytes");
    fp__buf_free(&bad);
    fp__buf_free(&good);
}

static void test_vkeys(void **state)
{
    (void)state;
    static const corruption table[] = {
        {"empty", NULL, "", FP_FORMAT, "plus"},
        {"no plus", NULL, "name", FP_FORMAT, "plus"},
        {"no name", ORIGIN, "", FP_FORMAT, "empty"},
        {"space in the name", ORIGIN, "a b", FP_FORMAT, "space"},
        {"wrong id", "+", "+0", FP_FORMAT, "key id"},
        {"another name", ORIGIN, ORIGIN "2", FP_FORMAT, "mistyped"},
        {"id not hexadecimal", NULL, "a+zzzzzzzz+AQID", FP_FORMAT, "key"},
        {"key too short", NULL, "a+00000000+AQID", FP_FORMAT, "3 bytes"},
        {"no key", NULL, "a+00000000+", FP_FORMAT, "0 bytes"},
        {"another type", NULL, "a+00000000+Ag==", FP_UNSUPPORTED, "0x02"},
        {"small-order key", NULL, "a+00000000+AQEAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", FP_SIGNATURE,
         "small order"},
    };
    fp__buf good = {0}, bad = {0};
    fp__note_key key;
    assert_int_equal(fp__note_key_format(&log_vkey, &good), FP_OK);
    assert_int_equal(fp__note_key_parse((char *)good.data, good.size, &key), FP_OK);
    assert_memory_equal(&key, &log_vkey, sizeof key);
    for (size_t i = 0; i < COUNT(table); i++) {
        corrupt(&good, &table[i], &bad);
        expect_failure(table[i].name, fp__note_key_parse((char *)bad.data, bad.size, &key), table[i].expected,
                       table[i].word);
    }
    expect_failure("newline after it", fp__note_key_parse((char *)good.data, good.size + 1, &key), FP_FORMAT,
                   "");
    /* Another implementation's key (golang.org/x/mod/sumdb/note, its documentation). */
    static const char go_key[] = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    static const char go_note[] =
        "If you think cryptography is the answer to your problem,\n"
        "then you don't know what your problem is.\n\n— PeterNeumann "
        "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBw"
        "JnAM=\n";
    fp__note note;
    assert_int_equal(fp__note_key_parse(go_key, strlen(go_key), &key), FP_OK);
    assert_int_equal(fp__note_parse(go_note, strlen(go_note), &note), FP_OK);
    assert_int_equal(fp__note_verify(&note, &key, 1, NULL), FP_OK);
    fp__note_free(&note);
    fp__buf_free(&good);
    fp__buf_free(&bad);
}

static fp_status verify_text(const fp__buf *text, const fp__note_key *keys, size_t count,
                             fp__note_verdict *verdicts)
{
    fp__note note;
    FP_TRY(fp__note_parse(text->data, text->size, &note));
    fp_status status = fp__note_verify(&note, keys, count, verdicts);
    fp__note_free(&note);
    return status;
}

static void test_note_verify(void **state)
{
    (void)state;
    fp__buf text = {0}, cosigned = {0};
    fp__note_key keys[] = {log_vkey, witness_vkey};
    fp__note_verdict verdicts[2];
    signed_checkpoint(42, &text);
    size_t body = (size_t)(strstr((char *)text.data, "\n\n") + 1 - (char *)text.data);
    assert_int_equal(fp__buf_append(&cosigned, text.data, text.size), FP_OK);
    assert_int_equal(
        fp__note_cosign(text.data, body, "witness.example/w", witness_key, 1700000000, &cosigned), FP_OK);

    assert_int_equal(verify_text(&text, keys, 2, verdicts), FP_OK);
    assert_true(verdicts[0].valid && !verdicts[1].valid);
    assert_int_equal(verify_text(&cosigned, keys, 2, verdicts), FP_OK);
    assert_true(verdicts[0].valid && verdicts[1].valid && verdicts[1].timestamp == 1700000000);
    assert_int_equal(verify_text(&cosigned, keys, 1, verdicts), FP_OK); /* an unknown signature is ignored */
    expect_failure("unknown key", verify_text(&text, &witness_vkey, 1, NULL), FP_SIGNATURE,
                   "no signature of a key");
    expect_failure("no keys", verify_text(&text, NULL, 0, NULL), FP_SIGNATURE, "no signature of a key");

    for (size_t i = 0; i < body; i++) { /* any byte of the text */
        if (cosigned.data[i] == '\n')
            continue;
        cosigned.data[i] ^= 0x01;
        fp_status status = verify_text(&cosigned, keys, 2, NULL);
        assert_true(status == FP_SIGNATURE || status == FP_FORMAT);
        cosigned.data[i] ^= 0x01;
    }
    fp__checkpoint checkpoint;
    assert_int_equal(
        fp__checkpoint_open(cosigned.data, cosigned.size, ORIGIN, keys, 2, verdicts, &checkpoint), FP_OK);
    assert_int_equal(checkpoint.size, 42);
    expect_failure(
        "origin",
        fp__checkpoint_open(cosigned.data, cosigned.size, "example.com/other", keys, 2, NULL, &checkpoint),
        FP_MISMATCH, "example.com/other");
    fp__note_key swapped[] = {witness_vkey, log_vkey};
    expect_failure("the log did not sign",
                   fp__checkpoint_open(text.data, text.size, ORIGIN, swapped, 2, NULL, &checkpoint),
                   FP_SIGNATURE, "not signed by the log's key");
    /* A cosignature under another time is another message. */
    char *line = strstr((char *)cosigned.data, "witness.example/w ") + strlen("witness.example/w ");
    line[8] = line[8] == 'A' ? 'B' : 'A';
    expect_failure("time", verify_text(&cosigned, keys, 2, NULL), FP_SIGNATURE, "witness.example/w");
    fp__buf_free(&text);
    fp__buf_free(&cosigned);
}

/* ---- checkpoints ---- */

static void test_checkpoint_corruptions(void **state)
{
    (void)state;
    static const char root[] = "WlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlo=";
    static const corruption table[] = {
        {"two lines", NULL, ORIGIN "\n42\n", FP_FORMAT, "three lines"},
        {"no newline at the end", NULL, ORIGIN "\n42\nWlpa", FP_FORMAT, "newline"},
        {"no origin", ORIGIN, "", FP_FORMAT, "origin"},
        {"size with a leading zero", "\n42\n", "\n042\n", FP_FORMAT, "leading zero"},
        {"size with a sign", "\n42\n", "\n+42\n", FP_FORMAT, "decimal"},
        {"negative size", "\n42\n", "\n-1\n", FP_FORMAT, "decimal"},
        {"hexadecimal size", "\n42\n", "\n0x2\n", FP_FORMAT, "leading zero"},
        {"no size", "\n42\n", "\n\n", FP_FORMAT, "tree size (line 2) is empty"},
        {"size 2^63", "\n42\n", "\n9223372036854775808\n", FP_FORMAT, "2^63"},
        {"size beyond 2^64", "\n42\n", "\n99999999999999999999999\n", FP_FORMAT, "2^63"},
        {"size 0 with a root", "\n42\n", "\n0\n", FP_FORMAT, "empty tree"},
        {"root of 31 bytes", root, "WlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWg==", FP_FORMAT, "31 bytes"},
        {"root in another base64", root, "WlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWl_=", FP_FORMAT,
         "root hash"},
        {"root with loose bits", root, "WlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlp=", FP_FORMAT,
         "root hash"},
        {"root followed by a space", "Wlo=", "Wlo= ", FP_FORMAT, "root hash"},
        {"empty extension line", "Wlo=\n", "Wlo=\nmore\n\nlines\n", FP_FORMAT, "extension"},
        {"control character", "Wlo=\n", "Wlo=\nmo\x01re\n", FP_FORMAT, "control"},
    };
    fp__buf good = {0}, bad = {0};
    fp__checkpoint checkpoint = {.size = 42, .origin = ORIGIN, .extensions = "a\nb\n", .extensions_size = 4},
                   parsed;
    memset(checkpoint.root, 0x5a, 32);
    assert_int_equal(fp__checkpoint_format(&checkpoint, &good), FP_OK);
    assert_string_equal((char *)good.data,
                        ORIGIN "\n42\nWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlo=\na\nb\n");
    assert_int_equal(fp__checkpoint_parse(good.data, good.size, &parsed), FP_OK);
    assert_string_equal(parsed.origin, ORIGIN);
    assert_int_equal(parsed.size, 42);
    assert_memory_equal(parsed.root, checkpoint.root, 32);
    assert_int_equal(parsed.extensions_size, 4);
    assert_memory_equal(parsed.extensions, "a\nb\n", 4);
    for (size_t i = 0; i < COUNT(table); i++) {
        corrupt(&good, &table[i], &bad);
        expect_failure(table[i].name, fp__checkpoint_parse(bad.data, bad.size, &parsed), table[i].expected,
                       table[i].word);
    }
    bad.size = 0;
    for (int i = 0; i < 256; i++)
        assert_int_equal(fp__buf_append_text(&bad, "o"), FP_OK);
    assert_int_equal(fp__buf_printf(&bad, "\n42\n%s\n", root), FP_OK);
    expect_failure("long origin", fp__checkpoint_parse(bad.data, bad.size, &parsed), FP_FORMAT, "origin");
    fp__buf_free(&good);
    fp__buf_free(&bad);
}

/* ---- log proofs ---- */

static uint8_t proof_leaves[13][32];

/* The proof of entry 5 of 13, with extra data "hi". */
static void make_proof(fp__buf *out)
{
    fp__merkle_array array = {proof_leaves[0], 13};
    fp__checkpoint checkpoint = {.size = 13, .origin = ORIGIN};
    fp__merkle_proof path;
    fp__buf note = {0};
    fp__merkle_root(proof_leaves[0], 13, checkpoint.root);
    assert_int_equal(fp__checkpoint_sign(&checkpoint, log_key, &note), FP_OK);
    assert_int_equal(fp__merkle_inclusion(fp__merkle_read_array, &array, 5, 13, &path), FP_OK);
    assert_int_equal(fp__tlog_proof_format(5, &path, "hi", 2, note.data, note.size, out), FP_OK);
    fp__buf_free(&note);
}

static fp_status check_proof(const fp__buf *text, const uint8_t *leaf, fp__checkpoint *out)
{
    fp__tlog_proof proof;
    FP_TRY(fp__tlog_proof_parse(text->data, text->size, &proof));
    fp_status status = fp__tlog_proof_verify(&proof, leaf, ORIGIN, &log_vkey, 1, NULL, out);
    fp__tlog_proof_free(&proof);
    return status;
}

static void test_tlog_proof(void **state)
{
    (void)state;
    static const corruption table[] = {
        {"another header", "proof@v1", "proof@v2", FP_FORMAT, "first line"},
        {"only the header", NULL, "c2sp.org/tlog-proof@v1\n", FP_FORMAT, "ends before the index"},
        {"extra is not base64", "extra aGk=", "extra a", FP_FORMAT, "extra data"},
        {"extra twice", "index 5", "extra aGk=\nindex 5", FP_FORMAT, "no line 'index'"},
        {"no index", "index 5\n", "", FP_FORMAT, "no line 'index'"},
        {"index with a leading zero", "index 5", "index 05", FP_FORMAT, "leading zero"},
        {"index of letters", "index 5", "index five", FP_FORMAT, "decimal"},
        {"another index", "index 5", "index 4", FP_MISMATCH, "does not lead"},
        {"index beyond the tree", "index 5", "index 13", FP_INVALID, "cannot be in"},
        {"a hash too many", "index 5\n", "index 5\nWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlpaWlo=\n",
         FP_INVALID, "must have 4"},
        {"a short hash", "index 5\n", "index 5\nWlpa\n", FP_FORMAT, "hash 1"},
        {"no empty line", "\n\n" ORIGIN, "\n" ORIGIN, FP_FORMAT, "hash 5"},
        {"another size", "\n13\n", "\n14\n", FP_SIGNATURE, "not valid"},
        {"another log", "\n\n" ORIGIN, "\n\nexample.com/other", FP_SIGNATURE, "not valid"},
        {"no checkpoint", NULL, "c2sp.org/tlog-proof@v1\nindex 0\n\n", FP_FORMAT, "before the checkpoint"},
        {"nothing after the hashes", NULL, "c2sp.org/tlog-proof@v1\nindex 0\n", FP_FORMAT,
         "before the empty line"},
    };
    fp__buf good = {0}, bad = {0};
    fp__checkpoint checkpoint;
    make_proof(&good);
    assert_int_equal(check_proof(&good, proof_leaves[5], &checkpoint), FP_OK);
    assert_int_equal(checkpoint.size, 13);
    fp__tlog_proof proof;
    assert_int_equal(fp__tlog_proof_parse(good.data, good.size, &proof), FP_OK);
    assert_true(proof.has_extra && proof.extra.size == 2 && memcmp(proof.extra.data, "hi", 2) == 0);
    assert_int_equal(fp__tlog_proof_format(5, &proof.path, "hi", 2, proof.note, proof.note_size, &bad),
                     FP_OK);
    assert_int_equal(bad.size, good.size);
    assert_memory_equal(bad.data, good.data, good.size);
    fp__tlog_proof_free(&proof);
    expect_failure("another entry", check_proof(&good, proof_leaves[6], NULL), FP_MISMATCH, "does not lead");
    for (size_t i = 0; i < COUNT(table); i++) {
        corrupt(&good, &table[i], &bad);
        expect_failure(table[i].name, check_proof(&bad, proof_leaves[5], NULL), table[i].expected,
                       table[i].word);
    }
    fp__buf_free(&bad);
    assert_int_equal(fp__buf_reserve(&bad, FP__TLOG_PROOF_MAX_BYTES + 1), FP_OK);
    memset(bad.data, 'a', FP__TLOG_PROOF_MAX_BYTES + 1);
    bad.size = FP__TLOG_PROOF_MAX_BYTES + 1;
    expect_failure("too long", check_proof(&bad, proof_leaves[5], NULL), FP_LIMIT, "bytes");
    fp__buf_free(&good);
    fp__buf_free(&bad);
}

/* Examples of every text format in FIELDPRINT_WRITE_CORPUS/<parser>/valid: how the corpora of fuzz/ were
 * started. */
static void write_corpus(const char *folder)
{
    fp__buf text = {0}, path = {0};
    static const char *const names[] = {"note", "checkpoint", "tlog_proof"};
    for (size_t i = 0; i < COUNT(names); i++) {
        text.size = path.size = 0;
        if (i < 2)
            signed_checkpoint(42, &text);
        else
            make_proof(&text);
        const char *blank = strstr((char *)text.data, "\n\n");
        size_t body = (size_t)(blank + 1 - (char *)text.data);
        if (i == 0)
            assert_int_equal(fp__note_cosign(text.data, body, "witness.example/w", witness_key, 1, &text),
                             FP_OK);
        if (i == 1)
            text.size = body;
        assert_int_equal(fp__buf_printf(&path, "%s/%s", folder, names[i]), FP_OK);
        assert_int_equal(fp__dir_make((char *)path.data), FP_OK);
        assert_int_equal(fp__buf_append_text(&path, "/valid"), FP_OK);
        assert_int_equal(fp__file_write((char *)path.data, text.data, text.size, 0644), FP_OK);
    }
    fp__buf_free(&text);
    fp__buf_free(&path);
}

static int set_up(void **state)
{
    (void)state;
    uint8_t seed[32];
    memset(seed, 1, 32);
    assert_int_equal(fp__ed25519_from_seed(seed, &log_key), FP_OK);
    memset(seed, 2, 32);
    assert_int_equal(fp__ed25519_from_seed(seed, &witness_key), FP_OK);
    assert_int_equal(fp__note_key_make(ORIGIN, FP__NOTE_ED25519, fp__ed25519_public(log_key), &log_vkey),
                     FP_OK);
    assert_int_equal(fp__note_key_make("witness.example/w", FP__NOTE_COSIGNATURE,
                                       fp__ed25519_public(witness_key), &witness_vkey),
                     FP_OK);
    for (uint8_t i = 0; i < 13; i++)
        fp__merkle_leaf(&i, 1, proof_leaves[i]);
    if (getenv("FIELDPRINT_WRITE_CORPUS") != NULL)
        write_corpus(getenv("FIELDPRINT_WRITE_CORPUS"));
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    fp__ed25519_free(log_key);
    fp__ed25519_free(witness_key);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ed25519_rfc8032),  cmocka_unit_test(test_ed25519_edges),
        cmocka_unit_test(test_key_files),        cmocka_unit_test(test_note_parse),
        cmocka_unit_test(test_note_corruptions), cmocka_unit_test(test_vkeys),
        cmocka_unit_test(test_note_verify),      cmocka_unit_test(test_checkpoint_corruptions),
        cmocka_unit_test(test_tlog_proof),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
