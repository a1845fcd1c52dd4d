"""E1: what does hashing the K/V cost, done in the token loop or beside it? Decoding of one model with its new pages
  none        not hashed
  async       hashed where they are, beside the steps (what the engine does; on a GPU by the GPU)
  async-cpu   copied to the host and hashed there by a worker
  sync-page   copied and hashed by the token loop when a page is full
  sync-token  copied and hashed by the token loop after every token
Tokens/s and the loss against none, which is measured before and after each of the others, as a machine's speed drifts;
and the latency of single steps: median, 90th and 99th percentile, longest.
One command: python3 bench/experiments/e1_hashing.py --device cuda"""
import statistics
import sys

from common import Experiment, arguments

MODES = ("none", "async", "async-cpu", "sync-page", "sync-token")


def points(batches, context, steps):
    """The list for `bench model --points`; the first only warms up. Token by token is told for the smallest batch alone: a
    larger one would take most of the time."""
    out = ["%dx%d:none@8" % (batches[0], context)]
    for i, batch in enumerate(batches):
        order = [mode for m in MODES[1:] for mode in ("none", m) if i == 0 or m != "sync-token"] + ["none"]
        out += ["%dx%d:%s@%d" % (batch, context, mode, steps) for mode in order]
    return out


def plot(figure, result):
    left, right = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2)
    batches = sorted({p["batch"] for p in result["points"] if "batch" in p})
    for i, batch in enumerate(batches):
        at = {p["validation"]: p for p in result["points"] if p.get("batch") == batch and "tokens_per_s" in p}
        places = [m + i * 0.8 / len(batches) for m in range(len(MODES))]
        left.bar(places, [100 * at[m]["tokens_per_s"] / at["none"]["tokens_per_s"] if m in at and "none" in at else 0 for m in MODES],
                 0.8 / len(batches), label="batch %d" % batch)
        right.bar(places, [at[m].get("p99_us", 0) if m in at else 0 for m in MODES], 0.8 / len(batches), alpha=0.5, label="p99, batch %d" % batch)
        right.plot(places, [at[m].get("p50_us") if m in at else None for m in MODES], "k_", label="p50" if i == 0 else None)
    for axes in (left, right):
        axes.set_xticks(range(len(MODES)), MODES, rotation=20)
        axes.legend(fontsize=7)
    left.set_ylabel("tokens/s, % of none")
    right.set(ylabel="µs of a step", yscale="log")


def main():
    args = arguments(__doc__, model={"help": "a GGUF file (default: random weights of the 8b shape, tiny on the CPU)"},
                     model_json={"help": "what `fieldprint bench model --json` said in this very call, instead of running it"},
                     batches={"default": "1,8"}, context={"type": int, "help": "tokens of made-up K/V before decoding (default: 4064; 480 for small models)"},
                     list_points={"action": "store_true", "help": "print the points for `bench model --points`, for use with --model-json"})
    small = args.quick or args.device == "cpu"
    batches = [int(b) for b in args.batches.split(",")]
    # 192 steps fill three pages of each sequence; from the middle of a page, so that the last hash is not left to the end of
    # the measurement, where nothing hides it
    wanted = points(batches[:1] if args.quick else batches, args.context or (480 if small else 4064), 64 if args.quick else 192)
    if args.list_points:
        print(",".join(wanted))
        return 0
    e = Experiment("e1", "what does hashing in the token loop cost, against hashing beside it?", args)
    model = ["-m", args.model] if args.model else ["--shape", "tiny" if small else "8b"]
    answer = e.model(*model, "--points", ",".join(wanted), "--runs", 1 if args.quick else 2)
    if not answer:
        return e.finish(plot)
    e.result["model"] = answer["model"]
    e.result["words_checked"] = answer["words_checked"]
    groups = {}
    for p in answer["points"]:
        if "batch" in p and "step" in p:
            groups.setdefault((p["batch"], p["context"], p["steps"]), []).append(p)
        elif "validation" in p and p["validation"] != "none":
            e.add(**p)  # its error
    for group in groups.values():
        bases = [i for i, p in enumerate(group) if p["validation"] == "none"]
        if not bases or len(bases) == len(group):
            continue  # points of another experiment, or the one that only warms up
        for mode in MODES:
            found = [i for i, p in enumerate(group) if p["validation"] == mode]
            if not found:
                continue
            if mode == "none":
                us, losses = statistics.median(group[i]["step"]["median_us"] for i in found), [0]
                spread = [group[i]["step"]["median_us"] / us - 1 for i in found]
            else:
                us, losses, spread = statistics.median(group[i]["step"]["median_us"] for i in found), [], []
                for i in found:
                    near = [max((b for b in bases if b < i), default=None), min((b for b in bases if b > i), default=None)]
                    near = [group[b]["step"]["median_us"] for b in near if b is not None]
                    losses.append(1 - statistics.mean(near) / group[i]["step"]["median_us"])
            p = group[found[0]]
            def middle(key):
                return round(statistics.median(group[i]["latency"][key] for i in found), 1)
            facts = dict(batch=p["batch"], context=p["context"], validation=mode, tokens_per_s=round(p["batch"] / us * 1e6, 2), step_us=round(us, 1),
                         loss=round(statistics.median(losses), 4), p50_us=middle("p50_us"), p90_us=middle("p90_us"), p99_us=middle("p99_us"),
                         max_us=middle("max_us"), steps=sum(group[i]["latency"]["steps"] for i in found),
                         hashed_mb=round(p["hashed_bytes"] / 1e6, 1), copied_mb=round(p["copied_bytes"] / 1e6, 1))
            if spread:
                facts["drift"] = round(max(spread) - min(spread), 4)  # of none over the measurement
            e.add(**facts)
    return e.finish(plot)


if __name__ == "__main__":
    sys.exit(main())
