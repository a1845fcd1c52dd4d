/* Thread team: n threads (the caller is thread 0) that run one function together, with a spinning barrier
 * between the steps of it. Workers sleep between runs. One run at a time per team. Workers assert the machine
 * rules of canonical arithmetic (no FTZ/DAZ, round to nearest). */
#ifndef FP_CORE_TEAM_H
#define FP_CORE_TEAM_H
#include "core/error.h"

typedef struct fp__team fp__team;
typedef void fp__team_fn(void *arg, size_t thread, size_t threads);
fp_status fp__team_create(size_t threads,
                          fp__team **out) FP_WARN_UNUSED; /* threads ≥ 1; 0: one per usable core */
void fp__team_destroy(fp__team *team);
size_t fp__team_threads(const fp__team *team);
void fp__team_run(fp__team *team, fp__team_fn *fn, void *arg);
/* Inside a run: returns when every thread of the team is here (acquire/release for all memory). */
void fp__team_barrier(fp__team *team);
/* Splits [0, n) into even parts in units of `unit`: thread i gets [*begin, *end). */
static inline void fp__team_split(size_t n, size_t unit, size_t thread, size_t threads, size_t *begin,
                                  size_t *end)
{
    size_t units = (n + unit - 1) / unit;
    size_t b = units * thread / threads * unit, e = units * (thread + 1) / threads * unit;
    *begin = b < n ? b : n;
    *end = e < n ? e : n;
}
/* True if the floating-point environment is the one canonical arithmetic needs (§0). */
int fp__fpenv_is_canonical(void);
#endif
