"""A check by hand: final latents of `./run generate` against diffusers' schedulers, on a whole tiny pipeline.

    python tests/reference/check_samplers.py

The vectors of golden_samplers.py hold samplers to an exact denoiser; here a graph with whole-number timesteps,
guidance and the command itself are in between. Prints the relative L2 distance of each.
"""

import inspect
import subprocess
import tempfile
from pathlib import Path

import diffusers
import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor

from golden_pipelines import load_model, make_predictor

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "tests/models/tiny-sd"
STEPS, SEED = 8, 42
CASE = {"prompts": ["a red apple"], "negative": "", "guidance": 7.5, "batch": 1}
KARRAS = {"timestep_spacing": "linspace", "use_karras_sigmas": True}

# Our sampler and schedule, diffusers' class and its configuration.
ROWS = [
    ("dpmpp_2m", "karras", diffusers.DPMSolverMultistepScheduler, KARRAS),
    ("dpmpp_2m", "trailing", diffusers.DPMSolverMultistepScheduler, {"timestep_spacing": "trailing"}),
    ("dpmpp_3m", "linspace", diffusers.DPMSolverMultistepScheduler, {"solver_order": 3}),
    ("dpmpp_2m_sde", "karras", diffusers.DPMSolverMultistepScheduler, {**KARRAS, "algorithm_type": "sde-dpmsolver++"}),
    ("dpmpp_2s", "linspace", diffusers.DPMSolverSinglestepScheduler, {"lower_order_final": True}),
    ("unipc", "leading", diffusers.UniPCMultistepScheduler, {"timestep_spacing": "leading"}),
    ("plms", "leading", diffusers.PNDMScheduler, {"timestep_spacing": "leading", "skip_prk_steps": True}),
    ("lms", "karras", diffusers.LMSDiscreteScheduler, KARRAS),
    ("dpm2", "linspace", diffusers.KDPM2DiscreteScheduler, {}),
    ("dpm2_ancestral", "linspace", diffusers.KDPM2AncestralDiscreteScheduler, {}),
    ("euler", "beta", diffusers.EulerDiscreteScheduler, {"use_beta_sigmas": True}),
    ("ddpm", "leading", diffusers.DDPMScheduler, {"timestep_spacing": "leading"}),
    ("tcd", "lcm", diffusers.TCDScheduler, {}),
]


def main():
    model = load_model(MODEL)
    predict = make_predictor(model, CASE)
    for sampler, schedule, scheduler_class, config in ROWS:
        scheduler = scheduler_class.from_config(model.scheduler, **{"timestep_spacing": "linspace", **config})
        expected, found = reference(scheduler, predict), ours(sampler, schedule)
        distance = np.linalg.norm(found - expected) / np.linalg.norm(expected)
        print(f"{sampler:16}{schedule:10}{distance:.1e}")


def reference(scheduler, predict):
    generator = torch.Generator("cpu").manual_seed(SEED)
    scheduler.set_timesteps(STEPS)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    known = inspect.signature(scheduler.step).parameters
    extra = {"generator": generator} if "generator" in known else {}
    if isinstance(scheduler, diffusers.TCDScheduler):
        extra["eta"] = 0.3
    latents = randn_tensor((1, 4, 8, 8), generator=generator) * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        output = predict(scheduler.scale_model_input(latents, timestep).float(), timestep)
        latents = scheduler.step(output, timestep, latents, **extra).prev_sample
    return latents.numpy()


def ours(sampler, schedule):
    with tempfile.TemporaryDirectory() as folder:
        command = [ROOT / "run", "generate", CASE["prompts"][0], "--model", MODEL, "--precision", "fp32", "--size", "64x64"]
        command += ["--seed", str(SEED), "--steps", str(STEPS), "--guidance", str(CASE["guidance"]), "--threads", "1"]
        command += ["--sampler", sampler, "--schedule", schedule, "--quiet"]
        command += ["--save-latents", folder, "--out", f"{folder}/picture.png"]
        subprocess.run(command, check=True, capture_output=True)
        return np.load(sorted(Path(folder).glob("*step*.npy"))[-1])


if __name__ == "__main__":
    main()
