"""Further baselines of the toy problem: a diffusion model that is trained on signals, and a conditional VAE."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fwdiff_lite.backbones import MLP
from fwdiff_lite.diffusion import ForwardDiffusion
from fwdiff_lite.observations import Observations, check_single_target
from fwdiff_lite.problems.toy.mixture import GaussianMixture
from fwdiff_lite.problems.toy.projections import (
    ProjectionCondition,
    ProjectionDenoiser,
    identity_forward,
    perpendicular,
    project,
    sample_observations,
)


class OracleCondition(NamedTuple):
    """The condition of ProjectionDenoiser for a target in the direction phi, the context's nullspace."""

    projection: ProjectionCondition
    phi: Float[Tensor, "b 2"]


class OracleDenoiser(ProjectionDenoiser):
    """The denoiser of a conditional diffusion model that is trained on signals: the target is S itself, in R^2."""

    def condition(
        self, context: Observations, target_params: Float[Tensor, "b 1 2"], target_mask=None
    ) -> OracleCondition:
        """As in ProjectionDenoiser, with a target in the nullspace direction of the context."""
        check_single_target(target_params, target_mask)
        phi = perpendicular(context.params[:, 0])
        return OracleCondition(super().condition(context, phi[:, None]), phi)

    def forward(
        self, condition: OracleCondition, noisy_target: Float[Tensor, "b 1 2"], t: Float[Tensor, "b"]
    ) -> Float[Tensor, "b 2"]:
        """The signal S from the context and a noisy S."""
        return super().forward(condition.projection, (noisy_target[:, 0] * condition.phi).sum(-1, keepdim=True), t)

    def loss_weight(self, condition: OracleCondition, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """As in ProjectionDenoiser."""
        return super().loss_weight(condition.projection, t)


def build_oracle(**network_options) -> ForwardDiffusion:
    """The oracle, untrained: the only model here that is trained on signals, and so an upper bound."""
    return ForwardDiffusion(OracleDenoiser(2, **network_options), identity_forward, target_shape=(2,))


def oracle_batches(prior: GaussianMixture, batch_size: int) -> Callable:
    """Batches for the oracle: one projection as context, the signal itself as target."""
    prior = prior.to(torch.float32)

    def batch(generator: torch.Generator) -> dict:
        signal = prior.sample(batch_size, generator)
        context = sample_observations(signal, 1, generator)
        return {"context": context, "target": Observations(signal[:, None], context.params)}

    return batch


class _VAENetworks(nn.Module):
    def __init__(self, dims: int, latent: int, width: int, depth: int):
        super().__init__()
        self.encoder = MLP(2 * (1 + dims), 2 * latent, width, depth)
        self.decoder = MLP(1 + dims + latent, dims, width, depth)
        self.log_scale = nn.Parameter(torch.zeros(()))


class ForwardVAE(nn.Module):
    """A conditional variational autoencoder trained through the same forward model (section 3's alternative).

    The encoder gives q(z | context, target). The decoder gives S from the context and z; S agrees with the context
    exactly. The likelihood of the target and of the novel observation is Gaussian with mean forward(S) and a learnt
    scale.

    dims: d of S in R^d
    latent: number of latent dimensions
    width, depth: of both MLPs
    """

    def __init__(self, dims: int = 2, latent: int = 4, width: int = 96, depth: int = 4):
        super().__init__()
        self.latent = latent
        self.denoiser = _VAENetworks(dims, latent, width, depth)

    def sample_time_and_noise(self, target: Observations, generator: torch.Generator) -> tuple[Tensor]:
        """The noise of the reparameterised latent; a VAE has no time."""
        return (torch.randn(len(target), self.latent, generator=generator),)

    def forward(self, context: Observations, target: Observations, noise: Tensor, novel: Observations) -> dict:
        """The negative evidence lower bound as "loss", with its parts "target" (squared error) and "kl_divergence"."""
        features = torch.cat([_flatten_observation(context), _flatten_observation(target)], 1)
        mean, log_std = self.denoiser.encoder(features, noise.new_zeros(len(noise))).chunk(2, 1)
        log_std = log_std.clamp(-6, 3)
        kl_divergence = 0.5 * (mean.square() + (2 * log_std).exp() - 2 * log_std - 1).sum(1).mean()
        signal = self.decode(context, mean + log_std.exp() * noise)
        squared_error = sum((x.value - project(signal, x.params)).square().mean() for x in (target, novel))
        log_scale = self.denoiser.log_scale.clamp(min=math.log(0.02))
        likelihood_loss = 0.5 * squared_error * (-2 * log_scale).exp() + 2 * log_scale
        return {"loss": likelihood_loss + kl_divergence, "target": squared_error, "kl_divergence": kl_divergence}

    def decode(self, context: Observations, z: Float[Tensor, "b z"]) -> Float[Tensor, "b d"]:
        """The signal S from the context and a latent code."""
        phi = context.params[:, 0]
        output = self.denoiser.decoder(torch.cat([_flatten_observation(context), z], 1), z.new_zeros(len(z)))
        return context.value * phi + output - (output * phi).sum(-1, keepdim=True) * phi

    @torch.no_grad()
    def sample(self, context: Observations, generator: torch.Generator) -> Float[Tensor, "b d"]:
        """One signal for each context, with z from the latent prior."""
        return self.decode(context, torch.randn(len(context), self.latent, generator=generator))


def _flatten_observation(observation: Observations) -> Float[Tensor, "b n"]:
    """Value and direction of one projection of each signal, concatenated."""
    return torch.cat([observation.value, observation.params.flatten(1)], 1)
