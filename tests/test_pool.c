/* Page pool and hash workers. */
#include "kv_fixture.h"

#include <pthread.h>
#include <stdatomic.h>

static bool is_zero(const uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (p[i])
            return false;
    }
    return true;
}

static void test_take_and_reuse(void **state)
{
    (void)state;
    fp__page_geometry g = kv_geometry();
    size_t bytes = fp__page_group_bytes(&g);
    fp__pool *pool;
    KV_OK(fp__pool_create(&g, 3, NULL, &pool));
    assert_memory_equal(fp__pool_geometry(pool), &g, sizeof g);
    assert_int_equal(fp__pool_stats_get(pool).resident_bytes, 0);
    fp__group *groups[3], *more;
    for (int i = 0; i < 3; i++) {
        KV_OK(fp__pool_take(pool, &groups[i]));
        assert_int_equal((uintptr_t)groups[i]->data % 128, 0);
        assert_true(is_zero(groups[i]->data, bytes));
        memset(groups[i]->data, 0xa5, bytes);
        groups[i]->sums[5] = (fp__slab_sum){1, 2};
        groups[i]->hashed = true;
    }
    KV_FAIL(fp__pool_take(pool, &more), FP_LIMIT, "all 3 K/V pages (192 tokens)");
    assert_true(strstr(fp_error_detail(), "context size") != NULL);
    fp__pool_ref(pool, groups[1]);
    assert_true(fp__pool_is_shared(pool, groups[1]));
    fp__pool_unref(pool, groups[1]);
    assert_false(fp__pool_is_shared(pool, groups[1]));
    KV_FAIL(fp__pool_take(pool, &more), FP_LIMIT, "in use");
    fp__pool_unref(pool, groups[1]);
    fp__pool_unref(pool, NULL);
    KV_OK(fp__pool_take(pool, &more)); /* the freed one, clean */
    assert_ptr_equal(more, groups[1]);
    assert_true(is_zero(more->data, bytes));
    assert_false(more->hashed);
    assert_int_equal(more->sums[5].slots, 0);
    fp__pool_stats stats = fp__pool_stats_get(pool);
    assert_int_equal(stats.used_groups, 3);
    assert_int_equal(stats.peak_groups, 3);
    assert_int_equal(stats.resident_bytes, 3 * bytes);
    for (int i = 0; i < 3; i++)
        fp__pool_unref(pool, groups[i]);
    assert_int_equal(fp__pool_stats_get(pool).used_groups, 0);
    fp__pool_destroy(pool);
}

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
/* Pages that nobody holds cannot be read: not before their first use, not after their last. */
static void test_poison(void **state)
{
    (void)state;
    fp__page_geometry g = kv_geometry();
    fp__pool *pool;
    fp__group *a, *b;
    size_t bytes = fp__page_group_bytes(&g);
    KV_OK(fp__pool_create(&g, 3, NULL, &pool));
    KV_OK(fp__pool_take(pool, &a));
    const uint8_t *data = a->data;
    assert_null(__asan_region_is_poisoned(a->data, bytes));
    assert_ptr_equal(__asan_region_is_poisoned(a->data, bytes + 1), data + bytes);
    KV_OK(fp__pool_take(pool, &b));
    fp__pool_unref(pool, a);
    assert_int_equal(__asan_address_is_poisoned(data), 1);
    assert_int_equal(__asan_address_is_poisoned(data + bytes - 1), 1);
    assert_null(__asan_region_is_poisoned(b->data, bytes));
    fp__pool_unref(pool, b);
    fp__pool_destroy(pool);
}
#endif

static size_t resident_kib(void)
{
    FILE *f = fopen("/proc/self/status", "r");
    char line[256];
    size_t kib = 0;
    while (f && fgets(line, sizeof line, f))
        (void)sscanf(line, "VmRSS: %zu", &kib);
    if (f)
        fclose(f);
    return kib;
}

/* A large pool costs nothing until it is used: 64 GiB of pages here, of which 3 are touched. */
static void test_memory_follows_use(void **state)
{
    (void)state;
    fp__page_geometry g = {.layers = 30, .kv_heads = 3, .d = 64};
    fp__pool *pool;
    fp__group *groups[3];
    size_t before = resident_kib();
    KV_OK(fp__pool_create(&g, ((size_t)64 << 30) / fp__page_group_bytes(&g), NULL, &pool));
    for (int i = 0; i < 3; i++) {
        KV_OK(fp__pool_take(pool, &groups[i]));
        groups[i]->data[7] = 1;
    }
    assert_true(resident_kib() < before + 64 * 1024); /* one extent under a sanitizer that fills its heap */
    for (int i = 0; i < 3; i++)
        fp__pool_unref(pool, groups[i]);
    fp__pool_destroy(pool);
}

static void test_refusals(void **state)
{
    (void)state;
    fp__page_geometry g = kv_geometry();
    fp__pool *pool;
    fp__hasher *hasher;
    KV_FAIL(fp__pool_create(&g, 0, NULL, &pool), FP_LIMIT, "context size");
    KV_FAIL(fp__pool_create(&g, SIZE_MAX / 2, NULL, &pool), FP_LIMIT, "context size");
    g.d = 0;
    KV_FAIL(fp__pool_create(&g, 1, NULL, &pool), FP_UNSUPPORTED, "head size 0");
    KV_FAIL(fp__hasher_create(65, &hasher), FP_LIMIT, "at most 64");
}

/* ---- hash workers ---- */

typedef struct count_job {
    fp__hash_job job;
    size_t plain; /* written by the job, read after wait: ThreadSanitizer watches */
    atomic_size_t *total;
} count_job;

static void count_run(fp__hash_job *job)
{
    count_job *count = (count_job *)(void *)job;
    count->plain++;
    atomic_fetch_add(count->total, 1);
}

enum { JOBS = 200 };

static void run_jobs(fp__hasher *hasher)
{
    atomic_size_t total = 0;
    fp__hash_owner owner = {0};
    count_job *jobs = calloc(JOBS, sizeof *jobs);
    assert_non_null(jobs);
    for (size_t i = 0; i < JOBS; i++) {
        jobs[i] = (count_job){.job.run = count_run, .total = &total};
        fp__hasher_submit(hasher, &jobs[i].job, &owner);
    }
    fp__hasher_wait(hasher, &owner);
    assert_int_equal(atomic_load(&total), JOBS);
    assert_int_equal(fp__hasher_pending(hasher, &owner), 0);
    for (size_t i = 0; i < JOBS; i++)
        assert_int_equal(jobs[i].plain, 1);
    free(jobs);
}

static void test_jobs(void **state)
{
    (void)state;
    for (size_t workers = 0; workers <= 3; workers++) {
        fp__hasher *hasher;
        KV_OK(fp__hasher_create(workers, &hasher));
        assert_int_equal(fp__hasher_workers(hasher), workers);
        run_jobs(hasher);
        run_jobs(hasher);
        fp__hasher_destroy(hasher);
    }
}

/* Jobs are done or dropped when cancel returns, never later: their memory is freed at once. */
static void test_cancel(void **state)
{
    (void)state;
    fp__hasher *hasher;
    KV_OK(fp__hasher_create(2, &hasher));
    atomic_size_t other_total = 0;
    fp__hash_owner other = {0};
    count_job other_jobs[JOBS];
    for (size_t round = 0; round < 50; round++) {
        atomic_size_t total = 0;
        fp__hash_owner owner = {0};
        count_job *jobs = calloc(JOBS, sizeof *jobs);
        assert_non_null(jobs);
        for (size_t i = 0; i < JOBS; i++) {
            jobs[i] = (count_job){.job.run = count_run, .total = &total};
            other_jobs[i] = (count_job){.job.run = count_run, .total = &other_total};
            fp__hasher_submit(hasher, &jobs[i].job, &owner);
            fp__hasher_submit(hasher, &other_jobs[i].job, &other);
        }
        fp__hasher_cancel(hasher, &owner);
        size_t ran = atomic_load(&total), plain = 0;
        for (size_t i = 0; i < JOBS; i++)
            plain += jobs[i].plain;
        assert_int_equal(plain, ran);
        free(jobs);
        fp__hasher_wait(hasher, &other);
        assert_int_equal(atomic_load(&other_total),
                         JOBS * (round + 1)); /* another owner's jobs are untouched */
    }
    fp__hasher_destroy(hasher);
}

static void *submitter(void *hasher)
{
    for (int i = 0; i < 20; i++)
        run_jobs(hasher);
    return NULL;
}

static void test_many_submitters(void **state)
{
    (void)state;
    fp__hasher *hasher;
    KV_OK(fp__hasher_create(2, &hasher));
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, submitter, hasher), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    fp__hasher_destroy(hasher);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_take_and_reuse),
        cmocka_unit_test(test_memory_follows_use),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_jobs),
#if defined(__SANITIZE_ADDRESS__)
        cmocka_unit_test(test_poison),
#endif
        cmocka_unit_test(test_cancel),
        cmocka_unit_test(test_many_submitters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
