"""Text to picture in the least Python: onnxruntime, numpy and Pillow, nothing else.

The baseline of safelight's cold-process comparison: int8 graphs, four LCM steps, one thread.
"""

import argparse
import json
import re
import unicodedata
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

WINDOW, START, END, UNKNOWN = 16, 0, 1, 1
TIMESTEPS = [999, 759, 499, 259]
WORD = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[a-z]+|[0-9]|[^\sa-z0-9]+")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("prompt")
    parser.add_argument("seed", type=int)
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    ids = token_ids(args.model / "tokenizer.json", args.prompt)
    text = session(args.model, "text_encoder").run(None, {"input_ids": np.array([ids], np.int64)})[0]
    latents = sample(session(args.model, "unet"), text, np.random.default_rng(args.seed))
    picture = session(args.model, "vae_decoder").run(None, {"latent_sample": latents})[0][0]
    pixels = np.rint((picture / 2 + 0.5).clip(0, 1) * 255).astype(np.uint8)
    Image.fromarray(pixels.transpose(1, 2, 0)).save(args.output)


def session(model, stage):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    # Four steps of a small model do not earn back the time that optimising its graphs takes.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model / f"{stage}.int8.onnx", options, providers=["CPUExecutionProvider"])


def sample(unet, text, random):
    """Latent consistency sampling of a v-prediction model: denoise fully, add fresh noise at the next timestep."""
    alphas_cumprod = zero_terminal_snr_alphas()
    latents = random.standard_normal((1, 24, 8, 8), np.float32)
    for timestep, following in zip(TIMESTEPS, [*TIMESTEPS[1:], None]):
        inputs = {"sample": latents, "timestep": np.array([timestep]), "encoder_hidden_states": text}
        velocity = unet.run(None, inputs)[0]
        alpha = alphas_cumprod[timestep]
        denoised = np.sqrt(alpha) * latents - np.sqrt(1 - alpha) * velocity
        if following is None:
            return denoised
        alpha = alphas_cumprod[following]
        noise = random.standard_normal(latents.shape, np.float32)
        latents = np.sqrt(alpha) * denoised + np.sqrt(1 - alpha) * noise


def zero_terminal_snr_alphas():
    """Cumulative alphas of scaled-linear betas, shifted and scaled so that the last one is zero."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    roots = np.sqrt(np.cumprod(1 - betas))
    return ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])).astype(np.float32) ** 2


def token_ids(path, prompt):
    model = json.loads(path.read_text(encoding="utf-8"))["model"]
    ranks = {tuple(pair): rank for rank, pair in enumerate(model["merges"])}
    alphabet = byte_alphabet()
    ids = []
    for word in WORD.findall(unicodedata.normalize("NFC", prompt).lower()):
        symbols = [alphabet[byte] for byte in word.encode()]
        symbols[-1] += "</w>"
        ids += [model["vocab"].get(symbol, UNKNOWN) for symbol in merge(symbols, ranks)]
    words = ids[: WINDOW - 2]
    return [START, *words, *[END] * (WINDOW - 1 - len(words))]


def merge(symbols, ranks):
    """Joins the pair that was learned first, until no neighbours are a known pair."""
    while len(symbols) > 1:
        rank, i = min((ranks.get(pair, len(ranks)), i) for i, pair in enumerate(zip(symbols, symbols[1:])))
        if rank == len(ranks):
            break
        symbols = [*symbols[:i], symbols[i] + symbols[i + 1], *symbols[i + 2 :]]
    return symbols


def byte_alphabet():
    """GPT-2's printable stand-in for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


if __name__ == "__main__":
    main()
