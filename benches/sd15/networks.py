"""Networks of Stable Diffusion 1.5's size with random weights, and what their layers see on one request."""

import functools

import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from diffusers.models.activations import GEGLU
from transformers import CLIPTextConfig, CLIPTextModel

LATENT = (1, 4, 64, 64)
TOKENS, WIDTH = 77, 768
GUIDANCE_WIDTH = 256
TIMESTEPS = (999, 259)


class TextEncoder(torch.nn.Module):
    names = ["input_ids"], ["last_hidden_state"]

    def __init__(self):
        super().__init__()
        config = CLIPTextConfig(
            vocab_size=49408, hidden_size=WIDTH, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12,
            projection_dim=WIDTH, attn_implementation="eager",
        )
        self.clip = CLIPTextModel(config)

    def forward(self, input_ids):
        return self.clip(input_ids)[0]

    def examples(self):
        return [(torch.randint(0, 1000, (1, TOKENS)),)]


class UNet(torch.nn.Module):
    names = ["sample", "timestep", "encoder_hidden_states", "timestep_cond"], ["out_sample"]

    def __init__(self, fused_attention):
        super().__init__()
        # The defaults are Stable Diffusion 1.x's; LCM adds the embedding of the guidance scale.
        self.unet = UNet2DConditionModel(
            sample_size=LATENT[-1], cross_attention_dim=WIDTH, time_cond_proj_dim=GUIDANCE_WIDTH
        )
        split_gates(self.unet)
        if fused_attention:
            self.unet.set_attn_processor(FusedProcessor())

    def forward(self, sample, timestep, hidden, guidance):
        return self.unet(sample, timestep, hidden, timestep_cond=guidance, return_dict=False)[0]

    def examples(self):
        hidden, guidance = torch.randn(1, TOKENS, WIDTH), torch.randn(1, GUIDANCE_WIDTH)
        return [(torch.randn(LATENT), torch.tensor([time]), hidden, guidance) for time in TIMESTEPS]


class Decoder(torch.nn.Module):
    names = ["latent_sample"], ["sample"]

    def __init__(self):
        super().__init__()
        self.decoder = AutoencoderTiny().decoder
        convolutions = [module for module in self.decoder.modules() if isinstance(module, torch.nn.Conv2d)]
        for convolution in convolutions:
            torch.nn.init.kaiming_normal_(convolution.weight)
        self.set_contrast(convolutions[-1])

    @torch.no_grad()
    def set_contrast(self, last):
        """Grey on average, with a quarter of the way to white as the deviation: constant pictures are refused."""
        last.bias.zero_()
        pictures = (torch.cat([self.decoder(*example) for example in self.examples()]) + 1) / 2
        scale = 0.25 / pictures.std()
        last.weight *= scale
        last.bias[:] = 0.5 - scale * pictures.mean((0, 2, 3))

    def forward(self, latent):
        return self.decoder(latent)

    def examples(self):
        return [(torch.randn(LATENT),), (3 * torch.randn(LATENT),)]


def split_gates(network):
    """Gives each half of a gated layer weights of its own: together their output is the largest tensor of a U-Net."""
    for gated in [module for module in network.modules() if isinstance(module, GEGLU)]:
        whole = gated.proj
        size = (whole.in_features, whole.out_features // 2)
        gated.value, gated.gate = torch.nn.Linear(*size), torch.nn.Linear(*size)
        for half, index in [(gated.value, 0), (gated.gate, 1)]:
            half.weight.data, half.bias.data = whole.weight.data.chunk(2)[index], whole.bias.data.chunk(2)[index]
        del gated.proj
        gated.forward = functools.partial(gate, gated)


def gate(gated, x):
    return gated.value(x) * torch.nn.functional.gelu(gated.gate(x))


def flatten_linear_layers(network):
    """Has linear layers with a bias multiply matrices, which is exported as Gemm and runs in INT8 with its bias. As a
    product of more axes and a sum, ONNX Runtime makes a Gemm in float of it, and of its weights, every time it runs."""
    for module in network.modules():
        if isinstance(module, torch.nn.Linear) and module.bias is not None:
            module.forward = functools.partial(flat_linear, module)


def flat_linear(layer, x):
    sizes = [int(size) for size in x.shape[:-1]]
    flat = torch.nn.functional.linear(x.reshape(-1, layer.in_features), layer.weight, layer.bias)
    return flat.reshape(*sizes, layer.out_features)


class FusedProcessor:
    """Attention of diffusers, whose products and softmax become one node of ONNX Runtime's."""

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **_):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        return attn.to_out[0](FusedAttention.apply(query, key, value, attn.heads))


class FusedAttention(torch.autograd.Function):
    @staticmethod
    def forward(_, query, key, value, heads):
        split = [tensor.unflatten(-1, (heads, -1)).transpose(1, 2) for tensor in (query, key, value)]
        return torch.nn.functional.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)

    @staticmethod
    def symbolic(graph, query, key, value, heads):
        output = graph.op("com.microsoft::MultiHeadAttention", query, key, value, num_heads_i=heads)
        output.setType(query.type())
        return output


@torch.no_grad()
def ranges(network):
    """Least and greatest element of what each convolution and linear layer takes and gives: (input, output) by name."""
    seen = {}

    def watch(name):
        def hook(_, inputs, output):
            fresh = [(float(tensor.min()), float(tensor.max())) for tensor in (inputs[0], output)]
            known = seen.get(name, fresh)
            seen[name] = [(min(a[0], b[0]), max(a[1], b[1])) for a, b in zip(known, fresh)]

        return hook

    layers = (torch.nn.Conv2d, torch.nn.Linear)
    hooks = [
        module.register_forward_hook(watch(name))
        for name, module in network.named_modules()
        if isinstance(module, layers)
    ]
    for example in network.examples():
        network(*example)
    for hook in hooks:
        hook.remove()
    return seen
