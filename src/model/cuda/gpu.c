/* model/device.h on NVIDIA GPUs: what is there, a model's weights on one of them, and the forward pass that
 * takes page groups by their addresses. */
#include "cache/cuda/store_cuda.h"
#include "kernel/cuda/try.h"
#include "merkle/sha256.h"
#include "model/cuda/forward_cuda.h"
#include "model/device.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- what is there --------------------------------------------------------------------------------------
 */

static void note(char why[256], const char *what)
{
    snprintf(why, 256, "%s", what);
}

/* No GPU answers: why. */
static void explain(cudaError_t e, int driver, int runtime, char why[256])
{
    if (driver == 0)
        note(why, "no NVIDIA driver is installed (there is no libcuda.so.1)");
    else if (e == cudaErrorInsufficientDriver)
        snprintf(why, 256,
                 "the driver knows CUDA up to %d.%d, and this build needs %d.%d: install a newer one",
                 driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    else if (e == cudaErrorNoDevice || e == cudaSuccess)
        note(why, "the driver shows no GPU to this process (see nvidia-smi and CUDA_VISIBLE_DEVICES)");
    else
        snprintf(why, 256, "the driver does not answer: %s", cudaGetErrorString(e));
}

static cudaError_t count_devices(int *n, char why[256])
{
    int driver = 0, runtime = 0;
    *n = 0;
    (void)cudaDriverGetVersion(&driver);
    (void)cudaRuntimeGetVersion(&runtime);
    cudaError_t e = cudaGetDeviceCount(n);
    if (e != cudaSuccess || *n == 0) {
        *n = 0;
        explain(e, driver, runtime, why);
        (void)cudaGetLastError();
    }
    return e;
}

static const char *no_kernels(cudaError_t e)
{
    return e == cudaErrorNoKernelImageForDevice || e == cudaErrorInvalidDeviceFunction
               ? "this build has no kernels for it; build with its architecture: make cuda "
                 "CUDA_ARCHITECTURES=…"
               : cudaGetErrorString(e);
}

static void describe(int index, fp_device *out)
{
    struct cudaDeviceProp p;
    size_t free_bytes = 0, total = 0;
    *out = (fp_device){0};
    snprintf(out->id, sizeof out->id, "cuda:%d", index);
    cudaError_t e = cudaGetDeviceProperties(&p, index);
    if (e == cudaSuccess) {
        snprintf(out->name, sizeof out->name, "%.*s", (int)sizeof out->name - 1, p.name);
        out->memory_bytes = p.totalGlobalMem;
        out->capability = (uint32_t)(p.major * 10 + p.minor);
        out->units = (uint32_t)p.multiProcessorCount;
        e = cudaSetDevice(index);
    }
    if (e == cudaSuccess)
        e = cudaMemGetInfo(&free_bytes, &total);
    if (e == cudaSuccess)
        e = fp__cuda_ops_init(index);
    out->free_bytes = free_bytes;
    out->usable = e == cudaSuccess;
    if (e != cudaSuccess) {
        note(out->why, no_kernels(e));
        (void)cudaGetLastError();
    }
}

void fp__gpu_list(fp_devices *out)
{
    int n, driver = 0, runtime = 0, before = 0;
    (void)cudaDriverGetVersion(&driver);
    (void)cudaRuntimeGetVersion(&runtime);
    size_t used = (size_t)snprintf(out->cuda, sizeof out->cuda, "%d.%d", runtime / 1000, runtime % 1000 / 10);
    if (driver > 0)
        snprintf(out->cuda + used, sizeof out->cuda - used, ", driver for %d.%d", driver / 1000,
                 driver % 1000 / 10);
    (void)count_devices(&n, out->why);
    (void)cudaGetDevice(&before);
    for (int i = 0; i < n && out->n < FP_DEVICES_MAX; i++)
        describe(i, &out->device[out->n++]);
    if (n > 0)
        (void)cudaSetDevice(before);
}

int fp__gpu_first(void)
{
    int n;
    char why[256];
    fp_device device;
    (void)count_devices(&n, why);
    for (int i = 0; i < n; i++) {
        describe(i, &device);
        if (device.usable)
            return i;
    }
    return FP__DEVICE_CPU;
}

/* ---- weights --------------------------------------------------------------------------------------------
 */

struct fp__gpu {
    int index;
    char name[128];
    const fp_model *model;
    fp__cuda_model *weights;
    pthread_mutex_t mutex; /* of the next two */
    cudaStream_t checks;
    void *scratch; /* 16 bytes there */
};

static fp_status select_device(int index)
{
    int now = -1;
    FP_CUDA(cudaGetDevice(&now), "the choice of a GPU");
    if (now != index)
        FP_CUDA(cudaSetDevice(index), "the choice of a GPU");
    return FP_OK;
}

static fp_status check_device(int index, char name[128])
{
    int n;
    char why[256];
    fp_device device;
    (void)count_devices(&n, why);
    if (n == 0)
        return fp__fail(FP_UNSUPPORTED, "no GPU can be used: %s; fieldprint doctor tells more", why);
    if (index >= n)
        return fp__fail(FP_UNSUPPORTED, "there is no cuda:%d; this machine's last GPU is cuda:%d", index,
                        n - 1);
    describe(index, &device);
    snprintf(name, 128, "%s", device.name);
    return device.usable
               ? FP_OK
               : fp__fail(FP_UNSUPPORTED, "%s (%s, compute capability %u.%u) cannot be used: %s", device.id,
                          device.name, device.capability / 10, device.capability % 10, device.why);
}

fp_status fp__gpu_check(int index)
{
    char name[128];
    return check_device(index, name);
}

static size_t free_mib(void)
{
    size_t free_bytes = 0, total = 0;
    (void)cudaMemGetInfo(&free_bytes, &total);
    (void)cudaGetLastError();
    return free_bytes >> 20;
}

/* The weights are packed from the model's file a second time: it must still be the file that the digest was
 * made of. Hashed by a thread of its own, beside the upload. */
typedef struct file_check {
    const fp_model *model;
    bool same;
} file_check;

static void *check_file(void *arg)
{
    file_check *c = arg;
    const uint8_t *data;
    size_t size;
    uint8_t digest[32];
    fp__gguf_bytes(c->model->gguf, &data, &size);
    fp__sha256(data, size, digest);
    c->same = memcmp(digest, c->model->gguf_sha256, 32) == 0;
    return NULL;
}

static fp_status upload(fp__gpu *gpu, fp__team *team, size_t positions)
{
    file_check check = {gpu->model, false};
    pthread_t thread;
    size_t before = free_mib();
    bool beside = pthread_create(&thread, NULL, check_file, &check) == 0;
    fp_status status = fp__cuda_model_create(gpu->model, team, positions, &gpu->weights);
    if (status == FP_NO_MEMORY)
        status =
            fp__fail_context(status, "the weights (%zu MiB on the CPU) do not fit %s, which has %zu MiB free",
                             gpu->model->packed_bytes >> 20, gpu->name, before);
    if (beside)
        pthread_join(thread, NULL);
    else
        (void)check_file(&check);
    if (status == FP_OK && !check.same)
        status = fp__fail(FP_MISMATCH, "the model's file was changed since it was opened; start anew");
    return status;
}

static fp_status prepare_checks(fp__gpu *gpu)
{
    int least = 0, greatest = 0;
    FP_CUDA(cudaDeviceGetStreamPriorityRange(&least, &greatest), "a stream");
    FP_CUDA(cudaStreamCreateWithPriority(&gpu->checks, cudaStreamNonBlocking, least), "a stream");
    FP_CUDA(cudaMalloc(&gpu->scratch, 16), "memory for checksums");
    return FP_OK;
}

fp_status fp__gpu_open(int index, const fp_model *model, fp__team *team, size_t positions, fp__gpu **out)
{
    fp__gpu *gpu = calloc(1, sizeof *gpu);
    if (!gpu)
        return fp__fail(FP_NO_MEMORY, "GPU: no memory");
    gpu->index = index;
    gpu->model = model;
    pthread_mutex_init(&gpu->mutex, NULL);
    fp_status status = check_device(index, gpu->name);
    if (status == FP_OK)
        status = select_device(index);
    if (status == FP_OK)
        status = upload(gpu, team, positions);
    if (status == FP_OK)
        status = prepare_checks(gpu);
    if (status != FP_OK) {
        fp__gpu_close(gpu);
        return status;
    }
    *out = gpu;
    return FP_OK;
}

void fp__gpu_close(fp__gpu *gpu)
{
    if (!gpu)
        return;
    if (gpu->weights && cudaSetDevice(gpu->index) == cudaSuccess) {
        if (gpu->checks)
            (void)cudaStreamDestroy(gpu->checks);
        (void)cudaFree(gpu->scratch);
        fp__cuda_model_destroy(gpu->weights);
    }
    pthread_mutex_destroy(&gpu->mutex);
    free(gpu);
}

size_t fp__gpu_items(const fp__gpu *gpu)
{
    return gpu->weights->n_items;
}

size_t fp__gpu_item_bytes(const fp__gpu *gpu, size_t item)
{
    return gpu->weights->items[item].bytes;
}

fp_status fp__gpu_item_check(fp__gpu *gpu, size_t item, bool *same)
{
    FP_TRY(select_device(gpu->index));
    pthread_mutex_lock(&gpu->mutex);
    fp_status status = fp__cuda_model_check(gpu->weights, item, gpu->scratch, gpu->checks, same);
    pthread_mutex_unlock(&gpu->mutex);
    return status;
}

fp_status fp__gpu_item_flip(fp__gpu *gpu, size_t item, size_t byte, uint8_t bits)
{
    uint8_t *at = (uint8_t *)(uintptr_t)gpu->weights->items[item].data + byte, value;
    FP_TRY(select_device(gpu->index));
    FP_CUDA(cudaMemcpy(&value, at, 1, cudaMemcpyDeviceToHost), "a byte of the weights");
    value ^= bits;
    FP_CUDA(cudaMemcpy(at, &value, 1, cudaMemcpyHostToDevice), "a byte of the weights");
    return FP_OK;
}

fp_status fp__gpu_reload(fp__gpu *gpu, fp__team *team)
{
    file_check file = {gpu->model, false};
    bool same = true;
    FP_TRY(select_device(gpu->index));
    FP_TRY(fp__cuda_model_reload(gpu->weights, gpu->model, team));
    (void)check_file(&file);
    if (!file.same)
        return fp__fail(FP_MISMATCH, "the model's file was changed since it was opened; start anew");
    for (size_t i = 0; i < gpu->weights->n_items && same; i++)
        FP_TRY(fp__gpu_item_check(gpu, i, &same));
    return same ? FP_OK
                : fp__fail(FP_MISMATCH, "%s does not keep the weights that are written to it", gpu->name);
}

const char *fp__gpu_name(const fp__gpu *gpu)
{
    return gpu->name;
}

/* ---- the forward pass -----------------------------------------------------------------------------------
 */

/* Page numbers of a list of addresses, kept from step to step: most are those of the step before. */
typedef struct page_list {
    const uint8_t **at; // [pages]
    uint32_t *page;     // [pages]
} page_list;

typedef struct gpu_forward {
    fp__forward base; /* first */
    int index;
    size_t vocabulary;
    fp__forward_limits limits;
    fp__cuda_pool pool;
    fp__cuda_forward *f;
    fp__cuda_span *spans;      // [S]
    page_list (*lists)[2];     // [S] anchor, context
    const uint8_t **addresses; // [S][2][pages]
    uint32_t *numbers;         // [S][2][pages]
    uint32_t *written;         // [tokens/64 + 2·S] pages that K/V of the step goes to
    float *logits;             // pinned [logits][V]
    uint32_t *tokens;          // pinned [logits]
    size_t n_rows;
    bool have_tokens; /* of the last step */
} gpu_forward;

static fp_status page_number(const gpu_forward *f, const uint8_t *group, uint32_t *out)
{
    uintptr_t offset = (uintptr_t)group - (uintptr_t)f->pool.kv;
    size_t page = offset / f->pool.group_bytes;
    if ((uintptr_t)group < (uintptr_t)f->pool.kv || page >= f->pool.pages ||
        page * f->pool.group_bytes != offset)
        return fp__fail(FP_INTERNAL, "a page group is not in the memory of the GPU that computes on it");
    *out = (uint32_t)page;
    return FP_OK;
}

static fp_status make_segment(const gpu_forward *f, const fp__attn_segment *from, page_list *list,
                              fp_cuda_attention_segment *to)
{
    if (from->pages > f->limits.pages)
        return fp__fail(FP_LIMIT, "%zu pages of a sequence, but there is room for %zu", from->pages,
                        f->limits.pages);
    for (size_t i = 0; i < from->pages; i++) {
        if (list->at[i] == from->groups[i])
            continue;
        FP_TRY(page_number(f, from->groups[i], &list->page[i]));
        list->at[i] = from->groups[i];
    }
    *to = (fp_cuda_attention_segment){list->page, from->filled, (uint32_t)from->pages,
                                      (uint32_t)from->causal_page, (uint32_t)from->causal_tokens};
    return FP_OK;
}

static fp_status make_span(gpu_forward *f, size_t i, const fp__forward_span *from, size_t *written)
{
    fp__cuda_span *to = &f->spans[i];
    *to = (fp__cuda_span){.ids = from->ids,
                          .tokens = from->tokens,
                          .position = from->position,
                          .slot = from->slot % FP__PAGE_TOKENS,
                          .pages = f->written + *written,
                          .mode = from->mode,
                          .g = from->g,
                          .mass = from->mass};
    FP_TRY(make_segment(f, &from->anchor, &f->lists[i][0], &to->anchor));
    FP_TRY(make_segment(f, &from->context, &f->lists[i][1], &to->context));
    size_t first = from->slot / FP__PAGE_TOKENS, last = (from->slot + from->tokens - 1) / FP__PAGE_TOKENS;
    for (size_t p = first; p <= last; p++)
        FP_TRY(page_number(f, from->groups[p], &f->written[(*written)++]));
    return FP_OK;
}

static fp_status make_spans(gpu_forward *f, const fp__forward_span *spans, size_t n)
{
    size_t tokens = 0, written = 0;
    if (n > f->limits.sequences)
        return fp__fail(FP_LIMIT, "%zu sequences in a step, but there is room for %zu", n,
                        f->limits.sequences);
    for (size_t i = 0; i < n; i++) {
        if (spans[i].tokens == 0 || spans[i].tokens > f->limits.tokens - tokens)
            return fp__fail(FP_LIMIT, "more than %zu tokens in a step", f->limits.tokens);
        tokens += spans[i].tokens;
        FP_TRY(make_span(f, i, &spans[i], &written));
    }
    return FP_OK;
}

static fp_status step(fp__forward *base, const fp__forward_span *spans, size_t n, const size_t *rows,
                      size_t n_rows, size_t *bad_span)
{
    gpu_forward *f = (gpu_forward *)(void *)base;
    FP_TRY(select_device(f->index));
    FP_TRY(make_spans(f, spans, n));
    f->have_tokens = false;
    FP_TRY(fp__cuda_forward_step(f->f, f->spans, n, rows, n_rows));
    f->n_rows = n_rows;
    return fp__cuda_forward_wait(f->f, bad_span);
}

static fp_status project_rows(fp__forward *base, const size_t *rows, size_t n)
{
    gpu_forward *f = (gpu_forward *)(void *)base;
    FP_TRY(select_device(f->index));
    f->have_tokens = false;
    FP_TRY(fp__cuda_forward_project(f->f, rows, n));
    f->n_rows = n;
    return fp__cuda_forward_wait(f->f, NULL);
}

static fp_status read_rows(fp__forward *base, size_t first, size_t n, const float **out)
{
    gpu_forward *f = (gpu_forward *)(void *)base;
    FP_TRY(select_device(f->index));
    FP_TRY(fp__cuda_forward_read_rows(f->f, first, n, f->logits));
    *out = f->logits;
    return FP_OK;
}

static fp_status greedy(fp__forward *base, const uint32_t **out)
{
    gpu_forward *f = (gpu_forward *)(void *)base;
    if (!f->have_tokens) {
        FP_TRY(select_device(f->index));
        FP_TRY(fp__cuda_forward_read(f->f, NULL, f->tokens));
        f->have_tokens = true;
    }
    *out = f->tokens;
    return FP_OK;
}

static void destroy(fp__forward *base)
{
    gpu_forward *f = (gpu_forward *)(void *)base;
    if (cudaSetDevice(f->index) == cudaSuccess) {
        fp__cuda_forward_destroy(f->f);
        (void)cudaFreeHost(f->logits);
        (void)cudaFreeHost(f->tokens);
    }
    free(f->spans);
    free(f->lists);
    free(f->addresses);
    free(f->numbers);
    free(f->written);
    free(f);
}

static const fp__forward_ops gpu_ops = {destroy, step, project_rows, read_rows, greedy};

static fp_status allocate(gpu_forward *f, const fp__gpu *gpu)
{
    size_t S = f->limits.sequences, pages = f->limits.pages;
    f->spans = calloc(S, sizeof *f->spans);
    f->lists = calloc(S, sizeof *f->lists);
    f->addresses = calloc(S * 2 * pages, sizeof *f->addresses);
    f->numbers = calloc(S * 2 * pages, sizeof *f->numbers);
    f->written = calloc(f->limits.tokens / FP__PAGE_TOKENS + 2 * S, sizeof *f->written);
    if (!f->spans || !f->lists || !f->addresses || !f->numbers || !f->written)
        return fp__fail(FP_NO_MEMORY, "forward pass on the GPU: no memory");
    for (size_t i = 0; i < S; i++)
        for (size_t k = 0; k < 2; k++)
            f->lists[i][k] =
                (page_list){f->addresses + (2 * i + k) * pages, f->numbers + (2 * i + k) * pages};
    FP_CUDA(cudaMallocHost((void **)&f->logits, f->limits.logits * f->vocabulary * 4), "room for logits");
    FP_CUDA(cudaMallocHost((void **)&f->tokens, f->limits.logits * 4), "room for tokens");
    fp__cuda_forward_limits limits = {f->limits.tokens, S, f->limits.logits, S * pages};
    return fp__cuda_forward_create(gpu->weights, &f->pool, limits, &f->f);
}

fp_status fp__gpu_forward_create(fp__gpu *gpu, fp__store *store, fp__forward_limits limits, fp__forward **out)
{
    FP_TRY(select_device(gpu->index));
    gpu_forward *f = calloc(1, sizeof *f);
    if (!f)
        return fp__fail(FP_NO_MEMORY, "forward pass on the GPU: no memory");
    f->base.ops = &gpu_ops;
    f->index = gpu->index;
    f->vocabulary = gpu->model->hp.vocabulary;
    f->limits = limits;
    f->pool = (fp__cuda_pool){fp__store_cuda_base(store), store->group_bytes, (uint32_t)store->max_groups};
    size_t before = free_mib();
    fp_status status = allocate(f, gpu);
    if (status == FP_OK) /* zeroing and checksums of pages go into the stream of the steps */
        status = fp__store_cuda_set_writer(store, fp__cuda_forward_stream(f->f));
    if (status != FP_OK) {
        destroy(&f->base);
        return status == FP_NO_MEMORY
                   ? fp__fail_context(status,
                                      "%zu MiB were free on %s; make steps (--chunk) or the context "
                                      "(--ctx) smaller",
                                      before, gpu->name)
                   : status;
    }
    *out = &f->base;
    return FP_OK;
}

/* ---- the page store -------------------------------------------------------------------------------------
 */

fp_status fp__gpu_store_create(fp__gpu *gpu, const fp__page_geometry *g, size_t max_groups, fp__store **out)
{
    FP_TRY(select_device(gpu->index));
    fp_status status = fp__store_cuda_create(g, max_groups, out);
    return status == FP_NO_MEMORY ? fp__fail_context(status, "%s", gpu->name) : status;
}
