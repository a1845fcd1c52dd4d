/* Merkle trees as in RFC 6962 §2.1 and RFC 9162 §2.1: hashing, append-only frontier, inclusion and
 * consistency proofs.
 *
 * Hash arrays are flat byte arrays, [n][32]. Sizes and indices count leaves. Pure functions: thread-safe on
 * distinct outputs; no allocation. */
#ifndef FP_MERKLE_TREE_H
#define FP_MERKLE_TREE_H
#include "core/error.h"
#include "merkle/sha256.h"
#include <stdbool.h>

#define FP__HASH_SIZE 32
/* Tree sizes are below 2^63, so that an inclusion proof has at most 63 hashes and a consistency proof at
 * most 64. */
#define FP__MERKLE_SIZE_MAX (UINT64_MAX >> 1)
#define FP__MERKLE_PROOF_MAX 64

void fp__merkle_leaf(const void *data, size_t size, uint8_t out[32]); /* H(00 ‖ data) */
void fp__merkle_node(const uint8_t left[32], const uint8_t right[32],
                     uint8_t out[32]); /* H(01 ‖ left ‖ right) */
/* Root over n leaf hashes ([n][32], already hashed); n = 0 gives SHA-256 of the empty string. */
void fp__merkle_root(const uint8_t *leaves, uint64_t n, uint8_t out[32]);

/* Frontier (compact range): the roots of the perfect subtrees that `size` leaves end in. hashes[b] is valid
 * when bit b of size is set. Zero-initialise for the empty tree; copy it freely. append costs one hash on
 * average, root O(log n). */
typedef struct fp__merkle_frontier {
    uint64_t size;
    uint8_t hashes[64][32];
} fp__merkle_frontier;
void fp__merkle_frontier_append(fp__merkle_frontier *f, const uint8_t leaf_hash[32]);
void fp__merkle_frontier_root(const fp__merkle_frontier *f, uint8_t out[32]);

/* Where hashes come from: the root of the perfect subtree over leaves [index · 2^level, (index + 1) ·
 * 2^level). Only subtrees that lie wholly in the tree are asked for. */
typedef fp_status fp__merkle_read_fn(void *arg, unsigned level, uint64_t index, uint8_t out[32]);
/* A source over an array of leaf hashes: arg of fp__merkle_read_array. Costs 2^level hashes a read. */
typedef struct fp__merkle_array {
    const uint8_t *leaves; /* [n][32] */
    uint64_t n;
} fp__merkle_array;
fp_status fp__merkle_read_array(void *arg, unsigned level, uint64_t index, uint8_t out[32]) FP_WARN_UNUSED;

typedef struct fp__merkle_proof {
    size_t count;
    uint8_t hashes[FP__MERKLE_PROOF_MAX][32];
} fp__merkle_proof;
/* Root of the first `size` leaves of the source. size 0: SHA-256 of the empty string. */
fp_status fp__merkle_root_at(fp__merkle_read_fn *read, void *arg, uint64_t size,
                             uint8_t out[32]) FP_WARN_UNUSED;
/* PATH(index, D[size]), RFC 6962 §2.1.1. FP_USAGE unless index < size ≤ FP__MERKLE_SIZE_MAX. */
fp_status fp__merkle_inclusion(fp__merkle_read_fn *read, void *arg, uint64_t index, uint64_t size,
                               fp__merkle_proof *out) FP_WARN_UNUSED;
/* PROOF(m, D[n]), RFC 6962 §2.1.2. FP_USAGE unless 0 < m ≤ n ≤ FP__MERKLE_SIZE_MAX. */
fp_status fp__merkle_consistency(fp__merkle_read_fn *read, void *arg, uint64_t m, uint64_t n,
                                 fp__merkle_proof *out) FP_WARN_UNUSED;

/* Verification of untrusted proofs ([count][32]), RFC 9162 §2.1.3.2 and §2.1.4.2: the sizes must be possible
 * and the length exact. FP_INVALID: impossible sizes or a wrong number of hashes. FP_MISMATCH: the proof
 * leads elsewhere. A proof from size 0 is refused: every tree continues the empty one, so it would show
 * nothing. */
fp_status fp__merkle_verify_inclusion(const uint8_t leaf_hash[32], uint64_t index, uint64_t size,
                                      const uint8_t *proof, size_t count,
                                      const uint8_t root[32]) FP_WARN_UNUSED;
fp_status fp__merkle_verify_consistency(uint64_t m, const uint8_t root_m[32], uint64_t n,
                                        const uint8_t root_n[32], const uint8_t *proof,
                                        size_t count) FP_WARN_UNUSED;
/* The same for a subtree, MTH(D[begin:end]), as of draft-ietf-plants-merkle-tree-certs §4: begin must be a
 * multiple of the smallest power of two that is at least end - begin. That a leaf (its index in the whole
 * tree) is in the subtree, and that the subtree is part of the tree of `size` leaves. */
fp_status fp__merkle_verify_subtree_inclusion(const uint8_t leaf_hash[32], uint64_t index, uint64_t begin,
                                              uint64_t end, const uint8_t *proof, size_t count,
                                              const uint8_t subtree_root[32]) FP_WARN_UNUSED;
fp_status fp__merkle_verify_subtree_consistency(uint64_t begin, uint64_t end, const uint8_t subtree_root[32],
                                                uint64_t size, const uint8_t root[32], const uint8_t *proof,
                                                size_t count) FP_WARN_UNUSED;
/* The proof that the latter verifies. FP_USAGE unless it is a subtree of the tree. */
fp_status fp__merkle_subtree_consistency(fp__merkle_read_fn *read, void *arg, uint64_t begin, uint64_t end,
                                         uint64_t size, fp__merkle_proof *out) FP_WARN_UNUSED;
#endif
