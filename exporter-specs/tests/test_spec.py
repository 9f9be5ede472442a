"""Specs say only what is read, in names that are known."""

import pytest
import yaml
from safelight_export import trace
from safelight_export.fault import Fault
from safelight_export.spec import SPECS, open_spec

PLAIN = {
    "name": "mine",
    "title": "Mine",
    "licence": "MIT",
    "sources": ["me"],
    "components": {"unet": {"trace": "unet", "class": "UNet2DConditionModel"}},
    "defaults": {"sampler": "euler", "schedule": "trailing", "steps": 4, "guidance": 1.0},
}
WRONG = [
    ({"colour": "red"}, 'unknown spec "colour", expected one of: .*components, .*title'),
    ({"components": {"unett": {}}}, 'unknown component "unett", expected one of: .*unet'),
    ({"components": {"unet": {"trace": "unet"}}}, "components.unet lacks class"),
    ({"components": {"unet": {"trace": "net", "class": "X"}}}, 'unknown trace "net", expected one of: .*unet_plain'),
    ({"components": {"unet": {"trace": "unet", "class": "X", "form": 1}}}, 'unknown key of components.unet "form"'),
    ({"components": ["unet"]}, r"components is \['unet'\], expected a map"),
    ({"conditions": {"class": {"whole": True}}}, "conditions.class lacks tensor"),
    ({"conditions": {"class": {"tensor": "y", "least": 0}}}, 'unknown key of conditions.class "least"'),
    ({"recipe": {"decoder": {}}}, 'unknown stage in recipe "decoder", expected one of: denoiser'),
    ({"recipe": {"denoiser": {"int4": {}}}}, 'unknown section of recipe.denoiser "int4"'),
    ({"title": None}, "lacks title"),
]


def write(folder, content):
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
    return path


@pytest.mark.parametrize(("change", "told"), WRONG)
def test_what_nothing_would_read_is_refused(tmp_path, change, told):
    path = write(tmp_path, PLAIN | change)
    with pytest.raises(Fault, match=told) as fault:
        open_spec(str(path))
    assert str(path) in str(fault.value)


def test_unknown_specs_list_the_known():
    with pytest.raises(Fault, match='unknown spec "sd16", expected one of: .*sd15-lcm.*, or a file'):
        open_spec("sd16")


def test_text_that_is_not_yaml_is_told(tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text("name: [")
    with pytest.raises(Fault, match="broken.yaml: is not YAML"):
        open_spec(str(path))


def test_a_spec_that_extends_itself_is_refused(tmp_path):
    path = write(tmp_path, {"extends": "mine"})
    with pytest.raises(Fault, match="extends mine.yaml, which extends this one"):
        open_spec(str(path))


@pytest.mark.parametrize("path", sorted(SPECS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_spec_is_read(path):
    spec = open_spec(path.stem)
    assert spec.name == path.stem
    assert all(part.trace in trace.TRACES for part in spec.components.values())


def test_what_extends_changes_only_what_it_says():
    base, nine, distilled = (open_spec(name) for name in ("sd15", "sd15-inpainting", "sd15-lcm"))
    assert nine.components == base.components
    assert nine.single_file["unet"] == base.single_file["unet"] | {"in_channels": 9}
    assert distilled.manifest["defaults"]["steps"] == 4 and not distilled.single_file
