"""The unreachable-mean bias: an ideal denoiser samples a wrong distribution if the mean observation is unreachable.

Eq. 8 and 9 make forward(S) the *reachable* observation nearest to the conditional mean of the observations, at every
noise level. Sampling is exact if this mean is reachable: always if forward is linear and S is unconstrained. In the
two problems of this file the mean is not reachable. The ideal denoiser of both has a closed form, so there is no
training, no data and no network:

binary signal  S in {-1, +1} with P(+1) = p, without context. The target observes S; the novel observation is S^2,
               which is always 1. The target's loss alone gives S = E[S | noisy target], between -1 and +1; the novel
               loss moves S towards -1 or +1.
bump           S is the position of one bump in an image: left with probability p, otherwise right. No S gives an image
               of two half bumps, so the reachable image nearest to the mean shows the more likely bump in full. This
               problem needs no novel observation.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fwdiff_lite.checks import check_count, check_positive
from fwdiff_lite.diffusion import ForwardDiffusion
from fwdiff_lite.observations import Observations, check_single_target
from fwdiff_lite.problems.toy.projections import identity_forward
from fwdiff_lite.schedule import CosineSchedule

NEWTON_STEPS = 40


def power_forward(signal: Float[Tensor, "b"], params: Float[Tensor, "b m"]) -> Float[Tensor, "b m"]:
    """The forward model of the binary signal: S to the power phi; phi is 1 for the target, 2 for the novel view."""
    if signal.ndim != 1 or params.ndim != 2 or len(params) != len(signal):
        shapes = f"signal {tuple(signal.shape)} and params {tuple(params.shape)}"
        raise ValueError(f"got {shapes}, wanted (B,) and (B, M)")
    return signal[:, None] ** params


def optimal_binary_signal(mean: Float[Tensor, "*b"], novel_weight: float) -> Float[Tensor, "*b"]:
    """The S that minimises (S - mean)^2 + w (S^2 - 1)^2, that is Eq. 8 + w Eq. 9: the output of the ideal denoiser.

    By symmetry S has the sign of the mean. For mean >= 0, setting the derivative to zero gives the cubic equation
    2 w S^3 + (1 - 2 w) S - mean = 0; its largest root is the minimiser. The cubic is convex for S > 0 and not negative
    at S = 1, so Newton's method from S = 1 decreases to this root without overshooting.

    ValueError if the weight is negative or not finite.
    """
    _check_weight(novel_weight)
    magnitude, s, previous = mean.abs(), torch.ones_like(mean), torch.ones_like(mean)
    for remaining in reversed(range(NEWTON_STEPS)):
        derivative = 6 * novel_weight * s.square() + 1 - 2 * novel_weight
        following = s - (2 * novel_weight * s**3 + (1 - 2 * novel_weight) * s - magnitude) / derivative
        # Rounding ends in a fixed point, or alternates between two neighbouring numbers: then the last step is known.
        if torch.equal(following, previous):
            s = s if remaining % 2 else following
            break
        s, previous = following, s
    return torch.where(mean < 0, -s, s)


def _check_weight(novel_weight: float) -> None:
    if not 0 <= novel_weight < math.inf:
        raise ValueError(f"got novel_weight = {novel_weight}, wanted a finite number of at least 0")


class IdealBinaryDenoiser(nn.Module):
    """The ideal denoiser of the binary signal.

    p: probability of +1
    novel_weight: w of Eq. 9; 0 is the paper's model without its novel loss
    noise_dependent_weight: if True, the weight is w alpha(t)^2, which vanishes where the target is pure noise

    ValueError if p is not strictly between 0 and 1.
    """

    def __init__(self, p: float, novel_weight: float, noise_dependent_weight: bool = False):
        super().__init__()
        if not 0 < p < 1:
            raise ValueError(f"p is a probability strictly between 0 and 1, got {p}")
        _check_weight(novel_weight)
        self.p, self.novel_weight, self.noise_dependent_weight = p, novel_weight, noise_dependent_weight
        self.schedule = CosineSchedule()

    def condition(self, context: Observations, target_params: Tensor, target_mask=None) -> None:
        """None: the context is empty. ValueError unless each signal has one target."""
        check_single_target(target_params, target_mask)

    def posterior_mean(self, noisy_target: Float[Tensor, "b 1"], t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """E[S | noisy target] = tanh(alpha O_t / sigma^2 + log(p / (1 - p)) / 2)."""
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        return torch.tanh(alpha * noisy_target[:, 0] / sigma.square() + 0.5 * math.log(self.p / (1 - self.p)))

    def forward(self, condition: None, noisy_target: Float[Tensor, "b 1"], t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """The signal whose target and novel observations are nearest to their conditional means."""
        weight = self.novel_weight
        if self.noise_dependent_weight:
            weight = weight * float(self.schedule.alpha(t[0])) ** 2
        return optimal_binary_signal(self.posterior_mean(noisy_target, t), weight)


def bump_images(num_pixels: int = 16, width: float = 1.0) -> Float[Tensor, "2 p"]:
    """1-D images of the left and of the right bump, each of unit norm; the bumps do not overlap."""
    check_count(2, num_pixels=num_pixels)
    check_positive(width=width)
    positions = torch.arange(num_pixels, dtype=torch.float64)
    centres = torch.tensor([[0.25], [0.75]], dtype=torch.float64) * (num_pixels - 1)
    return nn.functional.normalize(torch.exp(-0.5 * ((positions - centres) / width) ** 2), dim=1)


class IdealBumpDenoiser(nn.Module):
    """The ideal denoiser of the bump.

    The mean image is w left + (1 - w) right, where w is the posterior weight of the left bump. All images of one bump
    have equal norms, so the nearest of them to the mean is the one with the larger posterior weight.

    p: probability of the left bump
    reachable: if True, the signal may be a blend of both images (two layers), and the mean is reachable
    scale: norm of the images

    ValueError if p is not strictly between 0 and 1.
    """

    def __init__(self, p: float, reachable: bool = False, scale: float = 1.5):
        super().__init__()
        if not 0 < p < 1:
            raise ValueError(f"p is a probability strictly between 0 and 1, got {p}")
        check_positive(scale=scale)
        self.p, self.reachable, self.images = p, reachable, scale * bump_images()
        self.schedule = CosineSchedule()

    def condition(self, context: Observations, target_params: Tensor, target_mask=None) -> None:
        """None: the context is empty. ValueError unless each signal has one target."""
        check_single_target(target_params, target_mask)

    def forward(
        self, condition: None, noisy_target: Float[Tensor, "b 1 p"], t: Float[Tensor, "b"]
    ) -> Float[Tensor, "b p"]:
        """The reachable image nearest to E[image | noisy target]."""
        alpha, sigma = self.schedule.alpha(t)[:, None], self.schedule.sigma(t)[:, None]
        log_likelihood = alpha / sigma.square() * (noisy_target[:, 0] @ self.images.T)  # up to a common constant
        weights = (log_likelihood + torch.tensor([self.p, 1 - self.p]).log()).softmax(1)
        if not self.reachable:
            weights = nn.functional.one_hot(weights.argmax(1), 2).to(weights)
        return weights @ self.images


def empty_context(n: int, *shape: int) -> Observations:
    """An empty context for n signals: one masked observation of this shape each."""
    check_count(n=n)
    value = torch.zeros(n, 1, *shape, dtype=torch.float64)
    params = torch.ones(n, 1, dtype=torch.float64)
    return Observations(value, params, torch.zeros(n, 1, dtype=torch.bool))


def plus_fraction(
    p: float,
    novel_weight: float,
    n: int,
    generator: torch.Generator,
    noise_dependent_weight: bool = False,
    **sampler_options,
) -> float:
    """The fraction of n samples of the binary signal that are nearer to +1 than to -1; the true probability is p."""
    model = ForwardDiffusion(IdealBinaryDenoiser(p, novel_weight, noise_dependent_weight), power_forward)
    context = empty_context(n)
    signal = model.sample(context, context.params, generator=generator, allow_empty=True, **sampler_options).signal
    return float((signal > 0).double().mean())


def left_fraction(p: float, n: int, generator: torch.Generator, reachable: bool = False, **sampler_options) -> float:
    """The fraction of n samples of the bump that show the left one; the true probability is p."""
    denoiser = IdealBumpDenoiser(p, reachable)
    model = ForwardDiffusion(denoiser, identity_forward)
    context = empty_context(n, denoiser.images.shape[1])
    signal = model.sample(context, context.params, generator=generator, allow_empty=True, **sampler_options).signal
    return float(((signal @ denoiser.images.T).argmax(1) == 0).double().mean())
