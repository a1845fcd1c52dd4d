#include "kernel/cuda/attention_solo.h"

#include "core/error.h"
#include "kernel/cuda/attention_tuning.h"

#include <cuda_runtime.h>

namespace fp
{
namespace attn
{

/* The CTAs of the kernel wait for each other, so two of its grids must not share the GPU by halves: of all
 * plans of a process, one at a time has it on a device. Its own runs follow each other: one begins when the
 * one before has all of its CTAs on the GPU. */
constexpr int DEVICES = 64;
static uint32_t taken[DEVICES];
constexpr uint32_t MOST_PAGES = 16384; /* of a plan: inboxes have room for as many pieces as they may have */
constexpr uint32_t ROUNDS = 8;         /* of spans; contexts of more for each quad go by chunks */

static fp_status failed(cudaError_t e, const char *what)
{
    return fp__fail(e == cudaErrorMemoryAllocation ? FP_NO_MEMORY : FP_UNSUPPORTED, "%s: %s", what,
                    cudaGetErrorString(e));
}
#define CUDA_TRY(call, what)                                                                                 \
    do {                                                                                                     \
        cudaError_t cuda_error = (call);                                                                     \
        if (cuda_error != cudaSuccess)                                                                       \
            return failed(cuda_error, what);                                                                 \
    } while (0)

static uint32_t ceil_div(uint32_t a, uint32_t b)
{
    return (a + b - 1) / b;
}
static uint32_t min_of(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* shared: of half a multiprocessor, so that the CTAs of two layers are there side by side. */
static void shape(const Solo *solo, uint32_t d, uint32_t fours, uint32_t shared, SoloKernel *k)
{
    uint32_t quads = SOLO_QUADS * solo->grid, units = fours * d, stage = SOLO_QUADS * stage_bytes(d),
             window = fp__cuda_attention_tuning[FP__TUNE_WINDOW];
    SoloShape *s = &k->shape;
    uint32_t stages = fp__cuda_attention_tuning[FP__TUNE_SOLO_STAGES];
    s->stages = stages ? stages : min_of((shared - SOLO_RING) / stage, MAX_STAGES);
    s->window = min_of(s->stages, window ? window : 3);
    s->readers = min_of(quads / solo->kv_heads, units);
    s->share = s->readers ? ceil_div(units, s->readers) : SOLO_SHARE + 1;
    s->readers = ceil_div(units, s->share);
    k->shared_bytes = SOLO_RING + (size_t)s->stages * stage;
}

/* Shared memory of a CTA, or 0 where the kernel cannot be. */
static fp_status find_room(const fp_cuda_attention_config *c, int device, uint32_t *room)
{
    int major, shared, reserved;
    CUDA_TRY(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
             "reading the GPU's properties");
    CUDA_TRY(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device),
             "reading the GPU's properties");
    CUDA_TRY(cudaDeviceGetAttribute(&reserved, cudaDevAttrReservedSharedMemoryPerBlock, device),
             "reading the GPU's properties");
    *room = (uint32_t)(shared / 2 - reserved);
    if (major < 9 || *room < SOLO_RING + SOLO_QUADS * SOLO_LEAST_STAGES * stage_bytes(c->d))
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
    solo->grid = grid;
    solo->kv_heads = c->kv_heads;
    CUDA_TRY(cudaGetDevice(&device), "no GPU to plan for");
    FP_TRY(find_room(c, device, &room));
    if (!kernel || room == 0 || c->max_pages > MOST_PAGES || device >= DEVICES ||
        __atomic_exchange_n(&taken[device], 1u, __ATOMIC_ACQUIRE))
        return FP_OK;
    solo->device = device;
    size_t pieces = (size_t)ROUNDS * ceil_div(SOLO_QUADS * grid, c->kv_heads) + c->max_pages / CHUNK_PAGES +
                    2 * CHUNK_PAGES,
           most = 0;
    for (uint32_t fours = 1; fours <= 2; fours++) {
        SoloKernel *k = &solo->kernels[fours - 1];
        shape(solo, c->d, fours, room, k);
        if (k->shape.share > SOLO_SHARE)
            continue;
        k->kernel = kernel(4 * fours);
        CUDA_TRY(cudaFuncSetAttribute(k->kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      (int)k->shared_bytes),
                 "reserving shared memory");
        size_t words = c->kv_heads * k->shape.readers * pieces * (2 * fours + k->shape.share);
        most = words > most ? words : most;
    }
    if (most == 0)
        return FP_OK;
    uint4 *inbox;
    CUDA_TRY(cudaMalloc((void **)&inbox, most * sizeof(uint4)), "device memory for attention's pieces");
    solo->kernels[0].shape.inbox = solo->kernels[1].shape.inbox = inbox;
    CUDA_TRY(cudaMemset(inbox, 0xff, most * sizeof(uint4)), "emptying attention's pieces"); /* EMPTY */
    CUDA_TRY(cudaDeviceSynchronize(), "emptying attention's pieces");
    return FP_OK;
}

void solo_destroy(Solo *solo)
{
    cudaFree(solo->kernels[0].shape.inbox);
    if (solo->device >= 0)
        __atomic_store_n(&taken[solo->device], 0u, __ATOMIC_RELEASE);
}

const SoloKernel *solo_find(const Solo *solo, uint32_t rows)
{
    const SoloKernel *k = &solo->kernels[rows > 4];
    return rows <= 8 && k->kernel && fp__cuda_attention_tuning[FP__TUNE_SOLO] != 1 ? k : nullptr;
}

/* How long the busiest quad takes for so many units of a chunk, then of a span, dealt as the kernel does; in
 * tenths of the time for a page. */
static uint32_t busiest_quad(uint32_t quads, uint32_t chunks, uint32_t spans)
{
    uint32_t most = 0, units = chunks + spans;
    for (uint32_t w = 0; w < quads; w++) {
        uint32_t time = 0;
        for (uint32_t round = 0;; round++) {
            uint32_t unit = round * quads + (round % 2 ? quads - 1 - w : w);
            if (unit >= units)
                break;
            time += unit < chunks ? 46 : 16;
        }
        most = time > most ? time : most;
    }
    return most;
}

uint32_t solo_chunks(Solo *solo, uint32_t whole, uint32_t spans)
{
    uint32_t quads = SOLO_QUADS * solo->grid, best_time = 0;
    if ((uint64_t)spans * solo->kv_heads >= (uint64_t)ROUNDS * quads)
        return whole;
    if (solo->spans_asked == spans && solo->whole_asked == whole)
        return solo->chunks_for_asked; /* it changes once in 256 tokens */
    for (uint32_t chunks = 0; chunks <= whole; chunks++) {
        uint32_t time = busiest_quad(quads, chunks * solo->kv_heads, (spans - 4 * chunks) * solo->kv_heads);
        if (chunks == 0 || time <= best_time)
            solo->chunks_for_asked = chunks, best_time = time;
    }
    solo->whole_asked = whole, solo->spans_asked = spans;
    return solo->chunks_for_asked;
}

} // namespace attn
} // namespace fp
