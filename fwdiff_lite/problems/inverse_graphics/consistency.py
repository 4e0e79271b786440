"""Do pictures by two cameras show one scene? One measure, for samplers with a scene inside and for those without.

In one sentence: the PSNR between what two sampled views show of the same points, on surfaces that the context does not
see but whose place it determines.

Where a body hides behind a screen, nobody knows where a sample has put it. But the far sides of box and screen and the
table behind them stand where they stand, whatever the context hides: only their colour is open, a decal's or a
shadow's. So the tracer says which pixels of two views show the same such point, and no geometry of a sample is needed.
No colour depends on the side it is seen from. Nor does the measure ask whether the colours are right; a blur is
consistent, too.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import max_pool2d

from fwdiff_lite import metrics
from fwdiff_lite.problems.inverse_graphics import tabletop
from fwdiff_lite.problems.inverse_graphics.cameras import pixel_centres, project, rays
from fwdiff_lite.problems.inverse_graphics.pixelnerf import sample_map

SAME = 1e-4  # how far apart, in the table's radii, two traced points may be that are the same


class Shared(NamedTuple):
    """Where the second camera shows (u, v) the points that the first camera's pixels show, and whether it does."""

    uv: Float[Tensor, "b p 2"]
    mask: Bool[Tensor, "b h w"]


def settled(
    scenes: list[tabletop.Scenes], cameras: Float[Tensor, "b 1 4 4"], side: int
) -> tuple[Bool[Tensor, "b {side} {side}"], Float[Tensor, "b p 3"]]:
    """Which pixels show, with all pixels around them, one solid at one place in all of these scenes; and the points."""
    start, away = rays(cameras, pixel_centres(side, side, cameras))
    first, *others = (tabletop.surface(tabletop.solids(some), start, away) for some in scenes)
    same = first.depth < torch.inf
    for other in others:
        same = same & ((other.depth - first.depth).abs() < SAME) & (other.which == first.which)
    which, same = (x.view(-1, 1, side, side).float() for x in (first.which, same))
    around = [max_pool2d(x, 3, 1, 1) for x in (which, -which, -same)]
    return ((around[0] == -around[1]) & (around[2] == -1))[:, 0], first.point[:, 0]


def shared(
    scenes: list[tabletop.Scenes], first: Float[Tensor, "b 1 4 4"], second: Float[Tensor, "b 1 4 4"], side: int = 64
) -> Shared:
    """The points that both cameras see and that stand at one place in all of these scenes, whose fronts are alike.

    Away from edges, where a pixel is of two surfaces.
    """
    mask, points = settled(scenes, first, side)
    for some in scenes:
        mask = mask & ~tabletop.unseen(some, second, first, side)[:, 0]
    uv, ahead = project(second[:, 0], points)
    there, _ = settled(scenes, second, side)
    inside = (ahead > 0) & ((uv - 0.5).abs() <= 0.5).all(-1)
    whole = sample_map(there[:, None].to(uv), torch.where(inside[..., None], uv, 0.5))[..., 0] > 0.999
    return Shared(uv, mask & (inside & whole).view_as(mask))


def carried(pictures: Float[Tensor, "b k 3 h w"], uv: Float[Tensor, "b p 2"]) -> Float[Tensor, "b k 3 h w"]:
    """What K pictures by the second camera show at the places uv, as pictures by the first."""
    found = sample_map(pictures.flatten(1, 2), uv)  # (B, P, K 3)
    return found.transpose(1, 2).reshape(pictures.shape)


def inconsistency(
    first: Float[Tensor, "b k 3 h w"], second: Float[Tensor, "b k 3 h w"], points: Shared
) -> Float[Tensor, "b"]:
    """Squared difference of what K samples' two views show of the same points; its mean over scenes is the pooled one.

    ValueError where no scene has such a point.
    """
    return metrics.squared_error(carried(second, points.uv), first, points.mask[:, None, None])


def decibels(error: Float[Tensor, "b"], generator: torch.Generator) -> metrics.Interval:
    """The PSNR of pictures in [-1, 1] with this mean squared error, and its interval over scenes."""
    return metrics.bootstrap(lambda e: 10 * (4 / e.mean()).log10(), error, generator=generator)
