"""Bad input to fwdiff_lite.schedule."""

import math
from functools import partial

from fwdiff_lite.model_checks import check_parts
from fwdiff_lite.schedule import CosineSchedule, ShiftedCosineSchedule, TwoScaleSchedule, check_schedule
from tests.bad_input.diffusion import Denoiser


class Linear:
    """A straight line: the variance is not preserved."""

    def alpha(self, t):
        return 1 - t

    def sigma(self, t):
        return t


class Reversed(CosineSchedule):
    """Noise at t = 0."""

    alpha, sigma = CosineSchedule.sigma, CosineSchedule.alpha


class Undefined(CosineSchedule):
    """NaN at t = 0.5."""

    def alpha(self, t):
        return super().alpha(t) * (t - 0.5) / (t - 0.5)


CASES = [
    ("a line", lambda: check_schedule(Linear()), "alpha 0.999 and sigma 0.001 at t = 0.001: wanted alpha.2 . sigma"),
    (
        "reversed",
        lambda: check_schedule(Reversed()),
        "alpha 0.00157 at t = 0.001 and 1 at 0.999: wanted one that falls",
    ),
    ("NaN", lambda: check_schedule(Undefined()), "Undefined has alpha nan"),
    ("of a model", lambda: check_parts(Denoiser(), len, Linear(), 1.0, None, 1.0), "schedule Linear has alpha"),
    *((f"good {scale}", partial(check_schedule, ShiftedCosineSchedule(scale)), None) for scale in (1e-3, 1.0, 1e3)),
    *((f"scale {x}", partial(ShiftedCosineSchedule, x), "scale") for x in (0.0, -1.0, math.nan, math.inf)),
    *(
        (f"scales {scales}", partial(TwoScaleSchedule, *scales), f"scale is {wanted}: wanted a finite number")
        for scales, wanted in (((0.0, 1.0), "0.0"), ((1.0, -1.0), "-1.0"), ((1.0, math.nan), "nan"))
    ),
]
