"""The figure of the distance from the truth against the angle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from fwdiff_lite import plotting
from fwdiff_lite.experiments.inverse_graphics.held_out import NOVEL_ANGLE_RATIO


class Line(NamedTuple):
    """What a line shows: its label, the measures of metrics.json, the name of one of them, and how it is drawn."""

    label: str
    numbers: Mapping[str, float]
    measure: str
    color: str
    style: str = "o-"


def distance_lines(
    samples: Mapping[str, float], view_space: Mapping[str, float], ceiling: Mapping[str, float]
) -> list[Line]:
    """The lines of the figure, from the measures of our samples, of view-space diffusion and of the renderer.

    samples: with those of `angles.add_baseline`, which hold the deterministic prediction's distance
    """
    return [
        Line("deterministic prediction", samples, "deterministic_over_true", plotting.BASELINE),
        Line("view-space diffusion", view_space, "energy_over_true", plotting.OTHER),
        Line("our samples", samples, "energy_over_true", plotting.SAMPLES),
        Line("true draws, through maps of 64 x 64", ceiling, "ceiling_maps", plotting.TRUE, "--"),
        Line("true draws, through 2 x 2 rays a pixel", ceiling, "ceiling_rays", plotting.TRUE, ":"),
    ]


def plot_distances(lines: Sequence[Line], angles: Sequence[int]) -> Figure:
    """The energy score over that of true draws against the angle of a view, with intervals over scenes.

    Left: targets; right: novel views. The axis is logarithmic and the same in both panels. Line 1: true draws.
    """
    fig, axes = plt.subplots(1, 2, figsize=(8.5, 3.6), sharey=True, layout="constrained")
    panels = (("", "target", 1.0), ("novel_", "novel view", NOVEL_ANGLE_RATIO))
    ends = []
    for ax, (prefix, title, ratio) in zip(axes, panels, strict=True):
        x = ratio * np.array(angles)
        ax.axhline(1, color=plotting.MUTED, lw=1, zorder=0, label="true draws")
        for i, line in enumerate(lines):
            bounds = [
                [line.numbers[f"{prefix}{line.measure}_{angle}{end}"] for angle in angles]
                for end in ("", "_low", "_high")
            ]
            value, low, high = map(np.array, bounds)
            shift = ratio * 1.5 * (i - (len(lines) - 1) / 2)  # so that the intervals of two lines do not overlap
            errors = np.clip((value - low, high - value), 0, None)
            ax.errorbar(x + shift, value, errors, fmt=line.style, color=line.color, label=line.label, capsize=2, lw=1.2)
            ends += [*low, *high]
        ax.set(title=title, xlabel="azimuth from the context camera, degrees", xticks=x)
        ax.set_xticks(x, [f"{angle:g}" for angle in x])
    low, high = min(1.0, *ends), max(1.0, *ends)
    axes[0].set(yscale="log", ylim=(low / 1.04, high * 1.04), ylabel="energy score / that of true draws (log.)")
    ticks = [t for t in (0.8, 0.9, 1, 1.1, 1.2, 1.3, 1.5, 1.75, 2, 2.5, 3, 4, 5, 7, 10) if low / 1.04 < t < high * 1.04]
    axes[0].yaxis.set_minor_locator(plt.NullLocator())
    axes[0].set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8)
    return fig
