"""The training schedule of Stable Diffusion with zero terminal SNR, and the samplers that look at progress."""

import torch

from networks import LATENT

TIMESTEPS = 1000


def cumulative_alphas():
    """ᾱ of each timestep: scaled-linear betas, rescaled so that nothing of the picture is left at the last one
    (Lin et al. 2024, arXiv:2305.08891, algorithm 1)."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, TIMESTEPS, dtype=torch.float64) ** 2
    root = torch.cumprod(1 - betas, 0).sqrt()
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    return (root**2).float()


ALPHAS = cumulative_alphas()


def levels(t):
    """(√ᾱ, √(1−ᾱ)) of timesteps [b], each [b, 1, 1, 1]."""
    alpha = ALPHAS.to(t.device)[t].view(-1, 1, 1, 1)
    return alpha.sqrt(), (1 - alpha).sqrt()


def clean(z, t, v):
    """x₀ from v: √ᾱ·z − √(1−ᾱ)·v (Salimans and Ho 2022, arXiv:2202.00512)."""
    a, s = levels(t)
    return a * z - s * v


def noise(z, t, v):
    a, s = levels(t)
    return s * z + a * v


def ddim(z, t, to, v):
    """The deterministic step (Song et al. 2021, eq. 12); `to` below 0 is the clean latent."""
    x0, eps = clean(z, t, v), noise(z, t, v)
    a, s = levels(to.clamp(min=0))
    return torch.where((to < 0).view(-1, 1, 1, 1), x0, a * x0 + s * eps)


def trailing(steps):
    return [round(TIMESTEPS - i * TIMESTEPS / steps) - 1 for i in range(steps)]


@torch.no_grad()
def sample_ddim(denoiser, words, nothing, steps, guidance, seed=0):
    """Latents [b, …] for the text encoder's outputs [b, …]; `nothing` is its output for no words."""
    z = start(denoiser, len(words), seed)
    times = [*trailing(steps), -1]
    for now, then in zip(times, times[1:]):
        t, to = (torch.full((len(z),), x, device=z.device) for x in (now, then))
        v = denoiser(z, t, words)
        if guidance != 1:
            without = denoiser(z, t, nothing.expand_as(words))
            v = without + guidance * (v - without)
        z = ddim(z, t, to, v)
    return z


LCM_STEPS = 50  # the timetable that few-step schedules pick from


def lcm_times(steps):
    grid = [TIMESTEPS - 1 - TIMESTEPS // LCM_STEPS * k for k in range(LCM_STEPS)]
    return [grid[k * LCM_STEPS // steps] for k in range(steps)]


@torch.no_grad()
def sample_lcm(denoiser, words, steps, seed=0):
    z, generator = start(denoiser, len(words), seed), torch.Generator().manual_seed(seed + 1)
    times = lcm_times(steps)
    for i, now in enumerate(times):
        t = torch.full((len(z),), now, device=z.device)
        z = clean(z, t, denoiser(z, t, words))
        if i + 1 < steps:
            a, s = levels(torch.full_like(t, times[i + 1]))
            z = a * z + s * torch.randn(z.shape, generator=generator).to(z.device)
    return z


def start(denoiser, batch, seed):
    z = torch.randn(batch, LATENT, 8, 8, generator=torch.Generator().manual_seed(seed))
    return z.to(next(denoiser.parameters()).device)
