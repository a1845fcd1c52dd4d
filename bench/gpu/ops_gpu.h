/* Shared by the checks and the timings of kernel/cuda/cuda_ops.h. */
#ifndef FP_BENCH_OPS_GPU_H
#define FP_BENCH_OPS_GPU_H
#include "../../tests/blocks.h"
#include "exact/exact.h"
#include "kernel/cuda/cuda_ops.h"
#include <stdio.h>
#include <stdlib.h>

#define CUDA(expr)                                                                                           \
    do {                                                                                                     \
        cudaError_t cuda_error = (expr);                                                                     \
        if (cuda_error != cudaSuccess) {                                                                     \
            printf("%s:%d: %s: %s\n", __FILE__, __LINE__, #expr, cudaGetErrorString(cuda_error));            \
            exit(1);                                                                                         \
        }                                                                                                    \
    } while (0)

static inline void *device_alloc(size_t bytes)
{
    void *p = NULL;
    CUDA(cudaMalloc(&p, bytes ? bytes : 16));
    CUDA(cudaMemset(p, 0x5a, bytes ? bytes : 16)); /* poison */
    return p;
}
static inline void *device_copy(const void *from, size_t bytes)
{
    void *p = device_alloc(bytes);
    CUDA(cudaMemcpy(p, from, bytes, cudaMemcpyHostToDevice));
    return p;
}
static inline void *host_alloc(size_t bytes)
{
    void *p = calloc(1, bytes ? bytes : 1);
    if (!p)
        abort();
    return p;
}

int check_layout(void); /* no GPU needed; number of failures */
int check_ops(int quick,
              const char *part); /* "elementwise", "hash", a block type or NULL; number of failures */
void bench_ops(const char *out); /* writes JSON */
#endif
