#include "model/unicode_class.h"
#include <stddef.h>

/* Start of a range in the upper bits, its class in the lower three. */
#define R(start, class) ((uint32_t)(start) << 3 | (class))
static const uint32_t ranges[] = {
#include "model/unicode_class.inc"
};
#undef R

fp__unicode_class fp__unicode_class_of(uint32_t code_point)
{
    if (code_point > 0x10ffff)
        return FP__UNICODE_OTHER;
    uint32_t key = code_point << 3 | 7;
    size_t low = 0, high = sizeof ranges / sizeof ranges[0]; /* ranges[low] ≤ key < ranges[high] */
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (ranges[middle] <= key)
            low = middle;
        else
            high = middle;
    }
    return (fp__unicode_class)(ranges[low] & 7);
}
