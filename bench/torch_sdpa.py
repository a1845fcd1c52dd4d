"""Times PyTorch's scaled_dot_product_attention (bf16) on the shapes of tests/attention_bench.c: the peers of our
kernel, on the same machine in the same call. Prints one JSON object a line.

Each time is that of one layer: a CUDA graph of several layers with K/V of their own, so that no cache helps; median of
the replays. `packed` folds the query heads of a group into the query length (exact for one decoded token), which is
kinder to PyTorch than its own GQA path; the best of all counts."""
import json
import os
import sys
import time

try:
    import torch
    import torch.nn.functional as F
    from torch.nn.attention import SDPBackend, sdpa_kernel
except ImportError as error:
    print(json.dumps({"peers": "torch", "skipped": str(error)}))
    sys.exit(77)

HEADS, KV_HEADS, D = 32, 8, 128
BRIEF = os.environ.get("FIELDPRINT_BRIEF") == "1"  # the best kernels only
BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}
if BRIEF:
    del BACKENDS["efficient"]


def graph_us(layers, work, repeats=7 if BRIEF else 11):
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for layer in range(min(2, layers)):
            work(layer)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for layer in range(layers):
            work(layer)
    times = []
    for i in range(repeats + 2):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        if i >= 2:
            times.append(begin.elapsed_time(end))
    times.sort()
    return 1000 * times[len(times) // 2] / layers


def attempt(name, backend, layers, work, **facts):
    try:
        with sdpa_kernel(BACKENDS[backend]):
            us = graph_us(layers, work)
    except Exception as error:  # a backend that does not know the shape
        print(json.dumps({"case": name, "backend": backend, **facts, "error": str(error).split("\n")[0][:120]}), flush=True)
        torch.cuda.synchronize()
        return None
    print(json.dumps({"case": name, "backend": backend, **facts, "us": round(us, 2)}), flush=True)
    return us


def layers_for(sequences, context):
    layer_bytes = sequences * context * KV_HEADS * D * 4
    return max(1, min(40, int(1.2e9 / layer_bytes) + 2, int(12e9 / layer_bytes)))


def random(*shape):
    return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)


def decode(name, sequences, context):
    layers = layers_for(sequences, context)
    k, v = random(layers, sequences, KV_HEADS, context, D), random(layers, sequences, KV_HEADS, context, D)
    q = random(sequences, HEADS, 1, D)
    packed = q.view(sequences, KV_HEADS, HEADS // KV_HEADS, D)
    best = []
    for backend in BACKENDS:
        best.append(attempt(name, backend, layers, lambda i: F.scaled_dot_product_attention(packed, k[i], v[i]), packed=True))
        if backend != "efficient":
            best.append(attempt(name, backend, layers,
                                lambda i: F.scaled_dot_product_attention(q, k[i], v[i], enable_gqa=True), packed=False))
    print(json.dumps({"case": name, "best_us": min(b for b in best if b)}), flush=True)


def naive(name, sequences, context):
    """Materialised scores: two products and a softmax."""
    layers = layers_for(sequences, context)
    k, v = random(layers, sequences, KV_HEADS, context, D), random(layers, sequences, KV_HEADS, context, D)
    packed = random(sequences, KV_HEADS, HEADS // KV_HEADS, D)

    def work(i):
        return torch.matmul(torch.softmax(torch.matmul(packed, k[i].transpose(-1, -2)) * D**-0.5, -1), v[i])

    us = graph_us(layers, work)
    print(json.dumps({"case": name, "backend": "naive", "us": round(us, 2)}), flush=True)


def flex(name, sequences, context):
    """FlexAttention, compiled for this shape (seconds)."""
    from torch.nn.attention.flex_attention import flex_attention
    layers = layers_for(sequences, context)
    k, v = random(layers, sequences, KV_HEADS, context, D), random(layers, sequences, KV_HEADS, context, D)
    q = random(sequences, HEADS, 1, D)
    start = time.monotonic()
    try:
        compiled = torch.compile(flex_attention, dynamic=False)
        us = graph_us(layers, lambda i: compiled(q, k[i], v[i], enable_gqa=True))
    except Exception as error:
        print(json.dumps({"case": name, "backend": "flex", "error": str(error).split("\n")[0][:200]}), flush=True)
        return
    print(json.dumps({"case": name, "backend": "flex", "us": round(us, 2), "compile_s": round(time.monotonic() - start, 1)}),
          flush=True)


def dual(name, sequences, anchor, context):
    """Unfused dual attention: two calls and a blend."""
    layers = layers_for(sequences, anchor + context)
    ka, va = random(layers, sequences, KV_HEADS, anchor, D), random(layers, sequences, KV_HEADS, anchor, D)
    kc, vc = random(layers, sequences, KV_HEADS, context, D), random(layers, sequences, KV_HEADS, context, D)
    packed = random(sequences, KV_HEADS, HEADS // KV_HEADS, D)

    def work(i):
        a = F.scaled_dot_product_attention(packed, ka[i], va[i])
        c = F.scaled_dot_product_attention(packed, kc[i], vc[i])
        return torch.lerp(c, a, 0.1)

    best = [attempt(name, backend, layers, work, dual=True) for backend in BACKENDS]
    print(json.dumps({"case": name, "dual": True, "best_us": min(b for b in best if b)}), flush=True)


def prefill(name, tokens):
    layers = 2
    k, v = random(layers, 1, KV_HEADS, tokens, D), random(layers, 1, KV_HEADS, tokens, D)
    q = random(1, HEADS, tokens, D)
    best = []
    for backend in ("flash", "cudnn"):
        us = attempt(name, backend, layers,
                     lambda i: F.scaled_dot_product_attention(q, k[i], v[i], is_causal=True, enable_gqa=True))
        if us is None:  # without GQA in the backend: K/V expanded beforehand
            ke, ve = k.repeat_interleave(4, 2), v.repeat_interleave(4, 2)
            us = attempt(name, backend, layers, lambda i: F.scaled_dot_product_attention(q, ke[i], ve[i], is_causal=True),
                         expanded=True)
        best.append(us)
    print(json.dumps({"case": name, "best_us": min(b for b in best if b)}), flush=True)


def main():
    end = time.monotonic() + float(os.environ.get("FIELDPRINT_BENCH_SECONDS", "120"))
    print(json.dumps({"torch": torch.__version__, "device": torch.cuda.get_device_name()}), flush=True)
    for name, sequences, context in (("decode 1x8k", 1, 8192), ("decode 1x32k", 1, 32768), ("decode 1x131k", 1, 131072),
                                     ("decode 8x32k", 8, 32768), ("decode 32x8k", 32, 8192), ("decode 64x2k", 64, 2048)):
        decode(name, sequences, context)
    dual("anchor 128, 1x32k", 1, 128, 32768)
    dual("anchor 128, 8x32k", 8, 128, 32768)
    dual("anchor 2048, 64x512", 64, 2048, 512)
    prefill("prefill 8k", 8192)
    prefill("prefill 32k", 32768)
    if BRIEF:
        return 0
    for name, sequences, context in (("decode 8x32k", 8, 32768), ("decode 1x32k", 1, 32768), ("decode 64x2k", 64, 2048)):
        naive(name, sequences, context)
    for name, sequences, context in (("decode 8x32k", 8, 32768), ("decode 1x32k", 1, 32768)):
        if time.monotonic() < end - 20:  # what compiling takes
            flex(name, sequences, context)
    return 0


if __name__ == "__main__":
    sys.exit(main())
