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
#include "tamper_table.h"
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
