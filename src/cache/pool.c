#include "cache/pool.h"
#include "core/arena.h"
#include "core/bytes.h"

#include <pthread.h>
#include <stdlib.h>

#if defined(__SANITIZE_ADDRESS__)
#define POISON 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define POISON 1
#endif
#endif
#ifdef POISON
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#endif

enum { EXTENT_BYTES = 16 * 1024 * 1024 };

/* Groups that were allocated together. The kernel commits their memory when it is first touched. */
typedef struct extent {
    struct extent *next;
    fp__group *groups;    // [count]
    fp__slab_sum *sums;   // [count][L·HK]
    uint8_t *slab_leaves; // [count][L·HK][32]
    uint8_t *data;        // [count][group_bytes]
    size_t count, used;   /* used: groups that were ever handed out */
} extent;

struct fp__pool {
    fp__page_geometry geometry;
    fp__page_weights weights;
    size_t slabs, group_bytes, max_groups, created_groups;
    pthread_mutex_t mutex;
    extent *extents; /* the newest first: the only one that may have unused groups */
    fp__group *free;
    size_t used_groups, peak_groups, touched_groups;
};

fp_status fp__pool_create(const fp__page_geometry *g, size_t max_groups, fp__pool **out)
{
    FP_TRY(fp__page_geometry_check(g));
    size_t total;
    if (max_groups == 0 || !fp__size_mul(max_groups, fp__page_group_bytes(g), &total))
        return fp__fail(FP_LIMIT, "a K/V pool of %zu pages is not possible; choose another context size",
                        max_groups);
    fp__pool *pool = calloc(1, sizeof *pool);
    if (!pool)
        return fp__fail(FP_NO_MEMORY, "no memory for a K/V pool");
    pool->geometry = *g;
    fp__page_weights_init(&pool->weights, g->d);
    pool->slabs = fp__page_slabs(g);
    pool->group_bytes = fp__page_group_bytes(g);
    pool->max_groups = max_groups;
    pthread_mutex_init(&pool->mutex, NULL);
    *out = pool;
    return FP_OK;
}

static void extent_free(const fp__pool *pool, extent *e)
{
    if (!e)
        return;
    if (e->data)
        ASAN_UNPOISON_MEMORY_REGION(e->data, e->count * pool->group_bytes);
    fp__mem_free(e->data, e->count * pool->group_bytes);
    free(e->slab_leaves);
    free(e->sums);
    free(e->groups);
    free(e);
}

void fp__pool_destroy(fp__pool *pool)
{
    if (!pool)
        return;
    FP_CHECK(pool->used_groups == 0);
    for (extent *e = pool->extents, *next; e; e = next) {
        next = e->next;
        extent_free(pool, e);
    }
    pthread_mutex_destroy(&pool->mutex);
    free(pool);
}

const fp__page_geometry *fp__pool_geometry(const fp__pool *pool)
{
    return &pool->geometry;
}

const fp__page_weights *fp__pool_weights(const fp__pool *pool)
{
    return &pool->weights;
}

fp__pool_stats fp__pool_stats_get(fp__pool *pool)
{
    pthread_mutex_lock(&pool->mutex);
    fp__pool_stats stats = {.max_groups = pool->max_groups,
                            .used_groups = pool->used_groups,
                            .peak_groups = pool->peak_groups,
                            .resident_bytes = pool->touched_groups * pool->group_bytes};
    pthread_mutex_unlock(&pool->mutex);
    return stats;
}

/* Adds an extent in front; called with the lock held and fewer than max_groups created. */
static fp_status extent_add(fp__pool *pool)
{
    size_t count = EXTENT_BYTES / pool->group_bytes, left = pool->max_groups - pool->created_groups;
    count = count < 1 ? 1 : count;
    count = count < left ? count : left;
    extent *e = calloc(1, sizeof *e);
    if (e) {
        e->count = count;
        e->groups = calloc(count, sizeof *e->groups);
        e->sums = calloc(count * pool->slabs, sizeof *e->sums);
        e->slab_leaves = calloc(count * pool->slabs, 32);
        e->data = fp__mem_alloc(count * pool->group_bytes);
    }
    if (!e || !e->groups || !e->sums || !e->slab_leaves || !e->data) {
        extent_free(pool, e);
        return fp__fail(
            FP_NO_MEMORY,
            "no memory for %zu more pages of K/V (%zu bytes); close other programs or use a smaller context",
            count, count * pool->group_bytes);
    }
    ASAN_POISON_MEMORY_REGION(e->data, count * pool->group_bytes);
    for (size_t i = 0; i < count; i++) {
        e->groups[i].data = e->data + i * pool->group_bytes;
        e->groups[i].sums = e->sums + i * pool->slabs;
        e->groups[i].slab_leaves = e->slab_leaves + i * pool->slabs * 32;
    }
    e->next = pool->extents;
    pool->extents = e;
    pool->created_groups += count;
    return FP_OK;
}

static fp_status take_locked(fp__pool *pool, fp__group **out)
{
    if (pool->used_groups == pool->max_groups)
        return fp__fail(
            FP_LIMIT,
            "all %zu K/V pages (%zu tokens) are in use; raise the context size, shorten the text, or wait "
            "until another sequence ends",
            pool->max_groups, pool->max_groups * FP__PAGE_TOKENS);
    if (pool->free) {
        *out = pool->free;
        pool->free = (*out)->next_free;
    } else {
        if (!pool->extents || pool->extents->used == pool->extents->count)
            FP_TRY(extent_add(pool));
        *out = &pool->extents->groups[pool->extents->used++];
        pool->touched_groups++;
    }
    (*out)->refs = 1;
    pool->used_groups++;
    if (pool->peak_groups < pool->used_groups)
        pool->peak_groups = pool->used_groups;
    return FP_OK;
}

fp_status fp__pool_take(fp__pool *pool, fp__group **out)
{
    fp__group *group;
    pthread_mutex_lock(&pool->mutex);
    fp_status status = take_locked(pool, &group);
    pthread_mutex_unlock(&pool->mutex);
    if (status != FP_OK)
        return status;
    ASAN_UNPOISON_MEMORY_REGION(group->data, pool->group_bytes);
    if (group->dirty) { /* fresh memory is zero already, and touching it would commit it */
        memset(group->data, 0, pool->group_bytes);
        memset(group->sums, 0, pool->slabs * sizeof *group->sums);
    }
    group->dirty = true;
    group->hashed = false;
    group->next_free = NULL;
    *out = group;
    return FP_OK;
}

void fp__pool_ref(fp__pool *pool, fp__group *group)
{
    pthread_mutex_lock(&pool->mutex);
    FP_CHECK(group->refs > 0);
    group->refs++;
    pthread_mutex_unlock(&pool->mutex);
}

void fp__pool_unref(fp__pool *pool, fp__group *group)
{
    if (!group)
        return;
    pthread_mutex_lock(&pool->mutex);
    FP_CHECK(group->refs > 0);
    if (--group->refs == 0) {
        ASAN_POISON_MEMORY_REGION(group->data, pool->group_bytes);
        group->next_free = pool->free;
        pool->free = group;
        pool->used_groups--;
    }
    pthread_mutex_unlock(&pool->mutex);
}

bool fp__pool_is_shared(fp__pool *pool, const fp__group *group)
{
    pthread_mutex_lock(&pool->mutex);
    bool shared = group->refs > 1;
    pthread_mutex_unlock(&pool->mutex);
    return shared;
}
