"""The same graph in fewer bytes: a graph of a small model is half names and constants that are there many times."""

import numpy as np
from onnx import numpy_helper

from .graphs import Graph, captured, copy_of, drop_unused

# Constants up to this size are compared; weights are not, since no two are equal.
SMALL_BYTES = 4096


def compact(graph: Graph):
    """Keeps equal constants once, bypasses Identity, gives inner tensors short names, forgets noted shapes."""
    if any(True for node in graph.nodes for _ in captured(node)):
        return graph
    del graph.model.graph.value_info[:]
    graph.model.graph.doc_string = graph.model.doc_string = ""
    for node in graph.nodes:
        node.doc_string = ""
    renamed = constants(graph) | identities(graph)
    rename(graph, renamed)
    drop_unused(graph)
    shorten(graph)
    return graph


def constants(graph):
    """Constant nodes become initializers, equal ones the same."""
    for node in graph.nodes:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            graph.weights[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    graph.set_nodes(copy_of(node) for node in graph.nodes if node.output[0] not in graph.weights)
    first, renamed = {}, {}
    for name, array in graph.weights.items():
        if array.nbytes <= SMALL_BYTES:
            kept = first.setdefault((str(array.dtype), array.shape, np.asarray(array).tobytes()), name)
            if kept != name:
                renamed[name] = kept
    return renamed


def identities(graph):
    outputs = set(graph.outputs())
    plain = (node for node in graph.nodes if node.op_type == "Identity" and node.output[0] not in outputs)
    return {node.output[0]: node.input[0] for node in plain}


def rename(graph, names):
    def final(name):
        while name in names:
            name = names[name]
        return name

    for node in graph.nodes:
        node.input[:] = [final(name) for name in node.input]


def shorten(graph):
    """Weights keep their names, which say what they are; constants and what flows between nodes are numbered."""
    edges = {*graph.inputs(), *graph.outputs()}
    inner = [name for node in graph.nodes for name in node.output if name and name not in edges]
    small = [name for name in graph.weights if name.startswith(("/", "onnx::"))]
    names = {name: f"t{i}" for i, name in enumerate(inner)} | {name: f"c{i}" for i, name in enumerate(small)}
    for node in graph.nodes:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    graph.weights = {names.get(name, name): array for name, array in graph.weights.items()}
