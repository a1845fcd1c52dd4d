#include "core/error.h"
#include "core/bytes.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

enum { DETAIL_SIZE = 1024 };
static _Thread_local char thread_detail[DETAIL_SIZE];

static const struct {
    const char *name, *text;
    int exit_code;
} status_table[] = {
#define STATUS_ROW(status_name, status_exit, status_text) {#status_name, status_text, status_exit},
    FP_STATUS_TABLE(STATUS_ROW)
#undef STATUS_ROW
};
_Static_assert(sizeof status_table / sizeof status_table[0] == FP_STATUS_COUNT, "one row per status");

static bool status_known(fp_status status)
{
    return (unsigned)status < FP_STATUS_COUNT;
}

const char *fp_status_name(fp_status status)
{
    return status_known(status) ? status_table[status].name : "UNKNOWN";
}

const char *fp_status_text(fp_status status)
{
    return status_known(status) ? status_table[status].text : "unknown status";
}

int fp_status_exit_code(fp_status status)
{
    return status_known(status) ? status_table[status].exit_code : 3;
}

const char *fp_error_detail(void)
{
    return thread_detail;
}

const char *fp_version(void)
{
    return FIELDPRINT_VERSION;
}

/* Details quote paths and names from untrusted files and go to terminals and into JSON: control bytes and
 * ill-formed UTF-8 become '?'. A sequence that the size limit cut in two is dropped. */
static void detail_set(char *text, size_t size)
{
    size = fp__utf8_complete(text, size);
    for (size_t from = 0, bad; !fp__utf8_valid(text + from, size - from, &bad);) {
        from += bad;
        text[from] = '?';
    }
    for (size_t i = 0; i < size; i++) {
        unsigned char c = (unsigned char)text[i];
        if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7f)
            text[i] = '?';
    }
    memcpy(thread_detail, text, size);
    thread_detail[size] = 0;
}

/* vsnprintf's result as the number of bytes it stored in a buffer of `capacity`. */
static size_t stored(int printed, size_t capacity)
{
    if (printed < 0)
        return 0;
    return (size_t)printed < capacity ? (size_t)printed : capacity - 1;
}

/* The parentheses keep the macros of the same names away. */
fp_status(fp__fail)(fp_status status, const char *format, ...)
{
    FP_CHECK(status != FP_OK && status_known(status));
    char text[DETAIL_SIZE]; /* formatted here first: an argument may be the current detail */
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    detail_set(text, stored(n, sizeof text));
    return status;
}

fp_status(fp__fail_context)(fp_status status, const char *format, ...)
{
    FP_CHECK(status != FP_OK && status_known(status));
    char text[DETAIL_SIZE];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    size_t size = stored(n, sizeof text);
    n = snprintf(text + size, sizeof text - size, ": %s", thread_detail);
    size += stored(n, sizeof text - size);
    detail_set(text, size);
    return status;
}

_Noreturn void fp__check_failed(const char *file, int line, const char *condition)
{
    fprintf(stderr, "fieldprint: internal error: %s:%d: check failed: %s\n", file, line, condition);
    abort();
}
