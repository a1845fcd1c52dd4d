/* Sessions: messages become context tokens, logits become an answer. */
#include "engine/engine.h"
#include <stdio.h>
#include <stdlib.h>

const char *fp_finish_name(fp_finish finish)
{
    static const char *const names[] = {"none", "stop", "length", "cancelled", "error", "anchor_revoked"};
    return (size_t)finish < sizeof names / sizeof *names ? names[finish] : "unknown";
}

void fp_sampling_default(fp_sampling *out)
{
    *out = (fp_sampling){.top_p = 1.0f, .repeat_penalty = 1.0f};
}

/* ---- life
 * ------------------------------------------------------------------------------------------------------------
 */

static fp_status session_init(fp_session *s, const fp_session_options *o)
{
    const fp__hparams *hp = &s->engine->model->hp;
    const char *tenant = o->tenant ? o->tenant : "local";
    if (strlen(tenant) > FP_READER_MAX)
        return fp__fail(FP_USAGE, "session: a tenant's name has at most %d bytes", FP_READER_MAX);
    snprintf(s->tenant, sizeof s->tenant, "%s", tenant);
    s->has_tenant = o->tenant != NULL;
    s->raw = o->raw;
    s->has_nonce = o->nonce != NULL;
    if (o->nonce)
        memcpy(s->nonce, o->nonce, 32);
    if (!s->raw && !s->engine->model->chat)
        return fp__fail(
            FP_UNSUPPORTED,
            "session: the model names no chat template; give one with --template (%s), or complete raw text",
            fp__chat_template_names());
    s->anchors = o->anchors;
    if ((unsigned)o->release > FP_RELEASE_FINAL)
        return fp__fail(FP_USAGE, "session: release is optimistic, gated or final");
    s->release = o->release;
    s->context_limit = s->engine->context_tokens;
    s->workspace = o->workspace;
    size_t anchor_tokens = fp__session_anchor_tokens(s);
    if (anchor_tokens >= s->engine->context_tokens)
        return fp__fail(FP_LIMIT,
                        "session: the anchors have %zu tokens, the context is %zu; make it larger (--ctx)",
                        anchor_tokens, s->engine->context_tokens);
    uint8_t head[32];
    fp__kvseq_options options = {.segment = FP__SEGMENT_CONTEXT,
                                 .first_pos = anchor_tokens,
                                 .max_tokens = s->engine->context_tokens - anchor_tokens,
                                 .label = FP_LABEL_CORE};
    if (s->anchors) {
        FP_TRY(fp__kvseq_head(s->anchors->seq, head));
        options.anchor_kv_head = head;
        options.label = fp__kvseq_label(s->anchors->seq);
    }
    FP_TRY(fp__kvseq_create(s->engine->pool, s->engine->hasher, &options, &s->context));
    s->mass = calloc(hp->layers * hp->heads, sizeof *s->mass);
    if (!s->mass)
        return fp__fail(FP_NO_MEMORY, "session: no memory");
    FP_TRY(fp__checks_create(s));
    return fp__sampler_create(hp->vocabulary, s->engine->model->ops->exp_weights, &s->sampler);
}

fp_status fp_session_create(fp_engine *engine, const fp_session_options *options, fp_session **out)
{
    static const fp_session_options defaults;
    size_t i = 0;
    while (i < engine->max_sessions && engine->sessions[i])
        i++;
    if (i == engine->max_sessions)
        return fp__fail(FP_LIMIT, "session: all %zu of this engine are in use", engine->max_sessions);
    fp_session *s = calloc(1, sizeof *s);
    if (!s)
        return fp__fail(FP_NO_MEMORY, "session: no memory");
    s->engine = engine;
    fp_status status = session_init(s, options ? options : &defaults);
    if (status != FP_OK) {
        fp_session_destroy(s);
        return status;
    }
    engine->sessions[i] = s;
    *out = s;
    return FP_OK;
}

static void free_texts(char ***texts, size_t *n)
{
    for (size_t i = 0; i < *n; i++)
        free((*texts)[i]);
    free(*texts);
    *texts = NULL;
    *n = 0;
}

static void free_answer(fp__answer *a)
{
    free_texts(&a->stops, &a->n_stops);
    free_texts(&a->holds, &a->n_holds);
    fp__buf_free(&a->left);
}

void fp_session_destroy(fp_session *s)
{
    if (!s)
        return;
    fp__checks_destroy(s);
    for (size_t i = 0; i < s->engine->max_sessions; i++)
        if (s->engine->sessions[i] == s)
            s->engine->sessions[i] = NULL;
    for (size_t i = 0; i < s->n_turns; i++)
        fp__buf_free(&s->turns[i].text);
    free(s->turns);
    free_answer(&s->answer);
    fp__ids_free(&s->ids);
    fp__kvseq_destroy(s->context);
    fp__sampler_destroy(s->sampler);
    free(s->mass);
    free(s);
}

/* ---- messages
 * ---------------------------------------------------------------------------------------------------------
 */

fp_status fp__session_add_turn(fp_session *s, fp__text_kind kind, fp_role role, const char *text, size_t size,
                               fp__turn **out)
{
    if (s->n_turns == s->turns_capacity) {
        size_t capacity = s->turns_capacity ? 2 * s->turns_capacity : 8;
        fp__turn *turns = realloc(s->turns, capacity * sizeof *turns);
        if (!turns)
            return fp__fail(FP_NO_MEMORY, "session: no memory for another message");
        s->turns = turns;
        s->turns_capacity = capacity;
    }
    fp__turn *turn = &s->turns[s->n_turns];
    *turn = (fp__turn){.kind = kind, .role = role, .label = FP_LABEL_USER, .closed_by = FP__TOKEN_NONE};
    fp_status status = fp__buf_append(&turn->text, text, size);
    if (status != FP_OK) {
        fp__buf_free(&turn->text);
        return status;
    }
    s->n_turns++;
    if (out)
        *out = turn;
    return FP_OK;
}

const char *fp_source_name(fp_source source)
{
    static const char *const names[] = {"system", "user", "tool", "retrieved"};
    return (size_t)source < sizeof names / sizeof *names ? names[source] : "unknown";
}

fp_status fp_source_parse(const char *name, fp_source *out)
{
    for (fp_source source = FP_SOURCE_SYSTEM; source <= FP_SOURCE_RETRIEVED; source++)
        if (strcmp(name, fp_source_name(source)) == 0) {
            *out = source;
            return FP_OK;
        }
    return fp__fail(FP_USAGE, "\"%.40s\" is no source of a text: system, user, tool or retrieved", name);
}

fp_status fp_session_add_message(fp_session *s, fp_role role, const char *text, size_t size)
{
    return fp__session_add_labelled(s, role, FP_LABEL_USER, text, size);
}

fp_status fp_session_add_text(fp_session *s, fp_role role, fp_source source, fp_workspace *endorsements,
                              const char *text, size_t size)
{
    if ((unsigned)source > FP_SOURCE_RETRIEVED)
        return fp__fail(FP_USAGE, "session: no such source");
    bool external = source == FP_SOURCE_TOOL || source == FP_SOURCE_RETRIEVED;
    fp_label label = external ? FP_LABEL_EXTERNAL : FP_LABEL_USER, endorsed = FP_LABEL_EXTERNAL;
    if (external && endorsements && text && size > 0) {
        fp_status status = fp_content_label(endorsements, text, size, &endorsed);
        if (status != FP_OK && status != FP_NOT_FOUND)
            return status;
        if (status == FP_OK && endorsed >= FP_LABEL_USER)
            label = FP_LABEL_USER; /* core comes from promoted anchors only */
    }
    return fp__session_add_labelled(s, role, label, text, size);
}

fp_label fp_session_label(const fp_session *s)
{
    fp_label lowest = fp__kvseq_label(s->context);
    lowest = lowest < FP_LABEL_USER ? lowest : FP_LABEL_USER;
    for (size_t i = s->n_turns - s->pending_turns; i < s->n_turns; i++)
        lowest = s->turns[i].label < lowest ? s->turns[i].label : lowest;
    return lowest;
}

fp_status fp__session_commit(fp_session *s, const uint32_t *ids, size_t n)
{
    size_t turn = 0;
    while (n > 0) {
        size_t at = fp__kvseq_tokens(s->context);
        while (turn + 1 < s->n_turns && s->turns[turn + 1].first <= at)
            turn++;
        bool last = turn + 1 == s->n_turns;
        size_t run = last || s->turns[turn + 1].first - at > n ? n : s->turns[turn + 1].first - at;
        FP_TRY(fp__kvseq_commit(s->context, ids, run, s->turns[turn].label));
        ids += run;
        n -= run;
    }
    return FP_OK;
}

fp_status fp__session_add_labelled(fp_session *s, fp_role role, fp_label label, const char *text, size_t size)
{
    size_t bad;
    fp__turn *turn = NULL;
    if (fp__session_active(s))
        return fp__fail(FP_USAGE, "session: an answer is being generated");
    if (role > FP_ROLE_ASSISTANT || (s->raw && role != FP_ROLE_USER))
        return fp__fail(FP_USAGE, "session: no such role here");
    if (!text && size > 0)
        return fp__fail(FP_USAGE, "session: the message is missing");
    if (size > 0 && memchr(text, 0, size))
        return fp__fail(FP_TEXT, "message: it holds a NUL byte");
    if (!fp__utf8_valid(text, size, &bad))
        return fp__fail(FP_TEXT, "message: byte %zu is not UTF-8", bad);
    FP_TRY(fp__session_add_turn(s, FP__TEXT_MESSAGE, role, text, size, &turn));
    turn->label = label;
    s->pending_turns++;
    return FP_OK;
}

fp_status fp_session_drop_messages(fp_session *s)
{
    if (fp__session_active(s))
        return fp__fail(FP_USAGE, "session: an answer is being generated");
    for (; s->pending_turns > 0; s->pending_turns--)
        fp__buf_free(&s->turns[--s->n_turns].text);
    return FP_OK;
}

/* Template tokens belong to the message before them, leading ones to the first. */
static void assign_ranges(fp__turn *turns, size_t n, const uint32_t *sources, size_t n_ids, size_t first)
{
    size_t current = 0;
    for (size_t i = 0; i < n; i++) {
        turns[i].first = first;
        turns[i].count = 0;
    }
    for (size_t i = 0; i < n_ids; i++) {
        if (sources[i] != FP__CHAT_SOURCE_TEMPLATE && sources[i] > current)
            current = sources[i];
        turns[current].count++;
    }
    for (size_t i = 1; i < n; i++)
        turns[i].first = turns[i - 1].first + turns[i - 1].count;
}

/* After an answer the template closes its turn first: rendered by putting a stand-in for the answer in front
 * and dropping everything up to the end of the stand-in's text. */
static fp_status render_chat(fp_session *s, fp__turn *turns, size_t n, bool after_answer, fp__ids *ids,
                             fp__ids *sources)
{
    static const fp__chat_role roles[] = {FP__ROLE_SYSTEM, FP__ROLE_USER, FP__ROLE_ASSISTANT};
    fp__chat_message *messages = calloc(n + 1, sizeof *messages);
    fp__ids all = {0}, all_sources = {0};
    if (!messages)
        return fp__fail(FP_NO_MEMORY, "session: no memory");
    size_t shift = after_answer ? 1 : 0, skip = 0;
    messages[0] = (fp__chat_message){FP__ROLE_ASSISTANT, "x", 1};
    for (size_t i = 0; i < n; i++)
        messages[shift + i] =
            (fp__chat_message){roles[turns[i].role], (const char *)turns[i].text.data, turns[i].text.size};
    unsigned flags = FP__CHAT_GENERATE | (after_answer || s->anchors ? FP__CHAT_CONTINUE : 0u);
    fp_status status = fp__chat_tokenize(s->engine->model->tokenizer, s->engine->model->chat, messages,
                                         n + shift, flags, &all, &all_sources);
    for (size_t i = 0; shift && i < all.size; i++)
        if (all_sources.data[i] == 0)
            skip = i + 1;
    for (size_t i = skip; i < all.size && status == FP_OK; i++) {
        uint32_t source = all_sources.data[i];
        status = fp__ids_append(ids, all.data[i]);
        if (status == FP_OK)
            status = fp__ids_append(sources,
                                    source == FP__CHAT_SOURCE_TEMPLATE ? source : source - (uint32_t)shift);
    }
    free(messages);
    fp__ids_free(&all);
    fp__ids_free(&all_sources);
    return status;
}

static fp_status render_raw(fp_session *s, fp__turn *turns, size_t n, bool first, fp__ids *ids,
                            fp__ids *sources)
{
    for (size_t i = 0; i < n; i++) {
        unsigned flags = first && i == 0 && !s->anchors ? FP__TOKENIZE_ADD : FP__TOKENIZE_CONTINUE;
        size_t before = ids->size;
        FP_TRY(fp__tokenizer_encode(s->engine->model->tokenizer, (const char *)turns[i].text.data,
                                    turns[i].text.size, flags, ids));
        for (size_t k = before; k < ids->size; k++)
            FP_TRY(fp__ids_append(sources, (uint32_t)i));
    }
    return FP_OK;
}

fp_status fp__session_render(fp_session *s, fp__ids *ids)
{
    size_t n = s->pending_turns, first_turn = s->n_turns - n;
    fp__turn *turns = s->turns + first_turn;
    if (n == 0)
        return fp__fail(FP_USAGE, "session: add a message first");
    bool after_answer = first_turn > 0 && turns[-1].kind == FP__TEXT_OUTPUT;
    fp__ids sources = {0};
    size_t before = ids->size;
    fp_status status = s->raw ? render_raw(s, turns, n, first_turn == 0, ids, &sources)
                              : render_chat(s, turns, n, after_answer, ids, &sources);
    if (status == FP_OK && ids->size == before)
        status = fp__fail(FP_USAGE, "session: the prompt has no tokens");
    if (status == FP_OK)
        assign_ranges(turns, n, sources.data, sources.size, before);
    fp__ids_free(&sources);
    return status;
}

/* ---- generation
 * ------------------------------------------------------------------------------------------------------- */

static fp__sampling sampling_params(const fp_sampling *p)
{
    return (fp__sampling){.temperature = (double)p->temperature,
                          .top_k = p->top_k,
                          .top_p = (double)p->top_p,
                          .min_p = (double)p->min_p,
                          .repetition = p->repeat_penalty,
                          .frequency = p->frequency_penalty,
                          .presence = p->presence_penalty,
                          .seed = p->seed};
}

fp__sampling fp__session_sampling(const fp_session *s)
{
    return sampling_params(&s->answer.sampling);
}

fp_status fp__session_check_sampling(const fp_session *s, const fp_sampling *sampling)
{
    fp__sampling params = sampling_params(sampling);
    return fp__sampling_check(&params, s->engine->model->hp.vocabulary);
}

static fp_status copy_texts(const char *const *from, size_t n, const char *what, char ***to, size_t *count)
{
    *to = calloc(n + 1, sizeof **to);
    if (!*to)
        return fp__fail(FP_NO_MEMORY, "session: no memory");
    for (size_t i = 0; i < n; i++) {
        if (!from[i][0])
            return fp__fail(FP_USAGE, "session: a %s string is empty", what);
        if (!((*to)[i] = strdup(from[i])))
            return fp__fail(FP_NO_MEMORY, "session: no memory");
        *count = i + 1;
    }
    return FP_OK;
}

static fp_status copy_options(fp__answer *a, const fp_generate_options *o)
{
    FP_TRY(copy_texts(o->stops, o->n_stops, "stop", &a->stops, &a->n_stops));
    FP_TRY(copy_texts(o->holds, o->n_holds, "hold", &a->holds, &a->n_holds));
    a->sampling = o->sampling;
    a->max_tokens = o->max_tokens;
    a->ignore_eog = o->ignore_eog;
    a->on_text = o->on_text;
    a->on_text_context = o->on_text_context;
    a->on_retract = o->on_retract;
    return FP_OK;
}

/* Takes an end-of-generation token that ends an answer out of the context (it was sampled last, so it has no
 * K/V yet): the template closes the turn itself. */
static void close_turn(const fp_session *s, fp__turn *turn, fp__ids *ids)
{
    if (turn->kind != FP__TEXT_OUTPUT || turn->count == 0 || turn->closed_by != FP__TOKEN_NONE || s->raw ||
        !fp__tokenizer_is_eog(s->engine->model->tokenizer, ids->data[ids->size - 1]))
        return;
    turn->closed_by = ids->data[--ids->size];
    turn->count--;
}

static void open_turn(fp_session *s, fp__turn *turn)
{
    if (turn->closed_by == FP__TOKEN_NONE)
        return;
    s->ids.data[s->ids.size++] = turn->closed_by; /* it was there before: there is room */
    turn->count++;
    turn->closed_by = FP__TOKEN_NONE;
}

fp_status fp__session_replay_turn(fp_session *s, fp__turn *turn, const fp__ids *tokens, bool last,
                                  fp__ids *ids)
{
    turn->first = ids->size;
    turn->count = tokens->size;
    for (size_t k = 0; k < tokens->size; k++) {
        if (tokens->data[k] >= s->engine->model->hp.vocabulary)
            return fp__fail(FP_INVALID, "position %zu: token %u is outside of the vocabulary",
                            fp__session_anchor_tokens(s) + ids->size, tokens->data[k]);
        FP_TRY(fp__ids_append(ids, tokens->data[k]));
    }
    if (!last)
        close_turn(s, turn, ids);
    return FP_OK;
}

static fp_status begin(fp_session *s, const fp_generate_options *o)
{
    fp__answer *a = &s->answer;
    size_t anchor_tokens = fp__session_anchor_tokens(s), before = s->ids.size;
    FP_TRY(copy_options(a, o));
    if (s->has_nonce)
        a->sampling.seed = fp__seed_from_nonce(s->nonce);
    FP_TRY(fp__session_check_sampling(s, &a->sampling));
    FP_TRY(fp__session_render(s, &s->ids));
    if (anchor_tokens + s->ids.size + 1 > s->engine->context_tokens)
        return fp__fail(
            FP_LIMIT,
            "context overflow: %zu anchor tokens and %zu context tokens leave no room for an answer in %zu; "
            "shorten the prompt or make the context larger (--ctx)",
            anchor_tokens, s->ids.size, s->engine->context_tokens);
    a->prompt_tokens = (uint32_t)(s->ids.size - before);
    fp__turn *turn;
    fp_label label = fp_session_label(s);
    FP_TRY(fp__session_add_turn(s, FP__TEXT_OUTPUT, FP_ROLE_ASSISTANT, "", 0, &turn));
    turn->label = label;
    turn->first = s->ids.size;
    a->turn = s->n_turns - 1;
    return FP_OK;
}

fp_status fp_session_begin(fp_session *s, const fp_generate_options *options)
{
    if (fp__session_active(s))
        return fp__fail(FP_USAGE, "session: an answer is being generated already");
    if (s->answer.status != FP_OK)
        return fp__fail(FP_USAGE, "session: it ended with an error: %s", s->answer.error);
    if (s->anchors)
        FP_TRY(fp__anchors_ask(s->anchors, false));
    fp__answer before = s->answer;
    size_t last = s->n_turns - s->pending_turns; /* turns before the pending messages */
    if (last > 0)
        close_turn(s, &s->turns[last - 1], &s->ids);
    size_t size = s->ids.size;
    s->answer = (fp__answer){0};
    fp_status status = begin(s, options);
    if (status != FP_OK) { /* as it was: without the new tokens, the messages still pending */
        free_answer(&s->answer);
        s->answer = before;
        s->ids.size = size;
        if (last > 0)
            open_turn(s, &s->turns[last - 1]);
        return status;
    }
    free_answer(&before);
    fp__checks_begin(s);
    s->pending_turns = 0;
    s->has_receipt = false;
    FP_CHECK(fp__session_note_gate(s, true) == FP_OK); /* one decision's overrides fit */
    s->answer.start_ns = fp__now_ns();
    fp__detok_init(&s->answer.detok, s->engine->model->tokenizer, 0);
    return FP_OK;
}

bool fp__session_active(const fp_session *s)
{
    return s->answer.start_ns != 0 && !s->answer.settled;
}

void fp__session_fail(fp_session *s, fp_status status)
{
    s->answer.status = status;
    s->answer.finish = FP_FINISH_ERROR;
    s->answer.settled = true;
    s->answer.end_ns = fp__now_ns();
    snprintf(s->answer.error, sizeof s->answer.error, "%s", fp_error_detail());
}

/* Bytes before the first place where one of `marks` is, or may be beginning, from `from` on; *found: before
 * the first that is there. */
static size_t before_marks(const fp__buf *text, size_t from, char *const *marks, size_t n, size_t *found)
{
    size_t safe = text->size;
    *found = SIZE_MAX;
    for (size_t i = 0; i < n && text->size > from; i++) {
        size_t length = strlen(marks[i]);
        const uint8_t *at = memmem(text->data + from, text->size - from, marks[i], length);
        if (at && (size_t)(at - text->data) < *found)
            *found = (size_t)(at - text->data);
        for (size_t tail = length - 1; tail > 0;
             tail--) /* the longest tail of the text that begins the mark */
            if (tail <= text->size - from && memcmp(text->data + text->size - tail, marks[i], tail) == 0) {
                safe = text->size - tail < safe ? text->size - tail : safe;
                break;
            }
    }
    return safe;
}

/* How much of the text may be with the caller now. */
static size_t may_leave(const fp_session *s)
{
    const fp__answer *a = &s->answer;
    const fp__checks *c = &s->checks;
    const fp__buf *text = &s->turns[a->turn].text;
    size_t found, limit = s->release == FP_RELEASE_OPTIMISTIC ? a->safe : c->verified_bytes;
    if (s->release == FP_RELEASE_FINAL && !(fp__session_ended(s) && c->verified_bytes == text->size &&
                                            c->verified == fp__kvseq_tokens(s->context)))
        return 0;
    if (s->release == FP_RELEASE_OPTIMISTIC && a->n_holds > 0) {
        size_t safe = before_marks(text, 0, a->holds, a->n_holds, &found);
        safe = found < safe ? found : safe;
        safe = safe > c->verified_bytes ? safe : c->verified_bytes;
        limit = limit < safe ? limit : safe;
    }
    return limit;
}

/* What was held back passes the gate again when it leaves. */
static bool is_denied(fp_session *s)
{
    fp__answer *a = &s->answer;
    if (s->release == FP_RELEASE_OPTIMISTIC || !s->anchors || !s->anchors->watched)
        return false;
    fp_finish before = a->finish;
    a->finish = FP_FINISH_NONE;
    fp__session_boundary(s);
    if (a->finish != FP_FINISH_NONE)
        return true;
    a->finish = before;
    return false;
}

void fp__session_leave(fp_session *s)
{
    fp__answer *a = &s->answer;
    const fp__buf *text = &s->turns[a->turn].text;
    size_t until = may_leave(s), had = a->left.size;
    if (until <= had || !a->on_text || a->cancelled || a->finish == FP_FINISH_ANCHOR_REVOKED || is_denied(s))
        return;
    if (s->checks.doubtful && memcmp(a->left.data, text->data, had) != 0)
        return; /* it is not what has left: when it is verified, that is withdrawn */
    fp_status status = fp__buf_append(&a->left, text->data + had, until - had);
    if (status != FP_OK) {
        fp__session_fail(s, status);
        return;
    }
    a->cancelled = a->on_text(a->on_text_context, (const char *)text->data + had, until - had) != 0;
}

/* Finds the first stop string in the text from where one could begin; what cannot be part of one is safe. */
static void match_stops(fp_session *s)
{
    fp__answer *a = &s->answer;
    fp__buf *text = &s->turns[a->turn].text;
    size_t found, safe = before_marks(text, a->safe, a->stops, a->n_stops, &found);
    if (found != SIZE_MAX) {
        text->size = found;
        text->data[found] = 0;
        a->finish = FP_FINISH_STOP;
        safe = found;
    }
    a->safe = safe > a->safe ? safe : a->safe;
}

void fp__session_end(fp_session *s, fp_finish finish)
{
    fp__answer *a = &s->answer;
    fp__buf *text = &s->turns[a->turn].text;
    if (a->finish == FP_FINISH_NONE) { /* not by a stop string: what was held back is part of the answer */
        fp_status status = fp__detok_flush(&a->detok, text);
        if (status != FP_OK) {
            fp__session_fail(s, status);
            return;
        }
        a->finish = finish;
        a->safe = text->size;
    }
    a->end_ns = fp__now_ns();
    if (finish == FP_FINISH_ANCHOR_REVOKED && s->release != FP_RELEASE_OPTIMISTIC && a->start_ns != 0)
        fp__rollback_held(s); /* it never leaves */
    fp__session_leave(s);
}

fp_status fp__session_rewind(fp_session *s, size_t keep)
{
    fp__answer *a = &s->answer;
    fp__turn *turn = &s->turns[a->turn];
    fp_finish stopped = a->finish == FP_FINISH_ANCHOR_REVOKED ? a->finish : FP_FINISH_NONE;
    FP_CHECK(keep >= turn->first && keep <= s->ids.size);
    s->ids.size = keep;
    turn->count = keep - turn->first;
    turn->text.size = 0;
    a->safe = 0;
    a->finish = FP_FINISH_NONE;
    fp__detok_init(&a->detok, s->engine->model->tokenizer, 0);
    for (size_t i = turn->first; i < keep; i++) {
        uint32_t id = s->ids.data[i];
        if (a->ignore_eog || !fp__tokenizer_is_eog(s->engine->model->tokenizer, id))
            FP_TRY(fp__detok_push(&a->detok, id, &turn->text));
        match_stops(s);
    }
    if (stopped != FP_FINISH_NONE)
        FP_TRY(fp__detok_flush(&a->detok, &turn->text));
    a->finish = stopped;
    return FP_OK;
}

/* The next token. A plain greedy choice may be there already, on the device; else the logits come from it. */
static fp_status choose_token(fp_session *s, size_t i, uint32_t *id)
{
    const fp_sampling *p = &s->answer.sampling;
    if (p->temperature == 0.0f && p->repeat_penalty == 1.0f && p->frequency_penalty == 0.0f &&
        p->presence_penalty == 0.0f) {
        const uint32_t *greedy;
        FP_TRY(fp__forward_greedy(s->engine->forward, &greedy));
        if (greedy) {
            *id = greedy[i];
            return FP_OK;
        }
    }
    const float *logits;
    fp__sampling params = sampling_params(p);
    size_t back = p->repeat_last_n, history = back == 0 || back > s->ids.size ? s->ids.size : back;
    FP_TRY(fp__forward_row(s->engine->forward, i, &logits));
    return fp__sample(s->sampler, &params, logits, s->ids.data + s->ids.size - history, history,
                      fp__session_anchor_tokens(s) + s->ids.size, 0, id);
}

void fp__session_sample(fp_session *s, size_t i)
{
    uint32_t id;
    if (!s->answer.first_ns)
        s->answer.first_ns = fp__now_ns();
    fp_status status = choose_token(s, i, &id);
    if (status != FP_OK)
        fp__session_fail(s, status);
    else
        fp__session_take(s, id);
}

void fp__session_take(fp_session *s, uint32_t id)
{
    fp__answer *a = &s->answer;
    fp__turn *turn = &s->turns[a->turn];
    const fp__tokenizer *tok = s->engine->model->tokenizer;
    fp_status status = fp__ids_append(&s->ids, id);
    if (status != FP_OK) {
        fp__session_fail(s, status);
        return;
    }
    turn->count++;
    bool eog = !a->ignore_eog && fp__tokenizer_is_eog(tok, id);
    if (!eog && (status = fp__detok_push(&a->detok, id, &turn->text)) != FP_OK) {
        fp__session_fail(s, status);
        return;
    }
    match_stops(s);
    if (a->finish == FP_FINISH_NONE)
        fp__session_leave(s);
    bool full = fp__session_anchor_tokens(s) + s->ids.size >= s->context_limit;
    if (eog || a->finish != FP_FINISH_NONE)
        fp__session_end(s, FP_FINISH_STOP);
    else if (full || (a->max_tokens && turn->count >= a->max_tokens))
        fp__session_end(s, FP_FINISH_LENGTH);
    else if (a->cancelled) /* an answer that ends by itself at this token was not cut short */
        fp__session_end(s, FP_FINISH_CANCELLED);
}

fp_status fp_session_run(fp_session *s)
{
    while (fp__session_active(s)) {
        if (fp__engine_cancelled(s->engine) && !fp__session_ended(s))
            fp__session_end(s, FP_FINISH_CANCELLED);
        FP_TRY(fp_engine_step(s->engine, NULL));
        if (!s->answer.first_ns && !fp__session_ended(s)) {
            size_t waiting = s->ids.size - s->answer.prompt_tokens;
            size_t done = fp__kvseq_tokens(s->context) > waiting ? fp__kvseq_tokens(s->context) - waiting : 0;
            fp__engine_progress(s->engine, (double)done / (double)s->answer.prompt_tokens);
        }
    }
    const char *detail;
    if (fp_session_error(s, &detail) != FP_OK)
        return fp__fail(s->answer.status, "%s", s->answer.error);
    if (s->answer.finish == FP_FINISH_CANCELLED)
        return fp__fail(FP_CANCELLED, "interrupted after %zu tokens", s->turns[s->answer.turn].count);
    if (s->answer.finish == FP_FINISH_ANCHOR_REVOKED)
        return fp__fail(FP_DENIED, "stopped after %zu tokens: %s", s->turns[s->answer.turn].count,
                        s->answer.error);
    return FP_OK;
}

/* ---- looking
 * -------------------------------------------------------------------------------------------------------------
 */

fp_status fp_session_error(const fp_session *s, const char **detail)
{
    if (detail)
        *detail = s->answer.error;
    return s->answer.status;
}

void fp_session_result(const fp_session *s, fp_result *out)
{
    const fp__hparams *hp = &s->engine->model->hp;
    const fp__answer *a = &s->answer;
    *out = (fp_result){.finish = fp__session_active(s) ? FP_FINISH_NONE : a->finish,
                       .standing = s->checks.standing,
                       .release = s->release,
                       .failures = s->checks.failed,
                       .rollbacks = s->checks.rollbacks,
                       .retractions = (uint32_t)s->checks.retractions,
                       .text = "",
                       .prompt_tokens = a->prompt_tokens,
                       .anchor_tokens = (uint32_t)fp__session_anchor_tokens(s),
                       .context_tokens = (uint32_t)fp__kvseq_tokens(s->context),
                       .mass_rows = s->mass_rows,
                       .mass = s->anchors ? s->mass : NULL,
                       .layers = hp->layers,
                       .heads = hp->heads,
                       .sampling = a->sampling};
    if (s->anchors)
        out->load_ns = s->anchors->load_ns;
    if (a->start_ns) {
        const fp__turn *turn = &s->turns[a->turn];
        uint64_t first = a->first_ns ? a->first_ns : a->end_ns;
        out->text = turn->text.data ? (const char *)turn->text.data : "";
        out->text_size = turn->text.size;
        out->ids = s->ids.data + turn->first;
        out->n_ids = turn->count;
        out->label = turn->label;
        out->prefill_ns = first > a->start_ns ? first - a->start_ns : 0;
        out->decode_ns = a->end_ns > first ? a->end_ns - first : 0;
    }
}

fp_status fp_session_kv_head(fp_session *s, uint8_t out[32])
{
    return fp__kvseq_head(s->context, out);
}
