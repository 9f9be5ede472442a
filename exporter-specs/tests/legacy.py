"""The layout that diffusers' own script wrote before Optimum: sd15's graphs again, as it would have named things.

Ids are int32, weights of the U-Net lie in `weights.pb`, no component has a config but for the decoder, to which its
user has added what a runtime needs, and the encoder gives one latent (here the mean; the script's drew from the distribution
inside the graph).
"""

import json
import shutil
from pathlib import Path

import onnx
from onnx import TensorProto, helper

PARTS = ("text_encoder", "unet", "vae_decoder", "vae_encoder")


def write_legacy(source: Path, target: Path):
    shutil.rmtree(target, ignore_errors=True)
    for name in PARTS:
        (target / name).mkdir(parents=True)
    write_text_encoder(source / "text_encoder/model.onnx", target / "text_encoder/model.onnx")
    unet = onnx.load(source / "unet/model.onnx")
    where = {"save_as_external_data": True, "location": "weights.pb", "size_threshold": 256}
    onnx.save_model(unet, target / "unet/model.onnx", **where)
    shutil.copy(source / "vae_decoder/model.onnx", target / "vae_decoder/model.onnx")
    write_encoder(source / "vae_encoder/model.onnx", target / "vae_encoder/model.onnx")
    for name in ("tokenizer", "scheduler"):
        shutil.copytree(source / name, target / name)
    (target / "tokenizer/tokenizer.json").unlink()
    write_json(target / "vae_decoder/config.json", {"scaling_factor": 0.18215, "block_out_channels": [8, 8, 8, 8]})
    write_json(target / "model_index.json", index())


def write_text_encoder(source, target):
    """Takes 32-bit ids, as the script did."""
    model = onnx.load(source)
    ids = model.graph.input[0]
    ids.type.tensor_type.elem_type = TensorProto.INT32
    for node in model.graph.node:
        node.input[:] = ["ids_64" if name == ids.name else name for name in node.input]
    model.graph.node.insert(0, helper.make_node("Cast", [ids.name], ["ids_64"], to=TensorProto.INT64))
    onnx.save(model, target)


def write_encoder(source, target):
    """Gives the mean alone, under the older name."""
    model = onnx.load(source)
    parameters = model.graph.output[0]
    shape = [axis.dim_param or axis.dim_value for axis in parameters.type.tensor_type.shape.dim]
    sample = helper.make_tensor_value_info("latent_sample", TensorProto.FLOAT, [shape[0], shape[1] // 2, *shape[2:]])
    model.graph.node.append(helper.make_node("Split", [parameters.name], ["latent_sample", "log_variance"], axis=1))
    del model.graph.output[:]
    model.graph.output.append(sample)
    onnx.save(model, target)


def index():
    return {
        "_class_name": "OnnxStableDiffusionPipeline",
        "_diffusers_version": "0.14.0",
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["diffusers", "OnnxRuntimeModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "OnnxRuntimeModel"],
        "vae_decoder": ["diffusers", "OnnxRuntimeModel"],
        "vae_encoder": ["diffusers", "OnnxRuntimeModel"],
    }


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
