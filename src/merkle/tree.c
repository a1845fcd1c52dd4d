#include "merkle/tree.h"
#include <string.h>

void fp__merkle_leaf(const void *data, size_t size, uint8_t out[32])
{
    static const uint8_t tag = 0x00;
    fp__part parts[] = {{&tag, 1}, {data, size}};
    fp__sha256_parts(parts, 2, out);
}

void fp__merkle_node(const uint8_t left[32], const uint8_t right[32], uint8_t out[32])
{
    uint8_t block[65]; /* one buffer, one update: out may be left or right */
    block[0] = 0x01;
    memcpy(block + 1, left, 32);
    memcpy(block + 33, right, 32);
    fp__sha256(block, sizeof block, out);
}

void fp__merkle_frontier_append(fp__merkle_frontier *f, const uint8_t leaf_hash[32])
{
    FP_CHECK(f->size < FP__MERKLE_SIZE_MAX);
    uint8_t hash[32];
    memcpy(hash, leaf_hash, 32);
    unsigned level = 0;
    for (; f->size >> level & 1; level++)
        fp__merkle_node(f->hashes[level], hash, hash);
    memcpy(f->hashes[level], hash, 32);
    f->size++;
}

void fp__merkle_frontier_root(const fp__merkle_frontier *f, uint8_t out[32])
{
    if (f->size == 0) {
        fp__sha256(NULL, 0, out);
        return;
    }
    unsigned level = (unsigned)__builtin_ctzll(f->size);
    uint8_t hash[32];
    memcpy(hash, f->hashes[level], 32);
    for (level++; level < 64; level++)
        if (f->size >> level & 1)
            fp__merkle_node(f->hashes[level], hash, hash);
    memcpy(out, hash, 32);
}

void fp__merkle_root(const uint8_t *leaves, uint64_t n, uint8_t out[32])
{
    fp__merkle_frontier f;
    f.size = 0;
    for (uint64_t i = 0; i < n; i++)
        fp__merkle_frontier_append(&f, leaves + i * 32);
    fp__merkle_frontier_root(&f, out);
}

fp_status fp__merkle_read_array(void *arg, unsigned level, uint64_t index, uint8_t out[32])
{
    const fp__merkle_array *array = arg;
    if (level > 62 || index >= array->n >> level)
        return fp__fail(FP_USAGE, "the subtree of level %u, index %llu is not in a tree of %llu leaves",
                        level, (unsigned long long)index, (unsigned long long)array->n);
    fp__merkle_root(array->leaves + (index << level) * 32, (uint64_t)1 << level, out);
    return FP_OK;
}

static unsigned bit_length(uint64_t v)
{
    return v == 0 ? 0 : 64 - (unsigned)__builtin_clzll(v);
}

/* MTH(D[begin:end]) for begin a multiple of the smallest power of two ≥ end - begin, as every range of a
 * proof is: its perfect subtrees are the bits of its length, the largest first. Folded from the right. */
static fp_status range_root(fp__merkle_read_fn *read, void *arg, uint64_t begin, uint64_t end,
                            uint8_t out[32])
{
    uint64_t n = end - begin;
    uint8_t hash[32], left[32];
    bool first = true;
    for (unsigned level = 0; level < 63; level++) {
        if ((n >> level & 1) == 0)
            continue;
        end -= (uint64_t)1 << level;
        FP_TRY(read(arg, level, end >> level, first ? hash : left));
        if (!first)
            fp__merkle_node(left, hash, hash);
        first = false;
    }
    memcpy(out, hash, 32);
    return FP_OK;
}

fp_status fp__merkle_root_at(fp__merkle_read_fn *read, void *arg, uint64_t size, uint8_t out[32])
{
    if (size > FP__MERKLE_SIZE_MAX)
        return fp__fail(FP_USAGE, "a tree of %llu leaves is larger than 2^63 - 1", (unsigned long long)size);
    if (size == 0) {
        fp__sha256(NULL, 0, out);
        return FP_OK;
    }
    return range_root(read, arg, 0, size, out);
}

/* The proofs are found from the root down and stored from the leaf up. */
static void reverse(fp__merkle_proof *proof)
{
    for (size_t i = 0; i < proof->count / 2; i++) {
        uint8_t swap[32];
        memcpy(swap, proof->hashes[i], 32);
        memcpy(proof->hashes[i], proof->hashes[proof->count - 1 - i], 32);
        memcpy(proof->hashes[proof->count - 1 - i], swap, 32);
    }
}

static uint64_t split_of(uint64_t n) /* the largest power of two < n */
{
    FP_CHECK(n > 1);
    return (uint64_t)1 << (bit_length(n - 1) - 1);
}

fp_status fp__merkle_inclusion(fp__merkle_read_fn *read, void *arg, uint64_t index, uint64_t size,
                               fp__merkle_proof *out)
{
    if (index >= size || size > FP__MERKLE_SIZE_MAX)
        return fp__fail(FP_USAGE, "no inclusion proof of leaf %llu in a tree of %llu leaves",
                        (unsigned long long)index, (unsigned long long)size);
    uint64_t begin = 0, end = size;
    out->count = 0;
    while (end - begin > 1) {
        uint64_t middle = begin + split_of(end - begin);
        FP_CHECK(out->count < FP__MERKLE_PROOF_MAX);
        uint8_t *sibling = out->hashes[out->count++];
        if (index < middle) {
            FP_TRY(range_root(read, arg, middle, end, sibling));
            end = middle;
        } else {
            FP_TRY(range_root(read, arg, begin, middle, sibling));
            begin = middle;
        }
    }
    reverse(out);
    return FP_OK;
}

fp_status fp__merkle_consistency(fp__merkle_read_fn *read, void *arg, uint64_t m, uint64_t n,
                                 fp__merkle_proof *out)
{
    if (m == 0 || m > n || n > FP__MERKLE_SIZE_MAX)
        return fp__fail(FP_USAGE, "no consistency proof from size %llu to size %llu", (unsigned long long)m,
                        (unsigned long long)n);
    uint64_t begin = 0, end = n;
    out->count = 0;
    while (end != m) {
        uint64_t middle = begin + split_of(end - begin);
        FP_CHECK(out->count < FP__MERKLE_PROOF_MAX);
        uint8_t *sibling = out->hashes[out->count++];
        if (m <= middle) {
            FP_TRY(range_root(read, arg, middle, end, sibling));
            end = middle;
        } else {
            FP_TRY(range_root(read, arg, begin, middle, sibling));
            begin = middle;
        }
    }
    if (begin != 0) { /* the last subtree of the old tree is not the old root itself: the verifier needs it */
        FP_CHECK(out->count < FP__MERKLE_PROOF_MAX);
        FP_TRY(range_root(read, arg, begin, end, out->hashes[out->count++]));
    }
    reverse(out);
    return FP_OK;
}

/* The path of a leaf up to the root has `inner` siblings below the point where it meets the right border of
 * the tree, on the side that the leaf's bits tell, and `border` ones above, all on the left. */
static void path_shape(uint64_t index, uint64_t size, unsigned *inner, unsigned *border)
{
    *inner = bit_length(index ^ (size - 1));
    *border = (unsigned)__builtin_popcountll(index >> *inner);
}

static fp_status wrong_count(size_t count, size_t expected)
{
    return fp__fail(FP_INVALID, "the proof has %zu hashes, but for these sizes it must have %zu", count,
                    expected);
}

fp_status fp__merkle_verify_inclusion(const uint8_t leaf_hash[32], uint64_t index, uint64_t size,
                                      const uint8_t *proof, size_t count, const uint8_t root[32])
{
    if (index >= size || size > FP__MERKLE_SIZE_MAX)
        return fp__fail(FP_INVALID, "leaf %llu cannot be in a tree of %llu leaves", (unsigned long long)index,
                        (unsigned long long)size);
    unsigned inner, border;
    path_shape(index, size, &inner, &border);
    if (count != inner + border)
        return wrong_count(count, inner + border);
    uint8_t hash[32];
    memcpy(hash, leaf_hash, 32);
    for (size_t i = 0; i < count; i++) {
        const uint8_t *sibling = proof + i * 32;
        if (i >= inner || (index >> i & 1) != 0)
            fp__merkle_node(sibling, hash, hash);
        else
            fp__merkle_node(hash, sibling, hash);
    }
    if (memcmp(hash, root, 32) != 0)
        return fp__fail(FP_MISMATCH,
                        "the inclusion proof of leaf %llu does not lead to the root of the tree of %llu "
                        "leaves: the leaf, the proof or the root was changed",
                        (unsigned long long)index, (unsigned long long)size);
    return FP_OK;
}

static fp_status check_root(const uint8_t computed[32], const uint8_t root[32], const char *which,
                            uint64_t size)
{
    if (memcmp(computed, root, 32) == 0)
        return FP_OK;
    return fp__fail(FP_MISMATCH,
                    "the consistency proof does not lead to the root of the %s tree (%llu leaves)", which,
                    (unsigned long long)size);
}

fp_status fp__merkle_verify_consistency(uint64_t m, const uint8_t root_m[32], uint64_t n,
                                        const uint8_t root_n[32], const uint8_t *proof, size_t count)
{
    if (m == 0 || m > n || n > FP__MERKLE_SIZE_MAX)
        return fp__fail(FP_INVALID, "a tree of %llu leaves cannot be shown to continue one of %llu",
                        (unsigned long long)n, (unsigned long long)m);
    if (m == n) {
        if (count != 0)
            return wrong_count(count, 0);
        return check_root(root_m, root_n, "new", n);
    }
    unsigned inner, border, shift = (unsigned)__builtin_ctzll(m);
    path_shape(m - 1, n, &inner, &border);
    FP_CHECK(inner > shift);
    inner -= shift; /* the path starts at the old tree's last perfect subtree, not at its last leaf */
    bool old_is_perfect = m == (uint64_t)1 << shift;
    size_t start = old_is_perfect ? 0 : 1;
    if (count != start + inner + border)
        return wrong_count(count, start + inner + border);
    uint8_t old_hash[32], new_hash[32];
    memcpy(old_hash, old_is_perfect ? root_m : proof, 32);
    memcpy(new_hash, old_hash, 32);
    uint64_t mask = (m - 1) >> shift;
    for (size_t i = 0; i < count - start; i++) {
        const uint8_t *sibling = proof + (start + i) * 32;
        if (i >= inner || (mask >> i & 1) != 0) {
            fp__merkle_node(sibling, old_hash, old_hash);
            fp__merkle_node(sibling, new_hash, new_hash);
        } else {
            fp__merkle_node(new_hash, sibling, new_hash); /* right of the old tree */
        }
    }
    FP_TRY(check_root(old_hash, root_m, "old", m));
    return check_root(new_hash, root_n, "new", n);
}

/* ---- subtrees ---- */

static fp_status check_subtree(uint64_t begin, uint64_t end, uint64_t size, fp_status status)
{
    if (begin < end && end <= size && size <= FP__MERKLE_SIZE_MAX) {
        unsigned bits = bit_length(end - begin - 1); /* the smallest power of two ≥ end - begin is 2^bits */
        if ((begin & (((uint64_t)1 << bits) - 1)) == 0)
            return FP_OK;
    }
    return fp__fail(status, "leaves %llu to %llu are not a subtree of a tree of %llu leaves",
                    (unsigned long long)begin, (unsigned long long)end, (unsigned long long)size);
}

fp_status fp__merkle_verify_subtree_inclusion(const uint8_t leaf_hash[32], uint64_t index, uint64_t begin,
                                              uint64_t end, const uint8_t *proof, size_t count,
                                              const uint8_t subtree_root[32])
{
    FP_TRY(check_subtree(begin, end, end, FP_INVALID));
    if (index < begin || index >= end)
        return fp__fail(FP_INVALID, "leaf %llu is not in the subtree of leaves %llu to %llu",
                        (unsigned long long)index, (unsigned long long)begin, (unsigned long long)end);
    return fp__merkle_verify_inclusion(leaf_hash, index - begin, end - begin, proof, count, subtree_root);
}

/* Where in the tree a hash of the proof lies: the nodes above the subtree's first and last leaf and above the
 * tree's last leaf, all at one level. */
struct climb {
    uint64_t first, last, tree_last;
};

static void climb_one(struct climb *c)
{
    c->first >>= 1;
    c->last >>= 1;
    c->tree_last >>= 1;
}

fp_status fp__merkle_verify_subtree_consistency(uint64_t begin, uint64_t end, const uint8_t subtree_root[32],
                                                uint64_t size, const uint8_t root[32], const uint8_t *proof,
                                                size_t count)
{
    if (begin == end && end <= size && count == 0) { /* the empty subtree is part of every tree */
        uint8_t empty[32];
        fp__sha256(NULL, 0, empty);
        return check_root(empty, subtree_root, "empty", 0);
    }
    FP_TRY(check_subtree(begin, end, size, FP_INVALID));
    struct climb at = {begin, end - 1, size - 1};
    /* Up to the largest node that ends where the subtree ends and lies in it. */
    while (at.first != at.last && (at.last == at.tree_last || (at.last & 1) != 0))
        climb_one(&at);
    uint8_t part[32], whole[32]; /* of the subtree; of the tree */
    size_t used = 0;
    memcpy(part, subtree_root, 32);
    if (at.first != at.last) {
        if (count == 0)
            return fp__fail(FP_INVALID, "the proof is empty, but for these sizes it must not be");
        memcpy(part, proof, 32);
        used = 1;
    }
    memcpy(whole, part, 32);
    for (; used < count && at.tree_last != 0; used++) {
        const uint8_t *sibling = proof + used * 32;
        if ((at.last & 1) != 0 || at.last == at.tree_last) {
            if (at.first < at.last)
                fp__merkle_node(sibling, part, part);
            fp__merkle_node(sibling, whole, whole);
            while ((at.last & 1) == 0)
                climb_one(&at); /* no sibling at these levels: the right border */
        } else {
            fp__merkle_node(whole, sibling, whole);
        }
        climb_one(&at);
    }
    if (used != count || at.tree_last != 0)
        return fp__fail(FP_INVALID, "the proof has %zu hashes, which is not what these sizes need", count);
    if (memcmp(part, subtree_root, 32) != 0)
        return fp__fail(FP_MISMATCH, "the consistency proof does not lead to the root of the subtree");
    return check_root(whole, root, "whole", size);
}

fp_status fp__merkle_subtree_consistency(fp__merkle_read_fn *read, void *arg, uint64_t begin, uint64_t end,
                                         uint64_t size, fp__merkle_proof *out)
{
    FP_TRY(check_subtree(begin, end, size, FP_USAGE));
    uint64_t from = 0, to = size;
    bool known = true; /* the verifier has the hash of [begin, end) */
    out->count = 0;
    while (begin != from || end != to) {
        uint64_t middle = from + split_of(to - from);
        FP_CHECK(out->count < FP__MERKLE_PROOF_MAX);
        uint8_t *sibling = out->hashes[out->count++];
        if (end <= middle) {
            FP_TRY(range_root(read, arg, middle, to, sibling));
            to = middle;
            continue;
        }
        FP_TRY(range_root(read, arg, from, middle, sibling));
        if (begin < middle) { /* the subtree begins to the left of the split: only its right part remains */
            known = false;
            begin = middle;
        }
        from = middle;
    }
    if (!known) {
        FP_CHECK(out->count < FP__MERKLE_PROOF_MAX);
        FP_TRY(range_root(read, arg, begin, end, out->hashes[out->count++]));
    }
    reverse(out);
    return FP_OK;
}
