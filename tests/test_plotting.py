"""Figures show the arrays that they are given; colours encode flows and depths as documented."""

import io
import math

import matplotlib as mpl
import numpy as np
import pytest
import torch

mpl.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402

from fwdiff_lite import plotting  # noqa: E402


@pytest.fixture(autouse=True)
def clean_figures():
    with mpl.rc_context():
        yield
    plt.close("all")


def grid_images(fig):
    """The arrays of a grid's images, row by row; None for an empty place."""
    return [ax.images[0].get_array() if ax.images else None for ax in fig.axes]


def test_set_style_applies_settings_that_exist():
    with mpl.rc_context():
        plotting.set_style()
        assert mpl.rcParams["savefig.dpi"] == 150
        assert mpl.rcParams["figure.constrained_layout.use"]
    assert set(plotting.STYLE) <= set(mpl.rcParams)


def test_palette_is_nine_distinct_colours_that_differ_in_lightness_or_hue():
    names = ("TRUE", "SAMPLES", "CONTEXT", "TARGET", "NOVEL", "BASELINE", "CONTROL", "OTHER", "MUTED")
    colours = np.array([mpl.colors.to_rgb(getattr(plotting, name)) for name in names])
    distances = np.linalg.norm(colours[:, None] - colours[None], axis=-1)
    assert distances[~np.eye(len(names), dtype=bool)].min() > 0.2


def test_image_grid_shows_each_array_in_its_place():
    images = torch.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
    fig = plotting.image_grid(images, ["a", "b"], ["x", "y", "z"])
    for shown, image in zip(grid_images(fig), images.reshape(6, 4, 5), strict=True):
        np.testing.assert_array_equal(shown, image.numpy())
    assert [ax.get_title() for ax in fig.axes[:3]] == ["x", "y", "z"]
    assert [fig.axes[0].get_ylabel(), fig.axes[3].get_ylabel()] == ["a", "b"]


def test_all_images_of_a_grid_have_one_scale():
    images = np.stack([np.zeros((1, 2, 2)), np.full((1, 2, 2), 7.0)])
    fig = plotting.image_grid(images)
    assert {ax.images[0].get_clim() for ax in fig.axes} == {(0.0, 7.0)}


def test_image_grid_clips_rgb_and_leaves_out_images_of_nan():
    images = np.full((1, 2, 2, 2, 3), 1.5)
    images[0, 1] = np.nan
    clipped, empty = grid_images(plotting.image_grid(images))
    assert clipped.max() == 1.0 and empty is None


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 2, 3)), None, "give .rows, cols, h, w"),
        (np.zeros((1, 2, 3, 3, 4)), None, "give .rows, cols, h, w"),
        (np.zeros((2, 2, 3, 3)), ["one"], "row_labels has 1 entries, wanted 2"),
        (np.full((1, 1, 2, 2), np.nan), None, "no finite value"),
    ],
)
def test_image_grid_refuses_invalid_input(images, labels, message):
    with pytest.raises(ValueError, match=message):
        plotting.image_grid(images, labels)


def test_zero_flow_is_white_and_opposite_vectors_have_complementary_hues():
    directions = [(math.cos(a), math.sin(a)) for a in np.linspace(0, 2 * math.pi, 12, endpoint=False)]
    rgb = plotting.flow_to_rgb(torch.tensor([[(0.0, 0.0), *directions]]))
    np.testing.assert_allclose(rgb[0, 0], 1.0)
    hue = mpl.colors.rgb_to_hsv(rgb[0, 1:])[:, 0]
    np.testing.assert_allclose((hue[6:] - hue[:6]) % 1.0, 0.5, atol=1e-6)
    np.testing.assert_allclose(hue, np.arange(12) / 12, atol=1e-6)


def test_flow_saturation_grows_with_length_up_to_max_length():
    rgb = plotting.flow_to_rgb(np.array([[[0.5, 0.0], [1.0, 0.0], [9.0, 0.0]]]), max_length=1.0)
    whiteness = rgb[0].min(axis=-1)
    assert whiteness[0] == pytest.approx(0.5) and whiteness[1] == whiteness[2] == pytest.approx(0.0)
    np.testing.assert_array_equal(plotting.flow_to_rgb(np.zeros((2, 2, 2))), 1.0)


def test_flow_wheel_is_white_at_its_centre_and_outside_the_disc():
    wheel = plotting.flow_wheel(33)
    assert wheel.shape == (33, 33, 3)
    np.testing.assert_allclose(wheel[16, 16], 1.0)
    np.testing.assert_allclose(wheel[0, 0], 1.0)
    assert wheel[16, 0].min() < 0.1


def test_near_depth_is_bright_and_depth_that_is_not_finite_is_white():
    rgb = plotting.depth_to_rgb(torch.tensor([[1.0, 2.0, 3.0, math.inf, math.nan]]))
    brightness = rgb[0].mean(axis=-1)
    assert brightness[0] > brightness[1] > brightness[2]
    np.testing.assert_array_equal(rgb[0, 3:], 1.0)


def test_depth_uses_the_given_near_and_far_and_accepts_a_constant_map():
    constant = np.full((2, 2), 5.0)
    np.testing.assert_array_equal(plotting.depth_to_rgb(constant), plotting.depth_to_rgb(constant, 5.0, 5.0))
    half_way = plotting.depth_to_rgb(constant, 0.0, 10.0)
    assert not np.allclose(half_way, plotting.depth_to_rgb(constant))
    np.testing.assert_array_equal(half_way, plotting.depth_to_rgb(constant * 2, 0.0, 20.0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plotting.flow_to_rgb(np.zeros((4, 4, 3))), r"flow has shape \(4, 4, 3\)"),
        (lambda: plotting.flow_to_rgb(np.zeros((4, 4, 2)), max_length=-1.0), "got max_length = -1.0"),
        (lambda: plotting.depth_to_rgb(np.zeros((2, 2)), 3.0, 1.0), "give near below far"),
        (lambda: plotting.depth_to_rgb(np.full((2, 2), np.inf)), "give near and far"),
    ],
)
def test_colour_functions_refuse_invalid_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_figure_to_rgb_gives_the_pixels_of_the_saved_figure():
    fig, ax = plt.subplots(figsize=(2, 1), dpi=50, layout="none")  # a layout engine would move the axes at every draw
    ax.axhspan(0, 1, color="red")
    frame = plotting.figure_to_rgb(fig)
    assert frame.shape == (50, 100, 3) and frame.dtype == np.uint8
    file = io.BytesIO()
    fig.savefig(file, dpi=50)
    file.seek(0)
    np.testing.assert_array_equal(frame, (plt.imread(file)[..., :3] * 255).round().astype(np.uint8))


def test_frames_of_a_changed_figure_differ_and_do_not_share_memory():
    fig, ax = plt.subplots(figsize=(1, 1), dpi=40)
    frame1 = plotting.figure_to_rgb(fig)
    copy = frame1.copy()
    ax.plot([0, 1])
    frame2 = plotting.figure_to_rgb(fig)
    np.testing.assert_array_equal(frame1, copy)
    assert (frame1 != frame2).any()


def test_half_precision_becomes_single_precision():
    assert plotting.to_numpy(torch.ones(2, dtype=torch.bfloat16)).dtype == np.float32
