/* Fuzz target: text to tokenize. The first byte chooses the vocabulary and the flags; the rest is the text.
 * What is UTF-8 must encode; without special tokens it must decode to itself and hold no control token. */
#include "../tests/gguf_writer.h"
#include "model/tokenizer.h"

enum { VOCABULARIES = 6 };
static fp__tokenizer *vocabularies[VOCABULARIES];

static void bpe_file(const char *pre, fp__buf *file)
{
    gguf_writer w = {0};
    gw_byte_bpe(&w, 0);
    gw_finish(&w, file);
    /* "smollm" is the longest of the names: overwrite it and its length, and close the gap */
    uint8_t *at = memmem(file->data, file->size, "smollm", 6);
    size_t n = strlen(pre);
    FP_CHECK(at);
    if (n > 6)
        GW_CHECK(fp__buf_reserve(file, n - 6));
    at = memmem(file->data, file->size, "smollm", 6);
    memmove(at + n, at + 6, file->size - (size_t)(at + 6 - file->data));
    memcpy(at, pre, n);
    fp__store_le64(at - 8, n);
    file->size += n - 6;
}

static void spm_file(fp__buf *file)
{
    static const char *const pieces[] = {"▁", "▁t", "he", "▁the", "in", "t", "h", "e",
                                         "i", "n",  "é",  "▁▁",   "<s", "s", ">"};
    enum { N = sizeof pieces / sizeof pieces[0] };
    gguf_writer w = {0};
    char byte[8];
    gw_string(&w, "tokenizer.ggml.model", "llama");
    gw_array(&w, "tokenizer.ggml.tokens", FP__GGUF_STRING, 259 + N);
    gw_put_string(&w.keys, "<unk>", 5);
    gw_put_string(&w.keys, "<s>", 3);
    gw_put_string(&w.keys, "</s>", 4);
    for (unsigned b = 0; b < 256; b++) {
        snprintf(byte, sizeof byte, "<0x%02X>", b);
        gw_put_string(&w.keys, byte, 6);
    }
    float scores[259 + N] = {0};
    int32_t types[259 + N];
    for (size_t i = 0; i < 259 + N; i++)
        types[i] = i == 0 ? 2 : i < 3 ? 3 : i < 259 ? 6 : 1;
    for (size_t i = 0; i < N; i++) {
        gw_put_string(&w.keys, pieces[i], strlen(pieces[i]));
        scores[259 + i] = -(float)i;
    }
    gw_f32s(&w, "tokenizer.ggml.scores", scores, 259 + N);
    gw_i32s(&w, "tokenizer.ggml.token_type", types, 259 + N);
    gw_finish(&w, file);
}

static const fp__tokenizer *vocabulary(unsigned which)
{
    static const char *const pre[] = {"smollm", "gpt-2", "llama-bpe", "qwen2", "default"};
    if (!vocabularies[which]) {
        fp__buf file = {0};
        fp__gguf *g;
        if (which < 5)
            bpe_file(pre[which], &file);
        else
            spm_file(&file);
        GW_CHECK(fp__gguf_open_memory(file.data, file.size, "fuzz", &g));
        GW_CHECK(fp__tokenizer_load(g, &vocabularies[which]));
        fp__gguf_close(g);
        fp__buf_free(&file);
    }
    return vocabularies[which];
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size)
        return 0;
    const fp__tokenizer *tok = vocabulary(data[0] % VOCABULARIES);
    bool special = data[0] & 0x80;
    const char *text = (const char *)data + 1;
    fp__ids ids = {0};
    fp__buf out = {0}, streamed = {0};
    fp_status status = fp__tokenizer_encode(tok, text, size - 1, special ? FP__TOKENIZE_SPECIAL : 0, &ids);
    FP_CHECK(status == FP_OK || (status == FP_TEXT && !fp__utf8_valid(text, size - 1, NULL)));
    GW_CHECK(fp__tokenizer_decode(tok, ids.data, ids.size, special ? FP__DETOK_SPECIAL : 0, &out));
    /* SPM writes spaces as U+2581, so it cannot tell the two apart */
    bool lossy = data[0] % VOCABULARIES == 5 && memmem(text, size - 1, "\xe2\x96\x81", 3);
    if (status == FP_OK && !special && !lossy)
        FP_CHECK(out.size == size - 1 && (out.size == 0 || memcmp(out.data, text, out.size) == 0));
    fp__detok d;
    fp__detok_init(&d, tok, 0);
    for (size_t i = 0; i < ids.size; i++) {
        FP_CHECK(special || !fp__tokenizer_is_control(tok, ids.data[i]));
        GW_CHECK(fp__detok_push(&d, ids.data[i], &streamed));
    }
    for (size_t i = 0; i < size; i++) /* arbitrary tokens: always well-formed output */
        GW_CHECK(fp__detok_push(&d, data[i] % fp__tokenizer_size(tok), &streamed));
    GW_CHECK(fp__detok_flush(&d, &streamed));
    FP_CHECK(fp__utf8_valid(streamed.data, streamed.size, NULL));
    fp__ids_free(&ids);
    fp__buf_free(&out);
    fp__buf_free(&streamed);
    return 0;
}
