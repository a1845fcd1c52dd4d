/* Where page groups live, and the work on their bytes.
 *
 * The pool counts groups and the sequences decide what happens to them; the bytes themselves are touched by a
 * store alone (and by the forward pass made for it). There are two: host memory (store_host.c) and the memory
 * of a GPU (cache/cuda/store_cuda.h). Both do the same to the bytes, bit for bit.
 *
 *   group    take · give · keep · map · unmap
 *   checks   sum (when slots are written) · check (against those sums) · hash (slab leaves)
 *
 * take, keep and sum may return before the work is done: whatever the store or its forward pass does later
 * to the same group comes after it. The others return when it is done. All are thread-safe on different
 * groups. They fail only where a device fails (FP_INTERNAL), or memory is out. */
#ifndef FP_CACHE_STORE_H
#define FP_CACHE_STORE_H
#include "cache/page.h"
#include <stdbool.h>

/* Checksum of the first `slots` token slots of a slab (fp__page_checksum). */
typedef struct fp__slab_sum {
    uint64_t sum;
    size_t slots;
} fp__slab_sum;

/* One page group. `data` is an address in the store's memory: of a host store it may be followed by whoever
 * holds a reference, and written by a sole holder until the page is sealed. The other fields are kept by the
 * pool, the store and the sequence that fills the page, and are constant once `hashed` was seen true after
 * waiting for the hash worker. */
typedef struct fp__group {
    uint8_t *data;        /* [L][HK] slabs, 128-byte aligned */
    fp__slab_sum *sums;   // [L·HK] host store; NULL: the store keeps them in its own memory
    size_t summed;        /* slots that the checksums of all slabs cover (single slabs may be ahead) */
    uint8_t *slab_leaves; // [L·HK][32], valid when hashed
    uint8_t root[32];     /* group root: tree over slab_leaves; valid when hashed */
    bool hashed;
    bool dirty;  /* pool's: must be zeroed before it is handed out again */
    size_t refs; /* pool's: guarded by its lock */
    struct fp__group *next_free;
} fp__group;

/* What a mapping is for. */
typedef enum fp__store_access {
    FP__STORE_READ = 1,
    FP__STORE_WRITE = 2,
    FP__STORE_BOTH = 3
} fp__store_access;

enum { FP__STORE_BATCH = 64 }; /* most groups of one call */

typedef struct fp__store fp__store;
typedef struct fp__store_ops {
    void (*destroy)(fp__store *store);
    fp_status (*extend)(fp__store *store, size_t count, uint8_t **data, fp__slab_sum **sums);
    fp_status (*take)(fp__store *store, fp__group *group);
    void (*give)(fp__store *store, fp__group *group);
    fp_status (*keep)(fp__store *store, fp__group *to, const fp__group *from, size_t slots);
    fp_status (*sum)(fp__store *store, fp__group *const *groups, const size_t *slots, size_t n,
                     size_t slab_begin, size_t slab_end);
    fp_status (*check)(fp__store *store, fp__group *const *groups, size_t n, bool written_only, size_t *bad);
    fp_status (*hash)(fp__store *store, fp__group *const *groups, size_t n, uint8_t *const *leaves);
    fp_status (*map)(fp__store *store, const fp__group *group, fp__store_access access, uint8_t **out);
    fp_status (*unmap)(fp__store *store, const fp__group *group, fp__store_access access, uint8_t *bytes);
} fp__store_ops;

/* Head of every store. */
struct fp__store {
    const fp__store_ops *ops;
    fp__page_geometry geometry;
    fp__page_weights weights;
    size_t slabs, slab_bytes, group_bytes;
    size_t max_groups; /* SIZE_MAX: as many as there is memory for */
    size_t batch;      /* groups that are best given to one call, 1 to FP__STORE_BATCH */
};

/* Host memory, taken from the system as extend asks for it; groups that nobody holds are poisoned under ASan.
 */
fp_status fp__store_host_create(const fp__page_geometry *g, fp__store **out) FP_WARN_UNUSED;
/* Groups for each of the jobs that `groups` are divided into, for as many threads. */
static inline size_t fp__store_job_groups(const fp__store *store, size_t groups, size_t threads)
{
    size_t each = (groups + threads - 1) / threads;
    return each < 1 ? 1 : each < store->batch ? each : store->batch;
}
/* Sets the head's fields; for stores. */
void fp__store_init(fp__store *store, const fp__store_ops *ops, const fp__page_geometry *g);

static inline void fp__store_destroy(fp__store *store) /* NULL is fine */
{
    if (store)
        store->ops->destroy(store);
}
/* Memory for `count` more groups, contiguous and zero: data [count][group_bytes], sums [count][L·HK] zero, or
 * NULL. One thread at a time; it stays with the store. */
FP_WARN_UNUSED static inline fp_status fp__store_extend(fp__store *store, size_t count, uint8_t **data,
                                                        fp__slab_sum **sums)
{
    return store->ops->extend(store, count, data, sums);
}
/* A group is handed out: its bytes and checksums become zero (if it is `dirty`; else they are). */
FP_WARN_UNUSED static inline fp_status fp__store_take(fp__store *store, fp__group *group)
{
    return store->ops->take(store, group);
}
/* Nobody holds it any more. */
static inline void fp__store_give(fp__store *store, fp__group *group)
{
    store->ops->give(store, group);
}
/* `to` (`from`, or another of the same store) gets the first `slots` slots of `from`, zeros in all others,
 * and the checksums of that. */
FP_WARN_UNUSED static inline fp_status fp__store_keep(fp__store *store, fp__group *to, const fp__group *from,
                                                      size_t slots)
{
    return store->ops->keep(store, to, from, slots);
}
/* Brings the write-time checksums of slabs [begin, end) of groups[i] to its first slots[i] slots; n is
 * not limited. Thread-safe on different slabs; `summed` follows when the range is all slabs, and a store may
 * leave smaller ranges to that call. */
FP_WARN_UNUSED static inline fp_status fp__store_sum(fp__store *store, fp__group *const *groups,
                                                     const size_t *slots, size_t n, size_t slab_begin,
                                                     size_t slab_end)
{
    return store->ops->sum(store, groups, slots, n, slab_begin, slab_end);
}
/* bad[i]: first slab of groups[i] whose bytes are not those of its checksums; L·HK: none. The checksum of
 * zeros is zero, so that checking all 64 slots also shows that those without a token are zero; after a failed
 * step they may not be, and `written_only` looks only at those that the checksums cover. */
FP_WARN_UNUSED static inline fp_status fp__store_check(fp__store *store, fp__group *const *groups, size_t n,
                                                       bool written_only, size_t *bad)
{
    return store->ops->check(store, groups, n, written_only, bad);
}
/* leaves[i][L·HK][32] ← slab leaves of groups[i] (fp__leaf_slab), in host memory. */
FP_WARN_UNUSED static inline fp_status fp__store_hash(fp__store *store, fp__group *const *groups, size_t n,
                                                      uint8_t *const *leaves)
{
    return store->ops->hash(store, groups, n, leaves);
}
/* The bytes of a group for the host: of a host store the group itself, else a copy, whose content is
 * unspecified unless `access` reads. unmap ends it; what was written goes to the group if its `access`
 * writes. A thread maps one group of a store at a time. Checksums stay as they are. */
FP_WARN_UNUSED static inline fp_status fp__store_map(fp__store *store, const fp__group *group,
                                                     fp__store_access access, uint8_t **out)
{
    return store->ops->map(store, group, access, out);
}
FP_WARN_UNUSED static inline fp_status fp__store_unmap(fp__store *store, const fp__group *group,
                                                       fp__store_access access, uint8_t *bytes)
{
    return store->ops->unmap(store, group, access, bytes);
}
/* Changes bits of one byte of the group at `data` (an entry of a block table), behind everybody's back: for
 * fault injection and tests. */
FP_WARN_UNUSED static inline fp_status fp__store_flip(fp__store *store, uint8_t *data, size_t byte,
                                                      uint8_t bits)
{
    fp__group group = {.data = data};
    uint8_t *bytes;
    FP_TRY(fp__store_map(store, &group, FP__STORE_BOTH, &bytes));
    bytes[byte] ^= bits;
    return fp__store_unmap(store, &group, FP__STORE_BOTH, bytes);
}
#endif
