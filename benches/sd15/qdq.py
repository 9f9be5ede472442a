"""The graph of a network without its weights → the same in INT8 (QDQ), one weight at a time.

Weights are S8, symmetric, one scale a channel; activations U8 with static ranges. Products of two activations stay in
float: quantised, they make ONNX Runtime fuse softmax into a slow integer one.
"""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# Weights in files of their own begin at pages, so that they can be mapped.
PAGE = 4096
INLINE_BYTES = 1024


def fill(shell, weights):
    """The graph in FP32: weights, until now inputs, become initializers."""
    return Filler(shell, weights).model()


def quantize(shell, weights, ranges):
    """The graph in INT8. `ranges` are those of `networks.ranges`, `weights` NumPy arrays by name."""
    return Quantizer(shell, weights, ranges).model()


def save(model, initializers, path, inline=False):
    """Writes a graph with its initializers; large ones go to a file beside it unless they are to be inline."""
    written = onnx.ModelProto()
    written.CopyFrom(model)
    data = None if inline else open(f"{path}.data", "wb")
    for name, array in initializers.items():
        tensor = written.graph.initializer.add()
        if data is None or array.nbytes < INLINE_BYTES:
            tensor.CopyFrom(numpy_helper.from_array(array, name))
            continue
        data.write(bytes(-data.tell() % PAGE))
        tensor.name, tensor.data_type = name, helper.np_dtype_to_tensor_dtype(array.dtype)
        tensor.dims.extend(array.shape)
        tensor.data_location = TensorProto.EXTERNAL
        place = {"location": f"{path.name}.data", "offset": data.tell(), "length": array.nbytes}
        for key, value in place.items():
            entry = tensor.external_data.add()
            entry.key, entry.value = key, str(value)
        data.write(array.tobytes())
    if data:
        data.close()
    onnx.save(written, path)


class Filler:
    def __init__(self, shell, weights):
        self.shell, self.weights = shell, weights
        self.nodes, self.initializers = [], {}
        # Names of weights that the exporter transposes or passes on first: (weight, transposed).
        self.roots = {name: (name, False) for name in weights}

    def model(self):
        for node in self.shell.graph.node:
            if node.input and node.input[0] in self.roots and node.op_type in ("Transpose", "Identity"):
                name, transposed = self.roots[node.input[0]]
                self.roots[node.output[0]] = (name, transposed != (node.op_type == "Transpose"))
            else:
                self.add(node)
        model = onnx.ModelProto()
        model.CopyFrom(self.shell)
        graph = model.graph
        inputs = [entry for entry in graph.input if entry.name not in self.weights]
        for field, entries in [(graph.input, inputs), (graph.node, self.nodes), (graph.value_info, [])]:
            del field[:]
            field.extend(entries)
        return model, self.initializers

    def array(self, name):
        root, transposed = self.roots[name]
        return self.weights[root].T if transposed else self.weights[root]

    def add(self, node):
        self.keep_weights(node)
        self.nodes.append(node)

    def keep_weights(self, node):
        for name in node.input:
            if name in self.roots:
                self.initializers[name] = np.ascontiguousarray(self.array(name))


class Quantizer(Filler):
    def __init__(self, shell, weights, ranges):
        super().__init__(shell, weights)
        self.ranges, self.rounded, self.scales = ranges, {}, {}

    def add(self, node):
        weight = node.input[1] if len(node.input) > 1 else None
        layer = self.roots[weight][0].removesuffix(".weight") if weight in self.roots else None
        if node.op_type == "Gather" and node.input[0] in self.roots:
            self.embedding(node)
        elif node.op_type in ("Conv", "Gemm", "MatMul") and layer in self.ranges:
            self.layer(node, *self.ranges[layer])
        else:
            super().add(node)

    def emit(self, operator, inputs, output, **attributes):
        self.nodes.append(helper.make_node(operator, inputs, [output], name=f"{output}/{operator}", **attributes))
        return output

    def layer(self, node, input_range, output_range):
        activation, weight, *bias = node.input
        array = self.array(weight)
        if any(entry.name == "transB" and entry.i for entry in node.attribute):
            array, weight = array.T, f"{weight}.T"
            next(entry for entry in node.attribute if entry.name == "transB").i = 0
        axis = 0 if node.op_type == "Conv" else 1
        inputs = [self.activation(activation, input_range), self.weight(weight, array, axis)]
        inputs += [self.bias(name, activation, weight) for name in bias]
        output = node.output[0]
        if node.op_type == "Conv":
            node.output[0] = f"{output}/float"
        del node.input[:]
        node.input.extend(inputs)
        self.nodes.append(node)
        if node.op_type == "Conv":
            # Without this a convolution stays in float; a product of matrices gives float as fast.
            self.activation(node.output[0], output_range, output)
            self.rounded[output], self.scales[output] = output, self.scales[node.output[0]]

    def activation(self, name, bounds, output=None):
        if name not in self.rounded:
            low, high = min(bounds[0], 0), max(bounds[1], 1e-6)
            scale = np.float32((high - low) / 255)
            self.initializers[f"{name}/scale"] = scale.reshape(())
            self.initializers[f"{name}/zero"] = np.uint8(np.clip(round(-low / scale), 0, 255)).reshape(())
            parameters = [f"{name}/scale", f"{name}/zero"]
            self.emit("QuantizeLinear", [name, *parameters], f"{name}/u8")
            self.emit("DequantizeLinear", [f"{name}/u8", *parameters], output or f"{name}/rounded")
            self.rounded[name], self.scales[name] = output or f"{name}/rounded", scale
        return self.rounded[name]

    def weight(self, name, array, axis):
        if f"{name}/s8" not in self.initializers:
            others = tuple(index for index in range(array.ndim) if index != axis)
            scale = np.maximum(np.abs(array).max(axis=others, keepdims=True) / 127, 1e-9).astype(np.float32)
            self.initializers[f"{name}/s8"] = np.ascontiguousarray(np.rint(array / scale).astype(np.int8))
            self.initializers[f"{name}/scale"] = scale.reshape(-1)
            self.initializers[f"{name}/zero"] = np.zeros(scale.size, np.int8)
            self.scales[name] = scale.reshape(-1)
        inputs = [f"{name}/s8", f"{name}/scale", f"{name}/zero"]
        return self.emit("DequantizeLinear", inputs, f"{name}/float.{len(self.nodes)}", axis=axis)

    def bias(self, name, activation, weight):
        scale = (self.scales[activation] * self.scales[weight]).astype(np.float32)
        # A bias beyond what its scale can count only occurs where the weights of a channel are all but zero.
        counts = np.clip(np.rint(self.array(name) / scale), -(2**31), 2**31 - 1).astype(np.int32)
        self.initializers[f"{name}/s32"], self.initializers[f"{name}/scale"] = counts, scale
        self.initializers[f"{name}/zero"] = np.zeros(scale.size, np.int32)
        return self.emit("DequantizeLinear", [f"{name}/s32", f"{name}/scale", f"{name}/zero"], f"{name}/float", axis=0)

    def embedding(self, node):
        """Rows are looked up in S8: token embeddings are half of a text encoder."""
        name, output = node.input[0], node.output[0]
        table = self.array(name)
        scale = np.float32(np.abs(table).max() / 127)
        self.initializers[f"{name}/s8"] = np.rint(table / scale).astype(np.int8)
        self.initializers[f"{name}/scale"] = scale.reshape(())
        self.initializers[f"{name}/zero"] = np.int8(0).reshape(())
        self.emit("Gather", [f"{name}/s8", node.input[1]], f"{output}/s8", axis=0)
        self.emit("DequantizeLinear", [f"{output}/s8", f"{name}/scale", f"{name}/zero"], output)
