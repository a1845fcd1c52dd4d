/* fieldprint perplexity: how well a model predicts a text; with --out, every log-probability. */
#include "commands.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const cli_option options[] = {
    CLI_MODEL_OPTIONS,
    {"file", 'f', "FILE", "the text"},
    {"ctx", 'c', "N", "tokens per chunk (default 512); the second half of each is scored, as in llama.cpp"},
    {"chunks", 0, "N", "score the first N chunks (default: all)"},
    CLI_DEVICE_OPTION,
    {"chunk", 0, "N", "tokens per step (default 512, on a GPU 2048); changes no result"},
    {"batch", 0, "N", "chunks at a time (default 1); changes no result"},
    {"hash-threads", 0, "N", "workers that hash sealed pages (default 1; 0 hashes in the token loop)"},
    {"out", 'o', "FILE", "write the log-probabilities as binary64, in order"},
    CLI_JSON_OPTION,
    CLI_END,
};

typedef struct scores {
    uint32_t *ids;
    size_t chunks, ctx, scored; /* scored tokens per chunk */
    double *logprobs;           /* [chunks][scored] */
    uint8_t (*heads)[32];       /* [chunks] */
} scores;

static fp_status score(fp_engine *engine, const scores *s, size_t batch, cli_progress *progress)
{
    const uint32_t *ids[64];
    size_t n[64];
    double *out[64];
    for (size_t at = 0; at < s->chunks; at += batch) {
        size_t k = s->chunks - at < batch ? s->chunks - at : batch;
        for (size_t i = 0; i < k; i++) {
            ids[i] = s->ids + (at + i) * s->ctx;
            n[i] = s->ctx;
            out[i] = s->logprobs + (at + i) * s->scored;
        }
        fp_status status = fp_engine_score(engine, ids, n, k, s->ctx / 2 + 1, out, s->heads + at);
        if (status != FP_OK)
            return status;
        cli_progress_update(progress, (double)(at + k) / (double)s->chunks);
    }
    return FP_OK;
}

static int write_out(const char *path, const scores *s)
{
    FILE *f = fopen(path, "wb");
    size_t n = s->chunks * s->scored;
    bool bad = !f || fwrite(s->logprobs, sizeof *s->logprobs, n, f) != n;
    bad = (f && fclose(f) != 0) || bad;
    return bad ? cli_error(FP_IO, "cannot write %s: %s", path, strerror(errno)) : 0;
}

static int report(const cli_args *args, const scores *s, uint64_t ns)
{
    double sum = 0;
    size_t n = s->chunks * s->scored;
    for (size_t i = 0; i < n; i++)
        sum -= s->logprobs[i];
    double ppl = exp(sum / (double)n), rate = (double)(s->chunks * s->ctx) / ((double)ns / 1e9);
    const char *out = cli_text(args, "out", NULL);
    int code = out ? write_out(out, s) : 0;
    if (code)
        return code;
    if (!args->json) {
        printf("perplexity %.4f over %zu tokens (%zu chunks of %zu; %.0f tokens/s)\n", ppl, n, s->chunks,
               s->ctx, rate);
        return 0;
    }
    json_t *roots = json_array();
    for (size_t i = 0; i < s->chunks; i++)
        json_array_append_new(roots, cli_hex(s->heads[i], 32));
    char bits[32];
    snprintf(bits, sizeof bits, "%a", sum);
    return cli_print_json(json_pack("{s:f, s:I, s:i, s:i, s:s, s:f, s:o}", "perplexity", ppl, "tokens",
                                    (json_int_t)n, "chunks", (int)s->chunks, "ctx", (int)s->ctx, "nll_bits",
                                    bits, "tokens_per_s", rate, "kv_roots", roots));
}

static int run_scores(const cli_args *args, const fp_model *model, const uint32_t *ids, size_t n)
{
    scores s = {.ctx = (size_t)cli_number(args, "ctx", 512, 8, 1 << 20)};
    size_t batch = (size_t)cli_number(args, "batch", 1, 1, 64);
    s.chunks = n / s.ctx;
    uint64_t wanted = cli_number(args, "chunks", s.chunks, 1, UINT32_MAX);
    s.chunks = wanted < s.chunks ? (size_t)wanted : s.chunks;
    if (s.chunks == 0)
        return cli_usage("the text has %zu tokens, fewer than one chunk of %zu", n, s.ctx);
    s.scored = s.ctx - s.ctx / 2 - 1;
    s.ids = malloc(s.chunks * s.ctx * sizeof *s.ids);
    s.logprobs = malloc(s.chunks * s.scored * sizeof *s.logprobs);
    s.heads = malloc(s.chunks * sizeof *s.heads);
    fp_engine_options o;
    fp_engine *engine = NULL;
    cli_progress progress;
    cli_engine_options(args, &o);
    o.context_tokens = s.ctx;
    o.max_sessions = batch;
    int code = 3;
    if (s.ids && s.logprobs && s.heads) {
        memcpy(s.ids, ids, s.chunks * s.ctx * sizeof *s.ids);
        uint32_t bos = fp_model_begin_token(model);
        for (size_t i = 0; bos != UINT32_MAX && i < s.chunks; i++)
            s.ids[i * s.ctx] = bos;
        cli_progress_start(&progress, "perplexity");
        fp_status status = fp_engine_create(model, &o, &engine);
        if (status == FP_OK)
            status = score(engine, &s, batch, &progress);
        cli_progress_end(&progress);
        code = status == FP_OK ? report(args, &s, cli_now_ns() - progress.start_ns) : cli_fail(status);
    }
    fp_engine_destroy(engine);
    free(s.ids);
    free(s.logprobs);
    free(s.heads);
    return code;
}

static int perplexity_main(const cli_args *args)
{
    const char *file = cli_text(args, "file", NULL);
    char *text;
    size_t size, n;
    uint32_t *ids;
    fp_model *model;
    if (!file)
        return cli_usage("give the text with -f FILE");
    if (!cli_model_path(args))
        return 2;
    fp_status status = cli_read_file(file, (size_t)1 << 30, &text, &size);
    if (status != FP_OK)
        return fp_status_exit_code(status);
    status = cli_open_model(args, false, &model);
    if (status != FP_OK) {
        free(text);
        return cli_fail(status);
    }
    status = fp_model_tokenize(model, text, size, FP_TOKENIZE_ADD, &ids, &n);
    int code = status == FP_OK ? run_scores(args, model, ids, n) : cli_fail(status);
    if (status == FP_OK)
        free(ids);
    free(text);
    fp_model_close(model);
    return code;
}

const cli_command cli_command_perplexity = {
    "perplexity",
    "",
    0,
    0,
    "how well a model predicts a text",
    "The text is cut into chunks of --ctx tokens; each is predicted on its own and its second half is "
    "scored, as llama.cpp does. "
    "Log-probabilities come from fixed operations: the same bits on every machine.",
    options,
    perplexity_main,
};
