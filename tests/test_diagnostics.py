"""check_samples finds nothing wrong with right samples, and says in words what is wrong with broken ones."""

import math

import pytest
import torch
from gaussian_problem import GaussianDenoiser, observe, project

from fwdiff_lite import ForwardDiffusion, ForwardRegression, check_samples
from fwdiff_lite.diagnostics import live_gain, measure_samples
from fwdiff_lite.observations import Observations, observation_std
from fwdiff_lite.schedule import CosineSchedule


class Collapsed(GaussianDenoiser):
    """Ignores the noisy target."""

    def forward(self, condition, noisy_target, t):
        return super().forward(condition, noisy_target, torch.ones_like(t))


class Unconditional(GaussianDenoiser):
    """Ignores the context."""

    def condition(self, context, target_params, target_mask=None):
        return super().condition(context.mask_out(torch.ones_like(context.mask)), target_params, target_mask)


class Inconsistent(GaussianDenoiser):
    """Takes the context for half as large as it is."""

    def condition(self, context, target_params, target_mask=None):
        return super().condition(Observations(context.value / 2, context.params, context.mask), target_params)


class Wild(GaussianDenoiser):
    """Takes signals for four times as large as they are."""

    def __init__(self):
        super().__init__(std=4.0)


class Broken(GaussianDenoiser):
    def forward(self, condition, noisy_target, t):
        return super().forward(condition, noisy_target, t) * torch.nan


def faults(model, n=64, **options):
    _, seen = observe(n, 2, seed=1)
    batch = {"context": seen.select([0]), "target": seen.select([1])}
    return check_samples(model, batch, steps=24, generator=torch.Generator().manual_seed(0), **options)


@pytest.mark.parametrize("scale", [1.0, 2.0, 5.0])
def test_nothing_is_wrong_with_exact_samples(scale):
    assert faults(ForwardDiffusion(GaussianDenoiser(scale=scale), project, observation_scale=scale)) == []


def test_a_denoiser_that_forgets_the_scale_gives_samples_in_another_unit():
    (fault,) = faults(ForwardDiffusion(GaussianDenoiser(), project, observation_scale=41.0))
    assert "have another unit than the targets" in fault and "returns s times" in fault


@pytest.mark.parametrize(
    "model_class, denoiser, message",
    [
        (ForwardDiffusion, Collapsed, "have collapsed"),
        (ForwardRegression, GaussianDenoiser, "have collapsed"),
        (ForwardDiffusion, Unconditional, "are prior-like"),
        (ForwardDiffusion, Inconsistent, "are inconsistent with their context"),
        (ForwardDiffusion, Wild, "vary too much"),
        (ForwardDiffusion, Broken, "hold NaN"),
    ],
)
def test_a_broken_model_is_told_apart(model_class, denoiser, message):
    (fault,) = faults(model_class(denoiser(), project))
    assert message in fault


def test_masked_observations_count_for_nothing():
    """Masked contexts and targets are NaN; an unconditional model has no context to contradict."""
    _, seen = observe(64, 3, seed=1)
    mask = torch.ones(64, 3, dtype=torch.bool)
    mask[:32, 1:] = False
    seen = Observations(torch.where(mask, seen.value, torch.nan), seen.params, mask)
    model = ForwardDiffusion(GaussianDenoiser(), project)
    options = {"steps": 24, "generator": torch.Generator().manual_seed(0)}
    batch = {"context": seen.select([0]), "target": seen.select([1, 2])}
    assert check_samples(model, batch, **options) == []
    empty = seen.select([0]).mask_out(torch.ones(64, 1, dtype=torch.bool))
    assert check_samples(model, batch | {"context": empty}, **options) == []


def test_two_contexts_are_enough_and_one_is_not():
    _, seen = observe(2, 2, seed=1)
    model, batch = (
        ForwardDiffusion(GaussianDenoiser(), project),
        {n: seen.select([i]) for i, n in enumerate(("context", "target"))},
    )
    check_samples(model, batch, steps=4, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="batch has 1 contexts and 1 targets: give two or more of each"):
        check_samples(model, {name: part[[0]] for name, part in batch.items()})


def gain(denoiser, batch=None):
    _, seen = observe(256, 2, seed=2)
    batch = batch or {"context": seen.select([0]), "target": seen.select([1])}
    model = ForwardDiffusion(denoiser, project)
    return live_gain(model, batch, 8, steps=24, generator=torch.Generator().manual_seed(0))


def seen_at(angle, n=4096):
    """n signals, each seen in direction 0 and at `angle` in radians, the same for all."""
    signal, _ = observe(n, 1, seed=3)
    angles = torch.tensor([0.0, angle], dtype=torch.float64)
    params = torch.stack([angles.cos(), angles.sin()], -1).expand(n, 2, 2).contiguous()
    seen = Observations(project(signal, params), params)
    return {"context": seen.select([0]), "target": seen.select([1])}


def test_live_gain_is_one_if_the_context_shows_the_target_and_zero_if_it_shows_nothing_or_is_ignored():
    assert gain(GaussianDenoiser(), seen_at(0.0, 256)).low > 0.99
    for denoiser, angle in ((GaussianDenoiser(), math.pi / 2), (Unconditional(), 0.0)):
        interval = gain(denoiser, seen_at(angle, 256))
        assert interval.low < 0 < interval.high and abs(interval.value) < 0.1


def test_live_gain_has_its_closed_form():
    """At 60 degrees the posterior is N(context / 2, 3/4), and another context's mean is wrong by N(0, 2/4)."""
    interval = gain(GaussianDenoiser(), seen_at(math.pi / 3))
    own = math.sqrt(0.75 / math.pi)  # E|X - Y| - E|X - X'| / 2 of independent X, X', Y with variance 3/4
    other = math.sqrt(2 * (2 * 0.75 + 0.5) / math.pi) - own
    assert interval.value == pytest.approx(1 - own / other, abs=0.02)
    assert interval.low < interval.value < interval.high


def test_live_gain_refuses_one_sample():
    with pytest.raises(ValueError, match="num_samples is 1: wanted 2 or more"):
        live_gain(ForwardDiffusion(GaussianDenoiser(), project), {}, 1, generator=torch.Generator())


class NoisyCrop:
    """Four of 64 values, measured with noise; params (B, M, 1): the first index."""

    def __call__(self, signal, params):
        return signal[:, None] * self.support(params)

    def support(self, params):
        index = torch.arange(64)
        return ((index >= params) & (index < params + 4)).float()

    def noise_std(self, params):
        return torch.full(params.shape[:2], 0.5)


class CropPrior(torch.nn.Module):
    """Samples values that are independent and standard normal, and ignores the context."""

    def __init__(self):
        super().__init__()
        self.weight, self.schedule = torch.nn.Parameter(torch.ones(1)), CosineSchedule()

    def condition(self, context, target_params, target_mask=None):
        return NoisyCrop().support(target_params)

    def forward(self, condition, noisy_target, t):
        alpha, sigma = (f(t)[:, None, None] for f in (self.schedule.alpha, self.schedule.sigma))
        variance = 0.5**2 + (sigma / alpha).square()
        seen, count = (noisy_target / alpha * condition).sum(1), condition.sum(1)
        return self.weight * seen / (count + variance[:, 0])


def observe_crops(starts, n=32):
    generator, noise = torch.Generator().manual_seed(0), torch.Generator().manual_seed(1)
    params = starts[:, None].expand(n, -1, 1).float()
    value = NoisyCrop()(torch.randn(n, 64, generator=generator), params)
    error = 0.5 * torch.randn(value.shape, generator=noise) * NoisyCrop().support(params)
    return Observations(value + error, params)


def test_the_statistics_of_crops_are_of_their_support():
    """Values of std 1 with noise of std 0.5: both lie on 4 of 64 places. The noise is subtracted there alone."""
    batch = {"context": observe_crops(torch.tensor([0, 20])), "target": observe_crops(torch.arange(0, 64, 4))}
    model, options = ForwardDiffusion(CropPrior(), NoisyCrop()), {"steps": 8, "generator": torch.Generator()}
    statistics = measure_samples(model, **batch, num_samples=4, **options)
    target = batch["target"]
    assert observation_std(target, NoisyCrop().support(target.params)) == pytest.approx(math.sqrt(1.25), rel=0.05)
    assert statistics.target_std == pytest.approx(math.sqrt(1.25), rel=0.05)
    assert statistics.context_error == pytest.approx(math.sqrt(2), rel=0.2), "two independent values of std 1"
    assert any("prior-like" in fault for fault in check_samples(model, batch, **options))


class Pair(GaussianDenoiser):
    """Sees both numbers of a target, which are equal but for their sign."""

    def forward(self, condition, noisy_target, t):
        return super().forward(condition, (noisy_target[..., 0] - noisy_target[..., 1]) / 2, t)


def project_pair(signal, params):
    return project(signal, params)[..., None] * torch.tensor([1.0, -1.0], dtype=torch.float64)


def test_contexts_of_another_shape_are_not_compared_with_samples():
    _, seen = observe(64, 2, seed=1)
    target = seen.select([1])
    pair = Observations(target.value[..., None] * torch.tensor([1.0, -1.0], dtype=torch.float64), target.params)
    model = ForwardDiffusion(Pair(), project_pair, target_shape=(2,))
    options = {"steps": 8, "generator": torch.Generator().manual_seed(0)}
    statistics = measure_samples(model, seen.select([0]), pair, 4, **options)
    assert math.isnan(statistics.context_error) and statistics.error > 0
    assert check_samples(model, {"context": seen.select([0]), "target": pair}, **options) == []
