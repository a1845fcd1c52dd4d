/* Test helper: builds small GGUF files in memory, among them complete tiny models with random weights.
 *
 *   gguf_writer w = {0};
 *   gw_string(&w, "general.architecture", "llama");
 *   gw_tensor(&w, "x", FP__GGML_F32, 2, (uint64_t[]){32, 4}, data, size);
 *   fp__buf file = {0};
 *   gw_finish(&w, &file);            // frees w; file.data is the GGUF
 *
 *   gw_model m = gw_model_default(); // then change what the test needs
 *   gw_write_model(&m, "/tmp/x.gguf");
 *
 * Everything aborts when memory or the disk is out: this is for tests only. */
#ifndef FP_TESTS_GGUF_WRITER_H
#define FP_TESTS_GGUF_WRITER_H
#include "core/file.h"
#include "model/gguf.h"
#include <stdio.h>
#include <stdlib.h>

#define GW_CHECK(expr)                                                                                       \
    do {                                                                                                     \
        if ((expr) != FP_OK) {                                                                               \
            fprintf(stderr, "gguf_writer: %s\n", fp_error_detail());                                         \
            abort();                                                                                         \
        }                                                                                                    \
    } while (0)

typedef struct gguf_writer {
    fp__buf keys, infos, data;
    uint64_t n_keys, n_tensors;
    uint32_t alignment; /* 0: the default of 32 */
    uint32_t version;   /* 0: 3 */
} gguf_writer;

static inline void gw_put_string(fp__buf *b, const void *text, size_t size)
{
    GW_CHECK(fp__buf_append_le64(b, size));
    GW_CHECK(fp__buf_append(b, text, size));
}

static inline void gw_key(gguf_writer *w, const char *key, uint32_t type)
{
    gw_put_string(&w->keys, key, strlen(key));
    GW_CHECK(fp__buf_append_le32(&w->keys, type));
    w->n_keys++;
}

static inline void gw_u32(gguf_writer *w, const char *key, uint32_t v)
{
    gw_key(w, key, FP__GGUF_U32);
    GW_CHECK(fp__buf_append_le32(&w->keys, v));
}

static inline void gw_u64(gguf_writer *w, const char *key, uint64_t v)
{
    gw_key(w, key, FP__GGUF_U64);
    GW_CHECK(fp__buf_append_le64(&w->keys, v));
}

static inline void gw_i32(gguf_writer *w, const char *key, int32_t v)
{
    gw_key(w, key, FP__GGUF_I32);
    GW_CHECK(fp__buf_append_le32(&w->keys, (uint32_t)v));
}

static inline void gw_f32(gguf_writer *w, const char *key, float v)
{
    uint32_t bits;
    memcpy(&bits, &v, 4);
    gw_key(w, key, FP__GGUF_F32);
    GW_CHECK(fp__buf_append_le32(&w->keys, bits));
}

static inline void gw_bool(gguf_writer *w, const char *key, bool v)
{
    uint8_t byte = v;
    gw_key(w, key, FP__GGUF_BOOL);
    GW_CHECK(fp__buf_append(&w->keys, &byte, 1));
}

static inline void gw_bytes(gguf_writer *w, const char *key, const void *text, size_t size)
{
    gw_key(w, key, FP__GGUF_STRING);
    gw_put_string(&w->keys, text, size);
}

static inline void gw_string(gguf_writer *w, const char *key, const char *text)
{
    gw_bytes(w, key, text, strlen(text));
}

/* The head of an array; the caller appends the elements to w->keys. */
static inline void gw_array(gguf_writer *w, const char *key, fp__gguf_type element, uint64_t count)
{
    gw_key(w, key, FP__GGUF_ARRAY);
    GW_CHECK(fp__buf_append_le32(&w->keys, (uint32_t)element));
    GW_CHECK(fp__buf_append_le64(&w->keys, count));
}

static inline void gw_strings(gguf_writer *w, const char *key, const char *const *texts, size_t n)
{
    gw_array(w, key, FP__GGUF_STRING, n);
    for (size_t i = 0; i < n; i++)
        gw_put_string(&w->keys, texts[i], strlen(texts[i]));
}

static inline void gw_i32s(gguf_writer *w, const char *key, const int32_t *values, size_t n)
{
    gw_array(w, key, FP__GGUF_I32, n);
    for (size_t i = 0; i < n; i++)
        GW_CHECK(fp__buf_append_le32(&w->keys, (uint32_t)values[i]));
}

static inline void gw_f32s(gguf_writer *w, const char *key, const float *values, size_t n)
{
    gw_array(w, key, FP__GGUF_F32, n);
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &values[i], 4);
        GW_CHECK(fp__buf_append_le32(&w->keys, bits));
    }
}

static inline void gw_pad(fp__buf *b, size_t alignment)
{
    static const uint8_t zeros[64];
    while (b->size % alignment) {
        size_t n = alignment - b->size % alignment;
        GW_CHECK(fp__buf_append(b, zeros, n < sizeof zeros ? n : sizeof zeros));
    }
}

static inline void gw_tensor(gguf_writer *w, const char *name, uint32_t type, uint32_t n_dims,
                             const uint64_t *dims, const void *data, size_t size)
{
    gw_pad(&w->data, w->alignment ? w->alignment : 32);
    gw_put_string(&w->infos, name, strlen(name));
    GW_CHECK(fp__buf_append_le32(&w->infos, n_dims));
    for (uint32_t i = 0; i < n_dims; i++)
        GW_CHECK(fp__buf_append_le64(&w->infos, dims[i]));
    GW_CHECK(fp__buf_append_le32(&w->infos, type));
    GW_CHECK(fp__buf_append_le64(&w->infos, w->data.size));
    GW_CHECK(fp__buf_append(&w->data, data, size));
    w->n_tensors++;
}

/* Puts the file together in `out` (appended to an empty buffer) and releases w. */
static inline void gw_finish(gguf_writer *w, fp__buf *out)
{
    GW_CHECK(fp__buf_append(out, "GGUF", 4));
    GW_CHECK(fp__buf_append_le32(out, w->version ? w->version : 3));
    GW_CHECK(fp__buf_append_le64(out, w->n_tensors));
    GW_CHECK(fp__buf_append_le64(out, w->n_keys));
    GW_CHECK(fp__buf_append(out, w->keys.data, w->keys.size));
    GW_CHECK(fp__buf_append(out, w->infos.data, w->infos.size));
    if (w->n_tensors)
        gw_pad(out, w->alignment ? w->alignment : 32);
    GW_CHECK(fp__buf_append(out, w->data.data, w->data.size));
    fp__buf_free(&w->keys);
    fp__buf_free(&w->infos);
    fp__buf_free(&w->data);
    *w = (gguf_writer){0};
}

/* ---- random weights ---- */

typedef struct gw_random {
    uint64_t state;
} gw_random;

static inline uint64_t gw_next(gw_random *r) /* splitmix64 */
{
    uint64_t z = (r->state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Uniform in [-1, 1). */
static inline float gw_uniform(gw_random *r)
{
    return (float)(int32_t)(gw_next(r) >> 32) * 0x1p-31f;
}

/* binary16 of a finite value, rounded towards zero, below its normal range to zero. */
static inline uint16_t gw_f16(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, 4);
    uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude < 0x38800000)
        return (uint16_t)sign;
    if (magnitude >= 0x47800000)
        magnitude = 0x477fe000;
    return (uint16_t)(sign | ((magnitude - 0x38000000) >> 13));
}

static inline void gw_put_f16(uint8_t *p, float x)
{
    fp__store_le16(p, gw_f16(x));
}

/* One block of random weights of about ±amplitude; layouts as in ggml. */
static inline void gw_random_block(gw_random *r, uint32_t type, float amplitude, uint8_t *p, uint32_t bytes)
{
    for (uint32_t i = 0; i < bytes; i++)
        p[i] = (uint8_t)(gw_next(r) >> 40);
    float a = amplitude * (0.75f + 0.25f * gw_uniform(r));
    uint32_t bits;
    switch (type) {
    case FP__GGML_F32:
        a = amplitude * gw_uniform(r);
        memcpy(&bits, &a, 4);
        fp__store_le32(p, bits);
        break;
    case FP__GGML_F16:
        gw_put_f16(p, amplitude * gw_uniform(r));
        break;
    case FP__GGML_BF16:
        a = amplitude * gw_uniform(r);
        memcpy(&bits, &a, 4);
        fp__store_le16(p, (uint16_t)(bits >> 16));
        break;
    case FP__GGML_Q4_0:
        gw_put_f16(p, a / 8);
        break;
    case FP__GGML_Q4_1:
        gw_put_f16(p, a / 7.5f);
        gw_put_f16(p + 2, -a);
        break;
    case FP__GGML_Q5_0:
        gw_put_f16(p, a / 16);
        break;
    case FP__GGML_Q5_1:
        gw_put_f16(p, a / 15.5f);
        gw_put_f16(p + 2, -a);
        break;
    case FP__GGML_Q8_0:
        gw_put_f16(p, a / 127);
        break;
    case FP__GGML_Q4_K: /* d·sc·q - dmin·m with sc, m in 0..63 and q in 0..15 */
        gw_put_f16(p, a / (32 * 7.5f));
        gw_put_f16(p + 2, a / 32);
        break;
    case FP__GGML_Q5_K:
        gw_put_f16(p, a / (32 * 15.5f));
        gw_put_f16(p + 2, a / 32);
        break;
    case FP__GGML_Q6_K: /* ql[128] qh[64] scales[16] d */
        gw_put_f16(p + 208, a / (64 * 32));
        break;
    default:
        abort();
    }
}

/* A tensor of random blocks: rows × cols (cols is dims[0]); rows 0: a vector of cols. */
static inline void gw_random_tensor(gguf_writer *w, gw_random *r, const char *name, uint32_t type,
                                    uint64_t cols, uint64_t rows, float amplitude)
{
    uint32_t elements, bytes;
    if (!fp__gguf_type_block(type, &elements, &bytes) || cols % elements)
        abort();
    size_t blocks = (size_t)(cols / elements * (rows ? rows : 1));
    uint8_t *data = malloc(blocks * bytes);
    if (!data)
        abort();
    for (size_t i = 0; i < blocks; i++)
        gw_random_block(r, type, amplitude, data + i * bytes, bytes);
    uint64_t dims[2] = {cols, rows};
    gw_tensor(w, name, type, rows ? 2 : 1, dims, data, blocks * bytes);
    free(data);
}

/* Norm weights: 1 ± 0.25. */
static inline void gw_norm_tensor(gguf_writer *w, gw_random *r, const char *name, uint64_t n)
{
    uint8_t *data = malloc((size_t)n * 4);
    if (!data)
        abort();
    for (uint64_t i = 0; i < n; i++) {
        float v = 1 + 0.25f * gw_uniform(r);
        uint32_t bits;
        memcpy(&bits, &v, 4);
        fp__store_le32(data + 4 * i, bits);
    }
    gw_tensor(w, name, FP__GGML_F32, 1, &n, data, (size_t)n * 4);
    free(data);
}

/* ---- a byte-level BPE vocabulary ---- */

/* The vocabulary text of a byte in GPT-2's mapping of bytes to printable characters; returns its size (1 or
 * 2). */
static inline size_t gw_byte_text(uint8_t byte, char out[3])
{
    uint32_t c = byte;
    if (byte <= 32)
        c = 256u + byte;
    else if (byte >= 127 && byte <= 160)
        c = 256u + 33 + (byte - 127u);
    else if (byte == 173)
        c = 256u + 33 + 34;
    size_t n = 0;
    if (c < 128) {
        out[n++] = (char)c;
    } else {
        out[n++] = (char)(0xc0 | c >> 6);
        out[n++] = (char)(0x80 | (c & 63));
    }
    out[n] = 0;
    return n;
}

/* Ids: 0 <|endoftext|>, 1 <|im_start|>, 2 <|im_end|>, 3..258 the bytes, then one per merge. */
enum { GW_ID_ENDOFTEXT = 0, GW_ID_IM_START = 1, GW_ID_IM_END = 2, GW_ID_BYTE0 = 3, GW_ID_MERGE0 = 259 };

static const char *const gw_merges[] = {"Ġ t", "h e", "Ġ a",  "i n", "r e",  "o n",   "Ġt he", "e r", "Ġ s",
                                        "a t", "Ġ o", "e n",  "o r", "Ġ Ġ",  "i t",   "e s",   "i s", "u s",
                                        "e r", "s y", "st e", "s t", "u s",  "us er", "a n",   "l l", "Ġ w",
                                        "Ġ i", "o u", "i n",  "a s", "as s", "i st",  "an t"};
static const char gw_chatml[] = "{% for message in messages %}{% if loop.first and messages[0]['role'] != "
                                "'system' %}{{ '<|im_start|>system\\nYou "
                                "are a tiny test model<|im_end|>\\n' }}{% endif %}{{'<|im_start|>' + "
                                "message['role'] + '\\n' + message['content'] "
                                "+ '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ "
                                "'<|im_start|>assistant\\n' }}{% endif %}";

/* Writes the tokenizer keys; returns the size of the vocabulary: at least min_vocab (filled up with unused
 * tokens). */
static inline uint32_t gw_byte_bpe(gguf_writer *w, uint32_t min_vocab)
{
    fp__buf tokens = {0}, merges = {0}, types = {0};
    uint32_t n = 0, n_merges = 0;
    static const char *const control[] = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"};
    char text[64];
    for (; n < 3; n++)
        gw_put_string(&tokens, control[n], strlen(control[n]));
    for (unsigned b = 0; b < 256; b++, n++)
        gw_put_string(&tokens, text, gw_byte_text((uint8_t)b, text));
    for (size_t i = 0; i < sizeof gw_merges / sizeof gw_merges[0]; i++) {
        bool seen = false;
        for (size_t j = 0; j < i; j++)
            seen |= strcmp(gw_merges[i], gw_merges[j]) == 0;
        if (seen)
            continue;
        const char *space = strchr(gw_merges[i], ' ');
        int size =
            snprintf(text, sizeof text, "%.*s%s", (int)(space - gw_merges[i]), gw_merges[i], space + 1);
        gw_put_string(&tokens, text, (size_t)size);
        gw_put_string(&merges, gw_merges[i], strlen(gw_merges[i]));
        n++, n_merges++;
    }
    uint32_t used = n;
    for (; n < min_vocab; n++) {
        int size = snprintf(text, sizeof text, "[PAD%u]", n);
        gw_put_string(&tokens, text, (size_t)size);
    }
    gw_string(w, "tokenizer.ggml.model", "gpt2");
    gw_string(w, "tokenizer.ggml.pre", "smollm");
    gw_array(w, "tokenizer.ggml.tokens", FP__GGUF_STRING, n);
    GW_CHECK(fp__buf_append(&w->keys, tokens.data, tokens.size));
    gw_array(w, "tokenizer.ggml.token_type", FP__GGUF_I32, n);
    for (uint32_t i = 0; i < n; i++)
        GW_CHECK(fp__buf_append_le32(&w->keys, i < 3 ? 3 : i < used ? 1 : 5));
    gw_array(w, "tokenizer.ggml.merges", FP__GGUF_STRING, n_merges);
    GW_CHECK(fp__buf_append(&w->keys, merges.data, merges.size));
    gw_u32(w, "tokenizer.ggml.bos_token_id", GW_ID_IM_START);
    gw_u32(w, "tokenizer.ggml.eos_token_id", GW_ID_IM_END);
    gw_u32(w, "tokenizer.ggml.unknown_token_id", GW_ID_ENDOFTEXT);
    gw_bool(w, "tokenizer.ggml.add_bos_token", false);
    gw_string(w, "tokenizer.chat_template", gw_chatml);
    fp__buf_free(&tokens);
    fp__buf_free(&merges);
    fp__buf_free(&types);
    return n;
}

/* ---- tiny models ---- */

typedef struct gw_model {
    const char *arch;           /* "llama", "qwen2" (Q/K/V biases), "qwen3" (q/k norms) */
    uint32_t L, C, H, HK, d, F; /* d 0: C / H */
    uint32_t V;                 /* at least; the byte vocabulary has about 290 */
    uint32_t context;
    uint32_t type;      /* of the matrices */
    uint32_t embd_type; /* of token_embd (and output) */
    bool tied;          /* no output.weight */
    bool rope_factors;  /* writes rope_freqs.weight (llama 3) */
    float rope_base;
    uint64_t seed;
} gw_model;

static inline gw_model gw_model_default(void)
{
    return (gw_model){.arch = "llama",
                      .L = 2,
                      .C = 64,
                      .H = 4,
                      .HK = 2,
                      .F = 128,
                      .V = 0,
                      .context = 512,
                      .type = FP__GGML_Q8_0,
                      .embd_type = FP__GGML_Q8_0,
                      .tied = true,
                      .rope_base = 10000,
                      .seed = 1};
}

static inline void gw_model_keys(gguf_writer *w, const gw_model *m, uint32_t d)
{
    char key[96];
    gw_string(w, "general.architecture", m->arch);
    gw_string(w, "general.name", "tiny random model");
    const struct {
        const char *name;
        uint32_t value;
    } keys[] = {
        {"block_count", m->L},         {"context_length", m->context}, {"embedding_length", m->C},
        {"feed_forward_length", m->F}, {"attention.head_count", m->H}, {"attention.head_count_kv", m->HK},
        {"attention.key_length", d},   {"attention.value_length", d},  {"rope.dimension_count", d}};
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        snprintf(key, sizeof key, "%s.%s", m->arch, keys[i].name);
        gw_u32(w, key, keys[i].value);
    }
    snprintf(key, sizeof key, "%s.rope.freq_base", m->arch);
    gw_f32(w, key, m->rope_base);
    snprintf(key, sizeof key, "%s.attention.layer_norm_rms_epsilon", m->arch);
    gw_f32(w, key, 1e-5f);
}

static inline void gw_model_layer(gguf_writer *w, gw_random *r, const gw_model *m, uint32_t layer, uint32_t d)
{
    char name[96];
    const struct {
        const char *name;
        uint32_t cols, rows;
    } matrices[] = {{"attn_q", m->C, m->H * d},      {"attn_k", m->C, m->HK * d}, {"attn_v", m->C, m->HK * d},
                    {"attn_output", m->H * d, m->C}, {"ffn_gate", m->C, m->F},    {"ffn_up", m->C, m->F},
                    {"ffn_down", m->F, m->C}};
    for (size_t i = 0; i < 7; i++) {
        float in = (float)matrices[i].cols, root = 1; /* amplitude sqrt(3 / fan-in) keeps the variance */
        for (int k = 0; k < 20; k++)
            root = 0.5f * (root + in / 3 / root);
        snprintf(name, sizeof name, "blk.%u.%s.weight", layer, matrices[i].name);
        gw_random_tensor(w, r, name, m->type, matrices[i].cols, matrices[i].rows, 1 / root);
        if (i < 3 && strcmp(m->arch, "qwen2") == 0) {
            snprintf(name, sizeof name, "blk.%u.%s.bias", layer, matrices[i].name);
            gw_random_tensor(w, r, name, FP__GGML_F32, matrices[i].rows, 0, 0.5f);
        }
    }
    snprintf(name, sizeof name, "blk.%u.attn_norm.weight", layer);
    gw_norm_tensor(w, r, name, m->C);
    snprintf(name, sizeof name, "blk.%u.ffn_norm.weight", layer);
    gw_norm_tensor(w, r, name, m->C);
    if (strcmp(m->arch, "qwen3") == 0) {
        snprintf(name, sizeof name, "blk.%u.attn_q_norm.weight", layer);
        gw_norm_tensor(w, r, name, d);
        snprintf(name, sizeof name, "blk.%u.attn_k_norm.weight", layer);
        gw_norm_tensor(w, r, name, d);
    }
}

/* A complete model file in `out` (appended to an empty buffer). The same gw_model always gives the same
 * bytes. */
static inline void gw_build_model(const gw_model *m, fp__buf *out)
{
    gguf_writer w = {0};
    gw_random r = {m->seed};
    uint32_t d = m->d ? m->d : m->C / m->H;
    gw_model_keys(&w, m, d);
    uint32_t V = gw_byte_bpe(&w, m->V);
    gw_random_tensor(&w, &r, "token_embd.weight", m->embd_type, m->C, V, 1);
    if (!m->tied)
        gw_random_tensor(&w, &r, "output.weight", m->embd_type, m->C, V, 0.25f);
    gw_norm_tensor(&w, &r, "output_norm.weight", m->C);
    if (m->rope_factors) {
        uint64_t n = d / 2;
        uint8_t *data = malloc((size_t)n * 4);
        if (!data)
            abort();
        for (uint64_t i = 0; i < n; i++) { /* 1 for the fast pairs, up to 8 for the slow ones */
            float v = i < n / 2 ? 1.0f : 1.0f + 7.0f * (float)(i - n / 2) / (float)n;
            uint32_t bits;
            memcpy(&bits, &v, 4);
            fp__store_le32(data + 4 * i, bits);
        }
        gw_tensor(&w, "rope_freqs.weight", FP__GGML_F32, 1, &n, data, (size_t)n * 4);
        free(data);
    }
    for (uint32_t layer = 0; layer < m->L; layer++)
        gw_model_layer(&w, &r, m, layer, d);
    gw_finish(&w, out);
}

static inline void gw_write_model(const gw_model *m, const char *path)
{
    fp__buf file = {0};
    gw_build_model(m, &file);
    GW_CHECK(fp__file_write(path, file.data, file.size, 0644));
    fp__buf_free(&file);
}
#endif
