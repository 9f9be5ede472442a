"""An FP32 graph → INT8 in QDQ form, with static ranges from recorded samples, one weight at a time.

Weights are S8, symmetric, one scale a channel; activations U8, or S8 where a recipe says so. Products of two
activations stay in float: quantised, they make ONNX Runtime fuse softmax into a slow integer one. Which layers must
stay in float, too, is searched for: each is rounded alone, and those that harm the output most are brought back until
the recipe's budget is met.
"""

import re
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from . import calibration, graphs, recipe as recipes
from .compact import compact
from .fault import Fault
from .graphs import attribute
from .optimise import threads

# Operators that follow their inputs into INT8.
FOLLOWERS = ("Add", "Relu", "Clip", "Resize")
# What ONNX Runtime takes into the operator before it.
TAILS = ("Relu", "Clip")
TYPES = {"u8": (np.uint8, 0, 255), "s8": (np.int8, -127, 127)}


def to_int8(fp32: Path, out: Path, recipe: dict, samples) -> dict:
    """Writes `out` and returns what was found: error (relative L2 over held-out samples), what each layer does to the
    output, what stays in float and why.

    `samples` are rows of arrays by tensor name, gone through several times. Raises Fault where the budget cannot be met.
    """
    options = recipes.checked("int8", recipe)
    graph = graphs.Graph.load(fp32)
    graphs.name_nodes(graph)
    layers = find_layers(graph, options)
    if not layers:
        raise Fault(f"{fp32}: has no layer of the recipe's operators ({', '.join(options['operators'])}) to quantise")
    learnt, judged = calibration.split(samples, options["samples"], options["held_out"])
    bounds = ranges(graph, watched(graph, layers, options), learnt)
    check_finite(layers, bounds)
    asked = {name: "the recipe" for name in layers if asked_for(layers[name], options)}
    found = search(graph, layers, bounds, options, judged, asked)
    kept = asked | {name: "the error budget" for name in found["brought_back"]}
    quantised = Quantiser(graph, {n: l for n, l in layers.items() if n not in kept}, bounds, options).graph()
    compact(quantised).save(out)
    error = distance(graph, graphs.Graph.load(out), judged)
    # A kernel may round once more than the search did; what it saw and what runs must still be the same thing.
    if not error <= 1.25 * options["budget"]:
        raise Fault(f"{out}: is {error:.3f} (relative L2) from FP32 when it runs, though {found['predicted']:.3f} when searched")
    share = sum(l.weights for n, l in layers.items() if n not in kept) / sum(l.weights for l in layers.values())
    return {
        "relative_l2": error,
        "budget": options["budget"],
        "layers": len(layers),
        "weights_quantised": share,
        "kept": [{"layer": n, "why": why, "alone": found["alone"].get(n), **describe(layers[n])} for n, why in kept.items()],
        "alone": found["alone"],
        "everything": found["everything"],
        "search_s": found["seconds"],
        "calibrated_with": len(learnt),
        "judged_with": len(judged),
        "bytes": [graph.bytes(), quantised.bytes()],
    }


@dataclass
class Layer:
    """A node that can be quantised: its place, what it takes and gives, and the node that ONNX Runtime merges into it."""

    node: onnx.NodeProto
    output: str
    tail: onnx.NodeProto | None = None
    weights: int = 0
    inputs: list = field(default_factory=list)


def describe(layer):
    return {"operator": layer.node.op_type, "weights": layer.weights}


def asked_for(layer, options):
    names = [layer.node.name, *layer.node.input]
    return any(re.search(pattern, name) for pattern in options["float"] for name in names)


def find_layers(graph, options):
    """Layers with weights that may be quantised, by the name of their node, in the order of the graph."""
    used, found = graphs.consumers(graph.nodes), {}
    for node in graph.nodes:
        if node.op_type not in options["operators"] or node.op_type in FOLLOWERS:
            continue
        place = 0 if node.op_type == "Gather" else 1
        weight = graph.weights.get(node.input[place])
        if weight is None or weight.dtype != np.float32 or weight.ndim < 2 or not plain(graph, node, weight):
            continue
        tail = tail_of(graph, used, node) if node.op_type == "Conv" else None
        output = tail.output[0] if tail is not None else node.output[0]
        inputs = [] if node.op_type == "Gather" else [node.input[0]]
        found[node.name] = Layer(node, output, tail, int(weight.size), inputs)
    return found


def plain(graph, node, weight):
    if node.op_type == "Gemm":
        return all(attribute(node, name, 1.0) == 1.0 for name in ("alpha", "beta")) and not attribute(node, "transA", 0)
    if node.op_type == "Gather":
        return attribute(node, "axis", 0) == 0 and weight.ndim == 2
    return node.op_type == "Conv" or weight.ndim == 2


def tail_of(graph, used, node):
    users = used.get(node.output[0], [])
    if len(users) == 1 and users[0].op_type in TAILS and node.output[0] not in graph.outputs():
        return users[0]
    return None


def watched(graph, layers, options):
    """Tensors whose ranges are needed: what layers take and give, and whatever might follow them into INT8."""
    names = [name for layer in layers.values() for name in (*layer.inputs, layer.output)]
    followers = set(FOLLOWERS) & set(options["operators"])
    names += [node.output[0] for node in graph.nodes if node.op_type in followers]
    return [name for name in dict.fromkeys(names) if name not in graph.weights]


def ranges(graph, names, rows):
    """(least, greatest) element of each tensor over the rows. The graph itself finds them: no tensor leaves it."""
    probe = graph.copy()
    kinds = float_tensors(graph)
    names = [name for name in names if name in kinds]
    for name in names:
        for operator in ("ReduceMin", "ReduceMax"):
            probe.nodes.append(helper.make_node(operator, [name], [f"{name}/{operator}"], keepdims=0))
    outputs = [f"{name}/{operator}" for name in names for operator in ("ReduceMin", "ReduceMax")]
    # No more than basic: fused operators would hide tensors that are asked for anyway, and weights are laid out anew.
    session, found = probe.session(threads(), "basic", outputs), {}
    for row in rows:
        values = session.run(row)
        for name in names:
            low, high = (float(values[f"{name}/{operator}"]) for operator in ("ReduceMin", "ReduceMax"))
            known = found.get(name, (low, high))
            found[name] = (min(known[0], low), max(known[1], high))
    # What masks with minus infinity has no range, and stays in float.
    return {name: bounds for name, bounds in found.items() if np.isfinite(bounds).all()}


def check_finite(layers, bounds):
    for layer in layers.values():
        for name in (*layer.inputs, layer.output if layer.node.op_type == "Conv" else None):
            if name is not None and name not in bounds:
                raise Fault(f"{name}, a tensor of {layer.node.name}: is NaN or infinite, or not float, on the samples")


def float_tensors(graph):
    """Names of tensors that hold float32, as far as onnx can tell; those that it cannot tell of are left out."""
    shell = onnx.ModelProto()
    shell.CopyFrom(graph.model)
    for name, array in graph.weights.items():
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        shell.graph.input.append(helper.make_tensor_value_info(name, kind, array.shape))
    try:
        shell = onnx.shape_inference.infer_shapes(shell)
    except Exception:  # onnx has no type of its own for this; layers' own tensors are float anyway
        pass
    typed = {e.name: e.type.tensor_type.elem_type for e in (*shell.graph.value_info, *shell.graph.input, *shell.graph.output)}
    whole = {"Shape", "Cast", "Gather", "Equal", "Where", "Concat", "Range", "ConstantOfShape"}
    unknown = {n for node in graph.nodes if node.op_type not in whole for n in node.output if n not in typed}
    return {name for name, kind in typed.items() if kind == TensorProto.FLOAT} | unknown


def distance(graph, other, rows, level="all"):
    """Relative L2 of all outputs over rows, each graph opened by itself; `level` is the other's."""
    session = graph.session(threads())
    expected = [session.run(row) for row in rows]
    del session
    session, found = other.session(threads(), level), graphs.Distance()
    for row, outputs in zip(rows, expected):
        for name, value in session.run(row).items():
            found.add(value, outputs[name])
    return found.value()


def search(graph, layers, bounds, options, rows, asked):
    """What each layer does to the output when it alone is rounded, and which must stay in float.

    One session answers all of it: every layer is an If of its rounded and its float form. Errors of layers add up about
    as squares, which tells how many to bring back; what is left is then measured, not supposed.
    """
    start = time.monotonic()
    open_layers = {name: layer for name, layer in layers.items() if name not in asked}
    switched = Switched(graph, open_layers, bounds, options, rows)
    everything = error = switched.error(set(open_layers))
    coarse = sorted(open_layers, key=lambda name: -coarseness(graph, open_layers[name], bounds))
    alone = {name: switched.error({name}, first=1) for name in coarse[: options["tries"]]}
    worst, back = sorted(alone, key=alone.get, reverse=True), []
    while error > options["budget"]:
        left = [name for name in worst if name not in back]
        if not left:
            raise Fault(
                f"INT8 is {error:.3f} (relative L2) from FP32 with {len(back)} layers kept in float, expected at most "
                f"{options['budget']}: raise the recipe's budget, or its tries ({options['tries']} of {len(layers)} layers)"
            )
        excess = error**2 - (0.95 * options["budget"]) ** 2
        for name in left:
            back.append(name)
            excess -= alone[name] ** 2
            if excess <= 0:
                break
        error = switched.error(set(open_layers) - set(back))
    return {
        "alone": alone, "everything": everything, "predicted": error, "brought_back": back,
        "seconds": time.monotonic() - start,
    }


def coarseness(graph, layer, bounds):
    """Noise to signal of a layer's rounding, roughly: of outliers, the range is large and the middle empty."""
    weight = graph.weights[layer.node.input[0 if layer.node.op_type == "Gather" else 1]]
    others = tuple(range(1, weight.ndim)) if layer.node.op_type == "Conv" else (0,)
    step = np.abs(weight).max(axis=others, keepdims=True) / 127
    of_weights = float(np.mean(step**2) / 12 / max(float(np.mean(np.square(weight))), 1e-30))
    low, high = bounds.get(layer.inputs[0], (0, 0)) if layer.inputs else (0, 0)
    return of_weights + (high - low) ** 2 * 1e-9


class Switched:
    """The graph with a switch a layer: rounded as it will be, or float."""

    def __init__(self, graph, layers, bounds, options, rows):
        self.names = {name: f"switch.{index}" for index, name in enumerate(layers)}
        # Extended, not all: with all, convolutions keep a second copy of their weights in another order.
        self.session = switchable(graph, layers, bounds, options, self.names).session(threads(), "extended")
        self.rows = rows
        self.expected = [self.run(row, set()) for row in rows]

    def run(self, row, rounded):
        switches = {switch: np.array(name in rounded) for name, switch in self.names.items()}
        return self.session.run({**row, **switches})

    def error(self, rounded, first=None):
        found = graphs.Distance()
        for index, (row, outputs) in enumerate(zip(self.rows, self.expected)):
            if first is not None and index >= first:
                break
            for name, value in self.run(row, rounded).items():
                found.add(value, outputs[name])
        return found.value()


def switchable(graph, layers, bounds, options, switches):
    """Replaces each layer (and its tail) by an If over its switch."""
    made, weights, gone = [], {}, {}
    for name, layer in layers.items():
        parts = [layer.node] + ([layer.tail] if layer.tail is not None else [])
        alone = graphs.Graph(graph.model, {key: graph.weights[key] for n in parts for key in n.input if key in graph.weights})
        rounded = Quantiser(alone, {name: layer}, bounds, options, only=parts)
        nodes = rounded.rounded_nodes()
        weights |= {key: array for key, array in rounded.weights.items() if key not in graph.weights}
        branches = {}
        for branch, inner in (("then_branch", nodes), ("else_branch", parts)):
            renamed = in_branch(inner, layer.output, f"{branch}.{len(made)}")
            outlet = helper.make_tensor_value_info(renamed[-1].output[0], TensorProto.FLOAT, None)
            branches[branch] = helper.make_graph(renamed, f"{branch}.{len(made)}", [], [outlet])
        gone[parts[0].name] = helper.make_node("If", [switches[name]], [layer.output], name=f"{name}/If", **branches)
        made.append(name)
        if layer.tail is not None:
            gone[layer.tail.name] = None
    found = graph.copy()
    found.weights |= weights
    nodes = [gone.get(node.name, node) for node in graph.nodes]
    found.set_nodes([graphs.copy_of(node) for node in nodes if node is not None])
    for switch in switches.values():
        found.model.graph.input.append(helper.make_tensor_value_info(switch, TensorProto.BOOL, []))
    graphs.sort(found)
    return found


def in_branch(nodes, output, suffix):
    """Copies whose tensors have names of their own, since a branch may not hide what is outside."""
    made = {name for node in nodes for name in node.output}
    copies = []
    for node in nodes:
        copy = graphs.copy_of(node)
        copy.input[:] = [f"{name}/{suffix}" if name in made else name for name in node.input]
        copy.output[:] = [f"{name}/{suffix}" for name in node.output]
        copies.append(copy)
    last = next(index for index, node in enumerate(copies) if node.output[0] == f"{output}/{suffix}")
    copies.append(copies.pop(last))
    return copies


class Quantiser:
    """Rewrites a graph: `layers` in INT8, what follows them where it can, and the rest as it was."""

    def __init__(self, graph, layers, bounds, options, only=None):
        self.source, self.layers, self.bounds, self.options = graph, layers, bounds, options
        self.sources = list(only if only is not None else graph.nodes)
        self.weights, self.nodes = dict(graph.weights), []
        self.kind = TYPES[options["activations"]]
        # Tensors in INT8: what a node in INT8 reads in place of a tensor, and the scale of each.
        self.rounded, self.scales = {}, {}
        self.by_node = {layer.node.name: layer for layer in layers.values()}
        self.tails = {layer.tail.name for layer in layers.values() if layer.tail is not None}

    def graph(self):
        self.used = graphs.consumers(self.sources)
        self.rounded_nodes()
        found = self.source.copy()
        found.weights = self.weights
        found.set_nodes([graphs.copy_of(node) for node in self.nodes])
        graphs.sort(found)
        graphs.drop_unused(found)
        del found.model.graph.value_info[:]
        return found

    def rounded_nodes(self):
        for node in self.sources:
            if node.name in self.by_node:
                self.layer(self.by_node[node.name])
            elif node.name in self.tails:
                continue
            elif node.op_type in FOLLOWERS and node.op_type in self.options["operators"] and self.follows(node):
                self.follower(node)
            else:
                self.nodes.append(graphs.copy_of(node))
        return self.nodes

    def emit(self, operator, inputs, output, **attributes):
        self.nodes.append(helper.make_node(operator, inputs, [output], name=f"{output}/{operator}", **attributes))
        return output

    def layer(self, layer):
        if layer.node.op_type == "Gather":
            return self.embedding(layer.node)
        node = graphs.copy_of(layer.node)
        activation, weight, *bias = node.input
        array = self.source.weights[weight]
        if attribute(node, "transB", 0):
            array, weight = array.T, f"{weight}.T"
            next(entry for entry in node.attribute if entry.name == "transB").i = 0
        axis = 0 if node.op_type == "Conv" else 1
        inputs = [self.activation(activation), self.weight(weight, array, axis)]
        inputs += [self.bias(name, activation, weight) for name in bias if name]
        node.input[:] = inputs
        if node.op_type != "Conv":
            self.nodes.append(node)
            return None
        # Without rounding what it gives, a convolution stays in float; a product of matrices gives float as fast.
        return self.rounding_output(node, layer.tail, layer.output)

    def rounding_output(self, node, tail, output):
        """Adds a node, and the Relu or Clip behind it, whose output is rounded; every user reads the rounded one."""
        if tail is not None:
            node.output[0] = f"{output}/before"
            self.nodes.append(node)
            node = graphs.copy_of(tail)
            node.input[0] = f"{output}/before"
        node.output[0] = f"{output}/float"
        self.nodes.append(node)
        self.scales[output] = self.quantised(f"{output}/float", self.bounds[output], output)
        self.rounded[output] = output

    def activation(self, name):
        """What a layer reads in place of a tensor."""
        if name not in self.rounded:
            self.scales[name] = self.quantised(name, self.bounds[name], f"{name}/rounded")
            self.rounded[name] = f"{name}/rounded"
        return self.rounded[name]

    def quantised(self, name, bounds, output):
        """Rounds a tensor: its scale."""
        kind, least, most = self.kind
        low, high = min(bounds[0], 0.0), max(bounds[1], 0.0)
        if least < 0:
            scale, zero = max(-low, high, 1e-6) / most, 0
        else:
            scale = max(high - low, 1e-6) / most
            zero = int(np.clip(round(-low / scale), 0, most))
        self.weights[f"{name}/scale"] = np.array(scale, np.float32)
        self.weights[f"{name}/zero"] = np.array(zero, kind)
        self.pair(name, [f"{name}/scale", f"{name}/zero"], output)
        return np.float32(scale)

    def pair(self, name, parameters, output):
        self.emit("QuantizeLinear", [name, *parameters], f"{output}/counts")
        self.emit("DequantizeLinear", [f"{output}/counts", *parameters], output)

    def weight(self, name, array, axis):
        if f"{name}/s8" not in self.weights:
            most = 2 ** (self.options["weight_bits"] - 1) - 1
            counts, scale = rounded_weight(np.asarray(array), axis, most)
            self.weights[f"{name}/s8"], self.weights[f"{name}/s8/scale"] = counts, scale
            self.weights[f"{name}/s8/zero"] = np.zeros(scale.size, np.int8)
        inputs = [f"{name}/s8", f"{name}/s8/scale", f"{name}/s8/zero"]
        return self.emit("DequantizeLinear", inputs, f"{name}/float.{len(self.nodes)}", axis=axis)

    def bias(self, name, activation, weight):
        array = np.asarray(self.source.weights[name]).ravel()
        scale = (self.scales[activation] * self.weights[f"{weight}/s8/scale"]).astype(np.float32)
        # A bias beyond what its scale can count only occurs where the weights of a channel are all but zero.
        counts = np.rint(array / scale.astype(np.float64)).clip(-(2**31), 2**31 - 1).astype(np.int32)
        own = f"{name}/s32.{len(self.nodes)}"
        self.weights[own], self.weights[f"{own}/scale"] = counts, scale
        self.weights[f"{own}/zero"] = np.zeros(scale.size, np.int32)
        return self.emit("DequantizeLinear", [own, f"{own}/scale", f"{own}/zero"], f"{own}/float", axis=0)

    def embedding(self, node):
        """Rows are looked up in S8, each with its own scale: token embeddings are half of a text encoder."""
        name, output = node.input[0], node.output[0]
        counts, scale = rounded_weight(np.asarray(self.source.weights[name]), 0, 127)
        self.weights[f"{name}/s8"], self.weights[f"{name}/s8/scale"] = counts, scale.reshape(-1, 1)
        self.emit("Gather", [f"{name}/s8", node.input[1]], f"{output}/s8", axis=0)
        self.emit("Gather", [f"{name}/s8/scale", node.input[1]], f"{output}/scale", axis=0)
        self.emit("Cast", [f"{output}/s8"], f"{output}/counts", to=TensorProto.FLOAT)
        self.emit("Mul", [f"{output}/counts", f"{output}/scale"], output)

    def follows(self, node):
        """Whether all that a node takes is in INT8 anyway, and its range is known."""
        taken = [name for name in node.input[: 2 if node.op_type == "Add" else 1] if name]
        return node.output[0] in self.bounds and all(name in self.rounded for name in taken)

    def follower(self, node):
        output = node.output[0]
        copy = graphs.copy_of(node)
        for index in range(2 if node.op_type == "Add" else 1):
            copy.input[index] = self.rounded[node.input[index]]
        if node.op_type == "Resize":
            # It makes no new values: with the parameters of what it takes, ONNX Runtime resizes the counts.
            self.bounds = {**self.bounds, output: self.bounds[node.input[0]]}
        tail = None if node.op_type in TAILS else tail_of(self.source, self.used, node)
        if tail is not None and tail.output[0] in self.bounds:
            self.tails.add(tail.name)
            return self.rounding_output(copy, tail, tail.output[0])
        return self.rounding_output(copy, None, output)


def rounded_weight(array, axis, most):
    """(counts, scales): symmetric, one scale a channel."""
    others = tuple(index for index in range(array.ndim) if index != axis)
    scale = np.maximum(np.abs(array).max(axis=others, keepdims=True) / most, 1e-9).astype(np.float32)
    return np.ascontiguousarray(np.rint(array / scale).astype(np.int8)), scale.reshape(-1)
