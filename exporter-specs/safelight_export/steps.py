"""The steps of an export: each is skipped when what it is made from has not changed since it last ended."""

import json
import shutil
import sys
import time
from pathlib import Path

from .fault import Fault
from .files import hash_of, move_all, sha256, write_json

PACKAGE = Path(__file__).parent


class Steps:
    """Runs steps and remembers them in `WORK/steps.json`: inputs' hash, files made, and what was found out."""

    def __init__(self, work: Path, again=False, only=()):
        self.work, self.again, self.only = work, again, only
        self.record_file = work / "steps.json"
        self.records = read_records(self.record_file)
        self.hashes = self.records.setdefault("files", {})
        self.steps = self.records.setdefault("steps", {})
        self.told, self.known = [], []
        work.mkdir(parents=True, exist_ok=True)
        for left in work.glob("partial-*"):
            shutil.rmtree(left)

    def run(self, name, inputs, folder, make, **settings):
        """Makes files in `folder` by `make(temporary folder)`, unless they are there for the same inputs.

        `inputs` are files; a module of this package that decides the result is one of them. Returns what `make`
        found out, a dict for the report.
        """
        self.known.append(name)
        key = hash_of([name, [self.hash(path) for path in inputs], settings])
        record = self.steps.get(name)
        wanted = not self.only or any(name == only or name.startswith(f"{only}:") for only in self.only)
        fresh = record is not None and record["key"] == key and self.intact(record["made"])
        if not wanted and record is None:
            raise Fault(f"step {name} was never made: run without --only first")
        if not wanted or (fresh and not self.again):
            self.tell(name, "skipped: unchanged" if fresh else "skipped: not in --only", 0.0)
            return record["found"]
        return self.make(name, key, folder, make)

    def make(self, name, key, folder, make):
        start = time.monotonic()
        print(f"{name} …", file=sys.stderr, flush=True)
        temporary = self.work / f"partial-{name.replace(':', '-')}"
        temporary.mkdir()
        found = make(temporary) or {}
        made = move_all(temporary, folder)
        shutil.rmtree(temporary)
        self.steps[name] = {"key": key, "made": {str(path): self.hash(path) for path in made}, "found": found}
        write_json(self.record_file, self.records)
        self.tell(name, "made", time.monotonic() - start)
        return found

    def intact(self, made):
        return all(Path(path).is_file() and self.hash(Path(path)) == known for path, known in made.items())

    def hash(self, path: Path):
        """The file's hash, computed again only where its size or time of change is another."""
        status = path.stat()
        stamp = [status.st_size, status.st_mtime_ns]
        known = self.hashes.get(str(path))
        if known is None or known["stamp"] != stamp:
            known = self.hashes[str(path)] = {"stamp": stamp, "sha256": sha256(path)}
        return known["sha256"]

    def tell(self, name, what, seconds):
        self.told.append({"step": name, "result": what, "seconds": round(seconds, 3)})
        took = f" in {seconds:.1f} s" if what == "made" else ""
        print(f"{name} {what}{took}", file=sys.stderr, flush=True)

    def check_only(self):
        for only in self.only:
            if not any(name == only or name.startswith(f"{only}:") for name in self.known):
                raise Fault(f"--only {only}: no such step; the steps are: {', '.join(self.known)}")


def read_records(path: Path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except json.JSONDecodeError as error:
        raise Fault(f"{path}: is not JSON ({error}); remove it and run again") from error


def modules(*names):
    """Files of this package, as inputs of steps that they decide."""
    return [PACKAGE / f"{name}.py" for name in names]
