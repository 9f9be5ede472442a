"""Final latents of every sampler with an exact denoiser, from diffusers, k-diffusion and formulae.

Of k-diffusion only its samplers are imported (README.md says how to install it). Writes tests/golden/samplers.json:

- `cases`: what ours must return. `sigmas` are the ratios sigma/alpha of the n + 1 levels that steps go between (the
  sigma itself in flow matching; null where alpha is 0), `timesteps` what the network is told at each evaluation.
  `scale` is the form of x that `initial_scale` and `latent` are in: "vp" alpha^2 + sigma^2 = 1, "ve" alpha = 1,
  "flow" alpha = 1 - sigma. The initial latent is `initial`, or `initial_scale` times torch.randn of the seed;
  further noise is drawn from the same generator. With the option `final` the run ends where the class does, at the
  sigma of timestep 0.
- `deviations`: numbers of the reference that ours must not meet, each with the reason why.
- `schedules`: sigmas without a sampler. `alphas_cumprod`: tables of sigmoid betas.

Schedulers run in float64 on their own tables: a table is float32 when it is made, what is computed from it is not.
Their own float32 moves a latent by less than 2e-5 of its largest element, of SA-Solver's third order by 4e-5.
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
import torch
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

import sampler_cases as known
import sampler_formulae as formulae
from compact_json import write_json
from mixture import Level, denoise, predict
from sampler_cases import ANY_PREDICTION, EVERY, FEW, SPACINGS, STEP_COUNTS

SHAPE = [1, 2, 2, 2]
# Two ways to compute one latent differ by rounding only, relative to its largest element.
TOLERANCE = 2e-5
CLEAN = Level(0.0, 1.0, 0.0)
# A latent without noise, to invert.
CLEAN_LATENT = [-1.35, 0.62, 1.44, -0.87, 0.11, 1.73, -1.02, 0.48]
IMAGE_TOKENS = 1024


def write_samplers(golden: Path):
    warnings.simplefilter("ignore")
    diffusers.utils.logging.set_verbosity_error()
    cases = list(all_cases())
    fields = {
        "cases": cases,
        "deviations": [other for other in all_deviations() if deviates(other, cases)],
        "schedules": list(schedules()),
        "alphas_cumprod": list(sigmoid_alphas()),
    }
    write_json(golden / "samplers.json", fields)


def all_cases():
    for method in [*known.TIMESTEP_METHODS, *known.SIGMA_METHODS, *known.LOG_SNR_METHODS]:
        yield from each(method.schedules, partial(scheduler_cases, method))
    for method in known.UNFINISHED_METHODS:
        yield from each(method.schedules, partial(unfinished_cases, method))
    for cases in (churned_cases, ancestral_cases, runge_kutta_cases, ipndm_cases):
        yield from each(EVERY, cases)
    yield from each([*EVERY, "lu"], sde_cases)
    yield from each(known.INVERSE.schedules, inverse_cases)
    yield from each(["karras", "exponential"], edm_cases)
    for process in ("flow3", "flow_dynamic"):
        yield from each(["linspace", "trailing"], partial(flow_cases, process))
    yield from each(["consistency"], consistency_cases)
    for method in known.ZERO_SNR_METHODS:
        yield from each(method.schedules, partial(scheduler_cases, method))
    yield from adaptive_cases()
    yield from custom_cases()


def all_deviations():
    yield from each(["leading", "trailing"], velocity_deviations)
    yield from each(FEW, third_order_deviations)
    yield from each(FEW, churn_deviations)


def deviates(other, cases):
    """Few steps may not reach what the reference does otherwise."""
    names = ("sampler", "process", "schedule", "steps", "options")
    (ours,) = [case["latent"] for case in cases if all(case[name] == other[name] for name in names)]
    return np.abs(np.subtract(ours, other["latent"])).max() > 1e-3


def each(schedules, cases):
    for schedule in schedules:
        for steps in STEP_COUNTS:
            yield from cases(schedule, steps)


# ---- runs ----


class Run(NamedTuple):
    """What a sampler did."""

    timesteps: list
    ratios: list
    initial_scale: float
    latent: np.ndarray


def seeded(seed):
    """The initial noise, and the generator that further noise is drawn from.

    Fewer than 16 numbers are drawn in float64 and rounded, so the stream is the same for either type.
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(SHAPE, generator=generator).double(), generator


def run_formula(formula, levels, seed, scale=1.0):
    noise, generator = seeded(seed)
    told = []

    def model(x, level):
        told.append(level.timestep)
        return denoise(x, level)

    def draw():
        return torch.randn(SHAPE, generator=generator).double().numpy()

    latent = formula(model, noise.numpy() * scale, levels, draw)
    return Run(told, [level.ratio for level in levels], scale, latent.ravel())


def run_scheduler(scheduler, prediction, seed, step={}, initial=None):
    """Runs a scheduler whose timesteps are set as a pipeline would."""
    noise, generator = seeded(seed)
    # Flow matching has no such factor.
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
    return Run([float(timestep) for timestep in scheduler.timesteps], ratios, scale, x.numpy().ravel())


def begin(scheduler):
    """Casts the tables, and starts at the first entry even where the timetable repeats it."""
    for name, value in vars(scheduler).items():
        if name != "timesteps" and isinstance(value, torch.Tensor) and value.dtype == torch.float32:
            setattr(scheduler, name, value.double())
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)


def check_scaling(scheduler, x, timestep, level):
    """The network must see the level that its output is computed at."""
    if hasattr(scheduler, "scale_model_input"):
        scaled = scheduler.scale_model_input(x, timestep)
        norm = np.hypot(level.sigma, getattr(scheduler.config, "sigma_data", level.alpha))
        np.testing.assert_allclose(scaled, x / norm, rtol=1e-6)


# ---- the level that a scheduler attributes to an evaluation ----


def at_timestep(scheduler, timestep):
    return level_of_cumprod(timestep, scheduler.alphas_cumprod[timestep])


def before_timestep(scheduler, timestep):
    """DDIM inversion tells the network the noisier timestep, which it steps to."""
    source = int(timestep) - scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    alpha_cumprod = scheduler.alphas_cumprod[source] if source >= 0 else scheduler.initial_alpha_cumprod
    return level_of_cumprod(timestep, alpha_cumprod)


def at_sigma(scheduler, timestep):
    return Level(float(timestep), 1.0, current_sigma(scheduler))


def at_next_midpoint(scheduler, timestep):
    return at_midpoint(scheduler, timestep, scheduler.step_index)


def at_last_midpoint(scheduler, timestep):
    return at_midpoint(scheduler, timestep, (scheduler.step_index or 0) - 1)


def at_midpoint(scheduler, timestep, index):
    """Every second evaluation of DPM2 is between two levels; its two classes count midpoints differently."""
    if scheduler.state_in_first_order:
        return at_sigma(scheduler, timestep)
    return Level(float(timestep), 1.0, float(scheduler.sigmas_interpol[index]))


def at_ratio(scheduler, timestep):
    return level_of_ratio(float(timestep), current_sigma(scheduler))


def at_flow(scheduler, timestep):
    sigma = current_sigma(scheduler)
    return Level(float(timestep), 1 - sigma, sigma)


def current_sigma(scheduler):
    return float(scheduler.sigmas[scheduler.step_index or 0])


def level_of_cumprod(timestep, alpha_cumprod):
    alpha_cumprod = float(alpha_cumprod)
    return Level(float(timestep), math.sqrt(alpha_cumprod), math.sqrt(1 - alpha_cumprod))


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
    diffusers.KDPM2DiscreteScheduler: at_next_midpoint,
    diffusers.KDPM2AncestralDiscreteScheduler: at_last_midpoint,
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
SCALES = {at_timestep: "vp", before_timestep: "vp", at_ratio: "vp", at_flow: "flow"}
# Their tables of sigmas hold each level twice, but for the first.
TWICE = (
    diffusers.HeunDiscreteScheduler,
    diffusers.KDPM2DiscreteScheduler,
    diffusers.KDPM2AncestralDiscreteScheduler,
    diffusers.FlowMatchHeunDiscreteScheduler,
)


def visited_ratios(scheduler):
    """The ratios sigma/alpha of the n + 1 levels that steps go between."""
    if LEVELS[type(scheduler)] in (at_timestep, before_timestep):
        return [level.ratio for level in timestep_levels(scheduler)]
    if isinstance(scheduler, TWICE):
        table = [scheduler.sigmas[0], *scheduler.sigmas[1::2]]
        return [float(sigma) for sigma in table[: scheduler.num_inference_steps + 1]]
    return [float(sigma) for sigma in scheduler.sigmas]


def timestep_levels(scheduler):
    """The levels of a timetable and the one that it ends at. PNDM's is the table behind its evaluations."""
    timesteps = scheduler.timesteps
    if isinstance(scheduler, diffusers.PNDMScheduler):
        timesteps = torch.from_numpy(scheduler._timesteps[::-1].astype(np.int64))
    levels = [LEVELS[type(scheduler)](scheduler, timestep) for timestep in timesteps]
    return [*levels, last_level(scheduler, timesteps[-1])]


def last_level(scheduler, timestep):
    match type(scheduler):
        case diffusers.DDPMScheduler | diffusers.LCMScheduler:
            return CLEAN
        case diffusers.TCDScheduler:
            return at_timestep(scheduler, 0)
        case diffusers.DDIMInverseScheduler:
            return at_timestep(scheduler, timestep)
    return level_of_cumprod(0, scheduler.final_alpha_cumprod)


def ratio_levels(scheduler):
    """DPM-Solver's levels, with the one that it ends at."""
    timesteps = [*(float(timestep) for timestep in scheduler.timesteps), 0.0]
    return [level_of_ratio(*pair) for pair in zip(timesteps, map(float, scheduler.sigmas))]


def sigma_levels(schedule, steps):
    """Euler's levels of alpha 1, and its factor of the initial noise. One step is from the noisy end."""
    table = steps if schedule in ("leading", "trailing") else max(steps, 2)
    scheduler = make(known.EULER, schedule, table)
    return unit_alpha_levels(scheduler, steps), float(scheduler.init_noise_sigma)


def unit_alpha_levels(scheduler, steps):
    pairs = zip(map(float, scheduler.timesteps[:steps]), map(float, scheduler.sigmas))
    return [*(Level(timestep, 1.0, sigma) for timestep, sigma in pairs), CLEAN]


# ---- schedulers of Stable Diffusion ----


def make(method, schedule, steps, prediction="epsilon", **config):
    shared = {**known.PROCESSES[method.process], **schedule_config(schedule), "prediction_type": prediction}
    config = {**shared, **method.config, **config}
    parameters = inspect.signature(method.scheduler.__init__).parameters
    unknown = config.keys() - parameters.keys()
    # A class without a choice of spacings has linspace, which uses no offset.
    assert not unknown or unknown <= {"steps_offset", "timestep_spacing"} and schedule != "leading", unknown
    scheduler = method.scheduler(**{key: value for key, value in config.items() if key not in unknown})
    scheduler.set_timesteps(**timetable(schedule, steps))
    return scheduler


def schedule_config(schedule):
    if schedule in SPACINGS:
        return {"timestep_spacing": schedule}
    if schedule in ("lcm", "timesteps", "sigmas"):
        return {}
    flag = {"lu": "use_lu_lambdas"}.get(schedule, f"use_{schedule}_sigmas")
    return {"timestep_spacing": "linspace", flag: True}


def timetable(schedule, steps):
    given = {"timesteps": {"timesteps": known.TIMESTEPS}, "sigmas": {"sigmas": known.SIGMAS}}
    return given.get(schedule, {"num_inference_steps": steps})


def scheduler_cases(method, schedule, steps):
    """A case for the predictions that agree, and others for those that do not."""
    if method.schedules == FEW and steps == 1:
        # Variants have one step in common.
        return
    if is_broken(method, schedule, steps):
        yield mended_case(method, schedule, steps)
        return
    groups = []
    for prediction in method.predictions:
        run = run_scheduler(make(method, schedule, steps, prediction), prediction, steps, method.step)
        same = [predictions for other, predictions in groups if agree(other, run)]
        if same:
            same[0].append(prediction)
        else:
            groups.append((run, [prediction]))
    if other := other_way(method, schedule, steps):
        # It works on the clean estimate, so it speaks for every prediction.
        assert len(groups) == 1 and agree(groups[0][0], other), (method.sampler, schedule, steps)
        groups = [(run, ANY_PREDICTION) for run, _ in groups]
    for run, predictions in groups:
        yield case(method, schedule, steps, run, method.scheduler.__name__, predictions)


def agree(one, other):
    return np.abs(one.latent - other.latent).max() <= TOLERANCE * np.abs(one.latent).max()


def other_way(method, schedule, steps):
    """The same run by k-diffusion or by formula, where there is one on this class's levels."""
    if method.process == "sd_zero":
        return None
    if formula := timestep_formula(method):
        return run_formula(formula, table_levels(method, schedule, steps), steps)
    if method.sampler in known.K_DIFFUSION_NAMES and schedule in EVERY:
        levels, scale = sigma_levels(schedule, steps)
        return run_k_diffusion(known.K_DIFFUSION_NAMES[method.sampler], levels, steps, scale, **method.options)


def case(method, schedule, steps, run, reference, predictions, options=None):
    options = method.options if options is None else options
    scale = SCALES.get(LEVELS[method.scheduler], "ve")
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
        "timesteps": [short(timestep) for timestep in run.timesteps],
        "sigmas": [short(ratio) for ratio in run.ratios],
        "latent": [short(value) for value in run.latent],
    }


def short(value):
    """Eight digits, and none of a fraction that is zero."""
    if math.isinf(value):
        return None
    rounded = float(f"{value:.8g}")
    return int(rounded) if rounded.is_integer() else rounded


# ---- where a class breaks, or steps elsewhere than its table says ----


def is_broken(method, schedule, steps):
    if method in known.SIGMA_METHODS and schedule not in ("leading", "trailing"):
        # np.linspace(0, 999, 1) is 0: noise would be taken for the cleanest latent. And over the whole range in one
        # ancestral step, the float32 difference of squares that DPM2 steps to has lost its digits.
        return steps == 1 or steps == 2 and method.sampler == "dpm2_ancestral"
    match method.sampler:
        case "ddpm":
            return schedule == "linspace" and steps == 1
        case "ddim" | "plms":
            # They step by T // n, which is not linspace's stride.
            return schedule == "linspace"
        case "pndm":
            return schedule == "linspace" or steps < 4
    return False


def mended_case(method, schedule, steps):
    reference = "formula"
    if method in known.SIGMA_METHODS and steps == 1:
        levels, scale = sigma_levels(schedule, steps)
        run = run_formula(formulae.euler, levels, steps, scale)
    else:
        run = other_way(method, schedule, steps)
    if method.sampler == "dpm2_ancestral" and steps == 2:
        reference = "k_diffusion.sample_dpm_2_ancestral"
    return case(method, schedule, steps, run, reference, ANY_PREDICTION)


def timestep_formula(method):
    match method.sampler:
        case "ddpm":
            return partial(formulae.ddim, eta=1.0)
        case "ddim":
            return partial(formulae.ddim, eta=method.options.get("eta", 0.0), limit=limit(method.options))
        case "plms":
            return formulae.plms
        case "pndm":
            return partial(formulae.pndm, between=halfway)


def limit(options):
    if "threshold" in options:
        return partial(formulae.threshold, quantile=options["threshold"], largest=options["threshold_max"])
    bound = options.get("clip", np.inf)
    return lambda clean: np.clip(clean, -bound, bound)


def halfway(start, end):
    timestep = int(end.timestep) + (int(start.timestep) - int(end.timestep)) // 2
    return at_timestep(diffusers.DDIMScheduler(**known.SD), timestep)


def table_levels(method, schedule, steps):
    """As the timetable says; with linspace, one step is from the noisy end."""
    if method.sampler == "pndm":
        # The class makes no table for fewer than four steps, but the one behind it is that of PLMS.
        method = known.PLMS
    scheduler = make(method, schedule, steps)
    levels = timestep_levels(scheduler)
    return [at_timestep(scheduler, 999), levels[-1]] if schedule == "linspace" and steps == 1 else levels


def unfinished_cases(method, schedule, steps):
    """The formula's case, ending at sigma 0, after it is held against the class, which ends at its own last sigma."""
    if method.schedules == FEW and steps == 1:
        return
    config = {}
    if "final_sigmas_type" in inspect.signature(method.scheduler.__init__).parameters:
        config["final_sigmas_type"] = "sigma_min"
    levels = ratio_levels(make(method, schedule, steps, **config))
    own_end = run_formula(method.formula, levels, steps)
    for prediction in ANY_PREDICTION:
        run = run_scheduler(make(method, schedule, steps, prediction, **config), prediction, steps, method.step)
        # Of the first kind is a step of no length, which some schedules end with: 0 / 0.
        assert np.isnan(run.latent).all() and levels[-1].ratio == levels[-2].ratio or agree(own_end, run)
    finished = run_formula(method.formula, [*levels[:-1], CLEAN], steps)
    yield case(method, schedule, steps, finished, "formula", ANY_PREDICTION)
    if schedule == "linspace" and method.schedules != FEW:
        options = {**method.options, "final": "sigma_min"}
        yield case(method, schedule, steps, run, method.scheduler.__name__, ANY_PREDICTION, options)


# ---- k-diffusion ----


@cache
def k_diffusion():
    """k-diffusion's samplers alone: its package imports libraries for training."""
    package, utils = ModuleType("k_diffusion"), ModuleType("k_diffusion.utils")
    package.__path__ = importlib.util.find_spec("k_diffusion").submodule_search_locations
    package.utils, utils.append_dims = utils, lambda value, dims: value[(...,) + (None,) * (dims - value.ndim)]
    sys.modules |= {"k_diffusion": package, "k_diffusion.utils": utils}
    return importlib.import_module("k_diffusion.sampling")


def run_k_diffusion(name, levels, seed, scale, **options):
    """Runs a sampler on levels of alpha 1. Noise is from torch's global generator: churn draws from no other."""
    sample = getattr(k_diffusion(), name)
    timesteps, told = {level.sigma: level.timestep for level in levels}, []

    def model(x, sigma):
        sigma = float(sigma)
        told.append(timesteps[sigma] if sigma in timesteps else timestep_of(sigma))
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
    alphas_cumprod = diffusers.DDIMScheduler(**known.SD).alphas_cumprod
    return (((1 - alphas_cumprod) / alphas_cumprod) ** 0.5).numpy().astype(np.float64)


def churned_cases(schedule, steps):
    levels, scale = sigma_levels(schedule, steps)
    churn = {known.CHURN_NAMES[name]: value for name, value in known.CHURN.items()}
    for sampler in ("euler", "heun", "dpm2"):
        name = known.K_DIFFUSION_NAMES[sampler]
        run = run_k_diffusion(name, levels, steps, scale, **churn)
        yield entry(sampler, "sd", schedule, steps, known.CHURN, run, f"k_diffusion.{name}", ANY_PREDICTION, "ve")


def ancestral_cases(schedule, steps):
    levels, scale = sigma_levels(schedule, steps)
    for sampler in ("euler_ancestral", "dpm2_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde"):
        name = known.K_DIFFUSION_NAMES[sampler]
        for eta in ancestral_etas(sampler, schedule, steps):
            options = {} if eta == 1.0 else {"eta": eta}
            run = run_k_diffusion(name, levels, steps, scale, eta=eta)
            yield entry(sampler, "sd", schedule, steps, options, run, f"k_diffusion.{name}", ANY_PREDICTION, "ve")


def ancestral_etas(sampler, schedule, steps):
    """Those that no class has: all but 1 everywhere, and 1 where the class does not know the schedule."""
    methods = [method for method in known.SIGMA_METHODS if method.sampler == sampler]
    if not any(schedule in method.schedules for method in methods):
        yield 1.0
    if schedule in FEW and steps > 1:
        yield 0.5


def sde_cases(schedule, steps):
    """On the levels of DPM-Solver, where the initial noise has unit variance."""
    levels = ratio_levels(make(known.DPMPP_2M, schedule, steps))
    midpoint, heun = {"solver_type": "midpoint"}, {"solver_type": "heun"}
    yield sde_case("dpmpp_3m_sde", schedule, steps, levels, "sample_dpmpp_3m_sde")
    if schedule in FEW and steps > 1:
        yield sde_case("dpmpp_3m_sde", schedule, steps, levels, "sample_dpmpp_3m_sde", eta=0.5)
        yield sde_case("dpmpp_2m_sde", schedule, steps, levels, "sample_dpmpp_2m_sde", midpoint, eta=0.5)
        yield sde_case("dpmpp_2m_sde_heun", schedule, steps, levels, "sample_dpmpp_2m_sde", heun, eta=0.5)


def sde_case(sampler, schedule, steps, levels, name, solver={}, **options):
    if steps == 1:
        # The reference raises where the first step is the last.
        run, reference = run_formula(formulae.euler, levels, steps), "formula"
    else:
        unit = [Level(level.timestep, 1.0, level.ratio) for level in levels]
        run = run_k_diffusion(name, unit, steps, math.hypot(1, unit[0].sigma), **solver, **options)
        run, reference = run._replace(initial_scale=1.0), f"k_diffusion.{name}"
    return entry(sampler, "sd", schedule, steps, options, run, reference, ANY_PREDICTION, "vp")


# ---- formulae on Euler's levels ----


def runge_kutta_cases(schedule, steps):
    levels, scale = sigma_levels(schedule, steps)
    for order in (2, 3, 4):
        formula = partial(formulae.runge_kutta, order=order, at=lambda sigma: Level(timestep_of(sigma), 1.0, sigma))
        run = run_formula(formula, levels, steps, scale)
        yield entry(f"rk{order}", "sd", schedule, steps, {}, run, "formula", ANY_PREDICTION, "ve")


def ipndm_cases(schedule, steps):
    levels, scale = sigma_levels(schedule, steps)
    for order in (1, 2, 3, 4) if schedule in FEW and steps > 1 else (4,):
        run = run_formula(partial(formulae.ipndm, order=order), levels, steps, scale)
        yield entry("ipndm", "sd", schedule, steps, {"order": order}, run, "formula", ANY_PREDICTION, "ve")


# ---- other processes and timetables ----


def inverse_cases(schedule, steps):
    runs = []
    for prediction in ANY_PREDICTION:
        scheduler = make(known.INVERSE, schedule, steps, prediction)
        runs.append(run_scheduler(scheduler, prediction, steps, initial=CLEAN_LATENT))
    assert all(agree(runs[0], run) for run in runs)
    found = case(known.INVERSE, schedule, steps, runs[0], "DDIMInverseScheduler", ANY_PREDICTION)
    yield found | {"initial": CLEAN_LATENT}


def edm_cases(schedule, steps):
    solver, sde = diffusers.EDMDPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}
    yield edm_case("euler", schedule, steps, diffusers.EDMEulerScheduler)
    yield edm_case("dpmpp_2m", schedule, steps, solver, solver_order=2)
    yield edm_case("dpmpp_3m", schedule, steps, solver, solver_order=3)
    yield edm_case("dpmpp_2m_sde", schedule, steps, solver, solver_order=2, **sde)
    run = run_k_diffusion("sample_heun", *edm_levels(schedule, steps))
    yield entry("heun", "edm", schedule, steps, {}, run, "k_diffusion.sample_heun", ["edm"], "ve")


def edm_case(sampler, schedule, steps, scheduler_class, **config):
    if schedule == "exponential" and steps == 1:
        # torch.linspace(log sigma_min, log sigma_max, 1) is sigma_min.
        run, reference = run_formula(formulae.euler, *edm_levels(schedule, steps)), "formula"
    else:
        run, reference = run_edm(scheduler_class, schedule, steps, config), scheduler_class.__name__
    return entry(sampler, "edm", schedule, steps, {}, run, reference, ["edm"], "ve")


def run_edm(scheduler_class, schedule, steps, config):
    """With both signs of the network's output, as the class has them."""
    runs = []
    for theirs, ours in [("epsilon", "edm"), ("v_prediction", "negative_edm")]:
        scheduler = scheduler_class(**known.EDM, **config, sigma_schedule=schedule, prediction_type=theirs)
        scheduler.set_timesteps(steps)
        runs.append(run_scheduler(scheduler, ours, steps))
    assert agree(*runs)
    return runs[0]


def edm_levels(schedule, steps):
    """Levels, seed and the factor of the initial noise."""
    scheduler = diffusers.EDMEulerScheduler(**known.EDM, sigma_schedule=schedule)
    scheduler.set_timesteps(max(steps, 2))
    return unit_alpha_levels(scheduler, steps), steps, float(scheduler.init_noise_sigma)


def consistency_cases(schedule, steps):
    for options in ({}, {"clip": 1.0}):
        scheduler = diffusers.CMStochasticIterativeScheduler(**known.EDM, clip_denoised="clip" in options)
        scheduler.set_timesteps(steps)
        run = run_scheduler(scheduler, "consistency", steps)
        name = type(scheduler).__name__
        yield entry("consistency", "edm", schedule, steps, options, run, name, ["consistency"], "ve")


def flow_cases(process, schedule, steps):
    scheduler = flow_scheduler(diffusers.FlowMatchEulerDiscreteScheduler, process, schedule, steps)
    pairs = zip(map(float, scheduler.timesteps), map(float, scheduler.sigmas))
    levels = [*(Level(timestep, 1 - sigma, sigma) for timestep, sigma in pairs), CLEAN]
    run = run_scheduler(scheduler, "flow", steps)
    yield entry("euler", process, schedule, steps, {}, run, type(scheduler).__name__, ["flow"], "flow")
    run, reference = run_formula(formulae.flow_heun, levels, steps), "formula"
    if process == "flow3" and schedule == "linspace":
        # The class has neither dynamic shifts nor a user's sigmas.
        scheduler = flow_scheduler(diffusers.FlowMatchHeunDiscreteScheduler, process, schedule, steps)
        formula, run, reference = run, run_scheduler(scheduler, "flow", steps), type(scheduler).__name__
        assert agree(formula, run)
    yield entry("heun", process, schedule, steps, {}, run, reference, ["flow"], "flow")


def flow_scheduler(scheduler_class, process, schedule, steps):
    config, rest = {"shift": 3.0}, {}
    if process == "flow_dynamic":
        config = {"use_dynamic_shifting": True, "time_shift_type": "exponential"}
        rest["mu"] = calculate_shift(IMAGE_TOKENS)
    if schedule == "trailing":
        # As the Flux pipeline asks for them.
        rest["sigmas"] = np.linspace(1.0, 1 / steps, steps)
    scheduler = scheduler_class(**config)
    scheduler.set_timesteps(steps, **rest)
    return scheduler


def adaptive_cases():
    """k-diffusion's ends at the least sigma; ours goes on to the estimate there."""
    levels, scale = sigma_levels("karras", 25)
    first, last = levels[0].sigma, levels[-2].sigma
    for options in ({"order": 3}, {"order": 2}, {"order": 3, "rtol": 0.01}, {"order": 2, "rtol": 0.01}):
        told = []

        def model(x, sigma):
            told.append(timestep_of(float(sigma)))
            return torch.from_numpy(denoise(x.numpy(), Level(told[-1], 1.0, float(sigma))))

        x = seeded(1)[0] * scale
        x = k_diffusion().sample_dpm_adaptive(model, x, last, first, disable=True, **options)
        run = Run(told, [first, 0.0], scale, model(x, last).numpy().ravel())
        name = "k_diffusion.sample_dpm_adaptive"
        yield entry("dpm_adaptive", "sd", "karras", 1, options, run, name, ANY_PREDICTION, "ve")


def custom_cases():
    steps = len(known.TIMESTEPS)
    for method in (known.EULER, known.DPMPP_2M, known.LCM):
        yield from scheduler_cases(method, "timesteps", steps)
    yield from scheduler_cases(known.EULER, "sigmas", len(known.SIGMAS) - 1)
    # DDIM's class takes none.
    scheduler = make(known.DDIM, "leading", steps)
    levels = [*(at_timestep(scheduler, timestep) for timestep in known.TIMESTEPS), last_level(scheduler, 0)]
    run = run_formula(formulae.ddim, levels, steps)
    yield case(known.DDIM, "timesteps", steps, run, "formula", ANY_PREDICTION)


# ---- numbers of the reference that are not ours ----


def velocity_deviations(schedule, steps):
    why = "velocities of several timesteps are combined, then turned into noise as if all were of the last"
    for method in known.TIMESTEP_METHODS:
        if method.sampler in ("plms", "pndm") and not is_broken(method, schedule, steps):
            run = run_scheduler(make(method, schedule, steps, "v_prediction"), "v_prediction", steps)
            yield case(method, schedule, steps, run, "PNDMScheduler", ["v_prediction"]) | {"why": why}


def third_order_deviations(schedule, steps):
    why = "its third order has -1/2 for +1/2; second order is the midpoint form, and the last but one step below 15"
    run = run_scheduler(make(known.DPMPP_3M_SDE, schedule, steps), "epsilon", steps)
    found = case(known.DPMPP_3M_SDE, schedule, steps, run, "DPMSolverMultistepScheduler", ANY_PREDICTION)
    yield found | {"why": why}


def churn_deviations(schedule, steps):
    why = "the network sees the latent before noise is added to it, and noise is drawn only where it is added"
    churn = {known.CHURN_NAMES[name]: value for name, value in known.CHURN.items()}
    if not is_broken(known.EULER, schedule, steps):
        run = run_scheduler(make(known.EULER, schedule, steps), "epsilon", steps, churn)
        found = case(known.EULER, schedule, steps, run, "EulerDiscreteScheduler", ["epsilon"], known.CHURN)
        yield found | {"why": why}


# ---- schedules without a sampler ----


def schedules():
    for steps in STEP_COUNTS:
        for name, options, sigmas in schedules_of(steps):
            assert len(sigmas) == steps and np.all(np.diff(sigmas) < 0), (name, steps)
            sigmas = [short(float(sigma)) for sigma in [*sigmas, 0.0]]
            yield {"name": name, "steps": steps, "options": options, "sigmas": sigmas}


def schedules_of(steps):
    yield from k_diffusion_schedules(steps)
    yield "beta", {"alpha": 0.6, "beta": 0.6}, [level.sigma for level in sigma_levels("beta", steps)[0][:-1]]
    yield "lu", {}, make(known.DPMPP_2M, "lu", steps).sigmas[:-1].numpy()
    table, ramp = sd_sigmas(), np.linspace(0, 1, steps)
    # Sabour et al. 2024, arXiv:2404.14507, on the schedule that is optimal for a Gaussian.
    yield "kl_optimal", {}, np.tan(ramp * np.arctan(table[0]) + (1 - ramp) * np.arctan(table[-1]))
    yield "ays_sd1", {}, align_your_steps("StableDiffusionSigmas", steps)
    yield "ays_sdxl", {}, align_your_steps("StableDiffusionXLSigmas", steps)
    # As ComfyUI defines them; its sigma of a fractional timestep is interpolated in log sigma.
    yield "simple", {}, [table[-(1 + int(step * len(table) / steps))] for step in range(steps)]
    uniform = np.linspace(len(table) - 1, 0, steps + 1)[:-1]
    yield "sgm_uniform", {}, np.exp(np.interp(uniform, np.arange(len(table)), np.log(table)))


def k_diffusion_schedules(steps):
    low, high = sd_sigmas()[[0, -1]]
    yield "karras", {}, k_diffusion().get_sigmas_karras(steps, low, high)[:-1].numpy()
    yield "exponential", {}, k_diffusion().get_sigmas_exponential(steps, low, high)[:-1].numpy()
    for rho in (1.0, 2.0):
        sigmas = k_diffusion().get_sigmas_polyexponential(steps, low, high, rho)
        yield "polyexponential", {"rho": rho}, sigmas[:-1].numpy()


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
