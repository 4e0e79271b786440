"""A picture that shows whether the cameras of a clip are right: epipolar lines of points of one frame in another."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from fwdiff_lite.datasets.pose_check import double, match_frames
from fwdiff_lite.datasets.posed_clips import Clip

NUM_FRAMES, NUM_POINTS = 8, 8  # thumbnails; points whose lines are drawn
COLORS = plt.get_cmap("tab10").colors


def contact_sheet(clip: Clip) -> Figure:
    """A figure of some frames, and of the two frames that share the most matches, with epipolar lines.

    Each point of the left frame, matched by its appearance, must lie on the line of its colour in the right frame. The
    line is where the stated cameras say that the point is. A match may be false, so one point in ten may be off.
    ValueError if no two frames share matches.
    """
    pairs, matches = match_frames(clip)
    best = max(range(len(pairs)), key=lambda p: len(matches[p].points1), default=None)
    if best is None or not len(matches[best].points1):
        raise ValueError(f"{clip.name} has no two frames that share matches: there are no epipolar lines to draw")
    (i, j), pair_matches = pairs[best].tolist(), matches[best]
    num_matches = len(pair_matches.points1)
    chosen = torch.linspace(0, num_matches - 1, min(NUM_POINTS, num_matches)).round().long()
    points1, points2 = pair_matches.points1[chosen], pair_matches.points2[chosen]
    lines = epipolar_lines(clip, i, j, pair_matches.sizes, points1)

    fig = plt.figure(figsize=(10, 7), layout="constrained")
    top, bottom = fig.subfigures(2, 1, height_ratios=[1, 2.6])
    shown = clip.has_image.nonzero()[:, 0]
    shown = shown[torch.linspace(0, len(shown) - 1, min(NUM_FRAMES, len(shown))).round().long()].tolist()
    for ax, index in zip(np.atleast_1d(top.subplots(1, len(shown))), shown, strict=True):
        ax.imshow(clip.read_frame(index))
        ax.set_title(f"frame {index}", fontsize=8)
        ax.axis("off")
    axes = bottom.subplots(1, 2)
    titles = (f"frame {i}: points", f"frame {j}: their epipolar lines, and the matches")
    for ax, index, (width, height), title in zip(axes, (i, j), pair_matches.sizes, titles, strict=True):
        ax.imshow(clip.read_frame(index), extent=(0, width, height, 0))
        ax.set(xlim=(0, width), ylim=(height, 0), title=title)
        ax.axis("off")
    for point1, point2, (a, b, c), color in zip(points1, points2, lines.tolist(), COLORS, strict=False):
        axes[0].plot(*point1, "o", color=color, mec="white", ms=8)
        x = np.linspace(0, pair_matches.sizes[1][0], 2)
        if abs(b) > abs(a) * 1e-6:
            axes[1].plot(x, -(a * x + c) / b, color=color, lw=1.3)
        else:
            axes[1].axvline(-c / a, color=color, lw=1.3)
        axes[1].plot(*point2, "o", color=color, mec="white", ms=8)
    return fig


def epipolar_lines(
    clip: Clip, i: int, j: int, sizes: tuple[tuple[int, int], tuple[int, int]], points: Float[Tensor, "k 2"]
) -> Float[Tensor, "k 3"]:
    """The lines a x + b y + c = 0 in frame j of points (x, y) in frame i, by the stated cameras."""
    scale = double([[*size, 1.0] for size in sizes]).diag_embed()
    intrinsics = scale @ clip.intrinsics[[i, j]]
    relative = clip.poses[j] @ torch.linalg.inv(clip.poses[i])
    homogeneous = torch.cat([points, torch.ones_like(points[:, :1])], 1)
    # two points of each line: the centre of camera i, and the point at infinity of the ray
    rays = homogeneous @ torch.linalg.inv(intrinsics[0]).T @ relative[:3, :3].T @ intrinsics[1].T
    epipole = intrinsics[1] @ relative[:3, 3]
    return torch.linalg.cross(epipole.expand_as(rays), rays)
