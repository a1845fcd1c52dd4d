#include "model/chat.h"
#include <stdlib.h>

typedef enum style {
    STYLE_CHATML,   /* <|im_start|>role … <|im_end|> */
    STYLE_LLAMA2,   /* [INST] <<SYS>> … <</SYS>> … [/INST] … </s> */
    STYLE_LLAMA3,   /* <|start_header_id|>role<|end_header_id|> … <|eot_id|> */
    STYLE_MISTRAL,  /* [INST] … [/INST] … </s>, the system message in the user turn */
    STYLE_MISTRAL7, /* as mistral, with [SYSTEM_PROMPT] … [/SYSTEM_PROMPT] */
    STYLE_ZEPHYR    /* <|role|> … </s> */
} style;

typedef struct definition {
    const char *name;
    style style;
    const char *lead;  /* in front of [INST] and [/INST] */
    const char *trail; /* behind [INST] and before an answer */
    bool trim_answer;
} definition;

static const definition definitions[] = {
    {"chatml", STYLE_CHATML, "", "", false},        {"llama2", STYLE_LLAMA2, "", "", false},
    {"llama3", STYLE_LLAMA3, "", "", false},        {"mistral-v1", STYLE_MISTRAL, " ", " ", false},
    {"mistral-v3", STYLE_MISTRAL, "", " ", true},   {"mistral-v3-tekken", STYLE_MISTRAL, "", "", false},
    {"mistral-v7", STYLE_MISTRAL7, "", " ", false}, {"mistral-v7-tekken", STYLE_MISTRAL7, "", "", false},
    {"zephyr", STYLE_ZEPHYR, "", "", false},
};
static const char names[] = "chatml, llama2, llama3, mistral-v1, mistral-v3, mistral-v3-tekken, mistral-v7, "
                            "mistral-v7-tekken, zephyr";

/* Variants of llama2 templates in the wild. */
enum { LLAMA2_NO_SYS = 1, LLAMA2_BOS_INSIDE = 2, LLAMA2_TRIM = 4 };

struct fp__chat_template {
    const definition *def;
    unsigned variant;
    fp__buf default_system;
    fp__buf end; /* text of the token that ends an answer, where the template says eos_token */
};

/* ---- recognising ---- */

static bool contains(fp__gguf_string text, const char *part)
{
    return text.size && memmem(text.data, text.size, part, strlen(part)) != NULL;
}

static const definition *by_name(const char *name)
{
    for (size_t i = 0; i < sizeof definitions / sizeof definitions[0]; i++)
        if (strcmp(definitions[i].name, name) == 0)
            return &definitions[i];
    return NULL;
}

static const definition *recognise_inst(fp__gguf_string t)
{
    if (contains(t, "[SYSTEM_PROMPT]")) /* the tekken form has no space behind the marks */
        return by_name(contains(t, "[SYSTEM_PROMPT] ") || contains(t, "[INST] ") ? "mistral-v7"
                                                                                 : "mistral-v7-tekken");
    if (!contains(t, "' [INST] ' + system_message") && !contains(t, "[AVAILABLE_TOOLS]"))
        return by_name("llama2");
    if (contains(t, " [INST]"))
        return by_name("mistral-v1");
    return by_name(contains(t, "\"[INST]\"") ? "mistral-v3-tekken" : "mistral-v3");
}

/* By strings that only one family has; the order matters, as some occur in several. */
static const definition *recognise(fp__gguf_string t)
{
    if (contains(t, "<|im_start|>")) /* with these it is phi 4 or SmolVLM */
        return contains(t, "<|im_sep|>") || contains(t, "<end_of_utterance>") ? NULL : by_name("chatml");
    if (contains(t, "[INST]"))
        return recognise_inst(t);
    if (contains(t, "<|start_header_id|>") && contains(t, "<|end_header_id|>"))
        return by_name("llama3");
    bool user_ends = contains(t, "<|user|>\\n' + message['content'] + eos_token") ||
                     contains(t, "<|user|>\n' + message['content'] + eos_token") ||
                     contains(t, "<|endoftext|>");
    if (contains(t, "<|user|>") && contains(t, "<|assistant|>") && user_ends && !contains(t, "<|end|>") &&
        !contains(t, "[gMASK]"))
        return by_name("zephyr");
    return NULL;
}

/* The character that an escape stands for in a template's string. */
static char unescaped(char c)
{
    return c == 'n' ? '\n' : c == 't' ? '\t' : c == 'r' ? '\r' : c;
}

/* Reads the body of a system turn that starts at `at`; false if it is not one literal that ends with
 * <|im_end|>. quote is the character that would end the literal, or '{' where the turn is plain template
 * text. */
static bool literal_system(fp__gguf_string t, size_t at, char quote, fp__buf *out, fp_status *status)
{
    static const char end[] = "<|im_end|>";
    out->size = 0;
    for (; at < t.size && t.data[at] != quote; at++) {
        char c = t.data[at];
        if (t.size - at >= sizeof end - 1 && memcmp(t.data + at, end, sizeof end - 1) == 0)
            return out->size > 0;
        if (c == '\\' && quote != '{' && at + 1 < t.size)
            c = unescaped(t.data[++at]);
        if ((*status = fp__buf_append(out, &c, 1)) != FP_OK)
            return false;
    }
    return false;
}

/* A ChatML template that has a default spells out the whole system turn as one literal. */
static fp_status find_default_system(fp__gguf_string t, fp__buf *out)
{
    static const char mark[] = "<|im_start|>system";
    fp_status status = FP_OK;
    for (size_t at = 0; at + sizeof mark < t.size && status == FP_OK; at++) {
        if (memcmp(t.data + at, mark, sizeof mark - 1) != 0)
            continue;
        char before = at ? t.data[at - 1] : '{', quote = before == '\'' || before == '"' ? before : '{';
        size_t body = at + sizeof mark - 1;
        if (t.data[body] == '\n')
            body++;
        else if (quote != '{' && t.data[body] == '\\' && body + 1 < t.size && t.data[body + 1] == 'n')
            body += 2;
        else
            continue;
        if (literal_system(t, body, quote, out, &status))
            return FP_OK;
    }
    out->size = 0;
    return status;
}

static unsigned llama2_variant(fp__gguf_string t)
{
    return (contains(t, "<<SYS>>") ? 0 : LLAMA2_NO_SYS) |
           (contains(t, "bos_token + '[INST]") ? LLAMA2_BOS_INSIDE : 0) |
           (contains(t, "content.strip()") ? LLAMA2_TRIM : 0);
}

static fp_status choose(fp__gguf_string t, const char *name, fp__chat_template *out)
{
    const definition *recognised = t.size ? recognise(t) : NULL;
    out->def = name ? by_name(name) : recognised;
    if (!out->def && name)
        return fp__fail(FP_UNSUPPORTED, "there is no chat template '%s'; there are: %s", name, names);
    if (!out->def && !t.size)
        return fp__fail(FP_NOT_FOUND, "the model file has no chat template; name one with --template: %s",
                        names);
    if (!out->def)
        return fp__fail(FP_UNSUPPORTED,
                        "the model's chat template is not one of those known; name one with --template: %s",
                        names);
    if (recognised == out->def && out->def->style == STYLE_LLAMA2)
        out->variant = llama2_variant(t);
    if (recognised == out->def && out->def->style == STYLE_CHATML)
        FP_TRY(find_default_system(t, &out->default_system));
    const char *end =
        out->def->style == STYLE_ZEPHYR && contains(t, "<|endoftext|>") ? "<|endoftext|>" : "</s>";
    return fp__buf_append_text(&out->end, end);
}

fp_status fp__chat_template_parse(const char *text, size_t size, const char *name, fp__chat_template **out)
{
    fp__chat_template *t = calloc(1, sizeof *t);
    if (!t)
        return fp__fail(FP_NO_MEMORY, "no memory for a chat template");
    fp_status status = choose((fp__gguf_string){text, text ? size : 0}, name, t);
    if (status == FP_OK && !fp__utf8_valid(t->default_system.data, t->default_system.size, NULL))
        status = fp__fail(FP_FORMAT, "the default system message of the chat template is not UTF-8");
    if (status != FP_OK) {
        fp__chat_template_destroy(t);
        return status;
    }
    *out = t;
    return FP_OK;
}

/* zephyr templates end turns with eos_token: its text from the vocabulary. */
static fp_status load_end(const fp__gguf *g, fp__chat_template *t)
{
    uint32_t eos = 0;
    fp__gguf_array tokens = {0};
    if (t->def->style != STYLE_ZEPHYR || !fp__gguf_has_key(g, "tokenizer.ggml.eos_token_id"))
        return FP_OK;
    FP_TRY(fp__gguf_get_u32(g, "tokenizer.ggml.eos_token_id", &eos));
    FP_TRY(fp__gguf_get_array(g, "tokenizer.ggml.tokens", FP__GGUF_STRING, &tokens));
    if (eos >= tokens.count)
        return FP_OK;
    fp__gguf_string text = {0};
    size_t cursor = 0;
    for (uint32_t i = 0; i <= eos; i++)
        text = fp__gguf_string_next(&tokens, &cursor);
    t->end.size = 0;
    return fp__buf_append(&t->end, text.data, text.size);
}

fp_status fp__chat_template_load(const fp__gguf *g, const char *name, fp__chat_template **out)
{
    fp__gguf_string text = {0};
    fp__chat_template *t = NULL;
    if (fp__gguf_has_key(g, "tokenizer.chat_template"))
        FP_TRY(fp__gguf_get_string(g, "tokenizer.chat_template", &text));
    FP_TRY(fp__chat_template_parse(text.data, text.size, name, &t));
    fp_status status = load_end(g, t);
    if (status != FP_OK) {
        fp__chat_template_destroy(t);
        return status;
    }
    *out = t;
    return FP_OK;
}

void fp__chat_template_destroy(fp__chat_template *t)
{
    if (!t)
        return;
    fp__buf_free(&t->default_system);
    fp__buf_free(&t->end);
    free(t);
}

const char *fp__chat_template_name(const fp__chat_template *t)
{
    return t->def->name;
}

const char *fp__chat_template_names(void)
{
    return names;
}

fp__gguf_string fp__chat_template_default_system(const fp__chat_template *t)
{
    return (fp__gguf_string){(const char *)t->default_system.data, t->default_system.size};
}

bool fp__chat_template_has_system(const fp__chat_template *t)
{
    return t->def->style != STYLE_LLAMA2 && t->def->style != STYLE_MISTRAL;
}

fp_status fp__chat_template_serialize(const fp__chat_template *t, fp__buf *out)
{
    size_t name_size = strlen(t->def->name);
    FP_TRY(fp__buf_append(out, "fieldprint/chat\x01", 16));
    FP_TRY(fp__buf_append_le32(out, (uint32_t)name_size));
    FP_TRY(fp__buf_append(out, t->def->name, name_size));
    FP_TRY(fp__buf_append_le32(out, t->variant));
    FP_TRY(fp__buf_append_le32(out, (uint32_t)t->end.size));
    FP_TRY(fp__buf_append(out, t->end.data, t->end.size));
    FP_TRY(fp__buf_append_le32(out, (uint32_t)t->default_system.size));
    return fp__buf_append(out, t->default_system.data, t->default_system.size);
}

/* ---- rendering ---- */

void fp__chat_rendering_free(fp__chat_rendering *r)
{
    fp__buf_free(&r->text);
    free(r->pieces);
    *r = (fp__chat_rendering){0};
}

/* A conversation being rendered. Template text is collected in the open piece until message text or the end
 * of a message closes it. A single space of the template in front of message text goes into the message's
 * piece: vocabularies of the SPM kind have it as a part of the word. */
typedef struct renderer {
    const fp__chat_template *t;
    fp__chat_rendering *out;
    size_t open;  /* where the open piece starts; equal to out->text.size: none */
    bool in_turn; /* [INST] styles: a user turn is open */
} renderer;

static fp_status close_piece(renderer *r, uint32_t source)
{
    fp__chat_rendering *out = r->out;
    if (r->open == out->text.size)
        return FP_OK;
    if (out->n_pieces == out->capacity) {
        size_t capacity = out->capacity ? 2 * out->capacity : 16;
        fp__chat_piece *pieces = realloc(out->pieces, capacity * sizeof *pieces);
        if (!pieces)
            return fp__fail(FP_NO_MEMORY, "no memory for a conversation");
        out->pieces = pieces;
        out->capacity = capacity;
    }
    out->pieces[out->n_pieces++] = (fp__chat_piece){r->open, out->text.size - r->open, source};
    r->open = out->text.size;
    return FP_OK;
}

static fp_status put(renderer *r, const char *text)
{
    return fp__buf_append_text(&r->out->text, text);
}

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static fp_status put_message(renderer *r, const fp__chat_message *m, uint32_t source, bool trim)
{
    const char *text = m->text;
    size_t size = m->size;
    while (trim && size && is_space(text[0]))
        text++, size--;
    while (trim && size && is_space(text[size - 1]))
        size--;
    if (!size)
        return FP_OK;
    size_t bad;
    if (!fp__utf8_valid(m->text, m->size, &bad))
        return fp__fail(FP_TEXT, "message %u is not UTF-8 at byte %zu; convert it to UTF-8", source, bad);
    fp__buf *all = &r->out->text;
    bool space = all->size > r->open && all->data[all->size - 1] == ' ';
    all->size -= space;
    FP_TRY(close_piece(r, FP__CHAT_SOURCE_TEMPLATE));
    if (space)
        FP_TRY(put(r, " "));
    FP_TRY(fp__buf_append(all, text, size));
    return close_piece(r, source);
}

static const char *role_name(fp__chat_role role)
{
    return role == FP__ROLE_SYSTEM ? "system" : role == FP__ROLE_USER ? "user" : "assistant";
}

static fp_status open_header(renderer *r, fp__chat_role role)
{
    switch (r->t->def->style) {
    case STYLE_CHATML:
        FP_TRY(put(r, "<|im_start|>"));
        FP_TRY(put(r, role_name(role)));
        return put(r, "\n");
    case STYLE_LLAMA3:
        FP_TRY(put(r, "<|start_header_id|>"));
        FP_TRY(put(r, role_name(role)));
        return put(r, "<|end_header_id|>\n\n");
    default: /* STYLE_ZEPHYR */
        FP_TRY(put(r, "<|"));
        FP_TRY(put(r, role_name(role)));
        return put(r, "|>\n");
    }
}

/* chatml, llama3, zephyr: every message is a turn of its own. */
static fp_status header_message(renderer *r, const fp__chat_message *m, uint32_t source)
{
    FP_TRY(open_header(r, m->role));
    FP_TRY(put_message(r, m, source, r->t->def->style == STYLE_LLAMA3));
    switch (r->t->def->style) {
    case STYLE_CHATML:
        return put(r, "<|im_end|>\n");
    case STYLE_LLAMA3:
        return put(r, "<|eot_id|>");
    default:
        FP_TRY(put(r, (const char *)r->t->end.data));
        return put(r, "\n");
    }
}

static fp_status mistral7_message(renderer *r, const fp__chat_message *m, uint32_t source)
{
    static const char *const open[] = {"[SYSTEM_PROMPT]", "[INST]", ""}, *const close[] = {"[/SYSTEM_PROMPT]",
                                                                                           "[/INST]", NULL};
    FP_TRY(put(r, open[m->role]));
    FP_TRY(put(r, r->t->def->trail));
    FP_TRY(put_message(r, m, source, false));
    return put(r, close[m->role] ? close[m->role] : (const char *)r->t->end.data);
}

static fp_status mistral_message(renderer *r, const fp__chat_message *m, uint32_t source)
{
    const definition *d = r->t->def;
    if (m->role == FP__ROLE_ASSISTANT) {
        r->in_turn = false;
        FP_TRY(put(r, d->trail));
        FP_TRY(put_message(r, m, source, d->trim_answer));
        return put(r, (const char *)r->t->end.data);
    }
    if (!r->in_turn) {
        FP_TRY(put(r, d->lead));
        FP_TRY(put(r, "[INST]"));
        FP_TRY(put(r, d->trail));
        r->in_turn = true;
    }
    FP_TRY(put_message(r, m, source, false));
    if (m->role == FP__ROLE_SYSTEM)
        return put(r, "\n\n");
    r->in_turn = false;
    FP_TRY(put(r, d->lead));
    return put(r, "[/INST]");
}

static fp_status llama2_message(renderer *r, const fp__chat_message *m, uint32_t source, bool first)
{
    bool trim = r->t->variant & LLAMA2_TRIM, sys = !(r->t->variant & LLAMA2_NO_SYS);
    if (m->role == FP__ROLE_ASSISTANT) {
        r->in_turn = false;
        FP_TRY(put(r, " "));
        FP_TRY(put_message(r, m, source, trim));
        return put(r, (const char *)r->t->end.data);
    }
    if (!r->in_turn) {
        if (!first && (r->t->variant & LLAMA2_BOS_INSIDE))
            FP_TRY(put(r, "<s>"));
        FP_TRY(put(r, "[INST] "));
        r->in_turn = true;
    }
    if (m->role == FP__ROLE_SYSTEM) {
        FP_TRY(put(r, sys ? "<<SYS>>\n" : ""));
        FP_TRY(put_message(r, m, source, trim));
        return put(r, sys ? "\n<</SYS>>\n\n" : "\n");
    }
    r->in_turn = false;
    FP_TRY(put_message(r, m, source, trim));
    return put(r, " [/INST]");
}

static fp_status render_message(renderer *r, const fp__chat_message *m, uint32_t source, bool bare,
                                bool first)
{
    if (bare) {
        FP_TRY(put_message(r, m, source, false));
        FP_TRY(put(r, "\n"));
    } else if (r->t->def->style == STYLE_LLAMA2) {
        FP_TRY(llama2_message(r, m, source, first));
    } else if (r->t->def->style == STYLE_MISTRAL) {
        FP_TRY(mistral_message(r, m, source));
    } else if (r->t->def->style == STYLE_MISTRAL7) {
        FP_TRY(mistral7_message(r, m, source));
    } else {
        FP_TRY(header_message(r, m, source));
    }
    /* No piece spans two messages: so a conversation can be cut between any two. */
    return close_piece(r, FP__CHAT_SOURCE_TEMPLATE);
}

static fp_status render(renderer *r, const fp__chat_message *messages, size_t n, unsigned flags)
{
    bool only_system = n > 0;
    for (size_t i = 0; i < n; i++)
        only_system = only_system && messages[i].role == FP__ROLE_SYSTEM;
    bool bare = only_system && !fp__chat_template_has_system(r->t);
    if (bare && (flags & FP__CHAT_GENERATE))
        return fp__fail(FP_USAGE, "the chat template '%s' needs a user message to answer", r->t->def->name);
    const fp__buf *system = &r->t->default_system;
    if (system->size && !(flags & FP__CHAT_CONTINUE) && (!n || messages[0].role != FP__ROLE_SYSTEM)) {
        FP_TRY(open_header(r, FP__ROLE_SYSTEM)); /* only chatml has a default */
        FP_TRY(fp__buf_append(&r->out->text, system->data, system->size));
        FP_TRY(put(r, "<|im_end|>\n"));
        FP_TRY(close_piece(r, FP__CHAT_SOURCE_TEMPLATE));
    }
    for (size_t i = 0; i < n; i++)
        FP_TRY(render_message(r, &messages[i], (uint32_t)i, bare, i == 0 && !(flags & FP__CHAT_CONTINUE)));
    if (r->in_turn)
        return fp__fail(FP_USAGE, "the chat template '%s' needs a user message after a system message",
                        r->t->def->name);
    style s = r->t->def->style;
    if ((flags & FP__CHAT_GENERATE) && (s == STYLE_CHATML || s == STYLE_LLAMA3 || s == STYLE_ZEPHYR)) {
        FP_TRY(open_header(r, FP__ROLE_ASSISTANT));
        FP_TRY(close_piece(r, FP__CHAT_SOURCE_TEMPLATE));
    }
    return FP_OK;
}

fp_status fp__chat_render(const fp__chat_template *t, const fp__chat_message *messages, size_t n,
                          unsigned flags, fp__chat_rendering *out)
{
    renderer r = {.t = t, .out = out, .open = out->text.size};
    if (n >= FP__CHAT_SOURCE_TEMPLATE)
        return fp__fail(FP_LIMIT, "%zu messages", n);
    return render(&r, messages, n, flags);
}

/* ---- tokenising ---- */

static fp_status tokenize_piece(const fp__tokenizer *tok, const fp__chat_rendering *r,
                                const fp__chat_piece *p, bool after_special, fp__ids *ids, fp__ids *sources)
{
    const char *text = (const char *)r->text.data + p->offset;
    bool message = p->source != FP__CHAT_SOURCE_TEMPLATE;
    /* A space in front is the one that SPM would add. */
    unsigned flags =
        (message ? 0 : FP__TOKENIZE_SPECIAL) | (after_special && text[0] != ' ' ? 0 : FP__TOKENIZE_CONTINUE);
    size_t before = ids->size;
    FP_TRY(fp__tokenizer_encode(tok, text, p->size, flags, ids));
    for (size_t i = before; sources && i < ids->size; i++)
        FP_TRY(fp__ids_append(sources, p->source));
    return FP_OK;
}

static fp_status tokenize(const fp__tokenizer *tok, const fp__chat_rendering *r, unsigned flags, fp__ids *ids,
                          fp__ids *sources)
{
    bool after_special = !(flags & FP__CHAT_CONTINUE);
    if (!(flags & FP__CHAT_CONTINUE) && fp__tokenizer_adds_bos(tok)) {
        FP_TRY(fp__ids_append(ids, fp__tokenizer_bos(tok)));
        if (sources)
            FP_TRY(fp__ids_append(sources, FP__CHAT_SOURCE_TEMPLATE));
    }
    for (size_t i = 0; i < r->n_pieces; i++) {
        size_t before = ids->size;
        FP_TRY(tokenize_piece(tok, r, &r->pieces[i], after_special, ids, sources));
        if (ids->size > before)
            after_special = fp__tokenizer_is_control(tok, ids->data[ids->size - 1]);
    }
    return FP_OK;
}

fp_status fp__chat_tokenize(const fp__tokenizer *tok, const fp__chat_template *t,
                            const fp__chat_message *messages, size_t n, unsigned flags, fp__ids *ids,
                            fp__ids *sources)
{
    fp__chat_rendering r = {0};
    size_t ids_before = ids->size, sources_before = sources ? sources->size : 0;
    fp_status status = fp__chat_render(t, messages, n, flags, &r);
    if (status == FP_OK)
        status = tokenize(tok, &r, flags, ids, sources);
    fp__chat_rendering_free(&r);
    if (status != FP_OK) {
        ids->size = ids_before;
        if (sources)
            sources->size = sources_before;
    }
    return status;
}
