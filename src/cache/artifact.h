/* KV artifact (.fpkv): the K/V of one segment in a file: an anchor set, or a session's context.
 *
 * All numbers little-endian. Header:
 *   0 "FPKV"  4 version:u16 = 1  6 arithmetic:u16  8 kind:u8 (0 anchor set, 1 session)  9 zero[7]
 *   16 header_bytes:u64  24 file_bytes:u64  32 model[32]  64 subject[32] (set id, session id)
 *   96 layers:u16 kv_heads:u16 d:u16 page_tokens:u16 = 64  104 first_pos:u64  112 tokens:u64
 *   120 pages:u32 sealed:u32  128 anchors:u32 manifest_bytes:u32  136 zero[8]
 *   144 anchor_kv_head[32]  176 tenant[32]  208 injection[32]  240 sealed_root[32]  272 open_leaf[32]
 *   304 kv_head[32]  336 zero[48]
 *   384 anchor_tokens:u32[anchors]  page_label:u8[pages]  ids:u32[tokens]  slab_leaf[32][pages][L·HK]
 *       manifest[manifest_bytes]  header_digest[32] = SHA-256 of all header bytes before it
 * then zeros up to a multiple of 4096, then each page group, each followed by zeros up to a multiple of 4096;
 * nothing after. header_digest finds accidents only. What the header commits to proves nothing either: the
 * expected kv head comes from the caller (a logged compile event, or a manifest signed by this deployment's
 * engine key).
 *
 * Files are untrusted. Page groups are copied into private pool memory, that copy is hashed and compared, and
 * only then the sequence is handed out; a file is never mapped, so that it cannot change under the reader. */
#ifndef FP_CACHE_ARTIFACT_H
#define FP_CACHE_ARTIFACT_H
#include "cache/sequence.h"

#define FP__ARTIFACT_VERSION 1
#define FP__ARTIFACT_MANIFEST_MAX (1u << 20)

typedef enum fp__artifact_kind { FP__ARTIFACT_ANCHORS = 0, FP__ARTIFACT_SESSION = 1 } fp__artifact_kind;

/* What a file says about itself: claims, until fp__artifact_load compared them. */
typedef struct fp__artifact_info {
    fp__artifact_kind kind;
    uint16_t arithmetic_version;
    fp__page_geometry geometry;
    uint8_t subject[32];        /* set id, or session id */
    uint8_t tenant[32];         /* sessions: hash of the tenant; else zero */
    uint8_t injection[32];      /* sessions: digest of the injection; else zero */
    uint8_t anchor_kv_head[32]; /* sessions with anchors; else zero */
    uint8_t kv_head[32];
    uint64_t first_pos, tokens;
    size_t pages, sealed, anchors;
    uint64_t file_bytes;
} fp__artifact_info;

/* Writes seq (all of it) atomically and durably. kind follows the segment; from `info` only subject, tenant
 * and injection are read. manifest (may be NULL if size is 0) is opaque here. Checks the pages against their
 * checksums on the way: FP_MISMATCH names page, layer and head, and no file is written. FP_USAGE: empty
 * sequence. */
fp_status fp__artifact_write(const char *path, fp__kvseq *seq, const fp__artifact_info *info,
                             const void *manifest, size_t manifest_size) FP_WARN_UNUSED;

typedef struct fp__artifact fp__artifact;
/* Opens and checks form and sizes of all that is not a page group. FP_FORMAT: not of this form (what, where);
 * FP_UNSUPPORTED: another version or arithmetic version; FP_MISMATCH: header damaged. */
fp_status fp__artifact_open(const char *path, fp__artifact **out) FP_WARN_UNUSED;
/* The same over bytes in memory, which must stay. `name` is for messages. */
fp_status fp__artifact_open_memory(const char *name, const void *data, size_t size,
                                   fp__artifact **out) FP_WARN_UNUSED;
void fp__artifact_close(fp__artifact *artifact); /* NULL is fine */
const fp__artifact_info *fp__artifact_info_get(const fp__artifact *artifact);
const uint32_t *fp__artifact_ids(const fp__artifact *artifact);                   // [tokens]
const uint8_t *fp__artifact_manifest(const fp__artifact *artifact, size_t *size); /* not verified */

/* What the caller knows from elsewhere. NULL pointers are not compared, except kv_head (never NULL) and
 * anchor_kv_head (NULL: must be absent). */
typedef struct fp__artifact_expect {
    fp__artifact_kind kind;
    const uint8_t *kv_head;        // [32]
    const uint8_t *anchor_kv_head; // [32]
    const uint8_t *subject;        // [32]
    const uint8_t *tenant;         // [32]
    const uint8_t *injection;      // [32]
    fp_label
        label; /* sessions: lowest label of what lies before (the anchors'; FP_LABEL_CORE: nothing does) */
    size_t max_tokens; /* context size of the sequence that is made, ≥ its tokens; 0: just those */
} fp__artifact_expect;
/* Copies the pages into the pool, hashes the copy on the hasher's workers and the caller, compares, and gives
 * the sequence. The model is the pool's geometry: FP_MISMATCH "made for another model". FP_MISMATCH of a page
 * names page, layer and head; FP_LIMIT when it does not fit the pool or max_tokens. Labels of single tokens
 * are not stored: after loading, each token has its page's label. On failure every page goes back to the
 * pool. */
fp_status fp__artifact_load(fp__artifact *artifact, const fp__artifact_expect *expect, fp__pool *pool,
                            fp__hasher *hasher, fp__kvseq **out) FP_WARN_UNUSED;
#endif
