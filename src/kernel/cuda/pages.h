/* Write-time checksums of K/V pages, and dropping slots of a page: what cache/page.h does on the host, with
 * the same numbers.
 *
 * Asynchronous, no allocation; safe to capture (ranges and pages are then part of the graph). */
#ifndef FP_KERNEL_CUDA_PAGES_H
#define FP_KERNEL_CUDA_PAGES_H
#include <cuda_runtime_api.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

/* A pool of pages in device memory. d: a multiple of 8. */
typedef struct fp__cuda_pages {
    uint8_t *kv;    // [P][slabs][128·d + 256], 128-byte aligned
    uint64_t *sums; // [P][slabs]
    const uint64_t
        *weights; /* k_word [d/8], k_token [64], v_row [d], v_word [8], scale_k [64], scale_v [64] */
    uint32_t slabs, d;
} fp__cuda_pages;

/* Slots [first, end) of a page. */
typedef struct fp__cuda_slots {
    uint32_t page;
    uint16_t first, end;
} fp__cuda_slots;

#define FP__CUDA_SLOTS_MAX 256 /* ranges of one call: they travel with the launch */

/* sums[page][slab] += checksum of the slots, for each range (host memory, no page twice). One launch. */
cudaError_t fp__cuda_pages_sum(const fp__cuda_pages *pages, const fp__cuda_slots *ranges, uint32_t n,
                               cudaStream_t stream);
/* bad[i] = min(bad[i], slab) over the slabs of range i's page whose checksum of the slots is not sums[page]:
 * the caller sets bad to ffffffff first (device memory [n]). */
cudaError_t fp__cuda_pages_check(const fp__cuda_pages *pages, const fp__cuda_slots *ranges, uint32_t n,
                                 uint32_t *bad, cudaStream_t stream);
/* Page `to` (may be `from`) gets the first `slots` slots of page `from`, zeros in the others, and the
 * checksums of that. */
cudaError_t fp__cuda_pages_keep(const fp__cuda_pages *pages, uint32_t to, uint32_t from, uint32_t slots,
                                cudaStream_t stream);
#ifdef __cplusplus
}
#endif
#endif
