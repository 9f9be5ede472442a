"""Stage 7: golden numbers of the FP16 graphs on the CPU, and the manifest with every hash.

    python manifest.py        # writes models/emoji/golden/*.npz and models/emoji/model.yaml
"""

import hashlib

import numpy as np
import onnxruntime as ort

from captions import END, START, Words
from common import MODEL, SIZE
from export import CONTRACTS, sample
from networks import DOWNSCALE, LATENT, WINDOW

GOLDENS = [("a red apple", 3, 4), ("a blue house", 7, 2), ("penguin, glossy style", 11, 1)]
STAGES = {"text_encoder": "text_encoder", "denoiser": "unet", "decoder": "vae_decoder", "encoder": "vae_encoder"}

MANIFEST = """\
# Written by exporter-specs/emoji/manifest.py.
schema: safelight-model/1
name: emoji
title: Emoji from words, {size}×{size}, in one to eight steps
licence: Apache-2.0 AND MIT # trained on Noto Emoji (Apache-2.0) and Fluent Emoji (MIT); see NOTICE

picture: {{ width: {size}, height: {size} }} # the denoiser has learnt positions: no other sizes
latent: {{ channels: {channels}, downscale: {downscale}, scale: 1.0, shift: 0.0 }}

training:
  timesteps: 1000
  beta_start: 0.00085
  beta_end: 0.012
  betas: scaled_linear
  zero_terminal_snr: true
  prediction: v_prediction
  set_alpha_to_one: true
  original_steps: 50

tokenizer: {{ file: tokenizer.json, length: {window}, start: {start}, end: {end}, pad: {end} }}

defaults: {{ sampler: lcm, schedule: trailing, steps: 4, guidance: 1.0 }}
range:
  steps: [1, 8]
  guidance: [1.0, 1.0]
  why: distilled for 1 to 8 steps with guidance folded in

stages:
{stages}
goldens:
{goldens}
"""


def listed(path):
    content = path.read_bytes()
    return f"file: {path.relative_to(MODEL)}, bytes: {len(content)}, sha256: {hashlib.sha256(content).hexdigest()}"


def stage_entries():
    for stage, graph in STAGES.items():
        yield f"  {stage}:\n    graphs:"
        for precision in ("int8", "fp16"):
            yield f"      {precision}: {{ {listed(MODEL / f'{graph}.{precision}.onnx')} }}"


def golden_entries():
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    run = {
        graph: ort.InferenceSession(MODEL / f"{graph}.fp16.onnx", options, providers=["CPUExecutionProvider"])
        for graph in CONTRACTS
    }
    words = Words(MODEL / "tokenizer.json")
    (MODEL / "golden").mkdir(exist_ok=True)
    for prompt, seed, steps in GOLDENS:
        text = run["text_encoder"].run(None, {"input_ids": np.array([words(prompt)])})[0]
        arrays = sample(lambda inputs: run["unet"].run(None, inputs)[0], text, steps, seed)
        decoded = run["vae_decoder"].run(None, {"latent_sample": arrays["latents"]})[0]
        bytes_ = np.rint((decoded / 2 + 0.5).clip(0, 1) * 255).astype(np.uint8)
        path = MODEL / "golden" / f"{prompt.replace(',', '').replace(' ', '-')}-{seed}.npz"
        np.savez(path, images=bytes_.transpose(0, 2, 3, 1), **arrays)
        yield f'- {{ prompt: "{prompt}", seed: {seed}, steps: {steps}, precision: fp16, {listed(path)} }}'


def main():
    text = MANIFEST.format(
        size=SIZE,
        channels=LATENT,
        downscale=DOWNSCALE,
        window=WINDOW,
        start=START,
        end=END,
        stages="\n".join(stage_entries()),
        goldens="\n".join(golden_entries()),
    )
    (MODEL / "model.yaml").write_text(text, encoding="utf-8")
    total = sum(path.stat().st_size for path in MODEL.rglob("*") if path.is_file())
    print(f"{MODEL.name}: {total / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
