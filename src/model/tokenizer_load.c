/* Loading a vocabulary from GGUF metadata. Everything the encoder relies on is checked here. */
#include "model/tokenizer_impl.h"
#include <math.h>
#include <stdlib.h>

#define MAX_MERGES (4u * FP__TOKENIZER_MAX_VOCAB)
#define MAX_TEXT_BYTES ((size_t)1 << 30) /* of all symbols together */

/* Control tokens that are known by their text, whatever type the file gives them (some conversions lose it),
 * and which of them end a generation. The first one found of those marked TURN is the end of turn when the
 * file names none. */
enum { CONTROL = 1, EOG = 3, TURN = 7 };
static const struct {
    const char *text;
    unsigned what;
} known_tokens[] = {
    {"<|eot_id|>", TURN},
    {"<|im_end|>", TURN},
    {"<|end|>", TURN},
    {"<end_of_turn>", TURN},
    {"<|endoftext|>", TURN},
    {"<|end_of_text|>", TURN},
    {"<EOT>", TURN},
    {"_<EOT>", TURN},
    {"[EOT]", TURN},
    {"<end_of_utterance>", TURN},
    {"</s>", EOG},
    {"<|eom_id|>", EOG},
    {"<|return|>", EOG},
    {"<|call|>", EOG},
    {"[EOS]", EOG},
    {"<eos>", EOG},
    {"<|fim_pad|>", EOG},
    {"<|repo_name|>", EOG},
    {"<|file_sep|>", EOG},
    {"<|im_start|>", CONTROL},
    {"<|fim_prefix|>", CONTROL},
    {"<|fim_middle|>", CONTROL},
    {"<|fim_suffix|>", CONTROL},
};

static fp_status no_memory(void)
{
    return fp__fail(FP_NO_MEMORY, "no memory for the vocabulary");
}

/* ---- tables ---- */

uint32_t fp__symbol_hash(const uint8_t *text, size_t size)
{
    uint64_t h = size * 0x9e3779b97f4a7c15u;
    for (; size >= 8; text += 8, size -= 8) {
        h = (h ^ fp__load_le64(text)) * 0xbf58476d1ce4e5b9u;
        h ^= h >> 29;
    }
    uint64_t tail = 0;
    for (size_t i = 0; i < size; i++)
        tail |= (uint64_t)text[i] << 8 * i;
    h = (h ^ tail) * 0x94d049bb133111ebu;
    return (uint32_t)(h >> 32);
}

uint32_t fp__merge_hash(uint32_t left, uint32_t right)
{
    uint64_t h = ((uint64_t)left << 32 | right) * 0x9e3779b97f4a7c15u;
    return (uint32_t)((h ^ h >> 32) * 0xbf58476d1ce4e5b9u >> 32);
}

static fp_status slots_create(fp__slots *s, size_t entries)
{
    size_t n = 64;
    while (n < entries * 2)
        n *= 2;
    s->data = malloc(n * sizeof *s->data);
    if (!s->data)
        return no_memory();
    memset(s->data, 0xff, n * sizeof *s->data);
    s->mask = (uint32_t)(n - 1);
    return FP_OK;
}

/* The slot that holds the symbol with this text, or the empty one where it belongs. */
static uint32_t *symbol_slot(const fp__tokenizer *tok, const uint8_t *text, size_t size, uint32_t hash)
{
    for (uint32_t i = hash & tok->symbol_slots.mask;; i = (i + 1) & tok->symbol_slots.mask) {
        uint32_t *slot = &tok->symbol_slots.data[i];
        if (*slot == FP__TOKEN_NONE)
            return slot;
        size_t n;
        const uint8_t *other = fp__symbol_text(tok, *slot, &n);
        if (tok->text_hash[*slot] == hash && n == size && memcmp(other, text, size) == 0)
            return slot;
    }
}

uint32_t fp__symbol_find(const fp__tokenizer *tok, const uint8_t *text, size_t size)
{
    return *symbol_slot(tok, text, size, fp__symbol_hash(text, size));
}

static fp_status grow_slots(fp__tokenizer *tok)
{
    fp__slots old = tok->symbol_slots;
    FP_TRY(slots_create(&tok->symbol_slots, (size_t)old.mask + 1));
    for (size_t i = 0; i <= old.mask; i++)
        if (old.data[i] != FP__TOKEN_NONE) {
            uint32_t at = tok->text_hash[old.data[i]] & tok->symbol_slots.mask;
            while (tok->symbol_slots.data[at] != FP__TOKEN_NONE)
                at = (at + 1) & tok->symbol_slots.mask;
            tok->symbol_slots.data[at] = old.data[i];
        }
    free(old.data);
    return FP_OK;
}

/* Room for `extra` more symbols. */
static fp_status reserve_symbols(fp__tokenizer *tok, size_t extra)
{
    size_t need = (size_t)tok->n_symbols + extra;
    if (need <= tok->text_capacity)
        return FP_OK;
    size_t capacity = tok->text_capacity * 2 > need ? tok->text_capacity * 2 : need;
    uint32_t *end = realloc(tok->text_end, (capacity + 1) * sizeof *end);
    if (!end)
        return no_memory();
    tok->text_end = end;
    uint32_t *hash = realloc(tok->text_hash, capacity * sizeof *hash);
    if (!hash)
        return no_memory();
    tok->text_hash = hash;
    tok->text_capacity = capacity;
    tok->text_end[tok->n_symbols] = (uint32_t)tok->text.size;
    return FP_OK;
}

/* A new symbol whose text is already at the end of tok->text. Of equal texts the last one is found. */
static fp_status add_symbol(fp__tokenizer *tok, size_t size)
{
    FP_TRY(reserve_symbols(tok, 1));
    if (tok->text.size > MAX_TEXT_BYTES)
        return fp__fail(FP_LIMIT, "the texts of the vocabulary exceed %zu bytes", MAX_TEXT_BYTES);
    if (((size_t)tok->n_symbols + 1) * 2 > tok->symbol_slots.mask)
        FP_TRY(grow_slots(tok));
    const uint8_t *text = tok->text.data + tok->text.size - size;
    uint32_t id = tok->n_symbols++, hash = fp__symbol_hash(text, size);
    tok->text_end[id + 1] = (uint32_t)tok->text.size;
    tok->text_hash[id] = hash;
    if (size)
        *symbol_slot(tok, text, size, hash) = id;
    return FP_OK;
}

/* The symbol of a text, made if it is new. */
static fp_status intern(fp__tokenizer *tok, const uint8_t *text, size_t size, uint32_t *out)
{
    *out = fp__symbol_find(tok, text, size);
    if (*out != FP__TOKEN_NONE)
        return FP_OK;
    *out = tok->n_symbols;
    FP_TRY(fp__buf_append(&tok->text, text, size));
    return add_symbol(tok, size);
}

/* ---- metadata ---- */

static fp_status load_texts(fp__tokenizer *tok, const fp__gguf *g)
{
    fp__gguf_array tokens;
    FP_TRY(fp__gguf_get_array(g, "tokenizer.ggml.tokens", FP__GGUF_STRING, &tokens));
    if (!tokens.count || tokens.count > FP__TOKENIZER_MAX_VOCAB)
        return fp__fail(FP_LIMIT, "the vocabulary has %llu tokens; 1 to %u are accepted",
                        (unsigned long long)tokens.count, FP__TOKENIZER_MAX_VOCAB);
    tok->V = (uint32_t)tokens.count;
    FP_TRY(slots_create(&tok->symbol_slots, (size_t)tok->V + 300));
    FP_TRY(reserve_symbols(tok, (size_t)tok->V + 256));
    FP_TRY(fp__buf_reserve(&tok->text, tokens.size_bytes - (size_t)tokens.count * 8));
    size_t cursor = 0;
    for (uint32_t i = 0; i < tok->V; i++) {
        fp__gguf_string s = fp__gguf_string_next(&tokens, &cursor);
        FP_TRY(fp__buf_append(&tok->text, s.data, s.size));
        FP_TRY(add_symbol(tok, s.size));
    }
    return FP_OK;
}

static fp_status load_types(fp__tokenizer *tok, const fp__gguf *g)
{
    tok->type = malloc(tok->V);
    tok->eog = calloc(tok->V, 1);
    if (!tok->type || !tok->eog)
        return no_memory();
    memset(tok->type, FP__TOKEN_NORMAL, tok->V);
    if (!fp__gguf_has_key(g, "tokenizer.ggml.token_type"))
        return FP_OK;
    fp__gguf_array types;
    FP_TRY(fp__gguf_get_array(g, "tokenizer.ggml.token_type", FP__GGUF_I32, &types));
    if (types.count != tok->V)
        return fp__fail(FP_FORMAT, "tokenizer.ggml.token_type has %llu entries for %u tokens",
                        (unsigned long long)types.count, tok->V);
    for (uint32_t i = 0; i < tok->V; i++) {
        uint32_t type = fp__load_le32(types.data + 4 * (size_t)i);
        if (type > FP__TOKEN_BYTE)
            return fp__fail(FP_FORMAT, "token %u has the unknown type %u", i, type);
        tok->type[i] = type ? (uint8_t)type : FP__TOKEN_NORMAL;
    }
    return FP_OK;
}

static fp_status load_scores(fp__tokenizer *tok, const fp__gguf *g)
{
    fp__gguf_array scores;
    FP_TRY(fp__gguf_get_array(g, "tokenizer.ggml.scores", FP__GGUF_F32, &scores));
    if (scores.count != tok->V)
        return fp__fail(FP_FORMAT, "tokenizer.ggml.scores has %llu entries for %u tokens",
                        (unsigned long long)scores.count, tok->V);
    tok->score = calloc(tok->V, sizeof *tok->score);
    if (!tok->score)
        return no_memory();
    for (uint32_t i = 0; i < tok->V; i++) {
        uint32_t bits = fp__load_le32(scores.data + 4 * (size_t)i);
        float v;
        memcpy(&v, &bits, 4);
        if (!isfinite(v))
            return fp__fail(FP_FORMAT, "the score of token %u is not finite", i);
        tok->score[i] = v + 0.0f; /* -0 and 0 are one score */
    }
    return FP_OK;
}

/* *out stays when the key is absent; an id that is no token counts as none. */
static void load_id(const fp__tokenizer *tok, const fp__gguf *g, const char *key, uint32_t *out)
{
    uint64_t id = 0;
    if (fp__gguf_has_key(g, key)) {
        if (fp__gguf_get_u64(g, key, &id) != FP_OK)
            id = UINT64_MAX; /* some files write -1 for "none" */
        *out = id < tok->V ? (uint32_t)id : FP__TOKEN_NONE;
    }
}

static fp_status load_flag(const fp__gguf *g, const char *key, bool *out)
{
    return fp__gguf_has_key(g, key) ? fp__gguf_get_bool(g, key, out) : FP_OK;
}

static fp_status load_settings(fp__tokenizer *tok, const fp__gguf *g)
{
    bool spm = tok->kind == FP__TOKENIZER_SPM;
    tok->bos = spm && tok->V > 1 ? 1 : FP__TOKEN_NONE;
    tok->eos = spm && tok->V > 2 ? 2 : FP__TOKEN_NONE;
    tok->unk = spm ? 0 : FP__TOKEN_NONE;
    tok->eot = tok->pad = FP__TOKEN_NONE;
    load_id(tok, g, "tokenizer.ggml.bos_token_id", &tok->bos);
    load_id(tok, g, "tokenizer.ggml.eos_token_id", &tok->eos);
    load_id(tok, g, "tokenizer.ggml.eot_token_id", &tok->eot);
    load_id(tok, g, "tokenizer.ggml.unknown_token_id", &tok->unk);
    load_id(tok, g, "tokenizer.ggml.padding_token_id", &tok->pad);
    tok->add_bos = spm || (tok->pre && fp__pretokenizer_adds_bos(tok->pre));
    tok->add_space_prefix = spm;
    FP_TRY(load_flag(g, "tokenizer.ggml.add_bos_token", &tok->add_bos));
    FP_TRY(load_flag(g, "tokenizer.ggml.add_eos_token", &tok->add_eos));
    if (spm)
        FP_TRY(load_flag(g, "tokenizer.ggml.add_space_prefix", &tok->add_space_prefix));
    if ((tok->add_bos && tok->bos == FP__TOKEN_NONE) || (tok->add_eos && tok->eos == FP__TOKEN_NONE))
        return fp__fail(FP_FORMAT, "the vocabulary adds BOS or EOS but names no such token");
    return FP_OK;
}

static void mark_known_tokens(fp__tokenizer *tok)
{
    for (size_t i = 0; i < sizeof known_tokens / sizeof known_tokens[0]; i++) {
        const char *text = known_tokens[i].text;
        uint32_t id = fp__symbol_find(tok, (const uint8_t *)text, strlen(text));
        if (id >= tok->V)
            continue;
        tok->type[id] = FP__TOKEN_CONTROL;
        tok->eog[id] |= (known_tokens[i].what & EOG) == EOG;
        if (known_tokens[i].what == TURN && tok->eot == FP__TOKEN_NONE)
            tok->eot = id;
    }
    if (tok->eos != FP__TOKEN_NONE)
        tok->eog[tok->eos] = 1;
    if (tok->eot != FP__TOKEN_NONE)
        tok->eog[tok->eot] = 1;
}

typedef struct special_entry {
    uint32_t id, size;
} special_entry;

static int compare_specials(const void *a, const void *b)
{
    const special_entry *x = a, *y = b;
    if (x->size != y->size)
        return x->size > y->size ? -1 : 1;
    return x->id < y->id ? -1 : x->id > y->id;
}

static fp_status collect_specials(fp__tokenizer *tok)
{
    size_t n = 0;
    special_entry *entries = malloc((size_t)tok->V * sizeof *entries);
    tok->special = malloc((size_t)tok->V * sizeof *tok->special);
    if (!entries || !tok->special) {
        free(entries);
        return no_memory();
    }
    for (uint32_t i = 0; i < tok->V; i++) {
        uint32_t size = tok->text_end[i + 1] - tok->text_end[i];
        uint8_t type = tok->type[i];
        if (size && (type == FP__TOKEN_CONTROL || type == FP__TOKEN_UNKNOWN || type == FP__TOKEN_USER))
            entries[n++] = (special_entry){i, size};
    }
    qsort(entries, n, sizeof *entries, compare_specials);
    for (size_t i = 0; i < n; i++)
        tok->special[i] = entries[i].id;
    tok->n_special = n;
    free(entries);
    return FP_OK;
}

/* ---- BPE ---- */

static fp_status add_merge(fp__tokenizer *tok, fp__gguf_string s, uint32_t guess)
{
    const uint8_t *text = (const uint8_t *)s.data;
    const uint8_t *space = s.size > 1 ? memchr(text + 1, ' ', s.size - 1) : NULL;
    if (!space || space + 1 == text + s.size)
        return fp__fail(FP_FORMAT, "merge %u ('%.*s') is not two symbols", tok->n_merges,
                        (int)(s.size < 64 ? s.size : 64), s.data);
    size_t left_size = (size_t)(space - text), right_size = s.size - left_size - 1;
    fp__merge *m = &tok->merges[tok->n_merges];
    FP_TRY(intern(tok, text, left_size, &m->left));
    FP_TRY(intern(tok, space + 1, right_size, &m->right));
    /* Vocabularies list merged tokens in the order of the merges: try the next one before searching. */
    size_t size;
    const uint8_t *guessed = guess < tok->V ? fp__symbol_text(tok, guess, &size) : NULL;
    if (guessed && size == s.size - 1 && memcmp(guessed, text, left_size) == 0 &&
        memcmp(guessed + left_size, space + 1, right_size) == 0 &&
        fp__symbol_find(tok, guessed, size) == guess) {
        m->merged = guess;
    } else {
        size_t before = tok->text.size;
        FP_TRY(fp__buf_append(&tok->text, text, left_size));
        FP_TRY(fp__buf_append(&tok->text, space + 1, right_size));
        m->merged = fp__symbol_find(tok, tok->text.data + before, s.size - 1);
        if (m->merged == FP__TOKEN_NONE) {
            m->merged = tok->n_symbols;
            FP_TRY(add_symbol(tok, s.size - 1));
        } else {
            tok->text.size = before;
        }
    }
    uint32_t at = fp__merge_hash(m->left, m->right) & tok->merge_slots.mask;
    for (; tok->merge_slots.data[at] != FP__TOKEN_NONE; at = (at + 1) & tok->merge_slots.mask) {
        const fp__merge *other = &tok->merges[tok->merge_slots.data[at]];
        if (other->left == m->left && other->right == m->right)
            return tok->n_merges++, FP_OK; /* a repeated merge keeps its first rank */
    }
    tok->merge_slots.data[at] = tok->n_merges++;
    return FP_OK;
}

static fp_status load_bpe(fp__tokenizer *tok, const fp__gguf *g)
{
    for (unsigned b = 0; b < 256; b++) {
        uint8_t text[2];
        size_t size = fp__byte_to_text((uint8_t)b, text);
        FP_TRY(intern(tok, text, size, &tok->byte_symbol[b]));
    }
    fp__gguf_array merges;
    FP_TRY(fp__gguf_get_array(g, "tokenizer.ggml.merges", FP__GGUF_STRING, &merges));
    if (merges.count > MAX_MERGES)
        return fp__fail(FP_LIMIT, "the vocabulary has %llu merges; at most %u are accepted",
                        (unsigned long long)merges.count, MAX_MERGES);
    tok->merges = malloc(((size_t)merges.count + 1) * sizeof *tok->merges);
    if (!tok->merges)
        return no_memory();
    FP_TRY(slots_create(&tok->merge_slots, (size_t)merges.count + 1));
    size_t cursor = 0;
    for (uint32_t i = 0, guess = 0; i < merges.count; i++) {
        FP_TRY(add_merge(tok, fp__gguf_string_next(&merges, &cursor), guess));
        guess = tok->merges[i].merged + 1;
    }
    return FP_OK;
}

/* ---- SPM ---- */

static void find_byte_tokens(fp__tokenizer *tok)
{
    static const char hex[] = "0123456789ABCDEF";
    for (unsigned b = 0; b < 256; b++) {
        char text[7] = {'<', '0', 'x', hex[b >> 4], hex[b & 15], '>', 0};
        uint8_t byte = (uint8_t)b;
        uint32_t id = fp__symbol_find(tok, (const uint8_t *)text, 6);
        if (id == FP__TOKEN_NONE)
            id = fp__symbol_find(tok, &byte, 1);
        tok->byte_symbol[b] = id;
    }
}

/* ---- all of it ---- */

static fp_status choose_model(fp__tokenizer *tok, const fp__gguf *g)
{
    fp__gguf_string model;
    FP_TRY(fp__gguf_get_string(g, "tokenizer.ggml.model", &model));
    if (model.size == 5 && memcmp(model.data, "llama", 5) == 0) {
        tok->kind = FP__TOKENIZER_SPM;
        return FP_OK;
    }
    if (model.size != 4 || memcmp(model.data, "gpt2", 4) != 0)
        return fp__fail(FP_UNSUPPORTED,
                        "the tokenizer model '%.*s' is not supported; gpt2 (BPE) and llama (SPM) are",
                        (int)(model.size < 64 ? model.size : 64), model.data);
    tok->kind = FP__TOKENIZER_BPE;
    char name[64] = "default"; /* files without the key are from before pre-tokenizers had names */
    if (fp__gguf_has_key(g, "tokenizer.ggml.pre")) {
        fp__gguf_string pre;
        FP_TRY(fp__gguf_get_string(g, "tokenizer.ggml.pre", &pre));
        size_t n = pre.size < sizeof name - 1 ? pre.size : sizeof name - 1;
        memcpy(name, pre.data, n);
        name[n] = 0;
    }
    return fp__pretokenizer_create(name, &tok->pre);
}

static fp_status load(fp__tokenizer *tok, const fp__gguf *g)
{
    FP_TRY(choose_model(tok, g));
    FP_TRY(load_texts(tok, g));
    FP_TRY(load_types(tok, g));
    FP_TRY(load_settings(tok, g));
    if (tok->kind == FP__TOKENIZER_BPE) {
        FP_TRY(load_bpe(tok, g));
    } else {
        FP_TRY(load_scores(tok, g));
        find_byte_tokens(tok);
    }
    mark_known_tokens(tok);
    return collect_specials(tok);
}

fp_status fp__tokenizer_load(const fp__gguf *g, fp__tokenizer **out)
{
    fp__tokenizer *tok = calloc(1, sizeof *tok);
    if (!tok)
        return no_memory();
    fp_status status = load(tok, g);
    if (status != FP_OK) {
        fp__tokenizer_destroy(tok);
        return fp__fail_context(status, "tokenizer of %s", fp__gguf_path(g));
    }
    *out = tok;
    return FP_OK;
}

void fp__tokenizer_destroy(fp__tokenizer *tok)
{
    if (!tok)
        return;
    fp__buf_free(&tok->text);
    free(tok->text_end);
    free(tok->text_hash);
    free(tok->symbol_slots.data);
    free(tok->type);
    free(tok->score);
    free(tok->eog);
    free(tok->special);
    fp__pretokenizer_destroy(tok->pre);
    free(tok->merges);
    free(tok->merge_slots.data);
    free(tok);
}
