/* fieldprint run: one answer, streamed; with a workspace, a receipt of it. */
#include "commands.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_ANCHORS = 64, MAX_TEXT = 64 << 20 };

static const cli_option options[] = {
    CLI_MODEL_OPTIONS,
    {"prompt", 'p', "TEXT", "what to say to the model"},
    {"file", 'f', "FILE", "read the prompt from a file (- for standard input)"},
    {"system", 's', "TEXT", "a system message of your own (an anchor is one already)"},
    {"anchor", 'a', "ID",
     "attend to this anchor: id, unique beginning of it, name or name@version; may be repeated, in order"},
    {"artifact", 0, "FILE",
     "the K/V artifact of the anchors, if it is not where compile put it; verified all the same"},
    {"gamma", 0, "G", "raise the anchors' guaranteed mass to G (0..1), within policy"},
    {"max-tokens", 'n', "N", "end the answer after N tokens (default: when the model ends it)"},
    {"temperature", 0, "T", "0 (default): greedy; higher is more varied"},
    {"top-k", 0, "K", "sample from the K likeliest tokens only"},
    {"top-p", 0, "P", "sample from the likeliest tokens that together have probability P"},
    {"min-p", 0, "P", "leave out tokens with less than P times the likeliest one's probability"},
    {"repeat-penalty", 0, "R", "make tokens that occurred less likely (1: off)"},
    {"frequency-penalty", 0, "F", "subtract F per occurrence"},
    {"presence-penalty", 0, "F", "subtract F from tokens that occurred"},
    {"repeat-last", 0, "N", "how many tokens the penalties look back at (default 0: all)"},
    {"seed", 0, "N", "seed of the sampler (default 0)"},
    {"nonce", 0, "HEX", "your own 32 random bytes: the seed is derived from them and the receipt names them"},
    {"stop", 0, "TEXT", "end the answer where this text would appear; may be repeated"},
    {"raw", 0, NULL, "complete plain text: no chat template"},
    {"ignore-eog", 0, NULL, "go on after the model's end-of-generation tokens"},
    {"save", 0, "FILE", "save the conversation's K/V pages, signed, for --load"},
    {"load", 0, "FILE", "continue a saved conversation (same model, anchors and tenant)"},
    {"tenant", 0, "NAME", "whose conversation this is (default local)"},
    {"tool", 0, "FILE", "put a tool's output before the prompt; it is external, and so is the answer"},
    {"retrieved", 0, "FILE", "put a retrieved text before the prompt; it is external, unless it is endorsed"},
    {"remember", 0, "NAME", "make an anchor candidate of the answer, which inherits its label and readers"},
    {"on-revoked", 0, "WHAT",
     "when an anchor is revoked meanwhile: stop (default), or answer again from the start, without"},
    {"override", 0, "FILE", "put a signed override in force (fieldprint override export)"},
    {"deployment", 0, "NAME", "name of this deployment, for overrides that name one"},
    {"release", 0, "MODE",
     "when text leaves: optimistic (default: at once), gated (page by page, checked), final (all checked)"},
    {"hold", 0, "TEXT",
     "from this text on, nothing leaves before it is checked (tool calls); may be repeated"},
    {"batch", 0, "N", "answer in one batch with N-1 other conversations; changes no bit of the answer"},
    {"no-receipt", 0, NULL, "do not write and log a receipt"},
    CLI_WORKSPACE_OPTION,
    CLI_ENGINE_OPTIONS,
    CLI_JSON_OPTION,
    CLI_END,
};

typedef struct run {
    const cli_args *args;
    fp_model *model;
    fp_engine *engine;
    fp_workspace *workspace;
    fp_anchors *anchors;
    fp_session **sessions; /* [batch]; the first one is the answer */
    size_t batch;
    uint8_t receipt_id[32];
    char receipt_path[1024], transcript_path[1024];
    bool has_receipt, has_memory, again; /* again: without the anchors that were withdrawn */
    uint8_t memory_id[32];
    uint64_t start_ns, loaded_ns;
    char *shown; /* what was printed of the answer */
    size_t shown_size;
    int write_error; /* errno of standard output */
} run;

/* A full disk or a closed pipe ends the answer. */
static int print_text(void *context, const char *text, size_t size)
{
    run *r = context;
    char *more = realloc(r->shown, r->shown_size + size);
    if (!more)
        return 1;
    r->shown = more;
    memcpy(r->shown + r->shown_size, text, size);
    r->shown_size += size;
    if (fwrite(text, 1, size, stdout) != size || fflush(stdout) != 0)
        r->write_error = errno;
    return r->write_error != 0;
}

/* What was printed cannot be taken back: says so, and prints the answer again as far as it stands. */
static void print_retraction(void *context, size_t keep, const char *reason)
{
    run *r = context;
    fflush(stdout);
    fprintf(stderr,
            "\nfieldprint: the last %zu bytes are withdrawn: %s\nfieldprint: the answer, corrected:\n",
            r->shown_size - keep, reason);
    r->shown_size = keep;
    if (printf("\n") < 0 || fwrite(r->shown, 1, keep, stdout) != keep || fflush(stdout) != 0)
        r->write_error = errno;
}

static fp_status load_anchors(run *r)
{
    const cli_values *names = cli_all(r->args, "anchor");
    uint8_t ids[MAX_ANCHORS][32];
    if (names->n == 0 && r->workspace) { /* the policy may require anchors, or an override halt everything */
        fp_gate_query none = {.anchors = 0, .reader = cli_text(r->args, "tenant", NULL)};
        fp_gate_result gate;
        return fp_gate_check(r->workspace, &none, &gate);
    }
    if (names->n == 0)
        return FP_OK;
    for (size_t i = 0; i < names->n; i++) {
        fp_status status = cli_find_anchor(r->workspace, names->value[i], ids[i]);
        if (status != FP_OK)
            return status;
    }
    fp_anchors_options o = {.gamma = cli_gamma(r->args, "gamma"),
                            .reader = cli_text(r->args, "tenant", NULL),
                            .artifact_path = cli_text(r->args, "artifact", NULL),
                            .watch = true};
    return fp_anchors_load(r->engine, r->workspace, (const uint8_t(*)[32])ids, names->n, &o, &r->anchors,
                           NULL);
}

/* A file's text before the prompt, with its source. */
static fp_status add_file(run *r, fp_session *session, const char *option, fp_source source)
{
    const cli_values *files = cli_all(r->args, option);
    for (size_t i = 0; i < files->n; i++) {
        char *text = NULL;
        size_t size = 0;
        fp_status status = cli_read_file(files->value[i], MAX_TEXT, &text, &size);
        if (status != FP_OK)
            exit(fp_status_exit_code(status));
        status = fp_session_add_text(session, FP_ROLE_USER, source, r->workspace, text, size);
        free(text);
        if (status != FP_OK)
            return status;
    }
    return FP_OK;
}

/* The override is verified from the trust file before anything else of the workspace is looked at. */
static fp_status use_override(run *r)
{
    const char *path = cli_text(r->args, "override", NULL), *folder = cli_text(r->args, "workspace", NULL);
    char trust[1200], *data = NULL, until[32];
    size_t size = 0;
    fp_override_info info;
    bool logged = false;
    if (!path)
        return cli_open_workspace(r->args, &r->workspace);
    fp_status status = cli_read_file(path, MAX_TEXT, &data, &size);
    if (status != FP_OK)
        exit(fp_status_exit_code(status));
    snprintf(trust, sizeof trust, "%s/trust.json", fp_workspace_default_path(folder));
    status = fp_override_verify(trust, data, size, &info);
    if (status == FP_OK) {
        cli_time_text(info.valid_until, until);
        fprintf(stderr, "override: %s of %s until %s\n", info.halt ? "halt" : "bypass",
                info.anchors ? "the anchors it names" : "all anchors", until);
        status = cli_open_workspace(r->args, &r->workspace);
    }
    if (status == FP_OK)
        status = fp_override_use(r->workspace, data, size, &info, &logged);
    if (status == FP_OK && !logged)
        fprintf(stderr, "override: the ledger cannot be written; it goes there first when it can\n");
    free(data);
    return status;
}

static int prompt_text(run *r, char **text, size_t *size)
{
    const char *prompt = cli_text(r->args, "prompt", NULL), *file = cli_text(r->args, "file", NULL);
    if ((prompt != NULL) == (file != NULL))
        return cli_usage("give the prompt with either -p TEXT or -f FILE");
    if (file)
        return fp_status_exit_code(cli_read_file(file, MAX_TEXT, text, size));
    *text = strdup(prompt);
    *size = strlen(prompt);
    return *text ? 0 : 3;
}

static fp_status open_sessions(run *r, const char *prompt, size_t size)
{
    const cli_args *args = r->args;
    uint8_t nonce[32];
    const char *nonce_text = cli_text(args, "nonce", NULL), *load = cli_text(args, "load", NULL);
    if (nonce_text && !cli_hex_bytes(nonce_text, nonce, 32))
        exit(cli_usage("--nonce: 64 hexadecimal digits are wanted"));
    fp_session_options o = {.anchors = r->anchors,
                            .tenant = cli_text(args, "tenant", NULL),
                            .nonce = nonce_text ? nonce : NULL,
                            .raw = cli_has(args, "raw"),
                            .workspace = cli_has(args, "no-receipt") ? NULL : r->workspace};
    if (fp_release_parse(cli_text(args, "release", "optimistic"), &o.release) != FP_OK)
        exit(cli_usage("--release %s", fp_error_detail()));
    for (size_t i = 0; i < r->batch; i++) {
        fp_status status = load && i == 0
                               ? fp_session_load(r->engine, r->workspace, load, &o, &r->sessions[i])
                               : fp_session_create(r->engine, &o, &r->sessions[i]);
        char other[64];
        snprintf(other, sizeof other, "Name %zu things that are blue, and say why.", i + 2);
        const char *text = i == 0 ? prompt : other, *system = cli_text(args, "system", NULL);
        if (status == FP_OK && system && !o.raw)
            status = fp_session_add_message(r->sessions[i], FP_ROLE_SYSTEM, system, strlen(system));
        if (status == FP_OK && i == 0)
            status = add_file(r, r->sessions[0], "retrieved", FP_SOURCE_RETRIEVED);
        if (status == FP_OK && i == 0)
            status = add_file(r, r->sessions[0], "tool", FP_SOURCE_TOOL);
        if (status == FP_OK)
            status =
                fp_session_add_message(r->sessions[i], FP_ROLE_USER, text, i == 0 ? size : strlen(other));
        if (status != FP_OK)
            return status;
    }
    return FP_OK;
}

static void sampling_options(const cli_args *args, fp_sampling *s)
{
    fp_sampling_default(s);
    s->temperature = (float)cli_real(args, "temperature", 0, 0, 1000);
    s->top_k = (uint32_t)cli_number(args, "top-k", 0, 0, 1 << 20);
    s->top_p = (float)cli_real(args, "top-p", 1, 0, 1);
    s->min_p = (float)cli_real(args, "min-p", 0, 0, 1);
    s->repeat_penalty = (float)cli_real(args, "repeat-penalty", 1, 0.01, 100);
    s->frequency_penalty = (float)cli_real(args, "frequency-penalty", 0, -100, 100);
    s->presence_penalty = (float)cli_real(args, "presence-penalty", 0, -100, 100);
    s->repeat_last_n = (uint32_t)cli_number(args, "repeat-last", 0, 0, UINT32_MAX);
    s->seed = cli_number(args, "seed", 0, 0, UINT64_MAX);
}

static fp_status generate(run *r)
{
    const cli_args *args = r->args;
    const cli_values *stops = cli_all(args, "stop"), *holds = cli_all(args, "hold");
    fp_generate_options o = {.max_tokens = (uint32_t)cli_number(args, "max-tokens", 0, 0, UINT32_MAX),
                             .stops = stops->value,
                             .n_stops = stops->n,
                             .holds = holds->value,
                             .n_holds = holds->n,
                             .ignore_eog = cli_has(args, "ignore-eog")};
    sampling_options(args, &o.sampling);
    for (size_t i = r->again ? 1 : r->batch; i-- > 0;) {
        o.on_text = i == 0 && !args->json ? print_text : NULL;
        o.on_text_context = r;
        o.on_retract = o.on_text ? print_retraction : NULL;
        fp_status status = fp_session_begin(r->sessions[i], &o);
        if (status != FP_OK)
            return status;
    }
    return fp_session_run(r->sessions[0]);
}

static double seconds(uint64_t ns)
{
    return (double)ns / 1e9;
}

static json_t *mass_json(const fp_result *result)
{
    json_t *layers = json_array();
    for (size_t l = 0; l < result->layers; l++) {
        double sum = 0;
        for (size_t h = 0; h < result->heads; h++)
            sum += (double)result->mass[l * result->heads + h];
        json_array_append_new(
            layers, json_real(sum / 16777216.0 / (double)result->heads / (double)result->mass_rows));
    }
    return layers;
}

static json_t *validation_json(const run *r, const fp_result *x)
{
    fp_validation_status v;
    fp_engine_validation(r->engine, &v);
    return json_pack("{s:s, s:f, s:s, s:s, s:i, s:i, s:i, s:f, s:f, s:I, s:I, s:I, s:f, s:f, s:f, s:I}",
                     "level", fp_validation_name(v.validation), "replay_share", v.replay_65536 / 65536.0,
                     "release", fp_release_name(x->release), "status", fp_standing_name(x->standing),
                     "failures", (int)x->failures, "rollbacks", (int)x->rollbacks, "retractions",
                     (int)x->retractions, "page_window_s", seconds(v.page_window_ns), "weight_window_s",
                     seconds(v.weight_window_ns), "pages_checked", (json_int_t)v.pages_checked,
                     "weight_bytes_checked", (json_int_t)v.weight_bytes_checked, "pages_replayed",
                     (json_int_t)v.pages_replayed, "check_cpu_s", seconds(v.check_cpu_ns), "verify_s_mean",
                     v.boundaries ? seconds(v.verify_ns) / (double)v.boundaries : 0.0, "verify_s_max",
                     seconds(v.verify_max_ns), "boundaries", (json_int_t)v.boundaries);
}

static void report_validation(const run *r, const fp_result *x)
{
    fp_validation_status v;
    fp_engine_validation(r->engine, &v);
    if (v.validation == FP_VALIDATE_HASH && x->release == FP_RELEASE_OPTIMISTIC && x->failures == 0)
        return; /* what everybody has */
    fprintf(stderr, "checks:     %s", fp_validation_name(v.validation));
    if (v.replay_65536)
        fprintf(stderr, " of %.4g %% of the pages", 100 * v.replay_65536 / 65536.0);
    fprintf(stderr, ", release %s, status %s", fp_release_name(x->release), fp_standing_name(x->standing));
    if (v.page_window_ns)
        fprintf(stderr, "; a fault is found within %.2f s in pages, %.2f s in weights",
                seconds(v.page_window_ns), seconds(v.weight_window_ns));
    fprintf(stderr, "; %u failed", x->failures);
    if (x->failures)
        fprintf(stderr, " (%u rollbacks, %u retractions)", x->rollbacks, x->retractions);
    fprintf(stderr, "\n");
}

static int report_json(run *r, const fp_result *x)
{
    uint8_t head[32];
    fp_status status = fp_session_kv_head(r->sessions[0], head);
    if (status != FP_OK)
        return cli_fail(status);
    json_t *ids = json_array();
    for (size_t i = 0; i < x->n_ids; i++)
        json_array_append_new(ids, json_integer(x->ids[i]));
    json_t *object = json_pack(
        "{s:o, s:o, s:s, s:o, s:{s:i, s:i, s:i, s:i}, s:{s:f, s:f, s:f, s:f, s:f, s:f, s:f}}", "text",
        json_stringn(x->text, x->text_size), "ids", ids, "finish", fp_finish_name(x->finish), "kv_root",
        cli_hex(head, 32), "tokens", "anchor", (int)x->anchor_tokens, "prompt", (int)x->prompt_tokens,
        "output", (int)x->n_ids, "context", (int)x->context_tokens, "timings", "load_s",
        seconds(r->loaded_ns - r->start_ns), "anchors_s", seconds(x->load_ns), "prefill_s",
        seconds(x->prefill_ns), "decode_s", seconds(x->decode_ns), "first_token_s",
        seconds(r->loaded_ns - r->start_ns + x->load_ns + x->prefill_ns), "prefill_tokens_per_s",
        x->prefill_ns ? (double)x->prompt_tokens / seconds(x->prefill_ns) : 0.0, "decode_tokens_per_s",
        x->decode_ns && x->n_ids > 1 ? (double)(x->n_ids - 1) / seconds(x->decode_ns) : 0.0);
    if (object && x->mass && x->mass_rows)
        json_object_set_new(object, "anchor_mass", mass_json(x));
    if (object)
        json_object_set_new(object, "device", json_string(fp_engine_device(r->engine)));
    if (object)
        json_object_set_new(object, "label", json_string(fp_label_name(x->label)));
    if (object)
        json_object_set_new(object, "validation", validation_json(r, x));
    if (object && r->has_memory)
        json_object_set_new(object, "memory", cli_hex(r->memory_id, 32));
    if (object && r->has_receipt) {
        json_object_set_new(object, "receipt", json_string(r->receipt_path));
        json_object_set_new(object, "transcript", json_string(r->transcript_path));
        json_object_set_new(object, "receipt_id", cli_hex(r->receipt_id, 32));
    }
    return cli_print_json(object);
}

static void report_text(run *r, const fp_result *x)
{
    printf("\n");
    fflush(stdout);
    report_validation(r, x);
    if (x->mass && x->mass_rows) {
        double sum = 0;
        for (size_t i = 0; i < x->layers * x->heads; i++)
            sum += (double)x->mass[i];
        fprintf(stderr, "anchor mass: %.1f %% of attention on average\n",
                100 * sum / 16777216.0 / (double)(x->layers * x->heads) / (double)x->mass_rows);
    }
    if (r->has_memory) {
        char hex[65];
        cli_hex_text(r->memory_id, 32, hex);
        fprintf(stderr, "memory:     %s (%s)\n", hex, fp_label_name(x->label));
    }
    if (r->has_receipt)
        fprintf(stderr, "receipt:    %s\ntranscript: %s\n", r->receipt_path, r->transcript_path);
}

static fp_status prepare(run *r)
{
    const cli_args *args = r->args;
    bool needs = cli_has(args, "anchor") || cli_has(args, "save") || cli_has(args, "load") ||
                 cli_has(args, "workspace") || cli_has(args, "override") || cli_has(args, "remember");
    bool wants = needs || (!cli_has(args, "no-receipt") && fp_workspace_exists(NULL));
    fp_status status = wants ? use_override(r) : FP_OK;
    if (status == FP_OK && r->workspace)
        status = fp_workspace_set_deployment(r->workspace, cli_text(args, "deployment", NULL));
    if (status == FP_OK)
        status = cli_open_model(args, false, &r->model);
    fp_engine_options options_engine;
    cli_engine_options(args, &options_engine);
    options_engine.max_sessions = r->batch + 1; /* one to go on without anchors */
    if (status == FP_OK)
        status = fp_engine_create(r->model, &options_engine, &r->engine);
    r->loaded_ns = cli_now_ns();
    return status == FP_OK ? load_anchors(r) : status;
}

/* What was generated is kept even when it was interrupted: the receipt says so. */
static int finish(run *r, fp_status generated)
{
    fp_result result;
    fp_session_result(r->sessions[0], &result);
    fp_status status = FP_OK;
    bool withdrawn = result.finish == FP_FINISH_ANCHOR_REVOKED;
    bool answered = (generated == FP_OK || generated == FP_CANCELLED || withdrawn) && result.n_ids > 0;
    if (answered && r->workspace && !cli_has(r->args, "no-receipt")) {
        status = fp_session_receipt(r->sessions[0], r->workspace, r->receipt_id, r->receipt_path,
                                    r->transcript_path);
        r->has_receipt = status == FP_OK;
    }
    if (answered && status == FP_OK && cli_has(r->args, "save"))
        status = fp_session_save(r->sessions[0], r->workspace, cli_text(r->args, "save", NULL));
    if (answered && status == FP_OK && cli_has(r->args, "remember") && !withdrawn) {
        status = fp_session_remember(r->sessions[0], r->workspace, cli_text(r->args, "remember", NULL), "1",
                                     r->memory_id);
        r->has_memory = status == FP_OK;
    }
    int code = 0;
    if (answered && r->args->json && status == FP_OK)
        code = report_json(r, &result);
    else if (answered && !r->args->json)
        report_text(r, &result);
    if (status != FP_OK)
        return cli_fail(status);
    if (r->write_error) {
        return cli_error(FP_IO, "cannot write the answer to standard output: %s", strerror(r->write_error));
    }
    if (generated == FP_CANCELLED) {
        fprintf(stderr, "fieldprint: interrupted after %zu tokens\n", result.n_ids);
        return fp_status_exit_code(generated);
    }
    if (withdrawn) { /* making the receipt left other details behind */
        const char *why = "";
        (void)fp_session_error(r->sessions[0], &why);
        if (r->args->json) { /* the object above tells the finish reason */
            fprintf(stderr, "fieldprint: stopped after %zu tokens: %s\n", result.n_ids, why);
            return fp_status_exit_code(FP_DENIED);
        }
        return cli_error(FP_DENIED, "stopped after %zu tokens: %s", result.n_ids, why);
    }
    return generated == FP_OK ? code : cli_fail(generated);
}

static int run_answer(run *r, const char *prompt, size_t size)
{
    const char *on_revoked = cli_text(r->args, "on-revoked", "stop");
    if (strcmp(on_revoked, "stop") != 0 && strcmp(on_revoked, "without") != 0)
        return cli_usage("--on-revoked %s: stop or without is wanted", on_revoked);
    fp_status status = prepare(r);
    if (status == FP_OK)
        status = open_sessions(r, prompt, size);
    if (status != FP_OK)
        return cli_fail(status);
    int code = finish(r, generate(r));
    fp_result result;
    fp_session_result(r->sessions[0], &result);
    if (result.finish != FP_FINISH_ANCHOR_REVOKED || strcmp(on_revoked, "without") != 0)
        return code;
    fprintf(stderr, "fieldprint: answering again without the anchors\n");
    fp_session *without = NULL;
    status = fp_session_without_anchors(r->sessions[0], r->workspace, &without);
    if (status != FP_OK)
        return cli_fail(status);
    fp_session_destroy(r->sessions[0]);
    r->sessions[0] = without;
    r->has_receipt = false;
    r->again = true;
    return finish(r, generate(r));
}

static int run_main(const cli_args *args)
{
    run r = {.args = args, .start_ns = cli_now_ns(), .batch = (size_t)cli_number(args, "batch", 1, 1, 256)};
    char *prompt = NULL;
    size_t size = 0;
    int code = cli_model_path(args) ? prompt_text(&r, &prompt, &size) : 2;
    r.sessions = calloc(r.batch, sizeof(fp_session *));
    if (code == 0 && r.sessions)
        code = run_answer(&r, prompt, size);
    for (size_t i = 0; r.sessions && i < r.batch; i++)
        fp_session_destroy(r.sessions[i]);
    free(r.sessions);
    free(prompt);
    free(r.shown);
    fp_anchors_release(r.anchors);
    fp_engine_destroy(r.engine);
    fp_model_close(r.model);
    fp_workspace_close(r.workspace);
    return code;
}

const cli_command cli_command_run = {
    "run",
    "",
    0,
    0,
    "answer a prompt, with anchors if wanted, and write a receipt",
    "Streams the answer to standard output. With --anchor the anchors of the workspace pass the gate, their "
    "K/V pages are "
    "verified and shared, and the answer attends to them. Where there is a workspace, a receipt and its "
    "transcript are written "
    "and logged; fieldprint audit checks them. Without a workspace it just answers.",
    options,
    run_main,
};
