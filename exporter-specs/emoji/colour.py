"""Hues by their names: what a picture's hue is called, and the same picture in another hue."""

import numpy as np

# The hue in degrees that each word stands for; between two of them the nearer one's name is used.
HUES = {"red": 0, "orange": 28, "yellow": 50, "green": 115, "turquoise": 175, "blue": 215, "purple": 272, "pink": 325}
# Words that a caption may start with and that say a colour; only the hues above can be asked for by rotation.
WORDS = set(HUES) | {"brown", "black", "white", "gray", "grey"}
BROWN_BELOW = 0.72  # a dark orange is called brown


def to_hsv(rgb):
    """uint8 [..., 3] to hue in degrees, saturation and value in 0 to 1, each float32 [...]."""
    rgb = rgb.astype(np.float32) / 255
    high, low = rgb.max(-1), rgb.min(-1)
    span = high - low
    safe = np.where(span == 0, 1, span)
    r, g, b = np.moveaxis(rgb, -1, 0)
    hue = np.where(high == r, ((g - b) / safe) % 6, np.where(high == g, (b - r) / safe + 2, (r - g) / safe + 4)) * 60
    return hue % 360, np.where(high == 0, 0, span / np.where(high == 0, 1, high)), high


def to_rgb(hue, saturation, value):
    """The inverse of `to_hsv`, uint8 [..., 3]."""
    k = (np.array([5, 3, 1]) + hue[..., None] / 60) % 6
    falloff = np.clip(np.minimum(k, 4 - k), 0, 1)
    rgb = value[..., None] * (1 - saturation[..., None] * falloff)
    return (np.clip(rgb, 0, 1) * 255 + 0.5).astype(np.uint8)


def distance(a, b):
    """The angle between hues, 0 to 180 degrees."""
    return np.abs((a - b + 180) % 360 - 180)


def dominant(rgb, share=0.7):
    """(name, hue) of the hue that holds more than `share` of a picture's colour (weighted by saturation × value,
    within 40°), or None if the picture, uint8 [h, w, 3] on white, has no such hue."""
    hue, saturation, value = to_hsv(rgb)
    coloured = (saturation > 0.25) & (value > 0.25)
    drawn = (rgb.min(-1) < 245).sum()
    if coloured.sum() < 0.015 * coloured.size or coloured.sum() < 0.35 * drawn:
        return None
    hue, weight = hue[coloured], (saturation * value)[coloured]
    mean = np.rad2deg(np.angle((weight * np.exp(1j * np.deg2rad(hue))).sum())) % 360
    if weight[distance(hue, mean) < 40].sum() <= share * weight.sum():
        return None
    name = min(HUES, key=lambda name: distance(mean, HUES[name]))
    if name == "orange" and (value[coloured] * weight).sum() / weight.sum() < BROWN_BELOW:
        name = "brown"
    return name, mean


def repaint(rgb, degrees):
    """The picture with all its hues turned by `degrees`."""
    hue, saturation, value = to_hsv(rgb)
    return to_rgb((hue + degrees) % 360, saturation, value)


def main_hue(rgb):
    """The name of the hue that holds most of a picture's colour, or None where next to nothing is coloured."""
    hue, saturation, value = to_hsv(rgb)
    weight = np.where((saturation > 0.25) & (value > 0.25), saturation * value, 0)
    if (weight > 0).mean() < 0.005:
        return None
    names = list(HUES)
    nearest = np.argmin([distance(hue, centre) for centre in HUES.values()], axis=0)
    return names[int(np.argmax([weight[nearest == i].sum() for i in range(len(names))]))]
