"""The two files of a notebook: whichever is the newer, Jupyter opens them, saves them, and loses no edit."""

import os
import time
from pathlib import Path

import nbformat
import pytest
from tornado.web import HTTPError

from fwdiff_lite.pipeline.contents import PairedNotebooks
from fwdiff_lite.pipeline.notebook import notebook_names
from fwdiff_lite.pipeline.pairs import (
    cell_id,
    cell_sources,
    edited_separately,
    normal_form,
    notebook_path,
    read_source,
    source_path,
    write_source,
)
from fwdiff_lite.pipeline.reproduce import main
from fwdiff_lite.storage.files import repo_root

SETTINGS = Path(__file__).parents[2] / "pyproject.toml"
ORDERS = ("source is newer", "notebook is newer", "one time")
NAME = "90_tiny"
PATH = f"notebooks/{NAME}.ipynb"


@pytest.fixture
def copies(tmp_path, monkeypatch):
    """The committed pairs in a checkout of their own, as bytes by path."""
    names = [path for name in notebook_names() for path in (notebook_path(name), source_path(name))]
    files = {path.relative_to(repo_root()): path.read_bytes() for path in names}
    files[Path("pyproject.toml")] = SETTINGS.read_bytes()
    for path, content in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    monkeypatch.setenv("FWDIFF_ROOT", str(tmp_path))
    return files


@pytest.fixture
def tiny(checkout):
    """A small checkout with one notebook, never run, and its jupytext settings."""
    folder = checkout(**{NAME: "1 + 1"})
    (folder / "pyproject.toml").write_bytes(SETTINGS.read_bytes())
    notebook = read_source(NAME)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [nbformat.v4.new_output("stream", text="what a run said")]
    nbformat.write(notebook, notebook_path(NAME))
    return folder


def set_times(name: str, order: str) -> None:
    """Gives the two files of a pair times of one minute apart, or the same time."""
    now = time.time()
    ages = {"source is newer": (60, 0), "notebook is newer": (0, 60), "one time": (0, 0)}[order]
    for path, age in zip((notebook_path(name), source_path(name)), ages, strict=True):
        os.utime(path, (now - age, now - age))


def manager() -> PairedNotebooks:
    return PairedNotebooks(root_dir=str(repo_root()))


def opened(path: str = PATH) -> dict:
    """What Jupyter opens: the model's content."""
    return manager().get(path, type="notebook")["content"]


def saved(content: dict, path: str = PATH) -> None:
    """Saves as JupyterLab does it, with what it leaves in the metadata on some version of Python."""
    content["metadata"]["kernelspec"] = {"display_name": "Python 3 (ipykernel)", "name": "python3"}
    content["metadata"]["language_info"] = {"name": "python", "version": "3.99.0", "pygments_lexer": "ipython3"}
    content["metadata"]["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": {}}}
    for cell in content["cells"]:
        cell["metadata"] |= {"collapsed": True, "trusted": True, "execution": {"iopub.status.busy": "now"}}
    manager().save({"type": "notebook", "format": "json", "content": content}, path)


@pytest.mark.parametrize("order", ORDERS)
def test_saving_what_was_opened_changes_no_byte(copies, order):
    for name in notebook_names():
        set_times(name, order)
        path = f"notebooks/{name}.ipynb"
        saved(opened(path), path)
    assert {path: (repo_root() / path).read_bytes() for path in copies} == copies


@pytest.mark.parametrize("order", ORDERS)
def test_an_edit_of_the_source_is_what_opens_next(tiny, order):
    source_path(NAME).write_text(source_path(NAME).read_text().replace("1 + 1", "1 + 2"))
    set_times(NAME, order)
    cells = opened()["cells"]
    assert "1 + 2" in cells[-1]["source"] and cells[1]["outputs"], "with the outputs of the last run"


@pytest.mark.parametrize("order", ORDERS)
def test_an_edit_in_jupyter_is_what_opens_next(tiny, order):
    content = opened()
    content["cells"][-1]["source"] += "\n# new"
    content["cells"].insert(1, nbformat.v4.new_markdown_cell("A new cell."))
    saved(content)
    set_times(NAME, order)
    assert cell_sources(nbformat.from_dict(opened())) == cell_sources(read_source(NAME))
    assert "A new cell." in source_path(NAME).read_text() and not edited_separately(NAME)
    notebook = nbformat.read(notebook_path(NAME), as_version=4)
    assert [cell.id for cell in notebook.cells] == [cell.id for cell in read_source(NAME).cells]


def edit_elsewhere(change: str) -> None:
    """Changes the notebook as a program does that knows nothing of its source."""
    notebook = nbformat.read(notebook_path(NAME), as_version=4)
    if change == "edit":
        notebook.cells[-1].source += "\n# of a reader"
    elif change == "insert":
        notebook.cells.insert(2, nbformat.v4.new_code_cell("# of a reader"))
    elif change == "move":
        notebook.cells.append(notebook.cells.pop(2))
    elif change == "without ids":
        notebook.cells[-1].source += "\n# of a reader"
        notebook.nbformat_minor = 4
        for cell in notebook.cells:
            del cell["id"]
    nbformat.write(notebook, notebook_path(NAME))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("change", ["edit", "insert", "move", "without ids"])
def test_an_edit_made_elsewhere_is_refused_not_lost(tiny, capsys, change, order):
    edit_elsewhere(change)
    set_times(NAME, order)
    before = notebook_path(NAME).read_bytes()
    for path in (PATH, f"notebooks/py/{NAME}.py"):
        with pytest.raises(HTTPError) as refusal:
            opened(path)
        assert refusal.value.status_code == 409
        assert f"edited separately from its source notebooks/py/{NAME}.py" in str(refusal.value)
    assert manager().get(PATH, type="file")["content"], "as text it opens"
    assert main(["--only", "90"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: the cells of {PATH} were edited separately from its source")
    assert error.count("\n") == 1
    assert "--only 90 --keep notebook` takes them" in error and "--keep source` drops them" in error
    assert notebook_path(NAME).read_bytes() == before


def test_keeping_the_notebook(tiny):
    edit_elsewhere("edit")
    write_source(NAME)
    assert source_path(NAME).read_text().endswith("# of a reader\n") and not edited_separately(NAME)
    assert cell_sources(read_source(NAME)) == cell_sources(nbformat.read(notebook_path(NAME), as_version=4))
    assert 'tags=["parameters"]' in source_path(NAME).read_text()


@pytest.mark.parametrize("keep", ["source", "notebook"])
def test_reproduce_goes_on_with_what_it_is_told_to_keep(tiny, keep):
    edit_elsewhere("edit")
    assert main(["--only", "90", "--keep", keep]) == 0
    for path in (notebook_path(NAME), source_path(NAME)):
        assert ("# of a reader" in path.read_text()) == (keep == "notebook")
    assert cell_sources(nbformat.read(notebook_path(NAME), as_version=4)) == cell_sources(read_source(NAME))


def test_other_profiles_overwrite_no_notebook_and_ask_nothing(tiny, tmp_path_factory, capsys):
    edit_elsewhere("edit")
    output = tmp_path_factory.mktemp("output")
    assert main(["--profile", "smoke", "--output", str(output), "--keep", "source"]) == 2
    assert "--keep is for the committed run" in capsys.readouterr().err
    assert main(["--profile", "smoke", "--output", str(output)]) == 0


def test_other_metadata_alone_is_no_edit(tiny):
    """Another program's kernel name, and ids of its own: the cells are those of the source."""
    notebook = nbformat.read(notebook_path(NAME), as_version=4)
    notebook.metadata.kernelspec.display_name = ".venv (Python 3.99)"
    for cell in notebook.cells:
        cell.id = f"other-{cell.id}"
    nbformat.write(notebook, notebook_path(NAME))
    set_times(NAME, "notebook is newer")
    assert not edited_separately(NAME) and opened()["cells"]


def test_a_notebook_that_git_left_in_conflict_can_be_made_anew(tiny):
    notebook_path(NAME).write_text("<<<<<<< HEAD\n{}\n")
    assert not edited_separately(NAME)


def test_notebooks_of_no_pair_are_left_alone(tiny):
    cell = nbformat.v4.new_markdown_cell("text", metadata={"a": 1})
    other = nbformat.v4.new_notebook(metadata={"mine": 1}, cells=[cell])
    nbformat.write(other, tiny / "other.ipynb")
    manager().save({"type": "notebook", "format": "json", "content": opened("other.ipynb")}, "other.ipynb")
    kept = nbformat.read(tiny / "other.ipynb", as_version=4)
    assert kept.metadata["mine"] == 1 and kept.cells[0].metadata["a"] == 1


def test_normal_form(tiny):
    notebook = read_source(NAME)
    assert normal_form(notebook) == notebook
    notebook.cells[0].metadata["collapsed"] = True
    notebook.metadata["widgets"] = {}
    assert normal_form(notebook) == read_source(NAME)
    assert [cell.id for cell in notebook.cells] == [cell_id(place, cell) for place, cell in enumerate(notebook.cells)]
