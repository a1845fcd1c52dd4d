/* fieldprint audit, receipt show. */
#include "commands.h"
#include <stdlib.h>
#include <string.h>

static const cli_option audit_options[] = {
    {"transcript", 0, "FILE", "the transcript (default: the one beside the receipt, if it is there)"},
    {"model", 'm', "FILE", "the model: a full audit computes the answer again (default: light only)"},
    {"trust", 0, "FILE", "the trust file, if not the workspace's own"},
    {"nonce", 0, "HEX", "your nonce: the receipt must name it"},
    CLI_DEVICE_OPTION,
    {"threads", 't', "N", "threads (default: one per core)"},
    {"chunk", 0, "N", "tokens per step (default 512, on a GPU 2048); changes no result"},
    {"template", 0, "NAME", "chat template, if the answer was made with another one than the file's"},
    CLI_WORKSPACE_OPTION,
    CLI_JSON_OPTION,
    CLI_END,
};

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

static int report(const cli_args *args, const fp_audit_result *r, bool full)
{
    fp_verdict verdict = full && r->light == FP_VERDICT_VALID_LIGHT ? r->full : r->light;
    bool valid = verdict == FP_VERDICT_VALID_LIGHT || verdict == FP_VERDICT_VALID_FULL;
    int code = valid ? 0 : verdict == FP_VERDICT_INVALID ? 1 : 3;
    if (args->json) {
        json_t *object =
            json_pack("{s:s, s:s, s:s, s:o, s:I, s:b, s:b, s:f, s:f}", "verdict", fp_verdict_name(verdict),
                      "light", fp_verdict_name(r->light), "detail", r->detail, "receipt_id",
                      cli_hex(r->receipt_id, 32), "tree_size", (json_int_t)r->tree_size, "witnessed",
                      (int)r->witnessed, "seed_from_nonce", (int)r->seed_from_nonce, "light_s",
                      (double)r->light_ns / 1e9, "full_s", (double)r->full_ns / 1e9);
        if (object && full)
            json_object_set_new(object, "full", json_string(fp_verdict_name(r->full)));
        if (object && r->position >= 0)
            json_object_set_new(object, "position", json_integer(r->position));
        int printed = cli_print_json(object);
        return printed ? printed : code;
    }
    printf("%s", fp_verdict_name(r->light));
    if (full && r->light == FP_VERDICT_VALID_LIGHT)
        printf(" %s", fp_verdict_name(r->full));
    if (r->detail[0])
        printf(": %s", r->detail);
    printf("\n");
    if (valid)
        printf("at tree size %llu of the ledger (%s); %s%s\n", (unsigned long long)r->tree_size,
               r->witnessed ? "witnessed" : "unwitnessed: only this log's key vouches for it",
               full ? "every token, the K/V root and the anchor masses were computed again and are equal"
                    : "signature, policy, log and anchors are in order; --model computes the answer again",
               r->seed_from_nonce ? "; the seed comes from the client's nonce" : "");
    return code;
}

static int audit_main(const cli_args *args)
{
    fp_workspace *workspace = NULL;
    fp_model *model = NULL;
    fp_audit_result result;
    uint8_t nonce[32];
    const char *nonce_text = cli_text(args, "nonce", NULL);
    if (nonce_text && !cli_hex_bytes(nonce_text, nonce, 32))
        return cli_usage("--nonce: 64 hexadecimal digits are wanted");
    char receipt[1280];
    if (!cli_receipt_path(args, args->operands[0], receipt, sizeof receipt))
        return 2;
    char *beside = transcript_beside(receipt);
    fp_engine_options engine;
    cli_progress progress;
    cli_engine_options(args, &engine);
    cli_progress_start(&progress, "computing again");
    engine.progress = cli_progress_update;
    engine.progress_context = &progress;
    fp_audit_options o = {.receipt_path = receipt,
                          .transcript_path = cli_text(args, "transcript", beside),
                          .engine = &engine,
                          .nonce = nonce_text ? nonce : NULL};
    fp_status status =
        fp_workspace_open(cli_text(args, "workspace", NULL), cli_text(args, "trust", NULL), &workspace);
    if (status == FP_OK && cli_has(args, "model"))
        status = cli_open_model(args, false, &model);
    o.model = model;
    if (status == FP_OK)
        status = fp_audit(workspace, &o, &result);
    cli_progress_end(&progress);
    int code = status == FP_OK ? report(args, &result, model != NULL) : cli_fail(status);
    fp_model_close(model);
    fp_workspace_close(workspace);
    free(beside);
    return code;
}

static const cli_option show_options[] = {CLI_WORKSPACE_OPTION, CLI_JSON_OPTION, CLI_END};

static int show_main(const cli_args *args)
{
    char *text, hex[65], path[1280];
    uint8_t id[32];
    if (!cli_receipt_path(args, args->operands[0], path, sizeof path))
        return 2;
    fp_status status = fp_receipt_read(path, &text, id);
    if (status != FP_OK)
        return cli_fail(status);
    json_t *payload = json_loads(text, 0, NULL), *claim = json_object_get(payload, "predicate");
    free(text);
    cli_hex_text(id, 32, hex);
    if (args->json)
        return cli_print_json(json_pack("{s:s, s:o}", "id", hex, "payload", payload));
    char *shown = json_dumps(claim, JSON_INDENT(2));
    printf("receipt %s (what it claims; fieldprint audit checks it)\n%s\n", hex, shown ? shown : "");
    free(shown);
    json_decref(payload);
    return 0;
}

const cli_command cli_command_audit = {
    "audit",
    "RECEIPT",
    1,
    1,
    "check a receipt: who claimed what, and whether the answer is what it says",
    "Light: signature, policy, log proofs, anchor state, and the transcript's leaves. Full, with --model: "
    "the anchors are "
    "compiled again and the whole conversation is computed again in one pass; every token, the K/V root, the "
    "anchor masses, "
    "text, finish reason and label must be equal. RECEIPT is a file, or the beginning of a receipt's id in "
    "the workspace. It may compute on another device than the answer did (--device). There are no "
    "thresholds. VALID-LIGHT and VALID-FULL exit "
    "with 0, INVALID with "
    "1 and the first position that differs, UNDECIDED with 3 and what is missing.",
    audit_options,
    audit_main,
};
const cli_command cli_command_receipt_show = {"receipt show", "RECEIPT", 1, 1, "what a receipt claims", "",
                                              show_options,   show_main};
