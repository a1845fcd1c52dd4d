/* What receipts cost an answer, logged one by one in the token loop (fp_session_receipt) and through the
 * queue (fp_receipts_add): bench_receipts MODEL.gguf FOLDER [TOKENS] [RECEIPTS] FOLDER must be empty: a
 * workspace is made there. Prints one JSON object; times are of the calling thread. */
#include "fieldprint/fieldprint.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void ok(fp_status status)
{
    if (status != FP_OK) {
        fprintf(stderr, "bench_receipts: %s\n", fp_error_detail());
        exit(1);
    }
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *times, size_t n)
{
    qsort(times, n, sizeof *times, compare);
    return times[n / 2];
}

int main(int argc, char **argv)
{
    if (argc < 3) {
        fprintf(stderr, "usage: bench_receipts MODEL.gguf FOLDER [TOKENS] [RECEIPTS]\n");
        return 2;
    }
    uint32_t tokens = argc > 3 ? (uint32_t)atoi(argv[3]) : 256;
    size_t n = argc > 4 ? (size_t)atoi(argv[4]) : 100;
    fp_model *model;
    fp_workspace *w;
    fp_engine *engine;
    fp_session *session;
    fp_receipts *queue;
    fp_receipts_status status;
    ok(fp_workspace_init(argv[2], NULL, NULL));
    ok(fp_workspace_open(argv[2], NULL, &w));
    ok(fp_model_open(argv[1], NULL, &model));
    ok(fp_engine_create(model, NULL, &engine));
    ok(fp_session_create(engine, NULL, &session));
    fp_generate_options o = {.max_tokens = tokens, .ignore_eog = true};
    fp_sampling_default(&o.sampling);
    static const char prompt[] = "Tell me about the sea.";
    ok(fp_session_add_message(session, FP_ROLE_USER, prompt, strlen(prompt)));
    double start = now_s();
    ok(fp_session_begin(session, &o));
    ok(fp_session_run(session));
    double answer = now_s() - start;
    double *one = calloc(n, sizeof *one), *queued = calloc(n, sizeof *queued);
    if (!one || !queued)
        return 1;
    for (size_t i = 0; i < n; i++) {
        start = now_s();
        ok(fp_session_receipt(session, w, NULL, NULL, NULL));
        one[i] = now_s() - start;
    }
    ok(fp_receipts_open(argv[2], NULL, &queue));
    double begin = now_s();
    for (size_t i = 0; i < n; i++) {
        start = now_s();
        ok(fp_receipts_add(queue, session, w, NULL, NULL, NULL));
        queued[i] = now_s() - start;
    }
    ok(fp_receipts_flush(queue));
    double all = now_s() - begin;
    fp_receipts_get_status(queue, &status);
    double a = median(one, n), b = median(queued, n);
    printf("{\"tokens\": %u, \"answer_s\": %.4f, \"receipts\": %zu, \"one_by_one_ms\": %.3f, \"queued_ms\": "
           "%.3f, "
           "\"one_by_one_share\": %.5f, \"queued_share\": %.5f, \"entries\": %llu, \"queue_receipts_per_s\": "
           "%.1f}\n",
           tokens, answer, n, a * 1e3, b * 1e3, a / answer, b / answer, (unsigned long long)status.entries,
           (double)n / all);
    fp_receipts_close(queue);
    fp_session_destroy(session);
    fp_engine_destroy(engine);
    fp_model_close(model);
    fp_workspace_close(w);
    free(one);
    free(queued);
    return 0;
}
