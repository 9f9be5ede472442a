"""Every family's tiny checkpoint, exported again: the committed graphs, and diffusers' numbers, are what comes out."""

from pathlib import Path

import make_families
import numpy as np
import onnxruntime
import pytest
import torch
from families import FAMILIES

from safelight_export import trace
from safelight_export.files import sha256
from safelight_export.graphs import relative_l2

ROOT = Path(__file__).resolve().parents[2]
TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
AXES = trace.axis_sizes(2, 8, 8, 8)


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.name)
def made(request, tmp_path_factory):
    """(family, diffusers' pipeline, folder of the export)."""
    torch.set_num_threads(1)
    family, folder = request.param, tmp_path_factory.mktemp("family") / "made"
    pipeline = make_families.save(family, folder)
    make_families.export(family, folder, folder / "out" / family.name)
    return family, pipeline, folder / "out" / family.name


def test_the_committed_graphs_are_what_the_package_makes(made):
    family, _, folder = made
    for path in sorted(folder.rglob("*.onnx")):
        committed = make_families.MODELS / family.name / path.relative_to(folder)
        # Another processor may round the weights' gains elsewhere; then numbers decide.
        if sha256(path) != sha256(committed):
            ours, theirs = (outputs(file) for file in (path, committed))
            for name, values in ours.items():
                assert relative_l2(values, theirs[name]) < 1e-4, f"{family.name}: {path.parent.name}: {name}"


def outputs(path):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    feeds = {}
    for entry in session.get_inputs():
        shape = [size if isinstance(size, int) else AXES[size] for size in entry.shape]
        values = random.uniform(0, 5, shape) if entry.type == "tensor(int64)" else random.standard_normal(shape)
        feeds[entry.name] = values.astype(TYPES[entry.type])
    return dict(zip([entry.name for entry in session.get_outputs()], session.run(None, feeds)))


def test_the_manifest_lists_what_is_there(made):
    family, _, folder = made
    fresh, committed = ((place / "model.yaml").read_text() for place in (folder, make_families.MODELS / family.name))
    for line in fresh.splitlines():
        if not line.startswith("#") and "sha256" not in line:
            assert line in committed.splitlines(), line


def test_diffusers_gives_the_committed_numbers(made):
    family, pipeline, _ = made
    case = make_families.cases(family)[0]
    golden = np.load(make_families.GOLDEN / f"{case['name']}.npz")
    arrays = make_families.generate(pipeline, case)
    assert arrays.keys() == set(golden.files)
    for name in ("initial", "steps", "latents"):
        assert relative_l2(arrays[name], golden[name]) < 1e-4, f"{case['name']}: {name}"
