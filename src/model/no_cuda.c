/* A build without CUDA: the interface of model/device.h says so. */
#include "model/device.h"
#include <stdio.h>

static const char *const NO_CUDA = "this build has no CUDA; build with `make cuda`";

void fp__gpu_list(fp_devices *out)
{
    snprintf(out->why, sizeof out->why, "%s", NO_CUDA);
}

int fp__gpu_first(void)
{
    return FP__DEVICE_CPU;
}

fp_status fp__gpu_check(int index)
{
    (void)index;
    return fp__fail(FP_UNSUPPORTED, "%s", NO_CUDA);
}

fp_status fp__gpu_open(int index, const fp_model *model, fp__team *team, size_t positions, fp__gpu **out)
{
    (void)index;
    (void)model;
    (void)team;
    (void)positions;
    (void)out;
    return fp__fail(FP_UNSUPPORTED, "%s", NO_CUDA);
}

void fp__gpu_close(fp__gpu *gpu)
{
    (void)gpu;
}

size_t fp__gpu_items(const fp__gpu *gpu)
{
    (void)gpu;
    return 0;
}

size_t fp__gpu_item_bytes(const fp__gpu *gpu, size_t item)
{
    (void)gpu;
    (void)item;
    return 0;
}

fp_status fp__gpu_item_check(fp__gpu *gpu, size_t item, bool *same)
{
    (void)gpu;
    (void)item;
    (void)same;
    return fp__fail(FP_UNSUPPORTED, "%s", NO_CUDA);
}

fp_status fp__gpu_item_flip(fp__gpu *gpu, size_t item, size_t byte, uint8_t bits)
{
    (void)gpu;
    (void)item;
    (void)byte;
    (void)bits;
    return fp__fail(FP_UNSUPPORTED, "%s", NO_CUDA);
}

fp_status fp__gpu_reload(fp__gpu *gpu, fp__team *team)
{
    (void)gpu;
    (void)team;
    return fp__fail(FP_UNSUPPORTED, "%s", NO_CUDA);
}

const char *fp__gpu_name(const fp__gpu *gpu)
{
    (void)gpu;
    return "";
}

fp_status fp__gpu_store_create(fp__gpu *gpu, const fp__page_geometry *g, size_t max_groups, fp__store **out)
{
    (void)gpu;
    (void)g;
    (void)max_groups;
    (void)out;
    return fp__fail(FP_UNSUPPORTED, "%s", NO_CUDA);
}

fp_status fp__gpu_forward_create(fp__gpu *gpu, fp__store *store, fp__forward_limits limits, fp__forward **out)
{
    (void)gpu;
    (void)store;
    (void)limits;
    (void)out;
    return fp__fail(FP_UNSUPPORTED, "%s", NO_CUDA);
}
