"""Token ids from Hugging Face's own tokenizers."""

from pathlib import Path

from tokenizers import Tokenizer
from transformers import CLIPTokenizer

from compact_json import write_json

EMOJI_WINDOW = 16
EMOJI_START, EMOJI_END = 0, 1

PROMPTS = [
    "",
    " ",
    "a red apple",
    "a painting of the cat in the hat, highly detailed, digital art",
    "A RED APPLE On The MOON",
    "wait... what?! -- (really) [yes] {no} <b> :) *** ~`@#$%^&+=|\\/",
    "3 apples, 12 dogs, 1999 and 3.14",
    "route66 4k 8K x2y3",
    "it's the cat's hat, we're here, I'll, I'd, I'm, they've, don't",
    "DON'T IT'S WE'RE",
    "don\u2019t use \u201ccurly\u201d quotes\u2026",
    "caf\u00e9 na\u00efve \u00fcber stra\u00dfe cr\u00e8me br\u00fbl\u00e9e",
    "cafe\u0301 nai\u0308ve u\u0308ber cre\u0300me bru\u0302le\u0301e",
    "\u0130STANBUL \u00c9LAN \u03a3\u0391\u03a3 \u01c5 \u1e9e",
    "I \u2764\ufe0f \U0001f34e and \U0001f3e0!",
    "\U0001f469\u200d\U0001f680 \U0001f1ef\U0001f1f5\U0001f44d\U0001f3fd",
    "\u6771\u4eac\u306e\u591c\u3001\u65e5\u672c",
    "\u0939\u093f\u0928\u094d\u0926\u0940 \u092e\u0947\u0902 \u0938\u0947\u092c",
    "\u0e44\u0e17\u0e22 \uc0ac\uacfc \uc5d0\uc11c \u1112\u1161\u11ab",
    "Roman \u2163, half \u00bd, square \u00b2, Arabic \u0663, circled \u2460, full\uff11\uff12",
    "\t a   red\napple\r\n\r\n  on\u00a0a\u3000moon \u2003",
    "red\u200bapple soft\u00adhyphen \ufeffbom",
    "bell\u0007 escape\u001b[0m nul\u0000 tab\u000bform\u000cfeed \u0085next \u001cfs",
    "a red apple <|endoftext|> a blue house",
    "<|startoftext|>a cat<|ENDOFTEXT|>dog <|endoftext",
    "a!b !c! !!",
    "the cat in the hat on the moon with a red apple and a purple umbrella, " * 8,
    "supercalifragilisticexpialidocious" * 5,
    "unassigned \u0378 private \ue000 noncharacter \ufffe astral \U0010fffd",
]


def clip_ids(model_folder: Path):
    """Ids as diffusers asks for them: padded to the window, truncated, specials added."""
    tokenizer = CLIPTokenizer.from_pretrained(model_folder / "tokenizer")
    window = tokenizer.model_max_length
    return lambda prompt: tokenizer(prompt, padding="max_length", max_length=window, truncation=True).input_ids


def emoji_ids(model_folder: Path):
    """The emoji's own framing around its tokenizer.json."""
    tokenizer = Tokenizer.from_file(str(model_folder / "tokenizer.json"))

    def ids(prompt):
        words = tokenizer.encode(prompt).ids[: EMOJI_WINDOW - 2]
        return [EMOJI_START, *words, *[EMOJI_END] * (EMOJI_WINDOW - 1 - len(words))]

    return ids


def write_tokens(models: Path, emoji: Path, golden: Path):
    tokenizers = {
        "tiny-sd": clip_ids(models / "tiny-sd"),
        "tiny-static": clip_ids(models / "tiny-static"),
        "emoji": emoji_ids(emoji),
    }
    cases = [{"prompt": prompt, **{name: ids(prompt) for name, ids in tokenizers.items()}} for prompt in PROMPTS]
    write_json(golden / "tokens.json", {"cases": cases})
