"""What the code cells of a notebook are for: counts by tag, and the parts of the method that a page builds.

Every code cell has one of the tags

    idea      the method: forward model, denoiser, loss, training, sampling, measures
    drawing   figures and animations
    setup     imports, parameters, loading of recorded results, records and printed tables

An `idea` cell with the tag `agreement` asserts that what the page built equals the library's version.

    python -m fwdiff_lite.pipeline.cells        counts of all notebooks
    python -m fwdiff_lite.pipeline.cells 03     of one
"""

import ast
import io
import sys
import tokenize
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from nbformat import NotebookNode

from fwdiff_lite.pipeline.notebook import notebook_names
from fwdiff_lite.pipeline.pairs import read_source

PURPOSES = ("idea", "drawing", "setup")
AGREEMENT = "agreement"
MAX_LINES = 40  # of one cell, all lines counted
DRAWING_MODULES = ("matplotlib", "fwdiff_lite.plotting", "fwdiff_lite.figures")
DRAWING_METHODS = {"savefig", "save_gif", "imshow", "scatter", "legend", "subplots", "set_title", "set_xlabel"}
IMPORTS = (ast.Import, ast.ImportFrom)
DEFINITIONS = (ast.FunctionDef, ast.ClassDef, ast.Name)  # they bind names, as imports do
NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


class Counts(NamedTuple):
    """Lines of code of one notebook, without blank lines and comments."""

    idea: int
    drawing: int
    setup: int
    largest: int  # the number of all lines of the longest cell

    @property
    def idea_share(self) -> float:
        """Lines about the idea over all lines of code."""
        return self.idea / max(1, self.idea + self.drawing + self.setup)


def code_cells(name: str) -> list[NotebookNode]:
    """The code cells of a notebook's source, but for the cell that fetches the repository on Colab."""
    cells = [cell for cell in read_source(name).cells if cell.cell_type == "code"]
    return [cell for cell in cells if "google.colab" not in cell.source]


def tags_of(cell: NotebookNode) -> set[str]:
    """The tags of a cell; `parameters` implies `setup`."""
    tags = set(cell.metadata.get("tags", ()))
    return tags | {"setup"} if "parameters" in tags else tags


def count_code_lines(source: str) -> int:
    """Lines that hold code: no blank lines, no comments."""
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines)


def count_cells(cells: Sequence[NotebookNode]) -> Counts:
    """Lines of code by purpose, and the length of the longest cell."""
    lines = dict.fromkeys(PURPOSES, 0)
    for cell in cells:
        for purpose in tags_of(cell) & lines.keys():
            lines[purpose] += count_code_lines(cell.source)
    return Counts(**lines, largest=max((len(cell.source.splitlines()) for cell in cells), default=0))


def find_faults(cells: Sequence[NotebookNode]) -> Iterator[str]:
    """One sentence for each cell that breaks a rule."""
    plotting_names = {name for cell in cells for name in drawing_imports(cell.source)}
    imported_names = {name for cell in cells for name in defined_names(cell.source, IMPORTS)}
    for cell in cells:
        first, purposes = cell.source.splitlines()[0], tags_of(cell) & set(PURPOSES)
        if len(purposes) != 1:
            yield f"the cell {first!r} has the tags {sorted(purposes)}: give it one of {', '.join(PURPOSES)}"
        if (length := len(cell.source.splitlines())) > MAX_LINES:
            yield f"the cell {first!r} has {length} lines: split it, {MAX_LINES} is the most"
        if "idea" in purposes and (drawing_names := drawing_uses(cell.source, plotting_names)):
            yield f"the cell {first!r} is an idea and draws ({', '.join(sorted(drawing_names))}): split it"
        if AGREEMENT in tags_of(cell) and "idea" not in purposes:
            yield f"the cell {first!r} asserts an agreement: tag it idea, too"
        if hidden := defined_names(cell.source, DEFINITIONS) & imported_names:
            yield f"the cell {first!r} hides what was imported as {', '.join(sorted(hidden))}: choose another name"


def drawing_imports(source: str) -> set[str]:
    """The names that a cell imports from modules that draw."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {a.asname or a.name.split(".")[0] for a in node.names if a.name.startswith(DRAWING_MODULES)}
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if f"{node.module}.{alias.name}".startswith(DRAWING_MODULES):
                    names.add(alias.asname or alias.name)
    return names


def drawing_uses(source: str, plotting_names: set[str]) -> set[str]:
    """The names and methods of a cell that draw; imports alone do not."""
    tree = ast.parse(source)
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    methods = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return (names & plotting_names) | (methods & DRAWING_METHODS)


def needed_cells(cells: Sequence[NotebookNode], index: int) -> list[NotebookNode]:
    """The cells that cell `index` needs, itself included: those before it that define a name it uses, and so on."""
    needed, names = [cells[index]], used_names(cells[index].source)
    for cell in reversed(cells[:index]):
        if defined_names(cell.source) & names:
            needed.append(cell)
            names |= used_names(cell.source)
    return needed[::-1]


def used_names(source: str) -> set[str]:
    """All names that a cell reads, also inside of its functions."""
    nodes = ast.walk(ast.parse(source))
    return {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}


def defined_names(source: str, statements: tuple[type, ...] = (*IMPORTS, *DEFINITIONS)) -> set[str]:
    """The names that these statements bind at a cell's top level, or in a loop or a condition there."""
    names = set()
    stack = list(ast.parse(source).body)
    while stack:
        node = stack.pop()
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            bound = {node.name}
        elif isinstance(node, IMPORTS):
            bound = {alias.asname or alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            bound = {node.id}
        else:
            bound = set()
            stack += ast.iter_child_nodes(node)
        if isinstance(node, statements):
            names |= bound
    return names


def sign_flips(source: str) -> Iterator[tuple[str, str]]:
    """Pairs (description, changed source): one sign inside a function or a class is flipped in each.

    A binary + becomes -, a binary - becomes +, and a unary minus goes; signs of plain numbers, such as the axis -1,
    stay.
    """
    for number in range(len(list(signs(ast.parse(source))))):
        tree = ast.parse(source)
        node = list(signs(tree))[number]
        description = f"line {node.lineno}: {ast.unparse(node)}"
        if isinstance(node, ast.UnaryOp):
            node.op = ast.UAdd()
        else:
            node.op = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
        yield description, ast.unparse(tree)


def signs(tree: ast.AST) -> Iterator[ast.BinOp | ast.UnaryOp]:
    """The signs inside the functions and classes of a tree."""
    for definition in tree.body:
        if not isinstance(definition, ast.FunctionDef | ast.ClassDef):
            continue
        for node in ast.walk(definition):
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
                yield node
            elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
                if not isinstance(node.operand, ast.Constant):
                    yield node


def main(arguments: Sequence[str]) -> None:
    """Prints the counts, and the cells that break a rule."""
    print(f"{'notebook':26}{'idea':>6}{'drawing':>9}{'setup':>7}{'share of ideas':>16}{'largest cell':>14}")
    for name in notebook_names():
        if arguments and name[:2] not in arguments:
            continue
        cells = code_cells(name)
        counts = count_cells(cells)
        print(f"{name:26}{counts.idea:6}{counts.drawing:9}{counts.setup:7}{counts.idea_share:16.2f}{counts.largest:14}")
        for fault in find_faults(cells):
            print(f"  {fault}")


if __name__ == "__main__":
    main(sys.argv[1:])
