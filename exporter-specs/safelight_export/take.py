"""Graphs that exist already, in FP32 or FP16, as the source of an export in place of a checkpoint."""

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from .checkpoint import read_json
from .fault import Fault
from .graphs import Graph, copy_of, drop_unused, sort
from .optimise import example

# Where a component's graph may lie: as Optimum and this package write it, and flat.
PLACES = ("{}/model.onnx", "{}/model_fp16.onnx", "{}.fp32.onnx", "{}.fp16.onnx")


class Graphs:
    """A folder of graphs, with configs where it is in Optimum's layout."""

    def __init__(self, path: Path):
        self.path = path

    def graph(self, folder):
        found = [self.path / place.format(folder) for place in PLACES]
        for path in found:
            if path.is_file():
                return path
        raise Fault(f"weights {self.path}: has no graph of {folder}: looked for {', '.join(p.name for p in found)}")

    def inputs(self, source):
        path = self.graph(source)
        return [file for file in (path, path.with_name(f"{path.name}_data")) if file.is_file()]

    def config(self, source):
        name = "scheduler_config.json" if source == "scheduler" else "config.json"
        path = self.path / source / name
        return read_json(path) if path.is_file() else {}

    def index(self):
        path = self.path / "model_index.json"
        return read_json(path) if path.is_file() else {}

    def tokenizer(self, name):
        """The folder of a tokenizer, or the folder of the graphs, where tokenizer.json lies beside them."""
        return self.path / name if (self.path / name).is_dir() else self.path


def is_graphs(path: Path):
    return any(path.glob("*.fp32.onnx")) or any(path.glob("*.fp16.onnx")) or any(path.glob("*/model*.onnx"))


def take(path: Path, out: Path) -> dict:
    """Writes the graph in FP32. Returns its inputs and outputs; there is nothing here to prove it against."""
    graph = Graph.load(path)
    sort(graph)
    halves = sum(array.dtype == np.float16 for array in graph.weights.values())
    if halves:
        widen(graph)
    graph.save(out)
    made = Graph.load(out)
    made.session().run(example(made))
    return {"from": path.name, "halves": halves, "inputs": made.inputs(), "outputs": made.outputs()}


def widen(graph):
    """FP16 → FP32: weights, constants, and no more casts between the two."""
    graph.weights = {n: a.astype(np.float32) if a.dtype == np.float16 else a for n, a in graph.weights.items()}
    graph.set_nodes([copy_of(node) for node in graph.nodes])
    for node in graph.nodes:
        for entry in node.attribute:
            if node.op_type == "Cast" and entry.name == "to" and entry.i == TensorProto.FLOAT16:
                entry.i = TensorProto.FLOAT
            if entry.HasField("t") and entry.t.data_type == TensorProto.FLOAT16:
                entry.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(entry.t).astype(np.float32)))
    for edge in (*graph.model.graph.input, *graph.model.graph.output):
        if edge.type.tensor_type.elem_type == TensorProto.FLOAT16:
            edge.type.tensor_type.elem_type = TensorProto.FLOAT
    del graph.model.graph.value_info[:]
    drop_casts(graph)
    drop_unused(graph)


def drop_casts(graph):
    """Casts of what is float anyway pass it on."""
    floats = {n for n, array in graph.weights.items() if array.dtype == np.float32}
    floats |= {e.name for e in graph.model.graph.input if e.type.tensor_type.elem_type == TensorProto.FLOAT}
    other = {n for n, array in graph.weights.items() if array.dtype != np.float32}
    other |= {e.name for e in graph.model.graph.input} - floats
    renamed, kept, outputs = {}, [], set(graph.outputs())
    for node in graph.nodes:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        source = node.input[0] if node.input else ""
        to_float = node.op_type == "Cast" and node.attribute[0].i == TensorProto.FLOAT
        if to_float and source not in other:
            if node.output[0] in outputs:
                kept.append(helper.make_node("Identity", [source], [node.output[0]], name=node.name))
            else:
                renamed[node.output[0]] = source
            continue
        if node.op_type in ("Shape", "Size", "Equal", "Less", "Greater", "Not", "ArgMax") or (
            node.op_type == "Cast" and not to_float
        ):
            other.update(node.output)
        elif node.op_type not in ("Cast", "Where") and source in other and node.op_type in WHOLE:
            other.update(node.output)
        kept.append(node)
    graph.set_nodes([copy_of(node) for node in kept])


# Operators that give what they take: integers of integers.
WHOLE = (
    "Gather", "Concat", "Unsqueeze", "Squeeze", "Slice", "Reshape", "Transpose", "Expand", "Add", "Mul", "Sub", "Div",
    "Identity", "Range", "Tile", "Mod",
)  # fmt: skip
