/* --help and the man page, from the tables of the commands. */
#ifndef FP_CLI_HELP_H
#define FP_CLI_HELP_H
#include "cli.h"
void help_all(FILE *out);
void help_command(FILE *out, const cli_command *command);
/* What begins with this word, or a hint that nothing does. */
void help_group(FILE *out, const char *word);
void help_man(FILE *out);      /* fieldprint(1) in man(7) macros */
void help_markdown(FILE *out); /* docs/cli.md */
#endif
