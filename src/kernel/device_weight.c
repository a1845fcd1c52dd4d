#include "kernel/device_weight.h"
#include "core/error.h"
#include "exact/exact.h"

typedef struct unit_shape {
    size_t low, high, scale;
} unit_shape;

#define SAME_NUMBER(name, number, low_bytes, high_bytes, scale_bytes)                                        \
    _Static_assert((int)FP__##name == number, "GGUF type number");
FP__DEVICE_TYPES(SAME_NUMBER)
#undef SAME_NUMBER

static bool unit_shape_of(int type, unit_shape *s)
{
    switch (type) {
#define CASE(name, number, low_bytes, high_bytes, scale_bytes)                                               \
    case FP__##name:                                                                                         \
        *s = (unit_shape){low_bytes, high_bytes, scale_bytes};                                               \
        return true;
        FP__DEVICE_TYPES(CASE)
#undef CASE
    default:
        return false;
    }
}

fp_status fp__device_weight_plan(int type, size_t rows, size_t cols, int gated, fp__device_weight *w)
{
    size_t elements = 0, stored = 0;
    unit_shape s = {0, 0, 0};
    int packed = type == FP__F16 || type == FP__BF16 ? FP__F32 : type;
    if (!fp__wtype_block(type, &elements, &stored) || !unit_shape_of(packed, &s))
        return fp__fail(FP_UNSUPPORTED,
                        "tensor type %d is not supported; convert the model to Q4_1, Q8_0 or F16", type);
    if (rows == 0 || cols == 0 || cols % elements != 0 || cols % FP__BLOCK != 0 || (gated && rows % 8 != 0))
        return fp__fail(FP_UNSUPPORTED, "a %s matrix of %zu rows of %zu is not supported on the GPU",
                        fp__wtype_name(type), rows, cols);
    if (rows > (size_t)1 << 30 || cols > (size_t)1 << 24)
        return fp__fail(FP_LIMIT, "a matrix of %zu rows of %zu is larger than the GPU kernels take", rows,
                        cols);
    *w = (fp__device_weight){.type = packed, .source_type = type, .gated = gated != 0, .cols = cols};
    w->rows = gated ? 2 * rows : rows;
    w->tiles = (w->rows + 15) / 16;
    w->segments = (cols + 255) / 256;
    w->unit_bytes = s.low + s.high + s.scale;
    w->bytes = w->tiles * w->segments * w->unit_bytes;
    return FP_OK;
}

static uint16_t load16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}
static void store16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

/* The 32 quants of block b (0..7) of row r (0..15), as the unit stores them. */
static void pack_quants(const unit_shape *s, uint8_t *unit, size_t r, size_t b, const int16_t *q)
{
    size_t g = r % 8, pair = b / 2, odd = b % 2;
    for (size_t j = 0; j < FP__BLOCK; j++) {
        size_t lane = 4 * g + j % 16 / 4, i = r / 8 + 2 * (j / 16), byte = j % 4;
        unsigned v = (unsigned)q[j];
        if (s->low == 4096) {
            unit[(b * 32 + lane) * 16 + 4 * i + byte] = (uint8_t)v;
            continue;
        }
        unit[(pair * 32 + lane) * 16 + 8 * odd + 4 * (r / 8) + byte] |= (uint8_t)((v & 15u) << 4 * (j / 16));
        if (s->high == 512)
            unit[s->low + (pair * 32 + lane) * 4 + byte] |= (uint8_t)((v >> 4 & 1u) << (4 * odd + i));
        else if (s->high == 1024)
            unit[s->low + (pair * 32 + lane) * 8 + 4 * odd + byte] |= (uint8_t)((v >> 4 & 3u) << 2 * i);
    }
}

/* Q4_K and Q5_K: 6-bit scale and minimum of sub-block s from the 12 bytes of a super-block. */
static void k_scale(const uint8_t *in, size_t s, uint8_t *out)
{
    out[0] = (uint8_t)(s < 4 ? in[s] & 63 : (in[s + 4] & 15) | (in[s - 4] >> 6) << 4);
    out[1] = (uint8_t)(s < 4 ? in[s + 4] & 63 : in[s + 4] >> 4 | (in[s] >> 6) << 4);
}

/* The scales of block b of a row; `stored` is the stored block that holds it. */
static void pack_scales(int type, uint8_t *scale, size_t r, size_t b, const uint8_t *stored, float dw)
{
    size_t slot = ((b / 2 * 8 + r % 8) * 2 + b % 2) * 2 + r / 8, row = r % 8 * 2 + r / 8;
    switch (type) {
    case FP__F32:
        memcpy(scale + 4 * slot, &dw, 4);
        break;
    case FP__Q4_1:
    case FP__Q5_1:
        store16(scale + 4 * slot, load16(stored));
        store16(scale + 4 * slot + 2, load16(stored + 2));
        break;
    case FP__Q4_K:
    case FP__Q5_K:
        k_scale(stored + 4, b, scale + 2 * slot);
        store16(scale + 256 + 4 * row, load16(stored));
        store16(scale + 256 + 4 * row + 2, load16(stored + 2));
        break;
    case FP__Q6_K:
        for (size_t half = 0; half < 2; half++)
            scale[(((b / 2 * 8 + r % 8) * 2 + b % 2) * 2 + half) * 2 + r / 8] =
                (uint8_t)(stored[192 + 2 * b + half] + 128u);
        store16(scale + 256 + 2 * row, load16(stored + 208));
        break;
    default:
        store16(scale + 2 * slot, load16(stored));
    }
}

static size_t place_row(fp__device_rows place, size_t first, size_t r)
{
    if (place == FP__ROWS_AT)
        return first + r;
    return r / 8 * 16 + r % 8 + (place == FP__ROWS_UP ? 8 : 0);
}

fp_status fp__device_weight_pack(const fp__device_weight *w, uint8_t *data, const uint8_t *stored,
                                 fp__device_rows place, size_t first, size_t begin, size_t end)
{
    size_t elements = 1, bytes = 0;
    unit_shape s = {0, 0, 0};
    FP_CHECK(fp__wtype_block(w->source_type, &elements, &bytes) && unit_shape_of(w->type, &s));
    FP_CHECK(w->gated == (place != FP__ROWS_AT) && begin <= end && (place == FP__ROWS_AT || first == 0));
    FP_CHECK(begin == end || place_row(place, first, end - 1) < w->rows);
    size_t row_bytes = w->cols / elements * bytes, blocks = w->cols / FP__BLOCK;
    for (size_t source = begin; source < end; source++) {
        const uint8_t *row = stored + source * row_bytes;
        size_t to = place_row(place, first, source), r = to % FP__DEVICE_TILE_ROWS;
        uint8_t *tile = data + to / FP__DEVICE_TILE_ROWS * w->segments * w->unit_bytes;
        for (size_t b = 0; b < blocks; b++) {
            fp__wblock block;
            if (!fp__exact_decode_block(w->source_type, row, b, &block))
                return fp__fail(
                    FP_FORMAT,
                    "row %zu of a %s matrix has a scale or a value that is not finite or too large; "
                    "the model file is damaged or was converted badly",
                    source, fp__wtype_name(w->source_type));
            uint8_t *unit = tile + b / FP__SEGMENT_BLOCKS * w->unit_bytes;
            pack_quants(&s, unit, r, b % FP__SEGMENT_BLOCKS, block.q);
            pack_scales(w->type, unit + s.low + s.high, r, b % FP__SEGMENT_BLOCKS,
                        row + b * FP__BLOCK / elements * bytes, block.dw[0]);
        }
    }
    return FP_OK;
}
