/* Sequences of K/V pages: commit, seal, hash, truncate, share; that every way to the same tokens gives the
 * same kv head, and that every changed bit is seen. */
#include "kv_fixture.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static void head_of(fp__kvseq *seq, uint8_t out[32])
{
    KV_OK(fp__kvseq_head(seq, out));
}

static void expect_reference(fp__kvseq *seq, fp_label label)
{
    uint8_t got[32], want[32];
    size_t tokens = fp__kvseq_tokens(seq);
    head_of(seq, got);
    kv_reference_head(fp__kvseq_options_get(seq), &tokens, &label, tokens > 0, want);
    assert_memory_equal(got, want, 32);
}

/* ---- heads ---- */

static void test_lengths(void **state)
{
    (void)state;
    kv_fixture f = kv_open(8, 1);
    static const size_t lengths[] = {0, 1, 2, 63, 64, 65, 127, 128, 129, 191, 192, 193, 200};
    for (size_t i = 0; i < COUNT(lengths); i++) {
        fp__kvseq *seq = kv_new(&f, kv_context(256));
        kv_append(seq, lengths[i], 50, FP_LABEL_USER);
        assert_int_equal(fp__kvseq_tokens(seq), lengths[i]);
        assert_int_equal(fp__kvseq_pages(seq), (lengths[i] + 63) / 64);
        assert_int_equal(fp__kvseq_sealed(seq), lengths[i] / 64);
        expect_reference(seq, FP_LABEL_USER);
        expect_reference(seq, FP_LABEL_USER); /* asking does not change it */
        fp__kvseq_destroy(seq);
    }
    kv_close(&f);
}

/* Every chunking, with every number of workers, gives the head of the reference, after every step. */
static void test_chunkings(void **state)
{
    (void)state;
    static const size_t chunks[] = {1, 7, 63, 64, 65, 200};
    uint8_t got[32], want[32];
    for (size_t workers = 0; workers <= 3; workers++) {
        kv_fixture f = kv_open(4, workers);
        for (size_t c = 0; c < COUNT(chunks); c++) {
            fp__kvseq *seq = kv_new(&f, kv_context(200));
            kv_append(seq, 200, chunks[c], FP_LABEL_USER);
            head_of(seq, got);
            size_t n = 200;
            kv_reference_head(fp__kvseq_options_get(seq), &n, &(fp_label){FP_LABEL_USER}, 1, want);
            assert_memory_equal(got, want, 32);
            fp__kvseq_destroy(seq);
        }
        kv_close(&f);
    }
}

static void test_head_while_growing(void **state)
{
    (void)state;
    kv_fixture f = kv_open(4, 1);
    fp__kvseq *seq = kv_new(&f, kv_context(200));
    for (size_t n = 0; n < 200; n += 5) {
        expect_reference(seq, FP_LABEL_CORE);
        kv_append(seq, 5, 5, FP_LABEL_CORE);
    }
    fp__kvseq_destroy(seq);
    kv_close(&f);
}

/* Where pages lie in memory does not matter. */
static void test_permuted_pages(void **state)
{
    (void)state;
    kv_fixture f = kv_open(8, 1);
    fp__group *groups[8];
    for (size_t round = 0; round < 4; round++) {
        for (size_t i = 0; i < 8; i++)
            KV_OK(fp__pool_take(f.pool, &groups[i]));
        for (size_t i = 0; i < 8; i++)
            fp__pool_unref(f.pool, groups[(i * 3 + round * 5) % 8]);
        fp__kvseq *seq = kv_new(&f, kv_context(400));
        kv_append(seq, 400, 33, FP_LABEL_USER);
        expect_reference(seq, FP_LABEL_USER);
        fp__kvseq_destroy(seq);
    }
    kv_close(&f);
}

/* Each field of the head's inputs counts. */
static void test_every_field_counts(void **state)
{
    (void)state;
    kv_fixture f = kv_open(8, 0);
    uint8_t heads[8][32], anchor[32] = {1}, other[32] = {1, 0, 0, 0x80};
    fp__kvseq_options variants[8];
    for (size_t i = 0; i < 8; i++)
        variants[i] = kv_context(100);
    variants[1].first_pos = 1;
    variants[2].anchor_kv_head = anchor;
    variants[3].anchor_kv_head = other;
    variants[4].label = FP_LABEL_EXTERNAL;
    variants[7] = kv_anchors(100, 1);
    for (size_t i = 0; i < 8; i++) {
        fp__kvseq *seq = kv_new(&f, variants[i]);
        if (i == 7)
            KV_OK(fp__kvseq_start_anchor(seq));
        uint32_t ids[70];
        for (size_t t = 0; t < 70; t++)
            ids[t] = kv_id(t) ^ (i == 5 && t == 3);
        KV_OK(fp__kvseq_reserve(seq, 70));
        /* the same K/V bytes in all variants: what differs is what the page leaf says */
        for (size_t t = 0; t < 70; t++) {
            for (size_t s = 0; s < 6; s++) {
                size_t slot;
                uint8_t *slab = fp__kvseq_slab(seq, t, s / 3, s % 3, &slot);
                kv_write_slot(slab, 8, slot, t, 0, s / 3, s % 3);
            }
        }
        KV_OK(fp__kvseq_commit(seq, ids, 70, i == 6 ? FP_LABEL_USER : FP_LABEL_CORE));
        head_of(seq, heads[i]);
        for (size_t j = 0; j < i; j++)
            assert_memory_not_equal(heads[i], heads[j], 32);
        fp__kvseq_destroy(seq);
    }
    kv_close(&f);
}

/* Every single bit of K/V counts: written with one bit changed, each slab, each byte. */
static void test_every_slab_bit_counts(void **state)
{
    (void)state;
    kv_fixture f = kv_open(1, 0);
    uint8_t plain[32], changed[32];
    fp__kvseq *seq = kv_new(&f, kv_context(64));
    kv_append(seq, 5, 5, FP_LABEL_USER);
    head_of(seq, plain);
    fp__kvseq_destroy(seq);
    size_t slab_bytes = fp__slab_bytes(8);
    for (size_t at = 0; at < slab_bytes; at++) {
        size_t slot = at < 512 ? at / 8 : at < 1024 ? at % 64 : (at - 1024) / 2 % 64;
        if (slot >= 5)
            continue; /* not written by these tokens */
        seq = kv_new(&f, kv_context(64));
        uint32_t ids[5] = {kv_id(0), kv_id(1), kv_id(2), kv_id(3), kv_id(4)};
        KV_OK(fp__kvseq_reserve(seq, 5));
        kv_write(seq, ids, 5);
        fp__kvseq_groups(seq)[0][at % 6 * slab_bytes + at] ^= (uint8_t)(1u << at % 8);
        KV_OK(fp__kvseq_commit(seq, ids, 5, FP_LABEL_USER));
        head_of(seq, changed);
        assert_memory_not_equal(plain, changed, 32);
        fp__kvseq_destroy(seq);
    }
    kv_close(&f);
}

/* ---- labels ---- */

static uint8_t page_label(const fp__kvseq *seq, size_t page)
{
    fp__kvseq_page info;
    fp__kvseq_page_get(seq, page, &info);
    return info.label;
}

static void test_labels(void **state)
{
    (void)state;
    kv_fixture f = kv_open(8, 1);
    fp__kvseq *seq = kv_new(&f, kv_context(400));
    assert_int_equal(fp__kvseq_label(seq), FP_LABEL_CORE);
    kv_append(seq, 64, 64, FP_LABEL_CORE);
    kv_append(seq, 70, 64, FP_LABEL_USER);
    kv_append(seq, 10, 64, FP_LABEL_EXTERNAL);
    kv_append(seq, 60, 64, FP_LABEL_CORE); /* attends to external text: stays external */
    assert_int_equal(page_label(seq, 0), FP_LABEL_CORE);
    assert_int_equal(page_label(seq, 1), FP_LABEL_USER);
    assert_int_equal(page_label(seq, 2), FP_LABEL_EXTERNAL);
    assert_int_equal(page_label(seq, 3), FP_LABEL_EXTERNAL);
    KV_OK(fp__kvseq_truncate(seq, 130)); /* before the external text */
    assert_int_equal(page_label(seq, 2), FP_LABEL_USER);
    assert_int_equal(fp__kvseq_label(seq), FP_LABEL_USER);
    KV_FAIL(fp__kvseq_commit(seq, &(uint32_t){1}, 1, (fp_label)3), FP_USAGE, "label 3");
    fp__kvseq_destroy(seq);
    fp__kvseq_options user = kv_context(10);
    user.label = FP_LABEL_USER;
    seq = kv_new(&f, user);
    kv_append(seq, 5, 5, FP_LABEL_CORE);
    assert_int_equal(page_label(seq, 0), FP_LABEL_USER);
    fp__kvseq_destroy(seq);
    kv_close(&f);
}

/* ---- truncating ---- */

static void expect_zero_after(const fp__kvseq *seq)
{
    size_t slab_bytes = fp__slab_bytes(8);
    for (size_t p = 0; p < fp__kvseq_pages(seq); p++) {
        for (size_t i = 0; i < 6 * slab_bytes; i++) {
            size_t at = i % slab_bytes, slot = at < 512 ? at / 8 : at < 1024 ? at % 64 : (at - 1024) / 2 % 64;
            if (slot >= fp__kvseq_filled(seq)[p])
                assert_int_equal(fp__kvseq_groups(seq)[p][i], 0);
        }
    }
}

static void test_truncate(void **state)
{
    (void)state;
    for (size_t workers = 0; workers <= 1; workers++) {
        kv_fixture f = kv_open(4, workers);
        for (size_t keep = 0; keep <= 200; keep += keep % 64 == 62 ? 1 : 3) {
            fp__kvseq *seq = kv_new(&f, kv_context(256));
            kv_append(seq, 200, 50, FP_LABEL_USER);
            if (keep % 2)
                expect_reference(seq, FP_LABEL_USER); /* with and without a frontier to rewind */
            KV_OK(fp__kvseq_truncate(seq, keep));
            assert_int_equal(fp__kvseq_tokens(seq), keep);
            assert_int_equal(fp__pool_stats_get(f.pool).used_groups, (keep + 63) / 64);
            expect_zero_after(seq);
            expect_reference(seq, FP_LABEL_USER);
            kv_append(seq, 230 - keep, 40, FP_LABEL_USER);
            expect_reference(seq, FP_LABEL_USER);
            fp__kvseq_destroy(seq);
        }
        kv_close(&f);
    }
}

/* A step that failed after it had written some K/V leaves nothing behind. */
static void test_failed_step(void **state)
{
    (void)state;
    kv_fixture f = kv_open(4, 1);
    fp__kvseq *seq = kv_new(&f, kv_context(256));
    kv_append(seq, 60, 60, FP_LABEL_USER);
    uint32_t wrong[100];
    memset(wrong, 1, sizeof wrong);
    KV_OK(fp__kvseq_reserve(seq, 100));
    kv_write(seq, wrong, 100);
    fp__kvseq_checksum(seq, 100, 0, 4); /* even with some checksums taken */
    KV_OK(fp__kvseq_truncate(seq, 60));
    expect_zero_after(seq);
    assert_int_equal(fp__pool_stats_get(f.pool).used_groups, 1);
    kv_append(seq, 100, 100, FP_LABEL_USER);
    expect_reference(seq, FP_LABEL_USER);
    KV_FAIL(fp__kvseq_truncate(seq, 161), FP_USAGE, "only 160");
    fp__kvseq_destroy(seq);
    kv_close(&f);
}

/* Checksums taken by the threads that write, in any partition, are the ones that commit would take. */
static void test_checksum_by_writers(void **state)
{
    (void)state;
    kv_fixture f = kv_open(4, 1);
    fp__kvseq *seq = kv_new(&f, kv_context(256));
    uint32_t ids[90];
    for (size_t done = 0; done < 180; done += 90) {
        for (size_t i = 0; i < 90; i++)
            ids[i] = kv_id(done + i);
        KV_OK(fp__kvseq_reserve(seq, 90));
        kv_write(seq, ids, 90);
        fp__kvseq_checksum(seq, 40, 2, 5);
        fp__kvseq_checksum(seq, 90, 3, 6);
        fp__kvseq_checksum(seq, 90, 0, 1);
        KV_OK(fp__kvseq_commit(seq, ids, 90, FP_LABEL_USER));
    }
    expect_reference(seq, FP_LABEL_USER);
    fp__kvseq_destroy(seq);
    kv_close(&f);
}

/* ---- flips ---- */

/* A flip between write and seal is seen, wherever it is, and named. */
static void test_flip_before_seal(void **state)
{
    (void)state;
    size_t slab_bytes = fp__slab_bytes(8);
    for (size_t workers = 0; workers <= 1; workers++) {
        kv_fixture f = kv_open(4, workers);
        for (size_t n = 0; n < 120; n++) {
            size_t slab = n % 6, at = n * 7919 % slab_bytes;
            uint8_t head[32];
            char where[64];
            fp__kvseq *seq = kv_new(&f, kv_context(256));
            kv_append(seq, 64 + 50, 57, FP_LABEL_USER);
            fp__kvseq_groups(seq)[1][slab * slab_bytes + at] ^= (uint8_t)(1u << n % 8);
            if (n % 2)
                kv_append(seq, 20, 20, FP_LABEL_USER); /* seals the page */
            snprintf(where, sizeof where, "context page 1, layer %zu, head %zu", slab / 3, slab % 3);
            /* slots that no token has are covered too, unless a later token overwrites the flip */
            size_t slot = at < 512 ? at / 8 : at < 1024 ? at % 64 : (at - 1024) / 2 % 64;
            bool seen = n % 2 == 0 || slot < 50;
            if (seen) {
                KV_FAIL(fp__kvseq_head(seq, head), FP_MISMATCH, where);
                KV_FAIL(fp__kvseq_check_sums(seq), FP_MISMATCH, where);
            }
            if (n % 2 && seen) {
                size_t unverified = 9, bad = 9;
                KV_FAIL(fp__kvseq_poll(seq, &unverified, &bad), FP_MISMATCH, where);
                assert_int_equal(unverified, 0);
                assert_int_equal(bad, 1);
                /* rollback: drop back to the boundary, replay, and all is as if nothing had happened */
                KV_OK(fp__kvseq_truncate(seq, 64));
                KV_OK(fp__kvseq_poll(seq, NULL, NULL));
                kv_append(seq, 70, 70, FP_LABEL_USER);
                expect_reference(seq, FP_LABEL_USER);
            }
            fp__kvseq_destroy(seq);
        }
        kv_close(&f);
    }
}

/* Rolling back into the middle of a damaged page drops all of it. */
static void test_flip_and_truncate(void **state)
{
    (void)state;
    kv_fixture f = kv_open(4, 1);
    fp__kvseq *seq = kv_new(&f, kv_context(256));
    kv_append(seq, 150, 64, FP_LABEL_USER);
    uint8_t head[32];
    head_of(seq, head);
    fp__kvseq_groups(seq)[1][fp__slab_bytes(8) * 4 + 3] ^= 1; /* sealed and hashed already */
    KV_FAIL(fp__kvseq_truncate(seq, 100), FP_MISMATCH, "page 1, layer 1, head 1");
    assert_int_equal(fp__kvseq_tokens(seq), 64);
    kv_append(seq, 50, 64, FP_LABEL_USER);
    expect_reference(seq, FP_LABEL_USER);
    fp__kvseq_destroy(seq);
    kv_close(&f);
}

/* Scrubbing sees every bit of every page, and what the page's leaf says about it. */
static void test_scrub(void **state)
{
    (void)state;
    kv_fixture f = kv_open(4, 1);
    fp__kvseq *seq = kv_new(&f, kv_context(256));
    kv_append(seq, 150, 64, FP_LABEL_USER);
    KV_OK(fp__kvseq_verify(seq, 0, 3));
    size_t slab_bytes = fp__slab_bytes(8);
    for (size_t at = 0; at < slab_bytes; at += 5) {
        size_t page = at % 3, slab = at % 6;
        uint8_t *byte = &fp__kvseq_groups(seq)[page][slab * slab_bytes + at];
        char where[64];
        snprintf(where, sizeof where, "page %zu, layer %zu, head %zu", page, slab / 3, slab % 3);
        *byte ^= 0x10;
        KV_FAIL(fp__kvseq_verify(seq, 0, 3), FP_MISMATCH, where);
        *byte ^= 0x10;
    }
    uint32_t *ids = (uint32_t *)(uintptr_t)fp__kvseq_ids(seq);
    ids[70] ^= 1;
    KV_FAIL(fp__kvseq_verify(seq, 0, 3), FP_MISMATCH, "token ids, label or hashes of context page 1");
    ids[70] ^= 1;
    uint8_t **groups = (uint8_t **)(uintptr_t)fp__kvseq_groups(seq), *first = groups[0];
    groups[0] = groups[1];
    KV_FAIL(fp__kvseq_verify(seq, 0, 1), FP_MISMATCH, "block table");
    groups[0] = first;
    KV_OK(fp__kvseq_verify(seq, 0, 3));
    KV_OK(fp__kvseq_verify(seq, 3, 0));
    KV_FAIL(fp__kvseq_verify(seq, 1, 3), FP_USAGE, "only 3 pages");
    fp__kvseq_destroy(seq);
    kv_close(&f);
}

/* ---- anchors ---- */

static const size_t RUNS[] = {70, 10, 64, 130, 1};
static const fp_label LABELS[] = {FP_LABEL_CORE, FP_LABEL_CORE, FP_LABEL_USER, FP_LABEL_CORE,
                                  FP_LABEL_EXTERNAL};

static fp__kvseq *anchor_set(const kv_fixture *f, size_t n, size_t chunk)
{
    fp__kvseq *seq = kv_new(f, kv_anchors(400, 5));
    for (size_t a = 0; a < n; a++) {
        KV_OK(fp__kvseq_start_anchor(seq));
        kv_append(seq, RUNS[a], chunk, LABELS[a]);
    }
    return seq;
}

static void test_anchors(void **state)
{
    (void)state;
    kv_fixture f = kv_open(12, 1);
    static const size_t first_page[] = {0, 2, 3, 4, 7};
    for (size_t n = 1; n <= 5; n++) {
        for (size_t chunk = 1; chunk < 200; chunk = chunk * 3 + 4) {
            fp__kvseq *seq = anchor_set(&f, n, chunk);
            uint8_t got[32], want[32];
            head_of(seq, got);
            kv_reference_head(fp__kvseq_options_get(seq), RUNS, LABELS, n, want);
            assert_memory_equal(got, want, 32);
            assert_int_equal(fp__kvseq_anchors(seq), n);
            size_t page, tokens;
            fp_label label;
            fp__kvseq_anchor_get(seq, n - 1, &page, &tokens, &label);
            assert_int_equal(page, first_page[n - 1]);
            assert_int_equal(tokens, RUNS[n - 1]);
            assert_int_equal(label, n < 3 ? FP_LABEL_CORE : n < 5 ? FP_LABEL_USER : FP_LABEL_EXTERNAL);
            fp__kvseq_destroy(seq);
        }
    }
    kv_close(&f);
}

static void test_anchor_views(void **state)
{
    (void)state;
    kv_fixture f = kv_open(12, 1);
    fp__kvseq *seq = anchor_set(&f, 2, 64);
    fp__attn_segment view;
    fp__kvseq_view(seq, 0, &view);
    assert_int_equal(view.pages, 3);
    assert_int_equal(view.causal_page, 3);
    assert_memory_equal(view.filled, ((uint8_t[]){64, 6, 10}), 3);
    assert_ptr_equal(view.groups[2], fp__kvseq_groups(seq)[2]);
    KV_OK(fp__kvseq_reserve(seq, 60));
    fp__kvseq_view(seq, 60, &view);
    assert_int_equal(view.pages, 4);
    assert_int_equal(view.causal_page, 2);
    assert_int_equal(view.causal_tokens, 10);
    size_t slot;
    assert_ptr_equal(fp__kvseq_slab(seq, 54, 1, 2, &slot), view.groups[3] + 5 * fp__slab_bytes(8));
    assert_int_equal(slot, 0);
    KV_OK(fp__kvseq_start_anchor(seq)); /* what was reserved for the old anchor is dropped */
    kv_append(seq, RUNS[2], 64, LABELS[2]);
    uint8_t got[32], want[32];
    head_of(seq, got);
    kv_reference_head(fp__kvseq_options_get(seq), RUNS, LABELS, 3, want);
    assert_memory_equal(got, want, 32);
    fp__kvseq_page page;
    fp__kvseq_page_get(seq, 3, &page);
    assert_int_equal(page.first_pos, 80); /* positions count tokens, not slots */
    assert_int_equal(page.first_token, 80);
    fp__kvseq_destroy(seq);
    seq = kv_new(&f, kv_context(64));
    fp__kvseq_view(seq, 0, &view);
    assert_int_equal(view.pages, 0);
    fp__kvseq_destroy(seq);
    kv_close(&f);
}

static void test_anchor_refusals(void **state)
{
    (void)state;
    kv_fixture f = kv_open(12, 1);
    fp__kvseq *seq = kv_new(&f, kv_anchors(100, 2)), *context = kv_new(&f, kv_context(10)), *none;
    KV_FAIL(fp__kvseq_reserve(seq, 1), FP_USAGE, "no anchor was started");
    KV_OK(fp__kvseq_start_anchor(seq));
    KV_FAIL(fp__kvseq_start_anchor(seq), FP_USAGE, "anchor 0 has no tokens");
    kv_append(seq, 3, 3, FP_LABEL_CORE);
    KV_OK(fp__kvseq_start_anchor(seq));
    KV_FAIL(fp__kvseq_start_anchor(seq), FP_LIMIT, "more than 2 anchors");
    KV_FAIL(fp__kvseq_start_anchor(context), FP_USAGE, "holds no anchors");
    fp__kvseq_options bad = kv_anchors(10, 0);
    KV_FAIL(fp__kvseq_create(f.pool, f.hasher, &bad, &none), FP_USAGE, "1 or more anchors");
    bad = kv_context(0);
    KV_FAIL(fp__kvseq_create(f.pool, f.hasher, &bad, &none), FP_LIMIT, "0 tokens");
    bad = kv_context(10);
    bad.label = (fp_label)7;
    KV_FAIL(fp__kvseq_create(f.pool, f.hasher, &bad, &none), FP_USAGE, "label 7");
    fp__kvseq_destroy(context);
    fp__kvseq_destroy(seq);
    kv_close(&f);
}

static void test_anchor_truncate(void **state)
{
    (void)state;
    kv_fixture f = kv_open(12, 1);
    for (size_t n = 5; n-- > 0;) {
        fp__kvseq *seq = anchor_set(&f, 5, 64);
        uint8_t got[32], want[32];
        size_t keep = 0;
        for (size_t a = 0; a < n; a++)
            keep += RUNS[a];
        KV_OK(fp__kvseq_truncate(seq, keep));
        assert_int_equal(fp__kvseq_anchors(seq), n);
        head_of(seq, got);
        kv_reference_head(fp__kvseq_options_get(seq), RUNS, LABELS, n, want);
        assert_memory_equal(got, want, 32);
        for (size_t a = n; a < 5; a++) {
            KV_OK(fp__kvseq_start_anchor(seq));
            kv_append(seq, RUNS[a], 64, LABELS[a]);
        }
        head_of(seq, got);
        kv_reference_head(fp__kvseq_options_get(seq), RUNS, LABELS, 5, want);
        assert_memory_equal(got, want, 32);
        fp__kvseq_destroy(seq);
    }
    kv_close(&f);
}

/* ---- sharing ---- */

static void test_share(void **state)
{
    (void)state;
    kv_fixture f = kv_open(12, 1);
    fp__kvseq *a = kv_new(&f, kv_context(256));
    kv_append(a, 150, 64, FP_LABEL_USER);
    for (size_t n = 0; n <= 150; n += 10) {
        fp__kvseq *b = kv_new(&f, kv_context(300));
        KV_OK(fp__kvseq_share(b, a, n));
        assert_int_equal(fp__pool_stats_get(f.pool).used_groups, 3 + (n % 64 != 0));
        expect_reference(b, FP_LABEL_USER);
        kv_append(b, 160 - n, 64, FP_LABEL_USER);
        expect_reference(b, FP_LABEL_USER);
        /* going back into a page that a uses too: a keeps its bytes */
        KV_OK(fp__kvseq_truncate(b, 30));
        uint32_t other[20] = {7, 7, 7};
        kv_step(b, other, 20, FP_LABEL_EXTERNAL);
        expect_reference(a, FP_LABEL_USER);
        KV_OK(fp__kvseq_verify(a, 0, 3));
        fp__kvseq_destroy(b);
    }
    fp__kvseq *b = kv_new(&f, kv_context(300));
    KV_OK(fp__kvseq_share(b, a, 128));
    fp__kvseq_destroy(a); /* the pages live as long as anybody uses them */
    expect_reference(b, FP_LABEL_USER);
    fp__kvseq_destroy(b);
    kv_close(&f);
}

static void test_share_anchors(void **state)
{
    (void)state;
    kv_fixture f = kv_open(24, 1);
    uint8_t got[32], want[32];
    fp__kvseq *all = anchor_set(&f, 5, 64);
    for (size_t n = 1, tokens = 0; n <= 4; n++) {
        fp__kvseq *seq = kv_new(&f, kv_anchors(400, 5));
        tokens += RUNS[n - 1];
        KV_OK(fp__kvseq_share(seq, all, tokens));
        head_of(seq, got);
        kv_reference_head(fp__kvseq_options_get(seq), RUNS, LABELS, n, want);
        assert_memory_equal(got, want, 32);
        KV_OK(fp__kvseq_start_anchor(seq));
        kv_append(seq, RUNS[n], 64, LABELS[n]);
        head_of(seq, got);
        kv_reference_head(fp__kvseq_options_get(seq), RUNS, LABELS, n + 1, want);
        assert_memory_equal(got, want, 32);
        fp__kvseq_destroy(seq);
    }
    fp__kvseq_destroy(all);
    kv_close(&f);
}

static void test_share_refusals(void **state)
{
    (void)state;
    kv_fixture f = kv_open(4, 1);
    uint8_t anchor[32] = {5};
    fp__kvseq *a = kv_new(&f, kv_context(256));
    kv_append(a, 100, 64, FP_LABEL_USER);
    fp__kvseq_options options[] = {kv_context(256), kv_context(256), kv_context(256), kv_anchors(256, 1),
                                   kv_context(99)};
    options[0].first_pos = 1;
    options[1].anchor_kv_head = anchor;
    options[2].label = FP_LABEL_USER;
    for (size_t i = 0; i < COUNT(options); i++) {
        fp__kvseq *b = kv_new(&f, options[i]);
        if (i < 4)
            KV_FAIL(fp__kvseq_share(b, a, 100), FP_USAGE, "the sequences differ");
        else
            KV_FAIL(fp__kvseq_share(b, a, 100), FP_LIMIT, "context of 99");
        assert_int_equal(fp__kvseq_tokens(b), 0);
        fp__kvseq_destroy(b);
    }
    fp__kvseq *b = kv_new(&f, kv_context(256));
    KV_FAIL(fp__kvseq_share(b, a, 101), FP_USAGE, "only committed tokens");
    fp__kvseq_groups(a)[1][3] ^= 4; /* the page that would be copied */
    KV_FAIL(fp__kvseq_share(b, a, 80), FP_MISMATCH, "page 1, layer 0, head 0");
    fp__kvseq_groups(a)[1][3] ^= 4;
    fp__group *rest[2];
    KV_OK(fp__pool_take(f.pool, &rest[0]));
    KV_OK(fp__pool_take(f.pool, &rest[1]));
    KV_FAIL(fp__kvseq_share(b, a, 80), FP_LIMIT, "K/V pages");
    assert_int_equal(fp__kvseq_tokens(b), 0);
    assert_int_equal(fp__kvseq_pages(b), 0);
    fp__pool_unref(f.pool, rest[0]);
    KV_OK(fp__kvseq_share(b, a, 80));
    KV_FAIL(fp__kvseq_share(b, a, 80), FP_USAGE, "empty sequence");
    fp__pool_unref(f.pool, rest[1]);
    fp__kvseq_destroy(b);
    fp__kvseq_destroy(a);
    kv_close(&f);
}

/* ---- copies in another pool ---- */

static void test_copy_and_compare(void **state)
{
    (void)state;
    kv_fixture f = kv_open(12, 1), other = kv_open(8, 0);
    fp__kvseq *src = kv_new(&f, kv_context(256));
    kv_append(src, 150, 64, FP_LABEL_USER);
    static const size_t kept[] = {150, 128, 100, 64, 1, 0};
    for (size_t i = 0; i < COUNT(kept); i++) {
        fp__kvseq *dst = kv_new(&other, kv_context(256));
        KV_OK(fp__kvseq_copy(dst, src, kept[i]));
        assert_int_equal(fp__kvseq_tokens(dst), kept[i]);
        expect_reference(dst, FP_LABEL_USER);
        KV_OK(fp__kvseq_compare(src, dst, 0, kept[i] / 64));
        kv_append(dst, 150 - kept[i], 31, FP_LABEL_USER);
        KV_OK(fp__kvseq_compare(src, dst, 0, 3));
        expect_reference(dst, FP_LABEL_USER);
        fp__kvseq_destroy(dst);
    }
    /* a changed bit is in nobody's copy, and is named */
    fp__kvseq *good = kv_new(&other, kv_context(256));
    KV_OK(fp__kvseq_copy(good, src, 150));
    for (size_t page = 0; page < 3; page++) {
        uint8_t *byte = &fp__kvseq_groups(src)[page][fp__slab_bytes(8) * 4 + 5], head[32];
        char where[64];
        snprintf(where, sizeof where, "page %zu, layer 1, head 1", page);
        fp__kvseq *dst = kv_new(&other, kv_context(256));
        *byte ^= 8;
        KV_FAIL(fp__kvseq_copy(dst, src, 150), FP_MISMATCH, where);
        assert_int_equal(fp__kvseq_tokens(dst), 0);
        assert_int_equal(fp__kvseq_pages(dst), 0);
        KV_FAIL(fp__kvseq_compare(src, good, 0, 3), FP_MISMATCH, where);
        KV_FAIL(fp__kvseq_compare(good, src, page, 1), FP_MISMATCH, "differ between two computations");
        *byte ^= 8;
        KV_OK(fp__kvseq_head(dst, head));
        fp__kvseq_destroy(dst);
    }
    KV_FAIL(fp__kvseq_compare(src, good, 0, 4), FP_USAGE, "pages that both have");
    KV_OK(fp__kvseq_truncate(good, 140));
    KV_FAIL(fp__kvseq_compare(src, good, 2, 1), FP_USAGE, "22 tokens in one");
    KV_FAIL(fp__kvseq_copy(good, src, 10), FP_USAGE, "empty sequence");
    fp__kvseq *same = kv_new(&f, kv_context(256)), *far = kv_new(&other, kv_context(256));
    KV_FAIL(fp__kvseq_copy(same, src, 10), FP_USAGE, "one pool");
    KV_FAIL(fp__kvseq_share(far, src, 10), FP_USAGE, "different pools");
    fp__kvseq_destroy(far);
    fp__kvseq_destroy(same);
    fp__kvseq_destroy(good);
    fp__kvseq_destroy(src);
    kv_close(&other);
    kv_close(&f);
}

/* One call for the checksums of a step of several sequences. */
static void test_checksum_step(void **state)
{
    (void)state;
    kv_fixture f = kv_open(80, 1);
    fp__kvseq *seqs[70];
    size_t n[70];
    uint32_t ids[66];
    for (size_t i = 0; i < 66; i++)
        ids[i] = kv_id(i);
    for (size_t s = 0; s < 70;
         s++) { /* more than one call of the store takes; some in two pages, some empty */
        seqs[s] = kv_new(&f, kv_context(66));
        n[s] = s < 5 ? 66 : s % 7;
        KV_OK(fp__kvseq_reserve(seqs[s], n[s]));
        kv_write(seqs[s], ids, n[s]);
    }
    fp__kvseq_groups(seqs[3])[1][1] ^= 1; /* before its checksum is taken: these are the bytes */
    KV_OK(fp__kvseq_checksum_step(seqs, n, 70));
    fp__kvseq_groups(seqs[4])[1][1] ^= 1; /* after */
    for (size_t s = 0; s < 70; s++) {
        KV_OK(fp__kvseq_commit(seqs[s], ids, n[s], FP_LABEL_USER));
        if (s == 4)
            KV_FAIL(fp__kvseq_check_sums(seqs[s]), FP_MISMATCH, "page 1, layer 0, head 0");
        else
            KV_OK(fp__kvseq_check_sums(seqs[s]));
        if (s < 3)
            expect_reference(seqs[s], FP_LABEL_USER);
        fp__kvseq_destroy(seqs[s]);
    }
    KV_OK(fp__kvseq_checksum_step(seqs, n, 0));
    kv_close(&f);
}

/* A device that fails is no mismatch, and nothing counts as verified. */
static void test_failing_store(void **state)
{
    (void)state;
    if (!kv_device_store)
        return;
    kv_fixture f = kv_open(12, 1), other = kv_open(4, 0);
    uint8_t head[32];
    size_t unverified, bad;
    fp__kvseq *seq = kv_new(&f, kv_context(300)), *copy = kv_new(&other, kv_context(300));
    kv_append(seq, 70, 70, FP_LABEL_USER);
    KV_OK(fp__kvseq_head(seq, head));
    kv_store_fails = true;
    KV_FAIL(fp__kvseq_head(seq, head), FP_INTERNAL, "device failed");
    KV_FAIL(fp__kvseq_verify(seq, 0, 2), FP_INTERNAL, "context pages from 0 on could not be hashed");
    KV_FAIL(fp__kvseq_copy(copy, seq, 70), FP_INTERNAL, "device failed");
    assert_int_equal(fp__kvseq_pages(copy), 0);
    kv_append(seq, 140, 140, FP_LABEL_USER);
    KV_FAIL(fp__kvseq_head(seq, head), FP_INTERNAL, "context page 1 could not be hashed");
    KV_FAIL(fp__kvseq_poll(seq, &unverified, &bad), FP_INTERNAL, "check the device");
    assert_int_equal(bad, 1);
    kv_store_fails = false;
    KV_OK(fp__kvseq_truncate(seq, 64));
    kv_append(seq, 140, 140, FP_LABEL_USER);
    expect_reference(seq, FP_LABEL_USER);
    fp__kvseq_destroy(copy);
    fp__kvseq_destroy(seq);
    kv_close(&other);
    kv_close(&f);
}

/* ---- limits, workers ---- */

static void test_limits(void **state)
{
    (void)state;
    kv_fixture f = kv_open(3, 1);
    fp__kvseq *a = kv_new(&f, kv_context(130)), *b = kv_new(&f, kv_context(1000));
    KV_FAIL(fp__kvseq_reserve(a, 131), FP_LIMIT, "131 tokens do not fit: 0 of 130 of the context");
    KV_FAIL(fp__kvseq_reserve(a, SIZE_MAX), FP_LIMIT, "context");
    kv_append(a, 64, 64, FP_LABEL_USER);
    KV_FAIL(fp__kvseq_reserve(b, 129), FP_LIMIT,
            "all 3 K/V pages (192 tokens) are in use; raise the context size");
    assert_int_equal(fp__pool_stats_get(f.pool).used_groups, 1); /* nothing kept of a failed reserve */
    kv_append(b, 128, 64, FP_LABEL_USER);
    expect_reference(b, FP_LABEL_USER);
    KV_FAIL(fp__kvseq_commit(b, &(uint32_t){1}, 1, FP_LABEL_USER), FP_USAGE, "fewer were reserved");
    KV_OK(fp__kvseq_commit(b, NULL, 0, FP_LABEL_USER));
    fp__kvseq_destroy(b);
    kv_append(a, 66, 64, FP_LABEL_USER); /* exactly full */
    KV_FAIL(fp__kvseq_reserve(a, 1), FP_LIMIT, "130 of 130");
    assert_int_equal(fp__kvseq_next_position(a), 130);
    expect_reference(a, FP_LABEL_USER);
    fp__kvseq_destroy(a);
    kv_close(&f);
}

/* Sequences that end, or go back, while their pages are being hashed. */
static void test_destroy_while_hashing(void **state)
{
    (void)state;
    kv_fixture f = kv_open(40, 2);
    fp__kvseq *live[4] = {0};
    for (size_t round = 0; round < 120; round++) {
        fp__kvseq **seq = &live[round % 4];
        if (*seq && round % 3 == 0) {
            KV_OK(fp__kvseq_truncate(*seq, round % 200));
            kv_append(*seq, 10, 10, FP_LABEL_USER);
            expect_reference(*seq, FP_LABEL_USER);
        }
        fp__kvseq_destroy(*seq);
        *seq = kv_new(&f, kv_context(640));
        kv_append(*seq, 200 + round * 3, 64, FP_LABEL_USER);
        size_t unverified;
        KV_OK(fp__kvseq_poll(*seq, &unverified, NULL));
        assert_true(unverified <= fp__kvseq_sealed(*seq));
    }
    for (size_t i = 0; i < 4; i++) {
        expect_reference(live[i], FP_LABEL_USER);
        fp__kvseq_destroy(live[i]);
    }
    kv_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lengths),
        cmocka_unit_test(test_chunkings),
        cmocka_unit_test(test_head_while_growing),
        cmocka_unit_test(test_permuted_pages),
        cmocka_unit_test(test_every_field_counts),
        cmocka_unit_test(test_every_slab_bit_counts),
        cmocka_unit_test(test_labels),
        cmocka_unit_test(test_truncate),
        cmocka_unit_test(test_failed_step),
        cmocka_unit_test(test_checksum_by_writers),
        cmocka_unit_test(test_flip_before_seal),
        cmocka_unit_test(test_flip_and_truncate),
        cmocka_unit_test(test_scrub),
        cmocka_unit_test(test_anchors),
        cmocka_unit_test(test_anchor_views),
        cmocka_unit_test(test_anchor_refusals),
        cmocka_unit_test(test_anchor_truncate),
        cmocka_unit_test(test_share),
        cmocka_unit_test(test_share_anchors),
        cmocka_unit_test(test_share_refusals),
        cmocka_unit_test(test_copy_and_compare),
        cmocka_unit_test(test_checksum_step),
        cmocka_unit_test(test_failing_store),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_destroy_while_hashing),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    kv_device_store = true; /* once more */
    return failed + cmocka_run_group_tests(tests, NULL, NULL);
}
