/* Linear layers and the activation quantiser of every table of this machine against the definition: same
 * bits. */
#include "blocks.h"
#include "kernel/kernel.h"

static int failures;
#define CHECK(cond, ...)                                                                                     \
    do {                                                                                                     \
        if (!(cond)) {                                                                                       \
            if (failures++ < 20) {                                                                           \
                printf("%s:%d: ", __FILE__, __LINE__);                                                       \
                printf(__VA_ARGS__);                                                                         \
                printf("\n");                                                                                \
            }                                                                                                \
        }                                                                                                    \
    } while (0)

static void *aligned(size_t bytes)
{
    void *p = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!p)
        abort();
    memset(p, 0xee, bytes);
    return p;
}

/* How activations are drawn. */
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
    case ACT_EXTREME: /* every quant ±127 */
        return r < 0.0f ? -3.0f : 3.0f;
    case ACT_UP: /* every quant 127: the largest sums, where 16 bits could saturate */
        return 3.0f;
    case ACT_DOWN:
        return -3.0f;
    case ACT_ZERO:
        return r < 0.0f ? -0.0f : 0.0f;
    case ACT_TINY: /* around the floor 2^-64: some blocks vanish, some do not */
        return r * 0x1p-63f;
    default:
        return blocks_random() % 37 == 0 ? r * 50.0f : r;
    }
}

typedef struct problem {
    int type;
    size_t rows, cols, tokens;
    fp__weight w;
    uint8_t *stored;
    size_t row_bytes;
    float *x;       // [tokens][cols]
    fp__qblock *xq; // [tokens][cols/32]
    float *want;    // [tokens][rows], no bias
    float *bias;    // [rows]
    void *act_memory;
} problem;

static void problem_make(problem *p, int type, size_t rows, size_t cols, size_t tokens, blocks_paint weights,
                         act_paint acts)
{
    size_t bytes, blocks = cols / FP__BLOCK;
    *p = (problem){.type = type, .rows = rows, .cols = cols, .tokens = tokens};
    if (fp__weight_plan(type, rows, cols, &p->w, &bytes) != FP_OK)
        abort();
    p->row_bytes = blocks_row_bytes(type, cols);
    p->stored = aligned(rows * p->row_bytes);
    p->w.data = aligned(bytes);
    for (size_t r = 0; r < rows; r++)
        blocks_row(type, p->stored + r * p->row_bytes, cols, weights);
    CHECK(fp__weight_pack(&p->w, p->stored, 0, p->w.groups) == FP_OK, "%s", fp_error_detail());
    p->x = aligned(tokens * cols * sizeof *p->x);
    p->xq = aligned(tokens * blocks * sizeof *p->xq);
    p->want = aligned(tokens * rows * sizeof *p->want);
    p->bias = aligned(rows * sizeof *p->bias);
    p->act_memory = aligned(fp__act_bytes(tokens, cols));
    for (size_t i = 0; i < tokens * cols; i++)
        p->x[i] = act_value(acts);
    for (size_t i = 0; i < rows; i++)
        p->bias[i] = blocks_uniform();
    for (size_t i = 0; i < tokens * blocks; i++)
        CHECK(fp__exact_quantise_block(p->x + i * FP__BLOCK, &p->xq[i]), "test data");
    fp__wblock *row = aligned(blocks * sizeof *row);
    for (size_t r = 0; r < rows; r++) {
        for (size_t b = 0; b < blocks; b++)
            CHECK(fp__exact_decode_block(type, p->stored + r * p->row_bytes, b, &row[b]), "test data");
        for (size_t t = 0; t < tokens; t++)
            p->want[t * rows + r] = fp__exact_dot_blocks(row, p->xq + t * blocks, blocks);
    }
    /* the fast path of the test equals the definition it stands for */
    float first = fp__exact_dot(type, p->stored, cols, p->xq);
    CHECK(!memcmp(&first, p->want, 4), "fp__exact_dot and fp__exact_dot_blocks differ");
    free(row);
}

static void problem_free(problem *p)
{
    free(p->stored);
    free(p->w.data);
    free(p->x);
    free(p->xq);
    free(p->want);
    free(p->bias);
    free(p->act_memory);
}

static void check_act(const problem *p, const fp__kernel_ops *ops, fp__act *act)
{
    size_t blocks = p->cols / FP__BLOCK;
    uint8_t bad = 0;
    memset(p->act_memory, 0xee, fp__act_bytes(p->tokens, p->cols));
    fp__act_bind(act, p->act_memory, p->tokens, p->cols);
    for (size_t t = 0; t < p->tokens; t++)
        ops->act_quantise(p->x + t * p->cols, act, t, &bad);
    CHECK(!bad, "%s: good activations called bad", ops->name);
    fp__act wanted;
    void *memory = aligned(fp__act_bytes(p->tokens, p->cols));
    fp__act_bind(&wanted, memory, p->tokens, p->cols);
    for (size_t t = 0; t < p->tokens; t++)
        for (size_t b = 0; b < blocks; b++)
            fp__act_store(&wanted, t, b, &p->xq[t * blocks + b]);
    CHECK(!memcmp(memory, p->act_memory, fp__act_bytes(p->tokens, p->cols)),
          "%s: activation blocks differ (%zu tokens of %zu)", ops->name, p->tokens, p->cols);
    free(memory);
}

/* One call of linear over groups [begin, end), with every byte that must not be written poisoned and looked
 * at. */
static void check_linear(const problem *p, const fp__kernel_ops *ops, const fp__act *act, size_t begin,
                         size_t end, const float *bias, bool accumulate)
{
    enum { POISON = 0x5a };
    size_t stride = p->rows + 3, count = p->tokens * stride;
    float *y = aligned(count * 4), *want = aligned(count * 4);
    memset(y, POISON, count * 4);
    for (size_t i = 0; accumulate && i < count; i++)
        y[i] = blocks_uniform();
    memcpy(want, y, count * 4);
    for (size_t t = 0; t < p->tokens; t++)
        for (size_t r = begin * 16; r < end * 16 && r < p->rows; r++) {
            float v = p->want[t * p->rows + r];
            if (bias)
                v = v + bias[r];
            want[t * stride + r] = accumulate ? want[t * stride + r] + v : v;
        }
    ops->linear(&p->w, act, begin, end, bias, y, stride, accumulate);
    for (size_t i = 0; i < count; i++)
        CHECK(!memcmp(&y[i], &want[i], 4),
              "%s %s %zu×%zu, %zu tokens, groups %zu..%zu: y[%zu][%zu] is %a, not %a", ops->name,
              fp__wtype_name(p->type), p->rows, p->cols, p->tokens, begin, end, i / stride, i % stride,
              (double)y[i], (double)want[i]);
    free(y);
    free(want);
}

static void check_problem(int type, size_t rows, size_t cols, size_t tokens, blocks_paint weights,
                          act_paint acts)
{
    problem p;
    const fp__kernel_ops *ops;
    problem_make(&p, type, rows, cols, tokens, weights, acts);
    for (size_t i = 0; (ops = fp__kernel_ops_at(i)) != NULL; i++) {
        fp__act act;
        size_t groups = p.w.groups;
        check_act(&p, ops, &act);
        check_linear(&p, ops, &act, 0, groups, NULL, false);
        check_linear(&p, ops, &act, 0, groups, p.bias, true);
        check_linear(&p, ops, &act, groups / 2, groups, p.bias, false);
        check_linear(&p, ops, &act, 0, groups / 2, NULL, true);
    }
    problem_free(&p);
}

/* Out-of-range activations set bad, never clear it, and give the zeros that the definition gives. */
static void check_bad(void)
{
    static const uint32_t values[] = {0x7fc00000u, 0xffc00001u, 0x7f800000u,
                                      0xff800000u, 0x57800000u, 0xd7800000u};
    enum { COLS = 20 * 32 };
    const fp__kernel_ops *ops;
    for (size_t i = 0; (ops = fp__kernel_ops_at(i)) != NULL; i++)
        for (size_t v = 0; v < sizeof values / sizeof *values; v++)
            for (size_t at = 0; at < COLS; at += 37) {
                float x[COLS];
                for (size_t j = 0; j < COLS; j++)
                    x[j] = blocks_uniform();
                x[at] = fp__bits_float(values[v]);
                fp__act act, wanted;
                void *memory = aligned(fp__act_bytes(1, COLS)), *expected = aligned(fp__act_bytes(1, COLS));
                fp__act_bind(&act, memory, 1, COLS);
                fp__act_bind(&wanted, expected, 1, COLS);
                uint8_t bad = 0;
                ops->act_quantise(x, &act, 0, &bad);
                CHECK(bad == 1, "%s: %08x at %zu not noticed", ops->name, values[v], at);
                for (size_t b = 0; b < COLS / 32; b++) {
                    fp__qblock q;
                    (void)fp__exact_quantise_block(x + b * 32, &q); /* false for one of them, on purpose */
                    fp__act_store(&wanted, 0, b, &q);
                }
                CHECK(!memcmp(memory, expected, fp__act_bytes(1, COLS)), "%s: not the definition's zeros",
                      ops->name);
                x[at] = 0.0f;
                ops->act_quantise(x, &act, 0, &bad);
                CHECK(bad == 1, "%s: cleared bad", ops->name);
                free(memory);
                free(expected);
            }
}

static bool is_k(int type)
{
    return type == FP__Q4_K || type == FP__Q5_K || type == FP__Q6_K;
}

int main(void)
{
    static const size_t some_rows[] = {1, 15, 16, 17, 31, 33, 48, 49, 63, 64, 65, 97};
    static const size_t some_cols[] = {32, 64, 256, 288, 512, 576, 1536};
    for (size_t i = 0; i < BLOCK_TYPES; i++) {
        int type = block_types[i];
        for (size_t r = 0; r < sizeof some_rows / sizeof *some_rows; r++)
            check_problem(type, some_rows[r], 512, 1 + r, BLOCKS_RANDOM, ACT_RANDOM);
        for (size_t rows = 1; rows <= 49; rows++)
            check_problem(type, rows, is_k(type) ? 256 : 64, 1 + rows % 9, BLOCKS_RANDOM, ACT_RANDOM);
        for (size_t c = 0; c < sizeof some_cols / sizeof *some_cols; c++)
            if (!is_k(type) || some_cols[c] % 256 == 0) {
                check_problem(type, 40, some_cols[c], 3, BLOCKS_RANDOM, ACT_RANDOM);
                check_problem(type, 80, some_cols[c], 1, BLOCKS_RANDOM, ACT_RANDOM);
            }
        for (size_t tokens = 1; tokens <= 17; tokens++)
            check_problem(type, 81, 256, tokens, BLOCKS_RANDOM, ACT_RANDOM);
        check_problem(type, 34, 512, 64, BLOCKS_RANDOM, ACT_RANDOM);
        for (int weights = 0; weights < BLOCKS_PAINTS; weights++)
            for (int acts = 0; acts < ACT_PAINTS; acts++)
                check_problem(type, 23, 512, 9, (blocks_paint)weights, (act_paint)acts);
    }
    /* chunks of groups: more weights than one chunk holds */
    check_problem(FP__Q8_0, 700, 1536, 17, BLOCKS_RANDOM, ACT_RANDOM);
    check_bad();
    size_t tables = 0;
    while (fp__kernel_ops_at(tables))
        printf("table %s\n", fp__kernel_ops_at(tables++)->name);
    printf(failures ? "%d failures\n" : "linear: all equal\n", failures);
    return failures != 0;
}
