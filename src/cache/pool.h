/* Page pool: a bounded number of page groups with reference counts.
 *
 * Memory is taken from the store in extents as it is needed and stays with it; in host memory, pages that
 * were never used cost nothing. A group is handed out all zero. There is no copy on write: what is shared is
 * sealed and never written. All functions are thread-safe; create and destroy are not. */
#ifndef FP_CACHE_POOL_H
#define FP_CACHE_POOL_H
#include "cache/store.h"

typedef struct fp__pool fp__pool;
typedef struct fp__pool_stats {
    size_t max_groups, used_groups, peak_groups; /* peak: most that were in use at once */
    size_t resident_bytes;                       /* memory of groups that were ever used */
} fp__pool_stats;

/* A pool of at most max_groups (≥ 1) groups in `store`, made for the same geometry, which becomes the pool's
 * on success; NULL: in host memory. FP_LIMIT: more than the store can hold. */
fp_status fp__pool_create(const fp__page_geometry *g, size_t max_groups, fp__store *store,
                          fp__pool **out) FP_WARN_UNUSED;
void fp__pool_destroy(fp__pool *pool); /* every group must have been given back; NULL is fine */
const fp__page_geometry *fp__pool_geometry(const fp__pool *pool);
fp__store *fp__pool_store(const fp__pool *pool);
fp__pool_stats fp__pool_stats_get(fp__pool *pool);

/* A zeroed group with one reference. FP_LIMIT when all max_groups are in use (the message names the tokens
 * they hold), FP_NO_MEMORY; FP_INTERNAL: the device failed. */
fp_status fp__pool_take(fp__pool *pool, fp__group **out) FP_WARN_UNUSED;
void fp__pool_ref(fp__pool *pool, fp__group *group);
void fp__pool_unref(fp__pool *pool, fp__group *group);           /* NULL is fine; the last one frees it */
bool fp__pool_is_shared(fp__pool *pool, const fp__group *group); /* more than one reference */
#endif
