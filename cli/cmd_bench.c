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
    char *prefill_text, *depth_text; /* depth 0: two tokens, for decoding to go on from */
    double prefill_rate[MAX_REPEAT], decode_rate[MAX_REPEAT]; /* tokens/s */
} bench;

static fp_status count_tokens(const fp_model *model, const char *text, size_t size, size_t *n)
{
    uint32_t *ids = NULL;
    fp_status status = fp_model_tokenize(model, text, size, FP_TOKENIZE_ADD, &ids, n);
    free(ids);
    return status;
}

static char *repeated(const char *word, size_t n)
{
    size_t size = strlen(word);
    char *text = malloc(size * n + 1);
    for (size_t i = 0; text && i < n; i++)
        memcpy(text + i * size, word, size);
    if (text)
        text[size * n] = 0;
    return text;
}

static bool has_tokens(const fp_model *model, const char *text, size_t n)
{
    size_t got;
    return text && count_tokens(model, text, strlen(text), &got) == FP_OK && got == n;
}

/* Text of exactly n tokens, the model's begin token (if it wants one) among them: a word that is one token
 * however often it is repeated. free(); NULL after saying that there is none. */
static char *text_of(const fp_model *model, size_t n)
{
    static const char *const words[] = {" the", " a", "1", "z", ".", " "};
    size_t begin = fp_model_begin_token(model) != UINT32_MAX;
    for (size_t i = 0; n > begin && i < sizeof words / sizeof *words; i++) {
        char *text = repeated(words[i], n - begin);
        if (has_tokens(model, text, n))
            return text;
        free(text);
    }
    (void)cli_usage("cannot make a prompt of %zu tokens for this model; try another length", n);
    return NULL;
}

/* Adds a prompt and generates. In a session that has some tokens, the one sampled last comes along with the
 * prompt: it counts. */
static fp_status answer(fp_session *session, const char *text, size_t generate, fp_result *result)
{
    fp_generate_options o = {.max_tokens = (uint32_t)generate, .ignore_eog = true};
    fp_sampling_default(&o.sampling);
    fp_status status = fp_session_add_message(session, FP_ROLE_USER, text, strlen(text));
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
        status = answer(session, b->depth_text, 1, &result);
    if (status == FP_OK)
        status = answer(session, b->prefill_text, 1, &result);
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
        status = answer(session, b->depth_text, b->decode + 1, &result);
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
        return cli_print_json(
            json_pack("{s:s, s:s, s:s, s:I, s:i, s:i, s:i, s:i, s:f, s:f, s:f}", "device",
                      fp_engine_device(b->engine), "kernels", info.kernels, "types", fp_model_types(b->model),
                      "hash_threads", (json_int_t)hash, "prefill_tokens", (int)b->prefill, "decode_tokens",
                      (int)b->decode, "depth", (int)b->depth, "repeat", (int)b->repeat,
                      "prefill_tokens_per_s", prefill, "decode_tokens_per_s", decode, "peak_rss_mib", mib));
    printf("%s, device %s, CPU kernels %s, %s\n", fp_model_types(b->model), fp_engine_device(b->engine),
           info.kernels, hash ? "pages hashed by workers" : "pages hashed in the token loop");
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
    if (status == FP_OK && (!(b.depth_text = text_of(model, b.depth ? b.depth : 2)) ||
                            (b.prefill && !(b.prefill_text = text_of(model, b.prefill))))) {
        free(b.depth_text);
        fp_model_close(model);
        return 2;
    }
    if (status == FP_OK)
        status = fp_engine_create(model, &o, &b.engine);
    for (size_t i = 0; i < b.repeat && status == FP_OK; i++) {
        if (b.prefill)
            status = time_prefill(&b, &b.prefill_rate[i]);
        if (b.decode && status == FP_OK)
            status = time_decode(&b, &b.decode_rate[i]);
    }
    int code = status == FP_OK ? report(&b) : cli_fail(status);
    free(b.prefill_text);
    free(b.depth_text);
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
