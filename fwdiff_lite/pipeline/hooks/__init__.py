"""Hooks: code that the runner adds to the end of a notebook's executed copy, and that no published notebook contains.

A notebook that must not import this package, such as 00_one_page, gets its figures, numbers and claim recorded so. The
module of the hook has the notebook's name without its number; its function `finish` takes the notebook's variables.
"""

from pathlib import Path

import nbformat
from nbformat import NotebookNode

TAG = "hook"  # of the added cell
FOLDER, PACKAGE = Path(__file__).parent, __name__  # of the hooks' modules


def with_hook(name: str, source: NotebookNode) -> NotebookNode:
    """A copy of the notebook NN_name with the cell of its hook at the end; without a hook, an equal copy."""
    notebook = nbformat.from_dict(source)
    module = name[3:]
    if (FOLDER / f"{module}.py").exists():
        call = f"import {PACKAGE}.{module} as hook\n\nhook.finish(globals())"
        notebook.cells.append(nbformat.v4.new_code_cell(call, metadata={"tags": [TAG]}))
    return notebook


def is_hook(cell: NotebookNode) -> bool:
    """Whether a cell was added by `with_hook`."""
    return TAG in cell.metadata.get("tags", [])
