"""Weights come from a folder or from one file, and give the same model; nothing is fetched."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from authors_file import write_file
from families import FAMILIES
from safetensors.torch import load_file, save_file

from safelight_export.checkpoint import library_of, open_checkpoint
from safelight_export.fault import Fault
from safelight_export.spec import open_spec

TEXT = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_act",
    "projection_dim",
)


# What is published of each component: a configuration that is off by a block has another number.
PARAMETERS = {
    ("sd15", "text_encoder"): 123_060_480,
    ("sd15", "unet"): 859_520_964,
    ("sd15", "vae"): 83_653_863,
    ("sd2", "text_encoder"): 340_387_840,
    ("sd2", "unet"): 865_910_724,
    ("sdxl", "text_encoder_2"): 694_659_840,
    ("sdxl", "unet"): 2_567_463_684,
}


def saved(name, folder):
    """(folder, pipeline) with `checkpoint` and the same weights as `model.safetensors`."""
    family = next(family for family in FAMILIES if family.name == name)
    pipeline = family.build(folder / "words")
    pipeline.save_pretrained(folder / "checkpoint")
    write_file(pipeline, folder / "model.safetensors")
    return folder, pipeline


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    return saved("sd15", tmp_path_factory.mktemp("sd15"))


def single_spec(pipeline, name="sd15"):
    configs = {
        "pipeline": type(pipeline).__name__,
        "unet": dict(pipeline.unet.config),
        "vae": dict(pipeline.vae.config),
        "scheduler": dict(pipeline.scheduler.config),
    }
    for part in ("text_encoder", "text_encoder_2"):
        if hasattr(pipeline, part):
            configs[part] = {key: getattr(getattr(pipeline, part).config, key) for key in TEXT}
    return replace(open_spec(name), single_file=configs)


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_a_folder_and_a_single_file_give_the_same_weights(name, tmp_path):
    folder, made = saved(name, tmp_path)
    spec = single_spec(made, name)
    sources = [
        open_checkpoint(folder / "checkpoint", spec),
        open_checkpoint(folder / "model.safetensors", spec, folder / "words"),
    ]
    for component in spec.components.values():
        whole, single = (source.load(component).state_dict() for source in sources)
        assert whole.keys() == single.keys()
        for name, tensor in whole.items():
            assert torch.equal(tensor, single[name]), name


@pytest.mark.parametrize(("name", "source"), PARAMETERS)
def test_configurations_of_single_files_are_those_that_were_published(name, source):
    spec = open_spec(name)
    class_name = next(part.class_name for part in spec.components.values() if part.source == source)
    model_class, config = getattr(library_of(class_name), class_name), spec.single_file[source]
    with torch.device("meta"):
        text = hasattr(model_class, "config_class")
        model = model_class(model_class.config_class(**config)) if text else model_class.from_config(config)
    assert sum(tensor.numel() for tensor in model.parameters()) == PARAMETERS[name, source]


def test_a_file_of_another_family_is_refused(pipeline):
    folder, made = pipeline
    spec = single_spec(made)
    wider = dict(spec.single_file, unet=spec.single_file["unet"] | {"layers_per_block": 2})
    source = open_checkpoint(folder / "model.safetensors", replace(spec, single_file=wider), folder / "words")
    with pytest.raises(Fault, match="is this the family of the spec"):
        source.load(spec.components["unet"])


def test_weights_that_are_missing_are_not_drawn_at_random(pipeline, tmp_path):
    folder, _ = pipeline
    shutil.copytree(folder / "checkpoint/unet", tmp_path / "unet")
    path = tmp_path / "unet/diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    del tensors["conv_out.weight"]
    save_file(tensors | {"conv_out.wait": torch.zeros(1)}, path)
    (tmp_path / "model_index.json").write_text("{}")
    spec = open_spec("sd15")
    with pytest.raises(
        Fault, match="unet lacks conv_out.weight and 0 more; has, for no layer, conv_out.wait and 0 more"
    ):
        open_checkpoint(tmp_path, spec).load(spec.components["unet"])
    path.unlink()
    with pytest.raises(Fault, match="unet: cannot be loaded as UNet2DConditionModel: .*no file named"):
        open_checkpoint(tmp_path, spec).load(spec.components["unet"])


def test_a_component_of_another_class_is_told(pipeline):
    folder, _ = pipeline
    source = open_checkpoint(folder / "checkpoint", open_spec("ddpm"))
    with pytest.raises(Fault, match="unet: cannot be loaded as UNet2DModel: .*; it is a UNet2DConditionModel"):
        source.load(open_spec("ddpm").components["unet"])


def test_half_precision_is_taken_where_there_is_nothing_better(pipeline, tmp_path):
    folder, made = pipeline
    made.save_pretrained(tmp_path / "half", variant="fp16")
    shutil.copytree(folder / "checkpoint", tmp_path / "both")
    shutil.copytree(tmp_path / "half", tmp_path / "both", dirs_exist_ok=True)
    spec = open_spec("sd15")
    for name, component in spec.components.items():
        for place, suffix in (("half", ".fp16.safetensors"), ("both", "l.safetensors")):
            source = open_checkpoint(tmp_path / place, spec)
            source.load(component)
            files = [file.name for file in source.inputs(component.source) if file.suffix == ".safetensors"]
            assert len(files) == 1 and files[0].endswith(suffix), name


def test_weights_are_taken_where_a_folder_also_has_graphs(pipeline, tmp_path):
    folder, _ = pipeline
    shutil.copytree(folder / "checkpoint", tmp_path / "both")
    (tmp_path / "both/unet/model.onnx").touch()
    assert type(open_checkpoint(tmp_path / "both", open_spec("sd15"))).__name__ == "Folder"


def test_text_encoders_that_lack_weights_are_refused(pipeline, tmp_path):
    folder, _ = pipeline
    shutil.copytree(folder / "checkpoint/text_encoder", tmp_path / "text_encoder")
    path = tmp_path / "text_encoder/model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if name.endswith("fc2.weight"))
    save_file({key: tensor for key, tensor in tensors.items() if key != name}, path, {"format": "pt"})
    (tmp_path / "model_index.json").write_text("{}")
    spec = open_spec("sd15")
    with pytest.raises(Fault, match="text_encoder lacks .*fc2.weight and 0 more: is this the family"):
        open_checkpoint(tmp_path, spec).load(spec.components["text_encoder"])


def test_a_file_without_a_component_is_refused(pipeline, tmp_path):
    _, made = pipeline
    spec = single_spec(made)
    save_file({"first_stage_model.encoder.conv_in.bias": torch.zeros(1)}, tmp_path / "vae.safetensors")
    source = open_checkpoint(tmp_path / "vae.safetensors", spec)
    with pytest.raises(Fault, match="the file has no unet: no tensor begins with model.diffusion_model."):
        source.load(spec.components["unet"])


def test_a_single_file_needs_a_vocabulary(pipeline):
    folder, made = pipeline
    source = open_checkpoint(folder / "model.safetensors", single_spec(made))
    with pytest.raises(Fault, match="pass --tokenizer FOLDER"):
        source.tokenizer("tokenizer")


def test_names_that_are_no_paths_are_not_fetched():
    with pytest.raises(Fault, match="nothing is downloaded"):
        open_checkpoint("somebody/some-model", open_spec("sd15"))


def test_a_folder_without_a_component_lists_what_it_has(tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    source = open_checkpoint(tmp_path, open_spec("sd15"))
    with pytest.raises(Fault, match="has no folder vae; it has unet"):
        source.load(open_spec("sd15").components["vae_decoder"])
