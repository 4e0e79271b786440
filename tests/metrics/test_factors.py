"""Metrics of discrete factors: closed forms, perfect samplers, and controls that must be rejected."""

import math

import numpy as np
import pytest
import torch
from toy_posterior import normal, sample_labels, seed

from fwdiff_lite.metrics import (
    agreement_excess,
    bootstrap,
    calibration_error,
    factor_tv,
    label_entropy,
    label_frequencies,
    log_loss,
    per_context_calibration_rms,
)


@pytest.mark.parametrize(("contexts", "tv", "rms"), [(256, 0.022, 0.049), (128, 0.030, 0.057)])
def test_factor_metrics_of_perfect_samplers(contexts, tv, rms):
    g, p = seed(33), torch.full((contexts, 2), 0.5, dtype=torch.float64)
    labels = [sample_labels(p, 16, g) for _ in range(30)]
    assert np.mean([factor_tv(a, p, g).high for a in labels]) == pytest.approx(tv, abs=0.004)
    assert np.mean([per_context_calibration_rms(a, p, g).high for a in labels]) == pytest.approx(rms, abs=0.01)


def test_each_factor_metric_rejects_its_own_wrong_samplers():
    g = seed(34)
    p_likelier = 0.5 + 0.4 * torch.rand(1000, generator=g, dtype=torch.float64)
    p = torch.stack([p_likelier, 1 - p_likelier], -1)
    biased = p**2 / (p**2).sum(-1, keepdim=True)  # towards the likelier mode
    assert factor_tv(sample_labels(biased, 16, g), p, g).low > 0.05
    assert per_context_calibration_rms(sample_labels(biased, 16, g), p, g).low > 0.05
    one_mode = sample_labels(p, 1, g).expand(-1, 16)  # each context has one mode, right on average
    assert factor_tv(one_mode, p, g).value < 0.06, "pooled frequencies cannot detect it"
    assert per_context_calibration_rms(one_mode, p, g).low > 0.35
    unconditional = p.mean(0).expand_as(p)  # the marginal, for every context
    assert factor_tv(sample_labels(unconditional, 16, g), p, g).value < 0.03
    assert per_context_calibration_rms(sample_labels(unconditional, 16, g), p, g).low > 0.08
    uniform = torch.full_like(p, 0.5)
    assert per_context_calibration_rms(sample_labels(uniform, 16, g), p, g).value == pytest.approx(
        float((p - 0.5).square().sum(-1).div(2).mean().sqrt()), abs=0.03
    )


def test_agreement_excess_by_hand_and_of_samplers():
    labels = torch.tensor([[0, 0, 0], [1, 1, 1], [0, 1, 0], [1, 1, 0]])
    p = torch.tensor([[0.5, 0.5], [0.2, 0.8], [1.0, 0.0], [0.5, 0.5]], dtype=torch.float64)
    expected = (2 - (0.25 + 0.2**3 + 0.8**3 + 1 + 0.25)) / 4
    assert agreement_excess(labels, p, seed(1)).value == pytest.approx(expected)
    g, p = seed(37), torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64).expand(4000, 3)
    perfect = agreement_excess(sample_labels(p, 4, g), p, g)
    assert perfect.low < 0 < perfect.high and perfect.high - perfect.low < 0.05
    one_mode = agreement_excess(sample_labels(p, 1, g).expand(-1, 4), p, g)
    assert one_mode.value == pytest.approx(1 - (0.6**4 + 0.3**4 + 0.1**4)), "all agree everywhere"
    assert agreement_excess(torch.arange(4) % 3 + torch.zeros(4000, 1, dtype=torch.long), p, g).high < -0.1, (
        "none agree"
    )


@pytest.mark.parametrize("K", [2, 16])
def test_per_context_calibration_rms_is_free_of_the_noise_of_k_samples(K):
    g = seed(35)
    p = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).expand(50_000, 3)
    labels = sample_labels(p, K, g)
    assert per_context_calibration_rms(labels, p, g).value < 0.05
    uncorrected = (label_frequencies(labels, 3) - p).square().sum(-1).div(2).mean().sqrt()
    assert uncorrected == pytest.approx(math.sqrt(0.31 / K), rel=0.03), "sum of p (1 - p), over two, over K"


def test_label_frequencies_by_hand():
    labels = torch.tensor([[0, 0, 2, 1], [1, 1, 1, 1]])
    assert label_frequencies(labels, 3).tolist() == [[0.5, 0.25, 0.25], [0, 1, 0]]
    assert torch.allclose(label_frequencies(labels, 3, smoothing=1.0)[1], torch.tensor([1, 5, 1]).double() / 7)


def test_log_loss_and_entropy_closed_forms():
    p = torch.tensor([[0.25] * 4, [0.5, 0.5, 0, 0], [1.0, 0, 0, 0]], dtype=torch.float64)
    assert torch.allclose(label_entropy(p), torch.tensor([math.log(4), math.log(2), 0]).double())
    assert torch.allclose(log_loss(p, torch.tensor([3, 1, 0])), torch.tensor([math.log(4), math.log(2), 0]).double())
    g = seed(36)  # a proper score: the true probabilities have the lowest loss, which is their own entropy
    p = normal(20_000, 4, generator=g).softmax(-1)
    labels, overconfident = sample_labels(p, 1, g)[:, 0], p**2 / (p**2).sum(-1, keepdim=True)
    assert float(log_loss(p, labels).mean()) == pytest.approx(float(label_entropy(p).mean()), abs=0.02)
    assert log_loss(overconfident, labels).mean() > log_loss(p, labels).mean() + 0.02


def test_calibration_error_rejects_overconfidence_and_wrong_labels():
    g = seed(37)
    p = normal(5000, 4, generator=g).softmax(-1)
    labels, overconfident = sample_labels(p, 1, g)[:, 0], (p**3) / (p**3).sum(-1, keepdim=True)
    assert calibration_error(p, labels) < 0.03
    assert calibration_error(overconfident, labels) > 0.15
    assert calibration_error(p, labels.roll(1)) > 0.1
    certain = torch.eye(2, dtype=torch.float64).repeat(50, 1)
    assert calibration_error(certain, torch.tensor([1, 0]).repeat(50)) == 1, "all of the mass in the wrong category"
    assert calibration_error(certain, torch.tensor([0, 1]).repeat(50)) == 0
    interval = bootstrap(calibration_error, p, labels, generator=g, resamples=50)
    assert interval.low < interval.value * 1.5 and interval.high < 0.05
