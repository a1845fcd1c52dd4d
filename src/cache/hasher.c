#include "cache/hasher.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { WORKERS_MAX = 64, LOWEST_PRIORITY = 19 };

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

/* With the lock held, which is released while the job runs. */
static void run_job(fp__hasher *hasher, fp__hash_job *job)
{
    fp__hash_owner *owner = job->owner;
    pthread_mutex_unlock(&hasher->mutex);
    job->run(job);
    pthread_mutex_lock(&hasher->mutex);
    owner->pending--; /* from here on the job may be gone */
    if (hasher->waiters > 0)
        pthread_cond_broadcast(&hasher->done);
}

/* Takes the first job of `owner` (NULL: of anybody) out of the queue. */
static fp__hash_job *pop_job(fp__hasher *hasher, const fp__hash_owner *owner)
{
    fp__hash_job **link = &hasher->first;
    while (*link && owner && (*link)->owner != owner)
        link = &(*link)->next;
    fp__hash_job *job = *link;
    if (job) {
        *link = job->next;
        if (hasher->last == &job->next)
            hasher->last = link;
        job->next = NULL;
    }
    return job;
}

static void *worker_main(void *arg)
{
    fp__hasher *hasher = arg;
    pthread_setname_np(pthread_self(), "fp-hash");
    /* Advice: the token loop goes first. Whoever waits for a hash computes it itself. */
    (void)setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), LOWEST_PRIORITY);
    pthread_mutex_lock(&hasher->mutex);
    while (!hasher->stop) {
        if (hasher->first && hasher->fault) {
            bool (*fault)(void *) = hasher->fault;
            void *fault_arg = hasher->fault_arg;
            pthread_mutex_unlock(&hasher->mutex);
            bool lives = fault(fault_arg);
            pthread_mutex_lock(&hasher->mutex);
            if (!lives)
                break;
        }
        fp__hash_job *job = pop_job(hasher, NULL);
        if (job)
            run_job(hasher, job);
        else if (!hasher->stop)
            pthread_cond_wait(&hasher->work, &hasher->mutex);
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
    pthread_cond_init(&hasher->work, NULL);
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
        run_job(hasher, job);
    } else {
        *hasher->last = job;
        hasher->last = &job->next;
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
    while (owner->pending > 0) {
        fp__hash_job *job = pop_job(hasher, owner);
        if (job)
            run_job(hasher, job);
        else
            wait_done(hasher);
    }
    pthread_mutex_unlock(&hasher->mutex);
}

void fp__hasher_cancel(fp__hasher *hasher, fp__hash_owner *owner)
{
    pthread_mutex_lock(&hasher->mutex);
    while (pop_job(hasher, owner))
        owner->pending--;
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
