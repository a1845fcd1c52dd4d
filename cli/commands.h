/* Every subcommand; commands.c lists them in the order of --help. */
#ifndef FP_CLI_COMMANDS_H
#define FP_CLI_COMMANDS_H
#include "cli.h"
extern const cli_command cli_command_run, cli_command_model_info, cli_command_model_digest,
    cli_command_tokenize, cli_command_doctor, cli_command_audit, cli_command_receipt_show,
    cli_command_perplexity, cli_command_init, cli_command_anchor_add, cli_command_anchor_create,
    cli_command_anchor_sign, cli_command_anchor_register, cli_command_anchor_promote,
    cli_command_anchor_compile, cli_command_anchor_revoke, cli_command_anchor_list, cli_command_anchor_show,
    cli_command_anchor_import, cli_command_anchor_supersede, cli_command_key_generate, cli_command_key_show,
    cli_command_policy_create, cli_command_policy_show, cli_command_policy_propose, cli_command_event_sign,
    cli_command_ledger_init, cli_command_ledger_verify, cli_command_ledger_fsck, cli_command_ledger_show,
    cli_command_ledger_proof, cli_command_bench_speed, cli_command_bench_attention, cli_command_bench_hash,
    cli_command_bench_model, cli_command_bench_faults, cli_command_anchor_diff, cli_command_event_distrust,
    cli_command_event_endorse, cli_command_event_retract, cli_command_event_override, cli_command_event_show,
    cli_command_event_list, cli_command_override_export, cli_command_ledger_append,
    cli_command_ledger_witness, cli_command_ledger_export;

/* Shared by the bench commands. */
json_t *cli_bench_machine(const fp_bench_machine *machine);
void cli_bench_print_machine(const fp_bench_machine *machine);
#endif
