/* Page groups in the memory of a GPU (cache/store.h): one allocation, so that a page's number (what attention
 * and the forward pass call a page) is its place in it. Built where a CUDA compiler was found; includable
 * from plain C without CUDA's headers.
 *
 * Order. There is one writer: the stream of the forward pass that this store was given (set_writer). All that
 * changes bytes is done in that stream: zeroing what take hands out, keep, the forward pass itself. The
 * write-time checksums come after it, in a stream beside it; a thread of the store launches them. So a thread
 * that enqueues a step and then fp__kvseq_checksum_step (or commits) need not wait in between, nor for a
 * launch. What only looks (check, hash, mapping) runs in low-priority streams of the store's own, behind the
 * writer's last take, keep or sum, and returns when it is done, so that it can stand beside the steps that
 * follow; it is meant for hash workers. Digests and flags are all that comes to the host, but for a mapping.
 * What is written through a mapping is in device memory when unmap returns.
 */
#ifndef FP_CACHE_CUDA_STORE_CUDA_H
#define FP_CACHE_CUDA_STORE_CUDA_H
#include "cache/store.h"

/* Most groups that the device has memory for just now, some memory left for work. FP_UNSUPPORTED: no GPU. */
fp_status fp__store_cuda_room(const fp__page_geometry *g, size_t *groups) FP_WARN_UNUSED;
/* Room for max_groups, zeroed, on the current device. FP_NO_MEMORY: says how many tokens would fit.
 * FP_UNSUPPORTED: no GPU, L·HK > 4096, or a head size that is not a multiple of 8. */
fp_status fp__store_cuda_create(const fp__page_geometry *g, size_t max_groups,
                                fp__store **out) FP_WARN_UNUSED;
/* First group. Page number of a group: (group->data - base) / group_bytes, below max_groups. */
uint8_t *fp__store_cuda_base(const fp__store *store);
static inline uint32_t fp__store_cuda_page(const fp__store *store, const uint8_t *data)
{
    return (uint32_t)((size_t)(data - fp__store_cuda_base(store)) / store->group_bytes);
}
/* The cudaStream_t of the forward pass that writes into this store. It must stay until the store is destroyed
 * or has another; NULL: back to the store's own. Waits for what is under way. Not while the store is used. */
fp_status fp__store_cuda_set_writer(fp__store *store, void *stream) FP_WARN_UNUSED;
#endif
