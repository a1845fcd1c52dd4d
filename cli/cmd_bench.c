/* fieldprint bench speed: prefill and decode rates of the engine, as users get them. */
#include "commands.h"
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

static const cli_option options[] = {
    CLI_MODEL_OPTIONS,
    {"prefill", 0, "N", "prompt tokens to time (default 512; 0: none)"},
    {"decode", 0, "N", "tokens to generate and time (default 128; 0: none)"},
    {"depth", 0, "N", "tokens in the context before (default 0)"},
    {"repeat", 0, "N", "repetitions; medians are told (default 3)"},
    CLI_ENGINE_OPTIONS,
    CLI_JSON_OPTION,
    CLI_END,
};

enum { MAX_REPEAT = 99 };

typedef struct bench {
    const cli_args *args;
    const fp_model *model;
    fp_engine *engine;
    size_t prefill, decode, depth, repeat;
    double prefill_rate[MAX_REPEAT], decode_rate[MAX_REPEAT]; /* tokens/s */
} bench;

static fp_status count_tokens(const fp_model *model, const char *text, size_t size, size_t *n)
{
    uint32_t *ids = NULL;
    fp_status status = fp_model_tokenize(model, text, size, FP_TOKENIZE_ADD, &ids, n);
    free(ids);
    return status;
}

/* Text of exactly n tokens, the model's begin token (if it wants one) among them: n words of a list, then as
 * many fewer or more as the count says. free(). */
static fp_status text_of(const fp_model *model, size_t n, char **out)
{
    static const char *const words[] = {" the", " of", " and", " to", " in", " is", " that", " for"};
    size_t k = n, got = 0;
    char *text = malloc(6 * (n + 1) + 16);
    if (!text)
        return FP_NO_MEMORY;
    for (int tries = 0; tries < 8; tries++) {
        size_t size = 0;
        for (size_t i = 0; i < k; i++)
            size += (size_t)sprintf(text + size, "%s", words[i * 5 % 8]);
        fp_status status = count_tokens(model, text, size, &got);
        if (status != FP_OK || got == n) {
            *out = text;
            if (status != FP_OK)
                free(text);
            return status;
        }
        if (got > n && got - n > k)
            break;
        k = k + n - got;
        if (k > n)
            break;
    }
    free(text);
    (void)cli_usage("cannot make a prompt of %zu tokens for this tokenizer; try another length", n);
    return FP_UNSUPPORTED;
}

/* Adds a prompt of `tokens` tokens and generates `generate`. In a session that has some, the token sampled
 * last comes along with the prompt: it counts. */
static fp_status answer(bench *b, fp_session *session, size_t tokens, size_t generate, fp_result *result)
{
    char *text = NULL;
    fp_status status = text_of(b->model, tokens, &text);
    fp_generate_options o = {.max_tokens = (uint32_t)generate, .ignore_eog = true};
    fp_sampling_default(&o.sampling);
    if (status == FP_OK)
        status = fp_session_add_message(session, FP_ROLE_USER, text, strlen(text));
    free(text);
    if (status == FP_OK)
        status = fp_session_begin(session, &o);
    if (status == FP_OK)
        status = fp_session_run(session);
    if (status == FP_OK)
        fp_session_result(session, result);
    return status;
}

static fp_status time_prefill(bench *b, double *rate)
{
    fp_session *session = NULL;
    fp_result result;
    fp_status status = fp_session_create(b->engine, &(fp_session_options){.raw = true}, &session);
    if (status == FP_OK && b->depth)
        status = answer(b, session, b->depth, 1, &result);
    if (status == FP_OK)
        status = answer(b, session, b->prefill, 1, &result);
    if (status == FP_OK)
        *rate = (double)(result.prompt_tokens + (b->depth ? 1 : 0)) / ((double)result.prefill_ns / 1e9);
    fp_session_destroy(session);
    return status;
}

static fp_status time_decode(bench *b, double *rate)
{
    fp_session *session = NULL;
    fp_result result;
    fp_status status = fp_session_create(b->engine, &(fp_session_options){.raw = true}, &session);
    if (status == FP_OK)
        status = answer(b, session, b->depth ? b->depth : 2, b->decode + 1, &result);
    if (status == FP_OK)
        *rate = (double)(result.n_ids - 1) / ((double)result.decode_ns / 1e9);
    fp_session_destroy(session);
    return status;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, size_t n)
{
    qsort(values, n, sizeof *values, ascending);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

static int report(bench *b)
{
    struct rusage usage;
    fp_model_info info;
    getrusage(RUSAGE_SELF, &usage);
    fp_model_info_get(b->model, &info);
    double prefill = b->prefill ? median(b->prefill_rate, b->repeat) : 0,
           decode = b->decode ? median(b->decode_rate, b->repeat) : 0, mib = (double)usage.ru_maxrss / 1024;
    uint64_t hash = cli_number(b->args, "hash-threads", 1, 0, 64);
    if (b->args->json)
        return cli_print_json(json_pack(
            "{s:s, s:s, s:I, s:i, s:i, s:i, s:i, s:f, s:f, s:f}", "kernels", info.kernels, "types",
            fp_model_types(b->model), "hash_threads", (json_int_t)hash, "prefill_tokens", (int)b->prefill,
            "decode_tokens", (int)b->decode, "depth", (int)b->depth, "repeat", (int)b->repeat,
            "prefill_tokens_per_s", prefill, "decode_tokens_per_s", decode, "peak_rss_mib", mib));
    printf("%s, kernels %s, %s\n", fp_model_types(b->model), info.kernels,
           hash ? "pages hashed by workers" : "pages hashed in the token loop");
    if (b->prefill)
        printf("prefill  %4zu tokens at depth %-5zu %9.1f tokens/s\n", b->prefill, b->depth, prefill);
    if (b->decode)
        printf("decode   %4zu tokens at depth %-5zu %9.1f tokens/s\n", b->decode, b->depth, decode);
    printf("peak memory %.1f MiB (model file %.1f MiB); medians of %zu\n", mib,
           (double)info.file_bytes / 1048576, b->repeat);
    return 0;
}

static int bench_main(const cli_args *args)
{
    bench b = {.args = args,
               .prefill = (size_t)cli_number(args, "prefill", 512, 0, 1 << 20),
               .decode = (size_t)cli_number(args, "decode", 128, 0, 1 << 20),
               .depth = (size_t)cli_number(args, "depth", 0, 0, 1 << 20),
               .repeat = (size_t)cli_number(args, "repeat", 3, 1, MAX_REPEAT)};
    fp_model *model = NULL;
    fp_engine_options o;
    if (!cli_model_path(args))
        return 2;
    cli_engine_options(args, &o);
    if (!o.context_tokens)
        o.context_tokens = b.depth + (b.prefill > b.decode ? b.prefill : b.decode) + 64;
    fp_status status = cli_open_model(args, false, &model);
    b.model = model;
    if (status == FP_OK)
        status = fp_engine_create(model, &o, &b.engine);
    for (size_t i = 0; i < b.repeat && status == FP_OK; i++) {
        if (b.prefill)
            status = time_prefill(&b, &b.prefill_rate[i]);
        if (b.decode && status == FP_OK)
            status = time_decode(&b, &b.decode_rate[i]);
    }
    int code = status == FP_OK ? report(&b) : cli_fail(args, status);
    fp_engine_destroy(b.engine);
    fp_model_close(model);
    return code;
}

const cli_command cli_command_bench_speed = {
    "bench speed",
    "",
    0,
    0,
    "how fast this machine runs a model: prefill and decode rates, peak memory",
    "Times the engine as fieldprint run uses it, sampling and page hashing included, with a made-up prompt "
    "of exactly so many tokens. --hash-threads 0 hashes in the token loop, to compare.",
    options,
    bench_main,
};
