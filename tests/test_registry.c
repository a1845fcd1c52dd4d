/* The replay: what counts, what does not and why; and that the registry is nothing but a replay. */
#include "anchor_lab.h"

static void row_is(lab *l, uint64_t index, const char *type, bool valid, const char *word)
{
    fp_ledger_row row;
    size_t n = 1;
    ok(fp_ledger_rows(l->w, index, &row, &n));
    assert_int_equal(n, 1);
    if (row.valid != valid || strcmp(row.type, type) != 0 || strstr(row.why, word) == NULL)
        fail_msg("entry %llu: %s, %s (%s) where %s, %s (%s) was expected", (unsigned long long)index,
                 row.type, row.valid ? "counts" : "skipped", row.why, type, valid ? "counts" : "skipped",
                 word);
}

static uint64_t log_receipts(lab *l, uint8_t first, size_t n, int holders)
{
    uint8_t ids[FP__EVENT_IDS_MAX][32], target[32];
    for (size_t i = 0; i < n; i++)
        memset(ids[i], (uint8_t)(first + i), 32);
    fp__event_ids_digest((const uint8_t(*)[32])ids, n, target);
    fp__event event = lab_event(l, FP__EVENT_RECEIPTS, target);
    ok(fp__event_set_ids(&event, (const uint8_t(*)[32])ids, n));
    return lab_log(l, event, holders);
}

/* A bit of everything. */
static void fill(lab *l, uint8_t ids[2][32])
{
    fp_statement a = lab_statement("a", FP_LABEL_CORE), b = lab_statement("b", FP_LABEL_USER);
    uint8_t public_key[32], keyid[32];
    char hex[65];
    lab_anchor(l, &a, ALICE | BOB, ids[0]);
    lab_anchor(l, &b, ALICE, ids[1]);
    lab_log_anchor(l, FP__EVENT_REGISTER, ids[0], FP_LABEL_CORE, ALICE);
    lab_log_anchor(l, FP__EVENT_REGISTER, ids[1], FP_LABEL_USER, BOB);
    lab_log_anchor(l, FP__EVENT_PROMOTE, ids[0], FP_LABEL_CORE, ALICE | CAROL);
    lab_log_anchor(l, FP__EVENT_PROMOTE, ids[1], FP_LABEL_USER, CAROL);
    lab_log_compile(l, (const uint8_t(*)[32])ids, 2, 0xa1, 1, 0xee);
    log_receipts(l, 1, 3, ALICE);
    lab_append(l, "somebody else's entry", 21);
    lab_next_policy(l, NULL, ALICE | BOB);
    fp__event supersede = lab_event(l, FP__EVENT_SUPERSEDE, ids[1]);
    supersede.label = FP_LABEL_USER;
    memcpy(supersede.successor, ids[0], 32);
    lab_log(l, supersede, ALICE);
    fp_key_public(l->keys[2][FP_PURPOSE_REVOKE], public_key);
    fp_key_id(public_key, hex);
    ok(fp__hex_decode(hex, 64, keyid, 32));
    lab_log_anchor(l, FP__EVENT_REVOKE, ids[0], FP_LABEL_CORE, CAROL);
    fp__event distrust = lab_event(l, FP__EVENT_DISTRUST, keyid); /* voids that revocation */
    distrust.from_index = 1;
    lab_log(l, distrust, ALICE);
    log_receipts(l, 50, 2, BOB);
    fp__event endorse = lab_event(l, FP__EVENT_ENDORSE, keyid);
    endorse.label = FP_LABEL_USER;
    lab_log(l, endorse, ALICE);
    fp__event retract = lab_event(l, FP__EVENT_RETRACTION, keyid);
    lab_log(l, retract, ALICE);
}

static void reopen(lab *l)
{
    fp_workspace_close(l->w);
    l->w = NULL;
    ok(fp_workspace_open(l->dir, NULL, &l->w));
}

static void test_deleted_comes_back_equal(void **state)
{
    (void)state;
    lab l;
    uint8_t ids[2][32], before[32], after[32];
    char path[128];
    uint64_t index;
    lab_open(&l, NULL, NULL);
    fill(&l, ids);
    reopen(&l);
    ok(fp__registry_digest(l.w->registry, before));
    lab_path(&l, "registry.db", path, sizeof path);
    assert_int_equal(unlink(path), 0);
    reopen(&l);
    assert_true(fp__file_exists(path));
    ok(fp__registry_digest(l.w->registry, after));
    assert_memory_equal(before, after, 32);
    /* an auditor's, in memory */
    char trust[128];
    lab_path(&l, "trust.json", trust, sizeof trust);
    fp_workspace *audit;
    ok(fp_workspace_open(l.dir, trust, &audit));
    ok(fp__registry_digest(audit->registry, after));
    assert_memory_equal(before, after, 32);
    fp_workspace_close(audit);
    /* and it says something: a receipt more is another digest */
    uint8_t receipt[32];
    memset(receipt, 90, 32);
    fails(fp_receipt_find(l.w, receipt, &index), FP_NOT_FOUND, "no such receipt");
    uint64_t logged = log_receipts(&l, 90, 1, ALICE);
    ok(fp_receipt_find(l.w, receipt, &index));
    assert_int_equal(index, logged);
    ok(fp__registry_digest(l.w->registry, after));
    assert_memory_not_equal(before, after, 32);
    lab_close(&l);
}

/* Entry by entry, each in a process's own time, or at once: the same. */
static void test_incremental_equals_whole(void **state)
{
    (void)state;
    lab l;
    uint8_t ids[2][32], step[32], whole[32];
    fp__registry *by_step, *at_once;
    lab_open(&l, NULL, NULL);
    fill(&l, ids);
    ok(fp_workspace_sync(l.w));
    ok(fp__registry_open(":memory:", &l.trust, &by_step));
    ok(fp__registry_open(":memory:", &l.trust, &at_once));
    for (uint64_t size = 1; size <= l.entries; size++) {
        ok(fp__registry_replay(by_step, l.w->reader, size));
        if (size % 4 != 0 && size != l.entries)
            continue;
        fp__registry *fresh; /* the view of that tree size alone */
        ok(fp__registry_open(":memory:", &l.trust, &fresh));
        ok(fp__registry_replay(fresh, l.w->reader, size));
        ok(fp__registry_digest(by_step, step));
        ok(fp__registry_digest(fresh, whole));
        assert_memory_equal(step, whole, 32);
        fp__registry_close(fresh);
    }
    ok(fp__registry_replay(at_once, l.w->reader, UINT64_MAX));
    ok(fp__registry_digest(at_once, whole));
    assert_memory_equal(step, whole, 32);
    fails(fp__registry_replay(at_once, l.w->reader, 2), FP_USAGE, "asked for 2");
    fails(fp__registry_replay(at_once, l.w->reader, l.entries + 1), FP_USAGE, "asked for");
    fp__registry_close(by_step);
    fp__registry_close(at_once);
    lab_close(&l);
}

static void test_damaged_file_is_made_anew(void **state)
{
    (void)state;
    lab l;
    uint8_t ids[2][32], before[32], after[32];
    char path[128];
    lab_open(&l, NULL, NULL);
    fill(&l, ids);
    reopen(&l);
    ok(fp__registry_digest(l.w->registry, before));
    fp_workspace_close(l.w);
    lab_path(&l, "registry.db", path, sizeof path);
    fp__buf text = {0};
    ok(fp__file_read(path, 1 << 24, &text));
    for (size_t at = 0; at < text.size; at += 512) { /* a page of garbage, here and there */
        fp__buf bad = {0};
        ok(fp__buf_append(&bad, text.data, text.size));
        memset(bad.data + at, 0xa5, at + 512 <= text.size ? 512 : text.size - at);
        ok(fp__file_write(path, bad.data, bad.size, 0644));
        fp__buf_free(&bad);
        fp_status status = fp_workspace_open(l.dir, NULL, &l.w);
        if (status != FP_OK)
            fail_msg("garbage at %zu: %s", at, fp_error_detail());
        fp_workspace_close(l.w);
        if (at >= 4096)
            break;
    }
    ok(fp__file_write(path, "not a database, but long enough to be looked at", 47, 0644));
    ok(fp_workspace_open(l.dir, NULL, &l.w));
    ok(fp__registry_digest(l.w->registry, after));
    assert_memory_equal(before, after, 32);
    fp__buf_free(&text);
    lab_close(&l);
}

static void test_only_the_first_occurrence_counts(void **state)
{
    (void)state;
    lab l;
    uint8_t ids[2][32];
    fp__buf entry = {0};
    lab_open(&l, NULL, NULL);
    fill(&l, ids);
    ok(fp_workspace_sync(l.w));
    ok(fp__ledger_reader_entry(l.w->reader, 2, &entry)); /* an old registration, logged again */
    uint64_t again = lab_append(&l, entry.data, entry.size);
    row_is(&l, 2, "register", true, "");
    row_is(&l, again, "register", false, "repetition of entry 2");
    fp__buf_free(&entry);
    lab_close(&l);
}

/* A copy without signatures, put in first, does not keep the event out; a spent one stays spent. */
static void test_an_unsigned_copy_blocks_nothing(void **state)
{
    (void)state;
    lab l;
    uint8_t ids[2][32];
    fp__dsse dsse = {0};
    lab_open(&l, NULL, NULL);
    fp_statement a = lab_statement("a", FP_LABEL_CORE);
    lab_anchor(&l, &a, ALICE | BOB, ids[0]);
    lab_log_anchor(&l, FP__EVENT_REGISTER, ids[0], FP_LABEL_CORE, ALICE);
    fp__event revoke = lab_event(&l, FP__EVENT_REVOKE, ids[0]);
    revoke.label = FP_LABEL_CORE;
    ok(fp__event_build(&revoke, &dsse));
    uint64_t bare = lab_append_dsse(&l, &dsse);
    lab_sign(&l, &dsse, FP_PURPOSE_ENGINE, ALICE); /* not the purpose */
    uint64_t wrong = lab_append_dsse(&l, &dsse);
    lab_sign(&l, &dsse, FP_PURPOSE_REVOKE, ALICE);
    uint64_t real = lab_append_dsse(&l, &dsse);
    uint64_t repeated = lab_append_dsse(&l, &dsse);
    row_is(&l, bare, "revoke", false, "signed by 0 of 1");
    row_is(&l, wrong, "revoke", false, "signed by 0 of 1");
    row_is(&l, real, "revoke", true, "");
    row_is(&l, repeated, "revoke", false, "repetition");
    fp__dsse_free(&dsse);
    fp__event_free(&revoke);
    lab_close(&l);
}

static void test_what_is_skipped(void **state)
{
    (void)state;
    lab l;
    uint8_t ids[3][32], old_policy[32], digest[32] = {7};
    lab_open(&l, NULL, NULL);
    fp_statement a = lab_statement("a", FP_LABEL_CORE), b = lab_statement("b", FP_LABEL_USER);
    lab_anchor(&l, &a, ALICE | BOB, ids[0]);
    lab_anchor(&l, &b, ALICE, ids[1]);
    const uint8_t *id = ids[0];
    row_is(&l, lab_log_anchor(&l, FP__EVENT_PROMOTE, id, FP_LABEL_CORE, ALICE | BOB), "promote", false,
           "not registered");
    row_is(&l, lab_log_anchor(&l, FP__EVENT_REGISTER, id, FP_LABEL_CORE, NOBODY), "register", false,
           "signed by 0 of 1");
    row_is(&l, lab_log_anchor(&l, FP__EVENT_REGISTER, id, FP_LABEL_CORE, ALICE), "register", true, "");
    row_is(&l, lab_log_anchor(&l, FP__EVENT_REGISTER, id, FP_LABEL_CORE, BOB), "register", false,
           "registered already");
    row_is(&l, lab_log_anchor(&l, FP__EVENT_PROMOTE, id, FP_LABEL_CORE, CAROL), "promote", false,
           "signed by 1 of 2");
    row_is(&l, lab_log_anchor(&l, FP__EVENT_PROMOTE, id, FP_LABEL_USER, ALICE), "promote", false,
           "registered as core");
    row_is(&l, lab_log_compile(&l, (const uint8_t(*)[32])ids, 1, 1, 1, 1), "compile", false, "not promoted");
    row_is(&l, lab_log_anchor(&l, FP__EVENT_PROMOTE, id, FP_LABEL_CORE, CAROL | BOB), "promote", true, "");
    row_is(&l, lab_log_anchor(&l, FP__EVENT_PROMOTE, id, FP_LABEL_CORE, CAROL | BOB), "promote", false,
           "promoted already");
    fp__event supersede = lab_event(&l, FP__EVENT_SUPERSEDE, id);
    supersede.label = FP_LABEL_CORE;
    memcpy(supersede.successor, ids[1], 32);
    row_is(&l, lab_log(&l, supersede, ALICE | BOB), "supersede", false, "successor is not promoted");
    fp__event foreign = lab_event(&l, FP__EVENT_REVOKE, id);
    foreign.label = FP_LABEL_CORE;
    strcpy(foreign.origin, "other.example/log");
    row_is(&l, lab_log(&l, foreign, ALICE), "revoke", false, "another log");
    memcpy(old_policy, l.policy, 32);
    row_is(&l, lab_next_policy(&l, NULL, ALICE | CAROL), "policy", true, "");
    fp__event late = lab_event(&l, FP__EVENT_REVOKE, id);
    late.label = FP_LABEL_CORE;
    memcpy(late.policy, old_policy, 32);
    row_is(&l, lab_log(&l, late, ALICE), "revoke", false, "not the one in force");
    row_is(&l, lab_log_anchor(&l, FP__EVENT_REVOKE, ids[1], FP_LABEL_USER, CAROL), "revoke", true,
           ""); /* beforehand */
    row_is(&l, lab_log_anchor(&l, FP__EVENT_REGISTER, ids[1], FP_LABEL_USER, ALICE), "register", false,
           "final");
    /* a Statement that is an event by its type and nothing else */
    fp__dsse dsse = {0};
    ok(fp__dsse_create_json(fp__intoto_build("anchor", "sha256", digest, FP__EVENT_PREDICATE,
                                             json_pack("{s:s, s:s}", "event", "revoke", "extra", "x")),
                            &dsse));
    lab_sign(&l, &dsse, FP_PURPOSE_REVOKE, ALICE);
    row_is(&l, lab_append_dsse(&l, &dsse), "malformed", false, "unknown field");
    fp__dsse_free(&dsse);
    lab_close(&l);
}

static fp_key *new_key;
static void add_dave(json_t *policy)
{
    uint8_t public_key[32];
    fp_key_public(new_key, public_key);
    json_array_append_new(json_object_get(policy, "holders"),
                          json_pack("{s:s, s:[{s:s, s:o}]}", "name", "dave", "keys", "purpose", "register",
                                    "public", fp__json_hex_value(public_key, 32)));
}

static void without_log_key(json_t *policy)
{
    json_t *keys = json_object_get(json_array_get(json_object_get(policy, "holders"), 0), "keys");
    json_t *log_key = json_array_get(keys, FP_PURPOSE_LOG);
    uint8_t seed[32] = {99}, public_key[32];
    fp_key *other;
    ok(fp_key_from_seed(seed, &other));
    fp_key_public(other, public_key);
    json_object_set_new(log_key, "public", fp__json_hex_value(public_key, 32));
    fp_key_free(other);
}

static void other_origin(json_t *policy)
{
    json_object_set_new(policy, "origin", json_string("other.example/log"));
}

static void test_policy_chain(void **state)
{
    (void)state;
    lab l;
    uint8_t kept[32];
    lab_open(&l, NULL, NULL);
    row_is(&l, 0, "policy", true, "");
    memcpy(kept, l.policy, 32);
    row_is(&l, lab_next_policy(&l, NULL, ALICE), "policy", false, "signed by 1 of 2");
    l.number--;
    memcpy(l.policy, kept, 32);
    row_is(&l, lab_next_policy(&l, other_origin, ALICE | BOB), "policy", false, "another log");
    l.number--;
    memcpy(l.policy, kept, 32);
    row_is(&l, lab_next_policy(&l, without_log_key, ALICE | BOB), "policy", false, "log's key");
    memcpy(l.policy, kept, 32); /* number stays one too high */
    row_is(&l, lab_next_policy(&l, NULL, ALICE | BOB), "policy", false, "does not continue");
    l.number = 0;
    memcpy(l.policy, kept, 32);
    /* a new key must show that it is there */
    ok(fp_key_generate(&new_key));
    row_is(&l, lab_next_policy(&l, add_dave, ALICE | BOB), "policy", false, "has not signed");
    l.number = 0;
    memcpy(l.policy, kept, 32);
    json_t *json = lab_policy_json(&l, 1, l.policy);
    fp__buf text = {0};
    uint8_t digest[32];
    fp__dsse dsse = {0};
    add_dave(json);
    ok(fp__json_dump(json, 0, &text));
    fp__sha256(text.data, text.size, digest);
    fp__event event = lab_event(&l, FP__EVENT_POLICY, digest);
    event.policy_bytes = text;
    ok(fp__event_build(&event, &dsse));
    lab_sign(&l, &dsse, FP_PURPOSE_POLICY, BOB | CAROL);
    ok(fp__dsse_sign(&dsse, new_key));
    row_is(&l, lab_append_dsse(&l, &dsse), "policy", true, "");
    fp_workspace_info info;
    ok(fp_workspace_get_info(l.w, &info));
    assert_memory_equal(info.policy_digest, digest, 32);
    fp__dsse_free(&dsse);
    fp__event_free(&event);
    fp_key_free(new_key);
    lab_close(&l);
}

/* The revocation of a stolen key is void, as if it had never been; the registration before it stands. */
static void test_distrust_reaches_back(void **state)
{
    (void)state;
    lab l;
    uint8_t ids[2][32];
    fp_anchor_row row;
    lab_open(&l, NULL, NULL);
    fill(&l, ids);
    row_is(&l, 10, "revoke", false, "distrusted");
    ok(fp_anchor_show(l.w, ids[0], &row, NULL));
    assert_int_equal(row.state, FP_ANCHOR_EXPIRED); /* promoted, and the year is past 1970 */
    assert_int_equal(row.promote_index, 3);
    assert_int_equal(row.revoke_index, FP_INDEX_NONE);
    ok(fp_anchor_show(l.w, ids[1], &row, NULL));
    assert_int_equal(row.state, FP_ANCHOR_SUPERSEDED);
    assert_memory_equal(row.successor, ids[0], 32);
    lab_close(&l);
}

/* Long enough that threads verify ahead: a policy in the middle, signatures that are wrong, foreign entries,
 * and a distrust that starts it again. The same as step by step in one thread. */
static void test_ahead_equals_step_by_step(void **state)
{
    (void)state;
    lab l;
    uint8_t ids[2][32], step[32], whole[32];
    fp__registry *by_step, *at_once;
    fp__buf entry = {0};
    lab_open(&l, NULL, NULL);
    for (unsigned i = 0; i < 700; i++) {
        if (i == 300)
            lab_next_policy(&l, NULL, ALICE | CAROL);
        else if (i == 500)
            fill(&l, ids);
        else if (i % 11 == 10)
            lab_append(&l, "somebody else's entry", 21);
        else
            log_receipts(&l, (uint8_t)i, 1 + i % 2, i % 7 == 6 ? NOBODY : i % 2 ? BOB : ALICE);
        if (i % 13 != 12)
            continue;
        entry.size = 0;
        ok(fp_workspace_sync(l.w));
        ok(fp__ledger_reader_entry(l.w->reader, l.entries - 1, &entry));
        char *sig = strstr((char *)entry.data, "\"sig\":\"");
        if (sig != NULL) { /* another signature under the same payload, first seen or not */
            sig[20] = sig[20] == 'A' ? 'B' : 'A';
            lab_append(&l, entry.data, entry.size);
        }
    }
    ok(fp_workspace_sync(l.w));
    ok(fp__registry_open(":memory:", &l.trust, &by_step));
    ok(fp__registry_open(":memory:", &l.trust, &at_once));
    for (uint64_t size = 100; size < l.entries + 100; size += 100)
        ok(fp__registry_replay(by_step, l.w->reader, size < l.entries ? size : l.entries));
    ok(fp__registry_replay(at_once, l.w->reader, UINT64_MAX));
    ok(fp__registry_digest(by_step, step));
    ok(fp__registry_digest(at_once, whole));
    assert_memory_equal(step, whole, 32);
    row_is(&l, 7, "receipts", false, "signed by 0 of 1");
    fp__buf_free(&entry);
    fp__registry_close(by_step);
    fp__registry_close(at_once);
    lab_close(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_deleted_comes_back_equal),
        cmocka_unit_test(test_incremental_equals_whole),
        cmocka_unit_test(test_damaged_file_is_made_anew),
        cmocka_unit_test(test_only_the_first_occurrence_counts),
        cmocka_unit_test(test_an_unsigned_copy_blocks_nothing),
        cmocka_unit_test(test_what_is_skipped),
        cmocka_unit_test(test_policy_chain),
        cmocka_unit_test(test_distrust_reaches_back),
        cmocka_unit_test(test_ahead_equals_step_by_step),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
