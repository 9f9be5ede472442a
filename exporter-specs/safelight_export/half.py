"""An FP32 graph → FP16 weights and activations, with what FP16 cannot hold kept in float32.

FP16 ends at 65504 and is coarse below 6e-5. ONNX Runtime's CPU provider computes FP16 graphs in float32, so that an
overflow cannot be seen by running one there: values are scanned in the float32 graph instead, and the rounding that a
GPU would do is imitated there, in arithmetic that no optimiser removes. Inputs and outputs of the graph stay float32.
"""

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from . import calibration, graphs, quantise, recipe as recipes, shapes
from .compact import compact
from .fault import Fault
from .optimise import threads

GREATEST = 65504.0
LEAST = 2.0**-14
# What takes float32 whatever it resizes or fills.
FLOAT_INPUTS = {"Resize": (1, 2), "Upsample": (1,)}
# Operators that make float32 of something else, and those that make no new values.
SOURCES = ("Cast", "Range", "ConstantOfShape", "RandomNormalLike", "DequantizeLinear")
PASSING = ("Reshape", "Transpose", "Slice", "Split", "Concat", "Unsqueeze", "Squeeze", "Gather", "Expand", "Relu")


def to_half(fp32: Path, out: Path, recipe: dict, samples) -> dict:
    """Writes `out` and returns what was found: error (relative L2, with FP16's rounding imitated), the greatest |x| of each
    node, which nodes stay in float32 and why. Raises Fault where the budget cannot be met."""
    options = recipes.checked("fp16", recipe)
    graph = graphs.Graph.load(fp32)
    graphs.name_nodes(graph)
    known = shapes.Shapes(graph, shapes.probes(graph)[0])
    floats = {name for name, kind in known.types.items() if kind.tensor_type.elem_type == TensorProto.FLOAT}
    learnt, judged = calibration.split(samples, options["samples"], 2)
    greatest = magnitudes(graph, floats, learnt)
    kept = kept_in_float(graph, floats, greatest, options)
    error = imitated_error(graph, floats, set(kept), judged)
    for name in in_order_of_size(graph, floats, greatest, kept) if error > options["budget"] else ():
        kept.update(dict.fromkeys(name, "the error budget"))
        error = imitated_error(graph, floats, set(kept), judged)
        if error <= options["budget"]:
            break
    if not error <= options["budget"]:
        raise Fault(f"{out}: FP16 is {error:.1e} (relative L2) from FP32, expected at most {options['budget']}: raise the budget")
    converted = convert(graph, floats, set(kept))
    compact(converted).save(out)
    by_node = {node.name: most(node, greatest) for node in graph.nodes if most(node, greatest) is not None}
    interesting = {name: why for name, why in kept.items() if why not in ("float by its kind", "the recipe")}
    return {
        "relative_l2": error,
        "relative_l2_cpu": quantise.distance(graph, graphs.Graph.load(out), judged),
        "budget": options["budget"],
        "nodes": len(graph.nodes),
        "greatest": dict(sorted(by_node.items(), key=lambda entry: -entry[1])),
        "kept": [{"layer": name, "why": why, "greatest": by_node.get(name)} for name, why in interesting.items()],
        "kept_by_kind": sum(why in ("float by its kind", "the recipe") for why in kept.values()),
        "calibrated_with": len(learnt),
        "judged_with": len(judged),
        "bytes": [graph.bytes(), converted.bytes()],
    }


def magnitudes(graph, floats, rows):
    """Greatest |x| of each float tensor over the rows; infinite where one is not finite."""
    names = [name for node in graph.nodes for name in node.output if name in floats]
    bounds = quantise.ranges(graph, names, rows)
    return {name: max(map(abs, bounds[name])) if name in bounds else float("inf") for name in names}


def most(node, greatest):
    found = [greatest[name] for name in node.output if name in greatest]
    return max(found) if found else None


def kept_in_float(graph, floats, greatest, options):
    """Why each node that stays in float32 does."""
    kept, angles = {}, before_angles(graph)
    for node in graph.nodes:
        if not any(name in floats for name in node.output):
            continue
        value = most(node, greatest)
        if node.op_type in SOURCES or node.op_type in options["float_operators"]:
            kept[node.name] = "float by its kind"
        elif id_of(node) in angles:
            kept[node.name] = "float by its kind"
        elif quantise.asked_for(quantise.Layer(node, node.output[0]), options):
            kept[node.name] = "the recipe"
        elif not np.isfinite(value) and node.op_type not in ("Where", "Add"):
            kept[node.name] = "values that are not finite"
        elif np.isfinite(value) and value > options["headroom"] * GREATEST:
            kept[node.name] = f"values up to {value:.4g}, FP16 ends at {GREATEST:.0f}"
        elif 0 < value < LEAST and node.op_type not in PASSING:
            kept[node.name] = f"no value above {value:.1e}, FP16 is coarse below {LEAST:.1e}"
        elif large_weight(graph, node):
            kept[node.name] = "weights beyond FP16"
    return kept


def id_of(node):
    return node.output[0]


def before_angles(graph):
    """What a sine or cosine is computed from: an angle of 999 in FP16 is off by a quarter of a radian."""
    made, found = graphs.producers(graph.nodes), set()
    waiting = [node for node in graph.nodes if node.op_type in ("Sin", "Cos")]
    while waiting:
        node = waiting.pop()
        if id_of(node) not in found:
            found.add(id_of(node))
            waiting += [made[name] for name in node.input if name in made]
    return found


def large_weight(graph, node):
    taken = [graph.weights[name] for name in node.input if name in graph.weights]
    return any(a.dtype == np.float32 and a.size and np.isfinite(a).all() and np.abs(a).max() > GREATEST for a in taken)


def in_order_of_size(graph, floats, greatest, kept):
    """Nodes that could be brought back, twice as many each time, those of the greatest values first."""
    left = [n for n in graph.nodes if n.name not in kept and any(name in floats for name in n.output)]
    left.sort(key=lambda node: -(most(node, greatest) or 0))
    start, count = 0, 8
    while start < len(left):
        yield [node.name for node in left[start : start + count]]
        start, count = start + count, 2 * count


def imitated_error(graph, floats, kept, rows):
    """Relative L2 between the graph, and the graph with all that FP16 would hold rounded to its 11 bits."""
    return quantise.distance(graph, imitation(graph, floats, kept), rows, "none")


def imitation(graph, floats, kept):
    found, nodes, rounded = graph.copy(), [], {}
    found.weights["fp16/split"] = np.array(8193.0, np.float32)
    for node in graph.nodes:
        node = graphs.copy_of(node)
        if node.name not in kept:
            for index, name in enumerate(node.input):
                if name in graph.weights and halved(node, index, graph.weights[name]):
                    rounded[name] = f"{name}/fp16"
                    node.input[index] = rounded[name]
        nodes.append(node)
        for index, name in enumerate(node.output):
            if node.name not in kept and name in floats and node.op_type not in PASSING:
                node.output[index] = f"{name}/exact"
                nodes += rounding(f"{name}/exact", name)
    for name, renamed in rounded.items():
        found.weights[renamed] = np.asarray(graph.weights[name]).astype(np.float16).astype(np.float32)
    found.set_nodes(nodes)
    return found


def rounding(source, output):
    """x to 11 bits: c = 8193·x; c − (c − x) (Dekker 1971, splitting). What is infinite is passed on by the last choice."""
    return [
        helper.make_node("Mul", [source, "fp16/split"], [f"{output}/c"], name=f"{output}/c"),
        helper.make_node("Sub", [f"{output}/c", source], [f"{output}/d"], name=f"{output}/d"),
        helper.make_node("Sub", [f"{output}/c", f"{output}/d"], [f"{output}/e"], name=f"{output}/e"),
        helper.make_node("IsNaN", [f"{output}/e"], [f"{output}/odd"], name=f"{output}/odd"),
        helper.make_node("Where", [f"{output}/odd", source, f"{output}/e"], [output], name=f"{output}/chosen"),
    ]


def halved(node, index, array):
    return array.dtype == np.float32 and index not in FLOAT_INPUTS.get(node.op_type, ())


def convert(graph, floats, kept):
    """FP16 where a node is not kept; casts where the two meet, one a tensor and direction."""
    found, nodes, casts, weights = graph.copy(), [], {}, {}
    # Tensors that are in FP16, and what each output of the graph is called inside.
    half, outputs = set(), set(graph.outputs())
    for node in graph.nodes:
        node, floating = graphs.copy_of(node), node.name in kept
        touches = any(name in floats for name in (*node.input, *node.output) if name)
        for index, name in enumerate(node.input):
            if not touches or not name:
                continue
            if name in graph.weights:
                if not floating and halved(node, index, graph.weights[name]) and makes_floats(node, floats):
                    weights[f"{name}/fp16"] = name
                    node.input[index] = f"{name}/fp16"
            elif floating or not makes_floats(node, floats):
                if name in half:
                    node.input[index] = cast(nodes, casts, name, "fp32", TensorProto.FLOAT)
            elif name in floats and name not in half and index not in FLOAT_INPUTS.get(node.op_type, ()):
                node.input[index] = cast(nodes, casts, name, "fp16", TensorProto.FLOAT16)
        if not floating and makes_floats(node, floats):
            half.update(name for name in node.output if name in floats)
        nodes.append(node)
    nodes += [cast_output(nodes, name) for name in outputs & half]
    found.weights |= {renamed: np.asarray(graph.weights[name]).astype(np.float16) for renamed, name in weights.items()}
    found.set_nodes(nodes)
    del found.model.graph.value_info[:]
    graphs.sort(found)
    graphs.drop_unused(found)
    return found


def makes_floats(node, floats):
    return any(name in floats for name in node.output)


def cast(nodes, casts, name, suffix, kind):
    if (name, suffix) not in casts:
        casts[name, suffix] = f"{name}/{suffix}"
        nodes.append(helper.make_node("Cast", [name], [f"{name}/{suffix}"], name=f"{name}/{suffix}", to=kind))
    return casts[name, suffix]


def cast_output(nodes, name):
    """An output of the graph that is in FP16: called otherwise inside, and cast to float32 under its own name."""
    for node in nodes:
        node.input[:] = [f"{name}/inner" if used == name else used for used in node.input]
        node.output[:] = [f"{name}/inner" if made == name else made for made in node.output]
    return helper.make_node("Cast", [f"{name}/inner"], [name], name=f"{name}/outer", to=TensorProto.FLOAT)
