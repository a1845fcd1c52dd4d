/* Logs by themselves: the --log side of the ledger commands. */
#ifndef FP_CLI_CMD_LOG_H
#define FP_CLI_CMD_LOG_H
#include "cli.h"

#define CLI_LOG_OPTIONS                                                                                      \
    {"log", 0, "PLACE", "a log by itself, in a folder or at a URL (default: the workspace's)"},              \
        {"vkey", 0, "KEY", "its verifier key, name+id+key (default: the policy's, if it names one log)"},    \
        {"policy", 0, "FILE", "its trust policy, c2sp.org/tlog-policy: witnesses and their quorum"},         \
    {                                                                                                        \
        "state", 0, "FILE",                                                                                  \
            "remember the newest checkpoint here, and refuse a log that does not continue it"                \
    }
#define CLI_LOG_WRITE_OPTIONS                                                                                \
    {"log", 0, "DIR", "a log by itself (default: the workspace's)"},                                         \
        {"key", 0, "FILE", "with --log: the private key that signs it, PEM"},                                \
    {                                                                                                        \
        "origin", 0, "NAME", "with --log: its name"                                                          \
    }

bool log_is_meant(const cli_args *args); /* --log or --vkey is given */
fp_status log_open(const cli_args *args, fp_log **out) FP_WARN_UNUSED;
int log_verify(const cli_args *args); /* also a proof by itself */
fp_status log_fsck(const cli_args *args, fp_ledger_report *report) FP_WARN_UNUSED;
int log_init(const cli_args *args);
#endif
