"""Time-conditioned networks, for any problem: MLP, ResidualMLP, UNet, Encoder, DiT."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fwdiff_lite.checks import check_count, format_shape


def timestep_embedding(t: Float[Tensor, "b"], num_freqs: int = 6) -> Float[Tensor, "b f"]:
    """Sines and cosines of pi t / 2 times 1, 2, 4, ...: f = 2 num_freqs features of a time in [0, 1]."""
    if t.ndim != 1 or not t.is_floating_point():
        raise ValueError(f"got t of shape {format_shape(t)} and {t.dtype}, wanted (B,) in a floating type")
    frequencies = (math.pi / 2) * 2.0 ** torch.arange(num_freqs, device=t.device, dtype=t.dtype)
    angles = t[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], 1)


def _check_sizes(in_features: int, out_features: int, width: int, depth: int, num_freqs: int) -> None:
    sizes = (in_features, out_features, width, depth, num_freqs)
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        raise ValueError(
            f"a network needs positive sizes, got {in_features=}, {out_features=}, {width=}, {depth=}, {num_freqs=}"
        )


def _check_dropout(dropout: float) -> None:
    if not 0 <= dropout < 1:
        raise ValueError(f"got dropout = {dropout}, wanted a fraction of the hidden units, from 0 to below 1")


def _check_dims(dims: int) -> None:
    if dims not in (1, 2):
        raise ValueError(f"got dims = {dims}, wanted 2 for images or 1 for rows")


def _check_input(x: Tensor, t: Tensor, channels: int, like: Tensor) -> None:
    """ValueError unless x fits the first weight, `like`: (B, channels) or (B, channels, h, w); and t is (B,)."""
    wanted = ("B", str(channels), "h", "w")[: like.ndim]
    if x.ndim != like.ndim or x.shape[1] != channels:
        raise ValueError(f"got x of shape {format_shape(x)}, wanted ({', '.join(wanted)}) for this network")
    if t.shape != x.shape[:1]:
        raise ValueError(f"got t of shape {format_shape(t)}, wanted ({len(x)},): one time for each row of x")
    for name, value in (("x", x), ("t", t)):  # autocast casts between the other floating types
        if not value.is_floating_point() or (value.dtype == torch.float64) != (like.dtype == torch.float64):
            raise ValueError(f"got {name} of {value.dtype}, wanted that of the weights: convert it to {like.dtype}")


class MLP(nn.Module):
    """Vectors to vectors at time t: `depth` hidden layers of `width` SiLU units.

    dropout: fraction of the hidden units that are dropped in training, against over-confidence on small training sets
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        width: int = 128,
        depth: int = 3,
        dropout: float = 0.0,
        num_freqs: int = 6,
    ):
        super().__init__()
        _check_sizes(in_features, out_features, width, depth, num_freqs)
        _check_dropout(dropout)
        self.num_freqs = num_freqs
        sizes = [in_features + 2 * num_freqs] + [width] * depth
        layers: list[nn.Module] = []
        for a, b in zip(sizes, sizes[1:], strict=False):
            layers += [nn.Linear(a, b), nn.SiLU(inplace=True)]
            if dropout:
                layers.append(nn.Dropout(dropout))
        self.layers = nn.Sequential(*layers, nn.Linear(width, out_features))

    def forward(self, x: Float[Tensor, "b i"], t: Float[Tensor, "b"]) -> Float[Tensor, "b o"]:
        """The output at time t."""
        input_layer = self.layers[0]
        _check_input(x, t, input_layer.in_features - 2 * self.num_freqs, input_layer.weight)
        return self.layers(torch.cat([x, timestep_embedding(t, self.num_freqs)], 1))


class ResidualMLP(nn.Module):
    """Like MLP, with `depth` residual blocks of two layers: it trains faster where inputs must be copied or refined.

    dropout: see MLP
    """

    outer_layers = ("linear_in", "linear_out")  # see muon.hidden_matrices

    def __init__(
        self,
        in_features: int,
        out_features: int,
        width: int = 384,
        depth: int = 2,
        dropout: float = 0.0,
        num_freqs: int = 6,
    ):
        super().__init__()
        _check_sizes(in_features, out_features, width, depth, num_freqs)
        _check_dropout(dropout)
        self.num_freqs = num_freqs

        def layer(drop: float) -> list[nn.Module]:
            return [nn.SiLU(), nn.Dropout(drop), nn.Linear(width, width)]

        self.linear_in = nn.Linear(in_features + 2 * num_freqs, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), *layer(dropout), *layer(dropout)) for _ in range(depth)
        )
        self.linear_out = nn.Sequential(nn.LayerNorm(width), nn.SiLU(), nn.Linear(width, out_features))

    def forward(self, x: Float[Tensor, "b i"], t: Float[Tensor, "b"]) -> Float[Tensor, "b o"]:
        """The output at time t."""
        _check_input(x, t, self.linear_in.in_features - 2 * self.num_freqs, self.linear_in.weight)
        h = self.linear_in(torch.cat([x, timestep_embedding(t, self.num_freqs)], 1))
        for block in self.blocks:
            h = h + block(h)
        return self.linear_out(h)


class _UNetEncoder(nn.Module):
    """Residual blocks at several resolutions, each half of the one before: the first part of UNet and Encoder."""

    def __init__(
        self,
        in_channels: int,
        widths: tuple[int, ...],
        num_blocks: int,
        num_attention_levels: int,
        num_freqs: int,
        dims: int,
    ):
        super().__init__()
        _check_dims(dims)
        check_count(0, num_attention_levels=num_attention_levels)
        if any(width % 8 for width in widths):
            raise ValueError(f"widths must be multiples of 8, got {widths}")
        self.num_freqs, self.dims, self.first_attention_level = num_freqs, dims, len(widths) - num_attention_levels
        self.time_features = 4 * widths[0]
        self.time = nn.Sequential(
            nn.Linear(2 * num_freqs, self.time_features), nn.SiLU(), nn.Linear(self.time_features, self.time_features)
        )
        self.conv_in = _conv3(in_channels, widths[0], dims)
        self.down = nn.ModuleList(self._level(i, width, width, num_blocks) for i, width in enumerate(widths))
        self.downsample = nn.ModuleList(_conv3(a, b, dims, 2) for a, b in zip(widths, widths[1:], strict=False))

    def _level(self, i: int, in_channels: int, width: int, num_blocks: int) -> nn.ModuleList:
        """The residual blocks of the i-th resolution."""
        sizes = [in_channels] + [width] * num_blocks
        return nn.ModuleList(
            _ResBlock(a, b, self.time_features, i >= self.first_attention_level, self.dims)
            for a, b in zip(sizes, sizes[1:], strict=False)
        )

    def _encode(self, x: Float[Tensor, "b i h w"], t: Float[Tensor, "b"]) -> tuple[list[Tensor], Tensor]:
        """The features at each resolution, from fine to coarse, and the features of the time."""
        time = self.time(timestep_embedding(t, self.num_freqs))
        h, features = self.conv_in(x), []
        for i, level in enumerate(self.down):
            h = self.downsample[i - 1](h) if i else h
            for block in level:
                h = block(h, time)
            features.append(h)
        return features, time


class UNet(_UNetEncoder):
    """Images to images at time t: residual blocks at falling, then at rising resolutions (Ronneberger et al. 2015).

    The time sets a scale and a shift after each block's second group norm (Dhariwal and Nichol 2021, Table 3). The last
    convolution is initialised to zero, so an untrained network returns zero.

    widths: channels at each resolution, from fine to coarse; multiples of 8. The sides of an image must be divisible
        by 2 ** (len(widths) - 1)
    num_blocks: residual blocks at each resolution, in each of the two halves
    num_attention_levels: how many of the coarsest resolutions have self-attention over all their pixels
    dims: 2 for images; 1 for rows, images of height 1, with convolutions along the row
    """

    outer_layers = ("conv_in", "conv_out")  # see muon.hidden_matrices

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        widths: tuple[int, ...] = (32, 64, 96, 128),
        num_blocks: int = 2,
        num_attention_levels: int = 2,
        num_freqs: int = 6,
        dims: int = 2,
    ):
        _check_sizes(in_channels, out_channels, min(widths, default=0), num_blocks, num_freqs)
        super().__init__(in_channels, widths, num_blocks, num_attention_levels, num_freqs, dims)
        each = range(len(widths) - 1)
        self.upsample = nn.ModuleList(_conv3(widths[i + 1], widths[i], dims) for i in each)
        self.up = nn.ModuleList(self._level(i, 2 * widths[i], widths[i], num_blocks) for i in each)
        self.conv_out = nn.Sequential(nn.GroupNorm(8, widths[0]), nn.SiLU(), _conv3(widths[0], out_channels, dims))
        nn.init.zeros_(self.conv_out[-1].weight)
        nn.init.zeros_(self.conv_out[-1].bias)

    def forward(self, x: Float[Tensor, "b i h w"], t: Float[Tensor, "b"]) -> Float[Tensor, "b o h w"]:
        """The output at time t."""
        _check_input(x, t, self.conv_in.in_channels, self.conv_in.weight)
        side = 2 ** len(self.downsample)
        if self.dims == 1 and x.shape[-2] != 1:
            raise ValueError(f"images of {x.shape[-2]}x{x.shape[-1]} pixels: this network takes rows, of height 1")
        if x.shape[-1] % side or (x.shape[-2] % side and self.dims == 2):
            raise ValueError(f"images of {x.shape[-2]}x{x.shape[-1]} pixels: both sides must be divisible by {side}")
        (*skips, h), time = self._encode(x, t)
        for i in reversed(range(len(self.up))):
            h = self.upsample[i](nn.functional.interpolate(h, skips[i].shape[-2:]))
            h = torch.cat([h, skips[i]], 1)
            for block in self.up[i]:
                h = block(h, time)
        return self.conv_out(h)


def _conv3(in_channels: int, out_channels: int, dims: int, stride: int = 1) -> nn.Conv2d:
    """A convolution over 3 x 3 pixels, or with dims = 1 over 1 x 3 pixels."""
    if dims == 1:
        return nn.Conv2d(in_channels, out_channels, (1, 3), (1, stride), (0, 1))
    return nn.Conv2d(in_channels, out_channels, 3, stride, 1)


class _ResBlock(nn.Module):
    """Two convolutions beside a skip connection, then optional self-attention; initialised to the skip alone."""

    def __init__(self, in_channels: int, out_channels: int, features: int, attends: bool, dims: int):
        super().__init__()
        self.conv1 = nn.Sequential(nn.GroupNorm(8, in_channels), nn.SiLU(), _conv3(in_channels, out_channels, dims))
        self.norm = nn.GroupNorm(8, out_channels, affine=False)
        self.time = nn.Linear(features, 2 * out_channels)
        self.conv2 = _conv3(out_channels, out_channels, dims)
        self.skip = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()
        self.attention = _Attention(out_channels) if attends else nn.Identity()
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Float[Tensor, "b i h w"], time: Float[Tensor, "b f"]) -> Float[Tensor, "b o h w"]:
        scale, shift = self.time(time)[..., None, None].chunk(2, 1)  # (B, 2 O, 1, 1) -> twice (B, O, 1, 1)
        h = self.norm(self.conv1(x)) * (1 + scale) + shift
        return self.attention(self.skip(x) + self.conv2(nn.functional.silu(h)))


class _Attention(nn.Module):
    """Self-attention over all pixels, with at most 32 channels a head; initialised to the identity."""

    def __init__(self, width: int):
        super().__init__()
        self.heads = -(-width // 32)
        while width % self.heads:
            self.heads += 1
        self.norm = nn.GroupNorm(8, width)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.proj = nn.Conv2d(width, width, 1)
        nn.init.zeros_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        # (B, 3 C, H, W) -> three of (B, heads, H W, C / heads)
        qkv = self.qkv(self.norm(x)).flatten(2).unflatten(1, (3, self.heads, -1)).transpose(-1, -2)
        q, k, v = qkv.contiguous().unbind(1)  # fused attention needs the channels of a pixel side by side in memory
        h = nn.functional.scaled_dot_product_attention(q, k, v)
        return x + self.proj(h.transpose(-1, -2).reshape(x.shape))


class Encoder(_UNetEncoder):
    """Square images to vectors at time t: the first half of a UNet, then two layers. Untrained it returns zero.

    side: pixels of an image, divisible by 2 ** (len(widths) - 1)
    widths, num_blocks: see UNet
    hidden: width of the layer before the output
    """

    outer_layers = ("conv_in", "head")  # see muon.hidden_matrices

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        side: int,
        widths: tuple[int, ...] = (32, 64, 96, 128, 128),
        num_blocks: int = 1,
        hidden: int = 256,
        num_freqs: int = 6,
    ):
        _check_sizes(in_channels, out_channels, min((hidden, *widths), default=0), num_blocks, num_freqs)
        super().__init__(in_channels, widths, num_blocks, 0, num_freqs, dims=2)
        check_count(side=side)
        self.side, smaller = side, 2 ** (len(widths) - 1)
        if side % smaller:
            raise ValueError(f"images of {side}x{side} pixels: both sides must be divisible by {smaller}")
        left = widths[-1] * (side // smaller) ** 2
        self.head = nn.Sequential(
            nn.GroupNorm(8, widths[-1]), nn.SiLU(), nn.Flatten(),
            nn.Linear(left, hidden), nn.SiLU(), nn.Linear(hidden, out_channels),
        )  # fmt: skip
        nn.init.zeros_(self.head[-1].weight)
        nn.init.zeros_(self.head[-1].bias)

    def forward(self, x: Float[Tensor, "b i h w"], t: Float[Tensor, "b"]) -> Float[Tensor, "b o"]:
        """The output at time t."""
        _check_input(x, t, self.conv_in.in_channels, self.conv_in.weight)
        if x.shape[-2:] != (self.side, self.side):
            sides = f"{x.shape[-2]}x{x.shape[-1]}"
            raise ValueError(f"images of {sides} pixels: this network takes {self.side}x{self.side}")
        features, _ = self._encode(x, t)
        return self.head(features[-1])


class DiT(nn.Module):
    """Images to images at time t: a transformer over patches (Peebles and Xie 2023), with adaLN-Zero.

    The position embedding is made of sines and cosines, so the sides of an image may be any multiples of `patch`.

    width: channels of a patch, a multiple of 4 and of `heads`; depth: number of blocks; patch: pixels along a side
    dims: 2 for images; 1 for rows, images of height 1, with patches of height 1
    activation_checkpointing: whether the backward pass computes each block again, so that only the inputs of the blocks
        are kept in memory (Chen et al. 2016). It takes the time of one more forward pass
    """

    outer_layers = ("patch_embed", "final_modulation", "unpatchify")  # see muon.hidden_matrices

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: int = 256,
        depth: int = 6,
        heads: int = 4,
        patch: int = 4,
        num_freqs: int = 6,
        dims: int = 2,
        activation_checkpointing: bool = False,
    ):
        super().__init__()
        _check_sizes(in_channels, out_channels, width, depth, num_freqs)
        _check_dims(dims)
        check_count(heads=heads, patch=patch)
        if width % 4 or width % heads:
            raise ValueError(f"width must be a multiple of 4 and of heads, got {width} with {heads} heads")
        self.num_freqs, self.activation_checkpointing = num_freqs, activation_checkpointing
        self.patch = (1 if dims == 1 else patch, patch)
        self.time = nn.Sequential(nn.Linear(2 * num_freqs, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.patch_embed = nn.Conv2d(in_channels, width, self.patch, self.patch)
        self.blocks = nn.ModuleList(_TransformerBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.final_modulation = nn.Linear(width, 2 * width)
        self.unpatchify = nn.ConvTranspose2d(width, out_channels, self.patch, self.patch)
        for layer in (self.final_modulation, self.unpatchify):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Float[Tensor, "b i h w"], t: Float[Tensor, "b"]) -> Float[Tensor, "b o h w"]:
        """The output at time t."""
        _check_input(x, t, self.patch_embed.in_channels, self.patch_embed.weight)
        if any(side % patch for side, patch in zip(x.shape[-2:], self.patch, strict=True)):
            raise ValueError(
                f"images of {x.shape[-2]}x{x.shape[-1]} pixels: sides must be multiples of a patch's {self.patch}"
            )
        time = self.time(timestep_embedding(t, self.num_freqs))
        h = self.patch_embed(x)  # (B, D, rows, columns)
        rows, columns = h.shape[-2:]
        h = h.flatten(2).transpose(1, 2) + _sincos_2d_pos_embed(rows, columns, h)  # (B, rows columns, D)
        h = h.contiguous()  # torch 2.13 compiles a block with wrong gradients for another layout, on a CPU at least
        for block in self.blocks:
            if self.activation_checkpointing and torch.is_grad_enabled():
                h = checkpoint(block, h, time, use_reentrant=False)
            else:
                h = block(h, time)
        h = _modulate(self.norm(h), self.final_modulation(time))
        return self.unpatchify(h.transpose(1, 2).unflatten(2, (rows, columns)))


def _sincos_2d_pos_embed(rows: int, columns: int, like: Float[Tensor, "b d h w"]) -> Float[Tensor, "p d"]:
    """The position embedding: sines and cosines of a patch's row and column, D / 4 of each."""
    quarter = like.shape[1] // 4
    frequencies = 1e-2 ** (torch.arange(quarter, device=like.device) / quarter)
    y, x = (torch.arange(n, device=like.device)[:, None] * frequencies for n in (rows, columns))
    y, x = y[:, None].expand(-1, columns, -1), x[None].expand(rows, -1, -1)
    return torch.cat([f(z) for z in (y, x) for f in (torch.sin, torch.cos)], -1).flatten(0, 1)


def _modulate(x: Float[Tensor, "b p d"], scale_and_shift: Float[Tensor, "b e"]) -> Float[Tensor, "b p d"]:
    """Applies a scale and a shift, the two halves of the second argument."""
    scale, shift = scale_and_shift[:, None].chunk(2, -1)
    return x * (1 + scale) + shift


class _TransformerBlock(nn.Module):
    """Self-attention, then two layers, each modulated and gated by the time; initialised to the identity."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.layers = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.time = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.time.weight)
        nn.init.zeros_(self.time.bias)

    def forward(self, x: Float[Tensor, "b p d"], time: Float[Tensor, "b d"]) -> Float[Tensor, "b p d"]:
        mod_msa, gate_msa, mod_mlp, gate_mlp = self.time(time).split([2 * x.shape[-1], x.shape[-1]] * 2, -1)
        # (B, P, 3 D) -> three of (B, heads, P, D / heads)
        q, k, v = self.qkv(_modulate(self.norm(x), mod_msa)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        h = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + gate_msa[:, None] * self.proj(h)
        return x + gate_mlp[:, None] * self.layers(_modulate(self.norm(x), mod_mlp))
