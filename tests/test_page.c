/* The KV page: hash layouts against vectors/hash_layouts.json (made by an independent program), offsets, slot
 * operations, write-time checksums. */
#include "kv_fixture.h"

#include <jansson.h>

/* ---- vectors ---- */

static size_t unhex(const json_t *object, const char *key, uint8_t *out, size_t max)
{
    const char *text = json_string_value(json_object_get(object, key));
    assert_non_null(text);
    size_t n = strlen(text) / 2;
    assert_true(n <= max);
    KV_OK(fp__hex_decode(text, strlen(text), out, n));
    return n;
}

static uint64_t number(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    assert_true(json_is_integer(value));
    return (uint64_t)json_integer_value(value);
}

static void assert_hash(const json_t *object, const char *key, const uint8_t got[32])
{
    uint8_t want[32];
    assert_int_equal(unhex(object, key, want, 32), 32);
    assert_memory_equal(got, want, 32);
}

static size_t read_ids(const json_t *object, uint32_t *out, size_t max)
{
    const json_t *list = json_object_get(object, "ids");
    size_t n = json_array_size(list);
    assert_true(n <= max);
    for (size_t i = 0; i < n; i++)
        out[i] = (uint32_t)json_integer_value(json_array_get(list, i));
    return n;
}

static fp__page_geometry read_geometry(const json_t *v)
{
    fp__page_geometry g = {
        .layers = number(v, "layers"), .kv_heads = number(v, "kv_heads"), .d = number(v, "d")};
    assert_int_equal(unhex(v, "model", g.model, 32), 32);
    return g;
}

static uint8_t scratch[64 * 1024], got[32], hash[2][32];

static void check_slab(const json_t *v)
{
    fp__page_geometry g = read_geometry(v);
    assert_int_equal(unhex(v, "slab", scratch, sizeof scratch), fp__slab_bytes(g.d));
    fp__leaf_slab(&g, number(v, "layer"), number(v, "head"), scratch, got);
    assert_hash(v, "leaf", got);
}

static void check_group(const json_t *v)
{
    fp__page_geometry g = read_geometry(v);
    uint8_t leaves[32 * 8];
    assert_int_equal(unhex(v, "group", scratch, sizeof scratch), fp__page_group_bytes(&g));
    fp__leaf_group(&g, scratch, leaves, got);
    assert_hash(v, "root", got);
}

static void check_page(const json_t *v)
{
    uint32_t ids[64];
    size_t n = read_ids(v, ids, 64);
    unhex(v, "anchor_kv_head", hash[0], 32);
    unhex(v, "group_root", hash[1], 32);
    fp__page_leaf leaf = {.page = number(v, "page"),
                          .first_pos = number(v, "first_pos"),
                          .segment = (uint8_t)number(v, "segment"),
                          .open = (uint8_t)number(v, "open"),
                          .label = (uint8_t)number(v, "label"),
                          .visible = (uint8_t)n,
                          .anchor_kv_head = hash[0],
                          .group_root = hash[1],
                          .ids = ids};
    fp__leaf_page(&leaf, got);
    assert_hash(v, "leaf", got);
    static const uint8_t zero[32];
    if (memcmp(hash[0], zero, 32) == 0) {
        leaf.anchor_kv_head = NULL;
        fp__leaf_page(&leaf, got);
        assert_hash(v, "leaf", got);
    }
}

static void check_head(const json_t *v)
{
    const json_t *leaves = json_object_get(v, "leaves");
    size_t n = json_array_size(leaves);
    for (size_t i = 0; i < n; i++) {
        const char *text = json_string_value(json_array_get(leaves, i));
        KV_OK(fp__hex_decode(text, strlen(text), scratch + 32 * i, 32));
    }
    fp__merkle_root(scratch, n, hash[0]);
    unhex(v, "open_leaf", hash[1], 32);
    fp__leaf_kv_head(n, hash[0], hash[1], got);
    assert_hash(v, "head", got);
    static const uint8_t zero[32];
    if (memcmp(hash[1], zero, 32) == 0) {
        fp__leaf_kv_head(n, hash[0], NULL, got);
        assert_hash(v, "head", got);
    }
}

static void check_text(const json_t *v)
{
    uint32_t ids[256];
    size_t n = read_ids(v, ids, 256);
    unhex(v, "master", hash[0], 32);
    fp__leaf_salt(hash[0], number(v, "i"), hash[1]);
    assert_hash(v, "salt", hash[1]);
    fp__text_leaf leaf = {.kind = (uint8_t)number(v, "kind"),
                          .label = (uint8_t)number(v, "label"),
                          .i = number(v, "i"),
                          .salt = hash[1],
                          .bytes = scratch,
                          .bytes_size = unhex(v, "bytes", scratch, sizeof scratch),
                          .ids = ids,
                          .ids_count = n};
    fp__leaf_text(&leaf, got);
    assert_hash(v, "leaf", got);
}

static void check_set(const json_t *v)
{
    const json_t *anchors = json_object_get(v, "anchors");
    uint8_t ids[8][32];
    size_t n = json_array_size(anchors);
    for (size_t i = 0; i < n; i++) {
        const char *text = json_string_value(json_array_get(anchors, i));
        KV_OK(fp__hex_decode(text, strlen(text), ids[i], 32));
    }
    fp__leaf_set_id((const uint8_t(*)[32])ids, (uint32_t)n, got);
    assert_hash(v, "id", got);
}

static void check_model(const json_t *v)
{
    fp__model_parts parts;
    unhex(v, "gguf", parts.gguf, 32);
    unhex(v, "tokenizer", parts.tokenizer, 32);
    unhex(v, "chat_template", parts.chat_template, 32);
    unhex(v, "rope_table", parts.rope_table, 32);
    fp__leaf_model(&parts, got);
    assert_hash(v, "digest", got);
}

static void test_vectors(void **state)
{
    (void)state;
    static const struct {
        const char *key;
        void (*check)(const json_t *v);
        size_t least;
    } kinds[] = {{"slabs", check_slab, 3},  {"groups", check_group, 3}, {"pages", check_page, 4},
                 {"heads", check_head, 12}, {"texts", check_text, 5},   {"sets", check_set, 3},
                 {"models", check_model, 1}};
    json_error_t error;
    json_t *root = json_load_file("vectors/hash_layouts.json", 0, &error);
    if (!root)
        fail_msg("vectors/hash_layouts.json: %s (run from the repository's root)", error.text);
    assert_int_equal(number(root, "arithmetic_version"), FP__ARITHMETIC_VERSION);
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
        const json_t *list = json_object_get(root, kinds[k].key);
        assert_true(json_array_size(list) >= kinds[k].least);
        for (size_t i = 0; i < json_array_size(list); i++)
            kinds[k].check(json_array_get(list, i));
    }
    json_decref(root);
}

/* ---- layout ---- */

static void test_geometry(void **state)
{
    (void)state;
    fp__page_geometry g = {.layers = 30, .kv_heads = 3, .d = 64};
    KV_OK(fp__page_geometry_check(&g));
    assert_int_equal(fp__slab_bytes(64), 8448);
    assert_int_equal(fp__slab_bytes(128), 16640);
    assert_int_equal(fp__page_group_bytes(&g), 760320);
    assert_int_equal(fp__page_slab_offset(3, 64, 0, 0), 0);
    assert_int_equal(fp__page_slab_offset(3, 64, 29, 2), 89 * 8448);
    /* beyond 32 bits, as size_t */
    assert_true(fp__page_slab_offset(1024, 512, 1023, 1023) == (size_t)(1024 * 1024 - 1) * 65792);
    const fp__page_geometry bad[] = {{0, 1, 8, {0}},      {1, 0, 8, {0}},
                                     {1, 1, 0, {0}},      {65536, 1, 8, {0}},
                                     {1, 65536, 8, {0}},  {1, 1, FP__HEAD_DIM_MAX + 1, {0}},
                                     {2048, 1024, 8, {0}}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        KV_FAIL(fp__page_geometry_check(&bad[i]), FP_UNSUPPORTED, "page format");
}

/* The slab that canonical arithmetic writes has the fields where this module says. */
static void test_slab_fields(void **state)
{
    (void)state;
    enum { D = 64, SLOT = 37 };
    static uint8_t slab[128 * D + 256];
    float k[D], v[D];
    for (int i = 0; i < D; i++) {
        k[i] = (float)(i - 20) * 0.25f;
        v[i] = (float)(3 * i - 70) * 0.125f;
    }
    assert_true(fp__exact_kv_write(k, v, D, slab, SLOT));
    for (size_t i = 0; i < sizeof slab; i++) {
        bool k_row = i >= SLOT * D && i < (SLOT + 1) * D,
             v_column = i >= 64 * D && i < 128 * D && i % 64 == SLOT;
        bool scale_k = i / 2 == 64 * D + SLOT, scale_v = i / 2 == 64 * D + 64 + SLOT;
        if (slab[i])
            assert_true(k_row || v_column || scale_k || scale_v);
    }
    fp__page_weights w;
    fp__page_weights_init(&w, D);
    assert_true(fp__page_checksum(&w, slab, SLOT, 1) != 0);
    assert_true(fp__page_checksum(&w, slab, 0, 64) == fp__page_checksum(&w, slab, SLOT, 1));
    fp__page_zero_slots(slab, D, SLOT, 1);
    for (size_t i = 0; i < sizeof slab; i++)
        assert_int_equal(slab[i], 0);
}

static void random_slab(uint8_t *slab, size_t d, uint64_t seed)
{
    for (size_t i = 0; i < fp__slab_bytes(d); i++)
        slab[i] = (uint8_t)kv_random(&seed);
}

static void test_slots(void **state)
{
    (void)state;
    static uint8_t a[128 * 72 + 256], b[128 * 72 + 256];
    for (size_t d = 7; d <= 72; d += 13) {
        for (size_t n = 0; n <= 64; n += 9) {
            random_slab(a, d, d * n + 1);
            fp__page_copy_slots(b, a, d, n);
            for (size_t i = 0; i < fp__slab_bytes(d); i++) {
                size_t slot = i < 64 * d ? i / d : i < 128 * d ? i % 64 : (i - 128 * d) / 2 % 64;
                assert_int_equal(b[i], slot < n ? a[i] : 0);
            }
        }
    }
}

/* ---- checksum ---- */

/* Any order and any split of tokens give the same sum. */
static void test_checksum_splits(void **state)
{
    (void)state;
    static uint8_t slab[128 * 80 + 256];
    for (size_t d = 1; d <= 80; d = d * 2 + 5) {
        fp__page_weights w;
        fp__page_weights_init(&w, d);
        random_slab(slab, d, d);
        uint64_t whole = fp__page_checksum(&w, slab, 0, 64), single = 0;
        for (size_t t = 64; t-- > 0;)
            single += fp__page_checksum(&w, slab, t, 1);
        assert_true(single == whole);
        for (size_t step = 1; step < 64; step += 3) {
            uint64_t sum = 0;
            for (size_t t = 0; t < 64; t += step)
                sum += fp__page_checksum(&w, slab, t, 64 - t < step ? 64 - t : step);
            assert_true(sum == whole);
        }
        assert_true(fp__page_checksum(&w, slab, 5, 0) == 0);
    }
}

/* Every single bit of a slab counts. */
static void test_checksum_flips(void **state)
{
    (void)state;
    enum { D = 20 };
    static uint8_t slab[128 * D + 256];
    fp__page_weights w;
    fp__page_weights_init(&w, D);
    random_slab(slab, D, 3);
    uint64_t whole = fp__page_checksum(&w, slab, 0, 64);
    for (size_t bit = 0; bit < 8 * sizeof slab; bit++) {
        slab[bit / 8] ^= (uint8_t)(1u << bit % 8);
        assert_true(fp__page_checksum(&w, slab, 0, 64) != whole);
        slab[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    /* as do two tokens, or two rows of V, that changed places */
    uint8_t row[D];
    memcpy(row, slab, D);
    memcpy(slab, slab + D, D);
    memcpy(slab + D, row, D);
    assert_true(fp__page_checksum(&w, slab, 0, 64) != whole);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors),         cmocka_unit_test(test_geometry),
        cmocka_unit_test(test_slab_fields),     cmocka_unit_test(test_slots),
        cmocka_unit_test(test_checksum_splits), cmocka_unit_test(test_checksum_flips),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
