"""What the experiments share: running `fieldprint bench … --json`, collecting JSON, plots where matplotlib is there.

Every measurement of the program compares its bits with the CPU's, or with the definition, before it tells a time; one
that fails leaves an "error" in the results and a nonzero exit code."""
import argparse
import json
import os
import platform
import subprocess
import sys
import time


def arguments(text, **extra):
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--program", default=os.environ.get("FIELDPRINT_PROGRAM", "build/fieldprint"), help="a fieldprint (default: build/fieldprint)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--out", default=".", help="folder for the JSON and the plot")
    parser.add_argument("--seconds", type=float, default=60, help="start nothing more after this long (default: 60)")
    parser.add_argument("--quick", action="store_true", help="a small model and few points: tries the script, measures nothing worth telling")
    parser.add_argument("--brief", action="store_true", help="fewer points, for a machine that is lent for minutes")
    for name, options in extra.items():
        parser.add_argument("--" + name.replace("_", "-"), **options)
    return parser.parse_args()


class Experiment:
    def __init__(self, name, question, args):
        self.name, self.args, self.failed = name, args, False
        self.start = time.monotonic()
        self.result = {"experiment": name, "question": question, "host": platform.processor() or platform.machine(), "commit": commit(),
                       "device": args.device, "quick": args.quick, "points": []}

    def left(self):
        return self.args.seconds - (time.monotonic() - self.start)

    def bench(self, *command):
        """The JSON of `fieldprint bench COMMAND --json`, or None after noting why there is none."""
        command = [self.args.program, "bench", *map(str, command), "--device", self.args.device, "--json"]
        if self.left() <= 0:
            print("skipped, out of time:", *command[1:], flush=True)
            self.result.setdefault("skipped", []).append(" ".join(command[1:]))
            return None
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=max(10, self.left() + 30))
            answer = json.loads(done.stdout) if done.stdout.strip() else {}
        except (subprocess.TimeoutExpired, ValueError, OSError) as error:
            done, answer = None, {"error": {"detail": str(error)[:300]}}
        if done is None or done.returncode or "error" in answer:
            self.failed = True
            detail = answer.get("error", {}).get("detail") or (done.stderr if done else "")[-300:]
            print("FAILED:", *command[1:], "-", detail, flush=True)
            self.result.setdefault("errors", []).append({"command": " ".join(command[1:]), "detail": detail})
            return None
        self.result["machine"] = answer["machine"]
        return answer

    def model(self, *command):
        """The same for bench model; what another run said, with --model-json."""
        path = getattr(self.args, "model_json", None)
        if not path:
            return self.bench("model", *command)
        try:
            with open(path) as file:
                answer = json.loads(file.read())
            self.result["machine"] = answer["machine"]
            return answer
        except (OSError, ValueError, KeyError) as error:
            self.failed = True
            self.result.setdefault("errors", []).append({"command": path, "detail": str(error)})
            return None

    def add(self, **facts):
        self.result["points"].append(facts)
        print(json.dumps(facts), flush=True)

    def script(self, path, seconds, env=None):
        """The JSON lines of a peer's script beside this folder; [] where it cannot run."""
        where = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", path)
        try:
            done = subprocess.run([sys.executable, where], stdout=subprocess.PIPE, text=True, timeout=seconds,
                                  env={**os.environ, "FIELDPRINT_BENCH_SECONDS": str(max(5, seconds - 15)), **(env or {})})
            text = done.stdout
        except subprocess.TimeoutExpired as error:
            text = (error.stdout or b"").decode() if isinstance(error.stdout, bytes) else error.stdout or ""
        lines = []
        for line in text.splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                pass
        return lines

    def finish(self, plot=None):
        os.makedirs(self.args.out, exist_ok=True)
        path = os.path.join(self.args.out, "%s_%s.json" % (self.name, self.args.device.split(":")[0]))
        with open(path, "w") as file:
            json.dump(self.result, file, indent=1)
            file.write("\n")
        print("wrote", path, flush=True)
        if plot and self.result["points"]:
            draw(plot, self.result, path[:-5] + ".svg")
        return 1 if self.failed else 0


def commit():
    try:
        return os.environ.get("FIELDPRINT_COMMIT") or subprocess.run(
            ["git", "-C", os.path.dirname(os.path.abspath(__file__)), "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def draw(plot, result, path):
    try:
        import matplotlib
    except ImportError:
        print("no plot: matplotlib is not here (python3 -m pip install matplotlib)", flush=True)
        return
    matplotlib.use("svg")
    import matplotlib.pyplot as pyplot
    figure = pyplot.figure(figsize=(9, 5))
    plot(figure, result)
    figure.suptitle("%s: %s" % (result["experiment"].upper(), result["machine"]["name"] if "machine" in result else ""), fontsize=10)
    figure.tight_layout()
    figure.savefig(path)
    print("wrote", path, flush=True)
