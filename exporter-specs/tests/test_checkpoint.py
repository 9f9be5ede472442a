"""Weights come from a folder or from one file, and give the same model; nothing is fetched."""

import json
from dataclasses import replace

import pytest
import torch
from authors_file import write_file
from families import FAMILIES
from safelight_export.checkpoint import open_checkpoint
from safelight_export.fault import Fault
from safelight_export.spec import open_spec
from safetensors.torch import save_file

TEXT = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act")


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    family = next(family for family in FAMILIES if family.name == "sd15")
    folder = tmp_path_factory.mktemp("sd15")
    pipeline = family.build(folder / "words")
    pipeline.save_pretrained(folder / "checkpoint")
    write_file(pipeline, folder / "model.safetensors")
    return folder, pipeline


def single_spec(pipeline):
    configs = {
        "pipeline": "StableDiffusionPipeline",
        "text_encoder": {name: getattr(pipeline.text_encoder.config, name) for name in TEXT},
        "unet": dict(pipeline.unet.config),
        "vae": dict(pipeline.vae.config),
        "scheduler": dict(pipeline.scheduler.config),
    }
    return replace(open_spec("sd15"), single_file=configs)


def test_a_folder_and_a_single_file_give_the_same_weights(pipeline):
    folder, made = pipeline
    spec = single_spec(made)
    sources = [
        open_checkpoint(folder / "checkpoint", spec),
        open_checkpoint(folder / "model.safetensors", spec, folder / "words"),
    ]
    for component in spec.components.values():
        whole, single = (source.load(component).state_dict() for source in sources)
        assert whole.keys() == single.keys()
        for name, tensor in whole.items():
            assert torch.equal(tensor, single[name]), name


def test_a_file_of_another_family_is_refused(pipeline):
    folder, made = pipeline
    spec = single_spec(made)
    wider = dict(spec.single_file, unet=spec.single_file["unet"] | {"layers_per_block": 2})
    source = open_checkpoint(folder / "model.safetensors", replace(spec, single_file=wider), folder / "words")
    with pytest.raises(Fault, match="is this the family of the spec"):
        source.load(spec.components["unet"])


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
