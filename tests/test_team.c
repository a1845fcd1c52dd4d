/* core/team: runs, barriers and sleeping workers. Also run under ThreadSanitizer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/cpu.h"
#include "core/team.h"

#include <fenv.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { THREADS_MOST = 5, STEPS = 500 };

/* Plain memory on purpose: the barrier alone must order it (ThreadSanitizer reports it otherwise). */
typedef struct exchange {
    fp__team *team;
    uint64_t cells[2][THREADS_MOST]; // [parity of step][thread]
    uint64_t sums[THREADS_MOST];
} exchange;

/* Step after step, each thread writes a cell and, behind the barrier, reads everybody's. */
static void exchange_steps(void *arg, size_t thread, size_t threads)
{
    exchange *x = arg;
    for (uint64_t step = 0; step < STEPS; step++) {
        x->cells[step & 1][thread] = step * 10 + thread;
        fp__team_barrier(x->team);
        for (size_t i = 0; i < threads; i++)
            x->sums[thread] += x->cells[step & 1][i];
    }
}

static uint64_t exchange_sum(uint64_t threads)
{
    uint64_t steps = STEPS;
    return threads * 10 * (steps * (steps - 1) / 2) + steps * (threads * (threads - 1) / 2);
}

static void test_barrier(void **state)
{
    (void)state;
    for (size_t threads = 1; threads <= THREADS_MOST; threads++) {
        exchange x = {0};
        assert_int_equal(fp__team_create(threads, &x.team), FP_OK);
        assert_int_equal(fp__team_threads(x.team), threads);
        for (uint64_t runs = 1; runs <= 3; runs++) {
            fp__team_run(x.team, exchange_steps, &x);
            for (size_t i = 0; i < threads; i++)
                assert_true(x.sums[i] == runs * exchange_sum(threads));
        }
        fp__team_destroy(x.team);
    }
    fp__team_destroy(NULL);
}

typedef struct counts {
    uint64_t per_thread[THREADS_MOST];
    size_t threads;
    bool canonical[THREADS_MOST];
} counts;

static void count_run(void *arg, size_t thread, size_t threads)
{
    counts *c = arg;
    c->per_thread[thread]++;
    c->canonical[thread] = fp__fpenv_is_canonical();
    if (thread == 0)
        c->threads = threads;
}

/* Many short runs: the caller's plain writes between runs are seen by workers and back. */
static void test_many_runs(void **state)
{
    (void)state;
    for (size_t threads = 1; threads <= 4; threads++) {
        fp__team *team = NULL;
        counts c = {0};
        assert_int_equal(fp__team_create(threads, &team), FP_OK);
        for (uint64_t run = 1; run <= 2000; run++) {
            fp__team_run(team, count_run, &c);
            for (size_t i = 0; i < threads; i++) {
                assert_true(c.per_thread[i] == run && c.canonical[i]);
                c.canonical[i] = false;
            }
        }
        assert_int_equal(c.threads, threads);
        fp__team_destroy(team);
    }
}

/* Workers that went to sleep wake up, at gaps around the time they spin for. */
static void test_sleeping_workers(void **state)
{
    (void)state;
    fp__team *team = NULL;
    counts c = {0};
    assert_int_equal(fp__team_create(3, &team), FP_OK);
    uint64_t runs = 0;
    for (useconds_t gap = 0; gap < 30000; gap = gap < 800 ? gap + 100 : gap < 1300 ? gap + 7 : gap * 2) {
        usleep(gap);
        fp__team_run(team, count_run, &c);
        runs++;
        for (size_t i = 0; i < 3; i++)
            assert_true(c.per_thread[i] == runs);
    }
    usleep(5000);
    fp__team_destroy(team); /* while they sleep */
}

static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void test_idle_team_costs_nothing(void **state)
{
    (void)state;
    fp__team *team = NULL;
    counts c = {0};
    assert_int_equal(fp__team_create(4, &team), FP_OK);
    fp__team_run(team, count_run, &c);
    usleep(100 * 1000); /* time to fall asleep, on a busy machine too */
    double before = cpu_seconds();
    usleep(200 * 1000);
    assert_true(cpu_seconds() - before < 0.05);
    fp__team_destroy(team);
}

static void test_two_teams(void **state)
{
    (void)state;
    fp__team *a = NULL, *b = NULL;
    counts ca = {0}, cb = {0};
    assert_int_equal(fp__team_create(2, &a), FP_OK);
    assert_int_equal(fp__team_create(3, &b), FP_OK);
    for (uint64_t run = 1; run <= 200; run++) {
        fp__team_run(a, count_run, &ca);
        fp__team_run(b, count_run, &cb);
        assert_true(ca.per_thread[1] == run && cb.per_thread[2] == run);
    }
    fp__team_destroy(a);
    fp__team_destroy(b);
}

static void test_create_limits(void **state)
{
    (void)state;
    fp__team *team = NULL;
    assert_int_equal(fp__team_create(0, &team), FP_OK);
    assert_int_equal(fp__team_threads(team), fp__cpu_get()->cores < 1024 ? fp__cpu_get()->cores : 1024);
    fp__team_destroy(team);
    team = NULL;
    assert_int_equal(fp__team_create(100000, &team), FP_LIMIT);
    assert_null(team);
    assert_non_null(strstr(fp_error_detail(), "100000"));
}

static void test_floating_point_environment(void **state)
{
    (void)state;
    fp__team *team = NULL;
    assert_true(fp__fpenv_is_canonical());
    static const int modes[] = {FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO};
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(fesetround(modes[i]), 0);
        bool canonical = fp__fpenv_is_canonical();
        fp_status status = fp__team_create(2, &team);
        assert_int_equal(fesetround(FE_TONEAREST), 0);
        assert_false(canonical);
        assert_int_equal(status, FP_UNSUPPORTED);
    }
#if defined(__x86_64__)
    static const unsigned flush[] = {0x8000, 0x0040}; /* FTZ, DAZ */
    for (size_t i = 0; i < 2; i++) {
        unsigned before = _mm_getcsr();
        _mm_setcsr(before | flush[i]);
        bool canonical = fp__fpenv_is_canonical();
        _mm_setcsr(before);
        assert_false(canonical);
    }
#endif
    feraiseexcept(FE_INEXACT); /* sticky flags are no part of it */
    assert_true(fp__fpenv_is_canonical());
}

static void test_split(void **state)
{
    (void)state;
    for (size_t n = 0; n < 200; n += 7) {
        for (size_t unit = 1; unit <= 32; unit *= 2) {
            for (size_t threads = 1; threads <= 9; threads++) {
                size_t at = 0, least = SIZE_MAX, most = 0;
                for (size_t i = 0; i < threads; i++) {
                    size_t begin, end;
                    fp__team_split(n, unit, i, threads, &begin, &end);
                    assert_int_equal(begin, at);
                    assert_true(end >= begin && (end % unit == 0 || end == n));
                    size_t units = (end - begin + unit - 1) / unit;
                    least = units < least ? units : least;
                    most = units > most ? units : most;
                    at = end;
                }
                assert_int_equal(at, n);
                assert_true(most - least <= 1);
            }
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_barrier),
        cmocka_unit_test(test_many_runs),
        cmocka_unit_test(test_sleeping_workers),
        cmocka_unit_test(test_idle_team_costs_nothing),
        cmocka_unit_test(test_two_teams),
        cmocka_unit_test(test_create_limits),
        cmocka_unit_test(test_floating_point_environment),
        cmocka_unit_test(test_split),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
