"""Tokenizers of a checkpoint: copied as they are, and as the one `tokenizer.json` that model.yaml names."""

import json
from pathlib import Path

from transformers import CLIPTokenizer

from .checkpoint import TOKENIZER_FILES
from .fault import Fault
from .files import write_json, write_text

SPECIALS = ("bos_token", "eos_token", "pad_token", "unk_token")
VOCABULARIES = (("vocab.json", "merges.txt"), ("tokenizer.json",))
CLIP_LENGTH = 77


def copy_tokenizer(source: Path, folder: Path, fixed):
    """Writes a tokenizer's files into `folder`; returns model.yaml's entry without the file.

    `fixed` are the spec's own values, for tokenizers whose files do not tell: `{pad, length}`.
    """
    if {"length", "start", "end", "pad"} <= fixed.keys():
        write_text(folder / "tokenizer.json", (source / "tokenizer.json").read_text(encoding="utf-8"))
        return {name: fixed[name] for name in ("length", "start", "end", "pad")}
    # Without them, an empty vocabulary would be made up.
    if not any(all((source / name).is_file() for name in files) for files in VOCABULARIES):
        raise Fault(f"tokenizer {source}: holds neither vocab.json with merges.txt nor tokenizer.json")
    for name in TOKENIZER_FILES:
        if (source / name).is_file() and name != "tokenizer.json":
            write_text(folder / name, (source / name).read_text(encoding="utf-8"))
    tokenizer = CLIPTokenizer.from_pretrained(source, local_files_only=True)
    text = tokenizer.backend_tokenizer.to_str()
    write_text(folder / "tokenizer.json", text)
    complete(folder, tokenizer, json.loads(text)["model"])
    length = fixed.get("length") or min(tokenizer.model_max_length, CLIP_LENGTH)
    pad = tokenizer.convert_tokens_to_ids(fixed["pad"]) if "pad" in fixed else tokenizer.pad_token_id
    entry = {"length": length, "start": tokenizer.bos_token_id, "end": tokenizer.eos_token_id, "pad": pad}
    missing = [name for name, value in entry.items() if value is None]
    if missing:
        raise Fault(f"tokenizer {source}: does not tell {', '.join(missing)}; say it in the spec's tokenizers")
    return entry


def complete(folder, tokenizer, model):
    """The pair of files and the map of special tokens that readers of Optimum's layout expect."""
    if not (folder / "vocab.json").is_file():
        write_text(folder / "vocab.json", json.dumps(model["vocab"], ensure_ascii=False, separators=(",", ":")) + "\n")
    if not (folder / "merges.txt").is_file():
        pairs = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
        write_text(folder / "merges.txt", "\n".join(["#version: 0.2", *pairs]) + "\n")
    if not (folder / "special_tokens_map.json").is_file():
        write_json(folder / "special_tokens_map.json", {name: str(getattr(tokenizer, name)) for name in SPECIALS})
