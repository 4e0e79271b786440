"""Rays enter and leave boxes, cylinders and spheres where geometry says."""

import math

import pytest
import torch
from tabletop_helpers import camera, double, generator, render_distance, scene_with_one_solid

from fwdiff_lite.problems.inverse_graphics import tabletop
from fwdiff_lite.problems.inverse_graphics.cameras import pixel_centres, rays
from fwdiff_lite.problems.inverse_graphics.ray_tracing import (
    SHAPES,
    Solids,
    closest_hit,
    hit_record,
    intersect,
    occluder_distance,
)


def test_depth_of_a_sphere_and_of_the_table_from_above():
    """The sphere's distance by the quadratic formula, at pixels on both sides of its outline."""
    r, eye = 0.2, double([0.1, -0.2, 3.0])
    scenes = scene_with_one_solid("sphere", (r, r, r), position=(0.1, -0.2))
    cameras = camera((0.1, -0.2, 3.0), (0.1, -0.2, 0.0), 0.3, up=(0.0, 1.0, 0.0))
    distance = render_distance(scenes, cameras, 33)[0, 0]
    torch.testing.assert_close(distance[16, 16], eye[2] - 2 * r, rtol=0, atol=1e-12)
    directions = rays(cameras, pixel_centres(33, 33, cameras))[1][0, 0]
    from_centre = eye - double([0.1, -0.2, r])
    b = directions @ from_centre
    discriminant = b.square() - (from_centre @ from_centre - r * r)
    expected = torch.where(discriminant > 0, -b - discriminant.clamp(min=0).sqrt(), -eye[2] / directions[:, 2])
    assert (discriminant > 0).any() and (discriminant < 0).any()
    torch.testing.assert_close(distance.flatten(), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "shape, azimuth, expected",
    [
        ("box", 0.0, 3 - 0.1),
        ("box", math.pi / 2, 3 - 0.3),
        ("box", math.pi / 4, 3 - 0.1 * math.sqrt(2)),  # a face at 45 degrees to the ray
        ("cylinder", 0.4, 3 - 0.1),
    ],
)
def test_depth_from_the_side(shape, azimuth, expected):
    scenes = scene_with_one_solid(shape, (0.1, 0.3 if shape == "box" else 0.1, 0.25), azimuth=azimuth)
    distance = render_distance(scenes, camera((3.0, 0.0, 0.2), (0.0, 0.0, 0.2)), 33)[0, 0]
    torch.testing.assert_close(distance[16, 16], double(expected), rtol=0, atol=1e-9)
    assert distance[0, 0] == torch.inf


@pytest.mark.parametrize("shape", SHAPES)
def test_a_ray_that_starts_inside_a_solid_hits_it_at_once(shape):
    """Otherwise a point where screen and table touch, inside by a rounding error, would see through the screen."""
    solids = tabletop.build_solids(scene_with_one_solid(shape, (0.3, 0.3, 0.3)))
    origins = double([[[[0.1, 0.0, 0.2]], [[0.31, 0.0, 0.2]]]])  # inside; outside, with the solid behind the ray
    distance, solid_index = closest_hit(solids, origins, double([[[[1.0, 0.2, 0.3]]]]))
    assert distance.flatten().tolist() == [0.0, math.inf] and solid_index[0, 0, 0] == tabletop.DISTRACTORS[0]


def test_depth_of_tops_and_of_the_tables_rim():
    for shape in ("box", "cylinder"):
        cameras = camera((0.0, 0.0, 2.0), (0.0, 0.0, 0.0), up=(0.0, 1.0, 0.0))
        distance = render_distance(scene_with_one_solid(shape, (0.1, 0.1, 0.25)), cameras, 33)[0, 0]
        torch.testing.assert_close(distance[16, 16], double(1.5), rtol=0, atol=1e-9)
    rim_height = tabletop.LOW[2] / 2
    cameras = camera((3.0, 0.0, rim_height), (0.0, 0.0, rim_height))
    distance = render_distance(scene_with_one_solid("box", (0.1, 0.1, 0.2)), cameras, 33)[0, 0]
    torch.testing.assert_close(distance[16, 16], double(2.0), rtol=0, atol=1e-9)


def one_solid(shape):
    """A rotated solid at (0.3, -0.2, 0.1), as the only solid of one scene."""
    return Solids(
        present=torch.ones(1, 1, dtype=torch.bool),
        shape_index=torch.tensor([[SHAPES.index(shape)]]),
        centre=double([[[0.3, -0.2, 0.1]]]),
        half_extents=double([[[0.5, 0.4, 0.3]]]),
        axis=double([[[math.cos(0.7), math.sin(0.7)]]]),
        colour=torch.ones(1, 1, 3),
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_the_first_point_of_a_ray_inside_a_solid_is_where_it_enters(shape):
    """Compared with the inequalities that define the shape, at many points along random rays."""
    solids, distance = one_solid(shape), torch.linspace(0, 4, 2001, dtype=torch.float64)
    origins = 2 * torch.randn(1, 1, 400, 3, generator=generator(), dtype=torch.float64)
    directions = solids.centre + 0.4 * torch.randn(origins.shape, generator=generator(1), dtype=torch.float64) - origins
    points = origins[..., None, :] + distance[:, None] * directions[..., None, :]
    x, y, z = solids.to_local(points[0, 0] - solids.centre).unbind(-1)
    horizontal = {"box": torch.maximum(x.abs(), y.abs()), "cylinder": torch.hypot(x, y)}
    inside = torch.maximum(horizontal[shape], z.abs()) < 1 if shape in horizontal else x**2 + y**2 + z**2 < 1
    expected = torch.where(inside.any(-1), distance[inside.int().argmax(-1)], torch.inf)
    distance = intersect(solids.select(0), origins, directions)[0, 0]
    hit = expected < torch.inf
    assert 0.2 < hit.double().mean() < 0.9 and (distance[hit] <= expected[hit]).all()
    assert (expected[hit] - distance[hit]).max() < 0.003 and (distance[~hit] == torch.inf).double().mean() > 0.95


def test_a_solid_that_is_not_present_is_never_hit():
    solids, origins, directions = one_solid("box"), double([[[[3.0, -0.2, 0.1]]]]), double([[[[-1.0, 0.0, 0.0]]]])
    assert closest_hit(solids, origins, directions)[0] < 3
    absent = solids._replace(present=torch.zeros(1, 1, dtype=torch.bool))
    assert closest_hit(absent, origins, directions)[0] == torch.inf


@pytest.mark.parametrize("shape", SHAPES)
def test_a_convex_solid_does_not_occlude_its_own_surface(shape):
    solids = one_solid(shape)
    origins = solids.centre + torch.nn.functional.normalize(
        torch.randn(1, 1, 50, 3, generator=generator()).double(), dim=-1
    )
    hits = hit_record(solids, origins, solids.centre - origins)
    torch.testing.assert_close(hits.normal.norm(dim=-1), torch.ones(1, 1, 50).double())
    outwards, inwards = (occluder_distance(solids, hits.point, hits.normal, d) for d in (hits.normal, -hits.normal))
    assert (outwards == torch.inf).all() and (inwards < 0.002).all()
