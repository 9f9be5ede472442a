"""Replaces computed shapes by constants in graphs whose only dynamic axis is the batch.

Exporters write a shape such as [batch, 64, 96] as a dozen Shape, Gather, Unsqueeze and Concat nodes, and opening a
graph costs about a tenth of a millisecond a node. Each shape is evaluated for batches of two and three; what follows
the batch becomes -1, the rest a constant, and the nodes that computed it disappear. The numbers do not change.

    python exporter-specs/fold_shapes.py GRAPH.onnx [GRAPH.onnx ...]      (in place)
"""

import sys

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

BATCHES = (2, 3)
# Which input of an operator is a shape, and whether -1 there means "whatever is left".
SHAPE_INPUTS = {"Reshape": (1, True), "Expand": (1, False), "Slice": (1, False), "ConstantOfShape": (0, False)}
SHAPE_OPS = {"Shape", "Gather", "Unsqueeze", "Concat", "Slice", "Cast", "Mul", "Add", "Div", "Equal", "Where"}


def main():
    for path in sys.argv[1:]:
        model = onnx.load(path)
        before = len(model.graph.node)
        fold(model)
        onnx.checker.check_model(model)
        onnx.save(model, path)
        print(f"{path}: {before} nodes -> {len(model.graph.node)}")


def fold(model):
    """Folds every integer tensor that depends on nothing but shapes."""
    inline_constants(model)
    sort(model)
    names = integer_shape_tensors(model)
    if not names:
        return
    values = [evaluate(model, names, batch) for batch in BATCHES]
    folded = {}
    for name, *seen in zip(names, *values):
        constant = as_constant(model, name, seen)
        if constant is not None:
            folded[name] = constant
    replace(model, folded)
    drop_unused(model)
    # Shapes that the exporter noted for tensors are computed again, and cost time while the graph is opened.
    del model.graph.value_info[:]


def inline_constants(model):
    graph = model.graph
    for node in [node for node in graph.node if node.op_type == "Constant" and node.attribute[0].name == "value"]:
        tensor = node.attribute[0].t
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
        graph.node.remove(node)


def integer_shape_tensors(model):
    """Outputs of nodes that compute with shapes only, in the order of the graph."""
    constants = {tensor.name for tensor in model.graph.initializer}
    known, found = set(constants), []
    for node in model.graph.node:
        from_shapes = node.op_type == "Shape" or (
            node.op_type in SHAPE_OPS and all(name in known for name in node.input if name)
        )
        if from_shapes and (node.op_type == "Shape" or any(name in found for name in node.input)):
            found.extend(node.output)
            known.update(node.output)
    return found


def evaluate(model, names, batch):
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    types = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}
    feeds = {
        item.name: np.zeros([size if isinstance(size, int) else batch for size in item.shape], types[item.type])
        for item in session.get_inputs()
    }
    return session.run(names, feeds)


def as_constant(model, name, seen):
    """The constant that stands for a shape tensor everywhere it is used, or None where there is none."""
    first, second = seen
    if np.array_equal(first, second):
        return first
    uses = [(node, index) for node in model.graph.node for index, used in enumerate(node.input) if used == name]
    reshapes = all(SHAPE_INPUTS.get(node.op_type) == (index, True) for node, index in uses)
    changed = np.flatnonzero(first != second)
    if not uses or not reshapes or first.ndim != 1 or len(changed) != 1 or (first == -1).any():
        return None
    constant = first.copy()
    constant[changed] = -1
    return constant


def replace(model, folded):
    for name, value in folded.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    for node in [node for node in model.graph.node if any(output in folded for output in node.output)]:
        model.graph.node.remove(node)


def sort(model):
    """Puts nodes behind those that they depend on; some converters append theirs at the end."""
    graph = model.graph
    ready = {tensor.name for tensor in graph.initializer} | {item.name for item in graph.input} | {""}
    waiting, ordered = list(graph.node), []
    while waiting:
        behind = [node for node in waiting if not ready.issuperset(node.input)]
        runnable = [node for node in waiting if ready.issuperset(node.input)]
        if not runnable:
            raise SystemExit("the graph has a cycle")
        ordered.extend(runnable)
        ready.update(name for node in runnable for name in node.output)
        waiting = behind
    del graph.node[:]
    graph.node.extend(ordered)


def drop_unused(model):
    graph = model.graph
    while True:
        used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
        dead = [node for node in graph.node if not any(output in used for output in node.output)]
        if not dead:
            break
        for node in dead:
            graph.node.remove(node)
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)


if __name__ == "__main__":
    main()
