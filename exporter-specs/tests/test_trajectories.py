"""Whole pictures are diffusers' own pipelines' pictures, and what is recorded on the way is what the graphs took."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from safelight_export import trajectories
from safelight_export.graphs import Graph, relative_l2

ROOT = Path(__file__).resolve().parents[2]
CASES = json.loads((ROOT / "tests/golden/families.json").read_text())["cases"]


def model(folder, precision):
    manifest = yaml.safe_load((folder / "model.yaml").read_text())
    graphs = {stage: folder / entry["graphs"][precision]["file"] for stage, entry in manifest["stages"].items()}
    return trajectories.Model(manifest, folder, graphs)


def usual(case):
    """Cases whose sampler is the model's own, as a golden's is."""
    path = ROOT / case["model"] / "model.yaml"
    if not path.is_file() or case["batch"] != 1 or case["task"] != "text-to-image" or case["negative"] or case["eta"]:
        return False
    manifest = yaml.safe_load(path.read_text())
    wanted = (case["sampler"], case["schedule"])
    defaults = (manifest["defaults"]["sampler"], manifest["defaults"]["schedule"])
    return wanted == defaults and trajectories.exact(manifest)


@pytest.mark.parametrize("case", [case for case in CASES if usual(case)], ids=lambda case: case["name"])
def test_pictures_are_those_of_the_pipelines(case):
    tiny = model(ROOT / case["model"], "fp32")
    changes = {"steps": case["steps"], "guidance": case["guidance"], "size": (case["height"], case["width"])}
    if case.get("conditions"):
        changes["conditions"] = case["conditions"]
    request = trajectories.defaults(tiny.manifest, "".join(case["prompts"]), case["seed"], **changes)
    found = trajectories.generate(tiny, [request])[0]
    golden = np.load(ROOT / f"tests/golden/families/{case['name']}.npz")
    assert relative_l2(found["initial"], golden["initial"]) < 1e-6
    assert relative_l2(found["latents"], golden["latents"]) < 1e-4
    assert np.abs(found["images"].astype(int) - golden["images"]).max() <= 1


def test_the_shipped_goldens_are_met():
    emoji = model(ROOT / "models/emoji", "fp16")
    for entry in emoji.manifest["goldens"]:
        request = trajectories.defaults(emoji.manifest, entry["prompt"], entry["seed"], steps=entry["steps"])
        found, golden = trajectories.generate(emoji, [request])[0], np.load(ROOT / "models/emoji" / entry["file"])
        assert relative_l2(found["steps"], golden["steps"]) < 2e-3


def test_what_is_recorded_is_what_the_graphs_took(tmp_path):
    emoji = model(ROOT / "models/emoji", "fp16")
    told = trajectories.record(emoji, tmp_path, ["a red apple", "a blue house"], count=3)
    assert told["rows"]["denoiser"] == 12 and told["rows"]["decoder"] == told["rows"]["encoder"] == 3
    for stage, graph in (("denoiser", "unet"), ("encoder", "vae_encoder"), ("text_encoder", "text_encoder")):
        row = dict(np.load(tmp_path / f"{stage}-000001.npz"))
        assert set(row) == set(Graph.load(ROOT / f"models/emoji/{graph}.fp16.onnx").inputs())
    first, second = (np.load(tmp_path / f"denoiser-00000{i}.npz")["timestep"] for i in (1, 2))
    assert first > second
