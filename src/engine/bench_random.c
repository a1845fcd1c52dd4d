/* fp_bench_model_create: a GGUF with random weights in memory, opened like any other. */
#include "engine/bench.h"
#include "model/gguf.h"
#include "model/model.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { ALIGNMENT = 32, BYTE_TOKENS = 256, CONTROL_TOKENS = 1, PATTERN_BYTES = 8 << 20 };

static const struct block {
    const char *name;
    fp__ggml_type type;
    uint32_t bytes;   /* of 32 weights */
    float range;      /* largest |quant| */
    bool has_minimum; /* d·q + m */
} blocks[] = {{"q4_0", FP__GGML_Q4_0, 18, 8.0f, false},
              {"q4_1", FP__GGML_Q4_1, 20, 7.5f, true},
              {"q8_0", FP__GGML_Q8_0, 34, 127.0f, false}};

typedef struct tensor {
    char name[64];
    uint32_t type;
    uint64_t cols, rows; /* rows 0: a vector */
    uint64_t bytes, offset;
} tensor;

typedef struct writer {
    const fp_bench_shape *s;
    const struct block *block;
    fp__buf head;
    tensor *tensors; // [n]
    uint64_t n, keys, data_bytes;
    fp_status status; /* of the first that failed */
} writer;

fp_status fp_bench_shape_get(const char *name, fp_bench_shape *out)
{
    static const struct {
        const char *name;
        fp_bench_shape shape;
    } shapes[] = {{"8b", {32, 4096, 32, 8, 128, 14336, 128256, 131072, "q4_0", 500000.0f}},
                  {"tiny", {4, 256, 4, 2, 64, 512, 320, 8192, "q4_0", 10000.0f}}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        if (strcmp(name, shapes[i].name) == 0) {
            *out = shapes[i].shape;
            return FP_OK;
        }
    return fp__fail(FP_NOT_FOUND, "no shape is called \"%.40s\": 8b or tiny", name);
}

static void keep(writer *w, fp_status status)
{
    if (w->status == FP_OK)
        w->status = status;
}
static void put32(writer *w, uint32_t v)
{
    keep(w, fp__buf_append_le32(&w->head, v));
}
static void put64(writer *w, uint64_t v)
{
    keep(w, fp__buf_append_le64(&w->head, v));
}
static void put_text(writer *w, const char *text)
{
    put64(w, strlen(text));
    keep(w, fp__buf_append(&w->head, text, strlen(text)));
}
static void key(writer *w, const char *name, fp__gguf_type type)
{
    put_text(w, name);
    put32(w, (uint32_t)type);
    w->keys++;
}
static void key_u32(writer *w, const char *name, uint32_t v)
{
    key(w, name, FP__GGUF_U32);
    put32(w, v);
}
static void key_f32(writer *w, const char *name, float v)
{
    key(w, name, FP__GGUF_F32);
    put32(w, fp__float_bits(v));
}
static void key_text(writer *w, const char *name, const char *text)
{
    key(w, name, FP__GGUF_STRING);
    put_text(w, text);
}

/* GPT-2's character for a byte, as UTF-8. */
static const char *byte_text(unsigned byte, char out[4])
{
    unsigned c = byte <= 32                   ? 256 + byte
                 : byte >= 127 && byte <= 160 ? 256 + byte - 94
                 : byte == 173                ? 323
                                              : byte;
    snprintf(out, 4, c < 128 ? "%c" : "%c%c", c < 128 ? (int)c : (int)(0xc0 | c >> 6),
             (int)(0x80 | (c & 63)));
    return out;
}

static void put_tokenizer(writer *w)
{
    uint32_t V = w->s->vocabulary;
    char text[32];
    key_text(w, "tokenizer.ggml.model", "gpt2");
    key_text(w, "tokenizer.ggml.pre", "smollm");
    key(w, "tokenizer.ggml.tokens", FP__GGUF_ARRAY);
    put32(w, FP__GGUF_STRING);
    put64(w, V);
    put_text(w, "<|endoftext|>");
    for (unsigned b = 0; b < BYTE_TOKENS; b++)
        put_text(w, byte_text(b, text));
    for (uint32_t i = CONTROL_TOKENS + BYTE_TOKENS; i < V; i++) {
        snprintf(text, sizeof text, "[PAD%u]", i);
        put_text(w, text);
    }
    key(w, "tokenizer.ggml.token_type", FP__GGUF_ARRAY);
    put32(w, FP__GGUF_I32);
    put64(w, V);
    for (uint32_t i = 0; i < V; i++) /* control, normal, unused */
        put32(w, i < CONTROL_TOKENS ? 3 : i < CONTROL_TOKENS + BYTE_TOKENS ? 1 : 5);
    key(w, "tokenizer.ggml.merges", FP__GGUF_ARRAY);
    put32(w, FP__GGUF_STRING);
    put64(w, 1);
    put_text(w, "a b"); /* into a token that must exist */
    key_u32(w, "tokenizer.ggml.eos_token_id", 0);
    key_u32(w, "tokenizer.ggml.bos_token_id", 0);
}

static void put_keys(writer *w)
{
    const fp_bench_shape *s = w->s;
    key_text(w, "general.architecture", "llama");
    key_text(w, "general.name", "random weights");
    const struct {
        const char *name;
        uint32_t value;
    } sizes[] = {{"llama.block_count", s->layers},
                 {"llama.context_length", s->context},
                 {"llama.embedding_length", s->width},
                 {"llama.feed_forward_length", s->ffn_width},
                 {"llama.attention.head_count", s->heads},
                 {"llama.attention.head_count_kv", s->kv_heads},
                 {"llama.attention.key_length", s->head_dim},
                 {"llama.attention.value_length", s->head_dim},
                 {"llama.rope.dimension_count", s->head_dim}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        key_u32(w, sizes[i].name, sizes[i].value);
    key_f32(w, "llama.rope.freq_base", s->rope_base);
    key_f32(w, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    put_tokenizer(w);
}

static void add(writer *w, const char *name, uint64_t cols, uint64_t rows)
{
    tensor *t = &w->tensors[w->n++];
    snprintf(t->name, sizeof t->name, "%s.weight", name);
    t->cols = cols, t->rows = rows;
    t->type = rows ? (uint32_t)w->block->type : FP__GGML_F32;
    t->bytes = rows ? rows * (cols / 32) * w->block->bytes : 4 * cols;
    t->offset = w->data_bytes;
    w->data_bytes += (t->bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static void add_tensors(writer *w)
{
    const fp_bench_shape *s = w->s;
    uint64_t C = s->width, F = s->ffn_width, Q = (uint64_t)s->heads * s->head_dim,
             K = (uint64_t)s->kv_heads * s->head_dim;
    const struct {
        const char *name;
        uint64_t cols, rows;
    } layer[] = {{"attn_q", C, Q},      {"attn_k", C, K},    {"attn_v", C, K},
                 {"attn_output", Q, C}, {"ffn_gate", C, F},  {"ffn_up", C, F},
                 {"ffn_down", F, C},    {"attn_norm", C, 0}, {"ffn_norm", C, 0}};
    char name[48];
    add(w, "token_embd", C, s->vocabulary);
    add(w, "output", C, s->vocabulary);
    add(w, "output_norm", C, 0);
    for (uint32_t i = 0; i < s->layers; i++)
        for (size_t k = 0; k < sizeof layer / sizeof *layer; k++) {
            snprintf(name, sizeof name, "blk.%u.%s", i, layer[k].name);
            add(w, name, layer[k].cols, layer[k].rows);
        }
}

static void put_infos(writer *w)
{
    for (uint64_t i = 0; i < w->n; i++) {
        const tensor *t = &w->tensors[i];
        put_text(w, t->name);
        put32(w, t->rows ? 2 : 1);
        put64(w, t->cols);
        if (t->rows)
            put64(w, t->rows);
        put32(w, t->type);
        put64(w, t->offset);
    }
    while (w->head.size % ALIGNMENT && w->status == FP_OK)
        keep(w, fp__buf_append(&w->head, "", 1));
}

/* ---- weights ---------------------------------------------------------------------------------------------
 */

/* binary16 of a small normal number, rounded towards zero. */
static uint16_t half(float x)
{
    uint32_t bits = fp__float_bits(x), magnitude = bits & 0x7fffffff;
    return magnitude < 0x38800000
               ? 0
               : (uint16_t)(bits >> 16 & 0x8000) | (uint16_t)((magnitude - 0x38000000) >> 13);
}

/* Random blocks, with scales put in later: the same bytes serve all matrices, from another place each time.
 */
static void fill_pattern(uint8_t *pattern)
{
    uint64_t random = 11;
    for (size_t i = 0; i < PATTERN_BYTES; i += 8)
        fp__store_le64(pattern + i, fp__bench_random(&random));
}

typedef struct fill_work {
    const writer *w;
    const uint8_t *pattern;
    uint8_t *data;
} fill_work;

static void fill_matrix(const fill_work *f, uint64_t index, const tensor *t, uint64_t begin, uint64_t end)
{
    const struct block *b = f->w->block;
    uint64_t random = 1000 * index + begin, per_row = t->cols / 32;
    /* amplitude √(3/fan-in) keeps the variance from layer to layer; the embedding's is 1 */
    float amplitude = index == 0 ? 1.0f : sqrtf(3.0f / (float)t->cols);
    for (uint64_t r = begin; r < end; r++) {
        size_t row_bytes = per_row * b->bytes, from = fp__bench_random(&random) % (PATTERN_BYTES - row_bytes);
        uint8_t *to = f->data + t->offset + r * row_bytes;
        memcpy(to, f->pattern + from, row_bytes);
        for (uint64_t i = 0; i < per_row; i++, to += b->bytes) {
            float a = amplitude * (0.75f + 0.25f * (float)(to[b->bytes - 1] % 128) / 128.0f);
            fp__store_le16(to, half(a / b->range));
            if (b->has_minimum)
                fp__store_le16(to + 2, half(-a));
        }
    }
}

static void fill(void *arg, size_t thread, size_t threads)
{
    const fill_work *f = arg;
    for (uint64_t i = 0; i < f->w->n; i++) {
        const tensor *t = &f->w->tensors[i];
        size_t begin, end;
        fp__team_split(t->rows ? t->rows : t->cols, 16, thread, threads, &begin, &end);
        if (t->rows)
            fill_matrix(f, i, t, begin, end);
        for (size_t j = begin; t->rows == 0 && j < end; j++)
            fp__store_le32(f->data + t->offset + 4 * j,
                           fp__float_bits(0.75f + 0.5f * (float)(j * 37 % 64) / 64.0f));
    }
}

/* ---- the file --------------------------------------------------------------------------------------------
 */

static fp_status check_shape(const fp_bench_shape *s)
{
    if (s->layers == 0 || s->layers > 1024 || s->heads == 0 || s->kv_heads == 0 || s->heads % s->kv_heads ||
        s->head_dim == 0 || s->head_dim > FP__HEAD_DIM_MAX || s->head_dim % 2 || s->width == 0 ||
        s->width % 32 || s->width > 1 << 16 || (uint64_t)s->heads * s->head_dim % 32 ||
        (uint64_t)s->heads * s->head_dim > 1 << 16 || s->ffn_width == 0 || s->ffn_width % 32 ||
        s->ffn_width > 1 << 18 || s->vocabulary < CONTROL_TOKENS + BYTE_TOKENS + 1 ||
        s->vocabulary > 1 << 20 || s->context == 0)
        return fp__fail(FP_USAGE,
                        "random model: widths must be multiples of 32, heads of the KV heads, and the "
                        "vocabulary at least %d",
                        CONTROL_TOKENS + BYTE_TOKENS + 1);
    return FP_OK;
}

static fp_status write_memory(writer *w, size_t threads, int file)
{
    size_t size = w->head.size + w->data_bytes;
    if (ftruncate(file, (off_t)size) != 0)
        return fp__fail(FP_NO_MEMORY, "random model: no memory for %zu MiB of weights", size >> 20);
    uint8_t *bytes = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (bytes == MAP_FAILED)
        return fp__fail(FP_NO_MEMORY, "random model: no memory for %zu MiB of weights", size >> 20);
    uint8_t *pattern = malloc(PATTERN_BYTES);
    fp__team *team = NULL;
    fp_status status =
        pattern ? fp__team_create(threads, &team) : fp__fail(FP_NO_MEMORY, "random model: no memory");
    if (status == FP_OK) {
        fill_pattern(pattern);
        memcpy(bytes, w->head.data, w->head.size);
        fill_work f = {w, pattern, bytes + w->head.size};
        fp__team_run(team, fill, &f);
    }
    fp__team_destroy(team);
    free(pattern);
    (void)munmap(bytes, size);
    return status;
}

static fp_status build(writer *w, size_t threads, int file)
{
    w->tensors = calloc(3 + 9 * (size_t)w->s->layers, sizeof *w->tensors);
    if (!w->tensors)
        return fp__fail(FP_NO_MEMORY, "random model: no memory");
    add_tensors(w);
    keep(w, fp__buf_append(&w->head, "GGUF", 4));
    put32(w, 3);
    put64(w, w->n);
    size_t count_at = w->head.size;
    put64(w, 0);
    put_keys(w);
    put_infos(w);
    FP_TRY(w->status);
    fp__store_le64(w->head.data + count_at, w->keys);
    return write_memory(w, threads, file);
}

fp_status fp_bench_model_create(const fp_bench_shape *shape, size_t threads, fp_model **out)
{
    writer w = {.s = shape};
    for (size_t i = 0; i < sizeof blocks / sizeof *blocks; i++)
        if (strcmp(shape->type, blocks[i].name) == 0)
            w.block = &blocks[i];
    if (!w.block)
        return fp__fail(FP_USAGE, "random model: type \"%.20s\" is none of q4_0, q4_1, q8_0", shape->type);
    FP_TRY(check_shape(shape));
    int file = memfd_create("fieldprint random model", MFD_CLOEXEC);
    if (file < 0)
        return fp__fail(FP_IO, "random model: the system has no memory files");
    fp_status status = build(&w, threads, file);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    fp_model_options options = {.threads = threads};
    if (status == FP_OK)
        status = fp_model_open(path, &options, out);
    (void)close(file); /* the model keeps its mapping */
    fp__buf_free(&w.head);
    free(w.tensors);
    return status;
}
