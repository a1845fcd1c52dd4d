/* §3 and §4 on packed operands. */
#include "kernel/ref/ref.h"

void fp__act_quantise_ref(const float *x, fp__act *act, size_t token, uint8_t *bad)
{
    for (size_t b = 0; b < act->blocks; b++) {
        fp__qblock q;
        if (!fp__exact_quantise_block(x + b * FP__BLOCK, &q))
            *bad = 1;
        fp__act_store(act, token, b, &q);
    }
}

/* Up to one segment of a token's blocks, as src/exact takes them. */
static void load_blocks(const fp__act *act, size_t token, size_t begin, size_t n, fp__qblock *out)
{
    for (size_t b = 0; b < n; b++)
        fp__act_load(act, token, begin + b, &out[b]);
}

enum { BLOCKS_MAX = 4096 }; /* 131,072 inputs */

void fp__linear_ref(const fp__weight *w, const fp__act *act, size_t group_begin, size_t group_end,
                    const float *bias, float *y, size_t y_stride, bool accumulate)
{
    fp__wblock blocks[BLOCKS_MAX];
    size_t n = w->cols / FP__BLOCK, rows = group_end * FP__GROUP_ROWS;
    FP_CHECK(n <= BLOCKS_MAX && act->cols == w->cols);
    for (size_t r = group_begin * FP__GROUP_ROWS; r < rows && r < w->rows; r++) {
        fp__weight_row(w, r, blocks);
        for (size_t t = 0; t < act->tokens; t++) {
            float sum = 0.0f;
            for (size_t b = 0; b < n; b += FP__SEGMENT_BLOCKS) {
                size_t part = n - b < FP__SEGMENT_BLOCKS ? n - b : FP__SEGMENT_BLOCKS;
                fp__qblock x[FP__SEGMENT_BLOCKS];
                load_blocks(act, t, b, part, x);
                sum = sum + fp__exact_dot_blocks(blocks + b, x, part);
            }
            if (bias)
                sum = sum + bias[r];
            float *out = y + t * y_stride + r;
            *out = accumulate ? *out + sum : sum;
        }
    }
}
