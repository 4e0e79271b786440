"""Bad input to fwdiff_lite.schedule."""

import math

from fwdiff_lite.schedule import ShiftedCosineSchedule

CASES = [
    (f"scale {scale}", lambda scale=scale: ShiftedCosineSchedule(scale), "scale")
    for scale in (0.0, -1.0, math.nan, math.inf)
]
