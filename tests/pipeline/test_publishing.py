"""Folders that cannot be written, full disks, killed runs: one line that names the folder, and no half of a result."""

import errno
import fcntl
import os
import tempfile
from pathlib import Path

import pytest

from fwdiff_lite.pipeline.folders import LOCK, CannotWrite, build_folder, check_writable, temporary_folder
from fwdiff_lite.pipeline.notebook import Run
from fwdiff_lite.pipeline.publishing import replace_all
from fwdiff_lite.pipeline.reproduce import main

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # of a write to a full disk: it names no path


@pytest.fixture
def old(tmp_path):
    """A folder of results, by name."""
    contents = {"a.png": b"old a", "b.png": b"old b", "gone.png": b"old picture"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return contents


def contents_of(folder: Path) -> dict[str, bytes | None]:
    return {path.name: path.read_bytes() if path.is_file() else None for path in folder.iterdir()}


def publish_anew(folder: Path) -> None:
    """New contents for two old files, one new file, one file less."""
    new = {folder / "a.png": b"new a", folder / "new.png": b"new", folder / "b.png": b"new b"}
    replace_all(new, [folder / "gone.png"], folder)


def failing(method: str, name: str, number: int, error: OSError):
    """A method of Path that raises at its `number`-th call (from 0) for a path of this suffix."""
    original, calls = getattr(Path, method), []

    def call(self, *arguments):
        if self.suffix == name:
            calls.append(self)
            if len(calls) == number + 1:
                raise error
        return original(self, *arguments)

    return call


def test_all_files_are_replaced(old, tmp_path):
    publish_anew(tmp_path)
    assert contents_of(tmp_path) == {"a.png": b"new a", "new.png": b"new", "b.png": b"new b"}


@pytest.mark.parametrize("number", range(3))
def test_a_full_disk_changes_nothing(old, tmp_path, monkeypatch, number):
    monkeypatch.setattr(Path, "write_bytes", failing("write_bytes", ".new", number, FULL))
    with pytest.raises(CannotWrite, match=f"^{tmp_path} cannot be written: No space left on device$"):
        publish_anew(tmp_path)
    assert contents_of(tmp_path) == old


@pytest.mark.parametrize("method, suffix, number", [("rename", ".new", n) for n in range(3)] + [("rename", ".png", 2)])
def test_a_file_that_cannot_be_replaced_leaves_the_others_old(old, tmp_path, monkeypatch, method, suffix, number):
    denied = OSError(errno.EPERM, os.strerror(errno.EPERM))
    monkeypatch.setattr(Path, method, failing(method, suffix, number, denied))
    with pytest.raises(CannotWrite, match=r"\.png cannot be written: Operation not permitted$"):
        publish_anew(tmp_path)
    assert contents_of(tmp_path) == old


def test_a_folder_in_the_place_of_a_file_is_named(old, tmp_path):
    (tmp_path / "new.png").mkdir()
    with pytest.raises(CannotWrite, match=f"^{tmp_path}/new.png cannot be written: Is a directory$"):
        publish_anew(tmp_path)
    assert contents_of(tmp_path) == old | {"new.png": None}


def test_results_that_have_no_place_are_refused_before_anything_runs(checkout, capsys):
    folder = checkout(**{"90_tiny": "1"})
    (folder / "figures").write_text("a file, in place of a folder that cannot be written")
    assert main([]) == 1
    said = capsys.readouterr()
    assert said.err == f"error: {folder}/figures cannot be written: File exists; --output DIR writes elsewhere\n"
    assert "running" not in said.out and not (folder / "build").exists()


def test_a_full_disk_ends_the_runner_in_one_line(checkout, capsys, monkeypatch):
    folder = checkout(**{"90_tiny": "1"})

    def write(notebook, path):
        raise FULL

    monkeypatch.setattr("fwdiff_lite.pipeline.execution.nbformat.write", write)
    assert main(["--profile", "smoke"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {folder}/build/running-") and error.count("\n") == 1
    assert error.endswith("90_tiny cannot be written: No space left on device\n")
    assert list((folder / "build").glob("running-*")) == []


@pytest.fixture
def unwritable(checkout, tmp_path_factory, monkeypatch):
    """A checkout whose build/ cannot be made, and the folder of temporary files beside it."""
    folder, temporary = checkout(**{"90_tiny": "1"}), tmp_path_factory.mktemp("temporary")
    (folder / "build").write_text("a file, in place of a folder that cannot be written")
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    return folder, temporary / f"fwdiff-lite-{os.getuid()}"


def test_a_readers_run_in_a_checkout_that_cannot_be_written(unwritable, capsys):
    folder, elsewhere = unwritable
    run = Run("90_tiny", "smoke")
    assert run.folder == run.folder == elsewhere / "figures" and run.folder.is_dir()
    line = f"{folder}/build cannot be written: File exists; temporary files go to {elsewhere}\n"
    assert capsys.readouterr().out == line, "said once"


def test_a_folder_of_another_user_is_refused(unwritable, monkeypatch):
    _, elsewhere = unwritable
    elsewhere.mkdir()
    monkeypatch.setattr(os, "getuid", lambda: int(elsewhere.name.rsplit("-")[-1]) + 1)
    elsewhere.rename(elsewhere.with_name(f"fwdiff-lite-{os.getuid()}"))
    with pytest.raises(CannotWrite, match="belongs to another user: set TMPDIR to a folder of yours"):
        build_folder()


def test_abandoned_folders_are_removed_at_the_next_start(tmp_path):
    names = ("running-a", "running-b", "running-c", "log")
    killed, without_lock, alive, other = (tmp_path / name for name in names)
    for folder in (killed, without_lock, alive, other):
        (folder / "part").mkdir(parents=True)
    (killed / LOCK).touch()
    with open(alive / LOCK, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with temporary_folder(tmp_path, "running-") as new:
            assert {path for path in tmp_path.iterdir()} == {new, alive, other}
            with temporary_folder(tmp_path, "running-") as second:
                assert new.exists() and second.exists(), "two runners at once"
    assert {path for path in tmp_path.iterdir()} == {alive, other}


def test_a_folder_is_made(tmp_path):
    check_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
