"""A check by hand: image-to-image and inpainting of the command against diffusers' pipelines, sampler by sampler.

    python tests/reference/check_pictures.py target/debug/safelight

The model is the family sd15 of exporter-specs/tests, whose PyTorch modules and graphs compute the same. Goldens of
tests/golden/families hold a few samplers to single steps; here are the others, and pictures that share one generator.
Prints the relative L2 distance of the final latents.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import diffusers
import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "exporter-specs/tests"))
sys.path.insert(0, str(ROOT / "exporter-specs"))

from families import sd15  # noqa: E402

MODEL = ROOT / "tests/models/families/sd15"
PICTURES = ROOT / "tests/golden/families"
STEPS, SEED, GUIDANCE = 8, 42, 5.0
KARRAS = {"timestep_spacing": "linspace", "use_karras_sigmas": True}

# Our sampler and schedule, diffusers' class and its configuration.
ROWS = [
    ("ddim", "leading", diffusers.DDIMScheduler, {"timestep_spacing": "leading"}),
    ("euler", "karras", diffusers.EulerDiscreteScheduler, KARRAS),
    ("euler_ancestral", "linspace", diffusers.EulerAncestralDiscreteScheduler, {}),
    ("heun", "linspace", diffusers.HeunDiscreteScheduler, {}),
    ("dpmpp_2m", "karras", diffusers.DPMSolverMultistepScheduler, KARRAS),
    ("dpmpp_2m", "trailing", diffusers.DPMSolverMultistepScheduler, {"timestep_spacing": "trailing"}),
    ("dpmpp_3m", "linspace", diffusers.DPMSolverMultistepScheduler, {"solver_order": 3}),
    ("dpmpp_2m_sde", "karras", diffusers.DPMSolverMultistepScheduler, {**KARRAS, "algorithm_type": "sde-dpmsolver++"}),
    ("unipc", "leading", diffusers.UniPCMultistepScheduler, {"timestep_spacing": "leading"}),
    ("dpm2", "linspace", diffusers.KDPM2DiscreteScheduler, {}),
    ("ddpm", "leading", diffusers.DDPMScheduler, {"timestep_spacing": "leading"}),
]


def main():
    binary = Path(sys.argv[1]).resolve()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        pipeline = sd15(Path(folder))
    print(f"{'sampler':17}{'schedule':11}{'image':9}{'masked':9}{'two of one generator':20}")
    for sampler, schedule, scheduler_class, config in ROWS:
        distances = []
        for mask, count in [(False, 1), (True, 1), (False, 2)]:
            scheduler = scheduler_class.from_config(pipeline.scheduler.config, **{"timestep_spacing": "linspace", **config})
            expected, found = reference(pipeline, scheduler, mask, count), ours(binary, sampler, schedule, mask, count)
            distances.append(np.linalg.norm(found - expected) / np.linalg.norm(expected))
        print(f"{sampler:17}{schedule:11}" + "".join(f"{distance:<9.1e}" for distance in distances))


def reference(pipeline, scheduler, mask, count):
    name = "StableDiffusionInpaintPipeline" if mask else "StableDiffusionImg2ImgPipeline"
    pipeline = getattr(diffusers, name)(**{**pipeline.components, "scheduler": scheduler}, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    arguments = {"mask_image": Image.open(PICTURES / "mask.png").convert("L"), "height": 64, "width": 64} if mask else {}
    latents = pipeline(
        "a red apple",
        image=Image.open(PICTURES / "picture.png").convert("RGB"),
        strength=0.6,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        num_images_per_prompt=count,
        generator=torch.Generator().manual_seed(SEED),
        output_type="latent",
        **arguments,
    ).images
    return latents.numpy()


def ours(binary, sampler, schedule, mask, count):
    with tempfile.TemporaryDirectory() as folder:
        command = [binary, "generate", "a red apple", "--model", MODEL, "--target", "generic-cpu", "--threads", "1"]
        command += ["--image", PICTURES / "picture.png", "--strength", "0.6", "--size", "64x64", "--count", count]
        command += ["--mask", PICTURES / "mask.png"] if mask else []
        command += ["--shared-noise"] if count > 1 else []
        command += ["--seed", SEED, "--steps", STEPS, "--guidance", GUIDANCE, "--sampler", sampler]
        command += ["--schedule", schedule, "--quiet", "--save-latents", folder, "--out", f"{folder}/"]
        subprocess.run([str(part) for part in command], check=True, capture_output=True)
        return np.load(sorted(Path(folder).glob("*step*.npy"))[-1])


if __name__ == "__main__":
    main()
