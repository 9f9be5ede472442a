"""Peak memory and time of the model that build.py made, by variants of a target, in turns.

    python benches/sd15/measure.py FOLDER [--kinds fused fused:fp32] [--variants ...] [--rounds 3] [--out FILE.json]

needs a release build and the fetched library. Every round runs every pair of kind and variant once, each in a process
of its own. Prints medians of memory, and ratios to the first pair, round by round. For one target, `safelight bench` tells
more; this one compares many, in turns.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BINARY = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release/safelight"

TARGET = """\
schema: safelight-target/1
name: measured
title: A variant that is measured
providers: [{providers}{{ name: cpu, need: required }}]
precision: [int8, fp32, fp16]
residency: {residency}
session: {{ {session} }}
"""
MALLOC_MMAP = {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=1048576"}
MALLOC_ONE = {"GLIBC_TUNABLES": "glibc.malloc.arena_max=1"}
# Residency, what each variant says of sessions, and what it adds to the environment.
VARIANTS = {
    "staged": ("staged", "memory_pattern: false", {}),  # which is what staged graphs have anyway
    # Of graphs with free axes: sizes that are not known before nothing plans for, and buffers are not kept for others.
    "sizes free": ("staged", "memory_pattern: false, fixed_shapes: false", {}),
    "pattern on": ("staged", "memory_pattern: true", {}),
    "arena off": ("staged", "memory_pattern: false, arena: false", {}),
    "parallel": ("staged", "memory_pattern: false, inter_threads: 2", {}),
    "parallel, arena off": ("staged", "memory_pattern: false, inter_threads: 2, arena: false", {}),
    "extended": ("staged", "memory_pattern: false, graph_optimization: extended", {}),
    "basic": ("staged", "memory_pattern: false, graph_optimization: basic", {}),
    "no prepacking": ("staged", "memory_pattern: false, keys: { session.disable_prepacking: true }", {}),
    "initializers outside the arena": (
        "staged", "memory_pattern: false, keys: { session.use_device_allocator_for_initializers: true }", {},
    ),
    "arena off, malloc maps from 1 MiB": ("staged", "memory_pattern: false, arena: false", MALLOC_MMAP),
    "arena off, one malloc arena": ("staged", "memory_pattern: false, arena: false", MALLOC_ONE),
    "resident": ("resident", "memory_pattern: true", {}),
    "resident, pattern off": ("resident", "memory_pattern: false", {}),
    "resident, pattern and arena off": ("resident", "memory_pattern: false, arena: false", {}),
    "resident, parallel": ("resident", "memory_pattern: false, inter_threads: 2", {}),
}
# In BF16, with as many threads as the CPU provider has; OpenVINO rewrites the graph itself.
OPENVINO = """\
{{ name: openvino, need: required, {library}options: {{ device_type: CPU, load_config:
  '{{"CPU":{{"INFERENCE_PRECISION_HINT":"bf16","INFERENCE_NUM_THREADS":"{threads}"}}}}' }} }}, """
COLUMNS = ["peak", "step", "total", "open", "after_text", "after_denoiser", "end"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kinds", nargs="+", default=["fused"], help="model folders in FOLDER, or paths; FOLDER:PRECISION where not int8")
    parser.add_argument("--variants", nargs="+", default=["staged", "resident"], help=", ".join(VARIANTS))
    parser.add_argument("--openvino-library", type=Path, help="folder of its ONNX Runtime: adds the variant openvino")
    parser.add_argument("--openvino-plugin", type=Path, help="its file: adds openvino plug-in, and the same, cached")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", default="2")
    parser.add_argument("--steps", default="4")
    parser.add_argument("--out", type=Path, help="raw samples, as JSON")
    args = parser.parse_args()
    os.environ.setdefault("ORT_DYLIB_PATH", str(ROOT / ".onnxruntime/host"))
    os.environ["SAFELIGHT_HOME"] = str(ROOT)
    variants = {name: (*variant, "") for name, variant in VARIANTS.items()} | openvino(args)
    pairs = list(itertools.product(args.kinds, args.variants))
    rows = {pair: [] for pair in pairs}
    measure(args.folder / args.kinds[0], *variants[args.variants[0]], args)  # puts files into memory
    for _ in range(args.rounds):
        for kind, variant in pairs:
            row = measure(args.folder / kind, *variants[variant], args)
            rows[kind, variant].append(row)
            print(f"{kind}, {variant}:", *(f"{name} {row[name]:.0f}" for name in COLUMNS), flush=True)
            if args.out:
                named = {", ".join(pair): samples for pair, samples in rows.items()}
                args.out.write_text(json.dumps(named, indent=1))
    report(rows)


def openvino(args):
    """Variants with OpenVINO, of what is there."""
    session = "graph_optimization: disabled"
    compiled = OPENVINO.format(library="", threads=args.threads)
    plugin = OPENVINO.format(library=f"library: {args.openvino_plugin}, ", threads=args.threads)
    cache = {"SAFELIGHT_CACHE": str(args.folder / "cache")}
    found = {}
    if args.openvino_library:
        found["openvino"] = ("staged", session, {"ORT_DYLIB_PATH": str(args.openvino_library)}, compiled)
    if args.openvino_plugin:
        found["openvino plug-in"] = ("staged", session, {}, plugin)
        found["openvino plug-in, cached"] = ("staged", session, cache, plugin)
    return found


def measure(model, residency, session, environment, providers, args):
    """One picture in a process of its own: MiB and milliseconds."""
    model, _, precision = str(model).partition(":")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "measured.yaml"
        session = ", ".join(filter(None, ["spinning: false", session]))
        text = TARGET.format(residency=residency, session=session, providers=providers)
        target.write_text(text + ("cache: {}\n" if "SAFELIGHT_CACHE" in environment else ""))
        command = [BINARY, "generate", "a red apple", "--seed", "1", "--json", "--quiet", "--target", target]
        command += ["--precision", precision] if precision else []
        command += ["--model", model, "--threads", args.threads, "--steps", args.steps, "--out", f"{folder}/p.png"]
        process = subprocess.run(command, stdout=subprocess.PIPE, env={**os.environ, **environment})
        if process.returncode:
            raise SystemExit(f"{model}: safelight failed")
    told = json.loads(process.stdout)
    timings, memory = told["timings"], told["memory"]
    return {
        "peak": memory["process"]["peak"] / 2**20,
        "step": statistics.median(timings["steps_ms"]),
        "total": timings["total_ms"],
        "open": timings["open_ms"] + timings["reopen_ms"],
        "after_text": memory["text_encoder"]["after"] / 2**20,
        "after_denoiser": memory["denoiser"]["after"] / 2**20,
        "end": memory["process"]["resident"] / 2**20,
    }


def report(rows):
    first = next(iter(rows.values()))
    for pair, samples in rows.items():
        medians = [f"{name} {statistics.median(row[name] for row in samples):.0f}" for name in COLUMNS]
        ratios = []
        for name in ("peak", "step", "total", "open"):
            each = sorted(row[name] / base[name] for row, base in zip(samples, first))
            ratios.append(f"{name} ×{statistics.median(each):.2f} ({each[0]:.2f} to {each[-1]:.2f})")
        print(f"\n{' '.join(pair)}:\n  {', '.join(medians)}\n  {', '.join(ratios)}")


if __name__ == "__main__":
    main()
