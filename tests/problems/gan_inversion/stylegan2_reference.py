"""A plain float64 reference of StyleGAN2's layers: sums over filter taps, as the equations state them."""

import math

import torch
from torch.nn import functional as F

from fwdiff_lite.problems.gan_inversion.stylegan2 import Generator

TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64)
FILTER = TAPS[:, None] * TAPS / 64


def make_generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=make_generator(seed), dtype=torch.float64)


def num_parameters(network: torch.nn.Module) -> int:
    return sum(w.numel() for w in network.parameters())


def correlate(x, weight):
    """Cross-correlation of (i, h, w) with (o, i, k, l), without padding."""
    k, m = weight.shape[2:]
    h, w = x.shape[1] - k + 1, x.shape[2] - m + 1
    return sum(
        torch.einsum("oi,ihw->ohw", weight[:, :, a, b], x[:, a : a + h, b : b + w]) for a in range(k) for b in range(m)
    )


def reference_blur(x, pad_before, pad_after, gain=1.0):
    """(c, h, w), zero-padded, filtered with the outer product of [1, 3, 3, 1]."""
    x = F.pad(x, (pad_before, pad_after, pad_before, pad_after))
    return torch.stack([correlate(channel[None], gain * FILTER[None, None])[0] for channel in x])


def insert_zeros(x):
    """(c, h, w) -> (c, 2 h, 2 w): zeros right of and below every pixel."""
    y = x.new_zeros(x.shape[0], 2 * x.shape[1], 2 * x.shape[2])
    y[:, ::2, ::2] = x
    return y


def reference_upsample(x):
    return reference_blur(insert_zeros(x), 2, 1, 4.0)


def reference_downsample(x):
    return reference_blur(x, 1, 1)[:, ::2, ::2]


def reference_up_conv2d(x, weight):
    """A transposed convolution of stride 2: each pixel adds its kernel at twice its position. Then the filter."""
    o, _, k, _ = weight.shape
    h, w = x.shape[1:]
    y = x.new_zeros(o, 2 * h + 1, 2 * w + 1)
    for i in range(h):
        for j in range(w):
            y[:, 2 * i : 2 * i + k, 2 * j : 2 * j + k] += torch.einsum("oikl,i->okl", weight, x[:, i, j])
    return reference_blur(y, 1, 1, 4.0)


def reference_modulated_conv2d(x, weight, style, demodulate=True, up=False):
    """One example, with its own modulated weights (SG2, Eq. 1 to 3)."""
    weight = weight * style[None, :, None, None]
    if demodulate:
        weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
    if up:
        return reference_up_conv2d(x, weight)
    return correlate(F.pad(x, (weight.shape[-1] // 2,) * 4), weight)


def reference_leaky_relu(x):
    return torch.where(x > 0, x, 0.2 * x) * math.sqrt(2)


def small_generator(resolution: int = 16, seed: int = 0, **sizes) -> Generator:
    """A small generator with random biases, noise strengths and w_avg, so that every parameter changes the image."""
    torch.manual_seed(seed)
    sizes = {"z_dim": 5, "w_dim": 6, "mapping_layers": 3, "channel_base": 64, "channel_max": 8} | sizes
    G = Generator(resolution, **sizes).double()
    for name, w in G.named_parameters():
        if w.ndim < 2:
            torch.nn.init.normal_(w, float("affine" in name), 0.5)
    torch.nn.init.normal_(G.mapping.w_avg)
    return G
