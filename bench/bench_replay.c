/* Replay of a log into a new registry, against verifying as many signatures on as many threads:
 *   bench_replay [ENTRIES] [ROUNDS]
 * Entries are receipts events with one receipt and one signature. Prints one JSON object. */
#include "../tests/anchor_lab.h"
#include "core/cpu.h"
#include "core/team.h"
#include <time.h>

static double clock_s(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static double now_s(void)
{
    return clock_s(CLOCK_MONOTONIC);
}

static double best_verify_cpu = 1e9,
              best_replay_cpu = 1e9; /* of the whole process: what others do is not in it */

enum { BATCH = 2000 };

static void fill(lab *l, size_t entries)
{
    static fp__buf text[BATCH];
    static fp__ledger_entry list[BATCH];
    for (size_t done = 0; done < entries;) {
        size_t n = entries - done < BATCH ? entries - done : BATCH;
        for (size_t i = 0; i < n; i++) {
            uint8_t receipt[1][32] = {{0}}, digest[32];
            fp__store_le64(receipt[0], done + i);
            fp__sha256(receipt[0], 8, receipt[0]);
            fp__event_ids_digest((const uint8_t(*)[32])receipt, 1, digest);
            fp__event event = lab_event(l, FP__EVENT_RECEIPTS, digest);
            ok(fp__event_set_ids(&event, (const uint8_t(*)[32])receipt, 1));
            fp__dsse dsse = {0};
            ok(fp__event_build(&event, &dsse));
            lab_sign(l, &dsse, FP_PURPOSE_ENGINE, ALICE);
            text[i].size = 0;
            ok(fp__dsse_write(&dsse, &text[i]));
            list[i] = (fp__ledger_entry){text[i].data, text[i].size};
            fp__dsse_free(&dsse);
            fp__event_free(&event);
        }
        ok(fp__ledger_append(l->writer, list, n, NULL, NULL));
        done += n;
    }
    for (size_t i = 0; i < BATCH; i++)
        fp__buf_free(&text[i]);
}

typedef struct verify_job {
    const uint8_t *key, *sig, *message;
    size_t size, n;
} verify_job;

static void verify_many(void *arg, size_t thread, size_t threads)
{
    const verify_job *j = arg;
    size_t begin, end;
    fp__team_split(j->n, 1, thread, threads, &begin, &end);
    for (size_t i = begin; i < end; i++)
        FP_CHECK(fp__ed25519_verify(j->key, j->message, j->size, j->sig) == FP_OK);
}

static double verify_alone(lab *l, fp__team *team, size_t n)
{
    uint8_t message[1000] = {1}, sig[64], public_key[32];
    ok(fp__key_sign(l->keys[0][FP_PURPOSE_ENGINE], message, sizeof message, sig));
    fp_key_public(l->keys[0][FP_PURPOSE_ENGINE], public_key);
    verify_job job = {public_key, sig, message, sizeof message, n};
    double start = now_s(), cpu = clock_s(CLOCK_PROCESS_CPUTIME_ID);
    fp__team_run(team, verify_many, &job);
    cpu = clock_s(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    best_verify_cpu = cpu < best_verify_cpu ? cpu : best_verify_cpu;
    return now_s() - start;
}

static double replay(lab *l, const char *path, double *again)
{
    fp__registry *registry;
    unlink(path);
    double start = now_s(), cpu = clock_s(CLOCK_PROCESS_CPUTIME_ID);
    ok(fp__registry_open(path, &l->trust, &registry));
    ok(fp__registry_replay(registry, l->w->reader, UINT64_MAX));
    double took = now_s() - start;
    cpu = clock_s(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    best_replay_cpu = cpu < best_replay_cpu ? cpu : best_replay_cpu;
    fp__registry_close(registry);
    start = now_s();
    ok(fp__registry_open(path, &l->trust, &registry));
    ok(fp__registry_replay(registry, l->w->reader, UINT64_MAX));
    *again = now_s() - start;
    fp__registry_close(registry);
    return took;
}

int main(int argc, char **argv)
{
    size_t entries = argc > 1 ? strtoull(argv[1], NULL, 10) : 50000;
    size_t rounds = argc > 2 ? strtoull(argv[2], NULL, 10) : 3;
    lab l;
    fp__team *team;
    char path[128];
    double best_replay = 1e9, best_verify = 1e9, best_again = 1e9;
    lab_open(&l, NULL, NULL);
    fill(&l, entries);
    ok(fp__ledger_reader_refresh(l.w->reader, NULL));
    ok(fp__team_create(0, &team));
    lab_path(&l, "bench.db", path, sizeof path);
    for (size_t i = 0; i < rounds; i++) { /* interleaved: a disturbance hits both */
        double again, verify = verify_alone(&l, team, entries), took = replay(&l, path, &again);
        best_verify = verify < best_verify ? verify : best_verify;
        best_replay = took < best_replay ? took : best_replay;
        best_again = again < best_again ? again : best_again;
    }
    printf("{\"entries\": %zu, \"threads\": %zu, \"verify_s\": %.3f, \"replay_s\": %.3f, "
           "\"ratio\": %.3f, \"cpu_ratio\": %.3f, \"replayed_per_s\": %.0f, \"restart_ms\": %.3f}\n",
           entries, fp__team_threads(team), best_verify, best_replay, best_replay / best_verify,
           best_replay_cpu / best_verify_cpu, (double)entries / best_replay, best_again * 1e3);
    fp__team_destroy(team);
    lab_close(&l);
    return 0;
}
