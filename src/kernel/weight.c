#include "kernel/weight.h"
#include "kernel/shape.h"

#include <stdlib.h>

static uint16_t load16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}
/* Four bytes as one number, whose byte order does not matter where it is used. */
static uint32_t load_run(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}
static void store_run(uint8_t *p, uint32_t v)
{
    memcpy(p, &v, 4);
}
static void store16(uint8_t *p, uint16_t v)
{
    memcpy(p, &v, 2);
}
static bool f16_is_finite(uint16_t h)
{
    return (h & 0x7c00u) != 0x7c00u;
}

fp_status fp__weight_plan(int type, size_t rows, size_t cols, fp__weight *w, size_t *bytes)
{
    size_t elements = 0, stored = 0;
    if (!fp__wtype_block(type, &elements, &stored))
        return fp__fail(FP_UNSUPPORTED,
                        "tensor type %d is not supported; convert the model to Q4_1, Q8_0 or F16", type);
    if (rows == 0 || cols == 0 || cols % elements != 0 || cols % FP__BLOCK != 0)
        return fp__fail(
            FP_UNSUPPORTED, "a %s matrix of %zu rows of %zu is not supported: rows come in blocks of %zu",
            fp__wtype_name(type), rows, cols, elements > FP__BLOCK ? elements : (size_t)FP__BLOCK);
    fp__shape s = fp__shape_of(fp__shape_type(type));
    size_t blocks = cols / FP__BLOCK, groups = (rows - 1) / FP__GROUP_ROWS + 1, total;
    if (blocks > SIZE_MAX / 1024 || __builtin_mul_overflow(groups, blocks * 1024, &total))
        return fp__fail(FP_LIMIT, "a matrix of %zu rows of %zu does not fit in memory", rows, cols);
    *w = (fp__weight){.type = type, .rows = rows, .cols = cols, .groups = groups};
    w->high_offset = blocks * s.low_bytes;
    w->scale_offset = w->high_offset + blocks * s.high_bytes;
    w->group_bytes = (w->scale_offset + blocks * s.scale_bytes + 63) / 64 * 64;
    *bytes = groups * w->group_bytes;
    return FP_OK;
}

size_t fp__weight_stored_bytes(const fp__weight *w)
{
    size_t elements = 1, bytes = 0;
    FP_CHECK(fp__wtype_block(w->type, &elements, &bytes));
    return w->rows * (w->cols / elements) * bytes;
}

/* ---- packing: row r (0..15) of a group from its stored blocks; false where a scale is not finite
 * ------------- */

typedef struct pack_to {
    uint8_t *low, *high, *scale; /* regions of the group, moved to lane r of the first plane */
    size_t blocks, r;
} pack_to;

/* Bit 4·run + i of x (the fifth bit of weight 4·run + i) to bit 8·i + run. */
static uint32_t transpose_high(uint32_t x)
{
    uint32_t out = 0;
    for (unsigned i = 0; i < 4; i++) {
        uint32_t y = x >> i & 0x11111111u;
        y = (y | y >> 3) & 0x03030303u;
        y = (y | y >> 6) & 0x000f000fu;
        out |= ((y | y >> 12) & 0xffu) << 8 * i;
    }
    return out;
}

/* Q4_0 d|qs, Q4_1 d|m|qs, Q5_0 d|qh|qs, Q5_1 d|m|qh|qs: the nibbles already lie as the planes want them. */
static inline bool pack_nibbles(const pack_to *to, const uint8_t *p, bool minimum, bool five)
{
    bool finite = true;
    for (size_t b = 0; b < to->blocks; b++) {
        uint8_t *scale = to->scale + b * (minimum ? 64 : 32);
        uint16_t d = load16(p);
        finite &= f16_is_finite(d);
        store16(scale, d);
        p += 2;
        if (minimum) {
            uint16_t m = load16(p);
            finite &= f16_is_finite(m);
            store16(scale + 32, m);
            p += 2;
        }
        if (five) {
            uint32_t high = transpose_high((uint32_t)load16(p) | (uint32_t)load16(p + 2) << 16);
            uint8_t bytes[4] = {(uint8_t)high, (uint8_t)(high >> 8), (uint8_t)(high >> 16),
                                (uint8_t)(high >> 24)};
            memcpy(to->high + b * 64, bytes, 4);
            p += 4;
        }
        for (size_t k = 0; k < 4; k++)
            store_run(to->low + b * 256 + k * 64, load_run(p + 4 * k));
        p += 16;
    }
    return finite;
}

static bool pack_q8_0(const pack_to *to, const uint8_t *p)
{
    bool finite = true;
    for (size_t b = 0; b < to->blocks; b++, p += 34) {
        uint16_t d = load16(p);
        finite &= f16_is_finite(d);
        store16(to->scale + b * 32, d);
        for (size_t k = 0; k < 8; k++)
            store_run(to->low + b * 512 + k * 64, load_run(p + 2 + 4 * k) ^ 0x80808080u);
    }
    return finite;
}

/* 32 weights that are the low (shift 0) or high (4) nibbles of p[32], into the four planes of a block. */
static void pack_k_nibbles(uint8_t *low, const uint8_t *p, unsigned shift)
{
    for (size_t k = 0; k < 4; k++) {
        uint32_t a = load_run(p + 4 * k) >> shift & 0x0f0f0f0fu,
                 b = load_run(p + 16 + 4 * k) >> shift & 0x0f0f0f0fu;
        store_run(low + k * 64, a | b << 4);
    }
}

/* An 8 × 8 bit matrix, row i in byte i, transposed (Hacker's Delight, 7-3). */
static uint64_t transpose_bits(uint64_t x)
{
    uint64_t t = (x ^ x >> 7) & 0x00aa00aa00aa00aaull;
    x ^= t ^ t << 7;
    t = (x ^ x >> 14) & 0x0000cccc0000ccccull;
    x ^= t ^ t << 14;
    t = (x ^ x >> 28) & 0x00000000f0f0f0f0ull;
    return x ^ t ^ t << 28;
}

/* Q4_K d|dmin|scales[12]|qs[128], Q5_K d|dmin|scales[12]|qh[32]|qs[128]. */
static inline bool pack_k45(const pack_to *to, const uint8_t *p, bool five)
{
    bool finite = true;
    for (size_t b = 0; b < to->blocks; b += 8, p += five ? 176 : 144) {
        const uint8_t *in = p + 4, *qh = p + 16, *qs = p + (five ? 48 : 16);
        uint8_t *scale = to->scale + b * 32, min[8];
        uint16_t d = load16(p), dmin = load16(p + 2);
        finite &= f16_is_finite(d);
        finite &= f16_is_finite(dmin);
        store16(scale + 192 + to->r, d); /* scale already points to byte r: lane r of 2 bytes is r further */
        store16(scale + 224 + to->r, dmin);
        for (size_t s = 0; s < 8; s++) {
            int sc = s < 4 ? in[s] & 63 : (in[s + 4] & 15) | (in[s - 4] >> 6) << 4;
            min[s] = (uint8_t)(s < 4 ? in[s + 4] & 63 : in[s + 4] >> 4 | (in[s] >> 6) << 4);
            scale[s * 16] = (uint8_t)(sc | min[s] << 6);
            pack_k_nibbles(to->low + (b + s) * 256, qs + s / 2 * 32, s % 2 * 4);
        }
        for (size_t i = 0; i < 4; i++)
            scale[128 + i * 16] = (uint8_t)(min[2 * i] >> 2 | min[2 * i + 1] >> 2 << 4);
        for (size_t i = 0; five && i < 4; i++) { /* input i of each run: bit s of qh[4·run + i] */
            uint64_t m = 0;
            for (size_t run = 0; run < 8; run++)
                m |= (uint64_t)qh[4 * run + i] << 8 * run;
            m = transpose_bits(m);
            for (size_t s = 0; s < 8; s++)
                to->high[(b + s) * 64 + i] = (uint8_t)(m >> 8 * s);
        }
    }
    return finite;
}

/* Q6_K ql[128]|qh[64]|scales int8[16]|d. */
static bool pack_q6_k(const pack_to *to, const uint8_t *p)
{
    bool finite = true;
    for (size_t b = 0; b < to->blocks; b += 8, p += 210) {
        uint8_t *scale = to->scale + b * 36;
        uint16_t d = load16(p + 208);
        finite &= f16_is_finite(d);
        store16(scale + 256 + to->r, d);
        for (size_t s = 0; s < 8; s++) {
            size_t half = s / 4, quarter = s % 4;
            const uint8_t *qh = p + 128 + half * 32;
            pack_k_nibbles(to->low + (b + s) * 256, p + half * 64 + quarter % 2 * 32, quarter < 2 ? 0 : 4);
            for (size_t v = 0; v < 2; v++) {
                uint32_t high = 0;
                for (size_t f = 0; f < 4; f++)
                    high |= (load_run(qh + 16 * v + 4 * f) >> 2 * quarter & 0x03030303u) << 2 * f;
                store_run(to->high + (b + s) * 128 + v * 64, high);
            }
            scale[s * 32] = p[192 + 2 * s];
            scale[s * 32 + 16] = p[192 + 2 * s + 1];
        }
    }
    return finite;
}

/* F32, F16, BF16 by §3. rint by adding 1.5·2^23: |x · 1/d| < 128, so it is exact and vectorises. */
static bool pack_floats(const pack_to *to, const uint8_t *p, int type)
{
    for (size_t b = 0; b < to->blocks; b++) {
        float x[FP__BLOCK];
        if (type == FP__F32)
            memcpy(x, p, sizeof x);
        else
            for (size_t j = 0; j < FP__BLOCK; j++)
                x[j] = type == FP__F16 ? fp__f16_float(load16(p + 2 * j)) : fp__bf16_float(load16(p + 2 * j));
        p += type == FP__F32 ? 4 * FP__BLOCK : 2 * FP__BLOCK;
        int32_t amax = 0;
        for (size_t j = 0; j < FP__BLOCK; j++) {
            int32_t bits = (int32_t)(fp__float_bits(x[j]) & 0x7fffffffu);
            amax = bits > amax ? bits : amax;
        }
        if ((uint32_t)amax >= FP__AMAX_LIMIT)
            return false;
        bool zero = (uint32_t)amax < FP__AMAX_FLOOR;
        float d = zero ? 0.0f : fp__bits_float((uint32_t)amax) / 127.0f, inverse = zero ? 0.0f : 1.0f / d;
        uint8_t q[FP__BLOCK];
        for (size_t j = 0; j < FP__BLOCK; j++) {
            int32_t i = (int32_t)((x[j] * inverse + 12582912.0f) - 12582912.0f);
            i = i > 127 ? 127 : i < -127 ? -127 : i;
            q[j] = (uint8_t)(i + 128);
        }
        for (size_t k = 0; k < 8; k++)
            store_run(to->low + b * 512 + k * 64, load_run(q + 4 * k));
        memcpy(to->scale + b * 64, &d, 4);
    }
    return true;
}

static bool pack_row(int type, const pack_to *to, const uint8_t *row)
{
    switch (type) {
    case FP__Q4_0:
        return pack_nibbles(to, row, false, false);
    case FP__Q4_1:
        return pack_nibbles(to, row, true, false);
    case FP__Q5_0:
        return pack_nibbles(to, row, false, true);
    case FP__Q5_1:
        return pack_nibbles(to, row, true, true);
    case FP__Q8_0:
        return pack_q8_0(to, row);
    case FP__Q4_K:
        return pack_k45(to, row, false);
    case FP__Q5_K:
        return pack_k45(to, row, true);
    case FP__Q6_K:
        return pack_q6_k(to, row);
    default:
        return pack_floats(to, row, type);
    }
}

/* Bytes from one row's scale to the next row's, in the first array of the scale region. */
static size_t scale_lane_bytes(int type)
{
    switch (type) {
    case FP__Q4_K:
    case FP__Q5_K:
    case FP__Q6_K:
        return 1;
    case FP__F32:
    case FP__F16:
    case FP__BF16:
        return 4;
    default:
        return 2;
    }
}

fp_status fp__weight_pack(fp__weight *w, const uint8_t *stored, size_t group_begin, size_t group_end)
{
    FP_CHECK(w->data && group_begin <= group_end && group_end <= w->groups);
    size_t row_bytes = fp__weight_stored_bytes(w) / w->rows;
    for (size_t g = group_begin; g < group_end; g++) {
        uint8_t *group = w->data + g * w->group_bytes;
        size_t first = g * FP__GROUP_ROWS,
               rows = w->rows - first < FP__GROUP_ROWS ? w->rows - first : FP__GROUP_ROWS;
        size_t used =
            w->scale_offset + w->cols / FP__BLOCK * fp__shape_of(fp__shape_type(w->type)).scale_bytes;
        if (rows < FP__GROUP_ROWS)
            memset(group, 0, w->group_bytes);
        else
            memset(group + used, 0, w->group_bytes - used);
        for (size_t r = 0; r < rows; r++) {
            pack_to to = {group + 4 * r, group + w->high_offset + 4 * r,
                          group + w->scale_offset + scale_lane_bytes(w->type) * r, w->cols / FP__BLOCK, r};
            if (!pack_row(w->type, &to, stored + (first + r) * row_bytes))
                return fp__fail(
                    FP_FORMAT,
                    "row %zu of a %s matrix has a scale or a value that is not finite or too large; "
                    "the model file is damaged or was converted badly",
                    first + r, fp__wtype_name(w->type));
        }
    }
    return FP_OK;
}

/* ---- reading back ----------------------------------------------------------------------------------------
 */

static int stored_quant(fp__shape s, const uint8_t *low, const uint8_t *high, size_t j, size_t lane)
{
    size_t run = j / 4, byte = 4 * lane + j % 4;
    if (s.low_bytes == 512)
        return low[run * 64 + byte];
    int q = run < 4 ? low[run * 64 + byte] & 15 : low[(run - 4) * 64 + byte] >> 4;
    if (s.high_bytes == 64)
        q |= (high[byte] >> run & 1) << 4;
    else if (s.high_bytes == 128)
        q |= (high[run / 4 * 64 + byte] >> 2 * (run % 4) & 3) << 4;
    return q;
}

static void read_scales(int type, const uint8_t *scale, size_t b, size_t lane, fp__wblock *out)
{
    switch (type) {
    case FP__Q4_1:
    case FP__Q5_1:
        out->minimum = true;
        out->dw[0] = fp__f16_float(load16(scale + b * 64 + 2 * lane));
        out->mw = fp__f16_float(load16(scale + b * 64 + 32 + 2 * lane));
        break;
    case FP__Q4_K:
    case FP__Q5_K: {
        const uint8_t *p = scale + b / 8 * 256;
        size_t s = b % 8;
        int a = p[s * 16 + lane], m = a >> 6 | (p[128 + s / 2 * 16 + lane] >> s % 2 * 4 & 15) << 2;
        out->minimum = true;
        out->dw[0] = fp__f16_float(load16(p + 192 + 2 * lane)) * (float)(a & 63);
        out->mw = -(fp__f16_float(load16(p + 224 + 2 * lane)) * (float)m);
        break;
    }
    case FP__Q6_K: {
        const uint8_t *p = scale + b / 8 * 288, *sc = p + b % 8 * 32 + lane;
        float d = fp__f16_float(load16(p + 256 + 2 * lane));
        out->halves = true;
        out->dw[0] = d * (float)(int8_t)sc[0];
        out->dw[1] = d * (float)(int8_t)sc[16];
        return;
    }
    case FP__F32:
    case FP__F16:
    case FP__BF16:
        memcpy(&out->dw[0], scale + b * 64 + 4 * lane, 4);
        break;
    default:
        out->dw[0] = fp__f16_float(load16(scale + b * 32 + 2 * lane));
    }
    out->dw[1] = out->dw[0];
}

static void read_block(const fp__weight *w, fp__shape s, size_t row, size_t b, fp__wblock *out)
{
    const uint8_t *group = w->data + row / FP__GROUP_ROWS * w->group_bytes;
    size_t lane = row % FP__GROUP_ROWS;
    memset(out, 0, sizeof *out);
    for (size_t j = 0; j < FP__BLOCK; j++)
        out->q[j] = (int16_t)(stored_quant(s, group + b * s.low_bytes,
                                           group + w->high_offset + b * s.high_bytes, j, lane) -
                              s.bias);
    read_scales(w->type, group + w->scale_offset, b, lane, out);
}

void fp__weight_row(const fp__weight *w, size_t row, fp__wblock *out)
{
    fp__shape s = fp__shape_of(fp__shape_type(w->type));
    FP_CHECK(row < w->rows);
    for (size_t b = 0; b < w->cols / FP__BLOCK; b++)
        read_block(w, s, row, b, &out[b]);
}

void fp__weight_embed(const fp__weight *w, size_t row, float *out)
{
    fp__shape s = fp__shape_of(fp__shape_type(w->type));
    FP_CHECK(row < w->rows);
    for (size_t b = 0; b < w->cols / FP__BLOCK; b++) {
        fp__wblock block;
        read_block(w, s, row, b, &block);
        for (size_t j = 0; j < FP__BLOCK; j++)
            out[b * FP__BLOCK + j] = (block.dw[j / 16] * (float)block.q[j]) + block.mw;
    }
}

/* ---- activations -----------------------------------------------------------------------------------------
 */

size_t fp__act_bytes(size_t tokens, size_t cols)
{
    return (tokens + FP__ACT_TILE - 1) / FP__ACT_TILE * (cols / FP__BLOCK) * sizeof(fp__act_block);
}

void fp__act_bind(fp__act *act, void *memory, size_t tokens, size_t cols)
{
    FP_CHECK(cols % FP__BLOCK == 0 && (uintptr_t)memory % 64 == 0);
    *act = (fp__act){.tokens = tokens, .cols = cols, .blocks = cols / FP__BLOCK, .block = memory};
}
