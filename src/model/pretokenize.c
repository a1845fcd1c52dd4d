#include "model/pretokenize.h"
#include "model/unicode_class.h"
#include <stdlib.h>
#include <string.h>
#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

/* Members of character classes, over the bytes that text is reduced to. */
#define L "A-Za-z\\x81"
#define N "0-9\\x82"
#define S "\\x09-\\x0d\\x20\\x84"
#define CLASS_BYTE 0x80 /* + fp__unicode_class */

/* GPT-2's expression: contractions, letters, numbers, others, white space (its last one goes with the next
 * word). */
#define GPT2 "'s|'t|'re|'ve|'m|'ll|'d| ?[" L "]+| ?[" N "]+| ?[^" S L N "]+|[" S "]+(?![^" S "])|[" S "]+"
/* The expression of llama 3 and Qwen 2, which differ in how many digits go together. */
#define TIKTOKEN(digits)                                                                                     \
    "'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\\r\\n" L N "]?[" L "]+|[" N "]" digits         \
    "| ?[^" S L N "]+[\\r\\n]*|[" S "]*[\\r\\n]+|[" S "]+(?![^" S "])|[" S "]+"
/* Punctuation and $ + < = > ^ ~ |, that is all of ASCII's but the back-tick. */
#define PUNCTUATION "[\\x21-\\x2f\\x3a-\\x40\\x5b-\\x5f\\x7b-\\x7e\\x83]+"

#define MAX_STAGES 4

typedef struct definition {
    const char *names[4]; /* the first is the canonical one */
    const char *stages[MAX_STAGES];
    bool ignore_merges, add_bos;
} definition;

static const definition definitions[] = {
    {{"gpt-2", "phi-2"}, {GPT2}, false, false},
    {{"smollm"}, {"[" N "]", GPT2}, false, false},
    {{"llama-bpe", "llama3", "llama-v3"}, {TIKTOKEN("{1,3}")}, true, true},
    {{"qwen2", "deepseek-r1-qwen"}, {TIKTOKEN("")}, false, false},
    {{"default"}, {PUNCTUATION, GPT2, "[" N "]+", "[0-9][0-9][0-9]"}, false, false},
};

struct fp__pretokenizer {
    const definition *def;
    pcre2_code *stages[MAX_STAGES];
    size_t n_stages;
};

static const definition *find_definition(const char *name)
{
    for (size_t i = 0; i < sizeof definitions / sizeof definitions[0]; i++)
        for (size_t j = 0; j < 4 && definitions[i].names[j]; j++)
            if (strcmp(definitions[i].names[j], name) == 0)
                return &definitions[i];
    return NULL;
}

fp_status fp__pretokenizer_create(const char *name, fp__pretokenizer **out)
{
    const definition *def = find_definition(name);
    if (!def)
        return fp__fail(
            FP_UNSUPPORTED,
            "the pre-tokenizer '%s' is not supported; gpt-2, smollm, llama-bpe, qwen2 and default are", name);
    fp__pretokenizer *p = calloc(1, sizeof *p);
    if (!p)
        return fp__fail(FP_NO_MEMORY, "no memory for a pre-tokenizer");
    p->def = def;
    for (; p->n_stages < MAX_STAGES && def->stages[p->n_stages]; p->n_stages++) {
        int error;
        PCRE2_SIZE at;
        pcre2_code *code = pcre2_compile((PCRE2_SPTR)def->stages[p->n_stages], PCRE2_ZERO_TERMINATED,
                                         PCRE2_DOTALL, &error, &at, NULL);
        if (!code) {
            fp_status status = fp__fail(FP_INTERNAL, "PCRE2 refuses expression %zu of '%s' at %zu (error %d)",
                                        p->n_stages, name, at, error);
            fp__pretokenizer_destroy(p);
            return status;
        }
        (void)pcre2_jit_compile(code, PCRE2_JIT_COMPLETE); /* without JIT it is slower and gives the same */
        p->stages[p->n_stages] = code;
    }
    *out = p;
    return FP_OK;
}

void fp__pretokenizer_destroy(fp__pretokenizer *p)
{
    if (!p)
        return;
    for (size_t i = 0; i < p->n_stages; i++)
        pcre2_code_free(p->stages[i]);
    free(p);
}

const char *fp__pretokenizer_name(const fp__pretokenizer *p)
{
    return p->def->names[0];
}

bool fp__pretokenizer_ignores_merges(const fp__pretokenizer *p)
{
    return p->def->ignore_merges;
}

bool fp__pretokenizer_adds_bos(const fp__pretokenizer *p)
{
    return p->def->add_bos;
}

/* List of ends of pieces. */
typedef struct cuts {
    size_t *data;
    size_t n, capacity;
} cuts;

static fp_status cuts_append(cuts *c, size_t end)
{
    if (c->n == c->capacity) {
        size_t capacity = c->capacity ? c->capacity * 2 : 64;
        size_t *data = realloc(c->data, capacity * sizeof *data);
        if (!data)
            return fp__fail(FP_NO_MEMORY, "no memory for %zu words", capacity);
        c->data = data;
        c->capacity = capacity;
    }
    c->data[c->n++] = end;
    return FP_OK;
}

/* Reduces text to one byte per character; returns the number of characters. */
static size_t reduce(const char *text, size_t size, uint8_t *classes)
{
    const uint8_t *p = (const uint8_t *)text;
    size_t n = 0;
    for (size_t i = 0; i < size;) {
        uint32_t c = p[i];
        if (c < 0x80) {
            classes[n++] = (uint8_t)c;
            i++;
            continue;
        }
        size_t length = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : 2;
        c &= 0xffu >> (length + 1);
        for (size_t k = 1; k < length; k++)
            c = c << 6 | (p[i + k] & 0x3f);
        classes[n++] = (uint8_t)(CLASS_BYTE + fp__unicode_class_of(c));
        i += length;
    }
    return n;
}

/* Cuts the piece [begin, end) of classes: matches and what lies between them. Look-ahead ends at the end of
 * the piece. */
static fp_status split_piece(const pcre2_code *code, pcre2_match_data *match, const uint8_t *classes,
                             size_t begin, size_t end, cuts *out)
{
    const uint8_t *subject = classes + begin;
    size_t size = end - begin, at = 0;
    while (at < size) {
        int rc = pcre2_match(code, subject, size, at, 0, match, NULL);
        if (rc == PCRE2_ERROR_NOMATCH)
            break;
        if (rc < 0)
            return fp__fail(FP_INTERNAL, "PCRE2 failed on a text of %zu characters (error %d)", size, rc);
        const PCRE2_SIZE *range = pcre2_get_ovector_pointer(match);
        FP_CHECK(range[0] >= at && range[1] > range[0] &&
                 range[1] <= size); /* no expression matches nothing */
        if (range[0] > at)
            FP_TRY(cuts_append(out, begin + range[0]));
        FP_TRY(cuts_append(out, begin + range[1]));
        at = range[1];
    }
    return at < size ? cuts_append(out, end) : FP_OK;
}

static fp_status run_stages(const fp__pretokenizer *p, pcre2_match_data *match, const uint8_t *classes,
                            size_t n, cuts *a, cuts *b)
{
    FP_TRY(cuts_append(a, n));
    for (size_t stage = 0; stage < p->n_stages; stage++) {
        b->n = 0;
        for (size_t i = 0, begin = 0; i < a->n; begin = a->data[i], i++)
            FP_TRY(split_piece(p->stages[stage], match, classes, begin, a->data[i], b));
        cuts t = *a;
        *a = *b;
        *b = t;
    }
    return FP_OK;
}

/* Character counts to byte offsets. */
static void to_bytes(const char *text, size_t size, cuts *c)
{
    size_t byte = 0, character = 0;
    for (size_t i = 0; i < c->n; i++) {
        while (character < c->data[i]) {
            byte++;
            while (byte < size && ((uint8_t)text[byte] & 0xc0) == 0x80)
                byte++;
            character++;
        }
        c->data[i] = byte;
    }
}

fp_status fp__pretokenize(const fp__pretokenizer *p, const char *text, size_t size, size_t **ends, size_t *n,
                          size_t *capacity)
{
    if (!size)
        return FP_OK;
    uint8_t *classes = malloc(size);
    pcre2_match_data *match = pcre2_match_data_create(1, NULL);
    cuts a = {0}, b = {0}, out = {*ends, *n, *capacity};
    fp_status status = FP_OK;
    if (!classes || !match)
        status = fp__fail(FP_NO_MEMORY, "no memory for a text of %zu bytes", size);
    if (status == FP_OK)
        status = run_stages(p, match, classes, reduce(text, size, classes), &a, &b);
    if (status == FP_OK)
        to_bytes(text, size, &a);
    for (size_t i = 0; i < a.n && status == FP_OK; i++)
        status = cuts_append(&out, a.data[i]);
    *ends = out.data;
    *n = out.n;
    *capacity = out.capacity;
    free(classes);
    pcre2_match_data_free(match);
    free(a.data);
    free(b.data);
    return status;
}
