/* The compute kernels behind one table of function pointers, one table per instruction set. Every table gives
 * the bits of src/exact for every call (tests compare with memcmp). Chosen once per process by the best the
 * machine has, or forced with FIELDPRINT_KERNELS=ref|avx2|avx512|neon.
 *
 * All functions are pure (no allocation, no lock, no global state) and may run on several threads over
 * disjoint outputs. `bad` is set to 1 (never cleared) where a number left canonical range (arithmetic §0);
 * outputs are then zeros. */
#ifndef FP_KERNEL_KERNEL_H
#define FP_KERNEL_KERNEL_H
#include "exact/sampling.h"
#include "kernel/weight.h"

/* Query rows of one KV head, prepared by `query`. */
typedef struct fp__attn_rows {
    size_t rows, d;
    size_t stride;       /* int16 elements from row to row, a multiple of 32, ≥ d; the tail is zero */
    const int16_t *q16;  /* [rows][stride], 64-byte aligned */
    const float *s_q;    /* [rows] */
    const uint8_t *next; /* slab that will be read after this call, or NULL: a hint to prefetch it */
} fp__attn_rows;

/* Softmax states of rows: m[rows], l[rows], o[rows][d]. m = -inf marks a state that saw nothing (l = 0, o =
 * 0). */
typedef struct fp__attn_states {
    float *m, *l, *o;
} fp__attn_states;

typedef struct fp__kernel_ops {
    const char *name; /* "avx512" */

    /* §2. One token: y[n] = rmsnorm(x[n]) with w[n]. */
    void (*rmsnorm)(const float *x, const float *w, float eps, size_t n, float *y, uint8_t *bad);
    /* §3. One token row x[act->cols] into token slot `token` of act. */
    void (*act_quantise)(const float *x, fp__act *act, size_t token, uint8_t *bad);
    /* §4. y[t·y_stride + r] = W·x (+ bias[r] if bias) for all tokens of act and the rows of groups
     * [group_begin, group_end); with `accumulate` y += that value instead (the residual's plain add). Rows ≥
     * w->rows are not written. */
    void (*linear)(const fp__weight *w, const fp__act *act, size_t group_begin, size_t group_end,
                   const float *bias, float *y, size_t y_stride, bool accumulate);
    /* §5. Rotates `heads` consecutive heads x[heads][d] of one token. c, s: [n_rot/2]. */
    void (*rope)(float *x, size_t heads, size_t d, size_t n_rot, fp__rope_layout layout, const float *c,
                 const float *s);
    /* §6. q[heads][d] after RoPE → q16[heads][stride], s_q[heads]. */
    void (*query)(const float *q, size_t heads, size_t d, int16_t *q16, size_t stride, float *s_q,
                  uint8_t *bad);
    /* §6. k[d], v[d] of one token and KV head → slot of its slab. */
    void (*kv_write)(const float *k, const float *v, size_t d, uint8_t *slab, size_t slot, uint8_t *bad);
    /* §6. One span (1..4 pages) for all rows, merged in page order, from the empty state. visible[p·rows + r]
     * is how many leading tokens of page p row r sees (0..64). Slabs are 128-byte aligned. */
    void (*attn_span)(const fp__attn_rows *q, const uint8_t *const *slabs, const uint8_t *visible,
                      size_t pages, fp__attn_states out);
    /* §6. into ← merge(into, from) for each row; rows of `from` with m = -inf are left out. */
    void (*attn_merge)(size_t rows, size_t d, fp__attn_states into, fp__attn_states from);
    /* §6. One row: out[d] from the two states (o at o[0..d)); returns α. */
    float (*attn_mix)(fp__attn_states anchor, fp__attn_states context, fp__injection_mode mode, uint32_t g,
                      size_t d, float *out);
    /* §7. out[i] = silu(g[i])·u[i]. out may be g. */
    void (*silu_mul)(const float *g, const float *u, size_t n, float *out);
    /* §7. Weights of the sampler (exact/sampling.h); given to fp__sampler_create. */
    fp__exp_weights_fn *exp_weights;
} fp__kernel_ops;

extern const fp__kernel_ops fp__kernel_ops_ref;
#if defined(__x86_64__)
extern const fp__kernel_ops fp__kernel_ops_avx2;
extern const fp__kernel_ops fp__kernel_ops_avx512;
#elif defined(__aarch64__)
extern const fp__kernel_ops fp__kernel_ops_neon;
#endif

/* The table in use (first call chooses; thread-safe). FP_USAGE: FIELDPRINT_KERNELS names an unknown table;
 * FP_UNSUPPORTED: one that this machine cannot run. */
fp_status fp__kernel_ops_get(const fp__kernel_ops **out) FP_WARN_UNUSED;
/* Table i of those this machine can run, slowest first ("ref" is 0); NULL past the end. For tests and
 * `doctor`. */
const fp__kernel_ops *fp__kernel_ops_at(size_t i);
#endif
