"""Toy problem: signals S in R^2 or R^3 from a Gaussian mixture, observed only through 1-D projections.

An observation is one number, O = <phi, S>, where phi is a unit vector. One observation leaves a line (in R^3 a plane)
of possible signals. d observations in independent directions determine S. The distributions of the projections on
all directions determine the distribution of S (Cramer and Wold, 1936). This is the assumption of Proposition 1 in its
simplest form. Here the posterior, the ideal denoiser and the minimum of the losses have closed forms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fwdiff_lite.backbones import MLP
from fwdiff_lite.checks import check_count, check_interval, check_last_sizes, check_shape
from fwdiff_lite.diffusion import ForwardDiffusion, ForwardRegression
from fwdiff_lite.observations import Observations, check_single_target
from fwdiff_lite.problems.toy.mixture import GaussianMixture
from fwdiff_lite.schedule import CosineSchedule

# --- the forward model ------------------------------------------------------------------------------------------


def project(signal: Float[Tensor, "b d"], params: Float[Tensor, "b m d"]) -> Float[Tensor, "b m"]:
    """The forward model: O = <phi, S>. ValueError if the sizes of signals and directions do not fit."""
    check_shape("signal", signal, params[:, 0].shape, params=params)
    return torch.einsum("bd,bmd->bm", signal, params)


def identity_forward(signal: Float[Tensor, "b d"], params: Tensor) -> Float[Tensor, "b 1 d"]:
    """The forward model of ordinary diffusion: the observation is the signal itself."""
    return signal[:, None]


def sample_directions(
    n: int, m: int, dims: int, generator: torch.Generator, dtype=torch.float32, wedge: float = 2 * math.pi
) -> Float[Tensor, "n m d"]:
    """Draw m random unit vectors for each of n signals, uniform over all directions.

    wedge: in R^2, the directions lie in a wedge of this angle in radians, centred on the first axis

    ValueError if a wedge below 2 pi is given in R^3, or a number is out of range.
    """
    check_count(n=n, m=m, dims=dims)
    check_interval(0, 2 * math.pi, wedge=wedge)
    if dims == 2:
        angle = wedge * (torch.rand(n, m, generator=generator, dtype=dtype) - 0.5)
        return torch.stack([angle.cos(), angle.sin()], -1)
    if wedge < 2 * math.pi:
        raise ValueError(f"a wedge of directions is for signals in R^2, got dims={dims}: leave `wedge` out")
    return nn.functional.normalize(torch.randn(n, m, dims, generator=generator, dtype=dtype), dim=-1)


def perpendicular(phi: Float[Tensor, "*b 2"]) -> Float[Tensor, "*b 2"]:
    """The unit vector phi, rotated by 90 degrees: the nullspace direction of one projection in R^2."""
    check_last_sizes("phi", phi, 2)
    return torch.stack([-phi[..., 1], phi[..., 0]], -1)


# --- the prior and the ideal denoiser ---------------------------------------------------------------------------


def make_prior(dims: int) -> GaussianMixture:
    """The distribution of the signals: four components of unequal weight in R^2 or R^3, in float64.

    In R^3 the components form two pairs along the third axis, so that two projections do not determine the third
    coordinate.

    ValueError if dims is neither 2 nor 3.
    """
    if dims == 2:
        means = [[-1.2, -0.5], [0.7, -1.1], [0.1, 1.2], [1.6, 0.8]]
        axes = [[0.5, 0.2], [0.3, 0.3], [0.55, 0.18], [0.2, 0.35]]
    elif dims == 3:
        means = [[-0.7, -0.5, 1.2], [-0.5, -0.7, -1.0], [0.8, 0.7, -1.1], [0.9, 0.4, 1.1]]
        axes = [[0.5, 0.3, 0.25], [0.4, 0.4, 0.3], [0.6, 0.25, 0.3], [0.3, 0.4, 0.25]]
    else:
        raise ValueError(f"the toy problem has signals in R^2 or R^3, got dims={dims}: give 2 or 3")
    weights = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    angle = torch.tensor([0.6, 0.0, -0.4, 0.3], dtype=torch.float64)
    rotation = torch.eye(dims, dtype=torch.float64).repeat(4, 1, 1)
    rotation[:, 0, 0], rotation[:, 0, 1] = angle.cos(), -angle.sin()
    rotation[:, 1, 0], rotation[:, 1, 1] = angle.sin(), angle.cos()
    square_root = rotation * torch.tensor(axes, dtype=torch.float64)[:, None, :]
    return GaussianMixture(weights.log(), torch.tensor(means, dtype=torch.float64), square_root @ square_root.mT)


class IdealCondition(NamedTuple):
    """The posterior p(S | context), and its moments in the target's direction.

    The components are the first axis and the batch is the last one: then all arithmetic runs along the batch, which
    takes a quarter of the time.
    """

    log_weights: Float[Tensor, "k b"]
    means: Float[Tensor, "k d b"]
    target_mean: Float[Tensor, "k b"]
    target_covariance: Float[Tensor, "k d b"]
    target_variance: Float[Tensor, "k b"]


class IdealDenoiser(nn.Module):
    """The ideal denoiser: E[S | context, noisy target] in closed form (Eq. 4), the minimiser of Eq. 8 and 9."""

    def __init__(self, prior: GaussianMixture):
        super().__init__()
        self.prior = prior
        self.schedule = CosineSchedule()

    def condition(
        self, context: Observations, target_params: Float[Tensor, "b 1 d"], target_mask=None
    ) -> IdealCondition:
        """The exact posterior, without the noisy target. ValueError unless each signal has one target."""
        check_single_target(target_params, target_mask)
        posterior = self.prior.posterior(context)
        parts = posterior.log_weights, posterior.means, *posterior.projected_moments(target_params[:, 0])
        return IdealCondition(*(x.movedim(0, -1).contiguous() for x in parts))

    def forward(
        self, condition: IdealCondition, noisy_target: Float[Tensor, "b 1"], t: Float[Tensor, "b"]
    ) -> Float[Tensor, "b d"]:
        """E[S | context, noisy target].

        The noisy target divided by alpha is <phi, S> with noise of variance (sigma / alpha)^2.
        """
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        innovation_variance = alpha.square() * condition.target_variance + sigma.square()  # (K, B)
        innovation = noisy_target[:, 0] - alpha * condition.target_mean
        ratio = innovation / innovation_variance
        log_likelihood = -0.5 * (innovation * ratio + innovation_variance.log())
        weights = (condition.log_weights + log_likelihood).softmax(0)
        component_means = torch.addcmul(condition.means, (alpha * ratio)[:, None], condition.target_covariance)
        return (weights[:, None] * component_means).sum(0).T


# --- data -------------------------------------------------------------------------------------------------------


def sample_axis_directions(
    n: int, m: int, dims: int, generator: torch.Generator, dtype=torch.float32
) -> Float[Tensor, "n m d"]:
    """The coordinate axes in random order for each of n signals; directions beyond the first d are uniform."""
    order = torch.rand(n, dims, generator=generator).argsort(1)
    return torch.cat([torch.eye(dims, dtype=dtype)[order], sample_directions(n, m, dims, generator, dtype)], 1)[:, :m]


def sample_observations(
    signal: Float[Tensor, "b d"],
    m: int,
    generator: torch.Generator,
    direction_sampler: Callable = sample_directions,
) -> Observations:
    """m projections of each signal on random directions.

    direction_sampler: (n, m, dims, generator, dtype) -> (n, m, dims), such as sample_directions
    """
    phi = direction_sampler(len(signal), m, signal.shape[1], generator, signal.dtype)
    return Observations(project(signal, phi), phi)


def assign_roles(observations: Observations, max_contexts: int, generator: torch.Generator | None = None) -> dict:
    """A training batch from M observations of each signal: max_contexts contexts, one target, the others novel.

    With two contexts or more, half of the signals keep only the first, so that short contexts are trained, too.
    The entry "novel" is missing where M leaves no observation for it.

    ValueError if M is below max_contexts + 1.
    """
    check_count(max_contexts=max_contexts)
    m = observations.mask.shape[1]
    if m < max_contexts + 1:
        raise ValueError(
            f"a training example needs {max_contexts} contexts and a target, got {m} observations of each signal"
        )
    context = observations.select(slice(0, max_contexts))
    if max_contexts > 1:
        drop_mask = torch.rand(len(context), 1, generator=generator) < 0.5
        is_first = torch.arange(max_contexts) == 0
        context = context.mask_out(drop_mask & ~is_first)
    batch = {"context": context, "target": observations.select([max_contexts])}
    if m > max_contexts + 1:
        batch["novel"] = observations.select(slice(max_contexts + 1, None))
    return batch


def infinite_batches(
    prior: GaussianMixture,
    batch_size: int,
    max_contexts: int = 1,
    direction_sampler: Callable = sample_directions,
) -> Callable:
    """Batches of new signals, for fit(): up to max_contexts contexts, one target and one novel projection of each."""
    check_count(batch_size=batch_size, max_contexts=max_contexts)
    prior = prior.to(torch.float32)

    def batch(generator: torch.Generator) -> dict:
        signal = prior.sample(batch_size, generator)
        observations = sample_observations(signal, max_contexts + 2, generator, direction_sampler)
        return assign_roles(observations, max_contexts, generator)

    return batch


def dataset_batches(observations: Observations, batch_size: int) -> Callable:
    """Batches from a data set of N signals with K observations each, for fit().

    Each example takes three of the K observations (two if K is 2) in random order: context, target, novel.
    """
    n, k = observations.mask.shape
    check_count(batch_size=batch_size, signals=n)

    def batch(generator: torch.Generator) -> dict:
        rows = torch.randint(n, (batch_size, 1), generator=generator)
        roles = torch.rand(batch_size, k, generator=generator).argsort(1)[:, :3]
        return assign_roles(Observations(observations.value[rows, roles], observations.params[rows, roles]), 1)

    return batch


# --- the denoiser -----------------------------------------------------------------------------------------------


class ProjectionCondition(NamedTuple):
    """The terms of Eq. 4 that do not depend on the noise.

    features          the network's input
    min_norm_signal   the signal of least norm that agrees with the context
    basis             an orthonormal basis of the context's directions; a row is zero where an observation is masked,
                      repeats a direction or does not exist
    direction, norm   the part of the target's direction orthogonal to the basis, as a unit vector and its norm
    predicted_target  the target's value for min_norm_signal
    """

    features: Float[Tensor, "b f"]
    min_norm_signal: Float[Tensor, "b d"]
    basis: Float[Tensor, "b m d"]
    direction: Float[Tensor, "b d"]
    norm: Float[Tensor, "b 1"]
    predicted_target: Float[Tensor, "b 1"]


class ProjectionDenoiser(nn.Module):
    """Eq. 4 as a small MLP whose output is confined to the nullspace of the context.

    The context determines S in the span of its own directions: S = min_norm_signal + (a part orthogonal to them).
    The noisy target measures this part in one more direction. The signal-to-noise ratio of the measurement follows
    from t and from the angle to the context's directions. The network gets the measurement as input and predicts a
    correction.

    dims: d of S in R^d
    max_contexts: the largest number of observations in a context
    width, depth: of the MLP
    """

    def __init__(self, dims: int, max_contexts: int = 1, width: int = 96, depth: int = 4):
        super().__init__()
        check_count(dims=dims, max_contexts=max_contexts)
        self.max_contexts = max_contexts
        self.schedule = CosineSchedule()
        self.net = MLP(max_contexts * (1 + dims) + 2 * dims + 3, dims, width, depth)

    def condition(
        self, context: Observations, target_params: Float[Tensor, "b 1 d"], target_mask=None
    ) -> ProjectionCondition:
        """The context solved for the signal, and the target's direction relative to it.

        ValueError if the context has more than max_contexts observations, or a signal has not one target.
        """
        check_single_target(target_params, target_mask)
        m = context.mask.shape[1]
        if m > self.max_contexts:
            raise ValueError(
                f"this denoiser takes up to {self.max_contexts} observations as context, got {m}: build it with more"
            )
        check_last_sizes("context.params", context.params, target_params.shape[-1])
        basis, values, min_norm_signal = _orthonormal_context(_pad(context, self.max_contexts))
        phi = target_params[:, 0]
        direction, norm = _orthogonalize(phi, basis.unbind(1))
        features = torch.cat([min_norm_signal, basis.flatten(1), values, direction], 1)
        return ProjectionCondition(features, min_norm_signal, basis, direction, norm, _dot(min_norm_signal, phi))

    def forward(
        self, condition: ProjectionCondition, noisy_target: Float[Tensor, "b 1"], t: Float[Tensor, "b"]
    ) -> Float[Tensor, "b d"]:
        """The signal S, which agrees with the context exactly."""
        alpha, sigma = self.schedule.alpha(t)[:, None], self.schedule.sigma(t)[:, None]
        # innovation = signal_scale * <direction, S> + sigma * noise
        innovation = noisy_target - alpha * condition.predicted_target
        signal_scale = alpha * condition.norm
        total_scale = (signal_scale.square() + sigma.square()).sqrt()
        scales = [innovation / total_scale, signal_scale / total_scale, sigma / total_scale]
        output = self.net(torch.cat([condition.features, *scales], 1), t)
        direction, rows = condition.direction, condition.basis.unbind(1)
        coordinate = _dot(output, direction)
        nullspace_part = output - coordinate * direction - sum(_dot(output, row) * row for row in rows)
        coordinate = signal_scale * innovation / total_scale.square() + sigma / total_scale * coordinate
        return condition.min_norm_signal + coordinate * direction + nullspace_part

    def loss_weight(self, condition: ProjectionCondition, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """The inverse of the expected squared error in the target's direction, plus a constant that bounds it."""
        signal_scale, sigma = self.schedule.alpha(t) * condition.norm[:, 0], self.schedule.sigma(t)
        return 1 / (sigma.square() / (signal_scale.square() + sigma.square()) + 0.05**2)


def _dot(x: Float[Tensor, "b d"], y: Float[Tensor, "b d"]) -> Float[Tensor, "b 1"]:
    return (x * y).sum(-1, keepdim=True)


def _pad(context: Observations, m: int) -> Observations:
    """The context with masked observations appended, so that it has m of them."""
    missing = m - context.mask.shape[1]
    return Observations(
        nn.functional.pad(context.value, (0, missing)),
        nn.functional.pad(context.params, (0, 0, 0, missing)),
        nn.functional.pad(context.mask, (0, missing)),
    )


def _orthonormal_context(context: Observations) -> tuple[Tensor, Tensor, Tensor]:
    """The context's directions as an orthonormal basis (Gram-Schmidt); a masked or repeated one becomes a zero row.

    The three results are the basis (B, M, d), the observations' values (B, M), zero where the row is, and the signal of
    least norm that agrees with the context (B, d).
    """
    rows, values = [], []
    min_norm_signal = torch.zeros_like(context.params[:, 0])
    observations = zip(context.params.unbind(1), context.value.unbind(1), context.mask.unbind(1), strict=True)
    for phi, value, mask in observations:
        direction, norm = _orthogonalize(phi, rows)
        valid = (mask[:, None] & (norm > 1e-3)).to(phi)
        innovation = value[:, None] - _dot(min_norm_signal, phi)
        min_norm_signal = min_norm_signal + valid * direction * innovation / norm
        rows.append(valid * direction)
        values.append(valid * value[:, None])
    return torch.stack(rows, 1), torch.cat(values, 1), min_norm_signal


def _orthogonalize(phi: Float[Tensor, "b d"], rows: Sequence[Float[Tensor, "b d"]]) -> tuple[Tensor, Tensor]:
    """The component of phi orthogonal to orthonormal rows: its unit vector (B, d) and its norm (B, 1).

    The norm is at least 1e-6.
    """
    residual = phi - sum(_dot(phi, row) * row for row in rows)
    norm = residual.norm(dim=1, keepdim=True).clamp(min=1e-6)
    return residual / norm, norm


def build_diffusion(dims: int, max_contexts: int = 1, **network_options) -> ForwardDiffusion:
    """The paper's model for this problem, untrained."""
    return ForwardDiffusion(ProjectionDenoiser(dims, max_contexts, **network_options), project)


def build_regression(dims: int, **network_options) -> ForwardRegression:
    """The deterministic baseline, untrained: the same network without a noisy target."""
    return ForwardRegression(ProjectionDenoiser(dims, **network_options), project)


# --- evaluation -------------------------------------------------------------------------------------------------


def make_test_set(
    prior: GaussianMixture, n: int, seed: int, direction_sampler: Callable = sample_directions
) -> tuple[Tensor, Observations]:
    """n new signals in float64 (the truth), and one projection of each (the context)."""
    generator = torch.Generator().manual_seed(seed)
    signal = prior.sample(n, generator)
    return signal, sample_observations(signal, 1, generator, direction_sampler)


def nullspace_coordinate(signal: Float[Tensor, "*b 2"], context: Observations) -> Float[Tensor, "*b"]:
    """The coordinate of S in the nullspace of its context, one projection in R^2; signal (B, 2) or (B, n, 2)."""
    check_shape("signal", signal, (len(context), *signal.shape[1:-1], 2), context=context.params)
    direction = perpendicular(context.params[:, 0]).to(signal)
    return torch.einsum("b...d,bd->b...", signal, direction)


def c2st_features(signal: Float[Tensor, "b 2"], context: Observations) -> Float[Tensor, "b 4"]:
    """Features of p(S, O, phi) for a two-sample test: (O, cos phi, sin phi, nullspace coordinate of S)."""
    columns = [context.value, context.params[:, 0], nullspace_coordinate(signal, context)[:, None]]
    return torch.cat([x.to(torch.float32) for x in columns], 1)


def sample_posterior(
    model: ForwardDiffusion,
    context: Observations,
    generator: torch.Generator,
    target_params: Float[Tensor, "b 1 d"] | None = None,
    steps: int = 128,
    eta: float = 0.0,
) -> Float[Tensor, "b d"]:
    """One signal for each context, in float64.

    target_params: directions of the targets; by default perpendicular to the context's, in R^2
    steps, eta: of ForwardDiffusion.trajectory; a ForwardRegression ignores them
    """
    dtype = next((w.dtype for w in model.parameters()), torch.float64)
    target_params = (perpendicular(context.params) if target_params is None else target_params).to(dtype)
    options = {} if isinstance(model, ForwardRegression) else {"generator": generator, "steps": steps, "eta": eta}
    context, chunk_size = context.to(dtype), 4096  # a chunk fits a processor's cache
    chunks = [slice(i, i + chunk_size) for i in range(0, len(context), chunk_size)]
    return torch.cat([model.sample(context[rows], target_params[rows], **options).signal.double() for rows in chunks])
