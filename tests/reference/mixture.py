"""A denoiser that needs no network: the exact posterior mean of a Gaussian mixture, in float64."""

from typing import NamedTuple

import numpy as np

# Every element of the clean latent is drawn from this mixture, independently of the others.
WEIGHTS = np.array([0.3, 0.5, 0.2])
MEANS = np.array([-1.2, 0.4, 1.5])
DEVIATIONS = np.array([0.35, 0.5, 0.25])

# The scalings of an EDM network (Karras et al. 2022, arXiv:2206.00364, table 1).
SIGMA_DATA = 0.5
SIGMA_MIN = 0.002


class Level(NamedTuple):
    """A noise level: x = alpha * x0 + sigma * noise, and the timestep that the network is told."""

    timestep: float
    alpha: float
    sigma: float

    @property
    def ratio(self):
        return self.sigma / self.alpha if self.alpha else np.inf

    @property
    def half_log_snr(self):
        with np.errstate(divide="ignore"):
            return np.log(self.alpha) - np.log(self.sigma)


def denoise(x, level):
    """E[x0 | x]: the means of each component's posterior, weighed by how likely it made x."""
    _, alpha, sigma = level
    if sigma == 0:
        return x / alpha
    variances = (alpha * DEVIATIONS) ** 2 + sigma**2
    gaps = x[..., None] - alpha * MEANS
    logits = np.log(WEIGHTS) - 0.5 * np.log(variances) - gaps**2 / (2 * variances)
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    return (shares * (MEANS + alpha * DEVIATIONS**2 / variances * gaps)).sum(-1)


def predict(prediction, x, level):
    """The output of a perfect network of this prediction type."""
    return PREDICTIONS[prediction](x, denoise(x, level), level)


def noise_in(x, clean, level):
    return (x - level.alpha * clean) / level.sigma


def velocity(x, clean, level):
    """Of the variance-preserving level of the same ratio: networks see x after its scaling to unit variance."""
    norm = np.hypot(level.alpha, level.sigma)
    return level.alpha / norm * noise_in(x, clean, level) - level.sigma / norm * clean


def edm(x, clean, level):
    total = level.sigma**2 + SIGMA_DATA**2
    return (clean - SIGMA_DATA**2 / total * x) / (level.sigma * SIGMA_DATA / np.sqrt(total))


def consistency(x, clean, level):
    """As EDM's, with the boundary condition at sigma_min (Song et al. 2023, arXiv:2303.01469, eq. 5)."""
    above = level.sigma - SIGMA_MIN
    skip = SIGMA_DATA**2 / (above**2 + SIGMA_DATA**2)
    return (clean - skip * x) / (above * SIGMA_DATA / np.sqrt(level.sigma**2 + SIGMA_DATA**2))


PREDICTIONS = {
    "epsilon": noise_in,
    "v_prediction": velocity,
    "sample": lambda x, clean, level: clean,
    "flow": lambda x, clean, level: noise_in(x, clean, level) - clean,
    "edm": edm,
    "negative_edm": lambda x, clean, level: -edm(x, clean, level),
    "consistency": consistency,
}
