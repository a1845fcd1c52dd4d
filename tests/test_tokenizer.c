/* Tokenizers: other people's vectors, round trips, special tokens, streaming decoding, refusals; on the
 * default model if it is there (FIELDPRINT_MODEL). */
#include "gguf_writer.h"
#include "model/pretokenize.h"
#include "model/tokenizer.h"
#include "model/unicode_class.h"
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

static fp__tokenizer *load_bytes(const fp__buf *file)
{
    fp__gguf *g;
    fp__tokenizer *tok;
    assert_int_equal(fp__gguf_open_memory(file->data, file->size, "test", &g), FP_OK);
    assert_int_equal(fp__tokenizer_load(g, &tok), FP_OK);
    fp__gguf_close(g); /* the tokenizer must not need it */
    return tok;
}

static fp__tokenizer *tiny_tokenizer(void)
{
    gguf_writer w = {0};
    fp__buf file = {0};
    gw_byte_bpe(&w, 0);
    gw_finish(&w, &file);
    fp__tokenizer *tok = load_bytes(&file);
    fp__buf_free(&file);
    return tok;
}

/* A vocabulary of SPM: <unk> <s> </s>, the 256 byte tokens, then the pieces given, with falling scores. */
static fp__tokenizer *tiny_spm(const char *const *pieces, size_t n, const int32_t *types)
{
    gguf_writer w = {0};
    fp__buf file = {0};
    char byte[8];
    gw_string(&w, "tokenizer.ggml.model", "llama");
    gw_array(&w, "tokenizer.ggml.tokens", FP__GGUF_STRING, 259 + n);
    gw_put_string(&w.keys, "<unk>", 5);
    gw_put_string(&w.keys, "<s>", 3);
    gw_put_string(&w.keys, "</s>", 4);
    for (unsigned b = 0; b < 256; b++) {
        snprintf(byte, sizeof byte, "<0x%02X>", b);
        gw_put_string(&w.keys, byte, 6);
    }
    for (size_t i = 0; i < n; i++)
        gw_put_string(&w.keys, pieces[i], strlen(pieces[i]));
    gw_array(&w, "tokenizer.ggml.scores", FP__GGUF_F32, 259 + n);
    for (size_t i = 0; i < 259 + n; i++) {
        float score = i < 259 ? 0 : -(float)(i - 259);
        uint32_t bits;
        memcpy(&bits, &score, 4);
        assert_int_equal(fp__buf_append_le32(&w.keys, bits), FP_OK);
    }
    gw_array(&w, "tokenizer.ggml.token_type", FP__GGUF_I32, 259 + n);
    for (size_t i = 0; i < 259 + n; i++)
        assert_int_equal(fp__buf_append_le32(&w.keys, i == 0    ? 2
                                                      : i < 3   ? 3
                                                      : i < 259 ? 6
                                                      : types   ? (uint32_t)types[i - 259]
                                                                : 1),
                         FP_OK);
    gw_finish(&w, &file);
    fp__tokenizer *tok = load_bytes(&file);
    fp__buf_free(&file);
    return tok;
}

static void expect_ids(const fp__tokenizer *tok, const char *text, unsigned flags, const uint32_t *ids,
                       size_t n)
{
    fp__ids got = {0};
    assert_int_equal(fp__tokenizer_encode(tok, text, strlen(text), flags, &got), FP_OK);
    if (got.size != n || (n && memcmp(got.data, ids, n * sizeof *ids) != 0)) {
        fprintf(stderr, "'%s':", text);
        for (size_t i = 0; i < got.size; i++)
            fprintf(stderr, " %u", got.data[i]);
        fail_msg(" are the ids; expected %zu others", n);
    }
    fp__ids_free(&got);
}
#define EXPECT(tok, text, flags, ...)                                                                        \
    expect_ids(tok, text, flags, (const uint32_t[]){__VA_ARGS__}, sizeof((const uint32_t[]){__VA_ARGS__}) / 4)

/* ---- other people's vectors ---- */

static const char *shared_folder(void)
{
    const char *folder = getenv("FIELDPRINT_SHARED");
    if (folder)
        return folder;
    static const char *const tries[] = {"../shared", "../../shared"};
    for (size_t i = 0; i < 2; i++) {
        char path[64];
        snprintf(path, sizeof path, "%s/vectors/tokenizer", tries[i]);
        if (fp__file_exists(path))
            return tries[i];
    }
    return NULL;
}

static void check_vectors(const char *name)
{
    char path[512];
    const char *shared = shared_folder();
    if (!shared) {
        print_message("skipped: ../shared/vectors/tokenizer is not here\n");
        skip();
    }
    fp__gguf *g;
    fp__tokenizer *tok;
    fp__buf in = {0}, out = {0};
    snprintf(path, sizeof path, "%s/vectors/tokenizer/ggml-vocab-%s.gguf", shared, name);
    assert_int_equal(fp__gguf_open(path, &g), FP_OK);
    assert_int_equal(fp__tokenizer_load(g, &tok), FP_OK);
    snprintf(path, sizeof path, "%s/vectors/tokenizer/ggml-vocab-%s.gguf.inp", shared, name);
    assert_int_equal(fp__file_read(path, 1 << 20, &in), FP_OK);
    snprintf(path, sizeof path, "%s/vectors/tokenizer/ggml-vocab-%s.gguf.out", shared, name);
    assert_int_equal(fp__file_read(path, 1 << 20, &out), FP_OK);

    static const char separator[] = "\n__ggml_vocab_test__\n";
    const char *text = (const char *)in.data, *line = (const char *)out.data;
    size_t cases = 0;
    while (*line) {
        const char *end = strstr(text, separator);
        size_t size = end ? (size_t)(end - text) : strlen(text);
        fp__ids ids = {0};
        fp__buf back = {0};
        assert_int_equal(fp__tokenizer_encode(tok, text, size, 0, &ids), FP_OK);
        for (size_t i = 0; *line != '\n'; i++) {
            char *after;
            unsigned long id = strtoul(line, &after, 10);
            if (i >= ids.size || ids.data[i] != id)
                fail_msg("%s, case %zu, token %zu", name, cases, i);
            line = after + strspn(after, " ");
            if (*line == '\n' && i + 1 != ids.size)
                fail_msg("%s, case %zu has more tokens than %zu", name, cases, i + 1);
        }
        line++;
        assert_int_equal(fp__tokenizer_decode(tok, ids.data, ids.size, 0, &back), FP_OK);
        assert_int_equal(back.size, size);
        assert_memory_equal(back.data ? back.data : (const uint8_t *)"", text, size);
        fp__ids_free(&ids);
        fp__buf_free(&back);
        text = end ? end + sizeof separator - 1 : text + size;
        cases++;
    }
    assert_true(cases >= 40);
    fp__buf_free(&in);
    fp__buf_free(&out);
    fp__tokenizer_destroy(tok);
    fp__gguf_close(g);
}

static void vectors_gpt2(void **state)
{
    (void)state;
    check_vectors("gpt-2");
}

static void vectors_llama_spm(void **state)
{
    (void)state;
    check_vectors("llama-spm");
}

/* ---- BPE on a tiny vocabulary ---- */

enum { B = GW_ID_BYTE0 };

static uint32_t find(const fp__tokenizer *tok, const char *text)
{
    uint32_t id = fp__tokenizer_find(tok, text, strlen(text));
    assert_int_not_equal(id, FP__TOKEN_NONE);
    return id;
}

static void bpe_merges_by_rank(void **state)
{
    (void)state;
    fp__tokenizer *tok = tiny_tokenizer();
    uint32_t the = find(tok, "Ġthe"), he = find(tok, "he"), er = find(tok, "er"), in = find(tok, "in");
    EXPECT(tok, "the", 0, B + 't', he);
    EXPECT(tok, " the", 0, the);
    EXPECT(tok, " there", 0, the, find(tok, "re")); /* "r e" ranks before "e r" */
    EXPECT(tok, "her", 0, he, B + 'r');
    EXPECT(tok, "er", 0, er);
    EXPECT(tok, "inin", 0, in, in);
    EXPECT(tok, "a1b23", 0, B + 'a', B + '1', B + 'b', B + '2', B + '3');
    EXPECT(tok, "\xc3\xa9", 0, B + 0xc3, B + 0xa9);
    EXPECT(tok, "user", 0, find(tok, "user"));
    expect_ids(tok, "", 0, NULL, 0);
    fp__tokenizer_destroy(tok);
}

static void special_tokens_need_permission(void **state)
{
    (void)state;
    fp__tokenizer *tok = tiny_tokenizer();
    static const char text[] = "<|im_start|>user\n<|im_end|>";
    EXPECT(tok, text, FP__TOKENIZE_SPECIAL, GW_ID_IM_START, find(tok, "user"), B + '\n', GW_ID_IM_END);
    fp__ids ids = {0};
    assert_int_equal(fp__tokenizer_encode(tok, text, strlen(text), 0, &ids), FP_OK);
    assert_true(ids.size > 10);
    for (size_t i = 0; i < ids.size; i++)
        assert_false(fp__tokenizer_is_control(tok, ids.data[i]));
    fp__ids_free(&ids);
    assert_int_equal(fp__tokenizer_eot(tok), GW_ID_IM_END);
    assert_int_equal(fp__tokenizer_eos(tok), GW_ID_IM_END);
    assert_true(fp__tokenizer_is_eog(tok, GW_ID_IM_END));
    assert_true(fp__tokenizer_is_eog(tok, GW_ID_ENDOFTEXT));
    assert_false(fp__tokenizer_is_eog(tok, GW_ID_IM_START));
    assert_false(fp__tokenizer_is_eog(tok, UINT32_MAX));
    fp__tokenizer_destroy(tok);
}

/* A vocabulary whose merges lead to its control token: text must still not become it. */
static void merges_cannot_make_control_tokens(void **state)
{
    (void)state;
    gguf_writer w = {0};
    fp__buf file = {0}, keys = {0};
    char text[4];
    gw_string(&w, "tokenizer.ggml.model", "gpt2");
    gw_string(&w, "tokenizer.ggml.pre", "gpt-2");
    gw_array(&w, "tokenizer.ggml.tokens", FP__GGUF_STRING, 258);
    for (unsigned b = 0; b < 256; b++)
        gw_put_string(&w.keys, text, gw_byte_text((uint8_t)b, text));
    gw_put_string(&w.keys, "ab", 2);  /* 256: control */
    gw_put_string(&w.keys, "abc", 3); /* 257: normal */
    gw_array(&w, "tokenizer.ggml.token_type", FP__GGUF_I32, 258);
    for (unsigned i = 0; i < 258; i++)
        assert_int_equal(fp__buf_append_le32(&w.keys, i == 256 ? 3 : 1), FP_OK);
    gw_strings(&w, "tokenizer.ggml.merges", (const char *const[]){"a b", "ab c", "x y"}, 3);
    gw_finish(&w, &file);
    fp__tokenizer *tok = load_bytes(&file);
    EXPECT(tok, "ab", 0, 'a', 'b');
    EXPECT(tok, "abc", 0, 257);
    EXPECT(tok, "xy", 0, 'x', 'y'); /* a merge into a text that is no token */
    EXPECT(tok, "ab", FP__TOKENIZE_SPECIAL, 256);
    fp__tokenizer_destroy(tok);
    fp__buf_free(&file);
    fp__buf_free(&keys);
}

static uint32_t random_code_point(gw_random *r)
{
    static const uint32_t limits[] = {0x80, 0x80, 0x800, 0x10000, 0x110000};
    uint32_t c;
    do {
        uint32_t limit = limits[gw_next(r) % 5];
        c = (uint32_t)(gw_next(r) % limit);
    } while ((c >= 0xd800 && c < 0xe000) || c == 0x2581); /* SPM writes a space as U+2581 */
    return c;
}

static size_t put_utf8(uint32_t c, char *out)
{
    if (c < 0x80)
        return out[0] = (char)c, 1;
    if (c < 0x800)
        return out[0] = (char)(0xc0 | c >> 6), out[1] = (char)(0x80 | (c & 63)), 2;
    if (c < 0x10000)
        return out[0] = (char)(0xe0 | c >> 12), out[1] = (char)(0x80 | (c >> 6 & 63)),
               out[2] = (char)(0x80 | (c & 63)), 3;
    out[0] = (char)(0xf0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 63));
    out[2] = (char)(0x80 | (c >> 6 & 63));
    out[3] = (char)(0x80 | (c & 63));
    return 4;
}

static size_t random_text(gw_random *r, char *out, size_t characters)
{
    size_t size = 0;
    for (size_t i = 0; i < characters; i++) {
        bool plain = gw_next(r) % 4 == 0;
        uint32_t c = plain ? (uint32_t) " the\n  us"[gw_next(r) % 9] : random_code_point(r);
        size += put_utf8(c, out + size);
    }
    return size;
}

static void round_trips(const fp__tokenizer *tok)
{
    gw_random r = {7};
    char text[400];
    for (int i = 0; i < 3000; i++) {
        size_t size = random_text(&r, text, (size_t)(gw_next(&r) % 100));
        fp__ids ids = {0};
        fp__buf back = {0}, streamed = {0};
        fp__detok d;
        assert_int_equal(fp__tokenizer_encode(tok, text, size, 0, &ids), FP_OK);
        assert_int_equal(fp__tokenizer_decode(tok, ids.data, ids.size, 0, &back), FP_OK);
        fp__detok_init(&d, tok, 0);
        for (size_t k = 0; k < ids.size; k++) {
            assert_int_equal(fp__detok_push(&d, ids.data[k], &streamed), FP_OK);
            assert_true(fp__utf8_valid(streamed.data, streamed.size, NULL));
        }
        assert_int_equal(fp__detok_flush(&d, &streamed), FP_OK);
        assert_int_equal(back.size, size);
        assert_int_equal(streamed.size, size);
        if (size) {
            assert_memory_equal(back.data, text, size);
            assert_memory_equal(streamed.data, text, size);
        }
        fp__ids_free(&ids);
        fp__buf_free(&back);
        fp__buf_free(&streamed);
    }
}

static void bpe_round_trips(void **state)
{
    (void)state;
    fp__tokenizer *tok = tiny_tokenizer();
    round_trips(tok);
    fp__tokenizer_destroy(tok);
}

static void long_words_are_fast(void **state)
{
    (void)state;
    fp__tokenizer *tok = tiny_tokenizer();
    size_t size = 1 << 20;
    char *text = malloc(size);
    assert_non_null(text);
    memset(text, 'e', size); /* one word; every pair is looked at */
    for (size_t i = 0; i < size; i += 2)
        text[i] = 'h';
    fp__ids ids = {0};
    assert_int_equal(fp__tokenizer_encode(tok, text, size, 0, &ids), FP_OK);
    assert_int_equal(ids.size, size / 2);
    memset(text, ' ', size);
    ids.size = 0;
    assert_int_equal(fp__tokenizer_encode(tok, text, size, 0, &ids), FP_OK);
    assert_int_equal(ids.size, size / 2);
    fp__ids_free(&ids);
    free(text);
    fp__tokenizer_destroy(tok);
}

static void bad_text_is_refused(void **state)
{
    (void)state;
    fp__tokenizer *tok = tiny_tokenizer();
    fp__ids ids = {0};
    assert_int_equal(fp__ids_append(&ids, 42), FP_OK);
    static const char *const bad[] = {"abc\xff", "abc\xc3", "abc\xed\xa0\x80", "abc\xc0\x80",
                                      "abc\xf4\x90\x80\x80"};
    for (size_t i = 0; i < 5; i++) {
        assert_int_equal(fp__tokenizer_encode(tok, bad[i], strlen(bad[i]), 0, &ids), FP_TEXT);
        assert_non_null(strstr(fp_error_detail(), "byte 3"));
        assert_int_equal(ids.size, 1);
    }
    fp__buf out = {0};
    assert_int_equal(fp__tokenizer_piece(tok, fp__tokenizer_size(tok), 0, &out), FP_USAGE);
    fp__ids_free(&ids);
    fp__tokenizer_destroy(tok);
}

static void streaming_holds_back_and_repairs(void **state)
{
    (void)state;
    fp__tokenizer *tok = tiny_tokenizer();
    fp__detok d;
    fp__buf out = {0};
    static const struct {
        uint8_t bytes[8];
        size_t n;
        const char *after_each[8], *flushed;
    } cases[] = {
        {{0xf0, 0x9f, 0x99, 0x82}, 4, {"", "", "", "\xf0\x9f\x99\x82"}, ""},
        {{0xe2, 0x82}, 2, {"", ""}, "\xef\xbf\xbd"},
        {{0xe2, 'a'},
         2,
         {"", "\xef\xbf\xbd"
              "a"},
         ""},
        {{0x80, 'a'}, 2, {"\xef\xbf\xbd", "a"}, ""},
        {{0xed, 0xa0, 0x80}, 3, {"", "\xef\xbf\xbd\xef\xbf\xbd", "\xef\xbf\xbd"}, ""},
        {{0xf0, 0x9f, 0xc3, 0xa9}, 4, {"", "", "\xef\xbf\xbd", "\xc3\xa9"}, ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fp__detok_init(&d, tok, 0);
        for (size_t k = 0; k < cases[i].n; k++) {
            out.size = 0;
            assert_int_equal(fp__detok_push(&d, B + cases[i].bytes[k], &out), FP_OK);
            assert_int_equal(out.size, strlen(cases[i].after_each[k]));
            if (out.size)
                assert_memory_equal(out.data, cases[i].after_each[k], out.size);
        }
        out.size = 0;
        assert_int_equal(fp__detok_flush(&d, &out), FP_OK);
        assert_int_equal(out.size, strlen(cases[i].flushed));
    }
    fp__detok_init(&d, tok, FP__DETOK_SPECIAL);
    out.size = 0;
    assert_int_equal(fp__detok_push(&d, GW_ID_IM_END, &out), FP_OK);
    assert_int_equal(out.size, 10);
    fp__detok_init(&d, tok, 0);
    out.size = 0;
    assert_int_equal(fp__detok_push(&d, GW_ID_IM_END, &out), FP_OK);
    assert_int_equal(out.size, 0);
    fp__buf_free(&out);
    fp__tokenizer_destroy(tok);
}

/* ---- SPM ---- */

static void spm_merges_by_score(void **state)
{
    (void)state;
    static const char *const pieces[] = {"▁t", "he", "▁the", "in", "▁", "t", "h", "e", "i", "n", "<x>", "▁▁"};
    static const int32_t types[] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 4, 1};
    enum { T = 259, HE = 260, THE = 261, IN = 262, SPACE = 263, LT = 264, X = 269, BYTES = 3 };
    fp__tokenizer *tok = tiny_spm(pieces, 12, types);
    EXPECT(tok, "the", 0, THE);
    EXPECT(tok, "the", FP__TOKENIZE_CONTINUE, LT, HE);
    EXPECT(tok, "the", FP__TOKENIZE_ADD, 1, THE);
    EXPECT(tok, "the", FP__TOKENIZE_ADD | FP__TOKENIZE_CONTINUE, 1,
           THE); /* follows BOS: the space belongs there */
    EXPECT(tok, "the in", 0, THE, SPACE, IN);
    EXPECT(tok, "\xc3\xa9", FP__TOKENIZE_CONTINUE, BYTES + 0xc3, BYTES + 0xa9);
    EXPECT(tok, "the<x>the", 0, THE, X, THE); /* user-defined: always; then as at a start */
    EXPECT(tok, "</s>", FP__TOKENIZE_SPECIAL, 2);
    EXPECT(tok, "</s>", FP__TOKENIZE_CONTINUE, BYTES + '<', BYTES + '/', BYTES + 's', BYTES + '>');
    EXPECT(tok, "  the", 0, 270, THE); /* ▁▁▁the */
    expect_ids(tok, "", 0, NULL, 0);
    round_trips(tok);
    fp__buf out = {0};
    assert_int_equal(fp__tokenizer_decode(tok, (const uint32_t[]){1, THE, THE}, 3, 0, &out), FP_OK);
    assert_int_equal(out.size, 7);
    assert_memory_equal(out.data, "the the", 7);
    out.size = 0;
    assert_int_equal(fp__tokenizer_decode(tok, (const uint32_t[]){THE}, 1, FP__DETOK_CONTINUE, &out), FP_OK);
    assert_memory_equal(out.data, " the", 4);
    fp__buf_free(&out);
    assert_int_equal(fp__tokenizer_eos(tok), 2);
    assert_true(fp__tokenizer_is_eog(tok, 2));
    fp__tokenizer_destroy(tok);
}

static void spm_text_cannot_make_control_or_byte_tokens(void **state)
{
    (void)state;
    /* all the steps from characters to "<s>" and "<0x41>" are in the vocabulary */
    static const char *const pieces[] = {"<", "s", ">",  "<s",  "0",    "x",
                                         "4", "1", "<0", "<0x", "<0x4", "<0x41"};
    fp__tokenizer *tok = tiny_spm(pieces, 12, NULL);
    EXPECT(tok, "<s>", FP__TOKENIZE_CONTINUE, 262, 261);
    EXPECT(tok, "<0x41>", FP__TOKENIZE_CONTINUE, 270, 261);
    fp__tokenizer_destroy(tok);
}

/* ---- pre-tokenizers ---- */

static void expect_words(const char *name, const char *const *words)
{
    char text[256] = "";
    for (size_t i = 0; words[i]; i++)
        strcat(text, words[i]);
    fp__pretokenizer *p;
    size_t *ends = NULL, n = 0, capacity = 0, at = 0;
    assert_int_equal(fp__pretokenizer_create(name, &p), FP_OK);
    assert_int_equal(fp__pretokenize(p, text, strlen(text), &ends, &n, &capacity), FP_OK);
    for (size_t i = 0; words[i]; i++) {
        at += strlen(words[i]);
        if (i >= n || ends[i] != at)
            fail_msg("%s: word %zu ('%s') of '%s'", name, i, words[i], text);
    }
    assert_int_equal(ends[n - 1], strlen(text));
    free(ends);
    fp__pretokenizer_destroy(p);
}
#define WORDS(name, ...) expect_words(name, (const char *const[]){__VA_ARGS__, NULL})

static void pretokenizers_cut_words(void **state)
{
    (void)state;
    WORDS("gpt-2", "It", "'s", " 1234", " a", " ", " b", "!?", "\n", "\n", "x", "  ");
    WORDS("gpt-2", "IT", "'", "S"); /* contractions are lower case here */
    WORDS("smollm", "a", " ", "1", "2", "3", " b", "’", "s");
    WORDS("llama-bpe", "IT", "'S", " ", "123", "456", "7", " .", "x", "!!\n\n", " ", " y", "\n \n");
    WORDS("llama3", "don", "'t", " x");
    WORDS("qwen2", "1", "2", " Ünï", "\t", "\tx", "...\r\n", "é");
    WORDS("default", "a", "$+", "b", " ", "123", "456", "7", " c", "`", "!");
    WORDS("gpt-2", "\xe4\xb8\xad\xe6\x96\x87", "\xe3\x80\x82", "\xe3\x80\x80",
          "\xd9\xa1");                   /* letters, 。, wide space, digit */
    WORDS("gpt-2", "x", "\xe1\xa0\x8e"); /* U+180E is no space */
    fp__pretokenizer *p;
    assert_int_equal(fp__pretokenizer_create("gpt-9", &p), FP_UNSUPPORTED);
    assert_non_null(strstr(fp_error_detail(), "gpt-9"));
}

static void unicode_classes(void **state)
{
    (void)state;
    static const struct {
        uint32_t c;
        fp__unicode_class class;
    } cases[] = {{'a', FP__UNICODE_LETTER},
                 {'0', FP__UNICODE_NUMBER},
                 {' ', FP__UNICODE_SPACE},
                 {'!', FP__UNICODE_PUNCTUATION},
                 {'+', FP__UNICODE_OTHER},
                 {0, FP__UNICODE_OTHER},
                 {0x85, FP__UNICODE_SPACE},
                 {0x180e, FP__UNICODE_OTHER},
                 {0x1c, FP__UNICODE_OTHER},
                 {0x2ebf0, FP__UNICODE_LETTER},
                 /* new in Unicode 15.1 */ {0x1c89, FP__UNICODE_OTHER}, /* 16.0 */
                 {0x10ffff, FP__UNICODE_OTHER},
                 {0x110000, FP__UNICODE_OTHER},
                 {UINT32_MAX, FP__UNICODE_OTHER}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(fp__unicode_class_of(cases[i].c), cases[i].class);
}

/* ---- refusals, digest ---- */

static void expect_refusal(const char *name, gguf_writer *w, fp_status status, const char *word)
{
    fp__buf file = {0};
    fp__gguf *g;
    fp__tokenizer *tok = NULL;
    gw_finish(w, &file);
    assert_int_equal(fp__gguf_open_memory(file.data, file.size, "test", &g), FP_OK);
    fp_status got = fp__tokenizer_load(g, &tok);
    if (got != status || !strstr(fp_error_detail(), word))
        fail_msg("%s: %s (%s)", name, fp_status_name(got), fp_error_detail());
    fp__gguf_close(g);
    fp__buf_free(&file);
}

static void bpe_head(gguf_writer *w, const char *pre)
{
    gw_string(w, "tokenizer.ggml.model", "gpt2");
    gw_string(w, "tokenizer.ggml.pre", pre);
    gw_strings(w, "tokenizer.ggml.tokens", (const char *const[]){"a", "b", "ab"}, 3);
}

static void spm_head(gguf_writer *w)
{
    gw_string(w, "tokenizer.ggml.model", "llama");
    gw_strings(w, "tokenizer.ggml.tokens", (const char *const[]){"<unk>", "<s>", "</s>"}, 3);
}

static void bad_vocabularies_are_refused(void **state)
{
    (void)state;
    static const char *const merge[] = {"a b"};
    gguf_writer w = {0};
    expect_refusal("no vocabulary", &w, FP_NOT_FOUND, "tokenizer.ggml.model");
    gw_string(&w, "tokenizer.ggml.model", "bert");
    expect_refusal("another model", &w, FP_UNSUPPORTED, "bert");
    gw_u32(&w, "tokenizer.ggml.model", 1);
    expect_refusal("model of a wrong type", &w, FP_FORMAT, "tokenizer.ggml.model");
    bpe_head(&w, "deepseek-coder");
    expect_refusal("another pre-tokenizer", &w, FP_UNSUPPORTED, "deepseek-coder");
    gw_string(&w, "tokenizer.ggml.model", "gpt2");
    expect_refusal("no tokens", &w, FP_NOT_FOUND, "tokens");
    gw_string(&w, "tokenizer.ggml.model", "gpt2");
    gw_strings(&w, "tokenizer.ggml.tokens", NULL, 0);
    expect_refusal("an empty vocabulary", &w, FP_LIMIT, "0 tokens");
    bpe_head(&w, "gpt-2");
    expect_refusal("no merges", &w, FP_NOT_FOUND, "merges");
    bpe_head(&w, "gpt-2");
    gw_strings(&w, "tokenizer.ggml.merges", (const char *const[]){"ab"}, 1);
    expect_refusal("a merge of one symbol", &w, FP_FORMAT, "merge 0");
    bpe_head(&w, "gpt-2");
    gw_strings(&w, "tokenizer.ggml.merges", (const char *const[]){"a b", "a "}, 2);
    expect_refusal("a merge with nothing", &w, FP_FORMAT, "merge 1");
    bpe_head(&w, "gpt-2");
    gw_strings(&w, "tokenizer.ggml.merges", (const char *const[]){""}, 1);
    expect_refusal("an empty merge", &w, FP_FORMAT, "merge 0");
    bpe_head(&w, "gpt-2");
    gw_i32s(&w, "tokenizer.ggml.token_type", (const int32_t[]){1, 1}, 2);
    expect_refusal("too few types", &w, FP_FORMAT, "token_type");
    bpe_head(&w, "gpt-2");
    gw_i32s(&w, "tokenizer.ggml.token_type", (const int32_t[]){1, 1, 9}, 3);
    expect_refusal("an unknown type", &w, FP_FORMAT, "unknown type 9");
    bpe_head(&w, "gpt-2");
    gw_strings(&w, "tokenizer.ggml.merges", merge, 1);
    gw_bool(&w, "tokenizer.ggml.add_bos_token", true);
    expect_refusal("BOS without a token", &w, FP_FORMAT, "BOS");
    bpe_head(&w, "gpt-2");
    gw_u32(&w, "tokenizer.ggml.add_bos_token", 1);
    expect_refusal("add_bos_token is a number", &w, FP_FORMAT, "boolean");
    spm_head(&w);
    expect_refusal("no scores", &w, FP_NOT_FOUND, "scores");
    spm_head(&w);
    gw_f32s(&w, "tokenizer.ggml.scores", (const float[]){0, 0}, 2);
    expect_refusal("too few scores", &w, FP_FORMAT, "scores");
    spm_head(&w);
    float infinite = 1e38f;
    gw_f32s(&w, "tokenizer.ggml.scores", (const float[]){0, 0, infinite * 10}, 3);
    expect_refusal("an infinite score", &w, FP_FORMAT, "not finite");
}

/* Every setting that decides ids changes the canonical bytes. */
static void serialization_covers_the_settings(void **state)
{
    (void)state;
    enum { VARIANTS = 9 };
    fp__buf bytes[VARIANTS] = {{0}};
    for (int v = 0; v < VARIANTS; v++) {
        gguf_writer w = {0};
        fp__buf file = {0};
        gw_string(&w, "tokenizer.ggml.model", "gpt2");
        gw_string(&w, "tokenizer.ggml.pre", v == 1 ? "qwen2" : "gpt-2");
        gw_strings(&w, "tokenizer.ggml.tokens", (const char *const[]){"a", v == 2 ? "c" : "b", "ab", "<e>"},
                   4);
        gw_i32s(&w, "tokenizer.ggml.token_type", (const int32_t[]){1, 1, 1, v == 3 ? 4 : 3}, 4);
        gw_strings(&w, "tokenizer.ggml.merges", (const char *const[]){v == 4 ? "b a" : "a b", "ab b"},
                   v == 5 ? 1 : 2);
        gw_u32(&w, "tokenizer.ggml.eos_token_id", v == 6 ? 2 : 3);
        gw_u32(&w, "tokenizer.ggml.bos_token_id", v == 7 ? 2 : 3);
        gw_bool(&w, "tokenizer.ggml.add_bos_token", v == 8);
        gw_finish(&w, &file);
        fp__tokenizer *tok = load_bytes(&file);
        assert_int_equal(fp__tokenizer_serialize(tok, &bytes[v]), FP_OK);
        assert_memory_equal(bytes[v].data, "fieldprint/tokn\x01", 16);
        fp__buf again = {0};
        assert_int_equal(fp__tokenizer_serialize(tok, &again), FP_OK);
        assert_int_equal(again.size, bytes[v].size);
        assert_memory_equal(again.data, bytes[v].data, again.size);
        fp__buf_free(&again);
        fp__tokenizer_destroy(tok);
        fp__buf_free(&file);
    }
    for (int a = 0; a < VARIANTS; a++)
        for (int b = 0; b < a; b++)
            assert_false(bytes[a].size == bytes[b].size &&
                         memcmp(bytes[a].data, bytes[b].data, bytes[a].size) == 0);
    for (int v = 0; v < VARIANTS; v++)
        fp__buf_free(&bytes[v]);
}

/* ---- the default model ---- */

static void default_model(void **state)
{
    (void)state;
    const char *path = getenv("FIELDPRINT_MODEL");
    if (!path || !fp__file_exists(path)) {
        print_message("skipped: FIELDPRINT_MODEL names no model\n");
        skip();
    }
    fp__gguf *g;
    fp__tokenizer *tok;
    assert_int_equal(fp__gguf_open(path, &g), FP_OK);
    fp__gguf_string name;
    assert_int_equal(fp__gguf_get_string(g, "general.basename", &name), FP_OK);
    if (name.size != 7 || memcmp(name.data, "smollm2", 7) != 0) {
        fp__gguf_close(g);
        print_message("skipped: FIELDPRINT_MODEL is another model\n");
        skip();
    }
    assert_int_equal(fp__tokenizer_load(g, &tok), FP_OK);
    fp__gguf_close(g);
    assert_string_equal(fp__tokenizer_pre(tok), "smollm");
    assert_int_equal(fp__tokenizer_size(tok), 49152);
    assert_int_equal(fp__tokenizer_eot(tok), 2);
    /* ids from llama.cpp */
    EXPECT(tok, "Hello world", 0, 19556, 905);
    EXPECT(tok, "<|im_start|>user\nWhat is 2+2?<|im_end|>\n", FP__TOKENIZE_SPECIAL, 1, 4093, 198, 1780, 314,
           216, 34, 27, 34, 47, 2, 198);
    EXPECT(tok, "x\x04y", 0, 104, 105); /* a byte that this vocabulary lacks */
    fp__tokenizer_destroy(tok);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vectors_gpt2),
        cmocka_unit_test(vectors_llama_spm),
        cmocka_unit_test(bpe_merges_by_rank),
        cmocka_unit_test(special_tokens_need_permission),
        cmocka_unit_test(merges_cannot_make_control_tokens),
        cmocka_unit_test(bpe_round_trips),
        cmocka_unit_test(long_words_are_fast),
        cmocka_unit_test(bad_text_is_refused),
        cmocka_unit_test(streaming_holds_back_and_repairs),
        cmocka_unit_test(spm_merges_by_score),
        cmocka_unit_test(spm_text_cannot_make_control_or_byte_tokens),
        cmocka_unit_test(pretokenizers_cut_words),
        cmocka_unit_test(unicode_classes),
        cmocka_unit_test(bad_vocabularies_are_refused),
        cmocka_unit_test(serialization_covers_the_settings),
        cmocka_unit_test(default_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
