"""A reader's first minutes: open the one page in JupyterLab, run it all, move the slider."""

import time

import nbformat
import pytest

from fwdiff_lite.pipeline.notebook import notebook_names
from fwdiff_lite.pipeline.reproduce import read_source
from fwdiff_lite.storage.files import repo_root

lab = pytest.importorskip("lab", reason="playwright is not installed")
NAME = "00_one_page"
COMPLAINT = '.jp-OutputArea [data-mime-type="application/vnd.jupyter.stderr"]'
PICTURE = ".jp-Notebook .jp-Cell:has(.noUi-handle) .jp-OutputArea img"


@pytest.mark.skipif(lab.chromium() is None, reason="no Chromium found: make browser-test installs it")
@pytest.mark.skipif(NAME not in notebook_names(), reason=f"no {NAME} yet")
def test_slider_moves_the_picture(tmp_path):
    notebook = read_source(NAME)
    for cell in notebook.cells:
        cell.source = cell.source.replace('PROFILE = "cpu"', 'PROFILE = "smoke"')
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "scratch").mkdir()
    nbformat.write(notebook, tmp_path / "notebooks" / f"{NAME}.ipynb")

    with lab.serve(tmp_path, tmp_path / "scratch") as address:
        with lab.browse(f"{address}/lab/tree/notebooks/{NAME}.ipynb") as page:
            lab.kernel_is_ready(page)
            page.get_by_role("menuitem", name="Run", exact=True).click()
            page.get_by_text("Run All Cells", exact=True).click()
            handle = page.locator(".noUi-handle").first
            handle.wait_for(timeout=300_000)
            before = settled(page)
            handle.focus()
            for _ in range(3):
                page.keyboard.press("ArrowRight")
            page.wait_for_function(
                "([where, before]) => document.querySelector(where)?.getAttribute('src') != before",
                arg=[PICTURE, before],
            )
            assert settled(page) != before
            assert page.locator(COMPLAINT).count() == 0
            (repo_root() / "build").mkdir(exist_ok=True)
            page.locator(PICTURE).first.scroll_into_view_if_needed()
            page.screenshot(path=repo_root() / "build" / "browser.png")


def settled(page, seconds: float = 2) -> str:
    """The picture beside the slider, once it has stayed the same for a while."""
    last, since = None, time.monotonic()
    while last is None or time.monotonic() - since < seconds:
        picture = page.locator(PICTURE).first
        picture.wait_for()
        if (now := picture.get_attribute("src")) != last:
            last, since = now, time.monotonic()
        page.wait_for_timeout(100)
    return last
