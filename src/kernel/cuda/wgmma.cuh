/* Integer matrix products of a warpgroup (Hopper, sm_90a): 64 rows from registers or shared memory times N
 * columns from shared memory, 32 bytes of depth. PTX ISA 8.0, sections 9.7.14 (wgmma) and 9.7.14.5.1 (matrix
 * descriptors).
 *
 * A: warp w of the group holds rows 16w..16w+15; thread (g, c) = (lane / 4, lane % 4) gives a[0] = row g,
 * bytes 4c..4c+3; a[1] = row g + 8; a[2], a[3] = the same rows, bytes 16 + 4c... D: d[4j], d[4j + 1] = row g,
 * columns 8j + 2c and + 1; d[4j + 2], d[4j + 3] = row g + 8. B: without swizzle: blocks of 8 columns by 16
 * bytes of depth, each 128 contiguous bytes. */
#ifndef FP_KERNEL_CUDA_WGMMA_CUH
#define FP_KERNEL_CUDA_WGMMA_CUH
#include <cuda_runtime.h>
#include <stdint.h>

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define FP_CUDA_WGMMA 1
#else
#define FP_CUDA_WGMMA 0
#endif

namespace fp
{

static __device__ __forceinline__ void wgmma_begin()
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
static __device__ __forceinline__ void wgmma_commit()
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/* Until at most `pending` groups are under way. */
template <int PENDING> static __device__ __forceinline__ void wgmma_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}
/* Results are not looked at before this place. */
template <int N> static __device__ __forceinline__ void wgmma_results(int (&d)[N])
{
#pragma unroll
    for (int i = 0; i < N; i++)
        asm volatile("" : "+r"(d[i])::"memory");
}

/* Where an operand is in shared memory: the changing half of its descriptor; adding bytes / 16 moves it.
 * deep: bytes from one 16-byte column of blocks to the next. */
static __device__ __forceinline__ uint32_t wgmma_operand(uint32_t shared, uint32_t deep)
{
    return shared >> 4 | deep >> 4 << 16;
}
/* The other half: 128 bytes from 8 rows to the next 8. */
#define FP_WGMMA_ROWS "8"

#define FP_WGMMA_8(d, i)                                                                                     \
    "+r"(d[i]), "+r"(d[i + 1]), "+r"(d[i + 2]), "+r"(d[i + 3]), "+r"(d[i + 4]), "+r"(d[i + 5]),              \
        "+r"(d[i + 6]), "+r"(d[i + 7])
#define FP_WGMMA_32(types)                                                                                   \
    asm volatile(                                                                                            \
        "{\n\t.reg .pred p;\n\t.reg .b64 b;\n\tsetp.ne.b32 p, %37, 0;\n\tmov.b64 b, {%36, " FP_WGMMA_ROWS    \
        "};\n\t"                                                                                             \
        "wgmma.mma_async.sync.aligned.m64n64k32.s32." types " {%0, %1, %2, %3, %4, %5, %6, %7, "             \
        "%8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, "           \
        "%26, %27, %28, %29, %30, %31}, {%32, %33, %34, %35}, b, p;\n\t}"                                    \
        : FP_WGMMA_8(d, 0), FP_WGMMA_8(d, 8), FP_WGMMA_8(d, 16), FP_WGMMA_8(d, 24)                           \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b), "n"(ADD))
#define FP_WGMMA_16(types)                                                                                   \
    asm volatile(                                                                                            \
        "{\n\t.reg .pred p;\n\t.reg .b64 b;\n\tsetp.ne.b32 p, %21, 0;\n\tmov.b64 b, {%20, " FP_WGMMA_ROWS    \
        "};\n\t"                                                                                             \
        "wgmma.mma_async.sync.aligned.m64n32k32.s32." types " {%0, %1, %2, %3, %4, %5, %6, %7, "             \
        "%8, %9, %10, %11, %12, %13, %14, %15}, {%16, %17, %18, %19}, b, p;\n\t}"                            \
        : FP_WGMMA_8(d, 0), FP_WGMMA_8(d, 8)                                                                 \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b), "n"(ADD))

/* Both operands from shared memory. */
template <int ADD> static __device__ __forceinline__ void wgmma(int (&d)[32], uint32_t a, uint32_t b)
{
#if FP_CUDA_WGMMA
    asm volatile("{\n\t.reg .pred p;\n\t.reg .b64 a, b;\n\tsetp.ne.b32 p, %34, 0;\n\t"
                 "mov.b64 a, {%32, " FP_WGMMA_ROWS "};\n\tmov.b64 b, {%33, " FP_WGMMA_ROWS "};\n\t"
                 "wgmma.mma_async.sync.aligned.m64n64k32.s32.s8.s8 {%0, %1, %2, %3, %4, %5, %6, %7, "
                 "%8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, "
                 "%26, %27, %28, %29, %30, %31}, a, b, p;\n\t}"
                 : FP_WGMMA_8(d, 0), FP_WGMMA_8(d, 8), FP_WGMMA_8(d, 16), FP_WGMMA_8(d, 24)
                 : "r"(a), "r"(b), "n"(ADD));
#endif
}
/* d = a·b, or d += a·b. UNSIGNED: a is u8; b is s8. */
template <bool UNSIGNED, int ADD>
static __device__ __forceinline__ void wgmma(int (&d)[32], const uint32_t (&a)[4], uint32_t b)
{
#if FP_CUDA_WGMMA
    if (UNSIGNED)
        FP_WGMMA_32("u8.s8");
    else
        FP_WGMMA_32("s8.s8");
#endif
}
template <bool UNSIGNED, int ADD>
static __device__ __forceinline__ void wgmma(int (&d)[16], const uint32_t (&a)[4], uint32_t b)
{
#if FP_CUDA_WGMMA
    if (UNSIGNED)
        FP_WGMMA_16("u8.s8");
    else
        FP_WGMMA_16("s8.s8");
#endif
}

} // namespace fp
#endif
