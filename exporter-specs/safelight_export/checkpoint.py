"""A trained checkpoint on disk: a diffusers folder, or one safetensors file in the layout of its authors.

Nothing is fetched: a name that is no path is refused, and the libraries are told to stay offline.
"""

import json
import os
from pathlib import Path

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DISABLE_TELEMETRY": "1",
}

import diffusers  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from diffusers.loaders import single_file_utils as converters  # noqa: E402
from safetensors import safe_open  # noqa: E402

from .fault import Fault, unknown  # noqa: E402

# Their bars and advice would hide what this package has to say.
diffusers.utils.logging.set_verbosity_error()
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

UNKNOWN_WEIGHTS = (
    "expected a diffusers folder (with model_index.json or a config.json), a .safetensors file or a folder of ONNX graphs"
)
TOKENIZER_FILES = ("vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json", "tokenizer.json")
# Where the authors' single files keep a component, by what its keys begin with.
PREFIXES = {
    "unet": ("model.diffusion_model.",),
    "vae": ("first_stage_model.",),
    "text_encoder": (
        "cond_stage_model.transformer.",
        "conditioner.embedders.0.transformer.",
        "cond_stage_model.model.",
    ),
    "text_encoder_2": ("conditioner.embedders.1.model.",),
}


def open_checkpoint(weights, spec, tokenizer=None):
    """A folder or a file, by what is there.

    Raises Fault where there is neither; a hub's name such as `org/model` is never fetched.
    """
    from .take import Graphs, is_graphs

    path = Path(weights)
    # Some published folders hold both; weights are nearer to the source.
    weighted = any(path.glob("*.safetensors")) or any(path.glob("*/*.safetensors")) or any(path.glob("*/*.bin"))
    if path.is_dir() and is_graphs(path) and not weighted:
        return Graphs(path)
    if path.is_dir():
        return Folder(path)
    if path.is_file() and path.suffix == ".safetensors":
        return SingleFile(path, spec, tokenizer)
    what = f"is {'not known' if path.exists() else 'not there'}"
    raise Fault(f"weights {weights}: {what}, {UNKNOWN_WEIGHTS}; nothing is downloaded: fetch it first")


class Folder:
    """A diffusers pipeline, or a single component, as `save_pretrained` writes it."""

    def __init__(self, path: Path):
        self.path = path
        if not (path / "model_index.json").is_file() and not (path / "config.json").is_file():
            raise Fault(f"weights {path}: {UNKNOWN_WEIGHTS}")

    def inputs(self, source):
        """The files that decide what a component is."""
        folder = self.folder(source)
        return sorted(folder.glob("*.json")) + weight_files(folder)[1]

    def folder(self, source):
        folder = self.path / source
        if folder.is_dir():
            return folder
        if (self.path / "config.json").is_file():
            return self.path
        found = sorted(child.name for child in self.path.iterdir() if child.is_dir())
        raise Fault(f"weights {self.path}: has no folder {source}; it has {', '.join(found)}")

    def config(self, source):
        folder = self.folder(source)
        name = "scheduler_config.json" if source == "scheduler" else "config.json"
        return read_json(folder / name)

    def index(self):
        return read_json(self.path / "model_index.json") if (self.path / "model_index.json").is_file() else {}

    def tokenizer(self, name):
        folder = self.path / name
        if not folder.is_dir():
            raise Fault(f"weights {self.path}: has no folder {name}, the vocabulary of what steers it")
        return folder

    def load(self, component):
        folder = self.folder(component.source)
        model_class = getattr(library_of(component.class_name), component.class_name)
        options = options_of(component) | {"variant": weight_files(folder)[0], "output_loading_info": True}
        try:
            model, found = model_class.from_pretrained(folder, **options)
        except (OSError, ValueError, RuntimeError) as error:
            told = f"weights {folder}: cannot be loaded as {component.class_name}: {error}"
            config = self.config(component.source)
            known = config.get("_class_name") or next(iter(config.get("architectures") or []), None)
            raise Fault(told if known in (None, component.class_name) else f"{told}; it is a {known}") from error
        # The libraries would draw at random what a file lacks, and say so in a warning.
        complete(folder, found["missing_keys"], found["unexpected_keys"], found.get("mismatched_keys", ()))
        return ready(model)


def weight_files(folder):
    """(variant, files): the weights in full, or where there are none, a variant such as fp16."""
    for suffix in (".safetensors", ".bin"):
        files = sorted(folder.glob(f"*{suffix}"))
        plain = [file for file in files if variant_of(file) is None]
        if plain:
            return None, plain
        if files:
            variant = variant_of(files[0])
            return variant, [file for file in files if variant_of(file) == variant]
    return None, []


def variant_of(file):
    """`fp16` of `diffusion_pytorch_model.fp16.safetensors` or `model.fp16-00001-of-00002.safetensors`."""
    parts = file.stem.split(".")
    return parts[1].split("-")[0] if len(parts) > 1 else None


class SingleFile:
    """One safetensors file: its components' configs come from the spec, their keys through diffusers' conversions."""

    def __init__(self, path: Path, spec, tokenizer):
        if not spec.single_file:
            raise Fault(f"weights {path}: spec {spec.name} has no single_file, so a diffusers folder is expected")
        self.path, self.configs = path, spec.single_file
        self.words = Path(tokenizer) if tokenizer else None
        if self.words and not self.words.is_dir():
            raise Fault(f"tokenizer {self.words}: is not a folder; expected one with vocab.json and merges.txt")

    def inputs(self, source):
        return [self.path]

    def config(self, source):
        if source not in self.configs:
            raise Fault(f"{unknown('component in single_file', source, self.configs)}")
        return dict(self.configs[source])

    def index(self):
        zeros = self.configs.get("force_zeros_for_empty_prompt")
        return {"_class_name": self.configs["pipeline"]} | ({"force_zeros_for_empty_prompt": zeros} if zeros else {})

    def tokenizer(self, name):
        if self.words is None:
            raise Fault("a single file has no vocabulary: pass --tokenizer FOLDER (vocab.json and merges.txt of CLIP)")
        named = self.words / name
        return named if named.is_dir() else self.words

    def load(self, component):
        config = self.config(component.source)
        library = library_of(component.class_name)
        model_class = getattr(library, component.class_name)
        if library is transformers:
            model = model_class(model_class.config_class(**config, **options_of(component, weights=False)))
        else:
            model = model_class.from_config(config)
        converted = fitting(convert(component.source, self.weights(component.source), config, model), model)
        try:
            missing, left = model.load_state_dict(converted, strict=False)
        except RuntimeError as error:
            raise Fault(f"weights {self.path}: {component.source}: {error}: is this the family of the spec?") from error
        complete(f"{self.path}: {component.source}", missing, left)
        return ready(model)

    def weights(self, source):
        """Tensors of one component, under the names of the file."""
        if source not in PREFIXES:
            raise Fault(unknown("component of a single file", source, PREFIXES))
        with safe_open(self.path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys() if name.startswith(PREFIXES[source])}


def convert(source, weights, config, model):
    """The authors' names of one component's tensors → diffusers' and transformers'."""
    prefix = next((prefix for prefix in PREFIXES[source] if any(name.startswith(prefix) for name in weights)), None)
    if prefix is None:
        raise Fault(f"the file has no {source}: no tensor begins with {' or '.join(PREFIXES[source])}")
    if source == "unet":
        return converters.convert_ldm_unet_checkpoint(weights, config)
    if source == "vae":
        return converters.convert_ldm_vae_checkpoint(weights, config)
    if prefix.endswith("model."):
        return converters.convert_open_clip_checkpoint(model, weights, prefix=prefix)
    return converters.convert_ldm_clip_checkpoint(weights, remove_prefix=prefix)


def fitting(weights, model):
    """Versions of transformers differ in whether names of a text model begin with `text_model.`; positions are counted."""
    own = model.state_dict()
    fitted = {}
    for name, tensor in weights.items():
        forms = (name, name.removeprefix("text_model."), f"text_model.{name}")
        fitted[next((form for form in forms if form in own), name)] = tensor
    return {name: tensor for name, tensor in fitted.items() if not name.endswith("position_ids")}


def complete(where, missing, left, mismatched=()):
    """Raises Fault where a model and its weights do not have the same tensors, of the same shapes."""
    told = []
    for what, names in (("lacks", missing), ("has, for no layer,", left), ("has, of another shape,", mismatched)):
        names = sorted(str(name) for name in names if "position_ids" not in str(name))
        told += [f"{what} {names[0]} and {len(names) - 1} more"] if names else []
    if told:
        raise Fault(f"weights {where} {'; '.join(told)}: is this the family of the spec?")


def library_of(class_name):
    for library in (diffusers, transformers):
        if hasattr(library, class_name):
            return library
    raise Fault(f"class {class_name}: neither diffusers {diffusers.__version__} nor transformers has it")


def options_of(component, weights=True):
    """Attention written out in a text encoder: the fused form does not trace to opset 17 in every version."""
    text = library_of(component.class_name) is transformers
    options = {"attn_implementation": "eager"} if text else {}
    if weights:
        options |= {"local_files_only": True}
        options |= {"dtype": torch.float32} if text else {"torch_dtype": torch.float32, "low_cpu_mem_usage": False}
    return options


def ready(model):
    return model.float().eval().requires_grad_(False)


def read_json(path: Path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Fault(f"{path}: cannot be read: {error.strerror}") from error
    except json.JSONDecodeError as error:
        raise Fault(f"{path}: is not JSON: {error}") from error
