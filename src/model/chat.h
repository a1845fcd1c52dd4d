/* Chat templates: messages to tokens, in the format that the model was trained on.
 *
 * A template is recognised from the GGUF's `tokenizer.chat_template` by its characteristic strings (the
 * template language itself is not interpreted) or named. Rendering gives pieces: template text, in which
 * control tokens count, and message text, in which they do not, so that no message can forge a turn. Pieces
 * are tokenised one by one; so a conversation cut between two messages gives the same tokens as the whole: an
 * anchor (its system message) is a prefix by construction.
 *
 * A template is immutable after loading; const calls are thread-safe. The template text is untrusted input.
 */
#ifndef FP_MODEL_CHAT_H
#define FP_MODEL_CHAT_H
#include "model/tokenizer.h"

typedef struct fp__chat_template fp__chat_template;

typedef enum fp__chat_role { FP__ROLE_SYSTEM, FP__ROLE_USER, FP__ROLE_ASSISTANT } fp__chat_role;

typedef struct fp__chat_message {
    fp__chat_role role;
    const char *text; /* UTF-8, [size]; stays the caller's */
    size_t size;
} fp__chat_message;

/* chatml, llama2, llama3, mistral-v1, mistral-v3, mistral-v3-tekken, mistral-v7, mistral-v7-tekken, zephyr.
 * name: the template to use whatever the file says, or NULL to recognise it. FP_UNSUPPORTED lists the names;
 * FP_NOT_FOUND: the file has no template (it is a base model, or name one). Nothing of g is used after the
 * call. */
fp_status fp__chat_template_load(const fp__gguf *g, const char *name, fp__chat_template **out) FP_WARN_UNUSED;
/* From template text (NULL when there is none) instead of a file. */
fp_status fp__chat_template_parse(const char *text, size_t size, const char *name,
                                  fp__chat_template **out) FP_WARN_UNUSED;
void fp__chat_template_destroy(fp__chat_template *t); /* NULL is fine */
const char *fp__chat_template_name(const fp__chat_template *t);
const char *fp__chat_template_names(void); /* "chatml, llama2, …" */
/* The system message that the template inserts when a conversation has none; size 0 when it inserts none. */
fp__gguf_string fp__chat_template_default_system(const fp__chat_template *t);
/* False for mistral-v1 and -v3 and llama2: there a system message is part of the first user turn. */
bool fp__chat_template_has_system(const fp__chat_template *t);
/* Canonical bytes; H(chat template) of the model digest is their SHA-256 (little-endian; str = u32 length ‖
 * bytes): "fieldprint/chat" 01  str name  u32 variant  str end of answer  str default system message. */
fp_status fp__chat_template_serialize(const fp__chat_template *t, fp__buf *out) FP_WARN_UNUSED;

enum {
    FP__CHAT_GENERATE = 1, /* ends with the opening of an assistant turn */
    FP__CHAT_CONTINUE =
        2 /* something precedes (an anchor, earlier turns): no BOS and no default system message */
};
#define FP__CHAT_SOURCE_TEMPLATE UINT32_MAX

/* One piece of a rendered conversation (a single space of the template in front of message text is part of
 * the message's piece: SPM vocabularies have it as a part of the word): bytes [offset, offset + size) of the
 * rendering. */
typedef struct fp__chat_piece {
    size_t offset, size;
    uint32_t
        source; /* index of the message it is text of, or FP__CHAT_SOURCE_TEMPLATE: control tokens count */
} fp__chat_piece;

/* A rendered conversation. Zero-initialise; release with fp__chat_rendering_free. */
typedef struct fp__chat_rendering {
    fp__buf text;
    fp__chat_piece *pieces; /* [n_pieces], in order, covering text */
    size_t n_pieces, capacity;
} fp__chat_rendering;
void fp__chat_rendering_free(fp__chat_rendering *r);

/* Renders messages[n] (appends to *out). A system message of a model without a system role: if it is all
 * there is (an anchor), its text and a newline; else it is folded into the next user turn in the template's
 * way. The default system message counts as template text. FP_USAGE when a template that needs alternating
 * turns gets none to fold into. */
fp_status fp__chat_render(const fp__chat_template *t, const fp__chat_message *messages, size_t n,
                          unsigned flags, fp__chat_rendering *out) FP_WARN_UNUSED;

/* Renders and tokenises: appends the ids and, if sources is not NULL, one source per id (message index, or
 * FP__CHAT_SOURCE_TEMPLATE) to `sources`. Without FP__CHAT_CONTINUE it begins with BOS where the model wants
 * one. No token spans two pieces. FP_TEXT when a message is not UTF-8 (offset within the message). */
fp_status fp__chat_tokenize(const fp__tokenizer *tok, const fp__chat_template *t,
                            const fp__chat_message *messages, size_t n, unsigned flags, fp__ids *ids,
                            fp__ids *sources) FP_WARN_UNUSED;
#endif
