"""GAN inversion: latent codes of a frozen generator, of whose images only patches are ever seen (section 4.3).

The signal S is a latent code of a StyleGAN2, in W (one style for all layers) or W+ (one for each). The forward model is
the generator with fixed noise, and then a crop. A crop is phi = (row, col, size) in whole pixels; all crops lie on one
canvas, the image, zero outside of the crop, so that a sampled one can join the context like any other.

Training sees patches of pictures alone: no whole picture, and no latent code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fwdiff_lite.backbones import Encoder
from fwdiff_lite.crops import composite_crops, crop_mask
from fwdiff_lite.observations import Observations, to_device
from fwdiff_lite.problems.gan_inversion.stylegan2 import Generator
from fwdiff_lite.schedule import CosineSchedule, ShiftedCosineSchedule

CONTEXT, TARGET = (16, 24), (24, 32)  # the smallest and largest patch, in pixels, that is given, that is asked for
SCHEDULE = ShiftedCosineSchedule(1 / 4)  # hundreds of pixels say together who it is: that is settled under much noise

# --- the forward model ------------------------------------------------------------------------------------------------


class Patch:
    """The forward model: O = G(S) inside of the crop phi, zero outside. G is frozen here."""

    def __init__(self, generator: Generator):
        self.generator = generator.eval().requires_grad_(False)
        self.side = generator.synthesis.resolutions[-1]

    def __call__(
        self, signal: Float[Tensor, "b *l d"], params: Float[Tensor, "b m 3"], pixel_indices=None
    ) -> Float[Tensor, "b m 3 h h"]:
        if pixel_indices is not None:
            raise ValueError("a patch is observed whole, so `at` must be None")
        return self.generator.synthesis(signal)[:, None] * self.support(params)

    def support(self, params: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 1 h h"]:
        """1 inside of the crop, 0 outside."""
        return patch_mask(params, self.side)


def patch_mask(params: Float[Tensor, "*b 3"], side: int) -> Float[Tensor, "*b 1 side side"]:
    """1 inside of each crop, 0 outside. ValueError if one is not in whole pixels, or leaves the image."""
    if params.shape[-1:] != (3,):
        raise ValueError(f"a crop is (row, col, size): params must be (..., 3), got {tuple(params.shape)}")
    corner, size = params[..., :2], params[..., 2:]
    bad = (
        (params != params.round()).any(-1) | (corner < 0).any(-1) | (corner + size > side).any(-1) | (size < 1).any(-1)
    )
    if not torch.compiler.is_compiling() and bad.any():  # a look that would make a GPU wait; fit looks at its batches
        row, col, wide = params[bad][0].tolist()
        raise ValueError(
            f"crop (row {row:g}, col {col:g}, size {wide:g}) is not one of a {side}x{side} image: "
            f"whole pixels, 0 <= row, col <= {side} - size"
        )
    return crop_mask(params, side).unsqueeze(-3)


def observe(pictures: Float[Tensor, "b 3 h h"], params: Float[Tensor, "b m 3"]) -> Observations:
    """M patches of each of B pictures."""
    return Observations(pictures[:, None] * patch_mask(params, pictures.shape[-1]), params)


def support(patches: Observations) -> Float[Tensor, "b m 1 h h"]:
    """1 where a patch that is there sees, 0 elsewhere."""
    return patch_mask(patches.params, patches.value.shape[-1]) * patches.mask[..., None, None, None]


def draw_crops(
    n: int, m: int, generator: torch.Generator, sizes: tuple[int, int] = TARGET, side: int = 64
) -> Float[Tensor, "n m 3"]:
    """M crops for each of n pictures: any size, any place, equally likely."""
    size = torch.randint(sizes[0], sizes[1] + 1, (n, m, 1), generator=generator).float()
    corner = (torch.rand(n, m, 2, generator=generator) * (side - size + 1)).floor()
    return torch.cat([corner, size], -1)


def batches(
    pictures: Callable[[int, torch.Generator], Float[Tensor, "n 3 h h"]], size: int = 64, contexts: int = 1
) -> Callable[[torch.Generator], dict[str, Observations]]:
    """For fit(): 1 to `contexts` patches of each of `size` pictures, a target and a novel one.

    pictures: n of them, given a generator on the CPU; patches are cut where they are. All patches of a context but the
    first are as large as targets: in autoregressive sampling that is what they were.
    """

    def batch(generator: torch.Generator) -> dict[str, Observations]:
        whole = pictures(size, generator)
        side = whole.shape[-1]
        given = draw_crops(size, 1, generator, CONTEXT, side)
        params = torch.cat([given, draw_crops(size, contexts + 1, generator, TARGET, side)], 1)
        gone = torch.arange(contexts) >= torch.randint(1, contexts + 1, (size, 1), generator=generator)
        seen = observe(whole, to_device(params, whole.device))
        return {
            "context": seen.select(slice(contexts)).mask_out(to_device(gone, whole.device)),
            "target": seen.select(slice(contexts, contexts + 1)),
            "novel": seen.select(slice(contexts + 1, None)),
        }

    return batch


# --- the denoiser -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Condition:
    """What a denoiser knows before any noise: the context on one canvas, where it sees, and where the targets will.

    guess, image: the signal that the context alone suggests, and its whole picture, both without gradient
    estimate: of the targets, cut out of that picture; trained beside the rest. None while the guess is made, which
        begins from the mean of W
    """

    picture: Float[Tensor, "b 3 h h"]
    seen: Float[Tensor, "b 1 h h"]
    support: Float[Tensor, "b m 1 h h"]
    guess: Float[Tensor, "b *l d"]
    image: Float[Tensor, "b 3 h h"]
    deterministic_prediction: Observations | None = None


class PatchDenoiser(nn.Module):
    """Eq. 4: a latent code from context patches and noisy target patches.

    As in the paper's inverse graphics, what the context alone suggests is rendered and shown to the network that sees
    the noisy target: S = guess + (standard deviation of W) * network. It sees two canvases, with where each of them
    sees, the guess's picture, and what that lacks where the context sees. The guess is the network's own, made
    before it sees any target: it then begins from the mean of W.

    forward_model: whose generator draws the guess
    w_std: (D,) the standard deviation of W, from `w_std`
    space: "w", one style for all layers, or "w+", one for each
    options: of the Encoder, which takes squares of 2x2 pixels as one
    """

    def __init__(self, forward_model: Patch, w_std: Float[Tensor, "d"], space: str = "w+", **options):
        options = {"widths": (64, 96, 128, 128), "hidden": 256} | options
        super().__init__()
        if space not in ("w", "w+"):
            raise ValueError(f"unknown space {space!r}: choose w or w+")
        generator = forward_model.generator
        self.forward_model, self.side, (d,) = forward_model, forward_model.side, w_std.shape
        self.shape = (d,) if space == "w" else (generator.synthesis.layers, d)
        self.encoder = Encoder(4 * 14, torch.Size(self.shape).numel(), self.side // 2, **options)
        self.register_buffer("w_mean", generator.mapping.w_avg.clone())
        self.register_buffer("w_std", w_std.clone())

    def condition(self, context: Observations, target_params: Float[Tensor, "b m 3"]) -> Condition:
        """Merges the context, guesses and draws the guess."""
        where = support(context)
        picture, seen = composite_crops(context.value, where * (where.cumsum(1) == 1))  # the first to see a pixel tells it
        draw, blank = self.forward_model.generator.synthesis, torch.zeros_like(picture[:, None])
        mean = self.w_mean.expand(len(picture), *self.shape)
        face = draw(mean[:1]).detach().expand(len(picture), -1, -1, -1)
        start = Condition(picture, seen, blank[:, :, :1], mean, face)
        guess = self(start, blank, picture.new_full((len(picture),), 2.0))  # a time of its own: 1 is that of pure noise
        image, places = draw(guess), patch_mask(target_params, self.side)
        estimate = Observations(image[:, None] * places, target_params)
        return Condition(picture, seen, places, guess.detach(), image.detach(), estimate)

    def forward(
        self, condition: Condition, noisy_target: Float[Tensor, "b m 3 h h"], t: Float[Tensor, "b"]
    ) -> Float[Tensor, "b *l d"]:
        """Eq. 4: the signal."""
        known = [condition.picture, condition.seen, condition.image]
        lacking = (condition.picture - condition.image) * condition.seen
        canvases = torch.cat([*known, lacking, *composite_crops(noisy_target, condition.support)], 1)
        move = self.encoder(nn.functional.pixel_unshuffle(canvases, 2), t).unflatten(1, self.shape)
        return condition.guess + self.w_std * move


def styles(generator: Generator, n: int, random: torch.Generator) -> Float[Tensor, "n d"]:
    """n draws of W, from codes drawn on the CPU."""
    z = torch.randn(n, generator.mapping.z_dim, generator=random)
    with torch.no_grad():
        return generator.mapping(z.to(generator.mapping.w_avg.device))


def w_std(generator: Generator, n: int = 10_000, seed: int = 0) -> Float[Tensor, "d"]:
    """The standard deviation of W, of each coordinate."""
    return styles(generator, n, torch.Generator().manual_seed(seed)).std(0)


# --- the best denoiser there is ---------------------------------------------------------------------------------------


class Bank:
    """A forward model of so many pictures: S tells how likely each of them is, O is their mean inside of the crop."""

    def __init__(self, pictures: Float[Tensor, "n 3 h h"]):
        self.pictures = pictures

    def __call__(self, signal: Float[Tensor, "b n"], params: Float[Tensor, "b m 3"]) -> Float[Tensor, "b m 3 h h"]:
        mean = (signal @ self.pictures.flatten(1)).unflatten(1, self.pictures.shape[1:])
        return mean[:, None] * self.support(params)

    def support(self, params: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 1 h h"]:
        """1 inside of the crop, 0 outside."""
        return patch_mask(params, self.pictures.shape[-1])


class BankDenoiser(nn.Module):
    """Bayes' rule in place of a network, where a picture is any of a bank's: S = p(picture | context, noisy target).

    It makes no error, so whatever samples lack is lost by the sampler's steps.

    s: the standard deviation that the context's pixels are taken to have, in units of pictures
    """

    def __init__(self, pictures: Float[Tensor, "n 3 h h"], schedule: CosineSchedule, s: float = 0.05):
        super().__init__()
        self.schedule, self.s = schedule, s
        self.register_buffer("pictures", pictures)

    def condition(
        self, context: Observations, target_params: Float[Tensor, "b m 3"]
    ) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b m 1 h h"], Float[Tensor, "b n"]]:
        """The context's log likelihood of every picture; where the targets see; every picture's square there."""
        told = -bank_distances(self.pictures, context) / (2 * self.s**2)
        support = patch_mask(target_params, self.pictures.shape[-1])
        squares = support.sum(1).flatten(1) @ self.pictures.square().sum(1).flatten(1).T
        return told, support, squares

    def forward(
        self, condition: tuple[Tensor, Tensor, Tensor], noisy_target: Float[Tensor, "b m 3 h h"], t: Float[Tensor, "b"]
    ) -> Float[Tensor, "b n"]:
        """The odds; log N(y; alpha x, sigma^2) but for what is the same for all pictures x."""
        told, support, squares = condition
        alpha, sigma = (f(t)[:, None] for f in (self.schedule.alpha, self.schedule.sigma))
        products = (support * noisy_target).sum(1).flatten(1) @ self.pictures.flatten(1).T
        return torch.softmax(told + (alpha * products - alpha**2 / 2 * squares) / sigma**2, 1)


# --- what else one would try ------------------------------------------------------------------------------------------


def optimise(
    forward_model: Patch, context: Observations, start: Float[Tensor, "b *l d"], steps: int = 200, rate: float = 0.05
) -> Float[Tensor, "b *l d"]:
    """Codes whose images agree with the context, by Adam from a start: it knows no odds, only agreement.

    rate: in standard deviations of the start
    """
    scale = start.std(0, keepdim=True).clamp(min=1e-3) if len(start) > 1 else torch.ones_like(start)
    moved = torch.zeros_like(start, requires_grad=True)
    optimizer = torch.optim.Adam([moved], rate)
    seen = support(context)
    for _ in range(steps):
        error = seen * (forward_model(start + scale * moved, context.params) - context.value)
        optimizer.zero_grad()
        error.square().sum().backward()
        optimizer.step()
    return (start + scale * moved).detach()


def bank_distances(bank: Float[Tensor, "n 3 h h"], context: Observations, lot: int = 500) -> Float[Tensor, "b n"]:
    """d^2, the squared distance of each context from every picture of a bank, inside of its patches."""
    picture, seen = composite_crops(context.value, support(context))
    rows = []
    for x, where in zip(picture, seen, strict=True):  # one context at a time: only its own pixels count
        inside = where[0] > 0
        rows.append(torch.cat([(part[:, :, inside] - x[:, inside]).square().sum((1, 2)) for part in bank.split(lot)]))
    return torch.stack(rows)


def bank_weights(
    distances: Float[Tensor, "b n"], least: float = 50
) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b"], Float[Tensor, "b"]]:
    """The generator's own posterior: weights exp(-d^2 / 2 s^2) over a bank of its pictures.

    For each context the smallest s with an effective sample size 1 / sum w^2 of at least `least` is taken. Returns
    weights, s and effective sample sizes. ValueError for a bank of fewer pictures than that.
    """
    if distances.shape[1] <= least:
        raise ValueError(f"a bank of {distances.shape[1]} pictures has no effective sample size of {least:g}")
    squares = distances.double() - distances.double().amin(1, keepdim=True)
    low, high = (squares.new_full((len(squares), 1), x) for x in (-6.0, 6.0))  # of log10 s
    for _ in range(60):
        middle = (low + high) / 2
        weights = torch.softmax(-squares / (2 * 10 ** (2 * middle)), 1)
        enough = 1 / weights.square().sum(1, keepdim=True) >= least
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    weights = torch.softmax(-squares / (2 * 10 ** (2 * high)), 1)
    return weights, 10 ** high[:, 0], 1 / weights.square().sum(1)
