"""The toy problem with measured projections: y = <phi, S> + n, with Gaussian noise n of a known standard deviation.

The parameters of an observation are its direction and the standard deviation of its noise. For this forward model,
everything that observations and noisy targets say about S is a precision matrix and a vector (`Information`), however
many they are. Sampled targets are measurements, with their noise. So M of them leave S uncertain by about the noise
divided by sqrt(M): with many targets, the signal is a draw from the posterior p(S | context).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fwdiff_lite.backbones import MLP
from fwdiff_lite.observations import Observations
from fwdiff_lite.problems.toy.mixture import GaussianMixture
from fwdiff_lite.problems.toy.projections import nullspace_coordinate, perpendicular, project, sample_directions
from fwdiff_lite.protocols import Schedule
from fwdiff_lite.schedule import CosineSchedule

NOISE_RANGE = (0.03, 0.7)  # of the noise's standard deviations in training
PRIOR_PRECISION = 4.0  # of S within a component of the prior, about


class NoisyProjection:
    """The forward model: <phi, S>, measured with noise; params (B, M, d + 1) hold phi and the standard deviation."""

    def __call__(self, signal: Float[Tensor, "b d"], params: Float[Tensor, "b m p"]) -> Float[Tensor, "b m"]:
        """The projections without noise."""
        return project(signal, params[..., :-1])

    def noise_std(self, params: Float[Tensor, "b m p"]) -> Float[Tensor, "b m"]:
        """The standard deviation of each measurement's noise."""
        return params[..., -1]


class Information(NamedTuple):
    """What Gaussian measurements say about S: their joint likelihood is exp(vector^T S - S^T precision S / 2)."""

    precision: Float[Tensor, "b d d"]
    vector: Float[Tensor, "b d"]


def measurement_information(
    value: Float[Tensor, "b m"], phi: Float[Tensor, "b m d"], variance: Float[Tensor, "b m"], mask: Bool[Tensor, "b m"]
) -> Information:
    """The information of M measurements value = <phi, S> + noise of that variance. Masked ones have none."""
    weight = torch.where(mask, 1 / variance, 0)
    value = torch.where(mask, value, 0)
    return Information(
        torch.einsum("bm,bmi,bmj->bij", weight, phi, phi), torch.einsum("bm,bm,bmi->bi", weight, value, phi)
    )


class MeasurementCondition(NamedTuple):
    """The context's information, and the targets' parameters and mask."""

    context: Information
    target_params: Float[Tensor, "b m p"]
    target_mask: Bool[Tensor, "b m"]


class InformationDenoiser(nn.Module):
    """A denoiser of this problem: the signal as a function of all information. Subclasses define `predict`."""

    def __init__(self):
        super().__init__()
        self.schedule: Schedule = CosineSchedule()

    def condition(
        self,
        context: Observations,
        target_params: Float[Tensor, "b m p"],
        target_mask: Bool[Tensor, "b m"] | None = None,
    ) -> MeasurementCondition:
        """The context's information."""
        phi, noise_std = context.params[..., :-1], context.params[..., -1]
        information = measurement_information(context.value, phi, noise_std.square(), context.mask)
        if target_mask is None:
            target_mask = torch.ones(target_params.shape[:2], dtype=torch.bool, device=target_params.device)
        return MeasurementCondition(information, target_params, target_mask)

    def forward(
        self, condition: MeasurementCondition, noisy_target: Float[Tensor, "b m"], t: Float[Tensor, "b"]
    ) -> Float[Tensor, "b d"]:
        """The signal. A noisy target over alpha is <phi, S> with noise of variance noise_std^2 + (sigma / alpha)^2."""
        return self.predict(self._total_information(condition, noisy_target, t))

    def _total_information(
        self, condition: MeasurementCondition, noisy_target: Float[Tensor, "b m"], t: Float[Tensor, "b"]
    ) -> Information:
        """The information of context and noisy targets."""
        alpha, sigma = self.schedule.alpha(t)[:, None], self.schedule.sigma(t)[:, None]
        phi, noise_std = condition.target_params[..., :-1], condition.target_params[..., -1]
        variance = noise_std.square() + (sigma / alpha).square()
        target = measurement_information(noisy_target / alpha, phi, variance, condition.target_mask)
        return Information(*(x + y for x, y in zip(condition.context, target, strict=True)))

    def predict(self, information: Information) -> Float[Tensor, "b d"]:
        """E[S | information]."""
        raise NotImplementedError


class IdealNoisyDenoiser(InformationDenoiser):
    """E[S | context, noisy targets] in closed form, the minimiser of Eq. 8 and 9."""

    def __init__(self, prior: GaussianMixture):
        super().__init__()
        self.prior = prior

    def predict(self, information: Information) -> Float[Tensor, "b d"]:
        """The posterior mean of the mixture."""
        return self.prior.update(*information).mean()


class NoisyProjectionDenoiser(InformationDenoiser):
    """A small MLP that corrects the posterior mean of a standard normal prior.

    The correction is scaled by this prior's posterior standard deviations: the more is measured, the smaller it is.

    dims: d of S in R^d
    width, depth: of the MLP
    """

    def __init__(self, dims: int = 2, width: int = 64, depth: int = 5):
        super().__init__()
        self.net = MLP(3 * dims + dims * dims, dims, width, depth)

    def predict(self, information: Information) -> Float[Tensor, "b d"]:
        """The posterior mean of a standard normal prior, with the network's correction."""
        covariance = posterior_covariance(information)
        mean = torch.einsum("bij,bj->bi", covariance, information.vector)
        square_root = torch.linalg.cholesky(covariance)
        scale = square_root.diagonal(dim1=1, dim2=2)
        correlation = (square_root / scale[:, None]).tril(-1)
        shrunk_mean = torch.einsum("bij,bj->bi", covariance, mean)
        features = torch.cat([mean, shrunk_mean, correlation.flatten(1), scale.log()], 1)
        correction = self.net(features, mean.new_zeros(len(mean)))  # all that depends on time is in the information
        return mean + torch.einsum("bij,bj->bi", square_root, correction)

    def loss_weight(self, condition: MeasurementCondition, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """The inverse of the expected squared error: of a measurement's noise, and of what is not known of S."""
        noise_variance = condition.target_params[:, 0, -1].square()
        information = self._total_information(condition, torch.zeros_like(condition.target_params[..., 0]), t)
        uncertainty = posterior_covariance(information, PRIOR_PRECISION).diagonal(dim1=1, dim2=2).sum(1)
        return 1 / (uncertainty + noise_variance + 5e-4)


def posterior_covariance(information: Information, prior_precision: float = 1.0) -> Float[Tensor, "b d d"]:
    """The covariance of S given the information, under a normal prior of that precision in each coordinate."""
    identity = torch.eye(information.vector.shape[1]).to(information.precision)
    return torch.linalg.inv(information.precision + prior_precision * identity)


# --- data -------------------------------------------------------------------------------------------------------


def observe(
    signal: Float[Tensor, "b d"], phi: Float[Tensor, "b m d"], noise_std: Float[Tensor, "b"], generator: torch.Generator
) -> Observations:
    """Measurements of each signal in the directions phi."""
    noise_std = noise_std[:, None].expand(phi.shape[:2])
    noise = torch.randn(phi.shape[:2], generator=generator, dtype=signal.dtype)
    return Observations(project(signal, phi) + noise_std * noise, torch.cat([phi, noise_std[..., None]], -1))


def infinite_batches(prior: GaussianMixture, batch_size: int, max_targets: int) -> Callable:
    """Batches of new signals, for fit(): one context, up to max_targets targets and two novel measurements of each.

    The noise of all measurements of a signal has one standard deviation, log-uniform in NOISE_RANGE. The number of
    targets is about log-uniform.
    """
    prior = prior.to(torch.float32)
    low, high = (math.log(x) for x in NOISE_RANGE)

    def batch(generator: torch.Generator) -> dict:
        signal = prior.sample(batch_size, generator)
        noise_std = torch.exp(low + (high - low) * torch.rand(batch_size, generator=generator))
        phi = sample_directions(batch_size, max_targets + 3, 2, generator)
        measurements = observe(signal, phi, noise_std, generator)
        counts = torch.exp(torch.rand(batch_size, 1, generator=generator) * math.log(max_targets + 1)).long()
        targets = measurements.select(slice(1, -2))
        return {
            "context": measurements.select([0]),
            "target": targets.mask_out(torch.arange(max_targets) >= counts.clamp(1, max_targets)),
            "novel": measurements.select(slice(-2, None)),
        }

    return batch


# --- evaluation -------------------------------------------------------------------------------------------------


def make_test_set(prior: GaussianMixture, n: int, noise_std: float, seed: int) -> tuple[Tensor, Observations]:
    """n new signals in R^2 in float64 (the truth), and one measurement of each (the context)."""
    generator = torch.Generator().manual_seed(seed)
    signal = prior.sample(n, generator)
    phi = sample_directions(n, 1, 2, generator, signal.dtype)
    return signal, observe(signal, phi, torch.full((n,), noise_std, dtype=signal.dtype), generator)


def exact_posterior(prior: GaussianMixture, context: Observations) -> GaussianMixture:
    """p(S | context) in closed form."""
    phi, noise_std = context.params[..., :-1], context.params[..., -1]
    return prior.update(*measurement_information(context.value, phi, noise_std.square(), context.mask))


def alternating_targets(context: Observations, num_targets: int) -> Float[Tensor, "b m p"]:
    """Parameters of targets in R^2, alternately parallel and perpendicular to the context's direction.

    They have the context's noise.
    """
    phi, noise_std = context.params[:, :1, :-1], context.params[:, :1, -1:]
    directions = torch.cat([phi, perpendicular(phi)], 1).repeat(1, -(-num_targets // 2), 1)[:, :num_targets]
    return torch.cat([directions, noise_std.expand(-1, num_targets, -1)], -1)


def scaled_residual(signal: Float[Tensor, "b d"], context: Observations) -> Float[Tensor, "b"]:
    """(y - <phi, S>) / noise_std of one measurement of each signal; its root mean square over the posterior is 1."""
    residual = context.value - project(signal, context.params[..., :-1].to(signal))
    return (residual / context.params[..., -1])[:, 0]


def c2st_features(signal: Float[Tensor, "b 2"], context: Observations) -> Float[Tensor, "b 5"]:
    """Features of p(S, y, phi) for a two-sample test.

    They are y, phi, the scaled residual and the coordinate of S perpendicular to phi. With S itself
    in place of the residual, a test would not see small noise that is left out.
    """
    directions = Observations(context.value, context.params[..., :-1])
    columns = [
        context.value,
        context.params[:, 0, :-1],
        scaled_residual(signal, context)[:, None],
        nullspace_coordinate(signal, directions)[:, None],
    ]
    return torch.cat([x.to(torch.float32) for x in columns], 1)
