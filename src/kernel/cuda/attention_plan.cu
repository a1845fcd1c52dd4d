/* Host side of attention on the GPU: the work list of a step, and the launch. Written without the C++
 * library, so that C programs link it. */
#include "kernel/cuda/attention_plan.cuh"
#include "kernel/cuda/attention_prefill.h"
#include "kernel/cuda/attention_solo.h"

#include "core/error.h"
#include "fieldprint/cuda_attention.h"
#include "kernel/cuda/attention_launch.cuh"

#include <cuda_runtime.h>
#include <stdlib.h>
#include <string.h>

using namespace fp::attn;

uint32_t fp__cuda_attention_tuning[FP__TUNE_COUNT];

namespace
{

constexpr uint32_t DECODE_TOKENS = 8; /* sequences of more query tokens in a step are for teams */
static_assert(sizeof(Header) <= HEADER_WORDS * 4 && sizeof(Control) <= CONTROL_WORDS * 4,
              "they have their place");

/* A growing array of plain values. */
template <typename T> struct Array {
    T *at;
    size_t n, room;
    T *add(size_t count)
    {
        if (n + count > room) {
            size_t more = 2 * (n + count) + 64;
            T *p = (T *)realloc((void *)at, more * sizeof(T));
            if (!p)
                return nullptr;
            at = p;
            room = more;
        }
        T *first = at + n;
        n += count;
        memset((void *)first, 0, count * sizeof(T));
        return first;
    }
};

struct Item {
    uint32_t word[ITEM_WORDS];
};

/* Query tokens that see one segment together. */
struct List {
    const fp_cuda_attention_segment *segment;
    uint32_t tokens, token; /* consecutive from `token`, or listed at `token` */
    bool listed, team;
    uint32_t table, block_rows, blocks, stream_at;
};

/* The prefill kernel of tiles of so many groups. */
struct Prefill {
    Kernel kernel;
    uint32_t stages;
    size_t shared_bytes;
};

} // namespace

struct fp_cuda_attention {
    fp_cuda_attention_config config;
    uint32_t group, grid, team_stages, decode_stages, level_bytes;
    size_t decode_bytes, team_bytes, state_rows, plan_words; /* bytes of shared memory */
    Kernel decode, team;
    Prefill prefill[PREFILL_GROUPS]; /* no kernels where this GPU has none for the head size */
    uint32_t prefill_groups;         /* of the step's tiles */
    Array<uint32_t> lengths;
    float4 *prefill_scratch;
    uint32_t *device_plan, *staging;
    uint8_t *states; /* heads, then o */
    float *anchor_scratch;
    cudaEvent_t copied;
    bool planned;
    Solo solo;
    const SoloKernel *alone; /* of the step; null: it takes the general kernels */
    uint32_t anchor_pieces;  /* of a step of one sequence */
    Array<uint32_t> piece_flags;
    uint32_t merge_ctas, merge_bytes, decode_singles;
    Array<Item> decode_items, team_items, prefills; /* prefills: whole items of the prefill kernel */
    Array<uint32_t> token_lists, pages;
    Array<uint8_t> fills;
    Array<List> lists;
    Array<MergeToken> merges;
    Array<MergeStream> streams;
    Array<uint32_t> leader; /* per sequence: the first with the same anchor */
    size_t used_rows;
};

static fp_status cuda_failed(cudaError_t e, const char *what)
{
    return fp__fail(e == cudaErrorMemoryAllocation ? FP_NO_MEMORY : FP_UNSUPPORTED, "%s: %s", what,
                    cudaGetErrorString(e));
}

#define CUDA_TRY(call, what)                                                                                 \
    do {                                                                                                     \
        cudaError_t cuda_error = (call);                                                                     \
        if (cuda_error != cudaSuccess)                                                                       \
            return cuda_failed(cuda_error, what);                                                            \
    } while (0)

static fp_status out_of_memory(void)
{
    return fp__fail(FP_NO_MEMORY, "no memory for the work list of attention");
}

static uint32_t ceil_div(uint32_t a, uint32_t b)
{
    return (a + b - 1) / b;
}
static uint32_t min_of(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static bool find_kernels(fp_cuda_attention *plan)
{
    switch (plan->config.d) {
    case 64:
        plan->decode = decode_kernel_64(), plan->team = team_kernel_64();
        return true;
    case 96:
        plan->decode = decode_kernel_96(), plan->team = team_kernel_96();
        return true;
    case 128:
        plan->decode = decode_kernel_128(), plan->team = team_kernel_128();
        return true;
    case 256:
        plan->decode = decode_kernel_256(), plan->team = team_kernel_256();
        return true;
    default:
        return false;
    }
}

static uint32_t team_rows(uint32_t d)
{
    return (uint32_t)(8 * WARPS * team_tiles((int)d));
}

static fp_status choose_shape(fp_cuda_attention *plan)
{
    int device, sms, shared;
    CUDA_TRY(cudaGetDevice(&device), "no GPU to plan for");
    CUDA_TRY(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device),
             "reading the GPU's properties");
    CUDA_TRY(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
             "reading the GPU's properties");
    uint32_t d = plan->config.d, stage = stage_bytes(d), room = (uint32_t)shared - 1024;
    uint32_t levels = TEAM_BARRIER_BYTES + 2 * team_rows(d) * d * 4;
    plan->grid = (uint32_t)sms;
    plan->level_bytes = team_rows(d) * d * 4;
    plan->decode_stages = min_of((room - DECODE_FIXED_BYTES) / DECODE_WARPS / stage, MAX_STAGES);
    plan->team_stages = room > levels ? min_of((room - levels) / stage, MAX_STAGES) : 0;
    if (plan->decode_stages == 0 || plan->team_stages < 3)
        return fp__fail(FP_UNSUPPORTED,
                        "this GPU has %d bytes of shared memory per block, too few for heads of %u", shared,
                        d);
    plan->decode_bytes = DECODE_FIXED_BYTES + (size_t)DECODE_WARPS * plan->decode_stages * stage;
    plan->team_bytes = levels + (size_t)plan->team_stages * stage;
    CUDA_TRY(cudaFuncSetAttribute(plan->decode, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  (int)plan->decode_bytes),
             "reserving shared memory");
    CUDA_TRY(
        cudaFuncSetAttribute(plan->team, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)plan->team_bytes),
        "reserving shared memory");
    return FP_OK;
}

/* The prefill kernels, if this GPU has them for the head size. */
static fp_status choose_prefill(fp_cuda_attention *plan)
{
    int device, shared;
    uint32_t d = plan->config.d, stage = prefill_stage_bytes(d);
    Kernel (*kernel_of_groups)(uint32_t) = d == 64    ? prefill_kernel_64
                                           : d == 96  ? prefill_kernel_96
                                           : d == 128 ? prefill_kernel_128
                                                      : nullptr;
    if (!kernel_of_groups || !prefill_built())
        return FP_OK;
    CUDA_TRY(cudaGetDevice(&device), "no GPU to plan for");
    CUDA_TRY(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
             "reading the GPU's properties");
    for (uint32_t groups = 1; groups <= PREFILL_GROUPS; groups++) {
        Prefill *p = &plan->prefill[groups - 1];
        uint32_t fixed = PREFILL_BARRIER_BYTES + groups * prefill_group_bytes(d);
        if ((uint32_t)shared < fixed + 4 * stage)
            return FP_OK;
        p->stages = min_of(((uint32_t)shared - fixed) / stage, 8);
        p->shared_bytes = fixed + p->stages * stage;
        p->kernel = kernel_of_groups(groups);
        CUDA_TRY(cudaFuncSetAttribute(p->kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      (int)p->shared_bytes),
                 "reserving shared memory");
    }
    return FP_OK;
}

static fp_status allocate(fp_cuda_attention *plan)
{
    const fp_cuda_attention_config *c = &plan->config;
    size_t rows = plan->group * min_of(c->max_tokens, DECODE_TOKENS),
           row_bytes = 4 * c->d + sizeof(StateHead);
    plan->state_rows = c->state_bytes / row_bytes;
    if (c->state_bytes == 0)
        plan->state_rows =
            c->kv_heads * ((size_t)c->max_pages / CHUNK_PAGES + 4 * (size_t)c->max_sequences) * rows +
            5 * (size_t)plan->grid * WARPS * rows + 40 * (size_t)plan->grid * team_rows(c->d);
    plan->state_rows = (plan->state_rows + 7) / 8 * 8; /* o begins at a cache line */
    plan->plan_words = 131072 + (size_t)c->max_pages * 34 + (size_t)c->max_sequences * (8 * ITEM_WORDS + 64) +
                       (size_t)c->max_tokens * (plan->group + sizeof(MergeToken) / 4 + 2);
    CUDA_TRY(cudaMalloc((void **)&plan->device_plan, plan->plan_words * 4),
             "device memory for attention's plan");
    CUDA_TRY(cudaMallocHost((void **)&plan->staging, plan->plan_words * 4),
             "pinned memory for attention's plan");
    CUDA_TRY(cudaMalloc((void **)&plan->states, plan->state_rows * row_bytes),
             "device memory for attention's states");
    CUDA_TRY(cudaMalloc((void **)&plan->anchor_scratch, (size_t)plan->grid * plan->level_bytes),
             "device memory for attention's anchor states");
    if (plan->prefill[0].kernel)

        CUDA_TRY(
            cudaMalloc((void **)&plan->prefill_scratch, (size_t)plan->grid * prefill_scratch_bytes(c->d)),
            "device memory for prefill's states");
    CUDA_TRY(cudaEventCreateWithFlags(&plan->copied, cudaEventDisableTiming),
             "an event for attention's plan");
    return FP_OK;
}

fp_status fp_cuda_attention_create(const fp_cuda_attention_config *config, fp_cuda_attention **out)
{
    uint32_t hk = config->kv_heads;
    fp_cuda_attention *plan = (fp_cuda_attention *)calloc(1, sizeof *plan);
    if (!plan)
        return out_of_memory();
    plan->config = *config;
    plan->solo.device = -1;
    if (hk == 0 || config->heads % hk || config->heads / hk == 0 || config->heads / hk > 16 ||
        !find_kernels(plan)) {
        free(plan);
        return fp__fail(
            FP_USAGE,
            "attention on the GPU knows heads of 64, 96, 128 and 256 in groups of 1 to 16, not %u/%u "
            "heads of %u",
            config->heads, hk, config->d);
    }
    plan->group = config->heads / hk;
    fp_status status = choose_shape(plan);
    if (status == FP_OK)
        status = choose_prefill(plan);
    if (status == FP_OK)
        status = solo_create(&plan->config, plan->grid, &plan->solo);
    if (status == FP_OK)
        status = allocate(plan);
    if (status != FP_OK) {
        fp_cuda_attention_destroy(plan);
        return status;
    }
    *out = plan;
    return FP_OK;
}

void fp_cuda_attention_destroy(fp_cuda_attention *plan)
{
    if (!plan)
        return;
    if (plan->copied)
        cudaEventDestroy(plan->copied);
    cudaFree(plan->device_plan);
    cudaFreeHost(plan->staging);
    cudaFree(plan->states);
    cudaFree(plan->anchor_scratch);
    cudaFree(plan->prefill_scratch);
    solo_destroy(&plan->solo);
    free(plan->decode_items.at);
    free(plan->team_items.at);
    free(plan->prefills.at);
    free(plan->lengths.at);
    free(plan->token_lists.at);
    free(plan->pages.at);
    free(plan->fills.at);
    free(plan->lists.at);
    free(plan->merges.at);
    free(plan->streams.at);
    free(plan->leader.at);
    free(plan->piece_flags.at);
    free(plan);
}

/* ---- the work list
 * ------------------------------------------------------------------------------------------------ */

static bool causal(const fp_cuda_attention_segment *s)
{
    return s->causal_page < s->n_pages;
}

/* Pages that the first `tokens` query tokens see. */
static uint32_t seen_pages(const fp_cuda_attention_segment *s, uint32_t tokens)
{
    return causal(s) ? s->causal_page + ceil_div(s->causal_tokens + tokens, PAGE) : s->n_pages;
}

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

static fp_status check_step(const fp_cuda_attention *plan, const fp_cuda_attention_sequence *sequences,
                            size_t n)
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

static Item *add_item(fp_cuda_attention *plan, const List *list, uint32_t block, Array<Item> *items)
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

static uint32_t block_pages(const fp_cuda_attention *plan, const List *list, uint32_t block)
{
    uint32_t rows = list->tokens * plan->group, end = min_of((block + 1) * list->block_rows, rows);
    return seen_pages(list->segment, (end - 1) / plan->group + 1);
}

/* States that an item of these pages writes. */
static uint32_t count_pieces(uint32_t first, uint32_t end)
{
    uint32_t n = 0;
    for (; first < end; n++)
        first += first % CHUNK_PAGES == 0 ? CHUNK_PAGES : SPAN_PAGES;
    return n;
}

static bool stacked(const List *list)
{
    return !list->team && list->block_rows > SPLIT_ROWS;
}

/* Pages of the item that begins at page `first`. Of split lists, a short end is done span by span, or, if it
 * has two spans, for two KV heads at once. */
static uint32_t item_pages(const fp_cuda_attention *plan, const List *list, uint32_t pages, uint32_t first,
                           uint32_t step)
{
    uint32_t left = pages - first, pair = plan->config.kv_heads % 2 == 0 ? 2 * SPAN_PAGES : SPAN_PAGES;
    if (!list->team && !stacked(list) && step == CHUNK_PAGES && left <= 2 * SPAN_PAGES)
        step = left <= SPAN_PAGES ? SPAN_PAGES : pair;
    return min_of(step, left);
}

/* Pages of an item that were complete before the step. */
static uint32_t early_pages(const fp_cuda_attention_segment *s, uint32_t first, uint32_t n)
{
    uint32_t begun = s->causal_page + (causal(s) ? s->causal_tokens / PAGE : 0), early = 0;
    while (early < n && first + early < begun &&
           (first + early >= s->causal_page || !s->filled || s->filled[first + early] == PAGE))
        early++;
    return early;
}

static void inline_pages(const fp_cuda_attention *plan, const List *list, uint32_t first, uint32_t n,
                         uint32_t *w)
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
        stream->pieces += count_pieces(first, first + n);
    }
    stream->rows = rows;
    stream->stride = stream->pieces * rows;
    plan->used_rows += (size_t)stream->stride * plan->config.kv_heads;
    for (uint32_t first = 0, n; first < pages; first += n) {
        Item *item = add_item(plan, list, block, list->team ? &plan->team_items : &plan->decode_items);
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
        if (!list->team) {
            w[FLAGS] |= stacked(list) ? STACKED : n <= SPAN_PAGES ? PAGED : 0;
            if (!stacked(list) && n > SPAN_PAGES && n <= 2 * SPAN_PAGES && plan->config.kv_heads % 2 == 0)
                w[FLAGS] |= PAIRED;
            w[EARLY] = early_pages(list->segment, first, n);
        }
        state += count_pieces(first, first + n) * rows;
    }
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
    list->block_rows =
        team ? team_rows(plan->config.d) : (uint32_t)(rows > SPLIT_ROWS ? STACKED_ROWS : SPLIT_ROWS);
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

static void find_leaders(fp_cuda_attention *plan, const fp_cuda_attention_sequence *sequences, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        plan->leader.at[i] = NONE;
        if (sequences[i].anchor.n_pages == 0)
            continue;
        plan->leader.at[i] = (uint32_t)i;
        for (size_t k = 0; k < i && !fp__cuda_attention_tuning[FP__TUNE_UNSHARED]; k++)
            if (plan->leader.at[k] == k && same_segment(&sequences[k].anchor, &sequences[i].anchor)) {
                plan->leader.at[i] = (uint32_t)k;
                break;
            }
    }
}

static void add_merge_segment(const fp_cuda_attention *plan, const List *list, uint32_t index,
                              MergeSegment *out)
{
    out->blocks = list->blocks;
    out->row = index * plan->group;
    out->rows_per_stream = list->block_rows;
    out->stream_at = list->stream_at;
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

/* Pages of the CTA that has most of them, going back and forth over the CTAs as the prefill kernel does. */
static uint64_t longest_cta(const fp_cuda_attention *plan)
{
    uint32_t hk = plan->config.kv_heads, grid = plan->grid;
    uint64_t units = (uint64_t)plan->lengths.n * hk, first = 0, last = 0;
    for (uint64_t k = 0; k < units; k += grid) {
        bool back = k / grid & 1;
        uint64_t a = back ? k + grid - 1 : k, b = back ? k : k + grid - 1;
        first += a < units ? plan->lengths.at[a / hk] : 0;
        last += b < units ? plan->lengths.at[b / hk] : 0;
    }
    return first > last ? first : last;
}

/* Query tokens of prefills take whole segments if that is faster than to split them between teams; chooses
 * the tiles of the prefill kernel. False: no memory. */
static bool prefer_whole(fp_cuda_attention *plan, const fp_cuda_attention_sequence *sequences, size_t n,
                         bool *whole)
{
    /* a page takes so long (in 100 cycles) with 1, 2, 3 groups, and with a team if all CTAs have the same
     * work */
    static const uint32_t page_cost[PREFILL_GROUPS] = {27, 42, 58}, team_cost = 95;
    uint32_t forced = fp__cuda_attention_tuning[FP__TUNE_WHOLE],
             tiles = fp__cuda_attention_tuning[FP__TUNE_PREFILL], best_groups = 0;
    uint64_t best = 0, sum;
    for (uint32_t groups = PREFILL_GROUPS; groups >= 1 && plan->prefill[0].kernel && tiles <= PREFILL_GROUPS;
         groups--) {
        if (tiles && groups != tiles)
            continue;
        plan->prefill_groups = groups;
        if (!list_lengths(plan, sequences, n, &sum))
            return false;
        uint64_t cost = longest_cta(plan) * page_cost[groups - 1];
        if (best_groups == 0 || cost < best)
            best_groups = groups, best = cost;
    }
    plan->prefill_groups = 0;
    if (!list_lengths(plan, sequences, n, &sum))
        return false;
    uint64_t longest = plan->lengths.n ? plan->lengths.at[0] : 0;
    sum *= plan->config.kv_heads;
    *whole = best_groups ? best * plan->grid <= sum * team_cost : sum >= 2 * longest * plan->grid;
    plan->prefill_groups = best_groups;
    if (forced)
        *whole = forced == 2;
    return true;
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

/* Lists of the step: who sees what together. */
static bool make_lists(fp_cuda_attention *plan, const fp_cuda_attention_sequence *sequences, size_t n,
                       bool whole)
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

/* ---- a step of one sequence -----------------------------------------------------------------------------
 */

/* Chunks that are one item each; the rest goes span by span. */
static uint32_t choose_chunks(fp_cuda_attention *plan)
{
    uint32_t whole = 0, spans = 0;
    for (size_t i = 0; i < plan->lists.n; i++) {
        whole += block_pages(plan, &plan->lists.at[i], 0) / CHUNK_PAGES;
        spans += ceil_div(block_pages(plan, &plan->lists.at[i], 0), SPAN_PAGES);
    }
    return solo_chunks(&plan->solo, whole, spans);
}

static bool add_solo_item(fp_cuda_attention *plan, const List *list, uint32_t first, uint32_t n,
                          uint32_t piece)
{
    Item *item = add_item(plan, list, 0, &plan->decode_items);
    if (!item)
        return false;
    uint32_t *w = item->word;
    w[FIRST_PAGE] = first;
    w[PAGES] = n;
    w[STATE] = piece;
    inline_pages(plan, list, first, n, w);
    w[FLAGS] |= n > SPAN_PAGES ? 0 : PAGED;
    w[EARLY] = early_pages(list->segment, first, n);
    return true;
}

/* Items of a step of one sequence: chunks, then spans; each makes the piece whose number it has. */
static bool solo_items(fp_cuda_attention *plan, bool anchor)
{
    uint32_t chunks = choose_chunks(plan);
    plan->decode_items.n = plan->piece_flags.n = 0;
    plan->anchor_pieces = 0;
    for (int spans = 0; spans < 2; spans++) {
        uint32_t piece = 0, left = chunks;
        for (size_t i = 0; i < plan->lists.n; i++) {
            const List *list = &plan->lists.at[i];
            uint32_t pages = block_pages(plan, list, 0);
            for (uint32_t first = 0, n; first < pages; first += n, piece++) {
                bool chunk = left && first % CHUNK_PAGES == 0 && pages - first >= CHUNK_PAGES;
                n = chunk ? CHUNK_PAGES : min_of(SPAN_PAGES, pages - first);
                left -= chunk;
                if (chunk == !spans && !add_solo_item(plan, list, first, n, piece))
                    return false;
                if (!spans)
                    continue;
                uint32_t *flags = plan->piece_flags.add(1);
                if (!flags)
                    return false;
                *flags = ((first + n) % CHUNK_PAGES == 0 || first + n == pages ? PIECE_ENDS : 0u) |
                         first % CHUNK_PAGES / SPAN_PAGES << PIECE_BACK;
            }
            if (anchor && i == 0)
                plan->anchor_pieces = piece;
        }
    }
    return true;
}

enum ListKind { TEAM_LIST, SPLIT_LIST, STACKED_LIST };
static ListKind kind_of(const List *list)
{
    return list->team ? TEAM_LIST : stacked(list) ? STACKED_LIST : SPLIT_LIST;
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

/* Pages of items by kind of list: fine where there is little work, so that all take part. A quad needs about
 * 3 µs for a split unit of a span, of which a third is not its page, and 9 µs for a chunk. */
static void choose_steps(const fp_cuda_attention *plan, uint32_t (&step)[3])
{
    uint64_t quads = (uint64_t)QUADS * plan->grid, spans = count_units(plan, SPLIT_LIST, SPAN_PAGES),
             chunks = count_units(plan, SPLIT_LIST, CHUNK_PAGES),
             team = count_units(plan, TEAM_LIST, SPAN_PAGES);
    bool fine = 3 * ((spans + quads - 1) / quads) < 9 * ((chunks + quads - 1) / quads);
    step[SPLIT_LIST] = fine ? SPAN_PAGES : CHUNK_PAGES;
    step[STACKED_LIST] = count_units(plan, STACKED_LIST, CHUNK_PAGES) < 3 * quads ? SPAN_PAGES : CHUNK_PAGES;
    step[TEAM_LIST] = SPAN_PAGES;
    while (step[TEAM_LIST] < 64 * CHUNK_PAGES && team * SPAN_PAGES / step[TEAM_LIST] >= 16ull * plan->grid)
        step[TEAM_LIST] *= 4;
    const uint32_t *tuned = fp__cuda_attention_tuning;
    if (tuned[FP__TUNE_SPLIT_PAGES])
        step[SPLIT_LIST] = tuned[FP__TUNE_SPLIT_PAGES];
    if (tuned[FP__TUNE_STACKED_PAGES])
        step[STACKED_LIST] = tuned[FP__TUNE_STACKED_PAGES];
    if (tuned[FP__TUNE_TEAM_PAGES])
        step[TEAM_LIST] = tuned[FP__TUNE_TEAM_PAGES];
}

static bool split_lists(fp_cuda_attention *plan, const uint32_t (&step)[3])
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

static int decode_rank(const uint32_t *w)
{
    bool longs = w[PAGES] > SPAN_PAGES;
    return w[FLAGS] & PAIRED ? 4 : w[FLAGS] & STACKED ? !longs : 3 - longs;
}

/* Most work first, paired items last. Stable: items of neighbouring pages stay together. */
static bool order_decode(fp_cuda_attention *plan)
{
    Array<Item> *items = &plan->decode_items;
    size_t n = items->n, at = 0;
    Item *copy = items->add(n); /* room behind the items */
    items->n = n;
    if (n && !copy)
        return false;
    for (int rank = 0; rank < 5; rank++) {
        plan->decode_singles = (uint32_t)at; /* at last: before the paired ones */
        for (size_t i = 0; i < n; i++)
            if (decode_rank(items->at[i].word) == rank)
                copy[at++] = items->at[i];
    }
    if (n)
        memcpy((void *)items->at, (void *)copy, n * sizeof(Item));
    return true;
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

/* Shared memory in which a merging warp has all pieces of most rows at once. */
static uint32_t merge_room(const fp_cuda_attention *plan, bool narrow)
{
    uint32_t pieces = 0, o = narrow ? 128 : 512, bytes;
    for (size_t i = 0; i < plan->streams.n; i++)
        pieces = plan->streams.at[i].pieces > pieces ? plan->streams.at[i].pieces : pieces;
    pieces *= 2; /* two segments */
    bytes = pieces < 32 ? 32 * MERGE_FACTOR_BYTES + pieces * o
                        : ceil_div(pieces, 32) * 32 * (MERGE_FACTOR_BYTES + o);
    return bytes < MERGE_LEAST_BYTES ? MERGE_LEAST_BYTES : min_of(bytes, MERGE_MOST_BYTES);
}

static fp_status upload(fp_cuda_attention *plan, const fp_cuda_attention_sequence *sequences,
                        cudaStream_t stream)
{
    Header h = {};
    if (plan->alone) {
        h.pieces = (uint32_t)plan->piece_flags.n;
        h.anchor_pieces = plan->anchor_pieces;
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
    uint64_t rows = (uint64_t)plan->merges.n * plan->config.heads;
    h.merge_narrow = rows * (plan->config.d / 32) <= (uint64_t)plan->grid * WARPS;
    uint64_t tasks = rows * ceil_div(plan->config.d, h.merge_narrow ? 32 : 128),
             most = (uint64_t)plan->grid * 16;
    plan->merge_ctas = (uint32_t)(tasks == 0 ? 1 : tasks < most ? tasks : most);
    plan->merge_bytes = merge_room(plan, h.merge_narrow);
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
    CUDA_TRY(cudaMemcpyAsync(plan->device_plan, plan->staging, word * 4, cudaMemcpyHostToDevice, stream),
             "copying attention's plan");
    CUDA_TRY(cudaEventRecord(plan->copied, stream), "copying attention's plan");
    plan->planned = true;
    return FP_OK;
}

fp_status fp_cuda_attention_plan(fp_cuda_attention *plan, const fp_cuda_attention_sequence *sequences,
                                 size_t n, void *stream)
{
    FP_TRY(check_step(plan, sequences, n));
    if (plan->planned)
        CUDA_TRY(cudaEventSynchronize(plan->copied), "waiting for attention's last plan");
    plan->leader.n = plan->pages.n = plan->fills.n = plan->token_lists.n = plan->team_items.n =
        plan->lists.n = 0;
    plan->prefills.n = 0;
    if (n && !plan->leader.add(n))
        return out_of_memory();
    find_leaders(plan, sequences, n);
    bool whole;
    if (!prefer_whole(plan, sequences, n, &whole))
        return out_of_memory();
    if (!make_lists(plan, sequences, n, whole))
        return out_of_memory();
    plan->merges.n = plan->piece_flags.n = 0;
    plan->alone = n == 1 ? solo_find(&plan->solo, sequences[0].tokens * plan->group) : nullptr;
    if (plan->alone) {
        plan->streams.n = 0;
        plan->used_rows = 0;
        if (!solo_items(plan, sequences[0].anchor.n_pages > 0))
            return out_of_memory();
        return upload(plan, sequences, (cudaStream_t)stream);
    }
    uint32_t step[3];
    choose_steps(plan, step);
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

fp_status fp_cuda_attention_run(fp_cuda_attention *plan, const fp_cuda_attention_run_args *args, void *stream)
{
    if (!plan->planned)
        return fp__fail(FP_USAGE, "attention was not planned; call fp_cuda_attention_plan first");
    Params p = {};
    p.plan = plan->device_plan;
    p.control = (Control *)(plan->device_plan + HEADER_WORDS);
    p.heads = (StateHead *)plan->states;
    p.states = (float *)(plan->states + plan->state_rows * sizeof(StateHead));
    p.q_planes = args->q_planes;
    p.q_scales = args->q_scales;
    p.kv = args->kv;
    p.group_bytes = args->group_bytes;
    p.layer_offset = args->layer_offset;
    p.gamma = args->gamma;
    p.out = args->out;
    p.alpha = args->alpha;
    p.anchor_scratch = plan->anchor_scratch;
    p.heads_q = plan->config.heads;
    p.kv_heads = plan->config.kv_heads;
    p.group = plan->group;
    p.d = plan->config.d;
    p.team_stages = plan->team_stages;
    p.decode_stages = plan->decode_stages;
    p.level_bytes = plan->level_bytes;
    p.merge_bytes = plan->merge_bytes;
    p.high = 256;
    p.prefill_scratch = plan->prefill_scratch;
    cudaStream_t s = (cudaStream_t)stream;
    if (plan->alone) {
        p.solo = plan->alone->shape;
        CUDA_TRY(launch(plan->alone->kernel, plan->grid, SOLO_THREADS, plan->alone->shared_bytes, s, p),
                 "starting attention of one sequence");
        return FP_OK;
    }
    if (plan->prefills.n) {
        const Prefill *prefill = &plan->prefill[plan->prefill_groups - 1];
        p.prefill_stages = prefill->stages;
        prefill->kernel<<<plan->grid, prefill_threads(plan->prefill_groups), prefill->shared_bytes, s>>>(p);
        CUDA_TRY(cudaGetLastError(), "starting attention of prefills");
    }
    if (plan->decode_items.n)
        CUDA_TRY(launch(plan->decode, plan->grid, DECODE_WARPS * 32, plan->decode_bytes, s, p),
                 "starting attention");
    if (plan->team_items.n)
        CUDA_TRY(launch(plan->team, plan->grid, WARPS * 32, plan->team_bytes, s, p), "starting attention");
    if (plan->decode_items.n == 0 && plan->team_items.n == 0)
        return FP_OK;
    CUDA_TRY(launch(merge_kernel(), plan->merge_ctas, MERGE_THREADS, plan->merge_bytes, s, p),
             "starting the merge of attention");
    return FP_OK;
}
