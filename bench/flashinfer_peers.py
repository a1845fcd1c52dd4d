"""Times FlashInfer's paged decode (bf16 and fp8 K/V) and its cascade for shared prefixes on the shapes of our attention
bench: peers on the same machine in the same call. Prints one JSON object a line; says why when it cannot run.

FlashInfer comes from PyPI (pip install flashinfer-python) or from any folder on PYTHONPATH. Each time is that of one
layer: a CUDA graph of several layers with K/V of their own, so that no cache helps; median of the replays. Each result is
compared with a binary32 reference first: a kernel that is off by more than its format explains is not timed."""
import json
import os
import sys
import time

os.environ.setdefault("FLASHINFER_CUDA_ARCH_LIST", "9.0a")
os.environ.setdefault("FLASHINFER_LOGGING_LEVEL", "error")
HEADS, KV_HEADS, D, PAGE = 32, 8, 128, 64
SHAPES = (("decode 1x8k", 1, 8192), ("decode 1x32k", 1, 32768), ("decode 1x131k", 1, 131072), ("decode 8x32k", 8, 32768),
          ("decode 32x8k", 32, 8192), ("decode 64x2k", 64, 2048))
ANCHORS = (("anchor 2048, 64x512", 64, 2048, 512), ("anchor 256, 16x512", 16, 256, 512), ("anchor 2048, 4x512", 4, 2048, 512),
           ("anchor 64, 64x512", 64, 64, 512))
BRIEF = os.environ.get("FIELDPRINT_BRIEF") == "1"  # the best kernels only
TOLERANCE = {"bf16": 2e-2, "fp8": 6e-2}


def say(**facts):
    print(json.dumps(facts), flush=True)


def load():
    try:
        import torch
        import flashinfer
    except Exception as error:
        say(peers="flashinfer", skipped=str(error).split("\n")[0][:200])
        return None, None
    if not torch.cuda.is_available():
        say(peers="flashinfer", skipped="no GPU here")
        return None, None
    return torch, flashinfer


def layers_for(pages, kind):
    layer_bytes = pages * PAGE * KV_HEADS * D * 2 * (1 if kind == "fp8" else 2)
    return max(1, min(40, int(1.2e9 / layer_bytes) + 2, int(12e9 / layer_bytes)))


def caches(layers, pages, kind):
    """[layers][pages, 2, PAGE, KV_HEADS, D]"""
    x = torch.empty(layers, pages, 2, PAGE, KV_HEADS, D, device="cuda", dtype=torch.bfloat16 if kind == "bf16" else torch.float8_e4m3fn)
    for i in range(layers):
        x[i] = torch.randn(pages, 2, PAGE, KV_HEADS, D, device="cuda", dtype=torch.bfloat16).to(x.dtype)
    return x


def reference(q, cache, tables, sequence):
    """One sequence in binary32. q [B][H][D]; tables[sequence]: its pages."""
    kv = cache[tables[sequence]].float()  # [pages, 2, PAGE, KV_HEADS, D]
    k, v = (kv[:, i].reshape(-1, KV_HEADS, D).transpose(0, 1) for i in (0, 1))
    grouped = q[sequence].float().view(KV_HEADS, HEADS // KV_HEADS, D)
    weights = torch.softmax(grouped @ k.transpose(1, 2) * D**-0.5, -1)
    return (weights @ v).reshape(HEADS, D)


def deviation(out, q, cache, tables):
    worst = 0.0
    for s in {0, len(tables) - 1}:
        want = reference(q, cache, tables, s)
        worst = max(worst, ((out[s].float() - want).norm() / want.norm()).item())
    return worst


def attempt(name, kernel, kind, tables, q, cache, run, **facts):
    """Checks and times run(layer) → [B][H][D]."""
    facts = {"case": name, "peer": "flashinfer", "kernel": kernel, "kv": kind, **facts}
    try:
        off = deviation(run(0), q, cache[0], tables)
        if not off < TOLERANCE[kind]:
            say(**facts, error="off by %.3g from the reference" % off)
            return None
        us = torch_sdpa.graph_us(cache.shape[0], run)
    except Exception as error:
        say(**facts, error=str(error).split("\n")[0][:200])
        torch.cuda.synchronize()
        return None
    say(**facts, us=round(us, 2), deviation=round(off, 5), layers=cache.shape[0])
    return us


def workspace():
    return torch.zeros(384 << 20, dtype=torch.uint8, device="cuda")


def decode_runs(kind, batch, context, q, cache, order):
    """(kernel, facts, run) of each way to decode."""
    pages = context // PAGE
    indptr = torch.arange(batch + 1, dtype=torch.int32) * pages
    last = torch.full((batch,), PAGE, dtype=torch.int32)
    dtype = cache.dtype
    splits = [None] + [s for s in ((512 if context < 16384 else 2048,) if BRIEF else (512, 1024, 2048, 4096)) if s <= context]
    for tensor_cores, split in [(True, s) for s in splits] + ([] if BRIEF else [(False, None)]):
        wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(SPACE, "NHD", use_tensor_cores=tensor_cores,
                                                                backend="fa2" if tensor_cores else "auto")
        try:
            wrapper.plan(indptr, order, last, HEADS, KV_HEADS, D, PAGE, q_data_type=torch.bfloat16, kv_data_type=dtype,
                         fixed_split_size=split // PAGE if split else None)
        except Exception as error:
            say(peer="flashinfer", kv=kind, split=split, error=str(error).split("\n")[0][:200])
            continue
        yield ("paged decode, tensor cores" if tensor_cores else "paged decode, CUDA cores", {"fixed_split_tokens": split},
               lambda i, w=wrapper: w.run(q, cache[i]))
    table = order.view(batch, pages).cuda()
    lengths = torch.full((batch,), context, dtype=torch.int32, device="cuda")
    yield ("xqa", {}, lambda i: flashinfer.decode.trtllm_batch_decode_with_kv_cache(
        q, cache[i], SEMAPHORES, table, lengths, context, bmm1_scale=D**-0.5, bmm2_scale=1.0, kv_layout="NHD", backend="xqa"))


def decode(name, batch, context, kind):
    pages = batch * context // PAGE
    layers = layers_for(pages, kind)
    cache = caches(layers, pages, kind)
    q = torch.randn(batch, HEADS, D, device="cuda", dtype=torch.bfloat16)
    order = torch.randperm(pages, dtype=torch.int32)
    tables = order.view(batch, -1).long().cuda()
    best, best_fixed = {}, {}
    for kernel, facts, run in decode_runs(kind, batch, context, q, cache, order):
        us = attempt(name, kernel, kind, tables, q, cache, run, **facts)
        if us:
            best[kernel] = min(us, best.get(kernel, us))
            if facts.get("fixed_split_tokens"):
                best_fixed[kernel] = min(us, best_fixed.get(kernel, us))
    if best:
        say(case=name, peer="flashinfer", kv=kind, best_us=round(min(best.values()), 2),
            best_fixed_split_us=round(min(best_fixed.values()), 2) if best_fixed else None)


def cascade(name, batch, anchor, own, kind):
    shared, each = anchor // PAGE, own // PAGE
    pages = shared + batch * each
    layers = layers_for(pages, kind)
    cache = caches(layers, pages, kind)
    q = torch.randn(batch, HEADS, D, device="cuda", dtype=torch.bfloat16)
    i32 = dict(dtype=torch.int32)
    tables = torch.cat([torch.arange(shared).expand(batch, -1), shared + torch.arange(batch * each).view(batch, each)], 1).cuda()
    best = []
    for backend in ("fa2", "fa3") if kind == "bf16" and not BRIEF else ("fa2",):
        wrapper = flashinfer.MultiLevelCascadeAttentionWrapper(2, SPACE, "NHD")
        for level in wrapper._batch_prefill_wrappers:
            level._backend = backend
        try:
            wrapper.plan([torch.tensor([0, batch], **i32), torch.arange(batch + 1, **i32)],
                         [torch.tensor([0, shared], **i32), torch.arange(batch + 1, **i32) * each],
                         [torch.arange(shared, **i32), shared + torch.arange(batch * each, **i32)],
                         [torch.tensor([PAGE], **i32), torch.full((batch,), PAGE, **i32)],
                         HEADS, KV_HEADS, D, PAGE, q_data_type=torch.bfloat16, kv_data_type=cache.dtype)
        except Exception as error:
            say(case=name, peer="flashinfer", kernel="cascade", kv=kind, backend=backend, error=str(error).split("\n")[0][:200])
            continue
        best.append(attempt(name, "cascade", kind, tables, q, cache, lambda i, w=wrapper: w.run(q, cache[i]), backend=backend))
    # the same without sharing: every sequence reads the prefix's pages itself
    wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(SPACE, "NHD", use_tensor_cores=True, backend="fa2")
    wrapper.plan(torch.arange(batch + 1, **i32) * (shared + each), tables.flatten().int().cpu(), torch.full((batch,), PAGE, **i32),
                 HEADS, KV_HEADS, D, PAGE, q_data_type=torch.bfloat16, kv_data_type=cache.dtype)
    best.append(attempt(name, "paged decode of the same pages", kind, tables, q, cache, lambda i: wrapper.run(q, cache[i])))
    if any(best):
        say(case=name, peer="flashinfer", kv=kind, best_us=round(min(b for b in best if b), 2))


torch, flashinfer = load()
if torch is not None:
    import torch_sdpa  # its timing of graphs


def main():
    global SPACE, SEMAPHORES
    if torch is None:
        return 0
    limit = time.monotonic() + float(os.environ.get("FIELDPRINT_BENCH_SECONDS", "120"))
    say(peer="flashinfer", version=flashinfer.__version__, torch=torch.__version__, device=torch.cuda.get_device_name())
    SPACE, SEMAPHORES = workspace(), workspace()  # xqa wants zeros at the beginning of its own
    work = [(cascade, shape, kind) for shape in ANCHORS[:1] for kind in ("bf16", "fp8")]
    work += [(decode, shape, kind) for kind in ("fp8", "bf16") for shape in SHAPES]
    work += [(cascade, shape, kind) for shape in ANCHORS[1:] for kind in ("bf16", "fp8") if not BRIEF]
    for function, shape, kind in work:
        if time.monotonic() > limit:
            say(case=shape[0], peer="flashinfer", kv=kind, skipped="out of time")
            continue
        try:
            function(*shape, kind)
        except Exception as error:
            say(case=shape[0], peer="flashinfer", kv=kind, error="%s: %s" % (type(error).__name__, str(error).split("\n")[0][:300]))
        torch.cuda.empty_cache()
    return 0


if __name__ == "__main__":
    sys.exit(main())
