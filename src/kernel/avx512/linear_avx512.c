/* Linear layers with AVX-512 VNNI (arithmetic §3, §4).
 *
 * A panel is `groups` × 16 rows times `tokens` tokens. The 16 lanes of a register are the 16 rows of a group:
 * a plane of 64 weight bytes (unsigned) against 4 activation bytes (signed) broadcast from memory is one
 * vpdpbusd. Integer accumulators start from -bias·sum(q), so that they end as the exact dot product of the
 * block; the float steps are then those of the definition, in its order, per lane. Two groups per panel share
 * each broadcast: the loop is bound by the two ports that multiply, not by loads. */
#include "kernel/linear.h"
#include "kernel/shape.h"

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

/* One group at some block. */
typedef struct planes {
    const uint8_t *low, *high, *scale;
} planes;

/* The bytes of run 0..7 of a block, unsigned. */
INLINE __m512i unpack_run(fp__shape s, planes p, size_t run)
{
    if (s.low_bytes == 512)
        return _mm512_load_si512(p.low + run * 64);
    __m512i plane = _mm512_load_si512(p.low + run % 4 * 64);
    __m512i q = _mm512_and_si512(run < 4 ? plane : _mm512_srli_epi32(plane, 4), _mm512_set1_epi8(15));
    if (s.high_bytes == 64) { /* bit `run` to bit 4 */
        __m512i h = _mm512_load_si512(p.high);
        h = run < 4 ? _mm512_slli_epi32(h, (unsigned)(4 - run) & 31)
                    : _mm512_srli_epi32(h, (unsigned)(run - 4) & 31);
        q = _mm512_ternarylogic_epi32(q, h, _mm512_set1_epi8(0x10), 0xf8); /* q | (h & 0x10) */
    } else if (s.high_bytes == 128) {                                      /* bits 2f, 2f+1 to bits 4, 5 */
        __m512i h = _mm512_load_si512(p.high + run / 4 * 64);
        size_t f = run % 4;
        h = f < 2 ? _mm512_slli_epi32(h, (unsigned)(4 - 2 * f) & 31)
                  : _mm512_srli_epi32(h, (unsigned)(2 * f - 4) & 31);
        q = _mm512_ternarylogic_epi32(q, h, _mm512_set1_epi8(0x30), 0xf8);
    }
    return q;
}

INLINE __m512 load_f16(const uint8_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
INLINE __m512i load_u8(const uint8_t *p)
{
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
}

/* Scale dw (of the half, where halves have their own) and minimum of block i of the segment, 16 rows. */
INLINE void load_scales(int type, const uint8_t *scale, size_t i, size_t half, __m512 *dw, __m512 *mw)
{
    *mw = _mm512_setzero_ps();
    if (type == FP__Q6_K) {
        __m128i sc = _mm_loadu_si128((const __m128i *)(const void *)(scale + i * 32 + half * 16));
        *dw = _mm512_mul_ps(load_f16(scale + 256), _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(sc)));
    } else if (type == FP__Q4_K || type == FP__Q5_K) {
        __m512i a = load_u8(scale + i * 16), b = load_u8(scale + 128 + i / 2 * 16);
        __m512i high = _mm512_srl_epi32(b, _mm_cvtsi32_si128((int)(i % 2 * 4)));
        __m512i m = _mm512_or_si512(_mm512_srli_epi32(a, 6),
                                    _mm512_slli_epi32(_mm512_and_si512(high, _mm512_set1_epi32(15)), 2));
        __m512 sc = _mm512_cvtepi32_ps(_mm512_and_si512(a, _mm512_set1_epi32(63)));
        *dw = _mm512_mul_ps(load_f16(scale + 192), sc);
        __m512 product = _mm512_mul_ps(load_f16(scale + 224), _mm512_cvtepi32_ps(m));
        *mw = _mm512_xor_ps(product, _mm512_set1_ps(-0.0f));
    } else if (type == FP__Q4_1 || type == FP__Q5_1) {
        *dw = load_f16(scale + i * 64);
        *mw = load_f16(scale + i * 64 + 32);
    } else if (type == FP__Q4_0 || type == FP__Q5_0 || type == FP__Q8_0) {
        *dw = load_f16(scale + i * 32);
    } else {
        *dw = _mm512_loadu_ps(scale + i * 64);
    }
}

/* What an accumulator starts from: -bias · sum(q) of the token's block (or half block). */
INLINE __m512i start_from(fp__shape s, const fp__act_block *x, size_t slot, size_t half)
{
    if (s.halves)
        return _mm512_set1_epi32(x->minus32[half][slot]);
    if (s.bias == 128)
        return _mm512_set1_epi32(x->minus128[slot]);
    if (s.bias == 16)
        return _mm512_slli_epi32(_mm512_set1_epi32(x->minus8[slot]), 1);
    if (s.bias == 8)
        return _mm512_set1_epi32(x->minus8[slot]);
    return _mm512_setzero_si512();
}

INLINE __m512i broadcast_run(const fp__act_block *x, size_t slot, size_t run)
{
    int32_t four;
    memcpy(&four, &x->q[slot][4 * run], 4);
    return _mm512_set1_epi32(four);
}

enum { PANEL = 8 }; /* groups × tokens of a panel, at most */

/* t += run of the weights · run of the activations, for every group and token of the panel. */
INLINE void panel_run(fp__shape s, size_t groups, size_t tokens, const planes *p, size_t run,
                      const fp__act_block *x, size_t slot, __m512i *t)
{
    __m512i w[4];
    for (size_t g = 0; g < groups; g++)
        w[g] = unpack_run(s, p[g], run);
    for (size_t n = 0; n < tokens; n++) {
        __m512i q = broadcast_run(x, slot + n, run);
        for (size_t g = 0; g < groups; g++)
            t[g * tokens + n] = _mm512_dpbusd_epi32(t[g * tokens + n], w[g], q);
    }
}

/* seg[g·tokens + n] of one block; i is its place in the segment. */
INLINE void panel_block(int type, size_t groups, size_t tokens, const planes *p, size_t i,
                        const fp__act_block *x, size_t slot, __m512 *seg)
{
    fp__shape s = fp__shape_of(type);
    for (size_t half = 0; half < (s.halves ? 2 : 1); half++) {
        __m512i t[PANEL];
        __m512 dw[4], mw[4];
        for (size_t g = 0; g < groups; g++)
            for (size_t n = 0; n < tokens; n++)
                t[g * tokens + n] = start_from(s, x, slot + n, half);
        size_t first = s.halves ? half * 4 : 0, second = s.halves ? first + 2 : 4;
        for (size_t k = 0; k < (s.halves ? 2 : 4); k++) {
            panel_run(s, groups, tokens, p, first + k, x, slot, t);
            panel_run(s, groups, tokens, p, second + k, x, slot, t);
        }
        if (s.halves)
            __asm__ volatile(
                "" ::
                    : "memory"); /* the second half loads the planes again rather than spills them */
        for (size_t g = 0; g < groups; g++)
            load_scales(type, p[g].scale, i, half, &dw[g], &mw[g]);
        for (size_t n = 0; n < tokens; n++)
            for (size_t g = 0; g < groups; g++) {
                __m512 d = _mm512_mul_ps(dw[g], _mm512_set1_ps(x->d[slot + n])), *to = &seg[g * tokens + n];
                *to = _mm512_fmadd_ps(_mm512_cvtepi32_ps(t[g * tokens + n]), d, *to);
                if (s.minimum)
                    *to = _mm512_fmadd_ps(mw[g], _mm512_set1_ps(x->ds[slot + n]), *to);
            }
    }
}

typedef struct job {
    const fp__weight *w;
    const fp__act *act;
    const float *bias;
    float *y;
    size_t y_stride;
    bool accumulate;
} job;

INLINE void store_rows(const job *j, size_t group, size_t token, __m512 value)
{
    size_t row = group * FP__GROUP_ROWS, rows = j->w->rows - row;
    __mmask16 mask = (__mmask16)(rows >= FP__GROUP_ROWS ? 0xffffu : (1u << rows) - 1);
    float *y = j->y + token * j->y_stride + row;
    if (j->bias)
        value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, j->bias + row));
    if (j->accumulate)
        value = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, y), value);
    _mm512_mask_storeu_ps(y, mask, value);
}

/* The block's lines of the panel after this one: memory is read one panel ahead. */
INLINE void prefetch_planes(fp__shape s, size_t groups, const planes *p, size_t ahead)
{
    for (size_t g = 0; g < groups; g++)
        for (size_t line = 0; line < s.low_bytes + s.high_bytes + s.scale_bytes; line += 64)
            _mm_prefetch((const void *)((uintptr_t)p[g].low + ahead + line), _MM_HINT_T0);
}

/* groups × 16 rows from `group`, tokens from `token` (all in one tile of 8). */
INLINE void panel(int type, size_t groups, size_t tokens, bool prefetch, const job *j, size_t group,
                  size_t token)
{
    fp__shape s = fp__shape_of(type);
    const fp__weight *w = j->w;
    size_t blocks = w->cols / FP__BLOCK, slot = token % FP__ACT_TILE;
    const fp__act_block *x = fp__act_at(j->act, token, 0);
    planes p[4];
    for (size_t g = 0; g < groups; g++) {
        const uint8_t *data = w->data + (group + g) * w->group_bytes;
        p[g] = (planes){data, data + w->high_offset, data + w->scale_offset};
    }
    size_t segment_scale = FP__SEGMENT_BLOCKS * s.scale_bytes;
    __m512 y[PANEL];
    for (size_t i = 0; i < groups * tokens; i++)
        y[i] = _mm512_setzero_ps();
    for (size_t b = 0; b < blocks; b += FP__SEGMENT_BLOCKS) {
        size_t n = blocks - b < FP__SEGMENT_BLOCKS ? blocks - b : FP__SEGMENT_BLOCKS;
        __m512 seg[PANEL];
        for (size_t i = 0; i < groups * tokens; i++)
            seg[i] = _mm512_setzero_ps();
        for (size_t i = 0; i < n; i++, x++) {
            panel_block(type, groups, tokens, p, i, x, slot, seg);
            if (prefetch)
                prefetch_planes(s, groups, p, groups * w->group_bytes);
            for (size_t g = 0; g < groups; g++) {
                p[g].low += s.low_bytes;
                p[g].high += s.high_bytes;
            }
        }
        for (size_t g = 0; g < groups; g++)
            p[g].scale += segment_scale;
        for (size_t i = 0; i < groups * tokens; i++)
            y[i] = _mm512_add_ps(y[i], seg[i]);
    }
    for (size_t g = 0; g < groups; g++)
        for (size_t n = 0; n < tokens; n++)
            store_rows(j, group + g, token + n, y[g * tokens + n]);
}

typedef void panel_fn(const job *j, size_t group, size_t token);

/* The panels of one type, by log2 of groups. */
typedef struct panel_set {
    panel_fn *one[3], *two[3], *four[2]; /* tokens; 4 tokens leave registers for 2 groups */
    panel_fn *four_once[2];              /* as `four`, where the weights come from memory: with prefetch */
} panel_set;

/* All groups for tokens [token, stop) of one tile. Where the weights are read once, from memory, the first
 * pass over them prefetches what comes after; where they are read again for every tile they are in the cache.
 */
static void tile(const panel_set *set, const job *j, size_t begin, size_t end, size_t token, size_t stop)
{
    for (size_t group = begin; group < end;) {
        size_t kind = end - group >= 4 ? 2 : end - group >= 2 ? 1 : 0, groups = (size_t)1 << kind, t = token;
        panel_fn *const *four = j->act->tokens <= FP__ACT_TILE ? set->four_once : set->four;
        for (; t + 4 <= stop; t += 4, four = set->four)
            for (size_t g = 0; g < groups; g += 2)
                four[kind != 0](j, group + g, t);
        for (; t + 2 <= stop; t += 2)
            set->two[kind](j, group, t);
        if (t < stop)
            set->one[kind](j, group, t);
        group += groups;
    }
}

/* Weights of one chunk of groups stay in the second-level cache while all tokens pass over them. */
enum { CHUNK_BYTES = 256 * 1024 };

static void linear(const panel_set *set, const job *j, size_t group_begin, size_t group_end)
{
    size_t tokens = j->act->tokens, chunk = CHUNK_BYTES / j->w->group_bytes;
    chunk = tokens <= FP__ACT_TILE ? group_end - group_begin : chunk < 4 ? 4 : chunk / 4 * 4;
    for (size_t begin = group_begin; begin < group_end; begin += chunk) {
        size_t end = begin + chunk < group_end ? begin + chunk : group_end;
        for (size_t token = 0; token < tokens; token += FP__ACT_TILE)
            tile(set, j, begin, end, token, token + FP__ACT_TILE < tokens ? token + FP__ACT_TILE : tokens);
    }
}

/* One function per type and size of panel: everything about them is then a constant. */
#define PANEL_FN(T, name, groups, tokens, prefetch)                                                          \
    static void panel_##T##_##name(const job *j, size_t group, size_t token)                                 \
    {                                                                                                        \
        panel(FP__##T, groups, tokens, prefetch, j, group, token);                                           \
    }
#define PANELS(T)                                                                                            \
    PANEL_FN(T, 1x1, 1, 1, true)                                                                             \
    PANEL_FN(T, 2x1, 2, 1, true)                                                                             \
    PANEL_FN(T, 4x1, 4, 1, true)                                                                             \
    PANEL_FN(T, 1x2, 1, 2, true)                                                                             \
    PANEL_FN(T, 2x2, 2, 2, true)                                                                             \
    PANEL_FN(T, 4x2, 4, 2, true)                                                                             \
    PANEL_FN(T, 1x4, 1, 4, false)                                                                            \
    PANEL_FN(T, 2x4, 2, 4, false)                                                                            \
    PANEL_FN(T, 1x4_once, 1, 4, true)                                                                        \
    PANEL_FN(T, 2x4_once, 2, 4, true)                                                                        \
    static const panel_set panels_##T = {.one = {panel_##T##_1x1, panel_##T##_2x1, panel_##T##_4x1},         \
                                         .two = {panel_##T##_1x2, panel_##T##_2x2, panel_##T##_4x2},         \
                                         .four = {panel_##T##_1x4, panel_##T##_2x4},                         \
                                         .four_once = {panel_##T##_1x4_once, panel_##T##_2x4_once}};
FP__SHAPES(PANELS)

void fp__linear_avx512(const fp__weight *w, const fp__act *act, size_t group_begin, size_t group_end,
                       const float *bias, float *y, size_t y_stride, bool accumulate)
{
    job j = {w, act, bias, y, y_stride, accumulate};
    switch (fp__shape_type(w->type)) {
#define LINEAR_CASE(T)                                                                                       \
    case FP__##T:                                                                                            \
        linear(&panels_##T, &j, group_begin, group_end);                                                     \
        break;
        FP__SHAPES(LINEAR_CASE)
    default:
        FP_CHECK(false); /* fp__weight_plan refuses other types */
    }
}

/* ---- §3 --------------------------------------------------------------------------------------------------
 */

enum { BATCH = 16 }; /* blocks whose scales are computed together, one per lane */

/* Largest magnitude (as bits) of 32 floats. */
INLINE uint32_t amax_bits(const float *x)
{
    __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    __m512i a = _mm512_and_si512(_mm512_loadu_si512(x), magnitude),
            b = _mm512_and_si512(_mm512_loadu_si512(x + 16), magnitude);
    return (uint32_t)_mm512_reduce_max_epi32(_mm512_max_epi32(a, b));
}

/* Quants of 32 floats to q; returns {sums of 4 quants} of both halves, 4 lanes each. No clamp is needed:
 * where the block is in range, |x|·(1/d) is below 127.5. A block that is not (keep = 0) gives zeros. */
INLINE __m256i quantise_32(const float *x, float inverse, __mmask16 keep, int8_t *q)
{
    __m512 factor = _mm512_set1_ps(inverse);
    __m512i a = _mm512_maskz_cvtps_epi32(keep, _mm512_mul_ps(_mm512_loadu_ps(x), factor)),
            b = _mm512_maskz_cvtps_epi32(keep, _mm512_mul_ps(_mm512_loadu_ps(x + 16), factor));
    __m256i both = _mm256_set_m128i(_mm512_cvtsepi32_epi8(b), _mm512_cvtsepi32_epi8(a));
    _mm256_storeu_si256((__m256i *)(void *)q, both);
    return _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(1), both);
}

/* Blocks [0, n) of x into slot of to[n]; true if one of them is out of range. */
static bool quantise_batch(const float *x, fp__act_block *to, size_t slot, size_t n)
{
    _Alignas(64) uint32_t amax[BATCH] = {0};
    _Alignas(64) float d[BATCH], inverse[BATCH], ds[BATCH];
    _Alignas(64) int32_t half[2][BATCH];
    for (size_t b = 0; b < n; b++)
        amax[b] = amax_bits(x + b * FP__BLOCK);
    __m512i bits = _mm512_load_si512(amax);
    __mmask16 out_of_range = _mm512_cmpge_epu32_mask(bits, _mm512_set1_epi32((int)FP__AMAX_LIMIT));
    __mmask16 counts =
        _mm512_cmpge_epu32_mask(bits, _mm512_set1_epi32((int)FP__AMAX_FLOOR)) & (__mmask16)~out_of_range;
    __m512 scale = _mm512_maskz_div_ps(counts, _mm512_castsi512_ps(bits), _mm512_set1_ps(127.0f));
    _mm512_store_ps(d, scale);
    _mm512_store_ps(inverse, _mm512_maskz_div_ps(counts, _mm512_set1_ps(1.0f), scale));
    for (size_t b = 0; b < BATCH; b += 4) {
        __m256i sums[4];
        for (size_t i = 0; i < 4; i++) {
            bool ok = counts >> (b + i) & 1;
            sums[i] = b + i < n ? quantise_32(x + (b + i) * FP__BLOCK, inverse[b + i],
                                              ok ? (__mmask16)0xffff : 0, to[b + i].q[slot])
                                : _mm256_setzero_si256();
        }
        __m256i folded =
            _mm256_hadd_epi32(_mm256_hadd_epi32(sums[0], sums[1]), _mm256_hadd_epi32(sums[2], sums[3]));
        _mm_store_si128((__m128i *)(void *)&half[0][b], _mm256_castsi256_si128(folded));
        _mm_store_si128((__m128i *)(void *)&half[1][b], _mm256_extracti128_si256(folded, 1));
    }
    __m512i sum = _mm512_add_epi32(_mm512_load_si512(half[0]), _mm512_load_si512(half[1]));
    _mm512_store_ps(ds, _mm512_mul_ps(_mm512_cvtepi32_ps(sum), scale));
    for (size_t b = 0; b < n; b++) {
        to[b].d[slot] = d[b];
        to[b].ds[slot] = ds[b];
        to[b].minus8[slot] = -8 * (half[0][b] + half[1][b]);
        to[b].minus128[slot] = -128 * (half[0][b] + half[1][b]);
        to[b].minus32[0][slot] = -32 * half[0][b];
        to[b].minus32[1][slot] = -32 * half[1][b];
    }
    return out_of_range != 0;
}

void fp__act_quantise_avx512(const float *x, fp__act *act, size_t token, uint8_t *bad)
{
    for (size_t b = 0; b < act->blocks; b += BATCH) {
        size_t n = act->blocks - b < BATCH ? act->blocks - b : BATCH;
        if (quantise_batch(x + b * FP__BLOCK, fp__act_at(act, token, b), token % FP__ACT_TILE, n))
            *bad = 1;
    }
}
