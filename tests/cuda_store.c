/* K/V pages in GPU memory against pages in host memory, bit for bit, and the speed of the work on them. One
 * program that can be carried to a machine with a GPU.
 *
 *   cuda_store check [FOLDER]   every scenario on both stores; artifacts are written to FOLDER (.)
 *   cuda_store small [FOLDER]   one shape of them
 *   cuda_store bench [FOLDER]   the shape of an 8B model; JSON lines
 *
 * A scenario writes down all that it can see (bytes of pages, leaves, heads, statuses with their messages).
 * The records of the two stores are compared with memcmp. */
#include "cache/artifact.h"
#include "cache/cuda/store_cuda.h"
#include "core/bytes.h"
#include "core/file.h"
#include "cuda_lab.h"
#include "kernel/cuda/pages.h"
#include <pthread.h>
#include <time.h>
#include <unistd.h>

#define EXPECT(cond)                                                                                         \
    do {                                                                                                     \
        if (!(cond)) {                                                                                       \
            printf("%s:%d: not so: %s (%s)\n", __FILE__, __LINE__, #cond, fp_error_detail());                \
            failures++;                                                                                      \
        }                                                                                                    \
    } while (0)
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static int failures;
static const char *folder = ".";

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- a pool, and what is written into it ----------------------------------------------------------------
 */

typedef struct lab {
    fp__page_geometry geometry;
    fp__pool *pool;
    fp__store *store;
    fp__hasher *hasher;
    bool gpu;
    fp__buf record;
} lab;

static fp__page_geometry geometry_of(size_t layers, size_t kv_heads, size_t d)
{
    fp__page_geometry g = {.layers = layers, .kv_heads = kv_heads, .d = d};
    for (int i = 0; i < 32; i++)
        g.model[i] = (uint8_t)(i * 5 + 1);
    return g;
}

static void lab_open(lab *l, fp__page_geometry g, size_t groups, size_t workers, bool gpu)
{
    fp__store *store = NULL;
    *l = (lab){.geometry = g, .gpu = gpu};
    if (gpu)
        OK(fp__store_cuda_create(&g, groups, &store));
    OK(fp__pool_create(&g, groups, store, &l->pool));
    l->store = fp__pool_store(l->pool);
    OK(fp__hasher_create(workers, &l->hasher));
}

static void lab_close(lab *l)
{
    EXPECT(fp__pool_stats_get(l->pool).used_groups == 0);
    fp__hasher_destroy(l->hasher);
    fp__pool_destroy(l->pool);
    fp__buf_free(&l->record);
}

static fp__kvseq *new_seq(const lab *l, fp__kvseq_options o)
{
    fp__kvseq *seq;
    OK(fp__kvseq_create(l->pool, l->hasher, &o, &seq));
    return seq;
}

static fp__kvseq_options context_of(size_t max_tokens)
{
    return (fp__kvseq_options){
        .segment = FP__SEGMENT_CONTEXT, .max_tokens = max_tokens, .label = FP_LABEL_CORE};
}

static fp__kvseq_options anchors_of(size_t max_tokens, size_t max_anchors)
{
    return (fp__kvseq_options){.segment = FP__SEGMENT_ANCHOR,
                               .max_tokens = max_tokens,
                               .max_anchors = max_anchors,
                               .label = FP_LABEL_CORE};
}

static uint64_t mix(uint64_t z)
{
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static void write_slot(uint8_t *slab, size_t d, size_t slot, uint64_t seed)
{
    for (size_t j = 0; j < d; j++) {
        uint64_t r = mix(seed + 0x9e3779b97f4a7c15u * (j + 1));
        slab[slot * d + j] = (uint8_t)r;
        slab[64 * d + j * 64 + slot] = (uint8_t)(r >> 8);
    }
    fp__store_le16(slab + 128 * d + 2 * slot, (uint16_t)mix(seed));
    fp__store_le16(slab + 128 * d + 128 + 2 * slot, (uint16_t)mix(seed + 1));
}

static uint32_t id_of(size_t position)
{
    return (uint32_t)(position * 2654435761u) & 0xffff;
}

/* The host's view of page p, whether or not it holds committed tokens. */
static uint8_t *map_page(const lab *l, const fp__kvseq *seq, size_t p, fp__store_access access)
{
    fp__group group = {.data = fp__kvseq_groups(seq)[p]};
    uint8_t *bytes;
    OK(fp__store_map(l->store, &group, access, &bytes));
    return bytes;
}

static void unmap_page(const lab *l, const fp__kvseq *seq, size_t p, fp__store_access access, uint8_t *bytes)
{
    fp__group group = {.data = fp__kvseq_groups(seq)[p]};
    OK(fp__store_unmap(l->store, &group, access, bytes));
}

/* The bytes of n reserved tokens; salt: other bytes. Contexts only: pages follow from the token's index. */
static void write_tokens(const lab *l, fp__kvseq *seq, size_t first_slot, size_t first_page, size_t n,
                         uint64_t salt)
{
    const fp__page_geometry *g = &l->geometry;
    for (size_t i = 0; i < n;) {
        size_t p = first_page + (first_slot + i) / 64, slot = (first_slot + i) % 64;
        uint8_t *bytes = map_page(l, seq, p, FP__STORE_BOTH);
        for (; slot < 64 && i < n; slot++, i++)
            for (size_t s = 0; s < fp__page_slabs(g); s++)
                write_slot(bytes + s * fp__slab_bytes(g->d), g->d, slot,
                           (fp__kvseq_next_position(seq) + i) * 1000003 + s + salt);
        unmap_page(l, seq, p, FP__STORE_BOTH, bytes);
    }
}

/* Where the next token goes. */
static void next_place(const fp__kvseq *seq, size_t *page, size_t *slot)
{
    fp__attn_segment view;
    fp__kvseq_view(seq, 1, &view);
    *page = view.causal_page + view.causal_tokens / 64;
    *slot = view.causal_tokens % 64;
}

static void append(const lab *l, fp__kvseq *seq, size_t n, size_t chunk, fp_label label)
{
    for (size_t done = 0, now_n; done < n; done += now_n) {
        uint32_t ids[256];
        size_t page, slot;
        now_n = n - done < chunk ? n - done : chunk;
        for (size_t i = 0; i < now_n; i++)
            ids[i] = id_of(fp__kvseq_tokens(seq) + i);
        OK(fp__kvseq_reserve(seq, now_n));
        next_place(seq, &page, &slot);
        write_tokens(l, seq, slot, page, now_n, 0);
        OK(fp__kvseq_commit(seq, ids, now_n, label));
    }
}

static void flip(const lab *l, const fp__kvseq *seq, size_t p, size_t at, unsigned bit)
{
    OK(fp__store_flip(l->store, fp__kvseq_groups(seq)[p], at, (uint8_t)(1u << bit)));
}

/* ---- records ----------------------------------------------------------------------------------------------
 */

static void see(lab *l, const void *data, size_t size)
{
    OK(fp__buf_append(&l->record, data, size));
}

static void see_number(lab *l, size_t n)
{
    see(l, &n, sizeof n);
}

static fp_status see_status(lab *l, fp_status status)
{
    see_number(l, (size_t)status);
    if (status != FP_OK)
        OK(fp__buf_append_text(&l->record, fp_error_detail()));
    return status;
}

static void see_sequence(lab *l, fp__kvseq *seq)
{
    uint8_t head[32] = {0};
    see_status(l, fp__kvseq_head(seq, head));
    see(l, head, 32);
    see_number(l, fp__kvseq_tokens(seq));
    see_number(l, fp__kvseq_sealed(seq));
    see(l, fp__kvseq_ids(seq), fp__kvseq_tokens(seq) * 4);
    for (size_t p = 0; p < fp__kvseq_pages(seq); p++) {
        fp__kvseq_page page;
        fp__kvseq_page_get(seq, p, &page);
        see_number(l, page.visible);
        see_number(l, page.label);
        see_number(l, page.group->summed);
        see_number(l, page.group->hashed);
        see(l, page.group->slab_leaves, 32 * fp__page_slabs(&l->geometry));
        see(l, page.group->root, 32);
        uint8_t *bytes = map_page(l, seq, p, FP__STORE_READ);
        see(l, bytes, fp__page_group_bytes(&l->geometry));
        unmap_page(l, seq, p, FP__STORE_READ, bytes);
    }
    see_number(l, fp__pool_stats_get(l->pool).used_groups);
}

/* ---- scenarios --------------------------------------------------------------------------------------------
 */

static void scenario_growth(lab *l)
{
    static const size_t chunks[] = {1, 7, 63, 64, 65, 200};
    for (size_t c = 0; c < COUNT(chunks); c++) {
        fp__kvseq *seq = new_seq(l, context_of(200));
        append(l, seq, 200, chunks[c], FP_LABEL_USER);
        see_status(l, fp__kvseq_check_sums(seq));
        see_sequence(l, seq);
        fp__kvseq_destroy(seq);
    }
}

static void scenario_truncate(lab *l)
{
    for (size_t keep = 0; keep <= 200; keep += keep % 64 == 62 ? 1 : 31) {
        fp__kvseq *seq = new_seq(l, context_of(256));
        append(l, seq, 200, 50, FP_LABEL_USER);
        EXPECT(see_status(l, fp__kvseq_truncate(seq, keep)) == FP_OK);
        see_sequence(l, seq);
        append(l, seq, 230 - keep, 40, FP_LABEL_USER);
        EXPECT(see_status(l, fp__kvseq_verify(seq, 0, 4)) == FP_OK);
        see_sequence(l, seq);
        fp__kvseq_destroy(seq);
    }
}

/* A step that wrote, and whose checksums were taken, but that is not committed. */
static void scenario_failed_step(lab *l)
{
    fp__kvseq *seq = new_seq(l, context_of(256));
    append(l, seq, 60, 60, FP_LABEL_USER);
    for (int with_sums = 0; with_sums < 2; with_sums++) {
        size_t n = 100;
        OK(fp__kvseq_reserve(seq, n));
        write_tokens(l, seq, 60, 0, n, 77);
        if (with_sums)
            OK(fp__kvseq_checksum_step(&seq, &n, 1));
        EXPECT(see_status(l, fp__kvseq_truncate(seq, 60)) == FP_OK);
        see_sequence(l, seq);
    }
    append(l, seq, 100, 100, FP_LABEL_USER);
    see_sequence(l, seq);
    fp__kvseq_destroy(seq);
}

static void scenario_share(lab *l)
{
    static const size_t kept[] = {150, 128, 100, 64, 3};
    fp__kvseq *src = new_seq(l, context_of(256));
    append(l, src, 150, 64, FP_LABEL_USER);
    for (size_t i = 0; i < COUNT(kept); i++) {
        fp__kvseq *dst = new_seq(l, context_of(256));
        EXPECT(see_status(l, fp__kvseq_share(dst, src, kept[i])) == FP_OK);
        see_sequence(l, dst);
        append(l, dst, 40, 13, FP_LABEL_EXTERNAL);
        see_sequence(l, dst);
        see_sequence(l, src);
        fp__kvseq_destroy(dst);
    }
    fp__kvseq_destroy(src);
}

/* Steps of several sequences with one call for their checksums. */
static void scenario_batch(lab *l)
{
    enum { SEQUENCES = 5 };
    fp__kvseq *seqs[SEQUENCES];
    for (size_t s = 0; s < SEQUENCES; s++)
        seqs[s] = new_seq(l, context_of(400));
    for (size_t step = 0; step < 9; step++) {
        size_t n[SEQUENCES];
        uint32_t ids[80];
        for (size_t s = 0; s < SEQUENCES; s++) {
            n[s] = (s * 31 + step * 7) % 70;
            OK(fp__kvseq_reserve(seqs[s], n[s]));
            write_tokens(l, seqs[s], fp__kvseq_tokens(seqs[s]), 0, n[s], 0);
        }
        OK(fp__kvseq_checksum_step(seqs, n, SEQUENCES));
        for (size_t s = 0; s < SEQUENCES; s++) {
            for (size_t i = 0; i < n[s]; i++)
                ids[i] = id_of(fp__kvseq_tokens(seqs[s]) + i);
            OK(fp__kvseq_commit(seqs[s], ids, n[s], FP_LABEL_USER));
        }
    }
    for (size_t s = 0; s < SEQUENCES; s++) {
        EXPECT(see_status(l, fp__kvseq_check_sums(seqs[s])) == FP_OK);
        see_sequence(l, seqs[s]);
        fp__kvseq_destroy(seqs[s]);
    }
}

static const size_t ANCHOR_TOKENS[] = {70, 10, 64, 1};

static fp__kvseq *anchor_set(lab *l)
{
    static const fp_label labels[] = {FP_LABEL_CORE, FP_LABEL_CORE, FP_LABEL_USER, FP_LABEL_EXTERNAL};
    fp__kvseq *seq = new_seq(l, anchors_of(400, 4));
    for (size_t a = 0; a < COUNT(ANCHOR_TOKENS); a++) {
        OK(fp__kvseq_start_anchor(seq));
        append(l, seq, ANCHOR_TOKENS[a], 33, labels[a]);
    }
    return seq;
}

static void scenario_anchors(lab *l)
{
    fp__kvseq *seq = anchor_set(l);
    see_sequence(l, seq);
    EXPECT(see_status(l, fp__kvseq_verify(seq, 0, fp__kvseq_pages(seq))) == FP_OK);
    EXPECT(see_status(l, fp__kvseq_truncate(seq, 75)) == FP_OK);
    see_sequence(l, seq);
    fp__kvseq_destroy(seq);
}

/* Each check sees a flipped bit, wherever it is, and says where. */
static void scenario_flips(lab *l)
{
    size_t slabs = fp__page_slabs(&l->geometry), slab_bytes = fp__slab_bytes(l->geometry.d);
    uint8_t head[32];
    for (size_t i = 0; i < 48; i++) {
        size_t slab = i * 5 % slabs, at = slab * slab_bytes + i * 7919 % slab_bytes, page = i % 3;
        fp__kvseq *seq = new_seq(l, context_of(256));
        append(l, seq, 64 + 64 + 50, 89, FP_LABEL_USER);
        if (i % 2)
            OK(fp__kvseq_head(seq, head)); /* the sealed ones are hashed */
        flip(l, seq, page, at, (unsigned)(i % 8));
        EXPECT(see_status(l, fp__kvseq_check_sums(seq)) == FP_MISMATCH);
        if (i % 2) {
            EXPECT(see_status(l, fp__kvseq_verify(seq, 0, 3)) == FP_MISMATCH);
            if (page == 2)
                EXPECT(see_status(l, fp__kvseq_head(seq, head)) == FP_MISMATCH);
            flip(l, seq, page, at, (unsigned)(i % 8));
            EXPECT(see_status(l, fp__kvseq_verify(seq, 0, 3)) == FP_OK);
            flip(l, seq, page, at, (unsigned)(i % 8));
        }
        /* a flip in slots that hold no token of the page cannot survive its truncation */
        fp_status status = see_status(l, fp__kvseq_truncate(seq, page * 64 + 10));
        size_t in = at % slab_bytes, d = l->geometry.d;
        size_t slot = in < 64 * d ? in / d : in < 128 * d ? in % 64 : (in - 128 * d) / 2 % 64;
        EXPECT(status == (page == 2 && slot >= 50 ? FP_OK : FP_MISMATCH));
        append(l, seq, 30, 30, FP_LABEL_USER);
        see_sequence(l, seq);
        fp__kvseq_destroy(seq);
    }
}

/* Between writing and sealing. */
static void scenario_flip_before_seal(lab *l)
{
    uint8_t head[32];
    for (size_t i = 0; i < 10; i++) {
        fp__kvseq *seq = new_seq(l, context_of(256));
        append(l, seq, 64 + 50, 57, FP_LABEL_USER);
        flip(l, seq, 1, i * 4001 % (50 * l->geometry.d), (unsigned)i % 8); /* K of a written slot */
        append(l, seq, 30, 30, FP_LABEL_USER);
        EXPECT(see_status(l, fp__kvseq_head(seq, head)) == FP_MISMATCH);
        size_t unverified, bad = 99;
        EXPECT(see_status(l, fp__kvseq_poll(seq, &unverified, &bad)) == FP_MISMATCH);
        EXPECT(bad == 1 && unverified == 0);
        EXPECT(see_status(l, fp__kvseq_truncate(seq, 64)) == FP_OK);
        append(l, seq, 70, 70, FP_LABEL_USER);
        see_sequence(l, seq);
        fp__kvseq_destroy(seq);
    }
}

/* More pages than one call of the store takes; then all pages are used, given back dirty, and used again. */
static void scenario_many_pages(lab *l)
{
    size_t groups = fp__pool_stats_get(l->pool).max_groups, tokens = groups * 64 - 30;
    for (int round = 0; round < 2; round++) {
        fp__kvseq *seq = new_seq(l, context_of(tokens + 100)), *more = new_seq(l, context_of(100));
        append(l, seq, tokens, 256, FP_LABEL_USER);
        see_sequence(l, seq);
        EXPECT(see_status(l, fp__kvseq_verify(seq, 0, groups)) == FP_OK);
        flip(l, seq, groups - 3, 5, 5);
        EXPECT(see_status(l, fp__kvseq_verify(seq, 0, groups)) == FP_MISMATCH);
        EXPECT(see_status(l, fp__kvseq_check_sums(seq)) == FP_MISMATCH);
        EXPECT(see_status(l, fp__kvseq_reserve(more, 1)) == FP_LIMIT);
        fp__kvseq_destroy(more);
        fp__kvseq_destroy(seq);
    }
}

typedef struct scenario {
    const char *name;
    void (*run)(lab *l);
} scenario;
static const scenario scenarios[] = {{"growth", scenario_growth},
                                     {"truncate", scenario_truncate},
                                     {"failed step", scenario_failed_step},
                                     {"share", scenario_share},
                                     {"batch", scenario_batch},
                                     {"anchors", scenario_anchors},
                                     {"flips", scenario_flips},
                                     {"flip before seal", scenario_flip_before_seal},
                                     {"many pages", scenario_many_pages}};

static void compare_records(const char *what, lab *a, lab *b)
{
    bool same = a->record.size == b->record.size &&
                memcmp(a->record.data, b->record.data, a->record.size ? a->record.size : 1) == 0;
    size_t at = 0;
    while (!same && at < a->record.size && at < b->record.size && a->record.data[at] == b->record.data[at])
        at++;
    printf(
        "{\"check\": \"%s\", \"layers\": %zu, \"kv_heads\": %zu, \"d\": %zu, \"bytes\": %zu, \"same\": %s, "
        "\"first_difference\": %zu}\n",
        what, a->geometry.layers, a->geometry.kv_heads, a->geometry.d, a->record.size,
        same ? "true" : "false", at);
    failures += !same;
}

/* ---- artifacts --------------------------------------------------------------------------------------------
 */

static fp_status load(lab *l, const fp__buf *file, const uint8_t head[32], fp__artifact_kind kind,
                      fp__kvseq **out)
{
    fp__artifact *artifact;
    FP_TRY(fp__artifact_open_memory("test", file->data, file->size, &artifact));
    fp__artifact_expect expect = {.kind = kind, .kv_head = head, .label = FP_LABEL_CORE, .max_tokens = 6000};
    fp_status status = fp__artifact_load(artifact, &expect, l->pool, l->hasher, out);
    fp__artifact_close(artifact);
    return status;
}

static void save(fp__kvseq *seq, fp__buf *out)
{
    char path[512];
    fp__artifact_info info = {0};
    snprintf(path, sizeof path, "%s/cuda_store.fpkv", folder);
    OK(fp__artifact_write(path, seq, &info, "manifest", 8));
    OK(fp__file_read(path, (size_t)1 << 30, out));
    unlink(path);
}

/* A file made by one store, on the other and on itself; damaged in each way. */
static void load_both(lab *from, lab *to, size_t tokens, bool anchors)
{
    fp__buf file = {0};
    uint8_t head[32], bytes_head[32];
    fp__kvseq *seq = anchors ? anchor_set(from) : new_seq(from, context_of(6000)), *loaded = NULL;
    if (!anchors)
        append(from, seq, tokens, 200, FP_LABEL_USER);
    OK(fp__kvseq_head(seq, head));
    save(seq, &file);
    fp__artifact_kind kind = anchors ? FP__ARTIFACT_ANCHORS : FP__ARTIFACT_SESSION;
    EXPECT(load(to, &file, head, kind, &loaded) == FP_OK);
    if (loaded) {
        fp__buf again = {0};
        OK(fp__kvseq_head(loaded, bytes_head));
        EXPECT(memcmp(head, bytes_head, 32) == 0);
        EXPECT(fp__kvseq_compare(seq, loaded, 0, fp__kvseq_pages(seq)) == FP_OK);
        EXPECT(fp__kvseq_check_sums(loaded) == FP_OK);
        EXPECT(fp__kvseq_verify(loaded, 0, fp__kvseq_pages(loaded)) == FP_OK);
        save(loaded, &again);
        EXPECT(again.size == file.size && memcmp(again.data, file.data, file.size) == 0);
        fp__buf_free(&again);
        fp__kvseq_destroy(loaded);
    }
    size_t stride = (from->store->group_bytes + 4095) / 4096 * 4096, pages = fp__kvseq_pages(seq),
           data = file.size - pages * stride;
    for (size_t p = 0; p < pages; p += pages / 5 + 1) {
        size_t slab = p * 7 % from->store->slabs;
        char where[128];
        uint8_t *byte = file.data + data + p * stride + slab * from->store->slab_bytes + p * 97 % 1000;
        snprintf(where, sizeof where, "page %zu, layer %zu, head %zu", p, slab / from->geometry.kv_heads,
                 slab % from->geometry.kv_heads);
        *byte ^= 1;
        EXPECT(load(to, &file, head, kind, &loaded) == FP_MISMATCH && strstr(fp_error_detail(), where));
        *byte ^= 1;
    }
    EXPECT(load(to, &file, head, kind, &loaded) == FP_OK);
    flip(from, seq, 0, 77, 3);
    fp__artifact_info info = {0};
    EXPECT(fp__artifact_write("never", seq, &info, NULL, 0) == FP_MISMATCH && access("never", F_OK) != 0);
    fp__kvseq_destroy(loaded);
    fp__kvseq_destroy(seq);
    fp__buf_free(&file);
}

/* ---- copies and comparisons between stores ---------------------------------------------------------------
 */

static void copy_between(lab *from, lab *to)
{
    fp__kvseq *src = new_seq(from, context_of(400)), *dst = new_seq(to, context_of(400));
    uint8_t a[32], b[32];
    append(from, src, 210, 100, FP_LABEL_USER);
    static const size_t kept[] = {210, 192, 100};
    for (size_t i = 0; i < COUNT(kept); i++) {
        EXPECT(fp__kvseq_copy(dst, src, kept[i]) == FP_OK);
        EXPECT(fp__kvseq_tokens(dst) == kept[i]);
        EXPECT(fp__kvseq_compare(src, dst, 0, kept[i] / 64) == FP_OK);
        append(to, dst, 250 - kept[i], 64, FP_LABEL_USER);
        OK(fp__kvseq_truncate(dst, 210));
        OK(fp__kvseq_head(src, a));
        OK(fp__kvseq_head(dst, b));
        EXPECT(memcmp(a, b, 32) == 0);
        EXPECT(fp__kvseq_compare(src, dst, 0, 4) == FP_OK);
        OK(fp__kvseq_truncate(dst, 0));
    }
    size_t last = from->store->slabs - 1, at = last * from->store->slab_bytes + 9;
    OK(fp__kvseq_copy(dst, src, 210));
    for (size_t p = 0; p < 4; p++) {
        char where[128];
        snprintf(where, sizeof where, "page %zu, layer %zu, head %zu", p, last / from->geometry.kv_heads,
                 last % from->geometry.kv_heads);
        fp__kvseq *other = new_seq(to, context_of(400));
        flip(from, src, p, at, 2);
        EXPECT(fp__kvseq_compare(src, dst, 0, 4) == FP_MISMATCH && strstr(fp_error_detail(), where));
        EXPECT(fp__kvseq_copy(other, src, 210) == FP_MISMATCH && strstr(fp_error_detail(), where));
        EXPECT(fp__kvseq_tokens(other) == 0 && fp__kvseq_pages(other) == 0);
        flip(from, src, p, at, 2);
        fp__kvseq_destroy(other);
    }
    EXPECT(fp__kvseq_compare(src, dst, 0, 5) == FP_USAGE);
    fp__kvseq_destroy(src);
    fp__kvseq_destroy(dst);
}

/* ---- order and concurrency -------------------------------------------------------------------------------
 */

/* The pass's stream is far behind: the bytes of a step come late, and still every check sees them. */
static void late_writes(lab *host, lab *gpu)
{
    cudaStream_t pass;
    uint8_t *busy, *good, a[32], b[32];
    const size_t busy_bytes = (size_t)512 << 20, group_bytes = gpu->store->group_bytes;
    CUDA(cudaStreamCreateWithFlags(&pass, cudaStreamNonBlocking));
    CUDA(cudaMalloc((void **)&busy, busy_bytes));
    CUDA(cudaMalloc((void **)&good, group_bytes));
    OK(fp__store_cuda_set_writer(gpu->store, pass));
    fp__kvseq *want = new_seq(host, context_of(600));
    append(host, want, 8 * 64, 64, FP_LABEL_USER);
    OK(fp__kvseq_head(want, a));
    for (int round = 0; round < 3; round++) {
        fp__kvseq *seq = new_seq(gpu, context_of(600));
        for (size_t p = 0; p < 8; p++) {
            uint8_t *bytes = map_page(host, want, p, FP__STORE_READ);
            size_t n = 64;
            OK(fp__kvseq_reserve(seq, 64));
            CUDA(cudaMemcpy(good, bytes, group_bytes, cudaMemcpyHostToDevice));
            for (int i = 0; i < 8; i++)
                CUDA(cudaMemsetAsync(busy, i, busy_bytes, pass));
            CUDA(
                cudaMemcpyAsync(fp__kvseq_groups(seq)[p], good, group_bytes, cudaMemcpyDeviceToDevice, pass));
            if (round)
                OK(fp__kvseq_checksum_step(&seq, &n, 1));
            OK(fp__kvseq_commit(seq, fp__kvseq_ids(want) + 64 * p, 64, FP_LABEL_USER));
            if (p == 3) { /* and what looks at it from here */
                EXPECT(fp__kvseq_check_sums(seq) == FP_OK);
                EXPECT(fp__kvseq_compare(want, seq, 0, 4) == FP_OK);
            }
            CUDA(cudaStreamSynchronize(pass)); /* `good` is used again */
        }
        OK(fp__kvseq_head(seq, b));
        EXPECT(memcmp(a, b, 32) == 0);
        EXPECT(fp__kvseq_compare(want, seq, 0, 8) == FP_OK);
        fp__kvseq_destroy(seq);
    }
    OK(fp__store_cuda_set_writer(gpu->store, NULL));
    fp__kvseq_destroy(want);
    CUDA(cudaFree(busy));
    CUDA(cudaFree(good));
    CUDA(cudaStreamDestroy(pass));
}

typedef struct worker {
    lab *l;
    size_t tokens;
    uint8_t head[32];
    bool ok;
    pthread_t thread;
} worker;

static void *work(void *arg)
{
    worker *w = arg;
    fp__kvseq *seq = new_seq(w->l, context_of(1000));
    append(w->l, seq, w->tokens, 100, FP_LABEL_USER);
    w->ok = fp__kvseq_verify(seq, 0, fp__kvseq_pages(seq)) == FP_OK;
    OK(fp__kvseq_truncate(seq, w->tokens - 70));
    append(w->l, seq, 70, 11, FP_LABEL_USER);
    OK(fp__kvseq_head(seq, w->head));
    fp__kvseq_destroy(seq);
    return NULL;
}

/* Sequences of several threads in one pool: pages are written, hashed, scrubbed and zeroed side by side. */
static void concurrent(lab *host, lab *gpu, int rounds)
{
    enum { THREADS = 6 };
    worker workers[THREADS], want;
    for (int round = 0; round < rounds; round++) {
        for (size_t i = 0; i < THREADS; i++) {
            workers[i] = (worker){.l = gpu, .tokens = 300 + 64 * i};
            pthread_create(&workers[i].thread, NULL, work, &workers[i]);
        }
        for (size_t i = 0; i < THREADS; i++) {
            pthread_join(workers[i].thread, NULL);
            want = (worker){.l = host, .tokens = workers[i].tokens};
            work(&want);
            EXPECT(workers[i].ok && want.ok && memcmp(want.head, workers[i].head, 32) == 0);
        }
    }
}

static void refusals(void)
{
    fp__page_geometry g = geometry_of(2, 3, 12);
    fp__store *store;
    fp__pool *pool;
    EXPECT(fp__store_cuda_create(&g, 4, &store) == FP_UNSUPPORTED &&
           strstr(fp_error_detail(), "head size 12"));
    g = geometry_of(32, 8, 128);
    size_t room = 0;
    OK(fp__store_cuda_room(&g, &room));
    EXPECT(fp__store_cuda_create(&g, room * 2, &store) == FP_NO_MEMORY &&
           strstr(fp_error_detail(), "choose a smaller context"));
    printf("{\"room_tokens_8b\": %zu, \"message\": \"%s\"}\n", room * 64, fp_error_detail());
    OK(fp__store_cuda_create(&g, 2, &store));
    EXPECT(fp__pool_create(&g, 3, store, &pool) == FP_LIMIT);
    OK(fp__pool_create(&g, 2, store, &pool));
    fp__pool_destroy(pool);
}

static void check_shape(fp__page_geometry g, bool small)
{
    for (size_t workers = small ? 3 : 0; workers <= 3; workers += 3) {
        lab host, gpu;
        for (size_t s = 0; s < COUNT(scenarios); s++) {
            if (small && scenarios[s].run == scenario_many_pages) /* more of the same kernels */
                continue;
            size_t groups = scenarios[s].run == scenario_many_pages ? 140 : 40;
            lab_open(&host, g, groups, workers, false);
            lab_open(&gpu, g, groups, workers, true);
            scenarios[s].run(&host);
            scenarios[s].run(&gpu);
            compare_records(scenarios[s].name, &host, &gpu);
            lab_close(&host);
            lab_close(&gpu);
        }
        lab_open(&host, g, 200, workers, false);
        lab_open(&gpu, g, 200, workers, true);
        lab *labs[2] = {&host, &gpu};
        for (int i = 0; i < 4; i++) {
            load_both(labs[i % 2], labs[i / 2], 150, false);
            load_both(labs[i % 2], labs[i / 2], 0, true);
        }
        if (!small)
            load_both(&gpu, &gpu, 80 * 64 + 5, false);
        copy_between(&host, &gpu);
        copy_between(&gpu, &host);
        concurrent(&host, &gpu, small ? 1 : 3);
        lab_close(&host);
        lab_close(&gpu);
    }
    printf("{\"check\": \"artifacts, copies, threads\", \"d\": %zu, \"failures\": %d}\n", g.d, failures);
}

/* small: the least that runs every kernel, for checks that slow a program down. */
static int check(bool small)
{
    check_shape(geometry_of(2, 3, 8), small);
    if (small) {
        printf("{\"failures\": %d}\n", failures);
        return failures ? 1 : 0;
    }
    check_shape(geometry_of(3, 2, 128), false);
    check_shape(geometry_of(1, 2, 96), false);
    check_shape(geometry_of(2, 1, 64), false);
    check_shape(geometry_of(1, 1, 256), false);
    lab host, gpu;
    lab_open(&host, geometry_of(32, 8, 128), 9, 2, false);
    lab_open(&gpu, geometry_of(32, 8, 128), 9, 2, true);
    late_writes(&host, &gpu);
    lab_close(&host);
    lab_close(&gpu);
    refusals();
    printf("{\"failures\": %d}\n", failures);
    return failures ? 1 : 0;
}

/* ---- speed ------------------------------------------------------------------------------------------------
 */

enum { BENCH_PAGES = 128, REPEATS = 20 };

static void bench_looking(const lab *l, fp__group **groups)
{
    static uint8_t leaves[FP__STORE_BATCH][256 * 32];
    uint8_t *out[FP__STORE_BATCH];
    size_t bad[FP__STORE_BATCH];
    for (size_t i = 0; i < FP__STORE_BATCH; i++)
        out[i] = leaves[i];
    for (size_t n = 1; n <= FP__STORE_BATCH; n *= 4) {
        double hash = 1e9, check_s = 1e9;
        for (int r = 0; r < REPEATS; r++) {
            double t = now();
            OK(fp__store_hash(l->store, groups, n, out));
            double u = now();
            OK(fp__store_check(l->store, groups, n, false, bad));
            double v = now();
            hash = u - t < hash ? u - t : hash;
            check_s = v - u < check_s ? v - u : check_s;
        }
        double bytes = (double)(n * l->store->group_bytes);
        printf("{\"bench\": \"look\", \"pages\": %zu, \"hash_us\": %.1f, \"hash_gb_s\": %.1f, \"check_us\": "
               "%.1f, \"check_gb_s\": %.1f}\n",
               n, hash * 1e6, bytes / hash / 1e9, check_s * 1e6, bytes / check_s / 1e9);
    }
}

/* Checksums of one step: the GPU's time (caches cold), and the calling thread's. */
static void bench_sums(const lab *l, fp__group **groups, size_t sequences, cudaStream_t pass, uint8_t *trash)
{
    cudaEvent_t begin, end;
    float best = 1e9f, ms;
    double cpu = 1e9;
    size_t slots[FP__STORE_BATCH];
    CUDA(cudaEventCreate(&begin));
    CUDA(cudaEventCreate(&end));
    for (size_t slot = 1; slot <= 60; slot++) {
        for (size_t i = 0; i < sequences; i++)
            slots[i] = slot;
        CUDA(cudaMemsetAsync(trash, (int)slot, (size_t)256 << 20, pass));
        CUDA(cudaEventRecord(begin, pass));
        double t = now();
        OK(fp__store_sum(l->store, groups, slots, sequences, 0, l->store->slabs));
        t = now() - t;
        CUDA(cudaEventRecord(end, pass));
        CUDA(cudaEventSynchronize(end));
        CUDA(cudaEventElapsedTime(&ms, begin, end));
        best = ms < best ? ms : best;
        cpu = t < cpu ? t : cpu;
    }
    for (size_t i = 0; i < sequences; i++)
        groups[i]->summed = 0;
    /* back to back: the launch's own cost */
    CUDA(cudaEventRecord(begin, pass));
    for (int r = 0; r < 100; r++) {
        for (size_t i = 0; i < sequences; i++) {
            groups[i]->summed = (size_t)r % 60;
            slots[i] = (size_t)r % 60 + 1;
        }
        OK(fp__store_sum(l->store, groups, slots, sequences, 0, l->store->slabs));
    }
    CUDA(cudaEventRecord(end, pass));
    CUDA(cudaEventSynchronize(end));
    CUDA(cudaEventElapsedTime(&ms, begin, end));
    printf(
        "{\"bench\": \"checksum of a step\", \"sequences\": %zu, \"gpu_cold_us\": %.2f, \"gpu_repeated_us\": "
        "%.2f, \"call_us\": %.2f}\n",
        sequences, best * 1e3f, ms * 1e3f / 100, cpu * 1e6);
    CUDA(cudaEventDestroy(begin));
    CUDA(cudaEventDestroy(end));
}

typedef struct background {
    const lab *l;
    fp__group **groups;
    volatile bool stop;
    size_t batch, pages;
    useconds_t pause;
} background;

static void *hash_on(void *arg)
{
    background *b = arg;
    static uint8_t leaves[FP__STORE_BATCH][256 * 32];
    uint8_t *out[FP__STORE_BATCH];
    for (size_t i = 0; i < FP__STORE_BATCH; i++)
        out[i] = leaves[i];
    while (!b->stop) {
        OK(fp__store_hash(b->l->store, b->groups, b->batch, out));
        b->pages += b->batch;
        usleep(b->pause);
    }
    return NULL;
}

/* What hashing costs beside work that uses all of the memory's bandwidth. */
static void bench_beside(const lab *l, fp__group **groups, cudaStream_t pass, uint8_t *trash)
{
    static const struct {
        size_t batch;
        useconds_t pause;
    } loads[] = {{0, 0}, {1, 150000}, {1, 0}, {64, 0}};
    cudaEvent_t begin, end;
    CUDA(cudaEventCreate(&begin));
    CUDA(cudaEventCreate(&end));
    for (size_t i = 0; i < COUNT(loads); i++) {
        background b = {.l = l, .groups = groups, .batch = loads[i].batch, .pause = loads[i].pause};
        pthread_t thread;
        float ms;
        if (b.batch)
            pthread_create(&thread, NULL, hash_on, &b);
        double t = now();
        CUDA(cudaEventRecord(begin, pass));
        for (int r = 0; r < 1000; r++)
            CUDA(cudaMemcpyAsync(trash, trash + ((size_t)512 << 20), (size_t)512 << 20,
                                 cudaMemcpyDeviceToDevice, pass));
        CUDA(cudaEventRecord(end, pass));
        CUDA(cudaEventSynchronize(end));
        t = now() - t;
        b.stop = true;
        if (b.batch)
            pthread_join(thread, NULL);
        CUDA(cudaEventElapsedTime(&ms, begin, end));
        printf("{\"bench\": \"hash beside copies\", \"batch\": %zu, \"pause_us\": %u, \"copy_gb_s\": %.1f, "
               "\"hash_gb_s\": %.2f}\n",
               b.batch, (unsigned)b.pause, 1000 * 2 * 0.536870912 / (ms * 1e-3),
               (double)(b.pages * l->store->group_bytes) / t / 1e9);
    }
    CUDA(cudaEventDestroy(begin));
    CUDA(cudaEventDestroy(end));
}

/* Loading with verification, from a file that the system has in memory. */
static void bench_load(fp__page_geometry g)
{
    for (size_t workers = 0; workers <= 4; workers += 2) {
        for (int gpu = 0; gpu < 2; gpu++) {
            lab l;
            lab_open(&l, g, BENCH_PAGES, workers, gpu);
            fp__kvseq *seq = new_seq(&l, context_of(64 * 64));
            char path[512];
            uint8_t head[32];
            uint32_t ids[64 * 64] = {0};
            fp__artifact_info info = {0};
            snprintf(path, sizeof path, "%s/bench.fpkv", folder);
            OK(fp__kvseq_reserve(seq, 64 * 64));
            OK(fp__kvseq_commit(seq, ids, 64 * 64, FP_LABEL_USER));
            OK(fp__kvseq_head(seq, head));
            double t = now();
            OK(fp__artifact_write(path, seq, &info, NULL, 0));
            double written = now() - t, best = 1e9;
            fp__kvseq_destroy(seq);
            for (int r = 0; r < 3; r++) {
                fp__artifact *artifact;
                fp__artifact_expect expect = {
                    .kind = FP__ARTIFACT_SESSION, .kv_head = head, .label = FP_LABEL_CORE};
                OK(fp__artifact_open(path, &artifact));
                t = now();
                OK(fp__artifact_load(artifact, &expect, l.pool, l.hasher, &seq));
                t = now() - t;
                best = t < best ? t : best;
                if (r == 0) {
                    double s = now();
                    OK(fp__kvseq_verify(seq, 0, 64));
                    s = now() - s;
                    printf("{\"bench\": \"scrub\", \"gpu\": %d, \"workers\": %zu, \"pages\": 64, \"gb_s\": "
                           "%.2f}\n",
                           gpu, workers, 64e-9 * (double)l.store->group_bytes / s);
                }
                fp__kvseq_destroy(seq);
                fp__artifact_close(artifact);
            }
            printf("{\"bench\": \"artifact\", \"gpu\": %d, \"workers\": %zu, \"pages\": 64, \"load_gb_s\": "
                   "%.2f, "
                   "\"write_gb_s\": %.2f}\n",
                   gpu, workers, 64e-9 * (double)l.store->group_bytes / best,
                   64e-9 * (double)l.store->group_bytes / written);
            unlink(path);
            lab_close(&l);
        }
    }
}

static int bench(void)
{
    lab l;
    fp__page_geometry g = geometry_of(32, 8, 128);
    fp__group *groups[FP__STORE_BATCH];
    cudaStream_t pass;
    uint8_t *trash;
    CUDA(cudaMalloc((void **)&trash, (size_t)1 << 30));
    lab_open(&l, g, BENCH_PAGES, 1, true);
    CUDA(cudaStreamCreateWithFlags(&pass, cudaStreamNonBlocking));
    OK(fp__store_cuda_set_writer(l.store, pass));
    for (size_t i = 0; i < FP__STORE_BATCH; i++)
        OK(fp__pool_take(l.pool, &groups[i]));
    CUDA(cudaMemset(fp__store_cuda_base(l.store), 0x35, BENCH_PAGES * l.store->group_bytes));
    bench_looking(&l, groups);
    for (size_t sequences = 1; sequences <= 64; sequences *= 2)
        bench_sums(&l, groups, sequences, pass, trash);
    bench_beside(&l, groups, pass, trash);
    double t = now();
    for (size_t i = 0; i < FP__STORE_BATCH; i++)
        OK(fp__store_keep(l.store, groups[i], groups[i], 30));
    CUDA(cudaStreamSynchronize(pass));
    printf("{\"bench\": \"keep\", \"us\": %.2f}\n", (now() - t) * 1e6 / FP__STORE_BATCH);
    t = now();
    for (size_t i = 0; i < FP__STORE_BATCH; i++)
        OK(fp__store_take(l.store, groups[i]));
    CUDA(cudaStreamSynchronize(pass));
    printf("{\"bench\": \"take\", \"us\": %.2f}\n", (now() - t) * 1e6 / FP__STORE_BATCH);
    for (size_t i = 0; i < FP__STORE_BATCH; i++)
        fp__pool_unref(l.pool, groups[i]);
    OK(fp__store_cuda_set_writer(l.store, NULL));
    lab_close(&l);
    CUDA(cudaFree(trash));
    CUDA(cudaStreamDestroy(pass));
    bench_load(g);
    return 0;
}

int main(int argc, char **argv)
{
    int devices = 0;
    if (argc > 2)
        folder = argv[2];
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
        printf("no GPU: skipped\n");
        return 77;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc > 1 && strcmp(argv[1], "check") == 0)
        return check(false);
    if (argc > 1 && strcmp(argv[1], "small") == 0)
        return check(true);
    if (argc > 1 && strcmp(argv[1], "bench") == 0)
        return bench();
    printf("usage: cuda_store check|small|bench [FOLDER]\n");
    return 2;
}
