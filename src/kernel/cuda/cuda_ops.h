/* Linear layers, norms, embedding, rotation, argmax and hashing on the GPU: plain functions on device
 * pointers and a stream, with the bits of src/exact. Attention has its own header.
 *
 * All functions: asynchronous on `stream`, no allocation, no synchronisation, safe to capture into a CUDA
 * graph (the pointers and sizes are then part of the graph); thread-safe on different outputs. Device
 * pointers are 16-byte aligned and belong to the caller. They return what the launch returned;
 * cudaErrorInvalidValue for sizes they do not take. Inputs are trusted but for the numbers in them: what
 * leaves canonical range (arithmetic §0) becomes zeros and is noted in an error array.
 *
 * Error arrays: uint32_t [T], one word per token, FP__CUDA_NO_ERROR at the start of a step; a kernel that
 * meets a bad number takes the minimum with the code it was given (layer·places + place), as model/forward.c
 * does on the CPU.
 *
 * On sm_90 kernels are launched so that each may start before the one ahead of it in the stream has ended,
 * and then reads weights ahead; it waits before touching anything else. Any other kernel may stand between
 * them. */
#ifndef FP_KERNEL_CUDA_OPS_H
#define FP_KERNEL_CUDA_OPS_H
#include "kernel/device_weight.h"
#include <cuda_runtime_api.h>
#ifdef __cplusplus
extern "C" {
#endif

#define FP__CUDA_NO_ERROR 0xffffffffu

/* A matrix in device memory: the bytes that fp__device_weight_pack made. */
typedef struct fp__cuda_weight {
    int type, gated;
    uint32_t rows, tiles, segments; /* of fp__device_weight */
    const uint8_t *data;            /* [tiles][segments][unit_bytes] */
} fp__cuda_weight;

/* Reads the device's properties and raises the kernels' shared-memory limits; once per process and device,
 * before any other call (and before capture). Thread-safe. */
cudaError_t fp__cuda_ops_init(int device);

/* §4. y[t·y_stride + r] = W·x (+ bias[r]) (+ residual[t·y_stride + r]), t < tokens, r < w->rows, in that
 * order of additions; bias and residual may be NULL, residual may be y. With a gated matrix instead
 * y[t·y_stride + r] = silu(gate row r)·(up row r), r < w->rows / 2; bias and residual must be NULL.
 * act: fp__device_act_bytes(tokens, cols). Any number of tokens: few by the decode kernel, which reads the
 * weights at memory speed once for every 32 of them, more by the prefill kernel; the bits do not tell which.
 */
cudaError_t fp__cuda_linear(const fp__cuda_weight *w, const uint8_t *act, uint32_t tokens, const float *bias,
                            const float *residual, float *y, size_t y_stride, cudaStream_t stream);

/* The same from floats: norm (if it is not NULL), quantiser and product; the two functions below, then the
 * one above, or one kernel for all where there is one token (`act` is not written then). y is not x. */
typedef struct fp__cuda_input {
    const float *x;    // [T][stride], the first `width` of each row; with a norm stride = width
    size_t stride;     /* a multiple of 4 */
    const float *norm; // [width] or NULL
    float eps;
    uint32_t width;
    uint8_t *act;    // fp__device_act_bytes(T, width), scratch
    uint32_t *error; // [T]
    uint32_t code;   /* of the norm; the quantiser has code + 1, or code where there is no norm */
    uint32_t *taken; /* NULL, or a word of device memory for products with this matrix alone, zero before the
                        first: who takes which rows of it is then decided as they go */
} fp__cuda_input;
cudaError_t fp__cuda_linear_from(const fp__cuda_input *in, const fp__cuda_weight *w, uint32_t tokens,
                                 const float *bias, const float *residual, float *y, size_t y_stride,
                                 cudaStream_t stream);

/* §2 and §3. act ← quantise(rmsnorm(x[T][C], w[C], eps)). rows: NULL, or [T] row of x for each token (the
 * rows whose logits are wanted); errors are noted at that row. `code` notes the norm, code + 1 the quantiser.
 * C ≤ 16,384. */
cudaError_t fp__cuda_norm_quantise(const float *x, const uint32_t *rows, const float *w, float eps,
                                   uint32_t tokens, uint32_t width, uint8_t *act, uint32_t *error,
                                   uint32_t code, cudaStream_t stream);
/* §3. act ← quantise(x[t·stride + i]); with `up` (same shape) of silu(x)·up; stride: a multiple of 4,, for
 * gate and up matrices of different types. */
cudaError_t fp__cuda_quantise(const float *x, const float *up, size_t stride, uint32_t tokens, uint32_t width,
                              uint8_t *act, uint32_t *error, uint32_t code, cudaStream_t stream);

/* §4. x[t][cols] = row ids[t] of w (not gated), dw·q + mw; and error[t] = FP__CUDA_NO_ERROR if error is not
 * NULL. An id ≥ w->rows gives zeros. */
cudaError_t fp__cuda_embed(const fp__cuda_weight *w, const uint32_t *ids, uint32_t tokens, uint32_t cols,
                           float *x, uint32_t *error, cudaStream_t stream);

/* q/k norm and §5, in place on qkv[T][stride]: heads [0, norm_split) of a token (its queries) take q_norm[d],
 * heads [norm_split, heads) (its keys) k_norm[d]; NULL: no norm. Then rotation by rows positions[t] of the
 * table cos, sin [max_position][n_rot/2], which the host computed (exact/rope.h). halves: 0 pairs (2i, 2i+1),
 * 1 (i, i+n_rot/2). d ≤ 512; `code` notes the norm. */
typedef struct fp__cuda_rope {
    uint32_t heads, norm_split, d, n_rot;
    int halves;
    float eps;
    const float *q_norm, *k_norm;
    const float *cos, *sin;
} fp__cuda_rope;
cudaError_t fp__cuda_norm_rope(float *qkv, size_t stride, const uint32_t *positions, uint32_t tokens,
                               const fp__cuda_rope *r, uint32_t *error, uint32_t code, cudaStream_t stream);

/* §7, greedy. ids[t] = index of the largest logit + 0 of logits[t][V], ties to the lowest; a logit that is
 * not finite is noted with `code` at error[rows ? rows[t] : t]. state: [T] × 16 bytes of device memory,
 * zeroed once when allocated; every call leaves it zeroed. Other sampling is the host's, on the logits copied
 * there. */
cudaError_t fp__cuda_argmax(const float *logits, uint32_t tokens, uint32_t vocabulary, const uint32_t *rows,
                            uint32_t *ids, void *state, uint32_t *error, uint32_t code, cudaStream_t stream);

/* page.md. Slab leaves and group roots of page groups that lie in device memory.
 *   groups [n] device pointers (an array in device memory), each to [L][HK] slabs of 128·d + 256 bytes
 *   leaves [n][L·HK][32]; roots [n][32], the RFC 6962 tree over the leaves, or NULL
 * L·HK ≤ 4096. Meant for a low-priority stream beside decoding: one thread hashes one slab. */
typedef struct fp__cuda_hash_geometry {
    uint16_t arithmetic_version, layers, kv_heads, d;
    uint8_t model[32];
} fp__cuda_hash_geometry;
cudaError_t fp__cuda_hash_groups(const fp__cuda_hash_geometry *g, const uint8_t *const *groups, uint32_t n,
                                 uint8_t *leaves, uint8_t *roots, cudaStream_t stream);

/* What a benchmark varies; 0: the built-in choice. Not thread-safe. */
typedef struct fp__cuda_tuning {
    uint32_t decode_warps, decode_stage_bytes, decode_ctas, no_overlap;
    uint32_t always_prefill;
    uint32_t carveout; /* percent of shared memory; above 100: the driver's choice */
    uint32_t no_attention;
    uint32_t separate;        /* 1: norm, quantiser and product are kernels of their own for one token too */
    uint32_t under_way_bytes; /* with one token: of weights, a block */
    uint32_t no_taking;       /* 1: rows are dealt out before, with one token too */
} fp__cuda_tuning;
extern fp__cuda_tuning fp__cuda_tune;
#ifdef __cplusplus
}
#endif
#endif
