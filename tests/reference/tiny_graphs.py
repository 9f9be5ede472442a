"""Random-weight graphs with the tensor names and axes that Optimum writes.

Everything inside is bounded by tanh, so that sampling stays stable and two runtimes stay comparable; every input
moves the output, so that a test sees a forgotten one.
"""

from typing import NamedTuple

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper

OPSET, IR_VERSION = 17, 8
LATENT_CHANNELS = 4
UPSCALE = 8
WIDTH = 8
TEXT_WIDTH = 32
TIME_FREQUENCIES = 8


class Axes(NamedTuple):
    """Fixed sizes or names of dynamic axes, and the element type at the graph's edges."""

    batch: int | str
    height: int | str
    width: int | str
    sequence: int | str
    float_type: int

    def latents(self):
        return [self.batch, LATENT_CHANNELS, self.height, self.width]

    def text(self):
        return [self.batch, self.sequence, TEXT_WIDTH]

    def picture(self):
        return [self.batch, 3, *(enlarged(side) for side in (self.height, self.width))]


def enlarged(side):
    return side * UPSCALE if isinstance(side, int) else f"{side}_image"


class Graph:
    """Collects nodes; each method returns the name of the tensor it makes."""

    def __init__(self, seed):
        self.nodes, self.constants = [], []
        self.random = np.random.RandomState(seed)

    def op(self, kind, *inputs, out=None, **attributes):
        out = out or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [out], **attributes))
        return out

    def constant(self, values, dtype=np.float32):
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def weights(self, *shape, gain, fan_in):
        return self.constant(self.random.randn(*shape) * gain / np.sqrt(fan_in))

    def dense(self, x, width_in, width_out, gain=1.0):
        return self.op("MatMul", x, self.weights(width_in, width_out, gain=gain, fan_in=width_in))

    def convolution(self, x, channels_in, channels_out, gain=1.0):
        kernel = self.weights(channels_out, channels_in, 3, 3, gain=gain, fan_in=9 * channels_in)
        return self.op("Conv", x, kernel, pads=[1, 1, 1, 1])

    def cast(self, x, type, out=None):
        return self.op("Cast", x, to=type, out=out)

    def reshape(self, x, *shape):
        return self.op("Reshape", x, self.constant(shape, np.int64))

    def model(self, name, inputs, outputs):
        info = lambda tensors: [helper.make_tensor_value_info(*tensor) for tensor in tensors]
        graph = helper.make_graph(self.nodes, name, info(inputs), info(outputs), self.constants)
        opset = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION, producer_name="safelight-tests")
        checker.check_model(model, full_check=True)
        return model


def text_encoder(seed, axes, ids_type):
    """Waves of token id and position, mixed with the mean of what came before, as causal attention would."""
    g = Graph(seed)
    ids = g.op("Unsqueeze", g.cast("input_ids", TensorProto.FLOAT), g.constant([2], np.int64))
    length = g.op("Gather", g.op("Shape", "input_ids"), g.constant(1, np.int64))
    count = g.op("Range", g.constant(1, np.int64), g.op("Add", length, g.constant(1, np.int64)), g.constant(1, np.int64))
    position = g.reshape(g.cast(count, TensorProto.FLOAT), 1, -1, 1)
    id_wave = g.op("Mul", ids, g.constant(g.random.uniform(0.05, 0.5, TEXT_WIDTH)))
    position_wave = g.op("Mul", position, g.constant(g.random.uniform(0.02, 0.3, TEXT_WIDTH)))
    wave = g.op("Sin", g.op("Add", id_wave, position_wave))
    mean_so_far = g.op("Div", g.op("CumSum", wave, g.constant(1, np.int64)), position)
    mixed = g.op("Add", g.dense(wave, TEXT_WIDTH, TEXT_WIDTH), g.dense(mean_so_far, TEXT_WIDTH, TEXT_WIDTH, gain=3.0))
    hidden = g.cast(g.op("Tanh", mixed), axes.float_type, out="last_hidden_state")
    g.op("Gather", hidden, g.constant(-1, np.int64), axis=1, out="pooler_output")
    inputs = [("input_ids", ids_type, [axes.batch, axes.sequence])]
    outputs = [
        ("last_hidden_state", axes.float_type, axes.text()),
        ("pooler_output", axes.float_type, [axes.batch, TEXT_WIDTH]),
    ]
    return g.model("text_encoder", inputs, outputs)


def time_embedding(g, guidance_width):
    """Sines and cosines of the timestep, plus the guidance embedding where the model is distilled with one."""
    time = g.reshape(g.cast("timestep", TensorProto.FLOAT), -1, 1)
    angle = g.op("Mul", time, g.constant(np.geomspace(0.0005, 0.02, TIME_FREQUENCIES)[None]))
    waves = g.op("Concat", g.op("Sin", angle), g.op("Cos", angle), axis=1)
    embedding = g.dense(waves, 2 * TIME_FREQUENCIES, WIDTH)
    if guidance_width:
        embedding = g.op("Add", embedding, g.dense("timestep_cond", guidance_width, WIDTH))
    return g.reshape(embedding, -1, WIDTH, 1, 1)


def cross_attention(g, features, text):
    """Every pixel asks every token."""
    pixels = g.op("Transpose", g.reshape(features, 0, WIDTH, -1), perm=[0, 2, 1])
    query = g.dense(pixels, WIDTH, WIDTH)
    key = g.op("Transpose", g.dense(text, TEXT_WIDTH, WIDTH, gain=2.0), perm=[0, 2, 1])
    attention = g.op("Softmax", g.op("MatMul", query, key), axis=-1)
    answer = g.op("MatMul", attention, g.dense(text, TEXT_WIDTH, WIDTH, gain=3.0))
    return g.op("Reshape", g.op("Transpose", answer, perm=[0, 2, 1]), g.op("Shape", features))


def unet(seed, axes, time, skip, guidance_width=None):
    """`time` is the timestep's type and shape; `skip`, how much of the sample passes through: much for epsilon."""
    g = Graph(seed)
    sample = g.cast("sample", TensorProto.FLOAT)
    text = g.cast("encoder_hidden_states", TensorProto.FLOAT)
    first = g.convolution(sample, LATENT_CHANNELS, WIDTH)
    features = g.op("Tanh", g.op("Add", first, time_embedding(g, guidance_width)))
    second = g.op("Add", g.convolution(features, WIDTH, WIDTH), cross_attention(g, features, text))
    change = g.convolution(g.op("Tanh", second), WIDTH, LATENT_CHANNELS, gain=0.8)
    out = g.op("Add", g.op("Mul", sample, g.constant(skip)), change)
    g.cast(out, axes.float_type, out="out_sample")
    inputs = [
        ("sample", axes.float_type, axes.latents()),
        ("timestep", *time),
        ("encoder_hidden_states", axes.float_type, axes.text()),
    ]
    if guidance_width:
        inputs.append(("timestep_cond", axes.float_type, [axes.batch, guidance_width]))
    return g.model("unet", inputs, [("out_sample", axes.float_type, axes.latents())])


def vae_decoder(seed, axes, scaling_factor):
    """Latents come divided by the scaling factor; the first kernel undoes it so that pictures keep their contrast."""
    g = Graph(seed)
    latents = g.cast("latent_sample", TensorProto.FLOAT)
    features = g.op("Tanh", g.convolution(latents, LATENT_CHANNELS, WIDTH, gain=scaling_factor))
    kernel = g.weights(WIDTH, 3, UPSCALE, UPSCALE, gain=0.8, fan_in=WIDTH)
    large = g.op("ConvTranspose", features, kernel, strides=[UPSCALE, UPSCALE])
    g.cast(g.op("Tanh", g.convolution(large, 3, 3, gain=2.0)), axes.float_type, out="sample")
    inputs = [("latent_sample", axes.float_type, axes.latents())]
    return g.model("vae_decoder", inputs, [("sample", axes.float_type, axes.picture())])
