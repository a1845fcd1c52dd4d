/* fieldprint event …: distrust, endorse, retract, override; and events that wait for signatures. */
#include "commands.h"
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_DOCUMENT = 64 << 20, MAX_ENVELOPE = 1 << 16 };

#define WHY_OPTION                                                                                           \
    {                                                                                                        \
        "why", 0, "TEXT", "the reason, for the log"                                                          \
    }

static int show(void *context, const char *what, const uint8_t *payload, size_t size)
{
    (void)context;
    fprintf(stderr, "signing (%s): %.*s\n", what, (int)size, (const char *)payload);
    return 0;
}

void cli_show_signing(const cli_args *args, fp_workspace *workspace)
{
    fp_workspace_set_confirm(workspace, args->json ? NULL : show, NULL);
}

/* Opens the workspace, lets `act` make an event, prints where it went. */
typedef fp_status act_fn(const cli_args *args, fp_workspace *workspace, fp_event_receipt *out);
static int act_main(const cli_args *args, const char *what, act_fn *act)
{
    fp_workspace *workspace = NULL;
    fp_event_receipt receipt;
    fp_status status = cli_open_workspace(args, &workspace);
    if (status != FP_OK)
        return cli_fail(status);
    cli_show_signing(args, workspace);
    status = act(args, workspace, &receipt);
    int code = status == FP_OK ? cli_print_event(args, what, &receipt) : cli_fail(status);
    fp_workspace_close(workspace);
    return code;
}

/* ---- distrust ---- */

static const cli_option distrust_options[] = {
    {"from", 0, "ENTRY", "void its signatures from this entry of the ledger on (default 0: all of them)"},
    WHY_OPTION,
    CLI_WORKSPACE_OPTION,
    CLI_JSON_OPTION,
    CLI_END};

static fp_status distrust(const cli_args *args, fp_workspace *workspace, fp_event_receipt *out)
{
    uint8_t key[32];
    if (!cli_hex_bytes(args->operands[0], key, 32))
        exit(cli_usage("%s: the 64 digits of a key's id are wanted (fieldprint policy show names keys)",
                       args->operands[0]));
    return fp_event_distrust(workspace, key, cli_number(args, "from", 0, 0, INT64_MAX >> 10),
                             cli_text(args, "why", ""), out);
}

static int distrust_main(const cli_args *args)
{
    return act_main(args, "distrust", distrust);
}

/* ---- endorse ---- */

static const cli_option endorse_options[] = {
    {"label", 0, "LABEL", "the label that this text may have: user (default) or core"},
    {"days", 0, "N", "for N days from now (default: for ever)"},
    {"digest", 0, NULL, "the operand is the SHA-256 of the text, not a file"},
    WHY_OPTION,
    CLI_WORKSPACE_OPTION,
    CLI_JSON_OPTION,
    CLI_END};

static fp_status endorse(const cli_args *args, fp_workspace *workspace, fp_event_receipt *out)
{
    uint8_t digest[32];
    fp_label label = FP_LABEL_USER;
    uint64_t from = 0, until = 0;
    fp_status status = fp_label_parse(cli_text(args, "label", "user"), &label);
    if (status != FP_OK)
        return status;
    if (cli_has(args, "digest")) {
        if (!cli_hex_bytes(args->operands[0], digest, 32))
            exit(cli_usage("--digest: the 64 digits of a SHA-256 are wanted"));
    } else {
        char *text = NULL;
        size_t size = 0;
        status = cli_read_file(args->operands[0], MAX_DOCUMENT, &text, &size);
        if (status == FP_OK)
            fp_content_digest(text, size, digest);
        free(text);
        if (status != FP_OK)
            exit(fp_status_exit_code(status));
    }
    if (cli_has(args, "days")) {
        from = (uint64_t)time(NULL);
        until = from + cli_number(args, "days", 1, 1, 36500) * 86400;
    }
    return fp_event_endorse(workspace, digest, label, from, until, cli_text(args, "why", ""), out);
}

static int endorse_main(const cli_args *args)
{
    return act_main(args, "endorse", endorse);
}

/* ---- retract ---- */

static const cli_option retract_options[] = {WHY_OPTION, CLI_WORKSPACE_OPTION, CLI_JSON_OPTION, CLI_END};

static fp_status retract(const cli_args *args, fp_workspace *workspace, fp_event_receipt *out)
{
    char path[1200], *json = NULL;
    uint8_t id[32];
    if (!cli_receipt_path(args, args->operands[0], path, sizeof path))
        exit(3);
    fp_status status = fp_receipt_read(path, &json, id);
    fp_bytes_free(json);
    return status == FP_OK ? fp_event_retract(workspace, id, cli_text(args, "why", ""), out) : status;
}

static int retract_main(const cli_args *args)
{
    return act_main(args, "retract", retract);
}

/* ---- override ---- */

static const cli_option override_options[] = {
    {"hours", 0, "N", "how long, 1 to 24 (default 1)"},
    {"deployment", 0, "NAME", "of this deployment only (default: every one)"},
    WHY_OPTION,
    CLI_WORKSPACE_OPTION,
    CLI_JSON_OPTION,
    CLI_END};

static fp_status override(const cli_args *args, fp_workspace *workspace, fp_event_receipt *out)
{
    uint8_t ids[CLI_MAX_VALUES][32];
    bool halt = strcmp(args->operands[0], "halt") == 0;
    if (!halt && strcmp(args->operands[0], "bypass") != 0)
        exit(cli_usage("%s: halt or bypass is wanted", args->operands[0]));
    for (size_t i = 1; i < args->n; i++) {
        fp_status status = cli_find_anchor(workspace, args->operands[i], ids[i - 1]);
        if (status != FP_OK)
            return status;
    }
    fp_override o = {.halt = halt,
                     .anchors = args->n - 1,
                     .anchor_ids = (const uint8_t(*)[32])ids,
                     .deployment = cli_text(args, "deployment", NULL),
                     .valid_from = (uint64_t)time(NULL),
                     .why = cli_text(args, "why", "")};
    o.valid_until = o.valid_from + cli_number(args, "hours", 1, 1, 24) * 3600;
    return fp_event_override(workspace, &o, out);
}

static int override_main(const cli_args *args)
{
    return act_main(args, "override", override);
}

static const cli_option plain_options[] = {CLI_WORKSPACE_OPTION, CLI_JSON_OPTION, CLI_END};

static int export_main(const cli_args *args)
{
    fp_workspace *workspace = NULL;
    uint8_t id[32], *data;
    size_t size;
    if (!cli_hex_bytes(args->operands[0], id, 32))
        return cli_usage("%s: the 64 digits of an event's id are wanted", args->operands[0]);
    fp_status status = cli_open_workspace(args, &workspace);
    if (status != FP_OK)
        return cli_fail(status);
    status = fp_override_export(workspace, id, &data, &size);
    int code = status == FP_OK ? 0 : cli_fail(status);
    if (status == FP_OK) {
        if (fwrite(data, 1, size, stdout) != size || fflush(stdout) != 0)
            code = cli_error(FP_IO, "cannot write to standard output");
        fp_bytes_free(data);
    }
    fp_workspace_close(workspace);
    return code;
}

/* ---- show, list ---- */

static json_t *info_json(const fp_event_info *info)
{
    return json_pack("{s:o, s:s, s:o, s:i, s:i, s:b, s:s}", "event_id", cli_hex(info->event_id, 32), "type",
                     info->type, "target", cli_hex(info->target, 32), "signatures", (int)info->signatures,
                     "missing", (int)info->signatures_missing, "counts", (int)info->counts, "why", info->why);
}

static int show_main(const cli_args *args)
{
    fp_workspace *workspace = NULL;
    fp_event_info info;
    char *envelope = NULL;
    uint8_t *payload = NULL;
    size_t size = 0, payload_size = 0;
    fp_status status = cli_read_file(args->operands[0], MAX_ENVELOPE, &envelope, &size);
    if (status != FP_OK)
        return fp_status_exit_code(status);
    status = cli_open_workspace(args, &workspace);
    if (status == FP_OK)
        status = fp_event_inspect(workspace, envelope, size, &info);
    if (status == FP_OK)
        status = fp_envelope_payload(envelope, size, &payload, &payload_size);
    int code = 0;
    if (status != FP_OK) {
        code = cli_fail(status);
    } else {
        json_t *statement = json_loadb((const char *)payload, payload_size, 0, NULL);
        if (args->json) {
            json_t *object = info_json(&info);
            json_object_set(object, "statement", statement);
            code = cli_print_json(object);
        } else {
            char *text = json_dumps(statement, JSON_INDENT(2)), hex[65];
            cli_hex_text(info.event_id, 32, hex);
            printf("%s  %s  %u signature%s\n%s\n%s\n", hex, info.type, info.signatures,
                   info.signatures == 1 ? "" : "s", info.counts ? "enough have signed it" : info.why,
                   text ? text : "");
            free(text);
        }
        json_decref(statement);
    }
    fp_bytes_free(payload);
    free(envelope);
    fp_workspace_close(workspace);
    return code;
}

/* One file of pending/; what is no event is passed over. */
static void list_one(const cli_args *args, fp_workspace *workspace, const char *path, json_t *list)
{
    fp_event_info info;
    char *envelope = NULL, hex[65];
    size_t size = 0;
    if (cli_read_file(path, MAX_ENVELOPE, &envelope, &size) == FP_OK &&
        fp_event_inspect(workspace, envelope, size, &info) == FP_OK) {
        json_t *object = info_json(&info);
        json_object_set_new(object, "path", json_string(path));
        json_array_append_new(list, object);
        cli_hex_text(info.event_id, 32, hex);
        if (!args->json)
            printf("%.12s  %-10s  %s\n              %s\n", hex, info.type,
                   info.counts ? "enough have signed it: fieldprint event sign FILE" : info.why, path);
    }
    free(envelope);
}

static int list_main(const cli_args *args)
{
    fp_workspace *workspace = NULL;
    char folder[1024], path[1400];
    fp_status status = cli_open_workspace(args, &workspace);
    if (status != FP_OK)
        return cli_fail(status);
    snprintf(folder, sizeof folder, "%s/pending",
             fp_workspace_default_path(cli_text(args, "workspace", NULL)));
    DIR *dir = opendir(folder);
    json_t *list = json_array();
    for (struct dirent *item; dir && (item = readdir(dir)) != NULL;)
        if (item->d_name[0] != '.') {
            snprintf(path, sizeof path, "%s/%s", folder, item->d_name);
            list_one(args, workspace, path, list);
        }
    if (dir)
        closedir(dir);
    int code = 0;
    if (args->json)
        code = cli_print_json(json_pack("{s:O}", "pending", list));
    else if (json_array_size(list) == 0)
        printf("no event waits for signatures\n");
    json_decref(list);
    fp_workspace_close(workspace);
    return code;
}

const cli_command cli_command_event_distrust = {
    "event distrust",
    "KEYID",
    1,
    1,
    "void what a stolen key signed",
    "The ledger is replayed without the key's signatures from that entry on: what they promoted is no longer "
    "promoted.",
    distrust_options,
    distrust_main};
const cli_command cli_command_event_endorse = {"event endorse",
                                               "FILE",
                                               1,
                                               1,
                                               "raise the label of a text that came from outside",
                                               "Text of tools, retrieval and answers made from it is "
                                               "external. An endorsement, signed by the role endorse "
                                               "and logged, lets exactly this text count as more.",
                                               endorse_options,
                                               endorse_main};
const cli_command cli_command_event_retract = {"event retract",
                                               "RECEIPT",
                                               1,
                                               1,
                                               "say that an answer must not be relied on",
                                               "Memory made from it is denied from then on.",
                                               retract_options,
                                               retract_main};
const cli_command cli_command_event_override = {
    "event override",
    "halt|bypass [ANCHOR...]",
    1,
    CLI_MAX_VALUES,
    "break-glass: deny anchors, or let them pass that are expired, superseded or not promoted",
    "For the anchors named, or all; at most 24 hours; by the role override (two holders by default). A "
    "bypass "
    "never passes an anchor that is revoked, changed, badly signed or of too low a label.",
    override_options,
    override_main};
const cli_command cli_command_override_export = {
    "override export",
    "EVENT",
    1,
    1,
    "an override as a file for run --override",
    "The file holds the chain of policies and is verified from the trust file alone.",
    plain_options,
    export_main};
const cli_command cli_command_event_show = {
    "event show", "FILE",        1,        1, "a pending event: what it says, who is missing",
    "",           plain_options, show_main};
const cli_command cli_command_event_list = {
    "event list", "", 0, 0, "events that wait for signatures", "", plain_options, list_main};
