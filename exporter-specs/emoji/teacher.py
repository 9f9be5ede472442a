"""Stage 4: the many-step model. Words and latents to a denoiser that predicts v, by plain diffusion training.

    python teacher.py [--steps 10000]       # writes work/teacher.pt, work/teacher.png; resumes where it was

Text encoder and denoiser are trained together. A share of each batch is pure noise, where every trajectory starts.
"""

import argparse
import copy
import random
import time

import numpy as np
import torch

from captions import Captions, Words
from common import WORK, autocast, checkpoint, cosine, device, follow, load, resume, sheet, to_picture
from diffusion import TIMESTEPS, levels, sample_ddim, sample_lcm
from networks import Decoder, Denoiser, Encoder, TextEncoder

BATCH, PEAK, WORDLESS, DECAY = 64, 1.5e-3, 0.1, 0.999
# Words decide where there is much noise: a share of pure noise, and a power below 1 that favours late timesteps.
PURE_NOISE, NOISIER = 0.15, 0.7
PROMPTS = """a red apple|a blue house|a green car|dog face|smiling face with sunglasses|a rocket|pizza|a purple umbrella
a yellow star|sunflower|a blue heart|penguin|strawberry|banana|panda|fox|frog|butterfly
christmas tree|skull|snowman|elephant|birthday cake|guitar|a green house|a purple car|a red umbrella|a pink frog
a blue rose|a green key|a red dress|an orange fish|a pink bell|a turquoise backpack|a blue tulip, noto style|robot, glossy style"""
PROMPTS = PROMPTS.replace("\n", "|").split("|")


class Data:
    """Latents of all pictures, and many captions of each as token ids."""

    def __init__(self, captions_each=24):
        self.captions, words, rng = Captions(), Words(), random.Random(0)
        rows = [[words(self.captions.draw(i, rng)) for _ in range(captions_each)] for i in range(len(self.captions.records))]
        self.ids = torch.tensor(rows, dtype=torch.int16)
        self.latents = encode_all()
        self.weights = np.array(self.captions.weights())
        self.weights /= self.weights.sum()

    def batch(self, size, rng, generator):
        """(latents, ids), some of them without words."""
        chosen = torch.from_numpy(rng.choice(len(self.weights), size, p=self.weights))
        ids = self.ids[chosen, torch.randint(self.ids.shape[1], (size,), generator=generator)].long()
        ids[torch.rand(size, generator=generator) < WORDLESS] = torch.tensor(Words.nothing)
        return self.latents[chosen].to(device()), ids.to(device())


def autoencoder():
    kept = load(WORK / "autoencoder.pt")["average"]
    nets = torch.nn.ModuleDict({"encoder": Encoder(), "decoder": Decoder()})
    nets.load_state_dict(kept)
    return nets.eval().requires_grad_(False).to(device())


@torch.no_grad()
def encode_all():
    """Latents [n, LATENT, 8, 8] of every picture, kept in a file."""
    path = WORK / "latents.pt"
    if not path.exists():
        pictures, encoder = torch.from_numpy(np.load(WORK / "data.npz")["pictures"]), autoencoder()["encoder"]
        parts = [encoder(p.permute(0, 3, 1, 2).to(device()).float() / 127.5 - 1).cpu() for p in pictures.split(128)]
        torch.save(torch.cat(parts), path)
    return torch.load(path)


def networks():
    nets = torch.nn.ModuleDict({"text_encoder": TextEncoder(), "denoiser": Denoiser()})
    return nets.to(device())


def optimizers_of(nets):
    """Muon for the matrices of linear layers, which learns rare associations sooner; AdamW for all else."""
    matrices = [m.weight for m in nets.modules() if isinstance(m, torch.nn.Linear)]
    taken = {id(p) for p in matrices}
    others = [p for p in nets.parameters() if id(p) not in taken]
    return [
        torch.optim.Muon(matrices, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.01, fused=True),
    ]


@torch.no_grad()
def show(nets, decoder, path, guidance):
    """A sheet of `PROMPTS`: 25 guided DDIM steps above one step, or 4 LCM steps above one where there is no guidance."""
    nets.eval()
    words = Words()
    ids = torch.tensor([words(prompt) for prompt in PROMPTS]).to(device())
    text, nothing = nets["text_encoder"](ids), nets["text_encoder"](torch.tensor([Words.nothing]).to(device()))
    denoiser = nets["denoiser"]
    many = sample_ddim(denoiser, text, nothing, 25, guidance) if guidance else sample_lcm(denoiser, text, 4)
    rows = [to_picture(decoder(z)) for z in (many, sample_lcm(denoiser, text, 1))]
    pictures = [p for i in range(0, len(PROMPTS), 12) for row in rows for p in row[i : i + 12]]
    sheet(pictures, 12).save(path)
    nets.train()


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--steps", type=int, default=10000)
    steps = arguments.parse_args().steps

    torch.manual_seed(0)
    data, decoder = Data(), autoencoder()["decoder"]
    nets = networks()
    average = copy.deepcopy(nets)
    optimizers = optimizers_of(nets)
    path = WORK / "teacher.pt"
    parts = {"nets": nets, "average": average, "muon": optimizers[0], "adamw": optimizers[1]}
    first = resume(path, **parts)
    rng, generator = np.random.default_rng(first), torch.Generator().manual_seed(first)

    started, losses = time.time(), []
    for step in range(first, steps):
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = cosine(step, steps, PEAK, warm_up=300)
        x, ids = data.batch(BATCH, rng, generator)
        t = (TIMESTEPS * torch.rand(BATCH, generator=generator) ** NOISIER).long()
        t[torch.rand(BATCH, generator=generator) < PURE_NOISE] = TIMESTEPS - 1
        t, eps = t.to(device()), torch.randn(x.shape, generator=generator).to(device())
        a, s = levels(t)
        with autocast():
            v = nets["denoiser"](a * x + s * eps, t, nets["text_encoder"](ids))
        loss = (v.float() - (a * eps - s * x)).square().mean()
        nets.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(nets.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        follow(average, nets, min(DECAY, step / (step + 10)))
        losses.append(loss.item())
        if step % 100 == 99 or step + 1 == steps:
            print(f"{step + 1} {time.time() - started:.0f} s loss {np.mean(losses[-100:]):.4f}", flush=True)
        if step % 1000 == 999 or step + 1 == steps:
            checkpoint(path, step + 1, **parts)
            show(average, decoder, WORK / "teacher.png", guidance=2.0)


if __name__ == "__main__":
    main()
