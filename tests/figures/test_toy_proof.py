"""Figures of 01_toy_proof: what they draw is what they were given."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from fwdiff_lite.figures import toy_proof
from fwdiff_lite.plotting import MUTED, OTHER
from fwdiff_lite.problems.toy import projections

PRIOR = projections.make_prior(2)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_the_density_on_a_line_integrates_to_one():
    _, contexts = projections.make_test_set(PRIOR, 4, 0)
    grid, densities = toy_proof.posterior_densities(PRIOR, contexts)
    torch.testing.assert_close(torch.trapezoid(densities, grid), torch.ones(4).double(), atol=0.02, rtol=0)


def test_denoising_shows_the_coordinate_along_the_line():
    _, context = projections.make_test_set(PRIOR, 1, 0)
    along_line = projections.perpendicular(context.params[0]).expand(5, 2)
    steps = [(torch.tensor(t), torch.full((5,), t), t * along_line) for t in (0.9, 0.1)]
    left, middle, _ = toy_proof.denoising(steps, along_line, PRIOR, context).axes
    for ax in (left, middle):
        assert all(np.allclose(line.get_ydata(), [0.9, 0.1]) for line in ax.lines) and len(ax.lines) == 5
        assert ax.get_xlim() == (1, 0), "noise at the left"


def test_the_scorecard_marks_rejected_samplers():
    scores = {"C2ST accuracy": {"exact": 0.5, "prior": 0.7}, "energy gap": {"exact": 0.01, "prior": 0.5}}
    rejected = {test: {"exact": False, "prior": True} for test in scores}
    ax = toy_proof.scorecard(scores, rejected).axes[0]
    assert [to_rgb(patch.get_facecolor()[:3]) for patch in ax.patches] == 2 * [to_rgb(MUTED), to_rgb(OTHER)]
    assert {"0.500", "0.700", "+1.0%", "+50.0%"} <= {text.get_text() for text in ax.texts}


def test_the_loss_curve_averages_windows_and_draws_the_ideal_loss():
    ax = toy_proof.loss_curve(np.linspace(2, 1, 300), [1.0, 1.2], 4).axes[0]
    ideal, curve = ax.lines
    assert ideal.get_ydata()[0] == pytest.approx(1.1)
    assert len(curve.get_ydata()) == 150 and curve.get_ydata().mean() == pytest.approx(1.5)


def test_the_table_of_noise_has_a_row_for_each_sampler():
    numbers = {"c2st_0.5": 0.51, "residual_0.5": 0.98}
    table = toy_proof.noise_table(dict.fromkeys(("full", "exact", "ignored", "doubled"), numbers), (0.5,)).data
    rows = table.splitlines()
    assert len(rows) == 6 and all(row.count("|") == 4 for row in rows)
    assert "| forward diffusion | 0.510 | 0.980 |" in rows
