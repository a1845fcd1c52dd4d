/* Barriers and copies of async.cuh by pointer, and fills of a stage in any number of pieces. */
#ifndef FP_KERNEL_CUDA_PIPE_CUH
#define FP_KERNEL_CUDA_PIPE_CUH
#include "kernel/cuda/async.cuh"
#include "kernel/cuda/overlap.cuh"
#include <cuda_runtime.h>
#include <stdint.h>

namespace fp
{

static __device__ __forceinline__ void barrier_init(uint64_t *bar, uint32_t arrivals)
{
    barrier_init(shared_address(bar), arrivals);
}
static __device__ __forceinline__ void barrier_arrive(uint64_t *bar)
{
    barrier_arrive(shared_address(bar));
}
static __device__ __forceinline__ void barrier_wait(uint64_t *bar, uint32_t parity)
{
    barrier_wait(shared_address(bar), parity);
}
/* The arrival of a warp, after all its lanes' reads and writes. One lane's after a __syncwarp would do, but
 * 32 arrivals are no slower (0 to 2 % faster in the prefill product), and racecheck can follow them. */
static constexpr uint32_t WARP_ARRIVALS = 32;
static __device__ __forceinline__ void arrive_warp(uint64_t *bar)
{
    barrier_arrive(bar);
}
/* One thread's arrival at a barrier that then waits for `bytes` of copies too; and such a copy. Only where
 * the hardware has bulk copies. bytes: a multiple of 16, both ends aligned. */
static __device__ __forceinline__ void barrier_expect(uint64_t *bar, uint32_t bytes)
{
#if FP_CUDA_BULK
    barrier_expect(shared_address(bar), bytes);
#endif
}
static __device__ __forceinline__ void bulk_copy(void *to, const void *from, uint32_t bytes, uint64_t *bar)
{
#if FP_CUDA_BULK
    bulk_copy(shared_address(to), from, bytes, shared_address(bar));
#endif
}

/* The same of what is read once and not again soon: it leaves the L2 cache first. */
static __device__ __forceinline__ void bulk_copy_once(void *to, const void *from, uint32_t bytes,
                                                      uint64_t *bar)
{
#if FP_CUDA_BULK
    asm volatile(
        "{ .reg .b64 policy; createpolicy.fractional.L2::evict_first.b64 policy, 1.0; "
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], "
        "%2, [%3], policy; }" ::"r"(shared_address(to)),
        "l"(from), "r"(bytes), "r"(shared_address(bar))
        : "memory");
#endif
}

/* A fill of one barrier: all lanes of a warp call begin, then copy any number of times, then end. */
static __device__ __forceinline__ void fill_begin(uint64_t *bar, uint32_t bytes, int lane)
{
#if FP_CUDA_BULK
    if (lane == 0)
        barrier_expect(bar, bytes);
    __syncwarp();
#endif
}
/* Of a warp whose lanes all call it: true for one lane where the hardware has bulk copies, and the compiler
 * knows that, which makes the copies it issues (fill_copy with its own lane) much cheaper; else for all. */
static __device__ __forceinline__ bool fill_lane()
{
    uint32_t elected = 1;
#if FP_CUDA_BULK
    asm volatile("{ .reg .pred p; elect.sync _|p, 0xffffffff; selp.u32 %0, 1, 0, p; }" : "=r"(elected));
#endif
    return elected;
}
/* Lane `by` of the warp issues the copy where the hardware has bulk copies. bytes: a multiple of 16, both
 * ends aligned. once: as bulk_copy_once. */
static __device__ __forceinline__ void fill_copy(void *to, const void *from, uint32_t bytes, uint64_t *bar,
                                                 int lane, int by, bool once = false)
{
#if FP_CUDA_BULK
    if (lane == by && once)
        bulk_copy_once(to, from, bytes, bar);
    else if (lane == by)
        bulk_copy(to, from, bytes, bar);
#else
    for (uint32_t i = 16 * lane; i < bytes; i += 512)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(to) + i),
                     "l"((const char *)from + i)
                     : "memory");
#endif
}
static __device__ __forceinline__ void fill_end(uint64_t *bar)
{
#if !FP_CUDA_BULK
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(shared_address(bar)) : "memory");
#endif
}

} // namespace fp
#endif
