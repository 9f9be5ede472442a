"""Compares what safelight makes in tiles with diffusers' own tiled autoencoder: python tests/reference/check_tiles.py BINARY

The model is tests/models/families/sd15, whose graphs stand in for PyTorch's modules in diffusers' AutoencoderKL. What comes
out of the decoder is compared as bytes; what comes out of the encoder as numbers, through an inpainting of one cell, whose
final latent is the encoded picture everywhere else.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime
import torch
from diffusers import AutoencoderKL
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[2]
MODEL = REPOSITORY / "tests/models/families/sd15"
WIDTH, HEIGHT, TILE, DOWNSCALE, SCALE = 160, 112, 64, 8, 0.18215


class Graph:
    """A graph in the place of a module."""

    def __init__(self, name, output):
        self.session = onnxruntime.InferenceSession(MODEL / name / "model.onnx")
        self.output = output

    def __call__(self, tensor):
        name = self.session.get_inputs()[0].name
        return torch.from_numpy(self.session.run([self.output], {name: tensor.numpy()})[0])


class Autoencoder:
    """AutoencoderKL's tiling over two graphs, which hold the 1×1 convolutions too."""

    config = SimpleNamespace(use_post_quant_conv=False, use_quant_conv=False)
    tile_latent_min_size = TILE // DOWNSCALE
    tile_sample_min_size = TILE
    tile_overlap_factor = 0.25
    blend_v, blend_h = AutoencoderKL.blend_v, AutoencoderKL.blend_h

    def __init__(self):
        self.decoder = Graph("vae_decoder", "sample")
        self.encoder = Graph("vae_encoder", "latent_parameters")

    def decode(self, latent):
        return AutoencoderKL.tiled_decode(self, latent, return_dict=False)[0]

    def encode(self, picture):
        return AutoencoderKL._tiled_encode(self, picture)


def generate(binary, folder, *arguments):
    common = ["--model", MODEL, "--target", "generic-cpu", "--size", f"{WIDTH}x{HEIGHT}", "--seed", "1", "--quiet"]
    out = folder / "picture.png"
    command = [binary, "generate", "a red apple", *common, "--out", out, "--save-latents", folder, *arguments]
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
    return np.asarray(Image.open(out)), torch.from_numpy(np.load(sorted(folder.glob("*-step-*.npy"))[-1]))


def check_decoder(binary, folder):
    picture, latent = generate(binary, folder, "--steps", "4", "--tile", TILE)
    expected = Autoencoder().decode(latent / SCALE)[0].permute(1, 2, 0).numpy()
    expected = np.round(np.clip(expected * 0.5 + 0.5, 0, 1) * 255).astype(int)
    print(f"decoder: bytes differ by at most {np.abs(expected - picture).max()}")
    whole, _ = generate(binary, folder, "--steps", "4", "--tile", "off")
    squares = np.mean((whole.astype(float) - picture) ** 2)
    print(f"decoder: tiles against the whole, {10 * np.log10(255**2 / squares):.1f} dB")


def check_encoder(binary, folder):
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    colours = np.stack([x, y, (x * y) // 100], axis=-1) % 256
    Image.fromarray(colours.astype(np.uint8)).save(folder / "input.png")
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:DOWNSCALE, :DOWNSCALE] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    masked = ["--image", folder / "input.png", "--mask", folder / "mask.png", "--steps", "1", "--sampler", "ddim"]
    _, got = generate(binary, folder, *masked, "--tile", TILE)
    planes = torch.from_numpy(colours.astype(np.float32) / 255 * 2 - 1).permute(2, 0, 1)[None]
    mean, log_variance = Autoencoder().encode(planes).chunk(2, dim=1)
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(1))
    expected = SCALE * (mean + torch.exp(0.5 * log_variance.clamp(-30, 20)) * noise)
    difference = (expected - got).abs()
    difference[..., 0, 0] = 0
    print(f"encoder: latents differ by at most {difference.max():.1e} of {expected.abs().max():.1f}")


def main():
    binary = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        check_decoder(binary, Path(one))
        check_encoder(binary, Path(other))


if __name__ == "__main__":
    main()
