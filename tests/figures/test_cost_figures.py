"""Figures and tables of costs show the numbers that they are given."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from fwdiff_lite import plotting
from fwdiff_lite.figures import cost as figures


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def gpu_record(rate=100.0, **options):
    """A recorded training on one and on two GPUs."""
    run = {"processes": 1, "batch": 10, "rate": rate, "window_rates": [90.0, 110.0], "batch_seconds": 0.01}
    run |= {"first_step_seconds": 30.0, "gigabytes": 5.0, "device": "card"} | options
    pair = run | {"processes": 2, "rate": 1.8 * rate, "window_rates": [170.0, 181.0], "all_reduce_seconds": 0.002}
    return {"operations": {"gigaflop": 50.0}, "cold": run | {"first_step_seconds": 99.0}, "gpus_1": run, "gpus_2": pair}


def test_parts_have_their_shares_and_a_total():
    costs = {
        "context's encoder": {"gigaflop": 1.0, "seconds": 3.0, "megabytes": 10.0},
        "target's rays": {"gigaflop": 3.0, "seconds": 1.0, "megabytes": 90.0},
    }
    sample = {part: {key: cost[key] for key in ("gigaflop", "seconds")} for part, cost in costs.items()}
    first, second = figures.plot_parts({"a": costs, "b": sample}).axes
    widths = [[bar.get_width() for bar in bars] for bars in first.containers]
    assert np.allclose(widths, [[0.25, 0.75, 0.1], [0.75, 0.25, 0.9]])
    assert [bar.get_x() for bar in first.containers[1]] == widths[0], "one part begins where the other ends"
    assert {"4.0 billion", "4.0 s", "100 MB"} <= {text.get_text() for text in first.texts}
    assert len(second.containers[0]) == 2


def test_memory_against_points_and_chunks():
    cost = {"peak_megabytes": 8.0, "seconds": 1.0}
    sweep = {(10, 4): {"peak_megabytes": 40.0}, (20, 4): {"peak_megabytes": 80.0}, (20, 8): {"peak_megabytes": 160.0}}
    fig = figures.plot_memory(sweep, {4: cost | {"peak_megabytes": 2.0}}, cost, cost | {"seconds": 2.0})
    growth, chunks, time = fig.axes
    assert [list(line.get_xdata()) for line in growth.lines] == [[40, 80], [160]]
    assert list(chunks.lines[1].get_ydata()) == [8.0, 2.0] and list(time.lines[1].get_ydata()) == [2.0, 1.0]
    assert list(chunks.lines[0].get_ydata()) == [8.0, 8.0] and time.get_ylim()[1] > 2


def test_the_line_of_a_sample_is_one_start_and_its_steps():
    (ax,) = figures.plot_sampling_time({1: 3.0, 4: 9.0}, once=1.0, one_step=2.0).axes
    assert list(ax.lines[0].get_ydata()) == [1.0, 9.0] and list(ax.lines[1].get_ydata()) == [3.0, 9.0]


def test_costs_are_those_of_one_scene():
    step = {"batch": 4, "seconds": 0.02, "gigaflop": 8.0, "gigabytes": 2.0, "gigabytes_moved": 6.0}
    costs = figures.costs_per_scene({"rays_1": step, "rays_2": step | {"batch": 2}}, {"rays": (1, 2)})["rays"]
    assert costs["gigaflop"] == [2.0, 4.0] and costs["gigabytes"] == [0.5, 1.0]
    assert costs["milliseconds"] == pytest.approx([5.0, 10.0]) and costs["gigabytes_moved"] == [1.5, 3.0]


def test_every_panel_of_the_costs_has_one_unit():
    lines = {"gigaflop": [1, 2], "gigabytes_moved": [3, 4], "milliseconds": [5, 6], "gigabytes": [7, 8]}
    larger = {key: [2 * value for value in values] for key, values in lines.items()}
    fig = figures.plot_costs({"rays": lines, "side": larger}, {"rays": (1, 2), "side": (3, 4)})
    axes = np.array(fig.axes).reshape(4, 2)
    shown = [[list(ax.lines[0].get_ydata()) for ax in row] for row in axes]
    assert shown == [[lines[key], larger[key]] for key in lines]
    assert all(len(ax.lines) == 1 for ax in axes.flat)
    assert all(ax.get_ylim()[0] == 0 and ax.get_ylim()[1] > max(ax.lines[0].get_ydata()) for ax in axes.flat)
    assert [ax.get_ylabel().split("\n")[1] for ax in axes[:, 0]] == ["billions", "GB", "milliseconds", "GB"]


def test_rates_and_their_share_of_the_peak():
    row = {"name": "a", "device": "card", "gpus": 2, "rate": 2000.0, "gigaflop": 50.0, "gigabytes": 4.0}
    known, unknown = (row | {"peak_gigaflop_a_second": peak} for peak in (1e6, None))
    first, second = figures.rate_table([known, unknown]).data.splitlines()[2:]
    assert first == "| a | card | 2 | 2,000 | 50.0 | 50 | 5.0% | 4 |" and second == first.replace("5.0%", "")


def test_scaling_against_n_times_one_gpu():
    (ax,) = figures.plot_scaling({"unet": gpu_record()}).axes
    assert list(ax.lines[0].get_ydata()) == [0, 200.0], "the line of perfect scaling"
    (points, _, (bars,)) = ax.containers[0]
    assert list(points.get_ydata()) == [100.0, 180.0]
    assert [list(segment[:, 1]) for segment in bars.get_segments()] == [[90.0, 110.0], [170.0, 181.0]]
    rows = figures.scaling_table({"unet": gpu_record()}).data.splitlines()[2:]
    assert rows[0] == "| the model of 06 | 1 | 1.00 | 100 | 10 |  | 30 |"
    assert rows[1] == "| the model of 06 | 2 | 1.80 | 111 | 10 | 2.0 | 30 |"
    assert rows[2].endswith("| 99 |") and "empty cache" in rows[2]


def test_quality_against_milliseconds():
    record = {f"seconds_{n}": {"seconds": n / 100, "batch": 2} for n in (4, 16)}
    record |= {f"eta_{eta}_steps_{n}": {"60": [2 + eta, 1.5, 4], "180": [9, 8, 10]} for eta in (0, 1) for n in (4, 16)}
    first, second = figures.plot_quality({"unet": record}, (60, 180), (0, 1)).axes
    lines = [line for line in first.lines if line.get_color() in (plotting.DDIM, plotting.ANCESTRAL) and len(
        line.get_xdata()) == 2 and line.get_linestyle() == "-"]  # fmt: skip
    assert [list(line.get_xdata()) for line in lines] == [[20.0, 80.0]] * 2
    assert [list(line.get_ydata()) for line in lines] == [[2, 2], [3, 3]]
    assert [text.get_text() for text in first.get_xticklabels()] == ["20\n4 steps", "80\n16 steps"]
    assert "180" in second.get_title()
