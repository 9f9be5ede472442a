"""Cold process whose graphs are tried in a process of their own first, against one that opens them right away.

    python benches/probe.py [--runs 15] [--precision int8] [--target x86-64-vnni] [--model emoji]

needs a release build and a library. In turns: graphs that were never opened before, graphs that have passed, and
--no-probe. Prints the ratios of the first two to the third, of wall time from start to picture written, and of opening
the pipeline: median, and the middle half of the rounds.
"""

import json
import os
import shutil
import statistics
import tempfile
from pathlib import Path

import pairs


def main():
    args = pairs.arguments(__doc__, precision="int8", target="generic-cpu", model="emoji").parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SAFELIGHT_CACHE"] = f"{folder}/cache"
        device = ["--precision", args.precision, "--target", args.target, "--model", args.model]
        command = pairs.generate(args, f"{folder}/picture.png", *device, "--steps", "1", "--json")

        def first():
            shutil.rmtree(f"{folder}/cache", ignore_errors=True)
            return measure(command)

        taken = pairs.rounds(args.runs, first, lambda: measure(command), lambda: measure([*command, "--no-probe"]))
        # A round leaves what has passed: that of the second is that of the first.
        assert len(list(Path(folder, "cache/probed").iterdir())) >= 3
    for index, way in enumerate(["tried first", "passed before"]):
        for name in ["wall time", "opening"]:
            pairs.tell(f"{way}, {name}", [times[index][name] / times[2][name] for times in taken], "that without")
    for index, way in enumerate(["tried first", "passed before", "without"]):
        print(f"{way}: opening {statistics.median(times[index]['opening'] for times in taken):.0f} ms")


def measure(command):
    """What a command took."""
    took, printed = pairs.measure(command)
    return {**took, "opening": json.loads(printed)["timings"]["open_ms"]}


if __name__ == "__main__":
    main()
