#include "kernel/cuda/attention_launch.cuh"
#include "kernel/cuda/attention_work.cuh"
#include "kernel/cuda/try.h"

namespace fp
{
namespace attn
{

/* The CTAs of the kernel wait for each other, so two of its grids must not share the GPU by halves: of all
 * plans of a process, one at a time has it on a device, and none where processes share the GPU (MPS). Its own
 * runs follow each other: one begins when the one before has all of its CTAs on the GPU. */
constexpr int DEVICES = 64;
static uint32_t taken[DEVICES];
constexpr uint32_t UNITS = 2; /* spans that a quad takes at most: longer contexts are not for this kernel */
constexpr uint32_t MOST_UNITS = 4; /* that may be asked for */
constexpr uint32_t WINDOW = 2;

static uint32_t most_spans(const Solo *solo, uint32_t units)
{
    return units * solo->quads / solo->kv_heads;
}

static void choose_shape(const Solo *solo, uint32_t d, uint32_t fours, uint32_t room, SoloKernel *k)
{
    uint32_t units = fours * d, stage = SOLO_QUADS * stage_bytes(d);
    SoloShape *s = &k->shape;
    s->stages = min_of((room - SOLO_RING) / stage, SOLO_MOST_STAGES);
    s->readers = min_of(solo->quads / solo->kv_heads, units);
    s->share = s->readers ? ceil_div(units, s->readers) : SOLO_SHARE + 1;
    s->readers = ceil_div(units, s->share);
    k->shared_bytes = SOLO_RING + (size_t)s->stages * stage;
}

/* Shared memory of a CTA: half a multiprocessor, so that those of two layers are there side by side; 0 where
 * the kernel cannot be. */
static fp_status find_room(uint32_t d, int device, uint32_t *room)
{
    int major, shared, reserved, mps;
    FP_CUDA(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
            "reading the GPU's properties");
    FP_CUDA(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device),
            "reading the GPU's properties");
    FP_CUDA(cudaDeviceGetAttribute(&reserved, cudaDevAttrReservedSharedMemoryPerBlock, device),
            "reading the GPU's properties");
    FP_CUDA(cudaDeviceGetAttribute(&mps, cudaDevAttrMpsEnabled, device), "reading the GPU's properties");
    *room = (uint32_t)(shared / 2 - reserved);
    if (major < 9 || mps || *room < SOLO_RING + SOLO_QUADS * SOLO_LEAST_STAGES * stage_bytes(d))
        *room = 0;
    return FP_OK;
}

fp_status solo_create(const fp_cuda_attention_config *c, uint32_t grid, Solo *solo)
{
    int device;
    uint32_t room;
    Kernel (*kernel)(uint32_t) = c->d == 64    ? solo_kernel_64
                                 : c->d == 96  ? solo_kernel_96
                                 : c->d == 128 ? solo_kernel_128
                                               : nullptr;
    *solo = {};
    solo->device = -1;
    solo->quads = SOLO_QUADS * grid;
    solo->kv_heads = c->kv_heads;
    FP_CUDA(cudaGetDevice(&device), "no GPU to plan for");
    FP_TRY(find_room(c->d, device, &room));
    if (!kernel || room == 0 || device >= DEVICES ||
        __atomic_exchange_n(&taken[device], 1u, __ATOMIC_ACQUIRE))
        return FP_OK;
    solo->device = device;
    size_t pieces = most_spans(solo, MOST_UNITS), most = 0;
    for (uint32_t fours = 1; fours <= 2; fours++) {
        SoloKernel *k = &solo->kernels[fours - 1];
        choose_shape(solo, c->d, fours, room, k);
        if (k->shape.share > SOLO_SHARE)
            continue;
        k->kernel = kernel(4 * fours);
        FP_CUDA(cudaFuncSetAttribute(k->kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     (int)k->shared_bytes),
                "reserving shared memory");
        size_t words = c->kv_heads * k->shape.readers * pieces * (2 * fours + k->shape.share);
        most = words > most ? words : most;
    }
    if (most == 0)
        return FP_OK;
    uint4 *inbox;
    FP_CUDA(cudaMalloc((void **)&inbox, most * sizeof(uint4)), "device memory for attention's pieces");
    solo->kernels[0].shape.inbox = solo->kernels[1].shape.inbox = inbox;
    FP_CUDA(cudaMemset(inbox, 0xff, most * sizeof(uint4)), "emptying attention's pieces"); /* EMPTY */
    FP_CUDA(cudaDeviceSynchronize(), "emptying attention's pieces");
    return FP_OK;
}

void solo_destroy(Solo *solo)
{
    cudaFree(solo->kernels[0].shape.inbox);
    if (solo->device >= 0)
        __atomic_store_n(&taken[solo->device], 0u, __ATOMIC_RELEASE);
}

const SoloKernel *solo_choose(const fp_cuda_attention *plan, const fp_cuda_attention_sequence *s)
{
    const Solo *solo = &plan->solo;
    uint32_t rows = s->tokens * plan->group, tuned = tuned_or(FP__TUNE_SOLO, 1 + UNITS) - 1,
             spans = ceil_div(s->anchor.n_pages, SPAN_PAGES) + ceil_div(s->context.n_pages, SPAN_PAGES);
    const SoloKernel *k = &solo->kernels[rows > 4];
    return rows <= 8 && k->kernel && spans <= most_spans(solo, min_of(tuned, MOST_UNITS)) ? k : nullptr;
}

bool solo_items(fp_cuda_attention *plan, const fp_cuda_attention_sequence *s)
{
    uint32_t piece = 0;
    plan->decode_items.n = plan->piece_flags.n = 0;
    plan->solo.anchor_pieces = 0;
    for (size_t i = 0; i < plan->lists.n; i++) {
        const List *list = &plan->lists.at[i];
        uint32_t pages = seen_pages(list->segment, s->tokens);
        for (uint32_t first = 0; first < pages; first += SPAN_PAGES, piece++) {
            uint32_t n = min_of(SPAN_PAGES, pages - first), *flags = plan->piece_flags.add(1);
            Item *item = add_item(plan, list, 0, &plan->decode_items);
            if (!item || !flags)
                return false;
            item->word[ROWS] = s->tokens * plan->group;
            item->word[FIRST_PAGE] = first;
            item->word[PAGES] = n;
            item->word[STATE] = piece;
            item->word[EARLY] = early_pages(list->segment, first, n);
            inline_pages(plan, list, first, n, item->word);
            *flags = ((first + n) % CHUNK_PAGES == 0 || first + n == pages ? (uint32_t)PIECE_ENDS : 0) |
                     first % CHUNK_PAGES / SPAN_PAGES << PIECE_BACK;
        }
        if (s->anchor.n_pages && i == 0)
            plan->solo.anchor_pieces = piece;
    }
    return true;
}

cudaError_t solo_run(const SoloKernel *k, uint32_t grid, Params p, cudaStream_t stream)
{
    p.solo = k->shape;
    p.solo.window = min_of(tuned_or(FP__TUNE_SOLO_WINDOW, WINDOW), QUAD);
    return launch(k->kernel, grid, SOLO_WARPS * 32, k->shared_bytes, stream, p);
}

} // namespace attn
} // namespace fp
