/* Override files: verified from the trust file alone; spooled when the log is down, and logged first. */
#include "anchor_lab.h"

static void make_override(lab *l, bool halt, const char *deployment, int holders, fp__dsse *dsse)
{
    uint8_t target[32] = {0};
    fp__event event = lab_event(l, FP__EVENT_OVERRIDE, target);
    ok(fp__event_set_ids(&event, NULL, 0));
    event.halt = halt;
    event.valid_from = LAB_NOW - 10;
    event.valid_until = LAB_NOW + 3600;
    strcpy(event.deployment, deployment);
    strcpy(event.reason, "incident 7");
    ok(fp__event_build(&event, dsse));
    lab_sign(l, dsse, FP_PURPOSE_OVERRIDE, holders);
    fp__event_free(&event);
}

/* The chain of policies and this override, as fp_override_export writes it. */
static void make_file(lab *l, const fp__dsse *dsse, uint64_t policies, fp__buf *out)
{
    out->size = 0;
    ok(fp_workspace_sync(l->w));
    for (uint64_t i = 0; i < policies; i++) {
        ok(fp__ledger_reader_entry(l->w->reader, i, out));
        ok(fp__buf_append_text(out, "\n"));
    }
    ok(fp__dsse_write(dsse, out));
}

static void trust_path(const lab *l, char out[128])
{
    lab_path(l, "trust.json", out, 128);
}

static void test_verify(void **state)
{
    (void)state;
    lab l;
    char trust[128];
    fp__dsse dsse = {0}, weak = {0}, old = {0};
    fp__buf file = {0};
    fp_override_info info;
    lab_open(&l, NULL, NULL);
    trust_path(&l, trust);
    make_override(&l, true, "*", ALICE | BOB, &old);
    lab_next_policy(&l, NULL, ALICE | BOB); /* entry 1: the chain has two */
    make_override(&l, true, "eu-1", BOB | CAROL, &dsse);
    make_override(&l, true, "eu-1", CAROL, &weak);
    make_file(&l, &dsse, 2, &file);
    ok(fp_override_verify(trust, file.data, file.size, &info));
    assert_true(info.halt);
    assert_string_equal(info.deployment, "eu-1");
    assert_string_equal(info.why, "incident 7");
    assert_int_equal(info.anchors, 0);
    assert_memory_equal(info.event_id, dsse.id, 32);
    for (size_t at = 0; at < file.size; at += 97) { /* any byte */
        fp__buf bad = {0};
        ok(fp__buf_append(&bad, file.data, file.size));
        bad.data[at] ^= 1;
        fp_status status = fp_override_verify(trust, bad.data, bad.size, &info);
        fp__buf_free(&bad);
        if (status == FP_OK && file.data[at] != '"') /* a keyid is a hint: any text will do */
            assert_non_null(strstr("0123456789abcdef", (char[]){(char)file.data[at], 0}));
    }
    make_file(&l, &dsse, 1, &file);
    fails(fp_override_verify(trust, file.data, file.size, &info), FP_SIGNATURE, "not the one in force");
    make_file(&l, &weak, 2, &file);
    fails(fp_override_verify(trust, file.data, file.size, &info), FP_SIGNATURE, "signed by 1 of 2");
    make_file(&l, &old, 2, &file); /* of the policy before */
    fails(fp_override_verify(trust, file.data, file.size, &info), FP_SIGNATURE, "not the one in force");
    fails(fp_override_verify(trust, "", 0, &info), FP_FORMAT, "empty");
    fails(fp_override_verify(trust, "{}", 2, &info), FP_FORMAT, "payload");
    lab other; /* another deployment's trust file pins another first policy */
    lab_open(&other, NULL, NULL);
    other.trust.first_policy[0] ^= 1;
    fp__buf text = {0};
    ok(fp__trust_write(&other.trust, &text));
    trust_path(&other, trust);
    ok(fp__file_write(trust, text.data, text.size, 0644));
    make_file(&l, &dsse, 2, &file);
    fails(fp_override_verify(trust, file.data, file.size, &info), FP_SIGNATURE, "trust file pins");
    fp__buf_free(&text);
    lab_close(&other);
    fp__dsse_free(&dsse);
    fp__dsse_free(&weak);
    fp__dsse_free(&old);
    fp__buf_free(&file);
    lab_close(&l);
}

static fp_gate_reason ask(lab *l, uint8_t override_id[32])
{
    fp_gate_query q = {.anchors = 0, .now = LAB_NOW};
    fp_gate_result r;
    fp_status status = fp_gate_check(l->w, &q, &r);
    assert_true(status == FP_OK || status == FP_DENIED);
    assert_true(r.overrides_count <= 1);
    memset(override_id, 0, 32);
    memcpy(override_id, r.overrides[0], r.overrides_count * 32);
    return r.reason;
}

/* The log's key is not here, as in a deployment that only reads: spooled, in force for this handle. */
static void test_spool(void **state)
{
    (void)state;
    lab l;
    fp__dsse halt = {0}, bypass = {0};
    fp__buf file = {0};
    fp_override_info info;
    uint8_t id[32];
    bool logged = true;
    char path[128];
    lab_open(&l, NULL, NULL);
    make_override(&l, true, "eu-1", ALICE | BOB, &halt);
    make_file(&l, &halt, 1, &file);
    assert_int_equal(ask(&l, id), FP_GATE_ALLOW);
    ok(fp_workspace_set_deployment(l.w, "us-2"));
    ok(fp_override_use(l.w, file.data, file.size, &info, &logged));
    assert_false(logged);
    assert_int_equal(ask(&l, id), FP_GATE_ALLOW); /* of another deployment */
    ok(fp_workspace_set_deployment(l.w, "eu-1"));
    assert_int_equal(ask(&l, id), FP_GATE_OVERRIDDEN);
    assert_memory_equal(id, halt.id, 32);
    fails(fp_workspace_set_deployment(l.w, "*"), FP_USAGE, "is not *");
    /* the log is up again: the override goes in before what is asked for */
    fp__ledger_writer_close(l.writer);
    l.writer = NULL;
    for (int h = 0; h < LAB_HOLDERS; h++) {
        snprintf(path, sizeof path, "%s/keys/%s", l.dir, lab_names[h]);
        ok(fp__dir_make(path));
        for (unsigned p = 0; p < FP_PURPOSE_COUNT; p++) {
            snprintf(path, sizeof path, "%s/keys/%s/%s.pem", l.dir, lab_names[h],
                     fp_purpose_name((fp_purpose)p));
            ok(fp_key_save(l.keys[h][p], path));
        }
    }
    fp_event_receipt receipt;
    fp_ledger_row rows[4];
    size_t n = 4;
    uint8_t receipt_id[1][32] = {{7}};
    ok(fp_receipts_log(l.w, (const uint8_t(*)[32])receipt_id, 1, &receipt));
    assert_int_equal(receipt.index, 2);
    ok(fp_ledger_rows(l.w, 0, rows, &n));
    assert_int_equal(n, 3);
    assert_string_equal(rows[1].type, "override");
    assert_true(rows[1].valid);
    ok(fp_override_use(l.w, file.data, file.size, &info, &logged)); /* it is there: nothing more happens */
    assert_true(logged);
    assert_int_equal(ask(&l, id), FP_GATE_OVERRIDDEN);
    uint8_t *exported;
    size_t size;
    ok(fp_override_export(l.w, halt.id, &exported, &size));
    ok(fp_override_verify(l.w->trust_path, exported, size, &info));
    fp_bytes_free(exported);
    fails(fp_override_export(l.w, receipt_id[0], &exported, &size), FP_NOT_FOUND, "no such override");
    /* a bypass in force is named, needed or not */
    ok(fp_workspace_set_deployment(l.w, NULL));
    fp_workspace_close(l.w);
    ok(fp_workspace_open(l.dir, NULL, &l.w));
    ok(fp_workspace_set_deployment(l.w, "us-2"));
    make_override(&l, false, "us-2", ALICE | CAROL, &bypass);
    make_file(&l, &bypass, 1, &file);
    ok(fp_override_use(l.w, file.data, file.size, &info, &logged));
    assert_true(logged);
    assert_int_equal(ask(&l, id), FP_GATE_ALLOW);
    assert_memory_equal(id, bypass.id, 32);
    fp__dsse_free(&halt);
    fp__dsse_free(&bypass);
    fp__buf_free(&file);
    lab_close(&l);
}

static int decline(void *context, const char *what, const uint8_t *payload, size_t size)
{
    assert_non_null(memmem(payload, size, "incident", 8));
    snprintf(context, 32, "%s", what);
    return 1;
}

/* What is signed is shown, and can be declined; bounds of the request. */
static void test_request(void **state)
{
    (void)state;
    lab l;
    char path[128], what[32] = "";
    uint64_t before;
    lab_open(&l, NULL, NULL);
    before = l.entries;
    fp__ledger_writer_close(l.writer);
    l.writer = NULL;
    snprintf(path, sizeof path, "%s/keys/alice", l.dir);
    ok(fp__dir_make(path));
    for (unsigned p = 0; p < FP_PURPOSE_COUNT; p++) {
        snprintf(path, sizeof path, "%s/keys/alice/%s.pem", l.dir, fp_purpose_name((fp_purpose)p));
        ok(fp_key_save(l.keys[0][p], path));
    }
    fp_override o = {.halt = true, .valid_from = 1, .valid_until = 86402, .why = "incident"};
    fp_event_receipt receipt;
    fails(fp_event_override(l.w, &o, &receipt), FP_LIMIT, "24 hours");
    o.valid_until = 3600;
    o.deployment = "";
    fails(fp_event_override(l.w, &o, &receipt), FP_LIMIT, "deployment");
    o.deployment = NULL;
    fp_workspace_set_confirm(l.w, decline, what);
    fails(fp_event_override(l.w, &o, &receipt), FP_CANCELLED, "not signed");
    assert_string_equal(what, "override");
    fp_workspace_set_confirm(l.w, NULL, NULL);
    ok(fp_event_override(l.w, &o, &receipt));
    assert_false(receipt.appended); /* one of two */
    assert_int_equal(receipt.signatures_missing, 1);
    fp__buf text = {0};
    fp_event_info info;
    ok(fp__file_read(receipt.pending_path, 1 << 16, &text));
    ok(fp_event_inspect(l.w, text.data, text.size, &info));
    assert_string_equal(info.type, "override");
    assert_int_equal(info.signatures, 1);
    assert_int_equal(info.signatures_missing, 1);
    assert_false(info.counts);
    fp_workspace_info state_now;
    ok(fp_workspace_get_info(l.w, &state_now));
    assert_int_equal(state_now.tree_size, before);
    fp__buf_free(&text);
    lab_close(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_verify),
        cmocka_unit_test(test_spool),
        cmocka_unit_test(test_request),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
