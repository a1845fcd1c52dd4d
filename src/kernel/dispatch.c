/* Which table of kernels this process uses. */
#include "core/cpu.h"
#include "core/trace.h"
#include "kernel/kernel.h"

#include <pthread.h>
#include <stdlib.h>

typedef struct candidate {
    const fp__kernel_ops *ops;
    bool runs;
} candidate;

enum { CANDIDATES_MAX = 4 };

#if defined(__x86_64__)
#define KERNEL_NAMES "ref, avx2 or avx512"
#elif defined(__aarch64__)
#define KERNEL_NAMES "ref or neon"
#else
#define KERNEL_NAMES "ref"
#endif

/* Slowest first. */
static size_t candidates(candidate out[CANDIDATES_MAX])
{
    const fp__cpu *cpu = fp__cpu_get();
    (void)cpu;
    size_t n = 0;
    out[n++] = (candidate){&fp__kernel_ops_ref, true};
#if defined(__x86_64__)
    out[n++] = (candidate){&fp__kernel_ops_avx2, cpu->avx2};
    out[n++] = (candidate){&fp__kernel_ops_avx512, cpu->avx512};
#elif defined(__aarch64__)
    out[n++] = (candidate){&fp__kernel_ops_neon, cpu->neon_dot};
#endif
    return n;
}

const fp__kernel_ops *fp__kernel_ops_at(size_t i)
{
    candidate all[CANDIDATES_MAX];
    size_t n = candidates(all);
    for (size_t c = 0; c < n; c++)
        if (all[c].runs && i-- == 0)
            return all[c].ops;
    return NULL;
}

static pthread_once_t chosen_once = PTHREAD_ONCE_INIT;
static const fp__kernel_ops *chosen;
static fp_status chosen_status = FP_OK;
static const char *asked;

static void choose(void)
{
    candidate all[CANDIDATES_MAX];
    size_t n = candidates(all);
    asked = getenv("FIELDPRINT_KERNELS");
    if (asked && *asked) {
        chosen_status = FP_USAGE;
        for (size_t c = 0; c < n; c++)
            if (strcmp(all[c].ops->name, asked) == 0) {
                chosen = all[c].ops;
                chosen_status = all[c].runs ? FP_OK : FP_UNSUPPORTED;
            }
    } else {
        for (size_t c = 0; c < n; c++)
            if (all[c].runs)
                chosen = all[c].ops;
    }
    if (chosen_status == FP_OK)
        fp__trace(FP__TRACE_INFO, "kernels: %s on %s", chosen->name, fp__cpu_get()->name);
}

fp_status fp__kernel_ops_get(const fp__kernel_ops **out)
{
    pthread_once(&chosen_once, choose);
    if (chosen_status == FP_USAGE)
        return fp__fail(FP_USAGE, "FIELDPRINT_KERNELS=%s is not a set of kernels of this build: use %s",
                        asked, KERNEL_NAMES);
    if (chosen_status == FP_UNSUPPORTED)
        return fp__fail(FP_UNSUPPORTED,
                        "FIELDPRINT_KERNELS=%s: this machine (%s) cannot run them; unset it to "
                        "use the best that can",
                        asked, fp__cpu_get()->name);
    *out = chosen;
    return FP_OK;
}
