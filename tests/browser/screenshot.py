"""Notebooks as pictures, page by page, as JupyterLab shows them: `python tests/browser/screenshot.py 01`.

Writes build/pages/NAME-1.png and so on, for a look over a whole notebook without clicking through it.
"""

import sys
import tempfile
from pathlib import Path

from lab import HEIGHT, WIDTH, browse, chromium, launch, serve, unfold


def pages(path: Path, output: Path) -> list[Path]:
    """Pictures of an executed notebook, from top to bottom."""
    output.mkdir(parents=True, exist_ok=True)
    for old in output.glob(f"{path.stem}-*.png"):
        old.unlink()
    made = []
    with tempfile.TemporaryDirectory() as scratch, serve(path.parent, Path(scratch)) as address:
        with launch() as browser, browse(browser, f"{address}/doc/tree/{path.name}") as page:
            height = unfold(page)
            for top in range(0, height, HEIGHT):
                clip = {"x": 0, "y": top, "width": WIDTH, "height": min(HEIGHT, height - top)}
                made.append(output / f"{path.stem}-{len(made) + 1}.png")
                page.screenshot(path=made[-1], clip=clip)
    return made


if __name__ == "__main__":
    if not chromium():
        sys.exit("error: no Chromium found: make browser-test installs it")
    if len(sys.argv) < 2:
        sys.exit("error: name notebooks by number, or by path: python tests/browser/screenshot.py 01")
    repo_root = Path(__file__).parents[2]
    for word in sys.argv[1:]:
        matches = [Path(word)] if word.endswith(".ipynb") else sorted((repo_root / "notebooks").glob(f"{word}*.ipynb"))
        if not matches or not matches[0].exists():
            sys.exit(f"error: no executed notebook {word!r} in {repo_root / 'notebooks'}")
        for path in matches:
            print(*pages(path.resolve(), repo_root / "build" / "pages"), sep="\n")
