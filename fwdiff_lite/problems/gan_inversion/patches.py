"""GAN inversion (section 4.3): latent codes of a frozen generator, of whose images only patches are observed.

The signal S is a latent code of a StyleGAN2, in W (one style for all layers) or W+ (one style for each layer). The
forward model is the generator with fixed noise, followed by a crop. A crop has parameters phi = (row, col, size) in
whole pixels. All crops lie on one canvas, the image, which is zero outside of the crop. So a sampled crop can join the
context like any other.

Training uses patches of images alone: no whole image, and no latent code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fwdiff_lite.backbones import Encoder
from fwdiff_lite.checks import check_count
from fwdiff_lite.crops import composite_crops, crop_mask
from fwdiff_lite.observations import Observations, to_device
from fwdiff_lite.problems.gan_inversion.stylegan2 import Generator, mix_styles
from fwdiff_lite.schedule import CosineSchedule, ShiftedCosineSchedule, TwoScaleSchedule

SIDE = 64  # pixels along a side of the images for which crops and schedule were chosen
CONTEXT_SIZES, TARGET_SIZES = (16, 24), (24, 32)  # the smallest and the largest crop of each kind, in pixels of SIDE
SCHEDULE = ShiftedCosineSchedule(1 / 4)  # hundreds of pixels together show an attribute, even under much noise


def crop_sizes(sizes: tuple[int, int], side: int) -> tuple[int, int]:
    """The smallest and the largest crop of an image of another side: the same share of the image."""
    smallest, largest = (max(1, size * side // SIDE) for size in sizes)
    return smallest, largest


def schedule_of_side(
    side: int, scale: float = SCHEDULE.scale, training_scale: float | None = None
) -> ShiftedCosineSchedule:
    """The schedule for images of that side: with twice the side, the mean of four pixels has half of the noise.

    scale, training_scale: of TwoScaleSchedule, for images of 64 pixels; without the second, of ShiftedCosineSchedule
    """
    if training_scale is None:
        return ShiftedCosineSchedule(scale * SIDE / side)
    return TwoScaleSchedule(scale * SIDE / side, training_scale * SIDE / side)


# --- the forward model ------------------------------------------------------------------------------------------------


class CroppedGenerator:
    """The forward model: O = G(S) inside of the crop phi, zero outside. It freezes G.

    side: pixels along a side of the observed image, each the mean of a square of the generator's pixels; None: as many
        as the generator has. ValueError unless it divides the generator's, and unless images have 3 channels.
    """

    def __init__(self, G: Generator, side: int | None = None):
        self.G = G.eval().requires_grad_(False)
        resolution = G.synthesis.resolutions[-1]
        self.side = resolution if side is None else side
        if self.side < 1 or resolution % self.side:
            raise ValueError(f"a generator of {resolution} pixels has no image of {side} pixels: give a divisor")
        if (channels := len(G.synthesis.b4.torgb.bias)) != 3:
            raise ValueError(f"a generator of images of {channels} channels was given: wanted 3, red, green and blue")
        self.reduction = resolution // self.side

    def render(self, signal: Float[Tensor, "b *l d"]) -> Float[Tensor, "b 3 h h"]:
        """The whole image of a latent code."""
        image = self.G.synthesis(signal)
        return image if self.reduction == 1 else nn.functional.avg_pool2d(image, self.reduction)

    def __call__(
        self, signal: Float[Tensor, "b *l d"], params: Float[Tensor, "b m 3"], pixel_indices=None
    ) -> Float[Tensor, "b m 3 h h"]:
        if pixel_indices is not None:
            raise ValueError("the generator renders whole images only: pixel_indices must be None")
        return self.render(signal)[:, None] * self.support(params)

    def support(self, params: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 1 h h"]:
        """1 inside of the crop, 0 outside."""
        return patch_mask(params, self.side)


def patch_mask(params: Float[Tensor, "*b 3"], side: int) -> Float[Tensor, "*b 1 side side"]:
    """1 inside of each crop, 0 outside. ValueError if a crop is not in whole pixels, or leaves the image."""
    if params.shape[-1:] != (3,):
        raise ValueError(f"a crop is (row, col, size): params must be (..., 3), got {tuple(params.shape)}")
    corner, size = params[..., :2], params[..., 2:]
    invalid = (
        (params != params.round()).any(-1) | (corner < 0).any(-1) | (corner + size > side).any(-1) | (size < 1).any(-1)
    )
    if not torch.compiler.is_compiling() and invalid.any():  # the check makes a GPU wait; fit checks its batches itself
        row, col, pixels = params[invalid][0].tolist()
        raise ValueError(
            f"crop (row {row:g}, col {col:g}, size {pixels:g}) does not fit a {side}x{side} image: "
            f"give whole pixels, 0 <= row, col <= {side} - size"
        )
    return crop_mask(params, side).unsqueeze(-3)


def observe(images: Float[Tensor, "b 3 h h"], params: Float[Tensor, "b m 3"]) -> Observations:
    """M patches of each of B images."""
    return Observations(images[:, None] * patch_mask(params, images.shape[-1]), params)


def support(patches: Observations) -> Float[Tensor, "b m 1 h h"]:
    """1 inside of each patch that is not masked out, 0 elsewhere."""
    return patch_mask(patches.params, patches.value.shape[-1]) * patches.mask[..., None, None, None]


def support_of_targets(
    params: Float[Tensor, "b m 3"], mask: Bool[Tensor, "b m"] | None, side: int
) -> Float[Tensor, "b m 1 side side"]:
    """1 inside of each target's crop, 0 elsewhere and for a masked target."""
    crops = patch_mask(params, side)
    return crops if mask is None else crops * mask[..., None, None, None]


def sample_crops(
    n: int, m: int, generator: torch.Generator, sizes: tuple[int, int] = TARGET_SIZES, side: int = 64
) -> Float[Tensor, "n m 3"]:
    """M crops for each of n images. All sizes are equally likely, and so are all positions of a crop of one size."""
    size = torch.randint(sizes[0], sizes[1] + 1, (n, m, 1), generator=generator).float()
    corner = (torch.rand(n, m, 2, generator=generator) * (side - size + 1)).floor()
    return torch.cat([corner, size], -1)


def batches(
    sample_images: Callable[[int, torch.Generator], Float[Tensor, "n 3 h h"]],
    batch_size: int = 64,
    max_context_patches: int = 1,
) -> Callable[[torch.Generator], dict[str, Observations]]:
    """Batches for fit(): of each image 1 to `max_context_patches` context patches, a target and a novel patch.

    sample_images: returns n images, given n and a generator on the CPU; patches are cut on the images' device

    The first patch of a context has a context's size. The others have a target's size, since in autoregressive sampling
    they are sampled targets.
    """

    def batch(generator: torch.Generator) -> dict[str, Observations]:
        images = sample_images(batch_size, generator)
        side = images.shape[-1]
        first_sizes, other_sizes = crop_sizes(CONTEXT_SIZES, side), crop_sizes(TARGET_SIZES, side)
        first_crops = sample_crops(batch_size, 1, generator, first_sizes, side)
        other_crops = sample_crops(batch_size, max_context_patches + 1, generator, other_sizes, side)
        params = torch.cat([first_crops, other_crops], 1)
        num_patches = torch.randint(1, max_context_patches + 1, (batch_size, 1), generator=generator)
        drop_mask = torch.arange(max_context_patches) >= num_patches
        patches = observe(images, to_device(params, images.device))
        context = patches.select(slice(max_context_patches))
        return {
            "context": context.mask_out(to_device(drop_mask, images.device)),
            "target": patches.select(slice(max_context_patches, max_context_patches + 1)),
            "novel": patches.select(slice(max_context_patches + 1, None)),
        }

    return batch


# --- the denoiser -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Condition:
    """The input of the denoiser apart from the noisy target.

    context_image: the context patches composited on one canvas
    context_mask: 1 where a context patch covers the canvas
    target_masks: 1 inside of each target's crop
    deterministic_signal: the signal predicted from the context alone, without gradient
    deterministic_image: the generator's image of that signal, without gradient
    deterministic_prediction: the targets cropped from that image, with gradient: the loss trains them too. None while
        the deterministic signal itself is predicted; the mean of W then stands in for that signal
    """

    context_image: Float[Tensor, "b 3 h h"]
    context_mask: Float[Tensor, "b 1 h h"]
    target_masks: Float[Tensor, "b m 1 h h"]
    deterministic_signal: Float[Tensor, "b *l d"]
    deterministic_image: Float[Tensor, "b 3 h h"]
    deterministic_prediction: Observations | None = None


class PatchDenoiser(nn.Module):
    """Eq. 4: predicts a latent code from context patches and noisy target patches.

    As in the paper's inverse graphics, a deterministic prediction from the context alone conditions the network:
    S = deterministic signal + (standard deviation of W) * network. The input of the network is the context image, the
    deterministic image, their difference inside of the context patches, the noisy targets on one canvas, and the masks
    of context and targets. The same network makes the deterministic prediction, before it gets a target; the mean of W
    then takes the place of the deterministic signal.

    The network can correct its own prediction from the targets (iterative refinement; Alaluf et al. 2021, ReStyle): the
    predicted signal and its image take the place of the deterministic ones in a further pass. One pass sees the
    targets, but not the image of its own signal, and so misses small details. The deterministic prediction itself is
    made in one pass.

    forward_model: its generator renders the deterministic image
    w_std: (D,) the standard deviation of W, from the function `w_std`
    space: "w", one style for all layers, or "w+", one style for each layer
    num_refinements: of these further passes, R. With R > 0, the input has three more channels in all passes: the noisy
        targets minus alpha times the image, inside of the targets
    low_noise_weight: L adds L r^2 / (r^2 + 0.3^2) to the weight 1 of an example's loss, with r = alpha / sigma. Errors
        at low noise are small, and without this weight they count for little beside those at high noise
    encoder_options: of the Encoder, whose input has squares of 2x2 pixels folded into channels
    """

    schedule = SCHEDULE  # ForwardDiffusion sets its own

    def __init__(
        self,
        forward_model: CroppedGenerator,
        w_std: Float[Tensor, "d"],
        space: str = "w+",
        low_noise_weight: float = 0.0,
        num_refinements: int = 0,
        **encoder_options,
    ):
        more_halvings = (128,) * max(0, (forward_model.side // SIDE).bit_length() - 1)  # until 4 x 4 pixels are left
        encoder_options = {"widths": (64, 96, 128, 128, *more_halvings), "hidden": 256} | encoder_options
        super().__init__()
        if space not in ("w", "w+"):
            raise ValueError(f"unknown space {space!r}: choose w or w+")
        check_count(0, num_refinements=num_refinements)
        G = forward_model.G
        self.forward_model, self.side, (w_dim,) = forward_model, forward_model.side, w_std.shape
        self.signal_shape = (w_dim,) if space == "w" else (G.synthesis.num_layers, w_dim)
        channels = 17 if num_refinements else 14
        self.encoder = Encoder(4 * channels, torch.Size(self.signal_shape).numel(), self.side // 2, **encoder_options)
        self.low_noise_weight, self.num_refinements = low_noise_weight, num_refinements
        self.register_buffer("w_mean", G.mapping.w_avg.clone())
        self.register_buffer("w_std", w_std.clone())

    def condition(self, context: Observations, target_params: Float[Tensor, "b m 3"], target_mask=None) -> Condition:
        """Composites the context patches, predicts the deterministic signal and renders its image."""
        masks = support(context)
        # where context patches overlap, the first one counts
        context_image, context_mask = composite_crops(context.value, masks * (masks.cumsum(1) == 1))
        render, target_masks = self.forward_model.render, support_of_targets(target_params, target_mask, self.side)
        mean = self.w_mean.expand(len(context_image), *self.signal_shape)
        mean_image = render(mean[:1]).detach().expand(len(context_image), -1, -1, -1)
        initial = Condition(context_image, context_mask, target_masks, mean, mean_image)
        no_target = torch.zeros_like(context_image), torch.zeros_like(context_mask)
        t = context_image.new_full((len(context_image),), 2.0)  # marks this first pass: t = 1 is pure noise
        signal = self._predict(initial, mean, mean_image, no_target, t)
        image = render(signal)
        prediction = Observations(image[:, None] * target_masks, target_params)
        return Condition(context_image, context_mask, target_masks, signal.detach(), image.detach(), prediction)

    def deterministic_prediction(self, condition: Condition) -> Observations | None:
        """The targets predicted from the context alone (protocols.DeterministicDenoiser)."""
        return condition.deterministic_prediction

    def loss_weight(self, condition: Condition, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """The factor of each example's loss (protocols.WeightedDenoiser)."""
        snr, sigma = self.schedule.alpha(t).square(), self.schedule.sigma(t).square()
        return 1 + self.low_noise_weight * snr / (snr + 0.09 * sigma)

    def forward(
        self, condition: Condition, noisy_target: Float[Tensor, "b m 3 h h"], t: Float[Tensor, "b"]
    ) -> Float[Tensor, "b *l d"]:
        """Eq. 4: the signal."""
        signal, image = condition.deterministic_signal, condition.deterministic_image
        target = composite_crops(noisy_target, condition.target_masks)
        signal = self._predict(condition, signal, image, target, t)
        for _ in range(self.num_refinements):
            image = self.forward_model.render(signal.detach())
            signal = self._predict(condition, signal, image, target, t)
        return signal

    def _predict(
        self,
        condition: Condition,
        signal: Float[Tensor, "b *l d"],
        image: Float[Tensor, "b 3 h h"],
        target: tuple[Float[Tensor, "b 3 h h"], Float[Tensor, "b 1 h h"]],
        t: Float[Tensor, "b"],
    ) -> Float[Tensor, "b *l d"]:
        """One pass of the network: the corrected signal.

        image: the generator's image of the signal; target: the noisy targets on one canvas, and its mask
        """
        residual = (condition.context_image - image) * condition.context_mask
        target_image, target_mask = target
        inputs = [condition.context_image, condition.context_mask, image, residual, target_image, target_mask]
        if self.num_refinements:
            alpha = self.schedule.alpha(t).view(-1, 1, 1, 1)  # in the first pass t is no time, and there is no target
            inputs.append(torch.where(target_mask > 0, target_image - alpha * image, 0))
        offset = self.encoder(nn.functional.pixel_unshuffle(torch.cat(inputs, 1), 2), t)
        return signal + self.w_std * offset.unflatten(1, self.signal_shape)


def sample_w(G: Generator, n: int, generator: torch.Generator) -> Float[Tensor, "n d"]:
    """n samples of W, from latent codes z that are drawn on the CPU."""
    z = torch.randn(n, G.mapping.z_dim, generator=generator)
    with torch.no_grad():
        return G.mapping(z.to(G.mapping.w_avg.device))


def sample_wplus(G: Generator, n: int, generator: torch.Generator, mixing_probability: float) -> Float[Tensor, "n l d"]:
    """n samples of the generator's own W+: styles that are mixed as in its training, drawn on the CPU."""
    num_layers = G.synthesis.num_layers
    w, other = sample_w(G, 2 * n, generator).chunk(2)
    cutoff = torch.randint(1, num_layers, (n,), generator=generator)
    unmixed = torch.rand(n, generator=generator) >= mixing_probability
    return mix_styles(w, other, cutoff.masked_fill(unmixed, num_layers).to(w.device), num_layers)


def w_std(G: Generator, n: int = 10_000, seed: int = 0) -> Float[Tensor, "d"]:
    """The standard deviation of each coordinate of W, estimated from n samples."""
    return sample_w(G, n, torch.Generator().manual_seed(seed)).std(0)


# --- the exact denoiser of a finite set of images ---------------------------------------------------------------------


class ReferenceSet:
    """A forward model over n reference images: S holds a probability for each, O is their mean inside of the crop."""

    def __init__(self, images: Float[Tensor, "n 3 h h"]):
        self.images = images

    def __call__(self, signal: Float[Tensor, "b n"], params: Float[Tensor, "b m 3"]) -> Float[Tensor, "b m 3 h h"]:
        mean = (signal @ self.images.flatten(1)).unflatten(1, self.images.shape[1:])
        return mean[:, None] * self.support(params)

    def support(self, params: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 1 h h"]:
        """1 inside of the crop, 0 outside."""
        return patch_mask(params, self.images.shape[-1])


class ReferenceSetDenoiser(nn.Module):
    """The exact denoiser of images from a reference set: S = p(image | context, noisy target), by Bayes' rule.

    It has no approximation error, so all errors of its samples come from the sampler's finite steps.

    context_std: the standard deviation of the noise that the likelihood assumes on the context's pixel values
    """

    def __init__(self, images: Float[Tensor, "n 3 h h"], schedule: CosineSchedule, context_std: float = 0.05):
        super().__init__()
        self.schedule, self.context_std = schedule, context_std
        self.register_buffer("pictures", images)

    def condition(
        self, context: Observations, target_params: Float[Tensor, "b m 3"], target_mask=None
    ) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b m 1 h h"], Float[Tensor, "b n"]]:
        """Each image's log likelihood of the context, the targets' masks, each image's squared norm inside of those."""
        log_likelihood = -reference_distances(self.pictures, context) / (2 * self.context_std**2)
        target_masks = support_of_targets(target_params, target_mask, self.pictures.shape[-1])
        squared_norms = target_masks.sum(1).flatten(1) @ self.pictures.square().sum(1).flatten(1).T
        return log_likelihood, target_masks, squared_norms

    def forward(
        self, condition: tuple[Tensor, Tensor, Tensor], noisy_target: Float[Tensor, "b m 3 h h"], t: Float[Tensor, "b"]
    ) -> Float[Tensor, "b n"]:
        """The probability of each image x. Terms of log N(y; alpha x, sigma^2) that do not depend on x are left out."""
        log_likelihood, target_masks, squared_norms = condition
        alpha, sigma = (f(t)[:, None] for f in (self.schedule.alpha, self.schedule.sigma))
        products = (target_masks * noisy_target).sum(1).flatten(1) @ self.pictures.flatten(1).T
        return torch.softmax(log_likelihood + (alpha * products - alpha**2 / 2 * squared_norms) / sigma**2, 1)


# --- other methods ----------------------------------------------------------------------------------------------------


def optimise_latents(
    forward_model: CroppedGenerator,
    context: Observations,
    initial_latents: Float[Tensor, "b *l d"],
    steps: int = 200,
    learning_rate: float = 0.05,
    scale: Float[Tensor, "*l d"] | None = None,
) -> Float[Tensor, "b *l d"]:
    """The usual inversion by optimisation: Adam on latent codes until their images agree with the context.

    The loss is the squared error inside of the context patches alone. There is no prior over codes or images.

    learning_rate: in units of `scale`
    scale: of each coordinate of the latents; None: their standard deviation in this batch, or 1 for a batch of one.
        With the same scale for all batches, the result of a context does not depend on its batch
    """
    if scale is None:
        scale = initial_latents.std(0) if len(initial_latents) > 1 else torch.ones_like(initial_latents[0])
    scale = scale.clamp(min=1e-3)
    offset = torch.zeros_like(initial_latents, requires_grad=True)
    optimizer = torch.optim.Adam([offset], learning_rate)
    mask = support(context)
    for _ in range(steps):
        error = mask * (forward_model(initial_latents + scale * offset, context.params) - context.value)
        optimizer.zero_grad()
        error.square().sum().backward()
        optimizer.step()
    return (initial_latents + scale * offset).detach()


def reference_distances(
    references: Float[Tensor, "n 3 h h"], context: Observations, chunk_size: int = 500
) -> Float[Tensor, "b n"]:
    """d^2, the squared distance of each context from every reference image, inside of the context's patches."""
    context_images, context_masks = composite_crops(context.value, support(context))
    rows = []
    for image, mask in zip(context_images, context_masks, strict=True):  # one context at a time: it has its own pixels
        inside = mask[0] > 0
        chunks = references.split(chunk_size)
        rows.append(torch.cat([(x[:, :, inside] - image[:, inside]).square().sum((1, 2)) for x in chunks]))
    return torch.stack(rows)


def importance_weights(
    distances: Float[Tensor, "b n"], min_effective_size: float = 50
) -> tuple[Float[Tensor, "b n"], Float[Tensor, "b"], Float[Tensor, "b"]]:
    """The generator's own posterior: importance weights exp(-d^2 / 2 s^2) over a reference set of its images.

    For each context, s is the smallest value whose effective sample size 1 / sum w^2 is at least `min_effective_size`.
    Returns weights, s and effective sample sizes. ValueError if the reference set has no more images than that.
    """
    if distances.shape[1] <= min_effective_size:
        raise ValueError(
            f"a reference set of {distances.shape[1]} images has no effective sample size of {min_effective_size:g}"
        )
    excess = distances.double() - distances.double().amin(1, keepdim=True)
    low, high = (excess.new_full((len(excess), 1), x) for x in (-6.0, 6.0))  # bounds of log10 s, for the bisection
    for _ in range(60):
        middle = (low + high) / 2
        weights = torch.softmax(-excess / (2 * 10 ** (2 * middle)), 1)
        large_enough = 1 / weights.square().sum(1, keepdim=True) >= min_effective_size
        low, high = torch.where(large_enough, low, middle), torch.where(large_enough, middle, high)
    weights = torch.softmax(-excess / (2 * 10 ** (2 * high)), 1)
    return weights, 10 ** high[:, 0], 1 / weights.square().sum(1)
