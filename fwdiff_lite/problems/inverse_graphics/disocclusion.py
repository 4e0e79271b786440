"""The hidden content of tabletop scenes in a view: the pixels that show it, and which category of a factor they show.

`disocclusion_mask` finds the pixels of a target view whose surface points no context view shows. To classify a hidden
factor in an image, `classify_nearest_template` compares the image with renders of every category of the factor.
"""

from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fwdiff_lite.checks import check_count, check_shape
from fwdiff_lite.problems.inverse_graphics.cameras import pixel_centres, project, rays
from fwdiff_lite.problems.inverse_graphics.ray_tracing import hit_record, occluder_distance
from fwdiff_lite.problems.inverse_graphics.tabletop import (
    FACTORS,
    Scenes,
    build_solids,
    check_render_arguments,
    render,
    resample_hidden_geometry,
)


def disocclusion_mask(
    scenes: Scenes,
    context_cameras: Float[Tensor, "b c 4 4"],
    target_cameras: Float[Tensor, "b m 4 4"],
    side: int = 64,
    context_mask: Bool[Tensor, "b c"] | None = None,
) -> Bool[Tensor, "b m {side} {side}"]:
    """Mask of the target views' pixels that show a surface point which no context camera sees.

    The point is outside of the context images, its surface faces away from the context cameras, or something occludes
    it. A pixel that shows only background is never in the mask.

    context_mask: which contexts exist; default: all

    The mask depends on the scenes' hidden content. The union of the masks of several `resample_hidden` scenes depends
    on the front view alone.
    """
    check_render_arguments(scenes, context_cameras, side)
    check_render_arguments(scenes, target_cameras, side)
    if context_mask is not None and (
        context_mask.shape != context_cameras.shape[:2] or context_mask.dtype != torch.bool
    ):
        given = f"{context_mask.dtype} of shape {tuple(context_mask.shape)}"
        raise ValueError(f"context_mask is {given}, wanted bool of shape {tuple(context_cameras.shape[:2])}")
    solids = build_solids(scenes)
    hits = hit_record(solids, *rays(target_cameras, pixel_centres(side, side, target_cameras)))
    point, normal = (v.flatten(1, 2)[:, None] for v in (hits.point, hits.normal))  # (B, 1, M P, 3)
    eye, _ = rays(context_cameras, context_cameras.new_zeros(1, 2))  # (B, C, 1, 3)
    uv, depth = project(context_cameras, point)  # (B, C, M P, 2), (B, C, M P)
    in_image = (depth > 0) & ((uv > 0) & (uv < 1)).all(-1)
    to_eye = eye - point
    unoccluded = occluder_distance(solids, point, normal, to_eye) > 1  # to_eye ends at the camera
    visible = in_image & unoccluded & ((normal * to_eye).sum(-1) > 0)
    if context_mask is not None:
        visible = visible & context_mask[..., None]
    disoccluded = (hits.distance < torch.inf) & ~visible.any(1).view_as(hits.distance)
    return disoccluded.view(*target_cameras.shape[:2], side, side)


def render_factor_templates(
    scenes: Scenes,
    cameras: Float[Tensor, "b 1 4 4"],
    factor: str,
    num_draws: int = 8,
    side: int = 64,
    supersampling: int = 2,
) -> tuple[Float[Tensor, "b a g 3 {side} {side}"], Bool[Tensor, "b {side} {side}"]]:
    """Renders of the scenes with every category of a factor, and the mask of the pixels that the category can change.

    Each of the A categories has G = num_draws templates. They differ in the other unknowns of the factor, since a
    sample may differ from the scene in them: a body's shape, position, size and azimuth, or a decal's height. The draws
    are the same in every call. The cameras should be at 180 degrees from the front, where both factors are visible.
    """
    if factor not in FACTORS:
        raise ValueError(f"unknown factor {factor!r}: choose one of {', '.join(FACTORS)}")
    check_render_arguments(scenes, cameras, side, supersampling)
    check_count(num_draws=num_draws)
    if cameras.shape[1] != 1:
        raise ValueError(f"got {cameras.shape[1]} cameras for each scene, wanted one: (B, 1, 4, 4)")
    factor_index, variations = list(FACTORS).index(factor), scenes.repeat(num_draws)
    resampled = resample_hidden_geometry(variations.to("cpu"), torch.Generator().manual_seed(0)).to(cameras.device)
    if factor == "decal":
        variations = replace(variations, decal_height=resampled.decal_height)
    else:
        variations = replace(resampled, decal_height=variations.decal_height)
    templates, repeated_cameras = [], cameras.repeat_interleave(num_draws, 0)
    # in chunks: the rays of all templates at once take 20 GB at 128 x 128 pixels
    chunks = torch.arange(len(repeated_cameras), device=repeated_cameras.device).split(64)
    for category in range(len(FACTORS[factor])):
        labels = variations.factor.clone()
        labels[:, factor_index] = category
        labelled = replace(variations, factor=labels)
        images = torch.cat([render(labelled[rows], repeated_cameras[rows], side, supersampling) for rows in chunks])
        templates.append(images.view(len(scenes), num_draws, 3, side, side))
    templates = torch.stack(templates, 1)
    return templates, (templates.amax((1, 2)) - templates.amin((1, 2)) > 0.1).any(1)


def classify_nearest_template(
    images: Float[Tensor, "b k 3 h w"], templates: Float[Tensor, "b a g 3 h w"], mask: Bool[Tensor, "b h w"]
) -> Int[Tensor, "b k"]:
    """The category of the template that is nearest to each of K images, by squared error inside the mask.

    ValueError if the images, templates and masks are not of the same scenes and pixels.
    """
    b, pixels = len(images), images.shape[-2:]
    if images.ndim != 5 or templates.ndim != 6 or templates.shape[:1] + templates.shape[-3:] != (b, *images.shape[-3:]):
        shapes = f"images {tuple(images.shape)} and templates {tuple(templates.shape)}"
        raise ValueError(f"got {shapes}, wanted (B, K, 3, H, W) and (B, A, G, 3, H, W)")
    check_shape("mask", mask, (b, *pixels), images=images)
    x, y = ((v * mask[:, None, None, None]).flatten(3) for v in (images[:, None], templates))  # (B, 1 | A, K | G, N)
    squared_error = x.square().sum(-1)[..., None] + y.square().sum(-1)[:, :, None] - 2 * x @ y.transpose(-1, -2)
    return squared_error.amin(-1).argmin(1)  # (B, A, K, G) -> (B, A, K) -> (B, K)
