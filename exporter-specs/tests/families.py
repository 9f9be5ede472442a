"""The families: a tiny checkpoint of each, the spec that exports it, and the requests whose numbers are kept."""

from collections.abc import Callable
from typing import NamedTuple

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
    "options": {},
}
GUIDED = {"guidance": 7.5, "negative": "low quality, blurry"}
IMAGE = {"task": "image-to-image", "image": PICTURE}
INPAINT = {"task": "inpainting", "image": PICTURE, "mask": MASK}


class Family(NamedTuple):
    """Families share encoders and decoders of equal conventions, which git keeps once.

    `build(folder of the vocabulary)` gives diffusers' pipeline; `without` are components not exported."""

    name: str
    spec: str
    build: Callable
    cases: list
    without: tuple = ()


def row(name, sampler, schedule, steps, **fields):
    return {"name": name, "sampler": sampler, "schedule": schedule, "steps": steps, **fields}


PIXELS = {"prompts": [], "height": 16, "width": 16, "options": {"clip": 1.0}}
NO_ENCODER = ("vae_encoder",)
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
        vae=tiny.autoencoder(3, 0.18215),
        text_encoder=tiny.text_encoder(1, words),
        tokenizer=words,
        unet=tiny.live_unet(unet, 1.0, timestep_cond=tiny.guidance_embedding(8.5, 32)),
        scheduler=diffusers.LCMScheduler(clip_sample=False, steps_offset=1, **tiny.BETAS),
        **NO_CHECKER,
    )


def inpainting(folder):
    pipeline = sd15(folder)
    unet = tiny.live_unet(tiny.unet(22, in_channels=9), 1.0)
    return diffusers.StableDiffusionInpaintPipeline(
        **(pipeline.components | {"unet": unet}), requires_safety_checker=False
    )


SD2_UNET = {"use_linear_projection": True, "attention_head_dim": (2, 4)}
TRAILING = {"timestep_spacing": "trailing", **tiny.BETAS}


def sd2(folder):
    words = tiny.tokenizer(folder, "!")
    return diffusers.StableDiffusionPipeline(
        vae=tiny.autoencoder(3, 0.18215),
        text_encoder=tiny.text_encoder(31, words, act="gelu"),
        tokenizer=words,
        unet=tiny.live_unet(tiny.unet(32, **SD2_UNET), 1.0),
        scheduler=diffusers.DDIMScheduler(prediction_type="v_prediction", **SD_DDIM),
        **NO_CHECKER,
    )


def sd_turbo(folder):
    words = tiny.tokenizer(folder, "!")
    return diffusers.StableDiffusionPipeline(
        vae=tiny.autoencoder(3, 0.18215),
        text_encoder=tiny.text_encoder(31, words, act="gelu"),
        tokenizer=words,
        unet=tiny.live_unet(tiny.unet(42, **SD2_UNET), 1.0),
        scheduler=diffusers.EulerDiscreteScheduler(**TRAILING),
        **NO_CHECKER,
    )


def sdxs(folder):
    words = tiny.tokenizer(folder, "!")
    return diffusers.StableDiffusionPipeline(
        vae=tiny.tiny_autoencoder(53),
        text_encoder=tiny.text_encoder(31, words, act="gelu"),
        tokenizer=words,
        unet=tiny.live_unet(tiny.unet(52, mid_block_type=None, **SD2_UNET), 1.0),
        scheduler=diffusers.EulerDiscreteScheduler(**TRAILING),
        **NO_CHECKER,
    )


def bk_sdm_tiny(folder):
    words = tiny.tokenizer(folder)
    return diffusers.StableDiffusionPipeline(
        vae=tiny.autoencoder(3, 0.18215),
        text_encoder=tiny.text_encoder(1, words),
        tokenizer=words,
        unet=tiny.live_unet(tiny.unet(62, mid_block_type=None), 1.0),
        scheduler=diffusers.PNDMScheduler(skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1, **tiny.BETAS),
        **NO_CHECKER,
    )


XL_UNET = {
    "cross_attention_dim": 2 * tiny.TEXT_WIDTH,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 6 * 4 + tiny.TEXT_WIDTH,
    **SD2_UNET,
}


def xl(seed, folder, scheduler, empty=True, **unet):
    words = tiny.tokenizer(folder)
    model = tiny.unet(seed, **(XL_UNET | unet))
    extra = {"added_cond_kwargs": tiny.added_conditions(model.config)}
    if model.config.time_cond_proj_dim:
        extra["timestep_cond"] = tiny.guidance_embedding(8.0, model.config.time_cond_proj_dim)
    words_2 = tiny.tokenizer(folder.with_name("words_2"), "!")
    return diffusers.StableDiffusionXLPipeline(
        vae=tiny.autoencoder(4, 0.13025, force_upcast=False),
        text_encoder=tiny.text_encoder(1, words),
        text_encoder_2=tiny.text_encoder(5, words_2, projection=tiny.TEXT_WIDTH, act="gelu"),
        tokenizer=words,
        tokenizer_2=words_2,
        unet=tiny.live_unet(model, 1.0, **extra),
        scheduler=scheduler,
        force_zeros_for_empty_prompt=empty,
        add_watermarker=False,
    )


def sdxl(folder):
    return xl(71, folder, diffusers.EulerDiscreteScheduler(steps_offset=1, timestep_spacing="leading", **tiny.BETAS))


def sdxl_turbo(folder):
    return xl(81, folder, diffusers.EulerAncestralDiscreteScheduler(**TRAILING))


def ssd_1b_lcm(folder):
    # Blocks of differing depth, and no attention in the middle.
    pruned = {"transformer_layers_per_block": [1, 1], "reverse_transformer_layers_per_block": [1, [2, 1]]}
    scheduler = diffusers.LCMScheduler(clip_sample=False, steps_offset=1, **tiny.BETAS)
    return xl(91, folder, scheduler, time_cond_proj_dim=32, mid_block_type="UNetMidBlock2D", **pruned)


def dit(_):
    scheduler = diffusers.DDIMScheduler(beta_schedule="linear", clip_sample=False)
    return diffusers.DiTPipeline(tiny.transformer(102), tiny.autoencoder(3, 0.18215), scheduler)


def ldm(_):
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear", clip_sample=False
    )
    unet = tiny.plain_unet(112, tiny.SIDE, 3)
    return diffusers.LDMPipeline(vqvae=tiny.vector_quantiser(113), unet=unet, scheduler=scheduler)


def ddpm(_):
    return diffusers.DDPMPipeline(unet=tiny.plain_unet(122, 16, 3), scheduler=diffusers.DDPMScheduler())


def consistency(_):
    unet = tiny.plain_unet(132, 16, 3, num_class_embeds=1000, resnet_time_scale_shift="scale_shift")
    return diffusers.ConsistencyModelPipeline(unet=unet, scheduler=diffusers.CMStochasticIterativeScheduler())


# Cases in lines, whatever a formatter thinks of it. fmt: off
FAMILIES = [
    Family("sd15", "sd15", sd15, [
        row("sd15-ddim", "ddim", "leading", 5, **GUIDED),
        row("sd15-ddim-optimum", "ddim", "leading", 5, **GUIDED, layout="optimum"),
        row("sd15-euler-batch", "euler", "trailing", 4, guidance=5.0, batch=2),
        row("sd15-image-half", "ddim", "leading", 8, **GUIDED, **IMAGE, strength=0.5),
        row("sd15-image-full", "ddim", "leading", 5, **GUIDED, **IMAGE, strength=1.0),
        row("sd15-image-euler", "euler", "trailing", 5, **GUIDED, **IMAGE, strength=0.6),
        row("sd15-image-batch", "ddim", "leading", 4, guidance=3.0, **IMAGE, strength=0.5, batch=2),
        row("sd15-inpaint", "ddim", "leading", 4, **GUIDED, **INPAINT, strength=1.0),
        row("sd15-inpaint-part", "ddim", "leading", 6, **GUIDED, **INPAINT, strength=0.6),
        row("sd15-image-optimum", "ddim", "leading", 8, **GUIDED, **IMAGE, strength=0.5, layout="optimum"),
    ]),
    Family("sdxl", "sdxl", sdxl, [
        row("sdxl-negative", "euler", "leading", 4, **GUIDED),
        row("sdxl-zeros", "euler", "leading", 4, guidance=5.0),
        row("sdxl-plain-optimum", "ddim", "leading", 4, layout="optimum"),
        row("sdxl-zeros-optimum", "euler", "leading", 4, guidance=5.0, layout="optimum"),
        row("sdxl-batch", "ddim", "leading", 3, guidance=5.0, batch=2),
        row("sdxl-image-half", "euler", "leading", 6, **GUIDED, **IMAGE, strength=0.5),
        row("sdxl-image-full", "ddim", "leading", 4, **GUIDED, **IMAGE, strength=1.0),
        row("sdxl-inpaint", "ddim", "leading", 4, **GUIDED, **INPAINT, strength=1.0),
        row("sdxl-inpaint-part", "euler", "leading", 6, guidance=4.0, **INPAINT, strength=0.6),
    ]),
    Family("sdxl-turbo", "sdxl-turbo", sdxl_turbo, [
        row("sdxl-turbo-one", "euler_ancestral", "trailing", 1),
        row("sdxl-turbo-four", "euler_ancestral", "trailing", 4),
    ], NO_ENCODER),
    Family("ssd-1b-lcm", "ssd-1b-lcm", ssd_1b_lcm, [
        row("ssd-four", "lcm", "lcm", 4, guidance=8.0),
        row("ssd-two", "lcm", "lcm", 2, guidance=1.0),
    ], NO_ENCODER),
    Family("sd15-inpainting", "sd15-inpainting", inpainting, [
        row("inpaint-full", "ddim", "leading", 4, **GUIDED, **INPAINT, strength=1.0),
        row("inpaint-part", "ddim", "leading", 6, **GUIDED, **INPAINT, strength=0.6),
        row("inpaint-euler", "euler", "trailing", 4, guidance=3.0, **INPAINT, strength=1.0),
    ]),
    Family("sd2", "sd2", sd2, [
        row("sd2-v", "ddim", "trailing", 4, **GUIDED),
        row("sd2-v-optimum", "ddim", "trailing", 4, **GUIDED, layout="optimum"),
    ], NO_ENCODER),
    Family("sd-turbo", "sd-turbo", sd_turbo, [
        row("turbo-one", "euler", "trailing", 1),
        row("turbo-four", "euler", "trailing", 4),
    ], NO_ENCODER),
    Family("sdxs", "sdxs", sdxs, [
        row("sdxs-one", "euler", "trailing", 1),
        row("sdxs-image", "euler", "trailing", 2, **IMAGE, strength=0.5),
    ]),
    Family("bk-sdm-tiny", "bk-sdm-tiny", bk_sdm_tiny, [
        row("bk-ddim", "ddim", "leading", 5, **GUIDED),
        row("bk-ddim-eta", "ddim", "leading", 5, **GUIDED, eta=1.0),
    ], NO_ENCODER),
    Family("dit", "dit", dit, [
        row("dit-guided", "ddim", "leading", 5, guidance=4.0, prompts=[], conditions={"class": 207}),
        row("dit-plain", "ddim", "leading", 5, prompts=[], conditions={"class": 31}),
        row("dit-default", "ddim", "leading", 4, guidance=2.0, prompts=[], conditions={}),
    ]),
    Family("ldm", "ldm", ldm, [
        row("ldm-ddim", "ddim", "leading", 5, prompts=[], height=32, width=32),
        row("ldm-batch", "ddim", "leading", 4, prompts=[], height=32, width=32, batch=2),
    ]),
    Family("ddpm", "ddpm", ddpm, [
        row("ddpm-ten", "ddpm", "leading", 10, **PIXELS),
        row("ddpm-ddim", "ddim", "leading", 5, **PIXELS),
        row("ddpm-batch", "ddpm", "leading", 5, **PIXELS, batch=2),
    ]),
    Family("consistency", "consistency", consistency, [
        row("cm-one", "consistency", "consistency", 1, **PIXELS, conditions={"class": 7}),
        row("cm-two", "consistency", "consistency", 2, **PIXELS, conditions={"class": 7}),
        row("cm-default", "consistency", "consistency", 4, **PIXELS, batch=2),
    ]),
    Family("sd15-lcm", "sd15-lcm", sd15_lcm, [
        row("lcm-four", "lcm", "lcm", 4, guidance=8.5),
        row("lcm-four-optimum", "lcm", "lcm", 4, guidance=8.5, layout="optimum"),
        row("lcm-one", "lcm", "lcm", 1, guidance=3.0),
        row("lcm-batch", "lcm", "lcm", 3, guidance=8.5, batch=2),
        row("lcm-image", "lcm", "lcm", 4, guidance=8.5, **IMAGE, strength=0.5),
    ]),
]
