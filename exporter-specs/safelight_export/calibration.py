"""Samples of what each graph is given along real trajectories, one at a time from their files.

`safelight generate --record-calibration FOLDER` writes them: FOLDER/STAGE-000001.npz, arrays by the graph's tensor names.
"""

import random
from pathlib import Path

import numpy as np

from .fault import Fault

SEED = 0


class Samples:
    """A folder of recorded tensors. Nothing is read before it is asked for, and one file at a time."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)
        self.files = {}
        for path in sorted(self.folder.glob("*-*.npz")):
            self.files.setdefault(path.stem.rpartition("-")[0], []).append(path)
        if not self.files:
            raise Fault(
                f"{folder}: holds no STAGE-000001.npz; record some with safelight generate --record-calibration {folder}"
            )

    def stage(self, name, limit=None):
        """The samples of a stage, shuffled by a fixed seed, at most `limit` of them. Raises Fault where there are none."""
        if name not in self.files:
            raise Fault(f"{self.folder}: holds no samples of {name}, only of {', '.join(sorted(self.files))}")
        return Rows(self.files[name], limit)


class Rows:
    """Rows of arrays by name, read from their files each time they are gone through."""

    def __init__(self, files, limit=None):
        files = list(files)
        random.Random(SEED).shuffle(files)
        self.files = files[:limit]

    def __len__(self):
        return len(self.files)

    def __iter__(self):
        for path in self.files:
            with np.load(path) as arrays:
                yield {name: arrays[name] for name in arrays.files}


def split(rows, samples, held_out):
    """(rows to calibrate with, rows to judge by), as lists of functions that read one row, so that few are in memory.

    Where there are too few, both are the same rows: one sample can be calibrated with, but not judged apart.
    """
    count = len(rows)
    judged = list(range(min(held_out, max(1, count // 4))))
    learnt = [index for index in range(count) if index not in judged][:samples] or judged
    return Chosen(rows, learnt), Chosen(rows, judged)


class Chosen:
    """Some of the rows, by their place."""

    def __init__(self, rows, places):
        self.rows, self.places = rows, set(places)

    def __len__(self):
        return len(self.places)

    def __iter__(self):
        return (row for place, row in enumerate(self.rows) if place in self.places)


def record(folder: Path, stage, index, arrays):
    """Writes one row as the runtime does."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / f"{stage}-{index:06}.npz", **arrays)
