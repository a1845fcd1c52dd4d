/* Receipts off the token loop: many answers, few entries of the ledger; what was acknowledged survives kill
 * -9.
 *
 * Called with --child FOLDER it is a child of itself that makes receipts until it is killed, and prints the
 * ids of those that were acknowledged. */
#include "audit_lab.h"
#include "fieldprint/receipts.h"
#include <signal.h>
#include <sys/wait.h>

enum { ANSWERS = EL_SANITIZED ? 12 : 40 };

static fp_session *answered(fp_engine *e, size_t how)
{
    fp_session *s;
    fp_sampling p = el_sampling(1, how);
    ok(fp_session_create(e, NULL, &s));
    el_begin(s, "hello", &p, 4);
    ok(fp_session_run(s));
    return s;
}

typedef struct seen {
    size_t ok, failed;
    fp_status status;
    uint64_t last;
} seen;
static void note(void *context, const uint8_t id[32], fp_status status, const char *detail, uint64_t index)
{
    seen *n = context;
    (void)id;
    n->ok += status == FP_OK;
    n->failed += status != FP_OK;
    n->status = status == FP_OK ? n->status : status;
    n->last = index;
    assert_true(status == FP_OK || detail[0]);
}

static void test_group_commit(void **state)
{
    (void)state;
    fp_receipts *q;
    seen n = {0};
    fp_receipts_options o = {.wait_ms = 2000, .batch = 16, .on_logged = note, .on_logged_context = &n};
    static char paths[ANSWERS][2][PATHS];
    fp_receipts_status status;
    uint8_t id[32];
    ok(fp_receipts_open(el_path("w"), &o, &q));
    for (size_t i = 0; i < ANSWERS; i++) {
        fp_session *s = answered(st.e, i);
        ok(fp_receipts_add(q, s, st.w, id, paths[i][0], paths[i][1]));
        assert_true(s->has_receipt);
        fp_session_destroy(s);
    }
    ok(fp_receipts_flush(q));
    fp_receipts_get_status(q, &status);
    assert_int_equal(status.added, ANSWERS);
    assert_int_equal(status.logged, ANSWERS);
    assert_int_equal(n.ok, ANSWERS);
    assert_int_equal(n.failed, 0);
    assert_true(status.entries >= (ANSWERS + 15) / 16 && status.entries <= ANSWERS / 4);
    for (size_t i = 0; i < ANSWERS; i += 7)
        valid(st.w, st.model, paths[i][0], paths[i][1], NULL, "queued");
    fp_session *unanswered;
    ok(fp_session_create(st.e, NULL, &unanswered));
    fails(fp_receipts_add(q, unanswered, st.w, id, NULL, NULL), FP_USAGE, "no answer");
    fp_session_destroy(unanswered);
    fp_receipts_close(q);
    fp_receipts_close(NULL);
    fails(fp_receipts_open(el_path("nowhere"), NULL, &q), FP_NOT_FOUND, "");
}

/* A full queue blocks the caller instead of growing; nothing is lost. What comes while a batch is being
 * logged makes the next one. */
static void test_back_pressure(void **state)
{
    (void)state;
    fp_receipts *q;
    seen n = {0};
    fp_receipts_options o = {.waiting = 2, .on_logged = note, .on_logged_context = &n};
    fp_session *s = answered(st.e, 1);
    ok(fp_receipts_open(el_path("w"), &o, &q));
    for (size_t i = 0; i < 12; i++)
        ok(fp_receipts_add(q, s, st.w, NULL, NULL, NULL));
    fp_receipts_close(q); /* flushes */
    assert_int_equal(n.ok, 12);
    fp_session_destroy(s);
}

/* A receipt that cannot be stored is said not to be; the next one is. */
static void test_failure(void **state)
{
    (void)state;
    fp_receipts *q;
    seen n = {0};
    fp_receipts_options o = {.on_logged = note, .on_logged_context = &n};
    char folder[256], away[256];
    snprintf(folder, sizeof folder, "%s", el_path("w/receipts"));
    snprintf(away, sizeof away, "%s", el_path("w/away"));
    fp_session *s = answered(st.e, 2);
    ok(fp_receipts_open(el_path("w"), &o, &q));
    assert_int_equal(rename(folder, away), 0);
    ok(fp_receipts_add(q, s, st.w, NULL, NULL, NULL));
    assert_int_not_equal(fp_receipts_flush(q), FP_OK);
    assert_int_equal(n.failed, 1);
    assert_int_equal(rename(away, folder), 0);
    ok(fp_receipts_add(q, s, st.w, NULL, NULL, NULL));
    ok(fp_receipts_flush(q));
    assert_int_equal(n.ok, 1);
    fp_receipts_close(q);
    fp_session_destroy(s);
}

/* ---- kill -9 ---- */

static void print_logged(void *context, const uint8_t id[32], fp_status status, const char *detail,
                         uint64_t index)
{
    char hex[66];
    (void)context;
    (void)detail;
    (void)index;
    fp__hex_encode(id, 32, hex);
    hex[64] = '\n';
    if (status != FP_OK || write(STDOUT_FILENO, hex, 65) != 65)
        _exit(1);
}

static int child(const char *folder)
{
    fp_model *model;
    fp_workspace *w;
    fp_engine *e;
    fp_receipts *q;
    snprintf(el_dir, sizeof el_dir, "%s", folder);
    fp_engine_options eo = {.threads = 1, .context_tokens = 256};
    fp_receipts_options o = {.on_logged = print_logged};
    if (fp_model_open(el_path("model.gguf"), NULL, &model) != FP_OK ||
        fp_workspace_open(el_path("w"), NULL, &w) != FP_OK || fp_engine_create(model, &eo, &e) != FP_OK ||
        fp_receipts_open(el_path("w"), &o, &q) != FP_OK)
        return 1;
    fp_session *s = answered(e, 3);
    for (;;)
        if (fp_receipts_add(q, s, w, NULL, NULL, NULL) != FP_OK)
            return 1;
}

static void test_killed(void **state)
{
    (void)state;
    size_t acknowledged = 0;
    for (int round = 0; round < (EL_SANITIZED ? 2 : 5); round++) {
        int out[2];
        assert_int_equal(pipe(out), 0);
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            dup2(out[1], STDOUT_FILENO);
            close(out[0]);
            execl("/proc/self/exe", "test_receipts", "--child", el_dir, (char *)NULL);
            _exit(111);
        }
        close(out[1]);
        FILE *f = fdopen(out[0], "r");
        char line[80];
        uint8_t ids[512][32];
        size_t n = 0, until = 1 + (size_t)round * 7;
        while (n < 512 && fgets(line, sizeof line, f)) {
            if (strlen(line) == 65 && fp__hex_decode(line, 64, ids[n], 32) == FP_OK)
                n++;
            if (n == until)
                kill(pid, SIGKILL); /* what is in the pipe was acknowledged all the same */
        }
        fclose(f);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        assert_true(n >= until);
        fp_workspace *w;
        ok(fp_workspace_open(el_path("w"), NULL, &w));
        for (size_t i = 0; i < n; i++) {
            uint64_t index;
            char path[PATHS];
            fp_audit_result r;
            ok(fp_receipt_find(w, ids[i], &index));
            ok(fp_workspace_receipt_path(w, ids[i], path, sizeof path));
            audit_with(w, NULL, path, NULL, NULL, NULL, &r);
            if (r.light != FP_VERDICT_VALID_LIGHT)
                fail_msg("acknowledged, then killed: %s", r.detail);
        }
        acknowledged += n;
        fp_workspace_close(w);
    }
    assert_true(acknowledged >= 2);
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "--child") == 0)
        return child(argv[2]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_group_commit),
        cmocka_unit_test(test_back_pressure),
        cmocka_unit_test(test_failure),
        cmocka_unit_test(test_killed),
    };
    return cmocka_run_group_tests(tests, open_stage, close_stage);
}
