#include "cache/leaf.h"
#include "cache/store.h"
#include "core/arena.h"

#include <stdlib.h>
#include <string.h>

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

enum { TOKENS = FP__PAGE_TOKENS };

/* Groups that were allocated together. The kernel commits their memory when it is first touched. */
typedef struct extent {
    struct extent *next;
    uint8_t *data; // [bytes]
    size_t bytes;
    fp__slab_sum *sums;
} extent;

typedef struct host_store {
    fp__store head; /* first */
    extent *extents;
} host_store;

static void extent_free(extent *e)
{
    if (e->data)
        ASAN_UNPOISON_MEMORY_REGION(e->data, e->bytes);
    fp__mem_free(e->data, e->bytes);
    free(e->sums);
    free(e);
}

static void host_destroy(fp__store *store)
{
    host_store *host = (host_store *)(void *)store;
    for (extent *e = host->extents, *next; e; e = next) {
        next = e->next;
        extent_free(e);
    }
    free(host);
}

static fp_status host_extend(fp__store *store, size_t count, uint8_t **data, fp__slab_sum **sums)
{
    host_store *host = (host_store *)(void *)store;
    extent *e = calloc(1, sizeof *e);
    if (e) {
        e->bytes = count * store->group_bytes;
        e->sums = calloc(count * store->slabs, sizeof *e->sums);
        e->data = fp__mem_alloc(e->bytes);
    }
    if (!e || !e->sums || !e->data) {
        if (e)
            extent_free(e);
        return fp__fail(
            FP_NO_MEMORY,
            "no memory for %zu more pages of K/V (%zu bytes); close other programs or use a smaller context",
            count, count * store->group_bytes);
    }
    ASAN_POISON_MEMORY_REGION(e->data, e->bytes);
    e->next = host->extents;
    host->extents = e;
    *data = e->data;
    *sums = e->sums;
    return FP_OK;
}

static fp_status host_take(fp__store *store, fp__group *group)
{
    ASAN_UNPOISON_MEMORY_REGION(group->data, store->group_bytes);
    if (group->dirty) { /* fresh memory is zero already, and touching it would commit it */
        memset(group->data, 0, store->group_bytes);
        memset(group->sums, 0, store->slabs * sizeof *group->sums);
    }
    return FP_OK;
}

static void host_give(fp__store *store, fp__group *group)
{
    ASAN_POISON_MEMORY_REGION(group->data, store->group_bytes);
    (void)store;
}

static fp_status host_keep(fp__store *store, fp__group *to, const fp__group *from, size_t slots)
{
    size_t d = store->geometry.d;
    for (size_t s = 0; s < store->slabs; s++) {
        uint8_t *slab = to->data + s * store->slab_bytes;
        if (to == from)
            fp__page_zero_slots(slab, d, slots, TOKENS - slots);
        else
            fp__page_copy_slots(slab, from->data + s * store->slab_bytes, d, slots);
        to->sums[s] = (fp__slab_sum){fp__page_checksum(&store->weights, slab, 0, slots), slots};
    }
    to->summed = slots;
    return FP_OK;
}

static fp_status host_sum(fp__store *store, fp__group *const *groups, const size_t *slots, size_t n,
                          size_t slab_begin, size_t slab_end)
{
    for (size_t i = 0; i < n; i++) {
        for (size_t s = slab_begin; s < slab_end; s++) {
            fp__slab_sum *sum = &groups[i]->sums[s];
            if (sum->slots < slots[i]) {
                sum->sum += fp__page_checksum(&store->weights, groups[i]->data + s * store->slab_bytes,
                                              sum->slots, slots[i] - sum->slots);
                sum->slots = slots[i];
            }
        }
        if (slab_begin == 0 && slab_end == store->slabs && groups[i]->summed < slots[i])
            groups[i]->summed = slots[i];
    }
    return FP_OK;
}

static fp_status host_check(fp__store *store, fp__group *const *groups, size_t n, bool written_only,
                            size_t *bad)
{
    for (size_t i = 0; i < n; i++) {
        size_t s = 0;
        for (; s < store->slabs; s++) {
            const fp__slab_sum *sum = &groups[i]->sums[s];
            if (fp__page_checksum(&store->weights, groups[i]->data + s * store->slab_bytes, 0,
                                  written_only ? sum->slots : TOKENS) != sum->sum)
                break;
        }
        bad[i] = s;
    }
    return FP_OK;
}

static fp_status host_hash(fp__store *store, fp__group *const *groups, size_t n, uint8_t *const *leaves)
{
    size_t heads = store->geometry.kv_heads;
    for (size_t i = 0; i < n; i++)
        for (size_t s = 0; s < store->slabs; s++)
            fp__leaf_slab(&store->geometry, s / heads, s % heads, groups[i]->data + s * store->slab_bytes,
                          leaves[i] + 32 * s);
    return FP_OK;
}

static fp_status host_map(fp__store *store, const fp__group *group, fp__store_access access, uint8_t **out)
{
    (void)store;
    (void)access;
    *out = group->data;
    return FP_OK;
}

static fp_status host_unmap(fp__store *store, const fp__group *group, fp__store_access access, uint8_t *bytes)
{
    (void)store;
    (void)group;
    (void)access;
    (void)bytes;
    return FP_OK;
}

void fp__store_init(fp__store *store, const fp__store_ops *ops, const fp__page_geometry *g)
{
    store->ops = ops;
    store->geometry = *g;
    fp__page_weights_init(&store->weights, g->d);
    store->slabs = fp__page_slabs(g);
    store->slab_bytes = fp__slab_bytes(g->d);
    store->group_bytes = fp__page_group_bytes(g);
    store->max_groups = SIZE_MAX;
    store->batch = 1;
}

fp_status fp__store_host_create(const fp__page_geometry *g, fp__store **out)
{
    static const fp__store_ops ops = {.destroy = host_destroy,
                                      .extend = host_extend,
                                      .take = host_take,
                                      .give = host_give,
                                      .keep = host_keep,
                                      .sum = host_sum,
                                      .check = host_check,
                                      .hash = host_hash,
                                      .map = host_map,
                                      .unmap = host_unmap};
    FP_TRY(fp__page_geometry_check(g));
    host_store *host = calloc(1, sizeof *host);
    if (!host)
        return fp__fail(FP_NO_MEMORY, "no memory for a K/V pool");
    fp__store_init(&host->head, &ops, g);
    *out = &host->head;
    return FP_OK;
}
