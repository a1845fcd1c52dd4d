/* fieldprint anchor …: statements, their life in the ledger, and the K/V pages they compile to. */
#include "commands.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_IDS = 64 };

/* ---- create, add
 * ---------------------------------------------------------------------------------------------------------
 */

#define STATEMENT_OPTIONS                                                                                    \
    {"name", 0, "NAME", "name of the anchor (default: the file's name)"},                                    \
        {"version", 0, "V", "version (default 1)"}, {"type", 0, "TYPE", "core, user (default) or external"}, \
        {"reader", 0, "TENANT", "a tenant who may read it; may be repeated (default *: everybody)"},         \
        {"days", 0, "N", "valid for N days from now (default: for ever)"},                                   \
        {"mode", 0, "MODE", "compete (default), floor or reserve: how much attention it is guaranteed"},     \
    {                                                                                                        \
        "gamma", 0, "G", "the guaranteed mass, 0..1, for floor and reserve"                                  \
    }

static const cli_option create_options[] = {STATEMENT_OPTIONS, CLI_WORKSPACE_OPTION, CLI_JSON_OPTION,
                                            CLI_END};

/* Letters, digits, dot, dash and underscore of the file's name without folder and extension. */
static void name_from_path(const char *path, char *out, size_t size)
{
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path, *dot = strrchr(base, '.');
    size_t n = dot && dot > base ? (size_t)(dot - base) : strlen(base), k = 0;
    for (size_t i = 0; i < n && k + 1 < size; i++) {
        char c = base[i];
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
                     c == '_' || c == '-';
        out[k++] = plain ? c : '-';
    }
    out[k] = 0;
}

static int statement_from_args(const cli_args *args, fp_statement *s)
{
    fp_statement_default(s);
    name_from_path(args->operands[0], s->name, sizeof s->name);
    const char *name = cli_text(args, "name", s->name), *version = cli_text(args, "version", s->version),
               *type = cli_text(args, "type", NULL), *mode = cli_text(args, "mode", NULL);
    const cli_values *readers = cli_all(args, "reader");
    if (strlen(name) >= sizeof s->name || strlen(version) >= sizeof s->version)
        return cli_usage("--name has at most %zu and --version at most %zu bytes", sizeof s->name - 1,
                         sizeof s->version - 1);
    memmove(s->name, name, strlen(name) + 1);
    memmove(s->version, version, strlen(version) + 1);
    if (type && fp_label_parse(type, &s->type) != FP_OK)
        return cli_usage("--type %s: core, user or external is wanted", type);
    if (mode && fp_inject_mode_parse(mode, &s->injection.mode) != FP_OK)
        return cli_usage("--mode %s: compete, floor or reserve is wanted", mode);
    s->injection.gamma = cli_gamma(args, "gamma");
    if ((s->injection.gamma != 0) != (s->injection.mode != FP_INJECT_COMPETE))
        return cli_usage("--gamma belongs to --mode floor and reserve, and they need it");
    if (readers->n > FP_ANCHOR_READERS_MAX)
        return cli_usage("--reader: at most %d", FP_ANCHOR_READERS_MAX);
    for (size_t i = 0; i < readers->n; i++) {
        if (strlen(readers->value[i]) > FP_READER_MAX)
            return cli_usage("--reader: a tenant's name has at most %d bytes", FP_READER_MAX);
        snprintf(s->readers[i], sizeof s->readers[i], "%s", readers->value[i]);
        s->readers_count = (uint16_t)(i + 1);
    }
    if (cli_has(args, "days")) {
        s->valid_from = (uint64_t)time(NULL);
        s->valid_until = s->valid_from + cli_number(args, "days", 1, 1, 36500) * 86400;
    }
    return 0;
}

static int read_document(const cli_args *args, char **document, size_t *size, fp_statement *s,
                         fp_workspace **workspace)
{
    int code = statement_from_args(args, s);
    if (code)
        return code;
    fp_status status = cli_read_file(args->operands[0], FP_ANCHOR_DOCUMENT_MAX_BYTES, document, size);
    if (status != FP_OK)
        return fp_status_exit_code(status);
    status = cli_open_workspace(args, workspace);
    if (status != FP_OK) {
        free(*document);
        *document = NULL;
    }
    return status == FP_OK ? 0 : cli_fail(status);
}

static int print_id(const cli_args *args, const uint8_t id[32])
{
    char hex[65];
    cli_hex_text(id, 32, hex);
    if (args->json)
        return cli_print_json(json_pack("{s:s}", "id", hex));
    printf("%s\n", hex);
    return 0;
}

static int create_main(const cli_args *args)
{
    char *document = NULL;
    size_t size = 0;
    uint8_t id[32];
    fp_statement s;
    fp_workspace *workspace = NULL;
    int code = read_document(args, &document, &size, &s, &workspace);
    if (code)
        return code;
    fp_status status = fp_anchor_create(workspace, document, size, &s, id);
    code = status == FP_OK ? print_id(args, id) : cli_fail(status);
    free(document);
    fp_workspace_close(workspace);
    return code;
}

/* ---- sign, register, promote, revoke
 * ---------------------------------------------------------------------------------------- */

static const cli_option one_options[] = {CLI_WORKSPACE_OPTION, CLI_JSON_OPTION, CLI_END};
static const cli_option sign_options[] = {
    {"holder", 0, "NAME", "sign with this holder's key only (default: every author key held here)"},
    {"yes", 'y', NULL, "do not show what is signed first"},
    CLI_WORKSPACE_OPTION,
    CLI_JSON_OPTION,
    CLI_END};

typedef fp_status event_fn(fp_workspace *workspace, const uint8_t id[32], fp_event_receipt *out);

static int open_and_find(const cli_args *args, fp_workspace **workspace, uint8_t id[32])
{
    fp_status status = cli_open_workspace(args, workspace);
    if (status != FP_OK)
        return cli_fail(status);
    status = cli_find_anchor(*workspace, args->operands[0], id);
    if (status == FP_OK)
        return 0;
    int code = cli_fail(status);
    fp_workspace_close(*workspace);
    return code;
}

int cli_print_event(const cli_args *args, const char *what, const fp_event_receipt *e)
{
    if (args->json) {
        json_t *object = json_pack("{s:s, s:o, s:b}", "event", what, "event_id", cli_hex(e->event_id, 32),
                                   "appended", (int)e->appended);
        if (object && e->appended)
            json_object_set_new(object, "index", json_integer((json_int_t)e->index));
        else if (object)
            json_object_set_new(object, "pending", json_string(e->pending_path));
        return cli_print_json(object);
    }
    if (e->appended)
        printf("%s: entry %llu of the ledger (tree size %llu)\n", what, (unsigned long long)e->index,
               (unsigned long long)e->tree_size);
    else
        printf("%s: %u more holders must sign; pass on %s\n", what, e->signatures_missing, e->pending_path);
    return 0;
}

static int event_main(const cli_args *args, const char *what, event_fn *event)
{
    fp_workspace *workspace;
    fp_event_receipt e;
    uint8_t id[32];
    int code = open_and_find(args, &workspace, id);
    if (code)
        return code;
    cli_show_signing(args, workspace);
    fp_status status = event(workspace, id, &e);
    code = status == FP_OK ? cli_print_event(args, what, &e) : cli_fail(status);
    fp_workspace_close(workspace);
    return code;
}

static int register_main(const cli_args *args)
{
    return event_main(args, "register", fp_anchor_register);
}

static int promote_main(const cli_args *args)
{
    return event_main(args, "promote", fp_anchor_promote);
}

static const char *revoke_reason;
static fp_status revoke(fp_workspace *workspace, const uint8_t id[32], fp_event_receipt *out)
{
    return fp_anchor_revoke(workspace, id, revoke_reason, out);
}

static const cli_option revoke_options[] = {
    {"why", 0, "TEXT", "the reason, for the log"}, CLI_WORKSPACE_OPTION, CLI_JSON_OPTION, CLI_END};

static int revoke_main(const cli_args *args)
{
    revoke_reason = cli_text(args, "why", "");
    return event_main(args, "revoke", revoke);
}

static const char *supersede_reason;
static uint8_t supersede_by[32];
static fp_status supersede(fp_workspace *workspace, const uint8_t id[32], fp_event_receipt *out)
{
    return fp_anchor_supersede(workspace, id, supersede_by, supersede_reason, out);
}

static int supersede_main(const cli_args *args)
{
    fp_workspace *workspace;
    supersede_reason = cli_text(args, "why", "");
    fp_status status = cli_open_workspace(args, &workspace);
    if (status != FP_OK)
        return cli_fail(status);
    status = cli_find_anchor(workspace, args->operands[1], supersede_by);
    int code = status == FP_OK ? 0 : cli_fail(status);
    fp_workspace_close(workspace);
    return code ? code : event_main(args, "supersede", supersede);
}

static int sign_main(const cli_args *args)
{
    fp_workspace *workspace;
    uint8_t id[32], *payload;
    size_t added, size;
    int code = open_and_find(args, &workspace, id);
    if (code)
        return code;
    fp_status status = FP_OK;
    if (!cli_has(args, "yes") && !args->json) {
        status = fp_anchor_payload(workspace, id, &payload, &size);
        if (status == FP_OK) {
            printf("signing: %.*s\n", (int)size, (const char *)payload);
            fp_bytes_free(payload);
        }
    }
    if (status == FP_OK)
        status = fp_anchor_sign(workspace, id, cli_text(args, "holder", NULL), &added);
    if (status != FP_OK)
        code = cli_fail(status);
    else if (args->json)
        code = cli_print_json(json_pack("{s:o, s:i}", "id", cli_hex(id, 32), "signatures_added", (int)added));
    else
        printf("%zu signature%s added\n", added, added == 1 ? "" : "s");
    fp_workspace_close(workspace);
    return code;
}

/* ---- import ---- */

static const cli_option import_options[] = {
    {"document", 'd', "FILE", "the document that the statement is about"},
    CLI_WORKSPACE_OPTION,
    CLI_JSON_OPTION,
    CLI_END};

static int import_main(const cli_args *args)
{
    char *envelope = NULL, *document = NULL;
    size_t envelope_size = 0, document_size = 0;
    fp_workspace *workspace;
    uint8_t id[32];
    const char *path = cli_text(args, "document", NULL);
    fp_status status = cli_read_file(args->operands[0], 1 << 20, &envelope, &envelope_size);
    if (status == FP_OK && path)
        status = cli_read_file(path, FP_ANCHOR_DOCUMENT_MAX_BYTES, &document, &document_size);
    int code = fp_status_exit_code(status);
    if (status == FP_OK && (status = cli_open_workspace(args, &workspace)) != FP_OK)
        code = cli_fail(status);
    if (status == FP_OK) {
        status = fp_anchor_import(workspace, envelope, envelope_size, document, document_size, id);
        code = status == FP_OK ? print_id(args, id) : cli_fail(status);
        fp_workspace_close(workspace);
    }
    free(envelope);
    free(document);
    return code;
}

/* ---- compile, add
 * -------------------------------------------------------------------------------------------------------------
 */

static const cli_option compile_options[] = {
    CLI_MODEL_OPTIONS, CLI_WORKSPACE_OPTION,
    CLI_DEVICE_OPTION, {"chunk", 0, "N", "tokens per step (default 512, on a GPU 2048); changes no result"},
    CLI_JSON_OPTION,   CLI_END};

static int compile_ids(const cli_args *args, fp_workspace *workspace, const uint8_t (*ids)[32], size_t n)
{
    fp_model *model = NULL;
    fp_engine *engine = NULL;
    fp_engine_options o;
    fp_event_receipt event;
    uint8_t head[32];
    uint32_t tokens = 0, pages = 0;
    cli_progress progress;
    fp_status status = cli_open_model(args, false, &model);
    cli_engine_options(args, &o);
    cli_progress_start(&progress, "compiling");
    o.progress = cli_progress_update;
    o.progress_context = &progress;
    if (status == FP_OK)
        status = fp_engine_create(model, &o, &engine);
    if (status == FP_OK)
        status = fp_anchors_compile(engine, workspace, ids, n, &event, head, &tokens, &pages);
    cli_progress_end(&progress);
    int code = 0;
    if (status != FP_OK)
        code = cli_fail(status);
    else if (args->json)
        code = cli_print_json(json_pack("{s:o, s:i, s:i, s:o, s:b, s:I}", "id", cli_hex(ids[0], 32), "tokens",
                                        (int)tokens, "pages", (int)pages, "kv_head", cli_hex(head, 32),
                                        "appended", (int)event.appended, "index", (json_int_t)event.index));
    else {
        char hex[65];
        cli_hex_text(head, 32, hex);
        printf("compiled: %u tokens in %u pages, K/V head %s\n", tokens, pages, hex);
        (void)cli_print_event(args, "compile", &event);
    }
    fp_engine_destroy(engine);
    fp_model_close(model);
    return code;
}

static int compile_main(const cli_args *args)
{
    uint8_t ids[MAX_IDS][32];
    fp_workspace *workspace;
    if (!cli_model_path(args))
        return 2;
    fp_status status = cli_open_workspace(args, &workspace);
    if (status != FP_OK)
        return cli_fail(status);
    for (size_t i = 0; i < args->n && status == FP_OK; i++)
        status = cli_find_anchor(workspace, args->operands[i], ids[i]);
    int code =
        status == FP_OK ? compile_ids(args, workspace, (const uint8_t(*)[32])ids, args->n) : cli_fail(status);
    fp_workspace_close(workspace);
    return code;
}

static const cli_option add_options[] = {
    STATEMENT_OPTIONS,    CLI_MODEL_OPTIONS,
    CLI_WORKSPACE_OPTION, {"chunk", 0, "N", "tokens per step (default 512); changes no result"},
    CLI_JSON_OPTION,      CLI_END};

static int add_main(const cli_args *args)
{
    char *document = NULL;
    size_t size = 0;
    uint8_t id[32];
    fp_statement s;
    fp_workspace *workspace = NULL;
    if (!cli_model_path(args))
        return 2;
    int code = read_document(args, &document, &size, &s, &workspace);
    if (code)
        return code;
    fp_status status = fp_anchor_add(workspace, document, size, &s, id);
    free(document);
    if (status != FP_OK)
        code = cli_fail(status);
    else {
        if (!args->json)
            code = print_id(args, id);
        if (code == 0)
            code = compile_ids(args, workspace, (const uint8_t(*)[32]) & id, 1);
    }
    fp_workspace_close(workspace);
    return code;
}

/* ---- list, show
 * ------------------------------------------------------------------------------------------------------------------
 */

static void set_index(json_t *object, const char *key, uint64_t index)
{
    if (object && index != FP_INDEX_NONE)
        json_object_set_new(object, key, json_integer((json_int_t)index));
}

/* Only a promoted anchor gives text the label of its type. */
static bool gives_label(const fp_anchor_row *r)
{
    return r->state == FP_ANCHOR_PROMOTED;
}

static json_t *row_json(const fp_anchor_row *r)
{
    json_t *object = json_pack(
        "{s:o, s:s, s:s, s:s, s:s, s:i, s:i, s:i, s:I, s:I}", "id", cli_hex(r->id, 32), "name", r->name,
        "version", r->version, "state", fp_anchor_state_name(r->state), "type", fp_label_name(r->type),
        "signatures", (int)r->signatures, "models", (int)r->models, "pages", (int)r->pages, "valid_from",
        (json_int_t)r->valid_from, "valid_until", (json_int_t)r->valid_until);
    set_index(object, "registered", r->register_index);
    set_index(object, "promoted", r->promote_index);
    set_index(object, "superseded", r->supersede_index);
    set_index(object, "revoked", r->revoke_index);
    if (object && gives_label(r))
        json_object_set_new(object, "label", json_string(fp_label_name(r->type)));
    if (object && r->supersede_index != FP_INDEX_NONE)
        json_object_set_new(object, "successor", cli_hex(r->successor, 32));
    return object;
}

static void print_index(const char *what, uint64_t index)
{
    if (index != FP_INDEX_NONE)
        printf("%s by entry %llu of the ledger\n", what, (unsigned long long)index);
}

/* State, life in the log, models and validity, for people. */
static void print_row(const fp_anchor_row *r)
{
    char hex[65], from[32], until[32];
    cli_hex_text(r->id, 32, hex);
    cli_time_text(r->valid_from, from);
    cli_time_text(r->valid_until, until);
    printf("%s\n%s@%s  %s  %s  %u signature%s\n", hex, r->name, r->version, fp_anchor_state_name(r->state),
           fp_label_name(r->type), r->signatures, r->signatures == 1 ? "" : "s");
    print_index("registered", r->register_index);
    print_index("promoted", r->promote_index);
    print_index("superseded", r->supersede_index);
    if (r->supersede_index != FP_INDEX_NONE) {
        cli_hex_text(r->successor, 32, hex);
        printf("successor %s\n", hex);
    }
    print_index("revoked", r->revoke_index);
    printf("compiled for %u model%s, %u page%s\nvalid from %s until %s\n", r->models,
           r->models == 1 ? "" : "s", r->pages, r->pages == 1 ? "" : "s", from, until);
}

/* "always", "until T", "from T", "T to T" */
static void validity_text(const fp_anchor_row *r, char out[80])
{
    char from[32], until[32];
    cli_time_text(r->valid_from, from);
    cli_time_text(r->valid_until, until);
    bool begins = r->valid_from > 0, ends = r->valid_until < FP_TIME_FOREVER;
    if (begins && ends)
        snprintf(out, 80, "%s to %s", from, until);
    else
        snprintf(out, 80, "%s%s",
                 begins ? "from "
                 : ends ? "until "
                        : "always",
                 begins ? from
                 : ends ? until
                        : "");
}

static int list_main(const cli_args *args)
{
    fp_workspace *workspace;
    fp_anchor_row *rows = NULL;
    size_t n = 0;
    fp_status status = cli_open_workspace(args, &workspace);
    if (status != FP_OK)
        return cli_fail(status);
    status = fp_anchor_list(workspace, &rows, &n);
    int code = status == FP_OK ? 0 : cli_fail(status);
    json_t *list = json_array();
    if (code == 0 && !args->json)
        printf("%-12s  %-24s  %-10s  %-8s  %-8s  %6s  %5s  %s\n", "ID", "NAME", "STATE", "TYPE", "LABEL",
               "MODELS", "PAGES", "VALID");
    for (size_t i = 0; code == 0 && i < n; i++) {
        char hex[65], valid[80], name[FP_ANCHOR_NAME_MAX + FP_ANCHOR_VERSION_MAX + 2];
        cli_hex_text(rows[i].id, 32, hex);
        validity_text(&rows[i], valid);
        snprintf(name, sizeof name, "%s@%s", rows[i].name, rows[i].version);
        if (args->json)
            json_array_append_new(list, row_json(&rows[i]));
        else
            printf("%.12s  %-24s  %-10s  %-8s  %-8s  %6u  %5u  %s\n", hex, name,
                   fp_anchor_state_name(rows[i].state), fp_label_name(rows[i].type),
                   gives_label(&rows[i]) ? fp_label_name(rows[i].type) : "-", rows[i].models, rows[i].pages,
                   valid);
    }
    if (code == 0 && args->json)
        code = cli_print_json(json_pack("{s:o}", "anchors", list));
    else
        json_decref(list);
    fp_anchor_rows_free(rows);
    fp_workspace_close(workspace);
    return code;
}

static int show_main(const cli_args *args)
{
    fp_workspace *workspace;
    fp_anchor_row row;
    fp_statement s;
    uint8_t id[32], *payload = NULL;
    size_t size = 0;
    int code = open_and_find(args, &workspace, id);
    if (code)
        return code;
    fp_status status = fp_anchor_show(workspace, id, &row, &s);
    if (status == FP_OK)
        status = fp_anchor_payload(workspace, id, &payload, &size);
    if (status != FP_OK)
        code = cli_fail(status);
    else if (args->json) {
        json_t *object = row_json(&row);
        json_object_set_new(object, "statement", json_loadb((const char *)payload, size, 0, NULL));
        code = cli_print_json(object);
    } else {
        json_t *statement = json_loadb((const char *)payload, size, 0, NULL);
        char *text = json_dumps(statement, JSON_INDENT(2));
        print_row(&row);
        printf("%s\n", text ? text : "");
        free(text);
        json_decref(statement);
    }
    fp_bytes_free(payload);
    fp_workspace_close(workspace);
    return code;
}

const cli_command cli_command_anchor_add = {
    "anchor add",
    "FILE",
    1,
    1,
    "create, sign, log, promote and compile an anchor at once, where the policy allows it",
    "",
    add_options,
    add_main};
const cli_command cli_command_anchor_create = {
    "anchor create", "FILE",     1, 1, "make an unsigned statement for a document; prints its id", "",
    create_options,  create_main};
const cli_command cli_command_anchor_sign = {
    "anchor sign", "ID",     1, 1, "sign a statement with the author keys held here", "",
    sign_options,  sign_main};
const cli_command cli_command_anchor_register = {
    "anchor register", "ID", 1, 1, "log a signed statement as a candidate", "", one_options, register_main};
const cli_command cli_command_anchor_promote = {
    "anchor promote", "ID", 1, 1, "approve a logged anchor for use", "", one_options, promote_main};
const cli_command cli_command_anchor_compile = {
    "anchor compile",
    "ID...",
    1,
    MAX_IDS,
    "compute the K/V pages of an anchor, or of an ordered set, and log their root",
    "",
    compile_options,
    compile_main};
const cli_command cli_command_anchor_revoke = {
    "anchor revoke", "ID", 1, 1, "revoke an anchor: final", "", revoke_options, revoke_main};
const cli_command cli_command_anchor_supersede = {
    "anchor supersede",
    "OLD NEW",
    2,
    2,
    "replace an anchor by another one that is promoted: the old one is denied from then on",
    "",
    revoke_options,
    supersede_main};
const cli_command cli_command_anchor_import = {
    "anchor import",
    "FILE",
    1,
    1,
    "take a signed statement that was made elsewhere; prints its id",
    "The statement and, with --document, its document are put into the workspace. The gate still asks for "
    "signatures, log entries and promotion.",
    import_options,
    import_main};
const cli_command cli_command_anchor_list = {"anchor list", "",       0, 0, "anchors and their state", "",
                                             one_options,   list_main};
const cli_command cli_command_anchor_show = {
    "anchor show", "ID", 1, 1, "one anchor and its statement", "", one_options, show_main};
