#include "cli.h"
#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* ---- values
 * -------------------------------------------------------------------------------------------------------- */

const cli_values *cli_all(const cli_args *args, const char *name)
{
    static const cli_values none;
    for (size_t i = 0; args->command->options[i].name; i++)
        if (strcmp(args->command->options[i].name, name) == 0)
            return &args->values[i];
    return &none;
}

bool cli_has(const cli_args *args, const char *name)
{
    return cli_all(args, name)->n > 0;
}

const char *cli_text(const cli_args *args, const char *name, const char *fallback)
{
    const cli_values *v = cli_all(args, name);
    return v->n ? v->value[v->n - 1] : fallback;
}

uint64_t cli_number(const cli_args *args, const char *name, uint64_t fallback, uint64_t min, uint64_t max)
{
    const char *text = cli_text(args, name, NULL);
    char *end;
    if (!text)
        return fallback;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    if (errno || *end || end == text || text[0] == '-' || v < min || v > max)
        exit(cli_usage("--%s %s: a whole number from %llu to %llu is wanted", name, text,
                       (unsigned long long)min, (unsigned long long)max));
    return v;
}

double cli_real(const cli_args *args, const char *name, double fallback, double min, double max)
{
    const char *text = cli_text(args, name, NULL);
    char *end;
    if (!text)
        return fallback;
    double v = strtod(text, &end);
    if (*end || end == text || !(v >= min && v <= max))
        exit(cli_usage("--%s %s: a number from %g to %g is wanted", name, text, min, max));
    return v;
}

uint32_t cli_gamma(const cli_args *args, const char *name)
{
    return (uint32_t)lrint(cli_real(args, name, 0, 0, 1) * 65536);
}

/* ---- output
 * ---------------------------------------------------------------------------------------------------------
 */

bool cli_json;

static int complain(fp_status status, const char *detail)
{
    fprintf(stderr, "fieldprint: %s\n", detail);
    if (cli_json)
        (void)cli_print_json(
            json_pack("{s:{s:s, s:s}}", "error", "status", fp_status_name(status), "detail", detail));
    return fp_status_exit_code(status);
}

int cli_error(fp_status status, const char *format, ...)
{
    char detail[2048];
    va_list list;
    va_start(list, format);
    vsnprintf(detail, sizeof detail, format, list);
    va_end(list);
    return complain(status, detail);
}

int cli_usage(const char *format, ...)
{
    char detail[2048];
    va_list list;
    va_start(list, format);
    vsnprintf(detail, sizeof detail, format, list);
    va_end(list);
    return complain(FP_USAGE, detail);
}

int cli_fail(fp_status status)
{
    const char *detail = fp_error_detail();
    return complain(status, detail[0] ? detail : fp_status_text(status));
}

int cli_print_json(json_t *object)
{
    char *text = object ? json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(17)) : NULL;
    json_decref(object);
    int bad = !text || puts(text) < 0 || fflush(stdout) != 0;
    free(text);
    if (bad)
        fprintf(stderr, "fieldprint: cannot write the result: %s\n", strerror(errno));
    return bad ? 3 : 0;
}

void cli_hex_text(const uint8_t *bytes, size_t n, char *out)
{
    for (size_t i = 0; i < n; i++)
        sprintf(out + 2 * i, "%02x", bytes[i]);
    out[2 * n] = 0;
}

bool cli_hex_bytes(const char *text, uint8_t *out, size_t n)
{
    static const char digits[] = "0123456789abcdef0123456789ABCDEF";
    for (size_t i = 0; i < 2 * n; i++) {
        const char *at = text[i] ? strchr(digits, text[i]) : NULL;
        if (!at)
            return false;
        unsigned v = (unsigned)(at - digits) % 16;
        out[i / 2] = (uint8_t)(i % 2 ? out[i / 2] | v : v << 4);
    }
    return text[2 * n] == 0;
}

json_t *cli_hex(const uint8_t *bytes, size_t n)
{
    char text[129] = "";
    if (n <= 64)
        cli_hex_text(bytes, n, text);
    return json_string(text);
}

void cli_time_text(uint64_t seconds, char out[32])
{
    time_t t = (time_t)seconds;
    struct tm tm;
    if (seconds >= FP_TIME_FOREVER || !gmtime_r(&t, &tm) || strftime(out, 32, "%Y-%m-%dT%H:%M:%SZ", &tm) == 0)
        snprintf(out, 32, "-");
}

uint64_t cli_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

void cli_progress_start(cli_progress *p, const char *label)
{
    *p = (cli_progress){.label = label, .start_ns = cli_now_ns()};
}

void cli_progress_update(void *context, double done)
{
    cli_progress *p = context;
    uint64_t now = cli_now_ns();
    if (!isatty(STDERR_FILENO) || now - p->start_ns < 1000000000u || now - p->last_ns < 100000000u)
        return;
    int filled = (int)(done * 40);
    fprintf(stderr, "\r%-18s [%.*s%.*s] %3d %%", p->label, filled, "########################################",
            40 - filled, "........................................", (int)(done * 100));
    p->last_ns = now;
    p->shown = true;
}

void cli_progress_end(cli_progress *p)
{
    if (p->shown)
        fputs("\r\033[K", stderr);
    p->shown = false;
}

/* ---- input
 * ------------------------------------------------------------------------------------------------------------
 */

fp_status cli_read_file(const char *path, size_t max, char **data, size_t *size)
{
    bool standard = strcmp(path, "-") == 0;
    FILE *f = standard ? stdin : fopen(path, "rb");
    if (!f) {
        fp_status status = errno == ENOENT ? FP_NOT_FOUND : FP_IO;
        (void)cli_error(status, "cannot open %s: %s", path, strerror(errno));
        return status;
    }
    size_t capacity = 1 << 16, n = 0, got = 0;
    char *buffer = malloc(capacity + 1);
    while (buffer && (got = fread(buffer + n, 1, capacity - n, f)) > 0) {
        n += got;
        if (n > max)
            break;
        if (n == capacity) {
            char *larger = realloc(buffer, (capacity *= 2) + 1);
            if (!larger)
                free(buffer);
            buffer = larger;
        }
    }
    bool failed = !buffer || ferror(f) != 0;
    if (!standard)
        fclose(f);
    if (failed || n > max) {
        fp_status status = failed ? FP_IO : FP_LIMIT;
        (void)cli_error(status, "%s: %s", path, failed ? "cannot be read" : "the file is too large");
        free(buffer);
        return status;
    }
    buffer[n] = 0;
    *data = buffer;
    *size = n;
    return FP_OK;
}

/* ---- model, engine, workspace
 * ------------------------------------------------------------------------------------------- */

const char *cli_model_path(const cli_args *args)
{
    const char *path = cli_text(args, "model", getenv("FIELDPRINT_MODEL"));
    if (!path || !path[0]) {
        (void)cli_usage("which model? Give -m FILE.gguf or set FIELDPRINT_MODEL (`make model` fetches a "
                        "small one and prints its path)");
        return NULL;
    }
    return path;
}

fp_status cli_open_model(const cli_args *args, bool metadata_only, fp_model **out)
{
    cli_progress progress;
    cli_progress_start(&progress, "loading model");
    fp_model_options options = {.threads = (size_t)cli_number(args, "threads", 0, 0, 1024),
                                .chat_template = cli_text(args, "template", NULL),
                                .progress = cli_progress_update,
                                .progress_context = &progress,
                                .metadata_only = metadata_only};
    fp_status status = fp_model_open(cli_model_path(args), &options, out);
    cli_progress_end(&progress);
    return status;
}

void cli_engine_options(const cli_args *args, fp_engine_options *out)
{
    uint64_t hash = cli_number(args, "hash-threads", 1, 0, 64);
    const char *device = cli_text(args, "device", getenv("FIELDPRINT_DEVICE"));
    *out = (fp_engine_options){.device = device && device[0] ? device : NULL,
                               .threads = (size_t)cli_number(args, "threads", 0, 0, 1024),
                               .context_tokens = (size_t)cli_number(args, "ctx", 0, 0, 1 << 24),
                               .chunk_tokens = (size_t)cli_number(args, "chunk", 0, 1, 8192),
                               .hash_threads = hash ? (size_t)hash : SIZE_MAX,
                               .window_pages = (size_t)cli_number(args, "window", 0, 1, 4096),
                               .scrub_page_bytes_per_s = cli_number(args, "scrub-pages", 0, 1, 1 << 20) << 20,
                               .scrub_weight_bytes_per_s = cli_number(args, "scrub-weights", 0, 1, 1 << 20)
                                                           << 20,
                               .cancel = &cli_interrupted};
    if (fp_validation_parse(cli_text(args, "validate", "hash"), &out->validation, &out->replay_65536) !=
        FP_OK)
        exit(cli_usage("--validate %s", fp_error_detail()));
}

fp_status cli_open_workspace(const cli_args *args, fp_workspace **out)
{
    return fp_workspace_open(cli_text(args, "workspace", NULL), NULL, out);
}

fp_status cli_find_anchor(fp_workspace *workspace, const char *text, uint8_t id[32])
{
    return fp_anchor_find(workspace, text, id);
}

bool cli_receipt_path(const cli_args *args, const char *text, char *out, size_t size)
{
    static const char suffix[] = ".dsse.json";
    size_t n = strlen(text), found = 0;
    char folder[1024];
    snprintf(folder, sizeof folder, "%s/receipts",
             fp_workspace_default_path(cli_text(args, "workspace", NULL)));
    snprintf(out, size, "%s", text);
    if (access(text, F_OK) == 0 || n < 4 || n > 64 || strspn(text, "0123456789abcdef") != n)
        return true; /* a file; reading it says what is wrong with it */
    DIR *dir = opendir(folder);
    for (struct dirent *entry; dir && (entry = readdir(dir)) != NULL;)
        if (strncmp(entry->d_name, text, n) == 0 && strlen(entry->d_name) == 64 + sizeof suffix - 1 &&
            strcmp(entry->d_name + 64, suffix) == 0) {
            snprintf(out, size, "%s/%s", folder, entry->d_name);
            found++;
        }
    if (dir)
        closedir(dir);
    if (found > 1)
        (void)cli_usage("%s begins the ids of %zu receipts in %s: give more digits", text, found, folder);
    else if (found == 0)
        (void)cli_usage("%s is neither a file nor the beginning of a receipt's id in %s", text, folder);
    return found == 1;
}
