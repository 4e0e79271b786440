"""Pictures of things that can move, for problems/motion: made here, with textures cut from real photographs.

A scene is a background with one to three sprites. Each shows what it *can* do: a pendulum hangs from its peg, a bead
sits on a rail, a disc has a ring that it can grow to, a wheel has spokes. What it *will* do is hidden: a sign (right
or left along the rail, larger or smaller, ...) and an amount. The colour of the sprite's badge tells how likely the
sign is, and nothing else does; the amount is uniform. So the distribution of motions given the still is known.

All motions are affine and linear in tau: the point x of a sprite goes to x + tau (A (x - anchor) + b), where A and b
follow from sign times amount.

The photographs are those that scikit-image's wheel carries (its data/README.txt names their sources and licences).
"""

import math
from dataclasses import dataclass, fields
from pathlib import Path

import skimage
import torch
from imageio.v3 import imread
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fwdiff_lite.observations import Observations
from fwdiff_lite.problems.motion.warping import N, bilinear, grid

SPRITES = 3  # at most, in a scene
KINDS = ("pendulum", "bead", "disc", "wheel")
CUES = {"white": 0.5, "orange": 0.8, "blue": 0.3}  # a badge's colour and the probability of a positive sign
COLOURS = torch.tensor([[0.95, 0.95, 0.95], [1.0, 0.1, -0.8], [-0.8, -0.1, 1.0]])  # of the badges, in [-1, 1]
CUE_SHARES = torch.tensor([0.5, 0.25, 0.25])  # how often each badge is worn
AMOUNTS = (0.5, 1.0)  # the amount of motion is uniform between these
SWING, SLIDE, GROW, TURN = 0.35, 5.5, 0.35, 0.55  # at amount 1: radians, pixels, relative size, radians
ROD = 16.0  # pixels from a pendulum's peg to its bob

TRAIN = (
    "astronaut.png brick.png camera.png clock_motion.png grass.png hubble_deep_field.jpg ihc.png moon.png "
    "motorcycle_left.png retina.jpg rocket.jpg"
).split()
HELD_OUT = "chelsea.png coffee.png coins.png gravel.png".split()

# --- textures ---------------------------------------------------------------------------------------------------------


def photograph(name: str) -> Float[Tensor, "3 h w"]:
    """One of the photographs in scikit-image's wheel, in [-1, 1]; grey ones in three equal channels."""
    image = torch.from_numpy(imread(Path(skimage.__file__).parent / "data" / name))
    image = image[..., None].expand(-1, -1, 3) if image.ndim == 2 else image[..., :3]
    return image.permute(2, 0, 1).float() / 127.5 - 1


def resized(image: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 64 64"]:
    """A square picture at the size of a frame."""
    return torch.nn.functional.interpolate(image[None], (N, N), mode="bilinear", antialias=True)[0]


def textures(names: list[str], count: int = 512, seed: int = 0) -> Float[Tensor, "count 3 64 64"]:
    """Square pieces of the photographs, of 64 to 256 of their pixels a side, turned, mirrored and brought to 64 x 64.

    Each has mean 0 and standard deviation 0.4 (clipped to [-1, 1]), so that no piece is blank.
    """
    generator = torch.Generator().manual_seed(seed)
    photographs, pieces = [photograph(name) for name in names], []
    while len(pieces) < count:
        image = photographs[len(pieces) % len(photographs)]
        side = int(torch.randint(N, min(256, *image.shape[1:]) + 1, (), generator=generator))
        top, left = (int(torch.randint(n - side + 1, (), generator=generator)) for n in image.shape[1:])
        piece = resized(image[:, top : top + side, left : left + side])
        turn, mirror = torch.randint(4, (2,), generator=generator).tolist()
        piece = torch.rot90(piece if mirror % 2 else piece.flip(2), turn, (1, 2))
        if piece.std() > 0.05:
            pieces.append(((piece - piece.mean()) / piece.std() * 0.4).clamp(-1, 1))
    return torch.stack(pieces)


# --- scenes -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scenes:
    """B scenes with SPRITES places each; all but the last two lines describe the still, and nothing tells the motion.

    kind: (B, 3) which of KINDS, -1: none; cue: (B, 3) which of CUES
    centre, radius, angle: (B, 3, 2), (B, 3), (B, 3) place and size in pixels; the direction of a bead's rail, how a
        disc or a wheel is turned
    texture, tint: (B, 3), (B, 3, 3) which texture, and a colour that is added to it
    background, ground: (B,), (B, 3) the same for what lies behind
    """

    kind: Int[Tensor, "b s"]
    cue: Int[Tensor, "b s"]
    centre: Float[Tensor, "b s 2"]
    radius: Float[Tensor, "b s"]
    angle: Float[Tensor, "b s"]
    texture: Int[Tensor, "b s"]
    tint: Float[Tensor, "b s 3"]
    background: Int[Tensor, "b"]
    ground: Float[Tensor, "b 3"]

    def __len__(self) -> int:
        return len(self.kind)

    def __getitem__(self, rows) -> "Scenes":
        return Scenes(*(getattr(self, field.name)[rows] for field in fields(self)))

    def to(self, device) -> "Scenes":
        return Scenes(*(getattr(self, field.name).to(device) for field in fields(self)))

    @property
    def there(self) -> Bool[Tensor, "b s"]:
        """Where there is a sprite."""
        return self.kind >= 0

    @property
    def probability(self) -> Float[Tensor, "b s"]:
        """Of a positive sign, given the still."""
        return torch.tensor(list(CUES.values()), device=self.cue.device)[self.cue]

    @property
    def favoured(self) -> Float[Tensor, "b s"]:
        """The likelier sign; at even odds, the positive one."""
        return torch.where(self.probability >= 0.5, 1.0, -1.0)

    @property
    def odds(self) -> Float[Tensor, "b s"]:
        """The probability of that sign."""
        return torch.maximum(self.probability, 1 - self.probability)

    def is_kind(self, name: str) -> Bool[Tensor, "b s"]:
        return self.kind == KINDS.index(name)


def draw_scenes(n: int, pieces: int, generator: torch.Generator) -> Scenes:
    """n scenes of 1 to SPRITES sprites, each in a quarter of the picture of its own; textures among `pieces`."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=generator)

    def integers(high: int, *shape: int) -> Tensor:
        return torch.randint(high, (n, *shape), generator=generator)

    kind = integers(len(KINDS), SPRITES)
    kind = torch.where(torch.arange(SPRITES) <= integers(SPRITES)[:, None], kind, -1)
    quarter = torch.rand(n, 4, generator=generator).argsort(1)[:, :SPRITES]
    centre = N / 4 - 0.5 + N / 2 * torch.stack([quarter % 2, quarter // 2], -1) + uniform(-2, 2, SPRITES, 2)
    low = torch.tensor([5.5, 6.0, 7.0, 8.0])[kind]
    radius = low + torch.tensor([1.5, 2.0, 2.0, 3.0])[kind] * uniform(0, 1, SPRITES)
    hangs = (kind == KINDS.index("pendulum"))[..., None]
    return Scenes(
        kind=kind,
        cue=torch.multinomial(CUE_SHARES, n * SPRITES, True, generator=generator).view(n, SPRITES),
        centre=torch.where(hangs, centre + torch.tensor([0.0, 4.0]), centre),
        radius=radius,
        angle=torch.where(hangs[..., 0], 0.0, uniform(-math.pi / 2, math.pi / 2, SPRITES)),
        texture=integers(pieces, SPRITES),
        tint=uniform(-0.5, 0.5, SPRITES, 3),
        background=integers(pieces),
        ground=uniform(-0.5, 0.5, 3),
    )


def join(parts: list[Scenes]) -> Scenes:
    """Several lots of scenes as one."""
    return Scenes(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Scenes)))


def draw_motions(scenes: Scenes, generator: torch.Generator) -> Float[Tensor, "b s"]:
    """Sign times amount of every sprite, from their true distribution given the still; 0 where there is none."""
    shape = scenes.kind.shape
    sign = torch.where(torch.rand(shape, generator=generator) < scenes.probability.cpu(), 1.0, -1.0)
    amount = AMOUNTS[0] + (AMOUNTS[1] - AMOUNTS[0]) * torch.rand(shape, generator=generator)
    return (sign * amount).to(scenes.kind.device) * scenes.there


def velocity(scenes: Scenes, motion: Float[Tensor, "b s"]) -> tuple[Tensor, Tensor, Tensor]:
    """anchor (B, 3, 2), A (B, 3, 2, 2), b (B, 3, 2): the point x of a sprite moves by tau (A (x - anchor) + b)."""
    rod = torch.tensor([0.0, ROD], device=motion.device)
    pendulum = scenes.is_kind("pendulum")
    anchor = torch.where(pendulum[..., None], scenes.centre - rod, scenes.centre)
    # right on the screen is a negative turn of what hangs; a positive turn is clockwise, as y points down
    turn = motion * (TURN * scenes.is_kind("wheel") - SWING * pendulum)
    eye = torch.eye(2, device=motion.device)
    grow = GROW * motion * scenes.is_kind("disc")
    A = rotation(turn) - eye + grow[..., None, None] * eye
    slide = SLIDE * motion * scenes.is_kind("bead")
    return anchor, A, slide[..., None] * rotation(scenes.angle)[..., 0]


def rotation(angle: Float[Tensor, "*b"]) -> Float[Tensor, "*b 2 2"]:
    """[[cos, -sin], [sin, cos]]."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)


# --- pictures ---------------------------------------------------------------------------------------------------------


def render(
    scenes: Scenes, motion: Float[Tensor, "b s"], tau: Float[Tensor, "b m"], bank: Float[Tensor, "n 3 64 64"]
) -> Float[Tensor, "b m 3 64 64"]:
    """The frames at times tau, in [-1, 1]; bank: the textures that the scenes' numbers mean."""
    b, m = tau.shape
    points = torch.stack(grid(N, N, tau), -1)  # (H, W, 2)
    anchor, A, shift = (x[:, None] for x in velocity(scenes, motion))  # each (B, 1, S, ...)
    frame_from_still = torch.eye(2, device=tau.device) + tau[..., None, None, None] * A  # (B, M, S, 2, 2)
    upright = rotation(-scenes.angle)
    back = upright[:, None] @ torch.linalg.inv(frame_from_still)  # from the frame to the sprite
    origin = (anchor + tau[..., None, None] * shift)[..., None, None, :]  # where the anchor is by now
    start = upright @ (anchor[:, 0] - scenes.centre)[..., None]
    # u: each pixel of the frame in the sprite's own coordinates, (B, M, S, H, W, 2)
    u = torch.einsum("bmsij,bmshwj->bmshwi", back, points - origin) + start[:, None, :, None, None, :, 0]
    cast = torch.einsum("bmsij,j->bmsi", back, torch.tensor([1.5, 2.5], device=tau.device))[..., None, None, :]

    frame = background(scenes, bank)[:, None].expand(b, m, 3, N, N)
    there = scenes.there[:, None, :, None, None]
    fixed, colour = fixtures(scenes, points)  # (B, S, H, W), (3,)
    body, shadow = distance(scenes, u), distance(scenes, u - cast)
    paint = surface(scenes, u, bank)  # (B, M, S, 3, H, W)
    for s in range(scenes.kind.shape[1]):
        here = there[:, :, s].float()
        for alpha, ink in (
            (fixed[:, None, s] * here, colour[:, None, None]),
            (0.45 * torch.sigmoid(-shadow[:, :, s] / 1.2) * here, frame.new_tensor(-1.0)),
            (inside(body[:, :, s]) * here, paint[:, :, s]),
        ):
            frame = frame + alpha[:, :, None] * (ink - frame)
    return frame


def inside(distance: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """How much of a pixel at this signed distance from an edge lies inside."""
    return (0.5 - distance).clamp(0, 1)


def background(scenes: Scenes, bank: Float[Tensor, "n 3 64 64"]) -> Float[Tensor, "b 3 h w"]:
    """What lies behind: a texture, out of focus and pale."""
    kernel = torch.exp(-torch.linspace(-2, 2, 9, device=bank.device).square() / 2)
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, 9)
    image = torch.nn.functional.pad(bank[scenes.background], (4, 4, 4, 4), mode="reflect")
    image = torch.nn.functional.conv2d(image, kernel, groups=3)
    image = torch.nn.functional.conv2d(image, kernel.transpose(2, 3), groups=3)
    return (0.6 * image + scenes.ground[:, :, None, None]).clamp(-1, 1)


def fixtures(scenes: Scenes, points: Float[Tensor, "h w 2"]) -> tuple[Float[Tensor, "b s h w"], Float[Tensor, "3"]]:
    """What shows the way and stands still: coverage and colour of peg, rail, or the ring that a disc can grow to."""
    away = points - scenes.centre[:, :, None, None]
    along, across = torch.einsum("bsij,bshwi->jbshw", rotation(scenes.angle), away)
    far, radius = away.norm(dim=-1), scenes.radius[..., None, None]
    peg = (away + torch.tensor([0.0, ROD], device=away.device)).norm(dim=-1) - 2
    end = radius + SLIDE + 1
    rail = torch.maximum(across.abs() - 0.9, along.abs() - end)
    ring = (far - (1 + GROW) * radius).abs() - 0.6
    out = torch.full_like(far, 1e3)
    for name, shape in (("pendulum", peg), ("bead", rail), ("disc", ring)):
        out = torch.where(scenes.is_kind(name)[..., None, None], shape, out)
    return inside(out), torch.tensor([-0.7, -0.7, -0.6], device=out.device)


def distance(scenes: Scenes, u: Float[Tensor, "b m s h w 2"]) -> Float[Tensor, "b m s h w"]:
    """Signed distance to a sprite's outline in its own coordinates, negative inside: a disc, a pendulum's rod too."""
    disc = u.norm(dim=-1) - scenes.radius[:, None, :, None, None]
    x, y = u.unbind(-1)
    rod = torch.maximum(x.abs() - 1.0, (y + ROD / 2).abs() - ROD / 2)
    return torch.where(scenes.is_kind("pendulum")[:, None, :, None, None], torch.minimum(disc, rod), disc)


def surface(scenes: Scenes, u: Float[Tensor, "b m s h w 2"], bank: Tensor) -> Float[Tensor, "b m s 3 h w"]:
    """A sprite's colours: its texture, a dark rim and rod, a wheel's spokes, a disc's inner ring, and the badge."""
    b, m, s = u.shape[:3]
    x, y = (u.transpose(1, 2).flatten(0, 1) + (N - 1) / 2).unbind(-1)  # (B S, M, H, W)
    paint = bilinear(bank[scenes.texture.flatten()], x, y)  # (B S, 3, M, H, W)
    paint = paint.unflatten(0, (b, s)).permute(0, 3, 1, 2, 4, 5)  # (B, M, S, 3, H, W)
    paint = (paint + scenes.tint[:, None, :, :, None, None]).clamp(-1, 1)
    far, radius = u.norm(dim=-1), scenes.radius[:, None, :, None, None]
    dark = inside((far - radius).abs() - 1.0) + inside(radius - far)
    turned = torch.atan2(u[..., 1], u[..., 0])
    spokes = inside(far * (1.5 * turned).sin().abs() / 1.5 - 0.9)  # three: no turn looks like the opposite one
    dark = torch.maximum(dark, spokes * scenes.is_kind("wheel")[:, None, :, None, None]).clamp(0, 1)
    light = inside((far - 0.62 * radius).abs() - 0.7) * scenes.is_kind("disc")[:, None, :, None, None]
    badge, rim = inside(far - 2.0), inside(far - 2.7)
    cue = COLOURS.to(bank.device)[scenes.cue][:, None, :, :, None, None]
    for alpha, ink in ((dark, -0.85), (light, 0.8), (rim, -0.9), (badge, cue)):
        paint = paint + alpha[:, :, :, None] * (ink - paint)
    return paint


# --- what a scene's motion truly is -----------------------------------------------------------------------------------


def owner(scenes: Scenes) -> Bool[Tensor, "b s h w"]:
    """Which pixels of the still belong to which sprite."""
    still = torch.zeros_like(scenes.radius)
    points = torch.stack(grid(N, N, still), -1)
    u = torch.einsum("bsji,bshwj->bshwi", rotation(scenes.angle), points - scenes.centre[:, :, None, None])
    return (distance(scenes, u[:, None])[:, 0] < 0) & scenes.there[..., None, None]


def true_field(scenes: Scenes, motion: Float[Tensor, "b s"]) -> Float[Tensor, "b 2 h w"]:
    """The displacement of every pixel of the still at tau = 1; zero off the sprites."""
    anchor, A, shift = (x[:, :, None, None] for x in velocity(scenes, motion))
    away = torch.stack(grid(N, N, motion), -1) - anchor
    field = torch.einsum("bshwij,bshwj->bshwi", A.expand(*away.shape, 2), away) + shift
    return (field * owner(scenes)[..., None]).sum(1).movedim(-1, 1)


# --- tuples for training and for examination --------------------------------------------------------------------------


def observe(
    scenes: Scenes, motion: Float[Tensor, "b s"], tau: Float[Tensor, "b m"], bank: Float[Tensor, "n 3 64 64"]
) -> Observations:
    """The frames at times tau as observations."""
    return Observations(render(scenes, motion, tau, bank), tau[..., None])


def batches(bank: Float[Tensor, "n 3 64 64"], size: int = 128, least: float = 0.25):
    """For fit(): stills of fresh scenes, one target frame each, one novel one, at any tau from `least` to 1.

    Scenes are drawn on the CPU and rendered where the textures are.
    """

    def batch(generator: torch.Generator) -> dict[str, Observations]:
        scenes = draw_scenes(size, len(bank), generator)
        motion = draw_motions(scenes, generator)
        tau = least + (1 - least) * torch.rand(size, 3, generator=generator)
        tau[:, 0] = 0
        seen = observe(scenes.to(bank.device), motion.to(bank.device), tau.to(bank.device), bank)
        return {"context": seen.select([0]), "target": seen.select([1]), "novel": seen.select([2])}

    return batch
