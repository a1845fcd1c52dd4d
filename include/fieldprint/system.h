/* What this machine offers, for `fieldprint doctor` and bug reports. */
#ifndef FIELDPRINT_SYSTEM_H
#define FIELDPRINT_SYSTEM_H
#include "fieldprint/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fp_system_info {
    const char *processor;         /* brand string */
    size_t cores;                  /* usable by this process */
    int sha_instructions;          /* SHA-256 in hardware */
    const char *kernels;           /* table in use */
    const char *kernels_available; /* "ref avx2 avx512" */
    int canonical_floats;          /* the floating-point environment is the one that exactness needs */
} fp_system_info;
/* Strings stay until the next call on this thread. FP_USAGE, FP_UNSUPPORTED: FIELDPRINT_KERNELS names kernels
 * that are unknown or cannot run here. */
FP_API fp_status fp_system_info_get(fp_system_info *out) FP_WARN_UNUSED;

#ifdef __cplusplus
}
#endif
#endif
