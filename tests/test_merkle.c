/* merkle: SHA-256, RFC 6962 trees and proofs. Other people's vectors (shared/vectors/merkle) where they are
 * at hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/bytes.h"
#include "core/file.h"
#include "merkle/tree.h"

#include <dirent.h>
#include <jansson.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#define LEAVES 300

static uint8_t leaves[LEAVES][32];

static void expect_failure(fp_status status, fp_status expected, const char *word)
{
    if (status != expected || strstr(fp_error_detail(), word) == NULL)
        fail_msg("got %s \"%s\", expected %s with \"%s\"", fp_status_name(status), fp_error_detail(),
                 fp_status_name(expected), word);
}

static void expect_hex(const uint8_t hash[32], const char *hex)
{
    char text[65];
    fp__hex_encode(hash, 32, text);
    assert_string_equal(text, hex);
}

/* ---- SHA-256 ---- */

static void test_sha256(void **state)
{
    (void)state;
    uint8_t out[32];
    fp__sha256(NULL, 0, out);
    expect_hex(out, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    fp__sha256("abc", 3, out);
    expect_hex(out, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    fp__part parts[] = {{"a", 1}, {NULL, 0}, {"bc", 2}};
    fp__sha256_parts(parts, 3, out);
    expect_hex(out, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");

    uint8_t million[1000], streamed[32];
    memset(million, 'a', sizeof million);
    fp__sha256_ctx ctx = {0};
    for (int round = 0; round < 2; round++) { /* a context is used again */
        fp__sha256_init(&ctx);
        fp__sha256_update(&ctx, "left over", 9);
        fp__sha256_init(&ctx);
        for (int i = 0; i < 1000; i++)
            fp__sha256_update(&ctx, million, sizeof million);
        fp__sha256_final(&ctx, streamed);
        expect_hex(streamed, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    }
    fp__sha256_free(&ctx);
    fp__sha256_free(&ctx);
}

static void test_hmac(void **state)
{
    (void)state;
    uint8_t key[131], out[32];
    memset(key, 0x0b, 20); /* RFC 4231, cases 1, 2 and 6 */
    fp__hmac_sha256(key, 20, "Hi There", 8, out);
    expect_hex(out, "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
    fp__hmac_sha256("Jefe", 4, "what do ya want for nothing?", 28, out);
    expect_hex(out, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    memset(key, 0xaa, 131);
    fp__hmac_sha256(key, 131, "Test Using Larger Than Block-Size Key - Hash Key First", 54, out);
    expect_hex(out, "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54");
    fp__hmac_sha256(NULL, 0, NULL, 0, out);
    expect_hex(out, "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad");
}

static void *hash_many(void *arg)
{
    uint8_t *out = arg;
    for (int i = 0; i < 2000; i++)
        fp__sha256("abc", 3, out);
    return NULL;
}

static void test_threads(void **state)
{
    (void)state;
    pthread_t threads[4];
    uint8_t out[4][32];
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, hash_many, out[i]), 0);
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        expect_hex(out[i], "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}

/* ---- trees: against the recursive definition ---- */

/* MTH(D[n]), RFC 6962 §2.1, word for word. */
static void define_root(const uint8_t (*d)[32], size_t n, uint8_t out[32])
{
    uint8_t left[32], right[32];
    size_t k = 1;
    if (n == 1) {
        memcpy(out, d[0], 32);
        return;
    }
    while (k * 2 < n)
        k *= 2;
    define_root(d, k, left);
    define_root(d + k, n - k, right);
    fp__merkle_node(left, right, out);
}

static void test_roots(void **state)
{
    (void)state;
    /* Certificate Transparency's reference leaves and roots. */
    static const char *const inputs[] = {
        "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
    };
    static const char *const roots[] = {
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    };
    fp__merkle_frontier f = {0};
    uint8_t root[32], leaf[32], data[16];
    for (size_t i = 0; i <= 8; i++) {
        fp__merkle_frontier_root(&f, root);
        expect_hex(root, roots[i]);
        if (i == 8)
            break;
        size_t n = strlen(inputs[i]) / 2;
        assert_int_equal(fp__hex_decode(inputs[i], n * 2, data, n), FP_OK);
        fp__merkle_leaf(data, n, leaf);
        fp__merkle_frontier_append(&f, leaf);
    }
    f.size = 0;
    for (size_t n = 1; n <= LEAVES; n++) {
        uint8_t expected[32];
        define_root((const uint8_t(*)[32])leaves, n, expected);
        fp__merkle_root(leaves[0], n, root);
        assert_memory_equal(root, expected, 32);
        fp__merkle_frontier_append(&f, leaves[n - 1]);
        fp__merkle_frontier_root(&f, root);
        assert_memory_equal(root, expected, 32);
        fp__merkle_array array = {leaves[0], LEAVES};
        assert_int_equal(fp__merkle_root_at(fp__merkle_read_array, &array, n, root), FP_OK);
        assert_memory_equal(root, expected, 32);
    }
}

/* ---- proofs ---- */

static void check_inclusion(uint64_t index, uint64_t size, const uint8_t root[32], bool damage)
{
    fp__merkle_array array = {leaves[0], size};
    fp__merkle_proof proof;
    assert_int_equal(fp__merkle_inclusion(fp__merkle_read_array, &array, index, size, &proof), FP_OK);
    const uint8_t *p = proof.hashes[0];
    assert_int_equal(fp__merkle_verify_inclusion(leaves[index], index, size, p, proof.count, root), FP_OK);
    if (!damage)
        return;
    expect_failure(fp__merkle_verify_inclusion(leaves[index], index, size, p, proof.count + 1, root),
                   FP_INVALID, "must have");
    if (proof.count > 0)
        expect_failure(fp__merkle_verify_inclusion(leaves[index], index, size, p, proof.count - 1, root),
                       FP_INVALID, "must have");
    for (size_t i = 0; i < proof.count; i++) {
        proof.hashes[i][index % 32] ^= 0x10;
        expect_failure(fp__merkle_verify_inclusion(leaves[index], index, size, p, proof.count, root),
                       FP_MISMATCH, "does not lead");
        proof.hashes[i][index % 32] ^= 0x10;
    }
    uint8_t other[32];
    memcpy(other, leaves[index], 32);
    other[31] ^= 1;
    expect_failure(fp__merkle_verify_inclusion(other, index, size, p, proof.count, root), FP_MISMATCH,
                   "does not lead");
    memcpy(other, root, 32);
    other[0] ^= 0x80;
    expect_failure(fp__merkle_verify_inclusion(leaves[index], index, size, p, proof.count, other),
                   FP_MISMATCH, "does not lead");
    if (size > 1)
        assert_int_not_equal(
            fp__merkle_verify_inclusion(leaves[index], (index + 1) % size, size, p, proof.count, root),
            FP_OK);
}

static void test_inclusion(void **state)
{
    (void)state;
    for (uint64_t size = 1; size <= LEAVES; size += size < 70 ? 1 : 23) {
        uint8_t root[32];
        fp__merkle_root(leaves[0], size, root);
        for (uint64_t index = 0; index < size; index++)
            check_inclusion(index, size, root, size < 40);
    }
    fp__merkle_array array = {leaves[0], 5};
    fp__merkle_proof proof;
    expect_failure(fp__merkle_inclusion(fp__merkle_read_array, &array, 5, 5, &proof), FP_USAGE,
                   "no inclusion proof");
    expect_failure(fp__merkle_inclusion(fp__merkle_read_array, &array, 0, 6, &proof), FP_USAGE,
                   "not in a tree");
    expect_failure(fp__merkle_verify_inclusion(leaves[0], 0, 0, leaves[0], 0, leaves[0]), FP_INVALID,
                   "cannot be in");
    expect_failure(fp__merkle_verify_inclusion(leaves[0], 7, 7, leaves[0], 3, leaves[0]), FP_INVALID,
                   "cannot be in");
    expect_failure(fp__merkle_verify_inclusion(leaves[0], 0, UINT64_MAX, leaves[0], 64, leaves[0]),
                   FP_INVALID, "cannot be in");
    expect_failure(fp__merkle_verify_inclusion(leaves[0], 0, FP__MERKLE_SIZE_MAX, leaves[0], 63, leaves[0]),
                   FP_MISMATCH, "does not lead"); /* the longest path there is */
}

static void check_consistency(uint64_t m, uint64_t n)
{
    fp__merkle_array array = {leaves[0], n};
    fp__merkle_proof proof;
    uint8_t old_root[32], new_root[32];
    fp__merkle_root(leaves[0], m, old_root);
    fp__merkle_root(leaves[0], n, new_root);
    assert_int_equal(fp__merkle_consistency(fp__merkle_read_array, &array, m, n, &proof), FP_OK);
    const uint8_t *p = proof.hashes[0];
    assert_int_equal(fp__merkle_verify_consistency(m, old_root, n, new_root, p, proof.count), FP_OK);
    if (n > 40)
        return;
    expect_failure(fp__merkle_verify_consistency(m, old_root, n, new_root, p, proof.count + 1), FP_INVALID,
                   "must have");
    if (proof.count != 0)
        expect_failure(fp__merkle_verify_consistency(m, old_root, n, new_root, p, proof.count - 1),
                       FP_INVALID, "must have");
    for (size_t i = 0; i < proof.count; i++) {
        proof.hashes[i][n % 32] ^= 0x02;
        expect_failure(fp__merkle_verify_consistency(m, old_root, n, new_root, p, proof.count), FP_MISMATCH,
                       "does not lead");
        proof.hashes[i][n % 32] ^= 0x02;
    }
    old_root[5] ^= 0x40;
    expect_failure(fp__merkle_verify_consistency(m, old_root, n, new_root, p, proof.count), FP_MISMATCH,
                   "does not lead");
    old_root[5] ^= 0x40;
    new_root[6] ^= 0x20;
    expect_failure(fp__merkle_verify_consistency(m, old_root, n, new_root, p, proof.count), FP_MISMATCH,
                   "new");
}

static void test_consistency(void **state)
{
    (void)state;
    for (uint64_t n = 1; n <= LEAVES; n += n < 70 ? 1 : 23)
        for (uint64_t m = 1; m <= n; m++)
            check_consistency(m, n);
    fp__merkle_array array = {leaves[0], 5};
    fp__merkle_proof proof;
    expect_failure(fp__merkle_consistency(fp__merkle_read_array, &array, 0, 5, &proof), FP_USAGE,
                   "no consistency");
    expect_failure(fp__merkle_consistency(fp__merkle_read_array, &array, 6, 5, &proof), FP_USAGE,
                   "no consistency");
    expect_failure(fp__merkle_verify_consistency(0, leaves[0], 0, leaves[0], NULL, 0), FP_INVALID,
                   "cannot be shown");
    expect_failure(fp__merkle_verify_consistency(3, leaves[0], 2, leaves[0], NULL, 0), FP_INVALID,
                   "cannot be shown");
}

static fp_status failing_read(void *arg, unsigned level, uint64_t index, uint8_t out[32])
{
    (void)arg, (void)level, (void)index, (void)out;
    return fp__fail(FP_IO, "no such tile");
}

static void test_source_failure(void **state)
{
    (void)state;
    fp__merkle_proof proof;
    uint8_t root[32];
    expect_failure(fp__merkle_inclusion(failing_read, NULL, 0, 9, &proof), FP_IO, "no such tile");
    expect_failure(fp__merkle_consistency(failing_read, NULL, 3, 9, &proof), FP_IO, "no such tile");
    expect_failure(fp__merkle_root_at(failing_read, NULL, 9, root), FP_IO, "no such tile");
}

/* Every subtree of every tree of up to 40 leaves: its proof holds, and not one bit of it may change. */
static void test_subtrees(void **state)
{
    (void)state;
    size_t tried = 0;
    for (uint64_t size = 1; size <= 40; size++) {
        fp__merkle_array array = {leaves[0], size};
        uint8_t root[32];
        fp__merkle_root(leaves[0], size, root);
        for (uint64_t begin = 0; begin < size; begin++) {
            for (uint64_t end = begin + 1; end <= size; end++) {
                fp__merkle_proof proof;
                uint8_t part[32];
                fp_status status =
                    fp__merkle_subtree_consistency(fp__merkle_read_array, &array, begin, end, size, &proof);
                if (status != FP_OK) {
                    expect_failure(status, FP_USAGE, "not a subtree");
                    continue;
                }
                tried++;
                fp__merkle_root(leaves[begin], end - begin, part);
                assert_int_equal(fp__merkle_verify_subtree_consistency(begin, end, part, size, root,
                                                                       proof.hashes[0], proof.count),
                                 FP_OK);
                for (size_t i = 0; i < proof.count; i++) {
                    proof.hashes[i][i % 32] ^= 8;
                    assert_int_equal(fp__merkle_verify_subtree_consistency(begin, end, part, size, root,
                                                                           proof.hashes[0], proof.count),
                                     FP_MISMATCH);
                    proof.hashes[i][i % 32] ^= 8;
                }
                if (proof.count != 0)
                    expect_failure(fp__merkle_verify_subtree_consistency(begin, end, part, size, root,
                                                                         proof.hashes[0], proof.count - 1),
                                   FP_INVALID, "");
                part[3] ^= 1;
                assert_int_equal(fp__merkle_verify_subtree_consistency(begin, end, part, size, root,
                                                                       proof.hashes[0], proof.count),
                                 FP_MISMATCH);
            }
        }
    }
    assert_true(tried > 2000);
}

/* ---- other people's vectors ---- */

static const char *shared_folder(void)
{
    const char *named = getenv("FIELDPRINT_SHARED");
    struct stat st;
    if (named != NULL)
        return named;
    if (stat("../shared/vectors", &st) == 0)
        return "../shared";
    return stat("../../shared/vectors", &st) == 0 ? "../../shared" : NULL;
}

/* False unless it is base64 of 1 to 32 bytes; the vectors' "don't care" texts are shorter than a hash and are
 * padded. */
static bool decode_hash(json_t *text, bool pad, uint8_t out[32])
{
    fp__buf bytes = {0};
    memset(out, 0, 32);
    bool ok = json_is_string(text) &&
              fp__base64_decode(json_string_value(text), json_string_length(text), &bytes) == FP_OK &&
              (bytes.size == 32 || (pad && bytes.size < 32));
    if (ok && bytes.size != 0)
        memcpy(out, bytes.data, bytes.size);
    fp__buf_free(&bytes);
    return ok;
}

/* Some vectors have sizes beyond 2^63, which jansson reads as real numbers only. */
static uint64_t size_of(json_t *v, const char *name)
{
    double real = json_number_value(json_object_get(v, name));
    return real >= 0x1p64 ? UINT64_MAX : (uint64_t)real;
}

static bool vector_holds(json_t *v, bool inclusion, bool subtree)
{
    static uint8_t hashes[FP__MERKLE_PROOF_MAX * 2][32];
    json_t *proof = json_object_get(v, "proof");
    size_t count = json_array_size(proof); /* 0 for null */
    uint8_t a[32], b[32];
    assert_true(count <= FP__MERKLE_PROOF_MAX * 2);
    for (size_t i = 0; i < count; i++)
        if (!decode_hash(json_array_get(proof, i), false, hashes[i]))
            return false;
    if (!decode_hash(json_object_get(v, inclusion ? "leafHash" : "root1"), !inclusion, a) ||
        !decode_hash(json_object_get(v, inclusion ? "root" : "root2"), !inclusion, b))
        return false;
    if (subtree) {
        uint64_t begin = size_of(v, "start"), end = size_of(v, "end");
        return inclusion ? fp__merkle_verify_subtree_inclusion(a, size_of(v, "leafIdx"), begin, end,
                                                               hashes[0], count, b) == FP_OK
                         : fp__merkle_verify_subtree_consistency(begin, end, a, size_of(v, "size"), b,
                                                                 hashes[0], count) == FP_OK;
    }
    uint64_t first = size_of(v, inclusion ? "leafIdx" : "size1");
    uint64_t second = size_of(v, inclusion ? "treeSize" : "size2");
    return inclusion ? fp__merkle_verify_inclusion(a, first, second, hashes[0], count, b) == FP_OK
                     : fp__merkle_verify_consistency(first, a, second, b, hashes[0], count) == FP_OK;
}

static void walk_vectors(const char *path, bool inclusion, bool subtree, size_t *good, size_t *bad)
{
    DIR *folder = opendir(path);
    assert_non_null(folder);
    for (struct dirent *item = readdir(folder); item != NULL; item = readdir(folder)) {
        char child[1024];
        struct stat st;
        if (item->d_name[0] == '.')
            continue;
        snprintf(child, sizeof child, "%s/%s", path, item->d_name);
        assert_int_equal(stat(child, &st), 0);
        if (S_ISDIR(st.st_mode)) {
            walk_vectors(child, inclusion, subtree, good, bad);
            continue;
        }
        json_t *v = json_load_file(child, JSON_DECODE_INT_AS_REAL, NULL);
        assert_non_null(v);
        bool expected = !json_is_true(json_object_get(v, "wantErr"));
        if (vector_holds(v, inclusion, subtree) != expected)
            fail_msg("%s: expected %s", child, expected ? "valid" : "an error");
        *(expected ? good : bad) += 1;
        json_decref(v);
    }
    closedir(folder);
}

static void test_vectors(void **state)
{
    (void)state;
    const char *shared = shared_folder();
    if (shared == NULL) {
        print_message("skipped: no ../shared/vectors here (set FIELDPRINT_SHARED)\n");
        skip();
    }
    char path[512];
    size_t good = 0, bad = 0;
    snprintf(path, sizeof path, "%s/vectors/merkle/inclusion", shared);
    walk_vectors(path, true, false, &good, &bad);
    assert_true(good >= 6 && bad >= 92);
    good = bad = 0;
    snprintf(path, sizeof path, "%s/vectors/merkle/consistency", shared);
    walk_vectors(path, false, false, &good, &bad);
    assert_true(good >= 6 && bad >= 92);
    good = bad = 0;
    snprintf(path, sizeof path, "%s/vectors/merkle/subtreeinclusion", shared);
    walk_vectors(path, true, true, &good, &bad);
    snprintf(path, sizeof path, "%s/vectors/merkle/subtreeconsistency", shared);
    walk_vectors(path, false, true, &good, &bad);
    assert_true(good >= 12 && good + bad >= 320);
}

int main(void)
{
    for (uint32_t i = 0; i < LEAVES; i++)
        fp__merkle_leaf(&i, sizeof i, leaves[i]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sha256),         cmocka_unit_test(test_hmac),
        cmocka_unit_test(test_threads),        cmocka_unit_test(test_roots),
        cmocka_unit_test(test_inclusion),      cmocka_unit_test(test_consistency),
        cmocka_unit_test(test_source_failure), cmocka_unit_test(test_subtrees),
        cmocka_unit_test(test_vectors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
