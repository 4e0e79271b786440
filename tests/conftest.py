"""Shapes are enforced in the tests: jaxtyping's annotations on the package's functions, by beartype."""

import os
from contextlib import contextmanager, nullcontext

import matplotlib as mpl
import pytest
from jaxtyping import config as jaxtyping_config
from jaxtyping import install_import_hook

for threads in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(threads, "1")  # two test processes share two cores

install_import_hook("fwdiff_lite", "typecheck.typechecker")


@contextmanager
def shape_checks_off():
    """Users run without beartype: where a test wants the package's own answer, no shapes are enforced."""
    before = jaxtyping_config.jaxtyping_disable
    jaxtyping_config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping_config.update("jaxtyping_disable", before)


@pytest.fixture
def no_shape_checks():
    """The whole test runs without shape checks."""
    with shape_checks_off():
        yield


@pytest.fixture(autouse=True)
def style_of_figures():
    """A test that sets the style of figures sets it for itself alone."""
    with mpl.rc_context():
        yield


@pytest.fixture(autouse=True, scope="session")
def value_errors_come_from_the_package():
    """No shape checks inside of `with pytest.raises(ValueError)`: beartype would answer before the package does."""
    raises = pytest.raises

    @contextmanager
    def raises_without_shape_checks(expected, **options):
        with shape_checks_off() if expected is ValueError else nullcontext(), raises(expected, **options) as error:
            yield error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pytest, "raises", raises_without_shape_checks)
        yield


TINY = """# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A tiny notebook

# %% tags=["parameters"]
PROFILE = "cpu"
STEPS = 3

# %%
import matplotlib.pyplot as plt
import torch
from fwdiff_lite.pipeline.notebook import Run

run = Run("{name}", PROFILE)
run.header()

# %%
x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
print(f"mean {{x.mean():.2f}}")
run.record(mean=x.mean(), threads=torch.get_num_threads())
run.record(steps=run.pick(smoke=1, cpu=2, gpu=3) * STEPS)

# %%
figure, axes = plt.subplots()
axes.plot(x[:50])
run.savefig(figure, "line")

# %%
{last}
run.claim("The mean is {{mean:.2f}}.", thumbnail="line.png")
run.must_show(mean=(-1, 1), steps=None)
run.finish()
"""


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A small checkout beside the real one: `checkout(**{"90_tiny": "..."})` writes notebooks that end so."""

    def make(**notebooks: str):
        folder = tmp_path / "notebooks" / "py"
        folder.mkdir(parents=True, exist_ok=True)
        for name, last in notebooks.items():
            (folder / f"{name}.py").write_text(TINY.format(name=name, last=last))
        return tmp_path

    monkeypatch.setenv("FWDIFF_ROOT", str(tmp_path))
    monkeypatch.delenv("FWDIFF_OUTPUT", raising=False)
    return make
