#include "exact/rope.h"

#include "core/bytes.h"

/* ---- double-double: an unevaluated sum hi + lo, about 104 bits (Dekker 1971; Knuth, TAOCP 2, 4.2.2) ---- */

typedef struct dd {
    double hi, lo;
} dd;

static dd two_sum(double a, double b)
{
    double s = a + b, t = s - a;
    return (dd){s, (a - (s - t)) + (b - t)};
}
static dd fast_two_sum(double a, double b) /* |a| ≥ |b| or a = 0 */
{
    double s = a + b;
    return (dd){s, b - (s - a)};
}
static dd two_prod(double a, double b)
{
    double p = a * b;
    return (dd){p, fma(a, b, -p)};
}
static dd dd_add(dd a, dd b)
{
    dd s = two_sum(a.hi, b.hi), t = two_sum(a.lo, b.lo);
    s = fast_two_sum(s.hi, s.lo + t.hi);
    return fast_two_sum(s.hi, s.lo + t.lo);
}
static dd dd_mul(dd a, dd b)
{
    dd p = two_prod(a.hi, b.hi);
    return fast_two_sum(p.hi, p.lo + (a.hi * b.lo + a.lo * b.hi));
}
static dd dd_scale(dd a, double b)
{
    return dd_mul(a, (dd){b, 0.0});
}
static dd dd_div(dd a, double b)
{
    double q = a.hi / b;
    dd p = two_prod(q, b);
    return fast_two_sum(q, (((a.hi - p.hi) - p.lo) + a.lo) / b);
}

static uint64_t double_bits(double x)
{
    uint64_t b;
    memcpy(&b, &x, 8);
    return b;
}
static double bits_double(uint64_t b)
{
    double x;
    memcpy(&x, &b, 8);
    return x;
}

/* ---- base^(-2i/n_rot) ---- */

static const double ln2[3] = {0x1.62e42fefa39efp-1, 0x1.abc9e3b39803fp-56, 0x1.7b57a079a1934p-111};

/* e^a for -50 < a ≤ 0, relative error below 2^-97: a = k·ln 2 + r, Taylor series of e^(r/512) - 1, then nine
 * times (1 + s)² - 1 = 2s + s². */
static dd dd_exp(dd a)
{
    double k = -(double)(int)(0.5 - a.hi * 0x1.71547652b82fep+0);
    dd r = a;
    for (int i = 0; i < 3; i++) {
        dd part = two_prod(k, ln2[i]);
        r = dd_add(r, (dd){-part.hi, -part.lo});
    }
    r = (dd){r.hi * 0x1p-9, r.lo * 0x1p-9};
    dd s = r, term = r;
    for (int n = 2; n <= 12; n++) {
        term = dd_div(dd_mul(term, r), (double)n);
        s = dd_add(s, term);
    }
    for (int i = 0; i < 9; i++)
        s = dd_add((dd){2 * s.hi, 2 * s.lo}, dd_mul(s, s));
    s = dd_add(s, (dd){1.0, 0.0});
    double scale = bits_double((uint64_t)(1023 + (int)k) << 52);
    return (dd){s.hi * scale, s.lo * scale};
}

/* ln x for 1 < x ≤ 2^64: a binary64 estimate y from the atanh series, then one Newton step,
 * y + (r - r²/2) with r = x·e^-y - 1 of about 2^-50. */
static dd dd_log(double x)
{
    int e = (int)(double_bits(x) >> 52) - 1023;
    double m = bits_double((double_bits(x) & 0xfffffffffffffu) | (uint64_t)1023 << 52);
    double s = (m - 1) / (m + 1), s2 = s * s, series = 0;
    for (int k = 41; k >= 1; k -= 2)
        series = series * s2 + 1.0 / k;
    double y = (double)e * ln2[0] + 2 * s * series;
    dd r = dd_add(dd_scale(dd_exp((dd){-y, 0.0}), x), (dd){-1.0, 0.0});
    return dd_add(dd_add((dd){y, 0.0}, r), (dd){-0.5 * (r.hi * r.hi), 0.0});
}

/* True if every number within 2^-94 relative of v rounds to v.hi. */
static bool rounds_surely(dd v)
{
    double margin = v.hi * 0x1p-94;
    return v.hi + (v.lo + margin) == v.hi && v.hi + (v.lo - margin) == v.hi;
}

fp_status fp__rope_plan_init(double base, size_t n_rot, fp__rope_layout layout, const float *factors,
                             fp__rope_plan *plan)
{
    if (!(base > 1.0 && base <= 0x1p64))
        return fp__fail(FP_UNSUPPORTED, "rotary base %g is not between 1 and 2^64", base);
    if (n_rot < 2 || n_rot % 2 || n_rot > FP__ROPE_DIM_MAX)
        return fp__fail(FP_UNSUPPORTED, "%zu rotary dimensions: an even number from 2 to %d is needed", n_rot,
                        FP__ROPE_DIM_MAX);
    for (size_t i = 0; factors && i < n_rot / 2; i++)
        if (!(factors[i] >= 0x1p-20f && factors[i] <= 0x1p20f))
            return fp__fail(FP_UNSUPPORTED, "rotary factor %zu (%g) is not between 2^-20 and 2^20", i,
                            (double)factors[i]);
    memset(plan, 0, sizeof *plan);
    plan->n_rot = n_rot;
    plan->layout = layout;
    plan->base = base;
    plan->has_factors = factors != NULL;
    dd log_base = dd_log(base);
    const size_t half = n_rot / 2; /* n_rot is even */
    for (size_t i = 0; i < half; i++) {
        dd f = dd_exp(dd_div(dd_scale(log_base, -(double)i), (double)half));
        if (!rounds_surely(f))
            return fp__fail(FP_UNSUPPORTED,
                            "rotary frequency %zu of base %.17g lies too close to the middle "
                            "between two numbers",
                            i, base);
        plan->freqs[i] = f.hi;
        if (factors) {
            plan->factors[i] = factors[i];
            plan->freqs[i] = f.hi / (double)factors[i];
        }
    }
    return FP_OK;
}

/* ---- cos θ and sin θ ---- */

/* π/2 in pieces of 26 bits (the product with n < 2^26 is exact) and a tail; error below 2^-130. */
static const double half_pi[4] = {0x1.921fb5p+0, 0x1.110b46p-26, 0x1.1a6262p-54, 0x1.3145c06e0e689p-78};

/* θ - n·π/2, absolute error below 2^-104. The first difference is exact: θ < 2^25 and what is left is
 * below 2. */
static dd reduce(double theta, double n)
{
    dd s = two_sum(theta - n * half_pi[0], -(n * half_pi[1]));
    dd t = two_sum(s.hi, -(n * half_pi[2]));
    return fast_two_sum(t.hi, t.lo + (s.lo - n * half_pi[3]));
}

/* Taylor series for |r| ≤ 0.79 in binary64, error below 2^-50 relative. */
static double sin_fast(dd r)
{
    double z = r.hi * r.hi;
    double p = 0x1.952c77030ad4ap-49;
    p = p * z + -0x1.ae7f3e733b81fp-41;
    p = p * z + 0x1.6124613a86d09p-33;
    p = p * z + -0x1.ae64567f544e4p-26;
    p = p * z + 0x1.71de3a556c734p-19;
    p = p * z + -0x1.a01a01a01a01ap-13;
    p = p * z + 0x1.1111111111111p-7;
    p = p * z + -0x1.5555555555555p-3;
    return r.hi + (r.hi * z * p + r.lo * (1.0 - 0.5 * z));
}
static double cos_fast(dd r)
{
    double z = r.hi * r.hi;
    double p = -0x1.6827863b97d97p-53;
    p = p * z + 0x1.ae7f3e733b81fp-45;
    p = p * z + -0x1.93974a8c07c9dp-37;
    p = p * z + 0x1.1eed8eff8d898p-29;
    p = p * z + -0x1.27e4fb7789f5cp-22;
    p = p * z + 0x1.a01a01a01a01ap-16;
    p = p * z + -0x1.6c16c16c16c17p-10;
    p = p * z + 0x1.5555555555555p-5;
    return (1.0 - 0.5 * z) + (z * z * p - r.hi * r.lo);
}

/* The same in double-double; first = 1 gives sin, 0 gives cos. */
static dd series_slow(dd r, int first)
{
    dd z = dd_mul(r, r), term = first ? r : (dd){1.0, 0.0}, sum = term;
    for (int k = first + 2; k <= first + 28; k += 2) {
        term = dd_div(dd_mul(term, z), -(double)(k * (k - 1)));
        sum = dd_add(sum, term);
    }
    return sum;
}

/* hi + lo to binary32 with one rounding: first to odd in binary64 (Boldo & Melquiond 2008). */
static float round_once(dd v)
{
    uint64_t bits = double_bits(v.hi);
    if (v.lo != 0.0 && !(bits & 1))
        bits = (v.lo > 0.0) == (v.hi > 0.0) ? bits + 1 : bits - 1;
    return (float)bits_double(bits);
}

/* Ziv's strategy: where the fast value and its error bound leave a doubt, the double-double one decides. Its
 * error (below 2^-70 even where r is as small as 2^-32) is far below the distance to the nearest midpoint
 * that 2^31 entries are expected to reach (2^-57); tests look at whole tables. */
static float entry(dd r, int first)
{
    double y = first ? sin_fast(r) : cos_fast(r), margin = y * 0x1p-48;
    float low = (float)(y - margin), high = (float)(y + margin);
    return low == high ? low : round_once(series_slow(r, first));
}

fp_status fp__rope_rows(const fp__rope_plan *plan, uint64_t pos_begin, size_t n, float *c_out, float *s_out)
{
    size_t half = plan->n_rot / 2;
    const uint64_t far = (uint64_t)1 << 50;
    for (size_t i = 0; i < half; i++)
        if (pos_begin > far || n > far || (double)(pos_begin + n) * plan->freqs[i] >= 0x1p25)
            return fp__fail(FP_LIMIT, "position %llu is beyond the rotary table: angles must stay below 2^25",
                            (unsigned long long)pos_begin);
    for (size_t t = 0; t < n; t++)
        for (size_t i = 0; i < half; i++) {
            double theta = (double)(pos_begin + t) * plan->freqs[i];
            uint32_t quarter = (uint32_t)(theta * 0x1.45f306dc9c883p-1 + 0.5);
            dd r = reduce(theta, (double)quarter);
            float c = entry(r, quarter & 1), s = entry(r, !(quarter & 1));
            c_out[t * half + i] = (quarter + 1) & 2 ? -c : c;
            s_out[t * half + i] = quarter & 2 ? -s : s;
        }
    return FP_OK;
}

/* ---- identity ---- */

size_t fp__rope_identity_bytes(const fp__rope_plan *plan)
{
    return 17 + 4 + 4 + 8 + 4 + plan->n_rot / 2 * (plan->has_factors ? 12 : 8);
}

void fp__rope_identity(const fp__rope_plan *plan, uint8_t *out)
{
    size_t half = plan->n_rot / 2;
    memcpy(out,
           "\x06"
           "fieldprint/rope"
           "\x01",
           17);
    fp__store_le32(out + 17, (uint32_t)plan->n_rot);
    fp__store_le32(out + 21, plan->layout == FP__ROPE_PAIRS ? 0 : 1);
    fp__store_le64(out + 25, double_bits(plan->base));
    fp__store_le32(out + 33, plan->has_factors ? (uint32_t)half : 0);
    uint8_t *p = out + 37;
    for (size_t i = 0; plan->has_factors && i < half; i++, p += 4)
        fp__store_le32(p, fp__float_bits(plan->factors[i]));
    for (size_t i = 0; i < half; i++, p += 8)
        fp__store_le64(p, double_bits(plan->freqs[i]));
}
