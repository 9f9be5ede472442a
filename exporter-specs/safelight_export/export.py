"""The whole way of an export, step by step: trace and prove, optimise, lower the precision, describe, report."""

import sys
from pathlib import Path

import diffusers
import onnx
import onnxruntime
import torch
import transformers

from . import lower, manifest, trace, words
from .compact import compact
from .files import write_json
from .graphs import Graph
from .manifest import GRAPHS, Manifest
from .spec import PRECISIONS, STAGES
from .steps import Steps, modules
from .take import Graphs, take

# Cells of a latent on a side, for the proof against PyTorch.
SIDE = 8
VERSIONS = {part.__name__: part.__version__ for part in (torch, diffusers, transformers, onnx, onnxruntime)}
DENOISERS = ("unet", "transformer")


class Export:
    """One export: a spec, where the weights of each component come from, and where it goes."""

    def __init__(self, spec, sources, out: Path, precisions, static=None, plain=False, calibration=None):
        self.spec, self.sources, self.out = spec, sources, out
        self.precisions, self.static, self.plain, self.calibration = precisions, static, plain, calibration
        self.work = out.with_name(f"{out.name}.work")
        self.results = {}
        self.samples_in = {}

    def run(self, again=False, only=()):
        """Makes what is not there yet; returns what the report holds."""
        steps = Steps(self.work, again, only)
        fp32 = {folder: self.traced(steps, folder) for folder in self.spec.components}
        if not self.plain:
            fp32 = {folder: self.optimised(steps, folder, path) for folder, path in fp32.items()}
        found = self.lowered(steps, fp32)
        steps.check_only()
        export = {"name": self.out.name, "spec": self.spec.name, "versions": VERSIONS} | {
            "precisions": list(self.precisions),
            "components": self.results,
            "steps": steps.told,
            **found,
        }
        if "comparison" in found:
            lower.reported(self, export)
        return export

    def lowered(self, steps, fp32):
        """Every precision asked for, described; and where they are of other numbers than FP32, what that does."""
        content, graphs, found = self.described(steps), {STAGES[folder]: path for folder, path in fp32.items()}, {}
        if set(self.precisions) != {"fp32"}:
            self.samples_in, found["calibration"] = lower.calibrated(self, steps, content, graphs)
        for folder, path in fp32.items():
            self.precise(steps, folder, path)
        content = self.described(steps, () if self.plain else lower.goldens(self, steps, content))
        self.tell_left()
        manifest.write(self.out / "model.yaml", content, self.provenance(steps))
        steps.tell("manifest", "made", 0.0)
        if "calibration" in found:
            found["comparison"] = lower.compared(self, steps, content, graphs, self.samples_in)
        return found

    def traced(self, steps, folder):
        component, source = self.spec.components[folder], self.sources[folder]
        target = self.work / "fp32" / folder
        if isinstance(source, Graphs):
            make = lambda temporary: take(source.graph(folder), temporary / "model.onnx")
            inputs = [*source.inputs(folder), *modules("take", "graphs")]
            self.results[folder] = {"trace": steps.run(f"take:{folder}", inputs, target, make)}
            return target / "model.onnx"

        def make(temporary):
            model = source.load(component)
            traced = trace.TRACES[component.trace](model, **component.options)
            static = self.static and [side // self.downscale() for side in self.static]
            sets = trace.sizes(self.side(folder), self.downscale(), static)
            found = trace.export(traced, temporary / "model.onnx", sets, static)
            return found | {"inputs": list(traced.inputs), "outputs": list(traced.outputs)}

        inputs = [*source.inputs(component.source), *modules("trace", "checkpoint")]
        found = steps.run(f"trace:{folder}", inputs, target, make, component=vars(component), static=self.static)
        self.results[folder] = {"trace": found}
        return target / "model.onnx"

    def optimised(self, steps, folder, path):
        from . import optimise

        target, recipe = self.work / "optimised" / folder, self.recipe(folder).get("optimise", {})
        make = lambda temporary: optimise.optimise(path, temporary / "model.onnx", recipe)
        inputs = [*with_data(path), *modules("optimise", "shapes", "graphs", "recipe")]
        self.results[folder]["optimise"] = steps.run(f"optimise:{folder}", inputs, target, make, recipe=recipe)
        return target / "model.onnx"

    def precise(self, steps, folder, path):
        for precision in self.precisions:
            target, name = self.out / folder, GRAPHS[precision]
            recipe = self.recipe(folder).get(precision, {})
            make = lambda temporary: self.lower(precision, path, temporary / name, recipe, folder)
            inputs = [*with_data(path), *modules(*MODULES[precision]), *self.samples_of(precision, folder)]
            found = steps.run(f"{precision}:{folder}", inputs, target, make, recipe=recipe)
            self.results[folder][precision] = found

    def lower(self, precision, path, out, recipe, folder):
        if precision == "fp32":
            return copy_graph(path, out)
        from . import half, quantise

        function = {"fp16": half.to_half, "int8": quantise.to_int8}[precision]
        return function(path, out, recipe, self.samples(folder))

    def samples(self, folder):
        return lower.samples(self.samples_in[STAGES[folder]], STAGES[folder])

    def samples_of(self, precision, folder):
        stage = STAGES[folder]
        return sorted(self.samples_in[stage].glob(f"{stage}-*.npz")) if precision != "fp32" else []

    def described(self, steps, goldens=()):
        """Writes configs, tokenizers and scheduler as diffusers has them; returns the manifest's content."""
        main = self.sources[next(folder for folder in DENOISERS if folder in self.spec.components)]
        index, scheduler, tokenizers = main.index(), main.config("scheduler"), {}
        configs = {folder: self.config(folder) for folder in self.spec.components}
        for folder, config in configs.items():
            write_json(self.out / folder / "config.json", {name: config[name] for name in config if name != "hidden"})
        write_json(self.out / "scheduler/scheduler_config.json", scheduler)
        if index:
            write_json(self.out / "model_index.json", index)
        for folder, name in (("text_encoder", "tokenizer"), ("text_encoder_2", "tokenizer_2")):
            if folder in self.spec.components:
                fixed = self.spec.tokenizers.get(name, {})
                entry = words.copy_tokenizer(main.tokenizer(name), self.out / name, fixed)
                tokenizers[name] = {"file": f"{name}/tokenizer.json"} | entry
        described = Manifest(self.spec, configs, scheduler, tokenizers, index, self.static)
        return described.content(self.out, steps.hash, self.precisions, goldens)

    def tell_left(self):
        """Graphs of an earlier export, in precisions that this one was not asked for, may be of other weights."""
        for folder in self.spec.components:
            for precision in set(PRECISIONS) - set(self.precisions):
                if (path := self.out / folder / GRAPHS[precision]).is_file():
                    print(f"{path} is from an earlier export and not listed; remove it, or ask for {precision}", file=sys.stderr)

    def provenance(self, steps):
        """Lines for people: by what this was made, and from which weights."""
        versions = ", ".join(f"{name} {version}" for name, version in VERSIONS.items())
        return [
            f"Written by python -m safelight_export {self.spec.path.name}.",
            f"With {versions}.",
            f"Sources of the spec: {'; '.join(self.spec.sources)}",
            *dict.fromkeys(line for folder in self.spec.components for line in self.weights(steps, folder)),
        ]

    def weights(self, steps, folder):
        source = self.spec.components[folder].source
        files = (path for path in self.sources[folder].inputs(source) if path.suffix not in (".json", ".txt"))
        return [f"{source} from {path.name}, sha256 {steps.hash(path)}" for path in files]

    def config(self, folder):
        component = self.spec.components[folder]
        config = self.sources[folder].config(component.source)
        hidden = next((name for name in self.results[folder]["trace"]["outputs"] if name.startswith("hidden_")), None)
        return config | ({"hidden": hidden} if hidden else {})

    def recipe(self, folder):
        return self.spec.recipe.get(STAGES[folder], {})

    def downscale(self):
        if "latent" in self.spec.manifest:
            return self.spec.manifest["latent"]["downscale"]
        if "vae_decoder" not in self.spec.components:
            return 1
        component = self.spec.components["vae_decoder"]
        return 2 ** (len(manifest.vae_widths(self.sources["vae_decoder"].config(component.source))) - 1)

    def side(self, folder):
        """Latent cells for the proof: few, but as many as a U-Net can halve."""
        config = self.sources[folder].config(self.spec.components[folder].source)
        if folder == "transformer":
            return config["sample_size"]
        return max(SIDE, 2 ** (len(config.get("block_out_channels", [0])) - 1))


MODULES = {
    "fp32": ("compact", "graphs"),
    "fp16": ("half", "quantise", "shapes", "graphs", "recipe", "calibration"),
    "int8": ("quantise", "graphs", "recipe", "calibration"),
}


def with_data(path):
    return [file for file in (path, path.with_name(f"{path.name}_data")) if file.is_file()]


def copy_graph(path, out):
    graph = compact(Graph.load(path))
    graph.save(out)
    return {"bytes": sum(file.stat().st_size for file in with_data(out)), "nodes": len(graph.nodes)}
