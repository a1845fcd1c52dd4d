#include "cache/page.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "slabs hold little-endian numbers");

enum { TOKENS = FP__PAGE_TOKENS, SLABS_MAX = 1 << 20 };

fp_status fp__page_geometry_check(const fp__page_geometry *g)
{
    if (g->layers < 1 || g->layers > UINT16_MAX || g->kv_heads < 1 || g->kv_heads > UINT16_MAX ||
        g->layers * g->kv_heads > SLABS_MAX || g->d < 1 || g->d > FP__HEAD_DIM_MAX)
        return fp__fail(
            FP_UNSUPPORTED,
            "K/V of %zu layers, %zu KV heads and head size %zu do not fit the page format (head size 1 "
            "to %d, layers times heads 1 to %d)",
            g->layers, g->kv_heads, g->d, (int)FP__HEAD_DIM_MAX, (int)SLABS_MAX);
    return FP_OK;
}

void fp__page_zero_slots(uint8_t *slab, size_t d, size_t first, size_t n)
{
    FP_CHECK(first + n <= TOKENS);
    memset(slab + first * d, 0, n * d);
    for (size_t j = 0; j < d; j++)
        memset(slab + TOKENS * d + j * TOKENS + first, 0, n);
    memset(slab + 128 * d + 2 * first, 0, 2 * n);
    memset(slab + 128 * d + 128 + 2 * first, 0, 2 * n);
}

void fp__page_copy_slots(uint8_t *to, const uint8_t *from, size_t d, size_t n)
{
    memcpy(to, from, fp__slab_bytes(d));
    fp__page_zero_slots(to, d, n, TOKENS - n);
}

/* Weights are arbitrary odd numbers, the same on every machine (splitmix64). */
static uint64_t next_odd(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (z ^ z >> 31) | 1;
}

static void fill_odd(uint64_t *out, size_t n, uint64_t *state)
{
    for (size_t i = 0; i < n; i++)
        out[i] = next_odd(state);
}

void fp__page_weights_init(fp__page_weights *w, size_t d)
{
    uint64_t state = 0x6669656c64707269u;
    *w = (fp__page_weights){.d = d};
    fill_odd(w->k_word, (d + 7) / 8, &state);
    fill_odd(w->k_token, TOKENS, &state);
    fill_odd(w->v_row, d, &state);
    fill_odd(w->v_word, 8, &state);
    fill_odd(w->scale_k, TOKENS, &state);
    fill_odd(w->scale_v, TOKENS, &state);
}

static inline uint64_t load64(const uint8_t *p)
{
    uint64_t x;
    memcpy(&x, p, 8);
    return x;
}

static uint64_t sum_k_token(const fp__page_weights *w, const uint8_t *row)
{
    uint64_t sum = 0;
    size_t words = w->d / 8, rest = w->d % 8;
    for (size_t i = 0; i < words; i++)
        sum += load64(row + 8 * i) * w->k_word[i];
    if (rest) {
        uint64_t x = 0;
        memcpy(&x, row + 8 * words, rest);
        sum += x * w->k_word[words];
    }
    return sum;
}

/* Word column `word` of V, the bytes of tokens [first, last) of it. */
static uint64_t sum_v_word(const fp__page_weights *w, const uint8_t *v, size_t word, size_t first,
                           size_t last)
{
    size_t lo = first > 8 * word ? first - 8 * word : 0, hi = last < 8 * word + 8 ? last - 8 * word : 8;
    uint64_t mask = (UINT64_MAX >> (64 - 8 * (hi - lo))) << (8 * lo), sum = 0;
    for (size_t j = 0; j < w->d; j++)
        sum += (load64(v + j * TOKENS + 8 * word) & mask) * w->v_row[j];
    return sum;
}

uint64_t fp__page_checksum(const fp__page_weights *w, const uint8_t *slab, size_t first, size_t n)
{
    size_t d = w->d, last = first + n;
    FP_CHECK(last <= TOKENS);
    if (n == 0)
        return 0;
    const uint8_t *v = slab + TOKENS * d, *s_k = slab + 128 * d, *s_v = s_k + 128;
    uint64_t sum = 0;
    for (size_t t = first; t < last; t++) {
        uint16_t k_scale, v_scale;
        memcpy(&k_scale, s_k + 2 * t, 2);
        memcpy(&v_scale, s_v + 2 * t, 2);
        sum +=
            sum_k_token(w, slab + t * d) * w->k_token[t] + k_scale * w->scale_k[t] + v_scale * w->scale_v[t];
    }
    for (size_t word = first / 8; word * 8 < last; word++)
        sum += sum_v_word(w, v, word, first, last) * w->v_word[word];
    return sum;
}
