"""Gaussian mixtures, and their exact posteriors given noiseless or noisy projections <phi, S>."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from fwdiff_lite.checks import check_count, check_last_sizes, check_shape, check_values_on_cpu
from fwdiff_lite.observations import Observations


class ProjectedMoments(NamedTuple):
    """Moments of the projection <phi, S> under each of the K components of a mixture.

    mean (*B, K), covariance with S (*B, K, d), variance (*B, K)
    """

    mean: Float[Tensor, "*b k"]
    covariance: Float[Tensor, "*b k d"]
    variance: Float[Tensor, "*b k"]


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """A Gaussian mixture of K components in R^d: one mixture without a batch axis, or one for each of B contexts.

    log_weights (*B, K), means (*B, K, d), covariances (*B, K, d, d)
    """

    log_weights: Float[Tensor, "*b k"]
    means: Float[Tensor, "*b k d"]
    covariances: Float[Tensor, "*b k d d"]

    def to(self, dtype: torch.dtype) -> GaussianMixture:
        """The same mixture in another floating type."""
        return GaussianMixture(self.log_weights.to(dtype), self.means.to(dtype), self.covariances.to(dtype))

    @cached_property
    def _square_roots(self) -> Float[Tensor, "*b k d d"]:
        return _matrix_square_root(self.covariances)

    def sample(self, n: int, generator: torch.Generator) -> Float[Tensor, "*b n d"]:
        """Draw n signals from each mixture of the batch. ValueError if n is below 1."""
        check_count(n=n)
        weights = self.log_weights.softmax(-1)
        k = torch.multinomial(weights.reshape(-1, weights.shape[-1]), n, replacement=True, generator=generator)
        k = k.reshape(*weights.shape[:-1], n)
        z = torch.randn(*k.shape, self.means.shape[-1], generator=generator, dtype=self.means.dtype)
        mean = self.means.gather(-2, k[..., None].expand(z.shape))
        square_root = self._square_roots.gather(-3, k[..., None, None].expand(*z.shape, z.shape[-1]))
        return mean + torch.einsum("...ij,...j->...i", square_root, z)

    def condition_on(
        self, phi: Float[Tensor, "b d"], value: Float[Tensor, "b"], noise_variance: Tensor | float = 0.0
    ) -> GaussianMixture:
        """The mixture conditioned on value = <phi, S> + Gaussian noise, by Bayes' rule.

        Each component gets a Kalman update (a rank-one change of its covariance). Its weight is multiplied by the
        likelihood of the value under this component.

        noise_variance: a number, or (B, 1)

        ValueError if it is negative, or if value is not one number for each direction.
        """
        check_values_on_cpu(lambda: ~(torch.as_tensor(noise_variance) >= 0), "noise_variance must be 0 or more")
        check_shape("value", value, phi.shape[:-1], phi=phi)
        mean, covariance, variance = self.projected_moments(phi)
        innovation_variance = variance + noise_variance + 1e-12  # a repeated direction has variance 0: no update
        innovation = value[:, None] - mean
        kalman_gain = covariance / innovation_variance[..., None]
        log_weights = self.log_weights - 0.5 * (innovation.square() / innovation_variance + innovation_variance.log())
        return GaussianMixture(
            log_weights.log_softmax(-1),
            self.means + kalman_gain * innovation[..., None],
            self.covariances
            - kalman_gain[..., :, None] * kalman_gain[..., None, :] * innovation_variance[..., None, None],
        )

    def posterior(self, context: Observations) -> GaussianMixture:
        """The posterior p(S | context) without observation noise. Masked observations have no influence."""
        b, k, d = len(context), *self.means.shape[-2:]
        posterior = GaussianMixture(
            self.log_weights.expand(b, k), self.means.expand(b, k, d), self.covariances.expand(b, k, d, d)
        )
        noise_variance = torch.where(context.mask, 0.0, 1e12).to(self.means)  # masked: noise without information
        for m in range(context.mask.shape[1]):
            posterior = posterior.condition_on(context.params[:, m], context.value[:, m], noise_variance[:, m, None])
        return posterior

    def update(self, precision: Float[Tensor, "b d d"], vector: Float[Tensor, "b d"]) -> GaussianMixture:
        """The mixture times the likelihood exp(vector^T S - S^T precision S / 2), one for each of B contexts.

        Bayes' rule for any number of noisy linear measurements at once. The covariances are invertible.
        """
        inverse = torch.linalg.inv(self.covariances)
        natural_means = torch.einsum("...ij,...j->...i", inverse, self.means)
        covariances = torch.linalg.inv(inverse + precision[:, None])
        information = natural_means + vector[:, None]
        means = torch.einsum("bkij,bkj->bki", covariances, information)
        log_evidence = torch.logdet(covariances) + (information * means).sum(-1)
        log_evidence = log_evidence - torch.logdet(self.covariances) - (natural_means * self.means).sum(-1)
        log_weights = self.log_weights + 0.5 * log_evidence
        return GaussianMixture(log_weights.log_softmax(-1), means, covariances)

    def projected_moments(self, phi: Float[Tensor, "b d"]) -> ProjectedMoments:
        """Moments of <phi, S> under each component. ValueError if phi has another dimension."""
        check_last_sizes("phi", phi, self.means.shape[-1])
        covariance = torch.einsum("...kij,...j->...ki", self.covariances, phi)
        return ProjectedMoments(
            torch.einsum("...kd,...d->...k", self.means, phi),
            covariance,
            torch.einsum("...kd,...d->...k", covariance, phi).clamp(min=0),
        )

    def mean(self) -> Float[Tensor, "*b d"]:
        """E[S]."""
        return torch.einsum("...k,...kd->...d", self.log_weights.softmax(-1), self.means)

    def projected_log_density(self, signal: Float[Tensor, "b n d"], phi: Float[Tensor, "b d"]) -> Float[Tensor, "b n"]:
        """The log density of <phi, S> under each mixture, evaluated at <phi, signal>.

        Where the posterior lies on a line with direction phi, this is its full density.
        """
        check_last_sizes("signal", signal, self.means.shape[-1])
        mean, _, variance = self.projected_moments(phi)
        value = torch.einsum("...nd,...d->...n", signal, phi)[..., None]
        variance = variance[..., None, :]
        log_p = -0.5 * ((value - mean[..., None, :]).square() / variance + (2 * math.pi * variance).log())
        return (self.log_weights.log_softmax(-1)[..., None, :] + log_p).logsumexp(-1)


def _matrix_square_root(covariance: Float[Tensor, "*b d d"]) -> Float[Tensor, "*b d d"]:
    """A matrix R with R R^T = covariance. The covariance may be singular."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp(min=0).sqrt()[..., None, :]
