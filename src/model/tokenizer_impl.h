/* Inside of the tokenizer: shared by tokenizer.c, tokenizer_load.c, tokenizer_bpe.c and tokenizer_spm.c. */
#ifndef FP_MODEL_TOKENIZER_IMPL_H
#define FP_MODEL_TOKENIZER_IMPL_H
#include "model/pretokenize.h"
#include "model/tokenizer.h"

/* Types of tokens, as in `tokenizer.ggml.token_type`. */
enum {
    FP__TOKEN_NORMAL = 1,
    FP__TOKEN_UNKNOWN = 2,
    FP__TOKEN_CONTROL = 3,
    FP__TOKEN_USER = 4,
    FP__TOKEN_UNUSED = 5,
    FP__TOKEN_BYTE = 6
};

typedef enum fp__tokenizer_kind { FP__TOKENIZER_BPE, FP__TOKENIZER_SPM } fp__tokenizer_kind;

/* Merge of rank i: symbols left and right become merged. */
typedef struct fp__merge {
    uint32_t left, right, merged;
} fp__merge;

/* Open-addressing hash table of 32-bit values; an empty slot holds FP__TOKEN_NONE. */
typedef struct fp__slots {
    uint32_t *data;
    uint32_t mask; /* slots - 1 */
} fp__slots;

/* Symbols: ids 0..V-1 are the vocabulary; V.. are texts that merges mention and the vocabulary has not. */
struct fp__tokenizer {
    fp__tokenizer_kind kind;
    uint32_t V, n_symbols;
    fp__buf text;           // texts of all symbols, one after another
    uint32_t *text_end;     // [n_symbols + 1]: symbol i is text[text_end[i] .. text_end[i + 1])
    uint32_t *text_hash;    // [n_symbols]
    size_t text_capacity;   // of text_end and text_hash, in symbols
    fp__slots symbol_slots; // text → symbol; of equal texts the last
    uint8_t *type;          // [V]
    float *score;           // [V], SPM only
    uint8_t *eog;           // [V]: 1 ends a generation
    uint32_t bos, eos, eot, unk, pad;
    bool add_bos, add_eos, add_space_prefix;
    uint32_t *special; // [n_special]: control, unknown and user-defined tokens, longest text first
    size_t n_special;
    uint32_t byte_symbol[256]; // BPE: the symbol of a byte; SPM: the token <0xXX> (FP__TOKEN_NONE if absent)
    fp__pretokenizer *pre;     // BPE
    fp__merge *merges;         // [n_merges] by rank
    uint32_t n_merges;
    fp__slots merge_slots; // (left, right) → rank
};

static inline const uint8_t *fp__symbol_text(const fp__tokenizer *tok, uint32_t symbol, size_t *size)
{
    *size = tok->text_end[symbol + 1] - tok->text_end[symbol];
    return tok->text.data + tok->text_end[symbol];
}

uint32_t fp__symbol_hash(const uint8_t *text, size_t size);
/* The symbol with this text, or FP__TOKEN_NONE. */
uint32_t fp__symbol_find(const fp__tokenizer *tok, const uint8_t *text, size_t size);
uint32_t fp__merge_hash(uint32_t left, uint32_t right);

/* True for tokens that plain text may become: a vocabulary entry that is no control, unknown or byte token.
 */
static inline bool fp__token_is_plain(const fp__tokenizer *tok, uint32_t symbol)
{
    return symbol < tok->V && tok->type[symbol] != FP__TOKEN_CONTROL &&
           tok->type[symbol] != FP__TOKEN_UNKNOWN && tok->type[symbol] != FP__TOKEN_BYTE;
}

/* GPT-2's mapping between bytes and characters. fp__byte_to_text returns the size, 1 or 2; fp__text_to_byte
 * the byte of a code point or -1. */
size_t fp__byte_to_text(uint8_t byte, uint8_t out[2]);
int fp__text_to_byte(uint32_t code_point);

/* Appends the token of one byte that no longer token covers. Some BPE vocabularies lack bytes (SmolLM2 lacks
 * 0x04, 0xf1 and six more): these give no token, as in llama.cpp and Hugging Face's tokenizers. SPM without
 * the byte: unk. */
fp_status fp__append_byte_token(const fp__tokenizer *tok, uint8_t byte, fp__ids *out) FP_WARN_UNUSED;

/* Plain text (valid UTF-8, size ≥ 1) without special tokens. SPM: spaces not yet escaped; prefix: put a space
 * in front. */
fp_status fp__bpe_encode(const fp__tokenizer *tok, const char *text, size_t size,
                         fp__ids *out) FP_WARN_UNUSED;
fp_status fp__spm_encode(const fp__tokenizer *tok, const char *text, size_t size, bool prefix,
                         fp__ids *out) FP_WARN_UNUSED;

/* Binary min-heap of 64-bit keys. */
typedef struct fp__heap {
    uint64_t *data;
    size_t n, capacity;
} fp__heap;
fp_status fp__heap_push(fp__heap *h, uint64_t key) FP_WARN_UNUSED;
uint64_t fp__heap_pop(fp__heap *h); /* n ≥ 1 */
#endif
