"""The committed notebooks: made from their current source, executed in one go, clean, small."""

import ast
import io
import re
from base64 import b64decode

import jupytext
import nbformat
import pytest
from jupytext.config import load_jupytext_configuration_file
from nbconvert import HTMLExporter
from PIL import Image

from fwdiff_lite.pipeline.notebook import COLAB_METADATA, colab_setup_cell, notebook_names
from fwdiff_lite.pipeline.pairs import cell_sources, normal_form, read_source, source_path
from fwdiff_lite.storage.files import repo_root

TAGS = {"parameters", "nbval-ignore-output", "idea", "drawing", "setup", "agreement"}
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


def test_pair(source, committed):
    """jupytext's own checks look at file times or ignore markdown; this compares what a reader sees."""
    assert cell_sources(committed) == cell_sources(source), "the notebook is not of its current source: make reproduce"
    assert [cell.id for cell in committed.cells] == [cell.id for cell in source.cells]


def test_header_and_metadata(name, source, committed):
    """To jupytext the two files have the same header, and Jupyter would write the same metadata on any Python."""
    settings = repo_root() / "pyproject.toml"
    config = load_jupytext_configuration_file(str(settings), settings.read_text())
    source_text = source_path(name).read_text()
    header = {
        jupytext.writes(notebook, fmt="py:percent", config=config).split("# %%")[0]
        for notebook in (jupytext.reads(source_text, fmt="py:percent"), committed)
    }
    assert header == {source_text.split("# %%")[0]}
    assert committed.metadata == source.metadata and normal_form(committed) == committed


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
        assert set(cell.metadata) <= {"tags"} or cell.metadata == COLAB_METADATA
        for output in cell.get("outputs", []):
            assert not output.get("metadata")
            assert "application/vnd.jupyter.widget-view+json" not in output.get("data", {})
            texts = [value for mime, value in output.get("data", {}).items() if mime.startswith("text/")]
            shown = "".join([output.get("text", ""), *texts])
            assert not re.search(r"running-\w+/|/home/|/tmp/", shown), shown


def pictures(notebook, mime: str) -> list[dict]:
    """The data of every output that holds a picture of a kind."""
    data = [output.get("data", {}) for cell in code(notebook) for output in cell.outputs]
    return [item for item in data if mime in item]


def moving_pictures(notebook) -> list[dict]:
    """The data of every output with a PNG of several frames."""
    return [
        item
        for item in pictures(notebook, "image/png")
        if Image.open(io.BytesIO(b64decode(item["image/png"]))).n_frames > 1
    ]


def test_moving_pictures(committed):
    """What moves is a PNG: nbconvert and GitHub know no image/gif, and show the output's text in its place."""
    assert all("image/png" in item for item in pictures(committed, "image/gif"))
    cells = [cell for cell in code(committed) if cell.source.splitlines()[-1].startswith("run.save_gif(")]
    assert len(moving_pictures(committed)) == len(cells)
    assert all("frames of" in item["text/plain"] for item in moving_pictures(committed))


def test_every_picture_is_in_the_html(committed):
    html, _ = HTMLExporter().from_notebook_node(committed)
    assert "IPython.core.display.Image object" not in html
    every = len(pictures(committed, "image/png")) + len(pictures(committed, "image/gif"))
    assert len(re.findall(r'<img[^>]*src="data:image/(?:png|gif);base64,', html, re.DOTALL)) >= every > 0
    for item in moving_pictures(committed):
        assert "".join(item["image/png"].split())[:2000] in "".join(html.split()), "it moves there, too"


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
        if cell.source == colab_setup_cell():
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
    assert cells[0] == colab_setup_cell(), (
        "its first code cell is not that of fwdiff_lite.pipeline.notebook.colab_setup_cell()"
    )
    assert len(cells[0].splitlines()) <= 8 and code(source)[0].metadata == COLAB_METADATA
    assert f'Run("{name}", PROFILE)' in "\n".join(cells)
    assert "run.header()" in "\n".join(cells) and "run.finish()" in "\n".join(cells)
    assert source.cells[0].cell_type == "markdown" and source.cells[0].source.startswith("# ")


@pytest.mark.skipif("00_one_page" not in notebook_names(), reason="no 00_one_page yet")
def test_one_page_is_one_page():
    """A reader needs torch and matplotlib alone."""
    cells = code(read_source("00_one_page"))
    modules = [
        (place, module.split(".")[0])
        for place, cell in enumerate(cells)
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for module in ([node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    ]
    assert {module for _, module in modules} == {"torch", "matplotlib", "ipywidgets"}
    assert {place for place, module in modules if module == "ipywidgets"} == {len(cells) - 1}
    lines = [line for cell in cells for line in cell.source.splitlines()]
    counted = [line for line in lines if line.strip() and not line.strip().startswith("#")]
    assert len(counted) <= 135, f"{len(counted)} lines of code"
