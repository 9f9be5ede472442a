"""Writes tests/golden from torch, diffusers, tokenizers and onnxruntime."""

import argparse
from pathlib import Path

import torch

from golden_noise import write_noise
from golden_tokens import write_tokens

REPOSITORY = Path(__file__).resolve().parents[2]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bootstrap", nargs="?", type=Path, default=REPOSITORY / "models/emoji-bootstrap")
    bootstrap = parser.parse_args().bootstrap
    models, golden = REPOSITORY / "tests/models", REPOSITORY / "tests/golden"
    golden.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    write_noise(golden)
    write_tokens(models, bootstrap, golden)


if __name__ == "__main__":
    main()
