"""A picture that shows whether the cameras of a clip are right: epipolar lines of points of one frame in another."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from fwdiff_lite.datasets.epipolar import epipolar_lines, fundamental_matrix, has_translation, pixel_intrinsics
from fwdiff_lite.datasets.pose_check import FrameMatches
from fwdiff_lite.datasets.posed_clips import Clip

NUM_FRAMES, NUM_POINTS = 8, 8  # thumbnails; points whose lines are drawn
COLORS = plt.get_cmap("tab10").colors


def contact_sheet(clip: Clip, frame_matches: FrameMatches) -> Figure:
    """A figure of some frames, and of the two frames that share the most matches, with epipolar lines.

    Each point of the left frame, matched by its appearance, must lie on the line of its colour in the right frame. The
    line is where the stated cameras say that the point is. A match may be false, so one point in ten may be off. A
    camera that only rotates has no such lines: the figure then shows the matches alone, and its title says so.
    ValueError if no two frames share matches.
    """
    best = select_pair(clip, frame_matches)
    if best is None:
        raise ValueError(f"{clip.name} has no two frames that share matches: there are no epipolar lines to draw")
    (i, j), pair_matches = frame_matches.pairs[best].tolist(), frame_matches.matches[best]
    num_matches = len(pair_matches.points1)
    chosen = torch.linspace(0, num_matches - 1, min(NUM_POINTS, num_matches)).round().long()
    points1, points2 = pair_matches.points1[chosen], pair_matches.points2[chosen]
    lines = torch.zeros(0, 3).double()
    if has_translation(clip.poses[[i, j]]):
        intrinsics = pixel_intrinsics(clip.intrinsics[[i, j]], pair_matches.sizes)
        fundamental = fundamental_matrix(intrinsics, clip.poses[[i, j]])
        lines = epipolar_lines(fundamental, points1)

    fig = plt.figure(figsize=(10, 7), layout="constrained")
    top, bottom = fig.subfigures(2, 1, height_ratios=[1, 2.6])
    shown = clip.has_image.nonzero()[:, 0]
    shown = shown[torch.linspace(0, len(shown) - 1, min(NUM_FRAMES, len(shown))).round().long()].tolist()
    for ax, index in zip(np.atleast_1d(top.subplots(1, len(shown))), shown, strict=True):
        ax.imshow(clip.read_frame(index))
        ax.set_title(f"frame {index}", fontsize=8)
        ax.axis("off")
    axes = bottom.subplots(1, 2)
    right_title = "their epipolar lines, and the matches" if len(lines) else "matches (the camera only rotates)"
    titles = (f"frame {i}: points", f"frame {j}: {right_title}")
    for ax, index, (width, height), title in zip(axes, (i, j), pair_matches.sizes, titles, strict=True):
        ax.imshow(clip.read_frame(index), extent=(0, width, height, 0))
        ax.set(xlim=(0, width), ylim=(height, 0), title=title)
        ax.axis("off")
    for ax, points in zip(axes, (points1, points2), strict=True):
        for point, color in zip(points, COLORS, strict=False):
            ax.plot(*point, "o", color=color, mec="white", ms=8)
    draw_lines(axes[1], lines, pair_matches.sizes[1][0])
    return fig


def select_pair(clip: Clip, frame_matches: FrameMatches) -> int | None:
    """The pair that shares the most matches, and whose cameras differ in place if any two do; None without matches."""
    pairs, matches = frame_matches
    counts = [len(pair_matches.points1) for pair_matches in matches]
    with_matches = [p for p in range(len(pairs)) if counts[p]]
    with_lines = [p for p in with_matches if has_translation(clip.poses[pairs[p]])]
    return max(with_lines or with_matches, key=counts.__getitem__, default=None)


def draw_lines(ax: Axes, lines: Float[Tensor, "k 3"], width: int) -> None:
    """Draws lines a x + b y + c = 0 over a frame of that width, behind its points."""
    x = np.linspace(0, width, 2)
    for (a, b, c), color in zip(lines.tolist(), COLORS, strict=False):
        if abs(b) > abs(a) * 1e-6:
            ax.plot(x, -(a * x + c) / b, color=color, lw=1.3, zorder=1.5)
        else:
            ax.axvline(-c / a, color=color, lw=1.3, zorder=1.5)
