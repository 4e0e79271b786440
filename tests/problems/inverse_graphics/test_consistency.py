"""Whether two views show one scene: true views do, those of different redraws do not; edges and bodies do not count."""

import pytest
import torch

from fwdiff_lite.experiments.inverse_graphics import evaluation
from fwdiff_lite.problems.inverse_graphics import consistency, tabletop
from fwdiff_lite.problems.inverse_graphics.cameras import pixel_centres, rays
from fwdiff_lite.problems.inverse_graphics.consistency import Shared, carried, decibels, inconsistency, settled, shared

SIDE, COUNT, K = 32, 12, 4
BACK = evaluation.DEGREES.index(180)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def paper():
    return evaluation.exam(COUNT, K, side=SIDE)


@pytest.fixture(scope="module")
def scenes(paper):
    generator = seeded(1)
    return [paper.scenes, *(tabletop.resample_hidden(paper.scenes, generator) for _ in range(6))]


@pytest.fixture(scope="module")
def points(paper, scenes):
    found = shared(scenes, *paper.cameras[:, BACK].split(1, 1), SIDE)
    return found._replace(mask=found.mask & paper.unseen[:, BACK, 0])


def dB(first, second, points):
    return decibels(inconsistency(first, second, points), seeded()).value


def test_a_picture_is_carried_to_where_its_points_are():
    """One that is linear in u and v says where it was asked."""
    uv = 0.25 + 0.5 * torch.rand(2, 16, 2, generator=seeded())
    plane = pixel_centres(8, 8, uv).T.reshape(2, 8, 8)
    picture = torch.cat([plane, plane.sum(0, keepdim=True)]).expand(2, 5, 3, 8, 8)
    found = carried(picture[..., :4, :4], uv / 2)  # 4 x 4 of the pixels
    assert found.shape == (2, 5, 3, 4, 4)
    wanted = torch.cat([uv, uv.sum(-1, keepdim=True)], -1).transpose(1, 2).reshape(2, 1, 3, 4, 4) / 4
    torch.testing.assert_close(found, wanted.expand_as(found) * 1.0, atol=1e-6, rtol=0)


def test_a_view_agrees_with_itself_whatever_it_shows(paper, scenes):
    camera = paper.cameras[:, BACK, :1]
    same = shared(scenes, camera, camera, SIDE)
    torch.testing.assert_close(same.uv[same.mask.flatten(1)], _centres(same)[same.mask.flatten(1)], atol=1e-5, rtol=0)
    noise = torch.randn(COUNT, K, 3, SIDE, SIDE, generator=seeded())
    assert inconsistency(noise, noise, same).max() < 1e-8
    assert 0.95 < same.mask.sum() / settled(scenes, camera, SIDE)[0].sum() <= 1


def _centres(points):
    return pixel_centres(SIDE, SIDE, points.uv).expand_as(points.uv)


def test_views_of_one_scene_agree_and_those_of_two_do_not(paper, points):
    target, novel = paper.redrawn[:, :, BACK].unbind(2)
    true = dB(target, novel, points)
    assert true > 27
    controls = {
        "views of different redraws": dB(target, novel.roll(1, 1), points),
        "views of different scenes": dB(target, novel.roll(1, 0), points),
        "a pixel aside": dB(target, novel.roll(1, -1), points),
        "noise of a tenth of the range": dB(target, novel + 0.2 * torch.randn(novel.shape, generator=seeded()), points),
    }
    assert all(found < true - 3 for found in controls.values()), (true, controls)
    assert controls["views of different redraws"] < true - 9
    flat = torch.zeros_like(target)
    assert (inconsistency(flat, flat, points) == 0).all(), (
        "a blur agrees with itself: the measure is not to be had alone"
    )


def test_points_are_on_what_stands_still_and_away_from_edges(paper, scenes, points):
    start, away = rays(paper.cameras[:, BACK, :1], pixel_centres(SIDE, SIDE, paper.cameras))
    depths = []
    for some in scenes:
        hit = tabletop.hit_record(tabletop.build_solids(some), start, away)
        depths.append(hit.depth.view(COUNT, SIDE, SIDE))
        solid_index = hit.solid_index.view(COUNT, SIDE, SIDE)
        assert not (solid_index[points.mask] == tabletop.HIDDEN).any()
        for shift in ((0, 1), (1, 0), (-1, 1)):
            assert (solid_index == solid_index.roll(shift, (1, 2)))[points.mask].all()
    depths = torch.stack(depths)
    assert (depths.amax(0) - depths.amin(0))[points.mask].max() < 1e-3
    assert 0.05 < points.mask.float().mean() < 0.4
    bodies = (
        settled(scenes[:1], paper.cameras[:, BACK, :1], SIDE)[0] & ~settled(scenes, paper.cameras[:, BACK, :1], SIDE)[0]
    )
    assert bodies.any(), "the control: one scene alone has bodies"


def test_without_a_point_there_is_nothing_to_measure(points):
    pictures = torch.zeros(COUNT, 1, 3, SIDE, SIDE)
    with pytest.raises(ValueError, match="mask selects no element at all"):
        inconsistency(pictures, pictures, Shared(points.uv, torch.zeros_like(points.mask)))


def test_decibels_are_of_the_pooled_error():
    found = decibels(torch.tensor([0.02, 0.06]), seeded())
    assert found.value == pytest.approx(20, abs=1e-5) and found.low < 20 < found.high
    assert consistency.SAME < 1e-3
