"""The schedule is the forward process of Eq. 1 in closed form."""

import pytest
import torch

from fwdiff_lite.schedule import CosineSchedule, ShiftedCosineSchedule, check_time


def test_variance_is_preserved_and_the_ends_are_clean_and_noise():
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    s = CosineSchedule()
    torch.testing.assert_close(s.alpha(t) ** 2 + s.sigma(t) ** 2, torch.ones_like(t))
    assert s.alpha(t[0]) == 1 and s.sigma(t[0]) == 0
    assert abs(s.alpha(t[-1])) < 1e-15 and s.sigma(t[-1]) == 1
    assert (s.alpha(t).diff() < 0).all()


@pytest.mark.parametrize("scale", [0.25, 1.0, 3.0])
def test_a_shift_scales_the_signal_to_noise_ratio(scale):
    t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    s, plain = ShiftedCosineSchedule(scale), CosineSchedule()
    torch.testing.assert_close(s.alpha(t) / s.sigma(t), scale * plain.alpha(t) / plain.sigma(t))
    torch.testing.assert_close(s.alpha(t) ** 2 + s.sigma(t) ** 2, torch.ones_like(t))
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(s.sigma(ends), ends)
    for schedule in (s, plain):
        assert schedule.time_of_ratio(float(schedule.alpha(t[30]) / schedule.sigma(t[30]))) == pytest.approx(
            float(t[30])
        )


@pytest.mark.parametrize("t", [-0.1, 1.1, float("nan")])
def test_times_outside_are_refused(t):
    with pytest.raises(ValueError, match=r"t must lie in \[0, 1\]"):
        check_time(torch.tensor([0.5, t]))
