"""Views of one scene are consistent, views of different posterior draws are not; edges and bodies are excluded."""

import pytest
import torch

from fwdiff_lite.experiments.inverse_graphics import held_out
from fwdiff_lite.problems.inverse_graphics import consistency, ray_tracing, tabletop
from fwdiff_lite.problems.inverse_graphics.cameras import pixel_centres, rays
from fwdiff_lite.problems.inverse_graphics.consistency import (
    CovisiblePoints,
    covisible_points,
    inconsistency,
    psnr_interval,
    static_points,
    warp,
)

SIDE, COUNT, K = 32, 12, 4
BACK = held_out.TARGET_ANGLES.index(180)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def test_set():
    return held_out.make_test_set(COUNT, K, side=SIDE)


@pytest.fixture(scope="module")
def scene_draws(test_set):
    generator = seeded(1)
    return [test_set.scenes, *(tabletop.resample_hidden(test_set.scenes, generator) for _ in range(6))]


@pytest.fixture(scope="module")
def points(test_set, scene_draws):
    points = covisible_points(scene_draws, *test_set.cameras[:, BACK].split(1, 1), SIDE)
    return points._replace(mask=points.mask & test_set.disocclusion_mask[:, BACK, 0])


def psnr(first_views, second_views, points):
    return psnr_interval(inconsistency(first_views, second_views, points), seeded()).value


def test_warp_takes_the_colours_at_the_given_image_coordinates():
    """The colours of the image are linear in u and v."""
    uv = 0.25 + 0.5 * torch.rand(2, 16, 2, generator=seeded())
    ramp = pixel_centres(8, 8, uv).T.reshape(2, 8, 8)
    image = torch.cat([ramp, ramp.sum(0, keepdim=True)]).expand(2, 5, 3, 8, 8)
    warped = warp(image[..., :4, :4], uv / 2)  # 4 x 4 of the pixels
    assert warped.shape == (2, 5, 3, 4, 4)
    expected = torch.cat([uv, uv.sum(-1, keepdim=True)], -1).transpose(1, 2).reshape(2, 1, 3, 4, 4) / 4
    torch.testing.assert_close(warped, expected.expand_as(warped) * 1.0, atol=1e-6, rtol=0)


def test_every_view_is_consistent_with_itself(test_set, scene_draws):
    camera = test_set.cameras[:, BACK, :1]
    points = covisible_points(scene_draws, camera, camera, SIDE)
    mask, centres = points.mask.flatten(1), pixel_centres(SIDE, SIDE, points.uv).expand_as(points.uv)
    torch.testing.assert_close(points.uv[mask], centres[mask], atol=1e-5, rtol=0)
    noise = torch.randn(COUNT, K, 3, SIDE, SIDE, generator=seeded())
    assert inconsistency(noise, noise, points).max() < 1e-8
    assert 0.95 < points.mask.sum() / static_points(scene_draws, camera, SIDE)[0].sum() <= 1


def test_views_of_one_scene_are_consistent_and_views_of_two_are_not(test_set, points):
    target, novel = test_set.posterior_draws[:, :, BACK].unbind(2)
    true_psnr = psnr(target, novel, points)
    assert true_psnr > 27
    controls = {
        "views of different posterior draws": psnr(target, novel.roll(1, 1), points),
        "views of different scenes": psnr(target, novel.roll(1, 0), points),
        "views shifted by a pixel": psnr(target, novel.roll(1, -1), points),
        "noise of a tenth of the range": psnr(
            target, novel + 0.2 * torch.randn(novel.shape, generator=seeded()), points
        ),
    }
    assert all(control_psnr < true_psnr - 3 for control_psnr in controls.values()), (true_psnr, controls)
    assert controls["views of different posterior draws"] < true_psnr - 9
    constant = torch.zeros_like(target)
    assert (inconsistency(constant, constant, points) == 0).all(), "blurred views are consistent, too"


def test_points_are_static_and_not_next_to_edges(test_set, scene_draws, points):
    origins, directions = rays(test_set.cameras[:, BACK, :1], pixel_centres(SIDE, SIDE, test_set.cameras))
    distances = []
    for scenes in scene_draws:
        hit = ray_tracing.hit_record(tabletop.build_solids(scenes), origins, directions)
        distances.append(hit.distance.view(COUNT, SIDE, SIDE))
        solid_index = hit.solid_index.view(COUNT, SIDE, SIDE)
        assert not (solid_index[points.mask] == tabletop.HIDDEN).any()
        for shift in ((0, 1), (1, 0), (-1, 1)):
            assert (solid_index == solid_index.roll(shift, (1, 2)))[points.mask].all()
    distances = torch.stack(distances)
    assert (distances.amax(0) - distances.amin(0))[points.mask].max() < 1e-3
    assert 0.05 < points.mask.float().mean() < 0.4
    camera = test_set.cameras[:, BACK, :1]
    bodies = static_points(scene_draws[:1], camera, SIDE)[0] & ~static_points(scene_draws, camera, SIDE)[0]
    assert bodies.any(), "the control: with a single draw, hidden bodies are static"


def test_inconsistency_without_points_raises(points):
    images = torch.zeros(COUNT, 1, 3, SIDE, SIDE)
    with pytest.raises(ValueError, match="mask selects no element"):
        inconsistency(images, images, CovisiblePoints(points.uv, torch.zeros_like(points.mask)))


def test_the_psnr_is_that_of_the_pooled_error():
    interval = psnr_interval(torch.tensor([0.02, 0.06]), seeded())
    assert interval.value == pytest.approx(20, abs=1e-5) and interval.low < 20 < interval.high
    assert consistency.POINT_TOLERANCE < 1e-3
