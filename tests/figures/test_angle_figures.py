"""The figure of distances shows the numbers that it is given, with nothing clipped."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from fwdiff_lite.figures import angles as figures

ANGLES = (60, 90, 120, 150, 180)


def invented(measure, level):
    values = {f"{prefix}{measure}_{a}": level * (1 + 6 / a) for prefix in ("", "novel_") for a in ANGLES}
    return {f"{k}{end}": x * f for k, x in values.items() for end, f in (("", 1.0), ("_low", 0.97), ("_high", 1.06))}


def test_every_line_shows_its_numbers_at_the_angles_of_its_views():
    samples = invented("energy_over_true", 1.1) | invented("deterministic_over_true", 1.5)
    ceiling = invented("ceiling_maps", 1.05) | invented("ceiling_rays", 1.02)
    lines = figures.distance_lines(samples, invented("energy_over_true", 2.4), ceiling)
    fig = figures.plot_distances(lines, ANGLES)
    for ax, prefix, ratio in zip(fig.axes, ("", "novel_"), (1, 0.75), strict=True):
        assert [c.get_label() for c in ax.containers] == [line.label for line in lines]
        low_end, high_end = ax.get_ylim()
        for container, line in zip(ax.containers, lines, strict=True):
            x, y = container[0].get_data()
            keys = [f"{prefix}{line.measure}_{a}" for a in ANGLES]
            assert list(y) == [line.numbers[key] for key in keys] and np.abs(x - ratio * np.array(ANGLES)).max() < 4
            ends = np.array([segment[:, 1] for segment in container[2][0].get_segments()])
            assert ends == pytest.approx(np.array([[line.numbers[f"{k}_{e}"] for e in ("low", "high")] for k in keys]))
            assert low_end < ends.min() and ends.max() < high_end
        assert low_end < 1 < high_end, "the line of true draws is visible"
        assert [float(text.get_text()) for text in ax.get_xticklabels()] == [ratio * a for a in ANGLES]
    labels = [text.get_text() for text in fig.legends[0].get_texts()]
    assert sorted(labels) == sorted(["true draws", *(line.label for line in lines)])
    plt.close(fig)
