#include "core/team.h"
#include "core/cpu.h"

#include <fenv.h>
#include <float.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

_Static_assert(FLT_EVAL_METHOD == 0, "canonical arithmetic needs binary32 evaluated as binary32");

enum {
    THREADS_MAX = 1024,
    CACHE_LINE = 128,          /* two lines of 64: adjacent-line prefetch makes them travel in pairs */
    SPINS_BEFORE_YIELD = 4096, /* some 100 µs: then the thread waited for has probably lost its core */
    SPINS_OVERCOMMITTED = 32,  /* more threads than cores: it has lost it for sure */
    IDLE_SPIN_NS =
        1000 * 1000, /* a worker spins this long for the next run (the gap between tokens), then sleeps */
};

struct fp__team {
    size_t threads;
    unsigned spins;         /* before a waiting thread yields */
    size_t started;         /* workers that exist */
    struct worker *workers; // [threads - 1]
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    atomic_uint sleepers;
    /* What to run: written by the caller before `generation` is bumped, read by workers after they saw it. */
    fp__team_fn *fn; /* NULL: end */
    void *arg;
    _Alignas(CACHE_LINE) atomic_uint generation;
    _Alignas(CACHE_LINE) atomic_size_t running; /* workers that have not finished the run */
    _Alignas(CACHE_LINE)
        atomic_uint_fast64_t arrived; /* barrier arrivals since creation; 64 bits never wrap */
};

struct worker {
    fp__team *team;
    size_t thread;
    pthread_t handle;
};

int fp__fpenv_is_canonical(void)
{
#if defined(__x86_64__)
    return (_mm_getcsr() & 0xe040u) == 0; /* FTZ, RC, DAZ */
#elif defined(__aarch64__)
    uint64_t fpcr;
    __asm__ volatile("mrs %0, fpcr" : "=r"(fpcr));
    return (fpcr & 0x01c00003u) == 0; /* FZ, RMode, AH, FIZ */
#else
    return fegetround() == FE_TONEAREST;
#endif
}

static inline void spin_pause(void)
{
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* One turn of a wait inside a run. */
static inline void spin_or_yield(const fp__team *team, unsigned *turns)
{
    if (*turns < team->spins) {
        ++*turns;
        spin_pause();
    } else {
        sched_yield();
    }
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Waits until the generation is no longer `seen`. */
static void worker_wait(fp__team *team, unsigned seen)
{
    uint64_t deadline = now_ns() + IDLE_SPIN_NS;
    do {
        for (unsigned i = 0; i < 64; i++) {
            if (atomic_load_explicit(&team->generation, memory_order_acquire) != seen)
                return;
            spin_pause();
        }
        if (team->spins == SPINS_OVERCOMMITTED)
            sched_yield();
    } while (now_ns() < deadline);
    /* The caller bumps the generation and then looks at `sleepers`; here it is the other way round. Both
     * orders are sequentially consistent, so at least one of the two sees the other and no wake-up is lost.
     */
    pthread_mutex_lock(&team->mutex);
    atomic_fetch_add(&team->sleepers, 1);
    while (atomic_load(&team->generation) == seen)
        pthread_cond_wait(&team->wake, &team->mutex);
    atomic_fetch_sub(&team->sleepers, 1);
    pthread_mutex_unlock(&team->mutex);
}

static void *worker_main(void *arg)
{
    const struct worker *self = arg;
    fp__team *team = self->team;
    char name[16];
    snprintf(name, sizeof name, "fp-team-%u", (unsigned)self->thread);
    pthread_setname_np(pthread_self(), name);
    for (unsigned seen = 0;; seen++) {
        worker_wait(team, seen);
        if (!team->fn)
            return NULL;
        FP_CHECK(fp__fpenv_is_canonical());
        team->fn(team->arg, self->thread, team->threads);
        atomic_fetch_sub_explicit(&team->running, 1, memory_order_release);
    }
}

/* Publishes fn and arg to the workers. */
static void team_start(fp__team *team, fp__team_fn *fn, void *arg)
{
    team->fn = fn;
    team->arg = arg;
    atomic_store_explicit(&team->running, team->started, memory_order_relaxed);
    atomic_fetch_add(&team->generation, 1);
    if (atomic_load(&team->sleepers) > 0) {
        pthread_mutex_lock(&team->mutex);
        pthread_cond_broadcast(&team->wake);
        pthread_mutex_unlock(&team->mutex);
    }
}

/* Workers take no signals: they are for the threads of the program. */
static fp_status start_workers(fp__team *team)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int error = 0;
    for (size_t i = 0; i + 1 < team->threads && error == 0; i++) {
        struct worker *w = &team->workers[i];
        *w = (struct worker){.team = team, .thread = i + 1};
        error = pthread_create(&w->handle, NULL, worker_main, w);
        team->started += error == 0;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (error != 0)
        return fp__fail(FP_NO_MEMORY, "only %zu of %zu threads could be started; ask for fewer threads",
                        team->started + 1, team->threads);
    return FP_OK;
}

fp_status fp__team_create(size_t threads, fp__team **out)
{
    size_t cores = fp__cpu_get()->cores;
    if (threads == 0)
        threads = cores < THREADS_MAX ? cores : THREADS_MAX;
    if (threads > THREADS_MAX)
        return fp__fail(FP_LIMIT, "%zu threads were asked for; at most %d are possible", threads,
                        (int)THREADS_MAX);
    if (!fp__fpenv_is_canonical())
        return fp__fail(FP_UNSUPPORTED,
                        "this thread flushes subnormal numbers or does not round to nearest; restore the "
                        "default floating-point environment (often set by -ffast-math) and try again");
    fp__team *team = aligned_alloc(CACHE_LINE, sizeof *team);
    struct worker *workers = calloc(threads, sizeof *workers);
    if (!team || !workers) {
        free(team);
        free(workers);
        return fp__fail(FP_NO_MEMORY, "no memory for a team of %zu threads", threads);
    }
    team->threads = threads;
    team->spins = threads > cores ? SPINS_OVERCOMMITTED : SPINS_BEFORE_YIELD;
    team->started = 0;
    team->workers = workers;
    team->fn = NULL;
    team->arg = NULL;
    pthread_mutex_init(&team->mutex, NULL);
    pthread_cond_init(&team->wake, NULL);
    atomic_init(&team->sleepers, 0);
    atomic_init(&team->generation, 0);
    atomic_init(&team->running, 0);
    atomic_init(&team->arrived, 0);
    fp_status status = start_workers(team);
    if (status != FP_OK) {
        fp__team_destroy(team);
        return status;
    }
    *out = team;
    return FP_OK;
}

void fp__team_destroy(fp__team *team)
{
    if (!team)
        return;
    team_start(team, NULL, NULL);
    for (size_t i = 0; i < team->started; i++)
        pthread_join(team->workers[i].handle, NULL);
    pthread_cond_destroy(&team->wake);
    pthread_mutex_destroy(&team->mutex);
    free(team->workers);
    free(team);
}

size_t fp__team_threads(const fp__team *team)
{
    return team->threads;
}

void fp__team_run(fp__team *team, fp__team_fn *fn, void *arg)
{
    FP_CHECK(fn && fp__fpenv_is_canonical());
    if (team->threads == 1) {
        fn(arg, 0, 1);
        return;
    }
    team_start(team, fn, arg);
    fn(arg, 0, team->threads);
    for (unsigned turns = 0; atomic_load_explicit(&team->running, memory_order_acquire) != 0;)
        spin_or_yield(team, &turns);
}

/* A sense-reversing barrier without the sense: arrivals are counted for ever, and a thread leaves when the
 * count has reached the end of its own round (Mellor-Crummey and Scott 1991 describe the centralised form).
 * Every arrival is a read-modify-write of one atomic, so whoever reads the last one has synchronised with
 * all. */
void fp__team_barrier(fp__team *team)
{
    if (team->threads == 1)
        return;
    uint_fast64_t before = atomic_fetch_add_explicit(&team->arrived, 1, memory_order_acq_rel);
    uint_fast64_t end = (before / team->threads + 1) * team->threads;
    for (unsigned turns = 0; atomic_load_explicit(&team->arrived, memory_order_acquire) < end;)
        spin_or_yield(team, &turns);
}
