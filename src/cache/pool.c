#include "cache/pool.h"
#include "core/bytes.h"

#include <pthread.h>
#include <stdlib.h>

enum { EXTENT_BYTES = 16 * 1024 * 1024 };

/* Groups that were added together. */
typedef struct extent {
    struct extent *next;
    fp__group *groups;    // [count]
    uint8_t *slab_leaves; // [count][L·HK][32]
    size_t count, used;   /* used: groups that were ever handed out */
} extent;

struct fp__pool {
    fp__store *store;
    size_t max_groups, created_groups;
    pthread_mutex_t mutex;
    extent *extents; /* the newest first: the only one that may have unused groups */
    fp__group *free;
    size_t used_groups, peak_groups, touched_groups;
};

fp_status fp__pool_create(const fp__page_geometry *g, size_t max_groups, fp__store *store, fp__pool **out)
{
    FP_TRY(fp__page_geometry_check(g));
    size_t total;
    if (max_groups == 0 || !fp__size_mul(max_groups, fp__page_group_bytes(g), &total))
        return fp__fail(FP_LIMIT, "a K/V pool of %zu pages is not possible; choose another context size",
                        max_groups);
    if (store && max_groups > store->max_groups)
        return fp__fail(FP_LIMIT, "a K/V pool of %zu pages in memory for %zu; choose a smaller context size",
                        max_groups, store->max_groups);
    FP_CHECK(!store || memcmp(&store->geometry, g, sizeof *g) == 0);
    fp__pool *pool = calloc(1, sizeof *pool);
    if (!pool)
        return fp__fail(FP_NO_MEMORY, "no memory for a K/V pool");
    fp_status status = store ? FP_OK : fp__store_host_create(g, &store);
    if (status != FP_OK) {
        free(pool);
        return status;
    }
    pool->store = store;
    pool->max_groups = max_groups;
    pthread_mutex_init(&pool->mutex, NULL);
    *out = pool;
    return FP_OK;
}

static void extent_free(extent *e)
{
    if (!e)
        return;
    free(e->slab_leaves);
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
        extent_free(e);
    }
    fp__store_destroy(pool->store);
    pthread_mutex_destroy(&pool->mutex);
    free(pool);
}

const fp__page_geometry *fp__pool_geometry(const fp__pool *pool)
{
    return &pool->store->geometry;
}

fp__store *fp__pool_store(const fp__pool *pool)
{
    return pool->store;
}

fp__pool_stats fp__pool_stats_get(fp__pool *pool)
{
    pthread_mutex_lock(&pool->mutex);
    fp__pool_stats stats = {.max_groups = pool->max_groups,
                            .used_groups = pool->used_groups,
                            .peak_groups = pool->peak_groups,
                            .resident_bytes = pool->touched_groups * pool->store->group_bytes};
    pthread_mutex_unlock(&pool->mutex);
    return stats;
}

/* Adds an extent in front; called with the lock held and fewer than max_groups created. */
static fp_status extent_add(fp__pool *pool)
{
    const fp__store *store = pool->store;
    size_t count = EXTENT_BYTES / store->group_bytes, left = pool->max_groups - pool->created_groups;
    count = count < 1 ? 1 : count;
    count = count < left ? count : left;
    extent *e = calloc(1, sizeof *e);
    if (e) {
        e->count = count;
        e->groups = calloc(count, sizeof *e->groups);
        e->slab_leaves = calloc(count * store->slabs, 32);
    }
    uint8_t *data;
    fp__slab_sum *sums;
    fp_status status =
        e && e->groups && e->slab_leaves
            ? fp__store_extend(pool->store, count, &data, &sums)
            : fp__fail(FP_NO_MEMORY, "no memory for the tables of %zu more pages of K/V", count);
    if (status != FP_OK) {
        extent_free(e);
        return status;
    }
    for (size_t i = 0; i < count; i++) {
        e->groups[i].data = data + i * store->group_bytes;
        e->groups[i].sums = sums ? sums + i * store->slabs : NULL;
        e->groups[i].slab_leaves = e->slab_leaves + i * store->slabs * 32;
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
    status = fp__store_take(pool->store, group);
    if (status != FP_OK) {
        fp__pool_unref(pool, group);
        return status;
    }
    group->dirty = true;
    group->hashed = false;
    group->summed = 0;
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
        fp__store_give(pool->store, group);
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
