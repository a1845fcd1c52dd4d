/* Flipped bits in what an engine computes with, wherever that is: pages of the context and of the anchors,
 * weights, and a wrong computation. Each is found by the level that looks at it, and the answer comes out as
 * without. With FIELDPRINT_TEST_DEVICE=cuda it is the GPU's memory that is changed; tests/test_faults.c has
 * many more kinds of faults on the CPU. */
#include "engine_lab.h"

typedef enum what { CONTEXT, ANCHOR, WEIGHTS, COMPUTED, WHATS } what;
static const char *const names[WHATS] = {"context page", "anchor page", "weights", "computation"};

typedef struct strike {
    what what;
    bool done;
    size_t failures; /* when it was done */
} strike;

static void hook(void *arg, fp_engine *e, fp__fault_point point)
{
    strike *f = arg;
    fp_session *s = e->sessions[0];
    if (f->done || !s || !fp__session_active(s) || fp__session_ended(s))
        return;
    fp__store *store = fp__pool_store(e->pool);
    size_t d = e->model->hp.head_dim, tokens = fp__kvseq_tokens(s->context);
    if (point != (f->what == COMPUTED ? FP__FAULT_COMPUTED : FP__FAULT_STEP) || tokens < 70)
        return;
    if (f->what == CONTEXT) /* a bit of V, layer 0 */
        ok(fp__store_flip(store, fp__kvseq_groups(s->context)[0], 64 * d + 99, 8));
    else if (f->what == ANCHOR) /* a bit of K */
        ok(fp__store_flip(store, fp__kvseq_groups(s->anchors->seq)[0], 5 * d + 3, 64));
    else if (f->what == WEIGHTS)
        ok(fp__integrity_flip(e->checks.weights, 0, fp__integrity_item_bytes(e->checks.weights, 0) / 2, 4));
    else if (tokens % 64 != 0) /* K of the token that the step has just written */
        ok(fp__store_flip(store, fp__kvseq_groups(s->context)[tokens / 64], tokens % 64 * d + 7, 1));
    else
        return;
    f->done = true;
    f->failures = (size_t)e->checks.count.failures;
}

typedef struct bench {
    fp_model *model;
    fp_workspace *w;
    uint8_t id[1][32];
} bench;

/* Memory that was found bad is held, and neither the context nor the anchors are in it. */
static void check_quarantine(const fp_engine *e, const fp_session *s)
{
    const fp__kvseq *seqs[] = {s->context, s->anchors->seq};
    assert_true(e->checks.quarantined > 0);
    for (size_t q = 0; q < e->checks.quarantined; q++)
        for (size_t i = 0; i < 2; i++)
            for (size_t p = 0; p < fp__kvseq_pages(seqs[i]); p++)
                assert_ptr_not_equal(fp__kvseq_groups(seqs[i])[p], e->checks.quarantine[q]->data);
}

static void answer(const bench *b, fp_validation level, fp_release release, strike *f, uint8_t digest[32])
{
    fp_engine_options o = {.threads = 2, .validation = level};
    fp_session_options so = {.raw = true, .release = release};
    fp_engine *e;
    fp_session *s;
    fp_result r;
    el_hash h;
    ok(fp_engine_create(b->model, &o, &e));
    ok(fp_anchors_load(e, b->w, (const uint8_t(*)[32])b->id, 1, NULL, &so.anchors, NULL));
    ok(fp_session_create(e, &so, &s));
    if (f) {
        e->checks.fault = hook;
        e->checks.fault_arg = f;
    }
    fp_sampling sampling = el_sampling(0.9f, 11);
    el_begin(s, el_text1, &sampling, 160);
    ok(fp_session_run(s));
    fp_session_result(s, &r);
    assert_int_equal(r.standing, FP_STANDING_FINAL);
    if (f && (!f->done || e->checks.count.failures <= f->failures))
        fail_msg("%s, level %s, release %s: %s", names[f->what], fp_validation_name(level),
                 fp_release_name(release), f->done ? "the fault was not found" : "no fault was made");
    assert_true(f || (r.failures == 0 && r.rollbacks == 0));
    if (f && (f->what == CONTEXT || f->what == ANCHOR))
        check_quarantine(e, s);
    el_hash_begin(&h);
    el_hash_session(&h, s);
    el_hash_end(&h, digest);
    fp_session_destroy(s);
    fp_anchors_release(so.anchors);
    fp_engine_destroy(e);
}

static void test_flips(void **state)
{
    (void)state;
    static const struct {
        fp_validation level;
        fp_release release;
    } ways[] = {{FP_VALIDATE_HASH, FP_RELEASE_GATED},
                {FP_VALIDATE_SCRUB, FP_RELEASE_OPTIMISTIC},
                {FP_VALIDATE_SCRUB, FP_RELEASE_FINAL},
                {FP_VALIDATE_REPLAY, FP_RELEASE_GATED}};
    gw_model m = el_model_like("llama", 23);
    bench b = {.model = el_open(&m), .w = el_workspace("ws")};
    fp_engine *e;
    el_anchor(b.w, "harbour", el_text2, FP_INJECT_FLOOR, 13107, b.id[0]);
    ok(fp_engine_create(b.model, NULL, &e));
    ok(fp_anchors_compile(e, b.w, (const uint8_t(*)[32])b.id, 1, NULL, NULL, NULL, NULL));
    fp_engine_destroy(e);
    uint8_t clean[32], other[32];
    answer(&b, FP_VALIDATE_HASH, FP_RELEASE_OPTIMISTIC, NULL, clean);
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        answer(&b, ways[i].level, ways[i].release, NULL, other);
        assert_memory_equal(other, clean, 32);
        for (what w = CONTEXT; w < WHATS; w++) {
            strike f = {.what = w};
            if (w == COMPUTED && ways[i].level < FP_VALIDATE_REPLAY)
                continue;
            answer(&b, ways[i].level, ways[i].release, &f, other);
            if (memcmp(other, clean, 32) != 0)
                fail_msg("%s, level %s, release %s: the answer is another one", names[w],
                         fp_validation_name(ways[i].level), fp_release_name(ways[i].release));
        }
    }
    fp_workspace_close(b.w);
    fp_model_close(b.model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_flips)};
    return cmocka_run_group_tests(tests, el_set_up, el_tear_down);
}
