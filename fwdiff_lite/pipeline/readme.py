"""The generated parts of README.md: badges, animation, table of notebooks, comparison with the paper, times.

No number is typed.

The tables of `fwdiff_lite.figures.comparison` also stand in notebooks, which show them as they were when they ran.
`update_readme` renews them there, so that README and notebooks say the same.
"""

import re

import nbformat

from fwdiff_lite.figures.comparison import choices_markdown, paper_markdown
from fwdiff_lite.pipeline.claims import claim_text, read_claims
from fwdiff_lite.pipeline.notebook import cost_text, notebook_names, pyproject
from fwdiff_lite.storage.files import read_json, repo_root, write_json, write_text

MOVING_PICTURE = "00_one_page_*.gif"
UNMEASURED = "*not measured yet: run `make reproduce`*"
UNCLAIMED = "*no claim yet: call `run.claim` in its last cell*"


def update_readme() -> None:
    """Renews README.md from figures/, with the minutes of the last `make test`, and tests/durations.json likewise."""
    figures, build = repo_root() / "figures", repo_root() / "build"
    if tested := read_json(build / "test.json"):
        write_json(figures / "provenance.json", read_json(figures / "provenance.json") | tested)
    if durations := read_json(build / "durations.json"):
        write_json(repo_root() / "tests" / "durations.json", durations)
    path = repo_root() / "README.md"
    if path.exists():
        write_text(path, render(path.read_text(encoding="utf-8")))
    for path in sorted((repo_root() / "notebooks").glob("*.ipynb")):
        text = path.read_text(encoding="utf-8")
        if (renewed := renew_tables(text)) != text:
            write_text(path, renewed)


def renew_tables(text: str) -> str:
    """The text of a notebook whose outputs show the tables of the comparison with their present numbers."""
    tables = {table.partition("\n")[0]: table for table in (paper_markdown(), choices_markdown())}
    if not any(title in text for title in tables):
        return text
    notebook = nbformat.reads(text, as_version=4)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            shown = output.get("data", {}).get("text/markdown", "")
            if table := tables.get(shown.partition("\n")[0]):
                output["data"]["text/markdown"] = table
    return f"{nbformat.writes(notebook)}\n"


def render(text: str) -> str:
    """The README text, with new content between each <!-- generated: NAME --> and <!-- end -->."""
    parts = {"badges": badges, "picture": picture, "notebooks": notebooks, "times": times}
    parts["paper"] = lambda: paper_markdown("notebooks/")

    def part(match: re.Match) -> str:
        return f"{match[1]}\n{parts[match[2]]()}\n{match[4]}"

    return re.sub(r"(<!-- generated: (\w+) -->)\n(.*?)(<!-- end -->)", part, text, flags=re.DOTALL)


def badges() -> str:
    """Badges that link to the tests, to Binder, to Colab and to the licence."""
    url = pyproject()["urls"]["Repository"]
    repository, first = url.removeprefix("https://github.com/"), "notebooks/00_one_page.ipynb"
    shield = "https://img.shields.io/badge/"
    links = [
        ("CI", f"{url}/actions/workflows/ci.yml/badge.svg", f"{url}/actions/workflows/ci.yml"),
        (
            "Binder",
            f"{shield}launch-Binder-579aca",
            f"https://mybinder.org/v2/gh/{repository}/HEAD?urlpath=lab/tree/{first}",
        ),
        (
            "Colab",
            f"{shield}open_in-Colab-f9ab00",
            f"https://colab.research.google.com/github/{repository}/blob/main/{first}",
        ),
        ("Licence: MIT", f"{shield}licence-MIT-4c1", "LICENSE"),
    ]
    return " ".join(f"[![{label}]({image})]({link})" for label, image, link in links)


def picture() -> str:
    """The animation."""
    matches = sorted((repo_root() / "figures").glob(MOVING_PICTURE))
    return f'<img src="figures/{matches[0].name}" alt="samples as they form" width="640">' if matches else UNMEASURED


def notebooks() -> str:
    """What the seeds of the rows are, and one row a notebook: thumbnail, claim, minutes and memory."""
    figures = repo_root() / "figures"
    claims, metrics, seeds = read_claims(), read_json(figures / "metrics.json"), read_json(figures / "seeds.json")
    rows = []
    runs = [entry["runs"] for entry in seeds.values()]
    if runs:
        count, cpus = min(map(len, runs)), sorted({run["cpu"] for entry in runs for run in entry})
        rows += [
            f"The rows of {', '.join(name[:2] for name in sorted(seeds))} come from {count} trainings with different "
            f"seeds, on {' and '.join(cpus)} ([figures/seeds.json](figures/seeds.json)). A range without brackets, as "
            "in 0.7 to 0.8, is that of these trainings; its ends are rounded to the first digit of their standard "
            "deviation. A value after \u201cat most\u201d or \u201cat least\u201d is the worst of them. A notebook "
            "shows one training, so its value may be better.",
            "",
        ]
    rows += ["| | notebook | claim | cost |", "|---|---|---|---|"]
    for name in notebook_names():
        claim = claims.get(name)
        thumbnail = f'<img src="figures/{claim["thumbnail"]}" width="220">' if claim and claim["thumbnail"] else ""
        over_seeds = seeds.get(name, {}).get("numbers", {})
        text = claim_text(claim, metrics.get(name, {}), over_seeds) if claim else UNMEASURED
        link = f"[{name}](notebooks/{name}.ipynb)"
        rows.append(f"| {thumbnail} | {link} | {text or UNCLAIMED} | {cost_text(name, 'cpu') or UNMEASURED} |")
    return "\n".join(rows)


def times() -> str:
    """The minutes of the two make commands in their last measured runs."""
    provenance = read_json(repo_root() / "figures" / "provenance.json")
    lines = []
    for command in ("make reproduce", "make test"):
        if total := provenance.get(command):
            minutes, install = total["minutes"] + total["install_minutes"], total["install_minutes"]
            lines.append(
                f"- `{command}` took {minutes:.1f} minutes on {total['cores']} CPU cores, "
                f"{install:.1f} of them to install the environment."
            )
        else:
            lines.append(f"- `{command}`: not measured yet.")
    return "\n".join(lines)
