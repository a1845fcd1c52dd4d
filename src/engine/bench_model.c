/* fp_bench_model: steps of a whole model on a device, with the pages that decoding fills validated in the
 * ways that are to be compared. */
#include "engine/bench.h"
#include "engine/engine.h"
#include "merkle/tree.h"
#include "model/device.h"
#include <stdlib.h>

enum {
    CHECK_PROMPT_CPU = 5,
    CHECK_PROMPT_GPU = 61,
    CHECK_STEPS = 4, /* on a GPU over a page's end */
    CHECK_PAGES = 2,
    CONTENT_GROUPS = 8,
    DEFAULT_CHUNK_CPU = 512,
    DEFAULT_CHUNK_GPU = 2048,
    GAMMA = 6554
};

/* Pages and a forward pass on one device. */
typedef struct place {
    fp__pool *pool;
    fp__store *store;
    fp__forward *forward;
    fp__group **groups; // [n]
    size_t n;
} place;

/* One sequence of the batch. */
typedef struct sequence {
    fp__group **own;        // [pages]
    const uint8_t **view;   // [pages] data of `own`
    size_t start, position; /* tokens of context before the run; now */
} sequence;

/* Pages that were sealed in one step, on their way to a worker. */
typedef struct seal_job {
    fp__hash_job job; /* first */
    struct lab *lab;
    fp__group *groups[FP__STORE_BATCH];
    size_t n;
} seal_job;

typedef struct lab {
    const fp_model *model;
    fp_bench_point o;
    fp_bench_point_result *out;
    uint64_t *words;
    fp__team *team;
    fp__gpu *gpu;
    place main;
    fp__page_geometry geometry;
    size_t pages, anchor_pages; /* of one sequence; of the anchor */
    sequence *sequences;        // [batch]
    const uint8_t **anchor;     // [anchor pages]
    uint8_t *filled;            // [anchor pages]
    uint32_t *g;                // [L][H]
    uint64_t *mass;             // [batch][L][H]
    fp__forward_span *spans;    // [batch]
    uint32_t *ids;              // [max(batch, chunk)]
    size_t *rows;               // [batch]
    double *step_us;            // [runs][steps]
    size_t chunk;
    /* validation */
    fp__hasher *hasher;
    fp__hash_owner owner;
    seal_job *jobs; // [n_jobs]
    size_t n_jobs, used_jobs;
    uint8_t *leaves; // [FP__STORE_BATCH][slabs][32], the token loop's
    fp_status worker_status;
} lab;

/* ---- places ----------------------------------------------------------------------------------------------
 */

static void place_close(place *p)
{
    for (size_t i = 0; i < p->n; i++)
        fp__pool_unref(p->pool, p->groups[i]);
    free(p->groups);
    if (p->pool)
        fp__pool_destroy(p->pool);
    else
        fp__store_destroy(p->store);
    fp__forward_destroy(p->forward);
    *p = (place){0};
}

static fp_status place_fill(place *p, const fp__page_geometry *geometry, size_t groups)
{
    FP_TRY(fp__pool_create(geometry, groups, p->store, &p->pool));
    p->store = fp__pool_store(p->pool);
    p->groups = calloc(groups, sizeof *p->groups);
    if (!p->groups)
        return fp__fail(FP_NO_MEMORY, "bench model: no memory");
    for (; p->n < groups; p->n++)
        FP_TRY(fp__pool_take(p->pool, &p->groups[p->n]));
    return FP_OK;
}

static fp_status place_open(lab *l, bool gpu, fp__forward_limits limits, size_t groups, place *p)
{
    *p = (place){0};
    fp_status status;
    if (gpu) {
        status = fp__gpu_store_create(l->gpu, &l->geometry, groups, &p->store);
        if (status == FP_OK)
            status = fp__gpu_forward_create(l->gpu, p->store, limits, &p->forward);
    } else {
        status = fp__forward_create(l->model, l->team, limits, &p->forward);
    }
    if (status == FP_OK)
        status = place_fill(p, &l->geometry, groups);
    if (status != FP_OK)
        place_close(p);
    return status;
}

/* The span of n tokens at `position` of a sequence whose pages are these. */
static fp__forward_span span_of(uint8_t *const *pages, const uint32_t *ids, size_t position, size_t n)
{
    fp__forward_span s = {.ids = ids, .tokens = n, .position = position, .groups = pages, .slot = position};
    s.context =
        (fp__attn_segment){(const uint8_t *const *)pages, NULL, (position + n + 63) / 64, 0, position};
    return s;
}

/* ---- the check -------------------------------------------------------------------------------------------
 */

/* The ids of a prompt in chunks, then more ids one at a time: logits [1 + CHECK_STEPS][V] of the prompt's
 * last token and of each after it. */
static fp_status run_check(const lab *l, place *p, const uint32_t *ids, size_t prompt, size_t chunk,
                           float *logits)
{
    uint8_t *pages[CHECK_PAGES] = {0};
    size_t V = l->model->hp.vocabulary;
    for (size_t i = 0; i < p->n; i++)
        pages[i] = p->groups[i]->data;
    for (size_t done = 0; done < prompt + CHECK_STEPS;) {
        size_t now = done >= prompt ? 1 : prompt - done < chunk ? prompt - done : chunk, row = now - 1;
        fp__forward_span span = span_of(pages, ids + done, done, now);
        const float *out;
        FP_TRY(fp__forward_step_logits(p->forward, &span, 1, &row, 1, NULL, NULL));
        done += now;
        if (done < prompt)
            continue;
        FP_TRY(fp__forward_row(p->forward, 0, &out));
        memcpy(logits + (done - prompt) * V, out, V * sizeof *logits);
    }
    return FP_OK;
}

static fp_status same_pages(place *a, place *b, uint64_t *words)
{
    fp_status status = FP_OK;
    for (size_t i = 0; i < a->n && status == FP_OK; i++) {
        uint8_t *x, *y;
        size_t bytes = a->store->group_bytes;
        FP_TRY(fp__store_map(a->store, a->groups[i], FP__STORE_READ, &x));
        status = fp__store_map(b->store, b->groups[i], FP__STORE_READ, &y);
        if (status == FP_OK) {
            if (memcmp(x, y, bytes) != 0)
                status = fp__fail(FP_MISMATCH,
                                  "bench model: the K/V of page %zu differs: this device does not "
                                  "compute what the CPU does",
                                  i);
            *words += bytes / 4;
            fp_status ended = fp__store_unmap(b->store, b->groups[i], FP__STORE_READ, y);
            status = status == FP_OK ? ended : status;
        }
        fp_status ended = fp__store_unmap(a->store, a->groups[i], FP__STORE_READ, x);
        status = status == FP_OK ? ended : status;
    }
    return status;
}

/* A short prompt and some decoded tokens twice: on the device as it is used, and on the CPU (there token by
 * token if that is the device). */
static fp_status check(lab *l)
{
    size_t prompt = l->gpu ? CHECK_PROMPT_GPU : CHECK_PROMPT_CPU, n = prompt + CHECK_STEPS,
           V = l->model->hp.vocabulary, words = (1 + CHECK_STEPS) * V, pages = (n + 63) / 64;
    fp__forward_limits limits = {prompt, 1, pages, 1};
    float *logits = malloc(2 * words * sizeof *logits);
    uint32_t ids[CHECK_PROMPT_GPU + CHECK_STEPS];
    place a = {0}, b = {0};
    for (size_t i = 0; i < n; i++)
        ids[i] = (uint32_t)((11 + 37 * i) % V);
    fp_status status = logits ? FP_OK : fp__fail(FP_NO_MEMORY, "bench model: no memory");
    if (status == FP_OK)
        status = place_open(l, l->gpu != NULL, limits, pages, &a);
    if (status == FP_OK)
        status = place_open(l, false, limits, pages, &b);
    if (status == FP_OK)
        status = run_check(l, &a, ids, prompt, prompt, logits);
    if (status == FP_OK)
        status = run_check(l, &b, ids, prompt, l->gpu ? prompt : 1, logits + words);
    if (status == FP_OK && memcmp(logits, logits + words, words * sizeof *logits) != 0)
        status = fp__fail(FP_MISMATCH,
                          "bench model: the logits differ: this device does not compute what the CPU does");
    if (status == FP_OK)
        status = same_pages(&a, &b, l->words);
    *l->words += words;
    place_close(&a);
    place_close(&b);
    free(logits);
    return status;
}

/* ---- made-up K/V -----------------------------------------------------------------------------------------
 */

/* Every page holds random slabs: a few are made here, the device copies them. */
static fp_status fill_pages(lab *l)
{
    place *p = &l->main;
    uint64_t random = 5;
    size_t slabs = fp__page_slabs(&l->geometry), made = p->n < CONTENT_GROUPS ? p->n : CONTENT_GROUPS;
    for (size_t i = 0; i < made; i++) {
        uint8_t *bytes;
        FP_TRY(fp__store_map(p->store, p->groups[i], FP__STORE_WRITE, &bytes));
        fp__bench_fill_slabs(bytes, slabs, l->geometry.d, &random);
        FP_TRY(fp__store_unmap(p->store, p->groups[i], FP__STORE_WRITE, bytes));
    }
    for (size_t i = made; i < p->n; i++)
        FP_TRY(fp__store_keep(p->store, p->groups[i], p->groups[i % made], FP__PAGE_TOKENS));
    return FP_OK;
}

static fp_status share_out(lab *l)
{
    const fp_bench_point *o = &l->o;
    size_t batch = o->batch;
    for (size_t s = 0; s < batch; s++) {
        sequence *q = &l->sequences[s];
        q->own = calloc(l->pages, sizeof *q->own);
        q->view = calloc(l->pages, sizeof *q->view);
        if (!q->own || !q->view)
            return fp__fail(FP_NO_MEMORY, "bench model: no memory");
        for (size_t j = 0; j < l->pages; j++) { /* a sequence's neighbours are no neighbours in memory */
            q->own[j] = l->main.groups[l->anchor_pages + j * batch + s];
            q->view[j] = q->own[j]->data;
        }
        q->start =
            o->context + s * FP__PAGE_TOKENS / batch; /* so that pages are sealed now here, now there */
    }
    for (size_t j = 0; j < l->anchor_pages; j++) {
        l->anchor[j] = l->main.groups[j]->data;
        l->filled[j] = (uint8_t)fp__bench_filled(o->anchor, j);
    }
    for (size_t i = 0; i < l->model->hp.layers * l->model->hp.heads; i++)
        l->g[i] = GAMMA;
    return FP_OK;
}

/* Sequences back to their start, with zeros in the slots after it. */
static fp_status rewind_all(lab *l)
{
    for (size_t s = 0; s < l->o.batch; s++) {
        sequence *q = &l->sequences[s];
        q->position = q->start;
        for (size_t j = q->start / 64; j < l->pages; j++)
            FP_TRY(
                fp__store_keep(l->main.store, q->own[j], q->own[j], j == q->start / 64 ? q->start % 64 : 0));
    }
    return FP_OK;
}

/* ---- validation ------------------------------------------------------------------------------------------
 */

static fp_status hash_there(lab *l, fp__group *const *groups, size_t n, uint8_t *leaves)
{
    size_t slabs = l->main.store->slabs;
    uint8_t *each[FP__STORE_BATCH] = {NULL}, root[32];
    for (size_t i = 0; i < n; i++)
        each[i] = leaves + i * slabs * 32;
    FP_TRY(fp__store_hash(l->main.store, groups, n, each));
    for (size_t i = 0; i < n; i++)
        fp__merkle_root(each[i], slabs, root);
    return FP_OK;
}

static fp_status hash_copies(lab *l, fp__group *const *groups, size_t n, uint8_t *leaves)
{
    uint8_t *bytes, root[32];
    for (size_t i = 0; i < n; i++) {
        FP_TRY(fp__store_map(l->main.store, groups[i], FP__STORE_READ, &bytes));
        fp__leaf_group(&l->geometry, bytes, leaves, root);
        FP_TRY(fp__store_unmap(l->main.store, groups[i], FP__STORE_READ, bytes));
    }
    return FP_OK;
}

static void run_seal_job(fp__hash_job *job)
{
    seal_job *j = (seal_job *)(void *)job;
    lab *l = j->lab;
    uint8_t *leaves = malloc(j->n * l->main.store->slabs * 32);
    fp_status status = leaves ? FP_OK : FP_NO_MEMORY;
    if (status == FP_OK)
        status = l->o.validation == FP_BENCH_VALIDATE_ASYNC ? hash_there(l, j->groups, j->n, leaves)
                                                            : hash_copies(l, j->groups, j->n, leaves);
    if (status != FP_OK) /* one worker; read after waiting for it */
        l->worker_status = status;
    free(leaves);
}

static fp_status submit(lab *l, fp__group *const *groups, size_t n)
{
    for (size_t done = 0; done < n;) {
        size_t most = l->main.store->batch, now = n - done < most ? n - done : most;
        FP_CHECK(l->used_jobs < l->n_jobs);
        seal_job *j = &l->jobs[l->used_jobs++];
        *j = (seal_job){.job = {.run = run_seal_job}, .lab = l, .n = now};
        memcpy(j->groups, groups + done, now * sizeof *groups);
        fp__hasher_submit(l->hasher, &j->job, &l->owner);
        done += now;
    }
    return FP_OK;
}

/* After a step: what the mode does with the page of each sequence's new token. */
static fp_status validate(lab *l, fp__group **sealed, fp__group **written, size_t *slots)
{
    size_t n = 0, batch = l->o.batch, group = l->main.store->group_bytes;
    fp_bench_validation mode = l->o.validation;
    if (mode == FP_BENCH_VALIDATE_NONE)
        return FP_OK;
    for (size_t s = 0; s < batch; s++) { /* position: after the step */
        const sequence *q = &l->sequences[s];
        written[s] = q->own[(q->position - 1) / 64];
        slots[s] = (q->position - 1) % 64 + 1;
        if (q->position % 64 == 0)
            sealed[n++] = written[s];
    }
    bool each = mode == FP_BENCH_VALIDATE_SYNC_TOKEN, copies = mode != FP_BENCH_VALIDATE_ASYNC && l->gpu;
    l->out->hashed_bytes += (each ? batch : n) * group;
    l->out->copied_bytes += copies ? (each ? batch : n) * group : 0;
    if (each)
        return hash_copies(l, written, batch, l->leaves);
    if (mode == FP_BENCH_VALIDATE_SYNC_PAGE)
        return hash_copies(l, sealed, n, l->leaves);
    if (mode == FP_BENCH_VALIDATE_ASYNC)
        FP_TRY(fp__store_sum(l->main.store, written, slots, batch, 0, l->main.store->slabs));
    return submit(l, sealed, n);
}

/* ---- the times -------------------------------------------------------------------------------------------
 */

static fp_status next_ids(lab *l)
{
    const uint32_t *greedy;
    size_t V = l->model->hp.vocabulary;
    FP_TRY(fp__forward_greedy(l->main.forward, &greedy));
    for (size_t s = 0; s < l->o.batch; s++) {
        if (greedy) {
            l->ids[s] = greedy[s];
            continue;
        }
        const float *x;
        FP_TRY(fp__forward_row(l->main.forward, s, &x));
        size_t best = 0;
        for (size_t i = 1; i < V; i++)
            best = x[i] > x[best] ? i : best;
        l->ids[s] = (uint32_t)best;
    }
    return FP_OK;
}

static fp_status decode_step(lab *l)
{
    size_t batch = l->o.batch, masses = l->model->hp.layers * l->model->hp.heads;
    for (size_t s = 0; s < batch; s++) {
        sequence *q = &l->sequences[s];
        l->spans[s] = span_of((uint8_t *const *)(void *)q->view, &l->ids[s], q->position, 1);
        if (l->anchor_pages) {
            l->spans[s].anchor =
                (fp__attn_segment){l->anchor, l->filled, l->anchor_pages, l->anchor_pages, 0};
            l->spans[s].mode = FP__FLOOR;
            l->spans[s].g = l->g;
            l->spans[s].mass = l->mass + s * masses;
        }
        q->position++;
    }
    FP_TRY(fp__forward_step_logits(l->main.forward, l->spans, batch, l->rows, batch, NULL, NULL));
    return next_ids(l);
}

/* *us: of a step, what was put off included. step_us: [steps] of each alone; may be NULL. */
static fp_status decode_run(lab *l, uint32_t steps, double *us, double *step_us)
{
    fp__group *sealed[FP__BENCH_MAX_BATCH], *written[FP__BENCH_MAX_BATCH];
    size_t slots[FP__BENCH_MAX_BATCH];
    FP_TRY(rewind_all(l));
    l->used_jobs = 0;
    l->out->hashed_bytes = l->out->copied_bytes = 0;
    for (size_t s = 0; s < l->o.batch; s++)
        l->ids[s] = (uint32_t)((17 + 31 * s) % l->model->hp.vocabulary);
    uint64_t start = fp__now_ns(), before = start;
    fp_status status = FP_OK;
    for (uint32_t i = 0; i < steps && status == FP_OK; i++) {
        status = decode_step(l);
        if (status == FP_OK)
            status = validate(l, sealed, written, slots);
        uint64_t now = fp__now_ns();
        if (step_us)
            step_us[i] = (double)(now - before) / 1e3;
        before = now;
    }
    fp__hasher_wait(l->hasher, &l->owner); /* what was put off is part of the time */
    *us = (double)(fp__now_ns() - start) / 1e3 / (double)steps;
    return status == FP_OK ? l->worker_status : status;
}

/* Some steps, and the hash of a page: what happens only the first time happens here. */
static fp_status warm_up(lab *l)
{
    double us;
    fp__group *page = l->sequences[0].own[0];
    FP_TRY(decode_run(l, l->o.steps < 4 ? l->o.steps : 4, &us, NULL));
    if (l->o.validation == FP_BENCH_VALIDATE_NONE)
        return FP_OK;
    if (l->o.validation != FP_BENCH_VALIDATE_ASYNC && l->o.validation != FP_BENCH_VALIDATE_ASYNC_CPU)
        return hash_copies(l, &page, 1, l->leaves);
    FP_TRY(submit(l, &page, 1));
    fp__hasher_wait(l->hasher, &l->owner);
    return l->worker_status;
}

static fp_status time_decode(lab *l)
{
    double us[FP__BENCH_MAX_RUNS];
    FP_TRY(warm_up(l));
    for (uint32_t i = 0; i < l->o.runs; i++)
        FP_TRY(decode_run(l, l->o.steps, &us[i], l->step_us + (size_t)i * l->o.steps));
    fp__bench_spread_of(l->step_us, (size_t)l->o.runs * l->o.steps, &l->out->latency);
    fp__bench_summary(us, l->o.runs, &l->out->step);
    l->out->decode_tokens_per_s = l->o.batch / l->out->step.median_us * 1e6;
    return FP_OK;
}

static fp_status prompt_run(lab *l, double *us)
{
    size_t n = l->o.prefill;
    sequence *q = &l->sequences[0];
    for (size_t j = 0; j * 64 < n; j++)
        FP_TRY(fp__store_keep(l->main.store, q->own[j], q->own[j], 0));
    uint64_t start = fp__now_ns();
    for (size_t done = 0; done < n;) {
        size_t now = n - done < l->chunk ? n - done : l->chunk, row = now - 1;
        for (size_t i = 0; i < now; i++)
            l->ids[i] = (uint32_t)((done + i) * 37 % l->model->hp.vocabulary);
        fp__forward_span span = span_of((uint8_t *const *)(void *)q->view, l->ids, done, now);
        FP_TRY(fp__forward_step_logits(l->main.forward, &span, 1, &row, done + now == n ? 1 : 0, NULL, NULL));
        done += now;
    }
    const float *logits;
    FP_TRY(fp__forward_row(l->main.forward, 0, &logits));
    *us = (double)(fp__now_ns() - start) / 1e3;
    return FP_OK;
}

static fp_status time_prompt(lab *l)
{
    double us[FP__BENCH_MAX_RUNS], warm;
    FP_TRY(prompt_run(l, &warm));
    for (uint32_t i = 0; i < l->o.runs; i++)
        FP_TRY(prompt_run(l, &us[i]));
    fp__bench_summary(us, l->o.runs, &l->out->prompt);
    l->out->prefill_tokens_per_s = l->o.prefill / l->out->prompt.median_us * 1e6;
    return FP_OK;
}

/* ---- all of it -------------------------------------------------------------------------------------------
 */

static void count_bytes(lab *l)
{
    const fp_model *m = l->model;
    const fp__weight *w = &m->output;
    fp_bench_point_result *r = l->out;
    r->weight_bytes = w->groups * w->group_bytes;
    for (size_t i = 0; i < m->hp.layers; i++) {
        const fp__layer *y = &m->layers[i];
        const fp__weight *all[] = {&y->wq, &y->wk, &y->wv, &y->wo, &y->gate, &y->up, &y->down};
        for (size_t k = 0; k < 7; k++)
            r->weight_bytes += all[k]->groups * all[k]->group_bytes;
    }
    uint64_t group = fp__page_group_bytes(&l->geometry), tokens = 0;
    for (size_t s = 0; s < l->o.batch; s++)
        tokens += l->sequences[s].start + l->o.steps / 2;
    r->kv_step_bytes = (tokens + l->o.anchor) * group / 64;
    r->kv_bytes = (l->anchor_pages + l->pages * l->o.batch) * group;
    r->chunk = (uint32_t)l->chunk;
}

static fp_status make_lab(lab *l)
{
    const fp_bench_point *o = &l->o;
    const fp__hparams *hp = &l->model->hp;
    size_t longest = o->context + 64 + o->steps, batch = o->batch;
    longest = longest > o->prefill ? longest : o->prefill;
    l->pages = (longest + 63) / 64;
    l->anchor_pages = (o->anchor + 63u) / 64;
    l->chunk = o->chunk ? o->chunk : l->gpu ? DEFAULT_CHUNK_GPU : DEFAULT_CHUNK_CPU;
    l->chunk = l->chunk > o->prefill ? o->prefill : l->chunk;
    size_t tokens = l->chunk > batch ? l->chunk : batch;
    l->n_jobs = batch * (o->steps / 64 + 2);
    l->sequences = calloc(batch, sizeof *l->sequences);
    l->anchor = malloc((l->anchor_pages + 1) * sizeof *l->anchor);
    l->filled = malloc(l->anchor_pages + 1);
    l->g = malloc(hp->layers * hp->heads * sizeof *l->g);
    l->mass = calloc(batch * hp->layers * hp->heads, sizeof *l->mass);
    l->spans = calloc(batch, sizeof *l->spans);
    l->ids = calloc(tokens, sizeof *l->ids);
    l->rows = calloc(batch, sizeof *l->rows);
    l->step_us = calloc((size_t)o->runs * o->steps + 1, sizeof *l->step_us);
    l->jobs = calloc(l->n_jobs, sizeof *l->jobs);
    l->leaves = malloc(batch * fp__page_slabs(&l->geometry) * 32);
    if (!l->sequences || !l->anchor || !l->filled || !l->g || !l->mass || !l->spans || !l->ids || !l->rows ||
        !l->step_us || !l->jobs || !l->leaves)
        return fp__fail(FP_NO_MEMORY, "bench model: no memory");
    for (size_t s = 0; s < batch; s++)
        l->rows[s] = s;
    FP_TRY(fp__hasher_create(1, &l->hasher));
    fp__forward_limits limits = {tokens, batch, l->pages + l->anchor_pages, batch};
    FP_TRY(place_open(l, l->gpu != NULL, limits, l->anchor_pages + l->pages * batch, &l->main));
    FP_TRY(fill_pages(l));
    return share_out(l);
}

static void free_point(lab *l)
{
    fp__hasher_destroy(l->hasher);
    place_close(&l->main);
    for (size_t s = 0; l->sequences && s < l->o.batch; s++) {
        free(l->sequences[s].own);
        free(l->sequences[s].view);
    }
    free(l->sequences);
    free(l->anchor);
    free(l->filled);
    free(l->g);
    free(l->mass);
    free(l->spans);
    free(l->ids);
    free(l->rows);
    free(l->step_us);
    free(l->jobs);
    free(l->leaves);
}

static fp_status measure_point(lab *l)
{
    FP_TRY(make_lab(l));
    if (l->o.steps)
        FP_TRY(time_decode(l));
    if (l->o.prefill)
        FP_TRY(time_prompt(l));
    count_bytes(l);
    return FP_OK;
}

static fp_status check_point(const fp_bench_point *o)
{
    if (o->batch == 0 || o->batch > FP__BENCH_MAX_BATCH || o->runs == 0 || o->runs > FP__BENCH_MAX_RUNS ||
        o->steps > 1 << 20 || o->prefill > 1 << 22 || o->context > 1 << 24 || o->anchor > 1 << 20 ||
        o->chunk > 8192 || (unsigned)o->validation > FP_BENCH_VALIDATE_SYNC_TOKEN ||
        (o->steps == 0 && o->prefill == 0))
        return fp__fail(FP_USAGE,
                        "bench model: 1 to %d sequences, 1 to %d runs, steps or a prompt, and at most "
                        "8192 tokens a step",
                        FP__BENCH_MAX_BATCH, FP__BENCH_MAX_RUNS);
    return FP_OK;
}

/* What all points share. */
typedef struct base {
    fp__team *team;
    fp__gpu *gpu;
    fp__page_geometry geometry;
} base;

static fp_status base_open(base *b, const fp_model *model, const char *device, size_t threads,
                           size_t positions)
{
    int index;
    FP_TRY(fp__device_parse(device, &index));
    FP_TRY(fp__team_create(threads, &b->team));
    b->geometry = (fp__page_geometry){model->hp.layers, model->hp.kv_heads, model->hp.head_dim, {0}};
    memcpy(b->geometry.model, model->digest, 32);
    if (index != FP__DEVICE_CPU)
        FP_TRY(fp__gpu_open(index, model, b->team, positions, &b->gpu));
    return FP_OK;
}

static void point_run(const base *b, const fp_model *model, const fp_bench_point *point,
                      fp_bench_point_result *out)
{
    lab *l = calloc(1, sizeof *l);
    *out = (fp_bench_point_result){.status = FP_NO_MEMORY};
    if (!l)
        return;
    *l = (lab){
        .model = model, .o = *point, .out = out, .team = b->team, .gpu = b->gpu, .geometry = b->geometry};
    fp_status status = measure_point(l);
    free_point(l);
    free(l);
    if (status != FP_OK)
        *out = (fp_bench_point_result){0};
    out->status = status;
    if (status != FP_OK) {
        const char *detail = fp_error_detail();
        size_t n = strlen(detail);
        n = n < sizeof out->detail ? n : sizeof out->detail - 1;
        memcpy(out->detail, detail, n);
        out->detail[n] = 0;
    }
}

fp_status fp_bench_model(const fp_model *model, const char *device, size_t threads, double seconds,
                         const fp_bench_point *points, size_t n, fp_bench_point_result *results,
                         uint64_t *words_checked)
{
    size_t positions = CHECK_PROMPT_GPU + CHECK_STEPS;
    base b = {0};
    uint64_t start = fp__now_ns();
    *words_checked = 0;
    if (!model->has_weights)
        return fp__fail(FP_USAGE, "bench model: the model was opened without its weights");
    for (size_t i = 0; i < n; i++) {
        FP_TRY(check_point(&points[i]));
        size_t end = (size_t)points[i].context + 64 + points[i].steps;
        end = end > points[i].prefill ? end : points[i].prefill;
        positions = end > positions ? end : positions;
    }
    fp_status status = base_open(&b, model, device, threads, positions);
    if (status == FP_OK) {
        lab l = {
            .model = model, .words = words_checked, .team = b.team, .gpu = b.gpu, .geometry = b.geometry};
        status = check(&l);
    }
    for (size_t i = 0; i < n && status == FP_OK; i++) {
        if (seconds > 0 && (double)(fp__now_ns() - start) / 1e9 > seconds)
            results[i] =
                (fp_bench_point_result){.status = FP_CANCELLED, .detail = "not begun: the time was up"};
        else
            point_run(&b, model, &points[i], &results[i]);
    }
    fp__gpu_close(b.gpu);
    fp__team_destroy(b.team);
    return status;
}
