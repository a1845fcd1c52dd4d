/* Attention against its definition, bit for bit: every function of every table this machine can run, and the
 * driver with every division of the work, against a scalar driver made of fp__exact_attend and fp__exact_mix.
 * Inputs are painted (extremes, zero scales, ties, gaps that underflow) besides random ones. */
#include "attention_paint.h"
#include "core/arena.h"
#include "core/team.h"
#include "kernel/attention.h"

#include <stdio.h>
#include <stdlib.h>

static int failures;

#define CHECK(cond, ...)                                                                                     \
    do {                                                                                                     \
        if (!(cond) && ++failures <= 20) {                                                                   \
            printf("%s:%d: ", __FILE__, __LINE__);                                                           \
            printf(__VA_ARGS__);                                                                             \
            printf("\n");                                                                                    \
        }                                                                                                    \
    } while (0)

static void *allocate(size_t bytes)
{
    void *p = fp__mem_alloc(bytes);
    FP_CHECK(p);
    return p;
}

static size_t stride_of(size_t d)
{
    return (d + 31) / 32 * 32;
}

static void paint_queries(int paint, size_t rows, size_t d, int16_t *q16, float *s_q)
{
    memset(q16, 0, rows * stride_of(d) * sizeof *q16);
    for (size_t r = 0; r < rows; r++)
        paint_query(paint, r, d, q16 + r * stride_of(d), &s_q[r]);
}

/* ---- spans ------------------------------------------------------------------------------------------------
 */

enum { SPAN_ROWS_MAX = 101, GUARD = 16, CHUNK_MAX = 100 };

struct span_case {
    size_t d, rows, pages;
    int16_t *q16;
    float s_q[SPAN_ROWS_MAX];
    uint8_t *slabs[4];
    uint8_t visible[4 * SPAN_ROWS_MAX];
    float *m, *l, *o, *got; // expected; got: [m | l | o | guard]
};

static size_t paint_visible(size_t row)
{
    static const uint8_t edges[] = {0, 1, 2, 3, 15, 16, 17, 31, 32, 33, 61, 62, 63, 64, 64, 64, 64, 64};
    return row % 3 == 2 ? random_below(65) : edges[random_below(sizeof edges)];
}

static void expect_span(struct span_case *c)
{
    fp__attn_state state;
    fp__page_partial partial;
    for (size_t r = 0; r < c->rows; r++) {
        fp__exact_state_init(&state, c->d);
        for (size_t p = 0; p < c->pages; p++)
            if (c->visible[p * c->rows + r] > 0) {
                fp__exact_page_partial(c->q16 + r * stride_of(c->d), c->s_q[r], c->d, c->slabs[p],
                                       c->visible[p * c->rows + r], &partial);
                fp__exact_merge_page(&state, &partial, c->d);
            }
        c->m[r] = state.m;
        c->l[r] = state.l;
        memcpy(c->o + r * c->d, state.o, c->d * sizeof *state.o);
    }
}

static void check_span(const struct span_case *c, const fp__kernel_ops *ops, int paint)
{
    size_t floats = c->rows * (c->d + 2);
    memset(c->got, 0xa5, (floats + GUARD) * sizeof *c->got);
    fp__attn_states out = {.m = c->got, .l = c->got + c->rows, .o = c->got + 2 * c->rows};
    fp__attn_rows q = {.rows = c->rows,
                       .d = c->d,
                       .stride = stride_of(c->d),
                       .q16 = c->q16,
                       .s_q = c->s_q,
                       .next = random_below(2) ? c->slabs[0] : NULL};
    ops->attn_span(&q, (const uint8_t *const *)c->slabs, c->visible, c->pages, out);
    CHECK(memcmp(out.m, c->m, c->rows * 4) == 0, "%s m: d %zu rows %zu pages %zu paint %d", ops->name, c->d,
          c->rows, c->pages, paint);
    CHECK(memcmp(out.l, c->l, c->rows * 4) == 0, "%s l: d %zu rows %zu pages %zu paint %d", ops->name, c->d,
          c->rows, c->pages, paint);
    CHECK(memcmp(out.o, c->o, c->rows * c->d * 4) == 0, "%s o: d %zu rows %zu pages %zu paint %d", ops->name,
          c->d, c->rows, c->pages, paint);
    const uint8_t *guard = (const uint8_t *)(c->got + floats);
    for (size_t i = 0; i < GUARD * sizeof *c->got; i++)
        CHECK(guard[i] == 0xa5, "%s wrote past its output: d %zu rows %zu", ops->name, c->d, c->rows);
}

static void check_spans(size_t d, size_t rows, int paint)
{
    struct span_case c = {.d = d, .rows = rows, .pages = 1 + random_below(4)};
    size_t q_bytes = rows * stride_of(d) * sizeof *c.q16,
           state_bytes = (rows * (d + 2) + GUARD) * sizeof *c.m;
    c.q16 = allocate(q_bytes);
    c.m = allocate(state_bytes);
    c.l = c.m + rows;
    c.o = c.l + rows;
    c.got = allocate(state_bytes);
    paint_queries(paint, rows, d, c.q16, c.s_q);
    for (size_t p = 0; p < c.pages; p++) {
        c.slabs[p] = allocate(fp__slab_bytes(d));
        paint_slab(paint == GAPS && p % 2 ? RANDOM : paint, d, c.slabs[p]);
        for (size_t r = 0; r < rows; r++)
            c.visible[p * rows + r] = (uint8_t)(rows % 2 ? 64 : paint_visible(r));
    }
    expect_span(&c);
    const fp__kernel_ops *ops;
    for (size_t i = rows <= 2 ? 0 : 1; (ops = fp__kernel_ops_at(i)) != NULL;
         i++) /* "ref" is the definition */
        check_span(&c, ops, paint);
    for (size_t p = 0; p < c.pages; p++)
        fp__mem_free(c.slabs[p], fp__slab_bytes(d));
    fp__mem_free(c.q16, q_bytes);
    fp__mem_free(c.m, state_bytes);
    fp__mem_free(c.got, state_bytes);
}

/* ---- queries and K/V
 * ---------------------------------------------------------------------------------------- */

static void paint_vector(size_t d, float *x)
{
    static const float ranges[] = {1.0f, 300.0f, 0x1p-60f, 0x1p-66f, 0x1p46f, 0x1p49f, 0.0f, 0x1p-140f};
    float range = ranges[random_below(sizeof ranges / sizeof *ranges)];
    for (size_t j = 0; j < d; j++)
        x[j] = random_float(range);
    switch (random_below(6)) {
    case 0:
        x[random_below(d)] *= 1000.0f;
        break;
    case 1:
        x[random_below(d)] = -0.0f;
        break;
    case 2:
        x[random_below(d)] = random_below(2) ? NAN : -INFINITY;
        break;
    default:
        break;
    }
}

static void check_query(const fp__kernel_ops *ops, size_t d)
{
    enum { HEADS = 5 };
    static float x[HEADS * FP__HEAD_DIM_MAX];
    _Alignas(64) static int16_t want[HEADS * FP__HEAD_DIM_MAX], got[HEADS * FP__HEAD_DIM_MAX];
    float s_want[HEADS], s_got[HEADS];
    uint8_t bad_want = 0, bad_got = 0;
    memset(want, 0, sizeof want);
    memset(got, 0xa5, sizeof got);
    memset(s_got, 0xa5, sizeof s_got);
    for (size_t h = 0; h < HEADS; h++) {
        paint_vector(d, x + h * d);
        if (!fp__exact_query(x + h * d, d, want + h * stride_of(d), &s_want[h]))
            bad_want = 1;
    }
    ops->query(x, HEADS, d, got, stride_of(d), s_got, &bad_got);
    CHECK(memcmp(want, got, HEADS * stride_of(d) * sizeof *got) == 0, "%s query: d %zu", ops->name, d);
    CHECK(memcmp(s_want, s_got, sizeof s_got) == 0, "%s query scale: d %zu", ops->name, d);
    CHECK(bad_want == bad_got, "%s query: d %zu: bad %d, not %d", ops->name, d, bad_got, bad_want);
}

static void check_kv_write(const fp__kernel_ops *ops, size_t d)
{
    size_t bytes = fp__slab_bytes(d);
    uint8_t *want = allocate(bytes), *got = allocate(bytes);
    for (size_t i = 0; i < bytes; i++)
        want[i] = got[i] = (uint8_t)random_bits();
    float k[FP__HEAD_DIM_MAX], v[FP__HEAD_DIM_MAX];
    for (size_t t = 0; t < 64; t++) {
        size_t slot = (t * 37 + 5) % 64;
        uint8_t bad = 0;
        paint_vector(d, k);
        paint_vector(d, v);
        bool ok = fp__exact_kv_write(k, v, d, want, slot);
        ops->kv_write(k, v, d, got, slot, &bad);
        CHECK(bad == !ok, "%s kv_write: d %zu: bad %d", ops->name, d, bad);
        CHECK(memcmp(want, got, bytes) == 0, "%s kv_write: d %zu slot %zu", ops->name, d, slot);
    }
    fp__mem_free(want, bytes);
    fp__mem_free(got, bytes);
}

/* ---- merge and mix
 * ------------------------------------------------------------------------------------------ */

static void paint_state(fp__attn_state *s, size_t d, bool empty)
{
    fp__exact_state_init(s, d);
    if (empty)
        return;
    s->m = random_below(4) == 0 ? 0.0f : random_float(random_below(2) ? 3.0f : 400.0f);
    s->l = 65535.0f + (float)random_below(1000000);
    for (size_t j = 0; j < d; j++)
        s->o[j] = random_below(8) == 0 ? -0.0f : random_float(random_below(2) ? 1e6f : 0x1p-125f);
}

static fp__attn_states states_at(float *at, size_t rows)
{
    return (fp__attn_states){.m = at, .l = at + rows, .o = at + 2 * rows};
}

static void put_state(fp__attn_states s, size_t row, size_t d, const fp__attn_state *from)
{
    s.m[row] = from->m;
    s.l[row] = from->l;
    memcpy(s.o + row * d, from->o, d * sizeof *from->o);
}

static void check_merge(const fp__kernel_ops *ops, size_t d, size_t rows)
{
    size_t bytes = rows * (d + 2) * sizeof(float);
    float *memory[3];
    fp__attn_states s[3]; /* expected, into, from */
    for (size_t i = 0; i < 3; i++) {
        memory[i] = allocate(bytes);
        s[i] = states_at(memory[i], rows);
    }
    for (size_t r = 0; r < rows; r++) {
        fp__attn_state into, from;
        paint_state(&into, d, random_below(4) == 0);
        paint_state(&from, d, random_below(4) == 0);
        put_state(s[1], r, d, &into);
        put_state(s[2], r, d, &from);
        fp__exact_merge_state(&into, &from, d);
        put_state(s[0], r, d, &into);
    }
    ops->attn_merge(rows, d, s[1], s[2]);
    CHECK(memcmp(memory[0], memory[1], bytes) == 0, "%s merge: d %zu rows %zu", ops->name, d, rows);
    for (size_t i = 0; i < 3; i++)
        fp__mem_free(memory[i], bytes);
}

static void check_mix(const fp__kernel_ops *ops, size_t d)
{
    static const uint32_t gammas[] = {0, 1, 32768, 65535, 65536};
    float want[FP__HEAD_DIM_MAX], got[FP__HEAD_DIM_MAX + 1];
    for (size_t i = 0; i < 3 * 5 * 3; i++) {
        fp__injection_mode mode = (fp__injection_mode)(i % 3);
        uint32_t g = gammas[i / 3 % 5];
        fp__attn_state a, c;
        paint_state(&a, d, i / 15 == 1);
        paint_state(&c, d, i / 15 == 2);
        memset(got, 0xa5, sizeof got);
        float alpha = fp__exact_mix(&a, &c, mode, g, d, want);
        float x = ops->attn_mix((fp__attn_states){&a.m, &a.l, a.o}, (fp__attn_states){&c.m, &c.l, c.o}, mode,
                                g, d, got);
        CHECK(memcmp(&alpha, &x, 4) == 0, "%s mix: share: d %zu mode %d g %u", ops->name, d, (int)mode, g);
        CHECK(memcmp(want, got, d * 4) == 0, "%s mix: d %zu mode %d g %u", ops->name, d, (int)mode, g);
        CHECK(fp__float_bits(got[d]) == 0xa5a5a5a5u, "%s mix wrote past d %zu", ops->name, d);
    }
}

static void check_tables(void)
{
    static const size_t sizes[] = {64, 128, 2, 6, 32, 70, 80, 96, 160, 256, 512};
    const fp__kernel_ops *ops;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        size_t d = sizes[i];
        for (size_t rows = 1; rows <= (d <= 96 ? 20 : 5); rows++)
            for (int paint = 0; paint < PAINTS; paint++)
                if (rows <= 3 || (rows + (size_t)paint) % 4 == 0)
                    check_spans(d, rows, paint);
        check_spans(d, d <= 96 ? 48 : 16, RANDOM);
        check_spans(d, d <= 96 ? SPAN_ROWS_MAX : 17, RANDOM);
        for (size_t t = 0; (ops = fp__kernel_ops_at(t)) != NULL; t++) {
            for (size_t n = 0; n < 40; n++)
                check_query(ops, d);
            check_kv_write(ops, d);
            for (size_t rows = 1; rows <= 35; rows++)
                check_merge(ops, d, rows);
            check_mix(ops, d);
        }
    }
}

/* ---- the driver
 * ----------------------------------------------------------------------------------------------- */

enum {
    L = 2,
    LAYER = 1, /* the one that is run: the other shows that slabs are found */
    HK = 3,
    G = 2,
    H = HK * G,
    D = 32,
    STRIDE = 32,
    TOKENS = 1100,
    CONTEXT_PAGES = (TOKENS + 63) / 64,
    ANCHORS = 5,
    ANCHOR_PAGES = 4,
    SEQUENCES = 3,
};
static const size_t anchor_tokens[ANCHORS] = {0, 1, 64, 70, 130};
static const uint8_t anchor_filled[ANCHORS][ANCHOR_PAGES] = {{0}, {1}, {64}, {64, 6}, {37, 64, 28, 1}};
static const size_t anchor_pages[ANCHORS] = {0, 1, 1, 2, 4};
static const uint32_t gammas[L * H] = {9, 9, 9, 9, 9, 9, 0, 1, 6554, 32768, 65535, 65536};

/* A world of pages and queries, and the expected state of each row and segment. */
static struct {
    uint8_t *pool;
    const uint8_t *context[CONTEXT_PAGES];
    const uint8_t *anchor[ANCHORS][ANCHOR_PAGES];
    int16_t *q16; // [TOKENS][H][STRIDE]
    float s_q[TOKENS * H];
    fp__attn_state *context_state;         // [TOKENS][H]
    fp__attn_state *anchor_state[ANCHORS]; // [TOKENS][H]
    /* an anchor that is being compiled behind the last of the above: full pages, then causal ones */
    const uint8_t *compiled[ANCHOR_PAGES + CONTEXT_PAGES];
    fp__attn_state *compiled_state; // [TOKENS][H]
} world;

static const uint8_t *slab_of(const uint8_t *group, size_t head)
{
    return group + (LAYER * HK + head) * fp__slab_bytes(D);
}

static void expect_segment(const uint8_t *const *groups, const uint8_t *visible, size_t pages, size_t token,
                           size_t head, fp__attn_state *out)
{
    const uint8_t *slabs[CONTEXT_PAGES + ANCHOR_PAGES];
    for (size_t p = 0; p < pages; p++)
        slabs[p] = slab_of(groups[p], head / G);
    fp__exact_attend(world.q16 + (token * H + head) * STRIDE, world.s_q[token * H + head], D, slabs, visible,
                     pages, out);
}

static void make_expected(void)
{
    for (size_t t = 0; t < TOKENS; t++)
        for (size_t h = 0; h < H; h++) {
            uint8_t visible[ANCHOR_PAGES + CONTEXT_PAGES], *causal = visible + ANCHOR_PAGES;
            memcpy(visible, anchor_filled[ANCHORS - 1], ANCHOR_PAGES);
            for (size_t p = 0; p < CONTEXT_PAGES; p++)
                causal[p] = (uint8_t)(t + 1 <= p * 64 ? 0 : t + 1 - p * 64 < 64 ? t + 1 - p * 64 : 64);
            expect_segment(world.context, causal, CONTEXT_PAGES, t, h, &world.context_state[t * H + h]);
            expect_segment(world.compiled, visible, ANCHOR_PAGES + CONTEXT_PAGES, t, h,
                           &world.compiled_state[t * H + h]);
            for (size_t a = 0; a < ANCHORS; a++)
                expect_segment(world.anchor[a], anchor_filled[a], anchor_pages[a], t, h,
                               &world.anchor_state[a][t * H + h]);
        }
}

static void make_world(void)
{
    size_t pages = CONTEXT_PAGES + ANCHORS * ANCHOR_PAGES, group = L * HK * fp__slab_bytes(D);
    world.pool = allocate(pages * group);
    world.q16 = allocate(TOKENS * H * STRIDE * sizeof *world.q16);
    world.context_state = allocate(TOKENS * H * sizeof *world.context_state);
    world.compiled_state = allocate(TOKENS * H * sizeof *world.compiled_state);
    for (size_t i = 0; i < pages * L * HK; i++)
        paint_slab(RANDOM, D, world.pool + i * fp__slab_bytes(D));
    /* pages lie in the pool in a scattered order (17 and the number of pages have no common divisor) */
    for (size_t p = 0; p < pages; p++) {
        const uint8_t *at = world.pool + (p * 17 + 3) % pages * group;
        if (p < CONTEXT_PAGES)
            world.context[p] = at;
        else
            world.anchor[(p - CONTEXT_PAGES) / ANCHOR_PAGES][(p - CONTEXT_PAGES) % ANCHOR_PAGES] = at;
    }
    paint_queries(RANDOM, TOKENS * H, D, world.q16, world.s_q);
    for (size_t a = 0; a < ANCHORS; a++)
        world.anchor_state[a] = allocate(TOKENS * H * sizeof(fp__attn_state));
    for (size_t p = 0; p < ANCHOR_PAGES; p++)
        world.compiled[p] = world.anchor[ANCHORS - 1][p];
    memcpy(world.compiled + ANCHOR_PAGES, world.context, sizeof world.context);
    make_expected();
}

/* How one run of the driver is cut up. */
struct run {
    const fp__kernel_ops *ops;
    fp__team *team;
    fp__attn_plan *plan;
    size_t chunk; /* query tokens of a sequence per step */
    fp__injection_mode mode;
    bool compile;              /* the tokens stand in the anchor segment; there is no context */
    size_t n;                  /* sequences */
    size_t anchors[SEQUENCES]; /* of each sequence */
    /* one step */
    fp__attn_sequence sequences[SEQUENCES];
    size_t tokens;
    int16_t *q16;             // [tokens][H][STRIDE]
    float *s_q, *out, *alpha; // [tokens][H], [tokens][H·D], [tokens][H]
};

static void run_thread(void *arg, size_t thread, size_t threads)
{
    struct run *r = arg;
    (void)threads;
    fp__attn_run(r->plan, r->team, thread, LAYER, r->q16, r->s_q, STRIDE, r->out, r->alpha);
}

static void check_rows(const struct run *r, const fp__attn_sequence *s, size_t done, size_t anchor)
{
    fp__attn_state empty;
    fp__exact_state_init(&empty, D);
    for (size_t i = 0; i < s->tokens; i++)
        for (size_t h = 0; h < H; h++) {
            float want[D];
            size_t row = (done + i) * H + h, at = (s->first_token + i) * H + h;
            const fp__attn_state *a =
                r->compile ? &world.compiled_state[row] : &world.anchor_state[anchor][row];
            const fp__attn_state *c = r->compile ? &empty : &world.context_state[row];
            float alpha = fp__exact_mix(a, c, r->mode, s->g ? s->g[LAYER * H + h] : 0, D, want);
            CHECK(memcmp(want, r->out + at * D, sizeof want) == 0,
                  "%s driver: %zu threads, chunks of %zu, anchor of %zu tokens: token %zu head %zu",
                  r->ops->name, fp__team_threads(r->team), r->chunk, anchor_tokens[anchor], done + i, h);
            CHECK(memcmp(&alpha, r->alpha + at, 4) == 0, "%s driver: anchor share of token %zu head %zu",
                  r->ops->name, done + i, h);
        }
}

/* Puts `tokens` tokens of a sequence that has consumed `done` into slot n of the step. */
static void set_sequence(struct run *r, size_t n, size_t sequence, size_t done, size_t tokens)
{
    size_t a = r->anchors[sequence], context_pages = (done + tokens + 63) / 64;
    fp__attn_segment anchor = {world.anchor[a], anchor_filled[a], anchor_pages[a], anchor_pages[a], 0};
    fp__attn_segment context = {world.context, NULL, context_pages, 0, done};
    fp__attn_segment none = {NULL, NULL, 0, 0, 0};
    fp__attn_segment compiled = {world.compiled, anchor_filled[ANCHORS - 1], ANCHOR_PAGES + context_pages,
                                 ANCHOR_PAGES, done};
    r->sequences[n] = (fp__attn_sequence){.first_token = r->tokens,
                                          .tokens = tokens,
                                          .anchor = r->compile ? compiled : anchor,
                                          .context = r->compile ? none : context,
                                          .mode = r->mode,
                                          .g = sequence == 1 ? NULL : gammas};
    memcpy(r->q16 + r->tokens * H * STRIDE, world.q16 + done * H * STRIDE,
           tokens * H * STRIDE * sizeof *r->q16);
    memcpy(r->s_q + r->tokens * H, world.s_q + done * H, tokens * H * sizeof *r->s_q);
    r->tokens += tokens;
}

/* Runs all sequences from their starts to `total` tokens. Sequence 2 goes token by token, so that a step
 * holds different depths and sizes. */
static void run_through(struct run *r, const size_t start[SEQUENCES], size_t total)
{
    size_t done[SEQUENCES], which[SEQUENCES];
    memcpy(done, start, sizeof done);
    for (;;) {
        size_t n = 0;
        r->tokens = 0;
        for (size_t s = 0; s < r->n; s++) {
            size_t step = s == 2 ? 1 : r->chunk, left = total - done[s];
            if (left == 0)
                continue;
            set_sequence(r, n, s, done[s], step < left ? step : left);
            which[n++] = s;
        }
        if (n == 0)
            return;
        memset(r->out, 0xa5, r->tokens * H * D * sizeof *r->out);
        memset(r->alpha, 0xa5, r->tokens * H * sizeof *r->alpha);
        fp_status status = fp__attn_plan_step(r->plan, r->sequences, n);
        CHECK(status == FP_OK, "plan_step: %s", fp_error_detail());
        if (status != FP_OK)
            return;
        fp__team_run(r->team, run_thread, r);
        for (size_t i = 0; i < n; i++) {
            check_rows(r, &r->sequences[i], done[which[i]], r->anchors[which[i]]);
            done[which[i]] += r->sequences[i].tokens;
        }
    }
}

/* One sequence from its start (token by token only around the borders of pages, spans and chunks), one whose
 * tokens are an anchor that is being compiled, and several in a batch. */
static void check_cuts(struct run *r, bool brief)
{
    static const size_t borders[][2] = {{0, 70}, {250, 260}, {1018, 1030}, {1095, TOKENS}};
    r->n = 1;
    r->compile = false;
    for (size_t i = 0; i < sizeof borders / sizeof *borders; i++)
        if (r->chunk == 1 && !(brief && i > 1))
            run_through(r, (size_t[SEQUENCES]){borders[i][0]}, borders[i][1]);
    if (r->chunk > 1)
        run_through(r, (size_t[SEQUENCES]){0}, brief ? 300 : TOKENS);
    r->compile = true;
    run_through(r, (size_t[SEQUENCES]){200}, r->chunk == 1 || brief ? 230 : 420);
    r->compile = false;
    r->n = SEQUENCES;
    if (!brief)
        run_through(r, (size_t[SEQUENCES]){r->chunk == 1 ? 1010 : 700, 1000, 1015}, 1040);
}

static void check_driver(const fp__kernel_ops *ops, size_t threads, bool brief)
{
    static const size_t chunks[] = {1, 7, 64, CHUNK_MAX};
    static const fp__attn_geometry geometry = {L, H, HK, D};
    size_t rows = SEQUENCES * CHUNK_MAX;
    struct run r = {.ops = ops};
    FP_CHECK(fp__team_create(threads, &r.team) == FP_OK);
    FP_CHECK(fp__attn_plan_create(ops, &geometry, threads, rows, SEQUENCES, ANCHOR_PAGES + CONTEXT_PAGES,
                                  &r.plan) == FP_OK);
    r.q16 = allocate(rows * H * STRIDE * sizeof *r.q16);
    r.s_q = allocate(rows * H * sizeof *r.s_q);
    r.out = allocate(rows * H * D * sizeof *r.out);
    r.alpha = allocate(rows * H * sizeof *r.alpha);
    for (size_t i = 0; i < 4 * ANCHORS; i++) {
        r.chunk = chunks[i / ANCHORS];
        r.mode = (fp__injection_mode)((i + threads) % 3);
        for (size_t s = 0; s < SEQUENCES; s++)
            r.anchors[s] = (i + s) % ANCHORS;
        if ((i + threads) % (brief ? 7 : 3) == 0)
            check_cuts(&r, brief);
    }
    fp__attn_plan_destroy(r.plan);
    fp__team_destroy(r.team);
    fp__mem_free(r.q16, rows * H * STRIDE * sizeof *r.q16);
    fp__mem_free(r.s_q, rows * H * sizeof *r.s_q);
    fp__mem_free(r.out, rows * H * D * sizeof *r.out);
    fp__mem_free(r.alpha, rows * H * sizeof *r.alpha);
}

static void check_refusals(void)
{
    fp__attn_plan *plan;
    const fp__kernel_ops *ops = fp__kernel_ops_at(0);
    static const fp__attn_geometry bad[] = {{1, 5, 2, 64}, {1, 4, 2, 65}, {1, 4, 2, 514}, {1, 4, 0, 64}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK(fp__attn_plan_create(ops, &bad[i], 1, 1, 1, 1, &plan) == FP_USAGE, "geometry %zu", i);
    FP_CHECK(fp__attn_plan_create(ops, &(fp__attn_geometry){L, H, HK, D}, 1, 8, 1, 2, &plan) == FP_OK);
    static const uint8_t zero_filled[1] = {0};
    const struct {
        fp__attn_sequence sequence;
        fp_status status;
    } cases[] = {
        {{.tokens = 1}, FP_INTERNAL},                                             /* nothing to see */
        {{.tokens = 1, .context = {world.context, NULL, 1, 0, 64}}, FP_INTERNAL}, /* a page is missing */
        {{.tokens = 1, .context = {world.context, NULL, 1, 2, 0}}, FP_INTERNAL},  /* no such page */
        {{.tokens = 1, .context = {world.context, zero_filled, 1, 1, 0}}, FP_INTERNAL}, /* empty page */
        {{.tokens = 1, .context = {world.context, NULL, 3, 0, 128}}, FP_LIMIT},
        {{.tokens = 9, .context = {world.context, NULL, 1, 0, 0}}, FP_LIMIT},
        {{.tokens = 8, .context = {world.context, NULL, 1, 0, 0}}, FP_OK},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        CHECK(fp__attn_plan_step(plan, &cases[i].sequence, 1) == cases[i].status, "step %zu", i);
    fp__attn_plan_destroy(plan);
}

int main(void)
{
    const fp__kernel_ops *ops;
    check_tables();
    make_world();
    check_refusals();
    for (size_t i = 0; (ops = fp__kernel_ops_at(i)) != NULL; i++)
        for (size_t threads = 1; threads <= 3; threads++)
            check_driver(ops, threads, i == 0);
    if (failures)
        printf("%d differences\n", failures);
    return failures ? 1 : 0;
}
