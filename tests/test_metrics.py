"""Each measure against closed forms, against perfect samplers, and against samplers that it must reject."""

import math
import sys
import types

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance

from fwdiff_lite import metrics
from fwdiff_lite.metrics import (
    best_of,
    bootstrap,
    c2st,
    calibration_error,
    debiased_ensemble_mean_mse,
    energy_gap,
    energy_ratio,
    energy_score,
    energy_skill,
    euclidean_error,
    factor_tv,
    fid_kid,
    frechet_distance,
    holm,
    label_entropy,
    label_frequencies,
    log_loss,
    lpips,
    per_context_calibration_rms,
    precision_recall,
    psnr,
    sbc_pvalues,
    sbc_ranks,
    sliced_w2,
    spread_skill,
    squared_error,
    ssim,
    tarp,
    tarp_max_gap,
    total_variation,
    variance_inside_outside,
    wasserstein1,
)

CONTROLS = ("mean", "shuffled", "prior", "x0.8", "x1.2")


def seed(n: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(n)


def normal(*shape: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


# --- a posterior that is known: a signal in R^2, seen as o = <u(phi), S>, free along v = <n(phi), S> ------------

WEIGHTS = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
MEANS = torch.tensor([[-1.1, -0.6], [0.8, -1.0], [0.0, 1.2], [1.5, 0.9]], dtype=torch.float64)
ROOTS = torch.tensor(
    [[[0.4, -0.1], [0.3, 0.2]], [[0.3, 0.0], [0.0, 0.3]], [[0.5, 0.1], [-0.2, 0.2]], [[0.2, -0.1], [0.1, 0.3]]],
    dtype=torch.float64,
)
COVARIANCES = ROOTS @ ROOTS.mT


class Toy:
    """c contexts, the posterior of each, and m answers to each from an exact sampler and from five wrong ones."""

    def __init__(self, c: int, m: int, generator: torch.Generator):
        self.generator = generator
        self.signal = self.prior(c)
        phi = 2 * math.pi * torch.rand(c, generator=generator, dtype=torch.float64)
        u, self.n = torch.stack([phi.cos(), phi.sin()], -1), torch.stack([-phi.sin(), phi.cos()], -1)
        self.o, self.v = (self.signal * u).sum(-1), (self.signal * self.n).sum(-1)
        self.context = torch.stack([self.o, phi.cos(), phi.sin()], -1)

        uu, un, nn = (torch.einsum("ci,kij,cj->ck", a, COVARIANCES, b) for a, b in ((u, u), (u, self.n), (self.n,) * 2))
        surprise = self.o[:, None] - u @ MEANS.T
        self.log_evidence = WEIGHTS.log() - 0.5 * (surprise**2 / uu + (2 * math.pi * uu).log())
        self.weights = self.log_evidence.softmax(-1)
        self.means, self.variances = self.n @ MEANS.T + un / uu * surprise, nn - un**2 / uu
        self.mean = (self.weights * self.means).sum(-1)

        base, middle = self.draw(m), self.mean[:, None]
        self.prior_signals = self.prior(c * m).view(c, m, 2)
        self.answers = {
            "exact": self.draw(m),
            "mean": middle.expand_as(base),
            "shuffled": base.roll(1, 0),
            "prior": torch.einsum("cmi,ci->cm", self.prior_signals, self.n),
            "x0.8": middle + math.sqrt(0.8) * (base - middle),
            "x1.2": middle + math.sqrt(1.2) * (base - middle),
        }

    def prior(self, c: int) -> torch.Tensor:
        k = torch.multinomial(WEIGHTS, c, replacement=True, generator=self.generator)
        return MEANS[k] + (ROOTS[k] @ normal(c, 2, 1, generator=self.generator))[..., 0]

    def draw(self, m: int) -> torch.Tensor:
        k = torch.multinomial(self.weights, m, replacement=True, generator=self.generator)
        return self.means.gather(1, k) + self.variances.gather(1, k).sqrt() * normal(*k.shape, generator=self.generator)

    def log_density(self, v: torch.Tensor) -> torch.Tensor:
        """(c, m) -> (c, m): log p(v | o)."""
        variance = self.variances[:, None]
        log_p = -0.5 * ((v[..., None] - self.means[:, None]) ** 2 / variance + (2 * math.pi * variance).log())
        return (self.weights.log()[:, None] + log_p).logsumexp(-1)

    def rows(self, v: torch.Tensor) -> torch.Tensor:
        """(c,) -> (c, 4): observation, direction, coordinate along the line."""
        return torch.cat([self.context, v[:, None]], -1).float()


@pytest.fixture
def toy() -> Toy:
    return Toy(1000, 256, seed(1))


def test_the_toy_posterior_is_exact(toy):
    grid = torch.linspace(-6, 6, 4001, dtype=torch.float64)
    posterior = toy.log_density(grid.expand(1000, -1)).exp()
    assert torch.allclose(posterior.sum(-1) * (grid[1] - grid[0]), torch.ones(1000).double(), atol=1e-9)
    # p(v | o) p(o) is the prior's own density at S = o u + v n
    off = toy.signal[:, None] - MEANS
    mahalanobis = torch.einsum("cki,kij,ckj->ck", off, COVARIANCES.inverse(), off)
    joint = (WEIGHTS.log() - 0.5 * (mahalanobis + (2 * math.pi * COVARIANCES).det().log())).logsumexp(-1)
    assert torch.allclose(toy.log_density(toy.v[:, None])[:, 0] + toy.log_evidence.logsumexp(-1), joint, atol=1e-9)


# --- two-sample tests -------------------------------------------------------------------------------------------


def test_c2st_exact_redraws_score_a_half_and_every_control_is_rejected():
    redraws = [Toy(10_000, 1, seed(100 + i)) for i in range(10)]
    real = torch.stack([t.rows(t.v) for t in redraws])
    fake = torch.stack([t.rows(t.answers["exact"][:, 0]) for t in redraws])
    null = torch.tensor([score.accuracy for score in c2st_many(real, fake, seed())])
    assert abs(null.mean() - 0.5) < 0.004
    assert null.std() < 0.006
    one = redraws[0]
    score = {k: c2st(one.rows(one.v), one.rows(one.answers[k][:, 0]), seed()) for k in CONTROLS}
    for kind in CONTROLS:
        assert score[kind].accuracy > null.mean() + 4 * null.std(), kind
        assert score[kind].folds.mean() == pytest.approx(score[kind].accuracy)
    assert 0.78 < score["mean"].accuracy < 0.90
    assert min(score["x0.8"].accuracy, score["x1.2"].accuracy) > 0.515
    assert min(score["prior"].accuracy, score["shuffled"].accuracy) > 0.65


def test_c2st_is_blind_to_a_sample_slightly_off_its_line_but_not_to_one_far_off():
    t = Toy(10_000, 1, seed(5))
    u = t.context[:, 1:]

    def told_apart(off_line):  # the whole signal, not its free coordinate alone
        signal = t.o[:, None] * u + t.answers["exact"] * t.n + off_line * normal(10_000, 1, generator=seed(6)) * u
        return c2st(torch.cat([t.context, t.signal], -1).float(), torch.cat([t.context, signal], -1).float(), seed())

    assert told_apart(0.1).accuracy < 0.54, "measure the residual of the context separately"
    assert told_apart(1.0).accuracy > 0.90


def test_c2st_reaches_the_best_accuracy_there_is():
    g = seed(2)
    x, y = normal(4000, 3, generator=g), normal(4000, 3, generator=g)
    y[:, 0] += 1.0  # the best classifier of N(0, 1) and N(1, 1) is right with probability Phi(1 / 2)
    assert c2st(x, y, g).accuracy == pytest.approx(0.6915, abs=0.02)


def test_c2st_of_equal_sets_is_exactly_a_half_whatever_the_grad_mode_and_the_left_over_rows():
    x = normal(203, 3, generator=seed(3)).requires_grad_()
    x = torch.cat([x, torch.ones(203, 1)], 1)  # a constant column is allowed
    with torch.no_grad():
        score = c2st(x, x.clone(), seed(4), folds=4)
    assert score.accuracy == 0.5 and score.folds.shape == (4,)


def test_c2st_repeats_with_its_seed_and_ignores_units():
    g = seed(7)
    x, y = normal(500, 2, generator=g), 1.5 * normal(500, 2, generator=g)
    first = c2st(x, y, seed(8))
    assert torch.equal(first.folds, c2st(x, y, seed(8)).folds)
    scale, shift = torch.tensor([1e3, 1e-3], dtype=torch.float64), torch.tensor([5.0, -2.0], dtype=torch.float64)
    assert c2st(x * scale + shift, y * scale + shift, seed(8)).accuracy == pytest.approx(first.accuracy, abs=0.02)


def test_wasserstein1_closed_forms():
    g = seed(9)
    x, y = normal(3, 2, 400, generator=g), normal(3, 2, 400, generator=g)
    theirs = [[wasserstein_distance(a, b) for a, b in zip(p, q, strict=True)] for p, q in zip(x, y, strict=True)]
    assert np.allclose(wasserstein1(x, y), theirs)
    shuffled = x[..., torch.randperm(400, generator=g)]
    assert torch.allclose(wasserstein1(x, shuffled + 0.7), torch.full((3, 2), 0.7).double())
    assert torch.allclose(wasserstein1(-3 * x, -3 * y), 3 * wasserstein1(x, y))


def test_wasserstein1_over_its_floor_rejects_every_control():
    t = Toy(10, 10_000, seed(10))
    exact = t.draw(10_000)
    floor = wasserstein1(t.draw(10_000), exact)
    ratio = {kind: float((wasserstein1(v, exact) / floor).mean()) for kind, v in t.answers.items()}
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


def test_frechet_distance_closed_forms():
    g = seed()
    x = normal(400, 3, generator=g)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, x + torch.tensor([1.0, 2.0, 2.0])) == pytest.approx(9, rel=1e-9)
    # stretched s times along axes of its own: the sum of (s - 1)^2 times the variance there
    x = torch.linalg.qr(x - x.mean(0))[0] * (len(x) - 1) ** 0.5  # of unit covariance
    turn = torch.linalg.qr(normal(3, 3, generator=g))[0]
    stretched = x @ turn * torch.tensor([2.0, 1.0, 0.5], dtype=x.dtype) @ turn.T
    assert frechet_distance(x, stretched) == pytest.approx(1 + 0.25, rel=1e-9)
    assert frechet_distance(x[:, :2], x[:, 1:] * 0) == pytest.approx(2, rel=1e-9), "against a point: all its variance"


def test_precision_and_recall_tell_what_is_wrong_with_a_set():
    g = seed()
    real = torch.cat([normal(300, 2, generator=g) + side for side in (-10, 10)])
    again = torch.cat([normal(300, 2, generator=g) + side for side in (-10, 10)])
    assert min(precision_recall(real, again)) > 0.9
    precision, recall = precision_recall(real, again[:300])  # one of two modes
    assert precision > 0.9 and 0.4 < recall < 0.55
    precision, recall = precision_recall(real, torch.cat([again, again + 40]))  # as many that do not exist
    assert 0.4 < precision < 0.55 and recall > 0.9
    assert precision_recall(real, real + 100) == (0, 0)
    with pytest.raises(ValueError, match="got 600 and 3 rows, wanted at least 4"):
        precision_recall(real, again[:3])


@pytest.mark.parametrize("distance", [sliced_w2, lambda x, y, g: mmd(x, y, g, bandwidth=0.5)], ids=["w2", "mmd"])
def test_a_distance_between_sets_rejects_what_is_wrong_for_the_set(distance):
    t = Toy(4000, 1, seed(12))
    real, again = (torch.cat([t.context, v], -1) for v in (t.v[:, None], t.draw(1)))
    floor = abs(distance(real, again, seed()))
    for kind in ("mean", "shuffled", "prior"):
        assert distance(real, torch.cat([t.context, t.answers[kind]], -1), seed()) > 2 * floor, kind
    assert mmd(real, torch.cat([t.context, t.answers["mean"]], -1), seed()) > 0.002, "at its own bandwidth too"


def test_mmd_estimates_the_exact_kernel_distance_and_is_unbiased():
    g = seed(13)
    x, y = normal(300, 2, generator=g), 0.8 + normal(200, 2, generator=g)

    def kernel(a, b):
        return (-0.5 * torch.cdist(a, b).square()).exp()

    off = lambda k: (k.sum() - k.diag().sum()) / (len(k) * (len(k) - 1))  # noqa: E731
    exact = float(off(kernel(x, x)) + off(kernel(y, y)) - 2 * kernel(x, y).mean())
    assert mmd(x, y, g, features=20_000, bandwidth=1.0) == pytest.approx(exact, rel=0.05)
    same = [mmd(normal(100, 2, generator=g), normal(100, 2, generator=g), g) for _ in range(200)]
    assert abs(np.mean(same)) < 4 * np.std(same) / math.sqrt(200) and min(same) < 0
    assert np.mean(same) + 4 * np.std(same) < mmd(x, y, g)


# --- ranks and regions ------------------------------------------------------------------------------------------


def test_sbc_passes_the_exact_posterior_and_rejects_what_it_should(toy):
    functionals = {
        "v": lambda v: v,
        "log p": toy.log_density,
        "distance": lambda v: (v - toy.mean[:, None]).abs(),
    }

    def smallest_p(kind):
        g = seed(14)
        ranks = [sbc_ranks(f(toy.answers[kind]), f(toy.v[:, None])[:, 0], g) for f in functionals.values()]
        return float(holm(sbc_pvalues(torch.stack(ranks), 256)).min())

    assert smallest_p("exact") > 0.01
    for kind in CONTROLS:
        assert smallest_p(kind) < 0.01, kind


def test_sbc_and_tarp_cannot_reject_the_prior_without_the_context(toy):
    ranks = sbc_ranks(toy.prior_signals[..., 0], toy.signal[:, 0], seed(15))
    assert sbc_pvalues(ranks[None], 256) > 0.01
    references = toy.prior(1000)
    assert tarp_max_gap(tarp(toy.prior_signals, toy.signal, references)) < 0.043


def test_sbc_ranks_count_and_break_ties_at_random():
    samples = torch.tensor([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]])
    assert sbc_ranks(samples, torch.tensor([0.5, 2.5]), seed()).tolist() == [0, 2]
    ties = sbc_ranks(torch.zeros(5000, 9), torch.zeros(5000), seed())
    assert ties.min() == 0 and ties.max() == 9
    assert sbc_pvalues(ties[None], 9) < 0.01, "ten ranks are too few for a continuous test: it errs on the safe side"
    assert (torch.bincount(ties) - 500).abs().max() < 90
    fine = sbc_ranks(torch.zeros(1000, 256), torch.zeros(1000), seed(1))
    assert sbc_pvalues(fine[None], 256) > 0.01
    assert sbc_pvalues(torch.full((1, 1000), 128), 256) < 1e-6, "negative control: broken to the middle"


def test_sbc_pvalues_are_uniform_under_the_null():
    p = sbc_pvalues(torch.randint(257, (400, 300), generator=seed(16)), 256)
    assert abs(p.mean() - 0.5) < 0.06
    assert 0.02 < (p < 0.05).double().mean() < 0.08


def test_holm_by_hand():
    p = torch.tensor([0.01, 0.04, 0.03, 0.005], dtype=torch.float64)
    assert torch.allclose(holm(p), torch.tensor([0.03, 0.06, 0.06, 0.02], dtype=torch.float64))
    assert torch.equal(holm(torch.tensor([0.7, 0.9])), torch.tensor([1.0, 1.0]))


def test_tarp_passes_the_exact_posterior_and_rejects_every_control(toy):
    def gap(kind):
        return tarp_max_gap(tarp(toy.answers[kind][..., None], toy.v[:, None], toy.mean[:, None]))

    assert gap("exact") < 0.043
    for kind in CONTROLS:
        assert gap(kind) > 0.043, kind


def test_tarp_max_gap_is_the_largest_distance_of_the_coverage_curve_from_the_diagonal():
    coverage = torch.rand(200, generator=seed(17), dtype=torch.float64) ** 1.3
    levels = torch.linspace(0, 1, 20_001, dtype=torch.float64)
    curve = (coverage[:, None] < levels).double().mean(0)
    assert tarp_max_gap(coverage) == pytest.approx(float((curve - levels).abs().max()), abs=1e-3)
    perfect = [tarp_max_gap(torch.rand(1000, generator=seed(i))) for i in range(400)]
    assert 0.92 < np.mean(np.array(perfect) < 0.043) < 0.98


# --- bootstrap --------------------------------------------------------------------------------------------------


def test_bootstrap_covers_and_matches_the_normal_interval():
    x = normal(2000, generator=seed(18))
    interval = bootstrap(torch.mean, x, generator=seed())
    assert interval.value == pytest.approx(float(x.mean()))
    assert interval.high - interval.low == pytest.approx(2 * 1.96 / math.sqrt(2000), rel=0.1)
    half = bootstrap(torch.mean, x, generator=seed(), level=0.5)
    assert half.high - half.low == pytest.approx(2 * 0.674 / math.sqrt(2000), rel=0.15)
    draws = [normal(60, generator=seed(i)) for i in range(200)]
    intervals = [bootstrap(torch.mean, d, generator=seed(i), resamples=200) for i, d in enumerate(draws)]
    assert 0.88 < np.mean([i.low < 0 < i.high for i in intervals]) < 0.98
    assert bootstrap(torch.mean, x, generator=seed(3)) == bootstrap(torch.mean, x, generator=seed(3))


def test_bootstrap_keeps_pairs_together():
    x = normal(100, generator=seed(19))
    paired = bootstrap(lambda a, b: (a - b).mean(), x, x + 1, generator=seed())
    assert paired.high - paired.low < 1e-12
    apart = bootstrap(lambda a, b: (a - b).mean(), x, x.flip(0) + 1, generator=seed())
    assert apart.high - apart.low > 0.1


# --- energy score -----------------------------------------------------------------------------------------------


def test_energy_score_is_its_definition_in_pieces_and_in_any_shape(monkeypatch):
    g = seed(20)
    samples, truth = normal(5, 4, 3, 2, generator=g), normal(5, 3, 2, generator=g)
    by_hand = []
    for x, y in zip(samples, truth, strict=True):
        pairs = [(x[k] - x[j]).norm() for k in range(4) for j in range(4) if k != j]
        by_hand.append(sum((a - y).norm() for a in x) / 4 - sum(pairs) / (2 * 12))
    assert torch.allclose(energy_score(samples, truth), torch.stack(by_hand))
    assert torch.allclose(energy_score(samples.flatten(2) + 7, truth.flatten(1) + 7), torch.stack(by_hand))
    many, one = normal(1100, 64, 1, generator=g), normal(1100, 1, generator=g)  # more than one chunk
    assert torch.allclose(energy_score(many, one)[1090:], energy_score(many[1090:], one[1090:]))
    close = 100 + 1e-3 * torch.randn(3, 32, 50, generator=g)  # no cancellation between samples that are close
    assert torch.allclose(energy_score(close, close[:, 0]), energy_score(close.double(), close[:, 0].double()).float())


@pytest.mark.parametrize("K", [2, 16])
def test_energy_score_is_unbiased_and_dividing_by_k_squared_is_not(K):
    g, c = seed(21), 400_000 // K
    samples, truth = normal(c, K, 1, generator=g), normal(c, 1, generator=g)
    best = 1 / math.sqrt(math.pi)
    assert float(energy_score(samples, truth).mean()) == pytest.approx(best, abs=0.012)
    naive = torch.cdist(samples, truth[:, None]).mean() - torch.cdist(samples, samples).mean() / 2
    assert float(naive) == pytest.approx(best * (1 + 1 / K), abs=0.015)


def signs(c: int, K: int, d: int, g: torch.Generator) -> torch.Tensor:
    return 2.0 * torch.randint(2, (c, K, d), generator=g) - 1


def hues(c: int, K: int, d: int, g: torch.Generator) -> torch.Tensor:
    angle = 2 * math.pi * torch.rand(c, K, generator=g)
    return torch.stack([angle.cos(), angle.sin()], -1)


@pytest.mark.parametrize(
    ("draw", "d", "wanted"),
    [
        (lambda c, K, d, g: torch.randn(c, K, d, generator=g), 1, 0.707),
        (lambda c, K, d, g: torch.randn(c, K, d, generator=g), 8, 0.707),
        (lambda c, K, d, g: torch.rand(c, K, d, generator=g) - 0.5, 64, 0.707),
        (signs, 1, 0.50),
        (signs, 2, 0.604),
        (signs, 3, 0.648),
        (signs, 4, 0.669),
        (hues, 2, 0.637),
    ],
)
def test_energy_ratio_of_a_perfect_sampler_to_the_perfect_mean(draw, d, wanted):
    g = seed(22)
    draws = draw(5000, 17, d, g)
    samples, truth = draws[:, 1:], draws[:, 0]
    ratio = energy_ratio(energy_score(samples, truth), euclidean_error(torch.zeros_like(truth), truth), g)
    assert ratio.value == pytest.approx(wanted, abs=0.015)
    assert ratio.low < ratio.value < ratio.high


def test_energy_skill_of_half_the_spread_and_of_a_bias():
    g = seed(23)
    truth, base = normal(20_000, 1, generator=g), normal(20_000, 16, 1, generator=g)
    best, flat = energy_score(base, truth), euclidean_error(torch.zeros_like(truth), truth)
    skill = lambda samples: energy_skill(energy_score(samples, truth), flat, best, g)  # noqa: E731
    again = skill(normal(20_000, 16, 1, generator=g))
    assert again.value == pytest.approx(1, abs=0.03) and again.low < 1 < again.high
    assert skill(0.5 * base).value == pytest.approx(0.80, abs=0.03)
    assert skill(base + 0.4).value == pytest.approx(0.81, abs=0.03)
    assert energy_skill(flat, flat, best, g).value == 0
    blunt = float(energy_score(0.6 * base, truth).mean() / best.mean())
    assert blunt == pytest.approx(1.05, abs=0.01), "six tenths of the spread: only 5% worse"


def test_energy_gap_passes_the_exact_posterior_rejects_gross_errors_and_cannot_see_a_fifth_of_variance(toy):
    score = {k: energy_score(v[:, :64, None], toy.v[:, None]) for k, v in toy.answers.items()}
    exact = energy_score(toy.draw(64)[..., None], toy.v[:, None])
    gap = {kind: energy_gap(s, exact, seed()) for kind, s in score.items()}
    assert gap["exact"].high < 0.03
    for kind in ("mean", "shuffled", "prior"):
        assert gap[kind].low > 0.03, kind
    assert max(gap["x0.8"].value, gap["x1.2"].value) < 0.03


def test_energy_gap_is_paired_and_relative():
    exact = torch.rand(500, generator=seed(24)) + 1
    gap = energy_gap(1.1 * exact, exact, seed())
    assert gap.value == pytest.approx(0.1, rel=1e-5)
    assert gap.high - gap.low < 0.01, "independent intervals would be five times as wide"


# --- spread and skill -------------------------------------------------------------------------------------------


def four_unknowns(g, spread=1.0, bias=0.0, c=128, K=16):
    """Each context hides four unknowns that 32 pixels show."""
    show = normal(4, 32, generator=seed(25))
    return (spread * normal(c, K, 4, generator=g) + bias) @ show, normal(c, 4, generator=g) @ show


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
    naive = samples.var(1, correction=0).mean().sqrt() / (samples.mean(1) - truth).square().mean().sqrt()
    assert naive < 0.9


def test_spread_skill_sees_overconfidence_and_bias_but_not_the_prior():
    assert spread_skill(*four_unknowns(seed(28), spread=0.5), seed()).high < 0.65
    assert spread_skill(*four_unknowns(seed(28), bias=1.0), seed()).high < 0.9
    g = seed(29)
    seen = normal(1000, 1, 1, generator=g)  # the context tells it; the prior does not listen
    truth = seen[:, 0] + normal(1000, 1, generator=g)
    prior = normal(1000, 16, 1, generator=g) + normal(1000, 16, 1, generator=g)
    assert spread_skill(prior, truth, seed()).value == pytest.approx(1, abs=0.06)


def test_spread_skill_pools_before_it_divides_and_scores_only_the_mask():
    g = seed(30)
    scale = torch.tensor([0.01, 1.0], dtype=torch.float64)  # pixels of unlike spread, the small one over-confident
    samples, truth = normal(2000, 8, 2, generator=g) * scale, normal(2000, 2, generator=g) * scale
    samples[..., 0] *= 0.1
    assert spread_skill(samples, truth, seed()).value == pytest.approx(1, abs=0.04), "a mean of ratios would be 0.55"
    mask = torch.tensor([[True, False]])
    assert spread_skill(samples, truth, seed(), mask).value < 0.2
    assert spread_skill(samples, truth, seed(), ~mask).value == pytest.approx(1, abs=0.04)


def test_mean_mse_removes_the_noise_of_k_samples():
    g = seed(31)
    samples, truth = normal(4000, 4, 3, generator=g) + 0.5, normal(4000, 3, generator=g)
    assert float(debiased_ensemble_mean_mse(samples, truth).mean()) == pytest.approx(1.25, abs=0.06)
    assert float(squared_error(samples.mean(1), truth).mean()) == pytest.approx(1.5, abs=0.06)


def test_per_context_errors_average_to_the_pooled_error_under_uneven_masks():
    g = seed(32)
    prediction, truth = normal(6, 4, 5, generator=g), normal(6, 4, 5, generator=g)
    mask = torch.rand(6, 4, 5, generator=g) < torch.linspace(0.1, 0.9, 6)[:, None, None]
    pooled = (prediction - truth).square()[mask].mean()
    assert torch.allclose(squared_error(prediction, truth, mask).mean(), pooled)
    assert psnr(prediction, truth, 2.0, mask) == pytest.approx(float(10 * torch.log10(4 / pooled)))


# --- discrete factors -------------------------------------------------------------------------------------------


def read(p: torch.Tensor, K: int, g: torch.Generator) -> torch.Tensor:
    return torch.multinomial(p, K, replacement=True, generator=g)


@pytest.mark.parametrize(("scenes", "tv", "rms"), [(256, 0.022, 0.049), (128, 0.030, 0.057)])
def test_factor_measures_of_perfect_samplers(scenes, tv, rms):
    g, p = seed(33), torch.full((scenes, 2), 0.5, dtype=torch.float64)
    labels = [read(p, 16, g) for _ in range(30)]
    assert np.mean([factor_tv(a, p, g).high for a in labels]) == pytest.approx(tv, abs=0.004)
    assert np.mean([per_context_calibration_rms(a, p, g).high for a in labels]) == pytest.approx(rms, abs=0.01)


def test_factor_measures_reject_wrong_samplers_each_in_its_way():
    g = seed(34)
    first = 0.5 + 0.4 * torch.rand(1000, generator=g, dtype=torch.float64)
    p = torch.stack([first, 1 - first], -1)
    leaning = p**2 / (p**2).sum(-1, keepdim=True)  # towards the likelier mode
    assert factor_tv(read(leaning, 16, g), p, g).low > 0.05
    assert per_context_calibration_rms(read(leaning, 16, g), p, g).low > 0.05
    one_mode = read(p, 1, g).expand(-1, 16)  # each scene has a single answer, right on average
    assert factor_tv(one_mode, p, g).value < 0.06, "pooled frequencies cannot see it"
    assert per_context_calibration_rms(one_mode, p, g).low > 0.35
    blind = p.mean(0).expand_as(p)  # the marginal, whatever the scene
    assert factor_tv(read(blind, 16, g), p, g).value < 0.03
    assert per_context_calibration_rms(read(blind, 16, g), p, g).low > 0.08
    swapped = torch.full_like(p, 0.5)
    assert per_context_calibration_rms(read(swapped, 16, g), p, g).value == pytest.approx(
        float((p - 0.5).square().sum(-1).div(2).mean().sqrt()), abs=0.03
    )


@pytest.mark.parametrize("K", [2, 16])
def test_factor_scene_rms_is_free_of_the_noise_of_k_samples(K):
    g = seed(35)
    p = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).expand(50_000, 3)
    labels = read(p, K, g)
    assert per_context_calibration_rms(labels, p, g).value < 0.05
    naive = (label_frequencies(labels, 3) - p).square().sum(-1).div(2).mean().sqrt()
    assert naive == pytest.approx(math.sqrt(0.31 / K), rel=0.03), "sum of p (1 - p), over two, over K"


def test_label_frequencies_and_confusion_by_hand():
    labels = torch.tensor([[0, 0, 2, 1], [1, 1, 1, 1]])
    assert label_frequencies(labels, 3).tolist() == [[0.5, 0.25, 0.25], [0, 1, 0]]
    assert torch.allclose(label_frequencies(labels, 3, smoothing=1.0)[1], torch.tensor([1, 5, 1]).double() / 7)
    table = confusion_matrix(torch.tensor([0, 1, 1, 1]), torch.tensor([0, 0, 1, 1]), 3)
    assert table.tolist() == [[1, 1, 0], [0, 2, 0], [0, 0, 0]]


def test_log_loss_and_entropy_closed_forms():
    p = torch.tensor([[0.25] * 4, [0.5, 0.5, 0, 0], [1.0, 0, 0, 0]], dtype=torch.float64)
    assert torch.allclose(label_entropy(p), torch.tensor([math.log(4), math.log(2), 0]).double())
    assert torch.allclose(log_loss(p, torch.tensor([3, 1, 0])), torch.tensor([math.log(4), math.log(2), 0]).double())
    g = seed(36)  # a proper score: the truth scores best, and its own entropy
    truth = normal(20_000, 4, generator=g).softmax(-1)
    labels, sharp = read(truth, 1, g)[:, 0], truth**2 / (truth**2).sum(-1, keepdim=True)
    assert float(log_loss(truth, labels).mean()) == pytest.approx(float(label_entropy(truth).mean()), abs=0.02)
    assert log_loss(sharp, labels).mean() > log_loss(truth, labels).mean() + 0.02


def test_calibration_error_rejects_overconfidence_and_wrong_labels():
    g = seed(37)
    p = normal(5000, 4, generator=g).softmax(-1)
    labels, sharp = read(p, 1, g)[:, 0], (p**3) / (p**3).sum(-1, keepdim=True)
    assert calibration_error(p, labels) < 0.03
    assert calibration_error(sharp, labels) > 0.15
    assert calibration_error(p, labels.roll(1)) > 0.1
    flipped = torch.eye(2, dtype=torch.float64).repeat(50, 1)
    assert calibration_error(flipped, torch.tensor([1, 0]).repeat(50)) == 1, "all of the mass in the wrong place"
    assert calibration_error(flipped, torch.tensor([0, 1]).repeat(50)) == 0
    interval = bootstrap(calibration_error, p, labels, generator=g, resamples=50)
    assert interval.low < interval.value * 1.5 and interval.high < 0.05


# --- pictures ---------------------------------------------------------------------------------------------------


def test_psnr_closed_forms_and_pooling():
    truth = torch.zeros(2, 1, 4, 4)
    assert psnr(truth + 0.1, truth, 1.0) == pytest.approx(20, abs=1e-4)
    assert psnr(truth + 0.1, truth, 2.0) == pytest.approx(26.02, abs=1e-2)
    assert psnr(truth, truth, 1.0) == math.inf
    uneven = torch.tensor([0.01, 0.1]).view(2, 1, 1, 1) + truth
    assert psnr(uneven, truth, 1.0) == pytest.approx(22.97, abs=0.01), "of the mean error; the mean of dB is 30"


def test_a_perfect_sample_lies_three_db_below_the_perfect_mean():
    g = seed(38)
    truth, sample = (normal(128, 3, 16, 16, generator=g) for _ in range(2))
    gap = psnr(torch.zeros_like(truth), truth, 1.0) - psnr(sample, truth, 1.0)
    assert gap == pytest.approx(10 * math.log10(2), abs=0.1)


def test_best_of_takes_the_nearest_and_improves_with_k():
    truth = torch.zeros(2, 3)
    samples = torch.tensor([[[1.0] * 3, [0.5] * 3, [2.0] * 3], [[-0.1] * 3, [0.5] * 3, [1.0] * 3]])
    assert torch.equal(best_of(samples, truth), torch.tensor([[0.5] * 3, [-0.1] * 3]))
    many, zero = normal(200, 8, 5, generator=seed(39)), torch.zeros(200, 5).double()
    errors = [float(squared_error(best_of(many[:, :k], zero), zero).mean()) for k in (1, 2, 4, 8)]
    assert errors == sorted(errors, reverse=True) and errors[0] > 1.5 * errors[-1]


def test_ssim_falls_with_noise_and_blur():
    g = seed(40)
    picture = torch.rand(3, 2, 20, 24, generator=g)
    assert torch.allclose(ssim(picture, picture, 1.0), torch.ones(3).double())
    noisy = [
        float(ssim(picture + s * torch.randn(picture.shape, generator=g), picture, 1.0).mean()) for s in (0.1, 0.5)
    ]
    assert 0.5 < noisy[0] < 1 and noisy[1] < noisy[0] - 0.2
    blurred = torch.nn.functional.avg_pool2d(picture, 3, 1, 1)
    assert ssim(blurred, picture, 1.0).max() < 0.8
    assert torch.allclose(ssim(2 * noisy_of(picture), 2 * picture, 2.0), ssim(noisy_of(picture), picture, 1.0))
    flat = torch.full((1, 1, 16, 16), 0.25)  # of two constants only the luminance term is left
    wanted = (2 * 0.25 * 0.75 + 1e-4) / (0.25**2 + 0.75**2 + 1e-4)
    assert float(ssim(flat, 3 * flat, 1.0)[0]) == pytest.approx(wanted, abs=1e-6)


def noisy_of(picture: torch.Tensor) -> torch.Tensor:
    return picture + 0.1 * torch.randn(picture.shape, generator=seed(41))


def test_total_variation_closed_forms_and_blur():
    board = (torch.arange(6)[:, None] + torch.arange(4)) % 2.0
    assert total_variation(board.expand(2, 3, 6, 4)).tolist() == [[1.0] * 3] * 2
    assert float(total_variation(torch.ones(5, 5))) == 0
    ramp = torch.arange(5.0).expand(1, 5)
    assert float(total_variation(ramp)) == 1, "a one-row picture has only neighbours across"
    assert float(total_variation(ramp.expand(3, 5))) == pytest.approx(12 / 22)
    noise = torch.rand(4, 16, 16, generator=seed(42))
    assert total_variation(torch.nn.functional.avg_pool2d(noise, 3, 1, 1)).mean() < 0.5 * total_variation(noise).mean()


def test_variance_inside_and_outside_of_what_is_seen():
    g = seed(43)
    mask = torch.zeros(40, 8, 8, dtype=torch.bool)
    mask[:, :4] = True
    samples = normal(40, 8, 8, 8, generator=g) * torch.where(mask, 0.1, 2.0)[:, None]
    inside, outside = variance_inside_outside(samples, mask)
    assert inside == pytest.approx(0.01, rel=0.1) and outside == pytest.approx(4, rel=0.1)
    assert variance_inside_outside(samples, ~mask) == (outside, inside)
    alike = variance_inside_outside(normal(40, 8, 8, 8, generator=g), mask)
    assert alike[0] == pytest.approx(alike[1], rel=0.1), "negative control: a spread that ignores the context"


# --- bad input --------------------------------------------------------------------------------------------------

X = torch.zeros(4, 3)
NAN = torch.full((4, 3), math.nan)
NONE = torch.zeros(0, 3)
MANY = torch.zeros(4, 5, 3)
HALF = torch.full((4, 2), 0.5)
ZEROS = torch.zeros(4, dtype=torch.long)

BAD = {
    "c2st nan": (lambda: c2st(NAN, X, seed()), "real holds 12 NaN or infinite values"),
    "c2st nan fake": (lambda: c2st(X, NAN, seed()), "fake holds 12 NaN"),
    "c2st empty": (lambda: c2st(NONE, NONE, seed()), "real is empty"),
    "c2st shapes": (lambda: c2st(X, X[:3], seed()), r"fake has shape \(3, 3\), wanted \(4, 3\)"),
    "c2st rank": (lambda: c2st(X[0], X[0], seed()), r"wanted \(n, d\)"),
    "c2st few": (lambda: c2st(X, X, seed()), "got 4 rows and 5 folds"),
    "c2st one fold": (lambda: c2st(X, X, seed(), folds=1), "wanted 2 folds"),
    "c2st_many": (lambda: c2st_many(MANY, MANY[:2], seed()), "fake has shape"),
    "wasserstein1 shapes": (lambda: wasserstein1(X, X[:, :2]), "y has shape"),
    "wasserstein1 inf": (lambda: wasserstein1(X / 0, X), "x holds 12 NaN or infinite"),
    "sliced_w2 shapes": (lambda: sliced_w2(X, X[:, :2], seed()), "with the same d"),
    "frechet_distance shapes": (lambda: frechet_distance(X, X[:, :2]), "with the same d"),
    "precision_recall few": (lambda: precision_recall(X, X[:3]), "wanted at least 4 in each set"),
    "sliced_w2 none": (lambda: sliced_w2(X, X, seed(), projections=0), "projections = 0"),
    "mmd one row": (lambda: mmd(X[:1], X, seed()), "at least 2 in each set"),
    "mmd no bandwidth": (lambda: mmd(X, X, seed()), "got bandwidth 0"),
    "sbc_ranks shapes": (lambda: sbc_ranks(X, X[:2, 0], seed()), "truth has shape"),
    "sbc_ranks nan": (lambda: sbc_ranks(NAN, X[:, 0], seed()), "samples holds 12"),
    "sbc_pvalues rank": (lambda: sbc_pvalues(ZEROS, 3), r"wanted \(functionals, contexts\)"),
    "sbc_pvalues range": (lambda: sbc_pvalues(ZEROS[None] + 9, 3), "wanted 0 to L = 3"),
    "holm range": (lambda: holm(X[0] + 2), "between 0 and 1"),
    "tarp shapes": (lambda: tarp(MANY, X, X[:2]), "references has shape"),
    "tarp truth": (lambda: tarp(MANY, X[:2], X), "truth has shape"),
    "tarp_max_gap range": (lambda: tarp_max_gap(X[0] - 1), "between 0 and 1"),
    "bootstrap nothing": (lambda: bootstrap(torch.mean, generator=seed()), "got no array"),
    "bootstrap empty": (lambda: bootstrap(torch.mean, NONE, generator=seed()), "array 0 is empty"),
    "bootstrap one": (lambda: bootstrap(torch.mean, X[:1], generator=seed()), "got 1 context"),
    "bootstrap lengths": (lambda: bootstrap(torch.mean, X, X[:2], generator=seed()), r"\[2, 4\] contexts"),
    "bootstrap level": (lambda: bootstrap(torch.mean, X, generator=seed(), level=95), "level 95"),
    "bootstrap divides": (lambda: bootstrap(lambda x: 1 / x.mean(), X, generator=seed()), "not finite"),
    "energy_score one": (lambda: energy_score(MANY[:, :1], X), "got K = 1 .* point_score"),
    "energy_score shapes": (lambda: energy_score(MANY, X[:, :2]), r"truth has shape \(4, 2\), wanted \(4, 3\)"),
    "energy_score nan": (lambda: energy_score(MANY, NAN), "truth holds 12"),
    "energy_score empty": (lambda: energy_score(MANY[:0], X[:0]), "samples is empty"),
    "energy_score rank": (lambda: energy_score(X[:, 0], X[:, 0]), r"wanted \(contexts, K"),
    "point_score shapes": (lambda: euclidean_error(X, X[:2]), "truth has shape"),
    "energy_gap shapes": (lambda: energy_gap(X[:, 0], X[:2, 0], seed()), "exact has shape"),
    "energy_gap zero": (lambda: energy_gap(X[:, 0], X[:, 0], seed()), "wanted above 0"),
    "energy_ratio zero": (lambda: energy_ratio(X[:, 0], X[:, 0], seed()), "not finite"),
    "energy_skill none": (lambda: energy_skill(X[:, 0], X[:, 0] + 1, X[:, 0] + 2, seed()), "no worse than exact"),
    "spread_skill one": (lambda: spread_skill(MANY[:, :1], X, seed()), "got K = 1"),
    "spread_skill exact": (lambda: spread_skill(MANY, X, seed()), "not finite"),
    "spread_skill mask": (lambda: spread_skill(MANY, X, seed(), X[:, :2] > 0), "mask has shape"),
    "spread_skill no mask": (lambda: spread_skill(MANY, X, seed(), X > 0), "selects no element"),
    "mean_mse one": (lambda: debiased_ensemble_mean_mse(MANY[:, :1], X), "got K = 1"),
    "squared_error shapes": (lambda: squared_error(X, X[:, :2]), "truth has shape"),
    "psnr peak": (lambda: psnr(X, X, 0.0), "got peak = 0.0"),
    "psnr nan": (lambda: psnr(NAN, X, 1.0), "prediction holds 12"),
    "best_of shapes": (lambda: best_of(MANY, X[:2]), "truth has shape"),
    "ssim small": (lambda: ssim(*[torch.zeros(1, 1, 8, 8)] * 2, 1.0), "h >= 11"),
    "ssim peak": (lambda: ssim(*[torch.zeros(1, 1, 12, 12)] * 2, -1.0), "got peak"),
    "total_variation one": (lambda: total_variation(torch.zeros(3, 1, 1)), "two pixels or more"),
    "variance one": (lambda: variance_inside_outside(MANY[:, :1], X == 0), "got K = 1"),
    "variance rank": (lambda: variance_inside_outside(X[:, 0], X[:, 0] == 0), r"wanted \(contexts, K"),
    "variance all seen": (lambda: variance_inside_outside(MANY, X == 0), "selects no element"),
    "factor_tv labels": (lambda: factor_tv(ZEROS[:, None] + 2, HALF, seed()), "wanted labels 0..1"),
    "factor_tv sums": (lambda: factor_tv(ZEROS[:, None], HALF + 1, seed()), "sum to 1"),
    "factor_tv contexts": (lambda: factor_tv(ZEROS[:2, None], HALF, seed()), "probabilities has shape"),
    "factor_scene_rms one": (lambda: per_context_calibration_rms(ZEROS[:, None], HALF, seed()), "got K = 1"),
    "frequencies rank": (lambda: label_frequencies(ZEROS, 2), r"\(contexts, K\)"),
    "confusion range": (lambda: confusion_matrix(ZEROS, ZEROS + 5, 3), "wanted 0 to 2"),
    "log_loss zero": (lambda: log_loss(torch.eye(2), torch.tensor([1, 0])), "2 true labels have probability 0"),
    "log_loss labels": (lambda: log_loss(HALF, ZEROS + 2), "from 0 to 1"),
    "log_loss shapes": (lambda: log_loss(HALF, ZEROS[:2]), "labels has shape"),
    "entropy nan": (lambda: label_entropy(NAN), "probabilities holds 12"),
    "lpips shapes": (lambda: lpips(X[..., None, None], X[:2, :, None, None]), "truth has shape"),
    "fid_kid few": (lambda: fid_kid(X[:2], X), "got 2 and 4 pictures, wanted at least 3"),
    "calibration bins": (lambda: calibration_error(HALF, ZEROS, bins=0), "got bins = 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_a_one_line_error(case):
    call, message = BAD[case]
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n" not in str(error.value) and len(str(error.value)) < 160


def test_every_public_measure_is_tried_with_bad_input():
    measures = {n for n, f in vars(metrics).items() if getattr(f, "__module__", "") == metrics.__name__}
    tried = " ".join(name for call, _ in BAD.values() for name in call.__code__.co_names)
    assert [n for n in measures if n[0].islower() and n not in tried] == []


# --- by networks that others trained ----------------------------------------------------------------------------------

PICTURES = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


class Counted(torch.nn.Module):
    """In place of a measure of torchmetrics: keeps what it was given."""

    def __init__(self, **options):
        super().__init__()
        self.options, self.given = options, {True: [], False: []}

    def update(self, pictures, real):
        self.given[real].append(pictures)

    def compute(self):
        real, fake = (torch.cat(self.given[kind]) for kind in (True, False))
        assert min(real.min(), fake.min()) >= 0 and max(real.max(), fake.max()) <= 1 and self.options["normalize"]
        distance = (real.mean() - fake.mean()).abs()
        return (distance, distance) if "subset_size" in self.options else distance

    def forward(self, prediction, truth):
        assert min(prediction.min(), truth.min()) >= -1 and max(prediction.max(), truth.max()) <= 1
        return (prediction - truth).abs().mean()


def test_pictures_reach_torchmetrics_in_the_range_that_it_wants(monkeypatch):
    """LPIPS: [-1, 1]; FID and KID: [0, 1]; what is beyond is cut off, and KID's subsets are smaller than the sets."""
    modules = {
        "lpip": "LearnedPerceptualImagePatchSimilarity",
        "fid": "FrechetInceptionDistance",
        "kid": "KernelInceptionDistance",
    }
    for module, name in modules.items():
        stub = types.ModuleType(module)
        setattr(stub, name, Counted)
        monkeypatch.setitem(sys.modules, f"torchmetrics.image.{module}", stub)
    monkeypatch.setitem(sys.modules, "torchmetrics", types.ModuleType("torchmetrics"))
    monkeypatch.setitem(sys.modules, "torchmetrics.image", types.ModuleType("image"))
    assert lpips(PICTURES, PICTURES) == 0 and lpips(PICTURES + 0.5, PICTURES) > 0.2
    assert fid_kid(PICTURES, PICTURES) == (0, 0)
    fid, kid = fid_kid(PICTURES + 0.5, PICTURES)
    assert fid == kid > 0.1


@pytest.mark.parametrize("why", [ModuleNotFoundError("No module named 'torchvision'"), OSError("no route\nto host")])
def test_measures_that_cannot_be_had_say_so_in_one_line(monkeypatch, why):
    def missing(name):
        raise why

    monkeypatch.setattr(metrics.importlib, "import_module", missing)
    for call in (lambda: lpips(PICTURES, PICTURES), lambda: fid_kid(PICTURES, PICTURES)):
        with pytest.raises(metrics.OptionalDependencyError, match="cannot be had .*: pip install 'torchmetrics") as error:
            call()
        assert "\n" not in str(error.value) and str(why).splitlines()[0] in str(error.value)
