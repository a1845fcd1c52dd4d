/* §7. From logits to a token: a function of logits, parameters, history, seed and position, the same on every
 * machine. The definition, over all V tokens:
 *
 *   x = logit + 0; x = x + bias (listed tokens, in list order)
 *   of a token that occurs `count` > 0 times in the history: x = x > 0 ? x / r : x · r (repetition),
 *     then x = x - (float)count · frequency, then x = x - presence
 *   x = x + 0 (no -0); any x that is not finite: FP_NUMERIC
 *   T = 0: the token with the largest x (ties: lowest id). Else
 *   z = (x - max x) · (float)(log2(e) / T), w = rint(exp2c(z) · 2^32)
 *   order: x descending, id ascending. Kept: the first top_k; of these (total = Σ w over them) the shortest
 *     prefix, of at least one token, with cum · 2^32 ≥ rint(top_p · 2^32) · total; of these the ones with
 *     w · 2^32 ≥ rint(min_p · 2^32) · w_first
 *   the token is the first kept one with cum > (r · kept_total) >> 64, r = fp__rng_draw(seed, position,
 * choice)
 *
 * The implementation orders only as much as the draw needs; tests compare it with the definition. */
#ifndef FP_EXACT_SAMPLING_H
#define FP_EXACT_SAMPLING_H
#include "core/error.h"
#include "exact/exact.h"

typedef struct fp__logit_bias {
    uint32_t token;
    float bias; /* |bias| ≤ 2^20 */
} fp__logit_bias;

typedef struct fp__sampling {
    double temperature;         /* 0: greedy; else 2^-20..2^20 */
    uint32_t top_k;             /* 0: off */
    double top_p;               /* 0..1; 1: off */
    double min_p;               /* 0..1; 0: off */
    float repetition;           /* 2^-10..2^10; 1: off */
    float frequency, presence;  /* -2^10..2^10; 0: off */
    const fp__logit_bias *bias; /* [biases], or NULL */
    size_t biases;
    uint64_t seed;
} fp__sampling;

/* Untrusted parameters: FP_USAGE names the one that is out of range. */
fp_status fp__sampling_check(const fp__sampling *params, size_t vocabulary) FP_WARN_UNUSED;

/* p[i] = exp2c((x[i] - max) · scale); returns Σ rint(p[i] · 2^32). x finite, max ≥ x[i], n ≤ 2^20. p may not
 * be x. Backends have vectorised ones (fp__kernel_ops.exp_weights). */
typedef uint64_t fp__exp_weights_fn(const float *x, size_t n, float max, float scale, float *p);
uint64_t fp__exact_exp_weights(const float *x, size_t n, float max, float scale, float *p);

/* Scratch for one thread at a time; about 28 bytes per vocabulary entry. 1 ≤ vocabulary ≤ 2^20. weights:
 * which implementation of the above to use, NULL for the scalar one. */
typedef struct fp__sampler fp__sampler;
fp_status fp__sampler_create(size_t vocabulary, fp__exp_weights_fn *weights,
                             fp__sampler **out) FP_WARN_UNUSED;
void fp__sampler_destroy(fp__sampler *sampler); /* NULL is fine */

/* The token for `position` (of the token being sampled, counted from the start of the sequence); `choice`
 * tells parallel answers to one prompt apart. params passed fp__sampling_check. history: tokens that count
 * for the penalties, in any order, with repetition (read only where a penalty is on). No allocation.
 * FP_NUMERIC: a logit is not finite; FP_USAGE: a history token is not in the vocabulary. */
fp_status fp__sample(fp__sampler *sampler, const fp__sampling *params, const float *logits,
                     const uint32_t *history, size_t history_tokens, uint64_t position, uint32_t choice,
                     uint32_t *token) FP_WARN_UNUSED;

/* Log-probability of `token` under the raw logits at T = 1, by fixed operations: z = (x -
 * max)·(float)log2(e), W = Σ rint(exp2c(z)·2^32) (an exact integer), logprob = (double)z_token·ln 2 - ln(W /
 * 2^32) in binary64 with fp__exact_ln. FP_NUMERIC: a logit is not finite. */
fp_status fp__sampler_logprob(fp__sampler *sampler, const float *logits, uint32_t token,
                              double *logprob) FP_WARN_UNUSED;
/* The n most likely tokens in order (n ≤ V), with their log-probabilities as above. */
typedef struct fp__token_logprob {
    uint32_t token;
    double logprob;
} fp__token_logprob;
fp_status fp__sampler_top(fp__sampler *sampler, const float *logits, size_t n,
                          fp__token_logprob *out) FP_WARN_UNUSED;
/* ln(w / 2^32), w ≥ 1, below 2^53; fixed binary64 operations, error below 2^-50 + 2^-51·|result|. */
double fp__exact_ln(uint64_t w);
#endif
