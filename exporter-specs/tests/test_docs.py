"""docs/adding-a-model.md tells of what is there, and its commands can be typed."""

import re
import shlex
from pathlib import Path

import pytest
from safelight_export import spec
from safelight_export.__main__ import parser
from safelight_export.trace import TRACES

PAGE = (Path(__file__).resolve().parents[2] / "docs/adding-a-model.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^python -m safelight_export (.*)$", PAGE, re.MULTILINE)


def rows(title):
    """First cells of the table whose heading begins with `title`."""
    table = PAGE.split(f"\n| {title} |")[1].split("\n\n")[0]
    return re.findall(r"^\| `([\w-]+)`", table, re.MULTILINE)


def test_the_table_of_specs_has_them_all():
    names = {path.stem for path in spec.SPECS.glob("*.yaml")}
    assert set(rows("spec")) == names
    single = {name for name in names if spec.open_spec(name).single_file}
    told = set(re.findall(r"^\| `([\w-]+)` \|.*\| yes \|$", PAGE, re.MULTILINE))
    assert told == single


def test_the_table_of_traces_has_them_all():
    assert set(rows("trace")) == set(TRACES)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_understood(command):
    arguments = parser().parse_args(shlex.split(command))
    assert spec.open_spec(arguments.spec)


def test_the_example_of_a_spec_is_one(tmp_path):
    example = PAGE.split("```yaml\n")[1].split("```")[0]
    path = tmp_path / "my-lcm.yaml"
    path.write_text(example)
    made = spec.open_spec(str(path))
    assert made.name == "my-lcm" and "unet" in made.components and made.single_file


def test_every_key_of_a_spec_is_told():
    keys = spec.REQUIRED | spec.MANIFEST_KEYS | {"tokenizers", "single_file", "recipe", "prompts", "goldens", "extends"}
    assert [key for key in sorted(keys) if f"`{key}`" not in PAGE] == []
