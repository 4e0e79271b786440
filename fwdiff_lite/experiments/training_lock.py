"""The lock of a training: two commands that train one variant in one folder would overwrite each other's state."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fwdiff_lite.devices import is_main_process
from fwdiff_lite.storage.files import exclusive_lock


@contextmanager
def training_lock(path: Path) -> Iterator[None]:
    """A block in which no other command trains the same weights. It ends with the block or with the process.

    Of the processes of one training, the main one alone has the lock: it alone writes files.
    path: of the weights. ValueError if another command trains them
    """
    if not is_main_process():
        yield
        return
    with exclusive_lock(path.with_suffix(".state")) as is_mine:
        if not is_mine:
            raise ValueError(f"another command trains {path.stem} in {path.parent}: wait for it, or name another --out")
        yield
