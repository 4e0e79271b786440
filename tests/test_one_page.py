"""The one page: short, self-contained, true to the equations, and trained without a single point."""

import ast
import io
import math
import re
import tokenize
from pathlib import Path

import matplotlib as mpl
import pytest
import torch

mpl.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402

from fwdiff_lite import plotting  # noqa: E402
from fwdiff_lite.observations import Observations  # noqa: E402
from fwdiff_lite.pipeline.hooks import one_page  # noqa: E402
from fwdiff_lite.pipeline.notebook import badges  # noqa: E402
from fwdiff_lite.sampling import reverse_step  # noqa: E402

PAGE = Path(__file__).parents[1] / "notebooks" / "py" / "00_one_page.py"
PARTS = re.split(r"^# %%(.*)\n", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
CELLS = list(zip(PARTS[::2], PARTS[1::2], strict=True))  # (rest of the line after %%, source)
PROSE = "".join(source for header, source in CELLS if "[markdown]" in header)
CODE = [source for header, source in CELLS if "[markdown]" not in header]
*PAGE_CELLS, SLIDER = CODE


def imported_packages(source):
    """The top-level packages that a cell imports."""
    packages = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            packages.add(node.module.split(".")[0])
    return packages


def variable_names(source):
    return {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}


@pytest.fixture(scope="module")
def page():
    """The names that the page defines, after a run in the smoke profile without the slider."""
    namespace = {"__name__": "one_page"}
    with torch.random.fork_rng(devices=[]), mpl.rc_context():
        for cell in PAGE_CELLS:
            exec(cell.replace('PROFILE = "cpu"', 'PROFILE = "smoke"'), namespace)
        yield namespace
    plt.close("all")


def test_at_most_135_lines_of_code():
    lines = [line.strip() for source in [*PAGE_CELLS, SLIDER] for line in source.splitlines()]
    assert len([line for line in lines if line and not line.startswith("#")]) <= 135
    for source in [*PAGE_CELLS, SLIDER]:  # nor are two statements put on one line
        assert ";" not in [token.string for token in tokenize.generate_tokens(io.StringIO(source).readline)]


def test_imports_torch_and_matplotlib_alone_and_widgets_in_the_last_cell_only():
    assert set().union(*map(imported_packages, PAGE_CELLS)) == {"torch", "matplotlib"}
    assert imported_packages(SLIDER) == {"ipywidgets"}
    assert not any(re.search(r"fwdiff_lite|\brun\.", cell) for cell in CODE), "no trace of the repository"


def test_badges_are_those_of_the_other_notebooks():
    shown = re.findall(r"\[!\[.*\)", PROSE)
    assert " ".join(shown) == badges("00_one_page")


def test_the_page_is_the_library_s_method_in_small(page):
    """Eq. 4, 5, 8, 9 and 6: the page's denoiser in the library's model has the page's losses and steps."""
    model = one_page.build_model(page)
    (context, target, novel), (phi, phi_target, phi_novel) = page["observe"](64)
    t, noise = torch.linspace(0.01, 0.99, 64), torch.randn(64)
    pairs = ((context, phi), (target, phi_target), (novel, phi_novel))
    views = [Observations(value[:, None], angle[:, None]) for value, angle in pairs]
    with torch.no_grad():
        noisy = page["alpha"](t) * target + page["sigma"](t) * noise
        S = page["denoise"](context, phi, noisy, phi_target, t)
        losses = model.loss(*views[:2], t, noise[:, None], views[2])
    torch.testing.assert_close(losses["target"], (target - page["forward"](S, phi_target)).square().mean())
    torch.testing.assert_close(losses["novel"], (novel - page["forward"](S, phi_novel)).square().mean())
    first, second, *_ = page["trajectory"](context, phi, noise)
    times = page["TIMES"][:2].tolist()
    observation = page["forward"](first[0], phi + torch.pi / 2)
    stepped = reverse_step(model.schedule, noise, observation, *times, 0.0, None)
    position = page["forward"](second[1], phi + torch.pi / 2)
    torch.testing.assert_close(position, stepped, atol=1e-5, rtol=1e-4)


def test_every_equation_of_the_method_is_marked_in_code_and_stated_in_prose():
    code = "".join(PAGE_CELLS)
    for number in (4, 5, 6, 8, 9):
        assert f"Eq. {number}" in code, f"no line of code is marked Eq. {number}"
        assert rf"\tag{{{number}}}" in PROSE, f"equation {number} is not stated"


def test_training_never_uses_a_point():
    (training,) = [cell for cell in PAGE_CELLS if "optimiser.step()" in cell]
    assert not variable_names(training) & {"sample_signals", "true_points", "sets"}
    (definition,) = [
        node
        for cell in PAGE_CELLS
        for node in ast.parse(cell).body
        if isinstance(node, ast.FunctionDef) and node.name == "observe"
    ]
    returned = ast.unparse(definition.body[-1])
    assert returned == "return (forward(sample_signals(n), phi), phi)"


def test_colours_are_those_of_every_other_notebook(page):
    shared = {"TRUE": "HIDDEN", "BASELINE": "MEAN"}
    for name in ("TRUE", "SAMPLES", "CONTEXT", "TARGET", "NOVEL", "BASELINE"):
        assert getattr(plotting, name) == page[shared.get(name, name)]


def test_every_sample_agrees_with_its_context(page):
    (context, *_), (phi, *_) = page["observe"](500)
    samples = page["sample"](context, phi)
    assert samples.shape == (500, 2) and samples.isfinite().all()
    assert (page["forward"](samples, phi) - context).abs().max() < 1e-5
    # Control: in another direction the projection differs.
    assert (page["forward"](samples, phi + 1) - context).abs().max() > 0.5


def test_samples_of_one_context_differ_and_their_first_predictions_agree(page):
    context, phi = torch.full((200,), 0.6), torch.full((200,), 1.6)
    assert page["sample"](context, phi).std(0).max() > 0.2
    assert page["sample"](context, phi, 0).std(0).max() < 0.02


def test_with_a_zero_network_the_signal_is_the_gaussian_posterior_mean(page, monkeypatch):
    """v ~ N(0, 1), noisy = alpha (o cos + v sin) + sigma eps: E[v | noisy] by completing the square."""
    monkeypatch.setitem(page, "net", lambda features: torch.zeros(len(features), 2, dtype=features.dtype))
    phi, psi, context, noisy, t = torch.rand(5, 50, dtype=torch.float64)
    S = page["denoise"](context, phi, noisy, psi, t)
    a, s = torch.cos(math.pi / 2 * t), torch.sin(math.pi / 2 * t)
    slope = a * torch.sin(psi - phi)
    v = slope * (noisy - a * torch.cos(psi - phi) * context) / (slope**2 + s**2)
    torch.testing.assert_close(page["forward"](S, phi + math.pi / 2), v)


def test_opposite_directions_give_the_same_signal(page):
    (context, target, _), (phi, psi, _) = page["observe"](100)
    t = torch.full((100,), 0.4)
    with torch.no_grad():
        S = page["denoise"](context, phi, target, psi, t)
        opposite_context = page["denoise"](-context, phi + torch.pi, target, psi, t)
        opposite_target = page["denoise"](context, phi, -target, psi + torch.pi, t)
        wrong_context = page["denoise"](-context, phi, target, psi, t)
    torch.testing.assert_close(opposite_context, S, atol=1e-4, rtol=0)
    torch.testing.assert_close(opposite_target, S, atol=1e-4, rtol=0)
    assert (wrong_context - S).abs().max() > 0.1


def test_noise_levels_and_posterior_std_at_their_limits(page):
    zero, one, right_angle = torch.tensor(0.0), torch.tensor(1.0), torch.tensor(torch.pi / 2)
    assert page["alpha"](zero) == 1 and page["sigma"](one) == 1
    t = torch.linspace(0, 1, 11)
    torch.testing.assert_close(page["alpha"](t) ** 2 + page["sigma"](t) ** 2, torch.ones(11))
    assert page["posterior_std"](zero, right_angle) == 0 and page["posterior_std"](one, right_angle) == 1
    assert page["posterior_std"](torch.tensor(0.1), zero) == 1  # a target parallel to the context is no new information


def test_with_an_exact_denoiser_the_sampler_ends_at_the_truth(page, monkeypatch):
    """With a denoiser that returns the true S, the noisy target ends at S's observation plus the smallest noise."""
    S = page["sample_signals"](300)
    phi = torch.pi * torch.rand(300)
    monkeypatch.setitem(page, "denoise", lambda *_: S)
    context = page["forward"](S, phi)
    *_, (signal, noisy) = page["trajectory"](context, phi, torch.randn(300))
    assert torch.equal(signal, S)
    assert (noisy - S).abs().max() < 0.02


def test_moving_the_slider_moves_the_samples_and_moving_it_back_restores_them(page):
    pytest.importorskip("ipywidgets")
    exec(SLIDER, page)

    def plotted_samples(**options):
        page["show_samples"](**options)
        return torch.tensor(plt.gcf().axes[0].collections[-1].get_offsets().data)

    initial = plotted_samples(degrees=92)
    assert (plotted_samples(degrees=40) - initial).abs().max() > 0.5
    assert (plotted_samples(degrees=92, observed=-0.6) - initial).abs().max() > 0.5
    assert (plotted_samples(degrees=92, step=0) - initial).abs().max() > 0.1
    assert torch.equal(plotted_samples(degrees=92), initial)
