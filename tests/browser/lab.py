"""JupyterLab in Chromium, as a reader sees it: a server on a free port, a browser, a notebook's page."""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import BrowserContext, Error, Page, sync_playwright

WIDTH, HEIGHT = 1100, 1600
ROOT = Path(__file__).parents[2]
PAGES = ROOT / "build" / "pages"
FAILURE = ROOT / "build" / "browser-failed.png"
# As root in a container there is no sandbox; the rest keeps the browser from calling home.
FLAGS = """--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
           --disable-component-update --disable-sync""".split()
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none"},  # all cells are there, not only those in sight
}


def chromium() -> str | None:
    """Where Debian's Chromium is, or another one of that name; None if there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


def lab_command() -> list[str]:
    """What `make lab` starts, with this Python."""
    recipe = re.search(r"^lab:.*\n\t@\$\(BIN\)/jupyter (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    return [sys.executable, "-m", "jupyter", *shlex.split(recipe[1])]


@contextmanager
def serve(folder: Path, scratch: Path) -> Iterator[str]:
    """The server that `make lab` starts in a folder, with settings of its own; yields its address."""
    for name, settings in SETTINGS.items():
        path = scratch / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = {name: str(scratch / name.lower()) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")}
    own |= {
        "JUPYTERLAB_SETTINGS_DIR": str(scratch / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(scratch / "spaces"),
        "FWDIFF_OUTPUT": str(scratch / "figures"),
    }
    if (folder / "notebooks" / "py").is_dir():
        own["FWDIFF_ROOT"] = str(folder)  # a checkout of its own
    command = [*lab_command(), "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"]
    command += ["--ServerApp.port_retries=0", "--IdentityProvider.token="]
    command += ["--LabApp.expose_app_in_browser=True"]  # for `kernel_is_ready`
    with open(scratch / "server.log", "w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | own, cwd=folder)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{address}/api", server, scratch / "server.log")
        yield address
    finally:
        server.terminate()  # it shuts its kernels down on the way out
        try:
            server.wait(timeout=30)
        except subprocess.TimeoutExpired:
            server.kill()


def wait_for(address: str, server: subprocess.Popen, log: Path, seconds: float = 90) -> None:
    """Returns when the server answers; RuntimeError if it has died or takes too long."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except OSError:
            time.sleep(0.3)
    raise RuntimeError(f"JupyterLab did not start: {log.read_text()[-500:]}")


@contextmanager
def launch() -> Iterator[BrowserContext]:
    """A headless Chromium. Its pages share what it has loaded, such as JupyterLab's scripts."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), headless=True, args=FLAGS)
        try:
            yield browser.new_context(viewport={"width": WIDTH, "height": HEIGHT})
        finally:
            browser.close()


@contextmanager
def browse(browser: BrowserContext, address: str, wait_for: str = ".jp-Notebook .jp-Cell") -> Iterator[Page]:
    """A page of the browser, once it shows what a selector selects."""
    page = browser.new_page()
    page.set_default_timeout(60_000)
    try:
        page.goto(address, wait_until="domcontentloaded")
        page.wait_for_selector(wait_for)
        yield page
    except (AssertionError, Error):
        page.screenshot(path=FAILURE)  # what was there instead
        raise
    finally:
        page.close()


def kernel_is_ready(page: Page) -> None:
    """Returns when the page's notebook has its kernel.

    A notebook that is told to run before then asks which kernel it should take, and forgets what it was told. The
    page's indicator says "idle" too early for that on a busy machine.
    """
    page.wait_for_function(
        """async () => {
            const context = window.jupyterapp?.shell.currentWidget?.sessionContext;
            await context?.ready;
            return context?.session?.kernel?.status === "idle";
        }""",
        timeout=180_000,
    )


def run_all(page: Page) -> None:
    """Tells the page's notebook to run all its cells, and does not wait for them."""
    kernel_is_ready(page)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()


def save(page: Page) -> None:
    """Saves the page's notebook, and returns when it is written."""
    page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")


def unfold(page: Page) -> int:
    """Makes the window as tall as the notebook, so that one screenshot shows it all; returns its height."""
    page.wait_for_timeout(3000)  # mathematics and pictures move what is below them
    height = page.evaluate(
        "Math.max(...[...document.querySelectorAll('.jp-WindowedPanel-outer')].map(e => e.scrollHeight))"
    )
    page.set_viewport_size({"width": WIDTH, "height": int(height) + 120})
    page.wait_for_timeout(1000)
    return int(height) + 120
