"""ONNX graphs apart from their weights: weights are mapped from files and read one at a time, so that a graph of several
gigabytes can be changed, run and written in little memory."""

import copy
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

# Weights in files of their own begin at pages, so that they can be mapped.
PAGE = 4096
# Smaller ones stay in the graph's file, where shapes and axes can be seen without a second file.
INLINE_BYTES = 1024
# Graphs with more weights than this get a file beside them; smaller ones stay whole.
WHOLE_BYTES = 100_000_000
LEVELS = {
    "none": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
ELEMENTS = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}


class Graph:
    """`model` without initializers, and `weights`: arrays by name, mapped where they lie in a file of their own."""

    def __init__(self, model, weights):
        self.model, self.weights = model, weights

    @classmethod
    def load(cls, path):
        path = Path(path)
        model = onnx.load(path, load_external_data=False)
        weights = {tensor.name: stored(tensor, path.parent) for tensor in model.graph.initializer}
        del model.graph.initializer[:]
        return cls(model, weights)

    @property
    def nodes(self):
        return self.model.graph.node

    def set_nodes(self, nodes):
        nodes = list(nodes)
        del self.model.graph.node[:]
        self.model.graph.node.extend(nodes)

    def inputs(self):
        """Names of what is fed: old graphs list their initializers among their inputs."""
        return [entry.name for entry in self.model.graph.input if entry.name not in self.weights]

    def outputs(self):
        return [entry.name for entry in self.model.graph.output]

    def copy(self):
        """A graph that can be changed without changing this one; weights are shared."""
        return Graph(copy.deepcopy(self.model), dict(self.weights))

    def bytes(self):
        return sum(array.nbytes for array in self.weights.values())

    def save(self, path, whole_bytes=WHOLE_BYTES):
        """Writes PATH, and PATH_data beside it where the weights take more than `whole_bytes`. The first names the second:
        move both together, and keep their names."""
        path = Path(path)
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        data_path = path.with_name(f"{path.name}_data")
        data = open(data_path, "wb") if self.bytes() > whole_bytes else None
        for name, array in self.weights.items():
            tensor = model.graph.initializer.add()
            if data is None or array.nbytes < INLINE_BYTES:
                tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
                continue
            data.write(bytes(-data.tell() % PAGE))
            refer(tensor, name, array, data_path.name, data.tell())
            np.ascontiguousarray(array).tofile(data)
        if data:
            data.close()
        else:
            data_path.unlink(missing_ok=True)
        onnx.save(model, path)

    def session(self, threads=1, level="all", outputs=(), keys=None):
        """A session of ONNX Runtime that also gives the tensors `outputs`; the weights are not copied for it."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.graph_optimization_level = LEVELS[level]
        options.log_severity_level = 3
        options.enable_mem_pattern = False
        for key, value in (keys or {}).items():
            options.add_session_config_entry(key, value)
        outside, used = {}, {name for node in self.nodes for name in (*node.input, *captured(node))}
        for name, array in self.weights.items():
            # The library drops what no node uses before it looks for what it is given.
            if name not in used:
                continue
            tensor = model.graph.initializer.add()
            if array.nbytes < INLINE_BYTES:
                tensor.CopyFrom(numpy_helper.from_array(np.asarray(array), name))
            else:
                refer(tensor, name, array, "given", 0)
                outside[name] = onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))
        if outside:
            options.add_external_initializers(list(outside), list(outside.values()))
        return Session(onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        ), outside)


class Session:
    """Runs a graph on arrays by name. Holds what the library only borrows."""

    def __init__(self, session, borrowed=()):
        self.session, self.borrowed = session, borrowed
        self.types = {entry.name: ELEMENTS[entry.type] for entry in session.get_inputs()}
        self.shapes = {entry.name: entry.shape for entry in session.get_inputs()}
        self.names = [entry.name for entry in session.get_outputs()]

    def run(self, feeds):
        """Outputs by name. Feeds are cast to what the graph takes; those that it doesn't take are left out."""
        fed = {name: np.asarray(feeds[name]).astype(kind, copy=False) for name, kind in self.types.items()}
        return dict(zip(self.names, self.session.run(None, fed)))


def stored(tensor, folder):
    """The array of an initializer; one in a file of its own is mapped."""
    if tensor.data_location != TensorProto.EXTERNAL:
        return numpy_helper.to_array(tensor)
    place = {entry.key: entry.value for entry in tensor.external_data}
    kind = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))
    if 0 in tensor.dims:
        return np.zeros(tensor.dims, kind)
    return np.memmap(folder / place["location"], kind, "r", int(place.get("offset", 0)), tuple(tensor.dims))


def refer(tensor, name, array, location, offset):
    tensor.name, tensor.data_type = name, helper.np_dtype_to_tensor_dtype(array.dtype)
    tensor.dims.extend(array.shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": offset, "length": array.nbytes}.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, str(value)


def attribute(node, name, default=None):
    for entry in node.attribute:
        if entry.name == name:
            return helper.get_attribute_value(entry)
    return default


def consumers(nodes):
    """Nodes that take each tensor, by its name."""
    found = {}
    for node in nodes:
        for name in node.input:
            found.setdefault(name, []).append(node)
    return found


def producers(nodes):
    return {name: node for node in nodes for name in node.output if name}


def sort(graph):
    """Puts nodes behind those that they depend on, and otherwise leaves their order."""
    made = producers(graph.nodes)
    ordered, placed = [], set()
    for last in graph.nodes:
        stack = [last]
        while stack:
            node = stack[-1]
            waits = [made[name] for name in node.input if name in made and id(made[name]) not in placed]
            if id(node) in placed:
                stack.pop()
            elif waits:
                if len(stack) > len(graph.nodes):
                    raise ValueError("the graph has a cycle")
                stack.extend(waits)
            else:
                placed.add(id(node))
                ordered.append(stack.pop())
    graph.set_nodes([copy_of(node) for node in ordered])


def copy_of(node):
    made = onnx.NodeProto()
    made.CopyFrom(node)
    return made


def drop_unused(graph):
    """Removes nodes, from the last to the first, and weights of which no output depends."""
    used, kept = set(graph.outputs()), []
    for node in reversed(graph.nodes):
        if any(name in used for name in node.output):
            kept.append(node)
            used.update(node.input)
            used.update(name for name in captured(node))
    if len(kept) != len(graph.nodes):
        graph.set_nodes([copy_of(node) for node in reversed(kept)])
    graph.weights = {name: array for name, array in graph.weights.items() if name in used}


def captured(node):
    """Names that the branches of an If or the body of a Loop take from outside."""
    for entry in node.attribute:
        for inner in entry.g.node if entry.HasField("g") else ():
            yield from inner.input
            yield from captured(inner)


def relative_l2(got, expected):
    """‖got − expected‖ ÷ ‖expected‖, in double precision."""
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    return float(np.linalg.norm(got - expected) / max(np.linalg.norm(expected), 1e-30))


class Distance:
    """Relative L2 over several rows at once: √(Σ‖got − expected‖² ÷ Σ‖expected‖²)."""

    def __init__(self):
        self.square, self.power = 0.0, 0.0

    def add(self, got, expected):
        difference = np.asarray(got, np.float64) - np.asarray(expected, np.float64)
        self.square += float(np.sum(difference**2))
        self.power += float(np.sum(np.asarray(expected, np.float64) ** 2))

    def value(self):
        return float(np.sqrt(self.square / max(self.power, 1e-60))) if np.isfinite(self.square) else float("inf")


def name_nodes(graph):
    """Gives every node a name of its own, by which recipes and reports know it."""
    seen = set()
    for node in graph.nodes:
        if not node.name or node.name in seen:
            node.name = f"{node.output[0]}/{node.op_type}"
        seen.add(node.name)
