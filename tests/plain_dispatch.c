/* Which kernels a process gets: the best by default, the named one, and a refusal that says what to do. */
#include "core/cpu.h"
#include "kernel/kernel.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

/* The choice is made once per process: each case in a child. Exit code 0 if it went as expected. */
static int run_case(const char *value, fp_status status, const char *want)
{
    (void)fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        if (value ? setenv("FIELDPRINT_KERNELS", value, 1) : unsetenv("FIELDPRINT_KERNELS"))
            _exit(2);
        const fp__kernel_ops *ops = NULL, *again = NULL;
        fp_status got = fp__kernel_ops_get(&ops);
        const char *said = got == FP_OK ? ops->name : fp_error_detail();
        bool good = got == status && (got == FP_OK ? strcmp(said, want) == 0 : strstr(said, want) != NULL);
        good = good && fp__kernel_ops_get(&again) == status && again == ops;
        if (!good)
            printf("FIELDPRINT_KERNELS=%s: status %s, \"%s\"\n", value ? value : "(unset)",
                   fp_status_name(got), said);
        (void)fflush(stdout);
        _exit(!good);
    }
    int code;
    if (pid < 0 || waitpid(pid, &code, 0) != pid)
        return 1;
    return code != 0;
}

int main(void)
{
    int failures = 0;
    size_t tables = 0;
    const char *best = NULL;
    for (; fp__kernel_ops_at(tables); tables++) {
        best = fp__kernel_ops_at(tables)->name;
        failures += run_case(best, FP_OK, best);
    }
    failures += tables < 1 || strcmp(fp__kernel_ops_at(0)->name, "ref") != 0;
    failures += run_case(NULL, FP_OK, best);
    failures += run_case("", FP_OK, best);
    failures += run_case("sse9", FP_USAGE, "sse9");
    failures += run_case("REF", FP_USAGE, "use ref");
#if defined(__x86_64__)
    failures += run_case("neon", FP_USAGE, "neon");
    if (!fp__cpu_get()->avx512)
        failures += run_case("avx512", FP_UNSUPPORTED, "cannot run");
    if (!fp__cpu_get()->avx2)
        failures += run_case("avx2", FP_UNSUPPORTED, "cannot run");
#endif
    if (failures == 0)
        printf("dispatch: %zu tables, best %s\n", tables, best);
    return failures != 0;
}
