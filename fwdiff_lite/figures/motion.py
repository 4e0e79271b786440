"""Figures and tables of 03_motion_warping.

Frames are (..., 3, H, W) in [-1, 1]. Displacements are (..., 2, H, W) in pixels, x to the right and y down. A
displacement is drawn in colours, whose hue is the direction, and with arrows, which show the direction without colours.
"""

import html
import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from fwdiff_lite import plotting

FULL_COLOUR = 5.0  # pixels: a displacement of this length has the full colour
SAMPLER_NAMES = ("DDIM", "ancestral")  # by eta
SAMPLER_COLOURS = (plotting.DDIM, plotting.ANCESTRAL)


def to_rgb(frames: Float[Tensor, "*b 3 h w"]) -> Float[Tensor, "*b h w 3"]:
    """Frames as images in [0, 1]."""
    return torch.as_tensor(frames).float().movedim(-3, -1).clamp(-1, 1) / 2 + 0.5


def displacement_to_rgb(displacement: Float[Tensor, "*b 2 h w"], full_colour: float = FULL_COLOUR) -> Tensor:
    """Displacements as images in [0, 1]; full_colour: the length in pixels of the full colour."""
    return torch.as_tensor(plotting.flow_to_rgb(displacement.float().movedim(-3, -1), max_length=full_colour))


def draw_arrows(
    ax: Axes,
    displacement: Float[Tensor, "2 h w"],
    stride: int = 4,
    shortest: float = 0.8,
    magnification: float = 1.5,
    color: str = "0.1",
) -> None:
    """Draws every stride-th arrow of a displacement, magnified, if the displacement is above `shortest` pixels."""
    h, w = displacement.shape[1:]
    y, x = np.mgrid[stride // 2 : h : stride, stride // 2 : w : stride]
    u, v = plotting.to_numpy(displacement)[:, y, x]
    long = np.hypot(u, v) > shortest
    ax.quiver(
        x[long], y[long], u[long], v[long], color=color, pivot="mid",
        angles="xy", scale_units="xy", scale=1 / magnification,
        width=0.009, headwidth=3.5, headlength=4, headaxislength=3.5, minshaft=1.5,
    )  # fmt: skip


def draw_wheel(ax: Axes) -> None:
    """The legend of displacements: colour is direction; three arrows repeat it."""
    ax.imshow(plotting.flow_wheel(), extent=(-1, 1, 1, -1))
    for angle in np.linspace(0, 2 * np.pi, 8, endpoint=False):
        x, y = 0.75 * np.cos(angle), 0.75 * np.sin(angle)
        ax.annotate("", (x, y), (0.3 * x, 0.3 * y), arrowprops={"arrowstyle": "->", "color": "0.1", "lw": 0.9})
    ax.set(xlim=(-1.15, 1.15), ylim=(1.15, -1.15), aspect="equal")
    ax.set_title("direction", loc="center", fontsize=9)


def scenes_figure(
    frames: Float[Tensor, "n t 3 h w"], opposite: Float[Tensor, "n 3 h w"], tau: Float[Tensor, "t"]
) -> Figure:
    """A row for each scene: its frames at times tau, and its frame at tau = 1 after the opposite motion."""
    titles = ["source, $\\tau = 0$", *(f"$\\tau = {t:.2g}$" for t in tau[1:]), "opposite, $\\tau = 1$"]
    images = torch.cat([to_rgb(frames), to_rgb(opposite)[:, None]], 1)
    return plotting.image_grid(images, col_titles=titles, size=1.6)


def forward_models_figure(
    source: Float[Tensor, "3 h w"],
    displacement: Float[Tensor, "2 h w"],
    truth: Float[Tensor, "3 h w"],
    frames: Mapping[str, Float[Tensor, "3 h w"]],
    moving_mask: Tensor,
) -> Figure:
    """Source with its true displacement, true frame, and each forward model's frame with its error.

    moving_mask: (H, W), True where the frame changes; the images are cropped to 32 x 32 pixels around it
    """
    images, titles = [to_rgb(source), to_rgb(truth)], ["source, true flow", "true frame"]
    for name, frame in frames.items():
        images += [to_rgb(frame), (frame - truth).abs().mean(0)[..., None].expand(-1, -1, 3)]
        titles += [name, "error (white: 1)"]
    h, w = source.shape[1:]
    top, left = (moving_mask.nonzero().min(0).values - 3).clamp(0).tolist()
    top, left = min(top, h - 32), min(left, w - 32)
    rows = slice(top, top + 32), slice(left, left + 32)
    fig = plotting.image_grid(torch.stack([image[rows] for image in images])[None], col_titles=titles, size=1.6)
    draw_arrows(fig.axes[0], displacement[(slice(None), *rows)], stride=4, magnification=1.0, color="white")
    return fig


def movers_figure(
    source: Float[Tensor, "n 3 h w"],
    columns: Mapping[str, tuple[Float[Tensor, "n 3 h w"], Float[Tensor, "n 2 h w"]]],
) -> Figure:
    """A row for each scene: the source, then frames with the arrows of their displacements.

    columns: title of a column: (frames, displacements)
    """
    images = torch.stack([to_rgb(source), *(to_rgb(frames) for frames, _ in columns.values())], 1)
    fig = plotting.image_grid(images, col_titles=["source", *columns], size=1.2)
    for c, (_, displacements) in enumerate(columns.values(), start=1):
        for r, displacement in enumerate(displacements):
            draw_arrows(fig.axes[r * images.shape[1] + c], displacement, 3, magnification=1.0, color="white")
    return fig


def loss_figure(curve: Mapping[str, Sequence[float]], still: float, window: int = 15) -> Figure:
    """The target and novel losses of a training, averaged over `window` steps, and the error of the source image."""
    fig, ax = plt.subplots(figsize=(6.5, 2.6))
    styles = ("target", plotting.TARGET, "-"), ("novel", plotting.NOVEL, "--")  # dashed, since both nearly agree
    for key, color, style in styles:
        values = np.asarray(curve[key], dtype=float)
        window = max(1, min(window, len(values)))
        means = np.convolve(values, np.ones(window) / window, mode="valid")
        ax.plot(np.arange(len(means)) + window, means, style, color=color, label=f"{key} loss")
    ax.axhline(still, color=plotting.CONTEXT, ls="--", label="source image,\nwithout motion")
    ax.set(xlabel="training step", ylabel="mean squared error", ylim=(0, None), xlim=(0, None))
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
    return fig


def trajectory_figure(
    times: Sequence[float],
    noisy_targets: Float[Tensor, "n 3 h w"],
    frames: Float[Tensor, "n 3 h w"],
    displacements: Float[Tensor, "n 2 h w"],
) -> Figure:
    """A column for each time of a trajectory: noisy target, displacement of the predicted signal, and its frame."""
    images = torch.stack([to_rgb(noisy_targets), displacement_to_rgb(displacements), to_rgb(frames)])
    titles = [f"t = {float(t):.2f}" for t in times]
    fig = plotting.image_grid(images, ["noisy target", "displacement", "frame"], titles, size=1.3)
    for c, displacement in enumerate(displacements):
        draw_arrows(fig.axes[len(times) + c], displacement)
    return fig


def samples_figure(
    source: Float[Tensor, "n 3 h w"],
    frames: Float[Tensor, "n k 3 h w"],
    displacements: Float[Tensor, "n k 2 h w"],
    baseline: Float[Tensor, "n 3 h w"],
    true_frames: Float[Tensor, "n 3 h w"],
    true_displacements: Float[Tensor, "n 2 h w"],
) -> Figure:
    """Two rows for each of n scenes: displacements and frames of K samples, the baseline's frame, and the truth.

    The first column has the legend of the displacements and the source. The baseline has no displacement to draw: its
    flows point in opposite directions.
    """
    n, k = frames.shape[:2]
    blank = torch.full((n, 1, *source.shape[-2:], 3), float("nan"))
    upper = [blank, displacement_to_rgb(displacements), blank, displacement_to_rgb(true_displacements)[:, None]]
    lower = [to_rgb(x) for x in (source[:, None], frames, baseline[:, None], true_frames[:, None])]
    images = torch.stack([torch.cat(upper, 1), torch.cat(lower, 1)], 1).flatten(0, 1)
    titles = ["", *(f"sample {j + 1}" for j in range(k)), "deterministic", "truth"]
    fig = plotting.image_grid(images, ["displacement", "frame"] * n, titles, size=1.35)
    for i in range(n):
        row = fig.axes[2 * i * (k + 3) : (2 * i + 1) * (k + 3)]
        panels = zip([*row[1 : k + 1], row[-1]], [*displacements[i], true_displacements[i]], strict=True)
        for ax, displacement in panels:
            draw_arrows(ax, displacement)
        reason = "not drawn:\ntwo flows in\nopposite\ndirections"
        row[k + 1].text(0.5, 0.5, reason, transform=row[k + 1].transAxes, ha="center", va="center", fontsize=8)
        draw_wheel(row[0])
        fig.axes[(2 * i + 1) * (k + 3)].set_title("source", loc="center", fontsize=9)
    return fig


def clip_frames(
    clips: Sequence[Sequence[Float[Tensor, "t 3 h w"]]], titles: Sequence[str]
) -> list[UInt8[np.ndarray, "H W 3"]]:
    """The frames of an animation of a grid of clips, of T frames each; clips: by row and column."""
    frames = []
    for k in range(len(clips[0][0])):
        images = torch.stack([torch.stack([to_rgb(clip[k]) for clip in row]) for row in clips])
        fig = plotting.image_grid(images, col_titles=titles, size=1.4)
        frames.append(plotting.figure_to_rgb(fig))
        plt.close(fig)
    return frames


def frequencies_figure(
    frequencies: Mapping[tuple[str, int], Mapping[int, tuple[float, float]]], labels: Mapping[str, str]
) -> Figure:
    """Frequencies of the likelier direction with their 95 % intervals, in one panel for each variant.

    frequencies: (variant, eta): {true probability in per cent: (frequency, half-width of its interval)}
    labels: variant: title of its panel
    """
    percents = sorted(next(iter(frequencies.values())))
    fig, axes = plt.subplots(1, len(labels), figsize=(2.6 * len(labels), 3.1), sharey=True, squeeze=False)
    for ax, (name, title) in zip(axes[0], labels.items(), strict=True):
        for eta, color in enumerate(SAMPLER_COLOURS):
            heights, half_widths = 100 * np.array([frequencies[name, eta][percent] for percent in percents]).T
            ax.bar(np.arange(len(percents)) + 0.36 * eta - 0.18, heights, 0.34, color=color, label=SAMPLER_NAMES[eta],
                   yerr=half_widths, error_kw={"elinewidth": 1.2, "ecolor": "0.1", "capsize": 2})  # fmt: skip
        for x, percent in enumerate(percents):
            label = "true probability" if x == 0 else None
            ax.plot([x - 0.42, x + 0.42], [percent, percent], color=plotting.TRUE, lw=2.5, label=label)
        ax.set(xticks=range(len(percents)), xticklabels=[group_label(p) for p in percents], ylim=(0, 100))
        ax.set(xlabel="true probabilities (%)", title=title)
    axes[0, 0].set_ylabel("frequency of likelier direction (%)")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return fig


def group_label(percent: int) -> str:
    """The true probabilities of both directions; if they are equal, bars show the positive direction."""
    return f"{percent}/{100 - percent}" + ("\npositive" if percent == 50 else "")


def predictions_figure(
    source: Float[Tensor, "3 h w"],
    predictions: Mapping[str, Float[Tensor, "1 3 h w"]],
    samples: Mapping[str, Float[Tensor, "k 3 h w"]],
    true_frame: Float[Tensor, "3 h w"],
    posterior_draws: Float[Tensor, "k 3 h w"],
) -> Figure:
    """For one source: each variant's deterministic prediction, and below it two samples; at the right the truth."""
    blank = torch.full_like(to_rgb(source), float("nan"))
    rows = [[to_rgb(source), *(to_rgb(prediction[0]) for prediction in predictions.values()), to_rgb(true_frame)]]
    rows += [[blank, *(to_rgb(x[j]) for x in samples.values()), to_rgb(posterior_draws[j])] for j in (0, 1)]
    titles = ["source", *(label.replace(", ", "\n") for label in predictions), "truth,\nexact draws"]
    row_labels = ["deterministic", "sample 1", "sample 2"]
    return plotting.image_grid(torch.stack([torch.stack(row) for row in rows]), row_labels, titles, size=1.5)


def photographs_figure(
    photographs: Float[Tensor, "n 3 h w"],
    displacements: Float[Tensor, "n 2 h w"],
    frames: Float[Tensor, "n 3 h w"],
    names: Sequence[str],
) -> Figure:
    """A column for each photograph: the photograph, one sampled displacement and its frame."""
    images = torch.stack([to_rgb(photographs), displacement_to_rgb(displacements), to_rgb(frames)])
    fig = plotting.image_grid(images, ["photograph", "displacement", "frame"], names, size=1.7)
    for ax, displacement in zip(fig.axes[len(photographs) : 2 * len(photographs)], displacements, strict=True):
        draw_arrows(ax, displacement)
    return fig


def sample_figure(
    source: Float[Tensor, "3 h w"], displacement: Float[Tensor, "2 h w"], frame: Float[Tensor, "3 h w"], tau: float
) -> Figure:
    """One sample: its source, its displacement at tau = 1, and its frame at tau."""
    images = torch.stack([to_rgb(source), displacement_to_rgb(displacement), to_rgb(frame)])[None]
    fig = plotting.image_grid(images, col_titles=["source", "displacement", f"frame at {tau:.1f}"], size=2.4)
    draw_arrows(fig.axes[1], displacement)
    return fig


def html_table(rows: Sequence[Mapping[str, object]], fold: str | None = None) -> str:
    """A table with a header, one row for each mapping; all have the same keys.

    The numbers of a column have the same decimals: three digits of the largest, but at most three decimals.
    fold: the summary of a collapsed section that holds the table
    """
    decimals = {}
    for key in rows[0]:
        largest = max((abs(row[key]) for row in rows if isinstance(row[key], float)), default=0.0)
        decimals[key] = min(3, max(0, 2 - math.floor(math.log10(largest)))) if largest else 3

    def cell(key: str, value: object) -> str:
        return f"{value:.{decimals[key]}f}" if isinstance(value, float) else html.escape(str(value))

    lines = ["".join(f"<th>{html.escape(key)}</th>" for key in rows[0])]
    lines += ["".join(f"<td>{cell(key, value)}</td>" for key, value in row.items()) for row in rows]
    table = "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"
    return table if fold is None else f"<details><summary>{html.escape(fold)}</summary>{table}</details>"
