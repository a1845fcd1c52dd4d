/* Linear layers with AVX2, without VNNI (arithmetic §3, §4).
 *
 * The 8 lanes of a register are 8 rows: a panel is `halves` half groups times `tokens` tokens. vpmaddubsw
 * multiplies unsigned by signed bytes and adds pairs into 16 bits, saturating; so no sum may reach 32,768:
 *   4-bit quants  8 runs: 8 · 2 · 15 · 127 = 30,480
 *   5-bit quants  4 runs: 4 · 2 · 31 · 127 = 31,496
 *   6-bit quants  2 runs: 2 · 2 · 63 · 127 = 32,004
 *   8-bit quants  1 run, of |q| ≤ 128 by ±x: 2 · 128 · 127 = 32,512
 * After so many runs ("a chain") vpmaddwd widens to 32 bits. Quants are unsigned (q + bias) except the 8-bit
 * ones; -bias·sum(x) is added, so the result is the exact dot product of the block. */
#include "kernel/linear.h"
#include "kernel/shape.h"

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))

enum { LANES = 8, PANEL = 4 }; /* rows of a register; half groups × tokens of a panel, at most */

/* One half group at some block. */
typedef struct planes {
    const uint8_t *low, *high, *scale;
} planes;

INLINE __m256i load256(const void *p)
{
    return _mm256_loadu_si256(p);
}

/* The bytes of run 0..7 of a block: unsigned, but signed for 8-bit quants. */
INLINE __m256i unpack_run(fp__shape s, planes p, size_t run)
{
    if (s.low_bytes == 512)
        return _mm256_xor_si256(load256(p.low + run * 64), _mm256_set1_epi8(-128));
    __m256i plane = load256(p.low + run % 4 * 64);
    __m256i q = _mm256_and_si256(run < 4 ? plane : _mm256_srli_epi32(plane, 4), _mm256_set1_epi8(15));
    if (s.high_bytes == 64) { /* bit `run` to bit 4 */
        __m256i h = load256(p.high);
        h = run < 4 ? _mm256_slli_epi32(h, (int)(4 - run)) : _mm256_srli_epi32(h, (int)(run - 4));
        q = _mm256_or_si256(q, _mm256_and_si256(h, _mm256_set1_epi8(0x10)));
    } else if (s.high_bytes == 128) { /* bits 2f, 2f+1 to bits 4, 5 */
        __m256i h = load256(p.high + run / 4 * 64);
        size_t f = run % 4;
        h = f < 2 ? _mm256_slli_epi32(h, (int)(4 - 2 * f)) : _mm256_srli_epi32(h, (int)(2 * f - 4));
        q = _mm256_or_si256(q, _mm256_and_si256(h, _mm256_set1_epi8(0x30)));
    }
    return q;
}

INLINE __m256 load_f16(const uint8_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}
INLINE __m128i load_8_bytes(const uint8_t *p)
{
    return _mm_loadl_epi64((const __m128i *)(const void *)p);
}

/* Scales dw[2] (by half block) and minimum of block i of the segment, 8 rows. `scale` is the group's; lane is
 * the first row of the 8, 0 or 8. */
INLINE void load_scales(int type, const uint8_t *scale, size_t lane, size_t i, __m256 dw[2], __m256 *mw)
{
    *mw = _mm256_setzero_ps();
    if (type == FP__Q6_K) {
        __m256 d = load_f16(scale + 256 + 2 * lane);
        for (size_t half = 0; half < 2; half++) {
            __m128i sc = load_8_bytes(scale + i * 32 + half * 16 + lane);
            dw[half] = _mm256_mul_ps(d, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(sc)));
        }
        return;
    }
    if (type == FP__Q4_K || type == FP__Q5_K) {
        __m256i a = _mm256_cvtepu8_epi32(load_8_bytes(scale + i * 16 + lane)),
                b = _mm256_cvtepu8_epi32(load_8_bytes(scale + 128 + i / 2 * 16 + lane));
        __m256i high = _mm256_srl_epi32(b, _mm_cvtsi32_si128((int)(i % 2 * 4)));
        __m256i m = _mm256_or_si256(_mm256_srli_epi32(a, 6),
                                    _mm256_slli_epi32(_mm256_and_si256(high, _mm256_set1_epi32(15)), 2));
        __m256 sc = _mm256_cvtepi32_ps(_mm256_and_si256(a, _mm256_set1_epi32(63)));
        dw[0] = _mm256_mul_ps(load_f16(scale + 192 + 2 * lane), sc);
        __m256 product = _mm256_mul_ps(load_f16(scale + 224 + 2 * lane), _mm256_cvtepi32_ps(m));
        *mw = _mm256_xor_ps(product, _mm256_set1_ps(-0.0f));
        return;
    }
    if (type == FP__Q4_1 || type == FP__Q5_1) {
        dw[0] = load_f16(scale + i * 64 + 2 * lane);
        *mw = load_f16(scale + i * 64 + 32 + 2 * lane);
    } else if (type == FP__Q4_0 || type == FP__Q5_0 || type == FP__Q8_0) {
        dw[0] = load_f16(scale + i * 32 + 2 * lane);
    } else {
        dw[0] = _mm256_loadu_ps((const float *)(const void *)(scale + i * 64 + 4 * lane));
    }
    dw[1] = dw[0];
}

INLINE __m256i broadcast_run(const fp__act_block *x, size_t slot, size_t run)
{
    int32_t four;
    memcpy(&four, &x->q[slot][4 * run], 4);
    return _mm256_set1_epi32(four);
}

/* sum[c·tokens + n] of 16-bit pairs += run of the weights · run of the activations. */
INLINE void panel_run(fp__shape s, size_t halves, size_t tokens, const planes *p, size_t run, bool first,
                      const fp__act_block *x, size_t slot, __m256i *sum)
{
    for (size_t c = 0; c < halves; c++) {
        __m256i w = unpack_run(s, p[c], run), magnitude = _mm256_abs_epi8(w);
        for (size_t n = 0; n < tokens; n++) {
            __m256i q = broadcast_run(x, slot + n, run);
            __m256i pairs = s.bias == 128 ? _mm256_maddubs_epi16(magnitude, _mm256_sign_epi8(q, w))
                                          : _mm256_maddubs_epi16(w, q);
            __m256i *to = &sum[c * tokens + n];
            *to = first ? pairs : _mm256_add_epi16(*to, pairs);
            __asm__("" : "+x"(*to)); /* a tree of sums, which the compiler would make, spills */
        }
    }
}

/* t[] of runs as many as a chain may have, from the `begin`-th of the block (or half block). */
INLINE void panel_chain(fp__shape s, size_t halves, size_t tokens, const planes *p, size_t half, size_t begin,
                        const fp__act_block *x, size_t slot, __m256i *t)
{
    size_t chain = s.bias == 128 ? 1 : s.high_bytes == 128 ? 2 : s.high_bytes == 64 ? 4 : 8;
    __m256i sum[PANEL];
    /* low and high nibbles of one plane in turn, but for halves, which are one or the other */
#define PANEL_RUN(k)                                                                                         \
    if (k < chain)                                                                                           \
    panel_run(s, halves, tokens, p, s.halves ? half * 4 + begin + k : (begin + k) % 2 * 4 + (begin + k) / 2, \
              k == 0, x, slot, sum)
    PANEL_RUN(0);
    PANEL_RUN(1);
    PANEL_RUN(2);
    PANEL_RUN(3);
    PANEL_RUN(4);
    PANEL_RUN(5);
    PANEL_RUN(6);
    PANEL_RUN(7);
#undef PANEL_RUN
    for (size_t i = 0; i < halves * tokens; i++) {
        __m256i wide = _mm256_madd_epi16(sum[i], _mm256_set1_epi16(1));
        t[i] = begin == 0 ? wide : _mm256_add_epi32(t[i], wide);
    }
}

/* -bias · sum of the token's block (or half block); 8-bit quants have been made signed. */
INLINE __m256i bias_of(fp__shape s, const fp__act_block *x, size_t slot, size_t half)
{
    return s.halves       ? _mm256_set1_epi32(x->minus32[half][slot])
           : s.bias == 16 ? _mm256_slli_epi32(_mm256_set1_epi32(x->minus8[slot]), 1)
                          : _mm256_set1_epi32(x->minus8[slot]);
}

/* seg[c·tokens + n] of one block; i is its place in the segment, first_half the panel's first half group. */
INLINE void panel_block(int type, size_t halves, size_t tokens, const planes *p, size_t first_half, size_t i,
                        const fp__act_block *x, size_t slot, __m256 *seg)
{
    fp__shape s = fp__shape_of(type);
    for (size_t half = 0; half < (s.halves ? 2 : 1); half++) {
        __m256i t[PANEL];
        size_t runs = s.halves ? 4 : 8, chain = s.bias == 128         ? 1
                                                : s.high_bytes == 128 ? 2
                                                : s.high_bytes == 64  ? 4
                                                                      : 8;
        for (size_t begin = 0; begin < runs; begin += chain)
            panel_chain(s, halves, tokens, p, half, begin, x, slot, t);
        for (size_t c = 0; c < halves; c++) {
            __m256 dw[2], mw;
            load_scales(type, p[c].scale, (first_half + c) % 2 * LANES, i, dw, &mw);
            for (size_t n = 0; n < tokens; n++) {
                /* cppcheck-suppress uninitvar ; the first chain sets t, and there is one: runs > 0 */
                __m256i dot = t[c * tokens + n];
                if (s.bias != 0 && s.bias != 128)
                    dot = _mm256_add_epi32(dot, bias_of(s, x, slot + n, half));
                __m256 d = _mm256_mul_ps(dw[half], _mm256_broadcast_ss(&x->d[slot + n])),
                       *to = &seg[c * tokens + n];
                *to = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), d, *to);
                if (s.minimum)
                    *to = _mm256_fmadd_ps(mw, _mm256_broadcast_ss(&x->ds[slot + n]), *to);
            }
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

INLINE void store_rows(const job *j, size_t half_group, size_t token, __m256 value)
{
    size_t row = half_group * LANES;
    if (row >= j->w->rows)
        return;
    size_t rows = j->w->rows - row < LANES ? j->w->rows - row : LANES;
    __m256i mask =
        _mm256_cmpgt_epi32(_mm256_set1_epi32((int)rows), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    float *y = j->y + token * j->y_stride + row;
    if (j->bias)
        value = _mm256_add_ps(value, _mm256_maskload_ps(j->bias + row, mask));
    if (j->accumulate)
        value = _mm256_add_ps(_mm256_maskload_ps(y, mask), value);
    _mm256_maskstore_ps(y, mask, value);
}

/* Memory is read one group ahead. */
INLINE void prefetch_group(fp__shape s, planes p, size_t ahead)
{
    for (size_t line = 0; line < s.low_bytes + s.high_bytes + s.scale_bytes; line += 64)
        _mm_prefetch((const void *)((uintptr_t)p.low + ahead + line), _MM_HINT_T0);
}

/* halves × 8 rows from half group `first`, tokens from `token` (all in one tile of 8). */
INLINE void panel(int type, size_t halves, size_t tokens, const job *j, size_t first, size_t token)
{
    fp__shape s = fp__shape_of(type);
    const fp__weight *w = j->w;
    size_t blocks = w->cols / FP__BLOCK, slot = token % FP__ACT_TILE;
    const fp__act_block *x = fp__act_at(j->act, token, 0);
    planes p[PANEL];
    for (size_t c = 0; c < halves; c++) {
        const uint8_t *data = w->data + (first + c) / 2 * w->group_bytes;
        size_t lane = (first + c) % 2 * LANES * 4;
        p[c] = (planes){data + lane, data + w->high_offset + lane, data + w->scale_offset};
    }
    __m256 y[PANEL];
    for (size_t i = 0; i < halves * tokens; i++)
        y[i] = _mm256_setzero_ps();
    for (size_t b = 0; b < blocks; b += FP__SEGMENT_BLOCKS) {
        size_t n = blocks - b < FP__SEGMENT_BLOCKS ? blocks - b : FP__SEGMENT_BLOCKS;
        __m256 seg[PANEL];
        for (size_t i = 0; i < halves * tokens; i++)
            seg[i] = _mm256_setzero_ps();
        for (size_t i = 0; i < n; i++, x++) {
            panel_block(type, halves, tokens, p, first, i, x, slot, seg);
            if (tokens == 1)
                prefetch_group(s, p[0], w->group_bytes);
            for (size_t c = 0; c < halves; c++) {
                p[c].low += s.low_bytes;
                p[c].high += s.high_bytes;
            }
        }
        for (size_t c = 0; c < halves; c++)
            p[c].scale += FP__SEGMENT_BLOCKS * s.scale_bytes;
        for (size_t i = 0; i < halves * tokens; i++)
            y[i] = _mm256_add_ps(y[i], seg[i]);
    }
    for (size_t c = 0; c < halves; c++)
        for (size_t n = 0; n < tokens; n++)
            store_rows(j, first + c, token + n, y[c * tokens + n]);
}

/* Weights of one chunk of groups stay in the second-level cache while all tokens pass over them. */
enum { CHUNK_BYTES = 128 * 1024 };

INLINE void linear(int type, const job *j, size_t group_begin, size_t group_end)
{
    size_t tokens = j->act->tokens, chunk = CHUNK_BYTES / j->w->group_bytes + 1;
    for (size_t begin = group_begin; begin < group_end; begin += chunk) {
        size_t end = begin + chunk < group_end ? begin + chunk : group_end;
        for (size_t tile = 0; tile < tokens; tile += FP__ACT_TILE)
            for (size_t g = begin; g < end; g++) {
                size_t token = tile, stop = tile + FP__ACT_TILE < tokens ? tile + FP__ACT_TILE : tokens;
                for (; token + 4 <= stop; token += 4) {
                    panel(type, 1, 4, j, 2 * g, token);
                    panel(type, 1, 4, j, 2 * g + 1, token);
                }
                for (; token + 2 <= stop; token += 2)
                    panel(type, 2, 2, j, 2 * g, token);
                if (token < stop)
                    panel(type, 2, 1, j, 2 * g, token);
            }
    }
}

/* One function per type: everything about the type is then a constant. */
#define LINEAR_TYPE(T)                                                                                       \
    static __attribute__((noinline)) void linear_##T(const job *j, size_t group_begin, size_t group_end)     \
    {                                                                                                        \
        linear(FP__##T, j, group_begin, group_end);                                                          \
    }
FP__SHAPES(LINEAR_TYPE)

void fp__linear_avx2(const fp__weight *w, const fp__act *act, size_t group_begin, size_t group_end,
                     const float *bias, float *y, size_t y_stride, bool accumulate)
{
    job j = {w, act, bias, y, y_stride, accumulate};
    switch (fp__shape_type(w->type)) {
#define LINEAR_CASE(T)                                                                                       \
    case FP__##T:                                                                                            \
        linear_##T(&j, group_begin, group_end);                                                              \
        break;
        FP__SHAPES(LINEAR_CASE)
    default:
        FP_CHECK(false); /* fp__weight_plan refuses other types */
    }
}

/* ---- §3 --------------------------------------------------------------------------------------------------
 */

enum { BATCH = 8 }; /* blocks whose scales are computed together, one per lane */

/* Largest magnitude (as bits) of 32 floats. */
INLINE int32_t amax_bits(const float *x)
{
    __m256i magnitude = _mm256_set1_epi32(0x7fffffff), most = _mm256_setzero_si256();
    for (size_t i = 0; i < FP__BLOCK; i += LANES)
        most = _mm256_max_epi32(most, _mm256_and_si256(load256(x + i), magnitude));
    __m128i m = _mm_max_epi32(_mm256_castsi256_si128(most), _mm256_extracti128_si256(most, 1));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
    m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1));
    return _mm_cvtsi128_si32(m);
}

/* Quants of 32 floats to q; returns sums of 4 quants, 4 lanes for each half of the block. No clamp is needed:
 * where the block is in range, |x|·(1/d) is below 127.5. A block that is not (keep = 0) gives zeros. */
INLINE __m256i quantise_32(const float *x, float inverse, int32_t keep, int8_t *q)
{
    __m256 factor = _mm256_set1_ps(inverse);
    __m256i v[4];
    for (size_t i = 0; i < 4; i++)
        v[i] = _mm256_and_si256(_mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + i * LANES), factor)),
                                _mm256_set1_epi32(keep));
    /* the packs work within 128-bit halves: dwords come out as 0 2 4 6 | 1 3 5 7 of 4 quants each */
    __m256i packed = _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
    packed = _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256((__m256i *)(void *)q, packed);
    return _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_set1_epi8(1), packed), _mm256_set1_epi16(1));
}

/* Blocks [0, n) of x into slot of to[n]; true if one of them is out of range. */
static bool quantise_batch(const float *x, fp__act_block *to, size_t slot, size_t n)
{
    _Alignas(32) int32_t amax[BATCH] = {0}, keep[BATCH], half[2][BATCH];
    _Alignas(32) float d[BATCH], inverse[BATCH], ds[BATCH];
    for (size_t b = 0; b < n; b++)
        amax[b] = amax_bits(x + b * FP__BLOCK);
    __m256i bits = load256(amax);
    __m256i out_of_range = _mm256_cmpgt_epi32(bits, _mm256_set1_epi32((int)FP__AMAX_LIMIT - 1));
    __m256i counts = _mm256_andnot_si256(
        out_of_range, _mm256_cmpgt_epi32(bits, _mm256_set1_epi32((int)FP__AMAX_FLOOR - 1)));
    __m256 mask = _mm256_castsi256_ps(counts),
           scale = _mm256_and_ps(mask, _mm256_div_ps(_mm256_castsi256_ps(bits), _mm256_set1_ps(127.0f)));
    _mm256_store_ps(d, scale);
    _mm256_store_ps(inverse, _mm256_and_ps(mask, _mm256_div_ps(_mm256_set1_ps(1.0f), scale)));
    _mm256_store_si256((__m256i *)(void *)keep, counts);
    for (size_t b = 0; b < BATCH; b += 4) {
        __m256i sums[4];
        for (size_t i = 0; i < 4; i++)
            sums[i] = b + i < n ? quantise_32(x + (b + i) * FP__BLOCK, inverse[b + i], keep[b + i],
                                              to[b + i].q[slot])
                                : _mm256_setzero_si256();
        __m256i folded =
            _mm256_hadd_epi32(_mm256_hadd_epi32(sums[0], sums[1]), _mm256_hadd_epi32(sums[2], sums[3]));
        _mm_store_si128((__m128i *)(void *)&half[0][b], _mm256_castsi256_si128(folded));
        _mm_store_si128((__m128i *)(void *)&half[1][b], _mm256_extracti128_si256(folded, 1));
    }
    __m256i sum = _mm256_add_epi32(load256(half[0]), load256(half[1]));
    _mm256_store_ps(ds, _mm256_mul_ps(_mm256_cvtepi32_ps(sum), scale));
    for (size_t b = 0; b < n; b++) {
        to[b].d[slot] = d[b];
        to[b].ds[slot] = ds[b];
        to[b].minus8[slot] = -8 * (half[0][b] + half[1][b]);
        to[b].minus128[slot] = -128 * (half[0][b] + half[1][b]);
        to[b].minus32[0][slot] = -32 * half[0][b];
        to[b].minus32[1][slot] = -32 * half[1][b];
    }
    return _mm256_movemask_epi8(out_of_range) != 0;
}

void fp__act_quantise_avx2(const float *x, fp__act *act, size_t token, uint8_t *bad)
{
    for (size_t b = 0; b < act->blocks; b += BATCH) {
        size_t n = act->blocks - b < BATCH ? act->blocks - b : BATCH;
        if (quantise_batch(x + b * FP__BLOCK, fp__act_at(act, token, b), token % FP__ACT_TILE, n))
            *bad = 1;
    }
}
