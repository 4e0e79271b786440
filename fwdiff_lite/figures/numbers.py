"""Recorded numbers as text, by one rule: with an interval or a range, and no digit that is not known."""

import math
import re
from collections.abc import Mapping
from typing import Any


def number_text(
    key: str,
    spec: str,
    numbers: Mapping[str, Any],
    seeds: Mapping[str, Mapping[str, Any]],
    has_interval: bool = True,
) -> str:
    """One recorded number as text.

    A number in `seeds`: its smallest and largest value over the seeds, with no digit beyond the first one of their
    standard deviation. Any other number whose ends KEY_low and KEY_high are recorded: with this interval in brackets.
    An upper end (KEY_high) is one number, the largest over the seeds. A lower end (KEY_low) and the least of several
    values (KEY_least) are the smallest over the seeds. Every number is rounded to the nearest.
    spec: a format such as ".2f" or ".0%", which bounds the number of digits
    """
    worst = {"high": "max", "low": "min", "least": "min"}.get(key.rpartition("_")[2])
    if over := seeds.get(key):
        spec = coarsest_spec(spec, over["sd"])
        if worst:
            return format(over[worst], spec)
        low, high = (format(over[end], spec) for end in ("min", "max"))
        return low if low == high else f"{low} to {high}"
    text = format(numbers[key], spec)
    if has_interval and {f"{key}_low", f"{key}_high"} <= numbers.keys():
        low, high = (format(numbers[f"{key}_{end}"], spec) for end in ("low", "high"))
        text = f"{text} ({low} to {high})"
    return text


SPEC = re.compile(r"\.(\d+)([f%])")  # the formats whose digits are counted


def coarsest_spec(spec: str, sd: float) -> str:
    """The format without the digits beyond the first one of a standard deviation: (".3f", 0.02) -> ".2f"."""
    if not (parts := SPEC.fullmatch(spec)) or not sd:
        return spec
    digits, unit = int(parts[1]), parts[2]
    first = -math.floor(math.log10(sd * (100 if unit == "%" else 1)))
    return f".{max(0, min(digits, first))}{unit}"
