"""Beta tables, timestep tables and sigmas of diffusers' schedulers."""

from pathlib import Path

from diffusers import DDIMScheduler, EulerDiscreteScheduler, LCMScheduler

from compact_json import write_json

BETAS = {"linear": (0.0001, 0.02), "scaled_linear": (0.00085, 0.012), "squaredcos_cap_v2": (0.0001, 0.02)}
INDEXES = [0, 1, 2, 10, 99, 250, 499, 500, 750, 900, 998, 999]
STEP_COUNTS = [1, 2, 3, 4, 7, 20, 50]
SPACINGS = [("leading", 0), ("leading", 1), ("linspace", 0), ("trailing", 0)]


def write_schedules(golden: Path):
    fields = {
        "alphas_cumprod": [alpha_table(betas, zero_snr) for betas in BETAS for zero_snr in (False, True)],
        "ddim": [ddim_table(*spacing, steps) for spacing in SPACINGS for steps in STEP_COUNTS],
        "euler": [euler_table(zero_snr, *spacing, steps) for zero_snr, spacing, steps in euler_cases()],
        "lcm": [lcm_table(steps) for steps in STEP_COUNTS],
    }
    write_json(golden / "schedules.json", fields)


def alpha_table(name, zero_snr):
    start, end = BETAS[name]
    betas = {"beta_schedule": name, "beta_start": start, "beta_end": end, "rescale_betas_zero_snr": zero_snr}
    return betas | {"indexes": INDEXES, "values": DDIMScheduler(**betas).alphas_cumprod[INDEXES].double().tolist()}


def ddim_table(spacing, offset, steps):
    scheduler = DDIMScheduler(timestep_spacing=spacing, steps_offset=offset)
    scheduler.set_timesteps(steps)
    return {"spacing": spacing, "steps_offset": offset, "steps": steps, "timesteps": scheduler.timesteps.tolist()}


def euler_cases():
    """Every spacing as Stable Diffusion uses it, and zero terminal SNR where its first sigma is reached."""
    yield from ((False, spacing, steps) for spacing in SPACINGS for steps in STEP_COUNTS)
    yield from ((True, ("trailing", 0), steps) for steps in (1, 4, 20))


def euler_table(zero_snr, spacing, offset, steps):
    start, end = BETAS["scaled_linear"]
    betas = {"beta_schedule": "scaled_linear", "beta_start": start, "beta_end": end}
    scheduler = EulerDiscreteScheduler(
        **betas, timestep_spacing=spacing, steps_offset=offset, rescale_betas_zero_snr=zero_snr
    )
    scheduler.set_timesteps(steps)
    return {
        "rescale_betas_zero_snr": zero_snr,
        "spacing": spacing,
        "steps_offset": offset,
        "steps": steps,
        "timesteps": shortest(scheduler.timesteps),
        "sigmas": shortest(scheduler.sigmas),
        "init_noise_sigma": shortest(scheduler.init_noise_sigma.reshape(1))[0],
    }


def shortest(values):
    """The fewest digits that still name the same float32."""
    return [float(str(value)) for value in values.numpy()]


def lcm_table(steps):
    scheduler = LCMScheduler(original_inference_steps=50)
    scheduler.set_timesteps(steps)
    return {"steps": steps, "timesteps": scheduler.timesteps.tolist()}
