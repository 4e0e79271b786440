"""StyleGAN2: a generator of images from latent codes, its discriminator, and how the two are trained.

    w = f(z)                                    mapping: z ~ N(0, I) to a style
    x = demodulated convolutions of a constant  synthesis: each layer's weights are scaled by a style, A(w)
    image = sum of every resolution's colours, each filtered up to the next

Karras et al. 2020a, "Analyzing and Improving the Image Quality of StyleGAN" (cited as SG2), configuration F: skip
connections in the generator, residual blocks in the discriminator, [1, 3, 3, 1] filters wherever pixels are resampled.
Karras et al. 2020b, "Training Generative Adversarial Networks with Limited Data" (ADA), for augmentation. Parameters
and buffers bear the names that ADA's PyTorch release gave them, so published weights fit one to one: `load_official`.

As a forward model, frozen: `G.requires_grad_(False)`, then `G.synthesis(w)` with w in W (B, D), one style for all
layers, or in W+ (B, L, D), one for each. Its noise inputs are fixed unless others are given, so it is a function of w.
Images are in [-1, 1], about: nothing clips them.
"""

from __future__ import annotations

import copy
import math
import os
import pickle
import re
from collections.abc import Callable
from itertools import chain

import torch
from jaxtyping import Float, Int
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

# Arguments of the Generator that this repository trains: 1.2 million parameters
SMALL = {
    "resolution": 64,
    "z_dim": 128,
    "w_dim": 128,
    "mapping_layers": 4,
    "channel_base": 3 * 2**9,
    "channel_max": 160,
}

SQRT2 = math.sqrt(2)

# --- resampling ---------------------------------------------------------------------------------------------


def _filter(x: Float[Tensor, "b c h w"], gain: float) -> Float[Tensor, "c 1 4 4"]:
    """The outer product of [1, 3, 3, 1] with itself, of sum `gain`, for each channel."""
    # reckoned on the device: numbers copied there would make a GPU wait
    taps = 4 - 2 * (torch.arange(4, device=x.device, dtype=x.dtype) - 1.5).abs()
    return (taps[:, None] * taps * (gain / 64)).expand(x.shape[1], 1, 4, 4)


def blur(x: Float[Tensor, "b c h w"], padding: int, gain: float = 1.0, stride: int = 1) -> Float[Tensor, "b c i j"]:
    """Filtered with [1, 3, 3, 1] along rows and columns, `padding` zeros around; of the results every `stride`-th."""
    return F.conv2d(x, _filter(x, gain), stride=stride, padding=padding, groups=x.shape[1])


def downsample(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h/2 w/2"]:
    """Half as many pixels along each side, filtered before every other is dropped."""
    return blur(x, 1, stride=2)


def upsample(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c 2*h 2*w"]:
    """Twice as many pixels along each side: zeros between them, then the filter."""
    return F.conv_transpose2d(x, _filter(x, 4.0), stride=2, padding=1, groups=x.shape[1])


# --- layers -------------------------------------------------------------------------------------------------


def leaky(x: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """Leaky rectifier of slope 0.2 that keeps about a unit second moment."""
    return F.leaky_relu(x, 0.2) * SQRT2


def modulated_convolution(
    x: Float[Tensor, "b i h w"],
    weight: Float[Tensor, "o i k k"],
    styles: Float[Tensor, "b i"],
    demodulate: bool = True,
    up: bool = False,
) -> Float[Tensor, "b o p q"]:
    """Each example's convolution with weights of its own, scaled along the input channels by its styles (SG2, Eq. 1).

    demodulate: every output channel's weights are brought to unit norm (SG2, Eq. 3), which cancels any scale of
        weights and styles alike
    up: of the image with zeros between its pixels, filtered afterwards: (p, q) = (2 h, 2 w), otherwise (h, w)
    """
    # Scaling what enters and what leaves is the same as scaling the weights, and one convolution serves the whole batch
    x = x * styles[:, :, None, None]
    if up:
        x = blur(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2), 1, gain=4.0)
    else:
        x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
    if demodulate:
        squares = styles.square() @ weight.square().sum((2, 3)).T  # (B, O)
        x = x * (squares + 1e-8).rsqrt()[:, :, None, None]
    return x


class Dense(nn.Module):
    """A linear layer whose weights are stored at unit variance, so that Adam moves all layers alike (equalised).

    bias: its first value; rate: weights and bias learn so many times slower than the rest
    """

    def __init__(self, inputs: int, outputs: int, bias: float = 0.0, rate: float = 1.0):
        super().__init__()
        self.gain, self.rate = rate / math.sqrt(inputs), rate
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias))

    def forward(self, x: Float[Tensor, "b i"]) -> Float[Tensor, "b o"]:
        return F.linear(x * self.gain, self.weight, self.bias * self.rate)


class Convolution(nn.Module):
    """An equalised convolution, over half as many pixels where `down`, filtered before."""

    def __init__(self, inputs: int, outputs: int, kernel: int, bias: bool = True, down: bool = False):
        super().__init__()
        self.gain, self.down = 1 / math.sqrt(inputs * kernel**2), down
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o p q"]:
        weight, kernel = self.weight * self.gain, self.weight.shape[-1]
        if not self.down:
            return F.conv2d(x, weight, self.bias, padding=kernel // 2)
        if kernel == 1:
            return F.conv2d(downsample(x), weight, self.bias)
        return F.conv2d(blur(x, 1 + kernel // 2), weight, self.bias, stride=2)


# --- the generator ------------------------------------------------------------------------------------------


def channels(resolution: int, base: int, most: int) -> dict[int, int]:
    """How many channels there are at 4, 8, ... `resolution` pixels: base / pixels, at most `most`.

    ValueError if the resolution is no power of two of at least 8, or no channel is left.
    """
    if resolution < 8 or resolution & (resolution - 1):
        raise ValueError(f"resolution must be a power of two, 8 or more, got {resolution}")
    if base < resolution or most < 1:
        raise ValueError(f"no channel is left at {resolution} pixels: got {base=}, {most=}")
    return {2**i: min(base // 2**i, most) for i in range(2, resolution.bit_length())}


class Mapping(nn.Module):
    """w = f(z): a perceptron on z of unit second moment, which learns a hundred times slower than the rest.

    w_avg: the mean of w, followed by `track`
    """

    def __init__(self, z_dim: int, w_dim: int, layers: int):
        super().__init__()
        self.z_dim = z_dim
        for i in range(layers):
            self.add_module(f"fc{i}", Dense(w_dim if i else z_dim, w_dim, rate=0.01))
        self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(self, z: Float[Tensor, "b *z"]) -> Float[Tensor, "b w"]:
        """Styles of latent codes."""
        if z.ndim != 2 or z.shape[1] != self.z_dim:
            raise ValueError(f"z has shape {tuple(z.shape)}: give (B, {self.z_dim})")
        x = z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()
        for layer in self.children():
            x = leaky(layer(x))
        return x

    def track(self, w: Float[Tensor, "b w"], decay: float = 0.995) -> None:
        """Moves w_avg towards the mean of these styles."""
        self.w_avg.lerp_(w.detach().mean(0), 1 - decay)


def truncate(w: Float[Tensor, "b *l w"], mean: Float[Tensor, "w"], psi: float) -> Float[Tensor, "b *l w"]:
    """Styles drawn towards their mean: psi = 1 leaves them, 0 makes all of them the mean."""
    return mean.lerp(w, psi)


def mix(
    w: Float[Tensor, "b w"], other: Float[Tensor, "b w"], cut: Int[Tensor, "b"], layers: int
) -> Float[Tensor, "b l w"]:
    """Styles in W+, for so many layers: those of w before layer `cut`, from there on the other's."""
    coarse = torch.arange(layers, device=w.device) < cut[:, None]  # (B, L)
    return torch.where(coarse[..., None], w[:, None], other[:, None])


class StyledConvolution(nn.Module):
    """Modulated convolution, noise, bias and rectifier: one layer of synthesis."""

    def __init__(self, inputs: int, outputs: int, w_dim: int, resolution: int, up: bool = False):
        super().__init__()
        self.up = up
        self.affine = Dense(w_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))  # demodulation cancels an equalising gain
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))

    def forward(
        self, x: Float[Tensor, "b i h w"], w: Float[Tensor, "b d"], noise: Float[Tensor, "*n p q"] | None
    ) -> Float[Tensor, "b o p q"]:
        x = modulated_convolution(x, self.weight, self.affine(w), up=self.up)
        x = x + self.noise_strength * (self.noise_const if noise is None else noise)
        return leaky(x + self.bias[:, None, None])


class ToRGB(nn.Module):
    """Colours of one resolution: a modulated 1 x 1 convolution, not demodulated."""

    def __init__(self, inputs: int, colours: int, w_dim: int):
        super().__init__()
        self.gain = 1 / math.sqrt(inputs)
        self.affine = Dense(w_dim, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(colours, inputs, 1, 1))
        self.bias = nn.Parameter(torch.zeros(colours))

    def forward(self, x: Float[Tensor, "b i h w"], w: Float[Tensor, "b d"]) -> Float[Tensor, "b c h w"]:
        styles = self.affine(w) * self.gain
        return modulated_convolution(x, self.weight, styles, demodulate=False) + self.bias[:, None, None]


class SynthesisBlock(nn.Module):
    """One resolution: from the constant at 4 pixels, from the block before elsewhere; adds its colours to the image."""

    def __init__(self, inputs: int, outputs: int, w_dim: int, resolution: int, colours: int):
        super().__init__()
        if resolution == 4:
            self.const = nn.Parameter(torch.randn(outputs, 4, 4))
        else:
            self.conv0 = StyledConvolution(inputs, outputs, w_dim, resolution, up=True)
        self.conv1 = StyledConvolution(outputs, outputs, w_dim, resolution)
        self.torgb = ToRGB(outputs, colours, w_dim)

    def forward(
        self, x: Tensor | None, image: Tensor | None, ws: Float[Tensor, "b l d"], noise: list[Tensor | None]
    ) -> tuple[Float[Tensor, "b o r r"], Float[Tensor, "b c r r"]]:
        if x is None:
            x = self.const.expand(len(ws), -1, -1, -1)
        else:
            x = self.conv0(x, ws[:, 0], noise[0])
        x = self.conv1(x, ws[:, -2], noise[-1])
        colours = self.torgb(x, ws[:, -1])
        return x, colours if image is None else upsample(image) + colours


class Synthesis(nn.Module):
    """From styles to an image. `layers`: how many styles there are in W+, L = 2 log2(resolution) - 2."""

    def __init__(self, resolution: int, w_dim: int, channel_base: int, channel_max: int, colours: int):
        super().__init__()
        widths = channels(resolution, channel_base, channel_max)
        self.resolutions, self.w_dim, self.layers = list(widths), w_dim, 2 * len(widths)
        for r, width in widths.items():
            self.add_module(f"b{r}", SynthesisBlock(widths.get(r // 2, 0), width, w_dim, r, colours))

    def forward(
        self, ws: Float[Tensor, "b *l d"], noise: list[Float[Tensor, "..."]] | None = None
    ) -> Float[Tensor, "b c h w"]:
        """Images of styles in W (B, D) or W+ (B, L, D).

        noise: for each convolution (..., r, r), as `draw_noise` makes it; None: the constants that the network keeps
        """
        if ws.ndim not in (2, 3) or ws.shape[1:] not in ((self.w_dim,), (self.layers, self.w_dim)):
            wanted = f"(B, {self.w_dim}) or (B, {self.layers}, {self.w_dim})"
            raise ValueError(f"styles have shape {tuple(ws.shape)}: give {wanted}")
        sides = self.noise_sides()
        if noise is not None and [tuple(n.shape[-2:]) for n in noise] != [(r, r) for r in sides]:
            given = [tuple(n.shape) for n in noise]
            raise ValueError(f"noise has shapes {given}: give one map (B, 1, r, r) for each r of {sides}")
        if ws.ndim == 2:
            ws = ws[:, None].expand(-1, self.layers, -1)
        noise = noise or [None] * len(sides)
        x = image = None
        for i, block in enumerate(self.children()):
            first = max(0, 2 * i - 1)  # a block's colours share their style with the next block's first convolution
            x, image = block(x, image, ws[:, first : 2 * i + 2], noise[first : 2 * i + 1])
        return image

    def noise_sides(self) -> list[int]:
        """Pixels along the sides of each convolution's noise."""
        return [r for r in self.resolutions for _ in range(1 if r == 4 else 2)]

    def draw_noise(self, n: int, generator: torch.Generator) -> list[Float[Tensor, "n 1 ..."]]:
        """Fresh noise for n images, on the generator's device."""
        device = generator.device
        return [torch.randn(n, 1, r, r, generator=generator, device=device) for r in self.noise_sides()]


class Generator(nn.Module):
    """From latent codes z ~ N(0, I) to images: `mapping`, then `synthesis` (SG2, figure 2d and 7b).

    resolution: pixels along a side, a power of two
    channel_base, channel_max: see `channels`
    colours: of an image

    Generator(1024) is the published network, Generator(256, channel_base=2**14) that for 256 pixels, and
    Generator(**SMALL) this repository's.
    """

    def __init__(
        self,
        resolution: int,
        z_dim: int = 512,
        w_dim: int = 512,
        mapping_layers: int = 8,
        channel_base: int = 2**15,
        channel_max: int = 512,
        colours: int = 3,
    ):
        super().__init__()
        if min(z_dim, w_dim, mapping_layers, colours) < 1:
            raise ValueError(f"sizes must be positive, got {z_dim=}, {w_dim=}, {mapping_layers=}, {colours=}")
        self.synthesis = Synthesis(resolution, w_dim, channel_base, channel_max, colours)
        self.mapping = Mapping(z_dim, w_dim, mapping_layers)

    def forward(
        self, z: Float[Tensor, "b *z"], truncation: float = 1.0, noise: list[Tensor] | None = None
    ) -> Float[Tensor, "b c h w"]:
        """Images of latent codes (B, z_dim); truncation: psi of `truncate`; noise: as in synthesis."""
        return self.synthesis(truncate(self.mapping(z), self.mapping.w_avg, truncation), noise)


# --- the discriminator --------------------------------------------------------------------------------------


def with_deviation(x: Float[Tensor, "b c h w"], group: int = 4) -> Float[Tensor, "b c+1 h w"]:
    """x and one more channel: how much examples differ within their group, on average over pixels and channels.

    Example i belongs to group i modulo b / group. A batch smaller than a group is one. ValueError if b is no multiple.
    """
    b, _, h, w = x.shape
    group = min(group, b)
    if b % group:
        raise ValueError(f"a batch of {b} images cannot be split into groups of {group}: make it a multiple")
    variance = x.unflatten(0, (group, b // group)).var(0, correction=0)  # (B / group, C, H, W)
    deviation = (variance + 1e-8).sqrt().mean((1, 2, 3))  # (B / group)
    return torch.cat([x, deviation.repeat(group)[:, None, None, None].expand(-1, -1, h, w)], 1)


class DiscriminatorBlock(nn.Module):
    """A residual block over ever fewer pixels; the first takes an image."""

    def __init__(self, inputs: int, outputs: int, colours: int | None):
        super().__init__()
        self.fromrgb = None if colours is None else Convolution(colours, inputs, 1)
        self.conv0 = Convolution(inputs, inputs, 3)
        self.conv1 = Convolution(inputs, outputs, 3, down=True)
        self.skip = Convolution(inputs, outputs, 1, bias=False, down=True)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h/2 w/2"]:
        if self.fromrgb is not None:
            x = leaky(self.fromrgb(x))
        return (self.skip(x) + leaky(self.conv1(leaky(self.conv0(x))))) / SQRT2


class Verdict(nn.Module):
    """The last block: 4 x 4 pixels, with their deviation over the batch, to a number."""

    def __init__(self, inputs: int, group: int):
        super().__init__()
        self.group = group
        self.conv = Convolution(inputs + 1, inputs, 3)
        self.fc = Dense(16 * inputs, inputs)
        self.out = Dense(inputs, 1)

    def forward(self, x: Float[Tensor, "b i 4 4"]) -> Float[Tensor, "b"]:
        x = leaky(self.conv(with_deviation(x, self.group)))
        return self.out(leaky(self.fc(x.flatten(1))))[:, 0]


class Discriminator(nn.Module):
    """How real an image looks: a number without bounds (SG2, figure 7c). group: see `with_deviation`."""

    def __init__(
        self, resolution: int, channel_base: int = 2**15, channel_max: int = 512, colours: int = 3, group: int = 4
    ):
        super().__init__()
        widths = channels(resolution, channel_base, channel_max)
        self.shape = (colours, resolution, resolution)
        for r in sorted(widths, reverse=True)[:-1]:
            first = colours if r == resolution else None
            self.add_module(f"b{r}", DiscriminatorBlock(widths[r], widths[r // 2], first))
        self.b4 = Verdict(widths[4], group)

    def forward(self, images: Float[Tensor, "b *s"]) -> Float[Tensor, "b"]:
        """One score an image."""
        if images.shape[1:] != self.shape:
            raise ValueError(f"images have shape {tuple(images.shape)}: give (B, {', '.join(map(str, self.shape))})")
        for block in self.children():
            images = block(images)
        return images


# --- losses -------------------------------------------------------------------------------------------------


def generator_loss(fake: Float[Tensor, "b"]) -> Float[Tensor, ""]:
    """-log sigmoid(D(G(z))): non-saturating (Goodfellow et al. 2014)."""
    return F.softplus(-fake).mean()


def discriminator_loss(real: Float[Tensor, "b"], fake: Float[Tensor, "n"]) -> Float[Tensor, ""]:
    """-log sigmoid(D(x)) - log(1 - sigmoid(D(G(z))))."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def r1_penalty(discriminator: Callable[[Tensor], Tensor], images: Float[Tensor, "b *s"]) -> Float[Tensor, ""]:
    """|grad D|^2 at real images, on average: to be weighted by gamma / 2 (Mescheder et al. 2018, Eq. 9)."""
    images = images.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(discriminator(images).sum(), images, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean()


def path_lengths(
    images: Float[Tensor, "b c h w"], ws: Float[Tensor, "b l d"], noise: Float[Tensor, "b c h w"]
) -> Float[Tensor, "b"]:
    """|J^T y| of SG2, Eq. 4, y being noise / sqrt(h w): how far images move with their styles, rms over the layers."""
    direction = noise / math.sqrt(images[0, 0].numel())
    (gradient,) = torch.autograd.grad((images * direction).sum(), ws, create_graph=True)
    return gradient.square().sum(2).mean(1).sqrt()


# --- augmentation -------------------------------------------------------------------------------------------

STRONGEST = 0.8  # below this chance, augmentations do not leak into what is generated (ADA, section 2.2)


def augment(
    images: Float[Tensor, "b c h h"], p: float | Float[Tensor, ""], generator: torch.Generator
) -> Float[Tensor, "b c h h"]:
    """Each of these, with chance p, to each image: what a discriminator is shown of real and generated ones alike.

    A mirror image or not, quarter turns, a shift by whole pixels (up to an eighth of the side, along both axes),
    a size 2^(0.2 n) times as large; brightness + 0.2 n, contrast times 2^(0.5 n), saturation times 2^n, n ~ N(0, 1).
    Outside, an image is continued by its reflection. ADA, section 2.3, without low-pass filters and hues.
    Differentiable once in images; the generator lives on their device.
    """
    b, _, h, _ = images.shape
    draw = {"generator": generator, "device": generator.device}

    def sometimes(drawn: Float[Tensor, "b *k"], otherwise: float) -> Float[Tensor, "b *k"]:
        chosen = torch.rand(b, **draw) < p
        return torch.where(chosen.view(-1, *[1] * (drawn.ndim - 1)), drawn, otherwise)

    def power(octaves: float) -> Float[Tensor, "b"]:
        return sometimes(2 ** (octaves * torch.randn(b, **draw)), 1.0)

    mirror = sometimes(torch.randint(2, (b,), **draw) * 2.0 - 1, 1.0)
    turn = sometimes(torch.randint(4, (b,), **draw) * 1.0, 0.0) * (math.pi / 2)
    reach = h // 8
    shift = sometimes(torch.randint(-reach, reach + 1, (b, 2), **draw) * (2 / h), 0.0)
    size = power(0.2)
    cos, sin = turn.cos().round() / size, turn.sin().round() / size
    # where a pixel at (x, y) of the new image, both in [-1, 1], was in the old one
    rows = [torch.stack([mirror * cos, -mirror * sin], 1), torch.stack([sin, cos], 1)]
    places = torch.cat([torch.stack(rows, 1), shift[..., None]], 2)  # (B, 2, 3)
    grid = F.affine_grid(places.to(images), list(images.shape), align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)

    brightness = sometimes(0.2 * torch.randn(b, **draw), 0.0)
    brightness, contrast, saturation = (x.to(images).view(b, 1, 1, 1) for x in (brightness, power(0.5), power(1.0)))
    images = (images + brightness) * contrast
    grey = images.mean(1, keepdim=True)
    return grey + saturation * (images - grey)


def adapted(
    p: Float[Tensor, ""], real: Float[Tensor, "b"], target: float = 0.6, span: float = 500_000
) -> Float[Tensor, ""]:
    """The next chance of augmentation: more where the discriminator overfits, E[sign D(real)] > target (ADA, Eq. 1).

    span: images over which it would rise from 0 to 1. Kept between 0 and STRONGEST.
    """
    return (p + (real.sign().mean() - target).sign() * (len(real) / span)).clamp(0, STRONGEST)


# --- training -----------------------------------------------------------------------------------------------


@torch.no_grad()
def average_into(average: nn.Module, network: nn.Module, decay: float) -> None:
    """One step of the exponential moving average of a network's weights; its buffers are copied."""
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
    for kept, buffer in zip(average.buffers(), network.buffers(), strict=True):
        kept.copy_(buffer)


def lazy_adam(network: nn.Module, learning_rate: float, every: int | None) -> torch.optim.Adam:
    """Adam for a network that takes one more step, of its regulariser alone, after `every` steps (SG2, appendix B)."""
    c = every / (every + 1) if every else 1.0
    capturable = next(network.parameters()).is_cuda  # in a CUDA graph
    return torch.optim.Adam(network.parameters(), learning_rate * c, betas=(0.0, 0.99**c), capturable=capturable)


class Adversaries:
    """Generator G against discriminator D, step by step; `average` is the generator to keep.

    r1: gamma, the weight of R1, which is minimised once in r1_every steps (lazily) with r1_every times the weight;
        ADA's rule of thumb is 2e-4 resolution^2 / batch
    path: the weight of path length regularisation, on half a batch once in path_every steps; 0: none
    mixing: the share of images that are made of two styles
    half_life: of the weights' average, in images; at first shorter, a twentieth of those seen
    adaptive: augment what D sees, with a chance `p` that follows `adapted`
    noise: standard deviation of the noise on all that D sees, which hides small faults of images, so that D judges how
        often things occur (instance noise: Sønderby et al. 2017; among ADA's augmentations)
    lesson: a further loss of G's images, as D is shown them
    """

    def __init__(
        self,
        G: Generator,
        D: Discriminator,
        *,
        learning_rate: float = 2e-3,
        r1: float = 1.0,
        r1_every: int = 16,
        path: float = 0.0,
        path_every: int = 4,
        mixing: float = 0.9,
        half_life: float = 10_000,
        adaptive: bool = False,
        noise: float = 0.0,
        lesson: Callable[[Float[Tensor, "b c h w"]], Float[Tensor, ""]] | None = None,
    ):
        self.G, self.D, self.average = G, D, copy.deepcopy(G).eval().requires_grad_(False)
        self.r1, self.r1_every, self.path, self.path_every = r1, r1_every, path, path_every
        self.mixing, self.half_life, self.adaptive = mixing, half_life, adaptive
        self.noise, self.lesson = noise, lesson
        self.optimise_G = lazy_adam(G, learning_rate, path_every if path else None)
        self.optimise_D = lazy_adam(D, learning_rate, r1_every if r1 else None)
        self.p, self.path_mean = (G.mapping.w_avg.new_zeros(()) for _ in range(2))
        self.steps = self.images = 0

    def styles(self, n: int, generator: torch.Generator) -> Float[Tensor, "n l d"]:
        """Styles in W+ for n images, a share of them mixed of two (style mixing)."""
        device, layers = generator.device, self.G.synthesis.layers
        z = torch.randn(2, n, self.G.mapping.z_dim, generator=generator, device=device)
        cut = torch.randint(1, layers, (n,), generator=generator, device=device)
        whole = torch.rand(n, generator=generator, device=device) >= self.mixing
        w, other = self.G.mapping(z.flatten(0, 1)).chunk(2)
        self.G.mapping.track(w)
        return mix(w, other, cut.masked_fill(whole, layers), layers)

    def fake(self, n: int, generator: torch.Generator) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, "n l d"]]:
        """n generated images, with their styles."""
        ws = self.styles(n, generator)
        return self.G.synthesis(ws, self.G.synthesis.draw_noise(n, generator)), ws

    def shown(self, images: Float[Tensor, "b c h w"], generator: torch.Generator) -> Float[Tensor, "b c h w"]:
        """What D sees of images."""
        if self.adaptive:
            images = augment(images, self.p, generator)
        if self.noise:
            images = images + self.noise * torch.randn(images.shape, generator=generator, device=images.device)
        return images

    def step(self, real: Float[Tensor, "b c h w"], generator: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        """One step of G, one of D, and the regularisers that are due. All on one device. The losses, by name."""
        n, losses = len(real), self.play(real, generator)
        if self.path and self.steps % self.path_every == 0:
            losses |= self.smooth(real, generator)
        if self.r1 and self.steps % self.r1_every == 0:
            losses |= self.flatten(real, generator)
        self.steps, self.images = self.steps + 1, self.images + n
        average_into(self.average, self.G, 0.5 ** (n / min(self.half_life, 0.05 * self.images)))
        return losses

    def play(self, real: Float[Tensor, "b c h w"], generator: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        """One step of G, then one of D."""
        losses = {}
        self.D.requires_grad_(False)
        images, _ = self.fake(len(real), generator)
        shown = self.shown(images, generator)
        loss = generator_loss(self.D(shown))
        losses["generator"] = loss.detach()
        if self.lesson:
            lesson = self.lesson(shown)
            losses["lesson"], loss = lesson.detach(), loss + lesson
        _descend(self.optimise_G, loss)
        self.D.requires_grad_(True)
        with torch.no_grad():
            images, _ = self.fake(len(real), generator)
        scores = self.D(self.shown(real, generator))
        loss = discriminator_loss(scores, self.D(self.shown(images, generator)))
        losses["discriminator"] = _descend(self.optimise_D, loss)
        if self.adaptive:
            self.p.copy_(adapted(self.p, scores.detach()))
        return losses

    def smooth(self, real: Float[Tensor, "b c h w"], generator: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        """A step of G on the lengths of its paths."""
        images, ws = self.fake(max(1, len(real) // 2), generator)
        noise = torch.randn(images.shape, generator=generator, device=images.device)
        lengths = path_lengths(images, ws, noise)
        self.path_mean.lerp_(lengths.detach().mean(), 0.01)
        loss = (lengths - self.path_mean).square().mean()
        return {"path": _descend(self.optimise_G, loss, self.path * self.path_every)}

    def flatten(self, real: Float[Tensor, "b c h w"], generator: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        """A step of D on R1, at what D sees: resampling has no second derivative, and nor has a compiled D."""
        loss = r1_penalty(self.D.forward, self.shown(real, generator))
        return {"r1": _descend(self.optimise_D, loss, (self.r1 / 2) * self.r1_every)}


def _descend(optimizer: torch.optim.Optimizer, loss: Float[Tensor, ""], weight: float = 1.0) -> Float[Tensor, ""]:
    """A step on the loss times its weight; the loss."""
    optimizer.zero_grad()
    (weight * loss).backward()
    optimizer.step()
    return loss.detach()


# --- published weights --------------------------------------------------------------------------------------

AVERAGED = ("g_ema.", "G_ema.")  # where a checkpoint keeps the generator that is meant to be used
PARTS = {  # of a layer, in the layout that has a g_ema
    "conv.weight": "weight",
    "conv.modulation.weight": "affine.weight",
    "conv.modulation.bias": "affine.bias",
    "activate.bias": "bias",
    "bias": "bias",
    "noise.weight": "noise_strength",
    "conv.blur.kernel": "resample_filter",
    "upsample.kernel": "resample_filter",
}


def load_official(path: str | os.PathLike) -> Generator:
    """A published generator, on the CPU in float32 for evaluation, its sizes read from its weights.

    Two PyTorch layouts of state dicts are known: that of the StyleGAN2-ADA release (synthesis.b4.const, ...; also
    what this module's networks save) and the one whose checkpoints have a g_ema (input.input, style.1.weight, ...).
    The latter keep the mean of w under latent_avg, or not at all: it is then that of 10,000 codes from a fixed seed.
    The file is one of tensors alone: NAME.safetensors, or what torch.save made of tensors. Nothing in it is executed.
    Half-precision networks of ADA clamp their activations at 256; here nothing is clamped.

    ValueError if the file cannot be read, would run code, or holds another network: labels, filters, architecture.
    """
    found = _tensors(path)
    prefix = next((p for p in AVERAGED if any(key.startswith(p) for key in found)), "")
    found = {key.removeprefix(prefix): x for key, x in found.items() if key.startswith(prefix) or key == "latent_avg"}
    if "input.input" in found:
        found = {_native(key): x for key, x in found.items()}
    elif "synthesis.b4.const" not in found:
        some = ", ".join(sorted(found)[:3]) or "nothing"
        raise ValueError(f"{path} is no StyleGAN2 generator: no synthesis.b4.const, no input.input, but {some}")
    for key in [key for key in found if key.endswith("resample_filter")]:
        _check_filter(path, key, found.pop(key))

    with torch.device("meta"):  # no memory for what may not fit
        G = Generator(**_sizes(path, found))
    wanted = G.state_dict()
    averaged = "mapping.w_avg" in found
    if not averaged:
        found["mapping.w_avg"] = torch.zeros(wanted["mapping.w_avg"].shape)
    if missing := sorted(wanted.keys() - found.keys()):
        raise ValueError(f"{path} lacks {missing[0]} of a generator of {G.synthesis.resolutions[-1]} pixels")
    if foreign := sorted(found.keys() - wanted.keys()):
        raise ValueError(f"{path} is of another architecture: nothing here is called {foreign[0]}")
    G.load_state_dict({key: _fitted(path, key, found[key], wanted[key].shape) for key in wanted}, assign=True)
    G.eval()
    if not averaged:
        z = torch.randn(10_000, G.mapping.z_dim, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            G.mapping.w_avg.copy_(G.mapping(z).mean(0))
    return G


def _tensors(path: str | os.PathLike) -> dict[str, Tensor]:
    """All tensors of a file by name; those of a dict in a dict as outer.inner."""
    try:
        if str(path).endswith(".safetensors"):
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wants = re.search(r"GLOBAL (\S+)", str(error))
        named = f" ({wants[1]})" if wants else ""
        raise ValueError(
            f"{path} was refused: loading it could run code{named}; give tensors alone, as safetensors or a state dict"
        ) from None
    except Exception as error:  # what is damaged may raise anything
        raise ValueError(f"{path} cannot be read as tensors ({type(error).__name__}): is it whole?") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}: a dict of tensors is wanted")
    nested = (
        [(f"{k}.{j}", x) for j, x in v.items()] if isinstance(v, dict) else [(str(k), v)] for k, v in content.items()
    )
    return {key: x for key, x in chain.from_iterable(nested) if isinstance(x, Tensor)}


def _native(key: str) -> str:
    """Our name of a tensor of the layout that has a g_ema; an unknown key is returned as it is."""

    def layer(i: int) -> str:
        return "b4.conv1" if i == 0 else f"b{2 ** (3 + (i - 1) // 2)}.conv{(i - 1) % 2}"

    if key in ("latent_avg", "input.input"):
        return {"latent_avg": "mapping.w_avg", "input.input": "synthesis.b4.const"}[key]
    if found := re.fullmatch(r"style\.(\d+)\.(weight|bias)", key):
        return f"mapping.fc{int(found[1]) - 1}.{found[2]}"  # style.0 is the norm of z
    if found := re.fullmatch(r"noises\.noise_(\d+)", key):
        return f"synthesis.{layer(int(found[1]))}.noise_const"
    found = re.fullmatch(r"(conv1|to_rgb1|convs\.\d+|to_rgbs\.\d+)\.(.+)", key)
    if not found or found[2] not in PARTS:
        return key
    kind, _, number = found[1].partition(".")
    if kind in ("conv1", "convs"):
        place = layer(int(number) + 1 if number else 0)
    else:
        place = f"b{2 ** (3 + int(number)) if number else 4}.torgb"
    return f"synthesis.{place}.{PARTS[found[2]]}"


def _check_filter(path: str | os.PathLike, key: str, kernel: Tensor) -> None:
    """A ValueError unless this is [1, 3, 3, 1], at whatever scale: some layouts have the gain of upsampling in it."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    kernel = kernel.float().squeeze()
    kernel = kernel if kernel.ndim != 1 else kernel[:, None] * kernel
    if kernel.shape != (4, 4) or not torch.allclose(kernel / kernel.sum(), taps[:, None] * taps / 64, atol=1e-3):
        raise ValueError(f"{path} resamples with another filter than [1, 3, 3, 1]: see {key}")


def _sizes(path: str | os.PathLike, found: dict[str, Tensor]) -> dict[str, int]:
    """The arguments of Generator, from shapes."""

    def size(key: str, axis: int) -> int:
        if key not in found or found[key].ndim < -axis:
            raise ValueError(f"{path} lacks {key}, or it is no weight of a generator")
        return found[key].shape[axis]

    resolution = max(int(r[1]) for key in found if (r := re.match(r"synthesis\.b(\d+)\.", key)))
    last = size(f"synthesis.b{resolution}.torgb.weight", -3)
    return {
        "resolution": resolution,
        "z_dim": size("mapping.fc0.weight", -1),
        "w_dim": size("mapping.fc0.weight", -2),
        "mapping_layers": sum(bool(re.fullmatch(r"mapping\.fc\d+\.weight", key)) for key in found),
        "channel_base": last * resolution,
        "channel_max": size("synthesis.b4.const", -3),
        "colours": size(f"synthesis.b{resolution}.torgb.weight", -4),
    }


def _fitted(path: str | os.PathLike, key: str, x: Tensor, shape: torch.Size) -> Tensor:
    """A tensor in our shape, which may lack axes of size 1 that others have."""
    if [n for n in x.shape if n != 1] != [n for n in shape if n != 1]:
        raise ValueError(f"{path}: {key} has shape {tuple(x.shape)} instead of {tuple(shape)}")
    if not torch.isfinite(x).all():
        raise ValueError(f"{path}: {key} is not finite")
    return x.float().reshape(shape).clone()
