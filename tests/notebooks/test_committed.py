"""The committed notebooks: made from their current source, executed in one go, clean, small."""

import ast
import re

import nbformat
import pytest

from fwdiff_lite.pipeline.notebook import bootstrap_text, notebook_names
from fwdiff_lite.pipeline.reproduce import read_source
from fwdiff_lite.storage.files import repo_root

NAMES = (
    "00_one_page",
    "01_toy_proof",
    "02_keyhole_digits",
    "03_motion_warping",
    "04_gan_inversion",
    "05_flatland",
    "06_inverse_graphics",
    "07_ablations",
)
TAGS = {"parameters", "nbval-ignore-output"}
MEGABYTES = 2


@pytest.fixture(params=notebook_names())
def name(request):
    return request.param


@pytest.fixture
def source(name):
    return read_source(name)


@pytest.fixture
def committed(name):
    path = repo_root() / "notebooks" / f"{name}.ipynb"
    assert path.exists(), f"{name} was never run: make reproduce"
    return nbformat.read(path, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_every_notebook_has_its_source():
    assert {path.stem for path in (repo_root() / "notebooks").glob("*.ipynb")} <= set(notebook_names())
    assert set(notebook_names()) <= set(NAMES)


def test_pair(source, committed):
    """jupytext's own checks look at file times or ignore markdown; this compares what a reader sees."""
    assert [(cell.cell_type, cell.source) for cell in committed.cells] == [
        (cell.cell_type, cell.source) for cell in source.cells
    ], "the notebook is not of its current source: make reproduce"
    assert [cell.id for cell in committed.cells] == [cell.id for cell in source.cells]


def test_executed_in_one_go(committed):
    assert [cell.execution_count for cell in code(committed)] == list(range(1, len(code(committed)) + 1))


def test_no_complaints(committed):
    for cell in code(committed):
        for output in cell.outputs:
            assert output.output_type != "error", cell.source
            assert output.get("name") != "stderr", f"{output.get('text')} from {cell.source}"
            assert "Warning:" not in str(output.get("text", "")), output.get("text")


def test_no_trace_of_the_run(committed):
    assert set(committed.metadata) == {"kernelspec", "language_info"}
    for cell in committed.cells:
        assert set(cell.metadata) <= {"tags"}
        for output in cell.get("outputs", []):
            assert not output.get("metadata")
            assert "application/vnd.jupyter.widget-view+json" not in output.get("data", {})
            texts = [value for kind, value in output.get("data", {}).items() if kind.startswith("text/")]
            shown = "".join([output.get("text", ""), *texts])
            assert not re.search(r"running-\w+/|/home/|/tmp/", shown), shown


def test_size(name, committed):
    size = (repo_root() / "notebooks" / f"{name}.ipynb").stat().st_size / 1e6
    assert size <= MEGABYTES, f"{name}.ipynb has {size:.1f} MB: fewer or plainer pictures"


def test_source_can_be_compared(source):
    """A rerun of a cell that ends in ';' or clears its output cannot be compared, nor can a widget's."""
    for cell in code(source):
        tags = set(cell.metadata.get("tags", []))
        assert tags <= TAGS, f"unknown tags {tags - TAGS}"
        assert not cell.source.rstrip().endswith(";"), cell.source
        assert "clear_output" not in cell.source
        if cell.source == bootstrap_text():
            continue
        alive = re.search(r"\b(interact|interactive|widgets|tqdm)\b", cell.source)
        assert not alive or "nbval-ignore-output" in tags, f"tag it nbval-ignore-output: {cell.source}"


def test_parameters(source):
    cells = [cell for cell in source.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(cells) == 1 and 'PROFILE = "cpu"' in cells[0].source.splitlines()


def test_one_interactive_cell(source):
    assert any("ipywidgets" in cell.source for cell in code(source)), "at least one thing worth moving"


def test_opening_and_end(name, source):
    if name.startswith("00"):
        pytest.skip("the one page imports nothing of this package")
    cells = [cell.source for cell in code(source)]
    assert cells[0] == bootstrap_text(), (
        "its first code cell is not that of fwdiff_lite.pipeline.notebook.bootstrap_text()"
    )
    assert f'Run("{name}", PROFILE)' in "\n".join(cells)
    assert "run.opening()" in "\n".join(cells) and "run.finish()" in "\n".join(cells)
    assert source.cells[0].cell_type == "markdown" and source.cells[0].source.startswith("# ")


@pytest.mark.skipif("00_one_page" not in notebook_names(), reason="no 00_one_page yet")
def test_one_page_is_one_page():
    """A reader needs torch and matplotlib alone; the cell that keeps figures for this repository is apart."""
    cells = [
        cell for cell in code(read_source("00_one_page")) if 'find_spec("fwdiff_lite")' not in cell.source
    ]
    modules = [
        (place, module.split(".")[0])
        for place, cell in enumerate(cells)
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for module in (
            [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
        )
    ]
    assert {module for _, module in modules} == {"torch", "matplotlib", "ipywidgets"}
    assert {place for place, module in modules if module == "ipywidgets"} == {len(cells) - 1}
    lines = [line for cell in cells for line in cell.source.splitlines()]
    counted = [line for line in lines if line.strip() and not line.strip().startswith("#")]
    assert len(counted) <= 120, f"{len(counted)} lines of code"
