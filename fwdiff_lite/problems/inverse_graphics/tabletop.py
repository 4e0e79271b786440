"""Tabletop scenes that hide things, for problems/inverse_graphics: drawn on the CPU, traced exactly anywhere.

On a round table stand a screen, a box, and one or two bodies that hide nothing. From the scene's *front* one sees

    the screen's face with a white band. Behind it stands nothing, an orange body or a violet one;
    the box's plain face. On its back and on its outer side is a decal, red, yellow or blue, low or high.

Of body and decal no sliver is ever seen from the front, and no shadow: the light comes from behind, and what is hidden
throws its shadow at the screen's back. The colours of screen and box set the odds of what they hide (ODDS), and nothing
else does. Drawn too are the decal's height and the body's kind, place, size and turn, each from one distribution, the
body's in the screen's frame. So what a front view does not tell has a known distribution given what it does
(`redraw_hidden`).

All solids are boxes, cylinders and balls, so every ray is traced in closed form. There is one light and no gloss: a
colour does not depend on where it is seen from, and a radiance field without view direction can be right.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fwdiff_lite.colours import hsv_to_rgb
from fwdiff_lite.observations import Observations, to_device
from fwdiff_lite.problems.inverse_graphics.cameras import check_cameras, orbit, pixel_centres, project, rays
from fwdiff_lite.problems.inverse_graphics.volume import clip

LOW, HIGH = (-1.0, -1.0, -0.06), (1.0, 1.0, 0.72)  # the corners of a box that holds every scene

KINDS = ("box", "cylinder", "ball")
SCREEN, BOX, HIDDEN, FREE, TABLE = 0, 1, 2, (3, 4), 5  # the solids' numbers; FREE are those that hide nothing
PATTERNS = ("checks", "stripes", "rings")  # of the table

FACTORS = {"hidden": ("nothing", "orange", "violet"), "decal": ("red", "yellow", "blue")}
CUES = {"hidden": ("teal", "brick", "indigo"), "decal": ("ivory", "slate", "wood")}  # colours of the screen, of the box
ODDS = torch.tensor(  # of a factor's categories (columns) given its cue (rows); all cues are equally likely
    [
        [[0.15, 0.55, 0.3], [0.35, 0.2, 0.45], [0.25, 0.3, 0.45]],  # behind the screen: nothing, orange, violet
        [[0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.3, 0.2, 0.5]],  # on the box's back: red, yellow, blue
    ]
)
SCREENS = torch.tensor([[0.20, 0.64, 0.64], [0.85, 0.42, 0.35], [0.36, 0.42, 0.76]])  # colours in [0, 1]
BOXES = torch.tensor([[0.96, 0.92, 0.82], [0.45, 0.50, 0.57], [0.76, 0.53, 0.33]])
BODIES = torch.tensor([[0.0, 0.0, 0.0], [1.00, 0.55, 0.08], [0.36, 0.12, 0.62]])
DECALS = torch.tensor([[0.90, 0.14, 0.16], [1.00, 0.80, 0.10], [0.10, 0.36, 0.92]])
WHITE = 0.97  # of the screen's band
ELEVATION, DISTANCE = (20, 32), (2.6, 3.6)  # of all cameras, in degrees and in the table's radii
REACH = (0.97, 1.2)  # half of what a camera sees from left to right, at the table's middle
OFF = 1e-3  # how far off a surface the rays start that ask whether it is lit, or seen

# --- scenes -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scenes:
    """B scenes of five solids on a table; lengths in units of the table's radius, angles in radians.

    front: (B,) the azimuth of the front; light: (B, 3) towards the light, of length one
    pattern, scale, phase: (B,) which of PATTERNS, how many of its periods a unit, how it is turned
    tones: (B, 2, 3) its two colours; paint: (B, 2, 3) those of the two bodies that hide nothing
    kind: (B, 5) which of KINDS, -1: none; place, size, turn: (B, 5, 2), (B, 5, 3), (B, 5) where on the table, half of
        the length along each axis, and the azimuth of the first axis
    rise: (B,) up to which share of its faces' height the decal reaches
    cue, factor: (B, 2) which of CUES and of FACTORS, in their order; where factor 0 is 0, nothing stands behind the
        screen, whatever its kind, place, size and turn
    """

    front: Float[Tensor, "b"]
    light: Float[Tensor, "b 3"]
    pattern: Int[Tensor, "b"]
    scale: Float[Tensor, "b"]
    phase: Float[Tensor, "b"]
    tones: Float[Tensor, "b 2 3"]
    paint: Float[Tensor, "b 2 3"]
    kind: Int[Tensor, "b s"]
    place: Float[Tensor, "b s 2"]
    size: Float[Tensor, "b s 3"]
    turn: Float[Tensor, "b s"]
    rise: Float[Tensor, "b"]
    cue: Int[Tensor, "b 2"]
    factor: Int[Tensor, "b 2"]

    def __len__(self) -> int:
        return len(self.front)

    def __getitem__(self, rows) -> "Scenes":
        return Scenes(*(getattr(self, field.name)[rows] for field in fields(self)))

    def to(self, device) -> "Scenes":
        return Scenes(*(to_device(getattr(self, field.name), device) for field in fields(self)))

    def repeat(self, k: int) -> "Scenes":
        """Every scene k times in a row."""
        return Scenes(*(getattr(self, field.name).repeat_interleave(k, 0) for field in fields(self)))

    @property
    def there(self) -> Bool[Tensor, "b s"]:
        """Which solids there are."""
        nothing = (self.factor[:, :1] == 0) & (torch.arange(self.kind.shape[1], device=self.kind.device) == HIDDEN)
        return (self.kind >= 0) & ~nothing

    @property
    def odds(self) -> Float[Tensor, "b 2 3"]:
        """The probabilities of each factor's categories, given what the front shows."""
        return ODDS.to(self.cue.device)[torch.arange(2, device=self.cue.device), self.cue]


def entropy(scenes: Scenes) -> Float[Tensor, "b 2"]:
    """Of each factor given a front view, in nats. The kind of a hidden body is uniform: log 3 more if there is one."""
    return -(scenes.odds * scenes.odds.log()).sum(-1)


def draw_scenes(n: int, generator: torch.Generator) -> Scenes:
    """n scenes, on the CPU. Laid out with the front at azimuth 0 (x to the front, y to the left), then turned."""
    uniform, integers = _draws(n, generator)
    left = 2.0 * integers(2) - 1  # which side the screen stands on
    screen = torch.stack([uniform(0.0, 0.08), left * uniform(0.38, 0.41)], -1)
    box = torch.stack([uniform(-0.22, -0.12), -left * uniform(0.36, 0.40)], -1)
    free = torch.stack([uniform(0.44, 0.60, 2), torch.tensor([-1.0, 1.0]) * uniform(0.18, 0.42, 2)], -1)
    front = uniform(-math.pi, math.pi)
    azimuth, elevation = front + math.pi + _degrees(uniform(-20, 20)), _degrees(uniform(60, 70))
    hue = uniform(0, 1)
    kind = torch.cat([torch.zeros(n, 3, dtype=torch.long), integers(3, 2)], 1)
    kind[:, FREE[1]] = torch.where(uniform(0, 1) < 0.5, kind[:, FREE[1]], -1)
    layout = torch.stack([screen, box, torch.zeros(n, 2), *free.unbind(1)], 1)
    # turned inwards, so that its outer side looks away from the front
    turn = torch.stack([_degrees(uniform(-5, 5)), -left * _degrees(uniform(6, 14)), torch.zeros(n)], 1)
    screen_size = torch.stack([torch.full((n,), 0.04), uniform(0.39, 0.41), uniform(0.335, 0.355)], -1)
    box_size = torch.stack([uniform(0.33, 0.36), uniform(0.24, 0.27), uniform(0.32, 0.345)], -1)
    scenes = Scenes(
        front=front,
        light=torch.stack([elevation.cos() * azimuth.cos(), elevation.cos() * azimuth.sin(), elevation.sin()], -1),
        pattern=integers(len(PATTERNS)),
        scale=uniform(1.8, 2.6),
        phase=uniform(-math.pi, math.pi),
        tones=torch.stack([hsv_to_rgb(hue, uniform(0.10, 0.18), uniform(0.92, 1)), hsv_to_rgb(hue, uniform(0.16, 0.26), 0.90)], 1),
        paint=hsv_to_rgb(uniform(0, 1, 2), uniform(0.45, 0.75, 2), uniform(0.8, 0.95, 2)),
        kind=kind,
        place=_rotated(layout, front[:, None]),
        size=torch.stack([screen_size, box_size, torch.zeros(n, 3), *_sizes(kind[:, 3:], uniform).unbind(1)], 1),
        turn=torch.cat([front[:, None] + turn, uniform(-math.pi, math.pi, 2)], 1),
        rise=torch.ones(n),
        cue=integers(3, 2),
        factor=torch.zeros(n, 2, dtype=torch.long),
    )
    return redraw_hidden(scenes, generator)


def redraw_hidden(scenes: Scenes, generator: torch.Generator) -> Scenes:
    """The same scenes as far as their front shows them; what it hides is drawn from its true conditional distribution.

    Drawn on the CPU, wherever the scenes are.
    """
    home = _draw_hidden(scenes.to("cpu"), generator)
    factor = torch.multinomial(home.odds.flatten(0, 1), 1, generator=generator).view(-1, 2)
    return replace(home, factor=factor).to(scenes.front.device)


def _draw_hidden(scenes: Scenes, generator: torch.Generator) -> Scenes:
    """Another height of the decal, and another body behind the screen, whether it is there or not; on the CPU."""
    uniform, integers = _draws(len(scenes), generator)
    kind = integers(3)
    left = torch.sign(_rotated(scenes.place[:, SCREEN], -scenes.front)[:, 1])
    behind = torch.stack([-uniform(0.28, 0.30), left * uniform(0.01, 0.05)], -1)
    place = scenes.place[:, SCREEN] + _rotated(behind, scenes.turn[:, SCREEN])
    size = torch.stack([uniform(0.19, 0.22), uniform(0.21, 0.235), uniform(0.20, 0.22)], -1)
    turn = scenes.turn[:, SCREEN] + _degrees(uniform(-5, 5))
    changed = {"rise": uniform(0.4, 1.0)}
    for name, value in (("kind", kind), ("place", place), ("size", size), ("turn", turn)):
        changed[name] = getattr(scenes, name).clone()
        changed[name][:, HIDDEN] = value
    return replace(scenes, **changed)


def _sizes(kind: Int[Tensor, "*b"], uniform) -> Float[Tensor, "*b 3"]:
    """Half lengths of bodies as long as they are wide."""
    radius, height = (uniform(0.105, 0.14, *kind.shape[1:]) for _ in range(2))
    radius = torch.where(kind == KINDS.index("box"), 0.85 * radius, radius)
    return torch.stack([radius, radius, torch.where(kind == KINDS.index("ball"), radius, height)], -1)


def _draws(n: int, generator: torch.Generator) -> tuple[Callable, Callable]:
    """uniform(low, high, *shape) and integers(high, *shape), n of each."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=generator)

    def integers(high: int, *shape: int) -> Tensor:
        return torch.randint(high, (n, *shape), generator=generator)

    return uniform, integers


def _degrees(angle: Tensor) -> Tensor:
    return angle * (math.pi / 180)


def _rotated(points: Float[Tensor, "*b 2"], angle: Float[Tensor, "*#b"]) -> Float[Tensor, "*b 2"]:
    """Points of the plane, turned about the origin."""
    x, y = points.unbind(-1)
    return torch.stack([angle.cos() * x - angle.sin() * y, angle.sin() * x + angle.cos() * y], -1)


# --- cameras ----------------------------------------------------------------------------------------------------------


def draw_cameras(n: int, m: int, generator: torch.Generator) -> Float[Tensor, "n m 4 4"]:
    """m cameras for each of n scenes, from all around the table, 20 to 32 degrees high."""
    uniform, _ = _draws(n, generator)
    return _orbit(uniform(-math.pi, math.pi, m), uniform)


def front_cameras(scenes: Scenes, generator: torch.Generator) -> Float[Tensor, "b 1 4 4"]:
    """One camera in front of each scene, for its context: up to 10 degrees to the side and 20 to 32 degrees high.

    From there all is hidden that can be, and all else that stands on the table is in the picture; a third of the
    pictures cut off some of the table.
    """
    uniform, _ = _draws(len(scenes), generator)
    return _orbit(scenes.front.cpu()[:, None] + _degrees(uniform(-10, 10, 1)), uniform).to(scenes.front.device)


def _orbit(azimuth: Float[Tensor, "n m"], uniform: Callable) -> Float[Tensor, "n m 4 4"]:
    """Elevation, distance and field of view vary alike for all cameras: training shows what is examined."""
    elevation, distance, reach = (uniform(*ends, azimuth.shape[1]) for ends in (ELEVATION, DISTANCE, REACH))
    return orbit(azimuth, _degrees(elevation), distance, 2 * torch.atan(reach / distance))


def _pixels(
    share: Float[Tensor, "b m n"], cameras: Float[Tensor, "b m 4 4"], side: int, box: Float[Tensor, "2 3"]
) -> Int[Tensor, "b m n"]:
    """The numbers of pixels whose rays pass between a box's corners: the first at share 0, the last before 1."""
    near, far = clip(*rays(cameras, pixel_centres(side, side, cameras)), *box)
    count = (near < far).cumsum(-1).to(share)
    return torch.searchsorted(count, (share * count[..., -1:]).floor() + 0.5)


def turned(cameras: Float[Tensor, "*b 4 4"], degrees: float) -> Float[Tensor, "*b 4 4"]:
    """The same cameras, moved around the table: 180 is the view from behind."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    x, y = cameras[..., 0], cameras[..., 1]
    return torch.stack([cos * x - sin * y, sin * x + cos * y, cameras[..., 2], cameras[..., 3]], -1)


# --- tracing ----------------------------------------------------------------------------------------------------------


class Solids(NamedTuple):
    """What rays meet: (B, 6, ...) the solids of B scenes, or (B, M, P, ...) the one that each of M x P rays meets."""

    there: Bool[Tensor, "*b"]
    kind: Int[Tensor, "*b"]
    centre: Float[Tensor, "*b 3"]
    size: Float[Tensor, "*b 3"]
    axis: Float[Tensor, "*b 2"]  # the first axis: cosine and sine of `turn`
    colour: Float[Tensor, "*b 3"]

    def take(self, number: int | Int[Tensor, "b m p"]) -> "Solids":
        """One solid for every ray."""
        rows = torch.arange(len(self.kind), device=self.kind.device)[:, None, None]
        return Solids(*(x[rows, number] for x in self))

    def is_kind(self, name: str) -> Bool[Tensor, "*b"]:
        return self.kind == KINDS.index(name)

    def into(self, vector: Float[Tensor, "*#b 3"]) -> Float[Tensor, "*#b 3"]:
        """A vector of the world along the solid's axes, in units of its half lengths."""
        x, y, z = vector.unbind(-1)
        cos, sin = self.axis.unbind(-1)
        return torch.stack(torch.broadcast_tensors(cos * x + sin * y, cos * y - sin * x, z), -1) / self.size


def solids(scenes: Scenes) -> Solids:
    """The five solids of each scene, and its table as the sixth."""
    one = torch.ones_like(scenes.front)[:, None]
    number = (scenes.cue[:, 0], scenes.cue[:, 1], scenes.factor[:, 0])
    own = [palette.to(scenes.light)[i] for palette, i in zip((SCREENS, BOXES, BODIES), number, strict=True)]
    table = -LOW[2] / 2 * one  # half its thickness
    height = torch.cat([scenes.size[..., 2], -table], 1)
    turn = torch.cat([scenes.turn, scenes.phase[:, None]], 1)
    return Solids(
        there=torch.cat([scenes.there, one > 0], 1),
        kind=torch.cat([scenes.kind, torch.full_like(scenes.kind[:, :1], KINDS.index("cylinder"))], 1),
        centre=torch.cat([torch.cat([scenes.place, torch.zeros_like(scenes.place[:, :1])], 1), height[..., None]], -1),
        size=torch.cat([scenes.size, torch.stack([one, one, table], -1)], 1),
        axis=torch.stack([turn.cos(), turn.sin()], -1),
        colour=torch.cat([torch.stack(own, 1), scenes.paint, scenes.tones[:, 1:]], 1),
    )


def enters(
    solid: Solids, start: Float[Tensor, "b #m #p 3"], away: Float[Tensor, "b #m #p 3"]
) -> Float[Tensor, "b m p"]:
    """How far along its ray, in lengths of `away`, each ray enters a solid; 0 where it starts inside, inf: it does not.

    In the solid's own units a box is three slabs |x|, |y|, |z| <= 1; a cylinder is x^2 + y^2 <= 1 in the slab |z| <= 1;
    a ball is x^2 + y^2 + z^2 <= 1, in the same slab.
    """
    o, d = solid.into(start - solid.centre), solid.into(away)
    inverse = 1 / torch.where(d.abs() < 1e-9, 1e-9, d)
    middle, half = -o * inverse, inverse.abs()  # of the stretch in each slab
    near, far = middle - half, middle + half
    ball = solid.is_kind("ball").to(d)

    def total(v: Tensor) -> Tensor:
        return v[..., 0] + v[..., 1] + ball * v[..., 2]

    # of the stretch in what is round: its middle is the point nearest to the axis, or to the ball's centre
    square = total(d * d).clamp(min=1e-12)
    middle = -total(o * d) / square
    half = ((1 - total((o + middle[..., None] * d).square())).clamp(min=0) / square).sqrt()
    box = solid.is_kind("box")
    enter = torch.where(box, torch.maximum(near[..., 0], near[..., 1]), middle - half)
    leave = torch.where(box, torch.minimum(far[..., 0], far[..., 1]), middle + half)
    enter, leave = torch.maximum(enter, near[..., 2]), torch.minimum(leave, far[..., 2])
    return torch.where((enter < leave) & (leave > 0) & solid.there, enter.clamp(min=0), torch.inf)


def first(
    all_solids: Solids, start: Float[Tensor, "b #m #p 3"], away: Float[Tensor, "b #m #p 3"]
) -> tuple[Float[Tensor, "b m p"], Int[Tensor, "b m p"]]:
    """How far along its ray each ray meets its first solid, inf where it meets none, and that solid's number."""
    return torch.stack([enters(all_solids.take(i), start, away) for i in range(TABLE + 1)], -1).min(-1)


class Surface(NamedTuple):
    """Where M x P rays end. In the solid's own axes and units it is at `local`, and the way out is along `out`."""

    depth: Float[Tensor, "b m p"]  # inf: nowhere
    point: Float[Tensor, "b m p 3"]
    normal: Float[Tensor, "b m p 3"]
    which: Int[Tensor, "b m p"]
    solid: Solids
    local: Float[Tensor, "b m p 3"]
    out: Float[Tensor, "b m p 3"]


def surface(all_solids: Solids, start: Float[Tensor, "b m #p 3"], away: Float[Tensor, "b m p 3"]) -> Surface:
    """The surface that each ray ends on."""
    depth, which = first(all_solids, start, away)
    solid = all_solids.take(which)
    point = start + torch.where(depth < torch.inf, depth, 0)[..., None] * away
    local = solid.into(point - solid.centre)
    high, wide = local[..., 2:].abs(), local[..., :2].norm(dim=-1, keepdim=True)
    cap = local * torch.where(high > wide, local.new_tensor([0.0, 0.0, 1.0]), local.new_tensor([1.0, 1.0, 0.0]))
    face = torch.where(local.abs() == local.abs().amax(-1, keepdim=True), local, 0)
    out = torch.where(solid.is_kind("cylinder")[..., None], cap, local)
    out = torch.where(solid.is_kind("box")[..., None], face, out)
    x, y, z = torch.nn.functional.normalize(out / solid.size, dim=-1).unbind(-1)
    cos, sin = solid.axis.unbind(-1)
    normal = torch.stack([cos * x - sin * y, sin * x + cos * y, z], -1)
    return Surface(depth, point, normal, which, solid, local, out)


def cast(
    scenes: Scenes, start: Float[Tensor, "b m #p 3"], away: Float[Tensor, "b m p 3"]
) -> tuple[Float[Tensor, "b m p 3"], Float[Tensor, "b m p"]]:
    """What rays see: colours in [-1, 1], and how far away, in lengths of `away`; white and inf where nothing is."""
    all_solids = solids(scenes)
    s = surface(all_solids, start, away)
    light = scenes.light[:, None, None]
    facing = (s.normal * light).sum(-1)
    lit = first(all_solids, s.point + OFF * s.normal, light)[0] == torch.inf
    shade = 0.66 + 0.02 * s.normal[..., 2] + 0.10 * facing + 0.26 * facing.clamp(min=0) * lit
    colour = (albedo(scenes, s) * shade[..., None]).clamp(0, 1)
    return torch.where((s.depth < torch.inf)[..., None], 2 * colour - 1, 1.0), s.depth


def albedo(scenes: Scenes, s: Surface) -> Float[Tensor, "b m p 3"]:
    """The colour in [0, 1] of each point: the solid's own, or the table's pattern, the screen's band, the decal."""
    x, y, z = s.local.unbind(-1)
    front, side, up = s.out.unbind(-1)
    scale, pattern = (v[:, None, None] for v in (scenes.scale, scenes.pattern))
    stripe, across, ring = ((scale * along + 0.25).floor() % 2 for along in (x, y, s.local[..., :2].norm(dim=-1)))
    odd = torch.where(pattern == 0, (stripe + across) % 2, torch.where(pattern == 1, stripe, ring)) == 1
    band = (s.which == SCREEN) & (front > 0.5) & ((z - 0.45).abs() < 0.2)
    outer = torch.sign(_rotated(scenes.place[:, BOX], -scenes.front)[:, 1])[:, None, None]
    back, aside = ((s.which == BOX) & face for face in (front < -0.5, side * outer > 0.5))
    along = torch.where(back, y, x)
    inked = (back | aside) & (torch.maximum(along.abs(), z.abs()) < 0.92) & (z < 2 * scenes.rise[:, None, None] - 1)
    decal = DECALS.to(z)[scenes.factor[:, 1]][:, None, None]
    colour = s.solid.colour
    for where, ink in (
        ((s.which == TABLE) & (up > 0.5) & odd, scenes.tones[:, None, :1]),
        (band, colour.new_tensor(WHITE)),
        (inked, decal),
    ):
        colour = torch.where(where[..., None], ink, colour)
    return colour


def render(
    scenes: Scenes, cameras: Float[Tensor, "b m 4 4"], side: int = 64, antialias: int = 2
) -> Float[Tensor, "b m 3 {side} {side}"]:
    """Pictures in [-1, 1]: each pixel is the mean of antialias x antialias rays through it."""
    _check(scenes, cameras, side, antialias)
    n = side * antialias
    colour, _ = cast(scenes, *rays(cameras, pixel_centres(n, n, cameras)))
    colour = colour.view(*cameras.shape[:2], side, antialias, side, antialias, 3)  # n = side x antialias, twice
    return colour.mean((3, 5)).movedim(-1, 2)


def depths(scenes: Scenes, cameras: Float[Tensor, "b m 4 4"], side: int = 64) -> Float[Tensor, "b m {side} {side}"]:
    """How far from the camera the ray through each pixel's centre ends; inf where it meets nothing."""
    _check(scenes, cameras, side)
    depth, _ = first(solids(scenes), *rays(cameras, pixel_centres(side, side, cameras)))
    return depth.view(*cameras.shape[:2], side, side)


def trace(
    scenes: Scenes, cameras: Float[Tensor, "b m 4 4"], side: int = 64, antialias: int = 2
) -> tuple[Float[Tensor, "b m 3 {side} {side}"], Float[Tensor, "b m {side} {side}"]]:
    """Pictures and depths; something is hit where the depth is finite.

    For some of the pixels only: cast(scenes, *rays(cameras, uv)), uv their places in the pictures.
    """
    return render(scenes, cameras, side, antialias), depths(scenes, cameras, side)


def _check(scenes: Scenes, cameras: Tensor, side: int, antialias: int = 1) -> None:
    """A ValueError where these are not M cameras for each of B scenes, or no picture could have that many pixels."""
    check_cameras(cameras)
    if cameras.ndim != 4 or len(cameras) != len(scenes):
        raise ValueError(f"cameras {tuple(cameras.shape)} are not for {len(scenes)} scenes: give (B, M, 4, 4)")
    if side < 1 or antialias < 1:
        raise ValueError(f"a picture needs at least one pixel a side and one ray a pixel, got {side} and {antialias}")


# --- what a context cannot tell ---------------------------------------------------------------------------------------


def unseen(
    scenes: Scenes,
    contexts: Float[Tensor, "b c 4 4"],
    targets: Float[Tensor, "b m 4 4"],
    side: int = 64,
    mask: Bool[Tensor, "b c"] | None = None,
) -> Bool[Tensor, "b m {side} {side}"]:
    """The target views' pixels that show a point of a surface which no context camera sees.

    It is outside of their images, turned away from them, or hidden behind something. A pixel with nothing but
    background is never unseen. mask: which contexts are there; default: all.

    The answer is about these scenes; or-ed over several `redraw_hidden` of them, it is about their fronts alone.
    """
    _check(scenes, contexts, side)
    _check(scenes, targets, side)
    all_solids = solids(scenes)
    s = surface(all_solids, *rays(targets, pixel_centres(side, side, targets)))
    point, normal = (v.flatten(1, 2)[:, None] for v in (s.point, s.normal))  # (B, 1, M P, 3)
    eye, _ = rays(contexts, contexts.new_zeros(1, 2))  # (B, C, 1, 3)
    uv, ahead = project(contexts, point)  # (B, C, M P, 2), (B, C, M P)
    inside = (ahead > 0) & ((uv > 0) & (uv < 1)).all(-1)
    to_eye = eye - point
    free = first(all_solids, point + OFF * normal, to_eye)[0] > 1  # to_eye ends at the camera
    seen = inside & free & ((normal * to_eye).sum(-1) > 0)
    if mask is not None:
        seen = seen & mask[..., None]
    hidden = (s.depth < torch.inf) & ~seen.any(1).view_as(s.depth)
    return hidden.view(*targets.shape[:2], side, side)


# --- reading a factor from a picture ----------------------------------------------------------------------------------


def guesses(
    scenes: Scenes, cameras: Float[Tensor, "b 1 4 4"], factor: str, places: int = 8, side: int = 64, antialias: int = 2
) -> tuple[Float[Tensor, "b a g 3 {side} {side}"], Bool[Tensor, "b {side} {side}"]]:
    """Pictures of every category of a factor, all else as in the scene, and the pixels that the factor can change.

    g: one picture for each of `places` draws (always the same) of what else is open about it, a body's kind, place and
    size or a decal's height, since a sample's need not be the scene's. Read at 180 degrees from the front.
    """
    if factor not in FACTORS:
        raise ValueError(f"unknown factor {factor!r}: choose one of {', '.join(FACTORS)}")
    _check(scenes, cameras, side, antialias)
    number, others = list(FACTORS).index(factor), scenes.repeat(places)
    drawn = _draw_hidden(others.to("cpu"), torch.Generator().manual_seed(0)).to(cameras.device)
    others = replace(others, rise=drawn.rise) if factor == "decal" else replace(drawn, rise=others.rise)
    pictures, every = [], cameras.repeat_interleave(places, 0)
    lots = torch.arange(len(every), device=every.device).split(64)  # of all at once, rays at 128 x 128 take 20 GB
    for category in range(len(FACTORS[factor])):
        labels = others.factor.clone()
        labels[:, number] = category
        shown = replace(others, factor=labels)
        picture = torch.cat([render(shown[lot], every[lot], side, antialias) for lot in lots])
        pictures.append(picture.view(len(scenes), places, 3, side, side))
    pictures = torch.stack(pictures, 1)
    return pictures, (pictures.amax((1, 2)) - pictures.amin((1, 2)) > 0.1).any(1)


def read(
    pictures: Float[Tensor, "b k 3 h w"], guess: Float[Tensor, "b a g 3 h w"], mask: Bool[Tensor, "b h w"]
) -> Int[Tensor, "b k"]:
    """The category that each of K pictures shows: that of the nearest guess, by squared error inside the mask."""
    x, y = ((p * mask[:, None, None, None]).flatten(3) for p in (pictures[:, None], guess))  # (B, 1 or A, K or G, N)
    distance = x.square().sum(-1)[..., None] + y.square().sum(-1)[:, :, None] - 2 * x @ y.transpose(-1, -2)
    return distance.amin(-1).argmin(1)  # (B, A, K, G) -> (B, A, K) -> (B, K)


# --- tuples for training ----------------------------------------------------------------------------------------------


def batches(
    size: int = 96,
    contexts: int = 1,
    pixels: int | None = None,
    side: int = 64,
    antialias: int = 2,
    empty: float = 0.0,
    device: torch.device | str = "cpu",
    compile: bool = False,
) -> Callable[[torch.Generator], dict]:
    """For fit(): fresh scenes seen from 1 to `contexts` cameras, a target and a novel one.

    The first camera stands in front, all others anywhere around.

    pixels: draws the numbers of so many pixels of each target and novel view, "at" and "novel_at", for the loss; only
        of those whose rays pass the scene's box, the others are known
    empty: the share of scenes whose context is dropped whole: a model that meets some of them can be guided, one that
        meets nothing else is unconditional
    Scenes and cameras are drawn on the CPU and traced on the device.
    """
    if size < 1 or contexts < 1 or not (pixels is None or 1 <= pixels <= side**2):
        raise ValueError(
            f"a batch needs at least one scene, one context and 1 to {side**2} pixels (or None: all), "
            f"got {size}, {contexts} and {pixels}"
        )
    if not 0 <= empty <= 1:
        raise ValueError(f"empty is a share of the scenes, from 0 to 1, got {empty}")
    draw = torch.compile(render) if compile else render
    box = torch.tensor([LOW, HIGH], device=device)

    def batch(generator: torch.Generator) -> dict:
        scenes = draw_scenes(size, generator)
        cameras = torch.cat([front_cameras(scenes, generator), draw_cameras(size, contexts + 1, generator)], 1)
        many = torch.randint(1, contexts + 1, (size, 1), generator=generator)
        gone = torch.arange(contexts) >= many
        if empty:
            gone = gone | (torch.rand(size, 1, generator=generator) < empty)
        gone, cameras = (to_device(x, device) for x in (gone, cameras))
        seen = Observations(draw(scenes.to(device), cameras, side, antialias), cameras)
        parts = {
            "context": seen.select(slice(contexts)).mask_out(gone),
            "target": seen.select(slice(contexts, contexts + 1)),
            "novel": seen.select(slice(contexts + 1, contexts + 2)),
        }
        if pixels is not None:
            shares = to_device(torch.rand(size, 2, pixels, generator=generator), device)
            parts["pixel_indices"], parts["novel_pixel_indices"] = _pixels(shares, cameras[:, contexts:], side, box).split(1, 1)
        return parts

    return batch
