"""What a notebook builds in its cells equals the library's version, and a flipped sign on the page is noticed."""

import contextlib
import io

import pytest
import torch

from fwdiff_lite.pipeline.cells import AGREEMENT, code_cells, needed_cells, sign_flips, tags_of
from fwdiff_lite.pipeline.notebook import notebook_names

CELLS = {name: code_cells(name) for name in notebook_names()}
AGREEMENTS = {name: [i for i, c in enumerate(cells) if AGREEMENT in tags_of(c)] for name, cells in CELLS.items()}
BUILDS_THE_METHOD = {"01", "02", "03", "04", "05", "06", "08"}


@pytest.fixture(autouse=True)
def output(monkeypatch, tmp_path):
    monkeypatch.setenv("FWDIFF_OUTPUT", str(tmp_path))


def run_cells(cells, name, changed=None):
    """Runs cells in one namespace; changed: (cell, source to run in its place)."""
    torch.manual_seed(0)
    namespace = {"__name__": "__main__", "PROFILE": "smoke", "SEED": 0}
    with contextlib.redirect_stdout(io.StringIO()):
        for cell in cells:
            source = changed[1] if changed and cell is changed[0] else cell.source
            exec(compile(source, name, "exec"), namespace)


def is_noticed(slices, name, cell, changed_source):
    """Whether one of the agreements that need a cell fails when the cell's source is changed."""
    for cells in slices:
        if any(cell is c for c in cells):
            try:
                run_cells(cells, name, (cell, changed_source))
            except Exception:  # any failure shows that the change was noticed
                return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CELLS if AGREEMENTS[name]])
def test_page_and_library_agree_and_no_sign_is_free(name):
    slices = [needed_cells(CELLS[name], i) for i in AGREEMENTS[name]]
    for cells in slices:
        run_cells(cells, name)
    ideas = [c for c in CELLS[name] if "idea" in tags_of(c) and any(c is d for cells in slices for d in cells)]
    free = [
        description
        for cell in ideas
        for description, changed in sign_flips(cell.source)
        if not is_noticed(slices, name, cell, changed)
    ]
    assert not free, f"nothing fails when these signs are flipped: {'; '.join(free)}"


def test_every_notebook_that_builds_the_method_asserts_an_agreement():
    missing = {name for name in CELLS if name[:2] in BUILDS_THE_METHOD and not AGREEMENTS[name]}
    assert not missing
