/* Hash workers: threads of low priority that run jobs (hashing sealed pages) off the token loop.
 *
 * Submitting takes a lock for some instructions and never waits for a job. Waiting helps: the waiting thread
 * runs queued jobs itself, so that a worker without a core cannot hold it up. With 0 workers a job runs
 * inside submit (the same results; for tests and single-threaded use). All functions are thread-safe. */
#ifndef FP_CACHE_HASHER_H
#define FP_CACHE_HASHER_H
#include "core/error.h"
#include <stdbool.h>

typedef struct fp__hasher fp__hasher;

/* Jobs that are waited for together. Zero-initialise; must outlive its jobs; fields belong to the hasher. */
typedef struct fp__hash_owner {
    size_t pending; /* queued or running */
} fp__hash_owner;

/* Embedded in what it works on. Memory belongs to the submitter and must stay until the job is done or
 * cancelled; everything that run() wrote may be read after wait. */
typedef struct fp__hash_job {
    void (*run)(struct fp__hash_job *job);
    fp__hash_owner *owner;     /* set by submit */
    struct fp__hash_job *next; /* hasher's */
} fp__hash_job;

fp_status fp__hasher_create(size_t workers, fp__hasher **out) FP_WARN_UNUSED; /* 0 to 64 workers */
void fp__hasher_destroy(fp__hasher *hasher); /* no job may be pending; NULL is fine */
size_t fp__hasher_workers(const fp__hasher *hasher);

void fp__hasher_submit(fp__hasher *hasher, fp__hash_job *job, fp__hash_owner *owner);
/* Returns when no job of the owner is pending. */
void fp__hasher_wait(fp__hasher *hasher, fp__hash_owner *owner);
/* Drops the owner's queued jobs and waits for the ones that run. */
void fp__hasher_cancel(fp__hasher *hasher, fp__hash_owner *owner);
/* For fault injection: called by a worker before each job; false: the worker ends. NULL: none. */
void fp__hasher_set_fault(fp__hasher *hasher, bool (*fault)(void *arg), void *arg);
size_t fp__hasher_pending(fp__hasher *hasher, fp__hash_owner *owner); /* without waiting */
#endif
