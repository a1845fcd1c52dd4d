/* Programmatic dependent launch: a kernel may start while the one before it still runs. Every kernel here
 * calls launch_next first and wait_previous before it reads or writes anything that another kernel of the
 * step writes or reads; so the order is that of a plain stream, and only what no kernel of the step writes
 * (weights, plans, complete K/V pages) is read ahead. Without the launch attribute both do nothing. */
#ifndef FP_KERNEL_CUDA_OVERLAP_CUH
#define FP_KERNEL_CUDA_OVERLAP_CUH

namespace fp
{

static __device__ __forceinline__ void launch_next()
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
static __device__ __forceinline__ void wait_previous()
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

} // namespace fp
#endif
