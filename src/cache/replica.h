/* The same K/V in two stores: for computing pages again on another device, from bytes that were checked, and
 * comparing. */
#ifndef FP_CACHE_REPLICA_H
#define FP_CACHE_REPLICA_H
#include "cache/sequence.h"

/* Gives the empty sequence `dst`, of any pool of the same geometry, copies of the first `tokens` committed
 * tokens of src; a last partial page is open. Segment, first position, starting label and anchor head must be
 * the same (FP_USAGE). Sealed pages are hashed where they arrive and compared with what src committed to, the
 * last page with its checksums: FP_MISMATCH names page, layer and head. FP_LIMIT as fp__kvseq_reserve. Waits
 * for src's outstanding hashes. On failure dst is empty. */
fp_status fp__kvseq_copy(fp__kvseq *dst, fp__kvseq *src, size_t tokens) FP_WARN_UNUSED;

/* Compares the bytes of pages [first, first + pages) of two sequences of the same geometry. FP_MISMATCH names
 * the first page, layer and head that differ; FP_USAGE: not both have those pages with as many tokens. */
fp_status fp__kvseq_compare(fp__kvseq *a, fp__kvseq *b, size_t first_page, size_t pages) FP_WARN_UNUSED;
#endif
