"""Whole pictures from an export's graphs: ONNX Runtime runs them, diffusers steps, PyTorch draws the noise.

What the graphs are given on the way is what INT8 is calibrated with where nothing was recorded on a device; latents and
pictures are the goldens that `safelight verify` compares a device with. Stages are open one after the other, each for
all requests, so that a large denoiser is in memory alone.
"""

from dataclasses import dataclass, field
from pathlib import Path

import diffusers
import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor
from tokenizers import Tokenizer

from . import calibration
from .fault import Fault
from .graphs import Graph
from .optimise import threads

PROMPTS = (
    "a red apple", "a lighthouse at dusk, oil painting", "portrait of an old sailor, film grain", "a city street in the rain",
    "a cat asleep on a stack of books", "snowy mountains under a clear sky", "a bowl of ramen, close up, studio light",
    "an astronaut in a field of sunflowers", "a steam locomotive crossing a viaduct", "a glass vase on a black table",
    "children playing football on a beach", "a dense green forest with a river", "a watercolour of a sailing boat",
    "neon sign of a diner at night", "a fox in the snow", "the interior of a gothic cathedral",
)  # fmt: skip
# What of a sampler's name diffusers has as a scheduler whose numbers are safelight's.
SCHEDULERS = {
    "lcm": diffusers.LCMScheduler,
    "euler": diffusers.EulerDiscreteScheduler,
    "ddim": diffusers.DDIMScheduler,
    "euler_ancestral": diffusers.EulerAncestralDiscreteScheduler,
    "dpmpp_2m": diffusers.DPMSolverMultistepScheduler,
    "consistency": diffusers.CMStochasticIterativeScheduler,
}
SPACINGS = ("leading", "linspace", "trailing")
# Schedules that a sampler has with the same numbers, where those are not the spacings.
SCHEDULES = {"lcm": ("lcm", "trailing"), "dpmpp_2m": ("karras", "linspace", "trailing"), "consistency": ("consistency",)}


@dataclass(frozen=True)
class Request:
    """One picture. `conditions` are numbers by name, as in a request to safelight."""

    prompt: str = ""
    seed: int = 0
    steps: int = 4
    guidance: float = 1.0
    size: tuple | None = None
    conditions: dict = field(default_factory=dict)


class Model:
    """`manifest` is model.yaml's content, `root` where its tokenizers lie, `graphs` a path a stage."""

    def __init__(self, manifest, root: Path, graphs):
        self.manifest, self.root, self.paths = manifest, Path(root), graphs

    def open(self, stage):
        return Graph.load(self.paths[stage]).session(threads(), keys={"session.set_denormal_as_zero": "1"})

    def tensor(self, stage, name):
        """What a stage's graph calls a tensor."""
        entry = self.manifest.get("stages", {}).get(stage, {})
        return entry.get("tensors", {}).get(name, name)

    def sizes(self, request):
        """(height, width) in pixels."""
        picture = self.manifest["picture"]
        return request.size or (picture["height"], picture["width"])


def defaults(manifest, prompt, seed, **changes):
    """A request as the model's own defaults have it."""
    known = manifest["defaults"]
    conditions = {name: entry.get("default", 0) for name, entry in manifest.get("conditions", {}).items()}
    usual = {"steps": known["steps"], "guidance": known.get("guidance", 1.0), "conditions": conditions}
    return Request(prompt, seed, **(usual | changes))


def generate(model, requests, record=lambda stage, feeds: None):
    """For each request `initial`, `steps` (estimates of the clean latent), `latents` and, with a decoder, `images`
    [1, h, w, 3] in bytes. `record` is given each graph's inputs."""
    texts = encode(model, requests, record)
    session, found = model.open("denoiser"), []
    for request, text in zip(requests, texts):
        found.append(denoise(model, session, request, text, record))
    del session
    if "decoder" in model.paths:
        session = model.open("decoder")
        for result in found:
            result["images"] = decode(model, session, result["latents"], record)
    elif model.manifest["latent"]["downscale"] == 1:
        for result in found:
            result["images"] = pixels(torch.from_numpy(result["latents"]))
    return found


def encode(model, requests, record):
    """What the denoiser is given of each request's words: (with them, without), None where no words steer."""
    if "text_encoder" not in model.paths:
        return [(None, None)] * len(requests)
    stages = [stage for stage in ("text_encoder", "text_encoder_2") if stage in model.paths]
    texts = {request.prompt for request in requests} | {""}
    outputs = {text: {} for text in texts}
    for stage in stages:
        session, ids = model.open(stage), tokens(model, stage.replace("text_encoder", "tokenizer"))
        for text in sorted(texts):
            feeds = {"input_ids": np.array([ids(text)])}
            record(stage, feeds)
            outputs[text][stage] = session.run(feeds)
        del session
    joined = {text: join(model, stages, found) for text, found in outputs.items()}
    if model.manifest.get("empty_prompt") == "zeros":
        joined[""] = {name: np.zeros_like(value) for name, value in joined[""].items()}
    return [(joined[request.prompt], joined[""]) for request in requests]


def join(model, stages, found):
    hidden = [found[stage][model.tensor(stage, "last_hidden_state")] for stage in stages]
    joined = {"encoder_hidden_states": np.concatenate(hidden, -1)}
    pooled = [found[stage]["text_embeds"] for stage in stages if "text_embeds" in found[stage]]
    return joined | ({"text_embeds": pooled[-1]} if pooled else {})


def tokens(model, name):
    entry = model.manifest[name]
    tokenizer, length = Tokenizer.from_file(str(model.root / entry["file"])), entry["length"]

    def ids(text):
        words = tokenizer.encode(text, add_special_tokens=False).ids[: length - 2]
        return [entry["start"], *words, entry["end"], *[entry["pad"]] * (length - 2 - len(words))]

    return ids


def scheduler_of(manifest, steps):
    """diffusers' scheduler for the model's default sampler. Raises Fault where there is none."""
    sampler, schedule = manifest["defaults"]["sampler"], manifest["defaults"].get("schedule", "trailing")
    if "edm" in manifest and manifest["edm"].get("prediction") == "consistency":
        edm = {name: manifest["edm"][name] for name in ("sigma_min", "sigma_max", "sigma_data") if name in manifest["edm"]}
        scheduler = diffusers.CMStochasticIterativeScheduler(**edm)
    elif "training" in manifest:
        scheduler = SCHEDULERS.get(sampler, diffusers.EulerDiscreteScheduler).from_config(config(manifest, schedule))
    else:
        raise Fault("only models with training: or a consistency model's edm: are run here; record with --record-calibration")
    scheduler.set_timesteps(steps)
    return scheduler


def config(manifest, schedule):
    training = manifest["training"]
    return {
        "num_train_timesteps": training.get("timesteps", 1000),
        "beta_start": training["beta_start"],
        "beta_end": training["beta_end"],
        "beta_schedule": training["betas"],
        "prediction_type": training["prediction"],
        "rescale_betas_zero_snr": training.get("zero_terminal_snr", False),
        "set_alpha_to_one": training.get("set_alpha_to_one", False),
        "steps_offset": training.get("steps_offset", 0),
        "original_inference_steps": training.get("original_steps", 50),
        "timestep_scaling": training.get("timestep_scaling", 10.0),
        "timestep_spacing": schedule if schedule in SPACINGS else "trailing",
        "use_karras_sigmas": schedule == "karras",
        "clip_sample": False,
    }


def exact(manifest):
    """Whether diffusers' scheduler here is the model's default sampler on its default schedule, as goldens need it."""
    known = manifest["defaults"]
    sampler, schedule = known["sampler"], known.get("schedule", "trailing")
    # What is limited, and how strongly, is the sampler's own affair.
    plain = not known.get("options") or sampler == "consistency"
    return sampler in SCHEDULERS and plain and schedule in SCHEDULES.get(sampler, SPACINGS)


def denoise(model, session, request, text, record):
    scheduler = scheduler_of(model.manifest, request.steps)
    generator = torch.Generator().manual_seed(request.seed)
    height, width = model.sizes(request)
    latent = model.manifest["latent"]
    shape = (1, latent["channels"], height // latent["downscale"], width // latent["downscale"])
    initial = randn_tensor(shape, generator=generator)
    z, steps = initial * scheduler.init_noise_sigma, []
    predict = predictor(model, session, request, text, record)
    for timestep in scheduler.timesteps:
        output = predict(scheduler.scale_model_input(z, timestep), timestep)
        options = {} if isinstance(scheduler, diffusers.DDIMScheduler) else {"generator": generator}
        result = scheduler.step(output, timestep, z, **options)
        z = result.prev_sample
        steps.append(estimate(scheduler, result).numpy())
    return {"initial": initial.numpy(), "steps": np.stack(steps), "latents": z.numpy()}


def estimate(scheduler, result):
    """The clean latent that a step was made from."""
    for name in ("denoised", "pred_original_sample"):
        if getattr(result, name, None) is not None:
            return getattr(result, name)
    # DPM-Solver++ keeps it; of one step of a consistency model, it is the result.
    outputs = getattr(scheduler, "model_outputs", None)
    return outputs[-1] if outputs else result.prev_sample


def predictor(model, session, request, text, record):
    """The model's output at one step, guided as its graph wants it: by an input, or by two runs."""
    known, fixed = session.shapes, conditions(model, session, request)
    if "timestep_cond" in known:
        width = known["timestep_cond"][1]
        scale = torch.tensor([request.guidance - 1.0])
        # The method does not use its pipeline.
        fixed["timestep_cond"] = diffusers.LatentConsistencyModelPipeline.get_guidance_scale_embedding(None, scale, width)

    beside = painted(known["sample"][1], request, model)

    def run(sample, timestep, words, changes):
        time = np.full([1] * len(known.get("timestep", [])), timestep.item())
        feeds = {"sample": np.concatenate([sample.numpy(), *beside(sample)], 1), "timestep": time, **fixed, **changes, **(words or {})}
        feeds = {name: np.asarray(feeds[name]).astype(kind) for name, kind in session.types.items()}
        record("denoiser", feeds)
        return torch.from_numpy(next(iter(session.run(feeds).values())).astype(np.float32))

    without = unguided(model)
    guided = request.guidance > 1.0 and "timestep_cond" not in known and (text[0] is not None or without)

    def predict(sample, timestep):
        wanted = run(sample, timestep, text[0], {})
        if not guided:
            return wanted
        plain = run(sample, timestep, text[1], without)
        return plain + request.guidance * (wanted - plain)

    return predict


def painted(channels, request, model):
    """What an inpainting denoiser takes behind the latent: a mask, and the latent of what is outside of it."""
    extra = channels - model.manifest["latent"]["channels"]
    if extra == 0:
        return lambda sample: ()
    generator = torch.Generator().manual_seed(request.seed + 1000)

    def beside(sample):
        mask = torch.zeros(1, 1, *sample.shape[2:])
        mask[..., sample.shape[3] // 3 :] = 1
        kept = torch.randn(1, extra - 1, *sample.shape[2:], generator=generator) * (1 - mask)
        return mask.numpy(), kept.numpy()

    return beside


def conditions(model, session, request):
    """Further inputs of the denoiser."""
    entries = model.manifest.get("conditions", {})
    found = {entries[name]["tensor"]: np.array([value]) for name, value in request.conditions.items()}
    if "time_ids" in session.shapes:
        height, width = model.sizes(request)
        found["time_ids"] = np.array([[height, width, 0, 0, height, width]])
    return found


def unguided(model):
    entries = model.manifest.get("conditions", {}).values()
    return {entry["tensor"]: np.array([entry["unguided"]]) for entry in entries if "unguided" in entry}


def decode(model, session, latents, record):
    """Bytes [1, height, width, 3] of a latent."""
    latent = model.manifest["latent"]
    feeds = {"latent_sample": (latents / latent["scale"] + latent.get("shift", 0.0)).astype(np.float32)}
    record("decoder", feeds)
    return pixels(torch.from_numpy(next(iter(session.run(feeds).values()))).float())


def pixels(picture):
    """Bytes as diffusers rounds them, [1, height, width, 3]."""
    unit = (picture / 2 + 0.5).clamp(0, 1)
    return (unit * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def record(model, folder: Path, prompts=PROMPTS, count=8, size=None):
    """Writes what each graph is given along `count` trajectories, as `safelight generate --record-calibration` does, with
    an encoder's pictures from the decoder. Returns what a report says of it."""
    places, steps = {}, model.manifest["defaults"]["steps"]

    def keep(stage, feeds):
        places[stage] = places.get(stage, 0) + 1
        calibration.record(folder, stage, places[stage], feeds)

    requests = []
    for index in range(count):
        varied = drawn_conditions(model.manifest, index)
        prompt = prompts[index % len(prompts)] if "text_encoder" in model.paths else ""
        few = min(steps, 8)
        requests.append(defaults(model.manifest, prompt, index, steps=few, size=size, conditions=varied))
    found = generate(model, requests, keep)
    if "encoder" in model.paths and "images" in found[0]:
        for result in found:
            unit = result["images"].transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1
            keep("encoder", {"sample": unit})
    return {"source": f"{count} trajectories of the FP32 graphs, {requests[0].steps} steps each", "rows": places}


def drawn_conditions(manifest, index):
    random, found = np.random.default_rng(index), {}
    for name, entry in manifest.get("conditions", {}).items():
        low, high = entry.get("range", [0, 0])
        value = random.uniform(low, high)
        found[name] = int(round(value)) if entry.get("whole") else float(value)
    return found


def golden(result, path: Path):
    """Writes a golden for `safelight verify`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **result)
