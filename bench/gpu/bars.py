"""Holds the figures of bench/gpu.sh against the bars set for the GPU: one JSON object a bar, then a summary.

  bench/gpu/bars.py FOLDER   reads the .jsonl of check_*, bench_*, torch_peers, flashinfer_peers, model_*, hash_* and
                             e1_cuda.json there; prints the bars

"aim" marks what is reported and aimed at; all others are requirements. A value of null was not measured. Times of attention
are those of CUDA graphs of several layers, ours and the peers' alike; the copy rate is that of the same program's run. Bars of
one or two percent between two of our cases take the ratio that was measured with both in turn, where there is one: separate
times differ by as much."""
import json
import pathlib
import sys

DECODE = ("1x8k", "1x32k", "1x131k", "8x32k", "32x8k", "64x2k")
COPY_SHARE = (("8x32k", 0.88), ("32x8k", 0.88), ("1x131k", 0.80), ("1x32k", 0.55))


def lines(path):
    if not path.exists():
        return []
    out = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            out.append(json.loads(line))
        except ValueError:
            pass
    return [x for x in out if isinstance(x, dict)]


def ratio(a, b):
    return a / b if a and b else None


class Bars:
    def __init__(self, folder):
        self.folder, self.all = folder, []
        benches = [c for path in sorted(folder.glob("bench_*.jsonl")) for c in lines(path)]
        self.ours = {c["case"]: c for c in benches if "case" in c and "us" in c}
        self.us = {name: c["us"] for name, c in self.ours.items()}
        self.pairs = {(c["pair"], c["over"]): c["ratio"] for c in benches if "pair" in c and c.get("ratio")}
        self.torch = [c for c in lines(folder / "torch_peers.jsonl") if "case" in c]
        self.flashinfer = [c for c in lines(folder / "flashinfer_peers.jsonl") if c.get("us")]

    def add(self, name, value, limit, at_least=True, aim=False, **facts):
        ok = value is not None and (value >= limit if at_least else value <= limit)
        self.all.append({"bar": name, "value": None if value is None else round(value, 4), "at_least" if at_least else "at_most": limit,
                         "pass": ok, **({"aim": True} if aim else {}), **facts})

    def over(self, case, other):
        return self.pairs.get((case, other)) or ratio(self.us.get(case), self.us.get(other))

    def sdpa(self, case, dual=False, backend=None):
        found = [c["us"] for c in self.torch if c["case"] == case and c.get("us") and bool(c.get("dual")) == dual and
                 c.get("backend") not in ("naive", "flex") and backend in (None, c.get("backend"))]
        return min(found) if found else None

    def other(self, case, **wanted):
        found = [c["us"] for c in self.flashinfer if c["case"] == case and all(c.get(k) == v for k, v in wanted.items())]
        return min(found) if found else None


def exactness(b):
    checks = [c for c in lines(b.folder / "check_attention.jsonl") if "wrong" in c]
    b.add("words of attention that differ from the definition", sum(c["wrong"] + c["failures"] for c in checks) if checks else None, 0, False,
          words=sum(c["words"] for c in checks))
    steps = {s["step"]: s["code"] for s in lines(b.folder / "steps.jsonl")}  # the last run of each
    for name, code in steps.items():
        if name.startswith("check_") and code not in ("skipped", "absent", "77"):
            b.add(name + ", exit code", int(code), 0, False)


def decode(b):
    for name, limit in COPY_SHARE:
        b.add(f"decode {name}, share of the copy rate", b.ours.get("decode " + name, {}).get("of_copy"), limit)
    for name in DECODE:
        case = "decode " + name
        b.add(f"{case}, faster than the best bf16 SDPA", ratio(b.sdpa(case), b.us.get(case)), 1.75, us=b.us.get(case), peer_us=b.sdpa(case))
    for name in DECODE:
        case = "decode " + name
        fixed = [c["us"] for c in b.flashinfer if c["case"] == case and c.get("kv") == "fp8" and c.get("fixed_split_tokens")]
        fixed = min(fixed) if fixed else None
        b.add(f"{case}, faster than FlashInfer's fp8 with fixed split", ratio(fixed, b.us.get(case)), 1.0, aim=True, peer_us=fixed,
              best_fp8_us=b.other(case, kv="fp8"), best_bf16_us=b.other(case, kv="bf16"))


def anchors(b):
    for shape in ("64, 1x32k", "128, 1x32k", "64, 8x32k", "128, 8x32k"):
        compete = f"anchor {shape}, compete"
        b.add(f"anchor {shape}, over no anchor", b.over(compete, "decode " + shape.split()[1]), 1.02, False)
        for mode in ("floor", "reserve"):
            b.add(f"anchor {shape}, {mode} over compete", b.over(f"anchor {shape}, {mode}", compete), 1.01, False)
    b.add("anchor 2048, 64x512, shared faster than own", ratio(b.us.get("anchor 2048 own, 64x512"), b.us.get("anchor 2048 shared, 64x512")), 3.0)
    worst = None
    for own in (name for name in b.us if " own, " in name):
        share = b.over(own.replace(" own", " shared"), own)
        if share and (worst is None or share > worst[0]):
            worst = share, own.replace(" own", "")
    pairs = sum(" own, " in name for name in b.us)
    b.add("shared over own, the worst shape", worst and worst[0], 1.02, False, shape=worst and worst[1], shapes=pairs)
    for name, mine in (("anchor 128, 1x32k", "anchor 128, 1x32k, reserve"), ("anchor 128, 8x32k", "anchor 128, 8x32k, reserve"),
                       ("anchor 2048, 64x512", "anchor 2048 shared, 64x512")):
        b.add(f"{name}, faster than unfused dual attention", ratio(b.sdpa(name, dual=True), b.us.get(mine)), 2.0, us=b.us.get(mine),
              peer_us=b.sdpa(name, dual=True))
    for kv in ("fp8", "bf16"):
        peer = b.other("anchor 2048, 64x512", kernel="cascade", kv=kv)
        b.add(f"anchor 2048, 64x512, faster than FlashInfer's {kv} cascade", ratio(peer, b.us.get("anchor 2048 shared, 64x512")), 1.0, aim=True,
              peer_us=peer)


def prefill(b):
    for name in ("prefill 8k", "prefill 32k"):
        facts = {"us": b.us.get(name), "tera_operations_per_s": b.ours.get(name, {}).get("tflops_equivalent")}
        b.add(f"{name}, to SDPA's flash", ratio(b.sdpa(name, backend="flash"), b.us.get(name)), 0.7, aim=True, **facts)
        b.add(f"{name}, to the best SDPA", ratio(b.sdpa(name), b.us.get(name)), 0.7, aim=True)


def hashing(b):
    for pages in (4, 32):
        name = "hash_gpu" if pages == 4 else "hash_gpu_32"
        rates = [c["gb_s"] for c in lines(b.folder / f"{name}.jsonl") if "gb_s" in c]
        b.add(f"hashing {pages} pages, GB/s", max(rates) if rates else None, 40)
    path = b.folder / "e1_cuda.json"
    points = json.loads(path.read_text())["points"] if path.exists() else []
    for batch in (1, 8):
        of = [p for p in points if p.get("batch") == batch and "loss" in p]
        loss = [p["loss"] for p in of if p["validation"] == "async"]
        drift = [p["drift"] for p in of if "drift" in p]
        b.add(f"validation on, batch {batch}, share of decoding that it costs", loss[0] if loss else None, 0.01, False,
              drift_of_the_measurement=drift[0] if drift else None)


def model(b):
    for kind in ("q4_0", "q8_0"):
        points = [p for run in lines(b.folder / f"model_{kind}.jsonl") for p in run.get("points", []) if "step" in p]
        for context in (4096, 32000, 102400):
            at = [p for p in points if p["batch"] == 1 and p["context"] == context and p["anchor"] == 0 and p["validation"] == "async"]
            best = max(at, key=lambda p: p["of_copy"], default=None)
            b.add(f"8B shape, {kind.upper()}, 1x{context}, share of the roofline", best and best["of_copy"], 0.70,
                  step_us=best and round(best["step"]["median_us"], 1))


def main():
    b = Bars(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "."))
    for part in (exactness, decode, anchors, prefill, hashing, model):
        part(b)
    for bar in b.all:
        print(json.dumps(bar), flush=True)
    must = [x for x in b.all if not x.get("aim")]
    print(json.dumps({"bars": len(must), "met": sum(x["pass"] for x in must), "aims": len(b.all) - len(must),
                      "aims_met": sum(x["pass"] for x in b.all) - sum(x["pass"] for x in must),
                      "not_measured": [x["bar"] for x in b.all if x["value"] is None]}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
