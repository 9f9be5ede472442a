"""Recorded samples are read one at a time, shuffled the same way each time, and split in two."""

import numpy as np
import pytest

from safelight_export import calibration
from safelight_export.fault import Fault


def folder(tmp_path, count=12):
    for index in range(1, count + 1):
        calibration.record(tmp_path, "denoiser", index, {"sample": np.full((2, 2), index, np.float32)})
    calibration.record(tmp_path, "text_encoder", 1, {"input_ids": np.array([[1]])})
    return calibration.Samples(tmp_path)


def test_samples_are_shuffled_but_the_same_each_time(tmp_path):
    rows = folder(tmp_path).stage("denoiser")
    first, second = ([int(row["sample"][0, 0]) for row in rows] for _ in range(2))
    assert first == second and sorted(first) == list(range(1, 13)) and first != sorted(first)


def test_only_what_is_asked_for_is_read(tmp_path, monkeypatch):
    rows, opened = folder(tmp_path).stage("denoiser", limit=5), []
    load = np.load
    monkeypatch.setattr(calibration.np, "load", lambda path: opened.append(path) or load(path))
    walk = iter(rows)
    next(walk)
    assert len(opened) == 1 and len(rows) == 5 and len(list(rows)) == 5


def test_judged_rows_are_not_learnt_from(tmp_path):
    rows = folder(tmp_path).stage("denoiser")
    learnt, judged = (
        {int(row["sample"][0, 0]) for row in part} for part in calibration.split(rows, samples=8, held_out=2)
    )
    assert len(learnt) == 8 and len(judged) == 2 and not learnt & judged


def test_one_row_is_learnt_from_and_judged_by(tmp_path):
    rows = folder(tmp_path).stage("text_encoder")
    assert [len(part) for part in calibration.split(rows, samples=8, held_out=2)] == [1, 1]


def test_what_is_missing_is_told(tmp_path):
    with pytest.raises(Fault, match="holds no samples of decoder, only of denoiser, text_encoder"):
        folder(tmp_path).stage("decoder")
    with pytest.raises(Fault, match="--record-calibration"):
        calibration.Samples(tmp_path / "none")
