#include "fieldprint/system.h"
#include "core/cpu.h"
#include "core/team.h"
#include "kernel/kernel.h"
#include <stdio.h>

fp_status fp_system_info_get(fp_system_info *out)
{
    static _Thread_local char available[64];
    const fp__kernel_ops *ops;
    FP_TRY(fp__kernel_ops_get(&ops));
    size_t used = 0;
    for (size_t i = 0; fp__kernel_ops_at(i) && used < sizeof available; i++)
        used += (size_t)snprintf(available + used, sizeof available - used, "%s%s", i ? " " : "",
                                 fp__kernel_ops_at(i)->name);
    *out = (fp_system_info){.processor = fp__cpu_get()->name,
                            .cores = fp__cpu_get()->cores,
                            .sha_instructions = fp__cpu_get()->sha,
                            .kernels = ops->name,
                            .kernels_available = available,
                            .canonical_floats = fp__fpenv_is_canonical()};
    return FP_OK;
}
