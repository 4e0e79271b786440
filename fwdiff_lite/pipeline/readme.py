"""The generated parts of README.md: its animation, the table of notebooks, the times. No number is typed."""

import re

from fwdiff_lite.pipeline.claims import claim_text, read_claims
from fwdiff_lite.pipeline.notebook import cost_text, notebook_names
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


def render(text: str) -> str:
    """The README text, with new content between each <!-- generated: NAME --> and <!-- end -->."""
    parts = {"picture": picture, "notebooks": notebooks, "times": times}

    def part(match: re.Match) -> str:
        return f"{match[1]}\n{parts[match[2]]()}\n{match[4]}"

    return re.sub(r"(<!-- generated: (\w+) -->)\n(.*?)(<!-- end -->)", part, text, flags=re.DOTALL)


def picture() -> str:
    """The animation."""
    matches = sorted((repo_root() / "figures").glob(MOVING_PICTURE))
    return f'<img src="figures/{matches[0].name}" alt="samples as they form" width="640">' if matches else UNMEASURED


def notebooks() -> str:
    """One row a notebook: thumbnail, claim, minutes and memory."""
    rows = ["| | notebook | claim | cost |", "|---|---|---|---|"]
    figures = repo_root() / "figures"
    claims, metrics, seeds = read_claims(), read_json(figures / "metrics.json"), read_json(figures / "seeds.json")
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
