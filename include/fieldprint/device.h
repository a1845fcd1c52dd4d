/* Devices: where an engine can compute. The bits of an answer, its pages and its receipt do not depend on it.
 */
#ifndef FIELDPRINT_DEVICE_H
#define FIELDPRINT_DEVICE_H
#include "fieldprint/status.h"
#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

#define FP_DEVICES_MAX 17
typedef struct fp_device {
    char id[16]; /* what fp_engine_options.device takes: "cpu", "cuda:0" */
    char name[128];
    uint64_t memory_bytes, free_bytes; /* of a GPU; else 0 */
    uint32_t capability;               /* of a GPU: 90 is compute capability 9.0; else 0 */
    uint32_t units;                    /* cores, or multiprocessors */
    bool usable;
    char why[256]; /* why it is not */
} fp_device;

typedef struct fp_devices {
    size_t n;
    fp_device device[FP_DEVICES_MAX]; /* [n] the CPU first, then GPUs in CUDA's order */
    char cuda[64];                    /* "13.0, driver for 13.1"; empty: this build has no CUDA */
    char why[256];                    /* why there is no GPU in the list; empty if there is one */
} fp_devices;
/* Asks each GPU, which takes some tenths of a second. */
FP_API fp_status fp_devices_list(fp_devices *out) FP_WARN_UNUSED;

#ifdef __cplusplus
}
#endif
#endif
