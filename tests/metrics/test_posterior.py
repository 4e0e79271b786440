"""Two-sample tests, distances and calibration: closed forms, the exact sampler, and controls that must be rejected."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance
from tarp import get_tarp_coverage
from toy_posterior import CONTROLS, COVARIANCES, MEANS, WEIGHTS, ToyPosterior, normal, seed

from fwdiff_lite.metrics import (
    c2st,
    holm,
    sbc_pvalues,
    sbc_ranks,
    sliced_w2,
    tarp,
    tarp_max_gap,
    wasserstein1,
)


def test_the_toy_posterior_is_exact(toy):
    grid = torch.linspace(-6, 6, 4001, dtype=torch.float64)
    posterior = toy.log_density(grid.expand(1000, -1)).exp()
    assert torch.allclose(posterior.sum(-1) * (grid[1] - grid[0]), torch.ones(1000).double(), atol=1e-9)
    # p(v | o) p(o) is the prior's own density at S = o u + v n
    centred = toy.signal[:, None] - MEANS
    mahalanobis = torch.einsum("cki,kij,ckj->ck", centred, COVARIANCES.inverse(), centred)
    joint = (WEIGHTS.log() - 0.5 * (mahalanobis + (2 * math.pi * COVARIANCES).det().log())).logsumexp(-1)
    assert torch.allclose(toy.log_density(toy.v[:, None])[:, 0] + toy.log_evidence.logsumexp(-1), joint, atol=1e-9)


# --- two-sample tests -------------------------------------------------------------------------------------------------


def test_c2st_of_exact_samples_is_a_half_and_every_control_is_rejected():
    toys = [ToyPosterior(10_000, 1, seed(100 + i)) for i in range(6)]

    def accuracy(toy, sampler):
        return c2st(toy.c2st_features(toy.v), toy.c2st_features(toy.samples[sampler][:, 0]), seed())

    exact = torch.tensor([accuracy(toy, "exact").accuracy for toy in toys])
    assert abs(exact.mean() - 0.5) < 0.004
    assert exact.std() < 0.006
    score = {control: accuracy(toys[0], control) for control in CONTROLS}
    for control in CONTROLS:
        assert score[control].accuracy > exact.mean() + 4 * exact.std(), control
        assert score[control].folds.mean() == pytest.approx(score[control].accuracy)
    assert 0.78 < score["mean"].accuracy < 0.90
    assert min(score["x0.8"].accuracy, score["x1.2"].accuracy) > 0.515
    assert min(score["prior"].accuracy, score["shuffled"].accuracy) > 0.65


def test_c2st_does_not_detect_a_small_residual_of_the_context_but_detects_a_large_one():
    toy = ToyPosterior(10_000, 1, seed(5))
    u = toy.context[:, 1:]

    def accuracy(residual_std):  # of the whole signal, not of its unobserved coordinate alone
        residual = residual_std * normal(10_000, 1, generator=seed(6)) * u
        signal = toy.o[:, None] * u + toy.samples["exact"] * toy.n + residual
        real, fake = (torch.cat([toy.context, x], -1).float() for x in (toy.signal, signal))
        return c2st(real, fake, seed()).accuracy

    assert accuracy(0.1) < 0.54, "measure the residual of the context separately"
    assert accuracy(1.0) > 0.90


def test_c2st_reaches_the_best_possible_accuracy():
    g = seed(2)
    x, y = normal(4000, 3, generator=g), normal(4000, 3, generator=g)
    y[:, 0] += 1.0  # the best classifier of N(0, 1) and N(1, 1) is right with probability Phi(1 / 2)
    assert c2st(x, y, g).accuracy == pytest.approx(0.6915, abs=0.02)


def test_c2st_of_equal_sets_is_exactly_a_half_for_every_grad_mode_and_with_remaining_rows():
    x = normal(203, 3, generator=seed(3)).requires_grad_()
    x = torch.cat([x, torch.ones(203, 1)], 1)  # a constant column is allowed
    with torch.no_grad():
        score = c2st(x, x.clone(), seed(4), folds=4, steps=5)
    assert score.accuracy == 0.5 and score.folds.shape == (4,)


def test_c2st_repeats_with_its_seed_and_ignores_units():
    g = seed(7)
    x, y = normal(500, 2, generator=g), 1.5 * normal(500, 2, generator=g)
    score = c2st(x, y, seed(8), steps=80)
    assert torch.equal(score.folds, c2st(x, y, seed(8), steps=80).folds) and score.accuracy > 0.55
    scale, shift = torch.tensor([1e3, 1e-3], dtype=torch.float64), torch.tensor([5.0, -2.0], dtype=torch.float64)
    scaled = c2st(x * scale + shift, y * scale + shift, seed(8), steps=80)
    assert scaled.accuracy == pytest.approx(score.accuracy, abs=0.02)


# --- distances --------------------------------------------------------------------------------------------------------


def test_wasserstein1_closed_forms():
    g = seed(9)
    x, y = normal(3, 2, 400, generator=g), normal(3, 2, 400, generator=g)
    expected = [[wasserstein_distance(a, b) for a, b in zip(p, q, strict=True)] for p, q in zip(x, y, strict=True)]
    assert np.allclose(wasserstein1(x, y), expected)
    shuffled = x[..., torch.randperm(400, generator=g)]
    assert torch.allclose(wasserstein1(x, shuffled + 0.7), torch.full((3, 2), 0.7).double())
    assert torch.allclose(wasserstein1(-3 * x, -3 * y), 3 * wasserstein1(x, y))


def test_wasserstein1_over_that_of_exact_samples_rejects_every_control():
    toy = ToyPosterior(10, 10_000, seed(10))
    exact = toy.sample_posterior(10_000)
    of_exact = wasserstein1(toy.sample_posterior(10_000), exact)
    ratio = {sampler: float((wasserstein1(v, exact) / of_exact).mean()) for sampler, v in toy.samples.items()}
    assert 0.5 < ratio.pop("exact") < 1.5
    assert min(ratio.values()) > 2.5, ratio


def test_sliced_w2_closed_forms_and_sets_of_different_sizes():
    g = seed(11)
    x = normal(300, 4, generator=g)
    shift = torch.tensor([3.0, 0.0, 4.0, 0.0], dtype=torch.float64)
    assert sliced_w2(x, x + shift, g, projections=4000) == pytest.approx(5 / math.sqrt(4), rel=0.04)
    assert sliced_w2(x, x.repeat(3, 1), g) == pytest.approx(0, abs=1e-12), "the same distribution, thrice as long"
    a, b = normal(4, 1, generator=g), normal(6, 1, generator=g)
    quantiles = [s.sort(0).values.repeat_interleave(12 // len(s), 0) for s in (a, b)]
    assert sliced_w2(a, b, g) == pytest.approx(float((quantiles[0] - quantiles[1]).square().mean().sqrt()))
    wide = 1.5 * normal(20_000, 1, generator=g)
    assert sliced_w2(normal(15_000, 1, generator=g), wide, g, projections=8) == pytest.approx(0.5, abs=0.03)


def test_sliced_w2_rejects_samples_that_are_wrong_as_a_set():
    toy = ToyPosterior(4000, 1, seed(12))
    real, exact = (torch.cat([toy.context, v], -1) for v in (toy.v[:, None], toy.sample_posterior(1)))
    of_exact = sliced_w2(real, exact, seed())
    for control in ("mean", "shuffled", "prior"):
        fake = torch.cat([toy.context, toy.samples[control]], -1)
        assert sliced_w2(real, fake, seed()) > 2 * of_exact, control


# --- ranks and regions ------------------------------------------------------------------------------------------------


def test_sbc_passes_the_exact_posterior_and_rejects_every_control(toy):
    functionals = {
        "v": lambda v: v,
        "log p": toy.log_density,
        "distance": lambda v: (v - toy.mean[:, None]).abs(),
    }

    def min_pvalue(sampler):
        g = seed(14)
        ranks = [sbc_ranks(f(toy.samples[sampler]), f(toy.v[:, None])[:, 0], g) for f in functionals.values()]
        return float(holm(sbc_pvalues(torch.stack(ranks), 256)).min())

    assert min_pvalue("exact") > 0.01
    for control in CONTROLS:
        assert min_pvalue(control) < 0.01, control


def test_sbc_and_tarp_cannot_reject_the_prior_without_the_context(toy):
    ranks = sbc_ranks(toy.prior_signals[..., 0], toy.signal[:, 0], seed(15))
    assert sbc_pvalues(ranks[None], 256) > 0.01
    references = toy.sample_prior(1000)
    assert tarp_max_gap(tarp(toy.prior_signals, toy.signal, references)) < 0.043


def test_sbc_ranks_count_and_break_ties_at_random():
    samples = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    assert sbc_ranks(samples, torch.tensor([0.5, 2.5]), seed()).tolist() == [0, 2]
    ties = sbc_ranks(torch.zeros(5000, 9), torch.zeros(5000), seed())
    assert ties.min() == 0 and ties.max() == 9
    assert sbc_pvalues(ties[None], 9, seed(1)) > 0.01
    assert (torch.bincount(ties) - 500).abs().max() < 90
    many_ranks = sbc_ranks(torch.zeros(1000, 256), torch.zeros(1000), seed(1))
    assert sbc_pvalues(many_ranks[None], 256) > 0.01
    assert sbc_pvalues(torch.full((1, 1000), 128), 256) < 1e-6, "negative control: every tie has the middle rank"


def test_sbc_pvalues_are_uniform_under_the_null():
    p = sbc_pvalues(torch.randint(257, (400, 300), generator=seed(16)), 256)
    assert abs(p.mean() - 0.5) < 0.06
    assert 0.02 < (p < 0.05).double().mean() < 0.08


def false_alarms(c, L, generator, sets=150):
    """Fractions of perfect samplers that SBC at 5% and the 95% band of TARP reject."""
    g = seed(19)
    samples, truth = torch.rand(sets, c, L, generator=g), torch.rand(sets, c, generator=g)
    ranks = torch.stack([sbc_ranks(*one_set, g) for one_set in zip(samples, truth, strict=True)])
    below = -torch.ones(c, 1)  # a reference below all samples: the coverage is the truth's rank, over L
    pairs = zip(samples[..., None], truth[..., None], strict=True)
    coverage = torch.stack([tarp(*pair, below, generator) for pair in pairs]).sort(1).values
    steps = torch.arange(c + 1, dtype=torch.float64) / c
    gap = torch.maximum((steps[1:] - coverage).amax(1), (coverage - steps[:-1]).amax(1))  # as of tarp_max_gap
    return np.array([float((sbc_pvalues(ranks, L, generator) < 0.05).double().mean()),
                     float((gap > 1.36 / math.sqrt(c)).double().mean())])  # fmt: skip


def test_a_generator_makes_sbc_and_tarp_exact_for_few_samples():
    assert (abs(false_alarms(100, 8, seed(23)) - 0.05) < 0.05).all()
    assert (false_alarms(100, 39, None) < 0.13).all(), "the smallest L that is allowed without"
    wrong = torch.rand(1000, 16, generator=seed()), torch.rand(1000, generator=seed(1)) ** 1.5
    assert sbc_pvalues(sbc_ranks(*wrong, seed())[None], 16, seed()) < 1e-6, "negative control"
    assert tarp_max_gap(tarp(wrong[0][..., None], wrong[1][:, None], -torch.ones(1000, 1), seed())) > 0.1


def test_tarp_breaks_ties_at_random():
    """A right sampler of a fair coin: half of the samples are exactly as far from the reference as the truth."""
    coins = torch.randint(2, (1000, 101, 1), generator=seed(20)).double()
    reference = torch.full((1000, 1), -0.3, dtype=torch.float64)
    assert tarp_max_gap(tarp(coins[:, 1:], coins[:, 0], reference, seed())) < 0.043
    biased = torch.where(torch.rand(1000, 100, 1, generator=seed(21)) < 0.5, coins[:, 1:], 1.0)
    assert tarp_max_gap(tarp(biased, coins[:, 0], reference, seed())) > 0.1, "negative control"
    with pytest.raises(ValueError, match="1000 contexts have samples exactly as far as the truth: pass a generator"):
        tarp(coins.repeat(1, 2, 1)[:, 1:], coins[:, 0], reference)


def test_a_generator_moves_a_coverage_by_at_most_one_step():
    g = seed(22)
    samples, truth, references = (normal(*shape, generator=g) for shape in ((99, 79, 2), (99, 2), (99, 2)))
    plain, randomised = tarp(samples, truth, references), tarp(samples, truth, references, seed())
    position = 80 * randomised - (79 * plain).round()
    assert position.min() >= 0 and position.max() < 1 and 0.4 < position.mean() < 0.6


def test_sbc_pvalues_divide_by_the_number_of_ranks():
    """Rank r is the middle of step r of L + 1 steps; the p-value of one number u is 2 min(u, 1 - u)."""
    pvalues = sbc_pvalues(torch.tensor([[0], [1], [3]]), 3)
    assert torch.allclose(pvalues, torch.tensor([0.25, 0.75, 0.25], dtype=torch.float64))


def test_holm_by_hand():
    p = torch.tensor([0.01, 0.04, 0.03, 0.005], dtype=torch.float64)
    assert torch.allclose(holm(p), torch.tensor([0.03, 0.06, 0.06, 0.02], dtype=torch.float64))
    assert torch.equal(holm(torch.tensor([0.7, 0.9])), torch.tensor([1.0, 1.0]))


def test_tarp_passes_the_exact_posterior_and_rejects_every_control(toy):
    def max_gap(sampler):
        return tarp_max_gap(tarp(toy.samples[sampler][..., None], toy.v[:, None], toy.mean[:, None]))

    assert max_gap("exact") < 0.043
    for control in CONTROLS:
        assert max_gap(control) > 0.043, control


def test_tarp_coverage_is_that_of_the_package_tarp():
    g = seed(18)
    samples, truth, references = (normal(*shape, 3, generator=g) for shape in ((200, 64), (200,), (200,)))
    curve, levels = get_tarp_coverage(samples.transpose(0, 1).numpy(), truth.numpy(), references.numpy())
    coverage = tarp(samples, truth, references).numpy()
    below = (coverage[:, None] < levels[:-1]).mean(0)  # its last level is the largest coverage, and counts it
    np.testing.assert_allclose(below, curve[:-1], atol=1e-12)
    wrong_truth = tarp(samples, truth.roll(1, 0), references).numpy()
    assert np.abs((wrong_truth[:, None] < levels[:-1]).mean(0) - curve[:-1]).max() > 0.01


def test_tarp_max_gap_is_the_largest_distance_of_the_coverage_curve_from_the_diagonal():
    coverage = torch.rand(200, generator=seed(17), dtype=torch.float64) ** 1.3
    levels = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    curve = (coverage[:, None] < levels).double().mean(0)
    assert tarp_max_gap(coverage) == pytest.approx(float((curve - levels).abs().max()), abs=1e-3)
    of_perfect_samplers = [tarp_max_gap(torch.rand(1000, generator=seed(i))) for i in range(400)]
    assert 0.92 < np.mean(np.array(of_perfect_samplers) < 0.043) < 0.98
