/* The readable backend: packed operands taken apart again and handed to src/exact, one row or block at a
 * time. Slow on purpose; the tables of the instruction sets fall back on it where they have nothing better.
 */
#ifndef FP_KERNEL_REF_H
#define FP_KERNEL_REF_H
#include "kernel/kernel.h"

void fp__rmsnorm_ref(const float *x, const float *w, float eps, size_t n, float *y, uint8_t *bad);
void fp__act_quantise_ref(const float *x, fp__act *act, size_t token, uint8_t *bad);
void fp__linear_ref(const fp__weight *w, const fp__act *act, size_t group_begin, size_t group_end,
                    const float *bias, float *y, size_t y_stride, bool accumulate);
void fp__rope_ref(float *x, size_t heads, size_t d, size_t n_rot, fp__rope_layout layout, const float *c,
                  const float *s);
void fp__query_ref(const float *q, size_t heads, size_t d, int16_t *q16, size_t stride, float *s_q,
                   uint8_t *bad);
void fp__kv_write_ref(const float *k, const float *v, size_t d, uint8_t *slab, size_t slot, uint8_t *bad);
void fp__attn_span_ref(const fp__attn_rows *q, const uint8_t *const *slabs, const uint8_t *visible,
                       size_t pages, fp__attn_states out);
void fp__attn_merge_ref(size_t rows, size_t d, fp__attn_states into, fp__attn_states from);
float fp__attn_mix_ref(fp__attn_states anchor, fp__attn_states context, fp__injection_mode mode, uint32_t g,
                       size_t d, float *out);
void fp__silu_mul_ref(const float *g, const float *u, size_t n, float *out);
#endif
