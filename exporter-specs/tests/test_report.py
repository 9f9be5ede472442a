"""The page is whole, needs nothing from elsewhere, and says what was found."""

from html.parser import HTMLParser

import numpy as np
import pytest
from graphs_by_hand import mlp, rows, saved

from safelight_export import comparison, half, optimise, quantise, report

VOID = {"meta", "img", "br", "rect", "line", "polyline", "circle"}


class Tags(HTMLParser):
    """Opens and closes in turn."""

    def __init__(self):
        super().__init__()
        self.open, self.seen = [], set()

    def handle_starttag(self, tag, attributes):
        self.seen.add(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """A denoiser's real results, around pictures that are made up."""
    folder = tmp_path_factory.mktemp("report")
    source, samples = saved(mlp(6), folder / "a"), rows(12, x=(4, 32))
    part = {"trace": {"relative_l2": 3e-7}, "optimise": optimise.optimise(source, folder / "o.onnx", {})}
    part["fp16"] = half.to_half(source, folder / "fp16.onnx", {}, samples)
    part["int8"] = quantise.to_int8(source, folder / "int8.onnx", {"float": [r"layer\.1"]}, samples)
    paths = {"fp32": source, "fp16": folder / "fp16.onnx", "int8": folder / "int8.onnx"}
    compared = {"machine": comparison.machine(), "precisions": list(paths), "pictures": [picture(seed) for seed in (1, 2)]}
    compared["latency"] = comparison.latency(paths, samples[0])
    compared["profile"] = comparison.profile(paths["int8"], samples[0])
    steps = [{"step": "int8:unet", "result": "made", "seconds": 2.5}]
    return {
        "name": "a <model>", "spec": "sd15-lcm", "components": {"unet": part}, "comparison": compared, "steps": steps,
        "calibration": {"source": "8 trajectories of the FP32 graphs, 4 steps each"}, "versions": {"torch": "2"},
    }  # fmt: skip


def picture(seed):
    image = np.random.default_rng(seed).integers(0, 255, (16, 16, 3)).astype(np.uint8)
    shown = lambda noise, psnr: {"steps": [noise, 2 * noise], "latents": noise, "png": comparison.png(image), "psnr": psnr}
    precisions = {"fp32": shown(0.0, None), "fp16": shown(0.001, 60.0), "int8": shown(0.05, 33.3)}
    return {"prompt": "a red apple", "seed": seed, "steps": 2, "precisions": precisions}


def written(export, tmp_path):
    report.write(tmp_path / "report.html", export)
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def test_nothing_comes_from_elsewhere(export, tmp_path):
    page = written(export, tmp_path)
    assert "http" not in page and "<script" not in page and "@import" not in page and "url(" not in page


def test_the_page_is_whole(export, tmp_path):
    tags = Tags()
    tags.feed(written(export, tmp_path))
    assert tags.open == [] and {"svg", "table", "figure", "style"} <= tags.seen


def test_it_says_what_was_found(export, tmp_path):
    page = written(export, tmp_path)
    for told in ("a &lt;model&gt;", "layer.1", "the recipe", "33.3 dB", "The next lever", "8 trajectories", "prefers-color-scheme: dark", "2.5 s"):
        assert told in page, told
    assert page.count("data:image/png") == 6


def test_a_part_of_an_export_has_a_page_too(export, tmp_path):
    part = {name: value for name, value in export["components"]["unet"].items() if name != "fp16"}
    page = written({"name": "half done", "components": {"unet": part}}, tmp_path)
    assert "half done" in page and "FP16" not in page.partition("<h2>Size")[2].partition("<h2>Error")[0]


def test_a_profile_counts_one_run(export):
    found = export["comparison"]["profile"]
    assert found["total_ms"] == pytest.approx(sum(found["operators"].values())) and sum(found["lever"]["shares"].values()) == pytest.approx(1)


def test_psnr_of_known_pictures():
    black = np.zeros((8, 8, 3), np.uint8)
    assert comparison.psnr(black, black) is None
    assert comparison.psnr(black + np.uint8(255), black) == pytest.approx(0)
    assert comparison.psnr(black + np.uint8(1), black) == pytest.approx(48.13, abs=0.01)
