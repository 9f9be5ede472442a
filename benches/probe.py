"""Cold process whose graphs are tried in a process of their own first, against one that opens them right away.

    python benches/probe.py [--runs 15] [--precision int8] [--target x86-64-vnni] [--model emoji]

needs a release build and a library. In turns: graphs that were never opened before, graphs that have passed, and
--no-probe. Prints the ratios of the first two to the third, of wall time from start to picture written, and of opening
the pipeline: median, and the middle half of the rounds.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--target", default="generic-cpu")
    parser.add_argument("--model", default="emoji")
    parser.add_argument("--binary", default=ROOT / "target/release/safelight")
    args = parser.parse_args()
    os.environ.setdefault("ORT_DYLIB_PATH", str(ROOT / ".onnxruntime/host"))
    os.environ["SAFELIGHT_HOME"] = str(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SAFELIGHT_CACHE"] = f"{folder}/cache"
        command = [args.binary, "generate", "a red apple", "--seed", "7", "--steps", "1", "--quiet", "--json"]
        command += ["--precision", args.precision, "--target", args.target, "--model", args.model]
        command += ["--out", f"{folder}/picture.png"]

        def first():
            shutil.rmtree(f"{folder}/cache", ignore_errors=True)
            return measure(command)

        # One round that does not count: files are in memory for all.
        rounds = [(first(), measure(command), measure([*command, "--no-probe"])) for _ in range(args.runs + 1)][1:]
        # A round leaves what has passed: that of the second is that of the first.
        assert len(list(Path(folder, "cache/probed").iterdir())) >= 3
    for index, name in enumerate(["tried first", "passed before"]):
        for what in ["wall time", "opening"]:
            ratios = sorted(times[index][what] / times[2][what] for times in rounds)
            low, _, high = statistics.quantiles(ratios, n=4)
            middle = statistics.median(ratios)
            print(f"{name}, {what}: {middle:.2f} of that without ({low:.2f} to {high:.2f}, {args.runs} rounds)")
    for index, name in enumerate(["tried first", "passed before", "without"]):
        print(f"{name}: opening {statistics.median(times[index]['opening'] for times in rounds):.0f} ms")


def measure(command):
    """What a command took."""
    start = time.perf_counter()
    process = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    seconds = time.perf_counter() - start
    return {"wall time": seconds, "opening": json.loads(process.stdout)["timings"]["open_ms"]}


if __name__ == "__main__":
    main()
