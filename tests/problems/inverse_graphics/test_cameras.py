"""Rays and projection are inverse to each other for any camera; u points right, v points down; pixel centres."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from fwdiff_lite.problems.inverse_graphics import volume
from fwdiff_lite.problems.inverse_graphics.cameras import (
    check_cameras,
    look_at,
    orbit,
    pixel_centres,
    project,
    project_homogeneous,
    rays,
)


def double(x):
    return torch.tensor(x, dtype=torch.float64)


def floats(low, high):
    return st.floats(low, high, allow_nan=False)


@st.composite
def cameras(draw):
    """Any camera that does not look along its up direction: (matrix, eye, look_at_point, fov)."""
    look_at_point = double([draw(floats(-10, 10)) for _ in range(3)])
    azimuth, elevation = draw(floats(-math.pi, math.pi)), draw(floats(-1.4, 1.4))
    horizontal = math.cos(elevation)
    offset = double([horizontal * math.cos(azimuth), horizontal * math.sin(azimuth), math.sin(elevation)])
    eye, fov = look_at_point + draw(floats(0.1, 50)) * offset, draw(floats(0.05, 3.0))
    return look_at(eye, look_at_point, fov), eye, look_at_point, fov


def hundred_examples(test):
    return settings(max_examples=100, deadline=None, derandomize=True)(test)


# --- rays and projection ----------------------------------------------------------------------------------------------


@hundred_examples
@given(cameras(), st.lists(st.tuples(floats(-0.5, 1.5), floats(-0.5, 1.5)), min_size=1, max_size=4), floats(0.1, 99))
def test_a_point_on_a_ray_projects_to_the_rays_image_point(camera, uv, distance):
    """In float64. The point's depth is its distance times the cosine of the ray's angle to the optical axis."""
    matrix, eye, _, fov = camera
    uv = double(uv)
    origins, directions = rays(matrix, uv)
    torch.testing.assert_close(origins[0], eye, rtol=0, atol=1e-10)
    torch.testing.assert_close(directions.norm(dim=-1), torch.ones(len(uv)).double())
    reprojected, depth = project(matrix, origins + distance * directions)
    torch.testing.assert_close(reprojected, uv, rtol=0, atol=1e-7)
    tangent = (2 * uv - 1) * math.tan(fov / 2)
    torch.testing.assert_close(depth, distance / (1 + tangent.square().sum(-1)).sqrt(), rtol=1e-7, atol=1e-9)
    displaced, _ = project(
        matrix, origins + distance * (directions + 0.01 * torch.linalg.cross(directions, directions.roll(1, -1)))
    )
    assert not torch.allclose(displaced, uv, rtol=0, atol=1e-7), "the control: another point"


@hundred_examples
@given(cameras(), st.tuples(floats(-3, 3), floats(-3, 3), floats(0.1, 50)))
def test_the_ray_through_a_points_projection_meets_the_point(camera, camera_point):
    matrix, eye, _, _ = camera
    inverse = torch.linalg.inv(matrix)
    point = (inverse[:3, :3] @ (double(camera_point) * camera_point[2]) + inverse[:3, 3])[None]
    uv, depth = project(matrix, point)
    origins, directions = rays(matrix, uv)
    distance_to_ray = torch.linalg.cross(point - origins, directions).norm()
    assert distance_to_ray < 1e-8 * (1 + float((point - eye).norm()))
    assert ((point - origins) * directions).sum() > 0 and depth > 0


@hundred_examples
@given(cameras(), floats(0.1, 50))
def test_depth_is_negative_behind_a_camera(camera, distance):
    matrix, eye, look_at_point, _ = camera
    forward = torch.nn.functional.normalize(look_at_point - eye, dim=0)
    _, depth = project(matrix, torch.stack([eye - distance * forward, eye + distance * forward]))
    torch.testing.assert_close(depth, double([-distance, distance]), rtol=1e-8, atol=1e-9)


def test_the_projection_of_the_camera_centre_is_finite():
    matrix = look_at(double([1.0, 2.0, 3.0]), double([0.0, 0.0, 0.0]), 0.7)
    uv, depth = project(matrix, double([[1.0, 2.0, 3.0]]))
    assert torch.isfinite(uv).all() and depth.abs() < 1e-12


def test_cameras_and_points_broadcast():
    matrix = orbit(torch.linspace(0, 3, 6).double().view(2, 3), 0.3, 4.0, 0.6)
    points = torch.randn(2, 1, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    uv, depth = project(matrix, points)
    assert uv.shape == (2, 3, 5, 2) and depth.shape == (2, 3, 5)
    single, _ = project(matrix[1, 2], points[1, 0])
    torch.testing.assert_close(uv[1, 2], single)
    origins, directions = rays(matrix, uv[0, 0])
    assert origins.shape == (2, 3, 1, 3) and directions.shape == (2, 3, 5, 3)


# --- orientation ------------------------------------------------------------------------------------------------------


def test_u_points_right_and_v_points_down():
    """A camera in the south that looks north has the east on its right and the sky at the top."""
    matrix = look_at(double([0.0, -5.0, 0.0]), double([0.0, 0.0, 0.0]), 2 * math.atan(0.5))
    points = double([[1, 0, 0], [-1, 0, 0], [0, 0, 1], [0, 0, -1], [0, 0, 0], [0, 5, 0]])
    uv, depth = project(matrix, points)
    expected = double([[0.7, 0.5], [0.3, 0.5], [0.5, 0.3], [0.5, 0.7], [0.5, 0.5], [0.5, 0.5]])
    torch.testing.assert_close(uv, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(depth, double([5, 5, 5, 5, 5, 10]))


@hundred_examples
@given(cameras())
def test_no_camera_mirrors_its_image(camera):
    """Right, down and forward are orthonormal and right-handed; `down` points down."""
    matrix, eye, look_at_point, fov = camera
    focal = 0.5 / math.tan(fov / 2)
    linear = matrix[:3, :3]
    axes = torch.stack([(linear[0] - 0.5 * linear[2]) / focal, (linear[1] - 0.5 * linear[2]) / focal, linear[2]])
    torch.testing.assert_close(axes @ axes.T, torch.eye(3).double(), rtol=0, atol=1e-9)
    torch.testing.assert_close(torch.linalg.det(axes), double(1.0))
    mirror = torch.eye(3).double()
    mirror[0, 0], mirror[0, 2] = -1, 1  # u -> 1 - u
    assert torch.linalg.det(mirror @ linear) < 0 < torch.linalg.det(linear), "the control: a mirrored image"
    assert axes[1, 2] < 0 and abs(float(axes[0, 2])) < 1e-9, "down points down and right is level"


@hundred_examples
@given(cameras())
def test_a_camera_looks_at_its_point_and_has_its_field_of_view(camera):
    matrix, eye, look_at_point, fov = camera
    edges = double([[0.5, 0.5], [0.0, 0.5], [1.0, 0.5], [0.5, 0.0], [0.5, 1.0]])
    origins, directions = rays(matrix, edges)
    torch.testing.assert_close(
        directions[0], torch.nn.functional.normalize(look_at_point - eye, dim=0), rtol=0, atol=1e-8
    )
    for i, j in ((1, 2), (3, 4)):
        angle = 2 * torch.atan2((directions[i] - directions[j]).norm(), (directions[i] + directions[j]).norm())
        torch.testing.assert_close(angle, double(fov), rtol=1e-8, atol=1e-9)
    uv, _ = project(matrix, look_at_point[None])
    torch.testing.assert_close(uv, double([[0.5, 0.5]]), rtol=0, atol=1e-7)


def test_homogeneous_coordinates_are_zero_on_the_optical_axis_and_depth_is_the_last():
    matrix = orbit(double([0.3, 2.0]), 0.4, 3.0, 0.8)
    points = torch.randn(2, 7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    uv, depth = project(matrix, points)
    homogeneous = project_homogeneous(matrix, points)
    torch.testing.assert_close(homogeneous[..., 2], depth)
    torch.testing.assert_close(homogeneous[..., :2], (uv - 0.5) * depth[..., None])
    torch.testing.assert_close(
        project_homogeneous(matrix, double([[0.0, 0.0, 0.0]])), double([[[0, 0, 3]], [[0, 0, 3]]])
    )


def test_orbit_cameras_are_on_a_sphere_around_their_point():
    azimuth, look_at_point = double([0.0, math.pi / 2, math.pi]), (1.0, 2.0, 0.5)
    matrix = orbit(azimuth, math.pi / 6, 2.0, 0.7, look_at_point)
    radius, height = 2 * math.cos(math.pi / 6), 1.0
    origins, directions = rays(matrix, double([[0.5, 0.5]]))
    expected = double(look_at_point) + double([[radius, 0, height], [0, radius, height], [-radius, 0, height]])
    torch.testing.assert_close(origins[:, 0], expected)
    torch.testing.assert_close(directions[:, 0], (double(look_at_point) - expected) / 2)
    batch = orbit(azimuth, double([0.1, 0.2, 0.3]), double([1.0, 2.0, 3.0]), double([0.5, 0.6, 0.7]), look_at_point)
    torch.testing.assert_close(batch[1], orbit(azimuth[1:2], 0.2, 2.0, 0.6, look_at_point)[0])


# --- pixels and precision ---------------------------------------------------------------------------------------------


def test_pixel_centres_are_half_a_pixel_from_the_edge():
    uv = pixel_centres(2, 4, torch.zeros(1).double())
    u, v = [0.125, 0.375, 0.625, 0.875], [0.25, 0.75]
    assert uv.tolist() == [[x, y] for y in v for x in u]
    assert pixel_centres(1, 3, torch.zeros(1))[:, 1].tolist() == [0.5] * 3
    for h, w in ((5, 7), (64, 64)):  # symmetric, so an image is not shifted by half a pixel
        uv = pixel_centres(h, w, torch.zeros(1).double())
        torch.testing.assert_close(uv, 1 - uv.flip(0))
        assert uv.dtype == torch.float64 and not torch.allclose(uv - 0.5 / w, 1 - (uv - 0.5 / w).flip(0))


def test_autocast_does_not_lower_the_precision_of_rays_and_projections():
    generator = torch.Generator().manual_seed(0)
    matrix = orbit(6 * torch.rand(9, generator=generator), 0.3, 3.0, 0.6)
    points, uv = torch.randn(9, 20, 3, generator=generator), torch.rand(9, 20, 2, generator=generator)
    expected = (*rays(matrix, uv), *project(matrix, points), project_homogeneous(matrix, points))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = (*rays(matrix, uv), *project(matrix, points), project_homogeneous(matrix, points))
        product = points @ matrix[:, :3, :3].mT
    assert all(torch.equal(a, b) and b.dtype == torch.float32 for a, b in zip(expected, under_autocast, strict=True))
    assert (product - points @ matrix[:, :3, :3].mT).abs().max() > 1e-3, "the control: autocast is on"
    exact = (*rays(matrix.double(), uv.double()), *project(matrix.double(), points.double()))
    for single, exact_value in zip(expected, exact, strict=False):
        torch.testing.assert_close(single.double(), exact_value, rtol=1e-5, atol=1e-5)


class ReadCounter(TorchDispatchMode):
    """Counts how often a number is read from a tensor; a GPU is waited for each time."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_valid_cameras_are_checked_by_one_read_from_their_device():
    valid = orbit(torch.zeros(2, 3), 0.2, 2.0, 0.6)
    with ReadCounter() as reads:
        check_cameras(valid)
    assert reads.count == 1


def test_cameras_are_checked_once_in_a_render_of_several_rays_a_pixel(monkeypatch):
    checked, views = [], orbit(torch.zeros(1, 2), 0.2, 2.0, 0.6)
    monkeypatch.setattr(volume, "check_cameras", checked.append)
    renderer = volume.VolumeRenderer((-1, -1, -1), (1, 1, 1), 2, 2, 2, supersampling=2)
    renderer.render_images(lambda points: (torch.ones_like(points[..., 0]), points), views)
    assert len(checked) == 1 and checked[0] is views


# --- invalid input ----------------------------------------------------------------------------------------------------


def test_invalid_cameras_raise_one_line_errors():
    eye, look_at_point = double([0.0, 0.0, 2.0]), double([0.0, 0.0, 0.0])
    valid = look_at(double([3.0, 0.0, 1.0]), look_at_point, 0.6)
    assert check_cameras(valid) is valid and check_cameras(valid.expand(2, 3, 4, 4)).shape == (2, 3, 4, 4)
    assert check_cameras(valid.new_zeros(2, 0, 4, 4)).shape == (2, 0, 4, 4)

    def changed(row, column, value):
        camera = valid.repeat(2, 1, 1)
        camera[1, row, column] = value
        return camera

    singular = valid.clone()
    singular[0] = singular[1]
    eyes = torch.stack([eye + 1, eye])
    for call, message in (
        (
            lambda: look_at(eye, look_at_point, 0.6),
            r"cannot look at itself or along its up direction \(0.0, 0.0, 1.0\)",
        ),
        (lambda: look_at(eyes, look_at_point.expand(2, 3), 0.6), "cannot look at itself or along its up"),
        (lambda: look_at(look_at_point + 1, look_at_point + 1, 0.6), "cannot look at itself"),
        (
            lambda: look_at(eye, look_at_point, 0.6, up=(0.0, 0.0, -2.0)),
            r"\(0.0, 0.0, -2.0\): change `eye`, `look_at_point`",
        ),
        (
            lambda: look_at(look_at_point + 1, look_at_point, 0.0),
            "a field of view between 0 and pi radians, got 0 to 0",
        ),
        (lambda: look_at(look_at_point + 1, look_at_point, math.pi), "between 0 and pi radians, got 3.14"),
        (lambda: look_at(eyes + 1, look_at_point.expand(2, 3), double([0.5, -1.0])), "got -1 to 0.5"),
        (lambda: look_at(look_at_point + 1, look_at_point, math.nan), "between 0 and pi radians, got nan"),
        (lambda: orbit(double([0.0]), math.pi / 2, 1.0, 0.6), "along its up direction"),
        (lambda: orbit(double([0.0]), 0.2, 0.0, 0.6), "distance must be above 0"),
        (lambda: check_cameras(valid[:3]), r"a camera is one 4 x 4 matrix.*got \(3, 4\)"),
        (lambda: check_cameras(valid[None, :, :3]), r"got \(1, 4, 3\)"),
        (lambda: check_cameras(changed(0, 1, math.nan)), "a camera matrix holds NaN or infinite numbers"),
        (lambda: check_cameras(changed(2, 3, math.inf)), "a camera matrix holds NaN or infinite numbers"),
        (lambda: check_cameras(changed(3, 2, 1.0)), "last row of a camera matrix must be 0 0 0 1"),
        (lambda: check_cameras(changed(3, 3, 2.0)), "last row of a camera matrix must be 0 0 0 1"),
        (lambda: check_cameras(torch.stack([valid, singular])), r"not invertible \(determinant .*\): its first three"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
