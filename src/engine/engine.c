/* Engine: what a model needs to run, and the step that batches its sessions. */
#include "engine/engine.h"
#include "core/arena.h"
#include "merkle/sha256.h"
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum {
    DEFAULT_CONTEXT = 8192,
    LEAST_CONTEXT = 512, /* a default is not made smaller to fit a GPU */
    DEFAULT_CHUNK = 512,
    DEFAULT_CHUNK_GPU = 2048,
    MAX_CHUNK = 8192
};

uint64_t fp__now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t fp__seed_from_nonce(const uint8_t nonce[32])
{
    uint8_t input[33] = {5}, digest[32];
    memcpy(input + 1, nonce, 32);
    fp__sha256(input, sizeof input, digest);
    return fp__load_le64(digest);
}

bool fp__engine_cancelled(const fp_engine *engine)
{
    return engine->options.cancel && *engine->options.cancel;
}

void fp__engine_progress(const fp_engine *engine, double done)
{
    if (engine->options.progress)
        engine->options.progress(engine->options.progress_context, done);
}

/* A model's rotary factors may be so small that the angles of late positions leave the range of the table. */
static fp_status check_positions(const fp_engine *e)
{
    float c[FP__ROPE_DIM_MAX / 2], s[FP__ROPE_DIM_MAX / 2];
    size_t last = e->context_tokens + (size_t)FP__ANCHOR_PAGES * FP__PAGE_TOKENS;
    return fp__rope_rows(&e->model->rope, last, 1, c, s);
}

static size_t step_tokens(const fp_engine *e)
{
    return e->chunk_tokens > e->max_sessions ? e->chunk_tokens : e->max_sessions;
}

static fp_status set_limits(fp_engine *e, const fp_engine_options *o, bool gpu)
{
    size_t trained = e->model->hp.context;
    e->max_sessions = o->max_sessions ? o->max_sessions : 1;
    e->chunk_tokens = o->chunk_tokens ? o->chunk_tokens : gpu ? DEFAULT_CHUNK_GPU : DEFAULT_CHUNK;
    e->context_tokens = o->context_tokens;
    if (!e->context_tokens)
        e->context_tokens = trained < DEFAULT_CONTEXT ? trained : DEFAULT_CONTEXT;
    if (e->context_tokens > FP__CONTEXT_MAX || e->chunk_tokens > MAX_CHUNK || e->max_sessions > 4096)
        return fp__fail(FP_USAGE, "engine: at most %d context tokens, %d tokens a step and 4096 sessions",
                        FP__CONTEXT_MAX, MAX_CHUNK);
    return check_positions(e);
}

static fp_status make_tables(fp_engine *e)
{
    size_t mass = e->model->hp.layers * e->model->hp.heads, tokens = step_tokens(e);
    e->sessions = calloc(e->max_sessions, sizeof *e->sessions);
    e->spans = calloc(e->max_sessions, sizeof *e->spans);
    e->stepping = calloc(e->max_sessions, sizeof *e->stepping);
    e->rows = calloc(tokens > FP__LOGIT_ROWS ? tokens : FP__LOGIT_ROWS, sizeof *e->rows);
    e->counts = calloc(e->max_sessions, sizeof *e->counts);
    e->step_seqs = calloc(e->max_sessions, sizeof *e->step_seqs);
    e->step_mass = calloc(e->max_sessions * mass, sizeof *e->step_mass);
    if (!e->sessions || !e->spans || !e->stepping || !e->rows || !e->counts || !e->step_seqs || !e->step_mass)
        return fp__fail(FP_NO_MEMORY, "engine: no memory for %zu sessions", e->max_sessions);
    return FP_OK;
}

/* Pages and the forward pass that works on them. */
static fp_status make_pool(fp_engine *e)
{
    const fp__hparams *hp = &e->model->hp;
    size_t pages = (e->context_tokens + FP__PAGE_TOKENS - 1) / FP__PAGE_TOKENS + 1,
           groups = e->max_sessions * pages + FP__ANCHOR_PAGES + FP__QUARANTINE_MAX,
           logits = e->max_sessions > FP__LOGIT_ROWS ? e->max_sessions : FP__LOGIT_ROWS;
    fp__forward_limits limits = {step_tokens(e), e->max_sessions, pages + FP__ANCHOR_PAGES, logits};
    fp__page_geometry geometry = {hp->layers, hp->kv_heads, hp->head_dim, {0}};
    memcpy(geometry.model, e->model->digest, 32);
    if (!e->gpu) {
        FP_TRY(fp__forward_create(e->model, e->team, limits, &e->forward));
        return fp__pool_create(&geometry, groups, NULL, &e->pool);
    }
    fp__store *store;
    FP_TRY(fp__gpu_store_create(e->gpu, &geometry, groups, &store));
    fp_status status = fp__gpu_forward_create(e->gpu, store, limits, &e->forward);
    if (status == FP_OK)
        status = fp__pool_create(&geometry, groups, store, &e->pool);
    if (status != FP_OK) {
        fp__store_destroy(store);
        fp__forward_destroy(e->forward);
        e->forward = NULL;
    }
    return status;
}

/* A context that nobody asked for is made smaller until it fits the GPU. */
static fp_status make_pool_fit(fp_engine *e, const fp_engine_options *o)
{
    fp_status status = make_pool(e);
    while (status == FP_NO_MEMORY && e->gpu && !o->context_tokens && e->context_tokens > LEAST_CONTEXT) {
        e->context_tokens = e->context_tokens / 2 > LEAST_CONTEXT ? e->context_tokens / 2 : LEAST_CONTEXT;
        status = make_pool(e);
    }
    return status;
}

static fp_status create(fp_engine *e, const fp_engine_options *o)
{
    int device;
    FP_TRY(fp__device_parse(o->device, &device));
    snprintf(e->device, sizeof e->device, device == FP__DEVICE_CPU ? "cpu" : "cuda:%d", device);
    FP_TRY(set_limits(e, o, device != FP__DEVICE_CPU));
    FP_TRY(make_tables(e));
    FP_TRY(fp__team_create(o->threads, &e->team));
    if (device != FP__DEVICE_CPU)
        FP_TRY(fp__gpu_open(device, e->model, e->team,
                            e->context_tokens + (size_t)FP__ANCHOR_PAGES * FP__PAGE_TOKENS, &e->gpu));
    FP_TRY(make_pool_fit(e, o));
    size_t workers = o->hash_threads == 0 ? 1 : o->hash_threads == SIZE_MAX ? 0 : o->hash_threads;
    FP_TRY(fp__hasher_create(workers, &e->hasher));
    return fp__validation_create(e, o);
}

fp_status fp_engine_create(const fp_model *model, const fp_engine_options *options, fp_engine **out)
{
    static const fp_engine_options defaults;
    if (!model->has_weights)
        return fp__fail(FP_USAGE, "engine: the model was opened without its weights");
    fp_engine *e = calloc(1, sizeof *e);
    if (!e)
        return fp__fail(FP_NO_MEMORY, "engine: no memory");
    e->model = model;
    e->options = options ? *options : defaults;
    bool any = e->options.device && strcmp(e->options.device, "auto") == 0;
    fp_status status = create(e, &e->options);
    bool on_gpu = strcmp(e->device, "cpu") != 0;
    e->options.device = e->device;
    if (status == FP_OK) {
        *out = e;
        return FP_OK;
    }
    fp_engine_options on_cpu = e->options;
    on_cpu.device = "cpu";
    fp_engine_destroy(e);
    if (any && on_gpu && (status == FP_UNSUPPORTED || status == FP_NO_MEMORY))
        return fp_engine_create(model, &on_cpu, out); /* a GPU that cannot take this model */
    return status;
}

void fp_engine_destroy(fp_engine *e)
{
    if (!e)
        return;
    fp__validation_destroy(e);
    fp__hasher_destroy(e->hasher);
    fp__pool_destroy(e->pool);
    fp__forward_destroy(e->forward);
    fp__gpu_close(e->gpu);
    fp__team_destroy(e->team);
    free(e->sessions);
    free(e->spans);
    free(e->stepping);
    free(e->rows);
    free(e->counts);
    free(e->step_seqs);
    free(e->step_mass);
    free(e);
}

size_t fp_engine_context_tokens(const fp_engine *e)
{
    return e->context_tokens;
}

const char *fp_engine_device(const fp_engine *e)
{
    return e->device;
}

/* ---- one step
 * ------------------------------------------------------------------------------------------------------ */

/* The span of n reserved tokens of a sequence. */
static void make_span(const fp__kvseq *seq, const fp_anchors *anchors, const uint32_t *ids, size_t n,
                      uint64_t *mass, fp__forward_span *span)
{
    fp__attn_segment view;
    fp__kvseq_view(seq, n, &view);
    *span = (fp__forward_span){.ids = ids, .tokens = n, .position = fp__kvseq_next_position(seq)};
    span->groups = fp__kvseq_groups(seq) + view.causal_page;
    span->slot = view.causal_tokens;
    if (fp__kvseq_options_get(seq)->segment == FP__SEGMENT_ANCHOR) {
        span->anchor = view;
        return;
    }
    span->context = view;
    if (anchors) {
        fp__kvseq_view(anchors->seq, 0, &span->anchor);
        span->mode = (fp__injection_mode)anchors->gate.injection.mode;
        span->g = anchors->g;
        span->mass = mass;
    }
}

fp_status fp__engine_feed(fp_engine *e, const fp__feed *feeds, size_t n)
{
    size_t mass = e->model->hp.layers * e->model->hp.heads;
    FP_CHECK(n <= e->max_sessions);
    fp_status status = FP_OK;
    for (size_t i = 0; i < n && status == FP_OK; i++)
        status = fp__kvseq_reserve(feeds[i].seq, feeds[i].n);
    if (status == FP_OK) {
        memset(e->step_mass, 0, n * mass * sizeof *e->step_mass);
        for (size_t i = 0; i < n; i++) {
            make_span(feeds[i].seq, feeds[i].anchors, feeds[i].ids, feeds[i].n,
                      feeds[i].mass ? e->step_mass + i * mass : NULL, &e->spans[i]);
            e->step_seqs[i] = feeds[i].seq;
            e->counts[i] = feeds[i].n;
        }
        status = fp__forward_step(e->forward, e->spans, n, NULL);
        if (status == FP_OK)
            status = fp__kvseq_checksum_step(e->step_seqs, e->counts, n);
    }
    for (size_t i = 0; i < n; i++) {
        if (status !=
            FP_OK) { /* nothing of the step stays; its failure comes before what dropping it finds */
            fp_status dropped = fp__kvseq_truncate(feeds[i].seq, fp__kvseq_tokens(feeds[i].seq));
            (void)dropped;
            continue;
        }
        status = feeds[i].session ? fp__session_commit(feeds[i].session, feeds[i].ids, feeds[i].n)
                                  : fp__kvseq_commit(feeds[i].seq, feeds[i].ids, feeds[i].n, feeds[i].label);
        for (size_t k = 0; feeds[i].mass && k < mass; k++)
            feeds[i].mass[k] += e->step_mass[i * mass + k];
    }
    return status;
}

/* Sessions with work, those that decode first, and how many tokens of each: the step's share-out. */
static size_t choose(fp_engine *e)
{
    size_t budget = step_tokens(e), n = 0;
    for (int prefill = 0; prefill < 2; prefill++)
        for (size_t i = 0; i < e->max_sessions; i++) {
            fp_session *s = e->sessions[i];
            if (!s || !fp__session_active(s) || fp__session_ended(s))
                continue;
            fp__session_wake(s);
            if (fp__session_ended(s))
                continue;
            size_t waiting = s->ids.size - fp__kvseq_tokens(s->context), most = e->chunk_tokens;
            if ((waiting > 1) != prefill || budget == 0)
                continue;
            most = most < budget ? most : budget;
            most = fp__checks_allow(s, waiting, most);
            if (most == 0)
                continue;
            e->counts[n] = most;
            budget -= e->counts[n];
            e->stepping[n++] = s;
        }
    return n;
}

/* Drops what the step reserved. That may find that the open page was changed. */
static void drop_reserved(fp_session *s)
{
    fp_status status = fp__kvseq_truncate(s->context, fp__kvseq_tokens(s->context));
    if (status == FP_MISMATCH && fp__session_active(s)) {
        char why[400];
        snprintf(why, sizeof why, "%s", fp_error_detail());
        fp__rollback_dropped(s, why);
    } else if (status != FP_OK) {
        fp__session_fail(s, status);
    }
}

static fp_status run_step(fp_engine *e, const size_t *counts, size_t n)
{
    size_t mass = e->model->hp.layers * e->model->hp.heads, wanted = 0, row = 0, bad = SIZE_MAX;
    memset(e->step_mass, 0, n * mass * sizeof *e->step_mass);
    for (size_t i = 0; i < n; i++) {
        fp_session *s = e->stepping[i];
        size_t done = fp__kvseq_tokens(s->context);
        make_span(s->context, s->anchors, s->ids.data + done, counts[i], e->step_mass + i * mass,
                  &e->spans[i]);
        e->step_seqs[i] = s->context;
        row += counts[i];
        if (done + counts[i] == s->ids.size)
            e->rows[wanted++] = row - 1;
    }
    fp_status status = fp__forward_step_logits(e->forward, e->spans, n, e->rows, wanted, NULL, &bad);
    if (status == FP_OK)
        fp__fault_here(e, &e->checks, FP__FAULT_COMPUTED);
    if (status == FP_OK) /* on a GPU they are computed there while the host samples */
        status = fp__kvseq_checksum_step(e->step_seqs, counts, n);
    if (status != FP_OK) {
        bool one = status == FP_NUMERIC && bad < n;
        char why[512];
        snprintf(why, sizeof why, "%s", fp_error_detail());
        for (size_t i = 0; i < n; i++)
            drop_reserved(e->stepping[i]);
        if (!one)
            return fp__fail(status, "%s", why);
        /* the others do this step again without it, and get the same bits; so does it after a fault */
        if (!fp__validation_doubts(e->stepping[bad]))
            fp__session_fail(e->stepping[bad], fp__fail(status, "%s", why));
        return FP_OK;
    }
    fp__fault_here(e, &e->checks, FP__FAULT_WRITTEN);
    for (size_t i = 0, taken = 0; i < n; i++) {
        fp_session *s = e->stepping[i];
        size_t done = fp__kvseq_tokens(s->context);
        bool samples = done + counts[i] == s->ids.size;
        size_t sealed = fp__kvseq_sealed(s->context);
        status = fp__session_commit(s, s->ids.data + done, counts[i]);
        for (size_t k = 0; s->anchors && k < mass; k++)
            s->mass[k] += e->step_mass[i * mass + k];
        s->mass_rows += s->anchors ? counts[i] : 0;
        if (status != FP_OK)
            fp__session_fail(s, status);
        else if (samples)
            fp__session_sample(s, taken);
        taken += samples;
        fp__checks_step(s, counts[i]);
        if (fp__kvseq_sealed(s->context) != sealed)
            fp__session_boundary(s);
    }
    fp__fault_here(e, &e->checks, FP__FAULT_COMMITTED);
    return FP_OK;
}

fp_status fp_engine_step(fp_engine *e, size_t *active)
{
    fp__fault_here(e, &e->checks, FP__FAULT_STEP);
    fp__validation_meet(e);
    size_t n = choose(e), kept = 0;
    if (n == 0)
        fp__validation_help(e);
    for (size_t i = 0; i < n; i++)
        if (fp__validation_bad_tables(e->stepping[i]))
            n = 0; /* what went back begins the next step anew */
    for (size_t i = 0; i < n; i++) {
        fp_status status = fp__kvseq_reserve(e->stepping[i]->context, e->counts[i]);
        if (status != FP_OK) {
            fp__session_fail(e->stepping[i], status);
            continue;
        }
        e->stepping[kept] = e->stepping[i];
        e->counts[kept++] = e->counts[i];
    }
    fp_status status = kept ? run_step(e, e->counts, kept) : FP_OK;
    size_t left = 0;
    for (size_t i = 0; i < e->max_sessions; i++)
        left += e->sessions[i] && fp__session_active(e->sessions[i]);
    if (active)
        *active = left;
    return status;
}
