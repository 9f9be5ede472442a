"""The command as typed: what it refuses, what it skips, fixed sizes, another family's decoder."""

import json
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import tiny
from families import FAMILIES

from safelight_export.__main__ import export, parser
from safelight_export.fault import Fault

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("command")
    family = next(family for family in FAMILIES if family.name == "sd15")
    family.build(folder / "words").save_pretrained(folder / "checkpoint")
    tiny.tiny_autoencoder(53).save_pretrained(folder / "taesd")
    return folder


def run(weights, out, *options):
    words = ["sd15", "--weights", str(weights / "checkpoint"), "--out", str(out), "--precisions", "fp32", "--plain"]
    return export(parser().parse_args([*words, *map(str, options)]))


def results(found):
    return {step["step"]: step["result"] for step in found["steps"]}


def test_help_has_examples():
    shown = subprocess.run(
        [sys.executable, "-m", "safelight_export", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert shown.returncode == 0 and "--decoder taesd=" in shown.stdout and "sdxl-turbo" in shown.stdout


def test_a_fault_is_one_line(tmp_path):
    words = ["sd15", "--weights", "some/model", "--out", tmp_path / "out"]
    shown = subprocess.run([sys.executable, "-m", "safelight_export", *words], cwd=ROOT, capture_output=True, text=True)
    assert shown.returncode == 2 and shown.stdout == ""
    assert shown.stderr.startswith("error: weights some/model: is not there") and shown.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--precisions", "int4"], 'unknown precision "int4", expected some of: int8, fp16, fp32'),
        (["--static", "512"], 'size is "512", expected such as 512x512'),
        ([], "the following arguments are required: --out"),
    ],
)
def test_arguments_are_checked(capsys, options, told):
    needed = ["--out", "x"] if options else []
    with pytest.raises(SystemExit):
        parser().parse_args(["sd15", "--weights", "x", *needed, *options])
    assert told in capsys.readouterr().err


def test_a_second_run_skips_every_step_and_only_runs_what_it_names(weights, tmp_path):
    first = results(run(weights, tmp_path / "model"))
    assert first["trace:unet"] == first["fp32:unet"] == "made"
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "model").rglob("*.onnx")}
    second = results(run(weights, tmp_path / "model"))
    assert {result for step, result in second.items() if step != "manifest"} == {"skipped: unchanged"}
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "model").rglob("*.onnx")}
    third = results(run(weights, tmp_path / "model", "--only", "trace:vae_decoder", "--again"))
    assert third["trace:vae_decoder"] == "made" and third["trace:unet"] == "skipped: unchanged"
    with pytest.raises(Fault, match="--only decoder: no such step; the steps are: trace:text_encoder"):
        run(weights, tmp_path / "model", "--only", "decoder")


def test_a_killed_export_leaves_no_half_file_and_goes_on(weights, tmp_path):
    words = ["sd15", "--weights", weights / "checkpoint", "--out", tmp_path / "model", "--precisions", "fp32", "--plain"]
    command = [sys.executable, "-m", "safelight_export", *map(str, words)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    # Somewhere inside of the second step.
    while not process.stderr.readline().startswith("trace:unet"):
        assert process.poll() is None
    process.kill()
    process.wait()
    work = tmp_path / "model.work"
    assert [path.relative_to(work).as_posix() for path in work.glob("fp32/*/*")] == ["fp32/text_encoder/model.onnx"]
    onnx.checker.check_model(work / "fp32/text_encoder/model.onnx")
    assert not (tmp_path / "model").exists()
    found = results(run(weights, tmp_path / "model"))
    assert found["trace:text_encoder"] == "skipped: unchanged" and found["trace:unet"] == "made"
    assert not list(work.glob("partial-*"))


def test_static_graphs_have_no_free_axes(weights, tmp_path):
    run(weights, tmp_path / "model", "--static", "64x32")
    shapes = {}
    for path in (tmp_path / "model").rglob("model.onnx"):
        graph = onnx.load(path).graph
        for edge in (*graph.input, *graph.output):
            axes = edge.type.tensor_type.shape.dim
            assert not any(axis.dim_param for axis in axes), f"{path.parent.name}: {edge.name}"
            shapes[path.parent.name, edge.name] = [axis.dim_value for axis in axes]
    assert shapes["unet", "sample"] == [1, 4, 4, 8]
    assert shapes["vae_decoder", "sample"] == [1, 3, 32, 64]


def test_the_decoder_of_another_family_takes_the_place_of_its_own(weights, tmp_path):
    out = tmp_path / "model"
    run(weights, out, "--decoder", f"taesd={weights / 'taesd'}")
    assert json.loads((out / "vae_decoder/config.json").read_text())["_class_name"] == "AutoencoderTiny"
    assert "latent: {channels: 4, downscale: 8, scale: 1.0}" in (out / "model.yaml").read_text()
    outputs = [edge.name for edge in onnx.load(out / "vae_encoder/model.onnx").graph.output]
    assert outputs == ["latent_sample"]


def test_components_can_be_left_out(weights, tmp_path):
    run(weights, tmp_path / "model", "--without", "vae_encoder", "--licence", "MIT")
    manifest = (tmp_path / "model/model.yaml").read_text()
    assert "decoder:" in manifest and "  encoder:" not in manifest and "licence: MIT" in manifest
    with pytest.raises(Fault, match='unknown component "encoder", expected one of: text_encoder, unet'):
        run(weights, tmp_path / "model", "--without", "encoder")


def test_graphs_of_an_earlier_export_are_told_and_not_listed(weights, tmp_path, capsys):
    run(weights, tmp_path / "model")
    (tmp_path / "model/unet/model_int8.onnx").write_text("of other weights")
    run(weights, tmp_path / "model")
    assert "unet/model_int8.onnx is from an earlier export and not listed" in capsys.readouterr().err
    assert "int8" not in (tmp_path / "model/model.yaml").read_text()


def test_a_decoder_that_is_none_is_refused(weights, tmp_path):
    with pytest.raises(Fault, match="expected SPEC=PATH"):
        run(weights, tmp_path / "model", "--decoder", "taesd")
    with pytest.raises(Fault, match="the spec has no vae_decoder"):
        run(weights, tmp_path / "model", "--decoder", f"ddpm={weights / 'taesd'}")
