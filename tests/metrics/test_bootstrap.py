"""Bootstrap intervals: their coverage, pairs that stay paired, and errors on invalid input."""

import math

import numpy as np
import pytest
import torch
from invalid_input import X_EMPTY, X, is_one_line
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


INVALID = {
    "no array": (lambda: bootstrap(torch.mean, generator=seed()), "got no array"),
    "empty": (lambda: bootstrap(torch.mean, X_EMPTY, generator=seed()), "array 0 is empty"),
    "one context": (lambda: bootstrap(torch.mean, X[:1], generator=seed()), "got 1 context"),
    "lengths": (lambda: bootstrap(torch.mean, X, X[:2], generator=seed()), r"\[2, 4\] contexts"),
    "level": (lambda: bootstrap(torch.mean, X, generator=seed(), level=95), "level 95"),
    "division by zero": (lambda: bootstrap(lambda x: 1 / x.mean(), X, generator=seed()), "not finite"),
}


@pytest.mark.parametrize("case", INVALID)
def test_invalid_input_is_a_one_line_error(case):
    call, message = INVALID[case]
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert is_one_line(error.value)
