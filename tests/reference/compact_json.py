"""JSON with one line per entry: small, and a changed golden shows as a changed line."""

import json
from pathlib import Path


def dumps(value):
    return json.dumps(value, ensure_ascii=True, separators=(",", ":"))


def write_json(path: Path, fields):
    """Writes an object; a field that is a list gets one line per element."""
    parts = [f"{dumps(name)}:{lines(value) if isinstance(value, list) else dumps(value)}" for name, value in fields.items()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


def lines(entries):
    return "[\n" + ",\n".join(dumps(entry) for entry in entries) + "\n]"
