"""The execution of one notebook by papermill, in a process of its own, and the parts of its output that are kept."""

import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from base64 import b64decode, b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import nbformat
import psutil
from nbformat import NotebookNode

from fwdiff_lite.pipeline import hooks
from fwdiff_lite.pipeline.folders import CannotWrite, build_folder, naming
from fwdiff_lite.pipeline.notebook import drop_alpha
from fwdiff_lite.pipeline.signals import defer_signals
from fwdiff_lite.storage.files import repo_root, write_text

CELL_TIMEOUT = {"smoke": 300, "cpu": 900, "gpu": 4 * 3600}  # seconds that one cell may take
FULL_DISK = 1_000_000  # bytes that are free on a disk that counts as full
STALL_TIMEOUT = 60  # seconds without any work, after which a kernel's reply counts as lost
# papermill without nbclient's handling of output widgets, which sends to the kernel while it waits for the kernel's
# reply, and sometimes misses the reply (nbclient's issue 312). A widget's first content is in the cell's output anyway.
# At its end the script writes its kernel's largest memory beside its input. If this process asked the system, the
# answer would include its own memory at the start of papermill: Linux keeps that figure through exec.
# Its standard input is a pipe that nobody writes to. The pipe ends when this process ends, however it ends; then the
# script kills its kernel, which has a session of its own, and itself.
# It has no rfc3987_syntax: jsonschema works without it, and a notebook's schema has no IRI for it to check. Its import
# compiles a grammar, which takes longer than all other imports of papermill.
PAPERMILL = """
import atexit, os, pathlib, resource, sys, threading
sys.modules["rfc3987_syntax"] = None
import psutil
from nbclient.client import NotebookClient
from papermill.cli import papermill

def keep_peak():
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    pathlib.Path(sys.argv[1]).with_name("peak").write_text(str(peak))

def die_with_parent():
    os.read(0, 1)  # returns at the pipe's end
    for process in psutil.Process().children(recursive=True):
        process.kill()
    os._exit(1)

threading.Thread(target=die_with_parent, daemon=True).start()
atexit.register(keep_peak)
NotebookClient.on_comm_open_jupyter_widget = lambda self, message: None
papermill()
"""
KERNEL_DIED = 138  # papermill's exit status when the kernel died
WIDGET = "application/vnd.jupyter.widget-view+json"


class NotebookFailed(Exception):
    """A notebook failed; the message is one line."""


def executed(source: NotebookNode, run: NotebookNode) -> NotebookNode:
    """The source with the outputs of its run, without the other metadata of an execution."""
    notebook = nbformat.from_dict(source)
    for cell, run_cell in zip(notebook.cells, own_cells(run), strict=True):
        if cell.cell_type == "code":
            cell.execution_count = run_cell.execution_count
            cell.outputs = clean_outputs(run_cell.outputs)
    return notebook


def own_cells(run: NotebookNode) -> list[NotebookNode]:
    """The notebook's own cells, without those that papermill and a hook add."""
    added = {"injected-parameters", "papermill-error-cell-tag", hooks.TAG}
    return [cell for cell in run.cells if not added & set(cell.metadata.get("tags", []))]


def clean_outputs(outputs: Sequence[NotebookNode]) -> list[NotebookNode]:
    """The outputs that a reader without a kernel can see: no widgets, opaque pictures, one output a text stream."""
    clean: list[NotebookNode] = []
    for output in outputs:
        if WIDGET in output.get("data", {}):
            continue  # a widget needs a kernel; a static figure stands beside it
        if clean and output.output_type == "stream" == clean[-1].output_type and output.name == clean[-1].name:
            clean[-1].text += output.text
            continue
        if picture := output.get("data", {}).get("image/png"):
            output.data["image/png"] = b64encode(drop_alpha(b64decode(picture))).decode()
        clean.append(output)
    return clean


class Task(NamedTuple):
    """A notebook to run: the arguments of NotebookRun."""

    name: str
    source: NotebookNode
    parameters: dict[str, str]  # those that differ from the notebook's defaults
    profile: str
    folder: Path

    @property
    def label(self) -> str:
        """The name, and what sets this run apart from another run of the same notebook."""
        return " ".join([self.name, *(f"{key} {self.parameters[key]}" for key in self.parameters if key != "PROFILE")])


class NotebookRun:
    """One notebook, executed by papermill in a session of its own, a second time if its kernel is lost.

    folder: this run's own folder, for input.ipynb, output.ipynb, log.txt, and out/, where the notebook writes
    """

    def __init__(self, name: str, source: NotebookNode, parameters: dict, profile: str, folder: Path):
        self.name, self.source, self.parameters = name, source, parameters
        self.profile, self.folder = profile, folder
        self.tries = 0
        self.start()

    @property
    def out(self) -> Path:
        """The folder that the notebook writes to."""
        return self.folder / "out"

    def start(self) -> None:
        """Starts papermill. CannotWrite if its input cannot be written."""
        with naming(self.folder):
            shutil.rmtree(self.folder, ignore_errors=True)
            self.out.mkdir(parents=True)
            nbformat.write(hooks.with_hook(self.name, self.source), self.folder / "input.ipynb")
        command = [
            sys.executable,
            "-c",
            PAPERMILL,
            self.folder / "input.ipynb",
            self.folder / "output.ipynb",
        ]
        command += ["-k", "python3", "--cwd", repo_root() / "notebooks", "--no-progress-bar"]
        command += ["--start-timeout", "120", "--execution-timeout", str(CELL_TIMEOUT[self.profile])]
        for key, value in self.parameters.items():
            command += ["-p", key, value]
        with open(self.folder / "log.txt", "w") as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,  # see PAPERMILL
                stdout=log,
                stderr=log,
                env=self.environment(),
                start_new_session=True,
            )
        self.tries += 1
        self.started_at = self.worked_at = time.monotonic()
        self.work, self.stalled = 0.0, False

    def environment(self) -> dict[str, str]:
        """The kernel's environment: its output folder, one thread, one instruction set, no settings of the caller."""
        package = str(Path(__file__).parents[2])
        own = {
            "FWDIFF_OUTPUT": str(self.out),
            "FWDIFF_ROOT": str(repo_root()),
            "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")])),
            "PYTHONHASHSEED": "0",
            "PYTHONUTF8": "1",  # paths and texts are UTF-8 under every locale
            "IPYTHONDIR": str(self.folder / "ipython"),
            "JUPYTER_RUNTIME_DIR": str(self.folder / "runtime"),
        }
        if self.profile != "gpu":
            own |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
            if platform.machine() in ("x86_64", "AMD64"):
                own |= {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "AVX2"}
        return {key: value for key, value in os.environ.items() if key != "MPLBACKEND"} | own

    def ended(self) -> bool:
        """Whether papermill has ended. If it lost its kernel for the first time, it is started again."""
        if self.process.poll() is None:
            if not self.is_stalled():
                return False
            self.stalled = True
            self.stop()
        if self.tries == 1 and self.lost_kernel():
            print(f"{self.name}: its kernel was lost, trying once more", flush=True)
            self.start()
            return False
        self.process.stdin.close()
        self.seconds = time.monotonic() - self.started_at
        return True

    def is_stalled(self) -> bool:
        """Whether the kernel has not worked for STALL_TIMEOUT seconds: one of its replies was lost."""
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
        return time.monotonic() - self.worked_at > STALL_TIMEOUT

    def lost_kernel(self) -> bool:
        """Whether the kernel died or stopped answering."""
        return self.stalled or self.process.returncode == KERNEL_DIED or "Kernel didn't respond" in self.log()

    @property
    def peak_gb(self) -> float:
        """The kernel's largest resident memory; 0 if papermill was killed before it wrote the figure."""
        path = self.folder / "peak"
        unit = 1e9 if sys.platform == "darwin" else 1e6  # macOS counts in bytes, Linux in KiB
        return int(path.read_text()) / unit if path.exists() else 0.0

    def log(self) -> str:
        """Everything that papermill printed."""
        return (self.folder / "log.txt").read_text(errors="replace")

    def tree(self) -> list[psutil.Process]:
        """papermill and its descendants: the kernel has a session of its own and would survive a kill of papermill."""
        try:
            process = psutil.Process(self.process.pid)
            return [process, *process.children(recursive=True)]
        except psutil.Error:
            return []

    def stop(self) -> None:
        """Ends papermill and its kernel. Everything that they wrote is in this run's folder."""
        tree = self.tree()
        for process in tree:
            try:
                process.kill()
            except psutil.Error:
                continue
        psutil.wait_procs(tree, timeout=10)
        self.process.wait()
        self.process.stdin.close()

    def check(self) -> None:
        """NotebookFailed, with cell and reason in one line, unless the notebook succeeded and made a picture."""
        output = self.output()
        if self.stalled or self.process.returncode != 0 or output is None:
            raise NotebookFailed(f"{self.reason(output)}{self.full_disk()} ({self.keep_log()})")
        misnamed = sorted(path.name for path in self.out.iterdir() if not path.name.startswith(self.name))
        if misnamed:
            raise NotebookFailed(f"wrote {', '.join(misnamed)}: every file it makes must begin with its name")
        notebook = executed(self.source, output)
        if not self.pictures():
            extract_images(notebook, self.out, self.name)
        if not self.pictures():
            raise NotebookFailed("it made no picture")
        self.notebook = notebook

    def output(self) -> NotebookNode | None:
        """The notebook that papermill wrote; None if it wrote none, or only a part of its cells."""
        try:
            output = nbformat.read(self.folder / "output.ipynb", as_version=4)
        except (FileNotFoundError, ValueError, nbformat.ValidationError):
            return None
        return output if len(own_cells(output)) == len(self.source.cells) else None

    def pictures(self) -> list[Path]:
        """The pictures that the notebook wrote."""
        return sorted(path for path in self.out.iterdir() if path.suffix in (".png", ".gif"))

    def reason(self, output: NotebookNode | None) -> str:
        """Why the notebook failed, in one line."""
        if self.lost_kernel():
            return "its kernel was lost twice"
        cells = [(f"cell {index}", cell) for index, cell in enumerate(own_cells(output))] if output else []
        cells += [("hook", cell) for cell in output.cells if hooks.is_hook(cell)] if output else []
        for place, cell in cells:
            for result in cell.get("outputs", []):
                if result.output_type == "error":
                    return f"{place}: {result.ename}: {(result.evalue.splitlines() or [''])[0]}"
        status = self.process.returncode
        if status < 0:
            return f"papermill was killed by {signal.Signals(-status).name}"
        last = (self.log().strip().splitlines() or ["papermill printed nothing"])[-1]
        return last if status else f"papermill left no whole notebook: {last}"

    def full_disk(self) -> str:
        """Names the folder of this run if its disk is full: errors of a full disk name no path."""
        free = shutil.disk_usage(self.folder).free
        return f"; the disk of {self.folder} is full" if free < FULL_DISK else ""

    def keep_log(self) -> str:
        """Copies the log to build/log; says where it is, or why it is not."""
        try:
            path = build_folder() / "log" / f"{self.name}.txt"
            with naming(path):
                write_text(path, self.log())
        except CannotWrite as error:
            return f"no log: {error}"
        return f"log: {path}"

    def cell_seconds(self) -> list[float]:
        """The seconds that each code cell took."""
        cells = own_cells(self.output())
        times = [cell.metadata.get("papermill", {}).get("duration") for cell in cells if cell.cell_type == "code"]
        return [round(seconds or 0.0, 1) for seconds in times]


def extract_images(notebook: NotebookNode, folder: Path, name: str) -> None:
    """Writes the pictures of a notebook's outputs as files, for a notebook that writes none itself."""
    for index, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            for suffix in ("png", "gif"):
                if picture := output.get("data", {}).get(f"image/{suffix}"):
                    (folder / f"{name}_cell{index:02d}.{suffix}").write_bytes(b64decode(picture))


def finished_runs(tasks: Sequence[Task], jobs: int) -> Iterator[NotebookRun]:
    """Runs the notebooks in this order, `jobs` at a time; yields each run when it has ended, well or not."""
    waiting = list(tasks)
    with closing_all() as running:
        while waiting or running:
            while waiting and len(running) < jobs:
                task = waiting.pop(0)
                print(f"{task.label}: running", flush=True)
                with defer_signals():
                    running.append(NotebookRun(*task))
            time.sleep(0.2)
            with defer_signals():
                ended = [run for run in running if run.ended()]
            for run in ended:
                running.remove(run)
                yield run


@contextmanager
def closing_all() -> Iterator[list[NotebookRun]]:
    """Yields a list of runs; those that are still in it at the end of the block are stopped."""
    running: list[NotebookRun] = []
    try:
        yield running
    finally:
        with defer_signals():
            for run in running:
                run.stop()
