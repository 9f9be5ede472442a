"""What several stages share: places, the training schedule, checkpoints, sheets of pictures."""

import math
import os
from pathlib import Path

import torch
from PIL import Image

SIZE = 128  # of a picture, in pixels
WORK = Path(os.environ.get("EMOJI_WORK", Path(__file__).parent / "work"))
MODEL = Path(os.environ.get("EMOJI_MODEL", Path(__file__).resolve().parents[2] / "models" / "emoji"))


def sheet(pictures, columns):
    """uint8 pictures [h, w, 3] side by side, row by row."""
    height, width = pictures[0].shape[:2]
    rows = -(-len(pictures) // columns)
    page = Image.new("RGB", (columns * width, rows * height), "white")
    for i, picture in enumerate(pictures):
        page.paste(Image.fromarray(picture), (i % columns * width, i // columns * height))
    return page


def cosine(step, steps, peak, warm_up=100):
    """A learning rate that rises linearly and falls as a cosine to nothing."""
    return peak * min(1, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * step / steps))


@torch.no_grad()
def follow(average, module, decay):
    """Moves an exponential moving average of weights towards a module's."""
    for kept, new in zip(average.state_dict().values(), module.state_dict().values()):
        kept.lerp_(new, 1 - decay) if kept.is_floating_point() else kept.copy_(new)


def save(path, **state):
    """Replaces a checkpoint at once, so that a killed stage leaves the last good one."""
    torch.save(state, f"{path}.part")
    os.replace(f"{path}.part", path)


def checkpoint(path, step, **parts):
    """Saves where a stage is: its step, and the state of networks and optimizers by name."""
    save(path, step=step, **{name: part.state_dict() for name, part in parts.items()})


def resume(path, **parts):
    """Puts parts where a checkpoint left them; the step to go on with."""
    kept = load(path)
    for name, part in parts.items() if kept else ():
        part.load_state_dict(kept[name])
    return kept.get("step", 0)


def load(path):
    """A checkpoint, or an empty one."""
    return torch.load(path, map_location="cpu", weights_only=False) if path.exists() else {}


def device():
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def autocast():
    return torch.autocast(device().type, dtype=torch.bfloat16)


def to_picture(decoded):
    """Decoded [b, 3, h, w] to uint8 [b, h, w, 3]."""
    return ((decoded.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
