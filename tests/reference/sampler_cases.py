"""Which samplers run on which schedules, and the scheduler class that each is held against."""

from functools import partial
from typing import Callable, NamedTuple

import diffusers

import sampler_formulae as formulae

STEP_COUNTS = [1, 2, 4, 10, 25]
SPACINGS = ["leading", "linspace", "trailing"]
SIGMA_SCHEDULES = ["karras", "exponential", "beta"]
EVERY = SPACINGS + SIGMA_SCHEDULES
# For what only varies an order or an amount of noise.
FEW = ["linspace", "karras"]
TIMESTEPS = [999, 600, 250, 50]
SIGMAS = [14.0, 5.0, 2.0, 0.7, 0.2, 0.0]

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SD = {**BETAS, "steps_offset": 1}
ZERO_SNR = {**SD, "rescale_betas_zero_snr": True}
EDM = {"sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5, "rho": 7.0}
CHURN = {"churn": 2.0, "churn_min": 0.1, "churn_max": 10.0, "noise_scale": 1.003}

NOISE_OR_V = ["epsilon", "v_prediction"]
THREE = ["epsilon", "v_prediction", "sample"]


class Method(NamedTuple):
    """A sampler of ours and how the reference is configured to be the same."""

    sampler: str
    scheduler: type
    config: dict = {}
    options: dict = {}
    step: dict = {}
    schedules: list = SPACINGS
    predictions: list = THREE
    process: str = "sd"
    formula: Callable | None = None


def dpm(sampler, algorithm, order, solver="midpoint", **rest):
    return multistep(sampler, diffusers.DPMSolverMultistepScheduler, algorithm, order, solver, **rest)


def multistep(sampler, scheduler, algorithm, order, solver="midpoint", **rest):
    config = {"algorithm_type": algorithm, "solver_order": order, "solver_type": solver}
    return Method(sampler, scheduler, config, **{"schedules": [*EVERY, "lu"], **rest})


def singlestep(sampler, algorithm, order, **rest):
    config = {"algorithm_type": algorithm, "solver_order": order, "lower_order_final": True}
    schedules = ["linspace", *SIGMA_SCHEDULES]
    return Method(sampler, diffusers.DPMSolverSinglestepScheduler, config, schedules=schedules, **rest)


def sa(predictor, corrector, options={}):
    tau = default_tau
    config = {"predictor_order": predictor, "corrector_order": corrector}
    if "tau" in options:
        config["tau_func"] = tau = lambda timestep: options["tau"]
    formula = partial(formulae.sa, predictor=predictor, corrector=corrector, tau=tau)
    options = {"predictor": predictor, "corrector": corrector, **options}
    schedules = EVERY if options == {"predictor": 2, "corrector": 2} else FEW
    return Method("sa", diffusers.SASolverScheduler, config, options, schedules=schedules, formula=formula)


def default_tau(timestep):
    return 1 if 200 <= timestep <= 800 else 0


def deis(order):
    formula = partial(formulae.deis, order=order)
    config, options = {"solver_order": order}, {"order": order}
    schedules = EVERY if order == 2 else FEW
    return Method("deis", diffusers.DEISMultistepScheduler, config, options, schedules=schedules, formula=formula)


def unipc(sampler, solver, order, **rest):
    config = {"solver_order": order, "solver_type": solver}
    schedules = EVERY if order == 2 else FEW
    return Method(sampler, diffusers.UniPCMultistepScheduler, config, {"order": order}, schedules=schedules, **rest)


def ddim(options={}, config={}, step={}, **rest):
    config = {"clip_sample": False, "set_alpha_to_one": False, **config}
    return Method("ddim", diffusers.DDIMScheduler, config, options, step, **rest)


ONE = {"set_alpha_to_one": True}
CLIP = {"clip_sample": True, "clip_sample_range": 1.0}
THRESHOLD = {"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 1.5}

# Samplers that move in timesteps.
TIMESTEP_METHODS = [
    Method("ddpm", diffusers.DDPMScheduler, {"clip_sample": False, "variance_type": "fixed_small"}),
    ddim(),
    ddim({"eta": 0.5}, step={"eta": 0.5}),
    ddim({"eta": 1.0}, step={"eta": 1.0}),
    ddim({"clip": 1.0}, CLIP),
    ddim({"clip": 1.0, "eta": 1.0}, CLIP, {"eta": 1.0}),
    ddim({"threshold": 0.9, "threshold_max": 1.5}, THRESHOLD),
    ddim({}, ONE, process="sd_one"),
    ddim({"eta": 1.0}, ONE, {"eta": 1.0}, process="sd_one"),
    Method("plms", diffusers.PNDMScheduler, {"skip_prk_steps": True}, predictions=["epsilon"]),
    Method("pndm", diffusers.PNDMScheduler, {"skip_prk_steps": False}, predictions=["epsilon"]),
    Method("lcm", diffusers.LCMScheduler, {"set_alpha_to_one": False}, schedules=["lcm"]),
    *(
        Method("tcd", diffusers.TCDScheduler, {"set_alpha_to_one": False}, {"gamma": g}, {"eta": g}, schedules=["lcm"])
        for g in (0.0, 0.3, 1.0)
    ),
]
INVERSE = Method(
    "ddim_inverse",
    diffusers.DDIMInverseScheduler,
    {"clip_sample": False, "set_alpha_to_one": False},
    schedules=["leading", "trailing"],
)

# Samplers that move in sigma, on latents of alpha 1.
SIGMA_METHODS = [
    Method("euler", diffusers.EulerDiscreteScheduler, schedules=EVERY),
    Method("euler_ancestral", diffusers.EulerAncestralDiscreteScheduler, predictions=NOISE_OR_V),
    Method("heun", diffusers.HeunDiscreteScheduler, schedules=EVERY),
    Method("dpm2", diffusers.KDPM2DiscreteScheduler, schedules=EVERY, predictions=NOISE_OR_V),
    Method("dpm2_ancestral", diffusers.KDPM2AncestralDiscreteScheduler, schedules=EVERY, predictions=NOISE_OR_V),
    *(
        Method("lms", diffusers.LMSDiscreteScheduler, {}, {"order": order}, {"order": order}, schedules=schedules)
        for order, schedules in [(1, FEW), (2, FEW), (3, FEW), (4, EVERY)]
    ),
]

# Samplers that move in log-SNR, on variance-preserving latents.
LOG_SNR_METHODS = [
    dpm("dpmpp_1", "dpmsolver++", 1),
    dpm("dpmpp_2m", "dpmsolver++", 2),
    dpm("dpmpp_2m_heun", "dpmsolver++", 2, "heun"),
    dpm("dpmpp_3m", "dpmsolver++", 3),
    dpm("dpmpp_1_sde", "sde-dpmsolver++", 1),
    dpm("dpmpp_2m_sde", "sde-dpmsolver++", 2),
    dpm("dpmpp_2m_sde_heun", "sde-dpmsolver++", 2, "heun"),
    singlestep("dpmpp_2s", "dpmsolver++", 2),
    singlestep("dpmpp_3s", "dpmsolver++", 3),
    *(unipc("unipc", "bh2", order) for order in (1, 2, 3)),
]

ZERO_SNR_METHODS = [
    method._replace(schedules=[*method.schedules, "trailing"])
    for method in [*TIMESTEP_METHODS, *SIGMA_METHODS[:2], *LOG_SNR_METHODS]
    if "rescale_betas_zero_snr" in method.scheduler.__init__.__wrapped__.__code__.co_varnames
    and method.process == "sd"
    and not {"clip", "threshold"} & method.options.keys()
]

# Those whose class cannot end at sigma 0, or breaks there. The formula is held against the class where the class ends.
DPM_MULTISTEP, DPM_SINGLESTEP = formulae.dpm_multistep, formulae.dpm_singlestep
UNFINISHED_METHODS = [
    *(dpm(name, "dpmsolver", k, formula=partial(DPM_MULTISTEP, order=k)) for k, name in enumerate(["dpm_1", "dpm_2m", "dpm_3m"], 1)),
    *(dpm(f"dpm_{name}_sde", "sde-dpmsolver", k, formula=partial(formulae.dpm_multistep_sde, order=k)) for k, name in [(1, "1"), (2, "2m")]),
    *(singlestep(f"dpm_{k}s", "dpmsolver", k, formula=partial(DPM_SINGLESTEP, order=k)) for k in (2, 3)),
    *(deis(order) for order in (1, 2, 3)),
    *(unipc("unipc_bh1", "bh1", k, formula=partial(formulae.unipc, order=k, bh1=1)) for k in (1, 2, 3)),
    sa(2, 2),
    sa(1, 1),
    sa(3, 4),
    sa(2, 2, {"tau": 0.0}),
    sa(3, 4, {"tau": 1.0}),
]
