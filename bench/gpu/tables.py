"""Markdown tables of a results file of bench/gpu.sh: python3 bench/gpu/tables.py bench/results/gpu_all.json"""
import json
import sys


def table(title, head, rows):
    rows = [r for r in rows if r]
    if not rows:
        return
    print("\n%s\n\n| %s |\n|%s" % (title, " | ".join(head), " --- |" * len(head)))
    for row in rows:
        print("| " + " | ".join("" if x is None else x if isinstance(x, str) else "%.4g" % x for x in row) + " |")


def attention(result):
    points = result.get("e2", {}).get("points", [])
    machine = result.get("e2", {}).get("machine", {})
    keys = ("sdpa_bf16", "unfused_dual_bf16", "naive_bf16", "flex_bf16", "flashinfer_bf16", "flashinfer_fp8", "flashinfer_fp8_fixed_split")

    def against(p, key):
        return "%.1f (%.2f ×)" % (p["peers"][key], p["faster_than"][key]) if key in p["peers"] else None

    table("Attention, µs a layer (how many times faster than the peer); copies %.0f GB/s" % machine.get("copy_gb_s", 0),
          ["case", "µs", "GB/s", "of copy", "SDPA bf16", "two SDPA + blend", "naive", "Flex", "FlashInfer bf16", "fp8", "fp8, fixed split"],
          [[p["case"], p["us"], p["gb_s"], "%.1f %%" % (100 * p["of_copy"])] + [against(p, k) for k in keys] for p in points])


def hashing(result):
    table("E1: decoding with its pages hashed", ["batch", "validation", "tokens/s", "loss", "hashed MB", "copied MB"],
          [[p.get("batch"), p["validation"], p["tokens_per_s"], "%.1f %%" % (100 * p["loss"]), p["hashed_mb"], p["copied_mb"]]
           for p in result.get("e1", {}).get("points", []) if "loss" in p])
    table("Hashing", ["where", "pages", "GB/s"], [[r["machine"]["name"], r["shape"]["pages"], r["gb_s"]]
          for k in ("hash_gpu", "hash_gpu_32", "hash_cpu") for r in result.get(k, []) if "gb_s" in r])


def scaling(result):
    points = result.get("e3", {}).get("points", [])
    table("E3: attention", ["batch", "context", "anchor", "µs", "GB/s", "of copy"],
          [[p["batch"], p["context"], "%d%s" % (p["anchor"], " shared" if p["shared"] else ""), p["us"], p["gb_s"], "%.1f %%" % (100 * p["of_copy"])]
           for p in points if p["part"] == "attention"])
    table("E3: a model of the 8B shape", ["batch", "context", "step µs", "tokens/s", "K/V GB", "of copy"],
          [[p["batch"], p["context"], p["step_us"], p["tokens_per_s"], p["kv_bytes"] / 1e9, "%.1f %%" % (100 * p["of_copy"])] if "step_us" in p else
           [p["batch"], p["context"], p["error"][:80], None, None, None] for p in points if p["part"] == "model"])
    for name in ("model_q4_0", "model_q8_0"):
        for r in result.get(name, []):
            table("Decoding, %s (%d words checked)" % (name[6:].upper(), r["words_checked"]), ["batch", "context", "anchor", "validation", "step µs", "tokens/s", "of copy"],
                  [[p["batch"], p["context"], p["anchor"], p["validation"], p["step"]["median_us"], p["tokens_per_s"], "%.1f %%" % (100 * p["of_copy"])]
                   for p in r["points"] if "step" in p])
    for name in ("bench_anchors", "bench_prefill"):
        table("cuda_attention, %s" % name[6:], ["case", "µs", "GB/s", "of copy", "Tera-operations/s"],
              [[r["case"], r["us"], r["gb_s"], r["of_copy"], r.get("tflops_equivalent")] for r in result.get(name, []) if "us" in r])
    table("Prefill", ["tokens", "tokens/s"], [[p["tokens"], p["tokens_per_s"]] for p in points if p["part"] == "model prefill"])
    for name in ("forward_q4_0", "forward_q8_0"):
        rows = [r for r in result.get(name, []) if r.get("bench") == "decode" and "step_us" in r]
        table("Decoding, %s" % name[8:].upper(), ["batch", "context", "step µs", "tokens/s", "of roofline"],
              [[r["batch"], r["context"], r["step_us"], r["tokens_per_s"], r["of_roofline"]] for r in rows])


def main():
    with open(sys.argv[1]) as file:
        result = json.load(file)
    print("%s, commit %s" % (json.dumps(result["machine"]), result["commit"]))
    table("Steps", ["step", "code", "seconds"], [[s["step"], s["code"], s["seconds"]] for s in result["steps"]])
    attention(result)
    hashing(result)
    scaling(result)


if __name__ == "__main__":
    main()
