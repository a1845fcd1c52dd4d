"""E3: how do latency and throughput scale? Attention alone over contexts of 4k to 1M tokens, batches up to saturation
and anchors of 8 to 2048 tokens (shared by the batch, and each sequence its own); then steps of a whole model of the 8B
shape: latency, tokens/s, bytes of K/V, the largest batch that fits.
One command: python3 bench/experiments/e3_scaling.py --device cuda"""
import sys

from common import Experiment, arguments


def plot(figure, result):
    left, right = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2)
    for batch in sorted({p["batch"] for p in result["points"] if p["part"] == "attention"}):
        xy = [(p["context"], p["us"]) for p in result["points"] if p["part"] == "attention" and p["batch"] == batch and p["anchor"] == 0]
        left.plot(*zip(*xy), marker="o", label="batch %d" % batch) if xy else None
    left.set(xscale="log", yscale="log", xlabel="context", ylabel="µs a layer (attention)")
    left.legend(fontsize=7)
    for context in sorted({p["context"] for p in result["points"] if p["part"] == "model"}):
        xy = [(p["batch"], p["tokens_per_s"]) for p in result["points"] if p["part"] == "model" and p["context"] == context and "tokens_per_s" in p]
        right.plot(*zip(*xy), marker="o", label="%d tokens" % context) if xy else None
    right.set(xscale="log", yscale="log", xlabel="batch", ylabel="tokens/s (8B shape)")
    right.legend(fontsize=7)


def attention_points(args):
    if args.brief:
        return [(1, c, 0, False) for c in (4096, 102400, 1 << 20)] + [(b, 4096, 0, False) for b in (8, 128)] + \
               [(32, 512, a, True) for a in (8, 64, 512, 2048)]
    if args.quick:
        return [(1, 100, 0, False), (2, 100, 70, True)]
    if args.device == "cpu":
        return [(1, c, 0, False) for c in (4096, 32768, 102400)] + [(b, 4096, 0, False) for b in (2, 8)] + \
               [(8, 512, a, True) for a in (8, 128, 2048)]
    points = [(1, c, 0, False) for c in (4096, 32768, 102400, 1 << 20)]
    points += [(b, 4096, 0, False) for b in (2, 8, 32, 128)] + [(b, 32768, 0, False) for b in (8, 32)]
    points += [(32, 512, a, shared) for a in (8, 64, 512, 2048) for shared in (True, False)]
    return points


def attention(e):
    for batch, context, anchor, shared in attention_points(e.args):
        r = e.bench("attention", "--batch", batch, "--context", context, "--anchor", anchor, *(["--shared"] if shared else []),
                    *(["--heads", 4, "--kv-heads", 2, "--runs", 2] if e.args.quick else []))
        if r:
            e.add(part="attention", batch=batch, context=context, anchor=anchor, shared=shared, us=round(r["median_us"], 2),
                  gb_s=round(r["kv_gb_s"], 1), of_copy=round(r["of_copy"], 4), kv_bytes=r["kv_bytes"])


def model(e):
    if e.args.device == "cpu":
        runs = [["--shape", "tiny", "--context", "300,4096", "--batch", "1,8"]]
    else:  # 1M tokens, and the largest batch of 32k that a GPU of 80 GB holds beside the weights, are the last points of each
        runs = [["--type", e.args.type, "--context", "4096", "--batch", "1,8,32,64,128,200", "--steps", 48],
                ["--type", e.args.type, "--context", "32000,102400,1048000", "--batch", "1,8,32", "--steps", 24, "--prefill", 8192]]
        runs = [["--shape", "tiny", "--context", "300", "--batch", "1,2"]] if e.args.quick else runs
    for command in runs:
        answer = e.model(*command, "--runs", 2)
        for p in answer["points"] if answer else []:
            if p.get("validation", "async") != "async":
                continue  # a point of another experiment
            if "error" in p:
                e.add(part="model", **p)
            elif "prefill" in p:
                e.add(part="model prefill", tokens=p["prefill"], tokens_per_s=round(p["tokens_per_s"], 1))
            else:
                e.add(part="model", batch=p["batch"], context=p["context"], anchor=p["anchor"], step_us=round(p["step"]["median_us"], 1),
                      tokens_per_s=round(p["tokens_per_s"], 1), of_copy=round(p["of_copy"], 4), kv_bytes=p["kv_bytes"],
                      weight_bytes=p["weight_bytes"])
        if answer:
            e.result["model"] = answer["model"]
        if e.args.model_json:
            break


def main():
    args = arguments(__doc__, type={"default": "q4_0", "help": "of the model's random weights (default: q4_0)"},
                     part={"default": "all", "help": "attention, model or all"},
                     model_json={"help": "what `fieldprint bench model --json` said in this very call, instead of running it"})
    e = Experiment("e3", "latency and throughput over context, batch and anchor", args)
    if args.part in ("attention", "all"):
        attention(e)
    if args.part in ("model", "all"):
        model(e)
    return e.finish(plot)


if __name__ == "__main__":
    sys.exit(main())
