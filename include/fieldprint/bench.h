/* Measurements of this machine: attention, hashing and whole steps of a model, on the CPU or on a GPU.
 *
 * Each checks what it is about to time against the reference first, bit for bit, and gives no time for wrong
 * bits (FP_MISMATCH). Times are of the work alone, with K/V and weights in the memory of the device; what is
 * read repeatedly is spread over more memory than caches hold. One measurement at a time per process. */
#ifndef FIELDPRINT_BENCH_H
#define FIELDPRINT_BENCH_H
#include "fieldprint/model.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fp_bench_machine {
    char device[16];  /* "cpu", "cuda:0" */
    char name[128];   /* of the processor, or of the GPU */
    char kernels[16]; /* CPU: the table in use; GPU: "sm_90" */
    uint32_t units;   /* threads, or multiprocessors */
    double copy_gb_s; /* a large copy within its memory, median: bytes read + written in 10^9 a second */
} fp_bench_machine;
/* threads 0: one per usable core. FP_UNSUPPORTED: no GPU, or a build without CUDA. */
FP_API fp_status fp_bench_machine_get(const char *device, size_t threads,
                                      fp_bench_machine *out) FP_WARN_UNUSED;

typedef struct fp_bench_times {
    uint32_t runs;
    double median_us, least_us;
} fp_bench_times;

/* Attention of one layer: `batch` sequences of `tokens` query tokens each at the end of `context` tokens (the
 * query tokens counted in), which also attend to `anchor` tokens. */
typedef struct fp_bench_attention_options {
    const char *device; /* "cpu" (NULL), "cuda", "cuda:N", "auto" */
    size_t threads;     /* CPU; 0: one per usable core */
    uint32_t heads, kv_heads, d;
    uint32_t batch, tokens, context, anchor;
    int shared;           /* all sequences attend to the same anchor pages */
    uint32_t mode;        /* 0 compete, 1 floor, 2 reserve */
    uint32_t gamma_65536; /* γ·65536 of every head, 0..65536 */
    uint32_t runs;        /* 1..1000 */
} fp_bench_attention_options;
typedef struct fp_bench_attention_result {
    uint64_t words_checked; /* output words compared with the definition or with the CPU */
    uint32_t layers;        /* that took turns, each with K/V of its own */
    fp_bench_times layer;
    fp_bench_times with_queries; /* GPU: with the queries' quantisation; runs 0: not measured */
    uint64_t kv_bytes;           /* of one layer, each page counted once */
    double kv_gb_s;              /* kv_bytes over the median */
    uint64_t pairs;              /* (row, token) pairs that see each other: 4·d operations each */
} fp_bench_attention_result;
/* FP_USAGE: a shape that attention does not know; FP_LIMIT: its K/V does not fit; FP_MISMATCH. */
FP_API fp_status fp_bench_attention(const fp_bench_attention_options *options,
                                    fp_bench_attention_result *out) FP_WARN_UNUSED;

/* Leaves and roots of page groups. */
typedef struct fp_bench_hash_options {
    const char *device; /* "cpu" (NULL), "cuda", "cuda:N", "auto" */
    size_t threads;     /* CPU */
    uint32_t layers, kv_heads, d;
    uint32_t pages; /* hashed together */
    uint32_t runs;
} fp_bench_hash_options;
typedef struct fp_bench_hash_result {
    uint64_t hashes_checked;
    uint64_t bytes; /* of K/V that are hashed at a time */
    fp_bench_times all;
    double gb_s;
} fp_bench_hash_result;
FP_API fp_status fp_bench_hash(const fp_bench_hash_options *options,
                               fp_bench_hash_result *out) FP_WARN_UNUSED;

#ifdef __cplusplus
}
#endif
#endif
