"""The schedule is the forward process of Eq. 1 in closed form."""

import pytest
import torch

from fwdiff_lite.diffusion import ForwardDiffusion
from fwdiff_lite.observations import Observations
from fwdiff_lite.problems.toy import projections
from fwdiff_lite.schedule import CosineSchedule, ShiftedCosineSchedule, TwoScaleSchedule, check_time


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


def test_training_has_the_noise_levels_of_its_own_scale():
    u = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    schedule, sampling, training = (
        TwoScaleSchedule(0.125, 0.5),
        ShiftedCosineSchedule(0.125),
        ShiftedCosineSchedule(0.5),
    )
    t = schedule.training_time(u)
    for name in ("alpha", "sigma"):
        torch.testing.assert_close(getattr(schedule, name)(t), getattr(training, name)(u))
        assert torch.equal(getattr(schedule, name)(u), getattr(sampling, name)(u)), "sampling is that of its scale"
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(schedule.training_time(ends), ends)
    torch.testing.assert_close(TwoScaleSchedule(0.5, 0.5).training_time(u), u)


def test_a_model_trains_at_the_times_of_its_schedule():
    target, ratios, noises = Observations(torch.zeros(1000, 1), torch.ones(1000, 1, 2)), [], []
    denoiser = projections.build_diffusion(2, width=8, depth=1)
    for schedule in (ShiftedCosineSchedule(0.125), TwoScaleSchedule(0.125, 0.5), ShiftedCosineSchedule(0.5)):
        model = ForwardDiffusion(denoiser.denoiser, denoiser.forward_model, schedule)
        t, noise = model.sample_time_and_noise(target, torch.Generator().manual_seed(0))
        ratios.append(schedule.alpha(t) / schedule.sigma(t))
        noises.append(noise)
    torch.testing.assert_close(ratios[1], ratios[2], rtol=1e-3, atol=1e-4)
    assert ((ratios[1] > 0.3).float().mean() > 2 * (ratios[0] > 0.3).float().mean()) and torch.equal(*noises[:2])


@pytest.mark.parametrize("t", [-0.1, 1.1, float("nan")])
def test_times_outside_are_refused(t):
    with pytest.raises(ValueError, match=r"t must lie in \[0, 1\]"):
        check_time(torch.tensor([0.5, t]))
