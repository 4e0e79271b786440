"""The figures of 05_flatland, by the arrays that they draw."""

import matplotlib as mpl
import numpy as np
import pytest
import torch

mpl.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402

from fwdiff_lite.figures import flatland as figures  # noqa: E402
from fwdiff_lite.metrics import Interval  # noqa: E402
from fwdiff_lite.problems.inverse_graphics import flatland as problem  # noqa: E402


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_rows_are_stacked_from_the_top_with_white_between():
    rows = torch.stack([torch.full((3, 1, 4), -1.0), torch.zeros(3, 1, 4)])
    image = figures.stack_rows(rows, height=3)
    assert image.shape == (8, 4, 3)
    assert image[:, 0, 0].tolist() == [0, 0, 0, 1, 1, 0.5, 0.5, 0.5]


def test_bars_and_intervals_are_the_frequencies():
    rooms = [[Interval(0.1 * k + 0.2 * r, -0.1, 0.9) for k in range(3)] for r in range(2)]
    unknown = [[Interval(np.nan, np.nan, np.nan)] * 3] * 2
    frequencies = {
        "one target": {"teal": rooms, "violet": unknown, "grey": rooms},
        "two targets": {"teal": rooms[::-1], "violet": rooms, "grey": rooms},
    }
    axes = np.array(figures.plot_probabilities(frequencies).axes).reshape(2, 3)
    heights = [bar.get_height() for bar in axes[1, 0].patches]
    assert heights == pytest.approx([0.2, 0.3, 0.4, 0.0, 0.1, 0.2])
    ends = axes[1, 0].collections[0].get_segments()
    assert np.array(ends)[:, :, 1] == pytest.approx(np.array([[-0.1, 0.9]] * 3))
    lines = [line.get_ydata()[0] for line in axes[0, 1].lines if len(line.get_ydata()) == 2]
    assert lines[:3] == list(problem.CONTENT_PROBABILITIES["violet"])


def test_a_ray_shows_its_weights_and_the_light_that_reaches_each_segment():
    weights = torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.25, 0.0]])
    row = {"true row": torch.zeros(3, 1, 2)}
    figure = figures.plot_ray(torch.ones(8, 8, 3), torch.zeros(2, 3, 3), 1, weights, row, azimuth=0.0)
    assert [bar.get_height() for bar in figure.axes[1].patches] == [0.5, 0.25, 0]
    assert figure.axes[1].lines[0].get_ydata().tolist() == [1, 0.5, 0.25]


def test_the_table_states_intervals_and_what_was_not_recorded():
    keys = ("spread_skill", "factor_tv_first", "factor_tv_second")
    row = {f"{key}{end}": 0.5 for key in keys for end in ("", "_low", "_high")}
    results = dict.fromkeys(("a", "b"), row | {"energy_skill": 0.9, "energy_skill_low": 0.8})
    _, first, second = figures.measures_table(results, {"a": 0.07}).splitlines()
    assert first.split()[1:3] == ["0.90", "0.80"] and "0.50 (0.50 to 0.50)" in first and first.endswith("0.07")
    assert second.endswith("not recorded")
