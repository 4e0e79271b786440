"""The results of a run in their place: all files of a notebook, or none of them."""

import errno
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import nbformat

from fwdiff_lite.pipeline.execution import NotebookRun
from fwdiff_lite.pipeline.folders import naming, temporary_folder
from fwdiff_lite.pipeline.notebook import HEADER, header_text, notebook_names
from fwdiff_lite.storage.files import read_json, repo_root


def publish(run: NotebookRun, figures: Path, notebooks: Path, profile: str, facts: dict) -> None:
    """Publishes the results of a run that succeeded; the results of other notebooks stay.

    CannotWrite if they cannot all be written; then all files are as they were.
    """
    pictures = {figures / path.name: path.read_bytes() for path in run.pictures()}
    old = {path for path in figures.glob(f"{run.name}_*") if path.suffix in (".png", ".gif")}
    cost = {
        "minutes": round(run.seconds / 60, 2),
        "peak_gb": round(run.peak_gb, 2),
        "cells": run.cell_seconds(),
    }
    stated = repo_root() / "figures" / "provenance.json"
    paths = {figures / "provenance.json"}
    if profile == "gpu" and facts["hardware"]["gpu"] and os.access(stated, os.W_OK):
        paths.add(stated)  # minutes on a GPU are stated beside those on the CPU, wherever the pictures go
    costs = {path: with_cost(read_json(path), run.name, profile, facts | cost) for path in paths}
    files = {
        **pictures,
        **{figures / f"{stem}.json": json_bytes(merged(figures, run, stem)) for stem in ("metrics", "claims")},
        **{path: json_bytes(content) for path, content in costs.items()},
        notebooks / f"{run.name}.ipynb": notebook_bytes(run, costs.get(stated) or read_json(stated)),
    }
    replace_all(files, old - pictures.keys(), figures)


def merged(figures: Path, run: NotebookRun, stem: str) -> dict[str, Any]:
    """The content of figures/STEM.json, with the record of this run and without notebooks that are gone."""
    known = set(notebook_names())
    records = {name: record for name, record in read_json(figures / f"{stem}.json").items() if name in known}
    if record := read_json(run.out / f"{run.name}.{stem}.json"):
        records[run.name] = record
    return records


def with_cost(provenance: dict[str, Any], name: str, profile: str, cost: dict[str, Any]) -> dict[str, Any]:
    """A provenance with the cost of one run."""
    return provenance | {name: provenance.get(name, {}) | {profile: cost}}


def notebook_bytes(run: NotebookRun, provenance: dict[str, Any]) -> bytes:
    """The executed notebook, whose header states the minutes of this provenance."""
    for cell in run.notebook.cells:
        for output in cell.get("outputs", []):
            if HEADER in output.get("metadata", {}).get("text/markdown", {}):
                output["data"]["text/markdown"] = header_text(run.name, provenance)
            if "metadata" in output:
                output["metadata"] = {}
    nbformat.validate(run.notebook)
    return f"{nbformat.writes(run.notebook)}\n".encode()


def json_bytes(content: dict[str, Any]) -> bytes:
    """JSON with sorted keys, so that equal contents are equal bytes. ValueError on NaN."""
    return f"{json.dumps(content, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False)}\n".encode()


def replace_all(contents: Mapping[Path, bytes], removed: Iterable[Path], folder: Path) -> None:
    """Writes several files and removes others: all of it, or, with a CannotWrite, nothing.

    All new files are written to a temporary folder first, so that a full disk changes nothing. Then they change places
    with the old ones; if one cannot, all before it change back.

    folder: where the temporary folder is made, on the disk of all files
    """
    with naming(folder):
        for path in contents:
            path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(folder, ".publishing-") as scratch:
            new = {path: scratch / f"{index}.new" for index, path in enumerate(contents)}
            for path, content in contents.items():
                new[path].write_bytes(content)
            old: dict[Path, Path] = {}
            try:
                for index, path in enumerate((*new, *removed)):
                    with naming(path):
                        if path.is_dir():
                            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
                        if path.exists():
                            old[path] = path.rename(scratch / f"{index}.old")
                        if path in new:
                            new[path].rename(path)
            except OSError:
                restore(new, old)
                raise


def restore(new: Mapping[Path, Path], old: Mapping[Path, Path]) -> None:
    """Puts back the old files, and removes new ones where there was none.

    new, old: for every path, where its new file came from, and where its old file is now
    """
    for path, kept in old.items():
        kept.replace(path)
    for path, source in new.items():
        if path not in old and not source.exists():
            path.unlink(missing_ok=True)
