"""The figures of motion show the arrays that they are given, with arrows of the right direction."""

import matplotlib as mpl
import numpy as np
import pytest
import torch

mpl.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402

from fwdiff_lite.figures import motion as figures  # noqa: E402


@pytest.fixture(autouse=True)
def clean_figures():
    with mpl.rc_context():
        yield
    plt.close("all")


def random_frames(*shape):
    return torch.rand(*shape, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def moving_right(*shape, pixels=3.0):
    """Displacements to the right in the left half of the image."""
    displacement = torch.zeros(*shape, 2, 32, 32)
    displacement[..., 0, :, :16] = pixels
    return displacement


def arrows(fig):
    """The arrows of each panel that has some."""
    return [ax.collections[0] for ax in fig.axes if ax.collections]


def test_only_long_arrows_are_drawn_at_their_pixels():
    fig, ax = plt.subplots()
    figures.draw_arrows(ax, moving_right() + 0.5, stride=8)
    (quiver,) = arrows(fig)
    assert np.all(quiver.X < 16) and len(quiver.X) == 2 * 4
    assert np.allclose(quiver.U, 3.5) and np.allclose(quiver.V, 0.5)


def test_every_displacement_has_arrows_beside_its_colours():
    frames, displacements = random_frames(2, 3), moving_right(2, 3)
    fig = figures.samples_figure(
        frames[:, 0], frames, displacements, frames[:, 1], frames[:, 2], moving_right(2, pixels=-3.0)
    )
    quivers = arrows(fig)
    assert len(quivers) == 2 * (3 + 1)
    assert [np.sign(q.U).mean() for q in quivers] == [1, 1, 1, -1] * 2
    shown = fig.axes[6 + 1].images[0].get_array()  # second row, second column: the frame of sample 1
    assert np.allclose(shown, frames[0, 0].movedim(0, -1) / 2 + 0.5)
    assert len(arrows(figures.photographs_figure(frames[0], displacements[0], frames[1], ["a", "b", "c"]))) == 3
    assert len(arrows(figures.trajectory_figure([1.0, 0.5, 0.0], frames[0], frames[1], displacements[0]))) == 3
    movers = figures.movers_figure(frames[:, 0], {"before": (frames[:, 1], displacements[:, 0])})
    assert len(arrows(movers)) == 2


def test_bars_have_the_frequencies_and_their_intervals():
    frequencies = {("a", eta): {50: (0.5, 0.02), 70: (0.6 + eta / 10, 0.03)} for eta in (0, 1)}
    ax = figures.frequencies_figure(frequencies, {"a": "one"}).axes[0]
    assert [bar.get_height() for bar in ax.patches] == pytest.approx([50, 60, 50, 70])
    ends = np.concatenate([line.get_segments() for line in ax.collections])
    assert np.allclose(np.ptp(ends[..., 1], axis=1), [4, 6, 4, 6])


def test_numbers_of_a_column_have_the_same_decimals():
    rows = [{"a": 0.0334, "b": 12.3456}, {"a": 0.02, "b": 4.0}, {"a": "", "b": ""}]
    table = figures.html_table(rows)
    assert "<td>0.033</td><td>12.3</td>" in table and "<td>0.020</td><td>4.0</td>" in table


def test_a_table_escapes_its_text_and_folds():
    rows = [{"name": "a < b", "score": 0.123456}, {"name": "c", "score": ""}]
    table = figures.html_table(rows)
    assert "<td>a &lt; b</td><td>0.123</td>" in table and not table.startswith("<details>")
    assert figures.html_table(rows, fold="more").startswith("<details><summary>more</summary><table>")
