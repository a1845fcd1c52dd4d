/* ledger: the tiled log. Format, proofs, damage, readers that move only forward, group commit. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "ledger_util.h"
#include <pthread.h> /* ThreadSanitizer runs this one */

/* ---- format ---- */

static void test_paths(void **state)
{
    (void)state;
    static const struct {
        int level;
        uint64_t index;
        unsigned width;
        const char *path;
    } good[] = {
        {0, 0, 256, "tile/0/000"},
        {0, 0, 1, "tile/0/000.p/1"},
        {1, 999, 255, "tile/1/999.p/255"},
        {2, 1000, 256, "tile/2/x001/000"},
        {FP__TILE_ENTRIES, 1234067, 256, "tile/entries/x001/x234/067"},
        {FP__TILE_ENTRIES, 5, 112, "tile/entries/005.p/112"},
        {7, UINT64_MAX >> 9, 3, "tile/7/x036/x028/x797/x018/x963/967.p/3"},
    };
    for (size_t i = 0; i < COUNT(good); i++) {
        char path[FP__TILE_PATH_MAX];
        int level;
        uint64_t index;
        unsigned width;
        fp__tile_path(good[i].level, good[i].index, good[i].width, path);
        assert_string_equal(path, good[i].path);
        expect_ok(fp__tile_path_parse(path, &level, &index, &width));
        assert_true(level == good[i].level && index == good[i].index && width == good[i].width);
    }
    static const char *const bad[] = {
        "",
        "tile/0",
        "tile/0/",
        "tile/0/0",
        "tile/0/0000",
        "tile/00/000",
        "tile/64/000",
        "tile/x/000",
        "tile/-1/000",
        "tile/+1/000",
        "tile/ 1/000",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000.p/01",
        "tile/0/000.p/",
        "tile/0/x000/001",
        "tile/0/001/000",
        "tile/0/x001/x000",
        "tile/0/000/",
        "/tile/0/000",
        "tile/entries",
        "tile/entries/..",
        "tile/0/../0/000",
        "tile/0/000.p/1/",
        "tile/0/x999/x999/x999/x999/x999/x999/x999/x999/999",
    };
    for (size_t i = 0; i < COUNT(bad); i++) {
        int level;
        uint64_t index;
        unsigned width;
        expect_failure(bad[i], fp__tile_path_parse(bad[i], &level, &index, &width), FP_FORMAT,
                       "path of a tile");
    }
    assert_int_equal(fp__tile_width(0, 273, 70000), 112); /* the specification's example */
    assert_int_equal(fp__tile_width(0, 272, 70000), 256);
    assert_int_equal(fp__tile_width(1, 0, 70000), 256);
    assert_int_equal(fp__tile_width(1, 1, 70000), 17);
    assert_int_equal(fp__tile_width(2, 0, 70000), 1);
    assert_int_equal(fp__tile_width(2, 1, 70000), 0);
    assert_int_equal(fp__tile_width(3, 0, 70000), 0);
    assert_int_equal(fp__tile_width(63, 0, 70000), 0);
}

static void test_edge(void **state)
{
    (void)state;
    static fp__tile_edge edge;
    fp__merkle_frontier frontier = {0};
    for (uint32_t i = 0; i < 70000; i++) {
        uint8_t leaf[32], a[32], b[32];
        fp__merkle_leaf(&i, sizeof i, leaf);
        expect_ok(fp__tile_edge_append(&edge, leaf, NULL, NULL));
        fp__merkle_frontier_append(&frontier, leaf);
        if (i % 97 != 0 && (i & 255) > 1 && (i & 65535) > 1)
            continue;
        fp__tile_edge_root(&edge, a);
        fp__merkle_frontier_root(&frontier, b);
        assert_memory_equal(a, b, 32);
    }
}

static void test_bundles(void **state)
{
    (void)state;
    static char big[FP__ENTRY_MAX_BYTES + 1];
    fp__buf bytes = {0};
    fp__bundle b;
    expect_ok(fp__bundle_append("ab", 2, &bytes));
    expect_ok(fp__bundle_append("", 0, &bytes));
    expect_ok(fp__bundle_append(big, FP__ENTRY_MAX_BYTES, &bytes));
    expect_failure("too long", fp__bundle_append(big, sizeof big, &bytes), FP_LIMIT, "65536 bytes");
    expect_ok(fp__bundle_parse(bytes.data, bytes.size, 3, true, &b));
    assert_true(b.length[0] == 2 && b.length[1] == 0 && b.length[2] == 65535 && b.begin[2] == 8);
    expect_ok(fp__bundle_parse(bytes.data, bytes.size, 2, false, &b));
    expect_failure("more entries", fp__bundle_parse(bytes.data, bytes.size, 2, true, &b), FP_FORMAT,
                   "after its 2");
    expect_failure("fewer", fp__bundle_parse(bytes.data, bytes.size, 4, false, &b), FP_FORMAT,
                   "entry 3 of 4");
    expect_failure("cut", fp__bundle_parse(bytes.data, bytes.size - 1, 3, true, &b), FP_FORMAT,
                   "65534 are left");
    expect_failure("cut length", fp__bundle_parse(bytes.data, 5, 2, true, &b), FP_FORMAT,
                   "length of its entry 1");
    expect_failure("nothing", fp__bundle_parse(NULL, 0, 1, true, &b), FP_FORMAT, "entry 0 of 1");
    fp__buf_free(&bytes);
}

/* ---- the ordinary life of a log ---- */

static void test_life(void **state)
{
    (void)state;
    const char *dir = fresh_dir("life");
    expect_failure("no log",
                   fp__ledger_reader_open(dir, ORIGIN, &vkey, 1, NULL, &(fp__ledger_reader *){NULL}),
                   FP_NOT_FOUND, "no ledger");
    expect_failure("no log", fp__ledger_writer_open(dir, ORIGIN, key, &(fp__ledger_writer *){NULL}),
                   FP_NOT_FOUND, "ledger");
    expect_ok(fp__ledger_create(dir, ORIGIN, key));
    expect_failure("twice", fp__ledger_create(dir, ORIGIN, key), FP_EXISTS, "already");
    expect_failure("bad origin", fp__ledger_create(at(work, "bad"), "a b", key), FP_FORMAT, "space");
    fp__ledger_reader *r = open_reader(dir, NULL);
    fp__ledger_head head, seen;
    fp__ledger_reader_head(r, &head);
    assert_int_equal(head.size, 0);
    expect_failure("empty", fp__ledger_reader_entry(r, 0, &(fp__buf){0}), FP_USAGE, "no entry 0");

    fp__ledger_writer *w = open_writer(dir);
    expect_failure("second writer", fp__ledger_writer_open(dir, ORIGIN, key, &(fp__ledger_writer *){NULL}),
                   FP_BUSY, "one writer");
    static const size_t batches[] = {1, 1, 3, 250, 1, 0, 1, 300, 512, 1};
    for (size_t i = 0; i < COUNT(batches); i++) {
        bool advanced;
        expect_ok(append(w, batches[i], &head));
        expect_ok(fp__ledger_reader_refresh(r, &advanced));
        assert_int_equal(advanced, batches[i] != 0);
        fp__ledger_reader_head(r, &seen);
        assert_memory_equal(&seen, &head, sizeof head);
        expect_ok(scan_all(r));
    }
    static char big[FP__ENTRY_MAX_BYTES + 1];
    fp__ledger_entry too_long[] = {{"a", 1}, {big, sizeof big}};
    expect_failure("too long", fp__ledger_append(w, too_long, 2, NULL, NULL), FP_LIMIT, "entry 2 of 2");
    fp__ledger_writer_close(w);
    fp__ledger_report report;
    expect_ok(fp__ledger_fsck(dir, ORIGIN, &vkey, 1, &report));
    assert_int_equal(report.head.size, 1070);
    assert_int_equal(report.bundles, 5);
    /* Superseded partial tiles are gone, the current ones are there. */
    assert_true(fp__file_exists(at(dir, "tile/entries/003")) &&
                !fp__file_exists(at(dir, "tile/entries/003.p")));
    assert_true(!fp__file_exists(at(dir, "tile/0/000.p")) && fp__file_exists(at(dir, "tile/0/004.p/46")));
    assert_true(fp__file_exists(at(dir, "tile/1/000.p/4")));
    expect_ok(scan_all(r));
    fp__ledger_reader_close(r);
    w = open_writer(dir); /* goes on where it was */
    expect_ok(append(w, 2, &head));
    assert_int_equal(head.size, 1072);
    fp__ledger_writer_close(w);
}

static void test_proofs(void **state)
{
    (void)state;
    const char *dir = fresh_dir("proofs");
    static const size_t batches[] = {4000, 4000, 4000, 4000, 4000, 4000, 4000, 4000, 4000,
                                     4000, 4000, 4000, 4000, 4000, 4000, 4000, 2000};
    make_log(dir, batches, COUNT(batches)); /* 66,000: three levels of tiles */
    fp__ledger_reader *r = open_reader(dir, NULL);
    fp__ledger_head head;
    fp__ledger_reader_head(r, &head);
    assert_int_equal(head.size, 66000);
    static const uint64_t sizes[] = {1, 2, 255, 256, 257, 5000, 65535, 65536, 65537, 65792, 66000};
    for (size_t i = 0; i < COUNT(sizes); i++) {
        uint8_t root[32], leaf[32];
        fp__merkle_proof proof;
        expect_ok(fp__ledger_reader_root_at(r, sizes[i], root));
        for (uint64_t index = 0; index < sizes[i]; index += sizes[i] / 7 + 1) {
            expect_ok(fp__ledger_reader_leaf(r, index, leaf));
            expect_ok(fp__ledger_reader_inclusion(r, index, sizes[i], &proof));
            expect_ok(fp__merkle_verify_inclusion(leaf, index, sizes[i], proof.hashes[0], proof.count, root));
        }
        for (size_t j = 0; j <= i; j++) {
            uint8_t old[32];
            expect_ok(fp__ledger_reader_root_at(r, sizes[j], old));
            expect_ok(fp__ledger_reader_consistency(r, sizes[j], sizes[i], &proof));
            expect_ok(
                fp__merkle_verify_consistency(sizes[j], old, sizes[i], root, proof.hashes[0], proof.count));
        }
    }
    expect_failure("beyond", fp__ledger_reader_inclusion(r, 0, 66001, &(fp__merkle_proof){0}), FP_USAGE,
                   "66000");
    expect_failure("beyond", fp__ledger_reader_consistency(r, 1, 66001, &(fp__merkle_proof){0}), FP_USAGE,
                   "66000");

    fp__buf text = {0};
    fp__tlog_proof proof;
    char entry[160];
    uint8_t leaf[32];
    fp__merkle_leaf(entry, entry_text(64321, entry), leaf);
    expect_ok(fp__ledger_reader_tlog_proof(r, 64321, NULL, 0, &text));
    expect_ok(fp__tlog_proof_parse(text.data, text.size, &proof));
    expect_ok(fp__tlog_proof_verify(&proof, leaf, ORIGIN, &vkey, 1, NULL, NULL));
    expect_failure("another key", fp__tlog_proof_verify(&proof, leaf, ORIGIN, &other_vkey, 1, NULL, NULL),
                   FP_SIGNATURE, "no signature");
    fp__tlog_proof_free(&proof);
    fp__buf_free(&text);
    fp__ledger_reader_close(r);
    expect_ok(fp__ledger_fsck(dir, ORIGIN, &vkey, 1, NULL));
}

/* Large entries: the stage is smaller than one batch, and partial bundles are trimmed. */
static void test_large_entries(void **state)
{
    (void)state;
    const char *dir = fresh_dir("large");
    static char big[FP__ENTRY_MAX_BYTES];
    static fp__ledger_entry entries[90];
    memset(big, 'x', sizeof big);
    for (size_t i = 0; i < COUNT(entries); i++)
        entries[i] = (fp__ledger_entry){big, sizeof big};
    expect_ok(fp__ledger_create(dir, ORIGIN, key));
    fp__ledger_writer *w = open_writer(dir);
    expect_ok(fp__ledger_append(w, entries, 90, NULL, NULL)); /* 5.9 MB */
    for (int i = 0; i < 20; i++)
        expect_ok(fp__ledger_append(w, entries, 1, NULL, NULL));
    fp__ledger_writer_close(w);
    assert_true(fp__file_exists(at(dir, "tile/entries/000.p/110")));
    assert_true(fp__file_exists(at(dir, "tile/entries/000.p/100")) &&
                fp__file_exists(at(dir, "tile/0/000.p/90")));
    assert_false(fp__file_exists(at(dir, "tile/entries/000.p/90"))); /* over 64 MiB of them: the oldest go */
    expect_ok(fp__ledger_fsck(dir, ORIGIN, &vkey, 1, NULL));
}

struct appender {
    fp__ledger_writer *writer;
    unsigned number;
    uint64_t indices[60];
};

static void *append_many(void *arg)
{
    struct appender *a = arg;
    for (unsigned i = 0; i < COUNT(a->indices); i++) {
        char text[32];
        fp__ledger_entry entry = {text, (size_t)snprintf(text, sizeof text, "%u/%u", a->number, i)};
        fp__ledger_head head;
        if (fp__ledger_append(a->writer, &entry, 1, &a->indices[i], &head) != FP_OK ||
            head.size <= a->indices[i])
            return a;
    }
    return NULL;
}

static void test_group_commit(void **state)
{
    (void)state;
    const char *dir = fresh_dir("group");
    expect_ok(fp__ledger_create(dir, ORIGIN, key));
    struct appender appenders[4] = {0};
    pthread_t threads[4];
    fp__ledger_writer *w = open_writer(dir);
    for (unsigned i = 0; i < 4; i++) {
        appenders[i].writer = w;
        appenders[i].number = i;
        assert_int_equal(pthread_create(&threads[i], NULL, append_many, &appenders[i]), 0);
    }
    expect_ok(fp__ledger_writer_sync(w));
    for (unsigned i = 0; i < 4; i++) {
        void *failed;
        pthread_join(threads[i], &failed);
        assert_null(failed);
    }
    fp__ledger_writer_close(w);
    fp__ledger_reader *r = open_reader(dir, NULL);
    for (unsigned i = 0; i < 4; i++) {
        for (unsigned j = 0; j < COUNT(appenders[i].indices); j++) {
            char text[32];
            fp__buf entry = {0};
            snprintf(text, sizeof text, "%u/%u", i, j);
            expect_ok(fp__ledger_reader_entry(r, appenders[i].indices[j], &entry));
            assert_string_equal((char *)entry.data, text);
            assert_true(j == 0 || appenders[i].indices[j] > appenders[i].indices[j - 1]);
            fp__buf_free(&entry);
        }
    }
    fp__ledger_reader_close(r);
    expect_ok(fp__ledger_fsck(dir, ORIGIN, &vkey, 1, NULL));
}

/* ---- damage ---- */

static void test_damage(void **state)
{
    (void)state;
    static const struct {
        const char *name, *file;
        enum damage how;
        size_t offset;
        fp_status read;
        const char *read_word;
        fp_status check;
        const char *check_word;
    } table[] = {
        {"entry", "tile/entries/000", FLIP, 700, FP_MISMATCH, "tile/entries/000", FP_MISMATCH,
         "tile/0/000: hash"},
        {"entry length", "tile/entries/001", FLIP, 1, FP_FORMAT, "tile/entries/001", FP_FORMAT, "of 256"},
        {"huge entry length", "tile/entries/001", FLIP, 0, FP_FORMAT, "tile/entries/001", FP_FORMAT,
         "tile/entries/001"},
        {"bundle cut", "tile/entries/000", CUT, 0, FP_FORMAT, "tile/entries/000", FP_FORMAT,
         "entry 255 of 256"},
        {"bundle grown", "tile/entries/000", GROW, 0, FP_FORMAT, "after its 256 entries", FP_FORMAT,
         "tile/entries/000"},
        {"bundle empty", "tile/entries/001", EMPTY, 0, FP_FORMAT, "entry 0 of 256", FP_FORMAT,
         "tile/entries/001"},
        {"bundle gone", "tile/entries/001", DELETE, 0, FP_NOT_FOUND, "tile/entries/001", FP_NOT_FOUND,
         "entries/001"},
        {"partial bundle", "tile/entries/002.p/88", FLIP, 100, FP_MISMATCH, "entry 51", FP_MISMATCH,
         "tile/0/002.p/88"},
        {"partial bundle grown", "tile/entries/002.p/88", GROW, 0, FP_FORMAT, "after its 88", FP_FORMAT,
         "002.p/88"},
        {"partial bundle gone", "tile/entries/002.p/88", DELETE, 0, FP_NOT_FOUND, "002.p/88", FP_NOT_FOUND,
         "002.p/88"},
        {"leaf hash", "tile/0/001", FLIP, 8191, FP_MISMATCH, "tile/0/001", FP_MISMATCH, "entries 511 to 511"},
        {"leaf hashes swapped", "tile/0/000", SWAP, 0, FP_MISMATCH, "tile above", FP_MISMATCH, "hash 0"},
        {"tile cut", "tile/0/000", CUT, 0, FP_FORMAT, "8191 bytes", FP_FORMAT, "tile/0/000"},
        {"tile grown", "tile/0/000", GROW, 0, FP_FORMAT, "longer than", FP_FORMAT, "tile/0/000"},
        {"tile gone", "tile/0/000", DELETE, 0, FP_NOT_FOUND, "tile/0/000", FP_NOT_FOUND, "tile/0/000"},
        {"partial tile", "tile/0/002.p/88", FLIP, 32, FP_MISMATCH, "do not give the root", FP_MISMATCH,
         "entries 513"},
        {"partial tile cut", "tile/0/002.p/88", CUT, 0, FP_FORMAT, "2815 bytes", FP_FORMAT, "002.p/88"},
        {"partial tile gone", "tile/0/002.p/88", DELETE, 0, FP_NOT_FOUND, "002.p/88", FP_NOT_FOUND,
         "002.p/88"},
        {"upper tile", "tile/1/000.p/2", FLIP, 33, FP_MISMATCH, "do not give the root", FP_MISMATCH,
         "entries 256 to 511"},
        {"upper tile gone", "tile/1/000.p/2", DELETE, 0, FP_NOT_FOUND, "tile/1/000.p/2", FP_NOT_FOUND,
         "tile/1"},
        {"signature", "checkpoint", FLIP, 121, FP_SIGNATURE, "not valid", FP_SIGNATURE, "checkpoint"},
        {"size", "checkpoint", FLIP, 19, FP_SIGNATURE, "not valid", FP_SIGNATURE, "checkpoint"},
        {"origin", "checkpoint", FLIP, 3, FP_SIGNATURE, "not valid", FP_SIGNATURE, "checkpoint"},
        {"checkpoint cut", "checkpoint", CUT, 0, FP_FORMAT, "newline", FP_FORMAT, "checkpoint"},
        {"checkpoint empty", "checkpoint", EMPTY, 0, FP_FORMAT, "newline", FP_FORMAT, "checkpoint"},
        {"checkpoint gone", "checkpoint", DELETE, 0, FP_NOT_FOUND, "no ledger", FP_NOT_FOUND, "no ledger"},
    };
    const char *dir = fresh_dir("damage");
    static const size_t batches[] = {250, 350};
    make_log(dir, batches, COUNT(batches));
    expect_ok(read_everything(dir));
    for (size_t i = 0; i < COUNT(table); i++) {
        fp__buf saved = {0};
        damage(dir, table[i].file, table[i].how, table[i].offset, &saved);
        expect_failure(table[i].name, read_everything(dir), table[i].read, table[i].read_word);
        expect_failure(table[i].name, fp__ledger_fsck(dir, ORIGIN, &vkey, 1, NULL), table[i].check,
                       table[i].check_word);
        expect_ok(fp__file_write(at(dir, table[i].file), saved.data, saved.size, 0644));
        fp__buf_free(&saved);
    }
    expect_ok(read_everything(dir));
    fp__ledger_reader *r = NULL;
    expect_failure("another key", fp__ledger_reader_open(dir, ORIGIN, &other_vkey, 1, NULL, &r), FP_SIGNATURE,
                   "no signature");
    fp__note_key renamed;
    expect_ok(fp__note_key_make("example.com/other", FP__NOTE_ED25519, fp__ed25519_public(key), &renamed));
    expect_failure("another name", fp__ledger_reader_open(dir, "example.com/other", &renamed, 1, NULL, &r),
                   FP_SIGNATURE, "no signature");
    expect_failure("another origin", fp__ledger_reader_open(dir, "example.com/other", &vkey, 1, NULL, &r),
                   FP_MISMATCH, "example.com/other");
    expect_failure("no key", fp__ledger_reader_open(dir, ORIGIN, NULL, 0, NULL, &r), FP_USAGE, "key");
    fp__ledger_writer *w = NULL;
    expect_failure("writer, another key", fp__ledger_writer_open(dir, ORIGIN, other_key, &w), FP_SIGNATURE,
                   "no signature");
    fp__buf saved = {0};
    damage(dir, "tile/entries/002.p/88", FLIP, 100, &saved);
    expect_failure("writer, entry", fp__ledger_writer_open(dir, ORIGIN, key, &w), FP_MISMATCH, "entry 51");
    expect_ok(fp__file_write(at(dir, "tile/entries/002.p/88"), saved.data, saved.size, 0644));
    saved.size = 0;
    damage(dir, "tile/0/002.p/88", FLIP, 100, &saved);
    expect_failure("writer, tile", fp__ledger_writer_open(dir, ORIGIN, key, &w), FP_MISMATCH, "root");
    fp__buf_free(&saved);
}

/* ---- readers move only forward ---- */

static void test_forward_only(void **state)
{
    (void)state;
    char dir[128], fork_dir[128], memory[128], old[128];
    snprintf(dir, sizeof dir, "%s", fresh_dir("forward"));
    snprintf(fork_dir, sizeof fork_dir, "%s", fresh_dir("forked"));
    snprintf(memory, sizeof memory, "%s/forward.state", work);
    snprintf(old, sizeof old, "%s/forward.old", work);
    static const size_t batches[] = {300};
    make_log(dir, batches, 1);
    copy_file(at(dir, "checkpoint"), old);
    fp__ledger_reader *r = open_reader(dir, memory), *second = NULL;
    fp__ledger_writer *w = open_writer(dir);
    fp__ledger_head head;
    expect_ok(append(w, 300, &head));
    fp__ledger_writer_close(w);
    expect_ok(fp__ledger_reader_refresh(r, NULL));
    fp__ledger_reader *shared = open_reader(dir, memory); /* two readers may share a state */
    fp__ledger_reader_close(shared);

    /* Back: an older checkpoint, properly signed. */
    copy_file(at(dir, "checkpoint"), at(work, "forward.new"));
    copy_file(old, at(dir, "checkpoint"));
    expect_failure("back", fp__ledger_reader_refresh(r, NULL), FP_MISMATCH, "went back");
    expect_failure("back, reopened", fp__ledger_reader_open(dir, ORIGIN, &vkey, 1, memory, &second),
                   FP_MISMATCH, "went back");
    copy_file(at(work, "forward.new"), at(dir, "checkpoint"));
    expect_ok(fp__ledger_reader_refresh(r, NULL));
    expect_ok(scan_all(r));

    /* Forked: the same key signs another history, longer and of the same size. */
    for (size_t size = 600; size <= 700; size += 100) {
        fresh_dir("forked");
        expect_ok(fp__ledger_create(fork_dir, ORIGIN, key));
        w = open_writer(fork_dir);
        for (size_t i = 0; i < size; i += 100) {
            fp__ledger_entry entries[100];
            for (size_t j = 0; j < 100; j++)
                entries[j] = (fp__ledger_entry){"fork", 4};
            expect_ok(fp__ledger_append(w, entries, 100, NULL, NULL));
        }
        fp__ledger_writer_close(w);
        expect_failure("forked", fp__ledger_reader_open(fork_dir, ORIGIN, &vkey, 1, memory, &second),
                       FP_MISMATCH, "forked");
        expect_ok(scan_all(r));
    }
    /* The same reader, its folder replaced under it. */
    char aside[128];
    snprintf(aside, sizeof aside, "%s/forward.aside", work);
    assert_int_equal(rename(dir, aside), 0);
    assert_int_equal(rename(fork_dir, dir), 0);
    expect_failure("replaced", fp__ledger_reader_refresh(r, NULL), FP_MISMATCH, "forked");
    fp__ledger_reader_head(r, &head);
    assert_int_equal(head.size, 600); /* it stays where it was */
    assert_int_equal(rename(dir, fork_dir), 0);
    assert_int_equal(rename(aside, dir), 0);
    expect_ok(fp__ledger_reader_refresh(r, NULL));
    expect_ok(scan_all(r));
    fp__ledger_reader_close(r);

    fp__buf saved = {0};
    damage(work, "forward.state", FLIP, 20, &saved);
    expect_failure("state", fp__ledger_reader_open(dir, ORIGIN, &vkey, 1, memory, &second), FP_SIGNATURE,
                   "state");
    fp__buf_free(&saved);
    assert_int_equal(unlink(memory), 0);
    r = open_reader(dir, memory); /* without a memory it starts anew */
    fp__ledger_reader_close(r);
}

/* A folder that cannot be written: an error, and the log is as it was. */
static void test_failing_writes(void **state)
{
    (void)state;
    const char *dir = fresh_dir("failing");
    static const size_t before[] = {250};
    make_log(dir, before, 1);
    fp__ledger_writer *w = open_writer(dir);
    fp__ledger_head head;
    assert_int_equal(mkdir(at(dir, "tile/entries/000"), 0755), 0); /* where the full bundle would go */
    expect_failure("in the way", append(w, 10, &head), FP_IO, "tile/entries/000");
    expect_failure("no further", append(w, 1, &head), FP_IO, "open it again");
    fp__ledger_writer_head(w, &head);
    assert_int_equal(head.size, 250);
    fp__ledger_writer_close(w);
    expect_failure("still in the way", fp__ledger_writer_open(dir, ORIGIN, key, &w), FP_IO,
                   "tile/entries/000");
    expect_ok(read_everything(dir));
    assert_int_equal(rmdir(at(dir, "tile/entries/000")), 0);
    w = open_writer(dir); /* what was staged is finished now */
    fp__ledger_writer_head(w, &head);
    assert_int_equal(head.size, 260);
    fp__ledger_writer_close(w);
    expect_ok(read_everything(dir));
    expect_ok(fp__ledger_fsck(dir, ORIGIN, &vkey, 1, NULL));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_paths),        cmocka_unit_test(test_edge),
        cmocka_unit_test(test_bundles),      cmocka_unit_test(test_life),
        cmocka_unit_test(test_proofs),       cmocka_unit_test(test_large_entries),
        cmocka_unit_test(test_group_commit), cmocka_unit_test(test_damage),
        cmocka_unit_test(test_forward_only), cmocka_unit_test(test_failing_writes),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
