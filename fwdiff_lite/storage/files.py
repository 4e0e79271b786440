"""The place of the checkout, and atomic writes: a file is either complete or not there."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def repo_root() -> Path:
    """The folder that holds notebooks/, figures/ and checkpoints/. FWDIFF_ROOT names another one (the tests use it)."""
    return Path(os.environ.get("FWDIFF_ROOT") or Path(__file__).parents[2]).resolve()


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, with its suffix; it replaces `path` only if the block raises nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=path.suffix)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)  # mkstemp makes files that only the owner can read
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: dict) -> None:
    """Writes JSON atomically, with sorted keys, so that equal contents are equal bytes. ValueError on NaN."""
    write_text(path, json.dumps(content, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict:
    """The content of a JSON file; an empty dict if the file does not exist."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
