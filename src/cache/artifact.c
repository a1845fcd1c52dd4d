#include "cache/artifact.h"
#include "core/bytes.h"
#include "core/file.h"
#include "merkle/tree.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FIXED_BYTES = 384, ALIGN_BYTES = 4096, TOKENS = FP__PAGE_TOKENS, USED_FIXED_BYTES = 336 };

/* Places in the fixed part of the header. */
enum {
    AT_VERSION = 4,
    AT_ARITHMETIC = 6,
    AT_KIND = 8,
    AT_ZERO_1 = 9,
    AT_HEADER_BYTES = 16,
    AT_FILE_BYTES = 24,
    AT_MODEL = 32,
    AT_SUBJECT = 64,
    AT_LAYERS = 96,
    AT_KV_HEADS = 98,
    AT_D = 100,
    AT_PAGE_TOKENS = 102,
    AT_FIRST_POS = 104,
    AT_TOKENS = 112,
    AT_PAGES = 120,
    AT_SEALED = 124,
    AT_ANCHORS = 128,
    AT_MANIFEST_BYTES = 132,
    AT_ZERO_2 = 136,
    AT_ANCHOR_KV_HEAD = 144,
    AT_TENANT = 176,
    AT_INJECTION = 208,
    AT_SEALED_ROOT = 240,
    AT_OPEN_LEAF = 272,
    AT_KV_HEAD = 304
};

/* Where the parts are; derived from the counts alone. */
typedef struct layout {
    size_t anchor_tokens, page_labels, ids, slab_leaves, manifest, digest, header_bytes;
    size_t data, stride, file_bytes;
} layout;

struct fp__artifact {
    char *name;
    int fd;              /* -1: in memory */
    const uint8_t *data; /* in memory */
    size_t size;
    fp__artifact_info info;
    layout layout;
    size_t manifest_bytes;
    uint8_t *header;         // [layout.header_bytes] private copy
    uint32_t *anchor_tokens; // [anchors]
    uint32_t *ids;           // [tokens]
};

static const uint8_t zero_hash[32];

static bool is_zero(const uint8_t *p, size_t n)
{
    uint8_t any = 0;
    for (size_t i = 0; i < n; i++)
        any |= p[i];
    return any == 0;
}

static size_t align_up(size_t n)
{
    return (n + ALIGN_BYTES - 1) / ALIGN_BYTES * ALIGN_BYTES;
}

/* Counts are 32-bit in the file and L·HK ≤ 2^20, group_bytes ≤ 2^37: false if the whole is beyond size_t. */
static bool layout_make(const fp__artifact_info *info, size_t manifest_bytes, layout *out)
{
    layout l = {.anchor_tokens = FIXED_BYTES};
    size_t leaf_bytes, data_bytes;
    bool ok = fp__size_mul(info->pages, 32 * fp__page_slabs(&info->geometry), &leaf_bytes);
    l.page_labels = l.anchor_tokens + 4 * info->anchors;
    l.ids = l.page_labels + info->pages;
    ok = ok && fp__size_add(l.ids, 4 * (size_t)info->tokens, &l.slab_leaves);
    ok = ok && fp__size_add(l.slab_leaves, leaf_bytes, &l.manifest);
    ok = ok && fp__size_add(l.manifest, manifest_bytes, &l.digest);
    ok = ok && fp__size_add(l.digest, 32 + ALIGN_BYTES, &l.header_bytes);
    if (!ok)
        return false;
    l.header_bytes -= ALIGN_BYTES;
    l.data = align_up(l.header_bytes);
    l.stride = align_up(fp__page_group_bytes(&info->geometry));
    ok = fp__size_mul(info->pages, l.stride, &data_bytes) && fp__size_add(l.data, data_bytes, &l.file_bytes);
    *out = l;
    return ok;
}

static size_t pages_of(size_t tokens)
{
    return (tokens + TOKENS - 1) / TOKENS;
}

/* ---- writing ---- */

static void put_fixed(uint8_t *h, const fp__artifact_info *info, size_t manifest_bytes, const layout *l)
{
    memcpy(h, "FPKV", 4);
    fp__store_le16(h + AT_VERSION, FP__ARTIFACT_VERSION);
    fp__store_le16(h + AT_ARITHMETIC, info->arithmetic_version);
    h[AT_KIND] = (uint8_t)info->kind;
    fp__store_le64(h + AT_HEADER_BYTES, l->header_bytes);
    fp__store_le64(h + AT_FILE_BYTES, l->file_bytes);
    memcpy(h + AT_MODEL, info->geometry.model, 32);
    memcpy(h + AT_SUBJECT, info->subject, 32);
    fp__store_le16(h + AT_LAYERS, (uint16_t)info->geometry.layers);
    fp__store_le16(h + AT_KV_HEADS, (uint16_t)info->geometry.kv_heads);
    fp__store_le16(h + AT_D, (uint16_t)info->geometry.d);
    fp__store_le16(h + AT_PAGE_TOKENS, TOKENS);
    fp__store_le64(h + AT_FIRST_POS, info->first_pos);
    fp__store_le64(h + AT_TOKENS, info->tokens);
    fp__store_le32(h + AT_PAGES, (uint32_t)info->pages);
    fp__store_le32(h + AT_SEALED, (uint32_t)info->sealed);
    fp__store_le32(h + AT_ANCHORS, (uint32_t)info->anchors);
    fp__store_le32(h + AT_MANIFEST_BYTES, (uint32_t)manifest_bytes);
    memcpy(h + AT_ANCHOR_KV_HEAD, info->anchor_kv_head, 32);
    memcpy(h + AT_TENANT, info->tenant, 32);
    memcpy(h + AT_INJECTION, info->injection, 32);
    memcpy(h + AT_KV_HEAD, info->kv_head, 32);
}

static void put_tables(uint8_t *h, const fp__kvseq *seq, const layout *l, size_t slabs)
{
    for (size_t a = 0; a < fp__kvseq_anchors(seq); a++) {
        size_t first_page, tokens;
        fp_label label;
        fp__kvseq_anchor_get(seq, a, &first_page, &tokens, &label);
        fp__store_le32(h + l->anchor_tokens + 4 * a, (uint32_t)tokens);
    }
    for (size_t p = 0; p < fp__kvseq_pages(seq); p++) {
        fp__kvseq_page page;
        fp__kvseq_page_get(seq, p, &page);
        h[l->page_labels + p] = page.label;
        memcpy(h + l->slab_leaves + 32 * slabs * p, page.group->slab_leaves, 32 * slabs);
    }
    for (size_t t = 0; t < fp__kvseq_tokens(seq); t++)
        fp__store_le32(h + l->ids + 4 * t, fp__kvseq_ids(seq)[t]);
}

/* ---- commitments of the header's tables ---- */

/* Sealed root, open leaf (zeros: none) and kv head that the tables lead to. The writer puts them into the
 * header; the reader compares them with the expected head before it reads a page. */
typedef struct commitments {
    uint8_t sealed_root[32], open_leaf[32], kv_head[32];
} commitments;

typedef struct page_walk {
    size_t page, first_token, visible;
} page_walk;

static void leaf_of_page(const fp__artifact_info *info, const layout *l, const uint8_t *h, const page_walk *w,
                         uint8_t out[32])
{
    size_t slabs = fp__page_slabs(&info->geometry);
    uint32_t ids[TOKENS];
    uint8_t root[32];
    for (size_t i = 0; i < w->visible; i++)
        ids[i] = fp__load_le32(h + l->ids + 4 * (w->first_token + i));
    fp__merkle_root(h + l->slab_leaves + 32 * slabs * w->page, slabs, root);
    bool context = info->kind == FP__ARTIFACT_SESSION;
    fp__leaf_page(&(fp__page_leaf){.page = w->page,
                                   .first_pos = info->first_pos + w->first_token,
                                   .segment = context ? FP__SEGMENT_CONTEXT : FP__SEGMENT_ANCHOR,
                                   .open = w->page >= info->sealed,
                                   .label = h[l->page_labels + w->page],
                                   .visible = (uint8_t)w->visible,
                                   .anchor_kv_head = info->anchor_kv_head,
                                   .group_root = root,
                                   .ids = ids},
                  out);
}

static void commitments_make(const fp__artifact_info *info, const layout *l, const uint8_t *h,
                             commitments *out)
{
    fp__merkle_frontier frontier = {0};
    *out = (commitments){0};
    page_walk w = {0};
    size_t runs = info->anchors > 0 ? info->anchors : 1;
    for (size_t r = 0; r < runs; r++) {
        size_t n = info->anchors > 0 ? fp__load_le32(h + l->anchor_tokens + 4 * r) : (size_t)info->tokens;
        for (size_t done = 0; done < n; done += w.visible) {
            w.visible = n - done < TOKENS ? n - done : TOKENS;
            uint8_t leaf[32];
            leaf_of_page(info, l, h, &w, leaf);
            if (w.page < info->sealed)
                fp__merkle_frontier_append(&frontier, leaf);
            else
                memcpy(out->open_leaf, leaf, 32);
            w.page++;
            w.first_token += w.visible;
        }
    }
    fp__merkle_frontier_root(&frontier, out->sealed_root);
    fp__leaf_kv_head(info->sealed, out->sealed_root, out->open_leaf, out->kv_head);
}

static fp_status info_of_sequence(fp__kvseq *seq, const fp__page_geometry *geometry,
                                  const fp__artifact_info *given, fp__artifact_info *info)
{
    const fp__kvseq_options *o = fp__kvseq_options_get(seq);
    *info = (fp__artifact_info){.kind = o->segment == FP__SEGMENT_ANCHOR ? FP__ARTIFACT_ANCHORS
                                                                         : FP__ARTIFACT_SESSION,
                                .arithmetic_version = FP__ARITHMETIC_VERSION,
                                .geometry = *geometry,
                                .first_pos = o->first_pos,
                                .tokens = fp__kvseq_tokens(seq),
                                .pages = fp__kvseq_pages(seq),
                                .sealed = fp__kvseq_sealed(seq),
                                .anchors = fp__kvseq_anchors(seq)};
    memcpy(info->subject, given->subject, 32);
    memcpy(info->tenant, given->tenant, 32);
    memcpy(info->injection, given->injection, 32);
    if (o->anchor_kv_head)
        memcpy(info->anchor_kv_head, o->anchor_kv_head, 32);
    if (info->kind == FP__ARTIFACT_ANCHORS && (!is_zero(info->tenant, 32) || !is_zero(info->injection, 32)))
        return fp__fail(FP_USAGE, "an anchor set has no tenant and no injection of its own");
    if (info->tokens == 0)
        return fp__fail(FP_USAGE, "there is no K/V to save yet");
    return fp__kvseq_head(seq, info->kv_head);
}

static fp_status append_padded(fp__file_writer *w, const void *data, size_t size)
{
    static const uint8_t zeros[ALIGN_BYTES];
    FP_TRY(fp__writer_append(w, data, size));
    return fp__writer_append(w, zeros, align_up(size) - size);
}

static fp_status append_all(fp__file_writer *w, const fp__kvseq *seq, const uint8_t *header,
                            size_t header_bytes)
{
    fp__store *store = fp__kvseq_store(seq);
    FP_TRY(append_padded(w, header, header_bytes));
    for (size_t p = 0; p < fp__kvseq_pages(seq); p++) {
        fp__kvseq_page page;
        uint8_t *bytes;
        fp__kvseq_page_get(seq, p, &page);
        FP_TRY(fp__store_map(store, page.group, FP__STORE_READ, &bytes));
        fp_status status = append_padded(w, bytes, store->group_bytes);
        FP_TRY(fp__store_unmap(store, page.group, FP__STORE_READ, bytes));
        FP_TRY(status);
    }
    return FP_OK;
}

fp_status fp__artifact_write(const char *path, fp__kvseq *seq, const fp__artifact_info *given,
                             const void *manifest, size_t manifest_size)
{
    const fp__page_geometry *geometry = fp__kvseq_geometry(seq);
    fp__artifact_info info;
    layout l;
    FP_TRY(info_of_sequence(seq, geometry, given, &info));
    FP_TRY(fp__kvseq_check_sums(seq));
    if (manifest_size > FP__ARTIFACT_MANIFEST_MAX || !layout_make(&info, manifest_size, &l))
        return fp__fail(FP_LIMIT, "a manifest of %zu bytes is too long for a KV artifact", manifest_size);
    uint8_t *h = calloc(1, l.header_bytes);
    if (!h)
        return fp__fail(FP_NO_MEMORY, "no memory for the header of a KV artifact (%zu bytes)",
                        l.header_bytes);
    put_fixed(h, &info, manifest_size, &l);
    put_tables(h, seq, &l, fp__page_slabs(geometry));
    if (manifest_size > 0)
        memcpy(h + l.manifest, manifest, manifest_size);
    commitments c;
    commitments_make(&info, &l, h, &c);
    FP_CHECK(memcmp(c.kv_head, info.kv_head, 32) == 0);
    memcpy(h + AT_SEALED_ROOT, c.sealed_root, 32);
    memcpy(h + AT_OPEN_LEAF, c.open_leaf, 32);
    fp__sha256(h, l.digest, h + l.digest);
    fp__file_writer *w = NULL;
    fp_status status = fp__writer_open(path, 0600, &w);
    if (status == FP_OK) {
        status = append_all(w, seq, h, l.header_bytes);
        if (status == FP_OK)
            status = fp__writer_commit(w);
        else
            fp__writer_abort(w);
    }
    free(h);
    return status;
}

/* ---- opening ---- */

static bool read_at(const fp__artifact *a, size_t offset, uint8_t *out, size_t n)
{
    if (a->fd < 0) {
        if (offset > a->size || n > a->size - offset)
            return false;
        memcpy(out, a->data + offset, n);
        return true;
    }
    while (n > 0) {
        ssize_t got = pread(a->fd, out, n, (off_t)offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return false;
        out += got;
        offset += (size_t)got;
        n -= (size_t)got;
    }
    return true;
}

static fp_status fail_form(const fp__artifact *a, const char *what)
{
    return fp__fail(FP_FORMAT, "'%s' is not a valid KV artifact: %s; get it again or compile it again",
                    a->name, what);
}

static fp_status parse_identity(fp__artifact *a, const uint8_t *h)
{
    fp__artifact_info *info = &a->info;
    if (memcmp(h, "FPKV", 4) != 0)
        return fail_form(a, "it does not begin with FPKV");
    unsigned version = fp__load_le16(h + AT_VERSION);
    info->arithmetic_version = fp__load_le16(h + AT_ARITHMETIC);
    if (version != FP__ARTIFACT_VERSION)
        return fp__fail(FP_UNSUPPORTED, "'%s' is a KV artifact of version %u, this program reads version %d",
                        a->name, version, FP__ARTIFACT_VERSION);
    if (info->arithmetic_version != FP__ARITHMETIC_VERSION)
        return fp__fail(
            FP_UNSUPPORTED,
            "'%s' was made by arithmetic version %u, this program computes version %d; compile it again",
            a->name, (unsigned)info->arithmetic_version, (int)FP__ARITHMETIC_VERSION);
    if (h[AT_KIND] > FP__ARTIFACT_SESSION)
        return fail_form(a, "kind is neither anchor set nor session");
    info->kind = (fp__artifact_kind)h[AT_KIND];
    if (!is_zero(h + AT_ZERO_1, AT_HEADER_BYTES - AT_ZERO_1) ||
        !is_zero(h + AT_ZERO_2, AT_ANCHOR_KV_HEAD - AT_ZERO_2) ||
        !is_zero(h + USED_FIXED_BYTES, FIXED_BYTES - USED_FIXED_BYTES))
        return fail_form(a, "reserved header bytes are not zero");
    return FP_OK;
}

static void parse_hashes(fp__artifact_info *info, const uint8_t *h)
{
    memcpy(info->geometry.model, h + AT_MODEL, 32);
    memcpy(info->subject, h + AT_SUBJECT, 32);
    memcpy(info->anchor_kv_head, h + AT_ANCHOR_KV_HEAD, 32);
    memcpy(info->tenant, h + AT_TENANT, 32);
    memcpy(info->injection, h + AT_INJECTION, 32);
    memcpy(info->kv_head, h + AT_KV_HEAD, 32);
}

static fp_status parse_counts(fp__artifact *a, const uint8_t *h)
{
    fp__artifact_info *info = &a->info;
    info->geometry.layers = fp__load_le16(h + AT_LAYERS);
    info->geometry.kv_heads = fp__load_le16(h + AT_KV_HEADS);
    info->geometry.d = fp__load_le16(h + AT_D);
    info->first_pos = fp__load_le64(h + AT_FIRST_POS);
    info->tokens = fp__load_le64(h + AT_TOKENS);
    info->pages = fp__load_le32(h + AT_PAGES);
    info->sealed = fp__load_le32(h + AT_SEALED);
    info->anchors = fp__load_le32(h + AT_ANCHORS);
    a->manifest_bytes = fp__load_le32(h + AT_MANIFEST_BYTES);
    parse_hashes(info, h);
    if (fp__load_le16(h + AT_PAGE_TOKENS) != TOKENS)
        return fail_form(a, "pages are not of 64 tokens");
    if (fp__page_geometry_check(&info->geometry) != FP_OK)
        return fail_form(a, "layers, KV heads or head size are out of range");
    if (info->pages < 1 || info->tokens < 1 || info->tokens > TOKENS * (uint64_t)info->pages ||
        info->tokens > (uint64_t)1 << 31)
        return fail_form(a, "the token count does not fit the page count");
    if (info->sealed != info->pages && info->sealed != info->pages - 1)
        return fail_form(a, "the count of sealed pages does not fit the page count");
    if (info->first_pos > (uint64_t)INT64_MAX - info->tokens)
        return fail_form(a, "the first position is out of range");
    if (a->manifest_bytes > FP__ARTIFACT_MANIFEST_MAX)
        return fail_form(a, "the manifest is too long");
    bool anchors = info->kind == FP__ARTIFACT_ANCHORS;
    if (anchors != (info->anchors > 0) || info->anchors > info->pages)
        return fail_form(a, "the anchor count does not fit its kind or page count");
    if (anchors &&
        (!is_zero(info->anchor_kv_head, 32) || !is_zero(info->tenant, 32) || !is_zero(info->injection, 32)))
        return fail_form(a, "an anchor set has no tenant, injection or anchors before it");
    return FP_OK;
}

static fp_status check_sizes(fp__artifact *a, const uint8_t *h)
{
    layout *l = &a->layout;
    if (!layout_make(&a->info, a->manifest_bytes, l))
        return fail_form(a, "the counts are too large");
    if (fp__load_le64(h + AT_HEADER_BYTES) != l->header_bytes)
        return fail_form(a, "the header size does not follow from the counts");
    if (fp__load_le64(h + AT_FILE_BYTES) != l->file_bytes)
        return fail_form(a, "the file size does not follow from the counts");
    if (a->size != l->file_bytes)
        return fp__fail(FP_FORMAT, "KV artifact '%s' has %zu bytes and must have %zu: it is %s; get it again",
                        a->name, a->size, l->file_bytes,
                        a->size < l->file_bytes ? "truncated" : "followed by other bytes");
    return FP_OK;
}

/* Anchors, labels and ids, after the header is in private memory. */
static fp_status parse_tables(fp__artifact *a)
{
    const fp__artifact_info *info = &a->info;
    const layout *l = &a->layout;
    const uint8_t *h = a->header;
    size_t pages = 0, tokens = 0, last = (size_t)info->tokens;
    for (size_t i = 0; i < info->anchors; i++) {
        uint32_t n = a->anchor_tokens[i] = fp__load_le32(h + l->anchor_tokens + 4 * i);
        if (n < 1 || n > info->tokens - tokens)
            return fail_form(a, "the anchors' token counts do not add up");
        tokens += n;
        pages += pages_of(n);
        last = n;
    }
    if (info->anchors == 0) {
        tokens = last;
        pages = pages_of(last);
    }
    if (tokens != info->tokens || pages != info->pages)
        return fail_form(a, "the anchors' token counts do not add up");
    if (info->sealed != (last % TOKENS ? pages - 1 : pages))
        return fail_form(a, "the count of sealed pages does not fit the token count");
    uint8_t lowest = FP_LABEL_CORE;
    for (size_t p = 0; p < pages; p++) {
        uint8_t label = h[l->page_labels + p];
        if (label > lowest)
            return fail_form(a, "a page has a higher label than what it attends to");
        lowest = label;
    }
    for (size_t t = 0; t < tokens; t++) {
        a->ids[t] = fp__load_le32(h + l->ids + 4 * t);
        if (a->ids[t] == FP__ID_UNUSED)
            return fail_form(a, "a token id is out of range");
    }
    return FP_OK;
}

static fp_status read_header(fp__artifact *a)
{
    const layout *l = &a->layout;
    a->header = malloc(l->header_bytes);
    a->anchor_tokens = calloc(a->info.anchors + 1, sizeof *a->anchor_tokens);
    a->ids = calloc((size_t)a->info.tokens, sizeof *a->ids);
    if (!a->header || !a->anchor_tokens || !a->ids)
        return fp__fail(FP_NO_MEMORY, "no memory for the header of '%s' (%zu bytes)", a->name,
                        l->header_bytes);
    uint8_t pad[ALIGN_BYTES], digest[32];
    if (!read_at(a, 0, a->header, l->header_bytes) ||
        !read_at(a, l->header_bytes, pad, l->data - l->header_bytes))
        return fp__fail(FP_IO, "cannot read the header of '%s'; check the disk", a->name);
    fp__sha256(a->header, l->digest, digest);
    if (memcmp(digest, a->header + l->digest, 32) != 0)
        return fp__fail(FP_MISMATCH,
                        "the header of KV artifact '%s' is damaged; get it again or compile it again",
                        a->name);
    if (!is_zero(pad, l->data - l->header_bytes))
        return fail_form(a, "the padding after the header is not zero");
    return parse_tables(a);
}

static fp_status parse(fp__artifact *a)
{
    uint8_t fixed[FIXED_BYTES];
    if (a->size < FIXED_BYTES || !read_at(a, 0, fixed, FIXED_BYTES))
        return fail_form(a, "it is too short");
    FP_TRY(parse_identity(a, fixed));
    FP_TRY(parse_counts(a, fixed));
    FP_TRY(check_sizes(a, fixed));
    a->info.file_bytes = a->layout.file_bytes;
    FP_TRY(read_header(a));
    /* The file may have changed between the two reads; everything later comes from the second. */
    if (memcmp(a->header, fixed, FIXED_BYTES) != 0)
        return fp__fail(FP_IO, "'%s' changes while it is read; wait until it is complete", a->name);
    return FP_OK;
}

static fp_status artifact_new(const char *name, fp__artifact **out)
{
    fp__artifact *a = calloc(1, sizeof *a);
    char *copy = strdup(name);
    if (!a || !copy) {
        free(a);
        free(copy);
        return fp__fail(FP_NO_MEMORY, "no memory to open '%s'", name);
    }
    a->name = copy;
    a->fd = -1;
    *out = a;
    return FP_OK;
}

static fp_status finish_open(fp__artifact *a, fp_status status, fp__artifact **out)
{
    if (status == FP_OK)
        status = parse(a);
    if (status == FP_OK)
        *out = a;
    else
        fp__artifact_close(a);
    return status;
}

static fp_status open_file(fp__artifact *a)
{
    struct stat st;
    a->fd = open(a->name, O_RDONLY | O_CLOEXEC);
    if (a->fd < 0)
        return fp__fail(errno == ENOENT ? FP_NOT_FOUND : FP_IO, "cannot open KV artifact '%s': %s", a->name,
                        errno == ENOENT ? "there is no such file; check the path"
                                        : "check that it may be read");
    if (fstat(a->fd, &st) != 0 || !S_ISREG(st.st_mode))
        return fp__fail(FP_IO, "'%s' is not a regular file", a->name);
    a->size = (size_t)st.st_size;
    return FP_OK;
}

fp_status fp__artifact_open(const char *path, fp__artifact **out)
{
    fp__artifact *a;
    FP_TRY(artifact_new(path, &a));
    return finish_open(a, open_file(a), out);
}

fp_status fp__artifact_open_memory(const char *name, const void *data, size_t size, fp__artifact **out)
{
    fp__artifact *a;
    FP_TRY(artifact_new(name, &a));
    a->data = data;
    a->size = size;
    return finish_open(a, FP_OK, out);
}

void fp__artifact_close(fp__artifact *a)
{
    if (!a)
        return;
    if (a->fd >= 0)
        close(a->fd);
    free(a->ids);
    free(a->anchor_tokens);
    free(a->header);
    free(a->name);
    free(a);
}

const fp__artifact_info *fp__artifact_info_get(const fp__artifact *a)
{
    return &a->info;
}

const uint32_t *fp__artifact_ids(const fp__artifact *a)
{
    return a->ids;
}

const uint8_t *fp__artifact_manifest(const fp__artifact *a, size_t *size)
{
    *size = a->manifest_bytes;
    return a->header + a->layout.manifest;
}

/* ---- loading ---- */

static bool differs(const uint8_t *expected, const uint8_t *got)
{
    return expected && memcmp(expected, got, 32) != 0;
}

static fp_status check_model(const fp__artifact *a, const fp__page_geometry *g)
{
    const fp__page_geometry *f = &a->info.geometry;
    if (memcmp(f->model, g->model, 32) != 0) {
        char file[65], here[65];
        fp__hex_encode(f->model, 32, file);
        fp__hex_encode(g->model, 32, here);
        return fp__fail(FP_MISMATCH,
                        "'%s' was made for another model (%.16s…, this one is %.16s…); compile it again",
                        a->name, file, here);
    }
    if (f->layers != g->layers || f->kv_heads != g->kv_heads || f->d != g->d)
        return fp__fail(
            FP_MISMATCH,
            "'%s' says %zu layers, %zu KV heads, head size %zu; the model has %zu, %zu and %zu; compile it "
            "again",
            a->name, f->layers, f->kv_heads, f->d, g->layers, g->kv_heads, g->d);
    return FP_OK;
}

static fp_status check_expected(const fp__artifact *a, const fp__artifact_expect *e)
{
    const fp__artifact_info *info = &a->info;
    FP_CHECK(e->kv_head);
    if (info->kind != e->kind)
        return fp__fail(FP_MISMATCH, "'%s' holds %s, not %s", a->name,
                        info->kind == FP__ARTIFACT_ANCHORS ? "an anchor set" : "a session",
                        e->kind == FP__ARTIFACT_ANCHORS ? "an anchor set" : "a session");
    if (differs(e->subject, info->subject))
        return fp__fail(FP_MISMATCH, "'%s' is of another %s than the one asked for", a->name,
                        info->kind == FP__ARTIFACT_ANCHORS ? "anchor set" : "session");
    if (differs(e->tenant, info->tenant))
        return fp__fail(FP_MISMATCH, "'%s' belongs to another tenant", a->name);
    if (differs(e->injection, info->injection))
        return fp__fail(FP_MISMATCH, "'%s' was made with another injection (mode, gamma or layers)", a->name);
    if (differs(e->anchor_kv_head ? e->anchor_kv_head : zero_hash, info->anchor_kv_head))
        return fp__fail(FP_MISMATCH, "'%s' attended to other anchors than those given", a->name);
    uint8_t first_label = a->header[a->layout.page_labels];
    if (info->kind == FP__ARTIFACT_SESSION && first_label > e->label)
        return fp__fail(FP_MISMATCH, "'%s' has label %u at its start, above %d of what it attends to",
                        a->name, (unsigned)first_label, (int)e->label);
    return FP_OK;
}

/* The header's tables against the expected head: from here on its slab leaves, ids and labels are as
 * committed. */
static fp_status check_commitments(const fp__artifact *a, const uint8_t kv_head[32])
{
    const uint8_t *h = a->header;
    commitments c;
    commitments_make(&a->info, &a->layout, h, &c);
    if (memcmp(h + AT_KV_HEAD, c.kv_head, 32) != 0 || memcmp(h + AT_SEALED_ROOT, c.sealed_root, 32) != 0 ||
        memcmp(h + AT_OPEN_LEAF, c.open_leaf, 32) != 0)
        return fp__fail(
            FP_MISMATCH,
            "the header of '%s' contradicts itself: token ids, labels, positions or hashes in it were "
            "altered; get it again or compile it again",
            a->name);
    if (memcmp(c.kv_head, kv_head, 32) != 0) {
        char got[65], want[65];
        fp__hex_encode(c.kv_head, 32, got);
        fp__hex_encode(kv_head, 32, want);
        return fp__fail(
            FP_MISMATCH,
            "the header's commitments of '%s' lead to kv head %.16s…, but %.16s… is expected: it is other "
            "K/V or was altered; get it again or compile it again",
            a->name, got, want);
    }
    return FP_OK;
}

/* One page of a load. */
typedef struct load_page {
    fp__group *group;
    size_t visible, bad_slab; /* bad_slab = L·HK: none */
    bool unread, bad_padding;
} load_page;

/* A run of pages, at most a batch of the store. */
typedef struct load_job {
    fp__hash_job job; /* first */
    const fp__artifact *artifact;
    fp__store *store;
    load_page *pages; // [n]
    size_t first, n;
    bool store_failed;
} load_job;

/* Copies one page group into the store's memory. */
static fp_status read_page(const load_job *load, size_t i)
{
    const fp__artifact *a = load->artifact;
    load_page *page = &load->pages[i];
    size_t bytes = load->store->group_bytes, offset = a->layout.data + (load->first + i) * a->layout.stride;
    uint8_t pad[ALIGN_BYTES], *to;
    FP_TRY(fp__store_map(load->store, page->group, FP__STORE_WRITE, &to));
    page->unread =
        !read_at(a, offset, to, bytes) || !read_at(a, offset + bytes, pad, a->layout.stride - bytes);
    page->bad_padding = !page->unread && !is_zero(pad, a->layout.stride - bytes);
    return fp__store_unmap(load->store, page->group, page->unread ? FP__STORE_READ : FP__STORE_WRITE, to);
}

/* Reads the pages, then hashes what lies in the store's memory and compares. */
static fp_status load_run(load_job *load)
{
    const fp__artifact *a = load->artifact;
    fp__store *store = load->store;
    fp__group *groups[FP__STORE_BATCH];
    uint8_t *leaves[FP__STORE_BATCH];
    size_t visible[FP__STORE_BATCH];
    for (size_t i = 0; i < load->n; i++) {
        load_page *page = &load->pages[i];
        groups[i] = page->group;
        leaves[i] = page->group->slab_leaves;
        visible[i] = page->visible;
        page->bad_slab = store->slabs;
        FP_TRY(read_page(load, i));
        if (page->unread)
            return FP_OK;
    }
    /* before the hash: a flip in between shows in one of the two */
    FP_TRY(fp__store_sum(store, groups, visible, load->n, 0, store->slabs));
    FP_TRY(fp__store_hash(store, groups, load->n, leaves));
    for (size_t i = 0; i < load->n; i++) {
        const uint8_t *expected = a->header + a->layout.slab_leaves + 32 * store->slabs * (load->first + i);
        size_t s = 0;
        while (s < store->slabs && memcmp(leaves[i] + 32 * s, expected + 32 * s, 32) == 0)
            s++;
        load->pages[i].bad_slab = s;
        fp__merkle_root(leaves[i], store->slabs, groups[i]->root);
        groups[i]->hashed = true;
    }
    return FP_OK;
}

/* On a hash worker. */
static void run_load(fp__hash_job *job)
{
    load_job *load = (load_job *)(void *)job;
    load->store_failed = load_run(load) != FP_OK;
}

static fp_status check_page(const fp__artifact *a, size_t p, const load_page *page)
{
    const fp__page_geometry *g = &a->info.geometry;
    if (page->unread)
        return fp__fail(FP_IO, "cannot read page %zu of '%s'; check the disk", p, a->name);
    if (page->bad_slab < fp__page_slabs(g))
        return fp__fail(
            FP_MISMATCH,
            "K/V bytes of page %zu, layer %zu, head %zu in '%s' are not those that were committed; get it "
            "again or compile it again",
            p, page->bad_slab / g->kv_heads, page->bad_slab % g->kv_heads, a->name);
    if (page->bad_padding)
        return fail_form(a, "the padding after a page is not zero");
    return FP_OK;
}

static fp_status check_load(const load_job *load)
{
    if (load->store_failed)
        return fp__fail(FP_INTERNAL,
                        "pages from %zu on of '%s' could not be copied to where they are used; check the "
                        "device",
                        load->first, load->artifact->name);
    for (size_t i = 0; i < load->n; i++)
        FP_TRY(check_page(load->artifact, load->first + i, &load->pages[i]));
    return FP_OK;
}

static void set_visible(const fp__artifact *a, load_page *pages)
{
    size_t runs = a->info.anchors > 0 ? a->info.anchors : 1, p = 0;
    for (size_t r = 0; r < runs; r++) {
        size_t n = a->info.anchors > 0 ? a->anchor_tokens[r] : (size_t)a->info.tokens;
        for (size_t done = 0; done < n; done += TOKENS)
            pages[p++].visible = n - done < TOKENS ? n - done : TOKENS;
    }
    FP_CHECK(p == a->info.pages);
}

/* Fills pages[].group with verified copies. On failure the groups that were taken stay in pages[] for the
 * caller. */
static fp_status load_pages(const fp__artifact *a, fp__pool *pool, fp__hasher *hasher, load_page *pages,
                            load_job *jobs)
{
    fp__hash_owner owner = {0};
    fp_status status = FP_OK;
    fp__store *store = fp__pool_store(pool);
    size_t total = a->info.pages, n_jobs = 0;
    size_t each = fp__store_job_groups(store, total, fp__hasher_workers(hasher) + 1);
    set_visible(a, pages);
    for (size_t p = 0, n; p < total && status == FP_OK; p += n) {
        load_job *load = &jobs[n_jobs];
        n = total - p < each ? total - p : each;
        *load = (load_job){
            .job.run = run_load, .artifact = a, .store = store, .pages = pages + p, .first = p, .n = n};
        for (size_t i = 0; i < n && status == FP_OK; i++)
            status = fp__pool_take(pool, &pages[p + i].group);
        if (status == FP_OK) {
            fp__hasher_submit(hasher, &load->job, &owner);
            n_jobs++;
        }
    }
    if (status != FP_OK) {
        fp__hasher_cancel(hasher, &owner);
        return status;
    }
    fp__hasher_wait(hasher, &owner);
    for (size_t j = 0; j < n_jobs; j++)
        FP_TRY(check_load(&jobs[j]));
    return FP_OK;
}

static fp_status load_sequence(const fp__artifact *a, const fp__artifact_expect *e, fp__kvseq *seq,
                               load_page *pages, load_job *jobs, fp__group **groups, fp__pool *pool,
                               fp__hasher *hasher)
{
    const fp__artifact_info *info = &a->info;
    FP_TRY(load_pages(a, pool, hasher, pages, jobs));
    for (size_t p = 0; p < info->pages; p++)
        groups[p] = pages[p].group;
    FP_TRY(fp__kvseq_adopt(seq, &(fp__kvseq_content){.ids = a->ids,
                                                     .tokens = (size_t)info->tokens,
                                                     .anchor_tokens = a->anchor_tokens,
                                                     .anchors = info->anchors,
                                                     .page_labels = a->header + a->layout.page_labels,
                                                     .groups = groups,
                                                     .pages = info->pages}));
    for (size_t p = 0; p < info->pages; p++)
        pages[p].group = NULL; /* the sequence's now */
    uint8_t head[32];
    FP_TRY(fp__kvseq_head(seq, head)); /* once more, of what will be attended to, in the usual way */
    if (memcmp(head, e->kv_head, 32) != 0)
        return fp__fail(FP_MISMATCH,
                        "the pages of '%s' do not lead to the expected kv head; compile it again", a->name);
    return FP_OK;
}

fp_status fp__artifact_load(fp__artifact *a, const fp__artifact_expect *e, fp__pool *pool, fp__hasher *hasher,
                            fp__kvseq **out)
{
    const fp__artifact_info *info = &a->info;
    FP_TRY(check_model(a, fp__pool_geometry(pool)));
    FP_TRY(check_expected(a, e));
    FP_TRY(check_commitments(a, e->kv_head));
    size_t max_tokens = e->max_tokens ? e->max_tokens : (size_t)info->tokens;
    if (info->tokens > max_tokens)
        return fp__fail(FP_LIMIT,
                        "'%s' holds %zu tokens, which do not fit a context of %zu; raise the context size",
                        a->name, (size_t)info->tokens, max_tokens);
    bool anchors = info->kind == FP__ARTIFACT_ANCHORS;
    fp__kvseq *seq = NULL;
    FP_TRY(
        fp__kvseq_create(pool, hasher,
                         &(fp__kvseq_options){.segment = anchors ? FP__SEGMENT_ANCHOR : FP__SEGMENT_CONTEXT,
                                              .first_pos = info->first_pos,
                                              .max_tokens = max_tokens,
                                              .max_anchors = info->anchors,
                                              .anchor_kv_head = e->anchor_kv_head,
                                              .label = anchors ? FP_LABEL_CORE : e->label},
                         &seq));
    load_page *pages = calloc(info->pages, sizeof *pages);
    load_job *jobs = calloc(info->pages, sizeof *jobs);
    fp__group **groups = calloc(info->pages, sizeof *groups);
    fp_status status = pages && jobs && groups
                           ? load_sequence(a, e, seq, pages, jobs, groups, pool, hasher)
                           : fp__fail(FP_NO_MEMORY, "no memory to load %zu pages", info->pages);
    for (size_t p = 0; pages && p < info->pages; p++)
        fp__pool_unref(pool, pages[p].group);
    free(groups);
    free(jobs);
    free(pages);
    if (status == FP_OK)
        *out = seq;
    else
        fp__kvseq_destroy(seq);
    return status;
}
