"""A generation that keeps what it has done, against one that does not.

    python benches/checkpoint.py [--runs 15] [--every 1] [--steps 100] [--target x86-64-vnni] [--model emoji] [--folder .]

needs a release build and a library. In turns: with --checkpoint-every, which waits for the disk that often, and without.
Prints the ratio of the time from the request to the pictures, without opening: median, and the middle half of the rounds;
and what a step takes longer. The checkpoint lies in the folder, whose disk is what is waited for.
"""

import json
import statistics
import tempfile

import pairs


def main():
    defaults = {"every": 1, "steps": 100, "target": "generic-cpu", "model": "emoji", "folder": "."}
    args = pairs.arguments(__doc__, **defaults).parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        what = ["--steps", str(args.steps), "--sampler", "ddim", "--target", args.target, "--model", args.model, "--json"]
        command = pairs.generate(args, f"{folder}/picture.png", *what)
        keeping = [*command, "--checkpoint-every", str(args.every)]
        taken = pairs.rounds(args.runs, lambda: total_ms(keeping), lambda: total_ms(command))
    pairs.tell(f"keeping every {args.every} steps", [kept / bare for kept, bare in taken], "the time without")
    more = [(kept - bare) / int(args.steps) for kept, bare in taken]
    bare = statistics.median(bare for _, bare in taken) / int(args.steps)
    print(f"a step: {bare:.2f} ms, and {statistics.median(more):.3f} ms more")


def total_ms(command):
    return json.loads(pairs.measure(command)[1])["timings"]["total_ms"]


if __name__ == "__main__":
    main()
