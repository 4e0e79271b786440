"""Do two sampled views show the same scene? One measure of consistency, for samplers with and without a 3-D scene.

The measure is the PSNR between the colours of the same surface points in two sampled views, over points that the
context does not see but whose position the context determines.

The context does not determine where a body hidden behind the screen stands. But it determines where the back sides of
the box and the screen are, and the table behind them; only their colour is unknown, because of a decal or a shadow. So
the ray tracer finds the pixels of two views that show the same such point, and no geometry of a sample is needed.
Colours do not depend on the viewing direction. The measure does not test whether the colours are right: blurred views
are consistent, too.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import max_pool2d

from fwdiff_lite import metrics
from fwdiff_lite.checks import check_shape, format_shape
from fwdiff_lite.problems.inverse_graphics import disocclusion, ray_tracing, tabletop
from fwdiff_lite.problems.inverse_graphics.bilinear import bilinear_sample_uv
from fwdiff_lite.problems.inverse_graphics.cameras import pixel_centres, project, rays

POINT_TOLERANCE = 1e-4  # maximal distance, in the table's radii, of two traced points that count as the same


class CovisiblePoints(NamedTuple):
    """The surface points in the pixels of a first camera's image, as a second camera sees them.

    uv:   (B, P, 2) the points' image coordinates (u, v) in the second camera
    mask: (B, H, W) True where both cameras see the point
    """

    uv: Float[Tensor, "b p 2"]
    mask: Bool[Tensor, "b h w"]


def static_points(
    scene_draws: list[tabletop.Scenes], cameras: Float[Tensor, "b 1 4 4"], side: int
) -> tuple[Bool[Tensor, "b {side} {side}"], Float[Tensor, "b p 3"]]:
    """A mask of the pixels that show static points, and the points of all pixels.

    A pixel is in the mask if it and its eight neighbours show one solid, each at the same distance in all draws.

    scene_draws: posterior draws of the same B scenes, which differ only in what their front view hides
    """
    if not scene_draws:
        raise ValueError("got no draw of the scenes, wanted at least one")
    for scenes in scene_draws:
        tabletop.check_render_arguments(scenes, cameras, side)
    origins, directions = rays(cameras, pixel_centres(side, side, cameras))
    reference, *others = (
        ray_tracing.hit_record(tabletop.build_solids(scenes), origins, directions) for scenes in scene_draws
    )
    same = reference.distance < torch.inf
    for other in others:
        same = (
            same
            & ((other.distance - reference.distance).abs() < POINT_TOLERANCE)
            & (other.solid_index == reference.solid_index)
        )
    solid_index, same = (x.view(-1, 1, side, side).float() for x in (reference.solid_index, same))
    # max pooling over 3 x 3 pixels; a minimum is the negative maximum of the negative
    maximum, negative_minimum, negative_same = (max_pool2d(x, 3, 1, 1) for x in (solid_index, -solid_index, -same))
    return ((maximum == -negative_minimum) & (negative_same == -1))[:, 0], reference.point[:, 0]


def covisible_points(
    scene_draws: list[tabletop.Scenes],
    first_camera: Float[Tensor, "b 1 4 4"],
    second_camera: Float[Tensor, "b 1 4 4"],
    side: int = 64,
) -> CovisiblePoints:
    """The static points that both cameras see in all draws of the scenes.

    Pixels next to an edge are excluded, since an edge pixel shows two surfaces.

    scene_draws: as of static_points
    """
    mask, points = static_points(scene_draws, first_camera, side)
    for scenes in scene_draws:
        mask = mask & ~disocclusion.disocclusion_mask(scenes, second_camera, first_camera, side)[:, 0]
    uv, depth = project(second_camera[:, 0], points)
    second_mask, _ = static_points(scene_draws, second_camera, side)
    inside = (depth > 0) & ((uv - 0.5).abs() <= 0.5).all(-1)
    # True where all four pixels that the interpolation takes are in the second camera's mask
    static = bilinear_sample_uv(second_mask[:, None].to(uv), torch.where(inside[..., None], uv, 0.5))[..., 0] > 0.999
    return CovisiblePoints(uv, mask & (inside & static).view_as(mask))


def warp(images: Float[Tensor, "b k 3 h w"], uv: Float[Tensor, "b p 2"]) -> Float[Tensor, "b k 3 h w"]:
    """Warps K images of the second camera to the first: their colours at the image coordinates `uv`.

    ValueError if the images are not (B, K, 3, H, W), or `uv` is not (B, H W, 2).
    """
    if images.ndim != 5:
        raise ValueError(f"images have shape {format_shape(images)}, wanted (B, K, 3, H, W)")
    b, (h, w) = len(images), images.shape[-2:]
    check_shape("uv", uv, (b, h * w, 2), images=images)
    colours = bilinear_sample_uv(images.flatten(1, 2), uv)  # (B, P, K 3)
    return colours.transpose(1, 2).reshape(images.shape)


def inconsistency(
    first_views: Float[Tensor, "b k 3 h w"], second_views: Float[Tensor, "b k 3 h w"], points: CovisiblePoints
) -> Float[Tensor, "b"]:
    """Squared difference of the colours of the same points in two views of K samples.

    Scenes are weighted by their number of points, so the mean over scenes is the mean over all points of all scenes.
    ValueError if no scene has such a point.
    """
    return metrics.squared_error(warp(second_views, points.uv), first_views, points.mask[:, None, None])


def psnr_interval(error: Float[Tensor, "b"], generator: torch.Generator) -> metrics.Interval:
    """The PSNR, in dB, of images in [-1, 1] with these mean squared errors of B scenes, with its bootstrap interval."""
    return metrics.bootstrap(lambda mse: 10 * (4 / mse.mean()).log10(), error, generator=generator)
