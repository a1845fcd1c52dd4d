"""E1: what does hashing the K/V cost, done in the token loop or beside it? Decoding of one model with its new pages
  none        not hashed
  async       hashed where they are, beside the steps (what the engine does; on a GPU by the GPU)
  async-cpu   copied to the host and hashed there by a worker
  sync-page   copied and hashed by the token loop when a page is full
  sync-token  copied and hashed by the token loop after every token
Tokens/s, and the loss against none. One command: python3 bench/experiments/e1_hashing.py --device cuda"""
import sys

from common import Experiment, arguments

MODES = ("none", "async", "async-cpu", "sync-page", "sync-token")


def plot(figure, result):
    axes = figure.add_subplot()
    batches = sorted({p["batch"] for p in result["points"]})
    for i, batch in enumerate(batches):
        points = {p["validation"]: p for p in result["points"] if p["batch"] == batch}
        axes.bar([m + i * 0.8 / len(batches) for m in range(len(MODES))],
                 [points[m]["tokens_per_s"] if m in points else 0 for m in MODES], 0.8 / len(batches), label="batch %d" % batch)
    axes.set_xticks(range(len(MODES)), MODES)
    axes.set_ylabel("tokens/s")
    axes.legend()


def main():
    args = arguments(__doc__, model={"help": "a GGUF file (default: random weights of the 8b shape, tiny on the CPU)"},
                     model_json={"help": "what `fieldprint bench model --json` said in this very call, instead of running it"})
    e = Experiment("e1", "what does hashing in the token loop cost, against hashing beside it?", args)
    small = args.quick or (args.device == "cpu" and not args.model)
    model = ["-m", args.model] if args.model else ["--shape", "tiny" if small else "8b"]
    # 192 steps fill three pages of each sequence
    answer = e.model(*model, "--batch", "1" if args.quick else "1,8", "--context", 512 if small else 4096, "--steps",
                     64 if args.quick else 192, "--runs", 1 if args.quick else 2, "--validation", ",".join(MODES))
    if answer:
        e.result["model"] = answer["model"]
        e.result["words_checked"] = answer["words_checked"]
        for p in answer["points"]:
            if "error" in p:
                e.add(**p)
                continue
            base = [x for x in answer["points"] if x.get("validation") == "none" and "tokens_per_s" in x and
                    all(x[k] == p.get(k) for k in ("batch", "context", "steps"))]
            if not base or len([x for x in answer["points"] if all(x.get(k) == p.get(k) for k in ("batch", "context", "steps"))]) < 2:
                continue  # a point of another experiment, or one that only warms up
            base = base[0]
            e.add(batch=p["batch"], context=p["context"], validation=p["validation"], tokens_per_s=round(p["tokens_per_s"], 2),
                  step_us=round(p["step"]["median_us"], 1), loss=round(1 - p["tokens_per_s"] / base["tokens_per_s"], 4),
                  hashed_mb=round(p["hashed_bytes"] / 1e6, 1), copied_mb=round(p["copied_bytes"] / 1e6, 1))
    return e.finish(plot)


if __name__ == "__main__":
    sys.exit(main())
