"""Writes tests/models/faulty: graphs that fit tiny-sd's roles and fail in the ways that real ones do."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from make_models import DYNAMIC_AXES, MODELS
from tiny_graphs import LATENT_CHANNELS, TEXT_WIDTH, UPSCALE, Graph

FAULTY = MODELS / "faulty"
NAN = float("nan")


def main():
    FAULTY.mkdir(exist_ok=True)
    save("text_encoder_nan", text_encoder(NAN))
    save("denoiser_nan", denoiser(lambda g, sample: g.op("Mul", sample, g.constant(NAN), out="out_sample")))
    save("denoiser_nan_later", denoiser(nan_below_timestep_500))
    save("denoiser_constant", denoiser(lambda g, sample: g.op("Mul", sample, g.constant(0), out="out_sample")))
    save("decoder_nan", decoder(NAN))
    save("decoder_black", decoder(-1))
    save("layernorm_empty_bias", layernorm_empty_bias())


def text_encoder(value):
    """Every hidden state is `value`, whatever the prompt."""
    g = Graph(0)
    ids = g.op("Unsqueeze", g.cast("input_ids", TensorProto.FLOAT), g.constant([2], dtype="int64"))
    row = g.op("Expand", g.constant(value), g.constant([1, TEXT_WIDTH], dtype="int64"))
    g.op("MatMul", ids, row, out="last_hidden_state")
    inputs = [("input_ids", TensorProto.INT32, [DYNAMIC_AXES.batch, DYNAMIC_AXES.sequence])]
    return g.model("text_encoder", inputs, [("last_hidden_state", TensorProto.FLOAT, DYNAMIC_AXES.text())])


def denoiser(predict):
    g = Graph(0)
    predict(g, "sample")
    latents = DYNAMIC_AXES.latents()
    inputs = [
        ("sample", TensorProto.FLOAT, latents),
        ("timestep", TensorProto.INT64, []),
        ("encoder_hidden_states", TensorProto.FLOAT, DYNAMIC_AXES.text()),
    ]
    return g.model("unet", inputs, [("out_sample", TensorProto.FLOAT, latents)])


def nan_below_timestep_500(g, sample):
    """As half precision does where noise is low: the first steps are right."""
    above = g.op("Sub", g.cast("timestep", TensorProto.FLOAT), g.constant(500))
    g.op("Add", sample, g.op("Log", above), out="out_sample")


def decoder(value):
    """Every pixel is `value`, whatever the latent."""
    g = Graph(0)
    kernel = g.constant([LATENT_CHANNELS, 3, UPSCALE, UPSCALE], dtype="int64")
    bias = g.constant([value] * 3)
    size = [UPSCALE, UPSCALE]
    g.op("ConvTranspose", "latent_sample", g.op("ConstantOfShape", kernel), bias, out="sample", strides=size)
    inputs = [("latent_sample", TensorProto.FLOAT, DYNAMIC_AXES.latents())]
    return g.model("vae_decoder", inputs, [("sample", TensorProto.FLOAT, DYNAMIC_AXES.picture())])


def layernorm_empty_bias():
    """Valid by onnx's checker; ONNX Runtime 1.31 and 1.32 die by SIGSEGV when they open it with fusions on."""
    node = helper.make_node("LayerNormalization", ["x", "s", ""], ["y"], axis=-1)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4, 8]) for name in "xy")
    graph = helper.make_graph([node], "g", [x], [y], [numpy_helper.from_array(np.ones(8, np.float32), "s")])
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])


def save(name, graph):
    onnx.save(graph, Path(FAULTY, f"{name}.onnx"))


if __name__ == "__main__":
    main()
