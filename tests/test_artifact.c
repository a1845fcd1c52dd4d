/* KV artifacts: what is written is read back with the same kv head, and nothing else is: each field, each
 * region. */
#include "kv_fixture.h"

#include "cache/artifact.h"
#include "core/file.h"
#include "merkle/sha256.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static char folder[] = "/tmp/fieldprint-artifact-XXXXXX";
static char path[256];

/* An artifact in memory, and what its loader is told. */
typedef struct sample {
    fp__buf file;
    uint8_t kv_head[32], subject[32], tenant[32], injection[32], anchor_kv_head[32];
    fp__artifact_expect expect;
} sample;

static fp__artifact_info given(const sample *s)
{
    fp__artifact_info info = {0};
    memcpy(info.subject, s->subject, 32);
    if (s->expect.kind == FP__ARTIFACT_SESSION) {
        memcpy(info.tenant, s->tenant, 32);
        memcpy(info.injection, s->injection, 32);
    }
    return info;
}

static void sample_finish(sample *s, fp__kvseq *seq, const char *manifest)
{
    KV_OK(fp__kvseq_head(seq, s->kv_head));
    s->expect.kv_head = s->kv_head;
    s->expect.subject = s->subject;
    fp__artifact_info info = given(s);
    KV_OK(fp__artifact_write(path, seq, &info, manifest, strlen(manifest)));
    KV_OK(fp__file_read(path, 1 << 24, &s->file));
}

/* Anchors of 70, 10 and 128 tokens: pages 64, 6, 10, 64, 64, all sealed; or 70 and 10 with an open page. */
static void sample_anchors(sample *s, size_t anchors)
{
    static const size_t runs[] = {70, 10, 128};
    kv_fixture f = kv_open(8, 1);
    *s = (sample){.subject = {1, 2}, .expect.kind = FP__ARTIFACT_ANCHORS};
    fp__kvseq *seq = kv_new(&f, kv_anchors(400, 3));
    for (size_t a = 0; a < anchors; a++) {
        KV_OK(fp__kvseq_start_anchor(seq));
        kv_append(seq, runs[a], 64, a < 2 ? FP_LABEL_CORE : FP_LABEL_USER);
    }
    sample_finish(s, seq, "");
    fp__kvseq_destroy(seq);
    kv_close(&f);
}

static void sample_session(sample *s)
{
    kv_fixture f = kv_open(8, 1);
    *s = (sample){.subject = {9}, .tenant = {8}, .injection = {7}, .anchor_kv_head = {6}};
    s->expect = (fp__artifact_expect){.kind = FP__ARTIFACT_SESSION,
                                      .anchor_kv_head = s->anchor_kv_head,
                                      .tenant = s->tenant,
                                      .injection = s->injection,
                                      .label = FP_LABEL_CORE,
                                      .max_tokens = 500};
    fp__kvseq_options options = kv_context(400);
    options.first_pos = 77;
    options.anchor_kv_head = s->anchor_kv_head;
    fp__kvseq *seq = kv_new(&f, options);
    kv_append(seq, 100, 64, FP_LABEL_USER);
    kv_append(seq, 50, 64, FP_LABEL_EXTERNAL);
    sample_finish(s, seq, "{\"any\": \"bytes\"}");
    fp__kvseq_destroy(seq);
    kv_close(&f);
}

/* Opens and loads from memory; on success *seq is the caller's. */
static fp_status load_with(const sample *s, const void *data, size_t size, const kv_fixture *f,
                           fp__kvseq **seq)
{
    fp__artifact *artifact;
    FP_TRY(fp__artifact_open_memory("x.fpkv", data, size, &artifact));
    fp_status status = fp__artifact_load(artifact, &s->expect, f->pool, f->hasher, seq);
    fp__artifact_close(artifact);
    return status;
}

/* ---- round trips ---- */

static void expect_same(sample *s, size_t workers)
{
    kv_fixture f = kv_open(8, workers);
    fp__artifact *artifact;
    fp__kvseq *seq;
    uint8_t head[32];
    KV_OK(fp__file_write(path, s->file.data, s->file.size, 0600));
    KV_OK(fp__artifact_open(path, &artifact));
    KV_OK(fp__artifact_load(artifact, &s->expect, f.pool, f.hasher, &seq));
    const fp__artifact_info *info = fp__artifact_info_get(artifact);
    assert_int_equal(info->tokens, fp__kvseq_tokens(seq));
    assert_int_equal(info->file_bytes, s->file.size);
    assert_memory_equal(info->kv_head, s->kv_head, 32);
    assert_memory_equal(info->subject, s->subject, 32);
    for (size_t t = 0; t < info->tokens; t++) {
        assert_int_equal(fp__artifact_ids(artifact)[t], kv_id(t));
        assert_int_equal(fp__kvseq_ids(seq)[t], kv_id(t));
    }
    fp__artifact_close(artifact);
    KV_OK(fp__kvseq_head(seq, head));
    assert_memory_equal(head, s->kv_head, 32);
    KV_OK(fp__kvseq_verify(seq, 0, fp__kvseq_pages(seq)));
    /* written again it is the same file */
    fp__buf again = {0};
    size_t size;
    KV_OK(fp__artifact_open_memory("first", s->file.data, s->file.size, &artifact));
    const uint8_t *manifest = fp__artifact_manifest(artifact, &size);
    fp__artifact_info to_give = given(s);
    KV_OK(fp__artifact_write(path, seq, &to_give, manifest, size));
    KV_OK(fp__file_read(path, 1 << 24, &again));
    assert_int_equal(again.size, s->file.size);
    assert_memory_equal(again.data, s->file.data, again.size);
    fp__buf_free(&again);
    fp__artifact_close(artifact);
    fp__kvseq_destroy(seq);
    kv_close(&f);
}

static void test_round_trips(void **state)
{
    (void)state;
    for (size_t workers = 0; workers <= 2; workers++) {
        sample s;
        for (size_t anchors = 1; anchors <= 3; anchors++) {
            sample_anchors(&s, anchors);
            expect_same(&s, workers);
            fp__buf_free(&s.file);
        }
        sample_session(&s);
        expect_same(&s, workers);
        fp__buf_free(&s.file);
    }
}

/* A restored session goes on as if it had never been away. */
static void test_restored_goes_on(void **state)
{
    (void)state;
    sample s;
    sample_session(&s);
    kv_fixture f = kv_open(16, 1);
    fp__kvseq *restored, *fresh;
    KV_OK(load_with(&s, s.file.data, s.file.size, &f, &restored));
    fp__kvseq_options options = *fp__kvseq_options_get(restored);
    assert_int_equal(options.first_pos, 77);
    assert_int_equal(fp__kvseq_max_tokens(restored), 500);
    assert_int_equal(fp__kvseq_label(restored), FP_LABEL_EXTERNAL);
    fresh = kv_new(&f, options);
    kv_append(fresh, 100, 7, FP_LABEL_USER);
    kv_append(fresh, 100, 7, FP_LABEL_EXTERNAL);
    kv_append(restored, 50, 9, FP_LABEL_EXTERNAL);
    uint8_t a[32], b[32];
    KV_OK(fp__kvseq_head(fresh, a));
    KV_OK(fp__kvseq_head(restored, b));
    assert_memory_equal(a, b, 32);
    /* going back below the mixed page is exact; inside it, its tokens have the page's lowest label */
    KV_OK(fp__kvseq_truncate(restored, 100));
    assert_int_equal(fp__kvseq_label(restored), FP_LABEL_EXTERNAL);
    KV_OK(fp__kvseq_truncate(restored, 64));
    assert_int_equal(fp__kvseq_label(restored), FP_LABEL_USER);
    fp__kvseq_destroy(fresh);
    fp__kvseq_destroy(restored);
    kv_close(&f);
    fp__buf_free(&s.file);
}

/* ---- named corruptions ---- */

typedef struct editor {
    const sample *sample;
    uint8_t *data; /* room for 8,192 bytes more */
    size_t size;
} editor;

/* Makes the header's own digest right again, as somebody who alters an artifact on purpose would. */
static void reseal(editor *e)
{
    size_t digest = fp__load_le64(e->data + 16) - 32;
    fp__sha256(e->data, digest, e->data + digest);
}

static size_t first_page(const editor *e)
{
    return (fp__load_le64(e->data + 16) + 4095) / 4096 * 4096;
}

#define EDIT(name, code)                                                                                     \
    static void name(editor *e)                                                                              \
    {                                                                                                        \
        code;                                                                                                \
    }
/* The session sample: 150 tokens, 3 pages (2 sealed), no anchors, 16 bytes of manifest; the tables start at
 * 384. */
EDIT(edit_empty, e->size = 0)
EDIT(edit_short, e->size = 383)
EDIT(edit_header_only, e->size = 384)
EDIT(edit_truncated, e->size -= 1)
EDIT(edit_truncated_page, e->size -= 4096)
EDIT(edit_appended, memset(e->data + e->size, 0, 1); e->size += 1)
EDIT(edit_appended_page, memset(e->data + e->size, 0, 8192); e->size += 8192)
EDIT(edit_magic, e->data[0] = 'G')
EDIT(edit_version, e->data[4] = 2)
EDIT(edit_arithmetic, e->data[6] = 2)
EDIT(edit_kind_unknown, e->data[8] = 2)
EDIT(edit_kind_anchors, e->data[8] = 0; reseal(e))
EDIT(edit_reserved_1, e->data[12] = 1; reseal(e))
EDIT(edit_reserved_2, e->data[140] = 1; reseal(e))
EDIT(edit_reserved_3, e->data[383] = 1; reseal(e))
EDIT(edit_header_bytes, fp__store_le64(e->data + 16, fp__load_le64(e->data + 16) + 1))
EDIT(edit_header_bytes_huge, fp__store_le64(e->data + 16, UINT64_MAX))
EDIT(edit_file_bytes, fp__store_le64(e->data + 24, fp__load_le64(e->data + 24) + 4096))
EDIT(edit_model, e->data[32] ^= 1; reseal(e))
EDIT(edit_model_unsealed, e->data[32] ^= 1)
EDIT(edit_subject, e->data[64] ^= 1; reseal(e))
EDIT(edit_layers_zero, fp__store_le16(e->data + 96, 0))
EDIT(edit_layers, fp__store_le16(e->data + 96, 3); fp__store_le16(e->data + 98, 2); reseal(e))
EDIT(edit_kv_heads_huge, fp__store_le16(e->data + 98, 0xffff); fp__store_le16(e->data + 96, 0xffff))
EDIT(edit_d, fp__store_le16(e->data + 100, 9))
EDIT(edit_d_huge, fp__store_le16(e->data + 100, 513))
EDIT(edit_page_tokens, fp__store_le16(e->data + 102, 32))
EDIT(edit_first_pos, fp__store_le64(e->data + 104, 78); reseal(e))
EDIT(edit_first_pos_huge, fp__store_le64(e->data + 104, UINT64_MAX))
EDIT(edit_tokens_zero, fp__store_le64(e->data + 112, 0))
EDIT(edit_tokens_more, fp__store_le64(e->data + 112, 193))
EDIT(edit_tokens_huge, fp__store_le64(e->data + 112, UINT64_MAX / 4))
EDIT(edit_pages_zero, fp__store_le32(e->data + 120, 0))
EDIT(edit_pages_huge, fp__store_le32(e->data + 120, UINT32_MAX); fp__store_le32(e->data + 124, UINT32_MAX))
EDIT(edit_sealed, fp__store_le32(e->data + 124, 1))
EDIT(edit_sealed_all, fp__store_le32(e->data + 124, 3); reseal(e))
EDIT(edit_anchors, fp__store_le32(e->data + 128, 1))
EDIT(edit_manifest_bytes, fp__store_le32(e->data + 132, 15))
EDIT(edit_manifest_huge, fp__store_le32(e->data + 132, UINT32_MAX))
EDIT(edit_anchor_head, e->data[144] ^= 1; reseal(e))
EDIT(edit_tenant, e->data[176] ^= 1; reseal(e))
EDIT(edit_injection, e->data[208] ^= 1; reseal(e))
EDIT(edit_sealed_root, e->data[240] ^= 1; reseal(e))
EDIT(edit_open_leaf, e->data[272] ^= 1; reseal(e))
EDIT(edit_kv_head, e->data[304] ^= 1; reseal(e))
EDIT(edit_page_label, e->data[384] = 0; reseal(e)) /* lower: allowed in form, but not what was committed */
EDIT(edit_page_label_raised, e->data[384 + 2] = 2; reseal(e))
EDIT(edit_id, e->data[387] ^= 1; reseal(e))
EDIT(edit_id_unused, fp__store_le32(e->data + 387, UINT32_MAX); reseal(e))
EDIT(edit_slab_leaf, e->data[387 + 600] ^= 1; reseal(e))
EDIT(edit_manifest_unsealed, e->data[387 + 600 + 3 * 6 * 32] ^= 1)
EDIT(edit_digest, e->data[fp__load_le64(e->data + 16) - 1] ^= 1)
EDIT(edit_header_padding, e->data[first_page(e) - 1] = 1)
EDIT(edit_page_0, e->data[first_page(e)] ^= 1)
EDIT(edit_page_1, e->data[first_page(e) + 8192 + 2 * 1280 + 700] ^= 0x80)
EDIT(edit_page_2_scale, e->data[first_page(e) + 2 * 8192 + 5 * 1280 + 1024 + 4] ^= 2)
EDIT(edit_page_2_unused_slot, e->data[first_page(e) + 2 * 8192 + 3 * 1280 + 63 * 8] = 1)
EDIT(edit_page_padding, e->data[first_page(e) + 6 * 1280] = 1)
EDIT(edit_last_byte, e->data[e->size - 1] = 1)

static void edit_swap_pages(editor *e)
{
    uint8_t page[8192], *first = e->data + first_page(e);
    memcpy(page, first, 8192);
    memcpy(first, first + 8192, 8192);
    memcpy(first + 8192, page, 8192);
}

/* The strongest forger: changes K/V and makes slab leaves, roots, kv head and digest of the header fit. */
static void edit_forged(editor *e)
{
    fp__page_geometry g = kv_geometry();
    uint8_t *slab = e->data + first_page(e), *leaves = e->data + 387 + 600, root[32], leaf[2][32],
            sealed_root[32];
    slab[0] ^= 1;
    fp__leaf_slab(&g, 0, 0, slab, leaves);
    for (size_t p = 0; p < 2; p++) {
        uint32_t ids[64];
        for (size_t i = 0; i < 64; i++)
            ids[i] = kv_id(64 * p + i);
        fp__merkle_root(leaves + 192 * p, 6, root);
        fp__leaf_page(&(fp__page_leaf){.page = p,
                                       .first_pos = 77 + 64 * p,
                                       .segment = 1,
                                       .label = (uint8_t)(1 - p),
                                       .visible = 64,
                                       .anchor_kv_head = e->sample->anchor_kv_head,
                                       .group_root = root,
                                       .ids = ids},
                      leaf[p]);
    }
    fp__merkle_root(leaf[0], 2, sealed_root);
    memcpy(e->data + 240, sealed_root, 32);
    fp__leaf_kv_head(2, sealed_root, e->data + 272, e->data + 304);
    reseal(e);
}

static const struct corruption {
    const char *name;
    void (*edit)(editor *e);
    fp_status status;
    const char *word;
} corruptions[] = {
    {"empty", edit_empty, FP_FORMAT, "too short"},
    {"cut in the fixed header", edit_short, FP_FORMAT, "too short"},
    {"fixed header only", edit_header_only, FP_FORMAT, "truncated"},
    {"one byte less", edit_truncated, FP_FORMAT, "truncated"},
    {"one block less", edit_truncated_page, FP_FORMAT, "truncated"},
    {"one byte more", edit_appended, FP_FORMAT, "followed by other bytes"},
    {"a page more", edit_appended_page, FP_FORMAT, "followed by other bytes"},
    {"magic", edit_magic, FP_FORMAT, "FPKV"},
    {"version", edit_version, FP_UNSUPPORTED, "version 2"},
    {"arithmetic version", edit_arithmetic, FP_UNSUPPORTED, "arithmetic version 2"},
    {"unknown kind", edit_kind_unknown, FP_FORMAT, "kind"},
    {"kind changed", edit_kind_anchors, FP_FORMAT, "anchor count"},
    {"reserved bytes after kind", edit_reserved_1, FP_FORMAT, "reserved"},
    {"reserved bytes after the counts", edit_reserved_2, FP_FORMAT, "reserved"},
    {"reserved bytes at the end", edit_reserved_3, FP_FORMAT, "reserved"},
    {"header size", edit_header_bytes, FP_FORMAT, "header size"},
    {"huge header size", edit_header_bytes_huge, FP_FORMAT, "header size"},
    {"file size", edit_file_bytes, FP_FORMAT, "file size"},
    {"model digest", edit_model, FP_MISMATCH, "made for another model"},
    {"model digest, plain flip", edit_model_unsealed, FP_MISMATCH, "header"},
    {"session id", edit_subject, FP_MISMATCH, "another session"},
    {"no layers", edit_layers_zero, FP_FORMAT, "out of range"},
    {"layers and heads exchanged", edit_layers, FP_MISMATCH, "3 layers, 2 KV heads"},
    {"too many slabs", edit_kv_heads_huge, FP_FORMAT, "out of range"},
    {"head size", edit_d, FP_FORMAT, "file size"},
    {"huge head size", edit_d_huge, FP_FORMAT, "out of range"},
    {"page size", edit_page_tokens, FP_FORMAT, "64 tokens"},
    {"first position", edit_first_pos, FP_MISMATCH, "contradicts itself"},
    {"huge first position", edit_first_pos_huge, FP_FORMAT, "first position"},
    {"no tokens", edit_tokens_zero, FP_FORMAT, "token count"},
    {"more tokens than pages hold", edit_tokens_more, FP_FORMAT, "token count"},
    {"huge token count", edit_tokens_huge, FP_FORMAT, "token count"},
    {"no pages", edit_pages_zero, FP_FORMAT, "token count"},
    {"huge page count", edit_pages_huge, FP_FORMAT, "follow from the counts"},
    {"sealed count", edit_sealed, FP_FORMAT, "sealed pages"},
    {"open page called sealed", edit_sealed_all, FP_FORMAT, "sealed pages"},
    {"anchors in a session", edit_anchors, FP_FORMAT, "anchor count"},
    {"manifest size", edit_manifest_bytes, FP_FORMAT, "header size"},
    {"huge manifest size", edit_manifest_huge, FP_FORMAT, "manifest"},
    {"anchor kv head", edit_anchor_head, FP_MISMATCH, "other anchors"},
    {"tenant", edit_tenant, FP_MISMATCH, "another tenant"},
    {"injection", edit_injection, FP_MISMATCH, "another injection"},
    {"sealed root", edit_sealed_root, FP_MISMATCH, "contradicts itself"},
    {"open leaf", edit_open_leaf, FP_MISMATCH, "contradicts itself"},
    {"kv head", edit_kv_head, FP_MISMATCH, "contradicts itself"},
    {"page label lowered", edit_page_label, FP_MISMATCH, "contradicts itself"},
    {"page label raised", edit_page_label_raised, FP_FORMAT, "higher label"},
    {"token id", edit_id, FP_MISMATCH, "contradicts itself"},
    {"unused token id", edit_id_unused, FP_FORMAT, "token id"},
    {"slab leaf", edit_slab_leaf, FP_MISMATCH, "contradicts itself"},
    {"manifest, plain flip", edit_manifest_unsealed, FP_MISMATCH, "header"},
    {"header digest", edit_digest, FP_MISMATCH, "header"},
    {"padding after the header", edit_header_padding, FP_FORMAT, "padding after the header"},
    {"K of page 0", edit_page_0, FP_MISMATCH, "page 0, layer 0, head 0"},
    {"V of page 1", edit_page_1, FP_MISMATCH, "page 1, layer 0, head 2"},
    {"scale of page 2", edit_page_2_scale, FP_MISMATCH, "page 2, layer 1, head 2"},
    {"unused slot of page 2", edit_page_2_unused_slot, FP_MISMATCH, "page 2, layer 1, head 0"},
    {"padding after a page", edit_page_padding, FP_FORMAT, "padding after a page"},
    {"last byte", edit_last_byte, FP_FORMAT, "padding after a page"},
    {"pages exchanged", edit_swap_pages, FP_MISMATCH, "page 0, layer 0, head 0"},
    {"forged throughout", edit_forged, FP_MISMATCH, "header's commitments"},
};

static void test_corruptions(void **state)
{
    (void)state;
    sample s;
    sample_session(&s);
    kv_fixture f = kv_open(8, 1);
    fp__kvseq *seq;
    KV_OK(load_with(&s, s.file.data, s.file.size, &f, &seq)); /* the table below cannot pass by accident */
    fp__kvseq_destroy(seq);
    for (size_t i = 0; i < COUNT(corruptions); i++) {
        const struct corruption *c = &corruptions[i];
        editor e = {.sample = &s, .data = malloc(s.file.size + 8192), .size = s.file.size};
        assert_non_null(e.data);
        memcpy(e.data, s.file.data, s.file.size);
        c->edit(&e);
        fp_status status = load_with(&s, e.data, e.size, &f, &seq);
        if (status != c->status || !strstr(fp_error_detail(), c->word))
            fail_msg("%s: %s \"%s\"", c->name, fp_status_name(status), fp_error_detail());
        assert_int_equal(fp__pool_stats_get(f.pool).used_groups, 0); /* nothing is kept of what was refused */
        free(e.data);
    }
    kv_close(&f);
    fp__buf_free(&s.file);
}

/* One bit of every byte: refused, wherever it is. */
static void sweep(sample *s, size_t step)
{
    kv_fixture f = kv_open(8, 0);
    for (size_t at = 0; at < s->file.size; at += at < 8192 ? 1 : step) {
        fp__kvseq *seq;
        uint8_t bit = (uint8_t)(1u << (at * 5 + at / 8) % 8);
        s->file.data[at] ^= bit;
        fp_status status = load_with(s, s->file.data, s->file.size, &f, &seq);
        s->file.data[at] ^= bit;
        if (status != FP_FORMAT && status != FP_MISMATCH && status != FP_UNSUPPORTED)
            fail_msg("a flip at %zu gave %s", at, fp_status_name(status));
    }
    kv_close(&f);
}

static void test_flip_sweep(void **state)
{
    (void)state;
    sample s;
    sample_session(&s);
    sweep(&s, 3);
    fp__buf_free(&s.file);
    sample_anchors(&s, 3);
    sweep(&s, 7);
    fp__buf_free(&s.file);
}

static void test_every_truncation(void **state)
{
    (void)state;
    sample s;
    sample_anchors(&s, 2);
    kv_fixture f = kv_open(8, 0);
    for (size_t size = 0; size < s.file.size; size += size < 2048 ? 1 : 61) {
        fp__kvseq *seq;
        uint8_t *copy = malloc(size + 1); /* so that a sanitizer sees reads behind the end */
        assert_non_null(copy);
        memcpy(copy, s.file.data, size);
        KV_FAIL(load_with(&s, copy, size, &f, &seq), FP_FORMAT, "x.fpkv");
        free(copy);
    }
    kv_close(&f);
    fp__buf_free(&s.file);
}

/* ---- what the caller expects ---- */

static void test_expectations(void **state)
{
    (void)state;
    sample s, anchors;
    sample_session(&s);
    sample_anchors(&anchors, 3);
    kv_fixture f = kv_open(8, 1);
    fp__kvseq *seq;
    uint8_t other[32] = {0x55};
    sample t = s;
#define EXPECT(change, word)                                                                                 \
    t = s;                                                                                                   \
    change;                                                                                                  \
    KV_FAIL(load_with(&t, t.file.data, t.file.size, &f, &seq), FP_MISMATCH, word)
    EXPECT(t.expect.kv_head = other, "5500000000000000… is expected");
    EXPECT(t.expect.subject = other, "another session");
    EXPECT(t.expect.tenant = other, "another tenant");
    EXPECT(t.expect.injection = other, "another injection");
    EXPECT(t.expect.anchor_kv_head = other, "other anchors");
    EXPECT(t.expect.anchor_kv_head = NULL, "other anchors");
    EXPECT(t.expect.kind = FP__ARTIFACT_ANCHORS, "holds a session, not an anchor set");
    EXPECT(t.file = anchors.file, "holds an anchor set, not a session");
    EXPECT(t.expect.label = FP_LABEL_EXTERNAL, "label 1 at its start, above 0");
    t = s;
    t.expect.max_tokens = 149;
    KV_FAIL(load_with(&t, t.file.data, t.file.size, &f, &seq), FP_LIMIT, "context of 149");
    kv_close(&f);
    f = kv_open(2, 1);
    KV_FAIL(load_with(&s, s.file.data, s.file.size, &f, &seq), FP_LIMIT, "K/V pages");
    kv_close(&f);
    /* the same artifact under another model, and another shape with the same digest */
    for (int i = 0; i < 2; i++) {
        fp__page_geometry g = kv_geometry();
        if (i == 0)
            g.model[31] ^= 1;
        else
            g.layers++;
        KV_OK(fp__pool_create(&g, 8, NULL, &f.pool));
        KV_OK(fp__hasher_create(1, &f.hasher));
        KV_FAIL(load_with(&s, s.file.data, s.file.size, &f, &seq), FP_MISMATCH,
                i == 0 ? "made for another model" : "the model has 3");
        kv_close(&f);
    }
    fp__buf_free(&s.file);
    fp__buf_free(&anchors.file);
}

/* ---- files ---- */

static void test_files(void **state)
{
    (void)state;
    fp__artifact *artifact;
    char missing[300];
    snprintf(missing, sizeof missing, "%s/none.fpkv", folder);
    KV_FAIL(fp__artifact_open(missing, &artifact), FP_NOT_FOUND, "no such file");
    KV_FAIL(fp__artifact_open(folder, &artifact), FP_IO, "not a regular file");
    kv_fixture f = kv_open(8, 1);
    fp__kvseq *seq = kv_new(&f, kv_context(200));
    fp__artifact_info info = {0};
    KV_FAIL(fp__artifact_write(missing, seq, &info, NULL, 0), FP_USAGE, "no K/V");
    kv_append(seq, 100, 64, FP_LABEL_USER);
    KV_FAIL(fp__artifact_write("/nonexistent/x.fpkv", seq, &info, NULL, 0), FP_NOT_FOUND, "nonexistent");
    KV_FAIL(fp__artifact_write(missing, seq, &info, "", (size_t)FP__ARTIFACT_MANIFEST_MAX + 1), FP_LIMIT,
            "manifest");
    /* what would not load is not written; nor is the old file touched */
    KV_OK(fp__artifact_write(missing, seq, &info, "m", 1));
    fp__buf before = {0}, after = {0};
    KV_OK(fp__file_read(missing, 1 << 24, &before));
    for (size_t page = 0; page < 2; page++) {
        char where[64];
        snprintf(where, sizeof where, "page %zu, layer 0, head 1", page);
        fp__kvseq_groups(seq)[page][1280 + 5] ^= 1;
        KV_FAIL(fp__artifact_write(missing, seq, &info, "m", 1), FP_MISMATCH, where);
        fp__kvseq_groups(seq)[page][1280 + 5] ^= 1;
    }
    KV_OK(fp__file_read(missing, 1 << 24, &after));
    assert_int_equal(after.size, before.size);
    assert_memory_equal(after.data, before.data, after.size);
    fp__buf_free(&after);
    /* a file that shrinks after it was opened */
    KV_OK(fp__artifact_open(missing, &artifact));
    assert_int_equal(truncate(missing, (off_t)before.size - 4096), 0);
    uint8_t head[32];
    fp__kvseq *none;
    KV_OK(fp__kvseq_head(seq, head));
    fp__artifact_expect expect = {.kind = FP__ARTIFACT_SESSION, .kv_head = head, .label = FP_LABEL_CORE};
    KV_FAIL(fp__artifact_load(artifact, &expect, f.pool, f.hasher, &none), FP_IO, "cannot read page 1");
    fp__artifact_close(artifact);
    unlink(missing);
    fp__buf_free(&before);
    fp__kvseq_destroy(seq);
    kv_close(&f);
}

static int make_folder(void **state)
{
    (void)state;
    if (!mkdtemp(folder))
        return -1;
    snprintf(path, sizeof path, "%s/x.fpkv", folder);
    return 0;
}

static int remove_folder(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(folder);
}

/* A device that fails while pages are copied or hashed there. */
static void test_failing_store(void **state)
{
    (void)state;
    if (!kv_device_store)
        return;
    char file[300];
    uint8_t head[32];
    snprintf(file, sizeof file, "%s/device.fpkv", folder);
    kv_fixture f = kv_open(8, 1);
    fp__kvseq *seq = kv_new(&f, kv_context(200)), *none;
    fp__artifact *artifact;
    fp__artifact_info info = {0};
    kv_append(seq, 100, 64, FP_LABEL_USER);
    KV_OK(fp__artifact_write(file, seq, &info, NULL, 0));
    KV_OK(fp__kvseq_head(seq, head));
    KV_OK(fp__artifact_open(file, &artifact));
    fp__artifact_expect expect = {.kind = FP__ARTIFACT_SESSION, .kv_head = head, .label = FP_LABEL_CORE};
    kv_store_fails = true;
    KV_FAIL(fp__artifact_load(artifact, &expect, f.pool, f.hasher, &none), FP_INTERNAL, "check the device");
    KV_FAIL(fp__artifact_write(file, seq, &info, NULL, 0), FP_INTERNAL, "device failed");
    kv_store_fails = false;
    KV_OK(fp__artifact_load(artifact, &expect, f.pool, f.hasher, &none)); /* nothing was overwritten */
    fp__kvseq_destroy(none);
    fp__artifact_close(artifact);
    unlink(file);
    fp__kvseq_destroy(seq);
    kv_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trips),
        cmocka_unit_test(test_restored_goes_on),
        cmocka_unit_test(test_corruptions),
        cmocka_unit_test(test_flip_sweep),
        cmocka_unit_test(test_every_truncation),
        cmocka_unit_test(test_expectations),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_failing_store),
    };
    int failed = cmocka_run_group_tests(tests, make_folder, NULL);
    kv_device_store = true; /* once more */
    return failed + cmocka_run_group_tests(tests, NULL, remove_folder);
}
