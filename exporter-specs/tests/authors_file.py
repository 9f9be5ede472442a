"""A diffusers pipeline → the single file that its authors publish: their names for the same tensors."""

import re

import torch
from safetensors.torch import save_file

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
UNET = {
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
OPEN_CLIP = {
    "embeddings.token_embedding": "token_embedding",
    "embeddings.position_embedding.weight": "positional_embedding",
    "final_layer_norm": "ln_final",
    "encoder.layers": "transformer.resblocks",
    "self_attn.out_proj": "attn.out_proj",
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def write_file(pipeline, path):
    tensors = {}
    for name, tensor in pipeline.unet.state_dict().items():
        tensors[f"model.diffusion_model.{unet_name(name, pipeline.unet.config)}"] = tensor
    for name, tensor in pipeline.vae.state_dict().items():
        # Attention is a convolution there.
        flat = "attentions" in name and tensor.dim() == 2
        tensors[f"first_stage_model.{vae_name(name, pipeline.vae.config)}"] = (
            tensor[:, :, None, None] if flat else tensor
        )
    second = getattr(pipeline, "text_encoder_2", None)
    clip = "conditioner.embedders.0.transformer" if second else "cond_stage_model.transformer"
    for name, tensor in pipeline.text_encoder.state_dict().items():
        tensors[f"{clip}.text_model.{name.removeprefix('text_model.')}"] = tensor
    if second:
        tensors |= open_clip(second.state_dict(), "conditioner.embedders.1.model")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def unet_name(name, config):
    layers = config.layers_per_block
    if match := re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)", name):
        side, block, kind, layer, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
        if kind == "downsamplers":
            return f"input_blocks.{(layers + 1) * (block + 1)}.0.{rest.replace('conv', 'op')}"
        if kind == "upsamplers":
            place = 2 if "CrossAttn" in config.up_block_types[block] else 1
            return f"output_blocks.{(layers + 1) * block + layers}.{place}.{rest}"
        number = (layers + 1) * block + layer + (side == "down")
        rest = resnet_name(rest) if kind == "resnets" else rest
        return f"{'input' if side == 'down' else 'output'}_blocks.{number}.{int(kind == 'attentions')}.{rest}"
    if match := re.match(r"mid_block\.(resnets|attentions)\.(\d+)\.(.*)", name):
        kind, layer, rest = match[1], int(match[2]), match[3]
        if kind == "attentions":
            return f"middle_block.1.{rest}"
        return f"middle_block.{2 * layer}.{resnet_name(rest)}"
    return renamed(name, UNET)


def resnet_name(name):
    return renamed(name, RESNET)


def vae_name(name, config):
    count = len(config.block_out_channels)
    name = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d+)\.resnets", lambda found: f"up.{count - 1 - int(found[1])}.block", name)
    name = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda found: f"up.{count - 1 - int(found[1])}.upsample", name)
    name = re.sub(r"mid_block\.resnets\.(\d+)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
    if match := re.match(r"(.*)mid_block\.attentions\.0\.(.*)", name):
        return f"{match[1]}mid.attn_1.{renamed(match[2], ATTENTION)}"
    return name.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")


def open_clip(tensors, prefix):
    """OpenCLIP's names: query, key and value of a layer in one, the projection turned round, and a scale besides."""
    made, tensors = {"logit_scale": tensors["text_projection.weight"].new_tensor(4.6)}, dict(tensors)
    made["text_projection"] = tensors.pop("text_projection.weight").T
    tensors = {name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}
    for name, tensor in tensors.items():
        if match := re.match(r"encoder\.layers\.(\d+)\.self_attn\.q_proj\.(weight|bias)", name):
            parts = [tensors[name.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            made[f"transformer.resblocks.{match[1]}.attn.in_proj_{match[2]}"] = torch.cat(parts)
        elif not re.search(r"\.[kv]_proj\.", name):
            made[open_clip_name(name)] = tensor
    return {f"{prefix}.{name}": tensor for name, tensor in made.items()}


def open_clip_name(name):
    for theirs, ours in OPEN_CLIP.items():
        name = name.replace(theirs, ours)
    return name


def renamed(name, table):
    first = next((known for known in table if name.startswith(f"{known}.")), None)
    return name.replace(first, table[first], 1) if first else name
