/* Every reason of the gate is reached, with its name and remedy in the message. */
#include "anchor_lab.h"

/* A case: a core anchor `a`, what is done to it, and what is asked. */
struct gate_case {
    lab l;
    uint8_t ids[4][32];
    uint8_t model[32];
    fp_statement statement;
    fp_gate_query query;
    fp_gate_result result;
};

enum step { CREATED, REGISTERED, PROMOTED, COMPILED };

static void gate_open(struct gate_case *c, lab_change *change, void (*trust_change)(fp__trust *))
{
    memset(c, 0, sizeof *c);
    lab_open(&c->l, change, trust_change);
    memset(c->model, 0xa1, 32);
    c->statement = lab_statement("a", FP_LABEL_CORE);
    c->query = (fp_gate_query){.anchor_ids = (const uint8_t(*)[32])c->ids,
                               .anchors = 1,
                               .model_digest = c->model,
                               .arithmetic_version = 1,
                               .reader = "acme",
                               .now = LAB_NOW};
}

/* Takes anchor i as far as `step`. */
static void gate_make(struct gate_case *c, size_t i, int signers, enum step step)
{
    lab *l = &c->l;
    fp_label type = c->statement.type;
    lab_anchor(l, &c->statement, signers, c->ids[i]);
    if (step >= REGISTERED)
        lab_log_anchor(l, FP__EVENT_REGISTER, c->ids[i], type, ALICE);
    if (step >= PROMOTED)
        lab_log_anchor(l, FP__EVENT_PROMOTE, c->ids[i], type, BOB | CAROL);
    if (step >= COMPILED)
        lab_log_compile(l, (const uint8_t(*)[32]) & c->ids[i], 1, 0xa1, 1, 0xee);
}

/* Like gate_make, all the way, for further anchors of a set. */
static void gate_add(struct gate_case *c, size_t i, const char *name, fp_label type)
{
    c->statement = lab_statement(name, type);
    gate_make(c, i, ALICE | BOB, PROMOTED);
    c->query.anchors = i + 1;
}

static void gate_wants(struct gate_case *c, fp_gate_reason reason)
{
    fp_status status = fp_gate_check(c->l.w, &c->query, &c->result);
    if (reason == FP_GATE_ALLOW) {
        ok(status);
        assert_int_equal(c->result.reason, FP_GATE_ALLOW);
        return;
    }
    if (c->result.reason != reason || status != FP_DENIED)
        fail_msg("%s (%s: %s) where %s was expected", fp_gate_reason_name(c->result.reason),
                 fp_status_name(status), fp_error_detail(), fp_gate_reason_name(reason));
    assert_non_null(strstr(fp_error_detail(), fp_gate_reason_name(reason)));
    assert_non_null(strstr(c->result.detail, fp_gate_reason_remedy(reason)));
    assert_true(strlen(fp_gate_reason_remedy(reason)) > 10);
}

static void stored_envelope(struct gate_case *c, size_t i, fp__buf *path, fp__buf *text)
{
    ok(fp__workspace_id_path(c->l.w, "anchors", c->ids[i], ".dsse.json", path));
    ok(fp__file_read((const char *)path->data, 1 << 20, text));
}

static void test_allow(void **state)
{
    (void)state;
    struct gate_case c;
    gate_open(&c, NULL, NULL);
    gate_make(&c, 0, ALICE | BOB, COMPILED);
    gate_wants(&c, FP_GATE_ALLOW);
    uint8_t set_id[32], head[32];
    ok(fp_set_id((const uint8_t(*)[32])c.ids, 1, set_id));
    memset(head, 0xee, 32);
    assert_memory_equal(c.result.set_id, set_id, 32);
    assert_memory_equal(c.result.kv_head, head, 32);
    assert_true(c.result.compiled);
    assert_int_equal(c.result.tokens, 100);
    assert_int_equal(c.result.pages, 2);
    assert_int_equal(c.result.tree_size, 4);
    assert_int_equal(c.result.compile_index, 3);
    assert_int_equal(c.result.label, FP_LABEL_CORE);
    assert_memory_equal(c.result.policy_digest, c.l.policy, 32);
    c.query.anchors = 0;
    gate_wants(&c, FP_GATE_ALLOW);
    lab_close(&c.l);
}

static void test_signature(void **state)
{
    (void)state;
    struct gate_case c;
    fp__buf path = {0}, text = {0};
    gate_open(&c, NULL, NULL);
    gate_make(&c, 0, ALICE | BOB, COMPILED);
    gate_wants(&c, FP_GATE_ALLOW);
    stored_envelope(&c, 0, &path, &text);
    char *sig = strstr((char *)text.data, "\"sig\":\"") + 20;
    *sig = *sig == 'A' ? 'B' : 'A'; /* one base64 digit of the first signature */
    ok(fp__file_write((const char *)path.data, text.data, text.size, 0644));
    gate_wants(&c, FP_GATE_SIGNATURE);
    /* not signed at all */
    gate_make(&c, 0, NOBODY, CREATED);
    gate_wants(&c, FP_GATE_SIGNATURE);
    fp__buf_free(&path);
    fp__buf_free(&text);
    lab_close(&c.l);
}

static void test_key_not_in_policy(void **state)
{
    (void)state;
    struct gate_case c;
    fp__dsse dsse = {0};
    fp_key *stranger;
    fp__buf path = {0}, text = {0};
    gate_open(&c, NULL, NULL);
    gate_make(&c, 0, NOBODY, COMPILED);
    ok(fp_key_generate(&stranger));
    ok(fp__statement_create(&c.statement, &dsse));
    ok(fp__dsse_sign(&dsse, stranger));
    /* a key of the policy with another purpose counts as little */
    ok(fp__dsse_sign(&dsse, c.l.keys[0][FP_PURPOSE_ENGINE]));
    ok(fp__dsse_sign(&dsse, c.l.keys[1][FP_PURPOSE_PROMOTE]));
    ok(fp__dsse_write(&dsse, &text));
    ok(fp__workspace_id_path(c.l.w, "anchors", c.ids[0], ".dsse.json", &path));
    ok(fp__file_write((const char *)path.data, text.data, text.size, 0644));
    gate_wants(&c, FP_GATE_KEY_NOT_IN_POLICY);
    fp_key_free(stranger);
    fp__dsse_free(&dsse);
    fp__buf_free(&path);
    fp__buf_free(&text);
    lab_close(&c.l);
}

static void test_threshold(void **state)
{
    (void)state;
    struct gate_case c;
    gate_open(&c, NULL, NULL);
    gate_make(&c, 0, ALICE, COMPILED);
    gate_wants(&c, FP_GATE_THRESHOLD);
    gate_make(&c, 0, ALICE | CAROL, CREATED); /* the same statement, signed by two */
    gate_wants(&c, FP_GATE_ALLOW);
    lab_close(&c.l);
}

static void test_states(void **state)
{
    (void)state;
    struct gate_case c;
    gate_open(&c, NULL, NULL);
    gate_make(&c, 0, ALICE | BOB, CREATED);
    gate_wants(&c, FP_GATE_NOT_LOGGED);
    lab_log_anchor(&c.l, FP__EVENT_REGISTER, c.ids[0], FP_LABEL_CORE, ALICE);
    gate_wants(&c, FP_GATE_NOT_PROMOTED);
    lab_log_anchor(&c.l, FP__EVENT_PROMOTE, c.ids[0], FP_LABEL_CORE, ALICE); /* one of two holders */
    gate_wants(&c, FP_GATE_NOT_PROMOTED);
    lab_log_anchor(&c.l, FP__EVENT_PROMOTE, c.ids[0], FP_LABEL_CORE, ALICE | BOB);
    gate_wants(&c, FP_GATE_NOT_COMPILED);
    c.query.for_compile = true;
    gate_wants(&c, FP_GATE_ALLOW);
    c.query.for_compile = false;
    lab_log_compile(&c.l, (const uint8_t(*)[32])c.ids, 1, 0xa1, 1, 0xee);
    gate_wants(&c, FP_GATE_ALLOW);
    /* superseded by b, then revoked, which is the end of it */
    c.statement = lab_statement("b", FP_LABEL_CORE);
    gate_make(&c, 1, ALICE | BOB, PROMOTED);
    fp__event supersede = lab_event(&c.l, FP__EVENT_SUPERSEDE, c.ids[0]);
    supersede.label = FP_LABEL_CORE;
    memcpy(supersede.successor, c.ids[1], 32);
    lab_log(&c.l, supersede, ALICE | BOB);
    gate_wants(&c, FP_GATE_SUPERSEDED);
    lab_log_anchor(&c.l, FP__EVENT_REVOKE, c.ids[0], FP_LABEL_CORE, CAROL);
    c.query.now = LAB_NOW;
    fp_gate_result result;
    assert_int_equal(fp_gate_check(c.l.w, &c.query, &result), FP_DENIED);
    assert_int_equal(result.reason, FP_GATE_SUPERSEDED); /* the first of the list */
    memcpy(c.ids[0], c.ids[1], 32);
    lab_log_compile(&c.l, (const uint8_t(*)[32])c.ids, 1, 0xa1, 1, 0xee);
    gate_wants(&c, FP_GATE_ALLOW);
    lab_log_anchor(&c.l, FP__EVENT_REVOKE, c.ids[0], FP_LABEL_CORE, CAROL);
    gate_wants(&c, FP_GATE_REVOKED);
    lab_log_anchor(&c.l, FP__EVENT_PROMOTE, c.ids[0], FP_LABEL_CORE, ALICE | BOB);
    gate_wants(&c, FP_GATE_REVOKED);
    lab_close(&c.l);
}

static void want_witness(fp__trust *trust)
{
    uint8_t seed[32] = {77}, public_key[32];
    fp_key *key;
    ok(fp_key_from_seed(seed, &key));
    fp_key_public(key, public_key);
    ok(fp__note_key_make("witness.example", FP__NOTE_COSIGNATURE, public_key, &trust->witnesses.keys[0]));
    trust->witnesses.count = 1;
    trust->witnesses.threshold = 1;
    fp_key_free(key);
}

static void want_freshness(json_t *policy)
{
    json_object_set_new(policy, "freshness_seconds", json_integer(60));
}

/* Puts a cosignature of this time under the published checkpoint. */
static void cosign(lab *l, uint64_t seconds)
{
    char path[128];
    uint8_t seed[32] = {77};
    fp_key *key;
    fp__buf note = {0};
    fp__note parsed;
    ok(fp_key_from_seed(seed, &key));
    lab_path(l, "ledger/checkpoint", path, sizeof path);
    ok(fp__file_read(path, 1 << 20, &note));
    ok(fp__note_parse(note.data, note.size, &parsed));
    fp__buf whole = {0};
    ok(fp__buf_append(&whole, note.data, note.size));
    ok(fp__note_cosign(parsed.text, parsed.text_size, "witness.example", fp__key_ed25519(key), seconds,
                       &whole));
    ok(fp__file_write(path, whole.data, whole.size, 0644));
    fp__note_free(&parsed);
    fp__buf_free(&note);
    fp__buf_free(&whole);
    fp_key_free(key);
}

static void test_stale_checkpoint(void **state)
{
    (void)state;
    struct gate_case c;
    gate_open(&c, want_freshness, want_witness);
    gate_make(&c, 0, ALICE | BOB, COMPILED);
    gate_wants(&c, FP_GATE_STALE_CHECKPOINT);
    cosign(&c.l, LAB_NOW - 61);
    fp_workspace_close(c.l.w);
    ok(fp_workspace_open(c.l.dir, NULL, &c.l.w));
    gate_wants(&c, FP_GATE_STALE_CHECKPOINT);
    c.query.now = LAB_NOW - 10;
    gate_wants(&c, FP_GATE_ALLOW);
    lab_close(&c.l);
    gate_open(&c, want_freshness, NULL);
    gate_make(&c, 0, ALICE | BOB, COMPILED);
    gate_wants(&c, FP_GATE_STALE_CHECKPOINT); /* nobody to tell the time */
    lab_close(&c.l);
}

/* A mirror that goes on serving an old log: what was revoked since passes for at most Δ, and the log that
 * went on behind it is seen as soon as the mirror follows. A mirror that is put back is refused. */
static void test_frozen_mirror(void **state)
{
    (void)state;
    struct gate_case c;
    char url[128], text[192], command[512];
    gate_open(&c, want_freshness, want_witness);
    gate_make(&c, 0, ALICE | BOB, COMPILED);
    cosign(&c.l, LAB_NOW);
    snprintf(command, sizeof command, "cp -r '%s/ledger' '%s/mirror' && cp -r '%s/mirror' '%s/mirror.old'",
             c.l.dir, c.l.dir, c.l.dir, c.l.dir);
    assert_int_equal(system(command), 0);
    lab_path(&c.l, "ledger.url", url, sizeof url);
    int n = snprintf(text, sizeof text, "file://%s/mirror\n", c.l.dir);
    ok(fp__file_write(url, text, (size_t)n, 0644));
    fp_workspace_close(c.l.w);
    ok(fp_workspace_open(c.l.dir, NULL, &c.l.w));
    lab_log_anchor(&c.l, FP__EVENT_REVOKE, c.ids[0], FP_LABEL_CORE, CAROL);
    cosign(&c.l, LAB_NOW + 30);
    c.query.now = LAB_NOW + 60; /* Δ: the window */
    gate_wants(&c, FP_GATE_ALLOW);
    c.query.now = LAB_NOW + 61;
    gate_wants(&c, FP_GATE_STALE_CHECKPOINT);
    snprintf(command, sizeof command, "cp -r '%s/ledger/.' '%s/mirror/'", c.l.dir, c.l.dir);
    assert_int_equal(system(command), 0);
    gate_wants(&c, FP_GATE_REVOKED);
    snprintf(command, sizeof command, "rm -r '%s/mirror' && mv '%s/mirror.old' '%s/mirror'", c.l.dir, c.l.dir,
             c.l.dir);
    assert_int_equal(system(command), 0);
    c.query.now = LAB_NOW;
    gate_wants(&c, FP_GATE_INCONSISTENT_LOG);
    lab_close(&c.l);
}

/* Another history under the same key and origin, of the same length. */
static void test_inconsistent_log(void **state)
{
    (void)state;
    struct gate_case c, fork;
    char mine[128], other[128], aside[128];
    gate_open(&c, NULL, NULL);
    gate_open(&fork, NULL, NULL);
    gate_make(&c, 0, ALICE | BOB, COMPILED);
    gate_make(&fork, 0, ALICE | BOB, COMPILED);
    lab_log_compile(&fork.l, (const uint8_t(*)[32])fork.ids, 1, 0xa1, 1, 0xef);
    gate_wants(&c, FP_GATE_ALLOW);
    fp__ledger_writer_close(c.l.writer);
    fp__ledger_writer_close(fork.l.writer);
    c.l.writer = fork.l.writer = NULL;
    lab_path(&c.l, "ledger", mine, sizeof mine);
    lab_path(&c.l, "ledger.mine", aside, sizeof aside);
    lab_path(&fork.l, "ledger", other, sizeof other);
    assert_int_equal(rename(mine, aside), 0);
    assert_int_equal(rename(other, mine), 0);
    gate_wants(&c, FP_GATE_INCONSISTENT_LOG);
    fp_workspace_close(c.l.w);
    c.l.w = NULL;
    fails(fp_workspace_open(c.l.dir, NULL, &c.l.w), FP_MISMATCH, ""); /* remembered in ledger.state */
    lab_close(&c.l);
    lab_close(&fork.l);
}

/* A log whose entry 0 is not the pinned policy. */
static void wrong_first_policy(fp__trust *trust)
{
    trust->first_policy[0] ^= 1;
}

static void test_wrong_first_policy(void **state)
{
    (void)state;
    struct gate_case c;
    gate_open(&c, NULL, wrong_first_policy);
    gate_make(&c, 0, ALICE | BOB, COMPILED);
    gate_wants(&c, FP_GATE_INCONSISTENT_LOG);
    lab_close(&c.l);
}

static void log_unknown(lab *l, const char *type, const char *version, bool with_key)
{
    fp__dsse dsse = {0};
    uint8_t digest[32] = {1};
    ok(fp__dsse_create_json(
        fp__intoto_build("x", "sha256", digest, version, json_pack("{s:s}", "event", type)), &dsse));
    if (with_key)
        lab_sign(l, &dsse, FP_PURPOSE_ENGINE, CAROL);
    lab_append_dsse(l, &dsse);
    fp__dsse_free(&dsse);
}

static void test_unknown_event(void **state)
{
    (void)state;
    struct gate_case c;
    gate_open(&c, NULL, NULL);
    gate_make(&c, 0, ALICE | BOB, COMPILED);
    log_unknown(&c.l, "frobnicate", FP__EVENT_PREDICATE, false); /* signed by nobody: not an event */
    lab_append(&c.l, "not JSON", 8);
    gate_wants(&c, FP_GATE_ALLOW);
    log_unknown(&c.l, "frobnicate", FP__EVENT_PREDICATE, true);
    gate_wants(&c, FP_GATE_UNKNOWN_EVENT);
    lab_close(&c.l);
    gate_open(&c, NULL, NULL);
    gate_make(&c, 0, ALICE | BOB, COMPILED);
    log_unknown(&c.l, "revoke", "urn:fieldprint:event:v2", true);
    gate_wants(&c, FP_GATE_UNKNOWN_EVENT);
    lab_close(&c.l);
}

static void test_distrusted(void **state)
{
    (void)state;
    struct gate_case c;
    uint8_t public_key[32], keyid[32];
    char hex[65];
    gate_open(&c, NULL, NULL);
    gate_make(&c, 0, ALICE | BOB, COMPILED);
    gate_wants(&c, FP_GATE_ALLOW);
    fp_key_public(c.l.keys[1][FP_PURPOSE_AUTHOR], public_key);
    fp_key_id(public_key, hex);
    ok(fp__hex_decode(hex, 64, keyid, 32));
    fp__event late = lab_event(&c.l, FP__EVENT_DISTRUST, keyid);
    late.from_index = 3; /* after the promotion: what was promoted stays */
    lab_log(&c.l, late, ALICE);
    gate_wants(&c, FP_GATE_ALLOW);
    fp__event early = lab_event(&c.l, FP__EVENT_DISTRUST, keyid);
    early.from_index = 1;
    lab_log(&c.l, early, ALICE);
    gate_wants(&c, FP_GATE_DISTRUSTED);
    lab_close(&c.l);
}

static void test_validity(void **state)
{
    (void)state;
    struct gate_case c;
    gate_open(&c, NULL, NULL);
    gate_make(&c, 0, ALICE | BOB, COMPILED);
    c.query.now = 999;
    gate_wants(&c, FP_GATE_NOT_YET_VALID);
    c.query.now = 1000;
    gate_wants(&c, FP_GATE_ALLOW);
    c.query.now = 1999999;
    gate_wants(&c, FP_GATE_ALLOW);
    c.query.now = 2000000;
    gate_wants(&c, FP_GATE_EXPIRED);
    lab_close(&c.l);
}

static void test_promotion_narrows_validity(void **state)
{
    (void)state;
    struct gate_case c;
    gate_open(&c, NULL, NULL);
    gate_make(&c, 0, ALICE | BOB, REGISTERED);
    fp__event promote = lab_event(&c.l, FP__EVENT_PROMOTE, c.ids[0]);
    promote.label = FP_LABEL_CORE;
    promote.valid_from = 5000;
    promote.valid_until = 6000;
    lab_log(&c.l, promote, ALICE | BOB);
    lab_log_compile(&c.l, (const uint8_t(*)[32])c.ids, 1, 0xa1, 1, 0xee);
    c.query.now = 4999;
    gate_wants(&c, FP_GATE_NOT_YET_VALID);
    c.query.now = 5500;
    gate_wants(&c, FP_GATE_ALLOW);
    c.query.now = 6000;
    gate_wants(&c, FP_GATE_EXPIRED);
    lab_close(&c.l);
}

static void no_core(json_t *policy)
{
    json_object_set_new(json_object_get(policy, "anchors"), "types", json_pack("[s]", "user"));
}

static uint8_t required_id[32];
static void require_one(json_t *policy)
{
    json_object_set_new(json_object_get(policy, "anchors"), "required",
                        json_pack("[o]", fp__json_hex_value(required_id, 32)));
}

static void test_not_permitted(void **state)
{
    (void)state;
    struct gate_case c;
    gate_open(&c, NULL, NULL);
    c.statement.injection = (fp_injection){.mode = FP_INJECT_FLOOR, .gamma = 1000};
    gate_make(&c, 0, ALICE | BOB, COMPILED);
    gate_wants(&c, FP_GATE_ALLOW);
    c.query.gamma = 32768;
    gate_wants(&c, FP_GATE_ALLOW);
    assert_int_equal(c.result.injection.gamma, 32768);
    c.query.gamma = 32769; /* the policy's maximum is 32768 */
    gate_wants(&c, FP_GATE_NOT_PERMITTED);
    c.query.gamma = 0;
    c.query.for_compile = true;
    gate_add(&c, 1, "b", FP_LABEL_USER);
    gate_wants(&c, FP_GATE_ALLOW);
    assert_int_equal(c.result.label, FP_LABEL_USER);
    gate_add(&c, 2, "c", FP_LABEL_CORE); /* core after user */
    gate_wants(&c, FP_GATE_NOT_PERMITTED);
    memcpy(c.ids[2], c.ids[1], 32); /* twice */
    gate_wants(&c, FP_GATE_NOT_PERMITTED);
    c.statement.injection = (fp_injection){.mode = FP_INJECT_RESERVE, .gamma = 1000};
    strcpy(c.statement.name, "d");
    c.statement.type = FP_LABEL_USER;
    gate_make(&c, 2, ALICE | BOB, PROMOTED); /* two wishes */
    gate_wants(&c, FP_GATE_NOT_PERMITTED);
    gate_add(&c, 2, "e", FP_LABEL_USER);
    gate_wants(&c, FP_GATE_ALLOW);
    gate_add(&c, 3, "f", FP_LABEL_USER); /* four where three are allowed */
    gate_wants(&c, FP_GATE_NOT_PERMITTED);
    c.query.anchors = 1;
    memset(required_id, 0x5a, 32);
    lab_next_policy(&c.l, require_one, ALICE | BOB);
    gate_wants(&c, FP_GATE_NOT_PERMITTED);
    assert_memory_equal(c.result.anchor_id, required_id, 32);
    memcpy(required_id, c.ids[0], 32);
    lab_next_policy(&c.l, require_one, ALICE | BOB);
    gate_wants(&c, FP_GATE_ALLOW);
    c.query.anchors = 0; /* required, but left out */
    gate_wants(&c, FP_GATE_NOT_PERMITTED);
    c.query.anchors = 1;
    lab_next_policy(&c.l, no_core, ALICE | BOB);
    gate_wants(&c, FP_GATE_NOT_PERMITTED);
    lab_close(&c.l);
}

static void test_gamma_needs_a_mode(void **state)
{
    (void)state;
    struct gate_case c;
    gate_open(&c, NULL, NULL);
    gate_make(&c, 0, ALICE | BOB, COMPILED);
    c.query.gamma = 1;
    gate_wants(&c, FP_GATE_NOT_PERMITTED);
    lab_close(&c.l);
}

/* Logged as user, where one holder promotes, but signed as core. */
static void test_type_of_the_log(void **state)
{
    (void)state;
    struct gate_case c;
    gate_open(&c, NULL, NULL);
    gate_make(&c, 0, ALICE | BOB, CREATED);
    lab_log_anchor(&c.l, FP__EVENT_REGISTER, c.ids[0], FP_LABEL_USER, ALICE);
    lab_log_anchor(&c.l, FP__EVENT_PROMOTE, c.ids[0], FP_LABEL_USER, ALICE);
    lab_log_compile(&c.l, (const uint8_t(*)[32])c.ids, 1, 0xa1, 1, 0xee);
    gate_wants(&c, FP_GATE_NOT_PERMITTED);
    lab_close(&c.l);
}

static void test_compiled(void **state)
{
    (void)state;
    struct gate_case c;
    gate_open(&c, NULL, NULL);
    gate_make(&c, 0, ALICE | BOB, COMPILED);
    c.model[5] ^= 1;
    gate_wants(&c, FP_GATE_WRONG_MODEL);
    c.model[5] ^= 1;
    c.query.arithmetic_version = 2;
    gate_wants(&c, FP_GATE_WRONG_ARITHMETIC);
    c.query.arithmetic_version = 1;
    lab_log_compile(&c.l, (const uint8_t(*)[32])c.ids, 1, 0xa1, 1, 0xee); /* says the same */
    gate_wants(&c, FP_GATE_ALLOW);
    lab_log_compile(&c.l, (const uint8_t(*)[32])c.ids, 1, 0xa1, 1, 0xef);
    gate_wants(&c, FP_GATE_ROOT_MISMATCH);
    lab_close(&c.l);
}

static void only_acme(json_t *policy)
{
    json_object_set_new(json_object_get(policy, "anchors"), "readers", json_pack("[s]", "acme"));
}

static void test_readers(void **state)
{
    (void)state;
    struct gate_case c;
    gate_open(&c, NULL, NULL);
    c.statement.readers_count = 2;
    strcpy(c.statement.readers[0], "acme");
    strcpy(c.statement.readers[1], "bolt");
    gate_make(&c, 0, ALICE | BOB, COMPILED);
    gate_wants(&c, FP_GATE_ALLOW);
    c.query.reader = "bolt";
    gate_wants(&c, FP_GATE_ALLOW);
    c.query.reader = "carp";
    gate_wants(&c, FP_GATE_READER_NOT_ALLOWED);
    c.query.reader = "*"; /* a name, not a wish */
    gate_wants(&c, FP_GATE_READER_NOT_ALLOWED);
    c.query.reader = "bolt";
    lab_next_policy(&c.l, only_acme, ALICE | BOB);
    gate_wants(&c, FP_GATE_READER_NOT_ALLOWED);
    lab_close(&c.l);
}

static void test_label(void **state)
{
    (void)state;
    struct gate_case c;
    gate_open(&c, NULL, NULL);
    c.statement.type = FP_LABEL_USER;
    gate_make(&c, 0, ALICE, COMPILED);
    c.query.min_label = FP_LABEL_USER;
    gate_wants(&c, FP_GATE_ALLOW);
    c.query.min_label = FP_LABEL_CORE;
    gate_wants(&c, FP_GATE_LABEL_TOO_LOW);
    lab_close(&c.l);
}

static void test_missing_statement(void **state)
{
    (void)state;
    struct gate_case c;
    fp__buf path = {0}, text = {0};
    gate_open(&c, NULL, NULL);
    gate_make(&c, 0, ALICE | BOB, COMPILED);
    stored_envelope(&c, 0, &path, &text);
    ok(fp__file_write((const char *)path.data, text.data, text.size - 1, 0644)); /* cut short */
    gate_wants(&c, FP_GATE_MISSING_STATEMENT);
    fp_statement other = lab_statement("other", FP_LABEL_CORE);
    fp__dsse dsse = {0};
    ok(fp__statement_create(&other, &dsse)); /* another statement under this name */
    lab_sign(&c.l, &dsse, FP_PURPOSE_AUTHOR, ALICE | BOB);
    text.size = 0;
    ok(fp__dsse_write(&dsse, &text));
    ok(fp__file_write((const char *)path.data, text.data, text.size, 0644));
    gate_wants(&c, FP_GATE_MISSING_STATEMENT);
    assert_int_equal(unlink((const char *)path.data), 0);
    gate_wants(&c, FP_GATE_MISSING_STATEMENT);
    fp__dsse_free(&dsse);
    fp__buf_free(&path);
    fp__buf_free(&text);
    lab_close(&c.l);
}

static uint64_t log_override(struct gate_case *c, bool halt, size_t anchors, uint64_t from, int holders)
{
    uint8_t target[32];
    fp__event_ids_digest((const uint8_t(*)[32])c->ids, anchors, target);
    fp__event event = lab_event(&c->l, FP__EVENT_OVERRIDE, target);
    ok(fp__event_set_ids(&event, (const uint8_t(*)[32])c->ids, anchors));
    event.halt = halt;
    event.valid_from = from;
    event.valid_until = from + 3600;
    strcpy(event.deployment, "*");
    strcpy(event.reason, "incident 7");
    return lab_log(&c->l, event, holders);
}

static void test_override(void **state)
{
    (void)state;
    static const uint8_t zero[32] = {0};
    struct gate_case c;
    gate_open(&c, NULL, NULL);
    gate_make(&c, 0, ALICE | BOB, COMPILED);
    log_override(&c, true, 0, LAB_NOW - 10, ALICE); /* one holder of two */
    gate_wants(&c, FP_GATE_ALLOW);
    log_override(&c, true, 1, LAB_NOW - 10, ALICE | CAROL);
    gate_wants(&c, FP_GATE_OVERRIDDEN);
    assert_memory_not_equal(c.result.overrides[0], zero, 32);
    c.query.now = LAB_NOW - 10 + 3600; /* it ends by itself */
    gate_wants(&c, FP_GATE_ALLOW);
    c.query.now = 2000000;
    gate_wants(&c, FP_GATE_EXPIRED);
    log_override(&c, false, 0, 2000000, BOB | CAROL);
    gate_wants(&c, FP_GATE_ALLOW);
    assert_true(c.result.bypassed);
    assert_memory_not_equal(c.result.overrides[0], zero, 32);
    c.query.min_label = FP_LABEL_COUNT; /* a bypass raises no label */
    gate_wants(&c, FP_GATE_LABEL_TOO_LOW);
    c.query.min_label = FP_LABEL_EXTERNAL;
    lab_log_anchor(&c.l, FP__EVENT_REVOKE, c.ids[0], FP_LABEL_CORE,
                   CAROL); /* nor does it undo a revocation */
    gate_wants(&c, FP_GATE_REVOKED);
    lab_close(&c.l);
}

static void test_names(void **state)
{
    (void)state;
    for (unsigned i = 0; i < FP_GATE_COUNT; i++) {
        assert_true(strlen(fp_gate_reason_name((fp_gate_reason)i)) > 0);
        assert_null(strchr(fp_gate_reason_remedy((fp_gate_reason)i), '\n'));
        for (unsigned j = 0; j < i; j++)
            assert_string_not_equal(fp_gate_reason_name((fp_gate_reason)i),
                                    fp_gate_reason_name((fp_gate_reason)j));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_allow),
        cmocka_unit_test(test_signature),
        cmocka_unit_test(test_key_not_in_policy),
        cmocka_unit_test(test_threshold),
        cmocka_unit_test(test_states),
        cmocka_unit_test(test_stale_checkpoint),
        cmocka_unit_test(test_frozen_mirror),
        cmocka_unit_test(test_inconsistent_log),
        cmocka_unit_test(test_wrong_first_policy),
        cmocka_unit_test(test_unknown_event),
        cmocka_unit_test(test_distrusted),
        cmocka_unit_test(test_validity),
        cmocka_unit_test(test_promotion_narrows_validity),
        cmocka_unit_test(test_not_permitted),
        cmocka_unit_test(test_gamma_needs_a_mode),
        cmocka_unit_test(test_type_of_the_log),
        cmocka_unit_test(test_compiled),
        cmocka_unit_test(test_readers),
        cmocka_unit_test(test_label),
        cmocka_unit_test(test_missing_statement),
        cmocka_unit_test(test_override),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
