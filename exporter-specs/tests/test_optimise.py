"""Rewriting keeps the numbers and finds what it is for."""

import numpy as np
import pytest
from graphs_by_hand import graph, node, random, saved

from safelight_export import optimise, shapes
from safelight_export.fault import Fault
from safelight_export.graphs import Graph

WIDTH, HEADS = 32, 4


def kinds(path):
    return [entry.op_type for entry in Graph.load(path).nodes]


def linear(weights, name, source, inputs=WIDTH, outputs=WIDTH, bias=True):
    weights[f"{name}.weight"] = random(inputs, outputs, scale=inputs**-0.5, seed=len(weights))
    product = node("MatMul", [source, f"{name}.weight"], f"{name}.product", f"{name}/MatMul")
    if not bias:
        return [product], f"{name}.product"
    weights[f"{name}.bias"] = random(outputs, seed=len(weights))
    return [product, node("Add", [f"{name}.bias", f"{name}.product"], f"{name}.sum")], f"{name}.sum"


def attention_block():
    """x [b, n, width] as exporters write attention: heads by shapes that are computed, scales on both sides."""
    weights = {"zero": np.array(0), "one": np.array(1), "heads": np.array([HEADS]), "rest": np.array([-1]), "axis": np.array([0])}
    weights["scale"] = np.array((WIDTH // HEADS) ** -0.25, np.float32)
    nodes = [node("Shape", ["x"], "shape"), node("Gather", ["shape", "zero"], "batch"), node("Gather", ["shape", "one"], "length")]
    nodes += [node("Unsqueeze", ["batch", "axis"], "batches"), node("Unsqueeze", ["length", "axis"], "lengths")]
    split, merged = node("Concat", ["batches", "lengths", "heads", "rest"], "split", axis=0), node("Concat", ["batches", "lengths", "rest"], "merged", axis=0)
    nodes += [split, merged]
    for name, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        made, output = linear(weights, name, "x", bias=False)
        nodes += [*made, node("Reshape", [output, "split"], f"{name}.heads"), node("Transpose", [f"{name}.heads"], f"{name}.turned", perm=perm)]
    nodes += [node("Mul", ["q.turned", "scale"], "q.scaled"), node("Mul", ["k.turned", "scale"], "k.scaled")]
    nodes += [node("MatMul", ["q.scaled", "k.scaled"], "scores"), node("Softmax", ["scores"], "softmax", "attn/Softmax", axis=-1)]
    nodes += [node("MatMul", ["softmax", "v.turned"], "mixed"), node("Transpose", ["mixed"], "back", perm=[0, 2, 1, 3])]
    nodes += [node("Reshape", ["back", "merged"], "joined")]
    made, output = linear(weights, "out", "joined")
    nodes += [*made, node("Identity", [output], "y")]
    return graph(nodes, weights, {"x": ["batch", "height", WIDTH]}, {"y": ["batch", "height", WIDTH]})


def test_attention_becomes_one_node_at_any_size(tmp_path):
    source = saved(attention_block(), tmp_path / "a")
    found = optimise.optimise(source, tmp_path / "out.onnx", {"sizes": {"height": 77}})
    assert found["attention"] == 1 and found["linears"] == 1 and found["relative_l2"] < 1e-6
    assert "Softmax" not in kinds(tmp_path / "out.onnx") and kinds(tmp_path / "out.onnx").count("MultiHeadAttention") == 1
    x = {"x": random(3, 50, WIDTH)}
    before, after = (Graph.load(path).session().run(x)["y"] for path in (source, tmp_path / "out.onnx"))
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)


def test_attention_with_a_mask_is_left_alone(tmp_path):
    block = attention_block()
    block.weights["mask"] = random(1)
    nodes = list(block.nodes)
    softmax = next(entry for entry in nodes if entry.op_type == "Softmax")
    softmax.input[0] = "masked"
    block.set_nodes([*nodes[: nodes.index(softmax)], node("Add", ["scores", "mask"], "masked"), *nodes[nodes.index(softmax) :]])
    found = optimise.optimise(saved(block, tmp_path), tmp_path / "out.onnx", {})
    assert found["attention"] == 0 and "Softmax" in kinds(tmp_path / "out.onnx")


def test_gates_become_two_layers(tmp_path):
    weights = {"halves": np.array([48, 48])}
    nodes, output = linear(weights, "proj", "x", outputs=96)
    nodes += [node("Split", [output, "halves"], ["value", "gate"], "split", axis=-1), node("Sigmoid", ["gate"], "open")]
    nodes += [node("Mul", ["value", "open"], "y")]
    gated = graph(nodes, weights, {"x": ["batch", 10, WIDTH]}, {"y": ["batch", 10, 48]})
    found = optimise.optimise(saved(gated, tmp_path), tmp_path / "out.onnx", {})
    assert found["gates"] == 1 and found["linears"] == 2 and "Split" not in kinds(tmp_path / "out.onnx")
    widest = max(each["shape"][-1] for each in found["largest"][1])
    assert widest == 48 and found["largest"][0][0]["shape"][-1] == 96


def test_layers_with_a_bias_become_gemm_and_others_stay(tmp_path):
    weights = {}
    first, middle = linear(weights, "first", "x")
    second, last = linear(weights, "second", middle, bias=False)
    plain = graph([*first, *second, node("Identity", [last], "y")], weights, {"x": ["batch", 7, WIDTH]}, {"y": ["batch", 7, WIDTH]})
    optimise.optimise(saved(plain, tmp_path), tmp_path / "out.onnx", {})
    assert sorted(kinds(tmp_path / "out.onnx")) == ["Gemm", "Identity", "MatMul", "Reshape", "Reshape"]


def test_shapes_fold_to_constants_with_free_axes():
    block = attention_block()
    shapes.fold(block)
    assert not {"Shape", "Gather", "Concat"} & {entry.op_type for entry in block.nodes}
    targets = [list(block.weights[entry.input[1]]) for entry in block.nodes if entry.op_type == "Reshape"]
    assert [0, 0, HEADS, -1] in targets and [0, 0, -1] in targets


def test_a_difference_is_an_error(tmp_path, monkeypatch):
    def spoil(changed, options):
        changed.weights["out.bias"] = changed.weights["out.bias"] + np.float32(0.01)
        return {}

    monkeypatch.setattr(optimise, "rewrite", spoil)
    with pytest.raises(Fault, match="after optimising, outputs are .* expected at most 1e-05"):
        optimise.optimise(saved(attention_block(), tmp_path), tmp_path / "out.onnx", {})


def test_unknown_keys_of_a_recipe_are_errors(tmp_path):
    with pytest.raises(Fault, match="unknown .*atention.* attention"):
        optimise.optimise(tmp_path / "none.onnx", tmp_path / "out.onnx", {"atention": "fused"})


def test_large_layers_run_in_parts_of_their_rows(tmp_path):
    weights, nodes, last = {}, [], "x"
    for name, (inputs, outputs) in {"up": (WIDTH, 128), "down": (128, WIDTH)}.items():
        made, last = linear(weights, name, last, inputs, outputs)
        nodes += made
        if name == "up":
            nodes.append(node("Relu", [last], "relu"))
            last = "relu"
    nodes.append(node("Add", ["x", last], "y"))
    deep = graph(nodes, weights, {"x": ["batch", 50, WIDTH]}, {"y": ["batch", 50, WIDTH]})
    found = optimise.optimise(saved(deep, tmp_path), tmp_path / "out.onnx", {"rows_bytes": 10_000})
    made = Graph.load(tmp_path / "out.onnx")
    assert found["rows"] == 1 and found["linears"] == 6 and kinds(tmp_path / "out.onnx").count("Gemm") == 6
    assert found["largest"][1][0]["bytes"] < found["largest"][0][0]["bytes"]
    # Each weight is there once, however many parts use it.
    assert sum(array.shape == (WIDTH, 128) for array in made.weights.values()) == 1
    kept = optimise.optimise(saved(deep, tmp_path), tmp_path / "out.onnx", {})
    assert kept["rows"] == 0
