/* Rounds of checks, the scrub, marks, and when an answer is settled. */
#include "engine/engine.h"
#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { TOKENS = FP__PAGE_TOKENS, WINDOW_PAGES = 8, WINDOW_PAGES_GPU = 32 /* a step's chunk */ };
#define PAGE_RATE ((uint64_t)8 << 20)
#define WEIGHT_RATE ((uint64_t)64 << 20)
#define SCRUB_EVERY_NS UINT64_C(20000000)
#define DEBT_MAX_NS UINT64_C(1000000000) /* of a pause, no more than this is made up for */

/* ---- names ---- */

const char *fp_validation_name(fp_validation level)
{
    static const char *const names[] = {"hash", "scrub", "replay"};
    return (size_t)level < 3 ? names[level] : "unknown";
}

const char *fp_release_name(fp_release release)
{
    static const char *const names[] = {"optimistic", "gated", "final"};
    return (size_t)release < 3 ? names[release] : "unknown";
}

const char *fp_standing_name(fp_standing standing)
{
    static const char *const names[] = {"provisional", "final", "retracted"};
    return (size_t)standing < 3 ? names[standing] : "unknown";
}

fp_status fp_validation_parse(const char *text, fp_validation *level, uint32_t *replay_65536)
{
    *replay_65536 = 0;
    for (*level = FP_VALIDATE_HASH; *level < FP_VALIDATE_REPLAY; ++*level)
        if (strcmp(text, fp_validation_name(*level)) == 0)
            return FP_OK;
    char *end;
    double share = 1;
    if (strncmp(text, "replay", 6) != 0)
        return fp__fail(FP_USAGE, "validation \"%s\": hash, scrub, replay or replay:SHARE is wanted", text);
    if (text[6] == ':') {
        share = strtod(text + 7, &end);
        if (end == text + 7 || *end || !(share > 0 && share <= 1))
            return fp__fail(FP_USAGE, "validation \"%s\": a share above 0, up to 1, is wanted", text);
    } else if (text[6]) {
        return fp__fail(FP_USAGE, "validation \"%s\": hash, scrub, replay or replay:SHARE is wanted", text);
    }
    *replay_65536 = (uint32_t)(share * 65536 + 0.5);
    *replay_65536 = *replay_65536 > 0 ? *replay_65536 : 1;
    return FP_OK;
}

fp_status fp_release_parse(const char *text, fp_release *out)
{
    for (*out = FP_RELEASE_OPTIMISTIC; *out <= FP_RELEASE_FINAL; ++*out)
        if (strcmp(text, fp_release_name(*out)) == 0)
            return FP_OK;
    return fp__fail(FP_USAGE, "release \"%s\": optimistic, gated or final is wanted", text);
}

/* ---- a round ---- */

static void note_finding(fp__round *r, fp__found what, size_t item, const fp__kv_check *check)
{
    size_t i = atomic_fetch_add(&r->found, 1);
    if (i < FP__FINDINGS_MAX)
        r->findings[i] = (fp__finding){what, item, check ? *check : (fp__kv_check){0}};
}

static void check_pages(fp__round *r, fp__found what, const fp__kvseq *seq, size_t first, size_t n,
                        size_t sealed)
{
    fp__kv_check out[FP__STORE_BATCH];
    fp__kvseq_check_pages(seq, first, n, sealed, out);
    for (size_t i = 0; i < n; i++)
        if (fp__kvseq_check_found(seq, &out[i])) {
            note_finding(r, what, first + i, &out[i]);
            if (out[i].store_failed)
                break;
        }
    atomic_fetch_add(&r->engine->checks.pages_checked, n);
}

static void run_item(fp__round *r, size_t item)
{
    if (item < r->context_items) {
        size_t first = item * r->batch, left = r->context_pages - first;
        check_pages(r, FP__FOUND_CONTEXT, r->context, r->context_first + first,
                    left < r->batch ? left : r->batch, r->context_sealed);
        return;
    }
    item -= r->context_items;
    size_t anchor_items = (r->anchor_pages + r->batch - 1) / r->batch;
    if (item < anchor_items) {
        size_t first = item * r->batch, left = r->anchor_pages - first;
        check_pages(r, FP__FOUND_ANCHOR, r->anchors, r->anchor_first + first,
                    left < r->batch ? left : r->batch, r->anchor_sealed);
        return;
    }
    item = item - anchor_items + r->weight_first;
    const fp__integrity *weights = r->engine->checks.weights;
    if (!fp__integrity_check(weights, item))
        note_finding(r, FP__FOUND_WEIGHTS, item, NULL);
    atomic_fetch_add(&r->engine->checks.weight_bytes_checked, fp__integrity_item_bytes(weights, item));
}

static uint64_t thread_cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void work(fp__round *r)
{
    uint64_t start = thread_cpu_ns();
    for (size_t i; (i = atomic_fetch_add(&r->next, 1)) < r->items;)
        run_item(r, i);
    atomic_fetch_add(&r->engine->checks.check_cpu_ns, thread_cpu_ns() - start);
}

static void run_round_job(fp__hash_job *job)
{
    work(((struct fp__round_job *)(void *)job)->round);
}

static void launch(fp_engine *e, fp__round *r)
{
    const fp__kvseq *any = r->context ? r->context : r->anchors;
    r->engine = e;
    r->batch = any ? fp__kvseq_store(any)->batch : 1;
    r->context_items = (r->context_pages + r->batch - 1) / r->batch;
    r->items = r->context_items + (r->anchor_pages + r->batch - 1) / r->batch + r->weights;
    atomic_store(&r->next, 0);
    atomic_store(&r->found, 0);
    r->in_flight = true;
    size_t jobs = fp__hasher_workers(e->hasher);
    jobs = jobs < 1 ? 1 : jobs > FP__ROUND_JOBS ? FP__ROUND_JOBS : jobs;
    jobs = jobs < r->items ? jobs : r->items;
    for (size_t i = 0; i < jobs; i++) {
        r->jobs[i] = (struct fp__round_job){.job.run = run_round_job, .round = r};
        fp__hasher_submit(e->hasher, &r->jobs[i].job, &r->owner);
    }
}

static bool has_reported(fp_engine *e, fp__round *r)
{
    return r->in_flight && atomic_load(&r->next) >= r->items && fp__hasher_pending(e->hasher, &r->owner) == 0;
}

static void finish_round(fp_engine *e, fp__round *r) /* makes what is left of it */
{
    if (!r->in_flight)
        return;
    work(r);
    fp__hasher_wait(e->hasher, &r->owner);
}

static void void_round(fp_engine *e, fp__round *r)
{
    if (!r->in_flight)
        return;
    atomic_store(&r->next, r->items);
    fp__hasher_cancel(e->hasher, &r->owner);
    r->in_flight = false;
}

static void void_units(fp__checks *c, fp__replay *replay)
{
    while (c->units) {
        fp__replay_unit *next = c->units->next;
        fp__replay_drop(replay, c->units);
        c->units = next;
    }
    c->last_unit = NULL;
    c->replaying_pages = 0;
}

void fp__validation_void(fp_engine *e)
{
    for (size_t i = 0; i < e->max_sessions; i++)
        if (e->sessions[i])
            void_round(e, &e->sessions[i]->checks.round);
    void_round(e, &e->checks.pages);
    void_round(e, &e->checks.weight_round);
    e->checks.target_page = 0;
    e->checks.next_weight = 0; /* a pass begins anew */
}

/* ---- life ---- */

static bool wants_weights(const fp_engine *e, const fp_session *s)
{
    return e->checks.level >= FP_VALIDATE_SCRUB || s->release != FP_RELEASE_OPTIMISTIC;
}

static fp_status watch_weights(fp_engine *e)
{
    return e->gpu ? fp__integrity_create_gpu(e->gpu, e->team, &e->checks.weights)
                  : fp__integrity_create(e->model, e->team, &e->checks.weights);
}

fp_status fp__validation_create(fp_engine *e, const fp_engine_options *o)
{
    fp__validation *v = &e->checks;
    if ((unsigned)o->validation > FP_VALIDATE_REPLAY || o->replay_65536 > 65536)
        return fp__fail(FP_USAGE, "engine: validation is hash, scrub or replay, with a share up to 65536");
    v->level = o->validation;
    v->replay_65536 = v->level == FP_VALIDATE_REPLAY ? (o->replay_65536 ? o->replay_65536 : 65536) : 0;
    v->window = o->window_pages ? o->window_pages : e->gpu ? WINDOW_PAGES_GPU : WINDOW_PAGES;
    v->page_rate = o->scrub_page_bytes_per_s ? o->scrub_page_bytes_per_s : PAGE_RATE;
    v->weight_rate = o->scrub_weight_bytes_per_s ? o->scrub_weight_bytes_per_s : WEIGHT_RATE;
    if (RAND_bytes((uint8_t *)&v->random, sizeof v->random) != 1)
        return fp__fail(FP_INTERNAL, "engine: no random numbers");
    v->random |= 1;
    v->pages.engine = v->weight_round.engine = e;
    v->met_ns = v->page_pass_start = v->pages_since = v->weights_since = fp__now_ns();
    if (v->level >= FP_VALIDATE_SCRUB)
        FP_TRY(watch_weights(e));
    return v->level == FP_VALIDATE_REPLAY ? fp__replay_create(e, &v->replay) : FP_OK;
}

void fp__validation_destroy(fp_engine *e)
{
    fp__validation *v = &e->checks;
    if (e->hasher)
        fp__validation_void(e);
    fp__replay_destroy(v->replay);
    fp__integrity_destroy(v->weights);
    for (size_t i = 0; i < v->quarantined; i++)
        fp__pool_unref(e->pool, v->quarantine[i]);
}

fp_status fp__checks_create(fp_session *s)
{
    fp__checks *c = &s->checks;
    const fp__hparams *hp = &s->engine->model->hp;
    c->pages_max = fp__kvseq_max_tokens(s->context) / TOKENS + 1;
    c->boundary = calloc(c->pages_max + 1, sizeof *c->boundary);
    c->failures = calloc(c->pages_max + 1, sizeof *c->failures);
    if (s->anchors) /* touched as far as it is used */
        c->mass = calloc((c->pages_max + 1) * hp->layers * hp->heads, sizeof *c->mass);
    if (!c->boundary || !c->failures || (s->anchors && !c->mass))
        return fp__fail(FP_NO_MEMORY, "session: no memory");
    c->boundary[0] = (fp__boundary){.here = true, .id = FP__TOKEN_NONE};
    c->retried = SIZE_MAX;
    if (wants_weights(s->engine, s) && !s->engine->checks.weights)
        return watch_weights(s->engine);
    return FP_OK;
}

void fp__checks_destroy(fp_session *s)
{
    fp_engine *e = s->engine;
    void_round(e, &s->checks.round);
    void_round(e, &e->checks.pages); /* may be at a page of this session */
    void_units(&s->checks, e->checks.replay);
    free(s->checks.boundary);
    free(s->checks.failures);
    free(s->checks.mass);
}

static bool any_active(const fp_engine *e, const fp_session *but)
{
    for (size_t i = 0; i < e->max_sessions; i++)
        if (e->sessions[i] && e->sessions[i] != but && fp__session_active(e->sessions[i]))
            return true;
    return false;
}

/* Time in which nothing was computed, and nothing checked, is no part of a window. */
static void leave_out_rest(fp_engine *e, const fp_session *beginning)
{
    fp__validation *v = &e->checks;
    if (any_active(e, beginning))
        return;
    uint64_t now = fp__now_ns(), rest = now - v->met_ns,
             *starts[] = {&v->pages_since, &v->page_pass_start, &v->weights_since, &v->weight_pass_start};
    for (size_t i = 0; i < sizeof starts / sizeof *starts; i++)
        *starts[i] += rest;
    v->met_ns = now;
}

void fp__checks_begin(fp_session *s)
{
    fp__checks *c = &s->checks;
    leave_out_rest(s->engine, s);
    size_t tokens = fp__kvseq_tokens(s->context);
    void_round(s->engine, &c->round);
    void_units(c, s->engine->checks.replay);
    memset(c->failures, 0, c->pages_max + 1);
    c->verified = c->round_ok = c->weights_ok = c->weights_pass = tokens;
    c->at = tokens / TOKENS * TOKENS;
    c->replay_from = c->replay_ok =
        c->at; /* a page that an earlier answer began is computed again as a whole */
    if (!c->boundary[c->at / TOKENS].here) {
        size_t b = c->at / TOKENS;
        while (b > 0 && !c->boundary[b].here)
            b--;
        c->replay_from = c->replay_ok = b * TOKENS;
    }
    for (size_t b = 0; b <= c->pages_max; b++)
        c->boundary[b].safe = 0;                         /* of this answer */
    c->boundary[c->at / TOKENS].id = s->ids.data[c->at]; /* of the new messages, perhaps: there is one */
    c->high = c->high > tokens ? c->high : tokens;
    c->verified_bytes = c->sure_bytes = 0;
    c->stalled = c->doubtful = false;
    c->retried = SIZE_MAX;
    c->failed = c->rollbacks = 0;
    c->retractions = 0;
    memset(c->logged, 0, sizeof c->logged);
    c->standing = FP_STANDING_PROVISIONAL;
}

/* ---- boundaries ---- */

static uint64_t next_random(fp__validation *v)
{
    v->random ^= v->random << 13;
    v->random ^= v->random >> 7;
    v->random ^= v->random << 17;
    return v->random;
}

/* Hands tokens up to `to`, a boundary or the end of the turn, to re-execution, or leaves them out. */
static void replay_until(fp_session *s, size_t to)
{
    fp__checks *c = &s->checks;
    fp__validation *v = &s->engine->checks;
    size_t n = s->engine->model->hp.layers * s->engine->model->hp.heads;
    if (!v->replay)
        return;
    /* A unit vouches for the token after its last one; the next takes it as given: it must still be that. */
    const fp__boundary *b = &c->boundary[c->replay_from / TOKENS];
    if (c->replay_from % TOKENS == 0 && b->here && b->id != FP__TOKEN_NONE && c->replay_from < s->ids.size &&
        s->ids.data[c->replay_from] != b->id) {
        fp__validation_failed(s->engine, 1);
        fp__rollback_token(s, c->replay_from);
        return;
    }
    if (to <= c->replay_from)
        return;
    fp__replay_unit *unit = NULL;
    if ((next_random(v) >> 32 & 0xffff) < v->replay_65536) {
        const uint64_t *from = c->mass ? c->mass + c->replay_from / TOKENS * n : NULL;
        fp_status status =
            fp__replay_submit(v->replay, s, c->replay_from, to, from, c->mass ? s->mass : NULL, &unit);
        if (status != FP_OK) {
            fp__session_fail(s, status);
            return;
        }
        if (c->last_unit)
            c->last_unit->next = unit;
        else
            c->units = unit;
        c->last_unit = unit;
        c->replaying_pages += (to - c->replay_from + TOKENS - 1) / TOKENS;
    } else if (!c->units) {
        c->replay_ok = to;
    }
    c->replay_from = to;
}

void fp__checks_step(fp_session *s, size_t count)
{
    fp__checks *c = &s->checks;
    size_t tokens = fp__kvseq_tokens(s->context),
           n = s->engine->model->hp.layers * s->engine->model->hp.heads;
    size_t before = tokens - count;
    if (before < c->high)
        c->replayed += (tokens < c->high ? tokens : c->high) - before;
    c->high = tokens > c->high ? tokens : c->high;
    if (tokens % TOKENS != 0 || tokens == c->at)
        return;
    size_t b = tokens / TOKENS;
    for (size_t between = c->at / TOKENS + 1; between < b; between++)
        c->boundary[between].here = false; /* a step went over it */
    c->at = tokens;
    c->boundary[b] = (fp__boundary){.here = true,
                                    .id = tokens < s->ids.size ? s->ids.data[tokens] : FP__TOKEN_NONE,
                                    .safe = s->answer.safe,
                                    .passed_ns = fp__now_ns()};
    if (c->mass)
        memcpy(c->mass + b * n, s->mass, n * sizeof *s->mass);
    replay_until(s, tokens);
}

static size_t unverified_pages(fp_session *s)
{
    size_t unhashed = 0;
    fp_status status = fp__kvseq_poll(s->context, &unhashed, NULL);
    (void)status; /* fp__validation_meet looks at it */
    return unhashed + s->checks.replaying_pages;
}

size_t fp__checks_allow(fp_session *s, size_t waiting, size_t limit)
{
    fp__checks *c = &s->checks;
    size_t done = fp__kvseq_tokens(s->context), unverified = unverified_pages(s),
           window = s->engine->checks.window;
    size_t pages = unverified < window ? window - unverified : 0; /* that may be sealed */
    size_t most = (done / TOKENS + pages + 1) * TOKENS - 1 - done;
    if (most == 0) {
        c->stalled = true;
        return 0;
    }
    if (c->stalled) { /* what happened meanwhile? */
        c->stalled = false;
        fp__session_boundary(s);
        if (fp__session_ended(s))
            return 0;
    }
    most = most < limit ? most : limit;
    size_t n = waiting < most ? waiting : most;
    if (n < waiting && (done + n) / TOKENS > done / TOKENS)
        n -= (done + n) % TOKENS; /* ends at a boundary: that is where it can go back to */
    return n;
}

/* ---- failures ---- */

void fp__validation_failed(fp_engine *e, size_t n)
{
    e->checks.count.failures += n;
    fp__fault_here(e, &e->checks, FP__FAULT_NOTICED);
}

static void take_findings(fp_engine *e, fp__round *r, fp_session *s, fp_anchors *anchors)
{
    fp__finding found[FP__FINDINGS_MAX];
    size_t n = atomic_load(&r->found), lowest = SIZE_MAX;
    n = n < FP__FINDINGS_MAX ? n : FP__FINDINGS_MAX;
    memcpy(found, r->findings, n * sizeof *found);
    const fp__kvseq *context = r->context, *pages = r->anchors;
    if (n > 0)
        fp__validation_failed(e, n);
    char why[400];
    for (size_t i = 0; i < n; i++)
        if (found[i].what == FP__FOUND_WEIGHTS)
            fp__rollback_weights(e, found[i].item);
    for (size_t i = 0; i < n; i++)
        if (found[i].what == FP__FOUND_ANCHOR && anchors && anchors->seq == pages) {
            fp_status status = fp__kvseq_check_verdict(pages, found[i].item, &found[i].check);
            (void)status;
            snprintf(why, sizeof why, "%s", fp_error_detail());
            fp__rollback_anchors(anchors, found[i].item, why);
        }
    for (size_t i = 0; i < n; i++)
        if (found[i].what == FP__FOUND_CONTEXT && (lowest == SIZE_MAX || found[i].item < found[lowest].item))
            lowest = i;
    if (lowest == SIZE_MAX || !s || s->context != context || !fp__session_active(s) ||
        found[lowest].item >= fp__kvseq_pages(context))
        return;
    fp_status status = fp__kvseq_check_verdict(context, found[lowest].item, &found[lowest].check);
    (void)status;
    snprintf(why, sizeof why, "%s", fp_error_detail());
    fp__rollback_page(s, found[lowest].item, why);
}

bool fp__validation_bad_tables(fp_session *s)
{
    size_t bad = fp__kvseq_bad_entry(s->context);
    if (s->anchors) {
        size_t anchor = fp__kvseq_bad_entry(s->anchors->seq);
        if (anchor != SIZE_MAX) {
            fp__validation_failed(s->engine, 1);
            fp__rollback_anchors(s->anchors, anchor,
                                 "the block table of the anchors does not map to their pages");
            return true;
        }
    }
    if (bad == SIZE_MAX)
        return false;
    fp__validation_failed(s->engine, 1);
    fp__rollback_page(s, bad, "the block table of the context does not map to its pages");
    return true;
}

/* ---- marks ---- */

/* Must a round confirm what the session has computed so far? */
static bool uses_rounds(const fp_session *s)
{
    bool ended = fp__session_ended(s);
    return s->release == FP_RELEASE_GATED || s->answer.n_holds > 0 ||
           (ended && (s->release == FP_RELEASE_FINAL || s->engine->checks.level >= FP_VALIDATE_SCRUB));
}

static void start_round(fp_session *s, bool everything, bool weights)
{
    fp__checks *c = &s->checks;
    fp_engine *e = s->engine;
    fp__round *r = &c->round;
    bool ended = fp__session_ended(s);
    weights = weights && e->checks.weights && wants_weights(e, s);
    size_t mark = ended || everything ? fp__kvseq_tokens(s->context) : c->at;
    r->mark = everything ? 0 : mark; /* of a look at everything nothing is concluded but failures */
    r->context = s->context;
    r->context_first = 0;
    r->context_pages = (mark + TOKENS - 1) / TOKENS;
    r->context_sealed = fp__kvseq_sealed(s->context);
    r->anchors = s->anchors ? s->anchors->seq : NULL;
    r->anchor_first = 0;
    r->anchor_pages = s->anchors ? fp__kvseq_pages(s->anchors->seq) : 0;
    r->anchor_sealed = s->anchors ? fp__kvseq_sealed(s->anchors->seq) : 0;
    r->weight_first = 0;
    r->weights = weights ? fp__integrity_items(e->checks.weights) : 0;
    launch(e, r);
}

static void take_round(fp_session *s)
{
    fp__checks *c = &s->checks;
    fp__round *r = &c->round;
    if (!has_reported(s->engine, r))
        return;
    r->in_flight = false;
    if (atomic_load(&r->found) > 0) {
        take_findings(s->engine, r, s, s->anchors);
        return;
    }
    c->round_ok = r->mark > c->round_ok ? r->mark : c->round_ok;
    if (r->weights > 0)
        c->weights_ok = r->mark > c->weights_ok ? r->mark : c->weights_ok;
}

/* One round over everything, here and now. */
static void look_around(fp_session *s)
{
    fp_engine *e = s->engine;
    fp__round *r = &s->checks.round;
    fp_status status = fp__kvseq_verify(s->context, 0, 0); /* hashes that are missing */
    if (status != FP_OK)
        return; /* fp__validation_meet finds it */
    void_round(e, r);
    start_round(s, true, true);
    finish_round(e, r);
    r->in_flight = false;
    if (atomic_load(&r->found) > 0)
        take_findings(e, r, s, s->anchors);
}

static void take_units(fp_session *s)
{
    fp__checks *c = &s->checks;
    while (c->units && fp__replay_done(c->units)) {
        fp__replay_unit *unit = c->units;
        size_t page = 0, pages = (unit->to - unit->from + TOKENS - 1) / TOKENS;
        fp_status status = fp__replay_result(unit, &page);
        char why[400];
        snprintf(why, sizeof why, "%s", status == FP_OK ? "" : fp_error_detail());
        c->units = unit->next;
        if (!c->units)
            c->last_unit = NULL;
        c->replaying_pages -= pages;
        if (status == FP_OK)
            c->replay_ok = c->units ? unit->to : c->replay_from;
        fp__replay_drop(s->engine->checks.replay, unit);
        s->engine->checks.count.pages_replayed += pages;
        if (status != FP_OK) {
            fp__validation_failed(s->engine, 1);
            look_around(s); /* what is wrong here would be wrong again */
            if (fp__session_active(s))
                fp__rollback_replayed(s, page, why);
            return;
        }
    }
}

/* The open page at the end of a turn, where no round looks at it. */
static bool open_page_is_good(fp_session *s)
{
    size_t sealed = fp__kvseq_sealed(s->context);
    fp__kv_check check;
    if (sealed == fp__kvseq_pages(s->context))
        return true;
    fp__kvseq_check_pages(s->context, sealed, 1, sealed, &check);
    atomic_fetch_add(&s->engine->checks.pages_checked, 1);
    if (!fp__kvseq_check_found(s->context, &check))
        return true;
    fp_status status = fp__kvseq_check_verdict(s->context, sealed, &check);
    (void)status;
    char why[400];
    snprintf(why, sizeof why, "%s", fp_error_detail());
    fp__validation_failed(s->engine, 1);
    fp__rollback_page(s, sealed, why);
    return false;
}

/* The answer has ended, and all that its level asks for was checked. */
static bool is_complete(fp_session *s, size_t unhashed)
{
    fp__checks *c = &s->checks;
    size_t tokens = fp__kvseq_tokens(s->context);
    if (!fp__session_ended(s) || unhashed > 0 || c->units)
        return false;
    if (s->engine->checks.replay) {
        replay_until(s, tokens);
        if (c->units || !fp__session_active(s) || !fp__session_ended(s))
            return false;
    }
    return uses_rounds(s) ? c->round_ok >= tokens : open_page_is_good(s);
}

static void take_boundary(fp_session *s, const fp__boundary *b)
{
    fp_validation_status *count = &s->engine->checks.count;
    uint64_t ns = fp__now_ns() - b->passed_ns;
    s->checks.verified_bytes = b->safe;
    count->boundaries++;
    count->verify_ns += ns;
    count->verify_max_ns = ns > count->verify_max_ns ? ns : count->verify_max_ns;
}

/* What is verified by now leaves, and is compared with what has left before. */
static void advance(fp_session *s, size_t unhashed)
{
    fp__checks *c = &s->checks;
    size_t mark = uses_rounds(s) ? c->round_ok : unhashed == 0 ? c->at : 0;
    if (s->engine->checks.replay && c->replay_ok < mark)
        mark = c->replay_ok;
    size_t before = c->rollbacks;
    bool complete = is_complete(s, unhashed);
    if (!fp__session_active(s) || c->rollbacks != before)
        return;
    if (complete)
        mark = fp__kvseq_tokens(s->context);
    if (mark > c->verified || complete) {
        const fp__buf *text = &s->turns[s->answer.turn].text;
        c->verified = mark;
        if (complete)
            c->verified_bytes = text->size;
        else if (mark % TOKENS == 0 && c->boundary[mark / TOKENS].here)
            take_boundary(s, &c->boundary[mark / TOKENS]);
        fp__rollback_compare(s, c->verified_bytes, complete);
        c->sure_bytes = c->verified_bytes > c->sure_bytes ? c->verified_bytes : c->sure_bytes;
        fp__session_leave(s);
    }
    if (complete && fp__session_active(s) && fp__session_ended(s)) {
        c->standing = FP_STANDING_FINAL;
        s->answer.settled = true;
        s->answer.end_ns = fp__now_ns();
    }
}

static void meet_session(fp_session *s)
{
    fp__checks *c = &s->checks;
    size_t unhashed = 0, bad = 0;
    fp_status status = fp__kvseq_poll(s->context, &unhashed, &bad);
    if (status != FP_OK) {
        char why[400];
        snprintf(why, sizeof why, "%s", fp_error_detail());
        fp__validation_failed(s->engine, 1);
        fp__rollback_page(s, bad, why);
        return;
    }
    take_round(s);
    if (fp__session_active(s))
        take_units(s);
    if (fp__session_active(s))
        advance(s, unhashed);
    size_t wanted = fp__session_ended(s) ? fp__kvseq_tokens(s->context) : c->at;
    if (fp__session_active(s) && uses_rounds(s) && !c->round.in_flight && unhashed == 0 &&
        c->round_ok < wanted) {
        status = fp__kvseq_poll(s->context, &unhashed, NULL); /* not gone back meanwhile */
        if (status == FP_OK && unhashed == 0)
            start_round(s, false, true);
    }
}

/* ---- scrub ---- */

/* The i-th thing with pages: anchors of a session (once), then its context. NULL: it has none. */
static const fp__kvseq *scrub_target(fp_engine *e, size_t i, fp_session **s, fp_anchors **anchors)
{
    *s = e->sessions[i / 2];
    *anchors = NULL;
    if (!*s)
        return NULL;
    if (i % 2 == 1)
        return (*s)->context;
    *anchors = (*s)->anchors;
    for (size_t k = 0; *anchors && k < i / 2; k++)
        if (e->sessions[k] && e->sessions[k]->anchors == *anchors)
            *anchors = NULL;
    return *anchors ? (*anchors)->seq : NULL;
}

static void next_target(fp_engine *e)
{
    fp__validation *v = &e->checks;
    v->target_page = 0;
    if (++v->target < 2 * e->max_sessions)
        return;
    v->target = 0;
    uint64_t now = fp__now_ns();
    if (now - v->page_pass_start > v->count.page_pass_ns)
        v->count.page_pass_ns = now - v->page_pass_start;
    if (!v->has_skipped)
        v->pages_since = v->page_pass_start;
    v->has_skipped = false;
    v->page_pass_start = now;
}

static void scrub_pages(fp_engine *e)
{
    fp__validation *v = &e->checks;
    size_t page_bytes = fp__page_group_bytes(fp__pool_geometry(e->pool));
    size_t due = (size_t)(v->page_debt / UINT64_C(1000000000) / page_bytes);
    for (size_t tries = 0; due > 0 && tries < 2 * e->max_sessions; tries++) {
        fp_session *s;
        fp_anchors *anchors;
        const fp__kvseq *seq = scrub_target(e, v->target, &s, &anchors);
        size_t sealed = seq ? fp__kvseq_sealed(seq) : 0,
               pages = seq && anchors ? fp__kvseq_pages(seq) : sealed, unhashed = 0;
        bool rests = s && !anchors && !fp__session_active(s); /* a failure is found when it goes on */
        if (seq && s && !anchors &&
            (fp__kvseq_poll(s->context, &unhashed, NULL) != FP_OK || unhashed > 0 || rests)) {
            pages = 0;
            v->has_skipped = v->has_skipped || !rests;
        }
        if (v->target_page >= pages) {
            next_target(e);
            continue;
        }
        size_t n = pages - v->target_page < due ? pages - v->target_page : due;
        fp__round *r = &v->pages;
        r->context = anchors ? NULL : seq;
        r->anchors = anchors ? seq : NULL;
        r->context_first = r->anchor_first = v->target_page;
        r->context_pages = anchors ? 0 : n;
        r->anchor_pages = anchors ? n : 0;
        r->context_sealed = r->anchor_sealed = sealed;
        r->weights = 0;
        r->mark = v->target;
        v->target_page += n;
        v->page_debt -= (uint64_t)n * page_bytes * UINT64_C(1000000000);
        launch(e, r);
        return;
    }
}

static void begin_weight_pass(fp_engine *e)
{
    fp__validation *v = &e->checks;
    v->weight_pass_start = fp__now_ns();
    for (size_t i = 0; i < e->max_sessions; i++)
        if (e->sessions[i])
            e->sessions[i]->checks.weights_pass = fp__kvseq_tokens(e->sessions[i]->context);
}

static void end_weight_pass(fp_engine *e)
{
    fp__validation *v = &e->checks;
    uint64_t took = fp__now_ns() - v->weight_pass_start;
    v->count.weight_pass_ns = took > v->count.weight_pass_ns ? took : v->count.weight_pass_ns;
    v->weights_since = v->weight_pass_start;
    for (size_t i = 0; i < e->max_sessions; i++)
        if (e->sessions[i]) {
            fp__checks *c = &e->sessions[i]->checks;
            c->weights_ok = c->weights_pass > c->weights_ok ? c->weights_pass : c->weights_ok;
        }
}

static void scrub_weights(fp_engine *e)
{
    fp__validation *v = &e->checks;
    fp__round *r = &v->weight_round;
    size_t items = fp__integrity_items(v->weights), n = 0;
    uint64_t left = v->weight_debt / UINT64_C(1000000000);
    if (v->next_weight == 0)
        begin_weight_pass(e);
    while (v->next_weight + n < items && fp__integrity_item_bytes(v->weights, v->next_weight + n) <= left)
        left -= fp__integrity_item_bytes(v->weights, v->next_weight + n++);
    if (n == 0)
        return;
    r->context = r->anchors = NULL;
    r->context_pages = r->anchor_pages = 0;
    r->weight_first = v->next_weight;
    r->weights = n;
    v->next_weight += n;
    v->weight_debt = left * UINT64_C(1000000000);
    launch(e, r);
}

static void take_scrubs(fp_engine *e)
{
    fp__validation *v = &e->checks;
    if (has_reported(e, &v->pages)) {
        fp_session *s;
        fp_anchors *anchors;
        v->pages.in_flight = false;
        const fp__kvseq *seq = scrub_target(e, v->pages.mark, &s, &anchors);
        bool same = seq && seq == (v->pages.context ? v->pages.context : v->pages.anchors);
        if (atomic_load(&v->pages.found) > 0 && same)
            take_findings(e, &v->pages, s, anchors);
    }
    if (has_reported(e, &v->weight_round)) {
        v->weight_round.in_flight = false;
        if (atomic_load(&v->weight_round.found) > 0)
            take_findings(e, &v->weight_round, NULL, NULL);
        else if (v->next_weight >= fp__integrity_items(v->weights)) {
            v->next_weight = 0;
            end_weight_pass(e);
        }
    }
}

static void scrub(fp_engine *e)
{
    fp__validation *v = &e->checks;
    v->met_ns = fp__now_ns();
    if (v->level < FP_VALIDATE_SCRUB)
        return;
    take_scrubs(e);
    uint64_t now = fp__now_ns(), since = v->last_ns ? now - v->last_ns : 0;
    if (v->last_ns && since < SCRUB_EVERY_NS)
        return;
    v->last_ns = now;
    since = since < DEBT_MAX_NS ? since : DEBT_MAX_NS;
    v->page_debt += v->page_rate * since;
    v->weight_debt += v->weight_rate * since;
    if (v->page_debt > v->page_rate * DEBT_MAX_NS)
        v->page_debt = v->page_rate * DEBT_MAX_NS;
    if (v->weight_debt > v->weight_rate * DEBT_MAX_NS)
        v->weight_debt = v->weight_rate * DEBT_MAX_NS;
    if (!v->pages.in_flight)
        scrub_pages(e);
    if (!v->weight_round.in_flight && v->weights)
        scrub_weights(e);
}

/* ---- the two meeting points ---- */

void fp__validation_meet(fp_engine *e)
{
    scrub(e);
    for (size_t i = 0; i < e->max_sessions; i++)
        if (e->sessions[i] && fp__session_active(e->sessions[i]))
            meet_session(e->sessions[i]);
}

void fp__validation_help(fp_engine *e)
{
    for (size_t i = 0; i < e->max_sessions; i++) {
        fp_session *s = e->sessions[i];
        if (!s || !fp__session_active(s))
            continue;
        fp_status status = fp__kvseq_verify(s->context, 0, 0); /* waits for the hashes, and makes them */
        (void)status;
    }
    fp__validation_meet(e); /* begins rounds */
    for (size_t i = 0; i < e->max_sessions; i++) {
        fp_session *s = e->sessions[i];
        if (!s || !fp__session_active(s))
            continue;
        finish_round(e, &s->checks.round);
        if (s->checks.units)
            fp__replay_wait(e->checks.replay, s->checks.units);
    }
    fp__validation_meet(e);
}

bool fp__validation_doubts(fp_session *s)
{
    fp__checks *c = &s->checks;
    size_t tokens = fp__kvseq_tokens(s->context), before = c->rollbacks;
    look_around(s);
    if (fp__session_active(s))
        meet_session(s);
    if (c->rollbacks != before || !fp__session_active(s))
        return true;
    bool again = c->retried != tokens;
    c->retried = tokens;
    return again;
}

size_t fp__validation_look(fp_session *s, bool weights)
{
    fp_engine *e = s->engine;
    fp__round *r = &s->checks.round;
    void_round(e, r);
    start_round(s, true, weights);
    finish_round(e, r);
    r->in_flight = false;
    return atomic_load(&r->found);
}

/* ---- status ---- */

/* The scrub reads things with pages one after the other, each at a tick of its own. */
static uint64_t resident_page_bytes(const fp_engine *e, size_t *things)
{
    uint64_t pages = 0;
    for (size_t i = 0; i < 2 * e->max_sessions; i++) {
        fp_session *s;
        fp_anchors *anchors;
        const fp__kvseq *seq = scrub_target((fp_engine *)(uintptr_t)e, i, &s, &anchors);
        pages += seq ? fp__kvseq_pages(seq) : 0;
        *things += seq != NULL;
    }
    return pages * fp__page_group_bytes(fp__pool_geometry(e->pool));
}

static uint64_t window_ns(uint64_t bytes, uint64_t rate, size_t ticks)
{
    return (uint64_t)((double)bytes / (double)rate * 1e9) + ticks * SCRUB_EVERY_NS;
}

void fp__validation_windows(const fp_engine *e, bool computed, uint64_t *page_ns, uint64_t *weight_ns)
{
    const fp__validation *v = &e->checks;
    size_t things = 0;
    uint64_t bytes = resident_page_bytes(e, &things), now = any_active(e, NULL) ? fp__now_ns() : v->met_ns;
    *page_ns = *weight_ns = 0;
    if (v->level < FP_VALIDATE_SCRUB)
        return;
    *page_ns = window_ns(bytes, v->page_rate, things + 1);
    *weight_ns = v->weights ? window_ns(fp__integrity_bytes(v->weights), v->weight_rate, 1) : 0;
    if (!computed && now - v->pages_since > *page_ns)
        *page_ns = now - v->pages_since;
    if (!computed && v->weights && now - v->weights_since > *weight_ns)
        *weight_ns = now - v->weights_since;
}

void fp_engine_validation(const fp_engine *e, fp_validation_status *out)
{
    const fp__validation *v = &e->checks;
    *out = v->count;
    out->validation = v->level;
    out->replay_65536 = v->replay_65536;
    out->pages_checked = atomic_load(&v->pages_checked);
    out->check_cpu_ns = atomic_load(&v->check_cpu_ns);
    out->weight_bytes_checked = atomic_load(&v->weight_bytes_checked);
    fp__validation_windows(e, false, &out->page_window_ns, &out->weight_window_ns);
    for (size_t i = 0; i < e->max_sessions; i++)
        if (e->sessions[i])
            out->unverified_pages += unverified_pages(e->sessions[i]);
}
