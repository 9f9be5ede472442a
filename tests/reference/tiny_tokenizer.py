"""A CLIP byte-level BPE tokenizer with a small vocabulary, in Stable Diffusion's order.

256 bytes, the same 256 with </w>, one entry per merge, <|startoftext|>, <|endoftext|>.
"""

import json
import unicodedata
from collections import Counter
from pathlib import Path

START, END = "<|startoftext|>", "<|endoftext|>"
WINDOW = 77
MERGE_COUNT = 160

# What the merges are learned from: words of the test prompts, some with letters of several bytes.
CORPUS = """
a a a a the the an of of in on and with it it's don't isn't we're
red apple red apples green blue house houses yellow star starry night purple umbrella heart cat cats dog dogs
painting portrait photograph photo portrait of the cat in the hat astronaut riding horse on the moon
highly detailed digital art trending lighting cinematic sharp focus illustration render landscape
sunset mountains river forest castle dragon flower flowers garden bicycle street city light lights
low quality blurry watermark ugly text
café cafés crème brûlée naïve élan über straße 東京 東京 日本 हिन्दी हिन्दी ❤ 🍎 🍎 🏠
... ... !! ?? -- :)
"""


def byte_alphabet():
    """GPT-2's printable stand-in for each byte, in vocabulary order."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def spell(word, alphabet):
    """The word as byte symbols, the last of them marked as the word's end."""
    symbols = [alphabet[byte] for byte in unicodedata.normalize("NFC", word).encode()]
    return (*symbols[:-1], symbols[-1] + "</w>")


def join_pair(symbols, pair):
    joined, i = [], 0
    while i < len(symbols):
        if symbols[i : i + 2] == pair:
            joined.append("".join(pair))
            i += 2
        else:
            joined.append(symbols[i])
            i += 1
    return tuple(joined)


def learn_merges(words, count):
    """Greedy BPE: the most frequent pair first, ties by code point so that a rerun gives the same list."""
    merges = []
    while len(merges) < count:
        pairs = Counter()
        for symbols, frequency in words.items():
            for pair in zip(symbols, symbols[1:]):
                pairs[pair] += frequency
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = Counter({join_pair(symbols, best): frequency for symbols, frequency in words.items()})
    return merges


def vocabulary_and_merges():
    alphabet = byte_alphabet()
    merges = learn_merges(Counter(spell(word, alphabet) for word in CORPUS.split()), MERGE_COUNT)
    letters = list(alphabet.values())
    entries = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges), START, END]
    return {entry: i for i, entry in enumerate(entries)}, merges


def special_token(content):
    return {"content": content, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}


def write_tokenizer(folder: Path, pad_token):
    """The four files that diffusers pipelines carry; returns the vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary, merges = vocabulary_and_merges()
    specials = {
        "bos_token": special_token(START),
        "eos_token": special_token(END),
        "pad_token": pad_token,
        "unk_token": special_token(END),
    }
    config = {
        "add_prefix_space": False,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": WINDOW,
        "tokenizer_class": "CLIPTokenizer",
        **{
            name: {"__type": "AddedToken", **token} if isinstance(token, dict) else token
            for name, token in specials.items()
        },
    }
    merge_lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    write = lambda name, text: (folder / name).write_text(text, encoding="utf-8")
    write("vocab.json", json.dumps(vocabulary, ensure_ascii=False, separators=(",", ":")))
    write("merges.txt", "\n".join(merge_lines) + "\n")
    write("special_tokens_map.json", json.dumps(specials, indent=2) + "\n")
    write("tokenizer_config.json", json.dumps(config, indent=2) + "\n")
    return vocabulary
