"""Builds a latent consistency model of Stable Diffusion 1.5's size from random weights, for measuring time and memory.

    python benches/sd15/build.py FOLDER [--only fused plain free] [--precisions int8,fp32]

writes FOLDER/checkpoint, as diffusers does, and exports it by the package in exporter-specs, once a kind. The pictures are
noise. See README.md beside this file.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderTiny, LCMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

ROOT = Path(__file__).resolve().parents[2]
SPEC = Path(__file__).with_name("sd15-random.yaml")
WIDTH, GUIDANCE_WIDTH, SIDE = 768, 256, 64
# Folder: the exporter's own options, and what is taken back of its optimisation.
KINDS = {
    "fused": (["--static", "512x512"], None),
    "plain": (["--static", "512x512"], {"attention": "plain", "gates": "whole", "rows_bytes": 0}),
    "free": ([], None),
}
INDEX = {
    "_class_name": "LatentConsistencyModelPipeline",
    "_diffusers_version": "0.39.0",
    "scheduler": ["diffusers", "LCMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderTiny"],
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=["fused"])
    parser.add_argument("--precisions", default="int8,fp32")
    args = parser.parse_args()
    folder = args.folder.resolve()
    if not (folder / "checkpoint").is_dir():
        save_checkpoint(folder / "checkpoint")
    for kind in args.only:
        export(folder, kind, args.precisions)


@torch.no_grad()
def save_checkpoint(folder):
    torch.manual_seed(0)
    partial = folder.with_name("checkpoint.part")
    shutil.rmtree(partial, ignore_errors=True)
    text = CLIPTextConfig(
        vocab_size=49408, hidden_size=WIDTH, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
        projection_dim=WIDTH,
    )  # fmt: skip
    CLIPTextModel(text).half().save_pretrained(partial / "text_encoder")
    # The defaults are Stable Diffusion 1.x's; LCM adds the embedding of the guidance scale.
    unet = UNet2DConditionModel(sample_size=SIDE, cross_attention_dim=WIDTH, time_cond_proj_dim=GUIDANCE_WIDTH)
    unet.half().save_pretrained(partial / "unet")
    del unet
    tiny_decoder().save_pretrained(partial / "vae")
    LCMScheduler(steps_offset=1, clip_sample=False, set_alpha_to_one=False).save_pretrained(partial / "scheduler")
    (partial / "tokenizer").mkdir()
    # The shipped model's vocabulary is small and has CLIP's form; CLIP's own is not ours to copy.
    shutil.copy(ROOT / "models/emoji/tokenizer.json", partial / "tokenizer")
    (partial / "model_index.json").write_text(json.dumps(INDEX, indent=1))
    partial.rename(folder)


def tiny_decoder():
    """Grey on average, with a quarter of the way to white as the deviation: constant pictures are refused."""
    whole = AutoencoderTiny()
    convolutions = [module for module in whole.decoder.modules() if isinstance(module, torch.nn.Conv2d)]
    for convolution in convolutions:
        torch.nn.init.kaiming_normal_(convolution.weight)
    last = convolutions[-1]
    last.bias.zero_()
    pictures = (torch.cat([whole.decoder(scale * torch.randn(1, 4, SIDE, SIDE)) for scale in (1, 3)]) + 1) / 2
    scale = 0.25 / pictures.std()
    last.weight *= scale
    last.bias[:] = 0.5 - scale * pictures.mean((0, 2, 3))
    return whole


def export(folder, kind, precisions):
    options, optimise = KINDS[kind]
    spec = SPEC
    if optimise:
        spec = folder / f"{kind}.yaml"
        spec.write_text(SPEC.read_text() + f"    optimise: {json.dumps(optimise)}\n")
    checkpoint = str(folder / "checkpoint")
    command = [sys.executable, "-m", "safelight_export", str(spec), "--weights", checkpoint, "--decoder", f"taesd={checkpoint}"]
    command += ["--out", str(folder / kind), "--precisions", precisions, *options]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(ROOT / "exporter-specs")})


if __name__ == "__main__":
    main()
