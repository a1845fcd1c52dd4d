#include "core/trace.h"
#include "core/bytes.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const char *const level_names[] = {"error", "warn", "info", "debug"};
enum { LEVELS = sizeof level_names / sizeof level_names[0] };
static fp__trace_level chosen = FP__TRACE_WARN;
static pthread_once_t chosen_once = PTHREAD_ONCE_INIT;

static void choose(void)
{
    const char *wanted = getenv("FIELDPRINT_LOG");
    if (!wanted || !*wanted)
        return;
    for (size_t i = 0; i < LEVELS; i++) {
        if (strcmp(wanted, level_names[i]) == 0) {
            chosen = (fp__trace_level)i;
            return;
        }
    }
    fprintf(stderr, "fieldprint: warn: FIELDPRINT_LOG is \"%s\"; it must be error, warn, info or debug\n",
            wanted);
}

int fp__trace_on(fp__trace_level level)
{
    pthread_once(&chosen_once, choose);
    return level <= chosen;
}

void fp__trace(fp__trace_level level, const char *format, ...)
{
    if (!fp__trace_on(level))
        return;
    char line[2048];
    size_t room = sizeof line - 1; /* for the newline */
    int n = snprintf(line, room, "fieldprint: %s: ", level_names[level]);
    size_t size = (size_t)n;
    va_list args;
    va_start(args, format);
    n = vsnprintf(line + size, room - size, format, args);
    va_end(args);
    if (n > 0)
        size = (size_t)n < room - size ? size + (size_t)n : room - 1;
    /* One line stays one line, whatever an untrusted name in it contains. */
    for (size_t i = 0; i < size; i++) {
        if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
            line[i] = line[i] == '\n' ? ' ' : '?';
    }
    line[size++] = '\n';
    /* One write(2) per line, so that threads and processes do not mix; a log that cannot be written is not an
     * error. */
    ssize_t written = write(STDERR_FILENO, line, size);
    (void)written;
}
