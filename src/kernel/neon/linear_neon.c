/* Linear layers with NEON and the dot product instructions (arithmetic §3, §4).
 *
 * The 4 lanes of a register are 4 rows (a quarter of a group): 16 weight bytes against 4 activation bytes,
 * chosen by lane, is one sdot. Quants of up to 6 bits are left unsigned (q + bias), which fits signed bytes;
 * their accumulators start from -bias·sum(x). 8-bit quants are made signed. Either way the accumulator ends
 * as the exact dot product of the block; the float steps are those of the definition, in its order, per lane.
 */
#include "kernel/linear.h"
#include "kernel/shape.h"

#include <arm_neon.h>

#define INLINE static inline __attribute__((always_inline))

enum { LANES = 4, QUARTERS = 4, PANEL = 8 }; /* rows of a register; registers of a group; most of a panel */

/* One quarter of a group at some block. */
typedef struct planes {
    const uint8_t *low, *high, *scale;
} planes;

INLINE uint8x16_t unpack_run(fp__shape s, planes p, size_t run)
{
    if (s.low_bytes == 512)
        return veorq_u8(vld1q_u8(p.low + run * 64), vdupq_n_u8(0x80));
    uint8x16_t plane = vld1q_u8(p.low + run % 4 * 64);
    uint8x16_t q = run < 4 ? vandq_u8(plane, vdupq_n_u8(15)) : vshrq_n_u8(plane, 4);
    if (s.high_bytes == 64) { /* bit `run` to bit 4 */
        uint8x16_t h = vshlq_u8(vld1q_u8(p.high), vdupq_n_s8((int8_t)(4 - (int)run)));
        q = vorrq_u8(q, vandq_u8(h, vdupq_n_u8(0x10)));
    } else if (s.high_bytes == 128) { /* bits 2f, 2f+1 to bits 4, 5 */
        uint8x16_t h =
            vshlq_u8(vld1q_u8(p.high + run / 4 * 64), vdupq_n_s8((int8_t)(4 - 2 * (int)(run % 4))));
        q = vorrq_u8(q, vandq_u8(h, vdupq_n_u8(0x30)));
    }
    return q;
}

INLINE float32x4_t load_f16(const uint8_t *p)
{
    uint64_t four;
    memcpy(&four, p, sizeof four);
    return vcvt_f32_f16(vreinterpret_f16_u64(vcreate_u64(four)));
}
INLINE uint32x4_t load_u8(const uint8_t *p)
{
    uint32_t four;
    memcpy(&four, p, sizeof four);
    return vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(four))));
}
INLINE int32x4_t load_i8(const uint8_t *p)
{
    uint32_t four;
    memcpy(&four, p, sizeof four);
    return vmovl_s16(vget_low_s16(vmovl_s8(vcreate_s8(four))));
}

/* Scales dw[2] (by half block) and minimum of block i of the segment, 4 rows from row `lane` of the group. */
INLINE void load_scales(int type, const uint8_t *scale, size_t lane, size_t i, float32x4_t dw[2],
                        float32x4_t *mw)
{
    *mw = vdupq_n_f32(0.0f);
    if (type == FP__Q6_K) {
        float32x4_t d = load_f16(scale + 256 + 2 * lane);
        for (size_t half = 0; half < 2; half++)
            dw[half] = vmulq_f32(d, vcvtq_f32_s32(load_i8(scale + i * 32 + half * 16 + lane)));
        return;
    }
    if (type == FP__Q4_K || type == FP__Q5_K) {
        uint32x4_t a = load_u8(scale + i * 16 + lane), b = load_u8(scale + 128 + i / 2 * 16 + lane);
        uint32x4_t high = vandq_u32(vshlq_u32(b, vdupq_n_s32(i % 2 ? -4 : 0)), vdupq_n_u32(15));
        uint32x4_t m = vorrq_u32(vshrq_n_u32(a, 6), vshlq_n_u32(high, 2));
        dw[0] = vmulq_f32(load_f16(scale + 192 + 2 * lane), vcvtq_f32_u32(vandq_u32(a, vdupq_n_u32(63))));
        *mw = vnegq_f32(vmulq_f32(load_f16(scale + 224 + 2 * lane), vcvtq_f32_u32(m)));
        return;
    }
    if (type == FP__Q4_1 || type == FP__Q5_1) {
        dw[0] = load_f16(scale + i * 64 + 2 * lane);
        *mw = load_f16(scale + i * 64 + 32 + 2 * lane);
    } else if (type == FP__Q4_0 || type == FP__Q5_0 || type == FP__Q8_0) {
        dw[0] = load_f16(scale + i * 32 + 2 * lane);
    } else {
        dw[0] = vreinterpretq_f32_u8(vld1q_u8(scale + i * 64 + 4 * lane));
    }
    dw[1] = dw[0];
}

/* -bias · sum of the token's block (or half block). */
INLINE int32x4_t start_from(fp__shape s, const fp__act_block *x, size_t slot, size_t half)
{
    return s.halves       ? vdupq_n_s32(x->minus32[half][slot])
           : s.bias == 16 ? vdupq_n_s32(2 * x->minus8[slot])
           : s.bias == 8  ? vdupq_n_s32(x->minus8[slot])
                          : vdupq_n_s32(0);
}

/* t[c·tokens + n] += run of the weights · run of the activations; run is a literal, as the lane must be. */
#define PANEL_RUN(run)                                                                                       \
    do {                                                                                                     \
        for (size_t c = 0; c < quarters; c++) {                                                              \
            int8x16_t w = vreinterpretq_s8_u8(unpack_run(s, p[c], run));                                     \
            for (size_t n = 0; n < tokens; n++)                                                              \
                t[c * tokens + n] = vdotq_laneq_s32(t[c * tokens + n], w, q[n][(run) / 4], (run) % 4);       \
        }                                                                                                    \
    } while (0)

/* seg[c·tokens + n] of one block; i is its place in the segment, first the panel's first quarter. */
INLINE void panel_block(int type, size_t quarters, size_t tokens, const planes *p, size_t first, size_t i,
                        const fp__act_block *x, size_t slot, float32x4_t *seg)
{
    fp__shape s = fp__shape_of(type);
    int8x16_t q[4][2];
    for (size_t n = 0; n < tokens; n++) {
        q[n][0] = vld1q_s8(x->q[slot + n]);
        q[n][1] = vld1q_s8(x->q[slot + n] + 16);
    }
    for (size_t half = 0; half < (s.halves ? 2 : 1); half++) {
        int32x4_t t[PANEL];
        for (size_t c = 0; c < quarters; c++)
            for (size_t n = 0; n < tokens; n++)
                t[c * tokens + n] = start_from(s, x, slot + n, half);
        if (!s.halves || half == 0) {
            PANEL_RUN(0);
            PANEL_RUN(1);
            PANEL_RUN(2);
            PANEL_RUN(3);
        }
        if (!s.halves || half == 1) {
            PANEL_RUN(4);
            PANEL_RUN(5);
            PANEL_RUN(6);
            PANEL_RUN(7);
        }
        for (size_t c = 0; c < quarters; c++) {
            float32x4_t dw[2], mw;
            load_scales(type, p[c].scale, (first + c) % QUARTERS * LANES, i, dw, &mw);
            for (size_t n = 0; n < tokens; n++) {
                float32x4_t *to = &seg[c * tokens + n];
                *to = vfmaq_f32(*to, vcvtq_f32_s32(t[c * tokens + n]), vmulq_n_f32(dw[half], x->d[slot + n]));
                if (s.minimum)
                    *to = vfmaq_f32(*to, mw, vdupq_n_f32(x->ds[slot + n]));
            }
        }
    }
}
#undef PANEL_RUN

typedef struct job {
    const fp__weight *w;
    const fp__act *act;
    const float *bias;
    float *y;
    size_t y_stride;
    bool accumulate;
} job;

INLINE void store_rows(const job *j, size_t quarter, size_t token, float32x4_t value)
{
    size_t row = quarter * LANES;
    if (row >= j->w->rows)
        return;
    float *y = j->y + token * j->y_stride + row;
    const float *bias = j->bias ? j->bias + row : NULL;
    if (j->w->rows - row >= LANES) {
        if (bias)
            value = vaddq_f32(value, vld1q_f32(bias));
        if (j->accumulate)
            value = vaddq_f32(vld1q_f32(y), value);
        vst1q_f32(y, value);
        return;
    }
    float lanes[LANES];
    vst1q_f32(lanes, value);
    for (size_t r = 0; r < j->w->rows - row; r++) {
        float v = bias ? lanes[r] + bias[r] : lanes[r];
        y[r] = j->accumulate ? y[r] + v : v;
    }
}

/* quarters × 4 rows from quarter `first`, tokens from `token` (all in one tile of 8). */
INLINE void panel(int type, size_t quarters, size_t tokens, const job *j, size_t first, size_t token)
{
    fp__shape s = fp__shape_of(type);
    const fp__weight *w = j->w;
    size_t blocks = w->cols / FP__BLOCK, slot = token % FP__ACT_TILE;
    const fp__act_block *x = fp__act_at(j->act, token, 0);
    planes p[QUARTERS];
    for (size_t c = 0; c < quarters; c++) {
        const uint8_t *data = w->data + (first + c) / QUARTERS * w->group_bytes;
        size_t lane = (first + c) % QUARTERS * LANES * 4;
        p[c] = (planes){data + lane, data + w->high_offset + lane, data + w->scale_offset};
    }
    float32x4_t y[PANEL];
    for (size_t i = 0; i < quarters * tokens; i++)
        y[i] = vdupq_n_f32(0.0f);
    for (size_t b = 0; b < blocks; b += FP__SEGMENT_BLOCKS) {
        size_t n = blocks - b < FP__SEGMENT_BLOCKS ? blocks - b : FP__SEGMENT_BLOCKS;
        float32x4_t seg[PANEL];
        for (size_t i = 0; i < quarters * tokens; i++)
            seg[i] = vdupq_n_f32(0.0f);
        for (size_t i = 0; i < n; i++, x++) {
            panel_block(type, quarters, tokens, p, first, i, x, slot, seg);
            for (size_t c = 0; c < quarters; c++) {
                p[c].low += s.low_bytes;
                p[c].high += s.high_bytes;
            }
        }
        for (size_t c = 0; c < quarters; c++)
            p[c].scale += FP__SEGMENT_BLOCKS * s.scale_bytes;
        for (size_t i = 0; i < quarters * tokens; i++)
            y[i] = vaddq_f32(y[i], seg[i]);
    }
    for (size_t c = 0; c < quarters; c++)
        for (size_t n = 0; n < tokens; n++)
            store_rows(j, first + c, token + n, y[c * tokens + n]);
}

/* Weights of one chunk of groups stay in the second-level cache while all tokens pass over them. */
enum { CHUNK_BYTES = 128 * 1024 };

INLINE void linear(int type, const job *j, size_t group_begin, size_t group_end)
{
    size_t tokens = j->act->tokens, chunk = CHUNK_BYTES / j->w->group_bytes + 1;
    for (size_t begin = group_begin; begin < group_end; begin += chunk) {
        size_t end = begin + chunk < group_end ? begin + chunk : group_end;
        for (size_t tile = 0; tile < tokens; tile += FP__ACT_TILE)
            for (size_t g = begin; g < end; g++) {
                size_t token = tile, stop = tile + FP__ACT_TILE < tokens ? tile + FP__ACT_TILE : tokens;
                for (; token + 4 <= stop; token += 4) {
                    panel(type, 2, 4, j, QUARTERS * g, token);
                    panel(type, 2, 4, j, QUARTERS * g + 2, token);
                }
                for (; token + 2 <= stop; token += 2)
                    panel(type, 4, 2, j, QUARTERS * g, token);
                if (token < stop)
                    panel(type, 4, 1, j, QUARTERS * g, token);
            }
    }
}

/* One function per type: everything about the type is then a constant. */
#define LINEAR_TYPE(T)                                                                                       \
    static __attribute__((noinline)) void linear_##T(const job *j, size_t group_begin, size_t group_end)     \
    {                                                                                                        \
        linear(FP__##T, j, group_begin, group_end);                                                          \
    }
FP__SHAPES(LINEAR_TYPE)

void fp__linear_neon(const fp__weight *w, const fp__act *act, size_t group_begin, size_t group_end,
                     const float *bias, float *y, size_t y_stride, bool accumulate)
{
    job j = {w, act, bias, y, y_stride, accumulate};
    switch (fp__shape_type(w->type)) {
#define LINEAR_CASE(T)                                                                                       \
    case FP__##T:                                                                                            \
        linear_##T(&j, group_begin, group_end);                                                              \
        break;
        FP__SHAPES(LINEAR_CASE)
    default:
        FP_CHECK(false); /* fp__weight_plan refuses other types */
    }
}

/* ---- §3 --------------------------------------------------------------------------------------------------
 */

/* One block of 32 into its slot; false if it is out of range (then it is zeros). No clamp is needed: where
 * the block is in range, |x|·(1/d) is below 127.5. */
INLINE bool quantise_block(const float *x, fp__act_block *to, size_t slot)
{
    float32x4_t v[8];
    uint32x4_t most = vdupq_n_u32(0);
    for (size_t i = 0; i < 8; i++) {
        v[i] = vld1q_f32(x + 4 * i);
        most = vmaxq_u32(most, vandq_u32(vreinterpretq_u32_f32(v[i]), vdupq_n_u32(0x7fffffffu)));
    }
    uint32_t amax = vmaxvq_u32(most);
    bool counts = amax >= FP__AMAX_FLOOR && amax < FP__AMAX_LIMIT;
    float d = counts ? fp__bits_float(amax) / 127.0f : 0.0f, inverse = counts ? 1.0f / d : 0.0f;
    uint32x4_t keep = vdupq_n_u32(counts ? ~0u : 0u);
    int32_t half[2];
    for (size_t h = 0; h < 2; h++) {
        int32x4_t q[4];
        for (size_t i = 0; i < 4; i++)
            q[i] = vandq_s32(vcvtnq_s32_f32(vmulq_n_f32(v[4 * h + i], inverse)), vreinterpretq_s32_u32(keep));
        int8x16_t bytes = vcombine_s8(vqmovn_s16(vcombine_s16(vqmovn_s32(q[0]), vqmovn_s32(q[1]))),
                                      vqmovn_s16(vcombine_s16(vqmovn_s32(q[2]), vqmovn_s32(q[3]))));
        vst1q_s8(to->q[slot] + 16 * h, bytes);
        half[h] = vaddlvq_s8(bytes);
    }
    to->d[slot] = d;
    to->ds[slot] = (float)(half[0] + half[1]) * d;
    to->minus8[slot] = -8 * (half[0] + half[1]);
    to->minus128[slot] = -128 * (half[0] + half[1]);
    to->minus32[0][slot] = -32 * half[0];
    to->minus32[1][slot] = -32 * half[1];
    return amax < FP__AMAX_LIMIT;
}

void fp__act_quantise_neon(const float *x, fp__act *act, size_t token, uint8_t *bad)
{
    for (size_t b = 0; b < act->blocks; b++)
        if (!quantise_block(x + b * FP__BLOCK, fp__act_at(act, token, b), token % FP__ACT_TILE))
            *bad = 1;
}
