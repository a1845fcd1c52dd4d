/* Tampering: what somebody could change, what sees it, and with which words. One table, which docs/audit.md
 * shows; each row is a test.
 *
 * test_tamper --table prints the table of docs/audit.md; --measure what the audits say now. */
#include "audit_lab.h"

typedef enum level { LOAD, LIGHT, SAMPLE, FULL, NEVER } level;
static const char *const level_names[] = {"load", "light", "sample", "full", "none"};

/* What a scenario puts before an auditor, or what it was refused with. */
typedef struct evidence {
    fp_workspace *w;
    fp_model *model; /* of its own, or NULL: the stage's */
    char receipt[PATHS], transcript[PATHS];
    bool no_transcript, own_workspace;
    const uint8_t *nonce;
    fp_status refused; /* at load; FP_OK: there is a receipt to be audited */
} evidence;

typedef struct scenario {
    const char *name, *what;
    level level;         /* the cheapest one that sees it */
    const char *verdict; /* at that level */
    const char *reason;  /* words of it */
    void (*run)(const struct scenario *s, evidence *e);
    size_t base;
    const char *path, *value; /* of a field, or of a transcript */
    int leaf;                 /* whose token 3 is changed, or -1 */
} scenario;

/* ---- a receipt's field, changed, signed by the engine's key and logged ---- */

static void field(const scenario *s, evidence *e)
{
    fp__dsse old;
    json_t *json = load_payload(receipts[s->base], &old);
    edit_json(json, s->path, s->value);
    write_forged(json, &old, LOGGED, el_path("forged.json"));
    fp__dsse_free(&old);
    snprintf(e->receipt, PATHS, "%s", el_path("forged.json"));
    snprintf(e->transcript, PATHS, "%s", transcripts[s->base]);
}

/* ---- a transcript, changed: by itself, or with a receipt that the engine signs for it ---- */

static void change_transcript(const scenario *s)
{
    json_t *json = load_transcript(s->base);
    if (s->leaf >= 0) {
        json_t *ids =
            json_object_get(json_array_get(json_object_get(json, "leaves"), (size_t)s->leaf), "ids");
        json_int_t id = json_integer_value(json_array_get(ids, 3));
        json_array_set_new(ids, 3, json_integer(id == 40 ? 41 : 40));
    } else {
        edit_json(json, s->path, s->value);
    }
    write_transcript(json);
}

static void leaf_alone(const scenario *s, evidence *e)
{
    change_transcript(s);
    snprintf(e->receipt, PATHS, "%s", receipts[s->base]);
    snprintf(e->transcript, PATHS, "%s", el_path("forged.transcript.json"));
}

static void leaf_signed(const scenario *s, evidence *e)
{
    change_transcript(s);
    sign_for(s->base, el_path("forged.transcript.json"), el_path("forged.json"));
    snprintf(e->receipt, PATHS, "%s", el_path("forged.json"));
    snprintf(e->transcript, PATHS, "%s", el_path("forged.transcript.json"));
}

/* The last leaves' ids or the list of leaves, changed by hand. */
static void put_signed(json_t *json, size_t base, evidence *e)
{
    write_transcript(json);
    sign_for(base, el_path("forged.transcript.json"), el_path("forged.json"));
    snprintf(e->receipt, PATHS, "%s", el_path("forged.json"));
    snprintf(e->transcript, PATHS, "%s", el_path("forged.transcript.json"));
}

static void messages_swapped(const scenario *s, evidence *e)
{
    json_t *json = load_transcript(s->base), *list = json_object_get(json, "leaves");
    json_t *first = json_incref(json_array_get(list, 0)), *third = json_incref(json_array_get(list, 2));
    json_array_set_new(list, 0, third);
    json_array_set_new(list, 2, first);
    put_signed(json, s->base, e);
}

static void message_dropped(const scenario *s, evidence *e)
{
    json_t *json = load_transcript(s->base);
    json_array_remove(json_object_get(json, "leaves"), 0);
    put_signed(json, s->base, e);
}

static void leaf_dropped(const scenario *s, evidence *e)
{
    json_t *json = load_transcript(s->base);
    json_array_remove(json_object_get(json, "leaves"), 0);
    write_transcript(json);
    snprintf(e->receipt, PATHS, "%s", receipts[s->base]);
    snprintf(e->transcript, PATHS, "%s", el_path("forged.transcript.json"));
}

static void answer_dropped(const scenario *s, evidence *e)
{
    json_t *json = load_transcript(s->base);
    json_array_remove(json_object_get(json, "leaves"), 3);
    write_transcript(json);
    snprintf(e->receipt, PATHS, "%s", receipts[s->base]);
    snprintf(e->transcript, PATHS, "%s", el_path("forged.transcript.json"));
}

static void answer_cut(const scenario *s, evidence *e)
{
    json_t *json = load_transcript(s->base);
    json_t *ids = json_object_get(json_array_get(json_object_get(json, "leaves"), 3), "ids");
    json_array_remove(ids, json_array_size(ids) - 1);
    put_signed(json, s->base, e);
    fp__dsse old;
    char text[32];
    json = load_payload(e->receipt, &old);
    json_t *tokens = json_object_get(json_object_get(json, "predicate"), "tokens");
    snprintf(text, sizeof text, "%lld", (long long)json_integer_value(json_object_get(tokens, "output")) - 1);
    edit_json(json, "predicate.tokens.output", text);
    snprintf(text, sizeof text, "%lld",
             (long long)json_integer_value(json_object_get(tokens, "context")) - 1);
    edit_json(json, "predicate.tokens.context", text);
    write_forged(json, &old, LOGGED, e->receipt);
    fp__dsse_free(&old);
}

/* An answer that ended by itself, said to have been told to go on. */
static void end_ignored(const scenario *s, evidence *e)
{
    fp__dsse old;
    bool found = false;
    (void)s;
    for (uint64_t seed = 1; seed < 30 && !found; seed++) {
        fp_session *session;
        fp_result result;
        fp_sampling p = el_sampling(20, seed);
        ok(fp_session_create(st.e, NULL, &session));
        el_begin(session, "go", &p, 200);
        ok(fp_session_run(session));
        fp_session_result(session, &result);
        found = result.finish == FP_FINISH_STOP;
        if (found)
            ok(fp_session_receipt(session, st.w, NULL, e->receipt, e->transcript));
        fp_session_destroy(session);
    }
    assert_true(found);
    json_t *json = load_payload(e->receipt, &old);
    edit_json(json, "predicate.sampling.ignoreEndOfGeneration", "true");
    write_forged(json, &old, LOGGED, el_path("forged.json"));
    fp__dsse_free(&old);
    snprintf(e->receipt, PATHS, "%s", el_path("forged.json"));
}

/* A provisional receipt, edited to be a final one. */
static void provisional(const scenario *s, evidence *e)
{
    fp__dsse old;
    json_t *json = load_payload(receipts[s->base], &old);
    edit_json(json, "predicate.release.status", "\"provisional\"");
    edit_json(json, "predicate.validation.unverifiedPages", "2");
    write_forged(json, &old, LOGGED, el_path("forged.json"));
    fp__dsse_free(&old);
    json = load_payload(el_path("forged.json"), &old);
    edit_json(json, "predicate.release.status", "\"final\"");
    edit_json(json, "predicate.validation.unverifiedPages", "0");
    write_forged(json, &old, UNSIGNED, el_path("forged.json"));
    fp__dsse_free(&old);
    snprintf(e->receipt, PATHS, "%s", el_path("forged.json"));
    snprintf(e->transcript, PATHS, "%s", transcripts[s->base]);
}

static void answer_longer(const scenario *s, evidence *e)
{
    json_t *json = load_transcript(s->base);
    json_array_append_new(json_object_get(json_array_get(json_object_get(json, "leaves"), 3), "ids"),
                          json_integer(40));
    put_signed(json, s->base, e);
}

static void no_vocabulary(const scenario *s, evidence *e)
{
    json_t *json = load_transcript(s->base);
    json_array_set_new(json_object_get(json_array_get(json_object_get(json, "leaves"), 3), "ids"), 2,
                       json_integer(4000000000));
    put_signed(json, s->base, e);
}

static void other_transcript(const scenario *s, evidence *e)
{
    snprintf(e->receipt, PATHS, "%s", receipts[s->base]);
    snprintf(e->transcript, PATHS, "%s", transcripts[2]);
}

static void withheld(const scenario *s, evidence *e)
{
    snprintf(e->receipt, PATHS, "%s", receipts[s->base]);
    e->no_transcript = true;
}

/* ---- signatures ---- */

static void replace_signature(size_t base, fp_key *key, evidence *e)
{
    fp__dsse old;
    fp__dsse dsse = {0};
    fp__buf bytes = {0};
    json_t *json = load_payload(receipts[base], &old);
    ok(fp__dsse_create_json(json, &dsse));
    if (key)
        ok(fp__dsse_sign(&dsse, key));
    else { /* one bit */
        dsse.signatures_count = old.signatures_count;
        memcpy(dsse.signatures, old.signatures, sizeof dsse.signatures);
        dsse.signatures[0].sig[5] ^= 1;
    }
    ok(fp__dsse_write(&dsse, &bytes));
    el_write(el_path("forged.json"), &bytes);
    fp__buf_free(&bytes);
    fp__dsse_free(&dsse);
    fp__dsse_free(&old);
    fp_key_free(key);
    snprintf(e->receipt, PATHS, "%s", el_path("forged.json"));
    snprintf(e->transcript, PATHS, "%s", transcripts[base]);
}

static void signature_bit(const scenario *s, evidence *e)
{
    replace_signature(s->base, NULL, e);
}

static void other_purpose(const scenario *s, evidence *e)
{
    fp_key *key;
    ok(fp_workspace_key(st.w, FP_PURPOSE_AUTHOR, &key));
    replace_signature(s->base, key, e);
}

static void unknown_key(const scenario *s, evidence *e)
{
    fp_key *key;
    ok(fp_workspace_key(st.other, FP_PURPOSE_ENGINE, &key));
    replace_signature(s->base, key, e);
}

static void unlogged(const scenario *s, evidence *e)
{
    fp__dsse old;
    json_t *json = load_payload(receipts[s->base], &old);
    edit_json(json, "predicate.time", "1700000001");
    write_forged(json, &old, SIGNED, el_path("forged.json"));
    fp__dsse_free(&old);
    snprintf(e->receipt, PATHS, "%s", el_path("forged.json"));
    snprintf(e->transcript, PATHS, "%s", transcripts[s->base]);
}

/* Every field of the payload in turn, with the old signature, and with a stranger's. */
static void each_field(const json_t *json, const char *prefix, void (*call)(const char *path, void *arg),
                       void *arg)
{
    const char *key;
    json_t *value;
    size_t i;
    char path[256];
    if (json_is_object(json)) {
        json_object_foreach((json_t *)json, key, value)
        {
            assert_true(snprintf(path, sizeof path, "%s%s%s", prefix, prefix[0] ? "." : "", key) <
                        (int)sizeof path);
            each_field(value, path, call, arg);
        }
    } else if (json_is_array(json)) {
        json_array_foreach((json_t *)json, i, value)
        {
            assert_true(snprintf(path, sizeof path, "%s.%zu", prefix, i) < (int)sizeof path);
            each_field(value, path, call, arg);
        }
    } else {
        call(prefix, arg);
    }
}

static const json_t *value_at(const json_t *json, const char *path)
{
    char part[64];
    while (*path) {
        size_t n = strcspn(path, ".");
        snprintf(part, sizeof part, "%.*s", (int)n, path);
        json = json_is_array(json) ? json_array_get(json, (size_t)atoi(part)) : json_object_get(json, part);
        path += n + (path[n] == '.');
    }
    return json;
}

struct changing {
    size_t base, fields;
    bool stranger;
};
static void change_field(const char *path, void *arg)
{
    struct changing *c = arg;
    fp__dsse old;
    fp_audit_result r;
    char value[64];
    json_t *json = load_payload(receipts[c->base], &old);
    const json_t *now = value_at(json, path);
    if (json_is_integer(now))
        snprintf(value, sizeof value, "%lld", (long long)json_integer_value(now) + 1);
    else if (json_is_boolean(now))
        snprintf(value, sizeof value, "%s", json_is_true(now) ? "false" : "true");
    edit_json(json, path, json_is_string(now) ? NULL : value);
    if (c->stranger) {
        fp__dsse dsse = {0};
        fp__buf bytes = {0};
        fp_key *key;
        ok(fp_workspace_key(st.other, FP_PURPOSE_ENGINE, &key));
        ok(fp__dsse_create_json(json, &dsse));
        ok(fp__dsse_sign(&dsse, key));
        ok(fp__dsse_write(&dsse, &bytes));
        el_write(el_path("forged.json"), &bytes);
        fp_key_free(key);
        fp__buf_free(&bytes);
        fp__dsse_free(&dsse);
    } else {
        write_forged(json, &old, UNSIGNED, el_path("forged.json"));
    }
    fp__dsse_free(&old);
    audit_with(st.w, NULL, el_path("forged.json"), transcripts[c->base], NULL, NULL, &r);
    if (r.light == FP_VERDICT_VALID_LIGHT)
        fail_msg("%s: %s %s", path, fp_verdict_name(r.light), r.detail);
    c->fields++;
}

static void all_fields(const scenario *s, evidence *e)
{
    for (size_t base = 0; base < 2; base++) {
        struct changing c = {.base = base, .stranger = s->value != NULL};
        fp__dsse old;
        json_t *json = load_payload(receipts[base], &old);
        each_field(json, "", change_field, &c);
        assert_true(c.fields > 45);
        json_decref(json);
        fp__dsse_free(&old);
    }
    if (s->value)
        unknown_key(s, e);
    else
        signature_bit(s, e);
}

/* ---- nonces ---- */

static void replayed(const scenario *s, evidence *e)
{
    static const uint8_t mine[32] = {2};
    snprintf(e->receipt, PATHS, "%s", receipts[s->base]);
    snprintf(e->transcript, PATHS, "%s", transcripts[s->base]);
    e->nonce = mine;
}

/* ---- models ---- */

static void open_other(evidence *e, uint64_t seed, uint32_t type, const char *chat)
{
    gw_model m = el_model_like("llama", 51);
    fp_model_options o = {.chat_template = chat};
    m.seed = seed;
    if (type)
        m.type = type;
    gw_write_model(&m, el_path("another.gguf"));
    ok(fp_model_open(el_path("another.gguf"), &o, &e->model));
}

static void model_swapped(const scenario *s, evidence *e)
{
    snprintf(e->receipt, PATHS, "%s", receipts[s->base]);
    snprintf(e->transcript, PATHS, "%s", transcripts[s->base]);
    open_other(e, s->path ? 51 : 52, s->path && !s->value ? FP__GGML_Q4_0 : 0, s->value);
}

/* The engine answered with another model (path: of other quantization) than its receipt names. */
static void model_lied(const scenario *s, evidence *e)
{
    evidence other = {0};
    fp_engine *engine;
    fp_session *session;
    fp__dsse old;
    char hex[65], text[80];
    open_other(&other, s->path ? 51 : 52, s->path ? FP__GGML_Q4_0 : 0, NULL);
    fp_engine_options o = {.threads = 2, .context_tokens = 900};
    ok(fp_engine_create(other.model, &o, &engine));
    ok(fp_session_create(engine, NULL, &session));
    fp_sampling p = el_sampling(1.5f, 5);
    el_begin(session, hello, &p, 24);
    ok(fp_session_run(session));
    ok(fp_session_receipt(session, st.w, NULL, e->receipt, e->transcript));
    fp_session_destroy(session);
    fp_engine_destroy(engine);
    fp_model_close(other.model);
    json_t *json = load_payload(e->receipt, &old);
    fp__hex_encode(st.model->digest, 32, hex);
    snprintf(text, sizeof text, "\"%s\"", hex);
    edit_json(json, "predicate.model", text);
    write_forged(json, &old, LOGGED, el_path("forged.json"));
    fp__dsse_free(&old);
    snprintf(e->receipt, PATHS, "%s", el_path("forged.json"));
}

/* ---- logs ---- */

static void own(evidence *e, const char *name)
{
    copy_tree(el_path("w"), el_path(name));
    ok(fp_workspace_open(el_path(name), NULL, &e->w));
    e->own_workspace = true;
}

static void say(fp_anchors *anchors, fp_workspace *w, evidence *e)
{
    fp_session *session;
    fp_session_options so = {.anchors = anchors};
    fp_sampling p = el_sampling(0.9f, 3);
    ok(fp_session_create(st.e, &so, &session));
    el_begin(session, hello, &p, 6);
    ok(fp_session_run(session));
    ok(fp_session_receipt(session, w, NULL, e->receipt, e->transcript));
    fp_session_destroy(session);
}

static void foreign_log(const scenario *s, evidence *e)
{
    snprintf(e->receipt, PATHS, "%s", receipts[s->base]);
    snprintf(e->transcript, PATHS, "%s", transcripts[s->base]);
    e->w = st.other;
}

static void rolled_back(const scenario *s, evidence *e)
{
    (void)s;
    own(e, "before");
    say(NULL, st.w, e);
    say(NULL, st.w, e); /* of a tree that the copy lacks */
}

static void behind(const scenario *s, evidence *e)
{
    (void)s;
    own(e, "before");
    say(NULL, st.w, e);
}

/* The log's key signed two continuations: the receipt is of the other one. */
static void forked(const scenario *s, evidence *e)
{
    (void)s;
    evidence ignored = {0};
    own(e, "fork");
    say(NULL, st.w, e);
    say(NULL, st.w, e);
    say(NULL, e->w, &ignored);
    say(NULL, e->w, &ignored);
}

/* The auditor has seen the longer log, and is shown the shorter one. */
static void shortened(const scenario *s, evidence *e)
{
    fp_workspace *w;
    (void)s;
    copy_tree(el_path("w"), el_path("before"));
    say(NULL, st.w, e);
    copy_tree(el_path("w"), el_path("fork"));
    copy_tree(el_path("before/ledger"), el_path("fork/ledger"));
    e->refused = fp_workspace_open(el_path("fork"), NULL, &w);
    if (e->refused == FP_OK) {
        e->w = w;
        e->own_workspace = true;
    }
}

/* A receipt cannot be logged in a tree that it names: its id would have to be in that tree's root. */
static void logged_early(const scenario *s, evidence *e)
{
    fp__dsse old;
    fp__dsse dsse = {0};
    fp__buf bytes = {0};
    char text[80];
    fp_key *key;
    fp_event_receipt event;
    fp__ledger_head head;
    json_t *json = load_payload(receipts[s->base], &old);
    own(e, "early");
    fp__ledger_reader_head(e->w->reader, &head);
    snprintf(text, sizeof text, "%llu", (unsigned long long)head.size + 1);
    edit_json(json, "predicate.log.last.size", text);
    ok(fp__dsse_create_json(json, &dsse));
    ok(fp_workspace_key(e->w, FP_PURPOSE_ENGINE, &key));
    ok(fp__dsse_sign(&dsse, key));
    ok(fp__dsse_write(&dsse, &bytes));
    el_write(el_path("forged.json"), &bytes);
    ok(fp_receipts_log(e->w, (const uint8_t(*)[32]) & dsse.id, 1, &event));
    fp_key_free(key);
    fp__buf_free(&bytes);
    fp__dsse_free(&dsse);
    fp__dsse_free(&old);
    snprintf(e->receipt, PATHS, "%s", el_path("forged.json"));
    snprintf(e->transcript, PATHS, "%s", transcripts[s->base]);
}

static void retracted(const scenario *s, evidence *e)
{
    fp__dsse dsse;
    fp_event_receipt event;
    own(e, "retracting");
    snprintf(e->receipt, PATHS, "%s", receipts[s->base]);
    snprintf(e->transcript, PATHS, "%s", transcripts[s->base]);
    json_decref(load_payload(e->receipt, &dsse));
    ok(fp_event_retract(e->w, dsse.id, "wrong", &event));
    fp__dsse_free(&dsse);
}

static void key_distrusted(const scenario *s, evidence *e)
{
    fp_key *key;
    uint8_t public_key[32], id[32];
    char hex[65], text[80];
    fp_event_receipt event;
    (void)s;
    own(e, "distrusting");
    ok(fp_workspace_key(e->w, FP_PURPOSE_ENGINE, &key));
    fp_key_public(key, public_key);
    fp_key_id(public_key, hex);
    assert_true(fp__hex_decode(hex, 64, id, 32) == FP_OK);
    fp_key_free(key);
    ok(fp_event_distrust(e->w, id, 1, "stolen", &event));
    fp__dsse old;
    ok(fp_workspace_sync(e->w));
    json_t *json = load_payload(receipts[0], &old); /* a thief signs, after the distrust was logged */
    fp__ledger_head head;
    fp__ledger_reader_head(e->w->reader, &head);
    snprintf(text, sizeof text, "%llu", (unsigned long long)head.size);
    edit_json(json, "predicate.log.last.size", text);
    fp__hex_encode(head.root, 32, hex);
    snprintf(text, sizeof text, "\"%s\"", hex);
    edit_json(json, "predicate.log.last.root", text);
    write_forged(json, &old, SIGNED, el_path("forged.json"));
    fp__dsse_free(&old);
    snprintf(e->receipt, PATHS, "%s", el_path("forged.json"));
    snprintf(e->transcript, PATHS, "%s", transcripts[0]);
}

/* ---- anchors ---- */

static void anchor_event(const scenario *s, evidence *e)
{
    fp_event_receipt event;
    own(e, "withdrawing");
    if (strcmp(s->path, "revoked") == 0)
        ok(fp_anchor_revoke(e->w, st.ids[2], "wrong", &event));
    else
        ok(fp_anchor_supersede(e->w, st.ids[2], st.ids[0], "newer", &event));
    /* pages that are still there, of a gate's decision of before */
    fp_session *session;
    fp_session_options so = {.anchors = st.sets[1]};
    fp__ledger_head head;
    fp__ledger_reader_head(e->w->reader, &head);
    ok(fp_session_create(st.e, &so, &session));
    el_begin(session, hello, NULL, 6);
    ok(fp_session_run(session));
    if (strcmp(s->path, "superseded") == 0) { /* let in after it was superseded */
        session->first.size = head.size;
        memcpy(session->first.root, head.root, 32);
    }
    ok(fp_session_receipt(session, e->w, NULL, e->receipt, e->transcript));
    fp_session_destroy(session);
}

static void anchors_swapped(const scenario *s, evidence *e)
{
    fp__dsse old;
    json_t *json = load_payload(receipts[s->base], &old);
    json_t *ids = json_object_get(json_object_get(json_object_get(json, "predicate"), "anchors"), "ids");
    json_t *first = json_incref(json_array_get(ids, 0));
    json_array_set(ids, 0, json_array_get(ids, 1));
    json_array_set_new(ids, 1, first);
    write_forged(json, &old, LOGGED, el_path("forged.json"));
    fp__dsse_free(&old);
    snprintf(e->receipt, PATHS, "%s", el_path("forged.json"));
    snprintf(e->transcript, PATHS, "%s", transcripts[s->base]);
}

static void anchors_left_out(const scenario *s, evidence *e)
{
    fp__dsse old;
    json_t *json = load_payload(receipts[s->base], &old);
    json_object_del(json_object_get(json, "predicate"), "anchors");
    edit_json(json, "predicate.tokens.anchor", "0");
    write_forged(json, &old, LOGGED, el_path("forged.json"));
    fp__dsse_free(&old);
    snprintf(e->receipt, PATHS, "%s", el_path("forged.json"));
    snprintf(e->transcript, PATHS, "%s", transcripts[s->base]);
}

static void file_of_anchor(const scenario *s, evidence *e)
{
    fp_anchor_row row;
    fp_statement statement;
    fp__buf path = {0};
    own(e, "files");
    ok(fp_anchor_show(e->w, st.ids[0], &row, &statement));
    bool document = strncmp(s->path, "document", 8) == 0;
    ok(fp__workspace_id_path(e->w, document ? "documents" : "anchors",
                             document ? statement.document_sha256 : st.ids[0], document ? "" : ".dsse.json",
                             &path));
    if (s->value)
        ok(fp__file_write((char *)path.data, s->value, strlen(s->value), 0644));
    else
        assert_int_equal(remove((char *)path.data), 0);
    fp__buf_free(&path);
    snprintf(e->receipt, PATHS, "%s", receipts[1]);
    snprintf(e->transcript, PATHS, "%s", transcripts[1]);
    if (strcmp(s->path, "document-compiled") == 0) {
        e->refused = fp_anchors_compile(st.e, e->w, (const uint8_t(*)[32])st.ids, 1, NULL, NULL, NULL, NULL);
        char why[512];
        snprintf(why, sizeof why, "%s", fp_error_detail());
        fp_workspace_close(e->w);
        e->refused = fp__fail(e->refused, "%s", why);
    }
}

/* ---- artifacts and session files: refused at load ---- */

/* The header's own digest only finds accidents: a forger makes it anew. */
static void sign_header(fp__buf *bytes)
{
    uint64_t n = fp__load_le64(bytes->data + 16);
    if (n >= 32 && n <= bytes->size)
        fp__sha256(bytes->data, (size_t)n - 32, bytes->data + n - 32);
}

static void artifact(const scenario *s, evidence *e)
{
    fp_anchors *anchors = NULL;
    char path[PATHS];
    fp__buf bytes = {0};
    ok(fp_workspace_artifact_path(st.w, st.sets[2]->gate.set_id, st.model->digest, path, sizeof path));
    el_read(path, &bytes);
    if (s->path) {
        ok(fp_workspace_artifact_path(st.w, st.sets[1]->gate.set_id, st.model->digest, path, sizeof path));
        bytes.size = 0;
        el_read(path, &bytes);
    } else {
        size_t at = (size_t)s->leaf;
        if (s->leaf < 0)
            at = bytes.size - (size_t)-s->leaf;
        bytes.data[at] ^= 1;
        sign_header(&bytes);
    }
    el_write(el_path("forged.fpkv"), &bytes);
    fp__buf_free(&bytes);
    fp_anchors_options o = {.artifact_path = el_path("forged.fpkv")};
    e->refused = fp_anchors_load(st.e, st.w, (const uint8_t(*)[32])st.ids, 2, &o, &anchors, NULL);
}

static void session_file(const scenario *s, evidence *e)
{
    fp_session *session;
    fp_session_options so = {.tenant = "acme"};
    fp__buf bytes = {0};
    ok(fp_session_create(st.e, &so, &session));
    el_begin(session, hello, NULL, 6);
    ok(fp_session_run(session));
    ok(fp_session_save(session, st.w, el_path("saved.fpkv")));
    fp_session_destroy(session);
    fp_workspace *w = st.w;
    fp_engine *engine = st.e;
    evidence other = {0};
    if (strcmp(s->path, "tenant") == 0)
        so.tenant = "globex";
    else if (strcmp(s->path, "anchors") == 0)
        so.anchors = st.sets[1];
    else if (strcmp(s->path, "deployment") == 0)
        w = st.other;
    else if (strcmp(s->path, "model") == 0) {
        open_other(&other, 52, 0, NULL);
        fp_engine_options o = {.threads = 2, .context_tokens = 900};
        ok(fp_engine_create(other.model, &o, &engine));
    } else {
        el_read(el_path("saved.fpkv"), &bytes);
        bytes.data[s->leaf < 0 ? bytes.size - (size_t)-s->leaf : (size_t)s->leaf] ^= 1;
        sign_header(&bytes);
        el_write(el_path("saved.fpkv"), &bytes);
        fp__buf_free(&bytes);
    }
    session = NULL;
    e->refused = fp_session_load(engine, w, el_path("saved.fpkv"), &so, &session);
    fp_session_destroy(session);
    if (other.model) {
        char why[512];
        snprintf(why, sizeof why, "%s", fp_error_detail());
        fp_engine_destroy(engine);
        fp_model_close(other.model);
        e->refused = fp__fail(e->refused, "%s", why);
    }
}

/* ---- the table ---- */

static const scenario scenarios[] = {
    {"field-predicateType", "`predicateType`: `\"urn:fieldprint:receipt:v2\"`", LIGHT, "INVALID",
     "malformed receipt", field, 0, "predicateType", "\"urn:fieldprint:receipt:v2\"", -1},
    {"field-subject-0-digest-fieldprintLeavesV1", "`subject.0.digest.fieldprintLeavesV1`: another digest",
     LIGHT, "INVALID", "malformed receipt", field, 0, "subject.0.digest.fieldprintLeavesV1", NULL, -1},
    {"field-nonce", "`nonce`: another digest", LIGHT, "INVALID", "the seed is not derived from the nonce",
     field, 0, "predicate.nonce", NULL, -1},
    {"field-tenant", "`tenant`: another digest", NEVER, "VALID-FULL", "", field, 0, "predicate.tenant", NULL,
     -1},
    {"field-model", "`model`: another digest", SAMPLE, "INVALID", "the model is not the one that answered",
     field, 0, "predicate.model", NULL, -1},
    {"field-model-2", "`model`: another digest (with anchors)", LIGHT, "INVALID", "wrong-model", field, 1,
     "predicate.model", NULL, -1},
    {"field-arithmetic", "`arithmetic`: `2`", SAMPLE, "INVALID",
     "the version of the arithmetic is not what the receipt says", field, 0, "predicate.arithmetic", "2", -1},
    {"field-arithmetic-2", "`arithmetic`: `2` (with anchors)", LIGHT, "INVALID", "wrong-arithmetic", field, 1,
     "predicate.arithmetic", "2", -1},
    {"field-policy", "`policy`: another digest", LIGHT, "INVALID",
     "the policy in force at tree size 10 is another one than the receipt names", field, 0,
     "predicate.policy", NULL, -1},
    {"field-log-origin", "`log.origin`: `\"elsewhere.example/log\"`", LIGHT, "INVALID",
     "but the trust file pins", field, 0, "predicate.log.origin", "\"elsewhere.example/log\"", -1},
    {"field-log-first-size", "`log.first.size`: `1` (with anchors)", LIGHT, "INVALID",
     "the first tree head is of another log", field, 1, "predicate.log.first.size", "1", -1},
    {"field-log-first-root", "`log.first.root`: another digest (with anchors)", LIGHT, "INVALID",
     "the first tree head is of another log", field, 1, "predicate.log.first.root", NULL, -1},
    {"field-log-last-root", "`log.last.root`: another digest", LIGHT, "INVALID",
     "the last tree head is of another log", field, 0, "predicate.log.last.root", NULL, -1},
    {"field-log-first-time", "`log.first.time`: `\"now\"` (with anchors)", LIGHT, "INVALID",
     "malformed receipt", field, 1, "predicate.log.first.time", "\"now\"", -1},
    {"field-log-first-time-2", "`log.first.time`: `9007199254740991` (with anchors)", LIGHT, "INVALID",
     "expired", field, 1, "predicate.log.first.time", "9007199254740991", -1},
    {"field-log-last-time", "`log.last.time`: `9007199254740991` (with anchors)", LIGHT, "INVALID", "expired",
     field, 1, "predicate.log.last.time", "9007199254740991", -1},
    {"field-overrides", "`overrides`: `[]`", LIGHT, "INVALID", "malformed receipt", field, 0,
     "predicate.overrides", "[]", -1},
    {"field-overrides-2", "`overrides`: `[7]`", LIGHT, "INVALID", "malformed receipt", field, 0,
     "predicate.overrides", "[7]", -1},
    {"field-overrides-3", "`overrides`: `[\"1111111111…`", LIGHT, "INVALID",
     "an override that the receipt names is not in the log before it", field, 0, "predicate.overrides",
     "[\"1111111111111111111111111111111111111111111111111111111111111111\"]", -1},
    {"field-anchors-ids-0", "`anchors.ids.0`: another digest", LIGHT, "INVALID", "not-logged", field, 1,
     "predicate.anchors.ids.0", NULL, -1},
    {"field-anchors-set", "`anchors.set`: another digest", LIGHT, "INVALID",
     "the anchor set is not what the receipt says", field, 1, "predicate.anchors.set", NULL, -1},
    {"field-anchors-kvHead", "`anchors.kvHead`: another digest", LIGHT, "INVALID",
     "the logged compile event of the anchors is not what the receipt says", field, 1,
     "predicate.anchors.kvHead", NULL, -1},
    {"field-anchors-compileIndex", "`anchors.compileIndex`: `1`", LIGHT, "INVALID",
     "the logged compile event of the anchors is not what the receipt says", field, 1,
     "predicate.anchors.compileIndex", "1", -1},
    {"field-anchors-mode", "`anchors.mode`: `\"reserve\"`", LIGHT, "INVALID",
     "the injection mode is not what the receipt says", field, 1, "predicate.anchors.mode", "\"reserve\"",
     -1},
    {"field-anchors-gammaRaised", "`anchors.gammaRaised`: `9000`", SAMPLE, "INVALID",
     "the injection (γ by layer and head) is not what the receipt says", field, 1,
     "predicate.anchors.gammaRaised", "9000", -1},
    {"field-anchors-gammaRaised-2", "`anchors.gammaRaised`: `60000`", SAMPLE, "INVALID",
     "the injection (γ by layer and head) is not what the receipt says", field, 1,
     "predicate.anchors.gammaRaised", "60000", -1},
    {"field-anchors-injection", "`anchors.injection`: another digest", SAMPLE, "INVALID",
     "the injection (γ by layer and head) is not what the receipt says", field, 1,
     "predicate.anchors.injection", NULL, -1},
    {"field-anchors-proof", "`anchors.proof`: `\"YWJj\"`", LIGHT, "INVALID",
     "the log proof of the compile event", field, 1, "predicate.anchors.proof", "\"YWJj\"", -1},
    {"field-sampling-temperature", "`sampling.temperature`: `\"3f800000\"`", FULL, "INVALID",
     "the model and the sampler give", field, 0, "predicate.sampling.temperature", "\"3f800000\"", -1},
    {"field-sampling-temperature-2", "`sampling.temperature`: `\"7fc00000\"`", SAMPLE, "INVALID",
     "the receipt's sampling", field, 0, "predicate.sampling.temperature", "\"7fc00000\"", -1},
    {"field-sampling-topK", "`sampling.topK`: `1`", FULL, "INVALID", "the model and the sampler give", field,
     0, "predicate.sampling.topK", "1", -1},
    {"field-sampling-topP", "`sampling.topP`: `\"3d800000\"`", FULL, "INVALID",
     "the model and the sampler give", field, 0, "predicate.sampling.topP", "\"3d800000\"", -1},
    {"field-sampling-topP-2", "`sampling.topP`: `\"40000000\"`", SAMPLE, "INVALID", "the receipt's sampling",
     field, 0, "predicate.sampling.topP", "\"40000000\"", -1},
    {"field-sampling-minP", "`sampling.minP`: `\"3f7fffff\"`", FULL, "INVALID",
     "the model and the sampler give", field, 0, "predicate.sampling.minP", "\"3f7fffff\"", -1},
    {"field-sampling-repeatPenalty", "`sampling.repeatPenalty`: `\"40000000\"`", FULL, "INVALID",
     "the model and the sampler give", field, 0, "predicate.sampling.repeatPenalty", "\"40000000\"", -1},
    {"field-sampling-frequencyPenalty", "`sampling.frequencyPenalty`: `\"40000000\"`", FULL, "INVALID",
     "the model and the sampler give", field, 0, "predicate.sampling.frequencyPenalty", "\"40000000\"", -1},
    {"field-sampling-presencePenalty", "`sampling.presencePenalty`: `\"40000000\"`", FULL, "INVALID",
     "the model and the sampler give", field, 0, "predicate.sampling.presencePenalty", "\"40000000\"", -1},
    {"field-sampling-repeatLastN", "`sampling.repeatLastN`: `0`", FULL, "INVALID",
     "the model and the sampler give", field, 0, "predicate.sampling.repeatLastN", "0", -1},
    {"field-sampling-seed", "`sampling.seed`: `\"12345\"`", LIGHT, "INVALID",
     "the seed is not derived from the nonce", field, 0, "predicate.sampling.seed", "\"12345\"", -1},
    {"field-sampling-seedFrom", "`sampling.seedFrom`: `\"server\"`", LIGHT, "INVALID", "malformed receipt",
     field, 0, "predicate.sampling.seedFrom", "\"server\"", -1},
    {"field-sampling-maxTokens", "`sampling.maxTokens`: `23`", SAMPLE, "INVALID",
     "the answer should have ended after", field, 0, "predicate.sampling.maxTokens", "23", -1},
    {"field-sampling-maxTokens-2", "`sampling.maxTokens`: `25`", SAMPLE, "INVALID",
     "the finish reason is not what the receipt says", field, 0, "predicate.sampling.maxTokens", "25", -1},
    {"field-sampling-maxTokens-3", "`sampling.maxTokens`: `4294967296`", LIGHT, "INVALID",
     "malformed receipt", field, 0, "predicate.sampling.maxTokens", "4294967296", -1},
    {"field-sampling-stops", "`sampling.stops`: another digest", LIGHT, "INVALID",
     "the stop strings of the transcript is not what the receipt says", field, 0, "predicate.sampling.stops",
     NULL, -1},
    {"field-tokens-anchor", "`tokens.anchor`: `5`", LIGHT, "INVALID",
     "the number of anchor tokens is not what the receipt says", field, 0, "predicate.tokens.anchor", "5",
     -1},
    {"field-tokens-anchor-2", "`tokens.anchor`: `5` (with anchors)", LIGHT, "INVALID",
     "the number of anchor tokens is not what the receipt says", field, 1, "predicate.tokens.anchor", "5",
     -1},
    {"field-tokens-prompt", "`tokens.prompt`: `5`", SAMPLE, "INVALID",
     "the number of prompt tokens is not what the receipt says", field, 0, "predicate.tokens.prompt", "5",
     -1},
    {"field-tokens-output", "`tokens.output`: `23`", LIGHT, "INVALID",
     "the number of output tokens is not what the receipt says", field, 0, "predicate.tokens.output", "23",
     -1},
    {"field-tokens-context", "`tokens.context`: `99`", SAMPLE, "INVALID",
     "the number of context tokens is not what the receipt says", field, 0, "predicate.tokens.context", "99",
     -1},
    {"field-tokens-limit", "`tokens.limit`: `20`", SAMPLE, "INVALID",
     "the size of the context is not what the receipt says", field, 0, "predicate.tokens.limit", "20", -1},
    {"field-tokens-limit-2", "`tokens.limit`: `9007199254740991`", SAMPLE, "INVALID",
     "the size of the context is not what the receipt says", field, 0, "predicate.tokens.limit",
     "9007199254740991", -1},
    {"field-finish", "`finish`: `\"stop\"`", SAMPLE, "INVALID",
     "the finish reason is not what the receipt says", field, 0, "predicate.finish", "\"stop\"", -1},
    {"field-finish-2", "`finish`: `\"cancelled\"`", SAMPLE, "INVALID",
     "the finish reason is not what the receipt says", field, 0, "predicate.finish", "\"cancelled\"", -1},
    {"field-finish-3", "`finish`: `\"error\"`", LIGHT, "INVALID", "malformed receipt", field, 0,
     "predicate.finish", "\"error\"", -1},
    {"field-label", "`label`: `\"core\"`", SAMPLE, "INVALID",
     "the label of the answer is not what the receipt says", field, 0, "predicate.label", "\"core\"", -1},
    {"field-validation-level", "`validation.level`: `\"none\"`", LIGHT, "INVALID", "malformed receipt", field,
     0, "predicate.validation.level", "\"none\"", -1},
    {"field-validation-level-2", "`validation.level`: `\"scrub\"`", LIGHT, "INVALID", "malformed receipt",
     field, 0, "predicate.validation.level", "\"scrub\"", -1},
    {"field-validation-level-3", "`validation.level`: `\"replay\"`", LIGHT, "INVALID", "malformed receipt",
     field, 0, "predicate.validation.level", "\"replay\"", -1},
    {"field-validation-level-4", "`validation.level`: `5`", LIGHT, "INVALID", "malformed receipt", field, 0,
     "predicate.validation.level", "5", -1},
    {"field-validation-replay65536", "`validation.replay65536`: `1`", LIGHT, "INVALID", "malformed receipt",
     field, 0, "predicate.validation.replay65536", "1", -1},
    {"field-validation-replay65536-2", "`validation.replay65536`: `65537`", LIGHT, "INVALID",
     "malformed receipt", field, 0, "predicate.validation.replay65536", "65537", -1},
    {"field-validation-pageWindowMs", "`validation.pageWindowMs`: `1`", LIGHT, "INVALID", "malformed receipt",
     field, 0, "predicate.validation.pageWindowMs", "1", -1},
    {"field-validation-weightWindowMs", "`validation.weightWindowMs`: `1`", LIGHT, "INVALID",
     "malformed receipt", field, 0, "predicate.validation.weightWindowMs", "1", -1},
    {"field-validation-unverifiedPages", "`validation.unverifiedPages`: `3`", LIGHT, "INVALID",
     "malformed receipt", field, 0, "predicate.validation.unverifiedPages", "3", -1},
    {"field-validation-failures", "`validation.failures`: `4294967296`", LIGHT, "INVALID",
     "malformed receipt", field, 0, "predicate.validation.failures", "4294967296", -1},
    {"field-validation-failures-2", "`validation.failures`: `-1`", LIGHT, "INVALID", "malformed receipt",
     field, 0, "predicate.validation.failures", "-1", -1},
    {"field-validation-failures-3", "`validation.failures`: `1`", NEVER, "VALID-FULL", "", field, 0,
     "predicate.validation.failures", "1", -1},
    {"field-release-mode", "`release.mode`: `\"gated\"`", NEVER, "VALID-FULL", "", field, 0,
     "predicate.release.mode", "\"gated\"", -1},
    {"field-release-mode-2", "`release.mode`: `\"soon\"`", LIGHT, "INVALID", "malformed receipt", field, 0,
     "predicate.release.mode", "\"soon\"", -1},
    {"field-release-status", "`release.status`: `\"provisional\"`", LIGHT, "UNDECIDED",
     "the receipt is provisional", field, 0, "predicate.release.status", "\"provisional\"", -1},
    {"field-release-status-2", "`release.status`: `\"retracted\"`", LIGHT, "INVALID", "malformed receipt",
     field, 0, "predicate.release.status", "\"retracted\"", -1},
    {"field-release-status-3", "`release.status`: `\"sure\"`", LIGHT, "INVALID", "malformed receipt", field,
     0, "predicate.release.status", "\"sure\"", -1},
    {"field-release-retractions", "`release.retractions`: `[5]`", LIGHT, "INVALID", "malformed receipt",
     field, 0, "predicate.release.retractions", "[5]", -1},
    {"field-release-retractions-2", "`release.retractions`: `{}`", LIGHT, "INVALID", "malformed receipt",
     field, 0, "predicate.release.retractions", "{}", -1},
    {"field-leaves-count", "`leaves.count`: `5`", LIGHT, "INVALID",
     "the number of leaves of the transcript is not what the receipt says", field, 0,
     "predicate.leaves.count", "5", -1},
    {"field-leaves-root", "`leaves.root`: another digest", LIGHT, "INVALID", "malformed receipt", field, 0,
     "predicate.leaves.root", NULL, -1},
    {"field-engine", "`engine`: `\"another engine\"`", NEVER, "VALID-FULL", "", field, 0, "predicate.engine",
     "\"another engine\"", -1},
    {"field-time", "`time`: `1700000000`", NEVER, "VALID-FULL", "", field, 0, "predicate.time", "1700000000",
     -1},
    {"field-extra", "`extra`: `1`", LIGHT, "INVALID", "malformed receipt", field, 0, "predicate.extra", "1",
     -1},
    {"field-sampling-seed-2", "`sampling.seed`: `12345`, of a receipt without a nonce", FULL, "INVALID",
     "the model and the sampler give", field, 2, "predicate.sampling.seed", "\"12345\"", -1},
    {"field-sampling-seedFrom-2", "`sampling.seedFrom`: `\"nonce\"`, of a receipt without one", LIGHT,
     "INVALID", "malformed receipt", field, 2, "predicate.sampling.seedFrom", "\"nonce\"", -1},
    {"field-sampling-ignoreEndOfGeneration",
     "`sampling.ignoreEndOfGeneration`: `false` (no such token was sampled: it is the same answer)", NEVER,
     "VALID-FULL", "", field, 0, "predicate.sampling.ignoreEndOfGeneration", "false", -1},
    {"field-log-first-size-2", "`log.first.size`: larger than the last", LIGHT, "INVALID",
     "malformed receipt", field, 0, "predicate.log.first.size", "900", -1},
    {"field-log-first-root-2", "`log.first.root`: another digest, without anchors", LIGHT, "INVALID",
     "the first tree head is of another log", field, 0, "predicate.log.first.root", NULL, -1},
    {"field-log-last-size", "`log.last.size`: `100000`", LIGHT, "UNDECIDED",
     "it is behind, or was rolled back", field, 0, "predicate.log.last.size", "100000", -1},
    {"field-log-last-size-2", "`log.last.size`: `2`", LIGHT, "INVALID", "malformed receipt", field, 0,
     "predicate.log.last.size", "2", -1},
    {"end-ignored", "`sampling.ignoreEndOfGeneration`: `true`, of an answer that ended by itself", SAMPLE,
     "INVALID", "the finish reason is not what the receipt says", end_ignored, 0, NULL, NULL, -1},
    {"provisional-as-final", "a provisional receipt, edited to be a final one", LIGHT, "INVALID",
     "the signature of the receipt is not by an engine key of the policy in force", provisional, 0, NULL,
     NULL, -1},
    {"receipt-old-signature", "every field in turn, the signature as it was", LIGHT, "INVALID",
     "the signature of the receipt is not by an engine key of the policy in force", all_fields, 0, NULL, NULL,
     -1},
    {"receipt-stranger", "every field in turn, signed by the engine key of another deployment", LIGHT,
     "INVALID", "the signature of the receipt is not by an engine key of the policy in force", all_fields, 0,
     NULL, "stranger", -1},
    {"receipt-signature-bit", "one bit of the signature", LIGHT, "INVALID",
     "the signature of the receipt is not by an engine key of the policy in force", signature_bit, 0, NULL,
     NULL, -1},
    {"receipt-other-purpose", "the receipt signed by an author key", LIGHT, "INVALID",
     "the signature of the receipt is not by an engine key of the policy in force", other_purpose, 1, NULL,
     NULL, -1},
    {"receipt-unlogged", "a claim changed, signed by the engine key, not logged", LIGHT, "UNDECIDED",
     "the receipt is not in the log at hand", unlogged, 0, NULL, NULL, -1},
    {"nonce-replayed", "a receipt of another request (the client compares its nonce)", LIGHT, "INVALID",
     "the nonce is not yours: the receipt is of another request", replayed, 0, NULL, NULL, -1},
    {"transcript-text-of-a-message", "text of a message, in the transcript alone", LIGHT, "INVALID",
     "the roots differ", leaf_alone, 1, "leaves.2.text", "\"And the dog?\"", -1},
    {"signed-text-of-a-message", "text of a message, and a receipt for it", SAMPLE, "INVALID",
     "the tokens of message 2 are not what its text gives", leaf_signed, 1, "leaves.2.text",
     "\"And the dog?\"", -1},
    {"transcript-id-of-a-message", "a token of a message, in the transcript alone", LIGHT, "INVALID",
     "the roots differ", leaf_alone, 1, NULL, NULL, 2},
    {"signed-id-of-a-message", "a token of a message, and a receipt for it", SAMPLE, "INVALID",
     "the tokens of message 2 are not what its text gives", leaf_signed, 1, NULL, NULL, 2},
    {"transcript-id-of-the-first-message", "a token of the first message, in the transcript alone", LIGHT,
     "INVALID", "the roots differ", leaf_alone, 1, NULL, NULL, 0},
    {"signed-id-of-the-first-message", "a token of the first message, and a receipt for it", SAMPLE,
     "INVALID", "the tokens of message 0 are not what its text gives", leaf_signed, 1, NULL, NULL, 0},
    {"transcript-role-of-a-message", "role of a message, in the transcript alone", LIGHT, "INVALID",
     "the roots differ", leaf_alone, 1, "leaves.2.role", "\"system\"", -1},
    {"signed-role-of-a-message", "role of a message, and a receipt for it", SAMPLE, "INVALID",
     "the tokens of message 2 are not what its text gives", leaf_signed, 1, "leaves.2.role", "\"system\"",
     -1},
    {"transcript-label-of-a-message", "label of a message, in the transcript alone", LIGHT, "INVALID",
     "the roots differ", leaf_alone, 1, "leaves.0.label", "\"core\"", -1},
    {"signed-label-of-a-message", "label of a message, and a receipt for it", SAMPLE, "INVALID",
     "text 0 is labelled core, which only anchors are", leaf_signed, 1, "leaves.0.label", "\"core\"", -1},
    {"transcript-salt-of-a-message", "salt of a message, in the transcript alone", LIGHT, "INVALID",
     "the roots differ", leaf_alone, 1, "leaves.0.salt", NULL, -1},
    {"signed-salt-of-a-message", "salt of a message, and a receipt for it", NEVER, "VALID-FULL", "",
     leaf_signed, 1, "leaves.0.salt", NULL, -1},
    {"transcript-text-of-an-earlier-answer", "text of an earlier answer, in the transcript alone", LIGHT,
     "INVALID", "the roots differ", leaf_alone, 1, "leaves.1.text", "\"Something else\"", -1},
    {"signed-text-of-an-earlier-answer", "text of an earlier answer, and a receipt for it", SAMPLE, "INVALID",
     "the text of answer 1 is not what its tokens give", leaf_signed, 1, "leaves.1.text",
     "\"Something else\"", -1},
    {"transcript-id-of-an-earlier-answer", "a token of an earlier answer, in the transcript alone", LIGHT,
     "INVALID", "the roots differ", leaf_alone, 1, NULL, NULL, 1},
    {"signed-id-of-an-earlier-answer", "a token of an earlier answer, and a receipt for it", SAMPLE,
     "INVALID", "the text of answer 1 is not what its tokens give", leaf_signed, 1, NULL, NULL, 1},
    {"transcript-label-of-an-earlier-answer", "label of an earlier answer, in the transcript alone", LIGHT,
     "INVALID", "the roots differ", leaf_alone, 1, "leaves.1.label", "\"external\"", -1},
    {"signed-label-of-an-earlier-answer", "label of an earlier answer, and a receipt for it", SAMPLE,
     "INVALID", "the label of answer 1 is not the lowest that it attended to", leaf_signed, 1,
     "leaves.1.label", "\"external\"", -1},
    {"transcript-text-of-the-answer", "text of the answer, in the transcript alone", LIGHT, "INVALID",
     "the roots differ", leaf_alone, 1, "leaves.3.text", "\"Something else\"", -1},
    {"signed-text-of-the-answer", "text of the answer, and a receipt for it", SAMPLE, "INVALID",
     "the text of the answer is not what its tokens give", leaf_signed, 1, "leaves.3.text",
     "\"Something else\"", -1},
    {"transcript-text-of-the-answer-emptied", "text of the answer emptied, in the transcript alone", LIGHT,
     "INVALID", "the roots differ", leaf_alone, 1, "leaves.3.text", "\"\"", -1},
    {"signed-text-of-the-answer-emptied", "text of the answer emptied, and a receipt for it", SAMPLE,
     "INVALID", "the text of the answer is not what its tokens give", leaf_signed, 1, "leaves.3.text", "\"\"",
     -1},
    {"transcript-id-of-the-answer", "a token of the answer, in the transcript alone", LIGHT, "INVALID",
     "the roots differ", leaf_alone, 1, NULL, NULL, 3},
    {"signed-id-of-the-answer", "a token of the answer, and a receipt for it", SAMPLE, "INVALID",
     "the K/V pages hash to another head than the receipt commits to", leaf_signed, 1, NULL, NULL, 3},
    {"transcript-label-of-the-answer", "label of the answer, in the transcript alone", LIGHT, "INVALID",
     "the roots differ", leaf_alone, 1, "leaves.3.label", "\"external\"", -1},
    {"signed-label-of-the-answer", "label of the answer, and a receipt for it", SAMPLE, "INVALID",
     "the label of answer 3 is not the lowest that it attended to", leaf_signed, 1, "leaves.3.label",
     "\"external\"", -1},
    {"transcript-salt-of-the-answer", "salt of the answer, in the transcript alone", LIGHT, "INVALID",
     "the roots differ", leaf_alone, 1, "leaves.3.salt", NULL, -1},
    {"signed-salt-of-the-answer", "salt of the answer, and a receipt for it", NEVER, "VALID-FULL", "",
     leaf_signed, 1, "leaves.3.salt", NULL, -1},
    {"transcript-kv-head", "the K/V head (one flipped K/V bit gives another one), in the transcript alone",
     LIGHT, "INVALID", "the roots differ", leaf_alone, 1, "leaves.4.hex", NULL, -1},
    {"signed-kv-head", "the K/V head (one flipped K/V bit gives another one), and a receipt for it", SAMPLE,
     "INVALID", "the K/V pages hash to another head than the receipt commits to", leaf_signed, 1,
     "leaves.4.hex", NULL, -1},
    {"transcript-label-of-the-kv-head", "label of the kv head, in the transcript alone", LIGHT, "INVALID",
     "the roots differ", leaf_alone, 1, "leaves.4.label", "\"external\"", -1},
    {"signed-label-of-the-kv-head", "label of the kv head, and a receipt for it", SAMPLE, "INVALID",
     "the label of leaf 4 is not user", leaf_signed, 1, "leaves.4.label", "\"external\"", -1},
    {"transcript-masses", "masses, in the transcript alone", LIGHT, "INVALID", "the roots differ", leaf_alone,
     1, "leaves.5.hex", NULL, -1},
    {"signed-masses", "masses, and a receipt for it", SAMPLE, "INVALID",
     "an anchor mass is not what the receipt says", leaf_signed, 1, "leaves.5.hex", NULL, -1},
    {"transcript-stop-strings", "stop strings, in the transcript alone", LIGHT, "INVALID",
     "the stop strings of the transcript is not what the receipt says", leaf_alone, 1, "stops",
     "[\"x\", \"y\"]", -1},
    {"transcript-raw", "raw, in the transcript alone", LIGHT, "INVALID", "the roots differ", leaf_alone, 1,
     "raw", "true", -1},
    {"signed-raw", "raw, and a receipt for it", SAMPLE, "INVALID",
     "the tokens of message 0 are not what its text gives", leaf_signed, 1, "raw", "true", -1},
    {"transcript-raw-as-chat", "`raw`, of a chat without anchors, and a receipt for it", SAMPLE, "INVALID",
     "the tokens of message 0 are not what its text gives", leaf_signed, 0, "raw", "true", -1},
    {"transcript-masses-of-none", "anchor masses of a conversation without anchors, and a receipt for it",
     SAMPLE, "INVALID", "the number of anchor masses is not what the receipt says", leaf_signed, 0,
     "leaves.5.hex", "\"00\"", -1},
    {"transcript-swapped", "the transcript of another receipt", LIGHT, "INVALID", "the roots differ",
     other_transcript, 0, NULL, NULL, -1},
    {"transcript-withheld", "no transcript", SAMPLE, "UNDECIDED",
     "the transcript is needed for a full audit (--transcript)", withheld, 0, NULL, NULL, -1},
    {"transcript-leaf-dropped", "a message left out, in the transcript alone", LIGHT, "INVALID",
     "the roots differ", leaf_dropped, 1, NULL, NULL, -1},
    {"transcript-answer-dropped", "the answer left out", LIGHT, "INVALID", "malformed transcript",
     answer_dropped, 1, NULL, NULL, -1},
    {"signed-message-dropped", "a message left out, and a receipt for it", SAMPLE, "INVALID",
     "the number of context tokens is not what the receipt says", message_dropped, 1, NULL, NULL, -1},
    {"signed-messages-swapped", "two messages in the other order, and a receipt for it", SAMPLE, "INVALID",
     "the tokens of message 0 are not what its text gives", messages_swapped, 1, NULL, NULL, -1},
    {"signed-answer-cut", "the last token of the answer left out, and a receipt for it", SAMPLE, "INVALID",
     "the K/V pages hash to another head than the receipt commits to", answer_cut, 1, NULL, NULL, -1},
    {"signed-answer-longer", "a token appended to the answer, and a receipt for it", LIGHT, "INVALID",
     "the number of output tokens is not what the receipt says", answer_longer, 1, NULL, NULL, -1},
    {"signed-no-vocabulary", "a token that no vocabulary has, and a receipt for it", SAMPLE, "INVALID",
     "is outside of the vocabulary", no_vocabulary, 1, NULL, NULL, -1},
    {"model-swapped", "the model file: other weights", SAMPLE, "INVALID",
     "the model is not the one that answered", model_swapped, 0, NULL, NULL, -1},
    {"model-quantization", "the model file: the same weights in another quantization", SAMPLE, "INVALID",
     "the model is not the one that answered", model_swapped, 0, "q", NULL, -1},
    {"model-template", "the chat template", SAMPLE, "INVALID", "the model is not the one that answered",
     model_swapped, 0, "q", "zephyr", -1},
    {"model-lied", "an answer of another model, the receipt names the right one", SAMPLE, "INVALID",
     "the K/V pages hash to another head than the receipt commits to", model_lied, 0, NULL, NULL, -1},
    {"model-lied-quantization", "an answer in another quantization, the receipt names the right file", SAMPLE,
     "INVALID", "the K/V pages hash to another head than the receipt commits to", model_lied, 0, "q", NULL,
     -1},
    {"log-foreign", "the log of somebody else", LIGHT, "INVALID", "but the trust file pins", foreign_log, 0,
     NULL, NULL, -1},
    {"log-rolled-back", "the log, cut to before the tree head that the receipt names", LIGHT, "UNDECIDED",
     "it is behind, or was rolled back", rolled_back, 0, NULL, NULL, -1},
    {"log-behind", "the log, cut to before the entry that logs the receipt", LIGHT, "UNDECIDED",
     "the receipt is not in the log at hand", behind, 0, NULL, NULL, -1},
    {"log-shortened", "a log shorter than the auditor has seen", LOAD, "refused", "the log went back",
     shortened, 0, NULL, NULL, -1},
    {"log-forked", "another continuation of the log, signed by its key", LIGHT, "INVALID",
     "the first tree head is of another log", forked, 0, NULL, NULL, -1},
    {"log-head-of-the-future", "a receipt that names a tree after the entry that logs it", LIGHT, "INVALID",
     "the last tree head is of another log", logged_early, 0, NULL, NULL, -1},
    {"receipt-retracted", "an answer whose retraction is logged", LIGHT, "INVALID",
     "of the log retracts this answer", retracted, 0, NULL, NULL, -1},
    {"key-distrusted", "signed by a stolen engine key, after its distrust", LIGHT, "INVALID",
     "the signature of the receipt is not by an engine key of the policy in force", key_distrusted, 0, NULL,
     NULL, -1},
    {"anchor-revoked", "an answer begun before, ended after the anchor was revoked", LIGHT, "INVALID",
     "revoked", anchor_event, 1, "revoked", NULL, -1},
    {"anchor-superseded", "an answer begun after the anchor was superseded", LIGHT, "INVALID", "superseded",
     anchor_event, 1, "superseded", NULL, -1},
    {"anchor-order", "anchors in the other order", LIGHT, "INVALID", "not-compiled", anchors_swapped, 1, NULL,
     NULL, -1},
    {"anchor-left-out", "anchors that the receipt does not name", SAMPLE, "INVALID",
     "the tokens of message 0 are not what its text gives", anchors_left_out, 1, NULL, NULL, -1},
    {"anchor-document", "another document in place of the signed one", SAMPLE, "UNDECIDED",
     "the document of an anchor is needed", file_of_anchor, 1, "document", "Another text.", -1},
    {"anchor-document-compiled", "another document in place of the signed one, compiled again", LOAD,
     "refused", "is not the document that was signed", file_of_anchor, 1, "document-compiled",
     "Another text.", -1},
    {"anchor-document-missing", "the document of an anchor deleted", SAMPLE, "UNDECIDED",
     "the document of an anchor is needed", file_of_anchor, 1, "document-missing", NULL, -1},
    {"anchor-statement-missing", "the statement of an anchor deleted", LIGHT, "UNDECIDED",
     "a statement of the anchors is missing", file_of_anchor, 1, "statement-missing", NULL, -1},
    {"anchor-statement", "another text in place of the statement", LIGHT, "UNDECIDED",
     "a statement of the anchors is missing", file_of_anchor, 1, "statement", "{}", -1},
    {"artifact-magic", "artifact header forged: its first byte", LOAD, "refused", "does not begin with FPKV",
     artifact, 1, NULL, NULL, 0},
    {"artifact-version", "artifact header forged: its version", LOAD, "refused", "of version", artifact, 1,
     NULL, NULL, 4},
    {"artifact-arithmetic", "artifact header forged: its arithmetic version", LOAD, "refused",
     "arithmetic version", artifact, 1, NULL, NULL, 6},
    {"artifact-kind", "artifact header forged: its kind", LOAD, "refused",
     "the anchor count does not fit its kind or page count", artifact, 1, NULL, NULL, 8},
    {"artifact-size", "artifact header forged: its size", LOAD, "refused",
     "the file size does not follow from the counts", artifact, 1, NULL, NULL, 24},
    {"artifact-model", "artifact header forged: its model", LOAD, "refused", "root-mismatch", artifact, 1,
     NULL, NULL, 32},
    {"artifact-subject", "artifact header forged: its set", LOAD, "refused", "root-mismatch", artifact, 1,
     NULL, NULL, 64},
    {"artifact-position", "artifact header forged: its first position", LOAD, "refused", "root-mismatch",
     artifact, 1, NULL, NULL, 104},
    {"artifact-tokens", "artifact header forged: its number of tokens", LOAD, "refused",
     "the header size does not follow from the counts", artifact, 1, NULL, NULL, 112},
    {"artifact-pages", "artifact header forged: its number of pages", LOAD, "refused",
     "the count of sealed pages does not fit the page count", artifact, 1, NULL, NULL, 120},
    {"artifact-kv-head", "artifact header forged: its K/V head", LOAD, "refused", "root-mismatch", artifact,
     1, NULL, NULL, 304},
    {"artifact-ids", "artifact header forged: a token", LOAD, "refused", "root-mismatch", artifact, 1, NULL,
     NULL, 400},
    {"artifact-kv-bit", "one bit of a K/V page of the anchors", LOAD, "refused", "root-mismatch", artifact, 1,
     NULL, NULL, -5000},
    {"artifact-swapped", "the artifact of another set", LOAD, "refused", "root-mismatch", artifact, 1, "swap",
     NULL, -1},
    {"session-tenant", "session file of another tenant", LOAD, "refused",
     "the session belongs to another tenant", session_file, 0, "tenant", NULL, -1},
    {"session-deployment", "session file of another deployment", LOAD, "refused",
     "the manifest is not signed by an engine key of this deployment", session_file, 0, "deployment", NULL,
     -1},
    {"session-model", "session file of another model", LOAD, "refused", "was made with another model",
     session_file, 0, "model", NULL, -1},
    {"session-anchors", "session file made without the anchors", LOAD, "refused", "was made with no anchors",
     session_file, 0, "anchors", NULL, -1},
    {"session-kv-bit", "one bit of a K/V page of a session file", LOAD, "refused", "K/V bytes of page",
     session_file, 0, "bit", NULL, -5000},
    {"session-transcript", "one bit of the transcript in a session file", LOAD, "refused",
     "is not the one that its manifest names", session_file, 0, "bit", NULL, 2600},
};

/* ---- judging ---- */

typedef struct judgement {
    level level;
    const char *verdict;
    char detail[512];
} judgement;

static void judge(const scenario *s, judgement *j)
{
    static const uint8_t seed[32] = {3};
    evidence e = {.w = st.w};
    make_bases();
    *j = (judgement){.level = NEVER};
    s->run(s, &e);
    if (e.refused != FP_OK) {
        j->level = LOAD;
        j->verdict = "refused";
        snprintf(j->detail, sizeof j->detail, "%s: %s", fp_status_name(e.refused), fp_error_detail());
        return;
    }
    fp_audit_options o = {.receipt_path = e.receipt,
                          .transcript_path = e.no_transcript ? NULL : e.transcript,
                          .nonce = e.nonce,
                          .sample_seed = seed};
    for (level at = LIGHT; at <= FULL && !j->verdict; ++at) {
        fp_audit_result r;
        o.model = at == LIGHT ? NULL : e.model ? e.model : st.model;
        o.sample_65536 = at == SAMPLE; /* a share so small that no token is chosen */
        ok(fp_audit(e.w, &o, &r));
        fp_verdict verdict = at == LIGHT ? r.light : r.full;
        if (verdict == FP_VERDICT_INVALID || verdict == FP_VERDICT_UNDECIDED) {
            j->level = at;
            j->verdict = fp_verdict_name(verdict);
            snprintf(j->detail, sizeof j->detail, "%s", r.detail);
        }
    }
    if (!j->verdict)
        j->verdict = "VALID-FULL";
    fp_model_close(e.model);
    if (e.own_workspace)
        fp_workspace_close(e.w);
}

static void test_scenario(void **state)
{
    const scenario *s = *state;
    judgement j;
    judge(s, &j);
    if (j.level != s->level || strcmp(j.verdict, s->verdict) != 0 || !strstr(j.detail, s->reason))
        fail_msg("%s: %s at level %s (\"%s\") where %s at level %s with \"%s\" was expected", s->name,
                 j.verdict, level_names[j.level], j.detail, s->verdict, level_names[s->level], s->reason);
}

/* ---- the table is complete, and it is the one of the documentation ---- */

enum { SCENARIOS = sizeof scenarios / sizeof *scenarios };

static void look_up(const char *path, void *arg)
{
    (void)arg;
    for (size_t i = 0; i < SCENARIOS; i++)
        if (scenarios[i].run == field && strcmp(scenarios[i].path, path) == 0)
            return;
    if (strcmp(path, "_type") != 0 && strcmp(path, "subject.0.name") != 0)
        fail_msg("no scenario changes the field %s", path);
}

static void test_every_field(void **state)
{
    (void)state;
    make_bases();
    for (size_t base = 0; base < 2; base++) {
        fp__dsse old;
        json_t *json = load_payload(receipts[base], &old);
        json_t *ids = json_object_get(json_object_get(json_object_get(json, "predicate"), "anchors"), "ids");
        if (ids)
            json_array_remove(ids, 1); /* one of a list is enough */
        each_field(json, "", look_up, NULL);
        json_decref(json);
        fp__dsse_free(&old);
    }
    for (size_t i = 0; i < SCENARIOS; i++)
        for (size_t k = 0; k < i; k++)
            assert_string_not_equal(scenarios[i].name, scenarios[k].name);
}

static void table(fp__buf *out)
{
    GW_CHECK(fp__buf_printf(out, "| scenario | what is tampered | seen by | verdict | reason |\n"
                                 "| --- | --- | --- | --- | --- |\n"));
    for (size_t i = 0; i < SCENARIOS; i++) {
        const scenario *s = &scenarios[i];
        GW_CHECK(fp__buf_printf(out, "| `%s` | %s | %s | %s | %s |\n", s->name, s->what,
                                level_names[s->level], s->verdict, s->reason[0] ? s->reason : "-"));
    }
}

static void test_documented(void **state)
{
    (void)state;
    static const char begin[] = "<!-- test_tamper --table -->\n", end[] = "<!-- end -->";
    fp__buf doc = {0}, wanted = {0};
    el_read("docs/audit.md", &doc);
    GW_CHECK(fp__buf_append(&doc, "", 1));
    table(&wanted);
    const char *from = strstr((char *)doc.data, begin), *to = from ? strstr(from, end) : NULL;
    assert_non_null(to);
    from += strlen(begin);
    if ((size_t)(to - from) != wanted.size || memcmp(from, wanted.data, wanted.size) != 0)
        fail_msg("the table of docs/audit.md is not what test_tamper --table prints");
    fp__buf_free(&doc);
    fp__buf_free(&wanted);
}

int main(int argc, char **argv)
{
    static struct CMUnitTest tests[SCENARIOS + 2];
    fp__buf out = {0};
    if (argc == 2 && strcmp(argv[1], "--table") == 0) {
        table(&out);
        fwrite(out.data, 1, out.size, stdout);
        fp__buf_free(&out);
        return 0;
    }
    if (argc == 2 && strcmp(argv[1], "--measure") == 0) {
        void *nothing = NULL;
        if (open_stage(&nothing) != 0)
            return 1;
        for (size_t i = 0; i < SCENARIOS; i++) {
            judgement j;
            judge(&scenarios[i], &j);
            printf("%s\t%s\t%s\t%s\n", scenarios[i].name, level_names[j.level], j.verdict, j.detail);
            fflush(stdout);
        }
        return close_stage(&nothing);
    }
    for (size_t i = 0; i < SCENARIOS; i++)
        tests[i] = (struct CMUnitTest){.name = scenarios[i].name,
                                       .test_func = test_scenario,
                                       .initial_state = (void *)(uintptr_t)&scenarios[i]};
    tests[SCENARIOS] = (struct CMUnitTest)cmocka_unit_test(test_every_field);
    tests[SCENARIOS + 1] = (struct CMUnitTest)cmocka_unit_test(test_documented);
    return cmocka_run_group_tests(tests, open_stage, close_stage);
}
