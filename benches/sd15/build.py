"""Builds a latent consistency model of Stable Diffusion 1.5's size from random weights, for measuring time and memory.

    python benches/sd15/build.py FOLDER [--only int8 int8-inline int8-fused fp32]

writes a model folder of each kind into FOLDER. The pictures are noise. See README.md beside this file.
"""

import argparse
import hashlib
import io
import shutil
from pathlib import Path

import networks
import onnx
import qdq
import torch

ROOT = Path(__file__).resolve().parents[2]
OPSET = 17
# Folder: the precision of its graphs, whether attention is fused, whether weights are inside the graph's file.
KINDS = {
    "int8": ("int8", False, False),
    "int8-inline": ("int8", False, True),
    "int8-fused": ("int8", True, False),
    "int8-fused-inline": ("int8", True, True),
    "fp32": ("fp32", False, False),
}
STAGES = ["text_encoder", "denoiser", "decoder"]

MANIFEST = """\
# Written by benches/sd15/build.py: random weights.
schema: safelight-model/1
name: sd15-random-{kind}
title: Stable Diffusion 1.5's size, latent consistency, random weights
licence: Apache-2.0
picture: {{ width: 512, height: 512 }}
latent: {{ channels: 4, downscale: 8, scale: 1.0, shift: 0.0 }}
training:
  beta_start: 0.00085
  beta_end: 0.012
  betas: scaled_linear
  prediction: epsilon
  steps_offset: 1
  original_steps: 50
tokenizer: {{ file: tokenizer.json, length: 77, start: 0, end: 1, pad: 1 }}
defaults: {{ sampler: lcm, schedule: lcm, steps: 4, guidance: 1.0 }}
stages:
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS))
    args = parser.parse_args()
    torch.set_grad_enabled(False)
    for kind in args.only:
        folder = args.folder / kind
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        graphs = {stage: build(stage, folder, *KINDS[kind]) for stage in STAGES}
        # The shipped model's vocabulary is small and has CLIP's form; CLIP's own is not ours to copy.
        shutil.copy(ROOT / "models/emoji/tokenizer.json", folder)
        write_manifest(folder, kind, graphs)


def build(stage, folder, precision, fused, inline):
    """Writes one graph, and returns its path."""
    torch.manual_seed(0)
    network = network_of(stage, fused).eval()
    networks.flatten_linear_layers(network)
    shell = export(network)
    weights = {name: parameter.numpy() for name, parameter in network.state_dict().items()}
    # Weights are the inputs that the exporter adds; it leaves out those that are equal to another.
    names = {entry.name for entry in shell.graph.input} - set(network.names[0])
    weights = {name: weights[name] for name in names}
    if precision == "int8":
        model, initializers = qdq.quantize(shell, weights, networks.ranges(network))
    else:
        model, initializers = qdq.fill(shell, weights)
    path = folder / f"{stage}.onnx"
    qdq.save(model, initializers, path, inline)
    size = sum(array.nbytes for array in initializers.values()) / 1e6
    print(f"{path}: {len(model.graph.node)} nodes, {size:.0f} MB of weights", flush=True)
    return path


def network_of(stage, fused):
    match stage:
        case "text_encoder":
            return networks.TextEncoder()
        case "denoiser":
            return networks.UNet(fused)
        case "decoder":
            return networks.Decoder()


def export(network):
    """The network's graph without its weights, which would take twice the memory. Nothing is folded either: that would make
    new weights without names."""
    buffer = io.BytesIO()
    inputs, outputs = network.names
    torch.onnx.export(
        network, network.examples()[0], buffer, dynamo=False, export_params=False, opset_version=OPSET,
        do_constant_folding=False, input_names=inputs, output_names=outputs, custom_opsets={"com.microsoft": 1},
    )
    return onnx.load_from_string(buffer.getvalue())


def write_manifest(folder, kind, graphs):
    text = MANIFEST.format(kind=kind)
    for stage, path in graphs.items():
        data = path.with_name(f"{path.name}.data")
        extra = f", data: [{{ {entry(data)} }}]" if data.exists() else ""
        text += f"  {stage}:\n    graphs:\n      {KINDS[kind][0]}: {{ {entry(path)}{extra} }}\n"
    (folder / "model.yaml").write_text(text)


def entry(path):
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return f"file: {path.name}, bytes: {path.stat().st_size}, sha256: {digest}"


if __name__ == "__main__":
    main()
