#include "exact/sampling.h"

#include "core/arena.h"
#include "exact/rng.h"

enum { BLOCK = 64, WEIGHTS_CHUNK = 1024, VOCABULARY_MAX = 1 << 20 };
#define ONE_BITS 32      /* weights count in units of 2^-32 */
#define Z_NOTHING -34.0f /* a token with z below this has w = 0 */
static const double log2_e = 0x1.71547652b82fep+0, ln_2 = 0x1.62e42fefa39efp-1;

struct fp__sampler {
    size_t vocabulary, blocks;
    fp__exp_weights_fn *weights;
    uint64_t *keys, *spare; /* [V]: ~ordered(x) << 32 | id, ascending is canonical order */
    float *x;               /* [V] logits after bias and penalties */
    float *list_x, *p;      /* [V] of the candidates, in order */
    float *block_max;       /* [blocks] */
    uint32_t *counts;       /* [V], zero between calls */
    void *memory;
    size_t memory_bytes;
};

/* ---- scalar weights and logarithm ---- */

uint64_t fp__exact_exp_weights(const float *x, size_t n, float max, float scale, float *p)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < n; i++) {
        p[i] = fp__exp2c((x[i] - max) * scale);
        sum += (uint64_t)llrintf(p[i] * 0x1p32f);
    }
    return sum;
}

static uint64_t weight(float p)
{
    return (uint64_t)llrintf(p * 0x1p32f);
}

/* w = m·2^e with m in [3/4, 3/2): ln = e·ln 2 + 2·atanh((m-1)/(m+1)), atanh by its series. */
double fp__exact_ln(uint64_t w)
{
    int e = 63 - __builtin_clzll(w);
    uint64_t bits = (uint64_t)1023 << 52 | (w << (52 - e) & 0xfffffffffffffu);
    double m;
    memcpy(&m, &bits, 8);
    if (m >= 1.5) {
        m = m * 0.5;
        e++;
    }
    double s = (m - 1.0) / (m + 1.0), s2 = s * s, series = 0.0;
    for (int k = 21; k >= 1; k -= 2)
        series = series * s2 + 1.0 / k;
    return (double)(e - ONE_BITS) * ln_2 + 2.0 * s * series;
}

/* ---- parameters ---- */

static bool within(double v, double low, double high)
{
    return v >= low && v <= high; /* false for NaN */
}

fp_status fp__sampling_check(const fp__sampling *p, size_t vocabulary)
{
    if (p->temperature != 0.0 && !within(p->temperature, 0x1p-20, 0x1p20))
        return fp__fail(FP_USAGE, "temperature %g is neither 0 nor between 2^-20 and 2^20", p->temperature);
    if (!within(p->top_p, 0.0, 1.0))
        return fp__fail(FP_USAGE, "top_p %g is not between 0 and 1", p->top_p);
    if (!within(p->min_p, 0.0, 1.0))
        return fp__fail(FP_USAGE, "min_p %g is not between 0 and 1", p->min_p);
    if (!within((double)p->repetition, 0x1p-10, 0x1p10))
        return fp__fail(FP_USAGE, "repetition penalty %g is not between 2^-10 and 2^10",
                        (double)p->repetition);
    if (!within((double)p->frequency, -0x1p10, 0x1p10))
        return fp__fail(FP_USAGE, "frequency penalty %g is not between -1024 and 1024", (double)p->frequency);
    if (!within((double)p->presence, -0x1p10, 0x1p10))
        return fp__fail(FP_USAGE, "presence penalty %g is not between -1024 and 1024", (double)p->presence);
    for (size_t i = 0; i < p->biases; i++) {
        if (p->bias[i].token >= vocabulary)
            return fp__fail(FP_USAGE, "logit bias for token %u, but the vocabulary has %zu tokens",
                            p->bias[i].token, vocabulary);
        if (!within((double)p->bias[i].bias, -0x1p20, 0x1p20))
            return fp__fail(FP_USAGE, "logit bias %g of token %u is not between -2^20 and 2^20",
                            (double)p->bias[i].bias, p->bias[i].token);
    }
    return FP_OK;
}

fp_status fp__sampler_create(size_t vocabulary, fp__exp_weights_fn *weights, fp__sampler **out)
{
    if (vocabulary < 1 || vocabulary > VOCABULARY_MAX)
        return fp__fail(FP_LIMIT, "a vocabulary of %zu tokens: 1 to %d are supported", vocabulary,
                        VOCABULARY_MAX);
    size_t v = (vocabulary + BLOCK - 1) / BLOCK * BLOCK, blocks = v / BLOCK;
    size_t bytes = 2 * v * sizeof(uint64_t) + 4 * v * sizeof(float) + blocks * sizeof(float);
    fp__sampler *s = fp__mem_alloc(sizeof *s);
    uint8_t *memory = fp__mem_alloc(bytes);
    if (!s || !memory) {
        if (s)
            fp__mem_free(s, sizeof *s);
        if (memory)
            fp__mem_free(memory, bytes);
        return FP_NO_MEMORY;
    }
    s->vocabulary = vocabulary;
    s->blocks = blocks;
    s->weights = weights ? weights : fp__exact_exp_weights;
    s->memory = memory;
    s->memory_bytes = bytes;
    s->keys = (uint64_t *)(void *)memory;
    s->spare = s->keys + v;
    s->x = (float *)(void *)(s->spare + v);
    s->list_x = s->x + v;
    s->p = s->list_x + v;
    s->counts = (uint32_t *)(void *)(s->p + v);
    s->block_max = (float *)(void *)(s->counts + v);
    *out = s;
    return FP_OK;
}

void fp__sampler_destroy(fp__sampler *s)
{
    if (!s)
        return;
    fp__mem_free(s->memory, s->memory_bytes);
    fp__mem_free(s, sizeof *s);
}

/* ---- bias and penalties ---- */

static fp_status adjust(fp__sampler *s, const fp__sampling *p, const float *logits, const uint32_t *history,
                        size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (history[i] >= s->vocabulary)
            return fp__fail(FP_USAGE, "token %u of the history is not in the vocabulary of %zu", history[i],
                            s->vocabulary);
    for (size_t i = 0; i < s->vocabulary; i++)
        s->x[i] = logits[i] + 0.0f;
    for (size_t i = 0; i < p->biases; i++)
        s->x[p->bias[i].token] = s->x[p->bias[i].token] + p->bias[i].bias;
    for (size_t i = 0; i < n; i++)
        s->counts[history[i]]++;
    for (size_t i = 0; i < n; i++) {
        uint32_t t = history[i], count = s->counts[t];
        if (count == 0)
            continue; /* done at its first occurrence */
        s->counts[t] = 0;
        float x = s->x[t];
        x = x > 0.0f ? x / p->repetition : x * p->repetition;
        x = x - (float)count * p->frequency;
        x = x - p->presence;
        s->x[t] = x + 0.0f;
    }
    return FP_OK;
}

/* Largest of one block; *trace becomes NaN where one is not finite (∞·0 is NaN). */
static float block_max(const float *x, size_t n, float *trace)
{
    enum { LANES = 8 };
    float max[LANES], zero[LANES] = {0};
    for (size_t j = 0; j < LANES; j++)
        max[j] = -INFINITY;
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (size_t j = 0; j < LANES; j++) {
            max[j] = x[i + j] > max[j] ? x[i + j] : max[j];
            zero[j] = zero[j] + x[i + j] * 0.0f;
        }
    for (; i < n; i++) {
        max[0] = x[i] > max[0] ? x[i] : max[0];
        zero[0] = zero[0] + x[i] * 0.0f;
    }
    for (size_t k = LANES / 2; k > 0; k /= 2)
        for (size_t j = 0; j < k; j++) {
            max[j] = max[j + k] > max[j] ? max[j + k] : max[j];
            zero[j] = zero[j] + zero[j + k];
        }
    *trace = *trace + zero[0];
    return max[0];
}

/* block_max of 64 values each and the largest of all. */
static fp_status find_max(fp__sampler *s, const float *x, float *max)
{
    float all = -INFINITY, trace = 0.0f;
    for (size_t b = 0; b < s->blocks; b++) {
        size_t begin = b * BLOCK, n = s->vocabulary - begin < BLOCK ? s->vocabulary - begin : BLOCK;
        s->block_max[b] = n == BLOCK ? block_max(x + begin, BLOCK, &trace) : block_max(x + begin, n, &trace);
        all = s->block_max[b] > all ? s->block_max[b] : all;
    }
    *max = all;
    if (trace == 0.0f)
        return FP_OK;
    size_t i = 0;
    while (isfinite(x[i]))
        i++;
    return fp__fail(FP_NUMERIC, "the logit of token %zu is not finite", i);
}

static uint32_t first_equal(const fp__sampler *s, const float *x, float max)
{
    size_t b = 0;
    while (s->block_max[b] != max)
        b++;
    size_t i = b * BLOCK;
    while (x[i] != max)
        i++;
    return (uint32_t)i;
}

/* ---- candidates in canonical order ---- */

static uint64_t make_key(float x, size_t id)
{
    uint32_t bits = fp__float_bits(x + 0.0f);
    uint32_t ordered = bits ^ (bits >> 31 ? 0xffffffffu : 0x80000000u);
    return (uint64_t)~ordered << 32 | (uint64_t)id;
}

/* Ascending; ids are ascending already where x is equal, so that a stable sort by the upper halves will do.
 */
static void sort_keys(uint64_t *keys, uint64_t *spare, size_t n)
{
    if (n <= 64) {
        for (size_t i = 1; i < n; i++) {
            uint64_t k = keys[i];
            size_t j = i;
            for (; j > 0 && keys[j - 1] > k; j--)
                keys[j] = keys[j - 1];
            keys[j] = k;
        }
        return;
    }
    uint64_t *from = keys, *to = spare;
    for (int shift = 32; shift < 64; shift += 8) { /* four passes: the result is back in keys */
        size_t start[257] = {0};
        for (size_t i = 0; i < n; i++)
            start[(from[i] >> shift & 255) + 1]++;
        for (size_t d = 0; d < 256; d++)
            start[d + 1] += start[d];
        for (size_t i = 0; i < n; i++)
            to[start[from[i] >> shift & 255]++] = from[i];
        uint64_t *swap = from;
        from = to;
        to = swap;
    }
}

/* Keys of all tokens with x ≥ low, sorted. */
static size_t gather(fp__sampler *s, const float *x, float low)
{
    size_t n = 0;
    for (size_t b = 0; b < s->blocks; b++) {
        if (!(s->block_max[b] >= low))
            continue;
        size_t end = (b + 1) * BLOCK < s->vocabulary ? (b + 1) * BLOCK : s->vocabulary;
        for (size_t i = b * BLOCK; i < end; i++)
            if (x[i] >= low)
                s->keys[n++] = make_key(x[i], i);
    }
    sort_keys(s->keys, s->spare, n);
    return n;
}

/* The first k tokens in order (more may be sorted). k blocks have a maximum of at least the k-th largest
 * block maximum, so at least k tokens have; and few others do. */
static size_t gather_first(fp__sampler *s, const float *x, size_t k)
{
    float low = -INFINITY;
    if (k <= s->blocks) {
        for (size_t b = 0; b < s->blocks; b++)
            s->keys[b] = make_key(s->block_max[b], b);
        sort_keys(s->keys, s->spare, s->blocks);
        low = s->block_max[(uint32_t)s->keys[k - 1]];
    }
    size_t n = gather(s, x, low);
    return n < k ? n : k;
}

static void list_weights(fp__sampler *s, const float *x, size_t n, float max, float scale)
{
    for (size_t i = 0; i < n; i++)
        s->list_x[i] = x[(uint32_t)s->keys[i]];
    s->weights(s->list_x, n, max, scale, s->p);
}

static uint64_t sum_all(fp__sampler *s, const float *x, float max, float scale)
{
    uint64_t total = 0;
    for (size_t i = 0; i < s->vocabulary; i += WEIGHTS_CHUNK) {
        size_t n = s->vocabulary - i < WEIGHTS_CHUNK ? s->vocabulary - i : WEIGHTS_CHUNK;
        total += s->weights(x + i, n, max, scale, s->p);
    }
    return total;
}

/* Length of the shortest prefix of the list, of at least one token, with cum·2^32 ≥ share·total; 0 if the
 * list is too short. */
static size_t prefix_of(const fp__sampler *s, size_t n, uint64_t share, uint64_t total)
{
    unsigned __int128 need = (unsigned __int128)share * total;
    uint64_t cum = 0;
    for (size_t i = 0; i < n; i++) {
        cum += weight(s->p[i]);
        if ((unsigned __int128)cum << ONE_BITS >= need)
            return i + 1;
    }
    return 0;
}

/* First of the list with w·2^32 ≥ least·w_first and cum (over those) > target; n if none. */
static size_t walk(const fp__sampler *s, size_t n, uint64_t least, uint64_t target)
{
    uint64_t cum = 0, first = weight(s->p[0]);
    for (size_t i = 0; i < n; i++) {
        uint64_t w = weight(s->p[i]);
        if ((unsigned __int128)w << ONE_BITS < (unsigned __int128)least * first)
            continue;
        cum += w;
        if (cum > target)
            return i;
    }
    return n;
}

static uint64_t kept_total(const fp__sampler *s, size_t n, uint64_t least)
{
    uint64_t cum = 0, first = weight(s->p[0]);
    for (size_t i = 0; i < n; i++) {
        uint64_t w = weight(s->p[i]);
        if ((unsigned __int128)w << ONE_BITS >= (unsigned __int128)least * first)
            cum += w;
    }
    return cum;
}

static uint64_t draw_target(uint64_t r, uint64_t total)
{
    return (uint64_t)((unsigned __int128)r * total >> 64);
}

/* Candidates {z ≥ some level}, a prefix of the order, enlarged until they hold all that the filters and the
 * draw look at. Returns the index in the list. */
static size_t draw_from_all(fp__sampler *s, const float *x, float max, float scale, uint64_t share,
                            uint64_t least, uint64_t r)
{
    bool cut = share < (uint64_t)1 << ONE_BITS;
    uint64_t total = cut || least == 0 ? sum_all(s, x, max, scale) : 0;
    /* w ≥ least needs 2^z ≥ least/2^32 but for rounding: two binades below is safe */
    float z_least = least ? (float)(63 - __builtin_clzll(least) - ONE_BITS - 2) : Z_NOTHING;
    float z = -1.0f;
    for (;;) {
        z = 2.0f * z;
        if (!cut && least)
            z = z_least;
        bool last = z <= Z_NOTHING;
        /* any threshold in x gives a prefix; where rounding matters it is put lower */
        float low = last ? -INFINITY : max + (z - 0x1p-10f) / scale;
        if (!last && (max - low) * scale < -z) /* max so large that the step is lost */
            low = -INFINITY;
        last = last || low == -INFINITY;
        size_t n = gather(s, x, low);
        list_weights(s, x, n, max, scale);
        if (!cut && least)
            return walk(s, n, least, draw_target(r, kept_total(s, n, least)));
        if (cut) {
            n = prefix_of(s, n, share, total);
            if (n > 0)
                return walk(s, n, least, draw_target(r, kept_total(s, n, least)));
        } else {
            size_t i = walk(s, n, 0, draw_target(r, total));
            if (i < n)
                return i;
        }
        FP_CHECK(!last);
    }
}

fp_status fp__sample(fp__sampler *s, const fp__sampling *p, const float *logits, const uint32_t *history,
                     size_t history_tokens, uint64_t position, uint32_t choice, uint32_t *token)
{
    const float *x = logits;
    bool penalties = p->repetition != 1.0f || p->frequency != 0.0f || p->presence != 0.0f;
    float max;
    if (p->biases > 0 || (penalties && history_tokens > 0)) {
        FP_TRY(find_max(s, logits, &max)); /* names the token whose own logit is wrong */
        FP_TRY(adjust(s, p, logits, history, penalties ? history_tokens : 0));
        x = s->x;
    }
    FP_TRY(find_max(s, x, &max));
    if (p->temperature == 0.0) {
        *token = first_equal(s, x, max);
        return FP_OK;
    }
    float scale = (float)(log2_e / p->temperature);
    uint64_t share = (uint64_t)rint(p->top_p * 0x1p32), least = (uint64_t)rint(p->min_p * 0x1p32);
    uint64_t r = fp__rng_draw(p->seed, position, choice);
    size_t i;
    if (p->top_k > 0 && p->top_k < s->vocabulary) {
        size_t n = gather_first(s, x, p->top_k);
        list_weights(s, x, n, max, scale);
        n = prefix_of(s, n, share, kept_total(s, n, 0));
        i = walk(s, n, least, draw_target(r, kept_total(s, n, least)));
    } else {
        i = draw_from_all(s, x, max, scale, share, least, r);
    }
    *token = (uint32_t)s->keys[i];
    return FP_OK;
}

/* ---- log-probabilities ---- */

static double logprob_of(float x, float max, double ln_total)
{
    return (double)((x - max) * (float)log2_e) * ln_2 - ln_total;
}

fp_status fp__sampler_logprob(fp__sampler *s, const float *logits, uint32_t token, double *logprob)
{
    if (token >= s->vocabulary)
        return fp__fail(FP_USAGE, "token %u is not in the vocabulary of %zu", token, s->vocabulary);
    float max;
    FP_TRY(find_max(s, logits, &max));
    double ln_total = fp__exact_ln(sum_all(s, logits, max, (float)log2_e));
    *logprob = logprob_of(logits[token], max, ln_total);
    return FP_OK;
}

fp_status fp__sampler_top(fp__sampler *s, const float *logits, size_t n, fp__token_logprob *out)
{
    if (n < 1 || n > s->vocabulary)
        return fp__fail(FP_USAGE, "%zu most likely tokens of a vocabulary of %zu", n, s->vocabulary);
    float max;
    FP_TRY(find_max(s, logits, &max));
    double ln_total = fp__exact_ln(sum_all(s, logits, max, (float)log2_e));
    gather_first(s, logits, n);
    for (size_t i = 0; i < n; i++) {
        out[i].token = (uint32_t)s->keys[i];
        out[i].logprob = logprob_of(logits[out[i].token], max, ln_total);
    }
    return FP_OK;
}
