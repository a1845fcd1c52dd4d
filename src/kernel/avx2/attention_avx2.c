/* Attention with AVX2. As in attention_avx512.c both products of a page have tokens or channels in the lanes;
 * here the multiplication is vpmaddwd on 16-bit integers: (q, q') · (k, k'), exact in int32. K and V are
 * transposed in units of 4 bytes and widened once per page for all rows: of 4 bytes a, b, c, d the pairs
 * (a, c) and (b, d) are made, which takes shifts only; queries and weights are paired the same way.
 * Weights are 0..65535, one bit too many: w - 32768 is multiplied, and 32768·Σv put back per channel.
 *
 * Order of tokens in score vectors: lane 4·L + i of vector 2·h + s holds token 16·h + 8·L + 4·s + i, so that
 * packing two vectors gives natural order. */
#include "kernel/avx2/attention_avx2.h"

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 8")

enum {
    LANES = 8,
    ROWS = 2,       /* rows times VECTORS/2 accumulators fill half of the registers */
    TILE_ROWS = 48, /* rows that share one transposition of a page */
    VECTORS = FP__PAGE_TOKENS / LANES,
    QUADS = FP__PAGE_TOKENS / 4,
    DIM_MAX = FP__HEAD_DIM_MAX,
    LINE = 64
};

/* §1, each lane; 0 for NaN. */
INLINE __m256 exp2c(__m256 x)
{
    const __m256 magic = _mm256_set1_ps(12582912.0f);
    __m256 in = _mm256_cmp_ps(x, _mm256_set1_ps(-126.0f), _CMP_GE_OQ);
    __m256 t = _mm256_add_ps(x, magic), f = _mm256_sub_ps(x, _mm256_sub_ps(t, magic));
    __m256 p = _mm256_fmadd_ps(_mm256_set1_ps(0x1.3fa206p-13f), f, _mm256_set1_ps(0x1.5f0b82p-10f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(0x1.3b30ap-7f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(0x1.c6af76p-5f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(0x1.ebfbd8p-3f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(0x1.62e43p-1f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(1.0f));
    __m256i n = _mm256_slli_epi32(_mm256_castps_si256(t), 23); /* the low 9 bits of t are n mod 512 */
    return _mm256_and_ps(_mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), n)), in);
}

/* The first `lanes` lanes (8 or more: all). */
INLINE __m256i first_lanes(size_t lanes)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)(lanes < LANES ? lanes : LANES)),
                              _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

INLINE float reduce_max(__m256 x)
{
    __m128 y = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    y = _mm_max_ps(y, _mm_movehl_ps(y, y));
    return _mm_cvtss_f32(_mm_max_ss(y, _mm_movehdup_ps(y)));
}

INLINE uint32_t reduce_max_u32(__m256i x)
{
    __m128i y = _mm_max_epu32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    y = _mm_max_epu32(y, _mm_shuffle_epi32(y, 0x4e));
    return (uint32_t)_mm_cvtsi128_si32(_mm_max_epu32(y, _mm_shuffle_epi32(y, 0xb1)));
}

INLINE int32_t reduce_add(__m256i x)
{
    __m128i y = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    y = _mm_add_epi32(y, _mm_shuffle_epi32(y, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(y, _mm_shuffle_epi32(y, 0xb1)));
}

/* ---- rotation, queries, K/V --------------------------------------------------------------------------- */

/* The sign bit in the lanes of channels 8g..8g+7 where σ is -1: parity of popcount(j & (j >> 1)). */
INLINE __m256 sigma_signs(size_t g)
{
    size_t pair = g / 2;
    unsigned mask =
        0xb848u; /* of 16 channels by themselves; then the pair across vectors; then those in `pair` */
    mask ^= pair & 1 ? 0xff00u : 0;
    mask ^= __builtin_parityll(pair & (pair >> 1)) ? 0xffffu : 0;
    __m256i bits = _mm256_set1_epi32((int)(g & 1 ? mask >> 8 : mask & 255));
    bits = _mm256_sllv_epi32(bits, _mm256_setr_epi32(31, 30, 29, 28, 27, 26, 25, 24));
    return _mm256_and_ps(_mm256_castsi256_ps(bits), _mm256_set1_ps(-0.0f));
}

/* Stage s of the transform inside a vector: a + b at lanes without s, a - b at lanes with it. */
#define STAGE(x, swapped, lanes) _mm256_blend_ps(_mm256_add_ps(x, swapped), _mm256_sub_ps(swapped, x), lanes)

INLINE __m256 transform_vector(__m256 x, size_t h)
{
    x = h > 1 ? STAGE(x, _mm256_permute_ps(x, 0xb1), 0xaa) : x;
    x = h > 2 ? STAGE(x, _mm256_permute_ps(x, 0x4e), 0xcc) : x;
    return h > 4 ? STAGE(x, _mm256_permute2f128_ps(x, x, 1), 0xf0) : x;
}

/* σ and the transform of x[d] → y[vectors][8]; lanes past d are zero. */
INLINE void rotate(const float *x, size_t d, __m256 *y)
{
    FP_CHECK(d <= DIM_MAX);
    size_t h = d & (~d + 1), vectors = (d + LANES - 1) / LANES;
    for (size_t g = 0; g < vectors; g++) {
        __m256i lanes = first_lanes(d - g * LANES);
        __m256 signs = _mm256_and_ps(sigma_signs(g), _mm256_castsi256_ps(lanes));
        y[g] = transform_vector(_mm256_xor_ps(_mm256_maskload_ps(x + g * LANES, lanes), signs), h);
    }
    for (size_t s = 1; s * LANES < h; s *= 2)
        for (size_t g = 0; g < vectors; g++)
            if (!(g & s)) {
                __m256 a = y[g], b = y[g + s];
                y[g] = _mm256_add_ps(a, b);
                y[g + s] = _mm256_sub_ps(a, b);
            }
}

INLINE uint32_t amax_bits(const __m256 *x, size_t vectors)
{
    __m256i amax = _mm256_setzero_si256(), magnitude = _mm256_set1_epi32(0x7fffffff);
    for (size_t g = 0; g < vectors; g++)
        amax = _mm256_max_epu32(amax, _mm256_and_si256(_mm256_castps_si256(x[g]), magnitude));
    return reduce_max_u32(amax);
}

INLINE __m128i narrow_16(__m256i x)
{
    return _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
}

INLINE bool query_head(const float *q, size_t d, float c, int16_t *q16, size_t stride, float *s_q)
{
    __m256 x[DIM_MAX / LANES];
    size_t vectors = (d + LANES - 1) / LANES;
    rotate(q, d, x);
    for (size_t g = 0; g < vectors; g++)
        x[g] = _mm256_mul_ps(x[g], _mm256_set1_ps(c));
    uint32_t amax = amax_bits(x, vectors);
    bool zero = amax >= FP__AMAX_LIMIT || amax < FP__AMAX_FLOOR;
    *s_q = zero ? 0.0f : fp__bits_float(amax) / 32512.0f;
    __m256 inverse = _mm256_set1_ps(zero ? 0.0f : 1.0f / *s_q);
    for (size_t g = 0; g < stride / LANES; g++) {
        __m256i i = _mm256_setzero_si256();
        if (!zero && g < vectors)
            i = _mm256_cvtps_epi32(_mm256_mul_ps(x[g], inverse));
        _mm_storeu_si128((__m128i *)(void *)(q16 + g * LANES), narrow_16(i));
    }
    return amax < FP__AMAX_LIMIT;
}

void fp__query_avx2(const float *q, size_t heads, size_t d, int16_t *q16, size_t stride, float *s_q,
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

/* x → int8 in lanes of 8, scale rounded up to bfloat16 (§6); false if out of range. */
INLINE bool quantise_kv(const __m256 *x, size_t vectors, int8_t *out, uint8_t scale[2])
{
    uint32_t amax = amax_bits(x, vectors), bits = 0;
    if (amax < FP__AMAX_LIMIT && amax >= FP__AMAX_FLOOR)
        bits = (fp__float_bits(fp__bits_float(amax) / 127.0f) + 0xffffu) & 0xffff0000u;
    __m256 inverse = _mm256_set1_ps(bits ? 1.0f / fp__bits_float(bits) : 0.0f);
    for (size_t g = 0; g < vectors; g++) {
        __m256i i = _mm256_setzero_si256();
        if (bits)
            i = _mm256_cvtps_epi32(_mm256_mul_ps(x[g], inverse));
        __m128i words = _mm_max_epi16(_mm_min_epi16(narrow_16(i), _mm_set1_epi16(127)), _mm_set1_epi16(-127));
        _mm_storel_epi64((__m128i *)(void *)(out + g * LANES), _mm_packs_epi16(words, words));
    }
    scale[0] = (uint8_t)(bits >> 16);
    scale[1] = (uint8_t)(bits >> 24);
    return amax < FP__AMAX_LIMIT;
}

INLINE bool kv_write(const float *k, const float *v, size_t d, uint8_t *slab, size_t slot)
{
    __m256 x[DIM_MAX / LANES];
    int8_t bytes[DIM_MAX];
    size_t vectors = (d + LANES - 1) / LANES;
    uint8_t *s_k = slab + 128 * d + 2 * slot, *to = slab + 64 * d + slot;
    rotate(k, d, x);
    bool ok = quantise_kv(x, vectors, bytes, s_k);
    memcpy(slab + slot * d, bytes, d);
    for (size_t g = 0; g < vectors; g++)
        x[g] = _mm256_maskload_ps(v + g * LANES, first_lanes(d - g * LANES));
    ok &= quantise_kv(x, vectors, bytes, s_k + 128);
    for (size_t j = 0; j < d; j++) /* all d were stored, in whole vectors */
        /* NOLINTNEXTLINE(clang-analyzer-core.uninitialized.Assign) */
        to[j * FP__PAGE_TOKENS] = (uint8_t)bytes[j];
    return ok;
}

void fp__kv_write_avx2(const float *k, const float *v, size_t d, uint8_t *slab, size_t slot, uint8_t *bad)
{
    bool ok = d == 64 ? kv_write(k, v, 64, slab, slot) : kv_write(k, v, d, slab, slot);
    if (!ok)
        *bad = 1;
}

/* ---- one page ------------------------------------------------------------------------------------------ */

/* A page made ready for all rows: pairs of 16-bit integers, even pair (a, c) then odd pair (b, d) of 4. */
struct page {
    _Alignas(LINE) uint32_t k[DIM_MAX / 2 * FP__PAGE_TOKENS]; // [d/4][2][64 lanes]
    _Alignas(LINE) uint32_t v[2 * QUADS * DIM_MAX];           // [16][2][channels]
    _Alignas(LINE) int32_t v_sum[DIM_MAX];                    // [channels] 32768·Σv
    __m256 s_k[VECTORS], s_v[VECTORS];                        // scales in score order
    size_t d, quads, channels;                                // quads of K; channels = d rounded up to 16
};

/* s_v·2^-E and E for the leading `visible` tokens. */
struct values {
    __m256 s[VECTORS];
    int e;
    size_t visible;
};

/* Queries of a tile, paired as K is: per row [d/4][2] pairs. */
struct rows {
    _Alignas(LINE) uint32_t pairs[TILE_ROWS * DIM_MAX / 2];
    size_t stride; /* pairs of a row */
};

/* ROWS rows between the phases of a page. */
struct block {
    __m256i dot[ROWS][VECTORS];                           // in score order
    _Alignas(LINE) uint32_t w[ROWS][FP__PAGE_TOKENS / 2]; // [16][2] pairs of w - 32768
    float a[ROWS], b[ROWS];                               // factors of the merge, b times 2^E
};

/* 16 bytes of each of 8 rows in units of 4 bytes: z[j] gets unit j of all; lane 4·L + i is the row at
 * from + L·group + i·pitch. */
INLINE void transpose_8(const uint8_t *from, size_t pitch, size_t group, __m256i z[4])
{
    __m256i x[4];
    UNROLL
    for (size_t i = 0; i < 4; i++) {
        const uint8_t *at = from + i * pitch;
        x[i] = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)(const void *)at));
        x[i] = _mm256_inserti128_si256(x[i], _mm_loadu_si128((const __m128i *)(const void *)(at + group)), 1);
    }
    __m256i ab = _mm256_unpacklo_epi32(x[0], x[1]), cd = _mm256_unpacklo_epi32(x[2], x[3]);
    __m256i ef = _mm256_unpackhi_epi32(x[0], x[1]), gh = _mm256_unpackhi_epi32(x[2], x[3]);
    z[0] = _mm256_unpacklo_epi64(ab, cd);
    z[1] = _mm256_unpackhi_epi64(ab, cd);
    z[2] = _mm256_unpacklo_epi64(ef, gh);
    z[3] = _mm256_unpackhi_epi64(ef, gh);
}

/* Widens the four units to pairs: unit j at out + j·2·step, its odd pairs `step` further. */
INLINE void store_pairs(const __m256i z[4], uint32_t *out, size_t step)
{
    UNROLL
    for (size_t j = 0; j < 4; j++) {
        __m256i even = _mm256_srai_epi16(_mm256_slli_epi16(z[j], 8), 8), odd = _mm256_srai_epi16(z[j], 8);
        _mm256_store_si256((__m256i *)(void *)(out + 2 * j * step), even);
        _mm256_store_si256((__m256i *)(void *)(out + (2 * j + 1) * step), odd);
    }
}

/* First token of vector g. */
INLINE size_t vector_token(size_t g)
{
    return g / 2 * 16 + g % 2 * 4;
}

/* 64 bfloat16 in score order. */
INLINE void load_scales(const uint8_t *scales, __m256 out[VECTORS])
{
    UNROLL
    for (size_t g = 0; g < VECTORS; g++) {
        const uint8_t *at = scales + 2 * vector_token(g);
        __m128i low = _mm_loadl_epi64((const __m128i *)(const void *)at);
        __m128i high = _mm_loadl_epi64((const __m128i *)(const void *)(at + 16));
        __m256i wide = _mm256_cvtepu16_epi32(_mm_unpacklo_epi64(low, high));
        out[g] = _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
    }
}

/* Lanes of vector g whose token is among the leading `visible`. */
INLINE __m256i visible_lanes(size_t g, size_t visible)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)visible - (int)vector_token(g)),
                              _mm256_setr_epi32(0, 1, 2, 3, 8, 9, 10, 11));
}

/* 8 channels of V (rows of 64 bytes at v) → pairs and sums. */
INLINE void load_channels(const uint8_t *v, struct page *p, size_t channel)
{
    __m256i sum = _mm256_setzero_si256(), z[4];
    for (size_t c = 0; c < 4; c++) {
        transpose_8(v + 16 * c, FP__PAGE_TOKENS, 4 * FP__PAGE_TOKENS, z);
        store_pairs(z, p->v + c * 8 * p->channels + channel, p->channels);
        UNROLL
        for (size_t j = 0; j < 4; j++) { /* exact: pairs of int8 in int16 */
            __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), z[j]);
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
        }
    }
    _mm256_store_si256((__m256i *)(void *)(p->v_sum + channel), _mm256_slli_epi32(sum, 15));
}

/* The bytes of a column of K past d belong to the next token or to V: their query is 0. */
INLINE void load_page(const uint8_t *slab, size_t d, struct page *p)
{
    const uint8_t *v = slab + 64 * d;
    size_t whole = d / LANES * LANES;
    __m256i z[4];
    p->d = d;
    p->quads = (d + 15) / 16 * 4;
    p->channels = (d + 15) / 16 * 16;
    for (size_t c = 0; c < p->quads; c += 4)
        for (size_t g = 0; g < VECTORS; g++) {
            transpose_8(slab + vector_token(g) * d + 4 * c, d, 8 * d, z);
            store_pairs(z, p->k + 2 * c * FP__PAGE_TOKENS + g * LANES, FP__PAGE_TOKENS);
        }
    for (size_t j = 0; j < whole; j += LANES)
        load_channels(v + j * FP__PAGE_TOKENS, p, j);
    if (whole < p->channels) { /* filled up so that nothing is read past the slab */
        uint8_t tail[2 * LANES * FP__PAGE_TOKENS] = {0};
        memcpy(tail, v + whole * FP__PAGE_TOKENS, (d - whole) * FP__PAGE_TOKENS);
        for (size_t j = whole; j < p->channels; j += LANES)
            load_channels(tail + (j - whole) * FP__PAGE_TOKENS, p, j);
    }
    load_scales(slab + 128 * d, p->s_k);
    load_scales(slab + 128 * d + 128, p->s_v);
}

INLINE void load_values(const struct page *p, size_t visible, struct values *v)
{
    __m256 s[VECTORS];
    __m256i max = _mm256_setzero_si256();
    UNROLL
    for (size_t g = 0; g < VECTORS; g++) {
        s[g] = _mm256_and_ps(_mm256_castsi256_ps(visible_lanes(g, visible)), p->s_v[g]);
        max = _mm256_max_epu32(max, _mm256_castps_si256(s[g]));
    }
    uint32_t largest = reduce_max_u32(max);
    v->visible = visible;
    v->e = largest ? (int)(largest >> 23) - 126 : 0;
    UNROLL
    for (size_t g = 0; g < VECTORS; g++)
        v->s[g] = _mm256_mul_ps(s[g], _mm256_set1_ps(fp__pow2(-v->e)));
}

/* ---- phases of a page, for n rows (a constant) ------------------------------------------------------------
 */

/* Sums of pairs × vectors [g, g + 4) of n rows, `units` units long; step: lanes from pair to pair. */
INLINE void multiply(const uint32_t *pairs, size_t stride, const uint32_t *lanes, size_t step, size_t units,
                     __m256i sum[ROWS][4], const size_t n, const size_t vectors)
{
    for (size_t c = 0; c < units; c++) {
        __m256i x[ROWS];
        UNROLL
        for (size_t r = 0; r < n; r++)
            x[r] = _mm256_set1_epi32((int)pairs[r * stride + c]);
        UNROLL
        for (size_t g = 0; g < vectors; g++) {
            __m256i y = _mm256_load_si256((const __m256i *)(const void *)(lanes + c * step + g * LANES));
            UNROLL
            for (size_t r = 0; r < n; r++)
                sum[r][g] = _mm256_add_epi32(sum[r][g], _mm256_madd_epi16(x[r], y));
        }
    }
}

INLINE void dot_rows(const struct page *p, const struct rows *q, size_t row, struct block *b, const size_t n)
{
    UNROLL
    for (size_t g = 0; g < VECTORS; g += 4) {
        __m256i sum[ROWS][4];
        UNROLL
        for (size_t i = 0; i < n * 4; i++)
            sum[i / 4][i % 4] = _mm256_setzero_si256();
        multiply(q->pairs + row * q->stride, q->stride, p->k + g * LANES, FP__PAGE_TOKENS, 2 * p->quads, sum,
                 n, 4);
        UNROLL
        for (size_t i = 0; i < n * 4; i++)
            b->dot[i / 4][g + i % 4] = sum[i / 4][i % 4];
    }
}

/* Dots of row r of the block → its pairs of weights; merges m and l of the row. */
INLINE void weigh_row(const struct page *p, const struct values *v, float s_q, struct block *b, size_t r,
                      float *m, float *l)
{
    const __m256 scale = _mm256_set1_ps(65535.0f), s = _mm256_set1_ps(s_q), none = _mm256_set1_ps(-INFINITY);
    __m256 x[VECTORS], max = none;
    UNROLL
    for (size_t g = 0; g < VECTORS; g++) {
        x[g] = _mm256_mul_ps(_mm256_cvtepi32_ps(b->dot[r][g]), _mm256_mul_ps(s, p->s_k[g]));
        if (v->visible < FP__PAGE_TOKENS)
            x[g] = _mm256_blendv_ps(none, x[g], _mm256_castsi256_ps(visible_lanes(g, v->visible)));
        max = _mm256_max_ps(max, x[g]);
    }
    float page_m = reduce_max(max) + 0.0f;
    __m256i sum = _mm256_setzero_si256();
    /* words t0 t1 t2 t3 → t0 t2 t1 t3 */
    const __m256i pair = _mm256_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15, 0, 1, 4, 5, 2,
                                          3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15);
    UNROLL
    for (size_t g = 0; g < VECTORS; g += 2) {
        __m256i w[2];
        UNROLL
        for (size_t i = 0; i < 2; i++) {
            __m256 e = exp2c(_mm256_sub_ps(x[g + i], _mm256_set1_ps(page_m)));
            sum = _mm256_add_epi32(sum, _mm256_cvtps_epi32(_mm256_mul_ps(e, scale)));
            w[i] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_mul_ps(e, v->s[g + i]), scale));
        }
        __m256i words = _mm256_shuffle_epi8(_mm256_packus_epi32(w[0], w[1]), pair);
        words = _mm256_xor_si256(words, _mm256_set1_epi16((short)0x8000));
        _mm256_store_si256((__m256i *)(void *)(b->w[r] + g * 4), words);
    }
    if (v->visible == 0)
        return; /* not merged */
    float most = *m > page_m ? *m : page_m;
    b->a[r] = fp__exp2c(*m - most);
    float f = fp__exp2c(page_m - most);
    b->b[r] = f * fp__pow2(v->e);
    *l = __builtin_fmaf(*l, b->a[r], (float)reduce_add(sum) * f);
    *m = most;
}

/* o of n rows for channels [first, first + 8·vectors), merged into the state. */
INLINE void value_rows(const struct page *p, const struct block *b, const uint8_t *visible, size_t first,
                       float *o, const size_t n, const size_t vectors)
{
    __m256i sum[ROWS][4];
    UNROLL
    for (size_t i = 0; i < n * vectors; i++)
        sum[i / vectors][i % vectors] =
            _mm256_load_si256((const __m256i *)(const void *)(p->v_sum + first + i % vectors * LANES));
    multiply(b->w[0], FP__PAGE_TOKENS / 2, p->v + first, p->channels, 2 * QUADS, sum, n, vectors);
    UNROLL
    for (size_t r = 0; r < n; r++) {
        if (visible[r] == 0)
            continue;
        __m256 a = _mm256_set1_ps(b->a[r]), f = _mm256_set1_ps(b->b[r]);
        UNROLL
        for (size_t g = 0; g < vectors; g++) {
            size_t j = first + g * LANES;
            float *to = o + r * p->d + j;
            __m256 add = _mm256_mul_ps(_mm256_cvtepi32_ps(sum[r][g]), f);
            if (j + LANES <= p->d) {
                _mm256_storeu_ps(to, _mm256_fmadd_ps(_mm256_loadu_ps(to), a, add));
            } else if (j < p->d) {
                __m256i lanes = first_lanes(p->d - j);
                _mm256_maskstore_ps(to, lanes, _mm256_fmadd_ps(_mm256_maskload_ps(to, lanes), a, add));
            }
        }
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
    size_t j = 0;
    for (; j + 4 * LANES <= p->channels; j += 4 * LANES)
        value_rows(p, &b, visible, j, out.o, n, 4);
    if (j < p->channels)
        value_rows(p, &b, visible, j, out.o, n, 2);
}

/* ---- span, merge, mix ---------------------------------------------------------------------------------- */

/* Pairs of rows [first, first + n) of the queries: words a b c d → a c b d. */
INLINE void pair_queries(const fp__attn_rows *q, size_t first, size_t n, struct rows *out)
{
    out->stride = (q->d + 15) / 16 * 8;
    const __m128i pair = _mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15);
    for (size_t r = 0; r < n; r++)
        for (size_t j = 0; j < 2 * out->stride; j += 8) {
            const int16_t *from = q->q16 + (first + r) * q->stride + j;
            __m128i words = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(const void *)from), pair);
            _mm_store_si128((__m128i *)(void *)(out->pairs + r * out->stride + j / 2), words);
        }
}

void fp__attn_span_avx2(const fp__attn_rows *q, const uint8_t *const *slabs, const uint8_t *visible,
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
        pair_queries(q, tile, n, &rows);
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

void fp__attn_merge_avx2(size_t rows, size_t d, fp__attn_states into, fp__attn_states from)
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
        __m256 factor_a = _mm256_set1_ps(a), factor_b = _mm256_set1_ps(b);
        for (size_t j = 0; j < d; j += LANES) {
            __m256i lanes = first_lanes(d - j);
            __m256 add = _mm256_mul_ps(_mm256_maskload_ps(with + j, lanes), factor_b);
            _mm256_maskstore_ps(to + j, lanes,
                                _mm256_fmadd_ps(_mm256_maskload_ps(to + j, lanes), factor_a, add));
        }
    }
}

float fp__attn_mix_avx2(fp__attn_states anchor, fp__attn_states context, fp__injection_mode mode, uint32_t g,
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
        __m256i lanes = first_lanes(d - j);
        __m256 y = _mm256_div_ps(_mm256_maskload_ps(only.o + j, lanes), _mm256_set1_ps(*only.l));
        if (both) { /* `only` is the anchor then */
            __m256 c = _mm256_div_ps(_mm256_maskload_ps(context.o + j, lanes), _mm256_set1_ps(*context.l));
            y = _mm256_fmadd_ps(_mm256_set1_ps(w), y, _mm256_mul_ps(_mm256_set1_ps(1.0f - w), c));
        }
        _mm256_maskstore_ps(out + j, lanes, y);
    }
    return alpha;
}
