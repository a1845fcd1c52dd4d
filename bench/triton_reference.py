"""PagedFieldprintAttention in Triton: the decode kernel of docs/kernel.md as a runnable specification, compared bit for bit
with the CUDA kernel on the same pages and queries. It is written to be read, not to be fast: one program per sequence and
KV head walks all pages in order.

  python3 bench/triton_reference.py --library PATH     libfieldprint.so of a CUDA build (or libfieldprint_attention.so)

Prints one JSON object a case and exits with 1 if one output word differs. What Triton has to be told to be exact:
enable_fp_fusion=False (no contraction of a product and a sum), tl.div_rn for the divisions, tl.fma where the definition
has fma. Everything else is integer arithmetic, or single operations that round to nearest."""
import argparse
import ctypes
import json
import sys

try:
    import torch
    import triton
    import triton.language as tl
except ImportError as error:
    print(json.dumps({"triton_reference": "skipped", "why": str(error)}))
    sys.exit(77)

PAGE, SPAN_PAGES, CHUNK_SPANS = 64, 4, 4
COMPETE, FLOOR, RESERVE = 0, 1, 2

# 2^f on [-1/2, 1/2], arithmetic.md §1
E6, E5, E4 = (tl.constexpr(float.fromhex(c)) for c in ("0x1.3fa206p-13", "0x1.5f0b82p-10", "0x1.3b30ap-7"))
E3, E2, E1 = (tl.constexpr(float.fromhex(c)) for c in ("0x1.c6af76p-5", "0x1.ebfbd8p-3", "0x1.62e43p-1"))
ROUND = tl.constexpr(12582912.0)  # 1.5·2^23: adding it rounds to the nearest integer, which the low bits of the sum hold
ROUND_BITS = tl.constexpr(0x4B400000)


@triton.jit
def exp2c(x):
    t = x + ROUND
    f = x - (t - ROUND)
    p = tl.fma(tl.full(x.shape, E6, tl.float32), f, tl.full(x.shape, E5, tl.float32))
    p = tl.fma(p, f, tl.full(x.shape, E4, tl.float32))
    p = tl.fma(p, f, tl.full(x.shape, E3, tl.float32))
    p = tl.fma(p, f, tl.full(x.shape, E2, tl.float32))
    p = tl.fma(p, f, tl.full(x.shape, E1, tl.float32))
    p = tl.fma(p, f, tl.full(x.shape, 1.0, tl.float32))
    r = (p.to(tl.int32, bitcast=True) + (t.to(tl.int32, bitcast=True) << 23)).to(tl.float32, bitcast=True)
    return tl.where(x < -126.0, 0.0, r)


@triton.jit
def pow2(e):
    return ((e + 127) << 23).to(tl.float32, bitcast=True)


@triton.jit
def round_int(x):  # 0 ≤ x ≤ 65535
    return (x + ROUND).to(tl.int32, bitcast=True) - ROUND_BITS


@triton.jit
def bf16(at):
    return (tl.load(at).to(tl.int32) << 16).to(tl.float32, bitcast=True)


@triton.jit
def page_partial(q_hi, q_lo, s_q, slab, visible, D: tl.constexpr, R: tl.constexpr):
    """One page for R rows: maximum, integer sum of weights, exponent and integer values."""
    token, channel = tl.arange(0, 64), tl.arange(0, D)
    k = tl.load(slab + token[None, :] * D + channel[:, None])  # [D, 64]
    scales = (slab + 128 * D).to(tl.pointer_type(tl.uint16))
    s_k, s_v = bf16(scales + token), bf16(scales + 64 + token)
    # exact: 16-bit queries as two planes of 8 bits
    t = tl.dot(q_hi, k, out_dtype=tl.int32) * 256 + tl.dot(q_lo, k, out_dtype=tl.int32)
    x = t.to(tl.float32) * (s_q[:, None] * s_k[None, :])
    seen = token < visible
    x = tl.where(seen[None, :], x, float("-inf"))
    m = tl.max(x, 1) + 0.0
    largest = tl.max(tl.where(seen, s_v.to(tl.int32, bitcast=True), 0), 0)
    e = tl.where(largest > 0, (largest >> 23) - 126, 0)
    p = exp2c(x - m[:, None])
    l = tl.sum(round_int(p * 65535.0), 1)
    w = round_int((p * (s_v * pow2(-e))[None, :]) * 65535.0)
    # exact: 16-bit weights as two planes of 8 bits, signed: 32896 = 128·256 + 128 is taken back with the sum of V
    v = tl.load(slab + 64 * D + channel[None, :] * 64 + token[:, None])  # [64, D]
    o = tl.dot(((w >> 8) - 128).to(tl.int8), v, out_dtype=tl.int32) * 256 + tl.dot(((w & 255) - 128).to(tl.int8), v, out_dtype=tl.int32)
    o += 32896 * tl.sum(v.to(tl.int32), 0)[None, :]
    return m, l, e, o


@triton.jit
def merge(m0, l0, o0, m1, l1, o1):
    """A state and another; one that saw nothing changes nothing."""
    m = tl.maximum(m0, m1)
    a, b = exp2c(m0 - m), exp2c(m1 - m)
    l = tl.fma(l0, a, l1 * b)
    o = tl.fma(o0, tl.broadcast_to(a[:, None], o0.shape), o1 * b[:, None])
    none = m1 == float("-inf")
    return tl.where(none, m0, m), tl.where(none, l0, l), tl.where(none[:, None], o0, o)


@triton.jit
def merge_page(m0, l0, o0, m1, l1, e, o1):
    m = tl.maximum(m0, m1)
    a, b = exp2c(m0 - m), exp2c(m1 - m)
    scale = b * pow2(e)
    l = tl.fma(l0, a, l1.to(tl.float32) * b)
    o = tl.fma(o0, tl.broadcast_to(a[:, None], o0.shape), o1.to(tl.float32) * scale[:, None])
    return m, l, o


@triton.jit
def empty(R: tl.constexpr, D: tl.constexpr):
    return tl.full((R,), float("-inf"), tl.float32), tl.zeros((R,), tl.float32), tl.zeros((R, D), tl.float32)


@triton.jit
def segment(q_hi, q_lo, s_q, kv, pages, tokens, group_bytes, slab_offset, D: tl.constexpr, R: tl.constexpr):
    """The first `tokens` tokens of a list of pages: pages into spans, spans into chunks, chunks in order."""
    n = (tokens + 63) // 64
    m, l, o = empty(R, D)
    for chunk in range(0, n, 16):
        mc, lc, oc = empty(R, D)
        for span in range(chunk, tl.minimum(chunk + 16, n), 4):
            ms, ls, os = empty(R, D)
            for page in range(span, tl.minimum(span + 4, n)):
                slab = kv + tl.load(pages + page).to(tl.int64) * group_bytes + slab_offset
                mp, lp, e, op = page_partial(q_hi, q_lo, s_q, slab, tokens - 64 * page, D, R)
                ms, ls, os = merge_page(ms, ls, os, mp, lp, e, op)
            mc, lc, oc = merge(mc, lc, oc, ms, ls, os)
        m, l, o = merge(m, l, o, mc, lc, oc)
    return m, l, o


@triton.jit
def attend(q_planes, q_scales, kv, anchor_pages, context_pages, anchor_tokens, context_tokens, gamma, out, alpha_out, group_bytes,
           mode, H, D: tl.constexpr, G: tl.constexpr, R: tl.constexpr):
    sequence, kv_head = tl.program_id(0), tl.program_id(1)
    row, channel = tl.arange(0, R), tl.arange(0, D)
    live = row < G
    head = kv_head * G + row
    at = sequence * H + head
    plane = q_planes + (at * 2 * D)[:, None] + channel[None, :]
    q_hi = tl.load(plane, mask=live[:, None], other=0)
    q_lo = tl.load(plane + D, mask=live[:, None], other=0)
    s_q = tl.load(q_scales + at, mask=live, other=0.0)
    slab_offset = kv_head * (128 * D + 256)
    ma, la, oa = segment(q_hi, q_lo, s_q, kv, anchor_pages + sequence * 0, anchor_tokens, group_bytes, slab_offset, D, R)
    n = (context_tokens + 63) // 64
    mc, lc, oc = segment(q_hi, q_lo, s_q, kv, context_pages + sequence * n, context_tokens, group_bytes, slab_offset, D, R)
    context = tl.div_rn(oc, tl.broadcast_to(lc[:, None], oc.shape))
    if anchor_tokens > 0:
        m = tl.maximum(ma, mc)
        na, nc = la * exp2c(ma - m), lc * exp2c(mc - m)
        alpha = tl.div_rn(na, na + nc)
        g = tl.load(gamma + head, mask=live, other=0)
        share = tl.div_rn(g.to(tl.float32), tl.full(g.shape, 65536.0, tl.float32))
        w = tl.where((g > 0) & (mode == 2), share, tl.where((g > 0) & (mode == 1), tl.maximum(alpha, share), alpha))
        anchor = tl.div_rn(oa, tl.broadcast_to(la[:, None], oa.shape))
        result = tl.fma(tl.broadcast_to(w[:, None], anchor.shape), anchor, (1.0 - w)[:, None] * context)
    else:
        alpha = tl.zeros((R,), tl.float32)
        result = context
    tl.store(out + at[:, None] * D + channel[None, :], result, mask=live[:, None])
    tl.store(alpha_out + at, alpha, mask=live)


def run(q_planes, q_scales, kv, anchor_pages, context_pages, anchor_tokens, context_tokens, gamma, group_bytes, mode, kv_heads):
    """q_planes [S][H][2][D] int8, q_scales [S][H], kv: bytes of the pool, context_pages [S][n] int32 → out [S][H][D], alpha [S][H]."""
    S, H, _, D = q_planes.shape
    out = torch.full((S, H, D), float("nan"), device=q_planes.device)
    alpha = torch.full((S, H), float("nan"), device=q_planes.device)
    attend[(S, kv_heads)](q_planes, q_scales, kv, anchor_pages, context_pages, anchor_tokens, context_tokens, gamma, out, alpha,
                          group_bytes, mode, H, D=D, G=H // kv_heads, R=16, enable_fp_fusion=False)
    return out, alpha


# ---- the CUDA kernel, through its public interface (include/fieldprint/cuda_attention.h) ----


class Config(ctypes.Structure):
    _fields_ = [(n, ctypes.c_uint32) for n in ("heads", "kv_heads", "d", "max_tokens", "max_sequences", "max_pages")] + \
               [("state_bytes", ctypes.c_size_t)]


class Segment(ctypes.Structure):
    _fields_ = [("pages", ctypes.c_void_p), ("filled", ctypes.c_void_p)] + \
               [(n, ctypes.c_uint32) for n in ("n_pages", "causal_page", "causal_tokens")]


class Sequence(ctypes.Structure):
    _fields_ = [("first_token", ctypes.c_uint32), ("tokens", ctypes.c_uint32), ("anchor", Segment), ("context", Segment),
                ("mode", ctypes.c_uint32), ("gamma_row", ctypes.c_uint32)]


class RunArgs(ctypes.Structure):
    _fields_ = [("q_planes", ctypes.c_void_p), ("q_scales", ctypes.c_void_p), ("kv", ctypes.c_void_p), ("group_bytes", ctypes.c_size_t),
                ("layer_offset", ctypes.c_size_t), ("gamma", ctypes.c_void_p), ("out", ctypes.c_void_p), ("alpha", ctypes.c_void_p)]


def check(library, status, what):
    if status:
        library.fp_error_detail.restype = ctypes.c_char_p
        raise RuntimeError("%s: %s" % (what, library.fp_error_detail().decode()))


def planes_of(library, q):
    S, H, D = q.shape
    planes = torch.zeros(S, H, 2, D, dtype=torch.int8, device="cuda")
    scales = torch.zeros(S, H, device="cuda")
    check(library, library.fp_cuda_query_prepare(ctypes.c_void_p(q.data_ptr()), ctypes.c_size_t(S), H, D, ctypes.c_void_p(planes.data_ptr()),
                                                 ctypes.c_void_p(scales.data_ptr()), None, None), "query_prepare")
    torch.cuda.synchronize()
    return planes, scales


def cuda_run(library, planes, scales, kv, anchor, context, anchor_tokens, context_tokens, gamma, group_bytes, mode, kv_heads):
    S, H, _, D = planes.shape
    anchor_host, context_host = anchor.cpu().contiguous(), context.cpu().contiguous()
    n, na = context.shape[1], (anchor_tokens + 63) // 64
    filled = (ctypes.c_uint8 * max(1, na))(*[min(64, anchor_tokens - 64 * p) for p in range(na)])
    sequences = (Sequence * S)()
    for s in range(S):
        sequences[s] = Sequence(s, 1, Segment(anchor_host.data_ptr(), ctypes.addressof(filled), na, na, 0),
                                Segment(context_host.data_ptr() + 4 * s * n, None, n, 0, context_tokens - 1), mode, 0)
    plan = ctypes.c_void_p()
    config = Config(H, kv_heads, D, S, S, S * (n + na), 0)
    check(library, library.fp_cuda_attention_create(ctypes.byref(config), ctypes.byref(plan)), "create")
    out, alpha = torch.full((S, H, D), float("nan"), device="cuda"), torch.full((S, H), float("nan"), device="cuda")
    check(library, library.fp_cuda_attention_plan(plan, sequences, ctypes.c_size_t(S), None), "plan")
    args = RunArgs(planes.data_ptr(), scales.data_ptr(), kv.data_ptr(), group_bytes, 0, gamma.data_ptr(), out.data_ptr(), alpha.data_ptr())
    check(library, library.fp_cuda_attention_run(plan, ctypes.byref(args), None), "run")
    torch.cuda.synchronize()
    library.fp_cuda_attention_destroy(plan)
    return out, alpha


def make_pool(pages, kv_heads, d, device):
    """Random slabs with scales between 2^-9 and 2^-6."""
    slab = 128 * d + 256
    pool = torch.randint(0, 256, (pages, kv_heads, slab), dtype=torch.uint8, device=device)
    scale = torch.randint(0x3B00, 0x3C80, (pages, kv_heads, 128), dtype=torch.int32, device=device)
    pool[:, :, 128 * d::2] = (scale & 255).to(torch.uint8)
    pool[:, :, 128 * d + 1::2] = (scale >> 8).to(torch.uint8)
    return pool.view(torch.int8), slab * kv_heads


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--library", required=True)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print(json.dumps({"triton_reference": "skipped", "why": "no GPU here"}))
        return 0
    library = ctypes.CDLL(options.library)
    torch.cuda.init()
    torch.manual_seed(1)
    wrong = 0
    # sequences, heads, KV heads, d, anchor tokens, context tokens, mode
    for S, H, HK, D, A, N, mode in ((1, 8, 2, 128, 0, 4096, COMPETE), (3, 8, 2, 128, 0, 1, COMPETE), (2, 32, 8, 128, 0, 5000, COMPETE),
                                    (2, 32, 8, 128, 130, 3000, COMPETE), (3, 16, 4, 128, 64, 700, FLOOR), (3, 16, 4, 128, 2048, 65, RESERVE),
                                    (2, 9, 3, 64, 77, 1300, FLOOR), (1, 8, 2, 256, 10, 300, RESERVE)):
        n, na = (N + 63) // 64, (A + 63) // 64
        kv, group_bytes = make_pool(S * n + na + 1, HK, D, "cuda")
        order = torch.randperm(S * n + na, device="cuda").to(torch.int32)
        anchor, context = order[:max(1, na)].contiguous(), order[na:].view(S, n).contiguous()
        gamma = torch.randint(0, 30000, (H,), dtype=torch.int32, device="cuda")
        q = torch.randn(S, H, D, device="cuda") * 2
        planes, scales = planes_of(library, q)
        facts = (planes, scales, kv, anchor, context, A, N, gamma, group_bytes, mode, HK)
        expected, expected_alpha = cuda_run(library, *facts)
        out, alpha = run(*facts)
        torch.cuda.synchronize()
        bad = int((out.view(torch.int32) != expected.view(torch.int32)).sum()) + int((alpha.view(torch.int32) != expected_alpha.view(torch.int32)).sum())
        wrong += bad
        print(json.dumps({"sequences": S, "heads": H, "kv_heads": HK, "d": D, "anchor": A, "context": N, "mode": ("compete", "floor", "reserve")[mode],
                          "words": out.numel() + alpha.numel(), "different": bad,
                          "largest_difference": float((out - expected).abs().max())}), flush=True)
    print(json.dumps({"triton_reference": "checked", "different": wrong}))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
