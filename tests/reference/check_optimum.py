"""Compares safelight with Optimum's own runtime on pipelines that Optimum exports: same graphs, same seed.

    pip install "optimum-onnx[onnxruntime]==0.1.0" diffusers==0.39.0 torch==2.9.1
    cargo build --release && python tests/reference/check_optimum.py

Makes a Stable Diffusion 1.x, an LCM and an SDXL pipeline of random weights, exports them, and prints the PSNR of pictures.
Not part of the tests: the packages are large and their versions do not fit those of requirements.txt.
"""

import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from optimum.exporters.onnx import main_export
from optimum.onnxruntime import (
    ORTLatentConsistencyModelPipeline,
    ORTStableDiffusionPipeline,
    ORTStableDiffusionXLPipeline,
)
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

ROOT = Path(__file__).resolve().parents[2]
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
PROMPT, SEED = "a red apple", 3


def main():
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        ddim = DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1, **BETAS)
        sd = export(StableDiffusionPipeline, folder / "sd", ddim)
        theirs = ORTStableDiffusionPipeline.from_pretrained(sd, safety_checker=None)
        guided = {"num_inference_steps": 10, "guidance_scale": 7.5, "negative_prompt": "blurry"}
        options = ["--steps", "10", "--guidance", "7.5", "--negative", "blurry"]
        compare("ddim, guided", theirs, guided, sd, options)
        theirs.scheduler = EulerDiscreteScheduler.from_config(theirs.scheduler.config)
        options += ["--sampler", "euler", "--size", "128x192"]
        compare("euler, guided, 128×192", theirs, {**guided, "width": 128, "height": 192}, sd, options)

        lcm = export(LatentConsistencyModelPipeline, folder / "lcm", LCMScheduler(**BETAS), time_cond_proj_dim=32)
        theirs = ORTLatentConsistencyModelPipeline.from_pretrained(lcm, safety_checker=None)
        compare("lcm", theirs, {"num_inference_steps": 4, "guidance_scale": 8.5}, lcm, ["--steps", "4"])

        euler = EulerDiscreteScheduler(steps_offset=1, timestep_spacing="leading", **BETAS)
        xl = export(StableDiffusionXLPipeline, folder / "xl", euler, **XL)
        theirs = ORTStableDiffusionXLPipeline.from_pretrained(xl)
        theirs.tokenizer_2.model_max_length = 77
        guided = {"num_inference_steps": 6, "guidance_scale": 5.0, "height": 256, "width": 256}
        options = ["--steps", "6", "--guidance", "5"]
        compare("xl, zeros as the negative prompt", theirs, guided, xl, options)
        guided["negative_prompt"] = "blurry"
        compare("xl, guided, negative prompt", theirs, guided, xl, [*options, "--negative", "blurry"])


# Hidden states of both encoders side by side, 6 numbers of 8 each for the size, the pooled prompt.
XL = {
    "cross_attention_dim": 64,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 6 * 8 + 32,
}


def text_encoder(kind, tokenizer):
    sizes = {"hidden_size": 32, "intermediate_size": 37, "num_attention_heads": 4, "num_hidden_layers": 3}
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    return kind(CLIPTextConfig(vocab_size=len(tokenizer), projection_dim=32, **sizes, **ids))


def export(pipeline, folder, scheduler, **unet):
    words = ROOT / "tests/models/tiny-sd/tokenizer"
    tokenizer = CLIPTokenizer(str(words / "vocab.json"), str(words / "merges.txt"))
    others = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    if pipeline is StableDiffusionXLPipeline:
        others = {"text_encoder_2": text_encoder(CLIPTextModelWithProjection, tokenizer), "tokenizer_2": tokenizer}
    pipeline(
        vae=AutoencoderKL(
            block_out_channels=[32, 64, 64, 64],
            down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4,
            latent_channels=4,
            norm_num_groups=8,
        ),
        text_encoder=text_encoder(CLIPTextModel, tokenizer),
        tokenizer=tokenizer,
        unet=UNet2DConditionModel(
            block_out_channels=(32, 64),
            layers_per_block=1,
            sample_size=32,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=8,
            **{"cross_attention_dim": 32, **unet},
        ),
        scheduler=scheduler,
        **others,
    ).save_pretrained(folder)
    exported = folder.with_name(f"{folder.name}-onnx")
    main_export(str(folder), output=exported, task="text-to-image", library_name="diffusers")
    return exported


def compare(name, theirs, arguments, model, options):
    # The exporter writes a length of 10³⁰ where the tokenizer knows none.
    theirs.tokenizer.model_max_length = 77
    generator = torch.Generator().manual_seed(SEED)
    reference = np.asarray(theirs(PROMPT, generator=generator, **arguments).images[0], float)
    own = model / "own.png"
    binary = ROOT / "target/release/safelight"
    subprocess.run(
        [binary, "generate", PROMPT, "--model", model, "--seed", str(SEED), "--quiet", "--out", own, *options],
        check=True,
        stdout=subprocess.DEVNULL,
        cwd=ROOT,
    )
    squares = (reference - np.asarray(Image.open(own), float)) ** 2
    print(f"{name}: {10 * np.log10(255**2 / max(squares.mean(), 1e-9)):.1f} dB")


if __name__ == "__main__":
    main()
