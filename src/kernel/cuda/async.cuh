/* mbarriers and asynchronous copies into shared memory. Hopper's bulk copy (one thread, completes on the
 * barrier by bytes) where there is one; on Ampere 16-byte cp.async by all lanes of a warp, completing on the
 * barrier by arrivals. PTX ISA 8.0, sections 9.7.12 and 9.7.8.24. */
#ifndef FP_KERNEL_CUDA_ASYNC_CUH
#define FP_KERNEL_CUDA_ASYNC_CUH
#include <cuda_runtime.h>
#include <stdint.h>

namespace fp
{

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
#define FP_CUDA_BULK 0
#else
#define FP_CUDA_BULK 1
#endif

/* Arrivals that complete one fill of a stage. */
constexpr uint32_t FILL_ARRIVALS = FP_CUDA_BULK ? 1 : 32;

static __device__ __forceinline__ uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

static __device__ __forceinline__ void barrier_init(uint32_t barrier, uint32_t arrivals)
{
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

/* After barrier_init, before the barriers are used by others or by copies. */
static __device__ __forceinline__ void barrier_init_fence()
{
#if FP_CUDA_BULK
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

static __device__ __forceinline__ void barrier_arrive(uint32_t barrier)
{
    asm volatile("{\n\t.reg .b64 state;\n\tmbarrier.arrive.shared.b64 state, [%0];\n\t}" ::"r"(barrier)
                 : "memory");
}

static __device__ __forceinline__ bool barrier_test(uint32_t barrier, uint32_t parity)
{
    uint32_t done;
#if FP_CUDA_BULK
    asm volatile(
        "{\n\t.reg .pred p;\n\tmbarrier.try_wait.parity.shared.b64 p, [%1], %2;\n\tselp.u32 %0, 1, 0, p;\n\t}"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
#else
    asm volatile("{\n\t.reg .pred p;\n\tmbarrier.test_wait.parity.shared.b64 p, [%1], %2;\n\tselp.u32 %0, 1, "
                 "0, p;\n\t}"
                 : "=r"(done)
                 : "r"(barrier), "r"(parity)
                 : "memory");
#endif
    return done != 0;
}

static __device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity)
{
    while (!barrier_test(barrier, parity)) {
    }
}

#if FP_CUDA_BULK
/* One thread's arrival at a barrier that then waits for `bytes` of copies too. */
static __device__ __forceinline__ void barrier_expect(uint32_t barrier, uint32_t bytes)
{
    asm volatile(
        "{\n\t.reg .b64 state;\n\tmbarrier.arrive.expect_tx.shared.b64 state, [%0], %1;\n\t}" ::"r"(barrier),
        "r"(bytes)
        : "memory");
}
/* bytes: a multiple of 16, both ends aligned. */
static __device__ __forceinline__ void bulk_copy(uint32_t to, const void *from, uint32_t bytes,
                                                 uint32_t barrier)
{
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to),
        "l"(__cvta_generic_to_global(from)), "r"(bytes), "r"(barrier)
        : "memory");
}
#endif

/* Starts a fill of up to two pieces (bytes in multiples of 16). Called by all lanes of one warp. */
static __device__ __forceinline__ void fill_stage(uint32_t barrier, uint32_t to, const uint8_t *a,
                                                  uint32_t a_bytes, const uint8_t *b, uint32_t b_bytes,
                                                  uint32_t lane)
{
#if FP_CUDA_BULK
    if (lane == 0) {
        barrier_expect(barrier, a_bytes + b_bytes);
        bulk_copy(to, a, a_bytes, barrier);
        if (b_bytes)
            bulk_copy(to + a_bytes, b, b_bytes, barrier);
    }
#else
    for (uint32_t i = lane * 16; i < a_bytes + b_bytes; i += 512) {
        const uint8_t *from = i < a_bytes ? a + i : b + (i - a_bytes);
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to + i),
                     "l"(__cvta_generic_to_global(from))
                     : "memory");
    }
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(barrier) : "memory");
#endif
}

static __device__ __forceinline__ uint4 load_shared16(uint32_t at)
{
    uint4 v;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "r"(at));
    return v;
}

static __device__ __forceinline__ uint2 load_shared8(uint32_t at)
{
    uint2 v;
    asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(at));
    return v;
}

} // namespace fp
#endif
