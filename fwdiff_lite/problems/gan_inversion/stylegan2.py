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

import math

import torch
from jaxtyping import Float, Int
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
