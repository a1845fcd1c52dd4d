/* fieldprint audit, receipt show. */
#include "commands.h"
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { PATH_BYTES = 1280, RECEIPTS_MAX = 1 << 20 };

static const cli_option audit_options[] = {
    {"level", 0, "LEVEL",
     "light (signer, policy, log, anchors), full (every token again), or sample:P (all positions, but the "
     "logits of a random share P of the tokens); default: full with --model, else light"},
    {"transcript", 0, "FILE", "the transcript (default: the one beside the receipt, if it is there)"},
    {"model", 'm', "FILE", "the model: a full audit computes the answer again (default: light only)"},
    {"trust", 0, "FILE", "the trust file, if not the workspace's own"},
    {"nonce", 0, "HEX", "your nonce: the receipt must name it"},
    {"sample-seed", 0, "HEX",
     "with sample:P: choose the tokens by this seed (default: the system's random numbers)"},
    {"beacon", 0, "TEXT",
     "with sample:P: choose the tokens by this text, a public random value that came after the receipt was "
     "logged"},
    {"together", 0, "N", "answers that are computed in one pass (default 8); changes no result"},
    CLI_DEVICE_OPTION,
    {"threads", 't', "N", "threads (default: one per core)"},
    {"chunk", 0, "N", "tokens per step (default 512, on a GPU 2048); changes no result"},
    {"template", 0, "NAME", "chat template, if the answer was made with another one than the file's"},
    CLI_WORKSPACE_OPTION,
    {"json", 0, NULL, "print one JSON object; of several receipts one a line, and a summary last"},
    CLI_END,
};

/* What is audited, and how it stands. */
typedef struct job {
    const cli_args *args;
    bool many, full;
    uint32_t share_65536;
    uint8_t seed[32], nonce[32];
    bool has_seed, has_nonce;
    char **receipts, **transcripts; /* [n], of malloc; transcripts may be NULL */
    fp_audit_item *items;           /* [n] */
    fp_audit_result *results;       /* [n] */
    size_t n, capacity, decided;
    size_t count[5]; /* by verdict */
    size_t errors;
    cli_progress progress;
} job;

/* ---- what to audit ---- */

/* ID.transcript.json beside ID.dsse.json. */
static char *transcript_beside(const char *receipt)
{
    const char *suffix = ".dsse.json";
    size_t n = strlen(receipt), k = strlen(suffix);
    if (n <= k || strcmp(receipt + n - k, suffix) != 0)
        return NULL;
    char *path = malloc(n + 32);
    if (path) {
        snprintf(path, n + 32, "%.*s.transcript.json", (int)(n - k), receipt);
        FILE *f = fopen(path, "rb");
        if (f) {
            fclose(f);
            return path;
        }
        free(path);
    }
    return NULL;
}

static bool add_receipt(job *j, const char *path)
{
    if (j->n == j->capacity) {
        size_t capacity = j->capacity ? 2 * j->capacity : 16;
        char **receipts = realloc(j->receipts, capacity * sizeof *receipts);
        if (receipts)
            j->receipts = receipts;
        char **transcripts = realloc(j->transcripts, capacity * sizeof *transcripts);
        if (transcripts)
            j->transcripts = transcripts;
        if (!receipts || !transcripts)
            return false;
        j->capacity = capacity;
    }
    j->receipts[j->n] = strdup(path);
    j->transcripts[j->n] = transcript_beside(path);
    return j->receipts[j->n++] != NULL && j->n < RECEIPTS_MAX;
}

static int is_receipt(const struct dirent *entry)
{
    const char *suffix = ".dsse.json";
    size_t n = strlen(entry->d_name), k = strlen(suffix);
    return n > k && strcmp(entry->d_name + n - k, suffix) == 0;
}

static int add_folder(job *j, const char *folder)
{
    struct dirent **list;
    int n = scandir(folder, &list, is_receipt, alphasort), code = 0;
    if (n < 0)
        return cli_error(FP_IO, "cannot read the folder %s: %s", folder, strerror(errno));
    if (n == 0)
        code = cli_error(FP_NOT_FOUND, "there is no receipt (*.dsse.json) in %s", folder);
    for (int i = 0; i < n; i++) {
        char path[PATH_BYTES];
        if (code == 0 && (snprintf(path, sizeof path, "%s/%s", folder, list[i]->d_name) >= (int)sizeof path ||
                          !add_receipt(j, path)))
            code = cli_error(FP_LIMIT, "too many receipts, or too long a path, in %s", folder);
        free(list[i]);
    }
    free(list);
    return code;
}

static int add_operands(job *j)
{
    const cli_args *args = j->args;
    for (size_t i = 0; i < args->n; i++) {
        struct stat info;
        char path[PATH_BYTES];
        bool folder = stat(args->operands[i], &info) == 0 && S_ISDIR(info.st_mode);
        if (!folder && !cli_receipt_path(args, args->operands[i], path, sizeof path))
            return 2;
        int code = folder ? add_folder(j, args->operands[i]) : add_receipt(j, path) ? 0 : 3;
        if (code != 0)
            return code;
        j->many = j->many || folder;
    }
    if (j->n == 0 || !j->receipts || !j->transcripts)
        return cli_usage("there is no receipt to audit");
    j->many = j->many || j->n > 1;
    const char *given = cli_text(args, "transcript", NULL), *nonce = cli_text(args, "nonce", NULL);
    if (j->many && (given || nonce))
        return cli_usage("--transcript and --nonce are of one receipt");
    if (given) {
        free(j->transcripts[0]);
        j->transcripts[0] = strdup(given);
    }
    j->has_nonce = nonce != NULL;
    if (nonce && !cli_hex_bytes(nonce, j->nonce, 32))
        return cli_usage("--nonce: 64 hexadecimal digits are wanted");
    j->items = calloc(j->n, sizeof *j->items);
    j->results = calloc(j->n, sizeof *j->results);
    for (size_t i = 0; j->items && i < j->n; i++)
        j->items[i] = (fp_audit_item){j->receipts[i], j->transcripts[i], j->has_nonce ? j->nonce : NULL};
    return j->items && j->results ? 0 : 3;
}

static int parse_level(job *j)
{
    const cli_args *args = j->args;
    const char *level = cli_text(args, "level", cli_has(args, "model") ? "full" : "light");
    const char *seed = cli_text(args, "sample-seed", NULL), *beacon = cli_text(args, "beacon", NULL);
    j->full = strcmp(level, "light") != 0;
    if (strncmp(level, "sample:", 7) == 0) {
        char *end;
        double p = strtod(level + 7, &end);
        if (end == level + 7 || *end || !(p >= 1.0 / 65536 && p <= 1))
            return cli_usage("--level sample:P: P is a share between 1/65536 and 1");
        j->share_65536 = (uint32_t)(p * 65536 + 0.5);
    } else if (strcmp(level, "full") != 0 && strcmp(level, "light") != 0) {
        return cli_usage("--level %s: light, full or sample:P is wanted", level);
    }
    if ((seed || beacon) && (!j->share_65536 || (seed && beacon)))
        return cli_usage("--sample-seed or --beacon chooses the tokens of --level sample:P");
    if (seed && !cli_hex_bytes(seed, j->seed, 32))
        return cli_usage("--sample-seed: 64 hexadecimal digits are wanted");
    if (beacon)
        fp_content_digest(beacon, strlen(beacon), j->seed);
    j->has_seed = seed || beacon;
    return 0;
}

/* ---- what came of it ---- */

static bool is_valid(fp_verdict v)
{
    return v == FP_VERDICT_VALID_LIGHT || v == FP_VERDICT_VALID_FULL || v == FP_VERDICT_VALID_SAMPLED;
}

static fp_verdict verdict_of(const fp_audit_result *r, bool full)
{
    return full && r->light == FP_VERDICT_VALID_LIGHT ? r->full : r->light;
}

static void verdict_text(fp_verdict v, const fp_audit_result *r, char out[48])
{
    if (v == FP_VERDICT_VALID_SAMPLED)
        snprintf(out, 48, "VALID-SAMPLED(%.4g)", r->sample_65536 / 65536.0);
    else
        snprintf(out, 48, "%s", fp_verdict_name(v));
}

static json_t *result_json(const job *j, size_t i)
{
    const fp_audit_result *r = &j->results[i];
    fp_verdict verdict = verdict_of(r, j->full);
    json_t *object = json_pack(
        "{s:s, s:s, s:s, s:o, s:I, s:b, s:b, s:f, s:f, s:i, s:i}", "verdict", fp_verdict_name(verdict),
        "light", fp_verdict_name(r->light), "detail", r->detail, "receipt_id", cli_hex(r->receipt_id, 32),
        "tree_size", (json_int_t)r->tree_size, "witnessed", (int)r->witnessed, "seed_from_nonce",
        (int)r->seed_from_nonce, "light_s", (double)r->light_ns / 1e9, "full_s", (double)r->full_ns / 1e9,
        "prompt_tokens", (int)r->prompt_tokens, "output_tokens", (int)r->output_tokens);
    if (object && j->full)
        json_object_set_new(object, "full", json_string(fp_verdict_name(r->full)));
    if (object && r->position >= 0)
        json_object_set_new(object, "position", json_integer(r->position));
    if (object && j->share_65536) {
        json_object_set_new(object, "share", json_real(r->sample_65536 / 65536.0));
        json_object_set_new(object, "sampled_tokens", json_integer(r->sampled_tokens));
        json_object_set_new(object, "sample_seed", cli_hex(r->sample_seed, 32));
    }
    if (object && j->many)
        json_object_set_new(object, "receipt", json_string(j->receipts[i]));
    if (object && r->status != FP_OK)
        json_object_set_new(object, "error", json_string(fp_status_name(r->status)));
    return object;
}

static int exit_code(const job *j)
{
    return j->count[FP_VERDICT_INVALID] ? 1 : j->count[FP_VERDICT_UNDECIDED] || j->errors ? 3 : 0;
}

static int report(const job *j)
{
    const fp_audit_result *r = &j->results[0];
    fp_verdict verdict = verdict_of(r, j->full);
    char text[48];
    int code = exit_code(j);
    if (j->args->json) {
        int printed = cli_print_json(result_json(j, 0));
        return printed ? printed : code;
    }
    printf("%s", fp_verdict_name(r->light));
    verdict_text(r->full, r, text);
    if (j->full && r->light == FP_VERDICT_VALID_LIGHT)
        printf(" %s", text);
    if (r->detail[0])
        printf(": %s", r->detail);
    printf("\n");
    if (!is_valid(verdict))
        return code;
    printf("at tree size %llu of the ledger (%s); ", (unsigned long long)r->tree_size,
           r->witnessed ? "witnessed" : "unwitnessed: only this log's key vouches for it");
    if (verdict == FP_VERDICT_VALID_SAMPLED) {
        char seed[65];
        cli_hex_text(r->sample_seed, 32, seed);
        printf("the K/V root and the anchor masses were computed again and are equal, and so are %u of %u "
               "tokens, chosen by seed %s: of k wrong tokens one is found with probability 1 - %.4g^k",
               r->sampled_tokens, r->output_tokens, seed, 1 - r->sample_65536 / 65536.0);
    } else {
        printf("%s",
               verdict == FP_VERDICT_VALID_FULL
                   ? "every token, the K/V root and the anchor masses were computed again and are equal"
                   : "signature, policy, log and anchors are in order; --model computes the answer again");
    }
    printf("%s\n", r->seed_from_nonce ? "; the seed comes from the client's nonce" : "");
    return code;
}

static void show_progress(void *context, double done)
{
    job *j = context;
    double of_pass = j->many ? (double)j->decided / (double)j->n : 0;
    cli_progress_update(&j->progress, j->many ? of_pass : done);
}

static void count_one(job *j, size_t i)
{
    const fp_audit_result *r = &j->results[i];
    j->decided++;
    j->errors += r->status != FP_OK;
    if (r->status == FP_OK)
        j->count[verdict_of(r, j->full)]++;
}

static void on_result(void *context, size_t i, const fp_audit_result *r)
{
    job *j = context;
    count_one(j, i);
    if (!j->many)
        return;
    if (j->args->json) {
        (void)cli_print_json(result_json(j, i));
        return;
    }
    char text[48], id[65];
    verdict_text(verdict_of(r, j->full), r, text);
    cli_hex_text(r->receipt_id, 32, id);
    cli_progress_end(&j->progress);
    printf("%-20s %.16s  %5u + %4u tokens  %s%s\n", r->status == FP_OK ? text : "ERROR", id, r->prompt_tokens,
           r->output_tokens, r->detail[0] ? "" : "-", r->detail);
    fflush(stdout);
    cli_progress_update(&j->progress, (double)j->decided / (double)j->n);
}

/* The table at the end, of what was decided. */
static int summarize(const job *j, uint64_t ns)
{
    static const fp_verdict rows[] = {FP_VERDICT_VALID_FULL, FP_VERDICT_VALID_SAMPLED, FP_VERDICT_VALID_LIGHT,
                                      FP_VERDICT_INVALID, FP_VERDICT_UNDECIDED};
    uint64_t tokens = 0, tree = 0;
    bool witnessed = true;
    for (size_t i = 0; i < j->n; i++) {
        tokens += j->results[i].output_tokens;
        if (j->results[i].tree_size > tree)
            tree = j->results[i].tree_size;
        witnessed = witnessed && (j->results[i].witnessed || j->results[i].tree_size == 0);
    }
    double seconds = (double)ns / 1e9;
    if (j->args->json) {
        json_t *counts = json_object();
        for (size_t k = 0; k < 5; k++)
            json_object_set_new(counts, fp_verdict_name(rows[k]),
                                json_integer((json_int_t)j->count[rows[k]]));
        json_t *summary = json_pack("{s:I, s:I, s:o, s:I, s:I, s:I, s:b, s:f}", "receipts", (json_int_t)j->n,
                                    "decided", (json_int_t)j->decided, "verdicts", counts, "errors",
                                    (json_int_t)j->errors, "output_tokens", (json_int_t)tokens, "tree_size",
                                    (json_int_t)tree, "witnessed", (int)witnessed, "seconds", seconds);
        if (summary && j->share_65536)
            json_object_set_new(summary, "sample_seed", cli_hex(j->results[0].sample_seed, 32));
        return cli_print_json(json_pack("{s:o}", "summary", summary));
    }
    printf("\n");
    for (size_t k = 0; k < 5; k++) {
        char text[48];
        verdict_text(rows[k], &j->results[0], text);
        if (j->count[rows[k]])
            printf("%-20s %6zu\n", text, j->count[rows[k]]);
    }
    if (j->errors)
        printf("%-20s %6zu\n", "errors", j->errors);
    printf("%zu of %zu receipts, %llu tokens of answers, %.2f s (%.1f receipts/s); tree size %llu of the "
           "ledger, %s\n",
           j->decided, j->n, (unsigned long long)tokens, seconds, (double)j->decided / seconds,
           (unsigned long long)tree, witnessed ? "witnessed" : "unwitnessed");
    if (j->count[FP_VERDICT_VALID_SAMPLED]) {
        char seed[65];
        cli_hex_text(j->results[0].sample_seed, 32, seed);
        printf("tokens were chosen by seed %s\n", seed);
    }
    return 0;
}

/* Nothing to go by: that is a verdict too. */
static int report_no_trust(const job *j)
{
    const char *why = fp_error_detail();
    if (!j->args->json) {
        printf("%s: %s\n", fp_verdict_name(FP_VERDICT_UNDECIDED), why);
        return 3;
    }
    int printed = cli_print_json(
        json_pack("{s:s, s:s}", "verdict", fp_verdict_name(FP_VERDICT_UNDECIDED), "detail", why));
    return printed ? printed : 3;
}

static int audit_job(job *j)
{
    const cli_args *args = j->args;
    fp_workspace *workspace = NULL;
    fp_model *model = NULL;
    fp_engine_options engine;
    cli_engine_options(args, &engine);
    engine.progress = show_progress;
    engine.progress_context = j;
    fp_status status =
        fp_workspace_open(cli_text(args, "workspace", NULL), cli_text(args, "trust", NULL), &workspace);
    if (status == FP_OK && j->full)
        status = cli_open_model(args, false, &model);
    fp_audit_many_options o = {.engine = &engine,
                               .model = model,
                               .sample_65536 = j->share_65536,
                               .sample_seed = j->has_seed ? j->seed : NULL,
                               .together = (size_t)cli_number(args, "together", 0, 1, 256),
                               .on_result = on_result,
                               .on_result_context = j};
    cli_progress_start(&j->progress, "auditing");
    uint64_t start = cli_now_ns();
    bool began = status == FP_OK;
    if (began)
        status = fp_audit_many(workspace, &o, j->items, j->n, j->results);
    cli_progress_end(&j->progress);
    int code = status == FP_OK ? exit_code(j) : 0;
    if (began && j->many) {
        int printed = summarize(j, cli_now_ns() - start);
        code = printed ? printed : code;
    } else if (status == FP_OK && j->results[0].status != FP_OK) {
        code = cli_error(j->results[0].status, "%s", j->results[0].detail);
    } else if (status == FP_OK) {
        code = report(j);
    }
    if (status == FP_CANCELLED && j->many && began) {
        fprintf(stderr, "fieldprint: interrupted after %zu of %zu receipts\n", j->decided, j->n);
        code = fp_status_exit_code(status);
    } else if (status == FP_NOT_FOUND && !workspace) {
        code = report_no_trust(j);
    } else if (status != FP_OK) {
        code = cli_fail(status);
    }
    fp_model_close(model);
    fp_workspace_close(workspace);
    return code;
}

static int audit_main(const cli_args *args)
{
    job j = {.args = args};
    int code = parse_level(&j);
    if (code == 0 && j.full && !cli_model_path(args))
        code = 2;
    if (code == 0)
        code = add_operands(&j);
    if (code == 0)
        code = audit_job(&j);
    for (size_t i = 0; i < j.n; i++) {
        free(j.receipts[i]);
        free(j.transcripts[i]);
    }
    free(j.receipts);
    free(j.transcripts);
    free(j.items);
    free(j.results);
    return code;
}

/* ---- receipt show ---- */

static const cli_option show_options[] = {
    {"transcript", 0, "FILE",
     "the transcript (default: the one beside the receipt): it has the anchor masses"},
    {"model", 'm', "FILE", "the model: shows the masses layer by layer (its metadata is enough)"},
    CLI_WORKSPACE_OPTION,
    CLI_JSON_OPTION,
    CLI_END};

static const char *text_at(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

static long long number_at(const json_t *object, const char *key)
{
    return (long long)json_integer_value(json_object_get(object, key));
}

static double float_at(const json_t *object, const char *key)
{
    union {
        unsigned bits;
        float value;
    } x = {.bits = (unsigned)strtoul(text_at(object, key), NULL, 16)};
    return (double)x.value;
}

static void show_sampling(const json_t *s)
{
    printf("sampling    ");
    if (float_at(s, "temperature") == 0)
        printf("greedy");
    else
        printf("temperature %.4g", float_at(s, "temperature"));
    if (number_at(s, "topK"))
        printf(", top-k %lld", number_at(s, "topK"));
    if (float_at(s, "topP") != 1)
        printf(", top-p %.4g", float_at(s, "topP"));
    if (float_at(s, "minP") != 0)
        printf(", min-p %.4g", float_at(s, "minP"));
    if (float_at(s, "repeatPenalty") != 1)
        printf(", repeat penalty %.4g", float_at(s, "repeatPenalty"));
    if (float_at(s, "frequencyPenalty") != 0 || float_at(s, "presencePenalty") != 0)
        printf(", frequency and presence penalties %.4g and %.4g", float_at(s, "frequencyPenalty"),
               float_at(s, "presencePenalty"));
    bool nonce = strcmp(text_at(s, "seedFrom"), "nonce") == 0;
    printf("; seed %s %s", text_at(s, "seed"), nonce ? "from the client's nonce" : "chosen by the server");
    if (number_at(s, "maxTokens"))
        printf("; at most %lld tokens", number_at(s, "maxTokens"));
    printf("%s\n",
           json_is_true(json_object_get(s, "ignoreEndOfGeneration")) ? "; end-of-generation ignored" : "");
}

static void show_checks(const json_t *claim)
{
    const json_t *v = json_object_get(claim, "validation"), *r = json_object_get(claim, "release");
    const char *status = text_at(r, "status");
    printf("status      %s (release %s)", status, text_at(r, "mode"));
    if (strcmp(status, "provisional") == 0)
        printf(": %lld pages were not checked yet; ask for the final receipt",
               number_at(v, "unverifiedPages"));
    if (json_array_size(json_object_get(r, "retractions")))
        printf("; %zu retractions", json_array_size(json_object_get(r, "retractions")));
    printf("\nchecks      %s", text_at(v, "level"));
    if (number_at(v, "replay65536"))
        printf(" of %.4g %% of the pages", (double)number_at(v, "replay65536") / 655.36);
    if (number_at(v, "pageWindowMs"))
        printf("; every page was read again within %.3g s", (double)number_at(v, "pageWindowMs") / 1e3);
    if (number_at(v, "weightWindowMs"))
        printf(", all weights within %.3g s", (double)number_at(v, "weightWindowMs") / 1e3);
    printf("; %lld failed\n", number_at(v, "failures"));
}

static void show_log(const json_t *claim)
{
    const json_t *log = json_object_get(claim, "log"), *first = json_object_get(log, "first"),
                 *last = json_object_get(log, "last"), *a = json_object_get(claim, "anchors");
    char when[32];
    cli_time_text((uint64_t)number_at(last, "time"), when);
    printf("log         %s: tree size %lld when it began, %lld when it was looked at last (%s)\n",
           text_at(log, "origin"), number_at(first, "size"), number_at(last, "size"), when);
    printf("policy      %.16s...\n", text_at(claim, "policy"));
    if (json_array_size(json_object_get(claim, "overrides")))
        printf("overrides   %zu were in force\n", json_array_size(json_object_get(claim, "overrides")));
    if (!a) {
        printf("anchors     none\n");
        return;
    }
    printf("anchors     %zu in set %.16s..., mode %s", json_array_size(json_object_get(a, "ids")),
           text_at(a, "set"), text_at(a, "mode"));
    if (number_at(a, "gammaRaised"))
        printf(", raised to %.3g", (double)number_at(a, "gammaRaised") / 65536);
    printf("; compiled by entry %lld (the receipt carries its log proof)\n", number_at(a, "compileIndex"));
}

/* Masses of the transcript beside it: rows:u64, [layers][heads] u64; *n = layers * heads. */
static uint64_t *load_masses(const char *path, uint64_t *rows, size_t *n)
{
    json_t *transcript = path ? json_load_file(path, 0, NULL) : NULL;
    const json_t *leaves = json_object_get(transcript, "leaves");
    const char *hex = text_at(json_array_get(leaves, json_array_size(leaves) - 1), "hex");
    size_t words = strlen(hex) / 16;
    uint64_t *mass = words > 1 ? calloc(words, sizeof *mass) : NULL;
    for (size_t i = 0; mass && i < words; i++) {
        char digits[17];
        uint8_t bytes[8] = {0};
        snprintf(digits, sizeof digits, "%.16s", hex + 16 * i);
        (void)cli_hex_bytes(digits, bytes, 8);
        for (size_t k = 8; k-- > 0;)
            mass[i] = mass[i] << 8 | bytes[k];
    }
    json_decref(transcript);
    if (!mass)
        return NULL;
    *rows = mass[0];
    *n = words - 1;
    memmove(mass, mass + 1, *n * sizeof *mass);
    return mass;
}

static void show_bar(const char *name, double share)
{
    int filled = (int)(share * 40 + 0.5);
    filled = filled < 0 ? 0 : filled > 40 ? 40 : filled;
    printf("  %-8s [%.*s%.*s] %5.1f %%\n", name, filled, "########################################",
           40 - filled, "........................................", 100 * share);
}

static fp_status show_masses(const cli_args *args, const char *transcript)
{
    uint64_t rows = 0;
    size_t n = 0, layers = 0, heads = 0;
    uint64_t *mass = load_masses(transcript, &rows, &n);
    if (!mass || rows == 0) {
        printf("anchor mass in the transcript, which is not at hand\n");
        free(mass);
        return FP_OK;
    }
    if (cli_has(args, "model")) {
        fp_model *model;
        fp_model_info info;
        fp_status status = cli_open_model(args, true, &model);
        if (status != FP_OK) {
            free(mass);
            return status;
        }
        fp_model_info_get(model, &info);
        layers = info.layers;
        heads = info.heads;
        fp_model_close(model);
    }
    printf("anchor mass (share of the attention that went to the anchors, mean over %llu tokens)\n",
           (unsigned long long)rows);
    double all = 0;
    for (size_t i = 0; i < n; i++)
        all += (double)mass[i] / 16777216.0 / (double)rows / (double)n;
    for (size_t l = 0; l < layers && layers * heads == n; l++) {
        double share = 0;
        char name[24];
        for (size_t h = 0; h < heads; h++)
            share += (double)mass[l * heads + h] / 16777216.0 / (double)rows / (double)heads;
        snprintf(name, sizeof name, "layer %zu", l);
        show_bar(name, share);
    }
    show_bar("all", all);
    if (layers == 0)
        printf("  (--model FILE shows it layer by layer)\n");
    free(mass);
    return FP_OK;
}

static fp_status show_text(const cli_args *args, const char *id, const json_t *claim, const char *transcript)
{
    const json_t *tokens = json_object_get(claim, "tokens");
    char when[32];
    cli_time_text((uint64_t)number_at(claim, "time"), when);
    printf("receipt     %s\n            (what its signer claims; fieldprint audit checks it)\n", id);
    printf("made        %s by %s\n", when, text_at(claim, "engine"));
    show_checks(claim);
    printf(
        "answer      %lld tokens after %lld of the conversation and %lld of anchors; finish %s; label %s\n",
        number_at(tokens, "output"), number_at(tokens, "prompt"), number_at(tokens, "anchor"),
        text_at(claim, "finish"), text_at(claim, "label"));
    printf("model       %.16s..., arithmetic %lld\n", text_at(claim, "model"),
           number_at(claim, "arithmetic"));
    show_sampling(json_object_get(claim, "sampling"));
    show_log(claim);
    printf("leaves      %lld, root %.16s...%s\n", number_at(json_object_get(claim, "leaves"), "count"),
           text_at(json_object_get(claim, "leaves"), "root"),
           transcript ? " (the transcript is beside it)" : "");
    fp_status status = json_object_get(claim, "anchors") ? show_masses(args, transcript) : FP_OK;
    printf("not proved  where it was computed; that no other answer was made%s; that the time is right; that "
           "the "
           "anchors are true\n",
           json_object_get(claim, "nonce") ? " with another nonce" : ", or the seed chosen to one's liking");
    return status;
}

static int show_main(const cli_args *args)
{
    char *text, hex[65], path[PATH_BYTES];
    uint8_t id[32];
    if (!cli_receipt_path(args, args->operands[0], path, sizeof path))
        return 2;
    fp_status status = fp_receipt_read(path, &text, id);
    if (status != FP_OK)
        return cli_fail(status);
    json_t *payload = json_loads(text, 0, NULL), *claim = json_object_get(payload, "predicate");
    fp_bytes_free(text);
    cli_hex_text(id, 32, hex);
    if (args->json)
        return cli_print_json(json_pack("{s:s, s:o}", "id", hex, "payload", payload));
    char *beside = transcript_beside(path);
    status = show_text(args, hex, claim, cli_text(args, "transcript", beside));
    free(beside);
    json_decref(payload);
    return status == FP_OK ? 0 : cli_fail(status);
}

const cli_command cli_command_audit = {
    "audit",
    "RECEIPT...",
    1,
    CLI_MAX_VALUES * 4,
    "check receipts: who claimed what, and whether the answers are what they say",
    "Light: signature, policy, log proofs, anchor state, and the transcript's leaves. Full, with --model: "
    "the anchors are compiled again and the whole conversation is computed again in one pass; every token, "
    "the K/V "
    "root, the anchor masses, text, finish reason and label must be equal. sample:P does the same but for "
    "the logits, "
    "of which it computes a random share P of the answer's tokens: of k wrong tokens one is found with "
    "probability "
    "1 - (1 - P)^k. RECEIPT is a file, the beginning of a receipt's id in the workspace, or a folder of "
    "receipts; of "
    "several, answers are computed together and anchors compiled once, each verdict is printed when it is "
    "there, and "
    "Ctrl-C keeps what was decided. It may compute on another device than the answer did (--device). There "
    "are no "
    "thresholds. When all are VALID it exits with 0; with 1 when one is INVALID, which names the first "
    "position that "
    "differs; else with 3 when one is UNDECIDED, which says what is missing.",
    audit_options,
    audit_main,
};
const cli_command cli_command_receipt_show = {
    "receipt show",
    "RECEIPT",
    1,
    1,
    "what a receipt claims, for people",
    "Status, checks and their windows, sampling, log and anchors, the share of attention that went to the "
    "anchors, and what the receipt does not prove. --json prints the payload as it is signed.",
    show_options,
    show_main};
