"""Cartoon portraits drawn by a program, with known attributes and known probabilities of these attributes.

A portrait has ten categorical *attributes* (ATTRIBUTES). They are sampled one after another; some depend on others
(CONDITIONAL_PROBABILITIES): people with grey hair wear glasses more often, and beards and earrings depend on the hair
style. *Nuisance parameters* (NUISANCE_RANGES) such as sizes, positions, hues and the light are sampled too, and are
independent of the attributes. The posterior given a crop is in `portrait_posterior`.

A portrait is painted back to front from shapes with known signed distance functions. The share of a pixel that a shape
covers is that distance in pixels, clipped (`Canvas.coverage`). Coordinates: x to the right and y down; the visible
square reaches CANVAS_HALF_WIDTH to each side of its centre.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from fwdiff_lite.colours import hsv_to_rgb
from fwdiff_lite.observations import to_device

ATTRIBUTES = {
    "skin": ("porcelain", "peach", "olive", "brown", "dark"),
    "hair": ("black", "brown", "blond", "red", "grey"),
    "style": ("bald", "short", "long", "curly"),
    "eyes": ("brown", "blue", "green"),
    "brows": ("thin", "thick"),
    "mouth": ("straight", "smiling"),
    "glasses": ("none", "glasses"),
    "beard": ("none", "beard"),
    "hat": ("none", "hat"),
    "earrings": ("none", "earrings"),
}
ATTRIBUTE_NAMES = tuple(ATTRIBUTES)
# For each attribute: (its parents, probabilities of its categories with one leading axis for each parent)
CONDITIONAL_PROBABILITIES: dict[str, tuple[tuple[str, ...], list]] = {
    "skin": ((), [0.15, 0.30, 0.20, 0.20, 0.15]),
    "hair": ((), [0.30, 0.25, 0.15, 0.10, 0.20]),
    "style": ((), [0.10, 0.40, 0.30, 0.20]),
    "eyes": ((), [0.55, 0.30, 0.15]),
    "brows": ((), [0.65, 0.35]),
    "mouth": ((), [0.40, 0.60]),
    "glasses": (("hair",), [[0.80, 0.20]] * 4 + [[0.30, 0.70]]),
    "beard": (("style",), [[0.35, 0.65], [0.60, 0.40], [0.95, 0.05], [0.80, 0.20]]),
    "hat": ((), [0.75, 0.25]),
    "earrings": (("style",), [[0.80, 0.20], [0.95, 0.05], [0.40, 0.60], [0.65, 0.35]]),
}
NUISANCE_RANGES = {  # each nuisance parameter is uniform in its range
    "head_width": (0.40, 0.47),  # half of it
    "head_height": (0.54, 0.60),  # half of it
    "eye_distance": (0.17, 0.21),  # of each eye from the vertical axis
    "eye_width": (0.090, 0.110),  # half of it
    "nose_length": (0.13, 0.19),
    "mouth_width": (0.13, 0.19),  # half of it
    "mouth_offset": (0.28, 0.33),  # of the mouth below the head's centre
    "background_hue": (0.0, 1.0),
    "shirt_hue": (0.0, 1.0),
    "hat_hue": (0.0, 1.0),
    "light": (-1.0, 1.0),  # the side that the light comes from: left to right
}
SKIN_COLOURS = torch.tensor(
    [[0.98, 0.87, 0.79], [0.95, 0.76, 0.62], [0.80, 0.62, 0.44], [0.58, 0.39, 0.27], [0.38, 0.25, 0.18]]
)
HAIR_COLOURS = torch.tensor(
    [[0.10, 0.09, 0.10], [0.37, 0.22, 0.12], [0.90, 0.75, 0.38], [0.72, 0.28, 0.10], [0.72, 0.73, 0.76]]
)
EYE_COLOURS = torch.tensor([[0.35, 0.20, 0.10], [0.25, 0.50, 0.85], [0.25, 0.55, 0.30]])
BLACK, WHITE, GOLD, LIP_RED = ((0.12, 0.12, 0.15), (0.97, 0.97, 0.97), (0.95, 0.78, 0.20), (0.72, 0.22, 0.25))
CANVAS_HALF_WIDTH = 0.86  # half of the visible square's side
HEAD_Y = 0.02  # of the head's centre, below the image's centre
BROW_OFFSET, EYE_OFFSET = -0.22, -0.04  # below the head's centre

# --- portraits --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Portraits:
    """B portraits: the index of each attribute's category (in ATTRIBUTE_NAMES' order), and the nuisance parameters."""

    attributes: Int[Tensor, "b a"]
    nuisance: Float[Tensor, "b s"]

    def __len__(self) -> int:
        return len(self.attributes)

    def __getitem__(self, rows) -> Portraits:
        return Portraits(self.attributes[rows], self.nuisance[rows])

    def to(self, device) -> Portraits:
        return Portraits(to_device(self.attributes, device), to_device(self.nuisance, device))

    def attribute(self, name: str) -> Int[Tensor, "b"]:
        """The category of one attribute. ValueError on an unknown name."""
        return self.attributes[:, _attribute_index(name)]

    def with_attribute(self, name: str, category: int) -> Portraits:
        """The same portraits with another category of one attribute. ValueError on an unknown name."""
        attributes = self.attributes.clone()
        attributes[:, _attribute_index(name)] = category
        return Portraits(attributes, self.nuisance)


def _attribute_index(name: str) -> int:
    if name not in ATTRIBUTES:
        raise ValueError(f"unknown attribute {name!r}: choose one of {', '.join(ATTRIBUTE_NAMES)}")
    return ATTRIBUTE_NAMES.index(name)


def sample_portraits(n: int, generator: torch.Generator) -> Portraits:
    """n portraits, on the CPU."""
    attributes = torch.zeros(n, len(ATTRIBUTE_NAMES), dtype=torch.long)
    for i, name in enumerate(ATTRIBUTE_NAMES):
        parents, probabilities = CONDITIONAL_PROBABILITIES[name]
        parent_categories = tuple(attributes[:, ATTRIBUTE_NAMES.index(parent)] for parent in parents)
        p = torch.tensor(probabilities)[parent_categories].expand(n, -1)
        attributes[:, i] = torch.multinomial(p, 1, generator=generator)[:, 0] if n else 0
    low, high = torch.tensor(list(NUISANCE_RANGES.values())).T
    return Portraits(attributes, low + (high - low) * torch.rand(n, len(NUISANCE_RANGES), generator=generator))


def attribute_frequencies(attributes: Int[Tensor, "b a"]) -> list[Float[Tensor, "k"]]:
    """For each attribute, the frequency of each of its categories."""
    num_categories = [len(categories) for categories in ATTRIBUTES.values()]
    columns = zip(attributes.T, num_categories, strict=True)
    return [torch.bincount(column, minlength=k) / len(attributes) for column, k in columns]


# --- rendering --------------------------------------------------------------------------------------------------------


class Canvas:
    """B images (B, 3, side, side) in [0, 1] to paint shapes on; a shape is a signed distance (B, side, side)."""

    def __init__(self, colour: Float[Tensor, "b 3"], side: int):
        self.images = colour[:, :, None, None].expand(-1, -1, side, side)
        self.pixel_size = 2 * CANVAS_HALF_WIDTH / side
        centres = (torch.arange(side, device=colour.device) + 0.5) * self.pixel_size - CANVAS_HALF_WIDTH
        self.y, self.x = (v[None] for v in torch.meshgrid(centres, centres, indexing="ij"))

    def coverage(self, distance: Float[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
        """The share of each pixel that a shape covers, from the signed distance of the pixel's centre (inside: < 0)."""
        return (0.5 - distance / self.pixel_size).clamp(0, 1)

    def paint(
        self,
        distance: Float[Tensor, "#b h w"],
        colour: tuple | Float[Tensor, "b 3"],
        where: Bool[Tensor, "b"] | None = None,
        opacity: float = 1.0,
        shade: Float[Tensor, "b h w"] | None = None,
    ) -> None:
        """Paints a shape in one colour.

        where: paint on these images only; shade: a factor of the colour at each pixel
        """
        alpha = opacity * self.coverage(distance)
        if where is not None:
            alpha = alpha * where[:, None, None]
        colour = torch.as_tensor(colour).to(self.images)
        colour = colour.view(-1, 3, 1, 1) * (1.0 if shade is None else shade[:, None])
        self.images = self.images + alpha[:, None] * (colour - self.images)

    def ellipse(self, x, y, width, height) -> Float[Tensor, "b h w"]:
        """The signed distance of an ellipse of half axes `width` and `height`: exact for a circle, else approximate."""
        u, v = (self.x - x) / width, (self.y - y) / height
        min_radius = torch.minimum(torch.as_tensor(width), torch.as_tensor(height))
        return ((u.square() + v.square()).clamp(min=1e-9).sqrt() - 1) * min_radius

    def stroke(self, x0, y0, x1, y1, thickness) -> Float[Tensor, "b h w"]:
        """The signed distance of a line segment between two points, `thickness` wide, with round ends."""
        dx, dy = x1 - x0, y1 - y0
        position = (((self.x - x0) * dx + (self.y - y0) * dy) / (dx * dx + dy * dy)).clamp(0, 1)
        return torch.hypot(self.x - x0 - position * dx, self.y - y0 - position * dy) - thickness / 2

    def arc(self, y, width, bend, thickness) -> Float[Tensor, "b h w"]:
        """The approximate signed distance of a parabolic arc around x = 0, `bend` lower there than at its two ends."""
        position = (self.x / width).clamp(-1, 1)
        height = y + bend * (1 - position.square())
        slope = (1 + (2 * bend * position / width).square()).sqrt()
        return torch.hypot((self.y - height) / slope, (self.x.abs() - width).clamp(min=0)) - thickness / 2


class Painter:
    """Paints B portraits from back to front. A method paints one part of them, so their order counts."""

    def __init__(self, portraits: Portraits, side: int):
        self.nuisance = dict(zip(NUISANCE_RANGES, portraits.nuisance[:, :, None, None].unbind(1), strict=True))
        self.hue = {name: self.nuisance[f"{name}_hue"][:, 0, 0] for name in ("background", "shirt", "hat")}
        binary = [name for name, categories in ATTRIBUTES.items() if len(categories) == 2]
        self.has = {name: portraits.attribute(name) == 1 for name in binary}
        self.style = {name: portraits.attribute("style") == i for i, name in enumerate(ATTRIBUTES["style"])}
        self.skin, self.hair, self.iris = (
            palette.to(portraits.nuisance)[portraits.attribute(name)]
            for palette, name in ((SKIN_COLOURS, "skin"), (HAIR_COLOURS, "hair"), (EYE_COLOURS, "eyes"))
        )
        self.width, self.height = self.nuisance["head_width"], self.nuisance["head_height"]  # (B, 1, 1) each
        self.canvas = Canvas(hsv_to_rgb(self.hue["background"], 0.25, 0.92), side)

    def paint_behind_head(self) -> None:
        """Long or curly hair, the shirt and the neck."""
        canvas, width, height = self.canvas, self.width, self.height
        canvas.paint(canvas.ellipse(0.0, HEAD_Y + 0.12, width + 0.17, height + 0.20), self.hair, self.style["long"])
        for angle in torch.linspace(-0.5, math.pi + 0.5, 9).tolist():
            curl = canvas.ellipse(
                math.cos(angle) * (width + 0.02), HEAD_Y - 0.08 - math.sin(angle) * (height - 0.06), *2 * (0.17,)
            )
            canvas.paint(curl, self.hair, self.style["curly"])
        canvas.paint(canvas.ellipse(0.0, 1.15, 0.80, 0.45), hsv_to_rgb(self.hue["shirt"], 0.55, 0.75))
        canvas.paint(canvas.stroke(0.0, 0.45, 0.0, 0.78, 0.34), 0.86 * self.skin)

    def paint_head(self) -> None:
        """The head with ears, earrings, beard, mouth and nose, lit from one side."""
        canvas, width, nuisance, has, x = self.canvas, self.width, self.nuisance, self.has, self.canvas.x
        head = canvas.ellipse(0.0, HEAD_Y, width, self.height)
        shade = 0.93 + 0.13 * (nuisance["light"] * x / width).clamp(-1, 1)
        for side_sign in (-1, 1):
            canvas.paint(canvas.ellipse(side_sign * width, HEAD_Y, 0.07, 0.11), self.skin, shade=shade)
            earring = canvas.ellipse(side_sign * (width + 0.02), HEAD_Y + 0.17, 0.058, 0.058)
            canvas.paint(earring, GOLD, has["earrings"])
        canvas.paint(head, self.skin, shade=shade)

        mouth_y, mouth_width = HEAD_Y + nuisance["mouth_offset"], nuisance["mouth_width"]
        jaw = HEAD_Y + 0.12 + 0.35 * (x.abs() / width).square()  # the upper edge of a beard
        canvas.paint(torch.maximum(head, jaw - canvas.y), self.hair, has["beard"], shade=shade)
        canvas.paint(canvas.ellipse(0.0, mouth_y, mouth_width + 0.05, 0.085), self.skin, has["beard"], shade=shade)
        canvas.paint(canvas.arc(mouth_y - 0.04, mouth_width, 0.09, 0.055), LIP_RED, has["mouth"])
        canvas.paint(canvas.arc(mouth_y, mouth_width, 0.0, 0.05), LIP_RED, ~has["mouth"])
        nose = canvas.stroke(0.0, HEAD_Y - 0.02, 0.0, HEAD_Y - 0.02 + nuisance["nose_length"], 0.07)
        canvas.paint(nose, 0.80 * self.skin)

    def paint_eyes(self) -> None:
        """Eyes and brows."""
        canvas, eye_y, eye_width = self.canvas, HEAD_Y + EYE_OFFSET, self.nuisance["eye_width"]
        thickness = torch.where(self.has["brows"], 0.085, 0.035)[:, None, None]
        for side_sign in (-1, 1):
            eye_x = side_sign * self.nuisance["eye_distance"]
            canvas.paint(canvas.ellipse(eye_x, eye_y, eye_width, 0.72 * eye_width), WHITE)
            canvas.paint(canvas.ellipse(eye_x, eye_y, 0.68 * eye_width, 0.68 * eye_width), self.iris)
            canvas.paint(canvas.ellipse(eye_x, eye_y, 0.30 * eye_width, 0.30 * eye_width), BLACK)
            inner, outer = eye_x - side_sign * 0.10, eye_x + side_sign * 0.10
            brow = canvas.stroke(inner, HEAD_Y + BROW_OFFSET, outer, HEAD_Y + BROW_OFFSET - 0.01, thickness)
            canvas.paint(brow, 0.85 * self.hair)

    def paint_hair(self) -> None:
        """Hair above the forehead, and a hat over it."""
        canvas, width, height, has, y = self.canvas, self.width, self.height, self.has, self.canvas.y
        hairline = HEAD_Y - 0.66 * height + 0.25 * (canvas.x / width).square()
        crown = torch.maximum(canvas.ellipse(0.0, HEAD_Y - 0.02, width + 0.05, height + 0.06), y - hairline)
        canvas.paint(crown, self.hair, self.style["short"] | self.style["long"])
        for position in torch.linspace(-0.75, 0.75, 6).tolist():
            curl = canvas.ellipse(position * width, HEAD_Y - height * (0.93 - 0.35 * position**2), *2 * (0.15,))
            canvas.paint(curl, self.hair, self.style["curly"])
        hat_colour = hsv_to_rgb(self.hue["hat"], 0.60, 0.55)
        brim_y = HEAD_Y - 0.66 * height
        dome = torch.maximum(canvas.ellipse(0.0, brim_y, width + 0.08, 0.34), y - brim_y)
        canvas.paint(dome, hat_colour, has["hat"])
        canvas.paint(canvas.stroke(-width - 0.16, brim_y, width + 0.16, brim_y, 0.09), 0.8 * hat_colour, has["hat"])

    def paint_glasses(self) -> None:
        """Glasses in front of everything."""
        canvas, eye_y, eye_distance, where = (
            self.canvas, HEAD_Y + EYE_OFFSET, self.nuisance["eye_distance"], self.has["glasses"]
        )  # fmt: skip
        radius = 0.145
        for side_sign in (-1, 1):
            lens = canvas.ellipse(side_sign * eye_distance, eye_y, radius, radius)
            canvas.paint(lens, WHITE, where, opacity=0.25)
            canvas.paint(lens.abs() - 0.018, BLACK, where)
            outer = side_sign * (eye_distance + radius)
            canvas.paint(canvas.stroke(outer, eye_y, side_sign * self.width, eye_y - 0.03, 0.035), BLACK, where)
        inner = eye_distance - radius
        canvas.paint(canvas.stroke(-inner, eye_y, inner, eye_y, 0.035), BLACK, where)


def render(portraits: Portraits, side: int = 64) -> Float[Tensor, "b 3 {side} {side}"]:
    """Images in [-1, 1], on the device of the portraits. ValueError for images of fewer than 16 pixels a side."""
    if side < 16:
        raise ValueError(f"a portrait needs at least 16 pixels a side, got {side}")
    painter = Painter(portraits, side)
    painter.paint_behind_head()
    painter.paint_head()
    painter.paint_eyes()
    painter.paint_hair()
    painter.paint_glasses()
    return 2 * painter.canvas.images.clamp(0, 1) - 1


def make_image_sampler(
    count: int, device: torch.device, side: int = 64, seed: int = 7
) -> Callable[[int, torch.Generator], Float[Tensor, "n 3 side side"]]:
    """Renders a training set of `count` portraits, kept on the device in half precision.

    Returns a function of n and a generator on the CPU: n random images of the set.
    """
    portraits = sample_portraits(count, torch.Generator().manual_seed(seed)).to(device)
    images = torch.cat([render(portraits[rows], side).half() for rows in torch.arange(count).split(1024)])
    return lambda n, generator: images[to_device(torch.randint(count, (n,), generator=generator), device)].float()


# --- classifying them -------------------------------------------------------------------------------------------------


class AttributeClassifier(nn.Module):
    """Classifies all attributes of images of 64 x 64 pixels: four strided convolutions and two linear layers.

    Distances between sets of images are measured between its `features`.
    """

    def __init__(self, width: int = 16, num_features: int = 64):
        super().__init__()
        self.num_categories = [len(categories) for categories in ATTRIBUTES.values()]
        widths = [3] + [width * 2**i for i in range(4)]
        layers: list[nn.Module] = []
        for in_channels, out_channels in zip(widths, widths[1:], strict=False):
            layers += [nn.Conv2d(in_channels, out_channels, 4, 2, 1), nn.GroupNorm(4, out_channels), nn.SiLU()]
        self.features = nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * widths[-1], num_features))
        self.head = nn.Linear(num_features, sum(self.num_categories))

    def forward(self, images: Float[Tensor, "b 3 64 64"]) -> list[Float[Tensor, "b _"]]:
        """For each attribute, the logits of its categories."""
        return list(self.head(nn.functional.silu(self.features(images))).split(self.num_categories, 1))

    def predict(self, images: Float[Tensor, "b 3 64 64"], chunk_size: int = 500) -> Int[Tensor, "b a"]:
        """The most probable category of each attribute; `chunk_size` images at a time."""
        with torch.no_grad():
            chunks = [torch.stack([x.argmax(1) for x in self(chunk)], 1) for chunk in images.split(chunk_size)]
        return torch.cat(chunks)


class AttributeMomentLoss:
    """A loss that matches how often every two categories occur together, in generated and in real images.

    With p (B, K) the probabilities that a classifier gives to all categories of all attributes, the second moments are
    the mean of p p^T over a set of images. The loss is half the squared distance between the moments of generated and
    of real images. It is a mean over several classifiers, since a generator can learn to deceive a single one. A batch
    is too small for an estimate, so the loss is that of a running mean of the moments; its gradient flows through the
    batch alone.

    frequency_weight: the squared errors of how often a category occurs, on the diagonal, count 1 + frequency_weight
        times. There are far more pairs of two categories, whose errors are small and many
    classifiers: each an AttributeClassifier or another network that returns a list of logits, on the images' device
    real: images whose moments are the target; weight: factor of the loss; decay: of the running mean, for each batch
    """

    def __init__(
        self,
        classifiers: nn.ModuleList,
        real: Float[Tensor, "n 3 h w"],
        weight: float,
        decay: float = 0.98,
        frequency_weight: float = 0.0,
    ):
        self.classifiers, self.weight, self.decay = classifiers, weight, decay
        with torch.no_grad():
            self.target_moments = sum(self.moments(chunk) * (len(chunk) / len(real)) for chunk in real.split(500))
        self.running_moments = self.target_moments.clone()
        self.pair_weights = 1 + frequency_weight * torch.eye(len(self.target_moments[0]), device=real.device)

    def moments(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "r k k"]:
        """For each classifier, how often every two categories occur together."""
        moments = []
        for classifier in self.classifiers:
            p = torch.cat([logits.softmax(1) for logits in classifier(images)], 1)
            moments.append(p.T @ p / len(p))
        return torch.stack(moments)

    def __call__(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, ""]:
        moments = self.moments(images)
        self.running_moments.lerp_(moments.detach(), 1 - self.decay)
        error = self.running_moments - self.target_moments
        gradient = self.pair_weights * error
        loss = (gradient * error).sum() / 2 + (gradient * (moments - moments.detach())).sum()
        return self.weight / len(self.classifiers) * loss


def train_classifier(
    classifier: AttributeClassifier,
    steps: int,
    generator: torch.Generator,
    batch_size: int = 64,
    learning_rate: float = 2e-3,
) -> list[float]:
    """Trains on new portraits at every step, and returns the losses.

    The images are blurred by a random amount and get noise, so that the classifier also works on generated images.
    The generator draws on the CPU; the classifier stays on its device.
    """
    device = next(classifier.parameters()).device
    optimizer = torch.optim.AdamW(classifier.parameters(), learning_rate)
    scheduler, losses = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps), []
    for _ in range(steps):
        portraits = sample_portraits(batch_size, generator)
        images, attributes = render(portraits.to(device)), portraits.attributes.to(device)
        blur_amount = torch.rand(batch_size, 1, 1, 1, generator=generator).to(device)
        images = torch.lerp(images, nn.functional.avg_pool2d(images, 3, 1, 1), blur_amount)
        images = images + 0.1 * to_device(torch.randn(images.shape, generator=generator), device)
        predictions = zip(classifier(images), attributes.T, strict=True)
        loss = sum(nn.functional.cross_entropy(logits, categories) for logits, categories in predictions)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(float(loss.detach()))
    return losses
