"""Tiny checkpoints of the families: real architecture classes of diffusers and transformers, seeded random weights.

Random weights as they come give next to no output and ignore the text; `enliven` makes every input count, by gains of
few digits, so that another machine makes the same weights.
"""

import sys
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DiTTransformer2DModel,
    LatentConsistencyModelPipeline,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests/reference"))
from tiny_tokenizer import END, write_tokenizer  # noqa: E402

TEXT_WIDTH = 8
SIDE = 8
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def tokenizer(folder, pad_token=END):
    write_tokenizer(folder, pad_token)
    return CLIPTokenizer.from_pretrained(folder)


def text_encoder(seed, words, width=TEXT_WIDTH, layers=2, projection=None, act="quick_gelu"):
    torch.manual_seed(seed)
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=width,
        intermediate_size=2 * width,
        num_attention_heads=2,
        num_hidden_layers=layers,
        projection_dim=projection or width,
        hidden_act=act,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    model = (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)
    # CLIP starts with embeddings of a fiftieth, which training makes larger.
    scale(model, "token_embedding", 50.0)
    scale(model, "position_embedding", 10.0)
    scale(model, "out_proj", 20.0)
    scale(model, "fc2", 10.0)
    return model.eval()


def unet(seed, **changes):
    torch.manual_seed(seed)
    config = {
        "sample_size": SIDE,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": (8, 8),
        "layers_per_block": 1,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": TEXT_WIDTH,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    }
    model = UNet2DConditionModel(**(config | changes)).eval()
    scale(model, "attn2.to_out", 4.0)
    scale(model, "attn2.to_v", 2.0)
    scale(model, "time_emb_proj", 3.0)
    scale(model, "time_embedding.cond_proj", 4.0)
    scale(model, "add_embedding", 2.0)
    return model


def set_gain(model, layer, spread, run):
    """Scales the last layer so that the output's standard deviation is about `spread`, to two digits."""
    with torch.no_grad():
        gain = float(f"{spread / run().std().item():.2g}")
        layer.weight *= gain
    return model


def live_unet(model, spread, **extra):
    generator = torch.Generator().manual_seed(0)
    config = model.config
    sample = torch.randn(1, config.in_channels, SIDE, SIDE, generator=generator)
    text = torch.randn(1, 77, config.cross_attention_dim, generator=generator)
    return set_gain(model, model.conv_out, spread, lambda: model(sample, 500, text, **extra).sample)


@torch.no_grad()
def autoencoder(seed, scaling_factor, **changes):
    torch.manual_seed(seed)
    config = {
        "block_out_channels": (8, 8, 8, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "latent_channels": 4,
        "layers_per_block": 1,
        "norm_num_groups": 2,
        "sample_size": 64,
        "scaling_factor": scaling_factor,
    }
    model = AutoencoderKL(**(config | changes)).eval()
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(1, 4, SIDE, SIDE, generator=generator) / scaling_factor
    set_gain(model, model.decoder.conv_out, 0.5, lambda: model.decode(latent).sample)
    picture = torch.rand(1, 3, 64, 64, generator=generator) * 2 - 1
    spread = model.encode(picture).latent_dist.mean.std().item() * scaling_factor
    # The means alone: a deviation of about one among means of several shows a forgotten noise, and drowns nothing.
    model.quant_conv.weight[:4] *= float(f"{1 / spread:.2g}")
    return model


@torch.no_grad()
def tiny_autoencoder(seed):
    torch.manual_seed(seed)
    model = AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8, 8),
        decoder_block_out_channels=(8, 8, 8, 8),
        num_encoder_blocks=(1, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 1),
        scaling_factor=1.0,
    ).eval()
    generator = torch.Generator().manual_seed(0)
    # An untrained model's first estimate is as large as this.
    latent = 15.0 * torch.randn(1, 4, SIDE, SIDE, generator=generator)
    set_gain(model, model.decoder.layers[-1], 0.4, lambda: model.decode(latent).sample)
    # Pictures are twice the last layer less one.
    model.decoder.layers[-1].bias -= (model.decode(latent).sample.mean(dim=(0, 2, 3)) / 2 * 100).round() / 100
    picture = torch.rand(1, 3, 64, 64, generator=generator) * 2 - 1
    return set_gain(model, model.encoder.layers[-1], 1.0, lambda: model.encode(picture).latents)


def scale(model, name, factor):
    """Multiplies the weights of layers whose name has `name`."""
    with torch.no_grad():
        for layer, module in model.named_modules():
            if name in layer and getattr(module, "weight", None) is not None:
                module.weight *= factor


def guidance_embedding(guidance, width):
    # The method does not use its pipeline.
    return LatentConsistencyModelPipeline.get_guidance_scale_embedding(None, torch.tensor([guidance - 1.0]), width)


def added_conditions(config):
    """What SDXL's U-Net takes beyond the text, as an example."""
    width = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    generator = torch.Generator().manual_seed(1)
    return {
        "text_embeds": torch.randn(1, width, generator=generator),
        "time_ids": torch.tensor([[64.0, 64.0, 0.0, 0.0, 64.0, 64.0]]),
    }


def plain_unet(seed, side, channels, **changes):
    torch.manual_seed(seed)
    config = {
        "sample_size": side,
        "in_channels": channels,
        "out_channels": channels,
        "block_out_channels": (8, 8),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 4,
        "norm_num_groups": 4,
    }
    model = UNet2DModel(**(config | changes)).eval()
    scale(model, "time_emb_proj", 3.0)
    scale(model, "class_embedding", 2.0)
    sample = torch.randn(1, channels, side, side, generator=torch.Generator().manual_seed(0))
    labels = {"class_labels": torch.tensor([3])} if model.config.num_class_embeds else {}
    return set_gain(model, model.conv_out, 1.0, lambda: model(sample, 500, **labels).sample)


@torch.no_grad()
def transformer(seed):
    torch.manual_seed(seed)
    model = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        norm_num_groups=4,
        sample_size=SIDE,
        patch_size=2,
        num_embeds_ada_norm=1000,
    ).eval()
    scale(model, "class_embedder.embedding_table", 3.0)
    sample = torch.randn(1, 4, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    run = lambda: model(sample, torch.tensor([500]), torch.tensor([3])).sample
    return set_gain(model, model.proj_out_2, 1.0, run)


@torch.no_grad()
def vector_quantiser(seed):
    torch.manual_seed(seed)
    model = VQModel(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=3,
        layers_per_block=1,
        norm_num_groups=2,
        num_vq_embeddings=64,
        sample_size=32,
        scaling_factor=0.18215,
    ).eval()
    # The codebook starts within 1/64 of zero.
    model.quantize.embedding.weight *= 300.0
    latent = torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) / 0.18215
    return set_gain(model, model.decoder.conv_out, 0.5, lambda: model.decode(latent).sample)
