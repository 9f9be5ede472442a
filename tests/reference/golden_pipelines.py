"""Whole generations: onnxruntime runs the graphs, diffusers steps, torch draws the noise."""

import json
from pathlib import Path
from typing import Callable, NamedTuple

import numpy as np
import onnxruntime
import torch
from diffusers import (
    DDIMScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LatentConsistencyModelPipeline,
    LCMScheduler,
)
from diffusers.utils.torch_utils import randn_tensor
from transformers import CLIPTokenizer

import weighted_prompts
from compact_json import write_json
from golden_tokens import emoji_ids, clip_ids
from pipeline_cases import CASES

SCHEDULERS = {
    "ddim": DDIMScheduler,
    "euler": EulerDiscreteScheduler,
    "euler_ancestral": EulerAncestralDiscreteScheduler,
    "heun": HeunDiscreteScheduler,
    "lcm": LCMScheduler,
}
ELEMENT_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}
EMOJI_SCHEDULER = {
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "set_alpha_to_one": True,
    "timestep_spacing": "trailing",
}


def write_pipelines(repository: Path, emoji: Path, golden: Path):
    models = {}
    for case in CASES:
        name = case["model"]
        if name not in models:
            models[name] = load_emoji(emoji) if name.startswith("models/") else load_model(repository / name)
        arrays = generate(models[name], case)
        check(case, arrays)
        np.savez(golden / f"{case['name']}.npz", **arrays)
    write_json(golden / "pipelines.json", {"cases": CASES})


class Model(NamedTuple):
    folder: Path
    text_encoder: onnxruntime.InferenceSession
    unet: onnxruntime.InferenceSession
    vae_decoder: onnxruntime.InferenceSession
    token_ids: Callable
    scheduler: dict
    scaling_factor: float
    shift_factor: float
    downscale: int
    guidance_width: int | None


def load_model(folder):
    vae = read_json(folder / "vae_decoder/config.json")
    return Model(
        folder=folder,
        text_encoder=session(folder / "text_encoder/model.onnx"),
        unet=session(folder / "unet/model.onnx"),
        vae_decoder=session(folder / "vae_decoder/model.onnx"),
        token_ids=clip_ids(folder),
        scheduler=read_json(folder / "scheduler/scheduler_config.json"),
        scaling_factor=vae["scaling_factor"],
        shift_factor=vae["shift_factor"] or 0.0,
        downscale=8,
        guidance_width=read_json(folder / "unet/config.json")["time_cond_proj_dim"],
    )


def load_emoji(folder):
    return Model(
        folder=folder,
        text_encoder=session(folder / "text_encoder.fp16.onnx"),
        unet=session(folder / "unet.fp16.onnx"),
        vae_decoder=session(folder / "vae_decoder.fp16.onnx"),
        token_ids=emoji_ids(folder),
        scheduler=EMOJI_SCHEDULER,
        scaling_factor=1.0,
        shift_factor=0.0,
        downscale=16,
        guidance_width=None,
    )


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def session(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def generate(model, case):
    generators = make_generators(case)
    scheduler = make_scheduler(model, case)
    predict = make_predictor(model, case)
    channels = graph_input(model.unet, "sample").shape[1]
    shape = (case["batch"], channels, case["height"] // model.downscale, case["width"] // model.downscale)
    initial = randn_tensor(shape, generator=generators)
    latents, steps = initial * scheduler.init_noise_sigma, []
    for timestep in scheduler.timesteps:
        output = predict(scheduler.scale_model_input(latents, timestep), timestep)
        latents, denoised = step(scheduler, case, output, timestep, latents, generators)
        steps.append(denoised)
    if case["sampler"] == "heun":
        # Two evaluations a step, of which the first tells where it goes.
        steps = steps[::2]
    return {
        "initial": initial.numpy(),
        "steps": torch.stack(steps).numpy(),
        "latents": latents.numpy(),
        "images": decode(model, latents),
    }


def make_generators(case):
    generators = [torch.Generator("cpu").manual_seed(case["seed"] + i) for i in range(case["batch"])]
    return {"per-image": generators, "shared": generators[0]}[case["noise"]]


def make_scheduler(model, case):
    if case["sampler"] == "lcm":
        changes = {"original_inference_steps": 50, "timestep_scaling": 10.0}
    else:
        changes = {"timestep_spacing": case["schedule"]}
    scheduler = SCHEDULERS[case["sampler"]].from_config(model.scheduler, **changes)
    scheduler.set_timesteps(case["steps"])
    if case["sampler"] == "ddim":
        check_grid(scheduler)
    return scheduler


def check_grid(scheduler):
    """diffusers steps DDIM by T // n whatever its table says; compare only where that is the table's next entry."""
    stride = scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    timesteps = scheduler.timesteps
    assert torch.equal(timesteps[:-1] - stride, timesteps[1:]) and timesteps[-1] < stride


def make_predictor(model, case):
    """The model's output at one step, as a function of the scaled sample and the timestep."""
    text, unwanted = texts(model, case)
    if model.guidance_width:
        embedding = guidance_embedding(case["guidance"], model.guidance_width, case["batch"])
        return lambda sample, timestep: run_unet(model, sample, timestep, text, timestep_cond=embedding)
    if case["guidance"] <= 1.0:
        return lambda sample, timestep: run_unet(model, sample, timestep, text)
    run_both = run_in_turn if isinstance(graph_input(model.unet, "sample").shape[0], int) else run_together

    def guided(sample, timestep):
        without, with_text = run_both(model, sample, timestep, unwanted, text)
        return without + case["guidance"] * (with_text - without)

    return guided


def texts(model, case):
    """Hidden states of the prompts and of the negative prompt, a row a picture."""
    if "sections" in case:
        return weighted_texts(model, case)
    prompts = case["prompts"] if len(case["prompts"]) == case["batch"] else case["prompts"] * case["batch"]
    return encode(model, prompts), encode(model, [case["negative"]] * case["batch"])


def weighted_texts(model, case):
    tokenizer = CLIPTokenizer.from_pretrained(model.folder / "tokenizer")

    def hidden(ids):
        return run(model.text_encoder, {"input_ids": np.array([ids])}, "last_hidden_state")

    both = [weighted_prompts.encode(case[name], tokenizer, hidden) for name in ("sections", "negative_sections")]
    tokens = max(states.shape[1] for states in both)
    return [np.repeat(weighted_prompts.pad(states, tokens, tokenizer, hidden), case["batch"], axis=0) for states in both]


def run_together(model, sample, timestep, unwanted, text):
    return run_unet(model, torch.cat([sample, sample]), timestep, np.concatenate([unwanted, text])).chunk(2)


def run_in_turn(model, sample, timestep, unwanted, text):
    return run_unet(model, sample, timestep, unwanted), run_unet(model, sample, timestep, text)


def run_unet(model, sample, timestep, text, **extra):
    shape = graph_input(model.unet, "timestep").shape
    sizes = [size if isinstance(size, int) else len(sample) for size in shape]
    time = np.full(sizes, timestep.item())
    inputs = {"sample": sample.numpy(), "timestep": time, "encoder_hidden_states": text, **extra}
    return torch.from_numpy(run(model.unet, inputs, "out_sample"))


def guidance_embedding(guidance, width, batch):
    scale = torch.full((batch,), guidance - 1.0)
    # The method does not use its pipeline.
    return LatentConsistencyModelPipeline.get_guidance_scale_embedding(None, scale, width).numpy()


def encode(model, prompts):
    """One run a prompt: an encoder may have a fixed batch of one."""
    ids = [np.array([model.token_ids(prompt)]) for prompt in prompts]
    return np.concatenate([run(model.text_encoder, {"input_ids": row}, "last_hidden_state") for row in ids])


def step(scheduler, case, output, timestep, latents, generators):
    """The next latents and the prediction of the clean ones."""
    if case["sampler"] == "ddim":
        result = scheduler.step(output, timestep, latents, eta=case["eta"], generator=generators)
    elif case["sampler"] == "heun":
        result = scheduler.step(output, timestep, latents)
    else:
        result = scheduler.step(output, timestep, latents, generator=generators)
    denoised = result.denoised if case["sampler"] == "lcm" else result.pred_original_sample
    return result.prev_sample, denoised


def decode(model, latents):
    """Bytes as diffusers rounds them, [batch, height, width, 3]."""
    scaled = latents.numpy() / model.scaling_factor + model.shift_factor
    pictures = run(model.vae_decoder, {"latent_sample": scaled}, "sample")
    unit = (torch.from_numpy(pictures) / 2 + 0.5).clamp(0, 1)
    return (unit * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def run(session, inputs, output):
    """Runs a graph on inputs cast to its own types; the answer in float32."""
    typed = {name: to_type(values, ELEMENT_TYPES[graph_input(session, name).type]) for name, values in inputs.items()}
    return session.run([output], typed)[0].astype(np.float32)


def to_type(values, element_type):
    rounded = np.rint(values) if np.issubdtype(element_type, np.integer) else values
    return np.asarray(rounded, element_type)


def graph_input(session, name):
    return next(tensor for tensor in session.get_inputs() if tensor.name == name)


def check(case, arrays):
    for name, values in arrays.items():
        assert np.isfinite(values).all(), f"{case['name']}: {name} is not finite"
    contrast = arrays["images"].std(axis=(1, 2, 3)).min()
    assert contrast > 10, f"{case['name']}: a picture is nearly constant ({contrast})"
