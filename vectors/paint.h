/* Inputs of the vectors: painted from a name and a seed as README.md says, the same on every machine. */
#ifndef FP_VECTORS_PAINT_H
#define FP_VECTORS_PAINT_H
#include "core/error.h"
#include "exact/exact.h"
#include "exact/rng.h"

#include <stdio.h>
#include <stdlib.h>

/* Zeroed and aligned as the kernels want it. Freed by free(). */
static inline void *room(size_t bytes)
{
    size_t size = (bytes + 255) / 128 * 128;
    void *p = aligned_alloc(128, size);
    FP_CHECK(p);
    return memset(p, 0, size);
}

static inline bool is(const char *spec, const char *name) /* "normal:7" is "normal" */
{
    size_t n = strlen(name);
    return strncmp(spec, name, n) == 0 && (spec[n] == ':' || spec[n] == ' ' || spec[n] == 0);
}

static inline uint32_t seed_of(const char *spec)
{
    size_t n = strcspn(spec, ": ");
    return spec[n] == ':' ? (uint32_t)strtoul(spec + n + 1, NULL, 10) : 0;
}

static inline uint32_t word(uint32_t seed, uint32_t stream, size_t i)
{
    const uint32_t counter[4] = {(uint32_t)i, 0, 0, 0}, key[2] = {seed, stream};
    uint32_t w[4];
    fp__philox4x32(counter, key, w);
    return w[0];
}

static inline float normal_value(uint32_t seed, size_t i)
{
    const uint32_t counter[4] = {(uint32_t)i, 0, 0, 0}, key[2] = {seed, 0};
    uint32_t w[4];
    fp__philox4x32(counter, key, w);
    int32_t sum = (int32_t)((w[0] >> 8) + (w[1] >> 8) + (w[2] >> 8) + (w[3] >> 8)) - (1 << 25);
    return (float)sum * 0x1p-23f;
}

static inline float painted(const char *spec, uint32_t seed, size_t i)
{
    static const float edges[16] = {0.0f,      -0.0f,      1.0f,  -1.0f,        0x1p-64f, 0x1p-65f,
                                    0x1p-126f, -0x1p-149f, 0.5f,  -0.49999997f, 127.0f,   -127.5f,
                                    -0x1p-64f, 1.5f,       -2.5f, 0x1.8p-20f};
    float normal = normal_value(seed, i);
    uint32_t w = word(seed, 0, i);
    if (is(spec, "normal"))
        return normal;
    if (is(spec, "outliers"))
        return i % 37 == 5 ? normal * 64.0f : normal;
    if (is(spec, "tiny"))
        return normal * 0x1p-64f;
    if (is(spec, "subnormal"))
        return fp__bits_float(w & 0x807fffffu);
    if (is(spec, "huge"))
        return normal * 0x1p44f;
    if (is(spec, "over"))
        return i == seed ? 0x1p52f : normal;
    if (is(spec, "nan"))
        return i == seed ? NAN : normal;
    if (is(spec, "zeros"))
        return w & 1 ? -0.0f : 0.0f;
    if (is(spec, "signs"))
        return w & 1 ? -1.0f : 1.0f;
    if (is(spec, "edges"))
        return edges[w & 15];
    if (is(spec, "exponents"))
        return -(float)(w >> 8) * 0x1p-17f;
    if (is(spec, "logits"))
        return normal * 6.0f;
    if (is(spec, "gates"))
        return normal * 80.0f;
    if (is(spec, "ties"))
        return (float)((int32_t)(w % 9) - 4);
    printf("unknown paint %s\n", spec);
    abort();
}

static inline float *paint_floats(const char *spec, size_t n)
{
    float *x = room(n * sizeof *x);
    for (size_t i = 0; i < n; i++)
        x[i] = painted(spec, seed_of(spec), i);
    return x;
}

static inline uint16_t paint_f16(const char *spec, uint32_t w)
{
    uint32_t sign = (w >> 31) << 15;
    if (is(spec, "zero"))
        return (uint16_t)sign;
    if (is(spec, "subnormal"))
        return (uint16_t)(sign | (w & 1023u));
    if (is(spec, "large"))
        return (uint16_t)(sign | 0x7bffu);
    return (uint16_t)(sign | (4 + (w >> 10 & 15u)) << 10 | (w & 1023u));
}

static inline void store16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

/* Stored rows of a matrix. */
static inline uint8_t *paint_weights(const char *spec, int type, size_t rows, size_t cols)
{
    size_t elements = 1, bytes = 0;
    FP_CHECK(fp__wtype_block(type, &elements, &bytes));
    size_t blocks = rows * cols / elements;
    uint8_t *data = room(blocks * bytes);
    uint32_t seed = seed_of(spec);
    bool lowest = is(spec, "lowest"), highest = is(spec, "highest");
    bool two = type == FP__Q4_1 || type == FP__Q5_1 || type == FP__Q4_K || type == FP__Q5_K;
    for (size_t b = 0; b < blocks; b++) {
        uint8_t *p = data + b * bytes;
        uint32_t bits = fp__float_bits(normal_value(seed, b));
        if (type == FP__F32 || type == FP__BF16) {
            store16(p, (uint16_t)(type == FP__F32 ? bits : bits >> 16));
            if (type == FP__F32)
                store16(p + 2, (uint16_t)(bits >> 16));
            continue;
        }
        for (size_t i = 0; i < bytes; i++)
            p[i] = lowest ? 0 : highest ? 255 : (uint8_t)word(seed, 3 + (uint32_t)b, i);
        if (lowest && type == FP__Q8_0)
            memset(p + 2, 0x80, 32);
        if (lowest && type == FP__Q6_K)
            memset(p + 192, 0x80, 16);
        if (lowest && (type == FP__Q4_K || type == FP__Q5_K))
            memset(p + 4, 255, 12);
        store16(p + (type == FP__Q6_K ? 208 : 0), paint_f16(spec, word(seed, 1, b)));
        if (two)
            store16(p + 2, paint_f16(spec, word(seed, 2, b)));
    }
    return data;
}

/* Page `index` of a sequence: all 64 tokens written, visible or not. */
static inline void paint_slab(const char *spec, size_t index, size_t d, uint8_t *slab)
{
    uint32_t seed = seed_of(spec), stream = 1000 + (uint32_t)index;
    bool ends = is(spec, "extreme") || is(spec, "same");
    for (size_t i = 0; i < 128 * d; i++) {
        uint32_t w = word(seed, stream, i);
        int value = is(spec, "same")      ? 127
                    : is(spec, "extreme") ? (w & 1 ? 127 : -127)
                                          : (int)(w % 255) - 127;
        slab[i] = (uint8_t)(int8_t)value;
    }
    for (size_t i = 0; i < 128; i++) {
        uint32_t w = word(seed, stream, 128 * d + i);
        uint32_t scale = 0x3b00u + (w & 0x1ffu); /* 2^-9..2^-5 */
        if (ends)
            scale = i < 64 ? 0x3980 : 0x3f80; /* 2^-12, 1 */
        if (is(spec, "zero") || (is(spec, "holes") && w >> 16 & 1))
            scale = 0;
        if (is(spec, "wide") && i >= 64)
            scale = 0x1c80u + (w & 0x3fffu) % 0x3a00u; /* 2^-70..2^46 */
        store16(slab + 128 * d + 2 * i, (uint16_t)scale);
    }
}
#endif
