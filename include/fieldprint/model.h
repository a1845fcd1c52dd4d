/* Models: a GGUF file, opened, checked, packed for this machine and identified by its digest.
 *
 * Opening reads the whole file once: its SHA-256 goes into the model digest, its matrices are packed into the
 * layout of the CPU kernels (include nothing of the file is trusted: every size and scale is checked). A
 * model is immutable and may be shared by threads and engines; it must outlive them. */
#ifndef FIELDPRINT_MODEL_H
#define FIELDPRINT_MODEL_H
#include "fieldprint/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fp_model fp_model;

typedef struct fp_model_options {
    size_t threads;            /* for loading; 0: one per usable core */
    const char *chat_template; /* NULL: recognised from the file */
    /* Called now and then on the calling thread with 0..1; may be NULL. */
    void (*progress)(void *context, double done);
    void *progress_context;
    int metadata_only; /* no weights: for `model info` and the tokenizer */
} fp_model_options;

typedef struct fp_model_info {
    const char *architecture;  /* "llama", "qwen2", "qwen3" */
    const char *name;          /* general.name or "" */
    const char *kernels;       /* table in use: "avx512", … */
    const char *chat_template; /* its name, or "" when the file has none */
    const char *tokenizer;     /* "gpt2" or "llama" */
    const char *pretokenizer;  /* "smollm", … or "" */
    uint64_t parameters;       /* elements of all tensors */
    uint64_t file_bytes, packed_bytes;
    uint32_t layers, width, heads, kv_heads, head_dim, ffn_width, vocabulary,
        context; /* L C H HK d F V, trained context */
    uint32_t rope_dims;
    float rope_base, norm_epsilon;
    uint32_t kv_page_bytes; /* of one page (64 tokens), all layers and heads */
    uint32_t arithmetic_version;
} fp_model_info;

/* FP_NOT_FOUND, FP_FORMAT (malformed file, named), FP_UNSUPPORTED (architecture, tensor type or feature,
 * named). */
FP_API fp_status fp_model_open(const char *path, const fp_model_options *options,
                               fp_model **out) FP_WARN_UNUSED;
FP_API void fp_model_close(fp_model *model); /* NULL is fine */
/* Strings live as long as the model. */
FP_API void fp_model_info_get(const fp_model *model, fp_model_info *out);
/* The model digest: arithmetic version, GGUF, tokenizer, chat template and rotary table (docs/formats.md).
 * FP_USAGE on a model opened metadata_only. */
FP_API fp_status fp_model_digest(const fp_model *model, uint8_t out[32]) FP_WARN_UNUSED;

/* Tensors of each type, for people: "Q4_1 210, F32 61, Q8_0 1". */
FP_API const char *fp_model_types(const fp_model *model);

/* The token that every text begins with (BOS), or UINT32_MAX when the model wants none. */
FP_API uint32_t fp_model_begin_token(const fp_model *model);

enum {
    FP_TOKENIZE_SPECIAL = 1, /* control tokens written in the text count; otherwise they are plain text */
    FP_TOKENIZE_ADD = 2      /* BOS in front, EOS behind, where the model wants them */
};
/* Ids of text[size] (UTF-8, FP_TEXT otherwise). *out is malloc'ed, release with free(). Thread-safe. */
FP_API fp_status fp_model_tokenize(const fp_model *model, const char *text, size_t size, unsigned flags,
                                   uint32_t **out, size_t *n) FP_WARN_UNUSED;
/* Bytes of the ids, NUL-terminated; *out is malloc'ed. special: control tokens are shown. */
FP_API fp_status fp_model_detokenize(const fp_model *model, const uint32_t *ids, size_t n, int special,
                                     char **out, size_t *size) FP_WARN_UNUSED;

#ifdef __cplusplus
}
#endif
#endif
