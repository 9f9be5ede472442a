"""What the shipped graphs can do, through safelight itself, and how fast they are on this CPU.

    python evaluate.py        # writes models/emoji/evaluation.json and work/judged-*.png, prints the tables

`classifier.py` must have run. 500 names are drawn as plain prompts; the classifier, which knows only real artwork, says
what it sees. 200 prompts ask for a colour, half of them for a thing that was never in that colour in the data.
"""

import json
import random
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from skimage.metrics import structural_similarity

import colour
from captions import Captions, Words
from classifier import to_input, top, trained
from common import MODEL, WORK, load, sheet, to_picture
from diffusion import sample_ddim
from export import CONTRACTS, ONNX, trace
from runtime import generate
from safelight_export.graphs import Graph
from teacher import autoencoder, networks

SEED = 1
TEACHER_STEPS, TEACHER_GUIDANCE = 25, 2.0


def pictures(prompts, steps, precision):
    with tempfile.TemporaryDirectory() as folder:
        paths = generate(prompts, Path(folder), steps, SEED, precision)
        return np.stack([np.asarray(Image.open(path).convert("RGB")) for path in paths])


@torch.no_grad()
def teacher_pictures(prompts):
    """The many-step model in PyTorch: it is not shipped."""
    nets, decoder, words = networks().eval(), autoencoder()["decoder"], Words()
    nets.load_state_dict(load(WORK / "teacher.pt")["average"])
    device = next(nets.parameters()).device
    encode = lambda ids: nets["text_encoder"](torch.tensor(ids).to(device))
    made, nothing = [], encode([Words.nothing])
    for at in range(0, len(prompts), 100):
        text = encode([words(prompt) for prompt in prompts[at : at + 100]])
        latents = sample_ddim(nets["denoiser"], text, nothing, TEACHER_STEPS, TEACHER_GUIDANCE, seed=at)
        made.append(to_picture(decoder(latents)))
    return np.concatenate(made)


def quartiles(values, digits=2):
    return [round(float(q), digits) for q in np.percentile(values, [5, 25, 50, 75, 95])]


def likeness(a, b):
    """PSNR in dB and SSIM of pairs of pictures: percentiles 5, 25, 50, 75, 95."""
    squares = np.square(a.astype(np.float64) - b).mean((1, 2, 3))
    psnr = 10 * np.log10(255**2 / np.maximum(squares, 1e-6))
    ssim = [structural_similarity(x, y, channel_axis=2) for x, y in zip(a, b)]
    return {"psnr_db": quartiles(psnr, 1), "ssim": quartiles(ssim, 3)}


def colour_prompts(captions, rng):
    """(prompt, hue) of combinations in the data and of those that are not, 100 each."""
    painted = sorted({r["core"] for r in captions.records if r["painted"]})
    pairs = [(core, hue) for core in painted for hue in colour.HUES]
    seen = [pair for pair in pairs if pair in captions.seen]
    unseen = [pair for pair in pairs if pair not in captions.seen]
    return {name: rng.sample(of, 100) for name, of in (("seen", seen), ("unseen", unseen))}


def colours(captions, rng):
    """Share of pictures whose main hue is the one that was asked for; and the same of repainted artwork."""
    found = {}
    for name, pairs in colour_prompts(captions, rng).items():
        made = pictures([f"a {hue} {core}" for core, hue in pairs], 4, "int8")
        found[name] = sum(colour.main_hue(picture) == hue for picture, (_, hue) in zip(made, pairs)) / len(pairs)
        sheet(list(made), 20).save(WORK / f"judged-{name}-colours.png")
    painted = [i for i, r in enumerate(captions.records) if r["painted"]]
    chosen, real = rng.sample(painted, 400), np.load(WORK / "data.npz")["pictures"]
    found["artwork"] = sum(colour.main_hue(real[i]) == captions.records[i]["colour"] for i in chosen) / len(chosen)
    return found


def latency(rounds=200):
    """Time of each graph on one thread, in turns: INT8 / FP32 and FP16 / FP32, quartiles of the ratios."""
    found = {}
    for graph, contract in CONTRACTS.items():
        row = {name: value.numpy() for name, value in trace.example(trace.Trace(None, *contract), {"batch": 1}, seed=0).items()}
        paths = {"fp32": ONNX / graph / "model.onnx"}
        paths |= {precision: MODEL / graph / f"model_{precision}.onnx" for precision in ("fp16", "int8")}
        run = {precision: Graph.load(path).session().session for precision, path in paths.items()}
        spent = {precision: [] for precision in run}
        for _ in range(rounds + 10):
            for precision, graph_session in run.items():
                start = time.perf_counter()
                graph_session.run(None, row)
                spent[precision].append(time.perf_counter() - start)
        ratio = lambda p: [round(float(q), 2) for q in np.percentile(np.divide(spent[p], spent["fp32"])[10:], [25, 50, 75])]
        found[graph] = {"int8": ratio("int8"), "fp16": ratio("fp16")}
    return found


def main():
    captions, rng = Captions(), random.Random(0)
    judge, names = trained()
    chosen = rng.sample(names, 500)
    labels = [names.index(name) for name in chosen]
    held_out = load(WORK / "classifier.pt")["held_out"]
    report = {"names": len(names), "artwork": [round(share, 3) for share in held_out], "recognised": {}}
    made = {("int8", steps): pictures(chosen, steps, "int8") for steps in (1, 2, 4, 8)}
    made["fp16", 4] = pictures(chosen, 4, "fp16")
    made["teacher", TEACHER_STEPS] = teacher_pictures(chosen)
    for (graphs, steps), of in made.items():
        scores = top(judge, to_input(of), labels)
        report["recognised"][f"{graphs}, {steps} steps"] = [round(score, 3) for score in scores]
        print(f"{graphs} {steps} steps: top-1 {scores[0]:.3f} top-5 {scores[1]:.3f}", flush=True)
        sheet(list(of), 25).save(WORK / f"judged-{graphs}-{steps}.png")
    report["colours"] = colours(captions, rng)
    report["int8_against_fp16"] = likeness(made["int8", 4], made["fp16", 4])
    report["latency_against_fp32"] = latency()
    text = json.dumps(report, indent=1)
    (MODEL / "evaluation.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
