"""Volume rendering: a radiance field seen through a camera, the forward model of section 4.1 (Eq. 12).

Along a ray of light x(s), split into n pieces of length delta_i, each of constant density sigma_i and colour c_i,

    alpha_i = 1 - exp(-sigma_i delta_i),  w_i = alpha_i prod_{j < i} (1 - alpha_j),  C = sum_i w_i c_i + T background,

with T = prod_i (1 - alpha_i), the light that passes (Max 1995; Mildenhall et al. 2020). All outside of a known box is
empty.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fwdiff_lite.devices import widest_float
from fwdiff_lite.problems.inverse_graphics.cameras import check_cameras, pixel_centres, rays

# Of the plastic number, the root of x^3 = x + 1: multiples of 1 / g and 1 / g^2 fill the square evenly (Roberts 2018).
PLASTIC = 1.324717957244746


class Rendered(NamedTuple):
    """What rays see.

    colour:  (*b, p, c) colours, and after them features where the field has any
    depth:   (*b, p) mean distance from the camera; the light that passes counts where it leaves the box
    opacity: (*b, p) the share of light that does not pass
    """

    colour: Float[Tensor, "*b p c"]
    depth: Float[Tensor, "*b p"]
    opacity: Float[Tensor, "*b p"]


class Image(NamedTuple):
    """A scene seen by M cameras: colours (B, M, 3, H, W) in [-1, 1], depth and opacity (B, M, H, W) as in Rendered."""

    rgb: Float[Tensor, "b m 3 h w"]
    depth: Float[Tensor, "b m h w"]
    opacity: Float[Tensor, "b m h w"]


def clip(
    origins: Float[Tensor, "*b #p d"], directions: Float[Tensor, "*b p d"], low: Tensor, high: Tensor
) -> tuple[Float[Tensor, "*b p"], Float[Tensor, "*b p"]]:
    """Where rays enter and leave the box between two corners (d,); where they miss it, where they pass its middle."""
    tiny = torch.where(directions < 0, -1e-9, 1e-9)
    inverse = 1 / torch.where(directions.abs() < 1e-9, tiny, directions)
    first, second = (low - origins) * inverse, (high - origins) * inverse
    near = torch.minimum(first, second).amax(-1).clamp(min=0)
    far = torch.maximum(first, second).amin(-1)
    closest = (((low + high) / 2 - origins) * directions).sum(-1).clamp(min=0)
    return torch.where(near < far, near, closest), torch.where(near < far, far, closest)


def places(n: int, pixel_indices: Int[Tensor, "*b p"] | None, like: Tensor) -> Float[Tensor, "*#b #p n"]:
    """Where in each of a ray's n pieces, from 0 to 1, the field is asked: in the middle, or for training anywhere.

    at: the numbers of the rays. They fill their pieces as evenly as no random numbers would, always in the same way,
        so that a loss stays free of randomness.
    """
    if pixel_indices is None:
        return like.new_full((1, n), 0.5)
    i = torch.arange(n, device=like.device, dtype=widest_float(like.device))
    return ((0.5 + pixel_indices[..., None] / PLASTIC + i / PLASTIC**2) % 1).to(like)


def pieces(
    near: Float[Tensor, "*b p"], far: Float[Tensor, "*b p"], within: Float[Tensor, "*#b #p n"]
) -> tuple[Float[Tensor, "*b p n"], Float[Tensor, "*b p 1"]]:
    """Where the field is asked in each of n pieces of one length, and that length."""
    n = within.shape[-1]
    delta = ((far - near) / n)[..., None]
    return near[..., None] + (torch.arange(n, device=near.device) + within) * delta, delta


def inverse_pieces(
    near: Float[Tensor, "*b p"], far: Float[Tensor, "*b p"], within: Float[Tensor, "*#b #p n"]
) -> tuple[Float[Tensor, "*b p n"], Float[Tensor, "*b p n"]]:
    """The same for pieces that split one over the distance evenly: as an image shows them, all are as long."""
    n = within.shape[-1]
    first, last = 1 / near[..., None], 1 / far[..., None]
    edges = 1 / (first + (last - first) * torch.arange(n + 1, device=near.device) / n)
    share = (torch.arange(n, device=near.device) + within) / n
    return 1 / (first + (last - first) * share), edges.diff(dim=-1)


def composite(
    density: Float[Tensor, "*b n"],
    colour: Float[Tensor, "*b n c"],
    delta: Float[Tensor, "*b #n"],
    distance: Float[Tensor, "*b n"],
    far: Float[Tensor, "*b"],
    background: Float[Tensor, "c"],
) -> Rendered:
    """One ray's pieces as one colour, depth and opacity: the sums above. density in one over the unit of delta."""
    optical = density * delta
    passed = torch.cumsum(optical, -1)
    weight = torch.exp(optical - passed) - torch.exp(-passed)  # T_i - T_(i + 1)
    through = torch.exp(-passed[..., -1])
    seen = (weight[..., None] * colour).sum(-2) + through[..., None] * background
    return Rendered(seen, (weight * distance).sum(-1) + through * far, 1 - through)


@dataclass(frozen=True)
class VolumeRenderer:
    """The forward model (Eq. 12): cameras (B, M, 4, 4) -> images (B, M, 3, H, W), or (B, M, 3, n) of the pixels `at`.

    A field is a callable: points (B, P, 3) -> density (B, P), colours and features (B, P, C).

    low, high: corners of the box that holds the scene
    samples: pieces that a ray is split into inside of the box
    background: what a ray sees behind the box, in all colours alike; of features, nothing
    antialias: each pixel of an `image` is the mean of antialias x antialias rays; anywhere else it is the ray through
        the pixel's centre, since sampling and training need many images
    near: at 0, a ray's pieces are of one length; above, they begin so far from the camera at least, and are as long
        as an even split of one over the distance makes them: for scenes all around, whose box is large
    """

    low: tuple[float, float, float]
    high: tuple[float, float, float]
    height: int
    width: int
    samples: int
    background: float = 1.0
    antialias: int = 1
    near: float = 0.0

    def __call__(
        self, signal: Callable, params: Float[Tensor, "b m 4 4"], pixel_indices: Int[Tensor, "b m n"] | None = None
    ) -> Float[Tensor, "b m 3 *places"]:
        """Eq. 12, colours only."""
        seen = self.cast(signal, params, pixel_indices, channels=3).colour.transpose(-1, -2)
        return seen if pixel_indices is not None else seen.unflatten(-1, (self.height, self.width))

    def image(self, signal: Callable, cameras: Float[Tensor, "b m 4 4"]) -> Image:
        """Colours, depth and opacity of whole images."""
        shifts = [(i + 0.5) / self.antialias - 0.5 for i in range(self.antialias)]
        shots = [self.cast(signal, cameras, shift=(x, y), channels=3) for y in shifts for x in shifts]
        colour, depth, opacity = (sum(part) / len(shots) for part in zip(*shots, strict=True))
        parts = colour.transpose(-1, -2), depth, opacity
        return Image(*(x.unflatten(-1, (self.height, self.width)) for x in parts))

    def cast(
        self,
        signal: Callable,
        cameras: Float[Tensor, "b m 4 4"],
        pixel_indices: Int[Tensor, "b m n"] | None = None,
        coarser: int = 1,
        shift: tuple[float, float] = (0.0, 0.0),
        channels: int | None = None,
    ) -> Rendered:
        """All that the rays of M cameras see, or those of the pixels `at`.

        coarser: of an image with so many times fewer pixels along a side (a side of one pixel stays)
        shift: where the rays pass, in pixels to the right of and below the pixels' centres
        channels: how many of the field's are wanted, the first; colours are three
        """
        check_cameras(cameras)
        b, m = cameras.shape[:2]
        h, w = (max(1, n // coarser) for n in (self.height, self.width))
        uv = pixel_centres(h, w, cameras, shift)
        numbers = torch.arange(len(uv), device=uv.device).expand(b, m, -1) if pixel_indices is None else pixel_indices
        origins, directions = rays(cameras, uv[numbers])  # (B, M, 1, 3), (B, M, n, 3)
        low, high = (torch.tensor(corner, dtype=uv.dtype, device=uv.device) for corner in (self.low, self.high))
        near, far = clip(origins, directions, low, high)
        within = places(self.samples, numbers if getattr(signal, "training", False) else None, uv)
        if self.near:
            distance, delta = inverse_pieces(near.clamp(min=self.near), far.clamp(min=self.near), within)
        else:
            distance, delta = pieces(near, far, within)  # (B, M, n, S), (B, M, n, 1 or S)
        points = origins[..., None, :] + distance[..., None] * directions[..., None, :]  # (B, M, n, S, 3)
        density, colour = signal(points.reshape(b, -1, 3))
        shape = distance.shape
        density, colour = density.to(distance).view(shape), colour[..., :channels].to(distance).unflatten(1, shape[1:])
        background = torch.zeros_like(colour[0, 0, 0, 0])
        background[:3] = self.background
        return composite(density, colour, delta, distance, far, background)
