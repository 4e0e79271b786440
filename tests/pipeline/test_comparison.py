"""The tables that compare the paper with this repository: every number is recorded, every copy is up to date."""

import nbformat
import pytest

from fwdiff_lite.figures.comparison import CHOICES, FINDINGS, choices_markdown, fields, fill, paper_markdown
from fwdiff_lite.pipeline.notebook import notebook_names
from fwdiff_lite.pipeline.readme import renew_tables
from fwdiff_lite.storage.files import read_json, repo_root, write_json


def test_every_number_is_recorded():
    names = {name[:2]: name for name in notebook_names()}
    metrics = read_json(repo_root() / "figures" / "metrics.json")
    assert len(fields()) > 30
    assert [(number, key) for number, key in fields() if key not in metrics[names[number]]] == []


def test_verdicts_give_a_reason():
    verdicts = {finding.verdict for finding in FINDINGS}
    assert verdicts == {"agrees", "differs", "in part", "not comparable"}
    assert all(finding.reason for finding in FINDINGS if finding.verdict != "agrees")
    questions = " ".join(choice.question for choice in CHOICES).lower()
    assert all(word in questions for word in ("eta", "one-shot", "novel", "w+", "warping", "splatting"))


def test_tables_have_whole_lines():
    for text, columns in ((paper_markdown("notebooks/").split("\n\n")[1], 5), (choices_markdown(), 3)):
        assert all(line.count("|") == columns + 1 for line in text.splitlines())


def test_fields_and_links_are_filled_in(checkout):
    figures = checkout(**{"90_tiny": "1"}) / "figures"
    write_json(figures / "metrics.json", {"90_tiny": {"mean": 0.25, "mean_low": 0.1, "mean_high": 0.3}})
    assert fill("{90:mean:.2f} [90]", "notebooks/") == "0.25 (0.10 to 0.30) [90](notebooks/90_tiny.ipynb)"
    assert fill("{90:median:.2f}") == "*not measured yet*"


@pytest.mark.parametrize("make_table", [paper_markdown, choices_markdown])
def test_a_notebook_shows_the_present_numbers(make_table):
    output = nbformat.v4.new_output("display_data", {"text/markdown": make_table().replace("agrees", "was 0.1")})
    other = nbformat.v4.new_output("display_data", {"text/markdown": "| another | table |"})
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("x", outputs=[output, other])])
    renewed = nbformat.reads(renew_tables(nbformat.writes(notebook) + "\n"), as_version=4)
    assert [out["data"]["text/markdown"] for out in renewed.cells[0].outputs] == [make_table(), "| another | table |"]


@pytest.mark.parametrize("name", notebook_names())
def test_tables_in_committed_notebooks_are_up_to_date(name):
    path = repo_root() / "notebooks" / f"{name}.ipynb"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    assert renew_tables(text) == text, "make readme"
