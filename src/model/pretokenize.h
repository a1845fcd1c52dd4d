/* Pre-tokenizers of byte-level BPE: cut text into the words inside which merges happen.
 *
 * Each is a list of regular expressions applied one after another to the pieces of the one before; what an
 * expression does not match stays a piece. They run (PCRE2, JIT) on one byte per character: ASCII is itself,
 * any other character is the byte of its class (model/unicode_class.h). The results are those of llama.cpp
 * for the same names. */
#ifndef FP_MODEL_PRETOKENIZE_H
#define FP_MODEL_PRETOKENIZE_H
#include "core/error.h"
#include <stdbool.h>

typedef struct fp__pretokenizer fp__pretokenizer;

/* name: `tokenizer.ggml.pre`. FP_UNSUPPORTED names the ones that are known. */
fp_status fp__pretokenizer_create(const char *name, fp__pretokenizer **out) FP_WARN_UNUSED;
void fp__pretokenizer_destroy(fp__pretokenizer *p);              /* NULL is fine */
const char *fp__pretokenizer_name(const fp__pretokenizer *p);    /* canonical: "llama-bpe" for "llama3" */
bool fp__pretokenizer_ignores_merges(const fp__pretokenizer *p); /* a word in the vocabulary is one token */
bool fp__pretokenizer_adds_bos(const fp__pretokenizer *p);       /* when the metadata do not say */

/* Appends to ends[] (grown as needed; *n, *capacity) the byte offset of the end of each word of text (valid
 * UTF-8), in order; the last is size. Thread-safe. */
fp_status fp__pretokenize(const fp__pretokenizer *p, const char *text, size_t size, size_t **ends, size_t *n,
                          size_t *capacity) FP_WARN_UNUSED;
#endif
