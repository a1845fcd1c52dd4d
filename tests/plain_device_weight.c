/* The weight layout of the GPU kernels, read back here as device_weight.h describes it: every weight of the
 * definition is where it should be, and whatever is beyond the matrix is zero. (bench/gpu reads it with the
 * kernels' own code.) */
#include "blocks.h"
#include "core/error.h"
#include "kernel/device_weight.h"

static int failures;
#define CHECK(cond, ...)                                                                                     \
    do {                                                                                                     \
        if (!(cond) && failures++ < 20) {                                                                    \
            printf("%s:%d: ", __FILE__, __LINE__);                                                           \
            printf(__VA_ARGS__);                                                                             \
            printf("\n");                                                                                    \
        }                                                                                                    \
    } while (0)

static float f16_at(const uint8_t *p)
{
    return fp__f16_float((uint16_t)(p[0] | p[1] << 8));
}

/* Quant j (0..31) of block b (0..7) of row r (0..15) of a unit, as stored: 4, 5, 6 or 8 bits. */
static unsigned quant_at(int type, const uint8_t *unit, size_t r, size_t b, size_t j)
{
    size_t lane = 4 * (r % 8) + j % 16 / 4, i = r / 8 + 2 * (j / 16), pair = b / 2, odd = b % 2, byte = j % 4;
    if (type == FP__Q8_0 || type == FP__F32)
        return unit[(b * 32 + lane) * 16 + 4 * i + byte];
    unsigned low = unit[(pair * 32 + lane) * 16 + 8 * odd + 4 * (r / 8) + byte],
             q = low >> 4 * (j / 16) & 15u;
    const uint8_t *high = unit + 2048;
    if (type == FP__Q5_0 || type == FP__Q5_1 || type == FP__Q5_K)
        q |= ((unsigned)high[(pair * 32 + lane) * 4 + byte] >> (4 * odd + i) & 1u) << 4;
    else if (type == FP__Q6_K)
        q |= ((unsigned)high[(pair * 32 + lane) * 8 + 4 * odd + byte] >> 2 * i & 3u) << 4;
    return q;
}

static void scales_at(int type, const uint8_t *scale, size_t r, size_t b, float dw[2], float *mw)
{
    size_t slot = ((b / 2 * 8 + r % 8) * 2 + b % 2) * 2 + r / 8, row = r % 8 * 2 + r / 8;
    *mw = 0.0f;
    if (type == FP__F32) {
        memcpy(dw, scale + 4 * slot, 4);
    } else if (type == FP__Q4_1 || type == FP__Q5_1) {
        dw[0] = f16_at(scale + 4 * slot);
        *mw = f16_at(scale + 4 * slot + 2);
    } else if (type == FP__Q4_K || type == FP__Q5_K) {
        dw[0] = f16_at(scale + 256 + 4 * row) * (float)scale[2 * slot];
        *mw = -(f16_at(scale + 256 + 4 * row + 2) * (float)scale[2 * slot + 1]);
    } else if (type == FP__Q6_K) {
        size_t at = slot / 2 * 4 + r / 8; /* [block][half][row] */
        dw[0] = f16_at(scale + 256 + 2 * row) * (float)(scale[at] - 128);
        dw[1] = f16_at(scale + 256 + 2 * row) * (float)(scale[at + 2] - 128);
        return;
    } else {
        dw[0] = f16_at(scale + 2 * slot);
    }
    dw[1] = dw[0];
}

static void check_row(const fp__device_weight *w, const uint8_t *data, size_t to, const uint8_t *stored)
{
    static const int signed_bits[15] = {
        [FP__F32] = 8, [FP__Q4_0] = 4, [FP__Q5_0] = 5, [FP__Q8_0] = 8, [FP__Q6_K] = 6};
    for (size_t b = 0; b < w->segments * 8; b++) {
        fp__wblock want = {0};
        bool inside = stored && b < w->cols / 32;
        if (inside)
            CHECK(fp__exact_decode_block(w->source_type, stored, b, &want), "test data");
        const uint8_t *unit = data + (to / 16 * w->segments + b / 8) * w->unit_bytes;
        for (size_t j = 0; j < 32; j++) {
            int bits = signed_bits[w->type], q = (int)quant_at(w->type, unit, to % 16, b % 8, j);
            q = bits && q >> (bits - 1) ? q - (1 << bits) : q;
            CHECK(q == want.q[j], "%s row %zu block %zu quant %zu: %d, not %d",
                  fp__wtype_name(w->source_type), to, b, j, q, want.q[j]);
        }
        static const size_t scale_at[15] = {
            [FP__F32] = 4096,  [FP__Q4_0] = 2048, [FP__Q4_1] = 2048, [FP__Q5_0] = 2560, [FP__Q5_1] = 2560,
            [FP__Q8_0] = 4096, [FP__Q4_K] = 2048, [FP__Q5_K] = 2560, [FP__Q6_K] = 3072};
        float dw[2], mw;
        scales_at(w->type, unit + scale_at[w->type], to % 16, b % 8, dw, &mw);
        CHECK(inside ? !memcmp(dw, want.dw, 8) && mw == want.mw
                     : dw[0] == 0.0f && dw[1] == 0.0f && mw == 0.0f,
              "%s row %zu block %zu: scales", fp__wtype_name(w->source_type), to, b);
    }
}

static void check_matrix(int type, size_t rows, size_t cols, int gated, blocks_paint paint)
{
    fp__device_weight w;
    CHECK(fp__device_weight_plan(type, rows, cols, gated, &w) == FP_OK, "plan");
    size_t row_bytes = blocks_row_bytes(type, cols);
    uint8_t *stored = malloc(2 * rows * row_bytes), *data = calloc(1, w.bytes);
    if (!stored || !data)
        abort();
    for (size_t r = 0; r < 2 * rows; r++)
        blocks_row(type, stored + r * row_bytes, cols, paint);
    const uint8_t *up = stored + rows * row_bytes;
    CHECK(fp__device_weight_pack(&w, data, stored, gated ? FP__ROWS_GATE : FP__ROWS_AT, 0, 0, rows) == FP_OK,
          "pack");
    if (gated)
        CHECK(fp__device_weight_pack(&w, data, up, FP__ROWS_UP, 0, 0, rows) == FP_OK, "pack");
    for (size_t to = 0; to < w.tiles * 16; to++) {
        size_t from = gated ? to / 16 * 8 + to % 8 : to;
        check_row(&w, data, to,
                  from >= rows ? NULL : (gated && to % 16 >= 8 ? up : stored) + from * row_bytes);
    }
    free(stored);
    free(data);
}

static void check_refused(void)
{
    fp__device_weight w;
    uint8_t row[2 * 18 * 8];
    CHECK(fp__device_weight_plan(99, 16, 256, 0, &w) == FP_UNSUPPORTED, "unknown type");
    CHECK(fp__device_weight_plan(FP__Q4_0, 16, 40, 0, &w) == FP_UNSUPPORTED, "cols not a multiple of 32");
    CHECK(fp__device_weight_plan(FP__Q4_K, 16, 288, 0, &w) == FP_UNSUPPORTED, "cols not a multiple of 256");
    CHECK(fp__device_weight_plan(FP__Q4_0, 20, 256, 1, &w) == FP_UNSUPPORTED,
          "gated rows not a multiple of 8");
    CHECK(fp__device_weight_plan(FP__Q4_0, 0, 256, 0, &w) == FP_UNSUPPORTED, "no rows");
    CHECK(fp__device_weight_plan(FP__Q4_0, (size_t)1 << 40, 256, 0, &w) == FP_LIMIT, "too many rows");
    CHECK(fp__device_weight_plan(FP__Q4_0, 2, 256, 0, &w) == FP_OK, "plan");
    blocks_row(FP__Q4_0, row, 256, BLOCKS_RANDOM);
    blocks_row(FP__Q4_0, row + 144, 256, BLOCKS_RANDOM);
    blocks_put16(row + 144 + 18, 0x7c00);
    uint8_t *data = calloc(1, w.bytes);
    if (!data)
        abort();
    CHECK(fp__device_weight_pack(&w, data, row, FP__ROWS_AT, 0, 0, 2) == FP_FORMAT,
          "an infinite scale was packed");
    CHECK(strstr(fp_error_detail(), "row 1 ") != NULL, "the message does not name the row: %s",
          fp_error_detail());
    free(data);
}

int main(void)
{
    for (size_t i = 0; i < BLOCK_TYPES; i++)
        for (int paint = 0; paint < BLOCKS_PAINTS; paint++) {
            size_t elements = 1, bytes = 0;
            CHECK(fp__wtype_block(block_types[i], &elements, &bytes), "type");
            check_matrix(block_types[i], 33, 512, 0, (blocks_paint)paint);
            check_matrix(block_types[i], 24, 256, 1, (blocks_paint)paint);
            if (elements <= 32)
                check_matrix(block_types[i], 7, 288, 0, (blocks_paint)paint);
        }
    check_refused();
    printf(failures ? "%d failures\n" : "device weights: all equal\n", failures);
    return failures != 0;
}
