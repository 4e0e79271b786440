"""A reader's first minutes: open a notebook in JupyterLab, run it all, move the slider."""

import os
import time

import nbformat
import pytest

from fwdiff_lite.pipeline.notebook import notebook_names
from fwdiff_lite.pipeline.pairs import read_source

lab = pytest.importorskip("lab", reason="playwright is not installed")
QUICK = ("00_one_page", "05_flatland")  # the smoke profile of the others takes a minute or two
EVERY = "FWDIFF_EVERY_SLIDER"
COMPLAINT = '.jp-OutputArea [data-mime-type="application/vnd.jupyter.stderr"]'
PICTURE = ".jp-Notebook .jp-Cell:has(.noUi-handle) .jp-OutputArea img"


@pytest.mark.skipif(lab.chromium() is None, reason="no Chromium found: make browser-test installs it")
@pytest.mark.parametrize("name", notebook_names())
def test_slider_moves_the_picture(name, tmp_path):
    if name not in QUICK and EVERY not in os.environ:
        pytest.skip("takes long: make browser-test moves every slider")
    notebook = read_source(name)
    for cell in notebook.cells:
        cell.source = cell.source.replace('PROFILE = "cpu"', 'PROFILE = "smoke"')
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "scratch").mkdir()
    nbformat.write(notebook, tmp_path / "notebooks" / f"{name}.ipynb")

    with lab.serve(tmp_path, tmp_path / "scratch") as address, lab.launch() as browser:
        with lab.browse(browser, f"{address}/lab/tree/notebooks/{name}.ipynb") as page:
            lab.run_all(page)
            handle = page.locator(".noUi-handle").first
            handle.wait_for(timeout=300_000)
            before = stable_picture(page)
            handle.focus()
            for _ in range(3):
                page.keyboard.press("ArrowRight")
            page.wait_for_function(
                "([where, before]) => document.querySelector(where)?.getAttribute('src') != before",
                arg=[PICTURE, before],
            )
            assert stable_picture(page) != before
            assert page.locator(COMPLAINT).count() == 0
            lab.PAGES.mkdir(parents=True, exist_ok=True)
            page.locator(PICTURE).first.scroll_into_view_if_needed()
            page.screenshot(path=lab.PAGES / f"slider-{name}.png")


def stable_picture(page, seconds: float = 2) -> str:
    """The picture beside the slider, once it has stayed the same for a while."""
    last, since = None, time.monotonic()
    while last is None or time.monotonic() - since < seconds:
        picture = page.locator(PICTURE).first
        picture.wait_for()
        if (now := picture.get_attribute("src")) != last:
            last, since = now, time.monotonic()
        page.wait_for_timeout(100)
    return last
