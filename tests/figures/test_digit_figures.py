"""Figures of the digits, by the arrays that they draw."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from fwdiff_lite.figures import digits as figures


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_ink_is_black_and_pixels_outside_of_the_support_are_blue():
    rgb = figures.to_rgb(torch.tensor([[-1.0, 1.0, 1.0]]), torch.tensor([[1.0, 1.0, 0.0]]))
    assert rgb.tolist() == [[[1, 1, 1], [0, 0, 0], pytest.approx(figures.OUTSIDE)]]


def test_an_empty_place_has_no_image_and_no_frame():
    fig = figures.digit_grid([[torch.zeros(8, 8, 3), None]])
    assert [len(ax.images) for ax in fig.axes] == [1, 0]
    assert [ax.spines["left"].get_visible() for ax in fig.axes] == [True, False]


def test_a_window_is_outlined_where_it_lies():
    ax = plt.subplots()[1]
    figures.draw_window(ax, torch.tensor([2.0, 3.0, 4.0]))
    assert ax.patches[0].get_bbox().bounds == (2.5, 1.5, 4, 4)


def test_columns_of_a_table_are_aligned():
    table = figures.format_table({"a": {"x": "1", "long title": "22"}, "longer": {"x": "333", "long title": "4"}})
    assert table.splitlines() == ["           x   long title", "a          1           22", "longer   333            4"]
    assert figures.format_interval((0.714, 0.7, 0.7261), 2) == "0.71 (0.70 to 0.73)"


def test_a_calibrated_sampler_lies_on_the_diagonal_and_half_its_spread_does_not():
    generator = torch.Generator().manual_seed(0)
    variance = torch.linspace(0.01, 0.5, 20_000)
    error = variance * torch.randn(20_000, generator=generator).square()
    energy = {"autoregressive": torch.tensor([1.0, 3.0]), "deterministic": torch.tensor([2.0, 2.5])}
    fig = figures.plot_scores(
        energy, {"autoregressive": variance, "one-shot": variance / 4}, {"autoregressive": error, "one-shot": error}
    )
    left, right = fig.axes
    assert "better for 50% of 2" in left.get_title("left") + left.get_title("center")  # by the style
    calibrated, narrow = (np.divide(*line.get_data()) for line in right.lines[:2])
    assert np.allclose(calibrated, 1, atol=0.05) and np.allclose(narrow, 0.5, atol=0.03)


def test_the_animation_shows_every_stage():
    """One image more of each sample after each window: the context stays, the samples change."""
    stages = [(torch.full((3, 8, 8), value), torch.ones(3, 8, 8), None) for value in (-1.0, 0.0, 1.0)]
    frames = figures.autoregression_frames([stages] * 2, torch.zeros(2, 8, 8), torch.tensor([[0.0, 0, 3]] * 2))
    assert len({frame.shape for frame in frames}) == 1 and len(frames) % len(stages) == 0
    ink = [float((frame < 10).all(-1).mean()) for frame in frames]
    assert ink == sorted(ink) and ink[0] < 0.1 < ink[-1]
