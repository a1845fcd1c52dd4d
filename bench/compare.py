#!/usr/bin/env python3
"""Speed of `fieldprint bench speed` against llama.cpp on the same GGUF, interleaved, as one JSON object.

  compare.py MODEL [--fieldprint build/fieldprint] [--python PYTHON] [--threads 2] [--rounds 3] [--depth 0 4096]

PYTHON is an interpreter with llama-cpp-python built for this machine (bench/peer_llama.py says more). For each round and depth
both engines run one after the other; llama.cpp runs with flash attention on and off and the better median counts. Ratios are
of medians. Correctness comes first: the answer must have the same K/V root on every kernel table of the machine.
"""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def run(command, **env):
    result = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **env})
    if result.returncode:
        sys.exit(f"{' '.join(command)}: {result.stderr}")
    return json.loads(result.stdout.strip().splitlines()[-1])


def check(args):
    doctor = run([args.fieldprint, "doctor", "--json"])
    roots = {}
    for kernels in doctor["kernels_available"].split():
        for threads in ("1", "2"):
            answer = run([args.fieldprint, "run", "-m", args.model, "--raw", "-p", "The tide tables of the harbour say that",
                          "-n", "24", "--no-receipt", "--json", "-t", threads], FIELDPRINT_KERNELS=kernels)
            roots[f"{kernels}/{threads}"] = (answer["kv_root"], tuple(answer["ids"]))
    if len(set(roots.values())) != 1:
        sys.exit(f"not exact: {roots}")
    return doctor, next(iter(roots.values()))[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--fieldprint", default=os.path.join(HERE, "..", "build", "fieldprint"))
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prefill", type=int, default=512)
    parser.add_argument("--decode", type=int, default=128)
    parser.add_argument("--depth", type=int, nargs="+", default=[0, 4096])
    args = parser.parse_args()
    doctor, root = check(args)
    rows = {}
    for _ in range(args.rounds):
        for depth in args.depth:
            prefill = args.prefill if depth == 0 else 0
            ours = run([args.fieldprint, "bench", "speed", "-m", args.model, "--prefill", str(args.prefill), "--decode",
                        str(args.decode), "--depth", str(depth), "--repeat", "1", "-t", str(args.threads), "--json"])
            rows.setdefault((depth, "fieldprint"), []).append(ours)
            for fa in (0, 1):
                peer = run([args.python, os.path.join(HERE, "peer_llama.py"), "speed", args.model, "--depth", str(depth),
                            "--prefill", str(prefill), "--decode", str(args.decode), "--repeat", "1", "--fa", str(fa),
                            "--threads", str(args.threads)])
                rows.setdefault((depth, f"llama.cpp fa={fa}"), []).append(peer)
    table = []
    for depth in args.depth:
        entry = {"depth": depth}
        for key in ("prefill_tokens_per_s", "decode_tokens_per_s"):
            median = {}
            for (d, engine), values in rows.items():
                numbers = [v[key] for v in values if v.get(key)]
                if d == depth and numbers:
                    median[engine] = statistics.median(numbers)
            peers = [v for k, v in median.items() if k != "fieldprint"]
            if "fieldprint" in median and peers:
                entry[key] = median
                entry[key + "_ratio"] = median["fieldprint"] / max(peers)
        table.append(entry)
    version = rows[(args.depth[0], "llama.cpp fa=1")][0]["version"]
    commit = subprocess.run(["git", "-C", HERE, "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    print(json.dumps({"machine": {"processor": doctor["processor"], "cores": doctor["cores"], "system": platform.platform()},
                      "commit": commit, "model": os.path.basename(args.model), "threads": args.threads,
                      "rounds": args.rounds, "kernels": doctor["kernels_in_use"], "peer": "llama-cpp-python " + version,
                      "kv_root_all_kernels": root, "results": table}, indent=1))


if __name__ == "__main__":
    main()
