"""A contact sheet, made by the shipped graphs through `./run`, as anyone makes a picture.

    python sheet.py [--prompts prompts.txt] [--steps 4] [--seed 1] [--out ../../docs/pictures/emoji.png]
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from common import sheet
from runtime import generate

HERE = Path(__file__).parent


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--prompts", type=Path, default=HERE / "prompts.txt")
    arguments.add_argument("--steps", type=int, default=4)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--precision", default="int8")
    arguments.add_argument("--columns", type=int, default=8)
    arguments.add_argument("--out", type=Path, default=HERE.parents[1] / "docs/pictures/emoji.png")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        prompts = options.prompts.read_text().splitlines()
        paths = generate(prompts, Path(folder), options.steps, options.seed, options.precision)
        pictures = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    sheet(pictures, options.columns).save(options.out, optimize=True)
    print(options.out)


if __name__ == "__main__":
    main()
