"""A check by hand: real libraries from the registry of Python packages, on a Linux x86-64 computer without a GPU.

    cargo build --release
    python tests/reference/check_providers.py target/providers     # fetches 400 MB into that folder, once

The tests of `cargo test` see the CPU build alone. Here the GPU build is asked for a GPU that is not there, OpenVINO runs
compiled into ONNX Runtime and as a plug-in, part of a graph falls back, and a plug-in finds no device. Fails where
safelight does not do or tell what is written beside each case. Needs the package onnx.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

ROOT = Path(__file__).resolve().parents[2]
SAFELIGHT = ROOT / "target/release/safelight"
WHEELS = {
    "gpu": "onnxruntime-gpu==1.31.1",
    "openvino": "onnxruntime-openvino==1.24.1",
    "openvino-plugin": "onnxruntime-ep-openvino==1.8.1",
    "webgpu-plugin": "onnxruntime-ep-webgpu==0.4.0",
}
CPU = "{ name: cpu, need: required }"
APPLE = ["generate", "a red apple", "--seed", "3", "--json", "--out", "apple.png"]


def main():
    folder = Path(sys.argv[1]).resolve()
    libraries = {name: fetch(folder / name, requirement) for name, requirement in WHEELS.items()}
    gpu, openvino = (libraries[name] / "onnxruntime/capi" for name in ("gpu", "openvino"))
    plugin = libraries["openvino-plugin"] / "onnxruntime_ep_openvino/libonnxruntime_providers_openvino_plugin.so"
    webgpu = libraries["webgpu-plugin"] / "onnxruntime_ep_webgpu/libonnxruntime_providers_webgpu.so"
    work = folder / "work"
    work.mkdir(exist_ok=True)

    def check(what, providers, arguments, code, *told, library=ROOT / ".onnxruntime/host", more=""):
        target = work / "board.yaml"
        listed = "".join(f"- {provider}\n" for provider in [*providers, CPU])
        head = "schema: safelight-target/1\nname: board\ntitle: T\nprecision: [int8, fp16, fp32]\n"
        target.write_text(f"{head}providers:\n{listed}{more}")
        command = [SAFELIGHT, *arguments, "--target", target]
        variables = {**os.environ, "SAFELIGHT_HOME": str(ROOT), "ORT_DYLIB_PATH": str(library)}
        run = subprocess.run(command, cwd=work, env=variables, capture_output=True, text=True)
        words = run.stdout + run.stderr
        print(f"{what}: exit {run.returncode}")
        print("".join(f"    {line[:300]}\n" for line in run.stderr.splitlines()), end="")
        assert run.returncode == code, words
        assert all(text in words for text in told), (told, words)
        return run.stdout

    need = "{{ name: {}, need: {} }}"
    reason = "libcublasLt.so.13: cannot open shared object file"
    check("GPU build, CUDA required", [need.format("cuda", "required")], APPLE, 4, reason, library=gpu)
    optional = [need.format("tensorrt", "optional"), need.format("cuda", "optional")]
    report = check("GPU build, both optional", optional, APPLE, 0, reason, "provider tensorrt is not used", library=gpu)
    assert graphs(report)["denoiser"]["providers"] == ["cpu"]

    built_in = ["{ name: openvino, need: required, options: { device_type: CPU } }"]
    report = check("OpenVINO build", built_in, APPLE, 0, library=openvino)
    nodes = {stage: graph["nodes"] for stage, graph in graphs(report).items()}
    assert all(list(of_stage) == ["openvino"] for of_stage in nodes.values()), nodes
    check("OpenVINO build, placement", built_in, ["place", "--strict"], 0, "100.0 % of the time", library=openvino)
    check("OpenVINO build, numbers", built_in, ["verify", "--precision", "fp16"], 0, library=openvino)
    wrong = ["{ name: openvino, need: required, options: { device_type: GPU } }"]
    check("OpenVINO build, no such device", wrong, APPLE, 4, "the target requires provider openvino", library=openvino)

    partly = ["--model", model_with_unique(work)]
    fallen = check("part of a graph falls back", built_in, [*APPLE, *partly], 0, library=openvino)
    assert graphs(fallen)["decoder"]["nodes"]["cpu"] == 1
    check("… measured", built_in, ["place", *partly], 0, "elsewhere", "1 Unique", library=openvino)
    check("… forbidden", built_in, ["place", "--strict", *partly], 4, "1 Unique", library=openvino)
    few = "allow_fallback: 0.001\n"
    told = ("did not go to openvino, and allow_fallback is 0.001", "1 Unique to cpu")
    check("… more than allowed", built_in, [*APPLE, *partly], 4, *told, library=openvino, more=few)
    check("… not more", built_in, [*APPLE, *partly], 0, library=openvino, more="allow_fallback: 0.1\n")

    loaded = [f"{{ name: openvino, need: required, library: {plugin} }}"]
    check("OpenVINO as a plug-in", loaded, ["verify", "--precision", "fp16"], 0)
    report = check("… on the CPU build", loaded, APPLE, 0)
    assert list(graphs(report)["denoiser"]["nodes"]) == ["openvino"]
    on_gpu = [f"{{ name: openvino, need: required, library: {plugin}, device: gpu }}"]
    check("… on a GPU", on_gpu, APPLE, 4, "offers cpu here, and no gpu")
    check("a plug-in without its device", [f"{{ name: webgpu, need: required, library: {webgpu} }}"], APPLE, 4, "offers no device")
    print("all as written")


def fetch(folder, requirement):
    """The files of a wheel."""
    if not folder.exists():
        wheels = folder.with_suffix(".wheels")
        wheels.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", wheels, requirement]
        subprocess.run(pip, check=True)
        with zipfile.ZipFile(next(wheels.glob("*.whl"))) as wheel:
            wheel.extractall(folder)
        shutil.rmtree(wheels)
    return folder


def graphs(report):
    return json.loads(report)["pictures"][0]["provenance"]["graphs"]


def model_with_unique(work):
    """The emoji model with a Unique, which OpenVINO does not take, behind its decoder; the picture stays the same."""
    folder = work / "unique"
    shutil.copytree(ROOT / "models/emoji", folder, dirs_exist_ok=True)
    path = folder / "vae_decoder.int8.onnx"
    model = onnx.load(path)
    graph = model.graph
    output = graph.output[0].name
    for node in graph.node:
        node.output[:] = ["before" if name == output else name for name in node.output]
    graph.initializer.append(numpy_helper.from_array(np.array(0, np.float32), "zero"))
    graph.node.extend([
        helper.make_node("Unique", ["before"], ["unique"], "/unique"),
        helper.make_node("ReduceMax", ["unique"], ["largest"], "/largest", keepdims=0),
        helper.make_node("Mul", ["largest", "zero"], ["nothing"], "/nothing"),
        helper.make_node("Add", ["before", "nothing"], [output], "/sum"),
    ])
    onnx.save(model, path)
    content = path.read_bytes()
    told = f"vae_decoder.int8.onnx, bytes: {len(content)}, sha256: {hashlib.sha256(content).hexdigest()}"
    manifest = (folder / "model.yaml").read_text()
    (folder / "model.yaml").write_text(re.sub(r"vae_decoder\.int8\.onnx, bytes: \d+, sha256: \w+", told, manifest))
    return folder


if __name__ == "__main__":
    main()
