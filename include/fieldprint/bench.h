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

/* How the times of single steps are spread: `p50_us` is the smallest time that half of them do not exceed. */
typedef struct fp_bench_spread {
    uint32_t steps;
    double p50_us, p90_us, p99_us, max_us;
} fp_bench_spread;

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

/* A model of this shape with random weights, in memory only: for measuring shapes whose weights are not at
 * hand. Tokens are bytes and padding. fp_model_close. */
typedef struct fp_bench_shape {
    uint32_t layers, width, heads, kv_heads, head_dim, ffn_width, vocabulary, context;
    const char *type; /* of the matrices: "q4_0", "q4_1" or "q8_0" */
    float rope_base;
} fp_bench_shape;
/* "8b": 32 layers of 4096, 32 heads of 128 over 8, FFN 14336, vocabulary 128256. "tiny": 4 layers of 256. The
 * type is q4_0; change what should be different. FP_NOT_FOUND. */
FP_API fp_status fp_bench_shape_get(const char *name, fp_bench_shape *out) FP_WARN_UNUSED;
/* FP_USAGE: sizes that no model has; FP_NO_MEMORY, FP_IO. */
FP_API fp_status fp_bench_model_create(const fp_bench_shape *shape, size_t threads,
                                       fp_model **out) FP_WARN_UNUSED;

/* What happens to the K/V pages that decoding fills. */
typedef enum fp_bench_validation {
    FP_BENCH_VALIDATE_NONE,  /* nothing: what the others are compared with */
    FP_BENCH_VALIDATE_ASYNC, /* as the engine does it: checksums at the write, sealed pages hashed by a worker
                                where they are (on a GPU: by the GPU, beside the steps) */
    FP_BENCH_VALIDATE_ASYNC_CPU, /* sealed pages copied to the host and hashed by a worker */
    FP_BENCH_VALIDATE_SYNC_PAGE, /* the token loop copies each sealed page to the host and hashes it */
    FP_BENCH_VALIDATE_SYNC_TOKEN /* the token loop copies and hashes the page of each token */
} fp_bench_validation;

/* One thing to measure: decoding of `batch` sequences at `context` tokens of made-up K/V each, or a prompt.
 */
typedef struct fp_bench_point {
    uint32_t batch, context;
    uint32_t anchor;         /* tokens of an anchor that all sequences share, mode floor, γ 0.1 */
    uint32_t steps;          /* decoded tokens of each sequence in a run; 0: no decoding */
    uint32_t prefill, chunk; /* tokens of the prompt (0: none), tokens per step (0: 512, on a GPU 2,048) */
    uint32_t runs;
    fp_bench_validation validation;
} fp_bench_point;
typedef struct fp_bench_point_result {
    fp_status status; /* of this point alone: FP_NO_MEMORY where it does not fit; then nothing else is set */
    char detail[256];
    fp_bench_times step;     /* of a run: its time over its steps */
    fp_bench_spread latency; /* of the steps of all runs: until the next may begin, without what is put off */
    double decode_tokens_per_s; /* batch over the median */
    fp_bench_times prompt;      /* all of it */
    double prefill_tokens_per_s;
    uint64_t weight_bytes;  /* that a step reads, as stored */
    uint64_t kv_step_bytes; /* that a step reads, an anchor counted once, halfway through a run */
    uint64_t kv_bytes;      /* of all pages of the sequences */
    uint64_t hashed_bytes;  /* in a run */
    uint64_t copied_bytes;  /* from the GPU for hashing, in a run */
    uint32_t chunk;
} fp_bench_point_result;
/* Puts the model on the device, checks it there (words_checked: of logits and K/V, GPU against CPU, on the
 * CPU one token at a time against all at once), and measures the points one after the other. threads 0: one
 * per usable core. Returns what stopped it before the first point: FP_UNSUPPORTED, FP_NO_MEMORY, FP_MISMATCH,
 * FP_USAGE. */
FP_API fp_status fp_bench_model(const fp_model *model, const char *device, size_t threads, double seconds,
                                const fp_bench_point *points, size_t n, fp_bench_point_result *results,
                                uint64_t *words_checked) FP_WARN_UNUSED;

#ifdef __cplusplus
}
#endif
#endif
