/* The driver of attention: which thread does which span of which rows. Two forms, chosen per step:
 *
 *  - whole: a unit is (sequence, KV head, tile of query tokens); one thread takes all of its spans. Units are
 *    handed out by a counter, dearest first. Used where there are many units (prefill, batches).
 *  - split: the spans of all units stand in one row, which is cut into one stretch of equal cost per thread;
 *    after a barrier the states are merged in canonical order, split over the rows. Used where there are few
 *    units (decode), so that three KV heads keep two threads equally busy.
 *
 * For one row the order of pages, spans and chunks is the same in both (arithmetic §6), so the bits are. */
#include "kernel/attention.h"

#include "core/arena.h"

#include <stdatomic.h>
#include <stdlib.h>

enum {
    TILE_ROWS = 48, /* rows that share one load of a page; their states and the page stay in L1/L2 */
    CHUNK_PAGES = FP__SPAN_PAGES * FP__CHUNK_SPANS,
    SPLIT_GRAIN = 8,       /* whole units are fine if the largest is below 1/8 of a thread's share */
    PAGE_COST = 4,         /* cost of a page in units of half a row's cost: its load and transposition */
    EXTRA_FLOATS = 1 << 18 /* split scratch per thread beyond what decoding needs (1 MiB) */
};

enum { ANCHOR, CONTEXT };

/* A KV head and a tile of query tokens of one sequence. */
struct unit {
    const fp__attn_sequence *sequence;
    size_t kv_head;
    size_t first, tokens;       /* query tokens of the sequence: [first, first + tokens) */
    size_t pages[2];            /* pages that any of its rows sees, per segment */
    size_t first_piece, pieces; /* split form: its pieces, anchor first, in canonical order */
};

/* Consecutive spans of one chunk of one unit that one thread does. */
struct piece {
    uint32_t unit;
    uint8_t segment;
    bool starts_chunk; /* holds the chunk's state over its leading spans; else the state of one span */
    size_t span, spans;
    size_t state; /* offset into the split scratch, in floats */
};

/* One cache line per layer: units handed out so far. */
struct counter {
    _Alignas(64) atomic_size_t taken;
};

/* Per thread: a tile's queries, what its rows see of a span, and states. */
struct scratch {
    int16_t *q16;     // [tile_rows][stride]
    float *s_q;       // [tile_rows]
    uint8_t *visible; // [4][tile_rows]
    fp__attn_states span, chunk, segment[2];
};

struct fp__attn_plan {
    const fp__kernel_ops *ops;
    fp__attn_geometry geometry;
    size_t threads, group, stride, tile_tokens, tile_rows;
    size_t max_tokens, max_sequences, max_pages;
    struct unit *units; // [max_units]
    size_t max_units, n_units;
    bool split;
    struct piece *pieces; // [max_pieces]
    size_t max_pieces, n_pieces;
    size_t *first_piece; // [threads + 1] split form: stretch of each thread
    float *states;       // [max_states] split form
    size_t max_states, n_states;
    struct counter *counters; // [layers] whole form
    struct scratch *scratch;  // [threads]
    uint8_t *memory;          // the scratch of all threads
    size_t memory_bytes;
};

static size_t round_up(size_t n, size_t unit)
{
    return (n + unit - 1) / unit * unit;
}

/* Floats of the states of `rows` rows; each part starts at a 64-byte line. */
static size_t state_floats(size_t rows, size_t d)
{
    return 2 * round_up(rows, 16) + round_up(rows * d, 16);
}

static fp__attn_states state_at(float *at, size_t rows)
{
    size_t lane = round_up(rows, 16);
    return (fp__attn_states){.m = at, .l = at + lane, .o = at + 2 * lane};
}

static fp__attn_states state_rows(fp__attn_states s, size_t row, size_t d)
{
    return (fp__attn_states){.m = s.m + row, .l = s.l + row, .o = s.o + row * d};
}

static void state_clear(fp__attn_states s, size_t rows, size_t d)
{
    for (size_t r = 0; r < rows; r++)
        s.m[r] = -INFINITY;
    memset(s.l, 0, rows * sizeof *s.l);
    memset(s.o, 0, rows * d * sizeof *s.o);
}

/* ---- plan ---------------------------------------------------------------------------------------------- */

static size_t thread_bytes(const fp__attn_plan *plan)
{
    size_t rows = plan->tile_rows;
    return round_up(rows * plan->stride * sizeof(int16_t), 128) + round_up(rows * sizeof(float), 128) +
           round_up(FP__SPAN_PAGES * rows, 128) +
           4 * round_up(state_floats(rows, plan->geometry.d) * sizeof(float), 128);
}

static void bind_scratch(const fp__attn_plan *plan, uint8_t *at, struct scratch *s)
{
    size_t rows = plan->tile_rows;
    s->q16 = (int16_t *)(void *)at;
    at += round_up(rows * plan->stride * sizeof(int16_t), 128);
    s->s_q = (float *)(void *)at;
    at += round_up(rows * sizeof(float), 128);
    s->visible = at;
    at += round_up(FP__SPAN_PAGES * rows, 128);
    fp__attn_states *states[4] = {&s->span, &s->chunk, &s->segment[ANCHOR], &s->segment[CONTEXT]};
    for (size_t i = 0; i < 4; i++) {
        *states[i] = state_at((float *)(void *)at, rows);
        at += round_up(state_floats(rows, plan->geometry.d) * sizeof(float), 128);
    }
}

/* Tile of query tokens: a power of two, so that tiles fit pages, with at most TILE_ROWS rows if possible. */
static void choose_tile(fp__attn_plan *plan)
{
    plan->tile_tokens = 1;
    while (2 * plan->tile_tokens * plan->group <= TILE_ROWS && plan->tile_tokens < plan->max_tokens)
        plan->tile_tokens *= 2;
    plan->tile_rows = plan->tile_tokens * plan->group;
}

/* Room of the split form: decoding of as many sequences as may need it, and something for small steps. */
static void size_split(fp__attn_plan *plan)
{
    const fp__attn_geometry *g = &plan->geometry;
    size_t sequences = plan->max_sequences < 2 * plan->threads ? plan->max_sequences : 2 * plan->threads;
    size_t per_unit = plan->max_pages / CHUNK_PAGES + 2;
    plan->max_pieces = sequences * g->kv_heads * per_unit + FP__CHUNK_SPANS * plan->threads;
    plan->max_states = plan->max_pieces * state_floats(plan->group, g->d) + plan->threads * EXTRA_FLOATS;
}

static fp_status plan_allocate(fp__attn_plan *plan)
{
    size_t tiles = plan->max_tokens / plan->tile_tokens +
                   (plan->max_sequences < plan->max_tokens ? plan->max_sequences : plan->max_tokens);
    plan->max_units = tiles * plan->geometry.kv_heads;
    plan->units = calloc(plan->max_units, sizeof *plan->units);
    plan->pieces = calloc(plan->max_pieces, sizeof *plan->pieces);
    plan->first_piece = calloc(plan->threads + 1, sizeof *plan->first_piece);
    plan->counters = fp__mem_alloc(plan->geometry.layers * sizeof *plan->counters);
    plan->scratch = calloc(plan->threads, sizeof *plan->scratch);
    plan->memory_bytes = plan->threads * thread_bytes(plan);
    plan->memory = fp__mem_alloc(plan->memory_bytes);
    plan->states = plan->threads > 1 ? fp__mem_alloc(plan->max_states * sizeof *plan->states) : NULL;
    if (!plan->units || !plan->pieces || !plan->first_piece || !plan->counters || !plan->scratch ||
        !plan->memory || (plan->threads > 1 && !plan->states))
        return fp__fail(FP_NO_MEMORY, "no memory for attention over %zu pages; ask for a shorter context",
                        plan->max_pages);
    for (size_t t = 0; t < plan->threads; t++)
        bind_scratch(plan, plan->memory + t * thread_bytes(plan), &plan->scratch[t]);
    return FP_OK;
}

fp_status fp__attn_plan_create(const fp__kernel_ops *ops, const fp__attn_geometry *geometry, size_t threads,
                               size_t max_tokens, size_t max_sequences, size_t max_pages, fp__attn_plan **out)
{
    const fp__attn_geometry *g = geometry;
    *out = NULL;
    if (g->layers == 0 || g->kv_heads == 0 || g->heads == 0 || g->heads % g->kv_heads != 0 || g->d < 2 ||
        g->d % 2 != 0 || g->d > FP__HEAD_DIM_MAX)
        return fp__fail(
            FP_USAGE,
            "attention of %zu heads over %zu KV heads of size %zu is not defined: the head size must "
            "be even and at most %d, the heads a multiple of the KV heads",
            g->heads, g->kv_heads, g->d, (int)FP__HEAD_DIM_MAX);
    if (threads == 0 || max_tokens == 0 || max_sequences == 0 || max_pages == 0)
        return fp__fail(FP_USAGE, "an attention plan needs at least one thread, token, sequence and page");
    fp__attn_plan *plan = calloc(1, sizeof *plan);
    if (!plan)
        return fp__fail(FP_NO_MEMORY, "no memory for an attention plan");
    plan->ops = ops;
    plan->geometry = *g;
    plan->threads = threads;
    plan->group = g->heads / g->kv_heads;
    plan->stride = round_up(g->d, 32);
    plan->max_tokens = max_tokens;
    plan->max_sequences = max_sequences;
    plan->max_pages = max_pages;
    choose_tile(plan);
    size_split(plan);
    fp_status status = plan_allocate(plan);
    if (status != FP_OK) {
        fp__attn_plan_destroy(plan);
        return status;
    }
    *out = plan;
    return FP_OK;
}

void fp__attn_plan_destroy(fp__attn_plan *plan)
{
    if (!plan)
        return;
    free(plan->units);
    free(plan->pieces);
    free(plan->first_piece);
    free(plan->scratch);
    fp__mem_free(plan->counters, plan->geometry.layers * sizeof *plan->counters);
    fp__mem_free(plan->memory, plan->memory_bytes);
    if (plan->states)
        fp__mem_free(plan->states, plan->max_states * sizeof *plan->states);
    free(plan);
}

/* Tokens of page p that query token i of the sequence sees. */
static size_t visible_tokens(const fp__attn_segment *s, size_t p, size_t i)
{
    if (p < s->causal_page)
        return s->filled[p];
    size_t seen = s->causal_tokens + i + 1, before = (p - s->causal_page) * FP__PAGE_TOKENS;
    if (seen <= before)
        return 0;
    return seen - before < FP__PAGE_TOKENS ? seen - before : FP__PAGE_TOKENS;
}

/* Pages that the first `tokens` query tokens see together. */
static size_t seen_pages(const fp__attn_segment *s, size_t tokens)
{
    if (s->causal_page == s->pages)
        return s->pages;
    return s->causal_page + round_up(s->causal_tokens + tokens, FP__PAGE_TOKENS) / FP__PAGE_TOKENS;
}

static fp_status check_segment(const fp__attn_segment *s, size_t tokens, const char *name)
{
    if (s->causal_page > s->pages || seen_pages(s, tokens) > s->pages)
        return fp__fail(FP_INTERNAL, "the %s segment has %zu pages, too few for its tokens", name, s->pages);
    for (size_t p = 0; p < s->causal_page; p++)
        if (s->filled[p] == 0 || s->filled[p] > FP__PAGE_TOKENS)
            return fp__fail(FP_INTERNAL, "page %zu of the %s segment holds %d tokens", p, name, s->filled[p]);
    return FP_OK;
}

static fp_status check_sequences(const fp__attn_plan *plan, const fp__attn_sequence *sequences, size_t n)
{
    size_t tokens = 0;
    for (size_t i = 0; i < n; i++) {
        const fp__attn_sequence *s = &sequences[i];
        FP_TRY(check_segment(&s->anchor, s->tokens, "anchor"));
        FP_TRY(check_segment(&s->context, s->tokens, "context"));
        if (s->anchor.pages + s->context.pages == 0)
            return fp__fail(FP_INTERNAL, "sequence %zu of the step has no page to attend to", i);
        if (s->anchor.pages + s->context.pages > plan->max_pages)
            return fp__fail(FP_LIMIT, "sequence %zu has %zu pages; attention was planned for %zu", i,
                            s->anchor.pages + s->context.pages, plan->max_pages);
        tokens += s->tokens;
    }
    if (n > plan->max_sequences || tokens > plan->max_tokens)
        return fp__fail(FP_LIMIT,
                        "a step of %zu tokens of %zu sequences; attention was planned for %zu of %zu", tokens,
                        n, plan->max_tokens, plan->max_sequences);
    return FP_OK;
}

static size_t unit_rows(const fp__attn_plan *plan, const struct unit *u)
{
    return u->tokens * plan->group;
}

static size_t unit_page_cost(const fp__attn_plan *plan, const struct unit *u)
{
    return PAGE_COST + 2 * unit_rows(plan, u);
}

/* KV head outermost, so that its pages stay in cache from tile to tile; late tiles, which see more, first. */
static void make_units(fp__attn_plan *plan, const fp__attn_sequence *sequences, size_t n)
{
    plan->n_units = 0;
    for (size_t i = 0; i < n; i++) {
        const fp__attn_sequence *s = &sequences[i];
        size_t tiles = (s->tokens + plan->tile_tokens - 1) / plan->tile_tokens;
        for (size_t h = 0; h < plan->geometry.kv_heads; h++)
            for (size_t t = tiles; t-- > 0;) {
                size_t first = t * plan->tile_tokens, left = s->tokens - first;
                size_t tokens = left < plan->tile_tokens ? left : plan->tile_tokens;
                plan->units[plan->n_units++] = (struct unit){
                    .sequence = s,
                    .kv_head = h,
                    .first = first,
                    .tokens = tokens,
                    .pages = {seen_pages(&s->anchor, first + tokens),
                              seen_pages(&s->context, first + tokens)},
                };
            }
    }
}

/* Puts one span of a unit at the end of the work list of `thread`; false if there is no room. */
static bool add_span(fp__attn_plan *plan, size_t unit, size_t segment, size_t span, size_t thread)
{
    struct unit *u = &plan->units[unit];
    struct piece *last = u->pieces ? &plan->pieces[plan->n_pieces - 1] : NULL;
    bool starts_chunk = span % FP__CHUNK_SPANS == 0;
    bool mine = plan->n_pieces > plan->first_piece[thread];
    if (last && mine && !starts_chunk && last->starts_chunk) {
        last->spans++;
        return true;
    }
    size_t floats = state_floats(unit_rows(plan, u), plan->geometry.d);
    if (plan->n_pieces == plan->max_pieces || plan->n_states + floats > plan->max_states)
        return false;
    plan->pieces[plan->n_pieces++] = (struct piece){.unit = (uint32_t)unit,
                                                    .segment = (uint8_t)segment,
                                                    .starts_chunk = starts_chunk,
                                                    .span = span,
                                                    .spans = 1,
                                                    .state = plan->n_states};
    plan->n_states += floats;
    u->pieces++;
    return true;
}

/* Cuts the row of all spans into stretches of equal cost; false if there is no room for it. */
static bool make_pieces(fp__attn_plan *plan, size_t total)
{
    size_t thread = 0, done = 0;
    plan->n_pieces = plan->n_states = 0;
    plan->first_piece[0] = 0;
    for (size_t i = 0; i < plan->n_units; i++) {
        struct unit *u = &plan->units[i];
        u->first_piece = plan->n_pieces;
        u->pieces = 0;
        for (size_t segment = ANCHOR; segment <= CONTEXT; segment++)
            for (size_t p = 0; p < u->pages[segment]; p += FP__SPAN_PAGES) {
                size_t left = u->pages[segment] - p, pages = left < FP__SPAN_PAGES ? left : FP__SPAN_PAGES;
                size_t cost = pages * unit_page_cost(plan, u);
                /* a span goes to the thread in whose share its middle lies */
                while (thread + 1 < plan->threads &&
                       (2 * done + cost) * plan->threads > 2 * total * (thread + 1))
                    plan->first_piece[++thread] = plan->n_pieces;
                if (!add_span(plan, i, segment, p / FP__SPAN_PAGES, thread))
                    return false;
                done += cost;
            }
    }
    while (thread < plan->threads)
        plan->first_piece[++thread] = plan->n_pieces;
    return true;
}

fp_status fp__attn_plan_step(fp__attn_plan *plan, const fp__attn_sequence *sequences, size_t n)
{
    FP_TRY(check_sequences(plan, sequences, n));
    make_units(plan, sequences, n);
    size_t total = 0, largest = 0;
    for (size_t i = 0; i < plan->n_units; i++) {
        const struct unit *u = &plan->units[i];
        size_t cost = (u->pages[ANCHOR] + u->pages[CONTEXT]) * unit_page_cost(plan, u);
        total += cost;
        largest = cost > largest ? cost : largest;
    }
    plan->split =
        plan->threads > 1 && largest * plan->threads * SPLIT_GRAIN > total && make_pieces(plan, total);
    for (size_t layer = 0; layer < plan->geometry.layers; layer++)
        atomic_store_explicit(&plan->counters[layer].taken, 0, memory_order_relaxed);
    return FP_OK;
}

/* ---- run ----------------------------------------------------------------------------------------------- */

/* What one call of fp__attn_run works on. */
struct call {
    fp__attn_plan *plan;
    struct scratch *scratch;
    size_t layer, stride;
    const int16_t *q16; // [T][H][stride]
    const float *s_q;   // [T][H]
    float *out;         // [T][H·d]
    float *alpha;       // [T][H] or NULL
};

static const fp__attn_segment *unit_segment(const struct unit *u, size_t segment)
{
    return segment == ANCHOR ? &u->sequence->anchor : &u->sequence->context;
}

static const uint8_t *slab_at(const struct call *c, const struct unit *u, size_t segment, size_t page)
{
    const fp__attn_geometry *g = &c->plan->geometry;
    return unit_segment(u, segment)->groups[page] +
           (c->layer * g->kv_heads + u->kv_head) * fp__slab_bytes(g->d);
}

/* Number of (token, head) of row 0 of the unit in the step's arrays. */
static size_t row_index(const struct call *c, const struct unit *u, size_t token)
{
    return (u->sequence->first_token + u->first + token) * c->plan->geometry.heads +
           u->kv_head * c->plan->group;
}

/* The unit's queries as one block of rows, token by token: in place where they are so already. */
static fp__attn_rows unit_queries(const struct call *c, const struct unit *u)
{
    const fp__attn_plan *plan = c->plan;
    size_t d = plan->geometry.d, group = plan->group;
    fp__attn_rows rows = {.rows = unit_rows(plan, u), .d = d, .stride = c->stride};
    rows.q16 = c->q16 + row_index(c, u, 0) * c->stride;
    rows.s_q = c->s_q + row_index(c, u, 0);
    if (u->tokens == 1 || plan->geometry.kv_heads == 1)
        return rows;
    for (size_t i = 0; i < u->tokens; i++) {
        size_t from = row_index(c, u, i);
        for (size_t h = 0; h < group; h++)
            memcpy(c->scratch->q16 + (i * group + h) * plan->stride, c->q16 + (from + h) * c->stride,
                   plan->stride * sizeof *c->q16);
        memcpy(c->scratch->s_q + i * group, c->s_q + from, group * sizeof *c->s_q);
    }
    rows.q16 = c->scratch->q16;
    rows.s_q = c->scratch->s_q;
    rows.stride = plan->stride;
    return rows;
}

/* One span of a unit → out. */
static void run_span(const struct call *c, const struct unit *u, fp__attn_rows *rows, size_t segment,
                     size_t span, fp__attn_states out)
{
    const fp__attn_segment *s = unit_segment(u, segment);
    size_t begin = span * FP__SPAN_PAGES, end = begin + FP__SPAN_PAGES, group = c->plan->group;
    end = end < u->pages[segment] ? end : u->pages[segment];
    const uint8_t *slabs[FP__SPAN_PAGES];
    uint8_t *visible = c->scratch->visible;
    for (size_t p = begin; p < end; p++) {
        slabs[p - begin] = slab_at(c, u, segment, p);
        for (size_t i = 0; i < u->tokens; i++, visible += group)
            memset(visible, (int)visible_tokens(s, p, u->first + i), group);
    }
    rows->next = end < u->pages[segment] ? slab_at(c, u, segment, end) : NULL;
    c->plan->ops->attn_span(rows, slabs, c->scratch->visible, end - begin, out);
}

/* Rows [begin, end) of a unit from its two segment states to the outputs. */
static void mix_rows(const struct call *c, const struct unit *u, size_t begin, size_t end,
                     fp__attn_states anchor, fp__attn_states context)
{
    const fp__attn_geometry *geometry = &c->plan->geometry;
    const fp__attn_sequence *s = u->sequence;
    size_t d = geometry->d, group = c->plan->group;
    for (size_t r = begin; r < end; r++) {
        size_t head = u->kv_head * group + r % group, at = row_index(c, u, r / group) + r % group;
        uint32_t g = s->g ? s->g[c->layer * geometry->heads + head] : 0;
        float alpha =
            c->plan->ops->attn_mix(state_rows(anchor, r - begin, d), state_rows(context, r - begin, d),
                                   s->mode, g, d, c->out + at * d);
        if (c->alpha)
            c->alpha[at] = alpha;
    }
}

/* A whole unit by one thread. */
static void run_unit(const struct call *c, const struct unit *u)
{
    const fp__kernel_ops *ops = c->plan->ops;
    struct scratch *s = c->scratch;
    size_t d = c->plan->geometry.d;
    fp__attn_rows rows = unit_queries(c, u);
    for (size_t segment = ANCHOR; segment <= CONTEXT; segment++) {
        size_t spans = (u->pages[segment] + FP__SPAN_PAGES - 1) / FP__SPAN_PAGES;
        state_clear(s->segment[segment], rows.rows, d);
        for (size_t i = 0; i < spans; i++) {
            if (i % FP__CHUNK_SPANS == 0)
                state_clear(s->chunk, rows.rows, d);
            run_span(c, u, &rows, segment, i, s->span);
            ops->attn_merge(rows.rows, d, s->chunk, s->span);
            if (i % FP__CHUNK_SPANS == FP__CHUNK_SPANS - 1 || i + 1 == spans)
                ops->attn_merge(rows.rows, d, s->segment[segment], s->chunk);
        }
    }
    mix_rows(c, u, 0, rows.rows, s->segment[ANCHOR], s->segment[CONTEXT]);
}

/* Split form, first half: the states of one stretch of spans. */
static void run_piece(const struct call *c, const struct piece *piece)
{
    const struct unit *u = &c->plan->units[piece->unit];
    size_t d = c->plan->geometry.d;
    fp__attn_rows rows = unit_queries(c, u);
    fp__attn_states state = state_at(c->plan->states + piece->state, rows.rows);
    if (!piece->starts_chunk) {
        run_span(c, u, &rows, piece->segment, piece->span, state);
        return;
    }
    state_clear(state, rows.rows, d);
    for (size_t i = 0; i < piece->spans; i++) {
        run_span(c, u, &rows, piece->segment, piece->span + i, c->scratch->span);
        c->plan->ops->attn_merge(rows.rows, d, state, c->scratch->span);
    }
}

/* Split form, second half: rows [begin, end) of a unit from the states of its pieces. */
static void merge_unit(const struct call *c, const struct unit *u, size_t begin, size_t end)
{
    const fp__attn_plan *plan = c->plan;
    size_t d = plan->geometry.d, rows = end - begin, last = u->first_piece + u->pieces;
    for (size_t segment = ANCHOR; segment <= CONTEXT; segment++)
        state_clear(c->scratch->segment[segment], rows, d);
    fp__attn_states chunk = {0};
    for (size_t i = u->first_piece; i < last; i++) {
        const struct piece *piece = &plan->pieces[i];
        fp__attn_states state =
            state_rows(state_at(plan->states + piece->state, unit_rows(plan, u)), begin, d);
        if (piece->starts_chunk)
            chunk = state;
        else
            plan->ops->attn_merge(rows, d, chunk, state);
        if (i + 1 == last || plan->pieces[i + 1].starts_chunk)
            plan->ops->attn_merge(rows, d, c->scratch->segment[piece->segment], chunk);
    }
    mix_rows(c, u, begin, end, c->scratch->segment[ANCHOR], c->scratch->segment[CONTEXT]);
}

static void run_split(const struct call *c, fp__team *team, size_t thread)
{
    const fp__attn_plan *plan = c->plan;
    for (size_t i = plan->first_piece[thread]; i < plan->first_piece[thread + 1]; i++)
        run_piece(c, &plan->pieces[i]);
    fp__team_barrier(team);
    size_t total = 0, begin, end, at = 0;
    for (size_t i = 0; i < plan->n_units; i++)
        total += unit_rows(plan, &plan->units[i]);
    fp__team_split(total, 1, thread, plan->threads, &begin, &end);
    for (size_t i = 0; i < plan->n_units && at < end; i++) {
        size_t rows = unit_rows(plan, &plan->units[i]);
        size_t from = begin > at ? begin - at : 0, to = end - at < rows ? end - at : rows;
        if (from < to)
            merge_unit(c, &plan->units[i], from, to);
        at += rows;
    }
}

void fp__attn_run(fp__attn_plan *plan, fp__team *team, size_t thread, size_t layer, const int16_t *q16,
                  const float *s_q, size_t stride, float *out, float *alpha)
{
    FP_CHECK(fp__team_threads(team) == plan->threads && layer < plan->geometry.layers &&
             stride >= plan->stride);
    struct call call = {.plan = plan,
                        .scratch = &plan->scratch[thread],
                        .layer = layer,
                        .stride = stride,
                        .q16 = q16,
                        .s_q = s_q,
                        .out = out,
                        .alpha = alpha};
    if (plan->split) {
        run_split(&call, team, thread);
        return;
    }
    atomic_size_t *taken = &plan->counters[layer].taken;
    for (;;) {
        size_t i = atomic_fetch_add_explicit(taken, 1, memory_order_relaxed);
        if (i >= plan->n_units)
            return;
        run_unit(&call, &plan->units[i]);
    }
}
