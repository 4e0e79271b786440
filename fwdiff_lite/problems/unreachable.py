"""Where a perfect network is not enough: signals whose observations cannot reach the conditional mean.

Eq. 8 and 9 make forward(S) the nearest *reachable* point to the conditional mean of the observations, at every noise
level. Sampling is exact if that mean can be reached: if forward is linear and S unconstrained, always. Two problems
where it cannot, each with its perfect denoiser in closed form (so no training, no data, no network):

two values  S in {-1, +1}, P(+1) = p, no context. The target observes S, the novel view observes S^2, which is
            always 1. The target alone asks for S = E[S | noisy target], between -1 and +1; the novel view pulls
            S to -1 or +1.
two bumps   S is where one bump stands in a picture: left with probability p, else right. No S shows two half bumps,
            so the nearest picture to the mean shows the likelier bump whole. No novel view is needed.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fwdiff_lite.diffusion import ForwardDiffusion
from fwdiff_lite.observations import Observations
from fwdiff_lite.schedule import CosineSchedule


def power(signal: Float[Tensor, "b"], params: Float[Tensor, "b m"]) -> Float[Tensor, "b m"]:
    """The forward model of the two values: S to the power phi; the target's phi is 1, the novel view's 2."""
    return signal[:, None] ** params


def nearest_two(mean: Float[Tensor, "*b"], novel_weight: float) -> Float[Tensor, "*b"]:
    """The S that minimises (S - mean)^2 + w (S^2 - 1)^2: what Eq. 8 + w Eq. 9 ask of a perfect network.

    By symmetry S has the sign of the mean. For mean >= 0, setting the derivative to zero gives the cubic
    2 w S^3 + (1 - 2 w) S - mean = 0, of which the largest root is wanted. It is convex for S > 0 and not negative
    at S = 1, so Newton's method from 1 comes down to that root without overshooting.
    """
    size, s = mean.abs(), torch.ones_like(mean)
    for _ in range(40):
        slope = 6 * novel_weight * s.square() + 1 - 2 * novel_weight
        s = s - (2 * novel_weight * s**3 + (1 - 2 * novel_weight) * s - size) / slope
    return torch.where(mean < 0, -s, s)


class PerfectTwo(nn.Module):
    """The perfect denoiser of the two values.

    p: probability of +1
    novel_weight: w of Eq. 9; 0 is the paper's model without its novel loss
    fade: if True the weight is w alpha(t)^2, so that it vanishes where the target is all noise
    """

    def __init__(self, p: float, novel_weight: float, fade: bool = False):
        super().__init__()
        if not 0 < p < 1:
            raise ValueError(f"p is a probability strictly between 0 and 1, got {p}")
        self.p, self.novel_weight, self.fade = p, novel_weight, fade
        self.schedule = CosineSchedule()

    def condition(self, context: Observations, target_params: Tensor) -> None:
        """There is no context."""

    def mean(self, noisy_target: Float[Tensor, "b 1"], t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """E[S | noisy target] = tanh(alpha O_t / sigma^2 + log(p / (1 - p)) / 2)."""
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        return torch.tanh(alpha * noisy_target[:, 0] / sigma.square() + 0.5 * math.log(self.p / (1 - self.p)))

    def forward(self, condition: None, noisy_target: Float[Tensor, "b 1"], t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """The nearest reachable S to the conditional means of target and novel view."""
        weight = self.novel_weight
        if self.fade:
            weight = weight * float(self.schedule.alpha(t[0])) ** 2
        return nearest_two(self.mean(noisy_target, t), weight)


def bumps(pixels: int = 16, width: float = 1.0) -> Float[Tensor, "2 p"]:
    """Pictures of one bump, left and right, of unit length; so far apart that they do not overlap."""
    place = torch.arange(pixels, dtype=torch.float64)
    centres = torch.tensor([[0.25], [0.75]], dtype=torch.float64) * (pixels - 1)
    return nn.functional.normalize(torch.exp(-0.5 * ((place - centres) / width) ** 2), dim=1)


def show_bump(signal: Float[Tensor, "b p"], params: Tensor) -> Float[Tensor, "b 1 p"]:
    """The forward model of the two bumps; a perfect denoiser's signal is the picture of its bump."""
    return signal[:, None]


class PerfectBump(nn.Module):
    """The perfect denoiser of the two bumps: all pictures of one bump are equally long, so the nearest to the mean
    w left + (1 - w) right is the one with the larger posterior weight.

    p: probability of the left bump
    reachable: if True, the signal may show two half bumps (two blended layers), and the mean is reached
    """

    def __init__(self, p: float, reachable: bool = False, scale: float = 1.5):
        super().__init__()
        if not 0 < p < 1:
            raise ValueError(f"p is a probability strictly between 0 and 1, got {p}")
        self.p, self.reachable, self.pictures = p, reachable, scale * bumps()
        self.schedule = CosineSchedule()

    def condition(self, context: Observations, target_params: Tensor) -> None:
        """There is no context."""

    def forward(
        self, condition: None, noisy_target: Float[Tensor, "b 1 p"], t: Float[Tensor, "b"]
    ) -> Float[Tensor, "b p"]:
        """The nearest reachable picture to E[picture | noisy target]."""
        alpha, sigma = self.schedule.alpha(t)[:, None], self.schedule.sigma(t)[:, None]
        evidence = alpha / sigma.square() * (noisy_target[:, 0] @ self.pictures.T)  # both bumps are equally long
        weights = (evidence + torch.tensor([self.p, 1 - self.p]).log()).softmax(1)
        if not self.reachable:
            weights = nn.functional.one_hot(weights.argmax(1), 2).to(weights)
        return weights @ self.pictures


def nothing(n: int, *shape: int) -> Observations:
    """An empty context for n signals on a canvas of this shape."""
    value = torch.zeros(n, 1, *shape, dtype=torch.float64)
    params = torch.ones(n, 1, dtype=torch.float64)
    return Observations(value, params, torch.zeros(n, 1, dtype=torch.bool))


def share_of_plus(
    p: float, novel_weight: float, n: int, generator: torch.Generator, fade: bool = False, **sampler
) -> float:
    """The share of samples of the two values that end nearer +1; the truth is p."""
    model = ForwardDiffusion(PerfectTwo(p, novel_weight, fade), power)
    context = nothing(n)
    signal = model.sample(context, context.params, generator=generator, allow_empty=True, **sampler).signal
    return float((signal > 0).double().mean())


def share_of_left(p: float, n: int, generator: torch.Generator, reachable: bool = False, **sampler) -> float:
    """The share of samples of the two bumps that show the left one; the truth is p."""
    denoiser = PerfectBump(p, reachable)
    model = ForwardDiffusion(denoiser, show_bump)
    context = nothing(n, denoiser.pictures.shape[1])
    signal = model.sample(context, context.params, generator=generator, allow_empty=True, **sampler).signal
    return float(((signal @ denoiser.pictures.T).argmax(1) == 0).double().mean())
