"""The runner, on small notebooks in a small checkout: what it puts in place, and what it leaves alone."""

import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from base64 import b64decode, b64encode
from pathlib import Path

import nbformat
import numpy as np
import psutil
import pytest
from IPython.core.formatters import DisplayFormatter
from PIL import Image, ImageSequence, PngImagePlugin

from fwdiff_lite.pipeline import notebook
from fwdiff_lite.pipeline.execution import clean_outputs
from fwdiff_lite.pipeline.notebook import HEADER, Run, animated_png, badges, gif_frames, header_text, to_jsonable
from fwdiff_lite.pipeline.pairs import read_source
from fwdiff_lite.pipeline.readme import render, update_readme
from fwdiff_lite.pipeline.reproduce import main, record_total
from fwdiff_lite.pipeline.signals import SIGNALS, Stop, defer_signals, handle_signals

PICTURE = '<img src="figures/90_tiny_line.png" width="220">'


def files(folder: Path) -> dict[str, bytes]:
    """Every file outside build/, with its content."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if "build" not in path.parts}


def test_committed_run_puts_everything_in_place(checkout, capsys):
    folder = checkout(**{"90_tiny": "1 + 1", "91_other": "2"})
    (folder / "figures").mkdir()
    (folder / "figures" / "90_tiny_gone.png").write_bytes(b"a picture that the notebook no longer makes")
    (folder / "figures" / "metrics.json").write_text('{"91_other": {"mean": 7}, "89_removed": {"mean": 1}}')
    (folder / "README.md").write_text("<!-- generated: notebooks -->\n<!-- end -->\n")
    abandoned = folder / "build" / "running-by-a-killed-process"
    abandoned.mkdir(parents=True)
    np.ones(200_000_000)  # 1.6 GB of this process, which is not the notebook's
    assert main(["--only", "90"]) == 0

    assert set(files(folder)) == {
        "notebooks/py/90_tiny.py",
        "notebooks/py/91_other.py",
        "notebooks/90_tiny.ipynb",
        "README.md",
        "figures/90_tiny_line.png",
        "figures/claims.json",
        "figures/metrics.json",
        "figures/provenance.json",
    }
    metrics = json.loads((folder / "figures" / "metrics.json").read_text())
    assert metrics["91_other"] == {"mean": 7}, "--only keeps the other notebooks' numbers"
    assert "89_removed" not in metrics
    assert metrics["90_tiny"]["steps"] == 6
    assert metrics["90_tiny"]["threads"] == 1, "torch follows OMP_NUM_THREADS"
    claim = json.loads((folder / "figures" / "claims.json").read_text())["90_tiny"]
    assert claim["bounds"] == {"mean": [-1, 1], "steps": None}
    row = f"{PICTURE} | [90_tiny](notebooks/90_tiny.ipynb) | The mean is {metrics['90_tiny']['mean']:.2f}. | 0."
    assert row in (folder / "README.md").read_text(), "a new notebook needs no other edit"
    picture = Image.open(folder / "figures" / "90_tiny_line.png")
    assert picture.text["Source"] == "notebooks/90_tiny.ipynb, profile cpu"
    cost = json.loads((folder / "figures" / "provenance.json").read_text())["90_tiny"]["cpu"]
    assert 0 < cost["minutes"] < 5 and 0.1 < cost["peak_gb"] < 1.5 and len(cost["cells"]) == 5
    assert list((folder / "build").glob("running-*")) == []
    assert "90_tiny: done" in capsys.readouterr().out

    done = nbformat.read(folder / "notebooks" / "90_tiny.ipynb", as_version=4)
    source = read_source("90_tiny")
    assert [(c.cell_type, c.source, c.id) for c in done.cells] == [(c.cell_type, c.source, c.id) for c in source.cells]
    assert [c.execution_count for c in done.cells if c.cell_type == "code"] == [1, 2, 3, 4, 5]
    assert set(done.metadata) == {"kernelspec", "language_info"}
    assert all(set(cell.metadata) <= {"cellView", "tags"} for cell in done.cells)
    data = [output["data"] for cell in done.cells for output in cell.get("outputs", []) if "data" in output]
    opening = next(item["text/markdown"] for item in data if "text/markdown" in item)
    assert opening == header_text("90_tiny"), "it states the minutes just measured"
    assert "not measured" not in header_text("90_tiny")


def test_smoke_run_touches_nothing_but_its_output(checkout, tmp_path_factory, monkeypatch, capsys):
    """In a checkout that cannot be written, with a path beyond ASCII, and a locale that knows only ASCII."""
    folder, output = checkout(**{"90_tiny": "1 + 1"}), tmp_path_factory.mktemp("Ausgabe für später")
    (folder / "build").write_text("a file, in place of a folder that cannot be written")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("vorläufig")))
    monkeypatch.setenv("LC_ALL", "C")
    before = files(folder)
    assert main(["--profile", "smoke", "--output", str(output), "-p", "STEPS", "5"]) == 0
    assert files(folder) == before
    elsewhere = Path(tempfile.tempdir) / f"fwdiff-lite-{os.getuid()}"
    assert f"build cannot be written: File exists; temporary files go to {elsewhere}\n" in capsys.readouterr().out
    assert list(elsewhere.iterdir()) == []
    assert json.loads((output / "metrics.json").read_text())["90_tiny"]["steps"] == 5
    assert {"90_tiny.ipynb", "90_tiny_line.png", "provenance.json"} <= {path.name for path in output.iterdir()}


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--profile", "quick"], "unknown profile 'quick': choose one of smoke, cpu, gpu"),
        (["--only", "42"], "unknown notebook '42': notebooks/py holds 90_tiny"),
        (
            ["--profile", "smoke", "-p", "SPEED", "5"],
            "90_tiny has no parameter 'SPEED': it has PROFILE, STEPS",
        ),
        (["--profile", "smoke", "-p", "PROFILE", "quick"], "unknown profile 'quick'"),
        (["-p", "STEPS", "5"], "the committed run takes no parameters"),
        (["--jobs", "0"], "--jobs is 0: at least one notebook must run at a time"),
        (["--jobs", "two"], "argument --jobs: invalid int value: 'two'"),
        (["--speed", "5"], "unrecognized arguments: --speed 5"),
    ],
)
def test_bad_arguments(checkout, capsys, arguments, message):
    folder = checkout(**{"90_tiny": "1"})
    before = files(folder)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1
    assert files(folder) == before and not (folder / "build").exists()


def test_notebook_without_its_parameter(checkout, capsys):
    folder = checkout(**{"90_tiny": "1"})
    source = folder / "notebooks" / "py" / "90_tiny.py"
    source.write_text(source.read_text().replace(' tags=["parameters"]', ""))
    assert main(["--profile", "smoke"]) == 2
    assert "90_tiny has 0 cells tagged 'parameters'" in capsys.readouterr().err


def test_failure_leaves_the_old_results(checkout, capsys):
    """A cell that raises, a process that dies and leaves an empty output, a place that is taken; the other is well."""
    die = "import os\nos.truncate(run.folder.parent / 'output.ipynb', 0)\nos.kill(os.getppid(), 9)"
    folder = checkout(
        **{"90_tiny": "raise RuntimeError('no such luck')", "91_dead": die, "92_taken": "1", "93_other": "2"}
    )
    (folder / "figures" / "92_taken_line.png").mkdir(parents=True)
    (folder / "figures" / "90_tiny_line.png").write_bytes(b"old")
    assert main([]) == 1
    error = capsys.readouterr().err
    assert "90_tiny: FAILED: cell 5: RuntimeError: no such luck (log: " in error
    assert f"91_dead: FAILED: papermill was killed by SIGKILL (log: {folder}/build/log/91_dead.txt)\n" in error
    assert f"92_taken: FAILED: {folder}/figures/92_taken_line.png cannot be written: Is a directory\n" in error
    assert error.count("\n") == 3 and (folder / "build" / "log" / "91_dead.txt").exists()
    assert (folder / "figures" / "90_tiny_line.png").read_bytes() == b"old"
    assert [path.name for path in (folder / "notebooks").glob("*.ipynb")] == ["93_other.ipynb"]
    assert {path.name for path in (folder / "figures").iterdir()} == {
        "90_tiny_line.png", "92_taken_line.png", "93_other_line.png", "claims.json", "metrics.json", "provenance.json"
    }  # fmt: skip
    for record in ("metrics", "provenance"):
        assert set(json.loads((folder / "figures" / f"{record}.json").read_text())) == {"93_other"}


def test_pictures_are_demanded(checkout, capsys):
    folder = checkout(**{"90_tiny": "1", "91_other": "(run.folder / 'stray.txt').write_text('x')"})
    source = folder / "notebooks" / "py" / "90_tiny.py"
    lines = source.read_text().replace('run.savefig(figure, "line")', "plt.close(figure)").splitlines()
    source.write_text("\n".join(line for line in lines if not line.startswith("run.claim")) + "\n")
    assert main(["--profile", "smoke"]) == 1
    error = capsys.readouterr().err
    assert "90_tiny: FAILED: it made no picture" in error
    assert "91_other: FAILED: wrote stray.txt" in error


def test_lost_kernel_is_tried_once_more(checkout, capsys):
    once = "import os\nif not os.path.exists('m'):\n    open('m', 'w').close()\n    os.kill(os.getpid(), 9)"
    folder = checkout(**{"90_tiny": once, "91_other": "import os; os.kill(os.getpid(), 9)"})
    assert main(["--profile", "smoke"]) == 1
    said = capsys.readouterr()
    assert said.out.count("its kernel was lost, trying once more") == 2
    assert "90_tiny: done" in said.out
    assert "91_other: FAILED: its kernel was lost twice" in said.err
    assert not (folder / "build" / "smoke" / "91_other.ipynb").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_interrupted(checkout, number):
    """Stopped in the middle of a cell: one line, no half-written file, no process left; SIGINT is another SIGTERM."""
    half = "(run.folder / '90_tiny_half.png').write_bytes(b'x')\nimport time\ntime.sleep(600)"
    folder = checkout(**{"90_tiny": half})
    before = files(folder)
    runner = subprocess.Popen(
        [sys.executable, "-m", "fwdiff_lite.pipeline.reproduce"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(notebook.__file__).parents[1])},
    )
    try:
        deadline = time.monotonic() + 120
        while not list(folder.glob("build/running-*/90_tiny/out/90_tiny_half.png")):
            assert runner.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)
        family = psutil.Process(runner.pid).children(recursive=True)
        assert len(family) >= 2, "papermill and its kernel"
        runner.send_signal(number)
        _, error = runner.communicate(timeout=60)
    finally:
        runner.kill()
    assert files(folder) == before
    if number == signal.SIGKILL:
        assert runner.returncode == -number
        _, left = psutil.wait_procs(family, timeout=20)
    else:
        assert runner.returncode == 128 + number
        assert error.splitlines()[-1] == f"stopped by {number.name}: notebooks not reported as done are as they were"
        assert "Traceback" not in error
        assert list((folder / "build").iterdir()) == []
        left = family
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in left)


@pytest.mark.parametrize("number", SIGNALS)
def test_signals_stop_the_runner_but_not_in_the_middle_of_publishing(number):
    published = []
    with pytest.raises(Stop) as stop, handle_signals():
        with defer_signals():
            os.kill(os.getpid(), number)
            published.append("whole")
        published.append("more")
    assert stop.value.signal == number and published == ["whole"]


def test_outputs_are_cleaned():
    stream = [nbformat.v4.new_output("stream", name="stdout", text=text) for text in ("a", "b")]
    widget = nbformat.v4.new_output("display_data", {"application/vnd.jupyter.widget-view+json": {}})
    assert [output.text for output in clean_outputs([*stream, widget])] == ["ab"]


@pytest.mark.parametrize("alpha, mode", [(255, "RGB"), (254, "RGBA")])
def test_pictures_lose_an_alpha_channel_that_tells_nothing(alpha, mode):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 9, 4), np.uint8)
    pixels[..., 3] = 255
    pixels[0, 0, 3] = alpha
    written, origin = io.BytesIO(), PngImagePlugin.PngInfo()
    origin.add_text("Source", "here")
    Image.fromarray(pixels).save(written, "png", pnginfo=origin, dpi=(110, 110))
    data = {"image/png": b64encode(written.getvalue()).decode()}
    (output,) = clean_outputs([nbformat.v4.new_output("display_data", data)])
    image = Image.open(io.BytesIO(b64decode(output.data["image/png"])))
    assert image.mode == mode and image.text == {"Source": "here"}
    assert image.info["dpi"] == pytest.approx((110, 110), abs=0.1)
    assert np.array_equal(image.convert("RGB"), pixels[..., :3])


def test_cell_ids_follow_from_the_source(checkout):
    checkout(**{"90_tiny": "1"})
    ids = [cell.id for cell in read_source("90_tiny").cells]
    assert ids == [cell.id for cell in read_source("90_tiny").cells] and len(set(ids)) == 6


def test_run(checkout):
    folder = checkout(**{"90_tiny": "1"})
    run = Run("90_tiny", "smoke")
    assert run.pick(smoke=1, cpu=2, gpu=3) == 1
    assert run.folder == folder / "build" / "figures", "a reader's run never touches figures/"
    assert "not measured yet" in run.header().data and badges("90_tiny") in run.header().data
    assert HEADER in run.header().metadata
    run.record(number=np.float32(0.5), words=["a"], several=np.arange(3))
    run.finish()
    assert json.loads((run.folder / "90_tiny.metrics.json").read_text()) == {
        "number": 0.5,
        "several": [0, 1, 2],
        "words": ["a"],
    }
    frames = [np.full((8, 8, 3), shade, np.uint8) for shade in (0, 128, 255)]
    shown = run.save_gif(frames, "fade", fps=10)
    picture = Image.open(run.folder / "90_tiny_fade.gif")
    assert picture.n_frames == 3
    assert [frame.info["duration"] for frame in ImageSequence.Iterator(picture)] == [100, 100, 1500]
    assert repr(shown) == "90_tiny_fade.gif: 3 frames of 8 x 8 pixels"
    data, _ = DisplayFormatter().format(shown)
    assert set(data) == {"image/png", "text/plain"}
    as_sent = {"image/png": b64encode(data["image/png"]).decode()}
    (output,) = clean_outputs([nbformat.v4.new_output("display_data", as_sent)])
    assert b64decode(output.data["image/png"]) == data["image/png"], "cleaning leaves it alone"


@pytest.mark.parametrize("count", [1, 6])
def test_animated_png_has_the_frames_of_its_gif(count):
    frames = np.random.default_rng(0).integers(0, 8, (count, 9, 7, 3), np.uint8) * 30
    first, *rest = gif_frames(list(frames))
    gif = io.BytesIO()
    first.save(gif, "gif", save_all=True, append_images=rest, duration=40, loop=0)
    before = [frame.convert("RGB") for frame in ImageSequence.Iterator(Image.open(gif))]
    picture = Image.open(io.BytesIO(animated_png(gif.getvalue())))
    still, *after = [frame.convert("RGB") for frame in ImageSequence.Iterator(picture)]
    assert [frame.tobytes() for frame in after] == [frame.tobytes() for frame in before]
    assert still.tobytes() == before[-1].tobytes(), "where nothing can move, the last frame"
    assert picture.info["loop"] == 0 and picture.info["duration"] == pytest.approx(40)


def test_bad_use_of_run(checkout):
    checkout(**{"90_tiny": "1"})
    with pytest.raises(ValueError, match="unknown profile 'quick': choose one of smoke, cpu, gpu"):
        Run("90_tiny", "quick")
    with pytest.raises(ValueError, match="unknown notebook '42_none': notebooks/py holds 90_tiny"):
        Run("42_none", "cpu")
    with pytest.raises(ValueError, match="cannot record c2st = nan"):
        Run("90_tiny", "cpu").record(c2st=float("nan"))
    with pytest.raises(ValueError, match="cannot record c2st of type object"):
        to_jsonable("c2st", object())
    with pytest.raises(ValueError, match="an animated PNG has at most 256 colours, got 300"):
        many = io.BytesIO()
        ramp = np.arange(300)
        colours = np.stack([ramp // 2, ramp % 2, 0 * ramp], 1).astype(np.uint8).reshape(2, 1, 150, 3)
        first, second = map(Image.fromarray, colours)
        first.save(many, "gif", save_all=True, append_images=[second])
        animated_png(many.getvalue())
    with pytest.raises(ValueError, match="a GIF needs frames of one shape"):
        gif_frames([np.zeros((4, 4, 3), np.uint8), np.zeros((5, 4, 3), np.uint8)])


def test_readme_parts_are_generated(checkout):
    folder = checkout(**{"90_tiny": "1"})
    text = "<!-- generated: notebooks -->\nold\n<!-- end -->\nkept\n<!-- generated: times -->\n<!-- end -->\n"
    (folder / "figures").mkdir()
    (folder / "figures" / "provenance.json").write_text(
        '{"90_tiny": {"cpu": {"minutes": 1.26, "peak_gb": 0.5}},'
        ' "make test": {"minutes": 7.0, "install_minutes": 1.0, "cores": 2}}'
    )
    new = render(text)
    assert "old" not in new and "kept" in new and render(new) == new
    assert (
        "[90_tiny](notebooks/90_tiny.ipynb) | *not measured yet: run `make reproduce`* | 1.3 minutes, 0.5 GB of memory"
        in new
    )
    assert "`make test` took 8.0 minutes on 2 CPU cores, 1.0 of them" in new
    assert "`make reproduce`: not measured yet" in new


def test_readme_takes_in_the_minutes_of_make_test(checkout):
    folder = checkout(**{"90_tiny": "1"})
    record_total(folder / "build" / "test.json", "make test", 540.0)
    (folder / "build" / "durations.json").write_text('{"tests/test_a.py::test_b": 4}')
    (folder / "README.md").write_text("<!-- generated: times -->\n<!-- end -->\n")
    update_readme()
    install = json.loads((folder / "figures" / "provenance.json").read_text())["make test"]["install_minutes"]
    assert f"`make test` took {9 + install:.1f} minutes" in (folder / "README.md").read_text()
    assert json.loads((folder / "tests" / "durations.json").read_text()) == {"tests/test_a.py::test_b": 4}
