"""A file is complete or not there, whatever happens to the process, the disk or the folder."""

import fcntl
import multiprocessing
import os
import resource
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from fwdiff_lite.storage.checkpoints import save_recorded
from fwdiff_lite.storage.files import (
    UnwritableError,
    atomic_write,
    exclusive_lock,
    read_json,
    write_json,
    write_tensors,
    write_text,
)


def write_half_and_die(path):
    with atomic_write(path) as temporary:
        temporary.write_text("half of")
        os.kill(os.getpid(), signal.SIGKILL)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_temporary_file_of_a_killed_save_is_removed_at_the_next(tmp_path):
    path = tmp_path / "a[1].json"  # brackets are no pattern
    write_text(path, "old")
    write_text(tmp_path / "a1.json", "other")
    process = multiprocessing.get_context("fork").Process(target=write_half_and_die, args=(path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert path.read_text() == "old" and len(names(tmp_path)) == 3
    write_text(tmp_path / "a1.json", "other")
    assert len(names(tmp_path)) == 3, "of the same path alone"
    write_text(path, "new")
    assert path.read_text() == "new" and names(tmp_path) == ["a1.json", "a[1].json"]


def test_a_save_removes_no_file_that_another_one_is_writing(tmp_path):
    path = tmp_path / "a.npz"
    with atomic_write(path) as first:
        assert first.suffix == ".npz"
        first.write_text("first")
        write_text(path, "second")
        assert first.read_text() == "first" and path.read_text() == "second"
    assert path.read_text() == "first" and names(tmp_path) == ["a.npz"]


@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_files_have_the_permissions_of_the_users_umask(umask, mode, tmp_path):
    previous = os.umask(umask)
    try:
        write_json(tmp_path / "a.json", {})
        write_tensors(tmp_path / "a.safetensors", {"x": torch.zeros(1)})
    finally:
        os.umask(previous)
    assert [path.stat().st_mode & 0o777 for path in tmp_path.iterdir()] == [mode, mode]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
        open(tmp_path / "missing")
    assert names(tmp_path) == ["a.txt"] and (tmp_path / "a.txt").read_text() == "old"


@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_text(path, "x" * 9_000),
        lambda path: write_tensors(path, {"x": torch.zeros(2_000)}),
        lambda path: save_recorded("a", {"x": np.arange(2_000)}, path.parent),
    ],
    ids=["text", "safetensors", "npz"],
)
def test_a_full_disk_is_named_in_one_line(write, tmp_path):
    """A limit on the size of files stands for the disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_024, limits[1]))
    try:
        with pytest.raises(UnwritableError) as error:
            write(tmp_path / "a.npz")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(error.value) == f"{tmp_path / 'a.npz'} cannot be written: File too large" and names(tmp_path) == []
    assert isinstance(error.value, OSError) and isinstance(error.value, ValueError)


def test_tensors_are_written_as_safetensors_writes_them(tmp_path):
    tensors = {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.ones(2, dtype=torch.long)}
    write_tensors(tmp_path / "a.safetensors", tensors, {"key": "value"})
    save_file({key: value.contiguous() for key, value in tensors.items()}, tmp_path / "b.safetensors", {"key": "value"})
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert torch.equal(load_file(tmp_path / "a.safetensors")["a"], tensors["a"])


def test_an_unwritable_folder_is_named_in_one_line(tmp_path, monkeypatch):
    def denied(*_):
        raise PermissionError(13, "Permission denied", "some temporary name")

    monkeypatch.setattr(os, "open", denied)  # the tests may run as root, whom no permission stops
    with pytest.raises(UnwritableError) as error:
        write_text(tmp_path / "a.txt", "text")
    assert str(error.value) == f"{tmp_path / 'a.txt'} cannot be written: Permission denied"


def test_a_lock_in_a_folder_that_takes_no_file_is_refused_in_one_line(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(UnwritableError, match="a.json cannot be written: "),
        exclusive_lock(tmp_path / "file" / "a.json"),
    ):
        pass


def test_a_missing_json_file_is_empty(tmp_path):
    assert read_json(tmp_path / "a.json") == {}


def test_a_lock_is_one_process_s_until_its_block_ends(tmp_path):
    path = tmp_path / "new" / "record.json"
    with exclusive_lock(path) as first, exclusive_lock(path) as second:
        assert first and not second
        with exclusive_lock(path.with_name("other.json")) as other:
            assert other
    with exclusive_lock(path) as again:
        assert again
    assert not list(path.parent.iterdir()), "no lock file stays"


def test_a_lock_is_of_the_file_that_others_find(tmp_path, monkeypatch):
    """The owner of a lock removes its file while another process has it open."""
    path, flock, calls = tmp_path / "a.json", fcntl.flock, []

    def flock_of_a_removed_file(file, flags):
        if not calls:
            os.unlink(file.name)
        calls.append(file)
        flock(file, flags)

    monkeypatch.setattr(fcntl, "flock", flock_of_a_removed_file)
    with exclusive_lock(path) as first, exclusive_lock(path) as second:
        assert first and not second
