/* The GGUF reader: look-ups, tiny models, and a table of corruptions that must all be refused with their
 * reason. */
#include "gguf_writer.h"
#include <setjmp.h>
#include <stdarg.h>
#include <unistd.h>

#include <cmocka.h>

static void typed_lookups(void **state)
{
    (void)state;
    gguf_writer w = {0};
    gw_u32(&w, "a.u32", 7);
    gw_u64(&w, "a.u64", (uint64_t)1 << 40);
    gw_i32(&w, "a.negative", -3);
    gw_i32(&w, "a.i32", 3);
    gw_f32(&w, "a.f32", 0.5f);
    gw_bool(&w, "a.bool", true);
    gw_string(&w, "a.string", "hello");
    gw_strings(&w, "a.strings", (const char *const[]){"x", "", "yz"}, 3);
    gw_i32s(&w, "a.i32s", (const int32_t[]){1, -1}, 2);
    gw_key(&w, "a.f64", FP__GGUF_F64);
    double third = 1.0 / 3;
    assert_int_equal(fp__buf_append(&w.keys, &third, 8), FP_OK);
    fp__buf file = {0};
    gw_finish(&w, &file);

    fp__gguf *g;
    assert_int_equal(fp__gguf_open_memory(file.data, file.size, "test", &g), FP_OK);
    uint32_t u32;
    uint64_t u64;
    float f32;
    bool b;
    fp__gguf_string s;
    fp__gguf_array a;
    assert_int_equal(fp__gguf_get_u32(g, "a.u32", &u32), FP_OK);
    assert_int_equal(u32, 7);
    assert_int_equal(fp__gguf_get_u32(g, "a.i32", &u32), FP_OK);
    assert_int_equal(u32, 3);
    assert_int_equal(fp__gguf_get_u32(g, "a.u64", &u32), FP_FORMAT);
    assert_int_equal(fp__gguf_get_u64(g, "a.u64", &u64), FP_OK);
    assert_true(u64 == (uint64_t)1 << 40);
    assert_int_equal(fp__gguf_get_u64(g, "a.negative", &u64), FP_FORMAT);
    assert_int_equal(fp__gguf_get_u64(g, "a.none", &u64), FP_NOT_FOUND);
    assert_non_null(strstr(fp_error_detail(), "a.none"));
    assert_int_equal(fp__gguf_get_u64(g, "a.string", &u64), FP_FORMAT);
    assert_int_equal(fp__gguf_get_f32(g, "a.f32", &f32), FP_OK);
    assert_true(f32 == 0.5f);
    assert_int_equal(fp__gguf_get_f32(g, "a.f64", &f32), FP_FORMAT);
    assert_int_equal(fp__gguf_get_f32(g, "a.u32", &f32), FP_FORMAT);
    assert_int_equal(fp__gguf_get_bool(g, "a.bool", &b), FP_OK);
    assert_true(b);
    assert_int_equal(fp__gguf_get_string(g, "a.string", &s), FP_OK);
    assert_int_equal(s.size, 5);
    assert_memory_equal(s.data, "hello", 5);
    assert_int_equal(fp__gguf_get_array(g, "a.strings", FP__GGUF_I32, &a), FP_FORMAT);
    assert_int_equal(fp__gguf_get_array(g, "a.strings", FP__GGUF_STRING, &a), FP_OK);
    assert_int_equal(a.count, 3);
    size_t cursor = 0;
    assert_int_equal(fp__gguf_string_next(&a, &cursor).size, 1);
    assert_int_equal(fp__gguf_string_next(&a, &cursor).size, 0);
    s = fp__gguf_string_next(&a, &cursor);
    assert_int_equal(s.size, 2);
    assert_memory_equal(s.data, "yz", 2);
    assert_int_equal(fp__gguf_get_array(g, "a.i32s", FP__GGUF_I32, &a), FP_OK);
    assert_int_equal((int32_t)fp__load_le32(a.data + 4), -1);
    assert_int_equal(fp__gguf_key_count(g), 10);
    fp__gguf_type type;
    fp__gguf_key_at(g, 7, &s, &type);
    assert_int_equal(type, FP__GGUF_ARRAY);
    fp__gguf_close(g);
    fp__buf_free(&file);
}

static void tiny_models_of_every_type(void **state)
{
    (void)state;
    static const uint32_t types[] = {FP__GGML_F32,  FP__GGML_F16,  FP__GGML_BF16, FP__GGML_Q4_0,
                                     FP__GGML_Q4_1, FP__GGML_Q5_0, FP__GGML_Q5_1, FP__GGML_Q8_0,
                                     FP__GGML_Q4_K, FP__GGML_Q5_K, FP__GGML_Q6_K};
    static const char *const arch[] = {"llama", "qwen2", "qwen3"};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        gw_model m = gw_model_default();
        m.type = types[i];
        m.arch = arch[i % 3];
        m.C = m.F = 256;
        m.tied = i % 2;
        m.rope_factors = i % 2;
        fp__buf file = {0}, again = {0};
        gw_build_model(&m, &file);
        gw_build_model(&m, &again);
        assert_int_equal(file.size, again.size);
        assert_memory_equal(file.data, again.data, file.size);
        fp__gguf *g;
        assert_int_equal(fp__gguf_open_memory(file.data, file.size, "tiny", &g), FP_OK);
        const fp__gguf_tensor *t;
        assert_int_equal(fp__gguf_tensor_get(g, "blk.1.ffn_down.weight", &t), FP_OK);
        assert_int_equal(t->type, types[i]);
        assert_int_equal(t->n_dims, 2);
        assert_int_equal(t->dims[0], 256);
        uint32_t elements, bytes;
        assert_true(fp__gguf_type_block(t->type, &elements, &bytes));
        assert_int_equal(t->size_bytes, 256 * 256 / elements * bytes);
        assert_true(t->data + t->size_bytes <= file.data + file.size);
        assert_int_equal((t->data - file.data) % 32, 0);
        assert_true((fp__gguf_tensor_find(g, "output.weight") == NULL) == m.tied);
        assert_true((fp__gguf_tensor_find(g, "blk.0.attn_q.bias") != NULL) == (i % 3 == 1));
        assert_true((fp__gguf_tensor_find(g, "blk.0.attn_k_norm.weight") != NULL) == (i % 3 == 2));
        fp__gguf_close(g);
        fp__buf_free(&file);
        fp__buf_free(&again);
    }
}

static void file_is_mapped_and_released(void **state)
{
    (void)state;
    char path[] = "/tmp/fp_test_gguf_XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    gw_model m = gw_model_default();
    gw_write_model(&m, path);
    fp__gguf *g;
    assert_int_equal(fp__gguf_open(path, &g), FP_OK);
    assert_string_equal(fp__gguf_path(g), path);
    assert_int_equal(fp__gguf_version(g), 3);
    const fp__gguf_tensor *t;
    assert_int_equal(fp__gguf_tensor_get(g, "token_embd.weight", &t), FP_OK);
    uint8_t first = t->data[0];
    fp__gguf_release(g, t);
    assert_int_equal(t->data[0], first);
    fp__gguf_close(g);
    unlink(path);
    assert_int_equal(fp__gguf_open(path, &g), FP_NOT_FOUND);
}

static void unsupported_type_is_kept_and_named(void **state)
{
    (void)state;
    gguf_writer w = {0};
    uint8_t bytes[64] = {0};
    gw_tensor(&w, "strange", 20, 1, (const uint64_t[]){32}, bytes, 18);
    gw_tensor(&w, "future", 99, 1, (const uint64_t[]){32}, bytes, 18);
    gw_tensor(&w, "fine", FP__GGML_F32, 1, (const uint64_t[]){4}, bytes, 16);
    fp__buf file = {0};
    gw_finish(&w, &file);
    fp__gguf *g;
    const fp__gguf_tensor *t;
    assert_int_equal(fp__gguf_open_memory(file.data, file.size, "test", &g), FP_OK);
    assert_int_equal(fp__gguf_tensor_count(g), 3);
    assert_non_null(fp__gguf_tensor_find(g, "strange"));
    assert_null(fp__gguf_tensor_find(g, "strange")->data);
    assert_int_equal(fp__gguf_tensor_get(g, "strange", &t), FP_UNSUPPORTED);
    assert_non_null(strstr(fp_error_detail(), "IQ4_NL"));
    assert_int_equal(fp__gguf_tensor_get(g, "future", &t), FP_UNSUPPORTED);
    assert_non_null(strstr(fp_error_detail(), "99"));
    assert_int_equal(fp__gguf_tensor_get(g, "fine", &t), FP_OK);
    assert_int_equal(fp__gguf_tensor_get(g, "absent", &t), FP_NOT_FOUND);
    fp__gguf_close(g);
    fp__buf_free(&file);
}

/* ---- corruptions ---- */

/* Offsets into the base file, whose layout is fixed: header (24), key "k1" u32, key "k2" string "ab", key
 * "k3" array of two u16, key "k4" bool, key "k5" array of two strings, tensor infos "t1" (Q8_0 64×2) and "t2"
 * (F32 64), data. */
enum {
    AT_VERSION = 4,
    AT_TENSORS = 8,
    AT_KEYS = 16,
    AT_K1 = 24,
    AT_K1_NAME = AT_K1 + 8,
    AT_K1_TYPE = AT_K1 + 10,
    AT_K2 = AT_K1 + 18,
    AT_K2_TYPE = AT_K2 + 10,
    AT_K2_SIZE = AT_K2 + 14,
    AT_K3 = AT_K2 + 24,
    AT_K3_ELEMENT = AT_K3 + 14,
    AT_K3_COUNT = AT_K3 + 18,
    AT_K4 = AT_K3 + 30,
    AT_K4_VALUE = AT_K4 + 14,
    AT_K5 = AT_K4 + 15,
    AT_K5_COUNT = AT_K5 + 18,
    AT_K5_FIRST = AT_K5 + 26,
    AT_T1 = AT_K5 + 26 + 9 + 9,
    AT_T1_NAME = AT_T1 + 8,
    AT_T1_DIMS = AT_T1 + 10,
    AT_T1_DIM0 = AT_T1 + 14,
    AT_T1_DIM1 = AT_T1 + 22,
    AT_T1_TYPE = AT_T1 + 30,
    AT_T1_OFFSET = AT_T1 + 34,
    AT_T2 = AT_T1 + 42,
    AT_T2_NAME = AT_T2 + 8,
    AT_T2_OFFSET = AT_T2 + 26,
    AT_END = AT_T2 + 34
};

static void base_file(fp__buf *out, uint32_t alignment_key)
{
    gguf_writer w = {0};
    uint8_t data[256] = {0};
    gw_u32(&w, "k1", 5);
    gw_string(&w, "k2", "ab");
    gw_array(&w, "k3", FP__GGUF_U16, 2);
    assert_int_equal(fp__buf_append_le32(&w.keys, 0x00020001), FP_OK);
    gw_bool(&w, "k4", true);
    gw_strings(&w, "k5", (const char *const[]){"x", "y"}, 2);
    if (alignment_key)
        gw_u32(&w, "general.alignment", alignment_key);
    gw_tensor(&w, "t1", FP__GGML_Q8_0, 2, (const uint64_t[]){64, 2}, data, 136);
    gw_tensor(&w, "t2", FP__GGML_F32, 1, (const uint64_t[]){64}, data, 256);
    gw_finish(&w, out);
}

typedef struct corruption {
    const char *name;
    size_t at;      /* offset of the change */
    unsigned width; /* bytes changed: 1, 4 or 8; 0: the file is cut at `at` */
    uint64_t value;
    fp_status status;
    const char *word; /* in the message */
} corruption;

#define BIG ((uint64_t)1 << 63)
static const corruption corruptions[] = {
    {"empty file", 0, 0, 0, FP_FORMAT, ""},
    {"cut in the magic number", 3, 0, 0, FP_FORMAT, "magic"},
    {"cut in the version", 6, 0, 0, FP_FORMAT, "version"},
    {"cut in the counts", 12, 0, 0, FP_FORMAT, "number of tensors"},
    {"cut after the header", 24, 0, 0, FP_FORMAT, "do not fit"},
    {"cut in a key", AT_K3, 0, 0, FP_FORMAT, ""},
    {"cut in an array", AT_K5_FIRST + 4, 0, 0, FP_FORMAT, ""},
    {"cut in the tensor infos", AT_T2 + 9, 0, 0, FP_FORMAT, ""},
    {"cut before the data", AT_END, 0, 0, FP_FORMAT, "cut off"},
    {"cut in the data", AT_END + 100, 0, 0, FP_FORMAT, "cut off"},
    {"another magic number", 0, 1, 'X', FP_FORMAT, "not a GGUF"},
    {"big-endian magic", 0, 4, 0x47475546, FP_FORMAT, "big-endian"},
    {"big-endian version", AT_VERSION, 4, 0x03000000, FP_FORMAT, "big-endian"},
    {"version 0", AT_VERSION, 4, 0, FP_UNSUPPORTED, "version 0"},
    {"version 1", AT_VERSION, 4, 1, FP_UNSUPPORTED, "version 1"},
    {"version 4", AT_VERSION, 4, 4, FP_UNSUPPORTED, "version 4"},
    {"2^63 tensors", AT_TENSORS, 8, BIG, FP_LIMIT, "at most"},
    {"2^63 keys", AT_KEYS, 8, BIG, FP_LIMIT, "at most"},
    {"more tensors than fit", AT_TENSORS, 8, 60000, FP_FORMAT, "do not fit"},
    {"more keys than fit", AT_KEYS, 8, 60000, FP_FORMAT, "do not fit"},
    {"one tensor too many", AT_TENSORS, 8, 3, FP_FORMAT, ""},
    {"key name of 2^63 bytes", AT_K1, 8, BIG, FP_FORMAT, "remain"},
    {"key name of 2^64-1 bytes", AT_K1, 8, UINT64_MAX, FP_FORMAT, "remain"},
    {"empty key name", AT_K1, 8, 0, FP_FORMAT, "name of a key"},
    {"NUL in a key name", AT_K1_NAME, 1, 0, FP_FORMAT, "NUL"},
    {"key name not UTF-8", AT_K1_NAME, 1, 0xff, FP_FORMAT, "UTF-8"},
    {"duplicate key", AT_K2 + 9, 1, '1', FP_FORMAT, "k1' occurs twice"},
    {"unknown value type", AT_K1_TYPE, 4, 13, FP_FORMAT, "unknown value type"},
    {"value type of 2^32-1", AT_K2_TYPE, 4, UINT32_MAX, FP_FORMAT, "unknown value type"},
    {"string of 2^63 bytes", AT_K2_SIZE, 8, BIG, FP_FORMAT, "remain"},
    {"string beyond the file", AT_K2_SIZE, 8, 100000, FP_FORMAT, "remain"},
    {"nested array", AT_K3_ELEMENT, 4, FP__GGUF_ARRAY, FP_UNSUPPORTED, "array of arrays"},
    {"array of an unknown type", AT_K3_ELEMENT, 4, 77, FP_FORMAT, "unknown type 77"},
    {"array of 2^63 elements", AT_K3_COUNT, 8, BIG, FP_FORMAT, "elements"},
    {"array count that overflows", AT_K3_COUNT, 8, BIG + 1, FP_FORMAT, "elements"},
    {"array beyond the file", AT_K3_COUNT, 8, 5000, FP_FORMAT, "elements"},
    {"array of strings beyond the file", AT_K5_COUNT, 8, 20, FP_FORMAT, ""},
    {"string in an array of 2^64-1 bytes", AT_K5_FIRST, 8, UINT64_MAX, FP_FORMAT, "remain"},
    {"boolean of 2", AT_K4_VALUE, 1, 2, FP_FORMAT, "boolean"},
    {"tensor name of 300 bytes", AT_T1, 8, 300, FP_LIMIT, "at most 256"},
    {"tensor name beyond the file", AT_T1, 8, 100000, FP_FORMAT, "remain"},
    {"tensor name of 0 bytes", AT_T1, 8, 0, FP_FORMAT, "name of a tensor"},
    {"NUL in a tensor name", AT_T1_NAME, 1, 0, FP_FORMAT, "NUL"},
    {"duplicate tensor", AT_T2_NAME + 1, 1, '1', FP_FORMAT, "t1' occurs twice"},
    {"0 dimensions", AT_T1_DIMS, 4, 0, FP_FORMAT, "dimensions"},
    {"5 dimensions", AT_T1_DIMS, 4, 5, FP_FORMAT, "dimensions"},
    {"dimension 0", AT_T1_DIM1, 8, 0, FP_FORMAT, "zero or too large"},
    {"dimension 2^63", AT_T1_DIM1, 8, BIG, FP_FORMAT, "zero or too large"},
    {"elements overflow 64 bits", AT_T1_DIM1, 8, (uint64_t)1 << 60, FP_FORMAT, "zero or too large"},
    {"bytes beyond the file", AT_T1_DIM1, 8, (uint64_t)1 << 40, FP_FORMAT, "cut off"},
    {"row no multiple of the block", AT_T1_DIM0, 8, 63, FP_FORMAT, "multiple"},
    {"rows beyond the data", AT_T1_DIM1, 8, 7, FP_FORMAT, "reaches beyond"},
    {"tensors overlap", AT_T1_DIM1, 8, 3, FP_FORMAT, "overlap"},
    {"larger type than the data", AT_T1_TYPE, 4, FP__GGML_F32, FP_FORMAT, "reaches beyond"},
    {"offset not aligned", AT_T2_OFFSET, 8, 168, FP_FORMAT, "aligned"},
    {"offset beyond the file", AT_T2_OFFSET, 8, 1 << 20, FP_FORMAT, "cut off"},
    {"offset of 2^64-32", AT_T2_OFFSET, 8, UINT64_MAX - 31, FP_FORMAT, "cut off"},
    {"two tensors at one place", AT_T2_OFFSET, 8, 0, FP_FORMAT, "overlap"},
};

static fp_status open_bytes(const uint8_t *data, size_t size)
{
    /* an exact copy on the heap, so that a read past the end is seen by the sanitizer */
    uint8_t *copy = malloc(size ? size : 1);
    assert_non_null(copy);
    if (size)
        memcpy(copy, data, size);
    fp__gguf *g = NULL;
    fp_status status = fp__gguf_open_memory(copy, size, "test", &g);
    if (status == FP_OK)
        fp__gguf_close(g);
    free(copy);
    return status;
}

static void corruptions_are_refused(void **state)
{
    (void)state;
    fp__buf base = {0};
    base_file(&base, 0);
    assert_int_equal(open_bytes(base.data, base.size), FP_OK);
    for (size_t i = 0; i < sizeof corruptions / sizeof corruptions[0]; i++) {
        const corruption *c = &corruptions[i];
        fp__buf file = {0};
        assert_int_equal(fp__buf_append(&file, base.data, base.size), FP_OK);
        size_t size = c->width ? file.size : c->at;
        if (c->width == 1)
            file.data[c->at] = (uint8_t)c->value;
        else if (c->width == 4)
            fp__store_le32(file.data + c->at, (uint32_t)c->value);
        else if (c->width == 8)
            fp__store_le64(file.data + c->at, c->value);
        fp_status status = open_bytes(file.data, size);
        if (status != c->status || !strstr(fp_error_detail(), c->word))
            fail_msg("%s: %s (%s)", c->name, fp_status_name(status), fp_error_detail());
        fp__buf_free(&file);
    }
    fp__buf_free(&base);
}

static void alignments(void **state)
{
    (void)state;
    static const struct {
        uint32_t alignment;
        fp_status status;
    } cases[] = {{32, FP_OK},    {16, FP_OK},     {4, FP_FORMAT},
                 {1, FP_FORMAT}, {48, FP_FORMAT}, {1u << 30, FP_FORMAT}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fp__buf file = {0};
        base_file(&file, cases[i].alignment);
        assert_int_equal(open_bytes(file.data, file.size), cases[i].status);
        if (cases[i].status != FP_OK)
            assert_non_null(strstr(fp_error_detail(), "alignment"));
        fp__buf_free(&file);
    }
}

/* Every cut and every single-byte change of a small file: opens or is refused, never reads outside
 * (sanitizers). */
static void every_cut_and_change_is_survived(void **state)
{
    (void)state;
    fp__buf base = {0};
    base_file(&base, 0);
    for (size_t size = 0; size < base.size; size++)
        assert_int_not_equal(open_bytes(base.data, size), FP_OK);
    size_t refused = 0;
    for (size_t at = 0; at < AT_END; at++)
        for (unsigned bit = 0; bit < 8; bit++) {
            base.data[at] ^= (uint8_t)(1u << bit);
            refused += open_bytes(base.data, base.size) != FP_OK;
            base.data[at] ^= (uint8_t)(1u << bit);
        }
    assert_true(refused > AT_END * 8 / 2);
    fp__buf_free(&base);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(typed_lookups),
        cmocka_unit_test(tiny_models_of_every_type),
        cmocka_unit_test(file_is_mapped_and_released),
        cmocka_unit_test(unsupported_type_is_kept_and_named),
        cmocka_unit_test(corruptions_are_refused),
        cmocka_unit_test(alignments),
        cmocka_unit_test(every_cut_and_change_is_survived),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
