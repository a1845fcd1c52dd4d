/* Packed weights: pack then read back equals the definition's blocks, for every type and shape; damaged
 * numbers are refused; the activation blocks agree with the definition. */
#include "blocks.h"
#include "kernel/weight.h"

static int failures;
#define CHECK(cond, ...)                                                                                     \
    do {                                                                                                     \
        if (!(cond)) {                                                                                       \
            printf("%s:%d: ", __FILE__, __LINE__);                                                           \
            printf(__VA_ARGS__);                                                                             \
            printf("\n");                                                                                    \
            failures++;                                                                                      \
        }                                                                                                    \
    } while (0)

static bool same_block(const fp__wblock *a, const fp__wblock *b)
{
    return !memcmp(a->q, b->q, sizeof a->q) && !memcmp(a->dw, b->dw, sizeof a->dw) &&
           !memcmp(&a->mw, &b->mw, 4) && a->halves == b->halves && a->minimum == b->minimum;
}

static void *aligned(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!p)
        abort();
    memset(p, 0xee, bytes);
    return p;
}

static void check_round_trip(int type, size_t rows, size_t cols, blocks_paint paint)
{
    size_t bytes, row_bytes = blocks_row_bytes(type, cols), blocks = cols / FP__BLOCK;
    fp__weight w;
    if (fp__weight_plan(type, rows, cols, &w, &bytes) != FP_OK)
        abort();
    CHECK(bytes == w.groups * w.group_bytes && w.groups == (rows + 15) / 16, "plan of %s",
          fp__wtype_name(type));
    CHECK(fp__weight_stored_bytes(&w) == rows * row_bytes, "stored bytes of %s", fp__wtype_name(type));
    if (type != FP__F32 && type != FP__F16 && type != FP__BF16)
        CHECK(w.group_bytes < 16 * row_bytes + 64, "%s grows when packed", fp__wtype_name(type));
    uint8_t *stored = malloc(rows * row_bytes + 1) /* odd address on purpose */;
    w.data = aligned(bytes);
    for (size_t r = 0; r < rows; r++)
        blocks_row(type, stored + 1 + r * row_bytes, cols, paint);
    size_t half = w.groups / 2;
    CHECK(fp__weight_pack(&w, stored + 1, half, w.groups) == FP_OK, "pack: %s", fp_error_detail());
    CHECK(fp__weight_pack(&w, stored + 1, 0, half) == FP_OK, "pack: %s", fp_error_detail());
    fp__wblock *got = aligned(blocks * sizeof *got);
    float *embedded = aligned(cols * 4), *expected = aligned(cols * 4);
    for (size_t r = 0; r < rows; r++) {
        fp__weight_row(&w, r, got);
        for (size_t b = 0; b < blocks; b++) {
            fp__wblock want;
            CHECK(fp__exact_decode_block(type, stored + 1 + r * row_bytes, b, &want), "test data of %s",
                  fp__wtype_name(type));
            CHECK(same_block(&got[b], &want), "%s paint %d: row %zu block %zu differs", fp__wtype_name(type),
                  (int)paint, r, b);
        }
        fp__weight_embed(&w, r, embedded);
        CHECK(fp__exact_embed(type, stored + 1 + r * row_bytes, cols, expected) &&
                  !memcmp(embedded, expected, cols * 4),
              "%s: embedding of row %zu differs", fp__wtype_name(type), r);
    }
    free(got);
    free(embedded);
    free(expected);
    free(w.data);
    free(stored);
}

/* A non-finite number anywhere in the last row is refused, and the message says which row. */
static void check_refused(int type)
{
    enum { ROWS = 17, COLS = 256 };
    size_t bytes, row_bytes = blocks_row_bytes(type, COLS), elements = 1, block_bytes = 0;
    fp__weight w;
    if (fp__weight_plan(type, ROWS, COLS, &w, &bytes) != FP_OK ||
        !fp__wtype_block(type, &elements, &block_bytes))
        abort();
    uint8_t *stored = malloc(ROWS * row_bytes);
    w.data = aligned(bytes);
    bool two = type == FP__Q4_1 || type == FP__Q5_1 || type == FP__Q4_K || type == FP__Q5_K;
    for (int what = 0; what < (two ? 4 : 2); what++) {
        for (size_t r = 0; r < ROWS; r++)
            blocks_row(type, stored + r * row_bytes, COLS, BLOCKS_RANDOM);
        CHECK(fp__weight_pack(&w, stored, 0, w.groups) == FP_OK, "%s: %s", fp__wtype_name(type),
              fp_error_detail());
        uint8_t *last = stored + ROWS * row_bytes - block_bytes;
        if (type == FP__F32)
            memcpy(last, &(uint32_t){what ? 0x7f800000u : 0x57800000u}, 4); /* Inf; 2^48 */
        else if (type == FP__BF16)
            blocks_put16(last, what ? 0x7f80 : 0x5780);
        else
            blocks_put16(last + (type == FP__Q6_K ? 208 : what / 2 * 2),
                         what % 2 ? 0x7c00 : 0xfe00); /* Inf; NaN */
        fp_status status = fp__weight_pack(&w, stored, 0, w.groups);
        CHECK(status == FP_FORMAT && strstr(fp_error_detail(), "row 16"), "%s: damage %d: %s (%s)",
              fp__wtype_name(type), what, fp_status_name(status), fp_error_detail());
    }
    free(w.data);
    free(stored);
}

static void check_plan(void)
{
    static const struct {
        int type;
        size_t rows, cols;
        fp_status want;
    } cases[] = {
        {FP__Q4_0, 16, 33, FP_UNSUPPORTED},        {FP__Q4_K, 16, 32, FP_UNSUPPORTED},
        {FP__F32, 16, 31, FP_UNSUPPORTED},         {99, 16, 32, FP_UNSUPPORTED},
        {FP__Q4_0, 0, 32, FP_UNSUPPORTED},         {FP__Q4_0, 16, 0, FP_UNSUPPORTED},
        {FP__F16, SIZE_MAX, 32, FP_LIMIT},         {FP__F16, 16, SIZE_MAX / 32 * 32, FP_LIMIT},
        {FP__Q8_0, SIZE_MAX / 64, 4096, FP_LIMIT}, {FP__Q6_K, 1, 256, FP_OK},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fp__weight w;
        size_t bytes = 0;
        fp_status got = fp__weight_plan(cases[i].type, cases[i].rows, cases[i].cols, &w, &bytes);
        CHECK(got == cases[i].want, "plan case %zu: %s", i, fp_status_name(got));
    }
}

static void check_act(void)
{
    enum { TOKENS = 11, COLS = 96 };
    fp__act act;
    void *memory = aligned(fp__act_bytes(TOKENS, COLS));
    CHECK(fp__act_bytes(TOKENS, COLS) == 2 * 3 * 448, "two tiles of three blocks");
    fp__act_bind(&act, memory, TOKENS, COLS);
    fp__qblock blocks[TOKENS][COLS / 32];
    for (size_t t = 0; t < TOKENS; t++)
        for (size_t b = 0; b < COLS / 32; b++) {
            float x[32];
            for (size_t j = 0; j < 32; j++)
                x[j] = blocks_uniform();
            CHECK(fp__exact_quantise_block(x, &blocks[t][b]), "test data");
            fp__act_store(&act, t, b, &blocks[t][b]);
        }
    for (size_t t = 0; t < TOKENS; t++)
        for (size_t b = 0; b < COLS / 32; b++) {
            fp__qblock got;
            fp__act_load(&act, t, b, &got);
            CHECK(!memcmp(&got, &blocks[t][b], sizeof got), "token %zu block %zu differs", t, b);
            int32_t sum[2] = {0, 0};
            for (size_t j = 0; j < 32; j++)
                sum[j / 16] += got.q[j];
            const fp__act_block *at = fp__act_at(&act, t, b);
            CHECK(at->ds[t % 8] == (float)(sum[0] + sum[1]) * got.d &&
                      at->minus8[t % 8] == -8 * (sum[0] + sum[1]) &&
                      at->minus128[t % 8] == -128 * (sum[0] + sum[1]) &&
                      at->minus32[0][t % 8] == -32 * sum[0] && at->minus32[1][t % 8] == -32 * sum[1],
                  "sums of token %zu block %zu", t, b);
        }
    free(memory);
}

int main(void)
{
    check_plan();
    check_act();
    for (size_t i = 0; i < BLOCK_TYPES; i++) {
        int type = block_types[i];
        for (int paint = 0; paint < BLOCKS_PAINTS; paint++) {
            check_round_trip(type, 33, 512, (blocks_paint)paint);
            check_round_trip(type, 1, 256, (blocks_paint)paint);
            if (type != FP__Q4_K && type != FP__Q5_K && type != FP__Q6_K)
                check_round_trip(type, 16, 96, (blocks_paint)paint);
        }
        check_refused(type);
    }
    printf(failures ? "%d failures\n" : "weights: all equal\n", failures);
    return failures != 0;
}
