#!/usr/bin/env python3
"""One results file of what cuda_forward (tests/cuda_forward.c) printed:
bench/gpu/forward_results.py OUT.json FILE...   (JSON lines of check, model, bench and parts)"""
import json
import sys

METHOD = (
    "8B shape (32 layers, 4096, 32/8 heads of 128, ffn 14336, vocabulary 128256), random weights, K/V of random valid "
    "pages. decode: wall clock per step of one token a sequence with planning on the host, median and least of 5 times "
    "24 steps; graph_us: the last step's graph replayed; of_copy: (weight bytes + K/V bytes) / device copy rate (read + "
    "write) of the same call / median; parts: graph replays with single choices undone"
)


def main():
    out, objects = sys.argv[1], []
    for path in sys.argv[2:]:
        for line in open(path, encoding="utf-8"):
            if line.startswith("{"):
                objects.append(json.loads(line))
    devices = [o for o in objects if "device" in o]
    bars = [o for o in objects if "bar" in o]
    result = {
        "device": devices[0]["device"] if devices else None,
        "method": METHOD,
        "bars": {o["name"]: {"of_copy": o["of_copy"], "bar": o["bar"], "pass": o["pass"]} for o in bars},
        "runs": [o for o in objects if "name" in o or "device" in o],
        "exactness": [o for o in objects if "check" in o],
        "failures": sum(o.get("failures", 0) for o in objects if "program" in o),
    }
    with open(out, "w", encoding="utf-8") as f:
        lines = ["{"]
        for i, (key, value) in enumerate(result.items()):
            comma = "," if i + 1 < len(result) else ""
            if isinstance(value, list):
                body = ",\n  ".join(json.dumps(v) for v in value)
                lines.append(f' "{key}": [\n  {body}\n ]{comma}')
            else:
                lines.append(f' "{key}": {json.dumps(value)}{comma}')
        f.write("\n".join(lines + ["}"]) + "\n")
    for o in bars:
        print(f"{o['name']}: {o['of_copy']:.3f} of copy (bar {o['bar']}): {'pass' if o['pass'] else 'miss'}")


if __name__ == "__main__":
    main()
