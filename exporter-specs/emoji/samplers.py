"""A sheet of one picture by every sampler at several numbers of steps, made by the shipped graphs through `./run`.

    python samplers.py [--prompt "a red apple"] [--seed 3] [--steps 1,2,4,8,16] [--out ../../docs/pictures/samplers.png]

Rows are samplers with their default options, on the schedule "trailing" or their own; columns are steps. Adaptive
samplers choose their steps and have one picture. The names come from `./run generate --help`.
"""

import argparse
import re
import subprocess
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw

from runtime import ROOT

SIDE, LABEL, HEAD, GAP, MARGIN = 64, 132, 18, 3, 24


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--prompt", default="a red apple")
    arguments.add_argument("--seed", type=int, default=3)
    arguments.add_argument("--steps", default="1,2,4,8,16")
    arguments.add_argument("--out", type=Path, default=ROOT / "docs/pictures/samplers.png")
    options = arguments.parse_args()
    steps = [int(count) for count in options.steps.split(",")]
    names = samplers()
    rows = -(-len(names) // 2)
    width, height = LABEL + len(steps) * (SIDE + GAP) + MARGIN, HEAD + rows * (SIDE + GAP)
    sheet = Image.new("RGB", (2 * width, height), "white")
    draw = ImageDraw.Draw(sheet)
    with tempfile.TemporaryDirectory() as folder:
        for index, name in enumerate(names):
            left, top = index // rows * width, HEAD + index % rows * (SIDE + GAP)
            draw.text((left + 4, top + SIDE // 2 - 6), name, fill="black")
            for column, count in enumerate(steps):
                picture = generate(name, count, options, Path(folder) / "picture.png")
                if picture:
                    small = picture.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
                    sheet.paste(small, (left + LABEL + column * (SIDE + GAP), top))
        for half in range(2):
            for column, count in enumerate(steps):
                told = "1 step" if count == 1 else f"{count} steps"
                draw.text((half * width + LABEL + column * (SIDE + GAP) + 4, 3), told, fill="black")
    sheet.quantize(128).save(options.out, optimize=True)
    print(options.out)


def samplers():
    """The names in the table that `--help` prints under --sampler."""
    text = subprocess.run([ROOT / "run", "generate", "--help"], check=True, capture_output=True, text=True).stdout
    table = re.search(r"--sampler <NAME>(.*?)--schedule <NAME>", text, re.DOTALL).group(1)
    return re.findall(r"^ {12}([a-z0-9_]+) {2,}", table, re.MULTILINE)


def generate(sampler, steps, options, path):
    """The picture, or none where the sampler doesn't take so many steps."""
    command = [ROOT / "run", "generate", options.prompt, "--model", "emoji", "--seed", str(options.seed), "--quiet"]
    command += ["--sampler", sampler, "--out", path]
    if "adaptive" in sampler:
        command += [] if steps == 1 else ["--steps", str(steps)]
    else:
        command += ["--steps", str(steps)]
    path.unlink(missing_ok=True)
    made = subprocess.run(command, capture_output=True, text=True)
    if made.returncode == 2:
        return None
    made.check_returncode()
    return Image.open(path).convert("RGB")


if __name__ == "__main__":
    main()
