#include "cache/hasher.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { WORKERS_MAX = 64, LOWEST_PRIORITY = 19, JOBS_MAX = 64 };

struct fp__hasher {
    size_t workers, started;
    pthread_t *handles; // [workers]
    pthread_mutex_t mutex;
    pthread_cond_t work, done;
    fp__hash_job *first, **last; /* queue */
    bool (*fault)(void *arg);
    void *fault_arg;
    size_t waiters; /* threads in wait or cancel that sleep on `done` */
    bool stop;
};

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Jobs that one thread runs at once. */
typedef struct batch {
    fp__hash_job *job[JOBS_MAX];
    fp__hash_owner *owner[JOBS_MAX]; /* after a job has run it may be gone */
    size_t n;
} batch;

/* With the lock held, which is released while the jobs run. */
static void run_batch(fp__hasher *hasher, batch *b)
{
    fp__hash_pace *pace = b->job[0]->pace;
    uint64_t start = now_ns();
    pthread_mutex_unlock(&hasher->mutex);
    if (b->n == 1)
        b->job[0]->run(b->job[0]);
    else
        b->job[0]->run_many(b->job, b->n);
    pthread_mutex_lock(&hasher->mutex);
    if (pace) {
        uint64_t now = now_ns();
        pace->rest_until = now + pace->rest * (now - start);
    }
    for (size_t i = 0; i < b->n; i++)
        b->owner[i]->pending--;
    if (hasher->waiters > 0)
        pthread_cond_broadcast(&hasher->done);
}

static void unlink_job(fp__hasher *hasher, fp__hash_job **link)
{
    fp__hash_job *job = *link;
    *link = job->next;
    if (hasher->last == &job->next)
        hasher->last = link;
    job->next = NULL;
    if (job->pace)
        job->pace->waiting -= job->size;
}

/* First job of `owner` (NULL: of anybody, but none whose pace has it wait: *until tells when the first of
 * those may begin, UINT64_MAX: there is none). */
static fp__hash_job **find_job(fp__hasher *hasher, const fp__hash_owner *owner, uint64_t *until)
{
    uint64_t now = 0;
    for (fp__hash_job **link = &hasher->first; *link; link = &(*link)->next) {
        const fp__hash_pace *pace = (*link)->pace;
        if (owner && (*link)->owner != owner)
            continue;
        if (owner || !pace || pace->waiting >= pace->enough)
            return link;
        now = now ? now : now_ns();
        if (now >= pace->rest_until)
            return link;
        *until = pace->rest_until < *until ? pace->rest_until : *until;
    }
    return NULL;
}

/* Takes the job out of the queue, and those after it that may run together with it. */
static void take_jobs(fp__hasher *hasher, fp__hash_job **link, const fp__hash_owner *owner, batch *b)
{
    const fp__hash_pace *pace = (*link)->pace;
    size_t size = 0;
    b->n = 0;
    while (*link && b->n < JOBS_MAX) {
        fp__hash_job *job = *link;
        bool fits = b->n == 0 || (pace && job->pace == pace && job->run_many == b->job[0]->run_many &&
                                  (!owner || job->owner == owner) && size + job->size <= pace->most);
        if (!fits) {
            link = &job->next;
            continue;
        }
        unlink_job(hasher, link);
        size += job->size;
        b->owner[b->n] = job->owner;
        b->job[b->n++] = job;
        if (!pace)
            break;
    }
}

/* Runs the first job of `owner`, and those that go with it; false: there is none. */
static bool run_first(fp__hasher *hasher, const fp__hash_owner *owner)
{
    batch b;
    fp__hash_job **link = find_job(hasher, owner, NULL);
    if (!link)
        return false;
    take_jobs(hasher, link, owner, &b);
    run_batch(hasher, &b);
    return true;
}

static void wait_for_work(fp__hasher *hasher, uint64_t until)
{
    if (until == UINT64_MAX) {
        pthread_cond_wait(&hasher->work, &hasher->mutex);
        return;
    }
    struct timespec t = {(time_t)(until / 1000000000), (long)(until % 1000000000)};
    (void)pthread_cond_timedwait(&hasher->work, &hasher->mutex, &t);
}

static void *worker_main(void *arg)
{
    fp__hasher *hasher = arg;
    batch b;
    pthread_setname_np(pthread_self(), "fp-hash");
    /* Advice: the token loop goes first. Whoever waits for a hash computes it itself. */
    (void)setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), LOWEST_PRIORITY);
    pthread_mutex_lock(&hasher->mutex);
    while (!hasher->stop) {
        uint64_t until = UINT64_MAX;
        if (!find_job(hasher, NULL, &until)) {
            wait_for_work(hasher, until);
            continue;
        }
        if (hasher->fault) {
            bool (*fault)(void *) = hasher->fault;
            void *fault_arg = hasher->fault_arg;
            pthread_mutex_unlock(&hasher->mutex);
            bool lives = fault(fault_arg);
            pthread_mutex_lock(&hasher->mutex);
            if (!lives)
                break;
        }
        fp__hash_job **link = find_job(hasher, NULL, &until);
        if (link) {
            take_jobs(hasher, link, NULL, &b);
            run_batch(hasher, &b);
        }
    }
    pthread_mutex_unlock(&hasher->mutex);
    return NULL;
}

/* Workers take no signals: they are for the threads of the program. */
static fp_status start_workers(fp__hasher *hasher)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int error = 0;
    for (size_t i = 0; i < hasher->workers && error == 0; i++) {
        error = pthread_create(&hasher->handles[i], NULL, worker_main, hasher);
        hasher->started += error == 0;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (error != 0)
        return fp__fail(FP_NO_MEMORY, "only %zu of %zu hash workers could be started; ask for fewer",
                        hasher->started, hasher->workers);
    return FP_OK;
}

fp_status fp__hasher_create(size_t workers, fp__hasher **out)
{
    if (workers > WORKERS_MAX)
        return fp__fail(FP_LIMIT, "%zu hash workers were asked for; at most %d are possible", workers,
                        (int)WORKERS_MAX);
    fp__hasher *hasher = calloc(1, sizeof *hasher);
    pthread_t *handles = calloc(workers ? workers : 1, sizeof *handles);
    if (!hasher || !handles) {
        free(hasher);
        free(handles);
        return fp__fail(FP_NO_MEMORY, "no memory for hash workers");
    }
    hasher->workers = workers;
    hasher->handles = handles;
    hasher->last = &hasher->first;
    pthread_mutex_init(&hasher->mutex, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&hasher->work, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_cond_init(&hasher->done, NULL);
    fp_status status = start_workers(hasher);
    if (status != FP_OK) {
        fp__hasher_destroy(hasher);
        return status;
    }
    *out = hasher;
    return FP_OK;
}

void fp__hasher_destroy(fp__hasher *hasher)
{
    if (!hasher)
        return;
    pthread_mutex_lock(&hasher->mutex);
    FP_CHECK(!hasher->first);
    hasher->stop = true;
    pthread_cond_broadcast(&hasher->work);
    pthread_mutex_unlock(&hasher->mutex);
    for (size_t i = 0; i < hasher->started; i++)
        pthread_join(hasher->handles[i], NULL);
    pthread_cond_destroy(&hasher->done);
    pthread_cond_destroy(&hasher->work);
    pthread_mutex_destroy(&hasher->mutex);
    free(hasher->handles);
    free(hasher);
}

size_t fp__hasher_workers(const fp__hasher *hasher)
{
    return hasher->workers;
}

void fp__hasher_submit(fp__hasher *hasher, fp__hash_job *job, fp__hash_owner *owner)
{
    job->owner = owner;
    job->next = NULL;
    pthread_mutex_lock(&hasher->mutex);
    owner->pending++;
    if (hasher->workers == 0) {
        batch alone = {.job = {job}, .owner = {owner}, .n = 1};
        run_batch(hasher, &alone);
    } else {
        *hasher->last = job;
        hasher->last = &job->next;
        if (job->pace)
            job->pace->waiting += job->size;
        pthread_cond_signal(&hasher->work);
    }
    pthread_mutex_unlock(&hasher->mutex);
}

static void wait_done(fp__hasher *hasher)
{
    hasher->waiters++;
    pthread_cond_wait(&hasher->done, &hasher->mutex);
    hasher->waiters--;
}

void fp__hasher_wait(fp__hasher *hasher, fp__hash_owner *owner)
{
    pthread_mutex_lock(&hasher->mutex);
    while (owner->pending > 0)
        if (!run_first(hasher, owner))
            wait_done(hasher);
    pthread_mutex_unlock(&hasher->mutex);
}

void fp__hasher_cancel(fp__hasher *hasher, fp__hash_owner *owner)
{
    pthread_mutex_lock(&hasher->mutex);
    for (fp__hash_job **link; (link = find_job(hasher, owner, NULL)); owner->pending--)
        unlink_job(hasher, link);
    while (owner->pending > 0)
        wait_done(hasher);
    pthread_mutex_unlock(&hasher->mutex);
}

void fp__hasher_set_fault(fp__hasher *hasher, bool (*fault)(void *arg), void *arg)
{
    pthread_mutex_lock(&hasher->mutex);
    hasher->fault = fault;
    hasher->fault_arg = arg;
    pthread_mutex_unlock(&hasher->mutex);
}

size_t fp__hasher_pending(fp__hasher *hasher, fp__hash_owner *owner)
{
    pthread_mutex_lock(&hasher->mutex);
    size_t pending = owner->pending;
    pthread_mutex_unlock(&hasher->mutex);
    return pending;
}
