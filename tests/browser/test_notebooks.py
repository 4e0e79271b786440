"""Every notebook in JupyterLab at the root of a checkout, as `make lab`, Binder and its own badge open it."""

import io
import os
import shutil
import subprocess
import time
from base64 import b64decode

import nbformat
import pytest
from PIL import Image

from fwdiff_lite.pipeline.notebook import notebook_names
from fwdiff_lite.pipeline.pairs import cell_sources, read_source
from fwdiff_lite.storage.files import repo_root

lab = pytest.importorskip("lab", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(lab.chromium() is None, reason="no Chromium found: make browser-test installs it")
DIALOG = ".jp-Dialog"
PICTURES = ".jp-Notebook .jp-RenderedImage img"
LINE = "# a line of a reader's own"


def git(folder, *words: str) -> str:
    """What git says in a folder."""
    author = ("-c", "user.name=reader", "-c", "user.email=reader@localhost")
    return subprocess.run(["git", *author, *words], cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of this checkout as it is now, all of it committed."""
    try:
        names = git(repo_root(), "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    folder = tmp_path_factory.mktemp("checkout")
    for name in names:
        if (repo_root() / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(repo_root() / name, folder / name)
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "as it is now")
    return folder


@pytest.fixture(scope="module")
def address(checkout, tmp_path_factory):
    with lab.serve(checkout, tmp_path_factory.mktemp("scratch")) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with lab.launch() as browser:
        yield browser


def paths(checkout, name):
    """The notebook and its source."""
    return checkout / "notebooks" / f"{name}.ipynb", checkout / "notebooks" / "py" / f"{name}.py"


def make_newer(newer, older) -> None:
    """Sets the times of two files, a minute apart."""
    now = time.time()
    os.utime(newer, (now, now))
    os.utime(older, (now - 60, now - 60))


def pictures(notebook) -> list[dict]:
    """The data of every output of a notebook that holds a picture."""
    data = [output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", [])]
    return [bundle for bundle in data if any(mime.startswith("image/") for mime in bundle)]


def is_moving(data: dict) -> bool:
    """Whether an output's picture has several frames."""
    mime = "image/png" if "image/png" in data else "image/gif"
    return Image.open(io.BytesIO(b64decode(data[mime]))).n_frames > 1


def wait_until_it_moves(page, place: int) -> None:
    """Returns when the page's picture in that place looks other than it did."""
    picture = page.locator(PICTURES).nth(place)
    picture.scroll_into_view_if_needed()
    before = picture.screenshot()
    for _ in range(20):
        page.wait_for_timeout(300)
        if picture.screenshot() != before:
            return
    raise AssertionError(f"picture {place} stands still")


def wait_for_pictures(page, count: int) -> None:
    """Returns when the page shows so many pictures, all of them whole, and no dialog."""
    page.wait_for_function(
        """([where, dialog, count]) => {
            const images = [...document.querySelectorAll(where)];
            const whole = images.length === count && images.every(image => image.complete && image.naturalWidth > 0);
            return whole || document.querySelector(dialog);
        }""",
        arg=[PICTURES, DIALOG, count],
    )
    assert page.locator(DIALOG).count() == 0, page.locator(DIALOG).inner_text()
    assert page.locator(PICTURES).count() == count


def open_notebook(browser, address, name, **options):
    """Its page, in a workspace of its own: JupyterLab would open again what was open before."""
    return lab.browse(browser, f"{address}/lab/tree/notebooks/{name}.ipynb?reset", **options)


@pytest.mark.parametrize("name", notebook_names())
def test_opens_and_is_saved_unchanged(name, checkout, address, browser):
    notebook, source = paths(checkout, name)
    shown = pictures(nbformat.read(notebook, as_version=4))
    assert shown
    make_newer(notebook, source)  # as `make reproduce` leaves them
    with open_notebook(browser, address, name) as page:
        wait_for_pictures(page, len(shown))
        lab.PAGES.mkdir(parents=True, exist_ok=True)
        page.locator(PICTURES).first.scroll_into_view_if_needed()
        page.screenshot(path=lab.PAGES / f"lab-{name}.png")
        for place in filter(lambda place: is_moving(shown[place]), range(len(shown))):
            wait_until_it_moves(page, place)
        lab.kernel_is_ready(page)
        lab.save(page)
        assert page.locator(DIALOG).count() == 0
    assert source.stat().st_mtime >= notebook.stat().st_mtime, "both were written, the source last"
    assert git(checkout, "status", "--porcelain") == ""


def test_an_edit_reaches_the_source(checkout, address, browser, monkeypatch):
    monkeypatch.setenv("FWDIFF_ROOT", str(checkout))
    name = notebook_names()[-1]
    notebook, source = paths(checkout, name)
    try:
        with open_notebook(browser, address, name) as page:
            lab.kernel_is_ready(page)
            cell = page.locator(".jp-CodeCell .cm-content").first
            cell.click()
            page.keyboard.press("Control+Home")
            page.keyboard.type(f"{LINE}\n")
            page.keyboard.press("Control+s")
            page.wait_for_function("!window.jupyterapp.shell.currentWidget.context.model.dirty")
            pair = nbformat.read(notebook, as_version=4), read_source(name)
        assert cell_sources(pair[0]) == cell_sources(pair[1]) and LINE in source.read_text()
        assert [cell.id for cell in pair[0].cells] == [cell.id for cell in pair[1].cells]
        changed = git(checkout, "status", "--porcelain").split()
        assert changed == ["M", f"notebooks/{name}.ipynb", "M", f"notebooks/py/{name}.py"]
        assert git(checkout, "diff", "--numstat", source).split()[:2] == ["1", "0"], "nothing else was changed"
    finally:
        git(checkout, "checkout", "--quiet", ".")


def test_an_edit_made_elsewhere_is_not_lost(checkout, address, browser):
    """A program without jupytext edits the notebook; then the source, which lacks the edit, is the newer file."""
    name = notebook_names()[0]
    notebook, source = paths(checkout, name)
    try:
        edited = nbformat.read(notebook, as_version=4)
        edited.cells[0].source += f"\n\n{LINE}"
        nbformat.write(edited, notebook)
        make_newer(source, notebook)
        with open_notebook(browser, address, name, wait_for=DIALOG) as page:
            said = page.locator(DIALOG).inner_text()
            assert f"notebooks/{name}.ipynb" in said and "--keep notebook" in said and "--keep source" in said
        assert LINE in notebook.read_text() and LINE not in source.read_text()
    finally:
        git(checkout, "checkout", "--quiet", ".")
