/* Every operation of cuda_ops.h against the definition in src/exact (and hashes against cache/leaf.c):
 * memcmp. */
#include "cache/leaf.h"
#include "exact/rope.h"
#include "merkle/tree.h"
#include "ops_gpu.h"
#include <math.h>

int wtile_unpack_host(int type, const uint8_t *unit, int p, int lane, uint32_t a[2][4], float dw[2][2][2],
                      float mw[2][2], int *shift);

static int failures;
static long compared;
#define CHECK(cond, ...)                                                                                     \
    do {                                                                                                     \
        compared++;                                                                                          \
        if (!(cond) && failures++ < 40) {                                                                    \
            printf("%s:%d: ", __FILE__, __LINE__);                                                           \
            printf(__VA_ARGS__);                                                                             \
            printf("\n");                                                                                    \
        }                                                                                                    \
    } while (0)

/* ---- weights ----------------------------------------------------------------------------------------------
 */

typedef struct matrix {
    fp__device_weight plan;
    uint8_t *stored[2]; /* the rows as a GGUF has them; [1]: up rows of a gated matrix */
    size_t rows;        /* of one of them */
    uint8_t *packed;
    fp__cuda_weight w;
} matrix;

static matrix matrix_make(int type, size_t rows, size_t cols, int gated, blocks_paint paint)
{
    matrix m = {.rows = rows};
    size_t bytes = blocks_row_bytes(type, cols);
    if (fp__device_weight_plan(type, rows, cols, gated, &m.plan) != FP_OK)
        abort();
    m.packed = host_alloc(m.plan.bytes);
    for (int half = 0; half <= gated; half++) {
        m.stored[half] = host_alloc(rows * bytes);
        for (size_t r = 0; r < rows; r++)
            blocks_row(type, m.stored[half] + r * bytes, cols, paint);
        fp__device_rows place = !gated ? FP__ROWS_AT : half ? FP__ROWS_UP : FP__ROWS_GATE;
        /* in two calls, as threads would */
        size_t middle = rows / 32 * 16;
        CHECK(fp__device_weight_pack(&m.plan, m.packed, m.stored[half], place, 0, middle, rows) == FP_OK,
              "%s", fp_error_detail());
        CHECK(fp__device_weight_pack(&m.plan, m.packed, m.stored[half], place, 0, 0, middle) == FP_OK, "%s",
              fp_error_detail());
    }
    return m;
}
static void matrix_upload(matrix *m)
{
    m->w = (fp__cuda_weight){m->plan.type,
                             m->plan.gated,
                             (uint32_t)m->plan.rows,
                             (uint32_t)m->plan.tiles,
                             (uint32_t)m->plan.segments,
                             device_copy(m->packed, m->plan.bytes)};
}
static void matrix_free(matrix *m)
{
    free(m->stored[0]);
    free(m->stored[1]);
    free(m->packed);
    if (m->w.data)
        CUDA(cudaFree((void *)m->w.data));
}

/* The kernels' unpacking on the host gives every weight of the definition. */
static void check_unpacking(int type, size_t rows, size_t cols, blocks_paint paint)
{
    matrix m = matrix_make(type, rows, cols, 0, paint);
    size_t row_bytes = blocks_row_bytes(type, cols);
    for (size_t row = 0; row < m.plan.tiles * 16; row++)
        for (size_t b = 0; b < m.plan.segments * 8; b++) {
            fp__wblock want = {0};
            if (row < rows && b < cols / 32)
                CHECK(fp__exact_decode_block(type, m.stored[0] + row * row_bytes, b, &want), "test data");
            const uint8_t *unit = m.packed + (row / 16 * m.plan.segments + b / 8) * m.plan.unit_bytes;
            size_t r = row % 16, x = b % 2;
            for (int c = 0; c < 4; c++) {
                uint32_t a[2][4];
                float dw[2][2][2], mw[2][2];
                int shift;
                CHECK(wtile_unpack_host(m.plan.type, unit, (int)(b % 8 / 2), (int)(4 * (r % 8)) + c, a, dw,
                                        mw, &shift),
                      "type");
                for (int i = 0; i < 8; i++) {
                    int8_t q = (int8_t)(a[x][r / 8 + (i / 4 ? 2 : 0)] >> 8 * (i % 4));
                    int16_t expect = want.q[4 * c + i % 4 + 16 * (i / 4)];
                    CHECK(q == expect * (1 << shift), "%s row %zu block %zu: %d, not %d",
                          fp__wtype_name(type), row, b, q >> shift, expect);
                }
                if (row < rows && b < cols / 32)
                    CHECK(!memcmp(dw[x][r / 8], want.dw, 8) && mw[x][r / 8] == want.mw,
                          "%s row %zu block %zu: scales", fp__wtype_name(type), row, b);
            }
        }
    matrix_free(&m);
}

/* quantise.cuh divides amax by 127 in three operations: every mantissa, at exponents from end to end. */
static void check_over_127(void)
{
    static const uint32_t exponents[] = {63, 64, 127, 128, 174};
    const float r = 1.0f / 127.0f;
    size_t differ = 0;
    for (size_t e = 0; e < sizeof exponents / sizeof *exponents; e++)
        for (uint32_t m = 0; m < 1u << 23; m++) {
            float a = fp__bits_float(exponents[e] << 23 | m), q = a * r;
            differ += fmaf(fmaf(-127.0f, q, a), r, q) != a / 127.0f;
        }
    CHECK(differ == 0, "the quotient by 127 of %zu numbers", differ);
}

int check_layout(void)
{
    check_over_127();
    for (size_t i = 0; i < BLOCK_TYPES; i++)
        for (int paint = 0; paint < BLOCKS_PAINTS; paint++) {
            check_unpacking(block_types[i], 33, 512, (blocks_paint)paint);
            size_t elements, bytes;
            if (fp__wtype_block(block_types[i], &elements, &bytes) && elements <= 32)
                check_unpacking(block_types[i], 7, 288, (blocks_paint)paint);
        }
    fp__device_weight w;
    CHECK(fp__device_weight_plan(99, 16, 256, 0, &w) == FP_UNSUPPORTED, "unknown type");
    CHECK(fp__device_weight_plan(FP__Q4_0, 16, 40, 0, &w) == FP_UNSUPPORTED, "cols");
    CHECK(fp__device_weight_plan(FP__Q4_K, 16, 288, 0, &w) == FP_UNSUPPORTED, "cols of a K type");
    CHECK(fp__device_weight_plan(FP__Q4_0, 20, 256, 1, &w) == FP_UNSUPPORTED, "gated rows");
    CHECK(fp__device_weight_plan(FP__Q4_0, 0, 256, 0, &w) == FP_UNSUPPORTED, "no rows");
    uint8_t row[18 * 8], *data;
    blocks_row(FP__Q4_0, row, 256, BLOCKS_RANDOM);
    blocks_put16(row + 18, 0x7c00);
    CHECK(fp__device_weight_plan(FP__Q4_0, 1, 256, 0, &w) == FP_OK, "plan");
    data = host_alloc(w.bytes);
    CHECK(fp__device_weight_pack(&w, data, row, FP__ROWS_AT, 0, 0, 1) == FP_FORMAT,
          "an infinite scale was packed");
    free(data);
    return failures;
}

/* ---- activations
 * -------------------------------------------------------------------------------------------- */

typedef enum act_paint {
    ACT_RANDOM,
    ACT_EXTREME,
    ACT_UP,
    ACT_DOWN,
    ACT_ZERO,
    ACT_TINY,
    ACT_PAINTS
} act_paint;

static float act_value(act_paint paint)
{
    float r = blocks_uniform();
    switch (paint) {
    case ACT_EXTREME:
        return r < 0.0f ? -3.0f : 3.0f;
    case ACT_UP:
        return 3.0f;
    case ACT_DOWN:
        return -3.0f;
    case ACT_ZERO:
        return r < 0.0f ? -0.0f : 0.0f;
    case ACT_TINY:
        return r * 0x1p-63f;
    default:
        return blocks_random() % 37 == 0 ? r * 50.0f : r;
    }
}

/* The bytes that the quantiser must have written for x[T][cols]. */
static void expect_act(const float *x, size_t tokens, size_t cols, uint8_t *act, fp__qblock *blocks, int *bad)
{
    size_t segments = (cols + 255) / 256;
    for (size_t t = 0; t < tokens; t++)
        for (size_t b = 0; b < segments * 8; b++) {
            fp__qblock q = {{0}, 0.0f};
            if (b < cols / 32) {
                if (!fp__exact_quantise_block(x + t * cols + b * 32, &q))
                    bad[t] = 1;
                blocks[t * (cols / 32) + b] = q;
            }
            uint8_t *tile = act + (t / 8 * segments + b / 8) * FP__DEVICE_ACT_BYTES;
            int sum = 0;
            for (size_t j = 0; j < 32; j++) {
                tile[fp__device_act_at(t, b * 32 + j)] = (uint8_t)q.q[j];
                sum += q.q[j];
            }
            float ds = (float)sum * q.d;
            memcpy(tile + FP__DEVICE_ACT_D + (b % 8 * 8 + t % 8) * 4, &q.d, 4);
            memcpy(tile + FP__DEVICE_ACT_DS + (b % 8 * 8 + t % 8) * 4, &ds, 4);
        }
}

typedef struct acts {
    size_t tokens, cols;
    float *x;           // [T][cols]
    fp__qblock *blocks; // [T][cols/32]
    uint8_t *device;
} acts;

static acts acts_make(size_t tokens, size_t cols, act_paint paint)
{
    acts a = {.tokens = tokens, .cols = cols};
    size_t bytes = fp__device_act_bytes(tokens, cols);
    int *bad = host_alloc(tokens * sizeof *bad);
    uint8_t *want = host_alloc(bytes), *got = host_alloc(bytes);
    a.x = host_alloc(tokens * cols * 4);
    a.blocks = host_alloc(tokens * (cols / 32) * sizeof *a.blocks);
    for (size_t i = 0; i < tokens * cols; i++)
        a.x[i] = act_value(paint);
    memset(want, 0x5a, bytes);
    expect_act(a.x, tokens, cols, want, a.blocks, bad);
    float *x = device_copy(a.x, tokens * cols * 4);
    uint32_t *error = device_alloc(tokens * 4);
    a.device = device_alloc(bytes);
    CUDA(cudaMemset(error, 0xff, tokens * 4));
    CUDA(fp__cuda_quantise(x, NULL, cols, (uint32_t)tokens, (uint32_t)cols, a.device, error, 3, 0));
    CUDA(cudaMemcpy(got, a.device, bytes, cudaMemcpyDeviceToHost));
    CHECK(!memcmp(want, got, bytes), "quantise: %zu tokens of %zu differ", tokens, cols);
    CUDA(cudaFree(x));
    CUDA(cudaFree(error));
    free(bad);
    free(want);
    free(got);
    return a;
}
static void acts_free(acts *a)
{
    free(a->x);
    free(a->blocks);
    CUDA(cudaFree(a->device));
}

/* ---- linear
 * ------------------------------------------------------------------------------------------------- */

/* [T][rows] of W·x by the definition. */
static float *expect_linear(const matrix *m, const uint8_t *stored, const acts *a)
{
    size_t blocks = a->cols / 32, row_bytes = blocks_row_bytes(m->plan.source_type, a->cols);
    float *want = host_alloc(a->tokens * m->rows * 4);
    fp__wblock *row = host_alloc(blocks * sizeof *row);
    for (size_t r = 0; r < m->rows; r++) {
        for (size_t b = 0; b < blocks; b++)
            CHECK(fp__exact_decode_block(m->plan.source_type, stored + r * row_bytes, b, &row[b]),
                  "test data");
        for (size_t t = 0; t < a->tokens; t++)
            want[t * m->rows + r] = fp__exact_dot_blocks(row, a->blocks + t * blocks, blocks);
    }
    free(row);
    return want;
}

static void compare(const char *what, const matrix *m, const acts *a, const float *want, const float *device,
                    size_t count)
{
    float *got = host_alloc(count * 4);
    CUDA(cudaMemcpy(got, device, count * 4, cudaMemcpyDeviceToHost));
    size_t differ = 0, first = 0;
    for (size_t i = count; i-- > 0;)
        if (memcmp(&got[i], &want[i], 4)) {
            differ++;
            first = i;
        }
    CHECK(differ == 0, "%s %s %zu×%zu, %zu tokens: %zu of %zu differ, first [%zu]: %a, not %a", what,
          fp__wtype_name(m->plan.source_type), m->rows, a->cols, a->tokens, differ, count, first,
          (double)got[first], (double)want[first]);
    free(got);
}

static void check_plain(matrix *m, const acts *a, const char *what)
{
    size_t stride = m->rows + 3, count = a->tokens * stride;
    float *sums = expect_linear(m, m->stored[0], a), *bias = host_alloc(m->rows * 4),
          *start = host_alloc(count * 4), *want = host_alloc(count * 4);
    for (size_t r = 0; r < m->rows; r++)
        bias[r] = blocks_uniform();
    float *d_bias = device_copy(bias, m->rows * 4);
    for (int variant = 0; variant < 4; variant++) {
        int with_bias = variant & 1, residual = variant >> 1;
        for (size_t i = 0; i < count; i++)
            start[i] = residual ? blocks_uniform() : 1234.5f;
        memcpy(want, start, count * 4);
        for (size_t t = 0; t < a->tokens; t++)
            for (size_t r = 0; r < m->rows; r++) {
                float v = sums[t * m->rows + r];
                if (with_bias)
                    v = v + bias[r];
                want[t * stride + r] = residual ? start[t * stride + r] + v : v;
            }
        float *y = device_copy(start, count * 4);
        CUDA(fp__cuda_linear(&m->w, a->device, (uint32_t)a->tokens, with_bias ? d_bias : NULL,
                             residual ? y : NULL, y, stride, 0));
        compare(what, m, a, want, y, count);
        CUDA(cudaFree(y));
    }
    CUDA(cudaFree(d_bias));
    free(sums);
    free(bias);
    free(start);
    free(want);
}

static void check_gated(matrix *m, const acts *a, const char *what)
{
    size_t stride = m->rows + 5, count = a->tokens * stride;
    float *gate = expect_linear(m, m->stored[0], a), *up = expect_linear(m, m->stored[1], a),
          *want = host_alloc(count * 4);
    memset(want, 0x5a, count * 4);
    for (size_t t = 0; t < a->tokens; t++)
        for (size_t r = 0; r < m->rows; r++)
            want[t * stride + r] = fp__exact_silu_mul(gate[t * m->rows + r], up[t * m->rows + r]);
    float *y = device_alloc(count * 4);
    CUDA(fp__cuda_linear(&m->w, a->device, (uint32_t)a->tokens, NULL, NULL, y, stride, 0));
    compare(what, m, a, want, y, count);
    CUDA(cudaFree(y));
    free(gate);
    free(up);
    free(want);
}

/* The same product by every kernel that can compute it. */
static void check_product(int type, size_t rows, size_t cols, size_t tokens, int gated, blocks_paint weights,
                          act_paint paint)
{
    matrix m = matrix_make(type, rows, cols, gated, weights);
    acts a = acts_make(tokens, cols, paint);
    matrix_upload(&m);
    void (*check)(matrix *, const acts *, const char *) = gated ? check_gated : check_plain;
    check(&m, &a, "decode or prefill");
    fp__cuda_tune.always_prefill = 1;
    check(&m, &a, "prefill");
    fp__cuda_tune.always_prefill = 0;
    matrix_free(&m);
    acts_free(&a);
}

/* What of check_ops is wanted: "elementwise", "hash" or the name of a block type; NULL: all. */
static const char *wanted;
static int wants(const char *part)
{
    return !wanted || strcmp(wanted, part) == 0;
}

static void check_linear(int quick)
{
    static const size_t some_rows[] = {1, 8, 15, 16, 17, 40, 81, 129, 300},
                        some_tokens[] = {1, 2, 3, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 64, 65, 130};
    static const size_t some_cols[] = {32, 64, 256, 288, 576, 1536};
    for (size_t i = 0; i < BLOCK_TYPES; i++) {
        int type = block_types[i];
        size_t elements = 1, bytes;
        if (!wants(fp__wtype_name(type)))
            continue;
        CHECK(fp__wtype_block(type, &elements, &bytes), "type");
        for (size_t r = 0; r < sizeof some_rows / sizeof *some_rows; r += quick ? 4 : 1)
            check_product(type, some_rows[r], 512, 1 + r, 0, BLOCKS_RANDOM, ACT_RANDOM);
        for (size_t t = 0; t < sizeof some_tokens / sizeof *some_tokens; t += quick ? 5 : 1) {
            check_product(type, 50, 768, some_tokens[t], 0, BLOCKS_RANDOM, ACT_RANDOM);
            check_product(type, 40, 512, some_tokens[t], 1, BLOCKS_RANDOM, ACT_RANDOM);
        }
        if (quick)
            continue;
        for (size_t c = 0; c < sizeof some_cols / sizeof *some_cols; c++)
            if (some_cols[c] % (elements < 32 ? 32 : elements) == 0)
                check_product(type, 40, some_cols[c], 3, 0, BLOCKS_RANDOM, ACT_RANDOM);
        for (int weights = 0; weights < BLOCKS_PAINTS; weights++)
            for (int paint = 0; paint < ACT_PAINTS; paint++)
                check_product(type, 23, 512, 9, 0, (blocks_paint)weights, (act_paint)paint);
        check_product(type, 144, 4096, 8, 0, BLOCKS_RANDOM, ACT_RANDOM);
        check_product(type, 48, 14336, 1, 0, BLOCKS_RANDOM, ACT_RANDOM);
        check_product(type, 48, 14336, 32, 0, BLOCKS_RANDOM,
                      ACT_RANDOM); /* in more than one launch: sums fill memory */
        check_product(type, 4400, 256, 5, 0, BLOCKS_RANDOM, ACT_RANDOM); /* several row tiles per block */
        check_product(type, 2400, 512, 2, 1, BLOCKS_RANDOM, ACT_RANDOM);
        check_product(type, 400, 512, 300, 0, BLOCKS_RANDOM, ACT_RANDOM);
    }
}

/* ---- the rest
 * ----------------------------------------------------------------------------------------------- */

static void check_norm(size_t tokens, size_t width)
{
    size_t bytes = fp__device_act_bytes(tokens, width), picked = (tokens + 1) / 2;
    float *x = host_alloc(tokens * width * 4), *w = host_alloc(width * 4),
          *y = host_alloc(tokens * width * 4);
    uint8_t *want = host_alloc(bytes), *got = host_alloc(bytes);
    fp__qblock *blocks = host_alloc(tokens * (width / 32) * sizeof *blocks);
    int *bad = host_alloc(tokens * sizeof *bad);
    uint32_t *errors = host_alloc(tokens * 4), *rows = host_alloc(tokens * 4),
             *error_got = host_alloc(tokens * 4);
    for (size_t i = 0; i < width; i++)
        w[i] = blocks_uniform();
    for (size_t i = 0; i < tokens * width; i++)
        x[i] = act_value(i / width % 5 == 4 ? ACT_ZERO : ACT_RANDOM);
    memset(errors, 0xff, tokens * 4);
    if (tokens > 6) { /* sumsq out of range; a weight that drives one block out of range; NaN; Inf */
        x[1 * width + 5] = 0x1p60f;
        x[2 * width + width - 1] = fp__bits_float(0x7fc00000u);
        x[3 * width] = fp__bits_float(0xff800000u);
        w[7] = 0x1p49f;
    }
    for (size_t t = 0; t < tokens; t++) {
        if (!fp__exact_rmsnorm(x + t * width, w, 1e-5f, width, y + t * width))
            errors[t] = 40;
    }
    memset(want, 0x5a, bytes);
    expect_act(y, tokens, width, want, blocks, bad);
    for (size_t t = 0; t < tokens; t++)
        if (bad[t] && errors[t] > 41)
            errors[t] = 41;
    float *dx = device_copy(x, tokens * width * 4), *dw = device_copy(w, width * 4);
    uint32_t *error = device_alloc(tokens * 4), *d_rows;
    uint8_t *act = device_alloc(bytes);
    CUDA(cudaMemset(error, 0xff, tokens * 4));
    CUDA(fp__cuda_norm_quantise(dx, NULL, dw, 1e-5f, (uint32_t)tokens, (uint32_t)width, act, error, 40, 0));
    CUDA(cudaMemcpy(got, act, bytes, cudaMemcpyDeviceToHost));
    CUDA(cudaMemcpy(error_got, error, tokens * 4, cudaMemcpyDeviceToHost));
    CHECK(!memcmp(want, got, bytes), "norm_quantise: %zu tokens of %zu differ", tokens, width);
    CHECK(!memcmp(errors, error_got, tokens * 4), "norm_quantise: errors of %zu tokens of %zu differ", tokens,
          width);
    /* every other row only, last first */
    for (size_t i = 0; i < picked; i++) {
        rows[i] = (uint32_t)(tokens - 1 - 2 * i < tokens ? tokens - 1 - 2 * i : 0);
        memcpy(y + i * width, x + rows[i] * width, width * 4);
    }
    for (size_t i = 0; i < picked; i++)
        (void)!fp__exact_rmsnorm(x + rows[i] * width, w, 1e-5f, width, y + i * width);
    memset(want, 0x5a, bytes);
    expect_act(y, picked, width, want, blocks, bad);
    d_rows = device_copy(rows, tokens * 4);
    CUDA(cudaMemset(act, 0x5a, bytes));
    CUDA(fp__cuda_norm_quantise(dx, d_rows, dw, 1e-5f, (uint32_t)picked, (uint32_t)width, act, error, 40, 0));
    CUDA(cudaMemcpy(got, act, fp__device_act_bytes(picked, width), cudaMemcpyDeviceToHost));
    CHECK(!memcmp(want, got, fp__device_act_bytes(picked, width)), "norm_quantise of picked rows differs");
    CUDA(cudaFree(dx));
    CUDA(cudaFree(dw));
    CUDA(cudaFree(error));
    CUDA(cudaFree(d_rows));
    CUDA(cudaFree(act));
    free(x), free(w), free(y), free(want), free(got), free(blocks), free(bad), free(errors), free(rows),
        free(error_got);
}

/* Norm, quantiser and product in one call. A token with a bad number gets the definition's zeros and its
 * code. */
static void check_from(int type, size_t rows, size_t cols, size_t tokens, int norm, int bad_numbers)
{
    matrix m = matrix_make(type, rows, cols, 0, BLOCKS_RANDOM);
    matrix_upload(&m);
    size_t stride = norm ? cols : cols + 8, count = tokens * rows;
    acts a = {.tokens = tokens, .cols = cols};
    float *x = host_alloc(tokens * stride * 4), *w = host_alloc(cols * 4), *y = host_alloc(count * 4);
    uint32_t *errors = host_alloc(tokens * 4), *error_got = host_alloc(tokens * 4);
    a.x = host_alloc(cols * 4);
    a.blocks = host_alloc(tokens * (cols / 32) * sizeof *a.blocks);
    for (size_t i = 0; i < tokens * stride; i++)
        x[i] = act_value(ACT_RANDOM) * 4.0f;
    for (size_t i = 0; i < cols; i++)
        w[i] = blocks_uniform();
    if (bad_numbers) {
        x[(tokens - 1) * stride + cols / 2] = fp__bits_float(0x7fc00000u);
        x[cols - 1] = 0x1p55f;
    }
    for (size_t t = 0; t < tokens; t++) {
        errors[t] = FP__CUDA_NO_ERROR;
        if (norm && !fp__exact_rmsnorm(x + t * stride, w, 1e-5f, cols, a.x))
            errors[t] = 20;
        for (size_t b = 0; b < cols / 32; b++)
            if (!fp__exact_quantise_block((norm ? a.x : x + t * stride) + b * 32,
                                          &a.blocks[t * (cols / 32) + b]) &&
                errors[t] == FP__CUDA_NO_ERROR)
                errors[t] = norm ? 21 : 20;
    }
    CHECK(!bad_numbers || errors[tokens - 1] == 20, "the definition takes bad numbers");
    float *want = expect_linear(&m, m.stored[0], &a), *dx = device_copy(x, tokens * stride * 4),
          *dw = device_copy(w, cols * 4);
    for (size_t i = 0; i < count; i++) {
        y[i] = blocks_uniform();
        want[i] = y[i] + want[i];
    }
    float *dy = device_copy(y, count * 4);
    uint32_t *error = device_alloc(tokens * 4);
    uint32_t *taken = device_alloc(4);
    uint8_t *act = device_alloc(fp__device_act_bytes(tokens, cols));
    CUDA(cudaMemset(error, 0xff, tokens * 4));
    CUDA(cudaMemset(taken, 0, 4));
    fp__cuda_input in = {dx, stride, norm ? dw : NULL, 1e-5f, (uint32_t)cols, act, error, 20, taken};
    CUDA(fp__cuda_linear_from(&in, &m.w, (uint32_t)tokens, NULL, dy, dy, rows, 0));
    compare(norm ? "norm and linear" : "quantise and linear", &m, &a, want, dy, count);
    CUDA(cudaMemcpy(error_got, error, tokens * 4, cudaMemcpyDeviceToHost));
    CHECK(!memcmp(errors, error_got, tokens * 4),
          "linear_from: errors differ (%s %zu tokens of %zu, norm %d): %u, not %u", fp__wtype_name(type),
          tokens, cols, norm, error_got[0], errors[0]);
    CUDA(cudaFree(dx));
    CUDA(cudaFree(dw));
    CUDA(cudaFree(dy));
    CUDA(cudaFree(error));
    CUDA(cudaFree(act));
    CUDA(cudaFree(taken));
    free(x), free(w), free(y), free(errors), free(error_got), free(a.x), free(a.blocks), free(want);
    matrix_free(&m);
}

static void check_from_all(int quick)
{
    for (size_t i = 0; i < BLOCK_TYPES; i++)
        for (int norm = 0; norm < 2 && wants(fp__wtype_name(block_types[i])); norm++) {
            for (size_t tokens = 1; tokens <= 9; tokens += quick || tokens > 4 ? 4 : 1)
                check_from(block_types[i], 70, 768, tokens, norm, tokens == 3);
            if (quick)
                continue;
            check_from(block_types[i], 2500, 512, 1, norm, 0);
            check_from(block_types[i], 70, 768, 1, norm, 1);
            check_from(block_types[i], 7000, 4096, 1, norm, 0);
            check_from(block_types[i], 40, 14336, 1, norm, 0);
            check_from(block_types[i], 33, 4096, 4, norm, 0);
            check_from(block_types[i], 16, 14336, 2, norm, 1);
            if (block_types[i] < FP__Q4_K || block_types[i] == FP__BF16) {
                check_from(block_types[i], 20, 32, 1, norm, 0);
                check_from(block_types[i], 20, 288, 3, norm, 1);
                check_from(block_types[i], 576, 576, 1, norm, 0);
            }
        }
}

/* Quantiser: silu·up on the way, and numbers out of range. */
static void check_quantise_bad(void)
{
    enum { T = 6, COLS = 352, STRIDE = 400 };
    static const uint32_t values[T] = {0x7fc00000u, 0xff800000u, 0x57800000u,
                                       0xd7800000u, 0x577fffffu, 0x1f7fffffu};
    float x[T * STRIDE], up[T * STRIDE], flat[T * COLS];
    size_t bytes = fp__device_act_bytes(T, COLS);
    uint8_t *want = host_alloc(bytes), *got = host_alloc(bytes), *act = device_alloc(bytes);
    for (int with_up = 0; with_up < 2; with_up++) {
        int bad[T] = {0};
        uint32_t errors[T], error_got[T];
        fp__qblock blocks[T * COLS / 32];
        for (size_t i = 0; i < T * STRIDE; i++) {
            x[i] = blocks_uniform() * 8.0f;
            up[i] = blocks_uniform();
        }
        for (size_t t = 0; t < T; t++) {
            x[t * STRIDE + 37 * t] = fp__bits_float(values[t]);
            for (size_t i = 0; i < COLS; i++)
                flat[t * COLS + i] =
                    with_up ? fp__exact_silu_mul(x[t * STRIDE + i], up[t * STRIDE + i]) : x[t * STRIDE + i];
        }
        memset(want, 0x5a, bytes);
        expect_act(flat, T, COLS, want, blocks, bad);
        for (size_t t = 0; t < T; t++)
            errors[t] = bad[t] ? 77 : FP__CUDA_NO_ERROR;
        float *dx = device_copy(x, sizeof x), *du = device_copy(up, sizeof up);
        uint32_t *error = device_alloc(sizeof errors);
        CUDA(cudaMemset(error, 0xff, sizeof errors));
        CUDA(cudaMemset(act, 0x5a, bytes));
        CUDA(fp__cuda_quantise(dx, with_up ? du : NULL, STRIDE, T, COLS, act, error, 77, 0));
        CUDA(cudaMemcpy(got, act, bytes, cudaMemcpyDeviceToHost));
        CUDA(cudaMemcpy(error_got, error, sizeof errors, cudaMemcpyDeviceToHost));
        CHECK(!memcmp(want, got, bytes), "quantise with bad numbers (up %d) differs", with_up);
        CHECK(!memcmp(errors, error_got, sizeof errors), "quantise: errors differ (up %d)", with_up);
        CHECK(with_up || errors[0] == 77, "NaN not noticed by the definition");
        CUDA(cudaFree(dx));
        CUDA(cudaFree(du));
        CUDA(cudaFree(error));
    }
    CUDA(cudaFree(act));
    free(want);
    free(got);
}

static void check_embed(int type, size_t rows, size_t cols)
{
    enum { T = 9 };
    matrix m = matrix_make(type, rows, cols, 0, BLOCKS_RANDOM);
    matrix_upload(&m);
    size_t row_bytes = blocks_row_bytes(type, cols);
    uint32_t ids[T], errors[T];
    float *want = host_alloc(T * cols * 4), *got = host_alloc(T * cols * 4), *x = device_alloc(T * cols * 4);
    for (size_t t = 0; t < T; t++) {
        ids[t] = t == 0   ? (uint32_t)rows - 1
                 : t == 1 ? 0
                 : t == 2 ? (uint32_t)rows
                          : blocks_random() % (uint32_t)rows;
        if (ids[t] < rows)
            CHECK(fp__exact_embed(type, m.stored[0] + ids[t] * row_bytes, cols, want + t * cols),
                  "test data");
    }
    uint32_t *d_ids = device_copy(ids, sizeof ids), *error = device_alloc(sizeof errors);
    CUDA(fp__cuda_embed(&m.w, d_ids, T, (uint32_t)cols, x, error, 0));
    CUDA(cudaMemcpy(got, x, T * cols * 4, cudaMemcpyDeviceToHost));
    CUDA(cudaMemcpy(errors, error, sizeof errors, cudaMemcpyDeviceToHost));
    CHECK(!memcmp(want, got, T * cols * 4), "embed %s %zu×%zu differs", fp__wtype_name(type), rows, cols);
    CHECK(errors[0] == FP__CUDA_NO_ERROR && errors[T - 1] == FP__CUDA_NO_ERROR,
          "embed leaves the error array");
    CUDA(cudaFree(x));
    CUDA(cudaFree(d_ids));
    CUDA(cudaFree(error));
    free(want);
    free(got);
    matrix_free(&m);
}

static void check_rope(uint32_t d, uint32_t n_rot, int halves, int norm)
{
    enum { T = 5, H = 6, HK = 2, POSITIONS = 300 };
    size_t stride = (H + 2 * HK) * (size_t)d, count = T * stride, half = n_rot / 2;
    fp__rope_plan plan;
    CHECK(fp__rope_plan_init(10000.0, n_rot, halves ? FP__ROPE_HALVES : FP__ROPE_PAIRS, NULL, &plan) == FP_OK,
          "plan");
    float *c = host_alloc(POSITIONS * half * 4), *s = host_alloc(POSITIONS * half * 4),
          *x = host_alloc(count * 4), *got = host_alloc(count * 4), *qw = host_alloc(d * 4),
          *kw = host_alloc(d * 4), *row = host_alloc(d * 4);
    CHECK(fp__rope_rows(&plan, 0, POSITIONS, c, s) == FP_OK, "rows");
    uint32_t positions[T], errors[T], error_got[T];
    for (size_t i = 0; i < count; i++)
        x[i] = blocks_uniform() * 4.0f;
    for (size_t i = 0; i < d; i++) {
        qw[i] = blocks_uniform();
        kw[i] = blocks_uniform();
    }
    if (norm)
        x[3 * stride + d + 1] = fp__bits_float(0x7f800000u);
    float *dx = device_copy(x, count * 4);
    for (size_t t = 0; t < T; t++) {
        positions[t] = blocks_random() % POSITIONS;
        errors[t] = FP__CUDA_NO_ERROR;
        for (size_t h = 0; h < H + HK; h++) {
            float *head = x + t * stride + h * d;
            if (norm) {
                if (!fp__exact_rmsnorm(head, h < H ? qw : kw, 1e-6f, d, row))
                    errors[t] = 5;
                memcpy(head, row, d * 4);
            }
            fp__exact_rope(head, n_rot, plan.layout, c + positions[t] * half, s + positions[t] * half);
        }
    }
    float *dc = device_copy(c, POSITIONS * half * 4), *ds = device_copy(s, POSITIONS * half * 4),
          *dq = device_copy(qw, d * 4), *dk = device_copy(kw, d * 4);
    uint32_t *dp = device_copy(positions, sizeof positions), *error = device_alloc(sizeof errors);
    CUDA(cudaMemset(error, 0xff, sizeof errors));
    fp__cuda_rope r = {H + HK, H, d, n_rot, halves, 1e-6f, norm ? dq : NULL, norm ? dk : NULL, dc, ds};
    CUDA(fp__cuda_norm_rope(dx, stride, dp, T, &r, error, 5, 0));
    CUDA(cudaMemcpy(got, dx, count * 4, cudaMemcpyDeviceToHost));
    CUDA(cudaMemcpy(error_got, error, sizeof errors, cudaMemcpyDeviceToHost));
    CHECK(!memcmp(x, got, count * 4), "norm_rope d %u n_rot %u halves %d norm %d differs", d, n_rot, halves,
          norm);
    CHECK(!memcmp(errors, error_got, sizeof errors), "norm_rope: errors differ");
    void *all[] = {dx, dc, ds, dq, dk, dp, error};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        CUDA(cudaFree(all[i]));
    free(c), free(s), free(x), free(got), free(qw), free(kw), free(row);
}

static void check_argmax(size_t vocabulary)
{
    enum { T = 7 };
    float *x = host_alloc(T * vocabulary * 4);
    uint32_t want[T], got[T], errors[T], error_got[T];
    for (size_t t = 0; t < T; t++) {
        for (size_t i = 0; i < vocabulary; i++) /* few values: many ties; all negative, or ±0 and below */
            x[t * vocabulary + i] = t == 1   ? -(float)(blocks_random() % 50) - 1.0f
                                    : t == 2 ? (blocks_random() % 2   ? -0.0f
                                                : blocks_random() % 9 ? -1.0f
                                                                      : 0.0f)
                                             : (float)(int)(blocks_random() % 2000) - 1500.0f;
        errors[t] = FP__CUDA_NO_ERROR;
        if (t == 4) {
            x[t * vocabulary + vocabulary / 2] = fp__bits_float(0xff800000u);
            errors[t] = 9;
        }
        want[t] = 0;
        for (size_t i = 1; i < vocabulary; i++)
            if (x[t * vocabulary + i] + 0.0f > x[t * vocabulary + want[t]] + 0.0f)
                want[t] = (uint32_t)i;
    }
    float *dx = device_copy(x, T * vocabulary * 4);
    uint32_t *ids = device_alloc(sizeof want), *error = device_alloc(sizeof errors);
    void *state = device_alloc(T * 16);
    CUDA(cudaMemset(state, 0, T * 16));
    CUDA(cudaMemset(error, 0xff, sizeof errors));
    for (int again = 0; again < 2; again++) { /* the state is left as it was found */
        CUDA(cudaMemset(ids, 0x5a, sizeof want));
        CUDA(fp__cuda_argmax(dx, T, (uint32_t)vocabulary, NULL, ids, state, error, 9, 0));
        CUDA(cudaMemcpy(got, ids, sizeof want, cudaMemcpyDeviceToHost));
        CHECK(!memcmp(want, got, sizeof want), "argmax of %zu differs (call %d)", vocabulary, again);
    }
    CUDA(cudaMemcpy(error_got, error, sizeof errors, cudaMemcpyDeviceToHost));
    CHECK(!memcmp(errors, error_got, sizeof errors), "argmax: errors differ");
    CUDA(cudaFree(dx));
    CUDA(cudaFree(ids));
    CUDA(cudaFree(error));
    CUDA(cudaFree(state));
    free(x);
}

static void check_hash(uint16_t layers, uint16_t kv_heads, uint16_t d, size_t pages)
{
    fp__page_geometry g = {.layers = layers, .kv_heads = kv_heads, .d = d};
    for (size_t i = 0; i < 32; i++)
        ((uint8_t *)g.model)[i] = (uint8_t)(7 * i + 1);
    fp__cuda_hash_geometry cg = {FP__ARITHMETIC_VERSION, layers, kv_heads, d, {0}};
    memcpy(cg.model, g.model, 32);
    size_t slabs = (size_t)layers * kv_heads, group_bytes = slabs * fp__slab_bytes(d);
    uint8_t *data = host_alloc(pages * group_bytes), *want = host_alloc(pages * slabs * 32),
            *got = host_alloc(pages * slabs * 32), *roots = host_alloc(pages * 32),
            *roots_got = host_alloc(pages * 32);
    const uint8_t **pointers = host_alloc(pages * sizeof *pointers);
    for (size_t i = 0; i < pages * group_bytes; i++)
        data[i] = (uint8_t)blocks_random();
    uint8_t *device = device_copy(data, pages * group_bytes);
    for (size_t p = 0; p < pages; p++) {
        pointers[p] = device + (pages - 1 - p) * group_bytes; /* a block table is not in order */
        fp__leaf_group(&g, data + (pages - 1 - p) * group_bytes, want + p * slabs * 32, roots + p * 32);
    }
    const uint8_t *const *d_pointers = device_copy(pointers, pages * sizeof *pointers);
    uint8_t *leaves = device_alloc(pages * slabs * 32), *d_roots = device_alloc(pages * 32);
    for (int flipped = 0; flipped < 2; flipped++) {
        if (flipped) { /* one bit of the last page's last slab: that leaf and that root only */
            uint8_t byte = (uint8_t)(data[group_bytes - 1] ^ 0x10);
            CUDA(cudaMemcpy(device + group_bytes - 1, &byte, 1, cudaMemcpyHostToDevice));
        }
        CUDA(fp__cuda_hash_groups(&cg, d_pointers, (uint32_t)pages, leaves, d_roots, 0));
        CUDA(cudaMemcpy(got, leaves, pages * slabs * 32, cudaMemcpyDeviceToHost));
        CUDA(cudaMemcpy(roots_got, d_roots, pages * 32, cudaMemcpyDeviceToHost));
        size_t same = pages * slabs - (flipped ? 1 : 0), same_roots = pages - (flipped ? 1 : 0);
        CHECK(!memcmp(want, got, same * 32), "slab leaves differ: L %d HK %d d %d, %zu pages", layers,
              kv_heads, d, pages);
        CHECK(!memcmp(roots, roots_got, same_roots * 32), "group roots differ: L %d HK %d d %d", layers,
              kv_heads, d);
        if (flipped)
            CHECK(memcmp(want + same * 32, got + same * 32, 32) &&
                      memcmp(roots + same_roots * 32, roots_got + same_roots * 32, 32),
                  "a flipped bit was not seen");
    }
    CUDA(cudaFree(device));
    CUDA(cudaFree((void *)d_pointers));
    CUDA(cudaFree(leaves));
    CUDA(cudaFree(d_roots));
    free(data), free(want), free(got), free(roots), free(roots_got), free(pointers);
}

static void check_elementwise(void)
{
    for (size_t i = 0; i < BLOCK_TYPES; i++) {
        check_embed(block_types[i], 50, 768);
        if (block_types[i] < FP__Q4_K || block_types[i] == FP__BF16)
            check_embed(block_types[i], 17, 288);
    }
    static const size_t widths[] = {32, 64, 288, 576, 2048, 4096, 8192};
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        check_norm(1, widths[i]);
        check_norm(9, widths[i]);
    }
    check_quantise_bad();
    for (int i = 0; i < 4; i++) {
        check_rope(64, 64, i & 1, i >> 1);
        check_rope(128, 128, i & 1, i >> 1);
        check_rope(96, 64, i & 1, i >> 1);
        check_rope(256, 128, i & 1, i >> 1);
    }
    check_argmax(1);
    check_argmax(2049);
    check_argmax(128256);
}

static void check_hashes(int quick)
{
    check_hash(1, 1, 64, 1);
    check_hash(3, 5, 64, 3);
    check_hash(2, 3, 96, 2);
    check_hash(32, 8, 128, quick ? 1 : 2);
    check_hash(300, 1, 64, 1);
}

int check_ops(int quick, const char *part)
{
    wanted = part;
    if (wants("elementwise"))
        check_elementwise();
    if (wants("hash"))
        check_hashes(quick);
    check_linear(quick);
    check_from_all(quick);
    for (fp__cuda_tune.decode_warps = 5; !quick && fp__cuda_tune.decode_warps <= 16;
         fp__cuda_tune.decode_warps += 11)
        check_product(FP__Q4_0, 4400, 1280, 6, 0, BLOCKS_RANDOM, ACT_RANDOM);
    fp__cuda_tune.decode_warps = 0;
    printf("checks: %ld, failures: %d\n", compared, failures);
    return failures;
}
