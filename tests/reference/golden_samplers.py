"""Final latents of every sampler with an exact denoiser, from diffusers, k-diffusion and formulae.

    python tests/reference/golden_samplers.py

Schedulers run with their own tables, in float64: a table is float32 when it is made, and what is computed from it is not.
Also needs k-diffusion==0.1.1.post1, torchsde==0.2.6 and torchdiffeq==0.2.5; of k-diffusion, only its samplers are imported.
"""

import importlib
import importlib.util
import inspect
import math
import sys
import warnings
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import diffusers
import numpy as np
import scipy.stats
import torch
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

import sampler_formulae as formulae
from compact_json import write_json
from mixture import Level, denoise, predict
from sampler_cases import *  # noqa: F403

GOLDEN = Path(__file__).resolve().parents[2] / "tests/golden"
SHAPE = [1, 2, 2, 2]
# Two predictions of one network differ by rounding only.
TOLERANCE = 2e-5


class Run(NamedTuple):
    """What a sampler did."""

    timesteps: list
    ratios: list
    initial_scale: float
    latent: np.ndarray


def seeded(seed):
    """The initial noise, and a function that goes on drawing from the same generator."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(SHAPE, generator=generator).double(), generator


# ---- diffusers ----


def run_scheduler(scheduler, prediction, seed, step={}, initial=None):
    """Runs a scheduler whose timesteps are set as a pipeline would."""
    noise, generator = seeded(seed)
    scale = float(getattr(scheduler, "init_noise_sigma", 1.0))
    x = noise * scale if initial is None else torch.tensor(initial).double().reshape(SHAPE)
    ratios = visited_ratios(scheduler)
    begin(scheduler)
    if "generator" in inspect.signature(scheduler.step).parameters:
        step = {**step, "generator": generator}
    for timestep in scheduler.timesteps:
        level = LEVELS[type(scheduler)](scheduler, timestep)
        check_scaling(scheduler, x, timestep, level)
        output = torch.from_numpy(predict(prediction, x.numpy(), level))
        x = scheduler.step(output, timestep, x, **step).prev_sample
    return Run([float(t) for t in scheduler.timesteps], ratios, scale, x.numpy().ravel())


def begin(scheduler):
    """Casts the tables, and starts at the first entry even where the timetable repeats it."""
    for name, value in vars(scheduler).items():
        if name != "timesteps" and isinstance(value, torch.Tensor) and value.dtype == torch.float32:
            setattr(scheduler, name, value.double())
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)


def check_scaling(scheduler, x, timestep, level):
    """The network must see the level that its output is computed at."""
    # Flow matching scales nothing.
    scaled = scheduler.scale_model_input(x, timestep) if hasattr(scheduler, "scale_model_input") else x
    if scaled is not x:
        norm = np.hypot(level.sigma, getattr(scheduler.config, "sigma_data", level.alpha))
        np.testing.assert_allclose(scaled, x / norm, rtol=1e-6)


def at_timestep(scheduler, timestep):
    alpha_cumprod = float(scheduler.alphas_cumprod[timestep])
    return Level(float(timestep), math.sqrt(alpha_cumprod), math.sqrt(1 - alpha_cumprod))


def before_timestep(scheduler, timestep):
    """DDIM inversion tells the network the noisier timestep, which it steps to."""
    source = int(timestep) - scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    alpha_cumprod = float(scheduler.alphas_cumprod[source] if source >= 0 else scheduler.initial_alpha_cumprod)
    return Level(float(timestep), math.sqrt(alpha_cumprod), math.sqrt(1 - alpha_cumprod))


def at_sigma(scheduler, timestep):
    return Level(float(timestep), 1.0, float(scheduler.sigmas[scheduler.step_index or 0]))


def at_midpoint(offset):
    def level(scheduler, timestep):
        if scheduler.state_in_first_order:
            return at_sigma(scheduler, timestep)
        return Level(float(timestep), 1.0, float(scheduler.sigmas_interpol[scheduler.step_index + offset]))

    return level


def at_ratio(scheduler, timestep):
    return level_of_ratio(float(timestep), float(scheduler.sigmas[scheduler.step_index or 0]))


def at_flow(scheduler, timestep):
    sigma = float(scheduler.sigmas[scheduler.step_index or 0])
    return Level(float(timestep), 1 - sigma, sigma)


def level_of_ratio(timestep, ratio):
    norm = math.hypot(ratio, 1)
    return Level(timestep, 1 / norm, ratio / norm)


LEVELS = {
    diffusers.DDPMScheduler: at_timestep,
    diffusers.DDIMScheduler: at_timestep,
    diffusers.DDIMInverseScheduler: before_timestep,
    diffusers.PNDMScheduler: at_timestep,
    diffusers.LCMScheduler: at_timestep,
    diffusers.TCDScheduler: at_timestep,
    diffusers.EulerDiscreteScheduler: at_sigma,
    diffusers.EulerAncestralDiscreteScheduler: at_sigma,
    diffusers.HeunDiscreteScheduler: at_sigma,
    diffusers.LMSDiscreteScheduler: at_sigma,
    diffusers.KDPM2DiscreteScheduler: at_midpoint(0),
    diffusers.KDPM2AncestralDiscreteScheduler: at_midpoint(-1),
    diffusers.DPMSolverMultistepScheduler: at_ratio,
    diffusers.DPMSolverSinglestepScheduler: at_ratio,
    diffusers.DEISMultistepScheduler: at_ratio,
    diffusers.UniPCMultistepScheduler: at_ratio,
    diffusers.SASolverScheduler: at_ratio,
    diffusers.EDMEulerScheduler: at_sigma,
    diffusers.EDMDPMSolverMultistepScheduler: at_sigma,
    diffusers.CMStochasticIterativeScheduler: at_sigma,
    diffusers.FlowMatchEulerDiscreteScheduler: at_flow,
    diffusers.FlowMatchHeunDiscreteScheduler: at_flow,
}
# What x is multiplied by: "ve" alpha 1, "flow" alpha 1 - sigma, any other "vp" alpha^2 + sigma^2 = 1.
SCALES = {at_sigma: "ve", LEVELS[diffusers.KDPM2DiscreteScheduler]: "ve", at_flow: "flow"}
SCALES[LEVELS[diffusers.KDPM2AncestralDiscreteScheduler]] = "ve"
TWICE = (
    diffusers.HeunDiscreteScheduler,
    diffusers.KDPM2DiscreteScheduler,
    diffusers.KDPM2AncestralDiscreteScheduler,
    diffusers.FlowMatchHeunDiscreteScheduler,
)


def visited_ratios(scheduler):
    """The ratios sigma/alpha of the n + 1 levels that steps go between."""
    if isinstance(scheduler, TWICE):
        return [float(s) for s in [scheduler.sigmas[0], *scheduler.sigmas[1::2]][: scheduler.num_inference_steps + 1]]
    if LEVELS[type(scheduler)] in (at_timestep, before_timestep):
        return [level.ratio for level in timestep_levels(scheduler)]
    return [float(s) for s in scheduler.sigmas]


def timestep_levels(scheduler):
    """The levels of a timetable and the one that it ends at. Of PNDM's, each timestep once."""
    table = getattr(scheduler, "_timesteps", None)
    timesteps = scheduler.timesteps if table is None else torch.from_numpy(np.array(table[::-1], dtype=np.int64))
    levels = [LEVELS[type(scheduler)](scheduler, t) for t in timesteps]
    return [*levels, last_level(scheduler, timesteps[-1])]


def last_level(scheduler, timestep):
    match type(scheduler):
        case diffusers.DDPMScheduler:
            return Level(0.0, 1.0, 0.0)
        case diffusers.TCDScheduler:
            return at_timestep(scheduler, 0)
        case diffusers.LCMScheduler:
            return Level(0.0, 1.0, 0.0)
        case diffusers.DDIMInverseScheduler:
            return at_timestep(scheduler, timestep)
    alpha_cumprod = float(scheduler.final_alpha_cumprod)
    return Level(0.0, math.sqrt(alpha_cumprod), math.sqrt(1 - alpha_cumprod))


def make(method, schedule, steps, prediction="epsilon", **config):
    known = {**PROCESSES[method.process], **schedule_config(schedule), "prediction_type": prediction}
    config = accepted(method.scheduler, {**known, **method.config, **config})
    scheduler = method.scheduler(**config)
    set_timesteps(scheduler, schedule, steps)
    return scheduler


PROCESSES = {"sd": SD, "sd_one": SD, "sd_zero": ZERO_SNR, "edm": EDM}


def schedule_config(schedule):
    if schedule in SPACINGS:
        return {"timestep_spacing": schedule}
    if schedule == "lu":
        return {"timestep_spacing": "linspace", "use_lu_lambdas": True}
    return {"timestep_spacing": "linspace", f"use_{schedule}_sigmas": True}


def accepted(scheduler, config):
    """The part of a configuration that a class knows; what it must know for its schedule is checked by its levels."""
    known = inspect.signature(scheduler.__init__).parameters
    return {key: value for key, value in config.items() if key in known}


def set_timesteps(scheduler, schedule, steps):
    if schedule == "timesteps":
        scheduler.set_timesteps(timesteps=TIMESTEPS)
    elif schedule == "sigmas":
        scheduler.set_timesteps(sigmas=SIGMAS)
    else:
        scheduler.set_timesteps(steps)


def scheduler_cases(method, schedule, steps):
    """A case for the predictions that agree, and others for those that do not."""
    if is_broken(method, schedule, steps):
        return [mended_case(method, schedule, steps)]
    groups = []
    for prediction in method.predictions:
        run = run_scheduler(make(method, schedule, steps, prediction), prediction, steps, method.step)
        for run_of_group, predictions in groups:
            if agree(run_of_group.latent, run.latent):
                predictions.append(prediction)
                break
        else:
            groups.append((run, [prediction]))
    check_formula(method, schedule, steps, groups[0][0])
    if len(groups) > 1:
        print(method.sampler, schedule, steps, [predictions for _, predictions in groups])
    name = method.scheduler.__name__
    return [case(method, schedule, steps, run, name, predictions) for run, predictions in groups]


def agree(one, other):
    return np.abs(one - other).max() <= TOLERANCE * np.abs(one).max()


def case(method, schedule, steps, run, reference, predictions, options=None):
    options = method.options if options is None else options
    scale = SCALES.get(LEVELS[method.scheduler], "vp")
    return entry(method.sampler, method.process, schedule, steps, options, run, reference, predictions, scale)


def entry(sampler, process, schedule, steps, options, run, reference, predictions, scale):
    assert np.isfinite(run.latent).all(), (sampler, process, schedule, steps, options)
    return {
        "sampler": sampler,
        "process": process,
        "schedule": schedule,
        "steps": steps,
        "options": options,
        "predictions": predictions,
        "reference": reference,
        "seed": steps,
        "scale": scale,
        "initial_scale": short(run.initial_scale),
        "timesteps": [short(t) for t in run.timesteps],
        "sigmas": [short(ratio) for ratio in run.ratios],
        "latent": [short(value) for value in run.latent],
    }


def short(value):
    """Eight digits; null for the infinite ratio of a level without signal."""
    if math.isinf(value):
        return None
    rounded = float(f"{value:.8g}")
    return int(rounded) if rounded.is_integer() else rounded


# ---- formulae ----


def run_formula(formula, levels, seed, scale=1.0, final=None):
    """Runs a formula; the levels may be told to end somewhere else."""
    noise, generator = seeded(seed)
    told = []

    def model(x, level):
        told.append(level.timestep)
        return denoise(x, level)

    def draw():
        return torch.randn(SHAPE, generator=generator).double().numpy()

    latent = formula(model, noise.numpy() * scale, levels, draw)
    return Run(told, [level.ratio for level in levels], scale, latent.ravel())


CLEAN = Level(0.0, 1.0, 0.0)


def ratio_levels(scheduler):
    levels = [level_of_ratio(float(t), float(s)) for t, s in zip(scheduler.timesteps, scheduler.sigmas)]
    return [*levels, level_of_ratio(0.0, float(scheduler.sigmas[-1]))]


def unfinished_cases(method, schedule, steps):
    """The formula's case, ending at sigma 0, and for some schedules the class's, ending at its own last sigma."""
    config = {"final_sigmas_type": "sigma_min"}
    levels = ratio_levels(make(method, schedule, steps, **config))
    own_end = run_formula(method.formula, levels, steps)
    for prediction in THREE:
        run = run_scheduler(make(method, schedule, steps, prediction, **config), prediction, steps, method.step)
        broken = levels[-1].ratio == levels[-2].ratio and np.isnan(run.latent).all()
        assert broken or agree(own_end.latent, run.latent), (method.sampler, schedule, steps, prediction)
    cases = [case(method, schedule, steps, run_formula(method.formula, [*levels[:-1], CLEAN], steps), "formula", THREE)]
    if schedule == "linspace":
        options = {**method.options, "final": "sigma_min"}
        cases.append(case(method, schedule, steps, run, method.scheduler.__name__, THREE, options))
    return cases


# ---- where diffusers breaks, or steps elsewhere than its table says ----


def is_broken(method, schedule, steps):
    if method in SIGMA_METHODS:
        # np.linspace(0, 999, 1) is 0: the latent of the noisiest level would be taken for one of the cleanest.
        return steps == 1 and schedule not in ("leading", "trailing")
    match method.sampler:
        case "ddpm":
            return schedule == "linspace" and steps == 1
        case "ddim" | "plms":
            return schedule == "linspace"
        case "pndm":
            return schedule == "linspace" or steps < 4
    return False


def mended_case(method, schedule, steps):
    if method in SIGMA_METHODS:
        levels, scale = sigma_levels(schedule, steps)
        run = run_formula(formulae.euler, levels, steps, scale)
    else:
        run = run_formula(timestep_formula(method), table_levels(method, schedule, steps), steps)
    return case(method, schedule, steps, run, "formula", THREE)


def check_formula(method, schedule, steps, run):
    """Holds a formula that mends a class against it where it works."""
    formula = timestep_formula(method)
    if formula:
        mended = run_formula(formula, table_levels(method, schedule, steps), steps)
        assert agree(run.latent, mended.latent) and run.timesteps == mended.timesteps, (method, schedule, steps)


def timestep_formula(method):
    match method.sampler:
        case "ddpm":
            return partial(formulae.ddim, eta=1.0)
        case "ddim":
            return partial(formulae.ddim, eta=method.options.get("eta", 0.0), clean=limit(method.options))
        case "plms":
            return formulae.plms
        case "pndm":
            return partial(formulae.pndm, between=halfway)


def limit(options):
    """What DDIM does to its estimate of the clean latent: nothing, clipping, or dynamic thresholding
    (Saharia et al. 2022, arXiv:2205.11487, section 2.3)."""

    def threshold(clean):
        bound = np.clip(np.quantile(np.abs(clean), options["threshold"]), 1, options["threshold_max"])
        return np.clip(clean, -bound, bound) / bound

    if "threshold" in options:
        return threshold
    if "clip" in options:
        return lambda clean: np.clip(clean, -options["clip"], options["clip"])
    return lambda clean: clean


def halfway(start, end):
    timestep = int(end.timestep) + (int(start.timestep) - int(end.timestep)) // 2
    return at_timestep(diffusers.DDIMScheduler(**SD), timestep)


def table_levels(method, schedule, steps):
    """As the timetable says; with linspace, one step is from the noisy end."""
    if method.sampler == "pndm":
        # Its Runge-Kutta table needs four steps; the table behind it does not.
        method = method._replace(config={"skip_prk_steps": True})
    scheduler = make(method, schedule, steps)
    levels = timestep_levels(scheduler)
    return [at_timestep(scheduler, 999), levels[-1]] if schedule == "linspace" and steps == 1 else levels


def sigma_levels(schedule, steps):
    """Euler's levels with alpha 1, and the scale of the initial noise."""
    scheduler = make(EULER, schedule, max(steps, 2) if schedule not in ("leading", "trailing") else steps)
    levels = [Level(float(t), 1.0, float(s)) for t, s in zip(scheduler.timesteps, scheduler.sigmas)][:steps]
    return [*levels, CLEAN], float(scheduler.init_noise_sigma)


EULER = SIGMA_METHODS[0]


# ---- k-diffusion ----


def load_k_diffusion():
    """k-diffusion's samplers alone: its package imports libraries for training."""
    package, utils = ModuleType("k_diffusion"), ModuleType("k_diffusion.utils")
    package.__path__ = importlib.util.find_spec("k_diffusion").submodule_search_locations
    package.utils, utils.append_dims = utils, lambda value, dims: value[(...,) + (None,) * (dims - value.ndim)]
    sys.modules |= {"k_diffusion": package, "k_diffusion.utils": utils}
    return importlib.import_module("k_diffusion.sampling")


K_DIFFUSION = load_k_diffusion()


def run_k_diffusion(name, levels, seed, scale, **options):
    """Runs a sampler on levels of alpha 1. All noise is from torch's global generator: churn draws from nowhere else."""
    sample = getattr(K_DIFFUSION, name)
    known, told = {level.sigma: level.timestep for level in levels}, []

    def model(x, sigma):
        sigma = float(sigma)
        told.append(known[sigma] if sigma in known else timestep_of(sigma))
        return torch.from_numpy(denoise(x.numpy(), Level(told[-1], 1.0, sigma)))

    torch.manual_seed(seed)
    x = torch.randn(SHAPE).double() * scale
    if "noise_sampler" in inspect.signature(sample).parameters:
        options["noise_sampler"] = lambda sigma, sigma_next: torch.randn(SHAPE).double()
    sigmas = torch.tensor([level.sigma for level in levels], dtype=torch.float64)
    x = sample(model, x, sigmas, disable=True, **options)
    return Run(told, [level.sigma for level in levels], scale, x.numpy().ravel())


def timestep_of(sigma):
    """Where log sigma lies between those of the training timesteps."""
    return float(np.interp(math.log(sigma), np.log(sd_sigmas()), np.arange(1000)))


@cache
def sd_sigmas():
    alphas_cumprod = diffusers.DDIMScheduler(**SD).alphas_cumprod
    return np.array(((1 - alphas_cumprod) / alphas_cumprod) ** 0.5).astype(np.float64)


def level_of_sigma(sigma):
    return Level(timestep_of(sigma), 1.0, sigma)


def churned_cases(schedule, steps):
    levels, scale = sigma_levels(schedule, steps)
    churn = {"s_churn": CHURN["churn"], "s_tmin": CHURN["churn_min"], "s_tmax": CHURN["churn_max"], "s_noise": CHURN["noise_scale"]}
    for sampler, name in [("euler", "sample_euler"), ("heun", "sample_heun"), ("dpm2", "sample_dpm_2")]:
        run = run_k_diffusion(name, levels, steps, scale, **churn)
        yield entry(sampler, "sd", schedule, steps, CHURN, run, f"k_diffusion.{name}", THREE, "ve")


def ancestral_cases(schedule, steps):
    levels, scale = sigma_levels(schedule, steps)
    names = [("dpmpp_2s_ancestral", "sample_dpmpp_2s_ancestral"), ("dpmpp_sde", "sample_dpmpp_sde")]
    for sampler, name in [("euler_ancestral", "sample_euler_ancestral"), *names]:
        for eta in (1.0, 0.5):
            if eta != 1.0 and schedule not in FEW:
                continue
            if sampler == "euler_ancestral" and eta == 1.0 and (schedule in SPACINGS or steps == 1):
                continue
            run = run_k_diffusion(name, levels, steps, scale, eta=eta)
            options = {} if eta == 1.0 else {"eta": eta}
            yield entry(sampler, "sd", schedule, steps, options, run, f"k_diffusion.{name}", THREE, "ve")


def sde_cases(schedule, steps):
    """On the levels of DPM-Solver, where the initial noise has unit variance."""
    levels = ratio_levels(make(DPM, schedule, steps))
    scaled = [Level(level.timestep, 1.0, level.ratio) for level in levels]
    runs = [
        ("dpmpp_2m_sde", "sample_dpmpp_2m_sde", {"eta": 0.5}, {"solver_type": "midpoint"}),
        ("dpmpp_2m_sde_heun", "sample_dpmpp_2m_sde", {"eta": 0.5}, {"solver_type": "heun"}),
        ("dpmpp_3m_sde", "sample_dpmpp_3m_sde", {"eta": 0.5}, {}),
        ("dpmpp_3m_sde", "sample_dpmpp_3m_sde", {}, {}),
    ]
    for sampler, name, options, rest in runs:
        if options and schedule not in FEW:
            continue
        reference = f"k_diffusion.{name}"
        if steps == 1:
            # The reference raises where the first step is the last.
            run, reference = run_formula(formulae.euler, levels, steps), "formula"
        else:
            run = run_k_diffusion(name, scaled, steps, math.hypot(1, scaled[0].sigma), **options, **rest)._replace(initial_scale=1.0)
        yield entry(sampler, "sd", schedule, steps, options, run, reference, THREE, "vp")


DPM = LOG_SNR_METHODS[0]


def formula_cases(schedule, steps):
    """Runge-Kutta and iPNDM on Euler's levels."""
    levels, scale = sigma_levels(schedule, steps)
    for order in (2, 3, 4):
        formula = partial(formulae.runge_kutta, order=order, at=level_of_sigma)
        run = run_formula(formula, levels, steps, scale)
        yield entry(f"rk{order}", "sd", schedule, steps, {}, run, "formula", THREE, "ve")
    for order in (1, 2, 3, 4) if schedule in FEW else (4,):
        run = run_formula(partial(formulae.ipndm, order=order), levels, steps, scale)
        yield entry("ipndm", "sd", schedule, steps, {"order": order}, run, "formula", THREE, "ve")


# ---- other processes ----


def zero_snr_cases(steps):
    for method in ZERO_SNR_METHODS:
        predictions = [p for p in method.predictions if p != "epsilon"]
        schedules = sorted({"trailing", "lcm"} & set(method.schedules))[:1]
        method = method._replace(process="sd_zero", predictions=predictions, schedules=schedules)
        for schedule in schedules:
            yield from scheduler_cases(method, schedule, steps)


# A clean latent, to invert.
CLEAN_LATENT = [-1.35, 0.62, 1.44, -0.87, 0.11, 1.73, -1.02, 0.48]


def inverse_cases(schedule, steps):
    for_each = []
    for prediction in THREE:
        for_each.append(run_scheduler(make(INVERSE, schedule, steps, prediction), prediction, steps, initial=CLEAN_LATENT))
    assert all(agree(for_each[0].latent, run.latent) for run in for_each)
    name = INVERSE.scheduler.__name__
    yield case(INVERSE, schedule, steps, for_each[0], name, THREE) | {"initial": CLEAN_LATENT}


def edm_cases(schedule, steps):
    yield from edm_scheduler_cases("euler", diffusers.EDMEulerScheduler, {}, schedule, steps)
    solver = diffusers.EDMDPMSolverMultistepScheduler
    yield from edm_scheduler_cases("dpmpp_2m", solver, {"solver_order": 2}, schedule, steps)
    yield from edm_scheduler_cases("dpmpp_3m", solver, {"solver_order": 3}, schedule, steps)
    sde = {"solver_order": 2, "algorithm_type": "sde-dpmsolver++"}
    yield from edm_scheduler_cases("dpmpp_2m_sde", solver, sde, schedule, steps)
    levels, scale = edm_levels(schedule, steps)
    run = run_k_diffusion("sample_heun", levels, steps, scale)
    yield entry("heun", "edm", schedule, steps, {}, run, "k_diffusion.sample_heun", ["edm"], "ve")


def edm_scheduler_cases(sampler, scheduler_class, config, schedule, steps):
    if schedule == "exponential" and steps == 1:
        # torch.linspace(log sigma_min, log sigma_max, 1) is sigma_min.
        levels, scale = edm_levels(schedule, steps)
        run = run_formula(formulae.euler, levels, steps, scale)
        yield entry(sampler, "edm", schedule, steps, {}, run, "formula", ["edm"], "ve")
        return
    runs = []
    for sign, prediction in [(1, "epsilon"), (-1, "v_prediction")]:
        scheduler = scheduler_class(**EDM, **config, sigma_schedule=schedule, prediction_type=prediction)
        scheduler.set_timesteps(steps)
        runs.append(run_scheduler(scheduler, "edm" if sign > 0 else "negative_edm", steps))
    assert agree(*[run.latent for run in runs])
    yield entry(sampler, "edm", schedule, steps, {}, runs[0], scheduler_class.__name__, ["edm"], "ve")


def edm_levels(schedule, steps):
    scheduler = diffusers.EDMEulerScheduler(**EDM, sigma_schedule=schedule)
    scheduler.set_timesteps(max(steps, 2))
    levels = [Level(float(t), 1.0, float(s)) for t, s in zip(scheduler.timesteps, scheduler.sigmas)][:steps]
    return [*levels, CLEAN], float(scheduler.init_noise_sigma)


def consistency_cases(steps):
    for options, clips in [({}, False), ({"clip": 1.0}, True)]:
        scheduler = diffusers.CMStochasticIterativeScheduler(**EDM, clip_denoised=clips)
        scheduler.set_timesteps(steps)
        run = run_scheduler(scheduler, "consistency", steps)
        name = type(scheduler).__name__
        yield entry("consistency", "edm", "consistency", steps, options, run, name, ["consistency"], "ve")


def flow_cases(process, schedule, steps):
    scheduler = flow_scheduler(diffusers.FlowMatchEulerDiscreteScheduler, process, schedule, steps)
    levels = [*(Level(float(t), 1 - float(s), float(s)) for t, s in zip(scheduler.timesteps, scheduler.sigmas)), CLEAN]
    euler = run_scheduler(scheduler, "flow", steps)
    yield entry("euler", process, schedule, steps, {}, euler, type(scheduler).__name__, ["flow"], "flow")
    heun, reference = run_formula(formulae.flow_heun, levels, steps), "formula"
    if process == "flow3" and schedule == "linspace":
        scheduler = flow_scheduler(diffusers.FlowMatchHeunDiscreteScheduler, process, schedule, steps)
        theirs = run_scheduler(scheduler, "flow", steps)
        assert agree(theirs.latent, heun.latent)
        heun, reference = theirs, type(scheduler).__name__
    yield entry("heun", process, schedule, steps, {}, heun, reference, ["flow"], "flow")


def flow_scheduler(scheduler_class, process, schedule, steps):
    config, rest = {"shift": 3.0}, {}
    if process == "flow_dynamic":
        config, rest = {"use_dynamic_shifting": True, "time_shift_type": "exponential"}, {"mu": calculate_shift(1024)}
    if schedule == "trailing":
        rest["sigmas"] = np.linspace(1.0, 1 / steps, steps)
    scheduler = scheduler_class(**config)
    scheduler.set_timesteps(steps, **rest)
    return scheduler


def custom_cases():
    """Timetables and sigmas that the user gives."""
    lcm = next(method for method in TIMESTEP_METHODS if method.sampler == "lcm")
    for method in [EULER, DPM, lcm, next(method for method in LOG_SNR_METHODS if method.sampler == "dpmpp_2m")]:
        yield from scheduler_cases(method, "timesteps", len(TIMESTEPS))
    yield from scheduler_cases(EULER, "sigmas", len(SIGMAS) - 1)
    ddim = next(method for method in TIMESTEP_METHODS if method.sampler == "ddim")
    scheduler = make(ddim, "leading", len(TIMESTEPS))
    levels = [*(at_timestep(scheduler, t) for t in TIMESTEPS), last_level(scheduler, 0)]
    run = run_formula(formulae.ddim, levels, len(TIMESTEPS))
    yield case(ddim, "timesteps", len(TIMESTEPS), run, "formula", THREE)


# ---- schedules without a sampler ----


def schedules():
    for steps in STEP_COUNTS:
        for name, options, sigmas in schedules_of(steps):
            assert len(sigmas) == steps and np.all(np.diff(sigmas) < 0), (name, steps)
            yield {"name": name, "steps": steps, "options": options, "sigmas": [short(float(s)) for s in [*sigmas, 0.0]]}


def schedules_of(steps):
    table = sd_sigmas()
    low, high = table[0], table[-1]
    yield "karras", {}, K_DIFFUSION.get_sigmas_karras(steps, low, high)[:-1].numpy()
    yield "exponential", {}, K_DIFFUSION.get_sigmas_exponential(steps, low, high)[:-1].numpy()
    for rho in (1.0, 2.0):
        sigmas = K_DIFFUSION.get_sigmas_polyexponential(steps, low, high, rho)
        yield "polyexponential", {"rho": rho}, sigmas[:-1].numpy()
    yield "beta", {"alpha": 0.6, "beta": 0.6}, [level.sigma for level in sigma_levels("beta", steps)[0][:-1]]
    ramp = np.linspace(0, 1, steps)
    # Sabour et al. 2024, arXiv:2404.14507, eq. 10.
    yield "kl_optimal", {}, np.tan(ramp * np.arctan(low) + (1 - ramp) * np.arctan(high))
    yield "ays_sd1", {}, align_your_steps("StableDiffusionSigmas", steps)
    yield "ays_sdxl", {}, align_your_steps("StableDiffusionXLSigmas", steps)
    yield "lu", {}, make(DPM, "lu", steps).sigmas[:-1].numpy()
    # As ComfyUI defines them.
    yield "simple", {}, [table[-(1 + int(step * len(table) / steps))] for step in range(steps)]
    uniform = np.linspace(len(table) - 1, 0, steps + 1)[:-1]
    yield "sgm_uniform", {}, np.exp(np.interp(uniform, np.arange(len(table)), np.log(table)))


def align_your_steps(name, steps):
    """Sabour et al. 2024, interpolated in log sigma as its authors do; the last of their n + 1 values becomes 0."""
    published = [*diffusers.schedulers.AysSchedules[name][:-1], 0.029]
    places = np.linspace(0, 1, steps + 1)
    return np.exp(np.interp(places, np.linspace(0, 1, len(published)), np.log(published)))[:-1]


def sigmoid_alphas():
    indexes = [0, 1, 2, 10, 99, 250, 499, 500, 750, 900, 998, 999]
    for start, end in [(0.00085, 0.012), (0.0001, 0.02)]:
        betas = {"beta_schedule": "sigmoid", "beta_start": start, "beta_end": end}
        values = diffusers.DDPMScheduler(**betas).alphas_cumprod[indexes]
        yield betas | {"indexes": indexes, "values": [short(float(value)) for value in values]}


# ---- numbers of the reference that are not ours ----


def deviations(schedule, steps):
    """As the reference returns them, each with the reason why ours are others."""
    if schedule in ("leading", "trailing"):
        for method in TIMESTEP_METHODS:
            if method.sampler == "plms" or method.sampler == "pndm" and steps >= 4:
                run = run_scheduler(make(method, schedule, steps, "v_prediction"), "v_prediction", steps)
                why = "velocities of different timesteps are combined, then turned into noise at the last one"
                yield case(method, schedule, steps, run, "PNDMScheduler", ["v_prediction"]) | {"why": why}
    if schedule in ("linspace", "karras"):
        method = dpm("dpmpp_3m_sde", "sde-dpmsolver++", 3)
        run = run_scheduler(make(method, schedule, steps), "epsilon", steps)
        why = "the third-order term subtracts 1/2 where it should add it; second-order steps are of the midpoint form"
        yield case(method, schedule, steps, run, "DPMSolverMultistepScheduler", THREE) | {"why": why}
        if schedule == "karras" or steps > 1:
            churn = {"s_churn": CHURN["churn"], "s_tmin": CHURN["churn_min"], "s_tmax": CHURN["churn_max"], "s_noise": CHURN["noise_scale"]}
            run = run_scheduler(make(EULER, schedule, steps), "epsilon", steps, churn)
            why = "noise is drawn only for steps that add it"
            yield case(EULER, schedule, steps, run, "EulerDiscreteScheduler", ["epsilon"], CHURN) | {"why": why}


def main():
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    diffusers.utils.logging.set_verbosity_error()
    fields = {
        "cases": list(all_cases()),
        "deviations": [found for schedule in EVERY for steps in STEP_COUNTS for found in deviations(schedule, steps)],
        "schedules": list(schedules()),
        "alphas_cumprod": list(sigmoid_alphas()),
    }
    write_json(GOLDEN / "samplers.json", fields)


def all_cases():
    for method in [*TIMESTEP_METHODS, *SIGMA_METHODS, *LOG_SNR_METHODS]:
        yield from each(method.schedules, partial(scheduler_cases, method))
    for method in UNFINISHED_METHODS:
        yield from each(method.schedules, partial(unfinished_cases, method))
    for cases in (churned_cases, ancestral_cases, formula_cases):
        yield from each(EVERY, cases)
    yield from each([*EVERY, "lu"], sde_cases)
    yield from each(INVERSE.schedules, inverse_cases)
    yield from each(["karras", "exponential"], edm_cases)
    for process in ("flow3", "flow_dynamic"):
        yield from each(["linspace", "trailing"], partial(flow_cases, process))
    for steps in STEP_COUNTS:
        yield from consistency_cases(steps)
        yield from zero_snr_cases(steps)
    yield from custom_cases()


def each(schedules, cases):
    for schedule in schedules:
        for steps in STEP_COUNTS:
            yield from cases(schedule, steps)


if __name__ == "__main__":
    main()
