#include "help.h"
#include <string.h>

static const char intro[] =
    "LLM inference with verified persistent memory: signed, logged, revocable anchors are compiled "
    "once into K/V pages, verified before use, and every answer carries a receipt that anybody can "
    "check again, bit for bit, on other hardware.";
static const char *const exit_codes[] = {
    "0  done", "1  verification failed: a gate, a hash, a signature or an audit said no", "2  usage",
    "3  environment: a missing file, device or library, or an interrupt"};
static const char *const environment[][2] = {
    {"FIELDPRINT_MODEL", "the model when -m is not given"},
    {"FIELDPRINT_WORKSPACE", "the workspace when -w is not given (default .fieldprint)"},
    {"FIELDPRINT_DEVICE", "where to compute when --device is not given: cpu, cuda, cuda:N or auto"},
    {"FIELDPRINT_KERNELS", "forces the kernels: ref, avx2, avx512, neon; changes no result"},
    {"FIELDPRINT_LOG", "error, warn (default), info or debug, on standard error"}};

static void wrap(FILE *out, const char *text, size_t indent, size_t width)
{
    size_t column = indent;
    fprintf(out, "%*s", (int)indent, "");
    while (*text) {
        size_t word = strcspn(text, " \n");
        if (column > indent && column + 1 + word > width) {
            fprintf(out, "\n%*s", (int)indent, "");
            column = indent;
        } else if (column > indent) {
            fputc(' ', out);
            column++;
        }
        fprintf(out, "%.*s", (int)word, text);
        column += word;
        text += word;
        if (*text == '\n') {
            fprintf(out, "\n%*s", (int)indent, "");
            column = indent;
        }
        text += *text != 0;
    }
    fputc('\n', out);
}

static void print_options(FILE *out, const cli_option *options)
{
    for (const cli_option *o = options; o->name; o++) {
        char left[64];
        snprintf(left, sizeof left, "%s%c%s--%s%s%s", o->letter ? "-" : " ", o->letter ? o->letter : ' ',
                 o->letter ? ", " : "  ", o->name, o->arg ? " " : "", o->arg ? o->arg : "");
        fprintf(out, "  %s\n", left);
        wrap(out, o->help, 8, 100);
    }
}

void help_command(FILE *out, const cli_command *command)
{
    fprintf(out, "usage: fieldprint %s [options] %s\n\n", command->name, command->operands);
    wrap(out, command->summary, 0, 100);
    if (command->description[0]) {
        fputc('\n', out);
        wrap(out, command->description, 0, 100);
    }
    if (command->options[0].name) {
        fputs("\noptions:\n", out);
        print_options(out, command->options);
    }
}

static void print_line(FILE *out, const cli_command *command)
{
    fprintf(out, "  %-18s %s\n", command->name, command->summary);
}

void help_all(FILE *out)
{
    fputs("usage: fieldprint COMMAND [options]\n\n", out);
    wrap(out, intro, 0, 100);
    fputs("\ncommands:\n", out);
    for (size_t i = 0; cli_commands[i]; i++)
        print_line(out, cli_commands[i]);
    fputs("\nfieldprint COMMAND --help tells the options. Exit codes:\n", out);
    for (size_t i = 0; i < 4; i++)
        fprintf(out, "  %s\n", exit_codes[i]);
    fputs("environment:\n", out);
    for (size_t i = 0; i < sizeof environment / sizeof *environment; i++)
        fprintf(out, "  %-22s %s\n", environment[i][0], environment[i][1]);
}

void help_group(FILE *out, const char *word)
{
    size_t n = strlen(word), found = 0;
    for (size_t i = 0; cli_commands[i]; i++)
        if (strncmp(cli_commands[i]->name, word, n) == 0 && cli_commands[i]->name[n] == ' ') {
            if (found++ == 0)
                fprintf(out, "fieldprint %s: which one?\n", word);
            print_line(out, cli_commands[i]);
        }
    if (found == 0)
        fprintf(out, "fieldprint: \"%s\" is not a command; fieldprint --help lists them\n", word);
}

/* ---- man page
 * ----------------------------------------------------------------------------------------------------------
 */

static void man_text(FILE *out, const char *text)
{
    for (bool start = true; *text; text++) {
        if (start && (*text == '.' || *text == '\''))
            fputs("\\&", out);
        start = *text == '\n';
        if (*text == '\\')
            fputs("\\e", out);
        else if (*text == '-')
            fputs("\\-", out);
        else
            fputc(*text, out);
    }
    fputc('\n', out);
}

static void man_command(FILE *out, const cli_command *command)
{
    fputs(".SS ", out);
    fprintf(out, "fieldprint %s [options] ", command->name);
    man_text(out, command->operands);
    man_text(out, command->summary);
    if (command->description[0]) {
        fputs(".PP\n", out);
        man_text(out, command->description);
    }
    for (const cli_option *o = command->options; o->name; o++) {
        fputs(".TP\n.B ", out);
        char left[96];
        snprintf(left, sizeof left, "%s%.1s%s--%s %s", o->letter ? "-" : "", o->letter ? &o->letter : "",
                 o->letter ? ", " : "", o->name, o->arg ? o->arg : "");
        man_text(out, left);
        man_text(out, o->help);
    }
}

void help_man(FILE *out)
{
    fprintf(out, ".TH FIELDPRINT 1 \"\" \"fieldprint %s\" \"User Commands\"\n.SH NAME\nfieldprint \\- ",
            fp_version());
    fputs("LLM inference with verified persistent memory\n.SH SYNOPSIS\n.B fieldprint\nCOMMAND "
          "[options]\n.SH DESCRIPTION\n",
          out);
    man_text(out, intro);
    fputs(".SH COMMANDS\n", out);
    for (size_t i = 0; cli_commands[i]; i++)
        man_command(out, cli_commands[i]);
    fputs(".SH EXIT STATUS\n", out);
    for (size_t i = 0; i < 4; i++) {
        fprintf(out, ".TP\n.B %.1s\n", exit_codes[i]);
        man_text(out, exit_codes[i] + 3);
    }
    fputs(".SH ENVIRONMENT\n", out);
    for (size_t i = 0; i < sizeof environment / sizeof *environment; i++) {
        fprintf(out, ".TP\n.B %s\n", environment[i][0]);
        man_text(out, environment[i][1]);
    }
}

/* ---- docs/cli.md
 * ------------------------------------------------------------------------------------------------------- */

static void markdown_command(FILE *out, const cli_command *command)
{
    fprintf(out, "\n## `fieldprint %s%s%s`\n\n", command->name, command->operands[0] ? " " : "",
            command->operands);
    fprintf(out, "%s.\n", command->summary);
    if (command->description[0])
        fprintf(out, "\n%s\n", command->description);
    if (!command->options[0].name)
        return;
    fputs("\n| option | |\n| --- | --- |\n", out);
    for (const cli_option *o = command->options; o->name; o++) {
        char letter[8] = "";
        if (o->letter)
            snprintf(letter, sizeof letter, "-%c, ", o->letter);
        fprintf(out, "| `%s--%s%s%s` | %s |\n", letter, o->name, o->arg ? " " : "", o->arg ? o->arg : "",
                o->help);
    }
}

void help_markdown(FILE *out)
{
    fprintf(
        out,
        "# Command line\n\nMade by `fieldprint help --markdown` from the same tables as `--help` and the man "
        "page.\n\n%s\n\n"
        "`fieldprint COMMAND --help` tells the options. Errors go to standard error; with `--json` an object "
        "`{\"error\": …}` goes to standard output as well. An id may be shortened while it is unique (4 "
        "digits at "
        "least).\n\n| exit code | |\n| --- | --- |\n",
        intro);
    for (size_t i = 0; i < 4; i++)
        fprintf(out, "| %.1s | %s |\n", exit_codes[i], exit_codes[i] + 3);
    fputs("\n| environment | |\n| --- | --- |\n", out);
    for (size_t i = 0; i < sizeof environment / sizeof *environment; i++)
        fprintf(out, "| `%s` | %s |\n", environment[i][0], environment[i][1]);
    for (size_t i = 0; cli_commands[i]; i++)
        markdown_command(out, cli_commands[i]);
}
