/* fieldprint ledger …, for logs by themselves (--log) and what a workspace does with its log as a log:
 * append, witness, export. */
#include "cmd_log.h"
#include "commands.h"
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { ENTRIES_MAX = 1 << 20, FILE_MAX_BYTES = 256 << 20, ENTRY_MAX_BYTES = 65535 };

/* ---- which log ---- */

static fp_log_options options_of(const cli_args *args)
{
    return (fp_log_options){.place = cli_text(args, "log", NULL),
                            .vkey = cli_text(args, "vkey", NULL),
                            .policy_path = cli_text(args, "policy", NULL),
                            .state_path = cli_text(args, "state", NULL)};
}

bool log_is_meant(const cli_args *args)
{
    return cli_has(args, "log") || cli_has(args, "vkey");
}

fp_status log_open(const cli_args *args, fp_log **out)
{
    fp_log_options options = options_of(args);
    if (log_is_meant(args))
        return fp_log_open(&options, out);
    return fp_log_open_workspace(cli_text(args, "workspace", NULL), NULL, NULL, out);
}

/* The key that signs a log by itself; false after saying what is missing. */
static bool load_key(const cli_args *args, fp_key **key, int *code)
{
    if (!cli_has(args, "key") || !cli_has(args, "origin")) {
        *code = cli_usage("writing a log by itself needs --log DIR, --key FILE and --origin NAME");
        return false;
    }
    fp_status status = fp_key_load(cli_text(args, "key", NULL), key);
    *code = status == FP_OK ? 0 : cli_fail(status);
    return status == FP_OK;
}

static json_t *head_json(const fp_log_info *info)
{
    json_t *object =
        json_pack("{s:I, s:o}", "tree_size", (json_int_t)info->size, "root", cli_hex(info->root, 32));
    if (info->origin)
        json_object_set_new(object, "origin", json_string(info->origin));
    if (info->has_policy) {
        json_object_set_new(object, "witnesses", json_integer(info->witnesses));
        json_object_set_new(object, "cosignatures", json_integer(info->cosignatures));
        json_object_set_new(object, "quorum", json_boolean(info->quorum));
        json_object_set_new(object, "quorum_time", json_integer((json_int_t)info->quorum_time));
    }
    return object;
}

static void print_head(const fp_log_info *info)
{
    char root[65], since[32];
    cli_hex_text(info->root, 32, root);
    if (info->origin)
        printf("log \"%s\": ", info->origin);
    printf("%llu entries, root %s\n", (unsigned long long)info->size, root);
    if (!info->has_policy)
        return;
    cli_time_text(info->quorum_time, since);
    printf("cosigned by %u of %u witnesses: %s%s\n", info->cosignatures, info->witnesses,
           info->quorum ? "a quorum" : "no quorum of the policy",
           info->quorum && info->quorum_time ? ", as of " : "");
    if (info->quorum && info->quorum_time)
        printf("  %s\n", since);
}

/* ---- reading ---- */

/* A proof by itself: --proof FILE --entry FILE. */
static int check_proof(const cli_args *args)
{
    fp_log_options options = options_of(args);
    char *proof = NULL, *entry = NULL;
    size_t proof_size = 0, entry_size = 0;
    uint64_t index = 0;
    fp_log_info info;
    if (!cli_has(args, "entry"))
        return cli_usage("--proof needs --entry FILE: the entry that it is about");
    fp_status status = cli_read_file(cli_text(args, "proof", NULL), 1 << 20, &proof, &proof_size);
    if (status == FP_OK)
        status = cli_read_file(cli_text(args, "entry", NULL), ENTRY_MAX_BYTES, &entry, &entry_size);
    if (status == FP_OK)
        status = fp_log_proof_check(&options, proof, proof_size, entry, entry_size, &index, &info);
    free(proof);
    free(entry);
    if (status != FP_OK)
        return cli_fail(status);
    if (args->json) {
        json_t *object = head_json(&info);
        json_object_set_new(object, "index", json_integer((json_int_t)index));
        return cli_print_json(object);
    }
    printf("the entry is number %llu of the log\n", (unsigned long long)index);
    print_head(&info);
    return 0;
}

int log_verify(const cli_args *args)
{
    fp_log *log;
    fp_log_info info;
    if (cli_has(args, "proof"))
        return check_proof(args);
    fp_status status = log_open(args, &log);
    if (status != FP_OK)
        return cli_fail(status);
    status = fp_log_check_entries(log);
    fp_log_get_info(log, &info);
    int code = status == FP_OK ? 0 : cli_fail(status);
    if (code == 0 && args->json) {
        code = cli_print_json(head_json(&info));
    } else if (code == 0) {
        print_head(&info);
        printf("every entry is the one that was signed for\n");
    }
    if (code == 0 && info.has_policy && !info.quorum) {
        if (!args->json)
            fprintf(stderr, "fieldprint: the checkpoint lacks a quorum of the policy's witnesses\n");
        code = 1;
    }
    fp_log_close(log);
    return code;
}

fp_status log_fsck(const cli_args *args, fp_ledger_report *report)
{
    fp_log_options options = options_of(args);
    return fp_log_fsck(&options, report);
}

static int export_main(const cli_args *args)
{
    fp_log *log;
    fp_log_info info;
    fp_status status = log_open(args, &log);
    if (status != FP_OK)
        return cli_fail(status);
    status = fp_log_export(log, args->operands[0]);
    fp_log_get_info(log, &info);
    int code = status == FP_OK ? 0 : cli_fail(status);
    if (code == 0 && args->json) {
        json_t *object = head_json(&info);
        json_object_set_new(object, "folder", json_string(args->operands[0]));
        code = cli_print_json(object);
    } else if (code == 0) {
        print_head(&info);
        printf("copied to %s: static files for any web server\n", args->operands[0]);
    }
    fp_log_close(log);
    return code;
}

/* ---- writing ---- */

int log_init(const cli_args *args)
{
    fp_key *key = NULL;
    int code;
    char *vkey = NULL;
    if (!load_key(args, &key, &code))
        return code;
    fp_status status = fp_log_create(cli_text(args, "log", NULL), cli_text(args, "origin", NULL), key, &vkey);
    if (status != FP_OK)
        code = cli_fail(status);
    else if (args->json)
        code = cli_print_json(json_pack("{s:s, s:i}", "vkey", vkey, "tree_size", 0));
    else
        printf("%s\n", vkey);
    fp_bytes_free(vkey);
    fp_key_free(key);
    return code;
}

struct entries {
    char *files[CLI_MAX_VALUES * 4];
    size_t files_count, n;
    fp_log_entry_bytes *list; /* [ENTRIES_MAX] */
};

static bool add_entry(struct entries *e, const char *data, size_t size)
{
    if (e->n == ENTRIES_MAX)
        return false;
    e->list[e->n++] = (fp_log_entry_bytes){data, size};
    return true;
}

static fp_status read_entries(const cli_args *args, struct entries *e, bool *too_many)
{
    *too_many = args->n > sizeof e->files / sizeof e->files[0];
    for (size_t i = 0; i < args->n && !*too_many; i++) {
        char *data = NULL;
        size_t size = 0;
        fp_status status = cli_read_file(args->operands[i], FILE_MAX_BYTES, &data, &size);
        if (status != FP_OK)
            return status;
        e->files[e->files_count++] = data;
        if (!cli_has(args, "lines")) {
            *too_many = !add_entry(e, data, size);
            continue;
        }
        for (size_t at = 0; at < size && !*too_many;) {
            char *newline = memchr(data + at, '\n', size - at);
            size_t end = newline ? (size_t)(newline - data) : size;
            *too_many = !add_entry(e, data + at, end - at);
            at = end + 1;
        }
    }
    return FP_OK;
}

static int append_entries(const cli_args *args, struct entries *e)
{
    fp_key *key = NULL;
    int code;
    bool too_many = false;
    uint64_t first = 0;
    fp_log_info info;
    fp_status status = read_entries(args, e, &too_many);
    if (status != FP_OK)
        return cli_fail(status);
    if (too_many)
        return cli_usage("that is more than %d files or %d entries at once", CLI_MAX_VALUES * 4, ENTRIES_MAX);
    if (!load_key(args, &key, &code))
        return code;
    status = fp_log_append(cli_text(args, "log", NULL), cli_text(args, "origin", NULL), key, e->list, e->n,
                           &first, &info);
    fp_key_free(key);
    if (status != FP_OK)
        return cli_fail(status);
    if (args->json) {
        json_t *object = head_json(&info);
        json_object_set_new(object, "first_index", json_integer((json_int_t)first));
        json_object_set_new(object, "appended", json_integer((json_int_t)e->n));
        return cli_print_json(object);
    }
    printf("appended %zu, the first as entry %llu; the log has %llu\n", e->n, (unsigned long long)first,
           (unsigned long long)info.size);
    return 0;
}

/* Signed events, made elsewhere: each as the policy wants it, or not at all. */
static int append_events(const cli_args *args)
{
    fp_workspace *workspace;
    fp_status status = cli_open_workspace(args, &workspace);
    if (status != FP_OK)
        return cli_fail(status);
    int code = 0;
    for (size_t i = 0; i < args->n && code == 0; i++) {
        char *data = NULL;
        size_t size = 0;
        fp_event_receipt receipt;
        status = cli_read_file(args->operands[i], 1 << 20, &data, &size);
        if (status == FP_OK)
            status = fp_event_sign(workspace, data, size, &receipt);
        free(data);
        code = status == FP_OK ? cli_print_event(args, "event", &receipt) : cli_fail(status);
    }
    fp_workspace_close(workspace);
    return code;
}

static int append_main(const cli_args *args)
{
    if (!cli_has(args, "log"))
        return append_events(args);
    struct entries *e = calloc(1, sizeof *e);
    if (e)
        e->list = calloc(ENTRIES_MAX, sizeof *e->list);
    int code = e && e->list ? append_entries(args, e) : 3;
    for (size_t i = 0; e && i < e->files_count; i++)
        free(e->files[i]);
    if (e)
        free(e->list);
    free(e);
    return code;
}

/* ---- witnesses ---- */

static int print_round(const cli_args *args, const fp_log_witness *rows, size_t n, bool met)
{
    json_t *list = args->json ? json_array() : NULL;
    for (size_t i = 0; i < n; i++) {
        char when[32];
        cli_time_text(rows[i].timestamp, when);
        if (list)
            json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:I}", "name", rows[i].name, "status",
                                                  fp_status_name(rows[i].status), "detail", rows[i].detail,
                                                  "timestamp", (json_int_t)rows[i].timestamp));
        else
            printf("%-32s  %s%s%s\n", rows[i].name, rows[i].timestamp ? "cosigned " : "not cosigned",
                   rows[i].timestamp ? when : "",
                   rows[i].status == FP_OK ? "" : " (now: refused or not reached)");
        if (!list && rows[i].status != FP_OK)
            fprintf(stderr, "fieldprint: %s\n", rows[i].detail);
    }
    int code = 0;
    if (list)
        code = cli_print_json(json_pack("{s:b, s:o}", "quorum", (int)met, "witnesses", list));
    else
        printf("%s\n", met ? "a quorum of the policy has cosigned the newest checkpoint"
                           : "no quorum of the policy has cosigned the newest checkpoint");
    fflush(stdout);
    return code != 0 ? code : met ? 0 : 1;
}

static int witness_once(const cli_args *args, const fp_key *key)
{
    fp_log_witness rows[FP_LOG_WITNESSES_MAX];
    size_t n = 0;
    bool met = false;
    fp_status status;
    if (key) {
        status = fp_log_witness_round(cli_text(args, "log", NULL), cli_text(args, "origin", NULL), key,
                                      cli_text(args, "policy", NULL), rows, &n, &met);
    } else {
        fp_workspace *workspace;
        status = cli_open_workspace(args, &workspace);
        if (status == FP_OK) {
            status = fp_workspace_witness_round(workspace, cli_text(args, "policy", NULL), rows, &n, &met);
            fp_workspace_close(workspace);
        }
    }
    return status == FP_OK ? print_round(args, rows, n, met) : cli_fail(status);
}

static int witness_main(const cli_args *args)
{
    fp_key *key = NULL;
    int code = 0;
    uint64_t every = cli_number(args, "every", 0, 0, 86400);
    if (cli_has(args, "log") && !cli_has(args, "policy"))
        return cli_usage("a log by itself needs --policy FILE: who its witnesses are");
    if (cli_has(args, "log") && !load_key(args, &key, &code))
        return code;
    for (;;) {
        code = witness_once(args, key);
        for (uint64_t second = 0; second < every && !cli_interrupted; second++)
            nanosleep(&(struct timespec){.tv_sec = 1}, NULL);
        if (every == 0 || cli_interrupted)
            break;
    }
    fp_key_free(key);
    return code;
}

/* ---- tables ---- */

static const cli_option append_options[] = {
    CLI_LOG_WRITE_OPTIONS,
    {"lines", 0, NULL, "with --log: every line of a file is an entry (default: the whole file is one)"},
    CLI_WORKSPACE_OPTION,
    CLI_JSON_OPTION,
    CLI_END};
static const cli_option witness_options[] = {
    {"policy", 0, "FILE",
     "the witnesses and their quorum, c2sp.org/tlog-policy (default: the workspace's witness.policy)"},
    {"every", 0, "SECONDS", "again and again; a third of the policy's freshness is a good choice"},
    CLI_LOG_WRITE_OPTIONS,
    CLI_WORKSPACE_OPTION,
    CLI_JSON_OPTION,
    CLI_END};
static const cli_option export_options[] = {CLI_LOG_OPTIONS, CLI_WORKSPACE_OPTION, CLI_JSON_OPTION, CLI_END};

const cli_command cli_command_ledger_append = {
    "ledger append",
    "FILE...",
    1,
    CLI_MAX_VALUES * 4,
    "append signed events, or entries of any kind to a log by itself",
    "In a workspace, each file is a signed event (DSSE): the keys held here add their signatures, and it is "
    "appended when the policy is met and it would count. With --log, entries may be any bytes, at most "
    "65,535 "
    "each; all are appended or none.",
    append_options,
    append_main};
const cli_command cli_command_ledger_witness = {
    "ledger witness",
    "",
    0,
    0,
    "show the newest checkpoint to the witnesses and publish it with their cosignatures",
    "Witnesses (c2sp.org/tlog-witness) sign that the log continues the one they saw before, and when. With a "
    "file witness.policy in the workspace every append does this by itself. The exit code is 1 when no "
    "quorum is "
    "reached; a witness that saw another history is evidence of a fork.",
    witness_options,
    witness_main};
const cli_command cli_command_ledger_export = {"ledger export",
                                               "DIR",
                                               1,
                                               1,
                                               "copy the log, verified, into a new folder",
                                               "Static files (c2sp.org/tlog-tiles) for any web server. With "
                                               "--log, somebody else's log, from a folder or a "
                                               "URL.",
                                               export_options,
                                               export_main};
