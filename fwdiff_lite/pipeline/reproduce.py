"""Runs the notebooks and gathers their figures and numbers: `python -m fwdiff_lite.pipeline.reproduce`.

Each notebook is made from its source in notebooks/py and executed by papermill in a process of its own. If it succeeds,
its parts are published: the executed notebook in notebooks/, pictures in figures/, numbers in figures/metrics.json,
its claim in figures/claims.json, costs in figures/provenance.json. That is the cpu profile. The other profiles write to
build/PROFILE, or to --output.

Every kernel has one thread and one instruction set, so that floats repeat from run to run and, nearly, from machine to
machine.
"""

import argparse
import ast
import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from nbformat import NotebookNode

from fwdiff_lite.pipeline.execution import NotebookFailed, Task, finished_runs
from fwdiff_lite.pipeline.folders import CannotWrite, build_folder, check_writable, naming, temporary_folder
from fwdiff_lite.pipeline.notebook import check_notebook, check_profile, notebook_names
from fwdiff_lite.pipeline.pairs import edited_separately, edited_separately_text, read_source, write_source
from fwdiff_lite.pipeline.publishing import publish
from fwdiff_lite.pipeline.readme import update_readme
from fwdiff_lite.pipeline.signals import Stop, defer_signals, handle_signals
from fwdiff_lite.storage.files import read_json, repo_root, write_json
from fwdiff_lite.storage.provenance import git_commit

PACKAGES = ("torch", "numpy", "matplotlib", "scikit-learn", "scikit-image")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line.

    Exit status: 0 success, 1 a notebook failed or a folder cannot be written, 2 a bad argument, 128 + n signal n.
    """
    parser = Arguments(prog="python -m fwdiff_lite.pipeline.reproduce", description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="cpu", help="smoke (seconds), cpu (minutes, the default) or gpu")
    parser.add_argument("--only", metavar="NN", action="append", help="this notebook only; repeatable")
    parser.add_argument("--jobs", metavar="N", type=int, default=2, help="notebooks at a time (default: 2)")
    parser.add_argument("--output", metavar="DIR", type=Path, help="write everything here (default: build/PROFILE)")
    parser.add_argument("-p", nargs=2, metavar=("NAME", "VALUE"), action="append", help="set a parameter")
    parser.add_argument(
        "--keep",
        choices=("source", "notebook"),
        help="which cells to keep of a notebook that was edited separately from its source",
    )
    parser.add_argument("--readme", action="store_true", help="only renew the README's generated parts")
    try:
        given = parser.parse_args(arguments)
        with handle_signals():
            if given.readme:
                update_readme()
                return 0
            return reproduce(given.profile, given.only, given.jobs, given.output, dict(given.p or []), given.keep)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except CannotWrite as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except Stop as stop:
        print(f"stopped by {stop.signal.name}: notebooks not reported as done are as they were", file=sys.stderr)
        return 128 + stop.signal


def reproduce(
    profile: str = "cpu",
    only: Sequence[str] | None = None,
    jobs: int = 2,
    output: Path | None = None,
    parameters: dict[str, str] | None = None,
    keep: str | None = None,
) -> int:
    """Runs notebooks, `jobs` at a time, the longest first. Returns 0 if all ended well, else 1.

    ValueError, before anything runs, on an unknown profile, notebook or parameter, and where the committed run would
    overwrite a notebook whose cells were edited separately from its source; `keep` says which of the two to keep.
    """
    check_profile(profile)
    names = select(only)
    if jobs < 1:
        raise ValueError(f"--jobs is {jobs}: at least one notebook must run at a time")
    committed = profile == "cpu" and output is None
    if committed and parameters:
        raise ValueError("the committed run takes no parameters: give --output DIR, or change the notebook's source")
    if committed:
        resolve_edits(names, keep)
    elif keep:
        raise ValueError("--keep is for the committed run, which overwrites notebooks")
    figures = repo_root() / "figures" if committed else (output or repo_root() / "build" / profile).resolve()
    notebooks = repo_root() / "notebooks" if committed else figures
    sources = {name: read_source(name) for name in names}
    changes = {name: changed_parameters(name, sources[name], profile, parameters or {}) for name in names}

    check_targets(figures, notebooks, committed)

    started, facts, failures = time.monotonic(), provenance(profile), []
    with temporary_folder(build_folder(), "running-") as folder:
        tasks = [
            Task(name, sources[name], changes[name], profile, folder / name) for name in longest_first(names, profile)
        ]
        for run in finished_runs(tasks, jobs):
            try:
                run.check()
                with defer_signals():
                    publish(run, figures, notebooks, profile, facts)
                print(f"{run.name}: done in {run.seconds / 60:.1f} minutes, {run.peak_gb:.1f} GB", flush=True)
            except (NotebookFailed, CannotWrite) as failure:
                failures.append(run.name)
                print(f"{run.name}: FAILED: {failure}", file=sys.stderr, flush=True)
    if committed:
        with naming(repo_root()), defer_signals():
            if not only and not failures:
                record_total(figures / "provenance.json", "make reproduce", time.monotonic() - started)
            update_readme()
    minutes = (time.monotonic() - started) / 60
    print(f"{len(names) - len(failures)} of {len(names)} notebooks in {minutes:.1f} minutes: {figures}")
    return 1 if failures else 0


def check_targets(figures: Path, notebooks: Path, committed: bool) -> None:
    """CannotWrite, before anything runs, if there is no place for results."""
    for folder in (figures, notebooks):
        check_writable(folder, "; --output DIR writes elsewhere" if committed else "")


def select(only: Sequence[str] | None) -> list[str]:
    """The names of the notebooks with these numbers, such as '01', or names; all notebooks if none are given."""
    names = notebook_names()
    if not names:
        raise ValueError(f"no notebooks in {repo_root() / 'notebooks' / 'py'}: run this in a checkout")
    by_number = {name[:2]: name for name in names}
    return sorted({by_number.get(word) or check_notebook(word) for word in only}) if only else names


def longest_first(names: Sequence[str], profile: str) -> list[str]:
    """The names, sorted by the last measured time; notebooks that were never measured come first."""
    past = read_json(repo_root() / "figures" / "provenance.json")
    return sorted(names, key=lambda name: -past.get(name, {}).get(profile, {}).get("minutes", 1e9))


# ----- from source to notebook


def resolve_edits(names: Sequence[str], keep: str | None) -> None:
    """Keeps one of the two versions of every notebook that was edited separately. ValueError if `keep` is None."""
    for name in filter(edited_separately, names):
        if not keep:
            raise ValueError(edited_separately_text(name))
        if keep == "notebook":
            write_source(name)


def changed_parameters(name: str, source: NotebookNode, profile: str, given: dict[str, str]) -> dict[str, str]:
    """The values that differ from the defaults of the cell tagged `parameters`, by name.

    ValueError on a name that the cell does not assign: papermill would only warn and ignore it.
    """
    cells = [cell.source for cell in source.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(cells) != 1:
        raise ValueError(f"{name} has {len(cells)} cells tagged 'parameters': it needs one, with PROFILE = \"cpu\"")
    assigned = {
        target.id: ast.unparse(line.value)
        for line in ast.parse(cells[0]).body
        if isinstance(line, ast.Assign)
        for target in line.targets
        if isinstance(target, ast.Name)
    }
    wanted = {"PROFILE": profile} | given
    for parameter in wanted:
        if parameter not in assigned:
            raise ValueError(f"{name} has no parameter {parameter!r}: it has {', '.join(assigned)}")
    check_profile(wanted["PROFILE"])
    return {key: value for key, value in wanted.items() if assigned[key] not in (value, repr(value))}


# ----- facts of a run


def provenance(profile: str) -> dict:
    """Date, commit, hardware and versions of a run."""
    import torch

    gpu = torch.cuda.get_device_name() if profile == "gpu" and torch.cuda.is_available() else None
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": git_commit(),
        "hardware": {"cpu": cpu_model(), "cores": os.cpu_count(), "gpu": gpu},
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def cpu_model() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def record_total(path: Path, what: str, seconds: float) -> None:
    """Records the minutes of a whole make target, and those that its environment took to install."""
    marker = next(Path(sys.prefix).glob("ready-*"), None)
    install = float(marker.read_text()) if marker else 0.0
    total = {
        "minutes": round(seconds / 60, 2),
        "install_minutes": round(install / 60, 2),
        "cores": os.cpu_count(),
    }
    write_json(path, read_json(path) | {what: total})


# ----- stopping in safety


class Arguments(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str):
        raise ValueError(f"{message}; see --help")


if __name__ == "__main__":
    sys.exit(main())
