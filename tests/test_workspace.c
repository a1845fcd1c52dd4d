/* A workspace from the outside: only the public interface. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
/* cmocka wants those above first */
#include "fieldprint/workspace.h"
#include <cmocka.h>
#include <ftw.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define ok(expr)                                                                                             \
    do {                                                                                                     \
        fp_status ok_status = (expr);                                                                        \
        if (ok_status != FP_OK)                                                                              \
            fail_msg("%s: %s: %s", #expr, fp_status_name(ok_status), fp_error_detail());                     \
    } while (0)
#define fails(expr, wanted, word)                                                                            \
    do {                                                                                                     \
        fp_status got_status = (expr);                                                                       \
        if (got_status != (wanted) || strstr(fp_error_detail(), (word)) == NULL)                             \
            fail_msg("%s: %s (%s) where %s with \"%s\" was expected", #expr, fp_status_name(got_status),     \
                     fp_error_detail(), fp_status_name(wanted), (word));                                     \
    } while (0)

static const char document[] = "The office closes at 17:42 on Fridays.\n";
static char base[64], dir[96];

static int set_up(void **state)
{
    (void)state;
    strcpy(base, "/tmp/fp-ws-XXXXXX");
    if (mkdtemp(base) == NULL)
        return -1;
    snprintf(dir, sizeof dir, "%s/w", base);
    return fp_workspace_init(dir, NULL, NULL) == FP_OK ? 0 : -1;
}

static int remove_one(const char *path, const struct stat *info, int type, struct FTW *walk)
{
    (void)info;
    (void)type;
    (void)walk;
    return remove(path);
}

static int tear_down(void **state)
{
    (void)state;
    return nftw(base, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void test_init(void **state)
{
    (void)state;
    fp_workspace *w;
    fp_workspace_info info;
    struct stat st;
    char path[160];
    assert_true(fp_workspace_exists(dir));
    fails(fp_workspace_init(dir, NULL, NULL), FP_EXISTS, "already");
    fails(fp_workspace_init(base, NULL, NULL), FP_EXISTS, "not an empty folder");
    snprintf(path, sizeof path, "%s/other", base);
    fails(fp_workspace_init(path, "../x", NULL), FP_USAGE, "holder");
    assert_false(fp_workspace_exists(path));
    fails(fp_workspace_open(path, NULL, &w), FP_NOT_FOUND, "fieldprint init");
    snprintf(path, sizeof path, "%s/keys/operator/promote.pem", dir);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    ok(fp_workspace_open(dir, NULL, &w));
    ok(fp_workspace_get_info(w, &info));
    assert_int_equal(info.tree_size, 1);
    assert_int_equal(info.policy_index, 0);
    assert_int_equal(info.max_set_tokens, 2048);
    assert_non_null(strstr(info.origin, "fieldprint.local/"));
    assert_string_equal(info.path, dir);
    uint8_t *text, digest[32];
    size_t size;
    ok(fp_policy_get(w, &text, &size));
    ok(fp_policy_check(text, size, digest));
    assert_memory_equal(digest, info.policy_digest, 32);
    fp_bytes_free(text);
    fp_key *key;
    ok(fp_workspace_key(w, FP_PURPOSE_ENGINE, &key));
    fp_key_free(key);
    fails(fp_workspace_key(w, FP_PURPOSE_OVERRIDE, &key), FP_NOT_FOUND, "override");
    fp_workspace_close(w);
}

static void test_default_path(void **state)
{
    (void)state;
    unsetenv("FIELDPRINT_WORKSPACE");
    assert_string_equal(fp_workspace_default_path(NULL), ".fieldprint");
    setenv("FIELDPRINT_WORKSPACE", "/x", 1);
    assert_string_equal(fp_workspace_default_path(NULL), "/x");
    assert_string_equal(fp_workspace_default_path("/y"), "/y");
    unsetenv("FIELDPRINT_WORKSPACE");
}

static void query_for(fp_gate_query *query, const uint8_t (*ids)[32], size_t n, const uint8_t model[32])
{
    *query = (fp_gate_query){.anchor_ids = ids, .anchors = n, .model_digest = model, .arithmetic_version = 1};
}

static void test_step_by_step(void **state)
{
    (void)state;
    fp_workspace *w;
    fp_statement s, shown;
    fp_anchor_row row;
    fp_gate_query query;
    fp_gate_result result;
    fp_event_receipt event;
    uint8_t ids[1][32], model[32] = {1}, set_id[32];
    size_t added;
    ok(fp_workspace_open(dir, NULL, &w));
    fp_statement_default(&s);
    strcpy(s.name, "office");
    s.type = FP_LABEL_CORE;
    ok(fp_anchor_create(w, document, strlen(document), &s, ids[0]));
    query_for(&query, (const uint8_t(*)[32])ids, 1, model);
    assert_int_equal(fp_gate_check(w, &query, &result), FP_DENIED);
    assert_int_equal(result.reason, FP_GATE_SIGNATURE);
    fails(fp_anchor_register(w, ids[0], &event), FP_DENIED, "signed by 0 of 1");
    ok(fp_anchor_sign(w, ids[0], "operator", &added));
    assert_int_equal(added, 1);
    ok(fp_anchor_sign(w, ids[0], NULL, &added));
    assert_int_equal(added, 0);
    fails(fp_anchor_sign(w, ids[0], "nobody", &added), FP_NOT_FOUND, "nobody");
    assert_int_equal(fp_gate_check(w, &query, &result), FP_DENIED);
    assert_int_equal(result.reason, FP_GATE_NOT_LOGGED);
    fails(fp_anchor_promote(w, ids[0], &event), FP_DENIED, "not registered");
    ok(fp_anchor_register(w, ids[0], &event));
    assert_true(event.appended);
    assert_int_equal(event.index, 1);
    fails(fp_anchor_register(w, ids[0], &event), FP_DENIED, "registered already");
    ok(fp_anchor_promote(w, ids[0], &event));
    assert_int_equal(event.tree_size, 3);
    assert_int_equal(fp_gate_check(w, &query, &result), FP_DENIED);
    assert_int_equal(result.reason, FP_GATE_NOT_COMPILED);
    /* compile */
    static const uint32_t tokens[3] = {5, 6, 7};
    fp_compile_record record = {.anchor_ids = (const uint8_t(*)[32])ids,
                                .anchors = 1,
                                .arithmetic_version = 1,
                                .token_ids = tokens,
                                .tokens = 3,
                                .pages = 1,
                                .kv_head = {9}};
    memcpy(record.model_digest, model, 32);
    ok(fp_anchor_record_compile(w, &record, &event));
    ok(fp_gate_check(w, &query, &result));
    assert_memory_equal(result.kv_head, record.kv_head, 32);
    uint8_t digest[32];
    ok(fp_compile_token_ids_digest(result.salt, tokens, 3, digest));
    assert_memory_equal(result.token_ids_digest, digest, 32);
    ok(fp_set_id((const uint8_t(*)[32])ids, 1, set_id));
    assert_memory_equal(result.set_id, set_id, 32);
    ok(fp_anchor_show(w, ids[0], &row, &shown));
    assert_int_equal(row.state, FP_ANCHOR_PROMOTED);
    assert_int_equal(row.models, 1);
    assert_int_equal(row.pages, 1);
    assert_int_equal(row.signatures, 1);
    assert_true(row.have_document && row.have_statement);
    assert_string_equal(shown.name, "office");
    uint8_t *data;
    size_t size;
    ok(fp_anchor_document(w, ids[0], &data, &size));
    assert_int_equal(size, strlen(document));
    assert_memory_equal(data, document, size);
    fp_bytes_free(data);
    ok(fp_anchor_payload(w, ids[0], &data, &size));
    assert_non_null(strstr((char *)data, "urn:fieldprint:anchor:v1"));
    fp_bytes_free(data);
    /* the end of it */
    ok(fp_anchor_revoke(w, ids[0], "wrong hours", &event));
    assert_int_equal(fp_gate_check(w, &query, &result), FP_DENIED);
    assert_int_equal(result.reason, FP_GATE_REVOKED);
    fails(fp_anchor_revoke(w, ids[0], "again", &event), FP_DENIED, "final");
    fp_workspace_close(w);
}

static void test_add_find_list(void **state)
{
    (void)state;
    fp_workspace *w;
    fp_statement s;
    uint8_t a[32], b[32], found[32];
    fp_anchor_row *rows;
    size_t n;
    char hex[9];
    fp_event_receipt event;
    ok(fp_workspace_open(dir, NULL, &w));
    fp_statement_default(&s);
    strcpy(s.name, "hours");
    ok(fp_anchor_add(w, document, strlen(document), &s, a));
    strcpy(s.version, "2");
    ok(fp_anchor_add(w, document, strlen(document), &s, b)); /* a fresh salt: another anchor */
    assert_memory_not_equal(a, b, 32);
    fails(fp_anchor_find(w, "hours", found), FP_USAGE, "could be any");
    ok(fp_anchor_find(w, "hours@2", found));
    assert_memory_equal(found, b, 32);
    ok(fp_anchor_supersede(w, a, b, "newer", &event));
    ok(fp_anchor_find(w, "hours", found)); /* the promoted one first */
    assert_memory_equal(found, b, 32);
    for (int i = 0; i < 4; i++)
        snprintf(hex + 2 * i, 3, "%02x", a[i]);
    ok(fp_anchor_find(w, hex, found));
    assert_memory_equal(found, a, 32);
    fails(fp_anchor_find(w, "nothing", found), FP_NOT_FOUND, "anchor list");
    ok(fp_anchor_list(w, &rows, &n));
    int states[6] = {0};
    for (size_t i = 0; i < n; i++)
        states[rows[i].state]++;
    assert_int_equal(n, 3); /* with the revoked one */
    assert_int_equal(states[FP_ANCHOR_PROMOTED], 1);
    assert_int_equal(states[FP_ANCHOR_SUPERSEDED], 1);
    assert_int_equal(states[FP_ANCHOR_REVOKED], 1);
    fp_anchor_rows_free(rows);
    static const char not_text[] = "\xff\xfe";
    fails(fp_anchor_add(w, not_text, 2, &s, a), FP_TEXT, "byte 0");
    fails(fp_anchor_add(w, document, 0, &s, a), FP_LIMIT, "0 bytes");
    strcpy(s.name, "a name with spaces");
    fails(fp_anchor_add(w, document, 5, &s, a), FP_FORMAT, "statement.name");
    fp_workspace_close(w);
}

static void test_receipts(void **state)
{
    (void)state;
    fp_workspace *w, *audit;
    uint8_t ids[2][32] = {{1}, {2}}, other[32] = {3};
    fp_event_receipt event;
    uint64_t index;
    char trust[128], path[300];
    fp_ledger_row rows[64];
    size_t n = 64;
    ok(fp_workspace_open(dir, NULL, &w));
    ok(fp_receipts_log(w, (const uint8_t(*)[32])ids, 2, &event));
    assert_true(event.appended);
    ok(fp_receipt_find(w, ids[1], &index));
    assert_int_equal(index, event.index);
    fails(fp_receipt_find(w, other, &index), FP_NOT_FOUND, "receipt");
    fails(fp_receipts_log(w, (const uint8_t(*)[32])ids, 0, &event), FP_FORMAT, "no receipts");
    ok(fp_ledger_rows(w, 0, rows, &n));
    assert_int_equal(n, event.tree_size);
    assert_string_equal(rows[0].type, "policy");
    assert_string_equal(rows[n - 1].type, "receipts");
    assert_true(rows[n - 1].valid);
    ok(fp_workspace_receipt_path(w, ids[0], path, sizeof path));
    assert_non_null(strstr(path, "/receipts/01"));
    fails(fp_workspace_receipt_path(w, ids[0], path, 10), FP_LIMIT, "too long");
    /* an auditor with the trust file from elsewhere writes nothing */
    snprintf(path, sizeof path, "%s/trust.json", dir);
    snprintf(trust, sizeof trust, "%s/trust-copy.json", base);
    assert_int_equal(rename(path, trust), 0);
    ok(fp_workspace_open(dir, trust, &audit));
    ok(fp_receipt_find(audit, ids[0], &index));
    fails(fp_receipts_log(audit, (const uint8_t(*)[32])ids, 1, &event), FP_USAGE, "for reading");
    fp_workspace_close(audit);
    assert_int_equal(rename(trust, path), 0);
    fp_workspace_close(w);
}

/* A policy for two holders: what one cannot do waits in pending/ for the other. */
static void test_two_holders(void **state)
{
    (void)state;
    fp_workspace *w;
    char path[300], keep[300], name[160];
    uint8_t *text;
    size_t size;
    fp_event_receipt event;
    fp_statement s;
    uint8_t id[32];
    fp_key *key;
    ok(fp_workspace_open(dir, NULL, &w));
    ok(fp_policy_get(w, &text, &size));
    fp_workspace_info info;
    ok(fp_workspace_get_info(w, &info));
    /* bob gets a promote key, and promotion of user anchors needs both */
    snprintf(path, sizeof path, "%s/keys/bob", dir);
    assert_int_equal(mkdir(path, 0700), 0);
    snprintf(path, sizeof path, "%s/keys/bob/promote.pem", dir);
    ok(fp_key_generate(&key));
    ok(fp_key_save(key, path));
    uint8_t public_key[32];
    fp_key_public(key, public_key);
    fp_key_free(key);
    char hex[65], previous[65];
    for (int i = 0; i < 32; i++) {
        snprintf(hex + 2 * i, 3, "%02x", public_key[i]);
        snprintf(previous + 2 * i, 3, "%02x", info.policy_digest[i]);
    }
    static char next[24001];
    char *out = next, *in = (char *)text, *end = (char *)text + size;
    while (in < end) {
        static const char *const from[] = {"\"number\": 0", "\"previous\": \"", "\"holders\": [\n    {",
                                           "\"promote\": {\n"};
        size_t k = 0;
        while (k < 4 && strncmp(in, from[k], strlen(from[k])) != 0)
            k++;
        if (k == 4) {
            *out++ = *in++;
            continue;
        }
        in += strlen(from[k]);
        if (k == 0)
            out += sprintf(out, "\"number\": 1");
        else if (k == 1) {
            out += sprintf(out, "\"previous\": \"%s", previous);
            in += 64;
        } else if (k == 2)
            out += sprintf(out,
                           "\"holders\": [{\"name\": \"bob\", \"keys\": [{\"purpose\": \"promote\", "
                           "\"public\": \"%s\"}]}, {",
                           hex);
        else { /* all three types */
            static const char both[] = "{\"threshold\": 2, \"holders\": [\"operator\", \"bob\"]}";
            out +=
                sprintf(out, "\"promote\": {\"core\": %s, \"user\": %s, \"external\": %s}", both, both, both);
            int depth = 1;
            for (; depth > 0; in++)
                depth += *in == '{' ? 1 : *in == '}' ? -1 : 0;
        }
    }
    *out = 0;
    fp_bytes_free(text);
    fails(fp_policy_propose(w, next, strlen(next) - 3, &event), FP_FORMAT, "policy");
    ok(fp_policy_propose(w, next, strlen(next), &event));
    assert_true(event.appended);
    fails(fp_policy_propose(w, next, strlen(next), &event), FP_DENIED, "does not continue");
    /* without bob's key */
    snprintf(keep, sizeof keep, "%s/bob.pem", base);
    assert_int_equal(rename(path, keep), 0);
    fp_statement_default(&s);
    strcpy(s.name, "both");
    fails(fp_anchor_add(w, document, strlen(document), &s, id), FP_DENIED, "1 more holders");
    ok(fp_anchor_find(w, "both", id));
    ok(fp_anchor_promote(w, id, &event));
    assert_false(event.appended);
    assert_int_equal(event.signatures_missing, 1);
    assert_int_equal(rename(keep, path), 0); /* bob's turn */
    FILE *f = fopen(event.pending_path, "rb");
    assert_non_null(f);
    static char envelope[65536];
    size = fread(envelope, 1, sizeof envelope, f);
    fclose(f);
    snprintf(name, sizeof name, "%.150s", event.pending_path);
    ok(fp_event_sign(w, envelope, size, &event));
    assert_true(event.appended);
    assert_int_not_equal(access(name, F_OK), 0);
    fp_anchor_row row;
    ok(fp_anchor_show(w, id, &row, NULL));
    assert_int_equal(row.state, FP_ANCHOR_PROMOTED);
    fails(fp_event_sign(w, envelope, size, &event), FP_DENIED, "would not count");
    fails(fp_event_sign(w, envelope, size - 1, &event), FP_FORMAT, "envelope");
    fp_workspace_close(w);
}

static void test_import(void **state)
{
    (void)state;
    fp_workspace *w;
    uint8_t id[32], again[32];
    uint8_t *envelope;
    size_t size;
    fp_statement s;
    ok(fp_workspace_open(dir, NULL, &w));
    fp_statement_default(&s);
    strcpy(s.name, "imported");
    ok(fp_anchor_create(w, document, strlen(document), &s, id));
    ok(fp_anchor_envelope(w, id, &envelope, &size));
    fails(fp_anchor_import(w, envelope, size, "other", 5, again), FP_MISMATCH, "not the one");
    ok(fp_anchor_import(w, envelope, size, document, strlen(document), again));
    assert_memory_equal(id, again, 32);
    fails(fp_anchor_import(w, envelope, size - 2, NULL, 0, again), FP_FORMAT, "envelope");
    fp_bytes_free(envelope);
    /* a document changed on the disk */
    char path[300], hex[65];
    ok(fp_anchor_show(w, id, NULL, &s));
    for (int i = 0; i < 32; i++)
        snprintf(hex + 2 * i, 3, "%02x", s.document_sha256[i]);
    snprintf(path, sizeof path, "%s/documents/%s", dir, hex);
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    fputc('t', f);
    fclose(f);
    uint8_t *data;
    fails(fp_anchor_document(w, id, &data, &size), FP_MISMATCH, "not the document");
    fp_workspace_close(w);
}

/* Several processes append and read at once: nobody sees an error, nothing is lost. */
static void test_processes(void **state)
{
    (void)state;
    enum { PROCESSES = 3, EACH = 5 };
    fp_workspace *w;
    fp_workspace_info before, after;
    ok(fp_workspace_open(dir, NULL, &w));
    ok(fp_workspace_get_info(w, &before));
    for (int p = 0; p < PROCESSES; p++) {
        if (fork() != 0)
            continue;
        fp_workspace *own;
        int bad = fp_workspace_open(dir, NULL, &own) != FP_OK;
        for (int i = 0; !bad && i < EACH; i++) {
            uint8_t ids[1][32] = {{0x80, (uint8_t)p, (uint8_t)i}};
            fp_event_receipt event;
            bad = fp_receipts_log(own, (const uint8_t(*)[32])ids, 1, &event) != FP_OK || !event.appended;
        }
        if (bad)
            fprintf(stderr, "process %d: %s\n", p, fp_error_detail());
        _exit(bad);
    }
    for (int p = 0; p < PROCESSES; p++) {
        int code = 1;
        assert_true(wait(&code) > 0);
        assert_int_equal(code, 0);
    }
    ok(fp_workspace_get_info(w, &after));
    assert_int_equal(after.tree_size, before.tree_size + PROCESSES * EACH);
    assert_int_equal(after.receipts, before.receipts + PROCESSES * EACH);
    fp_workspace_close(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_init),         cmocka_unit_test(test_default_path),
        cmocka_unit_test(test_step_by_step), cmocka_unit_test(test_add_find_list),
        cmocka_unit_test(test_receipts),     cmocka_unit_test(test_two_holders),
        cmocka_unit_test(test_import),       cmocka_unit_test(test_processes),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
