"""A traced graph → the same numbers with fewer, larger and faster nodes.

Shapes are folded, weights laid out as they are used, attention becomes one node, gated layers two, linear layers with a
bias Gemm. What each is good for is in docs/quantisation.md. Afterwards both graphs run on the same inputs, and differ
by less than `bound`, or it is an error.
"""

import os
import statistics
import time
from pathlib import Path

import numpy as np
from onnx import helper

from . import graphs, recipe as recipes, shapes
from .fault import Fault
from .graphs import attribute

# Both graphs are open at once, and run in turns, where their weights take no more than this together.
TOGETHER_BYTES = 1_500_000_000
ROUNDS = 5


def threads():
    return int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))


def optimise(fp32: Path, out: Path, recipe: dict) -> dict:
    """Writes `out` and returns what was done: counts, the difference (relative L2), times and the largest tensors.

    `recipe` is the section of that name. Raises Fault where the numbers differ.
    """
    options = recipes.checked("optimise", recipe)
    before = graphs.Graph.load(fp32)
    after = before.copy()
    done = rewrite(after, options)
    after.save(out)
    found = compare(before, graphs.Graph.load(out), options)
    if not found["relative_l2"] <= options["bound"]:
        raise Fault(
            f"{out}: after optimising, outputs are {found['relative_l2']:.1e} (relative L2) from those of {fp32}, "
            f"expected at most {options['bound']:.0e}; switch off parts of the recipe's optimise to find which"
        )
    return {"nodes": [len(before.nodes), len(after.nodes)], "bytes": after.bytes(), **done, **found}


def rewrite(graph, options):
    """Changes the graph in place; how often each change was made."""
    inline_constants(graph)
    shapes.fold(graph)
    lay_out_weights(graph)
    done = {}
    if options["attention"] == "fused":
        done["attention"] = fuse_attention(graph)
    if options["gates"] == "halves":
        done["gates"] = split_gates(graph)
    if options["rows_bytes"]:
        done["rows"] = split_rows(graph, options["rows_bytes"])
    if options["linears"] == "gemm":
        done["linears"] = make_gemm(graph)
    graphs.sort(graph)
    graphs.drop_unused(graph)
    return done


def inline_constants(graph):
    kept = []
    for node in graph.nodes:
        value = shapes.constant(node) if node.op_type == "Constant" else None
        if value is None:
            kept.append(node)
        else:
            graph.weights[node.output[0]] = value
    graph.set_nodes([graphs.copy_of(node) for node in kept])


def lay_out_weights(graph):
    """Weights that the exporter passes on or transposes first are kept as they are used."""
    kept, renamed = [], {}
    for node in graph.nodes:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        source = node.input[0] if node.input else None
        if passes_on(graph, node) and node.output[0] not in graph.outputs():
            renamed[node.output[0]] = source
        elif node.op_type == "Transpose" and source in graph.weights:
            graph.weights[node.output[0]] = graph.weights[source].transpose(attribute(node, "perm"))
        else:
            kept.append(node)
    graph.set_nodes([graphs.copy_of(node) for node in kept])


def passes_on(graph, node):
    """Whether a node gives what it takes: diffusers divides the output of each block by a factor that is 1."""
    if node.op_type in ("Mul", "Div"):
        factor = graph.weights.get(node.input[1])
        return factor is not None and factor.ndim == 0 and factor == 1
    return node.op_type == "Identity"


class Match:
    """Walks a graph against its arrows."""

    def __init__(self, graph):
        self.graph = graph
        self.made, self.used = graphs.producers(graph.nodes), graphs.consumers(graph.nodes)

    def source(self, name, *operators):
        node = self.made.get(name)
        return node if node is not None and node.op_type in operators else None

    def only_user(self, name, *operators):
        users = self.used.get(name, [])
        if len(users) != 1 or users[0].op_type not in operators or name in self.graph.outputs():
            return None
        return users[0]

    def scalar(self, name):
        array = self.graph.weights.get(name)
        return float(array.ravel()[0]) if array is not None and array.size == 1 else None

    def unscaled(self, name):
        """(tensor, factor) before a product with a scalar."""
        node = self.source(name, "Mul", "Div")
        if node is None:
            return name, 1.0
        factor = self.scalar(node.input[1])
        if factor is not None:
            return node.input[0], factor if node.op_type == "Mul" else 1 / factor
        factor = self.scalar(node.input[0]) if node.op_type == "Mul" else None
        return (name, 1.0) if factor is None else (node.input[1], factor)

    def split_heads(self, name, perms):
        """(tensor [b, n, heads·d], factor, heads) of a tensor that was split into heads and transposed."""
        factor, perm = 1.0, [0, 1, 2, 3]
        while True:
            name, found = self.unscaled(name)
            factor *= found
            node = self.source(name, "Transpose", "Reshape")
            if node is None:
                return None
            if node.op_type == "Reshape":
                break
            earlier = list(attribute(node, "perm"))
            perm, name = [earlier[axis] for axis in perm], node.input[0]
        shape = self.graph.weights.get(node.input[1])
        if perm != perms or shape is None or len(shape) != 4 or shape[2] <= 0:
            return None
        return node.input[0], factor, int(shape[2])


def fuse_attention(graph):
    """softmax(s·QKᵀ)·V of split heads → one MultiHeadAttention (com.microsoft), which never holds all products."""
    match, fused, replaced = Match(graph), [], set()
    for softmax in [node for node in graph.nodes if node.op_type == "Softmax"]:
        found = attention(match, softmax)
        if found:
            fused.append(found)
            replaced.update(found.output)
    if not fused:
        return 0
    rest = [graphs.copy_of(node) for node in graph.nodes if not any(name in replaced for name in node.output)]
    graph.set_nodes(rest + fused)
    if not any(entry.domain == "com.microsoft" for entry in graph.model.opset_import):
        graph.model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    graphs.sort(graph)
    graphs.drop_unused(graph)
    return len(fused)


def attention(match, softmax):
    scores, scale = match.unscaled(softmax.input[0])
    product = match.source(scores, "MatMul")
    mix = match.only_user(softmax.output[0], "MatMul")
    if product is None or mix is None or mix.input[0] != softmax.output[0]:
        return None
    query = match.split_heads(product.input[0], [0, 2, 1, 3])
    key = match.split_heads(product.input[1], [0, 2, 3, 1])
    value = match.split_heads(mix.input[1], [0, 2, 1, 3])
    back = match.only_user(mix.output[0], "Transpose")
    merged = match.only_user(back.output[0], "Reshape") if back is not None else None
    if None in (query, key, value) or merged is None or list(attribute(back, "perm")) != [0, 2, 1, 3]:
        return None
    shape = match.graph.weights.get(merged.input[1])
    if not query[2] == key[2] == value[2] or value[1] != 1 or shape is None or len(shape) != 3:
        return None
    return helper.make_node(
        "MultiHeadAttention", [query[0], key[0], value[0]], [merged.output[0]], domain="com.microsoft",
        name=softmax.name.removesuffix("Softmax") + "MultiHeadAttention", num_heads=query[2],
        scale=scale * query[1] * key[1],
    )


def biased(match, product):
    """(weight, bias, sum) of a linear layer with a bias, or None."""
    weight = match.graph.weights.get(product.input[1])
    total = match.only_user(product.output[0], "Add")
    if weight is None or weight.ndim != 2 or total is None:
        return None
    other = next(name for name in total.input if name != product.output[0])
    bias = match.graph.weights.get(other)
    if bias is None or bias.shape != (weight.shape[1],):
        return None
    return product.input[1], other, total


def split_gates(graph):
    """A layer whose output is parted in two halves → two layers. Together they are the largest tensor of a U-Net."""
    match, made, gone = Match(graph), [], set()
    for product in [node for node in graph.nodes if node.op_type == "MatMul"]:
        found = biased(match, product)
        parts = halves(match, found[2].output[0], graph.weights[found[0]].shape[1]) if found else None
        if parts is None:
            continue
        weight, bias, total = found
        middle = graph.weights[weight].shape[1] // 2
        for index, (name, half) in enumerate(zip(parts, (slice(0, middle), slice(middle, None)))):
            graph.weights[f"{weight}.{index}"] = graph.weights[weight][:, half]
            graph.weights[f"{bias}.{index}"] = graph.weights[bias][half]
            inner = f"{product.output[0]}.{index}"
            made += [
                helper.make_node("MatMul", [product.input[0], f"{weight}.{index}"], [inner], name=f"{product.name}.{index}"),
                helper.make_node("Add", [inner, f"{bias}.{index}"], [name], name=f"{total.name}.{index}"),
            ]
            gone.add(name)
    graph.set_nodes([graphs.copy_of(node) for node in graph.nodes if not any(n in gone for n in node.output)] + made)
    graphs.sort(graph)
    graphs.drop_unused(graph)
    return len(made) // 4


def halves(match, name, width):
    """The two tensors into which a tensor's last axis is parted, and which alone use it."""
    users = match.used.get(name, [])
    if len(users) == 1 and users[0].op_type == "Split" and len(users[0].output) == 2:
        sizes = match.graph.weights.get(users[0].input[1]) if len(users[0].input) > 1 else [width // 2] * 2
        if attribute(users[0], "axis", 0) in (-1, 2) and sizes is not None and set(map(int, sizes)) == {width // 2}:
            return list(users[0].output)
    if len(users) == 2 and all(user.op_type == "Slice" for user in users):
        bounds = [part_of(match, user) for user in users]
        if None not in bounds and all(axis in (-1, 2) for _, _, axis in bounds):
            order = sorted(range(2), key=lambda i: bounds[i][0])
            (start, middle, _), (again, end, _) = (bounds[i] for i in order)
            if (start, middle, again) == (0, width // 2, width // 2) and end >= width:
                return [users[i].output[0] for i in order]
    return None


def part_of(match, node):
    values = [match.graph.weights.get(name) for name in node.input[1:5]]
    if len(values) < 3 or any(value is None or value.size != 1 for value in values) or (len(values) == 4 and values[3] != 1):
        return None
    return tuple(int(value.ravel()[0]) for value in values[:3])


def split_rows(graph, most_bytes):
    """What works row by row, from one tensor to one other, in parts of the rows: its inner tensors are as much smaller."""
    known = [shapes.Shapes(graph, sizes) for sizes in shapes.probes(graph)]
    used, count = graphs.consumers(graph.nodes), 0
    sources = [node.input[0] for node in graph.nodes if node.op_type == "MatMul" and node.input[1] in graph.weights]
    for source in dict.fromkeys(sources):
        region, ends = row_by_row(graph, used, source)
        rows = {each.shape(source)[1] for each in known if len(each.shape(source) or ()) == 3}
        inner = [each.shape(name) for each in known for node in region for name in node.output]
        if len(ends) != 1 or len(rows) != 1 or None in inner:
            continue
        parts = -(-max(4 * int(np.prod(shape[1:])) for shape in inner) // most_bytes)
        if parts > 1:
            run_in_parts(graph, region, source, ends.pop(), rows.pop(), parts)
            used, count = graphs.consumers(graph.nodes), count + 1
    return count


ROW_BY_ROW = ("MatMul", "Add", "Mul", "Div", "Sub", "Erf", "Gelu", "Sigmoid", "Tanh", "Relu")


def row_by_row(graph, used, source):
    """(nodes, ends): all that follows from one tensor row by row, and its tensors that something else takes."""
    inside, region, waiting = {source}, [], list(used.get(source, ()))
    while waiting:
        node = waiting.pop(0)
        others = [graph.weights.get(name) for name in node.input if name not in inside]
        fits = node.op_type in ROW_BY_ROW and all(w is not None and w.ndim <= 1 + (node.op_type == "MatMul") for w in others)
        if fits and node.output[0] not in inside and (node.op_type != "MatMul" or node.input[1] in graph.weights):
            inside.add(node.output[0])
            region.append(node)
            waiting += used.get(node.output[0], ())
    names = {node.name for node in region}
    taken = {n for n in inside - {source} for user in used.get(n, ()) if user.name not in names}
    return region, taken | (inside & set(graph.outputs()))


def run_in_parts(graph, region, source, end, rows, parts):
    sizes = [rows // parts + (index < rows % parts) for index in range(parts)]
    graph.weights[f"{end}/rows"] = np.array(sizes, np.int64)
    pieces = [f"{source}/{end}.{index}" for index in range(parts)]
    made = [helper.make_node("Split", [source, f"{end}/rows"], pieces, name=f"{end}/Split", axis=1)]
    for index, piece in enumerate(pieces):
        inner = {name: f"{name}.rows{index}" for node in region for name in node.output} | {source: piece}
        for node in region:
            copy = graphs.copy_of(node)
            copy.name = f"{node.name}.rows{index}"
            copy.input[:] = [inner.get(name, name) for name in node.input]
            copy.output[:] = [inner[name] for name in node.output]
            made.append(copy)
    made.append(helper.make_node("Concat", [f"{end}.rows{i}" for i in range(parts)], [end], name=f"{end}/Concat", axis=1))
    gone = {node.output[0] for node in region}
    graph.set_nodes([graphs.copy_of(node) for node in graph.nodes if node.output[0] not in gone] + made)
    graphs.sort(graph)


def make_gemm(graph):
    """Linear layers with a bias → Gemm between two Reshapes, since Gemm takes matrices only."""
    match, made, gone = Match(graph), [], set()
    sizes = [shapes.Shapes(graph, probe) for probe in shapes.probes(graph)]
    for product in [node for node in graph.nodes if node.op_type == "MatMul"]:
        found = biased(match, product)
        rank = {len(known.shape(product.input[0]) or ()) for known in sizes}
        if found and rank <= {2, 3} and len(rank) == 1:
            made += gemm(graph, product, found, sizes)
            gone.update([product.output[0], found[2].output[0]])
    graph.set_nodes([graphs.copy_of(node) for node in graph.nodes if not any(n in gone for n in node.output)] + made)
    return len(gone) // 2


def gemm(graph, product, found, sizes):
    source, (weight, bias, total) = product.input[0], found
    output, name = total.output[0], product.name.removesuffix("MatMul") + "Gemm"
    inputs, width = graph.weights[weight].shape
    if len(sizes[0].shape(source)) == 2:
        return [helper.make_node("Gemm", [source, weight, bias], [output], name=name)]
    graph.weights[f"{output}/flat"] = np.array([-1, inputs], np.int64)
    lengths = {known.shape(source)[1] for known in sizes}
    nodes, back = [], f"{output}/back"
    if len(lengths) == 1:
        graph.weights[back] = np.array([-1, lengths.pop(), width], np.int64)
    else:
        # Only the tensor itself knows how long it is: [b, n] of its shape, and the layer's width.
        for key, value in (("from", [0]), ("to", [2]), ("width", [width])):
            graph.weights[f"{output}/{key}"] = np.array(value, np.int64)
        nodes = [
            helper.make_node("Shape", [source], [f"{output}/shape"]),
            helper.make_node("Slice", [f"{output}/shape", f"{output}/from", f"{output}/to"], [f"{output}/sizes"]),
            helper.make_node("Concat", [f"{output}/sizes", f"{output}/width"], [back], axis=0),
        ]
    return nodes + [
        helper.make_node("Reshape", [source, f"{output}/flat"], [f"{output}/rows"], name=f"{name}/flat"),
        helper.make_node("Gemm", [f"{output}/rows", weight, bias], [f"{output}/columns"], name=name),
        helper.make_node("Reshape", [f"{output}/columns", back], [output], name=f"{name}/back"),
    ]


def example(graph, sizes=None, seed=0):
    """Random inputs of a graph, of the kind that its names promise."""
    random = np.random.default_rng(seed)
    axes = shapes.probes(graph)[0] | {k: v for k, v in (sizes or {}).items() if k in shapes.free_axes(graph)}
    kinds = {entry.name: entry.type.tensor_type.elem_type for entry in graph.model.graph.input}
    found = {}
    for name, shape in shapes.input_shapes(graph, axes).items():
        kind = helper.tensor_dtype_to_np_dtype(kinds[name])
        if name in ("timestep", "time_ids"):
            found[name] = random.integers(1, 999, shape).astype(kind)
        elif np.issubdtype(kind, np.integer):
            found[name] = random.integers(0, vocabulary(graph, name), shape).astype(kind)
        else:
            found[name] = random.standard_normal(shape).astype(kind)
    return found


def vocabulary(graph, name):
    """How many rows the table has in which an input looks things up."""
    tables = {node.output[0] for node in graph.nodes if node.op_type in ("Cast", "Reshape") and name in node.input} | {name}
    rows = [
        len(graph.weights[node.input[0]])
        for node in graph.nodes
        if node.op_type == "Gather" and node.input[1] in tables and node.input[0] in graph.weights
    ]
    return min(rows, default=2)


def compare(before, after, options):
    """Worst relative L2 between two graphs' outputs, their times, and their largest tensors in bytes."""
    feeds = example(before, options["sizes"])
    pair = (before, after)
    if sum(graph.bytes() for graph in pair) <= TOGETHER_BYTES:
        sessions = [graph.session(threads()) for graph in pair]
        outputs = [session.run(feeds) for session in sessions]
        times = [[timed(session, feeds) for session in sessions] for _ in range(ROUNDS)]
    else:
        outputs, single = [], []
        for graph in pair:
            session = graph.session(threads())
            outputs.append(session.run(feeds))
            single.append(timed(session, feeds))
            del session
        times = [single]
    worst = max(graphs.relative_l2(outputs[1][name], value) for name, value in outputs[0].items())
    ratios = sorted(later / earlier for earlier, later in times)
    return {
        "relative_l2": worst,
        "ms": [statistics.median(row[i] for row in times) for i in range(2)],
        "time_ratio": [statistics.median(ratios), ratios[0], ratios[-1]],
        "largest": [largest(graph, feeds) for graph in pair],
    }


def timed(session, feeds):
    start = time.perf_counter()
    session.run(feeds)
    return (time.perf_counter() - start) * 1000


def largest(graph, feeds, count=5):
    """The largest tensors between nodes at these inputs: name, shape, bytes in float32."""
    names = {}
    for entry in graph.model.graph.input:
        for index, dim in enumerate(entry.type.tensor_type.shape.dim):
            if not dim.HasField("dim_value") and entry.name in feeds:
                names[dim.dim_param or f"{entry.name}.{index}"] = feeds[entry.name].shape[index]
    known = shapes.Shapes(graph, names)
    found = {name: known.shape(name) for node in graph.nodes for name in node.output}
    ranked = sorted(((4 * int(np.prod(shape)), name, shape) for name, shape in found.items() if shape), reverse=True)
    return [{"tensor": name, "shape": list(shape), "bytes": size} for size, name, shape in ranked[:count]]
