/* What the measurements of fieldprint/bench.h share, and what they ask of a GPU. */
#ifndef FP_ENGINE_BENCH_H
#define FP_ENGINE_BENCH_H
#include "cache/leaf.h"
#include "core/arena.h"
#include "fieldprint/bench.h"
#include "kernel/attention.h"

enum { FP__BENCH_MAX_RUNS = 1000, FP__BENCH_MAX_BATCH = 256, FP__BENCH_CONTENT_BYTES = 48 << 20 };

uint64_t fp__bench_random(uint64_t *state); /* splitmix64 */
/* Sorts times (µs) and fills the summary. */
void fp__bench_summary(double *us, uint32_t n, fp_bench_times *out);
/* Sorts times of n > 0 steps (µs) and tells how they are spread. */
void fp__bench_spread_of(double *us, size_t n, fp_bench_spread *out);
/* Random slabs with scales of 2^-8 to 2^-7. */
void fp__bench_fill_slabs(uint8_t *slabs, size_t n, size_t d, uint64_t *random);

/* One layer's attention: what to compute, and what came out on the CPU. Page p of a layer holds the content
 * p % contents. */
typedef struct fp__bench_attention {
    fp_bench_attention_options o;
    size_t rows;         /* batch·tokens·heads */
    size_t anchor_pages; /* of one sequence */
    size_t context_pages;
    size_t pages;      /* of a layer, shared ones once */
    size_t slab_bytes; /* 128·d + 256 */
    size_t contents;
    uint8_t *content; // [contents][kv_heads][slab]
    float *q;         // [batch·tokens][heads][d] after RoPE
    float *out;       // [batch·tokens][heads·d] as the CPU has it
    float *alpha;     // [batch·tokens][heads]
} fp__bench_attention;
/* Page j of a sequence's anchor, or of its context, in the layer's pages. */
static inline uint32_t fp__bench_anchor_page(const fp__bench_attention *b, size_t sequence, size_t j)
{
    return (uint32_t)(b->o.shared ? j : sequence * (b->anchor_pages + b->context_pages) + j);
}
static inline uint32_t fp__bench_context_page(const fp__bench_attention *b, size_t sequence, size_t j)
{
    return (uint32_t)(b->o.shared ? b->anchor_pages + sequence * b->context_pages + j
                                  : sequence * (b->anchor_pages + b->context_pages) + b->anchor_pages + j);
}
static inline uint32_t fp__bench_filled(size_t tokens, size_t page) /* visible tokens of an anchor's page */
{
    return (uint32_t)(tokens - 64 * page < 64 ? tokens - 64 * page : 64);
}

/* fp_bench_attention with these kernels (tests give it wrong ones). */
fp_status fp__bench_attention_with(const fp_bench_attention_options *options, const fp__kernel_ops *ops,
                                   fp_bench_attention_result *out) FP_WARN_UNUSED;

/* On the GPU (engine/cuda/bench_cuda.c; in builds without CUDA engine/bench_no_cuda.c says that there is
 * none). */
fp_status fp__bench_cuda_machine(int gpu, fp_bench_machine *out) FP_WARN_UNUSED;
/* Compares with b->out and b->alpha, then times. */
fp_status fp__bench_cuda_attention(int gpu, const fp__bench_attention *b,
                                   fp_bench_attention_result *out) FP_WARN_UNUSED;
/* groups: `contents` page groups that the pages repeat, leaves [contents][slabs][32] and roots [contents][32]
 * what the CPU says of them. */
typedef struct fp__bench_hash {
    fp_bench_hash_options o;
    fp__page_geometry geometry;
    size_t contents;
    const uint8_t *groups, *leaves, *roots;
} fp__bench_hash;
fp_status fp__bench_cuda_hash(int gpu, const fp__bench_hash *b, fp_bench_hash_result *out) FP_WARN_UNUSED;
#endif
