/* ledger: crashes at every step, power failures, kill -9, other processes.
 *
 * FIELDPRINT_CRASH_RUNS=2000 makes that many runs with a fault at a random step of a random workload, and
 * FIELDPRINT_KILL_RUNS as many with kill -9; without them, a few. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "ledger_util.h"

/* ---- crashes ---- */

/* The child's side: stops at a step; for a power failure it first undoes, in the worst way, what was not made
 * durable. */
static unsigned crash_step, steps;
static bool power_failure;
/* What a power failure makes of files that are not durable: no bytes, no name, or another file's bytes (as
 * when a file was written again under another name). */
static enum { LOSE_BYTES, LOSE_NAMES, MIX_BYTES } loss;
static size_t batches[16], batch_count, sync_after, cosign_after;
static char crash_dir[128];
static char unsynced[8192][FP__TILE_PATH_MAX];
static size_t unsynced_count;
static char aside[8192][FP__TILE_PATH_MAX]; /* moved away, which is not durable either */
static size_t aside_count;
static fp__buf durable_stage, durable_checkpoint;
static bool bytes_durable, swap_pending; /* of a cosigned checkpoint: before and after its rename */
static int acks;

static void snapshot(const char *name, fp__buf *out)
{
    out->size = 0;
    if (fp__file_read(at(crash_dir, name), 1 << 24, out) != FP_OK)
        out->size = 0;
}

static void put_back(const char *name, const fp__buf *bytes)
{
    int fd = open(at(crash_dir, name), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (fd < 0 || write(fd, bytes->data, bytes->size) != (ssize_t)bytes->size)
        _exit(3);
    close(fd);
}

static void fail_power(void)
{
    if (durable_stage.size != 0)
        put_back(STAGE, &durable_stage);
    static uint8_t others[300];
    fp__buf mixed = {.data = others, .size = sizeof others};
    memset(others, 'm', sizeof others);
    for (size_t i = 0; i < aside_count; i++) {
        char folder[FP__TILE_PATH_MAX];
        memcpy(folder, aside[i], sizeof folder);
        *strrchr(folder, '/') = 0;
        if (mkdir(at(crash_dir, folder), 0755) == 0 || errno == EEXIST)
            put_back(aside[i], &mixed);
    }
    if (swap_pending)
        put_back("checkpoint", &durable_checkpoint); /* the name it had; or as the list below has it */
    for (size_t i = 0; i < unsynced_count; i++) {
        if (loss == MIX_BYTES)
            put_back(unsynced[i], &mixed);
        else if (strcmp(unsynced[i], "checkpoint") == 0 && loss == LOSE_NAMES)
            put_back("checkpoint", &durable_checkpoint);
        else if (loss == LOSE_NAMES)
            (void)unlink(at(crash_dir, unsynced[i]));
        else
            (void)truncate(at(crash_dir, unsynced[i]), 0);
    }
}

static void list(char paths[][FP__TILE_PATH_MAX], size_t *count, const char *path)
{
    if (*count == COUNT(unsynced))
        _exit(3);
    snprintf(paths[(*count)++], FP__TILE_PATH_MAX, "%s", path);
}

static void unlist(char paths[][FP__TILE_PATH_MAX], size_t *count, const char *path)
{
    for (size_t i = *count; i-- > 0;)
        if (strcmp(paths[i], path) == 0)
            memmove(paths[i], paths[--*count], FP__TILE_PATH_MAX);
}

static void count_step(const char *step, const char *path, int done)
{
    if (power_failure && done && strcmp(step, "fsync bytes") == 0)
        bytes_durable = true;
    if (power_failure && done && strcmp(step, "rename") == 0 && bytes_durable) {
        bytes_durable = false;
        swap_pending = true;
    } else if (power_failure && done && strcmp(step, "rename") == 0) {
        list(unsynced, &unsynced_count, path);
    }
    if (power_failure && !done && strcmp(step, "put aside") == 0 && path[strlen(path) - 1] != 'p') {
        unlist(unsynced, &unsynced_count,
               path); /* a single tile; whole folders are put aside when all is durable */
        list(aside, &aside_count, path);
    }
    if (power_failure && done && strcmp(step, "fsync") == 0) {
        unlist(unsynced, &unsynced_count, path);
        if (strcmp(path, STAGE) == 0)
            snapshot(STAGE, &durable_stage);
        if (strcmp(path, "checkpoint") == 0)
            snapshot("checkpoint", &durable_checkpoint);
        if (strcmp(path, ".") == 0) { /* the last of a sync: the folders are durable */
            aside_count =
                aside_count * (swap_pending ? 1 : 0); /* unless only the checkpoint's name was meant */
            swap_pending = false;
            unlist(unsynced, &unsynced_count, "checkpoint");
            snapshot("checkpoint", &durable_checkpoint);
        }
    }
    if (++steps == crash_step) {
        if (power_failure)
            fail_power();
        _exit(9);
    }
}

static void usual_batches(void)
{
    static const size_t usual[] = {3, 5, 1, 1100, 2};
    memcpy(batches, usual, sizeof usual);
    batch_count = COUNT(usual);
    sync_after = 2;
    cosign_after = 2;
}

/* Reports each acknowledged head to the parent. */
static void acknowledge(const fp__ledger_head *head)
{
    if (write(acks, head, sizeof *head) != (ssize_t)sizeof *head)
        _exit(3);
}

/* Publishes the checkpoint with a cosignature, as after a round of witnesses. */
static void cosign(fp__ledger_writer *w, const fp__ledger_head *head)
{
    fp__checkpoint checkpoint = {.size = head->size};
    fp__buf text = {0}, line = {0};
    snprintf(checkpoint.origin, sizeof checkpoint.origin, "%s", ORIGIN);
    memcpy(checkpoint.root, head->root, 32);
    if (fp__checkpoint_format(&checkpoint, &text) != FP_OK ||
        fp__note_cosign(text.data, text.size, "witness.example", other_key, 1, &line) != FP_OK ||
        fp__ledger_writer_cosign(w, head, line.data, line.size) != FP_OK)
        _exit(3);
    fp__buf_free(&text);
    fp__buf_free(&line);
}

static void crash_child(void)
{
    fp__ledger_writer *w = NULL;
    if (power_failure) {
        snapshot(STAGE, &durable_stage);
        snapshot("checkpoint", &durable_checkpoint);
    }
    fp__ledger_fault = count_step;
    if (fp__ledger_writer_open(crash_dir, ORIGIN, key, &w) != FP_OK)
        _exit(3);
    for (size_t i = 0; i < batch_count; i++) {
        fp__ledger_head head;
        if (append(w, batches[i], &head) != FP_OK)
            _exit(3);
        acknowledge(&head);
        if (i == sync_after && fp__ledger_writer_sync(w) != FP_OK)
            _exit(3);
        if (i == cosign_after)
            cosign(w, &head);
    }
    fp__ledger_writer_close(w);
    _exit(0);
}

/* Runs the child; returns its exit code and the heads that it acknowledged. */
static int run_child(void (*body)(void), useconds_t kill_after, fp__ledger_head *heads, size_t *count,
                     size_t max)
{
    int ends[2], result;
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        close(ends[0]);
        acks = ends[1];
        body();
        _exit(0);
    }
    close(ends[1]);
    if (kill_after != 0) {
        usleep(kill_after);
        kill(child, SIGKILL);
    }
    *count = 0;
    while (*count < max && read(ends[0], &heads[*count], sizeof *heads) == (ssize_t)sizeof *heads)
        ++*count;
    close(ends[0]);
    assert_int_equal(waitpid(child, &result, 0), child);
    return WIFEXITED(result) ? WEXITSTATUS(result) : -1;
}

/* After a crash: what was acknowledged is there, every checkpoint that was signed is a tree of the log. */
static void check_recovered(const char *dir, fp__ledger_reader *r, const fp__ledger_head *heads, size_t count,
                            bool readable_before)
{
    fp__ledger_head head, seen;
    fp_status status = fp__ledger_reader_refresh(r, NULL);
    if (readable_before) { /* the dead writer left a log that can be read as it is */
        expect_ok(status);
        expect_ok(scan_all(r));
        expect_ok(fp__ledger_fsck(dir, ORIGIN, &vkey, 1, NULL));
    }
    fp__ledger_writer *w = open_writer(dir);
    fp__ledger_writer_head(w, &head);
    expect_ok(fp__ledger_reader_refresh(r, NULL)); /* continues every checkpoint that it saw */
    fp__ledger_reader_head(r, &seen);
    assert_memory_equal(&seen, &head, sizeof head);
    for (size_t i = 0; i < count; i++) {
        uint8_t root[32];
        assert_true(heads[i].size <= head.size);
        expect_ok(fp__ledger_reader_root_at(r, heads[i].size, root));
        assert_memory_equal(root, heads[i].root, 32);
    }
    expect_ok(scan_all(r));
    expect_ok(fp__ledger_fsck(dir, ORIGIN, &vkey, 1, NULL));
    expect_ok(append(w, 1, &head)); /* and it goes on */
    fp__ledger_writer_close(w);
    expect_ok(fp__ledger_reader_refresh(r, NULL));
    expect_ok(scan_all(r));
}

static void crash_at_every_step(const char *name, bool power)
{
    static const size_t before[] = {250};
    fp__ledger_head heads[16];
    size_t count;
    int code = 9;
    power_failure = power;
    usual_batches();
    for (crash_step = 1; code == 9; crash_step++) {
        snprintf(crash_dir, sizeof crash_dir, "%s", fresh_dir(name));
        make_log(crash_dir, before, 1);
        loss = crash_step % 3;
        fp__ledger_reader *r = open_reader(crash_dir, NULL);
        code = run_child(crash_child, 0, heads, &count, COUNT(heads));
        if (code != 9 && code != 0)
            fail_msg("the child ended with %d at step %u", code, crash_step);
        check_recovered(crash_dir, r, heads, count, !power);
        fp__ledger_reader_close(r);
    }
    assert_true(crash_step > 60 && count == 5);
    print_message("%u steps\n", crash_step - 2);
}

static void test_crash_at_every_step(void **state)
{
    (void)state;
    crash_at_every_step("crash", false);
}

static void test_power_failure_at_every_step(void **state)
{
    (void)state;
    crash_at_every_step("power", true);
}

static unsigned long runs(const char *variable, unsigned long usual)
{
    const char *text = getenv(variable);
    return text != NULL ? strtoul(text, NULL, 10) : usual;
}

/* Workloads of up to 16 batches around the ends of tiles, each stopped at a random step. */
static void test_random_crashes(void **state)
{
    (void)state;
    fp__ledger_head heads[16];
    size_t count, stopped = 0, acknowledged = 0;
    unsigned seed = 20;
    unsigned long n = runs("FIELDPRINT_CRASH_RUNS", 60);
    for (unsigned long i = 0; i < n; i++) {
        size_t before = (size_t)rand_r(&seed) % 520;
        batch_count = 1 + (size_t)rand_r(&seed) % COUNT(batches);
        for (size_t j = 0; j < batch_count; j++)
            batches[j] =
                rand_r(&seed) % 4 == 0 ? 1 + (size_t)rand_r(&seed) % 300 : 1 + (size_t)rand_r(&seed) % 30;
        sync_after = (size_t)rand_r(&seed) % (2 * COUNT(batches));
        cosign_after = rand_r(&seed) % 2 == 0 ? sync_after : (size_t)rand_r(&seed) % (2 * COUNT(batches));
        crash_step = 1 + (unsigned)rand_r(&seed) % (unsigned)(20 + 22 * batch_count);
        power_failure = i % 2 != 0;
        loss = i / 2 % 3;
        snprintf(crash_dir, sizeof crash_dir, "%s", fresh_dir("random"));
        make_log(crash_dir, &before, before != 0);
        fp__ledger_reader *r = open_reader(crash_dir, NULL);
        int code = run_child(crash_child, 0, heads, &count, COUNT(heads));
        if (code != 9 && code != 0)
            fail_msg("run %lu: the child ended with %d", i, code);
        stopped += code == 9;
        acknowledged += count;
        check_recovered(crash_dir, r, heads, count, !power_failure);
        fp__ledger_reader_close(r);
    }
    print_message("%lu runs, %zu stopped at a fault, %zu acknowledged batches, none lost\n", n, stopped,
                  acknowledged);
    assert_true(stopped > n / 2 && acknowledged > n);
}

/* A crash during the recovery of a crash. */
static void recover_child(void)
{
    fp__ledger_writer *w = NULL;
    fp__ledger_fault = count_step;
    if (fp__ledger_writer_open(crash_dir, ORIGIN, key, &w) != FP_OK)
        _exit(3);
    _exit(0);
}

static void test_crash_in_recovery(void **state)
{
    (void)state;
    static const size_t before[] = {250};
    fp__ledger_head heads[16], none[1];
    size_t count, nothing;
    power_failure = false;
    usual_batches();
    int code = 9;
    for (unsigned step = 1; code == 9; step++) {
        snprintf(crash_dir, sizeof crash_dir, "%s", fresh_dir("recovery"));
        make_log(crash_dir, before, 1);
        fp__ledger_reader *r = open_reader(crash_dir, NULL);
        crash_step = 40;
        assert_int_equal(run_child(crash_child, 0, heads, &count, COUNT(heads)), 9);
        crash_step = step;
        code = run_child(recover_child, 0, none, &nothing, 1);
        assert_true(code == 9 || code == 0);
        check_recovered(crash_dir, r, heads, count, true);
        fp__ledger_reader_close(r);
    }
}

static void busy_child(void)
{
    fp__ledger_writer *w = NULL;
    if (fp__ledger_writer_open(crash_dir, ORIGIN, key, &w) != FP_OK)
        _exit(3);
    for (unsigned i = 0; i < 100000; i++) {
        fp__ledger_head head;
        if (append(w, 1 + i * 7 % 40, &head) != FP_OK)
            _exit(3);
        acknowledge(&head);
        if (i % 32 == 31 && fp__ledger_writer_sync(w) != FP_OK)
            _exit(3);
    }
}

static void test_kill_loop(void **state)
{
    (void)state;
    static fp__ledger_head heads[2000];
    size_t count, total = 0;
    snprintf(crash_dir, sizeof crash_dir, "%s", fresh_dir("kill"));
    expect_ok(fp__ledger_create(crash_dir, ORIGIN, key));
    char memory[128];
    snprintf(memory, sizeof memory, "%s/kill.state", work);
    fp__ledger_reader *r = open_reader(crash_dir, memory);
    unsigned long n = runs("FIELDPRINT_KILL_RUNS", 20);
    for (unsigned long i = 0; i < n; i++) {
        int code = run_child(busy_child, (useconds_t)(5000 + i * 1733 % 12000), heads, &count, COUNT(heads));
        if (code != -1)
            fail_msg("the child ended by itself, with %d", code);
        check_recovered(crash_dir, r, heads, count, true);
        total += count;
    }
    print_message("%lu kills, %zu acknowledged appends, none lost\n", n, total);
    assert_true(total > 0);
    fp__ledger_reader_close(r);
}

/* The stage itself is damaged: nothing half-true is signed. */
static void test_stage_damage(void **state)
{
    (void)state;
    static const size_t before[] = {250};
    fp__ledger_head heads[16], head;
    size_t count;
    power_failure = false;
    usual_batches();
    for (size_t offset = 0; offset < 160; offset += 13) {
        snprintf(crash_dir, sizeof crash_dir, "%s", fresh_dir("stage"));
        make_log(crash_dir, before, 1);
        crash_step = 9; /* the first record is durable, no checkpoint covers it */
        assert_int_equal(run_child(crash_child, 0, heads, &count, COUNT(heads)), 9);
        assert_int_equal(count, 0);
        fp__buf saved = {0};
        damage(crash_dir, STAGE, FLIP, offset, &saved);
        fp__ledger_writer *w = open_writer(crash_dir);
        fp__ledger_writer_head(w, &head);
        assert_int_equal(head.size, 250); /* a broken record was never acknowledged: dropped */
        fp__ledger_writer_close(w);
        expect_ok(fp__file_write(at(crash_dir, STAGE), saved.data, saved.size, 0600));
        fp__buf_free(&saved);
        w = open_writer(crash_dir);
        fp__ledger_writer_head(w, &head);
        assert_int_equal(head.size, 253);
        fp__ledger_writer_close(w);
        expect_ok(fp__ledger_fsck(crash_dir, ORIGIN, &vkey, 1, NULL));
    }
    /* A whole stage of another history. */
    crash_step = 9;
    assert_int_equal(run_child(crash_child, 0, heads, &count, COUNT(heads)), 9);
    copy_file(at(crash_dir, STAGE), at(work, "foreign.stage"));
    static const size_t shorter[] = {100};
    char dir[128];
    snprintf(dir, sizeof dir, "%s", fresh_dir("foreign"));
    make_log(dir, shorter, 1);
    copy_file(at(work, "foreign.stage"), at(dir, STAGE));
    fp__ledger_writer *w = NULL;
    expect_failure("later stage", fp__ledger_writer_open(dir, ORIGIN, key, &w), FP_MISMATCH, "begin at 253");
    expect_ok(fp__ledger_fsck(dir, ORIGIN, &vkey, 1, NULL));
    fresh_dir("foreign");
    expect_ok(fp__ledger_create(dir, ORIGIN, key));
    w = open_writer(dir);
    for (int i = 0; i < 254; i++)
        expect_ok(fp__ledger_append(w, &(fp__ledger_entry){"fork", 4}, 1, NULL, NULL));
    fp__ledger_writer_close(w);
    copy_file(at(work, "foreign.stage"), at(dir, STAGE));
    expect_failure("foreign stage", fp__ledger_writer_open(dir, ORIGIN, key, &w), FP_MISMATCH, "root");
    expect_ok(fp__ledger_fsck(dir, ORIGIN, &vkey, 1, NULL));
}

/* ---- other processes ---- */

static void holding_child(void)
{
    fp__ledger_writer *w = NULL;
    fp__ledger_head head = {0};
    if (fp__ledger_writer_open(crash_dir, ORIGIN, key, &w) != FP_OK)
        _exit(3);
    acknowledge(&head);
    pause();
}

static void test_second_process_is_busy(void **state)
{
    (void)state;
    int ends[2];
    snprintf(crash_dir, sizeof crash_dir, "%s", fresh_dir("busy"));
    expect_ok(fp__ledger_create(crash_dir, ORIGIN, key));
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    if (child == 0) {
        acks = ends[1];
        holding_child();
    }
    fp__ledger_head head;
    fp__ledger_writer *w = NULL;
    assert_int_equal(read(ends[0], &head, sizeof head), sizeof head);
    expect_failure("busy", fp__ledger_writer_open(crash_dir, ORIGIN, key, &w), FP_BUSY, "one writer");
    expect_ok(read_everything(crash_dir)); /* readers are welcome */
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    fp__ledger_writer_close(open_writer(crash_dir));
    close(ends[0]);
    close(ends[1]);
}

struct follower {
    const char *dir;
    char memory[128], detail[512];
    unsigned advances;
    _Atomic bool *stop;
};

static fp_status follow(struct follower *f, fp__ledger_reader *r)
{
    unsigned seed = 1;
    while (!*f->stop) {
        bool advanced;
        fp__ledger_head head;
        fp__merkle_proof proof;
        fp__buf entry = {0};
        FP_TRY(fp__ledger_reader_refresh(r, &advanced));
        f->advances += advanced;
        fp__ledger_reader_head(r, &head);
        if (head.size == 0)
            continue;
        uint64_t index = (uint64_t)rand_r(&seed) % head.size;
        FP_TRY(fp__ledger_reader_inclusion(r, index, head.size, &proof));
        fp_status status = fp__ledger_reader_entry(r, head.size - 1, &entry);
        fp__buf_free(&entry);
        FP_TRY(status);
        if (f->advances % 16 == 0)
            FP_TRY(scan_all(r));
    }
    return scan_all(r);
}

static void *follow_thread(void *arg)
{
    struct follower *f = arg;
    fp__ledger_reader *r = NULL;
    fp_status status = fp__ledger_reader_open(f->dir, ORIGIN, &vkey, 1, f->memory, &r);
    if (status == FP_OK)
        status = follow(f, r);
    if (status != FP_OK)
        snprintf(f->detail, sizeof f->detail, "%s: %s", fp_status_name(status), fp_error_detail());
    fp__ledger_reader_close(r);
    return NULL;
}

static void writing_child(void)
{
    fp__ledger_writer *w = NULL;
    fp__ledger_head head = {0};
    if (fp__ledger_writer_open(crash_dir, ORIGIN, key, &w) != FP_OK)
        _exit(3);
    for (unsigned i = 0; i < 400; i++) {
        if (append(w, i % 3 == 0 ? 1 : i * 5 % 23, &head) != FP_OK)
            _exit(3);
        if (i % 20 == 19 && fp__ledger_writer_sync(w) != FP_OK) /* removes partial tiles under the readers */
            _exit(3);
    }
    fp__ledger_writer_close(w);
    acknowledge(&head);
}

static void test_readers_during_writes(void **state)
{
    (void)state;
    snprintf(crash_dir, sizeof crash_dir, "%s", fresh_dir("readers"));
    expect_ok(fp__ledger_create(crash_dir, ORIGIN, key));
    _Atomic bool stop = false;
    struct follower followers[2] = {0};
    pthread_t threads[2];
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    if (child == 0) {
        acks = ends[1];
        writing_child();
        _exit(0);
    }
    for (int i = 0; i < 2; i++) {
        followers[i].dir = crash_dir;
        followers[i].stop = &stop;
        snprintf(followers[i].memory, sizeof followers[i].memory, "%s/readers.state", work); /* shared */
        assert_int_equal(pthread_create(&threads[i], NULL, follow_thread, &followers[i]), 0);
    }
    fp__ledger_head head;
    assert_int_equal(read(ends[0], &head, sizeof head), sizeof head);
    stop = true;
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    waitpid(child, NULL, 0);
    for (int i = 0; i < 2; i++) {
        if (followers[i].detail[0] != 0)
            fail_msg("reader %d: %s", i, followers[i].detail);
        assert_true(followers[i].advances > 3);
    }
    close(ends[0]);
    close(ends[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_crash_at_every_step),
        cmocka_unit_test(test_power_failure_at_every_step),
        cmocka_unit_test(test_crash_in_recovery),
        cmocka_unit_test(test_random_crashes),
        cmocka_unit_test(test_kill_loop),
        cmocka_unit_test(test_stage_damage),
        cmocka_unit_test(test_second_process_is_busy),
        cmocka_unit_test(test_readers_during_writes),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
