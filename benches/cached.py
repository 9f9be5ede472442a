"""Cold process with the graphs that a cache keeps against one without: start to picture written, in turns, one thread.

    python benches/cached.py [--runs 15] [--precision int8] [--target x86-64-vnni] [--model emoji]

needs a release build and a library. Prints the ratio cached / not cached of wall time, of opening the pipeline and of
peak memory, pair by pair: median, and the middle half of the pairs. Fails where the cache was not used.
"""

import json
import tempfile

import pairs


def main():
    args = pairs.arguments(__doc__, precision="int8", target="generic-cpu", model="emoji").parse_args()
    with tempfile.TemporaryDirectory() as folder:
        device = ["--precision", args.precision, "--target", args.target, "--model", args.model]
        plain = pairs.generate(args, f"{folder}/picture.png", *device, "--threads", "1", "--json")
        cached = [*plain, "--cache", f"{folder}/cache"]
        # The round that does not count builds the cache.
        taken = pairs.rounds(args.runs, lambda: measure(cached), lambda: measure(plain))
    built = [stage for (_, report), _ in taken for stage, about in report["cached"].items() if about["outcome"] != "hit"]
    if built:
        raise SystemExit(f"the cache was not used: {sorted(set(built))} was built again")
    for name in ["wall time", "opening", "peak memory"]:
        pairs.tell(name, [own[0][name] / other[0][name] for own, other in taken], "that without")


def measure(command):
    """What a command took, and its report."""
    took, printed = pairs.measure(command)
    report = json.loads(printed)
    return {**took, "opening": report["timings"]["open_ms"]}, report


if __name__ == "__main__":
    main()
