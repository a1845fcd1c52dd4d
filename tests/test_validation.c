/* Validation and release as a caller sees them: what leaves when, what is taken back, what receipt and audit
 * say. That every fault is found is the matter of test_faults. */
#include "engine_lab.h"
#include <unistd.h>

typedef struct bench {
    fp_model *model;
    fp_workspace *w;
    uint8_t id[1][32];
    fp_engine *engine;
    fp_anchors *anchors;
} bench;

static const char question[] =
    "When does the office close on Fridays, what is the name of the cat, and why is it that a "
    "mooring can be paid in coins only there? Say it in one sentence: I am in a hurry.";

static void open_bench(bench *b, const char *name, fp_validation level, bool watch)
{
    gw_model m = el_model_like("llama", 21);
    fp_event_receipt event;
    fp_engine_options o = {.threads = 1, .context_tokens = 640, .max_sessions = 2, .chunk_tokens = 64};
    o.validation = level;
    b->model = el_open(&m);
    b->w = el_workspace(name);
    el_anchor(b->w, "harbour", el_text1, FP_INJECT_FLOOR, 16384, b->id[0]);
    ok(fp_engine_create(b->model, &o, &b->engine));
    ok(fp_anchors_compile(b->engine, b->w, (const uint8_t(*)[32])b->id, 1, &event, NULL, NULL, NULL));
    fp_anchors_options ao = {.watch = watch};
    ok(fp_anchors_load(b->engine, b->w, (const uint8_t(*)[32])b->id, 1, &ao, &b->anchors, NULL));
}

static void close_bench(bench *b)
{
    fp_anchors_release(b->anchors);
    fp_engine_destroy(b->engine);
    fp_workspace_close(b->w);
    fp_model_close(b->model);
}

/* What a client has. */
typedef struct client {
    fp__buf text;
    size_t retractions, calls;
    char reason[300];
} client;

static int take(void *context, const char *text, size_t size)
{
    client *c = context;
    c->calls++;
    ok(fp__buf_append(&c->text, text, size));
    return 0;
}

static void take_back(void *context, size_t keep, const char *reason)
{
    client *c = context;
    assert_true(keep < c->text.size);
    c->text.size = keep;
    c->retractions++;
    snprintf(c->reason, sizeof c->reason, "%s", reason);
}

static fp_session *start(bench *b, fp_release release, client *c, const char *hold, uint32_t tokens)
{
    fp_session *s;
    fp_session_options so = {.anchors = b->anchors, .raw = true, .release = release, .workspace = b->w};
    fp_generate_options go = {.max_tokens = tokens,
                              .ignore_eog = true,
                              .on_text = take,
                              .on_text_context = c,
                              .on_retract = take_back,
                              .holds = &hold,
                              .n_holds = hold ? 1 : 0};
    fp_sampling_default(&go.sampling);
    go.sampling.temperature = 30; /* tiny random models repeat themselves */
    go.sampling.seed = 3;
    ok(fp_session_create(b->engine, &so, &s));
    ok(fp_session_add_message(s, FP_ROLE_USER, question, sizeof question - 1));
    ok(fp_session_begin(s, &go));
    return s;
}

static void assert_has(const client *c, fp_session *s)
{
    fp_result r;
    fp_session_result(s, &r);
    assert_int_equal(c->text.size, r.text_size);
    assert_memory_equal(c->text.data, r.text, r.text_size);
}

static void audit(bench *b, const char *receipt, const char *transcript, bool full, fp_audit_result *out)
{
    fp_audit_options o = {
        .receipt_path = receipt, .transcript_path = transcript, .model = full ? b->model : NULL};
    ok(fp_audit(b->w, &o, out));
}

/* ---- when text leaves ---- */

static void test_releases(void **state)
{
    (void)state;
    bench b;
    client all[3] = {0};
    open_bench(&b, "releases", FP_VALIDATE_SCRUB, false);
    for (int i = 0; i < 3; i++) {
        fp_result r;
        fp_session *s = start(&b, (fp_release)i, &all[i], NULL, 150);
        size_t active = 1, provisional = 0;
        while (active) {
            ok(fp_engine_step(b.engine, &active));
            fp_session_result(s, &r);
            assert_true((r.finish == FP_FINISH_NONE) == (active > 0));
            provisional += r.standing == FP_STANDING_PROVISIONAL;
            if (i == FP_RELEASE_FINAL && active)
                assert_int_equal(all[i].text.size, 0);
        }
        assert_true(provisional > 100);
        assert_int_equal(r.standing, FP_STANDING_FINAL);
        assert_has(&all[i], s);
        assert_int_equal(all[i].retractions, 0);
        fp_session_destroy(s);
    }
    assert_true(all[FP_RELEASE_FINAL].calls == 1 && all[FP_RELEASE_GATED].calls <= 5);
    assert_true(all[FP_RELEASE_OPTIMISTIC].calls > 20);
    for (int i = 1; i < 3; i++) {
        assert_int_equal(all[i].text.size, all[0].text.size);
        assert_memory_equal(all[i].text.data, all[0].text.data, all[0].text.size);
        fp__buf_free(&all[i].text);
    }
    fp_validation_status v;
    fp_engine_validation(b.engine, &v);
    assert_true(v.pages_checked > 0 && v.weight_bytes_checked > 0 && v.failures == 0 && v.page_window_ns > 0);
    fp__buf_free(&all[0].text);
    close_bench(&b);
}

/* From a text at which something acts, nothing leaves unverified. */
static void test_holds(void **state)
{
    (void)state;
    bench b;
    client free_one = {0}, held = {0};
    open_bench(&b, "holds", FP_VALIDATE_HASH, false);
    fp_session *s = start(&b, FP_RELEASE_OPTIMISTIC, &free_one, NULL, 150);
    ok(fp_session_run(s));
    fp_session_destroy(s);
    char hold[8] = {0}; /* a piece from its middle */
    size_t at = free_one.text.size / 2;
    while ((free_one.text.data[at] & 0xC0) == 0x80)
        at++;
    memcpy(hold, free_one.text.data + at, 7);
    at = (size_t)((uint8_t *)memmem(free_one.text.data, free_one.text.size, hold, strlen(hold)) -
                  free_one.text.data);
    s = start(&b, FP_RELEASE_OPTIMISTIC, &held, hold, 150);
    size_t active = 1, before = 0;
    while (active) {
        ok(fp_engine_step(b.engine, &active));
        if (held.text.size > at)
            assert_true(held.text.size <= s->checks.verified_bytes);
        else
            before = held.calls;
    }
    if (before == 0 || at <= 10)
        fail_msg("%zu calls before, hold at %zu of %zu", before, at, free_one.text.size);
    assert_has(&held, s);
    assert_memory_equal(held.text.data, free_one.text.data, free_one.text.size);
    fp_session_destroy(s);
    fp__buf_free(&held.text);
    fp__buf_free(&free_one.text);
    close_bench(&b);
}

/* ---- retraction ---- */

typedef struct gremlin {
    size_t at, times; /* token at which it strikes; how often */
} gremlin;

/* A wrong computation: only re-execution sees it. */
static void corrupt(void *arg, fp_engine *e, fp__fault_point point)
{
    gremlin *g = arg;
    fp_session *s = e->sessions[0];
    size_t slot;
    if (point != FP__FAULT_COMPUTED || !s || g->times == 0 || fp__kvseq_tokens(s->context) != g->at)
        return;
    g->times--;
    const fp__page_geometry *k = fp__kvseq_geometry(s->context);
    for (size_t i = 0; i < fp__page_slabs(k); i++) {
        uint8_t *slab = fp__kvseq_slab(s->context, 0, i / k->kv_heads, i % k->kv_heads, &slot);
        for (size_t j = 0; j < k->d; j++) {
            slab[slot * k->d + j] ^= 0x55;
            slab[64 * k->d + j * 64 + slot] ^= 0x55;
        }
    }
}

static void test_retraction(void **state)
{
    (void)state;
    bench b;
    client right = {0}, c = {0};
    fp_result r;
    char receipt[1024], transcript[1024];
    uint8_t id[32];
    fp_audit_result a;
    open_bench(&b, "retraction", FP_VALIDATE_REPLAY, false);
    fp_session *s = start(&b, FP_RELEASE_OPTIMISTIC, &right, NULL, 220);
    ok(fp_session_run(s));
    size_t prompt = s->answer.prompt_tokens;
    fp_session_destroy(s);
    gremlin g = {.at = prompt + 30, .times = 1};
    b.engine->checks.fault = corrupt;
    b.engine->checks.fault_arg = &g;
    s = start(&b, FP_RELEASE_OPTIMISTIC, &c, NULL, 220);
    ok(fp_session_run(s));
    fp_session_result(s, &r);
    if (r.failures == 0 || r.rollbacks == 0 || r.retractions == 0 || c.retractions != r.retractions)
        fail_msg("%u failures, %u rollbacks, %u retractions, %zu seen, struck %zu", r.failures, r.rollbacks,
                 r.retractions, c.retractions, 1 - g.times);
    assert_non_null(strstr(c.reason, "kernels"));
    assert_int_equal(r.standing, FP_STANDING_FINAL);
    assert_has(&c, s);
    assert_int_equal(c.text.size, right.text.size);
    assert_memory_equal(c.text.data, right.text.data, right.text.size);
    /* It was logged when it happened, the receipt names it, and the corrected answer is what it says. */
    assert_true(s->checks.logged[0]);
    ok(fp_session_receipt(s, b.w, id, receipt, transcript));
    audit(&b, receipt, transcript, true, &a);
    if (a.full != FP_VERDICT_VALID_FULL)
        fail_msg("%s", a.detail);
    fp__buf text = {0};
    el_read(receipt, &text);
    fp__dsse dsse;
    fp__receipt parsed;
    ok(fp__dsse_parse(text.data, text.size, &dsse));
    ok(fp__receipt_parse(dsse.payload.data, dsse.payload.size, &parsed));
    assert_int_equal(parsed.retractions, r.retractions);
    assert_int_equal(parsed.validation, FP_VALIDATE_REPLAY);
    assert_int_equal(parsed.replay_65536, 65536);
    assert_true(parsed.page_window_ms > 0 && parsed.weight_window_ms > 0 && parsed.failures == r.failures);
    fp__receipt_free(&parsed);
    fp__dsse_free(&dsse);
    fp__buf_free(&text);
    /* Retracted afterwards, by an operator, it is no longer valid. */
    fp_event_receipt event;
    ok(fp_event_retract(b.w, id, "found wrong later", &event));
    audit(&b, receipt, transcript, false, &a);
    assert_int_equal(a.light, FP_VERDICT_INVALID);
    assert_non_null(strstr(a.detail, "retracts this answer"));
    fp_session_destroy(s);
    fp__buf_free(&c.text);
    fp__buf_free(&right.text);
    close_bench(&b);
}

/* A fault that comes back each time ends the answer; what had left of it is withdrawn, and so says the
 * receipt. */
static void test_gives_up(void **state)
{
    (void)state;
    for (int release = 0; release < 3; release++) {
        bench b;
        client right = {0}, c = {0};
        fp_result r;
        char receipt[1024], name[16];
        fp_audit_result a;
        snprintf(name, sizeof name, "gives-up-%d", release);
        open_bench(&b, name, FP_VALIDATE_REPLAY, false);
        fp_session *s = start(&b, (fp_release)release, &right, NULL, 220);
        ok(fp_session_run(s));
        size_t prompt = s->answer.prompt_tokens;
        fp_session_destroy(s);
        gremlin g = {.at = prompt + 90, .times = 9};
        b.engine->checks.fault = corrupt;
        b.engine->checks.fault_arg = &g;
        s = start(&b, (fp_release)release, &c, NULL, 220);
        fails(fp_session_run(s), FP_MISMATCH, "3 times");
        assert_int_equal(g.times, 9 - FP__FAILURES_MAX);
        fp_session_result(s, &r);
        assert_int_equal(r.finish, FP_FINISH_ERROR);
        assert_true(c.text.size < right.text.size); /* and what is left is right */
        assert_true(c.text.size == 0 || memcmp(c.text.data, right.text.data, c.text.size) == 0);
        if (release != FP_RELEASE_OPTIMISTIC) {
            assert_int_equal(c.retractions, 0);
            fails(fp_session_receipt(s, b.w, NULL, receipt, NULL), FP_USAGE, "no answer");
        } else {
            assert_true(c.retractions > 0);
            assert_int_equal(r.standing, FP_STANDING_RETRACTED);
            ok(fp_session_receipt(s, b.w, NULL, receipt, NULL));
            audit(&b, receipt, NULL, false, &a);
            assert_int_equal(a.light, FP_VERDICT_INVALID);
            assert_non_null(strstr(a.detail, "withdrew"));
        }
        fp_session_destroy(s);
        fp__buf_free(&c.text);
        fp__buf_free(&right.text);
        close_bench(&b);
    }
}

/* ---- provisional ---- */

static void test_provisional(void **state)
{
    (void)state;
    bench b;
    client c = {0};
    fp_audit_result a;
    char first[1024], last[1024], transcript[1024];
    open_bench(&b, "provisional", FP_VALIDATE_SCRUB, false);
    fp_session *s = start(&b, FP_RELEASE_OPTIMISTIC, &c, NULL, 100);
    fails(fp_session_receipt(s, b.w, NULL, NULL, NULL), FP_USAGE, "no answer");
    while (!fp__session_ended(s))
        ok(fp_engine_step(b.engine, NULL));
    assert_true(fp__session_active(s)); /* all text is there, its checks are not */
    ok(fp_session_receipt(s, b.w, NULL, first, NULL));
    audit(&b, first, NULL, false, &a);
    assert_int_equal(a.light, FP_VERDICT_UNDECIDED);
    assert_non_null(strstr(a.detail, "provisional"));
    ok(fp_session_run(s));
    ok(fp_session_receipt(s, b.w, NULL, last, transcript));
    audit(&b, last, transcript, true, &a);
    assert_int_equal(a.full, FP_VERDICT_VALID_FULL);
    fp_session_destroy(s);
    fp__buf_free(&c.text);
    close_bench(&b);
}

/* ---- the window ---- */

static bool dies(void *arg)
{
    (void)arg;
    return false;
}

static void test_window(void **state)
{
    (void)state;
    for (size_t window = 1; window <= 3; window += 2) {
        bench b;
        client c = {0};
        open_bench(&b, window == 1 ? "window-1" : "window-3", FP_VALIDATE_HASH, false);
        b.engine->checks.window = window;
        fp__hasher_set_fault(b.engine->hasher, dies, NULL);
        fp_session *s = start(&b, FP_RELEASE_OPTIMISTIC, &c, NULL, 400);
        size_t active = 1, most = 0;
        while (active) {
            fp_validation_status v;
            ok(fp_engine_step(b.engine, &active));
            fp_engine_validation(b.engine, &v);
            most = v.unverified_pages > most ? v.unverified_pages : most;
        }
        assert_int_equal(most, window); /* reached, and not exceeded: whoever waits hashes */
        assert_has(&c, s);
        fp_session_destroy(s);
        fp__buf_free(&c.text);
        close_bench(&b);
    }
}

/* ---- withdrawn while text is held ---- */

static void test_held_and_revoked(void **state)
{
    (void)state;
    for (int release = FP_RELEASE_GATED; release <= FP_RELEASE_FINAL; release++) {
        bench b;
        client c = {0}, right = {0};
        fp_result r;
        fp_event_receipt event;
        char receipt[1024], transcript[1024];
        fp_audit_result a;
        open_bench(&b, release == FP_RELEASE_GATED ? "held" : "held-final", FP_VALIDATE_HASH, true);
        fp_session *s = start(&b, (fp_release)release, &right, NULL, 250);
        ok(fp_session_run(s));
        fp_session_destroy(s);
        s = start(&b, (fp_release)release, &c, NULL, 250);
        while (s->turns[s->answer.turn].count < 170)
            ok(fp_engine_step(b.engine, NULL));
        for (int round = 0; round < 3; round++) /* one under way may have begun before the pages were full */
            fp__validation_help(b.engine);
        ok(fp_engine_step(b.engine, NULL));
        size_t had = c.text.size;
        ok(fp_anchor_revoke(b.w, b.id[0], "wrong", &event));
        fails(fp_session_run(s), FP_DENIED, "revoke");
        fp_session_result(s, &r);
        assert_int_equal(r.finish, FP_FINISH_ANCHOR_REVOKED);
        assert_int_equal(c.text.size, had); /* what was held back never left */
        assert_int_equal(c.retractions, 0);
        assert_true(had == 0 || memcmp(c.text.data, right.text.data, had) == 0);
        if (release == FP_RELEASE_FINAL) {
            assert_int_equal(r.n_ids, 0);
        } else {
            if (had == 0 || r.n_ids >= 170 || r.text_size < had)
                fail_msg("had %zu, %zu ids, %zu bytes", had, r.n_ids, r.text_size);
            ok(fp_session_receipt(s, b.w, NULL, receipt, transcript));
            audit(&b, receipt, transcript, true, &a);
            if (a.full != FP_VERDICT_VALID_FULL)
                fail_msg("%s", a.detail);
        }
        fp_session_destroy(s);
        fp__buf_free(&c.text);
        fp__buf_free(&right.text);
        close_bench(&b);
    }
}

/* ---- names ---- */

static void test_names(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        fp_validation level;
        uint32_t share;
    } good[] = {{"hash", FP_VALIDATE_HASH, 0},
                {"scrub", FP_VALIDATE_SCRUB, 0},
                {"replay", FP_VALIDATE_REPLAY, 65536},
                {"replay:1", FP_VALIDATE_REPLAY, 65536},
                {"replay:0.25", FP_VALIDATE_REPLAY, 16384},
                {"replay:0.0000001", FP_VALIDATE_REPLAY, 1}};
    static const char *const bad[] = {"",          "none",     "replay:", "replay:0",    "replay:1.5",
                                      "replay:-1", "replay:x", "replays", "replay:0.5x", "replay:nan"};
    fp_validation level;
    uint32_t share;
    fp_release release;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        ok(fp_validation_parse(good[i].text, &level, &share));
        assert_true(level == good[i].level && share == good[i].share);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        fails(fp_validation_parse(bad[i], &level, &share), FP_USAGE, "wanted");
    ok(fp_release_parse("gated", &release));
    assert_int_equal(release, FP_RELEASE_GATED);
    fails(fp_release_parse("later", &release), FP_USAGE, "optimistic, gated or final");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),    cmocka_unit_test(test_releases),
        cmocka_unit_test(test_holds),    cmocka_unit_test(test_retraction),
        cmocka_unit_test(test_gives_up), cmocka_unit_test(test_provisional),
        cmocka_unit_test(test_window),   cmocka_unit_test(test_held_and_revoked),
    };
    return cmocka_run_group_tests(tests, el_set_up, el_tear_down);
}
