"""Figures are tested by the arrays they draw."""

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


def drawn(fig):
    """The arrays of a grid's pictures, in reading order; None where a place is empty."""
    return [ax.images[0].get_array() if ax.images else None for ax in fig.axes]


def test_style_sets_the_look_and_every_setting_exists():
    plotting.style()
    assert mpl.rcParams["savefig.dpi"] == 150
    assert mpl.rcParams["figure.constrained_layout.use"]
    assert set(plotting.STYLE) <= set(mpl.rcParams)


def test_palette_is_seven_distinct_colours_that_differ_in_lightness_or_hue():
    names = ("TRUE", "SAMPLES", "CONTEXT", "TARGET", "BASELINE", "CONTROL", "MUTED")
    colours = np.array([mpl.colors.to_rgb(getattr(plotting, name)) for name in names])
    distances = np.linalg.norm(colours[:, None] - colours[None], axis=-1)
    assert distances[~np.eye(len(names), dtype=bool)].min() > 0.2


def test_image_grid_draws_each_array_in_its_place():
    images = torch.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
    fig = plotting.image_grid(images, ["a", "b"], ["x", "y", "z"])
    for picture, image in zip(drawn(fig), images.reshape(6, 4, 5), strict=True):
        np.testing.assert_array_equal(picture, image.numpy())
    assert [ax.get_title() for ax in fig.axes[:3]] == ["x", "y", "z"]
    assert [fig.axes[0].get_ylabel(), fig.axes[3].get_ylabel()] == ["a", "b"]


def test_image_grid_shares_one_scale_so_that_pictures_can_be_compared():
    images = np.stack([np.zeros((1, 2, 2)), np.full((1, 2, 2), 7.0)])
    for given, scale in (({}, (0.0, 7.0)), ({"vmin": -1.0, "vmax": 1.0}, (-1.0, 1.0))):
        fig = plotting.image_grid(images, **given)
        assert {ax.images[0].get_clim() for ax in fig.axes} == {scale}


def test_image_grid_clips_rgb_and_leaves_nan_pictures_out():
    images = np.full((1, 2, 2, 2, 3), 1.5)
    images[0, 1] = np.nan
    first, second = drawn(plotting.image_grid(images))
    assert first.max() == 1.0 and second is None


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 2, 3)), None, "give .rows, cols, h, w"),
        (np.zeros((1, 2, 3, 3, 4)), None, "give .rows, cols, h, w"),
        (np.zeros((2, 2, 3, 3)), ["one"], "row_labels has 1 entries for 2"),
        (np.full((1, 1, 2, 2), np.nan), None, "no finite value"),
    ],
)
def test_image_grid_names_what_does_not_fit(images, labels, message):
    with pytest.raises(ValueError, match=message):
        plotting.image_grid(images, labels)


def test_flow_is_white_at_rest_and_opposite_vectors_have_complementary_hues():
    directions = [(math.cos(a), math.sin(a)) for a in np.linspace(0, 2 * math.pi, 12, endpoint=False)]
    rgb = plotting.flow_to_rgb(torch.tensor([[(0.0, 0.0), *directions]]))
    np.testing.assert_allclose(rgb[0, 0], 1.0)
    hue = mpl.colors.rgb_to_hsv(rgb[0, 1:])[:, 0]
    np.testing.assert_allclose((hue[6:] - hue[:6]) % 1.0, 0.5, atol=1e-6)
    np.testing.assert_allclose(hue, np.arange(12) / 12, atol=1e-6)


def test_flow_deepens_with_length_and_saturates_at_largest():
    rgb = plotting.flow_to_rgb(np.array([[[0.5, 0.0], [1.0, 0.0], [9.0, 0.0]]]), largest=1.0)
    whiteness = rgb[0].min(axis=-1)
    assert whiteness[0] == pytest.approx(0.5) and whiteness[1] == whiteness[2] == pytest.approx(0.0)
    np.testing.assert_array_equal(plotting.flow_to_rgb(np.zeros((2, 2, 2))), 1.0)


def test_flow_wheel_is_white_at_its_centre_and_outside_the_disc():
    wheel = plotting.flow_wheel(33)
    assert wheel.shape == (33, 33, 3)
    np.testing.assert_allclose(wheel[16, 16], 1.0)
    np.testing.assert_allclose(wheel[0, 0], 1.0)
    assert wheel[16, 0].min() < 0.1


def test_depth_is_brighter_when_nearer_and_white_where_unknown():
    rgb = plotting.depth_to_rgb(torch.tensor([[1.0, 2.0, 3.0, math.inf, math.nan]]))
    brightness = rgb[0].mean(axis=-1)
    assert brightness[0] > brightness[1] > brightness[2]
    np.testing.assert_array_equal(rgb[0, 3:], 1.0)


def test_depth_uses_the_given_ends_and_bears_a_flat_map():
    flat = np.full((2, 2), 5.0)
    np.testing.assert_array_equal(plotting.depth_to_rgb(flat), plotting.depth_to_rgb(flat, 5.0, 5.0))
    middle = plotting.depth_to_rgb(flat, 0.0, 10.0)
    assert not np.allclose(middle, plotting.depth_to_rgb(flat))
    np.testing.assert_array_equal(middle, plotting.depth_to_rgb(flat * 2, 0.0, 20.0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plotting.flow_to_rgb(np.zeros((4, 4, 3))), r"flow has shape \(4, 4, 3\)"),
        (lambda: plotting.flow_to_rgb(np.zeros((4, 4, 2)), largest=-1.0), "give a positive length"),
        (lambda: plotting.depth_to_rgb(np.zeros((2, 2)), 3.0, 1.0), "give near below far"),
        (lambda: plotting.depth_to_rgb(np.full((2, 2), np.inf)), "give near and far"),
    ],
)
def test_colour_maps_name_what_does_not_fit(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_frames_are_the_pixels_that_a_saved_figure_has():
    fig, ax = plt.subplots(figsize=(2, 1), dpi=50)
    ax.axhspan(0, 1, color="red")
    frame = plotting.frames_from_figure(fig)
    assert frame.shape == (50, 100, 3) and frame.dtype == np.uint8
    file = io.BytesIO()
    fig.savefig(file, dpi=50)
    file.seek(0)
    np.testing.assert_array_equal(frame, (plt.imread(file)[..., :3] * 255).round().astype(np.uint8))


def test_frames_of_a_changed_figure_differ_and_do_not_share_memory():
    fig, ax = plt.subplots(figsize=(1, 1), dpi=40)
    before = plotting.frames_from_figure(fig)
    kept = before.copy()
    ax.plot([0, 1])
    after = plotting.frames_from_figure(fig)
    np.testing.assert_array_equal(before, kept)
    assert (before != after).any()


def test_scatter_draws_the_given_points_over_the_truth():
    _, ax = plt.subplots()
    points, truth = torch.randn(5, 2, requires_grad=True), np.random.default_rng(0).normal(size=(7, 2))
    plotting.scatter_plane(plotting.plane(ax, 2.0), points, truth)
    behind, front = ax.collections
    np.testing.assert_allclose(behind.get_offsets(), truth)
    np.testing.assert_allclose(front.get_offsets(), points.detach().numpy())
    assert behind.zorder < front.zorder
    assert ax.get_xlim() == ax.get_ylim() == (-2.0, 2.0) and ax.get_aspect() == 1.0


def test_every_point_of_an_observation_line_has_that_observation():
    _, ax = plt.subplots()
    plotting.observation_line(plotting.plane(ax, 2.0), 0.3, 1.1)
    line = ax.lines[0]
    points = np.array([line.get_xy1(), line.get_xy2()])
    np.testing.assert_allclose(points @ [math.cos(1.1), math.sin(1.1)], 0.3)
    assert np.linalg.norm(points[1] - points[0]) == pytest.approx(1.0)


def test_half_precision_tensors_are_drawn():
    assert plotting.to_numpy(torch.ones(2, dtype=torch.bfloat16)).dtype == np.float32


def test_hues_are_those_of_matplotlib():
    hue, saturation, value = torch.rand(3, 50, generator=torch.Generator().manual_seed(0))
    expected = mpl.colors.hsv_to_rgb(torch.stack([hue, saturation, value], -1).numpy())
    assert np.allclose(plotting.hsv(hue, saturation, value).numpy(), expected, atol=1e-6)
    assert plotting.hsv(torch.tensor([0.0, 1 / 3]), 1.0, 0.5).round(decimals=6).tolist() == [[0.5, 0, 0], [0, 0.5, 0]]


def test_pictures_in_256_levels_and_in_fewer():
    found = plotting.levels(torch.tensor([-2.0, -1.0, 0.0, 1.0, 1.5]))
    assert found.dtype == np.uint8 and found.tolist() == [0, 0, 128, 255, 255]
    x = torch.linspace(-1, 1, 1001)
    few = plotting.levels(x, 64).astype(float)
    assert len(np.unique(few)) == 64 and few.min() == 0 and few.max() == 255
    assert np.abs(few / 127.5 - 1 - x.numpy()).max() < 1 / 63 + 1 / 255
