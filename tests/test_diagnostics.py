"""check_samples finds nothing wrong with right samples, and says in words what is wrong with broken ones."""

import pytest
import torch
from gaussian_problem import GaussianDenoiser, observe, project

from fwdiff_lite import ForwardDiffusion, ForwardRegression, check_samples
from fwdiff_lite.observations import Observations


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


@pytest.mark.parametrize("scale", [1.0, 5.0])
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
