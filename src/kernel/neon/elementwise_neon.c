/* §2, §5, §7 in vectors of 4. Elementwise operations are those of src/exact, so their order is no question; a
 * norm's 32 lanes are eight registers. */
#include "kernel/neon/elementwise_neon.h"

#include <arm_neon.h>

static inline float32x4_t exp2c(float32x4_t x)
{
    const float32x4_t magic = vdupq_n_f32(12582912.0f);
    uint32x4_t keep = vcgeq_f32(x, vdupq_n_f32(-126.0f));
    float32x4_t n = vsubq_f32(vaddq_f32(x, magic), magic), f = vsubq_f32(x, n);
    float32x4_t p = vfmaq_f32(vdupq_n_f32(0x1.5f0b82p-10f), vdupq_n_f32(0x1.3fa206p-13f), f);
    p = vfmaq_f32(vdupq_n_f32(0x1.3b30ap-7f), p, f);
    p = vfmaq_f32(vdupq_n_f32(0x1.c6af76p-5f), p, f);
    p = vfmaq_f32(vdupq_n_f32(0x1.ebfbd8p-3f), p, f);
    p = vfmaq_f32(vdupq_n_f32(0x1.62e43p-1f), p, f);
    p = vfmaq_f32(vdupq_n_f32(1.0f), p, f);
    int32x4_t bits = vaddq_s32(vreinterpretq_s32_f32(p), vshlq_n_s32(vcvtq_s32_f32(n), 23));
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_s32(bits), keep));
}

static float sumsq(const float *x, size_t n)
{
    float32x4_t lane[8];
    for (size_t k = 0; k < 8; k++)
        lane[k] = vdupq_n_f32(0.0f);
    size_t i = 0;
    for (; i + 32 <= n; i += 32)
        for (size_t k = 0; k < 8; k++) {
            float32x4_t a = vld1q_f32(x + i + 4 * k);
            lane[k] = vfmaq_f32(lane[k], a, a);
        }
    if (i < n) { /* absent elements are zeros: fma(0, 0, lane) leaves a lane as it is (lanes are never -0) */
        float rest[32] = {0};
        memcpy(rest, x + i, (n - i) * sizeof *rest);
        for (size_t k = 0; k < 8; k++) {
            float32x4_t a = vld1q_f32(rest + 4 * k);
            lane[k] = vfmaq_f32(lane[k], a, a);
        }
    }
    for (size_t s = 4; s > 0; s /= 2)
        for (size_t k = 0; k < s; k++)
            lane[k] = vaddq_f32(lane[k], lane[k + s]);
    float32x2_t two = vadd_f32(vget_low_f32(lane[0]), vget_high_f32(lane[0]));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}

void fp__rmsnorm_neon(const float *x, const float *w, float eps, size_t n, float *y, uint8_t *bad)
{
    float total = sumsq(x, n);
    if (!(total < 0x1p100f)) {
        *bad = 1;
        memset(y, 0, n * sizeof *y);
        return;
    }
    float r = 1.0f / sqrtf(total / (float)n + eps);
    for (size_t i = 0; i < n; i++)
        y[i] = (x[i] * r) * w[i];
}

void fp__silu_mul_neon(const float *g, const float *u, size_t n, float *out)
{
    const float32x4_t one = vdupq_n_f32(1.0f), limit = vdupq_n_f32(126.0f);
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        float32x4_t a = vld1q_f32(g + i);
        float32x4_t z = vmulq_f32(a, vdupq_n_f32(-0x1.715476p+0f)); /* -g·c and g·(-c) are the same */
        z = vbslq_f32(vcltq_f32(z, limit), z, limit);
        float32x4_t v = vmulq_f32(vdivq_f32(a, vaddq_f32(one, exp2c(z))), vld1q_f32(u + i));
        vst1q_f32(out + i, v);
    }
    for (; i < n; i++)
        out[i] = fp__exact_silu_mul(g[i], u[i]);
}

uint64_t fp__exp_weights_neon(const float *x, size_t n, float max, float scale, float *p)
{
    uint64x2_t sum = vdupq_n_u64(0);
    size_t i = 0;
    for (; i + 4 <= n; i += 4) {
        float32x4_t z = vsubq_f32(vld1q_f32(x + i), vdupq_n_f32(max));
        float32x4_t e = exp2c(vmulq_f32(z, vdupq_n_f32(scale)));
        vst1q_f32(p + i, e);
        float32x4_t w = vrndnq_f32(vmulq_f32(e, vdupq_n_f32(0x1p32f)));
        sum = vaddq_u64(sum, vcvtq_u64_f64(vcvt_f64_f32(vget_low_f32(w))));
        sum = vaddq_u64(sum, vcvtq_u64_f64(vcvt_high_f64_f32(w)));
    }
    return vaddvq_u64(sum) + fp__exact_exp_weights(x + i, n - i, max, scale, p + i);
}

/* Plain loops: the compiler makes vectors of them. */
void fp__rope_neon(float *x, size_t heads, size_t d, size_t n_rot, fp__rope_layout layout,
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
