/* The forward pass on an NVIDIA GPU, with the bits of model/forward.h: logits, K/V bytes, anchor mass and the
 * place of a numeric error. Built where a CUDA compiler was found; includable from plain C (only the CUDA
 * runtime's C interface).
 *
 * A step takes spans of tokens of several sequences, as on the CPU; K/V lives in a pool in device memory:
 * page group p at kv + p·group_bytes, in the layout of cache/page.h. Unwritten slots are zeros: whoever hands
 * a page out zeroes it.
 *
 * Steps are asynchronous: step() enqueues the work on the pass's own stream and returns, wait() ends with the
 * errors of the last step. Steps in which each span has one token and logits are wanted of each are replayed
 * as a CUDA graph, one per number of sequences, made on first use. One thread at a time per fp__cuda_forward.
 */
#ifndef FP_MODEL_CUDA_FORWARD_CUDA_H
#define FP_MODEL_CUDA_FORWARD_CUDA_H
#include "fieldprint/cuda_attention.h"
#include "kernel/cuda/cuda_ops.h"
#include "model/model.h"

typedef struct fp__cuda_layer {
    fp__cuda_weight qkv[3]; /* one matrix of all rows where the types agree (n_qkv 1), else Q, K, V */
    size_t n_qkv;
    fp__cuda_weight wo, gate_up, up, down; /* gate_up.gated 0: the gate alone, and `up` beside it */
    const float *qkv_bias;                 // [(H + 2·HK)·d] or NULL
    const float *attn_norm, *ffn_norm, *q_norm, *k_norm;
} fp__cuda_layer;

/* A piece of what was uploaded, and the checksum that it had on the host (kernel/cuda/byte_sum.h). */
typedef struct fp__cuda_item {
    const uint8_t *data;
    size_t bytes;
    uint64_t sum[2];
} fp__cuda_item;
#define FP__CUDA_ITEM_BYTES ((size_t)16 << 20)

/* A model's weights in device memory. */
typedef struct fp__cuda_model {
    fp__hparams hp;
    fp__cuda_layer *layers; // [L]
    fp__cuda_weight embedding, output;
    const float *output_norm;
    const float *rope_cos, *rope_sin; // [rope_positions][n_rot/2]
    size_t rope_positions;
    size_t step_bytes; /* weights that one token's step reads: all but the embedding */
    void **memory;     /* every allocation */
    size_t n_memory, room;
    fp__cuda_item *items; // [n_items] all that was uploaded
    size_t n_items, items_room;
    bool again; /* being uploaded again, to the same places */
    size_t reused;
} fp__cuda_model;

/* Packs and uploads the weights of an open model; rotary rows for positions 0..positions - 1. FP_UNSUPPORTED:
 * no GPU, or a shape without a kernel (heads other than 64, 96, 128 or 256); FP_NO_MEMORY. */
fp_status fp__cuda_model_create(const fp_model *model, fp__team *team, size_t positions,
                                fp__cuda_model **out) FP_WARN_UNUSED;
void fp__cuda_model_destroy(fp__cuda_model *m); /* NULL is fine */
/* Packs and uploads everything again to where it is, of the same model. No step may run. */
fp_status fp__cuda_model_reload(fp__cuda_model *m, const fp_model *model, fp__team *team) FP_WARN_UNUSED;
/* *same: the bytes of an item are those that were uploaded. scratch: 16 bytes of device memory. Waits for the
 * stream. */
fp_status fp__cuda_model_check(const fp__cuda_model *m, size_t item, void *scratch, void *stream,
                               bool *same) FP_WARN_UNUSED;

typedef struct fp__cuda_pool {
    uint8_t *kv;        /* device memory, 128-byte aligned */
    size_t group_bytes; /* L·HK·(128·d + 256) */
    uint32_t pages;
} fp__cuda_pool;

typedef struct fp__cuda_forward_limits {
    size_t tokens, sequences, logits; /* per step */
    size_t pages;                     /* of all sequences of a step together */
} fp__cuda_forward_limits;

typedef struct fp__cuda_span {
    const uint32_t
        *ids; /* [tokens], or NULL in a step that has as many spans as the step before had logits, of one
                 token each: the greedy choice of the same row, without a way through the host */
    size_t tokens;
    uint64_t position; /* of the first token */
    fp_cuda_attention_segment anchor,
        context;           /* as the step leaves them: its own pages are in the causal part */
    const uint32_t *pages; /* token i's K/V goes to slot (slot + i) % 64 of */
    size_t slot;           /* page group pages[(slot + i) / 64] */
    fp__injection_mode mode;
    const uint32_t *g; /* [L][H] γ·65536, or NULL */
    uint64_t *mass;    /* [L][H] += Σ rint(α·2^24) over the span's tokens, by wait(); or NULL */
} fp__cuda_span;

typedef struct fp__cuda_forward fp__cuda_forward;
/* The model and the pool must outlive it. */
fp_status fp__cuda_forward_create(const fp__cuda_model *m, const fp__cuda_pool *pool,
                                  fp__cuda_forward_limits limits, fp__cuda_forward **out) FP_WARN_UNUSED;
void fp__cuda_forward_destroy(fp__cuda_forward *f); /* NULL is fine */

/* Enqueues a step and the logits of n_rows of its tokens (rows of the step). What spans point to may go once
 * this returns, but for mass. A step whose spans want mass must be waited for before the next. FP_LIMIT,
 * FP_USAGE. */
fp_status fp__cuda_forward_step(fp__cuda_forward *f, const fp__cuda_span *spans, size_t n, const size_t *rows,
                                size_t n_rows) FP_WARN_UNUSED;
/* Ends the steps enqueued so far. FP_NUMERIC as fp__forward_step, of the last step: bad_span (or NULL) is its
 * index. */
fp_status fp__cuda_forward_wait(fp__cuda_forward *f, size_t *bad_span) FP_WARN_UNUSED;
/* After wait: enqueues the logits of other rows of the last step, as if they had been asked for; wait and
 * read follow. */
fp_status fp__cuda_forward_project(fp__cuda_forward *f, const size_t *rows, size_t n_rows) FP_WARN_UNUSED;
/* After wait: logits [n][V] and greedy tokens [n] of the last step, copied to the host; either may be NULL.
 */
fp_status fp__cuda_forward_read(fp__cuda_forward *f, float *logits, uint32_t *tokens) FP_WARN_UNUSED;
/* The logits of rows [first, first + n) of these only. */
fp_status fp__cuda_forward_read_rows(fp__cuda_forward *f, size_t first, size_t n,
                                     float *logits) FP_WARN_UNUSED;
/* The stream that steps run on (a cudaStream_t), and the last step's graph again as it is (benchmarks). */
void *fp__cuda_forward_stream(fp__cuda_forward *f);
fp_status fp__cuda_forward_replay(fp__cuda_forward *f) FP_WARN_UNUSED;
#endif
