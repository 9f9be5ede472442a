"""Stage 6: networks to ONNX graphs in FP32, FP16 and INT8 (QDQ).

    python export.py          # writes work/onnx/*.onnx and work/parity.json, and the graphs to ship to models/emoji

INT8 is static: signed weights of a scale a channel, unsigned activations, calibrated along the student's own trajectories.
Only convolutions and layers with weights are quantised; attention's products of activations stay in float.
"""

import json
import random
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16

from captions import Captions, Words
from common import MODEL, SIZE, WORK, load
from diffusion import ALPHAS, lcm_times
from networks import DOWNSCALE, LATENT, TEXT, WINDOW, Denoiser
from teacher import autoencoder, networks

sys.path.insert(0, str(Path(__file__).parents[1]))
import fold_shapes  # noqa: E402

SIDE = SIZE // DOWNSCALE
ONNX = WORK / "onnx"
# graph: (inputs with an example, output)
CONTRACTS = {
    "text_encoder": ({"input_ids": torch.ones(2, WINDOW, dtype=torch.int64)}, "last_hidden_state"),
    "unet": (
        {
            "sample": torch.randn(2, LATENT, SIDE, SIDE),
            "timestep": torch.tensor([999]),
            "encoder_hidden_states": torch.randn(2, WINDOW, TEXT),
        },
        "out_sample",
    ),
    "vae_decoder": ({"latent_sample": torch.randn(2, LATENT, SIDE, SIDE)}, "sample"),
    "vae_encoder": ({"sample": torch.rand(2, 3, SIZE, SIZE) * 2 - 1}, "latent_sample"),
}
# A single row each, that everything depends on: next to no time, and 2 dB.
CONDITION = ["/time/time.0/Gemm", "/time/time.2/Gemm", "/pooled/Gemm"]
# What is quantised, and which layers stay in float because rounding them shows: what meets pixels and latents.
QUANTISED = {
    "text_encoder": (["Gather", "Gemm"], []),
    "unet": (["Conv", "Gemm"], CONDITION),
    "vae_decoder": (["Conv", "Relu", "Add", "Resize"], ["/out/Conv"]),
    "vae_encoder": (["Conv", "Relu", "Add"], ["/patches/Conv", "/out/Conv"]),
}


def file(graph, precision):
    return ONNX / f"{graph}.{precision}.onnx"


def export(graph, network):
    """FP32, of any batch, everything that is constant folded."""
    inputs, output = CONTRACTS[graph]
    batched = [name for name, value in inputs.items() if len(value) == 2]
    path = file(graph, "fp32")
    torch.onnx.export(
        network,
        tuple(inputs.values()),
        path,
        input_names=list(inputs),
        output_names=[output],
        dynamic_axes={name: {0: "batch"} for name in [*batched, output]},
        opset_version=17,
        dynamo=False,
    )
    model = onnx.load(path)
    fold_shapes.fold(model)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def half(graph):
    model = convert_float_to_float16(onnx.load(file(graph, "fp32")), keep_io_types=True)
    compact(model)
    onnx.save(model, file(graph, "fp16"))


def compact(model):
    """Keeps equal constants once, gives inner tensors short names and forgets their noted shapes: a twentieth of a
    small graph's bytes."""
    graph = model.graph
    del graph.value_info[:]
    first, short = {}, {}
    for tensor in list(graph.initializer):
        content = (tensor.data_type, *tensor.dims, onnx.numpy_helper.to_array(tensor).tobytes())
        kept = first.setdefault(content, tensor.name)
        if kept != tensor.name:
            short[tensor.name] = kept
            graph.initializer.remove(tensor)
    outer = {tensor.name for tensor in (*graph.input, *graph.output, *graph.initializer)}
    inner = (name for node in graph.node for name in node.output if name and name not in outer)
    short |= {name: f"t{i}" for i, name in enumerate(inner)}
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [short.get(name, name) for name in names]


class Rows(CalibrationDataReader):
    def __init__(self, rows):
        self.rows = iter(rows)

    def get_next(self):
        return next(self.rows, None)


def quantise(graph, rows):
    """INT8 weights and activations in QDQ form, from rows of inputs."""
    kinds, kept = QUANTISED[graph]
    prepared = ONNX / "prepared.onnx"
    quant_pre_process(file(graph, "fp32"), prepared, skip_symbolic_shape=True)
    names = {node.name for node in onnx.load(prepared).graph.node}
    assert set(kept) <= names, f"{graph} has no {set(kept) - names}"
    quantize_static(
        prepared,
        file(graph, "int8"),
        Rows(rows),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=kinds,
        nodes_to_exclude=kept,
        per_channel=True,
        reduce_range=True,  # weights of 7 bits: with 8, x86 processors without VNNI overflow 16-bit sums
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,  # percentiles and averaged ranges cost 1 to 9 dB here
        extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm"]},
    )
    prepared.unlink()
    model = onnx.load(file(graph, "int8"))
    compact(model)
    onnx.checker.check_model(model)
    onnx.save(model, file(graph, "int8"))


def session(graph, precision, threads=1):
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession(str(file(graph, precision)), options, providers=["CPUExecutionProvider"])


def networks_of():
    """The four networks in the order of the data, by their graph's name."""
    coder, nets, student = autoencoder(), networks().eval(), Denoiser()
    nets.load_state_dict(load(WORK / "teacher.pt")["average"])
    student.load_state_dict(load(WORK / "student.pt")["average"])
    parts = [nets["text_encoder"], student.eval(), coder["decoder"], coder["encoder"]]
    return {graph: part.cpu().requires_grad_(False) for graph, part in zip(CONTRACTS, parts)}


def calibration(prompts):
    """What each graph is given along the trajectories of some prompts, one row a run."""
    rng = np.random.default_rng(0)
    rows = {graph: [] for graph in CONTRACTS}
    words = Words()
    run = {graph: session(graph, "fp32", threads=2) for graph in CONTRACTS}
    for seed, prompt in enumerate(prompts):
        ids = {"input_ids": np.array([words(prompt)])}
        rows["text_encoder"].append(ids)
        text = run["text_encoder"].run(None, ids)[0]

        def denoise(inputs):
            rows["unet"].append(inputs)
            return run["unet"].run(None, inputs)[0]

        latent = {"latent_sample": sample(denoise, text, int(rng.choice([1, 2, 4, 8])), seed)["latents"]}
        rows["vae_decoder"].append(latent)
        picture = {"sample": run["vae_decoder"].run(None, latent)[0].clip(-1, 1)}
        rows["vae_encoder"].append(picture)
    return rows


def sample(denoise, text, steps, seed):
    """Latent consistency sampling in NumPy with PyTorch's noise, as the runtime does it: all that a golden holds."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randn(1, LATENT, SIDE, SIDE, generator=generator).numpy()
    scale = lambda t: (float(ALPHAS[t]) ** 0.5, (1 - float(ALPHAS[t])) ** 0.5)
    times, estimates = lcm_times(steps), []
    z = initial = draw()
    for i, t in enumerate(times):
        v = denoise({"sample": z, "timestep": np.array([t]), "encoder_hidden_states": text})
        a, s = scale(t)
        denoised = (a * z - s * v).astype(np.float32)
        c_skip, c_out = boundary(t)
        estimates.append(z := (c_skip * z + c_out * denoised).astype(np.float32))
        if i + 1 < steps:
            a, s = scale(times[i + 1])
            z = (a * z + s * draw()).astype(np.float32)
    return {"initial": initial, "steps": np.stack(estimates), "latents": z}


def boundary(t, sigma_data=0.5, timestep_scaling=10.0):
    """(c_skip, c_out) of a consistency function, as diffusers' LCMScheduler has them: c_skip is next to nothing."""
    scaled = t * timestep_scaling
    return sigma_data**2 / (scaled**2 + sigma_data**2), scaled / (scaled**2 + sigma_data**2) ** 0.5


def parity(graph, network, rows):
    """Largest and mean difference from PyTorch, and the root mean square of what is compared."""
    found = {}
    run = {precision: session(graph, precision) for precision in ("fp32", "fp16", "int8")}
    for precision, graph_session in run.items():
        worst, total, power = 0.0, [], []
        for row in rows:
            with torch.no_grad():
                expected = network(*(torch.from_numpy(row[name]) for name in CONTRACTS[graph][0])).numpy()
            difference = np.abs(graph_session.run(None, row)[0] - expected)
            worst = max(worst, float(difference.max()))
            total.append(difference.mean())
            power.append(np.square(expected).mean())
        found[precision] = {"max": worst, "mean": float(np.mean(total)), "rms": float(np.mean(power) ** 0.5)}
    return found


def main():
    torch.manual_seed(0)
    ONNX.mkdir(exist_ok=True)
    captions, rng = Captions(), random.Random(1)
    prompts = [captions.draw(rng.randrange(len(captions.records)), rng) for _ in range(128)]
    parts = networks_of()
    for graph, part in parts.items():
        export(graph, part)
        half(graph)
    rows, report = calibration(prompts), {}
    for graph, part in parts.items():
        quantise(graph, rows[graph])
        report[graph] = parity(graph, part, rows[graph][:24])
        for precision, error in report[graph].items():
            print(f"{graph} {precision}: max {error['max']:.2e} mean {error['mean']:.2e} of rms {error['rms']:.2f}", flush=True)
    (WORK / "parity.json").write_text(json.dumps(report, indent=1))
    MODEL.mkdir(exist_ok=True)
    for graph in CONTRACTS:
        for precision in ("fp16", "int8"):
            shutil.copy(file(graph, precision), MODEL)
    shutil.copy(WORK / "tokenizer.json", MODEL)


if __name__ == "__main__":
    main()
