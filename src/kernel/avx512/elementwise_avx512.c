/* §2, §5, §7 in vectors of 16. Elementwise operations are those of src/exact, so their order is no question;
 * a norm's 32 lanes are two registers. */
#include "kernel/avx512/elementwise_avx512.h"

#include <immintrin.h>

static inline __m512 exp2c(__m512 x)
{
    const __m512 magic = _mm512_set1_ps(12582912.0f);
    __mmask16 keep = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-126.0f), _CMP_GE_OQ);
    __m512 n = _mm512_sub_ps(_mm512_add_ps(x, magic), magic), f = _mm512_sub_ps(x, n);
    __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(0x1.3fa206p-13f), f, _mm512_set1_ps(0x1.5f0b82p-10f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0x1.3b30ap-7f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0x1.c6af76p-5f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0x1.ebfbd8p-3f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0x1.62e43p-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
    __m512i bits = _mm512_add_epi32(_mm512_castps_si512(p), _mm512_slli_epi32(_mm512_cvtps_epi32(n), 23));
    return _mm512_castsi512_ps(_mm512_maskz_mov_epi32(keep, bits));
}

static inline __mmask16 tail_mask(size_t left)
{
    return (__mmask16)(left >= 16 ? 0xffffu : (1u << left) - 1);
}

/* Absent elements are zeros: fma(0, 0, lane) leaves a lane as it is (lanes are never -0). */
static float sumsq(const float *x, size_t n)
{
    __m512 low = _mm512_setzero_ps(), high = low;
    size_t i = 0;
    for (; i + 32 <= n; i += 32) {
        __m512 a = _mm512_loadu_ps(x + i), b = _mm512_loadu_ps(x + i + 16);
        low = _mm512_fmadd_ps(a, a, low);
        high = _mm512_fmadd_ps(b, b, high);
    }
    if (i < n) {
        __m512 a = _mm512_maskz_loadu_ps(tail_mask(n - i), x + i);
        low = _mm512_fmadd_ps(a, a, low);
    }
    if (i + 16 < n) {
        __m512 b = _mm512_maskz_loadu_ps(tail_mask(n - i - 16), x + i + 16);
        high = _mm512_fmadd_ps(b, b, high);
    }
    low = _mm512_add_ps(low, high);
    __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(low), _mm512_extractf32x8_ps(low, 1));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}

void fp__rmsnorm_avx512(const float *x, const float *w, float eps, size_t n, float *y, uint8_t *bad)
{
    float total = sumsq(x, n);
    if (!(total < 0x1p100f)) {
        *bad = 1;
        memset(y, 0, n * sizeof *y);
        return;
    }
    __m512 r = _mm512_set1_ps(1.0f / sqrtf(total / (float)n + eps));
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 m = tail_mask(n - i);
        __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(m, x + i), r);
        _mm512_mask_storeu_ps(y + i, m, _mm512_mul_ps(v, _mm512_maskz_loadu_ps(m, w + i)));
    }
}

void fp__silu_mul_avx512(const float *g, const float *u, size_t n, float *out)
{
    const __m512 one = _mm512_set1_ps(1.0f);
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 m = tail_mask(n - i);
        __m512 a = _mm512_maskz_loadu_ps(m, g + i), b = _mm512_maskz_loadu_ps(m, u + i);
        __m512 z = _mm512_mul_ps(a, _mm512_set1_ps(-0x1.715476p+0f)); /* -g·c and g·(-c) are the same */
        __m512 e = exp2c(_mm512_min_ps(z, _mm512_set1_ps(126.0f)));
        __m512 v = _mm512_mul_ps(_mm512_div_ps(a, _mm512_add_ps(one, e)), b);
        _mm512_mask_storeu_ps(out + i, m, v);
    }
}

uint64_t fp__exp_weights_avx512(const float *x, size_t n, float max, float scale, float *p)
{
    __m512i sum = _mm512_setzero_si512();
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 m = tail_mask(n - i);
        __m512 z = _mm512_sub_ps(_mm512_maskz_loadu_ps(m, x + i), _mm512_set1_ps(max));
        __m512 e = _mm512_maskz_mov_ps(m, exp2c(_mm512_mul_ps(z, _mm512_set1_ps(scale))));
        _mm512_mask_storeu_ps(p + i, m, e);
        __m512 w = _mm512_mul_ps(e, _mm512_set1_ps(0x1p32f));
        sum = _mm512_add_epi64(sum, _mm512_cvtps_epi64(_mm512_castps512_ps256(w)));
        sum = _mm512_add_epi64(sum, _mm512_cvtps_epi64(_mm512_extractf32x8_ps(w, 1)));
    }
    return (uint64_t)_mm512_reduce_add_epi64(sum);
}

/* Plain loops: the compiler makes vectors of them. */
void fp__rope_avx512(float *x, size_t heads, size_t d, size_t n_rot, fp__rope_layout layout,
                     const float *restrict c, const float *restrict s)
{
    size_t half = n_rot / 2;
    for (size_t h = 0; h < heads; h++) {
        float *restrict v = x + h * d;
        if (layout == FP__ROPE_PAIRS) {
            for (size_t i = 0; i < half; i++) {
                float x0 = v[2 * i], x1 = v[2 * i + 1];
                v[2 * i] = fmaf(-x1, s[i], x0 * c[i]);
                v[2 * i + 1] = fmaf(x0, s[i], x1 * c[i]);
            }
        } else {
            for (size_t i = 0; i < half; i++) {
                float x0 = v[i], x1 = v[i + half];
                v[i] = fmaf(-x1, s[i], x0 * c[i]);
                v[i + half] = fmaf(x0, s[i], x1 * c[i]);
            }
        }
    }
}
