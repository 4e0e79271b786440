"""Measurements with known noise, against closed forms in float64."""

import math

import pytest
import torch

from fwdiff_lite.diagnostics import check_samples
from fwdiff_lite.diffusion import ForwardDiffusion
from fwdiff_lite.observations import Observations
from fwdiff_lite.problems.toy import noisy_projections as noisy
from fwdiff_lite.problems.toy.mixture import GaussianMixture
from fwdiff_lite.problems.toy.projections import make_prior, project


def seed(n: int) -> torch.Generator:
    return torch.Generator().manual_seed(n)


def normal_prior() -> GaussianMixture:
    """One standard normal component in R^2: every expectation is linear."""
    eye = torch.eye(2, dtype=torch.float64)
    return GaussianMixture(torch.zeros(1, dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64), eye[None])


def ideal_model(prior: GaussianMixture) -> ForwardDiffusion:
    return ForwardDiffusion(noisy.IdealNoisyDenoiser(prior), noisy.NoisyProjection())


class Scaled(noisy.IdealNoisyDenoiser):
    """The ideal denoiser with all signals times a factor."""

    factor = 1.0

    def predict(self, information):
        return self.factor * super().predict(information)


def test_one_update_is_that_of_successive_measurements():
    prior = make_prior(2)
    _, context = noisy.make_test_set(prior, 20, 0.3, 0)
    expected = GaussianMixture(
        prior.log_weights.expand(20, 4), prior.means.expand(20, 4, 2), prior.covariances.expand(20, 4, 2, 2)
    ).condition_on(context.params[:, 0, :2], context.value[:, 0], 0.3**2)
    for x, y in zip(vars(noisy.exact_posterior(prior, context)).values(), vars(expected).values(), strict=True):
        torch.testing.assert_close(x, y)


def test_the_expected_measurement_is_exact():
    """S in R^1 along phi is N(0, 1), y = S + n: E[y | alpha y + sigma epsilon] in closed form."""
    noise_std, model = 0.6, ideal_model(normal_prior())
    params = torch.tensor([[[1.0, 0.0, noise_std]]], dtype=torch.float64)
    context = Observations(torch.zeros(1, 1, dtype=torch.float64), params, torch.zeros(1, 1, dtype=torch.bool))
    steps = model.trajectory(context, params, steps=8, generator=seed(0), allow_empty=True)
    for step in steps:
        angle = step.t * math.pi / 2
        alpha, sigma, variance = math.cos(angle), math.sin(angle), 1 + noise_std**2
        expected = alpha * variance / (alpha**2 * variance + sigma**2) * step.noisy_target
        torch.testing.assert_close(step.observation, expected)


@pytest.mark.parametrize(("assumed", "unbiased"), [(1.0, True), (0.05, False), (2.0, False)])
def test_the_loss_is_least_for_the_ideal_denoiser(assumed, unbiased):
    """The loss is a parabola in a factor of the signals. Its minimum is at 1 if the assumed noise is the true one."""
    prior, n = normal_prior(), 40_000
    generator, noise_std = seed(1), 0.5
    signal = prior.sample(n, generator)
    phi = torch.nn.functional.normalize(torch.randn(n, 3, 2, generator=generator, dtype=torch.float64), dim=-1)
    measurements = noisy.observe(signal, phi, torch.full((n,), noise_std, dtype=torch.float64), generator)
    params = torch.cat([phi, torch.full((n, 3, 1), assumed * noise_std, dtype=torch.float64)], -1)
    measurements = Observations(measurements.value, params)
    model = ForwardDiffusion(Scaled(prior), noisy.NoisyProjection())
    context, target = measurements.select([0]), measurements.select([1, 2])
    t, noise = model.sample_time_and_noise(target, generator)
    losses = []
    for model.denoiser.factor in (0.9, 1.0, 1.1):
        losses.append(float(model.loss(context, target, t, noise)["target"]))
    below, middle, above = losses
    best = 1 + 0.05 * (below - above) / (below - 2 * middle + above)
    assert (abs(best - 1) < 0.02) is unbiased, best


@pytest.mark.parametrize(("assumed", "exact"), [(1.0, True), (0.05, False), (2.0, False)])
def test_samples_have_the_exact_posterior(assumed, exact):
    """With many targets, the sampled signals have the posterior's residuals, and its variance perpendicular to phi."""
    prior, noise_std, m = make_prior(2), 0.5, 64
    truth, context = noisy.make_test_set(prior, 2000, noise_std, 2)
    assumed_context = Observations(
        context.value, torch.cat([context.params[..., :2], assumed * context.params[..., 2:]], -1)
    )
    step = ideal_model(prior).sample(
        assumed_context, noisy.alternating_targets(assumed_context, m), steps=64, generator=seed(3)
    )
    residual = float(noisy.scaled_residual(step.signal, context).square().mean().sqrt())
    measured = project(step.signal, noisy.alternating_targets(context, m)[..., :2])
    spread = float((step.observation - measured).square().mean().sqrt()) / noise_std
    assert (0.94 < residual < 1.04) is exact, residual
    assert (0.94 < spread < 1.04) is exact, spread  # targets are measurements, with their noise
    energy = noisy.exact_posterior(prior, context).sample(1, seed(4))[:, 0]
    if exact:
        assert float((step.signal.var(0) / energy.var(0) - 1).abs().max()) < 0.08


def test_masked_targets_and_contexts_have_no_information():
    prior = make_prior(2)
    _, context = noisy.make_test_set(prior, 8, 0.3, 5)
    targets, denoiser = noisy.alternating_targets(context, 4), noisy.IdealNoisyDenoiser(prior)
    value, t = torch.randn(8, 4, generator=seed(6), dtype=torch.float64), torch.full((8,), 0.4, dtype=torch.float64)
    mask = torch.tensor([True, True, False, False]).expand(8, 4)
    masked = denoiser(denoiser.condition(context, targets, mask), value, t)
    fewer = denoiser(denoiser.condition(context, targets[:, :2]), value[:, :2], t)
    torch.testing.assert_close(masked, fewer)


def test_check_samples_allows_for_the_noise_of_contexts():
    prior = make_prior(2)
    truth, context = noisy.make_test_set(prior, 64, 0.5, 8)
    targets = noisy.alternating_targets(context, 16)
    measured = noisy.observe(truth, targets[..., :2], targets[:, 0, 2], seed(9))
    batch = {"context": context, "target": measured}
    assert check_samples(ideal_model(prior), batch, steps=32, generator=seed(10)) == []
    shifted = Observations(context.value + 1.5, context.params)
    assert check_samples(ideal_model(prior), batch | {"context": shifted}, steps=32, generator=seed(10)), "the control"
