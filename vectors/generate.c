/* Writes the vectors of canonical arithmetic, version 1, from src/exact to standard output:
 *     build/generate_vectors > vectors/arithmetic-1.txt
 * The file never changes while the arithmetic keeps its version; new lines may be added at the end of a
 * function's part. */
#include "case.h"

#include <stdarg.h>

static void line(const char *format, ...) FP_PRINTF(1, 2);
static void line(const char *format, ...)
{
    char text[400];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    FP_CHECK(n > 0 && (size_t)n < sizeof text);
    vector_case c;
    case_from_text(&c, text, (size_t)n);
    run_case(&c, NULL);
    printf("%s = %s %s\n", c.text, c.digest, c.head);
}

static void elementwise(void)
{
    const int sizes[] = {1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 576, 1000};
    for (int i = 0; i < 15; i++)
        line("exp_weights n=%d x=exponents:%d max=0 scale=1", sizes[i], i + 1);
    line("exp_weights n=4096 x=exponents:20 max=0 scale=1");
    line("exp_weights n=1023 x=logits:21 max=24 scale=0x1.715476p+0");
    line("exp_weights n=333 x=zeros:22 max=0 scale=1");
    line("exp_weights n=333 x=signs:23 max=1 scale=0x1p40");
    line("exp_weights n=333 x=tiny:24 max=1 scale=16");
    for (int i = 0; i < 15; i++)
        line("rmsnorm n=%d x=normal:%d w=normal:%d eps=0x1.4f8b58p-17", sizes[i], i + 1, i + 50);
    const char *const paints[] = {"outliers", "tiny", "subnormal", "huge", "over", "nan", "zeros", "edges"};
    for (int i = 0; i < 8; i++) {
        line("rmsnorm n=576 x=%s:%d w=normal:1 eps=0x1.0c6f7ap-20", paints[i], i + 3);
        line("rmsnorm n=75 x=%s:%d w=outliers:1 eps=1e-5", paints[i], i + 30);
    }
    for (int i = 0; i < 15; i++)
        line("silu_mul n=%d gate=normal:%d up=normal:%d", sizes[i], i + 1, i + 100);
    const char *const gates[] = {"gates", "outliers", "zeros", "edges", "subnormal", "huge"};
    for (int i = 0; i < 6; i++)
        line("silu_mul n=777 gate=%s:%d up=outliers:%d", gates[i], i + 1, i + 100);
}

static void linear(void)
{
    const char *const paints[] = {"normal", "outliers", "tiny",  "subnormal", "huge",
                                  "over",   "nan",      "zeros", "signs",     "edges"};
    for (int i = 0; i < 10; i++)
        for (int token = 0; token < 10; token += 9) {
            line("quantise n=32 token=%d x=%s:%d", token, paints[i], i + 7);
            line("quantise n=1056 token=%d x=%s:%d", token, paints[i], i + 7);
        }
    const char *const types[] = {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K",
                                 "Q5_K", "Q6_K", "F32",  "F16",  "BF16"};
    const int small[] = {32, 96, 224, 256, 288, 576}, big[] = {256, 512, 768, 1024, 256, 1280};
    const int rows[] = {1, 15, 16, 17, 33, 48}, tokens[] = {1, 2, 7, 8, 9, 17};
    const char *const weights[] = {"lowest", "highest", "zero", "subnormal", "large"};
    const char *const inputs[] = {"signs", "outliers", "edges",     "tiny",
                                  "huge",  "normal",   "subnormal", "zeros"};
    for (int t = 0; t < 11; t++) {
        bool k = strstr(types[t], "_K") != NULL, floats = t >= 8;
        for (int i = 0; i < 6; i++)
            line("linear type=%s rows=%d cols=%d tokens=%d bias=%d accumulate=%d w=random:%d x=normal:%d",
                 types[t], rows[i], k ? big[i] : small[i], tokens[i], i % 2, i % 3 == 1, t + 1, i + 1);
        for (int i = 0; i < 6; i++)
            line("linear type=%s rows=%d cols=%d tokens=%d bias=0 accumulate=0 w=random:%d x=outliers:%d",
                 types[t], rows[5 - i], k ? big[i] : small[i], tokens[(i + 3) % 6], t + 20, i + 1);
        for (int w = 0; w < (floats ? 0 : 5); w++)
            for (int x = 0; x < 8; x++)
                line("linear type=%s rows=18 cols=%d tokens=%d bias=0 accumulate=0 w=%s:%d x=%s:%d", types[t],
                     k ? 512 : 320, 1 + (w + x) % 9, weights[w], t + 1, inputs[x], x + 1);
    }
    line("linear type=Q4_1 rows=192 cols=1536 tokens=3 bias=0 accumulate=1 w=random:5 x=outliers:5");
    line("linear type=Q6_K rows=200 cols=2048 tokens=11 bias=1 accumulate=0 w=random:6 x=outliers:6");
    line("linear type=Q8_0 rows=64 cols=4096 tokens=33 bias=0 accumulate=0 w=random:7 x=outliers:7");
}

static void rotary(void)
{
    const char *const bases[] = {"10000", "100000", "500000", "1000000", "65536", "12345.5"};
    const int dims[] = {2, 32, 64, 80, 96, 128, 256};
    for (int b = 0; b < 6; b++)
        for (int i = 0; i < 7; i++)
            line("rope_rows n_rot=%d layout=%d base=%s factors=%d pos=%d n=%d", dims[i], i % 2, bases[b],
                 b == 2, b * 1000, i == 2 ? 2048 : 40);
    line("rope_rows n_rot=64 layout=0 base=100000 factors=0 pos=0 n=8192");
    line("rope_rows n_rot=128 layout=1 base=1000000 factors=0 pos=1048000 n=1000");
    line("rope_rows n_rot=128 layout=0 base=500000 factors=1 pos=16777000 n=216");
    const int positions[] = {0, 1, 2047, 131071};
    for (int layout = 0; layout < 2; layout++)
        for (int i = 0; i < 7; i++)
            for (int p = 0; p < 4; p++)
                line("rope n_rot=%d layout=%d base=100000 factors=0 pos=%d heads=%d d=%d x=normal:%d",
                     dims[i], layout, positions[p], 1 + (i + p) % 4, dims[i] + (p == 1 ? 32 : 0), i + 1);
}

static void attention(void)
{
    const int ds[] = {32, 64, 80, 96, 128, 192, 256, 512};
    const char *const paints[] = {"normal", "outliers", "tiny",  "subnormal",
                                  "huge",   "zeros",    "signs", "edges"};
    for (int i = 0; i < 8; i++)
        for (int p = 0; p < 8; p++) {
            line("query heads=%d d=%d x=%s:%d", 1 + p % 5, ds[i], paints[p], i + 1);
            line("kv_write d=%d tokens=%d k=%s:%d v=%s:%d", ds[i], 1 + p * 9, paints[p], i + 1,
                 paints[(p + 3) % 8], i + 2);
        }
    line("query heads=3 d=64 x=nan:70");
    line("query heads=3 d=64 x=over:130");
    line("kv_write d=64 tokens=3 k=nan:70 v=normal:1");
    line("kv_write d=64 tokens=3 k=normal:1 v=over:130");
    const int tokens[] = {1, 2, 15, 16, 17, 31, 33, 63, 64, 65, 127, 128, 129, 191, 193, 255, 256, 257};
    for (int i = 0; i < 8; i++)
        for (int t = 0; t < 18; t += ds[i] == 64 || ds[i] == 128 ? 1 : 3)
            line("attend d=%d rows=%d tokens=%d q=random:%d kv=random:%d", ds[i], 1 + (t * 5 + i) % 9,
                 tokens[t], t + 1, t + 1);
    const int far[] = {511, 513, 1023, 1024, 1025, 1087, 2049};
    for (int t = 0; t < 7; t++) {
        line("attend d=64 rows=%d tokens=%d q=random:%d kv=random:%d", 2 + t % 3, far[t], t + 30, t + 30);
        line("attend d=%d rows=3 tokens=%d q=random:%d kv=wide:%d", t % 2 ? 80 : 128, far[t] / 2, t + 40,
             t + 40);
    }
    const char *const kv[] = {"extreme", "same", "zero", "holes", "wide"};
    const char *const q[] = {"random", "extreme", "same", "zero"};
    for (int i = 0; i < 5; i++)
        for (int k = 0; k < 4; k++) {
            line("attend d=64 rows=4 tokens=200 q=%s:%d kv=%s:%d", q[k], i + 1, kv[i], k + 1);
            line("attend d=%d rows=2 tokens=70 q=%s:%d kv=%s:%d", k % 2 ? 96 : 256, q[k], i + 1, kv[i],
                 k + 1);
        }
    line("attend d=512 rows=2 tokens=65 q=same:1 kv=same:1");
    line("attend d=64 rows=12 tokens=70 q=random:1 kv=random:2");
    line("attend d=64 rows=33 tokens=300 q=random:1 kv=random:2");
    line("attend d=64 rows=7 tokens=3 q=random:1 kv=random:2");
    const char *const sides[] = {"near:1", "far:2", "none"};
    const int shares[] = {0, 1, 3277, 32768, 65535, 65536};
    for (int mode = 0; mode < 3; mode++)
        for (int s = 0; s < 8; s++)
            for (int g = 0; g < 6; g++)
                line("mix d=%d mode=%d g=%d anchor=%s context=%s", ds[(s + g) % 8], mode, shares[g],
                     sides[s % 3], s / 3 == s % 3 && s / 3 == 2 ? "near:3" : sides[s / 3]);
}

static void sampling(void)
{
    line("philox seed=0 pos=0 choice=0 n=64");
    line("philox seed=0xdeadbeef01234567 pos=4294967290 choice=3 n=64");
    line("philox seed=0xffffffffffffffff pos=18446744073709551610 choice=4294967295 n=5");
    const char *const filters[] = {"k=0 p=1 min=0",   "k=40 p=1 min=0",        "k=40 p=0.95 min=0.05",
                                   "k=0 p=0.9 min=0", "k=0 p=1 min=0.1",       "k=1 p=1 min=0",
                                   "k=0 p=0 min=0",   "k=700 p=0.99 min=0.001"};
    const char *const temperatures[] = {"0", "0.7", "1", "2.5"};
    const int sizes[] = {1, 65, 1000, 4099};
    for (int v = 0; v < 4; v++)
        for (int t = 0; t < 4; t++)
            for (int i = 0; i < 8; i++)
                line("sample V=%d n=24 x=%s:%d T=%s %s r=1 f=0 s=0 seed=%d", sizes[v],
                     i % 3 ? "logits" : "ties", v + 1, temperatures[t], filters[i], 1000 * i + t);
    line("sample V=1000 n=64 x=logits:9 T=0 k=0 p=1 min=0 r=1.25 f=0 s=0 seed=1");
    line("sample V=1000 n=64 x=logits:9 T=0.8 k=50 p=0.95 min=0 r=1.0625 f=0.25 s=0.5 seed=2");
    line("sample V=49152 n=16 x=logits:10 T=1 k=0 p=0.95 min=0 r=1 f=0 s=0 seed=3");
    line("sample V=152064 n=4 x=logits:11 T=1.5 k=0 p=1 min=0 r=1 f=0.5 s=0 seed=0xffffffffffffffff");
}

int main(void)
{
    printf(
        "# fieldprint vectors, canonical arithmetic version %d (vectors/README.md; written by generate.c)\n"
        "# function key=value … = SHA-256 of the result, its first 32 bytes\n",
        FP__ARITHMETIC_VERSION);
    elementwise();
    linear();
    rotary();
    attention();
    sampling();
    return 0;
}
