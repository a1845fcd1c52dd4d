/* Audits: every honest receipt is VALID, however it is audited, and everything else is found, with its
 * reason.
 *
 * Called with --audit FOLDER it is a child of itself: it audits the receipts listed in FOLDER with its kernel
 * table. test_audit --honest N [MODEL.gguf] makes N receipts over all settings and audits them: one JSON
 * object. */
#include "audit_lab.h"
#include <sys/wait.h>

enum { HONEST = EL_SANITIZED ? 24 : 48 };
static int cancel_later(void *context, const char *text, size_t size)
{
    (void)text;
    size_t *left = context;
    *left = *left > size ? *left - size : 0;
    return *left == 0;
}

/* One conversation, everything about it chosen by `how`, and its receipt. */
static void converse(size_t how, fp_session *s)
{
    static const char *const stops[] = {"e", "\xef\xbf\xbd"};
    size_t left = 6 + how;
    fp_generate_options o = {.max_tokens = 12 + (uint32_t)how % 5};
    fp_sampling *p = &o.sampling;
    *p = el_sampling(how % 3 == 0 ? 0 : how % 3 == 1 ? 0.9f : 20.0f, how);
    p->top_k = how % 4 == 1 ? 20 : 0;
    p->top_p = how % 4 == 2 ? 0.9f : 1;
    p->min_p = how % 8 == 5 ? 0.02f : 0;
    p->repeat_penalty = how % 5 == 1 ? 1.3f : 1;
    p->frequency_penalty = how % 5 == 2 ? 0.5f : 0;
    p->presence_penalty = how % 5 == 3 ? 0.5f : 0;
    p->repeat_last_n = how % 5 == 1 ? 16 : 0;
    if (how % 6 == 4) {
        o.stops = stops;
        o.n_stops = 2;
    }
    o.ignore_eog = how % 7 == 6;
    if (how % 6 == 5) {
        o.on_text = cancel_later;
        o.on_text_context = &left;
        o.max_tokens = 60;
    }
    bool fill = how % 75 == 24; /* until the context is full */
    for (size_t i = 0; fill && i < 4 && !s->raw; i++)
        el_say(s, hello);
    if (fill)
        o.max_tokens = 0;
    o.ignore_eog = o.ignore_eog || fill;
    for (size_t turn = 0; turn <= how % 3; turn++) {
        if (turn == 1 && !s->raw)
            ok(fp_session_add_message(s, FP_ROLE_SYSTEM, "Be brief.", 9));
        el_say(s, turn == 0 ? hello : "And who is the cat?");
        ok(fp_session_begin(s, &o));
        fp_status status = fp_session_run(s);
        assert_true(status == FP_OK || status == FP_CANCELLED);
        p->seed += 1000;
    }
}

static void session_for(size_t how, fp_session **out)
{
    static const uint8_t nonce[32] = {9, 8, 7};
    fp_session_options so = {
        .anchors = st.sets[how % 4], .raw = how % 8 == 3, .nonce = how % 2 ? nonce : NULL};
    so.tenant = how % 5 == 0 ? "acme" : NULL;
    ok(fp_session_create(st.e, &so, out));
}

/* ---- honest ---- */

static void test_honest(void **state)
{
    (void)state;
    static const fp_engine_options engines[4] = {{.threads = 1},
                                                 {.threads = 2, .chunk_tokens = 7},
                                                 {.threads = 3, .hash_threads = SIZE_MAX},
                                                 {.threads = 2, .chunk_tokens = 64}};
    fp__buf list = {0};
    for (size_t how = 0; how < HONEST; how++) {
        fp_session *s;
        char receipt[PATHS], transcript[PATHS], name[32];
        snprintf(name, sizeof name, "conversation %zu", how);
        session_for(how, &s);
        converse(how, s);
        ok(fp_session_receipt(s, st.w, NULL, receipt, transcript));
        fp_session_destroy(s);
        valid(st.w, st.model, receipt, transcript, &engines[how % 4], name);
        GW_CHECK(fp__buf_printf(&list, "%s\n%s\n", receipt, transcript));
    }
    el_write(el_path("list"), &list);
    fp__buf_free(&list);
    /* by every kernel table of this machine, in a process of its own */
    for (size_t i = 0; fp__kernel_ops_at(i); i++) {
        int status;
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            setenv("FIELDPRINT_KERNELS", fp__kernel_ops_at(i)->name, 1);
            execl("/proc/self/exe", "test_audit", "--audit", el_dir, (char *)NULL);
            _exit(111);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        if (status != 0)
            fail_msg("the audit with kernels %s failed (status %d)", fp__kernel_ops_at(i)->name, status);
    }
}

static int audit_list(const char *folder)
{
    char path[PATHS], receipt[PATHS], transcript[PATHS];
    fp_model *model;
    fp_workspace *w;
    snprintf(el_dir, sizeof el_dir, "%s", folder);
    ok(fp_model_open(el_path("model.gguf"), NULL, &model));
    ok(fp_workspace_open(el_path("w"), NULL, &w));
    snprintf(path, sizeof path, "%s", el_path("list"));
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    size_t n = 0;
    for (; fgets(receipt, PATHS, f) && fgets(transcript, PATHS, f); n++) {
        receipt[strcspn(receipt, "\n")] = transcript[strcspn(transcript, "\n")] = 0;
        fp_engine_options o = {.threads = 2};
        if (n % (EL_SANITIZED ? 16 : 5) == 0)
            valid(w, model, receipt, transcript, &o, receipt);
    }
    fclose(f);
    fp_workspace_close(w);
    fp_model_close(model);
    return n == HONEST ? 0 : 1;
}

/* The same receipts, all at once: the same verdicts, in any grouping and with any sample. */
static char honest_paths[HONEST][2][PATHS];
static void test_many(void **state)
{
    (void)state;
    static const struct {
        size_t together, chunk;
        uint32_t share;
    } ways[] = {{0, 0, 0}, {5, 33, 16384}, {1, 64, 65536}, {16, 7, 1}};
    fp_audit_item items[HONEST];
    fp_audit_result results[HONEST];
    FILE *f = fopen(el_path("list"), "r");
    assert_non_null(f);
    for (size_t i = 0; i < HONEST; i++) {
        for (size_t k = 0; k < 2; k++) {
            assert_non_null(fgets(honest_paths[i][k], PATHS, f));
            honest_paths[i][k][strcspn(honest_paths[i][k], "\n")] = 0;
        }
        items[i] = (fp_audit_item){honest_paths[i][0], honest_paths[i][1], NULL};
    }
    fclose(f);
    for (size_t way = 0; way < sizeof ways / sizeof *ways; way++) {
        fp_engine_options engine = {.threads = 2, .chunk_tokens = ways[way].chunk};
        fp_audit_many_options o = {.engine = &engine,
                                   .model = st.model,
                                   .sample_65536 = ways[way].share,
                                   .together = ways[way].together};
        ok(fp_audit_many(st.w, &o, items, HONEST, results));
        size_t sampled = 0, all = 0;
        for (size_t i = 0; i < HONEST; i++) {
            const fp_audit_result *r = &results[i];
            if (r->status != FP_OK || r->light != FP_VERDICT_VALID_LIGHT ||
                r->full != (ways[way].share ? FP_VERDICT_VALID_SAMPLED : FP_VERDICT_VALID_FULL))
                fail_msg("way %zu, receipt %zu: %s %s: %s", way, i, fp_verdict_name(r->light),
                         fp_verdict_name(r->full), r->detail);
            sampled += r->sampled_tokens;
            all += r->output_tokens;
        }
        if (ways[way].share == 0 || ways[way].share == 65536)
            assert_int_equal(sampled, all);
        else if (ways[way].share == 16384)
            assert_true(sampled > all / 8 && sampled < all / 2);
    }
}

static void note_result(void *context, size_t i, const fp_audit_result *r)
{
    (void)i;
    (void)r;
    if (++*(int *)context == 3)
        ((int *)context)[1] = 1;
}

/* Interrupted: what was decided stays, the rest says so. */
static void test_many_interrupted(void **state)
{
    (void)state;
    int told[2] = {0, 0};
    fp_engine_options engine = {.threads = 2, .cancel = &told[1]};
    fp_audit_item items[12];
    fp_audit_result results[12];
    fp_audit_many_options o = {.engine = &engine,
                               .model = st.model,
                               .together = 3,
                               .on_result = note_result,
                               .on_result_context = told};
    for (size_t i = 0; i < 12; i++)
        items[i] = (fp_audit_item){honest_paths[i][0], honest_paths[i][1], NULL};
    items[0].receipt_path = el_path("there is none");
    assert_int_equal(fp_audit_many(st.w, &o, items, 12, results), FP_CANCELLED);
    int decided = 0;
    for (size_t i = 0; i < 12; i++) {
        assert_true(results[i].status == FP_OK || results[i].status == FP_CANCELLED);
        if (results[i].status == FP_OK)
            decided++;
        else
            assert_non_null(strstr(results[i].detail, "interrupted"));
    }
    assert_int_equal(decided, told[0]);
    assert_true(decided >= 3 && decided < 12);
    assert_non_null(strstr(results[0].detail, "there is none"));
}

static void test_light_only(void **state)
{
    (void)state;
    fp_session *s;
    char receipt[PATHS], transcript[PATHS];
    fp_audit_result r;
    uint8_t nonce[32] = {9, 8, 7};
    session_for(1, &s);
    converse(1, s);
    ok(fp_session_receipt(s, st.w, NULL, receipt, transcript));
    fp_session_destroy(s);
    audit_with(st.w, NULL, receipt, NULL, NULL, nonce, &r);
    assert_int_equal(r.light, FP_VERDICT_VALID_LIGHT);
    assert_int_equal(r.full, FP_VERDICT_UNDECIDED);
    assert_true(r.seed_from_nonce && !r.witnessed && r.tree_size > 0);
    audit_with(st.w, st.model, receipt, NULL, NULL, NULL, &r);
    assert_int_equal(r.light, FP_VERDICT_VALID_LIGHT);
    assert_int_equal(r.full, FP_VERDICT_UNDECIDED);
    assert_non_null(strstr(r.detail, "transcript is needed"));
    nonce[31] ^= 1;
    audit_with(st.w, NULL, receipt, transcript, NULL, nonce, &r);
    assert_int_equal(r.light, FP_VERDICT_INVALID);
    assert_non_null(strstr(r.detail, "nonce is not yours"));
    fp_audit_options o = {.receipt_path = el_path("none.json")};
    assert_int_equal(fp_audit(st.w, &o, &r), FP_OK);
    assert_int_equal(r.light, FP_VERDICT_UNDECIDED);
    char *json;
    uint8_t id[32];
    ok(fp_receipt_read(receipt, &json, id));
    assert_non_null(strstr(json, FP__RECEIPT_PREDICATE));
    fp_bytes_free(json);
}

/* What is behind a log: a receipt of a tree that is larger than ours. */
static void test_tree_ahead(void **state)
{
    (void)state;
    make_bases();
    fp__dsse old;
    fp_audit_result r;
    json_t *json = load_payload(receipts[0], &old);
    edit_json(json, "predicate.log.last.size", "100000");
    write_forged(json, &old, SIGNED, el_path("forged.json"));
    fp__dsse_free(&old);
    audit_with(st.w, NULL, el_path("forged.json"), NULL, NULL, NULL, &r);
    expect("ahead", &r, FP_VERDICT_UNDECIDED, "rolled back");
}

/* One wrong token of 24, signed and logged: a sample finds it when it looks there, and chance looks there
 * with the probability that is asked for. */
static void test_sample(void **state)
{
    (void)state;
    make_bases();
    json_t *json = load_transcript(0);
    json_t *ids = json_object_get(json_array_get(json_object_get(json, "leaves"), 3), "ids");
    json_int_t id = json_integer_value(json_array_get(ids, 23)); /* the last one: nothing follows from it */
    json_array_set_new(ids, 23, json_integer(id == 40 ? 41 : 40));
    write_transcript(json);
    sign_for(0, el_path("forged.transcript.json"), el_path("forged.json"));
    size_t found = 0, runs = EL_SANITIZED ? 8 : 40;
    for (size_t run = 0; run < runs; run++) {
        uint8_t seed[32] = {(uint8_t)run, 77};
        fp_audit_result r, again;
        fp_audit_options o = {.receipt_path = el_path("forged.json"),
                              .transcript_path = el_path("forged.transcript.json"),
                              .model = st.model,
                              .sample_65536 = run == 0 ? 65536 : 32768,
                              .sample_seed = seed};
        ok(fp_audit(st.w, &o, &r));
        assert_int_equal(r.light, FP_VERDICT_VALID_LIGHT);
        assert_memory_equal(r.sample_seed, seed, 32);
        if (r.position >= 0) {
            found++;
            expect("sampled", &r, FP_VERDICT_VALID_LIGHT, "the model and the sampler give");
        } else { /* its text is that of other tokens */
            expect("not sampled", &r, FP_VERDICT_VALID_LIGHT, "text of the answer");
        }
        assert_true(run > 0 || r.position >= 0);
        if (run > 2)
            continue;
        ok(fp_audit(st.w, &o, &again));
        assert_int_equal(r.position, again.position);
        assert_int_equal(r.sampled_tokens, again.sampled_tokens);
    }
    if (!EL_SANITIZED)
        assert_true(found > 10 && found < 30);
}

static void test_leaf_order(void **state)
{
    (void)state;
    make_bases();
    for (int how = 0; how < 5; how++) {
        static const char *const words[] = {"tokens of message", "malformed transcript",
                                            "malformed transcript", "malformed transcript",
                                            "outside of the vocabulary"};
        fp_audit_result r;
        json_t *json = load_transcript(1), *list = json_object_get(json, "leaves");
        json_t *first = json_incref(json_array_get(list, 0)), *third = json_incref(json_array_get(list, 2));
        if (how == 0) { /* messages in another order */
            json_array_set(list, 0, third);
            json_array_set(list, 2, first);
        } else if (how == 1) { /* the answer left out */
            json_array_remove(list, 3);
        } else if (how == 2) { /* a leaf after the last */
            json_array_append(list, first);
        } else if (how == 3) { /* ids that are no ids */
            json_array_set_new(json_object_get(first, "ids"), 0, json_integer(4294967295));
        } else { /* an id that no vocabulary has */
            json_array_set_new(json_object_get(json_array_get(list, 3), "ids"), 2, json_integer(4000000000));
        }
        json_decref(first);
        json_decref(third);
        write_transcript(json);
        audit_with(st.w, st.model, receipts[1], el_path("forged.transcript.json"), NULL, NULL, &r);
        assert_int_equal(r.light, FP_VERDICT_INVALID);
        if (!strstr(r.detail, words[how]))
            fail_msg("order %d: %s", how, r.detail);
    }
}

/* An answer that ended with an end-of-generation token, said to have been told to go on; and a cancelled one
 * whose text was changed. */
static void test_ends(void **state)
{
    (void)state;
    fp_audit_result r;
    char receipt[PATHS], transcript[PATHS];
    bool found = false;
    for (uint64_t seed = 1; seed < 30 && !found; seed++) {
        fp_session *s;
        fp_result result;
        fp_sampling p = el_sampling(20, seed);
        ok(fp_session_create(st.e, NULL, &s));
        el_begin(s, "go", &p, 200);
        ok(fp_session_run(s));
        fp_session_result(s, &result);
        found = result.finish == FP_FINISH_STOP;
        if (found)
            ok(fp_session_receipt(s, st.w, NULL, receipt, transcript));
        fp_session_destroy(s);
    }
    assert_true(found);
    fp__dsse old;
    json_t *json = load_payload(receipt, &old);
    edit_json(json, "predicate.sampling.ignoreEndOfGeneration", "true");
    write_forged(json, &old, LOGGED, el_path("forged.json"));
    fp__dsse_free(&old);
    audit_with(st.w, st.model, el_path("forged.json"), transcript, NULL, NULL, &r);
    expect("end of generation", &r, FP_VERDICT_VALID_LIGHT, "finish reason");
    /* cancelled */
    fp_session *s;
    session_for(5, &s);
    converse(5, s);
    fp_result result;
    fp_session_result(s, &result);
    assert_int_equal(result.finish, FP_FINISH_CANCELLED);
    make_bases();
    char kept[2][PATHS];
    memcpy(kept[0], receipts[0], PATHS);
    memcpy(kept[1], transcripts[0], PATHS);
    ok(fp_session_receipt(s, st.w, NULL, receipts[0], transcripts[0]));
    fp_session_destroy(s);
    valid(st.w, st.model, receipts[0], transcripts[0], NULL, "cancelled");
    json = load_transcript(0);
    size_t n = json_array_size(json_object_get(json, "leaves"));
    char path[32];
    snprintf(path, sizeof path, "leaves.%zu.text", n - 3);
    edit_json(json, path, "\"Something else\"");
    write_transcript(json);
    sign_for(0, el_path("forged.transcript.json"), el_path("forged.json"));
    audit_with(st.w, st.model, el_path("forged.json"), el_path("forged.transcript.json"), NULL, NULL, &r);
    expect("cancelled", &r, FP_VERDICT_VALID_LIGHT, "text of the answer");
    memcpy(receipts[0], kept[0], PATHS);
    memcpy(transcripts[0], kept[1], PATHS);
}

/* ---- other circumstances ---- */

static void test_other_models(void **state)
{
    (void)state;
    fp_audit_result r;
    make_bases();
    for (int i = 0; i < 3; i++) {
        gw_model m = el_model_like("llama", 51);
        fp_model *model;
        fp_model_options o = {.chat_template = i == 2 ? "zephyr" : NULL};
        m.seed = i == 0 ? 52 : 51;
        m.type = i == 1 ? FP__GGML_Q4_0 : m.type;
        gw_write_model(&m, el_path("another.gguf"));
        ok(fp_model_open(el_path("another.gguf"), &o, &model));
        audit_with(st.w, model, receipts[i % 2], transcripts[i % 2], NULL, NULL, &r);
        expect("another model", &r, FP_VERDICT_VALID_LIGHT, "model is not the one");
        fp_model_close(model);
    }
}

static void test_logs(void **state)
{
    (void)state;
    fp_audit_result r;
    fp_session *s;
    fp_workspace *w;
    char receipt[PATHS], transcript[PATHS];
    make_bases();
    audit_with(st.other, st.model, receipts[0], transcripts[0], NULL, NULL, &r);
    expect("foreign log", &r, FP_VERDICT_INVALID, "trust file pins");
    copy_tree(el_path("w"), el_path("before"));
    session_for(2, &s);
    converse(2, s);
    ok(fp_session_receipt(s, st.w, NULL, receipt, transcript));
    ok(fp_workspace_open(el_path("before"), NULL, &w)); /* the log as it was before: rolled back, or behind */
    audit_with(w, st.model, receipt, transcript, NULL, NULL, &r);
    expect("rolled-back log", &r, FP_VERDICT_UNDECIDED, "not in the log at hand");
    fp_workspace_close(w);
    ok(fp_session_receipt(s, st.w, NULL, receipt,
                          transcript)); /* a second one names a tree that the copy lacks */
    ok(fp_workspace_open(el_path("before"), NULL, &w));
    audit_with(w, st.model, receipt, transcript, NULL, NULL, &r);
    expect("rolled-back log", &r, FP_VERDICT_UNDECIDED, "rolled back");
    fp_workspace_close(w);
    valid(st.w, st.model, receipt, transcript, NULL, "in its own log");
    /* a reader that has seen the longer log calls the shorter one inconsistent */
    copy_tree(el_path("w"), el_path("fork"));
    copy_tree(el_path("before/ledger"), el_path("fork/ledger"));
    fp_status status = fp_workspace_open(el_path("fork"), NULL, &w);
    if (status == FP_OK) {
        audit_with(w, st.model, receipt, transcript, NULL, NULL, &r);
        assert_true(r.light == FP_VERDICT_INVALID || r.light == FP_VERDICT_UNDECIDED);
        fp_workspace_close(w);
    } else {
        assert_int_equal(status, FP_MISMATCH);
    }
    fp_session_destroy(s);
}

static void test_artifact_and_document(void **state)
{
    (void)state;
    fp_audit_result r;
    fp_anchors *a = NULL;
    char artifact[PATHS], backup[256];
    fp__buf bytes = {0};
    make_bases();
    ok(fp_workspace_artifact_path(st.w, st.sets[2]->gate.set_id, st.model->digest, artifact,
                                  sizeof artifact));
    el_read(artifact, &bytes);
    bytes.data[bytes.size - 5000] ^= 1;
    el_write(artifact, &bytes);
    fails(fp_anchors_load(st.e, st.w, (const uint8_t(*)[32])st.ids, 2, NULL, &a, NULL), FP_MISMATCH, "page");
    /* the artifact of another set under this name */
    char other[PATHS];
    fp__buf swapped = {0};
    ok(fp_workspace_artifact_path(st.w, st.sets[1]->gate.set_id, st.model->digest, other, sizeof other));
    el_read(other, &swapped);
    el_write(artifact, &swapped);
    fails(fp_anchors_load(st.e, st.w, (const uint8_t(*)[32])st.ids, 2, NULL, &a, NULL), FP_MISMATCH, "");
    valid(st.w, st.model, receipts[1], transcripts[1], NULL, "an audit compiles the anchors itself");
    bytes.data[bytes.size - 5000] ^= 1;
    el_write(artifact, &bytes);
    ok(fp_anchors_load(st.e, st.w, (const uint8_t(*)[32])st.ids, 2, NULL, &a, NULL));
    fp_anchors_release(a);
    /* the document of an anchor: missing, then another one */
    fp_anchor_row row;
    fp_statement statement;
    fp__buf path = {0};
    ok(fp_anchor_show(st.w, st.ids[0], &row, &statement));
    ok(fp__workspace_id_path(st.w, "documents", statement.document_sha256, "", &path));
    snprintf(backup, sizeof backup, "%s", el_path("document"));
    assert_int_equal(rename((char *)path.data, backup), 0);
    audit_with(st.w, st.model, receipts[1], transcripts[1], NULL, NULL, &r);
    assert_int_equal(r.light, FP_VERDICT_VALID_LIGHT);
    assert_int_equal(r.full, FP_VERDICT_UNDECIDED);
    ok(fp__file_write((char *)path.data, "another text", 12, 0644));
    audit_with(st.w, st.model, receipts[1], transcripts[1], NULL, NULL, &r);
    assert_int_equal(r.light, FP_VERDICT_VALID_LIGHT);
    assert_int_equal(r.full, FP_VERDICT_UNDECIDED);
    assert_non_null(strstr(r.detail, "not the document that was signed"));
    assert_int_equal(rename(backup, (char *)path.data), 0);
    valid(st.w, st.model, receipts[1], transcripts[1], NULL, "the document is back");
    fp__buf_free(&path);
    fp__buf_free(&bytes);
    fp__buf_free(&swapped);
}

/* The state at the receipt's tree size counts: revoked later is fine, revoked before it was made is not. */
static void test_revoked(void **state)
{
    (void)state;
    fp_audit_result r;
    fp_session *s;
    fp_event_receipt event;
    char receipt[PATHS], transcript[PATHS];
    make_bases();
    session_for(1, &s); /* the set of the plain anchor */
    converse(1, s);
    ok(fp_session_receipt(s, st.w, NULL, receipt, transcript));
    ok(fp_anchor_revoke(st.w, st.ids[2], "wrong", &event));
    valid(st.w, st.model, receipt, transcript, NULL, "revoked later");
    ok(fp_session_receipt(s, st.w, NULL, receipt, transcript)); /* of the same answer, after the revocation */
    audit_with(st.w, st.model, receipt, transcript, NULL, NULL, &r);
    expect("revoked before", &r, FP_VERDICT_INVALID, "revoked");
    fp_session_destroy(s);
}

static void test_refusals(void **state)
{
    (void)state;
    fp_session *s;
    uint8_t id[32];
    fp_audit_result r;
    ok(fp_session_create(st.e, NULL, &s));
    fails(fp_session_receipt(s, st.w, id, NULL, NULL), FP_USAGE, "no answer");
    el_begin(s, "hello", NULL, 4);
    fails(fp_session_receipt(s, st.w, id, NULL, NULL), FP_USAGE, "no answer");
    ok(fp_session_run(s));
    fp_session_destroy(s);
    static const char *const broken[] = {"", "{}", "{\"payloadType\":1}", "not json", "[]"};
    make_bases();
    for (size_t i = 0; i < 5; i++) {
        fp__buf bytes = {0};
        GW_CHECK(fp__buf_append_text(&bytes, broken[i]));
        GW_CHECK(fp__buf_reserve(&bytes, 1));
        el_write(el_path("broken.json"), &bytes);
        audit_with(st.w, NULL, el_path("broken.json"), NULL, NULL, NULL, &r);
        expect("broken receipt", &r, FP_VERDICT_INVALID, "malformed receipt");
        audit_with(st.w, NULL, receipts[0], el_path("broken.json"), NULL, NULL, &r);
        expect("broken transcript", &r, FP_VERDICT_INVALID, "malformed transcript");
        fp__buf_free(&bytes);
    }
}

static void honest_receipts(size_t n, uint8_t *bad)
{
    char(*paths)[2][PATHS] = calloc(n, sizeof *paths);
    fp_audit_item *items = calloc(n, sizeof *items);
    fp_audit_result *results = calloc(n, sizeof *results);
    fp_engine_options engine = {.threads = 2};
    fp_audit_many_options o = {.engine = &engine, .model = st.model};
    size_t verdicts[5] = {0}, finishes[6] = {0};
    uint64_t tokens = 0;
    assert_true(paths && items && results);
    for (size_t how = 0; how < n; how++) {
        fp_session *s;
        fp_result result;
        session_for(how, &s);
        converse(how, s);
        fp_session_result(s, &result);
        finishes[result.finish]++;
        tokens += result.n_ids;
        ok(fp_session_receipt(s, st.w, NULL, paths[how][0], paths[how][1]));
        fp_session_destroy(s);
        items[how] = (fp_audit_item){paths[how][0], paths[how][1], NULL};
    }
    uint64_t start = fp__now_ns();
    ok(fp_audit_many(st.w, &o, items, n, results));
    double seconds = (double)(fp__now_ns() - start) / 1e9;
    for (size_t i = 0; i < n; i++) {
        fp_verdict v = results[i].light == FP_VERDICT_VALID_LIGHT ? results[i].full : results[i].light;
        verdicts[v]++;
        if (v != FP_VERDICT_VALID_FULL)
            fprintf(stderr, "receipt %zu: %s: %s\n", i, fp_verdict_name(v), results[i].detail);
    }
    *bad = verdicts[FP_VERDICT_VALID_FULL] != n;
    printf("{\"receipts\": %zu, \"valid_full\": %zu, \"invalid\": %zu, \"undecided\": %zu, "
           "\"answer_tokens\": %llu, "
           "\"finish_stop\": %zu, \"finish_length\": %zu, \"finish_cancelled\": %zu, \"audit_s\": %.3f}\n",
           n, verdicts[FP_VERDICT_VALID_FULL], verdicts[FP_VERDICT_INVALID], verdicts[FP_VERDICT_UNDECIDED],
           (unsigned long long)tokens, finishes[FP_FINISH_STOP], finishes[FP_FINISH_LENGTH],
           finishes[FP_FINISH_CANCELLED], seconds);
    free(paths);
    free(items);
    free(results);
}

int main(int argc, char **argv)
{
    if (argc >= 3 && strcmp(argv[1], "--honest") == 0) {
        void *nothing = NULL;
        uint8_t bad = 1;
        lab_model = argc > 3 ? argv[3] : NULL;
        if (open_stage(&nothing) == 0)
            honest_receipts((size_t)atoi(argv[2]), &bad);
        return close_stage(&nothing) != 0 || bad;
    }
    if (argc == 3 && strcmp(argv[1], "--audit") == 0)
        return audit_list(argv[2]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_honest),
        cmocka_unit_test(test_many),
        cmocka_unit_test(test_many_interrupted),
        cmocka_unit_test(test_sample),
        cmocka_unit_test(test_light_only),

        cmocka_unit_test(test_tree_ahead),

        cmocka_unit_test(test_leaf_order),
        cmocka_unit_test(test_ends),
        cmocka_unit_test(test_other_models),
        cmocka_unit_test(test_logs),
        cmocka_unit_test(test_artifact_and_document),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_revoked),
    };
    return cmocka_run_group_tests(tests, open_stage, close_stage);
}
