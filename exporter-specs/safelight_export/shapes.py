"""Shapes of all tensors of a graph at given sizes, and the values of those that are computed from shapes."""

import numpy as np
import onnx
from onnx import defs, helper, numpy_helper, shape_inference

from . import graphs

# Larger values are not followed: nothing that describes a shape is so large.
VALUE_ELEMENTS = 16384
# Three sizes of every free axis, no two of which are equal or a multiple of another's: what is the same at all of them is
# constant. Powers of two come first, since U-Nets halve.
PROBES = ((2, 32), (3, 64), (5, 96))
BATCH_AXES = ("batch", "batch_size", "b", "n")


def free_axes(graph):
    """Names of axes of the inputs that have no fixed size, in order."""
    names = []
    for entry in graph.model.graph.input:
        for index, dim in enumerate(entry.type.tensor_type.shape.dim):
            if entry.name in graph.inputs() and not dim.HasField("dim_value"):
                names.append(dim.dim_param or f"{entry.name}.{index}")
    return list(dict.fromkeys(names))


def probes(graph):
    """Sizes of the free axes, three times: each its own, so that none is taken for another."""
    found = []
    for batch, side in PROBES:
        sizes, step = {}, 0
        for name in free_axes(graph):
            if name.lower() in BATCH_AXES:
                sizes[name] = batch
            else:
                sizes[name] = side + 32 * step if "length" not in name else 77 + side
                step += 1
        found.append(sizes)
    return found


def input_shapes(graph, sizes):
    found = {}
    for entry in graph.model.graph.input:
        if entry.name in graph.weights:
            continue
        dims = entry.type.tensor_type.shape.dim
        found[entry.name] = tuple(
            dim.dim_value if dim.HasField("dim_value") else sizes[dim.dim_param or f"{entry.name}.{index}"]
            for index, dim in enumerate(dims)
        )
    return found


class Shapes:
    """`shape` and `value` by tensor name, of a graph whose free axes have `sizes`. What cannot be told is absent."""

    def __init__(self, graph, sizes):
        self.types, self.value = {}, {}
        elements = {entry.name: entry.type.tensor_type.elem_type for entry in graph.model.graph.input}
        for name, shape in input_shapes(graph, sizes).items():
            self.types[name] = helper.make_tensor_type_proto(elements[name], shape)
        for name, array in graph.weights.items():
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            self.types[name] = helper.make_tensor_type_proto(kind, array.shape)
            if array.size <= VALUE_ELEMENTS:
                self.value[name] = array
        self.opsets = {entry.domain or "": entry.version for entry in graph.model.opset_import}
        for node in graph.nodes:
            self.visit(node)

    def shape(self, name):
        kind = self.types.get(name)
        if kind is None or not kind.tensor_type.HasField("shape"):
            return None
        dims = kind.tensor_type.shape.dim
        return tuple(dim.dim_value for dim in dims) if all(dim.HasField("dim_value") for dim in dims) else None

    def visit(self, node):
        if self.evaluate(node):
            return
        if node.op_type == "MultiHeadAttention":
            self.types[node.output[0]] = self.types[node.input[0]]
            return
        if not defs.has(node.op_type, node.domain) or not all(name in self.types for name in node.input if name):
            return
        schema = defs.get_schema(node.op_type, self.opsets.get(node.domain, 17), node.domain)
        types = {name: self.types[name] for name in node.input if name}
        data = {
            name: numpy_helper.from_array(np.asarray(self.value[name]), name)
            for name in node.input
            if name in self.value and self.value[name].size < 1024
        }
        try:
            self.types.update(shape_inference.infer_node_outputs(schema, node, types, data))
        except Exception:  # what onnx raises here has no type of its own; the tensor's shape stays unknown
            return

    def evaluate(self, node):
        """Computes a small tensor that follows from shapes and constants; whether it could."""
        if node.op_type == "Shape":
            shape = self.shape(node.input[0])
            values = None if shape is None else np.array(shape, np.int64)
        elif node.op_type not in EVALUATED or not all(name in self.value for name in node.input if name):
            return False
        else:
            taken = [self.value[name] if name else None for name in node.input]
            values = EVALUATED[node.op_type](node, *taken)
        if values is None or values.size > VALUE_ELEMENTS:
            return False
        values = np.asarray(values)
        self.value[node.output[0]] = values
        kind = helper.np_dtype_to_tensor_dtype(values.dtype)
        self.types[node.output[0]] = helper.make_tensor_type_proto(kind, values.shape)
        return True


def constant(node):
    for entry in node.attribute:
        if entry.name == "value":
            return numpy_helper.to_array(entry.t)
        if entry.name in ("value_float", "value_int"):
            return np.array(helper.get_attribute_value(entry))
        if entry.name in ("value_floats", "value_ints"):
            return np.array(helper.get_attribute_value(entry))
    return None


def cast(node, x):
    return x.astype(helper.tensor_dtype_to_np_dtype(graphs.attribute(node, "to")))


def slice_(_, x, starts, ends, axes=None, steps=None):
    taken = [slice(None)] * x.ndim
    axes = range(len(starts)) if axes is None else axes
    for index, axis in enumerate(axes):
        step = 1 if steps is None else int(steps[index])
        end = int(ends[index])
        taken[axis] = slice(int(starts[index]), None if step < 0 and end < -x.shape[axis] else end, step)
    return x[tuple(taken)]


def divide(_, x, y):
    if np.issubdtype(x.dtype, np.integer):
        return np.where(y == 0, 0, np.trunc(x / np.where(y == 0, 1, y))).astype(x.dtype)
    return x / y


def reshape(_, x, shape):
    return x.reshape([x.shape[i] if size == 0 else size for i, size in enumerate(shape)])


def constant_of_shape(node, shape):
    value = graphs.attribute(node, "value")
    fill = numpy_helper.to_array(value).ravel()[0] if value is not None else np.float32(0)
    return np.full([int(size) for size in shape], fill) if np.prod(shape) <= VALUE_ELEMENTS else None


def expand(_, x, shape):
    target = np.broadcast_shapes(x.shape, tuple(int(size) for size in shape))
    return np.broadcast_to(x, target).copy() if np.prod(target) <= VALUE_ELEMENTS else None


def squeeze(_, x, axes=None):
    return np.squeeze(x, None if axes is None else tuple(int(axis) for axis in axes))


EVALUATED = {
    "Constant": constant,
    "Identity": lambda _, x: x,
    "Cast": cast,
    "Gather": lambda node, x, i: np.take(x, i, axis=graphs.attribute(node, "axis", 0)),
    "Unsqueeze": lambda _, x, axes: np.expand_dims(x, tuple(int(axis) for axis in axes)),
    "Squeeze": squeeze,
    "Concat": lambda node, *x: np.concatenate(x, graphs.attribute(node, "axis")),
    "Slice": slice_,
    "Reshape": reshape,
    "Transpose": lambda node, x: np.transpose(x, graphs.attribute(node, "perm")),
    "ConstantOfShape": constant_of_shape,
    "Expand": expand,
    "Range": lambda _, start, end, step: np.arange(start, end, step, dtype=start.dtype),
    "Add": lambda _, x, y: x + y,
    "Sub": lambda _, x, y: x - y,
    "Mul": lambda _, x, y: x * y,
    "Div": divide,
    "Neg": lambda _, x: -x,
    "Sqrt": lambda _, x: np.sqrt(x),
    "Floor": lambda _, x: np.floor(x),
    "Equal": lambda _, x, y: x == y,
    "Less": lambda _, x, y: x < y,
    "Greater": lambda _, x, y: x > y,
    "Not": lambda _, x: ~x,
    "And": lambda _, x, y: x & y,
    "Where": lambda _, c, x, y: np.where(c, x, y),
}


def fold(graph):
    """Replaces what follows from shapes by constants, where it is the same at every size; shapes that tensors are given
    become constants with 0 (as it was) and -1 (what is left) in the places of free axes. The numbers do not change."""
    seen = [Shapes(graph, sizes) for sizes in probes(graph)]
    fixed = {}
    for node in graph.nodes:
        for name in node.output:
            values = [shapes.value.get(name) for shapes in seen]
            if all(value is not None for value in values) and all(np.array_equal(values[0], v) for v in values[1:]):
                fixed[name] = values[0]
    kept = [node for node in graph.nodes if not all(name in fixed for name in node.output)]
    for node in kept:
        if node.op_type == "Reshape" and node.input[1] not in fixed and node.input[1] not in graph.weights:
            shape = reshape_target(node, seen)
            if shape is not None:
                name = f"{node.output[0]}/shape"
                graph.weights[name] = shape
                node.input[1] = name
    for name, value in fixed.items():
        graph.weights[name] = np.ascontiguousarray(value).reshape(value.shape)
    graph.set_nodes([graphs.copy_of(node) for node in kept])
    graphs.drop_unused(graph)
    del graph.model.graph.value_info[:]


def reshape_target(node, seen):
    """The constant that gives the same shape at every size, or None."""
    targets = [shapes.value.get(node.input[1]) for shapes in seen]
    sources = [shapes.shape(node.input[0]) for shapes in seen]
    if any(entry is None for entry in (*targets, *sources)) or graphs.attribute(node, "allowzero", 0):
        return None
    found = []
    for index in range(len(targets[0])):
        sizes = {int(target[index]) for target in targets}
        as_before = all(index < len(source) and source[index] == target[index] for source, target in zip(sources, targets))
        found.append(sizes.pop() if len(sizes) == 1 else 0 if as_before else -1)
    return np.array(found, np.int64) if found.count(-1) <= 1 else None
