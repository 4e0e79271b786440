"""The toy's closed forms, its denoisers, and what they refuse."""

import math
from functools import partial

import pytest
import torch

from fwdiff_lite.diffusion import ForwardDiffusion
from fwdiff_lite.metrics import wasserstein1
from fwdiff_lite.observations import Observations
from fwdiff_lite.problems import projections as p


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_mixture_draws_what_it_says(dims):
    prior = p.mixture(dims)
    weights = prior.log_weights.exp()
    assert float(weights.sum()) == pytest.approx(1) and len(set(weights.tolist())) == 4
    mean = (weights[:, None] * prior.means).sum(0)
    spread = prior.covariances + prior.means[:, :, None] * prior.means[:, None]
    covariance = (weights[:, None, None] * spread).sum(0) - mean[:, None] * mean
    x = prior.sample(200_000, generator())
    torch.testing.assert_close(x.mean(0), mean, atol=0.01, rtol=0)
    torch.testing.assert_close(x.T.cov(), covariance, atol=0.02, rtol=0)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_posterior_is_bayes_rule_on_a_grid(dims):
    """Its density along the open line against prior(S) restricted to that line and normalised numerically."""
    prior = p.mixture(dims)
    signal, _ = p.exam(prior, 3, 0)
    context = p.observe(signal, dims - 1, generator(1))
    posterior = prior.given(context)
    _, _, vh = torch.linalg.svd(context.params)
    line = vh[:, -1]  # the direction that the context leaves open
    grid = torch.linspace(-5, 5, 4001, dtype=torch.float64)
    start = torch.linalg.lstsq(context.params, context.value[..., None]).solution[..., 0]
    points = start[:, None] + grid[:, None] * line[:, None]  # (3, grid, dims)
    components = torch.distributions.MultivariateNormal(prior.means, prior.covariances)
    which = torch.distributions.Categorical(logits=prior.log_weights)
    mixture = torch.distributions.MixtureSameFamily(which, components)
    numeric = mixture.log_prob(points).exp()
    numeric = numeric / torch.trapezoid(numeric, grid)[:, None]
    torch.testing.assert_close(posterior.log_density(points, line).exp(), numeric, atol=1e-6, rtol=1e-4)
    mean = torch.trapezoid(numeric[..., None] * points, grid, dim=1)
    torch.testing.assert_close(posterior.mean(), mean, atol=1e-6, rtol=0)


def test_posterior_draws_lie_on_their_line_and_a_second_look_changes_nothing():
    prior = p.mixture(2)
    _, context = p.exam(prior, 5, 0)
    posterior = prior.given(context)
    draws = posterior.sample(100, generator())
    assert (torch.einsum("bnd,bd->bn", draws, context.params[:, 0]) - context.value).abs().max() < 1e-4
    twice = prior.given(context.append(context))
    torch.testing.assert_close(twice.means, posterior.means, atol=1e-4, rtol=0)
    torch.testing.assert_close(twice.log_weights, posterior.log_weights, atol=1e-4, rtol=0)


def test_masked_observations_say_nothing():
    prior = p.mixture(2)
    signal, context = p.exam(prior, 4, 0)
    other = p.observe(signal, 1, generator(3))
    both = context.append(other).mask_out(torch.tensor([[False, True]]).expand(4, 2))
    torch.testing.assert_close(prior.given(both).mean(), prior.given(context).mean(), atol=1e-8, rtol=0)
    assert (prior.given(context.append(other)).mean() - signal).abs().max() < 1e-6, "two directions determine S"


def test_the_ideal_denoiser_is_the_mixture_updated_by_the_noisy_target():
    prior = p.mixture(3)
    signal, context = p.exam(prior, 50, 0)
    denoiser = p.IdealDenoiser(prior)
    target = p.directions(50, 1, 3, generator(1), torch.float64)
    t = torch.rand(50, generator=generator(2), dtype=torch.float64)
    alpha, sigma = denoiser.schedule.alpha(t), denoiser.schedule.sigma(t)
    noisy = alpha[:, None] * p.project(signal, target) + sigma[:, None] * torch.randn(50, 1, generator=generator(4))
    updated = prior.given(context).observe(target[:, 0], noisy[:, 0] / alpha, ((sigma / alpha) ** 2)[:, None])
    ours = denoiser(denoiser.condition(context, target), noisy, t)
    torch.testing.assert_close(ours, updated.mean(), atol=1e-6, rtol=1e-6)


def test_the_ideal_denoiser_beats_its_neighbours_on_eq_8_and_9():
    """It is the minimiser: any nudge of its answer costs more."""
    prior = p.mixture(2)
    batch = {k: x.to(torch.float64) for k, x in p.endless(prior, 20_000)(generator()).items()}

    class Nudged(p.IdealDenoiser):
        nudge = 0.0

        def forward(self, condition, noisy_target, t):
            return super().forward(condition, noisy_target, t) * (1 + self.nudge)

    denoiser = Nudged(prior)
    model = ForwardDiffusion(denoiser, p.project)
    draw = model.sample_time_and_noise(batch["target"], generator(1))
    losses = []
    for nudge in (-0.05, 0.0, 0.05):
        denoiser.nudge = nudge
        losses.append(float(model.loss(batch["context"], batch["target"], *draw, batch["novel"])["loss"]))
    assert losses[1] < losses[0] and losses[1] < losses[2]


def test_exact_sampling_reaches_the_posterior_and_few_steps_do_not():
    prior, n = p.mixture(2), 2000
    _, context = p.exam(prior, 10, 3)
    many, g = context.repeat(n), generator(5)
    exact, again = (p.open_part(prior.given(context).sample(n, g), context) for _ in range(2))
    floor = wasserstein1(again, exact).mean()
    model = ForwardDiffusion(p.IdealDenoiser(prior), p.project)
    ratio = {}
    for steps in (4, 256):
        ours = p.open_part(p.answer(model, many, g, steps=steps), many).reshape(10, n)
        ratio[steps] = wasserstein1(ours, exact).mean() / floor
    assert ratio[256] < 1.5 < 4 < ratio[4]


@pytest.mark.parametrize("dims, contexts", [(2, 1), (3, 1), (3, 2)])
def test_the_denoiser_agrees_with_its_context_whatever_its_weights(dims, contexts):
    torch.manual_seed(0)
    signal = p.mixture(dims).sample(64, generator()).float()
    context = p.observe(signal, contexts, generator(1))
    model = p.diffusion(dims, max(contexts, dims - 1), width=16, depth=2)
    answer = model.sample(context, p.directions(64, 1, dims, generator(2)), steps=3, generator=generator(3)).signal
    torch.testing.assert_close(p.project(answer, context.params), context.value, atol=2e-3, rtol=0)
    assert (answer - signal).norm(dim=1).mean() > 0.1, "untrained, it is right there and nowhere else"


def test_the_denoiser_ignores_what_is_masked_and_repeated():
    torch.manual_seed(0)
    signal = p.mixture(3).sample(32, generator())
    context = p.observe(signal, 2, generator(1))
    denoiser = p.diffusion(3, 2, width=16, depth=2).double().denoiser
    target, noisy, t = context.params[:, :1].roll(1, 0), torch.ones(32, 1).double(), torch.full((32,), 0.5).double()
    gone = torch.tensor([[False, True]]).expand(32, 2)
    answers = []
    for value in (context.value, context.value + torch.tensor([0.0, 9.0])):
        changed = Observations(value, context.params).mask_out(gone)
        answers.append(denoiser(denoiser.condition(changed, target), noisy, t))
    assert torch.equal(*answers)
    once = denoiser.condition(context.select([0]), target)
    twice = denoiser.condition(context.select([0]).append(context.select([0])), target)
    torch.testing.assert_close(denoiser(once, noisy, t), denoiser(twice, noisy, t))


def test_a_target_along_the_context_tells_the_denoiser_nothing():
    torch.manual_seed(0)
    _, context = p.exam(p.mixture(2), 16, 0)
    denoiser = p.diffusion(2, width=16, depth=2).double().denoiser
    condition, t = denoiser.condition(context, context.params), torch.full((16,), 0.5).double()
    signals = [denoiser(condition, noisy * torch.ones(16, 1).double(), t) for noisy in (-1.0, 1.0)]
    assert torch.isfinite(signals[0]).all()
    for signal in signals:
        torch.testing.assert_close(p.project(signal, context.params), context.value)


def test_open_part_and_joint_are_the_signal_in_the_contexts_frame():
    signal, context = p.exam(p.mixture(2), 20, 0)
    o, c, s, v = p.joint(signal, context).double().T
    torch.testing.assert_close(torch.stack([o * c - v * s, o * s + v * c], 1), signal, atol=1e-6, rtol=0)
    many = signal[:, None].expand(20, 7, 2)
    assert torch.equal(p.open_part(many, context)[:, 3], p.open_part(signal, context))


def test_finite_sets_hold_their_observations_and_nothing_else():
    seen = p.observe(p.mixture(2).sample(5, generator()), 4, generator(1))
    batch = p.finite(seen, 1000)(generator(2))
    pool = {round(x, 9) for x in seen.value.flatten().tolist()}
    for name in ("context", "target", "novel"):
        assert {round(x, 9) for x in batch[name].value.flatten().tolist()} == pool
    assert (batch["context"].value != batch["target"].value).all(), "a target is never its own context"
    two = p.finite(seen.select([0, 1]), 10)(generator(3))
    assert "novel" not in two


def test_wedges_and_axes_are_where_they_should_be():
    narrow = p.directions(500, 2, 2, generator(), wedge=math.radians(20))
    angle = torch.atan2(narrow[..., 1], narrow[..., 0]).rad2deg()
    assert angle.abs().max() <= 10 and angle.abs().max() > 9
    first = p.axes_first(100, 4, 3, generator())
    torch.testing.assert_close(first[:, :3] @ first[:, :3].mT, torch.eye(3).expand(100, 3, 3))
    assert first[:, :3].max() == 1 and not torch.equal(first[0, :3], first[1, :3])
    torch.testing.assert_close(p.directions(9, 3, 3, generator()).norm(dim=-1), torch.ones(9, 3))


def test_half_of_the_training_contexts_are_short():
    batch = p.endless(p.mixture(3), 4000, contexts=2, draw=p.axes_first)(generator())
    mask = batch["context"].mask
    assert mask[:, 0].all() and 0.45 < float(mask[:, 1].float().mean()) < 0.55
    assert batch["context"].value[~mask].abs().max() == 0


def test_the_oracle_and_the_vae_train_through_the_same_loop():
    prior = p.mixture(2)
    batch = p.revealed(prior, 32)(generator())
    model = p.oracle(width=16, depth=2)
    losses = model(batch["context"], batch["target"], *model.sample_time_and_noise(batch["target"], generator(1)))
    assert losses["loss"] > 0 and batch["target"].value.shape == (32, 1, 2)
    context = batch["context"]
    signal = model.sample(context, p.across(context.params), steps=3).signal
    torch.testing.assert_close(p.project(signal, context.params), context.value, atol=1e-4, rtol=0)
    batch = p.endless(prior, 32)(generator())
    vae = p.ForwardVAE(width=16, depth=2)
    losses = vae(batch["context"], batch["target"], *vae.sample_time_and_noise(batch["target"], generator(1)), batch["novel"])
    losses["loss"].backward()
    assert all(torch.isfinite(w.grad).all() for w in vae.parameters())
    drawn = vae.sample(batch["context"], generator(2))
    torch.testing.assert_close(p.project(drawn, batch["context"].params), batch["context"].value, atol=1e-4, rtol=0)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="R.2 or R.3, got dims=4"):
        p.mixture(4)
    with pytest.raises(ValueError, match="for signals in R.2, got dims=3"):
        p.directions(1, 1, 3, generator(), wedge=0.1)
    seen = p.observe(p.mixture(2).sample(5, generator()), 1, generator(1))
    with pytest.raises(ValueError, match="needs 1 contexts and a target, got 1 observations a signal"):
        p.tuples(seen, 1)
    model = p.diffusion(2, width=8, depth=1).double()
    with pytest.raises(ValueError, match="up to 1 observations as context, got 2"):
        model.sample(seen.append(seen), seen.params)


def test_a_partial_wedge_keeps_its_meaning_through_observe():
    draw = partial(p.directions, wedge=0.0)
    _, context = p.exam(p.mixture(2), 10, 0, draw)
    assert torch.equal(context.params, torch.tensor([1.0, 0.0]).double().expand(10, 1, 2))
