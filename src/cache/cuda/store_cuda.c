#include "cache/cuda/store_cuda.h"
#include "kernel/cuda/cuda_ops.h"
#include "kernel/cuda/pages.h"
#include "kernel/cuda/try.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { TOKENS = FP__PAGE_TOKENS, LANES = 4, SLABS_MAX = 4096 };
#define SPARE_BYTES ((size_t)256 << 20) /* left to the driver and to others */

/* What one thread needs to look at pages: a stream of low priority, and memory for what comes back. */
typedef struct lane {
    cudaStream_t stream;
    cudaEvent_t done;
    const uint8_t **groups; // [FP__STORE_BATCH] device, groups_host: pinned
    const uint8_t **groups_host;
    uint8_t *leaves, *leaves_host; // [FP__STORE_BATCH][L·HK][32]
    uint32_t *bad, *bad_host;      // [FP__STORE_BATCH]
    uint8_t *staging;              // [group_bytes] pinned
    bool busy;
} lane;

typedef struct cuda_store {
    fp__store head; /* first */
    int device;
    fp__cuda_pages pages;
    fp__cuda_hash_geometry hash;
    void *device_memory, *pinned_memory; /* of the lanes */
    size_t extended;                     /* groups that extend gave out */
    cudaStream_t own, writer, sums;      /* sums: checksums, beside the steps that follow */
    cudaEvent_t written;                 /* after the writer's last take or keep, or before the last sum */
    cudaEvent_t summed;                  /* after the last sum */
    /* a thread launches sums: who asks for them has a step to start */
    pthread_t summer;
    pthread_mutex_t sum_mutex;
    pthread_cond_t sum_wanted;
    fp__cuda_slots asked[FP__STORE_BATCH]; /* sums that are not launched yet */
    uint32_t n_asked;
    fp_status sum_status; /* of all launches so far */
    bool has_summer, stop;
    pthread_mutex_t mutex;
    pthread_cond_t freed;
    lane lanes[LANES];
} cuda_store;

static cuda_store *self(fp__store *store)
{
    return (cuda_store *)(void *)store;
}

/* ---- the writer ---- */

static fp_status enter(const cuda_store *c)
{
    return fp__cuda_status(cudaSetDevice(c->device), "the device of the K/V pool");
}

static fp_status mark_written(cuda_store *c)
{
    FP_CUDA(cudaEventRecord(c->written, c->writer), "an event of the K/V pool");
    return FP_OK;
}

/* Called with sum_mutex. */
static fp_status launch_sums(cuda_store *c)
{
    if (c->n_asked == 0)
        return c->sum_status;
    cudaError_t e = fp__cuda_pages_sum(&c->pages, c->asked, c->n_asked, c->sums);
    c->n_asked = 0;
    if (e == cudaSuccess)
        e = cudaEventRecord(c->summed, c->sums);
    if (e != cudaSuccess && c->sum_status == FP_OK)
        c->sum_status = fp__cuda_status(e, "checksums of K/V");
    return c->sum_status;
}

/* All sums that were asked for are in their stream. */
static fp_status flush_sums(cuda_store *c)
{
    pthread_mutex_lock(&c->sum_mutex);
    fp_status status = launch_sums(c);
    pthread_mutex_unlock(&c->sum_mutex);
    return status == FP_OK ? FP_OK : fp__fail(status, "checksums of K/V could not be brought up to date");
}

static void *launch_when_asked(void *arg)
{
    cuda_store *c = arg;
    bool ready = cudaSetDevice(c->device) == cudaSuccess;
    pthread_mutex_lock(&c->sum_mutex);
    while (!c->stop) {
        if (ready)
            (void)launch_sums(c); /* whoever comes next is told of errors */
        pthread_cond_wait(&c->sum_wanted, &c->sum_mutex);
    }
    pthread_mutex_unlock(&c->sum_mutex);
    return NULL;
}

/* What changes pages other than by writing further slots comes after the checksums of what is there. */
static fp_status enter_writer(cuda_store *c)
{
    FP_TRY(enter(c));
    FP_TRY(flush_sums(c));
    FP_CUDA(cudaStreamWaitEvent(c->writer, c->summed, 0), "the order of K/V");
    return FP_OK;
}

static uint32_t page_of(const cuda_store *c, const fp__group *group)
{
    return fp__store_cuda_page(&c->head, group->data);
}

static fp_status cuda_extend(fp__store *store, size_t count, uint8_t **data, fp__slab_sum **sums)
{
    cuda_store *c = self(store);
    FP_CHECK(count <= store->max_groups - c->extended);
    *data = c->pages.kv + c->extended * store->group_bytes;
    *sums = NULL;
    c->extended += count;
    return FP_OK;
}

static fp_status cuda_take(fp__store *store, fp__group *group)
{
    cuda_store *c = self(store);
    if (!group->dirty)
        return FP_OK;
    FP_TRY(enter_writer(c));
    FP_CUDA(cudaMemsetAsync(group->data, 0, store->group_bytes, c->writer), "zeroing a page of K/V");
    FP_CUDA(cudaMemsetAsync(c->pages.sums + page_of(c, group) * store->slabs, 0, store->slabs * 8, c->writer),
            "zeroing a page of K/V");
    return mark_written(c);
}

static void cuda_give(fp__store *store, fp__group *group)
{
    (void)store;
    (void)group;
}

static fp_status cuda_keep(fp__store *store, fp__group *to, const fp__group *from, size_t slots)
{
    cuda_store *c = self(store);
    FP_TRY(enter_writer(c));
    FP_CUDA(fp__cuda_pages_keep(&c->pages, page_of(c, to), page_of(c, from), (uint32_t)slots, c->writer),
            "dropping slots of a page");
    to->summed = slots;
    return mark_written(c);
}

static fp_status cuda_sum(fp__store *store, fp__group *const *groups, const size_t *slots, size_t n,
                          size_t slab_begin, size_t slab_end)
{
    cuda_store *c = self(store);
    if (slab_begin > 0 || slab_end < store->slabs || n == 0)
        return FP_OK; /* the call for all slabs does it */
    FP_TRY(enter(c));
    if (cudaStreamQuery(c->writer) != cudaSuccess) { /* else there is nothing to wait for */
        (void)cudaGetLastError();
        FP_TRY(mark_written(c));
        FP_CUDA(cudaStreamWaitEvent(c->sums, c->written, 0), "the order of K/V");
    }
    pthread_mutex_lock(&c->sum_mutex);
    for (size_t i = 0; i < n; i++) {
        if (groups[i]->summed >= slots[i])
            continue;
        if (c->n_asked == FP__STORE_BATCH)
            (void)launch_sums(c);
        c->asked[c->n_asked++] =
            (fp__cuda_slots){page_of(c, groups[i]), (uint16_t)groups[i]->summed, (uint16_t)slots[i]};
        groups[i]->summed = slots[i];
    }
    fp_status status = c->sum_status;
    pthread_cond_signal(&c->sum_wanted);
    pthread_mutex_unlock(&c->sum_mutex);
    return status == FP_OK ? FP_OK : fp__fail(status, "checksums of K/V could not be brought up to date");
}

/* ---- lanes: work that looks ---- */

static lane *lane_take(cuda_store *c)
{
    lane *found = NULL;
    pthread_mutex_lock(&c->mutex);
    for (;;) {
        for (size_t i = 0; i < LANES && !found; i++)
            found = c->lanes[i].busy ? NULL : &c->lanes[i];
        if (found)
            break;
        pthread_cond_wait(&c->freed, &c->mutex);
    }
    found->busy = true;
    pthread_mutex_unlock(&c->mutex);
    return found;
}

static void lane_give(cuda_store *c, lane *l)
{
    pthread_mutex_lock(&c->mutex);
    l->busy = false;
    pthread_cond_signal(&c->freed);
    pthread_mutex_unlock(&c->mutex);
}

/* What follows in the lane's stream comes after all that the writer has written, and its checksums. */
static fp_status lane_begin(cuda_store *c, const lane *l)
{
    FP_TRY(enter(c));
    FP_TRY(flush_sums(c));
    FP_CUDA(cudaStreamWaitEvent(l->stream, c->written, 0), "the order of K/V");
    FP_CUDA(cudaStreamWaitEvent(l->stream, c->summed, 0), "the order of K/V");
    return FP_OK;
}

/* Sleeps until the lane's work is done: the core is for the token loop. */
static fp_status lane_end(const lane *l)
{
    FP_CUDA(cudaEventRecord(l->done, l->stream), "an event of the K/V pool");
    FP_CUDA(cudaEventSynchronize(l->done), "work on pages of K/V");
    return FP_OK;
}

static fp_status check_in(cuda_store *c, lane *l, fp__group *const *groups, size_t n, bool written_only,
                          size_t *bad)
{
    fp__cuda_slots ranges[FP__STORE_BATCH];
    for (size_t i = 0; i < n; i++)
        ranges[i] =
            (fp__cuda_slots){page_of(c, groups[i]), 0, written_only ? (uint16_t)groups[i]->summed : TOKENS};
    FP_TRY(lane_begin(c, l));
    FP_CUDA(cudaMemsetAsync(l->bad, 0xff, n * 4, l->stream), "checking pages of K/V");
    FP_CUDA(fp__cuda_pages_check(&c->pages, ranges, (uint32_t)n, l->bad, l->stream), "checking pages of K/V");
    FP_CUDA(cudaMemcpyAsync(l->bad_host, l->bad, n * 4, cudaMemcpyDeviceToHost, l->stream),
            "checking pages of K/V");
    FP_TRY(lane_end(l));
    for (size_t i = 0; i < n; i++)
        bad[i] = l->bad_host[i] < c->head.slabs ? l->bad_host[i] : c->head.slabs;
    return FP_OK;
}

static fp_status cuda_check(fp__store *store, fp__group *const *groups, size_t n, bool written_only,
                            size_t *bad)
{
    cuda_store *c = self(store);
    FP_CHECK(n <= FP__STORE_BATCH);
    lane *l = lane_take(c);
    fp_status status = check_in(c, l, groups, n, written_only, bad);
    lane_give(c, l);
    return status;
}

static fp_status hash_in(cuda_store *c, lane *l, fp__group *const *groups, size_t n, uint8_t *const *leaves)
{
    size_t bytes = c->head.slabs * 32;
    for (size_t i = 0; i < n; i++)
        l->groups_host[i] = groups[i]->data;
    FP_TRY(lane_begin(c, l));
    FP_CUDA(
        cudaMemcpyAsync(l->groups, l->groups_host, n * sizeof *l->groups, cudaMemcpyHostToDevice, l->stream),
        "hashing pages of K/V");
    FP_CUDA(fp__cuda_hash_groups(&c->hash, l->groups, (uint32_t)n, l->leaves, NULL, l->stream),
            "hashing pages of K/V");
    FP_CUDA(cudaMemcpyAsync(l->leaves_host, l->leaves, n * bytes, cudaMemcpyDeviceToHost, l->stream),
            "hashing pages of K/V");
    FP_TRY(lane_end(l));
    for (size_t i = 0; i < n; i++)
        memcpy(leaves[i], l->leaves_host + i * bytes, bytes);
    return FP_OK;
}

static fp_status cuda_hash(fp__store *store, fp__group *const *groups, size_t n, uint8_t *const *leaves)
{
    cuda_store *c = self(store);
    FP_CHECK(n <= FP__STORE_BATCH);
    lane *l = lane_take(c);
    fp_status status = hash_in(c, l, groups, n, leaves);
    lane_give(c, l);
    return status;
}

static fp_status copy_in(cuda_store *c, const lane *l, const fp__group *group, bool to_host)
{
    FP_TRY(lane_begin(c, l));
    if (to_host)
        FP_CUDA(
            cudaMemcpyAsync(l->staging, group->data, c->head.group_bytes, cudaMemcpyDeviceToHost, l->stream),
            "copying a page of K/V to the host");
    else
        FP_CUDA(
            cudaMemcpyAsync(group->data, l->staging, c->head.group_bytes, cudaMemcpyHostToDevice, l->stream),
            "copying a page of K/V to the GPU");
    return lane_end(l);
}

static fp_status cuda_map(fp__store *store, const fp__group *group, fp__store_access access, uint8_t **out)
{
    cuda_store *c = self(store);
    lane *l = lane_take(c);
    fp_status status = access & FP__STORE_READ ? copy_in(c, l, group, true) : FP_OK;
    if (status == FP_OK)
        *out = l->staging;
    else
        lane_give(c, l);
    return status;
}

static fp_status cuda_unmap(fp__store *store, const fp__group *group, fp__store_access access, uint8_t *bytes)
{
    cuda_store *c = self(store);
    lane *l = c->lanes;
    while (l->staging != bytes) {
        l++;
        FP_CHECK(l < c->lanes + LANES);
    }
    fp_status status = access & FP__STORE_WRITE ? copy_in(c, l, group, false) : FP_OK;
    lane_give(c, l);
    return status;
}

/* ---- creation ---- */

static void cuda_destroy(fp__store *store)
{
    cuda_store *c = self(store);
    if (c->has_summer) {
        pthread_mutex_lock(&c->sum_mutex);
        c->stop = true;
        pthread_cond_signal(&c->sum_wanted);
        pthread_mutex_unlock(&c->sum_mutex);
        (void)pthread_join(c->summer, NULL);
    }
    (void)cudaSetDevice(c->device);
    (void)cudaDeviceSynchronize();
    for (size_t i = 0; i < LANES; i++) {
        if (c->lanes[i].done)
            (void)cudaEventDestroy(c->lanes[i].done);
        if (c->lanes[i].stream)
            (void)cudaStreamDestroy(c->lanes[i].stream);
    }
    if (c->written)
        (void)cudaEventDestroy(c->written);
    if (c->summed)
        (void)cudaEventDestroy(c->summed);
    if (c->sums)
        (void)cudaStreamDestroy(c->sums);
    if (c->own)
        (void)cudaStreamDestroy(c->own);
    (void)cudaFreeHost(c->pinned_memory);
    (void)cudaFree(c->device_memory);
    (void)cudaFree((void *)(uintptr_t)c->pages.weights);
    (void)cudaFree(c->pages.sums);
    (void)cudaFree(c->pages.kv);
    pthread_cond_destroy(&c->sum_wanted);
    pthread_mutex_destroy(&c->sum_mutex);
    pthread_cond_destroy(&c->freed);
    pthread_mutex_destroy(&c->mutex);
    free(c);
}

static size_t rounded(size_t bytes)
{
    return (bytes + 255) & ~(size_t)255;
}

/* Device and pinned memory of all lanes, in two allocations. */
static fp_status create_lanes(cuda_store *c)
{
    size_t leaves = rounded(FP__STORE_BATCH * c->head.slabs * 32);
    size_t pointers = rounded(FP__STORE_BATCH * sizeof(uint8_t *)), bad = rounded(FP__STORE_BATCH * 4);
    size_t device_bytes = leaves + pointers + bad, pinned_bytes = device_bytes + rounded(c->head.group_bytes);
    FP_CUDA(cudaMalloc(&c->device_memory, LANES * device_bytes), "memory for hashing K/V");
    FP_CUDA(cudaMallocHost(&c->pinned_memory, LANES * pinned_bytes), "staging memory of the K/V pool");
    int least, greatest;
    FP_CUDA(cudaDeviceGetStreamPriorityRange(&least, &greatest), "stream priorities");
    FP_CUDA(cudaStreamCreateWithPriority(&c->sums, cudaStreamNonBlocking, least), "a stream");
    for (size_t i = 0; i < LANES; i++) {
        lane *l = &c->lanes[i];
        uint8_t *d = (uint8_t *)c->device_memory + i * device_bytes;
        uint8_t *h = (uint8_t *)c->pinned_memory + i * pinned_bytes;
        l->leaves = d;
        l->groups = (const uint8_t **)(void *)(d + leaves);
        l->bad = (uint32_t *)(void *)(d + leaves + pointers);
        l->leaves_host = h;
        l->groups_host = (const uint8_t **)(void *)(h + leaves);
        l->bad_host = (uint32_t *)(void *)(h + leaves + pointers);
        l->staging = h + device_bytes;
        FP_CUDA(cudaStreamCreateWithPriority(&l->stream, cudaStreamNonBlocking, least), "a stream");
        FP_CUDA(cudaEventCreateWithFlags(&l->done, cudaEventBlockingSync | cudaEventDisableTiming),
                "an event");
    }
    return FP_OK;
}

/* The tables in the order of kernel/cuda/pages.h. */
static fp_status upload_weights(cuda_store *c)
{
    const fp__page_weights *w = &c->head.weights;
    size_t d = w->d, n = 0;
    uint64_t table[2 * FP__HEAD_DIM_MAX + 3 * TOKENS + 8], *device;
    const struct {
        const uint64_t *data;
        size_t n;
    } parts[] = {{w->k_word, d / 8}, {w->k_token, TOKENS}, {w->v_row, d},
                 {w->v_word, 8},     {w->scale_k, TOKENS}, {w->scale_v, TOKENS}};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        memcpy(table + n, parts[i].data, parts[i].n * 8);
        n += parts[i].n;
    }
    FP_CUDA(cudaMalloc((void **)&device, n * 8), "the weights of checksums");
    c->pages.weights = device;
    FP_CUDA(cudaMemcpy(device, table, n * 8, cudaMemcpyHostToDevice), "the weights of checksums");
    return FP_OK;
}

fp_status fp__store_cuda_room(const fp__page_geometry *g, size_t *groups)
{
    size_t free_bytes, total_bytes;
    FP_CUDA(cudaMemGetInfo(&free_bytes, &total_bytes), "its memory");
    size_t each = fp__page_group_bytes(g) + 8 * fp__page_slabs(g);
    *groups = free_bytes > SPARE_BYTES ? (free_bytes - SPARE_BYTES) / each : 0;
    return FP_OK;
}

static fp_status allocate_pages(cuda_store *c, size_t max_groups)
{
    size_t bytes = max_groups * c->head.group_bytes, sums = max_groups * c->head.slabs * 8, room;
    FP_TRY(fp__store_cuda_room(&c->head.geometry, &room));
    bool fits = max_groups <= room && max_groups <= UINT32_MAX;
    if (!fits || cudaMalloc((void **)&c->pages.kv, bytes) != cudaSuccess ||
        cudaMalloc((void **)&c->pages.sums, sums) != cudaSuccess) {
        (void)cudaGetLastError();
        return fp__fail(FP_NO_MEMORY,
                        "K/V of %zu tokens needs %zu MiB of GPU memory; what is free holds about %zu tokens: "
                        "choose a smaller context or fewer sessions, or end other programs on the GPU",
                        max_groups * TOKENS, (bytes + sums) >> 20, room * TOKENS);
    }
    FP_CUDA(cudaMemset(c->pages.kv, 0, bytes), "zeroing the K/V pool");
    FP_CUDA(cudaMemset(c->pages.sums, 0, sums), "zeroing the K/V pool");
    return FP_OK;
}

static fp_status create(cuda_store *c, size_t max_groups)
{
    const fp__page_geometry *g = &c->head.geometry;
    FP_CUDA(cudaGetDevice(&c->device), "the device of the K/V pool");
    FP_CUDA(fp__cuda_ops_init(c->device), "its properties");
    c->pages.slabs = (uint32_t)c->head.slabs;
    c->pages.d = (uint32_t)g->d;
    c->hash = (fp__cuda_hash_geometry){.arithmetic_version = FP__ARITHMETIC_VERSION,
                                       .layers = (uint16_t)g->layers,
                                       .kv_heads = (uint16_t)g->kv_heads,
                                       .d = (uint16_t)g->d};
    memcpy(c->hash.model, g->model, 32);
    c->head.max_groups = max_groups;
    c->head.batch = FP__STORE_BATCH;
    FP_CUDA(cudaStreamCreateWithFlags(&c->own, cudaStreamNonBlocking), "a stream");
    c->writer = c->own;
    FP_CUDA(cudaEventCreateWithFlags(&c->written, cudaEventDisableTiming), "an event");
    FP_CUDA(cudaEventCreateWithFlags(&c->summed, cudaEventDisableTiming), "an event");
    FP_TRY(upload_weights(c));
    FP_TRY(create_lanes(c));
    FP_TRY(allocate_pages(c, max_groups));
    FP_CUDA(cudaDeviceSynchronize(), "zeroing the K/V pool");
    c->has_summer = pthread_create(&c->summer, NULL, launch_when_asked, c) == 0;
    return c->has_summer ? FP_OK : fp__fail(FP_NO_MEMORY, "no thread for the K/V pool");
}

fp_status fp__store_cuda_create(const fp__page_geometry *g, size_t max_groups, fp__store **out)
{
    static const fp__store_ops ops = {.destroy = cuda_destroy,
                                      .extend = cuda_extend,
                                      .take = cuda_take,
                                      .give = cuda_give,
                                      .keep = cuda_keep,
                                      .sum = cuda_sum,
                                      .check = cuda_check,
                                      .hash = cuda_hash,
                                      .map = cuda_map,
                                      .unmap = cuda_unmap};
    FP_TRY(fp__page_geometry_check(g));
    if (g->d % 8 != 0 || fp__page_slabs(g) > SLABS_MAX)
        return fp__fail(FP_UNSUPPORTED,
                        "K/V of head size %zu in %zu layers with %zu heads cannot be kept in GPU memory; use "
                        "the CPU",
                        g->d, g->layers, g->kv_heads);
    cuda_store *c = calloc(1, sizeof *c);
    if (!c)
        return fp__fail(FP_NO_MEMORY, "no memory for a K/V pool");
    fp__store_init(&c->head, &ops, g);
    pthread_mutex_init(&c->mutex, NULL);
    pthread_cond_init(&c->freed, NULL);
    pthread_mutex_init(&c->sum_mutex, NULL);
    pthread_cond_init(&c->sum_wanted, NULL);
    fp_status status = create(c, max_groups);
    if (status != FP_OK)
        cuda_destroy(&c->head);
    else
        *out = &c->head;
    return status;
}

uint8_t *fp__store_cuda_base(const fp__store *store)
{
    return ((const cuda_store *)(const void *)store)->pages.kv;
}

fp_status fp__store_cuda_set_writer(fp__store *store, void *stream)
{
    cuda_store *c = self(store);
    FP_TRY(enter(c));
    FP_TRY(flush_sums(c));
    FP_CUDA(cudaStreamSynchronize(c->writer), "the K/V pool's work so far");
    c->writer = stream ? stream : c->own;
    return mark_written(c);
}
