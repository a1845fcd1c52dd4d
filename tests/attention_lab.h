/* Cases of attention for tests/cuda_attention.c: sequences over painted pages with anchors, prefixes and
 * partial pages, and what the definition gives for them. */
#ifndef FP_TESTS_ATTENTION_LAB_H
#define FP_TESTS_ATTENTION_LAB_H
#include "attention_paint.h"
#include "cuda_lab.h"
#include "fieldprint/cuda_attention.h"

#include <pthread.h>
#include <unistd.h>

struct lab {
    uint32_t d, heads, kv_heads, group, tokens, layers, layer;
    uint32_t pool_pages;
    size_t slab_bytes, group_bytes, layer_offset;
    uint8_t *pool;   // [pool_pages][layers][HK][slab]
    int16_t *q16;    // [T][H][d]
    int8_t *planes;  // [T][H][2][d]
    float *s_q;      // [T][H]
    uint32_t *gamma; // [GAMMA_ROWS][H]
    fp_cuda_attention_sequence *sequences;
    size_t n;
    float *out, *alpha; // expected
    size_t next_row;    // work counter of the reference threads
    pthread_mutex_t lock;
};
enum { GAMMA_ROWS = 3 };

static uint32_t seen_tokens(const fp_cuda_attention_segment *s, uint32_t p, uint32_t i)
{
    if (p < s->causal_page)
        return s->filled ? s->filled[p] : 64;
    uint32_t seen = s->causal_tokens + i + 1, before = (p - s->causal_page) * 64;
    return seen <= before ? 0 : seen - before < 64 ? seen - before : 64;
}

static void expect_segment(const struct lab *c, const fp_cuda_attention_segment *s, uint32_t i,
                           uint32_t kv_head, const int16_t *q16, float s_q, fp__attn_state *out)
{
    const uint8_t **slabs = allocate(s->n_pages * sizeof *slabs);
    uint8_t *visible = allocate(s->n_pages);
    for (uint32_t p = 0; p < s->n_pages; p++) {
        slabs[p] = c->pool + s->pages[p] * c->group_bytes + c->layer_offset + kv_head * c->slab_bytes;
        visible[p] = (uint8_t)seen_tokens(s, p, i);
    }
    fp__exact_attend(q16, s_q, c->d, slabs, visible, s->n_pages, out);
    free(slabs);
    free(visible);
}

static void expect_row(const struct lab *c, uint32_t token, uint32_t head)
{
    const fp_cuda_attention_sequence *s = NULL;
    for (size_t i = 0; i < c->n; i++)
        if (token >= c->sequences[i].first_token &&
            token < c->sequences[i].first_token + c->sequences[i].tokens)
            s = &c->sequences[i];
    size_t row = (size_t)token * c->heads + head;
    fp__attn_state anchor, context;
    uint32_t i = token - s->first_token, kv_head = head / c->group;
    expect_segment(c, &s->anchor, i, kv_head, c->q16 + row * c->d, c->s_q[row], &anchor);
    expect_segment(c, &s->context, i, kv_head, c->q16 + row * c->d, c->s_q[row], &context);
    c->alpha[row] = fp__exact_mix(&anchor, &context, (fp__injection_mode)s->mode,
                                  c->gamma[s->gamma_row * c->heads + head], c->d, c->out + row * c->d);
}

static void *reference_thread(void *arg)
{
    struct lab *c = arg;
    for (;;) {
        pthread_mutex_lock(&c->lock);
        size_t first = c->next_row;
        c->next_row += 8;
        pthread_mutex_unlock(&c->lock);
        size_t rows = (size_t)c->tokens * c->heads;
        for (size_t r = first; r < first + 8 && r < rows; r++)
            expect_row(c, (uint32_t)(r / c->heads), (uint32_t)(r % c->heads));
        if (first + 8 >= rows)
            return NULL;
    }
}

static void expect_all(struct lab *c)
{
    pthread_t threads[64];
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    n = n > 64 ? 64 : n;
    c->next_row = 0;
    pthread_mutex_init(&c->lock, NULL);
    for (long i = 0; i < n; i++)
        pthread_create(&threads[i], NULL, reference_thread, c);
    for (long i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
}

static void make_segment(const struct lab *c, uint32_t prefix, uint32_t causal_tokens, uint32_t tokens,
                         bool causal, fp_cuda_attention_segment *s)
{
    uint32_t tail = causal ? (causal_tokens + tokens + 63) / 64 : 0;
    uint32_t *pages = allocate((prefix + tail + 1) * sizeof *pages);
    uint8_t *filled = random_below(3) ? allocate(prefix) : NULL;
    for (uint32_t p = 0; p < prefix + tail; p++)
        pages[p] = random_below(c->pool_pages);
    for (uint32_t p = 0; filled && p < prefix; p++)
        filled[p] = (uint8_t)(random_below(3) ? 64 : 1 + random_below(64));
    s->pages = pages;
    s->filled = filled;
    s->n_pages = prefix + tail;
    s->causal_page = prefix;
    s->causal_tokens = causal_tokens;
}

static void make_lab(struct lab *c, uint32_t d, uint32_t kv_heads, uint32_t group, uint32_t tokens,
                     uint32_t pool_pages, int paint)
{
    memset(c, 0, sizeof *c);
    c->d = d, c->kv_heads = kv_heads, c->group = group, c->heads = kv_heads * group, c->tokens = tokens;
    c->layers = 2, c->layer = random_below(2), c->pool_pages = pool_pages;
    c->slab_bytes = fp__slab_bytes(d);
    c->group_bytes = c->layers * kv_heads * c->slab_bytes;
    c->layer_offset = c->layer * kv_heads * c->slab_bytes;
    c->pool = allocate(pool_pages * c->group_bytes);
    for (size_t i = 0; i < (size_t)pool_pages * c->layers * kv_heads; i++)
        paint_slab(paint == PAINTS ? (int)random_below(PAINTS) : paint, d, c->pool + i * c->slab_bytes);
    size_t rows = (size_t)tokens * c->heads;
    c->q16 = allocate(rows * d * sizeof *c->q16);
    c->planes = allocate(rows * d * 2);
    c->s_q = allocate(rows * sizeof *c->s_q);
    for (size_t r = 0; r < rows; r++) {
        paint_query(paint == PAINTS ? (int)random_below(PAINTS) : paint, r, d, c->q16 + r * d, &c->s_q[r]);
        for (size_t j = 0; j < d; j++) {
            int q = c->q16[r * d + j], hi = (q + 128) >> 8;
            c->planes[r * 2 * d + j] = (int8_t)hi;
            c->planes[r * 2 * d + d + j] = (int8_t)(q - 256 * hi);
        }
    }
    c->gamma = allocate(GAMMA_ROWS * c->heads * sizeof *c->gamma);
    for (size_t i = 0; i < GAMMA_ROWS * (size_t)c->heads; i++)
        c->gamma[i] = random_below(4) == 0 ? 0 : random_below(4) == 0 ? 65536 : random_below(65537);
    c->out = allocate(rows * d * sizeof *c->out);
    c->alpha = allocate(rows * sizeof *c->alpha);
}

static void free_lab(struct lab *c)
{
    for (size_t i = 0; i < c->n; i++) {
        bool shared = false;
        for (size_t k = 0; k < i; k++)
            shared = shared || c->sequences[k].anchor.pages == c->sequences[i].anchor.pages;
        if (!shared) {
            free((void *)c->sequences[i].anchor.pages);
            free((void *)c->sequences[i].anchor.filled);
        }
        free((void *)c->sequences[i].context.pages);
        free((void *)c->sequences[i].context.filled);
    }
    free(c->sequences), free(c->pool), free(c->q16), free(c->planes), free(c->s_q), free(c->gamma),
        free(c->out);
    free(c->alpha);
}

/* Sequences of a case. tokens_max: query tokens per sequence; anchors: 0 none, 1 own, 2 some shared, 3 one
 * for all. */
static void make_sequences(struct lab *c, size_t n, uint32_t tokens_max, int anchors, uint32_t anchor_pages,
                           uint32_t context_pages)
{
    c->n = n;
    c->sequences = allocate(n * sizeof *c->sequences);
    uint32_t token = 0;
    for (size_t i = 0; i < n; i++) {
        fp_cuda_attention_sequence *s = &c->sequences[i];
        s->first_token = token;
        s->tokens = i + 1 == n ? c->tokens - token : 1 + random_below(tokens_max);
        if (i + 1 < n && token + s->tokens + (n - i - 1) > c->tokens)
            s->tokens = 1;
        token += s->tokens;
        s->mode = random_below(3);
        s->gamma_row = random_below(GAMMA_ROWS);
        if (anchors == 3 && i > 0)
            s->anchor = c->sequences[0].anchor;
        else if (anchors == 2 && i > 0 && random_below(2))
            s->anchor = c->sequences[random_below((uint32_t)i)].anchor;
        else
            make_segment(c, anchors ? random_below(anchor_pages + 1) : 0, 0, 0, false, &s->anchor);
        bool empty = s->anchor.n_pages && random_below(6) == 0;
        uint32_t prefix = random_below(2) ? random_below(context_pages + 1) : 0;
        make_segment(c, empty ? 0 : prefix, random_below(context_pages * 64 + 1), s->tokens, !empty,
                     &s->context);
    }
}
#endif
