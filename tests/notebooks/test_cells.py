"""At least half of a notebook's code is about the method, no cell is long, and the counting itself is right."""

import nbformat
import pytest

from fwdiff_lite.pipeline.cells import (
    code_cells,
    count_cells,
    count_code_lines,
    defined_names,
    find_faults,
    needed_cells,
    sign_flips,
)
from fwdiff_lite.pipeline.notebook import notebook_names

BUILDS_THE_METHOD = [name for name in notebook_names() if name[:2] in ("01", "02", "03", "04", "05", "06", "08")]


def cell(source, *tags):
    return nbformat.v4.new_code_cell(source, metadata={"tags": list(tags)})


@pytest.mark.parametrize("name", notebook_names())
def test_every_cell_has_one_purpose_and_is_short(name):
    assert list(find_faults(code_cells(name))) == []


@pytest.mark.parametrize("name", BUILDS_THE_METHOD)
def test_half_of_the_code_is_about_the_idea(name):
    assert count_cells(code_cells(name)).idea_share >= 0.5


def test_lines_of_code_are_no_blank_lines_and_no_comments():
    source = '# comment\n\nx = (1,\n     2)  # a pair\n\n\ndef f():\n    # nothing\n    return """a\nb"""\n'
    assert count_code_lines(source) == 5


def test_counts():
    cells = [cell("PROFILE = 'cpu'", "parameters"), cell("x = 1\ny = 2\n# z", "idea"), cell("a()", "drawing")]
    assert count_cells(cells) == (2, 1, 1, 3)
    assert count_cells(cells).idea_share == 0.5


@pytest.mark.parametrize(
    "source, tags, fault",
    [
        ("x = 1", (), "has the tags [], * give it one of"),
        ("x = 1", ("idea", "setup"), "has the tags ['idea', 'setup']"),
        ("x = 1\n" * 41, ("idea",), "has 41 lines"),
        ("plt.show()", ("idea",), "draws (plt)"),
        ("toy.draw_ring()", ("idea",), "draws (toy)"),
        ("run.savefig(3, 'a')", ("idea",), "draws (savefig)"),
        ("assert x", ("setup", "agreement"), "tag it idea, too"),
        ("if x:\n    toy = {}", ("setup",), "hides what was imported as toy: choose another name"),
        ("def toy():\n    plt = 1", ("setup",), "hides what was imported as toy: choose another name"),
    ],
)
def test_faults(source, tags, fault):
    imports = cell("import matplotlib.pyplot as plt\nfrom fwdiff_lite.figures import toy", "setup")
    (message,) = find_faults([imports, cell(source, *tags)])
    assert all(part in message for part in fault.split(", * "))


def test_a_cell_needs_those_that_define_its_names():
    sources = ["import torch", "a = 2", "def f(x):\n    return a * x", "b = 3", "for i in range(2):\n    c = f(i)", "c"]
    cells = [cell(source) for source in sources]
    assert [c.source for c in needed_cells(cells, 5)] == [sources[i] for i in (1, 2, 4, 5)]
    assert defined_names(sources[4]) == {"i", "c"}


def test_every_sign_of_a_function_is_flipped_once():
    source = "y = a - b\n\n\ndef f(x):\n    z = x[..., -1] - 2\n    return -(z + x)"
    flipped = dict(sign_flips(source))
    assert len(flipped) == 3 and all("y = a - b" in text and "-1" in text for text in flipped.values())
    values = {f.__call__(5.0) for f in map(function_of, flipped.values())}
    assert len(values) == 3 and function_of(source)(5.0) not in values


def function_of(source):
    """f(x) of the source, where x[..., -1] is x itself."""
    names = {"a": 1, "b": 2}
    exec(source.replace("[..., -1]", ""), names)
    return names["f"]
