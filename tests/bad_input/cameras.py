"""Bad input to the cameras, the renderer and the measures of views in fwdiff_lite.problems.inverse_graphics."""

import math
from dataclasses import replace

import torch

from fwdiff_lite.problems.inverse_graphics import cameras as c
from fwdiff_lite.problems.inverse_graphics import consistency, disocclusion, flatland, tabletop, viewspace
from fwdiff_lite.problems.inverse_graphics.volume import VolumeRenderer

EYE, ORIGIN = torch.tensor([[3.0, 0.0, 1.0]]), torch.zeros(1, 3)
CAMERA = c.look_at(EYE, ORIGIN, 1.0)
UV, POINTS = torch.full((1, 4, 2), 0.5), torch.zeros(1, 4, 3)
SINGULAR = CAMERA.clone()
SINGULAR[:, 0] = SINGULAR[:, 1]
AZIMUTH = torch.zeros(2)
RENDERER = VolumeRenderer((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0), height=2, width=2, samples_per_ray=3)
VIEWS = CAMERA[:, None]
INDICES = torch.zeros(1, 1, 2, dtype=torch.long)


def seed() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def field(channels: int = 3, density: float = 1.0):
    """A radiance field of constant density and colour."""
    return lambda points: (points.new_full(points.shape[:2], density), points.new_zeros(*points.shape[:2], channels))


def field_of_shapes(density: tuple[int, ...], colours: tuple[int, ...]):
    """A radiance field that returns these shapes, whatever the points are."""
    return lambda points: (torch.ones(density), torch.zeros(colours))


SCENES = tabletop.sample_scenes(2, seed())
TABLE_CAMERAS = tabletop.sample_front_cameras(SCENES, seed())
FLAT_SCENES = flatland.sample_scenes(2, seed())
IMAGES = torch.zeros(2, 1, 3, 4, 4)
TEMPLATES, MASK = torch.zeros(2, 3, 1, 3, 4, 4), torch.ones(2, 4, 4, dtype=torch.bool)

CASES = [
    # cameras
    ("look_at nan", lambda: c.look_at(EYE * math.nan, ORIGIN, 1.0), "eye or look_at_point holds NaN"),
    ("look_at nan point", lambda: c.look_at(EYE, ORIGIN * math.nan, 1.0), "eye or look_at_point holds NaN"),
    ("look_at two numbers", lambda: c.look_at(EYE[:, :2], ORIGIN, 1.0), r"eye has shape \(1, 2\), wanted \(..., 3\)"),
    ("look_at shapes", lambda: c.look_at(EYE, ORIGIN.repeat(2, 1), 1.0), "look_at_point has shape"),
    ("look_at integers", lambda: c.look_at(EYE.long(), ORIGIN.long(), 1.0), "eye has the type torch.int64"),
    ("look_at itself", lambda: c.look_at(EYE, EYE, 1.0), "cannot look at itself"),
    ("look_at one itself", lambda: c.look_at(torch.cat([EYE, ORIGIN]), ORIGIN.repeat(2, 1), 1.0), "look at itself"),
    ("look_at up", lambda: c.look_at(EYE, ORIGIN, 1.0, up=(0.0, 0.0, 0.0)), "along its up direction"),
    ("look_at up nan", lambda: c.look_at(EYE, ORIGIN, 1.0, up=(0.0, 0.0, math.nan)), "got up = .*three finite numbers"),
    ("look_at up of two", lambda: c.look_at(EYE, ORIGIN, 1.0, up=(0.0, 1.0)), "got up = .*three finite numbers"),
    ("look_at fov zero", lambda: c.look_at(EYE, ORIGIN, 0.0), "field of view between 0 and pi"),
    ("look_at fov degrees", lambda: c.look_at(EYE, ORIGIN, 60.0), "field of view between 0 and pi"),
    ("look_at fov nan", lambda: c.look_at(EYE, ORIGIN, math.nan), "field of view between 0 and pi"),
    ("check_cameras rows", lambda: c.check_cameras(CAMERA[:, :3]), "a camera is one 4 x 4 matrix"),
    ("check_cameras nan", lambda: c.check_cameras(CAMERA * math.nan), "holds NaN"),
    ("check_cameras singular", lambda: c.check_cameras(SINGULAR), "not invertible"),
    ("check_cameras last row", lambda: c.check_cameras(2 * CAMERA), "last row"),
    ("check_cameras integers", lambda: c.check_cameras(torch.eye(4).long()), "cameras has the type torch.int64"),
    ("pixel_centres none", lambda: c.pixel_centres(0, 4, CAMERA), "got h = 0"),
    ("pixel_centres half", lambda: c.pixel_centres(4, 2.5, CAMERA), "got w = 2.5"),
    ("rays uv", lambda: c.rays(CAMERA, POINTS), r"uv has shape \(1, 4, 3\), wanted \(..., 2\)"),
    ("rays cameras", lambda: c.rays(CAMERA[:, :3], UV), "cameras has shape"),
    ("project points", lambda: c.project(CAMERA, UV), r"points has shape \(1, 4, 2\), wanted \(..., 3\)"),
    ("project cameras", lambda: c.project(CAMERA[0, 0], POINTS), "cameras has shape"),
    ("project at the centre", lambda: c.project(CAMERA, EYE[:, None]), None),
    ("orbit distance", lambda: c.orbit(AZIMUTH, 0.3, -3.0, 1.0), "distance must be above 0"),
    ("orbit one distance", lambda: c.orbit(AZIMUTH, 0.3, torch.tensor([3.0, -3.0]), 1.0), "distance must be above 0"),
    ("orbit distance nan", lambda: c.orbit(AZIMUTH, 0.3, math.nan, 1.0), "distance must be above 0"),
    ("orbit nan", lambda: c.orbit(AZIMUTH * math.nan, 0.3, 3.0, 1.0), "holds NaN"),
    ("orbit from above", lambda: c.orbit(AZIMUTH, math.pi / 2, 3.0, 1.0), "along its up direction"),
    # renderer
    ("renderer samples", lambda: replace(RENDERER, samples_per_ray=0), "got samples_per_ray = 0"),
    ("renderer height", lambda: replace(RENDERER, height=0), "got height = 0"),
    ("renderer half a pixel", lambda: replace(RENDERER, width=2.5), "got width = 2.5"),
    ("renderer supersampling", lambda: replace(RENDERER, supersampling=0), "got supersampling = 0"),
    (
        "renderer low above high",
        lambda: replace(RENDERER, box_max=(1.0, 1.0, -2.0)),
        "box_min .* must be below box_max",
    ),
    ("renderer nan box", lambda: replace(RENDERER, box_min=(math.nan, -1.0, -1.0)), "must be below box_max"),
    ("renderer flat box", lambda: replace(RENDERER, box_min=(-1.0, -1.0)), "three numbers"),
    ("renderer near", lambda: replace(RENDERER, near=-1.0), "got near = -1.0"),
    ("renderer no batch", lambda: RENDERER(field(), CAMERA), r"cameras have shape \(1, 4, 4\), wanted \(B, M, 4, 4\)"),
    ("renderer singular", lambda: RENDERER(field(), SINGULAR[:, None]), "not invertible"),
    ("renderer index too high", lambda: RENDERER(field(), VIEWS, INDICES + 4), "pixel_indices .* from 0 to 3"),
    ("renderer one index", lambda: RENDERER(field(), VIEWS, torch.tensor([[[0, 4]]])), "pixel_indices .* from 0 to 3"),
    ("renderer one below", lambda: RENDERER(field(), VIEWS, torch.tensor([[[-1, 0]]])), "pixel_indices .* from 0 to 3"),
    ("renderer index negative", lambda: RENDERER(field(), VIEWS, INDICES - 1), "pixel_indices .* from 0 to 3"),
    (
        "renderer index rank",
        lambda: RENDERER(field(), VIEWS, INDICES[0]),
        r"pixel_indices .* wanted integers \(1, 1, n\)",
    ),
    ("renderer index float", lambda: RENDERER(field(), VIEWS, INDICES + 0.5), "pixel_indices .* wanted integers"),
    ("renderer one colour", lambda: RENDERER(field(1), VIEWS), "a field returns density .* and at least three colours"),
    ("renderer negative density", lambda: RENDERER(field(density=-1.0), VIEWS), "density is negative"),
    (
        "renderer density shape",
        lambda: RENDERER(field_of_shapes((1, 12, 1), (1, 12, 3)), VIEWS),
        "a field returns density",
    ),
    ("renderer points missing", lambda: RENDERER(field_of_shapes((1, 5), (1, 5, 3)), VIEWS), "a field returns density"),
    ("renderer downsample", lambda: RENDERER.render_rays(field(), VIEWS, downsample=0), "got downsample = 0"),
    ("renderer none", lambda: RENDERER(lambda points: points, VIEWS), "a field returns density"),
    # ray tracing and tabletop
    ("has_shape", lambda: tabletop.build_solids(SCENES).has_shape("cone"), "unknown shape 'cone': choose one of box"),
    ("sample_scenes none", lambda: tabletop.sample_scenes(0, seed()), "got n = 0"),
    ("sample_cameras none", lambda: tabletop.sample_cameras(2, 0, seed()), "got m = 0"),
    ("rotate_about_z nan", lambda: tabletop.rotate_about_z(CAMERA, math.nan), "got degrees = nan"),
    ("rotate_about_z rows", lambda: tabletop.rotate_about_z(CAMERA[..., :3], 90), "cameras has shape"),
    ("render scenes", lambda: tabletop.render(SCENES, TABLE_CAMERAS[:1]), "do not match 2 scenes"),
    ("render side", lambda: tabletop.render(SCENES, TABLE_CAMERAS, side=0), "got side = 0"),
    (
        "render supersampling",
        lambda: tabletop.render(SCENES, TABLE_CAMERAS, 8, supersampling=1.5),
        "got supersampling = 1.5",
    ),
    ("repeat", lambda: SCENES.repeat(0), "got k = 0"),
    ("batches size", lambda: tabletop.batches(0), "got batch_size = 0"),
    ("batches contexts", lambda: tabletop.batches(2, max_contexts=0), "got max_contexts = 0"),
    ("batches pixels", lambda: tabletop.batches(2, num_pixels=5000), "wanted 1 to 4096 pixels"),
    ("batches dropout", lambda: tabletop.batches(2, context_dropout=math.nan), "fraction of the scenes"),
    # views of hidden content
    (
        "disocclusion_mask mask",
        lambda: disocclusion.disocclusion_mask(SCENES, TABLE_CAMERAS, TABLE_CAMERAS, 4, MASK[:, 0]),
        r"wanted bool of shape \(2, 1\)",
    ),
    (
        "disocclusion_mask cameras",
        lambda: disocclusion.disocclusion_mask(SCENES, TABLE_CAMERAS[:1], TABLE_CAMERAS, 4),
        "do not match 2 scenes",
    ),
    (
        "templates factor",
        lambda: disocclusion.render_factor_templates(SCENES, TABLE_CAMERAS, "shape"),
        "unknown factor 'shape': choose one of hidden, decal",
    ),
    (
        "templates draws",
        lambda: disocclusion.render_factor_templates(SCENES, TABLE_CAMERAS, "decal", 0),
        "got num_draws = 0",
    ),
    (
        "templates cameras",
        lambda: disocclusion.render_factor_templates(SCENES, TABLE_CAMERAS.repeat(1, 2, 1, 1), "decal"),
        "got 2 cameras for each scene, wanted one",
    ),
    (
        "classify images",
        lambda: disocclusion.classify_nearest_template(IMAGES[0], TEMPLATES, MASK),
        r"wanted \(B, K, 3, H, W\)",
    ),
    ("classify mask", lambda: disocclusion.classify_nearest_template(IMAGES, TEMPLATES, MASK[:1]), "mask has shape"),
    (
        "covisible_points none",
        lambda: consistency.covisible_points([], TABLE_CAMERAS, TABLE_CAMERAS),
        "got no draw of the scenes",
    ),
    ("warp images", lambda: consistency.warp(IMAGES[0], UV), r"wanted \(B, K, 3, H, W\)"),
    ("warp uv", lambda: consistency.warp(IMAGES, UV), "uv has shape"),
    ("psnr_interval zero", lambda: consistency.psnr_interval(torch.zeros(4), seed()), "not finite"),
    ("distillation rounds", lambda: viewspace.DistillationConfig(num_rounds=0), "got num_rounds = 0"),
    ("distillation rate", lambda: viewspace.DistillationConfig(learning_rate=0.0), "got learning_rate = 0.0"),
    ("distillation weight", lambda: viewspace.DistillationConfig(tv_weight=-1.0), "got tv_weight = -1.0"),
    ("initial_grid", lambda: viewspace.initial_grid(1, RENDERER, 0), "got resolution = 0"),
    ("VoxelGrid", lambda: viewspace.VoxelGrid(torch.zeros(1, 3, 2, 2, 2), RENDERER), r"wanted \(B, 4, Z, Y, X\)"),
    ("total_variation", lambda: viewspace.total_variation(torch.zeros(1, 4, 1, 2, 2)), "at least two voxels"),
    # flatland
    ("flatland sample_scenes", lambda: flatland.sample_scenes(0, seed()), "got n = 0"),
    (
        "flatland rooms",
        lambda: flatland.resample_rooms(FLAT_SCENES, torch.ones(3), seed()),
        "wanted a bool mask of 3 rooms",
    ),
    ("flatland repeat", lambda: flatland.repeat_scenes(FLAT_SCENES, 0), "got k = 0"),
    ("flatland cameras", lambda: flatland.render_views(FLAT_SCENES, VIEWS), "do not match 2 scenes"),
    (
        "flatland rays",
        lambda: flatland.render_views(FLAT_SCENES, flatland.camera_facing(FLAT_SCENES, 0), 0),
        "got supersampling = 0",
    ),
    ("flatland room", lambda: flatland.camera_facing(FLAT_SCENES, 3), "got room = 3, wanted one of 0 to 2"),
    ("flatland top", lambda: flatland.top_down_view(FLAT_SCENES, 0), "got side = 0"),
    ("flatland contexts", lambda: flatland.batches(4, max_contexts=3), "wanted at most 2 contexts"),
    ("flatland pixels", lambda: flatland.batches(4, num_pixels=33), "1 to 32 pixels"),
    ("flatland batch", lambda: flatland.batches(0), "got batch_size = 0"),
    ("flatland classify", lambda: flatland.classify_content(IMAGES, FLAT_SCENES.wall_colour), "wanted .*3, 1, 32"),
    ("flatland samples", lambda: flatland.build_renderer(0), "got samples_per_ray = 0"),
]
