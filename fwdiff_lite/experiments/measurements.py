"""Recorded measures in two forms.

The flat form, that of metrics.json, has one key a number, such as energy_skill_180_low. The long form has one row a
measure, with the columns of Measurement, as a data frame wants it: pandas.DataFrame(rows).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple


class Measurement(NamedTuple):
    """A row of the long form. A text is empty where a column does not apply; low and high are ends of an interval."""

    experiment: str
    variant: str
    sampler: str
    view: str
    measure: str
    value: float
    low: float | None = None
    high: float | None = None


def to_long(
    experiment: str, variant: str, sampler: str, numbers: Mapping[str, float], views: Sequence[str] = ()
) -> list[Measurement]:
    """The rows of one sampler's measures in flat form; views: suffixes that name a view, such as "180"."""
    rows = []
    for key, value in numbers.items():
        base, _, end = key.rpartition("_")
        if end in ("low", "high") and base in numbers:
            continue
        measure, view = (base, end) if end in views else (key, "")
        ends = numbers.get(f"{key}_low"), numbers.get(f"{key}_high")
        rows.append(Measurement(experiment, variant, sampler, view, measure, value, *ends))
    return rows


def add_setting(key: str, setting: str) -> str:
    """The key of a number at a setting: energy_low at 1.5 is energy_1.5_low, an end of the interval of energy_1.5."""
    base, _, end = key.rpartition("_")
    return f"{base}_{setting}_{end}" if end in ("low", "high") else f"{key}_{setting}"


def to_flat(rows: Iterable[Measurement]) -> dict[str, dict[str, float]]:
    """The measures in flat form, by sampler."""
    numbers: dict[str, dict[str, float]] = {}
    for row in rows:
        key = f"{row.measure}_{row.view}" if row.view else row.measure
        values = {key: row.value, f"{key}_low": row.low, f"{key}_high": row.high}
        numbers.setdefault(row.sampler, {}).update({key: x for key, x in values.items() if x is not None})
    return numbers
