"""The training of StyleGAN2: losses (SG2), augmentation (ADA) and the two optimisers."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from fwdiff_lite.problems.gan_inversion.stylegan2 import Discriminator, Generator, mix


def generator_loss(fake: Float[Tensor, "b"]) -> Float[Tensor, ""]:
    """-log sigmoid(D(G(z))): non-saturating (Goodfellow et al. 2014)."""
    return F.softplus(-fake).mean()


def discriminator_loss(real: Float[Tensor, "b"], fake: Float[Tensor, "n"]) -> Float[Tensor, ""]:
    """-log sigmoid(D(x)) - log(1 - sigmoid(D(G(z))))."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def r1_penalty(discriminator: Callable[[Tensor], Tensor], images: Float[Tensor, "b *s"]) -> Float[Tensor, ""]:
    """|grad D|^2 at real images, on average: to be weighted by gamma / 2 (Mescheder et al. 2018, Eq. 9)."""
    images = images.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(discriminator(images).sum(), images, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean()


def path_lengths(
    images: Float[Tensor, "b c h w"], ws: Float[Tensor, "b l d"], noise: Float[Tensor, "b c h w"]
) -> Float[Tensor, "b"]:
    """|J^T y| of SG2, Eq. 4, y being noise / sqrt(h w): how far images move with their styles, rms over the layers."""
    direction = noise / math.sqrt(images[0, 0].numel())
    (gradient,) = torch.autograd.grad((images * direction).sum(), ws, create_graph=True)
    return gradient.square().sum(2).mean(1).sqrt()


STRONGEST = 0.8  # below this chance, augmentations do not leak into what is generated (ADA, section 2.2)


def augment(
    images: Float[Tensor, "b c h h"], p: float | Float[Tensor, ""], generator: torch.Generator
) -> Float[Tensor, "b c h h"]:
    """Each of these, with chance p, to each image: what a discriminator is shown of real and generated ones alike.

    A mirror image or not, quarter turns, a shift by whole pixels (up to an eighth of the side, along both axes),
    a size 2^(0.2 n) times as large; brightness + 0.2 n, contrast times 2^(0.5 n), saturation times 2^n, n ~ N(0, 1).
    Outside, an image is continued by its reflection. ADA, section 2.3, without low-pass filters and hues.
    Differentiable once in images; the generator lives on their device.
    """
    b, _, h, _ = images.shape
    draw = {"generator": generator, "device": generator.device}

    def sometimes(drawn: Float[Tensor, "b *k"], otherwise: float) -> Float[Tensor, "b *k"]:
        chosen = torch.rand(b, **draw) < p
        return torch.where(chosen.view(-1, *[1] * (drawn.ndim - 1)), drawn, otherwise)

    def power(octaves: float) -> Float[Tensor, "b"]:
        return sometimes(2 ** (octaves * torch.randn(b, **draw)), 1.0)

    mirror = sometimes(torch.randint(2, (b,), **draw) * 2.0 - 1, 1.0)
    turn = sometimes(torch.randint(4, (b,), **draw) * 1.0, 0.0) * (math.pi / 2)
    reach = h // 8
    shift = sometimes(torch.randint(-reach, reach + 1, (b, 2), **draw) * (2 / h), 0.0)
    size = power(0.2)
    cos, sin = turn.cos().round() / size, turn.sin().round() / size
    # where a pixel at (x, y) of the new image, both in [-1, 1], was in the old one
    rows = [torch.stack([mirror * cos, -mirror * sin], 1), torch.stack([sin, cos], 1)]
    places = torch.cat([torch.stack(rows, 1), shift[..., None]], 2)  # (B, 2, 3)
    grid = F.affine_grid(places.to(images), list(images.shape), align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)

    brightness = sometimes(0.2 * torch.randn(b, **draw), 0.0)
    brightness, contrast, saturation = (x.to(images).view(b, 1, 1, 1) for x in (brightness, power(0.5), power(1.0)))
    images = (images + brightness) * contrast
    grey = images.mean(1, keepdim=True)
    return grey + saturation * (images - grey)


def adapted(
    p: Float[Tensor, ""], real: Float[Tensor, "b"], target: float = 0.6, span: float = 500_000
) -> Float[Tensor, ""]:
    """The next chance of augmentation: more where the discriminator overfits, E[sign D(real)] > target (ADA, Eq. 1).

    span: images over which it would rise from 0 to 1. Kept between 0 and STRONGEST.
    """
    return (p + (real.sign().mean() - target).sign() * (len(real) / span)).clamp(0, STRONGEST)


@torch.no_grad()
def average_into(average: nn.Module, network: nn.Module, decay: float) -> None:
    """One step of the exponential moving average of a network's weights; its buffers are copied."""
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
    for kept, buffer in zip(average.buffers(), network.buffers(), strict=True):
        kept.copy_(buffer)


def lazy_adam(network: nn.Module, learning_rate: float, every: int | None) -> torch.optim.Adam:
    """Adam for a network that takes one more step, of its regulariser alone, after `every` steps (SG2, appendix B)."""
    c = every / (every + 1) if every else 1.0
    capturable = next(network.parameters()).is_cuda  # in a CUDA graph
    return torch.optim.Adam(network.parameters(), learning_rate * c, betas=(0.0, 0.99**c), capturable=capturable)


class Adversaries:
    """Generator G against discriminator D, step by step; `average` is the generator to keep.

    r1: gamma, the weight of R1, which is minimised once in r1_every steps (lazily) with r1_every times the weight;
        ADA's rule of thumb is 2e-4 resolution^2 / batch
    path: the weight of path length regularisation, on half a batch once in path_every steps; 0: none
    mixing: the share of images that are made of two styles
    half_life: of the weights' average, in images; at first shorter, a twentieth of those seen
    adaptive: augment what D sees, with a chance `p` that follows `adapted`
    noise: standard deviation of the noise on all that D sees, which hides small faults of images, so that D judges how
        often things occur (instance noise: Sønderby et al. 2017; among ADA's augmentations)
    lesson: a further loss of G's images, as D is shown them
    """

    def __init__(
        self,
        G: Generator,
        D: Discriminator,
        *,
        learning_rate: float = 2e-3,
        r1: float = 1.0,
        r1_every: int = 16,
        path: float = 0.0,
        path_every: int = 4,
        mixing: float = 0.9,
        half_life: float = 10_000,
        adaptive: bool = False,
        noise: float = 0.0,
        lesson: Callable[[Float[Tensor, "b c h w"]], Float[Tensor, ""]] | None = None,
    ):
        self.G, self.D, self.average = G, D, copy.deepcopy(G).eval().requires_grad_(False)
        self.r1, self.r1_every, self.path, self.path_every = r1, r1_every, path, path_every
        self.mixing, self.half_life, self.adaptive = mixing, half_life, adaptive
        self.noise, self.lesson = noise, lesson
        self.optimise_G = lazy_adam(G, learning_rate, path_every if path else None)
        self.optimise_D = lazy_adam(D, learning_rate, r1_every if r1 else None)
        self.p, self.path_mean = (G.mapping.w_avg.new_zeros(()) for _ in range(2))
        self.steps = self.images = 0

    def styles(self, n: int, generator: torch.Generator) -> Float[Tensor, "n l d"]:
        """Styles in W+ for n images, a share of them mixed of two (style mixing)."""
        device, layers = generator.device, self.G.synthesis.layers
        z = torch.randn(2, n, self.G.mapping.z_dim, generator=generator, device=device)
        cut = torch.randint(1, layers, (n,), generator=generator, device=device)
        whole = torch.rand(n, generator=generator, device=device) >= self.mixing
        w, other = self.G.mapping(z.flatten(0, 1)).chunk(2)
        self.G.mapping.track(w)
        return mix(w, other, cut.masked_fill(whole, layers), layers)

    def fake(self, n: int, generator: torch.Generator) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, "n l d"]]:
        """n generated images, with their styles."""
        ws = self.styles(n, generator)
        return self.G.synthesis(ws, self.G.synthesis.draw_noise(n, generator)), ws

    def shown(self, images: Float[Tensor, "b c h w"], generator: torch.Generator) -> Float[Tensor, "b c h w"]:
        """What D sees of images."""
        if self.adaptive:
            images = augment(images, self.p, generator)
        if self.noise:
            images = images + self.noise * torch.randn(images.shape, generator=generator, device=images.device)
        return images

    def step(self, real: Float[Tensor, "b c h w"], generator: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        """One step of G, one of D, and the regularisers that are due. All on one device. The losses, by name."""
        n, losses = len(real), self.play(real, generator)
        if self.path and self.steps % self.path_every == 0:
            losses |= self.smooth(real, generator)
        if self.r1 and self.steps % self.r1_every == 0:
            losses |= self.flatten(real, generator)
        self.steps, self.images = self.steps + 1, self.images + n
        average_into(self.average, self.G, 0.5 ** (n / min(self.half_life, 0.05 * self.images)))
        return losses

    def play(self, real: Float[Tensor, "b c h w"], generator: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        """One step of G, then one of D."""
        losses = {}
        self.D.requires_grad_(False)
        images, _ = self.fake(len(real), generator)
        shown = self.shown(images, generator)
        loss = generator_loss(self.D(shown))
        losses["generator"] = loss.detach()
        if self.lesson:
            lesson = self.lesson(shown)
            losses["lesson"], loss = lesson.detach(), loss + lesson
        _descend(self.optimise_G, loss)
        self.D.requires_grad_(True)
        with torch.no_grad():
            images, _ = self.fake(len(real), generator)
        scores = self.D(self.shown(real, generator))
        loss = discriminator_loss(scores, self.D(self.shown(images, generator)))
        losses["discriminator"] = _descend(self.optimise_D, loss)
        if self.adaptive:
            self.p.copy_(adapted(self.p, scores.detach()))
        return losses

    def smooth(self, real: Float[Tensor, "b c h w"], generator: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        """A step of G on the lengths of its paths."""
        images, ws = self.fake(max(1, len(real) // 2), generator)
        noise = torch.randn(images.shape, generator=generator, device=images.device)
        lengths = path_lengths(images, ws, noise)
        self.path_mean.lerp_(lengths.detach().mean(), 0.01)
        loss = (lengths - self.path_mean).square().mean()
        return {"path": _descend(self.optimise_G, loss, self.path * self.path_every)}

    def flatten(self, real: Float[Tensor, "b c h w"], generator: torch.Generator) -> dict[str, Float[Tensor, ""]]:
        """A step of D on R1, at what D sees: resampling has no second derivative, and nor has a compiled D."""
        loss = r1_penalty(self.D.forward, self.shown(real, generator))
        return {"r1": _descend(self.optimise_D, loss, (self.r1 / 2) * self.r1_every)}


def _descend(optimizer: torch.optim.Optimizer, loss: Float[Tensor, ""], weight: float = 1.0) -> Float[Tensor, ""]:
    """A step on the loss times its weight; the loss."""
    optimizer.zero_grad()
    (weight * loss).backward()
    optimizer.step()
    return loss.detach()
