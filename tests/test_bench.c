/* The measurements of fieldprint/bench.h on the CPU: they give plausible numbers for right kernels, none for
 * wrong ones, and refuse shapes that make no sense. (The program's side is in test_bench_program.sh.) */
#include "engine/bench.h"
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
/* cmocka needs the four above */
#include <cmocka.h>

static fp_bench_attention_options small(void)
{
    return (fp_bench_attention_options){.threads = 2,
                                        .heads = 4,
                                        .kv_heads = 2,
                                        .d = 64,
                                        .batch = 2,
                                        .tokens = 3,
                                        .context = 200,
                                        .anchor = 70,
                                        .shared = 1,
                                        .mode = 1,
                                        .gamma_65536 = 6554,
                                        .runs = 2};
}

static void attention_is_measured(void **state)
{
    (void)state;
    for (int shared = 0; shared < 2; shared++)
        for (uint32_t mode = 0; mode < 3; mode++) {
            fp_bench_attention_options o = small();
            fp_bench_attention_result r;
            o.shared = shared, o.mode = mode, o.anchor = mode == 0 ? 0 : 70;
            assert_int_equal(fp_bench_attention(&o, &r), FP_OK);
            assert_true(r.words_checked >=
                        24 * 65 + 24 * 64); /* every row, and every row in its other place */
            assert_true(r.layer.runs == 2 && r.layer.least_us > 0 && r.layer.median_us >= r.layer.least_us);
            size_t pages = 2 * 4 + (o.anchor ? (shared ? 2u : 4u) : 0);
            assert_int_equal(r.kv_bytes, pages * 2 * fp__slab_bytes(64));
            assert_int_equal(r.pairs, 2 * 4 * (3 * (197 + o.anchor) + 6));
        }
}

static float wrong_mix(fp__attn_states anchor, fp__attn_states context, fp__injection_mode mode, uint32_t g,
                       size_t d, float *out)
{
    const fp__kernel_ops *ops;
    assert_int_equal(fp__kernel_ops_get(&ops), FP_OK);
    float alpha = ops->attn_mix(anchor, context, mode, g, d, out);
    out[d - 1] = fp__bits_float(fp__float_bits(out[d - 1]) ^ 1);
    return alpha;
}

static void one_wrong_bit_gives_no_time(void **state)
{
    (void)state;
    const fp__kernel_ops *ops;
    assert_int_equal(fp__kernel_ops_get(&ops), FP_OK);
    fp__kernel_ops wrong = *ops;
    wrong.attn_mix = wrong_mix;
    fp_bench_attention_options o = small();
    fp_bench_attention_result r;
    assert_int_equal(fp__bench_attention_with(&o, &wrong, &r), FP_MISMATCH);
    assert_non_null(strstr(fp_error_detail(), "differs from the definition"));
    assert_true(r.layer.runs == 0 && r.kv_gb_s == 0);
    assert_int_equal(fp__bench_attention_with(&o, ops, &r), FP_OK);
}

static void bad_shapes_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        size_t at;
        uint32_t value;
        fp_status status;
    } rows[] = {
#define ROW(field, value, status) {#field, offsetof(fp_bench_attention_options, field), value, status}
        ROW(heads, 0, FP_USAGE),
        ROW(heads, 5, FP_USAGE),
        ROW(kv_heads, 0, FP_USAGE),
        ROW(d, 0, FP_USAGE),
        ROW(d, 63, FP_USAGE),
        ROW(d, 1024, FP_USAGE),
        ROW(batch, 0, FP_USAGE),
        ROW(tokens, 0, FP_USAGE),
        ROW(tokens, 201, FP_USAGE),
        ROW(mode, 3, FP_USAGE),
        ROW(runs, 0, FP_USAGE),
        ROW(runs, 1001, FP_USAGE),
        ROW(gamma_65536, 65537, FP_USAGE),
        ROW(context, 1 << 30, FP_LIMIT),
        ROW(batch, 1 << 30, FP_LIMIT),
#undef ROW
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        fp_bench_attention_options o = small();
        fp_bench_attention_result r;
        memcpy((char *)&o + rows[i].at, &rows[i].value, sizeof rows[i].value);
        if (fp_bench_attention(&o, &r) != rows[i].status)
            fail_msg("%s = %u", rows[i].name, rows[i].value);
    }
    fp_bench_hash_options h = {.threads = 1, .layers = 1, .kv_heads = 1, .d = 64, .pages = 0, .runs = 1};
    fp_bench_hash_result r;
    assert_int_equal(fp_bench_hash(&h, &r), FP_USAGE);
    h.pages = 1, h.runs = 0;
    assert_int_equal(fp_bench_hash(&h, &r), FP_USAGE);
    h.runs = 1, h.layers = 0;
    assert_int_not_equal(fp_bench_hash(&h, &r), FP_OK);
}

static void devices_are_named(void **state)
{
    (void)state;
    fp_bench_machine m;
    static const char *const wrong[] = {"", "gpu", "cuda:", "cuda:x", "cuda:12345", "CPU"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        if (fp_bench_machine_get(wrong[i], 1, &m) != FP_USAGE)
            fail_msg("device \"%s\"", wrong[i]);
    assert_int_equal(fp_bench_machine_get(NULL, 1, &m), FP_OK);
    assert_string_equal(m.device, "cpu");
    assert_true(m.units == 1 && m.copy_gb_s > 0 && m.name[0] && m.kernels[0]);
}

static void hashes_are_measured(void **state)
{
    (void)state;
    fp_bench_hash_options o = {.threads = 2, .layers = 3, .kv_heads = 2, .d = 64, .pages = 7, .runs = 2};
    fp_bench_hash_result r;
    assert_int_equal(fp_bench_hash(&o, &r), FP_OK);
    assert_int_equal(r.hashes_checked, 7 * (6 + 1));
    assert_int_equal(r.bytes, 7 * 6 * fp__slab_bytes(64));
    assert_true(r.gb_s > 0 && r.all.runs == 2);
}

static void models_are_measured(void **state)
{
    (void)state;
    static const char *const types[] = {"q4_0", "q4_1", "q8_0"};
    static const uint64_t block_bytes[] = {18, 20, 34};
    for (size_t i = 0; i < 3; i++) {
        fp_bench_shape shape;
        fp_model *model;
        assert_int_equal(fp_bench_shape_get("tiny", &shape), FP_OK);
        shape.type = types[i], shape.layers = 2, shape.head_dim = 32u << i;
        assert_int_equal(fp_bench_model_create(&shape, 2, &model), FP_OK);
        uint64_t Q = 4ull * shape.head_dim,
                 weights = 320 * 256 + 2 * (Q * 256 * 2 + Q / 2 * 256 * 2 + 3 * 512 * 256);
        for (int v = FP_BENCH_VALIDATE_NONE; v <= FP_BENCH_VALIDATE_SYNC_TOKEN; v++) {
            fp_bench_point o = {.batch = 2,
                                .context = 100,
                                .anchor = 65,
                                .steps = 70,
                                .prefill = 130,
                                .chunk = 50,
                                .runs = 1,
                                .validation = (fp_bench_validation)v};
            fp_bench_point_result r;
            uint64_t words;
            assert_int_equal(fp_bench_model(model, NULL, 2, 0, &o, 1, &r, &words), FP_OK);
            assert_int_equal(r.status, FP_OK);
            uint64_t page = 2 * 2 * fp__slab_bytes(shape.head_dim);
            /* sequences begin at 100 and 132: pages are sealed at 128, and at 192 */
            assert_int_equal(r.hashed_bytes, (v == FP_BENCH_VALIDATE_NONE         ? 0
                                              : v == FP_BENCH_VALIDATE_SYNC_TOKEN ? 2 * 70
                                                                                  : 2) *
                                                 page);
            assert_int_equal(r.copied_bytes, 0); /* from a GPU */
            assert_int_equal(r.weight_bytes, weights / 32 * block_bytes[i]);
            assert_int_equal(r.kv_bytes, (2 + 2 * 4) * page);
            assert_int_equal(words, 5 * 320 + page / 4);
            assert_true(r.decode_tokens_per_s > 0 && r.prefill_tokens_per_s > 0 && r.chunk == 50);
        }
        fp_model_close(model);
    }
}

static void bad_models_are_refused(void **state)
{
    (void)state;
    fp_bench_shape shape;
    fp_model *model;
    assert_int_equal(fp_bench_shape_get("7b", &shape), FP_NOT_FOUND);
    static const struct {
        size_t at;
        uint32_t value;
    } rows[] = {{offsetof(fp_bench_shape, layers), 0},      {offsetof(fp_bench_shape, width), 100},
                {offsetof(fp_bench_shape, heads), 3},       {offsetof(fp_bench_shape, kv_heads), 0},
                {offsetof(fp_bench_shape, head_dim), 33},   {offsetof(fp_bench_shape, ffn_width), 1},
                {offsetof(fp_bench_shape, vocabulary), 256}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        assert_int_equal(fp_bench_shape_get("tiny", &shape), FP_OK);
        memcpy((char *)&shape + rows[i].at, &rows[i].value, sizeof rows[i].value);
        if (fp_bench_model_create(&shape, 1, &model) != FP_USAGE)
            fail_msg("row %zu", i);
    }
    assert_int_equal(fp_bench_shape_get("tiny", &shape), FP_OK);
    shape.type = "q3";
    assert_int_equal(fp_bench_model_create(&shape, 1, &model), FP_USAGE);
    shape.type = "q8_0", shape.layers = 1;
    assert_int_equal(fp_bench_model_create(&shape, 1, &model), FP_OK);
    fp_bench_point o = {.batch = 1, .runs = 1};
    fp_bench_point_result r;
    uint64_t words;
    assert_int_equal(fp_bench_model(model, NULL, 1, 0, &o, 1, &r, &words), FP_USAGE); /* nothing to do */
    o.steps = 1, o.batch = 0;
    assert_int_equal(fp_bench_model(model, NULL, 1, 0, &o, 1, &r, &words), FP_USAGE);
    o.batch = 1, o.runs = 0;
    assert_int_equal(fp_bench_model(model, NULL, 1, 0, &o, 1, &r, &words), FP_USAGE);
    o.runs = 1, o.validation = (fp_bench_validation)5;
    assert_int_equal(fp_bench_model(model, NULL, 1, 0, &o, 1, &r, &words), FP_USAGE);
    o.validation = FP_BENCH_VALIDATE_NONE;
    assert_int_equal(fp_bench_model(model, NULL, 1, 1e-9, &o, 1, &r, &words), FP_OK);
    assert_int_equal(r.status, FP_CANCELLED);
    assert_int_equal(fp_bench_model(model, "gpu", 1, 0, &o, 1, &r, &words), FP_USAGE);
    fp_model_close(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_is_measured),  cmocka_unit_test(one_wrong_bit_gives_no_time),
        cmocka_unit_test(bad_shapes_are_refused), cmocka_unit_test(devices_are_named),
        cmocka_unit_test(hashes_are_measured),    cmocka_unit_test(models_are_measured),
        cmocka_unit_test(bad_models_are_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
