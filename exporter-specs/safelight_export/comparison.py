"""The precisions of an export beside each other: pictures of the same seeds, error a step, time a step, and where an
INT8 step spends its time."""

import base64
import io
import json
import os
import platform
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

from . import trajectories
from .graphs import Graph, Session, relative_l2
from .optimise import threads

ORDER = ("fp32", "fp16", "int8")
SEEDS = (1, 2, 3)
ROUNDS = 5
# Sessions of all precisions are open at once, and run in turns, up to this much.
TOGETHER_BYTES = 3_000_000_000
THUMBNAIL = 256


def compare(manifest, root: Path, graphs, row, prompts, size=None) -> dict:
    """`graphs` are paths by precision and stage, `row` one sample of what the denoiser is given."""
    found = {"machine": machine(), "precisions": [name for name in ORDER if name in graphs]}
    found["pictures"] = pictures(manifest, root, graphs, prompts, size)
    found["latency"] = latency({name: graphs[name]["denoiser"] for name in found["precisions"]}, row)
    if "int8" in graphs:
        found["profile"] = profile(graphs["int8"]["denoiser"], row)
    return found


def machine():
    model = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    versions = {"onnxruntime": onnxruntime.__version__, "numpy": np.__version__, "python": platform.python_version()}
    return {"cpu": model, "cores": os.cpu_count(), "threads": threads(), "system": platform.platform(), **versions}


def pictures(manifest, root, graphs, words, size):
    """For each seed and precision: the picture as PNG, its PSNR and the latents' distance at each step to FP32's."""
    prompts = words if "text_encoder" in graphs["fp32"] else [""] * len(SEEDS)
    requests = []
    for index, seed in enumerate(SEEDS):
        changes = {"steps": min(manifest["defaults"]["steps"], 8), "size": size}
        changes["conditions"] = trajectories.drawn_conditions(manifest, seed)
        requests.append(trajectories.defaults(manifest, prompts[index], seed, **changes))
    results = {}
    for name in (name for name in ORDER if name in graphs):
        results[name] = trajectories.generate(trajectories.Model(manifest, root, graphs[name]), requests)
    rows = []
    for index, request in enumerate(requests):
        reference, shown = results["fp32"][index], {}
        for name, found in results.items():
            shown[name] = beside(found[index], reference)
        rows.append({"prompt": request.prompt, "seed": request.seed, "steps": request.steps, "precisions": shown})
    return rows


def beside(result, reference):
    steps = [relative_l2(got, wanted) for got, wanted in zip(result["steps"], reference["steps"])]
    found = {"steps": steps, "latents": relative_l2(result["latents"], reference["latents"])}
    image = picture_of(result)
    if image is not None:
        found |= {"png": png(image), "psnr": psnr(image, picture_of(reference))}
    return found


def picture_of(result):
    if "images" in result:
        return result["images"][0]
    latents = result["latents"][0]
    if len(latents) not in (1, 3):
        return None
    unit = np.clip(latents / 2 + 0.5, 0, 1)
    return np.repeat((unit * 255).round().astype(np.uint8).transpose(1, 2, 0), 3 // len(latents), -1)


def png(image):
    picture = Image.fromarray(image)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    written = io.BytesIO()
    picture.save(written, "PNG", optimize=True)
    return base64.b64encode(written.getvalue()).decode()


def psnr(image, reference):
    """In decibels; None where they are the same."""
    error = np.mean((image.astype(np.float64) - reference) ** 2)
    return None if error == 0 else float(10 * np.log10(255**2 / error))


def latency(paths, row):
    """Milliseconds a step, and ratios to FP32 in turns: median, least, greatest."""
    loaded = {name: Graph.load(path) for name, path in paths.items()}
    together = sum(graph.bytes() for graph in loaded.values()) <= TOGETHER_BYTES
    del loaded
    samples = {name: [] for name in paths}
    if together:
        sessions = {name: session(path) for name, path in paths.items()}
        for name in sessions:
            sessions[name].run(row)
        for _ in range(ROUNDS):
            for name in sessions:
                samples[name].append(timed(sessions[name], row))
    else:
        for _ in range(2):
            for name, path in paths.items():
                alone = session(path)
                alone.run(row)
                samples[name].append(timed(alone, row))
                del alone
    first = samples["fp32"]
    found = {}
    for name, each in samples.items():
        ratios = sorted(mine / base for mine, base in zip(each, first))
        found[name] = {"ms": statistics.median(each), "samples": each, "ratio": [statistics.median(ratios), ratios[0], ratios[-1]]}
    return found


def session(path, prefix=None):
    """As safelight opens a graph: all optimisations, no memory pattern."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads()
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    if prefix:
        options.enable_profiling, options.profile_file_prefix = True, prefix
    return Session(onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]))


def timed(run, row):
    start = time.perf_counter()
    run.run(row)
    return (time.perf_counter() - start) * 1000


def profile(path, row, runs=3):
    """Milliseconds a run by operator, after one run that is left out, and what is in integers."""
    with tempfile.TemporaryDirectory() as folder:
        run = session(path, f"{folder}/profile")
        for _ in range(runs + 1):
            run.run(row)
        events = json.loads(Path(run.session.end_profiling()).read_text())
    kernels = [e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
    kernels = kernels[len(kernels) // (runs + 1) :]
    spent = Counter()
    for event in kernels:
        spent[event["args"]["op_name"]] += event["dur"] / 1000 / runs
    total = sum(spent.values())
    return {"total_ms": total, "operators": dict(spent.most_common()), "lever": lever(spent, total)}


KERNELS, LITTLE = "integer convolutions and linear layers", 0.15
GROUPS = {
    KERNELS: (
        "QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat", "ConvInteger", "MatMulInteger", "QLinearAdd",
        "DynamicQuantizeMatMul",
    ),
    "attention in float": ("MultiHeadAttention", "Attention", "Softmax", "MatMul", "FusedMatMul"),
    "rounding between the two": ("QuantizeLinear", "DequantizeLinear"),
    "float convolutions and linear layers": ("Conv", "Gemm", "FusedConv", "FusedGemm", "NhwcFusedConv"),
    "norms": ("InstanceNormalization", "LayerNormalization", "SkipLayerNormalization", "GroupNorm", "ReduceMean"),
    "moving data": ("Transpose", "Reshape", "Concat", "Slice", "Split", "Resize", "Gather", "ReorderInput", "ReorderOutput", "Expand"),
}  # fmt: skip
LEVERS = {
    KERNELS: "fewer operations: a smaller network, or a cache of what changes little from step to step",
    "attention in float": "attention in lower precision (BF16 of another provider) or over fewer tokens",
    "rounding between the two": "more of the nodes between quantised layers in INT8, so that fewer tensors are rounded back and forth",
    "float convolutions and linear layers": "a larger error budget, or training with rounding, so that fewer layers stay in float",
    "norms": "norms as one node each, or networks with fewer of them",
    "moving data": "one layout from end to end, so that tensors need not be transposed or joined",
    "the rest": "element by element operations joined to the layers before them",
}


def lever(spent, total):
    """Which group takes most of what is not integer arithmetic, its share, and what would make it less."""
    group_of = {operator: group for group, operators in GROUPS.items() for operator in operators}
    shares = Counter()
    for operator, ms in spent.items():
        shares[group_of.get(operator, "the rest")] += ms / max(total, 1e-9)
    # Integer kernels are what the rest was to become: they are the lever only where little else is left.
    others = [entry for entry in shares.most_common() if entry[0] != KERNELS and entry[1] >= LITTLE]
    group, share = (others or shares.most_common(1))[0]
    return {"group": group, "share": share, "next": LEVERS[group], "shares": dict(shares.most_common())}
