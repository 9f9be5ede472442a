"""`model.yaml`: everything that a runtime must know of an export, and nothing that it must guess."""

from pathlib import Path

import yaml

from .fault import Fault
from .files import write_text
from .spec import PRECISIONS, STAGES

SCHEMA = "safelight-model/1"
GRAPHS = {"int8": "model_int8.onnx", "fp16": "model_fp16.onnx", "fp32": "model.onnx"}
ORDER = ["text_encoder", "text_encoder_2", "denoiser", "decoder", "encoder"]


class Manifest:
    """What is known of an export before its files are listed."""

    def __init__(self, spec, configs, scheduler, tokenizers, index, static=None):
        self.spec, self.configs, self.scheduler = spec, configs, scheduler
        self.tokenizers, self.index, self.static = tokenizers, index, static

    def content(self, out: Path, digest, precisions, goldens=()):
        """The manifest as a dict, of the graphs that are there; `digest(path)` gives a file's sha256."""
        spec, fixed = self.spec, self.spec.manifest
        latent = fixed.get("latent") or self.latent()
        content = {
            "schema": SCHEMA,
            "name": out.name,
            "title": spec.title,
            "licence": spec.licence,
            "picture": self.picture(latent),
            "latent": latent,
            **self.process(),
            **self.tokenizers,
        }
        if self.index.get("force_zeros_for_empty_prompt"):
            content["empty_prompt"] = "zeros"
        content |= {key: fixed[key] for key in ("conditions", "defaults", "range") if key in fixed}
        content["stages"] = self.stages(out, digest, precisions)
        if goldens:
            content["goldens"] = list(goldens)
        return content

    def process(self):
        if "edm" in self.spec.manifest:
            return {"edm": self.spec.manifest["edm"]}
        if "beta_start" in self.spec.manifest.get("training", {}):
            return {"training": self.spec.manifest["training"]}
        return {
            "training": training(self.scheduler, self.index.get("_class_name", ""))
            | self.spec.manifest.get("training", {})
        }

    def latent(self):
        """From the decoder's own config; a model in pixel space has none."""
        vae, denoiser = self.configs.get("vae_decoder"), self.denoiser()
        if vae is None:
            return {"channels": denoiser["in_channels"], "downscale": 1, "scale": 1.0}
        if vae.get("scaling_factor") is None:
            raise Fault("the decoder's config.json has no scaling_factor: add it there, or latent: to the spec")
        latent = {
            "channels": vae["latent_channels"],
            "downscale": 2 ** (len(vae_widths(vae)) - 1),
            "scale": vae["scaling_factor"],
        }
        # AutoencoderTiny has a latent_shift of another meaning, inside its graph.
        return latent | ({"shift": vae["shift_factor"]} if vae.get("shift_factor") else {})

    def picture(self, latent):
        if self.static:
            return {"width": self.static[1], "height": self.static[0]}
        if "picture" in self.spec.manifest:
            return self.spec.manifest["picture"]
        side = self.denoiser()["sample_size"]
        height, width = side if isinstance(side, (list, tuple)) else (side, side)
        factor = latent["downscale"]
        multiple = factor * 2 ** (len(self.denoiser().get("block_out_channels", [0])) - 1)
        size = {"width": width * factor, "height": height * factor}
        # Learnt positions of a transformer fix its size.
        return size if "transformer" in self.configs else size | {"multiple": multiple}

    def denoiser(self):
        return self.configs.get("unet") or self.configs["transformer"]

    def stages(self, out, digest, precisions):
        stages = {}
        for folder in sorted(self.configs, key=lambda folder: ORDER.index(STAGES[folder])):
            names = {name: out / folder / GRAPHS[name] for name in PRECISIONS if name in precisions}
            graphs = {precision: graph(out, path, digest) for precision, path in names.items() if path.is_file()}
            stages[STAGES[folder]] = {"graphs": graphs} | self.renamed(folder)
        return stages

    def renamed(self, folder):
        hidden = self.configs[folder].get("hidden")
        return {"tensors": {"last_hidden_state": hidden}} if hidden else {}


def graph(out, path, digest):
    entry = listed(out, path, digest)
    data = path.with_name(f"{path.name}_data")
    return entry | ({"data": [listed(out, data, digest)]} if data.is_file() else {})


def listed(out, path, digest):
    return {"file": path.relative_to(out).as_posix(), "bytes": path.stat().st_size, "sha256": digest(path)}


def vae_widths(config):
    return config.get("block_out_channels") or config["decoder_block_out_channels"]


def training(scheduler, pipeline):
    """The noise levels that a scheduler's config states, with diffusers' defaults where it does not."""
    name = scheduler.get("_class_name", "")
    if "beta_start" not in scheduler and "edm" not in name:
        raise Fault(f"scheduler_config.json: {name} has no betas; the spec must say edm: or training:")
    if scheduler.get("trained_betas"):
        raise Fault("scheduler_config.json: trained_betas is set, which safelight does not have; expected null")
    # diffusers' own pipelines of Stable Diffusion make 1 of an older file's 0.
    least = 1 if pipeline.startswith("StableDiffusion") and "XL" not in pipeline else 0
    return {
        "timesteps": scheduler.get("num_train_timesteps", 1000),
        "beta_start": scheduler["beta_start"],
        "beta_end": scheduler.get("beta_end", 0.02),
        "betas": scheduler.get("beta_schedule", "linear"),
        "zero_terminal_snr": bool(scheduler.get("rescale_betas_zero_snr", False)),
        "prediction": scheduler.get("prediction_type", "epsilon"),
        "steps_offset": max(scheduler.get("steps_offset", 0), least),
        "set_alpha_to_one": scheduler.get("set_alpha_to_one", name != "PNDMScheduler"),
        "original_steps": scheduler.get("original_inference_steps", 50),
        "timestep_scaling": scheduler.get("timestep_scaling", 10.0),
    }


def write(path: Path, content, provenance):
    lines = [f"# {line}\n" for line in provenance]
    text = yaml.dump(content, Dumper=Flow, sort_keys=False, allow_unicode=True, width=1_000_000)
    write_text(path, "".join(lines) + text)


class Flow(yaml.SafeDumper):
    """One line for whatever has no maps inside, so that a file's entry is a line."""

    def represent_mapping(self, tag, value, flow_style=None):
        node = super().represent_mapping(tag, value, flow_style)
        inner = (entry for entry in value.values() if isinstance(entry, (dict, list)))
        # A graph with weights in a file of its own is one entry, too.
        node.flow_style = "sha256" in value or not any(isinstance(entry, dict) or nested(entry) for entry in inner)
        return node

    def represent_sequence(self, tag, value, flow_style=None):
        node = super().represent_sequence(tag, value, flow_style)
        node.flow_style = not nested(value)
        return node


def nested(value):
    return isinstance(value, list) and any(isinstance(entry, (dict, list)) for entry in value)


Flow.add_representer(dict, lambda dumper, value: dumper.represent_mapping("tag:yaml.org,2002:map", value))
Flow.add_representer(list, lambda dumper, value: dumper.represent_sequence("tag:yaml.org,2002:seq", value))
