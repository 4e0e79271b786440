"""Figures and tables of 3-D scenes show the numbers that they are given."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from fwdiff_lite.figures import inverse_graphics as figures
from fwdiff_lite.problems.inverse_graphics import tabletop
from fwdiff_lite.problems.inverse_graphics.volume import RenderedImages


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def image(ax):
    return np.asarray(ax.images[0].get_array())


def test_frequencies_and_their_intervals():
    labels = torch.tensor([[0, 0, 0, 1]] * 6 + [[0, 1, 1, 1]] * 6)
    first, second, third = figures.category_intervals(labels, 3)
    assert first.value == second.value == 0.5 and tuple(third) == (0.0, 0.0, 0.0)
    assert first.low < 0.45 and first.high > 0.55
    alike = figures.category_intervals(torch.tensor([[0, 1]] * 12), 2)[0]  # no variation between scenes
    assert tuple(alike) == (0.5, 0.5, 0.5)


def test_every_cue_has_bars_with_intervals():
    generator = torch.Generator().manual_seed(0)
    cues = torch.arange(12)[:, None].expand(-1, 2) % 3
    labels = torch.multinomial(tabletop.FACTOR_PROBABILITIES[0, cues[:, 0]], 8, True, generator=generator)
    fig = figures.plot_frequencies(labels[:, None].expand(-1, 2, -1), cues)
    for row in range(2):
        for cue in range(3):
            ax = fig.axes[3 * row + cue]
            heights = [bar.get_height() for bar in ax.patches]
            ours = labels[cues[:, 0] == cue]
            assert heights == pytest.approx([float((ours == k).double().mean()) for k in range(3)])
            ends = [segment[:, 1] for segment in ax.collections[0].get_segments()]
            assert all(low <= height <= high for (low, high), height in zip(ends, heights, strict=True))
            assert any(low < high for low, high in ends)


def test_tables_hold_the_numbers():
    assert all(f"{float(p):.2f}" in figures.factor_table().data for p in tabletop.FACTOR_PROBABILITIES.flatten())
    assert figures.factor_table().data.count("1.49 bits") == 3  # entropy of .5, .3, .2
    keys = [f"{factor}_factor_{key}" for key in ("tv", "scene_rms") for factor in ("hidden", "decal")]
    keys += [f"{prefix}energy_over_true_{angle}" for angle in (60, 180) for prefix in ("", "novel_")]
    numbers = {f"{key}{end}": i + 0.125 for i, key in enumerate(keys) for end in ("", "_low", "_high")}
    ancestral, ddim = figures.sampler_table({1: numbers, 0: numbers}).data.splitlines()[2:]
    assert (
        ancestral.startswith("| ancestral (eta 1) | 0.125 (0.125 to 0.125) |")
        and "| 7.12 (7.12 to 7.12) |" in ancestral
    )
    assert ddim.startswith("| DDIM (eta 0) |") and ddim.count("to") == 8
    views = {f"{prefix}{key}_60": i for i, key in enumerate(figures.VIEW_MEASURES) for prefix in ("", "novel_")}
    views |= {"energy_over_true_60_low": -1.0, "energy_over_true_60_high": 1.0}
    _, _, target, novel = figures.view_table(views, (60,)).data.splitlines()
    assert target.startswith("| target, 60° | 0.00 (-1.00 to 1.00) | 1.00 | 2.00 | 3.00 | 4 |")
    assert novel.startswith("| novel view, 45° | 0.00 | 1.00")
    measures = {f"{prefix}{key}_60": 0.5 for prefix in ("", "novel_") for key in figures.MEASURES}
    assert figures.measures_in_a_fold(measures, (60,)).data.count("<td>0.5") == len(measures)


def test_depth_of_a_transparent_pixel_is_white():
    transmittance, depth = torch.tensor([[[0.1, 0.9]]]), torch.tensor([[[1.0, 2.0]]])
    fig = figures.plot_renders([(torch.zeros(1, 3, 1, 2), depth, transmittance)], ["a"])
    colour, shown_depth = map(image, fig.axes)
    assert np.allclose(colour, 0.5) and np.allclose(shown_depth[0, 1], 1) and not np.allclose(shown_depth[0, 0], 1)


def test_images_of_levels_and_of_numbers_are_the_same_colours():
    levels = torch.arange(0, 256, 15, dtype=torch.uint8).expand(3, 1, -1)
    torch.testing.assert_close(figures.to_rgb(levels), figures.to_rgb(levels / 127.5 - 1))
    assert figures.to_rgb(levels).shape == (1, 18, 3)


def test_a_frame_of_an_orbit():
    truth, samples = torch.zeros(2, 6, 3, 4, 4), torch.full((2, 2, 6, 3, 4, 4), 255, dtype=torch.uint8)
    depth = torch.arange(2.0)[None, :, None, None, None].expand(2, 2, 6, 4, 4)
    orbits = figures.Orbits(truth, samples, depth)
    frame = orbits.frame(1, 5)
    assert frame.shape == (5, 4, 4, 3)
    assert (frame[0] == 0.5).all() and (frame[1:3] == 1).all() and frame[3].mean() > frame[4].mean()  # near is bright
    assert len(orbits.plot_strip(3).axes) == 15 and len(orbits.frames()) == 6


def test_a_walk_shows_the_context_and_the_same_number_of_views():
    view = RenderedImages(torch.zeros(1, 1, 3, 4, 4), torch.ones(1, 1, 4, 4), torch.ones(1, 1, 4, 4))
    assert len(figures.plot_walk(torch.ones(3, 4, 4), [view] * 12).axes) == 7
