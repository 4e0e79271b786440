"""The services of a notebook's run: its profile, its output folder, its recorded numbers.

    run = Run("01_toy_proof", PROFILE)
    run.header()                                   # badges, minutes and memory of the last measured run
    steps = run.pick(smoke=20, cpu=4000, gpu=40000)
    run.savefig(fig, "ideal")                      # OUT/01_toy_proof_ideal.png
    run.record(joint_c2st=0.51)
    run.claim("Accuracy {joint_c2st:.2f}.", thumbnail="ideal.png")     # its row in the README
    run.must_show(joint_c2st=(None, 0.525))        # a bound that the tests hold
    run.finish()                                   # OUT/01_toy_proof.metrics.json and .claims.json

OUT is the environment's FWDIFF_OUTPUT, else build/figures: a reader's run never touches figures/. In a checkout that
cannot be written it is a temporary folder, which the run names.
"""

import io
import math
import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from IPython.display import Markdown
from jaxtyping import UInt8
from matplotlib.figure import Figure
from PIL import Image, ImageSequence, PngImagePlugin

from fwdiff_lite import plotting
from fwdiff_lite.checks import check_positive
from fwdiff_lite.pipeline.claims import Bound, check_bounds, check_claim
from fwdiff_lite.pipeline.folders import build_folder
from fwdiff_lite.storage.files import atomic_write, read_json, repo_root, write_json

PROFILES = ("smoke", "cpu", "gpu")
HEADER = "fwdiff_lite_opening"  # marks the output that the runner renews after it has measured the notebook
DPI = 110
PAUSE_MS = 1500  # at the end of an animation
COLAB_METADATA = {"cellView": "form", "tags": ["setup"]}  # of the cell that sets up Google Colab


class Run:
    """One run of one notebook in one profile.

    name:    the notebook's name without its ending, as in notebooks/py/01_toy_proof.py
    profile: smoke (seconds), cpu (minutes, what is committed) or gpu

    Raises ValueError on a name or a profile that does not exist.
    """

    def __init__(self, name: str, profile: str):
        self.name = check_notebook(name)
        self.profile = check_profile(profile)
        self.numbers: dict[str, Any] = {}
        self.claims: dict[str, Any] = {"text": "", "thumbnail": "", "bounds": {}, "shortfalls": {}}
        plotting.set_style()

    @property
    def folder(self) -> Path:
        """The output folder of this run; it is created at the first use."""
        folder = Path(os.environ.get("FWDIFF_OUTPUT") or build_folder() / "figures")
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def pick(self, *, smoke: Any, cpu: Any, gpu: Any) -> Any:
        """The value for this profile."""
        return {"smoke": smoke, "cpu": cpu, "gpu": gpu}[self.profile]

    def header(self) -> Markdown:
        """Badges, minutes and memory, from the last measured run in figures/provenance.json."""
        return Markdown(header_text(self.name), metadata={HEADER: self.name})

    def savefig(self, fig: Figure, name: str) -> None:
        """Writes OUT/NOTEBOOK_name.png, with the names of notebook and profile in its metadata."""
        metadata = {
            "Title": f"{self.name}: {name}",
            "Source": f"notebooks/{self.name}.ipynb, profile {self.profile}",
        }
        with atomic_write(self.folder / f"{self.name}_{name}.png") as part:
            fig.savefig(part, dpi=DPI, metadata=metadata)
            part.write_bytes(drop_alpha(part.read_bytes()))

    def save_gif(self, frames: Sequence[UInt8[np.ndarray, "h w 3"]], name: str, fps: float = 12) -> "Animation":
        """Writes OUT/NOTEBOOK_name.gif, which loops and pauses on its last frame for PAUSE_MS.

        A cell that ends with the returned Animation shows it. All frames have one size and share one palette of 256
        colours. ValueError if they do not fit together, or fps is not above 0.
        """
        check_positive(fps=fps)
        first, *rest = gif_frames(frames)
        path = self.folder / f"{self.name}_{name}.gif"
        durations = [round(1000 / fps)] * len(rest) + [max(PAUSE_MS, round(1000 / fps))]
        with atomic_write(path) as part:
            first.save(part, save_all=True, append_images=rest, duration=durations, loop=0)
        return Animation(path.name, path.read_bytes())

    def record(self, **numbers: Any) -> None:
        """Records numbers, strings, or lists of them for metrics.json. ValueError on NaN or infinity."""
        self.numbers |= {key: to_jsonable(key, value) for key, value in numbers.items()}

    def claim(self, text: str, *, thumbnail: str) -> None:
        """States what the notebook shows, for its row in the README.

        text:      names recorded numbers in braces, such as {joint_c2st:.2f}
        thumbnail: a picture that this run wrote, without the notebook's name, such as "ideal.png"
        """
        self.claims |= {"text": text, "thumbnail": f"{self.name}_{thumbnail}"}

    def must_show(self, **bounds: Bound) -> None:
        """States bounds of recorded numbers, (at least, at most); the tests hold figures/metrics.json against them.

        None in place of a limit: no limit; in place of a pair: recorded, whatever its value. ValueError on all else.
        """
        check_bounds(bounds)
        self.claims["bounds"] |= bounds

    def falls_short(self, **reasons: str) -> None:
        """States why recorded numbers do not keep their bounds yet. A test fails when one of them does."""
        self.claims["shortfalls"] |= reasons

    def finish(self) -> None:
        """Writes the recorded numbers to OUT/NOTEBOOK.metrics.json, and the claim to OUT/NOTEBOOK.claims.json.

        ValueError on a claim, a bound or a shortfall that names what was not recorded, or a picture that is not there.
        """
        check_claim(self.claims, self.numbers, self.folder, self.name)
        write_json(self.folder / f"{self.name}.metrics.json", self.numbers)
        write_json(self.folder / f"{self.name}.claims.json", self.claims)


class Animation:
    """A GIF that a notebook shows as an animated PNG.

    nbconvert and GitHub do not show an image/gif. JupyterLab prefers image/png to image/gif, so a still PNG beside the
    GIF would replace it there. Every browser plays an animated PNG, whose type is image/png.
    """

    def __init__(self, name: str, gif: bytes):
        self.name, self.gif = name, gif

    def _repr_png_(self) -> bytes:
        return animated_png(self.gif)

    def __repr__(self) -> str:
        with Image.open(io.BytesIO(self.gif)) as picture:
            return f"{self.name}: {picture.n_frames} frames of {picture.width} x {picture.height} pixels"


def animated_png(gif: bytes) -> bytes:
    """A GIF as an animated PNG with the same frames, colours and durations.

    A viewer that cannot play it shows the last frame. ValueError if the frames have more than 256 colours in all.
    """
    with Image.open(io.BytesIO(gif)) as picture:
        sequence = ImageSequence.Iterator(picture)
        frames = [(np.asarray(frame.convert("RGB")), frame.info.get("duration", 0)) for frame in sequence]
    codes = np.stack([pixels for pixels, _ in frames]).astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    colours, indices = np.unique(codes, return_inverse=True)
    if len(colours) > 256:
        raise ValueError(f"an animated PNG has at most 256 colours, got {len(colours)}: use Run.save_gif")
    palette = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], 1).astype(np.uint8)
    images = [Image.fromarray(frame) for frame in indices.reshape(codes.shape).astype(np.uint8)]
    for image in images:
        image.putpalette(palette.tobytes())
    moving = io.BytesIO()
    durations = [duration for _, duration in frames]
    animated = {"save_all": True, "default_image": True, "append_images": images, "duration": durations, "loop": 0}
    images[-1].save(moving, "png", optimize=True, **animated)
    return moving.getvalue()


def drop_alpha(picture: bytes) -> bytes:
    """A PNG without its alpha channel if every pixel is opaque. Colours, texts and resolution stay."""
    image = Image.open(io.BytesIO(picture))
    if image.mode != "RGBA" or image.getextrema()[3] != (255, 255):
        return picture
    texts = PngImagePlugin.PngInfo()
    for key, text in image.text.items():
        texts.add_text(key, text)
    small = io.BytesIO()
    image.convert("RGB").save(small, "png", optimize=True, pnginfo=texts, dpi=image.info.get("dpi"))
    return small.getvalue()


def notebook_names() -> list[str]:
    """The names of all notebooks, in their order."""
    return sorted(path.stem for path in (repo_root() / "notebooks" / "py").glob("[0-9][0-9]_*.py"))


def check_notebook(name: str) -> str:
    """The name itself, or a ValueError if there is no such notebook."""
    if name not in notebook_names():
        raise ValueError(f"unknown notebook {name!r}: notebooks/py holds {', '.join(notebook_names()) or 'none'}")
    return name


def check_profile(profile: str) -> str:
    """The profile itself, or a ValueError if there is none of that name."""
    if profile not in PROFILES:
        raise ValueError(f"unknown profile {profile!r}: choose one of {', '.join(PROFILES)}")
    return profile


def to_jsonable(key: str, value: Any) -> Any:
    """A number rounded to six significant digits, so that metrics.json changes seldom; lists item by item."""
    if hasattr(value, "tolist"):  # numpy and torch, arrays and scalars alike
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [to_jsonable(key, item) for item in value]
    if isinstance(value, bool | int | str):
        return value
    if not isinstance(value, float):
        raise ValueError(f"cannot record {key} of type {type(value).__name__}: give numbers, strings or lists of them")
    if not math.isfinite(value):
        raise ValueError(f"cannot record {key} = {value}: metrics.json holds finite numbers only")
    return float(f"{value:.6g}")


def gif_frames(frames: Sequence[UInt8[np.ndarray, "h w 3"]]) -> list[Image.Image]:
    """The frames as palette images that share one palette of 256 colours."""
    shapes = {frame.shape for frame in frames}
    if len(shapes) != 1 or any(frame.dtype != np.uint8 for frame in frames):
        raise ValueError(
            f"a GIF needs frames of one shape (H, W, 3) in uint8, got {sorted(map(str, shapes)) or 'none'}"
        )
    sample = frames[:: max(1, len(frames) // 8)]  # enough to choose the palette
    # a median cut spends its colours on large areas and would lose a small bright dot
    palette = Image.fromarray(np.concatenate(sample)).quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=1)
    return [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]


def pyproject() -> dict:
    """The [project] table of pyproject.toml, which holds the dependencies and the repository's address."""
    path = Path(__file__).parents[2] / "pyproject.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))["project"]


def badges(name: str) -> str:
    """Markdown badges that open the notebook in JupyterLab (after `make lab`), on Binder and on Colab."""
    url, path = pyproject()["urls"]["Repository"], f"notebooks/{name}.ipynb"
    repository = url.removeprefix("https://github.com/")
    links = [
        ("JupyterLab", "open-JupyterLab-f37726", f"http://localhost:8888/lab/tree/{path}"),
        (
            "Binder",
            "launch-Binder-579aca",
            f"https://mybinder.org/v2/gh/{repository}/HEAD?urlpath=lab/tree/{path}",
        ),
        (
            "Colab",
            "open_in-Colab-f9ab00",
            f"https://colab.research.google.com/github/{repository}/blob/main/{path}",
        ),
    ]
    return " ".join(f"[![{label}](https://img.shields.io/badge/{badge})]({link})" for label, badge, link in links)


def cost_text(name: str, profile: str, provenance: dict[str, Any] | None = None) -> str | None:
    """Cost of the last measured run, such as '2.1 minutes, 0.6 GB of memory'; None if there was none.

    provenance: where it is recorded; without it, figures/provenance.json
    """
    costs = read_json(repo_root() / "figures" / "provenance.json") if provenance is None else provenance
    record = costs.get(name, {}).get(profile)
    return record and f"{record['minutes']:.1f} minutes, {record['peak_gb']:.1f} GB of memory"


def header_text(name: str, provenance: dict[str, Any] | None = None) -> str:
    """The first lines of a notebook's output: badges and cost; `provenance` as for `cost_text`."""
    cpu, gpu = cost_text(name, "cpu", provenance), cost_text(name, "gpu", provenance)
    cost = f"about {cpu}, on one of two CPU cores" if cpu else "not measured yet"
    more = f"; from scratch on one GPU {gpu}" if gpu else ""
    return f"{badges(name)}\n\n**How long it takes:** {cost}{more}."


def colab_setup_cell() -> str:
    """The first code cell of every notebook but the first: does nothing outside of Google Colab.

    There it clones the repository, since weights and figures are no part of a wheel, and runs colab_setup.py. Colab
    shows the first line as a title, and hides the rest (cellView, see COLAB_METADATA).
    """
    project = pyproject()
    return f'''# @title Set-up for Google Colab (elsewhere idle)
import os, runpy, subprocess, sys

if "google.colab" in sys.modules:
    address, folder = "{project["urls"]["Repository"]}", "/content/{project["name"]}"
    if not os.path.isdir(folder):
        subprocess.run(["git", "clone", "--quiet", "--depth", "1", address, folder], check=True)
    runpy.run_path(f"{{folder}}/fwdiff_lite/pipeline/colab_setup.py", run_name="__main__")'''
