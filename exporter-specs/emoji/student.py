"""Stage 5: the few-step model, distilled from the teacher.

    python student.py [--steps 240] [--guidance 1.75]      # writes work/student.pt, work/student.png; resumes

From every timestep of the latent-consistency timetable, the student's estimate must be where the teacher's guided
trajectory ends, walked in a few DDIM jumps (the progressive distillation of Salimans and Ho 2022, arXiv:2202.00512, in
one go). Guidance is so folded in. The text encoder stays the teacher's.
"""

import argparse
import copy
import time

import numpy as np
import torch

from captions import Words
from common import WORK, autocast, checkpoint, cosine, device, follow, load, resume
from diffusion import LCM_STEPS, TIMESTEPS, clean, ddim, levels
from networks import Denoiser
from teacher import BATCH, Data, autoencoder, networks, show

PEAK, DECAY, PURE_NOISE, HUBER, JUMPS = 2e-4, 0.98, 0.4, 0.1, 3
GRID = TIMESTEPS // LCM_STEPS


def huber(error):
    return ((error / HUBER).square() + 1).sqrt().mean() * HUBER - HUBER


@torch.no_grad()
def walk(teacher, z, t, words, nothing, guidance):
    """The end of the teacher's guided trajectory from z at t, in `JUMPS` equal jumps of the timestep."""
    for jump in range(JUMPS):
        now = t * (JUMPS - jump) // JUMPS
        then = t * (JUMPS - jump - 1) // JUMPS if jump + 1 < JUMPS else torch.full_like(t, -1)
        both = torch.cat([words, nothing.expand_as(words)])
        with autocast():
            guided, plain = teacher(z.repeat(2, 1, 1, 1), now.repeat(2), both).float().chunk(2)
        z = ddim(z, now, then, plain + guidance * (guided - plain))
    return z


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--steps", type=int, default=240)
    arguments.add_argument("--guidance", type=float, default=1.75)
    options = arguments.parse_args()

    torch.manual_seed(0)
    data, decoder = Data(), autoencoder()["decoder"]
    nets = networks().eval().requires_grad_(False)
    nets.load_state_dict(load(WORK / "teacher.pt")["average"])
    text_encoder, teacher = nets["text_encoder"], nets["denoiser"]
    student = Denoiser().to(device())
    student.load_state_dict(teacher.state_dict())
    average = copy.deepcopy(student)
    optimizer = torch.optim.AdamW(student.parameters(), betas=(0.9, 0.98), weight_decay=0, fused=True)
    path = WORK / "student.pt"
    parts = {"student": student, "average": average, "optimizer": optimizer}
    first = resume(path, **parts)
    rng, generator = np.random.default_rng(first), torch.Generator().manual_seed(first)
    nothing_ids = torch.tensor([Words.nothing]).to(device())

    started, losses = time.time(), []
    for step in range(first, options.steps):
        for group in optimizer.param_groups:
            group["lr"] = cosine(step, options.steps, PEAK, warm_up=20)
        x, ids = data.batch(BATCH, rng, generator)
        t = TIMESTEPS - 1 - GRID * torch.randint(LCM_STEPS, (BATCH,), generator=generator)
        t[torch.rand(BATCH, generator=generator) < PURE_NOISE] = TIMESTEPS - 1
        eps, t = torch.randn(x.shape, generator=generator).to(device()), t.to(device())
        a, s = levels(t)
        z = a * x + s * eps
        with torch.no_grad(), autocast():
            words, nothing = text_encoder(ids), text_encoder(nothing_ids)
        goal = walk(teacher, z, t, words, nothing, options.guidance)
        with autocast():
            made = student(z, t, words)
        loss = huber(clean(z, t, made.float()) - goal)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        follow(average, student, DECAY)
        losses.append(loss.item())
        if step % 20 == 19 or step + 1 == options.steps:
            print(f"{step + 1} {time.time() - started:.0f} s loss {np.mean(losses[-20:]):.5f}", flush=True)
        if step % 60 == 59 or step + 1 == options.steps:
            checkpoint(path, step + 1, **parts)
            shown = torch.nn.ModuleDict({"text_encoder": text_encoder, "denoiser": average})
            show(shown, decoder, WORK / "student.png", guidance=None)


if __name__ == "__main__":
    main()
