"""The cases of tests/golden/pipelines.json: what a user would ask for."""

DEFAULTS = {
    "precision": "fp32",
    "prompts": ["a red apple"],
    "negative": "",
    "guidance": 1.0,
    "eta": 0.0,
    "seed": 42,
    "batch": 1,
    "noise": "per-image",
    "height": 64,
    "width": 64,
}

THREE_PROMPTS = ["a red apple", "a painting of the cat in the hat", "the moon!"]
THREE_EMOJI = ["a red apple", "a blue house", "a yellow star"]


def cases(model, *rows, **common):
    return [{"name": row["name"], "model": model} | DEFAULTS | common | row for row in rows]


def row(name, sampler, schedule, steps, **fields):
    return {"name": name, "sampler": sampler, "schedule": schedule, "steps": steps, **fields}


# Smaller than the models' default, for the goldens' sake.
THREE_IMAGES = {"batch": 3, "height": 32, "width": 32}
NEGATIVE = {"negative": "low quality, blurry"}

# The prompts as they are typed, and what they say: sections of texts with their weights.
WEIGHTED = {
    "syntax": "weighted",
    "prompts": ["a (red:1.5) apple on [the (moon:0.4)], \\(ripe\\) ((sharp))"],
    "negative": "(blurry:1.3)",
    "sections": [
        [
            *[("a ", 1), ("red", 1.5), (" apple on ", 1), ("the ", 1 / 1.1), ("moon", 0.4 / 1.1)],
            *[(", (ripe) ", 1), ("sharp", 1.21)],
        ]
    ],
    "negative_sections": [[("blurry", 1.3)]],
}
LINE = "the cat in the hat on the moon with a red apple and a purple umbrella, "
LONG = {
    "syntax": "weighted",
    "long_prompts": "chunks",
    "prompts": [f"{LINE * 3}(a painting:1.2) {LINE * 4}BREAK (gold:2)"],
    "negative": LINE * 8,
    "sections": [[(LINE * 3, 1), ("a painting", 1.2), (" " + LINE * 4, 1)], [("gold", 2)]],
    "negative_sections": [[(LINE * 8, 1)]],
}

CASES = [
    *cases(
        "tests/models/tiny-sd",
        row("sd-ddim-leading", "ddim", "leading", 5),
        row("sd-ddim-leading-guided", "ddim", "leading", 7, guidance=7.5, prompts=THREE_PROMPTS, **THREE_IMAGES),
        row("sd-ddim-leading-shared", "ddim", "leading", 4, guidance=7.5, noise="shared", **THREE_IMAGES, **NEGATIVE),
        row("sd-ddim-trailing", "ddim", "trailing", 8, guidance=7.5, seed=7),
        row("sd-ddim-one-step", "ddim", "trailing", 1),
        row("sd-ddim-eta", "ddim", "leading", 5, eta=1.0),
        row("sd-ddim-eta-guided", "ddim", "trailing", 5, eta=0.5, guidance=3.0, **THREE_IMAGES),
        row("sd-euler-linspace", "euler", "linspace", 5),
        row("sd-euler-linspace-guided", "euler", "linspace", 6, guidance=7.5, noise="shared", **THREE_IMAGES),
        row("sd-euler-leading-guided", "euler", "leading", 7, guidance=7.5, seed=0, **NEGATIVE),
        row("sd-euler-trailing", "euler", "trailing", 7, guidance=7.5, seed=2**32 + 5),
        row("sd-euler-one-step", "euler", "trailing", 1),
        row("sd-euler-wide", "euler", "linspace", 4, guidance=7.5, width=128, **NEGATIVE),
        row("sd-euler-ancestral", "euler_ancestral", "linspace", 5),
        row("sd-euler-ancestral-guided", "euler_ancestral", "trailing", 6, guidance=5.0, noise="shared", **THREE_IMAGES),
        row("sd-heun-guided", "heun", "linspace", 4, guidance=7.5),
        row("sd-lcm", "lcm", "lcm", 4),
        row("sd-lcm-guided", "lcm", "lcm", 3, guidance=2.0, noise="shared", **THREE_IMAGES),
        row("sd-lcm-one-step", "lcm", "lcm", 1),
        row("sd-weighted", "ddim", "leading", 4, height=32, width=32, **WEIGHTED),
        row("sd-weighted-guided", "ddim", "leading", 4, guidance=7.5, height=32, width=32, **WEIGHTED),
        row("sd-long-guided", "ddim", "leading", 4, guidance=7.5, height=32, width=32, **LONG),
    ),
    *cases(
        "tests/models/tiny-lcm",
        row("lcm-lcm", "lcm", "lcm", 4, guidance=1.5),
        row("lcm-lcm-batch", "lcm", "lcm", 4, guidance=8.0, **THREE_IMAGES),
        row("lcm-lcm-shared", "lcm", "lcm", 7, guidance=8.0, noise="shared", **THREE_IMAGES),
        row("lcm-ddim", "ddim", "leading", 5, guidance=8.0),
    ),
    *cases(
        "tests/models/tiny-static",
        row("static-ddim", "ddim", "trailing", 10, guidance=5.0),
        row("static-euler", "euler", "trailing", 10, guidance=5.0),
        row("static-lcm", "lcm", "lcm", 4),
        precision="fp16",
    ),
    *cases(
        "models/emoji",
        row("emoji-lcm", "lcm", "lcm", 4),
        row("emoji-lcm-batch", "lcm", "lcm", 4, batch=3),
        row("emoji-lcm-prompts", "lcm", "lcm", 4, batch=3, prompts=THREE_EMOJI),
        row("emoji-lcm-one-step", "lcm", "lcm", 1),
        row("emoji-ddim", "ddim", "trailing", 10),
        row("emoji-ddim-guided", "ddim", "trailing", 10, guidance=2.0),
        row("emoji-euler", "euler", "trailing", 10),
        precision="fp16",
        height=128,
        width=128,
    ),
]
