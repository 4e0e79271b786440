"""Helpers of the tests of tabletop scenes and of their ray tracing."""

from dataclasses import fields, replace

import torch

from fwdiff_lite.problems.inverse_graphics import tabletop
from fwdiff_lite.problems.inverse_graphics.cameras import look_at, pixel_centres, rays
from fwdiff_lite.problems.inverse_graphics.ray_tracing import SHAPES, closest_hit

FIELD_NAMES = [field.name for field in fields(tabletop.Scenes)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def double(x):
    return torch.tensor(x, dtype=torch.float64)


def scene_with_one_solid(shape, half_extents, position=(0.0, 0.0), azimuth=0.0):
    """A table with one white solid on it, in float64."""
    scenes = tabletop.sample_scenes(1, generator())
    values = (getattr(scenes, name) for name in FIELD_NAMES)
    scenes = tabletop.Scenes(*(x.double() if x.is_floating_point() else x for x in values))
    i = tabletop.DISTRACTORS[0]
    new = {name: getattr(scenes, name).clone() for name in ("shape_index", "position", "half_extents", "azimuth")}
    new["shape_index"][:] = -1
    new["shape_index"][:, i], new["azimuth"][:, i] = SHAPES.index(shape), azimuth
    new["position"][:, i], new["half_extents"][:, i] = double(position), double(half_extents)
    return replace(scenes, distractor_colours=torch.ones(1, 2, 3, dtype=torch.float64), **new)


def camera(eye, target, fov=0.6, up=(0.0, 0.0, 1.0)):
    return look_at(double(eye), double(target), fov, up)[None, None]


def render_distance(scenes, cameras, side=64):
    """(B, M, side, side): the distance to the hit of the ray through each pixel's centre, or inf without a hit."""
    distance, _ = closest_hit(tabletop.build_solids(scenes), *rays(cameras, pixel_centres(side, side, cameras)))
    return distance.view(*cameras.shape[:2], side, side)


def corners(scenes):
    """The 8 corners of the bounding box of each of the five solids: (B, 5, 8, 3)."""
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3)
    x, y, z = (signs * scenes.half_extents[:, :, None]).unbind(-1)
    cos, sin = scenes.azimuth.cos()[..., None], scenes.azimuth.sin()[..., None]
    xy = torch.stack([cos * x - sin * y, sin * x + cos * y], -1) + scenes.position[:, :, None]
    return torch.cat([xy, (z + scenes.half_extents[..., 2, None])[..., None]], -1)
