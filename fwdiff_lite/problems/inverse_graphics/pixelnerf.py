"""pixelNeRF with a diffusion model inside: the 3-D structured denoiser of section 4.1 (figure 2).

A scene S is a radiance field whose every point looks up what the views of it show there (Eq. 10): the point is
projected into each view, picks a feature of the view's encoding, and a small network that sees features and camera
coordinates of all views answers with density, colour and further features. Views are the context and the noisy target
(Eq. 11, 14),

    S = S(. | enc(O_ctxt; 0), enc(O_trgt_t, O_det; t)),

where O_det is a deterministic render of the target from the context alone: its colour, depth and features tell the
target's encoder what is known already. Context and target share one encoder, which is told each pixel's
ray of light.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fwdiff_lite.backbones import DiT, UNet
from fwdiff_lite.observations import Observations
from fwdiff_lite.problems.inverse_graphics.cameras import (
    check_cameras,
    coordinates,
    inverse,
    on_image,
    pixel_centres,
    rays,
)
from fwdiff_lite.problems.inverse_graphics.volume import Image, VolumeRenderer

CPU_CHUNK_POINTS = 2**13  # points, once for each view, whose numbers stay in the cache of a CPU's core
DENSITY_SCALE = 10.0  # density, in one over the unit of length, of a point whose raw answer is about 1


@dataclass(frozen=True, eq=False)
class RadianceField:
    """The signal: B scenes, each given by V encoded views of it.

    maps:    (B, V, C, H, W) features of every pixel, already projected to the network's width
    cameras: (B, V, 4, 4)
    mask:    (B, V) which views there are
    training: whether rays ask for it anywhere in their pieces, not in their middles
    """

    network: FieldNetwork
    renderer: VolumeRenderer
    maps: Float[Tensor, "b v c h w"]
    cameras: Float[Tensor, "b v 4 4"]
    mask: Bool[Tensor, "b v"]
    training: bool = False

    def __call__(self, points: Float[Tensor, "b p 3"]) -> tuple[Float[Tensor, "b p"], Float[Tensor, "b p o"]]:
        """Density, and colours with features, at points of the world (Eq. 10)."""
        if points.is_cuda or torch.is_grad_enabled():
            return self.network(points, self.maps, self.cameras, self.mask)
        lots = points.split(max(1, CPU_CHUNK_POINTS // self.mask.numel()), 1)
        density, colour = zip(*(self.network(lot, self.maps, self.cameras, self.mask) for lot in lots), strict=True)
        return torch.cat(density, 1), torch.cat(colour, 1)

    def __getitem__(self, rows) -> RadianceField:
        """Some of the scenes: whatever a tensor's first axis can be indexed with, kept as an axis."""
        if isinstance(rows, int):
            rows = slice(rows, rows + 1 or None)
        return replace(self, maps=self.maps[rows], cameras=self.cameras[rows], mask=self.mask[rows])

    def render(self, cameras: Float[Tensor, "b m 4 4"]) -> Image:
        """What M cameras would see: colours, depth and opacity."""
        if cameras.ndim != 4 or len(cameras) != len(self.maps):
            raise ValueError(f"cameras {tuple(cameras.shape)} are not for {len(self.maps)} scenes: give (B, M, 4, 4)")
        with torch.no_grad():
            return self.renderer.image(self, cameras)


def join(fields: list[RadianceField], dim: int = 0) -> RadianceField:
    """Scenes of several lots, with as many views each, as one lot; or along dim 1 several views of the same scenes."""
    # a point reads all channels of a pixel, so these lie side by side in memory
    maps = torch.cat([f.maps.movedim(2, -1) for f in fields], dim).movedim(-1, 2)
    cameras, mask = (torch.cat(part, dim) for part in zip(*((f.cameras, f.mask) for f in fields), strict=True))
    return replace(fields[0], maps=maps, cameras=cameras, mask=mask)


def sample_map(maps: Float[Tensor, "n c h w"], uv: Float[Tensor, "n p 2"]) -> Float[Tensor, "n p c"]:
    """Features between the pixels, whose centres are at (j + 0.5) / w, (i + 0.5) / h; outside, those of the border."""
    if torch.compiler.is_compiling():  # of gathers, a GPU's compiler makes a much faster backward pass
        return gathered(maps, uv)
    picked = nn.functional.grid_sample(maps, (2 * uv - 1)[:, None], padding_mode="border", align_corners=False)
    return picked[:, :, 0].transpose(1, 2)


def gathered(maps: Float[Tensor, "n c h w"], uv: Float[Tensor, "n p 2"]) -> Float[Tensor, "n p c"]:
    """The same by hand: from the pixels around each point."""
    h, w = maps.shape[2:]
    # by image, row and column: a GPU's compiler would have to take one number apart again, for every feature
    pixels, n = maps.permute(0, 2, 3, 1), torch.arange(len(maps), device=uv.device)[:, None]
    place = torch.minimum((uv * uv.new_tensor([w, h]) - 0.5).clamp(min=0), uv.new_tensor([w - 1, h - 1]))
    low = place.floor()
    right, down = (place - low)[..., None].unbind(-2)
    j, i = low.long().unbind(-1)
    columns, rows = (j, (j + 1).clamp(max=w - 1)), (i, (i + 1).clamp(max=h - 1))
    above, below = (pixels[n, y, columns[0]] * (1 - right) + pixels[n, y, columns[1]] * right for y in rows)
    return above * (1 - down) + below * down


def positional_encoding(x: Float[Tensor, "*b d"], n: int) -> Float[Tensor, "*b e"]:
    """The numbers themselves with sines and cosines of pi / 2 times 1, 2, 4, ... of them: e = d (1 + 2 n)."""
    # numbers, not a power of a tensor: a GPU's compiler would take the power again for every point
    angles = torch.stack([x * (math.pi / 2 * 2**i) for i in range(n)], -1).flatten(-2)
    return torch.cat([x, angles.sin(), angles.cos()], -1)


def contract(x: Float[Tensor, "*b 3"], unit: float) -> tuple[Float[Tensor, "*b 3"], Float[Tensor, "*b"]]:
    """Points in units of `unit`; what is farther than one is brought to 2 - 1 / distance (Barron et al. 2022, Eq. 10).

    So all of space has a place in a ball of radius 2, and far away it is one over the distance that counts. Beside them
    how much longer a short step away from the origin was.
    """
    x = x / unit
    size = x.norm(dim=-1, keepdim=True).clamp(min=1)
    return (2 - 1 / size) * x / size, unit * size[..., 0].square()


def plucker(cameras: Float[Tensor, "*b 4 4"], h: int, w: int, unit: float = 1.0) -> Float[Tensor, "*b 6 h w"]:
    """The ray of light that each pixel sees, as Plücker coordinates: its direction d, and its moment o x d, o in units.

    The same wherever on the ray o is taken (Sitzmann et al. 2021, Section 3.1).
    """
    origins, directions = rays(cameras, pixel_centres(h, w, cameras))
    moments = torch.linalg.cross(origins.expand_as(directions), directions) / unit
    return torch.cat([directions, moments], -1).transpose(-1, -2).unflatten(-1, (h, w))


class _Residual(nn.Module):
    """x + two layers of it."""

    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, x: Float[Tensor, "*b w"]) -> Float[Tensor, "*b w"]:
        return x + self.layers(x)


class FieldNetwork(nn.Module):
    """Eq. 10: from what V views show of a point to its density, colour and features.

    Each view says by itself what it makes of the point, the views are averaged, weighted by what each thinks of its
    own word, and two more layers answer. A view on which the point does not appear, or which has it behind the camera,
    contributes its coordinates and no feature. Beside the camera coordinates of Eq. 10 the network is told those of
    the world: our scenes share a frame, that of their box. Both as `positional_encoding` of so many frequencies.

    unit: above 0, coordinates are brought near before, by `contract`, and density is told for lengths so contracted
    """

    def __init__(self, width: int, features: int, frequencies: int = 4, blocks: int = 2, unit: float = 0.0):
        super().__init__()
        self.frequencies, self.unit = frequencies, unit
        self.camera_proj = nn.Linear(3 * (1 + 2 * frequencies) + 1, width)
        self.world_proj = nn.Linear(3 * (1 + 2 * frequencies), width)
        self.per_view_mlp = _Residual(width)
        self.weight = nn.Linear(width, 1, bias=False)
        self.fusion_mlp = nn.Sequential(*(_Residual(width) for _ in range(blocks)), nn.SiLU())
        self.head = nn.Linear(width, 1 + 3 + features)

    def forward(
        self,
        points: Float[Tensor, "b p 3"],
        maps: Float[Tensor, "b v c h w"],
        cameras: Float[Tensor, "b v 4 4"],
        mask: Bool[Tensor, "b v"],
    ) -> tuple[Float[Tensor, "b p"], Float[Tensor, "b p o"]]:
        """Density in one over the unit of length; colours in [-1, 1] with features."""
        b, v = mask.shape
        seen = coordinates(cameras, points[:, None])  # (B, V, P, 3)
        uv, depth = on_image(seen)  # (B, V, P, 2), (B, V, P)
        inside = (depth > 0) & ((uv - 0.5).abs() <= 0.5).all(-1)
        uv = torch.where(inside[..., None], uv, 0.5)
        picked = sample_map(maps.flatten(0, 1), uv.flatten(0, 1)).unflatten(0, (b, v))  # (B, V, P, C)
        there = inside[..., None].to(points.dtype)
        if self.unit:
            (seen, _), (points, longer) = contract(seen, self.unit), contract(points, self.unit)
        here, world = (positional_encoding(x, self.frequencies) for x in (seen, points))
        h = self.camera_proj(torch.cat([here, there], -1)) + there * picked + self.world_proj(world)[:, None]
        h = self.per_view_mlp(h)
        there = mask[:, :, None, None]
        weight = self.weight(h).masked_fill(~there, -1e4).softmax(1) * there  # without any view, zero
        answer = self.head(self.fusion_mlp((weight * h).sum(1)))
        density = DENSITY_SCALE * nn.functional.softplus(answer[..., 0])
        if self.unit:
            density = density / longer
        return density, torch.cat([answer[..., 1:4].tanh(), answer[..., 4:]], -1)


@dataclass(frozen=True, eq=False)
class Condition:
    """What a denoiser knows before any noise.

    context:  the scene as it is known from the context alone, cameras and encodings of it included
    known:    (B, M, C, H, W) its render at the targets' cameras: colour, depth, opacity and features
    cameras:  (B, M, 4, 4) of the targets
    estimate: the render's colours, in its own resolution; None where a denoiser is told nothing of it
    """

    context: RadianceField
    known: Float[Tensor, "b m c h w"]
    cameras: Float[Tensor, "b m 4 4"]
    deterministic_prediction: Observations | None


BACKBONES = {"unet": UNet, "dit": DiT}
TOLD = ("colour", "depth", "features")  # what a target's encoder is told of the deterministic render


class SceneDenoiser(nn.Module):
    """Eq. 14: a scene from context images and noisy target images, with their cameras.

    encoder:  which of BACKBONES; options: its own, after inputs and outputs
    width:    of the field's network
    features: further channels of the field, rendered for the target's encoder (figure 2)
    frequencies: of the positional_encoding that the field's network is told coordinates in
    coarser:  the deterministic render has so many times fewer pixels along a side
    told:     which of TOLD a target's encoder gets, depth with opacity; the others are zero, and without any the
        context is not rendered
    """

    def __init__(
        self,
        renderer: VolumeRenderer,
        encoder: str = "unet",
        width: int = 64,
        features: int = 16,
        frequencies: int = 4,
        channels: int = 64,
        coarser: int = 2,
        options: dict | None = None,
        told: tuple[str, ...] = TOLD,
    ):
        super().__init__()
        if encoder not in BACKBONES:
            raise ValueError(f"unknown encoder {encoder!r}: choose one of {', '.join(BACKBONES)}")
        if unknown := [name for name in told if name not in TOLD]:
            raise ValueError(f"a render has no {', '.join(unknown)}: choose what is told from {', '.join(TOLD)}")
        self.renderer, self.coarser, self.features, self.told = renderer, coarser, features, told
        self.encoder = BACKBONES[encoder](3 + (3 + 2 + features) + 6 + 1, channels, **(options or {}))
        self.project = nn.Conv2d(channels, width, 1)  # on the map: linear, so it may come before the look-up
        self.field = FieldNetwork(width, features, frequencies, unit=renderer.near)

    def encode(
        self,
        images: Float[Tensor, "b v 3 h w"],
        cameras: Float[Tensor, "b v 4 4"],
        known: Float[Tensor, "b v c h w"] | None,
        t: Float[Tensor, "b"],
    ) -> Float[Tensor, "b v f h w"]:
        """enc(O, phi; t), at the field's width; known: what a target's encoder is told, None for the context."""
        b, v, _, h, w = images.shape
        if (h, w) != (self.renderer.height, self.renderer.width):
            raise ValueError(
                f"images of {h}x{w} pixels, but this model's have {self.renderer.height}x{self.renderer.width}"
            )
        told = images.new_full((b, v, 1, h, w), float(known is not None))
        if known is None:
            known = images.new_zeros(b, v, 5 + self.features, h, w)
        light = plucker(cameras, h, w, self.renderer.near or 1.0).to(images)
        stacked = torch.cat([images, known, light, told], 2).flatten(0, 1)
        maps = self.project(self.encoder(stacked, t.repeat_interleave(v)))
        # as precise as places are, also where networks are not: in half precision a place is off by a fifth of a pixel
        return maps.to(cameras).unflatten(0, (b, v))

    def condition(self, context: Observations, target_params: Float[Tensor, "b m 4 4"]) -> Condition:
        """Encodes the context and renders from it what the targets would see."""
        check_cameras(context.params)
        b, m = target_params.shape[:2]
        images = torch.where(context.mask[:, :, None, None, None], context.value, 0)
        maps = self.encode(images, context.params, None, images.new_zeros(b))
        scene = RadianceField(self.field, self.renderer, maps, context.params, context.mask, self.training)
        if not self.told:
            nothing = images.new_zeros(b, m, 5 + self.features, self.renderer.height, self.renderer.width)
            return Condition(scene, nothing, target_params, None)
        seen = self.renderer.cast(scene, target_params, coarser=self.coarser)
        h, w = (max(1, n // self.coarser) for n in (self.renderer.height, self.renderer.width))
        depth = self._scaled(seen.depth, target_params)
        shape = torch.stack([depth, seen.opacity], -1)
        parts = {"colour": seen.colour[..., :3], "depth": shape, "features": seen.colour[..., 3:]}
        estimate = Observations(parts["colour"].transpose(-1, -2).unflatten(-1, (h, w)), target_params)
        told = [part if name in self.told else torch.zeros_like(part) for name, part in parts.items()]
        known = torch.cat(told, -1).transpose(-1, -2).unflatten(-1, (h, w))  # (B, M, C, h, w)
        known = nn.functional.interpolate(known.flatten(0, 1), (self.renderer.height, self.renderer.width))
        return Condition(scene, known.unflatten(0, (b, m)), target_params, estimate)

    def _scaled(self, depth: Float[Tensor, "b m p"], cameras: Float[Tensor, "b m 4 4"]) -> Float[Tensor, "b m p"]:
        """Depth from the middle of the box, in halves of its diagonal; for scenes all around, from near 0 to far 1."""
        if self.renderer.near:
            return 1 - self.renderer.near / depth.clamp(min=self.renderer.near)
        middle = cameras.new_tensor([self.renderer.low, self.renderer.high]).mean(0)
        away = (inverse(cameras)[1] - middle).norm(dim=-1, keepdim=True)
        return (depth - away) / (0.5 * math.dist(self.renderer.low, self.renderer.high))

    def forward(
        self, condition: Condition, noisy_target: Float[Tensor, "b m 3 h w"], t: Float[Tensor, "b"]
    ) -> RadianceField:
        """Eq. 14: the signal."""
        context = condition.context
        maps = self.encode(noisy_target, condition.cameras, condition.known, t)
        there = torch.ones(maps.shape[:2], dtype=torch.bool, device=maps.device)
        return join([context, replace(context, maps=maps, cameras=condition.cameras, mask=there)], 1)
