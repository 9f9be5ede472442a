"""Hashes, and files that appear whole under their names or not at all."""

import hashlib
import json
import os
import shutil
from pathlib import Path

CHUNK_BYTES = 1 << 20


def sha256(path: Path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def hash_of(value):
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def write_text(path: Path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def write_json(path: Path, value):
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def move_all(source: Path, target: Path):
    """Moves every file of a folder; graphs come last, so that none is there before its weights are."""
    target.mkdir(parents=True, exist_ok=True)
    moved = sorted((file for file in source.iterdir() if file.is_file()), key=lambda file: file.suffix == ".onnx")
    for file in moved:
        # Across file systems a move is a copy, which must not be seen half done.
        temporary = target / f".{file.name}.partial"
        shutil.move(file, temporary)
        os.replace(temporary, target / file.name)
    return [target / file.name for file in moved]
