"""Folders that the pipeline writes to: which of them can be written, and temporary ones that outlive no process."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from fwdiff_lite.storage.files import repo_root

LOCK = "lock"  # in every temporary folder; the process that made the folder holds it as long as it lives


class CannotWrite(OSError):
    """A file or folder cannot be written; the message is one line, which names it and the reason."""


@contextmanager
def naming(path: Path, remedy: str = "") -> Iterator[None]:
    """An OSError in the block becomes a CannotWrite of this path: where a disk is full, the system names none."""
    try:
        yield
    except CannotWrite:
        raise  # it names the path more exactly
    except OSError as error:
        raise CannotWrite(f"{path} cannot be written: {error.strerror or error}{remedy}") from error


def check_writable(folder: Path, remedy: str = "") -> None:
    """Makes the folder if it is not there. CannotWrite if no file can be made in it."""
    with naming(folder, remedy):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


def build_folder() -> Path:
    """The checkout's build/, or a folder among the system's temporary files where build/ cannot be written."""
    return writable_build_folder(repo_root() / "build")


@cache
def writable_build_folder(build: Path) -> Path:
    """As `build_folder`. The first call says in one line where files go instead."""
    try:
        check_writable(build)
    except CannotWrite as error:
        folder = Path(tempfile.gettempdir()) / f"fwdiff-lite-{os.getuid()}"
        check_writable(folder)
        if folder.stat().st_uid != os.getuid():
            raise CannotWrite(f"{folder} belongs to another user: set TMPDIR to a folder of yours") from error
        print(f"{error}; temporary files go to {folder}", flush=True)
        return folder
    return build


@contextmanager
def temporary_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A new folder in `parent`. It is removed at the end of the block, or by the next call if the process is killed."""
    with naming(parent), locked(parent):  # another process must not see the new folder before its lock
        remove_abandoned(parent, prefix)
        folder = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
        descriptor = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def remove_abandoned(parent: Path, prefix: str) -> None:
    """Removes the temporary folders whose process was killed: nobody holds their lock."""
    for folder in parent.glob(f"{prefix}*"):
        try:
            with open(folder / LOCK) as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        except FileNotFoundError:
            pass  # killed before it had a lock, or made by an earlier version
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Waits until no other process is in this block with the same folder."""
    descriptor = os.open(folder, os.O_RDONLY)  # not inherited by the processes that this one starts
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
