"""Damages graphs until ONNX Runtime crashes, and asks whether safelight would have refused them.

    python tests/reference/fuzz_graphs.py target/release/safelight --seconds 300

Each damaged graph is opened and run once in a child process. Those on which the child dies or hangs are kept, and shown
to `safelight inspect`. The exit code is 1 where there is one that it does not refuse.
"""

import argparse
import multiprocessing
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import AttributeProto

ROOT = Path(__file__).resolve().parents[2]
GRAPHS = [
    *(ROOT / f"tests/models/tiny-sd/{stage}/model.onnx" for stage in ("text_encoder", "unet", "vae_decoder")),
    *(ROOT / f"models/emoji/{stage}.int8.onnx" for stage in ("text_encoder", "unet", "vae_decoder")),
]
WHOLE = [-(2**63), -(2**31), -9, -2, -1, 0, 1, 2, 3, 5, 7, 64, 2**16, 2**31, 2**32, 2**62, 2**63 - 1]
REAL = [0.0, -1.0, float("nan"), 1e38]
OPERATORS = """Compress DepthToSpace Einsum GridSample LRN LayerNormalization MaxPool OneHot Pad Range Resize Slice Split
Squeeze Tile TopK Transpose Unique""".split()
TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(int32)": np.int32}
CHUNK, CHUNK_SECONDS, MEMORY_BYTES = 200, 60, 6 << 30


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("safelight", type=Path)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("crashes"))
    arguments = parser.parse_args()
    arguments.keep.mkdir(exist_ok=True)
    crashes, count = crash(arguments)
    missed = [path for path, _ in crashes if not is_refused(arguments.safelight, path)]
    told = f"{count} graphs, {len(crashes)} crashes or hangs, not refused: {len(missed)}"
    print(f"ONNX Runtime {onnxruntime.__version__}: {told}")
    for path, how in crashes:
        print(f"  {path}: {how}{', NOT REFUSED' if path in missed else ''}")
    sys.exit(bool(missed))


def crash(arguments):
    """Graphs on which a child died, each with its signal, and how many there were."""
    crashes, seed, end = [], arguments.seed, time.monotonic() + arguments.seconds
    while time.monotonic() < end:
        at = multiprocessing.Value("q", seed)
        child = multiprocessing.Process(target=open_many, args=(seed, at, arguments.keep))
        child.start()
        child.join(CHUNK_SECONDS)
        if child.is_alive():
            child.kill()
            child.join()
            how = "hangs"
        else:
            how = f"signal {-child.exitcode}" if child.exitcode else None
        if how:
            crashes.append((arguments.keep / f"{at.value}.onnx", how))
        seed = at.value + 1
    return crashes, seed - arguments.seed


def open_many(seed, at, keep):
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    onnxruntime.set_default_logger_severity(4)
    for number in range(seed, seed + CHUNK):
        at.value = number
        path = keep / f"{number}.onnx"
        onnx.save(damaged(number), path)
        try:
            run_once(path)
        except Exception:  # An error is what is wanted.
            pass
        path.unlink()


def run_once(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    session.run(None, {tensor.name: ones(tensor) for tensor in session.get_inputs()})


def ones(tensor):
    """A batch of one, and 8 where a size is free."""
    free = [1, 4, 8, 8]
    sizes = [size if isinstance(size, int) else free[axis] for axis, size in enumerate(tensor.shape)]
    return np.ones(sizes, TYPES[tensor.type])


def damaged(seed):
    draw = random.Random(seed)
    model = onnx.load(draw.choice(GRAPHS))
    for _ in range(draw.choice([1, 1, 2, 3])):
        node = draw.choice(model.graph.node)
        kind = draw.choice([attribute, empty, rewire, operator, tensor])
        try:
            kind(draw, model.graph, node)
        except (IndexError, ValueError):  # Nothing of the kind is there, or a number does not fit.
            pass
    return model


def attribute(draw, _, node):
    chosen = draw.choice(node.attribute)
    match chosen.type:
        case AttributeProto.INT:
            chosen.i = draw.choice(WHOLE)
        case AttributeProto.FLOAT:
            chosen.f = draw.choice(REAL)
        case AttributeProto.INTS:
            match draw.randrange(3):
                case 0:
                    chosen.ints[draw.randrange(len(chosen.ints))] = draw.choice(WHOLE)
                case 1:
                    chosen.ints.append(draw.choice(WHOLE))
                case 2:
                    del chosen.ints[-1]


def empty(draw, _, node):
    match draw.randrange(3):
        case 0:
            node.input.append("")
        case 1:
            node.input[draw.randrange(len(node.input))] = ""
        case 2:
            del node.input[-1]


def rewire(draw, graph, node):
    other = draw.choice(graph.node)
    node.input[draw.randrange(len(node.input))] = draw.choice([*other.input, *other.output])


def operator(draw, graph, node):
    node.op_type = draw.choice([draw.choice(graph.node).op_type, draw.choice(OPERATORS)])


def tensor(draw, graph, _):
    chosen = draw.choice(graph.initializer)
    match draw.randrange(3):
        case 0:
            chosen.dims[draw.randrange(len(chosen.dims))] = draw.choice(WHOLE)
        case 1:
            chosen.data_type = draw.randrange(20)
        case 2:
            values = bytearray(chosen.raw_data)
            values[draw.randrange(len(values))] = draw.randrange(256)
            chosen.raw_data = bytes(values)


def is_refused(safelight, path):
    return subprocess.run([safelight, "inspect", path], capture_output=True).returncode == 3


if __name__ == "__main__":
    main()
