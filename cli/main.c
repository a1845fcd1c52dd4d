/* fieldprint: finds the subcommand, reads its options, runs it. */
#include "cli.h"
#include "help.h"
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

volatile int cli_interrupted;

static void on_signal(int number)
{
    if (cli_interrupted)
        _exit(128 + number);
    cli_interrupted = number;
}

/* The command whose words the arguments begin with; the longest wins. */
static const cli_command *find_command(int argc, char **argv, int *words)
{
    const cli_command *best = NULL;
    for (size_t i = 0; cli_commands[i]; i++) {
        char name[64], *save = NULL;
        int n = 0;
        snprintf(name, sizeof name, "%s", cli_commands[i]->name);
        for (char *word = strtok_r(name, " ", &save); word; word = strtok_r(NULL, " ", &save)) {
            n = n >= 0 && n + 1 < argc && strcmp(argv[n + 1], word) == 0 ? n + 1 : -1;
            if (n < 0)
                break;
        }
        if (n > 0 && (!best || n > *words)) {
            best = cli_commands[i];
            *words = n;
        }
    }
    return best;
}

static const cli_option *find_option(const cli_command *command, const char *name, size_t size, char letter)
{
    for (const cli_option *o = command->options; o->name; o++)
        if (letter ? o->letter == letter : strlen(o->name) == size && memcmp(o->name, name, size) == 0)
            return o;
    return NULL;
}

/* One option at argv[i]; returns how many arguments it took, 0 after an error. */
static int read_option(cli_args *args, int argc, char **argv, int i)
{
    const char *text = argv[i], *value = NULL;
    const cli_option *o;
    if (text[1] == '-') {
        const char *equals = strchr(text, '=');
        size_t size = equals ? (size_t)(equals - text - 2) : strlen(text + 2);
        o = find_option(args->command, text + 2, size, 0);
        value = equals ? equals + 1 : NULL;
    } else {
        o = find_option(args->command, "", 0, text[1]);
        value = text[2] ? text + 2 : NULL;
    }
    if (!o) {
        (void)cli_usage("%s: no such option; see fieldprint %s --help", text, args->command->name);
        return 0;
    }
    int used = 1;
    if (o->arg && !value) {
        if (i + 1 >= argc) {
            (void)cli_usage("%s needs a %s", text, o->arg);
            return 0;
        }
        value = argv[i + 1];
        used = 2;
    } else if (!o->arg && value) {
        (void)cli_usage("%s takes no value", text);
        return 0;
    }
    cli_values *v = &args->values[o - args->command->options];
    if (v->n == CLI_MAX_VALUES) {
        (void)cli_usage("--%s is given more than %d times", o->name, CLI_MAX_VALUES);
        return 0;
    }
    v->value[v->n++] = value ? value : "";
    return used;
}

static int run_command(const cli_command *command, int argc, char **argv)
{
    size_t options = 0;
    while (command->options[options].name)
        options++;
    cli_args args = {.command = command};
    args.values = calloc(options + 1, sizeof *args.values);
    args.operands = calloc((size_t)argc + 1, sizeof *args.operands);
    int code = -1;
    if (!args.values || !args.operands) {
        fputs("fieldprint: no memory\n", stderr);
        code = 3;
    }
    bool only_operands = false;
    for (int i = 0; i < argc && code < 0;) {
        if (!only_operands && strcmp(argv[i], "--help") == 0) {
            help_command(stdout, command);
            code = 0;
        } else if (!only_operands && strcmp(argv[i], "--") == 0) {
            only_operands = true;
            i++;
        } else if (!only_operands && argv[i][0] == '-' && argv[i][1]) {
            cli_json |= strcmp(argv[i], "--json") == 0;
            int used = read_option(&args, argc, argv, i);
            code = used ? -1 : 2;
            i += used;
        } else {
            args.operands[args.n++] = argv[i++];
        }
    }
    args.json = args.values && cli_has(&args, "json");
    if (code < 0 && (args.n < command->min_operands || args.n > command->max_operands))
        code = cli_usage("usage: fieldprint %s [options] %s   (--help tells more)", command->name,
                         command->operands);
    if (code < 0)
        code = command->run(&args);
    free(args.values);
    free(args.operands);
    return code;
}

static int show_help(int argc, char **argv)
{
    int words = 0;
    const cli_command *command = argc > 2 ? find_command(argc - 1, argv + 1, &words) : NULL;
    if (command)
        help_command(stdout, command);
    else if (argc > 2 && strcmp(argv[2], "--man") == 0)
        help_man(stdout);
    else if (argc > 2 && strcmp(argv[2], "--markdown") == 0)
        help_markdown(stdout);
    else
        help_all(argc < 2 ? stderr : stdout);
    return argc < 2 ? 2 : 0;
}

int main(int argc, char **argv)
{
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    signal(SIGPIPE, SIG_IGN); /* a write that fails is told, not died of */
    signal(SIGXFSZ, SIG_IGN);
    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "help") == 0)
        return show_help(argc, argv);
    if (strcmp(argv[1], "--version") == 0) {
        printf("fieldprint %s\n", fp_version());
        return 0;
    }
    int words = 0;
    const cli_command *command = find_command(argc, argv, &words);
    if (!command) {
        help_group(stderr, argv[1]);
        return 2;
    }
    return run_command(command, argc - 1 - words, argv + 1 + words);
}
