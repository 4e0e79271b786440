"""The toy proof: signals S in R^2 or R^3 from a Gaussian mixture, of which only 1-D projections are ever seen.

An observation is one number, O = <phi, S>, phi a unit vector. One observation leaves a line (in R^3 a plane) of
candidates; d directions determine S; all directions determine its distribution (Cramer and Wold, 1936). That is the
assumption of Proposition 1 in its purest form, and here everything the proposition speaks of has a closed form.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fwdiff_lite.backbones import MLP
from fwdiff_lite.diffusion import ForwardDiffusion, ForwardRegression
from fwdiff_lite.observations import Observations
from fwdiff_lite.schedule import CosineSchedule

# --- the forward model ------------------------------------------------------------------------------------------


def project(signal: Float[Tensor, "b d"], params: Float[Tensor, "b m d"]) -> Float[Tensor, "b m"]:
    """The forward model: O = <phi, S>."""
    return torch.einsum("bd,bmd->bm", signal, params)


def directions(
    n: int, m: int, dims: int, generator: torch.Generator, dtype=torch.float32, wedge: float = 2 * math.pi
) -> Float[Tensor, "n m d"]:
    """Unit vectors, uniform over all directions; in R^2 they can be confined to a wedge of so many radians about 0."""
    if dims == 2:
        angle = wedge * (torch.rand(n, m, generator=generator, dtype=dtype) - 0.5)
        return torch.stack([angle.cos(), angle.sin()], -1)
    if wedge < 2 * math.pi:
        raise ValueError(f"a wedge of directions is for signals in R^2, got dims={dims}")
    return nn.functional.normalize(torch.randn(n, m, dims, generator=generator, dtype=dtype), dim=-1)


def across(phi: Float[Tensor, "*b 2"]) -> Float[Tensor, "*b 2"]:
    """The unit vector a quarter turn from phi: what one projection in R^2 leaves open lies along it."""
    return torch.stack([-phi[..., 1], phi[..., 0]], -1)


# --- the truth --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Mixture:
    """A Gaussian mixture of K components in R^d, the same for all (no batch) or one for each of B contexts.

    log_weights (*B, K), means (*B, K, d), covariances (*B, K, d, d)
    """

    log_weights: Float[Tensor, "*b k"]
    means: Float[Tensor, "*b k d"]
    covariances: Float[Tensor, "*b k d d"]

    def to(self, dtype: torch.dtype) -> Mixture:
        """The same in another floating type."""
        return Mixture(self.log_weights.to(dtype), self.means.to(dtype), self.covariances.to(dtype))

    def sample(self, n: int, generator: torch.Generator) -> Float[Tensor, "*b n d"]:
        """n draws, of each mixture of the batch."""
        weights = self.log_weights.softmax(-1)
        k = torch.multinomial(weights.reshape(-1, weights.shape[-1]), n, replacement=True, generator=generator)
        k = k.reshape(*weights.shape[:-1], n)
        roots = _root(self.covariances)
        z = torch.randn(*k.shape, self.means.shape[-1], generator=generator, dtype=self.means.dtype)
        mean = self.means.gather(-2, k[..., None].expand(z.shape))
        root = roots.gather(-3, k[..., None, None].expand(*z.shape, z.shape[-1]))
        return mean + torch.einsum("...ij,...j->...i", root, z)

    def observe(
        self, phi: Float[Tensor, "b d"], value: Float[Tensor, "b"], variance: Tensor | float = 0.0
    ) -> Mixture:
        """The mixture given value = <phi, S> + noise of this variance (a number, or (B, 1)).

        Bayes' rule: one rank-one update a component, and weights by how well each foresaw the value.
        """
        mean, gain, spread = self.along(phi)
        total = spread + variance + 1e-12  # a direction seen before has no spread left, and changes nothing
        surprise = value[:, None] - mean
        gain = gain / total[..., None]
        log_weights = self.log_weights - 0.5 * (surprise.square() / total + total.log())
        return Mixture(
            log_weights.log_softmax(-1),
            self.means + gain * surprise[..., None],
            self.covariances - gain[..., :, None] * gain[..., None, :] * total[..., None, None],
        )

    def given(self, context: Observations) -> Mixture:
        """The posterior p(S | context), noiseless; observations that are masked out change nothing."""
        b, k, d = len(context), *self.means.shape[-2:]
        posterior = Mixture(
            self.log_weights.expand(b, k), self.means.expand(b, k, d), self.covariances.expand(b, k, d, d)
        )
        unseen = torch.where(context.mask, 0.0, 1e12).to(self.means)  # an observation this noisy says nothing
        for m in range(context.mask.shape[1]):
            posterior = posterior.observe(context.params[:, m], context.value[:, m], unseen[:, m, None])
        return posterior

    def along(self, phi: Float[Tensor, "b d"]) -> tuple[Tensor, Tensor, Tensor]:
        """Of each component, along phi: the mean (B, K), the covariance times phi (B, K, d), the variance (B, K)."""
        gain = torch.einsum("...kij,...j->...ki", self.covariances, phi)
        return (
            torch.einsum("...kd,...d->...k", self.means, phi),
            gain,
            torch.einsum("...kd,...d->...k", gain, phi).clamp(min=0),
        )

    def mean(self) -> Float[Tensor, "*b d"]:
        """E[S]."""
        return torch.einsum("...k,...kd->...d", self.log_weights.softmax(-1), self.means)

    def log_density(self, signal: Float[Tensor, "b n d"], phi: Float[Tensor, "b d"]) -> Float[Tensor, "b n"]:
        """log p(<phi, S>) of each mixture at <phi, signal>: along a line, the posterior's whole density."""
        mean, _, variance = self.along(phi)
        value = torch.einsum("...nd,...d->...n", signal, phi)[..., None]
        variance = variance[..., None, :]
        log_p = -0.5 * ((value - mean[..., None, :]).square() / variance + (2 * math.pi * variance).log())
        return (self.log_weights.log_softmax(-1)[..., None, :] + log_p).logsumexp(-1)


def _root(covariance: Float[Tensor, "*b d d"]) -> Float[Tensor, "*b d d"]:
    """A matrix R with R R^T = covariance, singular ones (a line, a plane) included."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp(min=0).sqrt()[..., None, :]


def mixture(dims: int) -> Mixture:
    """The signals' distribution: four unequal components in R^2 or R^3, in float64.

    In R^3 they lie two by two above each other, so that no two projections give the third away.
    """
    if dims == 2:
        means = [[-1.2, -0.5], [0.7, -1.1], [0.1, 1.2], [1.6, 0.8]]
        axes = [[0.5, 0.2], [0.3, 0.3], [0.55, 0.18], [0.2, 0.35]]
    elif dims == 3:
        means = [[-0.7, -0.5, 1.2], [-0.5, -0.7, -1.0], [0.8, 0.7, -1.1], [0.9, 0.4, 1.1]]
        axes = [[0.5, 0.3, 0.25], [0.4, 0.4, 0.3], [0.6, 0.25, 0.3], [0.3, 0.4, 0.25]]
    else:
        raise ValueError(f"the toy's signals live in R^2 or R^3, got dims={dims}")
    weights = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
    angle = torch.tensor([0.6, 0.0, -0.4, 0.3], dtype=torch.float64)
    turn = torch.eye(dims, dtype=torch.float64).repeat(4, 1, 1)
    turn[:, 0, 0], turn[:, 0, 1], turn[:, 1, 0], turn[:, 1, 1] = angle.cos(), -angle.sin(), angle.sin(), angle.cos()
    root = turn * torch.tensor(axes, dtype=torch.float64)[:, None, :]
    return Mixture(weights.log(), torch.tensor(means, dtype=torch.float64), root @ root.mT)


class IdealDenoiser(nn.Module):
    """Eq. 4 without a network: E[S | context, noisy target] in closed form, the minimiser of Eq. 8 and 9."""

    def __init__(self, prior: Mixture, schedule: CosineSchedule | None = None):
        super().__init__()
        self.prior = prior
        self.schedule = schedule or CosineSchedule()

    def condition(self, context: Observations, target_params: Float[Tensor, "b 1 d"]):
        """p(S | context), and what it says along the target's direction."""
        posterior = self.prior.given(context)
        return posterior, *posterior.along(target_params[:, 0])

    def forward(self, condition, noisy_target: Float[Tensor, "b 1"], t: Float[Tensor, "b"]) -> Float[Tensor, "b d"]:
        """E[S | context, noisy target]: the target at time t is <phi, S> with noise of variance (sigma / alpha)^2."""
        posterior, mean, gain, variance = condition
        alpha, sigma = self.schedule.alpha(t)[:, None], self.schedule.sigma(t)[:, None]
        total = alpha.square() * variance + sigma.square()  # of the noisy target, for each component
        surprise = noisy_target - alpha * mean
        weights = (posterior.log_weights - 0.5 * (surprise.square() / total + total.log())).softmax(-1)
        parts = posterior.means + (alpha * surprise / total)[..., None] * gain  # E[S | .] of each component
        return (weights[..., None] * parts).sum(1)


# --- data -------------------------------------------------------------------------------------------------------


def axes_first(n: int, m: int, dims: int, generator: torch.Generator, dtype=torch.float32) -> Float[Tensor, "n m d"]:
    """The coordinate axes in random order, then directions drawn from all."""
    order = torch.rand(n, dims, generator=generator).argsort(1)
    return torch.cat([torch.eye(dims, dtype=dtype)[order], directions(n, m, dims, generator, dtype)], 1)[:, :m]


def observe(
    signal: Float[Tensor, "b d"], m: int, generator: torch.Generator, draw: Callable = directions
) -> Observations:
    """m projections of each signal, on fresh directions: draw(n, m, dims, generator, dtype) -> (n, m, dims)."""
    phi = draw(len(signal), m, signal.shape[1], generator, signal.dtype)
    return Observations(project(signal, phi), phi)


def tuples(observations: Observations, contexts: int, generator: torch.Generator | None = None) -> dict:
    """M observations of each signal as a training tuple: contexts, one target, and the rest, if any, as novel.

    With two contexts or more, all but the first are left out of half of the signals, so that every size is trained.
    """
    m = observations.mask.shape[1]
    if m < contexts + 1:
        raise ValueError(f"a training tuple needs {contexts} contexts and a target, got {m} observations a signal")
    context = observations.select(slice(0, contexts))
    if contexts > 1:
        gone = torch.rand(len(context), 1, generator=generator) < 0.5
        first = torch.arange(contexts) == 0
        context = context.mask_out(gone & ~first)
    batch = {"context": context, "target": observations.select([contexts])}
    if m > contexts + 1:
        batch["novel"] = observations.select(slice(contexts + 1, None))
    return batch


def endless(prior: Mixture, size: int, contexts: int = 1, draw: Callable = directions) -> Callable:
    """Batches of fresh signals, each seen by up to `contexts`, one target and one novel projection."""
    prior = prior.to(torch.float32)

    def batch(generator: torch.Generator) -> dict:
        seen = observe(prior.sample(size, generator), contexts + 2, generator, draw)
        return tuples(seen, contexts, generator)

    return batch


def finite(observations: Observations, size: int) -> Callable:
    """Batches from a training set of N signals with K observations each: a random few of the K, in random roles."""
    n, k = observations.mask.shape

    def batch(generator: torch.Generator) -> dict:
        rows = torch.randint(n, (size, 1), generator=generator)
        roles = torch.rand(size, k, generator=generator).argsort(1)[:, :3]
        return tuples(Observations(observations.value[rows, roles], observations.params[rows, roles]), 1)

    return batch


# --- the denoiser -----------------------------------------------------------------------------------------------


class ProjectionDenoiser(nn.Module):
    """Eq. 4 as a small MLP that answers only where the context leaves S open.

    The context fixes S along its own directions, S = known + (what is orthogonal to them). The noisy target measures
    one more direction q of what is left, with a signal-to-noise ratio that follows from t and the angle; the network
    sees that measurement, and adds what the data say to it.

    dims: d of S in R^d; contexts: the largest number of observations in a context
    """

    def __init__(self, dims: int, contexts: int = 1, width: int = 96, depth: int = 4):
        super().__init__()
        self.contexts = contexts
        self.schedule = CosineSchedule()
        self.net = MLP(contexts * (1 + dims) + 2 * dims + 3, dims, width, depth)

    def condition(self, context: Observations, target_params: Float[Tensor, "b 1 d"]):
        """What the context fixes, its directions made orthonormal, and what the target sees beyond them."""
        m = context.mask.shape[1]
        if m > self.contexts:
            raise ValueError(f"this denoiser takes up to {self.contexts} observations as context, got {m}")
        b, _, d = context.params.shape
        known = context.value.new_zeros(b, d)
        rows = context.value.new_zeros(b, self.contexts, d)
        seen = context.value.new_zeros(b, self.contexts)
        for i in range(m):  # Gram-Schmidt; a direction that is missing, or was there before, adds nothing
            phi = context.params[:, i]
            row, size = _beyond(phi, rows)
            there = (context.mask[:, i, None] & (size > 1e-3)).to(phi)
            rows = torch.cat([rows[:, :i], (there * row)[:, None], rows[:, i + 1 :]], 1)
            surprise = context.value[:, i, None] - _dot(known, phi)
            known = known + there * row * surprise / size
            seen = torch.cat([seen[:, :i], there * context.value[:, i, None], seen[:, i + 1 :]], 1)
        phi = target_params[:, 0]
        new, size = _beyond(phi, rows)
        features = torch.cat([known, rows.flatten(1), seen, new], 1)
        return features, known, rows, new, size, _dot(known, phi)

    def forward(self, condition, noisy_target: Float[Tensor, "b 1"], t: Float[Tensor, "b"]) -> Float[Tensor, "b d"]:
        """S, exact along the context's directions."""
        features, known, rows, new, size, expected = condition
        alpha, sigma = self.schedule.alpha(t)[:, None], self.schedule.sigma(t)[:, None]
        surprise, gain = noisy_target - alpha * expected, alpha * size  # surprise = gain <new, S> + sigma noise
        total = (gain.square() + sigma.square()).sqrt()
        answer = self.net(torch.cat([features, surprise / total, gain / total, sigma / total], 1), t)
        along = _dot(answer, new)
        open_part = answer - along * new - sum(_dot(answer, row) * row for row in rows.unbind(1))
        return known + (gain * surprise / total.square() + sigma / total * along) * new + open_part

    def loss_weight(self, condition, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """The inverse of what the noisy target leaves unknown about its direction, and a little."""
        gain, sigma = self.schedule.alpha(t) * condition[4][:, 0], self.schedule.sigma(t)
        return 1 / (sigma.square() / (gain.square() + sigma.square()) + 0.05**2)


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(-1, keepdim=True)


def _beyond(phi: Float[Tensor, "b d"], rows: Float[Tensor, "b m d"]) -> tuple[Tensor, Tensor]:
    """The unit vector of what phi sees beyond the orthonormal rows, and how much that is (at least 1e-6)."""
    new = phi - sum(_dot(phi, row) * row for row in rows.unbind(1))
    size = new.norm(dim=1, keepdim=True).clamp(min=1e-6)
    return new / size, size


def diffusion(dims: int, contexts: int = 1, **network) -> ForwardDiffusion:
    """The paper's model for this problem."""
    return ForwardDiffusion(ProjectionDenoiser(dims, contexts, **network), project)


def regression(dims: int, **network) -> ForwardRegression:
    """The deterministic baseline: the same network, without a noisy target."""
    return ForwardRegression(ProjectionDenoiser(dims, **network), project)


# --- what people would try instead ------------------------------------------------------------------------------


class OracleDenoiser(ProjectionDenoiser):
    """A conditional diffusion model that was allowed to see S: the noise is on S itself, in R^2."""

    def condition(self, context: Observations, target_params: Float[Tensor, "b 1 2"]):
        """As if the target were what the context leaves open."""
        phi = across(context.params[:, 0])
        return super().condition(context, phi[:, None]), phi

    def forward(self, condition, noisy_target: Float[Tensor, "b 1 2"], t: Float[Tensor, "b"]) -> Float[Tensor, "b 2"]:
        """S from the context and a noisy S."""
        condition, phi = condition
        return super().forward(condition, _dot(noisy_target[:, 0], phi), t)

    def loss_weight(self, condition, t: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
        """As for the noisy target that it is."""
        return super().loss_weight(condition[0], t)


def reveal(signal: Float[Tensor, "b d"], params: Tensor) -> Float[Tensor, "b 1 d"]:
    """The oracle's forward model: the signal itself."""
    return signal[:, None]


def oracle(**network) -> ForwardDiffusion:
    """The upper bound: trained on signals, as no other model here is."""
    return ForwardDiffusion(OracleDenoiser(2, **network), reveal, target_shape=(2,))


def revealed(prior: Mixture, size: int) -> Callable:
    """Batches for the oracle: one projection as context, the signal itself as target."""
    prior = prior.to(torch.float32)

    def batch(generator: torch.Generator) -> dict:
        signal = prior.sample(size, generator)
        context = observe(signal, 1, generator)
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

    z ~ q(z | context, target); S = decoder(context, z), exact along the context's direction; the likelihood of target
    and novel is Gaussian around forward(S), its scale learnt.
    """

    def __init__(self, dims: int = 2, latent: int = 4, width: int = 96, depth: int = 4):
        super().__init__()
        self.latent = latent
        self.denoiser = _VAENetworks(dims, latent, width, depth)

    def sample_time_and_noise(self, target: Observations, generator: torch.Generator) -> tuple[Tensor]:
        """The noise of the reparameterised latent."""
        return (torch.randn(len(target), self.latent, generator=generator),)

    def forward(self, context: Observations, target: Observations, noise: Tensor, novel: Observations) -> dict:
        """The negative evidence lower bound."""
        features = torch.cat([_number(context), _number(target)], 1)
        mean, log_std = self.denoiser.encoder(features, noise.new_zeros(len(noise))).chunk(2, 1)
        log_std = log_std.clamp(-6, 3)
        divergence = 0.5 * (mean.square() + (2 * log_std).exp() - 2 * log_std - 1).sum(1).mean()
        signal = self.decode(context, mean + log_std.exp() * noise)
        misfit = sum((x.value - project(signal, x.params)).square().mean() for x in (target, novel))
        log_scale = self.denoiser.log_scale.clamp(min=math.log(0.02))
        fit = 0.5 * misfit * (-2 * log_scale).exp() + 2 * log_scale
        return {"loss": fit + divergence, "target": misfit, "divergence": divergence}

    def decode(self, context: Observations, z: Float[Tensor, "b z"]) -> Float[Tensor, "b d"]:
        """S from the context and a latent code."""
        phi = context.params[:, 0]
        answer = self.denoiser.decoder(torch.cat([_number(context), z], 1), z.new_zeros(len(z)))
        return context.value * phi + answer - _dot(answer, phi) * phi

    @torch.no_grad()
    def sample(self, context: Observations, generator: torch.Generator) -> Float[Tensor, "b d"]:
        """One signal for each context, z from its prior."""
        return self.decode(context, torch.randn(len(context), self.latent, generator=generator))


def _number(observation: Observations) -> Float[Tensor, "b n"]:
    """A single projection as numbers: value and direction."""
    return torch.cat([observation.value, observation.params.flatten(1)], 1)


# --- examining a model ------------------------------------------------------------------------------------------


def exam(prior: Mixture, n: int, seed: int, draw: Callable = directions) -> tuple[Tensor, Observations]:
    """n fresh signals in float64 and one projection of each: the questions, with a right answer to each."""
    generator = torch.Generator().manual_seed(seed)
    signal = prior.sample(n, generator)
    return signal, observe(signal, 1, generator, draw)


def open_part(signal: Float[Tensor, "*b 2"], context: Observations) -> Float[Tensor, "*b"]:
    """The coordinate of S along the line that one projection in R^2 leaves open; signal (B, 2) or (B, n, 2)."""
    along = across(context.params[:, 0]).to(signal)
    return torch.einsum("b...d,bd->b...", signal, along)


def joint(signal: Float[Tensor, "b 2"], context: Observations) -> Float[Tensor, "b 4"]:
    """What a two-sample test of p(S, O, phi) looks at: (o, cos phi, sin phi, coordinate along the line)."""
    columns = [context.value, context.params[:, 0], open_part(signal, context)[:, None]]
    return torch.cat([x.to(torch.float32) for x in columns], 1)


def answer(
    model: ForwardDiffusion,
    context: Observations,
    generator: torch.Generator,
    target: Float[Tensor, "b 1 d"] | None = None,
    steps: int = 128,
    eta: float = 0.0,
) -> Float[Tensor, "b d"]:
    """One signal for each context, in float64; the target is orthogonal to the context unless it is given."""
    dtype = next((w.dtype for w in model.parameters()), torch.float64)
    target = (across(context.params) if target is None else target).to(dtype)
    stochastic = {"generator": generator, "steps": steps, "eta": eta}
    options = {} if isinstance(model, ForwardRegression) else stochastic
    context, chunk = context.to(dtype), 4096  # what a processor's cache holds
    return torch.cat(
        [
            model.sample(context[i : i + chunk], target[i : i + chunk], **options).signal.double()
            for i in range(0, len(context), chunk)
        ]
    )
