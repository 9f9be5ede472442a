"""Cold process against a minimal Python script: start to picture written, in turns, one thread.

    python benches/cold.py [--runs 15] [--python venv/bin/python]

needs a release build, the fetched library, and a Python with onnxruntime, numpy and Pillow. Prints the ratio
safelight / Python of wall time and peak memory, pair by pair: median, and the middle half of the pairs.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "models/emoji"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--python", default=sys.executable, help="one that has onnxruntime, numpy and Pillow")
    args = parser.parse_args()
    os.environ.setdefault("ORT_DYLIB_PATH", str(ROOT / ".onnxruntime/host"))
    os.environ["SAFELIGHT_HOME"] = str(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        own = [ROOT / "target/release/safelight", "generate", "a red apple", "--seed", "7", "--threads", "1", "--quiet"]
        own += ["--out", f"{folder}/own.png"]
        other = [args.python, ROOT / "tests/reference/minimal.py", MODEL, "a red apple", "7", f"{folder}/other.png"]
        # One round of both that does not count, so that files are in memory for both.
        pairs = [(measure(own), measure(other)) for _ in range(args.runs + 1)][1:]
    for index, name in enumerate(["wall time", "peak memory"]):
        ratios = sorted(own[index] / other[index] for own, other in pairs)
        low, _, high = statistics.quantiles(ratios, n=4)
        print(f"{name}: {statistics.median(ratios):.2f} of the Python script's ({low:.2f} to {high:.2f}, {args.runs} pairs)")


def measure(command):
    """Wall seconds and peak resident bytes of a command."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        raise SystemExit(f"{command[0]} failed")
    return seconds, usage.ru_maxrss


if __name__ == "__main__":
    main()
