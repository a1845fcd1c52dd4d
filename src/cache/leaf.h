/* Everything that is hashed in fieldprint's own formats: slabs, pages, kv heads, texts, salts, sets, models.
 *
 * SHA-256 with domain separation: a first byte, a tag of 15 ASCII bytes, the layout's version 01, then fields
 * with numbers little-endian. Trees have the shape of RFC 6962 (nodes 01 ‖ left ‖ right). An absent hash is
 * 32 zero bytes. vectors/hash_layouts.json holds examples made by an independent program.
 *
 * Pure functions, thread-safe. Hash arguments are [32]; an argument marked "NULL: absent" is hashed as zeros.
 */
#ifndef FP_CACHE_LEAF_H
#define FP_CACHE_LEAF_H
#include "cache/page.h"

/* H(00 "fieldprint/slab" 01 arith:u16 L:u16 HK:u16 d:u16 layer:u16 head:u16 zero[3] model[32] slab): the
 * prefix has 64 bytes, one SHA-256 block. */
void fp__leaf_slab(const fp__page_geometry *g, size_t layer, size_t kv_head, const uint8_t *slab,
                   uint8_t out[32]);

/* All slabs of a page group: slab_leaves [L·HK][32], and the group root: the tree over them. */
void fp__leaf_group(const fp__page_geometry *g, const uint8_t *group, uint8_t *slab_leaves, uint8_t root[32]);

/* H(00 "fieldprint/page" 01 page:u64 first_pos:u64 segment:u8 open:u8 label:u8 visible:u8 zero[4]
 *   anchor_kv_head[32] group_root[32] ids:u32[64]). ids: the `visible` first ones are read, the rest are
 * hashed as FP__ID_UNUSED. */
typedef struct fp__page_leaf {
    uint64_t page, first_pos;      /* index in its segment; position of its first token */
    uint8_t segment;               /* fp__segment: 0 anchor, 1 context */
    uint8_t open;                  /* 1: more tokens may follow in this page */
    uint8_t label;                 /* fp_label */
    uint8_t visible;               /* tokens, 1..64 */
    const uint8_t *anchor_kv_head; /* NULL: absent */
    const uint8_t *group_root;
    const uint32_t *ids; // [visible]
} fp__page_leaf;
void fp__leaf_page(const fp__page_leaf *leaf, uint8_t out[32]);

/* H(02 "fieldprint/head" 01 sealed:u64 sealed_root[32] open_leaf[32]). sealed_root is the RFC 6962 root over
 * the leaves of sealed pages (of no page: SHA-256 of the empty string). open_leaf NULL: absent. */
void fp__leaf_kv_head(uint64_t sealed, const uint8_t sealed_root[32], const uint8_t *open_leaf,
                      uint8_t out[32]);

/* salt_i = HMAC(master[32], "fieldprint/salt" 01 i:u64). */
void fp__leaf_salt(const uint8_t master[32], uint64_t i, uint8_t out[32]);

typedef enum fp__text_kind {
    FP__TEXT_MESSAGE = 0,
    FP__TEXT_OUTPUT = 1,
    FP__TEXT_KV_HEAD = 2,
    FP__TEXT_ANCHOR_MASSES = 3
} fp__text_kind;
/* What the kind's byte says besides: who speaks in a message (0: user), and that it is of a raw session. */
enum { FP__TEXT_OF_SYSTEM = 4, FP__TEXT_OF_ASSISTANT = 5, FP__TEXT_RAW = 0x80 };
/* H(00 "fieldprint/text" 01 kind:u8 label:u8 i:u64 salt_i[32] n:u64 bytes[n] m:u64 ids:u32[m]). */
typedef struct fp__text_leaf {
    uint8_t kind;  /* fp__text_kind; a message: FP__TEXT_OF_…; FP__TEXT_RAW */
    uint8_t label; /* fp_label */
    uint64_t i;
    const uint8_t *salt; // [32]
    const void *bytes;
    size_t bytes_size;
    const uint32_t *ids; // [ids_count]
    size_t ids_count;
} fp__text_leaf;
void fp__leaf_text(const fp__text_leaf *leaf, uint8_t out[32]);

/* H(03 "fieldprint/sets" 01 n:u32 anchor_id[32·n]). */
void fp__leaf_set_id(const uint8_t (*anchor_ids)[32], uint32_t n, uint8_t out[32]);

/* H(04 "fieldprint/modl" 01 arith:u16 H(GGUF) H(tokenizer) H(chat template) H(rope table)). */
typedef struct fp__model_parts {
    uint8_t gguf[32], tokenizer[32], chat_template[32], rope_table[32];
} fp__model_parts;
void fp__leaf_model(const fp__model_parts *parts, uint8_t out[32]);
#endif
