/* Saving and restoring: a restored session goes on with the same bits, and every other file is refused with
 * its reason. */
#include "engine_lab.h"

static const char hello[] =
    "When does the office of the harbour master close? Say it in one sentence, please, and name the cat "
    "too, so that I can greet it.";

typedef struct stage {
    fp_model *model, *other_model;
    fp_workspace *w, *other;
    uint8_t ids[2][32]; /* anchors: harbour, manners */
    fp_engine *e;       /* of the model, room for 4 sessions */
    fp_anchors *one, *two, *raised;
} stage;
static stage st;

static int open_stage(void **state)
{
    if (el_set_up(state) != 0)
        return -1;
    gw_model m = el_model_like("llama", 31);
    st.other_model = el_open(&m);
    m.seed = 32;
    st.model = el_open(&m);
    st.w = el_workspace("w");
    st.other = el_workspace("other");
    el_anchor(st.w, "harbour", el_text1, FP_INJECT_FLOOR, 8192, st.ids[0]);
    el_anchor(st.w, "manners", el_text2, FP_INJECT_FLOOR, 8192, st.ids[1]);
    fp_engine_options o = {.threads = 2, .max_sessions = 4, .context_tokens = 640};
    ok(fp_engine_create(st.model, &o, &st.e));
    const uint8_t(*ids)[32] = (const uint8_t(*)[32])st.ids;
    ok(fp_anchors_compile(st.e, st.w, ids, 1, NULL, NULL, NULL, NULL));
    ok(fp_anchors_compile(st.e, st.w, ids, 2, NULL, NULL, NULL, NULL));
    fp_anchors_options raised = {.gamma = 16384};
    ok(fp_anchors_load(st.e, st.w, ids, 1, NULL, &st.one, NULL));
    ok(fp_anchors_load(st.e, st.w, ids, 2, NULL, &st.two, NULL));
    ok(fp_anchors_load(st.e, st.w, ids, 1, &raised, &st.raised, NULL));
    return 0;
}

static int close_stage(void **state)
{
    fp_anchors_release(st.one);
    fp_anchors_release(st.two);
    fp_anchors_release(st.raised);
    fp_engine_destroy(st.e);
    fp_workspace_close(st.w);
    fp_workspace_close(st.other);
    fp_model_close(st.model);
    fp_model_close(st.other_model);
    return el_tear_down(state);
}

static int cancel_later(void *context, const char *text, size_t size)
{
    (void)text;
    size_t *left = context;
    *left = *left > size ? *left - size : 0;
    return *left == 0;
}

/* First turn of a conversation, as saved: `how` picks the way it ends. */
static void first_turn(fp_session *s, size_t how)
{
    size_t left = 12;
    fp_generate_options o = {
        .max_tokens = 40, .on_text = how % 4 == 1 ? cancel_later : NULL, .on_text_context = &left};
    o.sampling = el_sampling(how % 4 == 2 ? 20.0f : 1.0f, how);
    o.ignore_eog = how % 4 == 3;
    el_say(s, hello);
    ok(fp_session_begin(s, &o));
    fp_status status = fp_session_run(s);
    assert_true(status == FP_OK || (how % 4 == 1 && status == FP_CANCELLED));
}

static void later_turn(fp_session *s, el_hash *h)
{
    fp_sampling sampling = el_sampling(0.8f, 9);
    sampling.repeat_penalty = 1.2f;
    el_begin(s, "And who pays for it?", &sampling, 25);
    ok(fp_session_run(s));
    el_hash_session(h, s);
}

static void test_continues(void **state)
{
    (void)state;
    for (size_t how = 0; how < 12; how++) {
        uint8_t expected[32], got[32];
        fp_session *s;
        el_hash h;
        fp_anchors *anchors = how < 4 ? NULL : how < 8 ? st.one : st.two;
        fp_session_options so = {
            .anchors = anchors, .raw = how == 3 || how == 5, .tenant = how == 6 ? "acme" : NULL};
        ok(fp_session_create(st.e, &so, &s));
        first_turn(s, how);
        ok(fp_session_save(s, st.w, el_path("a.fpkv")));
        el_hash_begin(&h);
        later_turn(s, &h);
        later_turn(s, &h);
        el_hash_end(&h, expected);
        fp_session_destroy(s);
        /* the same process, and saved once more between the turns */
        ok(fp_session_load(st.e, st.w, el_path("a.fpkv"), &so, &s));
        el_hash_begin(&h);
        later_turn(s, &h);
        ok(fp_session_save(s, st.w, el_path("b.fpkv")));
        fp_session_destroy(s);
        ok(fp_session_load(st.e, st.w, el_path("b.fpkv"), &so, &s));
        later_turn(s, &h);
        el_hash_end(&h, got);
        assert_memory_equal(expected, got, 32);
        fp_session_destroy(s);
        /* another engine: chunks and threads of its own */
        fp_engine *e;
        fp_engine_options o = {
            .threads = 1, .chunk_tokens = 7, .hash_threads = SIZE_MAX, .context_tokens = 640};
        ok(fp_engine_create(st.model, &o, &e));
        fp_anchors *again = NULL;
        if (anchors)
            ok(fp_anchors_load(e, st.w, (const uint8_t(*)[32])st.ids, anchors->n, NULL, &again, NULL));
        so.anchors = again;
        ok(fp_session_load(e, st.w, el_path("a.fpkv"), &so, &s));
        el_hash_begin(&h);
        later_turn(s, &h);
        later_turn(s, &h);
        el_hash_end(&h, got);
        assert_memory_equal(expected, got, 32);
        fp_session_destroy(s);
        fp_anchors_release(again);
        fp_engine_destroy(e);
    }
}

static void test_receipt_after_load(void **state)
{
    (void)state;
    fp_session *s;
    fp_session_options so = {.anchors = st.one};
    char receipt[1024], transcript[1024];
    uint8_t id[32];
    ok(fp_session_create(st.e, &so, &s));
    first_turn(s, 2);
    ok(fp_session_save(s, st.w, el_path("a.fpkv")));
    fp_session_destroy(s);
    ok(fp_session_load(st.e, st.w, el_path("a.fpkv"), &so, &s));
    fails(fp_session_receipt(s, st.w, id, NULL, NULL), FP_USAGE, "no answer");
    fails(fp_session_save(s, st.w, el_path("b.fpkv")), FP_USAGE, "no finished answer");
    el_hash h;
    el_hash_begin(&h);
    later_turn(s, &h);
    uint8_t unused[32];
    el_hash_end(&h, unused);
    ok(fp_session_receipt(s, st.w, id, receipt, transcript));
    fp_session_destroy(s);
    fp_audit_result r;
    fp_audit_options o = {.receipt_path = receipt, .transcript_path = transcript, .model = st.model};
    ok(fp_audit(st.w, &o, &r));
    if (r.full != FP_VERDICT_VALID_FULL)
        fail_msg("%s: %s", fp_verdict_name(r.full), r.detail);
}

/* ---- refusals by what it is loaded with ---- */

static void test_other_circumstances(void **state)
{
    (void)state;
    fp_session *s, *t = NULL;
    fp_session_options so = {.anchors = st.one, .tenant = "acme"}, other;
    ok(fp_session_create(st.e, &so, &s));
    fails(fp_session_save(s, st.w, el_path("none.fpkv")), FP_USAGE, "no finished answer");
    first_turn(s, 0);
    ok(fp_session_save(s, st.w, el_path("s.fpkv")));
    fails(fp_session_save(s, st.w, el_path("no/folder.fpkv")), FP_NOT_FOUND, "folder.fpkv");
    fp_session_destroy(s);
    const char *path = el_path("s.fpkv");
    other = so;
    other.tenant = "emca";
    fails(fp_session_load(st.e, st.w, path, &other, &t), FP_DENIED, "another tenant");
    other.tenant = NULL;
    fails(fp_session_load(st.e, st.w, path, &other, &t), FP_DENIED, "another tenant");
    other = so;
    other.anchors = NULL;
    fails(fp_session_load(st.e, st.w, path, &other, &t), FP_MISMATCH, "made with other anchors");
    other.anchors = st.two;
    fails(fp_session_load(st.e, st.w, path, &other, &t), FP_MISMATCH, "made with other anchors");
    other.anchors = st.raised;
    fails(fp_session_load(st.e, st.w, path, &other, &t), FP_MISMATCH, "another injection");
    other = so;
    other.raw = true;
    fails(fp_session_load(st.e, st.w, path, &other, &t), FP_MISMATCH, "a chat");
    fails(fp_session_load(st.e, st.other, path, &so, &t), FP_SIGNATURE, "another one");
    fails(fp_session_load(st.e, st.w, el_path("nothing.fpkv"), &so, &t), FP_NOT_FOUND, "nothing.fpkv");
    fp_engine *e;
    fp_engine_options o = {.threads = 1, .context_tokens = 640};
    ok(fp_engine_create(st.other_model, &o, &e));
    so.anchors = NULL;
    fails(fp_session_load(e, st.w, path, &so, &t), FP_MISMATCH, "another model");
    fp_engine_destroy(e);
    o.context_tokens = (size_t)fp_anchors_tokens(st.one) + 60; /* too small for what was said */
    fp_anchors *a;
    ok(fp_engine_create(st.model, &o, &e));
    ok(fp_anchors_load(e, st.w, (const uint8_t(*)[32])st.ids, 1, NULL, &a, NULL));
    so.anchors = a;
    fails(fp_session_load(e, st.w, path, &so, &t), FP_LIMIT, "tokens");
    fp_anchors_release(a);
    fp_engine_destroy(e);
    /* an artifact of anchors is no session */
    char artifact[1024];
    ok(fp_workspace_artifact_path(st.w, st.one->gate.set_id, st.model->digest, artifact, sizeof artifact));
    so.anchors = st.one;
    assert_true(fp_session_load(st.e, st.w, artifact, &so, &t) != FP_OK);
    assert_null(t);
    fp_session *last[4]; /* nothing of the refused ones is left in the engine */
    for (size_t i = 0; i < 4; i++)
        ok(fp_session_create(st.e, NULL, &last[i]));
    for (size_t i = 0; i < 4; i++)
        fp_session_destroy(last[i]);
}

/* ---- refusals by damage ---- */

typedef struct file_view {
    fp__buf *bytes;
    size_t header, manifest, manifest_bytes, envelope_bytes, transcript, data;
} file_view;

static void look(fp__buf *bytes, file_view *v)
{
    v->bytes = bytes;
    v->header = (size_t)fp__load_le64(bytes->data + 16);
    v->manifest_bytes = fp__load_le32(bytes->data + 132);
    v->manifest = v->header - 32 - v->manifest_bytes;
    v->envelope_bytes = fp__load_le32(bytes->data + v->manifest);
    v->transcript = v->manifest + 4 + v->envelope_bytes;
    v->data = (v->header + 4095) / 4096 * 4096;
}

/* The header's own digest again: it finds accidents, and an attacker makes it anew. */
static void reseal(const file_view *v)
{
    fp__sha256(v->bytes->data, v->header - 32, v->bytes->data + v->header - 32);
}

static uint8_t *find(const file_view *v, const char *text)
{
    uint8_t *at = memmem(v->bytes->data, v->header, text, strlen(text));
    assert_non_null(at);
    return at + strlen(text);
}

/* Edits the payload of the manifest in place and signs it again with this key (NULL: the engine's own). */
static void edit_manifest(const file_view *v, const char *field, char digit, fp_key *key)
{
    fp__dsse dsse = {0}, again = {0};
    fp__buf text = {0};
    fp_key *own = NULL;
    ok(fp__dsse_parse(v->bytes->data + v->manifest + 4, v->envelope_bytes, &dsse));
    if (field) {
        char *at = memmem(dsse.payload.data, dsse.payload.size, field, strlen(field));
        assert_non_null(at);
        at += strlen(field);
        *at = *at == digit ? '2' : digit;
    }
    ok(fp__dsse_create(dsse.payload.data, dsse.payload.size, &again));
    if (!key)
        ok(fp_workspace_key(st.w, FP_PURPOSE_ENGINE, &own));
    ok(fp__dsse_sign(&again, key ? key : own));
    ok(fp__dsse_write(&again, &text));
    assert_int_equal(text.size, v->envelope_bytes);
    memcpy(v->bytes->data + v->manifest + 4, text.data, text.size);
    fp_key_free(own);
    fp__dsse_free(&dsse);
    fp__dsse_free(&again);
    fp__buf_free(&text);
    reseal(v);
}

static void magic(const file_view *v)
{
    v->bytes->data[0] ^= 1;
}
static void version(const file_view *v)
{
    v->bytes->data[4] ^= 2;
}
static void arithmetic(const file_view *v)
{
    v->bytes->data[6] ^= 2;
}
static void header_flip(const file_view *v)
{
    v->bytes->data[v->manifest - 9] ^= 1;
}
static void manifest_flip(const file_view *v)
{
    v->bytes->data[v->manifest + 40] ^= 1;
}
static void payload_flip(const file_view *v)
{
    uint8_t *at = find(v, "\"payload\":\"") + 200;
    *at = *at == 'A' ? 'B' : 'A';
    reseal(v);
}
static void signature_flip(const file_view *v)
{
    uint8_t *at = find(v, "\"sig\":\"") + 5;
    *at = *at == 'A' ? 'B' : 'A';
    reseal(v);
}
static void envelope_size(const file_view *v)
{
    fp__store_le32(v->bytes->data + v->manifest, 0xfffffff0u);
    reseal(v);
}
static void envelope_short(const file_view *v)
{
    fp__store_le32(v->bytes->data + v->manifest, (uint32_t)v->envelope_bytes - 3);
    reseal(v);
}
static void foreign_key(const file_view *v)
{
    fp_key *key;
    ok(fp_workspace_key(st.other, FP_PURPOSE_ENGINE, &key));
    edit_manifest(v, NULL, 0, key);
    fp_key_free(key);
}
static void other_purpose(const file_view *v)
{
    fp_key *key;
    ok(fp_workspace_key(st.w, FP_PURPOSE_AUTHOR, &key));
    edit_manifest(v, NULL, 0, key);
    fp_key_free(key);
}
static void expired(const file_view *v)
{
    edit_manifest(v, "\"expires\":1", '0', NULL);
}
static void signed_model(const file_view *v)
{
    edit_manifest(v, "\"model\":\"", '1', NULL);
}
static void signed_tenant(const file_view *v)
{
    edit_manifest(v, "\"tenant\":\"", '1', NULL);
}
static void signed_head(const file_view *v)
{
    edit_manifest(v, "\"predicate\":{", 0, NULL);
}
static void signed_transcript(const file_view *v)
{
    edit_manifest(v, "\"transcript\":\"", '1', NULL);
}
static void signed_injection(const file_view *v)
{
    edit_manifest(v, "\"injection\":\"", '1', NULL);
}
static void signed_tokens(const file_view *v)
{
    edit_manifest(v, "\"tokens\":", '3', NULL);
}
static void signed_kind(const file_view *v)
{
    edit_manifest(v, "fieldprint:session:v", '3', NULL);
}
static void signed_session(const file_view *v)
{
    edit_manifest(v, "fieldprintSessionV1\":\"", '1', NULL);
}
static void transcript_text(const file_view *v)
{
    *find(v, "harbour mas") ^= 1;
    reseal(v);
}
static void transcript_id(const file_view *v)
{
    uint8_t *at = find(v, "\"ids\":[");
    *at = *at == '1' ? '2' : '1';
    reseal(v);
}
static void header_id(const file_view *v)
{
    v->bytes->data[v->header - 32 - v->manifest_bytes - 4] ^= 1; /* of a slab leaf */
    reseal(v);
}
static void header_head(const file_view *v)
{
    v->bytes->data[304] ^= 1;
    reseal(v);
}
static void header_tokens(const file_view *v)
{
    v->bytes->data[112] ^= 1;
    reseal(v);
}
static void page_k(const file_view *v)
{
    v->bytes->data[v->data + 70] ^= 1;
}
static void page_v(const file_view *v)
{
    size_t d = st.model->hp.head_dim;
    v->bytes->data[v->data + 2 * (128 * d + 256) + 64 * d + 77] ^= 0x80;
}
static void page_scale(const file_view *v)
{
    v->bytes->data[v->data + (128 * st.model->hp.head_dim + 256) - 200] ^= 4;
}
static void longer(const file_view *v)
{
    GW_CHECK(fp__buf_append(v->bytes, "\0", 1));
}

static const struct {
    const char *name;
    void (*damage)(const file_view *v);
    fp_status status;
    const char *word;
} table[] = {
    {"magic", magic, FP_FORMAT, "not a valid KV artifact"},
    {"version", version, FP_UNSUPPORTED, "version"},
    {"arithmetic version", arithmetic, FP_UNSUPPORTED, "arithmetic"},
    {"header flipped", header_flip, FP_MISMATCH, "header"},
    {"manifest flipped", manifest_flip, FP_MISMATCH, "header"},
    {"payload flipped, header made anew", payload_flip, FP_SIGNATURE, "not signed by an engine key"},
    {"signature flipped, header made anew", signature_flip, FP_SIGNATURE, "not signed by an engine key"},
    {"size of the envelope", envelope_size, FP_FORMAT, "envelope"},
    {"envelope cut", envelope_short, FP_FORMAT, "s.fpkv"},
    {"engine key of another deployment", foreign_key, FP_SIGNATURE, "of another one"},
    {"key of another purpose", other_purpose, FP_SIGNATURE, "not signed by an engine key"},
    {"expired, signed", expired, FP_DENIED, "expired"},
    {"another model, signed", signed_model, FP_MISMATCH, "another model"},
    {"another tenant, signed", signed_tenant, FP_DENIED, "another tenant"},
    {"broken payload, signed", signed_head, FP_FORMAT, "s.fpkv"},
    {"another transcript, signed", signed_transcript, FP_MISMATCH, "transcript is not the one"},
    {"another injection, signed", signed_injection, FP_MISMATCH, "another injection"},
    {"another number of tokens, signed", signed_tokens, FP_MISMATCH, "number of tokens"},
    {"another kind of statement, signed", signed_kind, FP_FORMAT, "another kind"},
    {"another session id, signed", signed_session, FP_MISMATCH, "another session"},
    {"text of the transcript", transcript_text, FP_MISMATCH, "transcript is not the one"},
    {"token of the transcript", transcript_id, FP_MISMATCH, "transcript is not the one"},
    {"slab leaf in the header", header_id, FP_MISMATCH, "s.fpkv"},
    {"kv head in the header", header_head, FP_MISMATCH, "s.fpkv"},
    {"tokens in the header", header_tokens, FP_FORMAT, "s.fpkv"},
    {"a bit of K", page_k, FP_MISMATCH, "page 0"},
    {"a bit of V", page_v, FP_MISMATCH, "layer 1, head 0"},
    {"a bit of a scale", page_scale, FP_MISMATCH, "page 0"},
    {"a byte too many", longer, FP_FORMAT, "s.fpkv"},
};

static void refuse(const char *name, const fp__buf *bytes, fp_status status, const char *word)
{
    fp_session *s = NULL;
    fp_session_options so = {.anchors = st.one};
    el_write(el_path("s.fpkv"), bytes);
    fp_status got = fp_session_load(st.e, st.w, el_path("s.fpkv"), &so, &s);
    if (got == FP_OK || (status != FP_OK && (got != status || !strstr(fp_error_detail(), word))))
        fail_msg("%s: %s (%s) where %s with \"%s\" was expected", name, fp_status_name(got),
                 fp_error_detail(), fp_status_name(status), word);
    assert_null(s);
}

static void test_damage(void **state)
{
    (void)state;
    fp_session *s;
    fp_session_options so = {.anchors = st.one};
    fp__buf file = {0};
    ok(fp_session_create(st.e, &so, &s));
    first_turn(s, 0);
    ok(fp_session_save(s, st.w, el_path("s.fpkv")));
    fp_session_destroy(s);
    el_read(el_path("s.fpkv"), &file);
    for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
        fp__buf copy = {0};
        file_view v;
        GW_CHECK(fp__buf_append(&copy, file.data, file.size));
        look(&copy, &v);
        table[i].damage(&v);
        refuse(table[i].name, &copy, table[i].status, table[i].word);
        fp__buf_free(&copy);
    }
    for (size_t cut = 0; cut < file.size; cut += cut < 700 ? 13 : file.size / 61) {
        fp__buf part = {file.data, cut, 0};
        refuse("cut short", &part, FP_FORMAT, "s.fpkv");
    }
    /* any single bit: never a success */
    gw_random r = {4};
    file_view v;
    look(&file, &v);
    for (size_t i = 0; i < (EL_SANITIZED ? 60 : 300); i++) {
        size_t at = (size_t)(gw_next(&r) % (i % 2 ? v.header : file.size));
        file.data[at] ^= (uint8_t)(1u << i % 8);
        refuse("a bit", &file, FP_OK, "");
        file.data[at] ^= (uint8_t)(1u << i % 8);
    }
    el_write(el_path("s.fpkv"), &file); /* the undamaged file loads */
    ok(fp_session_load(st.e, st.w, el_path("s.fpkv"), &so, &s));
    fp_session_destroy(s);
    fp__buf_free(&file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_continues),
        cmocka_unit_test(test_receipt_after_load),
        cmocka_unit_test(test_other_circumstances),
        cmocka_unit_test(test_damage),
    };
    return cmocka_run_group_tests(tests, open_stage, close_stage);
}
