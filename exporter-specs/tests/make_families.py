"""Writes tests/models/families and tests/golden/families: tiny checkpoints, exported by the package, run by diffusers.

python exporter-specs/tests/make_families.py [FAMILY ...]
"""

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "exporter-specs"), str(ROOT / "tests/reference")]

from compact_json import write_json  # noqa: E402
from families import DEFAULTS, FAMILIES  # noqa: E402
from legacy import write_legacy  # noqa: E402
from references import generate  # noqa: E402
from safelight_export.__main__ import without  # noqa: E402
from safelight_export.checkpoint import open_checkpoint  # noqa: E402
from safelight_export.export import Export  # noqa: E402
from safelight_export.spec import open_spec  # noqa: E402

MODELS, GOLDEN = ROOT / "tests/models/families", ROOT / "tests/golden/families"

# The older layout has the numbers of the newer one.
LEGACY = {"name": "legacy-ddim", "of": "sd15-ddim"}


def main():
    torch.set_num_threads(1)
    chosen = sys.argv[1:] or [family.name for family in FAMILIES]
    GOLDEN.mkdir(parents=True, exist_ok=True)
    draw_pictures()
    with tempfile.TemporaryDirectory() as folder:
        for family in FAMILIES:
            if family.name in chosen:
                make(family, Path(folder) / family.name)
    write_legacy(MODELS / "sd15", MODELS / "legacy-sd")
    shutil.copy(GOLDEN / f"{LEGACY['of']}.npz", GOLDEN / f"{LEGACY['name']}.npz")
    table = [case for family in FAMILIES for case in cases(family)]
    same = next(case for case in table if case["name"] == LEGACY["of"])
    legacy = same | {"name": LEGACY["name"], "model": "tests/models/families/legacy-sd", "layout": "optimum"}
    write_json(GOLDEN.with_suffix(".json"), {"cases": [*table, legacy]})


def cases(family):
    return [
        {"name": row["name"], "model": f"tests/models/families/{family.name}"} | DEFAULTS | row for row in family.cases
    ]


def make(family, folder):
    pipeline = save(family, folder)
    export(family, folder, MODELS / family.name)
    for case in cases(family):
        arrays = generate(pipeline, case)
        check(case, arrays)
        np.savez(GOLDEN / f"{case['name']}.npz", **arrays)
    check_steering(pipeline, cases(family)[0])


def save(family, folder):
    """The family's checkpoint in `folder`; returns diffusers' pipeline."""
    folder.mkdir()
    pipeline = family.build(folder / "words")
    pipeline.save_pretrained(folder / "checkpoint")
    return pipeline


def export(family, folder, out):
    shutil.rmtree(out, ignore_errors=True)
    spec = without(open_spec(family.spec), family.without)
    weights = open_checkpoint(folder / "checkpoint", spec)
    made = folder / out.name
    Export(spec, dict.fromkeys(spec.components, weights), made, ["fp32"], plain=True).run()
    shutil.copytree(made, out)


def check(case, arrays):
    name = case["name"]
    for key, values in arrays.items():
        assert np.isfinite(values).all(), f"{name}: {key} is not finite"
    contrast = arrays["images"].std(axis=(1, 2, 3)).min()
    clipped = np.isin(arrays["images"], (0, 255)).mean()
    print(f"{name}: latents {arrays['latents'].std():.2f}, contrast {contrast:.0f}, clipped {clipped:.0%}")
    assert contrast > 10 and clipped < 0.5, name


def check_steering(pipeline, case):
    """Words, classes and guidance must each move the latents by much more than the tests allow."""
    base = generate(pipeline, case)["latents"]
    changes = {"prompts": ["the moon!"]} if case["prompts"] else {"conditions": {"class": 3}}
    steered = case["prompts"] or case["conditions"]
    for change in [changes] * bool(steered) + [{"guidance": case["guidance"] + 1.5}] * (case["guidance"] > 1):
        moved = np.linalg.norm(generate(pipeline, case | change)["latents"] - base) / np.linalg.norm(base)
        assert moved > 0.01, f"{case['name']}: {change} moves latents by {moved:.1e}"


def draw_pictures():
    """An input picture with slopes, edges and colours, and a mask whose edge lies across latent cells."""
    y, x = np.mgrid[0:64, 0:64]
    channels = np.stack([4 * x, 4 * y, 255 - 2 * (x + y)], axis=-1).clip(0, 255).astype(np.uint8)
    picture = Image.fromarray(channels)
    ImageDraw.Draw(picture).ellipse((12, 20, 44, 52), fill=(220, 40, 30))
    picture.save(GOLDEN / "picture.png")
    mask = Image.new("L", (64, 64))
    ImageDraw.Draw(mask).ellipse((18, 10, 57, 46), fill=255)
    mask.save(GOLDEN / "mask.png")


if __name__ == "__main__":
    main()
