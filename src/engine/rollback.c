/* The one place where something goes back.
 *
 * A failed page takes with it every token and page that depends on it, in each sequence that has it. What is
 * dropped is zeroed when it is used again, and computed anew; that gives the same bits, as nothing but
 * inputs, seed and position decides them. Tokens that had left are compared once the replay is verified, not
 * before, and withdrawn if they differ. */
#include "anchor/workspace_inside.h"
#include "engine/engine.h"
#include "merkle/sha256.h"
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>

enum { TOKENS = FP__PAGE_TOKENS };

static void set_reason(fp__checks *c, const char *what)
{
    size_t n = strlen(what);
    n = n < sizeof c->reason ? n : sizeof c->reason - 1;
    while (n > 0 && n < strlen(what) && (what[n] & 0xC0) == 0x80) /* whole characters */
        n--;
    memcpy(c->reason, what, n);
    c->reason[n] = 0;
    c->failed++;
}

/* ---- quarantine ---- */

/* The group is held for good, so that nobody gets its memory again. When the list is full the pool gets it
 * back: what goes wrong that often is not one piece of memory. */
static void quarantine(fp_engine *e, const fp__kvseq *seq, size_t page)
{
    fp__validation *v = &e->checks;
    fp__kvseq_page p;
    if (v->quarantined == FP__QUARANTINE_MAX || page >= fp__kvseq_pages(seq))
        return;
    fp__kvseq_page_get(seq, page, &p);
    fp__group *group = (fp__group *)(uintptr_t)p.group;
    fp__pool_ref(e->pool, group);
    v->quarantine[v->quarantined++] = group;
}

/* ---- retractions ---- */

fp_status fp__retractions_log(fp_session *s, fp_workspace *w)
{
    fp__checks *c = &s->checks;
    for (size_t i = 0; i < c->retractions; i++) {
        fp_event_receipt event;
        if (c->logged[i])
            continue;
        FP_TRY(fp_event_retract(w, c->retraction[i], c->reason, &event));
        c->logged[i] = true;
    }
    return FP_OK;
}

/* What an event of the log names: the withdrawn text, salted so that nobody can test guesses. */
static void retraction_id(const fp_session *s, size_t keep, uint8_t out[32])
{
    const fp__buf *left = &s->answer.left;
    uint8_t salt[32] = {0}, place[16];
    (void)RAND_bytes(salt, sizeof salt); /* without: guesses could be tested */
    fp__store_le64(place, s->answer.turn);
    fp__store_le64(place + 8, keep);
    fp__part parts[] = {
        {"fieldprint/retr\1", 16}, {salt, 32}, {place, 16}, {left->data + keep, left->size - keep}};
    fp__sha256_parts(parts, 4, out);
}

static void retract(fp_session *s, size_t keep)
{
    fp__checks *c = &s->checks;
    fp__answer *a = &s->answer;
    while (keep > 0 && (a->left.data[keep] & 0xC0) == 0x80) /* whole characters */
        keep--;
    if (c->retractions == FP__RETRACTIONS_MAX) {
        fp_status status =
            fp__fail(FP_MISMATCH, "more than %d retractions in one answer", FP__RETRACTIONS_MAX);
        fp__session_fail(s, status);
        return;
    }
    retraction_id(s, keep, c->retraction[c->retractions]);
    c->logged[c->retractions++] = false;
    s->engine->checks.count.retractions++;
    a->left.size = keep;
    if (s->workspace) {
        fp_status status = fp__retractions_log(s, s->workspace);
        (void)status; /* not logged yet: it will be with the receipt, which cannot be made without */
    }
    if (a->on_retract)
        a->on_retract(a->on_text_context, keep, c->reason);
}

static size_t common_bytes(const fp__buf *a, const fp__buf *b, size_t n)
{
    size_t i = 0;
    n = n < a->size ? n : a->size;
    n = n < b->size ? n : b->size;
    while (i < n && a->data[i] == b->data[i])
        i++;
    return i;
}

void fp__rollback_compare(fp_session *s, size_t bytes, bool complete)
{
    fp__answer *a = &s->answer;
    const fp__buf *text = &s->turns[a->turn].text;
    if (!s->checks.doubtful)
        return;
    size_t n = bytes < a->left.size ? bytes : a->left.size, same = common_bytes(&a->left, text, n);
    if (same < n || (complete && a->left.size > same))
        retract(s, same);
    if (bytes >= a->left.size || complete)
        s->checks.doubtful = false;
}

/* ---- going back ---- */

static void count_time(fp_engine *e, uint64_t start)
{
    uint64_t took = fp__now_ns() - start;
    e->checks.count.rollback_ns += took;
    if (took > e->checks.count.rollback_max_ns)
        e->checks.count.rollback_max_ns = took;
}

/* The session as it was at boundary b, with the first `keep` tokens known. Checks that are under way must
 * have been voided; marks are lowered. */
static void restore(fp_session *s, size_t b, size_t keep)
{
    fp__checks *c = &s->checks;
    size_t tokens = b * TOKENS, n = s->engine->model->hp.layers * s->engine->model->hp.heads;
    fp_status status = fp__kvseq_truncate(s->context, tokens);
    if (c->boundary[b].id != FP__TOKEN_NONE && tokens < s->ids.size)
        s->ids.data[tokens] = c->boundary[b].id;
    if (status == FP_OK)
        status = fp__session_rewind(s, keep < s->ids.size ? keep : s->ids.size);
    if (status != FP_OK) {
        fp__session_fail(s, status);
        return;
    }
    if (s->anchors && b == 0)
        memset(s->mass, 0, n * sizeof *s->mass);
    else if (c->mass)
        memcpy(s->mass, c->mass + b * n, n * sizeof *s->mass);
    s->mass_rows = s->anchors ? tokens : 0;
    size_t *marks[] = {&c->at,           &c->verified,  &c->round_ok,   &c->weights_ok,
                       &c->weights_pass, &c->replay_ok, &c->replay_from};
    for (size_t i = 0; i < sizeof marks / sizeof *marks; i++)
        *marks[i] = *marks[i] < tokens ? *marks[i] : tokens;
    if (c->verified_bytes > c->boundary[b].safe)
        c->verified_bytes = c->boundary[b].safe;
    c->retried = SIZE_MAX;
    c->stalled = false;
}

/* The sequence ends with an error. What was verified stays, of tokens [0, tokens) at most; of what has left
 * the rest is withdrawn. */
static void give_up(fp_session *s, size_t tokens, const char *what)
{
    fp__checks *c = &s->checks;
    fp__answer *a = &s->answer;
    fp__turn *turn = &s->turns[a->turn];
    size_t b = (tokens < c->verified ? tokens : c->verified) / TOKENS;
    while (b > 0 && !c->boundary[b].here)
        b--;
    restore(s, b, b * TOKENS + 1 > turn->first ? b * TOKENS + 1 : turn->first);
    fp_status status = fp__detok_flush(&a->detok, &turn->text);
    size_t stays = status == FP_OK ? common_bytes(&a->left, &turn->text, a->left.size) : 0;
    stays = stays > c->sure_bytes ? stays : c->sure_bytes;
    if (a->left.size > stays) {
        c->standing = FP_STANDING_RETRACTED;
        retract(s, stays);
    }
    fp__session_fail(s, fp__fail(FP_MISMATCH, "%s", what));
}

/* Back to the last boundary at or before `tokens` that can be gone back to; `dropped`: a page was, already.
 */
static void back_to(fp_session *s, size_t tokens, bool dropped)
{
    fp__checks *c = &s->checks;
    fp_engine *e = s->engine;
    size_t done = fp__kvseq_tokens(s->context), b = tokens / TOKENS;
    while (b > 0 && !c->boundary[b].here)
        b--;
    tokens = b * TOKENS;
    if (tokens >= done && !dropped)
        return;
    c->rollbacks++;
    e->checks.count.rollbacks++;
    c->doubtful = true;
    if (c->replayed + (c->high - tokens) > 2 * c->high) {
        give_up(
            s, tokens,
            "a fault came back so often that computing it again would take more than twice the answer; the "
            "device may be failing");
        return;
    }
    e->checks.count.tokens_replayed += done - tokens;
    size_t first = s->turns[s->answer.turn].first;
    restore(s, b, tokens + 1 > first ? tokens + 1 : first);
}

/* Reports of re-execution beyond `tokens` are of pages that are gone. */
static void drop_units(fp_session *s, size_t tokens)
{
    fp__checks *c = &s->checks;
    fp__replay_unit *kept = NULL, **link = &c->units;
    while (*link && (*link)->to <= tokens) {
        kept = *link;
        link = &kept->next;
    }
    while (*link) {
        fp__replay_unit *unit = *link;
        *link = unit->next;
        c->replaying_pages -= (unit->to - unit->from + TOKENS - 1) / TOKENS;
        c->replay_from = unit->from < c->replay_from ? unit->from : c->replay_from;
        fp__replay_drop(s->engine->checks.replay, unit);
    }
    c->last_unit = kept;
}

static void go_back(fp_session *s, size_t tokens, bool dropped, const char *what)
{
    set_reason(&s->checks, what);
    drop_units(s, tokens);
    back_to(s, tokens, dropped);
}

static bool has_group(const fp_session *s, size_t page, const uint8_t *group)
{
    return page < fp__kvseq_pages(s->context) && fp__kvseq_groups(s->context)[page] == group;
}

static void fail_page(fp_session *s, size_t page, bool dropped, const char *what)
{
    fp__checks *c = &s->checks;
    if (++c->failures[page] < FP__FAILURES_MAX) {
        go_back(s, page * TOKENS, dropped, what);
        return;
    }
    char why[600];
    snprintf(why, sizeof why, "page %zu failed its checks %d times (%s)", page, FP__FAILURES_MAX, what);
    set_reason(c, why);
    drop_units(s, page * TOKENS);
    give_up(s, page * TOKENS, why);
}

void fp__rollback_page(fp_session *s, size_t page, const char *what)
{
    fp_engine *e = s->engine;
    uint64_t start = fp__now_ns();
    fp__validation_void(e);
    if (page >= fp__kvseq_pages(s->context))
        return;
    const uint8_t *group = fp__kvseq_groups(s->context)[page];
    quarantine(e, s->context, page);
    for (size_t i = 0; i < e->max_sessions; i++) /* no orphans: all that share it */
        if (e->sessions[i] && e->sessions[i] != s && fp__session_active(e->sessions[i]) &&
            has_group(e->sessions[i], page, group))
            fail_page(e->sessions[i], page, false, what);
    fail_page(s, page, false, what);
    count_time(e, start);
}

void fp__rollback_replayed(fp_session *s, size_t page, const char *what)
{
    uint64_t start = fp__now_ns();
    bool all = s->engine->checks.replay_65536 == 65536;
    fp__validation_void(s->engine);
    /* Where not all pages are computed again, those before this one may be wrong as well. */
    if (all || s->checks.failures[page] + 1 >= FP__FAILURES_MAX) {
        fail_page(s, page, false, what);
    } else {
        s->checks.failures[page]++;
        go_back(s, 0, false, what);
    }
    count_time(s->engine, start);
}

void fp__rollback_token(fp_session *s, size_t tokens)
{
    fp__validation_void(s->engine);
    fail_page(s, tokens / TOKENS, true, "a token in memory is not the one that was sampled");
}

void fp__rollback_dropped(fp_session *s, const char *what)
{
    fp__validation_void(s->engine);
    fp__validation_failed(s->engine, 1);
    fail_page(s, fp__kvseq_tokens(s->context) / TOKENS, true, what);
}

void fp__rollback_anchors(fp_anchors *a, size_t page, const char *what)
{
    fp_engine *e = a->engine;
    uint64_t start = fp__now_ns();
    fp__validation_void(e);
    quarantine(e, a->seq, page);
    a->failures++;
    fp_status status = FP_MISMATCH;
    if (a->failures < FP__FAILURES_MAX) {
        status = fp__anchors_reload(a, false);
        if (status != FP_OK) /* the store is bad, too: from the documents */
            status = ++a->failures < FP__FAILURES_MAX ? fp__anchors_reload(a, true) : status;
    }
    char why[600];
    snprintf(why, sizeof why, "the anchors' pages failed their checks and cannot be made again (%s)",
             a->failures < FP__FAILURES_MAX ? fp_error_detail() : what);
    for (size_t i = 0; i < e->max_sessions; i++) {
        fp_session *s = e->sessions[i];
        if (!s || s->anchors != a || !fp__session_active(s))
            continue;
        if (status == FP_OK) {
            go_back(s, 0, false, what);
            continue;
        }
        set_reason(&s->checks, why);
        drop_units(s, 0);
        give_up(s, 0, why);
    }
    count_time(e, start);
}

void fp__rollback_weights(fp_engine *e, size_t item)
{
    uint64_t start = fp__now_ns();
    fp__validation_void(e);
    /* Re-execution goes on: it reads weights of its own, or those that a GPU's are loaded from. */
    fp_status status = fp__integrity_repair(e->checks.weights, item);
    for (size_t i = 0; i < e->max_sessions; i++) {
        fp_session *s = e->sessions[i];
        if (!s || !fp__session_active(s))
            continue;
        if (status == FP_OK)
            go_back(s, s->checks.weights_ok, false,
                    "packed weights in memory changed; they were packed again");
        else
            give_up(s, s->checks.weights_ok,
                    "packed weights in memory changed, and the model's file does not give them again");
    }
    count_time(e, start);
}

/* ---- held text of an answer that was stopped ---- */

void fp__rollback_held(fp_session *s)
{
    fp__checks *c = &s->checks;
    size_t first = s->turns[s->answer.turn].first, b = c->at / TOKENS;
    while (b > 0 &&
           (!c->boundary[b].here || b * TOKENS > c->verified || c->boundary[b].safe > s->answer.left.size))
        b--;
    bool nothing = s->answer.left.size == 0 || b * TOKENS + 1 <= first;
    size_t keep = nothing ? first : b * TOKENS + 1, tokens = b * TOKENS;
    if (keep >= s->ids.size || tokens >= fp__kvseq_tokens(s->context))
        return;
    fp__validation_void(s->engine);
    drop_units(s, tokens);
    restore(s, b, keep);
}
