"""The unreachable-mean bias: its closed forms, the inequality of its proof, and its size."""

import math

import pytest
import torch

from fwdiff_lite.problems.toy import unreachable_mean


def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("weight", [0.0, 0.1, 0.5, 1.0, 5.0])
def test_newtons_method_agrees_with_a_grid_search(weight):
    s = torch.linspace(-1.5, 1.5, 60_001, dtype=torch.float64)
    for mean in (-0.99, -0.4, 0.01, 0.3, 0.9, 1.0):
        cost = (s - mean) ** 2 + weight * (s**2 - 1) ** 2
        signal = unreachable_mean.optimal_binary_signal(torch.tensor([mean], dtype=torch.float64), weight)
        assert float(signal) == pytest.approx(float(s[cost.argmin()]), abs=1e-4)


@pytest.mark.parametrize("weight", [0.0, 0.03, 0.3, 0.5, 3.0])
def test_newtons_method_ends_early_without_a_change_of_any_bit(weight):
    mean = torch.tanh(3 * torch.randn(2000, dtype=torch.float64, generator=generator()))
    magnitude, s = mean.abs(), torch.ones_like(mean)
    for _ in range(unreachable_mean.NEWTON_STEPS):
        derivative = 6 * weight * s.square() + 1 - 2 * weight
        s = s - (2 * weight * s**3 + (1 - 2 * weight) * s - magnitude) / derivative
    assert torch.equal(unreachable_mean.optimal_binary_signal(mean, weight), torch.where(mean < 0, -s, s))


def test_the_optimal_signal_lies_further_from_zero_than_the_mean():
    m = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    for weight in (0.01, 0.5, 3.0):
        s = unreachable_mean.optimal_binary_signal(m, weight)
        assert (s > m).all() and (s < 1).all()
        assert torch.equal(unreachable_mean.optimal_binary_signal(-m, weight), -s)
    assert torch.equal(unreachable_mean.optimal_binary_signal(m, 0.0), m)


def test_the_posterior_mean_is_bayes_rule():
    denoiser = unreachable_mean.IdealBinaryDenoiser(0.7, 1.0)
    y, t = torch.tensor([[0.3]], dtype=torch.float64), torch.tensor([0.6], dtype=torch.float64)
    a, s = math.cos(0.3 * math.pi), math.sin(0.3 * math.pi)
    plus, minus = 0.7 * math.exp(-0.5 * ((0.3 - a) / s) ** 2), 0.3 * math.exp(-0.5 * ((0.3 + a) / s) ** 2)
    assert float(denoiser.posterior_mean(y, t)) == pytest.approx((plus - minus) / (plus + minus))


@pytest.mark.parametrize("p", [0.55, 0.7, 0.95])
def test_on_the_exact_threshold_the_mean_is_positive(p):
    """The step of the proof that needs an inequality: the (1 - p)-quantile of O_t lies where m > 0, at every t."""
    phi = torch.distributions.Normal(0.0, 1.0).cdf
    t = torch.linspace(0.2, 0.98, 200, dtype=torch.float64)  # at smaller t both sides agree up to rounding
    a, s = torch.cos(t * math.pi / 2), torch.sin(t * math.pi / 2)
    y0 = -(s**2) / (2 * a) * math.log(p / (1 - p))  # where m changes sign
    below = p * phi((y0 - a) / s) + (1 - p) * phi((y0 + a) / s)
    assert (below < 1 - p).all()


def test_the_size_of_the_bias():
    fraction = {
        (p, w, eta): unreachable_mean.plus_fraction(p, w, 40_000, generator(), steps=64, eta=eta)
        for p, w, eta in [(0.7, 0.0, 0.0), (0.7, 1.0, 0.0), (0.7, 1.0, 1.0), (0.7, 0.1, 0.0), (0.5, 1.0, 0.0)]
    }
    assert fraction[0.7, 0.0, 0.0] == pytest.approx(0.70, abs=0.012)
    assert fraction[0.7, 1.0, 0.0] == pytest.approx(0.87, abs=0.012)
    assert fraction[0.7, 1.0, 1.0] == pytest.approx(0.77, abs=0.012)
    assert fraction[0.7, 0.1, 0.0] == pytest.approx(0.72, abs=0.012)
    assert fraction[0.5, 1.0, 0.0] == pytest.approx(0.50, abs=0.012), "there is no bias at p = 1/2"


def test_a_bump_is_biased_without_a_novel_loss_and_two_blended_layers_are_not():
    assert unreachable_mean.left_fraction(0.6, 20_000, generator(), steps=64) == pytest.approx(0.81, abs=0.02)
    assert unreachable_mean.left_fraction(0.6, 20_000, generator(), steps=64, eta=1.0) == pytest.approx(0.67, abs=0.02)
    assert unreachable_mean.left_fraction(0.6, 20_000, generator(), reachable=True, steps=64) == pytest.approx(
        0.60, abs=0.02
    )


def test_bumps_do_not_overlap():
    left, right = unreachable_mean.bump_images()
    assert float(left @ right) < 1e-6 and float(left @ left) == pytest.approx(1)


@pytest.mark.parametrize(
    "build", [lambda: unreachable_mean.IdealBinaryDenoiser(1.0, 1.0), lambda: unreachable_mean.IdealBumpDenoiser(0.0)]
)
def test_certain_outcomes_are_refused(build):
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        build()
