#include "anchor/ahead.h"
#include "core/cpu.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum { JOB_ENTRIES = 32, JOBS = 16, WORKERS_MAX = 64 };

typedef struct keys { /* immutable once made; kept until the end */
    struct keys *next;
    size_t n;
    struct {
        char id[65];
        uint8_t public_key[32];
        fp__ed25519_peer *peer; /* owned */
    } key[FP__POLICY_KEYS_MAX];
} keys;

enum job_state { FILLING, READY, TAKEN, DONE };
typedef struct job {
    enum job_state state; /* under the lock */
    const keys *keys;
    size_t n, sizes[JOB_ENTRIES];
    fp__buf bytes;
    fp__ahead_entry entries[JOB_ENTRIES];
} job;

struct fp__ahead {
    fp__ahead_fn *fn;
    void *arg;
    keys *keys; /* newest first */
    job *jobs;  /* [JOBS], a ring: [tail, head) are under way, head is being filled */
    size_t head, tail;
    pthread_mutex_t lock;
    pthread_cond_t ready, done;
    bool stop;
    size_t workers;
    pthread_t threads[WORKERS_MAX];
};

/* ---- One entry, one job ---- */

void fp__ahead_read(const uint8_t *data, size_t size, uint64_t index, fp__ahead_entry *out)
{
    out->index = index;
    out->is_event = false;
    out->why[0] = 0;
    out->parsed = FP_OK;
    out->event = (fp__event){0};
    out->envelope = fp__dsse_parse(data, size, &out->dsse);
    if (out->envelope != FP_OK)
        return;
    out->parsed =
        fp__event_parse(out->dsse.payload.data, out->dsse.payload.size, &out->is_event, &out->event);
    if (out->parsed != FP_OK)
        snprintf(out->why, sizeof out->why, "%.*s", (int)sizeof out->why - 1, fp_error_detail());
}

void fp__ahead_entry_free(fp__ahead_entry *entry)
{
    if (entry->envelope != FP_OK)
        return;
    fp__dsse_free(&entry->dsse);
    fp__event_free(&entry->event);
}

static void check_signatures(const keys *known, fp__dsse *dsse)
{
    for (size_t i = 0; i < dsse->signatures_count; i++)
        for (size_t k = 0; known != NULL && k < known->n; k++)
            if (strcmp(known->key[k].id, dsse->signatures[i].keyid) == 0) {
                fp__dsse_check(dsse, i, known->key[k].public_key, known->key[k].peer);
                break;
            }
}

static void do_job(job *j)
{
    const uint8_t *at = j->bytes.data;
    for (size_t i = 0; i < j->n; at += j->sizes[i], i++) {
        fp__ahead_entry *entry = &j->entries[i];
        fp__ahead_read(at, j->sizes[i], entry->index, entry);
        if (entry->envelope == FP_OK && entry->is_event)
            check_signatures(j->keys, &entry->dsse);
    }
}

static void free_entries(job *j)
{
    for (size_t i = 0; i < j->n; i++)
        fp__ahead_entry_free(&j->entries[i]);
    j->n = 0;
    j->bytes.size = 0;
}

/* ---- Threads ---- */

/* The oldest job that nobody has taken, or NULL. Under the lock. */
static job *take(fp__ahead *a)
{
    for (size_t k = a->tail; k != a->head; k++)
        if (a->jobs[k % JOBS].state == READY) {
            a->jobs[k % JOBS].state = TAKEN;
            return &a->jobs[k % JOBS];
        }
    return NULL;
}

/* Does a job outside of the lock, which is held before and after. */
static void work(fp__ahead *a, job *j)
{
    pthread_mutex_unlock(&a->lock);
    do_job(j);
    pthread_mutex_lock(&a->lock);
    j->state = DONE;
    pthread_cond_signal(&a->done);
}

static void *worker(void *arg)
{
    fp__ahead *a = arg;
    pthread_mutex_lock(&a->lock);
    while (!a->stop) {
        job *j = take(a);
        if (j != NULL)
            work(a, j);
        else
            pthread_cond_wait(&a->ready, &a->lock);
    }
    pthread_mutex_unlock(&a->lock);
    return NULL;
}

fp_status fp__ahead_create(size_t threads, fp__ahead_fn *fn, void *arg, fp__ahead **out)
{
    fp__ahead *a = calloc(1, sizeof *a);
    if (a == NULL || (a->jobs = calloc(JOBS, sizeof *a->jobs)) == NULL) {
        free(a);
        return fp__fail(FP_NO_MEMORY, "no memory to verify ahead");
    }
    a->fn = fn;
    a->arg = arg;
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->ready, NULL);
    pthread_cond_init(&a->done, NULL);
    size_t cores = fp__cpu_get()->cores;
    size_t wanted = threads != 0 ? threads : cores > 1 ? cores - 1 : 0;
    /* Fewer workers than wanted are slower, nothing else: the caller does what is left. */
    while (a->workers < wanted && a->workers < WORKERS_MAX &&
           pthread_create(&a->threads[a->workers], NULL, worker, a) == 0)
        a->workers++;
    *out = a;
    return FP_OK;
}

void fp__ahead_destroy(fp__ahead *a)
{
    if (a == NULL)
        return;
    pthread_mutex_lock(&a->lock);
    a->stop = true;
    pthread_cond_broadcast(&a->ready);
    pthread_mutex_unlock(&a->lock);
    for (size_t i = 0; i < a->workers; i++)
        pthread_join(a->threads[i], NULL);
    for (size_t i = 0; i < JOBS; i++) {
        if (a->jobs[i].state == DONE)
            free_entries(&a->jobs[i]);
        fp__buf_free(&a->jobs[i].bytes);
    }
    while (a->keys != NULL) {
        keys *next = a->keys->next;
        for (size_t k = 0; k < a->keys->n; k++)
            fp__ed25519_peer_destroy(a->keys->key[k].peer);
        free(a->keys);
        a->keys = next;
    }
    pthread_mutex_destroy(&a->lock);
    pthread_cond_destroy(&a->ready);
    pthread_cond_destroy(&a->done);
    free(a->jobs);
    free(a);
}

fp_status fp__ahead_expect(fp__ahead *a, const fp__policy *policy)
{
    keys *k = calloc(1, sizeof *k);
    if (k == NULL)
        return fp__fail(FP_NO_MEMORY, "no memory for keys");
    for (size_t i = 0; policy != NULL && i < policy->keys_count; i++) {
        if (fp__ed25519_peer_create(policy->keys[i].public_key, &k->key[k->n].peer) != FP_OK)
            continue; /* no hint, then: the replay verifies by itself */
        memcpy(k->key[k->n].id, policy->keys[i].keyid, sizeof k->key[i].id);
        memcpy(k->key[k->n].public_key, policy->keys[i].public_key, 32);
        k->n++;
    }
    k->next = a->keys;
    a->keys = k;
    return FP_OK;
}

/* ---- The ring ---- */

/* Gives out the oldest job, helping with it or with others until it is done. */
static fp_status pop(fp__ahead *a)
{
    job *oldest = &a->jobs[a->tail % JOBS];
    pthread_mutex_lock(&a->lock);
    while (oldest->state != DONE) {
        job *j = take(a);
        if (j != NULL)
            work(a, j);
        else
            pthread_cond_wait(&a->done, &a->lock);
    }
    a->tail++;
    pthread_mutex_unlock(&a->lock);
    fp_status status = FP_OK;
    for (size_t i = 0; i < oldest->n && status == FP_OK; i++)
        status = a->fn(a->arg, &oldest->entries[i]);
    free_entries(oldest);
    oldest->state = FILLING; /* out of the ring: nobody else looks at it */
    return status;
}

static void submit(fp__ahead *a)
{
    pthread_mutex_lock(&a->lock);
    a->jobs[a->head % JOBS].state = READY;
    a->head++;
    pthread_cond_signal(&a->ready);
    pthread_mutex_unlock(&a->lock);
}

fp_status fp__ahead_push(fp__ahead *a, uint64_t index, const uint8_t *data, size_t size)
{
    if (a->head - a->tail == JOBS)
        FP_TRY(pop(a));
    job *j = &a->jobs[a->head % JOBS];
    FP_TRY(fp__buf_append(&j->bytes, data, size));
    j->keys = a->keys;
    j->sizes[j->n] = size;
    j->entries[j->n].index = index;
    j->entries[j->n++].envelope = FP_FORMAT; /* nothing to free yet */
    if (j->n == JOB_ENTRIES)
        submit(a);
    return FP_OK;
}

fp_status fp__ahead_finish(fp__ahead *a)
{
    if (a->head - a->tail < JOBS && a->jobs[a->head % JOBS].n > 0)
        submit(a);
    while (a->tail != a->head)
        FP_TRY(pop(a));
    return FP_OK;
}
