/* Pages computed again, elsewhere: with another instruction set where this machine has one, by a thread of
 * its own, from weights that were read from the file and packed a second time. Pages of a GPU are computed
 * again by the CPU, from the weights that were packed for it; what is read of the GPU's memory is copied here
 * first.
 *
 * A unit takes what it needs when it is given: token ids, references to the page groups, the expected masses.
 * It attends to the pages before it as they are (other units have computed those again) and computes its own
 * ones into private memory. All bytes must be equal, all sampled tokens, all masses. */
#include "engine/engine.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

enum { TOKENS = FP__PAGE_TOKENS };

typedef struct unit unit;

struct fp__replay {
    fp_engine *engine;
    const fp_model *model;
    fp_model *own; /* the same, opened here; NULL: a GPU computes otherwise, and the CPU's weights are free */
    fp__team *team;
    fp__forward *forward;
    fp__hasher *worker;
    pthread_mutex_t mutex; /* one computes at a time: worker, or who waits */
    fp__sampler *sampler;
    uint8_t *scratch;  /* one page group */
    uint64_t *mass;    /* [L][H] */
    uint8_t **context; /* [pages] addresses of the page groups of the unit at work */
    uint8_t **anchors;
    uint8_t **copies; /* [pages_max + FP__ANCHOR_PAGES] of a GPU's page groups, made when first needed */
    size_t pages_max, group_bytes;
    unit *dropped; /* at work when they were: the token loop's thread frees them when they have ended */
};

struct unit {
    fp__replay_unit head; /* first */
    fp__hash_job job;
    fp__hash_owner owner;
    fp__replay *replay;
    const fp__group **context; // [pages]
    const fp__group **anchors; // [anchor_pages]
    uint8_t *anchor_filled;
    size_t pages, anchor_pages;
    uint64_t position; /* of token 0 of the context */
    fp__injection_mode mode;
    uint32_t *g; /* [L][H] */
    bool has_anchors;
    uint64_t *mass;          /* [L][H] expected; NULL: not compared */
    uint32_t *ids;           // [ids_count] of the context, from its beginning
    size_t ids_count, first; /* first: of the answer's */
    fp__sampling sampling;
    size_t repeat_last;
    atomic_bool is_void; /* nobody wants it any more */
    fp_status status;
    size_t page;
    char why[320];
};

/* ---- life ---- */

/* The best table but the engine's own; its own where there is no other but the scalar one. */
static const fp__kernel_ops *other_kernels(const fp__kernel_ops *own)
{
    const fp__kernel_ops *best = own, *ops;
    for (size_t i = 1; (ops = fp__kernel_ops_at(i)); i++)
        if (ops != own)
            best = ops;
    return best;
}

static fp_status open_model(fp__replay *r)
{
    const fp_engine *e = r->engine;
    fp_model_options options = {.threads = fp__team_threads(e->team)};
    r->model = e->model;
    if (e->gpu)
        return FP_OK;
    FP_TRY(fp_model_open(e->model->path, &options, &r->own));
    if (memcmp(r->own->gguf_sha256, e->model->gguf_sha256, 32) != 0)
        return fp__fail(FP_MISMATCH, "the model's file has changed since it was loaded; start anew");
    r->own->ops = other_kernels(e->model->ops);
    r->model = r->own;
    return FP_OK;
}

static fp_status create(fp__replay *r)
{
    const fp_engine *e = r->engine;
    const fp__hparams *hp = &e->model->hp;
    FP_TRY(open_model(r));
    FP_TRY(fp__team_create(e->gpu ? fp__team_threads(e->team) : 1, &r->team));
    r->pages_max = (e->context_tokens + TOKENS - 1) / TOKENS + 2;
    fp__forward_limits limits = {TOKENS, 1, r->pages_max + FP__ANCHOR_PAGES, FP__LOGIT_ROWS};
    FP_TRY(fp__forward_create(r->model, r->team, limits, &r->forward));
    FP_TRY(fp__sampler_create(hp->vocabulary, r->model->ops->exp_weights, &r->sampler));
    r->group_bytes = fp__page_group_bytes(fp__pool_geometry(e->pool));
    r->scratch = fp__mem_alloc(r->group_bytes);
    r->mass = calloc(hp->layers * hp->heads, sizeof *r->mass);
    r->context = calloc(r->pages_max, sizeof *r->context);
    r->anchors = calloc(FP__ANCHOR_PAGES, sizeof *r->anchors);
    r->copies = calloc(r->pages_max + FP__ANCHOR_PAGES, sizeof *r->copies);
    if (!r->scratch || !r->mass || !r->context || !r->anchors || !r->copies)
        return fp__fail(FP_NO_MEMORY, "replay: no memory");
    return fp__hasher_create(1, &r->worker);
}

fp_status fp__replay_create(fp_engine *e, fp__replay **out)
{
    fp__replay *r = calloc(1, sizeof *r);
    if (!r)
        return fp__fail(FP_NO_MEMORY, "replay: no memory");
    r->engine = e;
    pthread_mutex_init(&r->mutex, NULL);
    fp_status status = create(r);
    if (status != FP_OK) {
        fp__replay_destroy(r);
        return fp__fail_context(status, "validation by replay");
    }
    *out = r;
    return FP_OK;
}

static void free_unit(unit *u)
{
    fp__pool *pool = u->replay->engine->pool;
    for (size_t p = 0; u->context && p < u->pages; p++)
        fp__pool_unref(pool, (fp__group *)(uintptr_t)u->context[p]);
    for (size_t p = 0; u->anchors && p < u->anchor_pages; p++)
        fp__pool_unref(pool, (fp__group *)(uintptr_t)u->anchors[p]);
    free(u->context);
    free(u->anchors);
    free(u->anchor_filled);
    free(u->g);
    free(u->mass);
    free(u->ids);
    free(u);
}

static void sweep(fp__replay *r)
{
    unit **link = &r->dropped;
    while (*link) {
        unit *u = *link;
        if (fp__hasher_pending(r->worker, &u->owner) == 0) {
            *link = (unit *)(void *)u->head.next;
            free_unit(u);
        } else {
            link = (unit **)(void *)&u->head.next;
        }
    }
}

void fp__replay_destroy(fp__replay *r)
{
    if (!r)
        return;
    for (unit *u = r->dropped; u; u = (unit *)(void *)u->head.next)
        fp__hasher_wait(r->worker, &u->owner);
    sweep(r);
    fp__hasher_destroy(r->worker);
    fp__sampler_destroy(r->sampler);
    fp__forward_destroy(r->forward);
    fp__team_destroy(r->team);
    fp_model_close(r->own);
    fp__mem_free(r->scratch, r->group_bytes);
    for (size_t i = 0; r->copies && i < r->pages_max + FP__ANCHOR_PAGES; i++)
        fp__mem_free(r->copies[i], r->group_bytes);
    free(r->copies);
    free(r->mass);
    free(r->context);
    free(r->anchors);
    pthread_mutex_destroy(&r->mutex);
    free(r);
}

/* ---- a unit ---- */

static const fp__group **hold_pages(fp__pool *pool, const fp__kvseq *seq, size_t n)
{
    const fp__group **groups = calloc(n + 1, sizeof *groups);
    for (size_t p = 0; groups && p < n; p++) {
        fp__kvseq_page page;
        fp__kvseq_page_get(seq, p, &page);
        groups[p] = page.group;
        fp__pool_ref(pool, (fp__group *)(uintptr_t)page.group);
    }
    return groups;
}

/* Gives the memory of page p of the unit. */
static fp_status compare_page(unit *u, size_t p)
{
    fp__replay *r = u->replay;
    const fp__page_geometry *g = fp__pool_geometry(r->engine->pool);
    const uint8_t *theirs = r->context[p];
    u->page = p;
    if (memcmp(r->scratch, theirs, r->group_bytes) == 0)
        return FP_OK;
    size_t bytes = fp__slab_bytes(g->d), slab = 0;
    while (memcmp(r->scratch + slab * bytes, theirs + slab * bytes, bytes) == 0)
        slab++;
    return fp__fail(FP_MISMATCH, "context page %zu, layer %zu, head %zu is not what %s kernels compute again",
                    p, slab / g->kv_heads, slab % g->kv_heads, r->model->ops->name);
}

/* The tokens that were sampled from rows [begin, begin + n). */
static fp_status compare_tokens(unit *u, size_t begin, size_t n)
{
    fp__replay *r = u->replay;
    size_t rows[TOKENS], k = 0;
    const float *logits;
    for (size_t i = begin; i < begin + n; i++)
        if (i + 1 >= u->first && i + 1 < u->ids_count)
            rows[k++] = i - begin;
    if (k == 0)
        return FP_OK;
    FP_TRY(fp__forward_logits(r->forward, rows, k, &logits));
    for (size_t j = 0; j < k; j++) {
        size_t at = begin + rows[j] + 1, back = u->repeat_last, history = back == 0 || back > at ? at : back;
        uint32_t id;
        FP_TRY(fp__sample(r->sampler, &u->sampling, logits + j * r->model->hp.vocabulary,
                          u->ids + at - history, history, u->position + at, 0, &id));
        if (id != u->ids[at])
            return fp__fail(FP_MISMATCH, "position %llu: %s kernels give token %u, not %u",
                            (unsigned long long)(u->position + at), r->model->ops->name, id, u->ids[at]);
    }
    return FP_OK;
}

static fp_status compute_page(unit *u, size_t p)
{
    fp__replay *r = u->replay;
    size_t begin = p * TOKENS, n = u->head.to - begin < TOKENS ? u->head.to - begin : TOKENS;
    uint8_t *own = r->scratch, *theirs = r->context[p];
    memset(own, 0, r->group_bytes);
    r->context[p] = own;
    fp__forward_span span = {.ids = u->ids + begin,
                             .tokens = n,
                             .position = u->position + begin,
                             .context = {.groups = (const uint8_t *const *)r->context,
                                         .pages = p + 1,
                                         .causal_page = 0,
                                         .causal_tokens = begin},
                             .groups = r->context,
                             .slot = begin};
    if (u->has_anchors) {
        span.anchor = (fp__attn_segment){.groups = (const uint8_t *const *)r->anchors,
                                         .filled = u->anchor_filled,
                                         .pages = u->anchor_pages,
                                         .causal_page = u->anchor_pages};
        span.mode = u->mode;
        span.g = u->g;
        span.mass = r->mass;
    }
    fp_status status = fp__forward_step(r->forward, &span, 1, NULL);
    r->context[p] = theirs;
    if (status == FP_NUMERIC)
        return fp__fail_context(FP_MISMATCH, "computed again");
    FP_TRY(status);
    FP_TRY(compare_page(u, p));
    return compare_tokens(u, begin, n);
}

/* The bytes of a page group for the CPU. */
static fp_status read_group(fp__replay *r, const fp__group *group, uint8_t **copy, uint8_t **out)
{
    fp__store *store = fp__pool_store(r->engine->pool);
    uint8_t *bytes;
    if (!r->engine->gpu) {
        *out = group->data;
        return FP_OK;
    }
    if (!*copy && !(*copy = fp__mem_alloc(r->group_bytes)))
        return fp__fail(FP_NO_MEMORY, "replay: no memory for the context's pages");
    FP_TRY(fp__store_map(store, group, FP__STORE_READ, &bytes));
    memcpy(*copy, bytes, r->group_bytes);
    *out = *copy;
    return fp__store_unmap(store, group, FP__STORE_READ, bytes);
}

static fp_status compute(unit *u)
{
    fp__replay *r = u->replay;
    size_t n = r->model->hp.layers * r->model->hp.heads;
    u->page = u->head.from / TOKENS;
    for (size_t p = 0; p < u->pages; p++)
        FP_TRY(read_group(r, u->context[p], &r->copies[p], &r->context[p]));
    for (size_t p = 0; p < u->anchor_pages; p++)
        FP_TRY(read_group(r, u->anchors[p], &r->copies[r->pages_max + p], &r->anchors[p]));
    memset(r->mass, 0, n * sizeof *r->mass);
    for (size_t p = u->head.from / TOKENS; p < u->pages && !atomic_load(&u->is_void); p++) {
        u->page = p;
        FP_TRY(compute_page(u, p));
    }
    u->page = u->head.from / TOKENS;
    if (!atomic_load(&u->is_void) && u->mass && memcmp(u->mass, r->mass, n * sizeof *r->mass) != 0)
        return fp__fail(FP_MISMATCH, "the anchors' masses of tokens %zu to %zu are not what %s kernels give",
                        u->head.from, u->head.to, r->model->ops->name);
    return FP_OK;
}

static void run_unit(fp__hash_job *job)
{
    unit *u = (unit *)(void *)((uint8_t *)job - offsetof(unit, job));
    pthread_mutex_lock(&u->replay->mutex);
    u->status = compute(u);
    pthread_mutex_unlock(&u->replay->mutex);
    if (u->status != FP_OK)
        snprintf(u->why, sizeof u->why, "%s", fp_error_detail());
}

fp_status fp__replay_submit(fp__replay *r, fp_session *s, size_t from, size_t to, const uint64_t *mass_from,
                            const uint64_t *mass_to, fp__replay_unit **out)
{
    fp__pool *pool = r->engine->pool;
    size_t n = r->model->hp.layers * r->model->hp.heads;
    unit *u = calloc(1, sizeof *u);
    if (!u)
        return fp__fail(FP_NO_MEMORY, "replay: no memory");
    u->replay = r;
    u->head.from = from;
    u->head.to = to;
    u->job.run = run_unit;
    u->ids_count = to < s->ids.size ? to + 1 : to;
    u->ids = malloc((u->ids_count + 1) * sizeof *u->ids);
    u->mass = mass_to ? malloc(n * sizeof *u->mass) : NULL;
    u->context = hold_pages(pool, s->context, (to + TOKENS - 1) / TOKENS);
    u->pages = u->context ? (to + TOKENS - 1) / TOKENS : 0;
    u->has_anchors = s->anchors != NULL;
    if (s->anchors) {
        size_t pages = fp__kvseq_pages(s->anchors->seq);
        u->anchors = hold_pages(pool, s->anchors->seq, pages);
        u->anchor_pages = u->anchors ? pages : 0;
        u->anchor_filled = malloc(pages + 1);
        if (u->anchor_filled)
            memcpy(u->anchor_filled, fp__kvseq_filled(s->anchors->seq), pages);
        u->mode = (fp__injection_mode)s->anchors->gate.injection.mode;
        u->g = malloc(n * sizeof *u->g); /* a copy: the anchors may be gone while it is at work */
        if (u->g)
            memcpy(u->g, s->anchors->g, n * sizeof *u->g);
    }
    if (!u->ids || !u->context || (mass_to && !u->mass) ||
        (s->anchors && (!u->anchors || !u->anchor_filled || !u->g))) {
        free_unit(u);
        return fp__fail(FP_NO_MEMORY, "replay: no memory");
    }
    memcpy(u->ids, s->ids.data, u->ids_count * sizeof *u->ids);
    for (size_t i = 0; mass_to && i < n; i++)
        u->mass[i] = mass_to[i] - (mass_from ? mass_from[i] : 0);
    u->first = s->turns[s->answer.turn].first;
    u->position = fp__kvseq_options_get(s->context)->first_pos;
    u->sampling = fp__session_sampling(s);
    u->repeat_last = s->answer.sampling.repeat_last_n;
    *out = &u->head;
    fp__hasher_submit(r->worker, &u->job, &u->owner);
    return FP_OK;
}

bool fp__replay_done(const fp__replay_unit *head)
{
    unit *u = (unit *)(uintptr_t)head;
    return fp__hasher_pending(u->replay->worker, &u->owner) == 0;
}

fp_status fp__replay_result(const fp__replay_unit *head, size_t *page)
{
    const unit *u = (const unit *)(const void *)head;
    *page = u->page;
    return u->status == FP_OK ? FP_OK : fp__fail(u->status, "%s", u->why);
}

void fp__replay_wait(fp__replay *r, fp__replay_unit *head)
{
    fp__hasher_wait(r->worker, &((unit *)(void *)head)->owner);
}

void fp__replay_drop(fp__replay *r, fp__replay_unit *head)
{
    unit *u = (unit *)(void *)head;
    atomic_store(&u->is_void, true);
    u->head.next = (fp__replay_unit *)(void *)r->dropped;
    r->dropped = u;
    sweep(r);
}
