#include "cache/sequence.h"
#include "core/bytes.h"
#include "merkle/tree.h"

#include <stdatomic.h>
#include <stdlib.h>

enum { TOKENS = FP__PAGE_TOKENS };
#define TOKENS_MAX ((size_t)1 << 31)
#define NO_PAGE SIZE_MAX

typedef struct page_entry {
    fp__hash_job job; /* first: the job is the page */
    fp__kvseq *seq;
    fp__group *group;
    size_t index, first_token;
    size_t run;       /* the job: to seal this page and the run - 1 after it */
    uint8_t leaf[32]; /* valid when sealed, hashed and not failed */
    size_t bad_slab;  /* when failed; L·HK: the store failed */
} page_entry;

typedef struct anchor_entry {
    size_t first_page, first_token;
} anchor_entry;

struct fp__kvseq {
    fp__pool *pool;
    fp__store *store; /* the pool's */
    fp__hasher *hasher;
    const fp__page_geometry *geometry;
    fp__kvseq_options options;
    uint8_t anchor_kv_head[32]; /* what options.anchor_kv_head points to, if not NULL */
    size_t slabs, max_pages;

    size_t tokens, pages, sealed; /* committed tokens, pages with such, sealed pages (the first ones) */
    size_t taken;                 /* pages with a group: the committed and the reserved ones */
    size_t anchors;
    size_t base_page, base_token; /* where the current anchor (or the context) starts */

    page_entry *page;     // [max_pages]
    uint8_t **groups;     // [max_pages]
    uint8_t *filled;      // [max_pages]
    uint32_t *ids;        // [max_tokens]
    uint8_t *labels;      // [max_tokens] running minimum
    anchor_entry *anchor; // [max_anchors]

    fp__hash_owner owner;
    fp__merkle_frontier frontier; /* leaves of the first frontier.size sealed pages */
    atomic_size_t unhashed;       /* sealed pages whose job has not ended */
    atomic_size_t failed_page;    /* lowest page whose bytes were not what had been written; NO_PAGE: none */
};

/* ---- creation ---- */

static size_t pages_of(size_t tokens)
{
    return (tokens + TOKENS - 1) / TOKENS;
}

static fp_status check_options(const fp__kvseq_options *o)
{
    bool anchors = o->segment == FP__SEGMENT_ANCHOR;
    if (o->max_tokens < 1 || o->max_tokens > TOKENS_MAX)
        return fp__fail(FP_LIMIT, "a context of %zu tokens is not possible; choose 1 to %zu", o->max_tokens,
                        TOKENS_MAX);
    if ((o->max_anchors > 0) != anchors || o->max_anchors > o->max_tokens || (anchors && o->anchor_kv_head))
        return fp__fail(FP_USAGE, "an anchor segment needs room for 1 or more anchors, a context for none");
    if ((unsigned)o->label >= FP_LABEL_COUNT || (anchors && o->label != FP_LABEL_CORE) ||
        o->first_pos > INT64_MAX)
        return fp__fail(FP_USAGE, "label %d or first position is out of range", (int)o->label);
    return FP_OK;
}

fp_status fp__kvseq_create(fp__pool *pool, fp__hasher *hasher, const fp__kvseq_options *options,
                           fp__kvseq **out)
{
    FP_TRY(check_options(options));
    fp__kvseq *seq = calloc(1, sizeof *seq);
    if (!seq)
        return fp__fail(FP_NO_MEMORY, "no memory for a sequence");
    seq->pool = pool;
    seq->store = fp__pool_store(pool);
    seq->hasher = hasher;
    seq->geometry = fp__pool_geometry(pool);
    seq->options = *options;
    if (options->anchor_kv_head) {
        memcpy(seq->anchor_kv_head, options->anchor_kv_head, 32);
        seq->options.anchor_kv_head = seq->anchor_kv_head;
    }
    seq->slabs = fp__page_slabs(seq->geometry);
    seq->max_pages = pages_of(options->max_tokens) + options->max_anchors;
    seq->page = calloc(seq->max_pages, sizeof *seq->page);
    seq->groups = calloc(seq->max_pages, sizeof *seq->groups);
    seq->filled = calloc(seq->max_pages, 1);
    seq->ids = calloc(options->max_tokens, sizeof *seq->ids);
    seq->labels = calloc(options->max_tokens, 1);
    seq->anchor = calloc(options->max_anchors + 1, sizeof *seq->anchor);
    atomic_init(&seq->unhashed, 0);
    atomic_init(&seq->failed_page, NO_PAGE);
    if (!seq->page || !seq->groups || !seq->filled || !seq->ids || !seq->labels || !seq->anchor) {
        fp__kvseq_destroy(seq);
        return fp__fail(FP_NO_MEMORY, "no memory for a sequence of %zu tokens; use a smaller context",
                        options->max_tokens);
    }
    for (size_t p = 0; p < seq->max_pages; p++)
        seq->page[p] = (page_entry){.seq = seq, .index = p};
    *out = seq;
    return FP_OK;
}

/* Gives pages [first, taken) back. */
static void drop_pages(fp__kvseq *seq, size_t first)
{
    for (size_t p = first; p < seq->taken; p++) {
        fp__pool_unref(seq->pool, seq->page[p].group);
        seq->page[p].group = NULL;
        seq->groups[p] = NULL;
        seq->filled[p] = 0;
    }
    if (seq->taken > first)
        seq->taken = first;
}

/* Back to the empty sequence. */
static void drop_all(fp__kvseq *seq)
{
    drop_pages(seq, 0);
    seq->tokens = seq->pages = seq->sealed = seq->anchors = seq->base_page = seq->base_token = 0;
    seq->frontier = (fp__merkle_frontier){0};
}

void fp__kvseq_destroy(fp__kvseq *seq)
{
    if (!seq)
        return;
    fp__hasher_cancel(seq->hasher, &seq->owner);
    drop_pages(seq, 0);
    free(seq->anchor);
    free(seq->labels);
    free(seq->ids);
    free(seq->filled);
    free(seq->groups);
    free(seq->page);
    free(seq);
}

/* ---- checksums and messages ---- */

/* First slab whose bytes are not those of its write-time checksum (fp__store_check); L·HK if there is none.
 */
static fp_status first_bad_slab(const fp__kvseq *seq, fp__group *group, bool written_only, size_t *bad)
{
    return fp__store_check(seq->store, &group, 1, written_only, bad);
}

static const char *segment_name(const fp__kvseq *seq)
{
    return seq->options.segment == FP__SEGMENT_ANCHOR ? "anchor" : "context";
}

static fp_status fail_slab(const fp__kvseq *seq, size_t p, size_t slab, const char *what)
{
    return fp__fail(FP_MISMATCH,
                    "K/V bytes of %s page %zu, layer %zu, head %zu %s; discard the page and compute it again",
                    segment_name(seq), p, slab / seq->geometry->kv_heads, slab % seq->geometry->kv_heads,
                    what);
}

static const char *const CHANGED_BEFORE_SEAL = "changed between writing and sealing";

static fp_status check_failed_page(const fp__kvseq *seq)
{
    size_t p = atomic_load_explicit(&seq->failed_page, memory_order_acquire);
    if (p == NO_PAGE)
        return FP_OK;
    if (seq->page[p].bad_slab == seq->slabs)
        return fp__fail(FP_INTERNAL,
                        "%s page %zu could not be hashed where it lies; discard the page and compute it "
                        "again, and check the device",
                        segment_name(seq), p);
    return fail_slab(seq, p, seq->page[p].bad_slab, CHANGED_BEFORE_SEAL);
}

/* ---- sealing ---- */

static void page_leaf(const fp__kvseq *seq, size_t p, bool open, const uint8_t group_root[32],
                      uint8_t out[32])
{
    const page_entry *page = &seq->page[p];
    size_t visible = seq->filled[p], first = page->first_token;
    fp__leaf_page(&(fp__page_leaf){.page = p,
                                   .first_pos = seq->options.first_pos + first,
                                   .segment = (uint8_t)seq->options.segment,
                                   .open = open,
                                   .label = seq->labels[first + visible - 1],
                                   .visible = (uint8_t)visible,
                                   .anchor_kv_head = seq->options.anchor_kv_head,
                                   .group_root = group_root,
                                   .ids = seq->ids + first},
                  out);
}

static void note_failed_page(fp__kvseq *seq, size_t p)
{
    size_t old = atomic_load_explicit(&seq->failed_page, memory_order_relaxed);
    while (p < old && !atomic_compare_exchange_weak_explicit(&seq->failed_page, &old, p, memory_order_acq_rel,
                                                             memory_order_relaxed))
        ;
}

/* Ends the sealing of page p, whose slab leaves are there if `bad_slab` is L·HK and the store did not fail.
 */
static void end_seal(fp__kvseq *seq, size_t p, size_t bad_slab, bool failed)
{
    page_entry *page = &seq->page[p];
    fp__group *group = page->group;
    if (failed || bad_slab < seq->slabs) {
        page->bad_slab = bad_slab;
        note_failed_page(seq, p);
        return;
    }
    fp__merkle_root(group->slab_leaves, seq->slabs, group->root);
    group->hashed = true;
    page_leaf(seq, p, false, group->root, page->leaf);
}

/* On a hash worker. The pages are sealed: nobody writes what is read here. */
static void run_seal(fp__hash_job *job)
{
    page_entry *page = (page_entry *)(void *)job;
    fp__kvseq *seq = page->seq;
    fp__group *groups[FP__STORE_BATCH];
    uint8_t *leaves[FP__STORE_BATCH];
    size_t bad[FP__STORE_BATCH], n = page->run;
    FP_CHECK(n > 0);
    for (size_t i = 0; i < n; i++) {
        groups[i] = page[i].group;
        leaves[i] = groups[i]->slab_leaves;
        bad[i] = seq->slabs;
    }
    /* In this order: bytes that change before they are hashed fail the check, later ones the next hash. */
    bool failed = fp__store_hash(seq->store, groups, n, leaves) != FP_OK ||
                  fp__store_check(seq->store, groups, n, false, bad) != FP_OK;
    for (size_t i = 0; i < n; i++)
        end_seal(seq, page->index + i, bad[i], failed);
    atomic_fetch_sub_explicit(&seq->unhashed, n, memory_order_release);
}

/* Pages up to `end` are full, or the next anchor starts after them. */
static void seal_pages(fp__kvseq *seq, size_t end)
{
    while (seq->sealed < end) {
        page_entry *page = &seq->page[seq->sealed];
        size_t left = end - seq->sealed;
        FP_CHECK(seq->filled[seq->sealed] > 0);
        page->run = left < seq->store->batch ? left : seq->store->batch;
        page->job.run = run_seal;
        seq->sealed += page->run;
        atomic_fetch_add_explicit(&seq->unhashed, page->run, memory_order_relaxed);
        fp__hasher_submit(seq->hasher, &page->job, &seq->owner);
    }
}

/* ---- writing ---- */

fp_status fp__kvseq_reserve(fp__kvseq *seq, size_t n)
{
    if (seq->options.segment == FP__SEGMENT_ANCHOR && seq->anchors == 0)
        return fp__fail(FP_USAGE, "no anchor was started in this segment");
    if (n > seq->options.max_tokens - seq->tokens)
        return fp__fail(
            FP_LIMIT,
            "%zu tokens do not fit: %zu of %zu of the context are used; raise the context size or shorten "
            "the text",
            n, seq->tokens, seq->options.max_tokens);
    size_t need = seq->base_page + pages_of(seq->tokens - seq->base_token + n), before = seq->taken;
    FP_CHECK(need <= seq->max_pages);
    for (size_t p = before; p < need; p++) {
        fp_status status = fp__pool_take(seq->pool, &seq->page[p].group);
        if (status != FP_OK) {
            drop_pages(seq, before);
            return status;
        }
        seq->groups[p] = seq->page[p].group->data;
        seq->page[p].first_token = seq->base_token + (p - seq->base_page) * TOKENS;
        seq->taken = p + 1;
    }
    return FP_OK;
}

uint8_t *fp__kvseq_slab(const fp__kvseq *seq, size_t i, size_t layer, size_t kv_head, size_t *slot)
{
    size_t k = seq->tokens - seq->base_token + i, p = seq->base_page + k / TOKENS;
    *slot = k % TOKENS;
    return seq->groups[p] + fp__page_slab_offset(seq->geometry->kv_heads, seq->geometry->d, layer, kv_head);
}

/* A page and how many of its slots are written once the first n uncommitted tokens are. */
typedef struct written {
    fp__group *group;
    size_t slots;
} written;

/* The i-th page that they lie in; false: there are no more. */
static bool written_page(const fp__kvseq *seq, size_t n, size_t i, written *out)
{
    size_t begin = seq->tokens - seq->base_token, end = begin + n, k = begin / TOKENS + i;
    if (n == 0 || k * TOKENS >= end)
        return false;
    *out =
        (written){seq->page[seq->base_page + k].group, end - k * TOKENS < TOKENS ? end - k * TOKENS : TOKENS};
    return true;
}

void fp__kvseq_checksum(fp__kvseq *seq, size_t n, size_t slab_begin, size_t slab_end)
{
    written w;
    for (size_t i = 0; written_page(seq, n, i, &w); i++)
        if (fp__store_sum(seq->store, &w.group, &w.slots, 1, slab_begin, slab_end) != FP_OK)
            return; /* commit tries again, and reports it */
}

fp_status fp__kvseq_checksum_step(fp__kvseq *const *seqs, const size_t *n, size_t count)
{
    fp__group *groups[FP__STORE_BATCH];
    size_t slots[FP__STORE_BATCH], used = 0;
    fp__store *store = count > 0 ? seqs[0]->store : NULL;
    for (size_t s = 0; s < count; s++) {
        written w;
        FP_CHECK(seqs[s]->store == store);
        for (size_t i = 0; written_page(seqs[s], n[s], i, &w); i++) {
            if (w.group->summed >= w.slots)
                continue;
            groups[used] = w.group;
            slots[used++] = w.slots;
            if (used == FP__STORE_BATCH) {
                FP_TRY(fp__store_sum(store, groups, slots, used, 0, store->slabs));
                used = 0;
            }
        }
    }
    return used > 0 ? fp__store_sum(store, groups, slots, used, 0, store->slabs) : FP_OK;
}

fp_status fp__kvseq_commit(fp__kvseq *seq, const uint32_t *ids, size_t n, fp_label label)
{
    size_t begin = seq->tokens - seq->base_token, end = begin + n;
    if (n == 0)
        return FP_OK;
    if (seq->base_page + pages_of(end) > seq->taken || n > seq->options.max_tokens - seq->tokens)
        return fp__fail(FP_USAGE, "%zu tokens are committed, but fewer were reserved", n);
    if ((unsigned)label >= FP_LABEL_COUNT)
        return fp__fail(FP_USAGE, "there is no label %d", (int)label);
    FP_TRY(fp__kvseq_checksum_step(&seq, &n, 1));
    fp_label lowest = fp__kvseq_label(seq);
    lowest = label < lowest ? label : lowest;
    memcpy(seq->ids + seq->tokens, ids, n * sizeof *ids);
    memset(seq->labels + seq->tokens, (int)lowest, n);
    seq->tokens += n;
    for (size_t k = begin; k < end; k = (k / TOKENS + 1) * TOKENS) {
        size_t p = seq->base_page + k / TOKENS, page_begin = k / TOKENS * TOKENS;
        seq->filled[p] = (uint8_t)(end - page_begin < TOKENS ? end - page_begin : TOKENS);
        seq->pages = p + 1;
    }
    seal_pages(seq, seq->filled[seq->pages - 1] == TOKENS ? seq->pages : seq->pages - 1);
    return FP_OK;
}

fp_status fp__kvseq_start_anchor(fp__kvseq *seq)
{
    if (seq->options.segment != FP__SEGMENT_ANCHOR)
        return fp__fail(FP_USAGE, "a context segment holds no anchors");
    if (seq->anchors == seq->options.max_anchors)
        return fp__fail(FP_LIMIT, "more than %zu anchors in one set", seq->options.max_anchors);
    if (seq->anchors > 0 && seq->tokens == seq->base_token)
        return fp__fail(FP_USAGE, "anchor %zu has no tokens", seq->anchors - 1);
    if (seq->anchors > 0) {
        FP_TRY(fp__kvseq_truncate(seq, seq->tokens)); /* what is reserved lies in the wrong place now */
        seal_pages(seq, seq->pages);
    }
    seq->base_page = seq->pages;
    seq->base_token = seq->tokens;
    seq->anchor[seq->anchors++] =
        (anchor_entry){.first_page = seq->base_page, .first_token = seq->base_token};
    return FP_OK;
}

/* ---- truncating ---- */

/* The first `slots` tokens of page p go on, in a group of this sequence alone. Its checksums then cover just
 * them. */
static fp_status reopen_page(fp__kvseq *seq, size_t p, size_t slots)
{
    fp__group *from = seq->page[p].group, *to = from;
    size_t bad;
    FP_TRY(first_bad_slab(seq, from, true, &bad));
    if (bad < seq->slabs)
        return fail_slab(seq, p, bad, "changed after writing");
    if (fp__pool_is_shared(seq->pool, from))
        FP_TRY(fp__pool_take(seq->pool, &to));
    fp_status status = fp__store_keep(seq->store, to, from, slots);
    if (status != FP_OK) {
        if (to != from)
            fp__pool_unref(seq->pool, to);
        return status;
    }
    to->hashed = false;
    if (to != from) {
        fp__pool_unref(seq->pool, from);
        seq->page[p].group = to;
        seq->groups[p] = to->data;
    }
    seq->filled[p] = (uint8_t)slots;
    return FP_OK;
}

/* Frontier of the first `sealed` leaves again, after pages were dropped. */
static void rewind_frontier(fp__kvseq *seq, size_t sealed)
{
    if (seq->frontier.size <= sealed)
        return;
    seq->frontier = (fp__merkle_frontier){0};
    for (size_t p = 0; p < sealed; p++)
        fp__merkle_frontier_append(&seq->frontier, seq->page[p].leaf);
}

/* Drops everything after the first `tokens` tokens but what is in the page that they end in. Returns how many
 * of them are in that page, if it is not full: it must be opened again. */
static size_t cut(fp__kvseq *seq, size_t tokens)
{
    while (seq->anchors > 0 && seq->anchor[seq->anchors - 1].first_token >= tokens)
        seq->anchors--;
    const anchor_entry *last = seq->anchors > 0 ? &seq->anchor[seq->anchors - 1] : &(anchor_entry){0};
    seq->base_page = last->first_page;
    seq->base_token = last->first_token;
    size_t k = tokens - seq->base_token, slots = k % TOKENS;
    drop_pages(seq, seq->base_page + pages_of(k));
    seq->tokens = tokens;
    seq->pages = seq->base_page + pages_of(k);
    seq->sealed = slots > 0 ? seq->pages - 1 : seq->pages;
    rewind_frontier(seq, seq->sealed);
    if (atomic_load_explicit(&seq->failed_page, memory_order_relaxed) >= seq->sealed)
        atomic_store_explicit(&seq->failed_page, NO_PAGE, memory_order_release);
    return slots;
}

fp_status fp__kvseq_truncate(fp__kvseq *seq, size_t tokens)
{
    if (tokens > seq->tokens)
        return fp__fail(FP_USAGE, "cannot keep %zu tokens: there are only %zu", tokens, seq->tokens);
    fp__hasher_wait(seq->hasher, &seq->owner);
    fp_status status = FP_OK;
    for (size_t slots = cut(seq, tokens); slots > 0; slots = cut(seq, tokens)) {
        fp_status page_status = reopen_page(seq, seq->pages - 1, slots);
        if (page_status == FP_OK)
            break;
        status = page_status;
        tokens -= slots; /* without that page; where it began an anchor, the page before it may be open now */
    }
    return status;
}

/* ---- sharing and copying ---- */

static fp_status check_alike(const fp__kvseq *dst, const fp__kvseq *src, size_t tokens)
{
    const fp__kvseq_options *a = &dst->options, *b = &src->options;
    bool same_head = a->anchor_kv_head && b->anchor_kv_head
                         ? memcmp(a->anchor_kv_head, b->anchor_kv_head, 32) == 0
                         : !a->anchor_kv_head && !b->anchor_kv_head;
    if (memcmp(dst->geometry, src->geometry, sizeof *dst->geometry) != 0 || a->segment != b->segment ||
        a->first_pos != b->first_pos || a->label != b->label || !same_head)
        return fp__fail(FP_USAGE, "the sequences differ in model, segment, first position, label or anchors");
    if (dst->taken > 0 || dst->anchors > 0 || tokens > src->tokens)
        return fp__fail(FP_USAGE, "pages can be given to an empty sequence only, and only committed tokens");
    if (tokens > a->max_tokens)
        return fp__fail(FP_LIMIT, "%zu tokens do not fit a context of %zu; raise the context size", tokens,
                        a->max_tokens);
    return FP_OK;
}

static void put_page(fp__kvseq *dst, const fp__kvseq *src, size_t p, fp__group *group)
{
    const page_entry *from = &src->page[p];
    dst->page[p].group = group;
    dst->page[p].first_token = from->first_token;
    memcpy(dst->page[p].leaf, from->leaf, 32);
    dst->groups[p] = group->data;
    dst->filled[p] = src->filled[p];
    dst->taken = p + 1;
}

static fp_status share_page(fp__kvseq *dst, const fp__kvseq *src, size_t p)
{
    fp__pool_ref(dst->pool, src->page[p].group);
    put_page(dst, src, p, src->page[p].group);
    return FP_OK;
}

static fp_status copy_bytes(fp__store *to_store, const fp__group *to, fp__store *from_store,
                            const fp__group *from)
{
    uint8_t *in, *out;
    FP_TRY(fp__store_map(from_store, from, FP__STORE_READ, &in));
    fp_status status = fp__store_map(to_store, to, FP__STORE_WRITE, &out);
    if (status == FP_OK) {
        memcpy(out, in, to_store->group_bytes);
        status = fp__store_unmap(to_store, to, FP__STORE_WRITE, out);
    }
    FP_TRY(fp__store_unmap(from_store, from, FP__STORE_READ, in));
    return status;
}

/* What arrives is hashed there. An open page has no hash yet: its checksums were taken where it was written,
 * and are compared there. */
static fp_status copy_page(fp__kvseq *dst, const fp__kvseq *src, size_t p)
{
    fp__group *from = src->page[p].group, *to;
    size_t slots = src->filled[p], bad;
    uint8_t *leaves;
    FP_TRY(fp__pool_take(dst->pool, &to));
    put_page(dst, src, p, to);
    if (p >= src->sealed) {
        FP_TRY(first_bad_slab(src, from, true, &bad));
        if (bad < src->slabs)
            return fail_slab(src, p, bad, "changed after writing");
    }
    FP_TRY(copy_bytes(dst->store, to, src->store, from));
    FP_TRY(fp__store_sum(dst->store, &to, &slots, 1, 0, dst->slabs));
    if (p >= src->sealed)
        return FP_OK;
    leaves = to->slab_leaves;
    FP_TRY(fp__store_hash(dst->store, &to, 1, &leaves));
    for (bad = 0; bad < src->slabs; bad++)
        if (memcmp(leaves + 32 * bad, from->slab_leaves + 32 * bad, 32) != 0)
            return fail_slab(src, p, bad, "are not those that were committed");
    memcpy(to->root, from->root, 32);
    to->hashed = true;
    return FP_OK;
}

static fp_status give_pages(fp__kvseq *dst, fp__kvseq *src, size_t tokens,
                            fp_status (*give)(fp__kvseq *dst, const fp__kvseq *src, size_t p))
{
    FP_TRY(check_alike(dst, src, tokens));
    fp__hasher_wait(src->hasher, &src->owner);
    FP_TRY(check_failed_page(src));
    size_t anchors = 0;
    while (anchors < src->anchors && src->anchor[anchors].first_token < tokens)
        anchors++;
    if (anchors > dst->options.max_anchors)
        return fp__fail(FP_LIMIT, "more than %zu anchors in one set", dst->options.max_anchors);
    memcpy(dst->anchor, src->anchor, anchors * sizeof *dst->anchor);
    memcpy(dst->ids, src->ids, tokens * sizeof *dst->ids);
    memcpy(dst->labels, src->labels, tokens);
    fp_status status = FP_OK;
    for (size_t p = 0; p < src->pages && src->page[p].first_token < tokens && status == FP_OK; p++)
        status = give(dst, src, p);
    dst->anchors = anchors;
    dst->tokens = tokens;
    /* Truncating to the same number of tokens derives the rest, and copies a last partial page. A copy of a
     * page that others may still append to must not see their tokens: reopen_page keeps only ours. */
    if (status == FP_OK)
        status = fp__kvseq_truncate(dst, tokens);
    if (status != FP_OK)
        drop_all(dst);
    return status;
}

fp_status fp__kvseq_share(fp__kvseq *dst, fp__kvseq *src, size_t tokens)
{
    if (dst->pool != src->pool)
        return fp__fail(FP_USAGE, "the sequences are in different pools: copy, instead of sharing");
    return give_pages(dst, src, tokens, share_page);
}

fp_status fp__kvseq_copy(fp__kvseq *dst, fp__kvseq *src, size_t tokens)
{
    if (dst->pool == src->pool)
        return fp__fail(FP_USAGE, "the sequences are in one pool: share, instead of copying");
    return give_pages(dst, src, tokens, copy_page);
}

/* ---- comparing ---- */

static fp_status compare_page(const fp__kvseq *a, const fp__kvseq *b, size_t p, uint8_t *buffer)
{
    const fp__group *first = a->page[p].group, *second = b->page[p].group;
    size_t slab_bytes = a->store->slab_bytes, bad = 0;
    uint8_t *bytes;
    if (a->filled[p] != b->filled[p])
        return fp__fail(FP_USAGE, "page %zu has %u tokens in one sequence and %u in the other", p,
                        (unsigned)a->filled[p], (unsigned)b->filled[p]);
    FP_TRY(fp__store_map(a->store, first, FP__STORE_READ, &bytes));
    memcpy(buffer, bytes, a->store->group_bytes);
    FP_TRY(fp__store_unmap(a->store, first, FP__STORE_READ, bytes));
    FP_TRY(fp__store_map(b->store, second, FP__STORE_READ, &bytes));
    while (bad < a->slabs && memcmp(buffer + bad * slab_bytes, bytes + bad * slab_bytes, slab_bytes) == 0)
        bad++;
    FP_TRY(fp__store_unmap(b->store, second, FP__STORE_READ, bytes));
    return bad < a->slabs ? fail_slab(a, p, bad, "differ between two computations") : FP_OK;
}

fp_status fp__kvseq_compare(const fp__kvseq *a, const fp__kvseq *b, size_t first_page, size_t pages)
{
    size_t common = a->pages < b->pages ? a->pages : b->pages;
    if (memcmp(a->geometry, b->geometry, sizeof *a->geometry) != 0 || first_page > common ||
        pages > common - first_page)
        return fp__fail(FP_USAGE, "only sequences of one model can be compared, and pages that both have");
    uint8_t *buffer = malloc(a->store->group_bytes);
    if (!buffer)
        return fp__fail(FP_NO_MEMORY, "no memory to compare pages (%zu bytes)", a->store->group_bytes);
    fp_status status = FP_OK;
    for (size_t p = first_page; p < first_page + pages && status == FP_OK; p++)
        status = compare_page(a, b, p, buffer);
    free(buffer);
    return status;
}

/* ---- adopting ---- */

static fp_status check_content(const fp__kvseq *seq, const fp__kvseq_content *c)
{
    if (seq->taken > 0 || seq->anchors > 0)
        return fp__fail(FP_USAGE, "only an empty sequence can take content over");
    if (c->tokens < 1 || c->tokens > seq->options.max_tokens || c->anchors > seq->options.max_anchors)
        return fp__fail(FP_LIMIT,
                        "%zu tokens in %zu anchors do not fit a context of %zu; raise the context size",
                        c->tokens, c->anchors, seq->options.max_tokens);
    size_t pages = c->anchors > 0 ? 0 : pages_of(c->tokens), tokens = c->anchors > 0 ? 0 : c->tokens;
    for (size_t a = 0; a < c->anchors; a++) {
        if (c->anchor_tokens[a] < 1 || c->anchor_tokens[a] > c->tokens - tokens)
            return fp__fail(FP_USAGE, "the anchors' token counts do not add up");
        pages += pages_of(c->anchor_tokens[a]);
        tokens += c->anchor_tokens[a];
    }
    if (tokens != c->tokens || pages != c->pages || (c->anchors > 0) != (seq->options.max_anchors > 0))
        return fp__fail(FP_USAGE, "the counts of tokens, anchors and pages contradict each other");
    return FP_OK;
}

/* Tokens [first, first + n) lie in pages from seq->taken on. */
static void adopt_run(fp__kvseq *seq, const fp__kvseq_content *c, size_t first, size_t n)
{
    for (size_t done = 0; done < n; done += TOKENS) {
        size_t p = seq->taken++, slots = n - done < TOKENS ? n - done : TOKENS;
        seq->page[p].group = c->groups[p];
        seq->page[p].first_token = first + done;
        seq->groups[p] = c->groups[p]->data;
        seq->filled[p] = (uint8_t)slots;
        memset(seq->labels + first + done, c->page_labels[p], slots);
    }
}

fp_status fp__kvseq_adopt(fp__kvseq *seq, const fp__kvseq_content *c)
{
    FP_TRY(check_content(seq, c));
    memcpy(seq->ids, c->ids, c->tokens * sizeof *seq->ids);
    for (size_t a = 0; a < c->anchors; a++) {
        seq->base_page = seq->taken;
        seq->base_token = seq->tokens;
        seq->anchor[seq->anchors++] =
            (anchor_entry){.first_page = seq->base_page, .first_token = seq->base_token};
        adopt_run(seq, c, seq->tokens, c->anchor_tokens[a]);
        seq->tokens += c->anchor_tokens[a];
    }
    if (c->anchors == 0) {
        adopt_run(seq, c, 0, c->tokens);
        seq->tokens = c->tokens;
    }
    seq->pages = seq->taken;
    seq->sealed = seq->filled[seq->pages - 1] == TOKENS ? seq->pages : seq->pages - 1;
    for (size_t p = 0; p < seq->sealed; p++) {
        FP_CHECK(seq->page[p].group->hashed);
        page_leaf(seq, p, false, seq->page[p].group->root, seq->page[p].leaf);
    }
    return FP_OK;
}

/* ---- commitments ---- */

fp_status fp__kvseq_head(fp__kvseq *seq, uint8_t out[32])
{
    fp__hasher_wait(seq->hasher, &seq->owner);
    FP_TRY(check_failed_page(seq));
    for (size_t p = (size_t)seq->frontier.size; p < seq->sealed; p++)
        fp__merkle_frontier_append(&seq->frontier, seq->page[p].leaf);
    uint8_t root[32], open_leaf[32];
    fp__merkle_frontier_root(&seq->frontier, root);
    bool open = seq->pages > seq->sealed;
    if (open) {
        fp__group *group = seq->page[seq->sealed].group;
        uint8_t *leaves = group->slab_leaves;
        size_t bad;
        FP_CHECK(group->summed == seq->filled[seq->sealed]);    /* no step is under way */
        FP_TRY(fp__store_hash(seq->store, &group, 1, &leaves)); /* in this order, as in run_seal */
        FP_TRY(first_bad_slab(seq, group, false, &bad));
        if (bad < seq->slabs)
            return fail_slab(seq, seq->sealed, bad, "changed after writing");
        fp__merkle_root(leaves, seq->slabs, group->root);
        page_leaf(seq, seq->sealed, true, group->root, open_leaf);
    }
    fp__leaf_kv_head(seq->sealed, root, open ? open_leaf : NULL, out);
    return FP_OK;
}

fp_status fp__kvseq_poll(fp__kvseq *seq, size_t *unverified_pages, size_t *bad_page)
{
    if (unverified_pages)
        *unverified_pages = atomic_load_explicit(&seq->unhashed, memory_order_acquire);
    size_t failed = atomic_load_explicit(&seq->failed_page, memory_order_acquire);
    if (failed != NO_PAGE && bad_page)
        *bad_page = failed;
    return check_failed_page(seq);
}

typedef struct scrub_job {
    fp__hash_job job; /* first */
    const fp__kvseq *seq;
    size_t first, n; /* pages, at most a batch */
    fp__kv_check page[FP__STORE_BATCH];
} scrub_job;

/* A sealed page's slab leaves now against those that were committed, and what its page leaf says. */
static void scrub_sealed(const fp__kvseq *seq, size_t p, const uint8_t *leaves, fp__kv_check *out)
{
    const page_entry *page = &seq->page[p];
    const fp__group *group = page->group;
    uint8_t root[32], leaf[32];
    while (out->bad_slab < seq->slabs &&
           memcmp(leaves + 32 * out->bad_slab, group->slab_leaves + 32 * out->bad_slab, 32) == 0)
        out->bad_slab++;
    fp__merkle_root(group->slab_leaves, seq->slabs, root);
    page_leaf(seq, p, false, root, leaf);
    out->bad_leaf |= memcmp(leaf, page->leaf, 32) != 0;
}

static fp_status scrub(const fp__kvseq *seq, size_t first, size_t n, size_t sealed_pages, uint8_t *buffer,
                       fp__kv_check *out)
{
    fp__group *groups[FP__STORE_BATCH];
    uint8_t *leaves[FP__STORE_BATCH];
    size_t sealed = 0;
    for (size_t i = 0; i < n; i++) {
        size_t p = first + i;
        groups[i] = seq->page[p].group;
        leaves[i] = buffer + 32 * seq->slabs * i;
        sealed += p < sealed_pages;
        out[i] = (fp__kv_check){.bad_leaf = seq->groups[p] != groups[i]->data};
    }
    if (sealed > 0)
        FP_TRY(fp__store_hash(seq->store, groups, sealed, leaves));
    for (size_t i = 0; i < sealed; i++)
        scrub_sealed(seq, first + i, leaves[i], &out[i]);
    for (size_t i = sealed; i < n; i++) /* the open page */
        FP_TRY(first_bad_slab(seq, groups[i], false, &out[i].bad_slab));
    return FP_OK;
}

void fp__kvseq_check_pages(const fp__kvseq *seq, size_t first, size_t n, size_t sealed, fp__kv_check *out)
{
    FP_CHECK(n > 0 && n <= FP__STORE_BATCH);
    uint8_t *buffer = malloc(n * seq->slabs * 32);
    memset(out, 0, n * sizeof *out);
    if (!buffer || scrub(seq, first, n, sealed, buffer, out) != FP_OK)
        out[0].store_failed = true;
    free(buffer);
}

static void run_scrub(fp__hash_job *job)
{
    scrub_job *s = (scrub_job *)(void *)job;
    fp__kvseq_check_pages(s->seq, s->first, s->n, s->seq->sealed, s->page);
}

bool fp__kvseq_check_found(const fp__kvseq *seq, const fp__kv_check *check)
{
    return check->store_failed || check->bad_leaf || check->bad_slab < seq->slabs;
}

fp_status fp__kvseq_check_verdict(const fp__kvseq *seq, size_t p, const fp__kv_check *page)
{
    if (page->store_failed)
        return fp__fail(FP_INTERNAL,
                        "%s pages from %zu on could not be hashed where they lie; check memory and device",
                        segment_name(seq), p);
    if (page->bad_slab < seq->slabs)
        return fail_slab(seq, p, page->bad_slab, "are not those that were committed");
    if (page->bad_leaf)
        return fp__fail(FP_MISMATCH,
                        "block table, token ids, label or hashes of %s page %zu are not those that were "
                        "committed; discard the sequence and compute it again",
                        segment_name(seq), p);
    return FP_OK;
}

size_t fp__kvseq_bad_entry(const fp__kvseq *seq)
{
    size_t p = 0;
    while (p < seq->taken && seq->groups[p] == seq->page[p].group->data)
        p++;
    return p < seq->taken ? p : SIZE_MAX;
}

fp_status fp__kvseq_verify(fp__kvseq *seq, size_t first_page, size_t pages)
{
    if (first_page > seq->pages || pages > seq->pages - first_page)
        return fp__fail(FP_USAGE, "there are only %zu pages", seq->pages);
    fp__hasher_wait(seq->hasher, &seq->owner);
    FP_TRY(check_failed_page(seq));
    size_t batch = fp__store_job_groups(seq->store, pages, fp__hasher_workers(seq->hasher) + 1);
    size_t jobs = (pages + batch - 1) / batch;
    scrub_job *scrubs = calloc(jobs ? jobs : 1, sizeof *scrubs);
    if (!scrubs)
        return fp__fail(FP_NO_MEMORY, "no memory to check %zu pages", pages);
    for (size_t j = 0; j < jobs; j++) {
        size_t left = pages - j * batch;
        scrubs[j].job.run = run_scrub;
        scrubs[j].seq = seq;
        scrubs[j].first = first_page + j * batch;
        scrubs[j].n = left < batch ? left : batch;
        fp__hasher_submit(seq->hasher, &scrubs[j].job, &seq->owner);
    }
    fp__hasher_wait(seq->hasher, &seq->owner);
    fp_status status = FP_OK;
    for (size_t i = 0; i < pages && status == FP_OK; i++)
        status = fp__kvseq_check_verdict(seq, first_page + i, &scrubs[i / batch].page[i % batch]);
    free(scrubs);
    return status;
}

fp_status fp__kvseq_check_sums(fp__kvseq *seq)
{
    fp__group *groups[FP__STORE_BATCH];
    size_t bad[FP__STORE_BATCH];
    for (size_t first = 0, n; first < seq->pages; first += n) {
        n = seq->pages - first < FP__STORE_BATCH ? seq->pages - first : FP__STORE_BATCH;
        for (size_t i = 0; i < n; i++)
            groups[i] = seq->page[first + i].group;
        FP_TRY(fp__store_check(seq->store, groups, n, false, bad));
        for (size_t i = 0; i < n; i++)
            if (bad[i] < seq->slabs)
                return fail_slab(seq, first + i, bad[i], "changed after writing");
    }
    return FP_OK;
}

/* ---- reading ---- */

const fp__page_geometry *fp__kvseq_geometry(const fp__kvseq *seq)
{
    return seq->geometry;
}
fp__store *fp__kvseq_store(const fp__kvseq *seq)
{
    return seq->store;
}
size_t fp__kvseq_tokens(const fp__kvseq *seq)
{
    return seq->tokens;
}
size_t fp__kvseq_pages(const fp__kvseq *seq)
{
    return seq->pages;
}
size_t fp__kvseq_sealed(const fp__kvseq *seq)
{
    return seq->sealed;
}
size_t fp__kvseq_anchors(const fp__kvseq *seq)
{
    return seq->anchors;
}
size_t fp__kvseq_max_tokens(const fp__kvseq *seq)
{
    return seq->options.max_tokens;
}
uint64_t fp__kvseq_next_position(const fp__kvseq *seq)
{
    return seq->options.first_pos + seq->tokens;
}
fp_label fp__kvseq_label(const fp__kvseq *seq)
{
    return seq->tokens > 0 ? (fp_label)seq->labels[seq->tokens - 1] : seq->options.label;
}
const fp__kvseq_options *fp__kvseq_options_get(const fp__kvseq *seq)
{
    return &seq->options;
}
const uint32_t *fp__kvseq_ids(const fp__kvseq *seq)
{
    return seq->ids;
}
uint8_t *const *fp__kvseq_groups(const fp__kvseq *seq)
{
    return seq->groups;
}
const uint8_t *fp__kvseq_filled(const fp__kvseq *seq)
{
    return seq->filled;
}

void fp__kvseq_view(const fp__kvseq *seq, size_t new_tokens, fp__attn_segment *out)
{
    size_t k = seq->tokens - seq->base_token;
    *out = (fp__attn_segment){.groups = (const uint8_t *const *)seq->groups,
                              .filled = seq->filled,
                              .pages = seq->pages,
                              .causal_page = seq->pages};
    if (new_tokens > 0) {
        out->pages = seq->base_page + pages_of(k + new_tokens);
        out->causal_page = seq->base_page;
        out->causal_tokens = k;
        FP_CHECK(out->pages <= seq->taken);
    }
}

void fp__kvseq_page_get(const fp__kvseq *seq, size_t p, fp__kvseq_page *out)
{
    FP_CHECK(p < seq->pages);
    const page_entry *page = &seq->page[p];
    *out = (fp__kvseq_page){.group = page->group,
                            .first_pos = seq->options.first_pos + page->first_token,
                            .first_token = page->first_token,
                            .visible = seq->filled[p],
                            .label = seq->labels[page->first_token + seq->filled[p] - 1],
                            .sealed = p < seq->sealed};
}

void fp__kvseq_anchor_get(const fp__kvseq *seq, size_t a, size_t *first_page, size_t *tokens, fp_label *label)
{
    FP_CHECK(a < seq->anchors);
    size_t first = seq->anchor[a].first_token;
    size_t end = a + 1 < seq->anchors ? seq->anchor[a + 1].first_token : seq->tokens;
    *first_page = seq->anchor[a].first_page;
    *tokens = end - first;
    *label = end > first ? (fp_label)seq->labels[end - 1] : seq->options.label;
}
