"""Synthetic scenes of objects that can move, for problems/motion, with textures cut from real photographs.

A scene is a background with one to three sprites. The source image shows how each sprite *can* move: a pendulum hangs
from its peg, a bead sits on a rail, a disc has a ring that marks its largest size, a wheel has spokes. How the sprite
*will* move is hidden: it is a signed amplitude. The sign is the direction (to the right or to the left along the rail,
larger or smaller, ...). The colour of the sprite's badge determines the probability of the sign; no other part of the
image depends on the sign. The absolute value is uniform. So the distribution of motions given the source image is
known.

All motions are affine in the position and linear in tau: the point x of a sprite moves to x + tau (A (x - anchor) + b),
where A and b follow from the signed amplitude.

The photographs are those in scikit-image's wheel (its data/README.txt names their sources and licences).
"""

import math
from dataclasses import dataclass, fields
from pathlib import Path

import skimage
import torch
from imageio.v3 import imread
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fwdiff_lite.checks import check_count, check_interval, check_last_sizes, check_shape, check_values_on_cpu
from fwdiff_lite.observations import Observations
from fwdiff_lite.problems.motion.warping import IMAGE_SIZE, bilinear_sample_xy, pixel_grid

MAX_SPRITES = 3  # in a scene
SPRITE_TYPES = ("pendulum", "bead", "disc", "wheel")
CUE_PROBABILITIES = {"white": 0.5, "orange": 0.8, "blue": 0.3}  # badge colour: probability of a positive sign
CUE_COLOURS = torch.tensor([[0.95, 0.95, 0.95], [1.0, 0.1, -0.8], [-0.8, -0.1, 1.0]])  # of the badges, in [-1, 1]
CUE_FREQUENCIES = torch.tensor([0.5, 0.25, 0.25])  # of the badge colours among sprites
AMPLITUDE_RANGE = (0.5, 1.0)  # the absolute value of an amplitude is uniform between these
SWING_ANGLE, SLIDE_DISTANCE = 0.35, 5.5  # at amplitude 1: of a pendulum in radians, of a bead in pixels
GROWTH, TURN_ANGLE = 0.35, 0.55  # at amplitude 1: relative size of a disc, angle of a wheel in radians
ROD_LENGTH = 16.0  # pixels from a pendulum's peg to its bob

TRAIN_PHOTOGRAPHS = (
    "astronaut.png brick.png camera.png clock_motion.png grass.png hubble_deep_field.jpg ihc.png moon.png "
    "motorcycle_left.png retina.jpg rocket.jpg"
).split()
TEST_PHOTOGRAPHS = "chelsea.png coffee.png coins.png gravel.png".split()

# --- textures ---------------------------------------------------------------------------------------------------------


def load_photograph(name: str) -> Float[Tensor, "3 h w"]:
    """A photograph of scikit-image's wheel, in [-1, 1]; a grey one gets three equal channels.

    ValueError if there is no photograph of this name.
    """
    path = Path(skimage.__file__).parent / "data" / name
    if not path.is_file():
        raise ValueError(f"unknown photograph {name!r}: choose one of {', '.join(TRAIN_PHOTOGRAPHS[:3])}, ...")
    image = torch.from_numpy(imread(path))
    image = image[..., None].expand(-1, -1, 3) if image.ndim == 2 else image[..., :3]
    return image.permute(2, 0, 1).float() / 127.5 - 1


def resize(image: Float[Tensor, "3 h w"]) -> Float[Tensor, "3 64 64"]:
    """A square image at the size of a frame."""
    return torch.nn.functional.interpolate(image[None], (IMAGE_SIZE, IMAGE_SIZE), mode="bilinear", antialias=True)[0]


def make_textures(names: list[str], count: int = 512, seed: int = 0) -> Float[Tensor, "count 3 64 64"]:
    """Random square crops of the photographs, 64 to 256 pixels a side, rotated, mirrored and resized to 64 x 64.

    Each has mean 0 and standard deviation 0.4, and is clipped to [-1, 1]. Crops with little contrast are rejected.
    """
    check_count(count=count)
    if not names:
        raise ValueError("got no name of a photograph, wanted at least one")
    generator = torch.Generator().manual_seed(seed)
    photographs, crops = [load_photograph(name) for name in names], []
    while len(crops) < count:
        image = photographs[len(crops) % len(photographs)]
        side = int(torch.randint(IMAGE_SIZE, min(256, *image.shape[1:]) + 1, (), generator=generator))
        top, left = (int(torch.randint(n - side + 1, (), generator=generator)) for n in image.shape[1:])
        crop = resize(image[:, top : top + side, left : left + side])
        quarter_turns, mirror = torch.randint(4, (2,), generator=generator).tolist()
        crop = torch.rot90(crop if mirror % 2 else crop.flip(2), quarter_turns, (1, 2))
        if crop.std() > 0.05:
            crops.append(((crop - crop.mean()) / crop.std() * 0.4).clamp(-1, 1))
    return torch.stack(crops)


# --- scenes -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scenes:
    """B scenes of S = MAX_SPRITES sprites. The fields describe the source image, not the motion.

    sprite_type:      (B, S) index into SPRITE_TYPES; -1: this sprite is absent
    cue:              (B, S) index into CUE_PROBABILITIES, the colour of the badge
    centre, radius:   (B, S, 2), (B, S) in pixels
    angle:            (B, S) the direction of a bead's rail; the orientation of a disc or a wheel
    texture_index:    (B, S)
    tint:             (B, S, 3) a colour that is added to the texture
    background_index: (B,) the texture of the background
    background_tint:  (B, 3)
    """

    sprite_type: Int[Tensor, "b s"]
    cue: Int[Tensor, "b s"]
    centre: Float[Tensor, "b s 2"]
    radius: Float[Tensor, "b s"]
    angle: Float[Tensor, "b s"]
    texture_index: Int[Tensor, "b s"]
    tint: Float[Tensor, "b s 3"]
    background_index: Int[Tensor, "b"]
    background_tint: Float[Tensor, "b 3"]

    def __len__(self) -> int:
        return len(self.sprite_type)

    def __getitem__(self, rows) -> "Scenes":
        return Scenes(*(getattr(self, field.name)[rows] for field in fields(self)))

    def to(self, device) -> "Scenes":
        return Scenes(*(getattr(self, field.name).to(device) for field in fields(self)))

    @property
    def present_mask(self) -> Bool[Tensor, "b s"]:
        """True for the sprites that the scene has."""
        return self.sprite_type >= 0

    @property
    def positive_probability(self) -> Float[Tensor, "b s"]:
        """The probability of a positive sign, given the source image."""
        return torch.tensor(list(CUE_PROBABILITIES.values()), device=self.cue.device)[self.cue]

    @property
    def mode_sign(self) -> Float[Tensor, "b s"]:
        """The more probable sign; at equal probabilities, the positive one."""
        return torch.where(self.positive_probability >= 0.5, 1.0, -1.0)

    @property
    def mode_probability(self) -> Float[Tensor, "b s"]:
        """The probability of the mode sign."""
        return torch.maximum(self.positive_probability, 1 - self.positive_probability)

    def is_type(self, name: str) -> Bool[Tensor, "b s"]:
        """True for the sprites of this type."""
        return self.sprite_type == SPRITE_TYPES.index(name)


def sample_scenes(count: int, num_textures: int, generator: torch.Generator) -> Scenes:
    """Random scenes of 1 to MAX_SPRITES sprites, each in its own quadrant of the image.

    num_textures: the number of textures to choose from

    ValueError if a number is below 1.
    """
    check_count(count=count, num_textures=num_textures)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    def integers(high: int, *shape: int) -> Tensor:
        return torch.randint(high, (count, *shape), generator=generator)

    sprite_type = integers(len(SPRITE_TYPES), MAX_SPRITES)
    sprite_type = torch.where(torch.arange(MAX_SPRITES) <= integers(MAX_SPRITES)[:, None], sprite_type, -1)
    quadrant = torch.rand(count, 4, generator=generator).argsort(1)[:, :MAX_SPRITES]
    quadrant_centre = IMAGE_SIZE / 4 - 0.5 + IMAGE_SIZE / 2 * torch.stack([quadrant % 2, quadrant // 2], -1)
    centre = quadrant_centre + uniform(-2, 2, MAX_SPRITES, 2)
    min_radius = torch.tensor([5.5, 6.0, 7.0, 8.0])[sprite_type]
    radius = min_radius + torch.tensor([1.5, 2.0, 2.0, 3.0])[sprite_type] * uniform(0, 1, MAX_SPRITES)
    pendulum = (sprite_type == SPRITE_TYPES.index("pendulum"))[..., None]
    return Scenes(
        sprite_type=sprite_type,
        cue=torch.multinomial(CUE_FREQUENCIES, count * MAX_SPRITES, True, generator=generator).view(count, MAX_SPRITES),
        centre=torch.where(pendulum, centre + torch.tensor([0.0, 4.0]), centre),
        radius=radius,
        angle=torch.where(pendulum[..., 0], 0.0, uniform(-math.pi / 2, math.pi / 2, MAX_SPRITES)),
        texture_index=integers(num_textures, MAX_SPRITES),
        tint=uniform(-0.5, 0.5, MAX_SPRITES, 3),
        background_index=integers(num_textures),
        background_tint=uniform(-0.5, 0.5, 3),
    )


def concatenate_scenes(parts: list[Scenes]) -> Scenes:
    """The scenes of all parts, in their order."""
    if not parts:
        raise ValueError("got no scenes, wanted at least one part")
    return Scenes(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Scenes)))


def sample_amplitudes(scenes: Scenes, generator: torch.Generator) -> Float[Tensor, "b s"]:
    """The signed amplitude of every sprite, from its true distribution given the source image; 0 for absent sprites."""
    shape = scenes.sprite_type.shape
    sign = torch.where(torch.rand(shape, generator=generator) < scenes.positive_probability.cpu(), 1.0, -1.0)
    low, high = AMPLITUDE_RANGE
    magnitude = low + (high - low) * torch.rand(shape, generator=generator)
    return (sign * magnitude).to(scenes.sprite_type.device) * scenes.present_mask


def affine_velocity(scenes: Scenes, amplitudes: Float[Tensor, "b s"]) -> tuple[Tensor, Tensor, Tensor]:
    """anchor (B, S, 2), A (B, S, 2, 2), b (B, S, 2): the point x of a sprite moves by tau (A (x - anchor) + b)."""
    rod = torch.tensor([0.0, ROD_LENGTH], device=amplitudes.device)
    pendulum = scenes.is_type("pendulum")
    anchor = torch.where(pendulum[..., None], scenes.centre - rod, scenes.centre)
    # y points down, so a positive angle is clockwise; a bob that hangs swings to the right by a negative angle
    angle = amplitudes * (TURN_ANGLE * scenes.is_type("wheel") - SWING_ANGLE * pendulum)
    identity = torch.eye(2, device=amplitudes.device)
    growth = GROWTH * amplitudes * scenes.is_type("disc")
    A = rotation_matrix(angle) - identity + growth[..., None, None] * identity
    slide = SLIDE_DISTANCE * amplitudes * scenes.is_type("bead")
    return anchor, A, slide[..., None] * rotation_matrix(scenes.angle)[..., 0]


def rotation_matrix(angle: Float[Tensor, "*b"]) -> Float[Tensor, "*b 2 2"]:
    """[[cos, -sin], [sin, cos]]."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)


# --- rendering --------------------------------------------------------------------------------------------------------


def render(
    scenes: Scenes, amplitudes: Float[Tensor, "b s"], tau: Float[Tensor, "b m"], textures: Float[Tensor, "n 3 64 64"]
) -> Float[Tensor, "b m 3 64 64"]:
    """The frames at times tau, in [-1, 1]; textures: those that the scenes' indices refer to.

    ValueError if the amplitudes or the times are not those of B scenes, or a texture is missing.
    """
    check_shape("amplitudes", amplitudes, scenes.sprite_type.shape, sprite_type=scenes.sprite_type)
    if tau.ndim != 2 or len(tau) != len(scenes):
        raise ValueError(f"tau has shape {tuple(tau.shape)}, wanted ({len(scenes)}, M): M times for each scene")
    check_last_sizes("textures", textures, 3, IMAGE_SIZE, IMAGE_SIZE)
    last = torch.maximum(scenes.texture_index.amax(1), scenes.background_index)
    check_values_on_cpu(lambda: last >= len(textures), f"a scene needs more than the {len(textures)} textures given")
    b, m = tau.shape
    points = torch.stack(pixel_grid(IMAGE_SIZE, IMAGE_SIZE, tau), -1)  # (H, W, 2)
    anchor, A, velocity = (x[:, None] for x in affine_velocity(scenes, amplitudes))  # each (B, 1, S, ...)
    frame_from_source = torch.eye(2, device=tau.device) + tau[..., None, None, None] * A  # (B, M, S, 2, 2)
    sprite_from_source = rotation_matrix(-scenes.angle)
    sprite_from_frame = sprite_from_source[:, None] @ torch.linalg.inv(frame_from_source)
    anchor_in_frame = (anchor + tau[..., None, None] * velocity)[..., None, None, :]
    anchor_in_sprite = sprite_from_source @ (anchor[:, 0] - scenes.centre)[..., None]
    # u: each pixel of the frame in the sprite's own coordinates, (B, M, S, H, W, 2)
    u = torch.einsum("bmsij,bmshwj->bmshwi", sprite_from_frame, points - anchor_in_frame)
    u = u + anchor_in_sprite[:, None, :, None, None, :, 0]
    shadow_shift = torch.tensor([1.5, 2.5], device=tau.device)
    shadow_shift = torch.einsum("bmsij,j->bmsi", sprite_from_frame, shadow_shift)[..., None, None, :]

    frame = render_background(scenes, textures)[:, None].expand(b, m, 3, IMAGE_SIZE, IMAGE_SIZE)
    present_mask = scenes.present_mask[:, None, :, None, None]
    fixture_alpha, fixture_colour = render_fixtures(scenes, points)  # (B, S, H, W), (3,)
    body_distance, shadow_distance = signed_distance(scenes, u), signed_distance(scenes, u - shadow_shift)
    body_colour = sprite_colour(scenes, u, textures)  # (B, M, S, 3, H, W)
    for s in range(scenes.sprite_type.shape[1]):
        present = present_mask[:, :, s].float()
        for alpha, colour in (
            (fixture_alpha[:, None, s] * present, fixture_colour[:, None, None]),
            (0.45 * torch.sigmoid(-shadow_distance[:, :, s] / 1.2) * present, frame.new_tensor(-1.0)),
            (coverage_from_distance(body_distance[:, :, s]) * present, body_colour[:, :, s]),
        ):
            frame = frame + alpha[:, :, None] * (colour - frame)
    return frame


def coverage_from_distance(distance: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
    """The part of a pixel that lies inside a shape, given the pixel's signed distance from the shape's edge."""
    return (0.5 - distance).clamp(0, 1)


def render_background(scenes: Scenes, textures: Float[Tensor, "n 3 64 64"]) -> Float[Tensor, "b 3 h w"]:
    """A blurred texture of low contrast."""
    kernel = torch.exp(-torch.linspace(-2, 2, 9, device=textures.device).square() / 2)
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, 9)
    image = torch.nn.functional.pad(textures[scenes.background_index], (4, 4, 4, 4), mode="reflect")
    image = torch.nn.functional.conv2d(image, kernel, groups=3)
    image = torch.nn.functional.conv2d(image, kernel.transpose(2, 3), groups=3)
    return (0.6 * image + scenes.background_tint[:, :, None, None]).clamp(-1, 1)


def render_fixtures(
    scenes: Scenes, points: Float[Tensor, "h w 2"]
) -> tuple[Float[Tensor, "b s h w"], Float[Tensor, "3"]]:
    """Coverage and colour of the fixed parts that show how a sprite can move.

    They are a pendulum's peg, a bead's rail, and the ring that marks a disc's largest size.
    """
    offset = points - scenes.centre[:, :, None, None]
    along_rail, off_rail = torch.einsum("bsij,bshwi->jbshw", rotation_matrix(scenes.angle), offset)
    distance, radius = offset.norm(dim=-1), scenes.radius[..., None, None]
    peg = (offset + torch.tensor([0.0, ROD_LENGTH], device=offset.device)).norm(dim=-1) - 2
    rail_end = radius + SLIDE_DISTANCE + 1
    rail = torch.maximum(off_rail.abs() - 0.9, along_rail.abs() - rail_end)
    ring = (distance - (1 + GROWTH) * radius).abs() - 0.6
    fixture_distance = torch.full_like(distance, 1e3)
    for name, shape_distance in (("pendulum", peg), ("bead", rail), ("disc", ring)):
        fixture_distance = torch.where(scenes.is_type(name)[..., None, None], shape_distance, fixture_distance)
    return coverage_from_distance(fixture_distance), torch.tensor([-0.7, -0.7, -0.6], device=fixture_distance.device)


def signed_distance(scenes: Scenes, u: Float[Tensor, "b m s h w 2"]) -> Float[Tensor, "b m s h w"]:
    """Signed distance of points u, in the sprite's coordinates, from the sprite's outline; negative inside.

    The outline is a disc; a pendulum's includes its rod.
    """
    disc = u.norm(dim=-1) - scenes.radius[:, None, :, None, None]
    x, y = u.unbind(-1)
    rod = torch.maximum(x.abs() - 1.0, (y + ROD_LENGTH / 2).abs() - ROD_LENGTH / 2)
    return torch.where(scenes.is_type("pendulum")[:, None, :, None, None], torch.minimum(disc, rod), disc)


def sprite_colour(scenes: Scenes, u: Float[Tensor, "b m s h w 2"], textures: Tensor) -> Float[Tensor, "b m s 3 h w"]:
    """A sprite's colour at points u: texture, dark rim and rod, a wheel's spokes, a disc's inner ring, the badge."""
    b, m, s = u.shape[:3]
    x, y = (u.transpose(1, 2).flatten(0, 1) + (IMAGE_SIZE - 1) / 2).unbind(-1)  # (B S, M, H, W)
    colour = bilinear_sample_xy(textures[scenes.texture_index.flatten()], x, y)  # (B S, 3, M, H, W)
    colour = colour.unflatten(0, (b, s)).permute(0, 3, 1, 2, 4, 5)  # (B, M, S, 3, H, W)
    colour = (colour + scenes.tint[:, None, :, :, None, None]).clamp(-1, 1)
    distance, radius = u.norm(dim=-1), scenes.radius[:, None, :, None, None]
    dark_alpha = coverage_from_distance((distance - radius).abs() - 1.0) + coverage_from_distance(radius - distance)
    polar_angle = torch.atan2(u[..., 1], u[..., 0])
    # three spokes: the wheels of two opposite turns never have the same image
    spokes = coverage_from_distance(distance * (1.5 * polar_angle).sin().abs() / 1.5 - 0.9)
    dark_alpha = torch.maximum(dark_alpha, spokes * scenes.is_type("wheel")[:, None, :, None, None]).clamp(0, 1)
    inner_ring = coverage_from_distance((distance - 0.62 * radius).abs() - 0.7)
    light_alpha = inner_ring * scenes.is_type("disc")[:, None, :, None, None]
    badge_alpha, rim_alpha = coverage_from_distance(distance - 2.0), coverage_from_distance(distance - 2.7)
    badge_colour = CUE_COLOURS.to(textures.device)[scenes.cue][:, None, :, :, None, None]
    for alpha, layer in ((dark_alpha, -0.85), (light_alpha, 0.8), (rim_alpha, -0.9), (badge_alpha, badge_colour)):
        colour = colour + alpha[:, :, :, None] * (layer - colour)
    return colour


# --- the true motion of a scene ---------------------------------------------------------------------------------------


def sprite_masks(scenes: Scenes) -> Bool[Tensor, "b s h w"]:
    """The pixels of each sprite in the source image."""
    like = torch.zeros_like(scenes.radius)
    points = torch.stack(pixel_grid(IMAGE_SIZE, IMAGE_SIZE, like), -1)
    offset = points - scenes.centre[:, :, None, None]
    u = torch.einsum("bsji,bshwj->bshwi", rotation_matrix(scenes.angle), offset)
    return (signed_distance(scenes, u[:, None])[:, 0] < 0) & scenes.present_mask[..., None, None]


def true_displacement(scenes: Scenes, amplitudes: Float[Tensor, "b s"]) -> Float[Tensor, "b 2 h w"]:
    """The displacement of every pixel of the source image at tau = 1; zero outside of the sprites."""
    anchor, A, velocity = (x[:, :, None, None] for x in affine_velocity(scenes, amplitudes))
    offset = torch.stack(pixel_grid(IMAGE_SIZE, IMAGE_SIZE, amplitudes), -1) - anchor
    displacement = torch.einsum("bshwij,bshwj->bshwi", A.expand(*offset.shape, 2), offset) + velocity
    return (displacement * sprite_masks(scenes)[..., None]).sum(1).movedim(-1, 1)


# --- observations and training batches --------------------------------------------------------------------------------


def batches(textures: Float[Tensor, "n 3 64 64"], batch_size: int = 128, min_tau: float = 0.25):
    """A batch function for fit(): new random scenes, of each the source image, one target frame and one novel frame.

    The times of target and novel frame are uniform between `min_tau` and 1. Scenes are drawn on the CPU and rendered on
    the device of the textures.

    ValueError if a number or a shape is wrong.
    """
    check_count(batch_size=batch_size)
    check_last_sizes("textures", textures, 3, IMAGE_SIZE, IMAGE_SIZE)
    check_interval(0, 1, min_tau=min_tau)

    def batch(generator: torch.Generator) -> dict[str, Observations]:
        scenes = sample_scenes(batch_size, len(textures), generator)
        amplitudes = sample_amplitudes(scenes, generator)
        tau = min_tau + (1 - min_tau) * torch.rand(batch_size, 3, generator=generator)
        tau[:, 0] = 0
        device = textures.device
        frames = render(scenes.to(device), amplitudes.to(device), tau.to(device), textures)
        views = Observations(frames, tau[..., None].to(device))
        return {"context": views.select([0]), "target": views.select([1]), "novel": views.select([2])}

    return batch
