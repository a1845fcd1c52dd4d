"""E6: thousands of faults, by kind, validation level and release: what is found, when, and is the answer the one without
faults? And what the checks cost: decode rates with each level in the same run, the delay that gated release adds, the time
of a rollback. Faults are injected by `fieldprint bench faults` into a tiny model (volume) and into MODEL (a part).
One command: python3 bench/experiments/e6_faults.py --tiny TINY.gguf --model MODEL.gguf"""
import json
import statistics
import subprocess
import sys

from common import Experiment, arguments

PROMPT = "Write about the history of lighthouses, at length."


def run_json(args, *command):
    done = subprocess.run([args.program, *map(str, command), "--json"], capture_output=True, text=True)
    if not done.stdout.strip():
        sys.exit(f"{' '.join(map(str, command))}: {done.stderr}")
    return json.loads(done.stdout)


def faults(e, args, name, model, count, clean, threads):
    answer = run_json(args, "bench", "faults", "-m", model, "--faults", count, "--clean", clean, "--seed", args.seed, "-t", threads)
    e.failed = e.failed or answer["violations"] > 0 or answer["false_alarms"] > 0
    e.result.setdefault("faults", {})[name] = answer
    for cell in answer["cells"]:
        e.add(faults=name, **{k: cell[k] for k in ("validation", "release", "injected", "persistent_checked", "detected", "missed",
                                                   "windowed", "outside_of_window", "scrubbed", "beyond_rate", "window_share_max",
                                                   "transient", "transient_detected", "corrected", "without_effect", "wrong",
                                                   "errors", "retractions", "gave_out_wrong", "detect_ms_max", "rollback_ms_max")})


def decode_rate(args, *options):
    answer = run_json(args, "bench", "speed", "-m", args.model, "--prefill", 0, "--decode", args.decode, "--depth", 64, "--repeat", 1,
                      "-t", 2, *options)
    return answer["decode_tokens_per_s"]


def costs(e, args):
    """Interleaved, best of the rounds: others use the machine, and can only slow one down."""
    ways = {"hash": (), "hash in the loop": ("--hash-threads", "0"), "scrub": ("--validate", "scrub"),
            "replay:0.25": ("--validate", "replay:0.25"), "replay": ("--validate", "replay")}
    rates = {way: [] for way in ways}
    for _ in range(args.rounds):
        for way, options in ways.items():
            rates[way].append(decode_rate(args, *options))
    for way in ways:
        pairs = [a / b for a, b in zip(rates[way], rates["hash"])]
        e.add(cost=way, tokens_per_s=round(max(rates[way]), 1), of_hash=round(max(rates[way]) / max(rates["hash"]), 4),
              median_of_pairs=round(statistics.median(pairs), 4), decode_tokens=args.decode)


def processor_time(e, args):
    """What the checks take of two cores at the default rates: processor time, which other programs do not change much."""
    best = None
    for _ in range(args.rounds):
        a = run_json(args, "run", "-m", args.model, "-p", PROMPT, "-n", 2 * args.decode, "--ignore-eog", "--no-receipt", "-t", 2,
                     "--validate", "scrub")
        v, decode_s = a["validation"], a["timings"]["decode_s"]
        row = dict(check_ms=round(v["check_cpu_s"] * 1e3, 2), decode_ms=round(decode_s * 1e3, 1), tokens=a["tokens"]["output"],
                   of_two_cores=round(v["check_cpu_s"] / decode_s / 2, 5), page_window_s=v["page_window_s"],
                   weight_window_s=v["weight_window_s"], pages_checked=v["pages_checked"])
        best = row if best is None or row["decode_ms"] < best["decode_ms"] else best
    e.add(processor_time="scrub, the end of the answer included", **best)


def delays(e, args):
    """In gated release: from a full page to its text leaving, against the time that a page takes."""
    rows = []
    for _ in range(args.rounds):
        answers = {release: run_json(args, "run", "-m", args.model, "-p", PROMPT, "-n", args.decode, "--ignore-eog", "--no-receipt",
                                     "-t", 2, "--release", release) for release in ("optimistic", "gated", "final")}
        if len({(a["kv_root"], a["text"]) for a in answers.values()}) != 1:
            sys.exit("the release changes the answer")
        page_s = 64 / answers["gated"]["timings"]["decode_tokens_per_s"]
        v = answers["gated"]["validation"]
        rows.append(dict(page_ms=round(page_s * 1e3, 1), boundaries=v["boundaries"], verify_ms_mean=round(v["verify_s_mean"] * 1e3, 2),
                         verify_ms_max=round(v["verify_s_max"] * 1e3, 2), max_in_pages=round(v["verify_s_max"] / page_s, 3),
                         tokens_per_s={k: round(a["timings"]["decode_tokens_per_s"], 1) for k, a in answers.items()}))
    e.add(delay="gated", **min(rows, key=lambda r: r["verify_ms_max"]), rounds=len(rows))


def plot(figure, result):
    axes = figure.add_subplot()
    cells = [p for p in result["points"] if p.get("faults") == "tiny"]
    names = [f'{p["validation"]}\n{p["release"]}' for p in cells]
    bottom = [0] * len(cells)
    for part in ("corrected", "without_effect", "errors", "wrong"):
        values = [p[part] for p in cells]
        axes.bar(names, values, bottom=bottom, label=part.replace("_", " "))
        bottom = [a + b for a, b in zip(bottom, values)]
    axes.set_ylabel("faults")
    axes.tick_params(axis="x", labelsize=5)
    axes.legend()


def main():
    args = arguments(__doc__, tiny={"help": "a tiny random model (build/tests/make_model FILE 5 1024)"}, model={"help": "a real one"},
                     faults={"type": int, "default": 6000}, part={"type": int, "default": 120}, clean={"type": int, "default": 1000000},
                     seed={"type": int, "default": 1}, rounds={"type": int, "default": 5}, decode={"type": int, "default": 512})
    if args.quick:
        args.faults, args.part, args.clean, args.rounds, args.decode = 120, 0, 2000, 1, 128
    e = Experiment("e6", "which faults are found, when, and is the answer right all the same?", args)
    if args.tiny:
        faults(e, args, "tiny", args.tiny, args.faults, args.clean, 1)
    if args.model and args.part:
        faults(e, args, "model", args.model, args.part, 2000, 2)
    if args.model:
        costs(e, args)
        processor_time(e, args)
        delays(e, args)
    return e.finish(plot)


if __name__ == "__main__":
    sys.exit(main())
