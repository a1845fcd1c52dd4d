/* Fuzz target: a model file. Whatever opens is walked completely: keys, arrays, tensor bytes, tokenizer, chat
 * template. */
#include "model/chat.h"
#include <stdlib.h>

static uint64_t walk_arrays(const fp__gguf *g, const char *key)
{
    fp__gguf_array a;
    uint64_t sum = 0;
    if (fp__gguf_get_array(g, key, FP__GGUF_STRING, &a) == FP_OK)
        for (size_t cursor = 0, i = 0; i < a.count; i++) {
            fp__gguf_string s = fp__gguf_string_next(&a, &cursor);
            for (size_t k = 0; k < s.size; k++)
                sum += (uint8_t)s.data[k];
        }
    return sum;
}

static uint64_t walk(const fp__gguf *g)
{
    uint64_t sum = 0, u = 0;
    float f;
    bool b;
    for (size_t i = 0; i < fp__gguf_key_count(g); i++) {
        fp__gguf_string key, s;
        fp__gguf_type type;
        fp__gguf_key_at(g, i, &key, &type);
        char name[64];
        if (key.size >= sizeof name)
            continue;
        memcpy(name, key.data, key.size);
        name[key.size] = 0;
        sum += fp__gguf_get_u64(g, name, &u) == FP_OK ? u : 0;
        sum += fp__gguf_get_f32(g, name, &f) == FP_OK;
        sum += fp__gguf_get_bool(g, name, &b) == FP_OK;
        if (fp__gguf_get_string(g, name, &s) == FP_OK)
            for (size_t k = 0; k < s.size; k++)
                sum += (uint8_t)s.data[k];
        sum += walk_arrays(g, name);
    }
    for (size_t i = 0; i < fp__gguf_tensor_count(g); i++) {
        const fp__gguf_tensor *t = fp__gguf_tensor_at(g, i);
        if (t->data)
            sum += (uint64_t)t->data[0] + t->data[t->size_bytes - 1];
    }
    return sum;
}

static void use_tokenizer(const fp__gguf *g)
{
    fp__tokenizer *tok = NULL;
    fp__chat_template *t = NULL;
    if (fp__tokenizer_load(g, &tok) != FP_OK)
        return;
    static const char text[] = "the <|im_start|> caf\xc3\xa9 12 \n";
    const fp__chat_message message = {FP__ROLE_USER, text, sizeof text - 1};
    fp__ids ids = {0};
    fp__buf out = {0};
    if (fp__tokenizer_encode(tok, text, sizeof text - 1, FP__TOKENIZE_SPECIAL | FP__TOKENIZE_ADD, &ids) ==
        FP_OK)
        FP_CHECK(fp__tokenizer_decode(tok, ids.data, ids.size, FP__DETOK_SPECIAL, &out) == FP_OK);
    FP_CHECK(fp__tokenizer_serialize(tok, &out) == FP_OK);
    if (fp__chat_template_load(g, NULL, &t) == FP_OK)
        (void)!fp__chat_tokenize(tok, t, &message, 1, FP__CHAT_GENERATE, &ids, NULL);
    for (size_t i = 0; i < ids.size; i++)
        FP_CHECK(ids.data[i] < fp__tokenizer_size(tok));
    fp__chat_template_destroy(t);
    fp__ids_free(&ids);
    fp__buf_free(&out);
    fp__tokenizer_destroy(tok);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static volatile uint64_t sink; /* keeps the reads */
    fp__gguf *g;
    if (fp__gguf_open_memory(data, size, "fuzz", &g) != FP_OK)
        return 0;
    sink = sink + walk(g);
    use_tokenizer(g);
    fp__gguf_close(g);
    return 0;
}
