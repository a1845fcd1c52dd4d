/* Attention with AVX-512 (VNNI). Both products of a page are the same small matrix multiplication: rows of
 * 8-bit planes (of the 16-bit queries, of the 16-bit weights) times a page's bytes, with the result's columns
 * (tokens, or channels of V) in the lanes, so that nothing is ever summed across lanes. For that K and V are
 * transposed in units of 4 bytes, once per page for all rows. Integer sums are exact in any order; every
 * float operation is the one of arithmetic §6.
 *
 * Order of tokens in score vectors: lane 4·L + i of vector g holds token 16·L + 4·g + i. It makes the packs
 * that turn 4 vectors of weights into planes of 64 bytes come out in natural order. */
#include "kernel/avx512/attention_avx512.h"

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))
/* Loop counts are constants where this is used: the accumulators live in registers. */
#define UNROLL _Pragma("GCC unroll 8")

enum {
    LANES = 16,
    ROW_BLOCK = 16, /* rows whose running maxima and sums are merged in one vector */
    TILE_ROWS = 48, /* rows that share one transposition of a page */
    VECTORS = FP__PAGE_TOKENS / LANES,
    QUADS = FP__PAGE_TOKENS / 4,
    DIM_MAX = FP__HEAD_DIM_MAX,
    LINE = 64
};

/* §1, each lane; 0 for NaN. */
INLINE __m512 exp2c(__m512 x)
{
    const __m512 magic = _mm512_set1_ps(12582912.0f);
    __mmask16 in = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-126.0f), _CMP_GE_OQ);
    __m512 t = _mm512_add_ps(x, magic), f = _mm512_sub_ps(x, _mm512_sub_ps(t, magic));
    __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(0x1.3fa206p-13f), f, _mm512_set1_ps(0x1.5f0b82p-10f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0x1.3b30ap-7f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0x1.c6af76p-5f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0x1.ebfbd8p-3f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0x1.62e43p-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
    /* the low 9 bits of t are n mod 512: the rest falls out of the shift */
    __m512i n = _mm512_slli_epi32(_mm512_castps_si512(t), 23);
    return _mm512_castsi512_ps(_mm512_maskz_add_epi32(in, _mm512_castps_si512(p), n));
}

/* ---- rotation, queries, K/V --------------------------------------------------------------------------- */

/* Lanes of vector g (channels 16g..16g+15) where σ is -1: parity of popcount(j & (j >> 1)). */
INLINE __mmask16 sigma_lanes(size_t g)
{
    unsigned mask =
        0xb848u; /* the 16 lanes by themselves; then the pair across vectors; then the pairs in g */
    mask ^= g & 1 ? 0xff00u : 0;
    mask ^= __builtin_parityll(g & (g >> 1)) ? 0xffffu : 0;
    return (__mmask16)mask;
}

/* Stage s of the transform inside a vector: a + b at lanes without s, a - b at lanes with it. */
#define STAGE(x, swapped, lanes) _mm512_mask_sub_ps(_mm512_add_ps(x, swapped), (__mmask16)(lanes), swapped, x)

INLINE __m512 transform_vector(__m512 x, size_t h)
{
    x = h > 1 ? STAGE(x, _mm512_permute_ps(x, 0xb1), 0xaaaa) : x;
    x = h > 2 ? STAGE(x, _mm512_permute_ps(x, 0x4e), 0xcccc) : x;
    x = h > 4 ? STAGE(x, _mm512_shuffle_f32x4(x, x, 0xb1), 0xf0f0) : x;
    return h > 8 ? STAGE(x, _mm512_shuffle_f32x4(x, x, 0x4e), 0xff00) : x;
}

/* σ and the transform of x[d] → y[vectors][16]; lanes past d are zero. */
INLINE void rotate(const float *x, size_t d, __m512 *y)
{
    FP_CHECK(d <= DIM_MAX);
    size_t h = (d & (~d + 1)), vectors = (d + LANES - 1) / LANES;
    const __m512 minus = _mm512_set1_ps(-0.0f);
    for (size_t g = 0; g < vectors; g++) {
        size_t left = d - g * LANES;
        __mmask16 lanes = (__mmask16)(left >= LANES ? 0xffffu : (1u << left) - 1);
        __m512 v = _mm512_maskz_loadu_ps(lanes, x + g * LANES);
        v = _mm512_mask_xor_ps(v, (__mmask16)(sigma_lanes(g) & lanes), v, minus);
        y[g] = transform_vector(v, h);
    }
    for (size_t s = 1; s * LANES < h; s *= 2)
        for (size_t g = 0; g < vectors; g++)
            if (!(g & s)) {
                __m512 a = y[g], b = y[g + s];
                y[g] = _mm512_add_ps(a, b);
                y[g + s] = _mm512_sub_ps(a, b);
            }
}

INLINE uint32_t amax_bits(const __m512 *x, size_t vectors)
{
    __m512i amax = _mm512_setzero_si512(), magnitude = _mm512_set1_epi32(0x7fffffff);
    for (size_t g = 0; g < vectors; g++)
        amax = _mm512_max_epu32(amax, _mm512_and_si512(_mm512_castps_si512(x[g]), magnitude));
    return _mm512_reduce_max_epu32(amax);
}

INLINE bool query_head(const float *q, size_t d, float c, int16_t *q16, size_t stride, float *s_q)
{
    __m512 x[DIM_MAX / LANES];
    size_t vectors = (d + LANES - 1) / LANES;
    rotate(q, d, x);
    for (size_t g = 0; g < vectors; g++)
        x[g] = _mm512_mul_ps(x[g], _mm512_set1_ps(c));
    uint32_t amax = amax_bits(x, vectors);
    bool zero = amax >= FP__AMAX_LIMIT || amax < FP__AMAX_FLOOR;
    *s_q = zero ? 0.0f : fp__bits_float(amax) / 32512.0f;
    __m512 inverse = _mm512_set1_ps(zero ? 0.0f : 1.0f / *s_q);
    for (size_t g = 0; g < stride / LANES; g++) {
        __m512i i = _mm512_setzero_si512();
        if (!zero && g < vectors)
            i = _mm512_cvtps_epi32(_mm512_mul_ps(x[g], inverse));
        _mm256_storeu_si256((__m256i *)(void *)(q16 + g * LANES), _mm512_cvtepi32_epi16(i));
    }
    return amax < FP__AMAX_LIMIT;
}

void fp__query_avx512(const float *q, size_t heads, size_t d, int16_t *q16, size_t stride, float *s_q,
                      uint8_t *bad)
{
    float c = fp__exact_query_factor(d);
    bool ok = true;
    for (size_t h = 0; h < heads; h++) {
        const float *from = q + h * d;
        int16_t *to = q16 + h * stride;
        if (d == 64) /* constants, so that the head stays in registers */
            ok &= query_head(from, 64, c, to, stride, s_q + h);
        else if (d == 128)
            ok &= query_head(from, 128, c, to, stride, s_q + h);
        else
            ok &= query_head(from, d, c, to, stride, s_q + h);
    }
    if (!ok)
        *bad = 1;
}

/* x → int8 in lanes of 16, scale rounded up to bfloat16 (§6); false if out of range. */
INLINE bool quantise_kv(const __m512 *x, size_t vectors, int8_t *out, uint8_t scale[2])
{
    uint32_t amax = amax_bits(x, vectors), bits = 0;
    if (amax < FP__AMAX_LIMIT && amax >= FP__AMAX_FLOOR)
        bits = (fp__float_bits(fp__bits_float(amax) / 127.0f) + 0xffffu) & 0xffff0000u;
    __m512 inverse = _mm512_set1_ps(bits ? 1.0f / fp__bits_float(bits) : 0.0f);
    const __m512i high = _mm512_set1_epi32(127), low = _mm512_set1_epi32(-127);
    for (size_t g = 0; g < vectors; g++) {
        __m512i i = _mm512_setzero_si512();
        if (bits)
            i = _mm512_cvtps_epi32(_mm512_mul_ps(x[g], inverse));
        i = _mm512_max_epi32(_mm512_min_epi32(i, high), low);
        _mm_store_si128((__m128i *)(void *)(out + g * LANES), _mm512_cvtepi32_epi8(i));
    }
    scale[0] = (uint8_t)(bits >> 16);
    scale[1] = (uint8_t)(bits >> 24);
    return amax < FP__AMAX_LIMIT;
}

INLINE bool kv_write(const float *k, const float *v, size_t d, uint8_t *slab, size_t slot)
{
    __m512 x[DIM_MAX / LANES];
    _Alignas(LINE) int8_t bytes[DIM_MAX];
    size_t vectors = (d + LANES - 1) / LANES;
    uint8_t *s_k = slab + 128 * d + 2 * slot, *to = slab + 64 * d + slot;
    rotate(k, d, x);
    bool ok = quantise_kv(x, vectors, bytes, s_k);
    memcpy(slab + slot * d, bytes, d);
    for (size_t g = 0; g < vectors; g++) {
        size_t left = d - g * LANES;
        x[g] = _mm512_maskz_loadu_ps((__mmask16)(left >= LANES ? 0xffffu : (1u << left) - 1), v + g * LANES);
    }
    ok &= quantise_kv(x, vectors, bytes, s_k + 128);
    for (size_t j = 0; j < d; j++) /* all d were stored, in whole vectors */
        /* NOLINTNEXTLINE(clang-analyzer-core.uninitialized.Assign) */
        to[j * FP__PAGE_TOKENS] = (uint8_t)bytes[j];
    return ok;
}

void fp__kv_write_avx512(const float *k, const float *v, size_t d, uint8_t *slab, size_t slot, uint8_t *bad)
{
    bool ok = d == 64    ? kv_write(k, v, 64, slab, slot)
              : d == 128 ? kv_write(k, v, 128, slab, slot)
                         : kv_write(k, v, d, slab, slot);
    if (!ok)
        *bad = 1;
}

/* ---- one page ------------------------------------------------------------------------------------------ */

/* A page made ready for all rows. */
struct page {
    _Alignas(LINE) uint32_t k[DIM_MAX / 4 * FP__PAGE_TOKENS]; // [d/4][64 lanes] 4 channels of a token, + 128
    _Alignas(LINE) uint32_t v[QUADS * DIM_MAX];               // [16][channels] 4 tokens of a channel
    __m512 s_k[VECTORS], s_v[VECTORS];                        // scales in score order
    size_t d, columns;                                        // columns = ceil(d / 16)
};

/* s_v·2^-E and E for the leading `visible` tokens. */
struct values {
    __m512 s[VECTORS];
    int e;
    size_t visible;
};

/* Rows of one call. */
struct rows {
    _Alignas(LINE) int8_t low[TILE_ROWS * DIM_MAX], high[TILE_ROWS * DIM_MAX]; // [rows][plane]
    int32_t bias[TILE_ROWS]; // what the 128 added to K puts on top of the sum, to be taken off
    size_t plane;            // bytes of a row of a plane: d rounded up to 32
};

/* Per row of a block, between the phases of a page. */
struct block {
    __m512i dot[ROW_BLOCK][VECTORS];                        // in score order
    __m512 x[ROW_BLOCK][VECTORS];                           // scores; -inf where not visible
    _Alignas(LINE) uint8_t low[ROW_BLOCK][FP__PAGE_TOKENS]; // planes of w
    _Alignas(LINE) uint8_t high[ROW_BLOCK][FP__PAGE_TOKENS];
    _Alignas(LINE) float m[ROW_BLOCK], a[ROW_BLOCK], b[ROW_BLOCK]; // b: times 2^E
    _Alignas(LINE) int32_t l[ROW_BLOCK], e[ROW_BLOCK];
};

/* Runs over the bytes of the slab that comes next, some lines at a time, so that it arrives meanwhile. */
struct ahead {
    const uint8_t *at, *end;
};
INLINE void fetch_ahead(struct ahead *a, size_t lines)
{
    for (size_t i = 0; i < lines && a->at < a->end; i++, a->at += LINE)
        _mm_prefetch((const char *)a->at, _MM_HINT_T0);
}

/* 16 bytes of each of 16 rows, in units of 4 bytes: out[j] (j = 0..3) gets unit j of all rows; lane 4·L + i
 * is the row at from + L·group + i·pitch. */
INLINE void transpose_16(const uint8_t *from, size_t pitch, size_t group, __m512i flip, uint32_t *out,
                         size_t step)
{
    __m512i z[4];
    UNROLL
    for (size_t i = 0; i < 4; i++) {
        const uint8_t *at = from + i * pitch;
        z[i] = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(const void *)at));
        z[i] = _mm512_inserti32x4(z[i], _mm_loadu_si128((const __m128i *)(const void *)(at + group)), 1);
        z[i] = _mm512_inserti32x4(z[i], _mm_loadu_si128((const __m128i *)(const void *)(at + 2 * group)), 2);
        z[i] = _mm512_inserti32x4(z[i], _mm_loadu_si128((const __m128i *)(const void *)(at + 3 * group)), 3);
    }
    __m512i ab = _mm512_unpacklo_epi32(z[0], z[1]), cd = _mm512_unpacklo_epi32(z[2], z[3]);
    __m512i ef = _mm512_unpackhi_epi32(z[0], z[1]), gh = _mm512_unpackhi_epi32(z[2], z[3]);
    _mm512_store_si512(out, _mm512_xor_si512(_mm512_unpacklo_epi64(ab, cd), flip));
    _mm512_store_si512(out + step, _mm512_xor_si512(_mm512_unpackhi_epi64(ab, cd), flip));
    _mm512_store_si512(out + 2 * step, _mm512_xor_si512(_mm512_unpacklo_epi64(ef, gh), flip));
    _mm512_store_si512(out + 3 * step, _mm512_xor_si512(_mm512_unpackhi_epi64(ef, gh), flip));
}

/* 64 bfloat16 in score order. */
INLINE void load_scales(const uint8_t *scales, __m512 out[VECTORS])
{
    __m512i a = _mm512_loadu_si512(scales), b = _mm512_loadu_si512(scales + LINE);
    /* word 2·(4·L + i) + 1 of vector g ← word 16·L + 4·g + i */
    __m512i lane = _mm512_set_epi32(51, 50, 49, 48, 35, 34, 33, 32, 19, 18, 17, 16, 3, 2, 1, 0);
    UNROLL
    for (size_t g = 0; g < VECTORS; g++) {
        __m512i index = _mm512_slli_epi32(_mm512_add_epi32(lane, _mm512_set1_epi32((int)(4 * g))), 16);
        out[g] = _mm512_castsi512_ps(_mm512_maskz_permutex2var_epi16(0xaaaaaaaau, a, index, b));
    }
}

/* Lanes of vector g whose token is among the leading `visible`. */
INLINE __mmask16 visible_lanes(size_t g, size_t visible)
{
    __m512i token = _mm512_set_epi32(51, 50, 49, 48, 35, 34, 33, 32, 19, 18, 17, 16, 3, 2, 1, 0);
    return _mm512_cmplt_epi32_mask(token, _mm512_set1_epi32((int)visible - (int)(4 * g)));
}

/* The bytes of a column of K past d belong to the next token or to V: their query is 0. */
INLINE void load_page(const uint8_t *slab, size_t d, struct page *p, struct ahead *next)
{
    const uint8_t *v = slab + 64 * d;
    size_t columns = (d + LANES - 1) / LANES, channels = columns * LANES, whole = d / LANES;
    p->d = d;
    p->columns = columns;
    const __m512i flip = _mm512_set1_epi8((char)0x80), keep = _mm512_setzero_si512();
    for (size_t c = 0; c < columns; c++)
        for (size_t g = 0; g < VECTORS; g++) {
            transpose_16(slab + 4 * g * d + c * LANES, d, LANES * d, flip,
                         p->k + c * 4 * FP__PAGE_TOKENS + g * LANES, FP__PAGE_TOKENS);
            fetch_ahead(next, 4);
        }
    for (size_t g = 0; g < whole; g++)
        for (size_t c = 0; c < VECTORS; c++) {
            transpose_16(v + g * LANES * FP__PAGE_TOKENS + c * LANES, FP__PAGE_TOKENS, 4 * FP__PAGE_TOKENS,
                         keep, p->v + c * 4 * channels + g * LANES, channels);
            fetch_ahead(next, 5);
        }
    if (whole < columns) { /* the last channels, filled up so that nothing is read past the slab */
        uint8_t tail[LANES * FP__PAGE_TOKENS] = {0};
        memcpy(tail, v + whole * LANES * FP__PAGE_TOKENS, (d - whole * LANES) * FP__PAGE_TOKENS);
        for (size_t c = 0; c < VECTORS; c++)
            transpose_16(tail + c * LANES, FP__PAGE_TOKENS, 4 * FP__PAGE_TOKENS, keep,
                         p->v + c * 4 * channels + whole * LANES, channels);
    }
    load_scales(slab + 128 * d, p->s_k);
    load_scales(slab + 128 * d + 128, p->s_v);
}

INLINE void load_values(const struct page *p, size_t visible, struct values *v)
{
    __m512i bits[VECTORS], max = _mm512_setzero_si512();
    UNROLL
    for (size_t g = 0; g < VECTORS; g++) {
        bits[g] = _mm512_maskz_mov_epi32(visible_lanes(g, visible), _mm512_castps_si512(p->s_v[g]));
        max = _mm512_max_epu32(max, bits[g]);
    }
    uint32_t largest = _mm512_reduce_max_epu32(max);
    v->visible = visible;
    v->e = largest ? (int)(largest >> 23) - 126 : 0;
    __m512 down = _mm512_set1_ps(fp__pow2(-v->e));
    UNROLL
    for (size_t g = 0; g < VECTORS; g++)
        v->s[g] = _mm512_mul_ps(_mm512_castsi512_ps(bits[g]), down);
}

/* ---- phases of a page, for n rows (a constant) of a block ---------------------------------------------- */

/* acc += u8 · s8 by fours. Not the intrinsic: GCC 12 copies every accumulator of a loop of those in and out
 * of another register, and spills for it. */
INLINE void dot_4(__m512i *acc, __m512i u8, __m512i s8)
{
    __asm__("vpdpbusd %2, %1, %0" : "+v"(*acc) : "v"(u8), "v"(s8));
}

INLINE __m512i broadcast_4(const void *p)
{
    int32_t x;
    memcpy(&x, p, 4);
    return _mm512_set1_epi32(x);
}

/* Exact dots of n rows with all 64 tokens. */
INLINE void dot_rows(const struct page *p, const struct rows *q, size_t row, struct block *b, size_t at,
                     const size_t n)
{
    __m512i high[3][VECTORS], low[3][VECTORS];
    UNROLL
    for (size_t r = 0; r < n; r++)
        UNROLL
    for (size_t g = 0; g < VECTORS; g++) {
        high[r][g] = _mm512_setzero_si512();
        low[r][g] = _mm512_set1_epi32(q->bias[row + r]);
    }
    const int8_t *q_high = q->high + row * q->plane, *q_low = q->low + row * q->plane;
    for (size_t c = 0; c < 4 * p->columns; c++) {
        const uint32_t *k = p->k + c * FP__PAGE_TOKENS;
        UNROLL
        for (size_t r = 0; r < n; r++) {
            __m512i h = broadcast_4(q_high + r * q->plane + 4 * c),
                    l = broadcast_4(q_low + r * q->plane + 4 * c);
            UNROLL
            for (size_t g = 0; g < VECTORS; g++) {
                __m512i tokens = _mm512_load_si512(k + g * LANES);
                dot_4(&high[r][g], tokens, h);
                dot_4(&low[r][g], tokens, l);
            }
        }
    }
    UNROLL
    for (size_t r = 0; r < n; r++)
        UNROLL
    for (size_t g = 0; g < VECTORS; g++)
        b->dot[at + r][g] = _mm512_add_epi32(_mm512_slli_epi32(high[r][g], 8), low[r][g]);
}

/* Dots of one row → scores and m. */
INLINE void score_row(const struct page *p, float s_q, size_t visible, struct block *b, size_t r)
{
    const __m512 s = _mm512_set1_ps(s_q);
    __m512 x[VECTORS];
    UNROLL
    for (size_t g = 0; g < VECTORS; g++) {
        x[g] = _mm512_mul_ps(_mm512_cvtepi32_ps(b->dot[r][g]), _mm512_mul_ps(s, p->s_k[g]));
        if (visible < FP__PAGE_TOKENS)
            x[g] = _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), visible_lanes(g, visible), x[g]);
        b->x[r][g] = x[g];
    }
    b->m[r] =
        _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(x[0], x[1]), _mm512_max_ps(x[2], x[3]))) + 0.0f;
}

/* Scores of one row → planes of w, l and e. */
INLINE void weigh_row(const struct values *v, struct block *b, size_t r)
{
    const __m512 scale = _mm512_set1_ps(65535.0f), m = _mm512_set1_ps(b->m[r]);
    __m512i w[VECTORS], l = _mm512_setzero_si512();
    UNROLL
    for (size_t g = 0; g < VECTORS; g++) {
        __m512 e = exp2c(_mm512_sub_ps(b->x[r][g], m));
        l = _mm512_add_epi32(l, _mm512_cvtps_epi32(_mm512_mul_ps(e, scale)));
        w[g] = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_mul_ps(e, v->s[g]), scale));
    }
    b->l[r] = _mm512_reduce_add_epi32(l);
    b->e[r] = v->e;
    __m512i w01 = _mm512_packus_epi32(w[0], w[1]), w23 = _mm512_packus_epi32(w[2], w[3]);
    const __m512i byte = _mm512_set1_epi16(255);
    _mm512_store_si512(b->low[r],
                       _mm512_packus_epi16(_mm512_and_si512(w01, byte), _mm512_and_si512(w23, byte)));
    _mm512_store_si512(b->high[r], _mm512_packus_epi16(_mm512_srli_epi16(w01, 8), _mm512_srli_epi16(w23, 8)));
}

/* The block's running maxima and sums, and the factors of its o; n rows of the block are used. */
INLINE void merge_sums(struct block *b, const uint8_t *visible, size_t n, float *m, float *l)
{
    __mmask16 used = (__mmask16)((1u << n) - 1), seen;
    seen = _mm512_mask_test_epi32_mask(used, _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(used, visible)),
                                       _mm512_set1_epi32(255));
    __m512 old = _mm512_maskz_loadu_ps(seen, m), page = _mm512_maskz_load_ps(seen, b->m);
    __m512 max = _mm512_max_ps(old, page);
    __m512 a = exp2c(_mm512_sub_ps(old, max)), f = exp2c(_mm512_sub_ps(page, max));
    __m512 sum = _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_maskz_load_epi32(seen, b->l)), f);
    sum = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(seen, l), a, sum);
    _mm512_mask_storeu_ps(m, seen, max);
    _mm512_mask_storeu_ps(l, seen, sum);
    __m512i e = _mm512_maskz_load_epi32(seen, b->e);
    __m512 up = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(e, _mm512_set1_epi32(127)), 23));
    _mm512_store_ps(b->a, a);
    _mm512_store_ps(b->b, _mm512_mul_ps(f, up));
}

/* n rows times channels [16·first, 16·(first + vectors)): o of the page, merged into the state. */
INLINE void value_rows(const struct page *p, const struct block *b, size_t at, size_t quads,
                       const uint8_t *visible, size_t first, float *o, const size_t n, const size_t vectors)
{
    __m512i high[3][4], low[3][4];
    UNROLL
    for (size_t r = 0; r < n; r++)
        UNROLL
    for (size_t g = 0; g < vectors; g++)
        high[r][g] = low[r][g] = _mm512_setzero_si512();
    for (size_t c = 0; c < quads; c++) {
        const uint32_t *v = p->v + (c * p->columns + first) * LANES;
        UNROLL
        for (size_t r = 0; r < n; r++) {
            __m512i h = broadcast_4(&b->high[at + r][4 * c]), l = broadcast_4(&b->low[at + r][4 * c]);
            UNROLL
            for (size_t g = 0; g < vectors; g++) {
                __m512i channels = _mm512_load_si512(v + g * LANES);
                dot_4(&high[r][g], h, channels);
                dot_4(&low[r][g], l, channels);
            }
        }
    }
    UNROLL
    for (size_t r = 0; r < n; r++) {
        if (visible[at + r] == 0)
            continue; /* not merged */
        __m512 a = _mm512_set1_ps(b->a[at + r]), f = _mm512_set1_ps(b->b[at + r]);
        UNROLL
        for (size_t g = 0; g < vectors; g++) {
            float *to = o + (at + r) * p->d + (first + g) * LANES;
            size_t left = p->d - (first + g) * LANES;
            __m512 sum = _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(high[r][g], 8), low[r][g]));
            sum = _mm512_mul_ps(sum, f);
            if (left >= LANES) {
                _mm512_storeu_ps(to, _mm512_fmadd_ps(_mm512_loadu_ps(to), a, sum));
            } else {
                __mmask16 lanes = (__mmask16)((1u << left) - 1);
                _mm512_mask_storeu_ps(to, lanes, _mm512_fmadd_ps(_mm512_maskz_loadu_ps(lanes, to), a, sum));
            }
        }
    }
}

INLINE void value_channels(const struct page *p, const struct block *b, size_t at, size_t quads,
                           const uint8_t *visible, float *o, const size_t n)
{
    size_t g = 0;
    for (; g + 4 <= p->columns; g += 4)
        value_rows(p, b, at, quads, visible, g, o, n, 4);
    if (g + 2 <= p->columns) {
        value_rows(p, b, at, quads, visible, g, o, n, 2);
        g += 2;
    }
    if (g < p->columns)
        value_rows(p, b, at, quads, visible, g, o, n, 1);
}

/* How many of the rows left go together: 3 fill the registers, and 2 + 2 beat 3 + 1. */
INLINE size_t take_rows(size_t left)
{
    return left >= 3 && left != 4 ? 3 : left < 2 ? 1 : 2;
}

/* The three phases are functions of their own, so that none keeps constants of another in registers. */

static __attribute__((noinline)) void dot_block(const struct page *p, const struct rows *q, size_t first,
                                                size_t n, struct block *b)
{
    for (size_t r = 0, step; r < n; r += step) {
        step = take_rows(n - r);
        if (step == 3)
            dot_rows(p, q, first + r, b, r, 3);
        else if (step == 2)
            dot_rows(p, q, first + r, b, r, 2);
        else
            dot_rows(p, q, first + r, b, r, 1);
    }
}

static __attribute__((noinline)) void weigh_block(const struct page *p, struct values *v, const float *s_q,
                                                  const uint8_t *visible, size_t n, struct block *b)
{
    /* two passes: a row's maximum takes long to come, and meanwhile the next rows can go on */
    for (size_t r = 0; r < n; r++)
        score_row(p, s_q[r], visible[r], b, r);
    for (size_t r = 0; r < n; r++) {
        if (visible[r] != v->visible)
            load_values(p, visible[r], v);
        weigh_row(v, b, r);
    }
}

static __attribute__((noinline)) void value_block(const struct page *p, const struct block *b,
                                                  const uint8_t *visible, size_t n, float *o)
{
    size_t most = 0;
    for (size_t r = 0; r < n; r++)
        most = visible[r] > most ? visible[r] : most;
    size_t quads = (most + 3) / 4;
    for (size_t r = 0, step; r < n; r += step) {
        step = take_rows(n - r);
        if (step == 3)
            value_channels(p, b, r, quads, visible, o, 3);
        else if (step == 2)
            value_channels(p, b, r, quads, visible, o, 2);
        else
            value_channels(p, b, r, quads, visible, o, 1);
    }
}

/* One page for rows [first, first + n) of the tile; n ≤ ROW_BLOCK. visible, s_q and out are those of row
 * `first`. */
static void page_block(const struct page *p, const struct rows *q, size_t first, size_t n, const float *s_q,
                       const uint8_t *visible, struct values *v, fp__attn_states out)
{
    struct block b;
    dot_block(p, q, first, n, &b);
    weigh_block(p, v, s_q, visible, n, &b);
    merge_sums(&b, visible, n, out.m, out.l);
    value_block(p, &b, visible, n, out.o);
}

/* ---- span, merge, mix ---------------------------------------------------------------------------------- */

/* Planes of rows [first, first + n) of the queries. */
INLINE void split_queries(const fp__attn_rows *q, size_t first, size_t n, struct rows *out)
{
    size_t plane = (q->d + 31) / 32 * 32;
    out->plane = plane;
    for (size_t r = 0; r < n; r++) {
        const int16_t *from = q->q16 + (first + r) * q->stride;
        __m512i sum = _mm512_setzero_si512();
        for (size_t j = 0; j < plane; j += 32) {
            __m512i x = _mm512_loadu_si512(from + j);
            sum = _mm512_add_epi32(sum, _mm512_madd_epi16(x, _mm512_set1_epi16(1)));
            __m512i high = _mm512_srai_epi16(_mm512_add_epi16(x, _mm512_set1_epi16(128)), 8);
            _mm256_store_si256((__m256i *)(void *)(out->high + r * plane + j), _mm512_cvtepi16_epi8(high));
            _mm256_store_si256((__m256i *)(void *)(out->low + r * plane + j), _mm512_cvtepi16_epi8(x));
        }
        out->bias[r] = -128 * _mm512_reduce_add_epi32(sum);
    }
}

void fp__attn_span_avx512(const fp__attn_rows *q, const uint8_t *const *slabs, const uint8_t *visible,
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
            struct ahead ahead = {.at = p + 1 < pages ? slabs[p + 1] : q->next};
            ahead.end = ahead.at ? ahead.at + fp__slab_bytes(q->d) : NULL;
            struct values values = {.visible = SIZE_MAX};
            load_page(slabs[p], q->d, &page, &ahead);
            for (size_t r = 0; r < n; r += ROW_BLOCK) {
                size_t at = tile + r, block = n - r < ROW_BLOCK ? n - r : ROW_BLOCK;
                fp__attn_states to = {.m = out.m + at, .l = out.l + at, .o = out.o + at * q->d};
                page_block(&page, &rows, r, block, q->s_q + at, visible + p * q->rows + at, &values, to);
            }
        }
    }
}

void fp__attn_merge_avx512(size_t rows, size_t d, fp__attn_states into, fp__attn_states from)
{
    for (size_t r = 0; r < rows; r += LANES) {
        _Alignas(LINE) float factor_a[LANES], factor_b[LANES];
        size_t n = rows - r < LANES ? rows - r : LANES;
        __mmask16 used = (__mmask16)((1u << n) - 1);
        __m512 m_from = _mm512_maskz_loadu_ps(used, from.m + r),
               m_into = _mm512_maskz_loadu_ps(used, into.m + r);
        __mmask16 seen = _mm512_mask_cmp_ps_mask(used, m_from, _mm512_set1_ps(-INFINITY), _CMP_NEQ_OQ);
        __m512 max = _mm512_max_ps(m_into, m_from);
        __m512 a = exp2c(_mm512_sub_ps(m_into, max)), b = exp2c(_mm512_sub_ps(m_from, max));
        __m512 l = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(used, into.l + r), a,
                                   _mm512_mul_ps(_mm512_maskz_loadu_ps(used, from.l + r), b));
        _mm512_mask_storeu_ps(into.m + r, seen, max);
        _mm512_mask_storeu_ps(into.l + r, seen, l);
        _mm512_store_ps(factor_a, a);
        _mm512_store_ps(factor_b, b);
        for (size_t i = 0; i < n; i++) {
            if (!(seen >> i & 1))
                continue;
            float *to = into.o + (r + i) * d;
            const float *with = from.o + (r + i) * d;
            a = _mm512_set1_ps(factor_a[i]);
            b = _mm512_set1_ps(factor_b[i]);
            for (size_t j = 0; j < d; j += LANES) {
                __mmask16 lanes = (__mmask16)(d - j >= LANES ? 0xffffu : (1u << (d - j)) - 1);
                __m512 add = _mm512_mul_ps(_mm512_maskz_loadu_ps(lanes, with + j), b);
                __m512 o = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(lanes, to + j), a, add);
                _mm512_mask_storeu_ps(to + j, lanes, o);
            }
        }
    }
}

float fp__attn_mix_avx512(fp__attn_states anchor, fp__attn_states context, fp__injection_mode mode,
                          uint32_t g, size_t d, float *out)
{
    bool both = *anchor.m != -INFINITY && *context.m != -INFINITY;
    float alpha = *anchor.m == -INFINITY ? 0.0f : 1.0f, w = alpha;
    if (both) {
        float m = *anchor.m > *context.m ? *anchor.m : *context.m;
        float na = *anchor.l * fp__exp2c(*anchor.m - m), nc = *context.l * fp__exp2c(*context.m - m);
        float gamma = (float)g / 65536.0f;
        alpha = na / (na + nc);
        w = g > 0 && mode == FP__RESERVE ? gamma : alpha;
        if (g > 0 && mode == FP__FLOOR)
            w = alpha > gamma ? alpha : gamma;
    }
    fp__attn_states only = alpha > 0.0f ? anchor : context;
    __m512 l_only = _mm512_set1_ps(*only.l), l_a = _mm512_set1_ps(*anchor.l),
           l_c = _mm512_set1_ps(*context.l);
    for (size_t j = 0; j < d; j += LANES) {
        __mmask16 lanes = (__mmask16)(d - j >= LANES ? 0xffffu : (1u << (d - j)) - 1);
        __m512 y;
        if (both) {
            __m512 a = _mm512_div_ps(_mm512_maskz_loadu_ps(lanes, anchor.o + j), l_a);
            __m512 c = _mm512_div_ps(_mm512_maskz_loadu_ps(lanes, context.o + j), l_c);
            y = _mm512_fmadd_ps(_mm512_set1_ps(w), a, _mm512_mul_ps(_mm512_set1_ps(1.0f - w), c));
        } else {
            y = _mm512_div_ps(_mm512_maskz_loadu_ps(lanes, only.o + j), l_only);
        }
        _mm512_mask_storeu_ps(out + j, lanes, y);
    }
    return alpha;
}
