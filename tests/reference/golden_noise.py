"""What a seed means: torch.randn on the CPU, and the other sources of noise."""

from pathlib import Path

import numpy as np
import torch
import torchsde

from compact_json import write_json

SEEDS = [0, 1, 42, 2**32 - 1, 2**32 + 5, 2**63]
SIZES = [1, 3, 15, 16, 17, 64, 1024 + 7]
# Calls on one generator. Fewer than 16 numbers leave a cached normal behind, which longer calls neither use nor clear.
SEQUENCES = [[3, 5], [3, 16, 3], [1, 17, 2], [15, 64, 1, 1], [16, 3, 16], [1, 1, 1, 1], [1, 7, 1024 + 7, 4]]

# Calls on one generator: an odd one leaves NumPy a cached normal, and moves Philox to its next counter.
SOURCE_SIZES = [5, 8, 1]

# A seed of torchsde's nodes: the way from the root, in one word or two, and the depth.
SPAWN_KEYS = [[], [0, 0], [5, 3], [1, 4, 35]]

# The largest and the smallest sigma of SD 1.x, and four between them.
SD_SIGMAS = [14.614641, 7.4889535, 3.5110276, 1.4671048, 0.52433419, 0.02916753]
SD_STEPS = list(zip(SD_SIGMAS, SD_SIGMAS[1:]))
BROWNIAN = [
    # One image, the steps of a sampler.
    {"seeds": [0], "shape": [1, 1, 4, 4], "sigmas": [SD_SIGMAS[-1], SD_SIGMAS[0]], "steps": SD_STEPS},
    # One tree for two images, against one for each; 9 numbers an image are drawn one by one, 16 or more in blocks.
    # The first sigma has another sixth decimal in float32.
    {"shared_seed": 1, "shape": [2, 1, 3, 3], "sigmas": [0.03, 80.0], "steps": [(40.1234567, 2.5), (2.5, 0.5)]},
    {"seeds": [1, 2**32 + 5], "shape": [2, 1, 3, 3], "sigmas": [0.03, 80.0], "steps": [(40.1234567, 2.5), (2.5, 0.5)]},
    # A whole tree, upwards, a half of it, and sigmas that lie half-way between two times of torchsde's six decimals.
    {
        "shared_seed": 2**63,
        "shape": [1, 1, 3, 7],
        "sigmas": [0.0, 1.0],
        "steps": [(0.0, 1.0), (1.0, 0.5), (0.0078125, 0.0234375), (0.3, 0.30001), (0.0, 0.000001)],
    },
    # A tree so wide that the numbers of its nodes need two words.
    {"seeds": [7], "shape": [1, 1, 4, 4], "sigmas": [0.002, 20000.0], "steps": [(19999.0, 19998.5), (0.1, 0.002)]},
    # Every 2048th number of a latent of SD 1.x.
    {
        "seeds": [42],
        "shape": [1, 4, 64, 64],
        "sigmas": [SD_SIGMAS[-1], SD_SIGMAS[0]],
        "steps": [SD_STEPS[0], SD_STEPS[3], (SD_SIGMAS[2], SD_SIGMAS[4])],
        "every": 2048,
    },
]


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


def spawn(entropy, spawn_key):
    """The seed that torchsde takes from NumPy for a node."""
    return int(np.random.SeedSequence(entropy, spawn_key=spawn_key, pool_size=24).generate_state(1)[0])


def draw_brownian(case):
    """The numbers of each step, or every `every`th of them, as from k-diffusion's BrownianTreeNoiseSampler.

    Its few lines are written anew around torchsde, because k-diffusion cannot be installed beside NumPy 2.
    """
    first, last = map(torch.tensor, case["sigmas"])
    shape, seeds = case["shape"], case.get("seeds")
    # A single seed makes one tree of the whole batch, a list one tree for each image.
    entropies, start = (seeds, torch.zeros(shape[1:])) if seeds else ([case["shared_seed"]], torch.zeros(shape))
    trees = [torchsde.BrownianTree(first, start, last, entropy=entropy) for entropy in entropies]
    return [compact(increment(trees, *step).flatten()[:: case.get("every", 1)].numpy()) for step in case["steps"]]


def increment(trees, sigma, sigma_next):
    start, end = torch.tensor(sigma), torch.tensor(sigma_next)
    low, high, sign = (start, end, 1) if start < end else (end, start, -1)
    return torch.stack([tree(low, high) for tree in trees]) * sign / (end - start).abs().sqrt()


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
    words = [{"entropy": seed, "spawn_key": key, "word": spawn(seed, key)} for seed in SEEDS for key in SPAWN_KEYS]
    brownian = [{**case, "values": draw_brownian(case)} for case in BROWNIAN]
    write_json(golden / "noise_sources.json", {**drawn, "seed_sequence": words, "brownian": brownian})
