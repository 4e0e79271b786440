"""Evaluations that several processes share: each measures parts of the contexts, and the last one joins the parts.

    python -m fwdiff_lite.experiments inverse_graphics evaluate ceiling --parts 4

The same command, started once for each GPU, shares the parts; in one process, it measures them one after another. A
part that is recorded is not measured again, so the same command also goes on with an evaluation that was interrupted.
Part p of n has the contexts p, p + n, p + 2 n, ... Its files are evaluation_NAME.part_p_of_n.npz and .json. The joined
record names the sha256 of the parts' arrays, so parts that were measured again are joined again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fwdiff_lite.storage.files import DAMAGE_ERRORS, exclusive_lock, file_sha256, read_json
from fwdiff_lite.storage.provenance import git_commit


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


def check_split(runs: dict[str, Callable], parts: int) -> None:
    """ValueError unless the evaluations, by name, can be split into these parts."""
    if parts > 1 and (unsplittable := [name for name, run in runs.items() if not isinstance(run, PerContext)]):
        split = [name for name, run in runs.items() if isinstance(run, PerContext)]
        choice = f"name some of {', '.join(split)}" if split else "evaluate it without --parts"
        raise ValueError(f"{unsplittable[0]} cannot be split into parts: {choice}")


def part_paths(path: Path, parts: int) -> dict[Path, Part]:
    """The paths of the parts' records, beside that of the whole evaluation."""
    return {path.with_name(f"{path.stem}.part_{i}_of_{parts}.json"): Part(i, parts) for i in range(parts)}


def is_recorded(path: Path, cache_key: dict[str, Any]) -> bool:
    """Whether an evaluation, or a part of one, is recorded for these weights and options."""
    return cache_key.items() <= read_json(path).items() and path.with_suffix(".npz").exists()


@contextmanager
def record_lock(path: Path, cache_key: dict[str, Any]) -> Iterator[bool]:
    """Yields whether this process is to write a record: it is not there, and no other process is about to write it."""
    with exclusive_lock(path) as is_mine:
        if not is_mine:
            print(f"{path.stem}: another process evaluates it", flush=True)
        elif is_recorded(path, cache_key):
            purpose = "join its parts" if "parts" in cache_key else "evaluate it"
            print(f"{path.stem}: evaluated already; delete {path} to {purpose} again", flush=True)
            is_mine = False
        yield is_mine


def pending_records(path: Path, parts: int, cache_key: dict[str, Any]) -> Iterator[tuple[Path, Part, dict[str, Any]]]:
    """The records to write, each with its key: of every part, and of the whole evaluation once all parts are recorded.

    path: of the whole evaluation's record; cache_key: the weights and options that every part must have. The key of a
        part names the part, and that of parts that are joined has their sha256
    """
    paths = part_paths(path, parts) if parts > 1 else {}
    if any(part_path.exists() for part_path in paths) or (paths and not is_recorded(path, cache_key)):
        keys = {part_path: cache_key | {"part": list(part)} for part_path, part in paths.items()}
        for part_path, part in paths.items():
            yield part_path, part, keys[part_path]
        if not all(is_recorded(part_path, key) for part_path, key in keys.items()):
            print(f"{path.stem}: other processes measure parts of it; the last one joins all parts", flush=True)
            return
        cache_key = cache_key | {"parts": {x.stem: file_sha256(x.with_suffix(".npz")) for x in paths}}
    yield path, ALL_CONTEXTS, cache_key


def read_parts(path: Path, parts: int) -> tuple[list[dict], dict[str, np.ndarray]]:
    """The records of all parts of an evaluation, and their arrays as those of all contexts.

    path: of the whole evaluation's record. ValueError if the parts were measured with several sources, or if arrays are
        damaged.
    """
    records, arrays = {part: read_json(part) for part in part_paths(path, parts)}, []
    commits = sorted({record["commit"] for record in records.values()})
    if len(commits) > 1:
        kept = current if (current := git_commit()) in commits else commits[0]
        others = ", ".join(part.name for part, record in records.items() if record["commit"] != kept)
        raise ValueError(
            f"the parts in {path.parent} were measured at commits {', '.join(commits)}: delete {others}, and run the "
            f"same command at {kept}"
        )
    for part in records:
        try:
            with np.load(part.with_suffix(".npz")) as saved:
                arrays.append(dict(saved))
        except DAMAGE_ERRORS:
            raise ValueError(f"{part.with_suffix('.npz')} is damaged: delete {part} and run it again") from None
    return list(records.values()), interleave(arrays)


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
