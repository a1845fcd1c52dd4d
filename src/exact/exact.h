/* Canonical arithmetic, version 1: THE definition. Scalar, readable, no tricks; every backend must equal it
 * bit for bit.
 *
 * Inside a block: integers (exact, any order). Across blocks: a fixed order of IEEE-754 binary32 operations.
 * `fmaf` only where written; the build switches contraction off. docs/arithmetic.md explains why; the §
 * numbers are its sections. A change of any rule here is a new FP__ARITHMETIC_VERSION.
 *
 * Functions that can meet a number outside of canonical range return false and write zeros (§0: NaN, Inf or
 * amax ≥ 2^48 at a quantiser, sumsq ≥ 2^100 at a norm); the caller ends the sequence with FP_NUMERIC. */
#ifndef FP_EXACT_EXACT_H
#define FP_EXACT_EXACT_H
#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { FP__ARITHMETIC_VERSION = 1 };
enum {
    FP__BLOCK = 32,
    FP__SEGMENT_BLOCKS = 8,
    FP__PAGE_TOKENS = 64,
    FP__SPAN_PAGES = 4,
    FP__CHUNK_SPANS = 4
};
enum { FP__HEAD_DIM_MAX = 512 };

static inline uint32_t fp__float_bits(float x)
{
    uint32_t b;
    memcpy(&b, &x, 4);
    return b;
}
static inline float fp__bits_float(uint32_t b)
{
    float x;
    memcpy(&x, &b, 4);
    return x;
}
/* 2^e, -126 ≤ e ≤ 127. */
static inline float fp__pow2(int e)
{
    return fp__bits_float((uint32_t)(e + 127) << 23);
}
static inline float fp__f16_float(uint16_t h) /* IEEE binary16 to binary32: exact */
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, e = h >> 10 & 31u, m = h & 1023u;
    if (e == 0)
        return fp__bits_float(sign | fp__float_bits((float)m * 0x1p-24f));
    return fp__bits_float(sign | (e == 31 ? 255u : e + 112) << 23 | m << 13);
}
static inline float fp__bf16_float(uint16_t h)
{
    return fp__bits_float((uint32_t)h << 16);
}

/* §1. 2^x for x ≤ 126, never NaN; 0.80 ulp; exp2c(0) = 1; 0 below -126. */
static inline float fp__exp2c(float x)
{
    if (x < -126.0f)
        return 0.0f;
    float t = x + 12582912.0f, n = t - 12582912.0f, f = x - n;
    float p = fmaf(0x1.3fa206p-13f, f, 0x1.5f0b82p-10f);
    p = fmaf(p, f, 0x1.3b30ap-7f);
    p = fmaf(p, f, 0x1.c6af76p-5f);
    p = fmaf(p, f, 0x1.ebfbd8p-3f);
    p = fmaf(p, f, 0x1.62e43p-1f);
    p = fmaf(p, f, 1.0f);
    return fp__bits_float(fp__float_bits(p) + ((uint32_t)(int32_t)n << 23));
}

/* §0. Largest |x| as bits; ordering of the bits is the ordering of the magnitudes. */
uint32_t fp__exact_amax_bits(const float *x, size_t n);
#define FP__AMAX_LIMIT 0x57800000u /* 2^48 */
#define FP__AMAX_FLOOR 0x1f800000u /* 2^-64 */

/* §2. y = x / rms(x) · w; n values. false unless sumsq < 2^100. */
float fp__exact_sumsq(const float *x, size_t n);
bool fp__exact_rmsnorm(const float *x, const float *w, float eps, size_t n, float *y);

/* §3. One block of activations. */
typedef struct fp__qblock {
    int8_t q[FP__BLOCK];
    float d;
} fp__qblock;
bool fp__exact_quantise_block(const float x[FP__BLOCK], fp__qblock *out);

/* §4. GGUF tensor types (numbers of the GGUF specification). */
typedef enum fp__wtype {
    FP__F32 = 0,
    FP__F16 = 1,
    FP__Q4_0 = 2,
    FP__Q4_1 = 3,
    FP__Q5_0 = 6,
    FP__Q5_1 = 7,
    FP__Q8_0 = 8,
    FP__Q4_K = 12,
    FP__Q5_K = 13,
    FP__Q6_K = 14,
    FP__BF16 = 30,
} fp__wtype;
/* Elements and bytes of one stored block; false if the type is not one of the above. */
bool fp__wtype_block(int type, size_t *elements, size_t *bytes);
const char *fp__wtype_name(int type); /* "Q4_1" or "unknown" */

/* 32 weights as §4 sees them: signed integers times a scale, one for each half where sub-blocks are of 16
 * (else equal), plus a minimum where the type has one. Weight j is (dw[j/16]·q[j]) + mw. */
typedef struct fp__wblock {
    int16_t q[FP__BLOCK];
    float dw[2];
    float mw;
    bool halves;  /* sub-blocks of 16 (Q6_K) */
    bool minimum; /* mw counts (Q4_1, Q5_1, Q4_K, Q5_K) */
} fp__wblock;
/* Block b (of 32) of one row of cols weights stored as `type`. F32, F16 and BF16 rows are quantised here by
 * §3; false if a value is out of range or a scale is not finite (refused at load). */
bool fp__exact_decode_block(int type, const uint8_t *row, size_t b, fp__wblock *out);
/* One output: cols weights (a multiple of 32) times cols/32 activation blocks; no bias. */
float fp__exact_dot(int type, const uint8_t *row, size_t cols, const fp__qblock *x);
/* The same over decoded blocks; what fp__exact_dot does per segment. */
float fp__exact_dot_blocks(const fp__wblock *w, const fp__qblock *x, size_t blocks);
/* Embedding lookup: out[cols] = dw·q + mw. */
bool fp__exact_embed(int type, const uint8_t *row, size_t cols, float *out);

/* §5. Rotation of one head x[d] (first n_rot dimensions) by entries c, s [n_rot/2]. */
typedef enum fp__rope_layout {
    FP__ROPE_PAIRS,
    FP__ROPE_HALVES
} fp__rope_layout; /* llama: (2i, 2i+1); qwen: (i, i+n/2) */
void fp__exact_rope(float *x, size_t n_rot, fp__rope_layout layout, const float *c, const float *s);

/* §6. Slab of one page, layer and KV head: K int8 [64][d], V int8 [d][64], s_k bf16 [64], s_v bf16 [64]. */
static inline size_t fp__slab_bytes(size_t d)
{
    return 128 * d + 256;
}
size_t fp__exact_hadamard_size(size_t d); /* H: largest power of two dividing d */
/* x[d] ← WHT(σ·x), the rotation of k and q. */
void fp__exact_rotate(float *x, size_t d);
/* (float)(log2(e) / sqrt(d) / H), in binary64. */
float fp__exact_query_factor(size_t d);
/* q[d] after RoPE → 16-bit integers and scale. */
bool fp__exact_query(const float *q, size_t d, int16_t *q16, float *s_q);
/* k[d] and v[d] (k after RoPE) written into token slot 0..63 of a slab. On failure the one that failed (or
 * both) is zero in the slot. */
bool fp__exact_kv_write(const float *k, const float *v, size_t d, uint8_t *slab, size_t slot);

/* Partial result of one query row over the first `visible` (≥ 1) tokens of a page. */
typedef struct fp__page_partial {
    float m;
    int32_t l;
    int32_t e;
    int32_t o[FP__HEAD_DIM_MAX];
} fp__page_partial;
void fp__exact_page_partial(const int16_t *q16, float s_q, size_t d, const uint8_t *slab, size_t visible,
                            fp__page_partial *out);

/* Running softmax state of one query row; start: m = -inf, l = 0, o = 0. */
typedef struct fp__attn_state {
    float m, l;
    float o[FP__HEAD_DIM_MAX];
} fp__attn_state;
void fp__exact_state_init(fp__attn_state *s, size_t d);
void fp__exact_merge_page(fp__attn_state *s, const fp__page_partial *p, size_t d);
void fp__exact_merge_state(fp__attn_state *s, const fp__attn_state *from,
                           size_t d); /* from.m = -inf: not merged */
/* One whole segment in canonical order: pages in spans of 4, spans in chunks of 4, chunks in order.
 * visible[p] 0..64. */
void fp__exact_attend(const int16_t *q16, float s_q, size_t d, const uint8_t *const *slabs,
                      const uint8_t *visible, size_t pages, fp__attn_state *out);

typedef enum fp__injection_mode { FP__COMPETE, FP__FLOOR, FP__RESERVE } fp__injection_mode;
/* out[d] and the anchor's share α from the two states (either may be empty, not both); g = γ·65536, 0..65536.
 */
float fp__exact_mix(const fp__attn_state *anchor, const fp__attn_state *context, fp__injection_mode mode,
                    uint32_t g, size_t d, float *out);

/* §7. silu(g)·u. */
static inline float fp__exact_silu_mul(float g, float u)
{
    float z = -g * 0x1.715476p+0f;
    return (g / (1.0f + fp__exp2c(z < 126.0f ? z : 126.0f))) * u;
}
#endif
