/* The plan of a step: its work, cut and ordered, who merges, and all of it on the GPU. */
#include "core/error.h"
#include "kernel/cuda/attention_work.cuh"
#include "kernel/cuda/try.h"

#include <cuda_runtime.h>

using namespace fp::attn;

static_assert(sizeof(Header) <= HEADER_WORDS * 4 && sizeof(Control) <= CONTROL_WORDS * 4,
              "they have their place");

static fp_status out_of_memory(void)
{
    return fp__fail(FP_NO_MEMORY, "no memory for the work list of attention");
}

static void add_merge_segment(const fp_cuda_attention *plan, const List *list, uint32_t index,
                              MergeSegment *out)
{
    out->blocks = list->blocks;
    out->row = index * plan->group;
    out->rows_per_stream = list->block_rows;
    out->stream_at = list->stream_at;
}

/* One record for each token whose outputs are merged from states. Lists are in the order make_lists made
 * them. */
static bool make_merges(fp_cuda_attention *plan, const fp_cuda_attention_sequence *sequences, size_t n,
                        bool whole)
{
    size_t anchors = 0, list = 0;
    for (size_t i = 0; i < n; i++)
        anchors += plan->leader.at[i] == i;
    list = anchors;
    for (size_t i = 0; i < n; i++) {
        const fp_cuda_attention_sequence *s = &sequences[i];
        if (whole && s->tokens > DECODE_TOKENS)
            continue;
        const List *anchor = nullptr, *context = s->context.n_pages ? &plan->lists.at[list++] : nullptr;
        uint32_t before = 0, leader = plan->leader.at[i];
        if (leader != NONE) {
            size_t order = 0;
            for (size_t k = 0; k < leader; k++)
                order += plan->leader.at[k] == k;
            for (size_t k = leader; k < i; k++)
                before += plan->leader.at[k] == leader ? sequences[k].tokens : 0;
            anchor = &plan->lists.at[order];
        }
        MergeToken *m = plan->merges.add(s->tokens);
        if (!m)
            return false;
        for (uint32_t t = 0; t < s->tokens; t++) {
            m[t].token = s->first_token + t;
            m[t].mode = s->mode;
            m[t].gamma_row = s->gamma_row;
            if (anchor)
                add_merge_segment(plan, anchor, before + t, &m[t].segment[0]);
            if (context)
                add_merge_segment(plan, context, t, &m[t].segment[1]);
        }
    }
    return true;
}

template <typename T> static uint32_t place(fp_cuda_attention *plan, size_t *word, const Array<T> &a)
{
    size_t at = (*word + 3) / 4 * 4, bytes = a.n * sizeof(T);
    if (at + (bytes + 3) / 4 <= plan->plan_words && bytes)
        memcpy(plan->staging + at, a.at, bytes);
    *word = at + (bytes + 3) / 4;
    return (uint32_t)at;
}

/* Who merges: a CTA a row where all have one, else a warp, of as few channels as keeps to one round. */
static void choose_merge(fp_cuda_attention *plan, Header *h)
{
    static const struct {
        MergeForm form;
        uint32_t channels, crews; /* crews of a CTA */
    } forms[] = {
        {MERGE_CTA, 32, 1}, {MERGE_WARP_32, 32, 4}, {MERGE_WARP_64, 64, 4}, {MERGE_WARP_128, 128, 4}};
    uint64_t rows = (uint64_t)plan->merges.n * plan->config.heads;
    for (size_t i = 0; i < 4; i++) {
        uint64_t tasks = rows * ceil_div(plan->config.d, forms[i].channels),
                 ctas = (tasks + forms[i].crews - 1) / forms[i].crews;
        bool last = i == 3 || (i && forms[i].channels >= plan->config.d);
        if (tuned_or(FP__TUNE_MERGE, 0) ? tuned_or(FP__TUNE_MERGE, 0) != i + 1 : ctas > plan->grid && !last)
            continue;
        h->merge_form = forms[i].form;
        plan->merge_ctas = (uint32_t)(ctas == 0 ? 1 : ctas < plan->grid ? ctas : plan->grid);
        return;
    }
}

static fp_status upload(fp_cuda_attention *plan, const fp_cuda_attention_sequence *sequences,
                        cudaStream_t stream)
{
    Header h = {};
    if (plan->alone) {
        h.pieces = (uint32_t)plan->piece_flags.n;
        h.anchor_pieces = plan->solo.anchor_pieces;
        h.mode = sequences[0].mode;
        h.gamma_row = sequences[0].gamma_row;
    }
    size_t word = DECODE_AT;
    memset(plan->staging, 0, DECODE_AT * 4);
    place(plan, &word, plan->decode_items);
    uint32_t streams_at = place(plan, &word, plan->streams);
    for (size_t i = 0; i < plan->merges.n; i++)
        for (int s = 0; s < 2; s++)
            plan->merges.at[i].segment[s].stream_at =
                streams_at + plan->merges.at[i].segment[s].stream_at * (uint32_t)(sizeof(MergeStream) / 4);
    h.team_items = (uint32_t)plan->team_items.n;
    h.decode_items = (uint32_t)plan->decode_items.n;
    h.decode_singles = plan->decode_singles;
    h.merge_tokens = (uint32_t)plan->merges.n;
    h.prefill_items = (uint32_t)plan->prefills.n;
    choose_merge(plan, &h);
    h.team_at = place(plan, &word, plan->team_items);
    h.prefill_at = place(plan, &word, plan->prefills);
    h.merge_at = place(plan, &word, plan->merges);
    h.tokens_at = place(plan, &word, plan->token_lists);
    h.pages_at = place(plan, &word, plan->pages);
    h.fills_at = place(plan, &word, plan->fills);
    h.pieces_at = place(plan, &word, plan->piece_flags);
    if (word > plan->plan_words || plan->used_rows > plan->state_rows)
        return fp__fail(
            FP_LIMIT,
            "the work of this step needs %zu words and %zu state rows; there is room for %zu and %zu: "
            "create attention with larger limits",
            word, plan->used_rows, plan->plan_words, plan->state_rows);
    memcpy(plan->staging, &h, sizeof h);
    FP_CUDA(cudaMemcpyAsync(plan->device_plan, plan->staging, word * 4, cudaMemcpyHostToDevice, stream),
            "copying attention's plan");
    FP_CUDA(cudaEventRecord(plan->copied, stream), "copying attention's plan");
    plan->planned = true;
    return FP_OK;
}

/* Lists of the step's work, and in what steps they are cut. */
static fp_status make_work(fp_cuda_attention *plan, const fp_cuda_attention_sequence *sequences, size_t n,
                           bool share, bool *shared, bool *whole, uint32_t (&step)[3])
{
    plan->leader.n = plan->pages.n = plan->fills.n = plan->token_lists.n = plan->team_items.n =
        plan->lists.n = plan->prefills.n = 0;
    plan->cut = 0;
    if (n && !plan->leader.add(n))
        return out_of_memory();
    *shared = find_leaders(plan, sequences, n, share);
    if (!prefer_whole(plan, sequences, n, whole) || !make_lists(plan, sequences, n, *whole))
        return out_of_memory();
    choose_steps(plan, step);
    return FP_OK;
}

static int by_pages(const void *a, const void *b)
{
    const Item *x = (const Item *)a, *y = (const Item *)b;
    uint32_t px = x->word[PAGES] + (x->word[FLAGS] & WHOLE ? x->word[ANCHOR_PAGES] : 0);
    uint32_t py = y->word[PAGES] + (y->word[FLAGS] & WHOLE ? y->word[ANCHOR_PAGES] : 0);
    if (px != py)
        return px > py ? -1 : 1;
    return x < y ? -1 : x > y;
}

fp_status fp_cuda_attention_plan(fp_cuda_attention *plan, const fp_cuda_attention_sequence *sequences,
                                 size_t n, void *stream)
{
    FP_TRY(check_step(plan, sequences, n));
    if (plan->planned)
        FP_CUDA(cudaEventSynchronize(plan->copied), "waiting for attention's last plan");
    /* few and short units are done sooner side by side than stacked */
    bool whole, shared;
    uint32_t step[3], tuned = fp__cuda_attention_tuning[FP__TUNE_UNSHARED];
    FP_TRY(make_work(plan, sequences, n, tuned != 1, &shared, &whole, step));
    if (shared && !tuned) {
        uint64_t time = decode_time(plan, step);
        FP_TRY(make_work(plan, sequences, n, false, &shared, &whole, step));
        if (decode_time(plan, step) >= time)
            FP_TRY(make_work(plan, sequences, n, true, &shared, &whole, step));
    }
    plan->alone = n == 1 ? solo_choose(plan, sequences) : nullptr;
    plan->merges.n = plan->piece_flags.n = 0;
    if (plan->alone) {
        plan->streams.n = plan->used_rows = 0;
        if (!solo_items(plan, sequences))
            return out_of_memory();
        return upload(plan, sequences, (cudaStream_t)stream);
    }
    choose_cut(plan, step[SPLIT_LIST]);
    size_t whole_items = plan->team_items.n;
    for (;;) {
        plan->team_items.n = whole_items;
        plan->decode_items.n = plan->streams.n = 0;
        plan->used_rows = 0;
        if (!split_lists(plan, step))
            return out_of_memory();
        if (plan->used_rows <= plan->state_rows || step[TEAM_LIST] >= 64 * CHUNK_PAGES)
            break;
        step[SPLIT_LIST] = step[STACKED_LIST] = CHUNK_PAGES; /* fewer states */
        step[TEAM_LIST] = step[TEAM_LIST] < CHUNK_PAGES ? CHUNK_PAGES : 64 * CHUNK_PAGES;
    }
    qsort(plan->team_items.at, plan->team_items.n, sizeof(Item), by_pages);
    qsort(plan->prefills.at, plan->prefills.n, sizeof(Item), by_pages);
    if (!order_decode(plan) || !make_merges(plan, sequences, n, whole))
        return out_of_memory();
    return upload(plan, sequences, (cudaStream_t)stream);
}
