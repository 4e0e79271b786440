"""Points take the features of their own projections only; positions and rays are encoded as published."""

import pytest
import torch
from pixelnerf_helpers import generator, noise_images, orbit_cameras, small_denoiser
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fwdiff_lite.problems.inverse_graphics import pixelnerf
from fwdiff_lite.problems.inverse_graphics.bilinear import bilinear_sample_uv
from fwdiff_lite.problems.inverse_graphics.cameras import look_at, pixel_centres, project, rays
from fwdiff_lite.problems.inverse_graphics.pixelnerf import (
    FieldNetwork,
    contract,
    plucker_coordinates,
)


def test_a_field_does_not_depend_on_the_size_of_chunks(monkeypatch):
    denoiser, context = small_denoiser(), noise_images(2, 2)
    points = 2 * torch.rand(2, 37, 3, generator=generator()) - 1
    with torch.no_grad():
        field = denoiser.condition(context.select([0]), context.params[:, 1:]).context
        unchunked = field(points)
        monkeypatch.setattr(pixelnerf, "CPU_CHUNK_POINTS", 10)
        for chunked, expected in zip(field(points), unchunked, strict=True):
            torch.testing.assert_close(chunked, expected)


def test_the_operations_of_a_field_with_gradients_are_counted_without_them():
    """A module hook asks for the gradient of each input that wants one; views of maps without gradients have none."""
    denoiser, context = small_denoiser(), noise_images(2, 2)
    field = denoiser.condition(context.select([0]), context.params[:, 1:]).context
    field = pixelnerf.cat([field, field], 1)
    assert field.feature_maps.requires_grad
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        field(torch.zeros(2, 3, 3))
    assert counter.get_total_flops() > 0


def test_projection_before_and_after_bilinear_sampling_is_the_same_up_to_rounding():
    for dtype, tolerance in ((torch.float64, 1e-13), (torch.float32, 1e-5)):
        layer = nn.Conv2d(5, 7, 1).to(dtype)
        maps = torch.randn(2, 5, 6, 6, generator=generator(), dtype=dtype)
        uv = torch.rand(2, 50, 2, generator=generator(1), dtype=dtype)
        before = bilinear_sample_uv(layer(maps), uv)
        after = bilinear_sample_uv(maps, uv) @ layer.weight[:, :, 0, 0].T + layer.bias
        torch.testing.assert_close(before, after, rtol=0, atol=tolerance)
        difference = bilinear_sample_uv(layer(maps).relu(), uv) - after.relu()
        assert difference.abs().max() > 0.01, "the control: a nonlinear layer does not commute"
    model = small_denoiser().double()
    assert isinstance(model.project, nn.Conv2d) and model.project.kernel_size == (1, 1)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return FieldNetwork(16, 4).double()


def query(network, point, cameras, seed):
    maps = torch.randn(1, cameras.shape[1], 16, 8, 8, generator=generator(seed), dtype=torch.float64)
    return network(point, maps, cameras, torch.ones(1, cameras.shape[1], dtype=torch.bool))


def test_points_behind_a_camera_or_outside_of_its_image_take_no_feature(network):
    """The point's reflection through the camera centre projects to the same pixel: it must not take the feature."""
    eye = torch.tensor([3.0, 0.0, 1.0], dtype=torch.float64)
    cameras = look_at(eye, 0 * eye, 0.6)[None, None]
    inside = torch.tensor([0.1, 0.2, -0.3], dtype=torch.float64)
    uv = torch.tensor([[0.99, 0.01], [1.01, 0.5], [0.5, -0.01]], dtype=torch.float64)
    origins, directions = rays(cameras[0, 0], uv)
    for point, visible in (
        (inside, True),
        (2 * eye - inside, False),
        *zip(origins + 3 * directions, (True, False, False), strict=True),
    ):
        outputs = (query(network, point[None, None], cameras, seed) for seed in (0, 1))
        for a, b in zip(*outputs, strict=True):
            assert torch.equal(a, b) != visible, point
    (reflected_uv, uv), (reflected_depth, depth) = project(cameras[0, 0], torch.stack([2 * eye - inside, inside]))
    torch.testing.assert_close(reflected_uv, uv)
    assert reflected_depth < 0 < depth and ((uv > 0) & (uv < 1)).all(), "the control: only their depths differ"


def test_a_point_behind_one_camera_takes_the_feature_of_the_other_view(network):
    cameras = torch.stack([look_at(torch.tensor([x, 0.0, 0.0]).double(), torch.zeros(3).double(), 0.6) for x in (3, 6)])
    point = torch.tensor([[[4.0, 0.1, 0.1]]], dtype=torch.float64)  # between the cameras: behind the first
    mask, maps = torch.ones(1, 2, dtype=torch.bool), torch.randn(1, 2, 16, 8, 8, generator=generator()).double()

    def output(maps):
        return torch.cat([x.flatten() for x in network(point, maps, cameras[None], mask)])

    for view, changes in ((0, False), (1, True)):
        changed = maps.clone()
        changed[:, view] += 1
        assert torch.equal(output(maps), output(changed)) != changes


def test_the_output_is_finite_at_the_camera_centre_and_far_away(network):
    cameras = orbit_cameras(1, 2, dtype=torch.float64)
    eye = rays(cameras, torch.tensor([[0.5, 0.5]]).double())[0][0, 0]
    for point in (eye[None], torch.full((1, 1, 3), 1e4).double()):
        density, colour = query(network, point, cameras, 0)
        assert torch.isfinite(density).all() and torch.isfinite(colour).all()
        assert density.min() >= 0 and colour[..., :3].abs().max() <= 1


def test_the_order_of_views_does_not_matter_and_their_cameras_do(network):
    cameras, mask = orbit_cameras(2, 3, dtype=torch.float64), torch.tensor([[True, True, True], [True, False, True]])
    points = torch.rand(2, 40, 3, generator=generator(), dtype=torch.float64) - 0.5
    maps = torch.randn(2, 3, 16, 8, 8, generator=generator(1), dtype=torch.float64)
    order = [2, 0, 1]
    expected = network(points, maps, cameras, mask)
    for a, b in zip(expected, network(points, maps[:, order], cameras[:, order], mask[:, order]), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    for a, b in zip(expected, network(points, maps[:, order], cameras, mask), strict=True):
        assert (a - b).abs().max() > 1e-3, "the control: images with the cameras of others"


def test_a_masked_view_changes_nothing(network):
    cameras, points = (
        orbit_cameras(1, 3, dtype=torch.float64),
        torch.rand(1, 40, 3, generator=generator()).double() - 0.5,
    )
    maps = torch.randn(1, 3, 16, 8, 8, generator=generator(1)).double()
    mask = torch.tensor([[True, False, True]])
    outputs = []
    for value in (0.0, 1.0, 1e6):
        other_maps, other_cameras = maps.clone(), cameras.clone()
        other_maps[:, 1], other_cameras[:, 1] = value, orbit_cameras(1, 1, int(value) % 7, torch.float64)[:, 0]
        outputs.append(network(points, other_maps, other_cameras, mask))
    outputs.append(network(points, maps[:, [0, 2]], cameras[:, [0, 2]], mask[:, [0, 2]]))
    for other in outputs[1:]:
        for a, b in zip(outputs[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-13)
    empty = torch.zeros_like(mask)
    without_views = network(points, maps, cameras, empty), network(points, 5 * maps, other_cameras, empty)
    for a, b in zip(*without_views, strict=True):
        assert torch.equal(a, b), "with all views masked, the output depends on no view"
    density, _ = network(points, maps, cameras, torch.ones_like(mask))
    assert (density - outputs[0][0]).abs().max() > 1e-3, "the control: an unmasked view changes the output"


def test_contraction_maps_space_to_a_ball_of_radius_two_and_keeps_near_points():
    """In float64. The stretch is the inverse of the radial derivative."""
    directions = nn.functional.normalize(torch.randn(20, 3, generator=generator(), dtype=torch.float64), dim=-1)
    distance = torch.logspace(-1, 4, 20, dtype=torch.float64).requires_grad_()
    contracted, stretch = contract(distance[:, None] * directions, 3.0)
    radius = (contracted * directions).sum(-1)
    torch.testing.assert_close(contracted, radius[:, None] * directions)
    expected = torch.where(distance < 3, distance / 3, 2 - 3 / distance)
    torch.testing.assert_close(radius, expected)
    torch.testing.assert_close(torch.autograd.grad(radius.sum(), distance)[0], 1 / stretch)
    assert radius.max() < 2


def test_plucker_coordinates_do_not_depend_on_the_point_of_the_ray():
    cameras = orbit_cameras(2, 3).double()
    ray_directions, moments = plucker_coordinates(cameras, 4, 6).flatten(-2).mT.split(3, -1)  # (B, M, P, 3) twice
    origins, directions = rays(cameras, pixel_centres(4, 6, cameras))
    torch.testing.assert_close(ray_directions, directions)
    torch.testing.assert_close(moments, torch.linalg.cross(origins + 1.7 * directions, directions))
    assert (ray_directions * moments).sum(-1).abs().max() < 1e-12
