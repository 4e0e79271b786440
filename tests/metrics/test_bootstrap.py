"""Bootstrap intervals: their coverage, pairs that stay paired, and errors on invalid input."""

import math

import numpy as np
import pytest
import torch
from toy_posterior import normal, seed

from fwdiff_lite.metrics import Interval, bootstrap


def test_bootstrap_covers_and_matches_the_normal_interval():
    x = normal(2000, generator=seed(18))
    interval = bootstrap(torch.mean, x, generator=seed())
    assert interval.value == pytest.approx(float(x.mean()))
    assert interval.high - interval.low == pytest.approx(2 * 1.96 / math.sqrt(2000), rel=0.1)
    half = bootstrap(torch.mean, x, generator=seed(), level=0.5)
    assert half.high - half.low == pytest.approx(2 * 0.674 / math.sqrt(2000), rel=0.15)
    data_sets = [normal(60, generator=seed(i)) for i in range(200)]
    intervals = [bootstrap(torch.mean, d, generator=seed(i), resamples=200) for i, d in enumerate(data_sets)]
    assert 0.88 < np.mean([i.low < 0 < i.high for i in intervals]) < 0.98
    assert bootstrap(torch.mean, x, generator=seed(3)) == bootstrap(torch.mean, x, generator=seed(3))


def test_bootstrap_keeps_pairs_together():
    x = normal(100, generator=seed(19))
    paired = bootstrap(lambda a, b: (a - b).mean(), x, x + 1, generator=seed())
    assert paired.high - paired.low < 1e-12
    unpaired = bootstrap(lambda a, b: (a - b).mean(), x, x.flip(0) + 1, generator=seed())
    assert unpaired.high - unpaired.low > 0.1


def test_an_interval_has_three_keys_in_metrics_json():
    assert Interval(1.0, 0.5, 2.0).as_metrics("skill") == {"skill": 1.0, "skill_low": 0.5, "skill_high": 2.0}
