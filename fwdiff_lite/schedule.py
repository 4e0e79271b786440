"""Noise schedules: the factors of the clean observation and of the noise at time t.

The paper's forward process (Eq. 1) in closed form and in continuous time t in [0, 1]:

    q(O_t | O) = N(alpha(t) O, sigma(t)^2 I),        alpha^2 + sigma^2 = 1,

clean at t = 0, pure noise at t = 1.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from fwdiff_lite.protocols import Schedule


@dataclass(frozen=True)
class CosineSchedule:
    """alpha(t) = cos(pi t / 2), sigma(t) = sin(pi t / 2): the cosine schedule of Nichol and Dhariwal (2021), s = 0."""

    def alpha(self, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """The factor of the clean observation at time t."""
        return torch.cos(t * (math.pi / 2))

    def sigma(self, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """The standard deviation of the noise at time t."""
        return torch.sin(t * (math.pi / 2))

    def time_of_ratio(self, ratio: float) -> float:
        """The time t at which alpha / sigma is `ratio`."""
        return 2 / math.pi * math.atan2(1, ratio)


@dataclass(frozen=True)
class ShiftedCosineSchedule(CosineSchedule):
    """The cosine schedule with alpha / sigma times `scale` at every time (Hoogeboom et al. 2023, simple diffusion).

    In an image, many pixels show one object. So its large structures are decided at high noise levels, which the cosine
    schedule passes in a few steps. scale < 1 spends more time there, in training and in sampling. ValueError unless
    scale is above 0 and finite.
    """

    scale: float

    def __post_init__(self):
        if not 0 < self.scale < math.inf:
            raise ValueError(f"scale is {self.scale}: wanted a finite number above 0")

    def alpha(self, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """The factor of the clean observation at time t."""
        return torch.cos(self._angle(t))

    def sigma(self, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """The standard deviation of the noise at time t."""
        return torch.sin(self._angle(t))

    def time_of_ratio(self, ratio: float) -> float:
        """The time t at which alpha / sigma is `ratio`."""
        return 2 / math.pi * math.atan2(self.scale, ratio)

    def _angle(self, t: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """The angle whose tangent is sigma / alpha: that ratio of the cosine schedule, divided by scale."""
        angle = t * (math.pi / 2)
        return torch.atan2(torch.sin(angle), self.scale * torch.cos(angle))


@dataclass(frozen=True)
class TwoScaleSchedule(ShiftedCosineSchedule):
    """A ShiftedCosineSchedule for sampling, while training sees the noise levels of another scale (TrainingSchedule).

    A small scale spends most times at high noise, where small details are not seen. Training can look at them more
    often, as in Karras et al. (2022), and the steps of sampling stay where they are. ValueError unless both scales are
    above 0 and finite.

    training_scale: the noise levels of training are those of ShiftedCosineSchedule(training_scale) at uniform times
    """

    training_scale: float

    def __post_init__(self):
        super().__post_init__()
        ShiftedCosineSchedule(self.training_scale)  # checks it

    def training_time(self, u: Float[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """The time at which this schedule has the noise level of ShiftedCosineSchedule(training_scale) at u."""
        angle = u * (math.pi / 2)
        return 2 / math.pi * torch.atan2(self.scale * torch.sin(angle), self.training_scale * torch.cos(angle))


@torch.no_grad()
def check_schedule(schedule: Schedule) -> None:
    """ValueError unless alpha^2 + sigma^2 is 1 to 0.001, and alpha falls from t = 0 to t = 1."""
    times = (1e-3, 0.25, 0.5, 0.75, 1 - 1e-3)  # the ends are those of training and sampling
    functions = (schedule.alpha, schedule.sigma)
    factors = [[float(f(torch.tensor(t, dtype=torch.float64, device="cpu"))) for f in functions] for t in times]
    name = type(schedule).__name__
    for t, (alpha, sigma) in zip(times, factors, strict=True):
        if not abs(alpha**2 + sigma**2 - 1) < 1e-3:
            raise ValueError(
                f"schedule {name} has alpha {alpha:.3g} and sigma {sigma:.3g} at t = {t}: wanted alpha^2 + sigma^2 = 1"
            )
    if not factors[0][0] > factors[-1][0]:
        raise ValueError(
            f"schedule {name} has alpha {factors[0][0]:.3g} at t = {times[0]} and {factors[-1][0]:.3g} at {times[-1]}: "
            "wanted one that falls, since t = 0 is clean and t = 1 is noise"
        )


def check_time(t: Float[Tensor, "*b"]) -> None:
    """ValueError if a time lies outside [0, 1] or is NaN; under torch.compile nothing is checked."""
    if torch.compiler.is_compiling():
        return
    if not bool(((t >= 0) & (t <= 1)).all()):
        raise ValueError(f"t must lie in [0, 1], got values from {float(t.min()):.4g} to {float(t.max()):.4g}")
