"""One results file of what the steps of bench/gpu.sh printed, and the bars: for when a run was cut off, too.

  bench/gpu/collect.py RAW FOLDER   reads RAW/*.jsonl and RAW/e?_cuda.json; writes RAW/bars.jsonl and FOLDER/gpu_all.json"""
import glob
import json
import os
import pathlib
import subprocess
import sys

from bars import lines


def machine(raw):
    try:
        with open(raw + "/nvidia-smi.txt") as file:
            smi = file.read().splitlines()
    except OSError:
        return {}
    return dict(zip((k.strip() for k in smi[0].split(",")), (v.strip() for v in smi[1].split(",")))) if len(smi) > 1 else {"nvidia-smi": smi}


def main():
    raw, folder = sys.argv[1:]
    with open(raw + "/bars.jsonl", "w") as file:
        subprocess.run([sys.executable, os.path.join(os.path.dirname(os.path.abspath(__file__)), "bars.py"), raw], stdout=file, check=True)
    steps = {s["step"]: s for s in lines(pathlib.Path(raw, "steps.jsonl"))}  # the last run of each
    commit = os.environ.get("FIELDPRINT_COMMIT", "unknown")
    result = {"machine": machine(raw), "commit": commit, "steps": list(steps.values())}
    for path in sorted(glob.glob(raw + "/*.jsonl")):
        name = os.path.basename(path)[:-6]
        if name != "steps" and name not in ("e1", "e2", "e3"):
            result[name] = lines(pathlib.Path(path))
    if os.path.exists(raw + "/ops.json"):
        try:
            with open(raw + "/ops.json") as file:
                result["ops"] = json.load(file)
        except ValueError:
            result["ops"] = lines(pathlib.Path(raw, "ops.json"))
    for path in sorted(glob.glob(raw + "/e?_cuda.json")):
        with open(path) as file:
            result[os.path.basename(path)[:2]] = json.load(file)
    with open(folder + "/gpu_all.json", "w") as file:
        json.dump(result, file, indent=1)
        file.write("\n")
    print("wrote", folder + "/gpu_all.json")
    summary = result["bars"][-1]
    print("%d of %d bars met, %d of %d aims" % (summary["met"], summary["bars"], summary["aims_met"], summary["aims"]))
    for b in result["bars"][:-1]:
        if not b["pass"]:
            print("%s: %s, asked %s" % (b["bar"], "not measured" if b["value"] is None else "%.4g" % b["value"], b.get("at_least", b.get("at_most"))))


if __name__ == "__main__":
    main()
