"""Cartoon portraits drawn by a program: what they show, and how often, is known exactly.

A portrait has ten *attributes* (ATTRIBUTES), drawn one after another, some given others (ODDS): whoever is grey wears
glasses more often, and beards and earrings depend on the hair. Sizes, places, hues and the light are drawn too, and say
nothing about attributes. So of any attribute that a crop of a portrait does not show, the probability given those that
it does is a sum over a table (`conditional`), and of which it shows, the program itself is asked (`shown`).

Everything is drawn back to front from shapes whose distance from a point is known: a pixel's share of a shape is that
distance in pixels, clipped (`cover`). Coordinates: x to the right and y down, from -1 to 1.
"""

from __future__ import annotations

import math
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
NAMES = tuple(ATTRIBUTES)
# The odds of each attribute's categories: (others that they depend on, probabilities with one axis for each of those)
ODDS: dict[str, tuple[tuple[str, ...], list]] = {
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
SIZES = {  # and from where to where each of them is drawn, evenly
    "width": (0.40, 0.47),  # half of the head's
    "height": (0.54, 0.60),
    "spread": (0.17, 0.21),  # of each eye from the middle
    "eye": (0.090, 0.110),  # half of an eye's width
    "nose": (0.13, 0.19),  # its length
    "lips": (0.13, 0.19),  # half of the mouth's width
    "chin": (0.28, 0.33),  # of the mouth below the head's middle
    "background": (0.0, 1.0),  # hues, on the circle
    "shirt": (0.0, 1.0),
    "felt": (0.0, 1.0),  # of the hat
    "light": (-1.0, 1.0),  # from the left, from the right
}
SKIN = torch.tensor(
    [[0.98, 0.87, 0.79], [0.95, 0.76, 0.62], [0.80, 0.62, 0.44], [0.58, 0.39, 0.27], [0.38, 0.25, 0.18]]
)
HAIR = torch.tensor(
    [[0.10, 0.09, 0.10], [0.37, 0.22, 0.12], [0.90, 0.75, 0.38], [0.72, 0.28, 0.10], [0.72, 0.73, 0.76]]
)
EYES = torch.tensor([[0.35, 0.20, 0.10], [0.25, 0.50, 0.85], [0.25, 0.55, 0.30]])
INK, WHITE, GOLD, LIP = ((0.12, 0.12, 0.15), (0.97, 0.97, 0.97), (0.95, 0.78, 0.20), (0.72, 0.22, 0.25))
REACH = 0.86  # of a picture, to each side of its middle
HEAD, BROW, EYE_LEVEL = 0.02, -0.22, -0.04  # how far below the middle the head's centre is, and of it brows and eyes

# --- portraits --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Portraits:
    """B portraits. attributes: (B, 10) numbers of categories, in the order of NAMES; sizes: (B, 11) as in SIZES."""

    attributes: Int[Tensor, "b a"]
    sizes: Float[Tensor, "b s"]

    def __len__(self) -> int:
        return len(self.attributes)

    def __getitem__(self, rows) -> Portraits:
        return Portraits(self.attributes[rows], self.sizes[rows])

    def to(self, device) -> Portraits:
        return Portraits(to_device(self.attributes, device), to_device(self.sizes, device))

    def attribute(self, name: str) -> Int[Tensor, "b"]:
        """One attribute's categories. ValueError on an unknown name."""
        return self.attributes[:, _number(name)]

    def changed(self, name: str, category: int) -> Portraits:
        """The same portraits with another category of one attribute; all others stay."""
        attributes = self.attributes.clone()
        attributes[:, _number(name)] = category
        return Portraits(attributes, self.sizes)


def _number(name: str) -> int:
    if name not in ATTRIBUTES:
        raise ValueError(f"unknown attribute {name!r}: choose one of {', '.join(NAMES)}")
    return NAMES.index(name)


def draw_portraits(n: int, generator: torch.Generator) -> Portraits:
    """n portraits, on the CPU."""
    attributes = torch.zeros(n, len(NAMES), dtype=torch.long)
    for i, name in enumerate(NAMES):
        others, odds = ODDS[name]
        given = tuple(attributes[:, NAMES.index(other)] for other in others)
        p = torch.tensor(odds)[given].expand(n, -1)
        attributes[:, i] = torch.multinomial(p, 1, generator=generator)[:, 0] if n else 0
    low, high = torch.tensor(list(SIZES.values())).T
    return Portraits(attributes, low + (high - low) * torch.rand(n, len(SIZES), generator=generator))


# --- what is known of them --------------------------------------------------------------------------------------------


def joint() -> Float[Tensor, "*categories"]:
    """The probability of every combination of attributes, an axis for each, in the order of NAMES; in float64."""
    table = torch.ones((), dtype=torch.float64)
    for name in NAMES:
        others, odds = ODDS[name]
        axes = [*(NAMES.index(other) for other in others), NAMES.index(name)]
        shape = [len(ATTRIBUTES[each]) if i in axes else 1 for i, each in enumerate(NAMES)]
        table = table * torch.tensor(odds, dtype=torch.float64).reshape(shape)  # others come before: axes are in order
    return table


def conditional(portraits: Portraits, given: Bool[Tensor, "b a"], name: str) -> Float[Tensor, "b k"]:
    """The probabilities of an attribute's categories, given those attributes of each portrait that `given` says."""
    table, kept = joint(), _number(name)
    if given[:, kept].any():
        raise ValueError(f"{name} is among what is given: nothing about it is open")
    rows = []
    for attributes, known in zip(portraits.attributes.cpu(), given.cpu(), strict=True):
        part = table[
            tuple(slice(int(a), int(a) + 1) if k else slice(None) for a, k in zip(attributes, known, strict=True))
        ]
        p = part.sum([axis for axis in range(part.ndim) if axis != kept])
        rows.append(p / p.sum())
    return torch.stack(rows)


def shown(
    portraits: Portraits, crops: Bool[Tensor, "b {side} {side}"], side: int = 64, least: float = 0.1
) -> Bool[Tensor, "b a"]:
    """Which attributes the pixels inside of a crop tell: with another category some of them would look different.

    crops: which pixels are seen; least: by so much, in one colour of [-1, 1]
    """
    picture, found = render(portraits, side), []
    for name, categories in ATTRIBUTES.items():
        differs = torch.zeros(len(portraits), dtype=torch.bool, device=picture.device)
        for category in range(len(categories)):
            other = render(portraits.changed(name, category), side)
            differs |= (((other - picture).abs().amax(1) > least) & crops).flatten(1).any(1)
        found.append(differs)
    return torch.stack(found, 1)


# --- drawing ----------------------------------------------------------------------------------------------------------


class Canvas:
    """B pictures (B, 3, side, side) in [0, 1] that are painted over; shapes are distances (B, side, side)."""

    def __init__(self, colour: Float[Tensor, "b 3"], side: int):
        self.picture = colour[:, :, None, None].expand(-1, -1, side, side)
        self.pixel = 2 * REACH / side
        centres = (torch.arange(side, device=colour.device) + 0.5) * self.pixel - REACH
        self.y, self.x = (v[None] for v in torch.meshgrid(centres, centres, indexing="ij"))

    def cover(self, distance: Float[Tensor, "b h w"]) -> Float[Tensor, "b h w"]:
        """Each pixel's share of a shape, from its centre's distance: negative inside."""
        return (0.5 - distance / self.pixel).clamp(0, 1)

    def paint(
        self,
        distance: Float[Tensor, "#b h w"],
        colour: tuple | Float[Tensor, "b 3"],
        where: Bool[Tensor, "b"] | None = None,
        opacity: float = 1.0,
        shade: Float[Tensor, "b h w"] | None = None,
    ) -> None:
        """A shape in one colour, times its shade; where: only in those pictures."""
        alpha = opacity * self.cover(distance)
        if where is not None:
            alpha = alpha * where[:, None, None]
        ink = torch.as_tensor(colour).to(self.picture)
        ink = ink.view(-1, 3, 1, 1) * (1.0 if shade is None else shade[:, None])
        self.picture = self.picture + alpha[:, None] * (ink - self.picture)

    def ellipse(self, x, y, width, height) -> Float[Tensor, "b h w"]:
        """Distance from an ellipse, about: exact where it is a circle."""
        across, along = (self.x - x) / width, (self.y - y) / height
        least = torch.minimum(torch.as_tensor(width), torch.as_tensor(height))
        return ((across.square() + along.square()).clamp(min=1e-9).sqrt() - 1) * least

    def stroke(self, x0, y0, x1, y1, thickness) -> Float[Tensor, "b h w"]:
        """Distance from a line between two points with round ends, `thickness` wide."""
        dx, dy = x1 - x0, y1 - y0
        share = (((self.x - x0) * dx + (self.y - y0) * dy) / (dx * dx + dy * dy)).clamp(0, 1)
        return torch.hypot(self.x - x0 - share * dx, self.y - y0 - share * dy) - thickness / 2

    def arc(self, y, width, bend, thickness) -> Float[Tensor, "b h w"]:
        """Distance from a parabola around the middle, `bend` lower there than at its ends, about."""
        share = (self.x / width).clamp(-1, 1)
        height = y + bend * (1 - share.square())
        slope = (1 + (2 * bend * share / width).square()).sqrt()
        return torch.hypot((self.y - height) / slope, (self.x.abs() - width).clamp(min=0)) - thickness / 2


def render(portraits: Portraits, side: int = 64) -> Float[Tensor, "b 3 {side} {side}"]:
    """Pictures in [-1, 1], drawn wherever the portraits are. ValueError for pictures of fewer than 16 pixels a side."""
    if side < 16:
        raise ValueError(f"a portrait needs at least 16 pixels a side, got {side}")
    size = dict(zip(SIZES, portraits.sizes[:, :, None, None].unbind(1), strict=True))  # (B, 1, 1) each
    hue = {name: portraits.sizes[:, list(SIZES).index(name)] for name in ("background", "shirt", "felt")}
    is_ = {name: portraits.attribute(name) == 1 for name in ("brows", "mouth", "glasses", "beard", "hat", "earrings")}
    style = portraits.attribute("style")
    bald, short, long, curly = ((style == i) for i in range(4))
    skin, hair, iris = (
        palette.to(portraits.sizes)[portraits.attribute(name)]
        for palette, name in ((SKIN, "skin"), (HAIR, "hair"), (EYES, "eyes"))
    )
    canvas = Canvas(hsv_to_rgb(hue["background"], 0.25, 0.92), side)
    x, y = canvas.x, canvas.y
    width, height = size["width"], size["height"]

    # behind the head
    canvas.paint(canvas.ellipse(0.0, HEAD + 0.12, width + 0.17, height + 0.20), hair, long)
    for angle in torch.linspace(-0.5, math.pi + 0.5, 9).tolist():
        curl = canvas.ellipse(
            math.cos(angle) * (width + 0.02), HEAD - 0.08 - math.sin(angle) * (height - 0.06), *2 * (0.17,)
        )
        canvas.paint(curl, hair, curly)
    canvas.paint(canvas.ellipse(0.0, 1.15, 0.80, 0.45), hsv_to_rgb(hue["shirt"], 0.55, 0.75))
    canvas.paint(canvas.stroke(0.0, 0.45, 0.0, 0.78, 0.34), 0.86 * skin)

    # the head, lit from one side
    head = canvas.ellipse(0.0, HEAD, width, height)
    shade = 0.93 + 0.13 * (size["light"] * x / width).clamp(-1, 1)
    for sign in (-1, 1):
        canvas.paint(canvas.ellipse(sign * width, HEAD, 0.07, 0.11), skin, shade=shade)
        canvas.paint(canvas.ellipse(sign * (width + 0.02), HEAD + 0.17, 0.058, 0.058), GOLD, is_["earrings"])
    canvas.paint(head, skin, shade=shade)

    mouth = HEAD + size["chin"]
    jaw = HEAD + 0.12 + 0.35 * (x.abs() / width).square()  # a beard's upper edge
    canvas.paint(torch.maximum(head, jaw - y), hair, is_["beard"], shade=shade)
    canvas.paint(canvas.ellipse(0.0, mouth, size["lips"] + 0.05, 0.085), skin, is_["beard"], shade=shade)
    canvas.paint(canvas.arc(mouth - 0.04, size["lips"], 0.09, 0.055), LIP, is_["mouth"])
    canvas.paint(canvas.arc(mouth, size["lips"], 0.0, 0.05), LIP, ~is_["mouth"])
    canvas.paint(canvas.stroke(0.0, HEAD - 0.02, 0.0, HEAD - 0.02 + size["nose"], 0.07), 0.80 * skin)

    # eyes and brows
    level, eye = HEAD + EYE_LEVEL, size["eye"]
    thickness = torch.where(is_["brows"], 0.085, 0.035)[:, None, None]
    for sign in (-1, 1):
        at = sign * size["spread"]
        canvas.paint(canvas.ellipse(at, level, eye, 0.72 * eye), WHITE)
        canvas.paint(canvas.ellipse(at, level, 0.68 * eye, 0.68 * eye), iris)
        canvas.paint(canvas.ellipse(at, level, 0.30 * eye, 0.30 * eye), INK)
        inner, outer = at - sign * 0.10, at + sign * 0.10
        canvas.paint(canvas.stroke(inner, HEAD + BROW, outer, HEAD + BROW - 0.01, thickness), 0.85 * hair)

    # hair above the forehead, and a hat over it
    hairline = HEAD - 0.66 * height + 0.25 * (x / width).square()
    crown = torch.maximum(canvas.ellipse(0.0, HEAD - 0.02, width + 0.05, height + 0.06), y - hairline)
    canvas.paint(crown, hair, short | long)
    for along in torch.linspace(-0.75, 0.75, 6).tolist():
        curl = canvas.ellipse(along * width, HEAD - height * (0.93 - 0.35 * along**2), *2 * (0.15,))
        canvas.paint(curl, hair, curly)
    felt = hsv_to_rgb(hue["felt"], 0.60, 0.55)
    brim = HEAD - 0.66 * height
    dome = torch.maximum(canvas.ellipse(0.0, brim, width + 0.08, 0.34), y - brim)
    canvas.paint(dome, felt, is_["hat"])
    canvas.paint(canvas.stroke(-width - 0.16, brim, width + 0.16, brim, 0.09), 0.8 * felt, is_["hat"])

    # glasses over it all
    lens = 0.145
    for sign in (-1, 1):
        ring = canvas.ellipse(sign * size["spread"], level, lens, lens)
        canvas.paint(ring, WHITE, is_["glasses"], opacity=0.25)
        canvas.paint(ring.abs() - 0.018, INK, is_["glasses"])
        outer = sign * (size["spread"] + lens)
        canvas.paint(canvas.stroke(outer, level, sign * width, level - 0.03, 0.035), INK, is_["glasses"])
    between = size["spread"] - lens
    canvas.paint(canvas.stroke(-between, level, between, level, 0.035), INK, is_["glasses"])
    return 2 * canvas.picture.clamp(0, 1) - 1


# --- reading them -----------------------------------------------------------------------------------------------------


class Reader(nn.Module):
    """Reads attributes from pictures of 64 x 64 pixels: four convolutions that halve the sides, and a layer.

    Its `features` are what distances between sets of pictures are measured in.
    """

    def __init__(self, width: int = 16, features: int = 64):
        super().__init__()
        self.sizes = [len(categories) for categories in ATTRIBUTES.values()]
        widths = [3] + [width * 2**i for i in range(4)]
        layers: list[nn.Module] = []
        for a, b in zip(widths, widths[1:], strict=False):
            layers += [nn.Conv2d(a, b, 4, 2, 1), nn.GroupNorm(4, b), nn.SiLU()]
        self.features = nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * widths[-1], features))
        self.head = nn.Linear(features, sum(self.sizes))

    def forward(self, pictures: Float[Tensor, "b 3 64 64"]) -> list[Float[Tensor, "b _"]]:
        """For each attribute, the log odds of its categories."""
        return list(self.head(nn.functional.silu(self.features(pictures))).split(self.sizes, 1))

    def read(self, pictures: Float[Tensor, "b 3 64 64"], lot: int = 500) -> Int[Tensor, "b a"]:
        """The likeliest category of each attribute; `lot` pictures at a time."""
        with torch.no_grad():
            answers = [torch.stack([x.argmax(1) for x in self(part)], 1) for part in pictures.split(lot)]
        return torch.cat(answers)


class Lesson:
    """A loss that teaches a generator how often attributes occur, and with which others.

    With p (B, K) the probabilities that a reader gives to all categories, the mean of p p^T over a set tells how often
    every two of them occur together. The loss is half the squared distance between that of generated pictures and that
    of real ones, a mean over readers: one alone can be deceived. A batch is too small to tell it: it is that of a mean
    over the last batches, its gradient the batch's.

    readers: each a Reader, or what else gives log odds, on the pictures' device
    real: read once; weight: of the loss; decay: of the mean, at every batch
    """

    def __init__(self, readers: nn.ModuleList, real: Float[Tensor, "n 3 h w"], weight: float, decay: float = 0.98):
        self.readers, self.weight, self.decay = readers, weight, decay
        with torch.no_grad():
            self.wanted = sum(self.pairs(lot) * (len(lot) / len(real)) for lot in real.split(500))
        self.mean = self.wanted.clone()

    def pairs(self, pictures: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "r k k"]:
        """How often each of the readers reads every two categories together."""
        found = []
        for reader in self.readers:
            p = torch.cat([x.softmax(1) for x in reader(pictures)], 1)
            found.append(p.T @ p / len(p))
        return torch.stack(found)

    def __call__(self, pictures: Float[Tensor, "b 3 h w"]) -> Float[Tensor, ""]:
        found = self.pairs(pictures)
        self.mean.lerp_(found.detach(), 1 - self.decay)
        off = self.mean - self.wanted
        distance = off.square().sum() / 2 + (off * (found - found.detach())).sum()
        return self.weight / len(self.readers) * distance


def train_reader(
    reader: Reader, steps: int, generator: torch.Generator, size: int = 64, rate: float = 2e-3
) -> list[float]:
    """Trains on fresh portraits, some softened and noisy as generated ones may be; the losses.

    The generator draws on the CPU; the reader stays where it is.
    """
    device = next(reader.parameters()).device
    optimizer = torch.optim.AdamW(reader.parameters(), rate)
    slower, losses = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps), []
    for _ in range(steps):
        people = draw_portraits(size, generator)
        pictures, attributes = render(people.to(device)), people.attributes.to(device)
        soft = torch.rand(size, 1, 1, 1, generator=generator).to(device)
        pictures = torch.lerp(pictures, nn.functional.avg_pool2d(pictures, 3, 1, 1), soft)
        pictures = pictures + 0.1 * to_device(torch.randn(pictures.shape, generator=generator), device)
        loss = sum(nn.functional.cross_entropy(x, y) for x, y in zip(reader(pictures), attributes.T, strict=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        slower.step()
        losses.append(float(loss.detach()))
    return losses
