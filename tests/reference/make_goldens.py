"""Writes tests/golden from torch, diffusers, tokenizers and onnxruntime."""

import argparse
from pathlib import Path

import torch

from golden_guidance import write_guidance
from golden_inspect import write_inspect
from golden_noise import write_noise
from golden_pipelines import write_pipelines
from golden_samplers import write_samplers
from golden_schedules import write_schedules
from golden_tokens import write_tokens

REPOSITORY = Path(__file__).resolve().parents[2]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("emoji", nargs="?", type=Path, default=REPOSITORY / "models/emoji")
    emoji = parser.parse_args().emoji
    models, golden = REPOSITORY / "tests/models", REPOSITORY / "tests/golden"
    golden.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    write_noise(golden)
    write_schedules(golden)
    write_guidance(golden)
    write_tokens(models, emoji, golden)
    write_samplers(golden)
    write_pipelines(REPOSITORY, emoji, golden)
    write_inspect(golden)


if __name__ == "__main__":
    main()
