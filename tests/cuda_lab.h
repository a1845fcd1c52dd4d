/* For programs that call the CUDA runtime themselves: a call that fails ends the program, exit code 3. */
#ifndef FP_TESTS_CUDA_LAB_H
#define FP_TESTS_CUDA_LAB_H
#include "fieldprint/status.h"

#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CUDA(call)                                                                                           \
    do {                                                                                                     \
        cudaError_t cuda_error = (call);                                                                     \
        if (cuda_error != cudaSuccess) {                                                                     \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, cudaGetErrorString(cuda_error));              \
            exit(3);                                                                                         \
        }                                                                                                    \
    } while (0)
#define OK(call)                                                                                             \
    do {                                                                                                     \
        if ((call) != FP_OK) {                                                                               \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, fp_error_detail());                           \
            exit(3);                                                                                         \
        }                                                                                                    \
    } while (0)

/* Zeros, at a multiple of 128 bytes. */
static inline void *allocate(size_t bytes)
{
    size_t room = (bytes + 255) / 128 * 128;
    void *p = aligned_alloc(128, room);
    if (!p) {
        fprintf(stderr, "no memory for %zu bytes\n", bytes);
        exit(3);
    }
    return memset(p, 0, room);
}

static inline void *device_copy(const void *from, size_t bytes)
{
    void *p;
    CUDA(cudaMalloc(&p, bytes ? bytes : 1));
    CUDA(cudaMemcpy(p, from, bytes, cudaMemcpyHostToDevice));
    return p;
}

#endif
