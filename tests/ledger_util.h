/* What the two programs that test the ledger share: keys, a folder for the run, logs whose entries are a
 * function of their index, and ways to damage them. Included after cmocka.h. */
#ifndef FP_TESTS_LEDGER_UTIL_H
#define FP_TESTS_LEDGER_UTIL_H
#include "core/file.h"
#include "ledger/ledger.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define ORIGIN "example.com/ledger"
#define STAGE ".writer.stage"

static fp__ed25519_key *key, *other_key;
static fp__note_key vkey, other_vkey;
static char work[64]; /* a folder for this run */

static void expect_failure(const char *name, fp_status status, fp_status expected, const char *word)
{
    if (status != expected || strstr(fp_error_detail(), word) == NULL)
        fail_msg("%s: got %s \"%s\", expected %s with \"%s\"", name, fp_status_name(status),
                 fp_error_detail(), fp_status_name(expected), word);
}

static void expect_ok(fp_status status)
{
    if (status != FP_OK)
        fail_msg("%s: %s", fp_status_name(status), fp_error_detail());
}

static const char *at(const char *dir, const char *name)
{
    static _Thread_local char paths[2][256]; /* a call may need two at once */
    static _Thread_local unsigned turn;
    char *path = paths[turn++ % 2];
    assert_true(snprintf(path, sizeof paths[0], "%s/%s", dir, name) < (int)sizeof paths[0]);
    return path;
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *where)
{
    (void)st, (void)flag, (void)where;
    return remove(path);
}

static const char *fresh_dir(const char *name)
{
    static char dir[128];
    snprintf(dir, sizeof dir, "%s/%s", work, name);
    (void)nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    return dir;
}

/* Entry i of every test log is a function of i: 0 to 120 bytes, and the number. */
static size_t entry_text(uint64_t index, char out[160])
{
    size_t pad = (size_t)(index * 37 % 121);
    if (index % 50 == 7)
        return 0; /* empty entries are entries */
    memset(out, 'a' + (int)(index % 26), pad);
    return pad + (size_t)snprintf(out + pad, 160 - pad, "#%llu", (unsigned long long)index);
}

static fp_status append(fp__ledger_writer *w, size_t n, fp__ledger_head *head)
{
    static char text[4096][160];
    static fp__ledger_entry entries[4096];
    fp__ledger_head before;
    uint64_t first;
    fp__ledger_writer_head(w, &before);
    for (size_t i = 0; i < n; i++)
        entries[i] = (fp__ledger_entry){text[i], entry_text(before.size + i, text[i])};
    FP_TRY(fp__ledger_append(w, entries, n, &first, head));
    return first == before.size && head->size == before.size + n ? FP_OK
                                                                 : fp__fail(FP_INTERNAL, "wrong index");
}

static fp__ledger_writer *open_writer(const char *dir)
{
    fp__ledger_writer *w = NULL;
    expect_ok(fp__ledger_writer_open(dir, ORIGIN, key, &w));
    return w;
}

/* A log of these batches. */
static void make_log(const char *dir, const size_t *batches, size_t count)
{
    expect_ok(fp__ledger_create(dir, ORIGIN, key));
    fp__ledger_writer *w = open_writer(dir);
    fp__ledger_head head;
    for (size_t i = 0; i < count; i++)
        expect_ok(append(w, batches[i], &head));
    fp__ledger_writer_close(w);
}

static fp__ledger_reader *open_reader(const char *dir, const char *state)
{
    fp__ledger_reader *r = NULL;
    expect_ok(fp__ledger_reader_open(dir, ORIGIN, &vkey, 1, state, &r));
    return r;
}

static fp_status visit(void *arg, uint64_t index, const uint8_t *entry, size_t size)
{
    char text[160];
    uint64_t *next = arg;
    size_t n = entry_text(index, text);
    if (index != (*next)++ || size != n || (n != 0 && memcmp(entry, text, n) != 0))
        return fp__fail(FP_MISMATCH, "entry %llu is not what was appended", (unsigned long long)index);
    return FP_OK;
}

static fp_status scan_all(fp__ledger_reader *r)
{
    uint64_t next = 0;
    fp__ledger_head head;
    fp__ledger_reader_head(r, &head);
    FP_TRY(fp__ledger_reader_scan(r, 0, head.size, visit, &next));
    return next == head.size ? FP_OK : fp__fail(FP_INTERNAL, "scan ended early");
}

enum damage { FLIP, CUT, GROW, DELETE, EMPTY, SWAP };

/* Damages dir/name; *saved is for undoing it. */
static inline void damage(const char *dir, const char *name, enum damage how, size_t offset, fp__buf *saved)
{
    expect_ok(fp__file_read(at(dir, name), 1 << 24, saved));
    fp__buf bytes = {0};
    expect_ok(fp__buf_append(&bytes, saved->data, saved->size));
    if (how == FLIP)
        bytes.data[offset] ^= 0x04;
    else if (how == CUT)
        bytes.size -= 1;
    else if (how == EMPTY)
        bytes.size = 0;
    else if (how == GROW)
        expect_ok(fp__buf_append(&bytes, "z", 1));
    else if (how == SWAP) /* two neighbouring hashes */
        for (size_t i = 0; i < 32; i++)
            bytes.data[i] = saved->data[i ^ 32], bytes.data[i ^ 32] = saved->data[i];
    if (how == DELETE)
        assert_int_equal(unlink(at(dir, name)), 0);
    else
        expect_ok(fp__file_write(at(dir, name), bytes.data, bytes.size, 0644));
    fp__buf_free(&bytes);
}

static fp_status read_everything(const char *dir)
{
    fp__ledger_reader *r = NULL;
    FP_TRY(fp__ledger_reader_open(dir, ORIGIN, &vkey, 1, NULL, &r));
    fp_status status = scan_all(r);
    fp__ledger_reader_close(r);
    return status;
}

static inline void copy_file(const char *from, const char *to)
{
    fp__buf bytes = {0};
    expect_ok(fp__file_read(from, 1 << 24, &bytes));
    expect_ok(fp__file_write(to, bytes.data, bytes.size, 0644));
    fp__buf_free(&bytes);
}

static int set_up(void **state)
{
    (void)state;
    uint8_t seed[32];
    /* A crash of a process loses nothing of the page cache, so memory serves as well as a disk, and faster.
     */
    snprintf(work, sizeof work, "%s/fieldprint-ledger-XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    assert_non_null(mkdtemp(work));
    memset(seed, 3, 32);
    expect_ok(fp__ed25519_from_seed(seed, &key));
    memset(seed, 4, 32);
    expect_ok(fp__ed25519_from_seed(seed, &other_key));
    expect_ok(fp__note_key_make(ORIGIN, FP__NOTE_ED25519, fp__ed25519_public(key), &vkey));
    expect_ok(fp__note_key_make(ORIGIN, FP__NOTE_ED25519, fp__ed25519_public(other_key), &other_vkey));
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    fp__ed25519_free(key);
    fp__ed25519_free(other_key);
    return nftw(work, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

#endif
