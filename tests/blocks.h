/* Stored rows (GGUF blocks) for tests of weights: random valid ones and painted extremes. */
#ifndef FP_TESTS_BLOCKS_H
#define FP_TESTS_BLOCKS_H
#include "exact/exact.h"
#include <stdio.h>
#include <stdlib.h>

static const int block_types[] = {FP__F32,  FP__F16,  FP__BF16, FP__Q4_0, FP__Q4_1, FP__Q5_0,
                                  FP__Q5_1, FP__Q8_0, FP__Q4_K, FP__Q5_K, FP__Q6_K};
enum { BLOCK_TYPES = sizeof block_types / sizeof *block_types };

static uint64_t blocks_state = 88172645463325252ull;
static inline uint32_t blocks_random(void) /* xorshift64* */
{
    blocks_state ^= blocks_state >> 12;
    blocks_state ^= blocks_state << 25;
    blocks_state ^= blocks_state >> 27;
    return (uint32_t)(blocks_state * 2685821657736338717ull >> 32);
}
static inline float blocks_uniform(void) /* [-1, 1) */
{
    return (float)(int32_t)blocks_random() * 0x1p-31f;
}

/* How the scales and quants of a matrix are drawn. */
typedef enum blocks_paint {
    BLOCKS_RANDOM,    /* quants any, scales any finite binary16 of ordinary size and sign */
    BLOCKS_LOWEST,    /* all quant bits 0: -8, -16, -32; bytes -128 */
    BLOCKS_HIGHEST,   /* all quant bits 1: 7, 15, 31; bytes -1 */
    BLOCKS_ZERO,      /* zero scales, alternating sign */
    BLOCKS_SUBNORMAL, /* subnormal binary16 scales */
    BLOCKS_LARGE,     /* scales ±65504 */
    BLOCKS_PAINTS
} blocks_paint;

static inline uint16_t blocks_scale(blocks_paint paint)
{
    uint32_t r = blocks_random(), sign = (r >> 31) << 15;
    switch (paint) {
    case BLOCKS_ZERO:
        return (uint16_t)sign;
    case BLOCKS_SUBNORMAL:
        return (uint16_t)(sign | (r & 1023u));
    case BLOCKS_LARGE:
        return (uint16_t)(sign | 0x7bffu);
    default:
        return (uint16_t)(sign | (4 + (r >> 10 & 15u)) << 10 | (r & 1023u));
    }
}
static inline void blocks_put16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

static inline void blocks_float_row(int type, uint8_t *row, size_t cols, blocks_paint paint)
{
    for (size_t j = 0; j < cols; j++) {
        float x = paint == BLOCKS_ZERO        ? -0.0f
                  : paint == BLOCKS_LOWEST    ? -1.0f
                  : paint == BLOCKS_HIGHEST   ? 1.0f
                  : paint == BLOCKS_SUBNORMAL ? blocks_uniform() * 0x1p-63f
                  : paint == BLOCKS_LARGE     ? blocks_uniform() * 65504.0f
                                              : blocks_uniform();
        uint32_t bits = fp__float_bits(x);
        if (type == FP__F32)
            memcpy(row + 4 * j, &bits, 4);
        else if (type == FP__BF16)
            blocks_put16(row + 2 * j, (uint16_t)(bits >> 16));
        else {
            uint16_t h = blocks_scale(paint);
            blocks_put16(row + 2 * j, paint == BLOCKS_LOWEST ? 0xbc00 : paint == BLOCKS_HIGHEST ? 0x3c00 : h);
        }
    }
}

/* Fills one stored row. */
static inline void blocks_row(int type, uint8_t *row, size_t cols, blocks_paint paint)
{
    size_t elements = 1, bytes = 0;
    if (!fp__wtype_block(type, &elements, &bytes))
        abort();
    if (elements == 1) {
        blocks_float_row(type, row, cols, paint);
        return;
    }
    for (size_t b = 0; b < cols / elements; b++) {
        uint8_t *p = row + b * bytes;
        bool two = type == FP__Q4_1 || type == FP__Q5_1 || type == FP__Q4_K || type == FP__Q5_K;
        for (size_t i = 0; i < bytes; i++)
            p[i] = paint == BLOCKS_LOWEST ? 0 : paint == BLOCKS_HIGHEST ? 255 : (uint8_t)blocks_random();
        for (size_t i = 0; paint == BLOCKS_LOWEST && type == FP__Q8_0 && i < 32; i++)
            p[2 + i] = 0x80;
        for (size_t i = 0; paint == BLOCKS_LOWEST && type == FP__Q6_K && i < 16; i++)
            p[192 + i] = 0x80; /* sub-block scale -128 */
        for (size_t i = 0; paint == BLOCKS_LOWEST && elements == 256 && two && i < 12; i++)
            p[4 + i] = 255;
        size_t d = type == FP__Q6_K ? 208 : 0;
        blocks_put16(p + d, blocks_scale(paint));
        if (two)
            blocks_put16(p + 2, blocks_scale(paint));
    }
}
static inline size_t blocks_row_bytes(int type, size_t cols)
{
    size_t elements = 1, bytes = 0;
    if (!fp__wtype_block(type, &elements, &bytes))
        abort();
    return cols / elements * bytes;
}
#endif
