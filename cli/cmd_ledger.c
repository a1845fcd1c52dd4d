/* fieldprint ledger …: the log of what was decided. */
#include "cmd_log.h"
#include "commands.h"
#include <stdlib.h>
#include <string.h>

enum { ROWS = 64 };

static const cli_option plain_options[] = {CLI_WORKSPACE_OPTION, CLI_JSON_OPTION, CLI_END};
#define TRUST_OPTION                                                                                         \
    {                                                                                                        \
        "trust", 0, "FILE", "the trust file, if not the workspace's own"                                     \
    }
static const cli_option init_options[] = {CLI_LOG_WRITE_OPTIONS, CLI_WORKSPACE_OPTION, CLI_JSON_OPTION,
                                          CLI_END};
static const cli_option fsck_options[] = {
    TRUST_OPTION,
    {"log", 0, "PLACE", "a log by itself, in a folder or at a URL (default: the workspace's)"},
    {"vkey", 0, "KEY", "its verifier key, name+id+key"},
    CLI_WORKSPACE_OPTION,
    CLI_JSON_OPTION,
    CLI_END};
static const cli_option verify_options[] = {
    TRUST_OPTION,
    CLI_LOG_OPTIONS,
    {"proof", 0, "FILE", "check this proof by itself (c2sp.org/tlog-proof), with --vkey or --policy"},
    {"entry", 0, "FILE", "with --proof: the entry that it is about"},
    CLI_WORKSPACE_OPTION,
    CLI_JSON_OPTION,
    CLI_END};

/* ---- init, fsck ---- */

static int init_main(const cli_args *args)
{
    const char *path = cli_text(args, "workspace", NULL);
    fp_ledger_report report;
    if (cli_has(args, "log"))
        return log_init(args);
    fp_status status = fp_ledger_init(path);
    if (status == FP_OK)
        status = fp_ledger_fsck(path, NULL, &report);
    if (status != FP_OK)
        return cli_fail(status);
    if (args->json)
        return cli_print_json(
            json_pack("{s:I, s:o}", "tree_size", (json_int_t)report.size, "root", cli_hex(report.root, 32)));
    printf("ledger made: entry 0 is the policy\nnext: fieldprint anchor create FILE\n");
    return 0;
}

static int fsck_main(const cli_args *args)
{
    fp_ledger_report report;
    char hex[65];
    fp_status status = log_is_meant(args) ? log_fsck(args, &report)
                                          : fp_ledger_fsck(cli_text(args, "workspace", NULL),
                                                           cli_text(args, "trust", NULL), &report);
    if (status != FP_OK)
        return cli_fail(status);
    cli_hex_text(report.root, 32, hex);
    if (args->json)
        return cli_print_json(json_pack("{s:I, s:s, s:I, s:I, s:I}", "tree_size", (json_int_t)report.size,
                                        "root", hex, "tiles", (json_int_t)report.tiles, "bundles",
                                        (json_int_t)report.bundles, "entry_bytes",
                                        (json_int_t)report.entry_bytes));
    printf("clean: %llu entries (%llu bytes) hash to the signed root %s\n", (unsigned long long)report.size,
           (unsigned long long)report.entry_bytes, hex);
    return 0;
}

/* ---- verify, show ---- */

typedef fp_status row_fn(void *context, const fp_ledger_row *row);

static fp_status each_row(fp_workspace *workspace, row_fn *visit, void *context)
{
    fp_ledger_row rows[ROWS];
    for (uint64_t at = 0;;) {
        size_t n = ROWS;
        fp_status status = fp_ledger_rows(workspace, at, rows, &n);
        for (size_t i = 0; i < n && status == FP_OK; i++)
            status = visit(context, &rows[i]);
        if (status != FP_OK || n == 0)
            return status;
        at += n;
    }
}

struct counts {
    uint64_t valid, skipped;
};

static fp_status count_row(void *context, const fp_ledger_row *row)
{
    struct counts *counts = context;
    (*(row->valid ? &counts->valid : &counts->skipped))++;
    return FP_OK;
}

static int verify_main(const cli_args *args)
{
    fp_workspace *workspace;
    fp_workspace_info info;
    struct counts counts = {0, 0};
    if (log_is_meant(args) || cli_has(args, "proof"))
        return log_verify(args);
    fp_status status =
        fp_workspace_open(cli_text(args, "workspace", NULL), cli_text(args, "trust", NULL), &workspace);
    if (status != FP_OK)
        return cli_fail(status);
    status = fp_workspace_get_info(workspace, &info);
    if (status == FP_OK)
        status = each_row(workspace, count_row, &counts);
    int code = 0;
    if (status != FP_OK) {
        code = cli_fail(status);
    } else if (args->json) {
        code = cli_print_json(
            json_pack("{s:s, s:I, s:o, s:o, s:I, s:I, s:b}", "origin", info.origin, "tree_size",
                      (json_int_t)info.tree_size, "root", cli_hex(info.tree_root, 32), "policy",
                      cli_hex(info.policy_digest, 32), "counted", (json_int_t)counts.valid, "skipped",
                      (json_int_t)counts.skipped, "witnessed", info.witnesses > 0));
    } else {
        char root[65];
        cli_hex_text(info.tree_root, 32, root);
        printf("log \"%s\": %llu entries, root %s\n"
               "the checkpoint is signed and continues what was seen before; %llu entries count, %llu are "
               "skipped\n%s\n",
               info.origin, (unsigned long long)info.tree_size, root, (unsigned long long)counts.valid,
               (unsigned long long)counts.skipped,
               info.witnesses ? "witnessed" : "unwitnessed: only this log's key vouches for it");
    }
    fp_workspace_close(workspace);
    return code;
}

struct table {
    json_t *rows; /* NULL: print */
};

static fp_status show_row(void *context, const fp_ledger_row *row)
{
    struct table *table = context;
    char target[65];
    cli_hex_text(row->target, 32, target);
    if (table->rows) {
        json_array_append_new(table->rows,
                              json_pack("{s:I, s:s, s:o, s:s, s:b, s:s}", "index", (json_int_t)row->index,
                                        "type", row->type, "event_id", cli_hex(row->event_id, 32), "target",
                                        target, "counts", (int)row->valid, "why", row->why));
    } else {
        printf("%6llu  %-10s  %.12s  %s%s%s\n", (unsigned long long)row->index,
               row->type[0] ? row->type : "?", target, row->valid ? "counts" : "skipped",
               row->why[0] ? ": " : "", row->why);
    }
    return FP_OK;
}

static int show_table(const cli_args *args, fp_workspace *workspace)
{
    struct table table = {args->json ? json_array() : NULL};
    if (!args->json)
        printf("%6s  %-10s  %-12s  %s\n", "ENTRY", "EVENT", "TARGET", "REPLAY");
    fp_status status = each_row(workspace, show_row, &table);
    if (status == FP_OK)
        return args->json ? cli_print_json(json_pack("{s:o}", "entries", table.rows)) : 0;
    json_decref(table.rows);
    return cli_fail(status);
}

/* Payload of a DSSE envelope, decoded; NULL when it is none. */
static json_t *envelope_payload(const json_t *envelope)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *text = json_string_value(json_object_get(envelope, "payload"));
    char *out = text ? malloc(strlen(text) + 1) : NULL;
    size_t size = 0;
    uint32_t bits = 0;
    for (size_t i = 0; out && text[i] && text[i] != '='; i++) {
        const char *at = strchr(digits, text[i]);
        if (!at) {
            free(out);
            return NULL;
        }
        bits = bits << 6 | (uint32_t)(at - digits);
        if (i % 4 != 0)
            out[size++] = (char)(bits >> (6 - 2 * (i % 4)) & 255);
    }
    json_t *payload = out ? json_loadb(out, size, 0, NULL) : NULL;
    free(out);
    return payload;
}

static int show_entry(const cli_args *args, fp_workspace *workspace, uint64_t index)
{
    uint8_t *data;
    size_t size;
    fp_status status = fp_ledger_entry(workspace, index, &data, &size);
    if (status != FP_OK)
        return cli_fail(status);
    json_t *envelope = json_loadb((const char *)data, size, 0, NULL), *payload = envelope_payload(envelope);
    int code = 0;
    if (args->json) {
        code = cli_print_json(json_pack("{s:I, s:o?, s:O?}", "index", (json_int_t)index, "envelope",
                                        json_incref(envelope), "payload", payload));
    } else {
        char *text = payload ? json_dumps(payload, JSON_INDENT(2)) : NULL;
        if (text)
            puts(text);
        else
            fwrite(data, 1, size, stdout);
        free(text);
    }
    json_decref(payload);
    json_decref(envelope);
    fp_bytes_free(data);
    return code;
}

static bool read_index(const char *text, uint64_t *out)
{
    size_t n = strlen(text);
    if (n == 0 || n > 18 || strspn(text, "0123456789") != n)
        return false;
    *out = strtoull(text, NULL, 10);
    return true;
}

static int show_main(const cli_args *args)
{
    fp_workspace *workspace;
    uint64_t index = 0;
    if (args->n == 1 && !read_index(args->operands[0], &index))
        return cli_usage("%s: the number of an entry is wanted", args->operands[0]);
    fp_status status = cli_open_workspace(args, &workspace);
    if (status != FP_OK)
        return cli_fail(status);
    int code = args->n == 1 ? show_entry(args, workspace, index) : show_table(args, workspace);
    fp_workspace_close(workspace);
    return code;
}

/* ---- proof ---- */

static const cli_option proof_options[] = {
    CLI_LOG_OPTIONS,
    {"out", 'o', "FILE", "write the proof to a file (default: standard output)"},
    CLI_WORKSPACE_OPTION,
    CLI_JSON_OPTION,
    CLI_END};

/* What was named → entry: a number, a receipt, or an anchor (its promotion, else its registration). */
static fp_status find_entry(fp_workspace *workspace, const char *text, uint64_t *index)
{
    uint8_t id[32];
    fp_anchor_row row;
    if (read_index(text, index))
        return FP_OK;
    if (cli_hex_bytes(text, id, 32) && fp_receipt_find(workspace, id, index) == FP_OK)
        return FP_OK;
    fp_status status = cli_find_anchor(workspace, text, id);
    if (status == FP_OK)
        status = fp_anchor_show(workspace, id, &row, NULL);
    if (status == FP_OK)
        *index = row.promote_index != FP_INDEX_NONE ? row.promote_index : row.register_index;
    return status;
}

static int write_proof(const char *path, const char *text, size_t size)
{
    FILE *f = path ? fopen(path, "wb") : stdout;
    bool bad = !f || fwrite(text, 1, size, f) != size;
    bad = (path && f ? fclose(f) : fflush(stdout)) != 0 || bad;
    return bad ? cli_error(FP_IO, "cannot write %s", path ? path : "the proof") : 0;
}

static int print_proof(const cli_args *args, uint64_t index, const char *text, size_t size)
{
    const char *out = cli_text(args, "out", NULL);
    int code = 0;
    if (out || !args->json)
        code = write_proof(out, text, size);
    if (code == 0 && args->json)
        code = cli_print_json(json_pack("{s:I, s:s#}", "index", (json_int_t)index, "proof", text, (int)size));
    return code;
}

static int log_proof_main(const cli_args *args)
{
    fp_log *log;
    uint64_t index = 0;
    char *text = NULL;
    size_t size = 0;
    if (!read_index(args->operands[0], &index))
        return cli_usage("%s: of a log by itself, the number of an entry is wanted", args->operands[0]);
    fp_status status = log_open(args, &log);
    if (status != FP_OK)
        return cli_fail(status);
    status = fp_log_proof(log, index, &text, &size);
    int code = status == FP_OK ? print_proof(args, index, text, size) : cli_fail(status);
    fp_bytes_free(text);
    fp_log_close(log);
    return code;
}

static int proof_main(const cli_args *args)
{
    if (log_is_meant(args))
        return log_proof_main(args);
    fp_workspace *workspace;
    uint64_t index = 0;
    char *text = NULL;
    size_t size = 0;
    fp_status status = cli_open_workspace(args, &workspace);
    if (status != FP_OK)
        return cli_fail(status);
    status = find_entry(workspace, args->operands[0], &index);
    if (status == FP_OK && index == FP_INDEX_NONE) {
        fp_workspace_close(workspace);
        return cli_usage("%s is not in the ledger; log it with fieldprint anchor register",
                         args->operands[0]);
    }
    if (status == FP_OK)
        status = fp_ledger_proof(workspace, index, &text, &size);
    int code = status == FP_OK ? 0 : cli_fail(status);
    if (code == 0)
        code = print_proof(args, index, text, size);
    fp_bytes_free(text);
    fp_workspace_close(workspace);
    return code;
}

const cli_command cli_command_ledger_init = {"ledger init",
                                             "",
                                             0,
                                             0,
                                             "make the ledger; its entry 0 is the policy",
                                             "With --log, an empty log by itself; prints its verifier key.",
                                             init_options,
                                             init_main};
const cli_command cli_command_ledger_verify = {
    "ledger verify",
    "",
    0,
    0,
    "check the newest checkpoint, that it continues what was seen, and replay the events",
    "With --log, any c2sp.org/tlog-tiles log: its checkpoint, that it continues the --state seen before, "
    "every "
    "entry, and whether a quorum of the --policy's witnesses has cosigned (exit code 1 if not). With "
    "--proof, a "
    "proof and its --entry, without the log.",
    verify_options,
    verify_main};
const cli_command cli_command_ledger_fsck = {
    "ledger fsck",
    "",
    0,
    0,
    "recompute every hash of the log from its entries",
    "Also works where the workspace does not open; names the first file and entry that differ.",
    fsck_options,
    fsck_main};
const cli_command cli_command_ledger_show = {
    "ledger show", "[ENTRY]", 0, 1, "what was logged, and whether it counts; or one entry", "",
    plain_options, show_main};
const cli_command cli_command_ledger_proof = {
    "ledger proof",
    "ENTRY|RECEIPT|ANCHOR",
    1,
    1,
    "prove that an entry is in the log (c2sp.org/tlog-proof)",
    "Of a receipt (its whole id) the entry that logged it; of an anchor its promotion, or else its "
    "registration. Other people's tools verify the text with the log's key and the entry.",
    proof_options,
    proof_main};
