"""Holds the figures of bench/gpu.sh against the bars set for the GPU's attention: one JSON object a bar.

  bench/attention_bars.py FOLDER   reads check_attention, bench_*, torch_peers (.jsonl) there; prints the bars

Times are those of CUDA graphs of several layers, ours and the peers' alike."""
import json
import pathlib
import sys

BEST_PEER = 1.75


def lines(path):
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.startswith("{")]


def bar(name, value, limit, at_least=True, **facts):
    ok = value is not None and (value >= limit if at_least else value <= limit)
    print(json.dumps({"bar": name, "value": None if value is None else round(value, 3), "at_least" if at_least else "at_most": limit,
                      "pass": ok, **facts}), flush=True)


def ratio(a, b):
    return a / b if a and b else None


def main():
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    checks = [c for c in lines(folder / "check_attention.jsonl") if "wrong" in c]
    ours = {c["case"]: c for path in sorted(folder.glob("bench_*.jsonl")) for c in lines(path) if "case" in c and "us" in c}
    peers = {(c["case"], c.get("dual", False)): c["best_us"] for c in lines(folder / "torch_peers.jsonl") if "best_us" in c}
    us = {name: c["us"] for name, c in ours.items()}

    bar("words that differ from the definition", sum(c["wrong"] + c["failures"] for c in checks) if checks else None, 0, False,
        words=sum(c["words"] for c in checks))
    for name, limit in (("decode 8x32k", 0.88), ("decode 32x8k", 0.88), ("decode 1x131k", 0.80), ("decode 1x32k", 0.55)):
        bar(f"{name}, share of the copy rate", ours[name]["of_copy"] if name in ours else None, limit)
    for name in ("decode 1x8k", "decode 1x32k", "decode 1x131k", "decode 8x32k", "decode 32x8k", "decode 64x2k"):
        bar(f"{name}, faster than the best SDPA", ratio(peers.get((name, False)), us.get(name)), BEST_PEER)
    for shape in ("64, 1x32k", "128, 1x32k", "64, 8x32k", "128, 8x32k"):
        compete = us.get(f"anchor {shape}, compete")
        bar(f"anchor {shape}, over no anchor", ratio(compete, us.get("decode " + shape.split()[1])), 1.02, False)
        for mode in ("floor", "reserve"):
            bar(f"anchor {shape}, {mode} over compete", ratio(us.get(f"anchor {shape}, {mode}"), compete), 1.01, False)
    bar("anchor 2048, 64x512, shared faster than own", ratio(us.get("anchor 2048 own, 64x512"), us.get("anchor 2048 shared, 64x512")), 3.0)
    for name in us:
        if " own, " in name:
            bar(f"{name.replace(' own', '')}, shared over own", ratio(us.get(name.replace(" own", " shared")), us[name]), 1.02, False)
    for name, mine in (("anchor 128, 1x32k", "anchor 128, 1x32k, reserve"), ("anchor 128, 8x32k", "anchor 128, 8x32k, reserve"),
                       ("anchor 2048, 64x512", "anchor 2048 shared, 64x512")):
        bar(f"{name}, faster than unfused dual attention", ratio(peers.get((name, True)), us.get(mine)), 2.0)
    for name in ("prefill 8k", "prefill 32k"):
        bar(f"{name}, to the best SDPA (an aim)", ratio(peers.get((name, False)), us.get(name)), 0.7)
    return 0


if __name__ == "__main__":
    sys.exit(main())
