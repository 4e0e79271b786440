"""The figures and tables of 05_flatland.

Rows are images (3, 1, W) and views from above are images (side, side, 3), both with colours in [-1, 1].
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from fwdiff_lite import plotting
from fwdiff_lite.diffusion import Step
from fwdiff_lite.metrics import Interval
from fwdiff_lite.problems.inverse_graphics import flatland as problem

CONTENT_COLOURS = ["none", *(tuple(colour.tolist()) for colour in problem.DISC_COLOURS / 2 + 0.5)]  # as in a scene


def to_rgb(image: Tensor | np.ndarray) -> Tensor:
    """Colours (..., 3) in [-1, 1] as colours in [0, 1]."""
    return (torch.as_tensor(image).float() / 2 + 0.5).clamp(0, 1)


def stack_rows(rows: Float[Tensor, "n 3 1 w"], height: int = 6) -> Float[Tensor, "h w 3"]:
    """Rows of pixels as one image: each row is `height` pixels high, with two white lines between rows."""
    blocks = to_rgb(rows[:, :, 0].movedim(1, -1))[:, None].repeat(1, height, 1, 1)  # (n, height, W, 3)
    return torch.cat([blocks, torch.ones(len(rows), 2, *blocks.shape[2:])], 1).flatten(0, 1)[:-2]


def draw_top_down_view(ax: Axes, image: Float[Tensor, "s s 3"], title: str | None = None) -> None:
    """Draws a scene from above."""
    ax.imshow(to_rgb(image), extent=(-problem.SCENE_HALF_WIDTH, problem.SCENE_HALF_WIDTH) * 2)
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    ax.spines[:].set(visible=True, color=plotting.MUTED)
    if title:
        ax.set_title(title, fontsize=9, loc="center")


def draw_camera(ax: Axes, azimuth: float) -> None:
    """Draws a mark in the direction of a camera that looks at the centre; the camera itself is farther out."""
    eye = 0.93 * problem.SCENE_HALF_WIDTH * np.array([np.cos(azimuth), np.sin(azimuth)])
    ax.plot(*eye, marker=(3, 0, np.degrees(azimuth) + 90), color=plotting.CONTEXT, markersize=8)


def draw_rows(ax: Axes, rows: Float[Tensor, "n 3 1 w"], labels: Sequence[str] = (), height: int = 6) -> None:
    """Draws rows of pixels below each other, each in a frame, with labels at their left."""
    ax.imshow(stack_rows(rows, height), aspect="auto")
    frame = {"fill": False, "ec": plotting.MUTED, "lw": 0.8, "clip_on": False}
    for i in range(len(rows)):
        ax.add_patch(plt.Rectangle((-0.5, (height + 2) * i - 0.5), rows.shape[-1], height, **frame))
    ax.set(xticks=[], yticks=[(height + 2) * i + height / 2 - 0.5 for i in range(len(labels))])
    ax.set_yticklabels(labels, fontsize=9)
    ax.tick_params(length=0)
    ax.grid(False)
    ax.spines[:].set_visible(False)


def plot_scenes(scenes: problem.Scenes, rows: Float[Tensor, "b r 3 1 w"]) -> Figure:
    """Scenes from above, with the camera that faces the first room, and the rows by cameras that face each room."""
    fig, axes = plt.subplots(2, len(scenes), figsize=(8.4, 3.3), height_ratios=[3, 1.2], layout="constrained")
    for i, image in enumerate(problem.top_down_view(scenes)):
        draw_top_down_view(axes[0, i], image)
        draw_camera(axes[0, i], float(scenes.room_azimuths[i, 0]))
        draw_rows(axes[1, i], rows[i], ["first room", "second room", "third room"] if i == 0 else [])
    return fig


def plot_scenes_of_row(row: Float[Tensor, "3 1 w"], scenes: problem.Scenes) -> Figure:
    """A row, and scenes from above that agree with it."""
    ratios = [1.6] + [1] * len(scenes)
    fig, axes = plt.subplots(1, len(ratios), figsize=(9.5, 1.4), width_ratios=ratios, layout="constrained")
    draw_rows(axes[0], row[None], height=8)
    axes[0].set_title("the row", fontsize=9, loc="center")
    for i, (ax, image) in enumerate(zip(axes[1:], problem.top_down_view(scenes), strict=True)):
        draw_top_down_view(ax, image, f"scene {i + 1}")
        draw_camera(ax, float(scenes.room_azimuths[i, 0]))
    return fig


def plot_ray(
    image: Float[Tensor, "s s 3"],
    points: Float[Tensor, "w n 3"],
    pixel: int,
    weights: Float[Tensor, "w n"],
    rows: Mapping[str, Float[Tensor, "3 1 w"]],
    azimuth: float,
) -> Figure:
    """Volume rendering of one row.

    image: the scene from above; points: the n sample points of each pixel's ray; pixel: the ray that is marked
    weights: of the samples in their pixels; rows: rows to compare, by their labels; azimuth: of the camera
    """
    fig, (above, ray, row) = plt.subplots(1, 3, figsize=(9.5, 3), width_ratios=[1, 1.2, 1.2], layout="constrained")
    draw_top_down_view(above, image, "sample points of all rays")
    draw_camera(above, azimuth)
    through_box = (points[:, 0] != points[:, -1]).any(-1)  # all samples of a ray that misses the box are one point
    above.scatter(*points[through_box, :, :2].flatten(0, 1).T, s=1, color=plotting.MUTED)
    above.scatter(*points[pixel, :, :2].T, s=16, color="black", ec="white", lw=0.6)
    transmittance = 1 - torch.cat([torch.zeros(1), weights[pixel].cumsum(0)[:-1]])
    index = np.arange(1, weights.shape[1] + 1)
    ray.bar(index, weights[pixel], color="black", label="weight")
    ray.step(index, transmittance, where="mid", color=plotting.OTHER, label="transmittance")
    ray.set(xlabel="segment of the marked ray", ylabel="fraction of light", ylim=(0, 1.05))
    ray.set_xticks([1, 4, 8, 12, 16])
    ray.legend(loc="upper right")
    draw_rows(row, torch.stack(list(rows.values())), list(rows))
    return fig


def plot_training(
    curve: Mapping[str, Sequence[float]],
    truth: Float[Tensor, "c s s 3"],
    snapshots: Mapping[int, Float[Tensor, "c s s 3"]],
    azimuths: Float[Tensor, "c"],
) -> Figure:
    """The losses of a training, and samples of the same contexts before, during and after it.

    truth, snapshots: true scenes and sampled scenes from above, the latter by the number of steps
    azimuths: of the context's cameras
    """
    rows, cols = len(truth), 1 + len(snapshots)
    fig = plt.figure(figsize=(9.5, 2.2 + 1.35 * rows), layout="constrained")
    upper, lower = fig.subfigures(2, 1, height_ratios=[2.2, 1.35 * rows])
    ax = upper.subplots()
    window = max(1, len(curve["loss"]) // 50)
    colours = {"target": plotting.TARGET, "novel": plotting.NOVEL, "deterministic": plotting.BASELINE}
    for name, colour in colours.items():
        means = torch.tensor(curve[name]).unfold(0, window, window).mean(1)
        ax.plot(window * (np.arange(len(means)) + 0.5), means, color=colour, label=name)
    ticks = [0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
    ax.set(yscale="log", xlabel="training steps", ylabel="loss", yticks=ticks, yticklabels=map(str, ticks))
    ax.minorticks_off()
    ax.legend(ncols=3)
    axes = lower.subplots(rows, cols, squeeze=False)
    for i in range(rows):
        draw_top_down_view(axes[i, 0], truth[i], "truth" if i == 0 else None)
        draw_camera(axes[i, 0], float(azimuths[i]))
        for ax, (step, images) in zip(axes[i, 1:], snapshots.items(), strict=True):
            draw_top_down_view(ax, images[i], f"{step} steps" if i == 0 else None)
    return fig


def plot_samples(
    truth: Float[Tensor, "c s s 3"],
    deterministic: Float[Tensor, "c s s 3"],
    samples: Mapping[str, Float[Tensor, "c k s s 3"]],
    azimuths: Float[Tensor, "c"],
) -> Figure:
    """Scenes from above: truth, deterministic prediction and K samples; one row for each context and each sampler."""
    num_samples = min(x.shape[1] for x in samples.values())
    rows, cols = len(truth) * len(samples), 2 + num_samples
    fig = plt.figure(figsize=(1.25 * cols, 1.2 * rows), layout="constrained")
    grid = fig.add_gridspec(rows, cols)
    for i in range(len(truth)):
        both_rows = slice(len(samples) * i, len(samples) * (i + 1))
        for c, (title, images) in enumerate({"truth": truth, "deterministic": deterministic}.items()):
            ax = fig.add_subplot(grid[both_rows, c])
            draw_top_down_view(ax, images[i], title if i == 0 else None)
            if c == 0:
                draw_camera(ax, float(azimuths[i]))
        for r, (name, images) in enumerate(samples.items()):
            for j in range(num_samples):
                ax = fig.add_subplot(grid[len(samples) * i + r, 2 + j])
                draw_top_down_view(ax, images[i, j], f"sample {j + 1}" if i == r == 0 else None)
                if j == 0:
                    ax.set_ylabel(name.replace(" ", "\n"), fontsize=9, rotation=0, ha="right", va="center")
    return fig


def plot_condition(
    truth: Float[Tensor, "c 3 1 w"], render: Float[Tensor, "c channels 1 w"], samples: Float[Tensor, "c 3 1 w"]
) -> Figure:
    """The conditioning of the target's encoder, a deterministic render, between the true and a sampled row.

    render: colour (3), depth, opacity, and features, which are not drawn
    """
    labels = ["truth", "render: colour", "depth (dark: near)", "opacity (white: 1)", "a sample"]
    fig, axes = plt.subplots(len(labels), len(truth), figsize=(8.4, 2.8), layout="constrained")
    for i in range(len(truth)):
        colours = [to_rgb(row[:, 0].T) for row in (truth[i], render[i, :3], samples[i])]
        rows = [colours[0], colours[1], render[i, 3, 0], render[i, 4, 0], colours[2]]
        for ax, row, label in zip(axes[:, i], rows, labels, strict=True):
            limits = {"vmin": 0, "vmax": 1} if label.startswith("opacity") else {}
            ax.imshow(row[None], aspect="auto", cmap="gray", **limits)
            ax.set(xticks=[], yticks=[0] if i == 0 else [])
            ax.tick_params(length=0)
            ax.grid(False)
            ax.spines[:].set(visible=True, color=plotting.MUTED)
            if i == 0:
                ax.set_yticklabels([label], fontsize=9)
    return fig


def plot_probabilities(frequencies: Mapping[str, Mapping[str, Sequence[Sequence[Interval]]]]) -> Figure:
    """Frequencies of contents with 95% intervals, and the true probabilities as lines.

    Below a bar stands its content: a disc in its colour, or a ring if the room is empty.
    frequencies: of each sampler, as experiments.flatland.content_frequencies gives them
    """
    walls = list(problem.CONTENT_PROBABILITIES)
    fig, axes = plt.subplots(2, len(walls), figsize=(8, 4.6), sharex=True, sharey=True, layout="constrained")
    for c, wall_colour in enumerate(walls):
        for r, (ax, room) in enumerate(zip(axes[:, c], ("second room", "third room"), strict=True)):
            for x, by_colour in enumerate(frequencies.values()):
                value, low, high = np.array(by_colour[wall_colour][r]).T
                place = np.arange(3) + 4 * x
                ax.bar(place, value, color=plotting.SAMPLES, alpha=0.55, width=0.8)
                ax.errorbar(place, value, [value - low, high - value], fmt="none", ecolor="black", elinewidth=1.2)
                for k, p in enumerate(problem.CONTENT_PROBABILITIES[wall_colour]):
                    ax.plot([k - 0.45 + 4 * x, k + 0.45 + 4 * x], [p, p], color=plotting.TRUE, lw=2.5)
                    ax.scatter(k + 4 * x, -0.08, s=36, color=CONTENT_COLOURS[k], ec="0.4", lw=0.8, clip_on=False)
            ax.set(xticks=[1, 5], xticklabels=list(frequencies), ylim=(0, 1))
            ax.tick_params(axis="x", length=0, pad=19, labelbottom=True)
            ax.grid(axis="x")
            if r == 0:
                ax.set_title(f"{wall_colour} walls")
            if c == 0:
                ax.set_ylabel(f"{room}:\nfrequency")
    handles = [
        plt.Rectangle((0, 0), 1, 1, color=plotting.SAMPLES, alpha=0.55, label="samples"),
        plt.Line2D([], [], color=plotting.TRUE, lw=2.5, label="true probability"),
    ]
    for content, colour in zip(problem.CONTENTS, CONTENT_COLOURS, strict=True):
        label = content if content == "empty" else f"{content} disc"
        handles.append(plt.Line2D([], [], ls="none", marker="o", ms=6, mfc=colour, mec="0.4", mew=0.8, label=label))
    fig.legend(handles=handles, loc="outside lower center", ncols=5)
    return fig


def plot_step(step: Step) -> Figure:
    """One step of sampling: the noisy target, the predicted row, and the predicted scene from above."""
    fig, axes = plt.subplots(1, 3, figsize=(8.4, 2.3), width_ratios=[1.6, 1.6, 1], layout="constrained")
    rows = {"noisy target": step.noisy_target, "predicted target": step.observation}
    for ax, (title, row) in zip(axes, rows.items(), strict=False):
        draw_rows(ax, row[0], height=8)
        ax.set_box_aspect(1 / 1.6)  # as high as the scene
        ax.set_title(title, fontsize=9, loc="center")
    draw_top_down_view(axes[2], problem.field_top_down_view(step.signal)[0], f"$t = {step.t:.2f}$")
    return fig


def plot_squares(images: Mapping[str, Float[Tensor, "s s 3"]], rows: Mapping[str, Float[Tensor, "3 1 w"]]) -> Figure:
    """Scenes from above beside each other, and rows below each other."""
    fig, axes = plt.subplots(1, 1 + len(images), figsize=(8.4, 2.2), layout="constrained")
    for ax, (title, image) in zip(axes, images.items(), strict=False):
        draw_top_down_view(ax, image, title)
    draw_rows(axes[-1], torch.stack(list(rows.values())), list(rows))
    return fig


def probabilities_table() -> str:
    """The true probabilities of a room's contents, by the colour of the walls."""
    lines = ["walls     " + "".join(f"{content:>8}" for content in problem.CONTENTS)]
    for wall_colour, probabilities in problem.CONTENT_PROBABILITIES.items():
        lines.append(f"{wall_colour:10}" + "".join(f"{p:8.1f}" for p in probabilities))
    return "\n".join(lines)


def losses_table(curve: Mapping[str, Sequence[float]], parts: int = 4) -> str:
    """The mean losses in each part of the training."""
    quarter = max(1, len(curve["loss"]) // parts)
    lines = []
    for name in ("target", "novel", "deterministic"):
        means = [np.mean(curve[name][k : k + quarter]) for k in range(0, parts * quarter, quarter)]
        lines.append(f"{name:14}" + "".join(f"{x:8.3f}" for x in means))
    return "\n".join(lines)


def measures_table(results: Mapping[str, Mapping[str, float]], context_errors: Mapping[str, float]) -> str:
    """Four measures of each sampler: energy skill, spread over error, total variations, agreement with the context.

    results: of experiments.flatland.evaluate; context_errors: of the samplers whose context was rendered
    """
    names = ("skill", "lower end", "spread over error", "TV, second room", "TV, third room", "agreement with context")
    widths = (7, 11, 21, 21, 21, 24)
    lines = [f"{'':26}" + "".join(f"{name:>{width}}" for name, width in zip(names, widths, strict=True))]
    for name, row in results.items():
        cells = [f"{row['energy_skill']:.2f}", f"{row['energy_skill_low']:.2f}"]
        for key in ("spread_skill", "factor_tv_first", "factor_tv_second"):
            cells.append(f"{row[key]:.2f} ({row[f'{key}_low']:.2f} to {row[f'{key}_high']:.2f})")
        cells.append(f"{context_errors[name]:.2f}" if name in context_errors else "not recorded")
        lines.append(f"{name:26}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)))
    return "\n".join(lines)
