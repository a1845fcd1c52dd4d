/* The mix of a row's two segments (arithmetic §6). */
#ifndef FP_KERNEL_CUDA_ATTENTION_MIX_CUH
#define FP_KERNEL_CUDA_ATTENTION_MIX_CUH
#include "kernel/cuda/attention_page.cuh"

namespace fp
{
namespace attn
{

/* §6 mix: the anchor's share that is used and the share that is reported. */
struct Mix {
    float alpha, share;
    bool only_anchor, only_context;
};

static __device__ __forceinline__ Mix mix_shares(float ma, float la, float mc, float lc, uint32_t mode,
                                                 uint32_t gamma)
{
    Mix x = {0.0f, 0.0f, mc == FP_NEG_INF && ma != FP_NEG_INF, ma == FP_NEG_INF};
    if (x.only_anchor || x.only_context) {
        x.alpha = x.only_anchor ? 1.0f : 0.0f;
        return x;
    }
    float m = ma > mc ? ma : mc;
    float na = __fmul_rn(la, exp2c(__fsub_rn(ma, m))), nc = __fmul_rn(lc, exp2c(__fsub_rn(mc, m)));
    x.alpha = x.share = __fdiv_rn(na, __fadd_rn(na, nc));
    float g = __fdiv_rn(__uint2float_rn(gamma), 65536.0f);
    if (gamma > 0 && mode == 2)
        x.share = g;
    if (gamma > 0 && mode == 1)
        x.share = x.alpha > g ? x.alpha : g;
    return x;
}

static __device__ __forceinline__ float mix_channel(const Mix &x, float oa, float la, float oc, float lc)
{
    if (x.only_anchor)
        return __fdiv_rn(oa, la);
    if (x.only_context)
        return __fdiv_rn(oc, lc);
    return __fmaf_rn(x.share, __fdiv_rn(oa, la), __fmul_rn(__fsub_rn(1.0f, x.share), __fdiv_rn(oc, lc)));
}

} // namespace attn
} // namespace fp
#endif
