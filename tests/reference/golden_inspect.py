"""What graphs are, counted by the onnx package and its own shape inference."""

from collections import Counter
from graphlib import TopologicalSorter
from math import prod
from pathlib import Path

import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from compact_json import write_json

ROOT = Path(__file__).resolve().parents[2]

# The sizes that `safelight inspect` takes free axes for: one latent of the model's own size.
EMOJI = {"input_ids": [1, 16], "sample": [1, 24, 8, 8], "encoder_hidden_states": [1, 16, 192],
         "latent_sample": [1, 24, 8, 8], "timestep": [1]}
TINY = {"input_ids": [1, 77], "sample": [1, 4, 8, 8], "encoder_hidden_states": [1, 77, 32],
        "latent_sample": [1, 4, 8, 8], "timestep": []}
LAYERS = {TensorProto.FLOAT: "fp32", TensorProto.FLOAT16: "fp16"}
LOOKING = ("Transpose", "Reshape", "Cast", "Unsqueeze", "Squeeze", "Identity")


def write_inspect(golden):
    graphs = []
    for folder, sizes in [("models/emoji", EMOJI), ("tests/models/tiny-sd", TINY)]:
        paths = sorted(Path(ROOT, folder).rglob("*.onnx"))
        graphs += [facts(path, sizes) for path in paths if not path.name.startswith("vae_encoder")]
    write_json(golden / "inspect.json", {"graphs": graphs})


def facts(path, sizes):
    model = onnx.load(path)
    graph = model.graph
    macs, by_arithmetic = products(model, sizes)
    return {
        "file": str(path.relative_to(ROOT)),
        "ir_version": model.ir_version,
        "opset": next(opset.version for opset in model.opset_import if opset.domain == ""),
        "nodes": len(graph.node),
        "operators": dict(sorted(Counter(node.op_type for node in graph.node).items())),
        "parameters": sum(prod(tensor.dims) for tensor in graph.initializer),
        "weight_bytes": weight_bytes(graph),
        "inputs": [tensor.name for tensor in graph.input],
        "outputs": [tensor.name for tensor in graph.output],
        "macs": macs,
        "macs_by_arithmetic": by_arithmetic,
    }


def weight_bytes(graph):
    sums = Counter()
    for tensor in graph.initializer:
        sums[TensorProto.DataType.Name(tensor.data_type).lower()] += numpy_helper.to_array(tensor).nbytes
    return dict(sorted(sums.items()))


def products(model, sizes):
    """Multiplications of convolutions and matrix products, and in what."""
    for tensor in model.graph.input:
        shape = tensor.type.tensor_type.shape
        for axis, size in zip(shape.dim, sizes[tensor.name], strict=True):
            axis.dim_value = size
    makers = {name: node for node in model.graph.node for name in node.output}
    in_order(model.graph)
    known, types = inferred(model)
    sums = Counter()
    for node in model.graph.node:
        if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            sums[arithmetic(node, makers, types)] += multiplications(node, known)
    return sum(sums.values()), dict(sorted(sums.items()))


def in_order(graph):
    """Quantisers append nodes that run first; shape inference wants them in their order."""
    makers = {name: index for index, node in enumerate(graph.node) for name in node.output}
    needs = {i: [makers[name] for name in node.input if name in makers] for i, node in enumerate(graph.node)}
    nodes = [graph.node[index] for index in TopologicalSorter(needs).static_order()]
    del graph.node[:]
    graph.node.extend(nodes)


def inferred(model):
    model = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    graph = model.graph
    known = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in [*graph.input, *graph.value_info, *graph.output]:
        tensor = value.type.tensor_type
        known.setdefault(value.name, [axis.dim_value for axis in tensor.shape.dim])
        types.setdefault(value.name, tensor.elem_type)
    return known, types


def multiplications(node, known):
    first, second, output = known[node.input[0]], known[node.input[1]], known[node.output[0]]
    match node.op_type:
        case "Conv":
            return prod(output) * prod(second[1:])
        case "ConvTranspose":
            return prod(first) * prod(second[1:])
        case "Gemm":
            attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
            turned = attributes.get("transA", 0)
            return prod(output) * (first[0] if turned else first[1])
        case "MatMul":
            return prod(output) * first[-1]


def arithmetic(node, makers, types):
    activation, weight = (is_dequantised(name, makers) for name in node.input[:2])
    if weight:
        return "int8_qdq" if activation else "weight_only"
    return LAYERS[types[node.input[0]]]


def is_dequantised(name, makers):
    node = makers.get(name)
    while node is not None and node.op_type in LOOKING:
        node = makers.get(node.input[0])
    return node is not None and node.op_type == "DequantizeLinear"
