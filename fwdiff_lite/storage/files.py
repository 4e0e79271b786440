"""Where the checkout is, which commit it is at, and writing to it so that nothing half-written is ever left behind."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def repo_root() -> Path:
    """The checkout: notebooks/, figures/, checkpoints/ lie in it. FWDIFF_ROOT names another (tests do)."""
    return Path(os.environ.get("FWDIFF_ROOT") or Path(__file__).parents[2]).resolve()


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, with its suffix; it becomes `path` only if the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=path.suffix)
    os.close(handle)
    part = Path(name)
    try:
        yield part
        part.chmod(0o644)  # mkstemp makes files that only the owner reads
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes text, all of it or none."""
    with atomic_write(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, content: dict) -> None:
    """Writes JSON with sorted keys, so that equal contents are equal bytes. ValueError on NaN."""
    write_text(
        path, json.dumps(content, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n"
    )


def read_json(path: Path) -> dict:
    """What write_json wrote; an empty dict where there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
