/* The K/V of one segment (an anchor set, or the context) of one sequence: its block table and its
 * commitments.
 *
 * A step:  reserve(n) → threads write K/V of the new tokens on all layers into fp__kvseq_slab → commit(ids,
 * n). A page is sealed when its 64th token is committed, or, for anchors, when the next anchor starts: after
 * that it is never written again, and it is handed to the hash workers. The last page of the last anchor
 * stays open. The kv head commits to exactly the committed tokens: root of the tree of sealed page leaves,
 * and the open page's leaf.
 *
 * Anchors: several in one segment, each starting its own page; call fp__kvseq_start_anchor before each.
 * Positions count tokens, not slots, and run on from anchor to anchor.
 *
 * Labels: a page's label is the lowest of all that it attends to: the label of its last token's running
 * minimum over the segment, started from the label of what lies before the segment.
 *
 * One thread at a time per sequence, except where said. A finished anchor sequence may be read (view, ids,
 * pages) by any number of threads. */
#ifndef FP_CACHE_SEQUENCE_H
#define FP_CACHE_SEQUENCE_H
#include "cache/hasher.h"
#include "cache/leaf.h"
#include "cache/pool.h"
#include "fieldprint/anchor.h"
#include "kernel/attention.h"

typedef enum fp__segment { FP__SEGMENT_ANCHOR = 0, FP__SEGMENT_CONTEXT = 1 } fp__segment;

typedef struct fp__kvseq fp__kvseq;
typedef struct fp__kvseq_options {
    fp__segment segment;
    uint64_t first_pos;            /* position of the segment's first token */
    size_t max_tokens;             /* context size, ≥ 1; ≤ 2^31 */
    size_t max_anchors;            /* anchor segments: ≥ 1; context: 0 */
    const uint8_t *anchor_kv_head; /* context: [32] kv head of the anchor segment it attends to; NULL: none */
    fp_label label; /* lowest label of what lies before the segment; FP_LABEL_CORE: nothing does (anchors) */
} fp__kvseq_options;

/* pool and hasher must outlive it. Allocates the tables for max_tokens; pages are taken by reserve. */
fp_status fp__kvseq_create(fp__pool *pool, fp__hasher *hasher, const fp__kvseq_options *options,
                           fp__kvseq **out) FP_WARN_UNUSED;
void fp__kvseq_destroy(fp__kvseq *seq); /* safe while its pages are being hashed; NULL is fine */

/* ---- Writing ---- */
/* Makes room for n more tokens after the committed ones. FP_LIMIT: beyond max_tokens, or the pool is used up;
 * then nothing changed. */
fp_status fp__kvseq_reserve(fp__kvseq *seq, size_t n) FP_WARN_UNUSED;
/* Slab (an address in the store's memory) and slot of the i-th token after the committed ones (i below what
 * was reserved). Thread-safe between reserve and commit. */
uint8_t *fp__kvseq_slab(const fp__kvseq *seq, size_t i, size_t layer, size_t kv_head, size_t *slot);
/* Optional, for speed: takes the write-time checksum of the first n uncommitted tokens in slabs [begin, end)
 * (slab = layer·HK + kv_head), best by the thread that has just written them. Thread-safe on disjoint slabs.
 * commit takes it for what is left. */
void fp__kvseq_checksum(fp__kvseq *seq, size_t n, size_t slab_begin, size_t slab_end);
/* The same for the tokens of one step of several sequences of one pool, n[i] of seqs[i], and all slabs: for a
 * store on a device one call, behind the step in the forward pass's stream and before it is waited for. */
fp_status fp__kvseq_checksum_step(fp__kvseq *const *seqs, const size_t *n, size_t count) FP_WARN_UNUSED;
/* The first n reserved tokens are written on all layers. label: of these tokens' source (the running minimum
 * is kept here). Seals and submits full pages; never waits for a hash. */
fp_status fp__kvseq_commit(fp__kvseq *seq, const uint32_t *ids, size_t n, fp_label label) FP_WARN_UNUSED;
/* Anchor segments: seals the previous anchor's last page; the next token starts a page. FP_USAGE if the
 * previous anchor is empty; FP_LIMIT beyond max_anchors. */
fp_status fp__kvseq_start_anchor(fp__kvseq *seq) FP_WARN_UNUSED;
/* Keeps the first `tokens` committed tokens, drops and zeroes the rest together with everything reserved
 * (after a failed step: truncate(seq, fp__kvseq_tokens(seq))). The page with the boundary is open again; if
 * others share it, its kept tokens are copied to a page of its own. Anchors left without tokens are dropped.
 * Waits for this sequence's outstanding hashes. On failure that page is dropped too (ask fp__kvseq_tokens):
 * FP_MISMATCH, its bytes are not those that were written (page, layer and head named), or no room for a copy.
 */
fp_status fp__kvseq_truncate(fp__kvseq *seq, size_t tokens) FP_WARN_UNUSED;
/* Gives the empty sequence `dst` the first `tokens` committed tokens of src: sealed pages are shared, the
 * kept part of a last, partial page is copied. FP_USAGE unless segment, first position, starting label,
 * anchor head and pool are the same. Waits for src's outstanding hashes. */
fp_status fp__kvseq_share(fp__kvseq *dst, fp__kvseq *src, size_t tokens) FP_WARN_UNUSED;
/* The same with copies in dst's own pool, another one of the same geometry (a GPU's, or the host's). Sealed
 * pages are hashed where they arrive and compared with what src committed to; an open one is compared with
 * its checksums before: FP_MISMATCH names page, layer and head. On failure dst is empty. */
fp_status fp__kvseq_copy(fp__kvseq *dst, fp__kvseq *src, size_t tokens) FP_WARN_UNUSED;

/* Content for an empty sequence from elsewhere (an artifact). */
typedef struct fp__kvseq_content {
    const uint32_t *ids; // [tokens]
    size_t tokens;
    const uint32_t *anchor_tokens; // [anchors]; context: NULL
    size_t anchors;
    const uint8_t *page_labels; // [pages]; given to each token of the page
    fp__group *const *groups;   // [pages] hashed, with the checksums of their tokens
    size_t pages;
} fp__kvseq_content;
/* Takes it over; the references of the groups become the sequence's on success. FP_LIMIT: more than
 * max_tokens or max_anchors; FP_USAGE: not empty, or counts that contradict each other. */
fp_status fp__kvseq_adopt(fp__kvseq *seq, const fp__kvseq_content *content) FP_WARN_UNUSED;

/* ---- Commitments ---- */
/* kv head over the committed tokens; waits for outstanding hashes. FP_MISMATCH: a page's bytes at sealing
 * were not those that had been written; names page, layer and head. */
fp_status fp__kvseq_head(fp__kvseq *seq, uint8_t out[32]) FP_WARN_UNUSED;
/* Without waiting: sealed pages whose hash is not there yet, and FP_MISMATCH as above with *bad_page set.
 * Either pointer may be NULL. */
fp_status fp__kvseq_poll(fp__kvseq *seq, size_t *unverified_pages, size_t *bad_page) FP_WARN_UNUSED;
/* Scrub: hashes pages [first, first + n) again (on the workers and the caller) and compares with what was
 * committed; the open page with its checksum. FP_MISMATCH names the first page, layer and head that differ.
 */
fp_status fp__kvseq_verify(fp__kvseq *seq, size_t first_page, size_t pages) FP_WARN_UNUSED;
/* What a check of one page found. */
typedef struct fp__kv_check {
    size_t bad_slab; /* L·HK: every slab is as it was committed */
    bool bad_leaf;   /* block table, ids, label or hashes are not */
    bool store_failed;
} fp__kv_check;
/* The same for pages [first, first + n), n ≤ FP__STORE_BATCH, from any thread beside the token loop: `sealed`
 * of the sequence's pages were sealed, and their hashes there (fp__kvseq_poll says 0 are missing), when it
 * was asked for; none of them is truncated, and the open page (if it is among them) not written, meanwhile.
 * store_failed is set in out[0]. */
void fp__kvseq_check_pages(const fp__kvseq *seq, size_t first, size_t n, size_t sealed, fp__kv_check *out);
bool fp__kvseq_check_found(const fp__kvseq *seq, const fp__kv_check *check);
fp_status fp__kvseq_check_verdict(const fp__kvseq *seq, size_t p, const fp__kv_check *page) FP_WARN_UNUSED;
/* First page whose entry in the block table is not the address of its group: nothing may follow it. SIZE_MAX:
 * none. A comparison of pointers per page. */
size_t fp__kvseq_bad_entry(const fp__kvseq *seq);
/* Cheap check (no hash) of all pages against their write-time checksums; FP_MISMATCH as above. */
fp_status fp__kvseq_check_sums(fp__kvseq *seq) FP_WARN_UNUSED;
/* Compares the bytes of pages [first, first + n) of two sequences, which may lie in different stores (one was
 * computed again on another device). FP_MISMATCH names the first page, layer and head that differ; FP_USAGE:
 * not both have these pages with as many tokens. */
fp_status fp__kvseq_compare(const fp__kvseq *a, const fp__kvseq *b, size_t first_page,
                            size_t pages) FP_WARN_UNUSED;

/* ---- Reading ---- */
const fp__page_geometry *fp__kvseq_geometry(const fp__kvseq *seq);
fp__store *fp__kvseq_store(const fp__kvseq *seq); /* of its pool: where the bytes of its pages are */
size_t fp__kvseq_tokens(const fp__kvseq *seq);    /* committed */
size_t fp__kvseq_pages(const fp__kvseq *seq);     /* holding committed tokens */
size_t fp__kvseq_sealed(const fp__kvseq *seq);    /* of these, sealed */
size_t fp__kvseq_anchors(const fp__kvseq *seq);
size_t fp__kvseq_max_tokens(const fp__kvseq *seq);
uint64_t fp__kvseq_next_position(const fp__kvseq *seq); /* of the next token */
fp_label fp__kvseq_label(const fp__kvseq *seq);         /* lowest so far, or the starting label */
const fp__kvseq_options *fp__kvseq_options_get(const fp__kvseq *seq);
const uint32_t *fp__kvseq_ids(const fp__kvseq *seq);    // [tokens]
uint8_t *const *fp__kvseq_groups(const fp__kvseq *seq); // [pages and reserved pages] page groups
const uint8_t *fp__kvseq_filled(const fp__kvseq *seq);  // [pages] committed tokens of each page, 1..64
/* The segment as attention wants it. With new_tokens > 0: the committed tokens and new_tokens reserved ones,
 * which see each other causally (they belong to the current anchor); with 0: the committed tokens, nothing
 * causal. Valid until the next reserve, commit, truncate or start_anchor. */
void fp__kvseq_view(const fp__kvseq *seq, size_t new_tokens, fp__attn_segment *out);

typedef struct fp__kvseq_page {
    const fp__group *group;
    uint64_t first_pos;
    size_t first_token; /* index of its first token in ids */
    uint8_t visible, label;
    bool sealed;
} fp__kvseq_page;
void fp__kvseq_page_get(const fp__kvseq *seq, size_t page, fp__kvseq_page *out);
/* Tokens and label of an anchor (the label is the running minimum at its last token). */
void fp__kvseq_anchor_get(const fp__kvseq *seq, size_t anchor, size_t *first_page, size_t *tokens,
                          fp_label *label);
#endif
