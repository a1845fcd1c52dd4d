/* §2, §5, §7 in vectors of 8. Elementwise operations are those of src/exact, so their order is no question; a
 * norm's 32 lanes are four registers. */
#include "kernel/avx2/elementwise_avx2.h"

#include <immintrin.h>

static inline __m256 exp2c(__m256 x)
{
    const __m256 magic = _mm256_set1_ps(12582912.0f);
    __m256 keep = _mm256_cmp_ps(x, _mm256_set1_ps(-126.0f), _CMP_GE_OQ);
    __m256 n = _mm256_sub_ps(_mm256_add_ps(x, magic), magic), f = _mm256_sub_ps(x, n);
    __m256 p = _mm256_fmadd_ps(_mm256_set1_ps(0x1.3fa206p-13f), f, _mm256_set1_ps(0x1.5f0b82p-10f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(0x1.3b30ap-7f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(0x1.c6af76p-5f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(0x1.ebfbd8p-3f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(0x1.62e43p-1f));
    p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(1.0f));
    __m256i bits = _mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23));
    return _mm256_and_ps(_mm256_castsi256_ps(bits), keep);
}

static float sumsq(const float *x, size_t n)
{
    __m256 lane[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
    size_t i = 0;
    for (; i + 32 <= n; i += 32)
        for (size_t k = 0; k < 4; k++) {
            __m256 a = _mm256_loadu_ps(x + i + 8 * k);
            lane[k] = _mm256_fmadd_ps(a, a, lane[k]);
        }
    if (i < n) { /* absent elements are zeros: fma(0, 0, lane) leaves a lane as it is (lanes are never -0) */
        float rest[32] = {0};
        memcpy(rest, x + i, (n - i) * sizeof *rest);
        for (size_t k = 0; k < 4; k++) {
            __m256 a = _mm256_loadu_ps(rest + 8 * k);
            lane[k] = _mm256_fmadd_ps(a, a, lane[k]);
        }
    }
    __m256 eight = _mm256_add_ps(_mm256_add_ps(lane[0], lane[2]), _mm256_add_ps(lane[1], lane[3]));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}

void fp__rmsnorm_avx2(const float *x, const float *w, float eps, size_t n, float *y, uint8_t *bad)
{
    float total = sumsq(x, n);
    if (!(total < 0x1p100f)) {
        *bad = 1;
        memset(y, 0, n * sizeof *y);
        return;
    }
    float r = 1.0f / sqrtf(total / (float)n + eps);
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 v = _mm256_mul_ps(_mm256_loadu_ps(x + i), _mm256_set1_ps(r));
        _mm256_storeu_ps(y + i, _mm256_mul_ps(v, _mm256_loadu_ps(w + i)));
    }
    for (; i < n; i++)
        y[i] = (x[i] * r) * w[i];
}

void fp__silu_mul_avx2(const float *g, const float *u, size_t n, float *out)
{
    const __m256 one = _mm256_set1_ps(1.0f);
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 a = _mm256_loadu_ps(g + i);
        __m256 z = _mm256_mul_ps(a, _mm256_set1_ps(-0x1.715476p+0f)); /* -g·c and g·(-c) are the same */
        __m256 e = exp2c(_mm256_min_ps(z, _mm256_set1_ps(126.0f)));
        __m256 v = _mm256_mul_ps(_mm256_div_ps(a, _mm256_add_ps(one, e)), _mm256_loadu_ps(u + i));
        _mm256_storeu_ps(out + i, v);
    }
    for (; i < n; i++)
        out[i] = fp__exact_silu_mul(g[i], u[i]);
}

/* AVX2 has no float → int64; binary64 holds sums of integers below 2^53 exactly. */
uint64_t fp__exp_weights_avx2(const float *x, size_t n, float max, float scale, float *p)
{
    __m256d low = _mm256_setzero_pd(), high = low;
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 z = _mm256_sub_ps(_mm256_loadu_ps(x + i), _mm256_set1_ps(max));
        __m256 e = exp2c(_mm256_mul_ps(z, _mm256_set1_ps(scale)));
        _mm256_storeu_ps(p + i, e);
        __m256 w = _mm256_mul_ps(e, _mm256_set1_ps(0x1p32f));
        w = _mm256_round_ps(w, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        low = _mm256_add_pd(low, _mm256_cvtps_pd(_mm256_castps256_ps128(w)));
        high = _mm256_add_pd(high, _mm256_cvtps_pd(_mm256_extractf128_ps(w, 1)));
    }
    double part[4];
    _mm256_storeu_pd(part, _mm256_add_pd(low, high));
    uint64_t sum = (uint64_t)part[0] + (uint64_t)part[1] + (uint64_t)part[2] + (uint64_t)part[3];
    return sum + fp__exact_exp_weights(x + i, n - i, max, scale, p + i);
}

/* Plain loops: the compiler makes vectors of them. */
void fp__rope_avx2(float *x, size_t heads, size_t d, size_t n_rot, fp__rope_layout layout,
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
