/* Text to token ids and back, from the vocabulary in a GGUF file.
 *
 * Two models: gpt2-style byte-level BPE (`tokenizer.ggml.model` = "gpt2") with the pre-tokenizers gpt-2,
 * smollm, llama-bpe (llama 3), qwen2 and default, and SPM (= "llama"). The ids are those of llama.cpp, with
 * one intended difference: no text can become a control, unknown or byte token by merging. As there, a byte
 * that a BPE vocabulary has no token for gives none (SmolLM2 lacks eight that occur in UTF-8: some control
 * characters and lead bytes of unassigned planes). Character classes come from tables of one fixed Unicode
 * version (model/unicode_class.h), not from the system, so that every machine gives the same ids. A loaded
 * tokenizer is immutable: const calls are thread-safe.
 *
 * The vocabulary is untrusted input (checked at load); text is untrusted input (checked to be UTF-8). */
#ifndef FP_MODEL_TOKENIZER_H
#define FP_MODEL_TOKENIZER_H
#include "model/gguf.h"

#define FP__TOKEN_NONE UINT32_MAX /* "no such token" */
#define FP__TOKENIZER_MAX_VOCAB (1u << 20)
#define FP__TOKENIZER_MAX_TEXT ((size_t)1 << 28) /* bytes of one text */

typedef struct fp__tokenizer fp__tokenizer;

/* Growing list of token ids. Zero-initialise; release with fp__ids_free. */
typedef struct fp__ids {
    uint32_t *data;
    size_t size, capacity;
} fp__ids;
void fp__ids_free(fp__ids *ids);
fp_status fp__ids_reserve(fp__ids *ids, size_t extra) FP_WARN_UNUSED;
fp_status fp__ids_append(fp__ids *ids, uint32_t id) FP_WARN_UNUSED;

/* Nothing of g is used after the call. FP_NOT_FOUND: the file has no vocabulary. FP_UNSUPPORTED: another
 * tokenizer model or pre-tokenizer, named. FP_FORMAT: inconsistent vocabulary. */
fp_status fp__tokenizer_load(const fp__gguf *g, fp__tokenizer **out) FP_WARN_UNUSED;
void fp__tokenizer_destroy(fp__tokenizer *tok); /* NULL is fine */

enum {
    /* Control tokens written in the text ("<|im_start|>") become those tokens. Only for template text:
     * documents and requests are tokenised without it. User-defined tokens are matched with and without it.
     */
    FP__TOKENIZE_SPECIAL = 1,
    /* Puts BOS in front and EOS behind where the model's metadata say so. */
    FP__TOKENIZE_ADD = 2,
    /* The text continues other text: no space is put in front (SPM with add_space_prefix). */
    FP__TOKENIZE_CONTINUE = 4
};
/* Appends the ids of text[0..size). FP_TEXT with the offset when it is not UTF-8; FP_LIMIT; on failure `out`
 * keeps what it had. */
fp_status fp__tokenizer_encode(const fp__tokenizer *tok, const char *text, size_t size, unsigned flags,
                               fp__ids *out) FP_WARN_UNUSED;

uint32_t fp__tokenizer_size(const fp__tokenizer *tok);     /* number of ids, V */
const char *fp__tokenizer_model(const fp__tokenizer *tok); /* "gpt2" or "llama" */
const char *fp__tokenizer_pre(const fp__tokenizer *tok);   /* "smollm"; "" for SPM */
/* FP__TOKEN_NONE when the model has none. */
uint32_t fp__tokenizer_bos(const fp__tokenizer *tok);
uint32_t fp__tokenizer_eos(const fp__tokenizer *tok);
uint32_t fp__tokenizer_eot(const fp__tokenizer *tok);
uint32_t fp__tokenizer_unk(const fp__tokenizer *tok);
bool fp__tokenizer_adds_bos(const fp__tokenizer *tok);
bool fp__tokenizer_adds_eos(const fp__tokenizer *tok);
/* Ends a generation: eos, eot, and the turn ends of known chat formats (<|im_end|>, <|eot_id|>, <|end|>, …).
 */
bool fp__tokenizer_is_eog(const fp__tokenizer *tok, uint32_t id);
bool fp__tokenizer_is_control(const fp__tokenizer *tok, uint32_t id); /* control or unknown */
/* The id whose vocabulary text is exactly this, or FP__TOKEN_NONE. */
uint32_t fp__tokenizer_find(const fp__tokenizer *tok, const char *text, size_t size);
/* The vocabulary text of an id (as in the file, not decoded); valid while tok is. id < V. */
fp__gguf_string fp__tokenizer_text(const fp__tokenizer *tok, uint32_t id);

enum {
    FP__DETOK_SPECIAL = 1, /* control tokens are rendered as their text; otherwise they give nothing */
    FP__DETOK_CONTINUE = 2 /* the tokens continue other text: SPM's leading space is kept */
};
/* Appends the bytes of one token, as they are (they may be a part of a character). FP_USAGE when id ≥ V. */
fp_status fp__tokenizer_piece(const fp__tokenizer *tok, uint32_t id, unsigned flags,
                              fp__buf *out) FP_WARN_UNUSED;

/* Streaming decoder: what it appends is always whole characters of well-formed UTF-8; a sequence split over
 * tokens is held back until it is complete, and bytes that can never be part of a character become U+FFFD.
 * One per stream. */
typedef struct fp__detok {
    const fp__tokenizer *tok;
    unsigned flags;
    bool started;       /* something was pushed: the leading space has been dealt with */
    uint8_t held_bytes; /* 0..3 */
    uint8_t held[4];
} fp__detok;
void fp__detok_init(fp__detok *d, const fp__tokenizer *tok, unsigned flags);
fp_status fp__detok_push(fp__detok *d, uint32_t id, fp__buf *out) FP_WARN_UNUSED;
fp_status fp__detok_flush(fp__detok *d,
                          fp__buf *out) FP_WARN_UNUSED; /* an unfinished character becomes U+FFFD */
/* All at once. The bytes of the tokens as they are, without replacement: equals the text that was encoded. */
fp_status fp__tokenizer_decode(const fp__tokenizer *tok, const uint32_t *ids, size_t n, unsigned flags,
                               fp__buf *out) FP_WARN_UNUSED;

/* Appends the canonical bytes of everything that decides ids; H(tokenizer) of the model digest is their
 * SHA-256. Little-endian; str = u32 length ‖ bytes; an absent id is ffffffff: "fieldprint/tokn" 01  str model
 * str pre  u32 unicode version (major << 16 | minor << 8 | update) u32 bos eos eot unk pad  u8 add_bos
 * add_eos add_space_prefix ignore_merges u32 V, V × { str text  u8 type  u32 score bits }        type as in
 * GGUF after corrections; score 0 for BPE u32 M, M × { u32 left  u32 right  u32 merged }          symbols ≥ V
 * are the S texts that follow u32 S, S × str text u32 E, E × u32 end-of-generation id, ascending */
fp_status fp__tokenizer_serialize(const fp__tokenizer *tok, fp__buf *out) FP_WARN_UNUSED;
#endif
