/* Anchors withdrawn while answers attend to them, labels from source to answer to memory, and what is made
 * from what. */
#include "anchor/keys.h"
#include "engine/receipt.h"
#include "engine_lab.h"
#include <time.h>

typedef struct bench {
    fp_model *model;
    fp_engine *engine;
    fp_workspace *w, *other; /* other: another process's handle */
    uint8_t id[1][32];
} bench;

static void open_bench(bench *b, const char *name)
{
    gw_model m = el_model_like("llama", 11);
    memset(b, 0, sizeof *b);
    b->model = el_open(&m);
    b->w = el_workspace(name);
    ok(fp_workspace_open(el_path(name), NULL, &b->other));
    fp_engine_options o = {.threads = 2, .max_sessions = 4, .chunk_tokens = 64};
    ok(fp_engine_create(b->model, &o, &b->engine));
    el_anchor(b->w, "rules", el_text1, FP_INJECT_COMPETE, 0, b->id[0]);
    ok(fp_anchors_compile(b->engine, b->w, (const uint8_t(*)[32])b->id, 1, NULL, NULL, NULL, NULL));
}

static void close_bench(bench *b)
{
    fp_engine_destroy(b->engine);
    fp_workspace_close(b->w);
    fp_workspace_close(b->other);
    fp_model_close(b->model);
}

static fp_anchors *load_watched(bench *b, bool watch)
{
    fp_anchors *anchors;
    fp_anchors_options o = {.watch = watch};
    ok(fp_anchors_load(b->engine, b->w, (const uint8_t(*)[32])b->id, 1, &o, &anchors, NULL));
    return anchors;
}

static fp_session *start(bench *b, fp_anchors *anchors, uint32_t tokens)
{
    fp_session *s;
    fp_session_options o = {.anchors = anchors, .raw = true};
    fp_generate_options g = {.max_tokens = tokens, .ignore_eog = true};
    fp_sampling_default(&g.sampling);
    ok(fp_session_create(b->engine, &o, &s));
    el_say(s, "when does it open?");
    ok(fp_session_begin(s, &g));
    return s;
}

static void step(bench *b, size_t n)
{
    for (size_t i = 0; i < n; i++)
        ok(fp_engine_step(b->engine, NULL));
}

static size_t n_ids(fp_session *s)
{
    fp_result r;
    fp_session_result(s, &r);
    return r.n_ids;
}

static fp_verdict audit(bench *b, fp_session *s, char *detail)
{
    char receipt[1024], transcript[1024];
    ok(fp_session_receipt(s, b->w, NULL, receipt, transcript));
    fp_audit_options o = {.receipt_path = receipt, .transcript_path = transcript, .model = b->model};
    fp_audit_result r;
    ok(fp_audit(b->w, &o, &r));
    strcpy(detail, r.detail);
    return r.full;
}

static void test_revoked_in_flight(void **state)
{
    (void)state;
    bench b;
    char detail[1024];
    open_bench(&b, "revoked");
    fp_anchors *anchors = load_watched(&b, true), *second;
    uint64_t began = fp__now_ns();
    fp_session *s = start(&b, anchors, 300);
    step(&b, 20);
    assert_true(n_ids(s) > 0);
    ok(fp_anchor_revoke(b.other, b.id[0], "wrong opening hours", NULL));
    size_t at_revocation = n_ids(s);
    fails(fp_session_run(s), FP_DENIED, "revoked");
    fp_result r;
    fp_session_result(s, &r);
    assert_int_equal(r.finish, FP_FINISH_ANCHOR_REVOKED);
    assert_string_equal(fp_finish_name(r.finish), "anchor_revoked");
    assert_true(r.n_ids >= at_revocation && r.n_ids <= at_revocation + FP__PAGE_TOKENS);
    if (fp__now_ns() - began < UINT64_C(1000000000)) /* else it may have passed the gate for the time */
        assert_int_equal(r.context_tokens % FP__PAGE_TOKENS, 0); /* a commit boundary */
    if (audit(&b, s, detail) != FP_VERDICT_VALID_FULL)
        fail_msg("%s", detail);
    /* nothing new */
    fp_generate_options g = {.max_tokens = 4};
    fp_sampling_default(&g.sampling);
    el_say(s, "and now?");
    fails(fp_session_begin(s, &g), FP_DENIED, "revoked");
    ok(fp_session_drop_messages(s));
    uint8_t id[32];
    fails(fp_session_remember(s, b.w, "memory", "1", id), FP_DENIED, "withdrawn");
    fails(fp_anchors_load(b.engine, b.w, (const uint8_t(*)[32])b.id, 1, NULL, &second, NULL), FP_DENIED,
          "revoked");
    /* without it, from the start: the same as if it had never been there */
    fp_session *without, *plain;
    ok(fp_session_without_anchors(s, b.w, &without));
    fp_session_options o = {.raw = true};
    ok(fp_session_create(b.engine, &o, &plain));
    el_say(plain, "when does it open?");
    ok(fp_session_begin(without, &g));
    ok(fp_session_begin(plain, &g));
    ok(fp_session_run(without));
    ok(fp_session_run(plain));
    uint8_t heads[2][32];
    ok(fp_session_kv_head(without, heads[0]));
    ok(fp_session_kv_head(plain, heads[1]));
    assert_memory_equal(heads[0], heads[1], 32);
    fp_session_destroy(plain);
    fp_session_destroy(without);
    fp_session_destroy(s);
    fp_anchors_release(anchors);
    close_bench(&b);
}

/* An answer whose caller waited passes the gate before its next token. */
static void test_stalled(void **state)
{
    (void)state;
    bench b;
    char detail[1024];
    open_bench(&b, "stalled");
    fp_anchors *anchors = load_watched(&b, true);
    fp_session *s = start(&b, anchors, 60); /* ends within a page: no boundary comes */
    step(&b, 5);
    size_t before = n_ids(s);
    assert_true(before > 0);
    ok(fp_anchor_revoke(b.other, b.id[0], "", NULL));
    nanosleep(&(struct timespec){.tv_sec = 1, .tv_nsec = 100000000}, NULL);
    fails(fp_session_run(s), FP_DENIED, "revoked");
    assert_int_equal(n_ids(s), before);
    if (audit(&b, s, detail) != FP_VERDICT_VALID_FULL)
        fail_msg("%s", detail);
    fp_session_destroy(s);
    fp_anchors_release(anchors);
    close_bench(&b);
}

/* Without watching, what was let in is served to its end, and its receipt tells. */
static void test_unwatched_is_found_by_the_audit(void **state)
{
    (void)state;
    bench b;
    char detail[1024];
    open_bench(&b, "unwatched");
    fp_anchors *anchors = load_watched(&b, false);
    fp_session *s = start(&b, anchors, 80);
    step(&b, 5);
    ok(fp_anchor_revoke(b.other, b.id[0], "", NULL));
    ok(fp_session_run(s));
    assert_int_equal(audit(&b, s, detail), FP_VERDICT_UNDECIDED); /* not even begun: light says INVALID */
    assert_non_null(strstr(detail, "revoked"));
    fp_session_destroy(s);
    fp_anchors_release(anchors);
    close_bench(&b);
}

/* A running turn ends by itself, new ones are denied, and its receipt stays valid for ever. */
static void test_superseded_in_flight(void **state)
{
    (void)state;
    bench b;
    char detail[1024];
    uint8_t next[32];
    open_bench(&b, "superseded");
    fp_anchors *anchors = load_watched(&b, true);
    el_anchor(b.other, "rules2", el_text2, FP_INJECT_COMPETE, 0, next);
    fp_session *s = start(&b, anchors, 150);
    step(&b, 10);
    ok(fp_anchor_supersede(b.other, b.id[0], next, "new hours", NULL));
    ok(fp_session_run(s));
    fp_result r;
    fp_session_result(s, &r);
    assert_int_equal(r.finish, FP_FINISH_LENGTH);
    assert_int_equal(r.n_ids, 150);
    if (audit(&b, s, detail) != FP_VERDICT_VALID_FULL)
        fail_msg("%s", detail);
    char receipt[1024];
    uint8_t id[32];
    ok(fp_session_receipt(s, b.w, id, receipt, NULL));
    ok(fp_anchor_revoke(b.other, b.id[0], "and revoked at last", NULL));
    fp_audit_options o = {.receipt_path = receipt};
    fp_audit_result a;
    ok(fp_audit(b.w, &o, &a));
    if (a.light != FP_VERDICT_VALID_LIGHT)
        fail_msg("%s", a.detail);
    fp_generate_options g = {.max_tokens = 4};
    fp_sampling_default(&g.sampling);
    el_say(s, "and now?");
    fails(fp_session_begin(s, &g), FP_DENIED, "superseded");
    fp_session_destroy(s);
    fp_anchors_release(anchors);
    close_bench(&b);
}

/* ---- Overrides while an answer is being made ---- */

/* A workspace in which ada and bea together may override, its twin that writes the override files, and the
 * log of the first out of reach: what is used there is held, not logged. */
static void open_override_bench(bench *b, const char *name, fp_workspace **twin)
{
    char command[600], copy[64], log_key[300], away[300];
    gw_model m = el_model_like("llama", 11);
    memset(b, 0, sizeof *b);
    b->model = el_open(&m);
    ok(fp_keys_generate(el_path(name), "ada", 0));
    ok(fp_keys_generate(el_path(name), "ada", 1u << FP_PURPOSE_OVERRIDE));
    ok(fp_keys_generate(el_path(name), "bea", 1u << FP_PURPOSE_OVERRIDE));
    ok(fp_policy_create(el_path(name), NULL));
    ok(fp_ledger_init(el_path(name)));
    ok(fp_workspace_open(el_path(name), NULL, &b->w));
    fp_engine_options o = {.threads = 2, .max_sessions = 4, .chunk_tokens = 64};
    ok(fp_engine_create(b->model, &o, &b->engine));
    el_anchor(b->w, "rules", el_text1, FP_INJECT_COMPETE, 0, b->id[0]);
    ok(fp_anchors_compile(b->engine, b->w, (const uint8_t(*)[32])b->id, 1, NULL, NULL, NULL, NULL));
    snprintf(copy, sizeof copy, "%s-twin", name);
    snprintf(command, sizeof command, "cp -r '%s' '%s'", el_path(name), el_path(copy));
    assert_int_equal(system(command), 0);
    ok(fp_workspace_open(el_path(copy), NULL, twin));
    snprintf(log_key, sizeof log_key, "%s/keys/ada/log.pem", el_path(name));
    snprintf(away, sizeof away, "%s/log.away", el_path(name));
    assert_int_equal(rename(log_key, away), 0);
}

static void log_is_back(const char *name)
{
    char log_key[300], away[300];
    snprintf(log_key, sizeof log_key, "%s/keys/ada/log.pem", el_path(name));
    snprintf(away, sizeof away, "%s/log.away", el_path(name));
    assert_int_equal(rename(away, log_key), 0);
}

/* The twin's people sign an override; it is used here as a file. */
static void use_override(bench *b, fp_workspace *twin, bool halt, uint64_t seconds, uint8_t id[32])
{
    uint64_t now = (uint64_t)time(NULL);
    fp_override o = {.halt = halt, .valid_from = now - 1, .valid_until = now + seconds, .why = "incident"};
    fp_event_receipt receipt;
    fp_override_info info;
    uint8_t *file;
    size_t size;
    bool logged = true;
    ok(fp_event_override(twin, &o, &receipt));
    assert_true(receipt.appended);
    ok(fp_override_export(twin, receipt.event_id, &file, &size));
    ok(fp_override_use(b->w, file, size, &info, &logged));
    assert_false(logged);
    memcpy(id, receipt.event_id, 32);
    fp_bytes_free(file);
}

static size_t overrides_of(fp_session *s, fp_workspace *w, uint8_t ids[][32])
{
    char path[1024];
    fp__buf bytes = {0};
    fp__dsse dsse = {0};
    fp__receipt r = {0};
    ok(fp_session_receipt(s, w, NULL, path, NULL));
    el_read(path, &bytes);
    ok(fp__dsse_parse(bytes.data, bytes.size, &dsse));
    ok(fp__receipt_parse(dsse.payload.data, dsse.payload.size, &r));
    memcpy(ids, r.override_ids, r.overrides * 32);
    size_t n = r.overrides;
    fp__receipt_free(&r);
    fp__dsse_free(&dsse);
    fp__buf_free(&bytes);
    return n;
}

/* A halt from a file stops the answer at the next commit boundary, not a second later; a second override does
 * not lift it. The log comes back: both go in before the receipt, which names both and passes the audit. */
static void test_halt_file_in_flight(void **state)
{
    (void)state;
    bench b;
    fp_workspace *twin;
    char detail[1024];
    uint8_t halt[32], bypass[32], named[16][32];
    open_override_bench(&b, "halted", &twin);
    fp_anchors *anchors = load_watched(&b, true);
    fp_session *s = start(&b, anchors, 300);
    step(&b, 20);
    uint64_t second = (uint64_t)time(NULL);
    while ((uint64_t)time(NULL) == second) { /* all that follows lies within one second of the clock */
    }
    step(&b, FP__PAGE_TOKENS); /* a boundary: the gate's verdict is fresh */
    use_override(&b, twin, true, 3600, halt);
    use_override(&b, twin, false, 3600, bypass);
    size_t then = n_ids(s);
    fails(fp_session_run(s), FP_DENIED, "overridden");
    fp_result r;
    fp_session_result(s, &r);
    assert_int_equal(r.finish, FP_FINISH_ANCHOR_REVOKED);
    assert_true(r.n_ids >= then && r.n_ids <= then + FP__PAGE_TOKENS);
    log_is_back("halted");
    assert_int_equal(overrides_of(s, b.w, named), 2);
    assert_memory_equal(named[0], halt, 32);
    assert_memory_equal(named[1], bypass, 32);
    if (audit(&b, s, detail) != FP_VERDICT_VALID_FULL)
        fail_msg("%s", detail);
    fp_session_destroy(s);
    fp_anchors_release(anchors);
    fp_workspace_close(twin);
    close_bench(&b);
}

/* A bypass that let the anchors in stays in the receipt after it has ended. */
static void test_used_override_stays_named(void **state)
{
    (void)state;
    bench b;
    fp_workspace *twin;
    char detail[1024];
    uint8_t next[32], bypass[32], named[16][32];
    fp_generate_options g = {.max_tokens = 100, .ignore_eog = true};
    fp_sampling_default(&g.sampling);
    open_override_bench(&b, "bypassed", &twin);
    log_is_back("bypassed");
    fp_anchors *anchors = load_watched(&b, true);
    el_anchor(b.w, "rules2", el_text2, FP_INJECT_COMPETE, 0, next);
    ok(fp_anchor_supersede(b.w, b.id[0], next, "", NULL));
    fp_session *s;
    fp_session_options o = {.anchors = anchors, .raw = true};
    ok(fp_session_create(b.engine, &o, &s));
    el_say(s, "when does it open?");
    fails(fp_session_begin(s, &g), FP_DENIED, "superseded");
    uint64_t now = (uint64_t)time(NULL);
    fp_override request = {.valid_from = now - 1, .valid_until = now + 2, .why = "incident"};
    fp_event_receipt receipt;
    ok(fp_event_override(b.w, &request, &receipt));
    memcpy(bypass, receipt.event_id, 32);
    ok(fp_session_begin(s, &g));
    step(&b, 3);
    while ((uint64_t)time(NULL) < now + 2)
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    ok(fp_session_run(s)); /* superseding ends no turn that has begun */
    assert_int_equal(overrides_of(s, b.w, named), 1);
    assert_memory_equal(named[0], bypass, 32);
    if (audit(&b, s, detail) != FP_VERDICT_VALID_FULL)
        fail_msg("%s", detail);
    /* the next answer is let in by nothing */
    el_say(s, "and now?");
    fails(fp_session_begin(s, &g), FP_DENIED, "superseded");
    fp_session_destroy(s);
    fp_anchors_release(anchors);
    fp_workspace_close(twin);
    close_bench(&b);
}

/* What is denied to a new answer (superseded) is not denied to one that runs, also within the same second. */
static void test_denied_begin_stops_no_other(void **state)
{
    (void)state;
    bench b;
    uint8_t next[32];
    open_bench(&b, "beside");
    fp_anchors *anchors = load_watched(&b, true);
    el_anchor(b.other, "rules2", el_text2, FP_INJECT_COMPETE, 0, next);
    fp_session *s = start(&b, anchors, 200), *second;
    step(&b, 10);
    ok(fp_anchor_supersede(b.other, b.id[0], next, "new hours", NULL));
    fp_session_options o = {.anchors = anchors, .raw = true};
    fp_generate_options g = {.max_tokens = 4};
    fp_sampling_default(&g.sampling);
    ok(fp_session_create(b.engine, &o, &second));
    el_say(second, "hello");
    for (size_t i = 0; i < 18; i++) {
        fails(fp_session_begin(second, &g), FP_DENIED, "superseded");
        step(&b, 10);
    }
    ok(fp_session_run(s));
    fp_result r;
    fp_session_result(s, &r);
    assert_int_equal(r.finish, FP_FINISH_LENGTH);
    fp_session_destroy(second);
    fp_session_destroy(s);
    fp_anchors_release(anchors);
    close_bench(&b);
}

/* Validity that ends between the last look at the gate and the receipt: the answer was made in time. */
static void test_expired_after_the_answer(void **state)
{
    (void)state;
    bench b;
    char detail[1024];
    fp_statement st;
    open_bench(&b, "ended");
    uint64_t until = (uint64_t)time(NULL) + 3;
    fp_statement_default(&st);
    st.valid_until = until;
    ok(fp_anchor_add(b.w, el_text2, strlen(el_text2), &st, b.id[0]));
    ok(fp_anchors_compile(b.engine, b.w, (const uint8_t(*)[32])b.id, 1, NULL, NULL, NULL, NULL));
    fp_anchors *anchors = load_watched(&b, true);
    fp_session *s = start(&b, anchors, 20), *late;
    ok(fp_session_run(s));
    assert_true((uint64_t)time(NULL) < until); /* a machine that is this slow tells nothing */
    late = start(&b, anchors, 100);
    step(&b, 5);
    while ((uint64_t)time(NULL) < until)
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
    if (audit(&b, s, detail) != FP_VERDICT_VALID_FULL)
        fail_msg("%s", detail);
    fails(fp_session_run(late), FP_DENIED, "expired");
    if (audit(&b, late, detail) != FP_VERDICT_VALID_FULL)
        fail_msg("%s", detail);
    fp_session_destroy(late);
    fp_session_destroy(s);
    fp_anchors_release(anchors);
    close_bench(&b);
}

/* ---- A log that must be witnessed ---- */

/* What the witness would have put under the published checkpoint. */
static void cosign(bench *b, const fp__ed25519_key *witness, uint64_t seconds)
{
    fp__buf lines = {0}, dir = {0};
    bool remote;
    fp__ledger_writer *writer = NULL;
    fp__ledger_head head;
    fp__note parsed;
    fp_key *log_key;
    ok(fp_workspace_sync(b->w));
    const fp__buf *note = fp__ledger_reader_note(b->w->reader);
    fp__ledger_reader_head(b->w->reader, &head);
    ok(fp__note_parse(note->data, note->size, &parsed));
    ok(fp__note_cosign(parsed.text, parsed.text_size, "witness.example", witness, seconds, &lines));
    ok(fp_workspace_key(b->w, FP_PURPOSE_LOG, &log_key));
    ok(fp__workspace_log_place(b->w->path, &dir, &remote));
    ok(fp__ledger_writer_open((const char *)dir.data, b->w->trust.origin, fp__key_ed25519(log_key), &writer));
    ok(fp__ledger_writer_cosign(writer, &head, lines.data, lines.size));
    fp__ledger_writer_close(writer);
    fp__note_free(&parsed);
    fp__buf_free(&lines);
    fp__buf_free(&dir);
    fp_key_free(log_key);
}

static void open_witnessed_bench(bench *b, const char *name, fp__ed25519_key **witness)
{
    fp__note_key note_key;
    fp__buf text = {0};
    char path[300];
    gw_model m = el_model_like("llama", 11);
    memset(b, 0, sizeof *b);
    b->model = el_open(&m);
    ok(fp__ed25519_from_seed((const uint8_t[32]){7}, witness));
    ok(fp__note_key_make("witness.example", FP__NOTE_COSIGNATURE, fp__ed25519_public(*witness), &note_key));
    ok(fp__buf_append_text(&text, "witness w "));
    ok(fp__note_key_format(&note_key, &text));
    ok(fp__buf_append_text(&text, "\ngroup all 1 w\nquorum all\n"));
    snprintf(path, sizeof path, "%s", el_path("witness.policy"));
    el_write(path, &text);
    fp__buf_free(&text);
    ok(fp_keys_generate(el_path(name), NULL, 0));
    fails(fp_policy_create(el_path(name), &(fp_policy_options){.freshness_seconds = 9}), FP_USAGE,
          "told by witnesses");
    ok(fp_policy_create(el_path(name),
                        &(fp_policy_options){.witness_policy_path = path, .freshness_seconds = 600}));
    ok(fp_ledger_init(el_path(name)));
    snprintf(path, sizeof path, "%s/witness.policy", el_path(name));
    assert_int_equal(unlink(path), 0); /* nobody is asked: the test signs */
    ok(fp_workspace_open(el_path(name), NULL, &b->w));
    fp_engine_options o = {.threads = 2, .max_sessions = 4, .chunk_tokens = 64};
    ok(fp_engine_create(b->model, &o, &b->engine));
}

/* The gate asks for fresh cosignatures; an audit for those of the log at hand, whenever they were given. */
static void test_witnessed(void **state)
{
    (void)state;
    bench b;
    fp__ed25519_key *witness;
    fp_anchors *anchors;
    char detail[1024];
    uint64_t now = (uint64_t)time(NULL);
    open_witnessed_bench(&b, "witnessed", &witness);
    assert_int_equal(b.w->trust.witnesses.threshold, 1);
    el_anchor(b.w, "rules", el_text1, FP_INJECT_COMPETE, 0, b.id[0]);
    fails(fp_anchors_compile(b.engine, b.w, (const uint8_t(*)[32])b.id, 1, NULL, NULL, NULL, NULL), FP_DENIED,
          "stale-checkpoint");
    cosign(&b, witness, now);
    ok(fp_anchors_compile(b.engine, b.w, (const uint8_t(*)[32])b.id, 1, NULL, NULL, NULL, NULL));
    fails(fp_anchors_load(b.engine, b.w, (const uint8_t(*)[32])b.id, 1, NULL, &anchors, NULL), FP_DENIED,
          "stale-checkpoint");
    cosign(&b, witness, now - 601);
    fails(fp_anchors_load(b.engine, b.w, (const uint8_t(*)[32])b.id, 1, NULL, &anchors, NULL), FP_DENIED,
          "stale-checkpoint");
    cosign(&b, witness, now);
    anchors = load_watched(&b, true);
    fp_session *s = start(&b, anchors, 100), *stopped;
    ok(fp_session_run(s));
    stopped = start(&b, anchors, 100);
    uint8_t other[32]; /* the log grows, and its new checkpoint is not cosigned: the next boundary stops */
    fp_statement st;
    fp_statement_default(&st);
    ok(fp_anchor_add(b.w, "another", 7, &st, other));
    fails(fp_session_run(stopped), FP_DENIED, "stale-checkpoint");
    assert_int_equal(audit(&b, s, detail), FP_VERDICT_UNDECIDED);
    if (strstr(detail, "not witnessed") == NULL)
        fail_msg("%s", detail);
    char paths[2][2][1024];
    for (int i = 0; i < 2; i++)
        ok(fp_session_receipt(i == 0 ? s : stopped, b.w, NULL, paths[i][0], paths[i][1]));
    cosign(&b, witness, now - 100000); /* long ago: it tells that the history is one */
    for (int i = 0; i < 2; i++) {
        fp_audit_options o = {.receipt_path = paths[i][0], .transcript_path = paths[i][1], .model = b.model};
        fp_audit_result r;
        ok(fp_audit(b.w, &o, &r));
        if (r.full != FP_VERDICT_VALID_FULL || !r.witnessed)
            fail_msg("%d: %s", i, r.detail);
    }
    fp_session_destroy(stopped);
    fp_session_destroy(s);
    fp_anchors_release(anchors);
    fp__ed25519_free(witness);
    close_bench(&b);
}

/* A receipt that claims a withdrawal which the log does not know is refused. */
static void test_claimed_withdrawal(void **state)
{
    (void)state;
    bench b;
    char detail[1024];
    open_bench(&b, "claimed");
    fp_anchors *anchors = load_watched(&b, true);
    fp_session *s = start(&b, anchors, 8);
    ok(fp_session_run(s));
    s->answer.finish = FP_FINISH_ANCHOR_REVOKED;
    assert_int_equal(audit(&b, s, detail), FP_VERDICT_UNDECIDED);
    assert_non_null(strstr(detail, "claims to have been stopped"));
    fp_session_destroy(s);
    fp_anchors_release(anchors);
    close_bench(&b);
}

/* ---- Labels ---- */

static fp_label answer(fp_session *s)
{
    fp_generate_options g = {.max_tokens = 6, .ignore_eog = true};
    fp_sampling_default(&g.sampling);
    fp_result r;
    fp_label before = fp_session_label(s);
    ok(fp_session_begin(s, &g));
    ok(fp_session_run(s));
    fp_session_result(s, &r);
    assert_int_equal(r.label, before);
    return r.label;
}

static void test_sources(void **state)
{
    (void)state;
    static const char page[] = "a page from the web";
    bench b;
    char detail[1024];
    fp_session *s, *t;
    fp_source source;
    open_bench(&b, "sources");
    fp_anchors *anchors = load_watched(&b, true);
    fp_session_options o = {.anchors = anchors, .raw = true};
    ok(fp_session_create(b.engine, &o, &s));
    el_say(s, "hello");
    assert_int_equal(answer(s), FP_LABEL_USER); /* beside a core anchor */
    ok(fp_session_add_text(s, FP_ROLE_USER, FP_SOURCE_RETRIEVED, NULL, page, strlen(page)));
    assert_int_equal(fp_session_label(s), FP_LABEL_EXTERNAL);
    ok(fp_session_drop_messages(s)); /* never attended to */
    assert_int_equal(fp_session_label(s), FP_LABEL_USER);
    ok(fp_session_add_text(s, FP_ROLE_USER, FP_SOURCE_TOOL, b.w, page, strlen(page)));
    assert_int_equal(answer(s), FP_LABEL_EXTERNAL);
    el_say(s, "thank you");
    assert_int_equal(answer(s), FP_LABEL_EXTERNAL); /* for ever */
    if (audit(&b, s, detail) != FP_VERDICT_VALID_FULL)
        fail_msg("%s", detail);
    /* a saved session is no way out */
    ok(fp_session_save(s, b.w, el_path("session")));
    ok(fp_session_load(b.engine, b.w, el_path("session"), &o, &t));
    assert_int_equal(fp_session_label(t), FP_LABEL_EXTERNAL);
    fp_session_destroy(t);
    fp_session_destroy(s);
    /* an endorsement of this text, and of no other, is one */
    uint8_t digest[32];
    fp__sha256(page, strlen(page), digest);
    ok(fp_event_endorse(b.other, digest, FP_LABEL_CORE, 0, 0, "read by two of us", NULL));
    ok(fp_session_create(b.engine, &o, &s));
    ok(fp_session_add_text(s, FP_ROLE_USER, FP_SOURCE_RETRIEVED, b.w, page, strlen(page)));
    assert_int_equal(fp_session_label(s), FP_LABEL_USER); /* never core */
    ok(fp_session_add_text(s, FP_ROLE_USER, FP_SOURCE_RETRIEVED, b.w, page, strlen(page) - 1));
    assert_int_equal(fp_session_label(s), FP_LABEL_EXTERNAL);
    fp_session_destroy(s);
    ok(fp_source_parse("tool", &source));
    assert_int_equal(source, FP_SOURCE_TOOL);
    fails(fp_source_parse("web", &source), FP_USAGE, "retrieved");
    fp_anchors_release(anchors);
    close_bench(&b);
}

static void promote(bench *b, const uint8_t id[32])
{
    ok(fp_anchor_sign(b->w, id, NULL, NULL));
    ok(fp_anchor_register(b->w, id, NULL));
    ok(fp_anchor_promote(b->w, id, NULL));
}

static void wants(bench *b, const uint8_t id[32], const char *reader, fp_gate_reason reason)
{
    fp_gate_query q = {.anchor_ids = (const uint8_t(*)[32])id,
                       .anchors = 1,
                       .for_compile = true,
                       .reader = reader,
                       .model_digest = b->model->digest,
                       .arithmetic_version = FP__ARITHMETIC_VERSION};
    fp_gate_result r;
    fp_status status = fp_gate_check(b->w, &q, &r);
    if (r.reason != reason || (status == FP_OK) != (reason == FP_GATE_ALLOW))
        fail_msg("%s (%s) where %s is wanted", fp_gate_reason_name(r.reason), r.detail,
                 fp_gate_reason_name(reason));
}

static void test_memory(void **state)
{
    (void)state;
    bench b;
    fp_session *s;
    fp_statement st;
    uint8_t memory[32], second[32], core[32], receipt[32];
    open_bench(&b, "memory");
    fp_anchors *anchors = load_watched(&b, true);
    fp_session_options o = {.anchors = anchors, .raw = true, .tenant = "acme"};
    ok(fp_session_create(b.engine, &o, &s));
    fails(fp_session_remember(s, b.w, "m", "1", memory), FP_USAGE, "no finished answer");
    ok(fp_session_add_text(s, FP_ROLE_USER, FP_SOURCE_TOOL, NULL, "output", 6));
    assert_int_equal(answer(s), FP_LABEL_EXTERNAL);
    ok(fp_session_receipt(s, b.w, receipt, NULL, NULL));
    ok(fp_session_remember(s, b.w, "m", "1", memory));
    ok(fp_anchor_show(b.w, memory, NULL, &st));
    assert_int_equal(st.type, FP_LABEL_EXTERNAL);
    assert_int_equal(st.readers_count, 1);
    assert_string_equal(st.readers[0], "acme");
    assert_int_equal(st.lineage_count, 2);
    assert_int_equal(st.lineage[0].kind, FP_LINEAGE_ANCHOR);
    assert_memory_equal(st.lineage[0].id, b.id[0], 32);
    assert_int_equal(st.lineage[1].kind, FP_LINEAGE_RECEIPT);
    assert_memory_equal(st.lineage[1].id, receipt, 32);
    promote(&b, memory);
    wants(&b, memory, "acme", FP_GATE_ALLOW);
    wants(&b, memory, "bolt", FP_GATE_READER_NOT_ALLOWED);
    /* the same document as something higher: by itself, or as made from the memory */
    uint8_t *document;
    size_t size;
    ok(fp_anchor_document(b.w, memory, &document, &size));
    fp_statement up;
    fp_statement_default(&up);
    up.type = FP_LABEL_CORE;
    fails(fp_anchor_create(b.w, document, size, &up, core), FP_DENIED, "label-too-low");
    up.lineage_count = 1;
    up.lineage[0].kind = FP_LINEAGE_ANCHOR;
    memcpy(up.lineage[0].id, memory, 32);
    strcpy(up.readers[0], "bolt");
    ok(fp_anchor_create(b.w, "made from it", 12, &up, core));
    promote(&b, core);
    wants(&b, core, NULL, FP_GATE_LABEL_TOO_LOW);
    uint8_t digest[32];
    fp__sha256("made from it", 12, digest);
    ok(fp_event_endorse(b.w, digest, FP_LABEL_USER, 0, 0, "", NULL));
    wants(&b, core, NULL, FP_GATE_LABEL_TOO_LOW); /* core it is not */
    ok(fp_event_endorse(b.w, digest, FP_LABEL_CORE, 0, 0, "", NULL));
    wants(&b, core, NULL, FP_GATE_ALLOW);
    wants(&b, core, "bolt", FP_GATE_READER_NOT_ALLOWED); /* its source is for acme only */
    fp__sha256(document, size, digest);
    ok(fp_event_endorse(b.w, digest, FP_LABEL_CORE, 0, 0, "", NULL));
    fp_statement_default(&up);
    up.type = FP_LABEL_CORE;
    ok(fp_anchor_create(b.w, document, size, &up, second));
    fp_bytes_free(document);
    /* a retracted answer takes the memory with it, and a revoked anchor what was made from it */
    ok(fp_event_retract(b.w, receipt, "wrong", NULL));
    wants(&b, memory, "acme", FP_GATE_REVOKED);
    wants(&b, core, NULL, FP_GATE_REVOKED);
    fp_session_destroy(s);
    fp_anchors_release(anchors);
    close_bench(&b);
}

static void test_revoked_source(void **state)
{
    (void)state;
    bench b;
    fp_statement st;
    uint8_t chain[3][32];
    open_bench(&b, "source");
    for (size_t i = 0; i < 3; i++) { /* each made from the one before */
        char text[16];
        fp_statement_default(&st);
        st.lineage_count = 1;
        st.lineage[0].kind = FP_LINEAGE_ANCHOR;
        memcpy(st.lineage[0].id, i == 0 ? b.id[0] : chain[i - 1], 32);
        snprintf(text, sizeof text, "memory %zu", i);
        ok(fp_anchor_create(b.w, text, strlen(text), &st, chain[i]));
        promote(&b, chain[i]);
        wants(&b, chain[i], NULL, FP_GATE_ALLOW);
    }
    fp__buf path = {0};
    ok(fp__workspace_id_path(b.w, "anchors", chain[0], ".dsse.json", &path));
    char away[300];
    snprintf(away, sizeof away, "%s.away", (const char *)path.data);
    assert_int_equal(rename((const char *)path.data, away), 0);
    wants(&b, chain[2], NULL, FP_GATE_MISSING_STATEMENT);
    assert_int_equal(rename(away, (const char *)path.data), 0);
    fp__buf_free(&path);
    ok(fp_anchor_revoke(b.w, b.id[0], "", NULL));
    for (size_t i = 0; i < 3; i++)
        wants(&b, chain[i], NULL, FP_GATE_REVOKED);
    close_bench(&b);
}

/* ---- No sequence of operations without an endorsement raises a label ---- */

typedef struct item {
    uint8_t id[1][32];
    fp_label truth; /* lowest of all that it was made from */
} item;

static uint64_t roll(uint64_t *seed)
{
    *seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return *seed >> 33;
}

/* Remembers the answer and takes the memory as far as it goes; true if it became an anchor. */
static bool remember(bench *b, fp_session *s, fp_label truth, uint64_t *seed, item *out)
{
    char version[24];
    snprintf(version, sizeof version, "%u", (unsigned)roll(seed));
    fp_statement st;
    fp_status status = fp_session_remember(s, b->w, "memory", version, out->id[0]);
    if (status != FP_OK)
        return false; /* no text, or this text is known as something lower */
    ok(fp_anchor_show(b->w, out->id[0], NULL, &st));
    assert_true(st.type <= truth);
    uint8_t *document, up_id[32];
    size_t size;
    ok(fp_anchor_document(b->w, out->id[0], &document, &size));
    for (fp_label up = FP_LABEL_USER; up < FP_LABEL_COUNT; up++) {
        fp_statement higher = st;
        higher.type = up;
        higher.lineage_count = roll(seed) % 2 ? st.lineage_count : 0;
        if (up > st.type)
            assert_int_equal(fp_anchor_create(b->w, document, size, &higher, up_id), FP_DENIED);
    }
    fp_bytes_free(document);
    promote(b, out->id[0]);
    out->truth = truth;
    return fp_anchors_compile(b->engine, b->w, (const uint8_t(*)[32])out->id, 1, NULL, NULL, NULL, NULL) ==
           FP_OK;
}

static void test_no_label_rises(void **state)
{
    (void)state;
    enum { ITEMS = 12, ROUNDS = EL_SANITIZED ? 12 : 40 };
    static const fp_label of_source[] = {FP_LABEL_USER, FP_LABEL_USER, FP_LABEL_EXTERNAL, FP_LABEL_EXTERNAL};
    bench b;
    item items[ITEMS];
    size_t n = 1;
    uint64_t seed = 4;
    open_bench(&b, "rises");
    memcpy(items[0].id, b.id, 32);
    items[0].truth = FP_LABEL_CORE;
    for (size_t round = 0; round < ROUNDS; round++) {
        const item *from = &items[roll(&seed) % n];
        fp_anchors *anchors = NULL;
        fp_session *s;
        bool with = roll(&seed) % 4 != 0;
        fp_label truth = with ? from->truth : FP_LABEL_USER;
        if (with)
            ok(fp_anchors_load(b.engine, b.w, from->id, 1, NULL, &anchors, NULL));
        fp_session_options o = {.anchors = anchors, .raw = true};
        ok(fp_session_create(b.engine, &o, &s));
        for (size_t turn = 0; turn < 1 + roll(&seed) % 3; turn++) {
            for (size_t k = 0; k < 1 + roll(&seed) % 2; k++) {
                fp_source source = (fp_source)(roll(&seed) % 8 < 6 ? roll(&seed) % 2 : 2 + roll(&seed) % 2);
                char text[32];
                int size = snprintf(text, sizeof text, "text %u", (unsigned)roll(&seed) % 1000);
                ok(fp_session_add_text(s, FP_ROLE_USER, source, b.w, text, (size_t)size));
                truth = of_source[source] < truth ? of_source[source] : truth;
            }
            fp_label label = answer(s);
            assert_true(label <= truth && label <= FP_LABEL_USER);
        }
        truth = truth < FP_LABEL_USER ? truth : FP_LABEL_USER;
        item made;
        if (remember(&b, s, truth, &seed, &made) && n < ITEMS)
            items[n++] = made;
        fp_session_destroy(s);
        fp_anchors_release(anchors);
    }
    size_t external = 0;
    for (size_t i = 0; i < n; i++)
        external += items[i].truth == FP_LABEL_EXTERNAL;
    assert_true(n > 4 && external > 0); /* the sequences did something */
    close_bench(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_revoked_in_flight),
        cmocka_unit_test(test_stalled),
        cmocka_unit_test(test_unwatched_is_found_by_the_audit),
        cmocka_unit_test(test_superseded_in_flight),
        cmocka_unit_test(test_halt_file_in_flight),
        cmocka_unit_test(test_used_override_stays_named),
        cmocka_unit_test(test_denied_begin_stops_no_other),
        cmocka_unit_test(test_expired_after_the_answer),
        cmocka_unit_test(test_witnessed),
        cmocka_unit_test(test_claimed_withdrawal),
        cmocka_unit_test(test_sources),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_revoked_source),
        cmocka_unit_test(test_no_label_rises),
    };
    return cmocka_run_group_tests(tests, el_set_up, el_tear_down);
}
