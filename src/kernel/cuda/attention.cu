/* Attention on the GPU, the host's side: what it holds, and the launches of a run. The work of a step is
 * planned in attention_plan.cu. Written without the C++ library, so that C programs link it. */
#include "kernel/cuda/attention_launch.cuh"
#include "kernel/cuda/attention_work.cuh"
#include "kernel/cuda/try.h"

#include <cuda_runtime.h>
#include <stdlib.h>

using namespace fp::attn;

uint32_t fp__cuda_attention_tuning[FP__TUNE_COUNT];

namespace
{

constexpr uint32_t DECODE_QUADS = 2; /* of a multiprocessor */
constexpr uint32_t EARLY_PACE = 1;   /* stages of a ring filled at once before the kernels ahead have ended */
constexpr uint32_t AHEAD_HALVES = 1; /* of a warp of decode behind its ring, asked into L2 when it begins */
constexpr uint32_t AHEAD_OF_MANY = 2; /* the same where quads take many chunks */

} // namespace

static bool find_kernels(fp_cuda_attention *plan)
{
    switch (plan->config.d) {
    case 64:
        plan->decode = decode_kernel_64(plan->tiles, plan->quads), plan->team = team_kernel_64();
        return true;
    case 96:
        plan->decode = decode_kernel_96(plan->tiles, plan->quads), plan->team = team_kernel_96();
        return true;
    case 128:
        plan->decode = decode_kernel_128(plan->tiles, plan->quads), plan->team = team_kernel_128();
        return true;
    case 256:
        plan->decode = decode_kernel_256(plan->tiles, plan->quads), plan->team = team_kernel_256();
        return true;
    default:
        return false;
    }
}

static fp_status choose_shape(fp_cuda_attention *plan)
{
    int device, sms, shared, all_shared;
    FP_CUDA(cudaGetDevice(&device), "no GPU to plan for");
    FP_CUDA(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device),
            "reading the GPU's properties");
    FP_CUDA(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
            "reading the GPU's properties");
    FP_CUDA(cudaDeviceGetAttribute(&all_shared, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device),
            "reading the GPU's properties");
    uint32_t d = plan->config.d, stage = stage_bytes(d), room = (uint32_t)shared - 1024;
    uint32_t levels = TEAM_BARRIER_BYTES + 2 * team_rows(d) * d * 4;
    plan->grid = (uint32_t)sms;
    plan->level_bytes = team_rows(d) * d * 4;
    plan->decode_stages = min_of((room / plan->quads - DECODE_QUAD_BYTES) / QUAD / stage,
                                 tuned_or(FP__TUNE_STAGES, MAX_STAGES));
    plan->team_stages = room > levels ? min_of((room - levels) / stage, MAX_STAGES) : 0;
    if (plan->decode_stages == 0 || plan->team_stages < 3)
        return fp__fail(FP_UNSUPPORTED,
                        "this GPU has %d bytes of shared memory per block, too few for heads of %u", shared,
                        d);
    plan->decode_bytes = plan->quads * (DECODE_QUAD_BYTES + (size_t)QUAD * plan->decode_stages * stage);
    plan->team_bytes = levels + (size_t)plan->team_stages * stage;
    /* what decode leaves; the system takes 1 KiB of each CTA */
    uint32_t left = (uint32_t)all_shared - (uint32_t)plan->decode_bytes - 2048;
    plan->merge_bytes = left < MERGE_LEAST_BYTES ? MERGE_LEAST_BYTES : min_of(left, MERGE_MOST_BYTES);
    FP_CUDA(cudaFuncSetAttribute(plan->decode, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 (int)plan->decode_bytes),
            "reserving shared memory");
    FP_CUDA(
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
    FP_CUDA(cudaGetDevice(&device), "no GPU to plan for");
    FP_CUDA(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
            "reading the GPU's properties");
    for (uint32_t groups = 1; groups <= PREFILL_GROUPS; groups++) {
        Prefill *p = &plan->prefill[groups - 1];
        uint32_t fixed = PREFILL_BARRIER_BYTES + groups * prefill_group_bytes(d);
        if ((uint32_t)shared < fixed + 4 * stage)
            return FP_OK;
        p->stages = min_of(((uint32_t)shared - fixed) / stage, 8);
        p->shared_bytes = fixed + p->stages * stage;
        p->kernel = kernel_of_groups(groups);
        FP_CUDA(cudaFuncSetAttribute(p->kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                     (int)p->shared_bytes),
                "reserving shared memory");
    }
    return FP_OK;
}

/* Decode beside large stacks, if this GPU has that for the head size, for groups of up to 4 heads. It leaves
 * what merging needs at least. */
static fp_status choose_stack(fp_cuda_attention *plan)
{
    int device, shared, all_shared;
    Stack *s = &plan->stack;
    uint32_t d = plan->config.d;
    Kernel kernel = d == 64    ? stack_kernel_64()
                    : d == 96  ? stack_kernel_96()
                    : d == 128 ? stack_kernel_128()
                               : nullptr;
    if (!kernel || !prefill_built() || plan->tiles != 1)
        return FP_OK;
    FP_CUDA(cudaGetDevice(&device), "no GPU to plan for");
    FP_CUDA(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
            "reading the GPU's properties");
    FP_CUDA(cudaDeviceGetAttribute(&all_shared, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device),
            "reading the GPU's properties");
    uint32_t room = min_of((uint32_t)shared, (uint32_t)all_shared - MERGE_LEAST_BYTES - 2048),
             fixed = 2 * DECODE_QUAD_BYTES + stack_shared_bytes(d), stage = 2 * QUAD * stage_bytes(d);
    if (room < fixed + 2 * stage)
        return FP_OK;
    s->decode_stages = min_of((room - fixed) / stage, MAX_STAGES);
    s->shared_bytes = fixed + s->decode_stages * stage;
    s->kernel = kernel;
    FP_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)s->shared_bytes),
            "reserving shared memory");
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
    FP_CUDA(cudaMalloc((void **)&plan->device_plan, plan->plan_words * 4),
            "device memory for attention's plan");
    FP_CUDA(cudaMallocHost((void **)&plan->staging, plan->plan_words * 4),
            "pinned memory for attention's plan");
    FP_CUDA(cudaMalloc((void **)&plan->states, plan->state_rows * row_bytes),
            "device memory for attention's states");
    FP_CUDA(cudaMalloc((void **)&plan->anchor_scratch, (size_t)plan->grid * plan->level_bytes),
            "device memory for attention's anchor states");
    if (plan->prefill[0].kernel)

        FP_CUDA(cudaMalloc((void **)&plan->prefill_scratch, (size_t)plan->grid * prefill_scratch_bytes(c->d)),
                "device memory for prefill's states");
    FP_CUDA(cudaEventCreateWithFlags(&plan->copied, cudaEventDisableTiming), "an event for attention's plan");
    return FP_OK;
}

fp_status fp_cuda_attention_create(const fp_cuda_attention_config *config, fp_cuda_attention **out)
{
    uint32_t hk = config->kv_heads;
    fp_cuda_attention *plan = (fp_cuda_attention *)calloc(1, sizeof *plan);
    if (!plan)
        return fp__fail(FP_NO_MEMORY, "no memory for attention on the GPU");
    plan->config = *config;
    plan->solo.device = -1;
    plan->group = hk ? config->heads / hk : 0;
    plan->tiles = plan->group <= 4 ? 1 : 2;
    plan->quads = plan->tiles == 1 && config->d <= 128 ? tuned_or(FP__TUNE_QUADS, DECODE_QUADS) : 2;
    if (hk == 0 || config->heads % hk || config->heads / hk == 0 || config->heads / hk > 16 ||
        !find_kernels(plan)) {
        free(plan);
        return fp__fail(
            FP_USAGE,
            "attention on the GPU knows heads of 64, 96, 128 and 256 in groups of 1 to 16, not %u/%u "
            "heads of %u",
            config->heads, hk, config->d);
    }
    fp_status status = choose_shape(plan);
    if (status == FP_OK)
        status = choose_prefill(plan);
    if (status == FP_OK)
        status = choose_stack(plan);
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
    free(plan->stack_items.at);
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

uint32_t fp_cuda_attention_form(const fp_cuda_attention *plan)
{
    return plan->alone ? 1 : plan->stacks ? 2 : 0;
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
    p.decode_stages = plan->stacks ? plan->stack.decode_stages : plan->decode_stages;
    p.level_bytes = plan->level_bytes;
    p.merge_bytes = plan->stacks ? MERGE_LEAST_BYTES : plan->merge_bytes;
    p.early_stages = min_of(tuned_or(FP__TUNE_EARLY, 1 + MAX_STAGES) - 1, p.decode_stages);
    p.early_pace = tuned_or(FP__TUNE_PACE, EARLY_PACE);
    p.ahead_halves =
        tuned_or(FP__TUNE_AHEAD, 1 + (plan->cut && p.decode_stages > 1 ? AHEAD_OF_MANY : AHEAD_HALVES)) - 1;
    p.high = 256;
    p.prefill_scratch = plan->prefill_scratch;
    cudaStream_t s = (cudaStream_t)stream;
    if (plan->alone) {
        FP_CUDA(solo_run(plan->alone, plan->grid, p, s), "starting attention of one sequence");
        return FP_OK;
    }
    if (plan->prefills.n) {
        const Prefill *prefill = &plan->prefill[plan->prefill_groups - 1];
        p.prefill_stages = prefill->stages;
        prefill->kernel<<<plan->grid, prefill_threads(plan->prefill_groups), prefill->shared_bytes, s>>>(p);
        FP_CUDA(cudaGetLastError(), "starting attention of prefills");
    }
    if (plan->stacks)
        FP_CUDA(launch(plan->stack.kernel, plan->grid, STACK_THREADS, plan->stack.shared_bytes, s, p),
                "starting attention");
    else if (plan->decode_items.n)
        FP_CUDA(launch(plan->decode, plan->grid, plan->quads * QUAD * 32, plan->decode_bytes, s, p),
                "starting attention");
    if (plan->team_items.n)
        FP_CUDA(launch(plan->team, plan->grid, WARPS * 32, plan->team_bytes, s, p), "starting attention");
    if (plan->decode_items.n == 0 && plan->team_items.n == 0 && plan->stack_items.n == 0)
        return FP_OK;
    FP_CUDA(launch(merge_kernel(), plan->merge_ctas, MERGE_THREADS, p.merge_bytes, s, p),
            "starting the merge of attention");
    return FP_OK;
}
