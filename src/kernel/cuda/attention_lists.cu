/* Who sees what together: the lists of query tokens of a step, by segment. */
#include "core/error.h"
#include "kernel/cuda/attention_work.cuh"

namespace fp
{
namespace attn
{

static fp_status check_segment(const fp_cuda_attention_segment *s, uint32_t tokens, size_t i,
                               const char *name)
{
    if (s->causal_page > s->n_pages || seen_pages(s, tokens) > s->n_pages)
        return fp__fail(FP_USAGE, "the %s of sequence %zu has %u pages, too few for its tokens", name, i,
                        s->n_pages);
    for (uint32_t p = 0; s->filled && p < s->causal_page; p++)
        if (s->filled[p] == 0 || s->filled[p] > PAGE)
            return fp__fail(FP_USAGE, "page %u of the %s of sequence %zu holds %d tokens", p, name, i,
                            s->filled[p]);
    return FP_OK;
}

fp_status check_step(const fp_cuda_attention *plan, const fp_cuda_attention_sequence *sequences, size_t n)
{
    size_t tokens = 0, pages = 0;
    for (size_t i = 0; i < n; i++) {
        const fp_cuda_attention_sequence *s = &sequences[i];
        FP_TRY(check_segment(&s->anchor, s->tokens, i, "anchor"));
        FP_TRY(check_segment(&s->context, s->tokens, i, "context"));
        if (s->tokens == 0 || s->anchor.n_pages + s->context.n_pages == 0)
            return fp__fail(FP_USAGE, "sequence %zu of the step has no token or no page", i);
        tokens += s->tokens;
        pages += (size_t)s->anchor.n_pages + s->context.n_pages;
    }
    if (n > plan->config.max_sequences || tokens > plan->config.max_tokens || pages > plan->config.max_pages)
        return fp__fail(
            FP_LIMIT,
            "a step of %zu tokens, %zu sequences and %zu pages; attention was planned for %u, %u, %u", tokens,
            n, pages, plan->config.max_tokens, plan->config.max_sequences, plan->config.max_pages);
    return FP_OK;
}

static bool same_segment(const fp_cuda_attention_segment *a, const fp_cuda_attention_segment *b)
{
    if (a->n_pages != b->n_pages || causal(a) || causal(b) || !a->filled != !b->filled)
        return false;
    return (a->pages == b->pages || memcmp(a->pages, b->pages, a->n_pages * sizeof *a->pages) == 0) &&
           (a->filled == b->filled || memcmp(a->filled, b->filled, a->n_pages) == 0);
}

/* Returns whether anchors are shared. */
bool find_leaders(fp_cuda_attention *plan, const fp_cuda_attention_sequence *sequences, size_t n, bool share)
{
    bool shared = false;
    for (size_t i = 0; i < n; i++) {
        plan->leader.at[i] = NONE;
        if (sequences[i].anchor.n_pages == 0)
            continue;
        plan->leader.at[i] = (uint32_t)i;
        for (size_t k = 0; k < i && share; k++)
            if (plan->leader.at[k] == k && same_segment(&sequences[k].anchor, &sequences[i].anchor)) {
                plan->leader.at[i] = (uint32_t)k;
                shared = true;
                break;
            }
    }
    return shared;
}

/* The page table of a segment, shared by all that use the list. */
static bool add_table(fp_cuda_attention *plan, const fp_cuda_attention_segment *s, uint32_t *table)
{
    *table = (uint32_t)plan->pages.n;
    uint32_t *pages = plan->pages.add(s->n_pages);
    uint8_t *fills = plan->fills.add(s->n_pages);
    if (s->n_pages && (!pages || !fills))
        return false;
    if (s->n_pages)
        memcpy(pages, s->pages, s->n_pages * sizeof *pages);
    for (uint32_t p = 0; p < s->n_pages && p < s->causal_page; p++)
        fills[p] = s->filled ? s->filled[p] : PAGE;
    return true;
}

static bool add_list(fp_cuda_attention *plan, const fp_cuda_attention_segment *segment, uint32_t tokens,
                     uint32_t token, bool listed, bool team)
{
    List *list = plan->lists.add(1);
    if (!list)
        return false;
    uint32_t rows = tokens * plan->group;
    list->segment = segment;
    list->tokens = tokens;
    list->token = token;
    list->listed = listed;
    list->team = team;
    list->stacked = !team && rows > 4 * plan->tiles;
    list->block_rows = team ? team_rows(plan->config.d) : 4 * plan->tiles * (list->stacked ? QUAD : 1);
    list->blocks = ceil_div(rows, list->block_rows);
    return add_table(plan, segment, &list->table);
}

/* Tokens of all sequences that share the anchor of sequence i. */
static bool add_anchor_list(fp_cuda_attention *plan, const fp_cuda_attention_sequence *sequences, size_t n,
                            size_t i)
{
    uint32_t at = (uint32_t)plan->token_lists.n, tokens = 0, first = sequences[i].first_token;
    bool consecutive = true, team = false;
    for (size_t k = i; k < n; k++) {
        if (plan->leader.at[k] != i)
            continue;
        team = team || sequences[k].tokens > DECODE_TOKENS;
        uint32_t *list = plan->token_lists.add(sequences[k].tokens);
        if (!list)
            return false;
        for (uint32_t t = 0; t < sequences[k].tokens; t++) {
            list[t] = sequences[k].first_token + t;
            consecutive = consecutive && list[t] == first + tokens;
            tokens++;
        }
    }
    if (consecutive)
        plan->token_lists.n = at;
    return add_list(plan, &sequences[i].anchor, tokens, consecutive ? first : at, !consecutive, team);
}

Item *add_item(fp_cuda_attention *plan, const List *list, uint32_t block, Array<Item> *items)
{
    Item *item = items->add(1);
    if (!item)
        return nullptr;
    uint32_t rows = list->tokens * plan->group, first = block * list->block_rows;
    const fp_cuda_attention_segment *s = list->segment;
    item->word[TOKEN] = list->token;
    item->word[FLAGS] = list->listed ? LISTED : 0;
    item->word[FIRST_ROW] = first;
    item->word[ROWS] = min_of(rows - first, list->block_rows);
    item->word[LIMIT] = PAGE * s->causal_page + s->causal_tokens + 1;
    return item;
}

/* Rows of a whole item: of the prefill kernel, or of a team. */
static uint32_t whole_rows(const fp_cuda_attention *plan)
{
    return plan->prefill_groups ? 64 * plan->prefill_groups : team_rows(plan->config.d);
}

/* A block of query tokens that takes both of its segments from start to end. */
static bool add_whole(fp_cuda_attention *plan, const fp_cuda_attention_sequence *s)
{
    List list = {};
    list.segment = &s->context;
    list.tokens = s->tokens;
    list.token = s->first_token;
    list.team = true;
    list.block_rows = whole_rows(plan);
    list.blocks = ceil_div(s->tokens * plan->group, list.block_rows);
    uint32_t anchor_table;
    if (!add_table(plan, &s->context, &list.table) || !add_table(plan, &s->anchor, &anchor_table))
        return false;
    for (uint32_t block = 0; block < list.blocks; block++) {
        Item *item = add_item(plan, &list, block, plan->prefill_groups ? &plan->prefills : &plan->team_items);
        if (!item)
            return false;
        uint32_t *w = item->word;
        w[FLAGS] |= WHOLE;
        w[PAGES] = s->context.n_pages ? block_pages(plan, &list, block) : 0;
        w[TABLE] = list.table;
        w[MODE] = s->mode;
        w[GAMMA_ROW] = s->gamma_row;
        List anchor = list;
        anchor.segment = &s->anchor;
        w[ANCHOR_TABLE] = anchor_table;
        w[ANCHOR_PAGES] = s->anchor.n_pages ? block_pages(plan, &anchor, block) : 0;
        w[ANCHOR_LIMIT] = PAGE * s->anchor.causal_page + s->anchor.causal_tokens + 1;
    }
    return true;
}

static int longest_first(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x > y ? -1 : x < y;
}

/* Pages of all whole items of the step, longest first → plan->lengths; returns their sum. */
static bool list_lengths(fp_cuda_attention *plan, const fp_cuda_attention_sequence *sequences, size_t n,
                         uint64_t *sum)
{
    uint32_t most = whole_rows(plan);
    plan->lengths.n = 0;
    *sum = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t rows = sequences[i].tokens * plan->group, blocks = ceil_div(rows, most);
        if (sequences[i].tokens <= DECODE_TOKENS)
            continue;
        uint32_t *length = plan->lengths.add(blocks);
        if (!length)
            return false;
        for (uint32_t b = 0; b < blocks; b++) {
            uint32_t tokens = ceil_div(min_of((b + 1) * most, rows), plan->group);
            length[b] = seen_pages(&sequences[i].anchor, tokens) + seen_pages(&sequences[i].context, tokens);
            *sum += length[b];
        }
    }
    qsort(plan->lengths.at, plan->lengths.n, sizeof *plan->lengths.at, longest_first);
    return true;
}

/* Time of the CTA that has most to do, going back and forth over the CTAs as the prefill kernel does. */
static uint64_t longest_cta(const fp_cuda_attention *plan, uint32_t page_cost, uint32_t unit_cost)
{
    uint32_t hk = plan->config.kv_heads, grid = plan->grid;
    uint64_t units = (uint64_t)plan->lengths.n * hk, first = 0, last = 0;
    for (uint64_t k = 0; k < units; k += grid) {
        bool back = k / grid & 1;
        uint64_t a = back ? k + grid - 1 : k, b = back ? k : k + grid - 1;
        first += a < units ? plan->lengths.at[a / hk] * page_cost + unit_cost : 0;
        last += b < units ? plan->lengths.at[b / hk] * page_cost + unit_cost : 0;
    }
    return first > last ? first : last;
}

/* Query tokens of prefills take whole segments if that is faster than to split them between teams; chooses
 * the tiles of the prefill kernel. False: no memory. */
bool prefer_whole(fp_cuda_attention *plan, const fp_cuda_attention_sequence *sequences, size_t n, bool *whole)
{
    /* 1, 2, 3 groups: what a page takes and what a tile takes besides; a page of a team if all CTAs have the
     * same work. In 1/17 µs of an H100. What teams do is merged, about 3.5 ns a row: 512 tokens with 32
     * heads took 83 µs in teams, 29 in tiles. */
    static const uint32_t page_cost[PREFILL_GROUPS] = {27, 40, 56},
                          unit_cost[PREFILL_GROUPS] = {100, 110, 120}, team_cost = 95;
    uint32_t forced = fp__cuda_attention_tuning[FP__TUNE_WHOLE],
             tiles = fp__cuda_attention_tuning[FP__TUNE_PREFILL], best_groups = 0;
    uint64_t best = 0, sum, merged_rows = 0;
    for (size_t i = 0; i < n; i++)
        merged_rows += sequences[i].tokens > DECODE_TOKENS ? sequences[i].tokens * plan->config.heads : 0;
    for (uint32_t groups = PREFILL_GROUPS; groups >= 1 && plan->prefill[0].kernel && tiles <= PREFILL_GROUPS;
         groups--) {
        if (tiles && groups != tiles)
            continue;
        plan->prefill_groups = groups;
        if (!list_lengths(plan, sequences, n, &sum))
            return false;
        uint64_t cost = longest_cta(plan, page_cost[groups - 1], unit_cost[groups - 1]);
        if (best_groups == 0 || cost < best)
            best_groups = groups, best = cost;
    }
    plan->prefill_groups = 0;
    if (!list_lengths(plan, sequences, n, &sum))
        return false;
    uint64_t longest = plan->lengths.n ? plan->lengths.at[0] : 0;
    sum *= plan->config.kv_heads;
    uint64_t teams = sum * team_cost + merged_rows * plan->grid / 17;
    *whole = best_groups ? best * plan->grid <= teams : sum >= 2 * longest * plan->grid;
    plan->prefill_groups = best_groups;
    if (forced)
        *whole = forced == 2;
    return true;
}

/* Lists of the step: who sees what together. */
bool make_lists(fp_cuda_attention *plan, const fp_cuda_attention_sequence *sequences, size_t n, bool whole)
{
    for (size_t i = 0; i < n; i++)
        if (whole && sequences[i].tokens > DECODE_TOKENS) {
            plan->leader.at[i] = NONE;
            if (!add_whole(plan, &sequences[i]))
                return false;
        }
    for (size_t i = 0; i < n;
         i++) { /* an anchor's leader may have left for whole items: the next one leads */
        uint32_t l = plan->leader.at[i];
        if (l != NONE && l != i && plan->leader.at[l] == NONE)
            for (size_t k = i; k < n; k++)
                if (plan->leader.at[k] == l)
                    plan->leader.at[k] = (uint32_t)i;
    }
    for (size_t i = 0; i < n; i++)
        if (plan->leader.at[i] == i && !add_anchor_list(plan, sequences, n, i))
            return false;
    for (size_t i = 0; i < n; i++)
        if (!(whole && sequences[i].tokens > DECODE_TOKENS) && sequences[i].context.n_pages &&
            !add_list(plan, &sequences[i].context, sequences[i].tokens, sequences[i].first_token, false,
                      sequences[i].tokens > DECODE_TOKENS))
            return false;
    return true;
}

} // namespace attn
} // namespace fp
