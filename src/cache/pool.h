/* Page pool: a bounded number of page groups with reference counts.
 *
 * Memory is taken from the system in extents as it is needed and stays with the pool; pages that were never
 * used cost no memory. A group is handed out all zero. There is no copy on write: what is shared is sealed
 * and never written. Freed groups are poisoned under ASan. All functions are thread-safe; create and destroy
 * are not. */
#ifndef FP_CACHE_POOL_H
#define FP_CACHE_POOL_H
#include "cache/page.h"

/* Checksum of the first `slots` token slots of a slab (fp__page_checksum). */
typedef struct fp__slab_sum {
    uint64_t sum;
    size_t slots;
} fp__slab_sum;

/* One page group. `data` belongs to whoever holds a reference; it may be written by a sole holder only, until
 * it is sealed. The other fields are kept by the sequence that fills the page and are constant once `hashed`
 * was seen true after waiting for the hash worker. */
typedef struct fp__group {
    uint8_t *data;        /* [L][HK] slabs, 128-byte aligned */
    fp__slab_sum *sums;   // [L·HK]
    uint8_t *slab_leaves; // [L·HK][32], valid when hashed
    uint8_t root[32];     /* group root: tree over slab_leaves; valid when hashed */
    bool hashed;
    bool dirty;  /* pool's: must be zeroed before it is handed out again */
    size_t refs; /* pool's: guarded by its lock */
    struct fp__group *next_free;
} fp__group;

typedef struct fp__pool fp__pool;
typedef struct fp__pool_stats {
    size_t max_groups, used_groups, peak_groups; /* peak: most that were in use at once */
    size_t resident_bytes;                       /* memory of groups that were ever used */
} fp__pool_stats;

/* A pool of at most max_groups (≥ 1) groups; copies the geometry. */
fp_status fp__pool_create(const fp__page_geometry *g, size_t max_groups, fp__pool **out) FP_WARN_UNUSED;
void fp__pool_destroy(fp__pool *pool); /* every group must have been given back; NULL is fine */
const fp__page_geometry *fp__pool_geometry(const fp__pool *pool);
const fp__page_weights *fp__pool_weights(const fp__pool *pool);
fp__pool_stats fp__pool_stats_get(fp__pool *pool);

/* A zeroed group with one reference. FP_LIMIT when all max_groups are in use (the message names the tokens
 * they hold), FP_NO_MEMORY. */
fp_status fp__pool_take(fp__pool *pool, fp__group **out) FP_WARN_UNUSED;
void fp__pool_ref(fp__pool *pool, fp__group *group);
void fp__pool_unref(fp__pool *pool, fp__group *group);           /* NULL is fine; the last one frees it */
bool fp__pool_is_shared(fp__pool *pool, const fp__group *group); /* more than one reference */
#endif
