"""The test set of tabletop scenes: held-out scenes with their views, and true draws of what the context hides."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fwdiff_lite.observations import Observations
from fwdiff_lite.problems.inverse_graphics import disocclusion, tabletop

TARGET_ANGLES = (60, 120, 180)  # azimuth of the target cameras, in degrees around the table from the context camera
NOVEL_ANGLE_RATIO = 0.75  # azimuth of the novel camera over that of the target camera
COUNT, K = 128, 16  # scenes of the test set; posterior draws of each
MAX_COUNT = 2 * COUNT  # scenes of the larger test set, which begins with those of the test set
SUPERSAMPLING = 2  # a pixel of the images is the mean of SUPERSAMPLING x SUPERSAMPLING rays
MASK_DRAWS = 8  # posterior draws that contribute to a disocclusion mask


@dataclass(frozen=True)
class TestSet:
    """c held-out scenes. For each of D angles there are V = 2 views: the target, the novel view.

    scenes:  the true scenes; context: (c, 1) observations from the front
    cameras: (c, D, V, 4, 4)
    truth:   (c, D, V, 3, H, W) the views of the true scenes
    posterior_draws:   (c, K, D, V, 3, H, W) the views of K exact draws from the posterior given the context
    disocclusion_mask: (c, D, V, H, W) pixels that show, or could show, a point that the context camera does not see
    drawn_scenes: the c K scenes of the draws, those of one context in a row
    angles: azimuths of the D target cameras, in degrees
    supersampling: a pixel of all images is the mean of supersampling x supersampling rays
    """

    scenes: tabletop.Scenes
    context: Observations
    cameras: Float[Tensor, "c d v 4 4"]
    truth: Float[Tensor, "c d v 3 h w"]
    posterior_draws: Float[Tensor, "c k d v 3 h w"]
    disocclusion_mask: Bool[Tensor, "c d v h w"]
    drawn_scenes: tabletop.Scenes
    angles: tuple[int, ...] = TARGET_ANGLES
    supersampling: int = SUPERSAMPLING

    @cached_property
    def factor_templates(self) -> dict[str, tuple[Tensor, Tensor]]:
        """For each hidden factor, the templates and the mask of the views from behind (180 degrees).

        See `disocclusion.render_factor_templates`. All samplers are compared with the same ones.
        """
        camera, side = self.cameras[:, self.angles.index(180), :1], self.truth.shape[-1]
        return {
            name: disocclusion.render_factor_templates(
                self.scenes, camera, name, side=side, supersampling=self.supersampling
            )
            for name in tabletop.FACTORS
        }

    def __getitem__(self, rows: slice) -> TestSet:
        """Some of the scenes."""
        k = self.posterior_draws.shape[1]
        draw_rows = torch.arange(len(self.drawn_scenes), device=self.truth.device).view(-1, k)[rows].flatten()
        parts = (self.scenes, self.context, self.cameras, self.truth, self.posterior_draws, self.disocclusion_mask)
        rows_of_parts = (part[rows] for part in parts)
        return TestSet(*rows_of_parts, self.drawn_scenes[draw_rows], self.angles, self.supersampling)


def held_out_scenes(seed: int = 2026) -> tuple[tabletop.Scenes, Float[Tensor, "c 1 4 4"], torch.Generator]:
    """All COUNT held-out scenes, a front camera of each, and the generator for all later draws of the test set."""
    generator = torch.Generator().manual_seed(seed)
    scenes = tabletop.sample_scenes(COUNT, generator)
    return scenes, tabletop.sample_front_cameras(scenes, generator), generator


def make_test_set(
    count: int = COUNT,
    k: int = K,
    seed: int = 2026,
    side: int = 64,
    device: str | torch.device = "cpu",
    supersampling: int = SUPERSAMPLING,
    angles: tuple[int, ...] = TARGET_ANGLES,
    rows: slice = slice(None),
) -> TestSet:
    """The first `count` held-out scenes with k posterior draws of each, or those rows of them.

    The first COUNT scenes are drawn with `seed`, the next COUNT with seed + 1. Neither angles nor supersampling nor
    rows change a random number. ValueError if count is above MAX_COUNT, or if there are no such rows.
    """
    if not 1 <= count <= MAX_COUNT:
        raise ValueError(f"the test set has {MAX_COUNT} scenes, got count = {count}")
    indices, blocks = torch.arange(count)[rows], []
    if not len(indices):
        raise ValueError(f"no row of {rows} is one of {count} scenes: make at most {count} parts")
    for block, first in enumerate(range(0, count, COUNT)):
        chosen = indices[(indices >= first) & (indices < first + COUNT)] - first
        if len(chosen):
            options = (seed + block, min(COUNT, count - first), k, side, supersampling, angles)
            blocks.append(_make_block(*options, chosen.to(device)))
    return blocks[0] if len(blocks) == 1 else _cat(blocks)


def _make_block(
    seed: int, count: int, k: int, side: int, supersampling: int, angles: tuple[int, ...], rows: Tensor
) -> TestSet:
    """The scenes `rows` of the first `count` scenes of a seed, on the device of the rows."""
    scenes, context_cameras, generator = held_out_scenes(seed)
    scenes, context_cameras = scenes[:count].to(rows.device), context_cameras[:count].to(rows.device)
    drawn_rows = (rows[:, None] * k + torch.arange(k, device=rows.device)).flatten()
    drawn_scenes = tabletop.resample_hidden(scenes.repeat(k), generator)[drawn_rows]
    masked_scenes = [tabletop.resample_hidden(scenes, generator)[rows] for _ in range(MASK_DRAWS)]
    scenes, context_cameras = scenes[rows], context_cameras[rows]
    cameras = torch.stack(
        [
            torch.cat([tabletop.rotate_about_z(context_cameras, angle * ratio) for ratio in (1, NOVEL_ANGLE_RATIO)], 1)
            for angle in angles
        ],
        1,
    )
    flat_cameras = cameras.flatten(1, 2)  # (c, D V, 4, 4)
    disocclusion_mask = torch.zeros((*flat_cameras.shape[:2], side, side), dtype=torch.bool, device=rows.device)
    for resampled in masked_scenes:
        disocclusion_mask |= disocclusion.disocclusion_mask(resampled, context_cameras, flat_cameras, side)
    return TestSet(
        scenes,
        Observations(render_views_of(scenes, context_cameras, side, supersampling), context_cameras),
        cameras,
        render_views_of(scenes, flat_cameras, side, supersampling).unflatten(1, cameras.shape[1:3]),
        render_draws(drawn_scenes, cameras, side, supersampling),
        disocclusion_mask.unflatten(1, cameras.shape[1:3]),
        drawn_scenes,
        angles,
        supersampling,
    )


def render_draws(
    drawn_scenes: tabletop.Scenes, cameras: Float[Tensor, "c d v 4 4"], side: int, supersampling: int
) -> Float[Tensor, "c k d v 3 {side} {side}"]:
    """The views of c K scenes, those of one context in a row, by the context's cameras."""
    k = len(drawn_scenes) // len(cameras)
    images = render_views_of(drawn_scenes, cameras.flatten(1, 2).repeat_interleave(k, 0), side, supersampling)
    return images.unflatten(0, (-1, k)).unflatten(2, cameras.shape[1:3])


def render_views_of(
    scenes: tabletop.Scenes, cameras: Float[Tensor, "c m 4 4"], side: int, supersampling: int
) -> Float[Tensor, "c m 3 {side} {side}"]:
    """The same as `tabletop.render`, with a few scenes at a time: the rays of all of them may not fit in memory."""
    chunk = max(1, 384 // (cameras.shape[1] * supersampling**2))
    chunks = torch.arange(len(cameras), device=cameras.device).split(chunk)
    return torch.cat([tabletop.render(scenes[rows], cameras[rows], side, supersampling) for rows in chunks])


def _cat(blocks: list[TestSet]) -> TestSet:
    """The scenes of several test sets."""

    def joined(name: str) -> Any:
        first, *_ = parts = [getattr(block, name) for block in blocks]
        if isinstance(first, Tensor):
            return torch.cat(parts)
        values = ([getattr(part, field.name) for part in parts] for field in fields(first))
        return type(first)(*(torch.cat(value) for value in values))

    shared = ("angles", "supersampling")
    return replace(blocks[0], **{x.name: joined(x.name) for x in fields(TestSet) if x.name not in shared})
