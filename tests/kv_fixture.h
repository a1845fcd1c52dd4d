/* Test helper: sequences of made-up K/V over a tiny geometry. The bytes of a token depend on its position,
 * its id and (layer, kv head) alone, as they do for a model whose prefix is the same. Everything fails the
 * test when a call fails. */
#ifndef FP_TESTS_KV_FIXTURE_H
#define FP_TESTS_KV_FIXTURE_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cache/sequence.h"
#include "core/bytes.h"
#include "merkle/tree.h"
#include <stdio.h>
#include <stdlib.h>

#define KV_OK(expr)                                                                                          \
    do {                                                                                                     \
        if ((expr) != FP_OK)                                                                                 \
            fail_msg("%s:%d: %s: %s", __FILE__, __LINE__, #expr, fp_error_detail());                         \
    } while (0)
#define KV_FAIL(expr, status, word)                                                                          \
    do {                                                                                                     \
        fp_status kv_status = (expr);                                                                        \
        if (kv_status != (status) || !strstr(fp_error_detail(), word))                                       \
            fail_msg("%s:%d: %s gave %s \"%s\", not %s with \"%s\"", __FILE__, __LINE__, #expr,              \
                     fp_status_name(kv_status), fp_error_detail(), fp_status_name(status), word);            \
    } while (0)

static inline uint64_t kv_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static inline fp__page_geometry kv_geometry(void)
{
    fp__page_geometry g = {.layers = 2, .kv_heads = 3, .d = 8};
    for (int i = 0; i < 32; i++)
        g.model[i] = (uint8_t)(i * 5 + 1);
    return g;
}

static inline uint32_t kv_id(size_t i)
{
    return (uint32_t)(i * 2654435761u) & 0xffff;
}

/* Writes slot `slot` of a slab as a token at `position` with `id` would be. */
static inline void kv_write_slot(uint8_t *slab, size_t d, size_t slot, uint64_t position, uint32_t id,
                                 size_t layer, size_t head)
{
    uint64_t state = position * 1000003 + id * 7919 + layer * 131 + head;
    for (size_t j = 0; j < d; j++) {
        uint64_t r = kv_random(&state);
        slab[slot * d + j] = (uint8_t)r;
        slab[64 * d + j * 64 + slot] = (uint8_t)(r >> 8);
    }
    fp__store_le16(slab + 128 * d + 2 * slot, (uint16_t)kv_random(&state));
    fp__store_le16(slab + 128 * d + 128 + 2 * slot, (uint16_t)kv_random(&state));
}

/* Writes K/V of n reserved tokens without committing them. */
static inline void kv_write(fp__kvseq *seq, const uint32_t *ids, size_t n)
{
    const fp__page_geometry *g = fp__kvseq_geometry(seq);
    for (size_t i = 0; i < n; i++) {
        for (size_t l = 0; l < g->layers; l++) {
            for (size_t h = 0; h < g->kv_heads; h++) {
                size_t slot;
                uint8_t *slab = fp__kvseq_slab(seq, i, l, h, &slot);
                kv_write_slot(slab, g->d, slot, fp__kvseq_next_position(seq) + i, ids[i], l, h);
            }
        }
    }
}

/* A step of n tokens with given ids. */
static inline void kv_step(fp__kvseq *seq, const uint32_t *ids, size_t n, fp_label label)
{
    KV_OK(fp__kvseq_reserve(seq, n));
    kv_write(seq, ids, n);
    KV_OK(fp__kvseq_commit(seq, ids, n, label));
}

/* Appends n tokens, ids kv_id(tokens so far + i), in steps of `chunk`. */
static inline void kv_append(fp__kvseq *seq, size_t n, size_t chunk, fp_label label)
{
    uint32_t *ids = malloc(n * sizeof *ids + 1);
    assert_non_null(ids);
    for (size_t i = 0; i < n; i++)
        ids[i] = kv_id(fp__kvseq_tokens(seq) + i);
    for (size_t done = 0; done < n; done += chunk)
        kv_step(seq, ids + done, n - done < chunk ? n - done : chunk, label);
    free(ids);
}

static inline fp__kvseq_options kv_context(size_t max_tokens)
{
    return (fp__kvseq_options){
        .segment = FP__SEGMENT_CONTEXT, .max_tokens = max_tokens, .label = FP_LABEL_CORE};
}

static inline fp__kvseq_options kv_anchors(size_t max_tokens, size_t max_anchors)
{
    return (fp__kvseq_options){.segment = FP__SEGMENT_ANCHOR,
                               .max_tokens = max_tokens,
                               .max_anchors = max_anchors,
                               .label = FP_LABEL_CORE};
}

/* Host memory that is used as a device's: batches of many groups, and the host sees copies. Calls that look
 * at pages fail while kv_store_fails is set. */
static bool kv_device_store, kv_store_fails;
static fp__store_ops kv_host_ops;

static inline fp_status kv_map(fp__store *store, const fp__group *group, fp__store_access access,
                               uint8_t **out)
{
    if (kv_store_fails)
        return fp__fail(FP_INTERNAL, "the device failed");
    *out = malloc(store->group_bytes);
    assert_non_null(*out);
    memset(*out, 0xee, store->group_bytes);
    if (access & FP__STORE_READ)
        memcpy(*out, group->data, store->group_bytes);
    return FP_OK;
}

static inline fp_status kv_unmap(fp__store *store, const fp__group *group, fp__store_access access,
                                 uint8_t *bytes)
{
    if (access & FP__STORE_WRITE)
        memcpy(group->data, bytes, store->group_bytes);
    free(bytes);
    return FP_OK;
}

static inline fp_status kv_sum(fp__store *store, fp__group *const *groups, const size_t *slots, size_t n,
                               size_t slab_begin, size_t slab_end)
{
    if (slab_begin > 0 || slab_end < store->slabs)
        return FP_OK; /* as a store may */
    return kv_host_ops.sum(store, groups, slots, n, slab_begin, slab_end);
}

static inline fp_status kv_hash(fp__store *store, fp__group *const *groups, size_t n, uint8_t *const *leaves)
{
    if (kv_store_fails)
        return fp__fail(FP_INTERNAL, "the device failed");
    assert_true(n >= 1 && n <= FP__STORE_BATCH);
    return kv_host_ops.hash(store, groups, n, leaves);
}

static inline fp__store *kv_store(const fp__page_geometry *g)
{
    static fp__store_ops ops;
    fp__store *store = NULL;
    if (!kv_device_store)
        return NULL;
    KV_OK(fp__store_host_create(g, &store));
    kv_host_ops = ops = *store->ops;
    ops.map = kv_map;
    ops.unmap = kv_unmap;
    ops.sum = kv_sum;
    ops.hash = kv_hash;
    store->ops = &ops;
    store->batch = FP__STORE_BATCH;
    return store;
}

/* A pool, workers and room for sequences. */
typedef struct kv_fixture {
    fp__pool *pool;
    fp__hasher *hasher;
} kv_fixture;

static inline kv_fixture kv_open(size_t groups, size_t workers)
{
    kv_fixture f;
    fp__page_geometry g = kv_geometry();
    KV_OK(fp__pool_create(&g, groups, kv_store(&g), &f.pool));
    KV_OK(fp__hasher_create(workers, &f.hasher));
    return f;
}

/* Also checks that every page came back. */
static inline void kv_close(kv_fixture *f)
{
    assert_int_equal(fp__pool_stats_get(f->pool).used_groups, 0);
    fp__hasher_destroy(f->hasher);
    fp__pool_destroy(f->pool);
}

static inline fp__kvseq *kv_new(const kv_fixture *f, fp__kvseq_options options)
{
    fp__kvseq *seq;
    KV_OK(fp__kvseq_create(f->pool, f->hasher, &options, &seq));
    return seq;
}

/* kv head of runs of tokens (anchors, or one run of a context), from the layouts alone: pages are built here,
 * the tree is computed over a plain list. ids of token i of the whole segment: kv_id(i). labels[run]. */
static inline void kv_reference_head(const fp__kvseq_options *o, const size_t *runs, const fp_label *labels,
                                     size_t n_runs, uint8_t out[32])
{
    fp__page_geometry g = kv_geometry();
    size_t slab_bytes = fp__slab_bytes(g.d), sealed = 0, page = 0, token = 0;
    uint8_t *slabs = malloc(fp__page_group_bytes(&g)), *leaves = malloc(32 * 4096);
    uint8_t open_leaf[32] = {0}, root[32], leaf[32];
    assert_non_null(slabs);
    assert_non_null(leaves);
    fp_label lowest = o->label;
    for (size_t r = 0; r < n_runs; r++) {
        lowest = labels[r] < lowest ? labels[r] : lowest;
        for (size_t done = 0; done < runs[r];) {
            size_t visible = runs[r] - done < 64 ? runs[r] - done : 64;
            uint8_t slab_leaves[6 * 32];
            uint32_t ids[64];
            memset(slabs, 0, fp__page_group_bytes(&g));
            for (size_t t = 0; t < visible; t++)
                ids[t] = kv_id(token + t);
            for (size_t s = 0; s < 6; s++) {
                for (size_t t = 0; t < visible; t++)
                    kv_write_slot(slabs + s * slab_bytes, g.d, t, o->first_pos + token + t, ids[t], s / 3,
                                  s % 3);
                fp__leaf_slab(&g, s / 3, s % 3, slabs + s * slab_bytes, slab_leaves + 32 * s);
            }
            fp__merkle_root(slab_leaves, 6, root);
            bool open = visible < 64 && r + 1 == n_runs;
            fp__leaf_page(&(fp__page_leaf){.page = page,
                                           .first_pos = o->first_pos + token,
                                           .segment = (uint8_t)o->segment,
                                           .open = open,
                                           .label = (uint8_t)lowest,
                                           .visible = (uint8_t)visible,
                                           .anchor_kv_head = o->anchor_kv_head,
                                           .group_root = root,
                                           .ids = ids},
                          leaf);
            memcpy(open ? open_leaf : leaves + 32 * sealed++, leaf, 32);
            page++;
            token += visible;
            done += visible;
        }
    }
    fp__merkle_root(leaves, sealed, root);
    fp__leaf_kv_head(sealed, root, open_leaf, out);
    free(leaves);
    free(slabs);
}
#endif
