#include "model/device.h"
#include "core/cpu.h"
#include <stdio.h>
#include <stdlib.h>

fp_status fp_devices_list(fp_devices *out)
{
    *out = (fp_devices){.n = 1};
    fp_device *cpu = &out->device[0];
    snprintf(cpu->id, sizeof cpu->id, "cpu");
    snprintf(cpu->name, sizeof cpu->name, "%s", fp__cpu_get()->name);
    cpu->units = (uint32_t)fp__cpu_get()->cores;
    cpu->usable = true;
    fp__gpu_list(out);
    return FP_OK;
}

fp_status fp__device_parse(const char *text, int *out)
{
    if (!text || strcmp(text, "cpu") == 0) {
        *out = FP__DEVICE_CPU;
        return FP_OK;
    }
    if (strcmp(text, "auto") == 0) {
        *out = fp__gpu_first();
        return FP_OK;
    }
    if (strcmp(text, "cuda") == 0) {
        *out = 0;
        return FP_OK;
    }
    const char *digits = text + 5;
    if (strncmp(text, "cuda:", 5) == 0 && strlen(digits) >= 1 && strlen(digits) <= 4 &&
        strspn(digits, "0123456789") == strlen(digits)) {
        *out = atoi(digits);
        return FP_OK;
    }
    return fp__fail(FP_USAGE, "\"%.40s\" is no device: cpu, cuda, cuda:N or auto", text);
}
