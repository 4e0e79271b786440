"""Evaluations that several processes share: each measures a part of the contexts, and one process joins the parts.

    python -m fwdiff_lite.experiments motion evaluate warp_2 --part 0 --parts 4      # and parts 1, 2, 3: in any order
    python -m fwdiff_lite.experiments motion evaluate warp_2 --parts 4               # joins the four parts

Part p of n has the contexts p, p + n, p + 2 n, ... Its files are evaluation_NAME.part_p_of_n.npz and .json. The joined
record names the sha256 of the parts' arrays, so parts that were measured again are joined again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fwdiff_lite.storage.files import DAMAGE_ERRORS, file_sha256, read_json


class Part(NamedTuple):
    """One of `count` parts of the contexts."""

    index: int = 0
    count: int = 1

    @property
    def rows(self) -> slice:
        """Selects the part's contexts."""
        return slice(self.index, None, self.count)


ALL_CONTEXTS = Part()


@dataclass(frozen=True)
class PerContext:
    """An evaluation that can be split over contexts; it stands where Evaluation.run is a function.

    measure: the measures of the contexts `session.part.rows`: arrays with a row for each of these contexts. The row of
        a context must not depend on the other contexts, so each context has noise of its own
    summarise: the results, from the arrays of all contexts in their order
    """

    measure: Callable[[Any], dict[str, np.ndarray]]
    summarise: Callable[[Any, dict[str, np.ndarray]], Any]

    def __call__(self, session: Any) -> Any:
        """The results of all contexts, in one process."""
        return self.summarise(session, self.measure(session))


def check_split(runs: dict[str, Callable], part: int | None, parts: int) -> None:
    """ValueError unless the evaluations, by name, can be split into these parts. part: None joins them"""
    if part is not None and parts == 1:
        raise ValueError(f"--part {part} is one of several parts: give their number, such as --parts 4")
    if part is not None and not 0 <= part < parts:
        raise ValueError(f"--part {part} --parts {parts}: give a part from 0 to {parts - 1}")
    if parts > 1 and (unsplittable := [name for name, run in runs.items() if not isinstance(run, PerContext)]):
        split = [name for name, run in runs.items() if isinstance(run, PerContext)]
        choice = f"name some of {', '.join(split)}" if split else "evaluate it without --parts"
        raise ValueError(f"{unsplittable[0]} cannot be split into parts: {choice}")


def part_path(path: Path, part: Part) -> Path:
    """The path of a part's record, beside `path`, the record of the whole evaluation."""
    return path if part.count == 1 else path.with_name(f"{path.stem}.part_{part.index}_of_{part.count}.json")


def split_key(path: Path, part: Part, parts: int) -> dict[str, Any]:
    """What a record depends on beside weights and options: which part it is, or the parts that it joins.

    path: of the whole evaluation's record; part: ALL_CONTEXTS for the whole evaluation, and where parts are joined
    The sha256 of the joined arrays are left out if none of the parts is there any more.
    """
    if part.count > 1:
        return {"part": list(part)}
    files = [part_path(path, Part(i, parts)).with_suffix(".npz") for i in range(parts)] if parts > 1 else []
    digests = {file.stem: file_sha256(file) for file in files if file.exists()}
    return {"parts": digests} if digests else {}


def read_parts(path: Path, parts: int, cache_key: dict[str, Any]) -> tuple[list[dict], dict[str, np.ndarray]]:
    """The records of all parts of an evaluation, and their arrays as those of all contexts.

    path: of the whole evaluation's record; cache_key: the weights and options that every part must have
    ValueError if a part is missing or damaged, is another part, has another key, or was measured with other sources
    than the first.
    """
    paths = [part_path(path, Part(i, parts)) for i in range(parts)]
    records, arrays = [read_json(part) for part in paths], []
    for i, (part, record) in enumerate(zip(paths, records, strict=True)):
        key = {name: cache_key[name] for name in ("weights", "options")} | split_key(path, Part(i, parts), parts)
        if not (key.items() <= record.items() and part.with_suffix(".npz").exists()):
            raise ValueError(f"there is no {part} of these weights and options: run it with --part {i} --parts {parts}")
        if record["commit"] != records[0]["commit"]:
            commits = f"{record['commit']}, not {records[0]['commit']}"
            raise ValueError(f"{part} was measured at commit {commits}: delete it and run it again")
        try:
            with np.load(part.with_suffix(".npz")) as saved:
                arrays.append(dict(saved))
        except DAMAGE_ERRORS:
            raise ValueError(f"{part.with_suffix('.npz')} is damaged: delete {part} and run it again") from None
    return records, interleave(arrays)


def interleave(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The arrays of all contexts, from those of the parts. ValueError if the parts do not fit together."""
    n, joined = len(parts), {}
    for i, part in enumerate(parts):
        rows = [{key: (x.dtype, x.shape[1:]) for key, x in arrays.items()} for arrays in (parts[0], part)]
        if rows[0] != rows[1]:
            key = next(key for key in {**rows[0], **rows[1]} if rows[0].get(key) != rows[1].get(key))
            raise ValueError(f"parts 0 and {i} have different rows of {key}: measure all parts again")
    for key in parts[0]:
        lengths = [len(part[key]) for part in parts]
        wanted = [len(range(sum(lengths))[Part(i, n).rows]) for i in range(n)]
        if lengths != wanted:
            raise ValueError(f"the parts have {lengths} rows of {key}, wanted {wanted}: one for each context")
        joined[key] = np.empty((sum(lengths), *parts[0][key].shape[1:]), parts[0][key].dtype)
        for i, part in enumerate(parts):
            joined[key][Part(i, n).rows] = part[key]
    return joined
