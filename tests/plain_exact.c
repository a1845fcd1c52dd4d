/* The scalar definition against binary64 and long double, and against the bounds that docs/arithmetic.md
 * states. (That every backend equals the definition is plain_vectors.c's job.) */
#include "exact/rng.h"
#include "exact/rope.h"
#include "exact/sampling.h"

#include <stdio.h>
#include <stdlib.h>

static int failures;
#define CHECK(cond, ...)                                                                                     \
    do {                                                                                                     \
        if (!(cond) && failures++ < 20) {                                                                    \
            printf("FAILED %s:%d: %s: ", __FILE__, __LINE__, #cond);                                         \
            printf(__VA_ARGS__);                                                                             \
            printf("\n");                                                                                    \
        }                                                                                                    \
    } while (0)

static uint64_t draws;
static uint64_t random64(void)
{
    return fp__rng_draw(2026, draws++, 0);
}
static float uniform(void) /* [-1, 1) */
{
    return (float)(int32_t)(random64() >> 40) * 0x1p-23f - 1.0f;
}
static float normal(void)
{
    return uniform() + uniform() + uniform();
}

/* ---- §0 to §3 ---- */

static double ulp_of(double y) /* of binary32 at y, normal range */
{
    int e;
    (void)frexp(y, &e);
    return ldexp(1.0, e - 24);
}

static void test_exp2c(void)
{
    CHECK(fp__exp2c(0.0f) == 1.0f && fp__exp2c(-0.0f) == 1.0f, "2^0");
    CHECK(fp__exp2c(-INFINITY) == 0.0f && fp__exp2c(-126.5f) == 0.0f, "below range");
    CHECK(fp__exp2c(-126.0f) == 0x1p-126f && fp__exp2c(126.0f) == 0x1p126f, "ends of the range");
    double worst = 0;
    for (uint32_t sign = 0; sign < 2; sign++)
        for (uint32_t b = 0; b <= 0x42fc0000u; b += 499) { /* all magnitudes up to 126, every 499th */
            float x = fp__bits_float(b | sign << 31), y = fp__exp2c(x);
            double want = exp2((double)x), error = fabs((double)y - want) / ulp_of(want);
            worst = error > worst ? error : worst;
            CHECK(sign == 0 || y <= 1.0f, "exp2c(%a) = %a is above 1", (double)x, (double)y);
            CHECK(sign == 1 || y >= 1.0f, "exp2c(%a) = %a is below 1", (double)x, (double)y);
        }
    CHECK(worst < 0.81, "exp2c is off by %.4f ulp", worst);
    for (uint32_t b = 0; b < 0x34800000u; b += 13) /* down to -2^-22: where rounding could reach past 1 */
        CHECK(fp__exp2c(fp__bits_float(b | 0x80000000u)) <= 1.0f, "bits %08x", b);
    printf("exp2c: %.4f ulp\n", worst);
}

static void test_norm(void)
{
    float x[97], w[97], y[97];
    for (size_t i = 0; i < 97; i++) {
        x[i] = normal() * 8;
        w[i] = uniform();
    }
    double sum = 0;
    for (size_t i = 0; i < 97; i++)
        sum += (double)x[i] * (double)x[i];
    CHECK(fp__exact_rmsnorm(x, w, 1e-5f, 97, y), "norm");
    for (size_t i = 0; i < 97; i++) {
        double want = (double)x[i] / sqrt(sum / 97 + 1e-5) * (double)w[i];
        CHECK(fabs((double)y[i] - want) <= 1e-6 * fabs(want), "element %zu: %g, %g", i, (double)y[i], want);
    }
    const float wrong[] = {NAN, INFINITY, -INFINITY, 0x1p50f, -0x1p60f};
    for (size_t i = 0; i < 5; i++) {
        float keep = x[5];
        x[5] = wrong[i];
        y[0] = 1;
        CHECK(!fp__exact_rmsnorm(x, w, 1e-5f, 97, y) && y[0] == 0, "%g is in range", (double)wrong[i]);
        x[5] = keep;
    }
}

static void test_quantise(void)
{
    float x[FP__BLOCK];
    fp__qblock q;
    for (int trial = 0; trial < 2000; trial++) {
        float scale = ldexpf(1.0f, (int)(random64() % 100) - 60);
        for (size_t i = 0; i < FP__BLOCK; i++)
            x[i] = normal() * scale;
        CHECK(fp__exact_quantise_block(x, &q), "in range");
        for (size_t i = 0; i < FP__BLOCK; i++) {
            double error = fabs((double)q.d * q.q[i] - (double)x[i]);
            CHECK(error <= 0.5 * (double)q.d + 0x1p-22 * fabs((double)x[i]), "error %g at scale %g", error,
                  (double)q.d);
        }
    }
    for (size_t i = 0; i < FP__BLOCK; i++)
        x[i] = i & 1 ? -0.0f : 0x1p-65f;
    CHECK(fp__exact_quantise_block(x, &q) && q.d == 0 && q.q[0] == 0, "below 2^-64 counts as zero");
    x[7] = 0x1p-64f;
    CHECK(fp__exact_quantise_block(x, &q) && q.d != 0 && q.q[7] == 127, "2^-64 does not");
    x[7] = 0x1.fffffep47f;
    CHECK(fp__exact_quantise_block(x, &q), "just below 2^48");
    const float wrong[] = {0x1p48f, -0x1p48f, INFINITY, NAN};
    for (size_t i = 0; i < 4; i++) {
        x[7] = wrong[i];
        CHECK(!fp__exact_quantise_block(x, &q) && q.d == 0, "%g is in range", (double)wrong[i]);
    }
}

/* ---- §5 ---- */

/* True if v is so far from the middle between two floats (or doubles) that its rounding is certain. */
static bool certain(long double v, int bits, long double margin_ulp)
{
    int e;
    long double m = ldexpl(frexpl(v, &e), bits), fraction = fabsl(m - floorl(m) - 0.5L);
    return fraction > margin_ulp;
}

static void test_rope(void)
{
    const double bases[] = {2, 10000, 100000, 500000, 1000000, 5000000, 1e7, 1e15};
    const size_t dims[] = {2, 16, 64, 80, 96, 128, 256, 512};
    size_t compared = 0;
    for (size_t b = 0; b < sizeof bases / sizeof *bases; b++)
        for (size_t k = 0; k < sizeof dims / sizeof *dims; k++) {
            fp__rope_plan plan;
            float c[256], s[256];
            size_t n = dims[k];
            CHECK(fp__rope_plan_init(bases[b], n, FP__ROPE_PAIRS, NULL, &plan) == FP_OK, "%s",
                  fp_error_detail());
            for (size_t i = 0; i < n / 2; i++) {
                long double f = powl((long double)bases[b], -2.0L * (long double)i / (long double)n);
                long double off = fabsl((long double)plan.freqs[i] - f) / f;
                CHECK(off < 0x1.01p-53L, "frequency %zu of %zu, base %g", i, n, bases[b]);
            }
            for (int trial = 0; trial < 6; trial++) {
                uint64_t pos = random64() >> (40 + random64() % 20); /* below 2^24 */
                CHECK(fp__rope_rows(&plan, pos, 1, c, s) == FP_OK, "%s", fp_error_detail());
                for (size_t i = 0; i < n / 2; i++) {
                    long double theta = (long double)((double)pos * plan.freqs[i]);
                    long double cosine = cosl(theta), sine = sinl(theta);
                    if (certain(cosine, 24, 1e-3L))
                        CHECK(c[i] == (float)cosine, "cos %a", (double)theta);
                    if (certain(sine, 24, 1e-3L))
                        CHECK(s[i] == (float)sine, "sin %a", (double)theta);
                    compared += 2;
                }
            }
        }
    /* base 2^16: θ = pos·2^-j often lies in the middle between two floats, and sin θ only just below */
    fp__rope_plan plan;
    float c[16], s[16];
    CHECK(fp__rope_plan_init(65536, 32, FP__ROPE_PAIRS, NULL, &plan) == FP_OK, "%s", fp_error_detail());
    for (size_t i = 0; i < 16; i++)
        CHECK(plan.freqs[i] == ldexp(1.0, -(int)i), "2^-%zu", i);
    CHECK(fp__rope_rows(&plan, 0x1000001, 1, c, s) == FP_OK, "%s", fp_error_detail());
    float factors[16];
    for (size_t i = 0; i < 16; i++)
        factors[i] = i < 8 ? 1.0f : 3.0f;
    fp__rope_plan scaled;
    CHECK(fp__rope_plan_init(65536, 32, FP__ROPE_HALVES, factors, &scaled) == FP_OK, "factors");
    CHECK(scaled.freqs[7] == plan.freqs[7] && scaled.freqs[8] == plan.freqs[8] / 3.0,
          "divided by the factor");
    CHECK(fp__rope_identity_bytes(&scaled) == fp__rope_identity_bytes(&plan) + 64, "factors count");
    CHECK(fp__rope_rows(&plan, ((uint64_t)1 << 25) - 1, 1, c, s) == FP_LIMIT, "angle 2^25");
    CHECK(fp__rope_rows(&plan, UINT64_MAX, 2, c, s) == FP_LIMIT, "overflow");
    CHECK(fp__rope_plan_init(NAN, 32, FP__ROPE_PAIRS, NULL, &plan) == FP_UNSUPPORTED, "base NaN");
    CHECK(fp__rope_plan_init(1.0, 32, FP__ROPE_PAIRS, NULL, &plan) == FP_UNSUPPORTED, "base 1");
    CHECK(fp__rope_plan_init(1e4, 33, FP__ROPE_PAIRS, NULL, &plan) == FP_UNSUPPORTED, "odd");
    factors[3] = 0;
    CHECK(fp__rope_plan_init(1e4, 32, FP__ROPE_PAIRS, factors, &plan) == FP_UNSUPPORTED, "factor 0");
    printf("rope: %zu entries against long double\n", compared);
}

/* ---- §6: error bounds ---- */

enum { D_MAX = 128, TOKENS_MAX = 2200, PAGES_MAX = (TOKENS_MAX + 63) / 64 };
typedef struct attention_case {
    size_t d, tokens;
    float q[D_MAX], k[TOKENS_MAX][D_MAX], v[TOKENS_MAX][D_MAX];
    _Alignas(128) uint8_t slabs[PAGES_MAX][128 * D_MAX + 256];
    int16_t q16[D_MAX];
    float s_q;
    double score[TOKENS_MAX], exact_score[TOKENS_MAX]; /* of the integers; of the floats */
    double v_hat[TOKENS_MAX][D_MAX];
    double scale_max;
} attention_case;
static attention_case the_case;

static void paint_case(attention_case *a, int kind)
{
    for (size_t j = 0; j < a->d; j++)
        a->q[j] = normal() * (kind == 3 ? 6.0f : 1.0f);
    for (size_t t = 0; t < a->tokens; t++) {
        float token_scale = kind == 2 ? ldexpf(1.0f, (int)(random64() % 24) - 12) : 1.0f;
        for (size_t j = 0; j < a->d; j++) {
            float outlier = kind >= 1 && j % 29 == 3 ? 20.0f : 1.0f;
            a->k[t][j] = kind == 4 ? 1.0f : normal() * outlier; /* 4: all scores equal, the flattest case */
            a->v[t][j] = normal() * token_scale;
        }
    }
}

/* K, V and q within the stated distance of what went in; scores and values of the integers, in binary64. */
static void quantise_case(attention_case *a)
{
    float x[D_MAX], c = fp__exact_query_factor(a->d);
    memset(a->slabs, 0, sizeof a->slabs);
    memcpy(x, a->q, sizeof x);
    fp__exact_rotate(x, a->d);
    CHECK(fp__exact_query(a->q, a->d, a->q16, &a->s_q), "query");
    float q_max = 0;
    double q_float[D_MAX];
    for (size_t j = 0; j < a->d; j++) {
        q_float[j] = (double)(x[j] * c);
        q_max = fabsf(x[j] * c) > q_max ? fabsf(x[j] * c) : q_max;
    }
    for (size_t j = 0; j < a->d; j++)
        CHECK(fabs((double)a->q16[j] * (double)a->s_q - q_float[j]) <=
                  (double)q_max / 65024 + 0x1p-22 * fabs(q_float[j]),
              "q[%zu]", j);
    a->scale_max = 0;
    for (size_t t = 0; t < a->tokens; t++) {
        uint8_t *slab = a->slabs[t / 64];
        size_t slot = t % 64;
        CHECK(fp__exact_kv_write(a->k[t], a->v[t], a->d, slab, slot), "kv_write");
        const uint8_t *scales = slab + 128 * a->d + 2 * slot;
        double s_k = (double)fp__bf16_float((uint16_t)(scales[0] | scales[1] << 8));
        double s_v = (double)fp__bf16_float((uint16_t)(scales[128] | scales[129] << 8));
        a->scale_max = s_v > a->scale_max ? s_v : a->scale_max;
        memcpy(x, a->k[t], sizeof x);
        fp__exact_rotate(x, a->d);
        int64_t dot = 0;
        double dot_float = 0;
        for (size_t j = 0; j < a->d; j++) {
            int8_t k8 = (int8_t)slab[slot * a->d + j], v8 = (int8_t)slab[64 * a->d + j * 64 + slot];
            double k_error = fabs(s_k * k8 - (double)x[j]), v = (double)a->v[t][j];
            CHECK(k_error <= s_k / 2 + 0x1p-22 * fabs((double)x[j]), "k[%zu][%zu]", t, j);
            CHECK(fabs(s_v * v8 - v) <= s_v / 2 + 0x1p-22 * fabs(v), "v[%zu][%zu]", t, j);
            dot += (int64_t)a->q16[j] * k8;
            dot_float += q_float[j] * (double)x[j];
            a->v_hat[t][j] = s_v * v8;
        }
        a->score[t] = (double)dot * (double)a->s_q * s_k;
        a->exact_score[t] = dot_float;
    }
}

/* Softmax in binary64 with the given scores (base 2) and values. */
static void attend64(const attention_case *a, const double *score, bool quantised, double *out)
{
    double m = -INFINITY, l = 0;
    for (size_t t = 0; t < a->tokens; t++)
        m = score[t] > m ? score[t] : m;
    for (size_t j = 0; j < a->d; j++)
        out[j] = 0;
    for (size_t t = 0; t < a->tokens; t++) {
        double p = exp2(score[t] - m);
        l += p;
        for (size_t j = 0; j < a->d; j++)
            out[j] += p * (quantised ? a->v_hat[t][j] : (double)a->v[t][j]);
    }
    for (size_t j = 0; j < a->d; j++)
        out[j] /= l;
}

/* With A = 128·max s_v ≥ |v|, X = max |score|, N pages (docs/arithmetic.md, "How wrong can it be?"):
 * integers:     ‖O - Ô‖∞ ≤ A·(2^-9 + 2^-20·X + 2^-20·N/16)
 * quantisation: ≤ max s_v/2·(1 + 2^-13) + A·(2^(2ε) - 1), ε the largest error of a score */
static void test_attention_bounds(void)
{
    const size_t ds[] = {64, 80, 96, 128}, lengths[] = {1, 63, 64, 65, 257, 1025, TOKENS_MAX};
    attention_case *a = &the_case;
    double worst = 0, worst_relative = 0;
    for (size_t k = 0; k < 4; k++)
        for (size_t n = 0; n < 7; n++)
            for (int kind = 0; kind < 5; kind++) {
                a->d = ds[k];
                a->tokens = lengths[n];
                paint_case(a, kind);
                quantise_case(a);
                size_t pages = (a->tokens + 63) / 64;
                const uint8_t *slabs[PAGES_MAX];
                uint8_t visible[PAGES_MAX];
                for (size_t p = 0; p < pages; p++) {
                    slabs[p] = a->slabs[p];
                    visible[p] = (uint8_t)(p + 1 < pages ? 64 : a->tokens - 64 * p);
                }
                fp__attn_state state, none;
                fp__exact_attend(a->q16, a->s_q, a->d, slabs, visible, pages, &state);
                fp__exact_state_init(&none, a->d);
                float out[D_MAX];
                CHECK(fp__exact_mix(&none, &state, FP__FLOOR, 100, a->d, out) == 0.0f, "no anchor, no share");
                double same[D_MAX], full[D_MAX], x_max = 0, epsilon = 0, error = 0, norm = 0;
                attend64(a, a->score, true, same);
                attend64(a, a->exact_score, false, full);
                for (size_t t = 0; t < a->tokens; t++) {
                    double e = fabs(a->score[t] - a->exact_score[t]);
                    x_max = fabs(a->score[t]) > x_max ? fabs(a->score[t]) : x_max;
                    epsilon = e > epsilon ? e : epsilon;
                }
                double amax = 128 * a->scale_max;
                double bound = amax * (0x1p-9 + 0x1p-20 * x_max + 0x1p-20 * (double)pages / 16);
                double whole = bound + a->scale_max / 2 * (1 + 0x1p-13) + amax * (exp2(2 * epsilon) - 1);
                for (size_t j = 0; j < a->d; j++) {
                    double e = fabs((double)out[j] - same[j]);
                    CHECK(e <= bound, "d %zu, %zu tokens, kind %d: %g above %g", a->d, a->tokens, kind, e,
                          bound);
                    CHECK(fabs((double)out[j] - full[j]) <= whole, "whole bound, kind %d", kind);
                    worst = e / bound > worst ? e / bound : worst;
                    error += e * e;
                    norm += same[j] * same[j];
                }
                worst_relative = error / norm > worst_relative ? error / norm : worst_relative;
            }
    printf("attention: at most %.3f of the bound; relative error of integers %.2e\n", worst,
           sqrt(worst_relative));
}

static void test_page_bounds(void)
{
    attention_case *a = &the_case;
    for (int trial = 0; trial < 200; trial++) {
        a->d = 64;
        a->tokens = 1 + random64() % 64;
        paint_case(a, trial % 5);
        quantise_case(a);
        fp__page_partial p;
        fp__exact_page_partial(a->q16, a->s_q, 64, a->slabs[0], a->tokens, &p);
        double mass = 0, worst = 0;
        for (size_t t = 0; t < a->tokens; t++) {
            float x = (float)(a->score[t]) - p.m; /* may differ from x_t by roundings of the score only */
            float e = fp__exp2c(x > 0 ? 0 : x);
            double exact = exp2((double)(x > 0 ? 0 : x)),
                   step = fabs((double)rintf(e * 65535.0f) / 65535 - exact);
            worst = step > worst ? step : worst;
            mass += exact;
        }
        CHECK(worst <= 0x1p-17 * (1 + 0x1p-7), "P is off by %g", worst);
        double lost = fabs((double)p.l / 65535 - mass);
        CHECK(lost <= 63 * 0x1p-17 * (1 + 0x1p-7) + 0x1p-18 * mass, "mass off by %g", lost);
    }
}

/* ---- §7 ---- */

static void test_philox(void)
{
    /* known answers of the Random123 distribution (kat_vectors, philox4x32 10) */
    static const struct {
        uint32_t counter[4], key[2], want[4];
    } known[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < 3; i++) {
        uint32_t out[4];
        fp__philox4x32(known[i].counter, known[i].key, out);
        CHECK(memcmp(out, known[i].want, sizeof out) == 0, "known answer %zu", i);
    }
    const uint32_t counter[4] = {5, 7, 9, 0}, key[2] = {1, 2};
    uint32_t out[4];
    fp__philox4x32(counter, key, out);
    CHECK(fp__rng_draw((uint64_t)2 << 32 | 1, (uint64_t)7 << 32 | 5, 9) == (out[0] | (uint64_t)out[1] << 32),
          "seed, position and choice take their places");
}

typedef struct naive_token {
    float x;
    uint32_t id;
    uint64_t w;
} naive_token;
static int by_order(const void *a, const void *b)
{
    const naive_token *s = a, *t = b;
    if (s->x != t->x)
        return s->x > t->x ? -1 : 1;
    return s->id < t->id ? -1 : 1;
}

/* The definition in sampling.h, line by line, with a full sort. */
static uint32_t naive_sample(const fp__sampling *p, const float *logits, size_t vocabulary,
                             const uint32_t *history, size_t n, uint64_t position, uint32_t choice)
{
    naive_token *all = calloc(vocabulary, sizeof *all);
    uint32_t *counts = calloc(vocabulary, sizeof *counts);
    FP_CHECK(all && counts);
    for (size_t i = 0; i < vocabulary; i++)
        all[i] = (naive_token){logits[i] + 0.0f, (uint32_t)i, 0};
    for (size_t i = 0; i < p->biases; i++)
        all[p->bias[i].token].x += p->bias[i].bias;
    for (size_t i = 0; i < n; i++)
        counts[history[i]]++;
    for (size_t i = 0; i < vocabulary; i++) {
        float x = all[i].x;
        if (counts[i] > 0) {
            x = x > 0 ? x / p->repetition : x * p->repetition;
            x = x - (float)counts[i] * p->frequency;
            x = x - p->presence;
        }
        all[i].x = x + 0.0f;
    }
    qsort(all, vocabulary, sizeof *all, by_order);
    uint32_t token = all[0].id;
    if (p->temperature > 0) {
        float scale = (float)(0x1.71547652b82fep+0 / p->temperature);
        for (size_t i = 0; i < vocabulary; i++)
            all[i].w = (uint64_t)((double)rintf(fp__exp2c((all[i].x - all[0].x) * scale) * 0x1p32f));
        size_t kept = p->top_k > 0 && p->top_k < vocabulary ? p->top_k : vocabulary;
        uint64_t total = 0, cum = 0;
        for (size_t i = 0; i < kept; i++)
            total += all[i].w;
        size_t prefix = 0;
        uint64_t share = (uint64_t)rint(p->top_p * 0x1p32), least = (uint64_t)rint(p->min_p * 0x1p32);
        do
            cum += all[prefix++].w;
        while (prefix < kept && (unsigned __int128)cum << 32 < (unsigned __int128)share * total);
        for (size_t i = 0; i < prefix; i++)
            if ((unsigned __int128)all[i].w << 32 < (unsigned __int128)least * all[0].w)
                all[i].w = 0;
        total = 0;
        for (size_t i = 0; i < prefix; i++)
            total += all[i].w;
        uint64_t target =
            (uint64_t)((unsigned __int128)fp__rng_draw(p->seed, position, choice) * total >> 64);
        cum = 0;
        size_t i = 0;
        while ((cum += all[i].w) <= target)
            i++;
        token = all[i].id;
    }
    free(all);
    free(counts);
    return token;
}

static void paint_logits(float *x, size_t n, int kind)
{
    for (size_t i = 0; i < n; i++)
        switch (kind) {
        case 0:
            x[i] = normal() * 6;
            break;
        case 1: /* many ties, ±0 */
            x[i] = (float)((int)(random64() % 7) - 3) * 0.5f;
            x[i] = x[i] == 0 && random64() % 2 ? -0.0f : x[i];
            break;
        case 2: /* all equal */
            x[i] = -3.25f;
            break;
        case 3: /* one far above */
            x[i] = i == n / 2 ? 90.0f : normal();
            break;
        case 4: /* large numbers: few bits left below the point */
            x[i] = 4.0e6f + normal() * 8;
            break;
        default: /* steps so small that z is the same for many */
            x[i] = 1.0f + (float)(random64() % 64) * 0x1p-23f;
            break;
        }
}

static void test_sampling(void)
{
    const size_t sizes[] = {1, 2, 63, 64, 65, 129, 1000, 5003};
    const double temperatures[] = {0, 1, 0.7, 1.5, 10, 0x1p-20, 1000};
    const double top_ps[] = {1, 0.95, 0.5, 0.1, 0}, min_ps[] = {0, 0.05, 0.5, 1, 0x1p-32, 0x1p-20};
    static float logits[5003];
    size_t samples = 0;
    for (size_t k = 0; k < 8; k++) {
        size_t v = sizes[k];
        fp__sampler *sampler;
        CHECK(fp__sampler_create(v, NULL, &sampler) == FP_OK, "%s", fp_error_detail());
        for (int trial = 0; trial < 800; trial++) {
            paint_logits(logits, v, trial % 6);
            uint32_t history[50], tops[] = {0, 1, 2, 40, 70, (uint32_t)v, (uint32_t)(v / 2)};
            fp__logit_bias bias[3];
            for (size_t i = 0; i < 50; i++)
                history[i] = (uint32_t)(random64() % (i < 25 ? v : (v + 7) / 8));
            for (size_t i = 0; i < 3; i++)
                bias[i] = (fp__logit_bias){(uint32_t)(random64() % v), uniform() * 4};
            bool penalties = random64() % 3 == 0;
            fp__sampling p = {
                .temperature = temperatures[random64() % 7],
                .top_k = tops[random64() % 7],
                .top_p = top_ps[random64() % 5],
                .min_p = min_ps[random64() % 6],
                .repetition = penalties ? 1.25f : 1.0f,
                .frequency = penalties ? uniform() : 0.0f,
                .presence = penalties ? uniform() : 0.0f,
                .bias = bias,
                .biases = random64() % 4 == 0 ? 3 : 0,
                .seed = random64(),
            };
            CHECK(fp__sampling_check(&p, v) == FP_OK, "%s", fp_error_detail());
            uint32_t token = UINT32_MAX, choice = (uint32_t)(trial % 3);
            CHECK(fp__sample(sampler, &p, logits, history, 50, (uint64_t)trial, choice, &token) == FP_OK,
                  "%s", fp_error_detail());
            uint32_t want = naive_sample(&p, logits, v, history, 50, (uint64_t)trial, choice);
            CHECK(token == want, "V %zu T %g k %u p %g min %g kind %d: token %u, not %u", v, p.temperature,
                  p.top_k, p.top_p, p.min_p, trial % 6, token, want);
            samples++;
        }
        fp__sampler_destroy(sampler);
    }
    printf("sampling: %zu samples against the definition\n", samples);
}

static void test_sampling_errors(void)
{
    float logits[100];
    fp__sampler *sampler;
    const fp__sampling good = {.temperature = 1, .top_p = 1, .repetition = 1};
    uint32_t token, history[1] = {100};
    paint_logits(logits, 100, 0);
    CHECK(fp__sampler_create(100, NULL, &sampler) == FP_OK, "create");
    const float wrong[] = {NAN, INFINITY, -INFINITY};
    for (size_t i = 0; i < 6; i++) {
        size_t at = i < 3 ? 99 : 17;
        float keep = logits[at];
        logits[at] = wrong[i % 3];
        CHECK(fp__sample(sampler, &good, logits, NULL, 0, 0, 0, &token) == FP_NUMERIC, "not finite");
        CHECK(strstr(fp_error_detail(), at == 99 ? "token 99" : "token 17"), "%s", fp_error_detail());
        double logprob;
        CHECK(fp__sampler_logprob(sampler, logits, 3, &logprob) == FP_NUMERIC, "not finite");
        logits[at] = keep;
    }
    fp__sampling p = good;
    p.frequency = 1;
    CHECK(fp__sample(sampler, &p, logits, history, 1, 0, 0, &token) == FP_USAGE,
          "history token out of range");
    const fp__logit_bias bias = {100, 0}, huge = {0, INFINITY};
    struct {
        const char *word;
        fp__sampling p;
    } bad[] = {{"temperature", good}, {"temperature", good}, {"top_p", good},
               {"min_p", good},       {"repetition", good},  {"frequency", good},
               {"presence", good},    {"bias", good},        {"bias", good}};
    bad[0].p.temperature = -1;
    bad[1].p.temperature = NAN;
    bad[2].p.top_p = 1.01;
    bad[3].p.min_p = -0.5;
    bad[4].p.repetition = 0;
    bad[5].p.frequency = NAN;
    bad[6].p.presence = 1e9f;
    bad[7].p.bias = &bias;
    bad[8].p.bias = &huge;
    bad[7].p.biases = bad[8].p.biases = 1;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK(fp__sampling_check(&bad[i].p, 100) == FP_USAGE && strstr(fp_error_detail(), bad[i].word),
              "%s: %s", bad[i].word, fp_error_detail());
    fp__sampler_destroy(sampler);
    CHECK(fp__sampler_create(0, NULL, &sampler) == FP_LIMIT, "no tokens");
    CHECK(fp__sampler_create((size_t)1 << 21, NULL, &sampler) == FP_LIMIT, "too many tokens");
}

static void test_logprob(void)
{
    for (int i = 0; i < 20000; i++) {
        uint64_t w = random64() >> (11 + random64() % 53);
        w = w ? w : 1;
        double want = log((double)w * 0x1p-32), got = fp__exact_ln(w);
        CHECK(fabs(got - want) <= 0x1p-50 + 0x1p-51 * fabs(want), "ln %llu: %.17g, %.17g",
              (unsigned long long)w, got, want);
    }
    static float logits[3000];
    fp__sampler *sampler;
    CHECK(fp__sampler_create(3000, NULL, &sampler) == FP_OK, "create");
    for (int kind = 0; kind < 4; kind++) {
        paint_logits(logits, 3000, kind);
        double sum = 0;
        float max = logits[0];
        for (size_t i = 0; i < 3000; i++)
            max = logits[i] > max ? logits[i] : max;
        for (size_t i = 0; i < 3000; i++)
            sum += exp((double)(logits[i] - max));
        fp__token_logprob top[3000];
        CHECK(fp__sampler_top(sampler, logits, 3000, top) == FP_OK, "top");
        for (size_t i = 0; i < 3000; i++) {
            double want = (double)(logits[top[i].token] - max) - log(sum), got;
            CHECK(fabs(top[i].logprob - want) <= 1e-5 + 2e-7 * fabs(want), "%g, %g", top[i].logprob, want);
            CHECK(fp__sampler_logprob(sampler, logits, top[i].token, &got) == FP_OK && got == top[i].logprob,
                  "the same both ways");
            CHECK(i == 0 || logits[top[i - 1].token] >= logits[top[i].token], "in order");
            if (i > 20 && i < 2950)
                i += 37;
        }
        fp__token_logprob five[5];
        CHECK(fp__sampler_top(sampler, logits, 5, five) == FP_OK, "top 5");
        for (size_t i = 0; i < 5; i++)
            CHECK(five[i].token == top[i].token && five[i].logprob == top[i].logprob,
                  "a prefix of the order");
    }
    fp__sampler_destroy(sampler);
}

int main(void)
{
    test_exp2c();
    test_norm();
    test_quantise();
    test_rope();
    test_page_bounds();
    test_attention_bounds();
    test_philox();
    test_sampling();
    test_sampling_errors();
    test_logprob();
    if (failures)
        printf("%d checks failed\n", failures);
    return failures != 0;
}
