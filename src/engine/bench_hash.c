/* fp_bench_hash: leaves and roots of made-up page groups. */
#include "engine/bench.h"
#include "engine/engine.h"
#include "merkle/tree.h"
#include "model/device.h"
#include <stdatomic.h>
#include <stdlib.h>

typedef struct lab {
    fp__bench_hash b;
    fp__team *team;
    uint8_t *content; // [contents][slabs][slab]: b.groups
    uint8_t *content_leaves, *content_roots;
    uint8_t *pool; // [pages][slabs][slab]: timed on the CPU
    size_t group_bytes, slabs, pool_pages;
    uint8_t *leaves, *roots; // of the pool
    atomic_size_t next;
} lab;

/* The root by the definition: each leaf on its own, then the tree. */
static void define(lab *l, size_t i)
{
    const fp__page_geometry *g = &l->b.geometry;
    uint8_t *leaves = l->content_leaves + i * l->slabs * 32;
    const uint8_t *group = l->b.groups + i * l->group_bytes;
    for (size_t s = 0; s < l->slabs; s++)
        fp__leaf_slab(g, s / g->kv_heads, s % g->kv_heads, group + s * fp__slab_bytes(g->d), leaves + 32 * s);
    fp__merkle_root(leaves, l->slabs, l->content_roots + 32 * i);
}

static void hash_pages(void *arg, size_t thread, size_t threads)
{
    lab *l = arg;
    size_t p;
    (void)thread, (void)threads;
    while ((p = atomic_fetch_add(&l->next, 1)) < l->b.o.pages)
        fp__leaf_group(&l->b.geometry, l->pool + p * l->group_bytes, l->leaves + p * l->slabs * 32,
                       l->roots + 32 * p);
}

static fp_status compare(const lab *l, fp_bench_hash_result *out)
{
    for (size_t p = 0; p < l->b.o.pages; p++) {
        size_t c = p % l->b.contents;
        if (memcmp(l->leaves + p * l->slabs * 32, l->content_leaves + c * l->slabs * 32, l->slabs * 32) !=
                0 ||
            memcmp(l->roots + 32 * p, l->content_roots + 32 * c, 32) != 0)
            return fp__fail(FP_MISMATCH, "bench hash: the hashes of page %zu are wrong on this machine", p);
        out->hashes_checked += l->slabs + 1;
    }
    return FP_OK;
}

static fp_status time_cpu(lab *l, fp_bench_hash_result *out)
{
    const fp_bench_hash_options *o = &l->b.o;
    double us[FP__BENCH_MAX_RUNS];
    l->pool = fp__mem_alloc(o->pages * l->group_bytes);
    l->leaves = malloc(o->pages * l->slabs * 32);
    l->roots = malloc((size_t)o->pages * 32);
    if (!l->pool || !l->leaves || !l->roots)
        return fp__fail(FP_NO_MEMORY, "bench hash: no memory for %zu MiB of pages",
                        o->pages * l->group_bytes >> 20);
    for (size_t p = 0; p < o->pages; p++)
        memcpy(l->pool + p * l->group_bytes, l->content + p % l->b.contents * l->group_bytes, l->group_bytes);
    FP_TRY(fp__team_create(o->threads, &l->team));
    for (uint32_t i = 0; i < o->runs; i++) {
        uint64_t start = fp__now_ns();
        atomic_store(&l->next, 0);
        fp__team_run(l->team, hash_pages, l);
        us[i] = (double)(fp__now_ns() - start) / 1e3;
        if (i == 0)
            FP_TRY(compare(l, out));
    }
    fp__bench_summary(us, o->runs, &out->all);
    return FP_OK;
}

static fp_status measure(lab *l, fp_bench_hash_result *out)
{
    const fp_bench_hash_options *o = &l->b.o;
    uint64_t random = 3;
    int gpu;
    FP_TRY(fp__device_parse(o->device, &gpu));
    l->b.geometry = (fp__page_geometry){.layers = o->layers, .kv_heads = o->kv_heads, .d = o->d};
    FP_TRY(fp__page_geometry_check(&l->b.geometry));
    if (o->pages == 0 || o->pages > 1 << 20 || o->runs == 0 || o->runs > FP__BENCH_MAX_RUNS)
        return fp__fail(FP_USAGE, "bench hash: pages must be 1 to %d and runs 1 to %d", 1 << 20,
                        FP__BENCH_MAX_RUNS);
    l->slabs = fp__page_slabs(&l->b.geometry);
    l->group_bytes = fp__page_group_bytes(&l->b.geometry);
    l->b.contents = FP__BENCH_CONTENT_BYTES / l->group_bytes;
    l->b.contents = l->b.contents < 3 ? 3 : l->b.contents;
    l->b.contents = l->b.contents > o->pages ? o->pages : l->b.contents;
    l->content = fp__mem_alloc(l->b.contents * l->group_bytes);
    l->content_leaves = malloc(l->b.contents * l->slabs * 32);
    l->content_roots = malloc(l->b.contents * 32);
    if (!l->content || !l->content_leaves || !l->content_roots)
        return fp__fail(FP_NO_MEMORY, "bench hash: no memory for %zu MiB of pages",
                        l->b.contents * l->group_bytes >> 20);
    fp__bench_fill_slabs(l->content, l->b.contents * l->slabs, o->d, &random);
    for (size_t i = 0; i < 32; i++)
        l->b.geometry.model[i] = (uint8_t)i;
    l->b.groups = l->content;
    l->b.leaves = l->content_leaves;
    l->b.roots = l->content_roots;
    for (size_t i = 0; i < l->b.contents; i++)
        define(l, i);
    if (gpu >= 0)
        FP_TRY(fp__bench_cuda_hash(gpu, &l->b, out));
    else
        FP_TRY(time_cpu(l, out));
    out->bytes = (uint64_t)o->pages * l->group_bytes;
    out->gb_s = (double)out->bytes / out->all.median_us / 1e3;
    return FP_OK;
}

fp_status fp_bench_hash(const fp_bench_hash_options *options, fp_bench_hash_result *out)
{
    *out = (fp_bench_hash_result){0};
    lab *l = calloc(1, sizeof *l);
    if (!l)
        return fp__fail(FP_NO_MEMORY, "bench hash: no memory");
    l->b.o = *options;
    fp_status status = measure(l, out);
    fp__team_destroy(l->team);
    fp__mem_free(l->content, l->b.contents * l->group_bytes);
    fp__mem_free(l->pool, options->pages * l->group_bytes);
    free(l->content_leaves);
    free(l->content_roots);
    free(l->leaves);
    free(l->roots);
    free(l);
    return status;
}
