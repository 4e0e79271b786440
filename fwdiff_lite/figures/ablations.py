"""The figures and tables of 07_ablations. They take recorded metrics and images, and return figures or Markdown."""

from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Markdown
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from fwdiff_lite import plotting
from fwdiff_lite.experiments.inverse_graphics.ablations import ORBIT_ANGLES, SAMPLER_OPTIONS
from fwdiff_lite.experiments.inverse_graphics.held_out import NOVEL_ANGLE_RATIO, TARGET_ANGLES
from fwdiff_lite.experiments.inverse_graphics.variants import FULL_MODEL
from fwdiff_lite.metrics import Interval

LABELS = {
    "redrawn": "exact draws",
    "mixed": "exact draws, shuffled views",
    "prior": "prior draws",
    "unet": "the full model",
    "reseeded": "another seed",
    "view_space": "view space",
    "distilled": "view space, distilled",
    "deterministic": "deterministic",
    "unconditional": "unconditional",
    "no_render": "no render",
    "no_features": "render, no features",
    "no_depth": "render, no depth",
    "no_novel": "no novel loss",
    "dit": "DiT encoder",
    "around": "two contexts, given one",
    "around_two": "two contexts, given two",
    "one_shot": "two contexts, one-shot",
    "autoregressive": "two contexts, autoregressive",
    "plain": "context dropout, eta 0",
}
MEASURES = {  # of the table: a metric's key -> its title and number of digits
    "energy_skill_180": ("skill", 2),
    "spread_skill_180": ("spread over error", 2),
    "hidden_factor_tv": ("error of probabilities", 3),
    "consistency_180": ("agreement of two views, dB", 1),
    "lean": ("mode bias", 3),
}
SAMPLER_MEASURES = {  # a metric's key -> its title, its best value, and the limits of the axis
    "spread_skill_180": ("spread over error", 1, (0.78, 1.02)),
    "energy_gain": ("energy score,\n% above plain", 0, (-1.5, 22)),
    "factor_tv": ("error of probabilities", 0, (-0.01, 0.15)),
    "lean": ("mode bias", 0, (-0.055, 0.07)),
}
EDGE = 15  # per cent: gains above it are written at the edge
Numbers = Mapping[str, float]


def example_views(images: Mapping[str, np.ndarray], name: str) -> Float[Tensor, "scenes two h w 3"]:
    """Two views, from behind and from 135 degrees, of one sample of each example scene."""
    return to_images(images[f"{name}_images"])[:, 0]


def to_images(images: UInt8[np.ndarray, "*b 3 h w"]) -> Float[Tensor, "*b h w 3"]:
    """Recorded images with channels last, in [0, 1]."""
    return torch.from_numpy(images).movedim(-3, -1) / 255


def draw_views(context: Float[Tensor, "scenes 1 h w 3"], images: Mapping[str, np.ndarray]) -> Figure:
    """Rows: scenes. Columns: the context, then the two views of an exact draw, of the full model and of view space."""
    names = ["redrawn", FULL_MODEL, "view_space"]
    titles = ["context", *(f"{LABELS[name]}\n{d}°" for name in names for d in (180, 135))]
    return plotting.image_grid(
        torch.cat([context, *(example_views(images, name) for name in names)], 1), size=1.25, col_titles=titles
    )


def draw_ring(images: Mapping[str, np.ndarray], angles: Sequence[int] = (70, 100, 130, 190, 220, 250)) -> Figure:
    """One scene seen from several sides. Rows: pictures of view space, the same distilled, the full model."""
    rows = {"painted": "view space", "distilled": "distilled", FULL_MODEL: LABELS[FULL_MODEL]}
    columns = [ORBIT_ANGLES.index(angle) for angle in angles]
    views = torch.cat([to_images(images[f"orbit_{name}"])[:, columns] for name in rows])
    return plotting.image_grid(views, size=1.6, row_labels=[*rows.values()], col_titles=[f"{d}°" for d in angles])


def draw_agreement(metrics: Mapping[str, Numbers], names: Sequence[str]) -> Figure:
    """The agreement of two views of each sampler, in dB, with 95 % intervals, for three pairs of angles."""
    fig, ax = plt.subplots(figsize=(8, 3.4), layout="constrained")
    for j, (angle, marker) in enumerate(zip(TARGET_ANGLES, "os^", strict=True)):
        value, low, high = ends(metrics, names, f"consistency_{angle}")
        x = np.arange(len(names)) + 0.2 * (j - 1)
        label = f"{angle}° and {round(NOVEL_ANGLE_RATIO * angle)}°"
        for i, name in enumerate(names):
            error_bar = [[value[i] - low[i]], [high[i] - value[i]]]
            style = {"fmt": marker, "capsize": 3, "color": colour(name), "label": label if i == 0 else None}
            ax.errorbar(x[i], value[i], error_bar, **style)
    ax.set(ylabel="agreement of two views, dB", ylim=(0, None))
    ax.set_xticks(range(len(names)), [LABELS[name].replace(", ", ",\n") for name in names])
    handles = [plt.Line2D([], [], marker=marker, ls="", color=plotting.TRUE) for marker in "os^"]
    labels = [f"{d}° and {round(NOVEL_ANGLE_RATIO * d)}°" for d in TARGET_ANGLES]
    fig.legend(handles, labels, loc="outside upper right", ncols=3)
    return fig


def colour(name: str) -> str:
    """The colour of a sampler's role."""
    roles = {"redrawn": plotting.TRUE, "mixed": plotting.CONTROL, "deterministic": plotting.BASELINE}
    return roles.get(name, plotting.MUTED if name == "reseeded" else plotting.SAMPLES)


def ends(metrics: Mapping[str, Numbers], names: Sequence[str], key: str) -> list[np.ndarray]:
    """A metric of several samplers with both ends of its interval, NaN where there is none."""
    return [np.array([metrics[name].get(f"{key}{end}", np.nan) for name in names]) for end in ("", "_low", "_high")]


def draw_sets(images: Mapping[str, np.ndarray]) -> Figure:
    """Rows: examples. Columns: two views 45 degrees apart of a scene from the prior, and of an unconditional sample."""
    names = ["prior", "unconditional"]
    titles = [f"{LABELS[name]},\n{view}" for name in names for view in ("one view", "after 45°")]
    return plotting.image_grid(
        torch.cat([example_views(images, name) for name in names], 1), size=1.3, col_titles=titles
    )


def draw_gallery(images: Mapping[str, np.ndarray], names: Sequence[str]) -> Figure:
    """One sample of each ablation for two contexts, from behind and from the side."""
    columns = [example_views(images, name)[:2].flatten(0, 1) for name in names]
    titles = [LABELS[name].replace("render, ", "render,\n").replace("contexts, ", "contexts,\n") for name in names]
    return plotting.image_grid(torch.stack(columns, 1), size=1.25, row_labels=["180°", "135°"] * 2, col_titles=titles)


def draw_gains(gains: Mapping[str, Mapping[str, Interval]]) -> Figure:
    """The energy score of each ablation relative to the full model's, in per cent, with intervals: a panel an angle.

    gains: by ablation and by the name of the score; filled: the target's view, open: the novel view
    """
    fig, axes = plt.subplots(1, 3, figsize=(9.5, 4.2), sharex=True, sharey=True, layout="constrained")
    for ax, angle in zip(axes, TARGET_ANGLES, strict=True):
        for i, (name, scores) in enumerate(gains.items()):
            muted = name == "reseeded"
            draw_gain(ax, i - 0.12, scores[f"energy_{angle}"], plotting.MUTED if muted else plotting.TARGET, "full")
            novel = scores[f"novel_energy_{angle}"]
            draw_gain(ax, i + 0.2, novel, plotting.MUTED if muted else plotting.NOVEL, "none")
        ax.axvline(0, color=plotting.TRUE, lw=1, zorder=0)
        ax.set(title=f"seen from {angle}°", xlim=(-6, EDGE + 0.5))
    colours = {"full": plotting.TARGET, "none": plotting.NOVEL}
    handles = [plt.Line2D([], [], marker="o", ls="", fillstyle=f, color=c) for f, c in colours.items()]
    fig.legend(handles, ["the target's view", "the novel view"], loc="outside upper right", ncols=2)
    fig.supxlabel("energy score, % above that of the full model (right: the part was useful)", fontsize="medium")
    axes[0].set_yticks(range(len(gains)), [LABELS[name] for name in gains])
    axes[0].invert_yaxis()
    return fig


def draw_gain(ax: Axes, y: float, gain: Interval, colour: str, fill: str) -> None:
    """One gain with its interval, in per cent; a gain beyond the axis is written at its edge."""
    value, low, high = (100 * x for x in (gain.value, gain.low, gain.high))
    if value > EDGE:
        text = f"{value:.0f} ({low:.0f} to {high:.0f}) →"
        ax.text(EDGE, y, text, ha="right", va="center", color=colour, fontsize=9)
    else:
        style = {"fmt": "o", "fillstyle": fill, "ms": 5, "color": colour, "capsize": 2}
        ax.errorbar(value, y, xerr=[[value - low], [high - value]], **style)


def draw_targets(images: Mapping[str, np.ndarray]) -> Figure:
    """Scenes from behind: exact draws, and samples through one target and through two. Columns: scenes."""
    names = {"redrawn": LABELS["redrawn"], "one_shot": "one-shot", "autoregressive": "autoregressive"}
    rows = torch.stack([example_views(images, name)[:, 0] for name in names])
    return plotting.image_grid(rows, size=1.6, row_labels=[*names.values()])


def draw_large(images: Mapping[str, np.ndarray]) -> Figure:
    """Images of 128 x 128 pixels: exact draws, the deterministic model, the full model. Rows: scenes."""
    names = {f"{name}_128": LABELS[name] for name in ("redrawn", "deterministic", FULL_MODEL)}
    titles = [f"{label}, {d}°" for label in names.values() for d in (180, 135)]
    return plotting.image_grid(
        torch.cat([example_views(images, name) for name in names], 1), size=1.7, col_titles=titles
    )


def draw_option(option: str, values: Mapping[str, str], metrics: Mapping[str, Numbers]) -> Figure:
    """Four measures over the values of one option of the sampler, with intervals.

    values: the option's value -> the sampler with it. Filled: of the scene's render; open: of the sampled picture.
    """
    fig, axes = plt.subplots(1, 4, figsize=(10, 2.9), layout="constrained")
    for ax, (key, (title, ideal, limits)) in zip(axes, SAMPLER_MEASURES.items(), strict=True):
        for prefix, fill, label in (("", "full", "the scene's render"), ("picture_", "none", "the sampled picture")):
            value, low, high = ends(metrics, list(values.values()), f"{prefix}{key}")
            if np.isfinite(value).all():
                error_bars = np.nan_to_num([value - low, high - value])
                x = np.arange(len(values)) + (0.1 if prefix else 0)
                style = {"fmt": "o-", "lw": 1, "capsize": 3, "color": plotting.SAMPLES}
                ax.errorbar(x, value, error_bars, fillstyle=fill, label=label, **style)
        ax.axhline(ideal, color=plotting.TRUE, lw=1)
        ax.set_xticks(range(len(values)), list(values))
        ax.set(xlabel=option, ylim=limits, xlim=(-0.4, len(values) - 0.6))
        ax.set_title(title, fontsize="medium")
    fig.legend(*axes[-1].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return fig


def setting_text(name: str) -> str:
    """The setting of a sampler's three options, by its name in SAMPLER_OPTIONS."""
    setting = {"guidance": 1.0, "temperature": 1.0, "threshold": None} | SAMPLER_OPTIONS[name]
    threshold = f"threshold {setting['threshold']:g}" if setting["threshold"] else "no threshold"
    return f"guidance {setting['guidance']:g}, temperature {setting['temperature']:g}, {threshold}"


def draw_option_samples(context: Float[Tensor, "1 1 h w 3"], images: np.ndarray, title: str) -> Figure:
    """Four samples for one context. Rows: the scene rendered from behind, and the sampled picture.

    images: (1, samples, 2, 3, H, W) uint8
    """
    views = to_images(images)[0]
    cells = torch.cat([context.expand(-1, 2, -1, -1, -1), views]).transpose(0, 1)
    titles = ["context", *(f"sample {i + 1}" for i in range(len(views)))]
    fig = plotting.image_grid(cells, size=1.6, row_labels=["scene", "picture"], col_titles=titles)
    fig.suptitle(title, fontsize="medium")
    return fig


def draw_clips(frames: Float[Tensor, "clips frames h w 3"], names: Sequence[str], times: Sequence[int]) -> Figure:
    """Frames of clips. Rows: clips; columns: times, in microseconds."""
    titles = [f"{time / 1e6:.1f} s" for time in times]
    return plotting.image_grid(frames, size=1.4, row_labels=names, col_titles=titles)


# ----- tables


def measures_table(
    names: Sequence[str], metrics: Mapping[str, Numbers], cost: Callable[[str], tuple[float, int]]
) -> Markdown:
    """One line a sampler: GPU-minutes and steps of its training, and measures from behind with intervals.

    cost: the GPU-minutes and steps of a sampler's training, zeros without a model
    """
    rows = [["", "GPU-minutes", "steps", *(title for title, _ in MEASURES.values())]]
    for name in names:
        minutes, steps = cost(name)
        cells = [with_interval(metrics[name], key, digits) for key, (_, digits) in MEASURES.items()]
        rows.append([LABELS[name.removesuffix("_128")], f"{minutes:.1f}" if minutes else "", f"{steps or ''}", *cells])
    return markdown_table(rows)


def with_interval(numbers: Numbers, key: str, digits: int) -> str:
    """A metric with the ends of its interval, if it has one; empty if there is no such metric."""
    if key not in numbers:
        return ""
    value, *bounds = (f"{numbers[name]:.{digits}f}" for name in (key, f"{key}_low", f"{key}_high") if name in numbers)
    return f"{value} ({bounds[0]} to {bounds[1]})" if len(bounds) == 2 else value


def gain_text(gain: Interval, digits: int = 1) -> str:
    """A relative gain with its interval, in per cent."""
    return "{:.{d}f} % ({:.{d}f} to {:.{d}f})".format(*(100 * x for x in gain), d=digits)


def gains_table(gains_over: Mapping[str, Mapping[str, Mapping[str, Interval]]]) -> Markdown:
    """The sum of all six energy scores of each ablation, relative to the full model and to that of another seed."""
    rows = [["", *(f"relative to {LABELS[full]}" for full in gains_over)]]
    for name in next(iter(gains_over.values())):
        cells = [gain_text(gains[name]["energies"]) if name != full else "" for full, gains in gains_over.items()]
        rows.append([LABELS[name], *cells])
    return markdown_table(rows)


def view_space_table(gains: Mapping[str, Mapping[str, Interval]]) -> Markdown:
    """The gain of the full model over samplers without a scene: agreement of views, and the others' energy scores."""
    rows = [["", "angle", "gain in agreement of two views, dB", "energy score, target", "energy score, novel view"]]
    for name, scores in gains.items():
        for angle in TARGET_ANGLES:
            gain = scores[f"consistency_{angle}"]
            cells = [gain_text(scores[f"{prefix}energy_{angle}"], 0) for prefix in ("", "novel_")]
            rows.append([LABELS[name], f"{angle}°", f"{gain.value:.1f} ({gain.low:.1f} to {gain.high:.1f})", *cells])
        rows.append([LABELS[name], "all", "", gain_text(scores["energies"], 0), ""])
    return markdown_table(rows)


def skill_table(models: Mapping[str, Numbers]) -> Markdown:
    """The skill of models in targets at three angles and in the novel views beside them, with intervals."""
    keys = {f"energy_skill_{d}": f"target, {d}°" for d in TARGET_ANGLES}
    keys |= {f"novel_energy_skill_{d}": f"novel view, {NOVEL_ANGLE_RATIO * d:.0f}°" for d in TARGET_ANGLES}
    rows = [["skill", *models]]
    rows += [[label, *(with_interval(numbers, key, 2) for numbers in models.values())] for key, label in keys.items()]
    return markdown_table(rows)


def markdown_table(rows: Sequence[Sequence[str]]) -> Markdown:
    """A table in Markdown whose first row has the titles."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return Markdown("\n".join(f"| {' | '.join(row)} |" for row in lines))
