"""StyleGAN2: a generator of images from latent codes, and its discriminator.

    w = f(z)                                    mapping: z ~ N(0, I) to a style
    x = demodulated convolutions of a constant  synthesis: A(w), an affine map of a style, scales each layer's weights
    image = sum of all resolutions' RGB         each of them upsampled to the next resolution

Karras et al. 2020a, "Analyzing and Improving the Image Quality of StyleGAN" (cited as SG2), configuration F: skip
connections in the generator, residual blocks in the discriminator, [1, 3, 3, 1] filters for all resampling. Parameters
and buffers have the names of the PyTorch release of ADA (Karras et al. 2020b, "Training Generative Adversarial Networks
with Limited Data"), so that published weights fit: `stylegan2_weights.load_published_generator`.

As a frozen forward model: `G.requires_grad_(False)`, then `G.synthesis(w)` with w in W (B, D), one style for all
layers, or in W+ (B, L, D), one style for each layer. The noise inputs are constant unless noise is given, so the image
is a function of w. Images are in [-1, 1] approximately: they are not clipped.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

# Arguments of the Generator that this repository trains: 1.2 million parameters
SMALL_GENERATOR = {
    "resolution": 64,
    "z_dim": 128,
    "w_dim": 128,
    "mapping_layers": 4,
    "channel_base": 3 * 2**9,
    "channel_max": 160,
}

SQRT2 = math.sqrt(2)

# --- resampling ---------------------------------------------------------------------------------------------


def _resample_filter(x: Float[Tensor, "b c h w"], gain: float) -> Float[Tensor, "c 1 4 4"]:
    """The outer product of [1, 3, 3, 1] with itself, scaled to the sum `gain`, for each channel."""
    # computed on the device: a copy from the CPU would make a GPU wait
    taps = 4 - 2 * (torch.arange(4, device=x.device, dtype=x.dtype) - 1.5).abs()
    return (taps[:, None] * taps * (gain / 64)).expand(x.shape[1], 1, 4, 4)


def _sum_shifted(x: Float[Tensor, "b c h w"], gain: float, stride: int) -> Float[Tensor, "b c i j"]:
    """A convolution with the filter, as sums of shifted images: a compiler fuses them with the operations around."""
    for dim in (2, 3):
        taps = [x.narrow(dim, k, x.shape[dim] - 3) for k in range(4)]
        if stride > 1:
            taps = [tap[:, :, ::stride] if dim == 2 else tap[..., ::stride] for tap in taps]
        x = (taps[0] + taps[3] + 3 * (taps[1] + taps[2])) * (math.sqrt(gain) / 8)
    return x


def _interleave_shifted(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c 2*h 2*w"]:
    """`upsample` in the same way: a new pixel is 3/4 of the pixel that it lies in, 1/4 of that pixel's neighbour."""
    for dim in (2, 3):
        padded = F.pad(x, [0, 0, 1, 1] if dim == 2 else [1, 1, 0, 0])
        neighbours = padded.narrow(dim, 0, x.shape[dim]), padded.narrow(dim, 2, x.shape[dim])
        x = torch.stack([0.75 * x + 0.25 * neighbour for neighbour in neighbours], dim + 1).flatten(dim, dim + 1)
    return x


def blur(x: Float[Tensor, "b c h w"], padding: int, gain: float = 1.0, stride: int = 1) -> Float[Tensor, "b c i j"]:
    """A depthwise convolution with the filter [1, 3, 3, 1] along rows and columns, zero-padded, with a stride."""
    if torch.compiler.is_compiling():
        return _sum_shifted(F.pad(x, 4 * [padding]), gain, stride)
    return F.conv2d(x, _resample_filter(x, gain), stride=stride, padding=padding, groups=x.shape[1])


def downsample(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h/2 w/2"]:
    """Halves height and width: the filter, then every other pixel is dropped."""
    return blur(x, 1, stride=2)


def upsample(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c 2*h 2*w"]:
    """Doubles height and width: zeros are inserted between pixels, then the filter."""
    if torch.compiler.is_compiling():
        return _interleave_shifted(x)
    return F.conv_transpose2d(x, _resample_filter(x, 4.0), stride=2, padding=1, groups=x.shape[1])


# --- layers -------------------------------------------------------------------------------------------------


def scaled_leaky_relu(x: Float[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """Leaky ReLU of slope 0.2, times sqrt(2): the second moment stays close to 1."""
    return F.leaky_relu(x, 0.2) * SQRT2


def _clamp(x: Float[Tensor, "*s"], limit: float | None) -> Float[Tensor, "*s"]:
    """Values clipped to [-limit, limit]; None leaves them."""
    return x if limit is None else x.clamp(-limit, limit)


def modulated_conv2d(
    x: Float[Tensor, "b i h w"],
    weight: Float[Tensor, "o i k k"],
    styles: Float[Tensor, "b i"],
    demodulate: bool = True,
    up: bool = False,
) -> Float[Tensor, "b o p q"]:
    """A convolution whose weights differ between examples: an example's styles scale the input channels (SG2, Eq. 1).

    demodulate: scale the weights of each output channel to unit norm (SG2, Eq. 3); the scale of weights and styles then
        has no effect
    up: insert zeros between the pixels first and filter afterwards: (p, q) = (2 h, 2 w), otherwise (h, w)
    """
    # To scale inputs and outputs is the same as to scale the weights, and one convolution serves the whole batch
    x = x * styles[:, :, None, None]
    if up:
        x = blur(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2), 1, gain=4.0)
    else:
        x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
    if demodulate:
        squared_norms = styles.square() @ weight.square().sum((2, 3)).T  # (B, O)
        x = x * (squared_norms + 1e-8).rsqrt()[:, :, None, None]
    return x


class EqualLinear(nn.Module):
    """A linear layer with equalised learning rate: weights are stored at unit variance and scaled in the forward pass.

    bias_init: the initial bias; lr_multiplier: factor of the learning rate of weights and bias
    """

    def __init__(self, in_features: int, out_features: int, bias_init: float = 0.0, lr_multiplier: float = 1.0):
        super().__init__()
        self.weight_gain, self.bias_gain = lr_multiplier / math.sqrt(in_features), lr_multiplier
        self.weight = nn.Parameter(torch.randn(out_features, in_features) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((out_features,), bias_init))

    def forward(self, x: Float[Tensor, "b i"]) -> Float[Tensor, "b o"]:
        return F.linear(x * self.weight_gain, self.weight, self.bias * self.bias_gain)


class EqualConv2d(nn.Module):
    """A convolution with equalised learning rate. down: filter the input, and convolve with stride 2."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, bias: bool = True, down: bool = False):
        super().__init__()
        self.weight_gain, self.down = 1 / math.sqrt(in_channels * kernel_size**2), down
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o p q"]:
        weight, kernel_size = self.weight * self.weight_gain, self.weight.shape[-1]
        if not self.down:
            return F.conv2d(x, weight, self.bias, padding=kernel_size // 2)
        if kernel_size == 1:
            return F.conv2d(downsample(x), weight, self.bias)
        return F.conv2d(blur(x, 1 + kernel_size // 2), weight, self.bias, stride=2)


# --- the generator ------------------------------------------------------------------------------------------


def channels_per_resolution(resolution: int, channel_base: int, channel_max: int) -> dict[int, int]:
    """The number of channels at 4, 8, ... `resolution` pixels: channel_base / pixels, at most channel_max.

    ValueError if the resolution is not a power of two of at least 8, or if no channel is left.
    """
    if resolution < 8 or resolution & (resolution - 1):
        raise ValueError(f"resolution must be a power of two, 8 or more, got {resolution}")
    if channel_base < resolution or channel_max < 1:
        raise ValueError(f"no channel is left at {resolution} pixels: got {channel_base=}, {channel_max=}")
    return {2**i: min(channel_base // 2**i, channel_max) for i in range(2, resolution.bit_length())}


class Mapping(nn.Module):
    """w = f(z): an MLP on z scaled to unit second moment. It learns a hundred times slower than the other layers.

    w_avg: the running mean of w, see `update_w_avg`
    """

    def __init__(self, z_dim: int, w_dim: int, num_layers: int):
        super().__init__()
        self.z_dim = z_dim
        for i in range(num_layers):
            self.add_module(f"fc{i}", EqualLinear(w_dim if i else z_dim, w_dim, lr_multiplier=0.01))
        self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(self, z: Float[Tensor, "b *z"]) -> Float[Tensor, "b w"]:
        """The styles of latent codes."""
        if z.ndim != 2 or z.shape[1] != self.z_dim:
            raise ValueError(f"z has shape {tuple(z.shape)}: give (B, {self.z_dim})")
        x = z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()
        for layer in self.children():
            x = scaled_leaky_relu(layer(x))
        return x

    def update_w_avg(self, w: Float[Tensor, "b w"], decay: float = 0.995) -> None:
        """Moves w_avg towards the mean of these styles."""
        self.w_avg.lerp_(w.detach().mean(0), 1 - decay)


def truncate(w: Float[Tensor, "b *l w"], mean: Float[Tensor, "w"], psi: float) -> Float[Tensor, "b *l w"]:
    """The truncation trick: styles are moved towards their mean. psi = 1 leaves them, psi = 0 gives the mean."""
    return mean.lerp(w, psi)


def mix_styles(
    w: Float[Tensor, "b w"], other: Float[Tensor, "b w"], cutoff: Int[Tensor, "b"], num_layers: int
) -> Float[Tensor, "b l w"]:
    """Style mixing: styles in W+ for `num_layers` layers, w before layer `cutoff` and the other style from there on."""
    coarse = torch.arange(num_layers, device=w.device) < cutoff[:, None]  # (B, L)
    return torch.where(coarse[..., None], w[:, None], other[:, None])


class StyledConv2d(nn.Module):
    """One layer of synthesis: modulated convolution, noise, bias and leaky ReLU. clamp: see Generator's conv_clamp."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        up: bool = False,
        clamp: float | None = None,
    ):
        super().__init__()
        self.up, self.clamp = up, clamp
        self.affine = EqualLinear(w_dim, in_channels, bias_init=1.0)
        # without an equalising gain: demodulation would cancel it
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))

    def forward(
        self, x: Float[Tensor, "b i h w"], w: Float[Tensor, "b d"], noise: Float[Tensor, "*n p q"] | None
    ) -> Float[Tensor, "b o p q"]:
        x = modulated_conv2d(x, self.weight, self.affine(w), up=self.up)
        x = x + self.noise_strength * (self.noise_const if noise is None else noise)
        return _clamp(scaled_leaky_relu(x + self.bias[:, None, None]), self.clamp)


class ToRGB(nn.Module):
    """The RGB image of one resolution: a modulated 1 x 1 convolution without demodulation. clamp: as StyledConv2d."""

    def __init__(self, in_channels: int, img_channels: int, w_dim: int, clamp: float | None = None):
        super().__init__()
        self.weight_gain, self.clamp = 1 / math.sqrt(in_channels), clamp
        self.affine = EqualLinear(w_dim, in_channels, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(img_channels, in_channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(img_channels))

    def forward(self, x: Float[Tensor, "b i h w"], w: Float[Tensor, "b d"]) -> Float[Tensor, "b c h w"]:
        styles = self.affine(w) * self.weight_gain
        x = modulated_conv2d(x, self.weight, styles, demodulate=False) + self.bias[:, None, None]
        return _clamp(x, self.clamp)


class SynthesisBlock(nn.Module):
    """All layers of one resolution. The input is a learnt constant at 4 pixels, else the features of the block before.

    The block upsamples the image of the block before, and adds its own RGB image.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        w_dim: int,
        resolution: int,
        img_channels: int,
        clamp: float | None = None,
    ):
        super().__init__()
        if resolution == 4:
            self.const = nn.Parameter(torch.randn(out_channels, 4, 4))
        else:
            self.conv0 = StyledConv2d(in_channels, out_channels, w_dim, resolution, up=True, clamp=clamp)
        self.conv1 = StyledConv2d(out_channels, out_channels, w_dim, resolution, clamp=clamp)
        self.torgb = ToRGB(out_channels, img_channels, w_dim, clamp)

    def forward(
        self, x: Tensor | None, image: Tensor | None, ws: Float[Tensor, "b l d"], noise: list[Tensor | None]
    ) -> tuple[Float[Tensor, "b o r r"], Float[Tensor, "b c r r"]]:
        if x is None:
            x = self.const.expand(len(ws), -1, -1, -1)
        else:
            x = self.conv0(x, ws[:, 0], noise[0])
        x = self.conv1(x, ws[:, -2], noise[-1])
        rgb = self.torgb(x, ws[:, -1])
        return x, rgb if image is None else upsample(image) + rgb


class Synthesis(nn.Module):
    """From styles to an image. num_layers: the number of styles in W+, L = 2 log2(resolution) - 2."""

    def __init__(
        self,
        resolution: int,
        w_dim: int,
        channel_base: int,
        channel_max: int,
        img_channels: int,
        conv_clamp: float | None = None,
    ):
        super().__init__()
        widths = channels_per_resolution(resolution, channel_base, channel_max)
        self.resolutions, self.w_dim, self.num_layers = list(widths), w_dim, 2 * len(widths)
        for r, width in widths.items():
            block = SynthesisBlock(widths.get(r // 2, 0), width, w_dim, r, img_channels, conv_clamp)
            self.add_module(f"b{r}", block)

    def forward(
        self, ws: Float[Tensor, "b *l d"], noise: list[Float[Tensor, "..."]] | None = None
    ) -> Float[Tensor, "b c h w"]:
        """Images of styles in W (B, D) or W+ (B, L, D).

        noise: a map (..., r, r) for each convolution, see `sample_noise`; None: the network's constant noise
        """
        if ws.ndim not in (2, 3) or ws.shape[1:] not in ((self.w_dim,), (self.num_layers, self.w_dim)):
            expected = f"(B, {self.w_dim}) or (B, {self.num_layers}, {self.w_dim})"
            raise ValueError(f"styles have shape {tuple(ws.shape)}: give {expected}")
        noise_resolutions = self.noise_resolutions()
        if noise is not None and [tuple(n.shape[-2:]) for n in noise] != [(r, r) for r in noise_resolutions]:
            shapes = [tuple(n.shape) for n in noise]
            raise ValueError(f"noise has shapes {shapes}: give one map (B, 1, r, r) for each r of {noise_resolutions}")
        if ws.ndim == 2:
            ws = ws[:, None].expand(-1, self.num_layers, -1)
        noise = noise or [None] * len(noise_resolutions)
        x = image = None
        for i, block in enumerate(self.children()):
            start = max(0, 2 * i - 1)  # a block's ToRGB shares its style with the first convolution of the next block
            x, image = block(x, image, ws[:, start : 2 * i + 2], noise[start : 2 * i + 1])
        return image

    def noise_resolutions(self) -> list[int]:
        """The resolution of each convolution's noise."""
        return [r for r in self.resolutions for _ in range(1 if r == 4 else 2)]

    def sample_noise(self, n: int, generator: torch.Generator) -> list[Float[Tensor, "n 1 ..."]]:
        """New noise for n images, on the generator's device."""
        device = generator.device
        return [torch.randn(n, 1, r, r, generator=generator, device=device) for r in self.noise_resolutions()]


class Generator(nn.Module):
    """From latent codes z ~ N(0, I) to images: `mapping`, then `synthesis` (SG2, figure 2d and 7b).

    resolution: pixels along a side, a power of two
    channel_base, channel_max: see `channels_per_resolution`
    img_channels: the number of channels of an image
    conv_clamp: activations of synthesis are clipped to [-conv_clamp, conv_clamp], as in networks that ADA trained in
        half precision (256 there); None: no clipping

    Generator(1024) is the published network, Generator(256, channel_base=2**14) the one for 256 pixels, and
    Generator(**SMALL_GENERATOR) the one that this repository trains.
    """

    def __init__(
        self,
        resolution: int,
        z_dim: int = 512,
        w_dim: int = 512,
        mapping_layers: int = 8,
        channel_base: int = 2**15,
        channel_max: int = 512,
        img_channels: int = 3,
        conv_clamp: float | None = None,
    ):
        super().__init__()
        if conv_clamp is not None and not conv_clamp > 0:
            raise ValueError(f"conv_clamp must be positive, or None, got {conv_clamp}")
        if min(z_dim, w_dim, mapping_layers, img_channels) < 1:
            raise ValueError(f"sizes must be positive, got {z_dim=}, {w_dim=}, {mapping_layers=}, {img_channels=}")
        self.synthesis = Synthesis(resolution, w_dim, channel_base, channel_max, img_channels, conv_clamp)
        self.mapping = Mapping(z_dim, w_dim, mapping_layers)

    def forward(
        self, z: Float[Tensor, "b *z"], psi: float = 1.0, noise: list[Tensor] | None = None
    ) -> Float[Tensor, "b c h w"]:
        """Images of latent codes (B, z_dim). psi: see `truncate`; noise: see `Synthesis.forward`."""
        return self.synthesis(truncate(self.mapping(z), self.mapping.w_avg, psi), noise)


# --- the discriminator --------------------------------------------------------------------------------------


def generate_images(
    G: Generator, n: int, generator: torch.Generator, psi: float = 1.0, chunk_size: int = 250
) -> Float[Tensor, "n c h w"]:
    """n images with the constant noise, `chunk_size` at a time. Latent codes are drawn on the CPU; psi: truncation."""
    z = torch.randn(n, G.mapping.z_dim, generator=generator).to(G.mapping.w_avg.device)
    with torch.no_grad():
        return torch.cat([G(chunk, psi) for chunk in z.split(chunk_size)])


def minibatch_stddev(x: Float[Tensor, "b c h w"], group_size: int = 4) -> Float[Tensor, "b c+1 h w"]:
    """Appends a channel: the standard deviation within a group of examples, averaged over pixels and channels.

    Example i belongs to group i modulo B / group_size. A batch smaller than group_size is one group. ValueError if B is
    not a multiple of group_size.
    """
    b, _, h, w = x.shape
    group_size = min(group_size, b)
    if b % group_size:
        raise ValueError(f"a batch of {b} images cannot be split into groups of {group_size}: make it a multiple")
    variance = x.unflatten(0, (group_size, b // group_size)).var(0, correction=0)  # (B / group_size, C, H, W)
    stddev = (variance + 1e-8).sqrt().mean((1, 2, 3))  # (B / group_size)
    return torch.cat([x, stddev.repeat(group_size)[:, None, None, None].expand(-1, -1, h, w)], 1)


class DiscriminatorBlock(nn.Module):
    """A residual block that halves the resolution. from_rgb: whether its input is an image, not features."""

    def __init__(self, in_channels: int, out_channels: int, from_rgb: bool):
        super().__init__()
        self.fromrgb = EqualConv2d(3, in_channels, 1) if from_rgb else None
        self.conv0 = EqualConv2d(in_channels, in_channels, 3)
        self.conv1 = EqualConv2d(in_channels, out_channels, 3, down=True)
        self.skip = EqualConv2d(in_channels, out_channels, 1, bias=False, down=True)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h/2 w/2"]:
        if self.fromrgb is not None:
            x = scaled_leaky_relu(self.fromrgb(x))
        return (self.skip(x) + scaled_leaky_relu(self.conv1(scaled_leaky_relu(self.conv0(x))))) / SQRT2


class DiscriminatorEpilogue(nn.Module):
    """The last block: from features of 4 x 4 pixels, with their minibatch standard deviation, to one score."""

    def __init__(self, in_channels: int, group_size: int):
        super().__init__()
        self.group_size = group_size
        self.conv = EqualConv2d(in_channels + 1, in_channels, 3)
        self.fc = EqualLinear(16 * in_channels, in_channels)
        self.out = EqualLinear(in_channels, 1)

    def forward(self, x: Float[Tensor, "b i 4 4"]) -> Float[Tensor, "b"]:
        x = scaled_leaky_relu(self.conv(minibatch_stddev(x, self.group_size)))
        return self.out(scaled_leaky_relu(self.fc(x.flatten(1))))[:, 0]


class Discriminator(nn.Module):
    """The logit that an image is real (SG2, figure 7c).

    resolution, channel_base, channel_max: as in Generator; group_size: see `minibatch_stddev`
    """

    def __init__(
        self,
        resolution: int,
        channel_base: int = 2**15,
        channel_max: int = 512,
        group_size: int = 4,
    ):
        super().__init__()
        widths = channels_per_resolution(resolution, channel_base, channel_max)
        self.image_shape = (3, resolution, resolution)
        for r in sorted(widths, reverse=True)[:-1]:
            self.add_module(f"b{r}", DiscriminatorBlock(widths[r], widths[r // 2], from_rgb=r == resolution))
        self.b4 = DiscriminatorEpilogue(widths[4], group_size)

    def forward(self, images: Float[Tensor, "b *s"]) -> Float[Tensor, "b"]:
        """The logit of each image."""
        if images.shape[1:] != self.image_shape:
            expected = ", ".join(map(str, self.image_shape))
            raise ValueError(f"images have shape {tuple(images.shape)}: give (B, {expected})")
        x = images
        for block in self.children():
            x = block(x)
        return x
