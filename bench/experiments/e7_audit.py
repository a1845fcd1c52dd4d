"""E7: what does an audit cost, as a fraction of making the answer, and what does it find? Answers of one model are made
and audited light, full and sampled, one by one and together; then every scenario of the detection table is tried
(tests/test_tamper.c) and honest receipts over all settings are audited (test_audit --honest).
One command: python3 bench/experiments/e7_audit.py --model MODEL.gguf"""
import json
import os
import subprocess
import sys
import tempfile
import time

from common import Experiment, arguments

# As published by their authors; nothing of it was measured here, and the machines, models and claims differ.
PUBLISHED = [
    {"system": "TOPLOC", "source": "Ong et al., ICML 2025, arXiv 2501.16007; its README",
     "says": "258 bytes of proof per 32 new tokens; validation up to 100x faster than the inference; models, prompts and precision told apart "
             "with 100 % accuracy in the authors' tests, by thresholds on activations"},
    {"system": "CommitLLM", "source": "commitllm.com",
     "says": "tracing costs the provider about 12 to 14 % online; routine audit 1.3 ms/token for a 70B Llama on a CPU; attention is replayed "
             "approximately, within a quantisation bucket in more than 99.8 % of the cases"},
]
LEVELS = ("light", "sample:0.1", "full")
PROMPTS = ("Explain how tides work.", "Write a short story about a lighthouse.", "List some uses of copper, and say why.",
           "What should a beginner know about sailing?", "Describe the taste of an apple.", "How are bridges built?",
           "Tell me about the history of maps.", "Why is the sky blue?")


def plot(figure, result):
    axes = figure.add_subplot(1, 2, 1)
    ways = [p for p in result["points"] if "share" in p]
    axes.bar([p["level"].replace(":", "\n") + ("\ntogether" if p["together"] else "") for p in ways], [100 * p["share"] for p in ways])
    axes.set_ylabel("% of the time of making the answers")
    axes = figure.add_subplot(1, 2, 2)
    found = result.get("detection", {}).get("by_level", {})
    levels = [x for x in ("load", "light", "sample", "full", "none") if x in found]
    axes.bar(levels, [found[x] for x in levels])
    axes.set_ylabel("scenarios, by the cheapest level that sees them")


def run(command, env=None, codes=(0,)):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env={**os.environ, **(env or {})})
    if done.returncode not in codes:
        raise RuntimeError("%s: %s" % (command[1], (done.stderr or done.stdout)[-300:]))
    return done.stdout


def lines(text):
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def costs(e, args, folder):
    count, tokens = (2, 32) if args.quick else (len(PROMPTS), args.tokens)
    device = ["--device", args.device]
    env = {"FIELDPRINT_WORKSPACE": os.path.join(folder, "ws")}
    run([args.program, "init"], env)
    made = 0.0
    for i in range(count):
        answer = json.loads(run([args.program, "run", "-m", args.model, "-p", PROMPTS[i], "-n", tokens, "--ignore-eog", "--temperature", 0.8,
                                 "--seed", i, "--json", *device], env))
        made += answer["timings"]["prefill_s"] + answer["timings"]["decode_s"]
    receipts = os.path.join(folder, "ws", "receipts")
    files = sorted(os.path.join(receipts, f) for f in os.listdir(receipts) if f.endswith(".dsse.json"))
    e.result.update(receipts=len(files), answer_tokens=tokens, made_s=round(made, 3),
                    receipt_bytes=sum(os.path.getsize(f) for f in files) // len(files))
    for level in LEVELS:
        for together in (1, 8):
            model = [] if level == "light" else ["-m", args.model, *device]
            best, seen = None, None
            for _ in range(1 if args.quick else 3):
                out = lines(run([args.program, "audit", receipts, "--level", level, "--together", together, "--json", *model], env))
                summary = out[-1]["summary"]
                seconds = sum(x["light_s"] for x in out[:-1]) if level == "light" else summary["seconds"]
                if best is None or seconds < best:
                    best, seen = seconds, summary["verdicts"]
            if level == "light" and together > 1:
                continue
            valid = sum(n for name, n in seen.items() if name.startswith("VALID"))
            e.failed |= valid != len(files)
            e.add(level=level, together=together > 1, receipts=len(files), valid=valid, seconds=round(best, 4), share=round(best / made, 5),
                  ms_per_token=round(1e3 * best / (len(files) * tokens), 4))


def detection(e, tests):
    program = os.path.join(tests, "test_tamper")
    if not os.path.exists(program):
        e.result["detection"] = {"skipped": "no " + program}
        return
    rows = [line.split("\t") for line in run([program, "--measure"]).splitlines()]
    rows = [r for r in rows if len(r) == 4]
    by_level, by_verdict = {}, {}
    for _, level, verdict, _ in rows:
        by_level[level] = by_level.get(level, 0) + 1
        by_verdict[verdict] = by_verdict.get(verdict, 0) + 1
    e.result["detection"] = {"scenarios": len(rows), "by_level": by_level, "by_verdict": by_verdict,
                             "rows": [{"scenario": n, "level": lv, "verdict": v, "detail": d[:160]} for n, lv, v, d in rows]}
    print(json.dumps({"scenarios": len(rows), "by_level": by_level, "by_verdict": by_verdict}), flush=True)


def honest(e, tests, args):
    program = os.path.join(tests, "test_audit")
    if not os.path.exists(program):
        return
    e.result["honest"] = []
    for count, model in ((20 if args.quick else args.honest, None), (0 if args.quick else args.honest_model, args.model)):
        if count == 0 or e.left() <= 0:
            continue
        said = lines(run([program, "--honest", count] + ([model] if model else []), codes=(0, 1)))[-1]
        said["model"] = os.path.basename(model) if model else "tiny, random weights"
        e.failed |= said["valid_full"] != said["receipts"]
        e.result["honest"].append(said)
        print(json.dumps(said), flush=True)


def main():
    args = arguments(__doc__, model={"help": "a GGUF file", "required": True}, tokens={"type": int, "default": 256, "help": "of an answer"},
                     tests={"default": "build/tests", "help": "folder of the tests' programs"},
                     honest={"type": int, "default": 500, "help": "honest receipts of tiny models"},
                     honest_model={"type": int, "default": 40, "help": "honest receipts of the model"})
    e = Experiment("e7", "what does an audit cost, as a fraction of making the answer, and what does it find?", args)
    e.result["model"] = os.path.basename(args.model)
    e.result["machine"] = {"name": processor()}
    e.result["published"] = PUBLISHED
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        costs(e, args, folder)
    detection(e, args.tests)
    honest(e, args.tests, args)
    e.result["seconds"] = round(time.monotonic() - start, 1)
    return e.finish(plot)


def processor():
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return "unknown"


if __name__ == "__main__":
    sys.exit(main())
