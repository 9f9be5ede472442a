"""Stage 2: pictures to latents and back.

    python autoencoder.py [--steps 3000]      # writes work/autoencoder.pt, work/autoencoder.png

Trained on crops. Noise on the latents does what a KL term does elsewhere: under it, what matters is given power and what
does not is left small, so the denoiser's loss weighs what can be seen; and the decoder forgives small errors.
"""

import argparse
import copy
import math
import time

import numpy as np
import torch
from torch.nn import functional as F

from common import WORK, autocast, checkpoint, cosine, device, follow, resume, sheet, to_picture
from networks import Decoder, Encoder

BATCH, CROP, NOISE, PEAK = 64, 64, 0.35, 2e-3
KEPT_BACK = 96


def pictures():
    return torch.from_numpy(np.load(WORK / "data.npz")["pictures"])


def to_tensor(batch):
    return (batch.permute(0, 3, 1, 2).float() / 127.5 - 1).to(device(), memory_format=torch.channels_last)


def crops(all_pictures, chosen, size):
    corners = np.random.randint(0, all_pictures.shape[1] - size + 1, (len(chosen), 2))
    batch = torch.stack([all_pictures[i, y : y + size, x : x + size] for i, (y, x) in zip(chosen, corners)])
    return to_tensor(batch.flip(2) if np.random.rand() < 0.5 else batch)


def distance(made, real):
    """Mean absolute error of pixels and of their differences (edges), and squared error."""
    edges = sum((made.diff(dim=axis) - real.diff(dim=axis)).abs().mean() for axis in (2, 3))
    return (made - real).abs().mean() + 0.5 * edges + (made - real).square().mean()


@torch.no_grad()
def quality(encoder, decoder, real):
    """PSNR in dB and the decoded pictures."""
    encoder.eval()
    made = decoder(encoder(real)).clamp(-1, 1)
    encoder.train()
    return 10 * math.log10(4 / F.mse_loss(made, real).item()), made


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--steps", type=int, default=3000)
    steps = arguments.parse_args().steps

    torch.manual_seed(0)
    np.random.seed(0)
    all_pictures = pictures()
    order = np.random.default_rng(0).permutation(len(all_pictures))
    test, train = to_tensor(all_pictures[order[:KEPT_BACK]]), order[KEPT_BACK:]
    nets = torch.nn.ModuleDict({"encoder": Encoder(), "decoder": Decoder()}).to(device(), memory_format=torch.channels_last)
    average = copy.deepcopy(nets)
    optimizer = torch.optim.AdamW(nets.parameters(), betas=(0.9, 0.98), weight_decay=1e-3, fused=True)

    path = WORK / "autoencoder.pt"
    parts = {"nets": nets, "average": average, "optimizer": optimizer}
    first, started = resume(path, **parts), time.time()
    for step in range(first, steps):
        for group in optimizer.param_groups:
            group["lr"] = cosine(step, steps, PEAK)
        whole = step > 0.85 * steps  # the last part on whole pictures: their borders are not those of crops
        chosen = np.random.choice(train, BATCH // 4 if whole else BATCH)
        real = crops(all_pictures, chosen, all_pictures.shape[1] if whole else CROP)
        with autocast():
            latent = nets["encoder"](real)
            latent = latent + NOISE * torch.rand(len(latent), 1, 1, 1, device=latent.device) * torch.randn_like(latent)
            made = nets["decoder"](latent)
        loss = distance(made.float(), real)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(nets.parameters(), 1.0)
        optimizer.step()
        follow(average, nets, min(0.998, step / (step + 10)))
        if step % 250 == 249 or step + 1 == steps:
            psnr, made = quality(average["encoder"], average["decoder"], test)
            print(f"{step + 1} {time.time() - started:.0f} s loss {loss.item():.4f} held-out PSNR {psnr:.2f} dB", flush=True)
            checkpoint(path, step + 1, **parts)
            pairs = torch.stack([test[:24], made[:24]], 1).flatten(0, 1)
            sheet(list(to_picture(pairs)), 12).save(WORK / "autoencoder.png")


if __name__ == "__main__":
    main()
