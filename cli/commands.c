#include "commands.h"
#include "cli.h"

const cli_command *const cli_commands[] = {
    &cli_command_run,        &cli_command_audit,      &cli_command_receipt_show,
    &cli_command_perplexity, &cli_command_model_info, &cli_command_model_digest,
    &cli_command_tokenize,   &cli_command_doctor,     NULL,
};
