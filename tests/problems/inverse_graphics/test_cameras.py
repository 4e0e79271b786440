"""Rays and projection undo each other, whatever the camera; u goes to the right, v down, and pixels have centres."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fwdiff_lite.problems.inverse_graphics.cameras import (
    check_cameras,
    coordinates,
    look_at,
    orbit,
    pixel_centres,
    project,
    rays,
)


def double(x):
    return torch.tensor(x, dtype=torch.float64)


def numbers(low, high):
    return st.floats(low, high, allow_nan=False)


@st.composite
def cameras(draw):
    """Any camera that does not look along its up direction: (matrix, eye, at, view)."""
    at = double([draw(numbers(-10, 10)) for _ in range(3)])
    azimuth, elevation = draw(numbers(-math.pi, math.pi)), draw(numbers(-1.4, 1.4))
    flat = math.cos(elevation)
    away = double([flat * math.cos(azimuth), flat * math.sin(azimuth), math.sin(elevation)])
    eye, view = at + draw(numbers(0.1, 50)) * away, draw(numbers(0.05, 3.0))
    return look_at(eye, at, view), eye, at, view


def many_times(test):
    return settings(max_examples=100, deadline=None, derandomize=True)(test)


# --- rays and projection ----------------------------------------------------------------------------------------------


@many_times
@given(cameras(), st.lists(st.tuples(numbers(-0.5, 1.5), numbers(-0.5, 1.5)), min_size=1, max_size=4), numbers(0.1, 99))
def test_what_lies_on_a_ray_is_projected_back_to_where_the_ray_left(camera, uv, distance):
    """In float64; and its depth is the distance times the cosine of the ray's angle to the axis."""
    matrix, eye, _, view = camera
    uv = double(uv)
    start, away = rays(matrix, uv)
    torch.testing.assert_close(start[0], eye, rtol=0, atol=1e-10)
    torch.testing.assert_close(away.norm(dim=-1), torch.ones(len(uv)).double())
    again, depth = project(matrix, start + distance * away)
    torch.testing.assert_close(again, uv, rtol=0, atol=1e-7)
    slope = (2 * uv - 1) * math.tan(view / 2)
    torch.testing.assert_close(depth, distance / (1 + slope.square().sum(-1)).sqrt(), rtol=1e-7, atol=1e-9)
    elsewhere, _ = project(matrix, start + distance * (away + 0.01 * torch.linalg.cross(away, away.roll(1, -1))))
    assert not torch.allclose(elsewhere, uv, rtol=0, atol=1e-7), "the control: another point"


@many_times
@given(cameras(), st.tuples(numbers(-3, 3), numbers(-3, 3), numbers(0.1, 50)))
def test_the_ray_through_a_points_projection_meets_the_point(camera, place):
    matrix, eye, _, _ = camera
    back = torch.linalg.inv(matrix)
    point = (back[:3, :3] @ (double(place) * place[2]) + back[:3, 3])[None]
    uv, depth = project(matrix, point)
    start, away = rays(matrix, uv)
    miss = torch.linalg.cross(point - start, away).norm()
    assert miss < 1e-8 * (1 + float((point - eye).norm())) and ((point - start) * away).sum() > 0 and depth > 0


@many_times
@given(cameras(), numbers(0.1, 50))
def test_behind_a_camera_depth_is_negative(camera, distance):
    matrix, eye, at, _ = camera
    forward = torch.nn.functional.normalize(at - eye, dim=0)
    _, depth = project(matrix, torch.stack([eye - distance * forward, eye + distance * forward]))
    torch.testing.assert_close(depth, double([-distance, distance]), rtol=1e-8, atol=1e-9)


def test_at_the_camera_itself_a_projection_is_finite():
    matrix = look_at(double([1.0, 2.0, 3.0]), double([0.0, 0.0, 0.0]), 0.7)
    uv, depth = project(matrix, double([[1.0, 2.0, 3.0]]))
    assert torch.isfinite(uv).all() and depth.abs() < 1e-12


def test_cameras_and_points_broadcast():
    matrix = orbit(torch.linspace(0, 3, 6).double().view(2, 3), 0.3, 4.0, 0.6)
    points = torch.randn(2, 1, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    uv, depth = project(matrix, points)
    assert uv.shape == (2, 3, 5, 2) and depth.shape == (2, 3, 5)
    one, _ = project(matrix[1, 2], points[1, 0])
    torch.testing.assert_close(uv[1, 2], one)
    start, away = rays(matrix, uv[0, 0])
    assert start.shape == (2, 3, 1, 3) and away.shape == (2, 3, 5, 3)


# --- which way is which -----------------------------------------------------------------------------------------------


def test_u_goes_right_and_v_goes_down():
    """Looking north from the south, east is to the right and the sky is above."""
    matrix = look_at(double([0.0, -5.0, 0.0]), double([0.0, 0.0, 0.0]), 2 * math.atan(0.5))
    points = double([[1, 0, 0], [-1, 0, 0], [0, 0, 1], [0, 0, -1], [0, 0, 0], [0, 5, 0]])
    uv, depth = project(matrix, points)
    expected = double([[0.7, 0.5], [0.3, 0.5], [0.5, 0.3], [0.5, 0.7], [0.5, 0.5], [0.5, 0.5]])
    torch.testing.assert_close(uv, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(depth, double([5, 5, 5, 5, 5, 10]))


@many_times
@given(cameras())
def test_no_camera_is_a_mirror(camera):
    """Right, down and forward are orthonormal and right-handed; up is never down."""
    matrix, eye, at, view = camera
    focal = 0.5 / math.tan(view / 2)
    linear = matrix[:3, :3]
    axes = torch.stack([(linear[0] - 0.5 * linear[2]) / focal, (linear[1] - 0.5 * linear[2]) / focal, linear[2]])
    torch.testing.assert_close(axes @ axes.T, torch.eye(3).double(), rtol=0, atol=1e-9)
    torch.testing.assert_close(torch.linalg.det(axes), double(1.0))
    mirror = torch.eye(3).double()
    mirror[0, 0], mirror[0, 2] = -1, 1  # u -> 1 - u
    assert torch.linalg.det(mirror @ linear) < 0 < torch.linalg.det(linear), "the control: a mirrored image"
    assert axes[1, 2] < 0 and abs(float(axes[0, 2])) < 1e-9, "down points down and right is level"


@many_times
@given(cameras())
def test_a_camera_looks_at_what_it_should_and_sees_the_angle_it_should(camera):
    matrix, eye, at, view = camera
    edges = double([[0.5, 0.5], [0.0, 0.5], [1.0, 0.5], [0.5, 0.0], [0.5, 1.0]])
    start, away = rays(matrix, edges)
    torch.testing.assert_close(away[0], torch.nn.functional.normalize(at - eye, dim=0), rtol=0, atol=1e-8)
    for one, other in ((1, 2), (3, 4)):
        angle = 2 * torch.atan2((away[one] - away[other]).norm(), (away[one] + away[other]).norm())
        torch.testing.assert_close(angle, double(view), rtol=1e-8, atol=1e-9)
    uv, _ = project(matrix, at[None])
    torch.testing.assert_close(uv, double([[0.5, 0.5]]), rtol=0, atol=1e-7)


def test_coordinates_are_zero_along_the_axis_and_depth_is_their_last():
    matrix = orbit(double([0.3, 2.0]), 0.4, 3.0, 0.8)
    points = torch.randn(2, 7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    uv, depth = project(matrix, points)
    seen = coordinates(matrix, points)
    torch.testing.assert_close(seen[..., 2], depth)
    torch.testing.assert_close(seen[..., :2], (uv - 0.5) * depth[..., None])
    torch.testing.assert_close(coordinates(matrix, double([[0.0, 0.0, 0.0]])), double([[[0, 0, 3]], [[0, 0, 3]]]))


def test_orbits_go_round_a_point_at_their_height():
    azimuth, at = double([0.0, math.pi / 2, math.pi]), (1.0, 2.0, 0.5)
    matrix = orbit(azimuth, math.pi / 6, 2.0, 0.7, at)
    far, high = 2 * math.cos(math.pi / 6), 1.0
    start, away = rays(matrix, double([[0.5, 0.5]]))
    expected = double(at) + double([[far, 0, high], [0, far, high], [-far, 0, high]])
    torch.testing.assert_close(start[:, 0], expected)
    torch.testing.assert_close(away[:, 0], (double(at) - expected) / 2)
    each = orbit(azimuth, double([0.1, 0.2, 0.3]), double([1.0, 2.0, 3.0]), double([0.5, 0.6, 0.7]), at)
    torch.testing.assert_close(each[1], orbit(azimuth[1:2], 0.2, 2.0, 0.6, at)[0])


# --- pixels and precision ---------------------------------------------------------------------------------------------


def test_pixels_have_their_centres_half_a_pixel_from_the_edge():
    uv = pixel_centres(2, 4, torch.zeros(1).double())
    u, v = [0.125, 0.375, 0.625, 0.875], [0.25, 0.75]
    assert uv.tolist() == [[x, y] for y in v for x in u]
    assert pixel_centres(1, 3, torch.zeros(1))[:, 1].tolist() == [0.5] * 3
    for h, w in ((5, 7), (64, 64)):  # the same from either end, so that an image is not off by half a pixel
        uv = pixel_centres(h, w, torch.zeros(1).double())
        torch.testing.assert_close(uv, 1 - uv.flip(0))
        assert uv.dtype == torch.float64 and not torch.allclose(uv - 0.5 / w, 1 - (uv - 0.5 / w).flip(0))


def test_rays_and_projections_keep_their_precision_where_products_of_matrices_do_not():
    generator = torch.Generator().manual_seed(0)
    matrix = orbit(6 * torch.rand(9, generator=generator), 0.3, 3.0, 0.6)
    points, uv = torch.randn(9, 20, 3, generator=generator), torch.rand(9, 20, 2, generator=generator)
    plain = (*rays(matrix, uv), *project(matrix, points), coordinates(matrix, points))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = (*rays(matrix, uv), *project(matrix, points), coordinates(matrix, points))
        product = points @ matrix[:, :3, :3].mT
    assert all(torch.equal(a, b) and b.dtype == torch.float32 for a, b in zip(plain, inside, strict=True))
    assert (product - points @ matrix[:, :3, :3].mT).abs().max() > 1e-3, "the control: autocast is on"
    exact = (*rays(matrix.double(), uv.double()), *project(matrix.double(), points.double()))
    for mine, truth in zip(plain, exact, strict=False):
        torch.testing.assert_close(mine.double(), truth, rtol=1e-5, atol=1e-5)


# --- what is refused --------------------------------------------------------------------------------------------------


def test_cameras_that_cannot_be_are_refused_in_one_line():
    eye, at = double([0.0, 0.0, 2.0]), double([0.0, 0.0, 0.0])
    good = look_at(double([3.0, 0.0, 1.0]), at, 0.6)
    assert check_cameras(good) is good and check_cameras(good.expand(2, 3, 4, 4)).shape == (2, 3, 4, 4)
    assert check_cameras(good.new_zeros(2, 0, 4, 4)).shape == (2, 0, 4, 4)

    def changed(row, column, value):
        camera = good.repeat(2, 1, 1)
        camera[1, row, column] = value
        return camera

    flat = good.clone()
    flat[0] = flat[1]
    both = torch.stack([eye + 1, eye])
    for call, message in (
        (lambda: look_at(eye, at, 0.6), r"cannot look at itself or along its up direction \(0.0, 0.0, 1.0\)"),
        (lambda: look_at(both, at.expand(2, 3), 0.6), "cannot look at itself or along its up"),
        (lambda: look_at(at + 1, at + 1, 0.6), "cannot look at itself"),
        (lambda: look_at(eye, at, 0.6, up=(0.0, 0.0, -2.0)), r"up direction \(0.0, 0.0, -2.0\): move `eye`, `at`"),
        (lambda: look_at(at + 1, at, 0.0), "an angle between 0 and pi radians, got 0 to 0"),
        (lambda: look_at(at + 1, at, math.pi), "between 0 and pi radians, got 3.14"),
        (lambda: look_at(both + 1, at.expand(2, 3), double([0.5, -1.0])), "got -1 to 0.5"),
        (lambda: look_at(at + 1, at, math.nan), "between 0 and pi radians, got nan"),
        (lambda: orbit(double([0.0]), math.pi / 2, 1.0, 0.6), "along its up direction"),
        (lambda: orbit(double([0.0]), 0.2, 0.0, 0.6), "cannot look at itself"),
        (lambda: check_cameras(good[:3]), r"a camera is one 4 x 4 matrix.*got \(3, 4\)"),
        (lambda: check_cameras(good[None, :, :3]), r"got \(1, 4, 3\)"),
        (lambda: check_cameras(changed(0, 1, math.nan)), "holds NaN or infinite numbers"),
        (lambda: check_cameras(changed(2, 3, math.inf)), "holds NaN or infinite numbers"),
        (lambda: check_cameras(changed(3, 2, 1.0)), "last row must be 0 0 0 1"),
        (lambda: check_cameras(changed(3, 3, 2.0)), "last row must be 0 0 0 1"),
        (lambda: check_cameras(torch.stack([good, flat])), r"not invertible \(determinant .*\): its three axes"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
