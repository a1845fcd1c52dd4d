/* The KV page: one layout is computed on, hashed, stored and sent (docs/formats: the KV page).
 *
 * Slab: 64 tokens of one layer and one KV head, 128·d + 256 bytes, 128-byte aligned:
 *   0          K    int8 [64 tokens][d]
 *   64·d       V    int8 [d][64 tokens]
 *   128·d      s_k  bfloat16 [64]
 *   128·d+128  s_v  bfloat16 [64]
 * Page group: the slabs of one page, [layer][kv head], contiguous: the unit of allocation, hashing and I/O.
 * Slots that no token was written to are zero bytes.
 *
 * The offset functions are plain arithmetic in size_t and are compiled for the host and for devices. */
#ifndef FP_CACHE_PAGE_H
#define FP_CACHE_PAGE_H
#include "core/error.h"
#include "exact/exact.h"

#if defined(__CUDACC__)
#define FP__HOST_DEVICE __host__ __device__
#else
#define FP__HOST_DEVICE
#endif

#define FP__ID_UNUSED UINT32_MAX /* token id of a slot that holds no token */

/* Shape of every page of a model, and the model's digest (all of it goes into the slab leaves). */
typedef struct fp__page_geometry {
    size_t layers, kv_heads, d;
    uint8_t model[32];
} fp__page_geometry;
/* FP_UNSUPPORTED unless 1 ≤ layers, kv_heads ≤ 65535, layers·kv_heads ≤ 2^20 and 1 ≤ d ≤ FP__HEAD_DIM_MAX. */
fp_status fp__page_geometry_check(const fp__page_geometry *g) FP_WARN_UNUSED;

/* Byte offset of the slab of (layer, kv head) in its page group. */
static inline FP__HOST_DEVICE size_t fp__page_slab_offset(size_t kv_heads, size_t d, size_t layer,
                                                          size_t kv_head)
{
    return (layer * kv_heads + kv_head) * (128 * d + 256);
}
static inline size_t fp__page_slabs(const fp__page_geometry *g)
{
    return g->layers * g->kv_heads;
}
static inline size_t fp__page_group_bytes(const fp__page_geometry *g)
{
    return fp__page_slabs(g) * fp__slab_bytes(g->d);
}

/* Zeroes token slots [first, first + n) of one slab. */
void fp__page_zero_slots(uint8_t *slab, size_t d, size_t first, size_t n);
/* Copies token slots [0, n) of one slab; the rest of `to` is zeroed. */
void fp__page_copy_slots(uint8_t *to, const uint8_t *from, size_t d, size_t n);

/* Write-time checksum of a slab: a linear form over its 64-bit words modulo 2^64 with odd weights. Being
 * linear, tokens can be added in any order, a token's share is computed from its own bytes alone, and any
 * single flipped bit changes it (2^b times an odd weight is not 0). It finds faults between write and seal;
 * it is not a commitment (anybody can compute it): that is the slab leaf. */
typedef struct fp__page_weights {
    size_t d;
    uint64_t k_word[(FP__HEAD_DIM_MAX + 7) / 8], k_token[64]; /* word i of token t: k_word[i] · k_token[t] */
    uint64_t v_row[FP__HEAD_DIM_MAX], v_word[8];              /* word w of row j: v_row[j] · v_word[w] */
    uint64_t scale_k[64], scale_v[64];
} fp__page_weights;
void fp__page_weights_init(fp__page_weights *w, size_t d);
/* Share of token slots [first, first + n) of the slab; the sum over all written slots is the slab's checksum.
 */
uint64_t fp__page_checksum(const fp__page_weights *w, const uint8_t *slab, size_t first, size_t n);
#endif
