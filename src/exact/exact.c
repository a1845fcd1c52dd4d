#include "exact/exact.h"
#include "core/error.h"

uint32_t fp__exact_amax_bits(const float *x, size_t n)
{
    uint32_t amax = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t b = fp__float_bits(x[i]) & 0x7fffffffu;
        amax = b > amax ? b : amax;
    }
    return amax;
}

/* §2: 32 lanes, then fold 16, 8, 4, 2, 1. */
float fp__exact_sumsq(const float *x, size_t n)
{
    float lane[32] = {0};
    for (size_t i = 0; i < n; i++)
        lane[i % 32] = fmaf(x[i], x[i], lane[i % 32]);
    for (size_t s = 16; s > 0; s /= 2)
        for (size_t i = 0; i < s; i++)
            lane[i] = lane[i] + lane[i + s];
    return lane[0];
}

bool fp__exact_rmsnorm(const float *x, const float *w, float eps, size_t n, float *y)
{
    float sumsq = fp__exact_sumsq(x, n);
    bool ok = sumsq < 0x1p100f; /* false for NaN too */
    float ms = ok ? sumsq / (float)n : 0.0f;
    float r = ok ? 1.0f / sqrtf(ms + eps) : 0.0f;
    for (size_t i = 0; i < n; i++)
        y[i] = ok ? (x[i] * r) * w[i] : 0.0f;
    return ok;
}

static int32_t clamp_int(float x, int32_t limit)
{
    int32_t i = (int32_t)rintf(x);
    return i > limit ? limit : i < -limit ? -limit : i;
}

bool fp__exact_quantise_block(const float x[FP__BLOCK], fp__qblock *out)
{
    uint32_t amax = fp__exact_amax_bits(x, FP__BLOCK);
    memset(out, 0, sizeof *out);
    if (amax >= FP__AMAX_LIMIT)
        return false;
    if (amax < FP__AMAX_FLOOR)
        return true;
    out->d = fp__bits_float(amax) / 127.0f;
    float inverse = 1.0f / out->d;
    for (size_t i = 0; i < FP__BLOCK; i++)
        out->q[i] = (int8_t)clamp_int(x[i] * inverse, 127);
    return true;
}

/* ---- §4: the stored types
 * ------------------------------------------------------------------------------------- */

static const struct {
    int type;
    size_t elements, bytes;
    const char *name;
} wtypes[] = {
    {FP__F32, 1, 4, "F32"},       {FP__F16, 1, 2, "F16"},       {FP__BF16, 1, 2, "BF16"},
    {FP__Q4_0, 32, 18, "Q4_0"},   {FP__Q4_1, 32, 20, "Q4_1"},   {FP__Q5_0, 32, 22, "Q5_0"},
    {FP__Q5_1, 32, 24, "Q5_1"},   {FP__Q8_0, 32, 34, "Q8_0"},   {FP__Q4_K, 256, 144, "Q4_K"},
    {FP__Q5_K, 256, 176, "Q5_K"}, {FP__Q6_K, 256, 210, "Q6_K"},
};

bool fp__wtype_block(int type, size_t *elements, size_t *bytes)
{
    for (size_t i = 0; i < sizeof wtypes / sizeof *wtypes; i++)
        if (wtypes[i].type == type) {
            *elements = wtypes[i].elements;
            *bytes = wtypes[i].bytes;
            return true;
        }
    return false;
}

const char *fp__wtype_name(int type)
{
    for (size_t i = 0; i < sizeof wtypes / sizeof *wtypes; i++)
        if (wtypes[i].type == type)
            return wtypes[i].name;
    return "unknown";
}

static uint16_t load16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}
static uint32_t load32(const uint8_t *p)
{
    return (uint32_t)load16(p) | (uint32_t)load16(p + 2) << 16;
}

/* F32, F16, BF16: 32 values quantised by §3. */
static bool decode_float(int type, const uint8_t *row, size_t b, fp__wblock *out)
{
    float x[FP__BLOCK];
    for (size_t j = 0; j < FP__BLOCK; j++) {
        size_t i = b * FP__BLOCK + j;
        x[j] = type == FP__F32   ? fp__bits_float(load32(row + 4 * i))
               : type == FP__F16 ? fp__f16_float(load16(row + 2 * i))
                                 : fp__bf16_float(load16(row + 2 * i));
    }
    fp__qblock q;
    bool ok = fp__exact_quantise_block(x, &q);
    for (size_t j = 0; j < FP__BLOCK; j++)
        out->q[j] = q.q[j];
    out->dw[0] = out->dw[1] = q.d;
    return ok;
}

/* Q4_0 d|qs, Q4_1 d|m|qs, Q5_0 d|qh|qs, Q5_1 d|m|qh|qs: byte j holds weights j (low nibble) and j+16 (high).
 */
static void decode_nibbles(int type, const uint8_t *row, size_t b, fp__wblock *out)
{
    bool five = type == FP__Q5_0 || type == FP__Q5_1;
    out->minimum = type == FP__Q4_1 || type == FP__Q5_1;
    const uint8_t *p = row + b * (size_t)(16 + 2 + (out->minimum ? 2 : 0) + (five ? 4 : 0));
    out->dw[0] = out->dw[1] = fp__f16_float(load16(p));
    p += 2;
    if (out->minimum) {
        out->mw = fp__f16_float(load16(p));
        p += 2;
    }
    uint32_t high = five ? load32(p) : 0;
    p += five ? 4 : 0;
    int offset = out->minimum ? 0 : five ? 16 : 8;
    for (size_t j = 0; j < FP__BLOCK; j++) {
        int q = j < 16 ? p[j] & 15 : p[j - 16] >> 4;
        out->q[j] = (int16_t)((q | (int)(high >> j & 1) << 4) - offset);
    }
}

static void decode_q8_0(const uint8_t *row, size_t b, fp__wblock *out)
{
    const uint8_t *p = row + b * 34;
    out->dw[0] = out->dw[1] = fp__f16_float(load16(p));
    for (size_t j = 0; j < FP__BLOCK; j++)
        out->q[j] = (int8_t)p[2 + j];
}

/* Q4_K d|dmin|scales[12]|qs[128], Q5_K d|dmin|scales[12]|qh[32]|qs[128]: 8 sub-blocks of 32 with 6-bit scale
 * and min. */
static void decode_k45(int type, const uint8_t *row, size_t b, fp__wblock *out)
{
    bool five = type == FP__Q5_K;
    size_t s = b % 8;
    const uint8_t *p = row + b / 8 * (five ? 176 : 144), *sc = p + 4, *qh = p + 16,
                  *qs = p + (five ? 48 : 16);
    int scale = s < 4 ? sc[s] & 63 : (sc[s + 4] & 15) | (sc[s - 4] >> 6) << 4;
    int min = s < 4 ? sc[s + 4] & 63 : sc[s + 4] >> 4 | (sc[s] >> 6) << 4;
    out->dw[0] = out->dw[1] = fp__f16_float(load16(p)) * (float)scale; /* exact: 11 + 6 bits */
    out->mw = -(fp__f16_float(load16(p + 2)) * (float)min);
    out->minimum = true;
    for (size_t j = 0; j < FP__BLOCK; j++) {
        int q = s % 2 ? qs[s / 2 * 32 + j] >> 4 : qs[s / 2 * 32 + j] & 15;
        int high = five ? qh[j] >> s & 1 : 0;
        out->q[j] = (int16_t)(q | high << 4);
    }
}

/* Q6_K ql[128]|qh[64]|scales int8[16]|d: sub-blocks of 16; halves of 128 weights, each ql[64], qh[32]. */
static void decode_q6_k(const uint8_t *row, size_t b, fp__wblock *out)
{
    size_t s = b % 8, half = s / 4, quarter = s % 4;
    const uint8_t *p = row + b / 8 * 210, *ql = p + half * 64 + quarter % 2 * 32, *qh = p + 128 + half * 32;
    float d = fp__f16_float(load16(p + 208));
    for (size_t i = 0; i < 2; i++)
        out->dw[i] = d * (float)(int8_t)p[192 + s * 2 + i];
    out->halves = true;
    for (size_t j = 0; j < FP__BLOCK; j++) {
        int low = quarter < 2 ? ql[j] & 15 : ql[j] >> 4;
        out->q[j] = (int16_t)((low | (qh[j] >> 2 * quarter & 3) << 4) - 32);
    }
}

bool fp__exact_decode_block(int type, const uint8_t *row, size_t b, fp__wblock *out)
{
    memset(out, 0, sizeof *out);
    switch (type) {
    case FP__F32:
    case FP__F16:
    case FP__BF16:
        if (!decode_float(type, row, b, out))
            return false;
        break;
    case FP__Q4_0:
    case FP__Q4_1:
    case FP__Q5_0:
    case FP__Q5_1:
        decode_nibbles(type, row, b, out);
        break;
    case FP__Q8_0:
        decode_q8_0(row, b, out);
        break;
    case FP__Q4_K:
    case FP__Q5_K:
        decode_k45(type, row, b, out);
        break;
    case FP__Q6_K:
        decode_q6_k(row, b, out);
        break;
    default:
        return false;
    }
    return isfinite(out->dw[0]) && isfinite(out->dw[1]) && isfinite(out->mw);
}

/* One segment of at most 8 blocks, in order. */
static float segment(const fp__wblock *w, const fp__qblock *x, size_t blocks)
{
    float seg = 0.0f;
    for (size_t b = 0; b < blocks; b++) {
        int32_t t[2] = {0, 0}, sum = 0;
        for (size_t j = 0; j < FP__BLOCK; j++) {
            /* cppcheck-suppress uninitvar ; fp__exact_dot has decoded the blocks that are read */
            t[w[b].halves ? j / 16 : 0] += (int32_t)w[b].q[j] * x[b].q[j];
            sum += x[b].q[j];
        }
        seg = fmaf((float)t[0], w[b].dw[0] * x[b].d, seg);
        if (w[b].halves)
            seg = fmaf((float)t[1], w[b].dw[1] * x[b].d, seg);
        if (w[b].minimum)
            seg = fmaf(w[b].mw, (float)sum * x[b].d, seg);
    }
    return seg;
}

float fp__exact_dot_blocks(const fp__wblock *w, const fp__qblock *x, size_t blocks)
{
    float y = 0.0f;
    for (size_t b = 0; b < blocks; b += FP__SEGMENT_BLOCKS)
        y = y + segment(w + b, x + b, blocks - b < FP__SEGMENT_BLOCKS ? blocks - b : FP__SEGMENT_BLOCKS);
    return y;
}

float fp__exact_dot(int type, const uint8_t *row, size_t cols, const fp__qblock *x)
{
    float y = 0.0f;
    for (size_t b = 0; b < cols / FP__BLOCK; b += FP__SEGMENT_BLOCKS) {
        size_t n = cols / FP__BLOCK - b < FP__SEGMENT_BLOCKS ? cols / FP__BLOCK - b : FP__SEGMENT_BLOCKS;
        fp__wblock w[FP__SEGMENT_BLOCKS];
        for (size_t i = 0; i < n; i++)
            FP_CHECK(fp__exact_decode_block(type, row, b + i, &w[i])); /* refused at load, never here */
        y = y + segment(w, x + b, n);
    }
    return y;
}

bool fp__exact_embed(int type, const uint8_t *row, size_t cols, float *out)
{
    for (size_t b = 0; b < cols / FP__BLOCK; b++) {
        fp__wblock w;
        if (!fp__exact_decode_block(type, row, b, &w))
            return false;
        for (size_t j = 0; j < FP__BLOCK; j++)
            out[b * FP__BLOCK + j] = (w.dw[j / 16] * (float)w.q[j]) + w.mw;
    }
    return true;
}

void fp__exact_rope(float *x, size_t n_rot, fp__rope_layout layout, const float *c, const float *s)
{
    for (size_t i = 0; i < n_rot / 2; i++) {
        size_t a = layout == FP__ROPE_PAIRS ? 2 * i : i,
               b = layout == FP__ROPE_PAIRS ? 2 * i + 1 : i + n_rot / 2;
        float x0 = x[a], x1 = x[b];
        x[a] = fmaf(-x1, s[i], x0 * c[i]);
        x[b] = fmaf(x0, s[i], x1 * c[i]);
    }
}
