"""The four networks. Widths are multiples of 32 and activations are ReLU, so that INT8 kernels are worth their while
and no float operation stands between the two layers of an MLP or a residual block of the decoder."""

import math

import torch
from torch import nn
from torch.nn import functional as F

LATENT = 24  # channels
DOWNSCALE = 16
WINDOW = 16  # tokens of a prompt
VOCABULARY = 2816
TEXT = 192  # width of the text encoder


def conv(inputs, outputs, stride=1):
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1)


class PlainBlock(nn.Module):
    """relu(x + conv(relu(conv(x)))), free of normalisation."""

    def __init__(self, width):
        super().__init__()
        self.first, self.second = conv(width, width), conv(width, width)

    def forward(self, x):
        return F.relu(x + self.second(F.relu(self.first(x))))


class Encoder(nn.Module):
    """[b, 3, 16h, 16w] in −1 to 1 to latents [b, LATENT, h, w], centred a channel, of unit mean square together."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 64, 4, 4)
        self.body = nn.Sequential(
            nn.ReLU(), PlainBlock(64), conv(64, 96, 2), nn.ReLU(), PlainBlock(96), conv(96, 128, 2), nn.ReLU(), PlainBlock(128)
        )
        self.out = nn.Conv2d(128, LATENT, 1)
        self.register_buffer("mean", torch.zeros(LATENT))
        self.register_buffer("power", torch.ones(()))

    def forward(self, picture):
        z = self.out(self.body(self.patches(picture))).float()
        if self.training:
            mean = z.mean((0, 2, 3))
            power = (z - mean[:, None, None]).square().mean()
            with torch.no_grad():
                self.mean.lerp_(mean, 0.02)
                self.power.lerp_(power, 0.02)
        else:
            mean, power = self.mean, self.power
        return (z - mean[:, None, None]) * torch.rsqrt(power)


class Decoder(nn.Module):
    """Latents [b, LATENT, h, w] to pictures [b, 3, 16h, 16w] in about −1 to 1."""

    def __init__(self):
        super().__init__()
        widths = (160, 96, 64, 32)
        layers = [conv(LATENT, widths[0]), nn.ReLU(), PlainBlock(widths[0]), PlainBlock(widths[0])]
        for before, after in zip(widths, widths[1:]):
            layers += [nn.Upsample(scale_factor=2), conv(before, after), nn.ReLU(), PlainBlock(after)]
            layers += [PlainBlock(after)] if after > 32 else []
        self.body = nn.Sequential(*layers)
        self.out = conv(widths[-1], 12)

    def forward(self, latent):
        return F.pixel_shuffle(self.out(self.body(latent)), 2)


class Linear(nn.Linear):
    """A linear layer on [b, n, inputs] that is exported as one Gemm: its bias, and a ReLU after it, cost INT8 nothing."""

    def forward(self, x):
        return super().forward(x.reshape(-1, self.in_features)).reshape(-1, x.shape[1], self.out_features)


class Attention(nn.Module):
    """Tokens look at each other and at the words at once: x [b, n, width], words [b, WINDOW, TEXT] or None."""

    def __init__(self, width, head=32, with_words=True):
        super().__init__()
        self.heads, self.head = width // head, head
        self.qkv = Linear(width, 3 * width)
        self.words = Linear(TEXT, 2 * width) if with_words else None
        self.out = Linear(width, width)

    def split(self, x):
        """[b, n, parts·width] to `parts` of [b, heads, n, head]."""
        each = x.split(self.heads * self.head, -1)
        return [part.reshape(-1, x.shape[1], self.heads, self.head).transpose(1, 2) for part in each]

    def forward(self, x, words=None):
        q, k, v = self.split(self.qkv(x))
        if self.words is not None:
            word_k, word_v = self.split(self.words(words))
            k, v = torch.cat([word_k, k], 2), torch.cat([word_v, v], 2)
        weights = (q * self.head**-0.5) @ k.transpose(2, 3)  # written out: quicker than the fused kernel on a CPU
        return self.out((weights.softmax(-1) @ v).transpose(1, 2).reshape(-1, x.shape[1], self.heads * self.head))


class Mlp(nn.Sequential):
    def __init__(self, width, times=4):
        super().__init__(Linear(width, times * width), nn.ReLU(), Linear(times * width, width))


class TextEncoder(nn.Module):
    """Token ids [b, WINDOW] to [b, WINDOW, TEXT]."""

    def __init__(self, depth=2):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, TEXT)
        self.position = nn.Parameter(torch.randn(WINDOW, TEXT) * 0.1)
        norm = lambda: nn.LayerNorm(TEXT)
        self.layers = nn.ModuleList(
            nn.ModuleList([norm(), Attention(TEXT, with_words=False), norm(), Mlp(TEXT)]) for _ in range(depth)
        )
        self.norm = norm()
        nn.init.normal_(self.embedding.weight, std=0.5)

    def forward(self, ids):
        x = self.embedding(ids) + self.position
        for norm_a, attention, norm_m, mlp in self.layers:
            x = x + attention(norm_a(x))
            x = x + mlp(norm_m(x))
        return self.norm(x)


class Modulation(nn.Module):
    """Scale and shift of normalised features by the condition, one pair a sample (FiLM)."""

    def __init__(self, condition, width):
        super().__init__()
        self.linear = nn.Linear(condition, 2 * width)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x, condition):
        scale, shift = self.linear(condition)[:, None].split(x.shape[2], -1)
        return x * (1 + scale) + shift


class TokenBlock(nn.Module):
    """A transformer layer whose norms are modulated by time and words (adaptive layer norm, Peebles and Xie 2023)."""

    def __init__(self, width, condition):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulate_a, self.modulate_m = Modulation(condition, width), Modulation(condition, width)
        self.attention, self.mlp = Attention(width), Mlp(width)
        nn.init.zeros_(self.attention.out.weight)
        nn.init.zeros_(self.mlp[2].weight)

    def forward(self, x, words, condition):
        x = x + self.attention(self.modulate_a(self.norm(x), condition), words)
        return x + self.mlp(self.modulate_m(self.norm(x), condition))


class ConvBlock(nn.Module):
    """Two convolutions, each after a layer norm over channels; the second is modulated."""

    def __init__(self, width, condition):
        super().__init__()
        self.norm_in, self.norm = nn.LayerNorm(width), nn.LayerNorm(width, elementwise_affine=False)
        self.modulate = Modulation(condition, width)
        self.first, self.second = conv(width, width), conv(width, width)
        nn.init.zeros_(self.second.weight)

    def forward(self, x, condition):
        h = grid(F.relu(self.norm_in(x)), 8)
        h = F.relu(self.modulate(self.norm(tokens(self.first(h))), condition))
        return x + tokens(self.second(grid(h, 8)))


def tokens(x):
    return x.reshape(-1, x.shape[1], x.shape[2] * x.shape[3]).transpose(1, 2)


def grid(x, side):
    return x.transpose(1, 2).reshape(-1, x.shape[2], side, side)


def merge(x):
    """64 tokens to 16 of four times the width: each a square of four neighbours."""
    return x.reshape(-1, 4, 2, 4, 2, x.shape[2]).transpose(2, 3).reshape(-1, 16, 4 * x.shape[2])


def divide(x):
    """The inverse of `merge`."""
    return x.reshape(-1, 4, 4, 2, 2, x.shape[2] // 4).transpose(2, 3).reshape(-1, 64, x.shape[2] // 4)


class Denoiser(nn.Module):
    """v at latents [b, LATENT, 8, 8], timesteps [b], words [b, WINDOW, TEXT]: an hourglass of 64 and 16 tokens."""

    def __init__(self, outer=192, inner=256, depth=3, condition=160):
        super().__init__()
        self.register_buffer("frequencies", torch.exp(-math.log(10000) * torch.arange(64) / 64), persistent=False)
        self.time = nn.Sequential(nn.Linear(128, condition), nn.SiLU(), nn.Linear(condition, condition))
        self.pooled = nn.Linear(TEXT, condition)
        self.into = conv(LATENT, outer)
        self.position = nn.Parameter(torch.randn(64, outer) * 0.02)
        self.down_conv, self.down_tokens = ConvBlock(outer, condition), TokenBlock(outer, condition)
        self.down = Linear(4 * outer, inner)
        self.inner = nn.ModuleList(TokenBlock(inner, condition) for _ in range(depth))
        self.up = Linear(inner, 4 * outer)
        self.up_conv, self.up_tokens = ConvBlock(outer, condition), TokenBlock(outer, condition)
        self.norm = nn.LayerNorm(outer)
        self.out = conv(outer, LATENT)
        nn.init.zeros_(self.out.weight)

    def forward(self, sample, timestep, words):
        angle = timestep.float()[:, None] * self.frequencies
        condition = F.silu(self.time(torch.cat([angle.cos(), angle.sin()], -1)) + self.pooled(words.mean(1)))
        x = tokens(self.into(sample)) + self.position
        fine = self.down_tokens(self.down_conv(x, condition), words, condition)
        x = self.down(merge(fine))
        for block in self.inner:
            x = block(x, words, condition)
        x = self.up_conv(fine + divide(self.up(x)), condition)
        x = self.up_tokens(x, words, condition)
        return self.out(grid(F.relu(self.norm(x)), 8))
