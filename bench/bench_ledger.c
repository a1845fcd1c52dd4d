/* The ledger's throughput: bench_ledger [FOLDER] [ENTRIES OF THE LARGE TREE]
 *
 * Makes logs under FOLDER (default: the current one; on a disk, not in memory) and removes them. Every append
 * returns after its entries are durable and a signed checkpoint covers them. Prints one JSON object. */
#include "ledger/ledger.h"

#include <ftw.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define ENTRY_BYTES 300
#define ORIGIN "bench.example/log"

static fp__ed25519_key *key;
static fp__note_key vkey;
static char folder[512];

static void must(fp_status status)
{
    if (status == FP_OK)
        return;
    fprintf(stderr, "bench_ledger: %s: %s\n", fp_status_name(status), fp_error_detail());
    exit(1);
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Of this thread: what others do on the machine is not in it. */
static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *where)
{
    (void)st, (void)flag, (void)where;
    return remove(path);
}

/* n entries of `size` bytes that differ, in one append. */
static void append(fp__ledger_writer *w, size_t n, size_t size)
{
    static uint8_t *bytes;
    static fp__ledger_entry *entries;
    static size_t capacity;
    static uint64_t number;
    if (n * size > capacity) {
        capacity = n * size;
        bytes = realloc(bytes, capacity);
        entries = realloc(entries, n * sizeof *entries);
        if (bytes == NULL || entries == NULL)
            must(FP_NO_MEMORY);
        memset(bytes, 'e', capacity);
    }
    for (size_t i = 0; i < n; i++) {
        number++;
        memcpy(bytes + i * size, &number, sizeof number);
        entries[i] = (fp__ledger_entry){bytes + i * size, size};
    }
    must(fp__ledger_append(w, entries, n, NULL, NULL));
}

/* Entries a second in batches; before it, `singles` appends of one entry, whose times are sorted into
 * times[]. */
static double batches(fp__ledger_writer *w, size_t batch, size_t rounds)
{
    double start = seconds();
    for (size_t i = 0; i < rounds; i++)
        append(w, batch, ENTRY_BYTES);
    must(fp__ledger_writer_sync(w));
    return (double)(batch * rounds) / (seconds() - start);
}

static void singles(fp__ledger_writer *w, double *times, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        double start = seconds();
        append(w, 1, ENTRY_BYTES);
        times[i] = seconds() - start;
    }
    qsort(times, n, sizeof *times, compare);
}

struct follower {
    volatile bool stop;
    uint64_t refreshes, entries, errors;
};

static fp_status count_entry(void *arg, uint64_t index, const uint8_t *entry, size_t size)
{
    (void)index, (void)entry, (void)size;
    ++*(uint64_t *)arg;
    return FP_OK;
}

static void *follow(void *arg)
{
    struct follower *f = arg;
    fp__ledger_reader *r = NULL;
    uint64_t seen = 0;
    if (fp__ledger_reader_open(folder, ORIGIN, &vkey, 1, NULL, &r) != FP_OK) {
        f->errors++;
        return NULL;
    }
    while (!f->stop) {
        fp__ledger_head head;
        fp__merkle_proof proof;
        fp_status status = fp__ledger_reader_refresh(r, NULL);
        fp__ledger_reader_head(r, &head);
        if (status == FP_OK && head.size > 0)
            status = fp__ledger_reader_inclusion(r, seen * 7919 % head.size, head.size, &proof);
        if (status == FP_OK && seen < head.size)
            status = fp__ledger_reader_scan(r, seen, head.size, count_entry, &f->entries);
        seen = head.size;
        f->refreshes++;
        if (status != FP_OK) {
            f->errors++;
            fprintf(stderr, "reader: %s\n", fp_error_detail());
        }
    }
    fp__ledger_reader_close(r);
    return NULL;
}

static void fresh_log(const char *base, const char *name, fp__ledger_writer **w)
{
    snprintf(folder, sizeof folder, "%s/bench-ledger-%s", base, name);
    (void)nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    must(fp__ledger_create(folder, ORIGIN, key));
    must(fp__ledger_writer_open(folder, ORIGIN, key, w));
}

static void small_log(const char *base)
{
    enum { SINGLES = 5000 };
    static double times[SINGLES];
    fp__ledger_writer *w = NULL;
    fresh_log(base, "small", &w);
    printf("{\"entry_bytes\": %d, \"batch\": 1000, \"batches_fresh_per_s\": %.0f", ENTRY_BYTES,
           batches(w, 1000, 100));
    double start = seconds();
    singles(w, times, SINGLES);
    printf(
        ", \"single_appends\": %d, \"single_per_s\": %.0f, \"single_p50_ms\": %.3f, \"single_p99_ms\": %.3f",
        SINGLES, SINGLES / (seconds() - start), times[SINGLES / 2] * 1e3, times[SINGLES * 99 / 100] * 1e3);
    printf(", \"batches_after_singles_per_s\": %.0f", batches(w, 1000, 100));

    struct follower followers[2] = {0};
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        pthread_create(&threads[i], NULL, follow, &followers[i]);
    singles(w, times, 1000);
    double rate = batches(w, 1000, 100);
    for (int i = 0; i < 2; i++)
        followers[i].stop = true;
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    printf(", \"with_two_readers\": {\"single_p50_ms\": %.3f, \"batches_per_s\": %.0f, \"refreshes\": %llu, "
           "\"entries_read\": %llu, \"errors\": %llu}",
           times[500] * 1e3, rate, (unsigned long long)(followers[0].refreshes + followers[1].refreshes),
           (unsigned long long)(followers[0].entries + followers[1].entries),
           (unsigned long long)(followers[0].errors + followers[1].errors));
    fp__ledger_writer_close(w);
    must(fp__ledger_fsck(folder, ORIGIN, &vkey, 1, NULL));
    (void)nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* Proofs of entries all over the tree, by a reader that has just been opened and by one in use. */
static void large_log(const char *base, size_t n)
{
    enum { PROOFS = 2000 };
    static double times[PROOFS], cpu[PROOFS];
    fp__ledger_writer *w = NULL;
    fp__ledger_reader *r = NULL;
    fresh_log(base, "large", &w);
    double start = seconds();
    for (size_t at = 0; at < n; at += 1000000)
        append(w, n - at < 1000000 ? n - at : 1000000, 32);
    fp__ledger_writer_close(w);
    double made = seconds() - start;
    must(fp__ledger_reader_open(folder, ORIGIN, &vkey, 1, NULL, &r));
    fp__ledger_head head;
    fp__ledger_reader_head(r, &head);
    for (int pass = 0; pass < 2; pass++) { /* the first one warms the page cache */
        for (size_t i = 0; i < PROOFS; i++) {
            uint64_t index = i * UINT64_C(2654435761) % n;
            uint8_t leaf[32];
            fp__merkle_proof proof;
            must(fp__ledger_reader_leaf(r, index, leaf));
            double begun = seconds(), begun_cpu = cpu_seconds();
            must(fp__ledger_reader_inclusion(r, index, n, &proof));
            times[i] = seconds() - begun;
            cpu[i] = cpu_seconds() - begun_cpu;
            must(fp__merkle_verify_inclusion(leaf, index, n, proof.hashes[0], proof.count, head.root));
        }
        qsort(times, PROOFS, sizeof *times, compare);
        qsort(cpu, PROOFS, sizeof *cpu, compare);
    }
    double cold[200]; /* a fresh reader each: checkpoint, edge, tiles and proof */
    for (size_t i = 0; i < 200; i++) {
        fp__ledger_reader *fresh = NULL;
        fp__merkle_proof proof;
        double begun = seconds();
        must(fp__ledger_reader_open(folder, ORIGIN, &vkey, 1, NULL, &fresh));
        must(fp__ledger_reader_inclusion(fresh, i * UINT64_C(2654435761) % n, n, &proof));
        cold[i] = seconds() - begun;
        fp__ledger_reader_close(fresh);
    }
    qsort(cold, 200, sizeof *cold, compare);
    printf(", \"large_tree\": {\"entries\": %zu, \"made_in_s\": %.1f, \"entries_per_s\": %.0f, "
           "\"proof_p50_ms\": %.3f, \"proof_p99_ms\": %.3f, \"proof_max_ms\": %.3f, "
           "\"proof_cpu_p99_ms\": %.3f, \"proof_cpu_max_ms\": %.3f, \"open_and_proof_p50_ms\": %.3f}}\n",
           n, made, (double)n / made, times[PROOFS / 2] * 1e3, times[PROOFS * 99 / 100] * 1e3,
           times[PROOFS - 1] * 1e3, cpu[PROOFS * 99 / 100] * 1e3, cpu[PROOFS - 1] * 1e3, cold[100] * 1e3);
    fp__ledger_reader_close(r);
    (void)nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

int main(int argc, char **argv)
{
    const char *base = argc > 1 ? argv[1] : ".";
    size_t n = argc > 2 ? strtoull(argv[2], NULL, 10) : 10000000;
    must(fp__ed25519_generate(&key));
    must(fp__note_key_make(ORIGIN, FP__NOTE_ED25519, fp__ed25519_public(key), &vkey));
    small_log(base);
    fflush(stdout);
    large_log(base, n == 0 ? 1 : n);
    fp__ed25519_free(key);
    return 0;
}
