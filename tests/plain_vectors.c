/* vectors/arithmetic-1.txt against src/exact as compiled here and against every table of kernels that this
 * machine can run: equal digests, no tolerance. */
#include "../vectors/case.h"

enum { LINES_LEAST = 1000 };

static size_t failures, compared, lines_of[32];

/* False where the result differs; *ran tells whether there was one. */
static bool same(const vector_case *want, const fp__kernel_ops *ops, vector_case *got, bool *ran)
{
    *got = *want;
    *ran = run_case(got, ops);
    return !*ran || (strcmp(got->digest, want->digest) == 0 && strcmp(got->head, want->head) == 0);
}

static void compare(const vector_case *want, const fp__kernel_ops *ops)
{
    vector_case got;
    bool ran, equal = same(want, ops, &got, &ran);
    compared += ran;
    if (!equal && failures++ < 25)
        printf("%s differs: %s\n  expected %s…\n  got      %s…\n", ops ? ops->name : "src/exact", want->text,
               want->head, got.head);
}

/* The digests and the comparison themselves: FIPS 180-4 examples, and a result with one wrong bit. */
static void test_checker(void)
{
    char hex[65];
    sha256_hex((const uint8_t *)"abc", 3, hex);
    FP_CHECK(strcmp(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad") == 0);
    const char *two = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
    sha256_hex((const uint8_t *)two, strlen(two), hex);
    FP_CHECK(strcmp(hex, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1") == 0);
    vector_case c, got;
    bool ran;
    const char *text = "rmsnorm n=33 x=normal:1 w=normal:2 eps=1e-5";
    case_from_text(&c, text, strlen(text));
    FP_CHECK(run_case(&c, NULL));
    FP_CHECK(same(&c, NULL, &got, &ran) && ran);
    c.digest[5] = c.digest[5] == 'a' ? 'b' : 'a';
    FP_CHECK(!same(&c, NULL, &got, &ran) && ran);
}

static bool parse(char *text, vector_case *c)
{
    char *equals = strstr(text, " = ");
    if (!equals)
        return false;
    case_from_text(c, text, (size_t)(equals - text));
    return sscanf(equals + 3, "%64[0-9a-f] %64[0-9a-f]", c->digest, c->head) == 2;
}

int main(int argc, char **argv)
{
    const char *path = argc > 1 ? argv[1] : "vectors/arithmetic-1.txt";
    FILE *file = fopen(path, "r");
    if (!file) {
        printf("cannot open %s: run from the root of the source tree\n", path);
        return 1;
    }
    test_checker();
    char text[1024];
    size_t lines = 0;
    while (fgets(text, sizeof text, file)) {
        if (*text == '#')
            continue;
        vector_case c;
        if (!parse(text, &c)) {
            printf("not a vector: %s\n", text);
            failures++;
            continue;
        }
        lines++;
        for (size_t f = 0; f < sizeof vector_functions / sizeof *vector_functions; f++)
            lines_of[f] += strcmp(vector_functions[f].name, c.function) == 0;
        compare(&c, NULL);
        for (size_t i = 0; fp__kernel_ops_at(i); i++)
            compare(&c, fp__kernel_ops_at(i));
    }
    (void)fclose(file);
    if (lines < LINES_LEAST) {
        printf("only %zu vectors in %s\n", lines, path);
        failures++;
    }
    for (size_t f = 0; f < sizeof vector_functions / sizeof *vector_functions; f++)
        if (lines_of[f] == 0) {
            printf("no vector of %s in %s\n", vector_functions[f].name, path);
            failures++;
        }
    printf("%zu vectors, %zu comparisons, %zu differ; tables:", lines, compared, failures);
    for (size_t i = 0; fp__kernel_ops_at(i); i++)
        printf(" %s", fp__kernel_ops_at(i)->name);
    printf("\n");
    return failures != 0;
}
