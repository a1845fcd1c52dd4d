#include "cache/leaf.h"
#include "core/bytes.h"
#include "merkle/tree.h"

enum { TAG_BYTES = 15, LAYOUT_VERSION = 1 };

/* A prefix under construction; the sizes are those of the layouts, known at compile time. */
typedef struct writer {
    uint8_t *data;
    size_t size;
} writer;

static void put_bytes(writer *w, const void *data, size_t n)
{
    memcpy(w->data + w->size, data, n);
    w->size += n;
}
static void put_hash(writer *w, const uint8_t *hash) /* NULL: absent */
{
    static const uint8_t zero[32] = {0};
    put_bytes(w, hash ? hash : zero, 32);
}
static void put_u8(writer *w, unsigned v)
{
    w->data[w->size++] = (uint8_t)v;
}
static void put_u16(writer *w, size_t v)
{
    fp__store_le16(w->data + w->size, (uint16_t)v);
    w->size += 2;
}
static void put_u32(writer *w, uint32_t v)
{
    fp__store_le32(w->data + w->size, v);
    w->size += 4;
}
static void put_u64(writer *w, uint64_t v)
{
    fp__store_le64(w->data + w->size, v);
    w->size += 8;
}
static void put_tag(writer *w, const char *tag)
{
    put_bytes(w, tag, TAG_BYTES);
    put_u8(w, LAYOUT_VERSION);
}

void fp__leaf_slab(const fp__page_geometry *g, size_t layer, size_t kv_head, const uint8_t *slab,
                   uint8_t out[32])
{
    uint8_t prefix[64] = {0};
    writer w = {.data = prefix};
    put_u8(&w, 0x00);
    put_tag(&w, "fieldprint/slab");
    put_u16(&w, FP__ARITHMETIC_VERSION);
    put_u16(&w, g->layers);
    put_u16(&w, g->kv_heads);
    put_u16(&w, g->d);
    put_u16(&w, layer);
    put_u16(&w, kv_head);
    w.size += 3;
    put_hash(&w, g->model);
    FP_CHECK(w.size == sizeof prefix);
    fp__sha256_parts((fp__part[]){{prefix, sizeof prefix}, {slab, fp__slab_bytes(g->d)}}, 2, out);
}

void fp__leaf_group(const fp__page_geometry *g, const uint8_t *group, uint8_t *slab_leaves, uint8_t root[32])
{
    size_t slabs = fp__page_slabs(g), slab_bytes = fp__slab_bytes(g->d);
    for (size_t s = 0; s < slabs; s++)
        fp__leaf_slab(g, s / g->kv_heads, s % g->kv_heads, group + s * slab_bytes, slab_leaves + 32 * s);
    fp__merkle_root(slab_leaves, slabs, root);
}

void fp__leaf_page(const fp__page_leaf *leaf, uint8_t out[32])
{
    uint8_t data[1 + 16 + 16 + 8 + 64 + 4 * FP__PAGE_TOKENS] = {0};
    writer w = {.data = data};
    put_u8(&w, 0x00);
    put_tag(&w, "fieldprint/page");
    put_u64(&w, leaf->page);
    put_u64(&w, leaf->first_pos);
    put_u8(&w, leaf->segment);
    put_u8(&w, leaf->open);
    put_u8(&w, leaf->label);
    put_u8(&w, leaf->visible);
    w.size += 4;
    put_hash(&w, leaf->anchor_kv_head);
    put_hash(&w, leaf->group_root);
    for (size_t i = 0; i < FP__PAGE_TOKENS; i++)
        put_u32(&w, i < leaf->visible ? leaf->ids[i] : FP__ID_UNUSED);
    FP_CHECK(w.size == sizeof data);
    fp__sha256(data, sizeof data, out);
}

void fp__leaf_kv_head(uint64_t sealed, const uint8_t sealed_root[32], const uint8_t *open_leaf,
                      uint8_t out[32])
{
    uint8_t data[1 + 16 + 8 + 64];
    writer w = {.data = data};
    put_u8(&w, 0x02);
    put_tag(&w, "fieldprint/head");
    put_u64(&w, sealed);
    put_hash(&w, sealed_root);
    put_hash(&w, open_leaf);
    fp__sha256(data, w.size, out);
}

void fp__leaf_salt(const uint8_t master[32], uint64_t i, uint8_t out[32])
{
    uint8_t data[16 + 8];
    writer w = {.data = data};
    put_tag(&w, "fieldprint/salt");
    put_u64(&w, i);
    fp__hmac_sha256(master, 32, data, w.size, out);
}

/* Numbers in memory may be of any byte order: they pass through a small buffer. */
static void update_ids(fp__sha256_ctx *ctx, const uint32_t *ids, size_t n)
{
    uint8_t data[4 * 64];
    for (size_t first = 0; first < n; first += 64) {
        writer w = {.data = data};
        for (size_t i = first; i < n && i < first + 64; i++)
            put_u32(&w, ids[i]);
        fp__sha256_update(ctx, data, w.size);
    }
}

void fp__leaf_text(const fp__text_leaf *leaf, uint8_t out[32])
{
    uint8_t prefix[1 + 16 + 2 + 8 + 32 + 8], count[8];
    writer w = {.data = prefix};
    put_u8(&w, 0x00);
    put_tag(&w, "fieldprint/text");
    put_u8(&w, leaf->kind);
    put_u8(&w, leaf->label);
    put_u64(&w, leaf->i);
    put_hash(&w, leaf->salt);
    put_u64(&w, leaf->bytes_size);
    fp__store_le64(count, leaf->ids_count);
    fp__sha256_ctx ctx = {0};
    fp__sha256_init(&ctx);
    fp__sha256_update(&ctx, prefix, w.size);
    if (leaf->bytes_size > 0)
        fp__sha256_update(&ctx, leaf->bytes, leaf->bytes_size);
    fp__sha256_update(&ctx, count, sizeof count);
    update_ids(&ctx, leaf->ids, leaf->ids_count);
    fp__sha256_final(&ctx, out);
    fp__sha256_free(&ctx);
}

void fp__leaf_set_id(const uint8_t (*anchor_ids)[32], uint32_t n, uint8_t out[32])
{
    uint8_t prefix[1 + 16 + 4];
    writer w = {.data = prefix};
    put_u8(&w, 0x03);
    put_tag(&w, "fieldprint/sets");
    put_u32(&w, n);
    fp__sha256_parts((fp__part[]){{prefix, w.size}, {anchor_ids, 32 * (size_t)n}}, 2, out);
}

void fp__leaf_model(const fp__model_parts *parts, uint8_t out[32])
{
    uint8_t data[1 + 16 + 2 + 4 * 32];
    writer w = {.data = data};
    put_u8(&w, 0x04);
    put_tag(&w, "fieldprint/modl");
    put_u16(&w, FP__ARITHMETIC_VERSION);
    put_hash(&w, parts->gguf);
    put_hash(&w, parts->tokenizer);
    put_hash(&w, parts->chat_template);
    put_hash(&w, parts->rope_table);
    fp__sha256(data, w.size, out);
}
