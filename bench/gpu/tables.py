"""Markdown tables of a results file of bench/gpu.sh.

  bench/gpu/tables.py RESULTS.json                 prints all of them
  bench/gpu/tables.py RESULTS.json --update FILE…  writes them into pages, between <!-- figures: NAME --> and <!-- end -->,
                                                   so that no figure is copied by hand"""
import json
import re
import sys

DECODE = ("1x8k", "1x32k", "1x131k", "8x32k", "32x8k", "64x2k")


def show(x):
    return "" if x is None else x if isinstance(x, str) else "%.4g" % x


def table(head, rows):
    rows = [[show(x) for x in row] for row in rows if row]
    if not rows:
        return ""
    return "\n".join(["| %s |" % " | ".join(head), "|" + " --- |" * len(head)] + ["| %s |" % " | ".join(row) for row in rows])


def percent(x, digits=1):
    return None if x is None else "%.*f %%" % (digits, 100 * x)


def us(x):
    return None if x is None else "%.1f" % x if x < 1000 else "{:,.0f}".format(x)


class Results:
    def __init__(self, path):
        with open(path) as file:
            self.all = json.load(file)
        self.ours = {c["case"]: c for name in self.all if name.startswith("bench_") and name != "bench_ops"
                     for c in self.all[name] if isinstance(c, dict) and "case" in c and "us" in c}
        self.bars = {b["bar"]: b for b in self.all.get("bars", []) if "bar" in b}

    def lines(self, name):
        return [x for x in self.all.get(name, []) if isinstance(x, dict)]

    def sdpa(self, case, dual=False, backend=None):
        found = [c["us"] for c in self.lines("torch_peers") if c.get("case") == case and c.get("us") and bool(c.get("dual")) == dual and
                 c.get("backend") not in ("naive", "flex") and backend in (None, c.get("backend"))]
        return min(found) if found else None

    def flashinfer(self, case, fixed=False, **wanted):
        found = [c["us"] for c in self.lines("flashinfer_peers") if c.get("case") == case and c.get("us") and
                 (not fixed or c.get("fixed_split_tokens")) and all(c.get(k) == v for k, v in wanted.items())]
        return min(found) if found else None

    def copy_gb_s(self):
        return next((c["copy_gb_s"] for c in self.lines("bench_attention") if "copy_gb_s" in c), None)

    def words(self):
        return sum(c.get("words", 0) for c in self.lines("check_attention") if c.get("wrong") == 0)

    def points(self, name):
        return [p for run in self.lines(name) for p in run.get("points", [])]


def times(peer, mine):
    return None if not peer or not mine else "%s (%.2f ×)" % (us(peer), peer / mine)


def spaced(case):
    return case.replace("decode ", "").replace("x", " × ")


# ---- the tables: NAME → function of the results ----

def machine(r):
    return "%s, driver %s, commit `%s`; device copies %s GB/s (read + written); %s output words of attention compared, none differs." % (
        r.all["machine"].get("name"), r.all["machine"].get("driver_version"), r.all["commit"][:12], show(r.copy_gb_s()), "{:,}".format(r.words()))


def steps(r):
    return table(["step", "code", "seconds"], [[s["step"], s["code"], s["seconds"]] for s in r.all["steps"]])


def decode(r):
    rows = []
    for name in DECODE:
        c = r.ours.get("decode " + name)
        if c:
            peer = r.sdpa("decode " + name)
            rows.append([spaced(name), us(c["us"]) + " µs", percent(c["of_copy"], 0), peer and us(peer) + " µs", peer and "%.2f" % (peer / c["us"])])
    return table(["sequences × context", "fieldprint", "share of the device's copy rate", "PyTorch", "ratio"], rows)


def attention(r):
    rows = []
    for name in DECODE:
        case = "decode " + name
        c = r.ours.get(case)
        if c:
            rows.append([spaced(name), us(c["us"]), percent(c["of_copy"], 0), times(r.sdpa(case), c["us"]),
                         times(r.flashinfer(case, kv="bf16"), c["us"]), times(r.flashinfer(case, kv="fp8"), c["us"]),
                         times(r.flashinfer(case, fixed=True, kv="fp8"), c["us"])])
    for case, mine, label in (("anchor 128, 1x32k", "anchor 128, 1x32k, reserve", "anchor 128 with 1 × 32k, reserve"),
                              ("anchor 128, 8x32k", "anchor 128, 8x32k, reserve", "anchor 128 with 8 × 32k, reserve"),
                              ("anchor 2048, 64x512", "anchor 2048 shared, 64x512", "shared anchor 2,048, 64 × 512")):
        c = r.ours.get(mine)
        if c:
            dual = times(r.sdpa(case, dual=True), c["us"])
            rows.append([label, us(c["us"]), percent(c["of_copy"], 0), dual and "two calls and a blend: " + dual] +
                        [x and "cascade " + x for x in (times(r.flashinfer(case, kernel="cascade", kv=kv), c["us"]) for kv in ("bf16", "fp8"))] + [None])
    return table(["case", "µs", "of copy", "best SDPA bf16", "FlashInfer bf16", "FlashInfer fp8", "the same, fixed split"], rows)


def prefill(r):
    rows = []
    for name in ("prefill 8k", "prefill 32k"):
        c = r.ours.get(name)
        if c:
            rows.append([name[8:] + " tokens", us(c["us"]), c.get("tflops_equivalent"), times(r.sdpa(name, backend="flash"), c["us"]),
                         times(r.sdpa(name), c["us"])])
    return table(["prefill", "µs", "Tera-operations/s", "SDPA, flash", "best SDPA"], rows)


def anchors(r):
    rows = []
    for own in (name for name in r.ours if " own, " in name):
        shared = r.ours.get(own.replace(" own", " shared"))
        if shared:
            rows.append([own.replace("anchor ", "").replace(" own", "").replace("x", " × "), us(shared["us"]), us(r.ours[own]["us"]),
                         "%.2f ×" % (r.ours[own]["us"] / shared["us"])])
    return table(["anchor, sequences × own context", "shared, µs", "each its own, µs", "faster"], rows)


def hashing(r):
    points = r.all.get("e1", {}).get("points", [])
    return table(["batch", "new pages are", "tokens/s", "loss", "p50 µs", "p90", "p99", "longest", "hashed MB", "copied MB"],
                 [[p["batch"], p["validation"], us(p["tokens_per_s"]), percent(p["loss"]), us(p.get("p50_us")), us(p.get("p90_us")), us(p.get("p99_us")),
                   us(p.get("max_us")), p["hashed_mb"], p["copied_mb"]] for p in points if "loss" in p])


def hash_rate(r):
    return table(["where", "pages", "GB/s"], [[x["machine"]["name"], x["shape"]["pages"], x["gb_s"]]
                                              for k in ("hash_gpu", "hash_gpu_32", "hash_cpu") for x in r.lines(k) if "gb_s" in x])


def model(r):
    rows = []
    for kind in ("q4_0", "q8_0"):
        seen = set()
        for p in r.points("model_" + kind):
            key = p.get("batch"), p.get("context"), p.get("anchor")
            if "step" not in p or p["validation"] != "async" or key in seen or p["steps"] > 100:
                continue
            seen.add(key)
            rows.append([kind.upper(), p["batch"], "{:,}".format(p["context"]) + (" + %d" % p["anchor"] if p["anchor"] else ""),
                         us(p["step"]["median_us"]), us(p["tokens_per_s"]), percent(p["of_copy"], 0)])
    return table(["weights", "batch", "context", "step µs", "tokens/s", "of the roofline"], rows)


def model_prefill(r):
    return table(["weights", "tokens", "tokens/s"], [[kind.upper(), p["prefill"], us(p["tokens_per_s"])] for kind in ("q4_0", "q8_0")
                                                     for p in r.points("model_" + kind) if "prefill" in p and "tokens_per_s" in p])


def bars(r):
    def value(b):
        return "not measured" if b["value"] is None else "%.4g" % b["value"]
    return table(["bar", "asked", "measured", ""],
                 [[b["bar"], ("≥ " if "at_least" in b else "≤ ") + show(b.get("at_least", b.get("at_most"))) + (" (aim)" if b.get("aim") else ""), value(b),
                   "met" if b["pass"] else "missed"] for b in r.bars.values()])


def sanitizers(r):
    return table(["tool", "of", "verdict", "seconds"], [[x["tool"], x["of"], x["verdict"], x["seconds"]] for x in r.lines("check_sanitize") if "tool" in x])


TABLES = {f.__name__: f for f in (machine, steps, bars, decode, attention, anchors, prefill, hashing, hash_rate, model, model_prefill, sanitizers)}


def update(path, results):
    with open(path) as file:
        text = file.read()

    def new(match):
        made = TABLES[match.group(1)](results)
        return "<!-- figures: %s -->\n%s\n<!-- end -->" % (match.group(1), made) if made else match.group(0)

    text, count = re.subn(r"<!-- figures: (\w+) -->\n(?:.*?\n)??<!-- end -->", new, text, flags=re.S)
    with open(path, "w") as file:
        file.write(text)
    print("%s: %d tables" % (path, count))


def main():
    results = Results(sys.argv[1])
    if sys.argv[2:3] == ["--update"]:
        for path in sys.argv[3:]:
            update(path, results)
        return
    for name, make in TABLES.items():
        made = make(results)
        if made:
            print("\n%s\n\n%s" % (name, made))


if __name__ == "__main__":
    main()
