"""Which share of the machine's INT8 speed a denoising step reaches.

    python benches/sd15/share.py UNET.onnx [--fp32 UNET.onnx] [--rounds 5] [--threads 2]

The speed is that of one product of large matrices, u8 by s8, in ONNX Runtime, measured in turns with the step. Both are
told in time, and in processor time over all threads, which other programs on the machine disturb less. The step's
operations are those of Stable Diffusion 1.5's U-Net at 512×512: 803 G (444 convolutions, 233 linear layers, 126
attention), a multiplication and an addition counted as two.
"""

import argparse
import statistics
import time
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

STEP_GOP, SIDE = 803, 4096


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("unet", type=Path)
    parser.add_argument("--fp32", type=Path, help="also the ratio to this graph, which is opened beside it")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    runs = {"product": opened(product(), args.threads), "int8": opened(str(args.unet), args.threads)}
    if args.fp32:
        runs["fp32"] = opened(str(args.fp32), args.threads)
    feeds = {name: example(session) for name, session in runs.items()}
    samples = {name: [] for name in runs}
    for turn in range(args.rounds + 1):
        for name, session in runs.items():
            start = time.perf_counter(), time.process_time()
            session.run(None, feeds[name])
            took = time.perf_counter() - start[0], (time.process_time() - start[1]) / args.threads
            samples[name] += [took] if turn else []
    for index, clock in enumerate(("time", "processor time a thread")):
        report(clock, {name: [each[index] for each in rows] for name, rows in samples.items()})


def report(clock, samples):
    speeds = [2 * SIDE**3 / 1e9 / seconds for seconds in samples["product"]]
    print(f"{clock}: INT8 speed {told(speeds, 0)} GOP/s; step {told(samples['int8'], 2)} s")
    print("  share of it:", told([STEP_GOP / step / speed for step, speed in zip(samples["int8"], speeds)], 3))
    if "fp32" in samples:
        print("  step, of FP32's:", told([a / b for a, b in zip(samples["int8"], samples["fp32"])], 3))


def told(values, digits):
    low, middle, high = (f"{value:.{digits}f}" for value in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({low} to {high})"


def opened(model, threads):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.enable_mem_pattern = threads, False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def product():
    """QLinearMatMul of two square matrices, the second constant."""
    rng = np.random.default_rng(0)
    scalar = lambda name, kind, value: helper.make_tensor(name, kind, [], [value])
    constants = [helper.make_tensor("b", TensorProto.INT8, [SIDE, SIDE], rng.integers(-128, 128, SIDE**2, np.int8).tobytes(), raw=True)]
    constants += [scalar("scale", TensorProto.FLOAT, 0.01), scalar("zero", TensorProto.UINT8, 128), scalar("middle", TensorProto.INT8, 0)]
    inputs = ["a", "scale", "zero", "b", "scale", "middle", "scale", "zero"]
    edge = lambda name: helper.make_tensor_value_info(name, TensorProto.UINT8, [SIDE, SIDE])
    graph = helper.make_graph([helper.make_node("QLinearMatMul", inputs, ["y"])], "product", [edge("a")], [edge("y")], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def example(session):
    sizes = {"batch_size": 1, "height": 64, "width": 64, "sequence_length": 77}
    rng, found = np.random.default_rng(0), {}
    for entry in session.get_inputs():
        shape = [sizes.get(size, size) for size in entry.shape]
        kind = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8, "tensor(int64)": np.int64}[entry.type]
        values = rng.standard_normal(shape) if kind == np.float32 else rng.integers(0, 255, shape)
        found[entry.name] = np.full(shape, 499, kind) if entry.name == "timestep" else values.astype(kind)
    return found


if __name__ == "__main__":
    main()
