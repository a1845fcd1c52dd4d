/* Audits: every honest receipt is VALID, however it is audited, and everything else is found, with its
 * reason.
 *
 * Called with --audit FOLDER it is a child of itself: it audits the receipts listed in FOLDER with its kernel
 * table. */
#include "engine_lab.h"
#include <sys/wait.h>

enum { HONEST = EL_SANITIZED ? 24 : 48, PATHS = 1024 };
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

static int open_stage(void **state)
{
    if (el_set_up(state) != 0)
        return -1;
    gw_model m = el_model_like("llama", 51);
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

static int close_stage(void **state)
{
    for (size_t i = 1; i < 4; i++)
        fp_anchors_release(st.sets[i]);
    fp_engine_destroy(st.e);
    fp_workspace_close(st.w);
    fp_workspace_close(st.other);
    fp_model_close(st.model);
    return el_tear_down(state);
}

static void audit_with(fp_workspace *w, const fp_model *model, const char *receipt, const char *transcript,
                       const fp_engine_options *engine, const uint8_t *nonce, fp_audit_result *r)
{
    fp_audit_options o = {receipt, transcript, engine, model, nonce};
    ok(fp_audit(w, &o, r));
}

static void valid(fp_workspace *w, const fp_model *model, const char *receipt, const char *transcript,
                  const fp_engine_options *engine, const char *name)
{
    fp_audit_result r;
    audit_with(w, model, receipt, transcript, engine, NULL, &r);
    if (r.light != FP_VERDICT_VALID_LIGHT || r.full != FP_VERDICT_VALID_FULL)
        fail_msg("%s: %s %s: %s", name, fp_verdict_name(r.light), fp_verdict_name(r.full), r.detail);
    assert_int_equal(r.position, -1);
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

/* ---- tampering ---- */

static json_t *load_payload(const char *path, fp__dsse *dsse)
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
static void edit_json(json_t *json, const char *path, const char *value)
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
static void write_forged(json_t *json, const fp__dsse *old, forgery how, const char *path)
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

/* Receipts to tamper with: 0 without, 1 with anchors; two turns each, sampled, penalised, with a nonce. */
static char receipts[2][PATHS], transcripts[2][PATHS];
static fp_sampling base_sampling(void)
{
    fp_sampling p = el_sampling(1.5f, 5);
    p.repeat_penalty = 3.0f;
    p.repeat_last_n = 4;
    return p;
}

static void make_bases(void)
{
    static const uint8_t nonce[32] = {1};
    if (receipts[0][0])
        return;
    for (size_t i = 0; i < 2; i++) {
        fp_session *s;
        fp_session_options so = {.anchors = i ? st.sets[2] : NULL, .nonce = nonce};
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

/* Fields of a receipt; after the engine key signed the change and it was logged. word NULL: a claim that only
 * the signer vouches for: the forgery is found as long as it is not signed. */
static const struct {
    size_t base;
    const char *path, *value;
    const char *word;
} fields[] = {
    {0, "predicateType", "\"urn:fieldprint:receipt:v2\"", "malformed receipt"},
    {0, "subject.0.digest.fieldprintLeavesV1", NULL, "malformed receipt"},
    {0, "predicate.nonce", NULL, "not derived from the nonce"},
    {0, "predicate.tenant", NULL, NULL},
    {0, "predicate.model", NULL, "model is not the one"},
    {1, "predicate.model", NULL, "wrong-model"},
    {0, "predicate.arithmetic", "2", "version of the arithmetic"},
    {1, "predicate.arithmetic", "2", "wrong-arithmetic"},
    {0, "predicate.policy", NULL, "policy in force"},
    {0, "predicate.log.origin", "\"elsewhere.example/log\"", "trust file pins"},
    {1, "predicate.log.first.size", "1", "first tree head"},
    {1, "predicate.log.first.root", NULL, "first tree head"},
    {0, "predicate.log.last.root", NULL, "last tree head"},
    {1, "predicate.log.first.time", "\"now\"", "malformed receipt"},
    {1, "predicate.log.first.time", "9007199254740991", "expired"},
    {1, "predicate.log.last.time", "9007199254740991", "expired"},
    {0, "predicate.overrides", "[]", "malformed receipt"},
    {0, "predicate.overrides", "[7]", "malformed receipt"},
    {0, "predicate.overrides", "[\"1111111111111111111111111111111111111111111111111111111111111111\"]",
     "not in the log before it"},
    {1, "predicate.anchors.ids.0", NULL, "not-logged"},
    {1, "predicate.anchors.set", NULL, "anchor set"},
    {1, "predicate.anchors.kvHead", NULL, "compile event"},
    {1, "predicate.anchors.compileIndex", "1", "compile event"},
    {1, "predicate.anchors.mode", "\"reserve\"", "injection mode"},
    {1, "predicate.anchors.gammaRaised", "9000", "injection"},
    {1, "predicate.anchors.gammaRaised", "60000", "injection"},
    {1, "predicate.anchors.injection", NULL, "injection"},
    {1, "predicate.anchors.proof", "\"YWJj\"", "log proof of the compile event"},
    {0, "predicate.sampling.temperature", "\"3f800000\"", "position"},
    {0, "predicate.sampling.temperature", "\"7fc00000\"", "sampling"},
    {0, "predicate.sampling.topK", "1", "position"},
    {0, "predicate.sampling.topP", "\"3d800000\"", "position"},
    {0, "predicate.sampling.topP", "\"40000000\"", "sampling"},
    {0, "predicate.sampling.minP", "\"3f7fffff\"", "position"},
    {0, "predicate.sampling.repeatPenalty", "\"40000000\"", "position"},
    {0, "predicate.sampling.frequencyPenalty", "\"40000000\"", "position"},
    {0, "predicate.sampling.presencePenalty", "\"40000000\"", "position"},
    {0, "predicate.sampling.repeatLastN", "0", "position"},
    {0, "predicate.sampling.seed", "\"12345\"", "seed is not derived"},
    {0, "predicate.sampling.seedFrom", "\"server\"", "malformed receipt"},
    {0, "predicate.sampling.maxTokens", "23", "should have ended"},
    {0, "predicate.sampling.maxTokens", "25", "finish reason"},
    {0, "predicate.sampling.maxTokens", "4294967296", "malformed receipt"},
    {0, "predicate.sampling.stops", NULL, "stop strings"},
    {0, "predicate.tokens.anchor", "5", "number of anchor tokens"},
    {1, "predicate.tokens.anchor", "5", "number of anchor tokens"},
    {0, "predicate.tokens.prompt", "5", "number of prompt tokens"},
    {0, "predicate.tokens.output", "23", "number of output tokens"},
    {0, "predicate.tokens.context", "99", "number of context tokens"},
    {0, "predicate.tokens.limit", "20", "size of the context"},
    {0, "predicate.tokens.limit", "9007199254740991", "size of the context"},
    {0, "predicate.finish", "\"stop\"", "finish reason"},
    {0, "predicate.finish", "\"cancelled\"", "finish reason"},
    {0, "predicate.finish", "\"error\"", "malformed receipt"},
    {0, "predicate.label", "\"core\"", "label"},
    {0, "predicate.validation.level", "\"none\"", "malformed receipt"},
    {0, "predicate.validation.level", "\"scrub\"", "malformed receipt"}, /* it has no windows */
    {0, "predicate.validation.level", "\"replay\"", "malformed receipt"},
    {0, "predicate.validation.level", "5", "malformed receipt"},
    {0, "predicate.validation.replay65536", "1", "malformed receipt"},
    {0, "predicate.validation.replay65536", "65537", "malformed receipt"},
    {0, "predicate.validation.pageWindowMs", "1", "malformed receipt"},
    {0, "predicate.validation.weightWindowMs", "1", "malformed receipt"},
    {0, "predicate.validation.unverifiedPages", "3", "malformed receipt"},
    {0, "predicate.validation.failures", "4294967296", "malformed receipt"},
    {0, "predicate.validation.failures", "-1", "malformed receipt"},
    {0, "predicate.validation.failures", "1", NULL}, /* a claim: the answer is what it is */
    {0, "predicate.release.mode", "\"gated\"", NULL},
    {0, "predicate.release.mode", "\"soon\"", "malformed receipt"},
    {0, "predicate.release.status", "\"provisional\"", "missing: the receipt is provisional"},
    {0, "predicate.release.status", "\"retracted\"", "malformed receipt"},
    {0, "predicate.release.status", "\"sure\"", "malformed receipt"},
    {0, "predicate.release.retractions", "[5]", "malformed receipt"},
    {0, "predicate.release.retractions", "{}", "malformed receipt"},
    {0, "predicate.release.retractions",
     "[\"0000000000000000000000000000000000000000000000000000000000000000\"]", "malformed receipt"},
    {0, "predicate.leaves.count", "5", "number of leaves"},
    {0, "predicate.leaves.root", NULL, "malformed receipt"},
    {0, "predicate.engine", "\"another engine\"", NULL},
    {0, "predicate.time", "1700000000", NULL},
    {0, "predicate.extra", "1", "malformed receipt"},
};

static void expect(const char *name, const fp_audit_result *r, fp_verdict light, const char *word)
{
    if (r->light != light || (light == FP_VERDICT_VALID_LIGHT && r->full != FP_VERDICT_INVALID) ||
        !strstr(r->detail, word))
        fail_msg("%s: %s %s \"%s\" where \"%s\" was expected", name, fp_verdict_name(r->light),
                 fp_verdict_name(r->full), r->detail, word);
}

static void test_fields(void **state)
{
    (void)state;
    make_bases();
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        for (forgery how = UNSIGNED; how <= LOGGED; how++) {
            fp__dsse old;
            fp_audit_result r;
            json_t *json = load_payload(receipts[fields[i].base], &old);
            edit_json(json, fields[i].path, fields[i].value);
            const char *path = el_path("forged.json");
            write_forged(json, &old, how, path);
            fp__dsse_free(&old);
            audit_with(st.w, how == LOGGED ? st.model : NULL, path, transcripts[fields[i].base], NULL, NULL,
                       &r);
            if (how == UNSIGNED) {
                assert_true(r.light == FP_VERDICT_INVALID || r.light == FP_VERDICT_UNDECIDED);
                if (!fields[i].word)
                    expect(fields[i].path, &r, FP_VERDICT_INVALID, "signature of the receipt");
            } else if (how == SIGNED) {
                assert_true(r.light == FP_VERDICT_INVALID || r.light == FP_VERDICT_UNDECIDED);
                if (!fields[i].word)
                    expect(fields[i].path, &r, FP_VERDICT_UNDECIDED, "not in the log at hand");
            } else if (fields[i].word) {
                bool missing = strstr(fields[i].word, "missing") != NULL;
                expect(fields[i].path, &r, missing ? FP_VERDICT_UNDECIDED : r.light, fields[i].word);
                if (!missing && r.light != FP_VERDICT_INVALID && r.full != FP_VERDICT_INVALID)
                    fail_msg("%s: %s", fields[i].path, r.detail);
            } else if (r.full != FP_VERDICT_VALID_FULL) {
                fail_msg("%s: %s", fields[i].path, r.detail);
            }
        }
    }
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

/* Leaves of a transcript. Either the transcript alone is changed (the root of the receipt finds it, and the
 * full audit its place), or a dishonest engine makes a receipt for it. */
static const struct {
    const char *name, *path, *value;
    const char *word; /* of the verdict on the dishonest engine's receipt; NULL: nothing to find */
    int id_of;        /* leaf whose id 3 is changed, or -1 */
    bool outside;     /* of the leaf's hash: only a full audit sees it, by the tokens that it gives */
} leaves[] = {
    /* leaves: 0 message, 1 output, 2 message, 3 output, 4 kv head, 5 masses */
    {"text of a message", "leaves.2.text", "\"And the dog?\"", "tokens of message 2", -1, false},
    {"text with NUL", "leaves.2.text", "\"\"", "tokens of message 2", -1, false},
    {"id of a message", NULL, NULL, "tokens of message 2", 2, false},
    {"id of the first message", NULL, NULL, "tokens of message 0", 0, false},
    {"role of a message", "leaves.2.role", "\"system\"", "tokens of message 2", -1, true},
    {"label of a message", "leaves.0.label", "\"core\"", "which only anchors are", -1, false},
    {"salt of a message", "leaves.0.salt", NULL, NULL, -1, false},
    {"text of an earlier answer", "leaves.1.text", "\"Something else\"", "text of answer 1", -1, false},
    {"id of an earlier answer", NULL, NULL, "", 1, false},
    {"label of an earlier answer", "leaves.1.label", "\"external\"", "label of answer 1", -1, false},
    {"text of the answer", "leaves.3.text", "\"Something else\"", "text of the answer", -1, false},
    {"text of the answer emptied", "leaves.3.text", "\"\"", "text of the answer", -1, false},
    {"id of the answer", NULL, NULL, "the model and the sampler give", 3, false},
    {"label of the answer", "leaves.3.label", "\"external\"", "label of answer 3", -1, false},
    {"salt of the answer", "leaves.3.salt", NULL, NULL, -1, false},
    {"kv head", "leaves.4.hex", NULL, "K/V pages hash to another head", -1, false},
    {"label of the kv head", "leaves.4.label", "\"external\"", "label of leaf 4", -1, false},
    {"masses", "leaves.5.hex", NULL, "anchor mass", -1, false},
    {"stop strings", "stops", "[\"x\", \"y\"]", "stop strings", -1, false},
    {"raw", "raw", "true", "", -1, true},
};

/* The receipt that a dishonest engine would make for this transcript. */
static void sign_for(size_t base, const char *transcript, const char *path)
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

static json_t *load_transcript(size_t base)
{
    json_t *json = json_load_file(transcripts[base], 0, NULL);
    assert_non_null(json);
    return json;
}

static void write_transcript(json_t *json)
{
    fp__buf bytes = {0};
    ok(fp__json_dump(json, 0, &bytes));
    el_write(el_path("forged.transcript.json"), &bytes);
    fp__buf_free(&bytes);
}

static void test_leaves(void **state)
{
    (void)state;
    make_bases();
    for (size_t i = 0; i < sizeof leaves / sizeof *leaves; i++) {
        fp_audit_result r;
        json_t *json = load_transcript(1);
        int64_t position = -1;
        if (leaves[i].id_of >= 0) {
            size_t leaf = (size_t)leaves[i].id_of;
            position = (int64_t)fp_anchors_tokens(st.sets[2]) + 3;
            for (size_t k = 0; k < leaf; k++)
                position += (int64_t)json_array_size(
                    json_object_get(json_array_get(json_object_get(json, "leaves"), k), "ids"));
            json_t *ids = json_object_get(json_array_get(json_object_get(json, "leaves"), leaf), "ids");
            json_int_t id = json_integer_value(json_array_get(ids, 3));
            json_array_set_new(ids, 3, json_integer(id == 40 ? 41 : 40));
        } else {
            edit_json(json, leaves[i].path, leaves[i].value);
        }
        write_transcript(json);
        const char *transcript = el_path("forged.transcript.json"), *receipt = el_path("forged.json");
        /* the transcript alone */
        audit_with(st.w, NULL, receipts[1], transcript, NULL, NULL, &r);
        bool stops = strcmp(leaves[i].name, "stop strings") == 0;
        if (!leaves[i].outside)
            expect(leaves[i].name, &r, FP_VERDICT_INVALID, stops ? "stop strings" : "roots differ");
        audit_with(st.w, st.model, receipts[1], transcript, NULL, NULL, &r);
        if (stops)
            continue;
        assert_int_equal(r.light, leaves[i].outside ? FP_VERDICT_VALID_LIGHT : FP_VERDICT_INVALID);
        assert_int_equal(r.full, FP_VERDICT_INVALID);
        if (leaves[i].id_of >= 0 &&
            leaves[i].id_of != 1) /* what an earlier answer said is given, not sampled again */
            assert_int_equal(r.position, position);
        /* with a receipt for it */
        sign_for(1, transcript, receipt);
        audit_with(st.w, st.model, receipt, transcript, NULL, NULL, &r);
        if (!leaves[i].word) {
            assert_int_equal(r.full, FP_VERDICT_VALID_FULL);
            continue;
        }
        assert_true(r.light == FP_VERDICT_INVALID || r.full == FP_VERDICT_INVALID);
        expect(leaves[i].name, &r, r.light, leaves[i].word);
        if (leaves[i].id_of >= 0 && leaves[i].id_of != 1)
            assert_int_equal(r.position, position);
    }
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

static void copy_tree(const char *from, const char *to)
{
    char command[600];
    snprintf(command, sizeof command, "rm -rf '%s' && cp -r '%s' '%s'", to, from, to);
    assert_int_equal(system(command), 0);
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

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--audit") == 0)
        return audit_list(argv[2]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_honest),   cmocka_unit_test(test_light_only),
        cmocka_unit_test(test_fields),   cmocka_unit_test(test_tree_ahead),
        cmocka_unit_test(test_leaves),   cmocka_unit_test(test_leaf_order),
        cmocka_unit_test(test_ends),     cmocka_unit_test(test_other_models),
        cmocka_unit_test(test_logs),     cmocka_unit_test(test_artifact_and_document),
        cmocka_unit_test(test_refusals), cmocka_unit_test(test_revoked),
    };
    return cmocka_run_group_tests(tests, open_stage, close_stage);
}
