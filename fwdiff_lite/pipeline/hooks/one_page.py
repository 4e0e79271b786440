"""The hook of 00_one_page: saves its figures and an animation, measures its samples, and states its claim.

`page` holds the notebook's variables by their names. The page's functions draw from torch's global generator, so the
order of the functions in `finish` is part of the recorded numbers.
"""

from typing import Any

import matplotlib.pyplot as plt
import torch
from jaxtyping import Float
from torch import Tensor, nn

from fwdiff_lite.diagnostics import live_gain
from fwdiff_lite.diffusion import ForwardDiffusion
from fwdiff_lite.observations import Observations
from fwdiff_lite.pipeline.notebook import Run
from fwdiff_lite.plotting import figure_to_rgb

FIGURES = {
    "data": "data_figure",
    "training": "training_figure",
    "flow": "trajectory_figure",
    "contexts": "contexts_figure",
    "everything": "marginal_figure",
}
NUM_LINES = 10  # lines whose samples are compared with the truth
STRAY_DISTANCE = 0.2  # from all true points
NUM_DOTS = 120  # samples of each line in the animation
CONTEXTS, SAMPLES_PER_CONTEXT = 256, 16  # of the live gain


class PageDenoiser(nn.Module):
    """The page's `denoise` with the interface of the library: one context and one target a signal."""

    def __init__(self, page: dict[str, Any]):
        super().__init__()
        self.page = page

    def condition(self, context: Observations, target_params: Float[Tensor, "b 1"], target_mask=None) -> tuple:
        """The context's value and direction, and the target's direction."""
        return context.value[:, 0], context.params[:, 0], target_params[:, 0]

    def forward(self, condition: tuple, noisy_target: Float[Tensor, "b 1"], t: Float[Tensor, "b"]) -> Tensor:
        """The predicted points (B, 2)."""
        context, phi_context, phi_target = condition
        return self.page["denoise"](context, phi_context, noisy_target[:, 0], phi_target, t)


def build_model(page: dict[str, Any]) -> ForwardDiffusion:
    """The page's denoiser and forward model in the library's diffusion model."""
    return ForwardDiffusion(PageDenoiser(page), lambda points, phi: page["forward"](points[:, None], phi))


def finish(page: dict[str, Any]) -> None:
    """Writes all results of the page's run."""
    run = Run("00_one_page", page["PROFILE"])
    for name, variable in FIGURES.items():
        run.savefig(page[variable], name)
    run.record(**measure(page))
    run.save_gif(frames(page, run), "samples", fps=12)
    run.record(**measure_live_gain(page).as_metrics("live_gain"))
    run.claim("The whole method from scratch on one page, with nothing but torch and matplotlib.",
              thumbnail="everything.png")  # fmt: skip
    run.must_show(live_gain_low=(0.4, None))
    run.finish()


def measure(page: dict[str, Any]) -> dict[str, Any]:
    """Errors of the samples at their contexts, in the plane and along single lines."""
    forward, sample_signals, num_points = page["forward"], page["sample_signals"], page["NUM_POINTS"]
    values, angles, sets = page["values"], page["angles"], page["sets"]

    def mean_distance(points: Tensor) -> Tensor:
        """The mean distance of each quarter of the points to as many true points."""
        parts = points.split(num_points // 4)
        return sum(page["sliced_wasserstein"](part, sample_signals(len(part))) for part in parts) / 4

    sampling_error = (mean_distance(sample_signals(num_points)) + mean_distance(sample_signals(num_points))) / 2
    ratios = [distance_ratio(page, *context) for context in zip(values[:NUM_LINES], angles[:NUM_LINES], strict=True)]
    return {
        "context_residual_max": (forward(sets["samples"], angles) - values).abs().max(),
        "plane_sw2_over_floor": mean_distance(sets["samples"]) / sampling_error,
        "regression_sw2_over_floor": mean_distance(sets["regression"]) / sampling_error,
        "line_w1_over_floor": sum(ratios) / len(ratios),
        "stray_share": stray_fraction(page, sets["samples"]),
        "regression_stray_share": stray_fraction(page, sets["regression"]),
    }


def distance_ratio(page: dict[str, Any], value: Tensor, angle: Tensor) -> float:
    """On a context's line: Wasserstein-1 of samples to true points, over that of two sets of true points."""
    forward, true_points = page["forward"], page["true_points"]
    on_line = true_points[(forward(true_points, angle) - value).abs() < 0.01]
    coordinates = forward(on_line, angle + torch.pi / 2)
    half = len(coordinates) // 2
    points = page["sample"](value.expand(half), angle.expand(half))
    samples = forward(points, angle + torch.pi / 2).sort().values
    exact, exact_redraw = coordinates[:half].sort().values, coordinates[half : 2 * half].sort().values
    return ((samples - exact).abs().mean() / (exact - exact_redraw).abs().mean()).item()


def stray_fraction(page: dict[str, Any], points: Float[Tensor, "n 2"]) -> Tensor:
    """The fraction of points that are far from all true points."""
    return (torch.cdist(points[:4000], page["true_points"][:6000]).amin(1) > STRAY_DISTANCE).float().mean()


def measure_live_gain(page: dict[str, Any]):
    """The live gain on new points; the targets have random directions."""
    (context, target, _), (phi_context, phi_target, _) = page["observe"](CONTEXTS)
    batch = {
        "context": Observations(context[:, None], phi_context[:, None]),
        "target": Observations(target[:, None], phi_target[:, None]),
    }
    generator = torch.Generator().manual_seed(0)
    return live_gain(build_model(page), batch, SAMPLES_PER_CONTEXT, steps=32, generator=generator)


def frames(page: dict[str, Any], run: Run) -> list:
    """The animation: noise becomes samples on one line; then the line turns, and its samples add up to all points."""
    num_angles, num_steps = run.pick(smoke=4, cpu=64, gpu=64), run.pick(smoke=2, cpu=20, gpu=20)
    value, orbit = torch.tensor(0.35), torch.linspace(0, 2 * torch.pi, num_angles + 1) + 0.1
    noise, direction = page["noise"][:NUM_DOTS], page["direction"]
    trajectories = [list(page["trajectory"](value.expand(NUM_DOTS), angle.expand(NUM_DOTS), noise)) for angle in orbit]
    last = len(trajectories[0]) - 1
    step_indices = [round(last * k / num_steps) for k in range(num_steps)]  # from noise to clean
    frame_indices = [(0, k) for k in step_indices] + [(i, last) for i in range(num_angles)]  # (angle, step) of a frame
    frame_indices += [(num_angles, last)] * 8 + [(num_angles, k) for k in step_indices[::-2]]
    figure, (left, right) = plt.subplots(1, 2, figsize=(6.4, 3.3), dpi=100)
    page["plot_plane"](left, value, orbit[0], trajectories[0][0][1], "one observation leaves a line")
    (line, mean_marker), sample_dots = left.lines, left.collections[-1]
    sample_dots.set(alpha=0.6, sizes=[14])
    page["format_plane"](right, "all samples so far")
    all_dots = right.scatter([], [], s=4, color=page["SAMPLES"], lw=0)
    figure_to_rgb(figure)  # computes the layout,
    figure.set_layout_engine("none")  # which then stays fixed
    all_samples, pictures = torch.empty(0, 2), []
    for i, k in frame_indices:
        line.remove()
        foot = value * direction(orbit[i])
        line = left.axline(foot, foot + direction(orbit[i] + torch.pi / 2), color=page["CONTEXT"], lw=1, zorder=1)
        mean_marker.set_data(*trajectories[i][0][0].mean(0)[:, None])
        sample_dots.set(offsets=trajectories[i][k][1], color=page["SAMPLES" if k == last else "TARGET"])
        if k == last and i < num_angles:
            random_angles = torch.lerp(orbit[i], orbit[i + 1], torch.rand(NUM_DOTS))
            all_samples = torch.cat([all_samples, page["sample"](value.expand(NUM_DOTS), random_angles)])
        all_dots.set(offsets=all_samples, alpha=0.5 * k / last)
        pictures.append(figure_to_rgb(figure))
    plt.close(figure)
    return pictures
