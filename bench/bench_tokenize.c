/* Tokenizes texts for bench/tokenizer_compare.py: `bench_tokenize MODEL.gguf [special]` reads texts from
 * stdin, each a little-endian u32 length and its bytes, and writes for each a u32 count and the ids. Prints
 * its own times to stderr. */
#include "core/file.h"
#include "model/tokenizer.h"
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int failed(const char *what)
{
    fprintf(stderr, "bench_tokenize: %s: %s\n", what, fp_error_detail());
    return 1;
}

static int answer(const fp__tokenizer *tok, const char *text, size_t size, unsigned flags, double *seconds)
{
    fp__ids ids = {0};
    double start = now();
    if (fp__tokenizer_encode(tok, text, size, flags, &ids) != FP_OK)
        return failed("encode");
    *seconds += now() - start;
    uint8_t head[4];
    fp__store_le32(head, (uint32_t)ids.size);
    fwrite(head, 1, 4, stdout);
    for (size_t i = 0; i < ids.size; i++) {
        fp__store_le32(head, ids.data[i]);
        fwrite(head, 1, 4, stdout);
    }
    fp__ids_free(&ids);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: bench_tokenize MODEL.gguf [special]\n");
        return 2;
    }
    fp__gguf *g = NULL;
    fp__tokenizer *tok = NULL;
    double start = now();
    if (fp__gguf_open(argv[1], &g) != FP_OK)
        return failed("open");
    double opened = now();
    if (fp__tokenizer_load(g, &tok) != FP_OK)
        return failed("load");
    double loaded = now(), seconds = 0;
    unsigned flags = argc > 2 ? FP__TOKENIZE_SPECIAL : 0;
    size_t texts = 0, bytes = 0;
    uint8_t head[4];
    int rc = 0;
    while (rc == 0 && fread(head, 1, 4, stdin) == 4) {
        size_t size = fp__load_le32(head);
        char *text = malloc(size + 1);
        if (!text || fread(text, 1, size, stdin) != size)
            rc = 1;
        else
            rc = answer(tok, text, size, flags, &seconds);
        free(text);
        texts++;
        bytes += size;
    }
    fprintf(stderr,
            "{\"open_ms\": %.1f, \"load_ms\": %.1f, \"texts\": %zu, \"bytes\": %zu, \"encode_ms\": %.1f}\n",
            (opened - start) * 1e3, (loaded - opened) * 1e3, texts, bytes, seconds * 1e3);
    fp__tokenizer_destroy(tok);
    fp__gguf_close(g);
    return rc;
}
