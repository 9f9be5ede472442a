"""Tiny graphs for the tests of what works on graphs."""

import numpy as np
from onnx import TensorProto, helper

from safelight_export.graphs import Graph

OPSETS = [helper.make_opsetid("", 17)]


def graph(nodes, weights, inputs, outputs, opsets=OPSETS):
    """`inputs` and `outputs`: shapes by name; a text in a shape is a free axis."""
    typed = [[helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in each.items()] for each in (inputs, outputs)]
    model = helper.make_model(helper.make_graph(nodes, "test", *typed), opset_imports=opsets, ir_version=8)
    return Graph(model, {name: np.asarray(array) for name, array in weights.items()})


def node(operator, inputs, output, name=None, **attributes):
    return helper.make_node(operator, inputs, [output] if isinstance(output, str) else output, name=name or output, **attributes)


def random(*shape, scale=1.0, seed=0):
    return (np.random.default_rng([seed, *shape]).standard_normal(shape) * scale).astype(np.float32)


def saved(graph, folder, name="model.onnx"):
    folder.mkdir(parents=True, exist_ok=True)
    graph.save(folder / name)
    return folder / name


def mlp(layers=4, width=32, seed=0):
    """x [b, width] through linear layers named layer.0, layer.1 …, each with a Relu between."""
    nodes, weights, last = [], {}, "x"
    for index in range(layers):
        weights[f"w{index}"] = random(width, width, scale=1.4 / width**0.5, seed=seed + index)
        weights[f"b{index}"] = random(width, scale=0.1, seed=seed + index)
        output = "y" if index == layers - 1 else f"h{index}"
        nodes.append(node("Gemm", [last, f"w{index}", f"b{index}"], output, f"layer.{index}"))
        if index < layers - 1:
            nodes.append(node("Relu", [output], f"r{index}"))
            last = f"r{index}"
    return graph(nodes, weights, {"x": ["batch", width]}, {"y": ["batch", width]})


def rows(count=8, seed=0, **shapes):
    return [{name: random(*shape, seed=seed + index) for name, shape in shapes.items()} for index in range(count)]
