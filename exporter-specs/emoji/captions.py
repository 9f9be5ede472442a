"""Stage 3: captions, and the tokenizer that is trained on them.

    python captions.py        # writes work/tokenizer.json

A caption without a style's name means the house style. So a plain prompt has one picture to aim at and not the mean of
four artists', which is what makes pictures of one or two steps sharp.
"""

import json
import random
import re
from itertools import product

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

import colour
from common import WORK
from data import ALIASES, PACKAGES
from networks import VOCABULARY, WINDOW

HOUSE_STYLES = ("flat", "noto")  # the first that has a picture of the thing
START, END = 0, 1
STYLES = [style for _, _, style, _ in PACKAGES]


class Captions:
    """The captions of the records that `data.py` wrote."""

    def __init__(self):
        written = json.loads((WORK / "records.json").read_text())
        self.records, self.names = written["records"], written["names"]
        drawn = {(r["name"], r["style"]) for r in self.records}
        self.house = {name: next(s for s in (*HOUSE_STYLES, *STYLES) if (name, s) in drawn) for name in self.names}
        self.seen = {(r["core"], r["colour"]) for r in self.records if r["colour"]}

    def plain(self, record, rng):
        """What a picture shows: "apple", "red apple" or "car", without article and style."""
        name, core = record["name"], record["core"]
        if record["painted"]:
            return f"{record['colour']} {ALIASES.get(core, core) if rng.random() < 0.3 else core}"
        if record["said"]:
            return core if rng.random() < 0.15 else name
        name = ALIASES.get(name, name) if rng.random() < 0.3 else name
        return f"{record['colour']} {name}" if record["colour"] and rng.random() < 0.35 else name

    def draw(self, index, rng):
        record = self.records[index]
        words = self.plain(record, rng)
        article = rng.choice(["", "", "an " if words[0] in "aeiou" else "a "])
        house = self.house[record["name"]] == record["style"]
        style = "" if house and rng.random() < 0.6 else f", {record['style']} style"
        return article + words + style

    def weights(self):
        """How often each picture is drawn, in relation: well over half of all are of the house style."""
        house = [self.house[r["name"]] == r["style"] for r in self.records]
        return [4.0 if h else 1.0 for h in house]


class Words:
    """Captions to token ids, as the runtime does it."""

    nothing = [START, *[END] * (WINDOW - 1)]

    def __init__(self, path=WORK / "tokenizer.json"):
        self.tokenizer = Tokenizer.from_file(str(path))

    def __call__(self, caption):
        ids = self.tokenizer.encode(caption, add_special_tokens=False).ids[: WINDOW - 2]
        return [START, *ids, *[END] * (WINDOW - 1 - len(ids))]


def main():
    captions, rng = Captions(), random.Random(0)
    corpus = [captions.draw(i, rng) for i in range(len(captions.records)) for _ in range(4)]
    corpus += [f"{hue} {alias}" for hue, alias in product(sorted(colour.WORDS), ALIASES.values())]
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    words = Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[a-z]+|[0-9]|[^\sa-z0-9]+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(words, behavior="removed", invert=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|startoftext|>", "<|endoftext|>"],
        end_of_word_suffix="</w>",
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.save(str(WORK / "tokenizer.json"), pretty=False)
    pieces = [len(tokenizer.encode(word).ids) for name in captions.names for word in re.findall("[a-z]+", name)]
    whole = sum(n == 1 for n in pieces) / len(pieces)
    print(f"{tokenizer.get_vocab_size()} entries; {whole:.0%} of the words in names are one token")
    print([captions.draw(i, rng) for i in range(0, len(captions.records), 500)])


if __name__ == "__main__":
    main()
