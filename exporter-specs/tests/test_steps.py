"""Steps run once, again when what they are made from changes, and leave nothing half done."""

import pytest
from safelight_export.fault import Fault
from safelight_export.steps import Steps


class Work:
    """Two steps, of which the second is made from the first."""

    def __init__(self, folder):
        self.folder, self.source, self.runs = folder, folder / "source", []
        self.source.write_text("1")

    def steps(self, **options):
        steps = Steps(self.folder / "work", **options)
        self.run(steps, "double", self.source, "doubled")
        self.run(steps, "triple", self.folder / "out/doubled", "tripled")
        return [told["result"] for told in steps.told]

    def run(self, steps, name, source, made):
        def make(temporary):
            self.runs.append(name)
            (temporary / made).write_text(source.read_text() * (2 if name == "double" else 3))
            return {"length": len(source.read_text())}

        return steps.run(name, [source], self.folder / "out", make)


def test_what_is_unchanged_is_skipped(tmp_path):
    work = Work(tmp_path)
    assert work.steps() == ["made", "made"]
    assert work.steps() == ["skipped: unchanged"] * 2
    assert work.runs == ["double", "triple"]


def test_a_changed_input_makes_again_what_depends_on_it(tmp_path):
    work = Work(tmp_path)
    work.steps()
    work.source.write_text("2")
    assert work.steps() == ["made", "made"]
    assert (tmp_path / "out/tripled").read_text() == "222222"


@pytest.mark.parametrize("spoil", [lambda path: path.unlink(), lambda path: path.write_text("x")])
def test_a_spoilt_result_is_made_again_alone(tmp_path, spoil):
    work = Work(tmp_path)
    work.steps()
    spoil(tmp_path / "out/tripled")
    assert work.steps() == ["skipped: unchanged", "made"]


def test_a_step_that_dies_leaves_no_file_and_is_run_again(tmp_path):
    work = Work(tmp_path)

    def dies(temporary):
        (temporary / "doubled").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Steps(tmp_path / "work").run("double", [work.source], tmp_path / "out", dies)
    assert not (tmp_path / "out").exists()
    assert work.steps() == ["made", "made"]
    assert not list((tmp_path / "work").glob("partial-*"))


def test_again_runs_the_steps_that_only_names(tmp_path):
    work = Work(tmp_path)
    work.steps()
    assert work.steps(again=True, only=["triple"]) == ["skipped: unchanged", "made"]


def test_only_needs_what_comes_before_it(tmp_path):
    with pytest.raises(Fault, match="step double was never made: run without --only first"):
        Work(tmp_path).steps(only=["triple"])


def test_only_refuses_steps_that_are_not_there(tmp_path):
    work = Work(tmp_path)
    work.steps()
    steps = Steps(tmp_path / "work", only=["quadruple"])
    work.run(steps, "double", work.source, "doubled")
    with pytest.raises(Fault, match="no such step; the steps are: double"):
        steps.check_only()
