"""Cold process against a minimal Python script: start to picture written, in turns, one thread.

    python benches/cold.py [--runs 15] [--python venv/bin/python]

needs a release build, the fetched library, and a Python with onnxruntime, numpy and Pillow. Prints the ratio
safelight / Python of wall time and peak memory, pair by pair: median, and the middle half of the pairs.
"""

import sys
import tempfile

import pairs


def main():
    parser = pairs.arguments(__doc__)
    parser.add_argument("--python", default=sys.executable, help="one that has onnxruntime, numpy and Pillow")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        own = pairs.generate(args, f"{folder}/own.png", "--threads", "1")
        script, model = pairs.ROOT / "tests/reference/minimal.py", pairs.ROOT / "models/emoji"
        other = [args.python, script, model, "a red apple", "7", f"{folder}/other.png"]
        taken = pairs.rounds(args.runs, lambda: pairs.measure(own)[0], lambda: pairs.measure(other)[0])
    for name in ["wall time", "peak memory"]:
        pairs.tell(name, [own[name] / other[name] for own, other in taken], "the Python script's")


if __name__ == "__main__":
    main()
