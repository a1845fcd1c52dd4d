/* Entry bundles and tile paths. First byte: how many entries to expect, less one; the rest: the bundle, and a
 * path. */
#include "ledger/tiles.h"
#include <stdlib.h>

static void check_bundle(const uint8_t *data, size_t size, unsigned count)
{
    fp__bundle bundle;
    fp__buf again = {0};
    if (fp__bundle_parse(data, size, count, true, &bundle) != FP_OK)
        return;
    for (unsigned i = 0; i < count; i++)
        if (fp__bundle_append(bundle.data + bundle.begin[i], bundle.length[i], &again) != FP_OK)
            abort();
    if (again.size != size || memcmp(again.data, data, size) != 0)
        abort();
    fp__buf_free(&again);
}

static void check_path(const uint8_t *data, size_t size)
{
    char path[128], again[FP__TILE_PATH_MAX];
    int level;
    uint64_t index;
    unsigned width;
    if (size >= sizeof path)
        return;
    memcpy(path, data, size);
    path[size] = 0;
    if (fp__tile_path_parse(path, &level, &index, &width) != FP_OK)
        return;
    fp__tile_path(level, index, width, again);
    if (strcmp(path, again) != 0)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    check_path(data, size);
    check_bundle(data + 1, size - 1, data[0] + 1u);
    return 0;
}
