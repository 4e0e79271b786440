"""Runs the notebooks and gathers their figures and numbers: `python -m fwdiff_lite.pipeline.reproduce`.

Each notebook is made from its source in notebooks/py, executed by papermill in a process of its own, and only
when it ended well are its parts put in place: the executed notebook in notebooks/, pictures in figures/,
numbers in figures/metrics.json, costs in figures/provenance.json. That is the cpu profile; the other profiles
write to build/PROFILE, or wherever --output says.

One thread a kernel and one instruction set: floats then repeat from run to run and, nearly, from machine to
machine.
"""

import argparse
import ast
import importlib.metadata
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import nbformat
import psutil
from nbformat import NotebookNode

from fwdiff_lite.pipeline.notebook import OPENING, check_notebook, check_profile, notebook_names, opaque, opening_text
from fwdiff_lite.pipeline.pairs import edited_separately, edited_separately_text, read_source, write_source
from fwdiff_lite.pipeline.readme import update_readme
from fwdiff_lite.storage.files import atomic_write, read_json, repo_root, write_json, write_text
from fwdiff_lite.storage.provenance import git_commit

PATIENCE = {"smoke": 300, "cpu": 900, "gpu": 4 * 3600}  # seconds that one cell may take
STALLED = 60  # seconds without any work after which a kernel's reply counts as lost
# papermill, without nbclient's own handling of output widgets: it sends to the kernel while it waits for the kernel's
# reply, and now and then misses it (nbclient's issue 312). What a widget shows at first lands in the cell's output.
# At its end it writes its kernel's largest memory beside its input. Asked by us, the system would count our own memory
# at the time of starting papermill as papermill's: Linux keeps that figure through exec.
PAPERMILL = """
import atexit, pathlib, resource, sys
from nbclient.client import NotebookClient
from papermill.cli import papermill

def keep_peak():
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    pathlib.Path(sys.argv[1]).with_name("peak").write_text(str(peak))

atexit.register(keep_peak)
NotebookClient.on_comm_open_jupyter_widget = lambda self, message: None
papermill()
"""
LOST_KERNEL = 138  # papermill's exit status when the kernel died
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
WIDGET = "application/vnd.jupyter.widget-view+json"
PACKAGES = ("torch", "numpy", "matplotlib", "scikit-learn", "scikit-image")


class Failed(Exception):
    """A notebook did not end well; the message is one line."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Exit status: 0 all well, 1 a notebook failed, 2 a bad argument, 128+n signal."""
    parser = Arguments(prog="python -m fwdiff_lite.pipeline.reproduce", description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="cpu", help="smoke (seconds), cpu (minutes, the default) or gpu")
    parser.add_argument(
        "--only", metavar="NN", action="append", help="this notebook only; repeatable"
    )
    parser.add_argument("--jobs", metavar="N", type=int, default=2, help="notebooks at a time (default: 2)")
    parser.add_argument(
        "--output", metavar="DIR", type=Path, help="write everything here (default: build/PROFILE)"
    )
    parser.add_argument(
        "-p", nargs=2, metavar=("NAME", "VALUE"), action="append", help="set a parameter"
    )
    parser.add_argument(
        "--keep",
        choices=("source", "notebook"),
        help="which cells to keep of a notebook that was edited separately from its source",
    )
    parser.add_argument("--readme", action="store_true", help="only renew the README's generated parts")
    try:
        given = parser.parse_args(arguments)
        with stoppable():
            if given.readme:
                update_readme()
                return 0
            return reproduce(
                given.profile, given.only, given.jobs, given.output, dict(given.p or []), given.keep
            )
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Stop as stop:
        print(
            f"stopped by {stop.signal.name}: notebooks not reported as done are as they were", file=sys.stderr
        )
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
        raise ValueError(
            "the committed run takes no parameters: give --output DIR, or change the notebook's source"
        )
    if committed:
        resolve_edits(names, keep)
    elif keep:
        raise ValueError("--keep is for the committed run, which overwrites notebooks")
    figures = repo_root() / "figures" if committed else (output or repo_root() / "build" / profile).resolve()
    notebooks = repo_root() / "notebooks" if committed else figures
    sources = {name: read_source(name) for name in names}
    changes = {name: changed_parameters(name, sources[name], profile, parameters or {}) for name in names}

    began, facts, failures = time.monotonic(), origin(profile), []
    with scratch() as folder, closing_all() as running:
        waiting = longest_first(names, profile)
        while waiting or running:
            while waiting and len(running) < jobs:
                name = waiting.pop(0)
                print(f"{name}: running", flush=True)
                with unstoppable():
                    running.append(Execution(name, sources[name], changes[name], profile, folder / name))
            time.sleep(0.2)
            with unstoppable():
                ended = [run for run in running if run.ended()]
            for run in ended:
                running.remove(run)
                try:
                    run.check()
                    with unstoppable():
                        publish(run, figures, notebooks, profile, facts)
                    print(
                        f"{run.name}: done in {run.seconds / 60:.1f} minutes, {run.peak_gb:.1f} GB",
                        flush=True,
                    )
                except Failed as failure:
                    failures.append(run.name)
                    print(f"{run.name}: FAILED: {failure}", file=sys.stderr, flush=True)
    if committed:
        if not only and not failures:
            record_total(figures / "provenance.json", "make reproduce", time.monotonic() - began)
        with unstoppable():
            update_readme()
    minutes = (time.monotonic() - began) / 60
    print(
        f"{len(names) - len(failures)} of {len(names)} notebooks in {minutes:.1f} minutes: {figures}"
    )
    return 1 if failures else 0


def select(only: Sequence[str] | None) -> list[str]:
    """The notebooks' names for numbers such as '01' (or whole names); all if none are given."""
    names = notebook_names()
    if not names:
        raise ValueError(f"no notebooks in {repo_root() / 'notebooks' / 'py'}: run this in a checkout")
    by_number = {name[:2]: name for name in names}
    return sorted({by_number.get(word) or check_notebook(word) for word in only}) if only else names


def longest_first(names: Sequence[str], profile: str) -> list[str]:
    """By the last measured time; what was never measured goes first."""
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


def changed_parameters(
    name: str, source: NotebookNode, profile: str, given: dict[str, str]
) -> dict[str, str]:
    """What to inject into the `parameters` cell's names; nothing if the defaults already say it.

    ValueError on a name that the cell does not assign: papermill would only warn and ignore it.
    """
    cells = [cell.source for cell in source.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(cells) != 1:
        raise ValueError(
            f"{name} has {len(cells)} cells tagged 'parameters': it needs one, with PROFILE = \"cpu\""
        )
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
            raise ValueError(
                f"{name} has no parameter {parameter!r}: it has {', '.join(assigned)}"
            )
    check_profile(wanted["PROFILE"])
    return {key: value for key, value in wanted.items() if assigned[key] not in (value, repr(value))}


def executed(source: NotebookNode, run: NotebookNode) -> NotebookNode:
    """The source with the outputs of its run, and nothing else that an execution leaves in a notebook."""
    notebook = nbformat.from_dict(source)
    for cell, done in zip(notebook.cells, own_cells(run), strict=True):
        if cell.cell_type == "code":
            cell.execution_count = done.execution_count
            cell.outputs = clean_outputs(done.outputs)
    return notebook


def own_cells(run: NotebookNode) -> list[NotebookNode]:
    """The notebook's own cells, without what papermill adds: injected parameters, notes on an error."""
    added = {"injected-parameters", "papermill-error-cell-tag"}
    return [cell for cell in run.cells if not added & set(cell.metadata.get("tags", []))]


def clean_outputs(outputs: Sequence[NotebookNode]) -> list[NotebookNode]:
    """Outputs as a reader without a kernel can see them, pictures small; the pieces of a text stream become one."""
    clean: list[NotebookNode] = []
    for output in outputs:
        if WIDGET in output.get("data", {}):
            continue  # a widget is alive with a kernel only; a static figure stands beside it
        if (
            clean
            and output.output_type == "stream" == clean[-1].output_type
            and output.name == clean[-1].name
        ):
            clean[-1].text += output.text
            continue
        if picture := output.get("data", {}).get("image/png"):
            output.data["image/png"] = b64encode(opaque(b64decode(picture))).decode()
        clean.append(output)
    return clean


# ----- running notebooks


class Execution:
    """One notebook executed by papermill in a session of its own; once more if its kernel gets lost.

    `folder` is this run's own: input.ipynb, output.ipynb, log.txt, and out/, where the notebook writes.
    """

    def __init__(self, name: str, source: NotebookNode, parameters: dict, profile: str, folder: Path):
        self.name, self.source, self.parameters, self.profile, self.folder = (
            name,
            source,
            parameters,
            profile,
            folder,
        )
        self.tries = 0
        self.start()

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def start(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.out.mkdir(parents=True)
        nbformat.write(self.source, self.folder / "input.ipynb")
        command = [
            sys.executable,
            "-c",
            PAPERMILL,
            self.folder / "input.ipynb",
            self.folder / "output.ipynb",
        ]
        command += ["-k", "python3", "--cwd", repo_root() / "notebooks", "--no-progress-bar"]
        command += ["--start-timeout", "120", "--execution-timeout", str(PATIENCE[self.profile])]
        for key, value in self.parameters.items():
            command += ["-p", key, value]
        with open(self.folder / "log.txt", "w") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment(),
                start_new_session=True,
            )
        self.tries += 1
        self.began = self.worked_at = time.monotonic()
        self.work, self.stalled = 0.0, False

    def environment(self) -> dict[str, str]:
        """The kernel's: where to write, one thread, one instruction set, nothing of the caller's set-up."""
        package = str(Path(__file__).parents[2])
        mine = {
            "FWDIFF_OUTPUT": str(self.out),
            "FWDIFF_ROOT": str(repo_root()),
            "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")])),
            "PYTHONHASHSEED": "0",
            "IPYTHONDIR": str(self.folder / "ipython"),
            "JUPYTER_RUNTIME_DIR": str(self.folder / "runtime"),
        }
        if self.profile != "gpu":
            mine |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
            if platform.machine() in ("x86_64", "AMD64"):
                mine |= {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "AVX2"}
        return {key: value for key, value in os.environ.items() if key != "MPLBACKEND"} | mine

    def ended(self) -> bool:
        """Whether papermill is through; starts it once more if it lost its kernel."""
        if self.process.poll() is None:
            if not self.is_stalled():
                return False
            self.stalled = True
            self.stop()
        if self.tries == 1 and self.lost_kernel():
            print(f"{self.name}: its kernel was lost, trying once more", flush=True)
            self.start()
            return False
        self.seconds = time.monotonic() - self.began
        return True

    def is_stalled(self) -> bool:
        """Whether the kernel has not worked for a long time: a reply got lost on the way."""
        if time.monotonic() - self.worked_at < 5:
            return False
        work = 0.0
        for process in self.tree()[1:]:  # papermill itself polls
            try:
                work += sum(process.cpu_times()[:2])
            except psutil.Error:
                continue
        if abs(work - self.work) > 0.5:
            self.work, self.worked_at = work, time.monotonic()
        return time.monotonic() - self.worked_at > STALLED

    def lost_kernel(self) -> bool:
        return self.stalled or self.process.returncode == LOST_KERNEL or "Kernel didn't respond" in self.log()

    @property
    def peak_gb(self) -> float:
        """The kernel's largest resident memory; 0 where papermill did not live to write it."""
        path = self.folder / "peak"
        unit = 1e9 if sys.platform == "darwin" else 1e6  # macOS counts in bytes, Linux in KiB
        return int(path.read_text()) / unit if path.exists() else 0.0

    def log(self) -> str:
        return (self.folder / "log.txt").read_text(errors="replace")

    def tree(self) -> list[psutil.Process]:
        """papermill and all under it: the kernel has a session of its own and outlives a plain kill."""
        try:
            process = psutil.Process(self.process.pid)
            return [process, *process.children(recursive=True)]
        except psutil.Error:
            return []

    def stop(self) -> None:
        """Ends papermill and its kernel. All that they wrote lies in this run's folder."""
        tree = self.tree()
        for process in tree:
            try:
                process.kill()
            except psutil.Error:
                continue
        psutil.wait_procs(tree, timeout=10)
        self.process.wait()

    def check(self) -> None:
        """Failed, with one line that says where and why, unless the notebook ended well with a picture."""
        if self.stalled or self.process.returncode != 0:
            raise Failed(f"{self.reason()} (log: {self.keep_log()})")
        strays = sorted(path.name for path in self.out.iterdir() if not path.name.startswith(self.name))
        if strays:
            raise Failed(f"wrote {', '.join(strays)}: every file it makes must begin with its name")
        notebook = executed(self.source, nbformat.read(self.folder / "output.ipynb", as_version=4))
        if not self.pictures():
            harvest(notebook, self.out, self.name)
        if not self.pictures():
            raise Failed("it made no picture")
        self.notebook = notebook

    def pictures(self) -> list[Path]:
        return sorted(path for path in self.out.iterdir() if path.suffix in (".png", ".gif"))

    def reason(self) -> str:
        if self.lost_kernel():
            return "its kernel was lost twice"
        path = self.folder / "output.ipynb"
        cells = own_cells(nbformat.read(path, as_version=4)) if path.exists() else []
        for place, cell in enumerate(cells):
            for output in cell.get("outputs", []):
                if output.output_type == "error":
                    return f"cell {place}: {output.ename}: {(output.evalue.splitlines() or [''])[0]}"
        return (self.log().strip().splitlines() or ["papermill said nothing"])[-1]

    def keep_log(self) -> Path:
        path = repo_root() / "build" / "log" / f"{self.name}.txt"
        write_text(path, self.log())
        return path

    def cell_seconds(self) -> list[float]:
        """The seconds that each code cell took."""
        cells = own_cells(nbformat.read(self.folder / "output.ipynb", as_version=4))
        times = [
            cell.metadata.get("papermill", {}).get("duration") for cell in cells if cell.cell_type == "code"
        ]
        return [round(seconds or 0.0, 1) for seconds in times]


def harvest(notebook: NotebookNode, folder: Path, name: str) -> None:
    """The pictures that a notebook shows, as files, for one that writes none itself."""
    for place, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            for kind in ("png", "gif"):
                if picture := output.get("data", {}).get(f"image/{kind}"):
                    (folder / f"{name}_cell{place:02d}.{kind}").write_bytes(b64decode(picture))


# ----- results in place


def publish(run: Execution, figures: Path, notebooks: Path, profile: str, facts: dict) -> None:
    """Puts in place what a run made that ended well; what the other notebooks made stays."""
    pictures = run.pictures()
    for path in pictures:
        with atomic_write(figures / path.name) as part:
            shutil.copyfile(path, part)
    for old in figures.glob(f"{run.name}_*"):
        if old.suffix in (".png", ".gif") and old.name not in {path.name for path in pictures}:
            old.unlink()
    known = set(notebook_names())
    metrics = {key: value for key, value in read_json(figures / "metrics.json").items() if key in known}
    if numbers := read_json(run.out / f"{run.name}.metrics.json"):
        metrics[run.name] = numbers
    write_json(figures / "metrics.json", metrics)

    cost = {
        "minutes": round(run.seconds / 60, 2),
        "peak_gb": round(run.peak_gb, 2),
        "cells": run.cell_seconds(),
    }
    places = {figures / "provenance.json"}
    if profile == "gpu" and facts["hardware"]["gpu"]:
        # minutes on a GPU are stated beside those on the CPU, wherever the pictures go
        places.add(repo_root() / "figures" / "provenance.json")
    for path in places:
        provenance = read_json(path)
        provenance.setdefault(run.name, {})[profile] = facts | cost
        write_json(path, provenance)

    for cell in run.notebook.cells:
        for output in cell.get("outputs", []):
            if OPENING in output.get("metadata", {}).get("text/markdown", {}):
                output["data"]["text/markdown"] = opening_text(run.name)  # with the minutes measured just now
            if "metadata" in output:
                output["metadata"] = {}
    nbformat.validate(run.notebook)
    write_text(notebooks / f"{run.name}.ipynb", nbformat.writes(run.notebook) + "\n")


def origin(profile: str) -> dict:
    """When, where and of what a run was made."""
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
    """Keeps how long a whole make target took, and how long the environment had taken that it ran in."""
    marker = next(Path(sys.prefix).glob("ready-*"), None)
    install = float(marker.read_text()) if marker else 0.0
    total = {
        "minutes": round(seconds / 60, 2),
        "install_minutes": round(install / 60, 2),
        "cores": os.cpu_count(),
    }
    write_json(path, read_json(path) | {what: total})


# ----- stopping in safety


@dataclass
class Stop(BaseException):
    """A signal asked this process to stop. Not an Exception, so that nothing takes it for a failure."""

    signal: signal.Signals


class Arguments(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str):
        raise ValueError(f"{message}; see --help")


@contextmanager
def stoppable() -> Iterator[None]:
    """Signals that ask to stop raise Stop, so that everything open is closed on the way out."""

    def stop(number, frame):
        if HELD:
            HELD.append(number)
        else:
            raise Stop(signal.Signals(number))

    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


HELD: list[int] = []  # not empty within `unstoppable`: a zero, then the signals that wait


@contextmanager
def unstoppable() -> Iterator[None]:
    """Signals wait until the block is through: no result is put in place by half, no process gets lost."""
    HELD.append(0)  # a flag and not the process's signal mask, which a kernel would inherit
    try:
        yield
    finally:
        waiting = HELD[1:]
        HELD.clear()
        if waiting:
            raise Stop(signal.Signals(waiting[0]))


@contextmanager
def closing_all() -> Iterator[list[Execution]]:
    """A list of executions; those still running when the block ends are stopped."""
    running: list[Execution] = []
    try:
        yield running
    finally:
        with unstoppable():
            for run in running:
                run.stop()


@contextmanager
def scratch() -> Iterator[Path]:
    """A temporary folder under build/."""
    parent = repo_root() / "build"
    parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent, prefix="running-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


if __name__ == "__main__":
    sys.exit(main())
