"""Flatland: inverse graphics in the plane, where an image is one row of pixels and a scene can be seen from above.

Three walls meet in the middle and make three rooms; in a room there may be a disc, orange or blue. A camera stands
outside and looks at the middle. From before a room, within LOOK of its bisector, it sees that room alone, so what the
other two hold is hidden from it. All walls have one colour, and that tells the odds: ODDS says how likely each content
of a room is, independently of the other rooms. So the distribution of scenes given an image is known.

All is flat in colour, a wall darker on one of its sides, and the walls always stand in the same place. The cameras, the
volume rendering and the denoiser are those of 3-D scenes: the plane is z = 0, and an image has a height of one pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fwdiff_lite.diffusion import ForwardDiffusion
from fwdiff_lite.observations import Observations
from fwdiff_lite.problems.inverse_graphics.cameras import orbit, pixel_centres, rays
from fwdiff_lite.problems.inverse_graphics.pixelnerf import RadianceField, SceneDenoiser
from fwdiff_lite.problems.inverse_graphics.volume import VolumeRenderer, clip
from fwdiff_lite.schedule import ShiftedCosineSchedule

W = 32  # pixels of an image
ROOMS = 3
CONTENTS = ("empty", "orange", "blue")
ODDS = {"teal": (0.1, 0.7, 0.2), "violet": (0.5, 0.1, 0.4), "grey": (0.3, 0.2, 0.5)}  # a wall's colour: of CONTENTS
WALLS = torch.tensor([[-0.75, 0.25, 0.15], [0.1, -0.55, 0.35], [-0.35, -0.35, -0.35]])  # colours, in [-1, 1]
DISCS = torch.tensor([[1.0, 0.1, -0.8], [-0.75, -0.1, 0.95]])
BACKGROUND = 1.0
LENGTH, THICK = 1.6, 0.4  # of a wall; the shortest waves that the field's network knows are half a unit long
SHADE = 0.35  # how much darker one side of it is
RADIUS = 0.52  # of a disc
ALONG, ACROSS = (1.0, 1.1), (-0.25, 0.25)  # where a disc's centre may be, along and across its room's bisector
DISTANCE, VIEW = 4.6, math.radians(56)  # of a camera from the middle; the angle that it sees
LOOK = math.radians(12)  # how far from the bisector a room is seen alone
CORNER = LENGTH + 0.2  # of the box that holds all scenes
CONTEXTS = 2  # images in the context, at most
SHIFT = 1.0  # of the cosine schedule
SHOWN = 0.2  # how far one looks into the field from above

# --- scenes -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scenes:
    """B scenes.

    first:   (B,) which room is counted as the first, 0 to 2; the context's camera stands before it
    wall:    (B,) which of ODDS
    content: (B, 3) which of CONTENTS each room holds
    place:   (B, 3, 2) where, along and across the room's bisector; where a room is empty it means nothing
    """

    first: Int[Tensor, "b"]
    wall: Int[Tensor, "b"]
    content: Int[Tensor, "b r"]
    place: Float[Tensor, "b r 2"]

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, rows) -> Scenes:
        return Scenes(*(getattr(self, field.name)[rows] for field in fields(self)))

    @property
    def odds(self) -> Float[Tensor, "b a"]:
        """Of every content of a room that is not seen."""
        return torch.tensor(list(ODDS.values()))[self.wall]

    @property
    def bisector(self) -> Float[Tensor, "b r"]:
        """Direction of each room, in radians."""
        return (self.first[:, None] + torch.arange(ROOMS)) * (2 * math.pi / ROOMS)


def draw_scenes(n: int, generator: torch.Generator) -> Scenes:
    """n scenes: all walls equally likely, rooms by their odds."""
    first = torch.randint(ROOMS, (n,), generator=generator)
    wall = torch.randint(len(ODDS), (n,), generator=generator)
    blank = Scenes(first, wall, torch.zeros(n, ROOMS, dtype=torch.long), torch.zeros(n, ROOMS, 2))
    return redraw(blank, torch.ones(ROOMS, dtype=torch.bool), generator)


def redraw(scenes: Scenes, rooms: Bool[Tensor, "r"], generator: torch.Generator) -> Scenes:
    """The same scenes with new contents of some rooms: what they hold given the walls."""
    n = len(scenes)
    content = torch.multinomial(scenes.odds, ROOMS, True, generator=generator)
    low, size = (torch.tensor(x) for x in zip(*((a, b - a) for a, b in (ALONG, ACROSS)), strict=True))
    place = low + size * torch.rand(n, ROOMS, 2, generator=generator)
    return Scenes(
        scenes.first,
        scenes.wall,
        torch.where(rooms, content, scenes.content),
        torch.where(rooms[:, None], place, scenes.place),
    )


def repeat(scenes: Scenes, k: int) -> Scenes:
    """Every scene k times in a row."""
    return scenes[torch.arange(len(scenes)).repeat_interleave(k)]


# --- images -----------------------------------------------------------------------------------------------------------


def centres(scenes: Scenes) -> Float[Tensor, "b r 2"]:
    """Of the discs, in the plane."""
    return torch.einsum("brk,brki->bri", scenes.place, axes_of(scenes.bisector))


def walls(scenes: Scenes) -> Float[Tensor, "b r"]:
    """Directions in which the walls leave the middle: between two rooms each."""
    return scenes.bisector + math.pi / ROOMS


def colours(scenes: Scenes) -> Float[Tensor, "b s 3"]:
    """Of the three walls on one side, of the three walls on the other, and of the three rooms' discs."""
    wall = WALLS[scenes.wall][:, None].expand(-1, ROOMS, -1)
    return torch.cat([wall, wall - SHADE, DISCS[(scenes.content - 1).clamp(min=0)]], 1)


def look(scenes: Scenes, cameras: Float[Tensor, "b m 4 4"], smooth: int = 4) -> Float[Tensor, "b m 3 1 w"]:
    """What M cameras truly see of each scene, in [-1, 1]; smooth: rays that are averaged for a pixel."""
    origins, directions = rays(cameras, pixel_centres(1, W * smooth, cameras))
    x, d = origins[..., :2], directions[..., :2]  # (B, M, 1, 2), (B, M, P, 2)
    axes = axes_of(walls(scenes))
    start, way = (torch.einsum("bmpi,brki->bmrpk", y, axes) for y in (x, d))  # in each wall's own coordinates
    enter, leave = clip(start, way, torch.tensor([0, -THICK / 2]), torch.tensor([LENGTH, THICK / 2]))
    side = (start + enter[..., None] * way)[..., 1] > 0  # where a ray enters, (B, M, R, P)
    hits = [torch.where((enter < leave) & lit, enter, math.inf).transpose(2, 3) for lit in (side, ~side)]
    away = x[..., None, :] - centres(scenes)[:, None, None]  # (B, M, 1, R, 2)
    middle = -(away * d[..., None, :]).sum(-1)  # (B, M, P, R)
    inner = RADIUS**2 - (away.square().sum(-1) - middle.square())
    there = (inner > 0) & (scenes.content > 0)[:, None, None]
    hits.append(torch.where(there, middle - inner.clamp(min=0).sqrt(), math.inf))
    nearest, which = torch.cat(hits, -1).min(-1)  # (B, M, P)
    ink = colours(scenes)[torch.arange(len(scenes))[:, None, None], which]  # (B, M, P, 3)
    ink = torch.where(nearest[..., None].isfinite(), ink, BACKGROUND)
    return ink.unflatten(2, (W, smooth)).mean(3).transpose(-1, -2)[:, :, :, None]


def axes_of(direction: Float[Tensor, "*b"]) -> Float[Tensor, "*b 2 2"]:
    """Two unit vectors: along a direction of the plane, and across it, to the left."""
    cos, sin = direction.cos(), direction.sin()
    return torch.stack([torch.stack([cos, sin], -1), torch.stack([-sin, cos], -1)], -2)


def above(scenes: Scenes, side: int = 96) -> Float[Tensor, "b side side 3"]:
    """The scenes themselves, seen from above, as pictures in [-1, 1]: x to the right, y up."""
    points = grid(side)[..., :2]
    u, v = torch.einsum("hwi,brki->kbrhw", points, axes_of(walls(scenes)))
    wall = [(u > 0) & (u < LENGTH) & (v * way > 0) & (v * way < THICK / 2) for way in (1, -1)]
    disc = (points - centres(scenes)[:, :, None, None]).norm(dim=-1) < RADIUS
    masks = torch.cat([*wall, disc & (scenes.content > 0)[..., None, None]], 1)
    picture = torch.full((len(scenes), side, side, 3), BACKGROUND)
    for mask, ink in zip(masks.unbind(1), colours(scenes).unbind(1), strict=True):
        picture = torch.where(mask[..., None], ink[:, None, None], picture)
    return picture


def grid(side: int) -> Float[Tensor, "side side 3"]:
    """Points of the plane, z = 0: x to the right, y up."""
    x = torch.linspace(-CORNER, CORNER, side)
    return torch.stack([x.expand(side, side), x.flip(0)[:, None].expand(side, side), torch.zeros(side, side)], -1)


# --- cameras and observations -----------------------------------------------------------------------------------------


def camera(azimuth: Float[Tensor, "*b"]) -> Float[Tensor, "*b 4 4"]:
    """Cameras around the middle of the plane, which they look at."""
    return orbit(azimuth, 0.0, DISTANCE, VIEW)


def before(scenes: Scenes, room: int, off: Float[Tensor, "b"] | float = 0.0) -> Float[Tensor, "b 1 4 4"]:
    """A camera before a room of each scene, `off` radians from its bisector."""
    return camera(scenes.bisector[:, room] + off)[:, None]


def observe(scenes: Scenes, cameras: Float[Tensor, "b m 4 4"]) -> Observations:
    """Images by M cameras of each scene."""
    return Observations(look(scenes, cameras), cameras)


def batches(size: int = 16, pixels: int | None = 8, contexts: int = CONTEXTS) -> Callable[[torch.Generator], dict]:
    """For fit(): images of fresh scenes, 1 to `contexts` in the context and one target, each before a room of its own.

    The cameras are within LOOK of their rooms' bisectors; the novel one is anywhere, along a wall most often. A batch's
    contexts are all of one size, so that nothing is computed for images that are not there.

    pixels: of each target and novel image that are rendered for the losses, drawn at random; None: all
    """

    def batch(generator: torch.Generator) -> dict:
        scenes = draw_scenes(size, generator)
        many = int(torch.randint(1, contexts + 1, (), generator=generator))
        rooms = torch.rand(size, ROOMS, generator=generator).argsort(1)[:, : many + 1]
        off = LOOK * (2 * torch.rand(rooms.shape, generator=generator) - 1)
        wall = torch.randint(ROOMS, (size, 1), generator=generator)
        beside = torch.rand(size, 2, generator=generator).sum(1, keepdim=True) - 1  # of the way to a bisector, -1 to 1
        novel = walls(scenes).gather(1, wall) + math.pi / ROOMS * beside
        azimuth = torch.cat([scenes.bisector.gather(1, rooms) + off, novel], 1)
        seen = observe(scenes, camera(azimuth))
        out = {"context": seen.select(slice(0, many)), "target": seen.select([many]), "novel": seen.select([many + 1])}
        if pixels is not None:
            for name in ("pixel_indices", "novel_pixel_indices"):
                out[name] = torch.rand(size, 1, W, generator=generator).argsort(-1)[..., :pixels]
        return out

    return batch


# --- reading a room from an image -----------------------------------------------------------------------------------


def read(images: Float[Tensor, "*b 3 1 w"], wall: Int[Tensor, "*#b"], least: float = 2.0) -> Int[Tensor, "*b"]:
    """What a room holds, from a picture taken before it: a colour that at least `least` pixels are nearest to."""
    ink = torch.cat([torch.full((1, 3), BACKGROUND), DISCS])  # white, orange, blue
    sides = torch.stack([WALLS[wall], WALLS[wall] - SHADE], -2)  # (*b, 2, 3)
    pixels = images[..., 0, :].transpose(-1, -2)[..., None, :]  # (*b, W, 1, 3)
    near = [(pixels - colour).square().sum(-1) for colour in (ink, sides[..., None, :, :])]
    nearest = torch.cat([x.expand(*images.shape[:-3], W, -1) for x in near], -1).argmin(-1)  # (*b, W)
    counts = torch.stack([(nearest == content).sum(-1) for content in range(len(CONTENTS))], -1)
    most = counts[..., 1:].max(-1)
    return torch.where(most.values >= least, 1 + most.indices, 0)


def contents(views: Float[Tensor, "c k v 3 1 w"], scenes: Scenes) -> Int[Tensor, "c r k"]:
    """What the hidden rooms hold, read from the views before them."""
    return read(views[:, :, : ROOMS - 1], scenes.wall[:, None, None]).transpose(1, 2)


# --- the model --------------------------------------------------------------------------------------------------------


def renderer(samples: int = 16) -> VolumeRenderer:
    """The forward model: rows of the box that holds all scenes."""
    low, high = (-CORNER, -CORNER, -0.1), (CORNER, CORNER, 0.1)
    return VolumeRenderer(low, high, height=1, width=W, samples=samples, background=BACKGROUND)


def untrained(
    kind: type[ForwardDiffusion] = ForwardDiffusion, novel_weight: float = 1.0, seed: int = 0
) -> ForwardDiffusion:
    """A diffusion model, or with kind=ForwardRegression its deterministic baseline, with fresh weights."""
    torch.manual_seed(seed)
    encoder = {"widths": (32, 64), "blocks": 1, "attention": 1, "row": True}
    denoiser = SceneDenoiser(renderer(), width=32, features=8, channels=32, coarser=4, options=encoder)
    return kind(denoiser, renderer(), ShiftedCosineSchedule(SHIFT), novel_weight)


def from_above(field: RadianceField, side: int = 96) -> Float[Tensor, "b side side 3"]:
    """Sampled scenes seen from above, in [-1, 1]: of a point's colour as much as a way of SHOWN through it shows."""
    points = grid(side).reshape(1, -1, 3).expand(len(field.maps), -1, -1)
    with torch.no_grad():
        density, colour = field(points)
    opacity = (1 - torch.exp(-SHOWN * density))[..., None]
    return (BACKGROUND + opacity * (colour[..., :3] - BACKGROUND)).unflatten(1, (side, side))
