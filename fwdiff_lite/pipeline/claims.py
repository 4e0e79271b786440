"""The claim of a notebook, in words for the README and in bounds for the tests; figures/claims.json holds all of them.

A claim is recorded by the notebook's own last cell:

    run.claim("A classifier tells samples from exact draws with an accuracy of {c2st:.3f}.", thumbnail="samples.png")
    run.must_show(c2st=(None, 0.525), energy_skill=(0.8, None), count=(128, 128), patch_psnr=None)
    run.falls_short(energy_skill="edges of walls stay soft")

A number in a text is printed with what is known of its uncertainty, by one rule (`number_text`): with its 95 % interval
if the ends are recorded as KEY_low and KEY_high, or as the range over the seeds of figures/seeds.json.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import Formatter
from typing import Any

from fwdiff_lite.figures.numbers import number_text
from fwdiff_lite.storage.files import read_json, repo_root

Bound = Sequence[int | float | None] | None  # at least, at most; None: no limit, and of the whole: any value

REMEDY = 'call run.claim("...", thumbnail="NAME.png") in its last cell, then run `make reproduce`'


def read_claims() -> dict[str, dict[str, Any]]:
    """The claim of every notebook, as its last `make reproduce` recorded it: text, thumbnail, bounds, shortfalls."""
    return read_json(repo_root() / "figures" / "claims.json")


def claim_text(
    claim: Mapping[str, Any], numbers: Mapping[str, Any], seeds: Mapping[str, Mapping[str, Any]] | None = None
) -> str:
    """The text of a claim, with its numbers. ValueError on a number that its notebook did not record.

    numbers: what the notebook recorded; seeds: the same keys over several seeds of a training, as `summary` gives them
    """
    keys = set(claim_keys(claim))
    if unrecorded := keys - numbers.keys():
        raise ValueError(f"the claim names {min(unrecorded)!r}, which is not recorded: call run.record first")
    parts = []
    for literal, key, spec, _ in Formatter().parse(claim["text"]):
        parts.append(literal)
        if key is not None:
            has_interval = not keys & {f"{key}_low", f"{key}_high"}  # else the text itself states the ends
            parts.append(number_text(key, spec or "", numbers, seeds or {}, has_interval))
    return "".join(parts)


def claim_keys(claim: Mapping[str, Any]) -> Iterator[str]:
    """The recorded numbers that a claim's text names."""
    return (key for _, key, _, _ in Formatter().parse(claim["text"]) if key is not None)


def check_bounds(bounds: Mapping[str, Bound]) -> None:
    """ValueError on anything but None and pairs (at least, at most) in their order."""
    for key, bound in bounds.items():
        if bound is None:
            continue
        ends = tuple(bound) if isinstance(bound, tuple | list) else ()
        if len(ends) != 2 or not all(end is None or is_finite_number(end) for end in ends):
            raise ValueError(
                f"the bound of {key} is {bound!r}: give (at least, at most), with None for no limit, or None alone"
            )
        if None not in ends and ends[0] > ends[1]:
            raise ValueError(f"the bound of {key} is {bound!r}: the smaller number comes first")


def is_finite_number(value: Any) -> bool:
    """Whether a value is an int or a float, and finite."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_within(value: int | float, bound: Bound) -> bool:
    """Whether a number keeps its bound; NaN keeps none but None."""
    low, high = bound or (None, None)
    return (low is None or low <= value) and (high is None or value <= high)


def check_claim(claim: Mapping[str, Any], numbers: Mapping[str, Any], folder: Path, notebook: str) -> None:
    """ValueError on a claim that the notebook's recorded numbers and pictures in `folder` do not bear out."""
    if claim.get("text"):
        claim_text(claim, numbers)
    if (name := claim.get("thumbnail")) and not (folder / name).exists():
        raise ValueError(f"{notebook} made no picture {name}: as thumbnail, name one that it saves")
    if unrecorded := sorted(claim["bounds"].keys() - numbers.keys()):
        raise ValueError(f"{notebook} must show {', '.join(unrecorded)}, not recorded: call run.record first")
    if unbounded := sorted(claim["shortfalls"].keys() - claim["bounds"].keys()):
        raise ValueError(f"{notebook} falls short in {', '.join(unbounded)}, without a bound: call run.must_show too")


def missing_claim(notebook: str, claims: Mapping[str, Mapping[str, Any]]) -> str | None:
    """What a notebook's claim lacks, and what to do, in one line; None if it is whole."""
    claim = claims.get(notebook, {})
    lacking = [part for part in ("text", "thumbnail") if not claim.get(part)]
    return f"{notebook} makes no claim ({' and '.join(lacking)} missing): {REMEDY}" if lacking else None
