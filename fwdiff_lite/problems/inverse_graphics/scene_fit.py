"""Fits one radiance field to one clip, which shows whether its cameras are right.

Epipolar lines are nearly the same for a focal length that is 20 % off. Views that the fit has not seen are not: with
wrong cameras, no scene explains all frames. The field is a grid of densities and colours in contracted space (Barron et
al. 2022), rendered by our own forward model (`VolumeRenderer`).

    points = matched_points(clip, match_frames(clip))  # they place the scene
    fits = compare_focal_lengths(clip, points)         # held-out PSNR with the stated focal length, and with others
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from fwdiff_lite import metrics
from fwdiff_lite.checks import check_count
from fwdiff_lite.datasets.posed_clips import Clip
from fwdiff_lite.datasets.scene_depth import MIN_POINTS, MatchedPoints, estimate_near_far
from fwdiff_lite.problems.inverse_graphics.pixelnerf import contract
from fwdiff_lite.problems.inverse_graphics.volume import VolumeRenderer

SIDE, SAMPLES_PER_RAY = 64, 64  # pixels along each side of a frame; segments of a ray
RESOLUTIONS = (24, 96)  # cells along each side of the field's grids, whose values are added
STEPS, VIEWS_PER_STEP, PIXELS_PER_VIEW, LEARNING_RATE = 700, 8, 64, 0.05
SMOOTHNESS = 1e-3  # weight of the squared differences of neighbouring cells
HELD_OUT = 4  # every fourth frame is held out
MAX_VIEWS = 48
# This part of the matched points lies in the unit ball, where cells are small; the others are the background. With a
# larger part, a far background takes the cells of the object that the camera goes around.
INNER_PART = 0.5
FOCAL_FACTORS = (1.0, 1.2, 1 / 1.2)
# dB: by so much, held-out views must be better with another focal length to be reported; fitted views must be better,
# too. Few held-out views alone may prefer a wrong one by some tenths of a dB.
CLEAR_GAIN = 0.3


class GridField(nn.Module):
    """A radiance field: points (1, P, 3) -> density (1, P) and colours (1, P, 3) in [-1, 1].

    The grids lie over the contracted space [-2, 2]^3; the inner half of it is the unit ball, not contracted.
    """

    def __init__(self, resolutions: tuple[int, ...] = RESOLUTIONS):
        super().__init__()
        self.grids = nn.ParameterList(torch.zeros(1, 4, n, n, n) for n in resolutions)

    def forward(self, points: Float[Tensor, "1 p 3"]) -> tuple[Float[Tensor, "1 p"], Float[Tensor, "1 p 3"]]:
        """Density and colours at some points."""
        contracted, stretch = contract(points, 1.0)
        grid_points = contracted[:, None, None] / 2
        values = sum(
            nn.functional.grid_sample(grid, grid_points, align_corners=True, padding_mode="border")
            for grid in self.grids
        )[:, :, 0, 0]
        # a cell far away is large: its density counts by the length of the contracted ray
        return nn.functional.softplus(values[:, 0] - 1) * 4 / stretch, values[:, 1:].tanh().movedim(1, -1)

    def smoothness_penalty(self) -> Float[Tensor, ""]:
        """The mean squared difference of neighbouring cells, over all grids and directions."""
        return sum(grid.diff(dim=axis).square().mean() for grid in self.grids for axis in (2, 3, 4))


class SceneFit(NamedTuple):
    """PSNR in dB, in [0, 1], of the training views and of the held-out views; and images of the latter.

    predicted, truth: (n, 3, h, w) in [-1, 1]
    """

    psnr_fitted: float
    psnr_held_out: float
    predicted: Float[Tensor, "n 3 h w"]
    truth: Float[Tensor, "n 3 h w"]


def fit_scene(clip: Clip, points: MatchedPoints, steps: int = STEPS, side: int = SIDE, seed: int = 0) -> SceneFit:
    """Fits a field to three of four frames of a clip, and renders the others.

    points: matched points of the clip, which place its scene (`load_scene`)
    ValueError if the clip has too few frames, or too few matches to place its scene.
    """
    check_count(steps=steps, side=side)
    images, cameras, near, far = load_scene(clip, points, side)
    held_out = torch.arange(len(images)) % HELD_OUT == HELD_OUT // 2
    renderer = VolumeRenderer((-far,) * 3, (far,) * 3, side, side, SAMPLES_PER_RAY, near=near, background=0.0)
    generator, field = Generator().manual_seed(seed), GridField()
    optimiser = torch.optim.Adam(field.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    training_views = (~held_out).nonzero()[:, 0]
    for _ in range(steps):
        views = training_views[torch.randint(len(training_views), (VIEWS_PER_STEP,), generator=generator)]
        pixels = torch.randint(side**2, (1, VIEWS_PER_STEP, PIXELS_PER_VIEW), generator=generator)
        rendered = renderer(field, cameras[None, views], pixels)
        truth = images[None, views].flatten(3).gather(3, pixels[:, :, None].expand(-1, -1, 3, -1))
        loss = (rendered - truth).square().mean() + SMOOTHNESS * field.smoothness_penalty()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    field.eval()
    with torch.no_grad():
        rendered = torch.cat([renderer(field, camera[None, None])[0] for camera in cameras])
    psnr = [metrics.psnr(rendered[rows].clamp(-1, 1), images[rows], 2) for rows in (~held_out, held_out)]
    return SceneFit(*psnr, rendered[held_out], images[held_out])


def load_scene(
    clip: Clip, points: MatchedPoints, side: int
) -> tuple[Float[Tensor, "n 3 h w"], Float[Tensor, "n 4 4"], float, float]:
    """Frames, cameras, near and far plane of a clip. The unit ball of the scaled world holds INNER_PART of the points.

    ValueError as in `fit_scene`.
    """
    frames = clip.has_image.nonzero()[:, 0]
    if len(frames) < 2 * HELD_OUT:
        raise ValueError(f"{clip.name} has {len(frames)} frames, wanted {2 * HELD_OUT} or more to fit a scene")
    frames = frames[torch.linspace(0, len(frames) - 1, min(MAX_VIEWS, len(frames))).round().long()].tolist()
    planes = estimate_near_far([points])
    if planes is None or len(points.points) < MIN_POINTS:
        raise ValueError(
            f"{clip.name} has {len(points.points)} matched points, wanted {MIN_POINTS} or more to place its scene"
        )
    near, far = planes
    images, cameras = clip.load_frames(frames, side)
    in_world = points.points @ clip.poses[frames[0], :3, :3].T + clip.poses[frames[0], :3, 3]  # of load_frames
    centre = in_world.median(0).values
    radius = (in_world - centre).norm(dim=1).quantile(INNER_PART)
    to_clip = torch.eye(4).double()
    to_clip[:3, :3], to_clip[:3, 3] = radius * torch.eye(3).double(), centre
    cameras = cameras.double() @ to_clip
    cameras[:, :3] /= radius  # depths in the new unit; (u d, v d, d) keep their direction
    return images, cameras.float(), float(near / radius), float(far / radius) + 2.0


def compare_focal_lengths(
    clip: Clip, points: MatchedPoints, steps: int = STEPS, side: int = SIDE
) -> dict[float, SceneFit]:
    """Fits with the stated focal lengths and with others, by the factor; every scene is placed by the same points."""
    fits = {}
    for factor in FOCAL_FACTORS:
        intrinsics = clip.intrinsics.clone()
        intrinsics[:, [0, 1], [0, 1]] *= factor
        fits[factor] = fit_scene(replace(clip, intrinsics=intrinsics), points, steps, side)
    return fits


def focal_length_text(clip: Clip, fits: dict[float, SceneFit]) -> str:
    """The result of `compare_focal_lengths` in words."""
    stated, best = fits[1.0].psnr_held_out, max(fits, key=lambda factor: fits[factor].psnr_held_out)
    text = f"{clip.name}: held-out views are rebuilt at {stated:.1f} dB with the stated focal length"
    gain = fits[best].psnr_held_out - stated
    if gain > CLEAR_GAIN and fits[best].psnr_fitted > fits[1.0].psnr_fitted:
        return f"{text}, and {gain:.1f} dB better with {best:.2f} times as long a one: check the focal length"
    others = ", ".join(f"{fits[f].psnr_held_out:.1f} dB at {f:.2f} times" for f in fits if f != 1.0)
    return f"{text} ({others})"
