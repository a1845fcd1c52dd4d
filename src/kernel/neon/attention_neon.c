/* Attention with AArch64 NEON and the dot product extension (sdot). As in attention_avx512.c both products of
 * a page have tokens or channels in the lanes, so K and V are transposed in units of 4 bytes once per page
 * for all rows. sdot multiplies signed bytes only: the planes of a query are signed as they are (high of
 * -127..127, low of -128..127); those of a weight, 0..255, are taken 128 lower, and (256 + 1)·128·Σv is put
 * back per channel. */
#include "kernel/neon/attention_neon.h"

#include <arm_neon.h>

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

enum {
    LANES = 4,
    ROWS = 2,       /* rows times 4 vectors times 2 planes: 16 of 32 registers */
    TILE_ROWS = 48, /* rows that share one transposition of a page */
    VECTORS = FP__PAGE_TOKENS / LANES,
    DIM_MAX = FP__HEAD_DIM_MAX,
    LINE = 64
};

/* §1, each lane; 0 for NaN. */
INLINE float32x4_t exp2c(float32x4_t x)
{
    const float32x4_t magic = vdupq_n_f32(12582912.0f);
    uint32x4_t in = vcgeq_f32(x, vdupq_n_f32(-126.0f));
    float32x4_t t = vaddq_f32(x, magic), f = vsubq_f32(x, vsubq_f32(t, magic));
    float32x4_t p = vfmaq_f32(vdupq_n_f32(0x1.5f0b82p-10f), vdupq_n_f32(0x1.3fa206p-13f), f);
    p = vfmaq_f32(vdupq_n_f32(0x1.3b30ap-7f), p, f);
    p = vfmaq_f32(vdupq_n_f32(0x1.c6af76p-5f), p, f);
    p = vfmaq_f32(vdupq_n_f32(0x1.ebfbd8p-3f), p, f);
    p = vfmaq_f32(vdupq_n_f32(0x1.62e43p-1f), p, f);
    p = vfmaq_f32(vdupq_n_f32(1.0f), p, f);
    uint32x4_t n = vshlq_n_u32(vreinterpretq_u32_f32(t), 23); /* the low 9 bits of t are n mod 512 */
    return vreinterpretq_f32_u32(vandq_u32(vaddq_u32(vreinterpretq_u32_f32(p), n), in));
}

/* ---- rotation, queries, K/V --------------------------------------------------------------------------- */

/* Vectors of 4 channels from x[d]; the last may be half (d is even), the rest of it zero. */
INLINE float32x4_t load_channels(const float *x, size_t d, size_t j)
{
    if (j + LANES <= d)
        return vld1q_f32(x + j);
    return vcombine_f32(vld1_f32(x + j), vdup_n_f32(0.0f));
}

INLINE void store_channels(float *x, size_t d, size_t j, float32x4_t y)
{
    if (j + LANES <= d)
        vst1q_f32(x + j, y);
    else
        vst1_f32(x + j, vget_low_f32(y));
}

/* The sign bit in the lanes of channels 4g..4g+3 where σ is -1: parity of popcount(j & (j >> 1)). */
INLINE uint32x4_t sigma_signs(size_t g)
{
    uint32_t mask = 0x8u;     /* of 4 channels by themselves: 0, 1, 2 no, 3 yes */
    mask ^= g & 1 ? 0xcu : 0; /* the pair across vectors */
    mask ^= __builtin_parityll(g & (g >> 1)) ? 0xfu : 0;
    static const int32_t shifts[LANES] = {31, 30, 29, 28};
    return vandq_u32(vshlq_u32(vdupq_n_u32(mask), vld1q_s32(shifts)), vdupq_n_u32(0x80000000u));
}

/* Stage s of the transform inside a vector: a + b at lanes without s, a - b at lanes with it. */
INLINE float32x4_t stage(float32x4_t x, float32x4_t swapped, uint64_t lanes_low, uint64_t lanes_high)
{
    uint32x4_t minus = vreinterpretq_u32_u64(vcombine_u64(vcreate_u64(lanes_low), vcreate_u64(lanes_high)));
    return vbslq_f32(minus, vsubq_f32(swapped, x), vaddq_f32(x, swapped));
}

/* σ and the transform of x[d] → y[vectors][4]; lanes past d are zero. */
INLINE void rotate(const float *x, size_t d, float32x4_t *y)
{
    FP_CHECK(d <= DIM_MAX);
    size_t h = d & (~d + 1), vectors = (d + LANES - 1) / LANES;
    for (size_t g = 0; g < vectors; g++) {
        float32x4_t v = load_channels(x, d, g * LANES);
        v = vreinterpretq_f32_u32(veorq_u32(vreinterpretq_u32_f32(v), sigma_signs(g)));
        v = h > 1 ? stage(v, vrev64q_f32(v), 0xffffffff00000000u, 0xffffffff00000000u) : v;
        y[g] = h > 2 ? stage(v, vextq_f32(v, v, 2), 0, ~(uint64_t)0) : v;
    }
    for (size_t s = 1; s * LANES < h; s *= 2)
        for (size_t g = 0; g < vectors; g++)
            if (!(g & s)) {
                float32x4_t a = y[g], b = y[g + s];
                y[g] = vaddq_f32(a, b);
                y[g + s] = vsubq_f32(a, b);
            }
}

INLINE uint32_t amax_bits(const float32x4_t *x, size_t vectors)
{
    uint32x4_t amax = vdupq_n_u32(0), magnitude = vdupq_n_u32(0x7fffffffu);
    for (size_t g = 0; g < vectors; g++)
        amax = vmaxq_u32(amax, vandq_u32(vreinterpretq_u32_f32(x[g]), magnitude));
    return vmaxvq_u32(amax);
}

INLINE bool query_head(const float *q, size_t d, float c, int16_t *q16, size_t stride, float *s_q)
{
    float32x4_t x[DIM_MAX / LANES];
    size_t vectors = (d + LANES - 1) / LANES;
    rotate(q, d, x);
    for (size_t g = 0; g < vectors; g++)
        x[g] = vmulq_n_f32(x[g], c);
    uint32_t amax = amax_bits(x, vectors);
    bool zero = amax >= FP__AMAX_LIMIT || amax < FP__AMAX_FLOOR;
    *s_q = zero ? 0.0f : fp__bits_float(amax) / 32512.0f;
    float inverse = zero ? 0.0f : 1.0f / *s_q;
    for (size_t g = 0; g < stride / LANES; g++) {
        int32x4_t i = vdupq_n_s32(0);
        if (!zero && g < vectors)
            i = vcvtnq_s32_f32(vmulq_n_f32(x[g], inverse));
        vst1_s16(q16 + g * LANES, vmovn_s32(i));
    }
    return amax < FP__AMAX_LIMIT;
}

void fp__query_neon(const float *q, size_t heads, size_t d, int16_t *q16, size_t stride, float *s_q,
                    uint8_t *bad)
{
    float c = fp__exact_query_factor(d);
    for (size_t h = 0; h < heads; h++) {
        bool ok = d == 64 ? query_head(q + h * 64, 64, c, q16 + h * stride, stride, s_q + h)
                          : query_head(q + h * d, d, c, q16 + h * stride, stride, s_q + h);
        if (!ok)
            *bad = 1;
    }
}

/* x → int8 in lanes of 4, scale rounded up to bfloat16 (§6); false if out of range. */
INLINE bool quantise_kv(const float32x4_t *x, size_t vectors, int8_t *out, uint8_t scale[2])
{
    uint32_t amax = amax_bits(x, vectors), bits = 0;
    if (amax < FP__AMAX_LIMIT && amax >= FP__AMAX_FLOOR)
        bits = (fp__float_bits(fp__bits_float(amax) / 127.0f) + 0xffffu) & 0xffff0000u;
    float inverse = bits ? 1.0f / fp__bits_float(bits) : 0.0f;
    for (size_t g = 0; g < vectors; g++) {
        int32x4_t i = vdupq_n_s32(0);
        if (bits)
            i = vcvtnq_s32_f32(vmulq_n_f32(x[g], inverse));
        int16x4_t words = vmax_s16(vmin_s16(vqmovn_s32(i), vdup_n_s16(127)), vdup_n_s16(-127));
        int8x8_t bytes = vmovn_s16(vcombine_s16(words, words));
        vst1_lane_s32((int32_t *)(void *)(out + g * LANES), vreinterpret_s32_s8(bytes), 0);
    }
    scale[0] = (uint8_t)(bits >> 16);
    scale[1] = (uint8_t)(bits >> 24);
    return amax < FP__AMAX_LIMIT;
}

INLINE bool kv_write(const float *k, const float *v, size_t d, uint8_t *slab, size_t slot)
{
    float32x4_t x[DIM_MAX / LANES];
    _Alignas(16) int8_t bytes[DIM_MAX];
    size_t vectors = (d + LANES - 1) / LANES;
    uint8_t *s_k = slab + 128 * d + 2 * slot, *to = slab + 64 * d + slot;
    rotate(k, d, x);
    bool ok = quantise_kv(x, vectors, bytes, s_k);
    memcpy(slab + slot * d, bytes, d);
    for (size_t g = 0; g < vectors; g++)
        x[g] = load_channels(v, d, g * LANES);
    ok &= quantise_kv(x, vectors, bytes, s_k + 128);
    for (size_t j = 0; j < d; j++)
        to[j * FP__PAGE_TOKENS] = (uint8_t)bytes[j];
    return ok;
}

void fp__kv_write_neon(const float *k, const float *v, size_t d, uint8_t *slab, size_t slot, uint8_t *bad)
{
    bool ok = d == 64 ? kv_write(k, v, 64, slab, slot) : kv_write(k, v, d, slab, slot);
    if (!ok)
        *bad = 1;
}

/* ---- one page ------------------------------------------------------------------------------------------ */

/* A page made ready for all rows. */
struct page {
    _Alignas(LINE) int8_t k[DIM_MAX * FP__PAGE_TOKENS]; // [channels/4][64 tokens][4 channels]
    _Alignas(LINE) int8_t v[DIM_MAX * FP__PAGE_TOKENS]; // [16][channels][4 tokens]
    _Alignas(LINE) int32_t v_sum[DIM_MAX];              // [channels] 257·128·Σv
    float32x4_t s_k[VECTORS], s_v[VECTORS];
    size_t d, channels; // channels = d rounded up to 16
};

/* s_v·2^-E and E for the leading `visible` tokens. */
struct values {
    float32x4_t s[VECTORS];
    int e;
    size_t visible;
};

/* Planes of the queries of a tile, [rows][channels]. */
struct rows {
    _Alignas(LINE) int8_t high[TILE_ROWS * DIM_MAX], low[TILE_ROWS * DIM_MAX];
    size_t channels;
};

/* ROWS rows between the phases of a page. */
struct block {
    int32x4_t dot[ROWS][VECTORS];
    _Alignas(LINE) int8_t high[ROWS][FP__PAGE_TOKENS], low[ROWS][FP__PAGE_TOKENS]; // w, 128 lower
    float a[ROWS], b[ROWS]; // factors of the merge, b times 2^E
};

/* 16 bytes of each of 4 rows → z[j]: unit j (4 bytes) of the rows. */
INLINE void transpose_4(const uint8_t *from, size_t pitch, int8x16_t z[4])
{
    uint32x4_t a = vreinterpretq_u32_u8(vld1q_u8(from)), b = vreinterpretq_u32_u8(vld1q_u8(from + pitch));
    uint32x4_t c = vreinterpretq_u32_u8(vld1q_u8(from + 2 * pitch)),
               d = vreinterpretq_u32_u8(vld1q_u8(from + 3 * pitch));
    uint64x2_t ab = vreinterpretq_u64_u32(vtrn1q_u32(a, b)), cd = vreinterpretq_u64_u32(vtrn1q_u32(c, d));
    uint64x2_t ef = vreinterpretq_u64_u32(vtrn2q_u32(a, b)), gh = vreinterpretq_u64_u32(vtrn2q_u32(c, d));
    z[0] = vreinterpretq_s8_u64(vtrn1q_u64(ab, cd));
    z[1] = vreinterpretq_s8_u64(vtrn1q_u64(ef, gh));
    z[2] = vreinterpretq_s8_u64(vtrn2q_u64(ab, cd));
    z[3] = vreinterpretq_s8_u64(vtrn2q_u64(ef, gh));
}

/* 4 channels of V (rows of 64 bytes at v). */
INLINE void load_values_of(const uint8_t *v, struct page *p, size_t channel)
{
    int32x4_t sum = vdupq_n_s32(0);
    int8x16_t z[4];
    for (size_t c = 0; c < 4; c++) {
        transpose_4(v + 16 * c, FP__PAGE_TOKENS, z);
        UNROLL
        for (size_t j = 0; j < 4; j++) {
            vst1q_s8(p->v + ((4 * c + j) * p->channels + channel) * 4, z[j]);
            sum = vdotq_s32(sum, z[j], vdupq_n_s8(1));
        }
    }
    vst1q_s32(p->v_sum + channel, vmulq_n_s32(sum, 257 * 128));
}

INLINE void load_scales(const uint8_t *scales, float32x4_t out[VECTORS])
{
    for (size_t g = 0; g < VECTORS; g++)
        out[g] = vreinterpretq_f32_u32(vshll_n_u16(vreinterpret_u16_u8(vld1_u8(scales + 8 * g)), 16));
}

/* The bytes of a column of K past d belong to the next token or to V: their query is 0. */
INLINE void load_page(const uint8_t *slab, size_t d, struct page *p)
{
    const uint8_t *v = slab + 64 * d;
    size_t whole = d / LANES * LANES;
    int8x16_t z[4];
    p->d = d;
    p->channels = (d + 15) / 16 * 16;
    for (size_t c = 0; c < p->channels; c += 16)
        for (size_t t = 0; t < FP__PAGE_TOKENS; t += LANES) {
            transpose_4(slab + t * d + c, d, z);
            UNROLL
            for (size_t j = 0; j < 4; j++)
                vst1q_s8(p->k + (c + 4 * j) * FP__PAGE_TOKENS + 4 * t, z[j]);
        }
    for (size_t j = 0; j < whole; j += LANES)
        load_values_of(v + j * FP__PAGE_TOKENS, p, j);
    if (whole < p->channels) { /* filled up so that nothing is read past the slab */
        uint8_t tail[16 * FP__PAGE_TOKENS] = {0};
        memcpy(tail, v + whole * FP__PAGE_TOKENS, (d - whole) * FP__PAGE_TOKENS);
        for (size_t j = whole; j < p->channels; j += LANES)
            load_values_of(tail + (j - whole) * FP__PAGE_TOKENS, p, j);
    }
    load_scales(slab + 128 * d, p->s_k);
    load_scales(slab + 128 * d + 128, p->s_v);
}

/* All ones in the lanes of vector g whose token is among the leading `visible`. */
INLINE uint32x4_t visible_lanes(size_t g, size_t visible)
{
    static const uint32_t first[LANES] = {0, 1, 2, 3};
    return vcltq_u32(vaddq_u32(vld1q_u32(first), vdupq_n_u32((uint32_t)(4 * g))),
                     vdupq_n_u32((uint32_t)visible));
}

INLINE void load_values(const struct page *p, size_t visible, struct values *v)
{
    uint32x4_t max = vdupq_n_u32(0);
    for (size_t g = 0; g < VECTORS; g++) {
        uint32x4_t bits = vandq_u32(visible_lanes(g, visible), vreinterpretq_u32_f32(p->s_v[g]));
        max = vmaxq_u32(max, bits);
        v->s[g] = vreinterpretq_f32_u32(bits);
    }
    uint32_t largest = vmaxvq_u32(max);
    v->visible = visible;
    v->e = largest ? (int)(largest >> 23) - 126 : 0;
    for (size_t g = 0; g < VECTORS; g++)
        v->s[g] = vmulq_n_f32(v->s[g], fp__pow2(-v->e));
}

/* ---- phases of a page, for n rows (a constant) ------------------------------------------------------------
 */

/* 16 bytes of two planes of n rows (stride bytes apart) times 4 vectors; from unit to unit the lanes lie
 * `step` bytes apart. */
INLINE void multiply_16(const int8_t *high, const int8_t *low, size_t stride, const int8_t *lanes,
                        size_t step, int32x4_t sum_high[ROWS][4], int32x4_t sum_low[ROWS][4], const size_t n)
{
    int8x16_t h[ROWS], l[ROWS];
    UNROLL
    for (size_t r = 0; r < n; r++) {
        h[r] = vld1q_s8(high + r * stride);
        l[r] = vld1q_s8(low + r * stride);
    }
#define UNIT(j)                                                                                              \
    UNROLL                                                                                                   \
    for (size_t g = 0; g < 4; g++) {                                                                         \
        int8x16_t x = vld1q_s8(lanes + (j)*step + 16 * g);                                                   \
        UNROLL                                                                                               \
        for (size_t r = 0; r < n; r++) {                                                                     \
            sum_high[r][g] = vdotq_laneq_s32(sum_high[r][g], x, h[r], j);                                    \
            sum_low[r][g] = vdotq_laneq_s32(sum_low[r][g], x, l[r], j);                                      \
        }                                                                                                    \
    }
    UNIT(0)
    UNIT(1)
    UNIT(2)
    UNIT(3)
#undef UNIT
}

INLINE void dot_rows(const struct page *p, const struct rows *q, size_t row, struct block *b, const size_t n)
{
    const int8_t *high = q->high + row * q->channels, *low = q->low + row * q->channels;
    for (size_t g = 0; g < VECTORS; g += 4) {
        int32x4_t sum_high[ROWS][4], sum_low[ROWS][4];
        UNROLL
        for (size_t i = 0; i < n * 4; i++)
            sum_high[i / 4][i % 4] = sum_low[i / 4][i % 4] = vdupq_n_s32(0);
        for (size_t c = 0; c < p->channels; c += 16)
            multiply_16(high + c, low + c, q->channels, p->k + c * FP__PAGE_TOKENS + 16 * g,
                        4 * FP__PAGE_TOKENS, sum_high, sum_low, n);
        UNROLL
        for (size_t i = 0; i < n * 4; i++)
            b->dot[i / 4][g + i % 4] =
                vaddq_s32(vshlq_n_s32(sum_high[i / 4][i % 4], 8), sum_low[i / 4][i % 4]);
    }
}

/* Dots of row r of the block → its planes of weights; merges m and l of the row. */
INLINE void weigh_row(const struct page *p, const struct values *v, float s_q, struct block *b, size_t r,
                      float *m, float *l)
{
    float32x4_t x[VECTORS], max = vdupq_n_f32(-INFINITY);
    UNROLL
    for (size_t g = 0; g < VECTORS; g++) {
        x[g] = vmulq_f32(vcvtq_f32_s32(b->dot[r][g]), vmulq_n_f32(p->s_k[g], s_q));
        if (v->visible < FP__PAGE_TOKENS)
            x[g] = vbslq_f32(visible_lanes(g, v->visible), x[g], vdupq_n_f32(-INFINITY));
        max = vmaxq_f32(max, x[g]);
    }
    float page_m = vmaxvq_f32(max) + 0.0f;
    int32x4_t sum = vdupq_n_s32(0);
    UNROLL
    for (size_t g = 0; g < VECTORS; g += 2) {
        uint16x4_t w[2];
        UNROLL
        for (size_t i = 0; i < 2; i++) {
            float32x4_t e = exp2c(vsubq_f32(x[g + i], vdupq_n_f32(page_m)));
            sum = vaddq_s32(sum, vcvtnq_s32_f32(vmulq_n_f32(e, 65535.0f)));
            w[i] = vmovn_u32(vcvtnq_u32_f32(vmulq_n_f32(vmulq_f32(e, v->s[g + i]), 65535.0f)));
        }
        uint16x8_t words = vcombine_u16(w[0], w[1]);
        uint8x8_t flip = vdup_n_u8(0x80);
        vst1_s8(b->low[r] + g * LANES, vreinterpret_s8_u8(veor_u8(vmovn_u16(words), flip)));
        vst1_s8(b->high[r] + g * LANES, vreinterpret_s8_u8(veor_u8(vshrn_n_u16(words, 8), flip)));
    }
    if (v->visible == 0)
        return; /* not merged */
    float most = *m > page_m ? *m : page_m;
    b->a[r] = fp__exp2c(*m - most);
    float f = fp__exp2c(page_m - most);
    b->b[r] = f * fp__pow2(v->e);
    *l = __builtin_fmaf(*l, b->a[r], (float)vaddvq_s32(sum) * f);
    *m = most;
}

/* o of n rows for channels [first, first + 16), merged into the state. */
INLINE void value_rows(const struct page *p, const struct block *b, const uint8_t *visible, size_t first,
                       float *o, const size_t n)
{
    int32x4_t sum_high[ROWS][4], sum_low[ROWS][4];
    UNROLL
    for (size_t i = 0; i < n * 4; i++) {
        sum_high[i / 4][i % 4] = vdupq_n_s32(0);
        sum_low[i / 4][i % 4] = vld1q_s32(p->v_sum + first + i % 4 * LANES);
    }
    for (size_t t = 0; t < FP__PAGE_TOKENS; t += 16)
        multiply_16(b->high[0] + t, b->low[0] + t, FP__PAGE_TOKENS, p->v + t * p->channels + 4 * first,
                    4 * p->channels, sum_high, sum_low, n);
    UNROLL
    for (size_t i = 0; i < n * 4; i++) {
        size_t r = i / 4, j = first + i % 4 * LANES;
        if (visible[r] == 0 || j >= p->d)
            continue;
        int32x4_t sum = vaddq_s32(vshlq_n_s32(sum_high[r][i % 4], 8), sum_low[r][i % 4]);
        float32x4_t add = vmulq_n_f32(vcvtq_f32_s32(sum), b->b[r]);
        float *to = o + r * p->d;
        store_channels(to, p->d, j, vfmaq_n_f32(add, load_channels(to, p->d, j), b->a[r]));
    }
}

/* One page for n rows from `row` of the tile; s_q, visible and out are those of that row. */
INLINE void page_rows(const struct page *p, const struct rows *q, size_t row, const float *s_q,
                      const uint8_t *visible, struct values *v, fp__attn_states out, const size_t n)
{
    struct block b;
    dot_rows(p, q, row, &b, n);
    for (size_t r = 0; r < n; r++) {
        if (visible[r] != v->visible)
            load_values(p, visible[r], v);
        weigh_row(p, v, s_q[r], &b, r, out.m + r, out.l + r);
    }
    for (size_t j = 0; j < p->channels; j += 16)
        value_rows(p, &b, visible, j, out.o, n);
}

/* ---- span, merge, mix ---------------------------------------------------------------------------------- */

/* Planes of rows [first, first + n) of the queries. */
INLINE void split_queries(const fp__attn_rows *q, size_t first, size_t n, struct rows *out)
{
    out->channels = (q->d + 15) / 16 * 16;
    for (size_t r = 0; r < n; r++)
        for (size_t j = 0; j < out->channels; j += 8) {
            int16x8_t x = vld1q_s16(q->q16 + (first + r) * q->stride + j);
            vst1_s8(out->high + r * out->channels + j, vshrn_n_s16(vaddq_s16(x, vdupq_n_s16(128)), 8));
            vst1_s8(out->low + r * out->channels + j, vmovn_s16(x));
        }
}

void fp__attn_span_neon(const fp__attn_rows *q, const uint8_t *const *slabs, const uint8_t *visible,
                        size_t pages, fp__attn_states out)
{
    struct page page;
    struct rows rows;
    for (size_t r = 0; r < q->rows; r++) {
        out.m[r] = -INFINITY;
        out.l[r] = 0.0f;
    }
    memset(out.o, 0, q->rows * q->d * sizeof *out.o);
    for (size_t tile = 0; tile < q->rows; tile += TILE_ROWS) {
        size_t n = q->rows - tile < TILE_ROWS ? q->rows - tile : TILE_ROWS;
        split_queries(q, tile, n, &rows);
        for (size_t p = 0; p < pages; p++) {
            struct values values = {.visible = SIZE_MAX};
            load_page(slabs[p], q->d, &page);
            for (size_t r = 0; r < n; r += ROWS) {
                size_t at = tile + r;
                fp__attn_states to = {.m = out.m + at, .l = out.l + at, .o = out.o + at * q->d};
                const uint8_t *seen = visible + p * q->rows + at;
                if (n - r >= ROWS)
                    page_rows(&page, &rows, r, q->s_q + at, seen, &values, to, ROWS);
                else
                    page_rows(&page, &rows, r, q->s_q + at, seen, &values, to, 1);
            }
        }
    }
}

void fp__attn_merge_neon(size_t rows, size_t d, fp__attn_states into, fp__attn_states from)
{
    for (size_t r = 0; r < rows; r++) {
        if (from.m[r] == -INFINITY)
            continue;
        float m = into.m[r] > from.m[r] ? into.m[r] : from.m[r];
        float a = fp__exp2c(into.m[r] - m), b = fp__exp2c(from.m[r] - m);
        into.m[r] = m;
        into.l[r] = __builtin_fmaf(into.l[r], a, from.l[r] * b);
        float *to = into.o + r * d;
        const float *with = from.o + r * d;
        for (size_t j = 0; j < d; j += LANES) {
            float32x4_t add = vmulq_n_f32(load_channels(with, d, j), b);
            store_channels(to, d, j, vfmaq_n_f32(add, load_channels(to, d, j), a));
        }
    }
}

float fp__attn_mix_neon(fp__attn_states anchor, fp__attn_states context, fp__injection_mode mode, uint32_t g,
                        size_t d, float *out)
{
    bool both = *anchor.m != -INFINITY && *context.m != -INFINITY;
    float alpha = *anchor.m == -INFINITY ? 0.0f : 1.0f, w = alpha;
    fp__attn_states only = alpha > 0.0f ? anchor : context;
    if (both) {
        float m = *anchor.m > *context.m ? *anchor.m : *context.m;
        float na = *anchor.l * fp__exp2c(*anchor.m - m), nc = *context.l * fp__exp2c(*context.m - m);
        float gamma = (float)g / 65536.0f;
        alpha = na / (na + nc);
        w = g > 0 && mode == FP__RESERVE ? gamma : alpha;
        if (g > 0 && mode == FP__FLOOR)
            w = alpha > gamma ? alpha : gamma;
    }
    for (size_t j = 0; j < d; j += LANES) {
        float32x4_t y = vdivq_f32(load_channels(only.o, d, j), vdupq_n_f32(*only.l));
        if (both) { /* `only` is the anchor then */
            float32x4_t c = vdivq_f32(load_channels(context.o, d, j), vdupq_n_f32(*context.l));
            y = vfmaq_n_f32(vmulq_n_f32(c, 1.0f - w), y, w);
        }
        store_channels(out, d, j, y);
    }
    return alpha;
}
