/* Full audit: answers computed again, several in one pass of the model, against what their receipts say. */
#include "engine/audit.h"
#include "merkle/sha256.h"
#include <stdlib.h>

enum {
    SETS_MAX = 64,             /* compiled anchor sets that are kept */
    TOKENS_TOGETHER = 1 << 15, /* of all answers in one pass, roughly: what their pages may take */
    LEAST_CAPACITY = 512
};

/* An anchor set, compiled again once for all receipts that name it. */
typedef struct anchor_set {
    uint8_t id[32];
    fp__ids tokens;
    fp__kvseq *seq;
} anchor_set;

/* One answer that is computed again. */
typedef struct replay {
    fp__replays *all;
    fp__audit *a;       /* NULL: decided */
    fp_anchors anchors; /* seq (of an anchor_set), g and injection are used */
    bool has_anchors;
    fp_session *session; /* renders the messages and takes the tokens; samples nothing by itself */
    fp__ids ids;         /* context tokens of the transcript, as far as they were committed */
    size_t at;           /* tokens that were computed */
    uint64_t start_ns;
} replay;

/* A position of an answer whose token is due. */
typedef struct due {
    replay *p;
    size_t at;  /* context index of the token */
    size_t row; /* of the logits, or SIZE_MAX: the token is taken as it is */
} due;

struct fp__replays {
    fp__replays_options o;
    fp_engine_options engine_options;
    fp_engine *engine; /* NULL: none yet */
    size_t capacity;   /* context tokens of its sessions */
    size_t together;
    anchor_set sets[SETS_MAX];
    size_t sets_count, sets_pages;
    replay *waiting; /* [o.together] of one pass */
    size_t n;
    fp__feed *feeds; /* [o.together] */
    replay **fed;    /* [o.together] */
    due *due;        /* [tokens of a step] */
    size_t due_count, rows_count;
    size_t rows[FP__LOGIT_ROWS];
};

static void drop_sets(fp__replays *all)
{
    for (size_t i = 0; i < all->sets_count; i++) {
        fp__kvseq_destroy(all->sets[i].seq);
        fp__ids_free(&all->sets[i].tokens);
    }
    all->sets_count = all->sets_pages = 0;
}

static void drop_engine(fp__replays *all)
{
    drop_sets(all);
    free(all->due);
    all->due = NULL;
    fp_engine_destroy(all->engine);
    all->engine = NULL;
}

/* The verdict, with the error detail as it is now; the place is free again. */
static void end_replay(replay *p, fp_status status)
{
    if (status == FP_NUMERIC) /* no answer comes out of that */
        status = fp__fail_context(FP_INVALID, "the model cannot compute it");
    if (p->a)
        fp__audit_decide_full(p->a, status, p->start_ns);
    p->a = NULL;
    fp_session_destroy(p->session);
    p->session = NULL;
    free(p->anchors.g);
    p->anchors.g = NULL;
    fp__ids_free(&p->ids);
}

/* ---- anchors
 * -------------------------------------------------------------------------------------------------------------
 */

static fp_status compile_set(fp__replays *all, const fp__audit *a, anchor_set *set)
{
    const fp__receipt *r = &a->r;
    size_t counts[FP__SET_ANCHORS_MAX];
    fp_label labels[FP__SET_ANCHORS_MAX];
    for (size_t i = 0; i < r->anchors; i++) {
        fp_statement statement;
        fp__dsse dsse = {0};
        fp_status status = fp__workspace_load_statement(a->w, r->anchor_ids[i], &dsse, &statement);
        labels[i] = statement.type;
        fp__dsse_free(&dsse);
        FP_TRY(status);
    }
    fp_status status =
        fp__anchors_tokenize(all->engine->model, a->w, r->anchor_ids, r->anchors, &set->tokens, counts);
    if (status == FP_MISMATCH || status == FP_NOT_FOUND) /* what lies in its place is nobody's */
        status = fp__fail_context(FP_NOT_FOUND, "the document of an anchor is needed");
    if (status == FP_TEXT)
        status = fp__fail_context(FP_INVALID, "an anchor that no engine compiles");
    uint8_t digest[32];
    if (status == FP_OK)
        status =
            fp_compile_token_ids_digest(a->gate.salt, set->tokens.data, (uint32_t)set->tokens.size, digest);
    if (status == FP_OK && memcmp(digest, a->gate.token_ids_digest, 32) != 0)
        status = fp__fail(FP_INVALID,
                          "the documents of the anchors do not give the tokens of the logged compile event");
    if (status == FP_OK)
        status = fp__anchors_prefill(all->engine, &set->tokens, counts, labels, r->anchors, &set->seq);
    return status;
}

static fp_status find_set(fp__replays *all, const fp__audit *a, anchor_set **out)
{
    for (size_t i = 0; i < all->sets_count; i++)
        if (memcmp(all->sets[i].id, a->r.set_id, 32) == 0) {
            *out = &all->sets[i];
            return FP_OK;
        }
    FP_CHECK(all->sets_count < SETS_MAX);
    anchor_set *set = &all->sets[all->sets_count];
    *set = (anchor_set){0};
    memcpy(set->id, a->r.set_id, 32);
    fp_status status = compile_set(all, a, set);
    if (status != FP_OK) {
        fp__kvseq_destroy(set->seq);
        fp__ids_free(&set->tokens);
        return status;
    }
    all->sets_count++;
    all->sets_pages += fp__kvseq_pages(set->seq);
    *out = set;
    return FP_OK;
}

static fp_status recompile(replay *p)
{
    fp__audit *a = p->a;
    const fp__receipt *r = &a->r;
    const fp__hparams *hp = &p->all->engine->model->hp;
    anchor_set *set;
    uint8_t digest[32], head[32];
    FP_TRY(find_set(p->all, a, &set));
    FP_TRY(fp_compile_token_ids_digest(a->gate.salt, set->tokens.data, (uint32_t)set->tokens.size, digest));
    if (memcmp(digest, a->gate.token_ids_digest, 32) != 0)
        return fp__fail(FP_INVALID,
                        "the documents of the anchors do not give the tokens of the logged compile event");
    FP_TRY(fp__kvseq_head(set->seq, head));
    if (memcmp(head, r->anchor_kv_head, 32) != 0)
        return fp__fail(FP_INVALID, "the anchors compile to another K/V head than the logged one");
    p->has_anchors = true;
    p->anchors.seq = set->seq;
    p->anchors.engine = p->all->engine;
    p->anchors.gate = a->gate;
    p->anchors.n = r->anchors;
    p->anchors.g = calloc(hp->layers * hp->heads, sizeof *p->anchors.g);
    if (!p->anchors.g)
        return fp__fail(FP_NO_MEMORY, "audit: no memory");
    FP_TRY(fp_injection_resolve(&a->gate.injection, hp->layers, hp->heads, p->anchors.g));
    fp__receipt_injection(a->gate.injection.mode, p->anchors.g, hp->layers * hp->heads, digest);
    return memcmp(digest, r->injection, 32) == 0 ? FP_OK
                                                 : fp__audit_differs("the injection (γ by layer and head)");
}

/* ---- the conversation, rebuilt
 * -------------------------------------------------------------------------------------------
 */

static bool leaf_ids_equal(const fp__transcript_leaf *leaf, const fp__ids *ids, const fp__turn *turn,
                           size_t *first_bad)
{
    size_t n = leaf->ids.size < turn->count ? leaf->ids.size : turn->count, i = 0;
    while (i < n && leaf->ids.data[i] == ids->data[turn->first + i])
        i++;
    *first_bad = turn->first + i;
    return i == leaf->ids.size && i == turn->count;
}

/* The messages between two answers must render to exactly the tokens of their leaves. */
static fp_status check_messages(replay *p, size_t first, size_t end)
{
    fp_session *s = p->session;
    const fp__transcript *t = &p->a->t;
    fp_status status = FP_OK;
    for (size_t i = first; i < end && status == FP_OK; i++)
        status = fp__session_add_labelled(s, t->leaves[i].role, t->leaves[i].label,
                                          (const char *)t->leaves[i].bytes.data, t->leaves[i].bytes.size);
    if (status == FP_OK)
        status = fp__session_render(s, &p->ids);
    if (status == FP_TEXT || status == FP_USAGE)
        return fp__fail_context(FP_INVALID, "the messages of the transcript");
    FP_TRY(status);
    for (size_t i = first; i < end; i++) {
        size_t bad;
        if (!leaf_ids_equal(&t->leaves[i], &p->ids, &s->turns[i], &bad)) {
            p->a->result->position = (int64_t)(p->a->r.anchor_tokens + bad);
            return fp__fail(FP_INVALID,
                            "the tokens of message %zu are not what its text gives (position %lld)", i,
                            (long long)p->a->result->position);
        }
    }
    s->pending_turns = 0;
    return FP_OK;
}

/* The text of an earlier answer is what its tokens give, or the beginning of it (a stop string ended it). */
static fp_status check_earlier_text(const replay *p, size_t leaf)
{
    const fp__transcript_leaf *answer = &p->a->t.leaves[leaf];
    fp__buf text = {0};
    fp__detok detok;
    fp__detok_init(&detok, p->all->engine->model->tokenizer, 0);
    fp_status status = FP_OK;
    for (size_t i = 0; i < answer->ids.size && status == FP_OK; i++)
        status = fp__detok_push(&detok, answer->ids.data[i], &text);
    if (status == FP_OK)
        status = fp__detok_flush(&detok, &text);
    bool same = status == FP_OK && answer->bytes.size <= text.size &&
                (answer->bytes.size == 0 || memcmp(answer->bytes.data, text.data, answer->bytes.size) == 0);
    fp__buf_free(&text);
    FP_TRY(status);
    return same ? FP_OK : fp__fail(FP_INVALID, "the text of answer %zu is not what its tokens give", leaf);
}

/* The whole context as tokens: messages rendered again, answers as they are. */
static fp_status rebuild_tokens(replay *p)
{
    const fp__transcript *t = &p->a->t;
    size_t answer = fp__transcript_answer(t), first = 0;
    fp_label lowest = fp__kvseq_label(p->session->context); /* of the anchors */
    for (size_t i = 0; i <= answer; i++) {
        fp_label label = t->leaves[i].label;
        bool output = t->leaves[i].kind == FP__TEXT_OUTPUT;
        if (label > FP_LABEL_USER)
            return fp__fail(FP_INVALID, "text %zu is labelled %s, which only anchors are", i,
                            fp_label_name(label));
        if (output && label != (lowest < FP_LABEL_USER ? lowest : FP_LABEL_USER))
            return fp__fail(FP_INVALID, "the label of answer %zu is not the lowest that it attended to", i);
        lowest = label < lowest ? label : lowest;
        if (!output)
            continue;
        if (i > first)
            FP_TRY(check_messages(p, first, i));
        fp__turn *turn;
        FP_TRY(fp__session_add_turn(p->session, FP__TEXT_OUTPUT, FP_ROLE_ASSISTANT, "", 0, &turn));
        turn->label = label;
        FP_TRY(fp__session_replay_turn(p->session, turn, &t->leaves[i].ids, i == answer, &p->ids));
        if (i < answer)
            FP_TRY(check_earlier_text(p, i));
        first = i + 1;
    }
    if (p->session->turns[answer].first != p->a->r.prompt_tokens)
        return fp__audit_differs("the number of prompt tokens");
    return FP_OK;
}

/* ---- the tokens
 * ----------------------------------------------------------------------------------------------------------
 */

/* Whether the logits of an answer's token are computed: chance, of which the signer knew nothing. */
static bool is_chosen(const replay *p, size_t at)
{
    static const char tag[16] = "fieldprint/smpl\1";
    uint8_t input[16 + 32 + 32 + 8], digest[32];
    uint32_t share = p->all->o.sample_65536;
    if (share == 0)
        return true;
    memcpy(input, tag, 16);
    memcpy(input + 16, p->all->o.seed, 32);
    memcpy(input + 48, p->a->dsse.id, 32);
    fp__store_le64(input + 80, at - (size_t)p->a->r.prompt_tokens);
    fp__sha256(input, sizeof input, digest);
    return fp__load_le64(digest) >> 48 < share;
}

/* One token of the answer: what the sampler gives, or what the transcript has, goes into its text, where it
 * may end the answer. */
static fp_status check_token(const due *d)
{
    replay *p = d->p;
    fp_session *s = p->session;
    size_t at = d->at, first = (size_t)p->a->r.prompt_tokens,
           end = first + p->a->t.leaves[fp__transcript_answer(&p->a->t)].ids.size;
    s->ids.size = at;
    if (d->row == SIZE_MAX) {
        fp__session_take(s, p->ids.data[at]);
    } else {
        fp__session_sample(s, d->row);
        p->a->result->sampled_tokens++;
    }
    if (s->answer.status != FP_OK)
        return fp__fail(s->answer.status, "%s", s->answer.error);
    if (s->ids.data[at] != p->ids.data[at]) {
        p->a->result->position = (int64_t)(p->a->r.anchor_tokens + at);
        return fp__fail(FP_INVALID,
                        "position %lld: the model and the sampler give token %u, the transcript has %u",
                        (long long)p->a->result->position, s->ids.data[at], p->ids.data[at]);
    }
    if (at + 1 < end && s->answer.finish != FP_FINISH_NONE)
        return fp__fail(FP_INVALID, "the answer should have ended after %zu tokens", at + 1 - first);
    return FP_OK;
}

/* Takes what is due, in order, with the logits of the last step. */
static fp_status settle(fp__replays *all)
{
    fp_status status = FP_OK;
    if (all->rows_count > 0)
        status = fp__forward_logits(all->engine->forward, all->rows, all->rows_count, NULL);
    for (size_t i = 0; i < all->due_count && status == FP_OK; i++)
        if (all->due[i].p->a) {
            fp_status one = check_token(&all->due[i]);
            if (one != FP_OK)
                end_replay(all->due[i].p, one);
        }
    all->due_count = all->rows_count = 0;
    return status;
}

/* What a step of n tokens from p->at on tells; base: its first row in the step. */
static fp_status note_due(replay *p, size_t base, size_t n)
{
    fp__replays *all = p->all;
    size_t first = (size_t)p->a->r.prompt_tokens,
           end = first + p->a->t.leaves[fp__transcript_answer(&p->a->t)].ids.size;
    for (size_t i = 0; i < n && p->a; i++) {
        size_t at = p->at + i + 1; /* of the token that follows */
        if (at < first || at >= end)
            continue;
        due *d = &all->due[all->due_count++];
        *d = (due){.p = p, .at = at, .row = SIZE_MAX};
        if (is_chosen(p, at)) {
            d->row = all->rows_count;
            all->rows[all->rows_count++] = base + i;
        }
        if (all->rows_count == FP__LOGIT_ROWS)
            FP_TRY(settle(all));
    }
    return FP_OK;
}

static fp_status feed(fp__replays *all, size_t n)
{
    FP_TRY(fp__engine_feed(all->engine, all->feeds, n));
    for (size_t i = 0, base = 0; i < n; i++) {
        replay *p = all->fed[i];
        p->session->mass_rows += p->session->anchors ? all->feeds[i].n : 0;
        FP_TRY(note_due(p, base, all->feeds[i].n));
        base += all->feeds[i].n;
    }
    return settle(all);
}

/* One step of all that wait, which share its tokens. One that cannot be computed does not take the others
 * along: each is tried alone then. */
static fp_status step(fp__replays *all, size_t n)
{
    fp_status status = feed(all, n);
    if (status != FP_OK && status != FP_CANCELLED && n == 1 && all->fed[0]->a) {
        end_replay(all->fed[0], status);
        return FP_OK;
    }
    if (status != FP_NUMERIC || n == 1)
        return status;
    for (size_t i = 0; i < n; i++) {
        fp__feed one = all->feeds[i];
        replay *p = all->fed[i], *first = all->fed[0];
        fp__feed kept = all->feeds[0];
        if (!p->a || fp__kvseq_tokens(p->session->context) != p->at)
            continue;
        all->feeds[0] = one;
        all->fed[0] = p;
        status = step(all, 1);
        all->feeds[0] = kept;
        all->fed[0] = first;
        FP_TRY(status);
    }
    return FP_OK;
}

static fp_status compute(fp__replays *all)
{
    size_t budget = all->engine->chunk_tokens > all->together ? all->engine->chunk_tokens : all->together,
           total = 0, done = 0;
    for (size_t i = 0; i < all->n; i++)
        total += all->waiting[i].a ? all->waiting[i].ids.size - 1 : 0;
    for (;;) {
        size_t left = budget, active = 0, n = 0;
        for (size_t i = 0; i < all->n; i++)
            active += all->waiting[i].a && all->waiting[i].at + 1 < all->waiting[i].ids.size;
        if (active == 0)
            return FP_OK;
        if (fp__engine_cancelled(all->engine))
            return fp__fail(FP_CANCELLED, "interrupted");
        for (size_t i = 0; i < all->n; i++) {
            replay *p = &all->waiting[i];
            if (!p->a || p->at + 1 >= p->ids.size)
                continue;
            size_t most = left / active--, rest = p->ids.size - 1 - p->at, take = rest < most ? rest : most;
            left -= take;
            all->fed[n] = p;
            all->feeds[n] = (fp__feed){.seq = p->session->context,
                                       .anchors = p->session->anchors,
                                       .ids = p->ids.data + p->at,
                                       .n = take,
                                       .session = p->session,
                                       .mass = p->session->mass};
            n++;
        }
        FP_TRY(step(all, n));
        for (size_t i = 0; i < n; i++) {
            all->fed[i]->at += all->feeds[i].n;
            done += all->feeds[i].n;
        }
        fp__engine_progress(all->engine, (double)done / (double)total);
    }
}

/* The kv head and the masses have the label of the whole context, the receipt that of the answer (which
 * rebuild_tokens has checked). */
static fp_status check_labels(const replay *p)
{
    const fp__transcript *t = &p->a->t;
    fp_label context = fp__kvseq_label(p->session->context);
    for (size_t i = t->n - 2; i < t->n; i++)
        if (t->leaves[i].label != context)
            return fp__fail(FP_INVALID, "the label of leaf %zu is not %s", i, fp_label_name(context));
    bool same = p->a->r.label == t->leaves[fp__transcript_answer(t)].label;
    return same ? FP_OK : fp__audit_differs("the label of the answer");
}

/* kv head, masses, text, finish and labels of the answer. */
static fp_status check_outcome(replay *p)
{
    fp_session *s = p->session;
    const fp__transcript *t = &p->a->t;
    const fp__receipt *r = &p->a->r;
    size_t answer = fp__transcript_answer(t),
           n = p->all->engine->model->hp.layers * p->all->engine->model->hp.heads;
    uint8_t head[32];
    FP_TRY(fp__kvseq_head(s->context, head));
    if (memcmp(head, t->leaves[t->n - 2].bytes.data, 32) != 0)
        return fp__fail(FP_INVALID, "the K/V pages hash to another head than the receipt commits to");
    const fp__buf *masses = &t->leaves[t->n - 1].bytes;
    if (masses->size != (s->anchors ? 8 * (n + 1) : 0))
        return fp__audit_differs("the number of anchor masses");
    for (size_t i = 0; s->anchors && i <= n; i++)
        if (fp__load_le64(masses->data + 8 * i) != (i == 0 ? s->mass_rows : s->mass[i - 1]))
            return fp__audit_differs("an anchor mass");
    bool cut = r->finish == FP_FINISH_CANCELLED || r->finish == FP_FINISH_ANCHOR_REVOKED;
    if (cut && s->answer.finish == FP_FINISH_NONE)
        fp__session_end(s,
                        r->finish); /* it could have gone on; of a revocation the log says why it did not */
    if (s->answer.finish != r->finish)
        return fp__audit_differs("the finish reason");
    const fp__buf *text = &s->turns[answer].text, *claimed = &t->leaves[answer].bytes;
    if (text->size != claimed->size || (text->size && memcmp(text->data, claimed->data, text->size) != 0))
        return fp__fail(FP_INVALID, "the text of the answer is not what its tokens give");
    return check_labels(p);
}

static fp_status start_session(replay *p)
{
    const fp__receipt *r = &p->a->r;
    fp_session_options options = {.anchors = p->has_anchors ? &p->anchors : NULL, .raw = p->a->t.raw};
    FP_TRY(fp_session_create(p->all->engine, &options, &p->session));
    p->session->context_limit = (size_t)r->context_limit;
    FP_TRY(rebuild_tokens(p));
    fp__answer *answer = &p->session->answer;
    answer->sampling = r->sampling;
    if (fp__session_check_sampling(p->session, &r->sampling) != FP_OK)
        return fp__fail_context(FP_INVALID, "the receipt's sampling");
    answer->max_tokens = (uint32_t)r->max_tokens;
    answer->ignore_eog = r->ignore_eog;
    answer->turn = fp__transcript_answer(&p->a->t);
    p->session->turns[answer->turn].count = 0; /* counted up again by the sampler's side */
    answer->stops = calloc(p->a->t.n_stops + 1, sizeof *answer->stops);
    if (!answer->stops)
        return fp__fail(FP_NO_MEMORY, "audit: no memory");
    for (size_t i = 0; i < p->a->t.n_stops; i++, answer->n_stops++)
        if (!(answer->stops[i] = strdup((const char *)p->a->t.stops[i].data)))
            return fp__fail(FP_NO_MEMORY, "audit: no memory");
    fp__detok_init(&answer->detok, p->all->engine->model->tokenizer, 0);
    return FP_OK;
}

/* ---- passes
 * -------------------------------------------------------------------------------------------------------------
 */

static fp_status start_replay(replay *p)
{
    fp__audit *a = p->a;
    if (a->r.anchors)
        FP_TRY(recompile(p));
    FP_TRY(start_session(p));
    if (a->r.context_tokens + 1 != p->ids.size) /* all but the token that was sampled last */
        return fp__audit_differs("the number of context tokens");
    fp__ids *ids = &p->session->ids;
    FP_TRY(fp__ids_reserve(ids, p->ids.size + 1));
    memcpy(ids->data, p->ids.data, p->ids.size * sizeof *ids->data);
    ids->size = p->ids.size;
    return FP_OK;
}

/* All that wait: computed, decided. */
static fp_status run_pass(fp__replays *all)
{
    fp_status status = FP_OK;
    for (size_t i = 0; i < all->n && status == FP_OK; i++) {
        fp_status one = start_replay(&all->waiting[i]);
        if (one == FP_CANCELLED)
            status = one;
        else if (one != FP_OK)
            end_replay(&all->waiting[i], one);
    }
    if (status == FP_OK)
        status = compute(all);
    for (size_t i = 0; i < all->n && status == FP_OK; i++)
        if (all->waiting[i].a)
            end_replay(&all->waiting[i], check_outcome(&all->waiting[i]));
    for (size_t i = 0; i < all->n; i++) /* those that were interrupted */
        end_replay(&all->waiting[i], status);
    all->n = 0;
    return status;
}

static fp_status make_engine(fp__replays *all, size_t needed)
{
    fp_engine_options options = all->engine_options;
    size_t capacity = LEAST_CAPACITY;
    while (capacity < needed)
        capacity *= 2;
    drop_engine(all);
    all->together = TOKENS_TOGETHER / capacity;
    all->together = all->together < 1 ? 1 : all->together > all->o.together ? all->o.together : all->together;
    all->capacity = options.context_tokens = capacity < FP__CONTEXT_MAX ? capacity : FP__CONTEXT_MAX;
    options.max_sessions = all->together;
    FP_TRY(fp_engine_create(all->o.model, &options, &all->engine));
    size_t tokens = all->engine->chunk_tokens > all->together ? all->engine->chunk_tokens : all->together;
    all->due = calloc(tokens, sizeof *all->due);
    return all->due ? FP_OK : fp__fail(FP_NO_MEMORY, "audit: no memory");
}

/* What can be said before anything is computed. */
static fp_status check_sizes(const fp__audit *a, const fp_model *model, size_t *needed)
{
    const fp__receipt *r = &a->r;
    uint8_t digest[32];
    uint64_t tokens = 0;
    FP_TRY(fp_model_digest(model, digest));
    if (memcmp(digest, r->model, 32) != 0)
        return fp__fail(
            FP_INVALID,
            "the model is not the one that answered (another file, tokenizer, template or arithmetic)");
    if (r->arithmetic != FP__ARITHMETIC_VERSION)
        return fp__audit_differs("the version of the arithmetic");
    if (!a->has_transcript)
        return fp__fail(FP_NOT_FOUND, "the transcript is needed for a full audit (--transcript)");
    if (r->context_limit > FP__CONTEXT_MAX || r->anchor_tokens > FP__CONTEXT_MAX ||
        r->context_tokens > FP__CONTEXT_MAX || r->context_limit < r->anchor_tokens + r->context_tokens + 1)
        return fp__audit_differs("the size of the context");
    for (size_t i = 0; i < a->t.n; i++)
        tokens += a->t.leaves[i].ids.size;
    if (r->context_tokens > tokens)
        return fp__audit_differs("the number of context tokens");
    *needed = (size_t)(r->anchor_tokens + tokens + 2);
    return FP_OK;
}

static size_t pages_of_set(const fp__receipt *r)
{
    return (size_t)r->anchor_tokens / FP__PAGE_TOKENS + r->anchors;
}

/* Room for one more answer in this pass; those that wait are computed first where there is none. */
static fp_status make_room(fp__replays *all, const fp__audit *a, size_t needed)
{
    size_t pages = pages_of_set(&a->r);
    bool fits = all->engine && needed <= all->capacity;
    bool room = all->sets_count + all->n < SETS_MAX, anchors = pages;
    size_t promised = all->sets_pages;
    for (size_t i = 0; i < all->n; i++)
        promised += pages_of_set(&all->waiting[i].a->r);
    room = room && (!anchors || promised + pages <= FP__ANCHOR_PAGES);
    if (fits && room && all->n < all->together)
        return FP_OK;
    if (all->n > 0)
        FP_TRY(run_pass(all));
    if (!fits)
        return make_engine(all, needed);
    if (!room)
        drop_sets(all);
    return FP_OK;
}

fp_status fp__replays_create(const fp__replays_options *options, fp__replays **out)
{
    fp__replays *all = calloc(1, sizeof *all);
    if (!all)
        return fp__fail(FP_NO_MEMORY, "audit: no memory");
    all->o = *options;
    all->engine_options = options->engine ? *options->engine : (fp_engine_options){0};
    all->waiting = calloc(options->together, sizeof *all->waiting);
    all->feeds = calloc(options->together, sizeof *all->feeds);
    all->fed = calloc(options->together, sizeof *all->fed);
    if (!all->waiting || !all->feeds || !all->fed) {
        fp__replays_destroy(all);
        return fp__fail(FP_NO_MEMORY, "audit: no memory");
    }
    *out = all;
    return FP_OK;
}

fp_status fp__replays_add(fp__replays *all, fp__audit *audit)
{
    uint64_t start = fp__now_ns();
    size_t needed = 0;
    fp_status status = check_sizes(audit, all->o.model, &needed);
    if (status != FP_OK) {
        fp__audit_decide_full(audit, status, start);
        return FP_OK;
    }
    status = make_room(all, audit, needed);
    if (status != FP_OK) {
        fp__audit_decide_full(audit, status, start);
        return status;
    }
    all->waiting[all->n++] = (replay){.all = all, .a = audit, .start_ns = fp__now_ns()};
    return FP_OK;
}

fp_status fp__replays_finish(fp__replays *all)
{
    return all->n > 0 ? run_pass(all) : FP_OK;
}

void fp__replays_destroy(fp__replays *all)
{
    if (!all)
        return;
    for (size_t i = 0; all->waiting && i < all->n; i++)
        end_replay(&all->waiting[i], fp__fail(FP_CANCELLED, "interrupted"));
    drop_engine(all);
    free(all->waiting);
    free(all->feeds);
    free(all->fed);
    free(all);
}
