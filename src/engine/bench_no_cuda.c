/* A build without CUDA: the measurements on a GPU say so. */
#include "engine/bench.h"

static fp_status no_cuda(void)
{
    return fp__fail(FP_UNSUPPORTED, "this build has no CUDA; build with `make cuda`, or measure the CPU");
}

fp_status fp__bench_cuda_machine(int gpu, fp_bench_machine *out)
{
    (void)gpu, (void)out;
    return no_cuda();
}

fp_status fp__bench_cuda_attention(int gpu, const fp__bench_attention *b, fp_bench_attention_result *out)
{
    (void)gpu, (void)b, (void)out;
    return no_cuda();
}

fp_status fp__bench_cuda_hash(int gpu, const fp__bench_hash *b, fp_bench_hash_result *out)
{
    (void)gpu, (void)b, (void)out;
    return no_cuda();
}
