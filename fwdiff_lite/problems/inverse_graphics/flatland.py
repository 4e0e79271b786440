"""Flatland: inverse graphics in the plane. An image is one row of pixels, and a scene can be drawn from above.

Three walls meet at the centre and separate three rooms; a room is empty or contains a disc, orange or blue. A camera
stands outside of the rooms and looks at the centre. A camera within MAX_AZIMUTH_OFFSET of a room's azimuth sees that
room alone: the walls occlude the content of the other two. All walls of a scene have one colour, and the colour
determines the probabilities of each room's content (CONTENT_PROBABILITIES), independently of the other rooms. So the
distribution of scenes given an image is known.

All surfaces have a constant colour, a wall a darker one on one of its sides, and the walls are at the same place in all
scenes. Cameras, volume rendering and denoiser are those of 3-D scenes: the plane is z = 0, and an image is one pixel
high.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fwdiff_lite.checks import check_count
from fwdiff_lite.diffusion import ForwardDiffusion
from fwdiff_lite.observations import Observations
from fwdiff_lite.problems.inverse_graphics.cameras import check_cameras, orbit, pixel_centres, rays
from fwdiff_lite.problems.inverse_graphics.pixelnerf import RadianceField, SceneDenoiser
from fwdiff_lite.problems.inverse_graphics.volume import VolumeRenderer, intersect_aabb
from fwdiff_lite.schedule import ShiftedCosineSchedule

IMAGE_WIDTH = 32  # pixels
NUM_ROOMS = 3
CONTENTS = ("empty", "orange", "blue")
CONTENT_PROBABILITIES = {"teal": (0.1, 0.7, 0.2), "violet": (0.5, 0.1, 0.4), "grey": (0.3, 0.2, 0.5)}  # by wall colour
WALL_COLOURS = torch.tensor([[-0.75, 0.25, 0.15], [0.1, -0.55, 0.35], [-0.35, -0.35, -0.35]])  # RGB in [-1, 1]
DISC_COLOURS = torch.tensor([[1.0, 0.1, -0.8], [-0.75, -0.1, 0.95]])
BACKGROUND = 1.0
# a positional encoding's shortest period is half a unit, and a wall must not be much thinner
WALL_LENGTH, WALL_THICKNESS = 1.6, 0.4
SHADING = 0.35  # how much darker a wall is on one of its sides
DISC_RADIUS = 0.52
RADIAL_RANGE, LATERAL_RANGE = (1.0, 1.1), (-0.25, 0.25)  # of a disc's centre, along its room's azimuth and to its left
CAMERA_DISTANCE, FIELD_OF_VIEW = 4.6, math.radians(56)  # from the centre; an angle
MAX_AZIMUTH_OFFSET = math.radians(12)  # from a room's azimuth, of a camera that sees this room alone
SCENE_HALF_WIDTH = WALL_LENGTH + 0.2  # of the square that contains every scene
MAX_CONTEXTS = 2
SCHEDULE_SHIFT = 1.0  # of the cosine schedule
TOP_VIEW_THICKNESS = 0.2  # length of the ray through a field that a view from above composites

# --- scenes -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scenes:
    """B scenes.

    first_room:  (B,) index of the first room, 0 to 2; the context camera faces it, and rooms are counted from it
    wall_colour: (B,) index into the keys of CONTENT_PROBABILITIES
    content:     (B, 3) index into CONTENTS for each room
    position:    (B, 3, 2) of each disc, along its room's azimuth and to its left; without meaning where a room is empty
    """

    first_room: Int[Tensor, "b"]
    wall_colour: Int[Tensor, "b"]
    content: Int[Tensor, "b r"]
    position: Float[Tensor, "b r 2"]

    def __len__(self) -> int:
        return len(self.first_room)

    def __getitem__(self, rows) -> Scenes:
        return Scenes(*(getattr(self, field.name)[rows] for field in fields(self)))

    @property
    def content_probabilities(self) -> Float[Tensor, "b a"]:
        """The probabilities of a room's contents, given the colour of the walls."""
        return torch.tensor(list(CONTENT_PROBABILITIES.values()))[self.wall_colour]

    @property
    def room_azimuths(self) -> Float[Tensor, "b r"]:
        """The azimuth of each room's bisector, in radians."""
        return (self.first_room[:, None] + torch.arange(NUM_ROOMS)) * (2 * math.pi / NUM_ROOMS)


def sample_scenes(n: int, generator: torch.Generator) -> Scenes:
    """n random scenes: all wall colours are equally likely, contents follow their probabilities."""
    check_count(n=n)
    first_room = torch.randint(NUM_ROOMS, (n,), generator=generator)
    wall_colour = torch.randint(len(CONTENT_PROBABILITIES), (n,), generator=generator)
    content, position = torch.zeros(n, NUM_ROOMS, dtype=torch.long), torch.zeros(n, NUM_ROOMS, 2)
    empty_scenes = Scenes(first_room, wall_colour, content, position)
    return resample_rooms(empty_scenes, torch.ones(NUM_ROOMS, dtype=torch.bool), generator)


def resample_rooms(scenes: Scenes, rooms: Bool[Tensor, "r"], generator: torch.Generator) -> Scenes:
    """The same scenes with new content of some rooms, drawn from its true distribution given the walls.

    rooms: mask of the rooms whose content is drawn anew
    """
    n = len(scenes)
    if rooms.shape != (NUM_ROOMS,) or rooms.dtype != torch.bool:
        raise ValueError(
            f"rooms is {rooms.dtype} of shape {tuple(rooms.shape)}, wanted a bool mask of {NUM_ROOMS} rooms"
        )
    content = torch.multinomial(scenes.content_probabilities, NUM_ROOMS, True, generator=generator)
    ranges = (RADIAL_RANGE, LATERAL_RANGE)
    low, size = (torch.tensor(x) for x in zip(*((a, b - a) for a, b in ranges), strict=True))
    position = low + size * torch.rand(n, NUM_ROOMS, 2, generator=generator)
    return Scenes(
        scenes.first_room,
        scenes.wall_colour,
        torch.where(rooms, content, scenes.content),
        torch.where(rooms[:, None], position, scenes.position),
    )


def repeat_scenes(scenes: Scenes, k: int) -> Scenes:
    """Each scene k times in a row."""
    check_count(k=k)
    return scenes[torch.arange(len(scenes)).repeat_interleave(k)]


# --- images -----------------------------------------------------------------------------------------------------------


def disc_centres(scenes: Scenes) -> Float[Tensor, "b r 2"]:
    """The centre of each room's disc, in the plane."""
    return torch.einsum("brk,brki->bri", scenes.position, direction_axes(scenes.room_azimuths))


def wall_azimuths(scenes: Scenes) -> Float[Tensor, "b r"]:
    """The azimuths of the three walls, each between two rooms."""
    return scenes.room_azimuths + math.pi / NUM_ROOMS


def surface_colours(scenes: Scenes) -> Float[Tensor, "b s 3"]:
    """The colours of the three walls' bright sides, of their dark sides, and of the three rooms' discs."""
    wall = WALL_COLOURS[scenes.wall_colour][:, None].expand(-1, NUM_ROOMS, -1)
    return torch.cat([wall, wall - SHADING, DISC_COLOURS[(scenes.content - 1).clamp(min=0)]], 1)


def render_views(
    scenes: Scenes, cameras: Float[Tensor, "b m 4 4"], supersampling: int = 4
) -> Float[Tensor, "b m 3 1 w"]:
    """The true images of each scene by M cameras, in [-1, 1]; a pixel is the mean of `supersampling` rays.

    ValueError if the cameras are not M for each of B scenes.
    """
    check_cameras(cameras)
    check_count(supersampling=supersampling)
    if cameras.ndim != 4 or len(cameras) != len(scenes):
        raise ValueError(f"cameras {tuple(cameras.shape)} do not match {len(scenes)} scenes: give (B, M, 4, 4)")
    origins, directions = rays(cameras, pixel_centres(1, IMAGE_WIDTH * supersampling, cameras))
    origins, directions = origins[..., :2], directions[..., :2]  # (B, M, 1, 2), (B, M, P, 2)
    axes = direction_axes(wall_azimuths(scenes))
    # in each wall's local coordinates, (B, M, R, 1, 2) and (B, M, R, P, 2)
    local_origins, local_directions = (torch.einsum("bmpi,brki->bmrpk", v, axes) for v in (origins, directions))
    low, high = torch.tensor([0, -WALL_THICKNESS / 2]), torch.tensor([WALL_LENGTH, WALL_THICKNESS / 2])
    near, far = intersect_aabb(local_origins, local_directions, low, high)
    on_bright_side = (local_origins + near[..., None] * local_directions)[..., 1] > 0  # (B, M, R, P)
    distances = [
        torch.where((near < far) & on_side, near, math.inf).transpose(2, 3)
        for on_side in (on_bright_side, ~on_bright_side)
    ]
    from_centre = origins[..., None, :] - disc_centres(scenes)[:, None, None]  # (B, M, 1, R, 2)
    closest = -(from_centre * directions[..., None, :]).sum(
        -1
    )  # distance to the ray's point closest to a disc's centre
    half_chord_squared = DISC_RADIUS**2 - (from_centre.square().sum(-1) - closest.square())  # (B, M, P, R)
    hits_disc = (half_chord_squared > 0) & (scenes.content > 0)[:, None, None]
    distances.append(torch.where(hits_disc, closest - half_chord_squared.clamp(min=0).sqrt(), math.inf))
    distance, surface_index = torch.cat(distances, -1).min(-1)  # (B, M, P)
    colour = surface_colours(scenes)[torch.arange(len(scenes))[:, None, None], surface_index]  # (B, M, P, 3)
    colour = torch.where(distance[..., None].isfinite(), colour, BACKGROUND)
    return colour.unflatten(2, (IMAGE_WIDTH, supersampling)).mean(3).transpose(-1, -2)[:, :, :, None]


def direction_axes(azimuth: Float[Tensor, "*b"]) -> Float[Tensor, "*b 2 2"]:
    """Two unit vectors of the plane: along the direction with this azimuth, and perpendicular to it, to the left."""
    cos, sin = azimuth.cos(), azimuth.sin()
    return torch.stack([torch.stack([cos, sin], -1), torch.stack([-sin, cos], -1)], -2)


def top_down_view(scenes: Scenes, side: int = 96) -> Float[Tensor, "b side side 3"]:
    """Images of the true scenes from above, in [-1, 1]: x to the right, y up."""
    points = plane_points(side)[..., :2]
    u, v = torch.einsum("hwi,brki->kbrhw", points, direction_axes(wall_azimuths(scenes)))
    wall_masks = [(u > 0) & (u < WALL_LENGTH) & (v * sign > 0) & (v * sign < WALL_THICKNESS / 2) for sign in (1, -1)]
    in_disc = (points - disc_centres(scenes)[:, :, None, None]).norm(dim=-1) < DISC_RADIUS
    masks = torch.cat([*wall_masks, in_disc & (scenes.content > 0)[..., None, None]], 1)
    images = torch.full((len(scenes), side, side, 3), BACKGROUND)
    for mask, colour in zip(masks.unbind(1), surface_colours(scenes).unbind(1), strict=True):
        images = torch.where(mask[..., None], colour[:, None, None], images)
    return images


def plane_points(side: int) -> Float[Tensor, "side side 3"]:
    """A regular grid of points of the plane z = 0, as the pixels of an image: x to the right, y up."""
    check_count(side=side)
    x = torch.linspace(-SCENE_HALF_WIDTH, SCENE_HALF_WIDTH, side)
    return torch.stack([x.expand(side, side), x.flip(0)[:, None].expand(side, side), torch.zeros(side, side)], -1)


# --- cameras and observations -----------------------------------------------------------------------------------------


def orbit_cameras(azimuth: Float[Tensor, "*b"]) -> Float[Tensor, "*b 4 4"]:
    """Cameras at these azimuths that look at the centre of the plane."""
    return orbit(azimuth, 0.0, CAMERA_DISTANCE, FIELD_OF_VIEW)


def camera_facing(
    scenes: Scenes, room: int, azimuth_offset: Float[Tensor, "b"] | float = 0.0
) -> Float[Tensor, "b 1 4 4"]:
    """A camera that faces a room of each scene, `azimuth_offset` radians from the room's azimuth."""
    if room not in range(NUM_ROOMS):
        raise ValueError(f"got room = {room}, wanted one of 0 to {NUM_ROOMS - 1}, counted from the first room")
    return orbit_cameras(scenes.room_azimuths[:, room] + azimuth_offset)[:, None]


def observe(scenes: Scenes, cameras: Float[Tensor, "b m 4 4"]) -> Observations:
    """The images of each scene by M cameras."""
    return Observations(render_views(scenes, cameras), cameras)


def batches(
    batch_size: int = 16, num_pixels: int | None = 8, max_contexts: int = MAX_CONTEXTS
) -> Callable[[torch.Generator], dict]:
    """The batch function for fit(): new scenes with 1 to `max_contexts` context images, a target and a novel image.

    Each context or target camera faces a room of its own, within MAX_AZIMUTH_OFFSET of the room's azimuth. The novel
    camera is at any azimuth, most often along a wall. All scenes of a batch have the same number of contexts, so that
    nothing is computed for masked images.

    num_pixels: the number of random pixels of each target and novel image that the losses use; None: all

    ValueError if a number is out of range: at most MAX_CONTEXTS contexts, and 1 to IMAGE_WIDTH pixels.
    """
    check_count(batch_size=batch_size, max_contexts=max_contexts)
    if max_contexts > MAX_CONTEXTS or num_pixels not in (None, *range(1, IMAGE_WIDTH + 1)):
        raise ValueError(
            f"got {max_contexts} contexts and {num_pixels} pixels, wanted at most {MAX_CONTEXTS} contexts and"
            f" 1 to {IMAGE_WIDTH} pixels, or None for all"
        )

    def make_batch(generator: torch.Generator) -> dict:
        scenes = sample_scenes(batch_size, generator)
        num_contexts = int(torch.randint(1, max_contexts + 1, (), generator=generator))
        rooms = torch.rand(batch_size, NUM_ROOMS, generator=generator).argsort(1)[:, : num_contexts + 1]
        azimuth_offset = MAX_AZIMUTH_OFFSET * (2 * torch.rand(rooms.shape, generator=generator) - 1)
        wall = torch.randint(NUM_ROOMS, (batch_size, 1), generator=generator)
        fraction = torch.rand(batch_size, 2, generator=generator).sum(1, keepdim=True) - 1  # from wall to room, -1 to 1
        novel = wall_azimuths(scenes).gather(1, wall) + math.pi / NUM_ROOMS * fraction
        azimuth = torch.cat([scenes.room_azimuths.gather(1, rooms) + azimuth_offset, novel], 1)
        views = observe(scenes, orbit_cameras(azimuth))
        batch = {
            "context": views.select(slice(0, num_contexts)),
            "target": views.select([num_contexts]),
            "novel": views.select([num_contexts + 1]),
        }
        if num_pixels is not None:
            for name in ("pixel_indices", "novel_pixel_indices"):
                permutation = torch.rand(batch_size, 1, IMAGE_WIDTH, generator=generator).argsort(-1)
                batch[name] = permutation[..., :num_pixels]
        return batch

    return make_batch


# --- classifying a room's content -------------------------------------------------------------------------------------


def classify_content(
    images: Float[Tensor, "*b 3 1 w"], wall_colour: Int[Tensor, "*#b"], min_pixels: float = 2.0
) -> Int[Tensor, "*b"]:
    """The content of a room, from an image by a camera that faces it.

    Each pixel is assigned to the nearest of the known colours: background, discs, and the wall's two sides. The content
    is the disc with the most pixels; the room counts as empty where no disc has at least `min_pixels`.
    """
    if images.ndim < 3 or images.shape[-3:] != (3, 1, IMAGE_WIDTH):
        raise ValueError(f"images have shape {tuple(images.shape)}, wanted (..., 3, 1, {IMAGE_WIDTH})")
    content_colours = torch.cat([torch.full((1, 3), BACKGROUND), DISC_COLOURS])  # in the order of CONTENTS
    side_colours = torch.stack([WALL_COLOURS[wall_colour], WALL_COLOURS[wall_colour] - SHADING], -2)  # (*b, 2, 3)
    pixels = images[..., 0, :].transpose(-1, -2)[..., None, :]  # (*b, W, 1, 3)
    palettes = (content_colours, side_colours[..., None, :, :])
    squared_errors = [(pixels - palette).square().sum(-1) for palette in palettes]
    squared_errors = [x.expand(*images.shape[:-3], IMAGE_WIDTH, -1) for x in squared_errors]
    nearest = torch.cat(squared_errors, -1).argmin(-1)  # (*b, W)
    counts = torch.stack([(nearest == content).sum(-1) for content in range(len(CONTENTS))], -1)
    most_frequent_disc = counts[..., 1:].max(-1)
    return torch.where(most_frequent_disc.values >= min_pixels, 1 + most_frequent_disc.indices, 0)


def classify_hidden_rooms(images: Float[Tensor, "c k v 3 1 w"], scenes: Scenes) -> Int[Tensor, "c r k"]:
    """The contents of the hidden rooms, from the first of V images, whose cameras face these rooms in order."""
    return classify_content(images[:, :, : NUM_ROOMS - 1], scenes.wall_colour[:, None, None]).transpose(1, 2)


# --- the model --------------------------------------------------------------------------------------------------------


def build_renderer(samples_per_ray: int = 16) -> VolumeRenderer:
    """The forward model: volume rendering of the box that contains every scene, in images one pixel high."""
    low, high = (-SCENE_HALF_WIDTH, -SCENE_HALF_WIDTH, -0.1), (SCENE_HALF_WIDTH, SCENE_HALF_WIDTH, 0.1)
    return VolumeRenderer(
        low, high, height=1, width=IMAGE_WIDTH, samples_per_ray=samples_per_ray, background=BACKGROUND
    )


def build_model(
    model_class: type[ForwardDiffusion] = ForwardDiffusion, novel_weight: float = 1.0, seed: int = 0
) -> ForwardDiffusion:
    """A diffusion model, or with model_class=ForwardRegression the deterministic baseline, with initial weights."""
    torch.manual_seed(seed)
    encoder_options = {"widths": (32, 64), "num_blocks": 1, "num_attention_levels": 1, "dims": 1}
    denoiser = SceneDenoiser(
        build_renderer(),
        width=32,
        num_features=8,
        render_downsample=4,
        encoder_options=encoder_options,
    )
    return model_class(denoiser, build_renderer(), ShiftedCosineSchedule(SCHEDULE_SHIFT), novel_weight)


def field_top_down_view(field: RadianceField, side: int = 96) -> Float[Tensor, "b side side 3"]:
    """Images of sampled scenes from above, in [-1, 1].

    A pixel composites a vertical ray of length TOP_VIEW_THICKNESS, with the density and colour of the plane's point.
    """
    points = plane_points(side).reshape(1, -1, 3).expand(len(field.feature_maps), -1, -1)
    with torch.no_grad():
        density, colour = field(points)
    opacity = (1 - torch.exp(-TOP_VIEW_THICKNESS * density))[..., None]
    return (BACKGROUND + opacity * (colour[..., :3] - BACKGROUND)).unflatten(1, (side, side))
