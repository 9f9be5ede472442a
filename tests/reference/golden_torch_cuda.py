"""Writes tests/golden/torch_cuda.json: what torch.randn gives on an NVIDIA GPU, which needs one.

    python tests/reference/golden_torch_cuda.py

Two draws of each seed one after the other, as long as safelight lets them be; a few numbers of both ends of each.
"""

import json
from pathlib import Path

import torch

LENGTH, KEPT = 82 * 1536, 12
GOLDEN = Path(__file__).resolve().parents[1] / "golden/torch_cuda.json"


def main():
    calls = [{"seed": seed, "draws": draw(seed)} for seed in (0, 42, 2**40 + 7)]
    told = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "length": LENGTH, "kept": KEPT}
    lines = ",\n".join(json.dumps(call) for call in calls)
    GOLDEN.write_text(json.dumps(told)[:-1] + ', "calls": [\n' + lines + "\n]}\n")


def draw(seed):
    generator = torch.Generator("cuda").manual_seed(seed)
    drawn = [torch.randn(LENGTH, device="cuda", generator=generator).cpu() for _ in range(2)]
    ends = [torch.cat([values[:KEPT], values[-KEPT:]]) for values in drawn]
    return [[float(str(value)) for value in values.numpy()] for values in ends]


main()
