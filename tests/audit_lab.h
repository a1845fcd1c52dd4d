/* What the tests of audits share: a stage with a model, a workspace and anchors; honest receipts; and the
 * tools of a forger: receipts edited and signed again, transcripts edited, receipts made for them. */
#ifndef FP_TESTS_AUDIT_LAB_H
#define FP_TESTS_AUDIT_LAB_H
#include "engine_lab.h"

enum { PATHS = 1024, BASES = 3 };
static const char hello[] =
    "When does the office of the harbour master close? Say it in one sentence, please.";

typedef struct stage {
    fp_model *model;
    fp_workspace *w, *other;
    uint8_t ids[3][32]; /* harbour (floor), manners (floor), plain (compete) */
    fp_engine *e;
    fp_anchors *sets[4]; /* none; plain; harbour + manners; harbour with γ raised */
} stage;
static stage st;
static const char *lab_model; /* a GGUF file to be used instead of a tiny random one; NULL: none */

static inline int open_stage(void **state)
{
    if (el_set_up(state) != 0)
        return -1;
    gw_model m = el_model_like("llama", 51);
    if (lab_model)
        ok(fp_model_open(lab_model, NULL, &st.model));
    else
        st.model = el_open(&m);
    st.w = el_workspace("w");
    st.other = el_workspace("other");
    el_anchor(st.w, "harbour", el_text1, FP_INJECT_FLOOR, 8192, st.ids[0]);
    el_anchor(st.w, "manners", el_text2, FP_INJECT_FLOOR, 8192, st.ids[1]);
    el_anchor(st.w, "plain", el_text2, FP_INJECT_COMPETE, 0, st.ids[2]);
    fp_engine_options o = {.threads = 2, .max_sessions = 4, .context_tokens = 900};
    ok(fp_engine_create(st.model, &o, &st.e));
    const uint8_t(*ids)[32] = (const uint8_t(*)[32])st.ids;
    fp_anchors_options raised = {.gamma = 20000};
    ok(fp_anchors_compile(st.e, st.w, ids + 2, 1, NULL, NULL, NULL, NULL));
    ok(fp_anchors_compile(st.e, st.w, ids, 2, NULL, NULL, NULL, NULL));
    ok(fp_anchors_compile(st.e, st.w, ids, 1, NULL, NULL, NULL, NULL));
    ok(fp_anchors_load(st.e, st.w, ids + 2, 1, NULL, &st.sets[1], NULL));
    ok(fp_anchors_load(st.e, st.w, ids, 2, NULL, &st.sets[2], NULL));
    ok(fp_anchors_load(st.e, st.w, ids, 1, &raised, &st.sets[3], NULL));
    return 0;
}

static inline int close_stage(void **state)
{
    for (size_t i = 1; i < 4; i++)
        fp_anchors_release(st.sets[i]);
    fp_engine_destroy(st.e);
    fp_workspace_close(st.w);
    fp_workspace_close(st.other);
    fp_model_close(st.model);
    return el_tear_down(state);
}

static inline void audit_with(fp_workspace *w, const fp_model *model, const char *receipt,
                              const char *transcript, const fp_engine_options *engine, const uint8_t *nonce,
                              fp_audit_result *r)
{
    fp_audit_options o = {.receipt_path = receipt,
                          .transcript_path = transcript,
                          .engine = engine,
                          .model = model,
                          .nonce = nonce};
    ok(fp_audit(w, &o, r));
}

static inline void valid(fp_workspace *w, const fp_model *model, const char *receipt, const char *transcript,
                         const fp_engine_options *engine, const char *name)
{
    fp_audit_result r;
    audit_with(w, model, receipt, transcript, engine, NULL, &r);
    if (r.light != FP_VERDICT_VALID_LIGHT || r.full != FP_VERDICT_VALID_FULL)
        fail_msg("%s: %s %s: %s", name, fp_verdict_name(r.light), fp_verdict_name(r.full), r.detail);
    assert_int_equal(r.position, -1);
}

static inline json_t *load_payload(const char *path, fp__dsse *dsse)
{
    fp__buf bytes = {0};
    memset(dsse, 0, sizeof *dsse);
    el_read(path, &bytes);
    ok(fp__dsse_parse(bytes.data, bytes.size, dsse));
    json_t *json = json_loadb((const char *)dsse->payload.data, dsse->payload.size, 0, NULL);
    assert_non_null(json);
    fp__buf_free(&bytes);
    return json;
}

/* path "predicate.sampling.topK"; value is JSON text, or NULL: the first character of the text there is
 * changed. */
static inline void edit_json(json_t *json, const char *path, const char *value)
{
    char part[64];
    while (strchr(path, '.')) {
        size_t n = strcspn(path, ".");
        snprintf(part, sizeof part, "%.*s", (int)n, path);
        json = json_is_array(json) ? json_array_get(json, (size_t)atoi(part)) : json_object_get(json, part);
        assert_non_null(json);
        path += n + 1;
    }
    json_t *new_value;
    if (value) {
        new_value = json_loads(value, JSON_DECODE_ANY, NULL);
    } else {
        json_t *old =
            json_is_array(json) ? json_array_get(json, (size_t)atoi(path)) : json_object_get(json, path);
        char text[65536];
        snprintf(text, sizeof text, "%s", json_string_value(old));
        text[0] = text[0] == '1' ? '2' : '1';
        new_value = json_string(text);
    }
    assert_non_null(new_value);
    if (json_is_array(json))
        json_array_set_new(json, (size_t)atoi(path), new_value);
    else
        json_object_set_new(json, path, new_value);
}

typedef enum forgery { UNSIGNED, SIGNED, LOGGED } forgery; /* UNSIGNED keeps the old signature */

/* Writes the payload as a receipt; takes json. */
static inline void write_forged(json_t *json, const fp__dsse *old, forgery how, const char *path)
{
    fp__dsse dsse = {0};
    fp__buf bytes = {0};
    ok(fp__dsse_create_json(json, &dsse));
    if (how == UNSIGNED) {
        dsse.signatures_count = old->signatures_count;
        memcpy(dsse.signatures, old->signatures, sizeof dsse.signatures);
    } else {
        fp_key *key;
        ok(fp_workspace_key(st.w, FP_PURPOSE_ENGINE, &key));
        ok(fp__dsse_sign(&dsse, key));
        fp_key_free(key);
    }
    ok(fp__dsse_write(&dsse, &bytes));
    el_write(path, &bytes);
    if (how == LOGGED) {
        fp_event_receipt event;
        ok(fp_receipts_log(st.w, (const uint8_t(*)[32]) & dsse.id, 1, &event));
    }
    fp__buf_free(&bytes);
    fp__dsse_free(&dsse);
}

/* Receipts to tamper with: 0 without, 1 with anchors, 2 without a nonce; two turns each, sampled, penalised.
 */
static char receipts[BASES][PATHS], transcripts[BASES][PATHS];
static inline fp_sampling base_sampling(void)
{
    fp_sampling p = el_sampling(1.5f, 5);
    p.repeat_penalty = 3.0f;
    p.repeat_last_n = 4;
    return p;
}

static inline void make_bases(void)
{
    static const uint8_t nonce[32] = {1};
    if (receipts[0][0])
        return;
    for (size_t i = 0; i < BASES; i++) {
        fp_session *s;
        fp_session_options so = {.anchors = i == 1 ? st.sets[2] : NULL, .nonce = i < 2 ? nonce : NULL};
        static const char *const stops[] = {"never said, as it is too long"};
        fp_generate_options o = {.sampling = base_sampling(), .max_tokens = 24, .stops = stops, .n_stops = 1};
        o.ignore_eog = true;
        ok(fp_session_create(st.e, &so, &s));
        for (size_t turn = 0; turn < 2; turn++) {
            el_say(s, turn ? "And the cat?" : hello);
            ok(fp_session_begin(s, &o));
            ok(fp_session_run(s));
        }
        ok(fp_session_receipt(s, st.w, NULL, receipts[i], transcripts[i]));
        fp_session_destroy(s);
        valid(st.w, st.model, receipts[i], transcripts[i], NULL, "base");
    }
}

static inline void expect(const char *name, const fp_audit_result *r, fp_verdict light, const char *word)
{
    if (r->light != light || (light == FP_VERDICT_VALID_LIGHT && r->full != FP_VERDICT_INVALID) ||
        !strstr(r->detail, word))
        fail_msg("%s: %s %s \"%s\" where \"%s\" was expected", name, fp_verdict_name(r->light),
                 fp_verdict_name(r->full), r->detail, word);
}

/* The receipt that a dishonest engine would make for this transcript. */
static inline void sign_for(size_t base, const char *transcript, const char *path)
{
    fp__buf bytes = {0};
    fp__transcript t = {0};
    fp__dsse old;
    uint8_t root[32], stops[32];
    char hex[65], text[80];
    json_t *json = load_payload(receipts[base], &old);
    el_read(transcript, &bytes);
    ok(fp__transcript_parse(bytes.data, bytes.size, &t));
    ok(fp__transcript_root(&t, root));
    ok(fp__transcript_stops_digest(&t, stops));
    fp__hex_encode(root, 32, hex);
    snprintf(text, sizeof text, "\"%s\"", hex);
    edit_json(json, "predicate.leaves.root", text);
    edit_json(json, "subject.0.digest.fieldprintLeavesV1", text);
    snprintf(text, sizeof text, "%zu", t.n);
    edit_json(json, "predicate.leaves.count", text);
    write_forged(json, &old, LOGGED, path);
    fp__transcript_free(&t);
    fp__dsse_free(&old);
    fp__buf_free(&bytes);
}

static inline json_t *load_transcript(size_t base)
{
    json_t *json = json_load_file(transcripts[base], 0, NULL);
    assert_non_null(json);
    return json;
}

static inline void write_transcript(json_t *json)
{
    fp__buf bytes = {0};
    ok(fp__json_dump(json, 0, &bytes));
    el_write(el_path("forged.transcript.json"), &bytes);
    fp__buf_free(&bytes);
}

static inline void copy_tree(const char *from, const char *to)
{
    char command[600];
    snprintf(command, sizeof command, "rm -rf '%s' && cp -r '%s' '%s'", to, from, to);
    assert_int_equal(system(command), 0);
}

#endif
