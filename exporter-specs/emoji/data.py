"""Stage 1: emoji artwork from npm packages to pictures with captions.

    python data.py            # writes work/data.npz, work/records.json, work/data.png

A picture is one emoji of one artist on white, 128×128. A picture of one dominant hue is kept in other hues, too, with
the hue's name in its caption: that is what teaches the model to combine colours and things. For every thing some hues
are held out, so that combinations remain that the model has never seen.
"""

import io
import json
import random
import re
import subprocess
import tarfile

import numpy as np
import resvg_py
from PIL import Image

import colour
from common import SIZE, WORK, sheet

# package, version, the style's word in captions, licence
PACKAGES = [
    ("@iconify-json/noto", "1.2.9", "noto", "Apache-2.0, Google"),
    ("@iconify-json/fluent-emoji-flat", "1.2.6", "flat", "MIT, Microsoft"),
    ("@iconify-json/noto-v1", "1.2.5", "blob", "Apache-2.0, Google"),
    ("@iconify-json/fluent-emoji", "1.2.7", "glossy", "MIT, Microsoft"),
]
STYLES_NEEDED = 3  # a name counts if so many artists drew it
HUES_HELD_OUT = 3
HUES_PER_PICTURE = 3

# Variants of people, flags, and pictures that are really text.
VARIANTS = re.compile(
    r"skin-tone|^flag-|^keycap|-button|oclock|-thirty|regional-|family|couple|^kiss-|holding-hands|^(men|women|people|man"
    r"|woman|person)-|-hair$|blood-type|^input-|japanese-|component|medium-|-light$|^squared|facing-right|^mx-|^emoji-"
    r"|^[a-z0-9]{1,2}$|^tag-|handshake-|^u[0-9a-f]+"
)
SIGNS = re.compile(
    r"arrow|^no-|-sign$|small-square|large-square|small-.*-diamond|question-mark|exclamation|phone-off|phone-with|^circled"
    r"|^heavy|trade-mark|copyright|registered|passport|customs|baggage|luggage$|litter|potable|mens-room|water-closet"
    r"|restroom|^atm|wireless|vibration|backhand|-pushing-|wards-hand|palm-up|palm-down|curly-loop|wavy-dash|^currency"
    r"|part-alternation|^zzz$|head-shaking|bust|silhouette|lowered-flag|with-yen|speaker-low|hands?-with-index|eye-in-"
    r"|^(aries|taurus|gemini|cancer|leo|virgo|libra|scorpio|sagittarius|capricorn|aquarius|pisces|ophiuchus|information"
    r"|plus|minus|multiply|divide|infinity|prohibited|broken-chain|khanda|dotted-line-face|pregnant-.*|middle-finger|hole|foggy)$"
)
# Skin and faces keep their colours.
HUMAN = re.compile(
    r"\b(face|person|man|woman|boy|girl|baby|hands?|fingers?|people|child|adult|ear|nose|foot|leg|mouth|santa|claus|elf"
    r"|mage|fairy|vampire|superhero|supervillain|student|worker|thumbs|fist|princess|prince|guard|salute|gesture|biceps"
    r"|ninja|detective|teacher|pilot|judge|farmer|cook|artist|singer|scientist|technologist|astronaut|firefighter)\b"
)
# What people say for what Unicode calls otherwise.
ALIASES = {
    "automobile": "car", "hot beverage": "coffee", "sailboat": "boat", "wrapped gift": "gift", "motor scooter": "scooter",
    "evergreen tree": "pine tree", "deciduous tree": "tree", "pile of poo": "poop", "doughnut": "donut", "bicycle": "bike",
    "honeybee": "bee", "lady beetle": "ladybug", "closed book": "book", "mobile phone": "smartphone", "locked": "padlock",
    "jack o lantern": "halloween pumpkin", "fire engine": "fire truck", "delivery truck": "truck", "gem stone": "diamond",
    "high heeled shoe": "high heel", "running shoe": "sneaker", "ear of corn": "corn", "hot pepper": "chili pepper",
    "soccer ball": "football", "ice cream": "bowl of ice cream", "soft ice cream": "ice cream cone", "locomotive": "steam train",
    "beer mug": "beer", "wine glass": "glass of wine", "television": "tv", "tangerine": "mandarin orange", "glasses": "spectacles",
    "military medal": "medal", "musical keyboard": "piano", "sport utility vehicle": "suv", "high voltage": "lightning bolt",
    "snowman without snow": "small snowman", "mans shoe": "shoe", "womans hat": "hat", "water wave": "wave", "wastebasket": "bin",
    "glass of milk": "milk", "sun with face": "smiling sun", "top hat": "black top hat", "flying saucer": "ufo", "bread": "loaf",
}  # fmt: skip


def fetch(package, version):
    """The icons of an npm package: {name: (viewBox, SVG body)}. npm verifies the archive."""
    archive = WORK / "npm" / f"{package.strip('@').replace('/', '-')}-{version}.tgz"
    archive.parent.mkdir(parents=True, exist_ok=True)
    if not archive.exists():
        subprocess.run(["npm", "pack", "--silent", f"{package}@{version}"], cwd=archive.parent, check=True)
    with tarfile.open(archive) as tar:
        pack = json.load(tar.extractfile("package/icons.json"))
    icons = {}
    for name, icon in pack["icons"].items():
        if icon.get("hidden") or VARIANTS.search(name) or SIGNS.search(name):
            continue
        width, height = (icon.get(side, pack.get(side, 16)) for side in ("width", "height"))
        icons[name.replace("-", " ")] = (f"{icon.get('left', 0)} {icon.get('top', 0)} {width} {height}", icon["body"])
    return icons


def render(view_box, body):
    """uint8 [SIZE, SIZE, 3] on white."""
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{view_box}" width="{SIZE}" height="{SIZE}">{body}</svg>'
    )
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=SIZE, height=SIZE))
    drawn = Image.open(io.BytesIO(png)).convert("RGBA").resize((SIZE, SIZE), Image.LANCZOS)
    page = Image.new("RGBA", drawn.size, "white")
    page.alpha_composite(drawn)
    return np.asarray(page.convert("RGB"))


def hues_to_learn(core):
    """The hues that a thing may be painted in; the others stay unseen, in every style."""
    hues = sorted(colour.HUES)
    random.Random(f"held out of {core}").shuffle(hues)
    return set(hues[HUES_HELD_OUT:])


def main():
    packs = {style: fetch(package, version) for package, version, style, _ in PACKAGES}
    names = sorted({name for icons in packs.values() for name in icons})
    names = [name for name in names if sum(name in icons for icons in packs.values()) >= STYLES_NEEDED]
    print(f"{len(names)} names that at least {STYLES_NEEDED} of {len(packs)} artists drew", flush=True)

    pictures, records = [], []
    for style, icons in packs.items():
        for name in names:
            if name not in icons:
                continue
            picture = render(*icons[name])
            if (picture < 250).mean() < 0.02:
                continue
            said = [word for word in name.split() if word in colour.WORDS]
            core = " ".join(word for word in name.split() if word not in colour.WORDS) or name
            found = None if HUMAN.search(name) else colour.dominant(picture)
            own = said[0] if said else found and found[0]
            pictures.append(picture)
            records.append({"name": name, "core": core, "style": style, "colour": own, "said": bool(said), "painted": False})
            if not found:
                continue
            hues = sorted(hues_to_learn(core) - {found[0], own})
            random.Random(f"{core} in {style}").shuffle(hues)
            for hue in hues[:HUES_PER_PICTURE]:
                pictures.append(colour.repaint(picture, colour.HUES[hue] - found[1]))
                records.append({"name": name, "core": core, "style": style, "colour": hue, "said": True, "painted": True})
        print(f"{style}: {len(pictures)} pictures so far", flush=True)

    np.savez(WORK / "data.npz", pictures=np.stack(pictures))
    (WORK / "records.json").write_text(json.dumps({"names": names, "records": records}))
    chosen = np.random.default_rng(0).choice(len(pictures), 96, replace=False)
    sheet([pictures[i] for i in chosen], 12).save(WORK / "data.png")
    print(f"{len(pictures)} pictures, {sum(not r['painted'] for r in records)} of them as drawn")


if __name__ == "__main__":
    main()
