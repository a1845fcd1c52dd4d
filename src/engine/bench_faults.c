/* Fault injection (fieldprint/faults.h). Everything is decided by a seed but the moments at which threads get
 * the processor. */
#include "engine/bench_faults.h"
#include "core/file.h"
#include "fieldprint/audit.h"
#include "fieldprint/ledger.h"
#include <dirent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { TOKENS = FP__PAGE_TOKENS, DEFAULT_TOKENS = 150, MAX_TOKENS = 2000 };

/* X(NAME, text) */
#define KINDS(X)                                                                                             \
    X(K, "K")                                                                                                \
    X(V, "V")                                                                                                \
    X(SCALE, "scale")                                                                                        \
    X(TABLE, "block table")                                                                                  \
    X(ANCHOR, "resident anchor")                                                                             \
    X(BOTH, "anchor and its artifact")                                                                       \
    X(WEIGHTS, "packed weights")                                                                             \
    X(ROPE, "vectors and rotary plan")                                                                       \
    X(COMPUTED, "wrong K/V computed")                                                                        \
    X(TOKEN, "wrong token sampled")                                                                          \
    X(MASS, "wrong mass")                                                                                    \
    X(WORKER, "hash workers late or dead")                                                                   \
    X(ARTIFACT, "artifact file")                                                                             \
    X(STORE, "session file")                                                                                 \
    X(LOG, "log")                                                                                            \
    X(DISK, "disk full")
typedef enum kind {
#define X(name, text) K_##name,
    KINDS(X)
#undef X
} kind;
_Static_assert(K_DISK + 1 == FP_FAULT_KINDS, "the header says how many");

typedef enum span {
    STAYS,
    PASSES,
    RETURNS
} span; /* a flip: until something is written there; a moment; each time */

const char *fp_fault_kind_name(size_t k)
{
    static const char *const names[] = {
#define X(name, text) text,
        KINDS(X)
#undef X
    };
    return k < FP_FAULT_KINDS ? names[k] : NULL;
}

static const struct {
    const char *name;
    fp_validation level;
    uint32_t replay;
} levels[FP_FAULT_LEVELS] = {{"hash", FP_VALIDATE_HASH, 0},
                             {"scrub", FP_VALIDATE_SCRUB, 0},
                             {"replay:0.25", FP_VALIDATE_REPLAY, 16384},
                             {"replay", FP_VALIDATE_REPLAY, 65536}};

const char *fp_fault_level_name(size_t level)
{
    return level < FP_FAULT_LEVELS ? levels[level].name : NULL;
}

typedef enum window { W_NONE, W_PAGES, W_SCRUB_PAGES, W_SCRUB_WEIGHTS, W_ANSWER, W_STEP } window;

typedef struct fault {
    kind kind;
    span span;
    uint64_t at; /* call of the hook at which it strikes */
    fp__fault_point point;
    /* once it has struck */
    bool struck, is_checked, over;
    bool late;                   /* the answer had ended: its last check may have been there already */
    uint8_t *byte, flip, before; /* one bit of one byte; before: its value then */
    size_t page, slab, offset;   /* RETURNS: where in the context */
    unsigned returns;
    uint64_t struck_ns, undo_at, failures_before;
    double detect_ms; /* < 0: not noticed */
    window window;    /* in which it must be noticed */
    size_t struck_tokens;
    double window_share; /* of it, until it was */
    bool beyond_rate, before_end;
} fault;

typedef struct lab {
    const fp_model *model;
    const fp_fault_options *o;
    fp_fault_result *out;
    fp_workspace *w;
    char workspace[1024], artifact[4096];
    uint8_t anchor[1][32];
    fp__fault_answer expected, expected_other;
    double expected_ms;
    uint64_t hooks; /* calls of the hook in a run without faults */
    uint64_t random;
    /* of a cell */
    size_t level, release;
    fp_engine *engine;
    fp_anchors *anchors;
    /* of a run */
    uint64_t number, calls;
    fault f;
    fp__fault_answer got, got_other; /* other: of a second session that shares anchors and weights */
    bool pair;
    bool gave_out_wrong, was_retracted;
    atomic_uint_fast64_t worker_jobs, worker_until;
    atomic_bool worker_dies;
    uint64_t fault_random;
    double detect_sum;
    uint64_t detect_n;
    uint64_t rollback_ns, rollbacks;
} lab;

static uint64_t roll(lab *l, uint64_t n)
{
    l->random = l->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (l->random >> 24) % n;
}

static void problem(lab *l, const char *what)
{
    fp_fault_result *r = l->out;
    r->violations++;
    if (r->problems < FP_FAULT_PROBLEMS)
        snprintf(r->problem[r->problems++], sizeof r->problem[0],
                 "fault %llu of seed %llu (%s, %s, %s, %s, call %llu): %s", (unsigned long long)l->number,
                 (unsigned long long)l->o->seed, fp_fault_kind_name(l->f.kind),
                 l->f.span == STAYS    ? "stays"
                 : l->f.span == PASSES ? "passes"
                                       : "returns",
                 levels[l->level].name, fp_release_name((fp_release)l->release), (unsigned long long)l->f.at,
                 what);
}

/* ---- an answer ---- */

static int take_text(void *context, const char *text, size_t size)
{
    lab *l = context;
    const fp__buf *right = &l->expected.given;
    if (fp__buf_append(&l->got.given, text, size) != FP_OK)
        return 1;
    const fp__buf *given = &l->got.given;
    if (right->size && (given->size > right->size || memcmp(given->data, right->data, given->size) != 0))
        l->gave_out_wrong = true;
    return 0;
}

static void take_back(void *context, size_t keep, const char *reason)
{
    lab *l = context;
    (void)reason;
    l->got.given.size = keep;
    l->was_retracted = true;
}

static const char prompt[] =
    "When does the office close on Fridays, what is the name of the cat, and why is it that a "
    "mooring can be paid in coins only there? Say it in one sentence: I am in a hurry.";
static const char document[] =
    "The office of the harbour master is in the old customs house. It opens at seven, closes at 17:42 on "
    "Fridays, and is the only place where a mooring can be paid in coins. The cat is called Hektor.";

static fp_status begin(lab *l, bool other, fp_session **s)
{
    fp_session_options so = {.anchors = l->anchors, .raw = true, .release = (fp_release)l->release};
    fp_generate_options go = {.max_tokens = l->o->tokens ? l->o->tokens : DEFAULT_TOKENS,
                              .ignore_eog = true,
                              .on_text = other ? NULL : take_text,
                              .on_text_context = l,
                              .on_retract = other ? NULL : take_back};
    fp_sampling_default(&go.sampling);
    go.sampling.temperature = 4; /* so that a wrong number soon gives another token */
    go.sampling.seed = other ? 8 : 7;
    go.sampling.repeat_penalty = 1.1f;
    go.sampling.repeat_last_n = 48;
    FP_TRY(fp_session_create(l->engine, &so, s));
    FP_TRY(fp_session_add_message(*s, FP_ROLE_USER, prompt, sizeof prompt - 1));
    return fp_session_begin(*s, &go);
}

/* ---- striking ---- */

/* The flips race with the workers that read, as flips do. */
#if defined(__clang__) || defined(__GNUC__)
__attribute__((no_sanitize("thread")))
#endif
static void
flip(fault *f)
{
    *(volatile uint8_t *)f->byte = (uint8_t)(*(volatile uint8_t *)f->byte ^ f->flip);
}

static void strike_byte(lab *l, uint8_t *byte)
{
    fault *f = &l->f;
    f->byte = byte;
    f->flip = (uint8_t)(1u << roll(l, 8));
    f->before = *byte;
    flip(f);
    f->struck = true;
}

/* A byte of K, V or scales of a page's slab, with the slot that it belongs to. */
static size_t pick_offset(lab *l, kind k, size_t d, size_t *slot)
{
    size_t token = roll(l, TOKENS), i;
    *slot = token;
    switch (k) {
    case K_V:
        i = roll(l, d);
        return 64 * d + i * TOKENS + token;
    case K_SCALE:
        return 128 * d + (roll(l, 2) ? 128 : 0) + 2 * token + roll(l, 2);
    default:
        return token * d + roll(l, d);
    }
}

static bool strike_context(lab *l, fp_session *s, bool fresh)
{
    fault *f = &l->f;
    const fp__page_geometry *g = fp__kvseq_geometry(s->context);
    size_t pages = fp__kvseq_pages(s->context), sealed = fp__kvseq_sealed(s->context), slot;
    uint8_t *const *groups = fp__kvseq_groups(s->context);
    if (fresh) { /* a token that was computed just now: in the page after the committed ones */
        uint8_t *slab = fp__kvseq_slab(s->context, 0, roll(l, g->layers), roll(l, g->kv_heads), &slot);
        strike_byte(l, slab + slot * g->d + roll(l, g->d));
        return true;
    }
    if (pages == 0)
        return false;
    f->page = roll(l, pages);
    f->slab = roll(l, fp__page_slabs(g));
    f->offset = pick_offset(l, f->kind, g->d, &slot);
    bool open = f->page >= sealed, written = slot < fp__kvseq_filled(s->context)[f->page];
    if (!written && !open)
        return false;
    f->is_checked = written && (open || l->level > 0 || l->release != FP_RELEASE_OPTIMISTIC);
    f->window = open ? W_PAGES : l->level > 0 ? W_SCRUB_PAGES : W_ANSWER;
    strike_byte(l, groups[f->page] + f->slab * fp__slab_bytes(g->d) + f->offset);
    return true;
}

static bool strike_anchor(lab *l)
{
    fault *f = &l->f;
    const fp__kvseq *seq = l->anchors->seq;
    const fp__page_geometry *g = fp__kvseq_geometry(seq);
    static const kind kinds[] = {K_K, K_V, K_SCALE};
    size_t page = roll(l, fp__kvseq_pages(seq)), slot;
    size_t offset = pick_offset(l, kinds[roll(l, 3)], g->d, &slot);
    if (slot >= fp__kvseq_filled(seq)[page])
        return false;
    f->is_checked = l->level > 0 || l->release != FP_RELEASE_OPTIMISTIC;
    f->window = l->level > 0 ? W_SCRUB_PAGES : W_ANSWER;
    strike_byte(l, fp__kvseq_groups(seq)[page] + roll(l, fp__page_slabs(g)) * fp__slab_bytes(g->d) + offset);
    return true;
}

static bool strike_model(lab *l)
{
    fault *f = &l->f;
    const fp_model *m = l->model;
    f->is_checked = l->level > 0 || l->release != FP_RELEASE_OPTIMISTIC;
    f->window = l->level > 0 ? W_SCRUB_WEIGHTS : W_ANSWER;
    if (f->kind == K_WEIGHTS) {
        strike_byte(l, m->packed + roll(l, m->packed_bytes));
        return true;
    }
    const fp__layer *layer = &m->layers[roll(l, m->hp.layers)];
    size_t at = roll(l, m->hp.width) * sizeof(float);
    const float *vectors[] = {layer->attn_norm, layer->ffn_norm, m->output_norm};
    uint8_t *byte = roll(l, 2)
                        ? (uint8_t *)(uintptr_t)m->rope.freqs + roll(l, m->rope.n_rot / 2 * sizeof(double))
                        : (uint8_t *)(uintptr_t)vectors[roll(l, 3)] + at;
    strike_byte(l, byte);
    return true;
}

static bool strike_table(lab *l, fp_session *s)
{
    fault *f = &l->f;
    const fp__kvseq *seq = roll(l, 3) || !l->anchors ? s->context : l->anchors->seq;
    size_t pages = fp__kvseq_pages(seq);
    if (pages == 0)
        return false;
    f->is_checked = true;
    f->window = W_STEP;
    uint8_t *entry = (uint8_t *)(uintptr_t)&fp__kvseq_groups(seq)[roll(l, pages)];
    strike_byte(l, entry + roll(l, sizeof(void *)));
    return true;
}

static bool strike(lab *l, fp_session *s)
{
    fault *f = &l->f;
    size_t n = l->model->hp.layers * l->model->hp.heads;
    switch (f->kind) {
    case K_K:
    case K_V:
    case K_SCALE:
        return strike_context(l, s, false);
    case K_TABLE:
        return strike_table(l, s);
    case K_ANCHOR:
    case K_BOTH:
        return strike_anchor(l);
    case K_WEIGHTS:
    case K_ROPE:
        return strike_model(l);
    case K_COMPUTED:
        return strike_context(l, s, true);
    case K_TOKEN:
        if (fp__session_ended(s) || s->ids.size <= s->turns[s->answer.turn].first ||
            (s->ids.data[s->ids.size - 1] ^ 1) >= l->model->hp.vocabulary)
            return false;
        f->byte = (uint8_t *)&s->ids.data[s->ids.size - 1];
        f->flip = 1;
        flip(f);
        f->struck = true;
        return true;
    case K_MASS:
        if (fp__kvseq_tokens(s->context) == 0)
            return false;
        strike_byte(l, (uint8_t *)&s->mass[roll(l, n)] + roll(l, 4));
        return true;
    default:
        return false;
    }
}

/* A flip that comes back: at the same place of the context, whatever page group is there now. */
static void strike_again(lab *l, fp_session *s)
{
    fault *f = &l->f;
    const fp__page_geometry *g = fp__kvseq_geometry(s->context);
    if (f->page >= fp__kvseq_pages(s->context) || f->returns > 8)
        return;
    uint8_t *byte = fp__kvseq_groups(s->context)[f->page] + f->slab * fp__slab_bytes(g->d) + f->offset;
    if (byte == f->byte || fp__kvseq_filled(s->context)[f->page] < TOKENS)
        return;
    f->byte = byte;
    f->returns++;
    flip(f);
}

/* How much of its window had passed when it was noticed. */
static void measure(lab *l, const fp_engine *e, const fp_session *s)
{
    fault *f = &l->f;
    size_t tokens = fp__kvseq_tokens(s->context), sealed = fp__kvseq_sealed(s->context);
    uint64_t shown[2], computed[2], ns = fp__now_ns() - f->struck_ns;
    size_t since = tokens > f->struck_tokens ? tokens - f->struck_tokens : 0;
    f->before_end = !fp__session_ended(s);
    switch (f->window) {
    case W_PAGES:
        f->window_share = sealed > f->page ? (double)(sealed - f->page) / (double)e->checks.window : 0;
        break;
    case W_SCRUB_PAGES:
    case W_SCRUB_WEIGHTS:
        fp__validation_windows(e, false, &shown[0], &shown[1]);
        fp__validation_windows(e, true, &computed[0], &computed[1]);
        f->window_share = (double)ns / (double)shown[f->window == W_SCRUB_WEIGHTS];
        f->beyond_rate = ns > computed[f->window == W_SCRUB_WEIGHTS];
        break;
    case W_ANSWER: /* these have no length: in time, or too late */
        f->window_share = fp__session_active(s) ? 0 : 2;
        break;
    case W_STEP:
        f->window_share = since == 0 ? 0 : 2;
        break;
    case W_NONE:
        break;
    }
}

static void hook(void *arg, fp_engine *e, fp__fault_point point)
{
    lab *l = arg;
    fault *f = &l->f;
    fp_session *s = e->sessions[0];
    if (point == FP__FAULT_NOTICED) {
        if (s && f->struck && f->detect_ms < 0) {
            f->detect_ms = (double)(fp__now_ns() - f->struck_ns) / 1e6;
            measure(l, e, s);
        }
        return;
    }
    l->calls++;
    if (!s || !fp__session_active(s))
        return;
    if (!f->struck && l->calls >= f->at && point == f->point && f->byte == NULL) {
        f->failures_before = e->checks.count.failures;
        f->struck_ns = fp__now_ns();
        f->late = fp__session_ended(s);
        f->struck_tokens = fp__kvseq_tokens(s->context);
        if (strike(l, s))
            f->undo_at = l->calls + 1 + roll(l, 6);
        return;
    }
    if (f->struck && !f->over && f->span == PASSES && l->calls >= f->undo_at &&
        e->checks.count.failures == f->failures_before) {
        flip(f); /* nothing has gone back: it is still where it was */
        f->over = true;
    }
    if (f->struck && f->span == RETURNS && point == FP__FAULT_COMMITTED)
        strike_again(l, s);
}

/* Of the hash workers; in their threads. */
static bool worker_fault(void *arg)
{
    lab *l = arg;
    uint64_t job = atomic_fetch_add(&l->worker_jobs, 1), until = atomic_load(&l->worker_until);
    if (job < until)
        return true;
    if (atomic_load(&l->worker_dies))
        return false;
    struct timespec t = {.tv_nsec = (long)(200000 + (job * 7919 % 13) * 200000)};
    nanosleep(&t, NULL);
    return true;
}

/* ---- engines ---- */

static void close_engine(lab *l)
{
    fp_anchors_release(l->anchors);
    fp_engine_destroy(l->engine);
    l->anchors = NULL;
    l->engine = NULL;
}

static fp_status load_anchors(lab *l)
{
    return fp_anchors_load(l->engine, l->w, (const uint8_t(*)[32])l->anchor, 1, NULL, &l->anchors, NULL);
}

static fp_status open_engine(lab *l)
{
    fp_engine_options o = {.threads = l->o->threads ? l->o->threads : 1,
                           .context_tokens = 1024,
                           .max_sessions = 2,
                           .chunk_tokens = 64,
                           .validation = levels[l->level].level,
                           .replay_65536 = levels[l->level].replay};
    FP_TRY(fp_engine_create(l->model, &o, &l->engine));
    l->engine->checks.fault = hook;
    l->engine->checks.fault_arg = l;
    return load_anchors(l);
}

static fp_status set_up(lab *l)
{
    fp_statement st;
    fp_event_receipt event;
    uint8_t head[32];
    if (snprintf(l->workspace, sizeof l->workspace, "%s/workspace", l->o->folder) >= (int)sizeof l->workspace)
        return fp__fail(FP_LIMIT, "faults: the folder's name is too long");
    FP_TRY(fp_workspace_init(l->workspace, NULL, NULL));
    FP_TRY(fp_workspace_open(l->workspace, NULL, &l->w));
    fp_statement_default(&st);
    snprintf(st.name, sizeof st.name, "harbour");
    st.type = FP_LABEL_CORE;
    st.injection.mode = FP_INJECT_FLOOR;
    st.injection.gamma = 16384;
    FP_TRY(fp_anchor_add(l->w, document, sizeof document - 1, &st, l->anchor[0]));
    fp_engine_options o = {.threads = 1, .context_tokens = 1024};
    fp_engine *e;
    FP_TRY(fp_engine_create(l->model, &o, &e));
    fp_status status =
        fp_anchors_compile(e, l->w, (const uint8_t(*)[32])l->anchor, 1, &event, head, NULL, NULL);
    fp_engine_destroy(e);
    return status;
}

/* ---- one run ---- */

/* Puts back what a run has left changed. */
static void heal(lab *l)
{
    fault *f = &l->f;
    bool in_model = f->kind == K_WEIGHTS || f->kind == K_ROPE;
    if (f->struck && in_model && *f->byte != f->before)
        *f->byte = f->before;
}

static fp_status generate(lab *l, double *ms)
{
    fp_session *s = NULL, *other = NULL;
    uint64_t start = fp__now_ns();
    l->calls = 0;
    l->gave_out_wrong = l->was_retracted = false;
    fp__answer_free(&l->got);
    fp__answer_free(&l->got_other);
    fp_status status = begin(l, false, &s);
    if (status == FP_OK && l->pair)
        status = begin(l, true, &other);
    if (status == FP_OK)
        status = fp_session_run(s);
    *ms = (double)(fp__now_ns() - start) / 1e6;
    if (status == FP_OK)
        status = fp__answer_read(s, &l->got);
    if (status == FP_OK && other)
        status = fp_session_run(other);
    if (status == FP_OK && other)
        status = fp__answer_read(other, &l->got_other);
    fp_session_destroy(s);
    fp_session_destroy(other);
    return status;
}

static void add(lab *l, const fp_fault_counts *one)
{
    fp__fault_counts_add(&l->out->all, one);
    fp__fault_counts_add(&l->out->kind[l->f.kind], one);
    fp__fault_counts_add(&l->out->cell[l->level][l->release], one);
}

static void judge(lab *l, fp_status status, uint64_t failures, double rollback_ms)
{
    fault *f = &l->f;
    fp_fault_counts c = {0};
    bool found = failures > 0,
         same = status == FP_OK && fp__answer_equal(&l->got, &l->expected) &&
                (!l->pair || fp__answer_equal(&l->got_other, &l->expected_other)),
         gone = f->span == PASSES;
    bool held = l->release != FP_RELEASE_OPTIMISTIC, all = l->level == FP_FAULT_LEVELS - 1;
    bool wrong_once = f->kind == K_COMPUTED || f->kind == K_TOKEN || f->kind == K_MASS;
    if (!f->struck)
        return;
    c.injected = 1;
    if (gone || wrong_once) {
        c.transient = 1;
        c.transient_detected = found;
    } else {
        c.persistent = 1;
        bool is_checked = f->is_checked && (found || !f->late);
        c.persistent_checked = is_checked;
        c.detected = is_checked && found;
        c.missed = is_checked && !found;
        c.windowed = c.detected && f->window != W_NONE;
        c.outside = c.windowed && f->window_share > 1;
        c.beyond_rate = c.windowed && f->beyond_rate;
        c.scrubbed =
            c.windowed && f->before_end && (f->window == W_SCRUB_PAGES || f->window == W_SCRUB_WEIGHTS);
        c.window_share_max = c.windowed ? f->window_share : 0;
    }
    c.corrected = found && same;
    c.without_effect = !found && same;
    c.wrong = !same && status == FP_OK;
    c.errors = status != FP_OK;
    c.retractions = l->was_retracted;
    c.gave_out_wrong = l->gave_out_wrong;
    if (found && f->detect_ms >= 0)
        c.detect_ms_max = c.detect_ms_mean = f->detect_ms;
    c.rollback_ms_max = rollback_ms;
    add(l, &c);
    if (c.missed)
        problem(l, "it stayed, and was not noticed");
    if (c.outside)
        problem(l, "it was noticed outside of its window");
    bool reachable = !f->late && ((!gone && !wrong_once && f->is_checked) || all);
    if (status != FP_OK && f->span != RETURNS && reachable)
        problem(l, fp_error_detail());
    if (held && reachable && (c.gave_out_wrong || c.retractions))
        problem(l, "gated or final: something wrong was given out");
    if (reachable && c.wrong)
        problem(l, found ? "it was noticed, and the answer is another one all the same"
                         : "the answer is another one, and nobody has noticed");
}

/* Bits of memory, computations, workers: a fault while an answer is generated. */
static fp_status run_memory(lab *l)
{
    fault *f = &l->f;
    static const fp__fault_point points[] = {FP__FAULT_STEP, FP__FAULT_WRITTEN, FP__FAULT_COMMITTED};
    if (!l->engine)
        FP_TRY(open_engine(l));
    f->at = 1 + roll(l, l->hooks);
    f->point = f->kind == K_COMPUTED                     ? FP__FAULT_COMPUTED
               : f->kind == K_TOKEN || f->kind == K_MASS ? FP__FAULT_COMMITTED
               : f->kind == K_TABLE                      ? FP__FAULT_STEP
                                                         : points[roll(l, 3)];
    f->detect_ms = -1;
    fp_validation_status before, after;
    l->engine->checks.count.rollback_max_ns = 0; /* of this run */
    fp_engine_validation(l->engine, &before);
    uint8_t *file = NULL;
    fp__buf artifact = {0};
    if (f->kind == K_BOTH) { /* so that it must be compiled again */
        FP_TRY(fp__file_read(l->anchors->path, (size_t)1 << 30, &artifact));
        artifact.data[roll(l, artifact.size)] ^= (uint8_t)(1u << roll(l, 8));
        FP_TRY(fp__file_write(l->anchors->path, artifact.data, artifact.size, 0644));
        file = artifact.data;
    }
    double ms = 0;
    fp_status status = generate(l, &ms);
    char why[256];
    snprintf(why, sizeof why, "%s", status == FP_OK ? "" : fp_error_detail());
    heal(l);
    fp_engine_validation(l->engine, &after);
    if (f->kind == K_BOTH && file) {
        close_engine(l);
        fp__buf_free(&artifact);
        fp_engine *e;
        fp_engine_options o = {.threads = 1, .context_tokens = 1024};
        FP_TRY(fp_engine_create(l->model, &o, &e));
        fp_event_receipt event;
        fp_status made =
            fp_anchors_compile(e, l->w, (const uint8_t(*)[32])l->anchor, 1, &event, NULL, NULL, NULL);
        fp_engine_destroy(e);
        FP_TRY(made);
    }
    uint64_t failures = after.failures - before.failures;
    l->rollback_ns += after.rollback_ns - before.rollback_ns;
    l->rollbacks += after.rollbacks - before.rollbacks;
    l->out->tokens_replayed += after.tokens_replayed - before.tokens_replayed;
    if ((double)after.rollback_max_ns / 1e6 > l->out->rollback_ms_max)
        l->out->rollback_ms_max = (double)after.rollback_max_ns / 1e6;
    if (status == FP_CANCELLED)
        return status;
    fp_status shown = status == FP_OK ? FP_OK : fp__fail(status, "%s", why);
    judge(l, shown, failures, (double)after.rollback_max_ns / 1e6);
    if (l->engine && (status != FP_OK || f->kind == K_ANCHOR || f->kind == K_TABLE)) {
        fp_anchors_release(l->anchors); /* a fresh copy: failures are counted for its life */
        l->anchors = NULL;
        FP_TRY(load_anchors(l));
    }
    if (levels[l->level].level >= FP_VALIDATE_SCRUB) {
        l->out->page_window_ms = (double)after.page_window_ns / 1e6;
        l->out->weight_window_ms = (double)after.weight_window_ns / 1e6;
        l->out->page_pass_ms = (double)after.page_pass_ns / 1e6;
        l->out->weight_pass_ms = (double)after.weight_pass_ns / 1e6;
    }
    return FP_OK;
}

static fp_status run_worker(lab *l)
{
    double ms = 0;
    close_engine(l);
    FP_TRY(open_engine(l));
    atomic_store(&l->worker_jobs, 0);
    atomic_store(&l->worker_until, roll(l, 12));
    atomic_store(&l->worker_dies, roll(l, 2) != 0);
    fp__hasher_set_fault(l->engine->hasher, worker_fault, l);
    l->f.at = UINT64_MAX; /* no other */
    fp_status status = generate(l, &ms);
    close_engine(l);
    fp_fault_counts c = {.injected = 1, .persistent = 1};
    bool same = status == FP_OK && fp__answer_equal(&l->got, &l->expected) &&
                (!l->pair || fp__answer_equal(&l->got_other, &l->expected_other));
    c.without_effect = same;
    c.wrong = !same;
    add(l, &c);
    if (!same)
        problem(l, status == FP_OK ? "the answer is another one" : fp_error_detail());
    return FP_OK;
}

/* ---- files ---- */

static fp_status flip_file(lab *l, const char *path, fp__buf *original)
{
    original->size = 0;
    FP_TRY(fp__file_read(path, (size_t)1 << 30, original));
    if (original->size == 0)
        return FP_OK;
    size_t at = roll(l, original->size);
    uint8_t bit = (uint8_t)(1u << roll(l, 8));
    original->data[at] ^= bit;
    fp_status status = fp__file_write(path, original->data, original->size, 0644);
    original->data[at] ^= bit;
    return status;
}

/* A refused file is what is wanted; one that is taken must give the same all the same. */
static void judge_file(lab *l, bool refused, bool same)
{
    fp_fault_counts c = {.injected = 1, .persistent = 1, .persistent_checked = 1};
    c.detected = refused;
    c.errors = refused;
    c.missed = !refused && !same;
    c.without_effect = !refused && same;
    c.persistent_checked -= c.without_effect;
    add(l, &c);
    if (c.missed)
        problem(l, "the damaged file was taken");
}

static fp_status run_artifact(lab *l)
{
    fp__buf file = {0};
    close_engine(l);
    FP_TRY(open_engine(l));
    char path[4096];
    snprintf(path, sizeof path, "%s", l->anchors->path);
    fp_anchors_release(l->anchors);
    l->anchors = NULL;
    FP_TRY(flip_file(l, path, &file));
    fp_status status = load_anchors(l);
    judge_file(l, status != FP_OK, false);
    close_engine(l);
    fp_status back = fp__file_write(path, file.data, file.size, 0644);
    fp__buf_free(&file);
    return back;
}

/* An answer that nothing strikes, for what comes after it. The caller destroys *s, whatever the status. */
static fp_status answer_unharmed(lab *l, fp_session **s)
{
    if (!l->engine)
        FP_TRY(open_engine(l));
    l->f.at = UINT64_MAX;
    fp__answer_free(&l->got);
    fp_status status = begin(l, false, s);
    return status == FP_OK ? fp_session_run(*s) : status;
}

static fp_status run_store(lab *l)
{
    fp__buf file = {0};
    fp_session *s = NULL, *again = NULL;
    char path[1200];
    snprintf(path, sizeof path, "%s/session.fpkv", l->o->folder);
    fp_status status = answer_unharmed(l, &s);
    if (status == FP_OK)
        status = fp_session_save(s, l->w, path);
    fp_session_destroy(s);
    if (status == FP_OK)
        status = flip_file(l, path, &file);
    fp__buf_free(&file);
    FP_TRY(status);
    fp_session_options so = {.anchors = l->anchors, .raw = true};
    status = fp_session_load(l->engine, l->w, path, &so, &again);
    judge_file(l, status != FP_OK, false);
    fp_session_destroy(again);
    return FP_OK;
}

/* A file somewhere below a folder, by chance. */
static bool pick_file(lab *l, const char *folder, char *out, size_t size)
{
    char names[64][256];
    size_t n = 0;
    DIR *dir = opendir(folder);
    if (!dir)
        return false;
    for (struct dirent *e; (e = readdir(dir)) && n < 64;)
        if (e->d_name[0] != '.')
            snprintf(names[n++], sizeof names[0], "%s", e->d_name);
    closedir(dir);
    for (size_t tries = 0; n > 0 && tries < 8; tries++) {
        char path[1500];
        struct stat st;
        snprintf(path, sizeof path, "%.1000s/%s", folder, names[roll(l, n)]);
        if (stat(path, &st) != 0)
            continue;
        if (S_ISDIR(st.st_mode) && pick_file(l, path, out, size))
            return true;
        if (S_ISREG(st.st_mode) && st.st_size > 0) {
            snprintf(out, size, "%s", path);
            return true;
        }
    }
    return false;
}

static fp_status run_log(lab *l)
{
    char folder[1200], path[1500];
    fp__buf file = {0};
    snprintf(folder, sizeof folder, "%s/ledger", l->workspace);
    if (!pick_file(l, folder, path, sizeof path))
        return FP_OK;
    fp_workspace_close(l->w);
    l->w = NULL;
    close_engine(l);
    FP_TRY(flip_file(l, path, &file));
    fp_workspace *w = NULL;
    fp_log *log = NULL;
    fp_gate_result gate = {0};
    fp_gate_query query = {.anchor_ids = (const uint8_t(*)[32])l->anchor,
                           .anchors = 1,
                           .model_digest = l->model->digest,
                           .arithmetic_version = FP__ARITHMETIC_VERSION};
    /* every entry, tile and proof, and then the gate as an answer asks it */
    fp_status status = fp_log_open_workspace(l->workspace, NULL, NULL, &log);
    if (status == FP_OK)
        status = fp_log_check_entries(log);
    fp_log_close(log);
    bool refused = status != FP_OK;
    status = fp_workspace_open(l->workspace, NULL, &w);
    if (status == FP_OK)
        status = fp_gate_check(w, &query, &gate);
    bool same = status == FP_OK;
    fp_workspace_close(w);
    judge_file(l, refused || !same, same);
    FP_TRY(fp__file_write(path, file.data, file.size, 0644));
    fp__buf_free(&file);
    return fp_workspace_open(l->workspace, NULL, &l->w);
}

/* The disk is full at any byte of what a receipt writes: an error then, nothing lost, and it can be made when
 * there is room. */
static fp_status run_disk(lab *l)
{
    fp_session *s = NULL;
    struct rlimit old, full;
    uint8_t id[32];
    fp_status status = answer_unharmed(l, &s);
    if (status != FP_OK || getrlimit(RLIMIT_FSIZE, &old) != 0) {
        fp_session_destroy(s);
        return status;
    }
    full = old;
    full.rlim_cur = roll(l, 6000);
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &full);
    status = fp_session_receipt(s, l->w, id, NULL, NULL);
    setrlimit(RLIMIT_FSIZE, &old);
    signal(SIGXFSZ, handler);
    fp_fault_counts c = {.injected = 1, .persistent = 1, .persistent_checked = status != FP_OK};
    c.detected = c.errors = status != FP_OK;
    c.without_effect = status == FP_OK;
    add(l, &c);
    if (status != FP_OK && fp_session_receipt(s, l->w, id, NULL, NULL) != FP_OK)
        problem(l, fp_error_detail());
    fp_session_destroy(s);
    char path[1024];
    fp_audit_result audit = {0};
    FP_TRY(fp_workspace_receipt_path(l->w, id, path, sizeof path));
    fp_audit_options options = {.receipt_path = path};
    FP_TRY(fp_audit(l->w, &options, &audit));
    if (audit.light != FP_VERDICT_VALID_LIGHT)
        problem(l, audit.detail);
    return FP_OK;
}

/* ---- all of them ---- */

static fp_status expect_answer(lab *l)
{
    l->level = 0;
    l->release = FP_RELEASE_OPTIMISTIC;
    l->f = (fault){.at = UINT64_MAX};
    FP_TRY(open_engine(l));
    FP_TRY(generate(l, &l->expected_ms));
    l->hooks = l->calls;
    double ms;
    l->pair = true;
    FP_TRY(generate(l, &ms));
    l->pair = false;
    l->expected = l->got;
    l->expected_other = l->got_other;
    l->got = l->got_other = (fp__fault_answer){0};
    close_engine(l);
    size_t tokens = l->expected.ids.size / sizeof(uint32_t);
    l->out->token_ms = l->expected_ms / (double)tokens;
    return FP_OK;
}

/* Pages without a fault: no check may find anything. */
static fp_status check_clean(lab *l)
{
    fp_session *s;
    l->level = 1;
    l->release = FP_RELEASE_GATED;
    l->f = (fault){.at = UINT64_MAX};
    FP_TRY(open_engine(l));
    fp__answer_free(&l->got);
    fp_status status = begin(l, false, &s);
    if (status == FP_OK)
        status = fp_session_run(s);
    fp_validation_status v = {0};
    for (size_t round = 0; status == FP_OK && v.pages_checked < l->o->clean_pages; round++) {
        l->out->false_alarms += fp__validation_look(s, round % 16 == 0);
        fp_engine_validation(l->engine, &v);
        if (fp__engine_cancelled(l->engine) || (l->o->cancel && *l->o->cancel))
            status = fp__fail(FP_CANCELLED, "interrupted");
    }
    fp_engine_validation(l->engine, &v);
    l->out->clean_pages = v.pages_checked;
    l->out->false_alarms += v.failures;
    fp_session_destroy(s);
    close_engine(l);
    if (l->out->false_alarms)
        problem(l, "a check found a fault where there was none");
    return status;
}

/* In 1,000: what a fault is. */
static kind pick_kind(lab *l)
{
    static const uint16_t shares[FP_FAULT_KINDS] = {140, 140, 120, 90, 120, 15, 110, 60,
                                                    60,  40,  30,  25, 20,  15, 10,  5};
    uint64_t at = roll(l, 1000), k = 0;
    while (at >= shares[k])
        at -= shares[k++];
    return (kind)k;
}

static fp_status run_one(lab *l)
{
    fault *f = &l->f;
    *f = (fault){.kind = pick_kind(l)};
    uint64_t how = roll(l, 100);
    f->span = how < 70 ? STAYS : how < 96 ? PASSES : RETURNS;
    bool in_context = f->kind <= K_SCALE,
         once = f->kind >= K_BOTH && f->kind != K_WEIGHTS && f->kind != K_ROPE;
    if (once ||
        (f->span == RETURNS && (!in_context || (l->level == 0 && l->release == FP_RELEASE_OPTIMISTIC))))
        f->span = STAYS;
    l->pair = roll(l, 4) == 0;
    switch (f->kind) {
    case K_WORKER:
        return run_worker(l);
    case K_ARTIFACT:
        return run_artifact(l);
    case K_STORE:
        return run_store(l);
    case K_LOG:
        return run_log(l);
    case K_DISK:
        return run_disk(l);
    default:
        return run_memory(l);
    }
}

static fp_status run_all(lab *l)
{
    size_t cells = FP_FAULT_LEVELS * FP_FAULT_RELEASES;
    for (size_t cell = 0; cell < cells; cell++) {
        l->level = cell / FP_FAULT_RELEASES;
        l->release = cell % FP_FAULT_RELEASES;
        uint64_t end = (uint64_t)l->o->faults * (cell + 1) / cells;
        while (l->out->all.injected < end) {
            l->number++;
            FP_TRY(run_one(l));
            if (l->o->cancel && *l->o->cancel)
                return fp__fail(FP_CANCELLED, "interrupted after %llu faults",
                                (unsigned long long)l->out->all.injected);
            if (l->o->progress)
                l->o->progress(l->o->progress_context, (double)l->out->all.injected / (double)l->o->faults);
        }
        close_engine(l);
    }
    return FP_OK;
}

fp_status fp_faults_run(const fp_model *model, const fp_fault_options *o, fp_fault_result *out)
{
    lab *l = calloc(1, sizeof *l);
    if (!l)
        return fp__fail(FP_NO_MEMORY, "faults: no memory");
    *out = (fp_fault_result){0};
    *l = (lab){.model = model, .o = o, .out = out, .random = o->seed * 2 + 1};
    fp_status status =
        o->tokens > MAX_TOKENS ? fp__fail(FP_USAGE, "faults: at most %d tokens", MAX_TOKENS) : set_up(l);
    if (status == FP_OK)
        status = expect_answer(l);
    if (status == FP_OK && o->clean_pages)
        status = check_clean(l);
    if (status == FP_OK)
        status = run_all(l);
    char why[512];
    snprintf(why, sizeof why, "%s", status == FP_OK ? "" : fp_error_detail());
    close_engine(l);
    fp_workspace_close(l->w);
    fp__fault_answer *all[] = {&l->expected, &l->expected_other, &l->got, &l->got_other};
    for (size_t i = 0; i < 4; i++)
        fp__answer_free(all[i]);
    out->rollback_ms_mean = l->rollbacks ? (double)l->rollback_ns / 1e6 / (double)l->rollbacks : 0;
    for (size_t i = 0; i < FP_FAULT_KINDS; i++)
        fp__fault_counts_finish(&out->kind[i]);
    for (size_t i = 0; i < FP_FAULT_LEVELS * FP_FAULT_RELEASES; i++)
        fp__fault_counts_finish(&out->cell[i / FP_FAULT_RELEASES][i % FP_FAULT_RELEASES]);
    fp__fault_counts_finish(&out->all);
    free(l);
    return status == FP_OK ? FP_OK : fp__fail(status, "%s", why);
}
