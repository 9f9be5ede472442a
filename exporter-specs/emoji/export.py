"""Stage 6: the trained networks to ONNX graphs in FP32, each proven against PyTorch.

    python export.py          # writes work/onnx/GRAPH/model.onnx, with tokenizer.json beside them

What comes after them, INT8 and FP16, goldens, model.yaml and a report, is the exporter's as for any other model:

    PYTHONPATH=.. python -m safelight_export emoji --weights work/onnx --out ../../models/emoji
"""

import shutil
import sys
import warnings
from pathlib import Path

import torch

from common import SIZE, WORK, load
from networks import DOWNSCALE, LATENT, TEXT, WINDOW, Denoiser
from teacher import autoencoder, networks

sys.path.insert(0, str(Path(__file__).parents[1]))
from safelight_export import trace  # noqa: E402

SIDE = SIZE // DOWNSCALE
ONNX = WORK / "onnx"
BATCHES = (2, 3)
ids, times = trace.Edge(("batch", WINDOW), trace.whole(0, 1000), torch.int64), trace.Edge(("batch",), trace.whole(1, 1000), torch.int64)
words, latent = trace.Edge(("batch", WINDOW, TEXT), trace.normal), trace.Edge(("batch", LATENT, SIDE, SIDE), trace.normal)
picture = trace.Edge(("batch", 3, SIZE, SIZE), trace.uniform)
# graph: (inputs in the network's order, output)
CONTRACTS = {
    "text_encoder": ({"input_ids": ids}, {"last_hidden_state": words.axes}),
    "unet": ({"sample": latent, "timestep": times, "encoder_hidden_states": words}, {"out_sample": latent.axes}),
    "vae_decoder": ({"latent_sample": latent}, {"sample": picture.axes}),
    "vae_encoder": ({"sample": picture}, {"latent_sample": latent.axes}),
}


def networks_of():
    """The four networks in the order of the data, by their graph's name."""
    coder, nets, student = autoencoder(), networks().eval(), Denoiser()
    nets.load_state_dict(load(WORK / "teacher.pt")["average"])
    student.load_state_dict(load(WORK / "student.pt")["average"])
    parts = [nets["text_encoder"], student.eval(), coder["decoder"], coder["encoder"]]
    return {graph: part.cpu().requires_grad_(False) for graph, part in zip(CONTRACTS, parts)}


def main():
    torch.manual_seed(0)
    ONNX.mkdir(exist_ok=True, parents=True)
    warnings.simplefilter("ignore")
    for graph, network in networks_of().items():
        inputs, outputs = CONTRACTS[graph]
        traced = trace.Trace(network, inputs, outputs)
        # Each in a folder of its own: the tracer gathers whatever lies beside it.
        folder = ONNX / graph
        folder.mkdir(exist_ok=True)
        found = trace.export(traced, folder / "model.onnx", [{"batch": batch} for batch in BATCHES], static=None)
        print(f"{graph}: {found['relative_l2']:.1e} relative L2 from PyTorch", flush=True)
    shutil.copy(WORK / "tokenizer.json", ONNX)


if __name__ == "__main__":
    main()
