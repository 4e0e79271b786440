"""The place of the checkout, and atomic writes: a file is either complete or not there."""

import errno
import glob
import hashlib
import json
import os
import pickle
import secrets
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import safetensors.torch
from jaxtyping import Shaped
from torch import Tensor

try:
    import fcntl
except ImportError:  # Windows: temporary files of killed processes stay
    fcntl = None


# What decoders of images, archives and arrays raise on damaged files.
DAMAGE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    OverflowError,
    NotImplementedError,
    RuntimeError,
    MemoryError,
    pickle.UnpicklingError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


class UnwritableError(OSError, ValueError):
    """A file cannot be written: its folder is read-only, the disk is full, or similar. The message is one line."""


def repo_root() -> Path:
    """The folder that holds notebooks/, figures/ and checkpoints/. FWDIFF_ROOT names another one (the tests use it)."""
    return Path(os.environ.get("FWDIFF_ROOT") or Path(__file__).parents[2]).resolve()


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, with its suffix; it replaces `path` only if the block raises nothing.

    The file has the permissions of any new file of the user (umask). Temporary files that killed processes left of the
    same `path` are removed.
    UnwritableError, a ValueError and an OSError, if the folder or the disk takes no file.
    """
    temporary = path.with_name(f"{temporary_prefix(path)}{secrets.token_hex(4)}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_stale_files(path)
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        if fcntl:
            with suppress(OSError):  # a file system without locks
                fcntl.flock(descriptor, fcntl.LOCK_EX)  # until this process closes the file or ends
        try:
            yield temporary
        except OSError as error:
            if error.errno not in DISK_ERRORS:
                raise
            raise _unwritable(path, error) from None
        try:
            temporary.replace(path)
        except OSError as error:
            raise _unwritable(path, error) from None
    finally:
        os.close(descriptor)
        temporary.unlink(missing_ok=True)


@contextmanager
def restore_on_error(paths: Sequence[Path]) -> Iterator[None]:
    """A block that writes several files: if it raises, they are as they were before, and new ones are removed.

    The old files are kept in memory. A process that is killed restores nothing.
    """
    old_contents = {path: path.read_bytes() if path.is_file() else None for path in paths}
    try:
        yield
    except BaseException:
        for path, old in old_contents.items():
            content = path.read_bytes() if path.is_file() else None
            if old is None and content is not None:
                path.unlink()
            elif content != old:
                write_bytes(path, old)
        raise


def temporary_prefix(path: Path) -> str:
    """How the names of the temporary files of a path start."""
    return f".{path.name}.part-"


def remove_stale_files(path: Path) -> None:
    """Removes the temporary files of a path that no process writes any more."""
    if not fcntl:
        return
    for name in glob.glob(glob.escape(temporary_prefix(path)) + "*", root_dir=path.parent, include_hidden=True):
        with suppress(OSError), open(path.parent / name, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # OSError if its writer still lives
            os.unlink(path.parent / name)


@contextmanager
def exclusive_lock(path: Path) -> Iterator[bool]:
    """Yields whether this process has the lock of a path: no other one holds it. It ends with the block or the process.

    Without file locks (Windows, some network file systems), every process has it. UnwritableError if the folder takes
    no file.
    """
    if not fcntl:
        yield True
        return
    lock_path = path.with_name(f".{path.name}.lock")
    try:
        lock_path.parent.mkdir(parents=True, exist_ok=True)
        file = _locked_file(lock_path)
    except OSError as error:
        raise _unwritable(path, error) from None
    if file is None:
        yield False
        return
    with file:
        try:
            yield True
        finally:
            lock_path.unlink(missing_ok=True)


def _locked_file(path: Path) -> IO | None:
    """The file of that path, locked by this process; None if another process has locked it."""
    while True:
        file = open(path, "w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        except OSError:  # a file system without locks
            return file
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                return file
        file.close()  # its owner removed it after it was opened here: the path names another file, or none


def _unwritable(path: Path, error: OSError) -> UnwritableError:
    return UnwritableError(f"{path} cannot be written: {error.strerror or type(error).__name__}")


def write_tensors(
    path: Path, tensors: Mapping[str, Shaped[Tensor, "..."]], metadata: Mapping[str, str] | None = None
) -> None:
    """Writes a safetensors file atomically.

    safetensors' own save_file writes to another temporary file, which only the owner can read and which stays if the
    process is killed.
    """
    content = safetensors.torch.save({key: value.contiguous() for key, value in tensors.items()}, metadata)
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file of bytes atomically."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def file_sha256(path: Path) -> str:
    """The sha256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, content: dict) -> None:
    """Writes JSON atomically, with sorted keys, so that equal contents are equal bytes. ValueError on NaN."""
    write_text(path, json.dumps(content, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n")


def read_text(path: Path) -> str:
    """The content of a text file. ValueError, with its name, if it cannot be read or is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} cannot be read: it is not text in UTF-8") from None


def read_json(path: Path) -> dict:
    """The content of a JSON file; an empty dict if the file does not exist. ValueError if it holds anything else."""
    if not path.exists():
        return {}
    try:
        content = json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}): delete it or restore it") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}: wanted a JSON object")
    return content
