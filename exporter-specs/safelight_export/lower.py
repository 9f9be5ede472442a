"""The steps of an export that need whole pictures: samples to calibrate with, goldens, precisions beside each other.

PyTorch and diffusers step here too, by `trajectories`; the graphs run in ONNX Runtime.
"""

import numpy as np

from . import calibration, comparison, report, trajectories
from .fault import Fault
from .manifest import GRAPHS
from .spec import STAGES
from .steps import modules

# Enough for ranges of a few-step model; what a device records itself is better.
TRAJECTORIES = 8
GOLDENS = ({"prompt": "a red apple", "seed": 3}, {"prompt": "a lighthouse at dusk, oil painting", "seed": 7})
# On a CPU, FP16 graphs compute in float32: the best of what is shipped.
GOLDEN_PRECISIONS = ("fp32", "fp16")


def calibrated(run, steps, content, graphs):
    """({stage: folder of its samples}, where they are from): what was recorded, or trajectories of the FP32 graphs.

    A stage that no recorded request ran, such as the encoder where pictures came from words, has those all the same.
    """
    recorded = [stage for stage in graphs if run.calibration and any(run.calibration.glob(f"{stage}-*.npz"))]
    if run.calibration and not recorded:
        raise Fault(f"calibration {run.calibration}: holds no samples of {', '.join(graphs)}")
    missing = [stage for stage in graphs if stage not in recorded]
    places, source = dict.fromkeys(recorded, run.calibration), f"recorded in {run.calibration and run.calibration.name}"
    if not missing:
        return places, {"source": source}
    folder = run.work / "calibration"
    found = walked(run, steps, content, graphs, folder)
    if recorded:
        found = found | {"source": f"{source}; of {', '.join(missing)}: {found['source']}"}
    return places | dict.fromkeys(missing, folder), found


def walked(run, steps, content, graphs, folder):
    def make(temporary):
        model = trajectories.Model(content, run.out, graphs)
        prompts = run.spec.prompts or trajectories.PROMPTS
        return trajectories.record(model, temporary, prompts, max(TRAJECTORIES, len(run.spec.prompts)), run.static)

    inputs, settings = [*with_data(graphs.values()), *modules("trajectories", "graphs")], {"prompts": run.spec.prompts}
    return steps.run("calibration", inputs, folder, make, defaults=content["defaults"], static=run.static, **settings)


def samples(folder, stage):
    return calibration.Samples(folder).stage(stage)


def goldens(run, steps, content):
    """Requests with their numbers, for `safelight verify`; none where diffusers has not the model's default sampler."""
    precision = next((name for name in GOLDEN_PRECISIONS if name in run.precisions), None)
    if precision is None or not trajectories.exact(content):
        return []
    graphs = {STAGES[folder]: run.out / folder / GRAPHS[precision] for folder in run.spec.components}
    folder = run.out / "golden"

    def make(temporary):
        asked = [dict(entry) for entry in run.spec.goldens or GOLDENS]
        if "text_encoder" not in graphs:
            asked = [entry | {"prompt": ""} for entry in asked]
        requests = [trajectories.defaults(content, **entry) for entry in asked]
        model = trajectories.Model(content, run.out, graphs)
        found = []
        for request, result in zip(requests, trajectories.generate(model, requests)):
            name = f"{request.prompt.replace(',', '').replace(' ', '-') or 'seed'}-{request.seed}.npz"
            np.savez(temporary / name, **result)
            found.append({"prompt": request.prompt, "seed": request.seed, "steps": request.steps, "precision": precision, "name": name})
        return {"requests": found}

    inputs = [*with_data(graphs.values()), *modules("trajectories", "lower")]
    found = steps.run("goldens", inputs, folder, make, defaults=content["defaults"], asked=run.spec.goldens)
    return [golden(run, steps, dict(entry)) for entry in found["requests"]]


def golden(run, steps, entry):
    path = run.out / "golden" / entry.pop("name")
    place = {"file": path.relative_to(run.out).as_posix(), "bytes": path.stat().st_size, "sha256": steps.hash(path)}
    return entry | place


def compared(run, steps, content, fp32, places):
    """Precisions beside each other, where there is more than FP32."""
    lowered = [name for name in run.precisions if name != "fp32"]
    graphs = {"fp32": fp32}
    for name in lowered:
        graphs[name] = {STAGES[part]: run.out / part / GRAPHS[name] for part in run.spec.components}
    row = next(iter(samples(places["denoiser"], "denoiser")))
    prompts = run.spec.prompts or trajectories.PROMPTS
    make = lambda _: comparison.compare(content, run.out, graphs, row, prompts, run.static)
    inputs = [*with_data(path for each in graphs.values() for path in each.values()), *modules("comparison", "trajectories")]
    return steps.run("comparison", inputs, run.work, make, defaults=content["defaults"])


def reported(run, export):
    report.write(run.out / "report.html", export)


def with_data(paths):
    return [file for path in paths for file in (path, path.with_name(f"{path.name}_data")) if file.is_file()]
