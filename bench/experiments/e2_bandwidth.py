"""E2: how close does the fused kernel come to the memory's rate, and to other attention kernels? Microseconds of one
layer, GB/s of K/V and share of the copy rate, beside PyTorch's SDPA, unfused dual attention (two calls and a blend),
naive attention with materialised scores, FlexAttention and FlashInfer, in one call on one machine.
One command: python3 bench/experiments/e2_bandwidth.py --device cuda"""
import json
import os
import sys

from common import Experiment, arguments

SHAPES = (  # case, arguments; the peers' scripts use the same names
    ("decode 1x8k", "--batch 1 --context 8192"), ("decode 1x32k", "--batch 1 --context 32768"),
    ("decode 1x131k", "--batch 1 --context 131072"), ("decode 8x32k", "--batch 8 --context 32768"),
    ("decode 32x8k", "--batch 32 --context 8192"), ("decode 64x2k", "--batch 64 --context 2048"),
    ("anchor 128, 1x32k", "--batch 1 --context 32768 --anchor 128 --mode floor"),
    ("anchor 128, 8x32k", "--batch 8 --context 32768 --anchor 128 --shared --mode floor"),
    ("anchor 2048, 64x512", "--batch 64 --context 512 --anchor 2048 --shared --mode floor"),
    ("anchor 2048 unshared, 64x512", "--batch 64 --context 512 --anchor 2048 --mode floor"),
    ("prefill 8k", "--context 8192 --tokens 8192 --runs 5"), ("prefill 32k", "--context 32768 --tokens 32768 --runs 5"))


def best(lines, case, **wanted):
    found = [x["us"] for x in lines if x.get("case") == case and x.get("us") and all(x.get(k) == v for k, v in wanted.items())]
    return min(found) if found else None


def peers_of(case, torch, flashinfer):
    sdpa = [x for x in torch if "backend" in x]
    return {"sdpa_bf16": best([x for x in sdpa if not x.get("dual") and x["backend"] not in ("naive", "flex")], case),
            "unfused_dual_bf16": best([x for x in sdpa if x.get("dual")], case),
            "naive_bf16": best(sdpa, case, backend="naive"), "flex_bf16": best(sdpa, case, backend="flex"),
            "flashinfer_bf16": best(flashinfer, case, kv="bf16"), "flashinfer_fp8": best(flashinfer, case, kv="fp8"),
            "flashinfer_fp8_fixed_split": best([x for x in flashinfer if x.get("fixed_split_tokens")], case, kv="fp8")}


def read_lines(path):
    try:
        with open(path) as file:
            return [json.loads(line) for line in file if line.startswith("{")]
    except OSError:
        return None


def plot(figure, result):
    axes = figure.add_subplot()
    points = result["points"]
    kinds = [("fieldprint", lambda p: p["us"])] + [(k, lambda p, k=k: p["peers"].get(k)) for k in ("sdpa_bf16", "unfused_dual_bf16", "flashinfer_bf16", "flashinfer_fp8")]
    for i, (label, get) in enumerate(kinds):
        axes.bar([j + i * 0.16 for j in range(len(points))], [get(p) or 0 for p in points], 0.16, label=label)
    axes.set_yscale("log")
    axes.set_ylabel("µs a layer")
    axes.set_xticks([j + 0.32 for j in range(len(points))], [p["case"] for p in points], rotation=30, ha="right", fontsize=7)
    axes.legend(fontsize=8)


def main():
    args = arguments(__doc__, torch_lines={"help": "JSON lines of torch_sdpa.py from this very call, instead of running it"},
                     flashinfer_lines={"help": "the same of flashinfer_peers.py"})
    e = Experiment("e2", "bandwidth of the fused kernel against the copy rate and other kernels", args)
    torch = flashinfer = []
    if args.device != "cpu":
        torch = read_lines(args.torch_lines) if args.torch_lines else e.script("torch_sdpa.py", 90)
        flashinfer = read_lines(args.flashinfer_lines) if args.flashinfer_lines else e.script("flashinfer_peers.py", 90)
    e.args.seconds += e.args.seconds - e.left()  # the peers' time is theirs
    shapes = SHAPES[:1] if args.quick else SHAPES if args.device != "cpu" else SHAPES[:1] + SHAPES[5:7] + SHAPES[8:10]
    if args.brief:
        shapes = [x for x in shapes if x[0] != "prefill 32k"]  # its check alone takes the CPU longer than all others
    for case, shape in shapes:
        r = e.bench("attention", *shape.split(), *(["--heads", 4, "--kv-heads", 1, "--runs", 2] if args.quick else []))
        if not r:
            continue
        peers = {k: v for k, v in peers_of(case, torch or [], flashinfer or []).items() if v}
        e.add(case=case, us=round(r["median_us"], 2), us_with_queries=r.get("with_queries_us"), kv_bytes=r["kv_bytes"],
              gb_s=round(r["kv_gb_s"], 1), of_copy=round(r["of_copy"], 4), tera_ops=round(r["tera_ops"], 1),
              words_checked=r["words_checked"], peers=peers,
              faster_than={k: round(v / r["median_us"], 3) for k, v in peers.items()})
    return e.finish(plot)


if __name__ == "__main__":
    sys.exit(main())
