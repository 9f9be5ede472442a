"""torch.randn on the CPU: what a seed means."""

from pathlib import Path

import numpy as np
import torch

from compact_json import write_json

SEEDS = [0, 1, 42, 2**32 - 1, 2**32 + 5, 2**63]
SIZES = [1, 3, 15, 16, 17, 64, 1024 + 7]
# Calls on one generator. Fewer than 16 numbers leave a cached normal behind, which longer calls neither use nor clear.
SEQUENCES = [[3, 5], [3, 16, 3], [1, 17, 2], [15, 64, 1, 1], [16, 3, 16], [1, 1, 1, 1], [1, 7, 1024 + 7, 4]]


def draw(seed, sizes):
    """The float32 numbers of successive calls on one generator, end to end."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.cat([torch.randn(size, generator=generator) for size in sizes]).numpy()


def write_noise(golden: Path):
    calls = [[size] for size in SIZES] + SEQUENCES
    cases, arrays = [], {}
    for seed in SEEDS:
        for sizes in calls:
            name = f"{seed}_{'_'.join(map(str, sizes))}"
            cases.append({"array": name, "seed": seed, "sizes": sizes})
            arrays[name] = draw(seed, sizes)
    write_json(golden / "noise.json", {"cases": cases})
    np.savez(golden / "noise.npz", **arrays)
