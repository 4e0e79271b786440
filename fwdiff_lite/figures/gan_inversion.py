"""Figures and tables of 04_gan_inversion."""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch
from matplotlib.ticker import LogLocator, NullLocator
from torch import Tensor

from fwdiff_lite import plotting
from fwdiff_lite.crops import composite_crops
from fwdiff_lite.metrics.bootstrap import Interval
from fwdiff_lite.observations import Observations
from fwdiff_lite.problems.gan_inversion import patches

GREY = 0.7  # of pixels that no patch shows, in [-1, 1]


def rgb(images: Float[Tensor, "*b 3 h w"]) -> Float[Tensor, "*b h w 3"]:
    """Images in [-1, 1], in matplotlib's layout and range."""
    return images.detach().float().movedim(-3, -1).clamp(-1, 1) / 2 + 0.5


def context_images(context: Observations) -> Float[Tensor, "b 3 h w"]:
    """The patches of each context on one canvas, in [-1, 1]; grey elsewhere."""
    image, mask = composite_crops(context.value, patches.support(context))
    return image.where(mask > 0, torch.full_like(image, GREY))


def portrait_grid(
    columns: Mapping[str, Float[Tensor, "..."]], row_labels: Sequence[str] | None = None, size: float = 0.9
) -> Figure:
    """One row an example, with the columns of each name side by side.

    columns: images (B, 3, H, W) or several images of each example (B, K, 3, H, W), in [-1, 1], by their titles. The
        title of several images stands above their middle, over a rule that spans them
    row_labels: of the B rows; size: height of an image in inches
    """
    stacks = {title: x[:, None] if x.ndim == 4 else x for title, x in columns.items()}
    counts = {title: x.shape[1] for title, x in stacks.items()}
    titles = [title if j == (k - 1) // 2 else "" for title, k in counts.items() for j in range(k)]
    images = torch.cat([rgb(x) for x in stacks.values()], 1)
    fig = plotting.image_grid(images, row_labels=row_labels, col_titles=titles, size=size)
    top_row = iter(fig.axes[: len(titles)])
    for title, count in counts.items():
        group = list(islice(top_row, count))
        if title and count > 1:
            _draw_rule(group, size)
    return fig


def _draw_rule(group: Sequence[Axes], size: float) -> None:
    """A horizontal rule above adjacent axes, `size` inches high; the title of the middle one moves to their middle."""
    left, right, middle = group[0], group[-1], group[(len(group) - 1) // 2]
    y = 1 + 3 / 72 / size  # 3 points above the images
    ends = {"xyA": (0.02, y), "xyB": (0.98, y), "coordsA": left.transAxes, "coordsB": right.transAxes}
    left.add_artist(ConnectionPatch(**ends, color=plotting.TRUE, lw=1, clip_on=False, in_layout=False))
    if len(group) % 2 == 0:
        middle.title.set_x(1.01)  # between the two middle axes


def plot_forward_model(
    picture: Float[Tensor, "3 h w"], observations: Float[Tensor, "3 3 h w"], masks: Float[Tensor, "3 1 h w"]
) -> Figure:
    """The generator's picture of a latent code, and three patches of it: a context, a target and a novel patch.

    masks: 1 inside of each crop; grey is drawn elsewhere
    """
    shown = observations.where(masks > 0, torch.full_like(observations, GREY))
    titles = ["G(S)", "context", "target", "novel"]
    fig = plotting.image_grid(rgb(torch.cat([picture[None], shown]))[None], col_titles=titles, size=1.4)
    colours = (plotting.CONTEXT, plotting.TARGET, plotting.NOVEL)
    for ax, mask, colour in zip(fig.axes[1:], masks[:, 0], colours, strict=True):
        ax.contour(plotting.to_numpy(mask), levels=[0.5], colors=[colour], linewidths=2)
    return fig


def plot_trajectory(
    steps: Sequence[tuple[Tensor, Float[Tensor, "1 1 3 h h"], Float[Tensor, "1 1 3 h h"]]],
    context: Observations,
    target_params: Float[Tensor, "1 1 3"],
    shown_steps: Sequence[int],
) -> Figure:
    """Some steps of the sampling of one signal: above the noisy target, below the observation of the predicted signal.

    steps: (signal, observation, noisy target) of every step; shown_steps: which of them are drawn
    context: of the one signal, at the left of both rows; target_params: the target's crop, grey outside of it
    """
    mask = patches.patch_mask(target_params[0, 0], context.value.shape[-1]) > 0

    def on_grey(target: Tensor) -> Tensor:
        return target[0, 0].where(mask, torch.full_like(target[0, 0], GREY))

    left = context_images(context)[0]
    noisy = torch.stack([left, *(on_grey(steps[k][2]) for k in shown_steps)])
    clean = torch.stack([left, *(on_grey(steps[k][1]) for k in shown_steps)])
    titles = ["context", *(f"step {k + 1}" for k in shown_steps)]
    labels = ["noisy target", "forward(S, φ)"]
    return plotting.image_grid(rgb(torch.stack([noisy, clean])), row_labels=labels, col_titles=titles, size=0.95)


def deviation_images(deviations: Sequence[Float[Tensor, "h w"]], white: float = 0.7) -> Float[Tensor, "b 3 h w"]:
    """Grey images in [-1, 1] of standard deviations: black at 0, white at `white`."""
    return 2 * (torch.stack(list(deviations)) / white).clamp(max=1)[:, None].expand(-1, 3, -1, -1) - 1


def binomial_half_width(p: Float[np.ndarray, "k"], n: int) -> Float[np.ndarray, "k"]:
    """Half the width of the 95 % interval of frequencies p among n independent draws, in the normal approximation."""
    return 1.96 * np.sqrt(p * (1 - p) / n)


def plot_attribute_frequencies(
    attributes: Mapping[str, Sequence[str]], frequencies: Mapping[str, Sequence[Float[Tensor, "k"]]], count: int
) -> Figure:
    """How often each category of each attribute occurs in rendered and in generated portraits, with 95 % intervals.

    attributes: the categories of each attribute; frequencies: of "rendered" and "generated" images, for each attribute
    those of its categories; count: images of each
    """
    colours = {"rendered": plotting.TRUE, "generated": plotting.SAMPLES}
    fig, axes = plt.subplots(2, 5, figsize=(10, 4.4), sharey=True)
    for i, (ax, (name, categories)) in enumerate(zip(axes.flat, attributes.items(), strict=True)):
        x = np.arange(len(categories))
        for offset, (source, colour) in zip((-0.2, 0.2), colours.items(), strict=True):
            p = plotting.to_numpy(frequencies[source][i])
            error = 100 * binomial_half_width(p, count)
            ax.bar(x + offset, 100 * p, 0.38, color=colour, yerr=error, error_kw={"lw": 1, "ecolor": "k"}, label=source)
        ax.set(title=name, ylim=(0, 100))
        ax.set_xticks(x, categories, rotation=35, ha="right", fontsize=8)
    axes[0, 0].set_ylabel("images (%)")
    axes[1, 0].set_ylabel("images (%)")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return fig


def plot_losses(trainings: Mapping[str, Mapping[str, Any]], names: Sequence[str] = ("target", "novel")) -> Figure:
    """Losses over the steps of training, one axis a loss.

    trainings: by title, the diffusion model's first, then the baseline's: records with `steps` and `curve`, which holds
        the values of each loss at evenly spaced steps
    """
    fig, axes = plt.subplots(1, len(names), figsize=(8.5, 2.9), sharey=True)
    for ax, name in zip(axes, names, strict=True):
        for (title, record), colour in zip(trainings.items(), (plotting.SAMPLES, plotting.BASELINE), strict=True):
            values = record["curve"][name]
            ax.semilogy(np.linspace(0, record["steps"], len(values)), values, color=colour, label=title, lw=1)
        ax.set(title=f"{name} patch", xlabel="steps")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ax.yaxis.set_minor_locator(NullLocator())
    axes[0].set_ylabel("squared error")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=len(trainings))
    return fig


def plot_schedule_errors(errors: Mapping[float, Mapping[str, float]], used: float) -> Figure:
    """Errors of sampling in finite steps with an exact denoiser, for schedules with alpha / sigma times a scale.

    errors: by scale, `spread` over the true one and `tv`, as shares of 1; used: the scale of this experiment
    """
    scales = sorted(errors, reverse=True)
    fig, axes = plt.subplots(1, 2, figsize=(8.5, 2.9))
    titles = "spread (% of the true one)", "total variation, worst attribute (points)"
    for ax, key, title in zip(axes, ("spread", "tv"), titles, strict=True):
        ax.semilogx(scales, [100 * errors[x][key] for x in scales], "o-", color=plotting.TRUE, base=2)
        ax.plot(used, 100 * errors[used][key], "o", ms=12, mfc="none", color=plotting.TRUE, label="used here")
        ax.set(title=title, xlabel=r"$\alpha / \sigma$ over that of the cosine schedule")
        ax.set_xticks(scales, ["1", *(f"1/{1 / scale:.0f}" for scale in scales[1:])])
        ax.invert_xaxis()
    axes[0].axhline(100, color=plotting.TRUE, lw=1, ls=":")
    axes[0].legend(loc="lower right")
    return fig


def plot_probabilities(
    frequencies: Mapping[str, Mapping[str, Sequence[Interval]]], truth: Mapping[str, Sequence[float]]
) -> Figure:
    """How often samplers draw hidden attributes, with 95 % intervals, beside the true probabilities (grey lines).

    frequencies: by sampler ("ancestral", "DDIM", "deterministic") and attribute: one interval for each group of
        portraits; truth: by attribute, the true probability of each group
    """
    colours = (plotting.ANCESTRAL, plotting.DDIM, plotting.BASELINE)
    fig, axes = plt.subplots(1, len(truth), figsize=(11, 3.2), sharey=True, squeeze=False)
    axes = axes[0]
    for ax, (name, probabilities) in zip(axes, truth.items(), strict=True):
        for j, ((label, by_name), colour) in enumerate(zip(frequencies.items(), colours, strict=True)):
            value, low, high = (100 * np.array(x) for x in zip(*by_name[name], strict=True))
            x, bars = np.arange(len(value)) + 0.27 * (j - 1), {"lw": 1, "ecolor": "k"}
            yerr = [np.clip(value - low, 0, None), np.clip(high - value, 0, None)]
            ax.bar(x, value, 0.25, color=colour, yerr=yerr, error_kw=bars, label=label)
        for x, probability in enumerate(probabilities):
            ax.plot(
                [x - 0.42, x + 0.42], [100 * probability] * 2, color=plotting.TRUE, lw=2.5, label="" if x else "truth"
            )
        ax.set(title=name, ylim=(0, 100))
        ax.set_xticks(range(len(probabilities)), [f"{100 * p:.0f}" for p in probabilities])
    axes[0].set_ylabel("samples with it (%)")
    fig.supxlabel("true probability (%)", fontsize=10)
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=4)
    return fig


def measures_table(results: Mapping[str, Mapping[str, float]], titles: Mapping[str, str]) -> str:
    """The four measures of samplers as text, with 95 % intervals where they are recorded; the last row: the baseline.

    results: of each sampler, named as in metrics.json; titles: of the rows, by the sampler's name, the main one first
    """
    lines = [f"{'':32}{'energy / baseline':>20}{'spread / error':>20}{'total variation':>20}{'context (dB)':>14}"]
    for sampler, title in titles.items():
        row = results[sampler]
        cells = [_with_interval(row, key) for key in ("energy_ratio", "spread_skill", _worst(row, "factor_tv_"))]
        lines.append(f"{title:32}" + "".join(f"{cell:>20}" for cell in cells) + f"{row['patch_psnr']:14.1f}")
    main = results[next(iter(titles))]
    cells = ["1", "0", _with_interval(main, _worst(main, "deterministic_factor_tv_"))]
    psnr = f"{main['patch_psnr_deterministic']:14.1f}"
    lines.append(f"{'deterministic baseline':32}" + "".join(f"{cell:>20}" for cell in cells) + psnr)
    return "\n".join(lines)


def _worst(row: Mapping[str, float], prefix: str) -> str:
    """The key of the attribute whose measure is largest."""
    return max((key for key in row if key.startswith(prefix) and f"{key}_low" in row), key=lambda key: row[key])


def _with_interval(row: Mapping[str, float], key: str) -> str:
    return f"{row[key]:.2f} ({row[f'{key}_low']:.2f}, {row[f'{key}_high']:.2f})"


def text_table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Numbers as text, with two digits. rows: by the title of a row, numbers by the title of their column."""
    titles = list(next(iter(rows.values())))
    lines = [f"{'':12}" + "".join(f"{title:>20}" for title in titles)]
    for name, numbers in rows.items():
        lines.append(f"{name:12}" + "".join(f"{numbers[title]:20.2f}" for title in titles))
    return "\n".join(lines)
