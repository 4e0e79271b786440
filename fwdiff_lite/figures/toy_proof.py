"""Figures and tables of 01_toy_proof. Signals are points in the plane (n, 2); an observation is a projection."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Markdown
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from fwdiff_lite.observations import Observations
from fwdiff_lite.plotting import ANCESTRAL, BASELINE, CONTEXT, DDIM, MUTED, OTHER, SAMPLES, TARGET, TRUE
from fwdiff_lite.problems.toy.mixture import GaussianMixture
from fwdiff_lite.problems.toy.projections import perpendicular
from fwdiff_lite.problems.toy.unreachable_mean import optimal_binary_signal

EXTENT = 2.8  # of the plane that is drawn
LINE_EXTENT = 2.6  # of a context's line
LINE_LABEL = "coordinate along the line"
NUMBER_FORMATS = {  # of the tests in experiments.projection_tests
    "C2ST accuracy": "{:.3f}",
    "energy gap": "{:+.1%}",
    "spread over error": "{:.2f}",
    "W1 ratio": "{:.1f}",
    "SBC, least p": "{:.1g}",
    "TARP, gap": "{:.3f}",
}


def problem(signals: Float[Tensor, "n 2"], context: Observations, prior: GaussianMixture, exact: Tensor) -> Figure:
    """Left: signals, and the line that one observation leaves. Right: the true posterior on that line.

    context: one projection of one signal; exact (1, m, 2): draws from its posterior
    """
    fig, (left, right) = plt.subplots(1, 2, figsize=(9, 4), width_ratios=[1, 1.15])
    phi = context.params[0, 0]
    _draw_plane(left, "hidden: 4,000 signals; observed: one number", ticks=True)
    left.scatter(*signals.T, s=3, color=MUTED, linewidths=0, label="signals")
    ends = context.value[0] * phi + torch.tensor([[-LINE_EXTENT], [LINE_EXTENT]]) * perpendicular(phi)
    left.plot(*ends.T, color=CONTEXT, lw=1.2, label="possible signals")
    left.scatter(*exact[0, :150].T, s=9, color=TRUE, zorder=3, linewidths=0, label="posterior draws")
    _draw_direction(left, phi)
    left.legend(loc="lower left", markerscale=2, handletextpad=0.4)
    grid, densities = posterior_densities(prior, context)
    right.plot(grid, densities[0], color=TRUE, label="closed form")
    coordinates = exact[0] @ perpendicular(phi)
    right.hist(coordinates, bins=60, density=True, color=MUTED, label=f"{len(coordinates):,} exact draws")
    right.set(xlabel=LINE_LABEL, ylabel="density", title="the true posterior on that line")
    right.set_ylim(0, 1.3 * float(densities.max()))
    right.legend(loc="upper left", ncols=2)
    return fig


def posterior_densities(prior: GaussianMixture, context: Observations) -> tuple[Tensor, Float[Tensor, "b 400"]]:
    """400 coordinates along a context's line, and the density of the true posterior there for each context."""
    grid = torch.linspace(-LINE_EXTENT, LINE_EXTENT, 400, dtype=torch.float64)
    directions = perpendicular(context.params[:, 0])
    points = grid[:, None] * directions[:, None]
    return grid, prior.posterior(context).projected_log_density(points, directions).exp()


def denoising(
    steps: Sequence[tuple[Tensor, Float[Tensor, "n"], Float[Tensor, "n 2"]]],
    along_line: Float[Tensor, "n 2"],
    prior: GaussianMixture,
    context: Observations,
) -> Figure:
    """Sampling, from noise (left) to the clean target: noisy targets, predicted coordinates, and the final histogram.

    steps: time, noisy targets and predicted signals; along_line: unit vectors along the line of the one context
    """
    times, targets, signals = zip(*steps, strict=True)
    targets, predictions = torch.stack(targets), (torch.stack(signals) * along_line).sum(-1)
    fig, axes = plt.subplots(1, 3, figsize=(10, 3.5), sharey=True, width_ratios=[1.3, 1.3, 1])
    for ax, paths, color, title in (
        (axes[0], targets, TARGET, "noisy targets $O_t$, 60 of them"),
        (axes[1], predictions, SAMPLES, "predicted signals $S$, on the line"),
    ):
        ax.plot(times, paths[:, :60], color=color, lw=0.8, alpha=0.6)
        ax.set(xlim=(1, 0), ylim=(-3, 3), xlabel="time t (1: noise, 0: clean)", title=title)
    axes[0].set_ylabel(LINE_LABEL)
    grid, densities = posterior_densities(prior, context)
    axes[2].hist(
        predictions[-1], bins=60, range=(-3, 3), density=True, orientation="horizontal", color=SAMPLES, alpha=0.45
    )
    axes[2].plot(densities[0], grid, color=TRUE)
    axes[2].set(xlabel="density", title="samples, and the truth (line)")
    return fig


def convergence(
    counts: Sequence[int],
    distances: Mapping[tuple[int, float], Sequence[float]],
    sampling_errors: Sequence[float],
) -> Figure:
    """Distance to the true posterior against the number of sampling steps.

    distances: of each (angle between target and context in degrees, eta); sampling_errors: distances of exact draws
    """
    fig, ax = plt.subplots(figsize=(7.5, 4))
    dashes = {90: "o-", 30: "s--", 10: "^:"}
    for (degrees, eta), values in distances.items():
        name, color = ("ancestral", ANCESTRAL) if eta else ("DDIM", DDIM)
        ax.plot(counts, values, dashes[degrees], color=color, ms=4, label=f"{name}, target at {degrees}°")
    ax.axhspan(
        min(sampling_errors),
        max(sampling_errors),
        color=MUTED,
        alpha=0.6,
        lw=0,
        label=f"{len(sampling_errors)} sets of exact draws",
    )
    ax.set(xscale="log", yscale="log", xlabel="sampling steps", ylabel="Wasserstein-1 to exact draws")
    ax.set_xticks(counts, [str(k) for k in counts])
    ax.set_yticks([0.02, 0.05, 0.1, 0.2, 0.5], ["0.02", "0.05", "0.1", "0.2", "0.5"])
    ax.minorticks_off()
    ax.set_title("With the ideal denoiser, samples become as close to exact draws as these are to each other")
    ax.legend(loc="upper right")
    return fig


def loss_curve(losses: Float[np.ndarray, "steps"], ideal_losses: Sequence[float], batch_ratio: float) -> Figure:
    """The loss of every training step, averaged over windows, and the loss of the ideal denoiser.

    ideal_losses: of the ideal denoiser on batches that are batch_ratio times as large as those of the training
    """
    window = max(1, len(losses) // 150)
    curve = np.array(losses)[: len(losses) // window * window].reshape(-1, window).mean(1)
    mean, spread = np.mean(ideal_losses), 2 * np.std(ideal_losses) * math.sqrt(batch_ratio / window)
    fig, ax = plt.subplots(figsize=(7.5, 3))
    label = f"ideal denoiser (band: chance in the mean of {window} batches)"
    ax.axhspan(mean - spread, mean + spread, color=MUTED, alpha=0.6, lw=0, label=label)
    ax.axhline(mean, color=TRUE, lw=1)
    ax.plot((np.arange(len(curve)) + 0.5) * window, curve, color=SAMPLES, label="network")
    ax.set(xlabel="training step", ylabel="Eq. 8 + Eq. 9", title="The loss falls to its known minimum")
    ax.set_ylim(mean - 0.03, max(mean + 0.1, np.quantile(curve, 0.99)))
    ax.legend(loc="upper right")
    return fig


def before_and_after(
    prior: GaussianMixture, contexts: Observations, before: Float[Tensor, "c n"], after: Float[Tensor, "c n"]
) -> Figure:
    """Samples of each context before (top) and after the training (bottom), and the true posterior."""
    fig, axes = plt.subplots(2, len(contexts), figsize=(10, 4.4), sharex=True, sharey="col")
    grid, densities = posterior_densities(prior, contexts)
    for row, samples in zip(axes, (before, after), strict=True):
        for i, ax in enumerate(row):
            ax.hist(samples[i], bins=60, range=(-LINE_EXTENT, LINE_EXTENT), density=True, color=SAMPLES, alpha=0.45)
            ax.plot(grid, densities[i], color=TRUE, lw=1.3)
            ax.set_yticks([])
    for i, (top, bottom) in enumerate(axes.T):
        x, y = contexts.params[i, 0].tolist()
        top.set_title(f"O = {float(contexts.value[i]):.2f} at {math.degrees(math.atan2(y, x)):.0f}°")
        bottom.set_xlabel(LINE_LABEL)
    axes[0, 0].set_ylabel("before training")
    axes[1, 0].set_ylabel("after training")
    fig.suptitle("Samples (blue) of four contexts, and the true posterior (grey line)", x=0.01, ha="left")
    return fig


def scorecard(scores: Mapping[str, Mapping[str, float]], rejected: Mapping[str, Mapping[str, bool]]) -> Figure:
    """One row a test, one column a sampler: the score, and whether the test rejects the sampler."""
    samplers = list(next(iter(scores.values())))
    fig, ax = plt.subplots(figsize=(9.5, 0.55 * len(scores) + 0.6))
    for i, test in enumerate(scores):
        ax.text(-0.1, -i - 0.45, test, ha="right", va="center")
        for j, name in enumerate(samplers):
            color, opacity = (OTHER, 0.4) if rejected[test][name] else (MUTED, 0.4)
            ax.add_patch(plt.Rectangle((j, -i), 0.94, -0.9, color=color, alpha=opacity, lw=0))
            text = NUMBER_FORMATS[test].format(scores[test][name])
            ax.text(j + 0.47, -i - 0.45, text, ha="center", va="center", fontsize=9.5)
    for j, name in enumerate(samplers):
        ax.text(j + 0.47, 0.15, name, ha="center", weight="bold" if name == "learnt" else "normal")
    ax.text(1.0, 0.75, "grey: not rejected", ha="center", fontsize=9)
    ax.text(4.5, 0.75, "five negative controls; purple: rejected", ha="center", fontsize=9)
    ax.set(xlim=(-1.7, len(samplers)), ylim=(-len(scores), 1.2))
    ax.axis("off")
    return fig


def wedges(
    signals: Float[Tensor, "n 2"],
    examples: Mapping[int, Float[Tensor, "m 2"]],
    degrees: Sequence[int],
    signal_c2st: Sequence[float],
    observation_c2st: Sequence[float],
) -> Figure:
    """Samples where all directions lie in a wedge, and the two-sample test of signals and observations by its angle."""
    fig, axes = plt.subplots(1, len(examples) + 1, figsize=(11, 3.3), width_ratios=[1] * len(examples) + [1.35])
    for ax, (angle, points) in zip(axes, examples.items(), strict=False):
        _draw_plane(ax, f"wedge of {angle}°")
        ax.scatter(*signals.T, s=3, color=MUTED, linewidths=0)
        ax.scatter(*points.T, s=3, color=SAMPLES, linewidths=0)
    right = axes[-1]
    right.plot(range(len(degrees)), signal_c2st, "o-", color=SAMPLES, label="signals")
    style = {"color": SAMPLES, "mfc": "white", "label": "observations in the wedge"}
    right.plot(range(len(degrees)), observation_c2st, "s--", **style)
    right.axhline(0.5, color=TRUE, lw=1, ls=":")
    right.set_xticks(range(len(degrees)), [f"{w}°" for w in degrees])
    right.set(xlabel="wedge", ylabel="C2ST accuracy", title="signals wrong, observations right", ylim=(0.45, 1.03))
    right.legend(loc="upper right", handlelength=3)
    return fig


def space(truth: Float[Tensor, "n 3"], one_shot: Float[Tensor, "n 3"], autoregressive: Float[Tensor, "n 3"]) -> Figure:
    """Second and third coordinate of signals in R^3: true ones, and those of the two ways to sample."""
    fig, axes = plt.subplots(1, 3, figsize=(9.5, 3.5), sharex=True, sharey=True)
    for ax, points, title, color in (
        (axes[0], truth, "truth", TRUE),
        (axes[1], one_shot, "one-shot: conditional means", BASELINE),
        (axes[2], autoregressive, "autoregressive", SAMPLES),
    ):
        ax.scatter(points[:3000, 1], points[:3000, 2], s=3, color=color, linewidths=0, alpha=0.7)
        ax.set(title=title, xlabel="$S_2$ (first target)")
    axes[0].set_ylabel("$S_3$ (unseen by context and first target)")
    return fig


def unreachable_mean(
    p_plus: float,
    weights: Sequence[float],
    fractions: Mapping[float, Sequence[float]],
    noise_dependent: Sequence[float],
    step_counts: Sequence[int],
    fractions_by_steps: Mapping[float, Sequence[float]],
) -> Figure:
    """The bias of the binary signal: the network's output, and the fraction of +1 by novel weight and by steps.

    fractions, fractions_by_steps: for each eta; noise_dependent: with a novel weight that vanishes at high noise
    """
    styles = {
        0.0: ("DDIM, η = 0", DDIM, "o-"),
        0.5: ("η = 0.5", OTHER, "s--"),
        1.0: ("ancestral, η = 1", ANCESTRAL, "^-"),
    }
    fig, (left, center, right) = plt.subplots(1, 3, figsize=(11, 3.6))
    m = torch.linspace(-1, 1, 401, dtype=torch.float64)
    for w, dash in ((0.0, ":"), (0.1, "--"), (1.0, "-")):
        left.plot(m, optimal_binary_signal(m, w), dash, color=SAMPLES, label=f"w = {w:g}")
    left.set(xlabel="the mean, $m = E[S | O_t]$", ylabel="network output $s$", title="the minimiser of the losses")
    left.legend(loc="upper left")
    for eta, (label, color, dash) in styles.items():
        center.plot(range(len(weights)), fractions[eta], dash, ms=4, color=color, label=label)
        right.plot(step_counts, fractions_by_steps[eta], dash, ms=4, color=color)
    label = r"DDIM, weight $w\,\alpha^2$"
    center.plot(range(len(weights)), noise_dependent, "D:", ms=4, mfc="white", color=DDIM, label=label)
    center.set_xticks(range(len(weights)), [f"{w:g}" for w in weights])
    center.set(xlabel="novel weight $w$", ylabel="fraction of $+1$", title="the bias by novel weight")
    center.legend(loc="upper left", handlelength=3)
    right.set(
        xscale="log", xlabel="sampling steps", ylabel="fraction of $+1$", title="more steps hardly help ($w = 1$)"
    )
    right.set_xticks(step_counts, [str(k) for k in step_counts])
    right.minorticks_off()
    for ax in (center, right):
        ax.axhline(p_plus, color=TRUE, lw=1, ls=":")
        ax.set_ylim(0.66, 0.96)
    right.text(step_counts[-1], p_plus - 0.004, "truth", ha="right", va="top", color=TRUE, fontsize=9)
    return fig


def observation_counts(
    counts: Sequence[int],
    finite: Mapping[int, Float[np.ndarray, "seeds k"]],
    infinite: Sequence[float],
    live: tuple[int, float],
) -> Figure:
    """Two-sample test by the projections of each signal, for data sets of several sizes.

    finite: accuracies by the number of signals; infinite: with new signals in every step; live: (count, accuracy) of
    the training in the notebook
    """
    fig, ax = plt.subplots(figsize=(7.5, 3.8))
    positions = np.arange(len(counts) + 1)
    for (n, accuracies), fill, dash in zip(finite.items(), ("white", SAMPLES), ("s--", "o-"), strict=True):
        ax.plot(positions[:-1], accuracies.mean(0), dash[1:], color=SAMPLES)
        for row in accuracies:
            ax.plot(positions[:-1], row, dash[0], color=SAMPLES, mfc=fill, ms=4)
        ax.plot([], [], dash, color=SAMPLES, mfc=fill, ms=4, label=f"{n:,} signals")
    ax.plot([positions[-1]] * len(infinite), infinite, "D", color=SAMPLES, ms=4, label="infinitely many signals")
    label = f"{list(finite)[-1]:,} signals, trained here"
    ax.plot(counts.index(live[0]), live[1], "*", color=SAMPLES, mec="black", ms=14, label=label, zorder=5)
    ax.axhline(0.5, color=TRUE, lw=1, ls=":")
    ax.set_xticks(positions, [*(str(k) for k in counts), "∞"])
    ax.set(xlabel="projections of each signal", ylabel="C2ST accuracy (0.5 is ideal)")
    ax.set_title("More projections of each signal help, and so do more signals")
    ax.legend(loc="upper right", handlelength=3)
    return fig


def baselines(
    signals: Float[Tensor, "n 2"], points: Mapping[str, Float[Tensor, "m 2"]], accuracy: Mapping[str, float]
) -> Figure:
    """One sample of each model for many contexts, over the true signals; in the title, the two-sample test."""
    titles = {"regression": "regression", "vae": "VAE", "ours": "forward diffusion", "oracle": "oracle (sees S)"}
    colors = {"regression": BASELINE, "vae": OTHER, "ours": SAMPLES, "oracle": OTHER}
    fig, axes = plt.subplots(1, len(titles), figsize=(11, 3.3))
    for ax, (name, title) in zip(axes, titles.items(), strict=True):
        _draw_plane(ax, f"{title}: {accuracy[name]:.2f}")
        ax.scatter(*signals.T, s=3, color=MUTED, linewidths=0)
        ax.scatter(*points[name].T, s=3, color=colors[name], linewidths=0, alpha=0.8)
    title = f"One sample for each of {len(points['ours']):,} contexts, and its C2ST (0.5 is ideal); grey: truth"
    fig.suptitle(title, x=0.01, ha="left")
    return fig


def posterior_samples(signals: Float[Tensor, "n 2"], points: Float[Tensor, "m 2"], context: Observations) -> Figure:
    """Samples of one context, over the true signals."""
    fig, ax = plt.subplots(figsize=(4.6, 4.3))
    phi = context.params[0, 0]
    degrees = math.degrees(math.atan2(phi[1], phi[0]))
    _draw_plane(ax, f"S given O = {float(context.value[0]):.2f} at {degrees:.0f}°", ticks=True)
    ax.scatter(*signals.T, s=3, color=MUTED, linewidths=0)
    ax.scatter(*points.T, s=7, color=SAMPLES, linewidths=0)
    _draw_direction(ax, phi)
    return fig


def noise_table(results: Mapping[str, Mapping[str, float]], levels: Sequence[float]) -> Markdown:
    """Two-sample test and residual of the context by sampler and noise level, from recorded results."""
    titles = {
        "full": "forward diffusion",
        "exact": "exact draws",
        "ignored": "exact draws, noise ignored",
        "doubled": "exact draws, noise doubled",
    }
    columns = [f"noise {level:g}: {name}" for level in levels for name in ("C2ST", "residual / noise")]
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, title in titles.items():
        numbers = [results[name][f"{measure}_{level:g}"] for level in levels for measure in ("c2st", "residual")]
        lines.append(f"| {title} | " + " | ".join(f"{x:.3f}" for x in numbers) + " |")
    return Markdown("\n".join(lines))


def _draw_plane(ax: Axes, title: str, ticks: bool = False) -> None:
    ax.set(xlim=(-EXTENT, EXTENT), ylim=(-EXTENT, EXTENT), aspect="equal", title=title)
    if ticks:
        ax.set(xlabel="$S_1$", ylabel="$S_2$")
    else:
        ax.set(xticks=[], yticks=[])


def _draw_direction(ax: Axes, phi: Float[Tensor, "2"]) -> None:
    x, y = phi.tolist()
    ax.annotate("", xy=(x, y), xytext=(0, 0), arrowprops={"arrowstyle": "->", "color": CONTEXT, "lw": 2})
    ax.text(1.15 * x, 1.15 * y, r"$\phi$", color=CONTEXT, fontsize=12, ha="center", va="center")
