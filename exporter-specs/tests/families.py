"""The families: a tiny checkpoint of each, the spec that exports it, and the requests whose numbers are kept."""

from typing import Callable, NamedTuple

import diffusers

import tiny

PICTURE, MASK = "tests/golden/families/picture.png", "tests/golden/families/mask.png"
DEFAULTS = {
    "layout": "manifest",
    "precision": "fp32",
    "task": "text-to-image",
    "prompts": ["a red apple"],
    "negative": "",
    "guidance": 1.0,
    "eta": 0.0,
    "seed": 42,
    "batch": 1,
    "noise": "per-image",
    "height": 64,
    "width": 64,
    "image": None,
    "mask": None,
    "strength": None,
    "conditions": {},
}
GUIDED = {"guidance": 7.5, "negative": "low quality, blurry"}
IMAGE = {"task": "image-to-image", "image": PICTURE}
INPAINT = {"task": "inpainting", "image": PICTURE, "mask": MASK}


class Family(NamedTuple):
    """`build(folder of the vocabulary)` gives diffusers' pipeline; `without` are components not exported."""

    name: str
    spec: str
    build: Callable
    cases: list
    without: tuple = ()
    decoder: Callable | None = None


def row(name, sampler, schedule, steps, **fields):
    return {"name": name, "sampler": sampler, "schedule": schedule, "steps": steps, **fields}


NO_CHECKER = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
SD_DDIM = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1, **tiny.BETAS}


def sd15(folder):
    words = tiny.tokenizer(folder)
    return diffusers.StableDiffusionPipeline(
        vae=tiny.autoencoder(3, 0.18215),
        text_encoder=tiny.text_encoder(1, words),
        tokenizer=words,
        unet=tiny.live_unet(tiny.unet(2), 1.0),
        scheduler=diffusers.DDIMScheduler(**SD_DDIM),
        **NO_CHECKER,
    )


def sd15_lcm(folder):
    words = tiny.tokenizer(folder)
    unet = tiny.unet(12, time_cond_proj_dim=32)
    return diffusers.LatentConsistencyModelPipeline(
        vae=tiny.autoencoder(13, 0.18215),
        text_encoder=tiny.text_encoder(11, words),
        tokenizer=words,
        unet=tiny.live_unet(unet, 1.0, timestep_cond=tiny.guidance_embedding(8.5, 32)),
        scheduler=diffusers.LCMScheduler(clip_sample=False, steps_offset=1, **tiny.BETAS),
        **NO_CHECKER,
    )


FAMILIES = [
    Family("sd15", "sd15", sd15, [
        row("sd15-ddim", "ddim", "leading", 5, **GUIDED),
        row("sd15-ddim-optimum", "ddim", "leading", 5, **GUIDED, layout="optimum"),
        row("sd15-euler-batch", "euler", "trailing", 4, guidance=5.0, batch=2),
        row("sd15-image-half", "ddim", "leading", 8, **GUIDED, **IMAGE, strength=0.5),
        row("sd15-image-full", "ddim", "leading", 5, **GUIDED, **IMAGE, strength=1.0),
        row("sd15-image-euler", "euler", "trailing", 5, **GUIDED, **IMAGE, strength=0.6),
        row("sd15-image-batch", "ddim", "leading", 4, guidance=3.0, **IMAGE, strength=0.5, batch=2),
        row("sd15-image-optimum", "ddim", "leading", 8, **GUIDED, **IMAGE, strength=0.5, layout="optimum"),
    ]),
    Family("sd15-lcm", "sd15-lcm", sd15_lcm, [
        row("lcm-four", "lcm", "lcm", 4, guidance=8.5),
        row("lcm-four-optimum", "lcm", "lcm", 4, guidance=8.5, layout="optimum"),
        row("lcm-one", "lcm", "lcm", 1, guidance=3.0),
        row("lcm-batch", "lcm", "lcm", 3, guidance=8.5, batch=2),
        row("lcm-image", "lcm", "lcm", 4, guidance=8.5, **IMAGE, strength=0.5),
    ]),
]
