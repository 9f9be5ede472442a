"""The judge: a small classifier of real artwork, that says which emoji a picture is.

    python classifier.py [--steps 700]      # writes work/classifier.pt, prints its score on artwork that it never saw

It is trained on drawn artwork only, never on pictures of the model. Of each name one style is held out (never the house
style); it is trained on the others, shifted, turned, scaled and blurred.
"""

import argparse
import random
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from captions import Captions
from common import WORK, autocast, cosine, device, load, save

BATCH, PEAK, SIDE = 96, 3e-3, 64


class Residual(nn.Module):
    def __init__(self, inputs, width):
        super().__init__()
        self.first, self.second = (nn.Conv2d(a, width, 3, s, 1, bias=False) for a, s in ((inputs, 2), (width, 1)))
        self.norm_first, self.norm_second = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.skip = nn.Conv2d(inputs, width, 1, 2)

    def forward(self, x):
        h = self.norm_second(self.second(F.relu(self.norm_first(self.first(x)))))
        return F.relu(self.skip(x) + h)


class Classifier(nn.Module):
    """Pictures [b, 3, SIDE, SIDE] in −1 to 1 to one logit a name."""

    def __init__(self, names):
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, 1, 1)
        self.body = nn.Sequential(Residual(32, 48), Residual(48, 96), Residual(96, 192), Residual(192, 384))
        self.out = nn.Linear(384, names)

    def forward(self, x):
        return self.out(self.body(F.relu(self.stem(x))).mean((2, 3)))


def to_input(pictures):
    """uint8 [b, h, w, 3] to [b, 3, SIDE, SIDE]."""
    x = torch.as_tensor(pictures).permute(0, 3, 1, 2).to(device()).float() / 127.5 - 1
    return F.interpolate(x, (SIDE, SIDE), mode="area")


def split(captions):
    """(train, test): indices of drawn pictures, one held-out style a name."""
    train, test = [], []
    styles = {}
    for i, r in enumerate(captions.records):
        if not r["painted"]:
            styles.setdefault(r["name"], {})[r["style"]] = i
    for name, found in sorted(styles.items()):
        others = sorted(set(found) - {captions.house[name]})
        held = random.Random(f"style of {name}").choice(others) if len(found) > 1 else None
        for style, i in found.items():
            (test if style == held else train).append(i)
    return train, test


def augment(x, generator):
    """Shifts, turns, scales, shades and blurs, each picture in its own way; what comes in from outside is white."""
    b = len(x)
    draw = lambda low, high: torch.rand(b, generator=generator).to(x.device) * (high - low) + low
    angle, size = draw(-0.25, 0.25), draw(0.85, 1.25)
    rows = [angle.cos() * size, -angle.sin() * size, draw(-0.15, 0.15), angle.sin() * size, angle.cos() * size, draw(-0.15, 0.15)]
    where = F.affine_grid(torch.stack(rows, 1).view(b, 2, 3), x.shape, align_corners=False)
    x = F.grid_sample(x - 1, where, align_corners=False) + 1
    small = F.interpolate(F.avg_pool2d(x, 2), x.shape[2:], mode="bilinear")
    x = x.lerp(small, draw(0, 1).view(b, 1, 1, 1))
    return (x * draw(0.85, 1.1).view(b, 1, 1, 1) + 0.08 * torch.randn(x.shape, device=x.device) * draw(0, 1).view(b, 1, 1, 1)).clamp(-1, 1)


@torch.no_grad()
def top(classifier, x, labels, most=5):
    """Shares of pictures whose name is the first, and among the first five."""
    classifier.eval()
    ranked = torch.cat([classifier(part).topk(most).indices for part in x.split(256)])
    classifier.train()
    right = ranked == torch.as_tensor(labels).to(x.device)[:, None]
    return right[:, 0].float().mean().item(), right.any(1).float().mean().item()


def trained():
    kept = load(WORK / "classifier.pt")
    classifier = Classifier(len(kept["names"]))
    classifier.load_state_dict(kept["classifier"])
    return classifier.eval().to(device()), kept["names"]


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--steps", type=int, default=700)
    steps = arguments.parse_args().steps
    torch.manual_seed(0)
    captions = Captions()
    pictures, names = np.load(WORK / "data.npz")["pictures"], captions.names
    train, test = split(captions)
    label = {name: i for i, name in enumerate(names)}
    labels = lambda indices: torch.tensor([label[captions.records[i]["name"]] for i in indices])
    x, y, x_test, y_test = to_input(pictures[train]), labels(train), to_input(pictures[test]), labels(test)
    print(f"{len(names)} names, trained on {len(train)} pictures, tested on {len(test)}", flush=True)

    classifier = Classifier(len(names)).to(device(), memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(classifier.parameters(), weight_decay=0.05, fused=True)
    generator, started = torch.Generator().manual_seed(0), time.time()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = cosine(step, steps, PEAK)
        chosen = torch.randint(len(x), (BATCH,), generator=generator)
        with autocast():
            logits = classifier(augment(x[chosen], generator).contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits.float(), y[chosen].to(device()), label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 99 or step + 1 == steps:
            first, five = top(classifier, x_test, y_test)
            print(f"{step + 1} {time.time() - started:.0f} s loss {loss.item():.3f} held-out top-1 {first:.3f} top-5 {five:.3f}", flush=True)
    save(WORK / "classifier.pt", classifier=classifier.state_dict(), names=names, held_out=(first, five))


if __name__ == "__main__":
    main()
