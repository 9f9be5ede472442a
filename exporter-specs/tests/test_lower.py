"""What is calibrated with what."""

from types import SimpleNamespace

import pytest
from safelight_export import lower
from safelight_export.fault import Fault

GRAPHS = {"denoiser": None, "encoder": None}


@pytest.fixture(autouse=True)
def no_walks(monkeypatch):
    monkeypatch.setattr(lower, "walked", lambda *_: {"source": "8 trajectories"})


def run(tmp_path, calibration):
    return SimpleNamespace(calibration=calibration, work=tmp_path / "work")


def test_without_recordings_every_stage_has_trajectories(tmp_path):
    places, found = lower.calibrated(run(tmp_path, None), None, None, GRAPHS)
    assert places == dict.fromkeys(GRAPHS, tmp_path / "work/calibration")
    assert found == {"source": "8 trajectories"}


def test_a_stage_that_was_not_recorded_has_trajectories(tmp_path):
    rows = tmp_path / "rows"
    rows.mkdir()
    (rows / "denoiser-000000.npz").touch()
    places, found = lower.calibrated(run(tmp_path, rows), None, None, GRAPHS)
    assert places == {"denoiser": rows, "encoder": tmp_path / "work/calibration"}
    assert found == {"source": "recorded in rows; of encoder: 8 trajectories"}
    (rows / "encoder-000000.npz").touch()
    assert lower.calibrated(run(tmp_path, rows), None, None, GRAPHS)[1] == {"source": "recorded in rows"}


def test_a_folder_without_recordings_is_refused(tmp_path):
    with pytest.raises(Fault, match="holds no samples of denoiser, encoder"):
        lower.calibrated(run(tmp_path, tmp_path), None, None, GRAPHS)
