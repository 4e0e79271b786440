"""Tabletop scenes with occluded content, for 3-D inverse graphics: drawn on the CPU, ray traced on any device.

On a round table stand a screen, a box, and one or two distractors, bodies that occlude nothing. The *front* of a scene
is the direction from which the context camera looks at it. A front view shows

    the screen's face with a white band. The space behind the screen is empty, or it holds an orange or a violet body;
    the box's plain face. The back and the outer side of the box carry a decal: red, yellow or blue, low or high.

A front view shows no part of the hidden body, no part of the decal, and no shadow of them: the light comes from behind
the scene, and the hidden body casts its shadow on the back of the screen. The colours of the screen and of the box (the
*cues*) determine the probabilities of the hidden content (FACTOR_PROBABILITIES); nothing else does. The decal's height
and the hidden body's shape, position, size and azimuth are random, too. Each has one distribution, and the body's are
defined in the screen's frame. So the distribution of the hidden content given a front view is known: `resample_hidden`
draws from it.

All solids are boxes, cylinders and spheres (ray_tracing.py). There is one light and no specular reflection: a colour
does not depend on the viewing direction, so a radiance field that ignores the viewing direction can represent a scene
exactly.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fwdiff_lite.checks import check_count, check_last_sizes
from fwdiff_lite.colours import hsv_to_rgb
from fwdiff_lite.observations import Observations, to_device
from fwdiff_lite.problems.inverse_graphics.cameras import check_cameras, orbit, pixel_centres, rays
from fwdiff_lite.problems.inverse_graphics.ray_tracing import (
    SHAPES,
    HitRecord,
    Solids,
    hit_record,
    occluder_distance,
)
from fwdiff_lite.problems.inverse_graphics.volume import intersect_aabb
from fwdiff_lite.row_random import RowBatches, RowRandom

LOW, HIGH = (-1.0, -1.0, -0.06), (1.0, 1.0, 0.72)  # lowest and highest corner of a box that contains every scene

SCREEN, BOX, HIDDEN, DISTRACTORS, TABLE = 0, 1, 2, (3, 4), 5  # indices of the solids; HIDDEN is behind the screen
PATTERNS = ("checks", "stripes", "rings")  # on the table top

FACTORS = {"hidden": ("nothing", "orange", "violet"), "decal": ("red", "yellow", "blue")}
CUES = {"hidden": ("teal", "brick", "indigo"), "decal": ("ivory", "slate", "wood")}  # colours of the screen, of the box
FACTOR_PROBABILITIES = torch.tensor(  # of a factor's categories (columns) given its cue (rows); cues are equally likely
    [
        [[0.15, 0.55, 0.3], [0.35, 0.2, 0.45], [0.25, 0.3, 0.45]],  # behind the screen: nothing, orange, violet
        [[0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.3, 0.2, 0.5]],  # on the back of the box: red, yellow, blue
    ]
)
SCREEN_COLOURS = torch.tensor([[0.20, 0.64, 0.64], [0.85, 0.42, 0.35], [0.36, 0.42, 0.76]])  # RGB in [0, 1]
BOX_COLOURS = torch.tensor([[0.96, 0.92, 0.82], [0.45, 0.50, 0.57], [0.76, 0.53, 0.33]])
BODY_COLOURS = torch.tensor([[0.0, 0.0, 0.0], [1.00, 0.55, 0.08], [0.36, 0.12, 0.62]])  # the first is never visible
DECAL_COLOURS = torch.tensor([[0.90, 0.14, 0.16], [1.00, 0.80, 0.10], [0.10, 0.36, 0.92]])
BAND_COLOUR = 0.97  # of the white band on the screen, in all three channels
ELEVATION_RANGE, DISTANCE_RANGE = (20, 32), (2.6, 3.6)  # of all cameras, in degrees and in table radii
HALF_FIELD_WIDTH_RANGE = (0.97, 1.2)  # half of the width that a camera sees at the table's centre

# --- scenes -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scenes:
    """B scenes of five solids on a table; lengths in units of the table's radius, angles in radians.

    front_azimuth:      (B,) the azimuth of the front
    light_direction:    (B, 3) unit vector towards the light
    pattern:            (B,) index into PATTERNS, of the table top's pattern
    pattern_frequency:  (B,) changes of the pattern's colour per unit of length
    pattern_azimuth:    (B,) orientation of the pattern
    table_colours:      (B, 2, 3) the two colours of the pattern
    distractor_colours: (B, 2, 3) the colour of each distractor
    shape_index:        (B, 5) index into SHAPES of each solid; -1: there is no solid
    position:           (B, 5, 2) of each solid's centre on the table
    half_extents:       (B, 5, 3) half of each solid's length along its axes
    azimuth:            (B, 5) of each solid's first axis
    decal_height:       (B,) upper end of the decal, as a fraction of the height of the box's faces
    cue:                (B, 2) index of the category of each of CUES
    factor:             (B, 2) index of the category of each of FACTORS. Where factor 0 is 0, the hidden body is absent,
                        and its shape, position, half extents and azimuth have no meaning
    """

    front_azimuth: Float[Tensor, "b"]
    light_direction: Float[Tensor, "b 3"]
    pattern: Int[Tensor, "b"]
    pattern_frequency: Float[Tensor, "b"]
    pattern_azimuth: Float[Tensor, "b"]
    table_colours: Float[Tensor, "b 2 3"]
    distractor_colours: Float[Tensor, "b 2 3"]
    shape_index: Int[Tensor, "b s"]
    position: Float[Tensor, "b s 2"]
    half_extents: Float[Tensor, "b s 3"]
    azimuth: Float[Tensor, "b s"]
    decal_height: Float[Tensor, "b"]
    cue: Int[Tensor, "b 2"]
    factor: Int[Tensor, "b 2"]

    def __len__(self) -> int:
        return len(self.front_azimuth)

    def __getitem__(self, rows) -> "Scenes":
        return Scenes(*(getattr(self, field.name)[rows] for field in fields(self)))

    def to(self, device) -> "Scenes":
        return Scenes(*(to_device(getattr(self, field.name), device) for field in fields(self)))

    def repeat(self, k: int) -> "Scenes":
        """Each scene k times in a row."""
        check_count(k=k)
        return Scenes(*(getattr(self, field.name).repeat_interleave(k, 0) for field in fields(self)))

    @property
    def present(self) -> Bool[Tensor, "b s"]:
        """Mask of the solids that exist in each scene."""
        solid_index = torch.arange(self.shape_index.shape[1], device=self.shape_index.device)
        nothing_hidden = (self.factor[:, :1] == 0) & (solid_index == HIDDEN)
        return (self.shape_index >= 0) & ~nothing_hidden

    @property
    def factor_probabilities(self) -> Float[Tensor, "b 2 3"]:
        """The probabilities of each factor's categories, given a front view."""
        return FACTOR_PROBABILITIES.to(self.cue.device)[torch.arange(2, device=self.cue.device), self.cue]


def sample_scenes(n: int, generator: torch.Generator | RowRandom) -> Scenes:
    """n random scenes, on the CPU.

    A scene is laid out with its front at azimuth 0 (x points to the front, y to the left), then rotated to its front.
    """
    check_count(n=n)
    uniform, integers, _ = _random_functions(n, generator)
    screen_sign = 2.0 * integers(2) - 1  # 1: the screen stands on the left; -1: on the right
    screen = torch.stack([uniform(0.0, 0.08), screen_sign * uniform(0.38, 0.41)], -1)
    box = torch.stack([uniform(-0.22, -0.12), -screen_sign * uniform(0.36, 0.40)], -1)
    distractors = torch.stack([uniform(0.44, 0.60, 2), torch.tensor([-1.0, 1.0]) * uniform(0.18, 0.42, 2)], -1)
    front_azimuth = uniform(-math.pi, math.pi)
    light_azimuth = front_azimuth + math.pi + torch.deg2rad(uniform(-20, 20))
    light_elevation = torch.deg2rad(uniform(60, 70))
    light_x, light_y = light_elevation.cos() * light_azimuth.cos(), light_elevation.cos() * light_azimuth.sin()
    hue = uniform(0, 1)
    shape_index = torch.cat([torch.zeros(n, 3, dtype=torch.long), integers(3, 2)], 1)
    second = DISTRACTORS[1]  # exists in half of the scenes
    shape_index[:, second] = torch.where(uniform(0, 1) < 0.5, shape_index[:, second], -1)
    layout = torch.stack([screen, box, torch.zeros(n, 2), *distractors.unbind(1)], 1)
    # the box is rotated inwards, so that its outer side faces away from the front
    azimuth = [torch.deg2rad(uniform(-5, 5)), -screen_sign * torch.deg2rad(uniform(6, 14)), torch.zeros(n)]
    screen_extents = torch.stack([torch.full((n,), 0.04), uniform(0.39, 0.41), uniform(0.335, 0.355)], -1)
    box_extents = torch.stack([uniform(0.33, 0.36), uniform(0.24, 0.27), uniform(0.32, 0.345)], -1)
    scenes = Scenes(
        front_azimuth=front_azimuth,
        light_direction=torch.stack([light_x, light_y, light_elevation.sin()], -1),
        pattern=integers(len(PATTERNS)),
        pattern_frequency=uniform(1.8, 2.6),
        pattern_azimuth=uniform(-math.pi, math.pi),
        table_colours=torch.stack(
            [hsv_to_rgb(hue, uniform(0.10, 0.18), uniform(0.92, 1)), hsv_to_rgb(hue, uniform(0.16, 0.26), 0.90)], 1
        ),
        distractor_colours=hsv_to_rgb(uniform(0, 1, 2), uniform(0.45, 0.75, 2), uniform(0.8, 0.95, 2)),
        shape_index=shape_index,
        position=_rotate(layout, front_azimuth[:, None]),
        half_extents=torch.stack(
            [
                screen_extents,
                box_extents,
                torch.zeros(n, 3),
                *_draw_half_extents(shape_index[:, 3:], uniform).unbind(1),
            ],
            1,
        ),
        azimuth=torch.cat([front_azimuth[:, None] + torch.stack(azimuth, 1), uniform(-math.pi, math.pi, 2)], 1),
        decal_height=torch.ones(n),
        cue=integers(3, 2),
        factor=torch.zeros(n, 2, dtype=torch.long),
    )
    return resample_hidden(scenes, generator)


def resample_hidden(scenes: Scenes, generator: torch.Generator | RowRandom) -> Scenes:
    """The same scenes with new hidden content, drawn from its true distribution given a front view.

    A front view of the result equals a front view of the input. Random numbers are drawn on the CPU; the
    result is on the device of the scenes.
    """
    scenes_on_cpu = resample_hidden_geometry(scenes.to("cpu"), generator)
    _, _, categories = _random_functions(len(scenes), generator)
    return replace(scenes_on_cpu, factor=categories(scenes_on_cpu.factor_probabilities)).to(scenes.front_azimuth.device)


def resample_hidden_geometry(scenes: Scenes, generator: torch.Generator | RowRandom) -> Scenes:
    """The same scenes with a new decal height and a new hidden body, present or not; on the CPU."""
    uniform, integers, _ = _random_functions(len(scenes), generator)
    shape_index = integers(3)
    screen_sign = torch.sign(_rotate(scenes.position[:, SCREEN], -scenes.front_azimuth)[:, 1])
    offset = torch.stack([-uniform(0.28, 0.30), screen_sign * uniform(0.01, 0.05)], -1)  # in the screen's frame
    hidden_values = {
        "shape_index": shape_index,
        "position": scenes.position[:, SCREEN] + _rotate(offset, scenes.azimuth[:, SCREEN]),
        "half_extents": torch.stack([uniform(0.19, 0.22), uniform(0.21, 0.235), uniform(0.20, 0.22)], -1),
        "azimuth": scenes.azimuth[:, SCREEN] + torch.deg2rad(uniform(-5, 5)),
    }
    changes = {"decal_height": uniform(0.4, 1.0)}
    for name, value in hidden_values.items():
        changes[name] = getattr(scenes, name).clone()
        changes[name][:, HIDDEN] = value
    return replace(scenes, **changes)


def _draw_half_extents(shape_index: Int[Tensor, "*b"], uniform: Callable) -> Float[Tensor, "*b 3"]:
    """Random half extents of bodies that are as long as they are wide."""
    radius, half_height = (uniform(0.105, 0.14, *shape_index.shape[1:]) for _ in range(2))
    radius = torch.where(shape_index == SHAPES.index("box"), 0.85 * radius, radius)
    half_height = torch.where(shape_index == SHAPES.index("sphere"), radius, half_height)
    return torch.stack([radius, radius, half_height], -1)


def _random_functions(n: int, generator: torch.Generator | RowRandom) -> tuple[Callable, Callable, Callable]:
    """The functions uniform(low, high, *shape), integers(high, *shape) and categories(probabilities) of n rows."""
    if isinstance(generator, RowRandom):
        return generator.uniform, generator.integers, generator.categories

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=generator)

    def integers(high: int, *shape: int) -> Tensor:
        return torch.randint(high, (n, *shape), generator=generator)

    def categories(probabilities: Float[Tensor, "n f c"]) -> Int[Tensor, "n f"]:
        return torch.multinomial(probabilities.flatten(0, 1), 1, generator=generator).view(n, -1)

    return uniform, integers, categories


def _rotate(points: Float[Tensor, "*b 2"], angle: Float[Tensor, "*#b"]) -> Float[Tensor, "*b 2"]:
    """Points of the plane, rotated about the origin by an angle in radians."""
    x, y = points.unbind(-1)
    return torch.stack([angle.cos() * x - angle.sin() * y, angle.sin() * x + angle.cos() * y], -1)


# --- cameras ----------------------------------------------------------------------------------------------------------


def sample_cameras(n: int, m: int, generator: torch.Generator | RowRandom) -> Float[Tensor, "n m 4 4"]:
    """m random cameras for each of n scenes, at any azimuth and at 20 to 32 degrees of elevation."""
    check_count(n=n, m=m)
    uniform, _, _ = _random_functions(n, generator)
    return _draw_orbit_cameras(uniform(-math.pi, math.pi, m), uniform)


def sample_front_cameras(scenes: Scenes, generator: torch.Generator | RowRandom) -> Float[Tensor, "b 1 4 4"]:
    """One random camera in front of each scene, for its context: at most 10 degrees of azimuth from the front.

    Its elevation is 20 to 32 degrees. The camera sees none of the hidden content, and its image contains all other
    solids completely; one image in three does not contain the whole table.
    """
    uniform, _, _ = _random_functions(len(scenes), generator)
    azimuth = scenes.front_azimuth.cpu()[:, None] + torch.deg2rad(uniform(-10, 10, 1))
    return _draw_orbit_cameras(azimuth, uniform).to(scenes.front_azimuth.device)


def _draw_orbit_cameras(azimuth: Float[Tensor, "n m"], uniform: Callable) -> Float[Tensor, "n m 4 4"]:
    """Cameras at these azimuths that look at the table's centre.

    Elevation, distance and field of view are random. All cameras draw them from the same distributions, so that the
    test views have the distribution of the training views.
    """
    ranges = (ELEVATION_RANGE, DISTANCE_RANGE, HALF_FIELD_WIDTH_RANGE)
    elevation, distance, half_width = (uniform(*ends, azimuth.shape[1]) for ends in ranges)
    return orbit(azimuth, torch.deg2rad(elevation), distance, 2 * torch.atan(half_width / distance))


def _box_pixel_indices(
    fraction: Float[Tensor, "b m n"], cameras: Float[Tensor, "b m 4 4"], side: int, box: Float[Tensor, "2 3"]
) -> Int[Tensor, "b m n"]:
    """Indices of pixels whose rays intersect a box, given by its lowest and highest corner.

    fraction: in [0, 1), the position in the list of an image's pixels of this kind; 0 selects the first of them
    """
    near, far = intersect_aabb(*rays(cameras, pixel_centres(side, side, cameras)), *box)
    count = (near < far).cumsum(-1).to(fraction)
    return torch.searchsorted(count, (fraction * count[..., -1:]).floor() + 0.5)


def rotate_about_z(cameras: Float[Tensor, "*b 4 4"], degrees: float) -> Float[Tensor, "*b 4 4"]:
    """The same cameras, rotated about the table's vertical axis: 180 degrees gives the view from the opposite side."""
    check_last_sizes("cameras", cameras, 4, 4)
    if not math.isfinite(degrees):
        raise ValueError(f"got degrees = {degrees}, wanted a finite angle")
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = cameras[..., 0], cameras[..., 1]
    return torch.stack([cos * x - sin * y, sin * x + cos * y, cameras[..., 2], cameras[..., 3]], -1)


# --- images -----------------------------------------------------------------------------------------------------------


def build_solids(scenes: Scenes) -> Solids:
    """The five solids of each scene, and its table as the sixth."""
    one = torch.ones_like(scenes.front_azimuth)[:, None]
    palettes = (SCREEN_COLOURS, scenes.cue[:, 0]), (BOX_COLOURS, scenes.cue[:, 1]), (BODY_COLOURS, scenes.factor[:, 0])
    colours = torch.stack([palette.to(scenes.light_direction)[i] for palette, i in palettes], 1)
    table_half_height = -LOW[2] / 2 * one
    height = torch.cat([scenes.half_extents[..., 2], -table_half_height], 1)  # of the centres
    ground = torch.zeros_like(scenes.position[:, :1])
    azimuth = torch.cat([scenes.azimuth, scenes.pattern_azimuth[:, None]], 1)
    table_shape = torch.full_like(scenes.shape_index[:, :1], SHAPES.index("cylinder"))
    return Solids(
        present=torch.cat([scenes.present, one > 0], 1),
        shape_index=torch.cat([scenes.shape_index, table_shape], 1),
        centre=torch.cat([torch.cat([scenes.position, ground], 1), height[..., None]], -1),
        half_extents=torch.cat([scenes.half_extents, torch.stack([one, one, table_half_height], -1)], 1),
        axis=torch.stack([azimuth.cos(), azimuth.sin()], -1),
        colour=torch.cat([colours, scenes.distractor_colours, scenes.table_colours[:, 1:]], 1),
    )


def render_rays(
    scenes: Scenes, origins: Float[Tensor, "b m #p 3"], directions: Float[Tensor, "b m p 3"]
) -> tuple[Float[Tensor, "b m p 3"], Float[Tensor, "b m p"]]:
    """The colour of each ray in [-1, 1], and the distance of its hit in units of the length of `directions`.

    A ray that hits nothing is white, with distance inf.
    """
    solids = build_solids(scenes)
    hits = hit_record(solids, origins, directions)
    light_direction = scenes.light_direction[:, None, None]
    lit = occluder_distance(solids, hits.point, hits.normal, light_direction) == torch.inf
    colour = (albedo(scenes, hits) * shading(hits, light_direction, lit)[..., None]).clamp(0, 1)
    return torch.where((hits.distance < torch.inf)[..., None], 2 * colour - 1, 1.0), hits.distance


def shading(
    hits: HitRecord, light_direction: Float[Tensor, "b 1 1 3"], lit: Bool[Tensor, "b m p"]
) -> Float[Tensor, "b m p"]:
    """The factor of each hit's colour: ambient light that is stronger on surfaces towards the light, and direct light.

    lit: mask of the hits that are not in a shadow. A shadow takes the direct light only
    """
    cosine = (hits.normal * light_direction).sum(-1)
    return 0.66 + 0.02 * hits.normal[..., 2] + 0.10 * cosine + 0.26 * cosine.clamp(min=0) * lit


def albedo(scenes: Scenes, hits: HitRecord) -> Float[Tensor, "b m p 3"]:
    """Each hit's colour in [0, 1] before shading: of its solid, the table's pattern, the screen's band or a decal."""
    decal_colour = DECAL_COLOURS.to(hits.distance)[scenes.factor[:, 1]]
    colour = hits.solid.colour
    for mask, new_colour in (
        (pattern_mask(scenes, hits), scenes.table_colours[:, None, :1]),
        (band_mask(hits), colour.new_tensor(BAND_COLOUR)),
        (decal_mask(scenes, hits), decal_colour[:, None, None]),
    ):
        colour = torch.where(mask[..., None], new_colour, colour)
    return colour


def pattern_mask(scenes: Scenes, hits: HitRecord) -> Bool[Tensor, "b m p"]:
    """Mask of the hits on the part of the table top that has the first of the pattern's two colours.

    The colour changes at equal steps along x (stripes), along x and along y (checks), or away from the centre (rings).
    """
    frequency, pattern = (v[:, None, None] for v in (scenes.pattern_frequency, scenes.pattern))
    x, y, _ = hits.local_point.unbind(-1)
    radius = hits.local_point[..., :2].norm(dim=-1)
    x_parity, y_parity, ring_parity = ((frequency * coordinate + 0.25).floor() % 2 for coordinate in (x, y, radius))
    stripes_or_rings = torch.where(pattern == PATTERNS.index("stripes"), x_parity, ring_parity)
    odd = torch.where(pattern == PATTERNS.index("checks"), (x_parity + y_parity) % 2, stripes_or_rings) == 1
    return (hits.solid_index == TABLE) & (hits.local_normal[..., 2] > 0.5) & odd


def band_mask(hits: HitRecord) -> Bool[Tensor, "b m p"]:
    """Mask of the hits on the white band of the screen's front."""
    on_front = (hits.solid_index == SCREEN) & (hits.local_normal[..., 0] > 0.5)
    return on_front & ((hits.local_point[..., 2] - 0.45).abs() < 0.2)


def decal_mask(scenes: Scenes, hits: HitRecord) -> Bool[Tensor, "b m p"]:
    """Mask of the hits on the decal, which covers the back and the outer side of the box up to the decal's height."""
    x, y, z = hits.local_point.unbind(-1)
    normal_x, normal_y, _ = hits.local_normal.unbind(-1)
    outer_sign = torch.sign(_rotate(scenes.position[:, BOX], -scenes.front_azimuth)[:, 1])[:, None, None]
    on_back, on_side = ((hits.solid_index == BOX) & face for face in (normal_x < -0.5, normal_y * outer_sign > 0.5))
    horizontal = torch.where(on_back, y, x)
    inside_margin = torch.maximum(horizontal.abs(), z.abs()) < 0.92
    return (on_back | on_side) & inside_margin & (z < 2 * scenes.decal_height[:, None, None] - 1)


def render(
    scenes: Scenes, cameras: Float[Tensor, "b m 4 4"], side: int = 64, supersampling: int = 2
) -> Float[Tensor, "b m 3 {side} {side}"]:
    """Images in [-1, 1]: each pixel is the mean of supersampling x supersampling rays through it."""
    check_render_arguments(scenes, cameras, side, supersampling)
    n = side * supersampling
    colour, _ = render_rays(scenes, *rays(cameras, pixel_centres(n, n, cameras)))
    colour = colour.view(*cameras.shape[:2], side, supersampling, side, supersampling, 3)
    return colour.mean((3, 5)).movedim(-1, 2)


def check_render_arguments(scenes: Scenes, cameras: Tensor, side: int, supersampling: int = 1) -> None:
    """ValueError where the cameras are not M for each of B scenes, or an image would have no pixel or no ray."""
    check_cameras(cameras)
    if cameras.ndim != 4 or len(cameras) != len(scenes):
        raise ValueError(f"cameras {tuple(cameras.shape)} do not match {len(scenes)} scenes: give (B, M, 4, 4)")
    check_count(side=side, supersampling=supersampling)


# --- batches for training ---------------------------------------------------------------------------------------------


def batches(
    batch_size: int = 96,
    max_contexts: int = 1,
    num_pixels: int | None = None,
    side: int = 64,
    supersampling: int = 2,
    context_dropout: float = 0.0,
    device: torch.device | str = "cpu",
    compile: bool = False,
) -> RowBatches:
    """The batch function for fit(): new scenes with 1 to `max_contexts` context views, a target and a novel view.

    The first context camera is in front of the scene; all other cameras are at any azimuth. Scenes and cameras are
    drawn on the CPU; images are rendered on the device. Each process draws and renders its own rows.

    num_pixels: the number of pixels of each target and novel view that the loss uses; their random indices are
        "pixel_indices" and "novel_pixel_indices". Only pixels whose rays intersect the scene's box are drawn, since the
        others always show background. None: all pixels, and no indices
    context_dropout: the fraction of scenes whose whole context is masked out. With a fraction between 0 and 1 a model
        can be guided; with 1 it is unconditional
    """
    check_count(batch_size=batch_size, max_contexts=max_contexts, side=side, supersampling=supersampling)
    if not (num_pixels is None or 1 <= num_pixels <= side**2):
        raise ValueError(f"got num_pixels = {num_pixels}, wanted 1 to {side**2} pixels of an image, or None for all")
    if not 0 <= context_dropout <= 1:
        raise ValueError(f"context_dropout is a fraction of the scenes, from 0 to 1, got {context_dropout}")
    render_images = torch.compile(render) if compile else render
    box = torch.tensor([LOW, HIGH], device=device)

    def draw(random: RowRandom) -> dict:
        n = len(random)
        scenes = sample_scenes(n, random)
        cameras = torch.cat([sample_front_cameras(scenes, random), sample_cameras(n, max_contexts + 1, random)], 1)
        drop_mask = torch.arange(max_contexts) > random.integers(max_contexts, 1)  # contexts after the last
        if context_dropout:
            drop_mask = drop_mask | (random.uniform(0, 1, 1) < context_dropout)
        drop_mask, cameras = (to_device(x, device) for x in (drop_mask, cameras))
        views = Observations(render_images(scenes.to(device), cameras, side, supersampling), cameras)
        batch = {
            "context": views.select(slice(max_contexts)).mask_out(drop_mask),
            "target": views.select(slice(max_contexts, max_contexts + 1)),
            "novel": views.select(slice(max_contexts + 1, max_contexts + 2)),
        }
        if num_pixels is not None:
            fraction = to_device(random.uniform(0, 1, 2, num_pixels), device)
            pixel_indices = _box_pixel_indices(fraction, cameras[:, max_contexts:], side, box)
            batch["pixel_indices"], batch["novel_pixel_indices"] = pixel_indices.split(1, 1)
        return batch

    return RowBatches(batch_size, draw)
