"""The two files of a notebook: its source notebooks/py/NAME.py and the executed notebooks/NAME.ipynb.

File times decide nothing: a clone, a checkout or a build sets them in any order. Cell ids decide. The runner and
JupyterLab write ids that follow from the cells; an edit in another program leaves ids that do not. Where the two files
differ, the source is the newer one, unless the ids show that the notebook was edited separately.
"""

import hashlib
from pathlib import Path

import jupytext
import nbformat
from nbformat import NotebookNode
from nbformat.reader import NotJSONError

from fwdiff_lite.storage.files import repo_root, write_text

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
# Jupyter needs `trusted` to sign a notebook, and does not write it. With cellView "form" Google Colab hides the code.
CELL_METADATA = ("cellView", "tags", "trusted")
# as in pyproject.toml
FILTERS = {"notebook_metadata_filter": "-kernelspec,-all", "cell_metadata_filter": "tags,cellView,-all"}


def notebook_path(name: str) -> Path:
    """The path of the executed notebook."""
    return repo_root() / "notebooks" / f"{name}.ipynb"


def source_path(name: str) -> Path:
    """The path of the notebook's source."""
    return repo_root() / "notebooks" / "py" / f"{name}.py"


def pair_of(path: Path) -> str | None:
    """The name of the pair that a file belongs to; None if it belongs to none."""
    name = path.stem
    paired = path in (notebook_path(name), source_path(name)) and source_path(name).exists()
    return name if paired else None


def cell_id(index: int, cell: NotebookNode) -> str:
    """The id that follows from a cell's index, type and source."""
    return hashlib.sha256(f"{index} {cell.cell_type} {cell.source}".encode()).hexdigest()[:12]


def normal_form(notebook: dict) -> NotebookNode:
    """A copy without the metadata that depends on the program and the Python version that last saved the notebook."""
    notebook = nbformat.from_dict(notebook)
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    for index, cell in enumerate(notebook.cells):
        cell.id = cell_id(index, cell)
        cell.metadata = {key: cell.metadata[key] for key in CELL_METADATA if cell.metadata.get(key)}
    return notebook


def read_source(name: str) -> NotebookNode:
    """The notebook that notebooks/py/NAME.py stands for, without outputs, in the normal form."""
    return normal_form(jupytext.read(source_path(name), fmt="py:percent"))


def write_source(name: str) -> None:
    """Makes notebooks/py/NAME.py from the cells of notebooks/NAME.ipynb."""
    notebook = normal_form(nbformat.read(notebook_path(name), as_version=4))
    notebook.metadata = {"jupytext": FILTERS}
    write_text(source_path(name), jupytext.writes(notebook, fmt="py:percent"))


def edited_separately(name: str) -> bool:
    """Whether a program that does not know the source has changed the cells of notebooks/NAME.ipynb."""
    try:
        notebook = nbformat.read(notebook_path(name), as_version=4)
    except (FileNotFoundError, NotJSONError):
        return False  # not run yet, or a conflict that git left
    if cell_sources(notebook) == cell_sources(read_source(name)):
        return False
    return any(cell.get("id") != cell_id(index, cell) for index, cell in enumerate(notebook.cells))


def cell_sources(notebook: NotebookNode) -> list[tuple[str, str]]:
    """Type and source of every cell, which the two files of a pair share."""
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def edited_separately_text(name: str) -> str:
    """The error message for such a notebook, with its two remedies."""
    run = f"python -m fwdiff_lite.pipeline.reproduce --only {name[:2]} --keep"
    return (
        f"the cells of notebooks/{name}.ipynb were edited separately from its source notebooks/py/{name}.py: "
        f"`{run} notebook` takes them into the source, `{run} source` drops them; both then run the notebook"
    )
