/* Checkpoint texts: what parses is written back byte for byte. */
#include "ledger/checkpoint.h"
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fp__checkpoint checkpoint;
    if (fp__checkpoint_parse(data, size, &checkpoint) != FP_OK)
        return 0;
    fp__buf again = {0};
    if (fp__checkpoint_format(&checkpoint, &again) != FP_OK || again.size != size ||
        memcmp(again.data, data, size) != 0)
        abort();
    fp__buf_free(&again);
    return 0;
}
