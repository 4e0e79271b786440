"""Scores: definitions, perfect samplers, and controls that must be rejected."""

import math

import pytest
import scoringrules
import torch
from toy_posterior import normal, seed

from fwdiff_lite.metrics import (
    debiased_ensemble_mean_mse,
    energy_gap,
    energy_ratio,
    energy_score,
    energy_skill,
    euclidean_error,
    psnr,
    psnr_gain,
    spread_skill,
    squared_error,
)

# --- energy score -----------------------------------------------------------------------------------------------------


def test_energy_score_is_its_definition_in_chunks_and_in_every_shape():
    g = seed(20)
    samples, truth = normal(5, 4, 3, 2, generator=g), normal(5, 3, 2, generator=g)
    by_hand = []
    for x, y in zip(samples, truth, strict=True):
        pairs = [(x[k] - x[j]).norm() for k in range(4) for j in range(4) if k != j]
        by_hand.append(sum((a - y).norm() for a in x) / 4 - sum(pairs) / (2 * 12))
    assert torch.allclose(energy_score(samples, truth), torch.stack(by_hand))
    assert torch.allclose(energy_score(samples.flatten(2) + 7, truth.flatten(1) + 7), torch.stack(by_hand))
    samples, truth = normal(1100, 64, 1, generator=g), normal(1100, 1, generator=g)  # more than one chunk
    assert torch.allclose(energy_score(samples, truth)[1090:], energy_score(samples[1090:], truth[1090:]))
    close = 100 + 1e-3 * torch.randn(3, 32, 50, generator=g)  # no cancellation between samples that are close
    assert torch.allclose(energy_score(close, close[:, 0]), energy_score(close.double(), close[:, 0].double()).float())


@pytest.mark.parametrize("K", [2, 16])
def test_energy_score_is_the_fair_estimate_of_scoringrules_and_not_its_other_one(K):
    g = seed(23)
    samples, truth = normal(50, K, 6, generator=g), normal(50, 6, generator=g)
    fair, biased = (
        torch.as_tensor(scoringrules.es_ensemble(truth.numpy(), samples.numpy(), estimator=name, backend="numpy"))
        for name in ("fair", "nrg")
    )
    torch.testing.assert_close(energy_score(samples, truth), fair, rtol=0, atol=1e-13)
    assert (energy_score(samples, truth) < biased - 0.05).all()


@pytest.mark.parametrize("K", [2, 16])
def test_energy_score_is_unbiased_and_dividing_by_k_squared_is_not(K):
    g, c = seed(21), 400_000 // K
    samples, truth = normal(c, K, 1, generator=g), normal(c, 1, generator=g)
    best = 1 / math.sqrt(math.pi)
    assert float(energy_score(samples, truth).mean()) == pytest.approx(best, abs=0.012)
    biased = torch.cdist(samples, truth[:, None]).mean() - torch.cdist(samples, samples).mean() / 2
    assert float(biased) == pytest.approx(best * (1 + 1 / K), abs=0.015)


def sample_normals(c: int, K: int, d: int, g: torch.Generator) -> torch.Tensor:
    return torch.randn(c, K, d, generator=g)


def sample_uniforms(c: int, K: int, d: int, g: torch.Generator) -> torch.Tensor:
    return torch.rand(c, K, d, generator=g) - 0.5


def sample_signs(c: int, K: int, d: int, g: torch.Generator) -> torch.Tensor:
    return 2.0 * torch.randint(2, (c, K, d), generator=g) - 1


def sample_hues(c: int, K: int, d: int, g: torch.Generator) -> torch.Tensor:
    angle = 2 * math.pi * torch.rand(c, K, generator=g)
    return torch.stack([angle.cos(), angle.sin()], -1)


@pytest.mark.parametrize(
    ("sample", "d", "expected"),
    [
        (sample_normals, 1, 0.707),
        (sample_normals, 8, 0.707),
        (sample_uniforms, 64, 0.707),
        (sample_signs, 1, 0.50),
        (sample_signs, 2, 0.604),
        (sample_signs, 3, 0.648),
        (sample_signs, 4, 0.669),
        (sample_hues, 2, 0.637),
    ],
)
def test_energy_ratio_of_a_perfect_sampler_to_the_perfect_mean(sample, d, expected):
    g = seed(22)
    samples_and_truth = sample(5000, 17, d, g)
    samples, truth = samples_and_truth[:, 1:], samples_and_truth[:, 0]
    ratio = energy_ratio(energy_score(samples, truth), euclidean_error(torch.zeros_like(truth), truth), g)
    assert ratio.value == pytest.approx(expected, abs=0.015)
    assert ratio.low < ratio.value < ratio.high


def test_energy_skill_of_half_the_spread_and_of_a_bias():
    g = seed(23)
    truth, exact = normal(20_000, 1, generator=g), normal(20_000, 16, 1, generator=g)
    exact_score, baseline = energy_score(exact, truth), euclidean_error(torch.zeros_like(truth), truth)

    def skill(samples):
        return energy_skill(energy_score(samples, truth), baseline, exact_score, g)

    other_exact = skill(normal(20_000, 16, 1, generator=g))
    assert other_exact.value == pytest.approx(1, abs=0.03) and other_exact.low < 1 < other_exact.high
    assert skill(0.5 * exact).value == pytest.approx(0.80, abs=0.03)
    assert skill(exact + 0.4).value == pytest.approx(0.81, abs=0.03)
    assert energy_skill(baseline, baseline, exact_score, g).value == 0
    narrow = float(energy_score(0.6 * exact, truth).mean() / exact_score.mean())
    assert narrow == pytest.approx(1.05, abs=0.01), "six tenths of the spread: only 5% worse"


def test_energy_gap_rejects_gross_errors_and_cannot_detect_a_fifth_of_variance(toy):
    scores = {sampler: energy_score(v[:, :64, None], toy.v[:, None]) for sampler, v in toy.samples.items()}
    exact = energy_score(toy.sample_posterior(64)[..., None], toy.v[:, None])
    gap = {sampler: energy_gap(score, exact, seed()) for sampler, score in scores.items()}
    assert gap["exact"].high < 0.03
    for control in ("mean", "shuffled", "prior"):
        assert gap[control].low > 0.03, control
    assert max(gap["x0.8"].value, gap["x1.2"].value) < 0.03


def test_energy_gap_is_paired_and_relative():
    exact = torch.rand(500, generator=seed(24)) + 1
    gap = energy_gap(1.1 * exact, exact, seed())
    assert gap.value == pytest.approx(0.1, rel=1e-5)
    assert gap.high - gap.low < 0.01, "independent intervals would be five times as wide"


# --- spread and skill -------------------------------------------------------------------------------------------------


def four_unknowns(g, std=1.0, bias=0.0, c=128, K=16):
    """Samples and truth of 32 pixels; each context hides four unknowns that the pixels show."""
    pixels = normal(4, 32, generator=seed(25))
    return (std * normal(c, K, 4, generator=g) + bias) @ pixels, normal(c, 4, generator=g) @ pixels


def test_spread_skill_of_a_perfect_sampler_is_one_with_the_stated_noise():
    g = seed(26)
    values = torch.tensor([spread_skill(*four_unknowns(g), g).value for _ in range(40)])
    assert abs(values.mean() - 1) < 0.02
    assert 0.02 < values.std() < 0.05
    interval = spread_skill(*four_unknowns(g), g)
    assert 0.08 < interval.high - interval.low < 0.25


@pytest.mark.parametrize("K", [2, 4])
def test_spread_skill_corrects_for_few_samples(K):
    samples, truth = four_unknowns(seed(27), c=4000, K=K)
    assert spread_skill(samples, truth, seed()).value == pytest.approx(1, abs=0.03)
    uncorrected = samples.var(1, correction=0).mean().sqrt() / (samples.mean(1) - truth).square().mean().sqrt()
    assert uncorrected < 0.9


def test_spread_skill_detects_overconfidence_and_bias_but_not_the_prior():
    assert spread_skill(*four_unknowns(seed(28), std=0.5), seed()).high < 0.65
    assert spread_skill(*four_unknowns(seed(28), bias=1.0), seed()).high < 0.9
    g = seed(29)
    context = normal(1000, 1, 1, generator=g)  # the truth depends on it; the samples of the prior do not
    truth = context[:, 0] + normal(1000, 1, generator=g)
    prior = normal(1000, 16, 1, generator=g) + normal(1000, 16, 1, generator=g)
    assert spread_skill(prior, truth, seed()).value == pytest.approx(1, abs=0.06)


def test_spread_skill_pools_before_it_divides_and_scores_only_the_mask():
    g = seed(30)
    scale = torch.tensor([0.01, 1.0], dtype=torch.float64)  # two pixels of different scale, the first over-confident
    samples, truth = normal(2000, 8, 2, generator=g) * scale, normal(2000, 2, generator=g) * scale
    samples[..., 0] *= 0.1
    assert spread_skill(samples, truth, seed()).value == pytest.approx(1, abs=0.04), "a mean of ratios would be 0.55"
    mask = torch.tensor([[True, False]])
    assert spread_skill(samples, truth, seed(), mask).value < 0.2
    assert spread_skill(samples, truth, seed(), ~mask).value == pytest.approx(1, abs=0.04)


# --- squared error ----------------------------------------------------------------------------------------------------


def test_debiased_ensemble_mean_mse_removes_the_noise_of_k_samples():
    g = seed(31)
    samples, truth = normal(4000, 4, 3, generator=g) + 0.5, normal(4000, 3, generator=g)
    assert float(debiased_ensemble_mean_mse(samples, truth).mean()) == pytest.approx(1.25, abs=0.06)
    assert float(squared_error(samples.mean(1), truth).mean()) == pytest.approx(1.5, abs=0.06)


def test_a_psnr_gain_is_the_difference_of_both_psnr_and_paired():
    truth, noise = torch.zeros(40, 6, dtype=torch.float64), torch.randn(40, 6, generator=seed(1), dtype=torch.float64)
    ours, theirs = (squared_error(scale * noise, truth) for scale in (0.1, 1.0))
    gain = psnr_gain(ours, theirs, seed(0))
    assert gain.value == pytest.approx(psnr(0.1 * noise, truth, 2) - psnr(noise, truth, 2)) == pytest.approx(20)
    assert gain.high - gain.low < 1e-9, "errors that are proportional have no uncertain gain"
    unpaired = psnr_gain(ours, theirs.flip(0), seed(0))
    assert unpaired.high - unpaired.low > 0.5, "the control"


def test_per_context_errors_average_to_the_pooled_error_under_uneven_masks():
    g = seed(32)
    prediction, truth = normal(6, 4, 5, generator=g), normal(6, 4, 5, generator=g)
    mask = torch.rand(6, 4, 5, generator=g) < torch.linspace(0.1, 0.9, 6)[:, None, None]
    pooled = (prediction - truth).square()[mask].mean()
    assert torch.allclose(squared_error(prediction, truth, mask).mean(), pooled)
    assert psnr(prediction, truth, 2.0, mask) == pytest.approx(float(10 * torch.log10(4 / pooled)))
