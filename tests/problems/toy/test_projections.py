"""The projection problem: closed forms, denoisers, baselines, and errors on bad input."""

import math
from functools import partial

import pytest
import torch

from fwdiff_lite.diffusion import ForwardDiffusion
from fwdiff_lite.metrics import wasserstein1
from fwdiff_lite.observations import Observations
from fwdiff_lite.problems.toy import baselines, projections


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("dims", [2, 3])
def test_samples_of_the_mixture_have_its_mean_and_covariance(dims):
    prior = projections.make_prior(dims)
    weights = prior.log_weights.exp()
    assert float(weights.sum()) == pytest.approx(1) and len(set(weights.tolist())) == 4
    mean = (weights[:, None] * prior.means).sum(0)
    second_moments = prior.covariances + prior.means[:, :, None] * prior.means[:, None]
    covariance = (weights[:, None, None] * second_moments).sum(0) - mean[:, None] * mean
    x = prior.sample(200_000, generator())
    torch.testing.assert_close(x.mean(0), mean, atol=0.01, rtol=0)
    torch.testing.assert_close(x.T.cov(), covariance, atol=0.02, rtol=0)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_posterior_is_bayes_rule_on_a_grid(dims):
    """The density on the line of possible signals equals prior(S) on that line, normalised numerically."""
    prior = projections.make_prior(dims)
    signal, _ = projections.make_test_set(prior, 3, 0)
    context = projections.sample_observations(signal, dims - 1, generator(1))
    posterior = prior.posterior(context)
    _, _, vh = torch.linalg.svd(context.params)
    direction = vh[:, -1]  # of the context's nullspace
    grid = torch.linspace(-5, 5, 4001, dtype=torch.float64)
    min_norm_signal = torch.linalg.lstsq(context.params, context.value[..., None]).solution[..., 0]
    points = min_norm_signal[:, None] + grid[:, None] * direction[:, None]  # (3, grid, dims)
    components = torch.distributions.MultivariateNormal(prior.means, prior.covariances)
    weights = torch.distributions.Categorical(logits=prior.log_weights)
    mixture = torch.distributions.MixtureSameFamily(weights, components)
    numeric = mixture.log_prob(points).exp()
    numeric = numeric / torch.trapezoid(numeric, grid)[:, None]
    torch.testing.assert_close(posterior.projected_log_density(points, direction).exp(), numeric, atol=1e-6, rtol=1e-4)
    mean = torch.trapezoid(numeric[..., None] * points, grid, dim=1)
    torch.testing.assert_close(posterior.mean(), mean, atol=1e-6, rtol=0)


def test_posterior_draws_agree_with_the_context_and_a_repeated_observation_changes_nothing():
    prior = projections.make_prior(2)
    _, context = projections.make_test_set(prior, 5, 0)
    posterior = prior.posterior(context)
    draws = posterior.sample(100, generator())
    assert (torch.einsum("bnd,bd->bn", draws, context.params[:, 0]) - context.value).abs().max() < 1e-4
    repeated = prior.posterior(context.append(context))
    torch.testing.assert_close(repeated.means, posterior.means, atol=1e-4, rtol=0)
    torch.testing.assert_close(repeated.log_weights, posterior.log_weights, atol=1e-4, rtol=0)


def test_masked_observations_have_no_influence():
    prior = projections.make_prior(2)
    signal, context = projections.make_test_set(prior, 4, 0)
    other = projections.sample_observations(signal, 1, generator(3))
    with_masked = context.append(other).mask_out(torch.tensor([[False, True]]).expand(4, 2))
    torch.testing.assert_close(prior.posterior(with_masked).mean(), prior.posterior(context).mean(), atol=1e-8, rtol=0)
    assert (prior.posterior(context.append(other)).mean() - signal).abs().max() < 1e-6, "two directions determine S"


def test_the_ideal_denoiser_is_the_mean_of_the_posterior_given_the_noisy_target():
    prior = projections.make_prior(3)
    true_signal, context = projections.make_test_set(prior, 50, 0)
    denoiser = projections.IdealDenoiser(prior)
    target = projections.sample_directions(50, 1, 3, generator(1), torch.float64)
    t = torch.rand(50, generator=generator(2), dtype=torch.float64)
    alpha, sigma = denoiser.schedule.alpha(t), denoiser.schedule.sigma(t)
    noisy = alpha[:, None] * projections.project(true_signal, target) + sigma[:, None] * torch.randn(
        50, 1, generator=generator(4)
    )
    posterior = prior.posterior(context).condition_on(
        target[:, 0], noisy[:, 0] / alpha, ((sigma / alpha) ** 2)[:, None]
    )
    signal = denoiser(denoiser.condition(context, target), noisy, t)
    torch.testing.assert_close(signal, posterior.mean(), atol=1e-6, rtol=1e-6)


def test_the_ideal_denoiser_minimises_eq_8_and_9():
    """A perturbation of its output increases the loss."""
    prior = projections.make_prior(2)
    batch = {k: x.to(torch.float64) for k, x in projections.infinite_batches(prior, 20_000)(generator()).items()}

    class PerturbedDenoiser(projections.IdealDenoiser):
        perturbation = 0.0

        def forward(self, condition, noisy_target, t):
            return super().forward(condition, noisy_target, t) * (1 + self.perturbation)

    denoiser = PerturbedDenoiser(prior)
    model = ForwardDiffusion(denoiser, projections.project)
    t, noise = model.sample_time_and_noise(batch["target"], generator(1))
    losses = []
    for perturbation in (-0.05, 0.0, 0.05):
        denoiser.perturbation = perturbation
        losses.append(float(model.loss(batch["context"], batch["target"], t, noise, batch["novel"])["loss"]))
    assert losses[1] < losses[0] and losses[1] < losses[2]


def test_exact_sampling_reaches_the_posterior_and_few_steps_do_not():
    prior, n = projections.make_prior(2), 2000
    _, context = projections.make_test_set(prior, 10, 3)
    repeated, g = context.repeat(n), generator(5)
    exact, exact_redraw = (
        projections.nullspace_coordinate(prior.posterior(context).sample(n, g), context) for _ in range(2)
    )
    sampling_error = wasserstein1(exact_redraw, exact).mean()
    model = ForwardDiffusion(projections.IdealDenoiser(prior), projections.project)
    ratio = {}
    for steps in (4, 256):
        signal = projections.sample_posterior(model, repeated, g, steps=steps)
        samples = projections.nullspace_coordinate(signal, repeated).reshape(10, n)
        ratio[steps] = wasserstein1(samples, exact).mean() / sampling_error
    assert ratio[256] < 1.5 < 4 < ratio[4]


@pytest.mark.parametrize("dims, num_contexts", [(2, 1), (3, 1), (3, 2)])
def test_the_denoiser_agrees_with_its_context_whatever_its_weights(dims, num_contexts):
    torch.manual_seed(0)
    signal = projections.make_prior(dims).sample(64, generator()).float()
    context = projections.sample_observations(signal, num_contexts, generator(1))
    model = projections.build_diffusion(dims, max(num_contexts, dims - 1), width=16, depth=2)
    sample = model.sample(
        context, projections.sample_directions(64, 1, dims, generator(2)), steps=3, generator=generator(3)
    ).signal
    torch.testing.assert_close(projections.project(sample, context.params), context.value, atol=2e-3, rtol=0)
    assert (sample - signal).norm(dim=1).mean() > 0.1, "an untrained model agrees with the context, not with the signal"


def test_the_denoiser_ignores_what_is_masked_and_repeated():
    torch.manual_seed(0)
    signal = projections.make_prior(3).sample(32, generator())
    context = projections.sample_observations(signal, 2, generator(1))
    denoiser = projections.build_diffusion(3, 2, width=16, depth=2).double().denoiser
    target, noisy, t = context.params[:, :1].roll(1, 0), torch.ones(32, 1).double(), torch.full((32,), 0.5).double()
    drop_mask = torch.tensor([[False, True]]).expand(32, 2)
    outputs = []
    for value in (context.value, context.value + torch.tensor([0.0, 9.0])):
        masked = Observations(value, context.params).mask_out(drop_mask)
        outputs.append(denoiser(denoiser.condition(masked, target), noisy, t))
    assert torch.equal(*outputs)
    single = denoiser.condition(context.select([0]), target)
    repeated = denoiser.condition(context.select([0]).append(context.select([0])), target)
    torch.testing.assert_close(denoiser(single, noisy, t), denoiser(repeated, noisy, t))


def test_a_target_parallel_to_the_context_gives_a_finite_signal_that_agrees_with_the_context():
    torch.manual_seed(0)
    _, context = projections.make_test_set(projections.make_prior(2), 16, 0)
    denoiser = projections.build_diffusion(2, width=16, depth=2).double().denoiser
    condition, t = denoiser.condition(context, context.params), torch.full((16,), 0.5).double()
    signals = [denoiser(condition, noisy * torch.ones(16, 1).double(), t) for noisy in (-1.0, 1.0)]
    assert torch.isfinite(signals[0]).all()
    for signal in signals:
        torch.testing.assert_close(projections.project(signal, context.params), context.value)


def test_nullspace_coordinate_and_c2st_features_are_the_signal_in_the_contexts_frame():
    signal, context = projections.make_test_set(projections.make_prior(2), 20, 0)
    o, c, s, v = projections.c2st_features(signal, context).double().T
    torch.testing.assert_close(torch.stack([o * c - v * s, o * s + v * c], 1), signal, atol=1e-6, rtol=0)
    repeated = signal[:, None].expand(20, 7, 2)
    assert torch.equal(
        projections.nullspace_coordinate(repeated, context)[:, 3], projections.nullspace_coordinate(signal, context)
    )


def test_dataset_batches_hold_the_observations_of_the_data_set_only():
    observations = projections.sample_observations(projections.make_prior(2).sample(5, generator()), 4, generator(1))
    batch = projections.dataset_batches(observations, 1000)(generator(2))
    values = {round(x, 9) for x in observations.value.flatten().tolist()}
    for name in ("context", "target", "novel"):
        assert {round(x, 9) for x in batch[name].value.flatten().tolist()} == values
    assert (batch["context"].value != batch["target"].value).all(), "a target is never its own context"
    batch = projections.dataset_batches(observations.select([0, 1]), 10)(generator(3))
    assert "novel" not in batch


def test_direction_samplers_keep_to_their_wedge_and_to_the_axes():
    narrow = projections.sample_directions(500, 2, 2, generator(), wedge=math.radians(20))
    angle = torch.atan2(narrow[..., 1], narrow[..., 0]).rad2deg()
    assert angle.abs().max() <= 10 and angle.abs().max() > 9
    axes = projections.sample_axis_directions(100, 4, 3, generator())
    torch.testing.assert_close(axes[:, :3] @ axes[:, :3].mT, torch.eye(3).expand(100, 3, 3))
    assert axes[:, :3].max() == 1 and not torch.equal(axes[0, :3], axes[1, :3])
    torch.testing.assert_close(projections.sample_directions(9, 3, 3, generator()).norm(dim=-1), torch.ones(9, 3))


def test_half_of_the_training_contexts_hold_one_observation():
    batch = projections.infinite_batches(
        projections.make_prior(3), 4000, max_contexts=2, direction_sampler=projections.sample_axis_directions
    )(generator())
    mask = batch["context"].mask
    assert mask[:, 0].all() and 0.45 < float(mask[:, 1].float().mean()) < 0.55
    assert batch["context"].value[~mask].abs().max() == 0


def test_the_oracle_and_the_vae_train_through_the_same_loop():
    prior = projections.make_prior(2)
    batch = baselines.oracle_batches(prior, 32)(generator())
    model = baselines.build_oracle(width=16, depth=2)
    losses = model(batch["context"], batch["target"], *model.sample_time_and_noise(batch["target"], generator(1)))
    assert losses["loss"] > 0 and batch["target"].value.shape == (32, 1, 2)
    context = batch["context"]
    signal = model.sample(context, projections.perpendicular(context.params), steps=3).signal
    torch.testing.assert_close(projections.project(signal, context.params), context.value, atol=1e-4, rtol=0)
    batch = projections.infinite_batches(prior, 32)(generator())
    vae = baselines.ForwardVAE(width=16, depth=2)
    losses = vae(
        batch["context"], batch["target"], *vae.sample_time_and_noise(batch["target"], generator(1)), batch["novel"]
    )
    losses["loss"].backward()
    assert all(torch.isfinite(w.grad).all() for w in vae.parameters())
    signal = vae.sample(batch["context"], generator(2))
    torch.testing.assert_close(
        projections.project(signal, batch["context"].params), batch["context"].value, atol=1e-4, rtol=0
    )


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="R.2 or R.3, got dims=4"):
        projections.make_prior(4)
    with pytest.raises(ValueError, match="for signals in R.2, got dims=3"):
        projections.sample_directions(1, 1, 3, generator(), wedge=0.1)
    observations = projections.sample_observations(projections.make_prior(2).sample(5, generator()), 1, generator(1))
    with pytest.raises(ValueError, match="needs 1 contexts and a target, got 1 observations of each signal"):
        projections.assign_roles(observations, 1)
    model = projections.build_diffusion(2, width=8, depth=1).double()
    with pytest.raises(ValueError, match="up to 1 observations as context, got 2"):
        model.sample(observations.append(observations), observations.params)


def test_a_test_set_uses_the_given_direction_sampler():
    direction_sampler = partial(projections.sample_directions, wedge=0.0)
    _, context = projections.make_test_set(projections.make_prior(2), 10, 0, direction_sampler)
    assert torch.equal(context.params, torch.tensor([1.0, 0.0]).double().expand(10, 1, 2))
