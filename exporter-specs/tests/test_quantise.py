"""INT8: outliers are found and kept in float, budgets met or refused, weights and activations as the recipe says."""

import numpy as np
import pytest
from graphs_by_hand import graph, mlp, node, random, rows, saved
from onnx import numpy_helper

from safelight_export import quantise
from safelight_export.fault import Fault
from safelight_export.graphs import Graph, relative_l2


def lowered(source, tmp_path, samples, **recipe):
    found = quantise.to_int8(saved(source, tmp_path / "a"), tmp_path / "int8.onnx", recipe, samples)
    return found, Graph.load(tmp_path / "int8.onnx")


def with_outliers(place):
    """An MLP of which one layer sees one element that is hundreds of times the others, which cancels behind it."""
    plain = mlp(5)
    scale = np.ones(32, np.float32)
    scale[3] = 3000
    plain.weights["up"], plain.weights["down"] = scale, 1 / scale
    nodes = []
    for entry in plain.nodes:
        if entry.name == f"layer.{place}":
            nodes += [node("Mul", [entry.input[0], "up"], "planted")]
            entry.input[0] = "planted"
            plain.weights[f"w{place}"] = plain.weights[f"w{place}"] / scale[:, None]
        nodes.append(entry)
    plain.set_nodes(nodes)
    return plain


def test_a_planted_outlier_is_found_and_stays_in_float(tmp_path):
    found, graph_ = lowered(with_outliers(2), tmp_path, rows(12, x=(4, 32)), budget=0.05)
    assert found["everything"] > 0.2 and found["relative_l2"] <= 0.05
    assert [each["layer"] for each in found["kept"]] == ["layer.2"]
    assert found["kept"][0]["why"] == "the error budget" and found["kept"][0]["alone"] == max(found["alone"].values())
    assert {entry.name for entry in graph_.nodes if entry.op_type == "Gemm"} == {f"layer.{i}" for i in range(5)}


def test_what_is_measured_is_what_runs(tmp_path):
    samples = rows(12, x=(4, 32))
    found, graph_ = lowered(mlp(), tmp_path, samples)
    held_out = samples[:2]
    whole, lower = mlp().session(), graph_.session()
    expected = relative_l2(*(np.stack([run.run(row)["y"] for row in held_out]) for run in (lower, whole)))
    assert found["relative_l2"] == pytest.approx(expected, rel=1e-3)
    assert found["relative_l2"] == pytest.approx(found["everything"], rel=0.05) and not found["kept"]


def test_a_budget_that_cannot_be_met_is_an_error(tmp_path):
    with pytest.raises(Fault, match="with 1 layers kept in float, expected at most 1e-06: raise"):
        lowered(mlp(), tmp_path, rows(12, x=(4, 32)), budget=1e-6, tries=1)


def test_layers_that_the_recipe_names_stay_in_float(tmp_path):
    found, graph_ = lowered(mlp(), tmp_path, rows(12, x=(4, 32)), float=[r"layer\.0$", "w3"])
    assert {each["layer"]: each["why"] for each in found["kept"]} == {"layer.0": "the recipe", "layer.3": "the recipe"}
    assert sum(array.dtype == np.int8 and array.ndim == 2 for array in graph_.weights.values()) == 2


def test_activations_are_u8_or_symmetric_s8(tmp_path):
    for kind, dtype in (("u8", np.uint8), ("s8", np.int8)):
        _, graph_ = lowered(mlp(), tmp_path, rows(12, x=(4, 32)), activations=kind)
        zeros = [graph_.weights[entry.input[2]] for entry in graph_.nodes if entry.op_type == "QuantizeLinear"]
        assert {zero.dtype for zero in zeros} == {np.dtype(dtype)}
        assert kind == "u8" or all(zero == 0 for zero in zeros)


def test_seven_bits_leave_room_for_sums_of_sixteen(tmp_path):
    _, graph_ = lowered(mlp(), tmp_path, rows(12, x=(4, 32)), weight_bits=7)
    greatest = max(np.abs(array.astype(int)).max() for array in graph_.weights.values() if array.dtype == np.int8)
    assert greatest == 63


def test_convolutions_take_their_relu_and_what_follows_them(tmp_path):
    weights = {"w0": random(16, 8, 3, 3, scale=0.1), "w1": random(16, 16, 3, 3, scale=0.1), "b": random(16)}
    pads = {"pads": [1, 1, 1, 1]}
    nodes = [node("Conv", ["x", "w0"], "c0", **pads), node("Relu", ["c0"], "r0"), node("Conv", ["r0", "w1", "b"], "c1", **pads)]
    nodes += [node("Add", ["c1", "r0"], "sum"), node("Relu", ["sum"], "y")]
    block = graph(nodes, weights, {"x": [1, 8, 12, 12]}, {"y": [1, 16, 12, 12]})
    found, graph_ = lowered(block, tmp_path, rows(6, x=(1, 8, 12, 12)), operators=["Conv", "Add", "Relu"])
    assert found["relative_l2"] < 0.03
    options = graph_.session().session.get_session_options()
    options.optimized_model_filepath = str(tmp_path / "seen.onnx")
    import onnxruntime

    onnxruntime.InferenceSession(str(tmp_path / "int8.onnx"), options, providers=["CPUExecutionProvider"])
    kinds = {entry.op_type for entry in Graph.load(tmp_path / "seen.onnx").nodes}
    assert "QLinearConv" in kinds and "QLinearAdd" in kinds and "Conv" not in kinds and "Relu" not in kinds


def test_tables_keep_a_scale_a_row(tmp_path):
    table = random(100, 16)
    table[7] *= 1000
    weights = {"table": table, "w": random(16, 16), "axis": np.array([1])}
    nodes = [node("Cast", ["ids"], "whole", to=7), node("Gather", ["table", "whole"], "rows"), node("MatMul", ["rows", "w"], "y")]
    encoder = graph(nodes, weights, {"ids": [1, 5]}, {"y": [1, 5, 16]})
    ids = [{"ids": np.array([[1, 2, 3, 4, 5 + index]], np.float32)} for index in range(8)]
    found, graph_ = lowered(encoder, tmp_path, ids, operators=["Gather"])
    assert found["relative_l2"] < 0.01 and next(a for a in graph_.weights.values() if a.dtype == np.int8).shape == (100, 16)


def test_nothing_to_quantise_is_an_error(tmp_path):
    with pytest.raises(Fault, match="has no layer of the recipe's operators"):
        lowered(mlp(), tmp_path, rows(12, x=(4, 32)), operators=["Conv"])


def test_large_weights_lie_at_pages_and_are_mapped(tmp_path):
    source = mlp(2, 64)
    source.save(tmp_path / "big.onnx", whole_bytes=1000)
    loaded = Graph.load(tmp_path / "big.onnx")
    assert isinstance(loaded.weights["w0"], np.memmap) and loaded.weights["w0"].offset % 4096 == 0
    np.testing.assert_array_equal(loaded.weights["w0"], source.weights["w0"])
    assert loaded.session().run({"x": random(2, 64)})["y"].shape == (2, 64)
    assert numpy_helper is not None


def test_memory_is_bounded_by_the_weights_that_are_changed(tmp_path):
    """In a process of its own: 256 MiB of weights in FP32 are quantised in less than they take."""
    import subprocess
    import sys
    from pathlib import Path

    script = f"""
import sys, resource
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[1])]!r}
from pathlib import Path
import numpy as np
from graphs_by_hand import mlp, rows
from safelight_export import quantise
from safelight_export.graphs import Graph
folder = Path({str(tmp_path)!r})
def anonymous():
    return next(int(l.split()[1]) for l in open('/proc/self/status') if l.startswith('RssAnon')) / 1024
big = Graph.load(folder / 'wide.onnx')
seen = []
original = quantise.rounded_weight
quantise.rounded_weight = lambda *args: (seen.append(anonymous()), original(*args))[1]
kept = quantise.Quantiser(big, quantise.find_layers(big, OPTIONS), BOUNDS, OPTIONS).graph()
kept.save(folder / 'out.onnx')
print(max(seen) - seen[0])
"""
    options = "OPTIONS = {'operators': ['Gemm'], 'activations': 'u8', 'weight_bits': 8, 'float': []}\n"
    bounds = "BOUNDS = {name: (-4.0, 4.0) for name in ['x', *(f'r{i}' for i in range(16)), *(f'h{i}' for i in range(16)), 'y']}\n"
    mlp(16, 2048).save(tmp_path / "wide.onnx", whole_bytes=1000)
    made = subprocess.run([sys.executable, "-c", options + bounds + script], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert float(made.stdout) < 128
