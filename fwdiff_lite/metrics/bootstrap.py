"""Bootstrap intervals over contexts."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from fwdiff_lite.checks import check_count, check_finite, check_generator


class Interval(NamedTuple):
    """The value of a statistic and the two ends of its bootstrap interval."""

    value: float
    low: float
    high: float

    def as_metrics(self, name: str) -> dict[str, float]:
        """The three numbers with their keys in metrics.json: name, name_low, name_high."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


def bootstrap(
    statistic: Callable[..., Tensor | float],
    *arrays: Tensor,
    generator: Generator,
    resamples: int = 1000,
    level: float = 0.95,
) -> Interval:
    """Percentile bootstrap of `statistic(*arrays)` over contexts, which are the first axis of every array.

    All arrays are resampled with the same rows, so paired values stay paired. A statistic that cannot be negative, such
    as a distance, keeps its upward bias: the upper end of its interval is then too high rather than too low.
    resamples: the number of bootstrap resamples; level: the coverage of the interval
    ValueError if there are fewer than two contexts, the arrays differ in length, or the statistic is not finite.
    """
    if not arrays:
        raise ValueError("bootstrap got no array: pass at least one, with contexts as its first axis")
    check_count(resamples=resamples)
    check_generator(generator)
    if not 0 < level < 1:
        raise ValueError(f"got level {level}, wanted one between 0 and 1, such as 0.95")
    check_finite(**{f"array {i}": a for i, a in enumerate(arrays)})
    if min(a.ndim for a in arrays) < 1:
        raise ValueError("an array has no axis, wanted contexts as its first axis")
    lengths = {len(a) for a in arrays}
    if len(lengths) > 1:
        raise ValueError(f"arrays have {sorted(lengths)} contexts, wanted the same number in each")
    c = lengths.pop()
    if c < 2:
        raise ValueError(f"got {c} context, wanted at least 2: a bootstrap resamples contexts")
    rows = torch.randint(c, (resamples, c), generator=generator, device=generator.device).to(arrays[0].device)
    value = float(statistic(*arrays))
    resampled = torch.tensor([float(statistic(*(a[r] for a in arrays))) for r in rows], dtype=torch.float64)
    if not (math.isfinite(value) and resampled.isfinite().all()):
        raise ValueError(f"the statistic is not finite (value {value:.3g}): does it divide by zero?")
    low, high = resampled.quantile(torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)).tolist()
    return Interval(value, low, high)
