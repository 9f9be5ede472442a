"""A component of a checkpoint → an ONNX graph in FP32 with the contract's names, proven against PyTorch.

Names and axes are those that Optimum writes, so that whatever reads its exports reads these.
"""

import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnxruntime
import torch

from .fault import Fault
from .graphs import Graph, relative_l2

OPSET = 17
# Largest relative L2 distance from PyTorch; what rounding of FP32 gives is two orders below.
PARITY = 1e-4
BATCH, HEIGHT, WIDTH, SEQUENCE = "batch_size", "height", "width", "sequence_length"


@dataclass(frozen=True)
class Edge:
    """An input: its axes (a number is fixed, a name is dynamic) and how an example of it is drawn."""

    axes: tuple
    draw: Callable
    type: torch.dtype = torch.float32


@dataclass(frozen=True)
class Trace:
    """What is traced: a module whose arguments are `inputs` in this order, and its outputs with their axes."""

    module: torch.nn.Module
    inputs: dict
    outputs: dict


def normal(shape, random):
    return torch.randn(shape, generator=random)


def uniform(shape, random):
    return torch.rand(shape, generator=random) * 2 - 1


def whole(low, high):
    return lambda shape, random: torch.randint(low, high, shape, generator=random)


def between(low, high):
    return lambda shape, random: torch.rand(shape, generator=random) * (high - low) + low


class TextEncoder(torch.nn.Module):
    """CLIP's text model → hidden states of the last layer, or of the one before it; pooled where it projects."""

    def __init__(self, model, penultimate):
        super().__init__()
        self.model, self.penultimate = model, penultimate

    def forward(self, input_ids):
        found = self.model(input_ids=input_ids, output_hidden_states=True)
        hidden = found.hidden_states[-2] if self.penultimate else found.last_hidden_state
        return (hidden, found.text_embeds) if hasattr(found, "text_embeds") else hidden


def text_encoder(model, penultimate=False):
    """CLIPTextModel or CLIPTextModelWithProjection. SDXL uses the penultimate hidden state of both its encoders."""
    config = model.config
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    length, width = text.max_position_embeddings, text.hidden_size
    name = f"hidden_states.{text.num_hidden_layers - 1}" if penultimate else "last_hidden_state"
    outputs = {name: (BATCH, length, width)}
    if type(model).__name__.endswith("WithProjection"):
        outputs["text_embeds"] = (BATCH, text.projection_dim)
    ids = Edge((BATCH, length), whole(0, text.vocab_size), torch.int64)
    return Trace(TextEncoder(model, penultimate), {"input_ids": ids}, outputs)


class Unet(torch.nn.Module):
    """A U-Net with cross-attention; what else it takes comes by name after the three that all take."""

    def __init__(self, model, names):
        super().__init__()
        self.model, self.names = model, names

    def forward(self, sample, timestep, encoder_hidden_states, *others):
        given = dict(zip(self.names, others))
        added = {name: given.pop(name) for name in ("text_embeds", "time_ids") if name in given}
        if added:
            given["added_cond_kwargs"] = added
        return self.model(sample, timestep, encoder_hidden_states, return_dict=False, **given)[0]


def unet(model):
    """UNet2DConditionModel: its config tells which inputs it has beyond the usual ones."""
    config = model.config
    inputs = latent_inputs(config.in_channels)
    inputs["encoder_hidden_states"] = Edge((BATCH, SEQUENCE, config.cross_attention_dim), normal)
    if config.time_cond_proj_dim:
        inputs["timestep_cond"] = Edge((BATCH, config.time_cond_proj_dim), normal)
    if config.addition_embed_type == "text_time":
        pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        inputs["text_embeds"] = Edge((BATCH, pooled), normal)
        inputs["time_ids"] = Edge((BATCH, 6), between(0, 1024))
    elif config.addition_embed_type:
        raise Fault(f"unet: addition_embed_type {config.addition_embed_type} is not known, expected text_time or none")
    inputs |= class_inputs(config)
    names = list(inputs)[3:]
    return Trace(Unet(model, names), inputs, {"out_sample": (BATCH, config.out_channels, HEIGHT, WIDTH)})


class PlainUnet(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, sample, timestep, *labels):
        return self.model(sample, timestep, *labels, return_dict=False)[0]


def unet_plain(model):
    """UNet2DModel, without text: unconditional, or with class labels."""
    config = model.config
    inputs = latent_inputs(config.in_channels) | class_inputs(config)
    return Trace(PlainUnet(model), inputs, {"out_sample": (BATCH, config.out_channels, HEIGHT, WIDTH)})


class Transformer(torch.nn.Module):
    """A DiT without the half of its output that predicts a variance, which no sampler here uses."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, sample, timestep, class_labels):
        channels = self.model.config.in_channels
        return self.model(sample, timestep, class_labels, return_dict=False)[0][:, :channels]


def transformer(model):
    """DiTTransformer2DModel: learnt positions fix its size."""
    config = model.config
    side = config.sample_size
    # The class after the last stands for none.
    labels = Edge((BATCH,), whole(0, config.num_embeds_ada_norm), torch.int64)
    sample = Edge((BATCH, config.in_channels, side, side), normal)
    inputs = {"sample": sample, "timestep": timestep(), "class_labels": labels}
    return Trace(Transformer(model), inputs, {"out_sample": (BATCH, config.in_channels, side, side)})


def latent_inputs(channels):
    return {"sample": Edge((BATCH, channels, HEIGHT, WIDTH), normal), "timestep": timestep()}


def timestep():
    """In float, since Euler's timesteps, and those of consistency models, are fractional."""
    return Edge((BATCH,), between(0, 999))


def class_inputs(config):
    if not (config.num_class_embeds or config.class_embed_type):
        return {}
    if config.class_embed_type:
        raise Fault(f"unet: class_embed_type {config.class_embed_type} is not known, expected none")
    return {"class_labels": Edge((BATCH,), whole(0, config.num_class_embeds), torch.int64)}


class Decoder(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, latent_sample):
        return self.model.decode(latent_sample, return_dict=False)[0]


class CodebookDecoder(torch.nn.Module):
    """VQModel's, with the nearest entry of the codebook found by a product: PyTorch's own distance does not trace."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, latent_sample):
        codebook = self.model.quantize.embedding.weight
        cells = latent_sample.permute(0, 2, 3, 1)
        distances = codebook.square().sum(1) - 2 * cells @ codebook.T
        nearest = codebook[distances.argmin(-1)].permute(0, 3, 1, 2)
        return self.model.decode(nearest, force_not_quantize=True, return_dict=False)[0]


def decoder(model):
    """AutoencoderKL, AutoencoderTiny or VQModel: latents as they are after the division by the scale."""
    edge = Edge((BATCH, model.config.latent_channels, HEIGHT, WIDTH), normal)
    module = CodebookDecoder(model) if hasattr(model, "quantize") else Decoder(model)
    return Trace(module, {"latent_sample": edge}, {"sample": (BATCH, 3, "image_height", "image_width")})


class KlEncoder(torch.nn.Module):
    """Mean and log variance of the latent, one after the other along the channels."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, sample):
        return self.model.encode(sample).latent_dist.parameters


def kl_encoder(model):
    edge = Edge((BATCH, 3, "image_height", "image_width"), uniform)
    channels = 2 * model.config.latent_channels
    return Trace(KlEncoder(model), {"sample": edge}, {"latent_parameters": (BATCH, channels, HEIGHT, WIDTH)})


class PlainEncoder(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, sample):
        return self.model.encode(sample, return_dict=False)[0]


def plain_encoder(model):
    """AutoencoderTiny, VQModel: one latent for a picture, no distribution."""
    edge = Edge((BATCH, 3, "image_height", "image_width"), uniform)
    channels = model.config.latent_channels
    return Trace(PlainEncoder(model), {"sample": edge}, {"latent_sample": (BATCH, channels, HEIGHT, WIDTH)})


def graph(_):
    """No network: the family is there as graphs only."""
    raise Fault(
        "this family is exported from its ONNX graphs: give --weights a folder with unet.fp32.onnx or unet.fp16.onnx"
    )


TRACES = {
    "graph": graph,
    "text_encoder": text_encoder,
    "unet": unet,
    "unet_plain": unet_plain,
    "transformer": transformer,
    "decoder": decoder,
    "kl_encoder": kl_encoder,
    "plain_encoder": plain_encoder,
}


def sizes(side, factor, static):
    """Two sets of sizes for the dynamic axes, in cells of `side`; one where the axes are fixed."""
    if static:
        return [axis_sizes(1, *static, factor)]
    return [axis_sizes(2, side, side, factor), axis_sizes(3, side, 2 * side, factor, sequence=154)]


def axis_sizes(batch, height, width, factor, sequence=77):
    picture = {"image_height": height * factor, "image_width": width * factor}
    return {BATCH: batch, HEIGHT: height, WIDTH: width, SEQUENCE: sequence} | picture


def example(trace, axes, seed):
    random = torch.Generator().manual_seed(seed)
    shape = lambda edge: [axes.get(axis, axis) for axis in edge.axes]
    return {name: edge.draw(shape(edge), random).to(edge.type) for name, edge in trace.inputs.items()}


def export(trace: Trace, path: Path, sets, static):
    """Writes the graph and returns how far its answers are from PyTorch's: `{relative_l2, sizes}`.

    Raises Fault where that is more than PARITY.
    """
    inputs = example(trace, sets[0], seed=0)
    raw = path.with_name("raw")
    raw.mkdir()
    try:
        write_graph(trace, inputs, raw / path.name, static)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise Fault(f"{type(trace.module.model).__name__} cannot be traced: {error or type(error).__name__}") from error
    # Of a large graph, the exporter leaves a file a weight.
    graph = Graph.load(raw / path.name)
    declare(graph, trace, sets[0] if static else {})
    graph.save(path)
    shutil.rmtree(raw)
    return parity(trace, path, sets)


def write_graph(trace, inputs, path, static):
    with torch.no_grad(), warnings.catch_warnings():
        # The tracer warns of every shape that a module compares; sizes are proven afterwards.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            trace.module.eval(),
            tuple(inputs.values()),
            str(path),
            input_names=list(inputs),
            output_names=list(trace.outputs),
            dynamic_axes={} if static else named_axes(trace),
            opset_version=OPSET,
            dynamo=False,
        )


def declare(graph, trace, fixed):
    """Outputs' axes under our names, or in numbers: the tracer loses some on the way."""
    for entry in graph.model.graph.output:
        axes = entry.type.tensor_type.shape.dim
        del axes[:]
        for axis in trace.outputs[entry.name]:
            size = fixed.get(axis, axis)
            axes.add(**{"dim_param" if isinstance(size, str) else "dim_value": size})


def named_axes(trace):
    edges = {name: edge.axes for name, edge in trace.inputs.items()} | trace.outputs
    return {name: {i: axis for i, axis in enumerate(axes) if isinstance(axis, str)} for name, axes in edges.items()}


def session(path: Path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def parity(trace, path, sets):
    run, worst = session(path), 0.0
    for seed, axes in enumerate(sets, start=1):
        inputs = example(trace, axes, seed)
        with torch.no_grad():
            expected = trace.module(*inputs.values())
        expected = expected if isinstance(expected, tuple) else (expected,)
        found = run.run(list(trace.outputs), {name: value.numpy() for name, value in inputs.items()})
        for name, theirs, ours in zip(trace.outputs, expected, found):
            distance = relative_l2(ours, theirs.numpy()) if ours.shape == theirs.shape else float("inf")
            if not distance <= PARITY:
                raise Fault(f"{path}: {name} at {axes} is {distance:.1e} from PyTorch, expected at most {PARITY:.0e}")
            worst = max(worst, distance)
    return {"relative_l2": worst, "sizes": sets}
