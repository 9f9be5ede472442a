"""Which samplers run on which schedules, and how the scheduler class that each is held against is configured."""

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
# What a user may give instead of a number of steps.
TIMESTEPS = [999, 600, 250, 50]
SIGMAS = [14.0, 5.0, 2.0, 0.7, 0.2, 0.0]

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
EDM = {"sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5, "rho": 7.0}
PROCESSES = {"sd": SD, "sd_one": SD, "sd_zero": {**SD, "rescale_betas_zero_snr": True}}

CHURN = {"churn": 2.0, "churn_min": 0.1, "churn_max": 10.0, "noise_scale": 1.003}
CHURN_NAMES = {"churn": "s_churn", "churn_min": "s_tmin", "churn_max": "s_tmax", "noise_scale": "s_noise"}

ANY_PREDICTION = ["epsilon", "v_prediction", "sample"]


class Method(NamedTuple):
    """A sampler of ours, and how the reference is configured to be the same."""

    sampler: str
    scheduler: type
    config: dict = {}
    options: dict = {}
    step: dict = {}
    schedules: list = SPACINGS
    # Those that the class offers.
    predictions: list = ANY_PREDICTION
    process: str = "sd"
    formula: Callable | None = None


# ---- samplers that move in timesteps ----


def ddim(options={}, config={}, **rest):
    config = {"clip_sample": False, "set_alpha_to_one": False, **config}
    step = {"eta": options["eta"]} if "eta" in options else {}
    return Method("ddim", diffusers.DDIMScheduler, config, options, step, **rest)


def pndm(sampler, skip_prk_steps):
    # Its velocities are of another method, see the deviations.
    config = {"skip_prk_steps": skip_prk_steps}
    return Method(sampler, diffusers.PNDMScheduler, config, predictions=["epsilon"])


def tcd(gamma):
    options, step = {"gamma": gamma}, {"eta": gamma}
    return Method("tcd", diffusers.TCDScheduler, {"set_alpha_to_one": False}, options, step, schedules=["lcm"])


TO_ONE = {"set_alpha_to_one": True}
CLIP = {"clip_sample": True, "clip_sample_range": 1.0}
THRESHOLD = {"thresholding": True, "dynamic_thresholding_ratio": 0.9, "sample_max_value": 1.5}

DDIM, PLMS = ddim(), pndm("plms", True)
LCM = Method("lcm", diffusers.LCMScheduler, {"set_alpha_to_one": False}, schedules=["lcm"])
PLAIN_TIMESTEP_METHODS = [
    Method("ddpm", diffusers.DDPMScheduler, {"clip_sample": False, "variance_type": "fixed_small"}),
    DDIM,
    ddim({"eta": 0.5}),
    ddim({"eta": 1.0}),
    LCM,
    *(tcd(gamma) for gamma in (0.0, 0.3, 1.0)),
]
TIMESTEP_METHODS = [
    *PLAIN_TIMESTEP_METHODS,
    ddim({"clip": 1.0}, CLIP),
    ddim({"clip": 1.0, "eta": 1.0}, CLIP),
    ddim({"threshold": 0.9, "threshold_max": 1.5}, THRESHOLD),
    ddim({}, TO_ONE, process="sd_one"),
    ddim({"eta": 1.0}, TO_ONE, process="sd_one"),
    PLMS,
    pndm("pndm", False),
]
INVERSE = Method(
    "ddim_inverse",
    diffusers.DDIMInverseScheduler,
    {"clip_sample": False, "set_alpha_to_one": False},
    schedules=["leading", "trailing"],
)


# ---- samplers that move in sigma, on latents of alpha 1 ----


def in_sigma(sampler, scheduler, schedules=EVERY, **rest):
    return Method(sampler, scheduler, schedules=schedules, **rest)


def lms(order):
    options = {"order": order}
    schedules = EVERY if order == 4 else FEW
    return in_sigma("lms", diffusers.LMSDiscreteScheduler, schedules, options=options, step=options)


NOT_SAMPLE = {"predictions": ["epsilon", "v_prediction"]}
EULER = in_sigma("euler", diffusers.EulerDiscreteScheduler)
EULER_ANCESTRAL = in_sigma("euler_ancestral", diffusers.EulerAncestralDiscreteScheduler, SPACINGS, **NOT_SAMPLE)
SIGMA_METHODS = [
    EULER,
    EULER_ANCESTRAL,
    in_sigma("heun", diffusers.HeunDiscreteScheduler),
    in_sigma("dpm2", diffusers.KDPM2DiscreteScheduler, **NOT_SAMPLE),
    in_sigma("dpm2_ancestral", diffusers.KDPM2AncestralDiscreteScheduler, **NOT_SAMPLE),
    *(lms(order) for order in (1, 2, 3, 4)),
]
# k-diffusion's function of the same method.
K_DIFFUSION_NAMES = {
    "euler": "sample_euler",
    "euler_ancestral": "sample_euler_ancestral",
    "heun": "sample_heun",
    "dpm2": "sample_dpm_2",
    "dpm2_ancestral": "sample_dpm_2_ancestral",
    "lms": "sample_lms",
    "dpmpp_2s_ancestral": "sample_dpmpp_2s_ancestral",
    "dpmpp_sde": "sample_dpmpp_sde",
}


# ---- samplers that move in log-SNR, on variance-preserving latents ----


def multistep(sampler, algorithm, order, solver="midpoint", formula=None):
    config = {"algorithm_type": algorithm, "solver_order": order, "solver_type": solver}
    schedules = [*EVERY, "lu"]
    return Method(sampler, diffusers.DPMSolverMultistepScheduler, config, schedules=schedules, formula=formula)


def singlestep(sampler, algorithm, order, formula=None):
    config = {"algorithm_type": algorithm, "solver_order": order, "lower_order_final": True}
    schedules = ["linspace", *SIGMA_SCHEDULES]
    return Method(sampler, diffusers.DPMSolverSinglestepScheduler, config, schedules=schedules, formula=formula)


def unipc(sampler, solver, order, formula=None):
    config, options = {"solver_order": order, "solver_type": solver}, {"order": order}
    schedules = EVERY if order == 2 else FEW
    scheduler = diffusers.UniPCMultistepScheduler
    return Method(sampler, scheduler, config, options, schedules=schedules, formula=formula)


def deis(order):
    config, options = {"solver_order": order}, {"order": order}
    schedules = EVERY if order == 2 else FEW
    formula = partial(formulae.deis, order=order)
    return Method("deis", diffusers.DEISMultistepScheduler, config, options, schedules=schedules, formula=formula)


def sa(predictor, corrector, **tau):
    config = {"predictor_order": predictor, "corrector_order": corrector}
    tau_of = default_tau
    if tau:
        config["tau_func"] = tau_of = lambda timestep: tau["tau"]
    options = {"predictor": predictor, "corrector": corrector, **tau}
    schedules = EVERY if options == {"predictor": 2, "corrector": 2} else FEW
    formula = partial(formulae.sa, predictor=predictor, corrector=corrector, tau=tau_of)
    return Method("sa", diffusers.SASolverScheduler, config, options, schedules=schedules, formula=formula)


def default_tau(timestep):
    return 1 if 200 <= timestep <= 800 else 0


DPMPP_2M = multistep("dpmpp_2m", "dpmsolver++", 2)
LOG_SNR_METHODS = [
    multistep("dpmpp_1", "dpmsolver++", 1),
    DPMPP_2M,
    multistep("dpmpp_2m_heun", "dpmsolver++", 2, "heun"),
    multistep("dpmpp_3m", "dpmsolver++", 3),
    multistep("dpmpp_1_sde", "sde-dpmsolver++", 1),
    multistep("dpmpp_2m_sde", "sde-dpmsolver++", 2),
    multistep("dpmpp_2m_sde_heun", "sde-dpmsolver++", 2, "heun"),
    singlestep("dpmpp_2s", "dpmsolver++", 2),
    singlestep("dpmpp_3s", "dpmsolver++", 3),
    singlestep("dpmpp_2s_sde", "sde-dpmsolver++", 2),
    singlestep("dpmpp_3s_sde", "sde-dpmsolver++", 3),
    *(unipc("unipc", "bh2", order) for order in (1, 2, 3)),
]
# The third order of its class is wrong, see the deviations.
DPMPP_3M_SDE = multistep("dpmpp_3m_sde", "sde-dpmsolver++", 3)

# Those whose class cannot end at sigma 0, or breaks there.
UNFINISHED_METHODS = [
    multistep("dpm_1", "dpmsolver", 1, formula=partial(formulae.dpm_multistep, order=1)),
    multistep("dpm_2m", "dpmsolver", 2, formula=partial(formulae.dpm_multistep, order=2)),
    multistep("dpm_3m", "dpmsolver", 3, formula=partial(formulae.dpm_multistep, order=3)),
    multistep("dpm_1_sde", "sde-dpmsolver", 1, formula=partial(formulae.dpm_multistep_sde, order=1)),
    multistep("dpm_2m_sde", "sde-dpmsolver", 2, formula=partial(formulae.dpm_multistep_sde, order=2)),
    singlestep("dpm_2s", "dpmsolver", 2, formula=partial(formulae.dpm_singlestep, order=2)),
    singlestep("dpm_3s", "dpmsolver", 3, formula=partial(formulae.dpm_singlestep, order=3)),
    *(unipc("unipc_bh1", "bh1", order, partial(formulae.unipc, order=order, scale_of=float)) for order in (1, 2, 3)),
    *(deis(order) for order in (1, 2, 3)),
    sa(2, 2),
    sa(1, 1),
    sa(3, 4),
    sa(2, 2, tau=0.0),
    sa(3, 4, tau=1.0),
]


# ---- samplers of a model that was trained to zero terminal SNR ----


def with_zero_snr(method):
    predictions = [prediction for prediction in method.predictions if prediction != "epsilon"]
    schedules = method.schedules if method.schedules == ["lcm"] else ["trailing"]
    return method._replace(process="sd_zero", predictions=predictions, schedules=schedules)


ZERO_SNR_METHODS = [
    with_zero_snr(method)
    for method in [*PLAIN_TIMESTEP_METHODS, EULER, EULER_ANCESTRAL, *LOG_SNR_METHODS]
    if method.scheduler is not diffusers.DPMSolverSinglestepScheduler
]
