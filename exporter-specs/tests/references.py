"""What diffusers' own pipelines make of a case: noise, every step's estimate, final latents and pictures."""

import sys
from contextlib import contextmanager
from functools import wraps
from pathlib import Path

import diffusers
import numpy as np
import torch
from diffusers.utils import torch_utils
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
SCHEDULERS = {
    "ddim": diffusers.DDIMScheduler,
    "ddpm": diffusers.DDPMScheduler,
    "euler": diffusers.EulerDiscreteScheduler,
    "euler_ancestral": diffusers.EulerAncestralDiscreteScheduler,
    "lcm": diffusers.LCMScheduler,
    "consistency": diffusers.CMStochasticIterativeScheduler,
}
# The pipelines that take a picture, by the one that makes it from words.
IMAGE_TO_IMAGE = {
    "StableDiffusionPipeline": "StableDiffusionImg2ImgPipeline",
    "StableDiffusionXLPipeline": "StableDiffusionXLImg2ImgPipeline",
    "LatentConsistencyModelPipeline": "LatentConsistencyModelImg2ImgPipeline",
}
INPAINTING = {
    "StableDiffusionPipeline": "StableDiffusionInpaintPipeline",
    "StableDiffusionInpaintPipeline": "StableDiffusionInpaintPipeline",
    "StableDiffusionXLPipeline": "StableDiffusionXLInpaintPipeline",
}


def generate(pipeline, case):
    """The arrays of a golden.

    `encoded` are the input picture's latents, where there is one, and `posterior` the noise that encoders drew for
    their distributions, in that order, before or after `initial`.
    """
    pipeline = pipeline_for(pipeline, case)
    pipeline.set_progress_bar_config(disable=True)
    with recorded(pipeline) as record:
        pictures = call(pipeline, case)
    rows = slice(0, case["batch"])
    arrays = {
        "initial": next(noise for module, noise in record["noise"] if ".pipelines." in module),
        "steps": torch.stack(record["steps"])[:, rows],
        "latents": record["latents"][-1][rows],
    }
    if record["encoded"]:
        arrays["encoded"] = record["encoded"][0]
    posterior = [noise for module, noise in record["noise"] if module.endswith("autoencoders.vae")]
    if posterior:
        arrays["posterior"] = torch.stack(posterior)
    arrays = {name: values.detach().float().contiguous().numpy() for name, values in arrays.items()}
    return arrays | {"images": np.rint(pictures * 255).clip(0, 255).astype(np.uint8)}


def pipeline_for(pipeline, case):
    name = type(pipeline).__name__
    if case["task"] != "text-to-image":
        table = {"image-to-image": IMAGE_TO_IMAGE, "inpainting": INPAINTING}[case["task"]]
        others = {"requires_safety_checker": False} if "safety_checker" in pipeline.components else {}
        name = table[name]
        pipeline = getattr(diffusers, name)(**pipeline.components, **others)
    if name == "DDPMPipeline" and case["sampler"] == "ddim":
        pipeline = diffusers.DDIMPipeline(**pipeline.components)
    pipeline.scheduler = scheduler(pipeline.scheduler, case)
    return pipeline


def scheduler(published, case):
    """Clipping is that of the published configuration: classes that know none must not start to."""
    changes = {"clip_sample": published.config.get("clip_sample", False)}
    if case["sampler"] not in ("lcm", "consistency"):
        changes["timestep_spacing"] = case["schedule"]
    return SCHEDULERS[case["sampler"]].from_config(published.config, **changes)


def call(pipeline, case):
    """Pictures [batch, height, width, 3] from 0 to 1."""
    generators = [torch.Generator().manual_seed(case["seed"] + i) for i in range(case["batch"])]
    arguments = {
        "generator": {"per-image": generators, "shared": generators[0]}[case["noise"]],
        "num_inference_steps": case["steps"],
        "output_type": "np",
    }
    if hasattr(pipeline, "text_encoder"):
        arguments |= text_arguments(pipeline, case)
    else:
        arguments |= class_arguments(pipeline, case)
    if case["image"]:
        arguments |= picture_arguments(case)
    return np.asarray(pipeline(**arguments).images)


def text_arguments(pipeline, case):
    prompts = case["prompts"] * (case["batch"] if len(case["prompts"]) == 1 else 1)
    arguments = {"prompt": prompts, "guidance_scale": case["guidance"]}
    if not type(pipeline).__name__.startswith("LatentConsistency"):
        arguments |= {"eta": case["eta"]}
        if case["negative"]:
            arguments["negative_prompt"] = [case["negative"]] * len(prompts)
    if not case["image"]:
        arguments |= {"height": case["height"], "width": case["width"]}
    return arguments


def class_arguments(pipeline, case):
    name = type(pipeline).__name__
    if name == "DiTPipeline":
        return {
            "class_labels": [case["conditions"].get("class", 207)] * case["batch"],
            "guidance_scale": case["guidance"],
        }
    labels = (
        {"class_labels": [case["conditions"].get("class", 145)] * case["batch"]} if name.startswith("Consis") else {}
    )
    return {"batch_size": case["batch"]} | labels | ({"eta": case["eta"]} if case["sampler"] == "ddim" else {})


def picture_arguments(case):
    arguments = {"image": Image.open(ROOT / case["image"]).convert("RGB"), "strength": case["strength"]}
    if case["mask"]:
        arguments |= {"mask_image": Image.open(ROOT / case["mask"]).convert("L")}
        arguments |= {"height": case["height"], "width": case["width"]}
    return arguments


@contextmanager
def recorded(pipeline):
    """Notes every noise drawn, every step of the scheduler, and what the decoder is given."""
    record = {"noise": [], "steps": [], "latents": [], "encoded": []}
    restore = [record_noise(record), record_scheduler(record, pipeline), record_decoder(record, pipeline)]
    try:
        yield record
    finally:
        for undo in restore:
            undo()


def record_noise(record):
    draw = torch_utils.randn_tensor
    modules = [module for name, module in sys.modules.items() if getattr(module, "randn_tensor", None) is draw]

    def recorder(name):
        def drawn(*arguments, **others):
            noise = draw(*arguments, **others)
            record["noise"].append((name, noise))
            return noise

        return drawn

    for module in modules:
        module.randn_tensor = recorder(module.__name__)
    return lambda: [setattr(module, "randn_tensor", draw) for module in modules]


def record_scheduler(record, pipeline):
    scheduler, step = pipeline.scheduler, pipeline.scheduler.step

    # Pipelines look at the signature for what they may pass.
    @wraps(step)
    def stepped(*arguments, return_dict=True, **others):
        result = step(*arguments, **others)
        denoised = estimate(scheduler, result, arguments)
        record["steps"].append(denoised)
        record["latents"].append(result.prev_sample)
        return result if return_dict else (result.prev_sample, denoised)

    scheduler.step = stepped
    add_noise = scheduler.add_noise

    def noised(original, *arguments):
        record["encoded"].append(original)
        return add_noise(original, *arguments)

    scheduler.add_noise = noised
    return lambda: (delattr(scheduler, "step"), delattr(scheduler, "add_noise"))


def estimate(scheduler, result, arguments):
    """The clean latent that a step made its own from."""
    for name in ("denoised", "pred_original_sample"):
        if getattr(result, name, None) is not None:
            return getattr(result, name)
    # A consistency model's scheduler does not tell it.
    output, _, sample = arguments
    skip, out = scheduler.get_scalings_for_boundary_condition(scheduler.sigmas[scheduler.step_index - 1])
    return (out * output + skip * sample).clamp(-1, 1)


def record_decoder(record, pipeline):
    vae = getattr(pipeline, "vae", None) or getattr(pipeline, "vqvae", None)
    if vae is None:
        return lambda: None
    decode = vae.decode

    def decoded(latents, *arguments, **others):
        # Exact enough: the division by the scale is undone to half a unit in the last place.
        record["latents"].append(latents * vae.config.scaling_factor)
        return decode(latents, *arguments, **others)

    vae.decode = decoded
    return lambda: delattr(vae, "decode")
