"""FP16: overflows are found where a CPU hides them, rounding is imitated honestly, edges stay float32."""

import numpy as np
import pytest
from graphs_by_hand import graph, mlp, node, random, rows, saved
from onnx import TensorProto

from safelight_export import half
from safelight_export.fault import Fault
from safelight_export.graphs import Graph, relative_l2


def lowered(source, tmp_path, samples, **recipe):
    found = half.to_half(saved(source, tmp_path / "a"), tmp_path / "fp16.onnx", recipe, samples)
    return found, Graph.load(tmp_path / "fp16.onnx")


def overflowing():
    """The middle of this is beyond FP16, the outputs are not."""
    plain = mlp(3)
    plain.weights |= {"large": np.array(1e5, np.float32), "small": np.array(1e-5, np.float32)}
    nodes = []
    for entry in plain.nodes:
        if entry.name == "layer.2":
            nodes += [node("Mul", ["r1", "large"], "huge"), node("Mul", ["huge", "small"], "back")]
            entry.input[0] = "back"
        nodes.append(entry)
    plain.set_nodes(nodes)
    return plain


def test_an_overflow_is_found_and_kept_in_float32(tmp_path):
    found, graph_ = lowered(overflowing(), tmp_path, rows(8, x=(4, 32)))
    assert [each["layer"] for each in found["kept"]] == ["huge"] and "FP16 ends at 65504" in found["kept"][0]["why"]
    assert found["greatest"]["huge"] > 65504 and found["relative_l2"] < 0.002
    names = {entry.name: entry for entry in graph_.nodes}
    assert any(entry.op_type == "Cast" and entry.output[0] == names["huge"].input[0] for entry in graph_.nodes)


def test_what_only_fp16_cannot_count_is_found(tmp_path):
    plain = mlp(2)
    plain.weights["tiny"], plain.weights["grow"] = np.array(1e-7, np.float32), np.array(1e7, np.float32)
    nodes = [node("Mul", ["x", "tiny"], "shrunk"), node("Mul", ["shrunk", "grow"], "grown"), *plain.nodes]
    nodes[2].input[0] = "grown"
    plain.set_nodes(nodes)
    found, _ = lowered(plain, tmp_path, rows(8, x=(4, 32)))
    reasons = {each["layer"]: each["why"] for each in found["kept"]}
    assert "FP16 is coarse below" in reasons["shrunk"] and "weights beyond FP16" in reasons["grown"]


def test_edges_stay_float32_and_weights_are_halved(tmp_path):
    _, graph_ = lowered(mlp(), tmp_path, rows(8, x=(4, 32)))
    edges = [*graph_.model.graph.input, *graph_.model.graph.output]
    assert {entry.type.tensor_type.elem_type for entry in edges} == {TensorProto.FLOAT}
    assert {array.dtype for array in graph_.weights.values()} == {np.dtype(np.float16)}


def test_the_imitation_rounds_as_fp16_does():
    values = random(1000) * np.exp(random(1000, seed=1) * 2)
    values = values[np.abs(values) > half.LEAST]  # what lies below is scanned for instead
    identity = graph([node("Relu", ["x"], "r"), node("Neg", ["r"], "y")], {}, {"x": ["n"]}, {"y": ["n"]})
    made = half.imitation(identity, {"x", "r", "y"}, set()).session(level="none").run({"x": np.abs(values)})["y"]
    np.testing.assert_array_equal(made, -np.abs(values).astype(np.float16).astype(np.float32))


def test_the_imitation_is_as_far_as_numpy_in_fp16(tmp_path):
    samples = rows(8, x=(64, 32))
    found, _ = lowered(mlp(), tmp_path, samples)
    plain, expected, got = mlp(), [], []
    for row in samples[:2]:
        h, x = row["x"].astype(np.float16), row["x"]
        for index in range(4):
            w, b = plain.weights[f"w{index}"], plain.weights[f"b{index}"]
            x = x @ w + b
            h = (h.astype(np.float32) @ w.astype(np.float16).astype(np.float32) + b.astype(np.float16)).astype(np.float16)
            x, h = (np.maximum(x, 0), np.maximum(h, 0)) if index < 3 else (x, h)
        expected.append(x)
        got.append(h)
    # The graph's own input is float32, here it is rounded.
    assert found["relative_l2"] == pytest.approx(relative_l2(np.stack(got), np.stack(expected)), rel=0.25)


def test_a_resize_keeps_its_scales_in_float32(tmp_path):
    weights = {"none": np.zeros(0, np.float32), "scales": np.array([1, 1, 2, 2], np.float32), "w": random(4, 4, 1, 1)}
    nodes = [node("Resize", ["x", "none", "scales"], "large", mode="nearest"), node("Conv", ["large", "w"], "y")]
    grown = graph(nodes, weights, {"x": ["batch", 4, 8, 8]}, {"y": ["batch", 4, 16, 16]})
    _, graph_ = lowered(grown, tmp_path, rows(8, x=(1, 4, 8, 8)))
    resize = next(entry for entry in graph_.nodes if entry.op_type == "Resize")
    assert graph_.weights[resize.input[2]].dtype == np.float32
    assert graph_.session().run({"x": random(2, 4, 8, 8)})["y"].shape == (2, 4, 16, 16)


def test_angles_stay_in_float32(tmp_path):
    weights = {"frequencies": np.exp(-np.arange(16) / 2).astype(np.float32), "w": random(16, 16)}
    nodes = [node("Mul", ["t", "frequencies"], "angle"), node("Sin", ["angle"], "wave"), node("MatMul", ["wave", "w"], "y")]
    embedding = graph(nodes, weights, {"t": [1, 1]}, {"y": [1, 16]})
    times = [{"t": np.array([[999.0 - index]], np.float32)} for index in range(8)]
    found, _ = lowered(embedding, tmp_path, times)
    assert found["relative_l2"] < 0.002 and found["kept_by_kind"] == 2


def test_a_budget_brings_nodes_back_or_is_refused(tmp_path):
    free, _ = lowered(mlp(8), tmp_path, rows(8, x=(4, 32)))
    found, _ = lowered(mlp(8), tmp_path, rows(8, x=(4, 32)), budget=free["relative_l2"] / 1.5)
    assert found["relative_l2"] <= free["relative_l2"] / 1.5
    assert {each["why"] for each in found["kept"]} == {"the error budget"}
    with pytest.raises(Fault, match="raise the budget"):
        lowered(mlp(8), tmp_path, rows(8, x=(4, 32)), budget=-1.0)
