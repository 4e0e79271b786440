"""The figures of 04_gan_inversion, by the arrays that they draw."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from fwdiff_lite import plotting
from fwdiff_lite.figures import gan_inversion as figures
from fwdiff_lite.metrics.bootstrap import Interval
from fwdiff_lite.problems.gan_inversion import patches


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


def image_of(ax):
    """The image of an axis."""
    return np.asarray(ax.images[0].get_array())


def test_a_row_of_the_grid_is_an_example():
    single, several = torch.rand(2, 3, 4, 4) * 2 - 1, torch.rand(2, 3, 3, 4, 4) * 2 - 1
    axes = figures.portrait_grid({"one": single, "three": several}, ["a", "b"]).axes
    assert [ax.get_title(loc="center") for ax in axes] == ["one", "", "three", "", "", "", "", ""]
    assert [len(ax.patches) for ax in axes] == [0, 1, 0, 0, 0, 0, 0, 0], "a rule spans the three, from the first on"
    assert [axes[i].get_ylabel() for i in (0, 4)] == ["a", "b"]
    np.testing.assert_allclose(image_of(axes[6]), several[1, 1].permute(1, 2, 0) / 2 + 0.5, atol=1e-6)


def test_outside_of_its_crop_a_patch_is_grey():
    crops = torch.tensor([[[0.0, 0, 4], [2, 2, 5], [1, 3, 4]]])
    observed = patches.observe(-torch.ones(1, 3, 8, 8), crops)
    masks = patches.patch_mask(crops[0], 8)
    axes = figures.plot_forward_model(-torch.ones(3, 8, 8), observed.value[0], masks).axes
    for ax, mask in zip(axes[1:], masks, strict=True):
        wanted = torch.where(mask[0] > 0, 0.0, figures.GREY / 2 + 0.5)
        np.testing.assert_allclose(image_of(ax)[..., 0], wanted, atol=1e-6)

    context, target = observed.select(0), observed.select(1)
    signal = torch.zeros(1, 2)
    steps = [(signal, target.value, 0.5 * target.value), (signal, target.value, target.value)]
    axes = figures.plot_trajectory(steps, context, target.params, (0, 1)).axes
    assert [image_of(ax)[4, 4, 0] for ax in axes] == pytest.approx([0.85, 0.25, 0.0, 0.85, 0.0, 0.0])
    assert [image_of(ax)[0, 7, 0] for ax in axes] == pytest.approx([0.85] * 6)


def test_bars_of_frequencies_have_intervals():
    shares = {label: {"hat": [Interval(0.2, 0.15, 0.3), Interval(0.6, 0.5, 0.65)]} for label in ("a", "b", "c")}
    (ax,) = figures.plot_probabilities(shares, {"hat": [0.25, 0.55]}).axes
    assert [bar.get_height() for bar in ax.patches] == pytest.approx([20, 60] * 3)
    assert [bar.get_facecolor() for bar in ax.patches[::2]] == [
        plt.matplotlib.colors.to_rgba(c) for c in (plotting.ANCESTRAL, plotting.DDIM, plotting.BASELINE)
    ]
    ends = np.concatenate([np.array(x.get_segments())[..., 1] for x in ax.collections])
    np.testing.assert_allclose(ends, [[15, 30], [50, 65]] * 3)

    one_attribute_is_even = [torch.tensor([0.5, 0.5])] + [torch.tensor([1.0, 0.0])] * 9
    frequencies = dict.fromkeys(("rendered", "generated"), one_attribute_is_even)
    names = {str(i): ("no", "yes") for i in range(10)}
    ax = figures.plot_attribute_frequencies(names, frequencies, 100).axes[0]
    np.testing.assert_allclose(np.array(ax.collections[0].get_segments())[0, :, 1], [50 - 9.8, 50 + 9.8])


def test_losses_and_schedules_are_drawn_over_steps_and_scales():
    curve = {"target": [1.0, 0.1], "novel": [2.0, 0.2]}
    axes = figures.plot_losses({"model": {"steps": 10, "curve": curve}, "baseline": {"steps": 30, "curve": curve}}).axes
    assert [line.get_xdata().max() for line in axes[1].lines] == [10, 30]
    assert list(axes[1].lines[0].get_ydata()) == [2.0, 0.2]
    errors = {1.0: {"spread": 0.9, "tv": 0.16}, 0.25: {"spread": 0.97, "tv": 0.06}}
    left, right = figures.plot_schedule_errors(errors, 0.25).axes
    assert list(right.lines[0].get_ydata()) == [16, 6] and left.lines[1].get_ydata()[0] == pytest.approx(97)
    assert figures.deviation_images([torch.tensor([[0.0, 0.35, 2.0]])])[0, 2].flatten().tolist() == [-1, 0, 1]


def test_the_table_shows_the_worst_attribute_with_its_interval():
    row = {}
    for prefix in ("", "deterministic_"):
        row |= Interval(0.1, 0.05, 0.3).as_metrics(f"{prefix}factor_tv_hat")
        row |= Interval(0.2, 0.15, 0.25).as_metrics(f"{prefix}factor_tv_eyes")
    for key in ("energy_ratio", "spread_skill"):
        row |= Interval(0.5, 0.4, 0.6).as_metrics(key)
    row |= {"factor_tv": 0.2, "patch_psnr": 27.04, "patch_psnr_deterministic": 28.0}
    text = figures.measures_table({"main": row}, {"main": "the main one"})
    first, last = text.splitlines()[1:]
    assert first.split() == "the main one 0.50 (0.40, 0.60) 0.50 (0.40, 0.60) 0.20 (0.15, 0.25) 27.0".split()
    assert last.split() == "deterministic baseline 1 0 0.20 (0.15, 0.25) 28.0".split()
    assert figures.text_table({"a": {"x": 0.126, "y": 1}}).split() == ["x", "y", "a", "0.13", "1.00"]
