"""The figures and tables of 08_your_own_forward_model: random walks, their measurements, samples and posteriors."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from fwdiff_lite.metrics import Interval
from fwdiff_lite.observations import Observations
from fwdiff_lite.plotting import CONTEXT, MUTED, SAMPLES, TRUE
from fwdiff_lite.training import TrainingLog

MEASURES = {"energy_gap": "energy score, gap", "spread": "spread over error", "residual": "residual", "c2st": "C2ST"}


def draw_measurements(
    walk: Float[Tensor, "1 d"], measurements: Mapping[str, Observations], widths: Mapping[str, int]
) -> Figure:
    """One walk, with its measurements by several sensors, one panel each.

    measurements: by the sensor's name, of the one walk; params hold the first index and the noise's standard deviation
    widths: how many values each sensor averages; a bar spans them
    """
    fig, axes = plt.subplots(1, len(measurements), figsize=(9, 3.2), sharey=True, squeeze=False)
    for ax, (name, observations) in zip(axes[0], measurements.items(), strict=True):
        ax.plot(walk[0], "o-", ms=3, lw=1, color=TRUE, label="hidden walk")
        _plot_observations(ax, observations, widths[name])
        ax.set(title=f"sensor of {name}", xlabel="index of the value")
    axes[0, 0].set_ylabel("value")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return fig


def _plot_observations(ax: Axes, observations: Observations, width: int = 1, label: str = "measurement") -> None:
    """The existing measurements of one signal, each as a bar over its values with an error bar of the noise."""
    mask = observations.mask[0]
    value, params = observations.value[0, mask], observations.params[0, mask]
    start = params[:, 0]
    ax.set_xticks(range(0, 16, 5))
    ax.hlines(value, start - 0.3, start + width - 0.7, color=CONTEXT, lw=2, label=label)
    ax.errorbar(start + (width - 1) / 2, value, params[:, 1], fmt="none", ecolor=CONTEXT, lw=1)


def draw_training(log: TrainingLog) -> Figure:
    """The losses of a training at every step, as means of 10, and the validation's."""
    fig, ax = plt.subplots(figsize=(6.5, 3))
    size = max(1, min(10, len(log.curve["loss"]) // 2))
    curve = np.asarray(log.curve["loss"][: len(log.curve["loss"]) // size * size]).reshape(-1, size).mean(1)
    ax.plot(np.arange(len(curve)) * size + size / 2, curve, lw=1, color=TRUE, label=f"training, mean of {size} steps")
    ax.plot(log.validation["steps"], log.validation["loss"], "o-", ms=4, color=SAMPLES, label="validation files")
    ax.set(xlabel="training step", ylabel="weighted loss")
    ax.legend()
    return fig


def draw_path(
    path: Sequence[tuple[float, Float[Tensor, "k d"]]], context: Observations, walk: Float[Tensor, "d"]
) -> Figure:
    """Predicted signals of one context at four times t; path: (t, signals) at every step of the sampler."""
    fig, axes = plt.subplots(1, 4, figsize=(10.5, 3.2), sharey=True)
    for ax, k in zip(axes, np.linspace(0, len(path) - 1, 4).round().astype(int), strict=True):
        t, signals = path[k]
        ax.plot(signals.T, color=SAMPLES, lw=0.7, alpha=0.5, label=["predicted signals"] + ["_"] * (len(signals) - 1))
        ax.plot(walk, color=TRUE, lw=1.5, ls="--", label="true walk")
        _plot_observations(ax, context)
        ax.set(title=f"t = {t:.2f}", xlabel="index of the value")
    axes[0].set_ylabel("value")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return fig


def draw_before_after(
    before: Float[Tensor, "c k d"],
    after: Float[Tensor, "c k d"],
    contexts: Observations,
    walks: Float[Tensor, "c d"],
    posterior: tuple[Float[Tensor, "c d"], Float[Tensor, "c d d"]],
) -> Figure:
    """Samples of the same contexts by the untrained and by the trained model; columns are contexts.

    posterior: the exact mean and covariance, drawn as the mean and a band of 95 %
    """
    fig, axes = plt.subplots(2, len(contexts), figsize=(9.5, 4.8), sharex=True, sharey=True)
    for row, samples, name in ((axes[0], before, "before the training"), (axes[1], after, "after the training")):
        for i, ax in enumerate(row):
            plot_posterior(ax, samples[i], contexts[i], walks[i], posterior[0][i], posterior[1][i].diagonal().sqrt())
        row[0].set(title=name, ylabel="value")
    for ax in axes[1]:
        ax.set_xlabel("index of the value")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return fig


def plot_posterior(
    ax: Axes,
    samples: Float[Tensor, "k d"],
    context: Observations,
    walk: Float[Tensor, "d"] | None,
    mean: Float[Tensor, "d"],
    std: Float[Tensor, "d"],
    width: int = 1,
) -> None:
    """Samples of one context over the exact posterior's mean and its band of 1.96 standard deviations."""
    index = np.arange(len(mean))
    ax.fill_between(index, mean - 1.96 * std, mean + 1.96 * std, color=MUTED, alpha=0.6, lw=0, label="exact 95 % band")
    ax.plot(mean, color=TRUE, lw=1, label="exact mean")
    ax.plot(samples.T, color=SAMPLES, lw=0.6, alpha=0.45, label=["samples"] + ["_"] * (len(samples) - 1))
    if walk is not None:
        ax.plot(walk, color=TRUE, lw=1.5, ls="--", label="true walk")
    _plot_observations(ax, context, width)


def draw_saturated(
    panels: Mapping[str, Float[Tensor, "k d"]], context: Observations, walk: Float[Tensor, "d"]
) -> Figure:
    """Samples of one context, a panel for each sampler; measurements of a sensor that shows values within -1 and 1."""
    fig, axes = plt.subplots(1, len(panels), figsize=(9.5, 3.2), sharey=True)
    for ax, (name, samples) in zip(axes, panels.items(), strict=True):
        color = TRUE if name.startswith("exact") else SAMPLES
        ax.plot(samples.T, color=color, lw=0.7, alpha=0.6)
        ax.plot(walk, color=TRUE, lw=1.5, ls="--", label="true walk")
        ax.axhspan(-1, 1, color=MUTED, alpha=0.3, lw=0, label="range of the sensor")
        _plot_observations(ax, context, label="measurement: saturated value and noise")
        ax.set(title=name, xlabel="index of the value")
    axes[0].set_ylabel("value")
    fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return fig


def draw_one(
    samples: Float[Tensor, "k d"],
    context: Observations,
    posterior: tuple[Float[Tensor, "1 d"], Float[Tensor, "1 d d"]],
) -> Figure:
    """Samples of one context over the exact posterior."""
    fig, ax = plt.subplots(figsize=(6.5, 3.4))
    plot_posterior(ax, samples, context, None, posterior[0][0], posterior[1][0].diagonal().sqrt())
    ax.set(xlabel="index of the value", ylabel="value", ylim=(-3, 3))
    ax.legend(ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.2))
    return fig


def draw_variances(variances: Mapping[str, tuple[Float[Tensor, "d"], Float[Tensor, "d"]]]) -> Figure:
    """Variance of samples about the exact mean beside the exact variance, at every index; one panel a sensor."""
    fig, axes = plt.subplots(1, len(variances), figsize=(9, 3.2), sharey=True, squeeze=False)
    for ax, (name, (sampled, exact)) in zip(axes[0], variances.items(), strict=True):
        ax.plot(exact, color=TRUE, lw=3, alpha=0.5, label="exact posterior")
        ax.plot(sampled, "o-", ms=3, color=SAMPLES, label="samples")
        ax.set(title=name, xlabel="index of the value", ylim=(0, None))
    axes[0, 0].set_ylabel("variance, mean over contexts")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return fig


def to_metrics(results: Mapping[str, Mapping[str, Interval | float]], prefix: str) -> dict[str, float]:
    """The results of several samplers as keys of metrics.json: PREFIX_MEASURE for "samples", else with its name."""
    numbers: dict[str, float] = {}
    for sampler, row in results.items():
        middle = "" if sampler == "samples" else "_" + sampler.replace(" x ", "_").replace(" ", "_").replace(".", "")
        for measure, value in row.items():
            key = f"{prefix}{middle}_{measure}"
            numbers |= value.as_metrics(key) if isinstance(value, Interval) else {key: value}
    return numbers


def results_table(results: Mapping[str, Mapping[str, Interval | float]]) -> Markdown:
    """One row a sampler, one column a measure, with intervals of 95 %; the gap of energy scores is in per cent."""

    def cell(measure: str, value: Interval | float) -> str:
        factor, end = (100, " %") if measure == "energy_gap" else (1, "")
        digits = 1 if measure == "energy_gap" else 2
        if not isinstance(value, Interval):
            return f"{value:.3f}" if measure == "c2st" else f"{value:.2f}"
        middle, low, high = (f"{round(factor * x, digits) + 0:.{digits}f}" for x in value)  # + 0: never "-0.0"
        return f"{middle}{end} ({low} to {high})"

    measures = list(next(iter(results.values())))
    lines = [["", *(MEASURES[m] for m in measures)], ["---"] * (len(measures) + 1)]
    lines += [[name, *(cell(m, row[m]) if m in row else "" for m in measures)] for name, row in results.items()]
    return Markdown("\n".join(f"| {' | '.join(line)} |" for line in lines))
