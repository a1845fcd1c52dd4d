/* How the lists of a step are cut into units of decode and items of teams, and in what order they are done.
 */
#include "kernel/cuda/attention_work.cuh"

namespace fp
{
namespace attn
{

constexpr uint32_t TAIL = 1; /* units of a span for each quad, in quarters */

/* States that an item of these pages writes. */
static uint32_t count_pieces(const List *list, uint32_t first, uint32_t end)
{
    uint32_t n = 0;
    if (list->large)
        return end - first > STACK_SPAN_PAGES ? 1 : ceil_div(end - first, SPAN_PAGES);
    for (; first < end; n++)
        first += first % CHUNK_PAGES == 0 ? CHUNK_PAGES : SPAN_PAGES;
    return n;
}

static bool stacked(const List *list)
{
    return !list->team && list->stacked;
}

static ListKind kind_of(const List *list)
{
    return list->team ? TEAM_LIST : list->large ? LARGE_LIST : stacked(list) ? STACKED_LIST : SPLIT_LIST;
}

/* Whether this chunk of a list, which begins at page `first`, is done in spans: about one of plan->cut, and
 * those at the end of a list, as the merge is quicker with whole chunks. */
static bool is_cut(const fp_cuda_attention *plan, const List *list, uint32_t pages, uint32_t first)
{
    if (plan->cut == 0)
        return false;
    uint32_t before = list->table / CHUNK_PAGES, chunks = ceil_div(pages, CHUNK_PAGES),
             count = (before + chunks) / plan->cut - before / plan->cut;
    return chunks - 1 - first / CHUNK_PAGES < count;
}

/* Pages of the item that begins at page `first`. Of split lists, a short end is done span by span, or, if it
 * has two spans, for two KV heads at once. */
static uint32_t item_pages(const fp_cuda_attention *plan, const List *list, uint32_t pages, uint32_t first,
                           uint32_t step)
{
    uint32_t left = pages - first, pair = plan->config.kv_heads % 2 == 0 ? 2 * SPAN_PAGES : SPAN_PAGES;
    if (!list->team && !stacked(list) && step == CHUNK_PAGES) {
        if (first % CHUNK_PAGES || (left > 2 * SPAN_PAGES && is_cut(plan, list, pages, first)))
            step = SPAN_PAGES; /* a chunk that is cut */
        else if (left <= 2 * SPAN_PAGES)
            step = left <= SPAN_PAGES ? SPAN_PAGES : pair;
    }
    return min_of(step, left);
}

/* Units that lists take in steps of `step` pages. */
static uint64_t count_units(const fp_cuda_attention *plan, ListKind kind, uint32_t step)
{
    uint64_t units = 0;
    for (size_t i = 0; i < plan->lists.n; i++)
        for (uint32_t b = 0; kind_of(&plan->lists.at[i]) == kind && b < plan->lists.at[i].blocks; b++)
            units +=
                (uint64_t)ceil_div(block_pages(plan, &plan->lists.at[i], b), step) * plan->config.kv_heads;
    return units;
}

/* Time of split lists in steps of `step` pages. A quad needs about 3 µs for a unit of a span, of which a
 * third is not its page, and 9 µs for a chunk or a pair of two spans. */
static uint64_t split_time(const fp_cuda_attention *plan, uint32_t step)
{
    uint64_t quads = (uint64_t)plan->quads * plan->grid, spans = 0, others = 0;
    uint32_t heads = plan->config.kv_heads;
    for (size_t i = 0; i < plan->lists.n; i++) {
        const List *list = &plan->lists.at[i];
        for (uint32_t b = 0; kind_of(list) == SPLIT_LIST && b < list->blocks; b++)
            for (uint32_t pages = block_pages(plan, list, b), first = 0, n; first < pages; first += n) {
                n = item_pages(plan, list, pages, first, step);
                bool pair = n > SPAN_PAGES && n <= 2 * SPAN_PAGES && heads % 2 == 0;
                (n <= SPAN_PAGES ? spans : others) += pair ? heads / 2 : heads;
            }
    }
    return 3 * ((spans + quads - 1) / quads) + 9 * ((others + quads - 1) / quads);
}

/* Pages of items by kind of list: fine where there is little work, so that all take part. */
void choose_steps(const fp_cuda_attention *plan, uint32_t (&step)[LIST_KINDS])
{
    uint64_t quads = (uint64_t)plan->quads * plan->grid, team = count_units(plan, TEAM_LIST, SPAN_PAGES);
    bool fine = split_time(plan, SPAN_PAGES) < split_time(plan, CHUNK_PAGES);
    step[SPLIT_LIST] = fine ? SPAN_PAGES : CHUNK_PAGES;
    step[STACKED_LIST] = count_units(plan, STACKED_LIST, CHUNK_PAGES) < 3 * quads ? SPAN_PAGES : CHUNK_PAGES;
    step[LARGE_LIST] = count_units(plan, LARGE_LIST, CHUNK_PAGES) >= 2ull * plan->grid ? CHUNK_PAGES
                       : count_units(plan, LARGE_LIST, SPAN_PAGES) <= plan->grid       ? SPAN_PAGES
                                                                                       : STACK_SPAN_PAGES;
    step[TEAM_LIST] = SPAN_PAGES;
    while (step[TEAM_LIST] < 64 * CHUNK_PAGES && team * SPAN_PAGES / step[TEAM_LIST] >= 16ull * plan->grid)
        step[TEAM_LIST] *= 4;
    const uint32_t *tuned = fp__cuda_attention_tuning;
    if (tuned[FP__TUNE_SPLIT_PAGES])
        step[SPLIT_LIST] = tuned[FP__TUNE_SPLIT_PAGES];
    if (tuned[FP__TUNE_STACKED_PAGES])
        step[LARGE_LIST] = tuned[FP__TUNE_STACKED_PAGES];
    if (tuned[FP__TUNE_STACKED_PAGES] == SPAN_PAGES || tuned[FP__TUNE_STACKED_PAGES] == CHUNK_PAGES)
        step[STACKED_LIST] = tuned[FP__TUNE_STACKED_PAGES];
    if (tuned[FP__TUNE_TEAM_PAGES])
        step[TEAM_LIST] = tuned[FP__TUNE_TEAM_PAGES];
}

/* Where quads take many chunks, some are cut into spans, about one for each quad: taken last, they let all
 * end at about the same time. */
void choose_cut(fp_cuda_attention *plan, uint32_t step)
{
    uint64_t quads = (uint64_t)plan->quads * plan->grid, chunks = count_units(plan, SPLIT_LIST, CHUNK_PAGES),
             wanted = (tuned_or(FP__TUNE_TAIL, 1 + TAIL) - 1) * quads / 4;
    if (step == CHUNK_PAGES && chunks >= 2 * quads && wanted)
        plan->cut = (uint32_t)(chunks * (CHUNK_PAGES / SPAN_PAGES) / wanted);
    else if (fp__cuda_attention_tuning[FP__TUNE_TAIL])
        plan->cut = 2;
}

/* About how long decode takes of its lists, in 0.1 µs: a quad needs 1.2 µs for a unit, and as much for each
 * page of a warp; 0.8 for each page of a stacked unit. */
uint64_t decode_time(const fp_cuda_attention *plan, const uint32_t (&step)[LIST_KINDS])
{
    uint64_t all = 0, longest = 0;
    uint32_t heads = plan->config.kv_heads;
    for (size_t i = 0; i < plan->lists.n; i++) {
        const List *list = &plan->lists.at[i];
        for (uint32_t b = 0; !list->team && !list->large && b < list->blocks; b++)
            for (uint32_t pages = block_pages(plan, list, b), first = 0, n; first < pages; first += n) {
                n = item_pages(plan, list, pages, first, step[kind_of(list)]);
                bool pair = !stacked(list) && n > SPAN_PAGES && n <= 2 * SPAN_PAGES && heads % 2 == 0;
                uint64_t time = stacked(list)     ? 8 + 8 * n
                                : n <= SPAN_PAGES ? 24
                                : pair            ? 60
                                                  : 12 + 12 * ceil_div(n, 4);
                longest = time > longest ? time : longest;
                all += time * (pair ? heads / 2 : heads);
            }
    }
    return longest + all / ((uint64_t)plan->quads * plan->grid);
}

/* About how long a step's lists take, in 0.1 µs, to choose between forms: decode as its units and its bytes
 * take, and stacks. Of 16 rows: 2.9 µs a page and quad. Beside large stacks decode takes a quarter longer,
 * and the kernel 6 µs to begin; a group needs 3 µs for a unit of 64 rows and 2.3 for each page. */
uint64_t form_time(const fp_cuda_attention *plan, const uint32_t (&step)[LIST_KINDS])
{
    constexpr uint64_t BYTES = 290000; /* of memory in 0.1 µs */
    uint64_t quads = (uint64_t)plan->quads * plan->grid, units = 0, pages = 0, stacked_pages = 0, large = 0;
    uint32_t heads = plan->config.kv_heads, most = 0;
    for (size_t i = 0; i < plan->lists.n; i++) {
        const List *list = &plan->lists.at[i];
        for (uint32_t b = 0; !list->team && b < list->blocks; b++) {
            uint32_t n = block_pages(plan, list, b), each = min_of(n, step[LARGE_LIST]);
            if (list->large) {
                large += (uint64_t)ceil_div(n, step[LARGE_LIST]) * heads;
                most = each > most ? each : most;
            } else if (list->stacked) {
                stacked_pages += (uint64_t)n * heads;
            } else {
                units += (uint64_t)ceil_div(n, CHUNK_PAGES) * heads;
                pages += (uint64_t)n * heads;
            }
        }
    }
    uint64_t longest = units ? 60 : 0, decode = longest + (units * 12 + pages * 3) / quads,
             bytes = pages * (128 * plan->config.d + 256) / BYTES,
             stacks = (large + plan->grid - 1) / plan->grid * (30 + 23 * most);
    decode = bytes > decode ? bytes : decode;
    if (!plan->stacks)
        return decode + stacked_pages * 29 / quads;
    decode += decode / 4;
    return 60 + (stacks > decode ? stacks : decode);
}

uint32_t early_pages(const fp_cuda_attention_segment *s, uint32_t first, uint32_t n)
{
    uint32_t begun = s->causal_page + (causal(s) ? s->causal_tokens / PAGE : 0), early = 0;
    while (early < n && first + early < begun &&
           (first + early >= s->causal_page || !s->filled || s->filled[first + early] == PAGE))
        early++;
    return early;
}

void inline_pages(const fp_cuda_attention *plan, const List *list, uint32_t first, uint32_t n, uint32_t *w)
{
    w[FLAGS] |= INLINED;
    for (uint32_t p = 0; p < n; p++) {
        w[INLINE + p] = plan->pages.at[list->table + first + p];
        w[FILLS + p / 4] |= (uint32_t)plan->fills.at[list->table + first + p] << (8 * (p % 4));
    }
}

static bool split_block(fp_cuda_attention *plan, const List *list, uint32_t block, uint32_t step)
{
    uint32_t pages = block_pages(plan, list, block), index = (uint32_t)plan->streams.n;
    uint32_t rows = min_of(list->tokens * plan->group - block * list->block_rows, list->block_rows);
    MergeStream *stream = plan->streams.add(1);
    if (!stream)
        return false;
    uint32_t state = stream->state = (uint32_t)plan->used_rows;
    for (uint32_t first = 0, n; first < pages; first += n) {
        n = item_pages(plan, list, pages, first, step);
        stream->pieces += count_pieces(list, first, first + n);
    }
    stream->rows = rows;
    stream->stride = stream->pieces * rows;
    plan->used_rows += (size_t)stream->stride * plan->config.kv_heads;
    for (uint32_t first = 0, n; first < pages; first += n) {
        Array<Item> *items = list->team    ? &plan->team_items
                             : list->large ? &plan->stack_items
                                           : &plan->decode_items;
        Item *item = add_item(plan, list, block, items);
        if (!item)
            return false;
        n = item_pages(plan, list, pages, first, step);
        uint32_t *w = item->word;
        w[FIRST_PAGE] = first;
        w[PAGES] = n;
        w[STATE] = state;
        w[STATE_STRIDE] = stream->stride;
        w[STREAM] = index;
        w[TABLE] = list->table + first;
        if (n <= CHUNK_PAGES)
            inline_pages(plan, list, first, n, w);
        if (list->large) {
            w[EARLY] = early_pages(list->segment, first, n);
        } else if (!list->team) {
            w[FLAGS] |= stacked(list) ? STACKED : n <= SPAN_PAGES ? PAGED : 0;
            if (!stacked(list) && n > SPAN_PAGES && n <= 2 * SPAN_PAGES && plan->config.kv_heads % 2 == 0)
                w[FLAGS] |= PAIRED;
            w[EARLY] = early_pages(list->segment, first, n);
        }
        state += count_pieces(list, first, first + n) * rows;
    }
    return true;
}

bool split_lists(fp_cuda_attention *plan, const uint32_t (&step)[LIST_KINDS])
{
    for (size_t i = 0; i < plan->lists.n; i++) {
        List *list = &plan->lists.at[i];
        list->stream_at = (uint32_t)plan->streams.n; /* made a word offset when placed */
        for (uint32_t b = 0; b < list->blocks; b++)
            if (!split_block(plan, list, b, step[kind_of(list)]))
                return false;
    }
    return true;
}

enum DecodeKind { STACKED_LONG, STACKED_SHORT, CHUNK, SPAN, PAIR, DECODE_KINDS };
static DecodeKind decode_kind(const uint32_t *w)
{
    bool longs = w[PAGES] > SPAN_PAGES;
    return w[FLAGS] & PAIRED    ? PAIR
           : w[FLAGS] & STACKED ? (longs ? STACKED_LONG : STACKED_SHORT)
           : longs              ? CHUNK
                                : SPAN;
}

/* The first quad of each multiprocessor takes units from the front of the list, the second from its end.
 * Stacked units, which compute, are in front, and those which read at the end, so that both are done side by
 * side; the shortest are where the two will meet. Paired ones must be last. Stable: items of neighbouring
 * pages stay together. */
bool order_decode(fp_cuda_attention *plan)
{
    static const DecodeKind kinds[] = {STACKED_LONG, STACKED_SHORT, CHUNK, SPAN, CHUNK, PAIR};
    Array<Item> *items = &plan->decode_items;
    size_t n = items->n, at = 0, count[DECODE_KINDS] = {};
    Item *copy = items->add(n); /* room behind the items */
    items->n = n;
    if (n && !copy)
        return false;
    for (size_t i = 0; i < n; i++)
        count[decode_kind(items->at[i].word)]++;
    /* in thirds of a chunk's time; a pair is done for two KV heads at once */
    size_t front = 10 * count[STACKED_LONG] + 3 * count[STACKED_SHORT], end = 3 * count[PAIR] / 2,
           chunks = 3 * count[CHUNK], before = 0;
    if (end + chunks > front * (plan->quads - 1)) /* chunks that are before the spans */
        before = (end + chunks - front * (plan->quads - 1)) / (3 * plan->quads);
    if (before > count[CHUNK])
        before = count[CHUNK];
    for (int pass = 0; pass < 6; pass++) {
        size_t seen = 0;
        for (size_t i = 0; i < n; i++) {
            DecodeKind kind = decode_kind(items->at[i].word);
            if (kind != kinds[pass])
                continue;
            seen++;
            if (kind != CHUNK || (pass == 2) == (seen <= before))
                copy[at++] = items->at[i];
        }
    }
    plan->decode_singles = (uint32_t)(n - count[PAIR]);
    if (n)
        memcpy((void *)items->at, (void *)copy, n * sizeof(Item));
    return true;
}

} // namespace attn
} // namespace fp
