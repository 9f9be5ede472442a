"""Cold process with the graphs that a cache keeps against one without: start to picture written, in turns, one thread.

    python benches/cached.py [--runs 15] [--precision int8] [--target x86-64-vnni]

needs a release build and a library. Prints the ratio cached / not cached of wall time, of opening the pipeline and of
peak memory, pair by pair: median, and the middle half of the pairs. Fails where the cache was not used.
"""

import argparse
import json
import os
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
    parser.add_argument("--binary", default=ROOT / "target/release/safelight")
    args = parser.parse_args()
    os.environ.setdefault("ORT_DYLIB_PATH", str(ROOT / ".onnxruntime/host"))
    os.environ["SAFELIGHT_HOME"] = str(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        plain = [args.binary, "generate", "a red apple", "--seed", "7", "--threads", "1", "--quiet", "--json"]
        plain += ["--precision", args.precision, "--target", args.target, "--out", f"{folder}/picture.png"]
        cached = [*plain, "--cache", f"{folder}/cache"]
        # One round of both that does not count: it builds the cache, and files are in memory for both.
        pairs = [(measure(cached), measure(plain)) for _ in range(args.runs + 1)][1:]
    built = [stage for (_, report), _ in pairs for stage, about in report["cached"].items() if about["outcome"] != "hit"]
    if built:
        raise SystemExit(f"the cache was not used: {sorted(set(built))} was built again")
    for name in ["wall time", "opening", "peak memory"]:
        ratios = sorted(own[0][name] / other[0][name] for own, other in pairs)
        low, _, high = statistics.quantiles(ratios, n=4)
        print(f"{name}: {statistics.median(ratios):.2f} of that without ({low:.2f} to {high:.2f}, {args.runs} pairs)")


def measure(command):
    """What a command took, and its report."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    report = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        raise SystemExit(f"{command[0]} failed")
    report = json.loads(report)
    took = {"wall time": seconds, "opening": report["timings"]["open_ms"], "peak memory": usage.ru_maxrss}
    return took, report


if __name__ == "__main__":
    main()
