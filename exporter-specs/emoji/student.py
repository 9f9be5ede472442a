"""Stage 5: the few-step model, distilled from the teacher by latent consistency (Luo et al. 2023, arXiv:2310.04378).

    python student.py [--steps 800] [--guidance 1.75]      # writes work/student.pt, work/student.png; resumes

The student's estimate at a timestep must be the one that a slow copy of it makes a stride further down the teacher's
guided trajectory. Guidance is so folded in. The text encoder stays the teacher's.
"""

import argparse
import copy
import time

import numpy as np
import torch

from captions import Words
from common import WORK, autocast, cosine, device, follow, load, save
from diffusion import LCM_STEPS, TIMESTEPS, clean, ddim, levels
from networks import Denoiser
from teacher import BATCH, Data, autoencoder, networks, show

PEAK, DECAY, PURE_NOISE, HUBER = 3e-4, 0.97, 0.3, 0.1
GRID = TIMESTEPS // LCM_STEPS
STRIDE = 3 * GRID  # of the teacher at once: what it knows reaches pure noise in a third of the rounds


def huber(error):
    return ((error / HUBER).square() + 1).sqrt().mean() * HUBER - HUBER


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--steps", type=int, default=800)
    arguments.add_argument("--guidance", type=float, default=1.75)
    options = arguments.parse_args()

    torch.manual_seed(0)
    data, decoder = Data(), autoencoder()["decoder"]
    nets = networks().eval().requires_grad_(False)
    nets.load_state_dict(load(WORK / "teacher.pt")["average"])
    text_encoder, teacher = nets["text_encoder"], nets["denoiser"]
    student = Denoiser().to(device())
    student.load_state_dict(teacher.state_dict())
    target, average = copy.deepcopy(student), copy.deepcopy(student)
    optimizer = torch.optim.AdamW(student.parameters(), betas=(0.9, 0.98), weight_decay=0, fused=True)
    path = WORK / "student.pt"
    kept = load(path)
    if kept:
        student.load_state_dict(kept["student"])
        target.load_state_dict(kept["target"])
        average.load_state_dict(kept["average"])
        optimizer.load_state_dict(kept["optimizer"])
    first = kept.get("step", 0)
    rng, generator = np.random.default_rng(first), torch.Generator().manual_seed(first)
    nothing_ids = torch.tensor([Words.nothing]).to(device())

    started, losses = time.time(), []
    for step in range(first, options.steps):
        for group in optimizer.param_groups:
            group["lr"] = cosine(step, options.steps, PEAK, warm_up=50)
        x, ids = data.batch(BATCH, rng, generator)
        t = TIMESTEPS - 1 - GRID * torch.randint(LCM_STEPS, (BATCH,), generator=generator)
        t[torch.rand(BATCH, generator=generator) < PURE_NOISE] = TIMESTEPS - 1
        eps = torch.randn(x.shape, generator=generator).to(device())
        t = t.to(device())
        a, s = levels(t)
        z = a * x + s * eps
        with torch.no_grad(), autocast():
            words, nothing = text_encoder(ids), text_encoder(nothing_ids)
            guided, plain = teacher(z, t, words).float(), teacher(z, t, nothing.expand_as(words)).float()
            v = plain + options.guidance * (guided - plain)
            lower = t - STRIDE
            z_lower = ddim(z, t, lower, v)
            known = clean(z_lower, lower.clamp(min=0), target(z_lower, lower.clamp(min=0), words).float())
            goal = torch.where((lower < 0).view(-1, 1, 1, 1), z_lower, known)
        with autocast():
            made = student(z, t, words)
        loss = huber(clean(z, t, made.float()) - goal)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        follow(target, student, DECAY)
        follow(average, student, 0.99)
        losses.append(loss.item())
        if step % 50 == 49:
            print(f"{step + 1} {time.time() - started:.0f} s loss {np.mean(losses[-50:]):.5f}", flush=True)
        if step % 200 == 199 or step + 1 == options.steps:
            state = {"student": student, "target": target, "average": average, "optimizer": optimizer}
            save(path, step=step + 1, **{name: part.state_dict() for name, part in state.items()})
            shown = torch.nn.ModuleDict({"text_encoder": text_encoder, "denoiser": average})
            show(shown, decoder, WORK / "student.png", guidance=None)


if __name__ == "__main__":
    main()
