"""What cold.py, cached.py and probe.py share: processes that are measured in turns, and ratios between them.

`safelight bench --scenario cold` measures one way of starting. These compare ways that must alternate, so that whatever
else the machine does disturbs all of them alike.
"""

import argparse
import os
import statistics
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def arguments(documentation, **defaults):
    """A parser of how many runs of which binary, and of what has a default besides."""
    parser = argparse.ArgumentParser(description=documentation, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--binary", default=ROOT / "target/release/safelight")
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", default=default)
    return parser


def generate(args, picture, *more):
    """The command that makes the picture."""
    os.environ.setdefault("ORT_DYLIB_PATH", str(ROOT / ".onnxruntime/host"))
    os.environ["SAFELIGHT_HOME"] = str(ROOT)
    return [args.binary, "generate", "a red apple", "--seed", "7", "--quiet", "--out", picture, *more]


def measure(command):
    """Wall seconds and peak resident memory of a command, and what it printed."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        raise SystemExit(f"{command[0]} failed")
    return {"wall time": seconds, "peak memory": usage.ru_maxrss}, printed


def rounds(runs, *ways):
    """What each way gave, in turns; one round that does not count comes first: files are in memory for all."""
    return [tuple(way() for way in ways) for _ in range(runs + 1)][1:]


def tell(name, ratios, other):
    """Prints the median and the middle half."""
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"{name}: {middle:.2f} of {other} ({low:.2f} to {high:.2f}, {len(ratios)} rounds)")
