"""A spec: what is a fact about a family of models and stands in none of its checkpoints' own configs."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from .fault import Fault, unknown
from .recipe import SECTIONS

# Beside the package in a checkout, where pip puts them otherwise.
BESIDE = Path(__file__).resolve().parents[1]
SPECS = BESIDE if (BESIDE / "taesd.yaml").is_file() else Path(sys.prefix) / "share/safelight-export"
PRECISIONS = ("int8", "fp16", "fp32")
# A component's folder in an export, and the stage that model.yaml calls it.
STAGES = {
    "text_encoder": "text_encoder",
    "text_encoder_2": "text_encoder_2",
    "unet": "denoiser",
    "transformer": "denoiser",
    "vae_decoder": "decoder",
    "vae_encoder": "encoder",
}
CONDITION_KEYS = {"tensor", "whole", "range", "default", "unguided", "about"}
MANIFEST_KEYS = {"picture", "latent", "training", "edm", "defaults", "range", "conditions"}
REQUIRED = {"name", "title", "licence", "sources", "components", "defaults"}


@dataclass(frozen=True)
class Component:
    """One graph: how it is traced, from which class, and which of the checkpoint's folders its weights lie in."""

    trace: str
    class_name: str
    source: str
    options: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Spec:
    """A checked spec."""

    name: str
    title: str
    licence: str
    sources: list
    path: Path
    components: dict
    manifest: dict
    tokenizers: dict
    single_file: dict
    recipe: dict
    prompts: list
    goldens: list


def open_spec(name):
    """Reads and checks a spec, given as a file or by the name of one beside the package.

    Raises Fault naming the file and the key: missing, unknown, or of the wrong kind.
    """
    path = Path(name)
    if not path.is_file():
        path = SPECS / f"{name.removesuffix('.yaml')}.yaml"
    if not path.is_file():
        known = [found.stem for found in SPECS.glob("*.yaml")]
        raise Fault(f"{unknown('spec', name, known)}, or a file")
    try:
        return checked(read(path), path)
    except yaml.YAMLError as error:
        raise Fault(f"{path}: is not YAML: {error}") from error
    except Fault as error:
        raise Fault(f"{path}: {error}") from error


def read(path, children=()):
    """A spec's content; where it extends another, maps are merged key by key, and all else is replaced."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or "extends" not in content:
        return content
    name = f"{content.pop('extends')}.yaml"
    parent = path.with_name(name) if path.with_name(name).is_file() else SPECS / name
    if parent in (path, *children):
        raise Fault(f"extends {parent.name}, which extends this one")
    if not parent.is_file():
        raise Fault(f"extends {parent.stem}: {parent} is not there")
    return merged(read(parent, (path, *children)), content)


def merged(base, change):
    """`null` takes a key away."""
    if not (isinstance(base, dict) and isinstance(change, dict)):
        return change
    found = base | {key: merged(base.get(key), value) for key, value in change.items()}
    return {key: value for key, value in found.items() if value is not None}


def checked(content, path):
    keys(content, "spec", REQUIRED | MANIFEST_KEYS | {"tokenizers", "single_file", "recipe", "prompts", "goldens"})
    missing = sorted(REQUIRED - content.keys())
    if missing:
        raise Fault(f"lacks {', '.join(missing)}")
    components = mapping(content, "components")
    keys(components, "component", STAGES)
    parts = {folder: component(folder, entry) for folder, entry in components.items()}
    check_conditions(mapping(content, "conditions"))
    recipe = mapping(content, "recipe")
    keys(recipe, "stage in recipe", {STAGES[folder] for folder in parts})
    for stage, sections in recipe.items():
        keys(sections, f"section of recipe.{stage}", SECTIONS)
    return Spec(
        name=content["name"],
        title=content["title"],
        licence=content["licence"],
        sources=content["sources"],
        path=path,
        components=parts,
        manifest={key: content[key] for key in MANIFEST_KEYS if key in content},
        tokenizers=mapping(content, "tokenizers"),
        single_file=mapping(content, "single_file"),
        recipe=recipe,
        prompts=content.get("prompts") or [],
        goldens=content.get("goldens") or [],
    )


def component(folder, entry):
    where = f"key of components.{folder}"
    keys(entry, where, {"trace", "class", "from", "options"})
    for required in ("trace", "class"):
        if required not in entry:
            raise Fault(f"components.{folder} lacks {required}")
    # Late, because it brings torch, which takes seconds: a mistyped name should not.
    from .trace import TRACES

    if entry["trace"] not in TRACES:
        raise Fault(f"components.{folder}: {unknown('trace', entry['trace'], TRACES)}")
    return Component(entry["trace"], entry["class"], entry.get("from", folder), entry.get("options") or {})


def check_conditions(conditions):
    for name, entry in conditions.items():
        keys(entry, f"key of conditions.{name}", CONDITION_KEYS)
        if "tensor" not in entry:
            raise Fault(f"conditions.{name} lacks tensor")


def mapping(content, key):
    value = content.get(key) or {}
    if not isinstance(value, dict):
        raise Fault(f"{key} is {value!r}, expected a map")
    return value


def keys(content, what, known):
    """Refuses a key that nothing would read."""
    if not isinstance(content, dict):
        raise Fault(f"{what}: is {content!r}, expected a map")
    for name in content:
        if name not in known:
            raise Fault(unknown(what, name, known))
