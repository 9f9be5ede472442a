"""Writes tests/models: tiny pipelines in Optimum's directory layout.

tiny-sd      Stable Diffusion 1's conventions: epsilon, every axis dynamic, int32 ids, a scalar int64 timestep.
tiny-lcm     a distilled model: guidance embedding, float timesteps [batch], int64 ids, a VAE shift.
tiny-static  an accelerator's export: fixed shapes, float16 edges, v-prediction, zero terminal SNR, pad token 0.
external     tiny-sd's U-Net with its weights in a file of their own, as exporters write graphs of over 2 GB.
"""

import json
from pathlib import Path

import onnx
from onnx import TensorProto

from tiny_graphs import LATENT_CHANNELS, TEXT_WIDTH, UPSCALE, WIDTH, Axes, text_encoder, unet, vae_decoder
from tiny_tokenizer import END, START, WINDOW, write_tokenizer

MODELS = Path(__file__).resolve().parents[1] / "models"
DIFFUSERS_VERSION = "0.39.0"
SIDE = 8
GUIDANCE_WIDTH = 32

DYNAMIC_AXES = Axes("batch_size", "height", "width", "sequence_length", TensorProto.FLOAT)
STATIC_AXES = Axes(1, SIDE, SIDE, WINDOW, TensorProto.FLOAT16)


def main():
    write_tiny_sd(MODELS / "tiny-sd")
    write_tiny_lcm(MODELS / "tiny-lcm")
    write_tiny_static(MODELS / "tiny-static")
    write_external(MODELS / "external", MODELS / "tiny-sd/unet/model.onnx")


def write_external(folder, graph):
    folder.mkdir(exist_ok=True)
    # onnx appends to a data file that is there already.
    (folder / "model.onnx_data").unlink(missing_ok=True)
    where = {"save_as_external_data": True, "location": "model.onnx_data", "size_threshold": 256}
    onnx.save_model(onnx.load(graph), folder / "model.onnx", **where)


def write_tiny_sd(folder):
    write_text(folder, text_encoder(1, DYNAMIC_AXES, TensorProto.INT32), pad_token=END)
    write_part(folder / "unet", unet(2, DYNAMIC_AXES, (TensorProto.INT64, []), skip=0.7), unet_config())
    write_part(folder / "vae_decoder", vae_decoder(3, DYNAMIC_AXES, 0.18215), vae_config(scaling_factor=0.18215))
    scheduler = {
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": False,
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
        "set_alpha_to_one": False,
        "skip_prk_steps": True,
        "steps_offset": 1,
        "timestep_spacing": "leading",
        "trained_betas": None,
    }
    write_config(folder / "scheduler/scheduler_config.json", "PNDMScheduler", scheduler)
    write_index(folder, "StableDiffusionPipeline", "PNDMScheduler")


def write_tiny_lcm(folder):
    graph = unet(5, DYNAMIC_AXES, (TensorProto.FLOAT, ["batch_size"]), skip=0.7, guidance_width=GUIDANCE_WIDTH)
    write_text(folder, text_encoder(4, DYNAMIC_AXES, TensorProto.INT64), pad_token=END)
    write_part(folder / "unet", graph, unet_config(time_cond_proj_dim=GUIDANCE_WIDTH))
    vae = vae_config(scaling_factor=0.5, shift_factor=0.1)
    write_part(folder / "vae_decoder", vae_decoder(6, DYNAMIC_AXES, 0.5), vae)
    scheduler = {
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "clip_sample": False,
        "clip_sample_range": 1.0,
        "dynamic_thresholding_ratio": 0.995,
        "num_train_timesteps": 1000,
        "original_inference_steps": 50,
        "prediction_type": "epsilon",
        "rescale_betas_zero_snr": False,
        "sample_max_value": 1.0,
        "set_alpha_to_one": True,
        "steps_offset": 1,
        "thresholding": False,
        "timestep_scaling": 10.0,
        "timestep_spacing": "leading",
        "trained_betas": None,
    }
    write_config(folder / "scheduler/scheduler_config.json", "LCMScheduler", scheduler)
    write_index(folder, "LatentConsistencyModelPipeline", "LCMScheduler")


def write_tiny_static(folder):
    graph = unet(8, STATIC_AXES, (TensorProto.INT64, [1]), skip=0.1)
    write_text(folder, text_encoder(7, STATIC_AXES, TensorProto.INT32), pad_token="!")
    write_part(folder / "unet", graph, unet_config())
    write_part(folder / "vae_decoder", vae_decoder(9, STATIC_AXES, 0.13025), vae_config(scaling_factor=0.13025))
    scheduler = {
        "beta_end": 0.02,
        "beta_schedule": "squaredcos_cap_v2",
        "beta_start": 0.0001,
        "clip_sample": False,
        "num_train_timesteps": 1000,
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "set_alpha_to_one": True,
        "steps_offset": 0,
        "timestep_spacing": "trailing",
        "trained_betas": None,
    }
    write_config(folder / "scheduler/scheduler_config.json", "DDIMScheduler", scheduler)
    write_index(folder, "StableDiffusionPipeline", "DDIMScheduler")


def write_text(folder, graph, pad_token):
    vocabulary = write_tokenizer(folder / "tokenizer", pad_token)
    config = {
        "architectures": ["CLIPTextModel"],
        "bos_token_id": vocabulary[START],
        "eos_token_id": vocabulary[END],
        "hidden_size": TEXT_WIDTH,
        "max_position_embeddings": WINDOW,
        "model_type": "clip_text_model",
        "pad_token_id": vocabulary[pad_token],
        "vocab_size": len(vocabulary),
    }
    write_part(folder / "text_encoder", graph, config)


def unet_config(time_cond_proj_dim=None):
    return {
        "_class_name": "UNet2DConditionModel",
        "_diffusers_version": DIFFUSERS_VERSION,
        "block_out_channels": [WIDTH],
        "cross_attention_dim": TEXT_WIDTH,
        "in_channels": LATENT_CHANNELS,
        "out_channels": LATENT_CHANNELS,
        "sample_size": SIDE,
        "time_cond_proj_dim": time_cond_proj_dim,
    }


def vae_config(scaling_factor, shift_factor=None):
    """Four blocks, so that 2 ** (blocks - 1) is the factor by which the decoder enlarges."""
    return {
        "_class_name": "AutoencoderKL",
        "_diffusers_version": DIFFUSERS_VERSION,
        "block_out_channels": [WIDTH] * 4,
        "in_channels": 3,
        "latent_channels": LATENT_CHANNELS,
        "out_channels": 3,
        "sample_size": SIDE * UPSCALE,
        "scaling_factor": scaling_factor,
        "shift_factor": shift_factor,
    }


def write_part(folder: Path, graph, config):
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(graph, folder / "model.onnx")
    write_json(folder / "config.json", config)


def write_index(folder, pipeline, scheduler):
    """The index of the original pipeline: Optimum's exporter leaves it as it was, naming one `vae`."""
    parts = {
        "scheduler": ["diffusers", scheduler],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    write_config(folder / "model_index.json", pipeline, parts)


def write_config(path: Path, class_name, fields):
    write_json(path, {"_class_name": class_name, "_diffusers_version": DIFFUSERS_VERSION, **fields})


def write_json(path: Path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
