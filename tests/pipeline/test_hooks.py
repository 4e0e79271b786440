"""A hook runs at the end of the executed copy, and leaves no trace in the notebook that is published."""

from types import SimpleNamespace

import nbformat

from fwdiff_lite.pipeline import hooks
from fwdiff_lite.pipeline.execution import NotebookRun, own_cells
from fwdiff_lite.pipeline.pairs import cell_sources, read_source
from fwdiff_lite.pipeline.reproduce import main
from fwdiff_lite.storage.files import read_json

HOOK = """
from fwdiff_lite.pipeline.notebook import Run


def finish(page):
    run = Run("90_tiny", page["PROFILE"])
    run.record(doubled=2 * page["x"].mean().item())
    page["figure"].axes[0].set_title("from the hook")
    run.savefig(page["figure"], "hook")
    run.finish()
    print("said by the hook")
"""


def test_a_hook_records_and_is_not_published(checkout, tmp_path_factory, monkeypatch, capsys):
    packages = tmp_path_factory.mktemp("packages")
    (packages / "tiny_hooks").mkdir()
    (packages / "tiny_hooks" / "tiny.py").write_text(HOOK)
    monkeypatch.setattr(hooks, "FOLDER", packages / "tiny_hooks")
    monkeypatch.setattr(hooks, "PACKAGE", "tiny_hooks")
    monkeypatch.setenv("PYTHONPATH", str(packages))
    folder = checkout(**{"90_tiny": "1 + 1"})
    assert main(["--only", "90"]) == 0, capsys.readouterr().err
    numbers = read_json(folder / "figures" / "metrics.json")["90_tiny"]
    assert set(numbers) == {"doubled"}, "the hook finished last"
    assert (folder / "figures" / "90_tiny_hook.png").exists()
    done = nbformat.read(folder / "notebooks" / "90_tiny.ipynb", as_version=4)
    assert cell_sources(done) == cell_sources(read_source("90_tiny"))
    assert "hook" not in nbformat.writes(done)
    assert [c.execution_count for c in done.cells if c.cell_type == "code"] == [1, 2, 3, 4, 5]
    assert len(read_json(folder / "figures" / "provenance.json")["90_tiny"]["cpu"]["cells"]) == 5


def test_a_hook_that_fails_is_named(tmp_path):
    output = hooks.with_hook("00_one_page", read_source("00_one_page"))
    error = nbformat.v4.new_output("error", ename="KeyError", evalue="'values'\nmore", traceback=[])
    output.cells[-1].outputs = [error]
    run = NotebookRun.__new__(NotebookRun)
    run.folder, run.stalled, run.process = tmp_path, False, SimpleNamespace(returncode=1)
    (tmp_path / "log.txt").write_text("")
    assert run.reason(output) == "hook: KeyError: 'values'"
    code = next(cell for cell in output.cells if cell.cell_type == "code")
    code.outputs = [error]
    assert run.reason(output) == f"cell {output.cells.index(code)}: KeyError: 'values'"


def test_only_a_notebook_with_a_hook_gets_the_cell():
    source = read_source("00_one_page")
    run = hooks.with_hook("00_one_page", source)
    assert len(run.cells) == len(source.cells) + 1 and hooks.is_hook(run.cells[-1])
    assert cell_sources(nbformat.from_dict({**run, "cells": own_cells(run)})) == cell_sources(source)
    assert cell_sources(hooks.with_hook("01_toy_proof", source)) == cell_sources(source)
