/* Random numbers, and painted pages and queries, for the checks of attention on the CPU and on the GPU:
 * extremes, zero scales, ties, gaps that underflow besides random ones. */
#ifndef FP_TESTS_ATTENTION_PAINT_H
#define FP_TESTS_ATTENTION_PAINT_H
#include "exact/exact.h"

#include <string.h>

static uint64_t random_state = 1;

static inline uint64_t random_bits(void) /* splitmix64 (Steele, Lea, Flood 2014) */
{
    uint64_t z = random_state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static inline uint32_t random_below(size_t n) /* n: at most 2^32 */
{
    return (uint32_t)(random_bits() % n);
}

static inline float random_float(float range)
{
    return ((float)random_below(2000001) / 1000000.0f - 1.0f) * range;
}

enum { RANDOM, EXTREME, ZERO_SCALES, SOME_ZERO_SCALES, TINY, HUGE_SCALES, TIES, SIGNED_ZEROS, GAPS, PAINTS };

static inline void put_scale(uint8_t *at, float x)
{
    uint32_t bits = fp__float_bits(x);
    at[0] = (uint8_t)(bits >> 16);
    at[1] = (uint8_t)(bits >> 24);
}

static inline float paint_scale(int paint, size_t t, bool value)
{
    switch (paint) {
    case ZERO_SCALES:
        return 0.0f;
    case SOME_ZERO_SCALES:
        return t % 3 == 0 ? 0.0f : 0x1p-7f;
    case TINY:
        return t % 5 == 0 ? 0x1p-71f : 0x1.8p-70f;
    case HUGE_SCALES:
        return t % 7 == 0 ? 0x1.fep41f : 0x1p-60f;
    case TIES:
        return 0x1p-9f;
    case SIGNED_ZEROS:
        return value ? 0x1p-5f : 0.0f;
    case GAPS:
        return value ? 0x1p-5f : 0x1p0f * (float)(1 + t % 4);
    default:
        return 0x1p-9f + (float)random_below(255) * 0x1p-15f;
    }
}

static inline void paint_slab(int paint, size_t d, uint8_t *slab)
{
    int8_t *k = (int8_t *)slab, *v = k + 64 * d;
    for (size_t i = 0; i < 64 * d; i++) {
        uint64_t bits = random_bits();
        k[i] = (int8_t)bits;
        v[i] = (int8_t)(bits >> 8);
        if (paint == EXTREME) {
            k[i] = bits >> 20 & 1 ? 127 : -128;
            v[i] = i / 64 % 3 == 0 ? 127 : i / 64 % 3 == 1 ? -128 : k[i];
        }
        if (paint == TIES)
            k[i] = (int8_t)(i % d % 5);
    }
    for (size_t t = 0; t < 64; t++) {
        put_scale(slab + 128 * d + 2 * t, paint_scale(paint, t, false));
        put_scale(slab + 128 * d + 128 + 2 * t, paint_scale(paint, t, true));
    }
}

static inline void paint_query(int paint, size_t r, size_t d, int16_t *q16, float *s_q)
{
    for (size_t j = 0; j < d; j++)
        q16[j] = (int16_t)((int)random_below(65025) - 32512);
    if (paint == EXTREME || paint == GAPS)
        for (size_t j = 0; j < d; j++)
            q16[j] = random_below(2) ? 32512 : -32512;
    if (paint == SIGNED_ZEROS && r % 2)
        memset(q16, 0, d * sizeof *q16);
    *s_q = paint == HUGE_SCALES ? 0x1p-40f : paint == TINY ? 0x1p33f : 0x1p-14f * (float)(1 + r % 3);
}

#endif
