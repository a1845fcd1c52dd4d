/* fieldprint init, key …, policy …: a workspace at once, or step by step. */
#include "commands.h"
#include <stdlib.h>
#include <string.h>

static const cli_option plain_options[] = {CLI_WORKSPACE_OPTION, CLI_JSON_OPTION, CLI_END};

/* ---- init ---- */

static const cli_option init_options[] = {
    {"holder", 0, "NAME", "who holds the keys (default operator)"},
    {"origin", 0, "NAME", "name of the ledger (default: one made up, unique)"},
    CLI_WORKSPACE_OPTION,
    CLI_JSON_OPTION,
    CLI_END,
};

static int init_main(const cli_args *args)
{
    const char *path = cli_text(args, "workspace", NULL);
    fp_workspace *workspace;
    fp_workspace_info info;
    fp_status status =
        fp_workspace_init(path, cli_text(args, "holder", NULL), cli_text(args, "origin", NULL));
    if (status == FP_OK)
        status = fp_workspace_open(path, NULL, &workspace);
    if (status != FP_OK)
        return cli_fail(status);
    status = fp_workspace_get_info(workspace, &info);
    int code = status == FP_OK ? 0 : cli_fail(status);
    if (code == 0 && args->json)
        code = cli_print_json(json_pack("{s:s, s:s, s:s, s:I}", "workspace", info.path, "origin", info.origin,
                                        "trust", info.trust_path, "tree_size", (json_int_t)info.tree_size));
    else if (code == 0)
        printf("workspace %s\n"
               "  keys/        one key for each purpose; keep them private\n"
               "  trust.json   the root of trust: give it to auditors\n"
               "  policy.json  one holder may do everything; see fieldprint policy show\n"
               "  ledger/      log \"%s\", %llu entry\n"
               "next: fieldprint anchor add FILE -m MODEL\n",
               info.path, info.origin, (unsigned long long)info.tree_size);
    fp_workspace_close(workspace);
    return code;
}

/* ---- key ---- */

static const cli_option key_options[] = {
    {"holder", 0, "NAME", "who holds the keys (default operator)"},
    {"purpose", 0, "PURPOSE",
     "make the key for this purpose only; may be repeated (default: all but override): policy, author, "
     "register, promote, compiler, revoke, distrust, endorse, override, engine, log"},
    CLI_WORKSPACE_OPTION,
    CLI_JSON_OPTION,
    CLI_END,
};

static int print_keys(const cli_args *args, const char *only_holder, uint32_t purposes)
{
    fp_key_row *rows = NULL;
    size_t n = 0;
    fp_status status = fp_keys_list(cli_text(args, "workspace", NULL), &rows, &n);
    if (status != FP_OK)
        return cli_fail(status);
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++) {
        char hex[65];
        cli_hex_text(rows[i].public_key, 32, hex);
        if ((only_holder && strcmp(rows[i].holder, only_holder) != 0) || !(purposes >> rows[i].purpose & 1))
            continue;
        if (args->json)
            json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:s}", "holder", rows[i].holder, "purpose",
                                                  fp_purpose_name(rows[i].purpose), "public", hex, "keyid",
                                                  rows[i].keyid));
        else
            printf("%-16s  %-9s  %s\n", rows[i].holder, fp_purpose_name(rows[i].purpose), hex);
    }
    free(rows);
    if (args->json)
        return cli_print_json(json_pack("{s:o}", "keys", list));
    json_decref(list);
    return 0;
}

static int key_generate_main(const cli_args *args)
{
    const cli_values *names = cli_all(args, "purpose");
    const char *holder = cli_text(args, "holder", "operator");
    uint32_t purposes = 0;
    for (size_t i = 0; i < names->n; i++) {
        fp_purpose purpose;
        fp_status status = fp_purpose_parse(names->value[i], &purpose);
        if (status != FP_OK)
            return cli_fail(status);
        purposes |= 1u << purpose;
    }
    fp_status status = fp_keys_generate(cli_text(args, "workspace", NULL), holder, purposes);
    if (status != FP_OK)
        return cli_fail(status);
    uint32_t made = purposes ? purposes : ~(1u << FP_PURPOSE_OVERRIDE);
    return print_keys(args, holder, made);
}

static int key_show_main(const cli_args *args)
{
    return print_keys(args, NULL, UINT32_MAX);
}

/* ---- policy ---- */

static const cli_option policy_options[] = {
    {"origin", 0, "NAME", "name of the ledger (default: one made up, unique)"},
    {"threshold", 0, "N", "how many holders must agree in each role (default 1)"},
    {"log-holder", 0, "NAME", "whose log key signs the ledger (default: the first who holds one)"},
    {"witnesses", 0, "FILE",
     "demand their cosignatures: a tlog-policy file that names witnesses and a quorum of k of them"},
    {"freshness", 0, "SECONDS", "how old the witnesses' cosignatures may be (default: any age)"},
    CLI_WORKSPACE_OPTION,
    CLI_JSON_OPTION,
    CLI_END,
};

static int policy_create_main(const cli_args *args)
{
    const char *path = fp_workspace_default_path(cli_text(args, "workspace", NULL));
    fp_policy_options options = {.origin = cli_text(args, "origin", NULL),
                                 .threshold = (uint32_t)cli_number(args, "threshold", 1, 1, 64),
                                 .log_holder = cli_text(args, "log-holder", NULL),
                                 .witness_policy_path = cli_text(args, "witnesses", NULL),
                                 .freshness_seconds =
                                     (uint64_t)cli_number(args, "freshness", 0, 0, 31536000)};
    fp_status status = fp_policy_create(path, &options);
    if (status != FP_OK)
        return cli_fail(status);
    if (args->json) {
        char policy[1024], trust[1024];
        snprintf(policy, sizeof policy, "%s/policy.json", path);
        snprintf(trust, sizeof trust, "%s/trust.json", path);
        return cli_print_json(json_pack("{s:s, s:s}", "policy", policy, "trust", trust));
    }
    printf("%s/policy.json  who may do what; look at it before you go on\n"
           "%s/trust.json   the root of trust: give it to auditors, outside of the log\n"
           "next: fieldprint ledger init\n",
           path, path);
    return 0;
}

static int policy_show_main(const cli_args *args)
{
    fp_workspace *workspace;
    fp_workspace_info info = {0};
    uint8_t *data = NULL;
    size_t size = 0;
    fp_status status = cli_open_workspace(args, &workspace);
    if (status != FP_OK)
        return cli_fail(status);
    status = fp_policy_get(workspace, &data, &size);
    if (status == FP_OK && (status = fp_workspace_get_info(workspace, &info)) != FP_OK)
        fp_bytes_free(data);
    int code = status == FP_OK ? 0 : cli_fail(status);
    if (code == 0) {
        json_t *policy = json_loadb((const char *)data, size, 0, NULL);
        char *text = json_dumps(policy, JSON_INDENT(2)), hex[65];
        cli_hex_text(info.policy_digest, 32, hex);
        if (args->json)
            code = cli_print_json(json_pack("{s:s, s:I, s:O}", "digest", hex, "index",
                                            (json_int_t)info.policy_index, "policy", policy));
        else
            printf("policy %s, in force since entry %llu of the ledger\n%s\n", hex,
                   (unsigned long long)info.policy_index, text ? text : "");
        free(text);
        json_decref(policy);
        fp_bytes_free(data);
    }
    fp_workspace_close(workspace);
    return code;
}

enum { MAX_FILE = 1 << 20 };

/* A file becomes an event: a new policy, or a pending event that gets the signatures of the keys held here.
 */
static int submit_file(const cli_args *args, const char *what,
                       fp_status submit(fp_workspace *, const void *, size_t, fp_event_receipt *))
{
    fp_workspace *workspace;
    fp_event_receipt receipt;
    char *data;
    size_t size;
    fp_status status = cli_read_file(args->operands[0], MAX_FILE, &data, &size);
    if (status != FP_OK)
        return fp_status_exit_code(status);
    status = cli_open_workspace(args, &workspace);
    if (status == FP_OK) {
        cli_show_signing(args, workspace);
        status = submit(workspace, data, size, &receipt);
        fp_workspace_close(workspace);
    }
    free(data);
    return status == FP_OK ? cli_print_event(args, what, &receipt) : cli_fail(status);
}

static int policy_propose_main(const cli_args *args)
{
    return submit_file(args, "policy", fp_policy_propose);
}

static int event_sign_main(const cli_args *args)
{
    return submit_file(args, "sign", fp_event_sign);
}

const cli_command cli_command_init = {
    "init",
    "",
    0,
    0,
    "make a workspace: keys, policy, trust file and ledger",
    "One holder gets a key for each purpose and may do everything alone; the policy says so and can be "
    "changed later. It is key generate, policy create and ledger init at once.",
    init_options,
    init_main};
const cli_command cli_command_key_generate = {
    "key generate",
    "",
    0,
    0,
    "make the keys of one holder, one for each purpose",
    "The keys (Ed25519, PEM) go to keys/HOLDER/PURPOSE.pem of the workspace, readable by you alone. A key "
    "has one purpose, and thresholds count holders.",
    key_options,
    key_generate_main};
const cli_command cli_command_key_show = {"key show",    "",           0, 0, "the keys held here", "",
                                          plain_options, key_show_main};
const cli_command cli_command_policy_create = {
    "policy create",
    "",
    0,
    0,
    "write a first policy and the trust file, from the keys held here",
    "policy.json says who may do what and how many must agree; trust.json pins its digest and the key of the "
    "ledger. With --witnesses both demand that the ledger is witnessed, and the file is kept as "
    "witness.policy: "
    "every append is then shown to them. Nothing is in force until fieldprint ledger init.",
    policy_options,
    policy_create_main};
const cli_command cli_command_policy_show = {
    "policy show", "", 0, 0, "the policy in force, as logged", "", plain_options, policy_show_main};
const cli_command cli_command_policy_propose = {
    "policy propose",
    "FILE",
    1,
    1,
    "log a new policy",
    "Its number must be one more, and its field previous the digest of the policy in force. The policy role "
    "of the old one and every new key sign it.",
    plain_options,
    policy_propose_main};
const cli_command cli_command_event_sign = {
    "event sign",
    "FILE",
    1,
    1,
    "add your signatures to a pending event, and log it when enough have signed",
    "Where a policy wants several holders, an event waits in pending/ of the workspace; pass the file on.",
    plain_options,
    event_sign_main};
