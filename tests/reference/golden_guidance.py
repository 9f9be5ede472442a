"""Guidance by diffusers: guiders over a pair of predictions, and what its samplers do to estimates."""

from pathlib import Path

import torch
from diffusers import ClassifierFreeGuidance, ClassifierFreeZeroStarGuidance, DDIMScheduler
from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer, normalized_guidance

from compact_json import write_json
from golden_schedules import shortest

SHAPE = (2, 2, 3, 3)
CALLS = 4
SCALES = [0.5, 2.0, 7.5]
RESCALES = [(7.5, 0.25), (7.5, 0.7), (7.5, 1.0), (2.0, 0.7)]
# Scale, parallel share (eta), norm threshold and momentum. Differences and their averages are 3 to 7 long, so that a
# threshold of 2.5 limits all of them, 5 some, and 50 none; 0 is off.
PROJECTIONS = [
    (7.5, 0.0, 2.5, -0.5),
    (3.0, 0.5, 5.0, -0.75),
    (7.5, 0.0, 50.0, 0.0),
    (2.0, 1.0, 0.0, 0.5),
    (0.5, -0.5, 2.5, 0.0),
]
# Quantile and greatest limit.
THRESHOLDS = [(0.995, 100.0), (0.995, 2.0), (0.9, 100.0), (0.75, 100.0), (1.0, 100.0), (0.1, 100.0), (0.9, 1.0)]
RANGES = [1.0, 0.5, 2.25]


def write_guidance(golden: Path):
    calls = list(make_calls())
    negative, positive = calls[0]
    fields = {
        "calls": [{"negative": pictures(negative), "positive": pictures(positive)} for negative, positive in calls],
        "guide": [guided(negative, positive, scale) for scale in SCALES],
        "rescale": [rescaled(negative, positive, *case) for case in RESCALES],
        "cfg_zero_star": [zero_star(negative, positive, scale) for scale in SCALES],
        "apg": [projected(calls, *case) for case in PROJECTIONS],
        "threshold": [thresholded(positive, *case) for case in THRESHOLDS],
        "clip": [clipped(positive, limit) for limit in RANGES],
    }
    write_json(golden / "guidance.json", fields)


def make_calls():
    """Pairs of predictions that differ less than they are alike, of few digits to keep the file small."""
    generator = torch.Generator("cpu").manual_seed(0)
    for _ in range(CALLS):
        negative, shift = torch.randn((2, *SHAPE), generator=generator)
        yield negative.mul(1.5).round(decimals=3), (negative * 1.5 + shift).round(decimals=3)


def pictures(values):
    return [shortest(picture) for picture in values.flatten(1)]


def guided(negative, positive, scale):
    guider = ClassifierFreeGuidance(guidance_scale=scale)
    return {"scale": scale, "pictures": pictures(guider.forward(positive, negative).pred)}


def rescaled(negative, positive, scale, share):
    guider = ClassifierFreeGuidance(guidance_scale=scale, guidance_rescale=share)
    return {"scale": scale, "share": share, "pictures": pictures(guider.forward(positive, negative).pred)}


def zero_star(negative, positive, scale):
    guider = ClassifierFreeZeroStarGuidance(guidance_scale=scale, zero_init_steps=0)
    guider.set_state(step=0, num_inference_steps=1, timestep=None)
    return {"scale": scale, "pictures": pictures(guider.forward(positive, negative).pred)}


def projected(calls, scale, parallel, threshold, momentum):
    """The original formulation counts from the positive prediction, so that its scale is one less."""
    buffer = MomentumBuffer(momentum)
    results = [
        normalized_guidance(positive, negative, scale - 1, buffer, parallel, threshold, use_original_formulation=True)
        for negative, positive in calls
    ]
    options = {"scale": scale, "parallel": parallel, "threshold": threshold, "momentum": momentum}
    return options | {"calls": [pictures(result) for result in results]}


def thresholded(sample, quantile, most):
    scheduler = DDIMScheduler(thresholding=True, dynamic_thresholding_ratio=quantile, sample_max_value=most)
    return {"quantile": quantile, "most": most, "pictures": pictures(scheduler._threshold_sample(sample))}


def clipped(sample, limit):
    """A step of a model that predicts the clean sample clips nothing else."""
    scheduler = DDIMScheduler(clip_sample=True, clip_sample_range=limit, prediction_type="sample")
    scheduler.set_timesteps(1)
    result = scheduler.step(sample, scheduler.timesteps[0], sample).pred_original_sample
    return {"range": limit, "pictures": pictures(result)}
