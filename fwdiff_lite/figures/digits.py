"""Figures and tables of 02_keyhole_digits. Dark is ink; pixels outside of all windows are blue."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Markdown
from jaxtyping import Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from fwdiff_lite import plotting
from fwdiff_lite.crops import crop_mask

OUTSIDE = (0.78, 0.86, 0.93)  # colour of the pixels that no window covers
Stages = Sequence[tuple[Tensor, Tensor, Tensor | None]]  # canvas, support and signal after each sampled window


# --- the parts of figures ---------------------------------------------------------------------------------------------


def to_rgb(image: Float[Tensor, "*b h w"], support: Float[Tensor, "*b h w"] | None = None) -> Float[Tensor, "*b h w 3"]:
    """An image in [-1, 1] as RGB, from white to ink; pixels outside of the support have the colour OUTSIDE."""
    rgb = (0.5 - 0.5 * image.float())[..., None].repeat(*[1] * image.ndim, 3).clamp(0, 1)
    return rgb if support is None else torch.where(support[..., None] > 0, rgb, torch.tensor(OUTSIDE))


def draw_window(ax: Axes, window: Float[Tensor, "3"], color: str = plotting.CONTEXT) -> None:
    """The outline of a window (row, col, size)."""
    row, col, size = window.tolist()
    ax.add_patch(Rectangle((col - 0.5, row - 0.5), size, size, fill=False, ec=color, lw=2, clip_on=False))


def digit_grid(rows: Sequence[Sequence[Tensor | None]], **options) -> Figure:
    """plotting.image_grid of RGB images of one shape, each with a frame; None leaves a place empty."""
    shape = next(image.shape for row in rows for image in row if image is not None)
    empty = torch.full(shape, float("nan"))
    images = torch.stack([torch.stack([empty if image is None else image for image in row]) for row in rows])
    fig = plotting.image_grid(images, **options)
    for ax in fig.axes:
        ax.spines[:].set(visible=bool(ax.images), color=plotting.MUTED)
    return fig


def format_table(rows: Mapping[str, Mapping[str, str]]) -> str:
    """A plain table: row label -> column -> text. All rows have the same columns."""
    columns = list(next(iter(rows.values())))
    lines = [["", *columns], *([label, *(row[column] for column in columns)] for label, row in rows.items())]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns) + 1)]
    return "\n".join(
        "   ".join([line[0].ljust(widths[0]), *(x.rjust(w) for x, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    )


def collapsed_section(summary: str, text: str) -> Markdown:
    """A text that a notebook shows when the reader opens it."""
    return Markdown(f"<details><summary>{summary}</summary>\n\n```text\n{text}\n```\n\n</details>")


def format_interval(interval: tuple[float, float, float], decimals: int = 2) -> str:
    """A value with the ends of its interval, such as '0.71 (0.70 to 0.72)'."""
    value, low, high = (f"{x:.{decimals}f}" for x in interval)
    return f"{value} ({low} to {high})"


# --- the figures, in the order of the notebook ------------------------------------------------------------------------


def plot_windows(
    signals: Float[Tensor, "n 8 8"],
    params: Float[Tensor, "n 3 3"],
    canvas: Float[Tensor, "n 8 8"],
    support: Float[Tensor, "n 8 8"],
) -> Figure:
    """Above: digits with a context, a target and a novel window each. Below: these windows on one canvas."""
    fig = digit_grid([to_rgb(signals), to_rgb(canvas, support)], row_labels=["signal", "observed"])
    n = len(signals)
    for i, row in np.ndindex(n, 2):
        for window, color in zip(params[i], (plotting.CONTEXT, plotting.TARGET, plotting.NOVEL), strict=True):
            draw_window(fig.axes[row * n + i], window, color)
    return fig


def plot_denoiser(
    inputs: tuple[Tensor, Tensor, Tensor, Tensor],
    pixel_mean: Float[Tensor, "8 8"],
    posterior_mean: Float[Tensor, "1 8 8"],
    posterior_std: Float[Tensor, "1 8 8"],
) -> Figure:
    """One call of the denoiser for one digit.

    inputs: the context, its support, the noisy target, its support, each (1, 8, 8)
    """
    context, context_support, noisy, target_support = (x[0] for x in inputs)
    images = [to_rgb(context, context_support), to_rgb(noisy, target_support), to_rgb(pixel_mean)]
    images += [to_rgb(posterior_mean[0]), to_rgb(2 * posterior_std[0] - 1)]
    titles = ["context", "noisy target", "pixel mean", "posterior mean g", "std s"]
    return digit_grid([images], col_titles=titles, size=1.3)


def plot_training(
    losses: Mapping[str, Sequence[float]],
    snapshots: Mapping[int, Float[Tensor, "n 8 8"]],
    truth: Float[Tensor, "n 8 8"],
    canvas: Float[Tensor, "n 8 8"],
    support: Float[Tensor, "n 8 8"],
) -> Figure:
    """Left: smoothed losses by step. Right: one sample of each context at several steps, with contexts and truth."""
    columns = {"context": to_rgb(canvas, support)}
    columns |= {f"{step:,} steps": to_rgb(x) for step, x in snapshots.items()} | {"truth": to_rgb(truth)}
    fig = plt.figure(figsize=(10.5, 0.28 + 0.83 * len(truth)))
    left, right = fig.subfigures(1, 2, width_ratios=[1, 1.9])
    ax = left.subplots()
    for (name, loss), color in zip(losses.items(), (plotting.TARGET, plotting.NOVEL), strict=True):
        width = max(1, len(loss) // 50)
        smooth = np.asarray(loss)[: len(loss) // width * width].reshape(-1, width).mean(1)
        ax.plot((np.arange(len(smooth)) + 0.5) * width, smooth, color=color, label=name)
    ax.set(xlabel="training step", ylabel="loss, mean over pixels")
    ax.legend()
    axes = right.subplots(len(truth), len(columns), squeeze=False)
    for column, (title, images) in zip(axes.T, columns.items(), strict=True):
        column[0].set_title(title, loc="center", fontsize=9)
        for ax, image in zip(column, images, strict=True):
            _show(ax, image)
    return fig


def plot_denoising(
    steps: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]], context: Float[Tensor, "3"], target: Float[Tensor, "3"]
) -> Figure:
    """Samples of one context at some times: the noisy target window, and below it the predicted signal.

    steps: (time, noisy target (n, 1, 8, 8), signal (n, 8, 8), window) of each time; context, target: their windows
    """
    rows, n = [], len(steps[0][2])
    support = crop_mask(target, 8)
    for i in range(n):
        rows += [[to_rgb(noisy[i, 0], support) for _, noisy, *_ in steps], [to_rgb(x[i]) for _, _, x, _ in steps]]
    titles = [f"t = {float(t):.2f}" for t, *_ in steps]
    labels = [f"sample {i + 1}, {part}" for i in range(n) for part in ("noisy target", "signal")]
    fig = digit_grid(rows, row_labels=labels, col_titles=titles)
    for row, col in np.ndindex(2 * n, len(steps)):
        ax = fig.axes[row * len(steps) + col]
        draw_window(ax, target, plotting.TARGET)
        if row % 2:
            draw_window(ax, context)
    return fig


def plot_autoregression(
    stages: Stages, truth: Float[Tensor, "8 8"], context: Float[Tensor, "3"], params_sequence: Float[Tensor, "l 3"]
) -> Figure:
    """Samples of one context, window by window: the windows so far, and below them the predicted signal.

    stages: before and after each of L sampled windows, for n samples (n, 8, 8); context: the context's window
    """
    rows, n = [], len(stages[0][0])
    for j in range(n):
        rows.append([*(to_rgb(canvas[j], support[j]) for canvas, support, _ in stages), to_rgb(truth)])
        rows.append([None, *(to_rgb(signal[j]) for _, _, signal in stages[1:]), None])
    titles = ["context", *(f"{k + 1} sampled" for k in range(len(params_sequence))), "truth"]
    labels = [f"sample {j + 1}, {part}" for j in range(n) for part in ("windows", "signal")]
    fig = digit_grid(rows, row_labels=labels, col_titles=titles, size=0.85)
    for j in range(n):
        axes = fig.axes[2 * j * len(titles) :]
        draw_window(axes[0], context)
        for ax, window in zip(axes[1:], params_sequence, strict=False):
            draw_window(ax, window, plotting.TARGET)
    return fig


def autoregression_frames(
    sequences: Sequence[Stages], truth: Float[Tensor, "n 8 8"], contexts: Float[Tensor, "n 3"]
) -> list[UInt8[np.ndarray, "h w 3"]]:
    """Frames of several contexts, a row each: three samples that grow window by window, beside the truth."""
    frames = []
    for k in range(len(sequences[0])):
        rows = []
        for stages, signal in zip(sequences, truth, strict=True):
            (canvas, support, _), (first_canvas, first_support, _) = stages[k], stages[0]
            sampled = (to_rgb(canvas[j], support[j]) for j in range(3))
            rows.append([to_rgb(first_canvas[0], first_support[0]), *sampled, to_rgb(signal)])
        fig = digit_grid(rows, col_titles=["context", "sample", "sample", "sample", "truth"], size=0.8)
        for row, col in np.ndindex(len(rows), 4):
            draw_window(fig.axes[5 * row + col], contexts[row])
        frames += [plotting.figure_to_rgb(fig)] * 2
        plt.close(fig)
    return frames


def plot_toy(truth: Float[Tensor, "c"], samplers: Mapping[str, Float[Tensor, "c k"]]) -> Figure:
    """The histogram of all samples of each sampler in front of that of the true values, pooled over c cases."""
    fig, axes = plt.subplots(1, len(samplers), figsize=(10, 2.1), sharey=True)
    bins = np.linspace(-1.5, 1.5, 31)
    for ax, (name, samples) in zip(axes, samplers.items(), strict=True):
        ax.hist(truth, bins, density=True, color=plotting.MUTED, label="truth")
        ax.hist(samples.flatten(), bins, density=True, color=plotting.SAMPLES, histtype="step", lw=1.5, label="samples")
        ax.set(xlabel="value", xticks=[-1, 0, 1], title=name)
    axes[0].set_ylabel("density")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return fig


def plot_samples(
    truth: Float[Tensor, "n 8 8"] | None,
    canvas: Float[Tensor, "n 8 8"],
    support: Float[Tensor, "n 8 8"],
    samples: Float[Tensor, "n k 8 8"],
    deterministic: Float[Tensor, "n 8 8"] | None,
    windows: Float[Tensor, "n 3"],
    size: float = 0.85,
) -> Figure:
    """A row is a context: truth, context, up to six samples, standard deviation (dark: large), mean, baseline."""
    num_samples = min(6, samples.shape[1])
    columns = [("truth", to_rgb(truth)), ("context", to_rgb(canvas, support))]
    columns += [("sample", to_rgb(samples[:, j])) for j in range(num_samples)]
    columns += [("std", to_rgb(2 * samples.std(1) - 1)), ("mean", to_rgb(samples.mean(1)))]
    if deterministic is not None:
        columns.append(("baseline", to_rgb(deterministic)))
    titles, images = zip(*columns, strict=True)
    fig = digit_grid(list(zip(*images, strict=True)), col_titles=titles, size=size)
    for row, window in enumerate(windows):
        for col in range(1, 2 + num_samples):
            draw_window(fig.axes[row * len(titles) + col], window)
    return fig


def plot_scores(
    energy: Mapping[str, Float[Tensor, "c"]],
    variance: Mapping[str, Float[Tensor, "p"]],
    squared_error: Mapping[str, Float[Tensor, "p"]],
) -> Figure:
    """Left: the energy score of samples against that of the deterministic baseline. Right: spread against error.

    energy: "autoregressive" and "deterministic", one score a context
    variance, squared_error: of "autoregressive" and "one-shot" samples and of their mean, one number a hidden pixel
    """
    fig, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.8))
    x, y = energy["deterministic"], energy["autoregressive"]
    left.scatter(x, y, s=10, color=plotting.SAMPLES, alpha=0.6, lw=0)
    limit = float(x.max()) * 1.05
    left.plot([0, limit], [0, limit], color=plotting.MUTED, lw=1)
    better = float((y < x).float().mean())
    left.set(xlabel="energy score, deterministic", ylabel="energy score, samples", xlim=(0, limit), ylim=(0, limit),
             aspect="equal", title=f"samples better for {better:.0%} of {len(x)} digits")  # fmt: skip
    for name, marker, fill in (("autoregressive", "o-", plotting.SAMPLES), ("one-shot", "o--", "white")):
        groups = variance[name].argsort().tensor_split(10)
        spreads, errors = ([float(x[name][g].mean().sqrt()) for g in groups] for x in (variance, squared_error))
        right.plot(spreads, errors, marker, ms=5, mfc=fill, color=plotting.SAMPLES, label=name)
    right.plot([0, 1], [0, 1], color=plotting.MUTED, lw=1)
    right.set(xlabel="spread of the samples (ink)", ylabel="error of their mean (ink)", xlim=(0, 1), ylim=(0, 1),
              aspect="equal", title="pixels outside of the context")  # fmt: skip
    right.legend(loc="lower right")
    return fig


def plot_labels(
    examples: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]],
    true_label: int,
    curves: Mapping[str, Sequence[float]],
    entropy_floor: float,
    probabilities: Mapping[str, Float[Tensor, "c 10"]],
    labels: Int[Tensor, "c"],
) -> Figure:
    """Above: one digit with 0 to 4 windows. Below: entropy and log-loss by windows, and calibration for one window.

    examples: for each number of windows canvas, support, three samples (3, 8, 8), label probabilities (10,)
    curves: "entropy", "log-loss" and "log-loss, deterministic" by number of windows, in nats
    entropy_floor: the entropy of samples that all equal the truth, in nats
    probabilities: of "samples" and of the "deterministic" prediction for one window
    """
    fig = plt.figure(figsize=(10, 6.4))
    top, bottom = fig.subfigures(2, 1, height_ratios=[1.25, 1])
    axes = top.subplots(3, len(examples))
    for count, (column, (canvas, support, samples, distribution)) in enumerate(zip(axes.T, examples, strict=True)):
        _show(column[0], to_rgb(canvas, support))
        column[0].set_title(f"{count} window{'s' * (count != 1)}", loc="center")
        padded = [torch.nn.functional.pad(x, (1, 1), value=-1) for x in samples]
        _show(column[1], to_rgb(torch.cat(padded, 1)))
        colors = [plotting.TRUE if label == true_label else plotting.SAMPLES for label in range(10)]
        column[2].bar(range(10), distribution, color=colors)
        column[2].set(ylim=(0, 1), xticks=range(10), yticks=[0, 1])
        column[2].set_xlabel("label")
    for ax, label in zip(axes[:, 0], ("context", "three\nsamples", "probability"), strict=True):
        ax.set_ylabel(label)
    top.align_ylabels(axes[:, 0])
    left, right = bottom.subplots(1, 2)
    styles = (("s--", plotting.SAMPLES, "white"), ("o-", plotting.SAMPLES, None), ("^-", plotting.BASELINE, None))
    for (name, curve), (marker, color, fill) in zip(curves.items(), styles, strict=True):
        left.plot(range(len(curve)), curve, marker, color=color, mfc=fill or color, label=name)
    left.axhline(entropy_floor, color=plotting.SAMPLES, lw=1, ls=":", label="floor of the entropy")
    left.set(xlabel="windows in the context", ylabel="nats, per context", xticks=range(len(examples)), ylim=(0, None))
    left.legend(handlelength=3.5)
    _plot_calibration(right, probabilities, labels)
    return fig


def _plot_calibration(ax: Axes, probabilities: Mapping[str, Float[Tensor, "c 10"]], labels: Int[Tensor, "c"]) -> None:
    """Accuracy of the likeliest label against its probability, in six groups of equally many contexts."""
    ax.plot([0, 1], [0, 1], color=plotting.MUTED, lw=1)
    for name, marker, color in (("samples", "o-", plotting.SAMPLES), ("deterministic", "^-", plotting.BASELINE)):
        confidence, predicted_label = probabilities[name].max(1)
        correct = (predicted_label == labels).float()
        groups = confidence.argsort().tensor_split(6)
        confidences, accuracies = ([float(x[g].mean()) for g in groups] for x in (confidence, correct))
        ax.plot(confidences, accuracies, marker, color=color, ms=7, mfc="none", label=name)
    ax.set(xlabel="probability of the likeliest label", ylabel="fraction that is right", xlim=(0, 1.02),
           ylim=(0, 1.04), title="one window")  # fmt: skip
    ax.legend(loc="lower right")


def plot_sweep(sweep: Mapping[str, Mapping[str, float]]) -> Figure:
    """Three measures of each variant: label -> "energy", "spread_skill", both also "_one_shot", and "psnr"."""
    fig, axes = plt.subplots(1, 3, figsize=(9.5, 3.6), sharey=True)
    positions = np.arange(len(sweep))[::-1]
    panels = (("energy score", "energy", None, ""), ("spread over error", "spread_skill", 1.0, "calibrated (1)"),
              ("agreement with the context (dB)", "psnr", 25.0, "required (25 dB)"))  # fmt: skip
    for ax, (label, key, reference, meaning) in zip(axes, panels, strict=True):
        ax.plot([row[key] for row in sweep.values()], positions, "o", color=plotting.SAMPLES, label="autoregressive")
        if f"{key}_one_shot" in next(iter(sweep.values())) and key != "psnr":
            one_shot = [row[f"{key}_one_shot"] for row in sweep.values()]
            ax.plot(one_shot, positions, "o", mfc="none", color=plotting.SAMPLES, label="one-shot")
        if reference is not None:
            ax.axvline(reference, color=plotting.TRUE, lw=1)
            ax.set_title(f"line: {meaning}")
        ax.set(xlabel=label, yticks=positions, yticklabels=list(sweep))
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return fig


def _show(ax: Axes, image: Tensor) -> None:
    """An image with a frame and without ticks."""
    ax.imshow(image)
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    ax.spines[:].set(visible=True, color=plotting.MUTED)
