"""The figures and tables of 07_ablations, by the numbers that they show."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from fwdiff_lite.experiments.inverse_graphics.ablations import ORBIT_ANGLES
from fwdiff_lite.figures import ablations
from fwdiff_lite.metrics import Interval


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_the_ring_shows_the_wanted_angles_large_enough_to_read():
    shades = np.arange(12, dtype=np.uint8).reshape(1, 12, 1, 1, 1) * np.ones((1, 12, 3, 4, 4), np.uint8)
    figure = ablations.draw_ring({f"orbit_{name}": shades for name in ("painted", "distilled", "unet")}, (70, 250))
    shown = [round(255 * float(ax.images[0].get_array()[0, 0, 0])) for ax in figure.axes]
    assert shown == [ORBIT_ANGLES.index(70), ORBIT_ANGLES.index(250)] * 3
    assert min(figure.get_size_inches() / (2, 3)) >= 1.5, "inches of one picture"


def test_a_gain_is_a_point_with_its_interval_or_a_text_at_the_edge():
    _, ax = plt.subplots()
    ablations.draw_gain(ax, 0, Interval(0.02, 0.01, 0.04), "C0", "full")
    assert ax.lines[0].get_xdata() == [2] and len(ax.texts) == 0
    segment = ax.collections[0].get_segments()[0]
    assert segment[:, 0] == pytest.approx([1, 4])
    ablations.draw_gain(ax, 0, Interval(0.54, 0.51, 0.58), "C0", "none")
    assert ax.texts[0].get_text() == "54 (51 to 58) →"


def test_tables_print_intervals():
    numbers = {"energy_skill_180": 0.715, "energy_skill_180_low": 0.648, "energy_skill_180_high": 0.784}
    table = ablations.measures_table(["unet", "redrawn"], {"unet": numbers, "redrawn": {}}, lambda name: (3.0, 4378))
    lines = table.data.splitlines()
    assert len({line.count("|") for line in lines}) == 1 and len(lines) == 4
    assert "| the full model | 3.0 | 4378 | 0.71 (0.65 to 0.78) |  |" in lines[2]
    gains = {"unet": {"no_depth": {"energies": Interval(0.018, 0.007, 0.028)}}}
    assert "1.8 % (0.7 to 2.8)" in ablations.gains_table(gains).data


def test_samples_of_an_option_name_its_setting():
    assert ablations.setting_text("plain") == "guidance 1, temperature 1, no threshold"
    title = ablations.setting_text("threshold_0.995")
    images = np.zeros((1, 4, 2, 3, 4, 4), np.uint8)
    figure = ablations.draw_option_samples(torch.zeros(1, 1, 4, 4, 3), images, title)
    assert figure.get_suptitle() == "guidance 2, temperature 1, threshold 0.995"


def test_intervals_of_options_are_drawn():
    keys = {
        f"{key}{end}": x for key in ablations.SAMPLER_MEASURES for end, x in (("", 0.9), ("_low", 0.8), ("_high", 1))
    }
    figure = ablations.draw_option("guidance", {"1": "plain", "2": "guidance_2"}, {"plain": keys, "guidance_2": keys})
    bars = figure.axes[0].collections[0].get_segments()
    assert len(figure.axes) == 4 and [list(bar[:, 1]) for bar in bars] == [[pytest.approx(0.8), pytest.approx(1)]] * 2
