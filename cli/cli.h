/* What the subcommands share: options from one table (that --help and the man page are made from too), errors
 * with exit codes, JSON, progress, Ctrl-C. */
#ifndef FP_CLI_CLI_H
#define FP_CLI_CLI_H
#include "fieldprint/fieldprint.h"
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

enum { CLI_MAX_VALUES = 64 };

typedef struct cli_option {
    const char *name; /* without "--"; NULL ends the table */
    char letter;      /* 0: none */
    const char *arg;  /* name of the argument; NULL: a flag */
    const char *help;
} cli_option;

typedef struct cli_values {
    const char *value[CLI_MAX_VALUES];
    size_t n; /* times given; flags count too */
} cli_values;

typedef struct cli_args {
    const struct cli_command *command;
    cli_values *values;    /* [options], in table order */
    const char **operands; /* [n] */
    size_t n;
    bool json;
} cli_args;

typedef struct cli_command {
    const char *name;     /* "anchor create" */
    const char *operands; /* "FILE", "ID...", "" */
    size_t min_operands, max_operands;
    const char *summary;     /* one line */
    const char *description; /* paragraphs, for --help and the man page */
    const cli_option *options;
    int (*run)(const cli_args *args); /* exit code */
} cli_command;

/* Values by the option's name; the last one given counts. */
bool cli_has(const cli_args *args, const char *name);
const char *cli_text(const cli_args *args, const char *name, const char *fallback);
const cli_values *cli_all(const cli_args *args, const char *name);
/* Out of range or not a number: says so and exits with 2. */
uint64_t cli_number(const cli_args *args, const char *name, uint64_t fallback, uint64_t min, uint64_t max);
double cli_real(const cli_args *args, const char *name, double fallback, double min, double max);
/* A γ in 0..1 as 1/65536. */
uint32_t cli_gamma(const cli_args *args, const char *name);

/* Prints the failure (as JSON on stdout too, with --json) and gives its exit code. */
int cli_fail(fp_status status);
int cli_usage(const char *format, ...) FP_PRINTF(1, 2); /* prints (as cli_fail does), returns 2 */
/* The same for failures of the program's own, which the library knows nothing of: the status' exit code. */
int cli_error(fp_status status, const char *format, ...) FP_PRINTF(2, 3);
extern bool cli_json; /* --json was given: errors are printed as an object too */
/* Prints the object to stdout, one line; takes it. Returns 0, or 3 when stdout cannot be written. */
int cli_print_json(json_t *object);
json_t *cli_hex(const uint8_t *bytes, size_t n);
void cli_hex_text(const uint8_t *bytes, size_t n, char *out); /* 2n + 1 chars */
bool cli_hex_bytes(const char *text, uint8_t *out, size_t n); /* exactly 2n digits */
void cli_time_text(uint64_t seconds, char out[32]);           /* 2026-01-31T12:00:00Z, or "-" for ever */

/* Progress bar on stderr, if it is a terminal and the work takes over a second. */
typedef struct cli_progress {
    const char *label;
    uint64_t start_ns, last_ns;
    bool shown;
} cli_progress;
void cli_progress_start(cli_progress *p, const char *label);
void cli_progress_update(void *p, double done); /* fits the library's callbacks */
void cli_progress_end(cli_progress *p);

extern volatile int cli_interrupted; /* set by SIGINT and SIGTERM; a second one ends the program */
uint64_t cli_now_ns(void);
/* Whole file, or standard input for "-"; free(*data). */
fp_status cli_read_file(const char *path, size_t max, char **data, size_t *size) FP_WARN_UNUSED;

/* ---- pieces of several commands ---- */
#define CLI_MODEL_OPTIONS                                                                                    \
    {"model", 'm', "FILE", "the model, a GGUF file (default: $FIELDPRINT_MODEL)"},                           \
        {"threads", 't', "N", "threads (default: one per core)"},                                            \
    {                                                                                                        \
        "template", 0, "NAME", "chat template, instead of the one recognised in the file"                    \
    }
#define CLI_DEVICE_OPTION                                                                                    \
    {                                                                                                        \
        "device", 0, "D",                                                                                    \
            "where to compute: cpu, cuda, cuda:N, or auto: a GPU if one can be used; changes "               \
            "no result (default: $FIELDPRINT_DEVICE, else cpu)"                                              \
    }
#define CLI_ENGINE_OPTIONS                                                                                   \
    CLI_DEVICE_OPTION,                                                                                       \
        {"ctx", 'c', "N", "context size in tokens, anchors included (default: the model's, at most 8192)"},  \
        {"chunk", 0, "N", "prompt tokens per step (default 512, on a GPU 2048); changes no result"},         \
        {"validate", 0, "LEVEL",                                                                             \
         "what is checked beside the answer: hash (default), scrub, replay or replay:SHARE"},                \
        {"window", 0, "N", "most pages of an answer that are not yet checked (default 8)"},                  \
        {"scrub-pages", 0, "MIB", "MiB of K/V pages read again per second (default 8)"},                     \
        {"scrub-weights", 0, "MIB", "MiB of packed weights read again per second (default 64)"},             \
    {                                                                                                        \
        "hash-threads", 0, "N", "workers that hash sealed pages (default 1; 0 hashes in the token loop)"     \
    }
#define CLI_WORKSPACE_OPTION                                                                                 \
    {                                                                                                        \
        "workspace", 'w', "DIR", "workspace folder (default: $FIELDPRINT_WORKSPACE, else .fieldprint)"       \
    }
#define CLI_JSON_OPTION                                                                                      \
    {                                                                                                        \
        "json", 0, NULL, "print one JSON object instead of text"                                             \
    }
#define CLI_END                                                                                              \
    {                                                                                                        \
        NULL, 0, NULL, NULL                                                                                  \
    }

const char *cli_model_path(const cli_args *args); /* NULL after saying what is missing */
fp_status cli_open_model(const cli_args *args, bool metadata_only, fp_model **out) FP_WARN_UNUSED;
/* Options from --device, --threads, --ctx, --chunk, --hash-threads; cancel is cli_interrupted. */
void cli_engine_options(const cli_args *args, fp_engine_options *out);
fp_status cli_open_workspace(const cli_args *args, fp_workspace **out) FP_WARN_UNUSED;
fp_status cli_find_anchor(fp_workspace *workspace, const char *text, uint8_t id[32]) FP_WARN_UNUSED;

/* From here on what this workspace signs is shown on standard error first (not with --json). */
void cli_show_signing(const cli_args *args, fp_workspace *workspace);
/* Where an event went, as text or JSON; `what` names it. Exit code. */
int cli_print_event(const cli_args *args, const char *what, const fp_event_receipt *event);
/* A receipt as a person names it: a file, or an id (or its unique beginning, of 4 digits or more) in the
 * workspace. false after saying what is wrong. */
bool cli_receipt_path(const cli_args *args, const char *text, char *out, size_t size);

extern const cli_command *const cli_commands[]; /* NULL-ended; commands.c */
#endif
