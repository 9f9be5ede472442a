"""What a seed means: torch.randn on the CPU, and the other sources of noise."""

from pathlib import Path

import numpy as np
import torch

from compact_json import write_json

SEEDS = [0, 1, 42, 2**32 - 1, 2**32 + 5, 2**63]
SIZES = [1, 3, 15, 16, 17, 64, 1024 + 7]
# Calls on one generator. Fewer than 16 numbers leave a cached normal behind, which longer calls neither use nor clear.
SEQUENCES = [[3, 5], [3, 16, 3], [1, 17, 2], [15, 64, 1, 1], [16, 3, 16], [1, 1, 1, 1], [1, 7, 1024 + 7, 4]]

# Calls on one generator: an odd one leaves NumPy a cached normal, and moves Philox to its next counter.
SOURCE_SIZES = [5, 8, 1]


def draw(seed, sizes):
    """The float32 numbers of successive calls on one generator, end to end."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.cat([torch.randn(size, generator=generator) for size in sizes]).numpy()


def draw_numpy(seed, sizes):
    """NumPy's legacy generator, which takes seeds of 32 bits only."""
    generator = np.random.RandomState(seed % 2**32)
    return np.concatenate([generator.standard_normal(size) for size in sizes])


def philox(counter, key):
    """Philox 4x32-10 (Salmon et al. 2011) of four arrays and two words."""
    words, key = [np.asarray(word, np.uint64) for word in counter], list(key)
    for _ in range(10):
        first, second = words[0] * np.uint64(0xD2511F53), words[2] * np.uint64(0xCD9E8D57)
        words = [
            second >> np.uint64(32) ^ words[1] ^ np.uint64(key[0]),
            second & np.uint64(2**32 - 1),
            first >> np.uint64(32) ^ words[3] ^ np.uint64(key[1]),
            first & np.uint64(2**32 - 1),
        ]
        key = [(key[0] + 0x9E3779B9) % 2**32, (key[1] + 0xBB67AE85) % 2**32]
    return words


def draw_cuda(seed, sizes):
    """What torch.randn gives on a GPU, written anew in NumPy, because a reference must not need a GPU.

    Philox's words become float32 as in cuRAND; the rest is float64, so that its own rounding does not count.
    """
    unit, draws = np.float32(2**-32), []
    turn = unit * np.float32(2 * np.pi)
    for call, size in enumerate(sizes):
        index, zero = np.arange(size), np.zeros(size)
        words = philox([zero + call, zero, index, zero], [seed % 2**32, seed >> 32])
        uniform = words[0].astype(np.float32) * unit + unit / 2
        angle = words[1].astype(np.float32) * turn + turn / 2
        draws.append(np.sqrt(-2 * np.log(uniform, dtype=np.float64)) * np.sin(angle, dtype=np.float64))
    return np.concatenate(draws)


def compact(values):
    """Python floats with no more digits than float32 has."""
    return [float(str(value)) for value in values.astype(np.float32)]


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
    write_noise_sources(golden)


def write_noise_sources(golden: Path):
    drawn = {
        name: [{"seed": seed, "sizes": SOURCE_SIZES, "values": compact(source(seed, SOURCE_SIZES))} for seed in SEEDS]
        for name, source in [("torch_cuda", draw_cuda), ("numpy", draw_numpy)]
    }
    write_json(golden / "noise_sources.json", drawn)
