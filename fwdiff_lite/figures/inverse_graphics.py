"""Figures and tables of 06_inverse_graphics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import HTML, Markdown
from jaxtyping import Float, Int, Shaped, UInt8
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor

from fwdiff_lite import metrics, plotting
from fwdiff_lite.experiments.inverse_graphics import angles, evaluation, held_out
from fwdiff_lite.observations import Observations
from fwdiff_lite.problems.inverse_graphics import tabletop
from fwdiff_lite.problems.inverse_graphics.volume import RenderedImages

Array = np.ndarray | Tensor
LARGEST_DEVIATION = 0.7  # the brightest colour of a standard deviation; colours are in [-1, 1]


def to_rgb(images: Shaped[Array, "*b 3 h w"]) -> Float[Tensor, "*b h w 3"]:
    """Images, in [-1, 1] or in 256 levels, as colours in [0, 1] for matplotlib."""
    images = torch.as_tensor(images)
    values = images / 255 if images.dtype == torch.uint8 else images / 2 + 0.5
    return values.float().movedim(-3, -1).clamp(0, 1).cpu()


def depth_rgb(
    depth: Float[Tensor, "*b h w"], near: float | None = None, far: float | None = None
) -> Float[Tensor, "*b h w 3"]:
    """The colours of a depth map (near is bright), as a tensor."""
    return torch.as_tensor(plotting.depth_to_rgb(depth.cpu(), near, far)).float()


def with_frames(fig: Figure) -> Figure:
    """The figure with a frame around each image: pictures with a white background would merge."""
    for ax in fig.axes:
        if ax.images:
            ax.spines[:].set(visible=True, color=plotting.MUTED, linewidth=0.6)
    return fig


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Markdown:
    """A table; its first column is aligned to the left, all others to the right."""
    lines = [columns, [":--", *["--:"] * (len(columns) - 1)], *rows]
    return Markdown("\n".join("| " + " | ".join(line) + " |" for line in lines))


# --- scenes -----------------------------------------------------------------------------------------------------------


def plot_scenes(test_set: held_out.TestSet) -> Figure:
    """A row for each scene: the context, the true targets, and two exact posterior draws from behind."""
    back = held_out.TARGET_ANGLES.index(180)
    columns = [test_set.context.value, test_set.truth[:, :, 0], test_set.posterior_draws[:, :2, back, 0]]
    titles = ["front", *(f"{angle}°" for angle in held_out.TARGET_ANGLES), "180°, draw 1", "180°, draw 2"]
    return with_frames(plotting.image_grid(to_rgb(torch.cat(columns, 1)), col_titles=titles, size=1.25))


def factor_table() -> Markdown:
    """The probabilities of the hidden factors, given the visible cue, and their entropies."""
    rows = []
    for i, (factor, cues) in enumerate(tabletop.CUES.items()):
        place, categories = ("screen", "box")[i], tabletop.FACTORS[factor]
        for cue, probabilities in zip(cues, tabletop.FACTOR_PROBABILITIES[i], strict=True):
            bits = -(probabilities * probabilities.log2()).sum()
            pairs = (f"{name} {float(p):.2f}" for name, p in zip(categories, probabilities, strict=True))
            rows.append([f"{cue} {place}", "behind the screen" if i == 0 else "on the box", *pairs, f"{bits:.2f} bits"])
    return markdown_table(["picture", "hidden", "", "", "", "entropy"], rows)


# --- the small model --------------------------------------------------------------------------------------------------


def plot_renders(renders: Sequence[tuple[Tensor, Tensor, Tensor]], titles: Sequence[str]) -> Figure:
    """Colours (first row) and depths (second row) of one scene.

    renders: for each camera, colours (1, 3, h, w), depth and transmittance (1, h, w)
    """
    colours = torch.stack([to_rgb(values[0]) for values, _, _ in renders])
    depth = torch.stack([torch.where(T[0] < 0.5, depth[0], torch.inf) for _, depth, T in renders])
    images = torch.stack([colours, depth_rgb(depth)])
    near, far = (float(end) for end in depth[depth.isfinite()].aminmax())
    labels = ["colour", f"depth\nbright: {near:.1f}\ndark: {far:.1f}"]
    return with_frames(plotting.image_grid(images, row_labels=labels, col_titles=titles, size=1.3))


def plot_before_and_after(
    context: Observations,
    target: Observations,
    before: Float[Tensor, "n any 1 3 h w"],
    after: Float[Tensor, "n k 1 3 h w"],
) -> Figure:
    """A row for each of n bodies: context, true target, a sample before the training, and k samples after it."""
    n, k = after.shape[:2]
    columns = torch.cat([context.value[:n], target.value[:n], before[:, 0], after[:, :, 0]], 1)
    titles = ["context", "true target", "before", *(f"after, {i + 1}" for i in range(k))]
    return with_frames(plotting.image_grid(to_rgb(columns), col_titles=titles, size=0.95))


def plot_losses(curve: Mapping[str, Sequence[float]]) -> Figure:
    """Each loss of a training, as means over fortieths of its steps."""
    fig, ax = plt.subplots(figsize=(7, 2.8))
    roles = {"target": plotting.TARGET, "novel": plotting.NOVEL, "deterministic": plotting.BASELINE}
    labels = {"target": "target (Eq. 8)", "novel": "novel (Eq. 9)", "deterministic": "deterministic render"}
    for name, color in roles.items():
        parts = np.array_split(np.array(curve[name]), min(40, len(curve[name])))
        ends = np.cumsum([len(part) for part in parts])
        ax.plot(ends, [part.mean() for part in parts], color=color, label=labels[name])
    ticks = [0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0]
    ax.set(yscale="log", xlabel="training step", ylabel="squared error")
    ax.yaxis.set_minor_locator(plt.NullLocator())
    ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    low, high = (f([f(curve[name]) for name in roles]) for f in (min, max))
    ax.set_ylim(0.6 * min(low, 0.05), 1.2 * high)
    ax.legend(loc="upper right")
    return fig


def plot_trajectory(steps: Sequence[tuple[float, Float[Tensor, "n 3 h w"], Float[Tensor, "n 3 h w"]]]) -> Figure:
    """Two rows for each of n bodies: noisy targets and renders of the predicted fields, at up to eight times."""
    chosen = [steps[i] for i in np.unique(np.linspace(0, len(steps) - 1, 8).round().astype(int))]
    rows = []
    for i in range(len(chosen[0][1])):
        rows += [torch.stack([to_rgb(step[part][i]) for step in chosen]) for part in (1, 2)]
    labels = ["noisy target", "predicted"] * (len(rows) // 2)
    titles = [f"t = {t:.2f}" for t, _, _ in chosen]
    return with_frames(plotting.image_grid(torch.stack(rows), row_labels=labels, col_titles=titles, size=0.95))


# --- samples of the full model ----------------------------------------------------------------------------------------


def plot_conditioning(test_set: held_out.TestSet, rendered: Float[Tensor, "c f h w"], target: int) -> Figure:
    """A row for each scene: context, true target, and colour, depth and opacity of the deterministic render.

    rendered: the conditioning of the target's encoder: 3 colours, depth, opacity, features
    target: index of the target's angle
    """
    n = min(3, len(rendered))
    depth, opacity = rendered[:n, 3].cpu(), rendered[:n, 4].cpu()
    images = [to_rgb(x[:n]) for x in (test_set.context.value[:, 0], test_set.truth[:, target, 0], rendered[:, :3])]
    images += [depth_rgb(torch.where(opacity > 0.5, depth, torch.inf)), opacity[..., None].expand(-1, -1, -1, 3)]
    titles = ["context", "true target", "render: colour", "depth\n(bright: near)", "opacity\n(white: 1)"]
    return with_frames(plotting.image_grid(torch.stack(images, 1), size=1.35, col_titles=titles))


def plot_samples(
    test_set: held_out.TestSet, recorded: Mapping[str, np.ndarray], sampler: str, baseline: str, angle: int
) -> Figure:
    """Two rows for each scene, the target's view and the novel view: context, truth, deterministic, four samples.

    recorded: "SAMPLER_images" (c, k, D, V, 3, H, W) and "BASELINE_images" (c, D, V, 3, H, W) at angles.ANGLES
    angle: of the target
    """
    rows, labels, d = [], [], angles.ANGLES.index(angle)
    for i in range(len(test_set.context)):
        context = to_rgb(test_set.context.value[i, 0])
        for view, degrees in enumerate((angle, angle * held_out.NOVEL_ANGLE_RATIO)):
            truth = test_set.truth[i, test_set.angles.index(angle), view]
            others = [truth, recorded[f"{baseline}_images"][i, d, view], *recorded[f"{sampler}_images"][i, :4, d, view]]
            first = context if view == 0 else torch.full_like(context, float("nan"))
            rows.append(torch.stack([first, *map(to_rgb, others)]))
            labels.append(f"{degrees:.0f}°")
    titles = ["context", "truth", "deterministic", *(f"sample {j + 1}" for j in range(4))]
    return with_frames(plotting.image_grid(torch.stack(rows), row_labels=labels, col_titles=titles, size=1.35))


def plot_deviations(
    test_set: held_out.TestSet, recorded: Mapping[str, np.ndarray], sampler: str, target_angles: Sequence[int]
) -> Figure:
    """A row for each scene and each target: context, truth, a sample, deviation of samples, disocclusion.

    recorded: "SAMPLER_images" and "SAMPLER_deviation" (c, D, V, H, W) at angles.ANGLES
    """
    rows, labels = [], []
    for i in range(len(test_set.context)):
        for angle in target_angles:
            d, own = angles.ANGLES.index(angle), test_set.angles.index(angle)
            deviation = torch.from_numpy(recorded[f"{sampler}_deviation"][i, d, 0]).float()
            mask = test_set.disocclusion_mask[i, own, 0].cpu().float()
            images = test_set.context.value[i, 0], test_set.truth[i, own, 0], recorded[f"{sampler}_images"][i, 0, d, 0]
            colours = plt.get_cmap("magma")((deviation / LARGEST_DEVIATION).clamp(0, 1).numpy())[..., :3]
            panels = [*map(to_rgb, images), torch.from_numpy(colours).float(), mask[..., None].expand(-1, -1, 3)]
            rows.append(torch.stack(panels))
            labels.append(f"{angle}°")
    titles = ["context", "true target", "sample", "deviation", "disoccluded"]
    fig = with_frames(plotting.image_grid(torch.stack(rows), size=1.15, row_labels=labels, col_titles=titles))
    fig.set_figheight(fig.get_figheight() + 0.8)  # the height of the scale of colours
    fig.get_layout_engine().set(rect=(0, 0, 1, 0.985))  # beside a scale, the titles' height is underestimated
    scale = plt.cm.ScalarMappable(plt.Normalize(0, LARGEST_DEVIATION), "magma")
    fig.colorbar(scale, ax=fig.axes, location="bottom", shrink=0.4, aspect=30, label="deviation")
    return fig


@dataclass(frozen=True)
class Orbits:
    """Recorded orbits around c true scenes and two samples of each, F frames from the context camera on.

    truth: (c, F, 3, H, W); samples: (c, 2, F, 3, H, W), in 256 levels; depth: (c, 2, F, H, W), inf where nothing is
    """

    truth: Float[Tensor, "c f 3 h w"]
    samples: UInt8[Tensor, "c k f 3 h w"]
    depth: Float[Tensor, "c k f h w"]
    NAMES = ("truth", "sample 1", "sample 2", "depth 1", "depth 2")

    @classmethod
    def from_recorded(
        cls, recorded: Mapping[str, np.ndarray], scenes: tabletop.Scenes, context_cameras: Float[Tensor, "c 1 4 4"]
    ) -> Orbits:
        """The recorded orbits of the first scenes; the true scenes are rendered here."""
        samples, depth = (torch.from_numpy(recorded[name]).unflatten(0, (-1, 2)) for name in ("orbit", "orbit_depth"))
        count, _, frames = samples.shape[:3]
        cameras = [tabletop.rotate_about_z(context_cameras[:count], 360 * i / frames) for i in range(frames)]
        truth = torch.stack([tabletop.render(scenes[:count], camera)[:, 0] for camera in cameras], 1)
        return cls(truth, samples, depth.float())

    def frame(self, scene: int, f: int) -> Float[Tensor, "five h w 3"]:
        """One frame of an orbit: truth, two samples and their depths."""
        near, far = (float(end) for end in self.depth[self.depth.isfinite()].aminmax())
        depths = depth_rgb(self.depth[scene, :, f], near, far)
        return torch.cat([to_rgb(self.truth[scene, f])[None], to_rgb(self.samples[scene, :, f]), depths])

    def plot_strip(self, count: int = 6) -> Figure:
        """`count` frames around the first scene, a column each."""
        frames = self.truth.shape[1]
        chosen = range(0, frames, frames // count)
        images = torch.stack([self.frame(0, f) for f in chosen], 1)
        titles = [f"{360 * f // frames}°" for f in chosen]
        return with_frames(plotting.image_grid(images, row_labels=self.NAMES, col_titles=titles, size=1.1))

    def frames(self) -> list[UInt8[np.ndarray, "h w 3"]]:
        """The frames of an animation: a row for each scene, with truth, samples and one depth."""
        animation = []
        for f in range(self.truth.shape[1]):
            images = torch.stack([self.frame(scene, f)[:4] for scene in range(len(self.truth))])
            fig = with_frames(plotting.image_grid(images, col_titles=self.NAMES[:4], size=1.2))
            animation.append(plotting.figure_to_rgb(fig))
            plt.close(fig)
        return animation


def plot_walk(context: Float[Tensor, "3 h w"], walk: Sequence[RenderedImages], count: int = 6) -> Figure:
    """The context, and `count` views around the sampled scene."""
    strip = walk[:: max(1, len(walk) // count)]
    images = torch.stack([to_rgb(context), *(to_rgb(image.rgb[0, 0]) for image in strip)])[None]
    titles = ["context", *(f"{360 * i // len(strip)}°" for i in range(len(strip)))]
    return with_frames(plotting.image_grid(images, size=1.2, col_titles=titles))


def show_view(image: RenderedImages) -> None:
    """Shows the colours and the depth of one view."""
    depth = depth_rgb(evaluation.surface_depth(image)[0, 0])
    images = torch.stack([to_rgb(image.rgb[0, 0]), depth])[None]
    with_frames(plotting.image_grid(images, size=2, col_titles=["colour", "depth (bright: near)"]))
    plt.show()


# --- measures ---------------------------------------------------------------------------------------------------------


def category_intervals(labels: Int[Tensor, "c K"], categories: int) -> list[metrics.Interval]:
    """The frequency of each category among all labels, with a bootstrap interval over the c scenes."""
    generator = torch.Generator().manual_seed(0)
    shares = ((labels == k).double().mean(1) for k in range(categories))
    return [metrics.bootstrap(lambda share: share.mean(), share, generator=generator) for share in shares]


def plot_frequencies(labels: Int[Tensor, "c 2 K"], cues: Int[Tensor, "c 2"]) -> Figure:
    """Frequencies of the hidden categories in samples, for each cue, with intervals over scenes; lines: the truth."""
    palette = {"nothing": [0.75] * 3}
    palette |= dict(zip(tabletop.FACTORS["hidden"][1:], tabletop.BODY_COLOURS[1:].tolist(), strict=True))
    palette |= dict(zip(tabletop.FACTORS["decal"], tabletop.DECAL_COLOURS.tolist(), strict=True))
    fig, axes = plt.subplots(2, 3, figsize=(8, 4.4), sharey=True, layout="constrained")
    for f, (factor, categories) in enumerate(tabletop.FACTORS.items()):
        for c, cue in enumerate(tabletop.CUES[factor]):
            ax, cue_labels = axes[f, c], labels[cues[:, f] == c, f]
            values, low, high = np.array(category_intervals(cue_labels, len(categories))).T
            ax.bar(categories, values, color=[palette[name] for name in categories], width=0.7)
            errors = np.clip([values - low, high - values], 0, None)
            ax.errorbar(range(len(categories)), values, errors, fmt="none", ecolor=plotting.TRUE, capsize=3, lw=1.2)
            for k, p in enumerate(tabletop.FACTOR_PROBABILITIES[f, c].tolist()):
                ax.plot([k - 0.42, k + 0.42], [p, p], color=plotting.TRUE, lw=2.5)
            ax.set(title=f"{cue} {'screen' if f == 0 else 'box'} ({cue_labels.numel()})", ylim=(0, 1))
            ax.grid(axis="x")
    legend = [
        Line2D([], [], color=plotting.TRUE, lw=2.5, label="true probability"),
        Line2D([], [], color=plotting.TRUE, lw=1.2, marker="|", label="samples: 95 % interval over scenes"),
    ]
    fig.legend(handles=legend, loc="outside lower center", ncols=2, fontsize=8)
    axes[0, 0].set_ylabel("frequency,\nbehind the screen")
    axes[1, 0].set_ylabel("frequency,\non the box")
    return fig


def sampler_table(numbers_of_eta: Mapping[int, Mapping[str, float]]) -> Markdown:
    """A row for each eta: total variation and error per case of each factor, and the distance from true draws."""
    keys = [f"{factor}_factor_{key}" for key in ("tv", "scene_rms") for factor in tabletop.FACTORS]
    keys += [f"{prefix}energy_over_true_{angle}" for angle in (60, 180) for prefix in ("", "novel_")]
    names = {1: "ancestral (eta 1)", 0: "DDIM (eta 0)"}
    rows = [
        [names[eta], *(interval_text(numbers, key, 3 if "factor" in key else 2) for key in keys)]
        for eta, numbers in numbers_of_eta.items()
    ]
    measures = ("total variation", "error per case")
    titles = [f"{measure}, {factor}" for measure in measures for factor in ("body", "decal")]
    titles += [f"energy, {view}" for view in ("60°", "novel, 45°", "180°", "novel, 135°")]
    return markdown_table(["sampler", *titles], rows)


def interval_text(numbers: Mapping[str, float], key: str, digits: int) -> str:
    """A number, with its interval where it has one."""
    value, *bounds = (
        f"{numbers[f'{key}{end}']:.{digits}f}" for end in ("", "_low", "_high") if f"{key}{end}" in numbers
    )
    return f"{value} ({bounds[0]} to {bounds[1]})" if bounds else value


VIEW_MEASURES = {  # key -> (title, number of digits)
    "energy_over_true": ("energy / true draws", 2),
    "energy_skill": ("skill", 2),
    "spread_skill": ("spread over error", 2),
    "sharpness_ratio": ("sharpness", 2),
    "hidden_over_visible_variance": ("variance ratio", 0),
    "psnr_mean_over_deterministic": ("mean - deterministic, dB", 1),
    "psnr_sample": ("one sample, dB", 1),
    "psnr_true_draw": ("true draw, dB", 1),
}


def view_table(numbers: Mapping[str, float], target_angles: Sequence[int]) -> Markdown:
    """The measures of a sampler: a row for each target and for the novel view beside it."""
    rows = []
    for prefix, name, ratio in (("", "target", 1), ("novel_", "novel view", held_out.NOVEL_ANGLE_RATIO)):
        for angle in target_angles:
            cells = (interval_text(numbers, f"{prefix}{key}_{angle}", n) for key, (_, n) in VIEW_MEASURES.items())
            rows.append([f"{name}, {ratio * angle:g}°", *cells])
    return markdown_table(["", *(title for title, _ in VIEW_MEASURES.values())], rows)


def plot_skills(numbers: Mapping[str, float], target_angles: Sequence[int], baseline_minutes: float) -> Figure:
    """Energy skill and spread over error with intervals, and the error of single images.

    numbers: the measures of a sampler, with the names of metrics.json
    baseline_minutes: the training of the deterministic baseline, in GPU-minutes
    """
    fig, (skill, spread, error) = plt.subplots(1, 3, figsize=(10, 3.6), layout="constrained")
    for prefix, color, label in (("", plotting.TARGET, "target"), ("novel_", plotting.NOVEL, "novel view")):
        for ax, key in ((skill, "energy_skill"), (spread, "spread_skill")):
            bounds = [[numbers[f"{prefix}{key}_{d}{end}"] for d in target_angles] for end in ("", "_low", "_high")]
            value, low, high = map(np.array, bounds)
            ratio, shift = (held_out.NOVEL_ANGLE_RATIO, -1.5) if prefix else (1, 1.5)
            x = ratio * np.array(target_angles) + shift  # at 90 degrees there are two of them
            ax.errorbar(x, value, (value - low, high - value), fmt="o", color=color, label=label, capsize=3)
    levels = {
        skill: {0: f"deterministic ({baseline_minutes:.0f} GPU-minutes)", 1: "true draws"},
        spread: {1: "calibrated"},
    }
    for ax, lines in levels.items():
        for level, text in lines.items():
            ax.axhline(level, color=plotting.MUTED, lw=1)
            ax.annotate(text, (0.03, level), xycoords=("axes fraction", "data"), va="bottom", fontsize=8)
    skill.set(title="energy skill", ylim=(-0.1, 1.2))
    spread.set(title="spread over error", ylim=(0, 1.2))
    true_draws = [2 * 10 ** (-numbers[f"psnr_true_draw_{d}"] / 20) for d in target_angles]  # PSNR with a peak of 2
    error.plot(target_angles, true_draws, "o-", color=plotting.TRUE, label="two true draws")
    visible = [numbers[f"visible_rms_{d}"] for d in target_angles]
    error.plot(target_angles, visible, "o-", color=plotting.SAMPLES, label="a sample, visible pixels")
    error.set(title="errors of single images", ylabel="root mean square; colours in [-1, 1]", ylim=(0, None))
    for ax in (skill, spread, error):
        ax.set(xlabel="azimuth from the context, degrees", xticks=target_angles)
    spread.legend(loc="lower right", fontsize=8)
    error.legend(loc="center right", fontsize=8)
    return fig


MEASURES = {  # key -> (title, meaning, number of digits)
    "energy_ratio": ("energy ratio", "energy score of samples over that of the deterministic prediction", 2),
    "true_over_deterministic": ("true draws", "energy score of true draws over that of the same prediction", 2),
    "visible_rms": ("visible error", "root mean squared error of one sample on visible pixels", 3),
    "psnr_deterministic": ("deterministic, dB", "PSNR of the deterministic prediction", 1),
}


def measures_in_a_fold(numbers: Mapping[str, float], target_angles: Sequence[int]) -> HTML:
    """Further measures of the same samples, as a table that the reader opens."""
    head = "".join(f"<th>{title}</th>" for title, _, _ in MEASURES.values())
    rows = ""
    for prefix, name, ratio in (("", "target", 1), ("novel_", "novel view", held_out.NOVEL_ANGLE_RATIO)):
        for d in target_angles:
            cells = "".join(f"<td>{numbers[f'{prefix}{k}_{d}']:.{n}f}</td>" for k, (_, _, n) in MEASURES.items())
            rows += f"<tr><th>{name}, {ratio * d:g}°</th>{cells}</tr>"
    meanings = "".join(f"<li><b>{title}</b>: {meaning}</li>" for title, meaning, _ in MEASURES.values())
    table = f"<table><tr><th></th>{head}</tr>{rows}</table><ul>{meanings}</ul>"
    return HTML(f"<details><summary>More measures of the same samples</summary>{table}</details>")
